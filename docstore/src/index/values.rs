//! How values of documents and of queries become numbers, dates and addresses of typed fields: one reading for both sides.
//!
//! [`super::Fields::document`] indexes what is read here, [`crate::query`] compares with it.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::Value;
use tantivy::DateTime;
use tantivy::time::format_description::well_known::Rfc3339;
use tantivy::time::{OffsetDateTime, UtcOffset};

/// A number of a typed field, exactly: whole numbers of 64 bits apart from all others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Integer(i64),
    Fraction(f64),
}

impl Number {
    pub(crate) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_i64().map(Self::Integer).or_else(|| number.as_f64().map(Self::from_float)),
            Value::String(text) => Self::parse(text),
            _ => None,
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let float = || text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Self::from_float);
        text.parse().ok().map(Self::Integer).or_else(float)
    }

    /// A whole number where the float is one, so that `7.0` is `7`.
    pub(crate) fn from_float(float: f64) -> Self {
        if float.fract() == 0.0 && float.abs() < 9.3e18 {
            // The digits of a whole float are its exact value; what does not fit 64 bits stays a float.
            if let Ok(integer) = format!("{float:.0}").parse() {
                return Self::Integer(integer);
            }
        }
        Self::Fraction(float)
    }

    pub(crate) fn float(self) -> f64 {
        match self {
            Self::Integer(integer) => integer_as_float(integer),
            Self::Fraction(float) => float,
        }
    }
}

/// The nearest float.
pub(crate) fn integer_as_float(integer: i64) -> f64 {
    Value::from(integer).as_f64().expect("every integer has a nearest float")
}

/// A time in RFC 3339, or a date alone (its midnight in UTC), of the years tantivy can hold (1677 to 2262).
pub(crate) fn parse_date(text: &str) -> Option<DateTime> {
    if !(10..=40).contains(&text.len()) || text.as_bytes()[4] != b'-' {
        return None;
    }
    if text.len() == 10 { rfc3339(&format!("{text}T00:00:00Z")) } else { rfc3339(text) }
}

fn rfc3339(text: &str) -> Option<DateTime> {
    in_range(OffsetDateTime::parse(text, &Rfc3339).ok()?)
}

fn in_range(date: OffsetDateTime) -> Option<DateTime> {
    let date = date.to_offset(UtcOffset::UTC);
    (1678..=2261).contains(&date.year()).then(|| DateTime::from_utc(date))
}

/// A date of a typed field: text of ISO 8601, where what is left out is its first (`2024`, `2024-03`, `2024-03-01T12:00`, a space for
/// the `T`, no offset for UTC), or seconds or milliseconds since 1970, as a whole number or as text of at least five digits.
pub(crate) fn typed_date(value: &Value) -> Option<DateTime> {
    match value {
        Value::Number(number) => since_1970(number.as_i64()?),
        Value::String(text) => date_text(text.trim()),
        _ => None,
    }
}

pub(crate) fn date_text(text: &str) -> Option<DateTime> {
    if text.len() > 40 || !text.is_ascii() {
        return None;
    }
    if text.len() > 4
        && let Ok(number) = text.parse::<i64>()
    {
        return since_1970(number);
    }
    let (day, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, ""));
    let day = match day.len() {
        4 => format!("{day}-01-01"),
        7 => format!("{day}-01"),
        _ => day.to_owned(),
    };
    let split = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (clock, offset) = time.split_at(split);
    let clock = match clock.len() {
        0 if offset.is_empty() => "00:00:00".to_owned(),
        2 => format!("{clock}:00:00"),
        5 => format!("{clock}:00"),
        _ => clock.to_owned(),
    };
    let offset = match offset.len() {
        0 => "Z".to_owned(),
        3 => format!("{offset}:00"),
        5 if !offset.contains(':') => format!("{}:{}", &offset[..3], &offset[3..]),
        _ => offset.to_owned(),
    };
    rfc3339(&format!("{day}T{clock}{offset}"))
}

/// Seconds below this, milliseconds from it on, as everywhere in the product: 5138 or 1973.
const MILLIS_FROM: u64 = 100_000_000_000;

fn since_1970(number: i64) -> Option<DateTime> {
    let millis = if number.unsigned_abs() < MILLIS_FROM { number * 1000 } else { number };
    in_range(OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok()?)
}

pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// An address; IPv4 as it is kept, mapped into IPv6.
pub(crate) fn ip(text: &str) -> Option<Ipv6Addr> {
    Some(match text.trim().parse().ok()? {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    })
}

/// The first and last address of a network such as `10.0.0.0/8`, or of a single address.
pub(crate) fn network(text: &str) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let Some((address, bits)) = text.split_once('/') else { return ip(text).map(|ip| (ip, ip)) };
    let bits: u32 = bits.trim().parse().ok()?;
    let address: IpAddr = address.trim().parse().ok()?;
    let (address, all) = match address {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), 32),
        IpAddr::V6(ip) => (ip, 128),
    };
    let free = all - (bits <= all).then_some(bits)?;
    let rest = if free == 128 { u128::MAX } else { (1_u128 << free) - 1 };
    let first = u128::from(address) & !rest;
    Some((Ipv6Addr::from(first), Ipv6Addr::from(first | rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_facets_are_rfc_3339_or_a_day_alone() {
        let millis = |text: &str| parse_date(text).map(DateTime::into_timestamp_millis);
        assert_eq!(millis("1970-01-02"), Some(86_400_000));
        assert_eq!(millis("1970-01-01T01:00:00.5+01:00"), Some(500));
        for text in ["", "1970", "1970-13-01", "9999-01-01", "1970-01-01x", "äöüäöüäöü", "0123-5678901234567"] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn typed_dates_are_iso_8601_or_counted_from_1970() {
        let millis = |text: &str| date_text(text).map(DateTime::into_timestamp_millis);
        for (text, wanted) in [
            ("1970", Some(0)),
            ("1970-02", Some(2_678_400_000)),
            ("1970-01-02", Some(86_400_000)),
            ("1970-01-01T00:01", Some(60_000)),
            ("1970-01-01 00:00:01.25", Some(1_250)),
            ("1970-01-01T02:00:00+0200", Some(0)),
            ("1970-01-01T02:00+02", Some(0)),
            ("86400", Some(86_400_000)),
            ("-86400", Some(-86_400_000)),
            ("1700000000", Some(1_700_000_000_000)),
            ("1700000000000", Some(1_700_000_000_000)),
            ("0001", None),
            ("", None),
            ("1970-1-1", None),
            ("yesterday", None),
            ("99999999999999999", None),
        ] {
            assert_eq!(millis(text), wanted, "{text}");
        }
    }

    #[test]
    fn numbers_are_exact_and_networks_have_ends() {
        assert_eq!(Number::parse("9007199254740993"), Some(Number::Integer(9_007_199_254_740_993)));
        assert_eq!(Number::parse("7.0"), Some(Number::Integer(7)));
        assert_eq!(Number::parse("-0.5"), Some(Number::Fraction(-0.5)));
        assert_eq!(Number::parse("9223372036854775808"), Some(Number::Fraction(9_223_372_036_854_775_808.0)));
        assert_eq!((Number::parse("x"), Number::parse("inf"), Number::parse("nan")), (None, None, None));
        let ends = |text| network(text).map(|(first, last)| (first.to_string(), last.to_string()));
        assert_eq!(ends("10.1.2.3/8"), Some(("::ffff:10.0.0.0".to_owned(), "::ffff:10.255.255.255".to_owned())));
        assert_eq!(ends("fe80::1/128"), Some(("fe80::1".to_owned(), "fe80::1".to_owned())));
        assert_eq!(ends("::/0").map(|(first, _)| first), Some("::".to_owned()));
        assert_eq!((ends("10.0.0.0/33"), ends("10.0.0/8"), ends("x")), (None, None, None));
    }
}
