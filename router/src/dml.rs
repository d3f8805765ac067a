//! INSERT, UPDATE, DELETE and MERGE: ours from end to end, since DataFusion's hooks lose conditions.
//!
//! The rows a change touches are a SELECT at the transaction's snapshot, over its own rows. From them the changes are computed
//! ([`insert`], [`change`], [`merge`]), judged and taken into the transaction ([`constraints`]). A statement outside a transaction is one by
//! itself: its batch is proposed to the owner of `_tables` at once, and if somebody wrote one of its keys since the snapshot, it is
//! computed again. The answer comes when the tables' own views have applied it.
//!
//! # Invariants
//! - A statement, or a transaction, is one batch: all of it or nothing of it is in the log.
//! - What is in the log was checked, against a state its keys are conditioned on.
//!
//! # Not done
//! Changes of more than a frame holds.

mod change;
mod constraints;
mod defaults;
mod direct;
mod documents;
mod insert;
mod merge;
mod rows;
mod target;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, SelectItem, SetExpr, Statement, TableAlias, TableFactor, TableObject, TableWithJoins,
};
use rowstore::{Rule, TableSchema};

pub(crate) use self::constraints::listed;
use self::constraints::{Writer, batch_of};
pub use self::defaults::{check_default, evaluate};
pub use self::documents::{DocumentChange, DocumentEdit, DocumentWritten, StoredDocument};
pub(crate) use self::rows::{insert_arrays, target_columns};
use self::target::{Change, Row, Target};
use crate::answer::{Rows, SqlAnswer, Written};
use crate::catalog::{TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::lines::{Attempts, Lost};
use crate::position::Cut;
use crate::query::{self, Context};
use crate::sql::parse::{Statement as Parsed, parse};
use crate::txn::{Isolation, Transaction};

/// Rows that one statement may hold in memory.
pub(super) const ROWS_BYTES_MAX: usize = 64 << 20;

/// What a statement came to, before it is in the log.
struct Outcome {
    affected: u64,
    returned: Option<Rows>,
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
        Statement::Update(update) => change::table_of(&update.table).map(|(name, _)| name),
        Statement::Delete(delete) => change::delete_table(delete).and_then(change::table_of).map(|(name, _)| name),
        Statement::Merge(merge) => merge::table_of(merge).map(|(name, _)| name),
        _ => return None,
    };
    Some(match name {
        Ok(name) => Box::pin(run(database, name.clone(), statement, context)).await,
        Err(error) => Err(error),
    })
}

async fn run(database: &Database, name: ObjectName, statement: &Statement, context: Context<'_>) -> Result<SqlAnswer> {
    if let Some(transaction) = context.transaction {
        let outcome = Box::pin(carry_out(database, &name, statement, transaction, context)).await?;
        return Ok(outcome.answer(None));
    }
    let mut attempts = Attempts::default();
    loop {
        let gate = database.gate().read().await;
        let transaction = Arc::new(Transaction::new(Isolation::Snapshot));
        let within = Context { transaction: Some(&transaction), ..context };
        let outcome = Box::pin(carry_out(database, &name, statement, &transaction, within)).await?;
        match commit(database, &transaction, context.deadline).await {
            Err(Refused::Lost(lost)) => {
                drop(gate);
                attempts.again(database, lost, context.deadline).await?;
            }
            Err(Refused::Error(error)) => return Err(error),
            Ok(position) => return Ok(outcome.answer(position)),
        }
    }
}

/// Computes a statement's changes and takes them into a transaction.
async fn carry_out(
    database: &Database,
    name: &ObjectName,
    statement: &Statement,
    transaction: &Arc<Transaction>,
    context: Context<'_>,
) -> Result<Outcome> {
    let catalog = database.catalog();
    let target = Arc::new(Target::find(database, &catalog, name)?);
    let writer = Writer { database: database.clone(), catalog, transaction: Arc::clone(transaction), deadline: context.deadline };
    let (changes, returning, alias) = match statement {
        Statement::Insert(insert) => {
            let alias = insert.table_alias.as_ref().map(|alias| alias.alias.clone());
            (Box::pin(insert::changes(&writer, &target, insert, context)).await?, &insert.returning, alias)
        }
        Statement::Update(update) => {
            let alias = change::table_of(&update.table)?.1.cloned();
            let changes = match direct::update(&writer, &target, update, context).await? {
                Some(changes) => changes,
                None => Box::pin(change::updates(&writer, &target, update, context)).await?,
            };
            (changes, &update.returning, alias)
        }
        Statement::Delete(delete) => {
            let alias = change::table_of(change::delete_table(delete)?)?.1.cloned();
            let changes = match direct::delete(&writer, &target, delete, context).await? {
                Some(changes) => changes,
                None => Box::pin(change::deletes(&writer, &target, delete, context)).await?,
            };
            (changes, &delete.returning, alias)
        }
        Statement::Merge(merge) => (Box::pin(merge::changes(&writer, &target, merge, context)).await?, &None, None),
        other => return Err(Error::internal(format!("not a change: {other}"))),
    };
    let affected = changes.len() as u64;
    let returned = match returning {
        Some(items) => Some(returned(database, &target, alias, items, &changes, context).await?),
        None => None,
    };
    writer.apply(target, changes).await?;
    Ok(Outcome { affected, returned })
}

/// RETURNING: a SELECT over the new versions, or the old ones of what was deleted.
async fn returned(
    database: &Database,
    target: &Target,
    alias: Option<Ident>,
    items: &[SelectItem],
    changes: &[Change],
    context: Context<'_>,
) -> Result<Rows> {
    let rows: Vec<&Row> = changes.iter().filter_map(|change| change.new.as_ref().or(change.old.as_ref())).collect();
    let batch = batch_of(&target.schema, &rows)?;
    let table: Arc<dyn TableProvider> = Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?);
    let name = Ident::with_quote('"', &target.def.name);
    let statement = select(items.to_vec(), vec![factor(&name, alias)], None)?;
    let (schema, batches) =
        query::over(database, statement, HashMap::from([(target.def.name.clone(), table)]), context, ROWS_BYTES_MAX).await?;
    let stream = RecordBatchStreamAdapter::new(Arc::clone(&schema), futures::stream::iter(batches.into_iter().map(Ok)));
    Ok(Rows { schema, stream: Box::pin(stream), cut: Cut::new(), written: None })
}

impl Outcome {
    fn answer(self, position: Option<Cut>) -> SqlAnswer {
        let written = Written { affected: self.affected, position };
        match self.returned {
            Some(rows) => SqlAnswer::Rows(Rows { written: Some(written), ..rows }),
            None => SqlAnswer::Written { affected: written.affected, position: written.position },
        }
    }
}

/// Why a transaction did not enter the log.
pub(crate) enum Refused {
    /// Somebody wrote what it relies on.
    Lost(Lost),
    /// Anything else.
    Error(Error),
}

/// Puts a transaction into the log as one batch, and waits until its tables show it; `None` when it changes nothing. The caller
/// holds [`Database::gate`].
pub(crate) async fn commit(database: &Database, transaction: &Transaction, deadline: Instant) -> Result<Option<Cut>, Refused> {
    let Some(commit) = transaction.commit().map_err(Refused::Error)? else { return Ok(None) };
    // A TRUNCATE names no row: whatever was read below it may be gone.
    if transaction.snapshot() < database.truncated() {
        return Err(Refused::Lost(Lost { seen: database.truncated(), key: None }));
    }
    let catalog = database.catalog();
    let mut views = Vec::new();
    for (id, judged_by) in &commit.tables {
        let def = catalog.all_tables().find(|def| def.id == *id);
        let same = |def: &Arc<TableDef>| matches!((&def.kind, judged_by), (TableKind::Row(now), Some(then)) if *now == **then);
        let changed = || Refused::Error(Lost::error("a table of the transaction was changed or dropped meanwhile"));
        let def = def.filter(|def| same(def)).ok_or_else(changed)?;
        views.push(database.views().get(def).map_err(Refused::Error)?);
    }
    let Some(first) = views.first() else { return Ok(None) };
    let log = Arc::clone(first.serving().parts[0].task.partition());
    let appended = match log.append(commit.proposal, deadline).await {
        Ok(ticket) => ticket.committed().await,
        Err(error) => Err(error),
    };
    let appended = match appended {
        Err(logcore::Error::Conflict { last_writer, key, .. }) => {
            return Err(Refused::Lost(Lost { seen: last_writer.advance(1), key: Some(key) }));
        }
        Err(logcore::Error::SnapshotTooOld { window_start, .. }) => {
            return Err(Refused::Lost(Lost { seen: window_start, key: None }));
        }
        other => other.map_err(|error| Refused::Error(error.into()))?,
    };
    let mut position = Cut::new();
    position.raise(&first.stream.name, 0, appended.end_offset());
    // Committed is committed: a view that is slow to show it does not undo the write, and the position says what to wait for.
    for view in &views {
        if let Err(error) = view.visible_to(0, appended.end_offset(), deadline).await {
            tracing::warn!(table = %view.name(), %error, "a write is durable but its table does not show it yet");
        }
    }
    Ok(Some(position))
}

fn not_yet(what: &str) -> Error {
    Error::unsupported(format!("{what} is not supported yet"))
}

fn select_items(text: &str) -> Result<Vec<SelectItem>> {
    let Some(Parsed::Sql(statement)) = parse(&format!("SELECT {text}"), 1)?.pop() else {
        return Err(Error::syntax(format!("{text} is not an expression")));
    };
    match *statement {
        Statement::Query(query) => match *query.body {
            SetExpr::Select(select) => Ok(select.projection),
            _ => Err(Error::syntax(format!("{text} is not an expression"))),
        },
        _ => Err(Error::syntax(format!("{text} is not an expression"))),
    }
}

fn factor(name: &Ident, alias: Option<Ident>) -> TableWithJoins {
    let alias = alias.map(|name| TableAlias { explicit: true, name, columns: vec![], at: None });
    let relation = TableFactor::Table {
        name: ObjectName::from(name.clone()),
        alias,
        args: None,
        with_hints: vec![],
        version: None,
        with_ordinality: false,
        partitions: vec![],
        json_path: None,
        sample: None,
        index_hints: vec![],
    };
    TableWithJoins { relation, joins: vec![] }
}

/// `SELECT items FROM tables WHERE selection`.
fn select(items: Vec<SelectItem>, from: Vec<TableWithJoins>, selection: Option<Expr>) -> Result<Statement> {
    let Some(Parsed::Sql(statement)) = parse("SELECT 1", 1)?.pop() else { return Err(Error::internal("SELECT 1 parses")) };
    let Statement::Query(mut query) = *statement else { return Err(Error::internal("SELECT 1 is a query")) };
    let SetExpr::Select(select) = &mut *query.body else { return Err(Error::internal("SELECT 1 is a select")) };
    select.projection = items;
    select.from = from;
    select.selection = selection;
    Ok(Statement::Query(query))
}

/// As [`select`], of expressions by number.
fn select_from(items: Vec<Expr>, from: Vec<TableWithJoins>, selection: Option<Expr>) -> Result<Statement> {
    let item = |(n, expr)| SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', format!("c{n}")) };
    select(items.into_iter().enumerate().map(item).collect(), from, selection)
}

/// Whether a SELECT gives any row.
///
/// # Errors
/// What is wrong with it.
pub async fn has_rows(database: &Database, text: &str, context: Context<'_>) -> Result<bool> {
    let Some(Parsed::Sql(statement)) = parse(text, 1)?.pop() else { return Err(Error::internal("a SELECT was expected")) };
    let planned = query::plan(database, *statement, Context { params: &[], ..context }, None).await?;
    let batches = planned.collect(database, context.deadline, ROWS_BYTES_MAX).await?;
    Ok(batches.iter().any(|batch| batch.num_rows() > 0))
}

/// Whether the CHECK expressions of a table are conditions on its columns.
///
/// # Errors
/// The first that is not.
pub fn check_expressions(database: &Database, table: &str, schema: &TableSchema) -> Result<()> {
    let batch = batch_of(schema, &[])?;
    for constraint in &schema.constraints {
        if let Rule::Check { expression } = &constraint.rule {
            constraints::failing(database, table, expression, &batch)?;
        }
    }
    Ok(())
}
