//! `headwater consume`: records of a stream, from an offset to the end or a limit.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;
use serde_json::value::RawValue;

use super::ServerFlags;
use super::client::{Client, segment};
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
    /// The first offset: a number, earliest or latest
    #[arg(long, value_name = "OFFSET", default_value = "earliest")]
    offset: String,
    /// Records at most; otherwise up to the end as it is now
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
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
    for partition in all {
        let number = partition["partition"].as_u64().context("a partition has no number")?;
        if args.partition.is_some_and(|only| only != number) {
            continue;
        }
        let end = partition["committed"].as_u64().context("a partition has no end")?;
        consume(&client, args, number, end, &mut left, &mut table)?;
    }
    if let Some(only) = args.partition.filter(|only| all.iter().all(|partition| partition["partition"] != *only)) {
        anyhow::bail!("{} has no partition {only}, it has {}", args.stream, all.len());
    }
    if args.output == Format::Ndjson { Ok(()) } else { output::print(&table.render(args.output)) }
}

#[derive(serde::Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    next_offset: u64,
}

fn consume(client: &Client, args: &ConsumeArgs, partition: u64, end: u64, left: &mut u64, table: &mut Table) -> Result<()> {
    let mut offset = args.offset.clone();
    while *left > 0 && offset.parse::<u64>().is_ok_and(|next| next < end) | offset.parse::<u64>().is_err() {
        let limit = PAGE_RECORDS.min(*left);
        let stream = segment(&args.stream);
        let path = format!(
            "/v1/streams/{stream}/partitions/{partition}/records?offset={}&limit={limit}&max_bytes={PAGE_BYTES}",
            segment(&offset)
        );
        let mut text = String::new();
        std::io::Read::read_to_string(&mut client.get_raw(&path, &[])?.into_body().into_reader(), &mut text)?;
        let page: Page<'_> = serde_json::from_str(&text).context("the answer is not a page of records")?;
        for record in &page.records {
            emit(args.output, partition, record, table)?;
        }
        *left -= (page.records.len() as u64).min(*left);
        if page.records.is_empty() {
            break;
        }
        offset = page.next_offset.to_string();
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
