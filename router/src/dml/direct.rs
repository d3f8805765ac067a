//! Changes of single rows without the planner: `INSERT ... VALUES` of constants, UPDATE and DELETE of the row under a primary key.
//!
//! Only what is sure to come out as the planner would have it is done here; everything else, wrong statements among it, is left to
//! [`super::insert`] and [`super::change`].

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{AssignmentTarget, Delete, Expr, Insert, SetExpr, Update};
use rowstore::Value;

use super::change::{delete_table, table_of};
use super::constraints::Writer;
use super::insert::is_default;
use super::target::{Change, Row, Target};
use crate::append::lookup;
use crate::by_key::{Comparison, assigned, computed, key_of};
use crate::cut;
use crate::error::Result;
use crate::query::Context;
use crate::sql::ddl::name_of;
use crate::sql::rewrite::{TableUse, Uses};
use crate::sql::sequences::overriding_of;
use crate::txn::Key;

/// Fixes where the transaction reads, as planning a statement over the table would.
///
/// # Errors
/// When the table can't be read.
pub(super) async fn pin(writer: &Writer, target: &Target, context: Context<'_>) -> Result<()> {
    let name = target.def.name.clone();
    let uses = Uses { tables: vec![TableUse { internal: name.clone(), name, ..TableUse::default() }], ..Uses::default() };
    let chosen = cut::choose(&writer.database, &uses, context).await?;
    writer.transaction.pin(&chosen.cut);
    Ok(())
}

/// The rows of an INSERT of constants.
///
/// # Errors
/// When the tables can't be read.
pub async fn rows(
    writer: &Writer,
    target: &Target,
    insert: &Insert,
    columns: &[usize],
    context: Context<'_>,
) -> Result<Option<Vec<Row>>> {
    let Some(rows) = constant_rows(target, insert, columns, context) else { return Ok(None) };
    pin(writer, target, context).await?;
    Ok(Some(rows))
}

fn constant_rows(target: &Target, insert: &Insert, columns: &[usize], context: Context<'_>) -> Option<Vec<Row>> {
    let source = insert.source.as_ref()?;
    let SetExpr::Values(values) = &*source.body else { return None };
    if source.with.is_some() || source.order_by.is_some() || source.limit_clause.is_some() || source.fetch.is_some() {
        return None;
    }
    let schema = &target.schema;
    if overriding_of(insert).is_some() || columns.iter().any(|at| schema.columns[*at].identity.is_some()) {
        return None;
    }
    // A default is an expression, which may be another value for each row.
    let default = |at: usize| schema.columns[at].default.is_none().then_some(Value::Null);
    let row = |given: &[Expr]| {
        if given.len() != columns.len() {
            return None;
        }
        let mut row: Vec<Option<Value>> = vec![None; schema.columns.len()];
        for (expr, at) in given.iter().zip(columns) {
            row[*at] = Some(match is_default(expr) {
                true => default(*at)?,
                false => assigned(expr, &schema.columns[*at].kind, context.params)?,
            });
        }
        let values = row.into_iter().enumerate().map(|(at, value)| value.or_else(|| default(at)));
        let values = values.collect::<Option<Vec<Value>>>()?;
        let has_key = schema.primary_key.iter().all(|at| values[*at] != Value::Null);
        if has_key { target.row(values).ok() } else { None }
    };
    values.rows.iter().map(|given| row(&given.content)).collect()
}

/// The row under a primary key, if it is there and the other conditions hold.
async fn row_under(
    writer: &Writer,
    target: &Arc<Target>,
    key: Vec<u8>,
    conditions: &[Comparison],
    context: Context<'_>,
) -> Result<Option<Row>> {
    pin(writer, target, context).await?;
    writer.transaction.has_read(Key::Row(target.def.id, &key));
    let (transaction, target) = (Arc::clone(&writer.transaction), Arc::clone(target));
    let row = lookup(move || target.rows(&transaction)?.get(&key)).await?;
    Ok(row.filter(|row| conditions.iter().all(|condition| condition.holds(&row.values))))
}

/// The change of an UPDATE of the row under a primary key; `None` when the statement is another one.
///
/// # Errors
/// When the table can't be read.
pub async fn update(writer: &Writer, target: &Arc<Target>, update: &Update, context: Context<'_>) -> Result<Option<Vec<Change>>> {
    let plain = update.from.is_none() && update.limit.is_none() && update.order_by.is_empty();
    let (Some(selection), (_, None), true) = (&update.selection, table_of(&update.table)?, plain) else { return Ok(None) };
    let mut conditions = Vec::new();
    let Some(key) = key_of(selection, &target.schema, context.params, Some(&mut conditions)) else { return Ok(None) };
    let Some(sets) = sets(target, update) else { return Ok(None) };
    // What is wrong with an expression is wrong without a row as well.
    let nulls = vec![Value::Null; target.schema.columns.len()];
    if sets.iter().any(|(at, expr)| computed(expr, *at, &target.schema, &nulls, context.params).is_none()) {
        return Ok(None);
    }
    let Some(old) = row_under(writer, target, key, &conditions, context).await? else { return Ok(Some(Vec::new())) };
    let mut values = old.values.clone();
    for (at, expr) in sets {
        let Some(value) = computed(expr, at, &target.schema, &old.values, context.params) else { return Ok(None) };
        values[at] = value;
    }
    if target.schema.primary_key.iter().any(|at| values[*at] == Value::Null) {
        return Ok(None);
    }
    Ok(Some(vec![Change { new: Some(target.row(values)?), old: Some(old) }]))
}

/// Columns and what they are set to; `None` unless each is named once.
fn sets<'u>(target: &Target, update: &'u Update) -> Option<Vec<(usize, &'u Expr)>> {
    let mut sets: Vec<(usize, &Expr)> = Vec::with_capacity(update.assignments.len());
    for assignment in &update.assignments {
        let AssignmentTarget::ColumnName(name) = &assignment.target else { return None };
        let at = target.schema.column(&name_of(name))?;
        let is_identity = target.schema.columns[at].identity.is_some();
        if is_identity || is_default(&assignment.value) || sets.iter().any(|(other, _)| *other == at) {
            return None;
        }
        sets.push((at, &assignment.value));
    }
    Some(sets)
}

/// The change of a DELETE of the row under a primary key; `None` when the statement is another one.
///
/// # Errors
/// When the table can't be read.
pub async fn delete(writer: &Writer, target: &Arc<Target>, delete: &Delete, context: Context<'_>) -> Result<Option<Vec<Change>>> {
    let plain = delete.using.is_none() && delete.limit.is_none() && delete.order_by.is_empty();
    let (Some(selection), (_, None), true) = (&delete.selection, table_of(delete_table(delete)?)?, plain) else {
        return Ok(None);
    };
    let mut conditions = Vec::new();
    let Some(key) = key_of(selection, &target.schema, context.params, Some(&mut conditions)) else { return Ok(None) };
    let old = row_under(writer, target, key, &conditions, context).await?;
    Ok(Some(old.map(|old| Change { old: Some(old), new: None }).into_iter().collect()))
}
