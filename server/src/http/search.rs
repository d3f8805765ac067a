//! `POST /v1/search/{table}`: a search request in JSON, answered with the cut it saw.
//!
//! The request itself is the database's to judge; here only `wait` and `timeout_ms` are taken out of it.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::IntoResponse;
use serde_json::{Map, Value};

use super::body::{self, ApiPath, Deadline};
use super::error::ApiError;
use super::{App, json_bytes};

/// A request nested deeper than this is refused; queries in queries need some.
const REQUEST_DEPTH_MAX: usize = 64;

/// `POST /v1/search/{table}`.
pub async fn run(
    State(app): State<App>,
    ApiPath(table): ApiPath<String>,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let media_type = body::media_type(&parts.headers)?;
    if media_type.as_deref() != Some("application/json") {
        return Err(body::wrong_media_type(media_type.as_deref(), "application/json"));
    }
    let bytes = body::read_whole(&parts.headers, body, app.limits.body_bytes_max).await?;
    let mut request: Map<String, Value> = body::parse_json(&bytes, REQUEST_DEPTH_MAX)?;
    let wait = match request.remove("wait") {
        None | Some(Value::Null) => None,
        Some(Value::String(wait)) => Some(wait),
        Some(_) => return Err(ApiError::invalid("wait is not a string; write a position like \"commits/0@1234\"")),
    };
    let timeout_ms = match request.remove("timeout_ms") {
        None | Some(Value::Null) => None,
        Some(timeout) => Some(timeout.as_u64().ok_or_else(|| ApiError::invalid("timeout_ms is not a whole number"))?),
    };
    let deadline = Deadline::new(timeout_ms, app.limits.timeout_ms_max)?;
    let wait = body::parse_wait(wait.as_deref())?;
    let show = |response| {
        serde_json::value::to_raw_value(&response).map_err(|error| router::Error::internal(format!("the answer: {error}")))
    };
    let search = app.database.search(&table, Value::Object(request), &wait, deadline.at, show);
    let late = || deadline.passed(&format!("the search in {table} did not finish"));
    let (response, cut) = tokio::time::timeout_at(deadline.at.into(), search).await.map_err(|_| late())??;
    let tail = format!(",\"cut\":{},\"elapsed_ms\":{}}}", super::position_json(&cut), elapsed_ms(started));
    Ok(json_bytes(splice(response.get(), &tail)))
}

/// Milliseconds with three digits behind the point.
pub fn elapsed_ms(since: Instant) -> f64 {
    let micros = u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX);
    f64::from(micros) / 1000.0
}

/// Puts members, written as `,"a":1}`, in the place of an object's last brace.
fn splice(object: &str, members: &str) -> String {
    let body = object.trim_end().strip_suffix('}').unwrap_or("{").trim_end();
    let members = if body == "{" { &members[1..] } else { members };
    format!("{body}{members}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_added_to_an_object_without_parsing_it() {
        assert_eq!(splice("{\"total\":1 }\n", ",\"cut\":null}"), "{\"total\":1,\"cut\":null}");
        assert_eq!(splice("{}", ",\"cut\":null}"), "{\"cut\":null}");
    }
}
