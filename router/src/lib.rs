//! One database over one log: the catalog, SQL, the cut of every query, and the facade that programs embed.
//!
//! # The way of a query
//! [`Database::sql`] → [`sql`] (parse, rewrite) → [`cut`] (one offset per partition) → [`provider`] → DataFusion → the stores.
//!
//! # The way of a write
//! [`Database::append`] → one batch per partition → the log; or [`dml`]: a SELECT at a cut → mutations with the keys they touch
//! → the owner of `_tables` → the table's view.
//!
//! # Invariants
//! - Every answer names the positions it saw or wrote; every read may wait for one.
//! - All reads of a statement see the same offset of each partition.
//! - The catalog is a view: nothing is defined that `_catalog` does not say.

#![forbid(unsafe_code)]

pub mod answer;
pub mod append;
pub mod by_key;
pub mod catalog;
pub mod copy;
pub mod cursors;
pub mod cut;
pub mod database;
pub mod define;
pub mod dml;
pub mod error;
pub mod expiry;
pub mod fast_path;
pub mod feed;
pub mod functions;
pub mod key_hash;
pub mod lines;
pub mod matches;
pub mod partitioner;
pub mod position;
pub mod postgres;
pub mod provider;
pub mod query;
pub mod read;
pub mod render;
pub mod request;
pub mod search;
pub mod sequence;
pub mod session;
pub mod sessions;
pub mod show;
pub mod sql;
pub mod status;
pub mod txn;
pub mod units;
pub mod view;

pub use answer::{
    AppendAnswer, AppendRecord, AppendRequest, DeadLetterInfo, Expect, PartitionInfo, RamInfo, ReadFrom, ReadLimits, ReadPage,
    RebuildInfo, Rows, SqlAnswer, SqlRequest, StoredRecord, StreamInfo, StreamTotals, ViewInfo, ViewPartitionInfo,
};
pub use append::AppendError;
pub use cursors::CursorInfo;
pub use database::{Database, DatabaseOptions, Limits};
pub use datafusion::{arrow, parquet};
pub use dml::{DocumentChange, DocumentEdit, DocumentWritten, StoredDocument};
pub use docstore::{FieldKind, FoundField, Hit, Mapping, SearchResponse, Suggestion};
pub use error::{Error, Result, sqlstate};
pub use feed::ChangesPage;
pub use matches::{Match, MatchesPage};
pub use position::Cut;
pub use search::Searchable;
