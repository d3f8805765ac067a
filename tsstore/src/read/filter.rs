//! Which points are wanted: by time, offset and tags, and not deleted.

use arrow::buffer::BooleanBuffer;

use super::run::{Page, Run};
use crate::change::Tombstone;
use crate::error::Error;
use crate::names::Names;
use crate::schema::Duplicates;

/// What every reader filters by.
pub(crate) struct Filter {
    /// The earliest time.
    pub from: i64,
    /// The latest time, inclusive.
    pub last: i64,
    /// Offsets below only.
    pub until_offset: u64,
    /// Which series; `None` for all.
    pub series: Option<Vec<bool>>,
    /// What points of the same tags and time are.
    pub duplicates: Duplicates,
    deletes: Vec<Hiding>,
}

/// A delete that hides points at the offset read at.
struct Hiding {
    tombstone: Tombstone,
    series: Option<Vec<bool>>,
}

impl Hiding {
    fn hides(&self, series: u32, time: i64, offset: u64) -> bool {
        offset < self.tombstone.offset
            && (self.tombstone.from..=self.tombstone.last).contains(&time)
            && self.series.as_ref().is_none_or(|series_of| series_of.get(series as usize).copied().unwrap_or(false))
    }
}

impl Filter {
    /// `tombstones` are those that may hide something.
    pub fn new<'a>(
        (from, last): (i64, i64),
        until_offset: u64,
        series: Option<Vec<bool>>,
        duplicates: Duplicates,
        tombstones: impl Iterator<Item = &'a Tombstone>,
        names: &Names,
    ) -> Self {
        let deletes = tombstones.filter(|tombstone| tombstone.offset < until_offset).map(|tombstone| Hiding {
            series: (!tombstone.tags.is_empty()).then(|| names.matching(&tombstone.tags)),
            tombstone: tombstone.clone(),
        });
        Self { from, last, until_offset, series, duplicates, deletes: deletes.collect() }
    }

    /// Whether a run has nothing that is wanted, as far as its ranges tell.
    pub fn excludes(&self, (time_min, time_max): (i64, i64), offset_min: u64) -> bool {
        time_max < self.from || time_min > self.last || offset_min >= self.until_offset
    }

    pub fn wants_series(&self, series: u32) -> bool {
        self.series.as_ref().is_none_or(|wanted| wanted[series as usize])
    }

    /// The deletes that may hide rows of these ranges in a run.
    fn hiding(&self, run: &Run, times: (i64, i64), offset_min: u64) -> impl Iterator<Item = &Hiding> {
        let applied = run.deletes_applied();
        let may_hide = move |hiding: &&Hiding| hiding.tombstone.offset >= applied && hiding.tombstone.may_hide(times, offset_min);
        self.deletes.iter().filter(may_hide)
    }

    /// Whether rows of one series with these times have to be looked at one by one.
    pub fn cuts(&self, run: &Run, page: usize, (time_min, time_max): (i64, i64)) -> bool {
        let (offset_min, offset_max) = run.page_offsets(page);
        time_min < self.from
            || time_max > self.last
            || offset_max >= self.until_offset
            || self.hiding(run, (time_min, time_max), offset_min).next().is_some()
    }

    /// Whether a point is wanted, but for its series.
    pub fn wants(&self, run: &Run, series: u32, time: i64, offset: u64) -> bool {
        let applied = run.deletes_applied();
        (self.from..=self.last).contains(&time)
            && offset < self.until_offset
            && !self.deletes.iter().any(|hiding| hiding.tombstone.offset >= applied && hiding.hides(series, time, offset))
    }

    /// The rows of a page that are wanted, without those of `skipped`, which are rows of the page in order; `None` for all.
    pub fn select(&self, page: &Page, skipped: &[std::ops::Range<u32>]) -> Result<Option<BooleanBuffer>, Error> {
        let (run, number) = (&page.run, page.number);
        let rows = run.page_rows(number).len();
        let mut mask: Option<BooleanBuffer> = None;
        let mut and = |more: BooleanBuffer| {
            mask = Some(match mask.take() {
                Some(mask) => &mask & &more,
                None => more,
            });
        };
        if !skipped.is_empty() {
            and(of_ranges(rows, complement(rows, skipped)));
        }
        if self.series.is_some() {
            let directory = run.directory()?;
            let wanted = page.series()?.filter(|(entry, _)| self.wants_series(directory.series[*entry])).map(|(_, rows)| rows);
            let wanted: Vec<_> = wanted.collect();
            if wanted.iter().map(ExactSizeIterator::len).sum::<usize>() < rows {
                and(of_ranges(rows, wanted));
            }
        }
        let (time_min, time_max) = run.page_times(number);
        if time_min < self.from || time_max > self.last {
            let (times, from, last) = (page.times()?, self.from, self.last);
            and(BooleanBuffer::collect_bool(rows, |row| (times[row] >= from) & (times[row] <= last)));
        }
        let (offset_min, offset_max) = run.page_offsets(number);
        if offset_max >= self.until_offset {
            let (offsets, until) = (page.offsets()?, self.until_offset);
            and(BooleanBuffer::collect_bool(rows, |row| offsets[row] < until));
        }
        let hiding: Vec<&Hiding> = self.hiding(run, (time_min, time_max), offset_min).collect();
        if !hiding.is_empty() {
            let (series, times, offsets) = (page.series_of_rows()?, page.times()?, page.offsets()?);
            for hiding in hiding {
                and(BooleanBuffer::collect_bool(rows, |row| !hiding.hides(series[row], times[row], offsets[row])));
            }
        }
        Ok(mask)
    }
}

fn complement(rows: usize, skipped: &[std::ops::Range<u32>]) -> Vec<std::ops::Range<u32>> {
    let mut rest = Vec::with_capacity(skipped.len() + 1);
    let mut start = 0;
    for range in skipped {
        rest.push(start..range.start);
        start = range.end;
    }
    rest.push(start..logcore::types::len_u32(rows));
    rest
}

fn of_ranges(rows: usize, ranges: Vec<std::ops::Range<u32>>) -> BooleanBuffer {
    let mut builder = arrow::array::BooleanBufferBuilder::new(rows);
    for range in ranges {
        builder.append_n((range.start as usize).saturating_sub(builder.len()), false);
        builder.append_n(range.len(), true);
    }
    builder.append_n(rows - builder.len(), false);
    builder.finish()
}
