//! The HTTP door: the table of routes, what handlers share, and what is done around every request.
//!
//! `cli::serve` builds an [`App`] and hands [`router()`] to the accept loop in [`accept`]. A request passes [`observe`]
//! (cross-site refusal, panics, metrics, the access log), then its handler, which parses with [`body`] and calls the database;
//! whatever goes wrong is an [`error::ApiError`].

pub mod accept;
pub mod body;
pub mod changes;
pub mod console;
pub mod cursors;
pub mod documents;
pub mod error;
pub mod es;
pub mod follow;
pub mod ingest;
pub mod json;
pub mod lines;
pub mod metrics;
pub mod openapi;
pub mod record;
pub mod results;
pub mod saved;
pub mod search;
pub mod sessions;
pub mod sql;
pub mod streams;
pub mod tail;
pub mod views;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use bytes::Bytes;
use futures::FutureExt;
use router::{Cut, Database};
use tokio::sync::watch;

use error::ApiError;

/// The cut a result was read at.
const CUT_HEADER: HeaderName = HeaderName::from_static("headwater-cut");
/// Where a write stands in the log.
const POSITION_HEADER: HeaderName = HeaderName::from_static("headwater-position");

/// Bounds of requests and answers.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// A body that is held in memory.
    pub body_bytes_max: usize,
    /// A streamed body of records.
    pub ndjson_body_bytes_max: u64,
    /// Key and value of a record.
    pub record_bytes_max: usize,
    /// A result that is not streamed.
    pub result_bytes_max: usize,
    /// The longest a request may ask for.
    pub timeout_ms_max: u64,
}

impl App {
    /// Waits until the server stops.
    pub async fn stopped(&self) {
        // An error means that whoever could say stop is gone.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }
}

/// What handlers share.
#[derive(Clone)]
pub struct App {
    /// Where everything is.
    pub database: Database,
    /// Bounds of requests and answers.
    pub limits: HttpLimits,
    /// What happened so far.
    pub metrics: Arc<metrics::Metrics>,
    /// Becomes true when the server stops; endless answers end then.
    pub stop: watch::Receiver<bool>,
}

/// The path of one cursor.
const CURSOR: &str = "/v1/cursors/{name}/{stream}/{partition}";

/// The path of one document.
const DOCUMENT: &str = "/v1/documents/{table}/{id}";

/// The path of one saved search.
const SAVED_SEARCH: &str = "/v1/searches/{table}/{name}";

/// A method of a path.
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with `{parameters}`.
    pub path: &'static str,
    handler: MethodRouter<App>,
}

/// Every route there is; [`router()`] is built from it and `openapi.json` is tested against it.
pub fn routes() -> Vec<Route> {
    let get_ = |path, handler| Route { method: Method::GET, path, handler };
    let post_ = |path, handler| Route { method: Method::POST, path, handler };
    vec![
        post_("/v1/sql", post(sql::run)),
        post_("/v1/sessions", post(sessions::open)),
        Route { method: Method::DELETE, path: "/v1/sessions/{session}", handler: delete(sessions::close) },
        get_("/v1/streams", get(streams::list)),
        get_("/v1/streams/{stream}", get(streams::show)),
        post_("/v1/streams/{stream}/records", post(streams::append)),
        get_("/v1/streams/{stream}/partitions/{partition}/records", get(streams::read)),
        get_("/v1/streams/{stream}/tail", get(tail::follow)),
        get_("/v1/tables/{table}/changes", get(changes::read)),
        get_("/v1/cursors", get(cursors::list)),
        get_(CURSOR, get(cursors::show)),
        Route { method: Method::PUT, path: CURSOR, handler: put(cursors::commit) },
        Route { method: Method::DELETE, path: CURSOR, handler: delete(cursors::delete) },
        get_(DOCUMENT, get(documents::show)),
        Route { method: Method::PUT, path: DOCUMENT, handler: put(documents::put) },
        Route { method: Method::PATCH, path: DOCUMENT, handler: patch(documents::patch) },
        Route { method: Method::DELETE, path: DOCUMENT, handler: delete(documents::delete) },
        post_("/v1/search/{table}", post(search::run)),
        get_("/v1/searches/{table}", get(saved::list)),
        get_(SAVED_SEARCH, get(saved::show)),
        Route { method: Method::PUT, path: SAVED_SEARCH, handler: put(saved::put) },
        Route { method: Method::DELETE, path: SAVED_SEARCH, handler: delete(saved::delete) },
        get_("/v1/matches/{table}", get(saved::follow)),
        get_("/v1/views", get(views::list)),
        get_("/v1/views/{view}", get(views::show)),
        post_("/v1/views/{view}/rebuild", post(views::rebuild)),
        get_("/metrics", get(metrics::show)),
        get_("/healthz", get(views::healthy)),
        get_("/readyz", get(views::ready)),
        get_("/openapi.json", get(openapi::show)),
        get_("/", get(console::show)),
    ]
}

/// The service of all routes.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, route.handler);
    }
    let around = axum::middleware::from_fn_with_state(app.clone(), observe);
    // The same with a slash behind it: clients that are given a prefix ask for that.
    let router = router.nest("/es", es::router()).route("/es/", get(es::info));
    router.fallback(no_such_path).method_not_allowed_fallback(method_not_allowed).layer(around).with_state(app)
}

async fn no_such_path(request: Request) -> ApiError {
    let path = request.uri().path().to_owned();
    if let Err(error) = body::ignore(request).await {
        return error;
    }
    let error = ApiError::no_such_path(format!("there is nothing at {path}"));
    match nearest_path(&path) {
        Some(near) => error.hint(format!("did you mean {near}? /openapi.json describes all paths")),
        None => error.hint("/openapi.json describes all paths"),
    }
}

/// The pattern that `path` most likely was meant to match, with its parameters filled in.
fn nearest_path(path: &str) -> Option<String> {
    let given: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let filled = routes().into_iter().map(|route| {
        let segments = route.path.split('/').enumerate();
        let segments = segments.map(|(at, segment)| match given.get(at) {
            Some(own) if segment.starts_with('{') && !own.is_empty() => own,
            _ => segment,
        });
        segments.collect::<Vec<_>>().join("/")
    });
    let scored = filled.map(|filled| (strsim::damerau_levenshtein(path, &filled), filled));
    scored.filter(|(distance, filled)| filled.len() > 1 && *distance <= (filled.len() / 3).max(2)).min().map(|(_, filled)| filled)
}

async fn method_not_allowed(request: Request) -> ApiError {
    let matched = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let taken = routes().into_iter().filter(|route| route.path == matched).map(|route| route.method.to_string());
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    let taken = taken.collect::<Vec<_>>().join(" and ");
    if let Err(error) = body::ignore(request).await {
        return error;
    }
    ApiError::method_not_allowed(message).hint(format!("it takes {taken}"))
}

/// Around every request.
async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let response = match refuse_other_sites(&method, request.headers()) {
        Err(error) => error.into_response(),
        Ok(()) => AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|panic| {
            // The panic hook has logged where; this says which request it was.
            tracing::error!(%method, path, panic = panic_text(panic.as_ref()), "a handler panicked");
            ApiError::internal("the request met a bug; the log of the server has the details").into_response()
        }),
    };
    let elapsed = started.elapsed();
    app.metrics.request(&method, &route, response.status(), elapsed);
    tracing::info!(target: "access", %method, path, status = response.status().as_u16(), elapsed_us = elapsed.as_micros(), "request");
    response
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Browsers let any page post plain text to any address, this one included, without asking: what changes something must not
/// come from a page of another site. Programs send neither header.
fn refuse_other_sites(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Ok(());
    }
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let own = match (text(HeaderName::from_static("sec-fetch-site")), text(header::ORIGIN)) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => origin.split_once("://").map(|(_, host)| host) == text(header::HOST),
        (None, None) => true,
    };
    if own { Ok(()) } else { Err(ApiError::forbidden("requests from pages of other sites are refused")) }
}

type JsonAnswer = ([(HeaderName, HeaderValue); 1], Bytes);

/// A JSON answer.
fn json_body(body: &impl serde::Serialize) -> JsonAnswer {
    // Serializing into memory fails for maps with keys that are not text only; there are none.
    json_bytes(serde_json::to_vec(body).unwrap_or_else(|_| b"null".to_vec()))
}

/// An answer that is JSON already.
fn json_bytes(body: impl Into<Bytes>) -> JsonAnswer {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.into())
}

/// Names a cut in a header, unless it is empty.
fn set_cut(headers: &mut HeaderMap, name: HeaderName, cut: &Cut) {
    let text = cut.to_string();
    if let (false, Ok(value)) = (text.is_empty(), HeaderValue::from_bytes(text.as_bytes())) {
        headers.insert(name, value);
    }
}

/// A position as JSON: null when there is none.
fn position_json(cut: &Cut) -> serde_json::Value {
    let text = cut.to_string();
    if text.is_empty() { serde_json::Value::Null } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_paths_get_a_suggestion_that_keeps_the_names() {
        assert_eq!(nearest_path("/v1/stream").as_deref(), Some("/v1/streams"));
        assert_eq!(nearest_path("/v1/streams/commits/record").as_deref(), Some("/v1/streams/commits/records"));
        assert_eq!(nearest_path("/v1/streams/a/partition/0/records").as_deref(), Some("/v1/streams/a/partitions/0/records"));
        assert_eq!(nearest_path("/something/else/entirely/different"), None);
    }

    #[test]
    fn only_pages_of_this_server_may_change_anything() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect::<HeaderMap>()
        };
        let post = |pairs: &[(&'static str, &'static str)]| refuse_other_sites(&Method::POST, &with(pairs)).is_ok();
        assert!(post(&[]));
        assert!(post(&[("sec-fetch-site", "same-origin"), ("origin", "https://proxy"), ("host", "h:1")]));
        assert!(post(&[("origin", "http://h:1"), ("host", "h:1")]));
        assert!(!post(&[("origin", "http://evil"), ("host", "h:1")]));
        assert!(!post(&[("sec-fetch-site", "cross-site")]));
        assert!(refuse_other_sites(&Method::GET, &with(&[("sec-fetch-site", "cross-site")])).is_ok());
    }
}
