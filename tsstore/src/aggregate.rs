//! Aggregates: points summed up by tags and stretches of time.
//!
//! Called by [`crate::SeriesSnapshot::aggregate`]. A page that falls into one stretch and one group, and of which nothing is left out
//! or merged, is answered by its footer; of others the columns asked for are read, and runs of rows of one series and stretch are
//! summed up at once.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::FilterBuilder;
use arrow::datatypes::{ArrowPrimitiveType, Float64Type, Int64Type, UInt32Type};
use logcore::Offset;

use crate::chunk::page::{ColumnSummary, NumberSummary};
use crate::error::Error;
use crate::names::Ranks;
use crate::read::filter::Filter;
use crate::read::gather::{Gather, time_array};
use crate::read::overlap::{components, overlaps};
use crate::read::run::{Page, Run};
use crate::read::walk::{Direction, Flow, Sink, Version, walk, walk_series};
use crate::scan::{self, Skipped};
use crate::schema::{FieldKind, Place};
use crate::series::{Shared, State};

/// Merged rows that are summed up at once.
const ROWS: usize = 8192;

/// Stretches of time of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// In microseconds, at least 1.
    pub width: i64,
    /// A time at which one begins.
    pub origin: i64,
}

impl Buckets {
    /// The start of the bucket of a time, and the last time in it. The first bucket of all may begin before time does.
    fn of(self, time: i64) -> (i64, i64) {
        let width = i128::from(self.width.max(1));
        let number = (i128::from(time) - i128::from(self.origin)).div_euclid(width);
        let start = number * width + i128::from(self.origin);
        let clamp = |time: i128| i64::try_from(time).unwrap_or(if time < 0 { i64::MIN } else { i64::MAX });
        (clamp(start), clamp(start + width - 1))
    }
}

/// Which points, and how they are summed up.
#[derive(Clone, Debug, Default)]
pub struct AggregateRequest {
    /// Fields to sum up, by column number.
    pub columns: Vec<usize>,
    /// Tags to group by, by column number.
    pub group_by: Vec<usize>,
    /// Stretches of time to group by.
    pub buckets: Option<Buckets>,
    /// Whether the first and last values are wanted; footers of pages of several series don't do then when tags tell them apart.
    pub first_and_last: bool,
    /// The earliest time, in microseconds, inclusive.
    pub time_from: Option<i64>,
    /// The end of time, in microseconds, exclusive.
    pub time_until: Option<i64>,
    /// Tags that must have one of some values, as in [`crate::ScanRequest::tags`].
    pub tags: Vec<(String, Vec<String>)>,
    /// The cut: points of records below this offset only.
    pub until_offset: Option<Offset>,
    /// Whether to read all rows, as if footers said nothing: for measurements and tests.
    pub without_footers: bool,
}

/// The points of one group and stretch of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// The values of the tags grouped by.
    pub tags: Vec<Option<String>>,
    /// The start of the stretch; `None` without stretches.
    pub bucket: Option<i64>,
    /// Points.
    pub rows: u64,
    /// Each column asked for; `None` when no point has a value. Sums of floats add up in no certain order. Without
    /// [`AggregateRequest::first_and_last`], the first and last value mean nothing.
    pub columns: Vec<Option<ColumnSummary>>,
}

/// Runs a request over a state.
pub(crate) fn run(shared: &Shared, state: &State, request: &AggregateRequest) -> Result<Vec<Aggregate>, Error> {
    let layout = &state.layout;
    let place = |&column: &usize| layout.place(column);
    let fields = request.columns.iter().map(|column| match place(column)? {
        Place::Field(field, kind) => Ok((field, kind)),
        _ => Err(Error::InvalidRequest { detail: format!("column {column} is no field, so it can't be summed up") }),
    });
    let tags = request.group_by.iter().map(|column| match place(column)? {
        Place::Tag(tag) => Ok(tag),
        _ => Err(Error::InvalidRequest { detail: format!("column {column} is no tag, so points can't be grouped by it") }),
    });
    let (fields, tags) = (fields.collect::<Result<Vec<_>, Error>>()?, tags.collect::<Result<Vec<_>, Error>>()?);
    let times = (request.time_from, request.time_until);
    let Some(filter) = scan::filter(state, times, &request.tags, request.until_offset)? else { return Ok(Vec::new()) };
    let ranks = shared.ranks(&state.names);
    let mut summing = Summing {
        state,
        request,
        fields,
        tags,
        ranks: &ranks,
        overlaps_max: shared.options.overlaps_max,
        groups: Vec::new(),
        group_of: vec![NONE; state.names.series_count() as usize],
        group_numbers: HashMap::new(),
        cells: HashMap::new(),
        totals: Vec::new(),
        gather: Gather::default(),
        last: None,
    };
    let (runs, _) = scan::wanted_runs(state, &filter);
    for component in components(&runs.0) {
        summing.component(&component, &filter)?;
    }
    Ok(summing.finish())
}

const NONE: u32 = u32::MAX;

struct Total {
    group: u32,
    bucket: Option<i64>,
    rows: u64,
    columns: Vec<Option<Column>>,
}

/// A column so far, and the places of the series of its first and last value in the order of tags.
struct Column {
    summary: ColumnSummary,
    first_rank: u32,
    last_rank: u32,
}

struct Summing<'a> {
    state: &'a State,
    request: &'a AggregateRequest,
    fields: Vec<(u32, FieldKind)>,
    tags: Vec<usize>,
    ranks: &'a Ranks,
    overlaps_max: usize,
    /// The value numbers of each group's tags.
    groups: Vec<Vec<u32>>,
    group_of: Vec<u32>,
    group_numbers: HashMap<Vec<u32>, u32>,
    cells: HashMap<(u32, Option<i64>), usize>,
    totals: Vec<Total>,
    gather: Gather,
    last: Option<((u32, Option<i64>), usize)>,
}

impl Summing<'_> {
    fn component(&mut self, runs: &[Rc<Run>], filter: &Filter) -> Result<(), Error> {
        let needs_merge = runs.len() > 1 || runs.iter().any(|run| run.superseded());
        let merged = match needs_merge {
            true => overlaps(runs, self.ranks, filter.series.as_deref(), self.overlaps_max)?,
            false => Some(Vec::new()),
        };
        let Some(merged) = merged else {
            walk(runs, self.ranks, filter, Direction::Forward, self)?;
            return self.flush();
        };
        let mut skipped = Skipped::new();
        for piece in merged.iter().flat_map(|(_, pieces)| pieces) {
            skipped.entry((piece.run, piece.page)).or_default().push(piece.rows.clone());
        }
        skipped.values_mut().for_each(|rows| rows.sort_unstable_by_key(|rows| rows.start));
        for (number, run) in runs.iter().enumerate() {
            for page in (0..run.page_count()).filter(|&page| !filter.excludes(run.page_times(page), run.page_offsets(page).0)) {
                let skipped = skipped.get(&(number, page)).map_or(&[][..], Vec::as_slice);
                if skipped.iter().map(ExactSizeIterator::len).sum::<usize>() < run.page_rows(page).len() {
                    self.page(&run.page(page), filter, skipped)?;
                }
            }
            run.forget();
        }
        for (series, mut pieces) in merged {
            walk_series(runs, series, &mut pieces, filter, Direction::Forward, self)?;
        }
        self.flush()
    }

    fn page(&mut self, page: &Rc<Page>, filter: &Filter, skipped: &[Range<u32>]) -> Result<(), Error> {
        let mask = filter.select(page, skipped)?;
        let rows = page.run.page_rows(page.number).len();
        let selected = mask.as_ref().map_or(rows, BooleanBuffer::count_set_bits);
        if selected == 0 || (selected == rows && self.page_by_footer(page)?) {
            return Ok(());
        }
        let columns = self.fields.iter().map(|&(field, kind)| page.field(field, kind)).collect::<Result<Vec<_>, _>>()?;
        let series = page.series_of_rows()?;
        let Some(mask) = mask.filter(|_| selected < rows) else {
            return self.rows_of(&series, page.times()?, &columns);
        };
        let filter = FilterBuilder::new(&BooleanArray::new(mask, None)).optimize().build();
        let narrowed = |array: &ArrayRef| filter.filter(array);
        let columns = columns.iter().map(|array| array.as_ref().map(narrowed).transpose()).collect::<Result<Vec<_>, _>>()?;
        let series = filter.filter(&UInt32Array::from(series))?;
        let times = filter.filter(&time_array(page.times()?.clone()))?;
        let times = times.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().values();
        self.rows_of(series.as_primitive::<UInt32Type>().values(), times, &columns)
    }

    /// Sums up a whole page by what its footer says, if that is enough.
    fn page_by_footer(&mut self, page: &Page) -> Result<bool, Error> {
        let Some(summary) = page.run.summary(page.number).filter(|_| !self.request.without_footers) else { return Ok(false) };
        let bucket = self.request.buckets.map(|buckets| buckets.of(summary.time_min));
        if bucket.is_some_and(|(_, last)| summary.time_max > last) || (self.request.first_and_last && summary.series > 1) {
            return Ok(false);
        }
        let directory = page.run.directory()?;
        let mut entries = page.series()?.map(|(entry, _)| directory.series[entry]);
        let first = entries.next().expect("a page has rows");
        let group = self.group(first);
        if !self.tags.is_empty() && entries.any(|series| self.group(series) != group) {
            return Ok(false);
        }
        let rank = self.ranks.of(first);
        let at = self.cell(group, bucket.map(|(start, _)| start));
        self.totals[at].rows += u64::from(summary.rows);
        for (column, (field, _)) in self.fields.iter().enumerate() {
            if let Some(found) = summary.summary(*field) {
                add(&mut self.totals[at].columns[column], *found, rank);
            }
        }
        Ok(true)
    }

    /// Sums up rows in the order of series and time.
    fn rows_of(&mut self, series: &[u32], times: &[i64], columns: &[Option<ArrayRef>]) -> Result<(), Error> {
        let mut start = 0;
        for run in series.chunk_by(|a, b| a == b) {
            let (group, rank) = (self.group(run[0]), self.ranks.of(run[0]));
            let end = start + run.len();
            while start < end {
                let bucket = self.request.buckets.map(|buckets| buckets.of(times[start]));
                let stop = bucket.map_or(end, |(_, last)| start + times[start..end].partition_point(|&time| time <= last));
                let at = self.cell(group, bucket.map(|(start, _)| start));
                self.totals[at].rows += (stop - start) as u64;
                for (column, array) in columns.iter().enumerate() {
                    let found = array.as_ref().and_then(|array| summarize(array, start..stop, times));
                    if let Some(found) = found {
                        add(&mut self.totals[at].columns[column], found, rank);
                    }
                }
                start = stop;
            }
        }
        Ok(())
    }

    fn group(&mut self, series: u32) -> u32 {
        let known = self.group_of[series as usize];
        if known != NONE {
            return known;
        }
        let key: Vec<u32> = self.tags.iter().map(|&tag| self.state.names.code(series, tag)).collect();
        let next = logcore::types::len_u32(self.groups.len());
        let group = *self.group_numbers.entry(key).or_insert_with_key(|key| {
            self.groups.push(key.clone());
            next
        });
        self.group_of[series as usize] = group;
        group
    }

    fn cell(&mut self, group: u32, bucket: Option<i64>) -> usize {
        if let Some((_, at)) = self.last.filter(|(key, _)| *key == (group, bucket)) {
            return at;
        }
        let at = *self.cells.entry((group, bucket)).or_insert_with(|| {
            let columns = self.fields.iter().map(|_| None).collect();
            self.totals.push(Total { group, bucket, rows: 0, columns });
            self.totals.len() - 1
        });
        self.last = Some(((group, bucket), at));
        at
    }

    fn flush(&mut self) -> Result<(), Error> {
        let gather = std::mem::take(&mut self.gather);
        let columns = self.fields.iter().map(|&(field, kind)| gather.field(field, kind)).collect::<Result<Vec<_>, _>>()?;
        self.rows_of(gather.series(), &gather.times()?, &columns)
    }

    fn finish(self) -> Vec<Aggregate> {
        let names = &self.state.names;
        let tags: Vec<Vec<Option<String>>> =
            self.groups.iter().map(|key| key.iter().map(|&code| names.text(code).map(str::to_owned)).collect()).collect();
        let all = self.totals.into_iter().map(|total| Aggregate {
            tags: tags[total.group as usize].clone(),
            bucket: total.bucket,
            rows: total.rows,
            columns: total.columns.into_iter().map(|column| column.map(|column| column.summary)).collect(),
        });
        all.collect()
    }
}

impl Sink for Summing<'_> {
    fn rows(&mut self, page: &Rc<Page>, series: u32, rows: Range<u32>) -> Result<Flow, Error> {
        self.gather.push(page, series, rows);
        if self.gather.rows() >= ROWS {
            self.flush()?;
        }
        Ok(Flow::On)
    }

    fn versions(&mut self, series: u32, _: i64, versions: &[Version]) -> Result<Flow, Error> {
        let newest_first: Vec<_> = versions.iter().rev().map(|version| (Rc::clone(&version.page), version.row)).collect();
        self.gather.push_merged(series, &newest_first);
        if self.gather.rows() >= ROWS {
            self.flush()?;
        }
        Ok(Flow::On)
    }
}

/// Sums up rows of one series, which are in the order of time.
fn summarize(array: &ArrayRef, rows: Range<usize>, times: &[i64]) -> Option<ColumnSummary> {
    match array.data_type() {
        arrow::datatypes::DataType::Float64 => {
            let array = array.as_primitive::<Float64Type>();
            if array.null_count() == 0 {
                return Some(ColumnSummary::Float(floats(&array.values()[rows.clone()], &times[rows])));
            }
            numbers(array, rows, times, least, greatest, |sum: f64, value| sum + value).map(ColumnSummary::Float)
        }
        arrow::datatypes::DataType::Int64 => {
            let add = |sum: i128, value| sum + i128::from(value);
            numbers(array.as_primitive::<Int64Type>(), rows, times, i64::min, i64::max, add).map(ColumnSummary::Integer)
        }
        _ => {
            let count = rows.filter(|&row| array.is_valid(row)).count() as u64;
            (count > 0).then_some(ColumnSummary::Other { count })
        }
    }
}

fn least(a: f64, b: f64) -> f64 {
    if b.total_cmp(&a).is_lt() { b } else { a }
}

fn greatest(a: f64, b: f64) -> f64 {
    if b.total_cmp(&a).is_gt() { b } else { a }
}

/// Floats without nulls, at least one. Several at a time, which the order of sums leaves free.
fn floats(values: &[f64], times: &[i64]) -> NumberSummary<f64, f64> {
    const LANES: usize = 8;
    let (first, last) = ((times[0], values[0]), (times[times.len() - 1], values[values.len() - 1]));
    let (mut sums, mut mins, mut maxs) = ([0.0; LANES], [values[0]; LANES], [values[0]; LANES]);
    let (parts, rest) = values.as_chunks::<LANES>();
    for part in parts {
        for lane in 0..LANES {
            sums[lane] += part[lane];
            mins[lane] = if part[lane] < mins[lane] { part[lane] } else { mins[lane] };
            maxs[lane] = if part[lane] > maxs[lane] { part[lane] } else { maxs[lane] };
        }
    }
    let sum = rest.iter().fold(sums.iter().sum(), |sum: f64, value| sum + value);
    let mut min = rest.iter().copied().chain(mins).fold(values[0], least);
    let mut max = rest.iter().copied().chain(maxs).fold(values[0], greatest);
    // Comparing as above takes no account of NaN and of the sign of zero.
    if sum.is_nan() || min == 0.0 || max == 0.0 {
        (min, max) = (values.iter().copied().fold(values[0], least), values.iter().copied().fold(values[0], greatest));
    }
    NumberSummary { count: values.len() as u64, min, max, sum, first, last }
}

fn numbers<T: ArrowPrimitiveType, S: Copy + Default>(
    array: &PrimitiveArray<T>,
    rows: Range<usize>,
    times: &[i64],
    min: impl Fn(T::Native, T::Native) -> T::Native,
    max: impl Fn(T::Native, T::Native) -> T::Native,
    add: impl Fn(S, T::Native) -> S,
) -> Option<NumberSummary<T::Native, S>> {
    let values = array.values();
    let is_valid = |row: &usize| array.is_valid(*row);
    let (first, last) = (rows.clone().find(is_valid)?, rows.clone().rev().find(is_valid)?);
    let (first, last) = ((times[first], values[first]), (times[last], values[last]));
    let start = NumberSummary { count: 0, min: first.1, max: first.1, sum: S::default(), first, last };
    let step = |so_far: NumberSummary<T::Native, S>, value: T::Native| NumberSummary {
        count: so_far.count + 1,
        min: min(so_far.min, value),
        max: max(so_far.max, value),
        sum: add(so_far.sum, value),
        ..so_far
    };
    Some(match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => values[rows].iter().copied().fold(start, step),
        Some(nulls) => rows.filter(|&row| nulls.is_valid(row)).fold(start, |so_far, row| step(so_far, values[row])),
    })
}

/// Adds to a column what was found in the series at `rank` in the order of tags.
fn add(column: &mut Option<Column>, found: ColumnSummary, rank: u32) {
    let Some(column) = column else {
        *column = Some(Column { summary: found, first_rank: rank, last_rank: rank });
        return;
    };
    let Column { summary, first_rank, last_rank } = column;
    match (summary, found) {
        (ColumnSummary::Float(all), ColumnSummary::Float(found)) => {
            let least = if found.min.total_cmp(&all.min).is_lt() { found.min } else { all.min };
            let greatest = if found.max.total_cmp(&all.max).is_gt() { found.max } else { all.max };
            join(all, &found, (least, greatest, all.sum + found.sum), (first_rank, last_rank), rank);
        }
        (ColumnSummary::Integer(all), ColumnSummary::Integer(found)) => {
            let bounds = (all.min.min(found.min), all.max.max(found.max), all.sum + found.sum);
            join(all, &found, bounds, (first_rank, last_rank), rank);
        }
        (ColumnSummary::Other { count }, found) => *count += found.count(),
        (ColumnSummary::Float(_) | ColumnSummary::Integer(_), _) => {}
    }
}

fn join<T: Copy, S: Copy>(
    all: &mut NumberSummary<T, S>,
    found: &NumberSummary<T, S>,
    (min, max, sum): (T, T, S),
    (first_rank, last_rank): (&mut u32, &mut u32),
    rank: u32,
) {
    (all.min, all.max, all.sum) = (min, max, sum);
    all.count += found.count;
    if (found.first.0, rank) < (all.first.0, *first_rank) {
        (all.first, *first_rank) = (found.first, rank);
    }
    if (found.last.0, rank) > (all.last.0, *last_rank) {
        (all.last, *last_rank) = (found.last, rank);
    }
}
