//! `ANALYZE`: how many rows a table has and how its values are spread, for the choice of plans ([`rowstore::statistics`]).
//!
//! It reads the whole table once and looks at a sample of its rows closely. What it finds is a record of the catalog, so it is the
//! same after a restart; nothing makes it older but time, and nothing looks again by itself.

use std::sync::Arc;

use logcore::ErrorKind;
use rowstore::Analysis;

use super::done;
use crate::answer::SqlAnswer;
use crate::append::blocking;
use crate::catalog::{CatalogRecord, TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::view::running::Store;

/// Looks at one table, or at all row tables.
///
/// # Errors
/// Unknown tables, those that are not row tables, those that can't be read.
pub async fn execute(database: &Database, name: Option<&str>) -> Result<SqlAnswer> {
    let catalog = database.catalog();
    let tables: Vec<Arc<TableDef>> = match name {
        Some(name) => vec![Arc::clone(catalog.table(name)?)],
        None => catalog.tables().filter(|table| matches!(table.kind, TableKind::Row(_))).cloned().collect(),
    };
    let mut position = None;
    for table in tables {
        let TableKind::Row(schema) = table.kind.clone() else {
            let message = format!("\"{}\" is a {} table: only row tables are analyzed", table.name, table.kind.name());
            return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message));
        };
        let generation = database.views().get(&table)?.serving();
        let looking = blocking(move || {
            let mut analysis = Analysis::new(&schema);
            for part in &generation.parts {
                if let Store::Row(rows) = &part.store {
                    analysis.add(rows, part.task.visible())?;
                }
            }
            Ok(analysis.finish())
        });
        let statistics = looking.await?;
        let _ddl = database.ddl_lock().await;
        // It may be gone by now.
        if database.catalog().find_table(&table.name).is_some_and(|now| now.id == table.id) {
            position = Some(database.record(&CatalogRecord::TableAnalyzed { id: table.id, statistics }).await?);
        }
    }
    Ok(done("ANALYZE", position))
}
