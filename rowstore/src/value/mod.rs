//! Values of rows: in memory here, as bytes in [`row`], as Arrow columns in [`mod@column`].

mod column;
mod row;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};

pub(crate) use column::ColumnBuilder;
pub use column::build_column;
pub(crate) use row::{RowReader, ValueRef, encode_value};
pub use row::{decode_row, encode_row};

use crate::types::ColumnType;

/// Microseconds of a day, which a TIME is below of and an interval's day is taken for in comparisons.
pub const DAY_MICROS: i64 = 86_400_000_000;
/// Nanoseconds of a microsecond: Arrow's intervals are finer than ours.
const MICRO_NANOS: i64 = 1_000;

/// One value of a row.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    Null,
    Boolean(bool),
    /// All integer types.
    Int(i64),
    Real(f32),
    Double(f64),
    /// Unscaled; the scale is the column's.
    Numeric(i128),
    /// Text of any length, and JSON.
    Text(String),
    Bytes(Vec<u8>),
    /// Days since 1970.
    Date(i32),
    /// Microseconds of the day.
    Time(i64),
    /// Microseconds since 1970.
    Timestamp(i64),
    Interval(Interval),
    Uuid([u8; 16]),
    /// Elements of one type, or NULL.
    Array(Vec<Value>),
}

/// A span of time whose months and days have no fixed length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

impl Interval {
    /// What PostgreSQL compares: microseconds, a month being 30 days and a day 24 hours.
    #[must_use]
    pub fn comparable(self) -> i128 {
        (i128::from(self.months) * 30 + i128::from(self.days)) * i128::from(DAY_MICROS) + i128::from(self.micros)
    }
}

impl Value {
    /// The value at `row` of an array laid out as [`ColumnType::arrow`] of `kind` says; NULL for any other layout, and for a
    /// text that is no UUID where one should be.
    #[must_use]
    pub fn from_array(array: &dyn Array, row: usize, kind: &ColumnType) -> Self {
        if array.is_null(row) {
            return Self::Null;
        }
        match array.data_type() {
            DataType::Boolean => Self::Boolean(array.as_boolean().value(row)),
            DataType::Int16 => Self::Int(array.as_primitive::<Int16Type>().value(row).into()),
            DataType::Int32 => Self::Int(array.as_primitive::<Int32Type>().value(row).into()),
            DataType::Int64 => Self::Int(array.as_primitive::<Int64Type>().value(row)),
            DataType::Float32 => Self::Real(array.as_primitive::<Float32Type>().value(row)),
            DataType::Float64 => Self::Double(array.as_primitive::<Float64Type>().value(row)),
            DataType::Decimal128(..) => Self::Numeric(array.as_primitive::<Decimal128Type>().value(row)),
            DataType::Utf8 => {
                let text = array.as_string::<i32>().value(row);
                match kind {
                    ColumnType::Uuid => parse_uuid(text).map_or(Self::Null, Self::Uuid),
                    _ => Self::Text(text.to_owned()),
                }
            }
            DataType::Binary => Self::Bytes(array.as_binary::<i32>().value(row).to_owned()),
            DataType::Date32 => Self::Date(array.as_primitive::<Date32Type>().value(row)),
            DataType::Time64(TimeUnit::Microsecond) => Self::Time(array.as_primitive::<Time64MicrosecondType>().value(row)),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Self::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row))
            }
            DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano) => {
                let span = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
                Self::Interval(Interval { months: span.months, days: span.days, micros: span.nanoseconds / MICRO_NANOS })
            }
            DataType::List(_) => {
                let ColumnType::Array(element) = kind else { return Self::Null };
                let items = array.as_list::<i32>().value(row);
                Self::Array((0..items.len()).map(|at| Self::from_array(&items, at, element)).collect())
            }
            _ => Self::Null,
        }
    }
}

/// A UUID as PostgreSQL writes it: lower case, with hyphens.
#[must_use]
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(u32::from(digit), 16).expect("a digit is below 16"));
        }
    }
    text
}

/// A UUID as PostgreSQL reads it: either case, hyphens behind any four digits, braces around it.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.strip_prefix('{').map_or(Some(text), |text| text.strip_suffix('}'))?;
    let (mut uuid, mut digits) = ([0_u8; 16], 0_usize);
    let mut hyphen = true;
    for byte in text.bytes() {
        if byte == b'-' {
            if hyphen || digits % 4 != 0 || digits == 32 {
                return None;
            }
            hyphen = true;
            continue;
        }
        let digit = char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())?;
        let slot = uuid.get_mut(digits / 2)?;
        *slot = *slot << 4 | digit;
        digits += 1;
        hyphen = false;
    }
    (digits == 32).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_read_as_postgresql_reads_them() {
        let canonical = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for text in [
            canonical,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
        ] {
            assert_eq!(parse_uuid(text).map(|uuid| uuid_text(&uuid)).as_deref(), Some(canonical), "{text}");
        }
        for text in [
            "",
            "{}",
            "-",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11-",
            "-a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0eebc99--9c0b-4ef8-bb6d-6bb9bd380a11",
            "a0eebc9-99c0b-4ef8-bb6d-6bb9bd380a11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "ü0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
        ] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
    }
}
