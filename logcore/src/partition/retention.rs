//! What may be dropped from the old end of a partition, and dropping it.
//!
//! Run by the [`crate::keeper`] about once a second, and at once when a ring grew by a segment.
//!
//! # Invariants
//! - Whole sealed segments only, oldest first, and never the newest; nothing that is not durable. The segment behind them holds
//!   something durable: it tells how far offsets, indexes and terms were given out.
//! - A view's checkpoint holds back what retention would drop, up to the stream's bound; a ring waits for nobody.
//!
//! # Crash safety
//! Files go oldest first: a crash in between leaves a log that starts earlier, never one with a hole.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use super::{Hold, Retention, Shared};
use crate::error::{Error, Result};
use crate::segment::Segment;
use crate::types::{Offset, TimestampMillis};

/// What retention looks at in a segment.
struct Kept {
    /// The offset behind its last record.
    end: Offset,
    bytes: u64,
    segment: Arc<Segment>,
}

impl Shared {
    /// Drops what retention lets go; gives the number of segments that went.
    ///
    /// # Errors
    /// When a footer can't be read or a file can't be removed; the next call goes on.
    pub fn retain(&self, now: TimestampMillis) -> Result<usize> {
        let options = self.options();
        if options.retention == Retention::default() {
            return Ok(0);
        }
        let sealed = self.sealed()?;
        let wanted = self.droppable(&options.retention, &sealed, now)?;
        let may_go = if options.retention.ring { wanted } else { self.not_held(&sealed[..wanted], options.view_hold_bytes_max) };
        for kept in &sealed[..may_go] {
            self.drop_segment(kept.segment.base_offset)?;
        }
        Ok(may_go)
    }

    /// The sealed segments that are durable as a whole, with something behind them, oldest first.
    fn sealed(&self) -> Result<Vec<Kept>> {
        let flushed = self.flushed.get();
        let mut sealed = Vec::new();
        for segment in self.segments() {
            let Some(end) = segment.next_base().filter(|end| *end < flushed) else { break };
            let bytes = segment.facts()?.end.position;
            sealed.push(Kept { end, bytes, segment });
        }
        Ok(sealed)
    }

    /// How many of them the bounds let go.
    fn droppable(&self, retention: &Retention, sealed: &[Kept], now: TimestampMillis) -> Result<usize> {
        let newest_bytes = self.segments().last().and_then(|newest| newest.known_bytes()).unwrap_or(0);
        let mut bytes = sealed.iter().map(|kept| kept.bytes).sum::<u64>() + newest_bytes;
        let committed = self.committed.get();
        let consumed = if retention.consumed { self.held_from(Hold::Cursor) } else { None };
        for (at, kept) in sealed.iter().enumerate() {
            let left = bytes - kept.bytes;
            // A ring is never larger than it was declared; otherwise at least that much stays.
            let by_bytes = retention.bytes.is_some_and(|max| if retention.ring { bytes > max } else { left >= max });
            let by_records = retention.records.is_some_and(|max| kept.end.records_until(committed) >= max);
            let by_age = match retention.age {
                Some(age) => kept.segment.facts()?.end.max_timestamp < before(now, age),
                None => false,
            };
            let by_cursors = consumed.is_some_and(|passed| kept.end <= passed);
            if !(by_bytes || by_records || by_age || by_cursors) {
                return Ok(at);
            }
            bytes = left;
        }
        Ok(sealed.len())
    }

    /// How many of the droppable segments no view still needs, or are beyond what views may hold back.
    fn not_held(&self, droppable: &[Kept], hold_bytes_max: u64) -> usize {
        let Some(needed_from) = self.held_from(Hold::View) else { return droppable.len() };
        let free = droppable.iter().take_while(|kept| kept.end <= needed_from).count();
        let mut held: u64 = droppable[free..].iter().map(|kept| kept.bytes).sum();
        let beyond = droppable[free..].iter().take_while(|kept| {
            let over = held > hold_bytes_max;
            held = held.saturating_sub(kept.bytes);
            over
        });
        let dropped = beyond.count();
        if dropped > 0 {
            tracing::warn!(
                partition = %self.id, needed_from = %needed_from, segments = dropped,
                "a view lags behind retention by more than it may hold back: records it has not applied are dropped"
            );
        }
        free + dropped
    }

    /// Takes a segment out of service and its files away. One that can't be removed stays in the list: a log must not have a hole
    /// at its next start because later segments could be removed.
    fn drop_segment(&self, base_offset: Offset) -> Result<()> {
        let _changing = self.changing.lock().expect("no code panics inside");
        let Some(segment) = self.segment_at(base_offset).filter(|_| !self.is_closing()) else { return Ok(()) };
        // While the next segment has no footer that lasts, nobody else can tell which producers were known in front of it.
        let next = segment.next_base().and_then(|next| self.segment_at(next));
        if next.is_none_or(|next| next.next_base().is_none_or(|end| end >= self.flushed.get())) {
            segment.save_next_start()?;
        }
        segment.retire();
        let removed = self.io().remove(segment.path());
        if removed.is_ok() || self.is_gone(&segment) {
            self.remove_segment(base_offset);
        } else {
            self.replace_segment(segment.again());
        }
        // What may lie beside it; the next start removes what can't be removed now.
        for beside in [segment.index_path(), segment.start_path()] {
            let _ = self.io().remove(&beside);
        }
        removed
    }

    /// Whether a segment's file went although removing it failed: only that this is durable could then not be had.
    fn is_gone(&self, segment: &Segment) -> bool {
        let opened = self.io().open(segment.path());
        matches!(opened, Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound)
    }
}

fn before(now: TimestampMillis, age: Duration) -> TimestampMillis {
    TimestampMillis::new(now.value().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
}
