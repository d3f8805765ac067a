//! INSERT: values or a query, defaults, ON CONFLICT.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, ConflictTarget, DoUpdate, Expr, Ident, Insert, OnConflict, OnConflictAction,
    OnInsert, SetExpr, Statement,
};
use logcore::ErrorKind;
use rowstore::schema::Identity;
use rowstore::{Column, Index, Value};

use super::change::values_at;
use super::constraints::{Writer, batch_of};
use super::defaults::{defaults, effective_default};
use super::target::{Change, Row, Target};
use super::{ROWS_BYTES_MAX, direct, factor, not_yet, select_from};
use crate::append::blocking;
use crate::error::{Error, Result, sqlstate};
use crate::query::{self, Context};
use crate::sql::assign::assign;
use crate::sql::ddl::name_of;
use crate::sql::sequences::{Overriding, overriding_of};

/// The column that numbers the rows of an ON CONFLICT DO UPDATE.
const NUMBER: &str = "headwater_n";

/// Computes the changes of an INSERT.
///
/// # Errors
/// What is wrong with it.
pub async fn changes(writer: &Writer, target: &Arc<Target>, insert: &Insert, context: Context<'_>) -> Result<Vec<Change>> {
    let rows = given_rows(writer, target, insert, context).await?;
    let Some(on) = &insert.on else {
        return Ok(rows.into_iter().map(|row| Change { old: None, new: Some(row) }).collect());
    };
    let OnInsert::OnConflict(conflict) = on else { return Err(not_yet("ON DUPLICATE KEY")) };
    let arbiter = arbiter(target, conflict)?;
    let (writer_too, target_too) = (writer.clone(), Arc::clone(target));
    let (fresh, conflicts) = blocking(move || split(&writer_too, &target_too, &arbiter, rows)).await?;
    let mut changes: Vec<Change> = fresh.into_iter().map(|row| Change { old: None, new: Some(row) }).collect();
    if let OnConflictAction::DoUpdate(update) = &conflict.action {
        let mut keys: HashSet<&[u8]> = changes.iter().filter_map(|change| Some(&change.new.as_ref()?.key[..])).collect();
        for (existing, _) in &conflicts {
            if !keys.insert(&existing.key) {
                let message = "ON CONFLICT DO UPDATE can't change a row a second time in one statement";
                return Err(Error::new(sqlstate::CARDINALITY_VIOLATION, ErrorKind::Invalid, message)
                    .hint("let no two of the inserted rows have the same key"));
            }
        }
        changes.extend(updates(writer, target, insert, update, conflicts, context).await?);
    }
    Ok(changes)
}

/// The rows that the statement gives, with defaults.
async fn given_rows(writer: &Writer, target: &Arc<Target>, insert: &Insert, context: Context<'_>) -> Result<Vec<Row>> {
    let database = &writer.database;
    let columns: Vec<usize> = match &insert.columns[..] {
        [] => (0..target.schema.columns.len()).collect(),
        named => named.iter().map(|name| target.column(&name_of(name))).collect::<Result<_>>()?,
    };
    if let Some(twice) = columns.iter().enumerate().find(|(n, at)| columns[..*n].contains(at)) {
        return Err(Error::invalid(format!("column \"{}\" is named twice", target.schema.columns[*twice.1].name)));
    }
    if let Some(rows) = direct::rows(writer, target, insert, &columns, context).await? {
        return Ok(rows);
    }
    let Some(mut source) = insert.source.clone() else {
        let values = defaults(database, &target.schema, &[], 1, context).await?.row(0);
        super::constraints::refuse_null_key(target, &values)?;
        return Ok(vec![target.row(values)?]);
    };
    let overriding = overriding_of(insert);
    if let SetExpr::Values(values) = &mut *source.body {
        for row in &mut values.rows {
            for (n, expr) in row.content.iter_mut().enumerate() {
                let Some(column) = columns.get(n).map(|at| &target.schema.columns[*at]) else { continue };
                if is_default(expr) || (column.identity.is_some() && overriding == Some(Overriding::User)) {
                    *expr = effective_default(column)?;
                } else {
                    refuse_identity(column, overriding)?;
                }
            }
        }
    }
    let is_values = matches!(&*source.body, SetExpr::Values(_));
    let planned = query::plan(database, Statement::Query(source), context, Some(&target.def.name)).await?;
    let given = planned.schema().fields().len();
    let explicit = !insert.columns.is_empty();
    if given > columns.len() || (explicit && given < columns.len()) {
        return Err(Error::syntax(format!("INSERT names {} columns and gives {given} values", columns.len())));
    }
    let mut columns: Vec<(usize, usize)> = columns[..given].iter().copied().enumerate().collect();
    if !is_values {
        for (_, at) in &columns {
            if overriding != Some(Overriding::User) {
                refuse_identity(&target.schema.columns[*at], overriding)?;
            }
        }
        columns.retain(|(_, at)| target.schema.columns[*at].identity.is_none() || overriding != Some(Overriding::User));
    }
    let batches = planned.collect(database, context.deadline, ROWS_BYTES_MAX).await?;
    let count = batches.iter().map(RecordBatch::num_rows).sum();
    let named: Vec<usize> = columns.iter().map(|(_, at)| *at).collect();
    let defaults = defaults(database, &target.schema, &named, count, context).await?;
    let mut rows = Vec::with_capacity(count);
    for batch in &batches {
        let arrays = columns.iter().map(|(n, at)| assign(batch.column(*n), &target.schema, *at)).collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let mut values = defaults.row(rows.len());
            for (at, array) in named.iter().zip(&arrays) {
                values[*at] = Value::from_array(array, row, &target.schema.columns[*at].kind);
            }
            // A NULL in the key is refused like one in any column that must not be NULL.
            super::constraints::refuse_null_key(target, &values)?;
            rows.push(target.row(values)?);
        }
    }
    Ok(rows)
}

/// A value for a column that is GENERATED ALWAYS is refused, unless the statement insists.
///
/// # Errors
/// Naming the column.
pub fn refuse_identity(column: &Column, overriding: Option<Overriding>) -> Result<()> {
    if column.identity != Some(Identity::Always) || overriding == Some(Overriding::System) {
        return Ok(());
    }
    let message = format!("cannot insert a non-DEFAULT value into column \"{}\", which is GENERATED ALWAYS", column.name);
    Err(Error::new(sqlstate::GENERATED_ALWAYS, ErrorKind::Invalid, message).hint("use OVERRIDING SYSTEM VALUE to override"))
}

/// Whether an expression is the word DEFAULT.
pub fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(Ident { value, quote_style: None, .. }) if value.eq_ignore_ascii_case("default"))
}

/// What decides whether an inserted row is in conflict.
#[derive(Clone)]
struct Arbiter {
    primary: bool,
    indexes: Vec<Index>,
}

fn arbiter(target: &Target, conflict: &OnConflict) -> Result<Arbiter> {
    let schema = &target.schema;
    let unique = || schema.indexes.iter().filter(|index| index.unique).cloned();
    let none_fits = || {
        let message = format!("there is no unique constraint on table \"{}\" that fits ON CONFLICT", target.def.name);
        Error::new(sqlstate::INVALID_COLUMN_REFERENCE, ErrorKind::Invalid, message)
            .hint("name the columns of the primary key or of a unique index")
    };
    match &conflict.conflict_target {
        None if matches!(conflict.action, OnConflictAction::DoNothing) => {
            Ok(Arbiter { primary: true, indexes: unique().collect() })
        }
        None => Err(Error::syntax("ON CONFLICT DO UPDATE needs the columns of a unique constraint")
            .hint("write ON CONFLICT (id) DO UPDATE SET ...")),
        Some(ConflictTarget::Columns(columns)) => {
            let names: Vec<String> = columns.iter().map(|column| name_of(&column.clone().into())).collect();
            let at = names.iter().map(|name| target.column(name)).collect::<Result<Vec<_>>>()?;
            if at.len() == schema.primary_key.len() && schema.primary_key.iter().all(|key| at.contains(key)) {
                return Ok(Arbiter { primary: true, indexes: Vec::new() });
            }
            let fits = |index: &Index| {
                index.is_plain() && index.columns.len() == names.len() && index.columns.iter().all(|c| names.contains(&c.name))
            };
            let index = unique().find(fits).ok_or_else(none_fits)?;
            Ok(Arbiter { primary: false, indexes: vec![index] })
        }
        Some(ConflictTarget::OnConstraint(name)) => {
            let name = name_of(name);
            if name == format!("{}_pkey", target.def.name) {
                return Ok(Arbiter { primary: true, indexes: Vec::new() });
            }
            let index = unique().find(|index| index.name == name).ok_or_else(none_fits)?;
            Ok(Arbiter { primary: false, indexes: vec![index] })
        }
    }
}

/// Rows that conflict with none, and those that do with what is there. Of given rows that conflict with each other the first
/// goes in, the others conflict with it.
type Split = (Vec<Row>, Vec<(Row, Row)>);

fn split(writer: &Writer, target: &Target, arbiter: &Arbiter, given: Vec<Row>) -> Result<Split> {
    let rows = target.rows(&writer.transaction)?;
    let mut taken: std::collections::HashMap<Vec<u8>, usize> = std::collections::HashMap::new();
    let (mut fresh, mut conflicts): Split = Default::default();
    for row in given {
        let mut keys = Vec::new();
        let mut existing = None;
        if arbiter.primary {
            existing = rows.get(&row.key)?;
            writer.transaction.has_read(crate::txn::Key::Row(target.def.id, &row.key));
            keys.push([b"p", &row.key[..]].concat());
        }
        for index in &arbiter.indexes {
            let Some(prefix) = index.unique_prefix(&row.values, &target.schema)? else { continue };
            if existing.is_none() {
                existing = rows.find(index, &prefix, 1)?.pop();
            }
            keys.push([b"u", &prefix[..]].concat());
        }
        let earlier = keys.iter().find_map(|key| taken.get(key)).map(|at: &usize| Row::clone(&fresh[*at]));
        match existing.or(earlier) {
            Some(existing) => conflicts.push((existing, row)),
            None => {
                taken.extend(keys.into_iter().map(|key| (key, fresh.len())));
                fresh.push(row);
            }
        }
    }
    Ok((fresh, conflicts))
}

/// The changes of DO UPDATE: the row that is there as the table, the one that was to be inserted as `excluded`.
async fn updates(
    writer: &Writer,
    target: &Arc<Target>,
    insert: &Insert,
    update: &DoUpdate,
    conflicts: Vec<(Row, Row)>,
    context: Context<'_>,
) -> Result<Vec<Change>> {
    let alias = insert.table_alias.as_ref().map_or_else(|| Ident::with_quote('"', &target.def.name), |alias| alias.alias.clone());
    let mut wanted: Vec<Option<Expr>> = vec![None; target.schema.columns.len()];
    set(target, &update.assignments, &mut wanted)?;
    let own = |at: usize| Expr::CompoundIdentifier(vec![alias.clone(), Ident::with_quote('"', &target.schema.columns[at].name)]);
    let items = wanted.into_iter().enumerate().map(|(at, expr)| expr.unwrap_or_else(|| own(at)));
    let number = Expr::CompoundIdentifier(vec![Ident::new("excluded"), Ident::new(NUMBER)]);
    let (existing, excluded): (Vec<Row>, Vec<Row>) = conflicts.into_iter().unzip();
    let same = Expr::BinaryOp {
        left: Box::new(Expr::CompoundIdentifier(vec![alias.clone(), Ident::new(NUMBER)])),
        op: BinaryOperator::Eq,
        right: Box::new(number.clone()),
    };
    let selection = match &update.selection {
        None => same,
        Some(also) => Expr::BinaryOp {
            left: Box::new(same),
            op: BinaryOperator::And,
            right: Box::new(Expr::Nested(Box::new(also.clone()))),
        },
    };
    let from = vec![factor(&alias, None), factor(&Ident::new("excluded"), None)];
    let statement = select_from(items.chain([number]).collect(), from, Some(selection))?;
    let name = name_of(&alias.clone().into());
    let tables = [(name, numbered(target, &existing)?), ("excluded".to_owned(), numbered(target, &excluded)?)];
    let batches = query::over(&writer.database, statement, tables.into(), context, ROWS_BYTES_MAX).await?.1;
    let columns = target.schema.columns.len();
    let mut changes = Vec::new();
    for batch in &batches {
        let arrays = batch.columns()[..columns].iter().enumerate();
        let arrays = arrays.map(|(at, array)| assign(array, &target.schema, at)).collect::<Result<Vec<ArrayRef>>>()?;
        for row in 0..batch.num_rows() {
            let values = values_at(target, &arrays, row);
            super::constraints::refuse_null_key(target, &values)?;
            let numbers = batch.column(columns).as_any().downcast_ref::<Int64Array>();
            let number = numbers.map(|numbers| numbers.value(row)).ok_or_else(|| Error::internal("rows are numbered"))?;
            let old = existing[usize::try_from(number).map_err(|_| Error::internal("rows are counted"))?].clone();
            changes.push(Change { old: Some(old), new: Some(target.row(values)?) });
        }
    }
    Ok(changes)
}

/// Takes assignments in.
///
/// # Errors
/// Unknown columns, and those that are set twice.
pub fn set(target: &Target, assignments: &[Assignment], wanted: &mut [Option<Expr>]) -> Result<()> {
    let mut one = |name: &datafusion::sql::sqlparser::ast::ObjectName, value: Expr| -> Result<()> {
        let at = target.column(&name_of(name))?;
        let column = &target.schema.columns[at];
        let value = match is_default(&value) {
            true => effective_default(column)?,
            false if column.identity == Some(Identity::Always) => {
                let message = format!("column \"{}\" can only be updated to DEFAULT: it is GENERATED ALWAYS", column.name);
                return Err(Error::new(sqlstate::GENERATED_ALWAYS, ErrorKind::Invalid, message));
            }
            false => value,
        };
        match wanted[at].replace(value) {
            None => Ok(()),
            Some(_) => Err(Error::invalid(format!("column \"{}\" is set twice", target.schema.columns[at].name))),
        }
    };
    for assignment in assignments {
        match (&assignment.target, &assignment.value) {
            (AssignmentTarget::ColumnName(name), value) => one(name, value.clone())?,
            (AssignmentTarget::Tuple(names), Expr::Tuple(values)) if names.len() == values.len() => {
                for (name, value) in names.iter().zip(values) {
                    one(name, value.clone())?;
                }
            }
            (AssignmentTarget::Tuple(_), _) => return Err(not_yet("SET (a, b) = (SELECT ...)")),
        }
    }
    Ok(())
}

fn numbered(target: &Target, rows: &[Row]) -> Result<Arc<dyn TableProvider>> {
    let batch = batch_of(&target.schema, &rows.iter().collect::<Vec<_>>())?;
    let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(NUMBER, DataType::Int64, false)));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new((0_i64..).take(rows.len()).collect::<Int64Array>()));
    let shape = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&shape), columns).map_err(datafusion::common::DataFusionError::from)?;
    Ok(Arc::new(MemTable::try_new(shape, vec![vec![batch]])?))
}
