//! COPY TO: the rows of a query into a file, batch by batch.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::parquet::arrow::ArrowWriter;
use futures::StreamExt;
use logcore::ErrorKind;
use rowstore::schema::KIND_METADATA;
use serde_json::Value;

use super::{Format, Options, csv};
use crate::append::blocking;
use crate::error::{Error, Result, sqlstate};
use crate::render;

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Error {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Error::new(sqlstate::IO_ERROR, ErrorKind::Unavailable, format!("writing \"{name}\": {error}"))
}

enum Sink {
    Csv(BufWriter<File>, Options),
    Parquet(Box<ArrowWriter<File>>),
}

/// A file that is being written beside its place; gone again unless it is finished.
struct Output {
    sink: Option<Sink>,
    aside: PathBuf,
    path: PathBuf,
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.sink.is_some() {
            self.sink = None;
            let _ = fs::remove_file(&self.aside);
        }
    }
}

impl Output {
    fn create(path: PathBuf, schema: &SchemaRef, options: Options) -> Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{:016x}.tmp", std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)));
        let aside = path.with_file_name(name);
        let file = File::create_new(&aside).map_err(|error| failed(&path, &error))?;
        let mut output = Self { sink: None, aside, path };
        let sink = match options.format {
            Format::Csv => Ok(Sink::Csv(BufWriter::new(file), options)),
            Format::Parquet => ArrowWriter::try_new(file, SchemaRef::clone(schema), None)
                .map(|writer| Sink::Parquet(Box::new(writer)))
                .map_err(|error| Error::unsupported(format!("these rows can't be written as Parquet: {error}"))),
        };
        match sink {
            Ok(sink) => output.sink = Some(sink),
            Err(error) => {
                let _ = fs::remove_file(&output.aside);
                return Err(error);
            }
        }
        if let Some(Sink::Csv(out, options)) = &mut output.sink
            && options.header
        {
            let names = schema.fields().iter().map(|field| Some(field.name().as_str()));
            csv::write(out, names, options).map_err(|error| failed(&output.path, &error))?;
        }
        Ok(output)
    }

    fn write(mut self, batch: &RecordBatch) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| failed(&self.path, error);
        match self.sink.as_mut() {
            Some(Sink::Parquet(writer)) => writer.write(batch).map_err(|error| failed(&error))?,
            Some(Sink::Csv(out, options)) => {
                let schema = batch.schema();
                for row in 0..batch.num_rows() {
                    let cells = schema.fields().iter().zip(batch.columns());
                    let cells: Vec<Option<String>> = cells.map(|(field, column)| text(field, column, row)).collect();
                    csv::write(out, cells.iter().map(Option::as_deref), options).map_err(|error| failed(&error))?;
                }
            }
            None => return Err(Error::internal("a file is written until it is finished")),
        }
        Ok(self)
    }

    /// Makes it durable under its name.
    fn finish(mut self) -> Result<()> {
        let (path, aside) = (self.path.clone(), self.aside.clone());
        let failed = |error: &dyn std::fmt::Display| failed(&path, error);
        let written = match self.sink.take() {
            Some(Sink::Csv(mut out, _)) => out.flush().and_then(|()| out.get_ref().sync_all()).map_err(|error| failed(&error)),
            Some(Sink::Parquet(writer)) => writer
                .into_inner()
                .map_err(|error| failed(&error))
                .and_then(|file| file.sync_all().map_err(|error| failed(&error))),
            None => Err(Error::internal("a file is finished once")),
        };
        let renamed = written.and_then(|()| fs::rename(&aside, &path).map_err(|error| failed(&error)));
        if renamed.is_err() {
            let _ = fs::remove_file(&aside);
        }
        renamed?;
        let parent = path.parent().unwrap_or(Path::new("."));
        Ok(logcore::sys::fs::sync_dir(parent)?)
    }
}

/// Writes all rows, and says how many.
///
/// # Errors
/// What goes wrong with the query or the file, which then is not there, or as it was.
pub(super) async fn write(
    mut rows: SendableRecordBatchStream,
    schema: SchemaRef,
    path: PathBuf,
    options: Options,
) -> Result<u64> {
    let mut output = blocking(move || Output::create(path, &schema, options)).await?;
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        count += batch.num_rows() as u64;
        output = blocking(move || output.write(&batch)).await?;
    }
    blocking(move || output.finish()).await?;
    Ok(count)
}

/// A value as PostgreSQL writes it.
fn text(field: &Field, column: &dyn Array, row: usize) -> Option<String> {
    // JSON stays as it was written.
    if field.metadata().get(KIND_METADATA).is_some_and(|kind| kind == "json")
        && let Some(texts) = column.as_string_opt::<i32>()
    {
        return texts.is_valid(row).then(|| texts.value(row).to_owned());
    }
    let raw = match render::json_value(field, column, row) {
        Value::Null => return None,
        Value::Bool(value) => return Some(if value { "t" } else { "f" }.to_owned()),
        Value::Array(items) if matches!(column.data_type(), DataType::List(_)) => return Some(array(&items)),
        Value::String(text) => text,
        other => other.to_string(),
    };
    Some(match column.data_type() {
        DataType::Timestamp(_, zone) => {
            let plain = raw.trim_end_matches('Z').replace('T', " ");
            if zone.is_some() { format!("{plain}+00") } else { plain }
        }
        _ => raw,
    })
}

fn array(items: &[Value]) -> String {
    let item = |item: &Value| match item {
        Value::Null => "NULL".to_owned(),
        Value::Bool(value) => if *value { "t" } else { "f" }.to_owned(),
        Value::String(text) => {
            let plain = !text.is_empty() && !text.contains([',', '{', '}', '"', '\\', ' ']) && !text.eq_ignore_ascii_case("null");
            if plain { text.clone() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
        }
        other => other.to_string(),
    };
    format!("{{{}}}", items.iter().map(item).collect::<Vec<_>>().join(","))
}
