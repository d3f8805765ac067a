//! Rows as bytes: JSON, NDJSON, CSV, Arrow and Parquet.
//!
//! [`super::sql`] chooses the [`Format`]. JSON and Parquet are gathered, up to a limit; the others are streamed batch by batch.
//!
//! # Invariants
//! - Until the first batch has come nothing is sent, so that what fails at once has its proper status.
//! - The deadline holds while rows are streamed, whether the rows or the client are slow. What is cut off never looks whole:
//!   NDJSON ends with a line `{"error":{...}}`, CSV and Arrow break the connection.

use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use router::arrow::array::{Array, AsArray, RecordBatch};
use router::arrow::datatypes::SchemaRef;
use router::arrow::ipc::writer::StreamWriter;
use router::parquet::arrow::ArrowWriter;
use router::render;
use router::{Cut, Rows};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::body::Deadline;
use super::error::ApiError;
use super::record::push_json;
use super::{CUT_HEADER, json, search, set_cut};

/// Pieces that wait for a slow client.
const PIECES_WAITING: usize = 2;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One object with columns and rows.
    Json,
    /// An object a row.
    Ndjson,
    /// A line a row, below the names.
    Csv,
    /// Arrow's IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// By media type, the default first.
pub const FORMATS: [(&str, Format); 5] = [
    ("application/json", Format::Json),
    ("application/x-ndjson", Format::Ndjson),
    ("text/csv", Format::Csv),
    ("application/vnd.apache.arrow.stream", Format::Arrow),
    ("application/vnd.apache.parquet", Format::Parquet),
];

impl Format {
    fn media_type(self) -> &'static str {
        FORMATS.iter().find(|(_, format)| *format == self).map_or("", |(media_type, _)| *media_type)
    }
}

async fn next_batch(rows: &mut Rows, deadline: Deadline) -> Result<Option<RecordBatch>, ApiError> {
    match tokio::time::timeout_at(deadline.at.into(), rows.stream.next()).await {
        Err(_) => Err(deadline.passed("the statement did not finish")),
        Ok(None) => Ok(None),
        Ok(Some(batch)) => Ok(Some(batch.map_err(router::Error::from)?)),
    }
}

fn too_large(bytes_max: usize) -> ApiError {
    ApiError::too_large(format!("the result is over the limit of {bytes_max} bytes"))
        .hint("ask for Accept: application/x-ndjson, which is streamed, narrow it with LIMIT, or raise sql.result_bytes_max")
}

/// Appends rows as one JSON object to `out`, which must not grow beyond `bytes_max`.
///
/// # Errors
/// What the statement fails with, the deadline, the limit.
pub async fn write_json(
    out: &mut Vec<u8>,
    mut rows: Rows,
    deadline: Deadline,
    bytes_max: usize,
    started: Instant,
) -> Result<(), ApiError> {
    let columns = rows.schema.fields().iter();
    let columns = columns.map(|field| serde_json::json!({ "name": field.name(), "type": render::type_name(field) }));
    out.extend_from_slice(b"{\"columns\":");
    push_json(out, &columns.collect::<Vec<_>>());
    out.extend_from_slice(b",\"rows\":[");
    let mut row_count = 0_u64;
    while let Some(batch) = next_batch(&mut rows, deadline).await? {
        for row in 0..batch.num_rows() {
            out.extend_from_slice(if row_count == 0 { b"[" } else { b",[" });
            for column in 0..batch.num_columns() {
                if column > 0 {
                    out.push(b',');
                }
                push_cell(out, &rows.schema, &batch, column, row);
            }
            out.push(b']');
            row_count += 1;
            if out.len() > bytes_max {
                return Err(too_large(bytes_max));
            }
        }
        tokio::task::yield_now().await;
    }
    let cut = super::position_json(&rows.cut);
    let written = rows.written.as_ref().map(|written| {
        let position = written.position.as_ref().map_or(Value::Null, super::position_json);
        format!("\"affected\":{},\"position\":{position},", written.affected)
    });
    let written = written.unwrap_or_default();
    let tail = format!("],\"row_count\":{row_count},\"cut\":{cut},{written}\"elapsed_ms\":{}}}", search::elapsed_ms(started));
    out.extend_from_slice(tail.as_bytes());
    Ok(())
}

fn cell(schema: &SchemaRef, batch: &RecordBatch, column: usize, row: usize) -> Value {
    render::json_value(schema.field(column), batch.column(column), row)
}

/// The text of a JSON column, so that it goes out as it came in.
fn json_text<'b>(schema: &SchemaRef, batch: &'b RecordBatch, column: usize, row: usize) -> Option<&'b str> {
    let array = batch.column(column);
    if array.is_null(row) || !render::is_json(schema.field(column)) {
        return None;
    }
    let plain = array.as_string_opt::<i32>().map(|texts| texts.value(row));
    let large = || array.as_string_opt::<i64>().map(|texts| texts.value(row));
    plain.or_else(large).or_else(|| array.as_string_view_opt().map(|texts| texts.value(row)))
}

/// Appends one value as JSON.
pub fn push_cell(out: &mut Vec<u8>, schema: &SchemaRef, batch: &RecordBatch, column: usize, row: usize) {
    match json_text(schema, batch, column, row).filter(|text| json::check(text.as_bytes()).is_ok()) {
        // Line breaks of JSON stand between tokens only: as spaces they leave rows on their lines.
        Some(text) => out.extend(text.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte })),
        None => push_json(out, &cell(schema, batch, column, row)),
    }
}

/// Answers with rows in any form but JSON.
///
/// # Errors
/// What fails before the first byte is sent.
pub async fn respond(mut rows: Rows, format: Format, deadline: Deadline, bytes_max: usize) -> Result<Response, ApiError> {
    let mut encoder = Encoder::new(format, &rows.schema)?;
    let first = next_batch(&mut rows, deadline).await?;
    let cut = rows.cut.clone();
    let body = if format == Format::Parquet {
        Body::from(gather(encoder, first, rows, deadline, bytes_max).await?)
    } else {
        let head = encoder.head(first.as_ref())?;
        Body::from_stream(pieces(head, encoder, rows, deadline))
    };
    Ok(with_headers(body, format, &cut))
}

fn with_headers(body: Body, format: Format, cut: &Cut) -> Response {
    let mut response = ([(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()))], body).into_response();
    set_cut(response.headers_mut(), CUT_HEADER, cut);
    response
}

async fn gather(
    mut encoder: Encoder,
    first: Option<RecordBatch>,
    mut rows: Rows,
    deadline: Deadline,
    bytes_max: usize,
) -> Result<Bytes, ApiError> {
    let mut out = encoder.head(first.as_ref())?;
    while let Some(batch) = next_batch(&mut rows, deadline).await? {
        out.extend_from_slice(&encoder.batch(&batch)?);
        if out.len() + encoder.waiting_bytes() > bytes_max {
            return Err(too_large(bytes_max));
        }
        tokio::task::yield_now().await;
    }
    out.extend_from_slice(&encoder.tail()?);
    if out.len() > bytes_max { Err(too_large(bytes_max)) } else { Ok(out.into()) }
}

/// The pieces of a streamed body. A task of its own drives the statement, so that the deadline also ends one whose client
/// has stopped reading.
fn pieces(
    head: Vec<u8>,
    mut encoder: Encoder,
    mut rows: Rows,
    deadline: Deadline,
) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + use<> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(PIECES_WAITING);
    let (tell, outcome) = oneshot::channel::<Result<(), ApiError>>();
    let line_for_error = encoder.format == Format::Ndjson;
    let drive = async move {
        send(&sender, head, deadline).await?;
        while let Some(batch) = next_batch(&mut rows, deadline).await? {
            send(&sender, encoder.batch(&batch)?, deadline).await?;
        }
        send(&sender, encoder.tail()?, deadline).await
    };
    tokio::spawn(async move {
        // Nobody hears it when the client has gone.
        let _ = tell.send(drive.await);
    });
    let mut outcome = Some(outcome);
    futures::stream::poll_fn(move |context| {
        use std::task::{Poll, ready};
        if let Some(piece) = ready!(receiver.poll_recv(context)) {
            return Poll::Ready(Some(Ok(piece)));
        }
        let Some(waiting) = outcome.as_mut() else { return Poll::Ready(None) };
        let ended = ready!(futures::FutureExt::poll_unpin(waiting, context));
        outcome = None;
        match ended.unwrap_or_else(|_| Err(ApiError::internal("writing the rows met a bug"))) {
            Ok(()) => Poll::Ready(None),
            Err(error) if line_for_error => Poll::Ready(Some(Ok(format!("{}\n", error.to_json()).into()))),
            Err(error) => Poll::Ready(Some(Err(std::io::Error::other(error.to_json())))),
        }
    })
}

async fn send(sender: &mpsc::Sender<Bytes>, piece: Vec<u8>, deadline: Deadline) -> Result<(), ApiError> {
    if piece.is_empty() {
        return Ok(());
    }
    match tokio::time::timeout_at(deadline.at.into(), sender.send(piece.into())).await {
        Ok(sent) => sent.map_err(|_| ApiError::internal("the client has gone")),
        Err(_) => Err(deadline.passed("the rows were not read")),
    }
}

struct Encoder {
    format: Format,
    schema: SchemaRef,
    writer: Writer,
}

enum Writer {
    /// NDJSON: the names, each as `"name":`.
    Names(Vec<String>),
    Csv,
    Arrow(Box<StreamWriter<Vec<u8>>>),
    Parquet(Option<Box<ArrowWriter<Vec<u8>>>>),
}

fn unwritable(error: impl std::fmt::Display) -> ApiError {
    ApiError::unsupported(format!("the result can't be written in this form: {error}")).hint("ask for application/json")
}

impl Encoder {
    fn new(format: Format, schema: &SchemaRef) -> Result<Self, ApiError> {
        let writer = match format {
            Format::Json | Format::Ndjson => {
                let names = schema.fields().iter().map(|field| format!("{}:", Value::from(field.name().as_str())));
                Writer::Names(names.collect())
            }
            Format::Csv => Writer::Csv,
            Format::Arrow => Writer::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema).map_err(unwritable)?)),
            Format::Parquet => {
                let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), None).map_err(unwritable)?;
                Writer::Parquet(Some(Box::new(writer)))
            }
        };
        Ok(Self { format, schema: schema.clone(), writer })
    }

    /// What stands in front of the rows, and the first of them.
    fn head(&mut self, first: Option<&RecordBatch>) -> Result<Vec<u8>, ApiError> {
        let mut out = Vec::new();
        if let Writer::Csv = self.writer {
            let names = self.schema.fields().iter().map(|field| field.name().clone());
            csv_line(&mut out, names)?;
        }
        if let Some(first) = first {
            out.extend_from_slice(&self.batch(first)?);
        }
        Ok(out)
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ApiError> {
        let mut out = Vec::new();
        match &mut self.writer {
            Writer::Names(names) => {
                for row in 0..batch.num_rows() {
                    out.push(b'{');
                    for (column, name) in names.iter().enumerate() {
                        if column > 0 {
                            out.push(b',');
                        }
                        out.extend_from_slice(name.as_bytes());
                        push_cell(&mut out, &self.schema, batch, column, row);
                    }
                    out.extend_from_slice(b"}\n");
                }
            }
            Writer::Csv => {
                for row in 0..batch.num_rows() {
                    let cells = (0..batch.num_columns()).map(|column| csv_cell(&self.schema, batch, column, row));
                    csv_line(&mut out, cells)?;
                }
            }
            Writer::Arrow(writer) => {
                writer.write(batch).map_err(unwritable)?;
                out = std::mem::take(writer.get_mut());
            }
            Writer::Parquet(writer) => {
                if let Some(writer) = writer {
                    writer.write(batch).map_err(unwritable)?;
                }
            }
        }
        Ok(out)
    }

    fn tail(&mut self) -> Result<Vec<u8>, ApiError> {
        match &mut self.writer {
            Writer::Names(_) | Writer::Csv => Ok(Vec::new()),
            Writer::Arrow(writer) => {
                writer.finish().map_err(unwritable)?;
                Ok(std::mem::take(writer.get_mut()))
            }
            Writer::Parquet(writer) => match writer.take() {
                Some(writer) => writer.into_inner().map_err(unwritable),
                None => Ok(Vec::new()),
            },
        }
    }

    /// Held by the writer itself.
    fn waiting_bytes(&self) -> usize {
        match &self.writer {
            Writer::Parquet(Some(writer)) => writer.bytes_written() + writer.in_progress_size(),
            _ => 0,
        }
    }
}

fn csv_line(out: &mut Vec<u8>, fields: impl Iterator<Item = String>) -> Result<(), ApiError> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(fields.map(String::into_bytes)).map_err(unwritable)?;
    writer.flush().map_err(unwritable)
}

fn csv_cell(schema: &SchemaRef, batch: &RecordBatch, column: usize, row: usize) -> String {
    match json_text(schema, batch, column, row) {
        Some(text) => text.to_owned(),
        None => csv_text(cell(schema, batch, column, row)),
    }
}

/// A cell of CSV: empty for NULL, texts without quotes of their own, everything else as in JSON.
pub fn csv_text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quotes_what_needs_it() {
        let mut out = Vec::new();
        let cells = [Value::from("a,\"b\""), Value::Null, Value::from(1), serde_json::json!([1]), Value::from("x\ny")];
        csv_line(&mut out, cells.into_iter().map(csv_text)).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\"a,\"\"b\"\"\",,1,[1],\"x\ny\"\n");
    }

    #[test]
    fn formats_have_media_types() {
        assert_eq!(Format::Csv.media_type(), "text/csv");
        assert_eq!(FORMATS[0].1, Format::Json);
    }
}
