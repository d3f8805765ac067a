//! Sends JSON lines to a stream, several MiB a request, in order: shared by `import`, `produce` and `demo`.
//!
//! Requests are not retried: a request that failed says how much of it was appended, and so does the error here.

use anyhow::{Context, Result, bail};
use router::Cut;
use serde_json::Value;
use ureq::SendBody;

use super::client::{Client, ServerError, identifier, read_json, segment};
use super::output::count;

/// A request is sent when this much has gathered.
const REQUEST_BYTES: usize = 8 << 20;

/// Gathers lines and sends them.
pub struct LineSender<'c> {
    client: &'c Client,
    path: String,
    gathered: Vec<u8>,
    /// Lines in `gathered`.
    lines: u64,
    /// Lines sent before.
    lines_before: u64,
    appended: u64,
    position: Cut,
}

impl<'c> LineSender<'c> {
    /// Sends to `stream`; `key` and `timestamp` are fields of the values.
    pub fn new(client: &'c Client, stream: &str, key: Option<&str>, timestamp: Option<&str>) -> Self {
        let mut path = format!("/v1/streams/{}/records", segment(stream));
        let fields = [("key", key), ("timestamp", timestamp)];
        for (at, (name, field)) in fields.iter().filter_map(|(name, field)| Some((name, (*field)?))).enumerate() {
            path.push_str(&format!("{}{name}={}", if at == 0 { "?" } else { "&" }, segment(field)));
        }
        let (gathered, position) = (Vec::new(), Cut::new());
        Self { client, path, gathered, lines: 0, lines_before: 0, appended: 0, position }
    }

    /// Adds a line, with or without its line break.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn push(&mut self, line: &[u8]) -> Result<()> {
        self.gathered.extend_from_slice(line);
        if line.last() != Some(&b'\n') {
            self.gathered.push(b'\n');
        }
        self.lines += 1;
        if self.gathered.len() >= REQUEST_BYTES { self.flush() } else { Ok(()) }
    }

    /// Sends what has gathered and waits until it is appended.
    ///
    /// # Errors
    /// What the server refused, with the number of the line counted from the first one ever pushed, and how many were appended.
    pub fn flush(&mut self) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mut lines = self.gathered.as_slice();
        let body = SendBody::from_reader(&mut lines);
        let answer = self.client.post_raw(&self.path, "application/x-ndjson", "application/json", body).and_then(read_json);
        match answer {
            Ok(answer) => self.note(&answer)?,
            Err(error) => return Err(self.explain(error)),
        }
        self.gathered.clear();
        self.lines_before += self.lines;
        self.lines = 0;
        Ok(())
    }

    fn note(&mut self, answer: &Value) -> Result<()> {
        self.appended += answer["appended"].as_u64().context("the answer does not say how many were appended")?;
        let position: Cut = answer["position"].as_str().unwrap_or_default().parse()?;
        position.ends().for_each(|(stream, partition, end)| self.position.raise(stream, partition, end));
        Ok(())
    }

    fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        let mut error = error;
        if let Some(server) = error.downcast_mut::<ServerError>() {
            if let Some((number, rest)) = line_in(&server.message) {
                server.message = format!("line {}: {rest}", self.lines_before + number);
            }
            let body = server.body.take();
            if let Some(body) = body.filter(|body| body["appended"].is_u64()) {
                // What it says about this request; what can't be read is not counted.
                let _ = self.note(&body);
            }
        }
        let position = self.position.to_string();
        let position = if position.is_empty() { String::new() } else { format!(", position {position}") };
        error.context(format!("stopped after appending {}{position}", count(self.appended, "record")))
    }

    /// Records that were appended so far.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// The last of them, in each partition.
    pub fn position(&self) -> &Cut {
        &self.position
    }
}

/// Reads `line N: rest`.
fn line_in(message: &str) -> Option<(u64, &str)> {
    let (number, rest) = message.strip_prefix("line ")?.split_once(": ")?;
    Some((number.parse().ok()?, rest))
}

/// Makes sure that `stream` is there, creating it if the user said so.
///
/// # Errors
/// When it is not there, or can't be created.
pub fn ensure_stream(client: &Client, stream: &str, create: bool) -> Result<()> {
    let error = match client.get(&format!("/v1/streams/{}", segment(stream))) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    if error.downcast_ref::<ServerError>().is_none_or(|error| error.code != "42P01") {
        return Err(error);
    }
    if !create {
        bail!("{error}; create it with --create or CREATE STREAM {}", identifier(stream));
    }
    client.sql(&format!("CREATE STREAM {}", identifier(stream)), None)?;
    eprintln!("created the stream {stream}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_count_lines_over_all_requests() {
        let client = Client::new("127.0.0.1:1").unwrap();
        let mut sender = LineSender::new(&client, "a b", Some("x.y"), Some("ts"));
        assert_eq!(sender.path, "/v1/streams/a%20b/records?key=x.y&timestamp=ts");
        sender.lines_before = 1000;
        let body = serde_json::json!({"error": {"code": "22023", "message": "line 3: bad"}, "appended": 2, "position": "s/0@9"});
        let error = sender.explain(ServerError::from_body(body).unwrap().into());
        assert_eq!(format!("{error:#}"), "stopped after appending 2 records, position s/0@9: line 1003: bad");
    }
}
