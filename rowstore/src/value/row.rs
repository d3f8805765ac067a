//! Rows as bytes: what a mutation record and the LSM tree store.
//!
//! # Format
//! `docs/format.md`, "Row". A version byte, the number of columns, a bitmap of those that are not null, then those in the order
//! of their ids. Version 2 is written; version 1, which did not say how many columns it has, is read.

use crate::error::{Error, Result};
use crate::schema::{Column, Layout, Physical, TableSchema};
use crate::types::ColumnType;
use crate::value::{Interval, Value};

/// The version of the row layout that is written.
const ROW_VERSION: u8 = 2;
/// The one before: without the number of columns, and with numerics of 16 bytes.
const FIRST_VERSION: u8 = 1;

/// Encodes a row; `values` are those of the columns of `schema`, in order and of the columns' types.
///
/// # Panics
/// With fewer values than columns.
#[must_use]
pub fn encode_row(values: &[Value], schema: &TableSchema) -> Vec<u8> {
    assert_eq!(values.len(), schema.columns.len(), "a row has a value for each column");
    let count = schema.physical_columns();
    let mut out = vec![ROW_VERSION];
    put_varint(&mut out, count as u64);
    let of_column = |physical| match physical {
        Physical::Seen(position, _) => &values[position],
        Physical::Dropped(_) => &Value::Null,
    };
    put_values(&mut out, count, schema.layout().map(of_column));
    out
}

/// Encodes a value as it stands in a row.
#[must_use]
pub(crate) fn encode_value(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_value(&mut out, value);
    out
}

/// The bitmap of the values that are not null, then those.
fn put_values<'v>(out: &mut Vec<u8>, count: usize, values: impl Iterator<Item = &'v Value>) {
    let bitmap = out.len();
    out.resize(bitmap + count.div_ceil(8), 0);
    for (at, value) in values.enumerate() {
        if !matches!(value, Value::Null) {
            out[bitmap + at / 8] |= 1 << (at % 8);
            put_value(out, value);
        }
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => {}
        Value::Boolean(value) => out.push(u8::from(*value)),
        Value::Int(value) | Value::Time(value) | Value::Timestamp(value) => put_varint(out, zigzag(*value)),
        Value::Real(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Double(value) => out.extend_from_slice(&value.to_le_bytes()),
        Value::Numeric(value) => put_wide_varint(out, (value.cast_unsigned() << 1) ^ (value >> 127).cast_unsigned()),
        Value::Text(value) => put_bytes(out, value.as_bytes()),
        Value::Bytes(value) => put_bytes(out, value),
        Value::Date(value) => put_varint(out, zigzag(i64::from(*value))),
        Value::Interval(Interval { months, days, micros }) => {
            for part in [i64::from(*months), i64::from(*days), *micros] {
                put_varint(out, zigzag(part));
            }
        }
        Value::Uuid(value) => out.extend_from_slice(value),
        Value::Array(items) => {
            let mut inner = Vec::new();
            put_varint(&mut inner, items.len() as u64);
            put_values(&mut inner, items.len(), items.iter());
            put_bytes(out, &inner);
        }
    }
}

fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    put_wide_varint(out, u128::from(value));
}

fn put_wide_varint(out: &mut Vec<u8>, mut value: u128) {
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
    Time(i64),
    Timestamp(i64),
    Interval(Interval),
    Uuid([u8; 16]),
    Array(Items<'a>),
}

impl ValueRef<'_> {
    /// The value with its bytes, being of type `kind`.
    pub fn to_value(self, kind: &ColumnType) -> Result<Value> {
        Ok(match self {
            ValueRef::Null => Value::Null,
            ValueRef::Boolean(value) => Value::Boolean(value),
            ValueRef::Int(value) => Value::Int(value),
            ValueRef::Real(value) => Value::Real(value),
            ValueRef::Double(value) => Value::Double(value),
            ValueRef::Numeric(value) => Value::Numeric(value),
            ValueRef::Text(value) => Value::Text(value.to_owned()),
            ValueRef::Bytes(value) => Value::Bytes(value.to_owned()),
            ValueRef::Date(value) => Value::Date(value),
            ValueRef::Time(value) => Value::Time(value),
            ValueRef::Timestamp(value) => Value::Timestamp(value),
            ValueRef::Interval(value) => Value::Interval(value),
            ValueRef::Uuid(value) => Value::Uuid(value),
            ValueRef::Array(mut items) => {
                let ColumnType::Array(element) = kind else { return Err(Error::CorruptRow { detail: "an array is no array" }) };
                let mut values = Vec::new();
                while let Some(item) = items.next(element)? {
                    values.push(item.to_value(element)?);
                }
                Value::Array(values)
            }
        })
    }
}

/// The elements of an encoded array, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Items<'a> {
    values: Values<'a>,
    count: usize,
}

impl<'a> Items<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        let mut rest = Bytes { rest: bytes };
        let count = rest.length()?;
        Ok(Self { values: Values::new(rest, count, ROW_VERSION)?, count })
    }

    pub fn next(&mut self, element: &ColumnType) -> Result<Option<ValueRef<'a>>> {
        if self.values.next == self.count {
            return Ok(None);
        }
        self.values.next(element).map(Some)
    }
}

/// Values behind their bitmap.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Values<'a> {
    bitmap: &'a [u8],
    bytes: Bytes<'a>,
    next: usize,
    count: usize,
    version: u8,
}

impl<'a> Values<'a> {
    fn new(mut bytes: Bytes<'a>, count: usize, version: u8) -> Result<Self> {
        let bitmap = bytes.take(count.div_ceil(8))?;
        Ok(Self { bitmap, bytes, next: 0, count, version })
    }

    /// The next value, NULL behind the last one.
    fn next(&mut self, kind: &ColumnType) -> Result<ValueRef<'a>> {
        let at = self.next;
        self.next += 1;
        if at >= self.count || self.bitmap[at / 8] & (1 << (at % 8)) == 0 {
            return Ok(ValueRef::Null);
        }
        self.bytes.value(kind, self.version)
    }
}

/// Walks over the columns of an encoded row that can be seen, in their order.
pub(crate) struct RowReader<'a> {
    values: Values<'a>,
    layout: Layout<'a>,
}

const CUT: Error = Error::CorruptRow { detail: "it is cut off" };

impl<'a> RowReader<'a> {
    pub fn new(row: &'a [u8], schema: &'a TableSchema) -> Result<Self> {
        let (version, rest) = row.split_first().ok_or(CUT)?;
        let mut bytes = Bytes { rest };
        let count = match *version {
            FIRST_VERSION => schema.created_columns(),
            ROW_VERSION => bytes.length()?,
            _ => return Err(Error::CorruptRow { detail: "its version is unknown" }),
        };
        Ok(Self { values: Values::new(bytes, count, *version)?, layout: schema.layout() })
    }

    /// The value of the next column. The row may have been written before the column was added: then what the column says.
    pub fn next(&mut self) -> Result<Option<ValueRef<'a>>> {
        for physical in self.layout.by_ref() {
            match physical {
                Physical::Dropped(kind) => {
                    self.values.next(kind)?;
                }
                Physical::Seen(_, column) if self.values.next >= self.values.count => {
                    self.values.next += 1;
                    return missing(column).map(Some);
                }
                Physical::Seen(_, column) => return self.values.next(&column.kind).map(Some),
            }
        }
        Ok(None)
    }
}

fn missing(column: &Column) -> Result<ValueRef<'_>> {
    match &column.missing {
        Some(bytes) => Bytes { rest: bytes }.value(&column.kind, ROW_VERSION),
        None => Ok(ValueRef::Null),
    }
}

/// Takes bytes from the front.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| CUT)
    }

    fn wide_varint(&mut self) -> Result<u128> {
        let mut value = 0;
        for (n, byte) in self.rest.iter().enumerate().take(19) {
            value |= u128::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[n + 1..];
                return Ok(value);
            }
        }
        Err(CUT)
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

    fn length(&mut self) -> Result<usize> {
        usize::try_from(self.varint()?).map_err(|_| CUT)
    }

    fn integer(&mut self) -> Result<i64> {
        let raw = self.varint()?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    fn narrow_integer(&mut self) -> Result<i32> {
        i32::try_from(self.integer()?).map_err(|_| Error::CorruptRow { detail: "a date or an interval is out of range" })
    }

    fn numeric(&mut self, version: u8) -> Result<i128> {
        if version == FIRST_VERSION {
            return Ok(i128::from_le_bytes(self.array()?));
        }
        let raw = self.wide_varint()?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.length()?;
        self.take(len)
    }

    fn value(&mut self, kind: &ColumnType, version: u8) -> Result<ValueRef<'a>> {
        Ok(match kind {
            ColumnType::Boolean => ValueRef::Boolean(self.array::<1>()?[0] != 0),
            ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt => ValueRef::Int(self.integer()?),
            ColumnType::Real => ValueRef::Real(f32::from_le_bytes(self.array()?)),
            ColumnType::Double => ValueRef::Double(f64::from_le_bytes(self.array()?)),
            ColumnType::Numeric { .. } => ValueRef::Numeric(self.numeric(version)?),
            ColumnType::Text | ColumnType::Varchar { .. } | ColumnType::Char { .. } | ColumnType::Json => {
                let text = std::str::from_utf8(self.bytes()?);
                ValueRef::Text(text.map_err(|_| Error::CorruptRow { detail: "a text is not UTF-8" })?)
            }
            ColumnType::Bytea => ValueRef::Bytes(self.bytes()?),
            ColumnType::Date => ValueRef::Date(self.narrow_integer()?),
            ColumnType::Time => ValueRef::Time(self.integer()?),
            ColumnType::Timestamp | ColumnType::TimestampTz => ValueRef::Timestamp(self.integer()?),
            ColumnType::Interval => {
                let (months, days) = (self.narrow_integer()?, self.narrow_integer()?);
                ValueRef::Interval(Interval { months, days, micros: self.integer()? })
            }
            ColumnType::Uuid => ValueRef::Uuid(self.array()?),
            ColumnType::Array(_) => ValueRef::Array(Items::new(self.bytes()?)?),
        })
    }
}

/// Decodes a whole row: a value for each column of `schema`.
///
/// # Errors
/// [`Error::CorruptRow`].
pub fn decode_row(row: &[u8], schema: &TableSchema) -> Result<Vec<Value>> {
    let mut reader = RowReader::new(row, schema)?;
    let value = |column: &Column| reader.next()?.unwrap_or(ValueRef::Null).to_value(&column.kind);
    schema.columns.iter().map(value).collect()
}
