//! The `ttl` option of document tables that SQL writes: `WITH (ttl = '30 days')`, `ALTER TABLE d SET (ttl = 'none')`. Carried out by
//! [`crate::expiry`].

use datafusion::sql::sqlparser::ast::SqlOption;
use logcore::ErrorKind;

use super::done;
use crate::answer::SqlAnswer;
use crate::catalog::{CatalogRecord, TableDef};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::sql::ddl::Options;
use crate::units::parse_span;

const NAME: &str = "ttl";

fn read(text: &str) -> Result<Option<u64>> {
    if text.trim().eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let millis = parse_span(text).and_then(|span| u64::try_from(span.as_millis()).ok()).filter(|millis| *millis > 0);
    millis
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("ttl = '{text}' is unknown")).hint("use a span such as '30 days', or 'none'"))
}

/// Takes the option out of those of a new table.
///
/// # Errors
/// A bad value.
pub fn of_new(options: &mut Options) -> Result<Option<u64>> {
    Ok(options.take(NAME).map(|text| read(&text)).transpose()?.flatten())
}

/// Whether it is the option that these are about.
pub fn is_meant(options: &[SqlOption]) -> bool {
    options.iter().any(|option| matches!(option, SqlOption::KeyValue { key, .. } if key.value.eq_ignore_ascii_case(NAME)))
}

/// `ALTER TABLE name SET (ttl = ...)`. The caller holds the lock of definitions.
///
/// # Errors
/// Other options beside it, bad values, tables that are not documents written by SQL.
pub async fn alter(database: &Database, def: &TableDef, options: &[SqlOption]) -> Result<SqlAnswer> {
    let mut options = Options::of_set(options)?;
    let ttl_ms = of_new(&mut options)?;
    options.finish(&[NAME])?;
    if database.catalog().search_side(def.id).is_none() {
        let message = format!("documents of table \"{}\" have no ttl: it is not a document table that SQL writes", def.name);
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message)
            .hint("a view of a stream keeps what the stream has: see its retention"));
    }
    if def.ttl_ms == ttl_ms {
        return Ok(done("ALTER TABLE", None));
    }
    let position = database.record(&CatalogRecord::TtlAltered { id: def.id, ttl_ms }).await?;
    Ok(done("ALTER TABLE", Some(position)))
}
