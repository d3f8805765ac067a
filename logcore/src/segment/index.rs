//! The sparse index of a segment: where to start reading for an offset or a time.
//!
//! Grown by `segment::active` while frames are appended, by `segment::recovery` when a file is read again, kept in the footer of a
//! sealed segment and, over a clean stop, in the `.idx` file of an active one. It is derived and rebuilt where it is missing.
//!
//! # Format
//! `docs/format.md`, "Index".

use super::producers::take;
use crate::types::{Offset, RaftIndex, Term, TimestampMillis, len_u32};

/// An entry is made when this many bytes were appended since the last.
const INTERVAL_BYTES: u64 = 16 << 10;
const ENTRY_BYTES: usize = 24;

/// A place of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first offset of a frame.
    pub offset: Offset,
    /// Where in the file it stands.
    pub position: u64,
    /// The largest timestamp of all records before `position`.
    pub max_timestamp_before: TimestampMillis,
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
    /// No offset from here on was given out when the last flush was built; at most [`Self::offset`] unless appends are
    /// acknowledged in RAM.
    pub ceiling: Offset,
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
            ceiling: base_offset,
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
        let due = self.entries.last().is_none_or(|last| position >= last.position.saturating_add(INTERVAL_BYTES));
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

    /// Its places, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of [`Self::encode_entries`], and about those it takes in memory.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        4 + self.entries.len() * ENTRY_BYTES
    }

    /// Appends the entries, as footers and index files have them.
    pub fn encode_entries(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&len_u32(self.entries.len()).to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.offset.value().to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
            out.extend_from_slice(&entry.max_timestamp_before.value().to_le_bytes());
        }
    }

    /// Reads entries off the front of `raw`; `None` when they are not whole.
    #[must_use]
    pub fn decode_entries(raw: &mut &[u8]) -> Option<Self> {
        let count = u32::from_le_bytes(take(raw)?) as usize;
        if raw.len() < count.checked_mul(ENTRY_BYTES)? {
            return None;
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(Entry {
                offset: Offset::new(u64::from_le_bytes(take(raw)?)),
                position: u64::from_le_bytes(take(raw)?),
                max_timestamp_before: TimestampMillis::new(i64::from_le_bytes(take(raw)?)),
            });
        }
        Some(Self { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leads_to_the_frame_and_comes_back() {
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
        let mut raw = Vec::new();
        index.encode_entries(&mut raw);
        assert_eq!(raw.len(), index.encoded_bytes());
        assert_eq!(SparseIndex::decode_entries(&mut &raw[..]), Some(index));
        assert_eq!(SparseIndex::decode_entries(&mut &raw[..raw.len() - 1]), None);
    }
}
