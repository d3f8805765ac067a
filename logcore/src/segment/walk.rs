//! Walks over the entries of one segment file, in order, verifying each.
//!
//! Made by `partition::reader` for what is no longer in RAM. A walk that goes on through a sealed segment has the next
//! pieces of the file read while its caller works on the last one: the index says where they may be cut.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};

use super::recovery::{Found, READ_BYTES, Verify, take_frame};
use super::{Segment, SparseIndex};
use crate::error::Result;
use crate::frame::{Frame, FrameHeader, FrameKind};
use crate::io::DiskFile;
use crate::types::Offset;

/// Read first by a walk that may end soon.
const LOOK_BYTES: usize = 4 << 10;
/// Read at once by a walk that reads ahead.
const PIECE_BYTES: u64 = 1 << 20;
/// Reads under way for such a walk.
const PIECES_AHEAD: usize = 4;

/// See the module docs.
pub(crate) struct Walk {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    /// The file position of the window's start.
    at: u64,
    /// Where the content ends.
    end: u64,
    window: Bytes,
    start: Offset,
    next: Option<Offset>,
    /// Bytes of the next read that is not one ahead.
    look: usize,
    /// Where the next pieces to be read ahead end: each between two frames, the last at the end.
    cuts: VecDeque<u64>,
    /// Where the next one begins.
    ahead_from: u64,
    /// Pieces that are being read, in order, with their places.
    coming: VecDeque<(u64, Receiver<Result<Bytes>>)>,
}

/// What a step of a walk came to.
pub(crate) struct FramesRead {
    pub frames: Vec<Frame>,
    /// Nothing more is in this segment; go on in the next.
    pub at_end: bool,
}

impl Walk {
    /// A walk that starts at or before the entry that covers `from`.
    pub fn new(segment: &Arc<Segment>, from: Offset, read_ahead: bool) -> Result<Self> {
        let (at, end) = segment.span_of(from)?;
        let read_ahead = read_ahead && segment.next_base().is_some();
        let cuts = if read_ahead { segment.with_meta(|meta| cuts(&meta.index, at, end))? } else { VecDeque::new() };
        let (segment, file) = (Arc::clone(segment), segment.file()?);
        Ok(Self {
            segment,
            file,
            at,
            end,
            window: Bytes::new(),
            start: from,
            next: None,
            look: LOOK_BYTES,
            cuts,
            ahead_from: at,
            coming: VecDeque::new(),
        })
    }

    /// What it was asked to start at.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// Behind the last entry that was given out.
    pub fn next_offset(&self) -> Option<Offset> {
        self.next
    }

    /// The segment it walks over.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Entries that cover offsets in `from..until`: at least one if there is one, then more until `max_bytes`. `from` must not
    /// go back between calls.
    pub fn read(&mut self, from: Offset, until: Offset, max_bytes: usize) -> Result<FramesRead> {
        let (mut read, mut expected) = (FramesRead { frames: Vec::new(), at_end: false }, from);
        let mut taken = 0;
        // Frames at or above `until` may be on their way to the disk: nothing behind the last one asked for is looked at.
        while self.at < self.end && expected < until && taken < max_bytes {
            let wrong = match take_frame(&self.window, Verify::All) {
                Found::NeedsBytes(bytes) => {
                    if self.fill(bytes, max_bytes)? {
                        continue;
                    }
                    "the file ends inside a frame"
                }
                Found::Nothing => "zeros stand where a frame was",
                // Damage in front of what was asked for does not concern this reader, if the header still says how long it is.
                Found::Bad(why) => match FrameHeader::decode(&self.window) {
                    Ok((header, _)) if header.end_offset() <= from && self.window.len() >= header.frame_bytes as usize => {
                        self.pass(header.frame_bytes as usize);
                        continue;
                    }
                    _ => why,
                },
                Found::Frame(frame, _) if frame.header.kind == FrameKind::Seal => break,
                Found::Frame(frame, _) => {
                    let bytes = frame.header.frame_bytes as usize;
                    let wanted = frame.header.kind.is_entry() && frame.end_offset() > from;
                    if wanted && frame.header.base_offset > expected {
                        "records are missing here"
                    } else {
                        self.pass(bytes);
                        if wanted {
                            expected = frame.end_offset();
                            self.next = Some(expected);
                            taken += bytes;
                            read.frames.push(frame);
                        }
                        continue;
                    }
                }
            };
            // What is whole in front of damage is served; who goes on behind it hears of the damage.
            return if read.frames.is_empty() { Err(self.segment.corrupt(expected, self.at, wrong)) } else { Ok(read) };
        }
        read.at_end = expected < until && taken < max_bytes;
        Ok(read)
    }

    fn pass(&mut self, bytes: usize) {
        self.window = self.window.slice(bytes..);
        self.at += bytes as u64;
    }

    /// Makes the window at least `bytes` long; `false` when the file does not have them.
    fn fill(&mut self, bytes: usize, max_bytes: usize) -> Result<bool> {
        let before = self.window.len();
        if before == 0
            && let Some(piece) = self.next_piece()?
        {
            self.window = piece;
            if self.window.len() >= bytes {
                return Ok(true);
            }
        }
        // The first look around a place is a small one: an entry may be all that is wanted. The index may lead to a few entries
        // in front of it, so the next looks grow.
        let look = self.look.max(max_bytes).min(READ_BYTES);
        self.look = (look * 8).min(READ_BYTES);
        self.window = self.file.read(self.at, bytes.max(look))?;
        Ok(self.window.len() >= bytes || self.window.len() > before)
    }

    /// The piece that begins where this walk is, if it was read ahead; others are begun behind it.
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        self.look_ahead();
        while self.coming.front().is_some_and(|(at, _)| *at < self.at) {
            self.coming.pop_front();
        }
        let Some((_, piece)) = self.coming.pop_front_if(|(at, _)| *at == self.at) else { return Ok(None) };
        self.look_ahead();
        piece.recv().ok().transpose()
    }

    fn look_ahead(&mut self) {
        while self.coming.len() < PIECES_AHEAD
            && let Some(end) = self.cuts.pop_front()
        {
            let (tell, coming) = bounded(1);
            let (file, from) = (Arc::clone(&self.file), self.ahead_from);
            let bytes = crate::types::index(end - from);
            self.segment.of.io.read_ahead(Box::new(move || drop(tell.send(file.read(from, bytes)))));
            self.coming.push_back((from, coming));
            self.ahead_from = end;
        }
    }
}

/// Cuts the file from `at` to `end` into pieces between frames, of [`PIECE_BYTES`] or a frame more.
fn cuts(index: &SparseIndex, at: u64, end: u64) -> VecDeque<u64> {
    let (mut cuts, mut from) = (VecDeque::new(), at);
    for entry in index.entries().iter().filter(|entry| entry.position < end) {
        if entry.position >= from + PIECE_BYTES {
            cuts.push_back(entry.position);
            from = entry.position;
        }
    }
    if from < end {
        cuts.push_back(end);
    }
    cuts
}
