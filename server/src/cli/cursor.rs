//! `headwater cursor`: the durable places of readers, and setting them by hand.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ServerError, segment};
use super::output::{self, Format, Table};
use super::{OutputFlags, ServerFlags};

/// The SQLSTATE of a cursor that does not exist.
pub const NO_SUCH_CURSOR: &str = "34000";
/// Asked for by `list`: all there may be.
const LIST_CURSORS: usize = 100_000;

/// `headwater cursor`.
#[derive(Args)]
pub struct CursorArgs {
    #[command(subcommand)]
    command: CursorCommand,
}

/// Which cursor.
#[derive(Args)]
struct Which {
    /// The cursor's name
    name: String,
    /// The stream it reads
    #[arg(long, value_name = "STREAM")]
    stream: String,
    /// Only in this partition; otherwise in all of them
    #[arg(long, value_name = "N")]
    partition: Option<u64>,
}

#[derive(Subcommand)]
enum CursorCommand {
    /// All cursors and their lag
    List {
        /// Only those of this stream
        #[arg(long, value_name = "STREAM")]
        stream: Option<String>,
        #[command(flatten)]
        server: ServerFlags,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// Where a cursor is
    Get {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        server: ServerFlags,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// Move or create a cursor
    Set {
        #[command(flatten)]
        which: Which,
        /// The next offset to read: a number, earliest or latest
        #[arg(long, value_name = "OFFSET")]
        offset: String,
        /// Also back
        #[arg(long)]
        reset: bool,
        #[command(flatten)]
        server: ServerFlags,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// Remove a cursor
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        server: ServerFlags,
        #[command(flatten)]
        output: OutputFlags,
    },
}

/// Runs the command.
pub fn run(args: &CursorArgs) -> Result<()> {
    match &args.command {
        CursorCommand::List { stream, server, output } => {
            let only = stream.as_ref().map(|stream| format!("&stream={}", segment(stream))).unwrap_or_default();
            let answer = server.client()?.get(&format!("/v1/cursors?limit={LIST_CURSORS}{only}"))?;
            let cursors = answer["cursors"].as_array().cloned().unwrap_or_default();
            show(&cursors, &WITH_LAG, output.output)
        }
        CursorCommand::Get { which, server, output } => {
            let cursors = each(&server.client()?, which, |client, path, _| client.get(path))?;
            show(&cursors, &WITH_LAG, output.output)
        }
        CursorCommand::Set { which, offset, reset, server, output } => {
            let client = server.client()?;
            let partitions = partitions(&client, which)?;
            if partitions.len() > 1 && offset.parse::<u64>().is_ok() {
                bail!("{} has {} partitions: name one with --partition", which.stream, partitions.len());
            }
            let mut moved = Vec::new();
            for partition in &partitions {
                let number = place(partition, offset)?;
                let body = json!({ "offset": number, "reset": reset });
                moved.push(client.put(&path(&which.name, &which.stream, number_of(partition)?), &body)?);
            }
            show(&moved, &PLACE, output.output)
        }
        CursorCommand::Delete { which, server, output } => {
            let gone = each(&server.client()?, which, |client, path, _| client.delete(path))?;
            show(&gone, &PLACE, output.output)
        }
    }
}

/// The path of a cursor.
pub fn path(name: &str, stream: &str, partition: u64) -> String {
    format!("/v1/cursors/{}/{}/{partition}", segment(name), segment(stream))
}

/// Whether an error says that there is no such cursor.
pub fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ServerError>().is_some_and(|error| error.code == NO_SUCH_CURSOR)
}

fn number_of(partition: &Value) -> Result<u64> {
    partition["partition"].as_u64().context("a partition has no number")
}

/// The partitions of the stream that are meant.
fn partitions(client: &Client, which: &Which) -> Result<Vec<Value>> {
    let info = client.get(&format!("/v1/streams/{}", segment(&which.stream)))?;
    let mut all = info["partitions"].as_array().cloned().context("the answer names no partitions")?;
    let count = all.len();
    if let Some(only) = which.partition {
        all.retain(|partition| partition["partition"] == only);
        if all.is_empty() {
            bail!("{} has no partition {only}, it has {count}, counted from 0", which.stream);
        }
    }
    Ok(all)
}

/// What `offset` means in a partition.
fn place(partition: &Value, offset: &str) -> Result<u64> {
    let member = |name: &str| partition[name].as_u64().with_context(|| format!("a partition has no {name}"));
    match offset {
        "earliest" => member("log_start"),
        "latest" => member("committed"),
        number => number.parse().ok().with_context(|| format!("\"{number}\" is no offset; write a number, earliest or latest")),
    }
}

/// Asks for a cursor in each partition meant; without `--partition` those where it is not are passed over, unless it is nowhere.
fn each(client: &Client, which: &Which, ask: impl Fn(&Client, &str, u64) -> Result<Value>) -> Result<Vec<Value>> {
    let (mut found, mut missing) = (Vec::new(), None);
    for partition in partitions(client, which)? {
        let number = number_of(&partition)?;
        match ask(client, &path(&which.name, &which.stream, number), number) {
            Ok(cursor) => found.push(cursor),
            Err(error) if which.partition.is_none() && is_missing(&error) => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// Members of a cursor that tables show; `#` marks numbers.
const PLACE: [&str; 4] = ["name", "stream", "partition#", "offset#"];
const WITH_LAG: [&str; 7] = ["name", "stream", "partition#", "offset#", "end_offset#", "log_start#", "lag_records#"];

fn show(cursors: &[Value], members: &[&str], format: Format) -> Result<()> {
    let mut table = Table::new(members);
    let row = |cursor: &Value| members.iter().map(|member| cursor[member.trim_end_matches('#')].clone()).collect();
    table.rows = cursors.iter().map(row).collect();
    output::print(&table.render(format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_may_be_an_end_of_the_partition() {
        let partition = json!({ "partition": 0, "log_start": 5, "committed": 9 });
        let at = |offset: &str| place(&partition, offset).map_err(|error| error.to_string());
        assert_eq!((at("earliest"), at("latest"), at("7")), (Ok(5), Ok(9), Ok(7)));
        assert!(at("-1").unwrap_err().contains("earliest or latest"));
    }
}
