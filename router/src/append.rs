//! Appending to streams: one atomic batch per partition, answered when its acknowledgement class is met.
//!
//! Every door's records come through [`Database::append_with`]; those that [`expect`] something of their keys are judged first.
//! In a stream where anybody does, all appends say what keys they write ([`tracking`]).
//!
//! # Invariants
//! Everything that can be refused is refused before the first batch is on its way; what is on its way is finished, also when the
//! client vanishes ([`finishing`]).

mod expect;
pub(crate) mod finishing;
pub(crate) mod tracking;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use logcore::{
    AckClass, BatchBuilder, ErrorKind, NewRecord, Partition, PartitionRef, Proposal, StreamId, TimestampMillis, sys::clock,
};

use self::finishing::Finishing;
use crate::answer::{AppendAnswer, AppendRecord, AppendRequest};
use crate::catalog::StreamDef;
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::key_hash::key_hash;
use crate::partitioner::by_key;
use crate::position::Cut;

/// Why an append failed, and what of it was appended all the same: its other partitions.
#[derive(Debug)]
pub struct AppendError {
    /// What went wrong.
    pub error: Error,
    /// The last record appended to each partition that took its batch.
    pub appended: Cut,
    /// How many records that are.
    pub records: u64,
}

impl From<Error> for AppendError {
    fn from(error: Error) -> Self {
        Self { error, appended: Cut::new(), records: 0 }
    }
}

impl From<AppendError> for Error {
    fn from(failed: AppendError) -> Self {
        if failed.appended.is_empty() {
            return failed.error;
        }
        let message = format!("{}; what is at {} was appended", failed.error.message(), failed.appended);
        Self::new(failed.error.code(), failed.error.kind(), message)
    }
}

/// Where the next record without a key goes; shared by all streams, which evens out all the same.
static NEXT_PARTITION: AtomicU32 = AtomicU32::new(0);

/// A batch on its way to one partition.
struct Prepared {
    partition: u32,
    records: u64,
    log: Arc<Partition>,
    proposal: Proposal,
}

/// A batch being built, and its keys.
#[derive(Default)]
struct Gathered {
    batch: BatchBuilder,
    keys: Vec<Bytes>,
}

/// Queues one batch after the other and waits for all.
async fn send(stream: String, prepared: Vec<Prepared>, least: AckClass, deadline: Instant) -> Result<AppendAnswer, AppendError> {
    let mut tickets = Vec::with_capacity(prepared.len());
    for Prepared { partition, records, log, proposal } in prepared {
        tickets.push((partition, records, log.append(proposal, deadline).await));
    }
    let (mut position, mut met, mut duplicate) = (Cut::new(), None::<AckClass>, false);
    let (mut appended_records, mut failed) = (0, None);
    for (partition, records, ticket) in tickets {
        let appended = match ticket {
            Ok(ticket) => ticket.committed().await,
            Err(error) => Err(error),
        };
        match appended {
            Ok(appended) => {
                position.raise(&stream, partition, appended.end_offset());
                met = Some(met.map_or(appended.ack, |met| met.min(appended.ack)));
                duplicate |= appended.duplicate;
                appended_records += records;
            }
            Err(error) => failed = Some(Error::from(error)),
        }
    }
    match failed {
        None => Ok(AppendAnswer { position, ack: met.unwrap_or(least), duplicate }),
        Some(error) => Err(AppendError { error, appended: position, records: appended_records }),
    }
}

/// The partition that a record asks for, by number or by its key; none: any.
fn partition_of(def: &StreamDef, n: usize, record: &AppendRecord) -> Result<Option<u32>> {
    match (record.partition, &record.key) {
        (Some(partition), _) if partition < def.partitions => Ok(Some(partition)),
        (Some(partition), _) => {
            let message = format!("record {n}: stream \"{}\" has no partition {partition}", def.name);
            Err(Error::invalid(message).hint(format!("it has {}, counted from 0", def.partitions)))
        }
        (None, Some(key)) => Ok(Some(by_key(key, def.partitions))),
        (None, None) => Ok(None),
    }
}

/// The partition that all records of a request must go to; none: each where it belongs.
fn home(def: &StreamDef, request: &AppendRequest) -> Result<Option<u32>> {
    let expects = request.records.iter().any(|record| record.expect.is_some());
    if request.producer.is_none() && !expects {
        return Ok(None);
    }
    for (n, record) in request.records.iter().enumerate() {
        if let Some(partition) = partition_of(def, n, record)? {
            return Ok(Some(partition));
        }
    }
    if def.partitions == 1 || request.records.is_empty() {
        return Ok(Some(0));
    }
    let message =
        format!("stream \"{}\" has {} partitions, and the records of a producer don't say which", def.name, def.partitions);
    Err(Error::invalid(message)
        .hint("a request that is sent again must go where it went before: give records a key or a partition"))
}

fn two_partitions(request: &AppendRequest, home: u32, other: u32) -> Error {
    let what = if request.producer.is_some() { "producer" } else { "expect" };
    let message = format!("the records of a request with \"{what}\" go to one partition, these go to {home} and {other}");
    Error::invalid(message).hint("it is atomic in one partition only: send the records of each partition by themselves")
}

impl Database {
    /// Appends records as the stream says, and answers where they are.
    ///
    /// # Errors
    /// As [`Self::append_with`].
    pub async fn append(&self, stream: &str, records: Vec<AppendRecord>, deadline: Instant) -> Result<Cut, AppendError> {
        Ok(self.append_with(stream, AppendRequest::new(records, deadline)).await?.position)
    }

    /// Appends records, one atomic batch per partition, and answers when their acknowledgement class is met.
    ///
    /// # Errors
    /// Unknown streams and partitions, records over their limit: nothing is appended then. What the log says of one partition,
    /// together with what was appended to others.
    pub async fn append_with(&self, stream: &str, request: AppendRequest) -> Result<AppendAnswer, AppendError> {
        let appended = Box::pin(self.try_append(stream, request)).await;
        appended.map_err(|failed| AppendError { error: self.named(failed.error), ..failed })
    }

    async fn try_append(&self, stream: &str, request: AppendRequest) -> Result<AppendAnswer, AppendError> {
        let catalog = self.catalog();
        let def = catalog.stream(stream)?;
        if def.is_internal() {
            let message = format!("stream \"{stream}\" belongs to the database and can't be appended to");
            return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message).into());
        }
        if request.records.iter().any(|record| record.expect.is_some()) {
            return self.append_expecting(def, &request).await;
        }
        let entry = self.tracking().enter(def.id).await;
        // Everything that can be refused is, before the first batch is on its way.
        let prepared = self.prepare(def, &request, entry.is_tracked())?;
        let least = request.ack.map_or(def.options.ack, |ack| ack.max(def.options.ack));
        let name = def.name.clone();
        let sending = async move {
            let answer = send(name, prepared, least, request.deadline).await;
            drop(entry);
            answer
        };
        Finishing::new(self.runtime().clone(), sending).await
    }

    /// Builds one batch for each partition; `tracked` ones say which keys they write.
    fn prepare(&self, def: &StreamDef, request: &AppendRequest, tracked: bool) -> Result<Vec<Prepared>> {
        let batches = self.batches(def, request)?;
        let mut prepared = Vec::with_capacity(batches.len());
        for (partition, Gathered { mut batch, keys }) in batches {
            let (records, log) = (u64::from(batch.count()), self.partition(def, partition)?);
            if let Some(producer) = request.producer {
                batch = batch.produced_by(producer)?;
            }
            let mut proposal = Proposal::from_records(batch, def.options.compression())?;
            proposal = proposal.acknowledged(request.ack.unwrap_or(AckClass::Memory));
            if tracked {
                proposal = proposal.writing(keys.iter().map(|key| key_hash(key)).collect());
            }
            prepared.push(Prepared { partition, records, log, proposal });
        }
        Ok(prepared)
    }

    fn batches(&self, def: &StreamDef, request: &AppendRequest) -> Result<BTreeMap<u32, Gathered>> {
        let (now, home) = (clock::now(), home(def, request)?);
        let max = self.options().limits.record_bytes_max;
        let mut batches: BTreeMap<u32, Gathered> = BTreeMap::new();
        for (n, record) in request.records.iter().enumerate() {
            let partition = match (partition_of(def, n, record)?, home) {
                (Some(partition), Some(home)) if partition != home => return Err(two_partitions(request, home, partition)),
                (Some(partition), _) => partition,
                // A record that does not care goes with the others where they must stay together.
                (None, Some(home)) => home,
                (None, None) => NEXT_PARTITION.fetch_add(1, Ordering::Relaxed) % def.partitions,
            };
            let headers: Vec<(&str, Option<&[u8]>)> =
                record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            let header_bytes: usize = headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
            let bytes = record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + header_bytes;
            if bytes > max {
                let message = format!("record {n} has {bytes} bytes, the limit is {max}");
                return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, ErrorKind::TooLarge, message)
                    .hint("store large values elsewhere and append a reference"));
            }
            let gathered = batches.entry(partition).or_default();
            gathered.keys.extend(record.key.clone());
            gathered.batch.push(&NewRecord {
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &headers,
                timestamp: record.timestamp.map_or(now, TimestampMillis::new),
            });
        }
        Ok(batches)
    }

    pub(crate) fn partition(&self, def: &StreamDef, partition: u32) -> Result<Arc<Partition>> {
        if partition >= def.partitions {
            let message = format!("stream \"{}\" has no partition {partition}", def.name);
            return Err(Error::new(sqlstate::UNDEFINED_TABLE, ErrorKind::NotFound, message)
                .hint(format!("it has {}, counted from 0", def.partitions)));
        }
        Ok(self.log().partition(PartitionRef::new(StreamId::new(def.id), partition))?)
    }
}

/// How long looking rows up takes at most while they are in memory.
const LOOKUP_IN_MEMORY: Duration = Duration::from_micros(500);
/// Lookups that are made away from the async workers after one that took longer.
const LOOKUPS_AWAY: u32 = 64;

/// Looks a few rows up: here and now while that is a matter of memory, and away from the async workers when it was not lately.
pub(crate) async fn lookup<T: Send + 'static>(look: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    static AWAY: AtomicU32 = AtomicU32::new(0);
    if AWAY.load(Ordering::Relaxed) > 0 {
        let _ = AWAY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        return blocking(look).await;
    }
    let began = Instant::now();
    let found = look();
    if began.elapsed() > LOOKUP_IN_MEMORY {
        AWAY.store(LOOKUPS_AWAY, Ordering::Relaxed);
    }
    found
}

/// Runs disk work away from the async workers.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::internal(error.to_string())))
}
