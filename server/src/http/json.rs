//! Looking into JSON without building it: validity, depth, single fields, times.
//!
//! The NDJSON door validates every line and takes at most two fields out of it; values stay the bytes that came. Called by
//! [`super::ingest`], [`super::record`] and [`super::body`].

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How deep a record's value may be nested.
pub const DEPTH_MAX: usize = 64;
/// Integers below are seconds, others milliseconds: 10^11 ms is 1973, 10^11 s the year 5138.
const SECONDS_BELOW: u64 = 100_000_000_000;

/// Whether brackets are nested deeper than `max`. Says nothing about whether it is JSON.
pub fn deeper_than(json: &[u8], max: usize) -> bool {
    // Without so many brackets it can't be; counting them is much cheaper than following strings.
    if json.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() <= max {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > max {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The text of one JSON value, if it is one and not too deep.
///
/// # Errors
/// What is wrong, and at which column.
pub fn check(bytes: &[u8]) -> Result<&str, String> {
    let text = utf8(bytes)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| explain(&error))?;
    Ok(text)
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("it is not UTF-8 at column {}", error.valid_up_to().saturating_add(1)))?;
    if deeper_than(bytes, DEPTH_MAX) {
        return Err(format!("it is nested more than {DEPTH_MAX} deep"));
    }
    Ok(text)
}

/// An error of serde_json about one line, without its own line number.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("{what} at column {}", error.column())
}

/// A field, given as `a` or `a.b`.
#[derive(Clone, Debug)]
pub struct FieldPath {
    text: String,
}

impl FieldPath {
    /// Takes a dotted path; `None` if a part of it is empty.
    pub fn new(text: &str) -> Option<Self> {
        text.split('.').all(|part| !part.is_empty()).then(|| Self { text: text.to_owned() })
    }

    fn split(&self) -> (&str, Option<&str>) {
        self.text.split_once('.').map_or((self.text.as_str(), None), |(first, rest)| (first, Some(rest)))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// As [`check`], and the values of up to two fields of what must be an object.
///
/// # Errors
/// As [`check`].
pub fn pick<'a>(bytes: &'a [u8], fields: [Option<&FieldPath>; 2]) -> Result<(&'a str, [Option<&'a RawValue>; 2]), String> {
    let text = utf8(bytes)?;
    let split = fields.map(|field| field.map(FieldPath::split));
    let mut found = pick_names(text, split.map(|split| split.map(|(first, _)| first))).map_err(|error| explain(&error))?;
    for (value, split) in found.iter_mut().zip(split) {
        let mut rest = split.and_then(|(_, rest)| rest);
        while let (Some(path), Some(raw)) = (rest, *value) {
            let (first, deeper) = path.split_once('.').map_or((path, None), |(first, deeper)| (first, Some(deeper)));
            // What is not an object has no fields.
            *value = pick_names(raw.get(), [Some(first), None]).ok().and_then(|[inner, _]| inner);
            rest = deeper;
        }
    }
    Ok((text, found))
}

fn pick_names<'a>(text: &'a str, names: [Option<&str>; 2]) -> serde_json::Result<[Option<&'a RawValue>; 2]> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let found = deserializer.deserialize_map(Members(names))?;
    deserializer.end()?;
    Ok(found)
}

struct Members<'n>([Option<&'n str>; 2]);

impl<'de> Visitor<'de> for Members<'_> {
    type Value = [Option<&'de RawValue>; 2];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None, None];
        while let Some(wanted) = map.next_key_seed(Name(self.0))? {
            if wanted == [false, false] {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw: &RawValue = map.next_value()?;
            for (slot, _) in found.iter_mut().zip(wanted).filter(|(_, wanted)| *wanted) {
                *slot = Some(raw);
            }
        }
        Ok(found)
    }
}

/// Says which of the names a key is, without keeping it.
struct Name<'n>([Option<&'n str>; 2]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = [bool; 2];

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = [bool; 2];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.map(|name| name == Some(key)))
    }
}

/// The bytes of a key that is given as a JSON string or number; `None` for null.
///
/// # Errors
/// When it is something else.
pub fn key_text(raw: &RawValue) -> Result<Option<String>, &'static str> {
    match raw.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw.get()).map(Some).map_err(|_| "is not a string"),
        Some(b'-' | b'0'..=b'9') => Ok(Some(raw.get().to_owned())),
        Some(b'n') => Ok(None),
        _ => Err("is neither a string nor a number"),
    }
}

/// A time given as seconds, milliseconds or RFC 3339 text, in milliseconds since 1970; `None` for null.
///
/// # Errors
/// When it is something else.
pub fn time_millis(raw: &RawValue) -> Result<Option<i64>, &'static str> {
    const BAD: &str = "is neither an integer (seconds or milliseconds since 1970) nor an RFC 3339 string";
    if raw.get() == "null" {
        return Ok(None);
    }
    if let Ok(number) = serde_json::from_str::<i64>(raw.get()) {
        let millis = if number.unsigned_abs() < SECONDS_BELOW { number * 1000 } else { number };
        return Ok(Some(millis));
    }
    let text: String = serde_json::from_str(raw.get()).map_err(|_| BAD)?;
    rfc3339_millis(&text).map(Some).ok_or(BAD)
}

/// `2024-02-29T12:00:00.5+01:00` as milliseconds since 1970; digits behind the third are cut off.
pub fn rfc3339_millis(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = bytes.get(range)?;
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| bytes[*at] != *byte) || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, zone) = match text[19..].strip_prefix('.') {
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return None;
            }
            let millis =
                rest.bytes().take(digits).chain([b'0'; 3]).take(3).fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
            (millis, &rest[digits..])
        }
        None => (0, &text[19..]),
    };
    let offset_minutes = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|digit| digit.is_ascii_digit()) => {
            let two = |tens: &u8, ones: &u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            let (hours, minutes) = (two(h1, h2), two(m1, m2));
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + (minute - offset_minutes) * 60 + second;
    Some(seconds * 1000 + fraction)
}

/// Days since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn times_are_seconds_milliseconds_or_rfc_3339() {
        for (text, millis) in [
            ("1537727414", Some(1_537_727_414_000)),
            ("1537727414123", Some(1_537_727_414_123)),
            ("99999999999", Some(99_999_999_999_000)),
            ("100000000000", Some(100_000_000_000)),
            ("-1", Some(-1000)),
            ("\"1970-01-01T00:00:00Z\"", Some(0)),
            ("\"2018-09-23T18:30:14Z\"", Some(1_537_727_414_000)),
            ("\"2018-09-23T20:30:14.5+02:00\"", Some(1_537_727_414_500)),
            ("\"2024-02-29 00:00:00.123456-00:30\"", Some(1_709_166_600_123)),
            ("null", None),
        ] {
            assert_eq!(time_millis(&raw(text)).unwrap(), millis, "{text}");
        }
        for bad in
            ["1.5", "true", "\"yesterday\"", "\"2023-02-29T00:00:00Z\"", "\"2023-02-28T00:00:00\"", "\"2023-02-28T24:00:00Z\""]
        {
            assert!(time_millis(&raw(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_are_found_at_their_path_and_the_rest_is_checked() {
        let (key, time) = (FieldPath::new("a.b").unwrap(), FieldPath::new("t").unwrap());
        let line = br#"{"x":[1,{"t":0}],"a":{"c":1,"b":"k"},"t":5}"#;
        let (_, [k, t]) = pick(line, [Some(&key), Some(&time)]).unwrap();
        assert_eq!((k.unwrap().get(), t.unwrap().get()), ("\"k\"", "5"));
        let (_, [k, t]) = pick(br#"{"a":3}"#, [Some(&key), Some(&time)]).unwrap();
        assert!(k.is_none() && t.is_none());
        for bad in ["[1]", "{\"a\":1", "{\"a\":1} x", "{\"x\":tru}"] {
            assert!(pick(bad.as_bytes(), [Some(&key), None]).is_err(), "{bad}");
        }
        assert!(FieldPath::new("a..b").is_none() && FieldPath::new("").is_none());
        assert_eq!(key_text(&raw("-1.50")).unwrap().as_deref(), Some("-1.50"));
        assert_eq!(key_text(&raw("\"a\\n\"")).unwrap().as_deref(), Some("a\n"));
        assert!(key_text(&raw("[]")).is_err());
    }

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(check(nested(64).as_bytes()).is_ok());
        assert!(check(nested(65).as_bytes()).unwrap_err().contains("64 deep"));
        assert!(check(format!("\"{}\\\"{}\"", nested(99), nested(99)).as_bytes()).is_ok());
        assert!(check(b"[1, tru]").unwrap_err().contains("column"));
        assert!(check(b"\"\xff\"").unwrap_err().contains("UTF-8 at column 2"));
    }
}
