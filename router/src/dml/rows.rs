//! Rows that are there already, inserted as they are: what COPY FROM does with each batch of a file.

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::sql::sqlparser::ast::ObjectName;
use rowstore::{TableSchema, Value};

use super::constraints::{Writer, refuse_null_key};
use super::defaults::defaults;
use super::direct::pin;
use super::target::{Change, Row, Target};
use super::{Refused, commit};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::lines::{Attempts, Lost};
use crate::position::Cut;
use crate::query::Context;
use crate::txn::{Isolation, Transaction};

/// The columns of a table that SQL may write: those named, or all.
///
/// # Errors
/// Unknown names, those that are named twice, tables that can't be written.
pub fn target_columns(database: &Database, table: &ObjectName, names: &[String]) -> Result<(Arc<TableSchema>, Vec<usize>)> {
    let target = Target::find(database, &database.catalog(), table)?;
    let columns: Vec<usize> = match names {
        [] => (0..target.schema.columns.len()).collect(),
        named => named.iter().map(|name| target.column(name)).collect::<Result<_>>()?,
    };
    if let Some((_, twice)) = columns.iter().enumerate().find(|(n, at)| columns[..*n].contains(at)) {
        let message = format!("column \"{}\" is named twice", target.schema.columns[*twice].name);
        return Err(Error::new(sqlstate::DUPLICATE_COLUMN, logcore::ErrorKind::Invalid, message));
    }
    Ok((target.schema, columns))
}

/// Inserts rows, whose `columns` have the values of `arrays`, as one atomic batch or into the transaction there is.
///
/// # Errors
/// As an INSERT.
pub async fn insert_arrays(
    database: &Database,
    table: &ObjectName,
    columns: &[usize],
    arrays: &[ArrayRef],
    rows: usize,
    context: Context<'_>,
) -> Result<Option<Cut>> {
    if let Some(transaction) = context.transaction {
        return take(database, table, (columns, arrays, rows), transaction, context).await.map(|()| None);
    }
    let mut attempts = Attempts::default();
    loop {
        let gate = database.gate().read().await;
        let transaction = Arc::new(Transaction::new(Isolation::Snapshot));
        let within = Context { transaction: Some(&transaction), ..context };
        take(database, table, (columns, arrays, rows), &transaction, within).await?;
        match commit(database, &transaction, context.deadline).await {
            Err(Refused::Lost(lost)) => {
                drop(gate);
                attempts.again(database, lost, context.deadline).await?;
            }
            Err(Refused::Error(error)) => return Err(error),
            Ok(position) => return Ok(position),
        }
    }
}

async fn take(
    database: &Database,
    table: &ObjectName,
    (columns, arrays, rows): (&[usize], &[ArrayRef], usize),
    transaction: &Arc<Transaction>,
    context: Context<'_>,
) -> Result<()> {
    let catalog = database.catalog();
    let target = Arc::new(Target::find(database, &catalog, table)?);
    let (transaction, deadline) = (Arc::clone(transaction), context.deadline);
    let writer = Writer { database: database.clone(), catalog, transaction, deadline };
    pin(&writer, &target, context).await?;
    let defaults = defaults(database, &target.schema, columns, rows, context).await?;
    let mut changes = Vec::with_capacity(rows);
    for row in 0..rows {
        let mut values: Vec<Value> = defaults.row(row);
        for (at, array) in columns.iter().zip(arrays) {
            let kind = &target.schema.columns.get(*at).ok_or_else(|| Lost::error("the table was altered meanwhile"))?.kind;
            values[*at] = Value::from_array(array.as_ref(), row, kind);
        }
        refuse_null_key(&target, &values)?;
        let row: Row = target.row(values)?;
        changes.push(Change { old: None, new: Some(row) });
    }
    writer.apply(target, changes).await
}
