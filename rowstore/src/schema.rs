//! The columns of a row table, as the catalog stores them: those that are seen, and those that old rows still hold.
//!
//! # Invariants
//! - A column's id is its place in the rows: dense from 0, never changed, never given to another column.
//! - The ids of `columns` ascend, since a new column is always the last. Together with `dropped` they are all ids below
//!   [`TableSchema::physical_columns`].
//! - So any version of a schema reads rows written under any other: a row with fewer columns lacks those that were added later,
//!   one with more has them behind all that this version knows.
//!
//! # Format
//! JSON, in the catalog's records: `docs/format.md`, "Catalog records". Schemas without ids are older than ALTER TABLE: there a
//! column's id is its position.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::constraint::Constraint;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::types::ColumnType;
use crate::value::{Value, encode_value};

/// Columns that a table may have had in its life, dropped ones included.
pub const COLUMNS_MAX: usize = 1_600;

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its place in the rows.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
    /// Whether NULL is refused. Primary key columns always refuse it.
    pub not_null: bool,
    /// The default's SQL text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What rows hold that were written before the column was added, encoded; none: NULL.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_hex")]
    pub missing: Option<Vec<u8>>,
    /// Whether it is numbered by a sequence of its own, its default then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// What an identity column does with values that are given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// It refuses them.
    Always,
    /// It takes them.
    ByDefault,
}

impl Column {
    /// A column that takes NULL; its id is given by the [`TableSchema`] it becomes part of.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: ColumnType) -> Self {
        Self { id: 0, name: name.into(), kind, not_null: false, default: None, missing: None, identity: None }
    }

    /// The same, refusing NULL.
    #[must_use]
    pub fn not_null(self) -> Self {
        Self { not_null: true, ..self }
    }
}

/// A column that is no longer seen but whose values stand in old rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedColumn {
    /// Its place in the rows.
    pub id: u32,
    /// What it takes to read over it.
    pub kind: ColumnType,
}

/// Columns and primary key. An empty primary key means: one row per record, keyed by its offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct TableSchema {
    /// In the order of the table's definition.
    pub columns: Vec<Column>,
    /// Positions in `columns`.
    pub primary_key: Vec<usize>,
    /// In the order of their ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<DroppedColumn>,
    /// How many columns the table was created with: what rows of version 1 hold, which don't say it themselves.
    created_columns: u32,
    /// Secondary indexes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<Index>,
    /// What must hold beyond types, NOT NULL and the primary key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// The newest index id there ever was.
    pub last_index: u32,
}

/// What the catalog may hold.
#[derive(Deserialize)]
struct Stored {
    columns: Vec<StoredColumn>,
    primary_key: Vec<usize>,
    #[serde(default)]
    dropped: Vec<DroppedColumn>,
    #[serde(default)]
    created_columns: Option<u32>,
    #[serde(default)]
    indexes: Vec<Index>,
    #[serde(default)]
    constraints: Vec<Constraint>,
    #[serde(default)]
    last_index: u32,
}

#[derive(Deserialize)]
struct StoredColumn {
    #[serde(default)]
    id: Option<u32>,
    name: String,
    kind: ColumnType,
    #[serde(default)]
    not_null: bool,
    #[serde(default)]
    default: Option<String>,
    #[serde(default, deserialize_with = "read_hex")]
    missing: Option<Vec<u8>>,
    #[serde(default)]
    identity: Option<Identity>,
}

/// The key of field metadata that names a type of which Arrow's type says too little: JSON, UUID, the length of a text.
pub const KIND_METADATA: &str = "headwater.type";

impl TableSchema {
    /// A table that is being created: columns get their ids by position.
    ///
    /// # Panics
    /// With more columns than a `u32` counts.
    #[must_use]
    pub fn new(mut columns: Vec<Column>, primary_key: Vec<usize>) -> Self {
        for (at, column) in columns.iter_mut().enumerate() {
            column.id = u32::try_from(at).expect("a statement is shorter than 4 GiB");
        }
        let created_columns = u32::try_from(columns.len()).expect("a statement is shorter than 4 GiB");
        Self { columns, primary_key, created_columns, ..Self::default() }
    }

    /// Adds a column behind the others while the table is being created.
    ///
    /// # Panics
    /// With more columns than a `u32` counts.
    pub fn define(&mut self, column: Column) {
        let id = self.created_columns;
        assert_eq!(id as usize, self.physical_columns(), "a table that has changed gets columns by `add_column`");
        self.columns.push(Column { id, ..column });
        self.created_columns = id + 1;
    }

    /// How many columns a row has that is written now.
    #[must_use]
    pub fn physical_columns(&self) -> usize {
        self.columns.len() + self.dropped.len()
    }

    /// How many columns a row of version 1 has.
    #[must_use]
    pub(crate) fn created_columns(&self) -> usize {
        self.created_columns as usize
    }

    /// Every column that rows may hold, in the order in which they hold them: its type, and its position if it is seen.
    pub(crate) fn layout(&self) -> Layout<'_> {
        Layout { columns: &self.columns, dropped: &self.dropped, position: 0 }
    }

    /// Adds a column, which rows that are there read as `missing`.
    ///
    /// # Errors
    /// [`Error::TooManyColumns`].
    pub fn add_column(&mut self, column: Column, missing: &Value) -> Result<()> {
        let id = self.physical_columns();
        if id >= COLUMNS_MAX {
            return Err(Error::TooManyColumns { max: COLUMNS_MAX });
        }
        let id = u32::try_from(id).map_err(|_| Error::TooManyColumns { max: COLUMNS_MAX })?;
        let missing = (*missing != Value::Null).then(|| encode_value(missing));
        self.columns.push(Column { id, missing, ..column });
        Ok(())
    }

    /// Takes a column out of sight.
    ///
    /// # Panics
    /// When it belongs to the primary key or there is no such position.
    pub fn drop_column(&mut self, at: usize) {
        assert!(!self.primary_key.contains(&at), "the key of a row is made of column {at}");
        let column = self.columns.remove(at);
        let place = self.dropped.partition_point(|dropped| dropped.id < column.id);
        self.dropped.insert(place, DroppedColumn { id: column.id, kind: column.kind });
        self.primary_key.iter_mut().filter(|key| **key > at).for_each(|key| *key -= 1);
    }

    /// The table's columns in Arrow.
    #[must_use]
    pub fn arrow(&self) -> SchemaRef {
        let field = |(at, column): (usize, &Column)| {
            let nullable = !column.not_null && !self.primary_key.contains(&at);
            let field = Field::new(&column.name, column.kind.arrow(), nullable);
            match column.kind.metadata() {
                Some(kind) => field.with_metadata([(KIND_METADATA.to_owned(), kind)].into()),
                None => field,
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

/// See [`TableSchema::layout`].
#[derive(Clone)]
pub(crate) struct Layout<'a> {
    columns: &'a [Column],
    dropped: &'a [DroppedColumn],
    position: usize,
}

/// A column as rows hold it.
pub(crate) enum Physical<'a> {
    Seen(usize, &'a Column),
    Dropped(&'a ColumnType),
}

impl<'a> Iterator for Layout<'a> {
    type Item = Physical<'a>;

    fn next(&mut self) -> Option<Physical<'a>> {
        let dropped_first = match (self.columns.first(), self.dropped.first()) {
            (Some(seen), Some(dropped)) => dropped.id < seen.id,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if dropped_first {
            let (dropped, rest) = self.dropped.split_first()?;
            self.dropped = rest;
            return Some(Physical::Dropped(&dropped.kind));
        }
        let (column, rest) = self.columns.split_first()?;
        self.columns = rest;
        self.position += 1;
        Some(Physical::Seen(self.position - 1, column))
    }
}

impl TryFrom<Stored> for TableSchema {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let mut columns = Vec::with_capacity(stored.columns.len());
        let mut stored = stored;
        for (at, column) in std::mem::take(&mut stored.columns).into_iter().enumerate() {
            let StoredColumn { id, name, kind, not_null, default, missing, identity } = column;
            let id = id.map_or_else(|| u32::try_from(at).map_err(|error| error.to_string()), Ok)?;
            columns.push(Column { id, name, kind, not_null, default, missing, identity });
        }
        let created_columns = match stored.created_columns {
            Some(created) => created,
            None => u32::try_from(columns.len()).map_err(|error| error.to_string())?,
        };
        let Stored { primary_key, dropped, indexes, constraints, last_index, .. } = stored;
        let schema = Self { columns, primary_key, dropped, created_columns, indexes, constraints, last_index };
        let ascending = |ids: &mut dyn Iterator<Item = u32>| ids.is_sorted_by(|a, b| a < b);
        let mut ids: Vec<u32> = schema.columns.iter().map(|column| column.id).collect();
        let in_order = ascending(&mut ids.iter().copied()) && ascending(&mut schema.dropped.iter().map(|dropped| dropped.id));
        ids.extend(schema.dropped.iter().map(|dropped| dropped.id));
        ids.sort_unstable();
        let dense = ids.iter().enumerate().all(|(at, id)| *id as usize == at);
        let key = schema.primary_key.iter().all(|at| *at < schema.columns.len());
        if in_order && dense && key && schema.created_columns() <= schema.physical_columns() {
            Ok(schema)
        } else {
            Err("the ids of its columns are not those of a table".into())
        }
    }
}

fn write_hex<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = bytes.iter().flatten().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    serializer.serialize_str(&text)
}

fn read_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() % 2 != 0 || !text.is_ascii() {
        return Err(serde::de::Error::custom("not hexadecimal"));
    }
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).map_err(serde::de::Error::custom);
    (0..text.len()).step_by(2).map(byte).collect::<Result<Vec<u8>, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[test]
    fn a_schema_of_the_first_release_gets_its_ids_by_position() {
        let old = r#"{"columns":[{"name":"id","kind":"big_int","not_null":false},
            {"name":"n","kind":{"numeric":{"precision":18,"scale":2}},"default":"0"}],"primary_key":[0]}"#;
        let mut schema: TableSchema = serde_json::from_str(old).unwrap();
        assert_eq!(schema.columns.iter().map(|column| column.id).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((schema.created_columns(), schema.physical_columns()), (2, 2));
        schema.add_column(Column::new("t", ColumnType::Array(Box::new(ColumnType::Text))), &Value::Null).unwrap();
        schema.drop_column(1);
        schema.add_column(Column::new("n", ColumnType::Real), &Value::Real(1.5)).unwrap();
        assert_eq!(schema.columns.iter().map(|column| column.id).collect::<Vec<_>>(), [0, 2, 3]);
        let again: TableSchema = serde_json::from_str(&serde_json::to_string(&schema).unwrap()).unwrap();
        assert_eq!(again, schema);
        assert_eq!((again.created_columns(), again.physical_columns()), (2, 4));
    }

    #[test]
    fn ids_that_no_table_can_have_are_refused() {
        let column = |id: u32| format!(r#"{{"id":{id},"name":"c{id}","kind":"text"}}"#);
        for (columns, dropped) in [("0,2", ""), ("1,0", ""), ("0,0", ""), ("0,1", "1"), ("0,1", "3")] {
            let columns: Vec<_> = columns.split(',').map(|id| column(id.parse().unwrap())).collect();
            let dropped: Vec<_> =
                dropped.split(',').filter(|id| !id.is_empty()).map(|id| format!(r#"{{"id":{id},"kind":"text"}}"#)).collect();
            let text = format!(r#"{{"columns":[{}],"primary_key":[0],"dropped":[{}]}}"#, columns.join(","), dropped.join(","));
            assert!(serde_json::from_str::<TableSchema>(&text).is_err(), "{text}");
        }
    }
}
