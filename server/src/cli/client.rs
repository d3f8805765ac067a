//! A small HTTP client for the commands that talk to a server.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body, SendBody};

/// Errors and single objects are smaller than this.
const SMALL_BYTES_MAX: u64 = 256 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the server answered instead of what was asked for.
#[derive(Clone, Debug)]
pub struct ServerError {
    /// SQLSTATE.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The whole body, if it was JSON.
    pub body: Option<Value>,
}

impl ServerError {
    /// Reads `{"error":{...}}`; `None` if it is something else.
    pub fn from_body(body: Value) -> Option<Self> {
        let error = body.get("error")?;
        let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self { code: text("code")?, message: text("message")?, hint: text("hint"), body: Some(body) })
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ServerError {}

/// A connection to a server.
pub struct Client {
    base: String,
    agent: Agent,
}

impl Client {
    /// A client of the server at `url`.
    ///
    /// # Errors
    /// When it is no URL that we speak.
    pub fn new(url: &str) -> Result<Self> {
        let base = match url.split_once("://") {
            None => format!("http://{url}"),
            Some(("http", _)) => url.to_owned(),
            Some((scheme, _)) => bail!("{url}: {scheme} is not spoken here, only http"),
        };
        // No proxy: databases are near, and a proxy from the environment is meant for elsewhere.
        let config = Agent::config_builder().http_status_as_error(false).proxy(None).timeout_connect(Some(CONNECT_TIMEOUT));
        Ok(Self { base: base.trim_end_matches('/').to_owned(), agent: Agent::new_with_config(config.build()) })
    }

    /// The server's address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET`, as a JSON document.
    ///
    /// # Errors
    /// No connection, or a [`ServerError`].
    pub fn get(&self, path: &str) -> Result<Value> {
        read_json(self.get_raw(path, &[])?)
    }

    /// `GET`, with the answer's body still to be read.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_raw(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response<Body>> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.check(request.call())
    }

    /// `POST` of a body, with the answer's body still to be read.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn post_raw(&self, path: &str, content_type: &str, accept: &str, body: SendBody<'_>) -> Result<Response<Body>> {
        let request = self.agent.post(format!("{}{path}", self.base));
        self.check(request.header("content-type", content_type).header("accept", accept).send(body))
    }

    /// `POST` of a JSON document, answered by one.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let bytes = body.to_string().into_bytes();
        let body = &mut bytes.as_slice();
        read_json(self.post_raw(path, "application/json", "application/json", SendBody::from_reader(body))?)
    }

    /// `PUT` of a JSON document, answered by one.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn put(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.agent.put(format!("{}{path}", self.base)).header("content-type", "application/json");
        read_json(self.check(request.send(body.to_string()))?)
    }

    /// `DELETE`, answered by a JSON document.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn delete(&self, path: &str) -> Result<Value> {
        read_json(self.check(self.agent.delete(format!("{}{path}", self.base)).call())?)
    }

    /// One statement; `wait` is a position or cut.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn sql(&self, statement: &str, wait: Option<&str>) -> Result<Value> {
        self.post("/v1/sql", &json!({ "sql": statement, "wait": wait }))
    }

    fn check(&self, response: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        let response = response.map_err(|error| self.explain(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = read_small(response)?;
        let error = serde_json::from_slice(&bytes).ok().and_then(ServerError::from_body);
        Err(error.unwrap_or_else(|| self.foreign(status, &bytes)).into())
    }

    /// An error that is not in our shape, from something that is not our server.
    fn foreign(&self, status: StatusCode, bytes: &[u8]) -> ServerError {
        let text = String::from_utf8_lossy(bytes);
        let text: String = text.trim().chars().take(200).collect();
        let message = format!("{} answered {status}: {text}", self.base);
        ServerError { code: String::new(), message, hint: None, body: None }
    }

    fn explain(&self, error: ureq::Error) -> anyhow::Error {
        let refused = match &error {
            ureq::Error::ConnectionFailed => true,
            ureq::Error::Io(io) => io.kind() == std::io::ErrorKind::ConnectionRefused,
            _ => false,
        };
        if refused {
            return anyhow::anyhow!(
                "nothing listens at {}; start a server with `headwater serve`, or name one with --url",
                self.base
            );
        }
        anyhow::Error::from(error).context(format!("talking to {}", self.base))
    }
}

fn read_small(response: Response<Body>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    response.into_body().into_reader().take(SMALL_BYTES_MAX).read_to_end(&mut bytes).context("reading the answer")?;
    Ok(bytes)
}

/// The body of an answer as a JSON document.
///
/// # Errors
/// When it ends early or is not JSON.
pub fn read_json(response: Response<Body>) -> Result<Value> {
    serde_json::from_slice(&read_small(response)?).context("the answer is not JSON")
}

/// A header as text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A name as SQL writes it.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_paths_and_for_sql() {
        assert_eq!(segment("a.b/c é?"), "a.b%2Fc%20%C3%A9%3F");
        assert_eq!(identifier("we\"ird"), "\"we\"\"ird\"");
    }

    #[test]
    fn urls_may_leave_the_scheme_out() {
        assert_eq!(Client::new("127.0.0.1:1").unwrap().base(), "http://127.0.0.1:1");
        assert_eq!(Client::new("http://h:1/").unwrap().base(), "http://h:1");
        assert!(Client::new("https://h").is_err());
    }

    #[test]
    fn a_server_that_is_not_there_is_explained() {
        // Port 1 is reserved and nothing listens there.
        let error = Client::new("127.0.0.1:1").unwrap().get("/v1/streams").unwrap_err().to_string();
        assert!(error.contains("headwater serve"), "{error}");
    }

    #[test]
    fn errors_are_read_from_their_shape() {
        let error = ServerError::from_body(json!({"error": {"code": "c", "message": "m", "hint": "h"}, "appended": 3})).unwrap();
        assert_eq!((error.code.as_str(), error.hint.as_deref()), ("c", Some("h")));
        assert_eq!(error.body.unwrap()["appended"], 3);
        assert!(ServerError::from_body(json!({"error": 3})).is_none());
    }
}
