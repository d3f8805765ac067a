//! What a chunk file's footer says about one page, so that a scan can leave the page unread.
//!
//! Made by [`super::sealed::ChunkWriter`] while the page is in memory, kept in memory as long as the file is open, shown to the
//! router by [`crate::SeriesSnapshot::pages`] for statistics and aggregates.
//!
//! # Format
//! `docs/format.md`, "Chunk file", "Page".

use std::cmp::Ordering;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float64Type, Int64Type};
use logcore::Offset;

use super::wire::{Damage, Input};
use crate::schema::FieldKind;

/// One page: up to some thousand points of one or a few series next to each other in the order of tags.
#[derive(Clone, Debug, PartialEq)]
pub struct PageSummary {
    /// Points in it, at least one.
    pub rows: u32,
    /// Series of which it has points, at least one.
    pub series: u32,
    /// The earliest time, in microseconds.
    pub time_min: i64,
    /// The latest time, inclusive.
    pub time_max: i64,
    /// The lowest offset.
    pub offset_min: Offset,
    /// The highest offset, inclusive.
    pub offset_max: Offset,
    /// The fields of which it has values.
    pub columns: Vec<PageColumn>,
    /// Some of its points are later ones of the tags and time of others.
    pub(crate) superseded: bool,
    /// Points of its file before it.
    pub(crate) row_start: u32,
    /// Where it starts in its file.
    pub(crate) position: u64,
    /// The lengths of its first two blocks: times and offsets. Those of the fields follow.
    pub(crate) head_bytes: [u32; 2],
}

/// A field of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct PageColumn {
    /// The number of the field: its place among all fields that the table ever had.
    pub field: u32,
    /// What is known of its values.
    pub summary: ColumnSummary,
    /// The length of its block.
    pub(crate) bytes: u32,
}

/// What is known of the values of a field in a page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ColumnSummary {
    /// A float field. Least and greatest are by the total order of IEEE 754, as in Arrow's kernels: NaN is the greatest. The sum
    /// adds up in the order of the page.
    Float(NumberSummary<f64, f64>),
    /// An integer field.
    Integer(NumberSummary<i64, i128>),
    /// Any other field.
    Other {
        /// Rows that are not null.
        count: u64,
    },
}

/// The values of a number field that are not null, at least one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NumberSummary<T, S> {
    /// How many.
    pub count: u64,
    /// The least.
    pub min: T,
    /// The greatest.
    pub max: T,
    /// Their sum.
    pub sum: S,
    /// The earliest and its time; of several series at that time the first in the order of tags.
    pub first: (i64, T),
    /// The latest and its time; of several series at that time the last in the order of tags.
    pub last: (i64, T),
}

impl PageSummary {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.series.to_le_bytes());
        out.push(u8::from(self.superseded));
        out.extend_from_slice(&self.time_min.to_le_bytes());
        out.extend_from_slice(&self.time_max.to_le_bytes());
        out.extend_from_slice(&self.offset_min.value().to_le_bytes());
        out.extend_from_slice(&self.offset_max.value().to_le_bytes());
        self.head_bytes.iter().for_each(|bytes| out.extend_from_slice(&bytes.to_le_bytes()));
        out.extend_from_slice(&logcore::types::len_u32(self.columns.len()).to_le_bytes());
        for column in &self.columns {
            out.extend_from_slice(&column.field.to_le_bytes());
            out.extend_from_slice(&column.bytes.to_le_bytes());
            column.summary.encode(out);
        }
    }

    /// Reads the page that starts at `position` of its file, behind `row_start` points.
    pub(crate) fn decode(input: &mut Input<'_>, position: u64, row_start: u32) -> Result<Self, Damage> {
        let (rows, series) = (input.u32()?, input.u32()?);
        let superseded = match input.u8()? {
            0 => false,
            1 => true,
            _ => return Err("a flag in it is neither 0 nor 1"),
        };
        let (time_min, time_max) = (input.i64()?, input.i64()?);
        let (offset_min, offset_max) = (Offset::new(input.u64()?), Offset::new(input.u64()?));
        if rows == 0 || series == 0 || series > rows || time_min > time_max || offset_min > offset_max {
            return Err("a page in it has no rows or ranges that end before they start");
        }
        let head_bytes = [input.u32()?, input.u32()?];
        let count = input.count(17)?;
        let columns = (0..count).map(|_| {
            let (field, bytes) = (input.u32()?, input.u32()?);
            Ok(PageColumn { field, bytes, summary: ColumnSummary::decode(input)? })
        });
        let columns: Vec<PageColumn> = columns.collect::<Result<_, Damage>>()?;
        if !columns.is_sorted_by(|a, b| a.field < b.field) {
            return Err("the fields of a page in it are out of order");
        }
        Ok(Self {
            rows,
            series,
            time_min,
            time_max,
            offset_min,
            offset_max,
            columns,
            superseded,
            row_start,
            position,
            head_bytes,
        })
    }

    /// Bytes of all blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.head_bytes.iter().chain(self.columns.iter().map(|column| &column.bytes)).map(|&bytes| u64::from(bytes)).sum()
    }

    /// Where the block of a field lies in the file, and what is known of it; `None` when no row has a value.
    pub(crate) fn block(&self, field: u32) -> Option<(u64, &PageColumn)> {
        let at = self.columns.binary_search_by_key(&field, |column| column.field).ok()?;
        let before = self.head_bytes.iter().chain(self.columns[..at].iter().map(|column| &column.bytes));
        Some((self.position + before.map(|&bytes| u64::from(bytes)).sum::<u64>(), &self.columns[at]))
    }

    /// What is known of a field.
    pub(crate) fn summary(&self, field: u32) -> Option<&ColumnSummary> {
        self.columns.binary_search_by_key(&field, |column| column.field).ok().map(|at| &self.columns[at].summary)
    }
}

/// Describes the values of rows, of which `times` are the times; `None` when there are none.
pub(crate) fn describe(array: &dyn Array, times: &[i64]) -> Option<ColumnSummary> {
    match array.data_type() {
        DataType::Float64 => {
            describe_numbers::<Float64Type, f64>(array, times, f64::total_cmp, |sum, value| sum + value).map(ColumnSummary::Float)
        }
        DataType::Int64 => {
            let add = |sum, value| sum + i128::from(value);
            describe_numbers::<Int64Type, i128>(array, times, i64::cmp, add).map(ColumnSummary::Integer)
        }
        _ => {
            let count = (array.len() - array.null_count()) as u64;
            (count > 0).then_some(ColumnSummary::Other { count })
        }
    }
}

fn describe_numbers<T: ArrowPrimitiveType, S: Copy + Default>(
    array: &dyn Array,
    times: &[i64],
    order: impl Fn(&T::Native, &T::Native) -> Ordering,
    add: impl Fn(S, T::Native) -> S,
) -> Option<NumberSummary<T::Native, S>> {
    let mut present = array.as_primitive::<T>().iter().zip(times).filter_map(|(value, &time)| value.map(|value| (time, value)));
    let first = present.next()?;
    let start = NumberSummary { count: 1, min: first.1, max: first.1, sum: add(S::default(), first.1), first, last: first };
    Some(present.fold(start, |so_far, (time, value)| NumberSummary {
        count: so_far.count + 1,
        min: if order(&value, &so_far.min).is_lt() { value } else { so_far.min },
        max: if order(&value, &so_far.max).is_gt() { value } else { so_far.max },
        sum: add(so_far.sum, value),
        // Rows are in the order of series, then of time.
        first: if time < so_far.first.0 { (time, value) } else { so_far.first },
        last: if time >= so_far.last.0 { (time, value) } else { so_far.last },
    }))
}

impl ColumnSummary {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Float(numbers) => {
                out.push(FieldKind::Float.code());
                numbers.encode(out, |value| value.to_le_bytes(), |out, sum| out.extend_from_slice(&sum.to_le_bytes()));
            }
            Self::Integer(numbers) => {
                out.push(FieldKind::Integer.code());
                numbers.encode(out, |value| value.to_le_bytes(), |out, sum| out.extend_from_slice(&sum.to_le_bytes()));
            }
            Self::Other { count } => {
                out.push(0);
                out.extend_from_slice(&count.to_le_bytes());
            }
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<Self, Damage> {
        Ok(match input.u8()? {
            0 => Self::Other { count: input.u64()? },
            code if code == FieldKind::Float.code() => Self::Float(NumberSummary::decode(input, Input::f64, Input::f64)?),
            code if code == FieldKind::Integer.code() => Self::Integer(NumberSummary::decode(input, Input::i64, Input::i128)?),
            _ => return Err("a summary in it is of an unknown kind"),
        })
    }

    /// Rows that are not null.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Float(numbers) => numbers.count,
            Self::Integer(numbers) => numbers.count,
            Self::Other { count } => *count,
        }
    }
}

impl<T: Copy, S: Copy> NumberSummary<T, S> {
    fn encode(&self, out: &mut Vec<u8>, value_bytes: impl Fn(T) -> [u8; 8], put_sum: impl Fn(&mut Vec<u8>, S)) {
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&value_bytes(self.min));
        out.extend_from_slice(&value_bytes(self.max));
        put_sum(out, self.sum);
        for (time, value) in [self.first, self.last] {
            out.extend_from_slice(&time.to_le_bytes());
            out.extend_from_slice(&value_bytes(value));
        }
    }

    fn decode<'a>(
        input: &mut Input<'a>,
        value: impl Fn(&mut Input<'a>) -> Result<T, Damage>,
        sum: impl Fn(&mut Input<'a>) -> Result<S, Damage>,
    ) -> Result<Self, Damage> {
        let count = input.u64()?;
        let (min, max, sum) = (value(input)?, value(input)?, sum(input)?);
        let (first, last) = ((input.i64()?, value(input)?), (input.i64()?, value(input)?));
        Ok(Self { count, min, max, sum, first, last })
    }
}
