//! Values of rows, and rows as bytes: what a mutation record and the LSM tree store.
//!
//! # Format
//! `docs/format.md`, "Row". A version byte, a bitmap of the columns that are not null, then those columns in order.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::schema::{ColumnType, TableSchema};

/// The version of the row layout.
const ROW_VERSION: u8 = 1;

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
    /// Text and JSON.
    Text(String),
    Bytes(Vec<u8>),
    /// Days since 1970.
    Date(i32),
    /// Microseconds since 1970.
    Timestamp(i64),
}

impl Value {
    /// The value at `row` of an array laid out as [`ColumnType::arrow`] of its column says; NULL for any other layout.
    #[must_use]
    pub fn from_array(array: &dyn Array, row: usize) -> Self {
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
            DataType::Utf8 => Self::Text(array.as_string::<i32>().value(row).to_owned()),
            DataType::Binary => Self::Bytes(array.as_binary::<i32>().value(row).to_owned()),
            DataType::Date32 => Self::Date(array.as_primitive::<Date32Type>().value(row)),
            DataType::Timestamp(..) => Self::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row)),
            _ => Self::Null,
        }
    }
}

/// Encodes a row; `values` are in column order and of the columns' types.
#[must_use]
pub fn encode_row(values: &[Value]) -> Vec<u8> {
    let mut out = vec![0; 1 + values.len().div_ceil(8)];
    out[0] = ROW_VERSION;
    for (at, value) in values.iter().enumerate() {
        if *value != Value::Null || matches!(value, Value::Real(_) | Value::Double(_)) {
            out[1 + at / 8] |= 1 << (at % 8);
        }
        match value {
            Value::Null => {}
            Value::Boolean(value) => out.push(u8::from(*value)),
            Value::Int(value) | Value::Timestamp(value) => put_varint(&mut out, zigzag(*value)),
            Value::Real(value) => out.extend_from_slice(&value.to_le_bytes()),
            Value::Double(value) => out.extend_from_slice(&value.to_le_bytes()),
            Value::Numeric(value) => out.extend_from_slice(&value.to_le_bytes()),
            Value::Text(value) => put_bytes(&mut out, value.as_bytes()),
            Value::Bytes(value) => put_bytes(&mut out, value),
            Value::Date(value) => put_varint(&mut out, zigzag(i64::from(*value))),
        }
    }
    out
}

fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A value of an encoded row, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ValueRef<'a> {
    Null,
    Boolean(bool),
    Int(i64),
    Real(f32),
    Double(f64),
    Numeric(i128),
    Text(&'a str),
    Bytes(&'a [u8]),
    Date(i32),
    Timestamp(i64),
}

/// Walks over the columns of an encoded row. Columns that were added after the row was written read as NULL.
pub(crate) struct RowReader<'a> {
    bitmap: &'a [u8],
    columns_written: usize,
    rest: &'a [u8],
}

const CUT: Error = Error::CorruptRow { detail: "it is cut off" };

impl<'a> RowReader<'a> {
    pub fn new(row: &'a [u8], columns: usize) -> Result<Self> {
        match row.split_first() {
            Some((&ROW_VERSION, rest)) => {
                let (bitmap, rest) = rest.split_at_checked(columns.div_ceil(8)).ok_or(CUT)?;
                Ok(Self { bitmap, columns_written: columns, rest })
            }
            _ => Err(Error::CorruptRow { detail: "its version is unknown" }),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| CUT)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for (n, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[n + 1..];
                return Ok(value);
            }
        }
        Err(CUT)
    }

    fn integer(&mut self) -> Result<i64> {
        let raw = self.varint()?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.varint()?;
        self.take(usize::try_from(len).map_err(|_| CUT)?)
    }

    /// The value of column `at`; columns must be asked for in order, each once.
    pub fn value(&mut self, at: usize, kind: ColumnType) -> Result<ValueRef<'a>> {
        if at >= self.columns_written || self.bitmap[at / 8] & (1 << (at % 8)) == 0 {
            return Ok(ValueRef::Null);
        }
        Ok(match kind {
            ColumnType::Boolean => ValueRef::Boolean(self.array::<1>()?[0] != 0),
            ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt => ValueRef::Int(self.integer()?),
            ColumnType::Real => ValueRef::Real(f32::from_le_bytes(self.array()?)),
            ColumnType::Double => ValueRef::Double(f64::from_le_bytes(self.array()?)),
            ColumnType::Numeric { .. } => ValueRef::Numeric(i128::from_le_bytes(self.array()?)),
            ColumnType::Text | ColumnType::Json => {
                let text = std::str::from_utf8(self.bytes()?);
                ValueRef::Text(text.map_err(|_| Error::CorruptRow { detail: "a text is not UTF-8" })?)
            }
            ColumnType::Bytea => ValueRef::Bytes(self.bytes()?),
            ColumnType::Date => {
                let days = i32::try_from(self.integer()?);
                ValueRef::Date(days.map_err(|_| Error::CorruptRow { detail: "a date is out of range" })?)
            }
            ColumnType::Timestamp | ColumnType::TimestampTz => ValueRef::Timestamp(self.integer()?),
        })
    }
}

/// Decodes a whole row.
///
/// # Errors
/// [`Error::CorruptRow`].
pub fn decode_row(row: &[u8], schema: &TableSchema) -> Result<Vec<Value>> {
    let mut reader = RowReader::new(row, schema.columns.len())?;
    let value = |(at, column): (usize, &crate::schema::Column)| {
        Ok(match reader.value(at, column.kind)? {
            ValueRef::Null => Value::Null,
            ValueRef::Boolean(value) => Value::Boolean(value),
            ValueRef::Int(value) => Value::Int(value),
            ValueRef::Real(value) => Value::Real(value),
            ValueRef::Double(value) => Value::Double(value),
            ValueRef::Numeric(value) => Value::Numeric(value),
            ValueRef::Text(value) => Value::Text(value.to_owned()),
            ValueRef::Bytes(value) => Value::Bytes(value.to_owned()),
            ValueRef::Date(value) => Value::Date(value),
            ValueRef::Timestamp(value) => Value::Timestamp(value),
        })
    };
    schema.columns.iter().enumerate().map(value).collect()
}

/// Grows one Arrow column of a scan.
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
    Timestamp(TimestampMicrosecondBuilder),
}

impl ColumnBuilder {
    pub fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Boolean => Self::Boolean(BooleanBuilder::new()),
            ColumnType::SmallInt => Self::Int16(Int16Builder::new()),
            ColumnType::Integer => Self::Int32(Int32Builder::new()),
            ColumnType::BigInt => Self::Int64(Int64Builder::new()),
            ColumnType::Real => Self::Float32(Float32Builder::new()),
            ColumnType::Double => Self::Float64(Float64Builder::new()),
            ColumnType::Numeric { .. } => Self::Decimal(Decimal128Builder::new().with_data_type(kind.arrow())),
            ColumnType::Text | ColumnType::Json => Self::Text(StringBuilder::new()),
            ColumnType::Bytea => Self::Binary(BinaryBuilder::new()),
            ColumnType::Date => Self::Date(Date32Builder::new()),
            ColumnType::Timestamp | ColumnType::TimestampTz => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(kind.arrow()))
            }
        }
    }

    pub fn push(&mut self, value: ValueRef<'_>) -> Result<()> {
        const MISMATCH: Error = Error::CorruptRow { detail: "a value does not fit its column" };
        match (self, value) {
            (Self::Boolean(builder), ValueRef::Boolean(value)) => builder.append_value(value),
            (Self::Int16(builder), ValueRef::Int(value)) => builder.append_value(i16::try_from(value).map_err(|_| MISMATCH)?),
            (Self::Int32(builder), ValueRef::Int(value)) => builder.append_value(i32::try_from(value).map_err(|_| MISMATCH)?),
            (Self::Int64(builder), ValueRef::Int(value)) => builder.append_value(value),
            (Self::Float32(builder), ValueRef::Real(value)) => builder.append_value(value),
            (Self::Float64(builder), ValueRef::Double(value)) => builder.append_value(value),
            (Self::Decimal(builder), ValueRef::Numeric(value)) => builder.append_value(value),
            (Self::Text(builder), ValueRef::Text(value)) => builder.append_value(value),
            (Self::Binary(builder), ValueRef::Bytes(value)) => builder.append_value(value),
            (Self::Date(builder), ValueRef::Date(value)) => builder.append_value(value),
            (Self::Timestamp(builder), ValueRef::Timestamp(value)) => builder.append_value(value),
            (builder, ValueRef::Null) => builder.push_null(),
            _ => return Err(MISMATCH),
        }
        Ok(())
    }

    fn push_null(&mut self) {
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
            Self::Timestamp(builder) => builder.append_null(),
        }
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
            Self::Timestamp(builder) => Arc::new(builder.finish()),
        }
    }
}

/// An Arrow column of values of one type.
///
/// # Errors
/// [`Error::CorruptRow`] when a value is of another type.
pub fn build_column<'a>(kind: ColumnType, values: impl Iterator<Item = &'a Value>) -> Result<ArrayRef> {
    let mut builder = ColumnBuilder::new(kind);
    for value in values {
        builder.push(match value {
            Value::Null => ValueRef::Null,
            Value::Boolean(value) => ValueRef::Boolean(*value),
            Value::Int(value) => ValueRef::Int(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Double(value) => ValueRef::Double(*value),
            Value::Numeric(value) => ValueRef::Numeric(*value),
            Value::Text(value) => ValueRef::Text(value),
            Value::Bytes(value) => ValueRef::Bytes(value),
            Value::Date(value) => ValueRef::Date(*value),
            Value::Timestamp(value) => ValueRef::Timestamp(*value),
        })?;
    }
    Ok(builder.finish())
}
