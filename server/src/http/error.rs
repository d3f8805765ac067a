//! Errors as HTTP gives them, and the one table from kinds to statuses.
//!
//! Every handler returns [`ApiError`]; everything else that can fail (the database, axum's extractors, bodies) is turned into it
//! here, so that an answer that is an error has one shape: `{"error":{"code","kind","message","hint"}}`.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use logcore::ErrorKind;
use router::{Cut, sqlstate};
use serde::Serialize;
use serde_json::{Map, Value};

/// The SQLSTATE of requests that HTTP itself refuses: PostgreSQL's protocol violation.
const PROTOCOL_VIOLATION: &str = "08P01";

/// The table: what each kind is called and which status it gets.
const fn status_of(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        ErrorKind::Conflict => (StatusCode::CONFLICT, "conflict"),
        ErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        ErrorKind::Throttled => (StatusCode::TOO_MANY_REQUESTS, "throttled"),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        ErrorKind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
        ErrorKind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, "corrupt"),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

/// An answer that is an error.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    message: String,
    hint: Option<String>,
    beside: Option<Box<Map<String, Value>>>,
    /// What was appended all the same.
    position: Option<Box<Cut>>,
}

impl ApiError {
    /// An error of a kind of the table.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        let (status, kind) = status_of(kind);
        Self { status, kind, code, message: message.into(), hint: None, beside: None, position: None }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, sqlstate::INVALID_PARAMETER_VALUE, message)
    }

    /// The design has it, this version has not.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, sqlstate::FEATURE_NOT_SUPPORTED, message)
    }

    /// Over a limit.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::TooLarge, sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
    }

    /// The time that was given is over.
    pub fn timeout(message: impl Into<String>) -> Self {
        let error = Self::new(ErrorKind::Unavailable, sqlstate::QUERY_CANCELED, message);
        Self { status: StatusCode::GATEWAY_TIMEOUT, ..error }
    }

    /// A bug.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, sqlstate::INTERNAL_ERROR, message)
    }

    /// Nothing is at this path.
    pub fn no_such_path(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, PROTOCOL_VIOLATION, message)
    }

    /// The path does not take this method.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, ..Self::new(ErrorKind::Invalid, PROTOCOL_VIOLATION, message) }
    }

    /// The body is of a kind that is not read here.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, ..Self::new(ErrorKind::Invalid, PROTOCOL_VIOLATION, message) }
    }

    /// Nothing that is given here is what the client takes.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_ACCEPTABLE, ..Self::new(ErrorKind::Invalid, PROTOCOL_VIOLATION, message) }
    }

    /// A page of another site sent this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        let error = Self::new(ErrorKind::Invalid, "42501", message);
        Self { status: StatusCode::FORBIDDEN, kind: "forbidden", ..error }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `place` in front of the message.
    #[must_use]
    pub fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Adds a member beside `"error"`.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.beside.get_or_insert_default().insert(name.to_owned(), value);
        self
    }

    /// Says what was appended all the same: beside `"error"`, and the position in its header too.
    #[must_use]
    pub fn with_appended(mut self, records: u64, position: &Cut) -> Self {
        self.position = Some(Box::new(position.clone()));
        self.with("appended", records.into()).with("position", super::position_json(position))
    }

    /// What happened, and what to do.
    pub fn message(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{}; {hint}", self.message),
            None => self.message.clone(),
        }
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body: `{"error":{...}}` and what stands beside it.
    pub fn to_json(&self) -> String {
        let error = Fields { code: self.code, kind: self.kind, message: &self.message, hint: self.hint.as_deref() };
        let body = Body { error, beside: self.beside.as_deref() };
        serde_json::to_string(&body).expect("texts are JSON")
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: Fields<'a>,
    #[serde(flatten)]
    beside: Option<&'a Map<String, Value>>,
}

#[derive(Serialize)]
struct Fields<'a> {
    code: &'a str,
    kind: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl From<router::Error> for ApiError {
    fn from(error: router::Error) -> Self {
        let mut answer = Self::new(error.kind(), error.code(), error.message());
        answer.hint = error.hint_text().map(str::to_owned);
        if error.kind() == ErrorKind::Unavailable && error.code() == sqlstate::QUERY_CANCELED {
            answer.status = StatusCode::GATEWAY_TIMEOUT;
        }
        answer
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        let text = rejection.body_text();
        Self::invalid(format!("the query string: {}", text.trim_start_matches("Failed to deserialize query string: ")))
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::invalid(format!("the path: {}", rejection.body_text().trim_start_matches("Invalid URL: ")))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, super::json_bytes(self.to_json())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(position) = &self.position {
            super::set_cut(response.headers_mut(), super::POSITION_HEADER, position);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_status_of_the_interface() {
        let table = [
            (ErrorKind::Invalid, 400, "invalid"),
            (ErrorKind::NotFound, 404, "not_found"),
            (ErrorKind::Conflict, 409, "conflict"),
            (ErrorKind::TooLarge, 413, "too_large"),
            (ErrorKind::Throttled, 429, "throttled"),
            (ErrorKind::Unavailable, 503, "unavailable"),
            (ErrorKind::NoSpace, 507, "no_space"),
            (ErrorKind::Corrupt, 500, "corrupt"),
            (ErrorKind::Internal, 500, "internal"),
        ];
        for (kind, status, name) in table {
            let error = ApiError::from(router::Error::new("XX000", kind, "m").hint("h"));
            assert_eq!(error.status().as_u16(), status);
            assert_eq!(error.to_json(), format!(r#"{{"error":{{"code":"XX000","kind":"{name}","message":"m","hint":"h"}}}}"#));
        }
    }

    #[test]
    fn a_timeout_is_unavailable_with_504_and_throttling_says_when_to_come_again() {
        let late = router::Error::new(sqlstate::QUERY_CANCELED, ErrorKind::Unavailable, "late");
        assert_eq!(ApiError::from(late).status(), StatusCode::GATEWAY_TIMEOUT);
        let busy = ApiError::new(ErrorKind::Throttled, sqlstate::CONFIGURATION_LIMIT, "busy").into_response();
        assert_eq!(busy.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn what_was_appended_stands_beside_the_error() {
        let error = ApiError::invalid("no").at("line 3").with_appended(2, &"s/0@1".parse().unwrap());
        let body = r#"{"error":{"code":"22023","kind":"invalid","message":"line 3: no"},"appended":2,"position":"s/0@1"}"#;
        assert_eq!(error.to_json(), body);
        assert_eq!(error.into_response().headers()["headwater-position"], "s/0@1");
        let nothing = ApiError::invalid("no").with_appended(0, &Cut::new()).into_response();
        assert!(!nothing.headers().contains_key("headwater-position"));
    }
}
