//! The side that is written: a stream of another Headwater, or an HTTP endpoint.
//!
//! A Headwater gets one JSON append per batch: one atomic record batch of the same partition, with keys, headers, timestamps and
//! values as they were. An endpoint gets the records as NDJSON. Both confirm with 2xx, and only then the cursor moves.

use std::fmt;

use serde_json::Value;

use super::batch::{Batch, Stored};
use super::http::{Fault, Http, Refusal, SERVER_TIMEOUT_MS};
use crate::cli::client::{Client, identifier, segment};
use crate::cli::output::count;

/// What stands before the name in the address of a stream.
const STREAMS: &str = "/v1/streams/";

/// See the module docs. Clones share connections.
#[derive(Clone)]
pub struct Target {
    http: Http,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// A stream of a Headwater.
    Stream {
        base: String,
        /// As a path has it.
        segment: String,
        /// As people have it.
        name: String,
    },
    /// Anything that takes NDJSON.
    Endpoint { url: String },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Stream { base, segment, .. } => write!(f, "{base}{STREAMS}{segment}"),
            Kind::Endpoint { url } => f.write_str(url),
        }
    }
}

impl Target {
    /// What `--to` means; `stream` is the stream there if the address names none, and `named` whether the user chose it.
    ///
    /// # Errors
    /// Addresses that we don't speak to, or that contradict `--target-stream`.
    pub fn parse(to: &str, stream: &str, named: bool) -> anyhow::Result<Self> {
        let url = Client::new(to)?.base().to_owned();
        let behind_scheme = url.find("://").map_or(0, |at| at + 3);
        let path = url[behind_scheme..].find('/').map_or("", |at| &url[behind_scheme + at..]);
        let kind = if path.is_empty() {
            Kind::Stream { base: url.clone(), segment: segment(stream), name: stream.to_owned() }
        } else if let Some(at) = format!("{url}/").find(STREAMS) {
            let there = url.get(at + STREAMS.len()..).unwrap_or("");
            let there = there.strip_suffix("/records").unwrap_or(there);
            if there.is_empty() || there.contains(['/', '?', '#']) {
                anyhow::bail!("{to} is not the address of a stream; write {}{STREAMS}NAME", &url[..at]);
            }
            if named && segment(stream) != there {
                anyhow::bail!("--to names the stream {there}, --target-stream {stream}: leave one of them out");
            }
            Kind::Stream { base: url[..at].to_owned(), segment: there.to_owned(), name: there.to_owned() }
        } else if named {
            anyhow::bail!("--target-stream is for a Headwater, and {to} is taken for another endpoint because it has a path");
        } else {
            // A slash at the end of an endpoint's path is part of it.
            Kind::Endpoint { url: if to.contains("://") { to.to_owned() } else { format!("http://{to}") } }
        };
        Ok(Self { http: Http::new(), kind })
    }

    /// Whether this is `stream` of the server at `base`, as far as the addresses say.
    pub fn is_stream_at(&self, base: &str, stream: &str) -> bool {
        matches!(&self.kind, Kind::Stream { base: own, segment: there, .. } if own == base && *there == segment(stream))
    }

    /// Whether it can take what is sent: a stream must be there and have so many partitions.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn check(&self, partitions: u64) -> Result<(), Fault> {
        let Kind::Stream { name, base, .. } = &self.kind else { return Ok(()) };
        let create = |hint: &str| Some(format!("{hint}CREATE STREAM {} WITH (partitions = {partitions})", identifier(name)));
        let info = match self.http.get(&self.to_string()) {
            Ok(info) => info,
            Err(Fault::Refused(refusal)) if refusal.status == 404 => {
                let message = format!("the target {base} has no stream \"{name}\"");
                let hint = create("create it there, or add the path of the endpoint if it is no Headwater: ");
                return Err(Fault::Refused(Refusal::new(message, hint)));
            }
            Err(fault) => return Err(fault),
        };
        let info: Value = serde_json::from_slice(&info).unwrap_or_default();
        match info["partitions"].as_array().map(|partitions| partitions.len() as u64) {
            Some(there) if there >= partitions => Ok(()),
            Some(there) => {
                let has = count(there, "partition");
                let message = format!("the target {self} has {has}, {partitions} are needed: records stay in their partition");
                Err(Fault::Refused(Refusal::new(message, create("forward to a stream made for it: "))))
            }
            None => Err(Fault::Refused(Refusal::new(format!("{self} does not answer as a Headwater does"), None))),
        }
    }

    /// Sends a batch and waits until it is confirmed.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn deliver(&self, partition: u32, batch: &Batch<'_>) -> Result<(), Fault> {
        match &self.kind {
            Kind::Endpoint { url } => self.http.post(url, "application/x-ndjson", &lines(partition, batch)).map(drop),
            Kind::Stream { .. } => {
                let url = format!("{self}/records?timeout_ms={SERVER_TIMEOUT_MS}");
                let answer = self.http.post(&url, "application/json", &append_request(partition, batch))?;
                let appended = serde_json::from_slice::<Value>(&answer).unwrap_or_default()["appended"].as_u64();
                if appended == Some(batch.records.len() as u64) {
                    return Ok(());
                }
                let said = appended.map_or("something else".to_owned(), |appended| format!("that it appended {appended}"));
                Err(Fault::Refused(Refusal::new(format!("{self} got {} records and answered {said}", batch.records.len()), None)))
            }
        }
    }
}

/// The body of an append: the one place where a batch is laid out for a Headwater.
fn append_request(partition: u32, batch: &Batch<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(batch.bytes() + 64);
    out.extend_from_slice(b"{\"ack\":\"disk\",\"records\":[");
    for (at, (record, _)) in batch.records.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        push_record(&mut out, partition, record);
    }
    out.extend_from_slice(b"]}");
    out
}

fn push_record(out: &mut Vec<u8>, partition: u32, record: &Stored<'_>) {
    out.extend_from_slice(format!("{{\"partition\":{partition},\"timestamp\":{}", record.timestamp).as_bytes());
    let members = [
        ("key", record.key),
        ("key_base64", record.key_base64),
        ("value", record.value),
        ("value_base64", record.value_base64),
        ("headers", Some(record.headers)),
    ];
    for (name, raw) in members {
        if let Some(raw) = raw {
            out.extend_from_slice(format!(",\"{name}\":").as_bytes());
            out.extend_from_slice(raw.get().as_bytes());
        }
    }
    out.push(b'}');
}

/// Records as the source writes them, with their partition, a line each.
fn lines(partition: u32, batch: &Batch<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(batch.bytes() + batch.records.len() * 16);
    for (_, raw) in batch.records {
        out.extend_from_slice(format!("{{\"partition\":{partition},").as_bytes());
        // Line breaks stand between tokens only: inside strings they are escaped.
        out.extend(raw.get().bytes().skip(1).map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::forward::batch::Page;

    #[test]
    fn addresses_say_what_they_are() {
        let kind =
            |to: &str, named: bool| Target::parse(to, "a b", named).map(|target| target.kind).map_err(|error| error.to_string());
        let stream = |base: &str, segment: &str, name: &str| {
            Ok(Kind::Stream { base: base.into(), segment: segment.into(), name: name.into() })
        };
        assert_eq!(kind("h:1", true), stream("http://h:1", "a%20b", "a b"));
        assert_eq!(kind("http://h:1/", false), stream("http://h:1", "a%20b", "a b"));
        assert_eq!(kind("http://h:1/v1/streams/t.x", false), stream("http://h:1", "t.x", "t.x"));
        assert_eq!(kind("http://h/hw/v1/streams/t/records", false), stream("http://h/hw", "t", "t"));
        assert_eq!(kind("http://h:1/in?x=1", false), Ok(Kind::Endpoint { url: "http://h:1/in?x=1".into() }));
        assert_eq!(kind("h:1/in/", false), Ok(Kind::Endpoint { url: "http://h:1/in/".into() }));
        for bad in
            ["https://h", "http://h/v1/streams", "http://h/v1/streams/", "http://h/v1/streams/a/b", "http://h/v1/streams/a?b"]
        {
            assert!(kind(bad, false).is_err(), "{bad}");
        }
        assert!(kind("http://h/in", true).unwrap_err().contains("--target-stream"));
        assert!(kind("http://h/v1/streams/t", true).unwrap_err().contains("leave one of them out"));
        assert!(Target::parse("http://h:1", "a b", false).unwrap().is_stream_at("http://h:1", "a b"));
        assert!(!Target::parse("http://h:1", "t", true).unwrap().is_stream_at("http://h:1", "a b"));
    }

    #[test]
    fn records_are_laid_out_as_they_came() {
        let text = concat!(
            r#"{"records":[{"offset":3,"timestamp":-5,"key":"k\"é","value":{ "a" : 1.10,"#,
            "\n",
            r#""b":"\u00e9"},"headers":{"h":[null,{"base64":"/w=="}]}},"#,
            r#"{"offset":4,"timestamp":6,"key_base64":"/w==","value_base64":"AA==","headers":{}},"#,
            r#"{"offset":5,"timestamp":7,"key":null,"value":null,"headers":{}}],"next_offset":6,"end_offset":6}"#
        );
        let page = Page::parse(text.as_bytes()).unwrap();
        let batch = &page.batches(1_000)[0];
        let expected = concat!(
            r#"{"ack":"disk","records":[{"partition":2,"timestamp":-5,"key":"k\"é","value":{ "a" : 1.10,"#,
            "\n",
            r#""b":"\u00e9"},"headers":{"h":[null,{"base64":"/w=="}]}},"#,
            r#"{"partition":2,"timestamp":6,"key_base64":"/w==","value_base64":"AA==","headers":{}},"#,
            r#"{"partition":2,"timestamp":7,"key":null,"value":null,"headers":{}}]}"#
        );
        assert_eq!(String::from_utf8(append_request(2, batch)).unwrap(), expected);
        let lines = String::from_utf8(lines(2, batch)).unwrap();
        assert_eq!(lines.lines().count(), 3);
        assert!(
            lines.starts_with(r#"{"partition":2,"offset":3,"timestamp":-5,"key":"k\"é","value":{ "a" : 1.10, "b":"#),
            "{lines}"
        );
    }
}
