//! The options of a stream, read from `WITH (...)` and `SET (...)`: each checked by itself, then all of them together.

use std::time::Duration;

use logcore::{AckClass, Compression};

use crate::catalog::{RetentionPolicy, StreamOptions};
use crate::error::{Error, Result, nearest};
use crate::sql::ddl::Options;
use crate::units::{SIZE_HINT, SPAN_HINT, parse_size, parse_span, show_size, show_span};

/// Names of all options that can be changed later.
const NAMES: [&str; 9] = [
    "ack",
    "retention",
    "retention_bytes",
    "retention_records",
    "compact",
    "tombstone_grace",
    "compression",
    "segment_bytes",
    "flush_interval",
];
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const RETENTION_BYTES_MIN: u64 = 1 << 20;
const FLUSH_INTERVAL_MAX: Duration = Duration::from_hours(1);

/// Takes the options out of `given` and puts them over `before`; `creating` allows and takes none but these and `partitions`.
///
/// # Errors
/// Unknown options, bad values, values that exclude each other.
pub fn read(given: Options, before: &StreamOptions, creating: bool) -> Result<StreamOptions> {
    let (mut given, mut options) = (given.lowercase(), before.clone());
    if let Some(text) = given.take("ack") {
        options.ack = ack(&text)?;
    }
    if let Some(text) = given.take("compression") {
        options.compression = compression(&text)?;
    }
    let bytes = given.take("retention_bytes");
    let records = given.take("retention_records");
    if let Some(text) = given.take("retention") {
        options.retention = retention(&text)?;
        if options.retention == RetentionPolicy::None {
            if let Some(name) = [("retention_bytes", &bytes), ("retention_records", &records)]
                .into_iter()
                .find_map(|(name, value)| value.as_ref().filter(|value| *value != "none").map(|_| name))
            {
                let message = format!("retention = 'none' keeps everything, {name} does not");
                return Err(Error::invalid(message).hint("leave out retention to keep as much as the size says"));
            }
            (options.retention_bytes, options.retention_records) = (None, None);
        }
    }
    if let Some(text) = bytes {
        options.retention_bytes = bound("retention_bytes", &text, parse_size(&text), RETENTION_BYTES_MIN, SIZE_HINT)?;
    }
    if let Some(text) = records {
        options.retention_records =
            bound("retention_records", &text, text.replace('_', "").parse().ok(), 1, "write a number of records, or 'none'")?;
    }
    if let Some(text) = given.take("compact") {
        options.compact = boolean("compact", &text)?;
    }
    if let Some(text) = given.take("tombstone_grace") {
        options.tombstone_grace_ms = span("tombstone_grace", &text)?;
    }
    if let Some(text) = given.take("segment_bytes") {
        options.segment_bytes = Some(segment_bytes(&text)?);
    }
    if let Some(text) = given.take("flush_interval") {
        options.flush_interval_ms = span("flush_interval", &text)?;
        if Duration::from_millis(options.flush_interval_ms) > FLUSH_INTERVAL_MAX {
            let message = format!("flush_interval = '{text}' is too long");
            return Err(Error::invalid(message).hint(format!("up to {}", show_span(FLUSH_INTERVAL_MAX))));
        }
    }
    let known: Vec<&str> = NAMES.into_iter().chain(creating.then_some("partitions")).collect();
    given.finish(&known)?;
    check(&options)?;
    Ok(options)
}

/// Refuses what no single option shows to be wrong.
fn check(options: &StreamOptions) -> Result<()> {
    if options.is_ring() && options.retention_bytes.is_none() && options.retention_records.is_none() {
        return Err(Error::invalid("retention = 'ring' needs a size: how much of the stream is kept")
            .hint("add retention_bytes = '10 GB' or retention_records = 1000000"));
    }
    if options.compact && (options.is_ring() || options.retention_records.is_some()) {
        let other = if options.is_ring() { "retention = 'ring'" } else { "retention_records" };
        let message = format!("compact = true keeps the last record of every key, {other} drops records whatever their key");
        return Err(Error::invalid(message).hint("use one of the two; retention = '7 days' and retention_bytes go with compact"));
    }
    Ok(())
}

fn choose<'a>(name: &str, text: &str, known: impl Iterator<Item = &'a str> + Clone) -> Error {
    let names = known.clone().collect::<Vec<_>>().join(", ");
    let hint = match nearest(text, known) {
        Some(near) => format!("did you mean '{near}'? It is one of {names}"),
        None => format!("use one of {names}"),
    };
    Error::invalid(format!("{name} = '{text}' is unknown")).hint(hint)
}

fn ack(text: &str) -> Result<AckClass> {
    match text {
        "quorum" => Err(Error::unsupported("ack = 'quorum' needs a cluster").hint("use 'disk' or 'memory'")),
        text => text.parse().map_err(|()| choose("ack", text, ["disk", "memory"].into_iter())),
    }
}

fn compression(text: &str) -> Result<String> {
    match text.parse::<Compression>() {
        Ok(compression) => Ok(compression.name().to_owned()),
        Err(_) => Err(choose("compression", text, Compression::ALL.into_iter().map(Compression::name))),
    }
}

fn retention(text: &str) -> Result<RetentionPolicy> {
    Ok(match text {
        "none" => RetentionPolicy::None,
        "consumed" => RetentionPolicy::Consumed,
        "ring" => RetentionPolicy::Ring,
        text => {
            RetentionPolicy::AgeMs(parse_span(text).and_then(|span| u64::try_from(span.as_millis()).ok()).ok_or_else(|| {
                Error::invalid(format!("retention = '{text}' is unknown"))
                    .hint("use an age such as '7 days', 'consumed', 'ring' or 'none'")
            })?)
        }
    })
}

/// A bound on how much is kept; `none` takes it away.
fn bound(name: &str, text: &str, value: Option<u64>, least: u64, hint: &str) -> Result<Option<u64>> {
    if text == "none" {
        return Ok(None);
    }
    let value = value.ok_or_else(|| Error::invalid(format!("{name} = '{text}' is not a size")).hint(hint))?;
    if value < least {
        let message = format!("{name} = '{text}' is too little");
        return Err(Error::invalid(message).hint(format!("the least is {}; 'none' takes the bound away", show_size(least))));
    }
    Ok(Some(value))
}

fn span(name: &str, text: &str) -> Result<u64> {
    let millis = parse_span(text).and_then(|span| u64::try_from(span.as_millis()).ok());
    millis.ok_or_else(|| Error::invalid(format!("{name} = '{text}' is not a time span")).hint(SPAN_HINT))
}

fn boolean(name: &str, text: &str) -> Result<bool> {
    match text {
        "true" | "on" => Ok(true),
        "false" | "off" => Ok(false),
        _ => Err(Error::invalid(format!("{name} = '{text}' is neither true nor false"))),
    }
}

fn segment_bytes(text: &str) -> Result<u64> {
    let bytes =
        parse_size(text).ok_or_else(|| Error::invalid(format!("segment_bytes = '{text}' is not a size")).hint(SIZE_HINT))?;
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
        let hint = format!("{} to {}", show_size(SEGMENT_BYTES_MIN), show_size(SEGMENT_BYTES_MAX));
        return Err(Error::invalid(format!("segment_bytes = '{text}' is out of range")).hint(hint));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use logcore::{Compaction, PartitionOptions, Retention};

    use super::*;
    use crate::sql::ddl::Ddl;
    use crate::sql::parse::{Statement, parse};

    fn given(list: &str) -> Options {
        let mut parsed = parse(&format!("ALTER STREAM s SET ({list})"), 1).unwrap();
        let Some(Statement::Ddl(ddl)) = parsed.pop() else { panic!("{list}") };
        let Ddl::AlterStream { options, .. } = *ddl else { panic!("{list}") };
        options
    }

    fn set(list: &str, before: &StreamOptions) -> Result<StreamOptions> {
        read(given(list), before, false)
    }

    #[test]
    fn every_option_reaches_the_log() {
        let list = "ack = 'memory', retention = '7 days', retention_bytes = '10 GB', compact = true, tombstone_grace = '2 hours', \
                    compression = 'zstd', segment_bytes = '16 MiB', flush_interval = '250 ms'";
        let options = set(list, &StreamOptions::default()).unwrap();
        let expected = PartitionOptions {
            segment_bytes: 16 << 20,
            ack: AckClass::Memory,
            flush_interval: Duration::from_millis(250),
            retention: Retention { age: Some(Duration::from_hours(7 * 24)), bytes: Some(10_000_000_000), ..Retention::default() },
            compaction: Some(Compaction { tombstone_grace: Duration::from_hours(2) }),
            ..PartitionOptions::default()
        };
        assert_eq!(options.partition(&PartitionOptions::default()), expected);
        assert_eq!(options.compression(), Compression::Zstd);
        let ring = set("retention = 'ring', retention_records = 1000", &StreamOptions::default()).unwrap();
        let kept = ring.partition(&PartitionOptions::default()).retention;
        assert_eq!(kept, Retention { ring: true, records: Some(1000), ..Retention::default() });
        assert!(set("retention = consumed", &ring).unwrap().partition(&PartitionOptions::default()).retention.consumed);
    }

    #[test]
    fn what_is_not_named_stays_and_none_takes_bounds_away() {
        let before =
            set("retention = '1 day', retention_bytes = '1 GiB', retention_records = 5", &StreamOptions::default()).unwrap();
        let after = set("retention = '30 days'", &before).unwrap();
        assert_eq!(
            (after.retention_text().as_str(), after.retention_bytes, after.retention_records),
            ("30 days", Some(1 << 30), Some(5))
        );
        let after = set("retention_bytes = 'none'", &before).unwrap();
        assert_eq!((after.retention_bytes, after.retention_records), (None, Some(5)));
        let after = set("retention = 'none'", &before).unwrap();
        assert_eq!((after.retention, after.retention_bytes, after.retention_records), (RetentionPolicy::None, None, None));
    }

    #[test]
    fn wrong_options_are_refused_with_a_remedy() {
        for (list, says, hint) in [
            ("retnetion = '7 days'", "unknown option \"retnetion\"", "did you mean \"retention\"?"),
            ("partitions = 3", "unknown option \"partitions\"", "the options are"),
            ("ack = 'dsik'", "ack = 'dsik' is unknown", "did you mean 'disk'?"),
            ("ack = 'quorum'", "needs a cluster", "'disk'"),
            ("compression = 'zip'", "compression = 'zip' is unknown", "zstd"),
            ("retention = '7 dayz'", "retention = '7 dayz'", "'7 days'"),
            ("retention = 'ring'", "needs a size", "retention_bytes"),
            ("retention = 'ring', retention_bytes = '1 GiB', compact = true", "retention = 'ring' drops", "one of the two"),
            ("retention_records = 7, compact = true", "retention_records drops", "one of the two"),
            ("retention = 'none', retention_bytes = '1 GiB'", "retention_bytes does not", "leave out"),
            ("retention_bytes = '10 Gb of it'", "is not a size", "MiB"),
            ("retention_bytes = 5", "too little", "1 MiB"),
            ("retention_records = 0", "too little", "none"),
            ("compact = maybe", "neither true nor false", ""),
            ("segment_bytes = '1 KiB'", "out of range", "1 MiB to 1 GiB"),
            ("segment_bytes = '2 GiB'", "out of range", "1 MiB to 1 GiB"),
            ("flush_interval = '2 hours'", "too long", "1 hour"),
            ("tombstone_grace = 'soon'", "not a time span", "'7 days'"),
        ] {
            let error = set(list, &StreamOptions::default()).unwrap_err();
            assert!(error.message().contains(says), "{list}: {error}");
            assert!(error.hint_text().unwrap_or_default().contains(hint), "{list}: {:?}", error.hint_text());
        }
    }

    #[test]
    fn records_of_older_releases_are_read() {
        let old = r#"{"id":17,"name":"s","partitions":2,"ack":"disk","compression":"zstd"}"#;
        let def: crate::catalog::StreamDef = serde_json::from_str(old).unwrap();
        assert_eq!(def.options, StreamOptions { compression: "zstd".into(), ..StreamOptions::default() });
        let options = set("retention = '7 days', retention_bytes = '1 GiB'", &def.options).unwrap();
        let def = crate::catalog::StreamDef { options, ..def };
        let text = serde_json::to_string(&def).unwrap();
        assert_eq!(serde_json::from_str::<crate::catalog::StreamDef>(&text).unwrap(), def, "{text}");
    }
}
