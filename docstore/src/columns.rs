//! Reads the columns of documents of one segment, each from where it is cheapest: fast fields first, the document last.
//!
//! [`crate::scan`] makes a [`RowReader`] per segment and asks it document by document, best in ascending order.
//!
//! # Invariants
//! - A facet column comes from the fast field only where the index says that this tells the column; see [`Mixed`].
//! - Memory: one document, one block of the store, and at most [`FacetValues::TEXTS_MAX`] facet values.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde_json::Value;
use tantivy::columnar::StrColumn;
use tantivy::postings::SegmentPostings;
use tantivy::schema::IndexRecordOption;
use tantivy::store::StoreReader;
use tantivy::{DocId, DocSet, SegmentReader, TERMINATED, Term};

use crate::error::Error;
use crate::index::Stored;
use crate::mapping::column_text;
use crate::scan::ScanColumn;
use crate::table::{Shared, corrupt};

/// Where a column's text comes from.
enum Column<'a> {
    None,
    Id(StrColumn),
    Json,
    Path(&'a [String]),
    Facet { path: &'a [String], values: Option<FacetValues>, mixed: Box<Mixed> },
}

/// Reads the columns of a projection, one document after the other.
pub(crate) struct RowReader<'a> {
    columns: Vec<Column<'a>>,
    document: Document,
    buffer: String,
}

impl<'a> RowReader<'a> {
    /// Opens what the projection needs of a segment; its paths have been checked.
    pub(crate) fn open(shared: &'a Shared, segment: &'a SegmentReader, projection: &[ScanColumn]) -> Result<Self, Error> {
        let columns: Vec<Column<'a>> =
            projection.iter().map(|column| Column::open(shared, segment, column)).collect::<Result<_, _>>()?;
        let store = if columns.iter().any(Column::may_read_documents) { Some(segment.get_store_reader(1)?) } else { None };
        let document = Document { store, doc: TERMINATED, json: None, value: None };
        Ok(Self { columns, document, buffer: String::new() })
    }

    /// Moves on to a document.
    pub(crate) fn seek(&mut self, doc: DocId) {
        if self.document.doc != doc {
            (self.document.doc, self.document.json, self.document.value) = (doc, None, None);
        }
    }

    /// The text of the `i`-th column of the projection; scores are not kept here and give `None`.
    pub(crate) fn text(&mut self, i: usize) -> Result<Option<Cow<'_, str>>, Error> {
        let doc = self.document.doc;
        match &mut self.columns[i] {
            Column::None => Ok(None),
            Column::Json => self.document.json().map(|json| Some(Cow::Borrowed(json))),
            Column::Path(path) => Ok(column_text(self.document.value()?, path)),
            Column::Id(ids) => {
                self.buffer.clear();
                let ordinal = ids.term_ords(doc).next();
                match ordinal.map(|ordinal| ids.ord_to_str(ordinal, &mut self.buffer)).transpose()? {
                    Some(true) => Ok(Some(Cow::Borrowed(&self.buffer))),
                    _ => Err(corrupt("a document without an id")),
                }
            }
            Column::Facet { path, values, mixed } => {
                if mixed.contains(doc)? {
                    return Ok(column_text(self.document.value()?, path));
                }
                match values {
                    Some(values) => Ok(values.first(doc)?.map(Cow::Borrowed)),
                    None => Ok(None),
                }
            }
        }
    }
}

impl<'a> Column<'a> {
    fn open(shared: &'a Shared, segment: &SegmentReader, column: &ScanColumn) -> Result<Self, Error> {
        Ok(match column {
            ScanColumn::Score => Self::None,
            ScanColumn::Doc => Self::Json,
            ScanColumn::Id => Self::Id(segment.fast_fields().str("_id")?.ok_or_else(|| corrupt("a segment without ids"))?),
            ScanColumn::Path(path) => {
                let fields = shared.fields.path(path).expect("the scan checked its columns");
                if fields.facet.is_none() {
                    return Ok(Self::Path(&fields.segments));
                }
                Self::Facet {
                    path: &fields.segments,
                    values: segment.fast_fields().str(&format!("k:{path}"))?.map(FacetValues::new),
                    mixed: Box::new(Mixed::open(segment, shared.fields.mixed_term(path))?),
                }
            }
        })
    }

    fn may_read_documents(&self) -> bool {
        match self {
            Self::None | Self::Id(_) => false,
            Self::Json | Self::Path(_) => true,
            Self::Facet { mixed, .. } => mixed.postings.is_some(),
        }
    }
}

/// The document a reader stands on, read and parsed when first asked for.
struct Document {
    store: Option<StoreReader>,
    doc: DocId,
    json: Option<String>,
    value: Option<Value>,
}

impl Document {
    fn json(&mut self) -> Result<&str, Error> {
        if self.json.is_none() {
            let store = self.store.as_ref().expect("opened for columns that read documents");
            let bytes = Stored::read(store, self.doc)?.source()?;
            self.json = Some(String::from_utf8(bytes).map_err(|_| corrupt("a document that is not UTF-8"))?);
        }
        Ok(self.json.as_deref().expect("just read"))
    }

    fn value(&mut self) -> Result<&Value, Error> {
        if self.value.is_none() {
            let value = serde_json::from_str(self.json()?).map_err(|_| corrupt("a document that is not JSON"))?;
            self.value = Some(value);
        }
        Ok(self.value.as_ref().expect("just parsed"))
    }
}

/// A facet's values in one segment. Looking a text up means unpacking a block of the dictionary, so the last ones are kept.
struct FacetValues {
    column: StrColumn,
    texts: HashMap<u64, String>,
}

impl FacetValues {
    /// Texts kept; their bytes are bounded with them, as those of a facet value are.
    const TEXTS_MAX: usize = 256;

    fn new(column: StrColumn) -> Self {
        Self { column, texts: HashMap::new() }
    }

    fn first(&mut self, doc: DocId) -> Result<Option<&str>, Error> {
        let Some(ordinal) = self.column.term_ords(doc).next() else { return Ok(None) };
        if self.texts.len() >= Self::TEXTS_MAX && !self.texts.contains_key(&ordinal) {
            self.texts.clear();
        }
        match self.texts.entry(ordinal) {
            Entry::Occupied(entry) => Ok(Some(entry.into_mut())),
            Entry::Vacant(entry) => {
                let mut text = String::new();
                let found = self.column.ord_to_str(ordinal, &mut text)?;
                if found { Ok(Some(entry.insert(text))) } else { Err(corrupt("a facet value that is not in its dictionary")) }
            }
        }
    }
}

/// The documents of a segment where a facet does not tell the column, asked in any order but best in ascending.
struct Mixed {
    segment: SegmentReader,
    term: Term,
    postings: Option<SegmentPostings>,
}

impl Mixed {
    fn open(segment: &SegmentReader, term: Term) -> Result<Self, Error> {
        let postings = segment.inverted_index(term.field())?.read_postings(&term, IndexRecordOption::Basic)?;
        Ok(Self { segment: segment.clone(), term, postings })
    }

    fn contains(&mut self, doc: DocId) -> Result<bool, Error> {
        if self.postings.as_ref().is_some_and(|postings| postings.doc() > doc) {
            let index = self.segment.inverted_index(self.term.field())?;
            self.postings = index.read_postings(&self.term, IndexRecordOption::Basic)?;
        }
        let Some(postings) = &mut self.postings else { return Ok(false) };
        Ok(postings.doc() == doc || (postings.doc() < doc && postings.seek(doc) == doc))
    }
}
