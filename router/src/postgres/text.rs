//! Values as PostgreSQL writes and reads them.

use datafusion::arrow::array::{Array, TimestampMicrosecondArray};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use logcore::ErrorKind;

use crate::error::{Error, Result, sqlstate};

/// A floating point number, from its shortest form `d.ddde±x`; from `exponent_max` on with an exponent.
#[must_use]
pub(crate) fn float_text(shortest: &str, exponent_max: i32) -> String {
    let Some((digits, exponent)) = shortest.split_once('e') else {
        return match shortest {
            "inf" => "Infinity".into(),
            "-inf" => "-Infinity".into(),
            other => other.into(),
        };
    };
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if exponent < -4 || exponent >= exponent_max {
        let mark = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{digits}e{mark}{:02}", exponent.unsigned_abs());
    }
    let plain: String = digits.chars().filter(|digit| *digit != '.').collect();
    let Ok(point) = usize::try_from(exponent + 1) else { return format!("{sign}0.{}{plain}", "0".repeat(zeros(exponent))) };
    match point {
        0 => format!("{sign}0.{plain}"),
        point if point >= plain.len() => format!("{sign}{plain}{}", "0".repeat(point - plain.len())),
        point => format!("{sign}{}.{}", &plain[..point], &plain[point..]),
    }
}

/// Zeros between the point and the first digit.
fn zeros(exponent: i32) -> usize {
    usize::try_from(-exponent - 1).unwrap_or_default()
}

/// A moment in microseconds since 1970: `2024-05-31 12:00:00.5`, with `+00` behind it where the type has a zone.
#[must_use]
pub(crate) fn timestamp_text(micros: i64, zoned: bool) -> String {
    let array = TimestampMicrosecondArray::from(vec![micros]);
    let options = FormatOptions::default().with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.6f"));
    let shown = match ArrayFormatter::try_new(&array as &dyn Array, &options) {
        Ok(formatter) => formatter.value(0).to_string(),
        Err(_) => micros.to_string(),
    };
    let shown = shown.trim_end_matches('0').trim_end_matches('.');
    // The zeros of a whole second belong to it.
    let whole = match shown.rsplit_once(':') {
        Some((head, seconds)) if !seconds.contains('.') => format!("{head}:{seconds:0<2}"),
        _ => shown.to_owned(),
    };
    format!("{whole}{}", if zoned { "+00" } else { "" })
}

/// Bytes: `\x00ff`.
#[must_use]
pub(crate) fn bytes_text(bytes: &[u8]) -> String {
    bytes.iter().fold("\\x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// What `bytea` is read from: `\\x` and hexadecimal digits, or text with `\\\\` for a backslash and `\\001` for a byte.
///
/// # Errors
/// Text that is neither.
pub(crate) fn parse_bytes(text: &str) -> Result<Vec<u8>> {
    let bad = |what: &str| {
        Error::new(sqlstate::INVALID_PARAMETER_VALUE, ErrorKind::Invalid, format!("invalid hexadecimal data: {what}"))
    };
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        if digits.len() % 2 == 1 {
            return Err(bad("odd number of digits"));
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
        return digits.chunks(2).map(|two| pair(two).ok_or_else(|| bad("not a hexadecimal digit"))).collect();
    }
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'\\' {
            out.push(*first);
            rest = tail;
            continue;
        }
        let octal =
            tail.get(..3).and_then(|three| std::str::from_utf8(three).ok()).and_then(|three| u8::from_str_radix(three, 8).ok());
        match (tail.first(), octal) {
            (Some(b'\\'), _) => {
                out.push(b'\\');
                rest = &tail[1..];
            }
            (_, Some(byte)) => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                let message = format!("invalid input syntax for type bytea: \"{}\"", text.chars().take(100).collect::<String>());
                return Err(Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, ErrorKind::Invalid, message)
                    .hint("write '\\x' and hexadecimal digits"));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_times_and_spans_are_written_as_postgresql_writes_them() {
        for (value, text) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (0.00123, "0.00123"),
            (123.456, "123.456"),
            (0.0, "0"),
            (f64::INFINITY, "Infinity"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(float_text(&format!("{value:e}"), 15), text);
        }
        assert_eq!(timestamp_text(0, true), "1970-01-01 00:00:00+00");
        assert_eq!(timestamp_text(1_500_000, false), "1970-01-01 00:00:01.5");
        assert_eq!(bytes_text(&[0, 255]), "\\x00ff");
    }
}
