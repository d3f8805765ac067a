//! The Kafka v2 record batch: the body of a batch frame, its builder and its reader.
//!
//! Built by whoever appends (HTTP, SQL), kept byte for byte, read by readers and materializers. Base offset and leader epoch are
//! patched in place by the owner: they lie outside the batch's own CRC.
//!
//! # Format
//! `docs/format.md`, "Batch"; big-endian, as Kafka has it. Compression: none and zstd.
//!
//! # Not done
//! gzip, snappy and lz4; transactions and control batches are refused.

use bytes::Bytes;

use super::varint;
use crate::error::{Error, Result};
use crate::types::{Offset, Term, TimestampMillis, len_u32};

/// Bytes in front of the records.
const BATCH_HEADER_BYTES: usize = 61;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const COMPRESSION_MASK: i16 = 0b111;
const COMPRESSION_ZSTD: i16 = 4;
const ATTRIBUTES_KNOWN: i16 = 0b1111;
/// A compressed batch may not unfold into more than this.
const RECORDS_BYTES_MAX: usize = 64 << 20;

/// How records of a batch built here are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Zstandard, level 3.
    Zstd,
}

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
#[derive(Default)]
pub struct BatchBuilder {
    records: Vec<u8>,
    scratch: Vec<u8>,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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

    /// Bytes so far, uncompressed.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.records.len()
    }

    /// Adds a record behind the others.
    pub fn push(&mut self, record: &NewRecord<'_>) {
        let timestamp = record.timestamp.value();
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let body = &mut self.scratch;
        body.clear();
        body.push(0);
        varint::put(body, timestamp.wrapping_sub(self.base_timestamp));
        varint::put(body, i64::from(self.count));
        put_bytes(body, record.key);
        put_bytes(body, record.value);
        varint::put(body, i64::from(len_u32(record.headers.len())));
        for (name, value) in record.headers {
            put_bytes(body, Some(name.as_bytes()));
            put_bytes(body, *value);
        }
        varint::put(&mut self.records, i64::from(len_u32(self.scratch.len())));
        self.records.extend_from_slice(&self.scratch);
        self.count += 1;
    }

    /// The finished batch, with base offset and epoch still to be set by the owner.
    ///
    /// # Panics
    /// When nothing was pushed, or `i32::MAX` records were: callers keep far below.
    #[must_use]
    pub fn finish(self, compression: Compression) -> Vec<u8> {
        assert!(self.count > 0, "a batch holds at least one record");
        let (attributes, records) = match compression {
            Compression::None => (0, self.records),
            Compression::Zstd => {
                let packed = zstd::bulk::compress(&self.records, 3).expect("compressing into memory does not fail");
                (COMPRESSION_ZSTD, packed)
            }
        };
        let count = self.count.cast_signed();
        let mut out = Vec::with_capacity(BATCH_HEADER_BYTES + records.len());
        out.extend_from_slice(&0_i64.to_be_bytes());
        let behind_length = BATCH_HEADER_BYTES - 12 + records.len();
        out.extend_from_slice(&len_u32(behind_length).to_be_bytes());
        out.extend_from_slice(&0_i32.to_be_bytes());
        out.push(2);
        out.extend_from_slice(&0_u32.to_be_bytes());
        out.extend_from_slice(&attributes.to_be_bytes());
        out.extend_from_slice(&(count - 1).to_be_bytes());
        out.extend_from_slice(&self.base_timestamp.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.to_be_bytes());
        out.extend_from_slice(&(-1_i64).to_be_bytes());
        out.extend_from_slice(&(-1_i16).to_be_bytes());
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&records);
        let crc = crc32c::crc32c(&out[ATTRIBUTES_AT..]);
        out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        out
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

/// Writes what the owner decides into a batch: these fields lie outside its CRC.
///
/// # Panics
/// When `batch` was not checked with [`Summary::check`] before.
pub fn set_place(batch: &mut [u8], base_offset: Offset, term: Term) {
    batch[0..8].copy_from_slice(&base_offset.value().to_be_bytes());
    let epoch = len_u32(usize::try_from(term.value() & 0x7fff_ffff).expect("31 bits fit"));
    batch[12..16].copy_from_slice(&epoch.to_be_bytes());
}

/// What the owner needs to know of a batch, without looking into its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Records in it, at least one.
    pub count: u32,
    /// The largest of their timestamps.
    pub max_timestamp: TimestampMillis,
}

impl Summary {
    /// Checks length, magic, CRC and count of one whole batch.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`].
    pub fn check(batch: &[u8]) -> Result<Self> {
        let header = Header::read(batch)?;
        let found = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
        if found != header.crc {
            return Err(invalid(format!("its checksum is {found:08x}, the batch says {:08x}", header.crc)));
        }
        Ok(Self { count: header.count, max_timestamp: header.max_timestamp })
    }
}

struct Header {
    base_offset: Offset,
    crc: u32,
    attributes: i16,
    base_timestamp: i64,
    max_timestamp: TimestampMillis,
    count: u32,
}

impl Header {
    fn read(batch: &[u8]) -> Result<Self> {
        let Some(raw) = batch.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(invalid(format!("{} bytes are shorter than a batch header", batch.len())));
        };
        let i32_at = |at: usize| i32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let i64_at = |at: usize| i64::from(i32_at(at)) << 32 | i64::from(i32_at(at + 4).cast_unsigned());
        let length = i32_at(8);
        if usize::try_from(length).ok() != Some(batch.len() - 12) {
            return Err(invalid(format!("its length field says {length}, {} bytes follow", batch.len() - 12)));
        }
        if raw[16] != 2 {
            return Err(invalid(format!("its magic is {}, only 2 is stored", raw[16])));
        }
        let attributes = i16::from_be_bytes([raw[ATTRIBUTES_AT], raw[ATTRIBUTES_AT + 1]]);
        if attributes & !ATTRIBUTES_KNOWN != 0 {
            return Err(invalid(format!("its attributes {attributes:#x} ask for transactions or something newer")));
        }
        if !matches!(attributes & COMPRESSION_MASK, 0 | COMPRESSION_ZSTD) {
            return Err(invalid(format!("compression {} is not supported, use none or zstd", attributes & COMPRESSION_MASK)));
        }
        let count = i32_at(57);
        let last_delta = i32_at(23);
        match u32::try_from(count) {
            Ok(records) if records > 0 && last_delta == count - 1 => Ok(Self {
                base_offset: Offset::new(i64_at(0).cast_unsigned()),
                crc: i32_at(CRC_AT).cast_unsigned(),
                attributes,
                base_timestamp: i64_at(27),
                max_timestamp: TimestampMillis::new(i64_at(35)),
                count: records,
            }),
            _ => Err(invalid(format!("it says {count} records with a last offset delta of {last_delta}"))),
        }
    }
}

fn invalid(detail: impl Into<String>) -> Error {
    Error::InvalidBatch { detail: detail.into() }
}

/// A batch opened for reading its records.
#[derive(Clone, Debug)]
pub struct Batch {
    base_offset: Offset,
    base_timestamp: i64,
    count: u32,
    records: Bytes,
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
    /// [`Error::InvalidBatch`] when the header is wrong or the records don't unpack.
    pub fn open(batch: &Bytes) -> Result<Self> {
        let header = Header::read(batch)?;
        let packed = batch.slice(BATCH_HEADER_BYTES..);
        let records = match header.attributes & COMPRESSION_MASK {
            COMPRESSION_ZSTD => unpack(&packed)?,
            _ => packed,
        };
        Ok(Self { base_offset: header.base_offset, base_timestamp: header.base_timestamp, count: header.count, records })
    }

    /// The offset of the first record.
    #[must_use]
    pub fn base_offset(&self) -> Offset {
        self.base_offset
    }

    /// Records in it.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The records in order.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records { batch: self, rest: &self.records, read: 0 }
    }
}

fn unpack(packed: &[u8]) -> Result<Bytes> {
    use std::io::Read;
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(|error| invalid(format!("zstd: {error}")))?;
    let mut records = Vec::new();
    let limit = RECORDS_BYTES_MAX as u64 + 1;
    decoder.take(limit).read_to_end(&mut records).map_err(|error| invalid(format!("zstd: {error}")))?;
    if records.len() > RECORDS_BYTES_MAX {
        return Err(invalid(format!("its records unpack to more than {RECORDS_BYTES_MAX} bytes")));
    }
    Ok(records.into())
}

/// Iterates over the records of a batch; ends after the first error.
pub struct Records<'a> {
    batch: &'a Batch,
    rest: &'a [u8],
    read: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read == self.batch.count {
            return None;
        }
        let at = self.read;
        match self.take_record() {
            Some(record) => {
                self.read += 1;
                Some(Ok(record))
            }
            None => {
                self.read = self.batch.count;
                Some(Err(invalid(format!("record {at} of {} is malformed", self.batch.count))))
            }
        }
    }
}

impl<'a> Records<'a> {
    fn take_record(&mut self) -> Option<Record<'a>> {
        let mut body = take_bytes(&mut self.rest)??;
        body = body.get(1..)?;
        let timestamp = self.batch.base_timestamp.wrapping_add(varint::take(&mut body)?);
        let delta = u64::try_from(varint::take(&mut body)?).ok()?;
        let key = take_bytes(&mut body)?;
        let value = take_bytes(&mut body)?;
        Some(Record {
            offset: self.batch.base_offset.advance(delta),
            timestamp: TimestampMillis::new(timestamp),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(compression: Compression) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        let far = TimestampMillis::new(i64::MAX / 2);
        builder.push(&NewRecord { key: Some(b"k"), value: Some(b"{}"), timestamp: far, ..NewRecord::default() });
        let headers = [("op", Some(&b"put"[..])), ("none", None)];
        builder.push(&NewRecord { key: None, value: None, headers: &headers, timestamp: TimestampMillis::new(-5) });
        builder.finish(compression)
    }

    #[test]
    fn records_come_back_as_they_were_given() {
        for compression in [Compression::None, Compression::Zstd] {
            let mut raw = batch(compression);
            let summary = Summary::check(&raw).expect("whole");
            assert_eq!(summary, Summary { count: 2, max_timestamp: TimestampMillis::new(i64::MAX / 2) });
            set_place(&mut raw, Offset::new(40), Term::new(3));
            Summary::check(&raw).expect("the place lies outside the checksum");
            let batch = Batch::open(&raw.into()).expect("whole");
            let records: Vec<Record<'_>> = batch.records().collect::<Result<_>>().expect("well-formed");
            assert_eq!((records[0].offset.value(), records[0].key, records[0].value), (40, Some(&b"k"[..]), Some(&b"{}"[..])));
            assert_eq!(records[1].timestamp, TimestampMillis::new(-5));
            assert_eq!((records[1].offset.value(), records[1].key, records[1].value), (41, None, None));
            assert_eq!(records[1].headers(), [("op", Some(&b"put"[..])), ("none", None)]);
        }
    }

    #[test]
    fn damage_is_refused_and_never_panics() {
        let raw = batch(Compression::None);
        for bit in 8 * 8..raw.len() * 8 {
            let outside_crc = (12 * 8..16 * 8).contains(&bit);
            let mut damaged = raw.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Summary::check(&damaged).is_ok(), outside_crc, "bit {bit}");
            if let Ok(batch) = Batch::open(&damaged.into()) {
                let _ = batch.records().map(|record| record.map(|record| record.headers().len())).collect::<Vec<_>>();
            }
        }
        assert!(Summary::check(&raw[..raw.len() - 1]).is_err());
    }
}
