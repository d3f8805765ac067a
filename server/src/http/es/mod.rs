//! The door for Elasticsearch's clients, under `/es`: an index is a document table that is written.
//!
//! [`super::router`] nests [`router()`]. Requests are turned into what the native doors use (document changes, search requests, DDL),
//! answers and errors into Elasticsearch's shapes. Every answer has the header its clients look for.
//!
//! # What stands for what
//! An index is a table made `USING document`; writing to one that is not there makes it, with every path found in documents indexed.
//! `_seq_no` and `_version` are the offset of the record that wrote the document. `refresh=wait_for` and `true` wait until searches
//! see the write; nothing is written to disk for it.
//!
//! # Not done
//! Several indexes in one search, aliases, templates, scripts, nested objects, point in time, typed keys of aggregations, custom
//! analysis in settings (tables have chains of filters instead). What is not known is refused, not passed over.

mod bulk;
mod dialect;
mod document;
mod index;
mod mapping;
mod search;

use std::collections::HashMap;
use std::time::Instant;

use axum::Router;
use axum::extract::{Query, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use logcore::ErrorKind;
use router::{SqlRequest, sqlstate};
use serde::Serialize;
use serde_json::{Value, json};

use super::body::{self, Deadline};
use super::error::ApiError;
use super::{App, json_body};

/// What the clients look for before they go on.
const PRODUCT: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-elastic-product"), HeaderValue::from_static("Elasticsearch"));
/// The version of the interface that is spoken here, as clients compare it.
const SPOKEN_VERSION: &str = "8.15.0";
/// Nesting of a request.
const DEPTH_MAX: usize = 64;
/// Paths found in documents of an index that was made by writing to it.
const DYNAMIC_FIELDS: u32 = 1000;

/// The query string; of what stands in it only what is asked for is looked at.
type Params = Query<HashMap<String, String>>;

/// The routes below `/es`.
pub fn router() -> Router<App> {
    let search = || get(search::run).post(search::run);
    let count = || get(search::count).post(search::count);
    let many = || get(search::run_many).post(search::run_many);
    let documents = || get(document::show_many).post(document::show_many);
    let writes = || post(bulk::run).put(bulk::run);
    let create = || put(document::create).post(document::create);
    Router::new()
        .route("/", get(info))
        .route("/_bulk", writes())
        .route("/_msearch", many())
        .route("/_mget", documents())
        .route("/_mapping", get(index::show_all_mappings))
        .route("/_refresh", get(index::refresh_all).post(index::refresh_all))
        .route("/_search/scroll", get(search::scroll).post(search::scroll).delete(search::end_scroll))
        .route("/_cat/indices", get(index::list))
        .route("/_cat/indices/{index}", get(index::list_some))
        .route("/_cluster/health", get(index::health))
        .route("/_cluster/health/{index}", get(index::health))
        .route("/{index}", get(index::show).put(index::create).delete(index::delete))
        .route("/{index}/_bulk", writes())
        .route("/{index}/_msearch", many())
        .route("/{index}/_mget", documents())
        .route("/{index}/_search", search())
        .route("/{index}/_count", count())
        .route("/{index}/_mapping", get(index::show_mapping).put(index::put_mapping).post(index::put_mapping))
        .route("/{index}/_refresh", get(index::refresh).post(index::refresh))
        .route("/{index}/_doc", post(document::add))
        .route("/{index}/_doc/{id}", get(document::show).put(document::put).post(document::put).delete(document::delete))
        .route("/{index}/_create/{id}", create())
        .route("/{index}/_update/{id}", post(document::update))
        .route("/{index}/_source/{id}", get(document::source))
        .route("/{index}/_delete_by_query", post(bulk::delete_by_query))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(map_response(branded))
}

/// `GET /es`: what this is.
pub async fn info() -> Response {
    branded(index::info()).await
}

async fn branded(mut response: Response) -> Response {
    let (name, value) = PRODUCT;
    response.headers_mut().insert(name, value);
    response
}

async fn unknown(request: Request) -> EsError {
    let (method, path) = (request.method(), request.uri().path());
    let reason = format!("no handler found for uri [{path}] and method [{method}]; docs/http.md lists what /es has");
    if let Err(error) = body::ignore(request).await {
        return error.into();
    }
    EsError::new(StatusCode::BAD_REQUEST, "illegal_argument_exception", reason)
}

/// An answer that is an error, in Elasticsearch's shape.
#[derive(Clone, Debug)]
struct EsError {
    status: StatusCode,
    kind: &'static str,
    reason: String,
    index: Option<String>,
}

impl EsError {
    fn new(status: StatusCode, kind: &'static str, reason: impl Into<String>) -> Self {
        Self { status, kind, reason: reason.into(), index: None }
    }

    /// Something in the request that can't be.
    fn invalid(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "illegal_argument_exception", reason)
    }

    /// Something in the request that can't be read.
    fn parsing(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "parsing_exception", reason)
    }

    /// A parameter or member that changes what is meant and is not known here.
    fn unsupported(what: &str) -> Self {
        Self::invalid(format!("[{what}] is not supported"))
    }

    /// Names the index it is about.
    fn of(mut self, index: &str) -> Self {
        self.index = Some(index.to_owned());
        self
    }

    fn cause(&self) -> Value {
        let mut cause = json!({"type": self.kind, "reason": self.reason});
        if let Some(index) = &self.index {
            cause["index"] = json!(index);
        }
        cause
    }

    /// The body of an answer, or of one among several.
    fn to_json(&self) -> Value {
        let mut error = self.cause();
        error["root_cause"] = json!([self.cause()]);
        json!({"error": error, "status": self.status.as_u16()})
    }
}

impl From<router::Error> for EsError {
    fn from(error: router::Error) -> Self {
        let reason = match error.hint_text() {
            Some(hint) => format!("{}; {hint}", error.message()),
            None => error.message().to_owned(),
        };
        let (status, kind) = match (error.code(), error.kind()) {
            (sqlstate::UNDEFINED_TABLE, _) => (StatusCode::NOT_FOUND, "index_not_found_exception"),
            (sqlstate::DUPLICATE_TABLE, _) => (StatusCode::BAD_REQUEST, "resource_already_exists_exception"),
            (sqlstate::NO_DATA, _) => (StatusCode::NOT_FOUND, "document_missing_exception"),
            (sqlstate::SERIALIZATION_FAILURE, _) => (StatusCode::CONFLICT, "version_conflict_engine_exception"),
            (sqlstate::CHECK_VIOLATION, _) => (StatusCode::BAD_REQUEST, "document_parsing_exception"),
            (_, ErrorKind::Invalid) => (StatusCode::BAD_REQUEST, "illegal_argument_exception"),
            (_, ErrorKind::NotFound) => (StatusCode::NOT_FOUND, "resource_not_found_exception"),
            (_, ErrorKind::Conflict) => (StatusCode::CONFLICT, "version_conflict_engine_exception"),
            (_, ErrorKind::TooLarge) => (StatusCode::PAYLOAD_TOO_LARGE, "content_too_long_exception"),
            (_, ErrorKind::Throttled) => (StatusCode::TOO_MANY_REQUESTS, "es_rejected_execution_exception"),
            (sqlstate::QUERY_CANCELED, ErrorKind::Unavailable) => (StatusCode::GATEWAY_TIMEOUT, "timeout_exception"),
            (_, ErrorKind::Unavailable) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable_shards_exception"),
            (_, ErrorKind::NoSpace) => (StatusCode::INSUFFICIENT_STORAGE, "cluster_block_exception"),
            (_, ErrorKind::Corrupt | ErrorKind::Internal) => (StatusCode::INTERNAL_SERVER_ERROR, "exception"),
        };
        Self::new(status, kind, reason)
    }
}

impl From<ApiError> for EsError {
    fn from(error: ApiError) -> Self {
        let kind = match error.status() {
            StatusCode::BAD_REQUEST => "parsing_exception",
            StatusCode::PAYLOAD_TOO_LARGE => "content_too_long_exception",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "media_type_header_exception",
            StatusCode::GATEWAY_TIMEOUT => "timeout_exception",
            _ => "exception",
        };
        Self::new(error.status(), kind, error.message())
    }
}

impl IntoResponse for EsError {
    fn into_response(self) -> Response {
        (self.status, json_body(&self.to_json())).into_response()
    }
}

type Answer = Result<Response, EsError>;

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    (status, json_body(body)).into_response()
}

/// When a request is given up: after the `timeout` of the query string.
fn deadline(app: &App, params: &Params) -> Result<Deadline, EsError> {
    let timeout_ms = params.get("timeout").map(|text| milliseconds(text)).transpose()?;
    Ok(Deadline::new(timeout_ms, app.limits.timeout_ms_max)?)
}

/// A duration such as `30s`.
fn milliseconds(text: &str) -> Result<u64, EsError> {
    let refused = || EsError::invalid(format!("failed to parse [{text}] as a time value, such as 500ms or 30s"));
    let digits = text.len() - text.trim_start_matches(|char: char| char.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().map_err(|_| refused())?;
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refused()),
    };
    Ok(number.saturating_mul(unit).max(1))
}

/// Whether a parameter of the query string says yes.
fn flag(params: &Params, name: &str) -> bool {
    params.get(name).is_some_and(|text| text != "false")
}

/// The body as JSON, an empty object when there is none.
async fn json_of(app: &App, request: Request) -> Result<Value, EsError> {
    let (parts, content) = request.into_parts();
    body::media_type(&parts.headers)?;
    let bytes = body::read_whole(&parts.headers, content, app.limits.body_bytes_max).await?;
    if bytes.trim_ascii().is_empty() {
        return Ok(json!({}));
    }
    let value: Value = body::parse_json(&bytes, DEPTH_MAX)?;
    if value.is_object() { Ok(value) } else { Err(EsError::parsing("the body is not a JSON object")) }
}

/// The document tables there are, as indexes; none of the database's own.
fn indexes(app: &App) -> Vec<String> {
    let catalog = app.database.catalog();
    let is_index = |table: &&std::sync::Arc<router::catalog::TableDef>| {
        matches!(table.kind, router::catalog::TableKind::Document(_)) || catalog.search_side(table.id).is_some()
    };
    let mut names: Vec<String> = catalog.tables().filter(is_index).map(|table| table.name.clone()).collect();
    names.sort();
    names
}

/// The one index that an expression such as `logs-*` means.
fn one_index(app: &App, expression: &str) -> Result<String, EsError> {
    if !expression.contains(['*', ',']) && expression != "_all" {
        return Ok(expression.to_owned());
    }
    match &matching(app, expression)[..] {
        [one] => Ok(one.clone()),
        [] => Err(not_found(expression)),
        several => Err(EsError::invalid(format!(
            "[{expression}] means several indexes here ({}); requests over several are not supported",
            several.join(", ")
        ))),
    }
}

/// The indexes that an expression means.
fn matching(app: &App, expression: &str) -> Vec<String> {
    let mut names = indexes(app);
    let wanted: Vec<&str> = expression.split(',').map(str::trim).collect();
    names.retain(|name| wanted.iter().any(|wanted| *wanted == "_all" || dialect::is_like(wanted, name)));
    names
}

fn not_found(index: &str) -> EsError {
    EsError::new(StatusCode::NOT_FOUND, "index_not_found_exception", format!("no such index [{index}]")).of(index)
}

/// Makes an index if there is no table of its name.
async fn ensure(app: &App, index: &str, deadline: Instant) -> Result<(), EsError> {
    if app.database.catalog().find_table(index).is_some() {
        return Ok(());
    }
    check_name(index)?;
    let options = format!("dynamic = '{DYNAMIC_FIELDS}'");
    run_sql(app, format!("CREATE TABLE IF NOT EXISTS {} USING document WITH ({options})", quoted(index)), deadline).await
}

fn check_name(index: &str) -> Result<(), EsError> {
    let reason = if index.is_empty() || index.len() > 255 {
        "must have 1 to 255 bytes"
    } else if index.chars().any(char::is_uppercase) {
        "must be lowercase"
    } else if index.starts_with(['_', '-', '+']) || matches!(index, "." | "..") {
        "must not start with '_', '-' or '+'"
    } else if index.contains(['\\', '/', '*', '?', '"', '<', '>', '|', ' ', ',', '#', ':']) || index.chars().any(char::is_control)
    {
        "must not contain any of \\ / * ? \" < > | , # : or white space"
    } else {
        return Ok(());
    };
    let reason = format!("Invalid index name [{index}], {reason}");
    Err(EsError::new(StatusCode::BAD_REQUEST, "invalid_index_name_exception", reason).of(index))
}

/// A name as SQL has it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn run_sql(app: &App, sql: String, deadline: Instant) -> Result<(), EsError> {
    let request = SqlRequest { sql, params: Vec::new(), wait: router::Cut::new(), deadline, session: None };
    Box::pin(app.database.sql(request)).await?;
    Ok(())
}

/// Waits as `refresh` says after a write.
async fn refreshed(app: &App, params: &Params, index: &str, deadline: Instant) -> Result<(), EsError> {
    match params.get("refresh").map(String::as_str) {
        None | Some("false") => Ok(()),
        Some("" | "true" | "wait_for") => Ok(app.database.refreshed(index, deadline).await?),
        Some(other) => Err(EsError::invalid(format!("refresh=[{other}]; it can be true, false or wait_for"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_times_are_read_as_elasticsearch_does() {
        for (name, good) in [
            ("logs-2024.01", true),
            ("a", true),
            ("", false),
            ("Logs", false),
            ("_x", false),
            ("a b", false),
            ("a*", false),
            ("..", false),
        ] {
            assert_eq!(check_name(name).is_ok(), good, "{name}");
        }
        assert_eq!(milliseconds("30s").unwrap(), 30_000);
        assert_eq!(milliseconds("500ms").unwrap(), 500);
        assert!(["", "s", "5", "5 s", "-1s", "99999999999999999999s"].iter().all(|text| milliseconds(text).is_err()));
    }

    #[test]
    fn errors_have_the_types_that_clients_know() {
        let of = |code, kind| EsError::from(router::Error::new(code, kind, "m").hint("h")).to_json();
        let missing = of(sqlstate::UNDEFINED_TABLE, ErrorKind::NotFound);
        assert_eq!(missing["status"], 404);
        assert_eq!(missing["error"]["type"], "index_not_found_exception");
        assert_eq!(missing["error"]["root_cause"][0]["reason"], "m; h");
        assert_eq!(of(sqlstate::SERIALIZATION_FAILURE, ErrorKind::Conflict)["status"], 409);
    }
}
