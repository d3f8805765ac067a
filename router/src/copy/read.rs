//! COPY FROM: a file's rows into a table, a batch at a time.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray};
use datafusion::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use datafusion::sql::sqlparser::ast::{Ident, ObjectName};
use logcore::ErrorKind;
use rowstore::TableSchema;

use super::{BATCH_BYTES, BATCH_ROWS, Format, Options, csv};
use crate::append::blocking;
use crate::database::Database;
use crate::dml;
use crate::error::{Error, Result, sqlstate};
use crate::position::Cut;
use crate::query::Context;
use crate::sql::assign::assign;
use crate::sql::ddl::name_of;

fn format_error(message: String) -> Error {
    Error::new(sqlstate::BAD_COPY_FILE_FORMAT, ErrorKind::Invalid, message)
}

enum Source {
    Csv(csv::Reader<BufReader<File>>),
    Parquet(ParquetRecordBatchReader),
}

/// Rows that were read: a column for each column of the table that is filled.
struct Batch {
    arrays: Vec<ArrayRef>,
    /// Where each row stands; empty where there are no lines.
    lines: Vec<u64>,
}

/// A file that is being read.
struct Input {
    source: Source,
    schema: Arc<TableSchema>,
    columns: Vec<usize>,
}

impl Input {
    fn open(path: &PathBuf, schema: Arc<TableSchema>, columns: Vec<usize>, options: Options) -> Result<Self> {
        let opened = File::open(path).map_err(|error| Error::new(sqlstate::IO_ERROR, ErrorKind::Invalid, error.to_string()));
        let file = opened?;
        let source = match options.format {
            Format::Csv => {
                let header = options.header;
                let mut reader = csv::Reader::new(BufReader::with_capacity(1 << 20, file), options);
                if header {
                    reader.next()?;
                }
                Source::Csv(reader)
            }
            Format::Parquet => {
                let broken = |error: datafusion::parquet::errors::ParquetError| format_error(error.to_string());
                let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(broken)?;
                let there = builder.schema().clone();
                if let Some(at) = columns.iter().find(|at| there.index_of(&schema.columns[**at].name).is_err()) {
                    let names: Vec<&str> = there.fields().iter().map(|field| field.name().as_str()).collect();
                    let message = format!("the file has no column \"{}\"", schema.columns[*at].name);
                    return Err(
                        format_error(message).hint(format!("it has {}; name those to fill in parentheses", names.join(", ")))
                    );
                }
                Source::Parquet(builder.with_batch_size(BATCH_ROWS / 8).build().map_err(broken)?)
            }
        };
        Ok(Self { source, schema, columns })
    }

    /// The next rows, as the table's types; `None` at the end.
    fn next(&mut self) -> Result<Option<Batch>> {
        let Self { source, schema, columns } = self;
        match source {
            Source::Parquet(reader) => {
                let Some(batch) = reader.next() else { return Ok(None) };
                let batch = batch.map_err(|error| format_error(error.to_string()))?;
                let array = |at: &usize| {
                    let name = &schema.columns[*at].name;
                    let array = batch.column_by_name(name).ok_or_else(|| format_error(format!("no column \"{name}\"")))?;
                    assign(array, schema, *at)
                };
                let arrays = columns.iter().map(array).collect::<Result<_>>()?;
                Ok(Some(Batch { arrays, lines: Vec::new() }))
            }
            Source::Csv(reader) => {
                let mut texts: Vec<Vec<Option<String>>> = vec![Vec::new(); columns.len()];
                let (mut lines, mut bytes) = (Vec::new(), 0);
                while lines.len() < BATCH_ROWS && bytes < BATCH_BYTES {
                    let Some(csv::Record { line, fields }) = reader.next()? else { break };
                    if fields.len() > columns.len() {
                        return Err(format_error(format!("line {line}: extra data after last expected column")));
                    }
                    if let Some(at) = columns.get(fields.len()) {
                        return Err(format_error(format!(
                            "line {line}: missing data for column \"{}\"",
                            schema.columns[*at].name
                        )));
                    }
                    for (text, field) in texts.iter_mut().zip(fields) {
                        bytes += field.as_ref().map_or(0, String::len) + 8;
                        text.push(field);
                    }
                    lines.push(line);
                }
                if lines.is_empty() {
                    return Ok(None);
                }
                let arrays = columns.iter().zip(texts).map(|(at, texts)| column(schema, *at, &texts, &lines));
                Ok(Some(Batch { arrays: arrays.collect::<Result<_>>()?, lines }))
            }
        }
    }
}

/// Texts as values of a column; an error names the line.
fn column(schema: &TableSchema, at: usize, texts: &[Option<String>], lines: &[u64]) -> Result<ArrayRef> {
    let array = |texts: &[Option<String>]| -> ArrayRef { Arc::new(texts.iter().map(Option::as_deref).collect::<StringArray>()) };
    assign(&array(texts), schema, at).map_err(|error| {
        let wrong = texts.iter().zip(lines).find_map(|(text, line)| {
            let error = assign(&array(std::slice::from_ref(text)), schema, at).err()?;
            Some(Error::new(error.code(), error.kind(), format!("line {line}, {}", error.message())))
        });
        wrong.unwrap_or(error)
    })
}

/// Fills a table from a file, and says how many rows and where they are.
///
/// # Errors
/// What is wrong with the table, the file, or a row; what went in before stays, outside a transaction.
pub(super) async fn read(
    database: &Database,
    table: &ObjectName,
    columns: &[Ident],
    path: PathBuf,
    options: Options,
    context: Context<'_>,
) -> Result<(u64, Option<Cut>)> {
    let names: Vec<String> = columns.iter().map(|ident| name_of(&ObjectName::from(ident.clone()))).collect();
    let (schema, columns) = dml::target_columns(database, table, &names)?;
    let own = (Arc::clone(&schema), columns.clone());
    let mut input = blocking(move || Input::open(&path, own.0, own.1, options)).await?;
    let (mut count, mut position) = (0_u64, None);
    let told = |error: Error, count: u64| match count {
        0 => error,
        _ if context.transaction.is_some() => error,
        count => {
            let hint = format!("the {count} rows before its batch are in the table");
            let hint = error.hint_text().map_or(hint.clone(), |own| format!("{own}; {hint}"));
            Error::new(error.code(), error.kind(), error.message().to_owned()).hint(hint)
        }
    };
    loop {
        let (back, next) = blocking(move || {
            let next = input.next();
            Ok((input, next))
        })
        .await?;
        input = back;
        let Some(batch) = next.map_err(|error| told(error, count))? else { return Ok((count, position)) };
        let rows = batch.arrays.first().map_or(batch.lines.len(), |array| array.len());
        let done = Box::pin(dml::insert_arrays(database, table, &columns, &batch.arrays, rows, context)).await;
        position = done.map_err(|error| told(error, count))?.or(position);
        count += rows as u64;
    }
}
