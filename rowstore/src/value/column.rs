//! Values as Arrow columns: one builder per column of a scan.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder, Int16Builder,
    Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, ListArray, NullBufferBuilder, StringBuilder,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Field, IntervalMonthDayNano};

use super::row::ValueRef;
use super::{MICRO_NANOS, Value, uuid_text};
use crate::error::{Error, Result};
use crate::types::ColumnType;

const MISMATCH: Error = Error::CorruptRow { detail: "a value does not fit its column" };

/// Grows one Arrow column.
pub(crate) enum ColumnBuilder {
    Boolean(BooleanBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder),
    Text(StringBuilder),
    Binary(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Interval(IntervalMonthDayNanoBuilder),
    List(Box<ListBuilder>),
}

/// Grows a column of arrays.
pub(crate) struct ListBuilder {
    element: ColumnType,
    items: ColumnBuilder,
    items_len: usize,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl ListBuilder {
    fn new(element: ColumnType) -> Self {
        let items = ColumnBuilder::new(&element);
        Self { element, items, items_len: 0, offsets: vec![0], nulls: NullBufferBuilder::new(0) }
    }

    fn end(&mut self, valid: bool) -> Result<()> {
        self.nulls.append(valid);
        self.offsets.push(i32::try_from(self.items_len).map_err(|_| MISMATCH)?);
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        let field = Arc::new(Field::new_list_field(self.element.arrow(), true));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        self.items_len = 0;
        Arc::new(ListArray::new(field, offsets, self.items.finish(), self.nulls.finish()))
    }
}

impl ColumnBuilder {
    pub fn new(kind: &ColumnType) -> Self {
        match kind {
            ColumnType::Boolean => Self::Boolean(BooleanBuilder::new()),
            ColumnType::SmallInt => Self::Int16(Int16Builder::new()),
            ColumnType::Integer => Self::Int32(Int32Builder::new()),
            ColumnType::BigInt => Self::Int64(Int64Builder::new()),
            ColumnType::Real => Self::Float32(Float32Builder::new()),
            ColumnType::Double => Self::Float64(Float64Builder::new()),
            ColumnType::Numeric { .. } => Self::Decimal(Decimal128Builder::new().with_data_type(kind.arrow())),
            ColumnType::Text | ColumnType::Varchar { .. } | ColumnType::Char { .. } | ColumnType::Json | ColumnType::Uuid => {
                Self::Text(StringBuilder::new())
            }
            ColumnType::Bytea => Self::Binary(BinaryBuilder::new()),
            ColumnType::Date => Self::Date(Date32Builder::new()),
            ColumnType::Time => Self::Time(Time64MicrosecondBuilder::new()),
            ColumnType::Timestamp | ColumnType::TimestampTz => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(kind.arrow()))
            }
            ColumnType::Interval => Self::Interval(IntervalMonthDayNanoBuilder::new()),
            ColumnType::Array(element) => Self::List(Box::new(ListBuilder::new((**element).clone()))),
        }
    }

    pub fn push(&mut self, value: ValueRef<'_>) -> Result<()> {
        match (self, value) {
            (builder, ValueRef::Null) => builder.push_null()?,
            (Self::Boolean(builder), ValueRef::Boolean(value)) => builder.append_value(value),
            (Self::Int16(builder), ValueRef::Int(value)) => builder.append_value(i16::try_from(value).map_err(|_| MISMATCH)?),
            (Self::Int32(builder), ValueRef::Int(value)) => builder.append_value(i32::try_from(value).map_err(|_| MISMATCH)?),
            (Self::Int64(builder), ValueRef::Int(value)) => builder.append_value(value),
            (Self::Float32(builder), ValueRef::Real(value)) => builder.append_value(value),
            (Self::Float64(builder), ValueRef::Double(value)) => builder.append_value(value),
            (Self::Decimal(builder), ValueRef::Numeric(value)) => builder.append_value(value),
            (Self::Text(builder), ValueRef::Text(value)) => builder.append_value(value),
            (Self::Text(builder), ValueRef::Uuid(value)) => builder.append_value(uuid_text(&value)),
            (Self::Binary(builder), ValueRef::Bytes(value)) => builder.append_value(value),
            (Self::Date(builder), ValueRef::Date(value)) => builder.append_value(value),
            (Self::Time(builder), ValueRef::Time(value)) => builder.append_value(value),
            (Self::Timestamp(builder), ValueRef::Timestamp(value)) => builder.append_value(value),
            (Self::Interval(builder), ValueRef::Interval(value)) => {
                let nanos = value.micros.checked_mul(MICRO_NANOS).ok_or(MISMATCH)?;
                builder.append_value(IntervalMonthDayNano::new(value.months, value.days, nanos));
            }
            (Self::List(list), ValueRef::Array(mut items)) => {
                while let Some(item) = items.next(&list.element)? {
                    list.items.push(item)?;
                    list.items_len += 1;
                }
                list.end(true)?;
            }
            _ => return Err(MISMATCH),
        }
        Ok(())
    }

    fn push_value(&mut self, value: &Value) -> Result<()> {
        self.push(match value {
            Value::Null => ValueRef::Null,
            Value::Boolean(value) => ValueRef::Boolean(*value),
            Value::Int(value) => ValueRef::Int(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Double(value) => ValueRef::Double(*value),
            Value::Numeric(value) => ValueRef::Numeric(*value),
            Value::Text(value) => ValueRef::Text(value),
            Value::Bytes(value) => ValueRef::Bytes(value),
            Value::Date(value) => ValueRef::Date(*value),
            Value::Time(value) => ValueRef::Time(*value),
            Value::Timestamp(value) => ValueRef::Timestamp(*value),
            Value::Interval(value) => ValueRef::Interval(*value),
            Value::Uuid(value) => ValueRef::Uuid(*value),
            Value::Array(items) => {
                let Self::List(list) = self else { return Err(MISMATCH) };
                items.iter().try_for_each(|item| list.items.push_value(item))?;
                list.items_len += items.len();
                return list.end(true);
            }
        })
    }

    fn push_null(&mut self) -> Result<()> {
        match self {
            Self::Boolean(builder) => builder.append_null(),
            Self::Int16(builder) => builder.append_null(),
            Self::Int32(builder) => builder.append_null(),
            Self::Int64(builder) => builder.append_null(),
            Self::Float32(builder) => builder.append_null(),
            Self::Float64(builder) => builder.append_null(),
            Self::Decimal(builder) => builder.append_null(),
            Self::Text(builder) => builder.append_null(),
            Self::Binary(builder) => builder.append_null(),
            Self::Date(builder) => builder.append_null(),
            Self::Time(builder) => builder.append_null(),
            Self::Timestamp(builder) => builder.append_null(),
            Self::Interval(builder) => builder.append_null(),
            Self::List(list) => list.end(false)?,
        }
        Ok(())
    }

    pub fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(builder) => Arc::new(builder.finish()),
            Self::Int16(builder) => Arc::new(builder.finish()),
            Self::Int32(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Float32(builder) => Arc::new(builder.finish()),
            Self::Float64(builder) => Arc::new(builder.finish()),
            Self::Decimal(builder) => Arc::new(builder.finish()),
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Binary(builder) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
            Self::Time(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder) => Arc::new(builder.finish()),
            Self::Interval(builder) => Arc::new(builder.finish()),
            Self::List(list) => list.finish(),
        }
    }
}

/// An Arrow column of values of one type.
///
/// # Errors
/// [`Error::CorruptRow`] when a value is of another type.
pub fn build_column<'a>(kind: &ColumnType, values: impl Iterator<Item = &'a Value>) -> Result<ArrayRef> {
    let mut builder = ColumnBuilder::new(kind);
    for value in values {
        builder.push_value(value)?;
    }
    Ok(builder.finish())
}
