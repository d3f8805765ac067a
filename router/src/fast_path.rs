//! Point reads by primary key, recognised before the planner and answered by the row store.
//!
//! `SELECT columns FROM table WHERE key = value [AND ...]`, with exactly the primary key's columns compared to constants or
//! parameters of their own type. Anything else, however close, goes to DataFusion; so does EXPLAIN, which shows that plan.
//!
//! Called by [`crate::database`] for every query.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Query, Select, SelectItem, SetExpr, Statement, TableFactor};
use rowstore::value::{build_column, decode_row};
use rowstore::{RowTable, TableSchema, Value};

use crate::answer::{Rows, SqlAnswer};
use crate::append::blocking;
use crate::by_key::{ident_name, key_of};
use crate::catalog::{CatalogState, TableDef, TableKind};
use crate::cut;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::query::Context;
use crate::sql::rewrite::{TableUse, Uses, resolve};
use crate::txn::Key;
use crate::view::running::Store;

/// A point read, recognised.
struct PointRead {
    table: Arc<TableDef>,
    columns: Vec<usize>,
    key: Vec<u8>,
}

/// Answers `statement` if it is a point read.
///
/// # Errors
/// As any query, once it is one.
pub async fn execute(database: &Database, statement: &Statement, context: Context<'_>) -> Option<Result<SqlAnswer>> {
    let Statement::Query(query) = statement else { return None };
    let read = recognise(query, &database.catalog(), context.params)?;
    Some(run(database, read, context).await)
}

async fn run(database: &Database, read: PointRead, context: Context<'_>) -> Result<SqlAnswer> {
    let TableKind::Row(schema) = &read.table.kind else { return Err(Error::internal("a point read is of a row table")) };
    let name = &read.table.name;
    let uses =
        Uses { tables: vec![TableUse { internal: name.clone(), name: name.clone(), ..TableUse::default() }], score: false };
    let chosen = cut::choose(database, &uses, context).await?;
    let generation = Arc::clone(&chosen.generations[0]);
    let stream = &database.views().get(&read.table)?.stream.name;
    let mut parts: Vec<(RowTable, logcore::Offset)> = Vec::with_capacity(generation.parts.len());
    for part in &generation.parts {
        if let Store::Row(rows) = &part.store {
            parts.push((rows.clone(), chosen.cut.end(stream, part.partition).unwrap_or_default()));
        }
    }
    let key = read.key;
    // What a transaction has written lies over the table.
    let own = context.transaction.and_then(|transaction| {
        transaction.pin(&chosen.cut);
        transaction.has_read(Key::Row(read.table.id, &key));
        transaction.view(read.table.id)?.get(&key).cloned()
    });
    let found = blocking(move || {
        let _held = generation;
        if let Some(own) = own {
            return Ok(own.into_iter().collect());
        }
        parts
            .iter()
            .filter_map(|(rows, cut)| rows.get(&key, *cut).transpose())
            .collect::<Result<Vec<_>, _>>()
            .map_err(Error::from)
    })
    .await?;
    let rows = found.iter().map(|row| decode_row(row, schema)).collect::<Result<Vec<Vec<Value>>, _>>()?;
    let columns = read.columns.iter().map(|at| build_column(&schema.columns[*at].kind, rows.iter().map(|row| &row[*at])));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let shape = Arc::new(schema.arrow().project(&read.columns).map_err(DataFusionError::from)?);
    let batch = RecordBatch::try_new(Arc::clone(&shape), columns).map_err(DataFusionError::from)?;
    let stream = RecordBatchStreamAdapter::new(Arc::clone(&shape), futures::stream::iter([Ok(batch)]));
    Ok(SqlAnswer::Rows(Rows { schema: shape, stream: Box::pin(stream), cut: chosen.cut, written: None }))
}

fn recognise(query: &Query, catalog: &CatalogState, params: &[serde_json::Value]) -> Option<PointRead> {
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
    let table = Arc::clone(catalog.find_table(&resolve(name, catalog)?)?);
    let TableKind::Row(schema) = &table.kind else { return None };
    let columns = columns(&select.projection, schema)?;
    let key = key_of(select.selection.as_ref()?, schema, params, None)?;
    Some(PointRead { table, columns, key })
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
