//! The function that stands for a cast: from one type to another as PostgreSQL converts them.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, PrimitiveArray, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use datafusion::arrow::compute::{CastOptions, cast, cast_with_options};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, FieldRef, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalUnit, TimeUnit,
};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use logcore::ErrorKind;

use super::text::{bytes_text, float_text, parse_bytes, timestamp_text};
use crate::error::{Error, sqlstate};
use crate::render::{interval, is_json};

/// Its name in plans.
pub(super) const NAME: &str = "convert_to";

/// A cast to the type of a field.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Conversion {
    target: FieldRef,
    signature: Signature,
}

/// The call that stands for a cast of `expr`.
pub(super) fn call(expr: Expr, target: FieldRef) -> Expr {
    let function = Conversion { target, signature: Signature::any(1, Volatility::Immutable) };
    ScalarUDF::new_from_impl(function).call(vec![expr])
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_signed(kind: &DataType) -> bool {
    matches!(kind, DataType::Int16 | DataType::Int32 | DataType::Int64)
}

/// Whether PostgreSQL converts these types otherwise than Arrow.
pub(super) fn converts(from: &DataType, target: &FieldRef) -> bool {
    use DataType::{Binary, Boolean, Date32, Decimal128, Float32, Float64, Interval, Timestamp};
    match (from, target.data_type()) {
        (from, to) if is_text(from) && is_text(to) => is_json(target),
        (from, to) if is_text(from) => {
            is_signed(to) || matches!(to, Float32 | Float64 | Decimal128(..) | Boolean | Date32 | Timestamp(..) | Binary)
        }
        (Float32 | Float64, to) => is_signed(to) || is_text(to) || matches!(to, Decimal128(..)),
        (Decimal128(..), to) => is_signed(to) || matches!(to, Decimal128(..)),
        (from, Decimal128(..)) if is_signed(from) => true,
        (from, to) if is_signed(from) && is_signed(to) => from.primitive_width() > to.primitive_width(),
        (Timestamp(..) | Interval(_) | Binary, to) => is_text(to),
        _ => false,
    }
}

fn sql_name(kind: &DataType) -> &'static str {
    match kind {
        DataType::Int16 => "smallint",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Decimal128(..) => "numeric",
        DataType::Boolean => "boolean",
        DataType::Date32 => "date",
        DataType::Timestamp(_, None) => "timestamp",
        DataType::Timestamp(..) => "timestamp with time zone",
        DataType::Binary => "bytea",
        _ => "json",
    }
}

fn data_error(code: &'static str, message: String) -> DataFusionError {
    DataFusionError::External(Box::new(Error::new(code, ErrorKind::Invalid, message)))
}

fn bad_text(kind: &DataType, text: &str) -> DataFusionError {
    let shown: String = text.chars().take(100).collect();
    data_error(sqlstate::INVALID_TEXT_REPRESENTATION, format!("invalid input syntax for type {}: \"{shown}\"", sql_name(kind)))
}

fn out_of_range(kind: &DataType) -> DataFusionError {
    data_error(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, format!("{} out of range", sql_name(kind)))
}

/// Converts each text, nulls apart.
fn from_text<T>(texts: &StringArray, parse: impl Fn(&str) -> Result<T>) -> Result<Vec<Option<T>>> {
    texts.iter().map(|text| text.map(&parse).transpose()).collect()
}

fn whole<T: ArrowPrimitiveType>(texts: &StringArray) -> Result<ArrayRef>
where
    T::Native: std::str::FromStr<Err = std::num::ParseIntError>,
{
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let parse = |text: &str| {
        text.trim().parse::<T::Native>().map_err(|error| match error.kind() {
            PosOverflow | NegOverflow => {
                let message = format!("value \"{}\" is out of range for type {}", text.trim(), sql_name(&T::DATA_TYPE));
                data_error(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, message)
            }
            _ => bad_text(&T::DATA_TYPE, text),
        })
    };
    Ok(Arc::new(PrimitiveArray::<T>::from_iter(from_text(texts, parse)?)))
}

fn real<T: ArrowPrimitiveType>(texts: &StringArray, finite: impl Fn(T::Native) -> bool) -> Result<ArrayRef>
where
    T::Native: std::str::FromStr,
{
    let parse = |text: &str| {
        let trimmed = text.trim();
        let value = trimmed.parse::<T::Native>().map_err(|_| bad_text(&T::DATA_TYPE, text))?;
        if !finite(value) && trimmed.contains(|ch: char| ch.is_ascii_digit()) {
            return Err(out_of_range(&T::DATA_TYPE));
        }
        Ok(value)
    };
    Ok(Arc::new(PrimitiveArray::<T>::from_iter(from_text(texts, parse)?)))
}

fn boolean(text: &str) -> Result<bool> {
    let word = text.trim().to_ascii_lowercase();
    let prefix = |of: &str, least: usize| word.len() >= least && of.starts_with(&word);
    if prefix("true", 1) || prefix("yes", 1) || word == "on" || word == "1" {
        Ok(true)
    } else if prefix("false", 1) || prefix("no", 1) || prefix("off", 2) || word == "0" {
        Ok(false)
    } else {
        Err(bad_text(&DataType::Boolean, text))
    }
}

/// Text that has the form of a date and is none is out of range; anything else is not a date at all.
fn bad_moment(kind: &DataType, text: &str) -> DataFusionError {
    let mut parts = text.trim().split(['-', ' ', 'T']);
    let number = |part: Option<&str>| part.is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    if number(parts.next()) && number(parts.next()) && number(parts.next()) {
        return data_error(sqlstate::DATETIME_FIELD_OVERFLOW, format!("date/time field value out of range: \"{text}\""));
    }
    data_error(sqlstate::INVALID_DATETIME_FORMAT, format!("invalid input syntax for type {}: \"{text}\"", sql_name(kind)))
}

fn micros(text: &str, zoned: bool) -> Option<i64> {
    let mut text = text.trim();
    if text.eq_ignore_ascii_case("epoch") {
        return Some(0);
    }
    if !zoned {
        // A zone is read over.
        text = text.trim_end_matches(['Z', 'z']);
        let time = text.find([' ', 'T', 't']).unwrap_or(text.len());
        if let Some(at) = text[time..].rfind(['+', '-']) {
            text = text[..time + at].trim_end();
        }
    }
    let utc: datafusion::arrow::array::timezone::Tz = "+00:00".parse().ok()?;
    string_to_datetime(&utc, text).ok().map(|moment| moment.timestamp_micros())
}

fn date(text: &str) -> Result<i32> {
    let trimmed = text.trim();
    Date32Type::parse(trimmed)
        .or_else(|| micros(trimmed, false).and_then(|micros| i32::try_from(micros.div_euclid(86_400_000_000)).ok()))
        .ok_or_else(|| bad_moment(&DataType::Date32, text))
}

fn text_to(texts: &StringArray, target: &FieldRef) -> Result<ArrayRef> {
    let kind = target.data_type();
    Ok(match kind {
        DataType::Int16 => whole::<Int16Type>(texts)?,
        DataType::Int32 => whole::<Int32Type>(texts)?,
        DataType::Int64 => whole::<Int64Type>(texts)?,
        DataType::Float32 => real::<Float32Type>(texts, f32::is_finite)?,
        DataType::Float64 => real::<Float64Type>(texts, f64::is_finite)?,
        DataType::Boolean => Arc::new(BooleanArray::from(from_text(texts, boolean)?)),
        DataType::Date32 => Arc::new(Date32Array::from(from_text(texts, date)?)),
        DataType::Binary => Arc::new(BinaryArray::from_iter(from_text(texts, |text| {
            parse_bytes(text).map_err(|error| DataFusionError::External(Box::new(error)))
        })?)),
        DataType::Timestamp(unit, zone) => {
            let parse = |text: &str| micros(text, zone.is_some()).ok_or_else(|| bad_moment(kind, text));
            let array = TimestampMicrosecondArray::from(from_text(texts, parse)?).with_timezone_opt(zone.clone());
            match unit {
                TimeUnit::Microsecond => Arc::new(array),
                _ => cast(&array, kind)?,
            }
        }
        DataType::Decimal128(..) => {
            let trimmed: StringArray = texts.iter().map(|text| text.map(str::trim)).collect();
            let array = cast(&trimmed, kind)?;
            let lost = (0..texts.len()).find(|row| array.is_null(*row) && texts.is_valid(*row));
            match lost {
                None => array,
                Some(row) if texts.value(row).trim().parse::<f64>().is_ok_and(|_| !texts.value(row).contains(['n', 'N'])) => {
                    return Err(numeric_overflow(kind));
                }
                Some(row) => return Err(bad_text(kind, texts.value(row))),
            }
        }
        other => {
            for text in texts.iter().flatten() {
                serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|_| bad_text(other, text))?;
            }
            cast(texts, other)?
        }
    })
}

fn numeric_overflow(kind: &DataType) -> DataFusionError {
    let DataType::Decimal128(precision, scale) = kind else { return out_of_range(kind) };
    let message = format!("numeric field overflow: the value does not fit NUMERIC({precision},{scale})");
    data_error(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, message)
}

fn narrowed<T: ArrowPrimitiveType>(values: impl Iterator<Item = Option<i128>>) -> Result<ArrayRef>
where
    T::Native: TryFrom<i128>,
{
    let fit = |value: i128| T::Native::try_from(value).map_err(|_| out_of_range(&T::DATA_TYPE));
    let values = values.map(|value| value.map(fit).transpose()).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(PrimitiveArray::<T>::from_iter(values)))
}

fn whole_from(values: impl Iterator<Item = Option<i128>>, kind: &DataType) -> Result<ArrayRef> {
    match kind {
        DataType::Int16 => narrowed::<Int16Type>(values),
        DataType::Int32 => narrowed::<Int32Type>(values),
        _ => narrowed::<Int64Type>(values),
    }
}

/// To the nearest whole number, halves to the even one.
fn rounded(value: f64, kind: &DataType) -> Result<i128> {
    let value = value.round_ties_even();
    if !value.is_finite() || value.abs() >= 1e30 {
        return Err(out_of_range(kind));
    }
    // Exact: the text of a whole number of this size has all its digits.
    format!("{value:.0}").parse().map_err(|_| out_of_range(kind))
}

fn convert(array: &ArrayRef, target: &FieldRef) -> Result<ArrayRef> {
    let to = target.data_type();
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let texts = |values: Vec<Option<String>>| -> Result<ArrayRef> { Ok(cast(&StringArray::from(values), to)?) };
    match array.data_type() {
        from if is_text(from) => text_to(cast(array, &DataType::Utf8)?.as_string::<i32>(), target),
        DataType::Float32 | DataType::Float64 if is_signed(to) => {
            let wide = cast(array, &DataType::Float64)?;
            let values = wide.as_primitive::<Float64Type>().iter().map(|value| value.map(|value| rounded(value, to)).transpose());
            whole_from(values.collect::<Result<Vec<_>>>()?.into_iter(), to)
        }
        DataType::Float32 if is_text(to) => texts(
            array
                .as_primitive::<Float32Type>()
                .iter()
                .map(|value| value.map(|value| float_text(&format!("{value:e}"), 6)))
                .collect(),
        ),
        DataType::Float64 if is_text(to) => texts(
            array
                .as_primitive::<Float64Type>()
                .iter()
                .map(|value| value.map(|value| float_text(&format!("{value:e}"), 15)))
                .collect(),
        ),
        DataType::Decimal128(..) if is_signed(to) => {
            let round = cast_with_options(array, &DataType::Decimal128(38, 0), &strict).map_err(|_| out_of_range(to))?;
            whole_from(round.as_primitive::<Decimal128Type>().iter(), to)
        }
        DataType::Interval(_) => {
            let intervals = cast(array, &DataType::Interval(IntervalUnit::MonthDayNano))?;
            let intervals = intervals.as_primitive::<datafusion::arrow::datatypes::IntervalMonthDayNanoType>();
            texts(
                intervals
                    .iter()
                    .map(|value| value.map(|span| interval(span.months, span.days, span.nanoseconds / 1_000)))
                    .collect(),
            )
        }
        DataType::Timestamp(_, zone) => {
            let micros = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?;
            let micros = micros.as_primitive::<datafusion::arrow::datatypes::TimestampMicrosecondType>();
            texts(micros.iter().map(|value| value.map(|value| timestamp_text(value, zone.is_some()))).collect())
        }
        DataType::Binary => texts(array.as_binary::<i32>().iter().map(|value| value.map(bytes_text)).collect()),
        from if is_signed(from) && is_signed(to) => cast_with_options(array, to, &strict).map_err(|_| out_of_range(to)),
        _ => cast_with_options(array, to, &strict).map_err(|_| numeric_overflow(to)),
    }
}

impl ScalarUDFImpl for Conversion {
    fn name(&self) -> &'static str {
        NAME
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("CAST({} AS {})", args[0], self.target.data_type()))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args[0].schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(self.target.data_type().clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.first().is_none_or(|field| field.is_nullable());
        Ok(Arc::new(self.target.as_ref().clone().with_nullable(nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(match &args.args[0] {
            ColumnarValue::Scalar(scalar) => {
                let array = convert(&scalar.to_array()?, &self.target)?;
                ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)
            }
            ColumnarValue::Array(array) => ColumnarValue::Array(convert(array, &self.target)?),
        })
    }
}
