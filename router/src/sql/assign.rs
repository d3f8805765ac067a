//! Arrays as values of a column's type: what a statement gives for a column (assignment), and what `CAST` makes of a value.
//!
//! Called by [`crate::dml`] for INSERT, UPDATE and DEFAULT, and by [`super::cast`] for explicit casts.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, new_null_array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, DurationMicrosecondType, Field, Float32Type, Float64Type, TimeUnit};
use datafusion::arrow::error::ArrowError;
use logcore::ErrorKind;
use rowstore::value::{DAY_MICROS, build_column};
use rowstore::{ColumnType, Interval, TableSchema, Value};

use super::input::{self, Conversion};
use crate::error::{Error, Result, sqlstate};

/// Casts what a statement gives for the column at `at`.
///
/// # Errors
/// When a value is of another type, out of range, too long, or not written as the type is.
pub fn assign(array: &ArrayRef, schema: &TableSchema, at: usize) -> Result<ArrayRef> {
    let column = &schema.columns[at];
    convert(array, &column.kind, Conversion::Assignment).map_err(|error| {
        let named = Error::new(error.code(), error.kind(), format!("column \"{}\": {}", column.name, error.message()));
        match error.hint_text() {
            Some(hint) => named.hint(hint),
            None => named,
        }
    })
}

/// Makes values of `kind` of any values that can be it; the array is laid out as the type's columns are.
///
/// # Errors
/// As [`assign`].
pub fn convert(array: &ArrayRef, kind: &ColumnType, conversion: Conversion) -> Result<ArrayRef> {
    match array.data_type() {
        DataType::Null => Ok(new_null_array(&kind.arrow(), array.len())),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => from_texts(array, kind, conversion),
        DataType::Dictionary(_, inner) if !inner.is_nested() => convert(&plain_cast(array, inner, kind)?, kind, conversion),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => from_lists(array, kind, conversion),
        from if *from == kind.arrow() => Ok(Arc::clone(array)),
        _ => match kind {
            ColumnType::Text | ColumnType::Varchar { .. } | ColumnType::Char { .. } => {
                from_texts(&plain_cast(array, &DataType::Utf8, kind)?, kind, conversion)
            }
            _ => from_scalars(array, kind),
        },
    }
}

fn mismatch(from: &DataType, kind: &ColumnType) -> Error {
    let message = format!("a value of type {from} was given where {kind} is expected");
    Error::new(sqlstate::DATATYPE_MISMATCH, ErrorKind::Invalid, message).hint(format!("cast it: value::{kind}"))
}

fn from_texts(array: &ArrayRef, kind: &ColumnType, conversion: Conversion) -> Result<ArrayRef> {
    let texts = plain_cast(array, &DataType::Utf8, kind)?;
    let strings = texts.as_string::<i32>();
    match kind {
        ColumnType::Text => return Ok(texts),
        ColumnType::Json => {
            strings.iter().flatten().try_for_each(input::check_json)?;
            return Ok(texts);
        }
        _ => {}
    }
    let value = |text: Option<&str>| text.map_or(Ok(Value::Null), |text| input::parse(text, kind, conversion));
    let values = strings.iter().map(value).collect::<Result<Vec<_>>>()?;
    Ok(build_column(kind, values.iter())?)
}

fn from_lists(array: &ArrayRef, kind: &ColumnType, conversion: Conversion) -> Result<ArrayRef> {
    let item = match array.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => Arc::clone(item),
        other => return Err(mismatch(other, kind)),
    };
    let ColumnType::Array(element) = kind else { return Err(mismatch(array.data_type(), kind)) };
    if item.data_type().is_nested() {
        return Err(Error::unsupported("arrays of more than one dimension are not supported yet"));
    }
    let lists = plain_cast(array, &DataType::List(item), kind)?;
    let lists = lists.as_list::<i32>();
    let items = convert(lists.values(), element, conversion)?;
    let field = Arc::new(Field::new_list_field(element.arrow(), true));
    let lists = ListArray::try_new(field, lists.offsets().clone(), items, lists.nulls().cloned());
    Ok(Arc::new(lists.map_err(|error| Error::internal(error.to_string()))?))
}

fn from_scalars(array: &ArrayRef, kind: &ColumnType) -> Result<ArrayRef> {
    let (from, to) = (array.data_type(), kind.arrow());
    let day = |kind: &DataType| matches!(kind, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    let fits = match kind {
        ColumnType::Time => matches!(from, DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..)),
        ColumnType::Interval => matches!(from, DataType::Interval(_) | DataType::Duration(_)),
        ColumnType::Bytea => matches!(from, DataType::LargeBinary | DataType::BinaryView),
        _ => (from.is_numeric() && to.is_numeric()) || (day(from) && day(&to)),
    };
    if !fits {
        return Err(mismatch(from, kind));
    }
    if matches!(from, DataType::Duration(_)) {
        // What lies between two timestamps is days and a time, as PostgreSQL says it.
        let spans = plain_cast(array, &DataType::Duration(TimeUnit::Microsecond), kind)?;
        let spans = spans.as_primitive::<DurationMicrosecondType>();
        let days = |micros: i64| i32::try_from(micros / DAY_MICROS).map(|days| (days, micros % DAY_MICROS));
        let value = |micros: Option<i64>| match micros.map(|micros| days(micros).map_err(|_| micros)) {
            None => Ok(Value::Null),
            Some(Ok((days, micros))) => Ok(Value::Interval(Interval { months: 0, days, micros })),
            Some(Err(micros)) => Err(input::out_of_range(&micros.to_string(), kind)),
        };
        let values = spans.iter().map(value).collect::<Result<Vec<_>>>()?;
        return Ok(build_column(kind, values.iter())?);
    }
    // Fractions are rounded on their way to an integer, not cut off.
    let fraction = matches!(from, DataType::Decimal128(..) | DataType::Float32 | DataType::Float64);
    let array = match fraction && to.is_integer() {
        true => plain_cast(array, &DataType::Decimal128(38, 0), kind)?,
        false => Arc::clone(array),
    };
    let cast = plain_cast(&array, &to, kind)?;
    if *array.data_type() == DataType::Float64 && to == DataType::Float32 {
        let (wide, narrow) = (array.as_primitive::<Float64Type>(), cast.as_primitive::<Float32Type>());
        let lost = |row: &usize| wide.is_valid(*row) && wide.value(*row).is_finite() && !narrow.value(*row).is_finite();
        if let Some(row) = (0..wide.len()).find(lost) {
            return Err(input::out_of_range(&wide.value(row).to_string(), kind));
        }
    }
    Ok(cast)
}

/// Arrow's cast, failing where it can't.
fn plain_cast(array: &ArrayRef, to: &DataType, kind: &ColumnType) -> Result<ArrayRef> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &strict).map_err(|error| match error {
        // The types were looked at before: what is left are numbers and times that do not fit.
        ArrowError::CastError(message) | ArrowError::ArithmeticOverflow(message) | ArrowError::InvalidArgumentError(message) => {
            let message = format!("a value is out of range for type {kind}: {message}");
            Error::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, ErrorKind::Invalid, message)
        }
        other => Error::new(sqlstate::INVALID_TEXT_REPRESENTATION, ErrorKind::Invalid, other.to_string()),
    })
}
