//! The segment that is being appended to: lays frames into RAM chunks and gathers them into writes.
//!
//! Owned by one [`crate::partition::owner`] thread. A payload is copied once, into the chunk; the write to the disk takes the
//! same bytes.
//!
//! # Invariants
//! - Every write ends with a flush frame that fills it up to the disk's block, and so does every chunk: acknowledged bytes are
//!   never rewritten, and each buffer of a write could go through O_DIRECT.
//! - A frame lies in one chunk as a whole.
//! - Entries are chained: index n links to the header CRC of n-1.

use std::ops::Range;
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use super::recovery::{FLUSH_BODY_BYTES, FlushBody};
use super::{Segment, SegmentEnd};
use crate::error::{Error, Result};
use crate::frame::header::{HEADER_BYTES, frame_bytes};
use crate::frame::{FrameHeader, FrameKind};
use crate::ram::arena::Arena;
use crate::ram::tail::{Tail, TailChunk};
use crate::sys::append_buffer::Appender;
use crate::types::{RaftIndex, Term, TimestampMillis, len_u32};

/// The disk's block: what one write is filled up to.
const BLOCK_BYTES: u64 = 4096;
/// Room that is always left behind the entries: one flush frame and the seal.
const RESERVE_BYTES: usize = 3 * 4096;
static ZEROS: [u8; 2 * 4096] = [0; 2 * 4096];

/// What an entry's header says besides its place.
pub(crate) struct NewEntry<'a> {
    pub kind: FrameKind,
    pub offset_span: u32,
    pub max_timestamp: TimestampMillis,
    pub body: &'a [u8],
}

struct OpenChunk {
    appender: Appender,
    shared: TailChunk,
}

/// See the module docs.
pub(crate) struct Active {
    pub segment: Arc<Segment>,
    capacity: u64,
    arena: Arc<Arena>,
    tail: Arc<RwLock<Tail>>,
    chunk: Option<OpenChunk>,
    /// Bytes not yet handed to the disk: pieces of chunks, in file order, the first at `unsubmitted_at`.
    unsubmitted: Vec<(TailChunk, Range<usize>)>,
    unsubmitted_at: u64,
    end: SegmentEnd,
    term: Term,
    /// The highest index known durable.
    pub durable: RaftIndex,
}

/// What one write to the disk carries.
pub(crate) struct Gathered {
    pub at: u64,
    pub buffers: Vec<Bytes>,
    /// What the write makes durable.
    pub end: SegmentEnd,
}

impl Active {
    pub fn new(
        segment: Arc<Segment>,
        capacity: u64,
        arena: Arc<Arena>,
        tail: Arc<RwLock<Tail>>,
        end: SegmentEnd,
        term: Term,
    ) -> Self {
        let (unsubmitted_at, durable) = (end.position, end.raft_index);
        Self { segment, capacity, arena, tail, chunk: None, unsubmitted: Vec::new(), unsubmitted_at, end, term, durable }
    }

    pub fn end(&self) -> SegmentEnd {
        self.end
    }

    pub fn term(&self) -> Term {
        self.term
    }

    /// Whether a frame with a body of `body_bytes` still has room in this segment.
    pub fn fits(&self, body_bytes: usize) -> bool {
        self.end.position + (frame_bytes(body_bytes) + RESERVE_BYTES) as u64 <= self.capacity
    }

    /// How much of the segment is used, in percent.
    pub fn used_percent(&self) -> u64 {
        self.end.position * 100 / self.capacity
    }

    /// Lays an entry behind the others. The caller asked [`Self::fits`] first.
    pub fn append(&mut self, entry: &NewEntry<'_>) -> Result<()> {
        let bytes = frame_bytes(entry.body.len());
        self.make_room(bytes)?;
        let header = FrameHeader {
            kind: entry.kind,
            frame_bytes: len_u32(bytes),
            base_offset: self.end.offset,
            offset_span: entry.offset_span,
            body_crc: crc32c::crc32c(entry.body),
            term: self.term,
            raft_index: self.end.raft_index.next(),
            previous_crc: self.end.entry_crc,
            body_bytes: len_u32(entry.body.len()),
            max_timestamp: entry.max_timestamp,
        };
        let (raw, crc) = header.encode();
        let position = self.end.position;
        self.lay(&raw, entry.body, bytes);
        self.segment.update_meta(|meta| {
            meta.index.note(header.base_offset, position, meta.end.max_timestamp, false);
        });
        self.end.offset = header.end_offset();
        self.end.raft_index = header.raft_index;
        self.end.entry_crc = crc;
        self.end.term = self.term;
        if entry.offset_span > 0 {
            self.end.max_timestamp = self.end.max_timestamp.max(entry.max_timestamp);
        }
        let end = self.end;
        self.segment.update_meta(|meta| meta.end = end);
        Ok(())
    }

    /// Makes sure that a frame and the flush frame behind it fit into the open chunk.
    fn make_room(&mut self, bytes: usize) -> Result<()> {
        let needed = bytes + RESERVE_BYTES;
        if self.chunk.as_ref().is_some_and(|chunk| chunk.appender.len() + needed <= chunk.appender.capacity()) {
            return Ok(());
        }
        let full = || Error::MemoryFull { partition: self.segment.partition, budget_bytes: self.arena.budget_bytes() };
        let (appender, claim) = self.arena.take(needed).ok_or_else(full)?;
        self.fill_block();
        let shared = TailChunk {
            segment: self.segment.base_offset,
            at: self.end.position,
            base_offset: self.end.offset,
            reader: appender.reader(),
            claim: Arc::new(claim),
        };
        self.tail.write().expect("no code panics inside").push(shared.clone());
        self.chunk = Some(OpenChunk { appender, shared });
        Ok(())
    }

    fn lay(&mut self, header: &[u8], body: &[u8], bytes: usize) {
        let chunk = self.chunk.as_mut().expect("make_room opened one");
        let padding = &ZEROS[..bytes - header.len() - body.len()];
        let range = chunk.appender.append(&[header, body, padding]);
        match self.unsubmitted.last_mut() {
            Some((last, piece)) if last.at == chunk.shared.at && piece.end == range.start => piece.end = range.end,
            _ => self.unsubmitted.push((chunk.shared.clone(), range)),
        }
        self.end.position += bytes as u64;
    }

    fn local_header(&self, kind: FrameKind, bytes: usize, body: &[u8]) -> FrameHeader {
        FrameHeader {
            kind,
            frame_bytes: len_u32(bytes),
            base_offset: self.end.offset,
            offset_span: 0,
            body_crc: crc32c::crc32c(body),
            term: self.term,
            raft_index: RaftIndex::NONE,
            previous_crc: 0,
            body_bytes: len_u32(body.len()),
            max_timestamp: TimestampMillis::new(0),
        }
    }

    /// Adds the flush frame that fills the block, unless a block ends here.
    fn fill_block(&mut self) {
        let into = self.end.position % BLOCK_BYTES;
        if into == 0 || self.chunk.is_none() {
            return;
        }
        let minimum = (HEADER_BYTES + FLUSH_BODY_BYTES) as u64;
        let mut fill = BLOCK_BYTES - into;
        if fill < minimum {
            fill += BLOCK_BYTES;
        }
        let body = FlushBody { durable: self.durable, ceiling: self.end.offset, position: self.end.position }.encode();
        let bytes = usize::try_from(fill).expect("below two blocks");
        let (raw, _) = self.local_header(FrameKind::Flush, bytes, &body).encode();
        self.lay(&raw, &body, bytes);
    }

    /// Makes sure that [`Self::seal`] has room.
    pub fn make_room_for_seal(&mut self) -> Result<()> {
        self.make_room(HEADER_BYTES)
    }

    /// Adds the seal frame: nothing follows in this segment. The caller asked for room before, and still has to write what is
    /// gathered.
    pub fn seal(&mut self) {
        let (raw, _) = self.local_header(FrameKind::Seal, HEADER_BYTES, &[]).encode();
        self.lay(&raw, &[], HEADER_BYTES);
        let end = self.end;
        self.segment.update_meta(|meta| meta.end = end);
    }

    /// Forgets what was not handed to the disk: after an error nothing more is written.
    pub fn abandon(&mut self) {
        self.unsubmitted.clear();
    }

    /// Everything appended since the last call, as one write; `None` when there is nothing.
    pub fn gather(&mut self) -> Option<Gathered> {
        if self.unsubmitted.is_empty() {
            return None;
        }
        self.fill_block();
        let at = self.unsubmitted_at;
        let buffers = self.unsubmitted.drain(..).map(|(chunk, range)| chunk.bytes(range)).collect();
        self.unsubmitted_at = self.end.position;
        let end = self.end;
        self.segment.update_meta(|meta| meta.end = end);
        Some(Gathered { at, buffers, end })
    }

    /// Lets go of the open chunk, so that an idle partition keeps none. Everything in it must be durable.
    pub fn release_chunk(&mut self) {
        assert!(self.unsubmitted.is_empty(), "only a partition with nothing left to write is idle");
        self.chunk = None;
    }
}
