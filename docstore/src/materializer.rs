//! Builds the document table from the log: the writing side of one index.
//!
//! The driver of [`logcore::materialize`] calls it with committed batches; the projection turns records into documents, and a
//! checkpoint commits them together with the offset they reach.
//!
//! # Invariants
//! - Batches are fed whole and from one thread, a delete by id before each document, so that the last version of an id wins.
//! - A commit lies between batches. Its payload is the offset it reaches, in the same `meta.json` as the segments it covers.
//! - `saved <= visible <= next_offset`: what is durable, what searches see, what is applied. A commit makes visible, a checkpoint
//!   makes the newest commit durable, so the index on the disk is never ahead of what was made visible, nor of the log.
//! - After a failed write nothing more is written: tantivy's state is then unknown. Reopening resumes from the last checkpoint.
//!
//! # Concurrency
//! tantivy's queue is bounded by count only, so documents carry a claim on `InFlight` that ends when the indexing thread takes
//! them; the feeder waits for room. More segments than the options allow make a commit wait for merges. A checkpoint is
//! begun between two steps and finished on any thread, while more is applied, shown and merged.
//!
//! # Crash safety
//! [`crate::directory`]: what was visible and not saved is gone after a crash, and comes again from the log.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use logcore::materialize::{FinishCheckpoint, Materializer, Projection, Rejects, ViewError};
use logcore::{Batch, Offset};
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::query::AllQuery;
use tantivy::{Document, Index, IndexReader, IndexWriter, ReloadPolicy, SegmentReader, TantivyDocument};

use crate::directory::{FreshDirectory, Save, WriteRight};
use crate::error::Error;
use crate::index::{Checkpoint, DynamicPaths, Fields, writing};
use crate::mapping::ID_BYTES_MAX;
use crate::table::{DocumentOptions, Shared, State};

/// The share of deleted documents at which a segment is rewritten.
const DELETED_RATIO_MAX: f32 = 0.25;
/// Segments below this are merged with one another, whatever their sizes: commits that only show a few documents make many. A
/// larger figure means fewer segments and copies each document more often.
const SMALL_SEGMENT_DOCUMENTS: u32 = 500;
/// Segments whose sizes are within this power of two are merged with one another.
const LEVEL_LOG_SIZE: f64 = 1.5;
/// One for a large merge, one for the small ones meanwhile.
const MERGE_THREADS: usize = 2;
/// A queue that does not move for so long belongs to an indexing thread that died.
const QUEUE_STALL: Duration = Duration::from_mins(2);
/// What a document costs in the queue besides its text.
const DOCUMENT_OVERHEAD_BYTES: usize = 256;

/// One version of a document, as a record of the log gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceDocument {
    /// The record it comes from.
    pub offset: Offset,
    /// What it replaces.
    pub id: String,
    /// The JSON object, kept byte for byte; `None` deletes the document.
    pub json: Option<Vec<u8>>,
    /// Every document goes; there is neither id nor JSON then.
    pub truncates: bool,
}

impl SourceDocument {
    /// A version of a document.
    #[must_use]
    pub const fn new(offset: Offset, id: String, json: Option<Vec<u8>>) -> Self {
        Self { offset, id, json, truncates: false }
    }

    /// The end of all documents.
    #[must_use]
    pub const fn truncation(offset: Offset) -> Self {
        Self { offset, id: String::new(), json: None, truncates: true }
    }
}

/// Turns records into documents; written by the catalog's owner.
pub type DocumentProjection = Box<dyn Projection<Vec<SourceDocument>>>;

/// Where a table is, and the right to write there.
pub(crate) struct Files {
    pub dir: PathBuf,
    pub directory: FreshDirectory,
    pub right: WriteRight,
}

/// The writing side of one document table of one partition.
pub struct DocumentMaterializer {
    shared: Arc<Shared>,
    files: Files,
    options: DocumentOptions,
    projection: DocumentProjection,
    /// `None` after a failure.
    writer: Option<IndexWriter<QueuedDocument>>,
    reader: IndexReader,
    in_flight: Arc<InFlight>,
    next_offset: Offset,
    visible: Offset,
    /// What the newest commit says it reaches.
    committed: Offset,
    /// Something was fed since.
    is_changed: bool,
    fed_bytes: u64,
    /// How many of these are durable.
    saved_bytes: Arc<AtomicU64>,
    /// Copied when it grows while snapshots hold it.
    dynamic: Arc<DynamicPaths>,
    failure: String,
}

impl DocumentMaterializer {
    pub(crate) fn open(
        shared: Arc<Shared>,
        reader: IndexReader,
        files: Files,
        projection: DocumentProjection,
        options: DocumentOptions,
        State { offset: next_offset, dynamic, .. }: State,
    ) -> Result<Self, Error> {
        let writer = open_writer(&shared.index, &files.dir, &options)?;
        Ok(Self {
            shared,
            files,
            options,
            projection,
            writer: Some(writer),
            reader,
            in_flight: Arc::default(),
            next_offset,
            visible: next_offset,
            committed: next_offset,
            is_changed: false,
            fed_bytes: 0,
            saved_bytes: Arc::default(),
            dynamic,
            failure: String::new(),
        })
    }

    /// Runs a write; its failure is the last thing that happens to this writer.
    fn write<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, ViewError> {
        if self.writer.is_some()
            && let Err(error) = self.files.directory.check()
        {
            self.failure = error.to_string();
            self.writer = None;
        }
        if self.writer.is_none() {
            return Err(Error::Stopped { path: self.files.dir.clone(), reason: self.failure.clone() }.into());
        }
        step(self).map_err(|error| {
            self.failure = error.to_string();
            self.writer = None;
            error.into()
        })
    }

    fn writer(&mut self) -> &mut IndexWriter<QueuedDocument> {
        self.writer.as_mut().expect("`write` checked that there is a writer")
    }

    fn feed(&mut self, documents: &[SourceDocument], rejects: &mut Rejects) -> Result<(), Error> {
        let mut documents = documents;
        if let Some(last) = documents.iter().rposition(|document| document.truncates) {
            // What stood before it in the batch is gone as well, unless it never was a document.
            for document in documents[..last].iter().filter(|document| !document.truncates) {
                if let Err(reason) = check(document) {
                    rejects.push(document.offset, reason);
                }
            }
            self.is_changed = true;
            self.writer().delete_query(Box::new(AllQuery)).map_err(writing("emptying", &self.files.dir))?;
            documents = &documents[last + 1..];
        }
        let mut later = HashSet::new();
        let mut refused = Vec::new();
        for document in documents.iter().rev() {
            // Of several versions in one batch only the last good one needs indexing.
            let parsed = match check(document) {
                Ok(parsed) => parsed,
                Err(reason) => {
                    refused.push((document.offset, reason));
                    continue;
                }
            };
            if !later.insert(document.id.as_str()) {
                continue;
            }
            let id_term = self.shared.fields.id_term(&document.id);
            self.is_changed = true;
            self.writer().delete_term(id_term);
            let mut fed_bytes = document.id.len() + DOCUMENT_OVERHEAD_BYTES;
            if let (Some(json), Some(value)) = (&document.json, parsed) {
                fed_bytes += json.len();
                let claim = InFlight::claim(&self.in_flight, fed_bytes, self.options.queue_bytes).ok_or_else(|| {
                    Error::Stopped { path: self.files.dir.clone(), reason: "its indexing thread stands still".to_owned() }
                })?;
                let fields: &Fields = &self.shared.fields;
                let mut known = std::mem::take(&mut self.dynamic);
                let paths = if fields.dynamic.is_some() { Arc::make_mut(&mut known) } else { &mut DynamicPaths::default() };
                let document = fields.document(&document.id, document.offset, json, &value, paths);
                self.dynamic = known;
                let added = self.writer().add_document(QueuedDocument { document, _claim: claim });
                added.map_err(writing("adding to", &self.files.dir))?;
            }
            self.fed_bytes += fed_bytes as u64;
        }
        refused.into_iter().rev().for_each(|(offset, reason)| rejects.push(offset, reason));
        Ok(())
    }

    /// Lets searches see everything that is applied.
    fn show(&mut self) -> Result<(), Error> {
        if self.visible == self.next_offset {
            return Ok(());
        }
        // Most records of a stream with many tables belong to others: they only move the offset.
        if self.is_changed {
            self.commit()?;
            self.read_back()?;
            self.bound_segments()?;
        }
        self.publish();
        Ok(())
    }

    fn publish(&mut self) {
        let (offset, searcher) = (self.next_offset, self.reader.searcher());
        self.shared.publish(State { offset, searcher, dynamic: Arc::clone(&self.dynamic) });
        self.visible = offset;
    }

    fn commit(&mut self) -> Result<(), Error> {
        let next_offset = self.next_offset;
        let dir = self.files.dir.clone();
        let dynamic = self.shared.fields.dynamic.map(|_| DynamicPaths::clone(&self.dynamic));
        let mut prepared = self.writer().prepare_commit().map_err(writing("preparing a commit of", &dir))?;
        prepared.set_payload(&Checkpoint::payload(next_offset, dynamic));
        prepared.commit().map_err(writing("committing", &dir))?;
        self.committed = next_offset;
        self.is_changed = false;
        Ok(())
    }

    fn read_back(&self) -> Result<(), Error> {
        self.reader.reload().map_err(writing("reading back", &self.files.dir))
    }

    /// tantivy has no back-pressure of its own: with too many segments this waits until the merges that are due are done.
    fn bound_segments(&mut self) -> Result<(), Error> {
        let segments = self.reader.searcher().segment_readers().len();
        if segments <= self.options.segments_max {
            return Ok(());
        }
        let dir = &self.files.dir;
        tracing::debug!(segments, dir = %dir.display(), "waiting for merges");
        if let Some(writer) = self.writer.take() {
            writer.wait_merging_threads().map_err(writing("merging", dir))?;
        }
        self.writer = Some(open_writer(&self.shared.index, dir, &self.options)?);
        self.read_back()
    }

    /// Begins to make durable what is applied; `None` when it is.
    fn begin_save(&mut self) -> Result<Option<Save>, Error> {
        self.show()?;
        if self.committed < self.next_offset {
            self.commit()?;
        }
        self.follow_merges()?;
        self.files.directory.begin_save().map_err(|error| writing("saving", &self.files.dir)(error.into()))
    }

    /// Searches go over to what was merged since the last commit, so that the files from before can go.
    fn follow_merges(&mut self) -> Result<(), Error> {
        let mut newest =
            self.shared.index.searchable_segment_ids().map_err(writing("listing the segments of", &self.files.dir))?;
        let mut read: Vec<_> = self.reader.searcher().segment_readers().iter().map(SegmentReader::segment_id).collect();
        newest.sort_unstable();
        read.sort_unstable();
        if newest != read {
            self.read_back()?;
            self.publish();
        }
        Ok(())
    }
}

impl Drop for DocumentMaterializer {
    fn drop(&mut self) {
        self.files.directory.close();
    }
}

/// The document's JSON, `None` where it is deleted, or why it can't be indexed.
fn check(document: &SourceDocument) -> Result<Option<serde_json::Value>, String> {
    if document.id.len() > ID_BYTES_MAX {
        return Err(format!("its id of {} bytes is longer than {ID_BYTES_MAX}", document.id.len()));
    }
    let Some(json) = &document.json else { return Ok(None) };
    match serde_json::from_slice::<serde_json::Value>(json) {
        Ok(value) if value.is_object() => Ok(Some(value)),
        Ok(_) => Err("the document is not a JSON object".to_owned()),
        Err(error) => Err(format!("the document is not JSON: {error}")),
    }
}

impl Materializer for DocumentMaterializer {
    fn next_offset(&self) -> Offset {
        self.next_offset
    }

    fn visible(&self) -> Offset {
        self.visible
    }

    fn apply(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<(), ViewError> {
        let (base, end) = (batch.base_offset(), batch.end_offset());
        let from = self.next_offset;
        assert!(base <= from, "a batch at {base} leaves a gap behind {from}");
        if end <= from {
            return Ok(());
        }
        let mut documents = self.projection.project(batch, from, rejects)?;
        documents.retain(|document| document.offset >= from);
        self.write(|this| this.feed(&documents, rejects))?;
        self.next_offset = end;
        Ok(())
    }

    fn skip_to(&mut self, next: Offset) -> Result<(), ViewError> {
        self.next_offset = self.next_offset.max(next);
        Ok(())
    }

    fn make_visible(&mut self) -> Result<(), ViewError> {
        self.write(Self::show)
    }

    fn checkpoint(&mut self) -> Result<Offset, ViewError> {
        self.begin_checkpoint()?()
    }

    fn begin_checkpoint(&mut self) -> Result<FinishCheckpoint, ViewError> {
        let save = self.write(Self::begin_save)?;
        let (next_offset, fed_bytes, saved_bytes) = (self.next_offset, self.fed_bytes, Arc::clone(&self.saved_bytes));
        let (dir, right) = (self.files.dir.clone(), self.files.right.clone());
        Ok(Box::new(move || {
            if let Some(save) = save {
                save.finish().map_err(|error| writing("saving", &dir)(error.into()))?;
            }
            saved_bytes.store(fed_bytes, Ordering::Release);
            drop(right);
            Ok(next_offset)
        }))
    }

    fn unsaved_bytes(&self) -> u64 {
        self.fed_bytes - self.saved_bytes.load(Ordering::Acquire)
    }
}

pub(crate) fn open_reader(index: &Index, dir: &Path, options: &DocumentOptions) -> Result<IndexReader, Error> {
    let builder = index.reader_builder().reload_policy(ReloadPolicy::Manual).doc_store_cache_num_blocks(options.cache_blocks);
    builder.try_into().map_err(|error: tantivy::TantivyError| Error::Damaged { path: dir.to_owned(), detail: error.to_string() })
}

fn open_writer(index: &Index, dir: &Path, options: &DocumentOptions) -> Result<IndexWriter<QueuedDocument>, Error> {
    let writing_options = IndexWriterOptions::builder()
        .num_worker_threads(1)
        .memory_budget_per_thread(options.memory_bytes)
        .num_merge_threads(MERGE_THREADS)
        .build();
    let writer = index.writer_with_options(writing_options).map_err(writing("opening", dir))?;
    let mut policy = LogMergePolicy::default();
    policy.set_del_docs_ratio_before_merge(DELETED_RATIO_MAX);
    policy.set_min_layer_size(SMALL_SEGMENT_DOCUMENTS);
    policy.set_level_log_size(LEVEL_LOG_SIZE);
    writer.set_merge_policy(Box::new(policy));
    Ok(writer)
}

/// Bytes of documents between the feeder and the indexing thread.
#[derive(Default)]
struct InFlight {
    bytes: Mutex<usize>,
    taken: Condvar,
}

/// A document's share of [`InFlight`]; ends when it is dropped.
struct Claim {
    in_flight: Arc<InFlight>,
    bytes: usize,
}

impl InFlight {
    /// Waits until `bytes` more fit below `max`, or nothing else is in flight; `None` when the queue stands still.
    fn claim(this: &Arc<Self>, bytes: usize, max: usize) -> Option<Claim> {
        let mut current = this.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *current > 0 && *current + bytes > max {
            let before = *current;
            let (guard, waited) = this.taken.wait_timeout(current, QUEUE_STALL).unwrap_or_else(PoisonError::into_inner);
            current = guard;
            if waited.timed_out() && *current == before {
                return None;
            }
        }
        *current += bytes;
        Some(Claim { in_flight: Arc::clone(this), bytes })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        *self.in_flight.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.in_flight.taken.notify_one();
    }
}

/// A document in tantivy's queue, with its claim on the queue's bytes.
struct QueuedDocument {
    document: TantivyDocument,
    _claim: Claim,
}

impl Document for QueuedDocument {
    type Value<'a> = <TantivyDocument as Document>::Value<'a>;
    type FieldsValuesIter<'a> = <TantivyDocument as Document>::FieldsValuesIter<'a>;

    fn iter_fields_and_values(&self) -> Self::FieldsValuesIter<'_> {
        Document::iter_fields_and_values(&self.document)
    }

    /// The indexing thread took it: the claim ends here.
    fn into_tantivy_document(self) -> TantivyDocument {
        self.document
    }
}
