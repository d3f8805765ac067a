//! Lays records out as one batch: for whoever appends records rather than finished batches.
//!
//! Every byte of a record is written once, behind room for the header; an uncompressed batch is finished in place.

use super::compression::Compression;
use super::header::{BATCH_HEADER_BYTES, Header, ProducerSequence, Summary};
use crate::error::Result;
use crate::frame::varint;
use crate::types::{Offset, TimestampMillis, len_u32};

/// A record as it is given to a [`BatchBuilder`].
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// Chooses the partition and names what the record is about.
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Name and value.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// When it happened.
    pub timestamp: TimestampMillis,
}

/// Lays records out as one batch.
pub struct BatchBuilder {
    /// Room for the header, then the records.
    batch: Vec<u8>,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: Option<ProducerSequence>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with memory for `records_bytes` of records, so that it need not move while it grows.
    #[must_use]
    pub fn with_capacity(records_bytes: usize) -> Self {
        let mut batch = Vec::with_capacity(BATCH_HEADER_BYTES + records_bytes);
        batch.resize(BATCH_HEADER_BYTES, 0);
        Self { batch, count: 0, base_timestamp: 0, max_timestamp: 0, producer: None }
    }

    /// Says who sends it, so that the same batch sent again is known.
    ///
    /// # Errors
    /// [`crate::Error::InvalidBatch`] when one of its numbers is negative.
    pub fn produced_by(mut self, producer: ProducerSequence) -> Result<Self> {
        self.producer = Some(producer.check()?);
        Ok(self)
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far, uncompressed. Keep it below [`super::RECORDS_BYTES_MAX`]: more is not read back.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.batch.len()
    }

    /// Adds a record behind the others.
    pub fn push(&mut self, record: &NewRecord<'_>) {
        let timestamp = record.timestamp.value();
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        // It wraps around when the two are further apart than 64 bits tell; the reader's addition wraps back.
        let timestamp_delta = timestamp.wrapping_sub(self.base_timestamp);
        let offset_delta = i64::from(self.count);
        let headers = i64::from(len_u32(record.headers.len()));
        let attributes = 1;
        let mut body_bytes = attributes
            + varint::len(timestamp_delta)
            + varint::len(offset_delta)
            + bytes_len(record.key)
            + bytes_len(record.value)
            + varint::len(headers);
        for (name, value) in record.headers {
            body_bytes += bytes_len(Some(name.as_bytes())) + bytes_len(*value);
        }
        let out = &mut self.batch;
        out.reserve(varint::BYTES_MAX + body_bytes);
        varint::put(out, i64::from(len_u32(body_bytes)));
        let body_at = out.len();
        out.push(0);
        varint::put(out, timestamp_delta);
        varint::put(out, offset_delta);
        put_bytes(out, record.key);
        put_bytes(out, record.value);
        varint::put(out, headers);
        for (name, value) in record.headers {
            put_bytes(out, Some(name.as_bytes()));
            put_bytes(out, *value);
        }
        debug_assert_eq!(out.len() - body_at, body_bytes, "the length was written before the body");
        self.count += 1;
    }

    /// The finished batch, with base offset and epoch still to be set by the owner.
    ///
    /// # Panics
    /// When nothing was pushed, or more than `i32::MAX` records were: callers keep far below.
    #[must_use]
    pub fn finish(self, compression: Compression) -> Vec<u8> {
        self.finish_with_summary(compression).0
    }

    /// The finished batch and what [`Summary::check`] would say of it.
    ///
    /// # Panics
    /// As [`Self::finish`].
    #[must_use]
    pub fn finish_with_summary(self, compression: Compression) -> (Vec<u8>, Summary) {
        assert!(self.count > 0, "a batch holds at least one record");
        let mut batch = match compression {
            Compression::None => self.batch,
            packing => pack(packing, &self.batch[BATCH_HEADER_BYTES..]),
        };
        let mut header = Header {
            base_offset: Offset::ZERO,
            epoch: [0; 4],
            crc: 0,
            compression,
            append_time: false,
            last_delta: i32::try_from(self.count - 1).expect("callers keep far below"),
            base_timestamp: self.base_timestamp,
            max_timestamp: TimestampMillis::new(self.max_timestamp),
            producer: self.producer,
            count: self.count,
        };
        header.crc = header.write(&mut batch);
        (batch, header.summary())
    }
}

/// A batch of `records` whose header is still to be written.
pub(super) fn pack(compression: Compression, records: &[u8]) -> Vec<u8> {
    let mut batch = vec![0; BATCH_HEADER_BYTES];
    compression.pack(records, &mut batch);
    batch
}

fn bytes_len(bytes: Option<&[u8]>) -> usize {
    match bytes {
        Some(bytes) => varint::len(i64::from(len_u32(bytes.len()))) + bytes.len(),
        None => varint::len(-1),
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            varint::put(out, i64::from(len_u32(bytes.len())));
            out.extend_from_slice(bytes);
        }
        None => varint::put(out, -1),
    }
}
