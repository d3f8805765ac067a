//! The columns of a row table, as the catalog stores them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::constraint::Constraint;
use crate::index::Index;

/// A column's type; the names are PostgreSQL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    Bytea,
    Date,
    /// Microseconds, without a time zone.
    Timestamp,
    /// Microseconds, in UTC.
    TimestampTz,
    /// JSON as text, kept as it was written.
    Json,
}

impl ColumnType {
    /// How a column of this type is laid out in Arrow.
    #[must_use]
    pub fn arrow(self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::SmallInt => DataType::Int16,
            Self::Integer => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Real => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Numeric { precision, scale } => DataType::Decimal128(precision, scale),
            Self::Text | Self::Json => DataType::Utf8,
            Self::Bytea => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
    /// Whether NULL is refused. Primary key columns always refuse it.
    #[serde(default)]
    pub not_null: bool,
    /// The default's SQL text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// Columns and primary key. An empty primary key means: one row per record, keyed by its offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// In the order of the table's definition.
    pub columns: Vec<Column>,
    /// Positions in `columns`.
    pub primary_key: Vec<usize>,
    /// Secondary indexes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<Index>,
    /// What must hold beyond types, NOT NULL and the primary key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// The newest index id there ever was.
    #[serde(default)]
    pub last_index: u32,
}

/// The key of field metadata that marks JSON text.
pub const KIND_METADATA: &str = "headwater.type";

impl TableSchema {
    /// The table's columns in Arrow.
    #[must_use]
    pub fn arrow(&self) -> SchemaRef {
        let field = |(at, column): (usize, &Column)| {
            let nullable = !column.not_null && !self.primary_key.contains(&at);
            let field = Field::new(&column.name, column.kind.arrow(), nullable);
            match column.kind {
                ColumnType::Json => field.with_metadata([(KIND_METADATA.to_owned(), "json".to_owned())].into()),
                _ => field,
            }
        };
        Arc::new(Schema::new(self.columns.iter().enumerate().map(field).collect::<Vec<_>>()))
    }

    /// The position of a column by name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Whether a column may not be NULL.
    #[must_use]
    pub fn refuses_null(&self, column: usize) -> bool {
        self.columns[column].not_null || self.primary_key.contains(&column)
    }
}
