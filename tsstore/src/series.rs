//! The series of one partition, seen by its readers: a table that grows, and snapshots of it that don't.
//!
//! The router opens a table with its materializer, hands the materializer to the driver, and takes a [`SeriesSnapshot`] for
//! every query.
//!
//! # Concurrency
//! One lock guards one pointer to an immutable state: the sealed chunks, the open blocks, and the offset they reach to. A
//! snapshot copies the pointer. The materializer, the only writer, copies the state's two lists when a snapshot still uses them,
//! so a checkpoint takes points out of memory and puts its file in for all later snapshots at once.
//!
//! # Invariants
//! - Sealed chunks cover the offsets `0..checkpoint`, open blocks `checkpoint..offset`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use logcore::Offset;

use crate::chunk::folder;
use crate::chunk::open::{self, OpenBlock};
use crate::chunk::page::PageSummary;
use crate::chunk::sealed::SealedChunk;
use crate::error::Error;
use crate::materializer::{PointProjection, SeriesMaterializer};
use crate::scan::{self, ScanRequest, ScanStats};
use crate::schema::{Layout, SeriesSchema};

/// How a series is laid out. The defaults are meant to be used; tests make everything smaller.
#[derive(Clone, Debug)]
pub struct SeriesOptions {
    /// Points of a full page.
    pub page_points: usize,
    /// Points from which on a page ends at the end of its stretch of [`SeriesSchema::chunk_millis`].
    pub page_points_min: usize,
    /// Points of a full block in memory.
    pub block_points: usize,
    /// A checkpoint takes in the points of the file before it when they are fewer than this, so that small files don't pile up.
    pub merge_points: u64,
    /// How hard pco tries, 0 to 12.
    pub compression_level: usize,
}

impl Default for SeriesOptions {
    fn default() -> Self {
        Self { page_points: 8192, page_points_min: 1024, block_points: 4096, merge_points: 8192, compression_level: 8 }
    }
}

/// How large a series is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesStats {
    /// Chunk files.
    pub chunks: usize,
    /// Their bytes.
    pub sealed_bytes: u64,
    /// Points in memory.
    pub open_points: u64,
    /// Points in memory and in files.
    pub points: u64,
}

/// What the points are at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub sealed: Vec<Arc<SealedChunk>>,
    pub open: Vec<Arc<OpenBlock>>,
    /// Everything below is in `sealed`.
    pub checkpoint: Offset,
    /// Everything below is in `sealed` or `open`.
    pub offset: Offset,
}

impl State {
    fn stats(&self) -> SeriesStats {
        let open_points = self.open.iter().map(|block| block.rows() as u64).sum();
        SeriesStats {
            chunks: self.sealed.len(),
            sealed_bytes: self.sealed.iter().map(|chunk| chunk.bytes).sum(),
            open_points,
            points: open_points + self.sealed.iter().map(|chunk| chunk.points).sum::<u64>(),
        }
    }
}

/// What the table and its materializer share.
pub(crate) struct Shared {
    pub layout: Arc<Layout>,
    pub dir: PathBuf,
    pub options: SeriesOptions,
    state: Mutex<Arc<State>>,
}

impl Shared {
    /// The state at this moment.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.lock())
    }

    /// Adds blocks, and moves on to `next`, as one step.
    pub fn append(&self, blocks: Vec<OpenBlock>, next: Offset) -> Result<(), Error> {
        let mut state = self.lock();
        let state = Arc::make_mut(&mut state);
        for block in blocks {
            open::push(&mut state.open, block, &self.layout, self.options.block_points)?;
        }
        state.offset = next;
        Ok(())
    }

    /// Replaces what is open, and `merged` sealed chunks at the end, by the chunk that holds them, as one step.
    pub fn seal(&self, chunk: SealedChunk, merged: usize) {
        let mut guard = self.lock();
        let state = Arc::make_mut(&mut guard);
        assert_eq!(chunk.to, state.offset, "a checkpoint covers all that was applied");
        let kept = state.sealed.len() - merged;
        let replaced = state.sealed.split_off(kept);
        state.checkpoint = chunk.to;
        state.sealed.push(Arc::new(chunk));
        let sealed = std::mem::take(&mut state.open);
        // Memory is given back and files are removed while readers go on.
        drop(guard);
        drop(sealed);
        replaced.iter().for_each(|chunk| chunk.replace());
    }

    fn lock(&self) -> MutexGuard<'_, Arc<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The series of one partition. Clones are the same series.
#[derive(Clone)]
pub struct SeriesTable {
    shared: Arc<Shared>,
}

impl SeriesTable {
    /// Opens the series in the folder `dir`, which is created when missing, and gives the materializer that feeds it. The
    /// materializer goes on from the last checkpoint.
    ///
    /// # Errors
    /// [`Error::InvalidSchema`]; [`Error::Corrupt`], [`Error::Gap`], [`Error::SchemaChanged`] and [`Error::UnknownFormat`] when
    /// the files have to be built again from the log; [`Error::Disk`].
    pub fn open(
        dir: &Path,
        schema: SeriesSchema,
        projection: PointProjection,
        options: SeriesOptions,
    ) -> Result<(Self, SeriesMaterializer), Error> {
        let layout = Arc::new(Layout::new(&schema)?);
        let sealed = folder::open(dir, &layout)?;
        let checkpoint = sealed.last().map_or(Offset::ZERO, |chunk| chunk.to);
        let state = State { sealed, open: Vec::new(), checkpoint, offset: checkpoint };
        let shared = Arc::new(Shared { layout, dir: dir.to_owned(), options, state: Mutex::new(Arc::new(state)) });
        Ok((Self { shared: Arc::clone(&shared) }, SeriesMaterializer::new(shared, projection)))
    }

    /// All points applied so far.
    #[must_use]
    pub fn snapshot(&self) -> SeriesSnapshot {
        SeriesSnapshot { layout: Arc::clone(&self.shared.layout), state: self.shared.state() }
    }

    /// The columns in the order of the table.
    #[must_use]
    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::clone(&self.shared.layout.arrow)
    }

    /// How large it is now.
    #[must_use]
    pub fn stats(&self) -> SeriesStats {
        self.shared.state().stats()
    }
}

/// The points of all offsets below [`Self::offset`]. It stays as it is, and keeps what it needs in memory and on disk, until it
/// is dropped.
#[derive(Clone)]
pub struct SeriesSnapshot {
    layout: Arc<Layout>,
    state: Arc<State>,
}

impl SeriesSnapshot {
    /// The first offset that is not in it.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.state.offset
    }

    /// How large it is.
    #[must_use]
    pub fn stats(&self) -> SeriesStats {
        self.state.stats()
    }

    /// The earliest and the latest time of all points, inclusive; `None` when there are none.
    #[must_use]
    pub fn time_range(&self) -> Option<(i64, i64)> {
        let sealed = self.pages().map(|page| (page.time_min, page.time_max));
        let open = self.state.open.iter().map(|block| (block.time_min, block.time_max));
        sealed.chain(open).reduce(|(min, max), (other_min, other_max)| (min.min(other_min), max.max(other_max)))
    }

    /// What the footers say about the pages on disk. Points in memory are not among them.
    pub fn pages(&self) -> impl Iterator<Item = &PageSummary> {
        self.state.sealed.iter().flat_map(|chunk| &chunk.pages)
    }

    /// Gives the points that `request` asks for to `emit`, batch by batch, until it breaks. Within a batch points are in the
    /// order of a page (time, offset) or of the log; there is no order among batches.
    ///
    /// # Errors
    /// [`Error::UnknownColumn`] and [`Error::UnknownTag`]; [`Error::Corrupt`] and [`Error::Disk`] when a file can't be read.
    pub fn scan(&self, request: &ScanRequest, emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>) -> Result<ScanStats, Error> {
        scan::run(&self.layout, &self.state, request, emit)
    }
}
