//! TRUNCATE: all rows of some tables go, by one record for each table in one batch of `_tables`.
//!
//! The record says nothing of the rows: the table's view removes those it has when it applies it, as of its offset, so reads in
//! the past still find them.
//!
//! # Concurrency
//! It waits for the statements that write (as ALTER TABLE does), and those that come wait for it. A transaction that began before
//! knows nothing of it, since no row's key is in the record: whoever has read below the newest TRUNCATE can't commit
//! ([`crate::dml::commit`]).

use std::sync::Arc;

use logcore::{BatchBuilder, Compression, ErrorKind, NewRecord, Proposal, sys::clock};
use rowstore::Rule;
use rowstore::mutation::truncation_key;

use super::done;
use crate::answer::SqlAnswer;
use crate::catalog::{CatalogState, TableDef, TableKind};
use crate::cut::writable;
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::position::Cut;
use crate::query::Context;
use crate::sequence;
use crate::sql::ddl::Truncate;
use crate::txn::Key;

const TAG: &str = "TRUNCATE TABLE";

/// Carries out a TRUNCATE.
///
/// # Errors
/// Unknown tables, those that are views of a stream, and those that others reference.
pub async fn execute(database: &Database, statement: Truncate, context: Context<'_>) -> Result<SqlAnswer> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    let tables = tables(database, &catalog, &statement)?;
    let locked = tokio::time::timeout_at(context.deadline.into(), database.gate().write()).await;
    let _alone = locked.map_err(|_| {
        let message = format!("statements that write table \"{}\" did not end in time", tables[0].name);
        Error::new(sqlstate::QUERY_CANCELED, ErrorKind::Unavailable, message).hint("run the statement again")
    })?;
    let mut batch = BatchBuilder::new();
    let timestamp = clock::now();
    for table in &tables {
        batch.push(&NewRecord { key: Some(&truncation_key(table.id)), value: None, headers: &[], timestamp });
    }
    let marks = tables.iter().map(|table| Key::Table(table.id).hash()).collect();
    let proposal = Proposal::from_records(batch, Compression::None)?.writing(marks);
    let views = tables.iter().map(|table| database.views().get(table)).collect::<Result<Vec<_>>>()?;
    let log = Arc::clone(views[0].serving().parts[0].task.partition());
    let appended = log.append(proposal, context.deadline).await?.committed().await?;
    database.has_truncated(appended.end_offset());
    for view in &views {
        if let Err(error) = view.visible_to(0, appended.end_offset(), context.deadline).await {
            tracing::warn!(table = %view.name(), %error, "a TRUNCATE is durable but its table does not show it yet");
        }
    }
    if statement.restart {
        let owned = |table: u32| tables.iter().any(|truncated| truncated.id == table);
        for def in catalog.sequences().filter(|def| def.owner.is_some_and(|owner| owned(owner.table))) {
            sequence::set(database, def, Some(def.start)).await?;
        }
    }
    let mut position = Cut::new();
    position.raise(&views[0].stream.name, 0, appended.end_offset());
    Ok(done(TAG, Some(position)))
}

/// The tables that are named, and with CASCADE those that reference them.
fn tables(database: &Database, catalog: &CatalogState, statement: &Truncate) -> Result<Vec<Arc<TableDef>>> {
    let mut tables: Vec<Arc<TableDef>> = Vec::new();
    for name in &statement.names {
        let def = Arc::clone(catalog.table(name.strip_prefix("public.").unwrap_or(name))?);
        writable(&def, &database.views().get(&def)?.stream.name)?;
        if !tables.iter().any(|other| other.id == def.id) {
            tables.push(def);
        }
    }
    let mut at = 0;
    while at < tables.len() {
        for other in catalog.tables() {
            let TableKind::Row(schema) = &other.kind else { continue };
            let references = schema
                .constraints
                .iter()
                .find(|constraint| matches!(&constraint.rule, Rule::ForeignKey { table, .. } if *table == tables[at].id));
            let Some(constraint) = references.filter(|_| !tables.iter().any(|known| known.id == other.id)) else { continue };
            if statement.cascade {
                tables.push(Arc::clone(other));
                continue;
            }
            let message = format!(
                "table \"{}\" can't be truncated: table \"{}\" references it in constraint \"{}\"",
                tables[at].name, other.name, constraint.name
            );
            let hint = format!("truncate table \"{}\" at the same time, or use TRUNCATE ... CASCADE", other.name);
            return Err(Error::unsupported(message).hint(hint));
        }
        at += 1;
    }
    Ok(tables)
}
