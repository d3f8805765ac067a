//! A segment: a line for every frame and every hole, then a summary.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use logcore::RaftIndex;
use logcore::segment::inspect::{Chain, Content, Damage, FrameSeen, Step, Summary, inspect_segment, kind_name};
use serde_json::{Value, json};

use super::object;
use crate::cli::output::{Format, count};

/// Widths of the columns, as frames are printed while the file is read: numbers to the right.
const HEAD: &str =
    "    position  kind              offset    span       entry    term  records     bytes          newest  chain    crc  says\n";

/// Prints the segment at `path`; says whether it is whole.
pub fn print(path: &Path, format: Format, out: &mut dyn Write) -> Result<bool> {
    match format {
        Format::Json => write!(out, "{{\"frames\":[")?,
        Format::Table => out.write_all(HEAD.as_bytes())?,
        _ => {}
    }
    let (mut failed, mut first) = (None, true);
    let summary = inspect_segment(path, |step| {
        let written = match (step, format) {
            (Step::Frame(frame), Format::Table) => out.write_all(frame_line(frame).as_bytes()),
            (Step::Damage(damage), Format::Table) => writeln!(out, "{:>12}  damaged: {}", damage.position, damage_text(damage)),
            (Step::Frame(frame), Format::Json) => {
                let comma = if std::mem::take(&mut first) { "" } else { "," };
                write!(out, "{comma}\n{}", frame_object(frame))
            }
            // They are all in the summary, which says which of them were promised.
            (Step::Damage(_), Format::Json) => Ok(()),
            (Step::Frame(frame), _) => writeln!(out, "{}", frame_object(frame)),
            (Step::Damage(damage), _) => writeln!(out, "{}", json!({ "damage": damage_object(damage) })),
        };
        failed = written.err();
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    match format {
        Format::Json => writeln!(out, "\n],\"summary\":{}}}", summary_object(path, &summary))?,
        Format::Table => write!(out, "\n{}", summary_lines(path, &summary))?,
        _ => writeln!(out, "{}", json!({ "summary": summary_object(path, &summary) }))?,
    }
    Ok(summary.is_whole())
}

fn chain_name(chain: Chain) -> Option<&'static str> {
    match chain {
        Chain::Local => None,
        Chain::Unknown => Some("unknown"),
        Chain::Linked => Some("ok"),
        Chain::Broken => Some("broken"),
    }
}

/// What a body says besides its records: for people, and as members of an object.
fn says(content: &Content) -> Vec<(&'static str, u64)> {
    match content {
        Content::Flush { durable, ceiling } => vec![("durable", durable.value()), ("ceiling", ceiling.value())],
        Content::Seal { records, end_offset, places, compacted, .. } => vec![
            ("records", *records),
            ("end_offset", end_offset.value()),
            ("places", *places as u64),
            ("compacted", u64::from(*compacted)),
        ],
        Content::Batch { .. } | Content::Other => Vec::new(),
    }
}

fn records(content: &Content) -> Option<u32> {
    match content {
        Content::Batch { records } => Some(*records),
        _ => None,
    }
}

fn frame_line(seen: &FrameSeen) -> String {
    let header = &seen.frame.header;
    let entry = header.kind.is_entry();
    let text = |shown: bool, value: String| if shown { value } else { String::new() };
    let says: Vec<String> = says(&seen.content).into_iter().map(|(name, value)| format!("{name} {value}")).collect();
    let line = format!(
        "{:>12}  {:<12}  {:>10}  {:>6}  {:>10}  {:>6}  {:>7}  {:>8}  {:>14}  {:<7}  ok   {}",
        seen.position,
        kind_name(header.kind),
        header.base_offset,
        text(entry, header.offset_span.to_string()),
        text(entry, header.raft_index.to_string()),
        header.term,
        records(&seen.content).map_or(String::new(), |records| records.to_string()),
        header.frame_bytes,
        text(records(&seen.content).is_some(), header.max_timestamp.to_string()),
        chain_name(seen.chain).unwrap_or_default(),
        says.join(", "),
    );
    line.trim_end().to_owned() + "\n"
}

fn frame_object(seen: &FrameSeen) -> Value {
    let header = &seen.frame.header;
    let entry = |value: Value| if header.kind.is_entry() { value } else { Value::Null };
    let mut object = object([
        ("position", seen.position.into()),
        ("kind", kind_name(header.kind).into()),
        ("base_offset", header.base_offset.value().into()),
        ("offset_span", entry(header.offset_span.into())),
        ("raft_index", entry(header.raft_index.value().into())),
        ("term", header.term.value().into()),
        ("records", records(&seen.content).into()),
        ("frame_bytes", header.frame_bytes.into()),
        ("body_bytes", header.body_bytes.into()),
        ("max_timestamp", records(&seen.content).map(|_| header.max_timestamp.value()).into()),
        ("chain", chain_name(seen.chain).into()),
        ("header_crc", format!("{:08x}", seen.header_crc).into()),
        ("crc", "ok".into()),
    ]);
    for (name, value) in says(&seen.content) {
        object[name] = value.into();
    }
    object
}

fn damage_text(damage: &Damage) -> String {
    let bytes = damage.bytes.map_or("nothing whole follows".into(), |bytes| count(bytes, "byte"));
    format!("{}; {bytes}; offset {} was due, after entry {}", damage.reason, damage.offset, damage.after)
}

fn damage_object(damage: &Damage) -> Value {
    json!({
        "position": damage.position,
        "bytes": damage.bytes,
        "reason": damage.reason,
        "offset": damage.offset.value(),
        "after_raft_index": damage.after.value(),
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

fn summary_object(path: &Path, summary: &Summary) -> Value {
    let damage: Vec<Value> = summary
        .damage
        .iter()
        .map(|damage| {
            let mut object = damage_object(damage);
            object["promised"] = summary.was_promised(damage).into();
            object
        })
        .collect();
    let frames = summary.frames.iter().map(|(kind, count)| (kind_name(*kind).to_owned(), Value::from(*count)));
    let mut object = object([
        ("file", file_name(path).into()),
        ("named_offset", summary.named.map(logcore::Offset::value).into()),
        ("frames", Value::Object(frames.collect())),
        ("records", summary.records.into()),
        ("first_offset", summary.offsets.as_ref().map(|offsets| offsets.start.value()).into()),
        ("next_offset", summary.offsets.as_ref().map(|offsets| offsets.end.value()).into()),
        ("first_raft_index", summary.raft_indexes.map(|(first, _)| first.value()).into()),
        ("last_raft_index", summary.raft_indexes.map(|(_, last)| last.value()).into()),
        ("lowest_term", summary.terms.map(|(lowest, _)| lowest.value()).into()),
        ("highest_term", summary.terms.map(|(_, highest)| highest.value()).into()),
        ("least_timestamp", summary.timestamps.map(|(least, _)| least.value()).into()),
        ("greatest_timestamp", summary.timestamps.map(|(_, greatest)| greatest.value()).into()),
    ]);
    object["durable_raft_index"] = summary.durable.value().into();
    object["sealed"] = summary.sealed.into();
    object["file_bytes"] = summary.len_bytes.into();
    object["used_bytes"] = summary.used_bytes.into();
    object["whole"] = summary.is_whole().into();
    object["damage"] = damage.into();
    object["damage_more"] = summary.damage_more.into();
    object
}

/// The summary for people.
pub fn summary_lines(path: &Path, summary: &Summary) -> String {
    let range = |first: String, last: String| format!("{first}..{last}");
    let named = summary.named.map_or("not a segment's name".into(), |offset| format!("base offset {offset}"));
    let frames: Vec<String> = summary.frames.iter().map(|(kind, count)| format!("{count} {}", kind_name(*kind))).collect();
    let mut lines = vec![
        ("file", format!("{}, {named}", file_name(path))),
        ("frames", if frames.is_empty() { "none".into() } else { frames.join(", ") }),
    ];
    if let (Some(offsets), Some((first, last)), Some((lowest, highest))) = (&summary.offsets, summary.raft_indexes, summary.terms)
    {
        lines.push(("records", format!("{}, offsets {}..{} (end exclusive)", summary.records, offsets.start, offsets.end)));
        lines.push(("entries", range(first.to_string(), last.to_string())));
        lines.push(("terms", range(lowest.to_string(), highest.to_string())));
    }
    if let Some((least, greatest)) = summary.timestamps {
        lines.push(("newest", format!("{} (milliseconds since 1970)", range(least.to_string(), greatest.to_string()))));
    }
    let free = summary.len_bytes - summary.used_bytes;
    lines.push(("bytes", format!("{} used, {free} free, {} together", summary.used_bytes, summary.len_bytes)));
    let durable = match summary.durable {
        RaftIndex::NONE => "nothing is called so".into(),
        durable => format!("up to entry {durable}, says the last flush frame"),
    };
    lines.push(("durable", durable));
    lines.push(("sealed", if summary.sealed { "yes".into() } else { "no".into() }));
    let places = summary.damage.len() as u64 + summary.damage_more;
    lines.push(("damage", if places == 0 { "none".into() } else { count(places, "place") }));
    let mut text: String = lines.into_iter().map(|(name, value)| format!("{name:<8}  {value}\n")).collect();
    for damage in &summary.damage {
        let verdict = match (summary.was_promised(damage), damage.bytes) {
            (true, _) => "was called durable: corrupt",
            (false, Some(_)) => "was not called durable",
            (false, None) if summary.sealed => "stands behind the seal, where nobody reads",
            (false, None) => "was not called durable: a torn write, which an unclean start trims in the newest segment",
        };
        text.push_str(&format!("          byte {}: {}; {verdict}\n", damage.position, damage_text(damage)));
    }
    if summary.damage_more > 0 {
        text.push_str(&format!("          and {} more\n", summary.damage_more));
    }
    text
}
