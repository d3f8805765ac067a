//! The running views: for every table its serving generation, and the one that is being built beside it.
//!
//! Opened by [`crate::Database`] at start and by DDL; read by [`crate::cut`], which takes one generation for a whole statement.
//!
//! # Crash safety
//! Which generation serves is a record of the catalog. Folders that no definition names any more are removed at start.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use datafusion::execution::SessionState;
use docstore::{DocumentProjection, DocumentTable, Mapping};
use logcore::materialize::{Driver, Materializer, Projection, Task, TaskOptions, TaskState};
use logcore::sys::fs;
use logcore::{Log, Offset, PartitionOptions};
use rowstore::mutation::MutationProjection;
use rowstore::{RowChange, RowOptions, RowTable, TableSchema};
use tsstore::SeriesTable;

use super::document::WholeDocuments;
use super::index_keys;
use super::keys::KeyProjection;
use super::mapping::FieldMapping;
use super::select::{SelectDocuments, SelectProjection};
use super::written::WrittenDocuments;
use crate::catalog::{CatalogState, Source, StreamDef, TableDef, TableKind};
use crate::error::{Error, Result};

/// Indexing buffers of one document table, shared by its partitions; tantivy asks for at least the second for each.
const INDEXING_BYTES: usize = 64 << 20;
const INDEXING_BYTES_MIN: usize = 16 << 20;
/// Documents are found at the latest after this long: showing them syncs nothing, see docs/adr/0014.
const DOCUMENT_REFRESH: Duration = Duration::from_millis(20);
/// States of documents that can be read by offset: about so many refreshes.
const DOCUMENT_STATES: usize = 16;
/// An old generation waits this long for its readers.
const RETIRE_MAX: Duration = Duration::from_secs(600);
const RETIRE_STEP: Duration = Duration::from_millis(20);

/// The reading side of one partition of a table.
#[derive(Clone)]
pub enum Store {
    /// Rows by primary key.
    Row(RowTable),
    /// Documents.
    Document(DocumentTable),
    /// Points in time.
    Series(SeriesTable),
}

/// One partition of a generation.
pub struct Part {
    /// The partition's number.
    pub partition: u32,
    /// What brings it up to date.
    pub task: Arc<Task>,
    /// Where it is read.
    pub store: Store,
}

impl Part {
    /// The oldest state that can be read: what the records below this offset left.
    #[must_use]
    pub fn kept_from(&self) -> Offset {
        match &self.store {
            Store::Row(rows) => rows.kept_from(),
            Store::Document(_) | Store::Series(_) => Offset::ZERO,
        }
    }
}

/// One build of a table's view.
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// In partition order.
    pub parts: Vec<Part>,
}

/// A table's running view.
pub struct View {
    /// The table's id.
    pub id: u32,
    /// The stream it reads.
    pub stream: Arc<StreamDef>,
    name: RwLock<Arc<str>>,
    serving: RwLock<Arc<Generation>>,
    building: RwLock<Option<Arc<Generation>>>,
}

impl View {
    /// The table's name.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.read().expect("no code panics inside"))
    }

    /// Gives it the table's new name; what the driver says of its task has the old one until the next start.
    pub fn rename(&self, name: &str) {
        *self.name.write().expect("no code panics inside") = name.into();
    }

    /// The generation that serves.
    #[must_use]
    pub fn serving(&self) -> Arc<Generation> {
        Arc::clone(&self.serving.read().expect("no code panics inside"))
    }

    /// Waits until the serving generation shows a partition up to `end`, also over a swap of generations.
    ///
    /// # Errors
    /// As [`Task::visible_to`].
    pub async fn visible_to(&self, partition: usize, end: Offset, deadline: Instant) -> Result<(), logcore::Error> {
        loop {
            let serving = self.serving();
            match serving.parts[partition].task.visible_to(end, deadline).await {
                Err(logcore::Error::ViewStopped { reason }) if serving.parts[partition].task.state() == TaskState::Running => {
                    if Instant::now() >= deadline {
                        return Err(logcore::Error::ViewStopped { reason });
                    }
                    tokio::time::sleep(RETIRE_STEP).await;
                }
                other => return other,
            }
        }
    }

    /// The generation that is being built.
    #[must_use]
    pub fn building(&self) -> Option<Arc<Generation>> {
        self.building.read().expect("no code panics inside").clone()
    }

    /// Shows or hides the generation that is being built.
    pub fn set_building(&self, building: Option<Arc<Generation>>) {
        *self.building.write().expect("no code panics inside") = building;
    }

    /// Lets `new` serve if it has seen everything that readers of the old one may have seen; gives the old one.
    pub fn swap(&self, new: &Arc<Generation>) -> Option<Arc<Generation>> {
        let mut serving = self.serving.write().expect("no code panics inside");
        let behind = serving.parts.iter().zip(&new.parts).any(|(old, new)| new.task.visible() < old.task.visible());
        if behind {
            return None;
        }
        self.set_building(None);
        Some(std::mem::replace(&mut *serving, Arc::clone(new)))
    }
}

/// Opens views and keeps the running ones.
pub struct Views {
    /// The log they read.
    pub log: Arc<Log>,
    /// What runs them.
    pub driver: Arc<Driver>,
    base: SessionState,
    rows: RowOptions,
    partition: PartitionOptions,
    running: RwLock<BTreeMap<u32, Arc<View>>>,
}

impl Views {
    /// No views yet.
    #[must_use]
    pub fn new(log: Arc<Log>, driver: Arc<Driver>, base: SessionState, rows: RowOptions, partition: PartitionOptions) -> Self {
        Self { log, driver, base, rows, partition, running: RwLock::default() }
    }

    /// The view of a table.
    ///
    /// # Errors
    /// When it is being created or dropped just now.
    pub fn get(&self, table: &TableDef) -> Result<Arc<View>> {
        let running = self.running.read().expect("no code panics inside");
        let gone = || {
            Error::new(
                crate::error::sqlstate::OBJECT_IN_USE,
                logcore::ErrorKind::Unavailable,
                format!("the view of table \"{}\" is not open", table.name),
            )
            .hint("it is being created or dropped, or it failed to open: see the server's log")
        };
        running.get(&table.id).cloned().ok_or_else(gone)
    }

    /// All running views, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<View>> {
        self.running.read().expect("no code panics inside").values().cloned().collect()
    }

    /// Opens the serving generation of a table and begins to apply its stream.
    ///
    /// # Errors
    /// When its files can't be opened.
    pub async fn open(&self, table: &TableDef, stream: &Arc<StreamDef>) -> Result<Arc<View>> {
        let generation = self.open_generation(table, stream, table.generation, TaskOptions::default()).await?;
        let view = Arc::new(View {
            id: table.id,
            stream: Arc::clone(stream),
            name: RwLock::new(table.name.as_str().into()),
            serving: RwLock::new(Arc::new(generation)),
            building: RwLock::new(None),
        });
        self.running.write().expect("no code panics inside").insert(table.id, Arc::clone(&view));
        Ok(view)
    }

    /// What row tables share.
    #[must_use]
    pub fn row_options(&self) -> &RowOptions {
        &self.rows
    }

    /// Where the generations of a table are.
    #[must_use]
    pub fn dir(&self, table: u32) -> PathBuf {
        self.log.dir().join("views").join(table.to_string())
    }

    /// Opens or creates one generation and attaches it to the driver.
    ///
    /// # Errors
    /// When its files can't be opened or its `AS SELECT` no longer plans.
    pub async fn open_generation(
        &self,
        table: &TableDef,
        stream: &Arc<StreamDef>,
        number: u64,
        options: TaskOptions,
    ) -> Result<Generation> {
        let select = self.plan_select(table, stream).await?;
        let mut parts = Vec::new();
        for partition in 0..stream.partitions {
            let select = select.as_ref().map(|select| select.for_partition(partition));
            match self.open_part(table, stream, number, partition, select, &options) {
                Ok(part) => parts.push(part),
                Err(error) => {
                    parts.iter().for_each(|part| self.driver.detach(&part.task));
                    return Err(error);
                }
            }
        }
        Ok(Generation { number, parts })
    }

    async fn plan_select(&self, table: &TableDef, stream: &StreamDef) -> Result<Option<SelectProjection>> {
        let Source::Stream { select: Some(select), .. } = &table.source else { return Ok(None) };
        let target = match &table.kind {
            TableKind::Row(schema) => Some(Arc::new(schema.clone())),
            TableKind::Series(series) => Some(Arc::new(series.columns.clone())),
            TableKind::Document(_) => None,
        };
        Ok(Some(SelectProjection::plan(&self.base, select, &stream.name, target).await?))
    }

    /// What makes row changes of a table's records, for readers of its change feed.
    ///
    /// # Errors
    /// When its `AS SELECT` no longer plans.
    pub async fn projections(&self, table: &Arc<TableDef>, schema: &Arc<TableSchema>, stream: &StreamDef) -> Result<Projections> {
        let select = self.plan_select(table, stream).await?;
        Ok(Projections { table: Arc::clone(table), schema: Arc::clone(schema), select })
    }

    /// What makes documents of the records of one partition of a document table, for readers besides its view.
    ///
    /// # Errors
    /// When its `AS SELECT` no longer plans.
    pub async fn documents(
        &self,
        table: &TableDef,
        mapping: &Mapping,
        stream: &StreamDef,
        partition: u32,
    ) -> Result<DocumentProjection> {
        let select = self.plan_select(table, stream).await?;
        let select = select.as_ref().map(|select| select.for_partition(partition));
        Ok(document_projection(table, mapping, partition, select))
    }

    fn open_part(
        &self,
        table: &TableDef,
        stream: &StreamDef,
        number: u64,
        partition: u32,
        select: Option<SelectProjection>,
        options: &TaskOptions,
    ) -> Result<Part> {
        let log = stream.open(&self.log, partition, &self.partition)?;
        let dir = self.dir(table.id).join(number.to_string()).join(partition.to_string());
        fs::create_dir(&dir)?;
        let is_whole = log.log_start() == Offset::ZERO;
        let (store, materializer) = self.open_store(table, number, (partition, stream.partitions), &dir, select, is_whole)?;
        let pulled = matches!((&table.source, &table.kind), (Source::Own, TableKind::Row(_)));
        let refresh = matches!(store, Store::Document(_)).then_some(DOCUMENT_REFRESH);
        let task =
            self.driver.attach(&table.name, &log, materializer, &dir, TaskOptions { pulled, refresh, ..options.clone() })?;
        Ok(Part { partition, task, store })
    }

    /// Undoes the opening of a table that was never defined: nobody reads it, and the next table gets its id and folder.
    ///
    /// # Errors
    /// When files stay.
    pub fn discard(&self, table: u32) -> Result<()> {
        for generation in self.take(table) {
            generation.parts.iter().for_each(|part| self.driver.detach(&part.task));
        }
        Ok(fs::remove_dir(&self.dir(table))?)
    }

    fn open_store(
        &self,
        table: &TableDef,
        number: u64,
        (partition, partitions): (u32, u32),
        dir: &std::path::Path,
        select: Option<SelectProjection>,
        is_log_whole: bool,
    ) -> Result<(Store, Box<dyn Materializer>)> {
        Ok(match &*table.kind_in(number) {
            TableKind::Row(schema) => {
                let mut schema = schema.clone();
                // Generations before an index know nothing of it.
                schema.indexes.retain(|index| index.generation <= number);
                index_keys::prepare(&self.base, &schema)?;
                let schema = Arc::new(schema);
                let projection = row_projection(table, &schema, select);
                let (rows, materializer) = RowTable::open(dir, schema, projection, &self.rows)?;
                (Store::Row(rows), Box::new(materializer))
            }
            TableKind::Document(mapping) => {
                let projection = document_projection(table, mapping, partition, select);
                let memory_bytes = (INDEXING_BYTES / partitions as usize).clamp(INDEXING_BYTES_MIN, INDEXING_BYTES / 2);
                let options = docstore::DocumentOptions {
                    memory_bytes,
                    searchers_kept: DOCUMENT_STATES,
                    ..docstore::DocumentOptions::default()
                };
                let (documents, materializer) = DocumentTable::open(dir, mapping.clone(), projection, options)?;
                (Store::Document(documents), Box::new(materializer))
            }
            TableKind::Series(series) => {
                let open = || {
                    let projection: tsstore::PointProjection = match select.clone() {
                        Some(select) => Box::new(select),
                        None => Box::new(FieldMapping::new(Arc::new(series.columns.clone()))),
                    };
                    SeriesTable::open(dir, series.series.clone(), projection, tsstore::SeriesOptions::default())
                };
                let (points, materializer) = match open() {
                    Err(error @ (tsstore::Error::UnknownFormat { .. } | tsstore::Error::SchemaChanged { .. }))
                        if is_log_whole =>
                    {
                        tracing::warn!(table = table.name, partition, %error, "the series is built anew from the log");
                        fs::remove_dir(dir)?;
                        fs::create_dir(dir)?;
                        open()?
                    }
                    opened => opened?,
                };
                // Series have no `history` yet: they can be read back to the first record.
                points.keep_superseded_from(Offset::ZERO);
                (Store::Series(points), Box::new(materializer))
            }
        })
    }

    /// Stops a generation that nobody will begin to read any more, and removes its files when the last reader is gone.
    ///
    /// # Errors
    /// When files stay; the next start removes them.
    pub async fn retire(&self, table: u32, generation: Arc<Generation>) -> Result<()> {
        for part in &generation.parts {
            self.driver.detach(&part.task);
        }
        let dir = self.dir(table).join(generation.number.to_string());
        let give_up = Instant::now() + RETIRE_MAX;
        while Arc::strong_count(&generation) > 1 {
            if Instant::now() > give_up {
                tracing::warn!(path = %dir.display(), "a reader still holds an old generation; its files go at the next start");
                return Ok(());
            }
            tokio::time::sleep(RETIRE_STEP).await;
        }
        drop(generation);
        Ok(fs::remove_dir(&dir)?)
    }

    /// Takes the view of a table out; its generations are then to be retired.
    #[must_use]
    pub fn take(&self, table: u32) -> Vec<Arc<Generation>> {
        let view = self.running.write().expect("no code panics inside").remove(&table);
        view.map(|view| view.building().into_iter().chain([view.serving()]).collect()).unwrap_or_default()
    }

    /// Removes the folders of tables and generations that the catalog does not name.
    ///
    /// # Errors
    /// When a folder can't be listed or removed.
    pub fn remove_orphans(&self, catalog: &CatalogState) -> Result<()> {
        let tables: HashMap<String, &Arc<TableDef>> = catalog.all_tables().map(|table| (table.id.to_string(), table)).collect();
        let root = self.log.dir().join("views");
        for folder in fs::list(&root)? {
            let Some(table) = tables.get(&folder) else {
                fs::remove_dir(&root.join(&folder))?;
                continue;
            };
            for generation in fs::list(&root.join(&folder))? {
                let named = [Some(table.generation), table.building].into_iter().flatten().any(|n| n.to_string() == generation);
                if !named {
                    fs::remove_dir(&root.join(&folder).join(&generation))?;
                }
            }
        }
        Ok(())
    }
}

/// The projection of a row table, again and again: each reader needs one of its own.
#[derive(Clone)]
pub struct Projections {
    table: Arc<TableDef>,
    schema: Arc<TableSchema>,
    select: Option<SelectProjection>,
}

impl Projections {
    /// One for a partition.
    #[must_use]
    pub fn for_partition(&self, partition: u32) -> Box<dyn Projection<Vec<RowChange>>> {
        let select = self.select.as_ref().map(|select| select.for_partition(partition));
        row_projection(&self.table, &self.schema, select)
    }
}

fn document_projection(
    table: &TableDef,
    mapping: &Mapping,
    partition: u32,
    select: Option<SelectProjection>,
) -> DocumentProjection {
    let key = Some(mapping.key.clone()).filter(|key| !key.is_empty());
    match (&table.source, select) {
        (Source::Documents { table }, _) => Box::new(WrittenDocuments::new(*table)),
        (_, Some(select)) => Box::new(SelectDocuments { select, key }),
        (_, None) => {
            let key = key.as_deref().map(docstore::mapping::split_path);
            Box::new(WholeDocuments { key, partition })
        }
    }
}

fn row_projection(
    table: &TableDef,
    schema: &Arc<TableSchema>,
    select: Option<SelectProjection>,
) -> Box<dyn Projection<Vec<RowChange>>> {
    match (&table.source, select) {
        (Source::Own, _) => Box::new(MutationProjection { table: table.id }),
        (Source::Keys { .. } | Source::Documents { .. }, _) => Box::<KeyProjection>::default(),
        (Source::Stream { .. }, Some(select)) => Box::new(select),
        (Source::Stream { .. }, None) => Box::new(FieldMapping::new(Arc::clone(schema))),
    }
}

impl Generation {
    /// How far it has applied and how far there is to go, over all partitions.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let sum = |offset: fn(&Part) -> Offset| {
            self.parts.iter().map(|part| part.task.partition().log_start().records_until(offset(part))).sum()
        };
        (sum(|part| part.task.applied()), sum(|part| part.task.partition().committed().get()))
    }
}
