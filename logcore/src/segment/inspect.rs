//! Looking into a segment or an index file from outside: frame by frame, whole or damaged, without changing anything.
//!
//! For people and their tools (`headwater inspect`). Needs no lock and no log: the file may be a copy, a part, or belong to a
//! server that runs. Frames are recognised by [`super::recovery`], as when a log is opened; unlike there, everything is told and
//! nothing is decided.
//!
//! # Invariants
//! - Nothing is written. Memory is bounded by a frame and [`DAMAGE_MAX`], whatever the bytes are.
//! - Every byte of the file belongs to a frame, to a [`Damage`], or to the zeros behind the last frame.
//!
//! # Not done
//! A part of the medium that can't be read ends the walk with an error.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use super::Segment;
use super::footer::{Footer, TRAILER_BYTES, Trailer, inspect_index_file};
pub use super::index::{Entry as IndexEntry, SegmentEnd};
use super::recovery::{FlushBody, Found, Scanner};
use crate::error::Result;
use crate::frame::batch::Batch;
use crate::frame::{Frame, FrameHeader, FrameKind, HEADER_BYTES};
use crate::sys::fs::ReadFile;
use crate::types::{Offset, RaftIndex, Term, TimestampMillis};

/// Damages that are kept in a [`Summary`]; more are counted.
pub const DAMAGE_MAX: usize = 1_000;
/// Index files are read as a whole; one of a whole segment is far smaller.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// How an entry links to the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// A local frame: it is not in the chain.
    Local,
    /// The entry before it is not in this file, or was lost.
    Unknown,
    /// It follows the entry before it.
    Linked,
    /// It does not.
    Broken,
}

/// What a frame's body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A batch.
    Batch {
        /// Records in it: fewer than offsets once compaction took some out.
        records: u32,
    },
    /// The end of one write.
    Flush {
        /// W: the highest index known durable when it was written.
        durable: RaftIndex,
        /// No offset from here on was given out.
        ceiling: Offset,
    },
    /// The end of the segment, with its footer.
    Seal {
        /// Records in the segment.
        records: u64,
        /// The offset behind the last of them.
        end_offset: Offset,
        /// Places in its index.
        places: usize,
        /// The hash over its entries.
        hash: u128,
        /// The hash of the segment before.
        previous_hash: u128,
        /// Records were taken out.
        compacted: bool,
    },
    /// Nothing, or nothing this version knows.
    Other,
}

/// A whole frame and where it stands.
#[derive(Clone, Debug)]
pub struct FrameSeen {
    /// Its first byte in the file.
    pub position: u64,
    /// Header and body; both checksums are right.
    pub frame: Frame,
    /// The header's checksum, to which the next entry links.
    pub header_crc: u32,
    /// Its place in the chain.
    pub chain: Chain,
    /// What the body says.
    pub content: Content,
}

/// Bytes that are not what should stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first of them.
    pub position: u64,
    /// How many, up to the next whole frame; `None` when none follows.
    pub bytes: Option<u64>,
    /// What is wrong.
    pub reason: &'static str,
    /// The last entry in front of it.
    pub after: RaftIndex,
    /// The offset that was due.
    pub offset: Offset,
}

/// One step of a walk.
#[derive(Clone, Debug)]
pub enum Step {
    /// A whole frame.
    Frame(FrameSeen),
    /// A hole; the walk goes on at the next whole frame.
    Damage(Damage),
}

/// What a segment file holds, all together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The base offset that the file's name tells.
    pub named: Option<Offset>,
    /// Length of the file.
    pub len_bytes: u64,
    /// Up to the end of the last whole frame.
    pub used_bytes: u64,
    /// Whole frames by kind, in order of first appearance.
    pub frames: Vec<(FrameKind, u64)>,
    /// Records in whole batches.
    pub records: u64,
    /// From the first offset of the first entry to the end of the last.
    pub offsets: Option<Range<Offset>>,
    /// First and last entry.
    pub raft_indexes: Option<(RaftIndex, RaftIndex)>,
    /// Lowest and highest term of entries.
    pub terms: Option<(Term, Term)>,
    /// Least and greatest of the batches' newest timestamps.
    pub timestamps: Option<(TimestampMillis, TimestampMillis)>,
    /// W: the highest index that a flush frame calls durable.
    pub durable: RaftIndex,
    /// A seal frame was seen.
    pub sealed: bool,
    /// The first holes.
    pub damage: Vec<Damage>,
    /// Holes beyond [`DAMAGE_MAX`].
    pub damage_more: u64,
}

impl Summary {
    fn new(named: Option<Offset>, len_bytes: u64) -> Self {
        Self {
            named,
            len_bytes,
            used_bytes: 0,
            frames: Vec::new(),
            records: 0,
            offsets: None,
            raft_indexes: None,
            terms: None,
            timestamps: None,
            durable: RaftIndex::NONE,
            sealed: false,
            damage: Vec::new(),
            damage_more: 0,
        }
    }

    /// Whether nothing is wrong with the file.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damage.is_empty()
    }

    /// Whether what was lost had been called durable: corruption, not a torn write that nobody was promised.
    #[must_use]
    pub fn was_promised(&self, damage: &Damage) -> bool {
        damage.after < self.durable
    }

    fn count(&mut self, seen: &FrameSeen) {
        let header = &seen.frame.header;
        match self.frames.iter_mut().find(|(kind, _)| *kind == header.kind) {
            Some((_, count)) => *count += 1,
            None => self.frames.push((header.kind, 1)),
        }
        self.used_bytes = seen.position + u64::from(header.frame_bytes);
        self.sealed |= header.kind == FrameKind::Seal;
        match seen.content {
            Content::Batch { records } => {
                self.records += u64::from(records);
                let newest = header.max_timestamp;
                let (least, greatest) = self.timestamps.unwrap_or((newest, newest));
                self.timestamps = Some((least.min(newest), greatest.max(newest)));
            }
            Content::Flush { durable, .. } => self.durable = self.durable.max(durable),
            Content::Seal { .. } | Content::Other => {}
        }
        if header.kind.is_entry() {
            let first = self.offsets.as_ref().map_or(header.base_offset, |offsets| offsets.start);
            self.offsets = Some(first..header.end_offset());
            let first = self.raft_indexes.map_or(header.raft_index, |(first, _)| first);
            self.raft_indexes = Some((first, header.raft_index));
            let (lowest, highest) = self.terms.unwrap_or((header.term, header.term));
            self.terms = Some((lowest.min(header.term), highest.max(header.term)));
        }
    }

    fn note(&mut self, damage: &Damage) {
        if self.damage.len() < DAMAGE_MAX {
            self.damage.push(damage.clone());
        } else {
            self.damage_more += 1;
        }
    }
}

/// The name of a kind of frame, as people write it.
#[must_use]
pub fn kind_name(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Batch => "batch",
        FrameKind::Blank => "blank",
        FrameKind::Membership => "membership",
        FrameKind::StartOffset => "start-offset",
        FrameKind::Flush => "flush",
        FrameKind::Vote => "vote",
        FrameKind::Truncate => "truncate",
        FrameKind::Purge => "purge",
        FrameKind::Seal => "seal",
    }
}

/// Walks the segment file at `path`. `visit` sees every step in file order and says whether to go on; a walk that it ends has a
/// summary of what was seen until then.
///
/// # Errors
/// When the file can't be opened or read. What its bytes say is never an error.
pub fn inspect_segment(path: &Path, visit: impl FnMut(&Step) -> bool) -> Result<Summary> {
    let file = ReadFile::open(path)?;
    let read = |at, len| file.read_at(at, len).map(Bytes::from);
    let named = path.file_name().and_then(|name| Segment::parse_file_name(&name.to_string_lossy()));
    let walk = Walk {
        trailer: trailer_of(&file)?,
        compacted: false,
        scanner: Scanner::new(&read, file.len_bytes()),
        position: 0,
        last: None,
        summary: Summary::new(named, file.len_bytes()),
        visit,
    };
    walk.run()
}

fn trailer_of(file: &ReadFile) -> Result<Option<Trailer>> {
    let Some(at) = file.len_bytes().checked_sub(TRAILER_BYTES) else { return Ok(None) };
    Ok(Trailer::decode(&file.read_at(at, crate::types::index(TRAILER_BYTES))?))
}

/// The last entry that was seen, or whose header was.
struct Last {
    raft_index: RaftIndex,
    end_offset: Offset,
    header_crc: u32,
    /// Nothing was lost behind it.
    adjacent: bool,
}

struct Walk<'a, V> {
    /// What the last block says, if it is a trailer.
    trailer: Option<Trailer>,
    /// The footer says that records were taken out: the chain's checksums don't hold.
    compacted: bool,
    scanner: Scanner<'a>,
    position: u64,
    last: Option<Last>,
    summary: Summary,
    visit: V,
}

impl<V: FnMut(&Step) -> bool> Walk<'_, V> {
    fn run(mut self) -> Result<Summary> {
        self.compacted = self.is_compacted()?;
        let len = self.summary.len_bytes;
        while self.position < len {
            let at = self.position;
            if self.is_trailer(at) {
                break;
            }
            let found = if at + HEADER_BYTES as u64 <= len { self.scanner.look(at)? } else { self.rest_of_file()? };
            let goes_on = match found {
                Found::Frame(frame, crc) => self.frame(frame, crc),
                Found::Nothing => match self.next_whole(at)? {
                    Some(next) => {
                        let goes_on = self.damage(at, Some(next), "zeros stand where a frame was");
                        self.lose();
                        goes_on
                    }
                    None => match self.first_nonzero(at)? {
                        Some(at) if self.is_trailer(at) => false,
                        Some(at) => self.damage(at, None, "bytes that are no frame stand behind the last one"),
                        None => false,
                    },
                },
                Found::NeedsBytes(_) => self.damage(at, None, "the frame is cut off"),
                Found::Bad(reason) => match self.whole_header(at)? {
                    // Only the body is bad: the header says where to go on, and what the next entry links to.
                    Some((header, crc)) => {
                        let goes_on = self.damage(at, Some(at + u64::from(header.frame_bytes)), reason);
                        self.follow(&header, crc);
                        goes_on
                    }
                    None => {
                        let next = self.next_whole(at + 8)?;
                        let goes_on = self.damage(at, next, reason);
                        self.lose();
                        goes_on
                    }
                },
            };
            if !goes_on {
                break;
            }
        }
        Ok(self.summary)
    }

    /// Whether the trailer of the seal that was seen begins at `at`.
    fn is_trailer(&self, at: u64) -> bool {
        self.summary.sealed && self.trailer.is_some() && at + TRAILER_BYTES == self.summary.len_bytes
    }

    fn is_compacted(&mut self) -> Result<bool> {
        let Some(trailer) = self.trailer.filter(|trailer| trailer.seal_at < self.summary.len_bytes) else { return Ok(false) };
        let Found::Frame(frame, _) = self.scanner.look(trailer.seal_at)? else { return Ok(false) };
        Ok(frame.header.kind == FrameKind::Seal && Footer::decode(&frame.body).is_some_and(|footer| footer.compacted))
    }

    /// The last bytes of a file, too few for a header.
    fn rest_of_file(&mut self) -> Result<Found> {
        Ok(if self.first_nonzero(self.position)?.is_some() { Found::NeedsBytes(HEADER_BYTES) } else { Found::Nothing })
    }

    fn frame(&mut self, frame: Frame, header_crc: u32) -> bool {
        let (position, header) = (self.position, frame.header);
        let content = match header.kind {
            // The batch's own checksum lies within what the frame's covers; what is wrong with it was so when it was appended.
            FrameKind::Batch => Batch::open(&frame.body).map(|batch| Content::Batch { records: batch.count() }),
            FrameKind::Seal => Ok(Footer::decode(&frame.body).map_or(Content::Other, |footer| Content::Seal {
                records: footer.tally.records,
                end_offset: footer.end.offset,
                places: footer.index.entries().len(),
                hash: footer.tally.hash,
                previous_hash: footer.previous_hash,
                compacted: footer.compacted,
            })),
            FrameKind::Flush => Ok(FlushBody::decode(&frame.body).filter(|body| body.position == position))
                .map(|body| body.map_or(Content::Other, |body| Content::Flush { durable: body.durable, ceiling: body.ceiling })),
            _ => Ok(Content::Other),
        };
        let mut wrong = content.is_err().then_some("the batch in the frame is not a whole record batch");
        if header.kind == FrameKind::Flush && matches!(content, Ok(Content::Other)) {
            wrong = Some("the flush frame was written for another place");
        }
        let chain = self.chain(&header);
        if chain == Chain::Broken {
            wrong = Some("the frame does not follow the one before it");
        }
        if header.kind.is_entry() && self.summary.sealed {
            wrong = Some("an entry stands behind the seal");
        }
        let seen = FrameSeen { position, frame, header_crc, chain, content: content.unwrap_or(Content::Other) };
        let next = position + u64::from(header.frame_bytes);
        if let Some(reason) = wrong
            && !self.damage(position, Some(next), reason)
        {
            return false;
        }
        self.follow(&header, header_crc);
        self.summary.count(&seen);
        self.position = next;
        (self.visit)(&Step::Frame(seen))
    }

    fn chain(&self, header: &FrameHeader) -> Chain {
        if !header.kind.is_entry() {
            return Chain::Local;
        }
        match &self.last {
            None => Chain::Unknown,
            Some(last) => {
                let links = header.raft_index == last.raft_index.next()
                    && header.base_offset == last.end_offset
                    && (self.compacted || header.previous_crc == last.header_crc);
                match (links, last.adjacent) {
                    (true, _) => Chain::Linked,
                    (false, true) => Chain::Broken,
                    (false, false) => Chain::Unknown,
                }
            }
        }
    }

    fn follow(&mut self, header: &FrameHeader, header_crc: u32) {
        if header.kind.is_entry() {
            let (raft_index, end_offset) = (header.raft_index, header.end_offset());
            self.last = Some(Last { raft_index, end_offset, header_crc, adjacent: true });
        }
    }

    /// The header of a bad frame, if it is whole and the frame lies within the file.
    fn whole_header(&mut self, at: u64) -> Result<Option<(FrameHeader, u32)>> {
        let decoded = FrameHeader::decode(&self.scanner.window(at, HEADER_BYTES)?).ok();
        Ok(decoded.filter(|(header, _)| at + u64::from(header.frame_bytes) <= self.summary.len_bytes))
    }

    /// Entries may be missing behind the last one.
    fn lose(&mut self) {
        if let Some(last) = &mut self.last {
            last.adjacent = false;
        }
    }

    /// The next frame that may stand where it stands: the image of a segment within a record does not count.
    fn next_whole(&mut self, from: u64) -> Result<Option<u64>> {
        let (last, end) = self.last.as_ref().map_or((RaftIndex::NONE, Offset::ZERO), |last| (last.raft_index, last.end_offset));
        self.scanner.seek(from, |at, frame| match frame.header.kind {
            FrameKind::Flush => FlushBody::decode(&frame.body).is_some_and(|body| body.position == at),
            kind if kind.is_entry() => frame.header.raft_index > last && frame.header.base_offset >= end,
            _ => frame.header.base_offset >= end,
        })
    }

    fn first_nonzero(&mut self, from: u64) -> Result<Option<u64>> {
        let mut at = from;
        while at < self.summary.len_bytes {
            let window = self.scanner.window(at, 1)?;
            if let Some(skip) = window.iter().position(|byte| *byte != 0) {
                return Ok(Some(at + skip as u64));
            }
            if window.is_empty() {
                break;
            }
            at += window.len() as u64;
        }
        Ok(None)
    }

    /// Tells of damage and goes on at `next`; `false` ends the walk.
    fn damage(&mut self, position: u64, next: Option<u64>, reason: &'static str) -> bool {
        let (after, offset) = self.last.as_ref().map_or_else(
            || (RaftIndex::NONE, self.summary.named.unwrap_or(Offset::ZERO)),
            |last| (last.raft_index, last.end_offset),
        );
        let damage = Damage { position, bytes: next.map(|next| next - position), reason, after, offset };
        self.summary.note(&damage);
        let goes_on = (self.visit)(&Step::Damage(damage));
        match next {
            Some(next) => self.position = next,
            None => return false,
        }
        goes_on
    }
}

/// What an index file says, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSeen {
    /// The base offset in it, and where it says its segment ends; `None` when it has no header.
    pub header: Option<(Offset, SegmentEnd)>,
    /// Its places.
    pub entries: Vec<IndexEntry>,
    /// Why it is not a whole index of the segment beside it; empty when it is, or when there is none.
    pub faults: Vec<String>,
    /// Whether the segment was there to compare with.
    pub compared: bool,
}

/// Looks into the index file at `path`, and compares it with the segment beside it if there is one.
///
/// # Errors
/// When a file can't be opened or read. What the bytes say is never an error.
pub fn inspect_index(path: &Path) -> Result<IndexSeen> {
    let file = ReadFile::open(path)?;
    let mut seen = IndexSeen { header: None, entries: Vec::new(), faults: Vec::new(), compared: false };
    if file.len_bytes() > INDEX_BYTES_MAX {
        seen.faults.push(format!("its {} bytes are more than any index has", file.len_bytes()));
        return Ok(seen);
    }
    let content = file.read_at(0, crate::types::index(file.len_bytes()))?;
    let (index, whole) = match inspect_index_file(&content) {
        Ok(found) => found,
        Err(reason) => {
            seen.faults.push(reason.into());
            return Ok(seen);
        }
    };
    if !whole {
        seen.faults.push("its checksum does not match".into());
    }
    let segment = path.with_extension("seg");
    if let Some(named) = segment.file_name().and_then(|name| Segment::parse_file_name(&name.to_string_lossy()))
        && named != index.base_offset
    {
        seen.faults.push(format!("it is of the segment at offset {}, its name says {named}", index.base_offset));
    }
    if index.index.entries().windows(2).any(|pair| pair[0].position >= pair[1].position || pair[0].offset > pair[1].offset) {
        seen.faults.push("its entries are not in order".into());
    }
    if segment.exists() {
        seen.compared = true;
        compare(&index, &segment, &mut seen.faults)?;
    }
    seen.header = Some((index.base_offset, index.end));
    seen.entries = index.index.entries().to_vec();
    Ok(seen)
}

/// Whether every place of an index leads to the frame it says, and the end is the segment's.
fn compare(index: &Footer, segment: &Path, faults: &mut Vec<String>) -> Result<()> {
    let (mut next, mut wrong) = (0, None);
    let summary = inspect_segment(segment, |step| {
        let Step::Frame(seen) = step else { return true };
        while let Some(entry) = index.index.entries().get(next).filter(|entry| entry.position <= seen.position) {
            let leads = entry.position == seen.position
                && entry.offset == seen.frame.header.base_offset
                && seen.frame.header.kind.is_entry();
            wrong = wrong.or((!leads).then_some(*entry));
            next += 1;
        }
        true
    })?;
    wrong = wrong.or(index.index.entries().get(next).copied());
    if let Some(entry) = wrong {
        faults.push(format!("no frame with offset {} begins at byte {} of the segment", entry.offset, entry.position));
    }
    let end = summary.offsets.map_or(index.base_offset, |offsets| offsets.end);
    let last = summary.raft_indexes.map_or(index.end.raft_index, |(_, last)| last);
    if (end, last) != (index.end.offset, index.end.raft_index) {
        faults.push(format!(
            "it ends at offset {} with entry {}, the segment at offset {end} with entry {last}",
            index.end.offset, index.end.raft_index
        ));
    }
    Ok(())
}
