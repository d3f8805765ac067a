//! What the stream `_catalog` holds: one JSON object a record.
//!
//! # Format
//! `docs/format.md`, "Catalog records". Records are only ever added to; an unknown `type` stops the catalog with an error
//! rather than being passed over, since it was written by a newer release.

use docstore::Mapping;
use rowstore::{Index, TableSchema, TableStatistics};
use serde::{Deserialize, Serialize};

use super::options::{History, StreamOptions};
use super::sequence::SequenceDef;
use super::state::{QueryDef, SavedSearch, StreamDef, TableDef};

/// A change of definitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CatalogRecord {
    /// A stream exists from here on.
    StreamCreated(StreamDef),
    /// It is kept differently from here on.
    StreamAltered {
        /// Its id.
        id: u32,
        /// All its options.
        options: StreamOptions,
    },
    /// It is gone, with its records.
    StreamDropped {
        /// Its id.
        id: u32,
    },
    /// A table exists from here on.
    TableCreated(Box<TableDef>),
    /// It is gone, with its view's files.
    TableDropped {
        /// Its id.
        id: u32,
    },
    /// A name stands for a SELECT from here on, instead of the one it may have stood for.
    QueryNamed(QueryDef),
    /// The name stands for nothing any more.
    QueryDropped {
        /// The name.
        name: String,
    },
    /// A search is saved for a table from here on, instead of the one of its name.
    SearchSaved(SavedSearch),
    /// It is saved no more.
    SearchDropped {
        /// The table's id.
        table: u32,
        /// Its name.
        name: String,
    },
    /// A table has an index from here on; the generation it names is the first to keep it.
    IndexCreated {
        /// The table's id.
        id: u32,
        /// The index.
        index: Index,
    },
    /// It has it no more.
    IndexDropped {
        /// The table's id.
        id: u32,
        /// The index's id.
        index: u32,
    },
    /// It can be read so far back from here on.
    HistoryAltered {
        /// The table's id.
        id: u32,
        /// None: to the first record.
        history: Option<History>,
    },
    /// Its documents go after this long from here on.
    TtlAltered {
        /// The table's id.
        id: u32,
        /// Milliseconds; none: they stay.
        ttl_ms: Option<u64>,
    },
    /// The next generation of a document table that begins to serve has this mapping.
    MappingAltered {
        /// Its id.
        id: u32,
        /// All of it.
        mapping: Mapping,
    },
    /// What ANALYZE found out about a table, instead of what it found before.
    TableAnalyzed {
        /// Its id.
        id: u32,
        /// What it found.
        statistics: TableStatistics,
    },
    /// It has another name from here on.
    TableRenamed {
        /// Its id.
        id: u32,
        /// The new name.
        name: String,
    },
    /// A row table has these columns from here on; its rows stay as they are.
    ColumnsAltered {
        /// The table's id.
        id: u32,
        /// All of its columns.
        schema: TableSchema,
    },
    /// A sequence exists from here on.
    SequenceCreated(SequenceDef),
    /// The numbers before `next` may have been handed out.
    SequenceAdvanced {
        /// Its id.
        id: u32,
        /// The next number to hand out; none: it has ended.
        next: Option<i64>,
    },
    /// It is gone.
    SequenceDropped {
        /// Its id.
        id: u32,
    },
    /// A new generation of a table's view is being built.
    RebuildStarted {
        /// The table's id.
        id: u32,
        /// The new generation.
        generation: u64,
    },
    /// The new generation serves, the old one is gone.
    GenerationSwapped {
        /// The table's id.
        id: u32,
        /// The generation that serves.
        generation: u64,
    },
}
