//! Points in the order of series and time, those of the same series and time merged.
//!
//! Scans that ask for an order, checkpoints and merges go over all points this way; other scans only over those that overlap.

use std::ops::Range;
use std::rc::Rc;

use super::filter::Filter;
use super::overlap::{Piece, SeriesCursor, pieces};
use super::run::{Page, Run};
use crate::error::Error;
use crate::names::Ranks;
use crate::schema::Duplicates;

/// How a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    On,
    NextSeries,
    End,
}

/// Takes points in.
pub(crate) trait Sink {
    /// Points of one series are about to come, at most so many.
    fn series(&mut self, _series: u32, _rows: usize) -> Result<Flow, Error> {
        Ok(Flow::On)
    }

    /// Rows of a page that are of one series and of no other rows' times.
    fn rows(&mut self, page: &Rc<Page>, series: u32, rows: Range<u32>) -> Result<Flow, Error>;

    /// The versions of one point, at least two, in the order of the log.
    fn versions(&mut self, series: u32, time: i64, versions: &[Version]) -> Result<Flow, Error>;
}

/// One version of a point.
#[derive(Clone)]
pub(crate) struct Version {
    pub page: Rc<Page>,
    pub row: u32,
    pub offset: u64,
}

/// The oldest points first, or the newest, within each series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// Gives all points of `runs` that pass the filter to the sink, in the order of tags and time. Of two runs with points of one
/// record the later one comes later in the list.
pub(crate) fn walk(
    runs: &[Rc<Run>],
    ranks: &Ranks,
    filter: &Filter,
    direction: Direction,
    sink: &mut dyn Sink,
) -> Result<Flow, Error> {
    let mut cursor = SeriesCursor::new(runs, ranks, filter.series.as_deref())?;
    let (mut found, mut parts) = (Vec::new(), Vec::new());
    while let Some(series) = cursor.next(&mut found)? {
        parts.clear();
        for &(run, entry) in &found {
            pieces(runs, run, entry, &mut parts)?;
        }
        if walk_series(runs, series, &mut parts, filter, direction, sink)? == Flow::End {
            return Ok(Flow::End);
        }
    }
    Ok(Flow::On)
}

/// As [`walk`], for some pieces of one series.
pub(crate) fn walk_series(
    runs: &[Rc<Run>],
    series: u32,
    parts: &mut Vec<Piece>,
    filter: &Filter,
    direction: Direction,
    sink: &mut dyn Sink,
) -> Result<Flow, Error> {
    parts.retain(|piece| {
        let offset_min = runs[piece.run].page_offsets(piece.page).0;
        !filter.excludes((piece.time_min, piece.time_max), offset_min)
    });
    if parts.is_empty() {
        return Ok(Flow::On);
    }
    // The one to begin with is the last.
    match direction {
        Direction::Forward => parts.sort_by_key(|piece| std::cmp::Reverse((piece.time_min, piece.run, piece.page))),
        Direction::Backward => parts.sort_by_key(|piece| (piece.time_max, piece.run, piece.page)),
    }
    match sink.series(series, parts.iter().map(|piece| piece.rows.len()).sum())? {
        Flow::On => Merge { runs, series, filter, direction, active: Vec::new() }.run(parts, sink),
        other => Ok(other),
    }
}

/// What is left of a piece.
struct Cursor {
    page: Rc<Page>,
    run: usize,
    rows: Range<u32>,
    superseded: bool,
    times: (i64, i64),
}

impl Cursor {
    fn head(&self, direction: Direction) -> Result<i64, Error> {
        let times = self.page.times()?;
        Ok(match direction {
            Direction::Forward => times[self.rows.start as usize],
            Direction::Backward => times[self.rows.end as usize - 1],
        })
    }

    /// Takes off the rows before `limit`, exclusive unless `inclusive`.
    fn take(&mut self, limit: Option<i64>, inclusive: bool, direction: Direction) -> Result<Range<u32>, Error> {
        let Some(limit) = limit else { return Ok(std::mem::replace(&mut self.rows, 0..0)) };
        let (start, end) = (self.rows.start, self.rows.end);
        let times = &self.page.times()?[start as usize..end as usize];
        let count = |partition: usize| start + logcore::types::len_u32(partition);
        Ok(match direction {
            Direction::Forward => {
                let at = count(times.partition_point(|&time| time < limit || (inclusive && time == limit)));
                self.rows.start = at;
                start..at
            }
            Direction::Backward => {
                let at = count(times.partition_point(|&time| time < limit || (!inclusive && time == limit)));
                self.rows.end = at;
                at..end
            }
        })
    }
}

/// The rows to begin with that have times of their own.
fn apart(rows: Range<u32>, times: &[i64], direction: Direction) -> Range<u32> {
    let times = &times[rows.start as usize..rows.end as usize];
    let mut pairs = times.windows(2);
    match direction {
        Direction::Forward => match pairs.position(|pair| pair[0] == pair[1]) {
            Some(at) => rows.start..rows.start + logcore::types::len_u32(at),
            None => rows,
        },
        Direction::Backward => match pairs.rposition(|pair| pair[0] == pair[1]) {
            Some(at) => rows.start + logcore::types::len_u32(at) + 2..rows.end,
            None => rows,
        },
    }
}

struct Merge<'a> {
    runs: &'a [Rc<Run>],
    series: u32,
    filter: &'a Filter,
    direction: Direction,
    active: Vec<Cursor>,
}

impl Merge<'_> {
    fn run(mut self, pending: &mut Vec<Piece>, sink: &mut dyn Sink) -> Result<Flow, Error> {
        loop {
            if self.active.is_empty()
                && let Some(piece) = pending.pop()
            {
                if pending.is_empty() && !piece.superseded {
                    // The usual case: nothing to merge it with, so its times need not be read.
                    let cursor = self.cursor(&piece);
                    return self.give_rows(&cursor, piece.rows, sink);
                }
                self.activate(&piece);
            }
            let Some(first) = self.first()? else { return Ok(Flow::On) };
            while let Some(piece) = pending.pop_if(|piece| self.is_due(piece, first)) {
                self.activate(&piece);
            }
            let Some(first) = self.first()? else { return Ok(Flow::On) };
            match self.step(first, pending.last(), sink)? {
                Flow::On => self.active.retain(|cursor| !cursor.rows.is_empty()),
                other => return Ok(other),
            }
        }
    }

    fn cursor(&self, piece: &Piece) -> Cursor {
        let page = self.runs[piece.run].page(piece.page);
        let (rows, times) = (piece.rows.clone(), (piece.time_min, piece.time_max));
        Cursor { page, run: piece.run, rows, superseded: piece.superseded, times }
    }

    fn activate(&mut self, piece: &Piece) {
        let cursor = self.cursor(piece);
        self.active.push(cursor);
    }

    fn is_due(&self, piece: &Piece, time: i64) -> bool {
        match self.direction {
            Direction::Forward => piece.time_min <= time,
            Direction::Backward => piece.time_max >= time,
        }
    }

    /// The time that comes first.
    fn first(&self) -> Result<Option<i64>, Error> {
        let mut first: Option<i64> = None;
        for cursor in &self.active {
            let head = cursor.head(self.direction)?;
            first = Some(
                first.map_or(head, |first| if self.direction == Direction::Forward { first.min(head) } else { first.max(head) }),
            );
        }
        Ok(first)
    }

    /// Gives out what begins with `first`, of which `next` has nothing.
    fn step(&mut self, first: i64, next: Option<&Piece>, sink: &mut dyn Sink) -> Result<Flow, Error> {
        let mut at_first = Vec::new();
        let mut limit = next.map(|piece| if self.direction == Direction::Forward { piece.time_min } else { piece.time_max });
        for (number, cursor) in self.active.iter().enumerate() {
            let head = cursor.head(self.direction)?;
            if head == first {
                at_first.push(number);
                continue;
            }
            let is_nearer = |limit: i64| if self.direction == Direction::Forward { head < limit } else { head > limit };
            if limit.is_none_or(is_nearer) {
                limit = Some(head);
            }
        }
        if let [only] = at_first[..] {
            let mut cursor = self.active.swap_remove(only);
            let all = cursor.rows.clone();
            let mut rows = cursor.take(limit, false, self.direction)?;
            if cursor.superseded {
                rows = apart(rows, cursor.page.times()?, self.direction);
                cursor.rows = match self.direction {
                    Direction::Forward => rows.end..all.end,
                    Direction::Backward => all.start..rows.start,
                };
            }
            let flow = if rows.is_empty() { None } else { Some(self.give_rows(&cursor, rows, sink)) };
            self.active.push(cursor);
            if let Some(flow) = flow {
                return flow;
            }
            at_first = vec![self.active.len() - 1];
        }
        let mut versions = Vec::new();
        for number in at_first {
            let cursor = &mut self.active[number];
            for row in cursor.take(Some(first), true, self.direction)? {
                let offset = cursor.page.offsets()?[row as usize];
                if self.filter.wants(&self.runs[cursor.run], self.series, first, offset) {
                    versions.push((offset, cursor.run, Version { page: Rc::clone(&cursor.page), row, offset }));
                }
            }
        }
        versions.sort_by_key(|(offset, run, version)| (*offset, *run, version.row));
        let versions: Vec<Version> = versions.into_iter().map(|(.., version)| version).collect();
        match &versions[..] {
            [] => Ok(Flow::On),
            [only] => sink.rows(&only.page, self.series, only.row..only.row + 1),
            all if self.filter.duplicates == Duplicates::Keep => self.give_each(all, sink),
            many => sink.versions(self.series, first, many),
        }
    }

    /// Gives out points of one time, each by itself, in the order of their records.
    fn give_each(&self, versions: &[Version], sink: &mut dyn Sink) -> Result<Flow, Error> {
        let mut give = |version: &Version| sink.rows(&version.page, self.series, version.row..version.row + 1);
        let places: Box<dyn Iterator<Item = &Version>> = match self.direction {
            Direction::Forward => Box::new(versions.iter()),
            Direction::Backward => Box::new(versions.iter().rev()),
        };
        for version in places {
            match give(version)? {
                Flow::On => {}
                other => return Ok(other),
            }
        }
        Ok(Flow::On)
    }

    /// Gives out those of some rows, all of different times, that are wanted.
    fn give_rows(&self, cursor: &Cursor, rows: Range<u32>, sink: &mut dyn Sink) -> Result<Flow, Error> {
        let (page, run) = (&cursor.page, &self.runs[cursor.run]);
        if rows.is_empty() || !self.filter.cuts(run, page.number, cursor.times) {
            return if rows.is_empty() { Ok(Flow::On) } else { sink.rows(page, self.series, rows) };
        }
        let (times, offsets) = (page.times()?, page.offsets()?);
        let is_wanted = |row: u32| self.filter.wants(run, self.series, times[row as usize], offsets[row as usize]);
        let mut stretches: Vec<Range<u32>> = Vec::new();
        for row in rows.filter(|&row| is_wanted(row)) {
            match stretches.last_mut() {
                Some(stretch) if stretch.end == row => stretch.end = row + 1,
                _ => stretches.push(row..row + 1),
            }
        }
        if self.direction == Direction::Backward {
            stretches.reverse();
        }
        for stretch in stretches {
            let flow = sink.rows(page, self.series, stretch)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }
}
