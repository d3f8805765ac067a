//! Which series a chunk has points of, and where: the directory of a chunk file, and of a block in memory.
//!
//! Series with few points share pages, so what a page holds is told by the directory: rows of one series lie next to each other,
//! ordered by time.

use logcore::types::len_u32;

use super::column;
use super::wire::{Damage, Input, put_sized};
use crate::error::Error;

/// The series of a chunk, one entry each, in the order of their rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directory {
    pub series: Vec<u32>,
    /// The first row of each, and the number of rows behind the last.
    pub starts: Vec<u32>,
    /// The time of the first row of each.
    pub first: Vec<i64>,
    /// The time of the last row of each.
    pub last: Vec<i64>,
}

impl Directory {
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Rows of an entry.
    pub fn rows(&self, entry: usize) -> std::ops::Range<u32> {
        self.starts[entry]..self.starts[entry + 1]
    }

    /// The entry that has a row.
    pub fn entry_of(&self, row: u32) -> usize {
        self.starts.partition_point(|&start| start <= row) - 1
    }

    /// Adds rows of a series; those of the last one may go on.
    pub fn push(&mut self, series: u32, times: &[i64]) {
        let (Some(&first), Some(&last)) = (times.first(), times.last()) else { return };
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        let end = self.starts.last().copied().unwrap_or(0) + len_u32(times.len());
        if self.series.last() == Some(&series) {
            *self.starts.last_mut().expect("it has rows") = end;
            *self.last.last_mut().expect("it has rows") = last;
        } else {
            self.series.push(series);
            self.starts.push(end);
            self.first.push(first);
            self.last.push(last);
        }
    }

    /// The series of each row of a range, as runs: series and rows.
    pub fn runs(&self, rows: std::ops::Range<u32>) -> impl Iterator<Item = (usize, std::ops::Range<u32>)> + '_ {
        let first = if rows.is_empty() { self.len() } else { self.entry_of(rows.start) };
        (first..self.len()).map_while(move |entry| {
            let of_entry = self.rows(entry);
            let cut = of_entry.start.max(rows.start)..of_entry.end.min(rows.end);
            (!cut.is_empty()).then_some((entry, cut))
        })
    }

    pub fn encode(&self, level: usize) -> Result<Vec<u8>, Error> {
        let lengths: Vec<u32> = self.starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let spans: Vec<u64> = self.first.iter().zip(&self.last).map(|(&first, &last)| last.abs_diff(first)).collect();
        let mut out = Vec::new();
        put_sized(&mut out, &column::encode_numbers(&self.series, level)?);
        put_sized(&mut out, &column::encode_numbers(&lengths, level)?);
        put_sized(&mut out, &column::encode_numbers(&self.first, level)?);
        put_sized(&mut out, &column::encode_numbers(&spans, level)?);
        Ok(out)
    }

    /// Reads the directory of `count` series and `rows` rows.
    pub fn decode(raw: &[u8], count: usize, rows: u32) -> Result<Self, Damage> {
        let mut input = Input::new(raw);
        let series = column::decode_numbers(input.sized()?, count)?;
        let lengths: Vec<u32> = column::decode_numbers(input.sized()?, count)?;
        let first: Vec<i64> = column::decode_numbers(input.sized()?, count)?;
        let spans: Vec<u64> = column::decode_numbers(input.sized()?, count)?;
        input.end()?;
        let last =
            first.iter().zip(spans).map(|(first, span)| first.checked_add_unsigned(span).ok_or("a time in it is too late"));
        let last = last.collect::<Result<_, _>>()?;
        let mut starts = Vec::with_capacity(count + 1);
        let mut end = 0_u32;
        starts.push(end);
        for length in lengths {
            end = end.checked_add(length).filter(|_| length > 0).ok_or("a series in it has no rows or too many")?;
            starts.push(end);
        }
        if end == rows {
            Ok(Self { series, starts, first, last })
        } else {
            Err("its series have more or fewer rows than it says")
        }
    }
}
