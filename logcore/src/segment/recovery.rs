//! Reads frames out of bytes, and a whole segment file front to back after an unclean stop.
//!
//! [`take_frame`] is the one place where stored bytes become a [`Frame`]; every read verifies header and body there.
//! [`scan`] is the torn-or-corrupt rule: a bad frame at or below W, the highest index any whole flush frame calls durable, is
//! corruption and stays; above W the log ended there and the rest is a torn write that nobody was promised.

use std::collections::VecDeque;

use bytes::Bytes;

use super::SegmentMeta;
use super::footer::Footer;
use super::index::SegmentEnd;
use super::producers::{Producers, Sent};
use crate::error::Result;
use crate::frame::batch::producer_of;
use crate::frame::header::{MAGIC, NUMBER_MAX};
use crate::frame::{Frame, FrameHeader, FrameKind, HEADER_BYTES};
use crate::io::{DiskFile, Durability};
use crate::types::{Offset, RaftIndex, Term, index};

/// Read from the disk at once.
pub(crate) const READ_BYTES: usize = 256 << 10;

/// What stands at a place in a segment.
pub(crate) enum Found {
    /// A whole frame, with its header's CRC.
    Frame(Frame, u32),
    /// Zeros: nothing was written here.
    Nothing,
    /// A frame may stand here, this many bytes are needed to tell.
    NeedsBytes(usize),
    /// Something else.
    Bad(&'static str),
}

/// Whether bytes are checked again before they are used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Header and body: everything that comes from a disk.
    All,
    /// The header only: bytes in RAM that this process framed itself.
    Header,
}

/// Looks at the start of `bytes`.
pub(crate) fn take_frame(bytes: &Bytes, verify: Verify) -> Found {
    if bytes.len() < HEADER_BYTES {
        return Found::NeedsBytes(HEADER_BYTES);
    }
    if bytes[..HEADER_BYTES].iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    let (header, crc) = match FrameHeader::decode(bytes) {
        Ok(decoded) => decoded,
        Err(why) => return Found::Bad(why),
    };
    if bytes.len() < header.frame_bytes as usize {
        return Found::NeedsBytes(header.frame_bytes as usize);
    }
    let body = bytes.slice(HEADER_BYTES..HEADER_BYTES + header.body_bytes as usize);
    if verify == Verify::All && crc32c::crc32c(&body) != header.body_crc {
        return Found::Bad("the body's checksum does not match");
    }
    Found::Frame(Frame { header, body }, crc)
}

/// The body of a flush frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlushBody {
    /// W: the highest index known durable when the frame was built.
    pub durable: RaftIndex,
    /// No offset from here on was given out.
    pub ceiling: Offset,
    /// Where the frame itself stands, so that the image of another segment inside a record is not taken for a flush.
    pub position: u64,
}

/// Bytes of a [`FlushBody`].
pub(crate) const FLUSH_BODY_BYTES: usize = 24;

impl FlushBody {
    pub(crate) fn encode(self) -> [u8; FLUSH_BODY_BYTES] {
        let mut raw = [0; FLUSH_BODY_BYTES];
        raw[0..8].copy_from_slice(&self.durable.value().to_le_bytes());
        raw[8..16].copy_from_slice(&self.ceiling.value().to_le_bytes());
        raw[16..24].copy_from_slice(&self.position.to_le_bytes());
        raw
    }

    pub(crate) fn decode(raw: &[u8]) -> Option<Self> {
        let u64_at = |at: usize| raw.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let body = Self { durable: RaftIndex::new(u64_at(0)?), ceiling: Offset::new(u64_at(8)?), position: u64_at(16)? };
        Some(body).filter(|body| body.ceiling.value() <= NUMBER_MAX)
    }
}

/// A hole in what a segment should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Where it begins.
    pub position: u64,
    /// The offset that should stand there.
    pub offset: Offset,
    /// What was found.
    pub reason: &'static str,
}

/// How much is known of the entry in front of another one, and so what the other one must agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Everything: offset, index and checksum follow.
    Chained,
    /// Offset and index; not the checksum, which may be that of a rewritten header.
    Numbered,
    /// The offset only: what stood in front was dropped.
    Placed,
    /// Nothing: there is a hole in front.
    Free,
}

/// What the log holds in front of a segment.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    /// Where the segment before ends.
    pub end: SegmentEnd,
    /// What `end` says of the entry there.
    pub link: Link,
    /// The producers known there.
    pub producers: Producers,
    /// The hash of that segment.
    pub hash: u128,
}

impl Before {
    /// In front of a partition's first segment: nothing was ever there, or it was dropped.
    pub fn nothing(base_offset: Offset) -> Self {
        let link = if base_offset == Offset::ZERO { Link::Chained } else { Link::Placed };
        Self { end: SegmentEnd::empty(base_offset), link, producers: Producers::default(), hash: 0 }
    }
}

/// What a segment file holds.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Its content, with the index rebuilt.
    pub meta: SegmentMeta,
    /// The producers known at its end.
    pub producers: Producers,
    /// What its end says to the entry behind it.
    pub link: Link,
    /// Holes at or below W. The rest of the file was read on behind each.
    pub corrupt: Vec<Damage>,
    /// Bytes above W that are not frames: a write that was torn.
    pub torn: Option<Damage>,
    /// Everything in front of this place is called durable by a flush frame further on.
    pub durable_until: u64,
    /// The flush frames behind it: the last entry in front of each, and where it ends.
    unproven: VecDeque<(RaftIndex, u64)>,
}

/// Gives bytes from a position: so many, or what there is.
pub(crate) type ReadAt<'a> = &'a dyn Fn(u64, usize) -> Result<Bytes>;

/// Looks into a segment through a window, so that a file of any length takes little memory.
pub(crate) struct Scanner<'a> {
    read: ReadAt<'a>,
    len: u64,
    window_at: u64,
    window: Bytes,
}

impl<'a> Scanner<'a> {
    /// Looks into `len` bytes.
    pub fn new(read: ReadAt<'a>, len: u64) -> Self {
        Self { read, len, window_at: 0, window: Bytes::new() }
    }

    /// At least `bytes` from `at` on, or what the file has.
    pub fn window(&mut self, at: u64, bytes: usize) -> Result<Bytes> {
        let have = self.window_at + self.window.len() as u64;
        let want = (at + bytes as u64).min(self.len);
        if at < self.window_at || want > have {
            self.window = (self.read)(at, bytes.max(READ_BYTES))?;
            self.window_at = at;
        }
        Ok(self.window.slice(index(at - self.window_at)..))
    }

    /// What stands at `at`.
    pub fn look(&mut self, at: u64) -> Result<Found> {
        let found = take_frame(&self.window(at, HEADER_BYTES)?, Verify::All);
        let Found::NeedsBytes(bytes) = found else { return Ok(found) };
        if at + bytes as u64 > self.len {
            return Ok(Found::Bad("the frame reaches over the end of the file"));
        }
        Ok(take_frame(&self.window(at, bytes)?, Verify::All))
    }

    /// The next place at or after `from` where a frame of `wanted` kinds stands whole.
    pub fn seek(&mut self, from: u64, wanted: impl Fn(u64, &Frame) -> bool) -> Result<Option<u64>> {
        let mut at = from.next_multiple_of(8);
        while at + HEADER_BYTES as u64 <= self.len {
            let window = self.window(at, HEADER_BYTES)?;
            if window.len() < HEADER_BYTES {
                // The file became shorter meanwhile.
                break;
            }
            let candidate = window.chunks_exact(8).position(|eight| eight[..4] == MAGIC.to_le_bytes());
            match candidate {
                None => at += (window.len() / 8 * 8) as u64,
                Some(skip) => {
                    at += skip as u64 * 8;
                    if let Found::Frame(frame, _) = self.look(at)?
                        && wanted(at, &frame)
                    {
                        return Ok(Some(at));
                    }
                    at += 8;
                }
            }
        }
        Ok(None)
    }
}

/// Reads a segment from its start. `before` says what the log held in front of it; without it the chain is not followed, since
/// compaction breaks it. Nothing behind `until` is looked at.
///
/// # Errors
/// When the disk does not give the bytes back; what the bytes say is in the [`Scan`].
pub(crate) fn scan(file: &dyn DiskFile, base_offset: Offset, before: Option<&Before>, until: Option<u64>) -> Result<Scan> {
    let file_bytes = file.len_bytes()?;
    let len = until.map_or(file_bytes, |until| until.min(file_bytes));
    let read = |at, len| file.read(at, len);
    let mut scanner = Scanner::new(&read, len);
    let start = before.map_or_else(|| SegmentEnd::empty(base_offset), |before| before.end);
    let end = SegmentEnd { position: 0, ..start }.without_timestamps();
    let mut scan = Scan {
        meta: SegmentMeta { previous_hash: before.map_or(0, |before| before.hash), ..SegmentMeta::empty(end) },
        producers: before.map(|before| before.producers.clone()).unwrap_or_default(),
        link: before.map_or(Link::Placed, |before| before.link),
        corrupt: Vec::new(),
        torn: None,
        durable_until: 0,
        unproven: VecDeque::new(),
    };
    let chain = if before.is_some() { Link::Chained } else { Link::Numbered };
    while !scan.meta.sealed && scan.meta.end.position + HEADER_BYTES as u64 <= scanner.len {
        let at = scan.meta.end.position;
        let found = match scanner.look(at)? {
            Found::Frame(frame, crc) => match follow(&mut scan, &frame, crc, chain) {
                Ok(()) => continue,
                Err(reason) => Some(reason),
            },
            Found::Nothing => None,
            Found::Bad(reason) => Some(reason),
            Found::NeedsBytes(_) => Some("the frame is cut off"),
        };
        let last = scan.meta.end.raft_index;
        let promised = scanner.seek(at, |at, frame| {
            frame.header.kind == FrameKind::Flush
                && FlushBody::decode(&frame.body).is_some_and(|body| body.position == at && body.durable > last)
        })?;
        let offset = scan.meta.end.offset;
        let damage = Damage { position: at, offset, reason: found.unwrap_or("zeros stand where a frame was") };
        if promised.is_none() {
            let nonzero = found.is_some() || scanner.seek(at, |_, _| true)?.is_some();
            scan.torn = nonzero.then_some(damage);
            break;
        }
        scan.corrupt.push(damage);
        let resume = scanner.seek(at + 8, |_, frame| frame.header.kind.is_entry() && frame.header.raft_index > last)?;
        let Some(resume) = resume else { break };
        scan.meta.end.position = resume;
        // The chain can't be followed across the hole; it is picked up at this entry.
        scan.link = Link::Free;
    }
    Ok(scan)
}

/// Takes a frame into the scan, if it may stand where the scan is. Behind an entry the next one is held to `chain`.
fn follow(scan: &mut Scan, frame: &Frame, crc: u32, chain: Link) -> Result<(), &'static str> {
    let (meta, header) = (&mut scan.meta, &frame.header);
    let end = &mut meta.end;
    if header.kind.is_entry() {
        let placed = header.base_offset == end.offset;
        let numbered = placed && header.raft_index == end.raft_index.next();
        let follows = match scan.link {
            Link::Chained => numbered && header.previous_crc == end.entry_crc,
            Link::Numbered => numbered,
            Link::Placed => placed,
            Link::Free => true,
        };
        if !follows {
            return Err("the frame does not follow the one before it");
        }
        meta.index.note(header.base_offset, end.position, end.max_timestamp, scan.link == Link::Free);
        scan.link = chain;
        meta.tally.note(header, &header.encode().0, u64::from(header.offset_span));
        if header.kind == FrameKind::Batch
            && let Some(producer) = producer_of(&frame.body)
        {
            scan.producers.note(&Sent::new(producer, header.offset_span), header.base_offset);
        }
        end.offset = header.end_offset();
        end.raft_index = header.raft_index;
        end.entry_crc = crc;
        end.term = Term::new(end.term.value().max(header.term.value()));
        if header.offset_span > 0 {
            end.max_timestamp = end.max_timestamp.max(header.max_timestamp);
        }
    } else if header.kind == FrameKind::Seal {
        meta.sealed = true;
        if let Some(footer) = Footer::decode(&frame.body)
            && (footer.end.offset, footer.end.raft_index) == (end.offset, end.raft_index)
        {
            // What the frames in front don't tell: what compaction took out, and what came before this segment.
            meta.compacted = footer.compacted;
            meta.tally.records = footer.tally.records;
            meta.previous_hash = footer.previous_hash;
            end.ceiling = end.ceiling.max(footer.end.ceiling);
            end.entry_crc = footer.end.entry_crc;
            end.term = footer.end.term;
            scan.producers = footer.producers;
            scan.link = Link::Chained;
        }
    } else if header.kind == FrameKind::Flush
        && let Some(body) = FlushBody::decode(&frame.body)
        && body.position == end.position
    {
        end.ceiling = end.ceiling.max(body.ceiling);
        while let Some((_, until)) = scan.unproven.pop_front_if(|(last, _)| *last <= body.durable) {
            scan.durable_until = until;
        }
        scan.unproven.push_back((end.raft_index, end.position + u64::from(header.frame_bytes)));
    }
    end.position += u64::from(header.frame_bytes);
    Ok(())
}

/// Writes what stands in `from..until` once more, and makes it durable; whether there was anything.
///
/// A sync alone would not do for what a process leaves behind: after one that failed, the system takes pages for clean that never
/// reached the medium, and reads them back as if nothing were wrong.
pub(crate) fn write_again(file: &dyn DiskFile, from: u64, until: u64) -> Result<bool> {
    let mut at = from;
    while at < until {
        let piece = file.read(at, READ_BYTES.min(index(until - at)))?;
        if piece.is_empty() {
            break;
        }
        let next = at + piece.len() as u64;
        file.write(at, &[piece], Durability::None)?;
        at = next;
    }
    file.sync()?;
    Ok(at > from)
}
