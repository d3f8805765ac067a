//! Saved searches and what they find: `/v1/searches/{table}`, `/v1/searches/{table}/{name}`, `/v1/matches/{table}`.
//!
//! Matches come as server-sent events, one for each version of a document that any search finds; see [`super::follow`].

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::BoxFuture;
use router::catalog::SavedSearch;
use router::{Cut, Database, Match, MatchesPage, ReadFrom, ReadLimits};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{self, ApiPath, ApiQuery};
use super::error::ApiError;
use super::follow::{Begin, Event, Source, follow as follow_source};
use super::streams::parse_offset;
use super::{App, POSITION_HEADER, json_body, position_json, set_cut};

/// Nesting of a saved search.
const DEPTH_MAX: usize = 64;

type OneSearch = ApiPath<(String, String)>;

/// What is saved.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    query: Value,
}

/// `PUT /v1/searches/{table}/{name}`: saves a search.
pub async fn put(State(app): State<App>, ApiPath((table, name)): OneSearch, request: Request) -> Result<Response, ApiError> {
    let (parts, content) = request.into_parts();
    let media_type = body::media_type(&parts.headers)?;
    let bytes = body::read_whole(&parts.headers, content, app.limits.record_bytes_max).await?;
    if media_type.as_deref() != Some("application/json") {
        return Err(body::wrong_media_type(media_type.as_deref(), "application/json"));
    }
    let Saved { query } = body::parse_json(&bytes, DEPTH_MAX)?;
    let position = app.database.save_search(&table, &name, query).await?;
    Ok(written(&name, &position))
}

/// `DELETE /v1/searches/{table}/{name}`: forgets it.
pub async fn delete(State(app): State<App>, ApiPath((table, name)): OneSearch, request: Request) -> Result<Response, ApiError> {
    body::ignore(request).await?;
    let position = app.database.drop_search(&table, &name).await?;
    Ok(written(&name, &position))
}

fn written(name: &str, position: &Cut) -> Response {
    let mut answer = json_body(&json!({"name": name, "position": position_json(position)})).into_response();
    set_cut(answer.headers_mut(), POSITION_HEADER, position);
    answer
}

fn shown(search: &SavedSearch) -> Value {
    json!({"name": search.name, "query": search.query})
}

/// `GET /v1/searches/{table}`: all of a table.
pub async fn list(State(app): State<App>, ApiPath(table): ApiPath<String>) -> Result<impl IntoResponse, ApiError> {
    let searches = app.database.saved_searches(&table)?;
    Ok(json_body(&json!({"searches": searches.iter().map(|search| shown(search)).collect::<Vec<_>>()})))
}

/// `GET /v1/searches/{table}/{name}`.
pub async fn show(State(app): State<App>, ApiPath((table, name)): OneSearch) -> Result<impl IntoResponse, ApiError> {
    let search = app.database.saved_search(&table, &name)?;
    Ok(json_body(&shown(&search)))
}

/// Where to begin, and what to follow.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchesQuery {
    offset: Option<String>,
    partition: Option<u32>,
    search: Option<String>,
}

/// `GET /v1/matches/{table}`.
pub async fn follow(
    State(app): State<App>,
    ApiPath(table): ApiPath<String>,
    ApiQuery(query): ApiQuery<MatchesQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    match &query.search {
        Some(search) => drop(app.database.saved_search(&table, search)?),
        None => drop(app.database.saved_searches(&table)?),
    }
    let stream = app.database.view(&table)?.stream;
    let info = app.database.stream(&stream)?;
    let from = parse_offset(query.offset.as_deref().unwrap_or("latest"))?;
    let begin = Begin { stream: &info.name, partitions: &info.partitions, only: query.partition, from };
    let source = Matches { database: app.database.clone(), table, search: query.search };
    follow_source(app, source, &begin, request.headers())
}

struct Matches {
    database: Database,
    table: String,
    search: Option<String>,
}

impl Source for Matches {
    type Page = MatchesPage;

    fn read(&self, partition: u32, next: u64, limits: ReadLimits) -> BoxFuture<'static, router::Result<MatchesPage>> {
        let (database, table, search) = (self.database.clone(), self.table.clone(), self.search.clone());
        async move { database.matches(&table, partition, ReadFrom::Offset(next), search.as_deref(), limits).await }.boxed()
    }

    fn next_offset(page: &MatchesPage) -> u64 {
        page.next_offset
    }

    fn each(partition: u32, page: &MatchesPage, event: Event<'_>) {
        for found in &page.matches {
            event(found.offset, &|out| write(out, &format!("{}/{partition}@{}", page.stream, found.offset), found));
        }
    }
}

/// A match as an object on one line.
fn write(out: &mut Vec<u8>, position: &str, found: &Match) {
    let head = json!({"_id": found.id, "searches": found.searches, "position": position}).to_string();
    out.extend_from_slice(head.strip_suffix('}').unwrap_or_default().as_bytes());
    out.extend_from_slice(b",\"doc\":");
    // White space means nothing in JSON, and a line break would end the event.
    out.extend(found.json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    out.push(b'}');
}
