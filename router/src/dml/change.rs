//! UPDATE and DELETE: the rows are those of a SELECT over the table and what FROM or USING adds.

use std::collections::HashSet;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::sql::sqlparser::ast::{Delete, Expr, FromTable, Ident, TableFactor, TableWithJoins, Update, UpdateTableFromKind};
use rowstore::{Column, Value};

use super::constraints::{Writer, refuse_null_key};
use super::insert::set;
use super::target::{Change, Target};
use super::{ROWS_BYTES_MAX, not_yet, select_from};
use crate::error::{Error, Result};
use crate::query::{self, Context};
use crate::sql::assign::assign;

/// The table that UPDATE or DELETE names, and what it is called in the statement.
///
/// # Errors
/// When it is not one table, named directly.
pub fn table_of(table: &TableWithJoins) -> Result<(&datafusion::sql::sqlparser::ast::ObjectName, Option<&Ident>)> {
    match (&table.relation, table.joins.is_empty()) {
        (TableFactor::Table { name, alias, args: None, version: None, .. }, true) => {
            Ok((name, alias.as_ref().map(|alias| &alias.name)))
        }
        _ => Err(Error::unsupported("UPDATE and DELETE change one table, named directly").hint("join others with FROM or USING")),
    }
}

/// The table that DELETE names.
///
/// # Errors
/// When it names several.
pub fn delete_table(delete: &Delete) -> Result<&TableWithJoins> {
    let (FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables)) = &delete.from;
    match &tables[..] {
        [only] if delete.tables.is_empty() => Ok(only),
        _ => Err(Error::unsupported("DELETE changes one table").hint("join others with USING")),
    }
}

/// The stored columns, qualified so that nothing else can be meant.
fn stored_columns(target: &Target, alias: Option<&Ident>) -> Vec<Expr> {
    let qualifier = alias.cloned().unwrap_or_else(|| Ident::with_quote('"', &target.def.name));
    let column = |name: &str| Expr::CompoundIdentifier(vec![qualifier.clone(), Ident::with_quote('"', name)]);
    target.schema.columns.iter().map(|stored| column(&stored.name)).collect()
}

/// A row of arrays that hold the table's columns in their order.
pub fn values_at(target: &Target, columns: &[ArrayRef], row: usize) -> Vec<Value> {
    let value = |(array, column): (&ArrayRef, &Column)| Value::from_array(array, row, &column.kind);
    columns.iter().zip(&target.schema.columns).map(value).collect()
}

/// Computes the changes of an UPDATE.
///
/// # Errors
/// What is wrong with it.
pub async fn updates(writer: &Writer, target: &Target, update: &Update, context: Context<'_>) -> Result<Vec<Change>> {
    if update.limit.is_some() || !update.order_by.is_empty() {
        return Err(not_yet("UPDATE with ORDER BY or LIMIT"));
    }
    let (_, alias) = table_of(&update.table)?;
    let stored = stored_columns(target, alias);
    let mut wanted: Vec<Option<Expr>> = vec![None; stored.len()];
    set(target, &update.assignments, &mut wanted)?;
    let columns = stored.len();
    let new = wanted.into_iter().zip(&stored).map(|(new, old)| new.unwrap_or_else(|| old.clone()));
    let items = stored.iter().cloned().chain(new).collect();
    let mut from = vec![update.table.clone()];
    if let Some(UpdateTableFromKind::BeforeSet(more) | UpdateTableFromKind::AfterSet(more)) = &update.from {
        from.extend(more.iter().cloned());
    }
    let batches = touched(writer, target, items, from, update.selection.clone(), context).await?;
    let (mut changes, mut seen) = (Vec::new(), HashSet::new());
    for batch in &batches {
        let new = batch.columns()[columns..].iter().enumerate();
        let new = new.map(|(at, array)| assign(array, &target.schema, at)).collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let old = target.row(values_at(target, &batch.columns()[..columns], row))?;
            // A row that FROM joins several times is changed once.
            if seen.insert(old.key.clone()) {
                let values = values_at(target, &new, row);
                refuse_null_key(target, &values)?;
                changes.push(Change { old: Some(old), new: Some(target.row(values)?) });
            }
        }
    }
    Ok(changes)
}

/// Computes the changes of a DELETE.
///
/// # Errors
/// What is wrong with it.
pub async fn deletes(writer: &Writer, target: &Target, delete: &Delete, context: Context<'_>) -> Result<Vec<Change>> {
    if delete.limit.is_some() || !delete.order_by.is_empty() {
        return Err(not_yet("DELETE with ORDER BY or LIMIT"));
    }
    let table = delete_table(delete)?;
    let (_, alias) = table_of(table)?;
    let mut from = vec![table.clone()];
    from.extend(delete.using.iter().flatten().cloned());
    let items = stored_columns(target, alias);
    let batches = touched(writer, target, items, from, delete.selection.clone(), context).await?;
    let (mut changes, mut seen) = (Vec::new(), HashSet::new());
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let old = target.row(values_at(target, batch.columns(), row))?;
            if seen.insert(old.key.clone()) {
                changes.push(Change { old: Some(old), new: None });
            }
        }
    }
    Ok(changes)
}

async fn touched(
    writer: &Writer,
    target: &Target,
    items: Vec<Expr>,
    from: Vec<TableWithJoins>,
    selection: Option<Expr>,
    context: Context<'_>,
) -> Result<Vec<RecordBatch>> {
    let statement = select_from(items, from, selection)?;
    let planned = query::plan(&writer.database, statement, context, Some(&target.def.name)).await?;
    planned.collect(&writer.database, context.deadline, ROWS_BYTES_MAX).await
}
