//! Writing chunk files: checkpoints, which move points out of memory, and merges of files that were written before.
//!
//! Both go over points in the order of tags and time and write them again. A stretch of [`crate::SeriesSchema::chunk_millis`] with
//! enough points gets a file of its own, so that files can be left out by time; what is left, late points mostly, shares one.
//!
//! # Merges
//! Files of one stretch, and those that several stretches share, are merged when there are [`crate::SeriesOptions::merge_files`]
//! of about one size: every point is written again a few times in its life, and there are a few files a size.
//!
//! # What was replaced
//! Versions of a point below the *settled* offset become one, and deletes below it are applied for good: the offset of the
//! checkpoint before the last, so that readers who chose their offset a moment ago find it, or lower if the router asks for it.
//! A merge leaves alone what is above the lowest offset of any other file that has versions between those of the merged files.
//!
//! # Crash safety
//! Files are written and synced first, then the manifest names them as one step. What a failed attempt wrote is removed when the
//! view is opened; memory still holds everything.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use logcore::Offset;
use logcore::sys::fs;
use logcore::types::len_u32;

use crate::change::Tombstone;
use crate::chunk::sealed::{ChunkWriter, NewPage, SealedChunk};
use crate::error::Error;
use crate::manifest::Manifest;
use crate::read::filter::Filter;
use crate::read::gather::Gather;
use crate::read::run::{Page, Run, Runs};
use crate::read::walk::{Direction, Flow, Sink, Version, walk};
use crate::schema::Layout;
use crate::series::{Shared, State};

/// Stretches of time that get files of their own in one go.
const STRETCHES_MAX: usize = 16;
/// Files of names before they are written as one.
const NAMES_FILES_MAX: usize = 8;

/// Writes what `state` has in memory, and merges files.
pub(crate) fn finish_checkpoint(shared: &Shared, state: State) -> Result<Offset, Error> {
    let mut saved = shared.saved.lock().unwrap_or_else(PoisonError::into_inner);
    let to = state.offset;
    if to > saved.checkpoint {
        let settled = saved.checkpoint.value().min(shared.keep_from.load(Ordering::Relaxed));
        checkpoint(shared, &mut saved, state, settled)?;
        for _ in 0..shared.options.merges_max {
            let state = shared.state();
            let Some(chosen) = choose(&state, shared, settled) else { break };
            merge(shared, &mut saved, &state, &chosen, settled)?;
        }
    }
    Ok(to)
}

fn checkpoint(shared: &Shared, saved: &mut Manifest, state: State, settled: u64) -> Result<(), Error> {
    // A checkpoint that began before this one may have written some of them meanwhile.
    let blocks: Vec<_> = state.open.iter().filter(|block| block.offset_min >= saved.checkpoint.value()).cloned().collect();
    let mut manifest = saved.clone();
    manifest.save_names(&shared.dir, &state.names, NAMES_FILES_MAX)?;
    manifest.columns = state.layout.columns.clone();
    let runs = Runs(blocks.iter().map(Run::open).collect());
    let written = write(shared, &mut manifest, &state, &runs, settled, settled)?;
    manifest.checkpoint = state.offset;
    manifest.chunks.extend(written.iter().map(|chunk| (chunk.facts.number, chunk.bytes)));
    let mut after = State { sealed: shared.state().sealed.clone(), open: Vec::new(), ..state.clone() };
    after.sealed.extend(written.iter().cloned());
    after.drop_idle_deletes();
    manifest.tombstones.clone_from(&after.tombstones);
    manifest.save(&shared.dir)?;
    manifest.remove_names_of(saved, &shared.dir);
    *saved = manifest;
    drop((runs, blocks));
    shared.change(|now| {
        let before = now.open.len();
        now.open.retain(|block| block.offset_min >= saved.checkpoint.value());
        now.frozen = now.frozen.saturating_sub(before - now.open.len());
        now.sealed = after.sealed;
        now.exact_from = saved.exact_from;
        now.checkpoint = saved.checkpoint;
        now.drop_idle_deletes();
    });
    Ok(())
}

/// Which stretch of time a file belongs to; `None` when it has points of several.
fn stretch_of(chunk: &SealedChunk, layout: &Layout) -> Option<i64> {
    let (first, last) = chunk.facts.times;
    let stretch = first.div_euclid(layout.chunk_micros);
    (last.div_euclid(layout.chunk_micros) == stretch).then_some(stretch)
}

/// The files to merge next, if any.
fn choose(state: &State, shared: &Shared, settled: u64) -> Option<Vec<Arc<SealedChunk>>> {
    let options = &shared.options;
    let mut sizes: BTreeMap<(Option<i64>, u32), Vec<&Arc<SealedChunk>>> = BTreeMap::new();
    for chunk in &state.sealed {
        let size = (u64::from(chunk.facts.rows) / options.chunk_points_min.max(1) + 1).ilog(4);
        sizes.entry((stretch_of(chunk, &state.layout), size)).or_default().push(chunk);
    }
    for mut files in sizes.into_values().filter(|files| files.len() >= options.merge_files.max(2)) {
        files.sort_by_key(|chunk| chunk.facts.offsets);
        let mut rows = 0;
        let fitting = files.into_iter().take_while(|chunk| {
            rows += u64::from(chunk.facts.rows);
            rows <= options.merge_points_max
        });
        let fitting: Vec<_> = fitting.cloned().collect();
        if fitting.len() >= options.merge_files.max(2) {
            return Some(fitting);
        }
    }
    if state.tombstones.len() > options.deletes_max {
        let is_hidden = |chunk: &&Arc<SealedChunk>| {
            state.tombstones.iter().any(|tombstone| {
                tombstone.offset < settled
                    && tombstone.offset >= chunk.facts.deletes_applied
                    && tombstone.may_hide(chunk.facts.times, chunk.facts.offsets.0)
            })
        };
        return state.sealed.iter().find(is_hidden).map(|chunk| vec![Arc::clone(chunk)]);
    }
    None
}

fn merge(shared: &Shared, saved: &mut Manifest, state: &State, chosen: &[Arc<SealedChunk>], settled: u64) -> Result<(), Error> {
    let numbers: BTreeSet<u64> = chosen.iter().map(|chunk| chunk.facts.number).collect();
    let times = chosen.iter().map(|chunk| chunk.facts.times).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, 0));
    let offsets = chosen.iter().map(|chunk| chunk.facts.offsets).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, 0));
    // Versions that another file has between ours.
    let between = state.sealed.iter().filter(|chunk| !numbers.contains(&chunk.facts.number)).filter(|chunk| {
        let (other_times, other) = (chunk.facts.times, chunk.facts.offsets);
        other_times.0 <= times.1 && times.0 <= other_times.1 && other.1 >= offsets.0 && other.0 <= offsets.1
    });
    let join_below = between.map(|chunk| chunk.facts.offsets.0).fold(settled, u64::min);
    let mut manifest = saved.clone();
    let runs = Runs(chosen.iter().map(Run::sealed).collect());
    let written = write(shared, &mut manifest, state, &runs, settled, join_below)?;
    drop(runs);
    manifest.chunks.retain(|(number, _)| !numbers.contains(number));
    manifest.chunks.extend(written.iter().map(|chunk| (chunk.facts.number, chunk.bytes)));
    let mut sealed = state.sealed.clone();
    sealed.retain(|chunk| !numbers.contains(&chunk.facts.number));
    sealed.extend(written);
    let checkpointed = state.tombstones.iter().filter(|tombstone| tombstone.offset < saved.checkpoint.value());
    let mut after = State { sealed, open: Vec::new(), tombstones: Arc::new(checkpointed.cloned().collect()), ..state.clone() };
    after.drop_idle_deletes();
    manifest.tombstones.clone_from(&after.tombstones);
    manifest.save(&shared.dir)?;
    *saved = manifest;
    shared.change(|now| {
        now.sealed = after.sealed;
        now.exact_from = saved.exact_from;
        now.drop_idle_deletes();
    });
    chosen.iter().for_each(|chunk| chunk.replace());
    Ok(())
}

/// Writes the points of `runs` as files. Deletes below `settled` are applied, versions below `join_below` become one.
fn write(
    shared: &Shared,
    manifest: &mut Manifest,
    state: &State,
    runs: &Runs,
    settled: u64,
    join_below: u64,
) -> Result<Vec<Arc<SealedChunk>>, Error> {
    let applied: Vec<&Tombstone> = state.tombstones.iter().filter(|tombstone| tombstone.offset < settled).collect();
    for run in &runs.0 {
        let hides = |tombstone: &&&Tombstone| {
            tombstone.offset >= run.deletes_applied() && tombstone.may_hide(run.times(), run.offsets().0)
        };
        let newest = applied.iter().filter(hides).map(|tombstone| tombstone.offset + 1).max();
        manifest.exact_from = manifest.exact_from.max(newest.unwrap_or(0));
    }
    let filter = Filter::new((i64::MIN, i64::MAX), u64::MAX, None, state.layout.duplicates, applied.into_iter(), &state.names);
    let own = own_stretches(&runs.0, &state.layout, shared.options.chunk_points_min)?;
    let ranks = shared.ranks(&state.names);
    let mut writing = Writing { shared, layout: &state.layout, manifest, own, settled, join_below, outputs: BTreeMap::new() };
    walk(&runs.0, &ranks, &filter, Direction::Forward, &mut writing)?;
    let mut written: Vec<Arc<SealedChunk>> = Vec::new();
    for mut output in std::mem::take(&mut writing.outputs).into_values() {
        output.flush(&state.layout)?;
        written.push(Arc::new(output.writer.finish()?));
    }
    // Before the manifest that names them.
    fs::sync_dir(&shared.dir)?;
    Ok(written)
}

/// The stretches of time that have enough points for a file.
fn own_stretches(runs: &[Rc<Run>], layout: &Layout, points_min: u64) -> Result<BTreeSet<i64>, Error> {
    let mut counts: BTreeMap<i64, u64> = BTreeMap::new();
    for run in runs {
        for number in 0..run.page_count() {
            let (first, last) = run.page_times(number);
            let stretch = first.div_euclid(layout.chunk_micros);
            if last.div_euclid(layout.chunk_micros) == stretch {
                *counts.entry(stretch).or_default() += run.page_rows(number).len() as u64;
                continue;
            }
            for time in run.page(number).times()?.iter() {
                *counts.entry(time.div_euclid(layout.chunk_micros)).or_default() += 1;
            }
        }
    }
    let mut largest: Vec<(u64, i64)> = counts.into_iter().map(|(stretch, points)| (points, stretch)).collect();
    largest.retain(|(points, _)| *points >= points_min);
    largest.sort_unstable_by(|a, b| b.cmp(a));
    largest.truncate(STRETCHES_MAX);
    Ok(largest.into_iter().map(|(_, stretch)| stretch).collect())
}

struct Output {
    writer: ChunkWriter,
    gather: Gather,
}

impl Output {
    fn flush(&mut self, layout: &Layout) -> Result<(), Error> {
        if self.gather.rows() == 0 {
            return Ok(());
        }
        let (times, offsets) = (self.gather.times()?, self.gather.offsets()?);
        let mut fields = Vec::with_capacity(layout.columns.fields.len());
        for (number, (_, kind)) in layout.columns.fields.iter().enumerate() {
            let number = len_u32(number);
            fields.extend(self.gather.field(number, *kind)?.map(|array| (number, array)));
        }
        let page = NewPage { series: self.gather.series(), times: &times, offsets: &offsets, fields: &fields };
        self.writer.push(&page)?;
        self.gather.clear();
        Ok(())
    }
}

/// Takes points in order and puts them into the files that they belong to.
struct Writing<'a> {
    shared: &'a Shared,
    layout: &'a Layout,
    manifest: &'a mut Manifest,
    own: BTreeSet<i64>,
    settled: u64,
    join_below: u64,
    /// By stretch of time; `None` is for what has no file of its own.
    outputs: BTreeMap<Option<i64>, Output>,
}

impl Writing<'_> {
    /// The file for a time, and the last time that goes there, too.
    fn output(&mut self, time: i64) -> Result<(&mut Output, i64), Error> {
        let stretch = time.div_euclid(self.layout.chunk_micros);
        let end = stretch.saturating_add(1).saturating_mul(self.layout.chunk_micros);
        let last = if end == i64::MAX { i64::MAX } else { end - 1 };
        let key = self.own.contains(&stretch).then_some(stretch);
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.outputs.entry(key) {
            let number = self.manifest.next_number;
            self.manifest.next_number += 1;
            let level = self.shared.options.compression_level;
            let writer = ChunkWriter::create(&self.shared.dir, number, level, self.settled)?;
            vacant.insert(Output { writer, gather: Gather::default() });
        }
        Ok((self.outputs.get_mut(&key).expect("just made when it was not there"), last))
    }
}

impl Sink for Writing<'_> {
    fn series(&mut self, _: u32, rows: usize) -> Result<Flow, Error> {
        let (full, least) = (self.shared.options.page_points, self.shared.options.page_points_min);
        for output in self.outputs.values_mut() {
            // A series gets pages of its own where that makes no small ones.
            if output.gather.rows() >= least && output.gather.rows() + rows > full {
                output.flush(self.layout)?;
            }
        }
        Ok(Flow::On)
    }

    fn rows(&mut self, page: &Rc<Page>, series: u32, rows: Range<u32>) -> Result<Flow, Error> {
        let (layout, full) = (self.layout, self.shared.options.page_points.max(1));
        let mut rest = rows;
        while !rest.is_empty() {
            let times = &page.times()?[rest.start as usize..rest.end as usize];
            let (output, last) = self.output(times[0])?;
            let room = full - output.gather.rows().min(full - 1);
            let count = times.partition_point(|&time| time <= last).min(room);
            let end = rest.start + len_u32(count);
            output.gather.push(page, series, rest.start..end);
            rest.start = end;
            if output.gather.rows() >= full {
                output.flush(layout)?;
            }
        }
        Ok(Flow::On)
    }

    fn versions(&mut self, series: u32, time: i64, versions: &[Version]) -> Result<Flow, Error> {
        let (layout, full, join_below) = (self.layout, self.shared.options.page_points.max(1), self.join_below);
        let joined = versions.partition_point(|version| version.offset < join_below);
        if joined > 1 && versions[0].offset != versions[joined - 1].offset {
            self.manifest.exact_from = self.manifest.exact_from.max(versions[joined - 1].offset + 1);
        }
        let (output, _) = self.output(time)?;
        let (old, kept) = versions.split_at(joined);
        // Of one record the last one is the point; readers can't tell its others.
        let records = kept.chunk_by(|a, b| a.offset == b.offset);
        for group in std::iter::once(old).chain(records).filter(|group| !group.is_empty()) {
            let newest_first: Vec<_> = group.iter().rev().map(|version| (Rc::clone(&version.page), version.row)).collect();
            output.gather.push_merged(series, &newest_first);
        }
        if output.gather.rows() >= full {
            output.flush(layout)?;
        }
        Ok(Flow::On)
    }
}
