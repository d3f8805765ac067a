//! The `history` option of row tables, and `VACUUM`: how far back a table can be read, and making it so.
//!
//! `CREATE TABLE ... WITH (history = '7 days')`, `ALTER TABLE t SET (history = 100000)`, `VACUUM t`. Carried out by
//! [`crate::view::vacuum`].

use datafusion::sql::sqlparser::ast::SqlOption;
use logcore::ErrorKind;

use super::done;
use crate::answer::SqlAnswer;
use crate::append::finishing::Finishing;
use crate::catalog::{CatalogRecord, History, TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::query::Context;
use crate::sql::ddl::Options;
use crate::units::parse_span;
use crate::view::vacuum;

const NAME: &str = "history";

/// Reads the option's text.
fn history(text: &str) -> Result<Option<History>> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("all") {
        return Ok(None);
    }
    if let Ok(records) = text.replace('_', "").parse() {
        return Ok(Some(History::Records(records)));
    }
    let millis = parse_span(text).and_then(|span| u64::try_from(span.as_millis()).ok());
    millis.map(|millis| Some(History::AgeMs(millis))).ok_or_else(|| {
        Error::invalid(format!("history = '{text}' is unknown"))
            .hint("use a span such as '7 days', a number of records of the table's stream, or 'all'")
    })
}

/// Takes the option out of those of a new row table.
///
/// # Errors
/// A bad value, other options.
pub fn of_new(mut options: Options) -> Result<Option<History>> {
    let given = options.take(NAME).map(|text| history(&text)).transpose()?;
    options.finish(&[NAME])?;
    Ok(given.flatten())
}

/// Whether it is the option that these are about.
pub fn is_meant(options: &[SqlOption]) -> bool {
    options.iter().any(|option| matches!(option, SqlOption::KeyValue { key, .. } if key.value.eq_ignore_ascii_case(NAME)))
}

/// `ALTER TABLE name SET (history = ...)`. The caller holds the lock of definitions.
///
/// # Errors
/// Unknown options, bad values, tables that are not row tables.
pub async fn alter(database: &Database, def: &TableDef, options: &[SqlOption]) -> Result<SqlAnswer> {
    let mut options = Options::of_set(options)?;
    let text = options.take(NAME);
    options.finish(&[NAME])?;
    let text = text.ok_or_else(|| Error::syntax("SET takes an option").hint("ALTER TABLE t SET (history = '7 days')"))?;
    let history = history(&text)?;
    only_rows(def)?;
    if def.history == history {
        return Ok(done("ALTER TABLE", None));
    }
    let position = database.record(&CatalogRecord::HistoryAltered { id: def.id, history }).await?;
    Ok(done("ALTER TABLE", Some(position)))
}

fn only_rows(def: &TableDef) -> Result<()> {
    match def.kind {
        TableKind::Row(_) => Ok(()),
        _ => {
            let message = format!("\"{}\" is a {} table: only row tables have a history", def.name, def.kind.name());
            Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message))
        }
    }
}

/// `VACUUM [name]`: takes out the versions that the option does not keep, of one table or of all that have it, and answers when
/// that is done. It goes on when the client gives up.
///
/// # Errors
/// Tables that keep everything, tables that are being rebuilt; at the statement's deadline.
pub async fn vacuum(database: &Database, name: Option<&str>, context: Context<'_>) -> Result<SqlAnswer> {
    let catalog = database.catalog();
    let tables: Vec<u32> = match name {
        None => catalog.tables().filter(|def| def.history.is_some()).map(|def| def.id).collect(),
        Some(name) => {
            let def = catalog.table(name)?;
            only_rows(def)?;
            if def.history.is_none() {
                let message = format!("table \"{name}\" keeps all of its history");
                return Err(Error::invalid(message).hint(format!("ALTER TABLE {name} SET (history = '7 days') first")));
            }
            vec![def.id]
        }
    };
    let background = database.clone();
    let work = async move {
        for table in tables {
            vacuum::run(&background, table).await?;
        }
        Ok(done("VACUUM", None))
    };
    let work = Finishing::new(database.runtime().clone(), work);
    tokio::time::timeout_at(context.deadline.into(), work).await.unwrap_or_else(|_| {
        let message = "the vacuum is not done yet; it goes on";
        Err(Error::new(sqlstate::QUERY_CANCELED, ErrorKind::Unavailable, message).hint("see SHOW VIEWS"))
    })
}
