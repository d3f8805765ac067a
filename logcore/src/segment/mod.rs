//! A segment: a contiguous run of frames of one partition in one file, and its index.
//!
//! [`active`] appends to the newest one, [`recovery`] reads one back after an unclean stop, [`index`] leads readers into it, [`inspect`]
//! shows one to people. `partition` owns the list of them.

pub(crate) mod active;
pub(crate) mod index;
pub mod inspect;
pub(crate) mod recovery;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, RwLock};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::frame::{Frame, FrameHeader, FrameKind};
use crate::io::{DiskFile, DiskIo};
use crate::types::{Offset, PartitionRef, TimestampMillis};

pub(crate) use index::{SegmentEnd, SparseIndex};
use recovery::{Found, READ_BYTES, Verify, take_frame};

/// What the index says about a segment; grows while it is active.
#[derive(Clone)]
pub(crate) struct SegmentMeta {
    pub index: SparseIndex,
    pub end: SegmentEnd,
}

/// See the module docs.
pub(crate) struct Segment {
    pub partition: PartitionRef,
    pub base_offset: Offset,
    path: PathBuf,
    io: Arc<dyn DiskIo>,
    /// Kept open while the segment is active; a sealed one is opened for each read, so that descriptors stay bounded.
    file: RwLock<Option<Arc<dyn DiskFile>>>,
    /// The base offset of the segment behind it: an index that ends elsewhere is out of date.
    next_base: OnceLock<Offset>,
    meta: RwLock<Option<SegmentMeta>>,
}

/// What a read of frames came to.
pub(crate) struct FramesRead {
    pub frames: Vec<Frame>,
    /// Nothing more is in this segment; go on in the next.
    pub at_end: bool,
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

    /// Names a segment file in `dir`; nothing is read yet.
    pub fn at(io: Arc<dyn DiskIo>, dir: &Path, partition: PartitionRef, base_offset: Offset) -> Self {
        let path = dir.join(Self::file_name(base_offset));
        Self { partition, base_offset, path, io, file: RwLock::new(None), next_base: OnceLock::new(), meta: RwLock::new(None) }
    }

    /// Uses a file that is already open.
    pub fn with_file(self, file: Arc<dyn DiskFile>) -> Self {
        Self { file: RwLock::new(Some(file)), ..self }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> Result<Arc<dyn DiskFile>> {
        match self.file.read().expect("no code panics inside").as_ref() {
            Some(file) => Ok(Arc::clone(file)),
            None => self.io.open(&self.path),
        }
    }

    /// Says that the segment with base offset `next_base` follows: nothing is appended here any more.
    pub fn followed_by(&self, next_base: Offset) {
        let _ = self.next_base.set(next_base);
        *self.file.write().expect("no code panics inside") = None;
    }

    /// Bytes of its content, if that is known without reading anything.
    pub fn known_bytes(&self) -> Option<u64> {
        self.meta.read().expect("no code panics inside").as_ref().map(|meta| meta.end.position)
    }

    fn index_path(&self) -> PathBuf {
        self.path.with_extension("idx")
    }

    pub fn set_meta(&self, meta: SegmentMeta) {
        *self.meta.write().expect("no code panics inside") = Some(meta);
    }

    /// Changes what the index says, while the segment is active.
    pub fn update_meta(&self, change: impl FnOnce(&mut SegmentMeta)) {
        if let Some(meta) = self.meta.write().expect("no code panics inside").as_mut() {
            change(meta);
        }
    }

    /// Looks something up in the index, which is read or rebuilt first if need be.
    pub fn with_meta<T>(&self, look: impl FnOnce(&SegmentMeta) -> T) -> Result<T> {
        if let Some(meta) = self.meta.read().expect("no code panics inside").as_ref() {
            return Ok(look(meta));
        }
        let meta = self.load_meta()?;
        let found = look(&meta);
        self.set_meta(meta);
        Ok(found)
    }

    fn load_meta(&self) -> Result<SegmentMeta> {
        let stored = self.io.read_small(&self.index_path())?;
        let stored = stored.and_then(|content| SparseIndex::decode(&content, self.base_offset));
        if let Some((index, end)) = stored
            && self.next_base.get().is_none_or(|next_base| end.offset == *next_base)
        {
            return Ok(SegmentMeta { index, end });
        }
        let scan = recovery::scan(self.file()?.as_ref(), self.base_offset, None)?;
        let meta = SegmentMeta { index: scan.index, end: scan.end };
        // Only a convenience for the next start: reading goes on without it.
        if let Err(error) = self.io.write_atomic(&self.index_path(), &meta.index.encode(self.base_offset, &meta.end)) {
            tracing::warn!(%error, "the rebuilt index file was not kept");
        }
        Ok(meta)
    }

    /// Removes the index file: what it says is true only until the next append.
    pub fn remove_index(&self) -> Result<()> {
        self.io.remove(&self.index_path())
    }

    /// Writes the index file, for a later start.
    pub fn save_meta(&self) -> Result<()> {
        let content = self.with_meta(|meta| meta.index.encode(self.base_offset, &meta.end))?;
        self.io.write_atomic(&self.index_path(), &content)
    }

    pub fn max_timestamp(&self) -> Result<TimestampMillis> {
        self.with_meta(|meta| meta.end.max_timestamp)
    }

    /// Reads entries that cover offsets in `from..until` from the file: at least one if there is one, then more until
    /// `max_bytes`.
    pub fn read(&self, from: Offset, until: Offset, max_bytes: usize) -> Result<FramesRead> {
        let (mut at, end) = self.with_meta(|meta| (meta.index.position_of(from), meta.end.position))?;
        let file = self.file()?;
        let mut window = Bytes::new();
        let mut wanted = READ_BYTES.min(max_bytes.max(4 << 10));
        let (mut read, mut expected) = (FramesRead { frames: Vec::new(), at_end: false }, from);
        let mut taken = 0;
        // Frames at or above `until` may be on their way to the disk: nothing behind the last committed one is looked at.
        while at < end && expected < until && taken < max_bytes {
            let wrong = match take_frame(&window, Verify::All) {
                Found::NeedsBytes(bytes) => {
                    let bytes = bytes.max(wanted);
                    wanted = READ_BYTES;
                    let before = window.len();
                    window = file.read(at, bytes)?;
                    if window.len() > before || window.len() >= bytes {
                        continue;
                    }
                    "the file ends inside a frame"
                }
                Found::Nothing => "zeros stand where a frame was",
                // Damage in front of what was asked for does not concern this reader, if the header still says how long it is.
                Found::Bad(why) => match FrameHeader::decode(&window) {
                    Ok((header, _)) if header.end_offset() <= from && window.len() >= header.frame_bytes as usize => {
                        window = window.slice(header.frame_bytes as usize..);
                        at += u64::from(header.frame_bytes);
                        continue;
                    }
                    _ => why,
                },
                Found::Frame(frame, _) => {
                    let bytes = frame.header.frame_bytes as usize;
                    window = window.slice(bytes..);
                    at += bytes as u64;
                    if frame.header.kind == FrameKind::Seal {
                        break;
                    }
                    if !frame.header.kind.is_entry() || frame.end_offset() <= from {
                        continue;
                    }
                    if frame.header.base_offset <= expected {
                        expected = frame.end_offset();
                        taken += bytes;
                        read.frames.push(frame);
                        continue;
                    }
                    "records are missing here"
                }
            };
            // What is whole in front of damage is served; who goes on behind it hears of the damage.
            return if read.frames.is_empty() { Err(self.corrupt(expected, at, wrong)) } else { Ok(read) };
        }
        read.at_end = expected < until && taken < max_bytes;
        Ok(read)
    }

    fn corrupt(&self, offset: Offset, position: u64, detail: &str) -> Error {
        Error::Corrupt { partition: self.partition, offset, file: self.path.clone(), position, detail: detail.to_owned() }
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
