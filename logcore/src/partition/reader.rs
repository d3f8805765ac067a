//! Reading committed frames by offset and by time.
//!
//! Called by doors (replay, tail, SQL over streams), by the materializers' driver, and through [`LogReader`] by whoever goes on
//! reading. No lock is held while bytes are read or checked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Partition, Reads};
use crate::error::{Error, Result};
use crate::frame::batch::Batch;
use crate::frame::{Frame, FrameKind};
use crate::segment::walk::Walk;
use crate::segment::{Segment, read_chunk};
use crate::types::{Offset, TimestampMillis};

/// Read at once while looking for a time.
const TIME_SEARCH_BYTES: usize = 256 << 10;
/// A segment may be replaced under a reader now and then; a reader to whom it happens this often gives up.
const RETIRED_MAX: usize = 100;

impl Reads {
    fn count(&self, in_ram: bool) {
        if in_ram { &self.ram } else { &self.file }.fetch_add(1, Ordering::Relaxed);
    }
}

impl Partition {
    /// Committed entries from the one that covers `from`, in order: at least one if there is one, then more until `max_bytes`,
    /// perhaps fewer. Empty at the committed end. The first batch may start before `from`. Who goes on reading takes
    /// [`Self::reader`].
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`], [`Error::Corrupt`], disk errors.
    pub fn read(&self, from: Offset, max_bytes: usize) -> Result<Vec<Frame>> {
        self.read_with(from, max_bytes, &mut None, false)
    }

    /// A reader that starts at `from` and goes on from where it was, reading ahead where it goes through files.
    #[must_use]
    pub fn reader(self: &Arc<Self>, from: Offset) -> LogReader {
        LogReader { partition: Arc::clone(self), next: from, walk: None }
    }

    fn read_with(&self, from: Offset, max_bytes: usize, walk: &mut Option<Walk>, read_ahead: bool) -> Result<Vec<Frame>> {
        self.look_again(|| {
            let read = self.try_read(from, max_bytes, walk, read_ahead);
            if read.is_err() {
                *walk = None;
            }
            read
        })
    }

    /// Tries again when a segment was replaced or dropped meanwhile.
    fn look_again<T>(&self, mut look: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..RETIRED_MAX {
            match look() {
                Err(Error::Retired { .. }) => self.shared.changed(),
                other => return other,
            }
        }
        look()
    }

    fn try_read(&self, from: Offset, max_bytes: usize, walk: &mut Option<Walk>, read_ahead: bool) -> Result<Vec<Frame>> {
        let until = self.shared.committed.get();
        if from == until {
            return Ok(Vec::new());
        }
        let out_of_range =
            || Error::OffsetOutOfRange { partition: self.id(), offset: from, log_start: self.log_start(), end_offset: until };
        if from > until {
            return Err(out_of_range());
        }
        let mut segment = self.segment_of(from).ok_or_else(out_of_range)?;
        loop {
            if let Some(bytes) = self.in_ram(&segment, from)? {
                let frames = read_chunk(&bytes, from, until, max_bytes);
                if !frames.is_empty() {
                    self.shared.reads.count(true);
                    *walk = None;
                    return Ok(frames);
                }
            }
            // What is not durable is in RAM; a file is read no further than it was written.
            let flushed = self.shared.flushed.get();
            let in_file = until.min(flushed);
            // A walk over what still grows has seen zeros where there will be frames: it is not kept.
            let is_whole = segment.next_base().is_some_and(|end| end <= flushed);
            let mut stepping = match walk.take().filter(|walk| walk.segment().base_offset == segment.base_offset) {
                Some(walk) => walk,
                None => Walk::new(&segment, from, read_ahead && is_whole)?,
            };
            let read = stepping.read(from, in_file, max_bytes)?;
            if !read.frames.is_empty() {
                self.shared.reads.count(false);
                *walk = Some(stepping).filter(|_| is_whole);
                return Ok(read.frames);
            }
            let next = segment.next_base().filter(|_| read.at_end);
            match next.and_then(|next| self.segment_of(next)).filter(|next| next.base_offset > segment.base_offset) {
                Some(next) => segment = next,
                None => return Ok(Vec::new()),
            }
        }
    }

    fn segment_of(&self, offset: Offset) -> Option<Arc<Segment>> {
        let segments = self.shared.segments.read().expect("no code panics inside");
        let number = segments.partition_point(|segment| segment.base_offset <= offset).checked_sub(1)?;
        Some(Arc::clone(&segments[number]))
    }

    fn in_ram(&self, segment: &Segment, from: Offset) -> Result<Option<Bytes>> {
        if self.shared.tail.read().expect("no code panics inside").start().is_none_or(|start| from < start) {
            return Ok(None);
        }
        // What is in RAM of a compacted segment are the old file's bytes: the index speaks of another one.
        let (at, is_compacted) = segment.with_meta(|meta| (meta.index.position_of(from), meta.compacted))?;
        if is_compacted {
            return Ok(None);
        }
        Ok(self.shared.tail.read().expect("no code panics inside").bytes_from(from, segment.base_offset, at))
    }

    /// Where the entry that covers `offset` is looked for: the base offset of its segment, and a position in the file at or
    /// shortly before it. `None` when the log has no such offset.
    ///
    /// # Errors
    /// When the segment's index can't be read.
    pub fn locate(&self, offset: Offset) -> Result<Option<(Offset, u64)>> {
        if offset >= self.shared.committed.get() {
            return Ok(None);
        }
        self.look_again(|| {
            let Some(segment) = self.segment_of(offset) else { return Ok(None) };
            Ok(Some((segment.base_offset, segment.span_of(offset)?.0)))
        })
    }

    /// The offset of the first committed record whose timestamp is `timestamp` or later; the committed end when there is none.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn offset_at(&self, timestamp: TimestampMillis) -> Result<Offset> {
        self.look_again(|| self.search_time(timestamp))
    }

    fn search_time(&self, timestamp: TimestampMillis) -> Result<Offset> {
        let end = self.shared.committed.get();
        for segment in self.shared.segments() {
            if segment.with_meta(|meta| meta.end.max_timestamp)? < timestamp {
                continue;
            }
            let mut from = segment.with_meta(|meta| meta.index.offset_before(timestamp))?.unwrap_or(segment.base_offset);
            while from < end {
                let frames = match self.read(from, TIME_SEARCH_BYTES) {
                    // Dropped meanwhile; what is left is in the segments behind it.
                    Err(Error::OffsetOutOfRange { .. }) => break,
                    read => read?,
                };
                let Some(last) = frames.last() else { break };
                from = last.end_offset();
                for frame in frames.iter().filter(|frame| frame.header.max_timestamp >= timestamp) {
                    if frame.header.kind != FrameKind::Batch {
                        continue;
                    }
                    for record in Batch::open(&frame.body)?.records() {
                        let record = record?;
                        if record.timestamp >= timestamp {
                            return Ok(record.offset);
                        }
                    }
                }
            }
        }
        Ok(end)
    }
}

/// Reads a partition from one offset on, as far as it is committed.
pub struct LogReader {
    partition: Arc<Partition>,
    next: Offset,
    walk: Option<Walk>,
}

impl LogReader {
    /// The offset that is read next.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// The next committed entries: at least one if there is one, then more until `max_bytes`, perhaps fewer. Empty at the
    /// committed end. After a jump the first batch may start before [`Self::next_offset`].
    ///
    /// # Errors
    /// As [`Partition::read`].
    pub fn read(&mut self, max_bytes: usize) -> Result<Vec<Frame>> {
        let frames = self.partition.read_with(self.next, max_bytes, &mut self.walk, true)?;
        if let Some(last) = frames.last() {
            self.next = last.end_offset();
        }
        Ok(frames)
    }
}
