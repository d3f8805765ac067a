//! One request of the forwarder, and what its failure means: come again, or stop.
//!
//! Unlike the client of the other commands it tells failures that pass from those that stay, follows no redirects (a POST that is
//! redirected may arrive nowhere and be answered with 200), and never waits for ever.

use std::io::Read;
use std::time::Duration;

use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::cli::client::{ServerError, header};

/// An answer is smaller than this: a page of the largest batch, in base64, with its headers.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// As many as there are threads, so that none connects anew for each request.
const CONNECTIONS_IDLE: usize = super::WORKERS_MAX;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A request is given up after this; longer than a server lets an append wait, so that what was given up is over there, too.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Asked of a Headwater for an append or a commit.
pub const SERVER_TIMEOUT_MS: u64 = 20_000;

/// Why a request failed.
#[derive(Debug)]
pub enum Fault {
    /// It may work later. Whether it was carried out is not known.
    Passing {
        /// For people.
        reason: String,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It was understood and refused, and would be again.
    Refused(Refusal),
}

/// An answer that stays what it is.
#[derive(Debug)]
pub struct Refusal {
    /// The status, 0 if there was none.
    pub status: u16,
    /// What the server said.
    pub error: ServerError,
}

impl Refusal {
    /// A refusal of our own making.
    pub fn new(message: impl Into<String>, hint: Option<String>) -> Self {
        Self { status: 0, error: ServerError { code: String::new(), message: message.into(), hint, body: None } }
    }

    /// Whether a cursor does not exist.
    pub fn is_missing_cursor(&self) -> bool {
        self.error.code == crate::cli::cursor::NO_SUCH_CURSOR
    }
}

impl From<Refusal> for anyhow::Error {
    fn from(refusal: Refusal) -> Self {
        refusal.error.into()
    }
}

/// Sends requests.
#[derive(Clone)]
pub struct Http {
    agent: Agent,
}

impl Http {
    /// Without any connection yet.
    pub fn new() -> Self {
        // No proxy: as for all commands.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_idle_connections(CONNECTIONS_IDLE)
            .max_idle_connections_per_host(CONNECTIONS_IDLE)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(CALL_TIMEOUT));
        Self { agent: Agent::new_with_config(config.build()) }
    }

    /// `GET`; the body of the answer.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn get(&self, url: &str) -> Result<Vec<u8>, Fault> {
        answer(url, self.agent.get(url).call())
    }

    /// `PUT` of a JSON document; the body of the answer.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn put(&self, url: &str, body: &serde_json::Value) -> Result<Vec<u8>, Fault> {
        answer(url, self.agent.put(url).header("content-type", "application/json").send(body.to_string()))
    }

    /// `POST`; the body of the answer.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn post(&self, url: &str, content_type: &str, body: &[u8]) -> Result<Vec<u8>, Fault> {
        answer(url, self.agent.post(url).header("content-type", content_type).send(body))
    }
}

fn answer(url: &str, response: Result<Response<Body>, ureq::Error>) -> Result<Vec<u8>, Fault> {
    let passing = |reason: String, retry_after| Fault::Passing { reason, retry_after };
    let response = match response {
        Ok(response) => response,
        Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => {
            return Err(Fault::Refused(Refusal::new(format!("{url}: {error}"), None)));
        }
        Err(error) => return Err(passing(explain(url, &error), None)),
    };
    let status = response.status();
    let retry_after = header(response.headers(), "retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let mut bytes = Vec::new();
    if let Err(error) = response.into_body().into_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes) {
        return Err(passing(format!("the answer of {url} broke off: {error}"), None));
    }
    if status.is_success() {
        return Ok(bytes);
    }
    let said = serde_json::from_slice(&bytes).ok().and_then(ServerError::from_body);
    let text = said.as_ref().map_or_else(|| beginning(&bytes), |error| error.message.clone());
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        return Err(passing(format!("{url} answered {status}: {text}"), retry_after));
    }
    let foreign =
        || ServerError { code: String::new(), message: format!("{url} answered {status}: {text}"), hint: None, body: None };
    Err(Fault::Refused(Refusal { status: status.as_u16(), error: said.unwrap_or_else(foreign) }))
}

/// What something that is not a Headwater says, up to a point.
fn beginning(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().chars().take(200).collect()
}

fn explain(url: &str, error: &ureq::Error) -> String {
    let refused = match error {
        ureq::Error::ConnectionFailed => true,
        ureq::Error::Io(io) => io.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => false,
    };
    if refused { format!("nothing listens at {url}") } else { format!("talking to {url}: {error}") }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with `head` and `body`.
    fn once(status: &'static str, head: &'static str, body: &'static str) -> Result<Vec<u8>, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(socket.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let length = body.len();
            write!(socket, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{head}connection: close\r\n\r\n{body}").unwrap();
        });
        let answer = Http::new().get(&url);
        server.join().unwrap();
        answer
    }

    #[test]
    fn what_passes_is_told_from_what_stays() {
        assert_eq!(once("204 No Content", "", "").unwrap(), b"");
        for (status, head, wait) in [
            ("429 Too Many Requests", "retry-after: 7\r\n", Some(7)),
            ("500 Oops", "", None),
            ("503 Busy", "retry-after: soon\r\n", None),
        ] {
            let Err(Fault::Passing { reason, retry_after }) = once(status, head, "why") else { panic!("{status} passes") };
            assert!(reason.contains(&status[..3]) && reason.contains("why"), "{reason}");
            assert_eq!(retry_after, wait.map(Duration::from_secs));
        }
        for (status, head) in [("400 Bad", ""), ("404 No", ""), ("302 There", "location: http://127.0.0.1:1/\r\n")] {
            let Err(Fault::Refused(refusal)) = once(status, head, "no") else { panic!("{status} stays") };
            assert_eq!(refusal.status.to_string(), status[..3]);
        }
        let Err(Fault::Refused(refusal)) = once("409 No", "", r#"{"error":{"code":"40001","message":"m"}}"#) else { panic!() };
        assert_eq!((refusal.error.code.as_str(), refusal.error.message.as_str()), ("40001", "m"));
    }

    #[test]
    fn nobody_there_passes() {
        // Port 1 is reserved and nothing listens there.
        let Err(Fault::Passing { reason, .. }) = Http::new().get("http://127.0.0.1:1/x") else { panic!("it may come") };
        assert!(reason.contains("nothing listens at http://127.0.0.1:1/x"), "{reason}");
        assert!(matches!(Http::new().get("http://[::/"), Err(Fault::Refused(_))));
    }
}
