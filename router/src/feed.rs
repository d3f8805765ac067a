//! The change feed of a row table: what each record did to its rows, with the versions before and after, in log order.
//!
//! [`Database::changes`] gives a page of it, for `GET /v1/tables/{t}/changes`; [`crate::provider::changes`] is `CHANGES(t)` in
//! SQL. Both read the records from the log, put them through the table's own projection, and look the versions up in its view:
//! so it is the same for tables that SQL writes and for views of a stream, and keeps nothing of its own.
//!
//! # Invariants
//! - In one partition changes come in the order of their offsets, each once, up to what the table shows.
//! - Rows are read with the columns that the table has now, whatever they were when the change was made.
//! - Memory is bounded by one read of the log and one page, however long the feed is.
//!
//! # Not done
//! Several partitions in one page over HTTP: a page is of one. A feed of tables of other kinds.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::RecordBatch;
use logcore::frame::{Frame, FrameKind};
use logcore::materialize::Rejects;
use logcore::{Batch, ErrorKind, Offset, Partition, TimestampMillis};
use rowstore::feed::Versions;
use rowstore::{RowTable, TableSchema};

use crate::answer::{ReadFrom, ReadLimits};
use crate::append::blocking;
use crate::catalog::{CatalogState, TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::provider::changes::{batch_of, schema_of};
use crate::view::running::{Generation, Projections, Store, View};

/// Read from the log at once.
const READ_BYTES: usize = 1 << 20;
/// Records that a page looks at, at most: those of other tables are in the same partition.
const PAGE_RECORDS_MAX: u64 = 200_000;

/// One change of one row.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub offset: Offset,
    pub timestamp: TimestampMillis,
    pub versions: Versions,
}

impl Change {
    /// The word for it.
    pub fn kind(&self) -> &'static str {
        match (&self.versions.old, &self.versions.new) {
            (None, None) => "truncate",
            (None, Some(_)) => "insert",
            (Some(_), Some(_)) => "update",
            (Some(_), None) => "delete",
        }
    }

    pub fn bytes(&self) -> usize {
        let len = |row: &Option<Vec<u8>>| row.as_ref().map_or(0, Vec::len);
        len(&self.versions.old) + len(&self.versions.new) + 32
    }
}

/// One partition of a table's feed.
#[derive(Clone)]
pub(crate) struct FeedPart {
    pub partition: u32,
    pub log: Arc<Partition>,
    pub rows: RowTable,
    projections: Projections,
    /// The feed ends here, exclusive.
    pub end: Offset,
}

/// A table's changes, page by page.
#[derive(Clone, Debug)]
pub struct ChangesPage {
    /// The stream whose offsets these are.
    pub stream: String,
    /// Its partition.
    pub partition: u32,
    /// `partition`, `offset`, `timestamp`, `change`, then every column as `old_...`, then every column as `new_...`.
    pub rows: RecordBatch,
    /// Where the next page goes on.
    pub next_offset: u64,
    /// Exclusive: the committed end when it was read.
    pub end_offset: u64,
}

impl FeedPart {
    /// The first offset whose change can be told.
    pub fn start(&self) -> Offset {
        self.log.log_start().max(self.rows.kept_from())
    }

    /// Hands the changes of the records in `from..until` to `emit`, in order, until it breaks; gives where the next read goes on.
    ///
    /// # Errors
    /// What the log and the table's files say.
    pub fn each(&self, from: Offset, until: Offset, emit: &mut dyn FnMut(Change) -> ControlFlow<()>) -> Result<Offset> {
        let mut projection = self.projections.for_partition(self.partition);
        let (mut next, until) = (from, until.min(self.end));
        while next < until {
            let frames = self.log.read(next, READ_BYTES)?;
            let Some(end) = frames.last().map(Frame::end_offset) else { break };
            for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
                let batch = Batch::open(&frame.body)?;
                // What the projection leaves out the table has left out, too, and has said so.
                let mut rejects = Rejects::default();
                let changes = projection.project(&batch, next, &mut rejects);
                let changes = changes.map_err(|error| Error::internal(format!("reading changes: {error}")))?;
                let mut records = batch.records();
                for change in changes.iter().take_while(|change| change.offset < until) {
                    let record = records.find(|record| record.as_ref().map_or(true, |record| record.offset >= change.offset));
                    let timestamp = record.transpose()?.map_or(TimestampMillis::new(0), |record| record.timestamp);
                    // TRUNCATE is one change: it took every row there was.
                    let versions = match change.truncates {
                        true => Versions { old: None, new: None },
                        false => match self.rows.versions(change)? {
                            Some(versions) => versions,
                            None => continue,
                        },
                    };
                    if emit(Change { offset: change.offset, timestamp, versions }).is_break() {
                        return Ok(change.offset.advance(1));
                    }
                }
            }
            next = end.min(until);
        }
        Ok(next)
    }

    /// Whether the feed can begin at `from`.
    ///
    /// # Errors
    /// Why not, and where it can.
    pub fn check(&self, table: &str, stream: &str, from: Offset) -> Result<()> {
        let (start, end, partition) = (self.start(), self.log.committed().get(), self.partition);
        if from < start {
            let message = format!(
                "the changes of table \"{table}\" are kept from offset {start} of {stream}/{partition} on, not from {from}"
            );
            return Err(Error::invalid(message)
                .hint(format!("begin at {start}, with the rows as they were there if those are needed: FOR SYSTEM_TIME AS OF")));
        }
        if from > end {
            let message = format!("offset {from} is beyond the end of {stream}/{partition}, which is {end}");
            return Err(Error::invalid(message).hint(format!("begin at {end} or before; at {end} the next change is waited for")));
        }
        Ok(())
    }
}

/// The columns of a table that has a feed.
///
/// # Errors
/// When it has none.
pub(crate) fn fed(def: &TableDef) -> Result<&TableSchema> {
    match &def.kind {
        _ if def.is_hidden() => {
            let message = format!("table \"{}\" belongs to the database and has no change feed", def.name);
            Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message).hint("read its stream"))
        }
        TableKind::Row(schema) => Ok(schema),
        other => {
            let message = format!("\"{}\" is a {} table: only row tables have a change feed", def.name, other.name());
            Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message)
                .hint("read the records of its stream, or a row table of the same stream"))
        }
    }
}

/// A stream has records, not changes.
pub(crate) fn is_stream(name: &str) -> Error {
    let message = format!("\"{name}\" is a stream: its records are its changes");
    Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message)
        .hint(format!("SELECT * FROM {name}, or GET /v1/streams/{name}/tail"))
}

/// The partitions of a table's feed, each up to the end that `end` says.
///
/// # Errors
/// When the table has no feed, or its `AS SELECT` no longer plans.
pub(crate) async fn parts(
    database: &Database,
    (def, view, generation): (&Arc<TableDef>, &View, &Generation),
    end: impl Fn(u32) -> Offset,
) -> Result<Vec<FeedPart>> {
    let schema = Arc::new(fed(def)?.clone());
    let projections = database.views().projections(def, &schema, &view.stream).await?;
    let part = |part: &crate::view::running::Part| match &part.store {
        Store::Row(rows) => Some(FeedPart {
            partition: part.partition,
            log: Arc::clone(part.task.partition()),
            rows: rows.with_schema(Arc::clone(&schema)),
            projections: projections.clone(),
            end: end(part.partition),
        }),
        _ => None,
    };
    Ok(generation.parts.iter().filter_map(part).collect())
}

fn find(catalog: &CatalogState, name: &str) -> Result<Arc<TableDef>> {
    if catalog.find_table(name).is_none() && catalog.find_stream(name).is_some() {
        return Err(is_stream(name));
    }
    catalog.table(name).cloned()
}

impl Database {
    /// A page of a table's changes. Without `partition` it is that of a table that has one only. A page may be empty though
    /// there is more to come: the next goes on at its `next_offset`.
    ///
    /// # Errors
    /// Unknown tables and partitions, tables without a feed, offsets that are not kept or beyond the end.
    pub async fn changes(&self, table: &str, partition: Option<u32>, from: ReadFrom, limits: ReadLimits) -> Result<ChangesPage> {
        self.try_changes(table, partition, from, limits).await.map_err(|error| self.named(error))
    }

    async fn try_changes(&self, table: &str, partition: Option<u32>, from: ReadFrom, limits: ReadLimits) -> Result<ChangesPage> {
        let mut next = from;
        loop {
            let def = find(&self.catalog(), table)?;
            fed(&def)?;
            let view = self.views().get(&def)?;
            let at = one_partition(&view, table, partition)?;
            let page = self.page((&def, &view), at, next, limits).await?;
            let Some(wait_until) = limits.wait_until.filter(|_| page.rows.num_rows() == 0) else { return Ok(page) };
            next = ReadFrom::Offset(page.next_offset);
            match view.visible_to(at, Offset::new(page.next_offset).advance(1), wait_until).await {
                Ok(()) if Instant::now() < wait_until => {}
                Ok(()) | Err(logcore::Error::Timeout { .. }) => return Ok(page),
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn page(
        &self,
        (def, view): (&Arc<TableDef>, &Arc<View>),
        at: usize,
        from: ReadFrom,
        limits: ReadLimits,
    ) -> Result<ChangesPage> {
        let generation = view.serving();
        let ends: Vec<Offset> = generation.parts.iter().map(|part| part.task.visible()).collect();
        let end = |partition: u32| ends.get(partition as usize).copied().unwrap_or_default();
        let part = parts(self, (def, view, &generation), end).await?.swap_remove(at);
        let (table, stream) = (def.name.clone(), view.stream.name.clone());
        blocking(move || {
            // Its files stay as long as they are read.
            let _held = generation;
            let from = match from {
                ReadFrom::Offset(offset) => Offset::new(offset),
                ReadFrom::Timestamp(millis) => part.log.offset_at(TimestampMillis::new(millis))?.max(part.start()),
                ReadFrom::Earliest => part.start(),
                ReadFrom::Latest => part.end,
            };
            part.check(&table, &stream, from)?;
            let (mut changes, mut bytes) = (Vec::new(), 0);
            let until = from.advance(PAGE_RECORDS_MAX);
            let next = part.each(from, until, &mut |change| {
                bytes += change.bytes();
                changes.push(change);
                let full = changes.len() >= limits.records || bytes >= limits.bytes;
                if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            let columns = schema_of(part.rows.schema());
            let all: Vec<usize> = (0..columns.fields().len()).collect();
            let rows = batch_of(&part, &changes, &columns, &all)?;
            let end_offset = part.log.committed().get().value();
            Ok(ChangesPage { stream, partition: part.partition, rows, next_offset: next.value(), end_offset })
        })
        .await
    }
}

fn one_partition(view: &View, table: &str, partition: Option<u32>) -> Result<usize> {
    let has = view.stream.partitions;
    match partition {
        None if has == 1 => Ok(0),
        Some(partition) if partition < has => Ok(partition as usize),
        None => {
            let message = format!("the stream of table \"{table}\" has {has} partitions: a page of changes is of one of them");
            Err(Error::invalid(message).hint(format!("say partition=, from 0 to {}", has - 1)))
        }
        Some(partition) => {
            let message = format!("stream \"{}\" of table \"{table}\" has no partition {partition}", view.stream.name);
            Err(Error::new(sqlstate::UNDEFINED_TABLE, ErrorKind::NotFound, message).hint(format!("it has {has}, counted from 0")))
        }
    }
}
