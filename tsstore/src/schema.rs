//! The columns of a series: its time, its tags, its fields, and the Arrow schema they come out as.
//!
//! The router keeps a [`SeriesSchema`] in the catalog; inside the crate everything works with its resolved form, the layout, and
//! with the numbers of tags and fields: a table's `Columns` gives each name its number once and for all, so that a schema can
//! grow while older chunk files stay as they are.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use logcore::types::len_u32;
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
    pub(crate) fn data_type(self) -> DataType {
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
    /// A chunk file holds points of one stretch of this much time, where there are enough for a file.
    pub chunk_millis: i64,
    /// What becomes of points with the same tags and time.
    #[serde(default)]
    pub duplicates: Duplicates,
}

/// What becomes of points with the same tags and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// Each stays: a record is an event.
    #[default]
    Keep,
    /// They are one: of each field the value that came last.
    Replace,
}

impl SeriesSchema {
    /// A schema whose columns are the time, the tags and the fields, in this order.
    #[must_use]
    pub fn new(time: impl Into<String>, tags: Vec<String>, fields: Vec<(String, FieldKind)>, chunk_millis: i64) -> Self {
        let time = time.into();
        let columns = std::iter::once(&time).chain(&tags).chain(fields.iter().map(|(name, _)| name)).cloned().collect();
        Self { time, tags, fields, columns, chunk_millis, duplicates: Duplicates::Replace }
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
    pub fn data_type(self) -> DataType {
        match self {
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some(TIME_ZONE.into())),
            Self::Tag => DataType::Utf8,
            Self::Field(kind) => kind.data_type(),
        }
    }
}

impl FieldKind {
    /// Part of the formats.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Float => 2,
            Self::Integer => 3,
            Self::Boolean => 4,
            Self::Text => 5,
        }
    }

    pub(crate) fn of_code(code: u8) -> Option<Self> {
        [Self::Float, Self::Integer, Self::Boolean, Self::Text].into_iter().find(|kind| kind.code() == code)
    }
}

/// All tags and fields that a table ever had. A name's number is its place in the list; lists only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Columns {
    pub tags: Vec<String>,
    pub fields: Vec<(String, FieldKind)>,
}

/// Where the values of a column of the table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Time,
    /// The tag of this number.
    Tag(usize),
    /// The field of this number.
    Field(u32, FieldKind),
}

/// A checked schema, resolved to numbers.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Each column, in the order of the table.
    pub places: Vec<Place>,
    /// What record batches look like.
    pub arrow: SchemaRef,
    /// The names behind the numbers.
    pub columns: Columns,
    /// `chunk_millis` in the unit of the time column.
    pub chunk_micros: i64,
    pub duplicates: Duplicates,
}

impl Layout {
    /// Checks and resolves a schema; names that `known` does not have get the next numbers.
    pub fn new(schema: &SeriesSchema, known: &Columns) -> Result<Self, Error> {
        let invalid = |detail: String| Error::InvalidSchema { detail };
        if schema.chunk_millis <= 0 {
            return Err(invalid(format!("a chunk of {} ms holds nothing", schema.chunk_millis)));
        }
        let named = 1 + schema.tags.len() + schema.fields.len();
        if schema.columns.len() != named {
            return Err(invalid(format!("it orders {} columns and defines {named}", schema.columns.len())));
        }
        for (index, name) in schema.columns.iter().enumerate() {
            if schema.columns[..index].contains(name) {
                return Err(invalid(format!("column {name:?} is named twice")));
            }
        }
        let columns = known.grown(schema)?;
        let mut places = Vec::with_capacity(named);
        let mut fields = Vec::with_capacity(named);
        for name in &schema.columns {
            let kind = schema.kind_of(name).ok_or_else(|| invalid(format!("column {name:?} has no role")))?;
            fields.push(Field::new(name, kind.data_type(), kind != ColumnKind::Time));
            let number = match kind {
                ColumnKind::Time => Some(Place::Time),
                ColumnKind::Tag => columns.tags.iter().position(|tag| tag == name).map(Place::Tag),
                ColumnKind::Field(kind) => {
                    columns.fields.iter().position(|(field, _)| field == name).map(|at| Place::Field(len_u32(at), kind))
                }
            };
            places.push(number.expect("the columns were grown by this schema"));
        }
        if !places.contains(&Place::Time) {
            return Err(invalid("it has no time column".to_owned()));
        }
        let chunk_micros = schema.chunk_millis.saturating_mul(1000);
        let duplicates = schema.duplicates;
        Ok(Self { places, arrow: Arc::new(Schema::new(fields)), columns, chunk_micros, duplicates })
    }

    /// The number of the tag of this name.
    pub fn tag(&self, name: &str) -> Result<usize, Error> {
        let number = self.columns.tags.iter().position(|tag| tag == name);
        number.ok_or_else(|| Error::UnknownTag { name: name.to_owned(), tags: self.columns.tags.clone() })
    }

    /// The places of the columns chosen, checked, and the schema they make; tags as dictionaries if wanted.
    pub fn project(&self, projection: &[usize], tags_as_dictionaries: bool) -> Result<(Vec<Place>, SchemaRef), Error> {
        let places = projection.iter().map(|&index| self.place(index)).collect::<Result<Vec<_>, _>>()?;
        let mut fields = Vec::with_capacity(places.len());
        for (&index, place) in projection.iter().zip(&places) {
            let field = self.arrow.field(index).clone();
            let is_dictionary = tags_as_dictionaries && matches!(place, Place::Tag(_));
            let dictionary = || DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8));
            fields.push(if is_dictionary { field.with_data_type(dictionary()) } else { field });
        }
        Ok((places, Arc::new(Schema::new(fields))))
    }

    /// The place of a column of the table.
    pub fn place(&self, index: usize) -> Result<Place, Error> {
        let columns = self.places.len();
        self.places.get(index).copied().ok_or(Error::UnknownColumn { index, columns })
    }
}

impl Columns {
    /// These and what `schema` adds to them.
    fn grown(&self, schema: &SeriesSchema) -> Result<Self, Error> {
        let changed = |detail: String| Error::SchemaChanged { detail };
        let mut all = self.clone();
        if let Some(tag) = self.tags.iter().find(|tag| !schema.tags.contains(tag)) {
            return Err(changed(format!("its tag {tag:?} is gone, which joins series that were apart")));
        }
        for tag in &schema.tags {
            if self.fields.iter().any(|(name, _)| name == tag) {
                return Err(changed(format!("{tag:?} was a field and is a tag now")));
            }
            if !all.tags.contains(tag) {
                all.tags.push(tag.clone());
            }
        }
        for (name, kind) in &schema.fields {
            match all.fields.iter().find(|(field, _)| field == name) {
                Some((_, known)) if known == kind => {}
                Some((_, known)) => return Err(changed(format!("field {name:?} was {known:?} and is {kind:?} now"))),
                None => all.fields.push((name.clone(), *kind)),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> SeriesSchema {
        SeriesSchema::new("ts", vec!["host".into()], vec![("load".into(), FieldKind::Float)], 1000)
    }

    fn layout(schema: &SeriesSchema) -> Result<Layout, Error> {
        Layout::new(schema, &Columns::default())
    }

    #[test]
    fn columns_keep_the_order_of_the_table() {
        let mut schema = schema();
        schema.columns = vec!["load".into(), "ts".into(), "host".into()];
        let layout = layout(&schema).expect("valid");
        assert_eq!(layout.places, [Place::Field(0, FieldKind::Float), Place::Time, Place::Tag(0)]);
        assert_eq!(layout.tag("host").expect("a tag"), 0);
        assert!(matches!(layout.tag("load"), Err(Error::UnknownTag { .. })));
        assert!(matches!(layout.project(&[3], false), Err(Error::UnknownColumn { index: 3, columns: 3 })));
    }

    #[test]
    fn numbers_stay_when_a_schema_grows() {
        let before = layout(&schema()).expect("valid");
        let grown = SeriesSchema::new(
            "ts",
            vec!["area".into(), "host".into()],
            vec![("up".into(), FieldKind::Boolean), ("load".into(), FieldKind::Float)],
            1000,
        );
        let after = Layout::new(&grown, &before.columns).expect("it grew");
        assert_eq!(
            after.places,
            [Place::Time, Place::Tag(1), Place::Tag(0), Place::Field(1, FieldKind::Boolean), Place::Field(0, FieldKind::Float)]
        );
        assert_eq!(Layout::new(&grown, &after.columns).expect("the same").columns, after.columns);
        let without_field = SeriesSchema::new("ts", grown.tags.clone(), vec![], 1000);
        assert_eq!(Layout::new(&without_field, &after.columns).expect("fields may go").columns, after.columns);
    }

    #[test]
    fn what_would_mix_up_stored_points_asks_for_a_rebuild() {
        let known = layout(&schema()).expect("valid").columns;
        let fields = schema().fields;
        for bad in [
            SeriesSchema::new("ts", vec![], fields.clone(), 1000),
            SeriesSchema::new("ts", vec!["host".into(), "load".into()], vec![], 1000),
            SeriesSchema::new("ts", vec!["host".into()], vec![("load".into(), FieldKind::Integer)], 1000),
        ] {
            assert!(matches!(Layout::new(&bad, &known), Err(Error::SchemaChanged { .. })), "{bad:?}");
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
            assert!(matches!(layout(&bad), Err(Error::InvalidSchema { .. })), "{bad:?}");
        }
    }
}
