//! Drives the real `headwater` binary for the end-to-end tests: starts it on a free loopback port, talks HTTP to it, kills it.
//!
//! `cargo build` makes the binary first (`scripts/test` does); it is found beside the test program.
#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::missing_errors_doc,
    reason = "a test harness: it panics to fail"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The binary under test.
#[must_use]
pub fn binary() -> PathBuf {
    let mut dir = std::env::current_exe().unwrap();
    dir.pop();
    dir.pop();
    let path = dir.join("headwater");
    assert!(path.exists(), "{} is not there: run `cargo build --workspace` first", path.display());
    path
}

/// Runs a command of the binary to its end.
#[must_use]
pub fn headwater(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What an HTTP request came back with.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The error's code, kind and message; panics on success.
    #[must_use]
    pub fn error(&self) -> (u16, String, String, String) {
        let json = self.json();
        let error = &json["error"];
        let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("no error.{name} in {}", self.body)).to_owned();
        (self.status, text("code"), text("kind"), text("message"))
    }
}

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    agent: ureq::Agent,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Starts `headwater serve` over a data folder and waits until it listens.
    #[must_use]
    pub fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    /// As [`Self::start`], with more settings in the environment.
    #[must_use]
    pub fn start_with(data: &Path, environment: &[(&str, &str)]) -> Self {
        Self::try_start(data, "127.0.0.1:0", environment).unwrap_or_else(|said| panic!("{said}"))
    }

    /// Starts again over the same data and at the same address, after a kill; gives the running server.
    #[must_use]
    pub fn start_again(self, data: &Path, environment: &[(&str, &str)]) -> Self {
        let address = self.url.trim_start_matches("http://").to_owned();
        drop(self);
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            match Self::try_start(data, &address, environment) {
                Ok(server) => return server,
                // Someone's outgoing connection may have the port for a moment.
                Err(said) => assert!(said.contains("in use") && Instant::now() < give_up, "{said}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As [`Self::start_with`], run by another program that replaces itself with the server, so that its process is the server's;
    /// tells what was said when it did not come to listen.
    ///
    /// # Errors
    /// What the server said last.
    pub fn start_under(runner: &[&str], data: &Path, environment: &[(&str, &str)]) -> Result<Self, String> {
        let (program, arguments) = runner.split_first().unwrap();
        let mut command = Command::new(program);
        command.args(arguments).arg(binary());
        Self::spawn(command, data, "127.0.0.1:0", environment)
    }

    fn try_start(data: &Path, address: &str, environment: &[(&str, &str)]) -> Result<Self, String> {
        Self::spawn(Command::new(binary()), data, address, environment)
    }

    fn spawn(mut command: Command, data: &Path, address: &str, environment: &[(&str, &str)]) -> Result<Self, String> {
        // What is set for the tests is not meant for the server.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HEADWATER_")) {
            command.env_remove(name);
        }
        let mut child = command
            .args(["serve", "--http", address, "--data"])
            .arg(data)
            .env("HEADWATER_LOG_RESERVE_BYTES", "0")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (collected, mut stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut part) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..read]));
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            let status = child.wait();
            std::thread::sleep(Duration::from_millis(100));
            return Err(format!("the server said {line:?} and ended with {status:?}: {}", log.lock().unwrap()));
        };
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(120)));
        Ok(Self { child, url: url.to_owned(), agent: config.build().into(), log })
    }

    /// What it wrote to stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop and waits for its end; gives the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    /// Sends a GET request.
    #[must_use]
    pub fn get(&self, path: &str) -> Reply {
        reply(self.agent.get(format!("{}{path}", self.url)).call())
    }

    /// Sends a GET request that asks for a format.
    #[must_use]
    pub fn get_as(&self, path: &str, accept: &str) -> Reply {
        reply(self.agent.get(format!("{}{path}", self.url)).header("accept", accept).call())
    }

    /// Sends a POST request.
    #[must_use]
    pub fn post(&self, path: &str, content_type: &str, body: &[u8]) -> Reply {
        reply(self.agent.post(format!("{}{path}", self.url)).header("content-type", content_type).send(body))
    }

    /// Sends a PUT request with a JSON document.
    #[must_use]
    pub fn put(&self, path: &str, body: &str) -> Reply {
        reply(self.agent.put(format!("{}{path}", self.url)).header("content-type", "application/json").send(body))
    }

    /// Sends a PUT request that may find nobody; `None` when the connection broke.
    #[must_use]
    pub fn try_put(&self, path: &str, body: &str) -> Option<Reply> {
        let sent = self.agent.put(format!("{}{path}", self.url)).header("content-type", "application/json").send(body);
        let mut response = sent.ok()?;
        let body = response.body_mut().read_to_string().ok()?;
        Some(Reply { status: response.status().as_u16(), body })
    }

    /// Sends a PATCH request on a version.
    #[must_use]
    pub fn patch(&self, path: &str, content_type: &str, if_match: Option<&str>, body: &str) -> Reply {
        let request = self.agent.patch(format!("{}{path}", self.url)).header("content-type", content_type);
        let request = if_match.into_iter().fold(request, |request, version| request.header("if-match", version));
        reply(request.send(body))
    }

    /// Sends a DELETE request.
    #[must_use]
    pub fn delete(&self, path: &str) -> Reply {
        reply(self.agent.delete(format!("{}{path}", self.url)).call())
    }

    /// Sends a POST request that may find nobody; `None` when the connection broke.
    #[must_use]
    pub fn try_post(&self, path: &str, content_type: &str, body: &[u8]) -> Option<Reply> {
        let sent = self.agent.post(format!("{}{path}", self.url)).header("content-type", content_type).send(body);
        let mut response = sent.ok()?;
        let body = response.body_mut().with_config().limit(1 << 30).read_to_string().ok()?;
        Some(Reply { status: response.status().as_u16(), body })
    }

    /// Runs a SELECT that must succeed; gives the body in the form that is asked for.
    #[must_use]
    pub fn sql_as(&self, sql: &str, accept: &str) -> Vec<u8> {
        let request =
            self.agent.post(format!("{}/v1/sql", self.url)).header("content-type", "text/plain").header("accept", accept);
        let mut response = request.send(sql).unwrap();
        let body = response.body_mut().read_to_vec().unwrap();
        assert_eq!(response.status(), 200, "{}", String::from_utf8_lossy(&body));
        body
    }

    /// Sends SQL as JSON.
    #[must_use]
    pub fn sql_with(&self, request: &Value) -> Reply {
        self.post("/v1/sql", "application/json", request.to_string().as_bytes())
    }

    /// Runs SQL that must succeed; gives the answer.
    #[must_use]
    pub fn sql(&self, sql: &str) -> Value {
        let reply = self.sql_with(&json!({"sql": sql, "timeout_ms": 60_000}));
        assert_eq!(reply.status, 200, "{sql}: {}", reply.body);
        reply.json()
    }

    /// The rows of a SELECT, which waits for `position`.
    #[must_use]
    pub fn rows_at(&self, sql: &str, position: &str) -> Vec<Value> {
        let reply = self.sql_with(&json!({"sql": sql, "wait": position, "timeout_ms": 60_000}));
        assert_eq!(reply.status, 200, "{sql} at {position}: {}", reply.body);
        reply.json()["rows"].as_array().unwrap().clone()
    }

    /// The rows of a SELECT.
    #[must_use]
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        self.rows_at(sql, "")
    }

    /// Appends values, one a line; gives the position.
    #[must_use]
    pub fn append(&self, stream: &str, lines: &str) -> String {
        let reply = self.post(&format!("/v1/streams/{stream}/records"), "application/x-ndjson", lines.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["position"].as_str().unwrap().to_owned()
    }

    /// Reads server-sent events, their ids and data, until there are `count` or the connection ends.
    #[must_use]
    pub fn events(&self, path: &str, last_event_id: Option<&str>, count: usize) -> Vec<(String, Value)> {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let resume = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let head = format!("Host: {address}\r\nConnection: close\r\nAccept: text/event-stream\r\n{resume}");
        write!(socket, "GET {path} HTTP/1.1\r\n{head}\r\n").unwrap();
        let (mut found, mut id) = (Vec::new(), String::new());
        for line in BufReader::new(socket).lines() {
            let Ok(line) = line else { break };
            if let Some(text) = line.strip_prefix("id:") {
                id = text.trim().to_owned();
            } else if let Some(text) = line.strip_prefix("data:") {
                found.push((id.clone(), serde_json::from_str(text.trim()).unwrap()));
                if found.len() == count {
                    break;
                }
            }
        }
        found
    }

    /// Waits until `done` says so, for a minute at most.
    pub fn until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let give_up = Instant::now() + Duration::from_secs(60);
        while !done(self) {
            assert!(Instant::now() < give_up, "{what} did not happen; the server's log: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn reply(sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
    let mut response = sent.unwrap();
    let body = response.body_mut().with_config().limit(1 << 30).read_to_string().unwrap();
    Reply { status: response.status().as_u16(), body }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One commit as a line of JSON, in the layout of the git import.
#[must_use]
pub fn commit_line(n: u64) -> String {
    let repo = ["redb", "tantivy", "openraft"][usize::try_from(n % 3).unwrap()];
    format!(
        r#"{{"repo": "{repo}", "commit": "{n:012x}", "author": "a{}", "ts": {}, "subject": "Fix torn write {n}", "body": "{}", "added": {n}, "removed": {}}}"#,
        n % 7,
        1_500_000_000 + n * 3_600,
        if n.is_multiple_of(2) { "call fsync\\nonce" } else { "nothing" },
        n / 2
    )
}

/// Lines `range` of the generated commits.
#[must_use]
pub fn commit_lines(range: std::ops::Range<u64>) -> String {
    range.map(|n| commit_line(n) + "\n").collect()
}

/// SQL that makes the stream `commits` and a view of each kind: `commit_rows`, `commit_docs`, `churn`.
pub const VIEWS: &str = "CREATE STREAM commits;
CREATE TABLE commit_rows (repo TEXT, commit TEXT, author TEXT, ts TIMESTAMPTZ, added BIGINT, PRIMARY KEY (repo, commit))
  USING row FROM STREAM commits;
CREATE TABLE commit_docs USING document WITH (key = 'commit', search = 'subject, body', facets = 'repo, author') FROM STREAM commits;
CREATE TABLE churn (ts TIMESTAMPTZ, repo TEXT, added DOUBLE PRECISION, removed DOUBLE PRECISION)
  USING series WITH (time = 'ts', tags = 'repo', chunk = '7 days') FROM STREAM commits";

/// The stream and its views.
pub const TABLES: [&str; 4] = ["commits", "commit_rows", "commit_docs", "churn"];
