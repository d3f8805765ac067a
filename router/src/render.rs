//! Arrow values as JSON, and Arrow types by PostgreSQL's names: how results look over HTTP.
//!
//! Integers beyond 2^53, decimals with digits behind the point and timestamps are strings; timestamps are RFC 3339 in UTC; JSON
//! columns are embedded.

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, Time64NanosecondType, TimeUnit, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use rowstore::schema::KIND_METADATA;
use serde_json::Value;

/// The largest integer that every JSON reader keeps exact.
const EXACT_MAX: u64 = 1 << 53;

/// Whether a text column holds JSON.
#[must_use]
pub fn is_json(field: &Field) -> bool {
    field.metadata().get(KIND_METADATA).is_some_and(|kind| kind == "json")
}

/// A column's type as PostgreSQL names it.
#[must_use]
pub fn type_name(field: &Field) -> String {
    let named = field.metadata().get(KIND_METADATA);
    match (field.data_type(), named) {
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, Some(kind)) if !kind.ends_with("[]") => kind.clone(),
        (DataType::List(_), Some(kind)) if kind.ends_with("[]") => kind.clone(),
        (other, _) => arrow_type_name(other),
    }
}

/// How many characters a CHAR(n) is shown with: those that it is kept without are blanks.
fn padded_to(field: &Field) -> Option<usize> {
    field.metadata().get(KIND_METADATA)?.strip_prefix("character(")?.strip_suffix(')')?.parse().ok()
}

fn arrow_type_name(kind: &DataType) -> String {
    match kind {
        DataType::Null => "text".into(),
        DataType::Boolean => "boolean".into(),
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint".into(),
        DataType::Int32 | DataType::UInt16 => "integer".into(),
        DataType::Int64 | DataType::UInt32 => "bigint".into(),
        DataType::UInt64 => "numeric(20,0)".into(),
        DataType::Float16 | DataType::Float32 => "real".into(),
        DataType::Float64 => "double precision".into(),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("numeric({precision},{scale})")
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "bytea".into(),
        DataType::Date32 | DataType::Date64 => "date".into(),
        DataType::Time32(_) | DataType::Time64(_) => "time".into(),
        DataType::Timestamp(_, None) => "timestamp".into(),
        DataType::Timestamp(_, Some(_)) => "timestamptz".into(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".into(),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            format!("{}[]", arrow_type_name(item.data_type()))
        }
        DataType::Dictionary(_, value) => arrow_type_name(value),
        other => other.to_string().to_lowercase(),
    }
}

/// Appends each row of a batch as an array of JSON values.
pub fn json_rows(batch: &RecordBatch, out: &mut Vec<Value>) {
    let schema = batch.schema();
    for row in 0..batch.num_rows() {
        let cells = schema.fields().iter().zip(batch.columns()).map(|(field, column)| json_value(field, column, row));
        out.push(Value::Array(cells.collect()));
    }
}

/// One value as JSON.
#[must_use]
pub fn json_value(field: &Field, array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) || *array.data_type() == DataType::Null {
        return Value::Null;
    }
    let signed = |value: i64| if value.unsigned_abs() <= EXACT_MAX { value.into() } else { value.to_string().into() };
    let float = |value: f64| serde_json::Number::from_f64(value).map_or_else(|| float_text(value).into(), Value::Number);
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => signed(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => {
            let value = array.as_primitive::<UInt64Type>().value(row);
            if value <= EXACT_MAX { value.into() } else { value.to_string().into() }
        }
        // Through the shortest text, so that 0.1 stays 0.1 and does not become 0.10000000149011612.
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            float(value.to_string().parse().unwrap_or_else(|_| f64::from(value)))
        }
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => text(field, array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(field, array.as_string::<i64>().value(row)),
        DataType::Utf8View => text(field, array.as_string_view().value(row)),
        DataType::List(item) => list(item, &array.as_list::<i32>().value(row)),
        DataType::LargeList(item) => list(item, &array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(item, _) => list(item, &array.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let members = fields.iter().zip(array.as_struct().columns());
            Value::Object(members.map(|(field, column)| (field.name().clone(), json_value(field, column, row))).collect())
        }
        DataType::Dictionary(_, value) => match datafusion::arrow::compute::cast(array, value) {
            Ok(plain) => json_value(field, &plain, row),
            Err(_) => formatted(array, row),
        },
        DataType::Binary => bytea(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytea(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => bytea(array.as_binary_view().value(row)),
        DataType::Decimal128(_, 0) => match i64::try_from(array.as_primitive::<Decimal128Type>().value(row)) {
            Ok(value) => signed(value),
            Err(_) => formatted(array, row),
        },
        DataType::Time64(TimeUnit::Microsecond) => clock(array.as_primitive::<Time64MicrosecondType>().value(row)).into(),
        DataType::Time64(TimeUnit::Nanosecond) => clock(array.as_primitive::<Time64NanosecondType>().value(row) / 1_000).into(),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let span = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            interval(span.months, span.days, span.nanoseconds / 1_000).into()
        }
        _ => formatted(array, row),
    }
}

/// A time of day as PostgreSQL writes it: the fraction of a second only as far as there is one.
fn clock(micros: i64) -> String {
    let (seconds, micros) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    let whole = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match micros {
        0 => whole,
        micros => format!("{whole}.{micros:06}").trim_end_matches('0').to_owned(),
    }
}

/// An interval as PostgreSQL writes it: a part that is positive behind a negative one says so.
pub(crate) fn interval(months: i32, days: i32, micros: i64) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut negative = false;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value != 0 {
            let (plus, plural) = (if negative && value > 0 { "+" } else { "" }, if value == 1 { "" } else { "s" });
            parts.push(format!("{plus}{value} {unit}{plural}"));
            negative = value < 0;
        }
    }
    if micros != 0 || parts.is_empty() {
        let sign = if micros < 0 {
            "-"
        } else if negative {
            "+"
        } else {
            ""
        };
        parts.push(format!("{sign}{}", clock(micros)));
    }
    parts.join(" ")
}

fn float_text(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

fn text(field: &Field, text: &str) -> Value {
    if is_json(field) {
        return serde_json::from_str(text).unwrap_or_else(|_| text.into());
    }
    match padded_to(field) {
        Some(length) => {
            let blanks = length.saturating_sub(text.chars().count());
            (text.to_owned() + &" ".repeat(blanks)).into()
        }
        None => text.into(),
    }
}

fn list(item: &Field, values: &dyn Array) -> Value {
    Value::Array((0..values.len()).map(|row| json_value(item, values, row)).collect())
}

fn bytea(bytes: &[u8]) -> Value {
    bytes.iter().fold("\\x".to_owned(), |text, byte| text + &format!("{byte:02x}")).into()
}

/// The formats of times, for JSON and CSV.
#[must_use]
pub fn format_options() -> FormatOptions<'static> {
    FormatOptions::default()
        .with_timestamp_format(Some("%Y-%m-%dT%H:%M:%S%.f"))
        .with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.fZ"))
}

fn formatted(array: &dyn Array, row: usize) -> Value {
    // Every timestamp with a zone is shown in UTC, whatever zone its type names.
    if let DataType::Timestamp(_, Some(zone)) = array.data_type()
        && &**zone != "UTC"
    {
        let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        if let Ok(array) = datafusion::arrow::compute::cast(array, &utc) {
            return formatted(&array, row);
        }
    }
    match ArrayFormatter::try_new(array, &format_options()) {
        Ok(formatter) => formatter.value(row).to_string().into(),
        Err(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Decimal128Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    fn shown(array: ArrayRef, json: bool) -> Value {
        let mut field = Field::new("c", array.data_type().clone(), true);
        if json {
            field = field.with_metadata([(KIND_METADATA.to_owned(), "json".to_owned())].into());
        }
        json_value(&field, &array, 0)
    }

    #[test]
    fn times_and_intervals_look_as_in_postgresql() {
        assert_eq!(
            (clock(0), clock(86_399_999_999), clock(45_240_500_000)),
            ("00:00:00".into(), "23:59:59.999999".into(), "12:34:00.5".into())
        );
        for (months, days, micros, text) in [
            (0, 0, 0, "00:00:00"),
            (14, 3, 14_706_000_007, "1 year 2 mons 3 days 04:05:06.000007"),
            (-1, 3, -1_000_000, "-1 mons +3 days -00:00:01"),
            (0, -1, 3_600_000_000, "-1 days +01:00:00"),
            (1, 1, 360_000_000_000, "1 mon 1 day 100:00:00"),
        ] {
            assert_eq!(interval(months, days, micros), text);
        }
    }

    #[test]
    fn values_look_as_documented() {
        assert_eq!(shown(Arc::new(Int64Array::from(vec![1 << 53])), false), Value::from(1_u64 << 53));
        assert_eq!(shown(Arc::new(Int64Array::from(vec![i64::MIN])), false), Value::from("-9223372036854775808"));
        let decimal = Decimal128Array::from(vec![150]).with_precision_and_scale(5, 2).unwrap();
        assert_eq!(shown(Arc::new(decimal), false), Value::from("1.50"));
        let time = TimestampMicrosecondArray::from(vec![1_537_727_414_000_000]).with_timezone("UTC");
        assert_eq!(shown(Arc::new(time), false), Value::from("2018-09-23T18:30:14Z"));
        let time = TimestampMicrosecondArray::from(vec![1_537_727_414_500_000]).with_timezone("+02:00");
        assert_eq!(shown(Arc::new(time), false), Value::from("2018-09-23T18:30:14.500Z"));
        assert_eq!(shown(Arc::new(StringArray::from(vec!["{\"a\":1}"])), true), serde_json::json!({"a": 1}));
        assert_eq!(shown(Arc::new(StringArray::from(vec!["{\"a\":1}"])), false), Value::from("{\"a\":1}"));
    }
}
