//! A chunk file: sorted points that are on disk, and a footer that says what is in it.
//!
//! Written by a checkpoint or a merge, read by scans. The footer is read once, at opening; columns when a scan asks for them; the
//! directory of series when a scan needs it, kept in memory when it is small.
//!
//! # Crash safety
//! A file counts from the moment that the manifest names it, and is synced before. What no manifest names is removed.
//!
//! # Concurrency
//! Any number of readers. A file that another one replaces is removed when its last reader lets go of it.
//!
//! # Format
//! `docs/format.md`, "Chunk file".

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arrow::array::{Array, ArrayRef};
use arrow::buffer::ScalarBuffer;
use logcore::Offset;
use logcore::sys::fs::{self, AppendFile, ReadFile};
use logcore::types::{index, len_u32};

use super::column;
use super::directory::Directory;
use super::page::{self, PageColumn, PageSummary};
use super::wire::{Damage, Input, seal, unseal};
use crate::error::Error;
use crate::schema::{ColumnKind, FieldKind};

/// The last four bytes of every chunk file.
const MAGIC: [u8; 4] = *b"HwC1";
/// The version of everything in front of the trailer.
pub(crate) const VERSION: u32 = 2;
/// The footer's length, its checksum, the version, the magic.
const TRAILER_BYTES: usize = 16;
/// A first read of a file's end that takes in most footers at once.
const TAIL_BYTES: u64 = 64 << 10;
/// Gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// Directories of up to so many series stay in memory with their file.
const DIRECTORY_KEPT: u32 = 4096;

/// What a footer says about the whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkFacts {
    /// The number in the file's name.
    pub number: u64,
    pub rows: u32,
    pub series: u32,
    /// The earliest and the latest time, inclusive.
    pub times: (i64, i64),
    /// The lowest and the highest offset, inclusive.
    pub offsets: (u64, u64),
    /// Some rows are later ones of the series and time of others.
    pub superseded: bool,
    /// Deletes of lower offsets have been applied to it.
    pub deletes_applied: u64,
}

/// Writes a file page by page.
pub(crate) struct ChunkWriter {
    path: PathBuf,
    file: AppendFile,
    level: usize,
    pending: Vec<u8>,
    written: u64,
    pages: Vec<PageSummary>,
    directory: Directory,
    facts: ChunkFacts,
    last: Option<(u32, i64)>,
}

/// A page to write: sorted by the order of tags, time and offset.
pub(crate) struct NewPage<'a> {
    pub series: &'a [u32],
    pub times: &'a [i64],
    pub offsets: &'a [u64],
    /// By field number, in its order.
    pub fields: &'a [(u32, ArrayRef)],
}

/// The name of the chunk file of this number.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:020}.chunk")
}

impl ChunkWriter {
    /// Begins the file of this number; numbers will be compressed at pco's `level`.
    pub fn create(dir: &Path, number: u64, level: usize, deletes_applied: u64) -> Result<Self, Error> {
        let path = dir.join(file_name(number));
        let file = AppendFile::open(&path, 0)?;
        let facts = ChunkFacts {
            number,
            rows: 0,
            series: 0,
            times: (i64::MAX, i64::MIN),
            offsets: (u64::MAX, 0),
            superseded: false,
            deletes_applied,
        };
        let (pending, pages, directory) = (Vec::new(), Vec::new(), Directory::default());
        Ok(Self { path, file, level, pending, written: 0, pages, directory, facts, last: None })
    }

    /// Adds a page of at least one row, behind those before it in the order of tags and time.
    pub fn push(&mut self, new: &NewPage<'_>) -> Result<(), Error> {
        let NewPage { series, times, offsets, fields } = *new;
        let position = self.written + self.pending.len() as u64;
        let mut superseded = false;
        let mut distinct = 0_u32;
        let mut start = 0;
        for end in 1..=times.len() {
            let before = if end > 1 { Some((series[end - 2], times[end - 2])) } else { self.last };
            superseded |= before == Some((series[end - 1], times[end - 1]));
            if end == times.len() || series[end] != series[start] {
                self.directory.push(series[start], &times[start..end]);
                distinct += 1;
                start = end;
            }
        }
        self.last = series.last().copied().zip(times.last().copied());
        let mut put = |block: Vec<u8>| {
            self.pending.extend_from_slice(&block);
            len_u32(block.len())
        };
        let head_bytes =
            [put(column::encode_numbers_block(times, self.level)?), put(column::encode_numbers_block(offsets, self.level)?)];
        let mut columns = Vec::new();
        for (field, array) in fields {
            if let Some(summary) = page::describe(array, times) {
                columns.push(PageColumn { field: *field, summary, bytes: put(column::encode(array, self.level)?) });
            }
        }
        let page = PageSummary {
            rows: len_u32(times.len()),
            series: distinct,
            time_min: times.iter().copied().min().expect("a page holds points"),
            time_max: times.iter().copied().max().expect("a page holds points"),
            offset_min: Offset::new(offsets.iter().copied().min().unwrap_or_default()),
            offset_max: Offset::new(offsets.iter().copied().max().unwrap_or_default()),
            columns,
            superseded,
            row_start: self.facts.rows,
            position,
            head_bytes,
        };
        let facts = &mut self.facts;
        facts.rows += page.rows;
        facts.superseded |= superseded;
        facts.times = (facts.times.0.min(page.time_min), facts.times.1.max(page.time_max));
        facts.offsets = (facts.offsets.0.min(page.offset_min.value()), facts.offsets.1.max(page.offset_max.value()));
        self.pages.push(page);
        if self.pending.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Error> {
        self.file.append(&self.pending)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Ends the file, of at least one page, durably but for its name.
    pub fn finish(mut self) -> Result<SealedChunk, Error> {
        let directory = seal(self.directory.encode(self.level)?);
        self.facts.series = len_u32(self.directory.len());
        self.pending.extend_from_slice(&directory);
        let mut footer = Vec::new();
        self.facts.encode(&mut footer);
        footer.extend_from_slice(&len_u32(directory.len()).to_le_bytes());
        footer.extend_from_slice(&len_u32(self.pages.len()).to_le_bytes());
        self.pages.iter().for_each(|page| page.encode(&mut footer));
        let trailer = Trailer { footer_bytes: len_u32(footer.len()), checksum: 0, version: VERSION };
        let checksum = trailer.expected_checksum(&footer);
        self.pending.extend_from_slice(&footer);
        self.pending.extend_from_slice(&Trailer { checksum, ..trailer }.encode());
        self.write()?;
        self.file.sync()?;
        let kept = (self.facts.series <= DIRECTORY_KEPT).then(|| Arc::new(self.directory));
        Ok(SealedChunk {
            path: self.path,
            facts: self.facts,
            bytes: self.written,
            directory_bytes: len_u32(directory.len()),
            pages: self.pages,
            kept: Mutex::new(kept),
            directory: Mutex::default(),
            replaced: AtomicBool::new(false),
        })
    }
}

impl ChunkFacts {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.series.to_le_bytes());
        [self.times.0, self.times.1].iter().for_each(|time| out.extend_from_slice(&time.to_le_bytes()));
        [self.offsets.0, self.offsets.1].iter().for_each(|offset| out.extend_from_slice(&offset.to_le_bytes()));
        out.push(u8::from(self.superseded));
        out.extend_from_slice(&self.deletes_applied.to_le_bytes());
    }

    fn decode(input: &mut Input<'_>) -> Result<Self, Damage> {
        let (number, rows, series) = (input.u64()?, input.u32()?, input.u32()?);
        let (times, offsets) = ((input.i64()?, input.i64()?), (input.u64()?, input.u64()?));
        let superseded = match input.u8()? {
            0 => false,
            1 => true,
            _ => return Err("a flag in it is neither 0 nor 1"),
        };
        let deletes_applied = input.u64()?;
        if rows == 0 || series == 0 || series > rows || times.0 > times.1 || offsets.0 > offsets.1 {
            return Err("it has no rows or ranges that end before they start");
        }
        Ok(Self { number, rows, series, times, offsets, superseded, deletes_applied })
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

/// A chunk file, to be read.
#[derive(Debug)]
pub(crate) struct SealedChunk {
    path: PathBuf,
    pub facts: ChunkFacts,
    pub bytes: u64,
    directory_bytes: u32,
    pub pages: Vec<PageSummary>,
    /// A directory that stays.
    kept: Mutex<Option<Arc<Directory>>>,
    /// One that some reader has.
    directory: Mutex<Weak<Directory>>,
    replaced: AtomicBool,
}

impl SealedChunk {
    /// Reads and checks the footer of the file of this number in `dir`, which has `bytes` bytes.
    pub fn open(dir: &Path, number: u64, bytes: u64) -> Result<Self, Error> {
        let path = dir.join(file_name(number));
        let found = fs::len_bytes(&path)?;
        let trailer_at = bytes.saturating_sub(TRAILER_BYTES as u64);
        let damaged = |detail| Error::corrupt(&path, trailer_at)(detail);
        if found != bytes {
            return Err(damaged("it is missing or not as long as the manifest says"));
        }
        let tail_bytes = bytes.min(TAIL_BYTES);
        let mut tail = fs::read_range(&path, bytes - tail_bytes, index(tail_bytes))?;
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
        let (facts, directory_bytes, pages) = read_footer(footer, footer_at).map_err(Error::corrupt(&path, footer_at))?;
        if facts.number != number {
            return Err(Error::corrupt(&path, footer_at)("its number is not that of its name"));
        }
        let (kept, directory, replaced) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Ok(Self { path, facts, bytes, directory_bytes, pages, kept, directory, replaced })
    }

    /// Opens the file for reading pages.
    pub fn reader(&self) -> Result<ReadFile, Error> {
        Ok(ReadFile::open(&self.path)?)
    }

    /// Which series it has, and where.
    pub fn directory(&self) -> Result<Arc<Directory>, Error> {
        if let Some(directory) = &*self.kept.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(directory));
        }
        let mut shared = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = shared.upgrade() {
            return Ok(directory);
        }
        let position = self.pages.last().map_or(0, |page| page.position + page.bytes());
        let raw = fs::read_range(&self.path, position, self.directory_bytes as usize)?;
        let decode = |raw| Directory::decode(unseal(raw)?, self.facts.series as usize, self.facts.rows);
        let directory = Arc::new(decode(&raw).map_err(Error::corrupt(&self.path, position))?);
        if self.facts.series <= DIRECTORY_KEPT {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&directory));
        }
        *shared = Arc::downgrade(&directory);
        Ok(directory)
    }

    /// Reads the times of a page.
    pub fn times(&self, file: &ReadFile, page: &PageSummary) -> Result<ScalarBuffer<i64>, Error> {
        self.block(file, page.position, page.head_bytes[0], |block| column::decode_times(block, page.rows as usize))
    }

    /// Reads the offsets of a page.
    pub fn offsets(&self, file: &ReadFile, page: &PageSummary) -> Result<ScalarBuffer<u64>, Error> {
        let position = page.position + u64::from(page.head_bytes[0]);
        self.block(file, position, page.head_bytes[1], |block| column::decode_offsets(block, page.rows as usize))
    }

    /// Reads a field of a page; `None` when no row has a value.
    pub fn field(&self, file: &ReadFile, page: &PageSummary, field: u32, kind: FieldKind) -> Result<Option<ArrayRef>, Error> {
        let Some((position, column)) = page.block(field) else { return Ok(None) };
        let kind = ColumnKind::Field(kind);
        let array = self.block(file, position, column.bytes, |block| {
            let array = column::decode(kind, block, page.rows as usize)?;
            let found = (array.len() - array.null_count()) as u64;
            if found == column.summary.count() { Ok(array) } else { Err("it has more or fewer values than the footer says") }
        });
        array.map(Some)
    }

    fn block<T>(
        &self,
        file: &ReadFile,
        position: u64,
        len: u32,
        decode: impl FnOnce(&[u8]) -> Result<T, Damage>,
    ) -> Result<T, Error> {
        let bytes = file.read_at(position, len as usize)?;
        decode(&bytes).map_err(Error::corrupt(&self.path, position))
    }

    /// Others hold all of this one: the last to let go of it removes it.
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

fn read_footer(footer: &[u8], footer_at: u64) -> Result<(ChunkFacts, u32, Vec<PageSummary>), Damage> {
    let mut input = Input::new(footer);
    let facts = ChunkFacts::decode(&mut input)?;
    let directory_bytes = input.u32()?;
    let count = input.count(49)?;
    let mut pages = Vec::with_capacity(count);
    let (mut position, mut rows) = (0, 0_u32);
    for _ in 0..count {
        let page = PageSummary::decode(&mut input, position, rows)?;
        position += page.bytes();
        rows = rows.checked_add(page.rows).ok_or("it has too many points")?;
        pages.push(page);
    }
    input.end()?;
    if rows != facts.rows {
        return Err("its pages hold more or fewer points than it says");
    }
    if position + u64::from(directory_bytes) != footer_at {
        return Err("its pages and directory don't end where its footer starts");
    }
    Ok((facts, directory_bytes, pages))
}
