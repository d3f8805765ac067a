//! An index file: what it says, and whether the segment beside it agrees.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use logcore::TimestampMillis;
use logcore::segment::inspect::{IndexEntry, IndexSeen, inspect_index};
use serde_json::{Value, json};

use crate::cli::output::{Format, Table};

/// Prints the index at `path`; says whether it is whole.
pub fn print(path: &Path, format: Format, out: &mut dyn Write) -> Result<bool> {
    let seen = inspect_index(path)?;
    match format {
        Format::Table => {
            let mut table = Table::new(&["offset#", "position#", "newest before#"]);
            table.rows = seen.entries.iter().map(|entry| entry_values(entry).to_vec()).collect();
            write!(out, "{}\n{}", table.render(Format::Table), lines(path, &seen))?;
        }
        Format::Json => {
            let entries: Vec<Value> = seen.entries.iter().map(entry_object).collect();
            let mut object = summary_object(&seen);
            object["entries"] = entries.into();
            writeln!(out, "{object}")?;
        }
        _ => {
            for entry in &seen.entries {
                writeln!(out, "{}", entry_object(entry))?;
            }
            writeln!(out, "{}", json!({ "summary": summary_object(&seen) }))?;
        }
    }
    Ok(seen.faults.is_empty())
}

/// Nothing stands in front of the first entry.
fn newest(timestamp: TimestampMillis) -> Value {
    if timestamp.value() == i64::MIN { Value::Null } else { timestamp.value().into() }
}

fn entry_values(entry: &IndexEntry) -> [Value; 3] {
    [entry.offset.value().into(), entry.position.into(), newest(entry.max_timestamp_before)]
}

fn entry_object(entry: &IndexEntry) -> Value {
    let [offset, position, newest] = entry_values(entry);
    json!({ "offset": offset, "position": position, "max_timestamp_before": newest })
}

fn summary_object(seen: &IndexSeen) -> Value {
    let header = seen.header.as_ref().map(|(base_offset, end)| {
        json!({
            "base_offset": base_offset.value(),
            "end_position": end.position,
            "next_offset": end.offset.value(),
            "last_raft_index": end.raft_index.value(),
            "last_term": end.term.value(),
            "last_header_crc": format!("{:08x}", end.entry_crc),
            "max_timestamp": newest(end.max_timestamp),
        })
    });
    json!({ "header": header, "whole": seen.faults.is_empty(), "compared": seen.compared, "faults": seen.faults })
}

fn lines(path: &Path, seen: &IndexSeen) -> String {
    let name = path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    let mut text = match &seen.header {
        Some((base_offset, end)) => format!(
            "file      {name}\nsegment   offsets {base_offset}..{} (end exclusive), {} bytes used\nlast      entry {}, term {}\n",
            end.offset, end.position, end.raft_index, end.term
        ),
        None => format!("file      {name}\n"),
    };
    text.push_str(&format!("entries   {}\n", seen.entries.len()));
    text.push_str(match (seen.faults.is_empty(), seen.compared) {
        (true, true) => "whole     yes, and the segment beside it agrees\n",
        (true, false) => "whole     yes; the segment is not beside it\n",
        (false, _) => "whole     no: it is rebuilt from the segment when it is needed\n",
    });
    for fault in &seen.faults {
        text.push_str(&format!("          {fault}\n"));
    }
    text
}
