//! Text as a value of a column's type, read as PostgreSQL reads literals, with PostgreSQL's SQLSTATE for what is no such value.
//!
//! Called by [`super::assign`] for what SQL gives as text, by [`crate::view::json`] for fields of records.
//!
//! # Not done
//! Times of day of 24:00, intervals in ISO 8601, `infinity` as a date, arrays of more dimensions and with bounds of their own.

use std::borrow::Cow;

use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::compute::kernels::cast_utils::{
    IntervalParseConfig, IntervalUnit, Parser, parse_interval_month_day_nano_config, string_to_datetime,
    string_to_time_nanoseconds,
};
use datafusion::arrow::datatypes::Date32Type;
use logcore::ErrorKind;
use rowstore::value::{DAY_MICROS, parse_uuid};
use rowstore::{ColumnType, Interval, Value};

use crate::error::{Error, Result, sqlstate};
use crate::postgres::text::parse_bytes;
use crate::view::json;

/// Characters of a text that an error quotes.
const QUOTED_MAX: usize = 60;

/// How strict a length is: an assignment refuses what a cast cuts off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// INSERT, UPDATE, DEFAULT, fields of records.
    Assignment,
    /// `CAST(... AS type)`.
    Explicit,
}

fn wrong(code: &'static str, message: String) -> Error {
    Error::new(code, ErrorKind::Invalid, message)
}

fn shorten(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(QUOTED_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]).into(),
        None => text.into(),
    }
}

fn no_value(text: &str, kind: &ColumnType) -> Error {
    wrong(sqlstate::INVALID_TEXT_REPRESENTATION, format!("invalid input syntax for type {kind}: \"{}\"", shorten(text)))
}

/// A number that its type does not hold.
#[must_use]
pub fn out_of_range(text: &str, kind: &ColumnType) -> Error {
    wrong(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, format!("value \"{}\" is out of range for type {kind}", shorten(text)))
}

fn no_time(text: &str, kind: &ColumnType) -> Error {
    // Written as a date or a time, with fields that there are not: the 30th of February.
    let shaped = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b':' | b'.' | b' ' | b'T' | b'Z' | b'+');
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    match digits >= 3 && text.bytes().all(shaped) {
        true => wrong(
            sqlstate::DATETIME_FIELD_OVERFLOW,
            format!("date/time field value out of range for type {kind}: \"{}\"", shorten(text)),
        ),
        false => wrong(sqlstate::INVALID_DATETIME_FORMAT, format!("invalid input syntax for type {kind}: \"{}\"", shorten(text))),
    }
}

/// The value that a text stands for.
///
/// # Errors
/// 22P02, 22007, 22008, 22003 and 22001: no such value, or one that the type does not hold.
pub fn parse(text: &str, kind: &ColumnType, conversion: Conversion) -> Result<Value> {
    let trimmed = text.trim();
    match kind {
        ColumnType::Text => Ok(Value::Text(text.to_owned())),
        ColumnType::Varchar { .. } | ColumnType::Char { .. } => {
            fit(text, kind, conversion).map(|text| Value::Text(text.into_owned()))
        }
        ColumnType::Json => check_json(text).map(|()| Value::Text(text.to_owned())),
        ColumnType::Boolean => boolean(trimmed).map(Value::Boolean).ok_or_else(|| no_value(text, kind)),
        ColumnType::SmallInt => integer(text, kind, i16::MIN.into(), i16::MAX.into()),
        ColumnType::Integer => integer(text, kind, i32::MIN.into(), i32::MAX.into()),
        ColumnType::BigInt => integer(text, kind, i64::MIN, i64::MAX),
        ColumnType::Real => {
            let value: f32 = trimmed.parse().map_err(|_| no_value(text, kind))?;
            finite(value.is_finite(), text, kind).map(|()| Value::Real(value))
        }
        ColumnType::Double => {
            let value: f64 = trimmed.parse().map_err(|_| no_value(text, kind))?;
            finite(value.is_finite(), text, kind).map(|()| Value::Double(value))
        }
        ColumnType::Numeric { precision, scale } => match json::decimal(trimmed, *precision, *scale) {
            Some(value) => Ok(Value::Numeric(value)),
            None if is_number(trimmed) => Err(out_of_range(text, kind)),
            None => Err(no_value(text, kind)),
        },
        ColumnType::Bytea => parse_bytes(text).map(Value::Bytes),
        ColumnType::Uuid => parse_uuid(trimmed).map(Value::Uuid).ok_or_else(|| no_value(text, kind)),
        ColumnType::Date => Date32Type::parse(trimmed).map(Value::Date).ok_or_else(|| no_time(text, kind)),
        ColumnType::Time => time(trimmed).map(Value::Time).ok_or_else(|| no_time(text, kind)),
        ColumnType::Timestamp | ColumnType::TimestampTz => {
            let utc: Tz = "UTC".parse().map_err(|_| Error::internal("UTC is a time zone"))?;
            let time = string_to_datetime(&utc, trimmed).map_err(|_| no_time(text, kind))?;
            Ok(Value::Timestamp(time.timestamp_micros()))
        }
        ColumnType::Interval => interval(trimmed).map(Value::Interval).ok_or_else(|| {
            wrong(sqlstate::INVALID_DATETIME_FORMAT, format!("invalid input syntax for type interval: \"{}\"", shorten(text)))
                .hint("write '1 year 2 months 3 days 04:05:06'; the part below a day reaches up to 292 years")
        }),
        ColumnType::Array(element) => array(trimmed, kind, element, conversion),
    }
}

/// Whether a text is JSON.
///
/// # Errors
/// 22P02.
pub fn check_json(text: &str) -> Result<()> {
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(drop)
        .map_err(|error| wrong(sqlstate::INVALID_TEXT_REPRESENTATION, format!("invalid input syntax for type json: {error}")))
}

/// A text as a VARCHAR(n) or CHAR(n) holds it. Blanks beyond the length are cut off, as are all at the end of a CHAR(n).
///
/// # Errors
/// 22001 when it is longer.
pub fn fit<'a>(text: &'a str, kind: &ColumnType, conversion: Conversion) -> Result<Cow<'a, str>> {
    let (length, text) = match kind {
        ColumnType::Varchar { length } => (*length, text),
        ColumnType::Char { length } => (*length, text.trim_end_matches(' ')),
        _ => return Ok(text.into()),
    };
    let Some((end, _)) = text.char_indices().nth(length as usize) else { return Ok(text.into()) };
    let (kept, cut) = text.split_at(end);
    if conversion == Conversion::Assignment && !cut.bytes().all(|byte| byte == b' ') {
        return Err(wrong(sqlstate::STRING_DATA_RIGHT_TRUNCATION, format!("value too long for type {kind}"))
            .hint(format!("it has {} characters; cast it to cut it off: value::{kind}", text.chars().count())));
    }
    match kind {
        ColumnType::Char { .. } => Ok(kept.trim_end_matches(' ').into()),
        _ => Ok(kept.into()),
    }
}

fn boolean(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let begins = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if begins("true", 1) || begins("yes", 1) || text == "on" || text == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || text == "0" {
        Some(false)
    } else {
        None
    }
}

fn integer(text: &str, kind: &ColumnType, least: i64, greatest: i64) -> Result<Value> {
    let digits = text.trim();
    match digits.parse::<i64>() {
        Ok(value) if (least..=greatest).contains(&value) => Ok(Value::Int(value)),
        Ok(_) => Err(out_of_range(digits, kind)),
        Err(_) => {
            let bare = digits.strip_prefix(['-', '+']).unwrap_or(digits);
            match !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit()) {
                true => Err(out_of_range(digits, kind)),
                false => Err(no_value(text, kind)),
            }
        }
    }
}

/// A float is infinite when it was written so, not when it was too large.
fn finite(is_finite: bool, text: &str, kind: &ColumnType) -> Result<()> {
    match is_finite || !text.bytes().any(|byte| byte.is_ascii_digit()) {
        true => Ok(()),
        false => Err(out_of_range(text, kind)),
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    digits > 0 && text.parse::<f64>().is_ok()
}

fn time(text: &str) -> Option<i64> {
    let nanos = string_to_time_nanoseconds(text).ok()?;
    Some((nanos + 500) / 1_000).filter(|micros| (0..DAY_MICROS).contains(micros))
}

/// Words and numbers are Arrow's; a time of the day, which it does not know there, is ours.
fn interval(text: &str) -> Option<Interval> {
    let (times, words): (Vec<&str>, Vec<&str>) = text.split_whitespace().partition(|word| word.contains(':'));
    let time = match times[..] {
        [] => 0,
        [time] => clock(time)?,
        _ => return None,
    };
    if words.is_empty() {
        return (!times.is_empty()).then_some(Interval { months: 0, days: 0, micros: time });
    }
    let config = IntervalParseConfig::new(IntervalUnit::Second);
    let span = parse_interval_month_day_nano_config(&words.join(" "), config).ok()?;
    let micros = (span.nanoseconds / 1_000).checked_add(time).filter(|micros| micros.checked_mul(1_000).is_some())?;
    Some(Interval { months: span.months, days: span.days, micros })
}

/// `[-]hours:minutes[:seconds[.fraction]]` in microseconds.
fn clock(text: &str) -> Option<i64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut parts = text.split(':');
    let whole = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<i64>().ok()).flatten();
    let (hours, minutes) = (whole(parts.next()?)?, whole(parts.next()?)?);
    let seconds = match parts.next() {
        Some(seconds) if seconds.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => json::decimal(seconds, 8, 6)?,
        Some(_) => return None,
        None => 0,
    };
    let seconds = i64::try_from(seconds).ok().filter(|micros| *micros < 60_000_000)?;
    if minutes > 59 || parts.next().is_some() {
        return None;
    }
    let micros = hours.checked_mul(3_600_000_000)?.checked_add(minutes * 60_000_000 + seconds)?;
    micros.checked_mul(1_000).map(|_| sign * micros)
}

/// `{1, 2, NULL, "a, b"}`.
fn array(text: &str, kind: &ColumnType, element: &ColumnType, conversion: Conversion) -> Result<Value> {
    let malformed = || {
        wrong(sqlstate::INVALID_TEXT_REPRESENTATION, format!("malformed array literal for type {kind}: \"{}\"", shorten(text)))
            .hint("write '{1,2,NULL}' or ARRAY[1,2,NULL]")
    };
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(malformed)?;
    let mut items = Vec::new();
    if inner.trim().is_empty() {
        return Ok(Value::Array(items));
    }
    let mut rest = inner.chars().peekable();
    loop {
        while rest.peek().is_some_and(|next| next.is_whitespace()) {
            rest.next();
        }
        let (mut item, mut quoted) = (String::new(), false);
        if rest.next_if_eq(&'"').is_some() {
            quoted = true;
            loop {
                match rest.next().ok_or_else(malformed)? {
                    '"' => break,
                    '\\' => item.push(rest.next().ok_or_else(malformed)?),
                    other => item.push(other),
                }
            }
            while rest.peek().is_some_and(|next| next.is_whitespace()) {
                rest.next();
            }
        } else {
            while let Some(next) = rest.next_if(|next| *next != ',') {
                match next {
                    '{' => return Err(Error::unsupported("arrays of more than one dimension are not supported yet")),
                    '}' | '"' => return Err(malformed()),
                    '\\' => item.push(rest.next().ok_or_else(malformed)?),
                    other => item.push(other),
                }
            }
            item.truncate(item.trim_end().len());
            if item.is_empty() {
                return Err(malformed());
            }
        }
        items.push(match !quoted && item.eq_ignore_ascii_case("null") {
            true => Value::Null,
            false => parse(&item, element, conversion)?,
        });
        match rest.next() {
            None => return Ok(Value::Array(items)),
            Some(',') => {}
            Some(_) => return Err(malformed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, kind: &ColumnType) -> Result<Value> {
        parse(text, kind, Conversion::Assignment)
    }

    fn list(element: ColumnType) -> ColumnType {
        ColumnType::Array(Box::new(element))
    }

    #[test]
    fn texts_are_read_as_postgresql_reads_them() {
        let texts = |items: &[&str]| Value::Array(items.iter().map(|item| Value::Text((*item).into())).collect());
        let span = |months, days, micros| Value::Interval(Interval { months, days, micros });
        for (text, kind, expected) in [
            (" YES ", ColumnType::Boolean, Value::Boolean(true)),
            ("of", ColumnType::Boolean, Value::Boolean(false)),
            (" -7 ", ColumnType::SmallInt, Value::Int(-7)),
            ("-Infinity", ColumnType::Double, Value::Double(f64::NEG_INFINITY)),
            ("1.005", ColumnType::Numeric { precision: 5, scale: 2 }, Value::Numeric(101)),
            ("abc  ", ColumnType::Varchar { length: 3 }, Value::Text("abc".into())),
            ("ab  ", ColumnType::Varchar { length: 3 }, Value::Text("ab ".into())),
            ("äö  ", ColumnType::Char { length: 2 }, Value::Text("äö".into())),
            ("12:34", ColumnType::Time, Value::Time(45_240_000_000)),
            ("23:59:59.999999", ColumnType::Time, Value::Time(DAY_MICROS - 1)),
            ("1 year 2 months -3 days", ColumnType::Interval, span(14, -3, 0)),
            ("1 day 02:03:04.5", ColumnType::Interval, span(0, 1, 7_384_500_000)),
            ("02:03", ColumnType::Interval, span(0, 0, 7_380_000_000)),
            ("-1 days -00:00:01.5", ColumnType::Interval, span(0, -1, -1_500_000)),
            ("90", ColumnType::Interval, span(0, 0, 90_000_000)),
            ("{}", list(ColumnType::Text), texts(&[])),
            (" { a , \"b, \\\"c\\\"\" ,\"NULL\"} ", list(ColumnType::Text), texts(&["a", "b, \"c\"", "NULL"])),
            ("{1,null}", list(ColumnType::BigInt), Value::Array(vec![Value::Int(1), Value::Null])),
        ] {
            assert_eq!(read(text, &kind).unwrap_or_else(|error| panic!("{text}: {error}")), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_value_says_so_with_its_code() {
        for (text, kind, code) in [
            ("ten", ColumnType::Integer, "22P02"),
            ("", ColumnType::Integer, "22P02"),
            ("32768", ColumnType::SmallInt, "22003"),
            ("99999999999999999999", ColumnType::BigInt, "22003"),
            ("1e400", ColumnType::Double, "22003"),
            ("1e39", ColumnType::Real, "22003"),
            ("x", ColumnType::Real, "22P02"),
            ("1000", ColumnType::Numeric { precision: 5, scale: 2 }, "22003"),
            ("1e99", ColumnType::Numeric { precision: 38, scale: 0 }, "22003"),
            ("1.2.3", ColumnType::Numeric { precision: 5, scale: 2 }, "22P02"),
            ("maybe", ColumnType::Boolean, "22P02"),
            ("abcd", ColumnType::Varchar { length: 3 }, "22001"),
            ("abcd", ColumnType::Char { length: 3 }, "22001"),
            ("2024-02-30", ColumnType::Date, "22008"),
            ("soon", ColumnType::Date, "22007"),
            ("25:00", ColumnType::Time, "22008"),
            ("24:00:00", ColumnType::Time, "22008"),
            ("noon", ColumnType::Time, "22007"),
            ("2024-13-01 00:00", ColumnType::Timestamp, "22008"),
            ("soon", ColumnType::TimestampTz, "22007"),
            ("1 fortnight", ColumnType::Interval, "22007"),
            ("99999999999 years", ColumnType::Interval, "22007"),
            ("", ColumnType::Interval, "22007"),
            ("1 day 1:61", ColumnType::Interval, "22007"),
            ("9999999999999:00", ColumnType::Interval, "22007"),
            ("1:2:3:4", ColumnType::Interval, "22007"),
            ("a0eebc99", ColumnType::Uuid, "22P02"),
            ("a\\b", ColumnType::Bytea, "22P02"),
            ("{bad", ColumnType::Json, "22P02"),
            ("1,2", list(ColumnType::BigInt), "22P02"),
            ("{1,,2}", list(ColumnType::BigInt), "22P02"),
            ("{1,}", list(ColumnType::BigInt), "22P02"),
            ("{\"a}", list(ColumnType::Text), "22P02"),
            ("{\"a\"b}", list(ColumnType::Text), "22P02"),
            ("{1,x}", list(ColumnType::BigInt), "22P02"),
            ("{1,99999999999}", list(ColumnType::Integer), "22003"),
            ("{{1},{2}}", list(ColumnType::BigInt), "0A000"),
        ] {
            let error = read(text, &kind).expect_err(text);
            assert_eq!(error.code(), code, "{text}: {error}");
        }
    }

    #[test]
    fn a_cast_cuts_off_what_an_assignment_refuses() {
        let cut = parse("äbcd", &ColumnType::Varchar { length: 2 }, Conversion::Explicit).unwrap();
        assert_eq!(cut, Value::Text("äb".into()));
    }
}
