//! Cursors: `/v1/cursors`, where durable readers keep their place.
//!
//! Called by consumers, the forwarder, the command line and operators.

use axum::extract::{Request, State};
use axum::response::IntoResponse;
use logcore::Offset;
use logcore::cursor::{CURSORS_MAX, Commit, Expected};
use router::CursorInfo;
use serde::{Deserialize, Serialize};

use super::body::{self, ApiPath, ApiQuery, Deadline};
use super::error::ApiError;
use super::{App, json_body};

/// Cursors of a list when the request does not say.
const LIST_CURSORS: usize = 1_000;
/// The body is flat.
const BODY_DEPTH_MAX: usize = 2;

/// Which cursors.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    stream: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct List {
    cursors: Vec<CursorInfo>,
    total: usize,
}

/// `GET /v1/cursors`.
pub async fn list(State(app): State<App>, ApiQuery(query): ApiQuery<ListQuery>) -> Result<impl IntoResponse, ApiError> {
    let limit = query.limit.unwrap_or(LIST_CURSORS);
    if !(1..=CURSORS_MAX).contains(&limit) {
        return Err(ApiError::invalid(format!("limit is {limit}, it goes from 1 to {CURSORS_MAX}")));
    }
    let mut cursors = app.database.cursors(query.stream.as_deref())?;
    let total = cursors.len();
    cursors.truncate(limit);
    Ok(json_body(&List { cursors, total }))
}

/// The path of one cursor.
type OneCursor = ApiPath<(String, String, u32)>;

/// `GET /v1/cursors/{name}/{stream}/{partition}`.
pub async fn show(State(app): State<App>, ApiPath((name, stream, partition)): OneCursor) -> Result<impl IntoResponse, ApiError> {
    Ok(json_body(&app.database.cursor(&name, &stream, partition)?))
}

/// How long a change may take.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeQuery {
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitBody {
    // Signed, so that -1 is refused in words of ours.
    offset: i64,
    #[serde(default)]
    expect: Option<i64>,
    #[serde(default)]
    reset: bool,
}

impl CommitBody {
    fn into_commit(self) -> Result<Commit, ApiError> {
        let offset = u64::try_from(self.offset).map_err(|_| {
            ApiError::invalid(format!("\"offset\" is {}, the least is 0", self.offset)).hint("write the next offset to read")
        })?;
        let expected = match self.expect {
            None => Expected::Anything,
            Some(-1) => Expected::Nothing,
            Some(offset) => match u64::try_from(offset) {
                Ok(offset) => Expected::At(Offset::new(offset)),
                Err(_) => {
                    return Err(
                        ApiError::invalid(format!("\"expect\" is {offset}, the least is -1")).hint("-1 means: no cursor yet")
                    );
                }
            },
        };
        Ok(Commit { offset: Offset::new(offset), expected, reset: self.reset })
    }
}

/// Where a cursor is now, or was.
#[derive(Serialize)]
struct Changed {
    name: String,
    stream: String,
    partition: u32,
    offset: u64,
}

/// `PUT /v1/cursors/{name}/{stream}/{partition}`.
pub async fn commit(
    State(app): State<App>,
    ApiPath((name, stream, partition)): OneCursor,
    ApiQuery(query): ApiQuery<ChangeQuery>,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let (parts, body) = request.into_parts();
    let media_type = body::media_type(&parts.headers)?;
    if media_type.as_deref() != Some("application/json") {
        return Err(body::wrong_media_type(media_type.as_deref(), "application/json"));
    }
    let bytes = body::read_whole(&parts.headers, body, app.limits.body_bytes_max).await?;
    let commit = body::parse_json::<CommitBody>(&bytes, BODY_DEPTH_MAX)?.into_commit()?;
    let deadline = Deadline::new(query.timeout_ms, app.limits.timeout_ms_max)?.at;
    let offset = app.database.commit_cursor(&name, &stream, partition, commit, deadline).await?;
    Ok(json_body(&Changed { name, stream, partition, offset }))
}

/// `DELETE /v1/cursors/{name}/{stream}/{partition}`.
pub async fn delete(
    State(app): State<App>,
    ApiPath((name, stream, partition)): OneCursor,
    ApiQuery(query): ApiQuery<ChangeQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let deadline = Deadline::new(query.timeout_ms, app.limits.timeout_ms_max)?.at;
    let offset = app.database.delete_cursor(&name, &stream, partition, deadline).await?;
    Ok(json_body(&Changed { name, stream, partition, offset }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(text: &str) -> Result<Commit, String> {
        let body: CommitBody = body::parse_json(text.as_bytes(), BODY_DEPTH_MAX).map_err(|error| error.to_json())?;
        body.into_commit().map_err(|error| error.to_json())
    }

    #[test]
    fn a_commit_says_where_to_and_perhaps_where_from() {
        let to = |offset| Commit::to(Offset::new(offset));
        assert_eq!(commit(r#"{"offset":7}"#).unwrap(), to(7));
        assert_eq!(commit(r#"{"offset":0,"reset":true}"#).unwrap(), Commit { reset: true, ..to(0) });
        assert_eq!(commit(r#"{"offset":7,"expect":-1}"#).unwrap().expected, Expected::Nothing);
        assert_eq!(commit(r#"{"offset":7,"expect":3}"#).unwrap().expected, Expected::At(Offset::new(3)));
        for (bad, says) in [
            (r#"{"offset":-1}"#, r#"\"offset\" is -1"#),
            (r#"{"offset":1,"expect":-2}"#, r#"\"expect\" is -2"#),
            (r#"{"offset":1.5}"#, "1.5"),
            (r#"{"offset":"1"}"#, "string"),
            (r#"{"ofset":1}"#, "ofset"),
            ("{}", "offset"),
        ] {
            let error = commit(bad).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
