//! `headwater consume`: records of a stream, from an offset or a cursor to the end or a limit.
//!
//! With `--cursor` it goes on where the last run ended: what was printed, and flushed, is committed page after page, so that a run
//! that is killed prints its last page again and leaves out nothing.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::ServerFlags;
use super::client::{Client, segment};
use super::cursor;
use super::output::{self, Format, Table};

/// Records a request asks for.
const PAGE_RECORDS: u64 = 10_000;
const PAGE_BYTES: u64 = 4 << 20;

/// `headwater consume`.
#[derive(Args)]
pub struct ConsumeArgs {
    /// The stream
    #[arg(long, value_name = "STREAM")]
    stream: String,
    /// Only this partition; otherwise one after the other
    #[arg(long, value_name = "N")]
    partition: Option<u64>,
    /// The first offset: a number, earliest or latest; with --cursor only where there is no cursor yet
    #[arg(long, value_name = "OFFSET", default_value = "earliest")]
    offset: String,
    /// Records at most; otherwise up to the end as it is now
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Begin at this cursor and move it behind what was printed
    #[arg(long, value_name = "NAME")]
    cursor: Option<String>,
    /// With --cursor: move it after so many records at the latest
    #[arg(long, value_name = "N", requires = "cursor", value_parser = clap::value_parser!(u64).range(1..))]
    commit_every: Option<u64>,
    #[command(flatten)]
    server: ServerFlags,
    /// The form of the output
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Format::Ndjson)]
    output: Format,
}

/// Reads page after page.
pub fn run(args: &ConsumeArgs) -> Result<()> {
    let client = args.server.client()?;
    let info = client.get(&format!("/v1/streams/{}", segment(&args.stream)))?;
    let all = info["partitions"].as_array().context("the answer names no partitions")?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    // One document needs all records at once; lines go out as they come.
    let mut table = Table::new(&["partition#", "offset#", "timestamp#", "key", "value"]);
    let mut places = Vec::new();
    for partition in all {
        let number = partition["partition"].as_u64().context("a partition has no number")?;
        if args.partition.is_some_and(|only| only != number) {
            continue;
        }
        let end = partition["committed"].as_u64().context("a partition has no end")?;
        let mut place = Place::find(&client, args, number)?;
        consume(&client, args, &mut place, end, &mut left, &mut table)?;
        places.push(place);
    }
    if let Some(only) = args.partition.filter(|only| all.iter().all(|partition| partition["partition"] != *only)) {
        anyhow::bail!("{} has no partition {only}, it has {}", args.stream, all.len());
    }
    if args.output != Format::Ndjson {
        output::print(&table.render(args.output))?;
    }
    places.iter_mut().try_for_each(|place| place.commit(&client, args))
}

/// Where reading a partition is.
struct Place {
    partition: u64,
    /// The next offset to read.
    offset: String,
    /// With `--cursor`, where that is; -1 while there is none.
    committed: i64,
}

impl Place {
    fn find(client: &Client, args: &ConsumeArgs, partition: u64) -> Result<Self> {
        let begin = Self { partition, offset: args.offset.clone(), committed: -1 };
        let Some(name) = &args.cursor else { return Ok(begin) };
        let cursor = match client.get(&cursor::path(name, &args.stream, partition)) {
            Ok(cursor) => cursor,
            Err(error) if cursor::is_missing(&error) => return Ok(begin),
            Err(error) => return Err(error),
        };
        let member = |member: &str| cursor[member].as_i64().with_context(|| format!("the cursor has no {member}"));
        let (committed, log_start) = (member("offset")?, member("log_start")?);
        if committed < log_start {
            eprintln!("{}/{partition}: the records {committed} to {} are gone, going on behind them", args.stream, log_start - 1);
        }
        Ok(Self { partition, offset: committed.max(log_start).to_string(), committed })
    }

    /// Moves the cursor behind what was printed.
    fn commit(&mut self, client: &Client, args: &ConsumeArgs) -> Result<()> {
        let (Some(name), Ok(offset)) = (&args.cursor, self.offset.parse::<i64>()) else { return Ok(()) };
        if offset != self.committed {
            let body = json!({ "offset": offset, "expect": self.committed });
            client.put(&cursor::path(name, &args.stream, self.partition), &body).context("moving the cursor")?;
            self.committed = offset;
        }
        Ok(())
    }
}

#[derive(serde::Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    next_offset: u64,
}

fn consume(client: &Client, args: &ConsumeArgs, place: &mut Place, end: u64, left: &mut u64, table: &mut Table) -> Result<()> {
    while *left > 0 && place.offset.parse::<u64>().is_ok_and(|next| next < end) | place.offset.parse::<u64>().is_err() {
        let limit = PAGE_RECORDS.min(*left).min(args.commit_every.unwrap_or(u64::MAX));
        let stream = segment(&args.stream);
        let path = format!(
            "/v1/streams/{stream}/partitions/{}/records?offset={}&limit={limit}&max_bytes={PAGE_BYTES}",
            place.partition,
            segment(&place.offset)
        );
        let mut text = String::new();
        std::io::Read::read_to_string(&mut client.get_raw(&path, &[])?.into_body().into_reader(), &mut text)?;
        let page: Page<'_> = serde_json::from_str(&text).context("the answer is not a page of records")?;
        for record in &page.records {
            emit(args.output, place.partition, record, table)?;
        }
        *left -= (page.records.len() as u64).min(*left);
        let read_on = place.offset.parse() != Ok(page.next_offset);
        place.offset = page.next_offset.to_string();
        if args.output == Format::Ndjson {
            place.commit(client, args)?;
        }
        if !read_on {
            break;
        }
    }
    Ok(())
}

fn emit(format: Format, partition: u64, record: &RawValue, table: &mut Table) -> Result<()> {
    if format == Format::Ndjson {
        // The server's own bytes, on one line: line breaks stand between tokens only.
        return output::print(&format!("{}\n", record.get().replace(['\n', '\r'], " ")));
    }
    let parsed: Value = serde_json::from_str(record.get()).context("a record is not JSON")?;
    let either = |name: &str, other: &str| parsed.get(name).or_else(|| parsed.get(other)).cloned().unwrap_or_default();
    table.rows.push(vec![
        partition.into(),
        parsed["offset"].clone(),
        parsed["timestamp"].clone(),
        either("key", "key_base64"),
        either("value", "value_base64"),
    ]);
    Ok(())
}
