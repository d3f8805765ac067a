//! Rewrites the sealed segments of a partition so that the last record of each key is left.
//!
//! Run by the [`crate::keeper`]. [`crate::segment::compact`] says which records go; here the files are read, written and put in
//! their places.
//!
//! # Invariants
//! - Only segments with another one behind them, durable as a whole, below every view's checkpoint; oldest first.
//! - A segment's new file takes the old one's place as one step, and before the next one's does.
//!
//! # Crash safety
//! A new file is written aside, synced and renamed over the old one: after a crash the segment is the one or the other, whole.
//!
//! # Not done
//! Small segments are not merged: a compacted partition keeps as many files as were sealed.

use std::sync::Arc;

use bytes::Bytes;

use super::{Hold, Shared};
use crate::error::Result;
use crate::frame::{Frame, FrameHeader, FrameKind, HEADER_BYTES};
use crate::io::{DiskFile, Durability, Fill};
use crate::segment::compact::{CleanStats, Cleaner};
use crate::segment::walk::Walk;
use crate::segment::{Producers, Segment, SegmentEnd, SegmentMeta, seal_frame};
use crate::types::{Offset, TimestampMillis};

/// Memory for the keys of one pass: about a million.
const KEYS_BYTES_MAX: usize = 32 << 20;
/// Read and written at once.
const STEP_BYTES: usize = 1 << 20;

impl Shared {
    /// Compacts if the stream asks for it and at least half of what could be compacted is new. Gives what went, if it ran.
    /// `go_on` is asked between segments.
    ///
    /// # Errors
    /// When a segment can't be read or written; it and those behind it stay as they are.
    pub fn compact(&self, now: TimestampMillis, go_on: impl Fn() -> bool) -> Result<Option<CleanStats>> {
        let Some(compaction) = self.options().compaction else { return Ok(None) };
        let segments = self.compactable()?;
        if !is_due(&segments)? {
            return Ok(None);
        }
        let last = segments.last().and_then(|segment| segment.next_base()).unwrap_or(Offset::ZERO);
        let floor = self.held_from(Hold::View).unwrap_or(last).min(last);
        let mut cleaner = Cleaner::new(KEYS_BYTES_MAX, floor, now, compaction.tombstone_grace);
        'observe: for segment in &segments {
            let mut walk = Walk::new(segment, segment.base_offset, true)?;
            while let Some(frames) = next_frames(&mut walk, segment)? {
                for frame in &frames {
                    if !cleaner.observe(frame)? || !go_on() {
                        break 'observe;
                    }
                }
            }
        }
        let mut total = CleanStats::default();
        for segment in segments.iter().filter(|segment| segment.base_offset < cleaner.covered_until()) {
            if !go_on() {
                break;
            }
            total += self.rewrite(segment, &cleaner)?;
        }
        Ok(Some(total))
    }

    /// Sealed segments that are durable as a whole and have another behind them that takes frames or is sealed too.
    fn compactable(&self) -> Result<Vec<Arc<Segment>>> {
        let flushed = self.flushed.get();
        let mut segments = self.segments();
        segments.pop();
        segments.retain(|segment| segment.next_base().is_some_and(|end| end <= flushed));
        segments.iter().try_for_each(|segment| segment.facts().map(drop))?;
        Ok(segments)
    }

    /// Writes a segment anew and puts it in its place.
    fn rewrite(&self, old: &Arc<Segment>, cleaner: &Cleaner) -> Result<CleanStats> {
        let facts = old.facts()?;
        self.check_space(facts.end.position + 2 * STEP_BYTES as u64)?;
        let aside = old.path().with_extension("compacted.tmp");
        let file = self.io().create(&aside, 4096, Fill::Reserved)?;
        let mut new = Rewriting::new(file, facts.end, facts.previous_hash);
        let mut walk = Walk::new(old, old.base_offset, true)?;
        let mut stats = CleanStats::default();
        while let Some(frames) = next_frames(&mut walk, old)? {
            for frame in &frames {
                let went = cleaner.clean(frame, &mut new.pending)?;
                new.note(frame, went.superseded + went.tombstones)?;
                stats += went;
            }
        }
        if stats.superseded + stats.tombstones == 0 && facts.compacted {
            self.io().remove(&aside)?;
            return Ok(stats);
        }
        // The footer's producers stand for what was sent before the next segment; they stay as they were.
        let producers = old.read_footer(old.file()?.as_ref())?.map(|footer| footer.producers).unwrap_or_default();
        let meta = new.finish(old.base_offset, producers)?;
        let replacement = Segment::at(&self.of, old.base_offset);
        replacement.set_meta(meta);
        if let Some(next) = old.next_base() {
            replacement.followed_by(next);
        }
        // From here on who opens the path by the old segment is told to look again.
        old.retire();
        self.io().rename(&aside, old.path())?;
        self.replace_segment(replacement);
        Ok(stats)
    }
}

/// Half of the bytes at least are in segments that were never compacted, and there is one.
fn is_due(segments: &[Arc<Segment>]) -> Result<bool> {
    let (mut dirty, mut total) = (0, 0);
    for segment in segments {
        let facts = segment.facts()?;
        total += facts.end.position;
        dirty += if facts.compacted { 0 } else { facts.end.position };
    }
    Ok(dirty > 0 && dirty * 2 >= total)
}

/// The next entries of a segment; `None` at its end.
fn next_frames(walk: &mut Walk, segment: &Segment) -> Result<Option<Vec<Frame>>> {
    let end = segment.next_base().unwrap_or(segment.base_offset);
    let from = walk.next_offset().unwrap_or(segment.base_offset);
    let read = walk.read(from, end, STEP_BYTES)?;
    Ok(Some(read.frames).filter(|frames| !frames.is_empty()))
}

/// A segment file that is being written.
struct Rewriting {
    file: Arc<dyn DiskFile>,
    /// Whole frames that are not written yet, and how many of their bytes were noted.
    pending: Vec<u8>,
    noted: usize,
    written: u64,
    meta: SegmentMeta,
    /// What the old segment's end says of its last entry and its times.
    end: SegmentEnd,
}

impl Rewriting {
    fn new(file: Arc<dyn DiskFile>, end: SegmentEnd, previous_hash: u128) -> Self {
        let meta = SegmentMeta { previous_hash, ..SegmentMeta::empty(SegmentEnd { position: 0, ..end }) };
        let (pending, noted, written) = (Vec::with_capacity(2 * STEP_BYTES), 0, 0);
        Self { file, pending, noted, written, meta, end }
    }

    /// Takes the frame that was just laid into the index and the tally.
    fn note(&mut self, frame: &Frame, records_gone: u64) -> Result<()> {
        let position = self.written + self.noted as u64;
        if let Ok((header, _)) = FrameHeader::decode(&self.pending[self.noted..]) {
            let before = self.meta.end.max_timestamp;
            self.meta.index.note(header.base_offset, position, before, false);
            let raw = self.pending[self.noted..].first_chunk::<HEADER_BYTES>().expect("it was just decoded");
            let span = u64::from(frame.header.offset_span);
            let records = if header.kind == FrameKind::Batch { span.saturating_sub(records_gone) } else { 0 };
            self.meta.tally.note(&header, raw, records);
            self.meta.end.max_timestamp = before.max(header.max_timestamp);
        }
        self.noted = self.pending.len();
        if self.pending.len() >= STEP_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let piece = Bytes::from(std::mem::replace(&mut self.pending, Vec::with_capacity(2 * STEP_BYTES)));
        self.noted = 0;
        let at = self.written;
        self.written += piece.len() as u64;
        self.file.write(at, &[piece], Durability::None)
    }

    /// Adds seal and trailer and makes the file durable.
    fn finish(mut self, base_offset: Offset, producers: Producers) -> Result<SegmentMeta> {
        self.write()?;
        let end = SegmentEnd { position: self.written, ..self.end };
        let meta = SegmentMeta { end, sealed: true, compacted: true, ..self.meta };
        let (seal, trailer) = seal_frame(&meta, base_offset, producers, end.term);
        let trailer_at = self.written + seal.len() as u64;
        self.file.write(self.written, &[seal.into()], Durability::None)?;
        self.file.write(trailer_at, &[trailer.into()], Durability::None)?;
        self.file.sync()?;
        Ok(meta)
    }
}
