//! `headwater produce`: JSON lines from standard input into a stream.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::output::{self, Format};
use super::sender::LineSender;
use super::{OutputFlags, ServerFlags};

/// Lines between the reader and the sender.
const LINES_WAITING: usize = 10_000;
/// What has come is sent when nothing more comes for so long.
const PAUSE: Duration = Duration::from_millis(50);

/// `headwater produce`.
#[derive(Args)]
pub struct ProduceArgs {
    /// The stream
    #[arg(long, value_name = "STREAM")]
    stream: String,
    /// The field whose value is the key
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,
    /// The field with the time of the record
    #[arg(long, value_name = "FIELD")]
    timestamp: Option<String>,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    output: OutputFlags,
}

/// Sends lines as they come.
pub fn run(args: &ProduceArgs) -> Result<()> {
    let client = args.server.client()?;
    let mut sender = LineSender::new(&client, &args.stream, args.key.as_deref(), args.timestamp.as_deref());
    let (tell, lines) = sync_channel::<std::io::Result<Vec<u8>>>(LINES_WAITING);
    // A thread of its own: reading blocks, and what was read must not wait for the next line.
    std::thread::spawn(move || {
        let mut input = BufReader::with_capacity(1 << 20, std::io::stdin());
        loop {
            let mut line = Vec::new();
            let read = match input.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => tell.send(Ok(line)),
                // The sender reports it; the next attempt would say the same.
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            if read.is_err() {
                return;
            }
        }
    });
    loop {
        match lines.recv_timeout(PAUSE) {
            Ok(line) => sender.push(&line.context("reading standard input")?)?,
            Err(RecvTimeoutError::Timeout) => sender.flush()?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    sender.flush()?;
    let position = sender.position().to_string();
    match args.output.output {
        Format::Table => {
            output::print(&format!("appended {}, position {position}\n", output::count(sender.appended(), "record")))
        }
        _ => output::print(&format!("{}\n", json!({ "appended": sender.appended(), "position": position, "ack": "disk" }))),
    }
}
