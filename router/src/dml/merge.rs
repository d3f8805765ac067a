//! MERGE: each WHEN clause is a SELECT over the join, of the rows that no clause before it took.
//!
//! All of them read the same snapshot, so together they see each pair of rows once.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, Merge, MergeAction, MergeClauseKind, MergeInsertExpr, MergeInsertKind, ObjectName, SetExpr,
    Statement, TableFactor, visit_expressions,
};
use logcore::ErrorKind;
use rowstore::Value;

use super::change::values_at;
use super::constraints::{Writer, refuse_null_key};
use super::defaults::{defaults, effective_default};
use super::insert::{is_default, refuse_identity, set};
use super::target::{Change, Target};
use super::{ROWS_BYTES_MAX, select_from};
use crate::error::{Error, Result, sqlstate};
use crate::query::{self, Context};
use crate::sql::assign::assign;
use crate::sql::ddl::name_of;
use crate::sql::merge::is_nothing;
use crate::sql::parse::{Statement as Parsed, parse};

/// The table that MERGE changes, and what it is called in the statement.
///
/// # Errors
/// When it is not a table, named directly.
pub fn table_of(merge: &Merge) -> Result<(&ObjectName, Option<&Ident>)> {
    match &merge.table {
        TableFactor::Table { name, alias, args: None, version: None, .. } => Ok((name, alias.as_ref().map(|alias| &alias.name))),
        _ => Err(Error::unsupported("MERGE changes one table, named directly")),
    }
}

/// Computes the changes of a MERGE.
///
/// # Errors
/// What is wrong with it, and a row of the table that two rows of the source would change.
pub async fn changes(writer: &Writer, target: &Target, merge: &Merge, context: Context<'_>) -> Result<Vec<Change>> {
    refuse_unreachable(merge)?;
    let alias = table_of(merge)?.1.cloned().unwrap_or_else(|| Ident::with_quote('"', &target.def.name));
    let own = |at: usize| Expr::CompoundIdentifier(vec![alias.clone(), Ident::with_quote('"', &target.schema.columns[at].name)]);
    let key = target.schema.primary_key.first().ok_or_else(|| Error::internal("a table that is written has a key"))?;
    let (mut changes, mut seen) = (Vec::new(), HashSet::new());
    // What the clauses before have left over, of either kind.
    let mut left: [Vec<Expr>; 2] = Default::default();
    for clause in &merge.clauses {
        let matched = match clause.clause_kind {
            MergeClauseKind::Matched => true,
            MergeClauseKind::NotMatched => false,
            other => return Err(Error::syntax(format!("WHEN {other} is not PostgreSQL's"))),
        };
        let before = &mut left[usize::from(matched)];
        let mut conditions = before.clone();
        // One without a condition is the last of its kind.
        if let Some(predicate) = &clause.predicate {
            conditions.push(predicate.clone());
            before.push(Expr::IsNotTrue(Box::new(Expr::Nested(Box::new(predicate.clone())))));
        }
        if !matched {
            conditions.push(Expr::IsNull(Box::new(own(*key))));
        }
        if is_nothing(&clause.action) {
            continue;
        }
        let rows = Rows { writer, target, merge, matched, conditions, context };
        match &clause.action {
            MergeAction::Insert(insert) => {
                let exprs = clause.predicate.iter().chain(inserted(insert)?);
                refuse_target(exprs, &alias)?;
                changes.extend(inserts(&rows, insert).await?);
            }
            MergeAction::Update(update) if update.update_predicate.is_none() && update.delete_predicate.is_none() => {
                let mut wanted: Vec<Option<Expr>> = vec![None; target.schema.columns.len()];
                set(target, &update.assignments, &mut wanted)?;
                let new = wanted.into_iter().enumerate().map(|(at, expr)| expr.unwrap_or_else(|| own(at)));
                let items = (0..target.schema.columns.len()).map(own).chain(new).collect();
                touched(&rows, items, &mut seen, &mut changes).await?;
            }
            MergeAction::Delete { .. } => {
                let items = (0..target.schema.columns.len()).map(own).collect();
                touched(&rows, items, &mut seen, &mut changes).await?;
            }
            MergeAction::Update(_) => return Err(Error::syntax("the condition of an UPDATE stands in WHEN MATCHED AND ...")),
        }
    }
    Ok(changes)
}

/// What is wrong with a MERGE before anything of it is done.
fn refuse_unreachable(merge: &Merge) -> Result<()> {
    if merge.output.is_some() {
        return Err(Error::syntax("MERGE has no RETURNING"));
    }
    for (n, clause) in merge.clauses.iter().enumerate() {
        let before = merge.clauses[..n].iter();
        if before.filter(|before| before.clause_kind == clause.clause_kind).any(|before| before.predicate.is_none()) {
            return Err(Error::syntax("unreachable WHEN clause specified after unconditional WHEN clause"));
        }
    }
    Ok(())
}

/// The rows of a clause.
struct Rows<'a> {
    writer: &'a Writer,
    target: &'a Target,
    merge: &'a Merge,
    matched: bool,
    conditions: Vec<Expr>,
    context: Context<'a>,
}

impl Rows<'_> {
    /// `items` of each pair of rows, or of each row of the source that has no pair.
    async fn select(&self, items: Vec<Expr>) -> Result<Vec<RecordBatch>> {
        let kind = if self.matched { "JOIN" } else { "LEFT JOIN" };
        let Some(Parsed::Sql(template)) = parse(&format!("SELECT 1 FROM a {kind} b ON true"), 1)?.pop() else {
            return Err(Error::internal("a join parses"));
        };
        let Statement::Query(query) = *template else { return Err(Error::internal("a join parses")) };
        let SetExpr::Select(select) = *query.body else { return Err(Error::internal("a join parses")) };
        let mut from = select.from;
        let join = from.first_mut().ok_or_else(|| Error::internal("a join has two sides"))?;
        join.relation = self.merge.source.clone();
        if let Some(other) = join.joins.first_mut() {
            use datafusion::sql::sqlparser::ast::{JoinConstraint, JoinOperator};
            other.relation = self.merge.table.clone();
            match &mut other.join_operator {
                JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => {
                    *on = JoinConstraint::On((*self.merge.on).clone());
                }
                _ => return Err(Error::internal("a join is of the kind that was written")),
            }
        }
        let nested = self.conditions.iter().map(|condition| Expr::Nested(Box::new(condition.clone())));
        let selection =
            nested.reduce(|left, right| Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) });
        let statement = select_from(items, from, selection)?;
        let planned = query::plan(&self.writer.database, statement, self.context, Some(&self.target.def.name)).await?;
        planned.collect(&self.writer.database, self.context.deadline, ROWS_BYTES_MAX).await
    }
}

/// The changes of an UPDATE, whose new values stand behind the old ones, or of a DELETE.
async fn touched(rows: &Rows<'_>, items: Vec<Expr>, seen: &mut HashSet<Vec<u8>>, changes: &mut Vec<Change>) -> Result<()> {
    let target = rows.target;
    let columns = target.schema.columns.len();
    let updates = items.len() > columns;
    for batch in &rows.select(items).await? {
        let new = batch.columns()[columns..].iter().enumerate();
        let new = new.map(|(at, array)| assign(array, &target.schema, at)).collect::<Result<Vec<ArrayRef>>>()?;
        for row in 0..batch.num_rows() {
            let old = target.row(values_at(target, &batch.columns()[..columns], row))?;
            if !seen.insert(old.key.clone()) {
                let message = format!("MERGE can't change a row of table \"{}\" a second time", target.def.name);
                return Err(Error::new(sqlstate::CARDINALITY_VIOLATION, ErrorKind::Invalid, message)
                    .hint("let no more than one row of the source match any row of the table"));
            }
            let new = match updates {
                true => {
                    let values = values_at(target, &new, row);
                    refuse_null_key(target, &values)?;
                    Some(target.row(values)?)
                }
                false => None,
            };
            changes.push(Change { old: Some(old), new });
        }
    }
    Ok(())
}

/// The values of an INSERT clause.
fn inserted(insert: &MergeInsertExpr) -> Result<&[Expr]> {
    match &insert.kind {
        MergeInsertKind::Values(values) if insert.insert_predicate.is_none() => match &values.rows[..] {
            [row] => Ok(&row.content),
            _ => Err(Error::syntax("the INSERT of a MERGE has one row of VALUES")),
        },
        _ => Err(Error::syntax("the INSERT of a MERGE is INSERT (columns) VALUES (...)")),
    }
}

async fn inserts(rows: &Rows<'_>, insert: &MergeInsertExpr) -> Result<Vec<Change>> {
    let target = rows.target;
    let given = inserted(insert)?;
    let columns: Vec<usize> = match &insert.columns[..] {
        [] => (0..target.schema.columns.len()).collect(),
        named => named.iter().map(|name| target.column(&name_of(name))).collect::<Result<_>>()?,
    };
    if given.len() > columns.len() || (!insert.columns.is_empty() && given.len() < columns.len()) {
        return Err(Error::syntax(format!("INSERT names {} columns and gives {} values", columns.len(), given.len())));
    }
    if let Some((_, twice)) = columns.iter().enumerate().find(|(n, at)| columns[..*n].contains(at)) {
        let message = format!("column \"{}\" is named twice", target.schema.columns[*twice].name);
        return Err(Error::new(sqlstate::DUPLICATE_COLUMN, ErrorKind::Invalid, message));
    }
    // What is DEFAULT is left to the defaults, which know of each row.
    let mut named = Vec::new();
    let mut items = Vec::new();
    for (at, expr) in columns.into_iter().zip(given) {
        if !is_default(expr) {
            refuse_identity(&target.schema.columns[at], None)?;
            named.push(at);
            items.push(expr.clone());
        }
    }
    if items.is_empty() {
        // A SELECT has at least one column.
        items.push(effective_default(&rowstore::Column::new("none", rowstore::ColumnType::Text))?);
    }
    let batches = rows.select(items).await?;
    let count = batches.iter().map(RecordBatch::num_rows).sum();
    let defaults = defaults(&rows.writer.database, &target.schema, &named, count, rows.context).await?;
    let mut changes = Vec::with_capacity(count);
    for batch in &batches {
        let arrays = named.iter().zip(batch.columns()).map(|(at, array)| assign(array, &target.schema, *at));
        let arrays = arrays.collect::<Result<Vec<ArrayRef>>>()?;
        for row in 0..batch.num_rows() {
            let mut values: Vec<Value> = defaults.row(changes.len());
            for (at, array) in named.iter().zip(&arrays) {
                values[*at] = Value::from_array(array, row, &target.schema.columns[*at].kind);
            }
            refuse_null_key(target, &values)?;
            changes.push(Change { old: None, new: Some(target.row(values)?) });
        }
    }
    Ok(changes)
}

/// Where nothing matched there is no row of the table to speak of.
fn refuse_target<'a>(exprs: impl Iterator<Item = &'a Expr>, alias: &Ident) -> Result<()> {
    let name = name_of(&ObjectName::from(alias.clone()));
    for expr in exprs {
        let found = visit_expressions(expr, |expr| match expr {
            Expr::CompoundIdentifier(parts) if parts.len() > 1 && name_of(&ObjectName::from(parts[0].clone())) == name => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        if found.is_break() {
            let message = format!("a row of \"{name}\" can't be used in WHEN NOT MATCHED: there is none");
            return Err(Error::new(sqlstate::UNDEFINED_TABLE, ErrorKind::Invalid, message));
        }
    }
    Ok(())
}
