//! Keeps the last record of every key: what compaction does to the frames of sealed segments.
//!
//! It reads and writes no file. Whoever compacts a partition makes two passes over its sealed segments, oldest first:
//! [`Cleaner::observe`] learns which record of each key is the last one, [`Cleaner::clean`] lays out each frame without the records
//! that a later one replaced. The caller writes what comes out into new segment files, with local frames of its own.
//!
//! # Which records go
//! - A record goes when a later one of its key was observed. Records without a key stay.
//! - A tombstone, which no later record of its key replaced, goes once it is older than the grace time: until then whoever reads
//!   slowly still hears of the deletion.
//! - Nothing goes from frames that reach over the floor, nor from [`Cleaner::covered_until`] on, where the observation ended.
//!
//! # Invariants
//! - Offsets, spans, raft indexes, terms, chain fields and max timestamps of entries stay. A batch without records left becomes a
//!   blank entry over the same offsets. Frames that don't change are copied byte for byte.
//! - `previous_crc` stays what it was, but the header it speaks of may have been rebuilt: inside a compacted segment, and into the
//!   entry behind it, the chain can't be verified.
//! - Cleaning twice with the same arguments is cleaning once.
//!
//! # Order
//! A tombstone may go only when no older value of its key is left in front of it. So that this holds at every moment:
//! - the observation starts at the log's start, or at the `covered_until` of a pass that was carried out completely;
//! - every frame of the log from its start on goes through `clean`, oldest segment first, and a segment's new file takes the old
//!   one's place before the next one's does. Stopping after any segment is fine, leaving one out is not.

use std::ops::AddAssign;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_128;

use crate::error::Result;
use crate::frame::batch::{Batch, Record, Rewritten, rewrite};
use crate::frame::header::frame_bytes;
use crate::frame::{Frame, FrameHeader, FrameKind, checksum};
use crate::types::{Offset, TimestampMillis, index, len_u32};

#[cfg(test)]
mod tests;

/// What one slot of a [`KeyMap`] takes.
const SLOT_BYTES: usize = 24;

/// The last offset of each key, within a fixed budget of memory: 30 bytes a key, however long the keys are.
///
/// Open addressing, at most four slots of five in use. Keys are known by their 128-bit hash (XXH3), so two keys with one hash are
/// taken for the same, as Kafka does with MD5: the older one's record is lost then. Among n keys that happens by chance with a
/// probability of n² / 2^129, for ten thousand million keys 10^-19. Who may write to a stream could bring it about on purpose, and
/// gains what a tombstone would have given.
pub(crate) struct KeyMap {
    /// Both halves of the hash, and the offset plus one: 0 is a free slot, and zeroed memory costs nothing until it is used.
    slots: Vec<[u64; 3]>,
    keys: usize,
    keys_max: usize,
}

impl KeyMap {
    pub fn new(budget_bytes: usize) -> Self {
        let slots = budget_bytes / SLOT_BYTES;
        Self { slots: vec![[0; 3]; slots], keys: 0, keys_max: slots / 5 * 4 }
    }

    /// Where the key is, or the free slot where it would be. There must be a slot.
    fn slot_of(&self, [high, low]: [u64; 2]) -> usize {
        let slots = self.slots.len();
        let scaled = (u128::from(high) * slots as u128) >> 64;
        let mut at = index(u64::try_from(scaled).expect("less than the number of slots"));
        while self.slots[at][2] != 0 && self.slots[at][..2] != [high, low] {
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
        at
    }

    /// Notes a later record of the key; `false` when there is no room for one more key.
    #[must_use]
    pub fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        if self.keys_max == 0 {
            return false;
        }
        let hash = halves(key);
        let at = self.slot_of(hash);
        if self.slots[at][2] == 0 {
            if self.keys == self.keys_max {
                return false;
            }
            self.keys += 1;
        }
        self.slots[at] = [hash[0], hash[1], offset.value() + 1];
        true
    }

    /// The offset that was last put.
    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        if self.keys == 0 {
            return None;
        }
        let raw = self.slots[self.slot_of(halves(key))][2];
        raw.checked_sub(1).map(Offset::new)
    }
}

fn halves(key: &[u8]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, low @ ..] = xxh3_128(key).to_be_bytes();
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(low)]
}

/// What [`Cleaner::clean`] took out. Add them up over frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CleanStats {
    /// Records with a later one of their key.
    pub superseded: u64,
    /// Tombstones past their grace time.
    pub tombstones: u64,
    /// Bytes of the frames that went in, local ones included.
    pub bytes_before: u64,
    /// Bytes that came out.
    pub bytes_after: u64,
}

impl AddAssign for CleanStats {
    fn add_assign(&mut self, other: Self) {
        self.superseded += other.superseded;
        self.tombstones += other.tombstones;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Superseded,
    Expired,
}

/// One compaction of one partition. See the module docs for who calls what in which order.
pub(crate) struct Cleaner {
    last: KeyMap,
    floor: Offset,
    covered_until: Offset,
    stopped: bool,
    /// Tombstones from before this time go.
    tombstones_until: TimestampMillis,
}

impl Cleaner {
    /// `budget_bytes` is taken at once, for the map of keys. Nothing at or above `floor` is touched: the caller says the lowest
    /// offset that a view's checkpoint, a follower or the active segment still needs as it is.
    pub fn new(budget_bytes: usize, floor: Offset, now: TimestampMillis, grace: Duration) -> Self {
        let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        Self {
            last: KeyMap::new(budget_bytes),
            floor,
            covered_until: Offset::ZERO,
            stopped: false,
            tombstones_until: TimestampMillis::new(now.value().saturating_sub(grace_ms)),
        }
    }

    /// First pass: learns the keys of the next frame. `false`: no later frame counts any more, because this one reaches over the
    /// floor or the budget is used up; clean with what there is.
    ///
    /// # Errors
    /// [`crate::Error::InvalidBatch`] when a batch or its records can't be read. The observation ends in front of it, and what is
    /// below may be cleaned: behind it the last record of a key can't be told.
    pub fn observe(&mut self, frame: &Frame) -> Result<bool> {
        if self.stopped {
            return Ok(false);
        }
        // Only a frame that was learnt whole lets the next one count.
        self.stopped = true;
        if frame.end_offset() > self.floor {
            return Ok(false);
        }
        if frame.header.kind == FrameKind::Batch {
            let batch = Batch::open(&frame.body)?;
            for record in batch.records() {
                let record = record?;
                if let Some(key) = record.key
                    && !self.last.put(key, record.offset)
                {
                    self.covered_until = record.offset;
                    return Ok(false);
                }
            }
        }
        if frame.header.kind.is_entry() {
            self.covered_until = frame.end_offset();
        }
        self.stopped = false;
        Ok(true)
    }

    /// No record from here on goes, exclusive end of what was observed: where the next pass may start to observe, once this one
    /// was carried out completely. 0 when nothing was observed.
    pub fn covered_until(&self) -> Offset {
        self.covered_until
    }

    /// Second pass: appends what is left of a frame to `out`: header, body and padding. Local frames leave nothing.
    ///
    /// # Errors
    /// [`crate::Error::InvalidBatch`] when a batch or its records can't be read, [`crate::Error::BatchTooLarge`] when what is left
    /// of a batch can't be packed into a frame, which takes one that its producer packed far better than zstd does at level 19.
    /// `out` is as it was. The segment and all behind it must stay as they are.
    pub fn clean(&self, frame: &Frame, out: &mut Vec<u8>) -> Result<CleanStats> {
        let header = &frame.header;
        let mut stats = CleanStats { bytes_before: u64::from(header.frame_bytes), ..CleanStats::default() };
        if !header.kind.is_entry() {
            return Ok(stats);
        }
        let before = out.len();
        let rewritten = if header.kind == FrameKind::Batch && header.base_offset < self.covered_until {
            rewrite(&frame.body, |record| {
                let fate = self.fate(record);
                stats.superseded += u64::from(fate == Fate::Superseded);
                stats.tombstones += u64::from(fate == Fate::Expired);
                fate == Fate::Stays
            })?
        } else {
            Rewritten::Unchanged
        };
        match rewritten {
            Rewritten::Unchanged => put_frame(out, header, &frame.body),
            Rewritten::Empty => put_frame(out, &with_body(header, FrameKind::Blank, &[]), &[]),
            Rewritten::Batch(body) => put_frame(out, &with_body(header, FrameKind::Batch, &body), &body),
        }
        stats.bytes_after = (out.len() - before) as u64;
        Ok(stats)
    }

    fn fate(&self, record: &Record<'_>) -> Fate {
        let Some(key) = record.key.filter(|_| record.offset < self.covered_until) else { return Fate::Stays };
        // A key that was not observed has its only record below where the observation started.
        let is_last = self.last.get(key).is_none_or(|last| last <= record.offset);
        match record.value {
            _ if !is_last => Fate::Superseded,
            None if record.timestamp < self.tombstones_until => Fate::Expired,
            _ => Fate::Stays,
        }
    }
}

/// The header of the same entry around another body.
fn with_body(header: &FrameHeader, kind: FrameKind, body: &[u8]) -> FrameHeader {
    FrameHeader {
        kind,
        frame_bytes: len_u32(frame_bytes(body.len())),
        body_crc: checksum(body),
        body_bytes: len_u32(body.len()),
        ..*header
    }
}

fn put_frame(out: &mut Vec<u8>, header: &FrameHeader, body: &[u8]) {
    let end = out.len() + header.frame_bytes as usize;
    out.reserve(header.frame_bytes as usize);
    out.extend_from_slice(&header.encode().0);
    out.extend_from_slice(body);
    out.resize(end, 0);
}
