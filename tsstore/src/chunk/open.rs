//! Blocks of points in memory, in the order of the log: what a checkpoint has not moved into a file yet.
//!
//! `SeriesMaterializer::apply` checks what the projection gave and cuts it into blocks; the view keeps them in a list
//! that snapshots share. Blocks never change; small neighbours are replaced by their union.
//!
//! # Invariants
//! - Columns have the types of the layout, times are not null, there is one offset a row.
//! - Offsets don't fall within a block, nor from one block of the list to the next.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;
use logcore::Offset;

use crate::error::Error;
use crate::materializer::Points;
use crate::schema::Layout;

/// What a block takes beside its values, about.
const BLOCK_BYTES: u64 = 512;

/// Some points in memory.
#[derive(Debug)]
pub(crate) struct OpenBlock {
    pub columns: Vec<ArrayRef>,
    pub offsets: Vec<u64>,
    pub time_min: i64,
    pub time_max: i64,
    pub offset_min: u64,
    pub offset_max: u64,
    pub bytes: u64,
}

impl OpenBlock {
    /// A block of at least one row; in any order.
    pub fn new(columns: Vec<ArrayRef>, offsets: Vec<u64>, layout: &Layout) -> Result<Self, Error> {
        let times = columns[layout.time].as_primitive::<TimestampMicrosecondType>().values();
        let (time_min, time_max) = bounds(times).expect("a block holds points");
        let (offset_min, offset_max) = bounds(&offsets).expect("a block holds points");
        let mut bytes = BLOCK_BYTES + 8 * offsets.len() as u64;
        for column in &columns {
            bytes += column.to_data().get_slice_memory_size()? as u64;
        }
        Ok(Self { columns, offsets, time_min, time_max, offset_min, offset_max, bytes })
    }

    pub fn rows(&self) -> usize {
        self.offsets.len()
    }

    fn join(&self, next: &Self, layout: &Layout) -> Result<Self, Error> {
        let pairs = self.columns.iter().zip(&next.columns);
        let columns = pairs
            .map(|(this, next)| arrow::compute::concat(&[this.as_ref(), next.as_ref()]))
            .collect::<Result<_, ArrowError>>()?;
        Self::new(columns, [self.offsets.as_slice(), &next.offsets].concat(), layout)
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
    let columns = columns.into_parts().1;
    let columns = RecordBatch::try_new(layout.arrow.clone(), columns).map_err(|error| invalid(error.to_string()))?;
    let mut blocks = Vec::with_capacity(rows.div_ceil(rows_max));
    let mut start = 0;
    while start < rows {
        let len = rows_max.min(rows - start);
        let offsets = offsets[start..start + len].iter().map(|offset| offset.value()).collect();
        blocks.push(OpenBlock::new(columns.slice(start, len).columns().to_vec(), offsets, layout)?);
        start += len;
    }
    Ok(blocks)
}

/// Adds a block to the list, united with blocks at its end that are not much larger: so a point is copied some ten times at
/// most, however small the batches are, and the list stays short.
pub(crate) fn push(list: &mut Vec<Arc<OpenBlock>>, block: OpenBlock, layout: &Layout, rows_max: usize) -> Result<(), Error> {
    let mut block = block;
    while let Some(last) = list.last()
        && last.rows() <= 2 * block.rows()
        && last.rows() + block.rows() <= rows_max
    {
        block = last.join(&block, layout)?;
        list.pop();
    }
    list.push(Arc::new(block));
    Ok(())
}
