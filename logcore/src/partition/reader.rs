//! Reading committed frames by offset and by time.
//!
//! Called by doors (replay, tail, SQL over streams) and by the materializers' driver. No lock is held while bytes are read or
//! checked.

use std::sync::Arc;

use bytes::Bytes;

use super::Partition;
use crate::error::{Error, Result};
use crate::frame::batch::Batch;
use crate::frame::{Frame, FrameKind};
use crate::segment::{Segment, read_chunk};
use crate::types::{Offset, TimestampMillis};

/// Read at once while looking for a time.
const TIME_SEARCH_BYTES: usize = 256 << 10;

impl Partition {
    /// Committed entries from the one that covers `from`, in order: at least one if there is one, then more until `max_bytes`,
    /// perhaps fewer. Empty at the committed end. The first batch may start before `from`.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`], [`Error::Corrupt`], disk errors.
    pub fn read(&self, from: Offset, max_bytes: usize) -> Result<Vec<Frame>> {
        let until = self.shared.committed.get();
        if from == until {
            return Ok(Vec::new());
        }
        let out_of_range =
            || Error::OffsetOutOfRange { partition: self.id(), offset: from, log_start: self.log_start(), end_offset: until };
        if from > until {
            return Err(out_of_range());
        }
        let mut next = Some(self.segment_of(from).ok_or_else(out_of_range)?);
        while let Some((segment, number)) = next {
            if let Some(bytes) = self.in_ram(&segment, from)? {
                let frames = read_chunk(&bytes, from, until, max_bytes);
                if !frames.is_empty() {
                    return Ok(frames);
                }
            }
            let read = segment.read(from, until, max_bytes)?;
            if !read.frames.is_empty() {
                return Ok(read.frames);
            }
            next = if read.at_end { self.segment_at(number + 1).map(|segment| (segment, number + 1)) } else { None };
        }
        Ok(Vec::new())
    }

    fn segment_of(&self, offset: Offset) -> Option<(Arc<Segment>, usize)> {
        let segments = self.shared.segments.read().expect("no code panics inside");
        let number = segments.partition_point(|segment| segment.base_offset <= offset).checked_sub(1)?;
        Some((Arc::clone(&segments[number]), number))
    }

    fn segment_at(&self, number: usize) -> Option<Arc<Segment>> {
        self.shared.segments.read().expect("no code panics inside").get(number).cloned()
    }

    fn in_ram(&self, segment: &Segment, from: Offset) -> Result<Option<Bytes>> {
        if self.shared.tail.read().expect("no code panics inside").start().is_none_or(|start| from < start) {
            return Ok(None);
        }
        let at = segment.with_meta(|meta| meta.index.position_of(from))?;
        Ok(self.shared.tail.read().expect("no code panics inside").bytes_from(from, segment.base_offset, at))
    }

    /// The offset of the first committed record whose timestamp is `timestamp` or later; the committed end when there is none.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn offset_at(&self, timestamp: TimestampMillis) -> Result<Offset> {
        let end = self.shared.committed.get();
        let segments: Vec<Arc<Segment>> = self.shared.segments.read().expect("no code panics inside").clone();
        for segment in segments {
            if segment.max_timestamp()? < timestamp {
                continue;
            }
            let mut from = segment.with_meta(|meta| meta.index.offset_before(timestamp))?.unwrap_or(segment.base_offset);
            while from < end {
                let frames = self.read(from, TIME_SEARCH_BYTES)?;
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
