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
        let found = IndexFile::read(content).ok()?;
        let whole = found.faults.is_empty() && found.base_offset == base_offset;
        whole.then_some((Self { entries: found.entries }, found.end))
    }
}

/// What an `.idx` file says, whether or not it may be believed.
pub(crate) struct IndexFile {
    pub base_offset: Offset,
    pub end: SegmentEnd,
    pub entries: Vec<Entry>,
    /// Why it is not a whole index, if so.
    pub faults: Vec<&'static str>,
}

impl IndexFile {
    /// Reads as much as there is; an error when there is not even a header.
    pub fn read(content: &[u8]) -> Result<Self, &'static str> {
        let Some((body, crc)) = content.split_last_chunk::<4>().filter(|(body, _)| body.len() >= HEADER_BYTES) else {
            return Err("it is shorter than an index header");
        };
        let (header, entries) = body.split_at(HEADER_BYTES);
        if header[..4] != *MAGIC {
            return Err("it does not begin as an index does");
        }
        let mut faults = Vec::new();
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            faults.push("its checksum does not match");
        }
        if u32_at(header, 4) != 1 {
            faults.push("its version is unknown");
        }
        if entries.len() as u64 != u64::from(u32_at(header, 60)) * ENTRY_BYTES as u64 {
            faults.push("it does not have as many entries as it says");
        }
        let entry = |raw: &[u8]| Entry {
            offset: Offset::new(u64_at(raw, 0)),
            position: u64_at(raw, 8),
            max_timestamp_before: TimestampMillis::new(u64_at(raw, 16).cast_signed()),
        };
        let end = SegmentEnd {
            position: u64_at(header, 16),
            offset: Offset::new(u64_at(header, 24)),
            raft_index: RaftIndex::new(u64_at(header, 32)),
            term: Term::new(u64_at(header, 40)),
            max_timestamp: TimestampMillis::new(u64_at(header, 48).cast_signed()),
            entry_crc: u32_at(header, 56),
        };
        let entries = entries.chunks_exact(ENTRY_BYTES).map(entry).collect();
        Ok(Self { base_offset: Offset::new(u64_at(header, 8)), end, entries, faults })
    }
}

/// Four bytes of a part whose length was checked.
fn u32_at(part: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(part[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(part: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(part[at..at + 8].try_into().expect("eight bytes"))
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
