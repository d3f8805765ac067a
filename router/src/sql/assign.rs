//! Assignment: what a statement gives for a column becomes values of the column's type, as PostgreSQL's assignment casts do.
//!
//! Called by [`crate::dml`] for INSERT, UPDATE and DEFAULT.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::DataType;
use logcore::ErrorKind;
use rowstore::value::build_column;
use rowstore::{ColumnType, TableSchema, Value};

use crate::error::{Error, Result, sqlstate};
use crate::view::json;

/// Casts what a statement gives for the column at `at`.
///
/// # Errors
/// When a value is of another type, out of range or not written as the type is.
pub fn assign(array: &ArrayRef, schema: &TableSchema, at: usize) -> Result<ArrayRef> {
    let column = &schema.columns[at];
    let (from, to) = (array.data_type(), column.kind.arrow());
    if *from == to {
        return check_json(array, column);
    }
    let text = matches!(from, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Null);
    let time = |kind: &DataType| matches!(kind, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    let fits = text || column.kind == ColumnType::Text || (from.is_numeric() && to.is_numeric()) || (time(from) && time(&to));
    if !fits {
        let message = format!("column \"{}\" is of another type than its value ({from} given)", column.name);
        return Err(Error::new(sqlstate::DATATYPE_MISMATCH, ErrorKind::Invalid, message).hint("cast it: value::type"));
    }
    if column.kind == ColumnType::Bytea {
        return bytea(array, column);
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let wrong = |error: datafusion::arrow::error::ArrowError| {
        let message = error.to_string();
        let message = message.split_once("error: ").map_or(message.as_str(), |(_, message)| message);
        let (code, text) =
            if message.contains("Can't cast value") || message.contains("too large") || message.contains("overflow") {
                (sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, format!("column \"{}\" is out of range: {message}", column.name))
            } else {
                (sqlstate::INVALID_TEXT_REPRESENTATION, format!("column \"{}\": {message}", column.name))
            };
        Error::new(code, ErrorKind::Invalid, text)
    };
    // Fractions are rounded on their way to an integer, not cut off.
    let fraction = matches!(from, DataType::Decimal128(..) | DataType::Float32 | DataType::Float64);
    let array = match fraction && to.is_integer() {
        true => cast_with_options(array, &DataType::Decimal128(38, 0), &strict).map_err(wrong)?,
        false => Arc::clone(array),
    };
    check_json(&cast_with_options(&array, &to, &strict).map_err(wrong)?, column)
}

/// Texts as PostgreSQL writes bytes: `\\x` and hexadecimal.
fn bytea(array: &ArrayRef, column: &rowstore::Column) -> Result<ArrayRef> {
    let texts =
        cast_with_options(array, &DataType::Utf8, &CastOptions::default()).map_err(|error| Error::internal(error.to_string()))?;
    let value = |row| match Value::from_array(&texts, row) {
        Value::Text(text) => json::bytes(&text).map(Value::Bytes).ok_or_else(|| {
            let message = format!("column \"{}\": '{text}' is not a bytea", column.name);
            Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, ErrorKind::Invalid, message)
                .hint("write '\\x' and hexadecimal digits")
        }),
        _ => Ok(Value::Null),
    };
    let values = (0..texts.len()).map(value).collect::<Result<Vec<_>>>()?;
    Ok(build_column(ColumnType::Bytea, values.iter())?)
}

fn check_json(array: &ArrayRef, column: &rowstore::Column) -> Result<ArrayRef> {
    if column.kind == ColumnType::Json {
        for row in 0..array.len() {
            if let Value::Text(text) = Value::from_array(array, row)
                && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(&text)
            {
                let message = format!("column \"{}\" is not JSON: {error}", column.name);
                return Err(Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, ErrorKind::Invalid, message));
            }
        }
    }
    Ok(Arc::clone(array))
}
