//! Rewrites the sealed segments of a partition so that the last record of each key is left.
//!
//! Run by the [`crate::keeper`]. [`crate::segment::compact`] says which records go; here the files are read, written and put in
//! their places.
//!
//! # Invariants
//! - Only segments with another one behind them, durable as a whole, below every view's checkpoint; oldest first.
//! - A segment's new file takes the old one's place as one step, and before the next one's does.
//! - A pass begins to observe where the last one that was carried out ended; more keys than memory holds take several passes.
//!
//! # Crash safety
//! A new file is written aside, synced and renamed over the old one: after a crash the segment is the one or the other, whole.
//!
//! # Not done
//! Small segments are not merged: a compacted partition keeps as many files as were sealed.

use std::path::Path;
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

/// How far compaction of a partition is.
#[derive(Default)]
pub(crate) struct Progress {
    /// What lies below was observed by passes that were carried out: the next one begins to observe here. Not kept over a restart,
    /// after which everything is observed again.
    until: Offset,
    /// The last pass had no memory for all keys: the next one goes on from there, however little is new.
    goes_on: bool,
}

impl Shared {
    /// Compacts if the stream asks for it and at least half of what could be compacted is new. Gives what went, if it ran.
    /// `go_on` is asked now and then.
    ///
    /// # Errors
    /// When a segment can't be read or written; it and those behind it stay as they are.
    pub fn compact(&self, now: TimestampMillis, go_on: impl Fn() -> bool) -> Result<Option<CleanStats>> {
        self.compact_within(KEYS_BYTES_MAX, now, go_on)
    }

    fn compact_within(&self, keys_bytes: usize, now: TimestampMillis, go_on: impl Fn() -> bool) -> Result<Option<CleanStats>> {
        let Some(compaction) = self.options().compaction else { return Ok(None) };
        let mut progress = self.compacting.lock().expect("no code panics inside");
        let go_on = || go_on() && !self.is_closing();
        let segments = self.compactable()?;
        let Some(last) = segments.last().and_then(|segment| segment.next_base()) else { return Ok(None) };
        if !go_on() || !(progress.goes_on || is_due(&segments)?) {
            return Ok(None);
        }
        let mut cleaner = Cleaner::new(keys_bytes, last, now, compaction.tombstone_grace);
        let observed = observe(&segments, progress.until, &mut cleaner, &go_on);
        let covered = cleaner.covered_until();
        progress.goes_on = observed.is_ok() && progress.until < covered && covered < last;
        if covered <= progress.until {
            return observed.map(|()| None);
        }
        let mut total = CleanStats::default();
        for segment in segments.iter().filter(|segment| segment.base_offset < covered) {
            match self.rewrite(segment, &cleaner, &go_on)? {
                Some(went) => total += went,
                None => return Ok(Some(total)),
            }
        }
        progress.until = covered;
        // What is in front of damage was cleaned all the same.
        observed.map(|()| Some(total))
    }

    /// Sealed segments that are durable as a whole, that no view needs as they are, and that have another behind them.
    fn compactable(&self) -> Result<Vec<Arc<Segment>>> {
        let flushed = self.flushed.get();
        let floor = self.held_from(Hold::View).unwrap_or(flushed).min(flushed);
        let mut segments = self.segments();
        segments.pop();
        segments.retain(|segment| segment.next_base().is_some_and(|end| end <= floor));
        segments.iter().try_for_each(|segment| segment.facts().map(drop))?;
        Ok(segments)
    }

    /// Writes a segment anew and puts it in its place; `None` when it was told to stop, or the segment was dropped meanwhile.
    fn rewrite(&self, old: &Arc<Segment>, cleaner: &Cleaner, go_on: &dyn Fn() -> bool) -> Result<Option<CleanStats>> {
        let facts = old.facts()?;
        self.check_space(facts.end.position + 2 * STEP_BYTES as u64)?;
        let aside = old.path().with_extension("compacted.tmp");
        let rewritten = self.write_aside(old, &aside, cleaner, go_on);
        let placed = match rewritten {
            Ok(Some((stats, Some(meta)))) => self.put_in_place(old, &aside, meta).map(|placed| Some(stats).filter(|_| placed)),
            Ok(Some((stats, None))) => Ok(Some(stats)),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        // Gone if it was put in its place. What is left over must not fill a disk that is full as it is; the next start removes
        // what can't be removed now.
        let _ = self.io().remove(&aside);
        placed
    }

    /// Writes what is left of a segment to `aside`. Without a meta: nothing went, and it was compacted before.
    fn write_aside(
        &self,
        old: &Arc<Segment>,
        aside: &Path,
        cleaner: &Cleaner,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<(CleanStats, Option<SegmentMeta>)>> {
        let facts = old.facts()?;
        let file = self.io().create(aside, 4096, Fill::Reserved)?;
        let mut new = Rewriting::new(file, facts.end, facts.previous_hash);
        let mut walk = Walk::new(old, old.base_offset, true)?;
        let mut stats = CleanStats::default();
        while let Some(frames) = next_frames(&mut walk, old)? {
            if !go_on() {
                return Ok(None);
            }
            for frame in &frames {
                let went = cleaner.clean(frame, &mut new.pending)?;
                new.note(frame, went.superseded + went.tombstones)?;
                stats += went;
            }
        }
        old.check_complete(walk.next_offset())?;
        if stats.superseded + stats.tombstones == 0 && facts.compacted {
            return Ok(Some((stats, None)));
        }
        // The footer's producers stand for what was sent before the next segment; they stay as they were.
        let producers = old.before_next()?.producers;
        Ok(Some((stats, Some(new.finish(old.base_offset, producers)?))))
    }

    /// Lets the file at `aside` take the place of a segment's; `false` when that segment is not in the log any more.
    fn put_in_place(&self, old: &Arc<Segment>, aside: &Path, meta: SegmentMeta) -> Result<bool> {
        let _changing = self.changing.lock().expect("no code panics inside");
        let is_there = self.segment_at(old.base_offset).is_some_and(|there| Arc::ptr_eq(&there, old));
        if !is_there || self.is_closing() {
            return Ok(false);
        }
        // From here on who opens the path by the old segment is told to look again.
        old.retire();
        let replacement = Segment::at(&self.of, old.base_offset);
        if let Some(next) = old.next_base() {
            replacement.followed_by(next);
        }
        let renamed = self.io().rename(aside, old.path());
        if renamed.is_ok() {
            replacement.set_meta(meta);
            replacement.settled();
        }
        // After an error the file may be the one or the other: it is read again before it is used.
        self.replace_segment(replacement);
        renamed.map(|()| true)
    }
}

/// Learns the keys from `from` on, as far as memory reaches. An error says where it ended before that.
fn observe(segments: &[Arc<Segment>], from: Offset, cleaner: &mut Cleaner, go_on: &dyn Fn() -> bool) -> Result<()> {
    for segment in segments.iter().filter(|segment| segment.next_base().is_some_and(|end| end > from)) {
        let mut walk = Walk::new(segment, from.max(segment.base_offset), true)?;
        while let Some(frames) = next_frames(&mut walk, segment)? {
            for frame in &frames {
                if !cleaner.observe(frame)? || !go_on() {
                    return Ok(());
                }
            }
        }
        segment.check_complete(walk.next_offset())?;
    }
    Ok(())
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
    let from = walk.next_offset().unwrap_or(walk.start());
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
        let meta = SegmentMeta { previous_hash, ..SegmentMeta::empty(SegmentEnd { position: 0, ..end }.without_timestamps()) };
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::frame::batch::{Batch, BatchBuilder, Compression, NewRecord};
    use crate::io::sim::SimDisk;
    use crate::log::{Log, LogOptions};
    use crate::partition::{Compaction, Partition, PartitionOptions, Proposal};
    use crate::types::{PartitionRef, StreamId};

    fn last_of_each(partition: &Partition) -> (usize, BTreeMap<Vec<u8>, u64>) {
        let (mut next, mut count, mut last) = (partition.log_start(), 0, BTreeMap::new());
        while next < partition.committed().get() {
            for frame in partition.read(next, 1 << 20).unwrap() {
                next = frame.end_offset();
                if frame.header.kind == FrameKind::Batch {
                    for record in Batch::open(&frame.body).unwrap().records() {
                        let record = record.unwrap();
                        count += 1;
                        last.insert(record.key.unwrap().to_vec(), record.offset.value());
                    }
                }
            }
        }
        (count, last)
    }

    /// More keys than memory holds: each pass goes on where the last one ended, until all is done, and then it rests.
    #[test]
    fn many_keys_take_several_passes() {
        let options =
            PartitionOptions { segment_bytes: 64 << 10, compaction: Some(Compaction::default()), ..PartitionOptions::default() };
        let kept = LogOptions {
            partition: options,
            reserve_bytes: 0,
            keeper_interval: std::time::Duration::MAX,
            ..LogOptions::default()
        };
        let log = Log::open_on(Arc::new(SimDisk::new()), "/sim".as_ref(), kept, None).unwrap();
        let partition = log.open_partition(PartitionRef::new(StreamId::new(20), 0)).unwrap();
        for n in 0..300_u32 {
            let mut builder = BatchBuilder::new();
            for k in 0..3 {
                let key = ((n * 3 + k) % 200).to_be_bytes();
                builder.push(&NewRecord { key: Some(&key), value: Some(&[7; 300]), ..NewRecord::default() });
            }
            let proposal = Proposal::from_records(builder, Compression::None).unwrap();
            partition.try_append(proposal).unwrap().wait().unwrap();
        }
        let (before, last) = last_of_each(&partition);
        assert_eq!((before, last.len()), (900, 200));
        // Room for 40 keys.
        let budget = 50 * 24;
        let mut passes = 0;
        while partition.shared.compact_within(budget, TimestampMillis::new(0), || true).unwrap().is_some() {
            passes += 1;
            assert!(passes < 100, "each pass comes further");
            assert_eq!(last_of_each(&partition).1, last);
        }
        assert!(passes > 10);
        let (left, _) = last_of_each(&partition);
        assert!(left < 300, "{left} records are left");
    }
}
