//! The sparse index of a segment: where to start reading for an offset or a time.
//!
//! Grown by `segment::active` while frames are appended, by `segment::recovery` when a file is read again, kept beside the segment
//! in an `.idx` file. It is derived: a missing or wrong file is rebuilt from the segment.
//!
//! # Format
//! `docs/format.md`, "Index file".

use crate::types::{Offset, RaftIndex, Term, TimestampMillis, len_u32};

/// An entry is made when this many bytes were appended since the last.
const INTERVAL_BYTES: u64 = 16 << 10;
const MAGIC: &[u8; 4] = b"HwI1";
const HEADER_BYTES: usize = 72;
const ENTRY_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    offset: Offset,
    position: u64,
    /// The largest timestamp of all records before `position`.
    max_timestamp_before: TimestampMillis,
}

/// Where a segment's content ends and what the next entry links to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEnd {
    /// File position after the last frame.
    pub position: u64,
    /// The offset after the last record.
    pub offset: Offset,
    /// The last entry's index.
    pub raft_index: RaftIndex,
    /// The last entry's header CRC.
    pub entry_crc: u32,
    /// The last entry's term.
    pub term: Term,
    /// The largest timestamp in the segment.
    pub max_timestamp: TimestampMillis,
}

impl SegmentEnd {
    /// Of a segment that holds nothing and follows nothing.
    #[must_use]
    pub fn empty(base_offset: Offset) -> Self {
        Self {
            position: 0,
            offset: base_offset,
            raft_index: RaftIndex::NONE,
            entry_crc: 0,
            term: Term::default(),
            max_timestamp: TimestampMillis::new(i64::MIN),
        }
    }

    /// The same place, at the start of a segment whose records are still to come.
    #[must_use]
    pub fn without_timestamps(self) -> Self {
        Self { max_timestamp: TimestampMillis::new(i64::MIN), ..self }
    }
}

/// See the module docs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseIndex {
    entries: Vec<Entry>,
}

impl SparseIndex {
    /// Notes that a frame with first offset `offset` starts at `position`; keeps it when the last entry is far enough back or
    /// `force` is set.
    pub fn note(&mut self, offset: Offset, position: u64, max_timestamp_before: TimestampMillis, force: bool) {
        let due = self.entries.last().is_none_or(|last| position >= last.position + INTERVAL_BYTES);
        if due || force {
            self.entries.push(Entry { offset, position, max_timestamp_before });
        }
    }

    /// The file position of a frame at or before the one that covers `offset`.
    #[must_use]
    pub fn position_of(&self, offset: Offset) -> u64 {
        let after = self.entries.partition_point(|entry| entry.offset <= offset);
        after.checked_sub(1).map_or(0, |at| self.entries[at].position)
    }

    /// An offset before which no record is as new as `timestamp`.
    #[must_use]
    pub fn offset_before(&self, timestamp: TimestampMillis) -> Option<Offset> {
        let after = self.entries.partition_point(|entry| entry.max_timestamp_before < timestamp);
        after.checked_sub(1).map(|at| self.entries[at].offset)
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.entries.len() * ENTRY_BYTES
    }

    /// The `.idx` file's content.
    #[must_use]
    pub fn encode(&self, base_offset: Offset, end: &SegmentEnd) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.len_bytes() + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&1_u32.to_le_bytes());
        for field in [base_offset.value(), end.position, end.offset.value(), end.raft_index.value(), end.term.value()] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&end.max_timestamp.value().to_le_bytes());
        out.extend_from_slice(&end.entry_crc.to_le_bytes());
        out.extend_from_slice(&len_u32(self.entries.len()).to_le_bytes());
        out.resize(HEADER_BYTES, 0);
        for entry in &self.entries {
            out.extend_from_slice(&entry.offset.value().to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
            out.extend_from_slice(&entry.max_timestamp_before.value().to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads an `.idx` file; `None` when it is not a whole index of the segment at `base_offset`.
    #[must_use]
    pub fn decode(content: &[u8], base_offset: Offset) -> Option<(Self, SegmentEnd)> {
        let (body, crc) = content.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) || body.first_chunk::<4>()? != MAGIC {
            return None;
        }
        let u32_at = |at: usize| body.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let u64_at = |at: usize| body.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        if u32_at(4)? != 1 || u64_at(8)? != base_offset.value() {
            return None;
        }
        let end = SegmentEnd {
            position: u64_at(16)?,
            offset: Offset::new(u64_at(24)?),
            raft_index: RaftIndex::new(u64_at(32)?),
            term: Term::new(u64_at(40)?),
            max_timestamp: TimestampMillis::new(u64_at(48)?.cast_signed()),
            entry_crc: u32_at(56)?,
        };
        let count = u32_at(60)? as usize;
        if body.len() != HEADER_BYTES + count * ENTRY_BYTES {
            return None;
        }
        let entry = |at: usize| {
            Some(Entry {
                offset: Offset::new(u64_at(at)?),
                position: u64_at(at + 8)?,
                max_timestamp_before: TimestampMillis::new(u64_at(at + 16)?.cast_signed()),
            })
        };
        let entries = (0..count).map(|n| entry(HEADER_BYTES + n * ENTRY_BYTES)).collect::<Option<_>>()?;
        Some((Self { entries }, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leads_to_the_frame_and_survives_its_file() {
        let mut index = SparseIndex::default();
        for n in 0..100_u64 {
            let before = TimestampMillis::new(if n == 0 { i64::MIN } else { n.cast_signed() * 10 });
            index.note(Offset::new(n * 5), n * 8_192, before, false);
        }
        assert_eq!(index.position_of(Offset::new(0)), 0);
        assert_eq!(index.position_of(Offset::new(14)), 2 * 8_192);
        assert_eq!(index.position_of(Offset::new(10_000)), 98 * 8_192);
        assert_eq!(index.offset_before(TimestampMillis::new(25)), Some(Offset::new(10)));
        assert_eq!(index.offset_before(TimestampMillis::new(i64::MIN)), None);
        let end = SegmentEnd {
            position: 1,
            offset: Offset::new(2),
            raft_index: RaftIndex::new(3),
            entry_crc: 4,
            term: Term::new(5),
            max_timestamp: TimestampMillis::new(-6),
        };
        let mut file = index.encode(Offset::new(7), &end);
        assert_eq!(SparseIndex::decode(&file, Offset::new(7)), Some((index, end)));
        assert_eq!(SparseIndex::decode(&file, Offset::new(8)), None);
        file[30] ^= 1;
        assert_eq!(SparseIndex::decode(&file, Offset::new(7)), None);
    }
}
