//! Saved searches, matched against new documents: which of many queries find a document that has just come.
//!
//! The caller keeps the queries and makes a [`Percolator`] of them when they change; it is asked with each batch of documents, before
//! or after those are indexed. A batch becomes an index in memory with the mapping's fields, so that a query means the same as in the
//! table, except for what depends on the other documents: scores, and the words `more_like_this` finds rare.
//!
//! # Not done
//! Every query is run over every batch; nothing sorts out those that can't match beforehand.

use std::sync::Arc;

use logcore::Offset;
use tantivy::collector::DocSetCollector;

use crate::error::Error;
use crate::index::{self, DynamicPaths};
use crate::mapping::Mapping;
use crate::query::Compiler;
use crate::request::Query;
use crate::table::{DocumentSnapshot, Shared, State};

/// Memory for indexing one batch.
const MEMORY_BYTES: usize = 15_000_000;
/// Documents of one batch.
pub const DOCUMENTS_MAX: usize = 10_000;

/// Saved searches of one table.
#[derive(Clone, Debug)]
pub struct Percolator {
    mapping: Mapping,
    queries: Vec<(String, Query)>,
}

impl Percolator {
    /// Searches that were checked when they were saved. What has become unknown since then matches nothing.
    #[must_use]
    pub const fn of_saved(mapping: Mapping, queries: Vec<(String, Query)>) -> Self {
        Self { mapping, queries }
    }

    /// Saved searches by name; each is checked as a search would.
    ///
    /// # Errors
    /// [`Error::InvalidMapping`], and what is wrong with a query, with its name.
    pub fn new(mapping: Mapping, queries: impl IntoIterator<Item = (String, Query)>) -> Result<Self, Error> {
        mapping.validate()?;
        let percolator = Self { mapping, queries: queries.into_iter().collect() };
        let empty = percolator.snapshot(&[])?;
        for (name, query) in &percolator.queries {
            Compiler::new(&empty).request(query).map_err(|error| match error {
                Error::Request { at, message } => Error::Request { at: format!("saved search `{name}`, {at}"), message },
                Error::UnknownField { name: field, hint } => {
                    Error::UnknownField { name: field, hint: format!("{hint} (in the saved search `{name}`)") }
                }
                error => error,
            })?;
        }
        Ok(percolator)
    }

    /// For each document of a batch the names of the searches that find it, in their order; nothing finds what is no JSON object.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for more than [`DOCUMENTS_MAX`], limits of the queries.
    pub fn matches(&self, documents: &[(&str, &[u8])]) -> Result<Vec<Vec<&str>>, Error> {
        if documents.len() > DOCUMENTS_MAX {
            let what = format!("a batch of {} documents", documents.len());
            return Err(Error::TooLarge { what, max: DOCUMENTS_MAX, hint: "give fewer at a time" });
        }
        let mut found = vec![Vec::new(); documents.len()];
        if documents.is_empty() || self.queries.is_empty() {
            return Ok(found);
        }
        let snapshot = self.snapshot(documents)?;
        if snapshot.count() == 0 {
            return Ok(found);
        }
        for (name, query) in &self.queries {
            let query = Compiler::new(&snapshot).lenient(true).request(query)?;
            for address in snapshot.searcher.search(&*query, &DocSetCollector)? {
                let places = snapshot.searcher.segment_reader(address.segment_ord).fast_fields().u64("_offset")?;
                let place = places.first(address.doc_id).and_then(|place| usize::try_from(place).ok());
                if let Some(names) = place.and_then(|place| found.get_mut(place)) {
                    names.push(name.as_str());
                }
            }
        }
        Ok(found)
    }

    /// The documents as a state of a table, their places in the batch as their offsets.
    fn snapshot(&self, documents: &[(&str, &[u8])]) -> Result<DocumentSnapshot, Error> {
        let (mut writer, fields) = index::in_memory(&self.mapping, MEMORY_BYTES)?;
        let mut known = DynamicPaths { any: true, ..DynamicPaths::default() };
        for (place, (id, json)) in (0_u64..).zip(documents) {
            let value = serde_json::from_slice::<serde_json::Value>(json).ok().filter(serde_json::Value::is_object);
            let Some(value) = value else { continue };
            writer.add_document(fields.document(id, Offset::new(place), json, &value, &mut known))?;
        }
        let index = writer.finalize()?;
        let searcher = index.reader()?.searcher();
        let state = State { offset: Offset::ZERO, searcher, dynamic: Arc::new(known) };
        let shared = Shared::new(self.mapping.clone(), fields, index, state.clone(), 1);
        Ok(DocumentSnapshot::new(Arc::new(shared), state))
    }
}
