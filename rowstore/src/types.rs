//! Column types: what the catalog stores, how each is laid out in Arrow, and how it is called in SQL.
//!
//! # Format
//! The catalog holds a type as serde writes this enum: `"big_int"`, `{"varchar":{"length":10}}`, `{"array":"text"}`. Names are
//! only ever added.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use serde::{Deserialize, Serialize};

/// A column's type; the names are PostgreSQL's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are PostgreSQL's")]
pub enum ColumnType {
    Boolean,
    SmallInt,
    Integer,
    BigInt,
    Real,
    Double,
    /// NUMERIC(precision, scale), at most 38 digits.
    Numeric {
        precision: u8,
        scale: i8,
    },
    Text,
    /// VARCHAR(n): at most `length` characters.
    Varchar {
        length: u32,
    },
    /// CHAR(n): `length` characters. Kept without the blanks at its end, which mean nothing, and shown with them.
    Char {
        length: u32,
    },
    Bytea,
    Date,
    /// Microseconds of a day, without a time zone.
    Time,
    /// Microseconds, without a time zone.
    Timestamp,
    /// Microseconds, in UTC.
    TimestampTz,
    /// Months, days and microseconds.
    Interval,
    /// 16 bytes; in Arrow the canonical text, in lower case.
    Uuid,
    /// JSON as text, kept as it was written.
    Json,
    /// One dimension of a type that is no array.
    Array(Box<ColumnType>),
}

impl ColumnType {
    /// How a column of this type is laid out in Arrow.
    #[must_use]
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::SmallInt => DataType::Int16,
            Self::Integer => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Real => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Numeric { precision, scale } => DataType::Decimal128(*precision, *scale),
            Self::Text | Self::Json | Self::Varchar { .. } | Self::Char { .. } | Self::Uuid => DataType::Utf8,
            Self::Bytea => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            Self::Array(element) => DataType::List(Arc::new(Field::new_list_field(element.arrow(), true))),
        }
    }

    /// What the metadata of a field of this type says, where Arrow's type does not say it all; see
    /// [`crate::schema::KIND_METADATA`].
    #[must_use]
    pub fn metadata(&self) -> Option<String> {
        match self {
            Self::Json | Self::Varchar { .. } | Self::Char { .. } | Self::Uuid => Some(self.to_string()),
            Self::Array(element) => element.metadata().map(|_| self.to_string()),
            _ => None,
        }
    }

    /// Whether its values are texts in Arrow.
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.arrow() == DataType::Utf8
    }
}

/// PostgreSQL's name of the type, as `format_type` gives it.
impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("boolean"),
            Self::SmallInt => f.write_str("smallint"),
            Self::Integer => f.write_str("integer"),
            Self::BigInt => f.write_str("bigint"),
            Self::Real => f.write_str("real"),
            Self::Double => f.write_str("double precision"),
            Self::Numeric { precision, scale } => write!(f, "numeric({precision},{scale})"),
            Self::Text => f.write_str("text"),
            Self::Varchar { length } => write!(f, "character varying({length})"),
            Self::Char { length } => write!(f, "character({length})"),
            Self::Bytea => f.write_str("bytea"),
            Self::Date => f.write_str("date"),
            Self::Time => f.write_str("time"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::TimestampTz => f.write_str("timestamptz"),
            Self::Interval => f.write_str("interval"),
            Self::Uuid => f.write_str("uuid"),
            Self::Json => f.write_str("json"),
            Self::Array(element) => write!(f, "{element}[]"),
        }
    }
}
