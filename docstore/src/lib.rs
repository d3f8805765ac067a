//! Documents: one document table of one partition, built from the log on tantivy.
//!
//! A document is a JSON object with an id; it is kept byte for byte, and the paths its [`Mapping`] names are searchable text or
//! facets. The crate knows nothing of SQL: the catalog's owner hands it a [`DocumentProjection`], the driver of
//! [`logcore::materialize`] feeds the [`DocumentMaterializer`], and queries read a [`DocumentSnapshot`].
//!
//! # The way of a document
//! `Driver` → [`DocumentMaterializer`] (projection, last version per id) → [`index`] (fields) → tantivy's writer → a commit that
//! carries the offset → [`DocumentTable`] (the newest searchers with their offsets). Commits are searchable at once and become
//! durable at checkpoints: [`directory`].
//!
//! # The way of a query
//! [`SearchRequest`] or [`ScanFilter`] → [`query`] ([`text`] parses what people type) → a tantivy query → [`search`] (hits,
//! highlights, facets, aggregations) or [`scan`] (Arrow record batches).
//!
//! # Invariants
//! - At most one live document has a given id: an upsert deletes by id and adds, from one feeding thread.
//! - A searcher shows exactly one commit, and is kept together with that commit's offset.
//! - What is in the folder follows from the log alone; anything doubtful is refused with the advice to rebuild.
//!
//! # Not done
//! Scripts, calendar intervals, composite and nested aggregations over objects; nested documents
//! (arrays of objects are flattened); text without spaces between words (Chinese, Japanese) is one token per run.

#![forbid(unsafe_code)]

mod aggregations;
mod columns;
pub mod directory;
pub mod error;
pub mod highlight;
pub mod index;
pub mod mapping;
pub mod materializer;
pub mod percolate;
pub mod query;
pub mod request;
pub mod scan;
pub mod search;
mod sort;
pub mod suggest;
pub mod table;
pub mod text;

pub use error::Error;
pub use highlight::Highlighter;
pub use mapping::{Analyzer, FieldKind, Mapping, MappingOptions, SearchField, TypedField};
pub use materializer::{DocumentMaterializer, DocumentProjection, SourceDocument};
pub use percolate::Percolator;
pub use request::{Query, SearchRequest};
pub use scan::{ScanColumn, ScanFilter};
pub use search::{FacetCount, Hit, SearchResponse};
pub use suggest::{Suggestion, Suggestions};
pub use table::{DocumentOptions, DocumentSnapshot, DocumentTable, FoundField};
