//! Reads of a few rows by the primary key or by an index, recognised before the planner and answered by the row store.
//!
//! `SELECT columns FROM table WHERE column = value [AND ...]`, with exactly the primary key's columns, or the first columns of an
//! index, compared to constants or parameters of their own type. Anything else, however close, goes to DataFusion; so does an index
//! that leads to many rows. EXPLAIN shows which way is taken.
//!
//! Called by [`crate::database`] for every query.

use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::common::DataFusionError;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Query, Select, SelectItem, SetExpr, Statement, TableFactor};
use futures::TryStreamExt;
use rowstore::key::after_prefix;
use rowstore::value::{build_column, decode_row};
use rowstore::{RowTable, TableSchema, Value};

use crate::answer::{Rows, SqlAnswer};
use crate::append::lookup;
use crate::by_key::{entries_of, ident_name, key_of};
use crate::catalog::{TableDef, TableKind};
use crate::cut;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::position::Cut;
use crate::query::Context;
use crate::sql::rewrite::{TableUse, Uses, resolve};
use crate::txn::Key;
use crate::view::running::{Part, Store};

/// Rows that are read by an index without the planner.
const ROWS_MAX: usize = 1_000;

/// A read of few rows, recognised.
struct PointRead {
    table: Arc<TableDef>,
    columns: Vec<usize>,
    by: By,
}

/// How its rows are found.
enum By {
    /// The encoded primary key.
    Key(Vec<u8>),
    /// An index, and what its entries begin with.
    Entries(u32, Vec<u8>),
}

/// Answers `statement` if it is a point read.
///
/// # Errors
/// As any query, once it is one.
pub async fn execute(database: &Database, statement: &Statement, context: Context<'_>) -> Option<Result<SqlAnswer>> {
    let Statement::Query(query) = statement else { return None };
    let read = recognise(query, database, context.params)?;
    // Rows that the transaction has put over the table are in no index.
    let is_written = context.transaction.is_some_and(|transaction| transaction.view(read.table.id).is_some());
    if is_written && matches!(read.by, By::Entries(..)) {
        return None;
    }
    run(database, read, context).await.transpose()
}

/// Answers EXPLAIN of a statement that [`execute`] would answer.
///
/// # Errors
/// As the statement, where it is run to be explained.
pub async fn explain(database: &Database, statement: &Statement, context: Context<'_>) -> Option<Result<SqlAnswer>> {
    let Statement::Explain { analyze, verbose: false, statement, format: None, options: None, .. } = statement else {
        return None;
    };
    let Statement::Query(query) = &**statement else { return None };
    let read = recognise(query, database, context.params)?;
    let TableKind::Row(schema) = &read.table.kind else { return None };
    let name = |at: &usize| schema.columns[*at].name.as_str();
    let by = match &read.by {
        By::Key(_) => format!("primary key ({})", schema.primary_key.iter().map(name).collect::<Vec<_>>().join(", ")),
        By::Entries(id, _) => format!("index {}", schema.indexes.iter().find(|index| index.id == *id)?.name),
    };
    let columns = read.columns.iter().map(name).collect::<Vec<_>>().join(", ");
    let mut text = format!("DirectRead: {}, columns=[{columns}], {by}", read.table.name);
    if *analyze {
        let began = Instant::now();
        let answer = match execute(database, &Statement::Query(query.clone()), context).await? {
            Ok(SqlAnswer::Rows(answer)) => answer,
            other => return Some(other),
        };
        let batches: Vec<RecordBatch> = match answer.stream.try_collect().await {
            Ok(batches) => batches,
            Err(error) => return Some(Err(error.into())),
        };
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        text = format!("{text}, metrics=[output_rows={rows}, elapsed={:?}]", began.elapsed());
    }
    Some(explained(&text))
}

/// As the planner's EXPLAIN answers.
fn explained(text: &str) -> Result<SqlAnswer> {
    let column = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("plan_type", column("direct")), ("plan", column(text))]);
    let batch = batch.map_err(DataFusionError::from)?;
    let schema = batch.schema();
    let stream = RecordBatchStreamAdapter::new(Arc::clone(&schema), futures::stream::iter([Ok(batch)]));
    Ok(SqlAnswer::Rows(Rows { schema, stream: Box::pin(stream), cut: Cut::new(), written: None }))
}

async fn run(database: &Database, read: PointRead, context: Context<'_>) -> Result<Option<SqlAnswer>> {
    let TableKind::Row(schema) = &read.table.kind else { return Err(Error::internal("a point read is of a row table")) };
    let name = &read.table.name;
    let uses =
        Uses { tables: vec![TableUse { internal: name.clone(), name: name.clone(), ..TableUse::default() }], ..Uses::default() };
    let chosen = cut::choose(database, &uses, context).await?;
    let generation = Arc::clone(&chosen.generations[0]);
    let stream = &database.views().get(&read.table)?.stream.name;
    let mut parts: Vec<(RowTable, logcore::Offset)> = Vec::with_capacity(generation.parts.len());
    for part in &generation.parts {
        if let Store::Row(rows) = &part.store {
            parts.push((rows.clone(), chosen.cut.end(stream, part.partition).unwrap_or_default()));
        }
    }
    // What a transaction has written lies over the table.
    let own = context.transaction.and_then(|transaction| {
        transaction.pin(&chosen.cut);
        let By::Key(key) = &read.by else {
            transaction.has_read(Key::Table(read.table.id));
            return None;
        };
        transaction.has_read(Key::Row(read.table.id, key));
        transaction.view(read.table.id)?.get(key).cloned()
    });
    let by = read.by;
    let found = lookup(move || {
        let _held = generation;
        match own {
            Some(own) => Ok(Some(own.into_iter().collect())),
            None => rows_by(&parts, &by),
        }
    });
    let Some(found) = found.await? else { return Ok(None) };
    let rows = found.iter().map(|row| decode_row(row, schema)).collect::<Result<Vec<Vec<Value>>, _>>()?;
    let columns = read.columns.iter().map(|at| build_column(&schema.columns[*at].kind, rows.iter().map(|row| &row[*at])));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let shape = Arc::new(schema.arrow().project(&read.columns).map_err(DataFusionError::from)?);
    let batch = RecordBatch::try_new(Arc::clone(&shape), columns).map_err(DataFusionError::from)?;
    let stream = RecordBatchStreamAdapter::new(Arc::clone(&shape), futures::stream::iter([Ok(batch)]));
    Ok(Some(SqlAnswer::Rows(Rows { schema: shape, stream: Box::pin(stream), cut: chosen.cut, written: None })))
}

/// The encoded rows; `None` when there are many, or the index is not built yet.
fn rows_by(parts: &[(RowTable, logcore::Offset)], by: &By) -> Result<Option<Vec<Vec<u8>>>> {
    let mut found = Vec::new();
    for (rows, cut) in parts {
        let (index, prefix) = match by {
            By::Key(key) => {
                found.extend(rows.get(key, *cut)?);
                continue;
            }
            By::Entries(index, prefix) => (index, prefix),
        };
        if rows.index(*index).is_none() {
            return Ok(None);
        }
        for entry in rows.entries(prefix, after_prefix(prefix).as_deref(), *cut) {
            if found.len() == ROWS_MAX {
                return Ok(None);
            }
            found.extend(rows.get(&entry?.1, *cut)?);
        }
    }
    Ok(Some(found))
}

fn recognise(query: &Query, database: &Database, params: &[serde_json::Value]) -> Option<PointRead> {
    let Query { with: None, body, order_by: None, limit_clause: None, fetch: None, locks, for_clause: None, .. } = query else {
        return None;
    };
    let SetExpr::Select(select) = &**body else { return None };
    if !locks.is_empty() || !is_plain(select) {
        return None;
    }
    let [from] = &select.from[..] else { return None };
    let TableFactor::Table { name, alias: None, args: None, version: None, sample: None, .. } = &from.relation else {
        return None;
    };
    if !from.joins.is_empty() {
        return None;
    }
    let catalog = database.catalog();
    let table = Arc::clone(catalog.find_table(&resolve(name, &catalog)?)?);
    let TableKind::Row(schema) = &table.kind else { return None };
    let columns = columns(&select.projection, schema)?;
    let selection = select.selection.as_ref()?;
    let by = match key_of(selection, schema, params, None) {
        Some(key) => By::Key(key),
        None => {
            let (index, prefix) = entries_of(selection, schema, params)?;
            let has_it = |part: &Part| matches!(&part.store, Store::Row(rows) if rows.index(index.id).is_some());
            if !database.views().get(&table).ok()?.serving().parts.iter().all(has_it) {
                return None;
            }
            By::Entries(index.id, prefix)
        }
    };
    Some(PointRead { table, columns, by })
}

fn is_plain(select: &Select) -> bool {
    let Select { distinct, top, into, lateral_views, prewhere, group_by, having, named_window, qualify, connect_by, .. } = select;
    distinct.is_none()
        && top.is_none()
        && into.is_none()
        && lateral_views.is_empty()
        && prewhere.is_none()
        && matches!(group_by, GroupByExpr::Expressions(exprs, modifiers) if exprs.is_empty() && modifiers.is_empty())
        && having.is_none()
        && named_window.is_empty()
        && qualify.is_none()
        && connect_by.is_empty()
}

/// Columns of the select list by position; `None` unless each is a plain column once, or all are asked for.
fn columns(items: &[SelectItem], schema: &TableSchema) -> Option<Vec<usize>> {
    if let [SelectItem::Wildcard(options)] = items {
        return (options == &Default::default()).then(|| (0..schema.columns.len()).collect());
    }
    let mut columns = Vec::with_capacity(items.len());
    for item in items {
        let SelectItem::UnnamedExpr(Expr::Identifier(ident)) = item else { return None };
        let at = schema.column(&ident_name(ident))?;
        if columns.contains(&at) {
            return None;
        }
        columns.push(at);
    }
    Some(columns)
}
