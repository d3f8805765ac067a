//! The cut of a statement: for each partition concerned, one offset at which all its tables and streams are read.
//!
//! Called by [`crate::query`] for every statement. Rows and series are read at any offset; a document table at the offsets of
//! its kept commits, so documents decide where a statement that uses them stands.
//!
//! # Invariants
//! - Everything read now in one statement is read at the same offset of each partition, not below what the client waits for.
//! - A table written by SQL is not read below what was committed when the statement came.
//! - A past read is exact, or refused.
//!
//! # Not done
//! Documents in the past: only the newest commits are kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::catalog::TableProvider;
use docstore::DocumentSnapshot;
use logcore::{Offset, Partition, PartitionRef, StreamId, TimestampMillis};

use crate::append::blocking;
use crate::catalog::{CatalogState, Source, StreamDef, TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::feed;
use crate::position::Cut;
use crate::provider::changes::ChangesProvider;
use crate::provider::document::DocumentProvider;
use crate::provider::row::RowProvider;
use crate::provider::scan::SourceTable;
use crate::provider::series::SeriesProvider;
use crate::provider::stream::StreamProvider;
use crate::provider::written;
use crate::query::Context;
use crate::sql::rewrite::{AsOf, ChangesFrom, TableUse, Uses};
use crate::txn::{Key, Transaction};
use crate::view::running::{Generation, Store, View};
use crate::view::vacuum::refuse;

/// How long a statement waits for the slower of its views, so that it need not read the faster ones in the past.
const PATIENCE: Duration = Duration::from_millis(50);
/// Attempts to find an offset that all document tables of a statement still have.
const ATTEMPTS_MAX: usize = 16;
/// A statement that meets a swap of generations begins again after this long.
const SWAP_STEP: Duration = Duration::from_millis(10);

/// What a statement reads.
pub struct Chosen {
    /// Where everything that is read now stands.
    pub cut: Cut,
    /// By name in the plan.
    pub providers: HashMap<String, Arc<dyn TableProvider>>,
    /// The states of the document tables, by table and partition.
    pub documents: Documents,
    /// What is read; its files stay while this is held.
    pub generations: Vec<Arc<Generation>>,
}

impl Chosen {
    /// Of a statement that reads no table of the catalog.
    #[must_use]
    pub fn nothing() -> Self {
        Self { cut: Cut::new(), providers: HashMap::new(), documents: Documents::new(), generations: Vec::new() }
    }
}

/// A table or stream of the statement, found.
struct Target {
    used: TableUse,
    stream: Arc<StreamDef>,
    table: Option<TargetTable>,
}

struct TargetTable {
    def: Arc<TableDef>,
    view: Arc<View>,
    generation: Arc<Generation>,
}

/// By stream and partition.
type Ends = BTreeMap<(u32, u32), Offset>;
/// By table and partition.
pub type Documents = HashMap<(u32, u32), DocumentSnapshot>;

/// Chooses the cut and makes the providers at it.
///
/// # Errors
/// Unknown names and positions, a wait that lasts over the deadline, a past that is not kept, views that stopped.
pub async fn choose(database: &Database, uses: &Uses, context: Context<'_>) -> Result<Chosen> {
    let Context { deadline, transaction, .. } = context;
    let pinned = transaction.map(|transaction| transaction.cut()).unwrap_or_default();
    loop {
        let catalog = database.catalog();
        let targets = uses.tables.iter().map(|used| find(database, &catalog, used, uses.search)).collect::<Result<Vec<_>>>()?;
        let swapped = |targets: &[Target]| targets.iter().any(Target::is_replaced);
        match choose_among(database, &catalog, &targets, uses, &pinned, context).await {
            // A generation that was being read makes way for the next one.
            Err(error) if error.code() == sqlstate::CANNOT_CONNECT_NOW && swapped(&targets) && Instant::now() < deadline => {
                tokio::time::sleep(SWAP_STEP).await;
            }
            other => return other,
        }
    }
}

async fn choose_among(
    database: &Database,
    catalog: &CatalogState,
    targets: &[Target],
    uses: &Uses,
    pinned: &Cut,
    context: Context<'_>,
) -> Result<Chosen> {
    let Context { wait, deadline, .. } = context;
    wait_for(database, catalog, targets, wait, deadline).await?;
    see_committed(database, targets, context.transaction.is_some(), deadline).await?;
    let (ends, documents) = settle(database, targets, pinned, wait, deadline).await?;
    let mut cut = Cut::new();
    for target in targets.iter().filter(|target| target.used.as_of.is_none()) {
        for partition in 0..target.stream.partitions {
            if let Some(end) = ends.get(&(target.stream.id, partition)) {
                cut.raise(&target.stream.name, partition, *end);
            }
        }
    }
    let mut providers = HashMap::new();
    let mut generations = Vec::new();
    for target in targets {
        let own = match &target.used.as_of {
            Some(as_of) => past(database, target, as_of, deadline).await?,
            None => ends.clone(),
        };
        if let Some(TargetTable { def, generation, .. }) = &target.table {
            for part in &generation.parts {
                let end = own.get(&(target.stream.id, part.partition)).copied().unwrap_or_default();
                refuse(def, &target.stream.name, part, end, target.used.as_of.is_some())?;
            }
        }
        let transaction = context.transaction.filter(|_| target.used.as_of.is_none());
        if let Some(from) = &target.used.changes {
            providers.insert(target.used.internal.clone(), Box::pin(changes(database, target, &own, from, transaction)).await?);
            generations.extend(target.table.as_ref().map(|table| Arc::clone(&table.generation)));
            continue;
        }
        providers.insert(target.used.internal.clone(), provider(database, target, &own, &documents, uses.score, transaction)?);
        generations.extend(target.table.as_ref().map(|table| Arc::clone(&table.generation)));
    }
    Ok(Chosen { cut, providers, documents, generations })
}

/// Finds offsets at which everything that is read now can be read, not below what the client waits for.
async fn settle(
    database: &Database,
    targets: &[Target],
    pinned: &Cut,
    wait: &Cut,
    deadline: Instant,
) -> Result<(Ends, Documents)> {
    for _ in 0..ATTEMPTS_MAX {
        let mut ends = align(database, targets).await?;
        pin(database, targets, pinned, &mut ends, deadline).await?;
        match documents_at(targets, &mut ends, wait) {
            Ok(documents) => return Ok((ends, documents)),
            // A document table no longer has so old a state: everything must come up to where the log is.
            Err(newer) => wait_all(database, targets, &newer, deadline).await?,
        }
    }
    let message = "the document tables of the statement could not be read at one moment while records came in";
    Err(Error::new(sqlstate::CANNOT_CONNECT_NOW, logcore::ErrorKind::Unavailable, message)
        .hint("try again, or read them one by one"))
}

/// Sets the ends that a transaction has read at before; documents are read as they are now.
async fn pin(database: &Database, targets: &[Target], pinned: &Cut, ends: &mut Ends, deadline: Instant) -> Result<()> {
    for target in targets.iter().filter(|target| target.used.as_of.is_none()) {
        for partition in 0..target.stream.partitions {
            let Some(end) = pinned.end(&target.stream.name, partition) else { continue };
            let with_documents = targets.iter().any(|other| other.stream.id == target.stream.id && other.is_document());
            if !with_documents {
                target.visible_to(database, partition, end, deadline).await?;
                ends.insert((target.stream.id, partition), end);
            }
        }
    }
    Ok(())
}

/// Finds what a name stands for; where text is searched, a document table that SQL writes stands for what searches it.
fn find(database: &Database, catalog: &CatalogState, used: &TableUse, search: bool) -> Result<Target> {
    let used = used.clone();
    if let Some(table) = catalog.find_table(&used.name) {
        let beside = catalog.search_side(table.id).filter(|_| search && used.as_of.is_none() && used.changes.is_none());
        let table = beside.unwrap_or(table);
        let view = database.views().get(table)?;
        let stream = Arc::clone(&view.stream);
        let table = Some(TargetTable { def: Arc::clone(table), generation: view.serving(), view });
        return Ok(Target { used, stream, table });
    }
    Ok(Target { stream: Arc::clone(catalog.stream(&used.name)?), used, table: None })
}

impl Target {
    fn is_document(&self) -> bool {
        matches!(&self.table, Some(table) if matches!(table.def.kind, TableKind::Document(_)))
    }

    /// Whether another generation serves by now, or may at any moment.
    fn is_replaced(&self) -> bool {
        self.table.as_ref().is_some_and(|table| !Arc::ptr_eq(&table.view.serving(), &table.generation))
            || self.table.as_ref().is_some_and(|table| table.view.building().is_some())
    }

    /// How far readers of a partition see.
    fn visible(&self, database: &Database, partition: u32) -> Result<Offset> {
        match &self.table {
            Some(table) => Ok(table.generation.parts[partition as usize].task.visible()),
            None => {
                let id = PartitionRef::new(StreamId::new(self.stream.id), partition);
                Ok(database.log().partition(id)?.committed().get())
            }
        }
    }

    async fn visible_to(&self, database: &Database, partition: u32, end: Offset, deadline: Instant) -> Result<()> {
        match &self.table {
            Some(table) => Ok(table.generation.parts[partition as usize].task.visible_to(end, deadline).await?),
            None => {
                let id = PartitionRef::new(StreamId::new(self.stream.id), partition);
                if database.log().partition(id)?.committed().reached(end, deadline).await {
                    return Ok(());
                }
                Err(timeout(&self.stream.name, partition, end))
            }
        }
    }
}

fn timeout(stream: &str, partition: u32, end: Offset) -> Error {
    let last = end.before().unwrap_or_default();
    let message = format!("{stream}/{partition}@{last} was not visible in time");
    Error::new(sqlstate::QUERY_CANCELED, logcore::ErrorKind::Unavailable, message)
        .hint("check that the position exists and that no view stopped, or raise timeout_ms")
}

/// Waits for what the client asked for, in the views of the statement; in the log where it reads none.
async fn wait_for(database: &Database, catalog: &CatalogState, targets: &[Target], wait: &Cut, deadline: Instant) -> Result<()> {
    for (name, partition, end) in wait.ends() {
        let stream = catalog.stream(name)?;
        if partition >= stream.partitions {
            let message = format!("stream \"{name}\" has no partition {partition}");
            return Err(Error::invalid(message).hint(format!("it has {}, counted from 0", stream.partitions)));
        }
        let id = PartitionRef::new(StreamId::new(stream.id), partition);
        if !database.log().partition(id)?.committed().reached(end, deadline).await {
            return Err(timeout(name, partition, end));
        }
        for target in targets.iter().filter(|target| target.stream.id == stream.id && target.used.as_of.is_none()) {
            target.visible_to(database, partition, end, deadline).await?;
        }
    }
    Ok(())
}

/// Tables that SQL writes are read with everything that is committed: what anybody was answered before the statement came is in it,
/// also after a restart. So are the documents that a transaction searches, which changes are computed from.
async fn see_committed(database: &Database, targets: &[Target], in_transaction: bool, deadline: Instant) -> Result<()> {
    let own = |target: &&Target| {
        let is_own = target.table.as_ref().is_some_and(|table| match table.def.source {
            Source::Own => true,
            Source::Documents { .. } => in_transaction,
            _ => false,
        });
        is_own && target.used.as_of.is_none()
    };
    let mut end = None;
    for target in targets.iter().filter(own) {
        let end = match end {
            Some(end) => end,
            None => *end.insert(database.log().partition(PartitionRef::new(StreamId::TABLES, 0))?.committed().get()),
        };
        target.visible_to(database, 0, end, deadline).await?;
    }
    Ok(())
}

/// For each partition the newest offset that all views of the statement show, after a little patience with the slower ones.
async fn align(database: &Database, targets: &[Target]) -> Result<Ends> {
    let now: Vec<&Target> = targets.iter().filter(|target| target.used.as_of.is_none()).collect();
    let patience = Instant::now() + PATIENCE;
    let mut ends = Ends::new();
    for target in &now {
        for partition in 0..target.stream.partitions {
            let group = || now.iter().filter(|other| other.stream.id == target.stream.id && !other.is_document());
            let mut newest = Offset::ZERO;
            for other in group().filter(|other| other.table.is_some()) {
                newest = newest.max(other.visible(database, partition)?);
            }
            for other in group() {
                // Not in time means: read at the slower one's offset.
                let _ = other.visible_to(database, partition, newest, patience).await;
            }
            let visible = target.visible(database, partition)?;
            ends.entry((target.stream.id, partition)).and_modify(|end| *end = visible.min(*end)).or_insert(visible);
        }
    }
    Ok(ends)
}

/// Lowers the ends to offsets that all document tables have, and gives their states there; fails with the partitions where
/// there is no such offset that is not below `wait`.
fn documents_at(targets: &[Target], ends: &mut Ends, wait: &Cut) -> Result<Documents, Ends> {
    let mut chosen = Documents::new();
    loop {
        let mut lowered = false;
        for target in targets.iter().filter(|target| target.used.as_of.is_none()) {
            let Some(table) = &target.table else { continue };
            for part in &table.generation.parts {
                let Store::Document(documents) = &part.store else { continue };
                let slot = (target.stream.id, part.partition);
                let Some(end) = ends.get_mut(&slot) else { continue };
                let least = wait.end(&target.stream.name, part.partition).unwrap_or_default();
                let held = documents.snapshot_at(*end).filter(|snapshot| snapshot.offset() >= least);
                let Some(snapshot) = held else { return Err([(slot, documents.snapshot().offset())].into()) };
                lowered |= snapshot.offset() < *end;
                *end = snapshot.offset();
                chosen.insert((table.def.id, part.partition), snapshot);
            }
        }
        if !lowered {
            return Ok(chosen);
        }
    }
}

/// Waits until everything read now shows some partitions up to `ends`, or up to where the log is, if that is further: views that
/// wait for the same offset show just that one.
async fn wait_all(database: &Database, targets: &[Target], ends: &Ends, deadline: Instant) -> Result<()> {
    for ((stream, partition), end) in ends {
        let log = database.log().partition(PartitionRef::new(StreamId::new(*stream), *partition))?;
        let end = log.committed().get().max(*end);
        let concerned = targets.iter().filter(|target| target.stream.id == *stream && target.used.as_of.is_none());
        let waits = concerned.map(|target| target.visible_to(database, *partition, end, deadline));
        futures::future::try_join_all(waits).await?;
    }
    Ok(())
}

/// The ends of a past read.
async fn past(database: &Database, target: &Target, as_of: &AsOf, deadline: Instant) -> Result<Ends> {
    let name = &target.used.name;
    if target.is_document() {
        return Err(Error::unsupported(format!("\"{name}\" is a document table: its past can't be read yet"))
            .hint("read a row table or a series of the same stream"));
    }
    let stream = &target.stream;
    let mut ends = Ends::new();
    for partition in 0..stream.partitions {
        let log = database.log().partition(PartitionRef::new(StreamId::new(stream.id), partition))?;
        let end = match as_of {
            AsOf::Offset(_) if stream.partitions > 1 => {
                let message =
                    format!("stream \"{}\" has {} partitions: one offset does not name a moment", stream.name, stream.partitions);
                return Err(Error::invalid(message).hint("use AS OF POSITION 'stream/0@offset,stream/1@offset'"));
            }
            AsOf::Offset(offset) => Offset::new(offset.saturating_add(1)),
            AsOf::Position(cut) => cut
                .end(&stream.name, partition)
                .ok_or_else(|| Error::invalid(format!("the position says nothing about {}/{partition}", stream.name)))?,
            AsOf::Timestamp(millis) => log.offset_at(TimestampMillis::new(millis.saturating_add(1)))?,
        };
        let committed = log.committed().get();
        if end > committed {
            let last = committed.before().map_or("it is empty".into(), |last| format!("its last record is {last}"));
            let message = format!("{}/{partition}@{} is not there yet: {last}", stream.name, end.value() - 1);
            return Err(Error::invalid(message).hint("use `wait` to read what is still to come"));
        }
        let end = if stream.id == StreamId::TABLES.value() { whole_transaction(&log, end).await? } else { end };
        target.visible_to(database, partition, end, deadline).await?;
        ends.insert((stream.id, partition), end);
    }
    Ok(ends)
}

/// The end of the transaction that the record before `end` belongs to: nobody ever saw half of one.
async fn whole_transaction(log: &Arc<Partition>, end: Offset) -> Result<Offset> {
    let Some(last) = end.before().filter(|last| *last >= log.log_start()) else { return Ok(end) };
    let log = Arc::clone(log);
    blocking(move || Ok(log.read(last, 1)?.first().map_or(end, |frame| frame.end_offset().max(end)))).await
}

fn provider(
    database: &Database,
    target: &Target,
    ends: &Ends,
    states: &Documents,
    score: bool,
    transaction: Option<&Arc<Transaction>>,
) -> Result<Arc<dyn TableProvider>> {
    let name = &target.used.name;
    let end = |partition: u32| ends.get(&(target.stream.id, partition)).copied().unwrap_or_default();
    let Some(TargetTable { def, generation, .. }) = &target.table else {
        let part = |partition| {
            let log = database.log().partition(PartitionRef::new(StreamId::new(target.stream.id), partition))?;
            Ok((log, end(partition)))
        };
        let parts = (0..target.stream.partitions).map(part).collect::<Result<Vec<_>>>()?;
        return Ok(Arc::new(SourceTable(StreamProvider::new(name, parts))));
    };
    // Rows are read with the columns that the catalog says now: the table may have been altered since its view was opened.
    let columns = match &def.kind {
        TableKind::Row(schema) => {
            crate::view::index_keys::prepare(database.session(), schema)?;
            Arc::new(schema.clone())
        }
        _ => Arc::default(),
    };
    let (mut rows, mut documents, mut series, mut layout) = (Vec::new(), Vec::new(), Vec::new(), None);
    let mut mapping = None;
    for part in &generation.parts {
        match &part.store {
            Store::Row(table) => rows.push((table.with_schema(Arc::clone(&columns)), end(part.partition))),
            Store::Document(table) => {
                let state = states.get(&(def.id, part.partition)).cloned();
                documents.push(state.ok_or_else(|| Error::internal("every document table has a state"))?);
                // Its own, which the catalog's may be ahead of for a moment.
                mapping = Some(table.mapping().clone());
            }
            Store::Series(table) => {
                layout = Some(table.arrow_schema());
                series.push((table.snapshot(), end(part.partition)));
            }
        }
    }
    Ok(match &def.kind {
        TableKind::Row(_) => {
            let catalog = database.catalog();
            let provider = RowProvider::new(name, columns, rows).known(catalog.statistics(def.id));
            let provider: Arc<dyn TableProvider> = Arc::new(SourceTable(match transaction {
                Some(transaction) if matches!(def.source, Source::Own) => provider.within(def.id, transaction),
                _ => provider,
            }));
            match catalog.search_side(def.id).map(|beside| &beside.kind) {
                Some(TableKind::Document(mapping)) => written::provider(name, provider, mapping)?,
                _ => provider,
            }
        }
        TableKind::Document(defined) => {
            let mapping = mapping.unwrap_or_else(|| defined.clone());
            Arc::new(SourceTable(DocumentProvider::new(name, mapping, documents, score)))
        }
        TableKind::Series(options) => {
            let layout = layout.ok_or_else(|| Error::internal("a series has at least one partition"))?;
            Arc::new(SourceTable(SeriesProvider::new(name, options.series.clone(), layout, series)))
        }
    })
}

/// The change feed of a table, up to the cut.
async fn changes(
    database: &Database,
    target: &Target,
    ends: &Ends,
    from: &ChangesFrom,
    transaction: Option<&Arc<Transaction>>,
) -> Result<Arc<dyn TableProvider>> {
    let name = &target.used.name;
    let Some(TargetTable { def, view, generation }) = &target.table else { return Err(feed::is_stream(name)) };
    if let Some(transaction) = transaction {
        transaction.has_read(Key::Table(def.id));
    }
    let end = |partition: u32| ends.get(&(target.stream.id, partition)).copied().unwrap_or_default();
    let parts = feed::parts(database, (def, view, generation), end).await?;
    Ok(Arc::new(SourceTable(ChangesProvider::new((name, feed::fed(def)?), &target.stream.name, parts, from)?)))
}

/// Whether SQL may write a table.
///
/// # Errors
/// Why not.
pub fn writable(table: &TableDef, stream: &str) -> Result<()> {
    match (&table.source, &table.kind) {
        (Source::Own, TableKind::Row(_)) => Ok(()),
        _ => Err(Error::new(
            sqlstate::WRONG_OBJECT_TYPE,
            logcore::ErrorKind::Invalid,
            format!("table \"{}\" is a view of stream \"{stream}\" and can't be written", table.name),
        )
        .hint(format!("append to the stream: POST /v1/streams/{stream}/records"))),
    }
}
