//! Reading streams back, by offset or time: the consuming side of [`Database`].

use bytes::Bytes;
use logcore::frame::{Frame, FrameKind};
use logcore::{Batch, Offset, Partition, Record, TimestampMillis};

use crate::answer::{ReadFrom, ReadLimits, ReadPage, StoredRecord};
use crate::append::blocking;
use crate::database::Database;
use crate::error::Result;

impl Database {
    /// Reads records of one partition.
    ///
    /// # Errors
    /// Unknown streams and partitions, offsets outside the log; what the log says.
    pub async fn read(&self, stream: &str, partition: u32, from: ReadFrom, limits: ReadLimits) -> Result<ReadPage> {
        self.try_read(stream, partition, from, limits).await.map_err(|error| self.named(error))
    }

    async fn try_read(&self, stream: &str, partition: u32, from: ReadFrom, limits: ReadLimits) -> Result<ReadPage> {
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
