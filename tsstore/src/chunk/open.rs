//! Blocks of points in memory: what a checkpoint has not moved into a file yet.
//!
//! `SeriesMaterializer::apply` checks what the projection gave, finds the series of each point, and cuts the points into blocks;
//! the view keeps them in a list that snapshots share. Blocks never change; small neighbours are replaced by their union.
//!
//! # Invariants
//! - Rows are sorted by series number, time, and the order of the log.
//! - Offsets of a block are not below those of the block before it in the list.
//! - Fields without a value in the block are left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array, new_null_array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, TimestampMicrosecondType, UInt32Type};
use logcore::Offset;
use logcore::types::len_u32;

use super::directory::Directory;
use crate::change::Points;
use crate::error::Error;
use crate::names::Interner;
use crate::schema::{Layout, Place};

/// What a block takes beside its values, about.
const BLOCK_BYTES: u64 = 512;
/// What a series takes in a block's directory.
const ENTRY_BYTES: u64 = 24;

/// Some points in memory.
#[derive(Debug)]
pub(crate) struct OpenBlock {
    pub directory: Arc<Directory>,
    pub times: ScalarBuffer<i64>,
    pub offsets: ScalarBuffer<u64>,
    pub fields: BTreeMap<u32, ArrayRef>,
    pub time_min: i64,
    pub time_max: i64,
    pub offset_min: u64,
    pub offset_max: u64,
    /// Some rows have the series and time of others.
    pub superseded: bool,
    pub bytes: u64,
}

/// Rows that are not sorted yet: in the order of the log, or of blocks that are joined.
struct Loose {
    series: Vec<u32>,
    times: Vec<i64>,
    offsets: Vec<u64>,
    fields: BTreeMap<u32, ArrayRef>,
}

impl Loose {
    /// At least one row.
    fn into_block(self) -> Result<OpenBlock, Error> {
        let key = |(row, (&series, &time)): (usize, (&u32, &i64))| {
            let time = time.cast_unsigned() ^ (1 << 63);
            (u128::from(series) << 96) | (u128::from(time) << 32) | u128::from(len_u32(row))
        };
        let mut keys: Vec<u128> = self.series.iter().zip(&self.times).enumerate().map(key).collect();
        let rows = keys.len();
        let Self { mut series, mut times, mut offsets, mut fields } = self;
        if !keys.is_sorted() {
            // Stable: it finds the runs of blocks that are joined.
            keys.sort();
            let order: Vec<u32> = keys.iter().map(|key| u32::try_from(key & u128::from(u32::MAX)).expect("masked")).collect();
            series = order.iter().map(|&row| series[row as usize]).collect();
            times = order.iter().map(|&row| times[row as usize]).collect();
            offsets = order.iter().map(|&row| offsets[row as usize]).collect();
            let order = UInt32Array::from(order);
            for array in fields.values_mut() {
                *array = arrow::compute::take(array, &order, None)?;
            }
        }
        let mut directory = Directory::default();
        let mut start = 0;
        for end in 1..=rows {
            if end == rows || series[end] != series[start] {
                directory.push(series[start], &times[start..end]);
                start = end;
            }
        }
        let superseded = (1..rows).any(|row| series[row] == series[row - 1] && times[row] == times[row - 1]);
        let (time_min, time_max) = bounds(&times).expect("a block holds points");
        let (offset_min, offset_max) = bounds(&offsets).expect("a block holds points");
        let mut bytes = BLOCK_BYTES + 16 * rows as u64 + ENTRY_BYTES * directory.len() as u64;
        for array in fields.values() {
            bytes += array.to_data().get_slice_memory_size()? as u64;
        }
        let (times, offsets, directory) = (times.into(), offsets.into(), Arc::new(directory));
        Ok(OpenBlock { directory, times, offsets, fields, time_min, time_max, offset_min, offset_max, superseded, bytes })
    }
}

impl OpenBlock {
    pub fn rows(&self) -> usize {
        self.times.len()
    }

    fn join(&self, next: &Self) -> Result<Self, Error> {
        let series_of = |block: &Self| {
            let entries = 0..block.directory.len();
            entries
                .flat_map(|at| block.directory.rows(at).map(move |_| at))
                .map(|at| block.directory.series[at])
                .collect::<Vec<_>>()
        };
        let mut fields = BTreeMap::new();
        for (&field, array) in self.fields.iter().chain(&next.fields) {
            if fields.contains_key(&field) {
                continue;
            }
            let of = |block: &Self| match block.fields.get(&field) {
                Some(array) => Arc::clone(array),
                None => new_null_array(array.data_type(), block.rows()),
            };
            fields.insert(field, arrow::compute::concat(&[&of(self), &of(next)])?);
        }
        let loose = Loose {
            series: [series_of(self), series_of(next)].concat(),
            times: [&self.times[..], &next.times].concat(),
            offsets: [&self.offsets[..], &next.offsets].concat(),
            fields,
        };
        loose.into_block()
    }
}

fn bounds<T: Copy + Ord>(values: &[T]) -> Option<(T, T)> {
    let first = *values.first()?;
    Some(values.iter().fold((first, first), |(min, max), &value| (min.min(value), max.max(value))))
}

/// Checks the points of the records in `from..until` and cuts them into blocks of up to `rows_max`.
pub(crate) fn cut(
    points: Points,
    from: Offset,
    until: Offset,
    layout: &Layout,
    interner: &mut Interner,
    rows_max: usize,
) -> Result<Vec<OpenBlock>, Error> {
    let invalid = |detail: String| Error::InvalidPoints { detail };
    let Points { offsets, columns } = points;
    let rows = columns.num_rows();
    if offsets.len() != rows {
        return Err(invalid(format!("{rows} points and {} offsets", offsets.len())));
    }
    if !offsets.is_sorted() {
        return Err(invalid("their offsets fall".to_owned()));
    }
    if let Some(offset) = offsets.iter().find(|&&offset| offset < from || offset >= until) {
        return Err(invalid(format!("offset {offset} lies outside {from}..{until} (end exclusive)")));
    }
    let (places, columns) = arrange(columns, layout)?;
    let series = intern(&places, &columns, layout.columns.tags.len(), interner, rows);
    let offsets: Vec<u64> = offsets.iter().map(|offset| offset.value()).collect();
    let time = places.iter().position(|place| *place == Place::Time);
    let time = time.ok_or_else(|| invalid("they have no time".to_owned()))?;
    let times = columns[time].as_primitive::<TimestampMicrosecondType>().values();
    let mut blocks = Vec::with_capacity(rows.div_ceil(rows_max));
    let mut start = 0;
    while start < rows {
        let len = rows_max.min(rows - start);
        let mut fields = BTreeMap::new();
        for (place, array) in places.iter().zip(&columns) {
            if let Place::Field(number, _) = place {
                let array = array.slice(start, len);
                if array.null_count() < len {
                    fields.insert(*number, array);
                }
            }
        }
        let range = start..start + len;
        let loose = Loose {
            series: series[range.clone()].to_vec(),
            times: times[range.clone()].to_vec(),
            offsets: offsets[range].to_vec(),
            fields,
        };
        blocks.push(loose.into_block()?);
        start += len;
    }
    Ok(blocks)
}

/// Says which column is which: by their order when there are as many as the table has, else by name.
fn arrange(points: RecordBatch, layout: &Layout) -> Result<(Vec<Place>, Vec<ArrayRef>), Error> {
    let invalid = |detail: String| Error::InvalidPoints { detail };
    let mut places = Vec::with_capacity(points.num_columns());
    let by_order = points.num_columns() == layout.places.len();
    let (schema, columns, _) = points.into_parts();
    for (at, (array, given)) in columns.iter().zip(schema.fields()).enumerate() {
        let found = if by_order { Some(at) } else { layout.arrow.index_of(given.name()).ok() };
        let at = found.ok_or_else(|| invalid(format!("there is no column {:?}", given.name())))?;
        let (place, field) = (layout.places[at], layout.arrow.field(at));
        let fits = array.data_type() == field.data_type() || (matches!(place, Place::Tag(_)) && is_dictionary(array));
        if !fits || (place == Place::Time && array.null_count() > 0) || places.contains(&place) {
            let found = array.data_type();
            return Err(invalid(format!(
                "column {:?} comes twice, has nulls where none may be, or is of type {found}",
                field.name()
            )));
        }
        places.push(place);
    }
    Ok((places, columns))
}

fn is_dictionary(array: &ArrayRef) -> bool {
    array.as_dictionary_opt::<UInt32Type>().is_some_and(|array| *array.values().data_type() == DataType::Utf8)
}

/// The series of each row.
fn intern(places: &[Place], columns: &[ArrayRef], tags: usize, interner: &mut Interner, rows: usize) -> Vec<u32> {
    let mut codes = vec![0_u32; rows * tags];
    for (place, array) in places.iter().zip(columns) {
        let Place::Tag(tag) = place else { continue };
        if let Some(array) = array.as_dictionary_opt::<UInt32Type>() {
            let values = array.values().as_string::<i32>();
            let mut known = vec![0; values.len()];
            for (row, key) in array.keys().iter().enumerate() {
                let Some(key) = key.map(|key| key as usize).filter(|&key| values.is_valid(key)) else { continue };
                if known[key] == 0 {
                    known[key] = interner.value(values.value(key));
                }
                codes[row * tags + tag] = known[key];
            }
            continue;
        }
        let mut last: Option<(&str, u32)> = None;
        for (row, value) in array.as_string::<i32>().iter().enumerate() {
            let Some(value) = value else { continue };
            let code = match last {
                Some((text, code)) if text == value => code,
                _ => interner.value(value),
            };
            last = Some((value, code));
            codes[row * tags + tag] = code;
        }
    }
    if tags == 0 {
        let only = if rows > 0 { interner.series(&[]) } else { 0 };
        return vec![only; rows];
    }
    codes.chunks_exact(tags).map(|key| interner.series(key)).collect()
}

/// Adds a block to the list, united with blocks at its end that are not much larger: so a point is copied some ten times at
/// most, however small the batches are, and the list stays short.
pub(crate) fn push(list: &mut Vec<Arc<OpenBlock>>, block: OpenBlock, rows_max: usize) -> Result<(), Error> {
    let mut block = block;
    while let Some(last) = list.last()
        && last.rows() <= 2 * block.rows()
        && last.rows() + block.rows() <= rows_max
    {
        block = last.join(&block)?;
        list.pop();
    }
    list.push(Arc::new(block));
    Ok(())
}
