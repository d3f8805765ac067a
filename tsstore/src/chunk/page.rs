//! What a chunk file's footer says about one page, so that a scan can leave the page unread.
//!
//! Made by [`super::sealed::ChunkWriter`] while the page is in memory, kept in memory as long as the file is open, shown to the
//! router by [`crate::SeriesSnapshot::pages`] for statistics and aggregates.
//!
//! # Format
//! `docs/format.md`, "Chunk file", "Page".

use std::cmp::Ordering;
use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{ArrowPrimitiveType, Float64Type, Int64Type, TimestampMicrosecondType};
use logcore::Offset;
use logcore::types::len_u32;

use super::wire::{Damage, Input, put_sized};
use crate::schema::{ColumnKind, FieldKind, Layout};

/// A page lists the values of a tag up to this many.
const TAG_VALUES_MAX: usize = 32;
/// And up to this many bytes of them.
const TAG_VALUES_BYTES_MAX: usize = 4096;

/// One page: up to some thousand points next to each other in time.
#[derive(Clone, Debug, PartialEq)]
pub struct PageSummary {
    /// Points in it, at least one.
    pub rows: u32,
    /// The earliest time, in microseconds.
    pub time_min: i64,
    /// The latest time, inclusive.
    pub time_max: i64,
    /// The lowest offset.
    pub offset_min: Offset,
    /// The highest offset, inclusive.
    pub offset_max: Offset,
    /// What is known of each column, in the order of the table.
    pub columns: Vec<ColumnSummary>,
    /// Where the page starts in its file.
    pub(crate) position: u64,
    /// The lengths of its blocks: the columns in the order of the table, then the offsets.
    pub(crate) block_bytes: Vec<u32>,
}

/// What is known of one column of a page.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnSummary {
    /// The time column: see [`PageSummary::time_min`].
    Time,
    /// A tag; `None` when it has more values than are worth listing.
    Tag(Option<TagValues>),
    /// A float field; `None` when all rows are null. Least and greatest are by the total order of IEEE 754, as in Arrow's
    /// kernels: NaN is the greatest. The sum adds up in the order of the page.
    Float(Option<NumberSummary<f64, f64>>),
    /// An integer field; `None` when all rows are null.
    Integer(Option<NumberSummary<i64, i128>>),
    /// Any other field: how many rows are not null.
    Other {
        /// Rows that are not null.
        count: u32,
    },
}

/// All values of a tag in a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagValues {
    /// The values, sorted.
    pub values: Vec<String>,
    /// Whether some rows have none.
    pub nulls: bool,
}

/// The values of a number field in a page that are not null.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NumberSummary<T, S> {
    /// How many.
    pub count: u32,
    /// The least.
    pub min: T,
    /// The greatest.
    pub max: T,
    /// Their sum.
    pub sum: S,
    /// The earliest and its time; of several at that time the one with the lowest offset.
    pub first: (i64, T),
    /// The latest and its time; of several at that time the one with the highest offset.
    pub last: (i64, T),
}

impl PageSummary {
    /// Describes points that are sorted by time and offset. Position and lengths are the writer's to fill in.
    pub(crate) fn describe(points: &RecordBatch, offsets: &[u64], layout: &Layout) -> Self {
        let times = points.column(layout.time).as_primitive::<TimestampMicrosecondType>().values();
        let columns = layout.columns.iter().zip(points.columns()).map(|(kind, array)| describe_column(*kind, array, times));
        Self {
            rows: len_u32(points.num_rows()),
            time_min: times.first().copied().expect("a page holds points"),
            time_max: times.last().copied().expect("a page holds points"),
            offset_min: Offset::new(offsets.iter().copied().min().unwrap_or_default()),
            offset_max: Offset::new(offsets.iter().copied().max().unwrap_or_default()),
            columns: columns.collect(),
            position: 0,
            block_bytes: Vec::new(),
        }
    }

    /// Bytes of all blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.block_bytes.iter().map(|&bytes| u64::from(bytes)).sum()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&self.time_min.to_le_bytes());
        out.extend_from_slice(&self.time_max.to_le_bytes());
        out.extend_from_slice(&self.offset_min.value().to_le_bytes());
        out.extend_from_slice(&self.offset_max.value().to_le_bytes());
        for bytes in &self.block_bytes {
            out.extend_from_slice(&bytes.to_le_bytes());
        }
        for column in &self.columns {
            column.encode(out);
        }
    }

    /// Reads the page that starts at `position` of its file.
    pub(crate) fn decode(input: &mut Input<'_>, layout: &Layout, position: u64) -> Result<Self, Damage> {
        let rows = input.u32()?;
        let (time_min, time_max) = (input.i64()?, input.i64()?);
        let (offset_min, offset_max) = (Offset::new(input.u64()?), Offset::new(input.u64()?));
        if rows == 0 || time_min > time_max || offset_min > offset_max {
            return Err("a page in it has no rows or ranges that end before they start");
        }
        let block_bytes = (0..=layout.columns.len()).map(|_| input.u32()).collect::<Result<_, _>>()?;
        let columns = layout.columns.iter().map(|kind| ColumnSummary::decode(*kind, input)).collect::<Result<_, _>>()?;
        Ok(Self { rows, time_min, time_max, offset_min, offset_max, columns, position, block_bytes })
    }
}

fn describe_column(kind: ColumnKind, array: &ArrayRef, times: &[i64]) -> ColumnSummary {
    match kind {
        ColumnKind::Time => ColumnSummary::Time,
        ColumnKind::Tag => ColumnSummary::Tag(tag_values(array.as_string())),
        ColumnKind::Field(FieldKind::Float) => {
            ColumnSummary::Float(describe_numbers::<Float64Type, f64>(array, times, f64::total_cmp, |sum, value| sum + value))
        }
        ColumnKind::Field(FieldKind::Integer) => {
            ColumnSummary::Integer(describe_numbers::<Int64Type, i128>(array, times, i64::cmp, |sum, value| {
                sum + i128::from(value)
            }))
        }
        ColumnKind::Field(FieldKind::Boolean | FieldKind::Text) => {
            ColumnSummary::Other { count: len_u32(array.len() - array.null_count()) }
        }
    }
}

fn tag_values(array: &StringArray) -> Option<TagValues> {
    let mut values = BTreeSet::new();
    let mut bytes = 0;
    for value in array.iter().flatten() {
        if values.insert(value) {
            bytes += value.len();
            if values.len() > TAG_VALUES_MAX || bytes > TAG_VALUES_BYTES_MAX {
                return None;
            }
        }
    }
    Some(TagValues { values: values.into_iter().map(str::to_owned).collect(), nulls: array.null_count() > 0 })
}

fn describe_numbers<T: ArrowPrimitiveType, S: Default>(
    array: &ArrayRef,
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
        first: so_far.first,
        last: (time, value),
    }))
}

impl ColumnSummary {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Time => {}
            Self::Tag(None) => out.push(0),
            Self::Tag(Some(tag)) => {
                out.push(if tag.nulls { 2 } else { 1 });
                out.extend_from_slice(&len_u32(tag.values.len()).to_le_bytes());
                for value in &tag.values {
                    put_sized(out, value.as_bytes());
                }
            }
            Self::Float(None) | Self::Integer(None) => out.extend_from_slice(&0_u32.to_le_bytes()),
            Self::Float(Some(numbers)) => {
                numbers.encode(out, |value| value.to_le_bytes(), |out, sum| out.extend_from_slice(&sum.to_le_bytes()));
            }
            Self::Integer(Some(numbers)) => {
                numbers.encode(out, |value| value.to_le_bytes(), |out, sum| out.extend_from_slice(&sum.to_le_bytes()));
            }
            Self::Other { count } => out.extend_from_slice(&count.to_le_bytes()),
        }
    }

    fn decode(kind: ColumnKind, input: &mut Input<'_>) -> Result<Self, Damage> {
        Ok(match kind {
            ColumnKind::Time => Self::Time,
            ColumnKind::Tag => match input.u8()? {
                0 => Self::Tag(None),
                flag @ (1 | 2) => {
                    let count = input.count(4)?;
                    let values = (0..count).map(|_| input.text().map(str::to_owned)).collect::<Result<_, _>>()?;
                    Self::Tag(Some(TagValues { values, nulls: flag == 2 }))
                }
                _ => return Err("a tag flag in it is unknown"),
            },
            ColumnKind::Field(FieldKind::Float) => Self::Float(NumberSummary::decode(input, Input::f64, Input::f64)?),
            ColumnKind::Field(FieldKind::Integer) => Self::Integer(NumberSummary::decode(input, Input::i64, Input::i128)?),
            ColumnKind::Field(FieldKind::Boolean | FieldKind::Text) => Self::Other { count: input.u32()? },
        })
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
    ) -> Result<Option<Self>, Damage> {
        let count = input.u32()?;
        if count == 0 {
            return Ok(None);
        }
        let (min, max, sum) = (value(input)?, value(input)?, sum(input)?);
        let (first, last) = ((input.i64()?, value(input)?), (input.i64()?, value(input)?));
        Ok(Some(Self { count, min, max, sum, first, last }))
    }
}
