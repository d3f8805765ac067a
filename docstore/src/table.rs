//! The reading side: which committed states of a table can be read, and the one a query holds.
//!
//! Queries take a [`DocumentSnapshot`]; the materializer publishes one after each commit.
//!
//! # Invariants
//! - A searcher and its offset are one pair, made in one place, after the commit that belongs to both.
//! - Snapshots are kept in the order of their offsets; the newest is always there.
//!
//! # Concurrency
//! [`DocumentTable`] is shared freely; the lock is held only to push or clone a pair. A snapshot keeps the files of its segments
//! alive for as long as it lives, those in memory too.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use logcore::Offset;
use tantivy::columnar::ColumnType;
use tantivy::query::{EnableScoring, Query, TermQuery, Weight};
use tantivy::schema::IndexRecordOption;
use tantivy::{DocAddress, DocSet, Index, Searcher, TERMINATED, TantivyError};

use crate::directory::{Disk, RealDisk};
use crate::error::Error;
use crate::index::{self, DynamicPaths, Fields, Opened, Stored};
use crate::mapping::Mapping;
use crate::materializer::{DocumentMaterializer, DocumentProjection, Files};

/// How a table uses memory.
#[derive(Clone, Copy, Debug)]
pub struct DocumentOptions {
    /// The indexing buffer; at least 15 MB, below 4 GB.
    pub memory_bytes: usize,
    /// Bytes of documents that may wait for the indexing thread.
    pub queue_bytes: usize,
    /// Bytes of the newest files that are kept in memory until a checkpoint; more goes to the disk, unsynced.
    pub fresh_bytes: usize,
    /// Committed states that can still be read by offset: more for a view that is refreshed more often.
    pub searchers_kept: usize,
    /// With more segments than this, a commit waits for merges.
    pub segments_max: usize,
    /// Decompressed blocks of documents a searcher caches, for each segment.
    pub cache_blocks: usize,
}

impl Default for DocumentOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 32 << 20,
            queue_bytes: 32 << 20,
            fresh_bytes: 16 << 20,
            searchers_kept: 8,
            segments_max: 60,
            cache_blocks: 32,
        }
    }
}

/// A committed state: up to where it holds the log, what reads it, and the paths found in its documents.
#[derive(Clone)]
pub(crate) struct State {
    pub offset: Offset,
    pub searcher: Searcher,
    pub dynamic: Arc<DynamicPaths>,
}

pub(crate) struct Shared {
    pub mapping: Mapping,
    pub fields: Fields,
    pub index: Index,
    kept: Mutex<VecDeque<State>>,
    kept_max: usize,
}

impl Shared {
    pub(crate) fn new(mapping: Mapping, fields: Fields, index: Index, first: State, kept_max: usize) -> Self {
        Self { mapping, fields, index, kept: Mutex::new(VecDeque::from([first])), kept_max: kept_max.max(1) }
    }

    /// Makes a committed state readable; one of the same offset is replaced.
    pub(crate) fn publish(&self, state: State) {
        let offset = state.offset;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(State { offset: newest, .. }) = kept.back() {
            assert!(*newest <= offset, "the state at {offset} comes after the state at {newest}");
            if *newest == offset {
                kept.pop_back();
            }
        }
        kept.push_back(state);
        while kept.len() > self.kept_max {
            kept.pop_front();
        }
    }
}

/// The reading side of one document table of one partition.
#[derive(Clone)]
pub struct DocumentTable {
    shared: Arc<Shared>,
}

impl DocumentTable {
    /// Opens or creates the table in `dir`: its reading side, and its materializer, which resumes after the last checkpoint.
    ///
    /// # Errors
    /// [`Error::InvalidMapping`]; [`Error::Damaged`], [`Error::MappingChanged`] and [`Error::UnknownFormat`] ask for a rebuild;
    /// [`Error::Locked`] when the folder is open elsewhere; otherwise what the disk says.
    pub fn open(
        dir: &Path,
        mapping: Mapping,
        projection: DocumentProjection,
        options: DocumentOptions,
    ) -> Result<(Self, DocumentMaterializer), Error> {
        Self::open_on(Arc::new(RealDisk), dir, mapping, projection, options)
    }

    /// Opens it on a disk that is given: for tests of what a crash leaves.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        mapping: Mapping,
        projection: DocumentProjection,
        options: DocumentOptions,
    ) -> Result<(Self, DocumentMaterializer), Error> {
        mapping.validate()?;
        let Opened { index, directory, right, fields, next_offset, dynamic } =
            index::open(dir, &mapping, disk, options.fresh_bytes)?;
        let reader = crate::materializer::open_reader(&index, dir, &options)?;
        let first = State { offset: next_offset, searcher: reader.searcher(), dynamic: Arc::new(dynamic) };
        let shared = Arc::new(Shared::new(mapping, fields, index, first.clone(), options.searchers_kept));
        let files = Files { dir: dir.to_owned(), directory, right };
        let materializer = DocumentMaterializer::open(Arc::clone(&shared), reader, files, projection, options, first)?;
        Ok((Self { shared }, materializer))
    }

    /// What is searchable in it.
    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.shared.mapping
    }

    /// The newest committed state.
    ///
    /// # Panics
    /// Never: the newest state is always kept.
    #[must_use]
    pub fn snapshot(&self) -> DocumentSnapshot {
        let kept = self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let state = kept.back().cloned().expect("the newest state is always kept");
        DocumentSnapshot::new(Arc::clone(&self.shared), state)
    }

    /// The newest kept state that shows nothing at or above `cut`; `None` when those are gone.
    #[must_use]
    pub fn snapshot_at(&self, cut: Offset) -> Option<DocumentSnapshot> {
        let kept = self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let state = kept.iter().rev().find(|state| state.offset <= cut).cloned()?;
        Some(DocumentSnapshot::new(Arc::clone(&self.shared), state))
    }
}

/// A path that was found in documents, and the types its values have. A text that is a date is both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundField {
    /// The path.
    pub path: String,
    /// Texts.
    pub texts: bool,
    /// Whole numbers.
    pub integers: bool,
    /// Other numbers.
    pub floats: bool,
    /// Dates.
    pub dates: bool,
    /// `true` and `false`.
    pub booleans: bool,
}

impl FoundField {
    /// Adds the types that another part found at this path.
    pub const fn unite(&mut self, other: &Self) {
        self.texts |= other.texts;
        self.integers |= other.integers;
        self.floats |= other.floats;
        self.dates |= other.dates;
        self.booleans |= other.booleans;
    }
}

/// One committed state of a document table.
#[derive(Clone)]
pub struct DocumentSnapshot {
    pub(crate) shared: Arc<Shared>,
    pub(crate) searcher: Searcher,
    pub(crate) dynamic: Arc<DynamicPaths>,
    offset: Offset,
}

impl DocumentSnapshot {
    pub(crate) fn new(shared: Arc<Shared>, State { offset, searcher, dynamic }: State) -> Self {
        Self { shared, searcher, dynamic, offset }
    }

    /// The first offset of the log that it does not show.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// Documents in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.searcher.num_docs()
    }

    /// Parts that the index is in: each costs a search a little.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.searcher.segment_readers().len()
    }

    /// The document with this id, byte for byte.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn get(&self, id: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.address(id)? {
            Some(address) => self.stored(address)?.source().map(Some),
            None => Ok(None),
        }
    }

    /// What is searchable in it.
    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.shared.mapping
    }

    /// The paths found in documents that the mapping does not name, with the types of their values.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn found_fields(&self) -> Result<Vec<FoundField>, Error> {
        let mut fields = Vec::new();
        for path in &self.dynamic.paths {
            let mut field = FoundField { path: path.clone(), ..FoundField::default() };
            for segment in self.searcher.segment_readers() {
                for column in segment.fast_fields().dynamic_column_handles(&format!("_dynamic.{path}"))? {
                    match column.column_type() {
                        ColumnType::Str => field.texts = true,
                        ColumnType::I64 | ColumnType::U64 => field.integers = true,
                        ColumnType::F64 => field.floats = true,
                        ColumnType::DateTime => field.dates = true,
                        ColumnType::Bool => field.booleans = true,
                        ColumnType::Bytes | ColumnType::IpAddr => {}
                    }
                }
            }
            fields.push(field);
        }
        Ok(fields)
    }

    /// Where the document with this id is.
    pub(crate) fn address(&self, id: &str) -> Result<Option<DocAddress>, Error> {
        let query = TermQuery::new(self.shared.fields.id_term(id), IndexRecordOption::Basic);
        let weight = query.weight(EnableScoring::disabled_from_searcher(&self.searcher))?;
        self.first_alive(&*weight)
    }

    /// The path whose whole values `path` means: `title.keyword` is `title`, as Elasticsearch's clients write it, where no document
    /// and no definition has a path of that name.
    pub(crate) fn whole_values_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        let of = path.strip_suffix(".keyword")?;
        let fields = &self.shared.fields;
        let is_dynamic = |path: &str| fields.dynamic.is_some() && self.dynamic.paths.contains(path);
        if fields.path(path).is_some() || is_dynamic(path) {
            return None;
        }
        (fields.path(of).is_some_and(|found| found.facet.is_some()) || (fields.path(of).is_none() && is_dynamic(of)))
            .then_some(of)
    }

    /// The offset of the record that wrote a document.
    pub(crate) fn version(&self, DocAddress { segment_ord, doc_id }: DocAddress) -> Result<u64, Error> {
        let offsets = self.searcher.segment_reader(segment_ord).fast_fields().u64("_offset")?;
        offsets.first(doc_id).ok_or_else(|| corrupt("a document without its offset"))
    }

    fn first_alive(&self, weight: &dyn Weight) -> Result<Option<DocAddress>, Error> {
        for (ordinal, segment) in (0_u32..).zip(self.searcher.segment_readers()) {
            let mut scorer = weight.scorer(segment, 1.0)?;
            let mut doc = scorer.doc();
            while doc != TERMINATED {
                if !segment.is_deleted(doc) {
                    return Ok(Some(DocAddress::new(ordinal, doc)));
                }
                doc = scorer.advance();
            }
        }
        Ok(None)
    }

    /// What is stored of a document.
    pub(crate) fn stored(&self, address: DocAddress) -> Result<Stored, Error> {
        Ok(self.searcher.doc(address)?)
    }
}

/// The index holds what this crate never writes.
pub(crate) fn corrupt(what: &str) -> Error {
    Error::Reading { source: TantivyError::DataCorruption(tantivy::error::DataCorruption::comment_only(what)) }
}
