//! What goes into and comes out of [`crate::Database`]: requests, answers, and the pictures of streams and views.

use std::ops::AddAssign;
use std::time::Instant;

use bytes::Bytes;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use logcore::materialize::DeadLetter;
use logcore::partition::PartitionStatus;
use logcore::{AckClass, ProducerSequence};
use serde::Serialize;

use crate::position::Cut;

/// One or several statements.
#[derive(Clone, Debug)]
pub struct SqlRequest {
    /// Statements separated by `;`.
    pub sql: String,
    /// Values for `$1`, `$2`, ...: JSON null, booleans, numbers and strings.
    pub params: Vec<serde_json::Value>,
    /// Answer only once this is visible.
    pub wait: Cut,
    /// Give up then.
    pub deadline: Instant,
    /// The session it belongs to; none: the request is one by itself.
    pub session: Option<String>,
}

/// What one statement came to.
pub enum SqlAnswer {
    /// Rows, still to be computed as the stream is drained.
    Rows(Rows),
    /// A change of data: how many rows, and where it stands in the log; no position when nothing changed.
    Written {
        /// Rows inserted, updated or deleted.
        affected: u64,
        /// The last record of the change.
        position: Option<Cut>,
    },
    /// A change of definitions.
    Done {
        /// What was done, as PostgreSQL tags it: `CREATE TABLE`.
        tag: &'static str,
        /// Where the definition stands in the log.
        position: Option<Cut>,
    },
}

/// The rows of a SELECT.
pub struct Rows {
    /// Names and types of the columns.
    pub schema: SchemaRef,
    /// The rows, in order, in bounded batches.
    pub stream: SendableRecordBatchStream,
    /// The state that the statement sees.
    pub cut: Cut,
    /// What the statement changed, if these are the rows of its RETURNING.
    pub written: Option<Written>,
}

/// What a statement changed.
#[derive(Clone, Debug)]
pub struct Written {
    /// Rows inserted, updated or deleted.
    pub affected: u64,
    /// The last record of the change; `None` when nothing changed, and inside a transaction.
    pub position: Option<Cut>,
}

/// A record to append.
#[derive(Clone, Debug, Default)]
pub struct AppendRecord {
    /// Chooses the partition and names what the record is about.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Names and values.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since 1970; now if absent.
    pub timestamp: Option<i64>,
    /// Overrides the choice by key.
    pub partition: Option<u32>,
    /// Append only if this is so of the key; all records of the request then go to one partition.
    pub expect: Option<Expect>,
}

/// What whoever appends knows of a key of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It has no record.
    NoRecord,
    /// Its last record has this offset.
    Last(u64),
}

/// Records to append, and how.
#[derive(Clone, Debug)]
pub struct AppendRequest {
    /// In this order within each partition.
    pub records: Vec<AppendRecord>,
    /// The least acknowledgement class; the stream's own still applies if it is stronger.
    pub ack: Option<AckClass>,
    /// Who sends it, so that it is known when it is sent again; all records then go to one partition.
    pub producer: Option<ProducerSequence>,
    /// Give up then.
    pub deadline: Instant,
}

impl AppendRequest {
    /// Appends `records` as the stream says.
    #[must_use]
    pub fn new(records: Vec<AppendRecord>, deadline: Instant) -> Self {
        Self { records, ack: None, producer: None, deadline }
    }
}

/// Where records were appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendAnswer {
    /// The last record of each partition.
    pub position: Cut,
    /// The class that was met, the weakest of all partitions.
    pub ack: AckClass,
    /// It was in the log already: its producer sent it again.
    pub duplicate: bool,
}

/// Where to begin reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// At this offset, inclusive.
    Offset(u64),
    /// At the first record at or after this time, in milliseconds since 1970.
    Timestamp(i64),
    /// At the first record that is kept.
    Earliest,
    /// Behind the newest record.
    Latest,
}

/// Bounds of one read.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Records at most.
    pub records: usize,
    /// Bytes of records, about; at least one record is given.
    pub bytes: usize,
    /// With nothing to read, wait until then for the first record.
    pub wait_until: Option<Instant>,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its offset.
    pub offset: u64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The key's bytes.
    pub key: Option<Bytes>,
    /// The value's bytes, as they were sent.
    pub value: Option<Bytes>,
    /// Names and values.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// What one read gives.
#[derive(Clone, Debug)]
pub struct ReadPage {
    /// In offset order.
    pub records: Vec<StoredRecord>,
    /// Where the next read goes on.
    pub next_offset: u64,
    /// Exclusive: the committed end when it was read.
    pub end_offset: u64,
}

/// A stream and its partitions.
#[derive(Clone, Debug, Serialize)]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// The acknowledgement class.
    pub ack: AckClass,
    /// How batches built here are compressed.
    pub compression: String,
    /// What records are dropped for: `none`, an age such as `7 days`, `consumed` or `ring`.
    pub retention: String,
    /// Bytes of a partition beyond which its oldest segments may go.
    pub retention_bytes: Option<u64>,
    /// Records of a partition beyond which its oldest segments may go.
    pub retention_records: Option<u64>,
    /// Whether only the last record of each key is kept.
    pub compact: bool,
    /// How long a tombstone outlives its key.
    pub tombstone_grace: String,
    /// Length of a segment file.
    pub segment_bytes: u64,
    /// With `ack = 'memory'`: what is only in RAM goes to the disk at the latest after this long.
    pub flush_interval: String,
    /// Over all partitions.
    pub totals: StreamTotals,
    /// One picture per partition, in order.
    pub partitions: Vec<PartitionInfo>,
}

/// The sums over the partitions of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamTotals {
    /// Offsets that are kept; after compaction not each has a record.
    pub records: u64,
    /// Bytes of records and frames on disk.
    pub bytes: u64,
    /// Segment files.
    pub segments: u64,
    /// Segments of which at least a part is in RAM.
    pub ram_segments: u64,
    /// Chunks in RAM.
    pub ram_chunks: u64,
    /// Their bytes.
    pub ram_bytes: u64,
    /// Reads that found what they wanted in RAM.
    pub ram_hits: u64,
    /// Reads that went to a file.
    pub ram_misses: u64,
    /// Records that are committed and not durable yet.
    pub unflushed_records: u64,
}

impl StreamTotals {
    pub(crate) fn of<'a>(partitions: impl IntoIterator<Item = &'a PartitionStatus>) -> Self {
        let mut totals = Self::default();
        for status in partitions {
            totals += Self {
                records: status.log_start.records_until(status.committed),
                bytes: status.bytes,
                segments: status.segments as u64,
                ram_segments: status.ram_segments as u64,
                ram_chunks: status.ram_chunks as u64,
                ram_bytes: status.ram_bytes,
                ram_hits: status.ram_hits,
                ram_misses: status.ram_misses,
                unflushed_records: status.unflushed_records,
            };
        }
        totals
    }
}

impl AddAssign for StreamTotals {
    fn add_assign(&mut self, other: Self) {
        let Self { records, bytes, segments, ram_segments, ram_chunks, ram_bytes, ram_hits, ram_misses, unflushed_records } =
            other;
        self.records += records;
        self.bytes += bytes;
        self.segments += segments;
        self.ram_segments += ram_segments;
        self.ram_chunks += ram_chunks;
        self.ram_bytes += ram_bytes;
        self.ram_hits += ram_hits;
        self.ram_misses += ram_misses;
        self.unflushed_records += unflushed_records;
    }
}

/// The RAM tier of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RamInfo {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes it may use.
    pub budget_bytes: u64,
    /// Chunks that hold records.
    pub chunks: u64,
    /// Reads that found what they wanted in RAM.
    pub hits: u64,
    /// Reads that went to a file.
    pub misses: u64,
}

/// A partition of a [`StreamInfo`].
#[derive(Clone, Debug, Serialize)]
pub struct PartitionInfo {
    /// Its number.
    pub partition: u32,
    /// The watermark chain and sizes.
    #[serde(flatten)]
    pub status: PartitionStatus,
}

/// A view and how far it is.
#[derive(Clone, Debug, Serialize)]
pub struct ViewInfo {
    /// The table's name.
    pub name: String,
    /// `row`, `document` or `series`.
    pub kind: &'static str,
    /// The stream it is built from.
    pub stream: String,
    /// The generation that serves.
    pub generation: u64,
    /// `running`, `stopped` or `rebuilding`.
    pub state: &'static str,
    /// Why it stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Records between committed and applied, over all partitions.
    pub lag_records: u64,
    /// For how long a partition has been behind without a break; the largest of them.
    pub lag_seconds: f64,
    /// Records left out, over all partitions.
    pub dead_letters: u64,
    /// The newest of them, as `stream/partition@offset` and reason.
    pub recent_dead_letters: Vec<DeadLetterInfo>,
    /// One picture per partition.
    pub partitions: Vec<ViewPartitionInfo>,
    /// The rebuild that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<RebuildInfo>,
}

/// A view of one partition.
#[derive(Clone, Debug, Serialize)]
pub struct ViewPartitionInfo {
    /// The partition's number.
    pub partition: u32,
    /// Exclusive: durable by itself.
    pub checkpointed: u64,
    /// Exclusive: applied.
    pub applied: u64,
    /// Exclusive: seen by readers.
    pub visible: u64,
    /// Exclusive: the log's committed end.
    pub committed: u64,
    /// The table can be read as the records below this offset left it, and at any later one; only row tables forget.
    pub kept_from: u64,
}

/// A record that a view left out.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterInfo {
    /// `stream/partition@offset`.
    pub position: String,
    /// Why.
    pub reason: String,
}

impl DeadLetterInfo {
    pub(crate) fn new(stream: &str, partition: u32, letter: &DeadLetter) -> Self {
        Self { position: format!("{stream}/{partition}@{}", letter.offset), reason: letter.reason.clone() }
    }
}

/// How far a rebuild is.
#[derive(Clone, Debug, Serialize)]
pub struct RebuildInfo {
    /// The generation being built.
    pub generation: u64,
    /// Records applied so far.
    pub records: u64,
    /// Records there are.
    pub records_total: u64,
    /// Records applied per second since it began or resumed.
    pub records_per_second: f64,
    /// At this rate; none before the first record.
    pub seconds_to_go: Option<f64>,
}
