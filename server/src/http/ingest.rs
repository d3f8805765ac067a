//! NDJSON into a stream: a value a line, for as long as the client sends.
//!
//! Lines are cut out of the chunks of the body without copying, validated, gathered into batches and appended; while one batch is
//! on its way to the disk the next is parsed.
//!
//! # Invariants
//! - What is appended is a prefix of the lines: one batch is under way at a time, and after an error nothing follows.
//! - A line counts as whole when its line break, or the orderly end of the body, has come.
//! - The work goes on when the client vanishes: it runs in a task of its own.

use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use logcore::AckClass;
use router::{AppendAnswer, AppendError, AppendRecord, AppendRequest, Cut};
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::App;
use super::body::{self, Deadline};
use super::error::ApiError;
use super::json::{self, FieldPath};
use super::lines::Lines;
use super::record::check_size;
use super::streams::{appended_answer, parse_ack};

const BATCH_RECORDS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Lines that have come are appended when no more come for so long.
const LINGER: Duration = Duration::from_millis(5);
/// A client may be silent for so long.
const SILENCE: Duration = Duration::from_secs(300);

/// The query string of an append.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppendQuery {
    /// The field whose value is the key.
    pub key: Option<String>,
    /// The field whose value is the time.
    pub timestamp: Option<String>,
    /// The acknowledgement class.
    pub ack: Option<String>,
    /// How long a batch may wait for room.
    pub timeout_ms: Option<u64>,
}

struct Fields {
    key: Option<FieldPath>,
    timestamp: Option<FieldPath>,
}

/// Appends the lines of `body`.
///
/// # Errors
/// The first line or batch that failed, with what was appended before it.
pub async fn append(app: App, stream: String, query: AppendQuery, body: Body) -> Result<Response, ApiError> {
    let ack = parse_ack(query.ack.as_deref())?;
    Deadline::new(query.timeout_ms, app.limits.timeout_ms_max)?;
    let path = |name: &str, text: Option<&str>| match text.map(FieldPath::new) {
        Some(None) => {
            Err(ApiError::invalid(format!("{name}={} is not a field", text.unwrap_or_default())).hint("write a.b for b in a"))
        }
        Some(path) => Ok(path),
        None => Ok(None),
    };
    let fields = Fields { key: path("key", query.key.as_deref())?, timestamp: path("timestamp", query.timestamp.as_deref())? };
    let appender = Appender {
        timeout_ms: query.timeout_ms,
        ack,
        met: None,
        app,
        stream,
        records: Vec::new(),
        bytes: 0,
        under_way: None,
        appended: 0,
        position: Cut::new(),
    };
    let task = tokio::spawn(run(appender, fields, body.into_data_stream()));
    task.await.map_err(|error| ApiError::internal(format!("appending met a bug: {error}")))?
}

async fn run(mut appender: Appender, fields: Fields, mut body: BodyDataStream) -> Result<Response, ApiError> {
    let outcome = match read_lines(&mut appender, &fields, &mut body).await {
        Ok(()) => appender.finish().await,
        Err(error) => {
            // What stood before the bad line is good.
            let flushed = appender.finish().await;
            body::drain(body).await;
            flushed.and(Err(error))
        }
    };
    match outcome {
        Ok(()) => appender.answer().await,
        Err(error) => Err(error.with_appended(appender.appended, &appender.position)),
    }
}

async fn read_lines(appender: &mut Appender, fields: &Fields, body: &mut BodyDataStream) -> Result<(), ApiError> {
    let limits = appender.app.limits;
    let mut lines = Lines::new(limits.record_bytes_max);
    let mut body_bytes = 0_u64;
    loop {
        let patience = if appender.records.is_empty() { SILENCE } else { LINGER };
        let chunk = match tokio::time::timeout(patience, body.next()).await {
            Err(_) if appender.records.is_empty() => {
                return Err(ApiError::timeout(format!("no byte of the body came for {} s", SILENCE.as_secs())));
            }
            Err(_) => {
                appender.submit().await?;
                continue;
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(ApiError::invalid(format!("the body was cut off: {error}"))),
            Ok(Some(Ok(chunk))) => chunk,
        };
        body_bytes += chunk.len() as u64;
        if body_bytes > limits.ndjson_body_bytes_max {
            let message = format!("the body is over the limit of {} bytes", limits.ndjson_body_bytes_max);
            return Err(ApiError::too_large(message).hint("go on with another request, or raise http.ndjson_body_bytes_max"));
        }
        lines.push(chunk);
        while let Some(line) = lines.next()? {
            take(appender, fields, &lines, &line).await?;
        }
    }
    if let Some(line) = lines.last() {
        take(appender, fields, &lines, &line).await?;
    }
    Ok(())
}

async fn take(appender: &mut Appender, fields: &Fields, lines: &Lines, line: &Bytes) -> Result<(), ApiError> {
    let trimmed = line.trim_ascii();
    if trimmed.is_empty() {
        return Ok(());
    }
    let at = || format!("line {}", lines.number);
    let record = parse(&line.slice_ref(trimmed), fields).map_err(|error| ApiError::invalid(error).at(&at()))?;
    check_size(&record, appender.app.limits.record_bytes_max).map_err(|error| error.at(&at()))?;
    appender.push(record).await
}

fn parse(line: &Bytes, fields: &Fields) -> Result<AppendRecord, String> {
    let mut record = AppendRecord::default();
    if fields.key.is_none() && fields.timestamp.is_none() {
        json::check(line)?;
    } else {
        let (_, [key, timestamp]) = json::pick(line, [fields.key.as_ref(), fields.timestamp.as_ref()])?;
        if let Some(field) = &fields.key {
            let raw = key.ok_or_else(|| format!("it has no field \"{}\" for the key", field.as_str()))?;
            let text = json::key_text(raw).map_err(|error| format!("the key \"{}\" {error}", field.as_str()))?;
            record.key = text.map(Bytes::from);
        }
        if let Some(field) = &fields.timestamp {
            let raw = timestamp.ok_or_else(|| format!("it has no field \"{}\" for the time", field.as_str()))?;
            record.timestamp = json::time_millis(raw).map_err(|error| format!("the time \"{}\" {error}", field.as_str()))?;
        }
    }
    record.value = (line.as_ref() != b"null").then(|| line.clone());
    Ok(record)
}

/// Gathers records and appends them, one batch at a time.
struct Appender {
    app: App,
    stream: String,
    timeout_ms: Option<u64>,
    /// The class that was asked for.
    ack: Option<AckClass>,
    /// The weakest class that was met so far.
    met: Option<AckClass>,
    records: Vec<AppendRecord>,
    bytes: usize,
    under_way: Option<(u64, JoinHandle<Result<AppendAnswer, AppendError>>)>,
    appended: u64,
    position: Cut,
}

impl Appender {
    async fn push(&mut self, record: AppendRecord) -> Result<(), ApiError> {
        self.bytes += record.value.as_ref().map_or(0, Bytes::len) + record.key.as_ref().map_or(0, Bytes::len);
        self.records.push(record);
        if self.records.len() >= BATCH_RECORDS_MAX || self.bytes >= BATCH_BYTES_MAX { self.submit().await } else { Ok(()) }
    }

    /// Sends what was gathered on its way, after what is under way has arrived.
    async fn submit(&mut self) -> Result<(), ApiError> {
        self.settle().await?;
        let records = std::mem::take(&mut self.records);
        self.bytes = 0;
        if records.is_empty() {
            return Ok(());
        }
        let count = records.len() as u64;
        let deadline = Deadline::new(self.timeout_ms, self.app.limits.timeout_ms_max)?.at;
        let (database, stream) = (self.app.database.clone(), self.stream.clone());
        let request = AppendRequest { ack: self.ack, ..AppendRequest::new(records, deadline) };
        let append = async move { database.append_with(&stream, request).await };
        self.under_way = Some((count, tokio::spawn(append)));
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), ApiError> {
        let Some((count, task)) = self.under_way.take() else { return Ok(()) };
        let (records, cut, failed) = match task.await {
            Ok(Ok(answer)) => {
                self.met = Some(self.met.map_or(answer.ack, |met| met.min(answer.ack)));
                (count, answer.position, None)
            }
            Ok(Err(failed)) => (failed.records, failed.appended, Some(ApiError::from(failed.error))),
            Err(error) => (0, Cut::new(), Some(ApiError::internal(format!("appending met a bug: {error}")))),
        };
        self.appended += records;
        cut.ends().for_each(|(stream, partition, end)| self.position.raise(stream, partition, end));
        match failed {
            None => Ok(()),
            Some(error) => {
                // Nothing may follow what is missing.
                self.records.clear();
                Err(error)
            }
        }
    }

    async fn answer(self) -> Result<Response, ApiError> {
        let Self { met, appended, position, .. } = self;
        let ack = match met {
            Some(met) => met,
            // No line came: the class that the stream and the request agree on.
            None => {
                let nothing = AppendRequest { ack: self.ack, ..AppendRequest::new(Vec::new(), Instant::now()) };
                self.app.database.append_with(&self.stream, nothing).await.map_err(|failed| failed.error)?.ack
            }
        };
        Ok(appended_answer(appended, &AppendAnswer { position, ack, duplicate: false }))
    }

    async fn finish(&mut self) -> Result<(), ApiError> {
        self.submit().await?;
        self.settle().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_times_come_from_fields() {
        let field = |text| FieldPath::new(text);
        let fields = Fields { key: field("id"), timestamp: field("at.ms") };
        let record = parse(&Bytes::from_static(br#"{"id":5,"at":{"ms":1537727414}}"#), &fields).unwrap();
        assert_eq!((record.key.unwrap(), record.timestamp), ("5".into(), Some(1_537_727_414_000)));
        assert!(parse(&Bytes::from_static(b"{}"), &fields).unwrap_err().contains("no field \"id\""));
        let none = Fields { key: None, timestamp: None };
        assert_eq!(parse(&Bytes::from_static(b"null"), &none).unwrap().value, None);
        assert!(parse(&Bytes::from_static(b"{\"a\":}"), &none).unwrap_err().contains("column 6"));
    }
}
