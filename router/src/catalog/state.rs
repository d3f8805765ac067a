//! The definitions as of one offset of `_catalog`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use docstore::Mapping;
use logcore::{Log, Partition, PartitionOptions, PartitionRef, StreamId};
use rowstore::{TableSchema, TableStatistics};
use serde::{Deserialize, Serialize};
use tsstore::SeriesSchema;

use super::options::{History, StreamOptions};
use super::record::CatalogRecord;
use super::sequence::SequenceDef;
use crate::error::{Error, Result};

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamDef {
    /// Names its folder; never used again.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// 1..n.
    pub partitions: u32,
    /// How it is kept.
    #[serde(flatten)]
    pub options: StreamOptions,
}

impl StreamDef {
    /// Opens one of its partitions; `defaults` hold for what the stream does not say.
    ///
    /// # Errors
    /// As [`Log::open_partition`].
    pub fn open(&self, log: &Log, partition: u32, defaults: &PartitionOptions) -> Result<Arc<Partition>, logcore::Error> {
        let id = PartitionRef::new(StreamId::new(self.id), partition);
        match self.is_internal() {
            true => log.open_partition(id),
            false => log.open_partition_with(id, self.options.partition(defaults)),
        }
    }

    /// Whether it belongs to the database.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.id < StreamId::FIRST_USER.value()
    }
}

/// Where a table's records come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Written by SQL; its changes are records of the stream `_tables`.
    Own,
    /// A view of a stream.
    Stream {
        /// The stream's id.
        stream: u32,
        /// The projection's SQL text; without it columns are JSON fields of the same name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        select: Option<String>,
    },
    /// The documents that SQL wrote into a row table, searchable: made by the database beside each document table that is written.
    Documents {
        /// The row table's id.
        table: u32,
    },
    /// The last offset of every key of a stream; made by the database for appends that expect one.
    Keys {
        /// The stream's id.
        stream: u32,
    },
}

/// What kind of store keeps a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    /// Rows by primary key.
    Row(TableSchema),
    /// JSON documents with full-text search.
    Document(Mapping),
    /// Points in time.
    Series(SeriesDef),
}

impl TableKind {
    /// The word that names it in SQL.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Row(_) => "row",
            Self::Document(_) => "document",
            Self::Series(_) => "series",
        }
    }
}

/// What a series table is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesDef {
    /// All columns with their SQL types, in the order of the definition.
    pub columns: TableSchema,
    /// Time, tags and fields.
    pub series: SeriesSchema,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableDef {
    /// Names its folder and its mutations; never used again.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Where its records come from.
    pub source: Source,
    /// What keeps it.
    pub kind: TableKind,
    /// The generation that serves.
    pub generation: u64,
    /// The generation that is being built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building: Option<u64>,
    /// The mapping of the generation that is being built, of a document table, if it is to have another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_mapping: Option<Mapping>,
    /// The newest generation there ever was.
    pub newest: u64,
    /// How far back it can be read; none: to the first record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// Documents go when their newest version is older than this; none: they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

impl TableDef {
    /// The stream its records are in.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        match &self.source {
            Source::Own | Source::Documents { .. } => StreamId::TABLES,
            Source::Stream { stream, .. } | Source::Keys { stream } => StreamId::new(*stream),
        }
    }

    /// What keeps the generation of this number: the mapping of a document table may change with the next.
    #[must_use]
    pub fn kind_in(&self, generation: u64) -> Cow<'_, TableKind> {
        match &self.next_mapping {
            Some(mapping) if self.building == Some(generation) => Cow::Owned(TableKind::Document(mapping.clone())),
            _ => Cow::Borrowed(&self.kind),
        }
    }

    /// Whether nobody asked for it by name: the database made it for itself.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        matches!(self.source, Source::Keys { .. } | Source::Documents { .. })
    }
}

/// What `CREATE VIEW` makes: a name for a SELECT. It keeps no data and is no view of the log; statements that use the name are
/// planned as if the SELECT stood in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryDef {
    /// Its name.
    pub name: String,
    /// Its columns, as they were when it was made.
    pub columns: Vec<QueryColumn>,
    /// The SELECT.
    pub query: String,
}

/// A column of a named query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryColumn {
    /// Its name.
    pub name: String,
    /// Its name in the SELECT's own answer.
    pub source: String,
    /// Its type by PostgreSQL's name.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A search that new documents of a table are matched against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedSearch {
    /// The table's id.
    pub table: u32,
    /// Its name, for this table.
    pub name: String,
    /// What it looks for, as a search request has it.
    pub query: serde_json::Value,
}

/// See the module docs.
#[derive(Clone, Debug, Default)]
pub struct CatalogState {
    streams: BTreeMap<u32, Arc<StreamDef>>,
    tables: BTreeMap<u32, Arc<TableDef>>,
    queries: BTreeMap<String, Arc<QueryDef>>,
    searches: BTreeMap<(u32, String), Arc<SavedSearch>>,
    sequences: BTreeMap<u32, Arc<SequenceDef>>,
    statistics: BTreeMap<u32, Arc<TableStatistics>>,
    last_sequence: u32,
    last_stream: u32,
    last_table: u32,
}

impl CatalogState {
    /// The streams and tables that every data folder has.
    #[must_use]
    pub fn initial() -> Self {
        let mut state = Self { last_stream: StreamId::FIRST_USER.value() - 1, ..Self::default() };
        for (id, name) in [(StreamId::CATALOG, "_catalog"), (StreamId::CURSORS, "_cursors"), (StreamId::TABLES, "_tables")] {
            let def = StreamDef { id: id.value(), name: name.into(), partitions: 1, options: StreamOptions::default() };
            state.streams.insert(def.id, Arc::new(def));
        }
        state
    }

    /// Takes a record in.
    pub fn apply(&mut self, record: CatalogRecord) {
        match record {
            CatalogRecord::StreamCreated(def) => {
                self.last_stream = self.last_stream.max(def.id);
                self.streams.insert(def.id, Arc::new(def));
            }
            CatalogRecord::StreamAltered { id, options } => {
                if let Some(def) = self.streams.get_mut(&id) {
                    Arc::make_mut(def).options = options;
                }
            }
            CatalogRecord::StreamDropped { id } => drop(self.streams.remove(&id)),
            CatalogRecord::TableCreated(def) => {
                self.last_table = self.last_table.max(def.id);
                self.tables.insert(def.id, Arc::from(def));
            }
            CatalogRecord::TableDropped { id } => {
                self.tables.remove(&id);
                self.statistics.remove(&id);
                self.searches.retain(|(table, _), _| *table != id);
                self.sequences.retain(|_, sequence| sequence.owner.is_none_or(|owner| owner.table != id));
            }
            CatalogRecord::TableAnalyzed { id, statistics } => drop(self.statistics.insert(id, Arc::new(statistics))),
            CatalogRecord::QueryNamed(def) => drop(self.queries.insert(def.name.clone(), Arc::new(def))),
            CatalogRecord::QueryDropped { name } => drop(self.queries.remove(&name)),
            CatalogRecord::SearchSaved(search) => {
                drop(self.searches.insert((search.table, search.name.clone()), Arc::new(search)))
            }
            CatalogRecord::SearchDropped { table, name } => drop(self.searches.remove(&(table, name))),
            CatalogRecord::IndexCreated { id, index } => self.change(id, |def| {
                if let TableKind::Row(schema) = &mut def.kind {
                    schema.last_index = schema.last_index.max(index.id);
                    schema.indexes.push(index);
                }
            }),
            CatalogRecord::IndexDropped { id, index } => self.change(id, |def| {
                if let TableKind::Row(schema) = &mut def.kind {
                    schema.indexes.retain(|other| other.id != index);
                }
            }),
            CatalogRecord::HistoryAltered { id, history } => self.change(id, |def| def.history = history),
            CatalogRecord::TtlAltered { id, ttl_ms } => self.change(id, |def| def.ttl_ms = ttl_ms),
            CatalogRecord::TableRenamed { id, name } => self.change(id, |def| def.name = name),
            CatalogRecord::ColumnsAltered { id, schema } => {
                // A sequence goes with its column.
                self.sequences.retain(|_, sequence| {
                    sequence
                        .owner
                        .is_none_or(|owner| owner.table != id || schema.columns.iter().any(|column| column.id == owner.column))
                });
                self.change(id, |def| {
                    if let TableKind::Row(columns) = &mut def.kind {
                        *columns = schema;
                    }
                });
            }
            CatalogRecord::SequenceCreated(def) => {
                self.last_sequence = self.last_sequence.max(def.id);
                self.sequences.insert(def.id, Arc::new(def));
            }
            CatalogRecord::SequenceAdvanced { id, next } => {
                if let Some(def) = self.sequences.get_mut(&id) {
                    Arc::make_mut(def).next = next;
                }
            }
            CatalogRecord::SequenceDropped { id } => drop(self.sequences.remove(&id)),
            CatalogRecord::RebuildStarted { id, generation } => self.change(id, |def| {
                def.building = Some(generation);
                def.newest = def.newest.max(generation);
            }),
            CatalogRecord::MappingAltered { id, mapping } => self.change(id, |def| def.next_mapping = Some(mapping)),
            CatalogRecord::GenerationSwapped { id, generation } => self.change(id, |def| {
                def.generation = generation;
                def.building = None;
                if let Some(mapping) = def.next_mapping.take() {
                    def.kind = TableKind::Document(mapping);
                }
            }),
        }
    }

    fn change(&mut self, table: u32, change: impl FnOnce(&mut TableDef)) {
        if let Some(def) = self.tables.get_mut(&table) {
            change(Arc::make_mut(def));
        }
    }

    /// The id of the next stream.
    #[must_use]
    pub fn next_stream(&self) -> u32 {
        self.last_stream + 1
    }

    /// The id of the next table.
    #[must_use]
    pub fn next_table(&self) -> u32 {
        self.last_table + 1
    }

    /// All streams, internal ones first.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<StreamDef>> {
        self.streams.values()
    }

    /// All tables that somebody made, oldest first.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableDef>> {
        self.tables.values().filter(|def| !def.is_hidden())
    }

    /// All tables, also those that the database made for itself.
    pub fn all_tables(&self) -> impl Iterator<Item = &Arc<TableDef>> {
        self.tables.values()
    }

    /// The key view of a stream, if it has one.
    #[must_use]
    pub fn key_view(&self, stream: StreamId) -> Option<&Arc<TableDef>> {
        self.tables.values().find(|def| matches!(def.source, Source::Keys { stream: of } if of == stream.value()))
    }

    /// What searches the documents of a table that SQL writes; none: it is another table.
    #[must_use]
    pub fn search_side(&self, table: u32) -> Option<&Arc<TableDef>> {
        self.tables.values().find(|def| matches!(def.source, Source::Documents { table: of } if of == table))
    }

    /// What a table is to its users: a document table that SQL writes is kept as rows.
    #[must_use]
    pub fn kind_of(&self, table: &TableDef) -> &'static str {
        if self.search_side(table.id).is_some() { "document" } else { table.kind.name() }
    }

    /// A stream by id.
    #[must_use]
    pub fn stream_by_id(&self, id: StreamId) -> Option<&Arc<StreamDef>> {
        self.streams.get(&id.value())
    }

    /// A table by id.
    #[must_use]
    pub fn table_by_id(&self, id: u32) -> Option<&Arc<TableDef>> {
        self.tables.get(&id)
    }

    /// A stream by name, if there is one.
    #[must_use]
    pub fn find_stream(&self, name: &str) -> Option<&Arc<StreamDef>> {
        self.streams.values().find(|def| def.name == name)
    }

    /// A table by name, hidden ones too, if there is one.
    #[must_use]
    pub fn find_table(&self, name: &str) -> Option<&Arc<TableDef>> {
        self.tables.values().find(|def| def.name == name)
    }

    /// The searches saved for a table, by name.
    pub fn saved_searches(&self, table: u32) -> impl Iterator<Item = &Arc<SavedSearch>> {
        self.searches.range((table, String::new())..(table + 1, String::new())).map(|(_, search)| search)
    }

    /// All named queries, by name.
    pub fn queries(&self) -> impl Iterator<Item = &Arc<QueryDef>> {
        self.queries.values()
    }

    /// What ANALYZE found out about a table, if it looked at it.
    #[must_use]
    pub fn statistics(&self, table: u32) -> Option<&Arc<TableStatistics>> {
        self.statistics.get(&table)
    }

    /// A named query, if there is one.
    #[must_use]
    pub fn find_query(&self, name: &str) -> Option<&Arc<QueryDef>> {
        self.queries.get(name)
    }

    /// The id of the next sequence.
    #[must_use]
    pub fn next_sequence(&self) -> u32 {
        self.last_sequence + 1
    }

    /// All sequences, oldest first.
    pub fn sequences(&self) -> impl Iterator<Item = &Arc<SequenceDef>> {
        self.sequences.values()
    }

    /// A sequence by id.
    #[must_use]
    pub fn sequence_by_id(&self, id: u32) -> Option<&Arc<SequenceDef>> {
        self.sequences.get(&id)
    }

    /// A sequence by name, if there is one.
    #[must_use]
    pub fn find_sequence(&self, name: &str) -> Option<&Arc<SequenceDef>> {
        self.sequences.values().find(|def| def.name == name)
    }

    /// A sequence by name.
    ///
    /// # Errors
    /// When there is none, with a suggestion.
    pub fn sequence(&self, name: &str) -> Result<&Arc<SequenceDef>> {
        let bare = name.strip_prefix("public.").unwrap_or(name);
        self.find_sequence(bare)
            .ok_or_else(|| Error::unknown("sequence", name, self.sequences.values().map(|def| def.name.as_str())))
    }

    /// A stream by name.
    ///
    /// # Errors
    /// When there is none, with a suggestion.
    pub fn stream(&self, name: &str) -> Result<&Arc<StreamDef>> {
        self.find_stream(name).ok_or_else(|| Error::unknown("stream", name, self.streams.values().map(|def| def.name.as_str())))
    }

    /// A table by name.
    ///
    /// # Errors
    /// When there is none, with a suggestion.
    pub fn table(&self, name: &str) -> Result<&Arc<TableDef>> {
        self.find_table(name).ok_or_else(|| Error::unknown("table", name, self.tables().map(|def| def.name.as_str())))
    }

    /// Every name that can stand in FROM.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let tables = self.tables().map(|def| def.name.as_str()).chain(self.streams.values().map(|def| def.name.as_str()));
        tables.chain(self.queries.keys().map(String::as_str))
    }
}
