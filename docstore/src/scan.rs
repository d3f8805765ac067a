//! Reads documents as Arrow record batches: all that match, or the best by score.
//!
//! The SQL provider calls [`DocumentSnapshot::scan`] with the filters and columns it could push down.
//!
//! # Invariants
//! - Memory is bounded by one batch, cut at [`BATCH_BYTES_MAX`], however many documents match; only a top-k holds its k addresses.
//! - A document's bytes are read only when a column needs them: `_id`, scores and plain facet values come from columns.
//! - A column shows the same whichever way it was read: where a facet's values don't tell it (arrays, objects, values that are too
//!   long), the index says so and the document is read.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tantivy::collector::TopDocs;
use tantivy::query::{AllQuery, EnableScoring, Occur, Query};
use tantivy::{DocAddress, DocId, DocSet, Score, TERMINATED};

use crate::columns::RowReader;
use crate::error::Error;
use crate::mapping::Mapping;
use crate::query::{Compiler, boolean, is_plain_text, without_score};
use crate::table::DocumentSnapshot;
use crate::text::Operator;

/// A batch is handed over when it holds so many bytes of text.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// The largest top-k; more is better sorted outside.
pub const TOP_MAX: usize = 100_000;

/// A column of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanColumn {
    /// `_id`, text.
    Id,
    /// `doc`, the document as JSON text.
    Doc,
    /// A search field or facet, as text: PostgreSQL's `doc #>> path`.
    Path(String),
    /// `_score`, a 32-bit float; null without a [`ScanFilter::Text`].
    Score,
}

/// A filter that the index answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanFilter {
    /// A query text, over some fields or all search fields.
    Text {
        /// The fields searched where the text names none.
        fields: Option<Vec<String>>,
        /// The text, see [`crate::text`].
        query: String,
    },
    /// Documents with any of these ids.
    Ids(Vec<String>),
    /// Documents whose column of a facet equals a value; see [`ScanFilter::is_exact`].
    FacetEquals {
        /// The facet.
        path: String,
        /// The value.
        value: String,
    },
    /// All of them.
    And(Vec<ScanFilter>),
}

impl ScanFilter {
    /// Whether the scan gives exactly the matching documents. Otherwise it may give more, and the caller compares again: so it is
    /// for values that are, or look like, the JSON of an array or object, and for values too long to be terms of the index.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        match self {
            Self::Text { .. } | Self::Ids(_) => true,
            Self::FacetEquals { value, .. } => is_plain_text(value),
            Self::And(filters) => filters.iter().all(Self::is_exact),
        }
    }

    fn scores(&self) -> bool {
        match self {
            Self::Text { .. } => true,
            Self::Ids(_) | Self::FacetEquals { .. } => false,
            Self::And(filters) => filters.iter().any(Self::scores),
        }
    }

    fn compile(&self, compiler: &mut Compiler<'_>) -> Result<Box<dyn Query>, Error> {
        Ok(match self {
            Self::Text { fields, query } => compiler.text(query, fields.as_deref(), Operator::Or)?,
            Self::Ids(ids) => without_score(compiler.ids(ids)),
            Self::FacetEquals { path, value } => without_score(compiler.column_equals(path, value)?),
            Self::And(filters) => {
                let mut clauses = Vec::with_capacity(filters.len());
                for filter in filters {
                    clauses.push((Occur::Must, filter.compile(compiler)?));
                }
                boolean(clauses).unwrap_or_else(|| without_score(Box::new(AllQuery)))
            }
        })
    }
}

/// Takes the batches of a scan; may end it.
type Emit<'a> = dyn FnMut(RecordBatch) -> ControlFlow<()> + 'a;

impl DocumentSnapshot {
    /// The columns of a table with this mapping: `_id`, `doc`, then every search field and facet.
    #[must_use]
    pub fn schema(mapping: &Mapping) -> SchemaRef {
        let columns = [ScanColumn::Id, ScanColumn::Doc].into_iter();
        schema_of(&columns.chain(mapping.paths().into_iter().map(|path| ScanColumn::Path(path.to_owned()))).collect::<Vec<_>>())
    }

    /// Reads the documents that match `filter`, at most `limit`, in batches of at most `batch_rows` with the columns of
    /// `projection`; `emit` ends the scan by breaking. With `by_score` they are the best and come best first; otherwise in the
    /// order of the index. An empty projection gives batches that only have a row count.
    ///
    /// # Errors
    /// Errors of the filter, unknown columns, [`Error::TooLarge`] for more than [`TOP_MAX`] by score, a damaged index.
    pub fn scan(
        &self,
        filter: Option<&ScanFilter>,
        projection: &[ScanColumn],
        limit: Option<usize>,
        by_score: bool,
        batch_rows: usize,
        emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        for column in projection {
            if let ScanColumn::Path(path) = column
                && self.shared.fields.path(path).is_none()
            {
                return Err(Error::unknown_field(path, self.shared.fields.names()));
            }
        }
        let mut compiler = Compiler::new(self);
        let query = match filter {
            Some(filter) => filter.compile(&mut compiler)?,
            None => Box::new(AllQuery),
        };
        let limit = limit.unwrap_or(usize::MAX);
        if limit == 0 {
            return Ok(());
        }
        if projection.is_empty() {
            let count = query.count(&self.searcher)?.min(limit);
            return count_batches(count, batch_rows.max(1), emit);
        }
        let scored = filter.is_some_and(ScanFilter::scores);
        let batch = Batcher::new(projection, scored, batch_rows.max(1));
        if by_score && scored { self.scan_top(&*query, limit, batch, emit) } else { self.scan_all(&*query, limit, batch, emit) }
    }

    fn scan_top(&self, query: &dyn Query, limit: usize, mut batch: Batcher<'_>, emit: &mut Emit<'_>) -> Result<(), Error> {
        let limit = limit.min(usize::try_from(self.count()).unwrap_or(usize::MAX));
        if limit > TOP_MAX {
            let hint = "ask for fewer with LIMIT, or sort outside of the index";
            return Err(Error::TooLarge { what: format!("a top {limit} by score"), max: TOP_MAX, hint });
        }
        if limit == 0 {
            return Ok(());
        }
        let top = self.searcher.search(query, &TopDocs::with_limit(limit).order_by_score())?;
        let mut rows: BTreeMap<u32, RowReader<'_>> = BTreeMap::new();
        for (score, DocAddress { segment_ord, doc_id }) in top {
            let row = match rows.entry(segment_ord) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(RowReader::open(&self.shared, self.searcher.segment_reader(segment_ord), batch.projection)?)
                }
            };
            batch.push(row, doc_id, score)?;
            if batch.is_full() && emit(batch.finish()).is_break() {
                return Ok(());
            }
        }
        batch.end(emit);
        Ok(())
    }

    fn scan_all(&self, query: &dyn Query, limit: usize, mut batch: Batcher<'_>, emit: &mut Emit<'_>) -> Result<(), Error> {
        let wants_score = batch.scored && batch.projection.contains(&ScanColumn::Score);
        let scoring = match wants_score {
            true => EnableScoring::enabled_from_searcher(&self.searcher),
            false => EnableScoring::disabled_from_searcher(&self.searcher),
        };
        let weight = query.weight(scoring)?;
        let mut left = limit;
        for segment in self.searcher.segment_readers() {
            let mut row = RowReader::open(&self.shared, segment, batch.projection)?;
            let mut scorer = weight.scorer(segment, 1.0)?;
            let mut doc = scorer.doc();
            while doc != TERMINATED {
                if !segment.is_deleted(doc) {
                    let score = if wants_score { scorer.score() } else { 0.0 };
                    batch.push(&mut row, doc, score)?;
                    left -= 1;
                    if batch.is_full() && emit(batch.finish()).is_break() {
                        return Ok(());
                    }
                    if left == 0 {
                        batch.end(emit);
                        return Ok(());
                    }
                }
                doc = scorer.advance();
            }
        }
        batch.end(emit);
        Ok(())
    }
}

fn count_batches(mut count: usize, batch_rows: usize, emit: &mut Emit<'_>) -> Result<(), Error> {
    let schema = schema_of(&[]);
    while count > 0 {
        let rows = count.min(batch_rows);
        count -= rows;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), Vec::new(), &options);
        if emit(batch.expect("no columns can't disagree")).is_break() {
            break;
        }
    }
    Ok(())
}

fn schema_of(projection: &[ScanColumn]) -> SchemaRef {
    let field = |column: &ScanColumn| match column {
        ScanColumn::Id => Field::new("_id", DataType::Utf8, false),
        ScanColumn::Doc => {
            let metadata = HashMap::from([("headwater.type".to_owned(), "json".to_owned())]);
            Field::new("doc", DataType::Utf8, false).with_metadata(metadata)
        }
        ScanColumn::Path(path) => Field::new(path, DataType::Utf8, true),
        ScanColumn::Score => Field::new("_score", DataType::Float32, true),
    };
    Arc::new(Schema::new(projection.iter().map(field).collect::<Vec<_>>()))
}

enum Builder {
    Text(StringBuilder),
    Score(Float32Builder),
}

/// Gathers rows into record batches.
struct Batcher<'p> {
    projection: &'p [ScanColumn],
    schema: SchemaRef,
    scored: bool,
    builders: Vec<Builder>,
    rows: usize,
    rows_max: usize,
    bytes: usize,
}

impl<'p> Batcher<'p> {
    fn new(projection: &'p [ScanColumn], scored: bool, rows_max: usize) -> Self {
        let builder = |column: &ScanColumn| match column {
            ScanColumn::Score => Builder::Score(Float32Builder::new()),
            _ => Builder::Text(StringBuilder::new()),
        };
        let builders = projection.iter().map(builder).collect();
        Self { projection, schema: schema_of(projection), scored, builders, rows: 0, rows_max, bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.rows >= self.rows_max || self.bytes >= BATCH_BYTES_MAX
    }

    fn push(&mut self, row: &mut RowReader<'_>, doc: DocId, score: Score) -> Result<(), Error> {
        row.seek(doc);
        for (i, builder) in self.builders.iter_mut().enumerate() {
            match builder {
                Builder::Score(builder) => builder.append_option(self.scored.then_some(score)),
                Builder::Text(builder) => {
                    let text = row.text(i)?;
                    self.bytes += text.as_ref().map_or(0, |text| text.len());
                    builder.append_option(text);
                }
            }
        }
        self.rows += 1;
        Ok(())
    }

    fn finish(&mut self) -> RecordBatch {
        let finish = |builder: &mut Builder| -> ArrayRef {
            match builder {
                Builder::Text(builder) => Arc::new(builder.finish()),
                Builder::Score(builder) => Arc::new(builder.finish()),
            }
        };
        let columns = self.builders.iter_mut().map(finish).collect();
        (self.rows, self.bytes) = (0, 0);
        RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("the builders follow the schema, row by row")
    }

    /// Hands over what is left; nothing comes after it, so the answer does not matter.
    fn end(mut self, emit: &mut Emit<'_>) {
        if self.rows > 0 {
            let _ = emit(self.finish());
        }
    }
}
