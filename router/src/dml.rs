//! INSERT, UPDATE and DELETE: ours from end to end, since DataFusion's hooks lose conditions.
//!
//! The rows a change touches are a SELECT at a cut. From them the mutations and the keys they touch are computed and proposed to
//! the owner of `_tables`; if somebody wrote one of the keys since the cut, the change is computed again. The answer comes when
//! the table's own view has applied it.
//!
//! # Invariants
//! - A statement is one batch: all of it or nothing of it is in the log.
//! - What is in the log was checked: types, NOT NULL, and the primary key against the state its keys are conditioned on.
//!
//! # Not done
//! RETURNING, ON CONFLICT DO UPDATE, FROM and USING, changes of more than a frame holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::sql::sqlparser::ast::{
    AssignmentTarget, Delete, Expr, FromTable, Ident, Insert, ObjectName, OnConflictAction, OnInsert, Select, SelectItem,
    SetExpr, Statement, TableFactor, TableObject, TableWithJoins, Update,
};
use logcore::partition::Conditions;
use logcore::{BatchBuilder, Compression, ErrorKind, NewRecord, Offset, Proposal, sys::clock};
use rowstore::key::encode_key;
use rowstore::mutation::record_key;
use rowstore::value::encode_row;
use rowstore::{RowTable, TableSchema, Value};
use tokio::sync::OwnedRwLockReadGuard;

use crate::answer::SqlAnswer;
use crate::append::finishing::Finishing;
use crate::catalog::{TableDef, TableKind};
use crate::cut::writable;
use crate::database::Database;
use crate::error::{Error, Result, nearest, sqlstate};
use crate::key_hash::key_hash;
use crate::position::Cut;
use crate::query::{self, Context};
use crate::sql::assign::assign;
use crate::sql::ddl::name_of;
use crate::sql::parse::{Statement as Parsed, parse};
use crate::sql::rewrite::resolve;
use crate::view::running::{Store, View};

/// Times a change is computed again when somebody else was faster.
const ATTEMPTS_MAX: usize = 32;
/// Rows that one statement may hold in memory.
const ROWS_BYTES_MAX: usize = 64 << 20;

/// The table that a statement writes.
struct Target {
    def: Arc<TableDef>,
    schema: TableSchema,
    view: Arc<View>,
}

/// One row to put or to remove.
struct Mutation {
    key: Vec<u8>,
    row: Option<Vec<u8>>,
}

/// A change computed from a state.
struct Change {
    mutations: Vec<Mutation>,
    affected: u64,
    snapshot: Offset,
}

/// Carries out a statement that changes rows; `None` if it is none.
///
/// # Errors
/// Everything that is wrong with the statement or stands against it.
pub async fn execute(database: &Database, statement: &Statement, context: Context<'_>) -> Option<Result<SqlAnswer>> {
    let name = match statement {
        Statement::Insert(insert) => match &insert.table {
            TableObject::TableName(name) => Ok(name),
            _ => Err(Error::unsupported("INSERT writes a table by its name")),
        },
        Statement::Update(update) => table_of(&update.table).map(|(name, _)| name),
        Statement::Delete(delete) => delete_table(delete).and_then(table_of).map(|(name, _)| name),
        _ => return None,
    };
    Some(match name {
        Ok(name) => Box::pin(run(database, name.clone(), statement, context)).await,
        Err(error) => Err(error),
    })
}

async fn run(database: &Database, name: ObjectName, statement: &Statement, context: Context<'_>) -> Result<SqlAnswer> {
    let mut target = self::target(database, &name)?;
    for _ in 0..ATTEMPTS_MAX {
        let change = match statement {
            Statement::Insert(insert) => Box::pin(insert_rows(database, &target, insert, context)).await,
            Statement::Update(update) => Box::pin(update_rows(database, &target, update, context)).await,
            Statement::Delete(delete) => Box::pin(delete_rows(database, &target, delete, context)).await,
            other => return Err(Error::internal(format!("not a change: {other}"))),
        };
        // A change, or an error, is right for the columns only that it was computed for: see `define::alter`.
        let Some(columns) = target.columns(database, context.deadline).await? else {
            target = self::target(database, &name)?;
            continue;
        };
        match propose(database, &target, change?, columns, context.deadline).await {
            Err(logcore::Error::Conflict { last_writer, .. }) => target.seen(last_writer.advance(1), context.deadline).await?,
            Err(logcore::Error::SnapshotTooOld { window_start, .. }) => target.seen(window_start, context.deadline).await?,
            other => return Ok(other?),
        }
    }
    Err(Error::new(sqlstate::SERIALIZATION_FAILURE, ErrorKind::Conflict, "other changes of the same rows were faster")
        .hint("run the statement again"))
}

fn target(database: &Database, name: &ObjectName) -> Result<Target> {
    let catalog = database.catalog();
    let written = resolve(name, &catalog).unwrap_or_else(|| name_of(name));
    let Some(def) = catalog.find_table(&written) else {
        return Err(match catalog.find_stream(&written) {
            Some(_) => Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, format!("\"{written}\" is a stream"))
                .hint(format!("append to it: POST /v1/streams/{written}/records")),
            None => Error::unknown("table", &written, catalog.tables().map(|def| def.name.as_str())),
        });
    };
    let view = database.views().get(def)?;
    writable(def, &view.stream.name)?;
    let TableKind::Row(schema) = &def.kind else { return Err(Error::internal("writable tables have rows")) };
    Ok(Target { def: Arc::clone(def), schema: schema.clone(), view })
}

impl Target {
    async fn seen(&self, end: Offset, deadline: Instant) -> Result<()> {
        Ok(self.view.visible_to(0, end, deadline).await?)
    }

    /// Keeps the columns as they are while this is held; `None` when they are others by now than the change was computed for.
    async fn columns(&self, database: &Database, deadline: Instant) -> Result<Option<OwnedRwLockReadGuard<()>>> {
        let locked = tokio::time::timeout_at(deadline.into(), self.view.columns().read_owned()).await;
        let held = locked.map_err(|_| {
            let message = format!("a change of the columns of table \"{}\" did not end in time", self.def.name);
            Error::new(sqlstate::QUERY_CANCELED, ErrorKind::Unavailable, message).hint("run the statement again")
        })?;
        let now = database.catalog().table_by_id(self.def.id).map(|def| def.kind == self.def.kind && def.name == self.def.name);
        Ok((now == Some(true)).then_some(held))
    }

    fn rows(&self) -> Result<RowTable> {
        match &self.view.serving().parts[0].store {
            Store::Row(rows) => Ok(rows.clone()),
            _ => Err(Error::internal("writable tables have rows")),
        }
    }

    fn column(&self, name: &str) -> Result<usize> {
        self.schema.column(name).ok_or_else(|| {
            let message = format!("column \"{name}\" of table \"{}\" does not exist", self.def.name);
            let error = Error::new(sqlstate::UNDEFINED_COLUMN, ErrorKind::Invalid, message);
            match nearest(name, self.schema.columns.iter().map(|column| column.name.as_str())) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error,
            }
        })
    }

    fn duplicate(&self, values: &[Value]) -> Error {
        let columns: Vec<&str> = self.schema.primary_key.iter().map(|at| self.schema.columns[*at].name.as_str()).collect();
        let shown: Vec<String> = self.schema.primary_key.iter().map(|at| show(&values[*at])).collect();
        let (columns, shown) = (columns.join(", "), shown.join(", "));
        let message = format!("duplicate key in table \"{}\": ({columns}) = ({shown}) already exists", self.def.name);
        Error::new(sqlstate::UNIQUE_VIOLATION, ErrorKind::Conflict, message)
            .hint("UPDATE the row, or INSERT ... ON CONFLICT DO NOTHING")
    }

    /// One row of columns that are laid out as the table's.
    fn row(&self, columns: &[ArrayRef], row: usize) -> Vec<Value> {
        let columns = columns.iter().zip(&self.schema.columns);
        columns.map(|(array, column)| Value::from_array(array, row, &column.kind)).collect()
    }

    /// A row with all checks made.
    fn check(&self, values: &[Value]) -> Result<()> {
        let null = (0..values.len()).find(|at| values[*at] == Value::Null && self.schema.refuses_null(*at));
        match null {
            None => Ok(()),
            Some(at) => {
                let message = format!("null value in column \"{}\" of table \"{}\"", self.schema.columns[at].name, self.def.name);
                Err(Error::new(sqlstate::NOT_NULL_VIOLATION, ErrorKind::Invalid, message).hint("give it a value"))
            }
        }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("'{text}'"),
        Value::Int(value) | Value::Timestamp(value) => value.to_string(),
        Value::Boolean(value) => value.to_string(),
        other => format!("{other:?}"),
    }
}

fn table_of(table: &TableWithJoins) -> Result<(&ObjectName, Option<&Ident>)> {
    match (&table.relation, table.joins.is_empty()) {
        (TableFactor::Table { name, alias, args: None, version: None, .. }, true) => {
            Ok((name, alias.as_ref().map(|alias| &alias.name)))
        }
        _ => Err(Error::unsupported("UPDATE and DELETE change one table, named directly")),
    }
}

fn delete_table(delete: &Delete) -> Result<&TableWithJoins> {
    let (FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables)) = &delete.from;
    match &tables[..] {
        [only] if delete.using.is_none() && delete.tables.is_empty() => Ok(only),
        _ => Err(Error::unsupported("DELETE with USING is not supported yet").hint("use a subquery in WHERE")),
    }
}

fn not_yet(what: &str) -> Error {
    Error::unsupported(format!("{what} is not supported yet"))
}

async fn insert_rows(database: &Database, target: &Target, insert: &Insert, context: Context<'_>) -> Result<Change> {
    if insert.returning.is_some() {
        return Err(not_yet("RETURNING"));
    }
    let skip_existing = match &insert.on {
        None => false,
        Some(OnInsert::OnConflict(conflict)) if matches!(conflict.action, OnConflictAction::DoNothing) => true,
        Some(_) => return Err(not_yet("ON CONFLICT DO UPDATE")),
    };
    let source = insert.source.clone().ok_or_else(|| not_yet("INSERT ... DEFAULT VALUES"))?;
    let columns: Vec<usize> = match &insert.columns[..] {
        [] => (0..target.schema.columns.len()).collect(),
        named => named.iter().map(|name| target.column(&name_of(name))).collect::<Result<_>>()?,
    };
    if let Some(twice) = columns.iter().enumerate().find(|(n, at)| columns[..*n].contains(at)) {
        return Err(Error::invalid(format!("column \"{}\" is named twice", target.schema.columns[*twice.1].name)));
    }
    let planned = query::plan(database, Statement::Query(source), context, Some(&target.def.name)).await?;
    let given = planned.schema().fields().len();
    let explicit = !insert.columns.is_empty();
    if given > columns.len() || (explicit && given < columns.len()) {
        return Err(Error::syntax(format!("INSERT names {} columns and gives {given} values", columns.len())));
    }
    let columns = &columns[..given];
    let snapshot = snapshot_of(planned.cut());
    let batches = planned.collect(database, context.deadline, ROWS_BYTES_MAX).await?;
    let defaults = defaults(database, target, columns, context).await?;
    let rows = target.rows()?;
    let (mut mutations, mut seen) = (Vec::new(), HashMap::new());
    for batch in &batches {
        let arrays = columns
            .iter()
            .zip(batch.columns())
            .map(|(at, array)| assign(array, &target.schema, *at))
            .collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let mut values = defaults.clone();
            for (at, array) in columns.iter().zip(&arrays) {
                values[*at] = Value::from_array(array, row, &target.schema.columns[*at].kind);
            }
            target.check(&values)?;
            let key = encode_key(&values, &target.schema)?;
            let exists = seen.insert(key.clone(), ()).is_some() || rows.get(&key, snapshot)?.is_some();
            match (exists, skip_existing) {
                (false, _) => mutations.push(Mutation { key, row: Some(encode_row(&values, &target.schema)) }),
                (true, true) => {}
                (true, false) => return Err(target.duplicate(&values)),
            }
        }
    }
    Ok(Change { affected: mutations.len() as u64, mutations, snapshot })
}

/// The values of columns that an INSERT does not give.
async fn defaults(database: &Database, target: &Target, given: &[usize], context: Context<'_>) -> Result<Vec<Value>> {
    let mut values = vec![Value::Null; target.schema.columns.len()];
    for (at, column) in target.schema.columns.iter().enumerate() {
        let Some(default) = column.default.as_ref().filter(|_| !given.contains(&at)) else { continue };
        values[at] = evaluate(database, default, &target.schema, at, context).await?;
    }
    Ok(values)
}

/// The value of a default's expression for a column.
///
/// # Errors
/// When it does not evaluate or does not fit the column.
pub async fn evaluate(
    database: &Database,
    default: &str,
    schema: &TableSchema,
    at: usize,
    context: Context<'_>,
) -> Result<Value> {
    let Some(Parsed::Sql(statement)) = parse(&format!("SELECT {default}"), 1)?.pop() else {
        return Err(Error::syntax(format!("DEFAULT {default} is not an expression")));
    };
    let planned = query::plan(database, *statement, Context { params: &[], ..context }, None).await?;
    let batches = planned.collect(database, context.deadline, ROWS_BYTES_MAX).await?;
    let batch = batches.first().ok_or_else(|| Error::internal("a SELECT without FROM has one row"))?;
    Ok(Value::from_array(&assign(batch.column(0), schema, at)?, 0, &schema.columns[at].kind))
}

fn snapshot_of(cut: &Cut) -> Offset {
    cut.end("_tables", 0).unwrap_or_default()
}

/// `SELECT items FROM table WHERE selection`.
fn rows_of(table: &TableWithJoins, selection: Option<&Expr>, items: Vec<SelectItem>) -> Result<Statement> {
    let Some(Parsed::Sql(statement)) = parse("SELECT 1", 1)?.pop() else { return Err(Error::internal("SELECT 1 parses")) };
    let Statement::Query(mut query) = *statement else { return Err(Error::internal("SELECT 1 is a query")) };
    let SetExpr::Select(select) = &mut *query.body else { return Err(Error::internal("SELECT 1 is a select")) };
    let select: &mut Select = select;
    select.projection = items;
    select.from = vec![table.clone()];
    select.selection = selection.cloned();
    Ok(Statement::Query(query))
}

fn item(expr: Expr, n: usize) -> SelectItem {
    SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', format!("c{n}")) }
}

/// The stored columns, qualified so that nothing else can be meant.
fn stored_columns(target: &Target, qualifier: &Ident) -> Vec<Expr> {
    let column = |name: &str| Expr::CompoundIdentifier(vec![qualifier.clone(), Ident::with_quote('"', name)]);
    target.schema.columns.iter().map(|stored| column(&stored.name)).collect()
}

fn qualifier(target: &Target, alias: Option<&Ident>) -> Ident {
    alias.cloned().unwrap_or_else(|| Ident::with_quote('"', &target.def.name))
}

async fn update_rows(database: &Database, target: &Target, update: &Update, context: Context<'_>) -> Result<Change> {
    if update.returning.is_some() || update.from.is_some() || update.limit.is_some() || !update.order_by.is_empty() {
        return Err(not_yet("UPDATE with FROM, RETURNING, ORDER BY or LIMIT"));
    }
    let (_, alias) = table_of(&update.table)?;
    let stored = stored_columns(target, &qualifier(target, alias));
    let mut wanted: Vec<Option<Expr>> = vec![None; stored.len()];
    for assignment in &update.assignments {
        let AssignmentTarget::ColumnName(name) = &assignment.target else { return Err(not_yet("SET (a, b) = ...")) };
        let at = target.column(&name_of(name))?;
        if wanted[at].replace(assignment.value.clone()).is_some() {
            return Err(Error::invalid(format!("column \"{}\" is set twice", target.schema.columns[at].name)));
        }
    }
    let columns = stored.len();
    let exprs =
        stored.iter().cloned().chain(wanted.into_iter().zip(&stored).map(|(new, old)| new.unwrap_or_else(|| old.clone())));
    let items = exprs.enumerate().map(|(n, expr)| item(expr, n)).collect();
    let statement = rows_of(&update.table, update.selection.as_ref(), items)?;
    let (batches, snapshot) = touched(database, target, statement, context).await?;
    let rows = target.rows()?;
    let (mut removed, mut put) = (HashMap::new(), HashMap::new());
    let mut affected = 0;
    for batch in &batches {
        let old = &batch.columns()[..columns];
        let new = batch.columns()[columns..].iter().enumerate();
        let new = new.map(|(at, array)| assign(array, &target.schema, at)).collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let old = target.row(old, row);
            let new = target.row(&new, row);
            target.check(&new)?;
            removed.insert(encode_key(&old, &target.schema)?, ());
            if put.insert(encode_key(&new, &target.schema)?, encode_row(&new, &target.schema)).is_some() {
                return Err(target.duplicate(&new));
            }
            affected += 1;
        }
    }
    for (key, row) in &put {
        if !removed.contains_key(key) && rows.get(key, snapshot)?.is_some() {
            return Err(target.duplicate(&rowstore::value::decode_row(row, &target.schema)?));
        }
    }
    let gone = removed.into_keys().filter(|key| !put.contains_key(key)).map(|key| Mutation { key, row: None });
    let mut mutations: Vec<Mutation> = gone.collect();
    mutations.extend(put.into_iter().map(|(key, row)| Mutation { key, row: Some(row) }));
    mutations.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(Change { mutations, affected, snapshot })
}

async fn delete_rows(database: &Database, target: &Target, delete: &Delete, context: Context<'_>) -> Result<Change> {
    if delete.returning.is_some() || delete.limit.is_some() || !delete.order_by.is_empty() {
        return Err(not_yet("DELETE with RETURNING, ORDER BY or LIMIT"));
    }
    let table = delete_table(delete)?;
    let (_, alias) = table_of(table)?;
    let items =
        stored_columns(target, &qualifier(target, alias)).into_iter().enumerate().map(|(n, expr)| item(expr, n)).collect();
    let (batches, snapshot) = touched(database, target, rows_of(table, delete.selection.as_ref(), items)?, context).await?;
    let mut mutations = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let values = target.row(batch.columns(), row);
            mutations.push(Mutation { key: encode_key(&values, &target.schema)?, row: None });
        }
    }
    Ok(Change { affected: mutations.len() as u64, mutations, snapshot })
}

async fn touched(
    database: &Database,
    target: &Target,
    statement: Statement,
    context: Context<'_>,
) -> Result<(Vec<RecordBatch>, Offset)> {
    let planned = query::plan(database, statement, context, Some(&target.def.name)).await?;
    let snapshot = snapshot_of(planned.cut());
    Ok((planned.collect(database, context.deadline, ROWS_BYTES_MAX).await?, snapshot))
}

/// Puts a change into the log as one batch, and waits until the table shows it.
async fn propose(
    database: &Database,
    target: &Target,
    change: Change,
    columns: OwnedRwLockReadGuard<()>,
    deadline: Instant,
) -> Result<SqlAnswer, logcore::Error> {
    if change.mutations.is_empty() {
        return Ok(SqlAnswer::Written { affected: change.affected, position: None });
    }
    let mut batch = BatchBuilder::new();
    let timestamp = clock::now();
    let mut writes = Vec::with_capacity(change.mutations.len());
    for mutation in &change.mutations {
        let key = record_key(target.def.id, &mutation.key);
        batch.push(&NewRecord { key: Some(&key), value: mutation.row.as_deref(), headers: &[], timestamp });
        writes.push(key_hash(&key));
    }
    let conditions = Conditions { snapshot: change.snapshot, reads: Vec::new(), writes };
    let proposal = Proposal::from_records(batch, Compression::None)?.when(conditions);
    let partition = Arc::clone(target.view.serving().parts[0].task.partition());
    let appended = Finishing::new(database.runtime().clone(), async move {
        let appended = partition.append(proposal, deadline).await?.committed().await;
        drop(columns);
        appended
    })
    .await?;
    let mut position = Cut::new();
    position.raise(&target.view.stream.name, 0, appended.end_offset());
    // Committed is committed: a view that is slow to show it does not undo the write, and the position says what to wait for.
    if let Err(error) = target.view.visible_to(0, appended.end_offset(), deadline).await {
        tracing::warn!(table = target.def.name, %error, "a write is durable but its table does not show it yet");
    }
    Ok(SqlAnswer::Written { affected: change.affected, position: Some(position) })
}
