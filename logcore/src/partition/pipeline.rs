//! Writes on their way to the disk: several under way at once, made known in order.
//!
//! The owner pushes what `segment::active` gathered, submits what may go, and learns here how far the log is durable.
//!
//! # Invariants
//! - Writes are submitted in log order; durability moves over the finished ones at the front only.
//! - A segment takes its first byte when everything before it is durable: a hole can only be in the newest segment.
//! - A trailer is written when its whole segment is durable, so a footer that can be found is true.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::segment::active::Gathered;
use crate::segment::{Segment, SegmentEnd};
use crate::types::Offset;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    UnderWay,
    Done,
}

struct Pending {
    id: u64,
    segment: Arc<Segment>,
    at: u64,
    buffers: Vec<Bytes>,
    end: SegmentEnd,
    /// The last write of its segment, with the trailer to be written after it.
    trailer: Option<Gathered>,
    state: State,
}

/// A write that may be handed to the disk now.
pub(super) struct Submission {
    pub id: u64,
    pub segment: Arc<Segment>,
    pub at: u64,
    pub buffers: Vec<Bytes>,
}

/// How far the log became durable by a completion.
pub(super) struct Durable {
    pub segment: Arc<Segment>,
    pub end: SegmentEnd,
    /// The segment is whole and its trailer may be written.
    pub trailer: Option<Gathered>,
}

/// See the module docs.
#[derive(Default)]
pub(super) struct Pipeline {
    writes: VecDeque<Pending>,
    trailers: Vec<(u64, Arc<Segment>)>,
    under_way: usize,
    next_id: u64,
    /// The segment whose file is still being put in its place.
    unplaced: Option<Offset>,
}

impl Pipeline {
    /// Adds a write behind the others; the last one of a segment brings its trailer.
    pub fn push(&mut self, segment: &Arc<Segment>, gathered: Gathered, trailer: Option<Gathered>) {
        let Gathered { at, buffers, end, .. } = gathered;
        let id = self.take_id();
        self.writes.push_back(Pending { id, segment: Arc::clone(segment), at, buffers, end, trailer, state: State::Queued });
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Says that the file of the segment at `base_offset` is not there yet, or that it is now.
    pub fn set_unplaced(&mut self, base_offset: Option<Offset>) {
        self.unplaced = base_offset;
    }

    /// Whether a segment's file is awaited.
    pub fn is_placing(&self) -> bool {
        self.unplaced.is_some()
    }

    /// Writes under way to the log's end, trailers aside.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether something waits to be submitted.
    pub fn has_queued(&self) -> bool {
        self.writes.back().is_some_and(|last| last.state == State::Queued)
    }

    /// Whether nothing is queued or under way.
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.trailers.is_empty()
    }

    /// The next write that may go, if fewer than `max` are under way.
    pub fn submit(&mut self, max: usize) -> Option<Submission> {
        if self.under_way >= max {
            return None;
        }
        let at = self.writes.iter().position(|write| write.state == State::Queued)?;
        let segment = self.writes[at].segment.base_offset;
        let waits =
            self.unplaced == Some(segment) || self.writes.iter().take(at).any(|write| write.segment.base_offset != segment);
        if waits {
            return None;
        }
        let write = &mut self.writes[at];
        write.state = State::UnderWay;
        self.under_way += 1;
        let buffers = std::mem::take(&mut write.buffers);
        Some(Submission { id: write.id, segment: Arc::clone(&write.segment), at: write.at, buffers })
    }

    /// Takes a trailer on its way.
    pub fn submit_trailer(&mut self, segment: &Arc<Segment>, trailer: Gathered) -> Submission {
        let id = self.take_id();
        self.trailers.push((id, Arc::clone(segment)));
        Submission { id, segment: Arc::clone(segment), at: trailer.at, buffers: trailer.buffers }
    }

    /// Notes that a write succeeded, and says how far the log became durable by it.
    pub fn done(&mut self, id: u64) -> Vec<Durable> {
        if let Some(at) = self.trailers.iter().position(|(trailer, _)| *trailer == id) {
            let (_, segment) = self.trailers.swap_remove(at);
            segment.settled();
            return Vec::new();
        }
        if let Some(write) = self.writes.iter_mut().find(|write| write.id == id) {
            write.state = State::Done;
            self.under_way -= 1;
        }
        let mut durable: Vec<Durable> = Vec::new();
        while self.writes.front().is_some_and(|write| write.state == State::Done) {
            let Some(Pending { segment, end, trailer, .. }) = self.writes.pop_front() else { break };
            durable.push(Durable { segment, end, trailer });
        }
        durable
    }

    /// Forgets everything after an error; completions still to come are ignored.
    pub fn abandon(&mut self) {
        self.writes.clear();
        self.trailers.clear();
        self.under_way = 0;
    }
}
