//! Reading after appending: from RAM, by offset, after a restart, and from the files.
//!
//! From RAM a frame is handed out as a piece of the chunk it lies in; it is copied here once, as a door does that sends it, since
//! a figure without touching the bytes says nothing. From a file the log itself looks at every byte, to check it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use logcore::frame::Frame;
use logcore::{Log, Offset, Partition};
use serde::Serialize;

use super::args::{LogArgs, Plan};
use super::idle::milliseconds;
use super::meter::approximate;
use super::open::{Folder, open_log, open_partitions};

/// Asked for at once when reading in sequence.
const READ_BYTES: usize = 4 << 20;
/// Offsets looked up between two looks at the clock.
const LOOKUPS: u32 = 100;

/// What came out.
#[derive(Debug, Default, Serialize)]
pub struct ReadReport {
    /// Bytes of batches read from RAM, in sequence, and copied once; `None` when nothing was left there.
    pub read_ram_bytes_per_second: Option<f64>,
    /// What was read from RAM before it was read again.
    pub read_ram_bytes: u64,
    /// Random offsets for which the log said where they are.
    pub find_offset_per_second: f64,
    /// Batches read by a random offset, from RAM if `read_ram_bytes` is not 0.
    pub read_offset_per_second: f64,
    /// Bytes of files when the log was opened again.
    pub log_bytes: u64,
    /// Segments then.
    pub segments: usize,
    /// Opening the log and its partitions, after a stop that nobody announced.
    pub open_ms: f64,
    /// Bytes of batches read from the files, in sequence, the system's cache emptied of them before.
    pub read_file_bytes_per_second: f64,
    /// What was read from the files.
    pub read_file_bytes: u64,
}

/// Reads what a run appended, and opens its log again in between. Nothing may be
/// appended any more; nobody else may hold the log or its partitions.
pub fn measure(
    log: Log,
    partitions: Vec<Arc<Partition>>,
    folder: &Folder,
    args: &LogArgs,
    plan: &Plan,
) -> Result<(Log, ReadReport)> {
    let mut report = ReadReport::default();
    for partition in &partitions {
        partition.flush()?;
    }
    let in_ram: Vec<(Arc<Partition>, Offset)> =
        partitions.iter().filter_map(|partition| Some((Arc::clone(partition), first_in_ram(partition, plan)?))).collect();
    if !in_ram.is_empty() {
        let (bytes, rate) = read_ram(&in_ram, plan.read_seconds)?;
        (report.read_ram_bytes, report.read_ram_bytes_per_second) = (bytes, Some(rate));
    }
    let all = || -> Vec<_> { partitions.iter().map(|partition| (Arc::clone(partition), partition.log_start())).collect() };
    report.find_offset_per_second = at_random(&all(), plan.read_seconds / 4, |partition, offset| {
        let (segment, position) = partition.locate(offset)?.with_context(|| format!("offset {offset} was not found"))?;
        ensure!(segment <= offset, "offset {offset} is not behind {segment}, which it led to");
        std::hint::black_box(position);
        Ok(())
    })?;
    let from = if in_ram.is_empty() { all() } else { in_ram };
    report.read_offset_per_second = at_random(&from, plan.read_seconds / 4, |partition, offset| {
        let frames = partition.read(offset, 1)?;
        let frame = frames.first().context("nothing was read")?;
        let covers = frame.header.base_offset <= offset && offset < frame.end_offset();
        ensure!(covers, "offset {offset} is not in what it led to");
        Ok(())
    })?;
    let statuses = partitions.iter().map(|partition| partition.status());
    (report.segments, report.log_bytes) = statuses.fold((0, 0), |(n, bytes), status| (n + status.segments, bytes + status.bytes));
    drop(partitions);
    // Without closing it: the next start finds what a kill leaves.
    drop(log);

    forget_cached(folder.path())?;
    let begun = Instant::now();
    let log = open_log(folder, args, plan)?;
    let partitions = open_partitions(&log, args, plan)?;
    report.open_ms = milliseconds(begun);
    forget_cached(folder.path())?;
    (report.read_file_bytes, report.read_file_bytes_per_second) = read_files(&partitions, plan.read_seconds)?;
    Ok((log, report))
}

/// The first offset that is surely in RAM; `None` when there is little.
fn first_in_ram(partition: &Partition, plan: &Plan) -> Option<Offset> {
    let status = partition.status();
    let records = status.ram_bytes / plan.record_bytes as u64;
    // A tenth less: frames and records have heads.
    let records = records - records.div_ceil(10);
    let start = status.committed.value().checked_sub(records).map_or(status.log_start, Offset::new);
    (records > 2 * plan.records_per_batch as u64).then_some(start.max(status.log_start))
}

fn read_ram(from: &[(Arc<Partition>, Offset)], time: Duration) -> Result<(u64, f64)> {
    let mut buffer = Vec::with_capacity(2 * READ_BYTES);
    let (begun, mut total, mut once) = (Instant::now(), 0, 0);
    while begun.elapsed() < time {
        let mut round = 0;
        for (partition, from) in from {
            round += read_to_end(partition, *from, None, |frames| {
                buffer.clear();
                frames.iter().for_each(|frame| buffer.extend_from_slice(&frame.body));
                std::hint::black_box(&buffer);
            })?;
        }
        ensure!(round > 0, "nothing was read");
        total += round;
        once = round;
    }
    Ok((once, approximate(total) / begun.elapsed().as_secs_f64()))
}

fn read_files(partitions: &[Arc<Partition>], time: Duration) -> Result<(u64, f64)> {
    let (begun, mut total) = (Instant::now(), 0);
    for partition in partitions {
        total += read_to_end(partition, partition.log_start(), Some(begun + time), |_| {})?;
    }
    Ok((total, approximate(total) / begun.elapsed().as_secs_f64()))
}

/// Reads from `from` to the committed end, or until `deadline`, and gives the bytes of the batches.
fn read_to_end(
    partition: &Arc<Partition>,
    from: Offset,
    deadline: Option<Instant>,
    mut take: impl FnMut(&[Frame]),
) -> Result<u64> {
    let (mut bytes, end) = (0, partition.committed().get());
    let mut reader = partition.reader(from);
    while reader.next_offset() < end && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        let frames = reader.read(READ_BYTES)?;
        ensure!(!frames.is_empty(), "{} gives nothing at offset {}", partition.id(), reader.next_offset());
        bytes += frames.iter().map(|frame| frame.body.len() as u64).sum::<u64>();
        take(&frames);
    }
    Ok(bytes)
}

/// Does something with random offsets from the given ones on, one after the other, and says how often a second.
fn at_random(
    from: &[(Arc<Partition>, Offset)],
    time: Duration,
    mut act: impl FnMut(&Partition, Offset) -> Result<()>,
) -> Result<f64> {
    let (begun, mut found, mut state) = (Instant::now(), 0_u32, 0x2545_f491_4f6c_dd1d_u64);
    let ranges: Vec<_> = from.iter().map(|(partition, from)| (partition, *from, partition.committed().get())).collect();
    while begun.elapsed() < time {
        for (partition, from, end) in &ranges {
            for _ in 0..LOOKUPS {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let offset = from.advance(state % from.records_until(*end).max(1));
                act(partition, offset).with_context(|| format!("{} at offset {offset}", partition.id()))?;
                found = found.wrapping_add(1);
            }
        }
    }
    Ok(f64::from(found) / begun.elapsed().as_secs_f64())
}

/// Empties the system's cache of all files of the folder, as far as the system does that.
fn forget_cached(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            forget_cached(&path)?;
        } else {
            logcore::sys::fs::forget_cached(&path)?;
        }
    }
    Ok(())
}
