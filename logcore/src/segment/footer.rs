//! What a sealed segment says of itself: the body of its seal frame, found from the trailer in the last block of the file.
//!
//! Written once by `segment::active` (and by compaction); read by [`super::Segment`] when a sealed segment is opened cold: two
//! small reads, no scan. It is derived like every index: when it is missing or damaged the segment is scanned.
//!
//! # Format
//! `docs/format.md`, "Seal, footer and trailer".

use xxhash_rust::xxh3::xxh3_128;

use super::index::{SegmentEnd, SparseIndex};
use super::producers::{Producers, take};
use crate::frame::header::NUMBER_MAX;
use crate::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use crate::types::{Offset, RaftIndex, Term, TimestampMillis};

/// The block at the end of a file that leads to its footer.
pub(crate) const TRAILER_BYTES: u64 = 4096;
const TRAILER_MAGIC: &[u8; 4] = b"HwT1";
const TRAILER_USED_BYTES: usize = 36;
const VERSION: u32 = 1;
const FLAG_COMPACTED: u32 = 1;
/// The footer without index and producers.
const FIXED_BYTES: usize = 4 + 4 + 7 * 8 + 4 + 3 * 8 + 2 * 16;

/// What is counted and hashed while entries are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Entries.
    pub entries: u64,
    /// Records in them.
    pub records: u64,
    /// The smallest of the batches' largest timestamps: no batch lies wholly before it.
    pub min_timestamp: TimestampMillis,
    /// Over all entries, in order: XXH3-128 of each header followed by the hash so far. The headers hold the bodies' checksums.
    pub hash: u128,
}

impl Default for Tally {
    fn default() -> Self {
        Self { entries: 0, records: 0, min_timestamp: TimestampMillis::new(i64::MAX), hash: 0 }
    }
}

impl Tally {
    /// Takes an entry in.
    pub fn note(&mut self, header: &FrameHeader, raw: &[u8; HEADER_BYTES], records: u64) {
        self.entries += 1;
        self.records += records;
        if header.kind == FrameKind::Batch {
            self.min_timestamp = self.min_timestamp.min(header.max_timestamp);
        }
        let mut input = [0; HEADER_BYTES + 16];
        input[..HEADER_BYTES].copy_from_slice(raw);
        input[HEADER_BYTES..].copy_from_slice(&self.hash.to_le_bytes());
        self.hash = xxh3_128(&input);
    }
}

/// See the module docs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// The offset of the segment's first record.
    pub base_offset: Offset,
    /// Where its entries end; `position` is that of the seal frame.
    pub end: SegmentEnd,
    /// What is in it.
    pub tally: Tally,
    /// The hash of the segment before, 0 for the first.
    pub previous_hash: u128,
    /// Records were taken out: the chain of entries does not hold inside.
    pub compacted: bool,
    /// The whole index.
    pub index: SparseIndex,
    /// The producers known at its end.
    pub producers: Producers,
}

impl Footer {
    /// An upper bound of the encoded length.
    pub fn len_bytes(index: &SparseIndex, producers: &Producers) -> usize {
        FIXED_BYTES + index.encoded_bytes() + producers.len_bytes()
    }

    /// The body of the seal frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::len_bytes(&self.index, &self.producers));
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(if self.compacted { FLAG_COMPACTED } else { 0 }).to_le_bytes());
        let end = &self.end;
        for field in [
            self.base_offset.value(),
            end.position,
            end.offset.value(),
            end.raft_index.value(),
            end.term.value(),
            end.ceiling.value(),
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&end.max_timestamp.value().to_le_bytes());
        out.extend_from_slice(&end.entry_crc.to_le_bytes());
        out.extend_from_slice(&self.tally.entries.to_le_bytes());
        out.extend_from_slice(&self.tally.records.to_le_bytes());
        out.extend_from_slice(&self.tally.min_timestamp.value().to_le_bytes());
        out.extend_from_slice(&self.tally.hash.to_le_bytes());
        out.extend_from_slice(&self.previous_hash.to_le_bytes());
        self.index.encode_entries(&mut out);
        self.producers.encode(&mut out);
        out
    }

    /// Reads the body of a seal frame; `None` when it is not a whole footer.
    pub fn decode(mut raw: &[u8]) -> Option<Self> {
        let raw = &mut raw;
        if u32::from_le_bytes(take(raw)?) != VERSION {
            return None;
        }
        let flags = u32::from_le_bytes(take(raw)?);
        let u64_in = |raw: &mut &[u8]| take(raw).map(u64::from_le_bytes);
        let i64_in = |raw: &mut &[u8]| take(raw).map(i64::from_le_bytes);
        // No number of ours is larger; one that is must not overflow what is computed from it.
        let number_in = |raw: &mut &[u8]| u64_in(raw).filter(|number| *number <= NUMBER_MAX);
        let base_offset = Offset::new(number_in(raw)?);
        let end = SegmentEnd {
            position: number_in(raw)?,
            offset: Offset::new(number_in(raw)?),
            raft_index: RaftIndex::new(number_in(raw)?),
            term: Term::new(number_in(raw)?),
            ceiling: Offset::new(number_in(raw)?),
            max_timestamp: TimestampMillis::new(i64_in(raw)?),
            entry_crc: u32::from_le_bytes(take(raw)?),
        };
        Some(Self {
            base_offset,
            end,
            tally: Tally {
                entries: u64_in(raw)?,
                records: u64_in(raw)?,
                min_timestamp: TimestampMillis::new(i64_in(raw)?),
                hash: u128::from_le_bytes(take(raw)?),
            },
            previous_hash: u128::from_le_bytes(take(raw)?),
            compacted: flags & FLAG_COMPACTED != 0,
            index: SparseIndex::decode_entries(raw)?,
            producers: Producers::decode(raw)?,
        })
    }
}

const INDEX_MAGIC: &[u8; 4] = b"HwI2";

/// The `.idx` file of an active segment: its footer so far.
pub(crate) fn encode_index_file(footer: &Footer) -> Vec<u8> {
    let body = footer.encode();
    let mut out = Vec::with_capacity(8 + body.len());
    out.extend_from_slice(INDEX_MAGIC);
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
    out
}

/// Reads an `.idx` file; `None` when it is not whole.
pub(crate) fn decode_index_file(raw: &[u8]) -> Option<Footer> {
    inspect_index_file(raw).ok().and_then(|(footer, whole)| whole.then_some(footer))
}

/// Reads an `.idx` file as far as it can be read, and says whether its checksum is right.
pub(crate) fn inspect_index_file(mut raw: &[u8]) -> Result<(Footer, bool), &'static str> {
    let raw = &mut raw;
    if take::<4>(raw) != Some(*INDEX_MAGIC) {
        return Err("it does not begin as an index does");
    }
    let crc = u32::from_le_bytes(take(raw).ok_or("it is shorter than an index header")?);
    let whole = crc == crc32c::crc32c(raw);
    Footer::decode(raw).map(|footer| (footer, whole)).ok_or("it is cut off, or its version is unknown")
}

/// Where a sealed segment's footer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// The segment's first offset, so that a stray block is not believed.
    pub base_offset: Offset,
    /// The file position of the seal frame.
    pub seal_at: u64,
    /// The seal frame's whole length.
    pub seal_bytes: u32,
}

impl Trailer {
    /// The last block of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(usize::try_from(TRAILER_BYTES).expect("one block"));
        out.extend_from_slice(TRAILER_MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.seal_bytes.to_le_bytes());
        out.extend_from_slice(&self.base_offset.value().to_le_bytes());
        out.extend_from_slice(&self.seal_at.to_le_bytes());
        out.resize(TRAILER_USED_BYTES, 0);
        let crc = crc32c::crc32c(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out.resize(out.capacity(), 0);
        out
    }

    /// Reads the last block of a file; `None` when it is not a trailer.
    pub fn decode(raw: &[u8]) -> Option<Self> {
        let mut rest = raw.get(..TRAILER_USED_BYTES)?;
        let rest = &mut rest;
        if take::<4>(rest)? != *TRAILER_MAGIC {
            return None;
        }
        if u32::from_le_bytes(take(rest)?) != crc32c::crc32c(rest) || u32::from_le_bytes(take(rest)?) != VERSION {
            return None;
        }
        let seal_bytes = u32::from_le_bytes(take(rest)?);
        let base_offset = Offset::new(u64::from_le_bytes(take(rest)?));
        Some(Self { base_offset, seal_at: u64::from_le_bytes(take(rest)?), seal_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn footer_and_trailer_come_back_and_damage_is_noticed() {
        let mut index = SparseIndex::default();
        index.note(Offset::new(5), 0, TimestampMillis::new(i64::MIN), true);
        index.note(Offset::new(9), 70_000, TimestampMillis::new(12), true);
        let footer = Footer {
            base_offset: Offset::new(5),
            end: SegmentEnd { position: 80_000, entry_crc: 3, ..SegmentEnd::empty(Offset::new(77)) },
            tally: Tally { entries: 4, records: 72, min_timestamp: TimestampMillis::new(-4), hash: 1 << 100 },
            previous_hash: 7,
            compacted: true,
            index,
            producers: Producers::default(),
        };
        let raw = footer.encode();
        assert!(raw.len() <= Footer::len_bytes(&footer.index, &footer.producers));
        assert_eq!(Footer::decode(&raw), Some(footer));
        assert_eq!(Footer::decode(&raw[..raw.len() - 1]), None);
        let trailer = Trailer { base_offset: Offset::new(5), seal_at: 80_000, seal_bytes: 4096 };
        let mut raw = trailer.encode();
        assert_eq!(raw.len() as u64, TRAILER_BYTES);
        assert_eq!(Trailer::decode(&raw), Some(trailer));
        raw[20] ^= 1;
        assert_eq!(Trailer::decode(&raw), None);
    }
}
