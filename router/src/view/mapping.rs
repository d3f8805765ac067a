//! A view whose columns are JSON fields of the same name: records to rows, rows to points.
//!
//! Run by the stores' materializers. A record is parsed once; only the fields that are columns are looked at.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use logcore::materialize::{Projection, Rejects, ViewError};
use logcore::{Batch, Offset, Record};
use rowstore::key::{encode_key, encode_part};
use rowstore::value::{build_column, encode_row};
use rowstore::{RowChange, TableSchema, Value};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tsstore::Points;

use super::json;

/// Reads columns out of JSON objects.
#[derive(Clone)]
pub struct FieldMapping {
    schema: Arc<TableSchema>,
}

impl FieldMapping {
    /// The columns of `schema`, by name.
    #[must_use]
    pub fn new(schema: Arc<TableSchema>) -> Self {
        Self { schema }
    }

    /// The values of a row, in column order.
    fn row(&self, value: &[u8]) -> Result<Vec<Value>, String> {
        let mut raw: Vec<Option<&RawValue>> = vec![None; self.schema.columns.len()];
        let mut deserializer = serde_json::Deserializer::from_slice(value);
        let fields = Fields { schema: &self.schema, raw: &mut raw };
        fields
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end())
            .map_err(|error| format!("not a JSON object: {error}"))?;
        let column = |(at, raw): (usize, Option<&RawValue>)| {
            let column = &self.schema.columns[at];
            let value = match raw {
                Some(raw) => json::convert(raw, &column.kind).map_err(|why| format!("column \"{}\": {why}", column.name))?,
                None => Value::Null,
            };
            match value == Value::Null && self.schema.refuses_null(at) {
                true => Err(format!("column \"{}\" may not be null", column.name)),
                false => Ok(value),
            }
        };
        raw.into_iter().enumerate().map(column).collect()
    }
}

struct Fields<'a, 'de> {
    schema: &'a TableSchema,
    raw: &'a mut [Option<&'de RawValue>],
}

impl<'de> DeserializeSeed<'de> for Fields<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name<'de>>()? {
            match self.schema.column(&name.0) {
                Some(at) => self.raw[at] = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// A member's name, borrowed unless it has escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The records of a batch from `from` on; a malformed one ends the list and is rejected.
pub(crate) fn records_from<'a>(batch: &'a Batch, from: Offset, rejects: &mut Rejects) -> Vec<Record<'a>> {
    let mut records = Vec::with_capacity(batch.count() as usize);
    for record in batch.records() {
        match record {
            Ok(record) if record.offset >= from => records.push(record),
            Ok(_) => {}
            Err(error) => {
                rejects.push(batch.base_offset(), error.to_string());
                break;
            }
        }
    }
    records
}

/// The encoded key of the row that a tombstone removes: the record's key, as the only primary key column.
fn tombstone_key(schema: &TableSchema, record: &Record<'_>) -> Result<Vec<u8>, String> {
    let ([column], Some(key)) = (&schema.primary_key[..], record.key) else {
        return Err("a null value removes a row only where the primary key is one column and the record has a key".into());
    };
    let text = std::str::from_utf8(key).map_err(|_| "the record's key is not text")?;
    let raw = serde_json::value::to_raw_value(text).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    encode_part(&mut out, &json::convert(&raw, &schema.columns[*column].kind)?);
    Ok(out)
}

impl Projection<Vec<RowChange>> for FieldMapping {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Vec<RowChange>, ViewError> {
        let mut changes = Vec::with_capacity(batch.count() as usize);
        for record in records_from(batch, from, rejects) {
            let change = match record.value {
                None => tombstone_key(&self.schema, &record).map(|key| (key, None)),
                Some(value) => self.row(value).and_then(|row| {
                    let key = encode_key(&row, &self.schema).map_err(|error| error.to_string())?;
                    Ok((key, Some(encode_row(&row, &self.schema))))
                }),
            };
            match change {
                Ok((key, value)) => changes.push(RowChange { offset: record.offset, key, value, truncates: false }),
                Err(why) => rejects.push(record.offset, why),
            }
        }
        Ok(changes)
    }
}

impl Projection<Points> for FieldMapping {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Points, ViewError> {
        let (mut offsets, mut rows) = (Vec::new(), Vec::new());
        for record in records_from(batch, from, rejects) {
            match self.row(record.value.unwrap_or(b"null")) {
                Ok(row) => {
                    offsets.push(record.offset);
                    rows.push(row);
                }
                Err(why) => rejects.push(record.offset, why),
            }
        }
        let column = |at: usize| build_column(&self.schema.columns[at].kind, rows.iter().map(|row| &row[at]));
        let columns = (0..self.schema.columns.len()).map(column).collect::<Result<Vec<_>, _>>()?;
        Ok(Points { offsets, columns: RecordBatch::try_new(self.schema.arrow(), columns)? })
    }
}
