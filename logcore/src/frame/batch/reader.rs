//! Opens a batch of the log and gives its records back.
//!
//! Called by readers, materializers and compaction, with bytes whose frame passed its checks; what a producer put into them was
//! not looked at before, so every record is checked here.

use bytes::Bytes;

use super::header::{BATCH_HEADER_BYTES, Header};
use super::invalid;
use crate::error::Result;
use crate::frame::varint;
use crate::types::{Offset, TimestampMillis};

/// A batch opened for reading its records.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(super) header: Header,
    pub(super) records: Bytes,
}

/// One record of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// When it happened.
    pub timestamp: TimestampMillis,
    /// What it is about.
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    headers: &'a [u8],
}

impl Batch {
    /// Opens a batch whose frame passed its checks.
    ///
    /// # Errors
    /// [`crate::Error::InvalidBatch`] when the header is wrong or the records don't unpack.
    pub fn open(batch: &Bytes) -> Result<Self> {
        let header = Header::read(batch)?;
        let records = header.compression.unpack(&batch.slice(BATCH_HEADER_BYTES..))?;
        Ok(Self { header, records })
    }

    /// The first offset it covers.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        self.header.base_offset
    }

    /// The offset after the last one it covers; after compaction there may be no record at those before it.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.header.base_offset.advance(u64::from(self.header.span()))
    }

    /// Records in it; after compaction fewer than offsets.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.header.count
    }

    /// The records in order.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records { header: &self.header, rest: &self.records, read: 0, delta_min: 0 }
    }
}

/// Iterates over the records of a batch; ends after the first error.
pub struct Records<'a> {
    header: &'a Header,
    pub(super) rest: &'a [u8],
    read: u32,
    /// What the next record's offset delta must at least be.
    delta_min: u64,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read == self.header.count {
            return None;
        }
        let at = self.read;
        match self.take_record() {
            Some(record) => {
                self.read += 1;
                Some(Ok(record))
            }
            None => {
                self.read = self.header.count;
                Some(Err(invalid(format!("record {at} of {} is malformed", self.header.count))))
            }
        }
    }
}

impl<'a> Records<'a> {
    fn take_record(&mut self) -> Option<Record<'a>> {
        let header = self.header;
        let mut body = take_bytes(&mut self.rest)??;
        body = body.get(1..)?;
        let created = header.base_timestamp.wrapping_add(varint::take(&mut body)?);
        let delta = u64::try_from(varint::take(&mut body)?).ok()?;
        // Offsets ascend and stay within the batch: no record may claim another one's place.
        if delta < self.delta_min || delta >= u64::from(header.span()) {
            return None;
        }
        self.delta_min = delta + 1;
        let key = take_bytes(&mut body)?;
        let value = take_bytes(&mut body)?;
        Some(Record {
            offset: Offset::new(header.base_offset.value().checked_add(delta)?),
            timestamp: if header.append_time { header.max_timestamp } else { TimestampMillis::new(created) },
            key,
            value,
            headers: body,
        })
    }
}

/// `None`: malformed. `Some(None)`: null.
fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let len = varint::take(input)?;
    if len == -1 {
        return Some(None);
    }
    let (bytes, rest) = input.split_at_checked(usize::try_from(len).ok()?)?;
    *input = rest;
    Some(Some(bytes))
}

impl<'a> Record<'a> {
    /// Names and values of its headers; malformed ones end the list.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'a str, Option<&'a [u8]>)> {
        let mut rest = self.headers;
        let count = varint::take(&mut rest).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let mut headers = Vec::new();
        for _ in 0..count {
            let (Some(Some(name)), Some(value)) = (take_bytes(&mut rest), take_bytes(&mut rest)) else { break };
            let Ok(name) = std::str::from_utf8(name) else { break };
            headers.push((name, value));
        }
        headers
    }
}
