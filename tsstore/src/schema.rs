//! The columns of a series: its time, its tags, its fields, and the Arrow schema they come out as.
//!
//! The router keeps a [`SeriesSchema`] in the catalog; inside the crate everything works with its resolved form, the layout.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The time zone of every time column.
const TIME_ZONE: &str = "UTC";

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FieldKind {
    /// `Float64`.
    Float,
    /// `Int64`.
    Integer,
    /// `Boolean`.
    Boolean,
    /// `Utf8`.
    Text,
}

impl FieldKind {
    fn data_type(self) -> DataType {
        match self {
            Self::Float => DataType::Float64,
            Self::Integer => DataType::Int64,
            Self::Boolean => DataType::Boolean,
            Self::Text => DataType::Utf8,
        }
    }
}

/// A series as it is defined. Names are unique; `columns` names each of them once, in the order of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesSchema {
    /// The time column: microseconds in UTC, never null.
    pub time: String,
    /// What tells the sources of points apart: text, nullable.
    pub tags: Vec<String>,
    /// What was measured, nullable.
    pub fields: Vec<(String, FieldKind)>,
    /// All names, in the order of the table.
    pub columns: Vec<String>,
    /// Pages of chunk files end at multiples of this much time, once they are worth their header.
    pub chunk_millis: i64,
}

impl SeriesSchema {
    /// A schema whose columns are the time, the tags and the fields, in this order.
    #[must_use]
    pub fn new(time: impl Into<String>, tags: Vec<String>, fields: Vec<(String, FieldKind)>, chunk_millis: i64) -> Self {
        let time = time.into();
        let columns = std::iter::once(&time).chain(&tags).chain(fields.iter().map(|(name, _)| name)).cloned().collect();
        Self { time, tags, fields, columns, chunk_millis }
    }

    fn kind_of(&self, name: &str) -> Option<ColumnKind> {
        if self.time == name {
            return Some(ColumnKind::Time);
        }
        if self.tags.iter().any(|tag| tag == name) {
            return Some(ColumnKind::Tag);
        }
        self.fields.iter().find(|(field, _)| field == name).map(|(_, kind)| ColumnKind::Field(*kind))
    }
}

/// The role of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnKind {
    Time,
    Tag,
    Field(FieldKind),
}

impl ColumnKind {
    fn data_type(self) -> DataType {
        match self {
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some(TIME_ZONE.into())),
            Self::Tag => DataType::Utf8,
            Self::Field(kind) => kind.data_type(),
        }
    }

    /// Part of the schema fingerprint, so part of the format.
    fn code(self) -> u8 {
        match self {
            Self::Time => 0,
            Self::Tag => 1,
            Self::Field(FieldKind::Float) => 2,
            Self::Field(FieldKind::Integer) => 3,
            Self::Field(FieldKind::Boolean) => 4,
            Self::Field(FieldKind::Text) => 5,
        }
    }
}

/// A checked schema, resolved to column numbers.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The role of each column, in the order of the table.
    pub columns: Vec<ColumnKind>,
    /// The number of the time column.
    pub time: usize,
    /// What record batches look like.
    pub arrow: SchemaRef,
    /// Names, roles and order of the columns in one number; chunk files carry it.
    pub fingerprint: u32,
    /// `chunk_millis` in the unit of the time column.
    pub chunk_micros: i64,
}

impl Layout {
    /// Checks and resolves a schema.
    pub fn new(schema: &SeriesSchema) -> Result<Self, Error> {
        let invalid = |detail: String| Error::InvalidSchema { detail };
        if schema.chunk_millis <= 0 {
            return Err(invalid(format!("a chunk of {} ms holds nothing", schema.chunk_millis)));
        }
        let named = 1 + schema.tags.len() + schema.fields.len();
        if schema.columns.len() != named {
            return Err(invalid(format!("it orders {} columns and defines {named}", schema.columns.len())));
        }
        let mut columns = Vec::with_capacity(named);
        let mut fields = Vec::with_capacity(named);
        let mut identity = Vec::new();
        for (index, name) in schema.columns.iter().enumerate() {
            if schema.columns[..index].contains(name) {
                return Err(invalid(format!("column {name:?} is named twice")));
            }
            let kind = schema.kind_of(name).ok_or_else(|| invalid(format!("column {name:?} has no role")))?;
            columns.push(kind);
            fields.push(Field::new(name, kind.data_type(), kind != ColumnKind::Time));
            identity.push(kind.code());
            identity.extend_from_slice(&(name.len() as u64).to_le_bytes());
            identity.extend_from_slice(name.as_bytes());
        }
        let time = columns.iter().position(|kind| *kind == ColumnKind::Time);
        Ok(Self {
            time: time.ok_or_else(|| invalid("it has no time column".to_owned()))?,
            columns,
            arrow: Arc::new(Schema::new(fields)),
            fingerprint: logcore::frame::checksum(&identity),
            chunk_micros: schema.chunk_millis.saturating_mul(1000),
        })
    }

    /// The number of a tag's column.
    pub fn tag(&self, name: &str) -> Result<usize, Error> {
        let is_tag = |index: &usize| self.columns[*index] == ColumnKind::Tag;
        let tags = || (0..self.columns.len()).filter(is_tag).map(|index| self.arrow.field(index).name());
        self.arrow
            .index_of(name)
            .ok()
            .filter(is_tag)
            .ok_or_else(|| Error::UnknownTag { name: name.to_owned(), tags: tags().cloned().collect() })
    }

    /// The numbers of the columns chosen, checked, and the schema they make.
    pub fn project(&self, projection: &[usize]) -> Result<SchemaRef, Error> {
        let columns = self.columns.len();
        if let Some(&index) = projection.iter().find(|&&index| index >= columns) {
            return Err(Error::UnknownColumn { index, columns });
        }
        Ok(Arc::new(self.arrow.project(projection)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> SeriesSchema {
        SeriesSchema::new("ts", vec!["host".into()], vec![("load".into(), FieldKind::Float)], 1000)
    }

    #[test]
    fn columns_keep_the_order_of_the_table() {
        let mut schema = schema();
        schema.columns = vec!["load".into(), "ts".into(), "host".into()];
        let layout = Layout::new(&schema).expect("valid");
        assert_eq!(layout.columns, [ColumnKind::Field(FieldKind::Float), ColumnKind::Time, ColumnKind::Tag]);
        assert_eq!((layout.time, layout.tag("host").expect("a tag")), (1, 2));
        assert!(matches!(layout.tag("load"), Err(Error::UnknownTag { .. })));
        assert!(matches!(layout.project(&[3]), Err(Error::UnknownColumn { index: 3, columns: 3 })));
    }

    #[test]
    fn the_fingerprint_tells_names_roles_and_order_apart() {
        let mut renamed = schema();
        renamed.tags = vec!["hosts".into()];
        renamed.columns[1] = "hosts".into();
        let mut retyped = schema();
        retyped.fields[0].1 = FieldKind::Integer;
        let mut reordered = schema();
        reordered.columns.swap(1, 2);
        let fingerprint = |schema: &SeriesSchema| Layout::new(schema).expect("valid").fingerprint;
        for other in [renamed, retyped, reordered] {
            assert_ne!(fingerprint(&schema()), fingerprint(&other), "{other:?}");
        }
    }

    #[test]
    fn schemas_that_contradict_themselves_are_refused() {
        let mut twice = schema();
        twice.columns[1] = "ts".into();
        let mut missing = schema();
        missing.columns.pop();
        let mut unknown = schema();
        unknown.columns[2] = "other".into();
        let mut no_chunk = schema();
        no_chunk.chunk_millis = 0;
        for bad in [twice, missing, unknown, no_chunk] {
            assert!(matches!(Layout::new(&bad), Err(Error::InvalidSchema { .. })), "{bad:?}");
        }
    }
}
