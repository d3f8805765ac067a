//! COPY: rows between tables and CSV or Parquet files of one folder of the server.
//!
//! The folder is given at start ([`crate::DatabaseOptions::copy_dir`]); without one there is no COPY with files. A name is relative to
//! it, and what it leads to must lie inside, symbolic links followed. A file appears whole, under its name, or not at all.
//!
//! # Invariants
//! - Memory is bounded: a batch of rows at a time.
//! - Of COPY FROM each batch is one atomic batch of the log; the error says how many rows went in before. In a transaction all are
//!   part of it.
//!
//! # Not done
//! STDIN, PROGRAM, the formats text and binary.

mod csv;
mod read;
mod write;

use std::path::{Component, Path, PathBuf};

use datafusion::sql::sqlparser::ast::{CopyOption, CopySource, CopyTarget, Ident, Query, Statement};
use logcore::ErrorKind;

use crate::answer::{Rows, SqlAnswer};
use crate::append::blocking;
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::query::{self, Context};
use crate::sql::parse::{Statement as Parsed, parse};

/// Rows of a batch at most, and bytes at which it is not filled further.
const BATCH_ROWS: usize = 8_192;
const BATCH_BYTES: usize = 2 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Csv,
    Parquet,
}

/// How a file is written.
#[derive(Clone, Debug)]
struct Options {
    format: Format,
    header: bool,
    delimiter: u8,
    quote: u8,
    null: String,
}

fn ascii(name: &str, given: char) -> Result<u8> {
    u8::try_from(given).ok().filter(|byte| byte.is_ascii() && !matches!(byte, b'\n' | b'\r')).ok_or_else(|| {
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, ErrorKind::Invalid, format!("{name} must be one ASCII character"))
    })
}

fn options(given: &[CopyOption], file: Option<&str>) -> Result<Options> {
    let parquet = file.is_some_and(|file| Path::new(file).extension().is_some_and(|end| end.eq_ignore_ascii_case("parquet")));
    let format = if parquet { Format::Parquet } else { Format::Csv };
    let mut options = Options { format, header: false, delimiter: b',', quote: b'"', null: String::new() };
    let mut csv_only = None;
    for option in given {
        match option {
            CopyOption::Format(name) => {
                options.format = match name.value.to_lowercase().as_str() {
                    "csv" => Format::Csv,
                    "parquet" => Format::Parquet,
                    other => {
                        return Err(Error::unsupported(format!("COPY with FORMAT {other} is not supported yet"))
                            .hint("use csv or parquet"));
                    }
                }
            }
            CopyOption::Header(header) => options.header = *header,
            CopyOption::Delimiter(delimiter) => options.delimiter = ascii("DELIMITER", *delimiter)?,
            CopyOption::Quote(quote) => options.quote = ascii("QUOTE", *quote)?,
            CopyOption::Null(null) => options.null.clone_from(null),
            CopyOption::Escape(escape) if *escape == char::from(options.quote) => {}
            other => return Err(Error::unsupported(format!("COPY with {other} is not supported yet"))),
        }
        if !matches!(option, CopyOption::Format(_)) {
            csv_only = Some(option);
        }
    }
    if let (Format::Parquet, Some(option)) = (options.format, csv_only) {
        return Err(
            Error::invalid(format!("{option} is of CSV only")).hint("a Parquet file has names, types and NULL of its own")
        );
    }
    if options.delimiter == options.quote || options.null.bytes().any(|byte| byte == options.delimiter || byte == options.quote) {
        return Err(Error::invalid("DELIMITER, QUOTE and NULL must differ"));
    }
    Ok(options)
}

/// Carries out a COPY; `None` if it is none.
///
/// # Errors
/// What is wrong with the statement, the file or the rows.
pub async fn execute(database: &Database, statement: &Statement, context: Context<'_>) -> Option<Result<SqlAnswer>> {
    let Statement::Copy { source, to, target, options, legacy_options, .. } = statement else { return None };
    if let Some(option) = legacy_options.first() {
        return Some(Err(
            Error::syntax(format!("COPY with {option} is written WITH (...)")).hint("COPY t TO 'file' WITH (FORMAT csv)")
        ));
    }
    Some(match to {
        true => Box::pin(copy_to(database, source, target, options, context)).await,
        false => Box::pin(copy_from(database, source, target, options, context)).await,
    })
}

async fn copy_to(
    database: &Database,
    source: &CopySource,
    target: &CopyTarget,
    given: &[CopyOption],
    context: Context<'_>,
) -> Result<SqlAnswer> {
    let query = match source {
        CopySource::Query(query) => query.clone(),
        CopySource::Table { table_name, columns } => {
            let names: Vec<String> = columns.iter().map(ToString::to_string).collect();
            let names = if names.is_empty() { "*".to_owned() } else { names.join(", ") };
            select(&format!("SELECT {names} FROM {table_name}"))?
        }
    };
    let file = match target {
        CopyTarget::File { filename } => filename,
        CopyTarget::Stdout => {
            options(given, None)?;
            let planned = query::plan(database, Statement::Query(query), context, None).await?;
            let (schema, cut) = (planned.schema(), planned.cut().clone());
            return Ok(SqlAnswer::Rows(Rows { schema, stream: planned.run(database, context.deadline)?, cut, written: None }));
        }
        other => return Err(Error::unsupported(format!("COPY TO {other} is not supported"))),
    };
    let options = options(given, Some(file))?;
    let path = writable(database, file)?;
    let planned = query::plan(database, Statement::Query(query), context, None).await?;
    let schema = planned.schema();
    let rows = planned.run(database, context.deadline)?;
    let affected = write::write(rows, schema, path, options).await?;
    Ok(SqlAnswer::Written { affected, position: None })
}

fn select(text: &str) -> Result<Box<Query>> {
    match parse(text, 1)?.pop() {
        Some(Parsed::Sql(statement)) => match *statement {
            Statement::Query(query) => Ok(query),
            _ => Err(Error::internal("a SELECT was expected")),
        },
        _ => Err(Error::internal("a SELECT was expected")),
    }
}

async fn copy_from(
    database: &Database,
    source: &CopySource,
    target: &CopyTarget,
    given: &[CopyOption],
    context: Context<'_>,
) -> Result<SqlAnswer> {
    let CopySource::Table { table_name, columns } = source else {
        return Err(Error::syntax("COPY FROM fills a table"));
    };
    let CopyTarget::File { filename } = target else {
        return Err(Error::unsupported(format!("COPY FROM {target} is not supported yet"))
            .hint("put the file into the server's folder for COPY, or INSERT the rows"));
    };
    let options = options(given, Some(filename))?;
    let (dir, name) = (folder(database)?.to_owned(), filename.clone());
    let path = blocking(move || readable(&dir, &name)).await?;
    let columns: Vec<Ident> = columns.clone();
    let (affected, position) = read::read(database, table_name, &columns, path, options, context).await?;
    Ok(SqlAnswer::Written { affected, position })
}

fn folder(database: &Database) -> Result<&Path> {
    database.options().copy_dir.as_deref().ok_or_else(|| {
        let message = "COPY with files is off: the server was started without a folder for them";
        Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, ErrorKind::Invalid, message)
            .hint("start it with --copy-dir DIR; COPY ... TO STDOUT answers the rows")
    })
}

fn outside(name: &str) -> Error {
    let message = format!("the file \"{name}\" is not inside the folder for COPY");
    Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, ErrorKind::Invalid, message)
        .hint("name it relative to that folder, without \"..\"")
}

fn inside(dir: &Path, name: &str) -> Result<PathBuf> {
    let relative = Path::new(name);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    match plain && relative.file_name().is_some() && !name.contains('\0') {
        true => Ok(dir.join(relative)),
        false => Err(outside(name)),
    }
}

fn failed(name: &str, error: &std::io::Error) -> Error {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => sqlstate::UNDEFINED_FILE,
        _ => sqlstate::IO_ERROR,
    };
    Error::new(code, ErrorKind::Invalid, format!("the file \"{name}\": {error}"))
}

/// The file of a name, wherever links lead, if that is inside the folder.
fn readable(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = inside(dir, name)?.canonicalize().map_err(|error| failed(name, &error))?;
    let dir = dir.canonicalize().map_err(|error| failed(name, &error))?;
    if !path.starts_with(&dir) {
        return Err(outside(name));
    }
    match path.is_file() {
        true => Ok(path),
        false => Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, format!("\"{name}\" is no file"))),
    }
}

/// Where a file of a name is written; its folder must be there.
fn writable(database: &Database, name: &str) -> Result<PathBuf> {
    let dir = folder(database)?;
    let path = inside(dir, name)?;
    let (Some(parent), Some(file)) = (path.parent(), path.file_name()) else { return Err(outside(name)) };
    let parent = parent.canonicalize().map_err(|error| failed(name, &error))?;
    let dir = dir.canonicalize().map_err(|error| failed(name, &error))?;
    match parent.starts_with(&dir) {
        true => Ok(parent.join(file)),
        false => Err(outside(name)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn no_name_leads_out() {
        let dir = Path::new("/data/copy");
        assert_eq!(inside(dir, "a/b.csv").unwrap(), Path::new("/data/copy/a/b.csv"));
        for name in ["", "..", "../x", "a/../../x", "/etc/passwd", ".", "./x", "a\0b"] {
            assert_eq!(inside(dir, name).unwrap_err().code(), sqlstate::INSUFFICIENT_PRIVILEGE, "{name}");
        }
    }
}
