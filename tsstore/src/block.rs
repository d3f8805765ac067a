//! The records of a series table that is written to: a block of points, or a delete, as bytes and back.
//!
//! The router encodes what a statement or a request of line protocol writes, and its projection decodes it again. Columns are told by
//! numbers that the router gives them. Small blocks are stored as they are, larger ones packed as in chunk files.
//!
//! # Invariants
//! - Whatever the bytes, decoding ends in an error or a value, within [`BYTES_MAX`] or so of memory.
//! - What is decoded equals what was encoded, bit for bit.
//!
//! # Format
//! `docs/format.md`, "Points of a written series".

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType, UInt32Type};
use logcore::types::len_u32;

use crate::chunk::column;
use crate::chunk::wire::{Damage, Input, put_sized, seal, unseal};
use crate::error::Error;
use crate::schema::{ColumnKind, FieldKind};

/// No block has more points.
pub const ROWS_MAX: usize = 1 << 20;
/// No block has more columns.
pub const COLUMNS_MAX: usize = 4096;
/// No block unfolds into more than about this.
pub const BYTES_MAX: usize = 64 << 20;
const VERSION: u8 = 1;
const POINTS: u8 = 1;
const DELETE: u8 = 2;
const TAG: u8 = 1;
/// Numbers are packed at this level of pco: a log is written once and read a few times.
const LEVEL: usize = 4;

/// What a record of a written series says.
#[derive(Clone, Debug, PartialEq)]
pub enum BlockEntry {
    /// Points come.
    Points(PointBlock),
    /// Points go.
    Delete(DeleteBlock),
}

/// Points, column by column.
#[derive(Clone, Debug, PartialEq)]
pub struct PointBlock {
    /// The time of each point, in microseconds.
    pub times: Vec<i64>,
    /// The columns that any point has, each as long as `times`.
    pub columns: Vec<BlockColumn>,
}

/// A column of a block.
#[derive(Clone, Debug)]
pub struct BlockColumn {
    /// What the router knows the column by.
    pub id: u32,
    /// Whether it is a tag.
    pub is_tag: bool,
    /// Tags: `Utf8` or `Dictionary(UInt32, Utf8)`, and the latter when decoded. Fields: `Float64`, `Int64`, `Boolean` or `Utf8`.
    pub values: ArrayRef,
}

impl PartialEq for BlockColumn {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.is_tag == other.is_tag && *self.values == *other.values
    }
}

/// Which points go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteBlock {
    /// The earliest time, in microseconds, inclusive.
    pub from: Option<i64>,
    /// The end of time, in microseconds, exclusive.
    pub until: Option<i64>,
    /// Tags, by the number of their column, that must have one of some values, `None` for having none.
    pub tags: Vec<(u32, Vec<Option<String>>)>,
}

/// The bytes of points.
///
/// # Errors
/// [`Error::InvalidPoints`] when columns are of different lengths or of other types, or there is more than a block may have.
pub fn encode_points(block: &PointBlock) -> Result<Vec<u8>, Error> {
    let invalid = |detail: String| Error::InvalidPoints { detail };
    let rows = block.times.len();
    if rows > ROWS_MAX || block.columns.len() > COLUMNS_MAX || is_too_large(rows, block.columns.len()) {
        return Err(invalid(format!("{rows} points of {} columns are more than a block may have", block.columns.len())));
    }
    let mut out = vec![VERSION, POINTS];
    out.extend_from_slice(&len_u32(rows).to_le_bytes());
    out.extend_from_slice(&len_u32(block.columns.len()).to_le_bytes());
    let times = TimestampMicrosecondArray::from_iter_values(block.times.iter().copied());
    put_sized(&mut out, &column::encode(&times, LEVEL)?);
    for BlockColumn { id, is_tag, values } in &block.columns {
        let mut values = Arc::clone(values);
        if let Some(dictionary) = values.as_dictionary_opt::<UInt32Type>() {
            values = arrow::compute::take(dictionary.values(), dictionary.keys(), None)?;
        }
        let kind = kind_of(values.data_type()).filter(|kind| !*is_tag || *kind == FieldKind::Text);
        let kind = kind.ok_or_else(|| invalid(format!("column {id} is of type {}", values.data_type())))?;
        if values.len() != rows {
            return Err(invalid(format!("column {id} has {} values and there are {rows} points", values.len())));
        }
        let text_bytes = values.as_string_opt::<i32>().map_or(0, |text| text.value_data().len());
        if text_bytes + 4 * rows > BYTES_MAX {
            return Err(invalid(format!("column {id} has {text_bytes} bytes of text, more than a block may have")));
        }
        out.extend_from_slice(&id.to_le_bytes());
        out.push(if *is_tag { TAG } else { kind.code() });
        put_sized(&mut out, &column::encode(&values, LEVEL)?);
    }
    Ok(out)
}

/// The bytes of a delete.
#[must_use]
pub fn encode_delete(delete: &DeleteBlock) -> Vec<u8> {
    let mut body = Vec::new();
    for time in [delete.from, delete.until] {
        body.push(u8::from(time.is_some()));
        body.extend_from_slice(&time.unwrap_or(0).to_le_bytes());
    }
    body.extend_from_slice(&len_u32(delete.tags.len()).to_le_bytes());
    for (id, values) in &delete.tags {
        body.extend_from_slice(&id.to_le_bytes());
        body.extend_from_slice(&len_u32(values.len()).to_le_bytes());
        for value in values {
            body.push(u8::from(value.is_some()));
            if let Some(value) = value {
                put_sized(&mut body, value.as_bytes());
            }
        }
    }
    let mut out = vec![VERSION, DELETE];
    out.extend_from_slice(&seal(body));
    out
}

/// What [`encode_points`] or [`encode_delete`] made.
///
/// # Errors
/// [`Error::InvalidBlock`] for any other bytes.
pub fn decode(raw: &[u8]) -> Result<BlockEntry, Error> {
    read(raw).map_err(|detail| Error::InvalidBlock { detail: detail.to_owned() })
}

fn kind_of(data_type: &DataType) -> Option<FieldKind> {
    let kinds = [FieldKind::Float, FieldKind::Integer, FieldKind::Boolean, FieldKind::Text];
    kinds.into_iter().find(|kind| kind.data_type() == *data_type)
}

fn is_too_large(rows: usize, columns: usize) -> bool {
    rows.saturating_mul(columns + 1).saturating_mul(8) > BYTES_MAX
}

fn read(raw: &[u8]) -> Result<BlockEntry, Damage> {
    let mut input = Input::bounded(raw, BYTES_MAX);
    if input.u8()? != VERSION {
        return Err("it is of an unknown version");
    }
    match input.u8()? {
        POINTS => read_points(input).map(BlockEntry::Points),
        DELETE => read_delete(Input::new(unseal(input.remaining())?)).map(BlockEntry::Delete),
        _ => Err("it is neither points nor a delete"),
    }
}

fn read_points(mut input: Input<'_>) -> Result<PointBlock, Damage> {
    let rows = input.u32()? as usize;
    let count = input.count(9)?;
    if rows > ROWS_MAX || count > COLUMNS_MAX || is_too_large(rows, count) {
        return Err("it says that it has more points or columns than a block may have");
    }
    // Memory is shared by all columns: what one unfolds into is missing to the next.
    let mut left = BYTES_MAX;
    let times = column::decode_bounded(ColumnKind::Time, input.sized()?, rows, left)?;
    let times = times.as_primitive::<TimestampMicrosecondType>().values().to_vec();
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, code) = (input.u32()?, input.u8()?);
        let kind = match FieldKind::of_code(code) {
            None if code == TAG => ColumnKind::Tag,
            None => return Err("a column in it is of an unknown kind"),
            Some(kind) => ColumnKind::Field(kind),
        };
        let values = column::decode_bounded(kind, input.sized()?, rows, left)?;
        left = left.checked_sub(values.get_array_memory_size()).ok_or("it unfolds into more than a block may have")?;
        columns.push(BlockColumn { id, is_tag: code == TAG, values });
    }
    input.end()?;
    Ok(PointBlock { times, columns })
}

fn read_delete(mut input: Input<'_>) -> Result<DeleteBlock, Damage> {
    let flag = |input: &mut Input<'_>| match input.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err("a flag in it is neither 0 nor 1"),
    };
    let mut time = || {
        let is_some = flag(&mut input)?;
        Ok::<_, Damage>(Some(input.i64()?).filter(|_| is_some))
    };
    let (from, until) = (time()?, time()?);
    let count = input.count(8)?;
    let mut tags = Vec::with_capacity(count);
    for _ in 0..count {
        let id = input.u32()?;
        let values = (0..input.count(1)?).map(|_| {
            let is_some = flag(&mut input)?;
            Ok(if is_some { Some(input.text()?.to_owned()) } else { None })
        });
        tags.push((id, values.collect::<Result<_, Damage>>()?));
    }
    input.end()?;
    Ok(DeleteBlock { from, until, tags })
}
