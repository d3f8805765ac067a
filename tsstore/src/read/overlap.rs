//! Which points may be of the same series and time, so that they have to be looked at together.
//!
//! Most are not: runs cover different stretches of time, and a page of one run rarely has times of a series that a page of another
//! has, too. What is left out here is read page by page, without a merge.

use std::ops::Range;
use std::rc::Rc;

use super::run::Run;
use crate::error::Error;
use crate::names::Ranks;

/// Rows of one series in one page.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// The number of the run.
    pub run: usize,
    pub page: usize,
    /// Rows, counted within the page.
    pub rows: Range<u32>,
    /// No row is earlier.
    pub time_min: i64,
    /// No row is later.
    pub time_max: i64,
    /// Some rows may be of the same time.
    pub superseded: bool,
}

/// The pieces of one entry of a run's directory.
pub(crate) fn pieces(runs: &[Rc<Run>], run: usize, entry: usize, out: &mut Vec<Piece>) -> Result<(), Error> {
    let (number, run) = (run, &runs[run]);
    let directory = run.directory()?;
    let mut rows = directory.rows(entry);
    let (first, last) = (directory.first[entry], directory.last[entry]);
    while !rows.is_empty() {
        let page = run.page_of(rows.start);
        let of_page = run.page_rows(page);
        let end = of_page.end.min(rows.end);
        let (time_min, time_max) = run.page_times(page);
        out.push(Piece {
            run: number,
            page,
            rows: rows.start - of_page.start..end - of_page.start,
            time_min: first.max(time_min),
            time_max: last.min(time_max),
            superseded: run.page_superseded(page),
        });
        rows.start = end;
    }
    Ok(())
}

/// Cuts the pieces of one series into groups that don't overlap in time, in the order of time. Afterwards pieces are in the order of
/// their earliest times; a group is a range of them.
pub(crate) fn groups(pieces: &mut [Piece]) -> Vec<Range<usize>> {
    pieces.sort_by_key(|piece| (piece.time_min, piece.run, piece.page));
    let mut groups = Vec::new();
    let mut start = 0;
    while start < pieces.len() {
        let (mut end, mut time_max) = (start + 1, pieces[start].time_max);
        while end < pieces.len() && pieces[end].time_min <= time_max {
            time_max = time_max.max(pieces[end].time_max);
            end += 1;
        }
        groups.push(start..end);
        start = end;
    }
    groups
}

/// Goes through the series of some runs in the order of tags.
pub(crate) struct SeriesCursor<'a> {
    runs: &'a [Rc<Run>],
    /// By run: its entries in the order of tags, and how many were passed.
    entries: Vec<(Option<Vec<u32>>, usize)>,
    /// By run: the place of its next entry.
    next: Vec<u32>,
    ranks: &'a Ranks,
}

const NONE: u32 = u32::MAX;

impl<'a> SeriesCursor<'a> {
    /// Begins before the first of the series that `wanted` has; `None` for all.
    pub fn new(runs: &'a [Rc<Run>], ranks: &'a Ranks, wanted: Option<&[bool]>) -> Result<Self, Error> {
        let mut this = Self { runs, entries: Vec::with_capacity(runs.len()), next: vec![NONE; runs.len()], ranks };
        for (number, run) in runs.iter().enumerate() {
            let directory = run.directory()?;
            // Files are in this order already, blocks are in that of series numbers.
            let is_sorted = directory.series.is_sorted_by_key(|&series| ranks.of(series));
            let order = (!is_sorted || wanted.is_some()).then(|| {
                let entries = (0..).zip(&directory.series);
                let entries = entries.filter(|(_, series)| wanted.is_none_or(|wanted| wanted[**series as usize]));
                let mut order: Vec<u32> = entries.map(|(entry, _)| entry).collect();
                order.sort_unstable_by_key(|&entry| ranks.of(directory.series[entry as usize]));
                order
            });
            this.entries.push((order, 0));
            this.look(number)?;
        }
        Ok(this)
    }

    fn entry(&self, run: usize) -> usize {
        let (order, at) = &self.entries[run];
        order.as_ref().map_or(*at, |order| order[*at] as usize)
    }

    fn look(&mut self, run: usize) -> Result<(), Error> {
        let directory = self.runs[run].directory()?;
        let (order, at) = &self.entries[run];
        let is_over = *at >= order.as_ref().map_or(directory.len(), Vec::len);
        self.next[run] = if is_over { NONE } else { self.ranks.of(directory.series[self.entry(run)]) };
        Ok(())
    }

    /// The next series, with the runs that have it and its entries there.
    pub fn next(&mut self, found: &mut Vec<(usize, usize)>) -> Result<Option<u32>, Error> {
        found.clear();
        let Some(&least) = self.next.iter().min().filter(|&&least| least != NONE) else { return Ok(None) };
        let mut series = 0;
        for run in 0..self.runs.len() {
            if self.next[run] == least {
                let entry = self.entry(run);
                series = self.runs[run].directory()?.series[entry];
                found.push((run, entry));
                self.entries[run].1 += 1;
                self.look(run)?;
            }
        }
        Ok(Some(series))
    }
}

/// Cuts runs into sets that don't overlap in time.
pub(crate) fn components(runs: &[Rc<Run>]) -> Vec<Vec<Rc<Run>>> {
    let mut sorted: Vec<&Rc<Run>> = runs.iter().collect();
    sorted.sort_by_key(|run| run.times().0);
    let mut all: Vec<Vec<Rc<Run>>> = Vec::new();
    let mut time_max = i64::MIN;
    for run in sorted {
        match all.last_mut() {
            Some(last) if run.times().0 <= time_max => last.push(Rc::clone(run)),
            _ => all.push(vec![Rc::clone(run)]),
        }
        time_max = time_max.max(run.times().1);
    }
    all
}

/// The pieces that have to be merged, a series' group each.
pub(crate) type Overlaps = Vec<(u32, Vec<Piece>)>;

/// Finds the groups of pieces of which some may be of the same series and time; `None` when they have more than `pieces_max`
/// pieces, so that it is better to walk over everything.
pub(crate) fn overlaps(
    runs: &[Rc<Run>],
    ranks: &Ranks,
    wanted: Option<&[bool]>,
    pieces_max: usize,
) -> Result<Option<Overlaps>, Error> {
    let mut all = Vec::new();
    if let [run] = runs
        && !run.superseded()
    {
        return Ok(Some(all));
    }
    let mut cursor = SeriesCursor::new(runs, ranks, wanted)?;
    let mut count = 0;
    let (mut found, mut parts, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(series) = cursor.next(&mut found)? {
        spans.clear();
        for &(run, entry) in &found {
            let directory = runs[run].directory()?;
            spans.push((directory.first[entry], directory.last[entry]));
        }
        spans.sort_unstable();
        let apart = spans.is_sorted_by(|before, after| before.1 < after.0);
        if apart && found.iter().all(|&(run, _)| !runs[run].superseded()) {
            continue;
        }
        parts.clear();
        for &(run, entry) in &found {
            pieces(runs, run, entry, &mut parts)?;
        }
        for group in groups(&mut parts) {
            let group = &parts[group];
            if group.len() > 1 || group[0].superseded {
                count += group.len();
                all.push((series, group.to_vec()));
            }
        }
        if count > pieces_max {
            return Ok(None);
        }
    }
    Ok(Some(all))
}
