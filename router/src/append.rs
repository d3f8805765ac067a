//! Appending to streams: one atomic batch per partition, answered when its acknowledgement class is met.
//!
//! Every door's records come through [`Database::append_with`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use bytes::Bytes;
use logcore::{
    AckClass, BatchBuilder, ErrorKind, NewRecord, Partition, PartitionRef, Proposal, StreamId, TimestampMillis, sys::clock,
};

use crate::answer::{AppendAnswer, AppendRecord, AppendRequest};
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

/// A batch on its way to one partition.
struct Prepared {
    partition: u32,
    records: u64,
    log: Arc<Partition>,
    proposal: Proposal,
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
        let catalog = self.catalog();
        let def = catalog.stream(stream)?;
        if def.is_internal() {
            let message = format!("stream \"{stream}\" belongs to the database and can't be appended to");
            return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message).into());
        }
        // Everything that can be refused is, before the first batch is on its way.
        let prepared = self.prepare(def, &request)?;
        let mut tickets = Vec::with_capacity(prepared.len());
        for Prepared { partition, records, log, proposal } in prepared {
            tickets.push((partition, records, log.append(proposal, request.deadline).await));
        }
        let ack = request.ack.map_or(def.options.ack, |ack| ack.max(def.options.ack));
        let (mut answer, mut met) = (AppendAnswer { position: Cut::new(), ack }, None::<AckClass>);
        let (mut appended_records, mut failed) = (0, None);
        for (partition, records, ticket) in tickets {
            let appended = match ticket {
                Ok(ticket) => ticket.committed().await,
                Err(error) => Err(error),
            };
            match appended {
                Ok(appended) => {
                    answer.position.raise(&def.name, partition, appended.end_offset());
                    met = Some(met.map_or(appended.ack, |met| met.min(appended.ack)));
                    appended_records += records;
                }
                Err(error) => failed = Some(Error::from(error)),
            }
        }
        answer.ack = met.unwrap_or(ack);
        match failed {
            None => Ok(answer),
            Some(error) => Err(AppendError { error, appended: answer.position, records: appended_records }),
        }
    }

    fn prepare(&self, def: &StreamDef, request: &AppendRequest) -> Result<Vec<Prepared>> {
        let batches = self.batches(def, &request.records)?.into_iter().map(|(partition, batch)| {
            let (records, log) = (u64::from(batch.count()), self.partition(def, partition)?);
            let proposal = Proposal::from_records(batch, def.options.compression())?;
            let proposal = proposal.acknowledged(request.ack.unwrap_or(AckClass::Memory));
            Ok(Prepared { partition, records, log, proposal })
        });
        batches.collect()
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
}

/// Runs disk work away from the async workers.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::internal(error.to_string())))
}
