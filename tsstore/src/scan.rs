//! Scans: which pages and blocks a request touches, and which of their rows.
//!
//! Called by [`crate::SeriesSnapshot::scan`]. A page is first judged by what its footer says: it is left out, or taken whole, or
//! has to be filtered. Only then are columns read: those that filters still need, then, if any row is left, those asked for.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::compute::FilterBuilder;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use logcore::Offset;

use crate::chunk::column;
use crate::chunk::open::OpenBlock;
use crate::chunk::page::{ColumnSummary, PageSummary};
use crate::chunk::sealed::SealedChunk;
use crate::error::Error;
use crate::schema::Layout;
use crate::series::State;

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
    /// At most so many points, whichever.
    pub limit: Option<usize>,
    /// The cut: points of records below this offset only.
    pub until_offset: Option<Offset>,
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
            limit: None,
            until_offset: None,
            batch_rows: 8192,
        }
    }
}

/// What a scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Pages of chunk files of which something was read.
    pub pages_read: u64,
    /// Pages of chunk files left out because their footer said that nothing in them is wanted.
    pub pages_pruned: u64,
    /// Points given out.
    pub points: u64,
}

/// Runs a request over a state.
pub(crate) fn run(
    layout: &Layout,
    state: &State,
    request: &ScanRequest,
    emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>,
) -> Result<ScanStats, Error> {
    let tags = request.tags.iter().map(|(name, values)| Ok((layout.tag(name)?, values.as_slice())));
    let mut scan = Scan {
        layout,
        request,
        schema: layout.project(&request.projection)?,
        tags: tags.collect::<Result<_, Error>>()?,
        until_offset: request.until_offset.map_or(u64::MAX, Offset::value),
        left: request.limit.unwrap_or(usize::MAX),
        stats: ScanStats::default(),
        emit,
    };
    let sealed = state.sealed.iter().flat_map(|chunk| chunk.pages.iter().map(|page| Source::Sealed(chunk, page)));
    let open = state.open.iter().map(|block| Source::Open(block));
    for source in sealed.chain(open) {
        if scan.left == 0 || scan.source(&source)?.is_break() {
            break;
        }
    }
    Ok(scan.stats)
}

/// A page of a file or a block in memory.
enum Source<'a> {
    Sealed(&'a SealedChunk, &'a PageSummary),
    Open(&'a OpenBlock),
}

impl Source<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::Sealed(_, page) => page.rows as usize,
            Self::Open(block) => block.rows(),
        }
    }

    /// The least and the greatest, inclusive.
    fn times(&self) -> (i64, i64) {
        match self {
            Self::Sealed(_, page) => (page.time_min, page.time_max),
            Self::Open(block) => (block.time_min, block.time_max),
        }
    }

    /// The lowest and the highest, inclusive.
    fn offset_range(&self) -> (u64, u64) {
        match self {
            Self::Sealed(_, page) => (page.offset_min.value(), page.offset_max.value()),
            Self::Open(block) => (block.offset_min, block.offset_max),
        }
    }

    fn judge_tag(&self, column: usize, wanted: &[String]) -> Verdict {
        let Self::Sealed(_, page) = self else { return Verdict::Filter };
        let ColumnSummary::Tag(Some(tag)) = &page.columns[column] else { return Verdict::Filter };
        let hits = tag.values.iter().filter(|value| wanted.contains(value)).count();
        if hits == 0 {
            Verdict::Nothing
        } else if hits == tag.values.len() && !tag.nulls {
            Verdict::All
        } else {
            Verdict::Filter
        }
    }

    fn column(&self, column: usize) -> Result<ArrayRef, Error> {
        match self {
            Self::Sealed(chunk, page) => chunk.column(page, column),
            Self::Open(block) => Ok(Arc::clone(&block.columns[column])),
        }
    }

    fn membership(&self, column: usize, wanted: &[String]) -> Result<BooleanBuffer, Error> {
        match self {
            Self::Sealed(chunk, page) => chunk.membership(page, column, wanted),
            Self::Open(block) => Ok(column::membership(block.columns[column].as_string(), wanted)),
        }
    }

    fn below(&self, until: u64) -> Result<BooleanBuffer, Error> {
        let mask = |offsets: &[u64]| BooleanBuffer::collect_bool(offsets.len(), |row| offsets[row] < until);
        match self {
            Self::Sealed(chunk, page) => Ok(mask(&chunk.offsets(page)?)),
            Self::Open(block) => Ok(mask(&block.offsets)),
        }
    }
}

/// What a filter does to a source, as far as its ranges tell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Nothing,
    All,
    Filter,
}

/// The filters that a source's ranges leave open.
struct Filters<'a> {
    time: bool,
    offset: bool,
    tags: Vec<(usize, &'a [String])>,
}

impl Filters<'_> {
    fn any(&self) -> bool {
        self.time || self.offset || !self.tags.is_empty()
    }
}

struct Scan<'a> {
    layout: &'a Layout,
    request: &'a ScanRequest,
    schema: SchemaRef,
    tags: Vec<(usize, &'a [String])>,
    until_offset: u64,
    left: usize,
    stats: ScanStats,
    emit: &'a mut dyn FnMut(RecordBatch) -> ControlFlow<()>,
}

impl<'a> Scan<'a> {
    fn source(&mut self, source: &Source<'_>) -> Result<ControlFlow<()>, Error> {
        let sealed = u64::from(matches!(source, Source::Sealed(..)));
        let Some(filters) = self.judge(source) else {
            self.stats.pages_pruned += sealed;
            return Ok(ControlFlow::Continue(()));
        };
        if filters.any() || !self.request.projection.is_empty() {
            self.stats.pages_read += sealed;
        }
        let mut known = BTreeMap::new();
        let mask = self.select(source, &filters, &mut known)?;
        let rows = mask.as_ref().map_or(source.rows(), BooleanBuffer::count_set_bits);
        if rows == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let mut columns = Vec::with_capacity(self.request.projection.len());
        for &index in &self.request.projection {
            let column = match known.get(&index) {
                Some(column) => Arc::clone(column),
                None => source.column(index)?,
            };
            columns.push(Arc::clone(known.entry(index).or_insert(column)));
        }
        if let Some(mask) = mask.filter(|_| rows < source.rows()) {
            let filter = FilterBuilder::new(&BooleanArray::new(mask, None)).optimize().build();
            columns = columns.iter().map(|column| filter.filter(column)).collect::<Result<_, ArrowError>>()?;
        }
        self.give_out(&columns, rows)
    }

    /// What is left to filter by, or `None` when no row can pass.
    fn judge(&self, source: &Source<'_>) -> Option<Filters<'a>> {
        let (time_min, time_max) = source.times();
        let (offset_min, offset_max) = source.offset_range();
        let from = self.request.time_from.unwrap_or(i64::MIN);
        let ends = |time| self.request.time_until.is_some_and(|until| time >= until);
        if time_max < from || ends(time_min) || offset_min >= self.until_offset {
            return None;
        }
        let mut tags = Vec::new();
        for &(column, wanted) in &self.tags {
            match source.judge_tag(column, wanted) {
                Verdict::Nothing => return None,
                Verdict::All => {}
                Verdict::Filter => tags.push((column, wanted)),
            }
        }
        Some(Filters { time: time_min < from || ends(time_max), offset: offset_max >= self.until_offset, tags })
    }

    /// The rows that pass; `None` when all do. Columns read on the way are kept in `known`.
    fn select(
        &self,
        source: &Source<'_>,
        filters: &Filters<'_>,
        known: &mut BTreeMap<usize, ArrayRef>,
    ) -> Result<Option<BooleanBuffer>, Error> {
        let mut selected: Option<BooleanBuffer> = None;
        let both = |selected: Option<BooleanBuffer>, mask: BooleanBuffer| {
            Some(match selected {
                Some(selected) => &selected & &mask,
                None => mask,
            })
        };
        if filters.time {
            let column = source.column(self.layout.time)?;
            selected = both(selected, self.within(&column));
            known.insert(self.layout.time, column);
        }
        if filters.offset {
            selected = both(selected, source.below(self.until_offset)?);
        }
        for &(column, wanted) in &filters.tags {
            selected = both(selected, source.membership(column, wanted)?);
        }
        Ok(selected)
    }

    fn within(&self, times: &ArrayRef) -> BooleanBuffer {
        let times = times.as_primitive::<TimestampMicrosecondType>().values();
        let from = self.request.time_from.unwrap_or(i64::MIN);
        match self.request.time_until {
            Some(until) => BooleanBuffer::collect_bool(times.len(), |row| (times[row] >= from) & (times[row] < until)),
            None => BooleanBuffer::collect_bool(times.len(), |row| times[row] >= from),
        }
    }

    fn give_out(&mut self, columns: &[ArrayRef], rows: usize) -> Result<ControlFlow<()>, Error> {
        let rows = rows.min(self.left);
        let mut start = 0;
        while start < rows {
            let len = self.request.batch_rows.max(1).min(rows - start);
            let slices = columns.iter().map(|column| column.slice(start, len)).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(len));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), slices, &options)?;
            start += len;
            self.left -= len;
            self.stats.points += len as u64;
            if (self.emit)(batch).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
