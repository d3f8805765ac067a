//! A segment: a contiguous run of frames of one partition in one file, and its index.
//!
//! [`active`] appends to the newest one, [`recovery`] reads one back after an unclean stop, [`footer`] is what a sealed one says
//! of itself, [`compact`] rewrites sealed ones, [`inspect`] shows
//! one to people. `partition` owns the list of them.
//!
//! # Invariants
//! - A sealed file is never written again. Compaction puts another file in its place and another [`Segment`] in the list; whoever
//!   still holds the old one hears that it is retired and looks again.
//! - What is kept of sealed segments in RAM is bounded by [`Recent`].

pub(crate) mod active;
pub(crate) mod compact;
pub(crate) mod footer;
pub(crate) mod index;
pub mod inspect;
mod producers;
pub(crate) mod recent;
pub(crate) mod recovery;
pub(crate) mod walk;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, RwLock, Weak};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::frame::{Frame, FrameKind};
use crate::io::{DiskFile, DiskIo};
use crate::types::{Offset, PartitionRef};

pub(crate) use active::seal_frame;
pub(crate) use footer::{Footer, Tally, Trailer};
pub(crate) use index::{SegmentEnd, SparseIndex};
pub(crate) use producers::{Producers, Sent, Verdict};

use footer::TRAILER_BYTES;
use recent::Recent;
use recovery::{Before, Found, Link, Verify, take_frame};

/// What is known of a segment; grows while it is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentMeta {
    pub index: SparseIndex,
    pub end: SegmentEnd,
    pub tally: Tally,
    /// The hash of the segment before.
    pub previous_hash: u128,
    /// Nothing follows in this file.
    pub sealed: bool,
    /// Records were taken out.
    pub compacted: bool,
}

impl SegmentMeta {
    /// Of a segment that starts at `end` and holds nothing yet.
    pub fn empty(end: SegmentEnd) -> Self {
        let (index, tally) = (SparseIndex::default(), Tally::default());
        Self { index, end, tally, previous_hash: 0, sealed: false, compacted: false }
    }

    /// What a footer says.
    pub fn of_footer(footer: Footer) -> (Self, Producers) {
        let Footer { end, tally, previous_hash, compacted, index, producers, .. } = footer;
        (Self { index, end, tally, previous_hash, sealed: true, compacted }, producers)
    }

    /// The same as a footer.
    pub fn to_footer(&self, base_offset: Offset, producers: Producers) -> Footer {
        Footer {
            base_offset,
            end: self.end,
            tally: self.tally,
            previous_hash: self.previous_hash,
            compacted: self.compacted,
            index: self.index.clone(),
            producers,
        }
    }
}

/// The few facts of a sealed segment that stay in RAM once they are known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub end: SegmentEnd,
    pub tally: Tally,
    pub previous_hash: u128,
    pub compacted: bool,
}

/// What a segment file says of itself.
struct Loaded {
    meta: SegmentMeta,
    producers: Producers,
    link: Link,
}

/// What the segments of a partition have in common.
pub(crate) struct SegmentsOf {
    pub io: Arc<dyn DiskIo>,
    pub dir: PathBuf,
    pub partition: PartitionRef,
    /// Bounds what sealed segments keep in RAM, for the whole log.
    pub recent: Arc<Recent>,
}

/// See the module docs.
pub(crate) struct Segment {
    pub base_offset: Offset,
    path: PathBuf,
    of: Arc<SegmentsOf>,
    this: Weak<Segment>,
    /// Kept open while the segment is active; of the sealed ones those read last.
    file: RwLock<Option<Arc<dyn DiskFile>>>,
    /// The base offset of the segment behind it: a footer that ends elsewhere is not believed.
    next_base: OnceLock<Offset>,
    meta: RwLock<Option<SegmentMeta>>,
    facts: OnceLock<Facts>,
    /// What it keeps in RAM can't be read again yet.
    pinned: AtomicBool,
    retired: AtomicBool,
    damage: OnceLock<String>,
}

impl Segment {
    /// The file name of the segment that starts at `base_offset`.
    pub fn file_name(base_offset: Offset) -> String {
        format!("{:020}.seg", base_offset.value())
    }

    /// The base offset a segment file's name tells.
    pub fn parse_file_name(name: &str) -> Option<Offset> {
        let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?;
        digits.parse().ok().map(Offset::new)
    }

    /// Names a segment file; nothing is read yet.
    pub fn at(of: &Arc<SegmentsOf>, base_offset: Offset) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            base_offset,
            path: of.dir.join(Self::file_name(base_offset)),
            of: Arc::clone(of),
            this: this.clone(),
            file: RwLock::new(None),
            next_base: OnceLock::new(),
            meta: RwLock::new(None),
            facts: OnceLock::new(),
            pinned: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            damage: OnceLock::new(),
        })
    }

    /// The same file once more, for the list, when this one was retired and the file stayed.
    pub fn again(&self) -> Arc<Self> {
        let again = Self::at(&self.of, self.base_offset);
        if let Some(next_base) = self.next_base() {
            again.followed_by(next_base);
        }
        if let Some(facts) = self.facts.get() {
            let _ = again.facts.set(*facts);
        }
        again
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Uses a file that is already open.
    pub fn set_file(&self, file: Arc<dyn DiskFile>) {
        *self.file.write().expect("no code panics inside") = Some(file);
    }

    /// Its file, opened if need be.
    pub fn file(&self) -> Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.file.read().expect("no code panics inside").as_ref() {
            return Ok(Arc::clone(file));
        }
        let opened = self.of.io.open(&self.path);
        // Looked at after opening: a path is given to another file only after its segment was retired.
        if self.is_retired() {
            return Err(self.retired_error());
        }
        let file = opened?;
        self.set_file(Arc::clone(&file));
        self.of.recent.touch(&self.this);
        Ok(file)
    }

    /// Closes the file of an active segment that nobody uses at present: of many idle partitions none is kept open. Everything
    /// in it is durable, and no write to it failed.
    pub fn close_file(&self) {
        *self.file.write().expect("no code panics inside") = None;
    }

    /// Says that the segment with base offset `next_base` follows: nothing is appended here any more.
    pub fn followed_by(&self, next_base: Offset) {
        let _ = self.next_base.set(next_base);
    }

    /// Says that it is being appended to: what it keeps in RAM is nowhere else.
    pub fn pin(&self) {
        self.pinned.store(true, Ordering::SeqCst);
    }

    /// Says that all of it, the footer included, is durable: what it keeps in RAM can be read again.
    pub fn settled(&self) {
        self.pinned.store(false, Ordering::SeqCst);
        self.of.recent.touch(&self.this);
    }

    /// Whether another segment follows.
    pub fn next_base(&self) -> Option<Offset> {
        self.next_base.get().copied()
    }

    /// Takes it out of service: its path may be given to another file from now on.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    fn retired_error(&self) -> Error {
        Error::Retired { partition: self.of.partition, file: self.path.clone() }
    }

    /// Lets go of what can be read again; called by [`Recent`].
    pub fn forget(&self) {
        if self.pinned.load(Ordering::SeqCst) {
            return;
        }
        *self.file.write().expect("no code panics inside") = None;
        *self.meta.write().expect("no code panics inside") = None;
    }

    /// Bytes of RAM that [`Self::forget`] frees.
    pub fn cached_bytes(&self) -> usize {
        let meta = self.meta.read().expect("no code panics inside");
        meta.as_ref().map_or(0, |meta| meta.index.encoded_bytes())
    }

    /// Notes that its content was found damaged.
    pub fn set_damage(&self, what: String) {
        let _ = self.damage.set(what);
    }

    /// What was found damaged.
    pub fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Bytes of its content, if that is known without reading anything.
    pub fn known_bytes(&self) -> Option<u64> {
        let active = self.meta.read().expect("no code panics inside").as_ref().map(|meta| meta.end.position);
        self.facts.get().map(|facts| facts.end.position).or(active)
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.with_extension("idx")
    }

    pub fn set_meta(&self, meta: SegmentMeta) {
        if meta.sealed {
            let SegmentMeta { end, tally, previous_hash, compacted, .. } = meta;
            let _ = self.facts.set(Facts { end, tally, previous_hash, compacted });
        }
        *self.meta.write().expect("no code panics inside") = Some(meta);
    }

    /// Changes what is known, while the segment is active.
    pub fn update_meta(&self, change: impl FnOnce(&mut SegmentMeta)) {
        if let Some(meta) = self.meta.write().expect("no code panics inside").as_mut() {
            change(meta);
        }
    }

    /// Looks something up, in what is read or rebuilt first if need be.
    pub fn with_meta<T>(&self, look: impl FnOnce(&SegmentMeta) -> T) -> Result<T> {
        if let Some(meta) = self.meta.read().expect("no code panics inside").as_ref() {
            return Ok(look(meta));
        }
        let Loaded { meta, .. } = self.load()?;
        let found = look(&meta);
        self.set_meta(meta);
        self.of.recent.touch(&self.this);
        Ok(found)
    }

    /// The facts of a sealed segment.
    pub fn facts(&self) -> Result<Facts> {
        if let Some(facts) = self.facts.get() {
            return Ok(*facts);
        }
        self.with_meta(|meta| Facts {
            end: meta.end,
            tally: meta.tally,
            previous_hash: meta.previous_hash,
            compacted: meta.compacted,
        })
    }

    /// Where it is kept what the segment in front of this one knew, when that was dropped.
    pub fn start_path(&self) -> PathBuf {
        self.path.with_extension("start")
    }

    /// Keeps beside the next segment what this one knows of producers: it is about to be dropped.
    pub fn save_next_start(&self) -> Result<()> {
        let Some(next) = self.next_base() else { return Ok(()) };
        let Loaded { meta, producers, .. } = self.load()?;
        let footer = SegmentMeta { index: SparseIndex::default(), ..meta }.to_footer(self.base_offset, producers);
        let path = self.of.dir.join(Self::file_name(next)).with_extension("start");
        self.of.io.write_atomic(&path, &footer::encode_index_file(&footer))
    }

    /// What stood in front of a partition's first segment.
    pub fn before_first(&self) -> Result<Before> {
        let nothing = Before::nothing(self.base_offset);
        let kept = self.of.io.read_small(&self.start_path())?.and_then(|raw| footer::decode_index_file(&raw));
        match kept.filter(|footer| footer.end.offset == self.base_offset) {
            Some(footer) => Ok(Before { producers: footer.producers, hash: footer.tally.hash, ..nothing }),
            None => Ok(nothing),
        }
    }

    /// What stands in front of the segment behind this one.
    pub fn before_next(&self) -> Result<Before> {
        let Loaded { meta, producers, link } = self.load()?;
        let before = Before { end: meta.end, link, producers, hash: meta.tally.hash };
        self.set_meta(meta);
        Ok(before)
    }

    /// From the footer, or by reading everything.
    fn load(&self) -> Result<Loaded> {
        let file = self.file()?;
        if let Some(footer) = self.read_footer(file.as_ref())?
            && self.next_base.get().is_none_or(|next_base| footer.end.offset == *next_base)
        {
            let (meta, producers) = SegmentMeta::of_footer(footer);
            return Ok(Loaded { meta, producers, link: Link::Chained });
        }
        let recovery::Scan { meta, producers, link, .. } = recovery::scan(file.as_ref(), self.base_offset, None, None)?;
        Ok(Loaded { meta, producers, link })
    }

    /// The footer of a sealed segment; `None` when there is no whole one.
    pub fn read_footer(&self, file: &dyn DiskFile) -> Result<Option<Footer>> {
        let Some(at) = file.len_bytes()?.checked_sub(TRAILER_BYTES) else { return Ok(None) };
        let Some(trailer) = Trailer::decode(&file.read(at, crate::types::index(TRAILER_BYTES))?) else { return Ok(None) };
        let seal_end = trailer.seal_at.checked_add(u64::from(trailer.seal_bytes));
        if trailer.base_offset != self.base_offset || seal_end.is_none_or(|end| end > at) {
            return Ok(None);
        }
        let raw = file.read(trailer.seal_at, trailer.seal_bytes as usize)?;
        let Found::Frame(frame, _) = take_frame(&raw, Verify::All) else { return Ok(None) };
        let says_so = |footer: &Footer| footer.base_offset == self.base_offset && footer.end.position == trailer.seal_at;
        Ok(Footer::decode(&frame.body).filter(|footer| frame.header.kind == FrameKind::Seal && says_so(footer)))
    }

    /// Makes durable what a process that was stopped may have left in the system's memory only: all that no flush frame calls
    /// durable. Where a footer can be found, everything in front of it was durable before.
    pub fn make_durable(&self) -> Result<()> {
        let file = self.file()?;
        if self.read_footer(file.as_ref())?.is_some() {
            return Ok(());
        }
        let found = recovery::scan(file.as_ref(), self.base_offset, None, None)?;
        recovery::write_again(file.as_ref(), found.durable_until, found.meta.end.position).map(drop)
    }

    /// Writes what is known of an active segment beside it, for the start after a clean stop.
    pub fn save_index(&self, producers: &Producers) -> Result<()> {
        let footer = self.with_meta(|meta| meta.to_footer(self.base_offset, producers.clone()))?;
        self.of.io.write_atomic(&self.index_path(), &footer::encode_index_file(&footer))
    }

    /// What a clean stop left of an active segment. The caller checks that nothing was appended since.
    pub fn load_index(&self) -> Result<Option<Footer>> {
        let stored = self.of.io.read_small(&self.index_path())?;
        Ok(stored.and_then(|raw| footer::decode_index_file(&raw)).filter(|footer| footer.base_offset == self.base_offset))
    }

    /// Where to start reading for `from`, and where the content ends.
    pub fn span_of(&self, from: Offset) -> Result<(u64, u64)> {
        self.with_meta(|meta| (meta.index.position_of(from), meta.end.position))
    }

    /// Fails when someone who went through all of it came only as far as `end`.
    pub fn check_complete(&self, end: Option<Offset>) -> Result<()> {
        let (end, position) = (end.unwrap_or(self.base_offset), self.known_bytes().unwrap_or(0));
        match self.next_base().filter(|next_base| end < *next_base) {
            Some(_) => Err(self.corrupt(end, position, "it ends before the next segment begins")),
            None => Ok(()),
        }
    }

    fn corrupt(&self, offset: Offset, position: u64, detail: &str) -> Error {
        Error::Corrupt { partition: self.of.partition, offset, file: self.path.clone(), position, detail: detail.to_owned() }
    }
}

/// Takes entries that cover offsets in `from..until` out of a RAM chunk's bytes.
pub(crate) fn read_chunk(bytes: &Bytes, from: Offset, until: Offset, max_bytes: usize) -> Vec<Frame> {
    let mut rest = bytes.clone();
    let (mut frames, mut taken) = (Vec::new(), 0);
    while taken < max_bytes {
        let Found::Frame(frame, _) = take_frame(&rest, Verify::Header) else { break };
        let bytes = frame.header.frame_bytes as usize;
        rest = rest.slice(bytes..);
        if !frame.header.kind.is_entry() || frame.end_offset() <= from {
            continue;
        }
        if frame.header.base_offset >= until {
            break;
        }
        taken += bytes;
        frames.push(frame);
    }
    frames
}
