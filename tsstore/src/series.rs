//! The series of one partition, seen by its readers: a table that grows, and snapshots of it that don't.
//!
//! The router opens a table with its materializer, hands the materializer to the driver, and takes a [`SeriesSnapshot`] for
//! every query.
//!
//! # Concurrency
//! One lock guards one pointer to an immutable state: the sealed chunks, the open blocks, the names, the deletes, and the offset
//! they reach to. A snapshot copies the pointer. The materializer copies the state's lists when a snapshot still uses them, so a
//! checkpoint takes points out of memory and puts its files in for all later snapshots at once.
//!
//! # Invariants
//! - Sealed chunks have the points of the offsets `0..checkpoint`, open blocks those of `checkpoint..offset`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use logcore::Offset;

use crate::aggregate::{self, Aggregate, AggregateRequest};
use crate::change::{ChangeProjection, OnlyPoints, PointProjection, Tombstone};
use crate::chunk::open::{self, OpenBlock};
use crate::chunk::page::PageSummary;
use crate::chunk::sealed::SealedChunk;
use crate::error::Error;
use crate::manifest::{self, Manifest, Opened};
use crate::materializer::SeriesMaterializer;
use crate::names::{Interner, Names, Ranks};
use crate::scan::{self, LastRequest, ScanRequest, ScanStats};
use crate::schema::{Layout, Place, SeriesSchema};

/// How a series is laid out. The defaults are meant to be used; tests make everything smaller.
#[derive(Clone, Debug)]
pub struct SeriesOptions {
    /// Points of a full page.
    pub page_points: usize,
    /// Points from which on a page may end where a series ends.
    pub page_points_min: usize,
    /// Points of a full block in memory.
    pub block_points: usize,
    /// A stretch of [`SeriesSchema::chunk_millis`] with fewer points than this shares its chunk file with other stretches.
    pub chunk_points_min: u64,
    /// Chunk files of about one size are merged when there are so many of them.
    pub merge_files: usize,
    /// A merge makes no chunk file of more points than this.
    pub merge_points_max: u64,
    /// Merges that one checkpoint does at most.
    pub merges_max: usize,
    /// From so many deletes on, chunk files are written again without what they hide.
    pub deletes_max: usize,
    /// Scans keep up to so many pieces of pages in mind that have to be merged; when there are more they go over everything in
    /// the order of tags, which takes less memory.
    pub overlaps_max: usize,
    /// How hard pco tries, 0 to 12.
    pub compression_level: usize,
}

impl Default for SeriesOptions {
    fn default() -> Self {
        Self {
            page_points: 8192,
            page_points_min: 1024,
            block_points: 32_768,
            chunk_points_min: 8192,
            merge_files: 4,
            merge_points_max: 4 << 20,
            merges_max: 2,
            deletes_max: 64,
            overlaps_max: 1 << 17,
            compression_level: 8,
        }
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
    /// Points in memory and in files, with those that were replaced or deleted and are not merged away yet.
    pub points: u64,
    /// Series: combinations of tag values.
    pub series: u32,
    /// Deletes that are not applied to all files yet.
    pub deletes: usize,
}

/// What the points are at one moment.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub layout: Arc<Layout>,
    pub names: Names,
    pub sealed: Vec<Arc<SealedChunk>>,
    pub open: Vec<Arc<OpenBlock>>,
    /// Blocks at the front that a checkpoint is writing.
    pub frozen: usize,
    pub tombstones: Arc<Vec<Tombstone>>,
    /// Reads at this offset and above are exact.
    pub exact_from: u64,
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
            points: open_points + self.sealed.iter().map(|chunk| u64::from(chunk.facts.rows)).sum::<u64>(),
            series: self.names.series_count(),
            deletes: self.tombstones.len(),
        }
    }

    /// Takes out the deletes that hide nothing any more.
    pub fn drop_idle_deletes(&mut self) {
        let may_hide = |tombstone: &Tombstone| {
            let hides = |chunk: &Arc<SealedChunk>| {
                tombstone.offset >= chunk.facts.deletes_applied && tombstone.may_hide(chunk.facts.times, chunk.facts.offsets.0)
            };
            let hides_open = |block: &Arc<OpenBlock>| tombstone.may_hide((block.time_min, block.time_max), block.offset_min);
            self.sealed.iter().any(hides) || self.open.iter().any(hides_open)
        };
        if !self.tombstones.iter().all(may_hide) {
            self.tombstones = Arc::new(self.tombstones.iter().filter(|tombstone| may_hide(tombstone)).cloned().collect());
        }
    }
}

/// What the table and its materializer share.
pub(crate) struct Shared {
    pub dir: PathBuf,
    pub options: SeriesOptions,
    /// Held while files are written: what the folder says.
    pub saved: Mutex<Manifest>,
    /// What the router wants to be able to read.
    pub keep_from: AtomicU64,
    ranks: Mutex<Arc<Ranks>>,
    state: Mutex<Arc<State>>,
}

impl Shared {
    /// The state at this moment.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.lock())
    }

    /// Adds blocks and deletes, and moves on to `next`, as one step.
    pub fn append(&self, blocks: Vec<OpenBlock>, deletes: Vec<Tombstone>, names: &Names, next: Offset) -> Result<(), Error> {
        // Blocks are joined outside of the lock. Nobody else adds any; what a checkpoint writes is in front, and only gets less.
        let mut tail = {
            let state = self.state();
            state.open[state.frozen..].to_vec()
        };
        for block in blocks {
            open::push(&mut tail, block, self.options.block_points)?;
        }
        let mut state = self.lock();
        let state = Arc::make_mut(&mut state);
        state.open.truncate(state.frozen);
        state.open.append(&mut tail);
        if !deletes.is_empty() {
            Arc::make_mut(&mut state.tombstones).extend(deletes);
        }
        if state.names.counts() != names.counts() {
            state.names = names.clone();
        }
        state.offset = next;
        Ok(())
    }

    /// Changes the state as one step; what it let go of is dropped outside of the lock.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut guard = self.lock();
        let before = Arc::clone(&guard);
        let given = change(Arc::make_mut(&mut guard));
        drop(guard);
        drop(before);
        given
    }

    /// The order of at least the series of `names`.
    pub fn ranks(&self, names: &Names) -> Arc<Ranks> {
        let mut ranks = self.ranks.lock().unwrap_or_else(PoisonError::into_inner);
        if ranks.len() < names.series_count() {
            *ranks = Arc::new(ranks.grown(names));
        }
        Arc::clone(&ranks)
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
    /// materializer goes on from the last checkpoint. The schema may have tags and fields that it did not have before, and be
    /// without fields that it had.
    ///
    /// # Errors
    /// [`Error::InvalidSchema`]; [`Error::Corrupt`], [`Error::SchemaChanged`] and [`Error::UnknownFormat`] when the files have to
    /// be built again from the log; [`Error::Disk`].
    pub fn open(
        dir: &Path,
        schema: SeriesSchema,
        projection: PointProjection,
        options: SeriesOptions,
    ) -> Result<(Self, SeriesMaterializer), Error> {
        Self::open_written(dir, schema, Box::new(OnlyPoints(projection)), options)
    }

    /// As [`Self::open`], for a table that is written to: its records delete points, too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_written(
        dir: &Path,
        schema: SeriesSchema,
        projection: ChangeProjection,
        options: SeriesOptions,
    ) -> Result<(Self, SeriesMaterializer), Error> {
        Layout::new(&schema, &crate::schema::Columns::default())?;
        let Opened { manifest, names, chunks } = manifest::open(dir)?;
        let state = State {
            layout: Arc::new(Layout::new(&schema, &manifest.columns)?),
            names: names.clone(),
            sealed: chunks,
            open: Vec::new(),
            frozen: 0,
            tombstones: Arc::new(manifest.tombstones.clone()),
            exact_from: manifest.exact_from,
            checkpoint: manifest.checkpoint,
            offset: manifest.checkpoint,
        };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            options,
            saved: Mutex::new(manifest),
            keep_from: AtomicU64::new(u64::MAX),
            ranks: Mutex::default(),
            state: Mutex::new(Arc::new(state)),
        });
        let materializer = SeriesMaterializer::new(Arc::clone(&shared), projection, Interner::new(names));
        Ok((Self { shared }, materializer))
    }

    /// All points applied so far.
    #[must_use]
    pub fn snapshot(&self) -> SeriesSnapshot {
        SeriesSnapshot { shared: Arc::clone(&self.shared), state: self.shared.state() }
    }

    /// The columns in the order of the table.
    #[must_use]
    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::clone(&self.shared.state().layout.arrow)
    }

    /// How large it is now.
    #[must_use]
    pub fn stats(&self) -> SeriesStats {
        self.shared.state().stats()
    }

    /// Adds tags and fields, and takes fields away, for all later snapshots. Points that come in with the columns of before lack the
    /// new ones.
    ///
    /// # Errors
    /// [`Error::InvalidSchema`]; [`Error::SchemaChanged`] when the series has to be built again.
    pub fn set_schema(&self, schema: &SeriesSchema) -> Result<(), Error> {
        self.shared.change(|state| {
            state.layout = Arc::new(Layout::new(schema, &state.layout.columns)?);
            Ok(())
        })
    }

    /// Keeps what was replaced or deleted at this offset and later, so that snapshots can be read at offsets from here on. By
    /// default it goes when files are merged, though never what came after the checkpoint before the last.
    pub fn keep_superseded_from(&self, offset: Offset) {
        self.shared.keep_from.store(offset.value(), Ordering::Relaxed);
    }
}

/// The points of all offsets below [`Self::offset`]. It stays as it is, and keeps what it needs in memory and on disk, until it
/// is dropped.
#[derive(Clone)]
pub struct SeriesSnapshot {
    shared: Arc<Shared>,
    state: Arc<State>,
}

impl SeriesSnapshot {
    /// The first offset that is not in it.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.state.offset
    }

    /// The oldest offset that it can be read at: of what came before, some that was replaced or deleted later is gone.
    #[must_use]
    pub fn kept_from(&self) -> Offset {
        Offset::new(self.state.exact_from)
    }

    /// How large it is.
    #[must_use]
    pub fn stats(&self) -> SeriesStats {
        self.state.stats()
    }

    /// The columns in the order of the table.
    #[must_use]
    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::clone(&self.state.layout.arrow)
    }

    /// The tags, by column number, in the order by which series are sorted.
    #[must_use]
    pub fn tag_order(&self) -> Vec<usize> {
        let layout = &self.state.layout;
        let column = |tag: usize| layout.places.iter().position(|place| *place == Place::Tag(tag));
        (0..layout.columns.tags.len()).filter_map(column).collect()
    }

    /// The earliest and the latest time of all points, inclusive; `None` when there are none. Those of points that were deleted
    /// may be among them.
    #[must_use]
    pub fn time_range(&self) -> Option<(i64, i64)> {
        let sealed = self.state.sealed.iter().map(|chunk| chunk.facts.times);
        let open = self.state.open.iter().map(|block| (block.time_min, block.time_max));
        sealed.chain(open).reduce(|(min, max), (other_min, other_max)| (min.min(other_min), max.max(other_max)))
    }

    /// What the footers say about the pages on disk. Points in memory are not among them.
    pub fn pages(&self) -> impl Iterator<Item = &PageSummary> {
        self.state.sealed.iter().flat_map(|chunk| &chunk.pages)
    }

    /// Gives the points that `request` asks for to `emit`, batch by batch, until it breaks. Points of the same tags and time are
    /// one: of each field the value that came last.
    ///
    /// # Errors
    /// [`Error::UnknownColumn`] and [`Error::UnknownTag`]; [`Error::PastNotKept`]; [`Error::Corrupt`] and [`Error::Disk`] when a
    /// file can't be read.
    pub fn scan(&self, request: &ScanRequest, emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>) -> Result<ScanStats, Error> {
        scan::run(&self.shared, &self.state, request, emit)
    }

    /// Sums up the points by tags and stretches of time, in the order of neither.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn aggregate(&self, request: &AggregateRequest) -> Result<Vec<Aggregate>, Error> {
        aggregate::run(&self.shared, &self.state, request)
    }

    /// Gives the newest point of each series to `emit`, batch by batch, until it breaks: about one page a series is read.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn last_values(
        &self,
        request: &LastRequest,
        emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>,
    ) -> Result<ScanStats, Error> {
        scan::last_values(&self.shared, &self.state, request, emit)
    }
}
