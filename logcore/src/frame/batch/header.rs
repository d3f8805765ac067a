//! The first 61 bytes of a batch: what the owner needs to know, and what it writes there.
//!
//! [`Summary::check`] is the door for batches that someone else built. Batches in the log are opened by [`super::reader`], which
//! reads the same header with less demanded: compaction may have taken records out.
//!
//! # Format
//! `docs/format.md`, "Batch".

use super::compression::Compression;
use super::invalid;
use crate::error::Result;
use crate::frame::crc;
use crate::types::{Offset, Term, TimestampMillis, len_u32};

/// Bytes in front of the records.
pub(super) const BATCH_HEADER_BYTES: usize = 61;
/// Base offset and length: what the length field does not count.
const BEFORE_LENGTH_COUNTS: usize = 12;
const CRC_AT: usize = 17;
/// The batch's CRC covers everything from here on.
const ATTRIBUTES_AT: usize = 21;
const MAGIC: u8 = 2;

const COMPRESSION_MASK: i16 = 0b111;
const APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const ATTRIBUTES_KNOWN: i16 = COMPRESSION_MASK | APPEND_TIME;

/// From this length on [`body_crc`] combines: a multiplication for each half byte of the length, up to 0.2 µs, then beats reading
/// the batch at 20 GB/s. Measured by `examples/batch_speed.rs`.
const COMBINE_BYTES_MIN: usize = 4 << 10;

/// Who sent a batch, and which of its batches it is, so that one that is sent again can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerSequence {
    /// The producer, not negative.
    pub id: i64,
    /// Its life: a later one fences an earlier one. Not negative.
    pub epoch: i16,
    /// The number of the first record, counted from 0 in each epoch and partition.
    pub sequence: i32,
}

impl ProducerSequence {
    /// What stands in a batch that says nothing of its producer.
    const NOBODY: Self = Self { id: -1, epoch: -1, sequence: -1 };

    pub(super) fn check(self) -> Result<Self> {
        if self.id < 0 || self.epoch < 0 || self.sequence < 0 {
            let Self { id, epoch, sequence } = self;
            return Err(invalid(format!("producer {id} has epoch {epoch} and sequence {sequence}, none may be negative")));
        }
        Ok(self)
    }
}

/// What the owner needs to know of a batch, without looking into its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Records in it, at least one; also the offsets it will cover.
    pub count: u32,
    /// The largest of their timestamps.
    pub max_timestamp: TimestampMillis,
    /// Who sent it, if it says so.
    pub producer: Option<ProducerSequence>,
    /// Its own checksum, for [`body_crc`].
    pub batch_crc: u32,
}

impl Summary {
    /// Checks one whole batch as a producer sends it: length, magic, CRC, count, and nothing asked for that is not done here.
    /// Its records are not looked at.
    ///
    /// # Errors
    /// [`crate::Error::InvalidBatch`].
    pub fn check(batch: &[u8]) -> Result<Self> {
        let header = Header::read(batch)?;
        if header.count != header.span() {
            return Err(invalid(format!("it says {} records with a last offset delta of {}", header.count, header.last_delta)));
        }
        if header.append_time {
            return Err(invalid("its timestamps claim to be those of its append; send the time of creation"));
        }
        let found = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
        if found != header.crc {
            return Err(invalid(format!("its checksum is {found:08x}, the batch says {:08x}", header.crc)));
        }
        Ok(header.summary())
    }
}

/// Who sent a stored batch, whose frame passed its checks; `None` also when the header is not one.
#[must_use]
pub fn producer_of(batch: &[u8]) -> Option<ProducerSequence> {
    Header::read(batch).ok()?.producer
}

/// How many records a stored batch has, whose frame passed its checks: after compaction fewer than offsets. `None` when the header
/// is not one.
#[must_use]
pub fn count_of(batch: &[u8]) -> Option<u32> {
    Header::read(batch).ok().map(|header| header.count)
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

/// CRC-32C of all bytes of a batch, as a frame's header wants it, without reading a large one again: `batch_crc` covers all but
/// the first 21 bytes.
///
/// # Panics
/// When `batch` was not checked with [`Summary::check`] before.
#[must_use]
pub fn body_crc(batch: &[u8], batch_crc: u32) -> u32 {
    let (front, covered) = batch.split_at(ATTRIBUTES_AT);
    match u32::try_from(covered.len()) {
        Ok(len) if batch.len() >= COMBINE_BYTES_MIN => crc::combine(crc32c::crc32c(front), batch_crc, len),
        _ => crc32c::crc32c(batch),
    }
}

/// The decoded header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub base_offset: Offset,
    /// Kafka's partition leader epoch: the term.
    pub epoch: [u8; 4],
    pub crc: u32,
    pub compression: Compression,
    /// Records bear the time of their append, which is `max_timestamp`. Read as Kafka does; no producer may send it.
    pub append_time: bool,
    /// Not negative.
    pub last_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: TimestampMillis,
    pub producer: Option<ProducerSequence>,
    /// At least one and at most [`Self::span`].
    pub count: u32,
}

impl Header {
    /// Offsets the batch covers: more than its records after compaction.
    pub fn span(&self) -> u32 {
        self.last_delta.cast_unsigned() + 1
    }

    pub fn summary(&self) -> Summary {
        Summary { count: self.count, max_timestamp: self.max_timestamp, producer: self.producer, batch_crc: self.crc }
    }

    /// Reads the header of one whole batch that may be stored. The CRC is not checked.
    pub fn read(batch: &[u8]) -> Result<Self> {
        let Some(raw) = batch.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(invalid(format!("{} bytes are shorter than a batch header", batch.len())));
        };
        let i16_at = |at: usize| i16::from_be_bytes([raw[at], raw[at + 1]]);
        let i32_at = |at: usize| i32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let i64_at = |at: usize| i64::from(i32_at(at)) << 32 | i64::from(i32_at(at + 4).cast_unsigned());
        let (length, behind) = (i32_at(8), batch.len() - BEFORE_LENGTH_COUNTS);
        if usize::try_from(length).ok() != Some(behind) {
            return Err(invalid(format!("its length field says {length}, {behind} bytes follow")));
        }
        if raw[16] != MAGIC {
            return Err(invalid(format!("its magic is {}, only {MAGIC} is stored", raw[16])));
        }
        let attributes = i16_at(ATTRIBUTES_AT);
        let compression = check_attributes(attributes)?;
        let (last_delta, count) = (i32_at(23), i32_at(57));
        let count = match u32::try_from(count) {
            Ok(records) if records > 0 && last_delta >= count - 1 => records,
            _ => return Err(invalid(format!("it says {count} records with a last offset delta of {last_delta}"))),
        };
        let producer = ProducerSequence { id: i64_at(43), epoch: i16_at(51), sequence: i32_at(53) };
        Ok(Self {
            base_offset: Offset::new(i64_at(0).cast_unsigned()),
            epoch: [raw[12], raw[13], raw[14], raw[15]],
            crc: i32_at(CRC_AT).cast_unsigned(),
            compression,
            append_time: attributes & APPEND_TIME != 0,
            last_delta,
            base_timestamp: i64_at(27),
            max_timestamp: TimestampMillis::new(i64_at(35)),
            producer: if producer.id < 0 { None } else { Some(producer.check()?) },
            count,
        })
    }

    /// Writes the header into the room in front of the records of `batch`, with length and CRC as they come out. What
    /// `self.crc` says does not matter; the CRC is returned.
    pub fn write(&self, batch: &mut [u8]) -> u32 {
        let length = len_u32(batch.len() - BEFORE_LENGTH_COUNTS);
        let append_time = if self.append_time { APPEND_TIME } else { 0 };
        let attributes = self.compression.number() | append_time;
        let producer = self.producer.unwrap_or(ProducerSequence::NOBODY);
        let mut put = |at: usize, bytes: &[u8]| batch[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.base_offset.value().to_be_bytes());
        put(8, &length.to_be_bytes());
        put(12, &self.epoch);
        put(16, &[MAGIC]);
        put(ATTRIBUTES_AT, &attributes.to_be_bytes());
        put(23, &self.last_delta.to_be_bytes());
        put(27, &self.base_timestamp.to_be_bytes());
        put(35, &self.max_timestamp.value().to_be_bytes());
        put(43, &producer.id.to_be_bytes());
        put(51, &producer.epoch.to_be_bytes());
        put(53, &producer.sequence.to_be_bytes());
        put(57, &self.count.to_be_bytes());
        let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
        batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        crc
    }
}

fn check_attributes(attributes: i16) -> Result<Compression> {
    if attributes & CONTROL != 0 {
        return Err(invalid("it is a control batch, the mark of a transaction's end; transactions are not supported"));
    }
    if attributes & TRANSACTIONAL != 0 {
        return Err(invalid(
            "it is part of a transaction, which is not supported; send it from a producer without transactional.id",
        ));
    }
    if attributes & !ATTRIBUTES_KNOWN != 0 {
        return Err(invalid(format!("its attributes {attributes:#06x} ask for something that is not known here")));
    }
    let number = attributes & COMPRESSION_MASK;
    Compression::from_number(number)
        .ok_or_else(|| invalid(format!("its compression {number} is not known; use none, gzip, snappy, lz4 or zstd")))
}
