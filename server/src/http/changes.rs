//! `GET /v1/tables/{table}/changes`: what was inserted, updated and deleted, in log order; a page of it, or followed live as
//! server-sent events, a change each.
//!
//! The id of an event is the position of its change, so that `Last-Event-ID` goes on behind it.
//!
//! # Concurrency
//! One read is under way and holds at most a page; the next begins when its changes went out. Nothing runs while the client does
//! not read.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use logcore::Offset;
use router::arrow::array::AsArray;
use router::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use router::{ChangesPage, Cut, ReadFrom, ReadLimits};
use serde::Deserialize;

use super::body::{self, ApiPath, ApiQuery};
use super::error::ApiError;
use super::results::push_cell;
use super::streams::{parse_offset, read_limits};
use super::{App, json_bytes};

const NDJSON: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";
/// Columns of a page in front of the table's own.
const OWN: usize = 4;
/// Held for one client that follows, about.
const FOLLOW_BYTES: usize = 1 << 20;
const FOLLOW_CHANGES: usize = 500;
/// A read without changes begins anew after this long.
const FOLLOW_WAIT: Duration = Duration::from_secs(15);
/// The id while nothing was ever in the partition: an empty one would be forgotten by clients.
const NOTHING: &str = "earliest";

/// Where and how much to read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangesQuery {
    from: Option<String>,
    partition: Option<u32>,
    limit: Option<usize>,
    max_bytes: Option<usize>,
    wait_ms: Option<u64>,
}

/// `GET /v1/tables/{table}/changes`.
pub async fn read(
    State(app): State<App>,
    ApiPath(table): ApiPath<String>,
    ApiQuery(query): ApiQuery<ChangesQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let offered = ["application/json", NDJSON, EVENTS];
    let Some(chosen) = body::negotiate(request.headers(), &offered) else {
        let message = "changes are given as application/json, application/x-ndjson or text/event-stream";
        return Err(ApiError::not_acceptable(message));
    };
    if chosen == EVENTS {
        if query.limit.is_some() || query.max_bytes.is_some() || query.wait_ms.is_some() {
            return Err(ApiError::invalid("limit, max_bytes and wait_ms are for pages")
                .hint("text/event-stream follows for as long as the client listens"));
        }
        let last_id = request.headers().get("last-event-id").cloned();
        return follow(app, table, query, last_id).await;
    }
    let from = parse_offset(query.from.as_deref().unwrap_or("earliest"))?;
    let limits = read_limits(query.limit, query.max_bytes, query.wait_ms)?;
    let page = app.database.changes(&table, query.partition, from, limits).await?;
    Ok(if chosen == NDJSON { ndjson_page(&page) } else { json_page(&page) })
}

/// Appends one change as an object on a line of its own.
fn write(out: &mut Vec<u8>, page: &ChangesPage, row: usize) {
    let (batch, schema) = (&page.rows, page.rows.schema());
    let columns = (batch.num_columns() - OWN) / 2;
    let offset = batch.column(1).as_primitive::<Int64Type>().value(row);
    let millis = batch.column(2).as_primitive::<TimestampMicrosecondType>().value(row).div_euclid(1_000);
    let change = batch.column(3).as_string::<i32>().value(row);
    let position = serde_json::Value::from(format!("{}/{}@{offset}", page.stream, page.partition));
    let head = format!("{{\"position\":{position},\"offset\":{offset},\"timestamp\":{millis},\"change\":\"{change}\"");
    out.extend_from_slice(head.as_bytes());
    for (version, from, missing) in [("old", OWN, "insert"), ("new", OWN + columns, "delete")] {
        out.extend_from_slice(format!(",\"{version}\":").as_bytes());
        if change == missing || change == "truncate" {
            out.extend_from_slice(b"null");
            continue;
        }
        for column in from..from + columns {
            let name = schema.field(column).name().strip_prefix(&format!("{version}_")).unwrap_or_default();
            out.push(if column == from { b'{' } else { b',' });
            out.extend_from_slice(format!("{}:", serde_json::Value::from(name)).as_bytes());
            push_cell(out, &schema, batch, column, row);
        }
        out.push(b'}');
    }
    out.push(b'}');
}

fn json_page(page: &ChangesPage) -> Response {
    let mut out = b"{\"changes\":[".to_vec();
    for row in 0..page.rows.num_rows() {
        if row > 0 {
            out.push(b',');
        }
        write(&mut out, page, row);
    }
    let (next, end) = (page.next_offset, page.end_offset);
    out.extend_from_slice(format!("],\"next_offset\":{next},\"end_offset\":{end}}}").as_bytes());
    json_bytes(out).into_response()
}

fn ndjson_page(page: &ChangesPage) -> Response {
    let mut out = Vec::new();
    for row in 0..page.rows.num_rows() {
        write(&mut out, page, row);
        out.push(b'\n');
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(NDJSON)),
        (HeaderName::from_static("headwater-next-offset"), HeaderValue::from(page.next_offset)),
        (HeaderName::from_static("headwater-end-offset"), HeaderValue::from(page.end_offset)),
    ];
    (headers, out).into_response()
}

async fn follow(app: App, table: String, query: ChangesQuery, last_id: Option<HeaderValue>) -> Result<Response, ApiError> {
    let from = match last_id {
        None => parse_offset(query.from.as_deref().unwrap_or("latest"))?,
        Some(id) if id == NOTHING => ReadFrom::Earliest,
        Some(id) => {
            let text = id.to_str().map_err(|_| ApiError::invalid("Last-Event-ID is not text"))?;
            behind(&app, &table, query.partition, text).map_err(|error| error.at("Last-Event-ID"))?
        }
    };
    // What is wrong with the request is said before the first event; from here on the place is an offset.
    let begin = ReadLimits { records: 1, bytes: 1, wait_until: None };
    let at = match from {
        ReadFrom::Offset(offset) => {
            app.database.changes(&table, query.partition, from, begin).await?;
            offset
        }
        // A page of one tells where it begins: at its first change, or behind what it looked through.
        _ => {
            let page = app.database.changes(&table, query.partition, from, begin).await?;
            let first = (page.rows.num_rows() > 0).then(|| page.rows.column(1).as_primitive::<Int64Type>().value(0));
            first.map_or(page.next_offset, i64::unsigned_abs)
        }
    };
    let info = app.database.view(&table)?;
    let place = format!("{}/{}", info.stream, query.partition.unwrap_or(0));
    let feed = Feed { app, table, partition: query.partition, place, next: at, told: None, ended: false };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(EVENTS)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(futures::stream::unfold(feed, Feed::step))).into_response())
}

/// Where the changes behind an event begin.
fn behind(app: &App, table: &str, partition: Option<u32>, id: &str) -> Result<ReadFrom, ApiError> {
    let (cut, stream): (Cut, String) = (id.parse()?, app.database.view(table)?.stream);
    match cut.end(&stream, partition.unwrap_or(0)) {
        Some(end) if cut.ends().count() == 1 => Ok(ReadFrom::Offset(end.value())),
        _ => Err(ApiError::invalid(format!("\"{id}\" is not a position of these changes"))
            .hint("send back an id that this feed gave, or begin at from=")),
    }
}

struct Feed {
    app: App,
    table: String,
    partition: Option<u32>,
    /// Stream and partition, as ids name them.
    place: String,
    /// The next offset to look at.
    next: u64,
    /// The place that the client knows of.
    told: Option<u64>,
    ended: bool,
}

impl Feed {
    fn id(&self) -> String {
        match Offset::new(self.next).before() {
            Some(last) => format!("{}@{last}", self.place),
            None => NOTHING.to_owned(),
        }
    }

    /// The next piece of the answer; none when it ends.
    async fn step(mut self) -> Option<(Result<Bytes, std::io::Error>, Self)> {
        if self.ended {
            return None;
        }
        if self.told.is_none() {
            // An id without data: a client that loses the connection before the first change goes on from here.
            self.told = Some(self.next);
            let head = format!("retry: 1000\nid: {}\n\n", self.id());
            return Some((Ok(head.into()), self));
        }
        let limits = ReadLimits { records: FOLLOW_CHANGES, bytes: FOLLOW_BYTES, wait_until: Some(Instant::now() + FOLLOW_WAIT) };
        let page = tokio::select! {
            page = self.app.database.changes(&self.table, self.partition, ReadFrom::Offset(self.next), limits) => page,
            () = self.app.stopped() => return None,
        };
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                self.ended = true;
                let text = format!("event: error\ndata: {}\n\n", ApiError::from(error).to_json());
                return Some((Ok(text.into()), self));
            }
        };
        let mut out = Vec::new();
        let offsets = page.rows.column(1).as_primitive::<Int64Type>();
        for row in 0..page.rows.num_rows() {
            self.next = offsets.value(row).unsigned_abs() + 1;
            out.extend_from_slice(format!("id: {}\ndata: ", self.id()).as_bytes());
            write(&mut out, &page, row);
            out.extend_from_slice(b"\n\n");
        }
        self.next = page.next_offset;
        if out.is_empty() {
            // Nothing for so long: nobody in between may hang up, and the client need not look through it again.
            out = match self.told == Some(self.next) {
                true => b": keep-alive\n\n".to_vec(),
                false => format!("id: {}\n\n", self.id()).into_bytes(),
            };
        }
        self.told = Some(self.next);
        Some((Ok(out.into()), self))
    }
}
