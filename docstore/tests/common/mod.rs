//! What the tests share: a projection that takes key and value as they are, and a table fed with batches of records.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;

use docstore::{
    Analyzer, DocumentMaterializer, DocumentOptions, DocumentProjection, DocumentSnapshot, DocumentTable, Error, Mapping,
    SearchField, SearchRequest, SearchResponse, SourceDocument,
};
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::{Batch, BatchBuilder, Compression, NewRecord, Offset, Term};
use serde_json::Value;

/// The key of a record that empties the table.
pub const EVERYTHING: &str = "*";

/// A record is a document: its key the id, its value the JSON.
pub struct Plain;

impl Projection<Vec<SourceDocument>> for Plain {
    fn project(&mut self, batch: &Batch, from: Offset, _: &mut Rejects) -> Result<Vec<SourceDocument>, ViewError> {
        let mut documents = Vec::new();
        for record in batch.records() {
            let record = record?;
            if record.offset >= from {
                let id = String::from_utf8(record.key.unwrap_or_default().to_vec())?;
                documents.push(match id.as_str() {
                    EVERYTHING => SourceDocument::truncation(record.offset),
                    _ => SourceDocument::new(record.offset, id, record.value.map(<[u8]>::to_vec)),
                });
            }
        }
        Ok(documents)
    }
}

pub fn plain() -> DocumentProjection {
    Box::new(Plain)
}

pub fn mapping(search: &[(&str, Analyzer)], facets: &[&str]) -> Mapping {
    let search = search.iter().map(|(path, analyzer)| SearchField { path: (*path).to_owned(), analyzer: *analyzer }).collect();
    Mapping { key: String::new(), search, facets: facets.iter().map(|path| (*path).to_owned()).collect(), ..Mapping::default() }
}

/// Small enough for many tables at once.
pub fn options() -> DocumentOptions {
    DocumentOptions { memory_bytes: 15_000_000, ..DocumentOptions::default() }
}

pub fn batch(base: Offset, records: &[(String, Option<String>)]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (key, value) in records {
        let value = value.as_deref().map(str::as_bytes);
        builder.push(&NewRecord { key: Some(key.as_bytes()), value, ..NewRecord::default() });
    }
    let mut raw = builder.finish(Compression::None);
    logcore::frame::batch::set_place(&mut raw, base, Term::new(1));
    Batch::open(&raw.into()).unwrap()
}

/// A table with its writing side.
pub struct Fixture {
    pub table: DocumentTable,
    pub materializer: DocumentMaterializer,
}

impl Fixture {
    pub fn open(dir: &Path, mapping: Mapping) -> Self {
        let (table, materializer) = DocumentTable::open(dir, mapping, plain(), options()).unwrap();
        Self { table, materializer }
    }

    /// Applies records as one batch at the next offset; gives what was rejected.
    pub fn apply(&mut self, records: &[(String, Option<String>)]) -> Vec<(u64, String)> {
        let mut rejects = Rejects::default();
        let batch = batch(self.materializer.next_offset(), records);
        self.materializer.apply(&batch, &mut rejects).unwrap();
        rejects.take().into_iter().map(|letter| (letter.offset.value(), letter.reason)).collect()
    }

    pub fn put(&mut self, id: &str, value: &Value) {
        assert!(self.apply(&[(id.to_owned(), Some(value.to_string()))]).is_empty());
    }

    /// Makes everything applied visible, and not durable.
    pub fn commit(&mut self) -> DocumentSnapshot {
        self.materializer.make_visible().unwrap();
        self.table.snapshot()
    }

    /// Makes everything applied durable.
    pub fn save(&mut self) -> DocumentSnapshot {
        assert_eq!(self.materializer.checkpoint().unwrap(), self.materializer.next_offset());
        self.table.snapshot()
    }
}

pub fn search(snapshot: &DocumentSnapshot, request: Value) -> Result<SearchResponse, Error> {
    let request: SearchRequest = serde_json::from_value(request).unwrap();
    snapshot.search(&request)
}

/// The ids of all hits, sorted.
pub fn ids(snapshot: &DocumentSnapshot, query: &Value) -> Vec<String> {
    let response = search(snapshot, serde_json::json!({ "query": query, "size": 10_000 })).unwrap();
    assert_eq!(response.total, response.hits.len() as u64);
    let mut ids: Vec<String> = response.hits.into_iter().map(|hit| hit.id).collect();
    ids.sort();
    ids
}
