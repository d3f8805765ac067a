//! The key view of a stream: for every key the offset of its last record, so that an append can expect one.
//!
//! A row table that the database makes for itself the first time a request uses `expect` on the stream. It is durable and can be
//! rebuilt like any view, goes with its stream, and is shown only when it has trouble. Read by [`crate::append`].

use logcore::materialize::{Projection, Rejects, ViewError};
use logcore::{Batch, Offset};
use rowstore::key::encode_part;
use rowstore::value::{decode_row, encode_row};
use rowstore::{Column, ColumnType, RowChange, RowTable, TableSchema, Value};

use super::mapping::records_from;
use crate::catalog::{Source, StreamDef, TableDef, TableKind};
use crate::error::Result;

/// Nothing can be expected of longer keys: they are not kept here.
pub const KEY_BYTES_MAX: usize = 4 << 10;

/// What the names of key views begin with; the stream's name follows.
const NAME_PREFIX: &str = "_keys.";

/// The definition of a stream's key view.
#[must_use]
pub fn definition(id: u32, stream: &StreamDef) -> TableDef {
    TableDef {
        id,
        name: format!("{NAME_PREFIX}{}", stream.name),
        source: Source::Keys { stream: stream.id },
        kind: TableKind::Row(schema()),
        generation: 1,
        building: None,
        next_mapping: None,
        newest: 1,
        history: None,
        ttl_ms: None,
    }
}

fn schema() -> TableSchema {
    let column = |name: &str, kind| Column::new(name, kind).not_null();
    TableSchema::new(vec![column("key", ColumnType::Bytea), column("last_offset", ColumnType::BigInt)], vec![0])
}

fn encoded(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 2);
    encode_part(&mut out, &Value::Bytes(key.to_vec()));
    out
}

/// The offset of the last record of `key` below `cut`, if it has one.
///
/// # Errors
/// When the view's files can't be read.
pub fn last_offset(rows: &RowTable, key: &[u8], cut: Offset) -> Result<Option<Offset>> {
    let Some(row) = rows.get(&encoded(key), cut)? else { return Ok(None) };
    Ok(match decode_row(&row, rows.schema())?.get(1) {
        Some(Value::Int(offset)) => Some(Offset::new(offset.unsigned_abs())),
        _ => None,
    })
}

/// Takes keys and offsets out of records.
pub struct KeyProjection {
    schema: TableSchema,
}

impl Default for KeyProjection {
    fn default() -> Self {
        Self { schema: schema() }
    }
}

impl Projection<Vec<RowChange>> for KeyProjection {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Vec<RowChange>, ViewError> {
        let keyed = records_from(batch, from, rejects).into_iter().filter_map(|record| {
            let key = record.key.filter(|key| key.len() <= KEY_BYTES_MAX)?;
            let last = i64::try_from(record.offset.value()).ok()?;
            let row = encode_row(&[Value::Bytes(key.to_vec()), Value::Int(last)], &self.schema);
            Some(RowChange { offset: record.offset, key: encoded(key), value: Some(row), truncates: false })
        });
        Ok(keyed.collect())
    }
}
