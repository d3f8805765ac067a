//! `headwater tail`: follows a stream and goes on where it was when the connection breaks.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::client::{Client, ServerError, segment};
use super::{ServerFlags, output};

/// Between a broken connection and the next.
const PAUSE: Duration = Duration::from_secs(1);

/// `headwater tail`.
#[derive(Args)]
pub struct TailArgs {
    /// The stream
    #[arg(long, value_name = "STREAM")]
    stream: String,
    /// Where to begin: latest, earliest or an offset
    #[arg(long, value_name = "OFFSET", default_value = "latest")]
    offset: String,
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Stop after so many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    server: ServerFlags,
}

/// How one connection ended.
enum Ended {
    Limit,
    Broken(String),
}

/// Prints a record a line until it is stopped.
pub fn run(args: &TailArgs) -> Result<()> {
    let client = args.server.client()?;
    let mut path = format!("/v1/streams/{}/tail?offset={}", segment(&args.stream), segment(&args.offset));
    if let Some(partition) = args.partition {
        path.push_str(&format!("&partition={partition}"));
    }
    let mut last_id: Option<String> = None;
    let mut left = args.limit.unwrap_or(u64::MAX);
    loop {
        let reason = match follow(&client, &path, &mut last_id, &mut left) {
            Ok(Ended::Limit) => return Ok(()),
            Ok(Ended::Broken(reason)) => reason,
            // What the server refuses once it refuses again; at the first attempt nothing is worth waiting for.
            Err(error) if last_id.is_none() || error.is::<ServerError>() || error.is::<output::StdoutClosed>() => {
                return Err(error);
            }
            Err(error) => format!("{error:#}"),
        };
        eprintln!("the connection ended ({reason}), connecting again");
        std::thread::sleep(PAUSE);
    }
}

fn follow(client: &Client, path: &str, last_id: &mut Option<String>, left: &mut u64) -> Result<Ended> {
    let mut headers = vec![("accept", "text/event-stream")];
    if let Some(id) = last_id.as_deref() {
        headers.push(("last-event-id", id));
    }
    let response = client.get_raw(path, &headers)?;
    let mut event = Event::default();
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Ok(Ended::Broken(error.to_string())),
        };
        let Some(whole) = event.take_line(&line) else { continue };
        if whole.name == "error" {
            let error = serde_json::from_str::<Value>(&whole.data).ok().and_then(ServerError::from_body);
            return Err(error.map_or_else(|| anyhow::anyhow!("the server said: {}", whole.data), Into::into));
        }
        if !whole.data.is_empty() {
            output::print(&format!("{}\n", whole.data))?;
            *left -= 1;
        }
        if let Some(id) = whole.id {
            *last_id = Some(id);
        }
        if *left == 0 {
            return Ok(Ended::Limit);
        }
    }
    Ok(Ended::Broken("the server closed it".to_owned()))
}

#[derive(Debug, Default, PartialEq)]
struct Event {
    name: String,
    data: String,
    id: Option<String>,
}

impl Event {
    /// Takes a line of the stream; gives the event that an empty line ends.
    fn take_line(&mut self, line: &str) -> Option<Self> {
        if line.is_empty() {
            return Some(std::mem::take(self));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "id" => self.id = Some(value.to_owned()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_browsers_do() {
        let mut event = Event::default();
        let text = ": keep-alive\n\nretry: 1000\nid: s/0@1\n\nid: s/0@2\ndata: {\"a\": 1}\n\nevent: error\ndata:x\ndata: y\n\n";
        let whole: Vec<Event> = text.lines().filter_map(|line| event.take_line(line)).collect();
        assert_eq!(whole[0], Event::default());
        assert_eq!(whole[1], Event { id: Some("s/0@1".into()), ..Event::default() });
        assert_eq!(whole[2], Event { id: Some("s/0@2".into()), data: "{\"a\": 1}".into(), ..Event::default() });
        assert_eq!(whole[3], Event { name: "error".into(), data: "x\ny".into(), id: None });
    }
}
