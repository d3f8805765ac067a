//! Documents by their ids: `/v1/documents/{table}/{id}`.
//!
//! The version of a document is the offset of the record that wrote it. It stands in `ETag`; with `If-Match` a change is made only to
//! that version, with `If-None-Match: *` only where there is none.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use router::{DocumentChange, DocumentEdit, DocumentWritten, Expect};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::body::{self, ApiPath, ApiQuery, Deadline};
use super::error::ApiError;
use super::{App, CUT_HEADER, POSITION_HEADER, json_body, json_bytes, position_json, set_cut};

/// Nesting of a document.
const DOCUMENT_DEPTH_MAX: usize = 64;
const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// The path of one document.
type OneDocument = ApiPath<(String, String)>;

/// How a document is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadQuery {
    wait: Option<String>,
    timeout_ms: Option<u64>,
}

/// How long a change may take.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeQuery {
    timeout_ms: Option<u64>,
}

/// `GET /v1/documents/{table}/{id}`: the document, byte for byte.
pub async fn show(
    State(app): State<App>,
    ApiPath((table, id)): OneDocument,
    ApiQuery(query): ApiQuery<ReadQuery>,
) -> Result<Response, ApiError> {
    let deadline = Deadline::new(query.timeout_ms, app.limits.timeout_ms_max)?;
    let wait = body::parse_wait(query.wait.as_deref())?;
    let (document, cut) = app.database.document(&table, &id, &wait, deadline.at).await?;
    let mut answer = json_bytes(document.json).into_response();
    set_cut(answer.headers_mut(), CUT_HEADER, &cut);
    if let Some(version) = document.version {
        answer.headers_mut().insert(header::ETAG, etag(version));
    }
    Ok(answer)
}

#[derive(Serialize)]
struct Changed<'a> {
    #[serde(rename = "_id")]
    id: &'a str,
    version: Option<u64>,
    created: bool,
    position: Value,
}

/// `PUT /v1/documents/{table}/{id}`: puts the document of the body in the place of whatever has the id.
pub async fn put(
    State(app): State<App>,
    ApiPath(of): OneDocument,
    ApiQuery(query): ApiQuery<ChangeQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    change(&app, of, &query, request, "application/json", |media_type, body| {
        let json = || body::parse_json::<&RawValue>(body, DOCUMENT_DEPTH_MAX);
        (media_type == "application/json").then(|| Ok(DocumentEdit::Put(json()?.get().to_owned())))
    })
    .await
}

/// `PATCH /v1/documents/{table}/{id}`: a JSON Merge Patch or a JSON Patch.
pub async fn patch(
    State(app): State<App>,
    ApiPath(of): OneDocument,
    ApiQuery(query): ApiQuery<ChangeQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    change(&app, of, &query, request, &format!("{MERGE_PATCH} or {JSON_PATCH}"), |media_type, body| {
        let json = || body::parse_json::<Value>(body, DOCUMENT_DEPTH_MAX);
        match media_type {
            MERGE_PATCH => Some(json().map(DocumentEdit::Merge)),
            JSON_PATCH => Some(json().and_then(|json| Ok(DocumentEdit::patch(json)?))),
            _ => None,
        }
    })
    .await
}

/// A change by what the body says; `read` knows some media types.
async fn change(
    app: &App,
    (table, id): (String, String),
    query: &ChangeQuery,
    request: Request,
    known: &str,
    read: impl FnOnce(&str, &[u8]) -> Option<Result<DocumentEdit, ApiError>>,
) -> Result<Response, ApiError> {
    let deadline = Deadline::new(query.timeout_ms, app.limits.timeout_ms_max)?;
    let (parts, content) = request.into_parts();
    let expect = expected(&parts.headers)?;
    let media_type = body::media_type(&parts.headers)?;
    let bytes = body::read_whole(&parts.headers, content, app.limits.record_bytes_max).await?;
    let edit = media_type.as_deref().and_then(|media_type| read(media_type, &bytes));
    let edit = edit.ok_or_else(|| body::wrong_media_type(media_type.as_deref(), known))??;
    let written = app.database.change_document(&table, DocumentChange { id: id.clone(), edit, expect }, deadline.at).await?;
    Ok(changed(&id, &written))
}

/// `DELETE /v1/documents/{table}/{id}`.
pub async fn delete(
    State(app): State<App>,
    ApiPath((table, id)): OneDocument,
    ApiQuery(query): ApiQuery<ChangeQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let deadline = Deadline::new(query.timeout_ms, app.limits.timeout_ms_max)?;
    let expect = expected(&headers)?;
    let change = DocumentChange { id: id.clone(), edit: DocumentEdit::Delete, expect };
    let written = app.database.change_document(&table, change, deadline.at).await?;
    let mut answer = changed(&id, &written);
    answer.headers_mut().remove(header::ETAG);
    Ok(answer)
}

fn changed(id: &str, written: &DocumentWritten) -> Response {
    let position = written.position.clone().unwrap_or_default();
    let created = !written.existed;
    let body = json_body(&Changed { id, version: written.version, created, position: position_json(&position) });
    let mut answer = (if created { StatusCode::CREATED } else { StatusCode::OK }, body).into_response();
    set_cut(answer.headers_mut(), POSITION_HEADER, &position);
    if let Some(version) = written.version {
        answer.headers_mut().insert(header::ETAG, etag(version));
    }
    answer
}

fn etag(version: u64) -> HeaderValue {
    // Digits and quotes are fine in a header.
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// The version that a change is meant for.
fn expected(headers: &HeaderMap) -> Result<Option<Expect>, ApiError> {
    let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim().to_owned());
    match (text(&header::IF_MATCH), text(&header::IF_NONE_MATCH)) {
        (None, None) => Ok(None),
        (None, Some(any)) if any == "*" => Ok(Some(Expect::NoRecord)),
        (Some(version), None) => {
            let digits = version.trim_start_matches("W/").trim_matches('"');
            let version = digits.parse().map_err(|_| {
                ApiError::invalid(format!("If-Match is {version}"))
                    .hint("send the ETag that reading the document gave, such as \"1234\"")
            })?;
            Ok(Some(Expect::Last(version)))
        }
        (Some(_), Some(_)) => Err(ApiError::invalid("If-Match and If-None-Match can't both be given")),
        (None, Some(other)) => Err(ApiError::invalid(format!("If-None-Match is {other}")).hint("only If-None-Match: * is known")),
    }
}
