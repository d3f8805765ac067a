//! JSON values to values of columns, as PostgreSQL would cast them from text.
//!
//! Called by [`super::mapping`] for every field of every record; the errors become dead letters.

use std::borrow::Cow;

use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use datafusion::arrow::datatypes::Date32Type;
use rowstore::{ColumnType, Value};
use serde_json::value::RawValue;

use crate::sql::input::{self, Conversion};

/// Whole numbers below this are seconds since 1970, from it on milliseconds: it is the year 5138 in seconds and 1973 in
/// milliseconds.
const SECONDS_BELOW: i64 = 100_000_000_000;

/// The text of a JSON value: a string's content, anything else as it stands; `None` for null.
#[must_use]
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let raw = raw.get();
    if raw == "null" {
        return None;
    }
    if !raw.starts_with('"') {
        return Some(raw.into());
    }
    match raw.contains('\\') {
        false => Some(raw[1..raw.len() - 1].into()),
        true => serde_json::from_str::<String>(raw).ok().map(Cow::Owned),
    }
}

/// Converts a JSON value to a column's type.
///
/// # Errors
/// In words: what the value is and what it should be.
pub fn convert(raw: &RawValue, kind: &ColumnType) -> Result<Value, String> {
    if *kind == ColumnType::Json {
        return Ok(if raw.get() == "null" { Value::Null } else { Value::Text(raw.get().to_owned()) });
    }
    if let ColumnType::Array(element) = kind
        && raw.get().starts_with('[')
    {
        let items: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
        return items.into_iter().map(|item| convert(item, element)).collect::<Result<_, _>>().map(Value::Array);
    }
    let Some(text) = text(raw) else { return Ok(Value::Null) };
    let wrong = || format!("{} is not a {}", shorten(raw.get()), name(kind));
    let integer = || text.trim().parse::<i64>().map_err(|_| wrong());
    let in_range = |value: i64, fits: bool| {
        if fits { Ok(Value::Int(value)) } else { Err(format!("{value} is out of range for {}", name(kind))) }
    };
    match kind {
        ColumnType::Text | ColumnType::Json => Ok(Value::Text(text.into_owned())),
        ColumnType::Boolean => match &*text {
            "true" | "t" => Ok(Value::Boolean(true)),
            "false" | "f" => Ok(Value::Boolean(false)),
            _ => Err(wrong()),
        },
        ColumnType::SmallInt => integer().and_then(|value| in_range(value, i16::try_from(value).is_ok())),
        ColumnType::Integer => integer().and_then(|value| in_range(value, i32::try_from(value).is_ok())),
        ColumnType::BigInt => integer().map(Value::Int),
        ColumnType::Real => text.trim().parse().map(Value::Real).map_err(|_| wrong()),
        ColumnType::Double => text.trim().parse().map(Value::Double).map_err(|_| wrong()),
        ColumnType::Numeric { precision, scale } => {
            decimal(text.trim(), *precision, *scale).map(Value::Numeric).ok_or_else(wrong)
        }
        ColumnType::Bytea => bytes(&text).map(Value::Bytes).ok_or_else(wrong),
        ColumnType::Date => Date32Type::parse(&text).map(Value::Date).ok_or_else(wrong),
        ColumnType::Timestamp | ColumnType::TimestampTz => timestamp(raw, &text).map(Value::Timestamp).ok_or_else(wrong),
        ColumnType::Varchar { .. }
        | ColumnType::Char { .. }
        | ColumnType::Time
        | ColumnType::Interval
        | ColumnType::Uuid
        | ColumnType::Array(_) => input::parse(&text, kind, Conversion::Assignment).map_err(|error| error.message().to_owned()),
    }
}

fn shorten(raw: &str) -> String {
    match raw.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &raw[..at]),
        None => raw.to_owned(),
    }
}

fn name(kind: &ColumnType) -> String {
    match kind {
        ColumnType::Bytea => "bytea (write \\x and hexadecimal)".into(),
        other => other.to_string(),
    }
}

fn timestamp(raw: &RawValue, text: &str) -> Option<i64> {
    if raw.get().starts_with('"') {
        let utc: Tz = "UTC".parse().ok()?;
        return string_to_datetime(&utc, text).ok().map(|time| time.timestamp_micros());
    }
    let whole: i64 = match text.parse() {
        Ok(whole) => whole,
        Err(_) => return fractional_seconds(text),
    };
    if whole.abs() < SECONDS_BELOW { whole.checked_mul(1_000_000) } else { whole.checked_mul(1_000) }
}

fn fractional_seconds(text: &str) -> Option<i64> {
    let micros = decimal(text, 38, 6)?;
    i64::try_from(micros).ok()
}

/// The bytes that PostgreSQL writes as `\\x` and hexadecimal digits.
#[must_use]
pub fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?;
    if digits.len() % 2 != 0 || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

/// A decimal number as unscaled digits, rounded half away from zero to `scale`; `None` when it is none or has too many digits.
#[must_use]
pub fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let point = i32::try_from(whole.len()).ok()?.checked_add(exponent)?;
    let keep = point.checked_add(i32::from(scale))?;
    let all = || whole.bytes().chain(fraction.bytes());
    if !all().all(|digit| digit.is_ascii_digit()) || keep > 80 {
        return None;
    }
    let mut value: i128 = 0;
    let mut digits = all();
    for _ in 0..keep.max(0) {
        let digit = digits.next().map_or(0, |digit| i128::from(digit - b'0'));
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    let round_up = keep >= 0 && digits.next().is_some_and(|digit| digit >= b'5');
    value += i128::from(round_up);
    let limit = 10_i128.checked_pow(u32::from(precision))?;
    (value < limit).then_some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(raw: &str, kind: ColumnType) -> Result<Value, String> {
        convert(&RawValue::from_string(raw.to_owned()).unwrap(), &kind)
    }

    #[test]
    fn values_are_cast_as_from_text() {
        let numeric = || ColumnType::Numeric { precision: 5, scale: 2 };
        let list = || ColumnType::Array(Box::new(ColumnType::Integer));
        for (raw, kind, expected) in [
            ("\"a\\nb\"", ColumnType::Text, Value::Text("a\nb".into())),
            ("12", ColumnType::Text, Value::Text("12".into())),
            ("null", ColumnType::BigInt, Value::Null),
            ("\"12\"", ColumnType::BigInt, Value::Int(12)),
            ("1.235", numeric(), Value::Numeric(124)),
            ("-1e2", numeric(), Value::Numeric(-10_000)),
            ("0.001", numeric(), Value::Numeric(0)),
            ("1537727414", ColumnType::TimestampTz, Value::Timestamp(1_537_727_414_000_000)),
            ("1537727414123", ColumnType::TimestampTz, Value::Timestamp(1_537_727_414_123_000)),
            ("1.5", ColumnType::TimestampTz, Value::Timestamp(1_500_000)),
            ("\"2018-09-23T18:30:14+02:00\"", ColumnType::TimestampTz, Value::Timestamp(1_537_720_214_000_000)),
            ("\"1970-01-02\"", ColumnType::Date, Value::Date(1)),
            ("\"\\\\x00ff\"", ColumnType::Bytea, Value::Bytes(vec![0, 255])),
            ("[1, \"2\", null]", list(), Value::Array(vec![Value::Int(1), Value::Int(2), Value::Null])),
            ("\"{3}\"", list(), Value::Array(vec![Value::Int(3)])),
            ("\"08:30\"", ColumnType::Time, Value::Time(30_600_000_000)),
            ("{\"a\": [1]}", ColumnType::Json, Value::Text("{\"a\": [1]}".into())),
        ] {
            assert_eq!(to(raw, kind), Ok(expected), "{raw}");
        }
        for (raw, kind) in [
            ("1.5", ColumnType::BigInt),
            ("40000", ColumnType::SmallInt),
            ("\"x\"", ColumnType::Double),
            ("1000", numeric()),
            ("\"1e\"", numeric()),
            ("\"soon\"", ColumnType::TimestampTz),
            ("[]", ColumnType::Boolean),
            ("[[1]]", list()),
            ("[3000000000]", list()),
            ("\"abc\"", ColumnType::Varchar { length: 2 }),
            ("5", ColumnType::Uuid),
        ] {
            assert!(to(raw, kind).is_err(), "{raw}");
        }
    }
}
