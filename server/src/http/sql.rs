//! `POST /v1/sql`: statements in, results out.
//!
//! Reads the request, runs it with a deadline enforced from outside, and hands rows to [`super::results`] in the form that the
//! client takes.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use router::{Cut, Rows, SqlAnswer, SqlRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{self, ApiQuery, Deadline};
use super::error::ApiError;
use super::results::{self, FORMATS, Format};
use super::{App, POSITION_HEADER, json_bytes, record, search, set_cut};

/// Parameters are scalars; the rest of the request is flat.
const BODY_DEPTH_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SqlBody {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
    #[serde(default)]
    wait: Option<String>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    session: Option<String>,
}

/// The query string, for statements that come as plain text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlQuery {
    wait: Option<String>,
    timeout_ms: Option<u64>,
    session: Option<String>,
}

/// `POST /v1/sql`.
pub async fn run(State(app): State<App>, ApiQuery(query): ApiQuery<SqlQuery>, request: Request) -> Result<Response, ApiError> {
    let offered = FORMATS.map(|(media_type, _)| media_type);
    let format = body::negotiate(request.headers(), &offered)
        .and_then(|chosen| FORMATS.iter().find(|(media_type, _)| *media_type == chosen))
        .map(|(_, format)| *format)
        .ok_or_else(|| ApiError::not_acceptable(format!("results are given as {}", offered.join(", "))))?;
    let body = read_request(&app, query, request).await?;
    let deadline = Deadline::new(body.timeout_ms, app.limits.timeout_ms_max)?;
    let wait = body::parse_wait(body.wait.as_deref())?;
    let started = Instant::now();
    let request = SqlRequest { sql: body.sql, params: body.params, wait, deadline: deadline.at, session: body.session };
    let answers = Box::pin(app.database.sql(request));
    let answers = tokio::time::timeout_at(deadline.at.into(), answers).await;
    let answers = answers.map_err(|_| deadline.passed("the statement did not finish"))??;
    let answering = Answering { deadline, started, bytes_max: app.limits.result_bytes_max };
    if format == Format::Json { answering.json(answers).await } else { answering.rows(answers, format).await }
}

async fn read_request(app: &App, query: SqlQuery, request: Request) -> Result<SqlBody, ApiError> {
    let (parts, body) = request.into_parts();
    let media_type = body::media_type(&parts.headers)?;
    let bytes_max = app.limits.body_bytes_max;
    match media_type.as_deref() {
        Some("application/json") => {
            let bytes = body::read_whole(&parts.headers, body, bytes_max).await?;
            let mut body: SqlBody = body::parse_json(&bytes, BODY_DEPTH_MAX)?;
            body.wait = body.wait.or(query.wait);
            body.timeout_ms = body.timeout_ms.or(query.timeout_ms);
            body.session = body.session.or(query.session);
            Ok(body)
        }
        Some("text/plain") => {
            let bytes = body::read_whole(&parts.headers, body, bytes_max).await?;
            let sql = String::from_utf8(bytes.into()).map_err(|_| ApiError::invalid("the statement is not UTF-8"))?;
            Ok(SqlBody { sql, params: Vec::new(), wait: query.wait, timeout_ms: query.timeout_ms, session: query.session })
        }
        other => {
            body::drain(body.into_data_stream()).await;
            Err(body::wrong_media_type(other, "application/json or text/plain"))
        }
    }
}

struct Answering {
    deadline: Deadline,
    started: Instant,
    bytes_max: usize,
}

impl Answering {
    async fn json(&self, answers: Vec<SqlAnswer>) -> Result<Response, ApiError> {
        let single = answers.len() == 1;
        let (mut cut, mut position) = (Cut::new(), Cut::new());
        let mut out = if single { Vec::new() } else { b"{\"results\":[".to_vec() };
        for (at, answer) in answers.into_iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            match answer {
                SqlAnswer::Rows(rows) => {
                    unite(&mut cut, &rows.cut);
                    rows.written.iter().flat_map(|written| &written.position).for_each(|written| unite(&mut position, written));
                    results::write_json(&mut out, rows, self.deadline, self.bytes_max, self.started).await?;
                }
                SqlAnswer::Written { affected, position: written } => {
                    self.write_change(&mut out, affected, None, written.as_ref());
                    written.iter().for_each(|written| unite(&mut position, written));
                }
                SqlAnswer::Done { tag, position: written } => {
                    self.write_change(&mut out, 0, Some(tag), written.as_ref());
                    written.iter().for_each(|written| unite(&mut position, written));
                }
            }
        }
        if !single {
            out.extend_from_slice(b"]}");
        }
        let mut response = json_bytes(out).into_response();
        set_cut(response.headers_mut(), super::CUT_HEADER, &cut);
        set_cut(response.headers_mut(), POSITION_HEADER, &position);
        Ok(response)
    }

    fn write_change(&self, out: &mut Vec<u8>, affected: u64, tag: Option<&str>, position: Option<&Cut>) {
        let position = position.map_or(Value::Null, super::position_json);
        let mut object = json!({ "affected": affected, "position": position, "elapsed_ms": search::elapsed_ms(self.started) });
        if let Some(tag) = tag {
            object["tag"] = Value::from(tag);
        }
        record::push_json(out, &object);
    }

    /// All forms but JSON hold one result; statements without rows leave only their position, in a header.
    async fn rows(&self, answers: Vec<SqlAnswer>, format: Format) -> Result<Response, ApiError> {
        let mut position = Cut::new();
        let mut only: Option<Rows> = None;
        let mut several = false;
        let mut changes = Vec::new();
        for answer in answers {
            match answer {
                SqlAnswer::Rows(rows) => {
                    rows.written.iter().flat_map(|written| &written.position).for_each(|written| unite(&mut position, written));
                    several |= only.replace(rows).is_some();
                }
                change => {
                    if let SqlAnswer::Written { position: Some(at), .. } | SqlAnswer::Done { position: Some(at), .. } = &change {
                        unite(&mut position, at);
                    }
                    changes.push(change);
                }
            }
        }
        if several {
            let error = ApiError::unsupported("several statements give rows, and only application/json holds several results");
            return Err(error.hint("ask for application/json, or send one statement at a time"));
        }
        match only {
            Some(rows) => {
                let mut response = results::respond(rows, format, self.deadline, self.bytes_max).await?;
                set_cut(response.headers_mut(), POSITION_HEADER, &position);
                Ok(response)
            }
            // There are no rows to put in that form.
            None => self.json(changes).await,
        }
    }
}

fn unite(cut: &mut Cut, other: &Cut) {
    other.ends().for_each(|(stream, partition, end)| cut.raise(stream, partition, end));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_members_are_named() {
        let error = body::parse_json::<SqlBody>(br#"{"sql":"SELECT 1","parms":[]}"#, 64).err().unwrap();
        assert!(error.to_json().contains("unknown field `parms`"), "{}", error.to_json());
        let error = body::parse_json::<SqlBody>(b"{}", 64).err().unwrap();
        assert!(error.to_json().contains("missing field `sql`"));
    }

    #[test]
    fn cuts_unite_at_the_larger_ends() {
        let mut cut: Cut = "a/0@5".parse().unwrap();
        unite(&mut cut, &"a/0@3,b/1@2".parse().unwrap());
        assert_eq!(cut.to_string(), "a/0@5,b/1@2");
    }
}
