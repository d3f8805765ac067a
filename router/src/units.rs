//! Spans of time and sizes as people write them in options: `'7 days'`, `'1 hour 30 minutes'`, `'64 MiB'`, `'10 GB'`.
//!
//! Read by [`crate::define`], shown by `SHOW STREAMS` and the catalog over HTTP in a form that can be read again.

use std::time::Duration;

/// Names of a unit and its milliseconds: PostgreSQL's words for intervals, the longest unit first. A month is 30 days and a
/// year 365: a span here is compared with ages, not added to dates.
const SPANS: [(&[&str], u64); 8] = [
    (&["year", "years", "y", "yr", "yrs"], 365 * 86_400_000),
    (&["month", "months", "mon", "mons"], 30 * 86_400_000),
    (&["week", "weeks", "w"], 7 * 86_400_000),
    (&["day", "days", "d"], 86_400_000),
    (&["hour", "hours", "h", "hr", "hrs"], 3_600_000),
    (&["minute", "minutes", "m", "min", "mins"], 60_000),
    (&["second", "seconds", "s", "sec", "secs"], 1_000),
    (&["millisecond", "milliseconds", "ms", "msec", "msecs"], 1),
];

/// Names of a unit and its bytes.
const SIZES: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];

/// What to write for a span of time.
pub const SPAN_HINT: &str = "write '7 days', '12 hours' or '500 milliseconds'";
/// What to write for a size.
pub const SIZE_HINT: &str = "write bytes, or a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB, as in '64 MiB'";

/// Splits `12days` and `12 days` into number and unit, and gives what follows.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|ch: char| !ch.is_ascii_digit() && ch != '_').unwrap_or(text.len());
    let number = text[..digits].replace('_', "").parse().ok()?;
    let rest = text[digits..].trim_start();
    let unit = rest.find(|ch: char| !ch.is_ascii_alphabetic()).unwrap_or(rest.len());
    Some((number, &rest[..unit], rest[unit..].trim_start()))
}

/// A span of time above zero; `None` when it is not one.
#[must_use]
pub fn parse_span(text: &str) -> Option<Duration> {
    let (mut rest, mut millis) = (text.trim(), 0_u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, unit, further) = number_and_unit(rest)?;
        let (_, unit_millis) = SPANS.iter().find(|(names, _)| names.iter().any(|name| name.eq_ignore_ascii_case(unit)))?;
        millis = millis.checked_add(number.checked_mul(*unit_millis)?)?;
        rest = further;
    }
    (millis > 0).then(|| Duration::from_millis(millis))
}

/// A span of time in the largest unit, up to days, that gives a whole number.
#[must_use]
pub fn show_span(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let shown = SPANS[3..].iter().find(|(_, unit)| millis.is_multiple_of(*unit) && millis > 0);
    match shown {
        Some((names, unit)) if millis == *unit => format!("1 {}", names[0]),
        Some((names, unit)) => format!("{} {}", millis / unit, names[1]),
        None => "0 seconds".into(),
    }
}

/// A number of bytes; `None` when it is not one.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit, rest) = number_and_unit(text.trim())?;
    let bytes = match unit {
        "" | "B" | "b" => 1,
        unit => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    if rest.is_empty() { number.checked_mul(bytes) } else { None }
}

/// A number of bytes in the unit that gives the smallest whole number.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let whole = SIZES.iter().filter(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    match whole.max_by_key(|(_, unit)| *unit) {
        Some((name, unit)) => format!("{} {name}", bytes / unit),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_in_postgresqls_words() {
        for (text, millis) in [
            ("7 days", 604_800_000),
            ("1h", 3_600_000),
            ("500 ms", 500),
            ("5 m", 300_000),
            ("90 seconds", 90_000),
            ("1 day 2 hours 3mins", 93_780_000),
            ("1 WEEK", 604_800_000),
            ("1 month", 2_592_000_000),
        ] {
            assert_eq!(parse_span(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "0 days", "soon", "7", "7 dayz", "-1 day", "1.5 days", "days", "99999999999999999999 days", "7 days,"] {
            assert_eq!(parse_span(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_in_both_families_of_units() {
        for (text, bytes) in
            [("64 MiB", 64 << 20), ("10 GB", 10_000_000_000), ("1gib", 1 << 30), ("1_000", 1_000), ("5 B", 5), ("2KiB", 2_048)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "MiB", "1.5 GiB", "-1", "10 GBs", "10 GB 3", "99999999 TiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for text in ["7 days", "1 day", "90 minutes", "36 hours", "500 milliseconds", "1 second", "400 days"] {
            assert_eq!(show_span(parse_span(text).unwrap()), text);
        }
        for text in ["64 MiB", "10 GB", "1 GiB", "1500", "3 TB"] {
            assert_eq!(show_size(parse_size(text).unwrap()), text);
        }
    }
}
