//! Scans: which pages and blocks a request touches, and which of their rows.
//!
//! Called by [`crate::SeriesSnapshot::scan`]. Files and blocks are first judged by their ranges, then those that overlap in time are
//! looked at series by series. What overlaps nothing, almost everything, is read page by page: a page is left out, taken whole or
//! filtered, and only the columns asked for are decoded. What does overlap is merged. A scan that asks for an order walks over
//! everything in that order.

use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::FilterBuilder;
use arrow::datatypes::{SchemaRef, UInt32Type};
use arrow::error::ArrowError;
use logcore::Offset;

use crate::change::inclusive;
use crate::chunk::page::ColumnSummary;
use crate::error::Error;
use crate::read::filter::Filter;
use crate::read::gather::{Gather, tag_array, time_array};
use crate::read::overlap::{components, overlaps};
use crate::read::run::{Page, Run, Runs};
use crate::read::walk::{Direction, Flow, Sink, Version, walk, walk_series};
use crate::schema::{FieldKind, Place};
use crate::series::{Shared, State};

/// In which order points come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScanOrder {
    /// Whichever is fastest.
    #[default]
    None,
    /// By the tags in their order, none first, then by time.
    SeriesTime,
    /// By the tags in their order, none first, then the newest first.
    SeriesNewest,
}

/// A bound of a number field. A page whose values all lie outside is left out; the points of other pages may lie outside, too,
/// and are for the caller to filter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FieldBound {
    /// The column, by number.
    pub column: usize,
    /// The least value wanted, inclusive.
    pub at_least: Option<f64>,
    /// The greatest value wanted, inclusive.
    pub at_most: Option<f64>,
}

/// Which points, and which columns of them. The default asks for the number of all points.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// Columns of the table, by number, in the order wanted; none to count points by the rows of empty batches.
    pub projection: Vec<usize>,
    /// The earliest time, in microseconds, inclusive.
    pub time_from: Option<i64>,
    /// The end of time, in microseconds, exclusive.
    pub time_until: Option<i64>,
    /// Tags that must have one of some values; all of them must. A point without the tag has none of them.
    pub tags: Vec<(String, Vec<String>)>,
    /// Points that lie outside of these bounds need not be given out; a point without the field lies outside.
    pub bounds: Vec<FieldBound>,
    /// At most so many points, whichever, or the first in the order.
    pub limit: Option<usize>,
    /// The cut: points of records below this offset only.
    pub until_offset: Option<Offset>,
    /// In which order.
    pub order: ScanOrder,
    /// Tags as `Dictionary(UInt32, Utf8)` instead of `Utf8`.
    pub tags_as_dictionaries: bool,
    /// No batch has more rows; 0 counts as 1.
    pub batch_rows: usize,
}

impl Default for ScanRequest {
    fn default() -> Self {
        Self {
            projection: Vec::new(),
            time_from: None,
            time_until: None,
            tags: Vec::new(),
            bounds: Vec::new(),
            limit: None,
            until_offset: None,
            order: ScanOrder::None,
            tags_as_dictionaries: false,
            batch_rows: 8192,
        }
    }
}

/// Of which series the newest point is wanted, and which columns of it.
#[derive(Clone, Debug, Default)]
pub struct LastRequest {
    /// Columns of the table, by number, in the order wanted.
    pub projection: Vec<usize>,
    /// Tags that must have one of some values, as in [`ScanRequest::tags`].
    pub tags: Vec<(String, Vec<String>)>,
    /// The end of time, in microseconds, exclusive: the newest point before.
    pub time_until: Option<i64>,
    /// The cut: points of records below this offset only.
    pub until_offset: Option<Offset>,
    /// Tags as `Dictionary(UInt32, Utf8)` instead of `Utf8`.
    pub tags_as_dictionaries: bool,
}

/// What a scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Pages of chunk files of which something was read, but for those that had to be merged.
    pub pages_read: u64,
    /// Pages of chunk files left out because their footer said that nothing in them is wanted.
    pub pages_pruned: u64,
    /// Points given out.
    pub points: u64,
}

/// The filter of a request; `None` when it wants no time at all.
pub(crate) fn filter(
    state: &State,
    times: (Option<i64>, Option<i64>),
    tags: &[(String, Vec<String>)],
    until_offset: Option<Offset>,
) -> Result<Option<Filter>, Error> {
    let layout = &state.layout;
    let resolve =
        |(name, values): &(String, Vec<String>)| Ok((layout.tag(name)?, values.iter().cloned().map(Some).collect::<Vec<_>>()));
    let tags = tags.iter().map(resolve).collect::<Result<Vec<_>, Error>>()?;
    let until = until_offset.unwrap_or(state.offset).min(state.offset);
    if until.value() < state.exact_from {
        return Err(Error::PastNotKept { asked: until, kept_from: Offset::new(state.exact_from) });
    }
    let Some(range) = inclusive(times.0, times.1) else { return Ok(None) };
    let series = (!tags.is_empty()).then(|| state.names.matching(&tags));
    // At the state's end nothing is cut off, so offsets need not be looked at.
    let until = if until == state.offset { u64::MAX } else { until.value() };
    let tombstones = state.tombstones.iter().filter(|tombstone| tombstone.from <= range.1 && range.0 <= tombstone.last);
    Ok(Some(Filter::new(range, until, series, layout.duplicates, tombstones, &state.names)))
}

/// The runs that a filter leaves, and how many pages of the others there are.
pub(crate) fn wanted_runs(state: &State, filter: &Filter) -> (Runs, u64) {
    let (mut runs, mut pruned) = (Vec::new(), 0);
    for run in Run::all(state) {
        if filter.excludes(run.times(), run.offsets().0) {
            pruned += if run.is_sealed() { run.page_count() as u64 } else { 0 };
        } else {
            runs.push(run);
        }
    }
    (Runs(runs), pruned)
}

/// Runs a request over a state.
pub(crate) fn run(
    shared: &Shared,
    state: &State,
    request: &ScanRequest,
    emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>,
) -> Result<ScanStats, Error> {
    let (places, schema) = state.layout.project(&request.projection, request.tags_as_dictionaries)?;
    let bounds = request.bounds.iter().map(|bound| Ok((state.layout.place(bound.column)?, *bound)));
    let bounds = bounds.collect::<Result<Vec<_>, Error>>()?;
    let Some(filter) = filter(state, (request.time_from, request.time_until), &request.tags, request.until_offset)? else {
        return Ok(ScanStats::default());
    };
    let mut output = Output {
        state,
        schema,
        places,
        tags_as_dictionaries: request.tags_as_dictionaries,
        batch_rows: request.batch_rows.max(1),
        left: request.limit.unwrap_or(usize::MAX),
        stats: ScanStats::default(),
        gather: Gather::default(),
        backward: request.order == ScanOrder::SeriesNewest,
        one_per_series: false,
        emit,
    };
    let (runs, pruned) = wanted_runs(state, &filter);
    output.stats.pages_pruned = pruned;
    if request.order == ScanOrder::None {
        for component in components(&runs.0) {
            if output.component(shared, &component, &filter, &bounds)? == Flow::End {
                break;
            }
        }
    } else {
        let direction = if output.backward { Direction::Backward } else { Direction::Forward };
        walk(&runs.0, &shared.ranks(&state.names), &filter, direction, &mut output)?;
        output.flush()?;
    }
    Ok(output.stats)
}

/// The newest point of each series.
pub(crate) fn last_values(
    shared: &Shared,
    state: &State,
    request: &LastRequest,
    emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>,
) -> Result<ScanStats, Error> {
    let (places, schema) = state.layout.project(&request.projection, request.tags_as_dictionaries)?;
    let Some(filter) = filter(state, (None, request.time_until), &request.tags, request.until_offset)? else {
        return Ok(ScanStats::default());
    };
    let mut output = Output {
        state,
        schema,
        places,
        tags_as_dictionaries: request.tags_as_dictionaries,
        batch_rows: ScanRequest::default().batch_rows,
        left: usize::MAX,
        stats: ScanStats::default(),
        gather: Gather::default(),
        backward: true,
        one_per_series: true,
        emit,
    };
    let (runs, _) = wanted_runs(state, &filter);
    walk(&runs.0, &shared.ranks(&state.names), &filter, Direction::Backward, &mut output)?;
    output.flush()?;
    Ok(output.stats)
}

struct Output<'a> {
    state: &'a State,
    schema: SchemaRef,
    places: Vec<Place>,
    tags_as_dictionaries: bool,
    batch_rows: usize,
    left: usize,
    stats: ScanStats,
    gather: Gather,
    backward: bool,
    one_per_series: bool,
    emit: &'a mut dyn FnMut(RecordBatch) -> ControlFlow<()>,
}

/// Rows of pages, by run and page, that are merged and so not read with their page.
pub(crate) type Skipped = HashMap<(usize, usize), Vec<Range<u32>>>;

impl Output<'_> {
    fn component(
        &mut self,
        shared: &Shared,
        runs: &[Rc<Run>],
        filter: &Filter,
        bounds: &[(Place, FieldBound)],
    ) -> Result<Flow, Error> {
        let needs_merge = runs.len() > 1 || runs.iter().any(|run| run.superseded());
        let ranks = shared.ranks(&self.state.names);
        let merged = match needs_merge {
            true => overlaps(runs, &ranks, filter.series.as_deref(), shared.options.overlaps_max)?,
            false => Some(Vec::new()),
        };
        let Some(merged) = merged else {
            return match walk(runs, &ranks, filter, Direction::Forward, self)? {
                Flow::End => Ok(Flow::End),
                _ => self.flush(),
            };
        };
        let mut skipped = Skipped::new();
        for piece in merged.iter().flat_map(|(_, pieces)| pieces) {
            skipped.entry((piece.run, piece.page)).or_default().push(piece.rows.clone());
        }
        skipped.values_mut().for_each(|rows| rows.sort_unstable_by_key(|rows| rows.start));
        for (number, run) in runs.iter().enumerate() {
            for page in 0..run.page_count() {
                let skipped = skipped.get(&(number, page)).map_or(&[][..], Vec::as_slice);
                if self.left == 0 || self.page(run, page, filter, bounds, skipped)? == Flow::End {
                    return Ok(Flow::End);
                }
            }
            run.forget();
        }
        for (series, mut pieces) in merged {
            if self.left == 0 || walk_series(runs, series, &mut pieces, filter, Direction::Forward, self)? == Flow::End {
                return Ok(Flow::End);
            }
        }
        self.flush()
    }

    fn page(
        &mut self,
        run: &Rc<Run>,
        number: usize,
        filter: &Filter,
        bounds: &[(Place, FieldBound)],
        skipped: &[Range<u32>],
    ) -> Result<Flow, Error> {
        let sealed = u64::from(run.is_sealed());
        let is_excluded = filter.excludes(run.page_times(number), run.page_offsets(number).0);
        let is_outside = |(place, bound): &(Place, FieldBound)| is_outside(run, number, *place, bound);
        if is_excluded || bounds.iter().any(is_outside) {
            self.stats.pages_pruned += sealed;
            return Ok(Flow::On);
        }
        let rows = run.page_rows(number).len();
        let skipped_rows: usize = skipped.iter().map(ExactSizeIterator::len).sum();
        if skipped_rows == rows {
            return Ok(Flow::On);
        }
        let page = run.page(number);
        let mask = filter.select(&page, skipped)?;
        let selected = mask.as_ref().map_or(rows, BooleanBuffer::count_set_bits);
        if selected == 0 {
            self.stats.pages_pruned += sealed;
            return Ok(Flow::On);
        }
        if mask.is_some() || !self.places.is_empty() {
            self.stats.pages_read += sealed;
        }
        let columns = self.columns(&page, mask.filter(|_| selected < rows))?;
        self.give_out(&columns, selected)
    }

    fn columns(&self, page: &Page, mask: Option<BooleanBuffer>) -> Result<Vec<ArrayRef>, Error> {
        let rows = page.run.page_rows(page.number).len();
        let filter = mask.map(|mask| FilterBuilder::new(&BooleanArray::new(mask, None)).optimize().build());
        let narrowed = |array: ArrayRef| -> Result<ArrayRef, ArrowError> {
            filter.as_ref().map_or(Ok(Arc::clone(&array)), |filter| filter.filter(&array))
        };
        let mut series: Option<Vec<u32>> = None;
        let mut columns = Vec::with_capacity(self.places.len());
        for place in &self.places {
            columns.push(match *place {
                Place::Time => narrowed(time_array(page.times()?.clone()))?,
                Place::Field(field, kind) => match page.field(field, kind)? {
                    Some(array) => narrowed(array)?,
                    None => narrowed(new_null_array(&kind.data_type(), rows))?,
                },
                Place::Tag(tag) => {
                    if series.is_none() {
                        let all = narrowed(Arc::new(UInt32Array::from(page.series_of_rows()?)))?;
                        let all = arrow::array::AsArray::as_primitive::<UInt32Type>(&all);
                        series = Some(all.values().to_vec());
                    }
                    tag_array(&self.state.names, tag, series.as_deref().unwrap_or(&[]), self.tags_as_dictionaries)
                }
            });
        }
        Ok(columns)
    }

    fn give_out(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Flow, Error> {
        let rows = rows.min(self.left);
        let mut start = 0;
        while start < rows {
            let len = self.batch_rows.min(rows - start);
            let slices = columns.iter().map(|column| column.slice(start, len)).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(len));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), slices, &options)?;
            start += len;
            self.left -= len;
            self.stats.points += len as u64;
            if (self.emit)(batch).is_break() {
                return Ok(Flow::End);
            }
        }
        Ok(if self.left == 0 { Flow::End } else { Flow::On })
    }

    fn flush(&mut self) -> Result<Flow, Error> {
        if self.gather.rows() == 0 {
            return Ok(Flow::On);
        }
        let mut known: BTreeMap<usize, ArrayRef> = BTreeMap::new();
        let mut columns = Vec::with_capacity(self.places.len());
        for (at, place) in self.places.iter().enumerate() {
            let before = self.places[..at].iter().position(|known| known == place);
            let array = match before.and_then(|before| known.get(&before)) {
                Some(array) => Arc::clone(array),
                None => self.gather.column(*place, &self.state.names, self.tags_as_dictionaries)?,
            };
            known.insert(at, Arc::clone(&array));
            columns.push(array);
        }
        let rows = self.gather.rows();
        self.gather.clear();
        self.give_out(&columns, rows)
    }

    fn flush_when_full(&mut self) -> Result<Flow, Error> {
        if self.gather.rows() >= self.batch_rows.min(self.left) {
            return self.flush();
        }
        Ok(if self.one_per_series { Flow::NextSeries } else { Flow::On })
    }
}

impl Sink for Output<'_> {
    fn rows(&mut self, page: &Rc<Page>, series: u32, rows: Range<u32>) -> Result<Flow, Error> {
        if self.one_per_series {
            self.gather.push(page, series, rows.end - 1..rows.end);
            return match self.flush_when_full()? {
                Flow::End => Ok(Flow::End),
                _ => Ok(Flow::NextSeries),
            };
        }
        if self.backward {
            for row in rows.rev() {
                self.gather.push(page, series, row..row + 1);
                if self.flush_when_full()? == Flow::End {
                    return Ok(Flow::End);
                }
            }
            return Ok(Flow::On);
        }
        let mut rest = rows;
        while !rest.is_empty() {
            let room = self.batch_rows.saturating_sub(self.gather.rows()).max(1);
            let end = rest.end.min(rest.start.saturating_add(u32::try_from(room).unwrap_or(u32::MAX)));
            self.gather.push(page, series, rest.start..end);
            rest.start = end;
            if self.flush_when_full()? == Flow::End {
                return Ok(Flow::End);
            }
        }
        Ok(Flow::On)
    }

    fn versions(&mut self, series: u32, _: i64, versions: &[Version]) -> Result<Flow, Error> {
        let newest_first: Vec<_> = versions.iter().rev().map(|version| (Rc::clone(&version.page), version.row)).collect();
        self.gather.push_merged(series, &newest_first);
        match self.flush_when_full()? {
            Flow::End => Ok(Flow::End),
            _ if self.one_per_series => Ok(Flow::NextSeries),
            other => Ok(other),
        }
    }
}

/// Whether a page has no value within a bound.
fn is_outside(run: &Run, page: usize, place: Place, bound: &FieldBound) -> bool {
    let Place::Field(field, FieldKind::Float | FieldKind::Integer) = place else { return false };
    let (min, max) = match run.field_summary(page, field) {
        None => return false,
        Some(None) => return true,
        Some(Some(ColumnSummary::Float(numbers))) => (numbers.min, numbers.max),
        Some(Some(ColumnSummary::Integer(numbers))) => (rounded(numbers.min), rounded(numbers.max)),
        Some(Some(ColumnSummary::Other { .. })) => return false,
    };
    // NaN is neither below nor above anything: such pages stay.
    bound.at_least.is_some_and(|least| max < least) || bound.at_most.is_some_and(|most| min > most)
}

/// An integer as a float: rounding keeps the order.
pub(crate) fn rounded(value: i64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "bounds are compared as floats, and rounding keeps the order")]
    let float = value as f64;
    float
}
