//! The fixed 64 bytes in front of every frame.
//!
//! # Format
//! `docs/format.md`, "Frame". Little-endian; the header's own CRC covers bytes 8..64, the body's CRC the body without padding.
//!
//! # Invariants
//! - Entries carry a raft index and are byte-identical on every replica; local frames carry none and stay on their node.
//! - A header that decodes is whole: its CRC was right, its lengths agree with each other.

use crate::types::{Offset, RaftIndex, Term, TimestampMillis};

/// Header length.
pub const HEADER_BYTES: usize = 64;
/// The first four bytes of every frame; zeros there end the written part of a segment.
pub const MAGIC: u32 = u32::from_le_bytes(*b"HwF1");
/// The version of the header's layout.
pub const VERSION: u16 = 1;
/// The largest frame, header and padding included.
pub const FRAME_BYTES_MAX: usize = 8 << 20;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FrameKind {
    /// Entry: a Kafka v2 record batch.
    Batch = 1,
    /// Entry: nothing, or a gap of offsets that are never given out.
    Blank = 2,
    /// Entry: the members of the partition's group.
    Membership = 3,
    /// Entry: where the log starts now.
    StartOffset = 4,
    /// Local: the end of one write to the disk.
    Flush = 16,
    /// Local: a vote.
    Vote = 17,
    /// Local: what follows replaces entries.
    Truncate = 18,
    /// Local: a logical floor.
    Purge = 19,
    /// Local: nothing follows in this segment.
    Seal = 20,
}

impl FrameKind {
    fn from_raw(raw: u16) -> Option<Self> {
        [
            Self::Batch,
            Self::Blank,
            Self::Membership,
            Self::StartOffset,
            Self::Flush,
            Self::Vote,
            Self::Truncate,
            Self::Purge,
            Self::Seal,
        ]
        .into_iter()
        .find(|kind| *kind as u16 == raw)
    }

    /// Whether frames of this kind carry a raft index and are replicated.
    #[must_use]
    pub fn is_entry(self) -> bool {
        matches!(self, Self::Batch | Self::Blank | Self::Membership | Self::StartOffset)
    }
}

/// The decoded header. Fields as in `docs/format.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body holds.
    pub kind: FrameKind,
    /// Header, body and padding, a multiple of 8.
    pub frame_bytes: u32,
    /// The offset of the first record.
    pub base_offset: Offset,
    /// How many offsets the frame covers.
    pub offset_span: u32,
    /// CRC-32C of the body.
    pub body_crc: u32,
    /// The term it was written in.
    pub term: Term,
    /// Its number among the entries; [`RaftIndex::NONE`] for local frames.
    pub raft_index: RaftIndex,
    /// The header CRC of the entry before it; 0 for the first.
    pub previous_crc: u32,
    /// The body without padding.
    pub body_bytes: u32,
    /// The largest timestamp of its records.
    pub max_timestamp: TimestampMillis,
}

/// Offsets, indexes and terms are at most this, as Kafka's are.
pub(crate) const NUMBER_MAX: u64 = i64::MAX.unsigned_abs();

impl FrameHeader {
    /// The header's bytes, and its CRC, to which the next entry links.
    #[must_use]
    pub fn encode(&self) -> ([u8; HEADER_BYTES], u32) {
        let mut raw = [0; HEADER_BYTES];
        raw[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        raw[8..12].copy_from_slice(&self.frame_bytes.to_le_bytes());
        raw[12..14].copy_from_slice(&VERSION.to_le_bytes());
        raw[14..16].copy_from_slice(&(self.kind as u16).to_le_bytes());
        raw[16..24].copy_from_slice(&self.base_offset.value().to_le_bytes());
        raw[24..28].copy_from_slice(&self.offset_span.to_le_bytes());
        raw[28..32].copy_from_slice(&self.body_crc.to_le_bytes());
        raw[32..40].copy_from_slice(&self.term.value().to_le_bytes());
        raw[40..48].copy_from_slice(&self.raft_index.value().to_le_bytes());
        raw[48..52].copy_from_slice(&self.previous_crc.to_le_bytes());
        raw[52..56].copy_from_slice(&self.body_bytes.to_le_bytes());
        raw[56..64].copy_from_slice(&self.max_timestamp.value().to_le_bytes());
        let crc = crc32c::crc32c(&raw[8..]);
        raw[4..8].copy_from_slice(&crc.to_le_bytes());
        (raw, crc)
    }

    /// Decodes a header and gives its CRC too.
    ///
    /// # Errors
    /// What is wrong with the bytes, in words.
    pub fn decode(raw: &[u8]) -> Result<(Self, u32), &'static str> {
        let Some(raw) = raw.first_chunk::<HEADER_BYTES>() else { return Err("the header is cut off") };
        let u16_at = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u32_at(0) != MAGIC {
            return Err("no frame starts here");
        }
        let crc = u32_at(4);
        if crc32c::crc32c(&raw[8..]) != crc {
            return Err("the header's checksum does not match");
        }
        if u16_at(12) != VERSION {
            return Err("the frame's version is unknown");
        }
        let Some(kind) = FrameKind::from_raw(u16_at(14)) else { return Err("the frame's kind is unknown") };
        let header = Self {
            kind,
            frame_bytes: u32_at(8),
            base_offset: Offset::new(u64_at(16)),
            offset_span: u32_at(24),
            body_crc: u32_at(28),
            term: Term::new(u64_at(32)),
            raft_index: RaftIndex::new(u64_at(40)),
            previous_crc: u32_at(48),
            body_bytes: u32_at(52),
            max_timestamp: TimestampMillis::new(u64_at(56).cast_signed()),
        };
        let frame_bytes = header.frame_bytes as usize;
        // So far below what a u64 holds that nothing computed from them overflows.
        if [header.base_offset.value(), header.raft_index.value(), header.term.value()].iter().any(|number| *number > NUMBER_MAX)
        {
            return Err("the frame's numbers are out of range");
        }
        let lengths_agree = frame_bytes.is_multiple_of(8)
            && frame_bytes <= FRAME_BYTES_MAX
            && frame_bytes >= HEADER_BYTES + header.body_bytes as usize;
        if lengths_agree { Ok((header, crc)) } else { Err("the frame's lengths contradict each other") }
    }

    /// The offset after the last one the frame covers.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.base_offset.advance(u64::from(self.offset_span))
    }
}

/// Header, body and padding to 8 of a frame whose body has `body_bytes`.
#[must_use]
pub fn frame_bytes(body_bytes: usize) -> usize {
    (HEADER_BYTES + body_bytes).next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Batch,
            frame_bytes: 72,
            base_offset: Offset::new(0x0102_0304_0506_0708),
            offset_span: 3,
            body_crc: 0xdead_beef,
            term: Term::new(7),
            raft_index: RaftIndex::new(9),
            previous_crc: 0x1111_2222,
            body_bytes: 5,
            max_timestamp: TimestampMillis::new(-2),
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let (raw, crc) = header().encode();
        assert_eq!(&raw[0..4], b"HwF1");
        assert_eq!(raw[4..8], crc.to_le_bytes());
        assert_eq!(raw[16..24], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(raw[56..64], (-2_i64).to_le_bytes());
        assert_eq!(FrameHeader::decode(&raw), Ok((header(), crc)));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let (raw, _) = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut damaged = raw;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&damaged).is_err(), "bit {bit}");
        }
    }
}
