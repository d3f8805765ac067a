//! A chunk file: pages of sorted points, and a footer that says what is in them and up to which offset it all reaches.
//!
//! Written once, by a checkpoint, and never changed. Reading takes a column of a page at a time, only those a query needs.
//!
//! # Invariants
//! - The blocks lie one behind the other from the start of the file to its footer; nothing else is in between.
//! - The range of offsets in the name and in the footer is the same; all points are from it.
//!
//! # Crash safety
//! The file appears under its name whole or not at all. Its offset range is the checkpoint: there is no second file to agree with.
//!
//! # Concurrency
//! Any number of readers. A file that another one replaces is removed when its last reader lets go of it.
//!
//! # Format
//! `docs/format.md`, "Chunk file".

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::BooleanBuffer;
use logcore::Offset;
use logcore::sys::fs;
use logcore::types::{index, len_u32};

use super::column;
use super::folder;
use super::open::OpenBlock;
use super::page::PageSummary;
use super::wire::{Damage, Input};
use crate::error::Error;
use crate::schema::Layout;

/// The last four bytes of every chunk file.
const MAGIC: [u8; 4] = *b"HwC1";
/// The version of everything in front of the trailer.
const VERSION: u32 = 1;
/// The footer's length, its checksum, the version, the magic.
const TRAILER_BYTES: usize = 16;
/// A first read of a file's end that takes in most footers at once.
const TAIL_BYTES: u64 = 64 << 10;

/// Gathers the pages of a file.
pub(crate) struct ChunkWriter<'a> {
    layout: &'a Arc<Layout>,
    level: usize,
    content: Vec<u8>,
    pages: Vec<PageSummary>,
}

impl<'a> ChunkWriter<'a> {
    /// A file without pages; numbers will be compressed at pco's `level`.
    pub fn new(layout: &'a Arc<Layout>, level: usize) -> Self {
        Self { layout, level, content: Vec::new(), pages: Vec::new() }
    }

    /// Adds a page of points that are sorted by time and offset.
    pub fn push(&mut self, points: &RecordBatch, offsets: &[u64]) -> Result<(), Error> {
        let mut page = PageSummary::describe(points, offsets, self.layout);
        page.position = self.content.len() as u64;
        for array in points.columns() {
            let block = column::encode(array, self.level)?;
            page.block_bytes.push(len_u32(block.len()));
            self.content.extend_from_slice(&block);
        }
        let block = column::encode_offsets(offsets, self.level)?;
        page.block_bytes.push(len_u32(block.len()));
        self.content.extend_from_slice(&block);
        self.pages.push(page);
        Ok(())
    }

    /// Writes the file that covers the offsets `from..to`, durably.
    pub fn finish(mut self, dir: &Path, from: Offset, to: Offset) -> Result<SealedChunk, Error> {
        let points = self.pages.iter().map(|page| u64::from(page.rows)).sum();
        let mut footer = Vec::new();
        footer.extend_from_slice(&self.layout.fingerprint.to_le_bytes());
        footer.extend_from_slice(&from.value().to_le_bytes());
        footer.extend_from_slice(&to.value().to_le_bytes());
        footer.extend_from_slice(&u64::to_le_bytes(points));
        footer.extend_from_slice(&len_u32(self.pages.len()).to_le_bytes());
        for page in &self.pages {
            page.encode(&mut footer);
        }
        let trailer = Trailer { footer_bytes: len_u32(footer.len()), checksum: 0, version: VERSION };
        let checksum = trailer.expected_checksum(&footer);
        self.content.extend_from_slice(&footer);
        self.content.extend_from_slice(&Trailer { checksum, ..trailer }.encode());
        let path = dir.join(folder::file_name(from, to));
        fs::write_atomic(&path, &self.content)?;
        Ok(SealedChunk {
            path,
            layout: Arc::clone(self.layout),
            from,
            to,
            points,
            bytes: self.content.len() as u64,
            pages: self.pages,
            replaced: AtomicBool::new(false),
        })
    }
}

struct Trailer {
    footer_bytes: u32,
    checksum: u32,
    version: u32,
}

impl Trailer {
    fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut raw = [0; TRAILER_BYTES];
        raw[0..4].copy_from_slice(&self.footer_bytes.to_le_bytes());
        raw[4..8].copy_from_slice(&self.checksum.to_le_bytes());
        raw[8..12].copy_from_slice(&self.version.to_le_bytes());
        raw[12..16].copy_from_slice(&MAGIC);
        raw
    }

    fn decode(raw: &[u8]) -> Result<Self, Damage> {
        let mut input = Input::new(raw);
        let trailer = Self { footer_bytes: input.u32()?, checksum: input.u32()?, version: input.u32()? };
        if input.remaining() == MAGIC { Ok(trailer) } else { Err("it does not end like a chunk file") }
    }

    /// The checksum covers the footer, its length and the version.
    fn expected_checksum(&self, footer: &[u8]) -> u32 {
        let mut covered = footer.to_vec();
        covered.extend_from_slice(&self.footer_bytes.to_le_bytes());
        covered.extend_from_slice(&self.version.to_le_bytes());
        logcore::frame::checksum(&covered)
    }
}

/// A chunk file, open for reading.
#[derive(Debug)]
pub(crate) struct SealedChunk {
    path: PathBuf,
    layout: Arc<Layout>,
    /// The first offset covered.
    pub from: Offset,
    /// The offset after the last one covered.
    pub to: Offset,
    pub points: u64,
    pub bytes: u64,
    pub pages: Vec<PageSummary>,
    replaced: AtomicBool,
}

impl SealedChunk {
    /// Reads and checks the footer of the file at `path`, whose name says that it covers `from..to`.
    pub fn open(path: PathBuf, from: Offset, to: Offset, layout: &Arc<Layout>) -> Result<Self, Error> {
        let bytes = fs::len_bytes(&path)?;
        let tail_bytes = bytes.min(TAIL_BYTES);
        let mut tail = fs::read_range(&path, bytes - tail_bytes, index(tail_bytes))?;
        let trailer_at = bytes.saturating_sub(TRAILER_BYTES as u64);
        let damaged = |detail| Error::corrupt(&path, trailer_at)(detail);
        let trailer_raw = tail.last_chunk::<TRAILER_BYTES>().ok_or_else(|| damaged("it is shorter than a trailer"))?;
        let trailer = Trailer::decode(trailer_raw).map_err(damaged)?;
        let footer_bytes = trailer.footer_bytes as usize;
        let footer_at =
            trailer_at.checked_sub(footer_bytes as u64).ok_or_else(|| damaged("its footer is longer than the file"))?;
        if footer_bytes + TRAILER_BYTES > tail.len() {
            tail = fs::read_range(&path, footer_at, footer_bytes + TRAILER_BYTES)?;
        }
        let footer_start =
            tail.len().checked_sub(footer_bytes + TRAILER_BYTES).ok_or_else(|| damaged("it became shorter while it was read"))?;
        let footer = &tail[footer_start..footer_start + footer_bytes];
        if trailer.expected_checksum(footer) != trailer.checksum {
            return Err(Error::corrupt(&path, footer_at)("the footer's checksum is wrong"));
        }
        if trailer.version != VERSION {
            return Err(Error::UnknownFormat { path, found: trailer.version, supported: VERSION });
        }
        let (fingerprint, footer) = footer.split_first_chunk().ok_or_else(|| damaged("its footer is too short"))?;
        let (found, expected) = (u32::from_le_bytes(*fingerprint), layout.fingerprint);
        if found != expected {
            return Err(Error::SchemaChanged { path, expected, found });
        }
        match read_footer(footer, footer_at, from, to, layout) {
            Ok((points, pages)) => {
                let replaced = AtomicBool::new(false);
                Ok(Self { path, layout: Arc::clone(layout), from, to, points, bytes, pages, replaced })
            }
            Err(detail) => Err(Error::corrupt(&path, footer_at)(detail)),
        }
    }

    /// Reads a column of a page.
    pub fn column(&self, page: &PageSummary, column: usize) -> Result<ArrayRef, Error> {
        let kind = self.layout.columns[column];
        self.block(page, column, |block| column::decode(kind, block, page.rows as usize))
    }

    /// Reads the offsets of a page's points.
    pub fn offsets(&self, page: &PageSummary) -> Result<Vec<u64>, Error> {
        self.block(page, self.layout.columns.len(), |block| column::decode_offsets(block, page.rows as usize))
    }

    /// Which rows of a page have one of the values `wanted` in a tag.
    pub fn membership(&self, page: &PageSummary, column: usize, wanted: &[String]) -> Result<BooleanBuffer, Error> {
        self.block(page, column, |block| column::decode_membership(block, page.rows as usize, wanted))
    }

    fn block<T>(&self, page: &PageSummary, block: usize, decode: impl FnOnce(&[u8]) -> Result<T, Damage>) -> Result<T, Error> {
        let before = page.block_bytes[..block].iter().map(|&bytes| u64::from(bytes)).sum::<u64>();
        let position = page.position + before;
        let bytes = fs::read_range(&self.path, position, page.block_bytes[block] as usize)?;
        decode(&bytes).map_err(Error::corrupt(&self.path, position))
    }

    /// Reads all points back, a block a page, to write them again with others.
    pub fn read_all(&self) -> Result<Vec<Arc<OpenBlock>>, Error> {
        let read = |page| {
            let columns = (0..self.layout.columns.len()).map(|column| self.column(page, column)).collect::<Result<_, _>>()?;
            OpenBlock::new(columns, self.offsets(page)?, &self.layout).map(Arc::new)
        };
        self.pages.iter().map(read).collect()
    }

    /// Another file holds all of this one: the last to let go of it removes it.
    pub fn replace(&self) {
        self.replaced.store(true, Ordering::Relaxed);
    }
}

impl Drop for SealedChunk {
    fn drop(&mut self) {
        if self.replaced.load(Ordering::Relaxed)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "a replaced chunk file stays until the view is opened again");
        }
    }
}

fn read_footer(
    footer: &[u8],
    footer_at: u64,
    from: Offset,
    to: Offset,
    layout: &Layout,
) -> Result<(u64, Vec<PageSummary>), Damage> {
    let mut input = Input::new(footer);
    if (input.u64()?, input.u64()?) != (from.value(), to.value()) {
        return Err("its offsets are not those of its name");
    }
    let points = input.u64()?;
    let count = input.count(36)?;
    let mut pages = Vec::with_capacity(count);
    let mut position = 0;
    for _ in 0..count {
        let page = PageSummary::decode(&mut input, layout, position)?;
        if page.offset_min < from || page.offset_max >= to {
            return Err("a page in it has offsets outside of its range");
        }
        position += page.bytes();
        pages.push(page);
    }
    input.end()?;
    if pages.iter().map(|page| u64::from(page.rows)).sum::<u64>() != points {
        return Err("its pages hold more or fewer points than it says");
    }
    if position != footer_at {
        return Err("its pages don't end where its footer starts");
    }
    Ok((points, pages))
}
