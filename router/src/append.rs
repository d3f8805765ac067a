//! Appending to streams and reading them back by offset: the producing and consuming side of [`Database`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use bytes::Bytes;
use logcore::frame::{Frame, FrameKind};
use logcore::{
    Batch, BatchBuilder, Compression, ErrorKind, NewRecord, Offset, Partition, PartitionRef, Proposal, Record, StreamId,
    TimestampMillis, sys::clock,
};

use crate::answer::{AppendRecord, ReadFrom, ReadLimits, ReadPage, StoredRecord};
use crate::catalog::StreamDef;
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
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

impl Database {
    /// Appends records, one atomic batch per partition, and answers when they are durable.
    ///
    /// # Errors
    /// Unknown streams and partitions, records over their limit: nothing is appended then. What the log says of one partition,
    /// together with what was appended to others.
    pub async fn append(&self, stream: &str, records: Vec<AppendRecord>, deadline: Instant) -> Result<Cut, AppendError> {
        let catalog = self.catalog();
        let def = catalog.stream(stream)?;
        if def.id < StreamId::FIRST_USER.value() {
            let message = format!("stream \"{stream}\" belongs to the database and can't be appended to");
            return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message).into());
        }
        let compression = if def.compression == "zstd" { Compression::Zstd } else { Compression::None };
        // Everything that can be refused is, before the first batch is on its way.
        let prepared = self.batches(def, &records)?.into_iter().map(|(partition, batch)| {
            let records = u64::from(batch.count());
            Ok((partition, records, self.partition(def, partition)?, Proposal::from_records(batch, compression)?))
        });
        let prepared = prepared.collect::<Result<Vec<_>>>()?;
        let mut tickets = Vec::with_capacity(prepared.len());
        for (partition, records, log, proposal) in prepared {
            tickets.push((partition, records, log.append(proposal, deadline).await));
        }
        let (mut position, mut appended_records, mut failed) = (Cut::new(), 0, None);
        for (partition, records, ticket) in tickets {
            let appended = match ticket {
                Ok(ticket) => ticket.committed().await,
                Err(error) => Err(error),
            };
            match appended {
                Ok(appended) => {
                    position.raise(&def.name, partition, appended.end_offset());
                    appended_records += records;
                }
                Err(error) => failed = Some(Error::from(error)),
            }
        }
        match failed {
            None => Ok(position),
            Some(error) => Err(AppendError { error, appended: position, records: appended_records }),
        }
    }

    fn batches(&self, def: &StreamDef, records: &[AppendRecord]) -> Result<BTreeMap<u32, BatchBuilder>> {
        let now = clock::now();
        let max = self.options().limits.record_bytes_max;
        let mut batches: BTreeMap<u32, BatchBuilder> = BTreeMap::new();
        for (n, record) in records.iter().enumerate() {
            let partition = match (record.partition, &record.key) {
                (Some(partition), _) if partition < def.partitions => partition,
                (Some(partition), _) => {
                    let message = format!("record {n}: stream \"{}\" has no partition {partition}", def.name);
                    return Err(Error::invalid(message).hint(format!("it has {}, counted from 0", def.partitions)));
                }
                (None, Some(key)) => by_key(key, def.partitions),
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
            batches.entry(partition).or_default().push(&NewRecord {
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

    /// Reads records of one partition.
    ///
    /// # Errors
    /// Unknown streams and partitions, offsets outside the log; what the log says.
    pub async fn read(&self, stream: &str, partition: u32, from: ReadFrom, limits: ReadLimits) -> Result<ReadPage> {
        let catalog = self.catalog();
        let log = self.partition(catalog.stream(stream)?, partition)?;
        let (log, from) = blocking(move || {
            let from = match from {
                ReadFrom::Offset(offset) => Offset::new(offset),
                ReadFrom::Timestamp(millis) => log.offset_at(TimestampMillis::new(millis))?,
                ReadFrom::Earliest => log.log_start(),
                ReadFrom::Latest => log.committed().get(),
            };
            Ok((log, from))
        })
        .await?;
        if let Some(until) = limits.wait_until
            && log.committed().get() == from
        {
            log.committed().reached(from.advance(1), until).await;
        }
        blocking(move || read_page(&log, from, limits)).await
    }
}

/// Runs disk work away from the async workers.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::internal(error.to_string())))
}

fn read_page(log: &Partition, from: Offset, limits: ReadLimits) -> Result<ReadPage> {
    let mut page = ReadPage { records: Vec::new(), next_offset: from.value(), end_offset: 0 };
    let mut bytes = 0;
    while page.records.len() < limits.records && bytes < limits.bytes {
        let next = Offset::new(page.next_offset);
        let frames = log.read(next, limits.bytes.min(1 << 20))?;
        let Some(end) = frames.last().map(Frame::end_offset) else { break };
        for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
            let batch = Batch::open(&frame.body)?;
            for record in batch.records() {
                let record = record?;
                if record.offset < next {
                    continue;
                }
                if page.records.len() == limits.records || bytes >= limits.bytes {
                    page.end_offset = log.committed().get().value();
                    return Ok(page);
                }
                bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + 32;
                page.next_offset = record.offset.value() + 1;
                page.records.push(stored(&record));
            }
        }
        page.next_offset = end.value();
    }
    page.end_offset = log.committed().get().value();
    Ok(page)
}

fn stored(record: &Record<'_>) -> StoredRecord {
    let own = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    StoredRecord {
        offset: record.offset.value(),
        timestamp: record.timestamp.value(),
        key: record.key.map(own),
        value: record.value.map(own),
        headers: record.headers().into_iter().map(|(name, value)| (name.to_owned(), value.map(own))).collect(),
    }
}
