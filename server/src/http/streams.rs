//! Streams: listing, appending records in JSON, and reading pages.
//!
//! NDJSON bodies go on to [`super::ingest`], following to [`super::tail`].

use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use logcore::{AckClass, ErrorKind, ProducerSequence};
use router::{AppendAnswer, AppendError, AppendRequest, RamInfo, ReadFrom, ReadLimits, ReadPage, StreamInfo, sqlstate};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::body::{self, ApiPath, ApiQuery, Deadline};
use super::error::ApiError;
use super::record::{self, Layout, RecordIn};
use super::{App, ingest, json, json_body, json_bytes};

/// Beyond the value's own: the body, the list and the record.
const BODY_DEPTH_MAX: usize = json::DEPTH_MAX + 3;
const READ_RECORDS: usize = 100;
const READ_RECORDS_MAX: usize = 10_000;
const READ_BYTES: usize = 1 << 20;
const READ_BYTES_MAX: usize = 16 << 20;
const READ_WAIT_MS_MAX: u64 = 30_000;
const NDJSON: &str = "application/x-ndjson";

#[derive(Serialize)]
struct Streams {
    streams: Vec<StreamInfo>,
    ram: RamInfo,
}

/// `GET /v1/streams`.
pub async fn list(State(app): State<App>) -> impl IntoResponse {
    let streams = app.database.streams();
    let ram = app.database.ram(&streams);
    json_body(&Streams { streams, ram })
}

/// `GET /v1/streams/{stream}`.
pub async fn show(State(app): State<App>, ApiPath(stream): ApiPath<String>) -> Result<impl IntoResponse, ApiError> {
    Ok(json_body(&app.database.stream(&stream)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppendBody<'a> {
    #[serde(borrow)]
    records: Vec<RecordIn<'a>>,
    #[serde(default)]
    ack: Option<String>,
    #[serde(default)]
    producer: Option<Producer>,
}

/// Who sends a request, so that it is known when it is sent again.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Producer {
    id: i64,
    epoch: i16,
    sequence: i32,
}

impl Producer {
    fn check(self) -> Result<ProducerSequence, ApiError> {
        let Self { id, epoch, sequence } = self;
        if id < 0 || epoch < 0 || sequence < 0 {
            let message = format!("producer {id} with epoch {epoch} and sequence {sequence}: none of them may be negative");
            return Err(ApiError::invalid(message).hint("begin with a random id, epoch 0 and sequence 0"));
        }
        Ok(ProducerSequence { id, epoch, sequence })
    }
}

/// `POST /v1/streams/{stream}/records`.
pub async fn append(
    State(app): State<App>,
    ApiPath(stream): ApiPath<String>,
    ApiQuery(query): ApiQuery<ingest::AppendQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let media_type = body::media_type(&parts.headers)?;
    if let Err(error) = app.database.stream(&stream) {
        body::drain(body.into_data_stream()).await;
        return Err(error.into());
    }
    match media_type.as_deref() {
        Some(NDJSON | "application/ndjson" | "application/jsonl") => ingest::append(app, stream, query, body).await,
        Some("application/json") => {
            if query.key.is_some() || query.timestamp.is_some() {
                let error = ApiError::invalid("key= and timestamp= are for application/x-ndjson");
                return Err(error.hint("put \"key\" and \"timestamp\" into each record"));
            }
            let bytes = body::read_whole(&parts.headers, body, app.limits.body_bytes_max).await?;
            let request: AppendBody<'_> = body::parse_json(&bytes, BODY_DEPTH_MAX)?;
            let ack = one_ack(request.ack.as_deref(), query.ack.as_deref())?;
            let deadline = Deadline::new(query.timeout_ms, app.limits.timeout_ms_max)?;
            let mut records = Vec::with_capacity(request.records.len());
            for (at, record) in request.records.into_iter().enumerate() {
                let record = record.into_record(&bytes, app.limits.record_bytes_max);
                records.push(record.map_err(|error| error.at(&format!("records[{at}]")))?);
            }
            let appended = records.len() as u64;
            let producer = request.producer.map(Producer::check).transpose()?;
            let request = AppendRequest { ack, producer, ..AppendRequest::new(records, deadline.at) };
            let answer = app.database.append_with(&stream, request).await.map_err(refused)?;
            Ok(appended_answer(appended, &answer))
        }
        other => Err(body::wrong_media_type(other, "application/json or application/x-ndjson")),
    }
}

/// A refusal, with what was appended to other partitions all the same.
fn refused(failed: AppendError) -> ApiError {
    let AppendError { error, appended, records } = failed;
    let too_large = error.kind() == ErrorKind::TooLarge && error.hint_text().is_none();
    let hint = "a request in JSON is one batch per partition; send less, or application/x-ndjson";
    let answer = ApiError::from(if too_large { error.hint(hint) } else { error });
    answer.with_appended(records, &appended)
}

/// Which acknowledgement class was asked for, at least; `None` leaves it to the stream.
///
/// # Errors
/// One we have not.
pub fn parse_ack(ack: Option<&str>) -> Result<Option<AckClass>, ApiError> {
    match ack {
        None => Ok(None),
        Some("quorum") => {
            let message = "ack 'quorum' can't be met: this server has no cluster";
            Err(ApiError::new(ErrorKind::Unavailable, sqlstate::CANNOT_CONNECT_NOW, message).hint("use ack 'disk'"))
        }
        Some(other) => other.parse().map(Some).map_err(|()| {
            ApiError::invalid(format!("\"{other}\" is not an acknowledgement class")).hint("use memory, disk or quorum")
        }),
    }
}

/// The class of a request that may name it in its body and in its query string.
fn one_ack(body: Option<&str>, query: Option<&str>) -> Result<Option<AckClass>, ApiError> {
    match (parse_ack(body)?, parse_ack(query)?) {
        (Some(body), Some(query)) if body != query => {
            let message = format!("ack is '{body}' in the body and '{query}' in the query string");
            Err(ApiError::invalid(message).hint("say it once"))
        }
        (body, query) => Ok(body.or(query)),
    }
}

#[derive(Serialize)]
struct Appended {
    appended: u64,
    position: Value,
    ack: AckClass,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// The answer to an append.
pub fn appended_answer(appended: u64, answer: &AppendAnswer) -> Response {
    let body =
        Appended { appended, position: super::position_json(&answer.position), ack: answer.ack, duplicate: answer.duplicate };
    let mut response = json_body(&body).into_response();
    super::set_cut(response.headers_mut(), super::POSITION_HEADER, &answer.position);
    response
}

/// Where and how much to read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadQuery {
    offset: Option<String>,
    timestamp: Option<i64>,
    limit: Option<usize>,
    max_bytes: Option<usize>,
    wait_ms: Option<u64>,
}

fn in_range(name: &str, value: usize, max: usize) -> Result<usize, ApiError> {
    if (1..=max).contains(&value) {
        Ok(value)
    } else {
        Err(ApiError::invalid(format!("{name} is {value}, it goes from 1 to {max}")))
    }
}

/// An offset as a query string has it: a number, `earliest` or `latest`.
///
/// # Errors
/// When it is something else.
pub fn parse_offset(text: &str) -> Result<ReadFrom, ApiError> {
    match text {
        "earliest" => Ok(ReadFrom::Earliest),
        "latest" => Ok(ReadFrom::Latest),
        number => number
            .parse()
            .map(ReadFrom::Offset)
            .map_err(|_| ApiError::invalid(format!("\"{number}\" is not an offset")).hint("write a number, earliest or latest")),
    }
}

/// The bounds of a page, as a query string has them.
///
/// # Errors
/// What is out of range.
pub fn read_limits(limit: Option<usize>, max_bytes: Option<usize>, wait_ms: Option<u64>) -> Result<ReadLimits, ApiError> {
    let wait_until = match wait_ms {
        None | Some(0) => None,
        Some(wait_ms) if wait_ms <= READ_WAIT_MS_MAX => Some(Instant::now() + Duration::from_millis(wait_ms)),
        Some(wait_ms) => {
            return Err(ApiError::invalid(format!("wait_ms is {wait_ms}, it goes from 0 to {READ_WAIT_MS_MAX}")));
        }
    };
    Ok(ReadLimits {
        records: in_range("limit", limit.unwrap_or(READ_RECORDS), READ_RECORDS_MAX)?,
        bytes: in_range("max_bytes", max_bytes.unwrap_or(READ_BYTES), READ_BYTES_MAX)?,
        wait_until,
    })
}

impl ReadQuery {
    fn bounds(&self) -> Result<(ReadFrom, ReadLimits), ApiError> {
        let from = match (&self.offset, self.timestamp) {
            (Some(_), Some(_)) => return Err(ApiError::invalid("offset and timestamp exclude each other")),
            (Some(offset), None) => parse_offset(offset)?,
            (None, Some(timestamp)) => ReadFrom::Timestamp(timestamp),
            (None, None) => ReadFrom::Earliest,
        };
        let limits = read_limits(self.limit, self.max_bytes, self.wait_ms)?;
        Ok((from, limits))
    }
}

/// `GET /v1/streams/{stream}/partitions/{partition}/records`.
pub async fn read(
    State(app): State<App>,
    ApiPath((stream, partition)): ApiPath<(String, u32)>,
    ApiQuery(query): ApiQuery<ReadQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let (from, limits) = query.bounds()?;
    let offered = ["application/json", NDJSON];
    let Some(chosen) = body::negotiate(request.headers(), &offered) else {
        return Err(ApiError::not_acceptable("records are given as application/json or application/x-ndjson"));
    };
    if let ReadFrom::Offset(offset) = from {
        check_offset(&app.database.stream(&stream)?, partition, offset)?;
    }
    let page = tokio::select! {
        page = app.database.read(&stream, partition, from, limits) => page?,
        // Whoever waits for records when the server stops gets what there is: nothing.
        () = app.stopped() => {
            app.database.read(&stream, partition, from, ReadLimits { wait_until: None, ..limits }).await?
        }
    };
    Ok(if chosen == NDJSON { ndjson_page(&page) } else { json_page(&page) })
}

/// Refuses what lies outside of a partition, naming what can be read. A partition that is not there is the database's to name.
fn check_offset(info: &StreamInfo, partition: u32, offset: u64) -> Result<(), ApiError> {
    let Some(found) = info.partitions.iter().find(|found| found.partition == partition) else { return Ok(()) };
    let (start, end) = (found.status.log_start.value(), found.status.committed.value());
    if (start..=end).contains(&offset) {
        return Ok(());
    }
    let message = format!(
        "offset {offset} is outside of {}/{partition}, which has the offsets {start} to {end} (end exclusive)",
        info.name
    );
    Err(ApiError::invalid(message).hint(format!("read from {start} to {end}; at {end} wait_ms waits for the next record")))
}

fn json_page(page: &ReadPage) -> Response {
    let mut out = b"{\"records\":[".to_vec();
    for (at, stored) in page.records.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        record::write(&mut out, stored, Layout::default());
    }
    out.extend_from_slice(format!("],\"next_offset\":{},\"end_offset\":{}}}", page.next_offset, page.end_offset).as_bytes());
    json_bytes(out).into_response()
}

fn ndjson_page(page: &ReadPage) -> Response {
    let mut out = Vec::new();
    for stored in &page.records {
        record::write(&mut out, stored, Layout { one_line: true, ..Layout::default() });
        out.push(b'\n');
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(NDJSON)),
        (HeaderName::from_static("headwater-next-offset"), HeaderValue::from(page.next_offset)),
        (HeaderName::from_static("headwater-end-offset"), HeaderValue::from(page.end_offset)),
    ];
    (headers, out).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_that_we_have_are_passed_on_and_others_named() {
        assert_eq!(parse_ack(None).unwrap(), None);
        assert_eq!(parse_ack(Some("memory")).unwrap(), Some(AckClass::Memory));
        assert_eq!(parse_ack(Some("quorum")).unwrap_err().status().as_u16(), 503);
        assert_eq!(parse_ack(Some("all")).unwrap_err().status().as_u16(), 400);
        assert_eq!(one_ack(Some("disk"), Some("disk")).unwrap(), Some(AckClass::Disk));
        assert_eq!(one_ack(None, Some("memory")).unwrap(), Some(AckClass::Memory));
        assert!(one_ack(Some("disk"), Some("memory")).unwrap_err().to_json().contains("say it once"));
    }

    #[test]
    fn reads_are_bounded() {
        let query = |text: &str| -> Result<ReadQuery, String> {
            let uri: axum::http::Uri = format!("/?{text}").parse().unwrap();
            axum::extract::Query::try_from_uri(&uri).map(|query| query.0).map_err(|error| error.body_text())
        };
        let (from, limits) = query("").unwrap().bounds().unwrap();
        assert_eq!((from, limits.records, limits.bytes), (ReadFrom::Earliest, 100, 1 << 20));
        assert!(limits.wait_until.is_none());
        assert_eq!(query("offset=7").unwrap().bounds().unwrap().0, ReadFrom::Offset(7));
        assert_eq!(query("timestamp=-7").unwrap().bounds().unwrap().0, ReadFrom::Timestamp(-7));
        for bad in ["limit=0", "limit=10001", "max_bytes=0", "wait_ms=30001", "offset=-1", "offset=1&timestamp=1"] {
            assert!(query(bad).unwrap().bounds().is_err(), "{bad}");
        }
        assert!(query("ofset=1").err().unwrap().contains("ofset"));
    }
}
