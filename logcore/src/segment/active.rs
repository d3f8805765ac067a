//! The segment that is being appended to: lays frames into RAM chunks and gathers them into writes.
//!
//! Owned by one [`crate::partition::owner`] thread. A payload is copied once, into the chunk; the write to the disk takes the
//! same bytes.
//!
//! # Invariants
//! - Every write ends with a flush frame that fills it up to the disk's block, and so does every chunk: acknowledged bytes are
//!   never rewritten, and every buffer of a write can go through O_DIRECT.
//! - A frame lies in one chunk as a whole.
//! - Entries are chained: index n links to the header CRC of n-1.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, RwLock, Weak};

use bytes::Bytes;

use super::footer::{Footer, TRAILER_BYTES, Trailer};
use super::producers::Producers;
use super::recovery::{FLUSH_BODY_BYTES, FlushBody};
use super::{Segment, SegmentEnd, SegmentMeta};
use crate::error::{Error, Result};
use crate::frame::header::{HEADER_BYTES, frame_bytes};
use crate::frame::{FrameHeader, FrameKind};
use crate::ram::arena::{Arena, CHUNK_BYTES, Evict};
use crate::ram::tail::{Tail, TailChunk};
use crate::sys::append_buffer::Appender;
use crate::types::{Offset, PartitionRef, RaftIndex, Term, TimestampMillis, len_u32};

/// The disk's block: what one write is filled up to.
const BLOCK_BYTES: u64 = 4096;
/// Room that is always left behind the entries of a chunk: a flush frame that fills a block.
const RESERVE_BYTES: usize = 2 * 4096;
/// The next chunk is taken when the current one is this full.
const READY_PERCENT: usize = 80;
static ZEROS: [u8; 2 * 4096] = [0; 2 * 4096];

/// What an entry's header says besides its place.
pub(crate) struct NewEntry<'a> {
    pub kind: FrameKind,
    pub offset_span: u32,
    pub max_timestamp: TimestampMillis,
    pub body: &'a [u8],
    pub body_crc: u32,
}

impl NewEntry<'_> {
    /// An entry that spans offsets without records.
    pub fn blank(offset_span: u32) -> Self {
        let max_timestamp = TimestampMillis::new(i64::MIN);
        Self { kind: FrameKind::Blank, offset_span, max_timestamp, body: &[], body_crc: crc32c::crc32c(&[]) }
    }
}

/// Where the RAM of a partition's segments comes from and goes to.
#[derive(Clone)]
pub(crate) struct Ram {
    pub partition: PartitionRef,
    pub arena: Arc<Arena>,
    pub tail: Arc<RwLock<Tail>>,
    /// Who gives chunks back when others need them.
    pub holder: Weak<dyn Evict>,
}

struct OpenChunk {
    appender: Appender,
    shared: TailChunk,
}

/// Bytes not yet handed to the disk: a part of one chunk, and where the log ends behind it.
struct Piece {
    chunk: TailChunk,
    range: Range<usize>,
    end: SegmentEnd,
}

/// See the module docs.
pub(crate) struct Active {
    pub segment: Arc<Segment>,
    capacity: u64,
    ram: Ram,
    chunk: Option<OpenChunk>,
    /// The next chunk, taken ahead of need.
    ready: Option<(Appender, u64)>,
    unsubmitted: VecDeque<Piece>,
    unsubmitted_bytes: usize,
    unsubmitted_at: u64,
    end: SegmentEnd,
    term: Term,
    /// The highest index known durable.
    pub durable: RaftIndex,
    /// How far behind the end the ceiling of the next flush frames lies; 0 when nothing is seen before it is durable.
    pub ceiling_ahead: u64,
}

/// What one write to the disk carries.
pub(crate) struct Gathered {
    pub at: u64,
    pub buffers: Vec<Bytes>,
    /// What the write makes durable.
    pub end: SegmentEnd,
}

impl Active {
    /// Goes on behind what `segment` holds, in a file of `capacity` bytes.
    pub fn new(segment: Arc<Segment>, capacity: u64, ram: Ram, end: SegmentEnd, term: Term) -> Self {
        Self {
            segment,
            capacity,
            ram,
            chunk: None,
            ready: None,
            unsubmitted: VecDeque::new(),
            unsubmitted_bytes: 0,
            unsubmitted_at: end.position,
            end,
            term,
            durable: end.raft_index,
            ceiling_ahead: 0,
        }
    }

    pub fn end(&self) -> SegmentEnd {
        self.end
    }

    pub fn term(&self) -> Term {
        self.term
    }

    /// Bytes appended and not handed to the disk.
    pub fn unsubmitted_bytes(&self) -> usize {
        self.unsubmitted_bytes
    }

    /// The length a file needs so that a frame with a body of `body_bytes` fits into it, also behind a few marks.
    pub fn capacity_for(body_bytes: usize, producers: &Producers) -> u64 {
        Self::room_for(body_bytes, producers) + 8 * BLOCK_BYTES
    }

    /// What has to be left for a frame with a body of `body_bytes`, the seal and the trailer.
    fn room_for(body_bytes: usize, producers: &Producers) -> u64 {
        let seal = HEADER_BYTES + Footer::len_bytes(&super::SparseIndex::default(), producers) + 2 * 4096;
        (frame_bytes(body_bytes) + RESERVE_BYTES + seal) as u64 + TRAILER_BYTES
    }

    /// Whether a frame with a body of `body_bytes` still has room in this segment, with its seal behind it.
    pub fn fits(&self, body_bytes: usize, producers: &Producers) -> bool {
        let index = self.segment.with_meta(|meta| meta.index.encoded_bytes()).unwrap_or(0);
        self.end.position + Self::room_for(body_bytes, producers) + index as u64 <= self.capacity
    }

    /// How much of the segment is used, in percent.
    pub fn used_percent(&self) -> u64 {
        self.end.position * 100 / self.capacity.max(1)
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
            body_crc: entry.body_crc,
            term: self.term,
            raft_index: self.end.raft_index.next(),
            previous_crc: self.end.entry_crc,
            body_bytes: len_u32(entry.body.len()),
            max_timestamp: entry.max_timestamp,
        };
        let (raw, crc) = header.encode();
        let (position, before) = (self.end.position, self.end.max_timestamp);
        self.end.offset = header.end_offset();
        self.end.raft_index = header.raft_index;
        self.end.entry_crc = crc;
        self.end.term = self.term;
        if entry.offset_span > 0 {
            self.end.max_timestamp = self.end.max_timestamp.max(entry.max_timestamp);
        }
        self.lay(&raw, entry.body, bytes);
        let end = self.end;
        self.segment.update_meta(|meta| {
            meta.index.note(header.base_offset, position, before, false);
            meta.tally.note(&header, &raw, u64::from(header.offset_span));
            meta.end = end;
        });
        self.take_next_chunk();
        Ok(())
    }

    /// Has the next chunk ready while there is plenty.
    fn take_next_chunk(&mut self) {
        let nearly_full = |chunk: &OpenChunk| chunk.appender.len() * 100 >= chunk.appender.capacity() * READY_PERCENT;
        if self.ready.is_none() && self.chunk.as_ref().is_some_and(nearly_full) && self.ram.arena.is_roomy() {
            self.ready = self.ram.arena.take(CHUNK_BYTES, &self.ram.holder);
        }
    }

    /// Makes sure that a frame and the flush frame behind it fit into the open chunk.
    fn make_room(&mut self, bytes: usize) -> Result<()> {
        let needed = bytes + RESERVE_BYTES;
        if self.chunk.as_ref().is_some_and(|chunk| chunk.appender.len() + needed <= chunk.appender.capacity()) {
            return Ok(());
        }
        let ready = self.ready.take().filter(|(appender, _)| needed <= appender.capacity());
        let taken = ready.or_else(|| self.ram.arena.take(needed, &self.ram.holder));
        let (appender, birth) = taken
            .ok_or_else(|| Error::MemoryFull { partition: self.ram.partition, budget_bytes: self.ram.arena.budget_bytes() })?;
        self.fill_block();
        let shared = TailChunk {
            segment: self.segment.base_offset,
            at: self.end.position,
            base_offset: self.end.offset,
            birth,
            reader: appender.reader(),
        };
        self.ram.tail.write().expect("no code panics inside").push(shared.clone());
        self.chunk = Some(OpenChunk { appender, shared });
        Ok(())
    }

    fn lay(&mut self, header: &[u8], body: &[u8], bytes: usize) {
        let chunk = self.chunk.as_mut().expect("make_room opened one");
        let padding = &ZEROS[..bytes - header.len() - body.len()];
        let range = chunk.appender.append(&[header, body, padding]);
        self.end.position += bytes as u64;
        self.unsubmitted_bytes += bytes;
        match self.unsubmitted.back_mut() {
            Some(piece) if piece.chunk.at == chunk.shared.at && piece.range.end == range.start => {
                (piece.range.end, piece.end) = (range.end, self.end);
            }
            _ => self.unsubmitted.push_back(Piece { chunk: chunk.shared.clone(), range, end: self.end }),
        }
    }

    /// Adds the flush frame that fills the block, unless a block ends here.
    fn fill_block(&mut self) {
        let into = self.end.position % BLOCK_BYTES;
        if into != 0 && self.chunk.is_some() {
            self.lay_flush(BLOCK_BYTES - into);
        }
    }

    fn lay_flush(&mut self, mut fill: u64) {
        if fill < (HEADER_BYTES + FLUSH_BODY_BYTES) as u64 {
            fill += BLOCK_BYTES;
        }
        self.end.ceiling = self.end.offset.advance(self.ceiling_ahead).max(self.end.ceiling);
        let body = FlushBody { durable: self.durable, ceiling: self.end.ceiling, position: self.end.position }.encode();
        let bytes = usize::try_from(fill).expect("below two blocks");
        let (raw, _) = local_header(FrameKind::Flush, bytes, &body, &self.end, self.term).encode();
        self.lay(&raw, &body, bytes);
    }

    /// Adds a flush frame of its own block, so that the next write records the ceiling although nothing was appended.
    pub fn mark(&mut self) -> Result<()> {
        self.make_room(0)?;
        if self.end.position.is_multiple_of(BLOCK_BYTES) {
            self.lay_flush(BLOCK_BYTES);
        } else {
            self.fill_block();
        }
        Ok(())
    }

    /// Adds the seal frame with the footer: nothing follows in this segment. Gives the trailer, to be written beside what is
    /// gathered. Nothing changes when there is no room in RAM.
    pub fn seal(&mut self, producers: &Producers) -> Result<Gathered> {
        let room = self.segment.with_meta(|meta| Footer::len_bytes(&meta.index, producers))?;
        self.make_room(HEADER_BYTES + room)?;
        self.end.ceiling = self.end.offset.advance(self.ceiling_ahead).max(self.end.ceiling);
        let end = self.end;
        let meta = self.segment.with_meta(|meta| SegmentMeta { end, sealed: true, ..meta.clone() })?;
        let (seal, trailer) = seal_frame(&meta, self.segment.base_offset, producers.clone(), self.term);
        self.lay(&seal, &[], seal.len());
        self.segment.set_meta(meta);
        let mut block = Appender::new(crate::types::index(TRAILER_BYTES));
        let range = block.append(&[&trailer]);
        let block = Bytes::from_owner(Block(block)).slice(range);
        // In a file that was cut short from outside it goes behind the seal, so that it is the last block all the same.
        let at = self.capacity.saturating_sub(TRAILER_BYTES).max(self.end.position);
        Ok(Gathered { at, buffers: vec![block], end: self.end })
    }

    /// Where the next segment begins.
    pub fn next_start(&self) -> SegmentEnd {
        SegmentEnd { position: 0, ..self.end }.without_timestamps()
    }

    /// Forgets what was not handed to the disk: after an error nothing more is written.
    pub fn abandon(&mut self) {
        self.unsubmitted.clear();
        self.unsubmitted_bytes = 0;
    }

    /// What was appended since the last call as one write, oldest first and about `bytes_max` at most; `None` when there is
    /// nothing.
    pub fn gather(&mut self, bytes_max: usize) -> Option<Gathered> {
        if self.unsubmitted_bytes <= bytes_max || self.unsubmitted.len() == 1 {
            self.fill_block();
        }
        let first = self.unsubmitted.pop_front()?;
        let (mut bytes, mut end) = (first.range.len(), first.end);
        let mut buffers = vec![first.chunk.bytes(first.range)];
        while let Some(piece) = self.unsubmitted.front().filter(|piece| bytes + piece.range.len() <= bytes_max) {
            (bytes, end) = (bytes + piece.range.len(), piece.end);
            buffers.push(piece.chunk.bytes(piece.range.clone()));
            self.unsubmitted.pop_front();
        }
        if self.unsubmitted.is_empty() {
            let end = self.end;
            self.segment.update_meta(|meta| meta.end = if meta.sealed { meta.end } else { end });
        }
        let at = self.unsubmitted_at;
        self.unsubmitted_at += bytes as u64;
        self.unsubmitted_bytes -= bytes;
        Some(Gathered { at, buffers, end })
    }

    /// Whether it holds a chunk of RAM.
    pub fn has_chunk(&self) -> bool {
        self.chunk.is_some() || self.ready.is_some()
    }

    /// Lets go of the chunks, so that an idle partition keeps none. Everything in them must be durable.
    pub fn release_chunks(&mut self) {
        assert!(self.unsubmitted.is_empty(), "only a partition with nothing left to write is idle");
        (self.chunk, self.ready) = (None, None);
    }
}

fn local_header(kind: FrameKind, bytes: usize, body: &[u8], end: &SegmentEnd, term: Term) -> FrameHeader {
    FrameHeader {
        kind,
        frame_bytes: len_u32(bytes),
        base_offset: end.offset,
        offset_span: 0,
        body_crc: crc32c::crc32c(body),
        term,
        raft_index: RaftIndex::NONE,
        previous_crc: 0,
        body_bytes: len_u32(body.len()),
        max_timestamp: TimestampMillis::new(0),
    }
}

/// The seal frame of a segment whose entries end at `meta.end`, which fills its last block, and the trailer block.
pub(crate) fn seal_frame(meta: &SegmentMeta, base_offset: Offset, producers: Producers, term: Term) -> (Vec<u8>, Vec<u8>) {
    let body = meta.to_footer(base_offset, producers).encode();
    let seal_at = meta.end.position;
    let until = (seal_at + (HEADER_BYTES + body.len()) as u64).next_multiple_of(BLOCK_BYTES);
    let bytes = crate::types::index(until - seal_at);
    let (raw, _) = local_header(FrameKind::Seal, bytes, &body, &meta.end, term).encode();
    let mut frame = Vec::with_capacity(bytes);
    frame.extend_from_slice(&raw);
    frame.extend_from_slice(&body);
    frame.resize(bytes, 0);
    (frame, Trailer { base_offset, seal_at, seal_bytes: len_u32(bytes) }.encode())
}

/// The flush frame that fills the block in which a log ends after a torn write was trimmed; `None` when it ends with a block.
pub(crate) fn closing_flush(end: &SegmentEnd) -> Option<Vec<u8>> {
    let into = end.position % BLOCK_BYTES;
    if into == 0 {
        return None;
    }
    let minimum = (HEADER_BYTES + FLUSH_BODY_BYTES) as u64;
    let fill = BLOCK_BYTES - into;
    let bytes = usize::try_from(if fill < minimum { fill + BLOCK_BYTES } else { fill }).expect("below two blocks");
    // What was durable is not known any better than before.
    let body = FlushBody { durable: RaftIndex::NONE, ceiling: end.ceiling, position: end.position }.encode();
    let (raw, _) = local_header(FrameKind::Flush, bytes, &body, end, end.term).encode();
    let mut frame = [&raw[..], &body].concat();
    frame.resize(bytes, 0);
    Some(frame)
}

/// A trailer block while it is written.
struct Block(Appender);

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.0.as_slice()
    }
}
