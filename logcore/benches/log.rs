//! One operation of the log at a time, on a temporary folder: appending, reading, finding, rotating, opening.
//!
//! `cargo bench -p logcore` runs all for half a second each and prints a table, `cargo bench -p logcore -- read` those whose name
//! holds `read`. `LOG_BENCH_DIR` is the folder to write into, `LOG_BENCH_SECONDS` another time. Without `--bench` (as
//! `cargo test --benches` starts it) every operation runs once, which shows that it runs. For figures of the log as a whole see
//! `headwater bench log`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement on real files and clocks: it panics to fail, and prints"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use logcore::{
    AckClass, BatchBuilder, Compression, Log, LogOptions, NewRecord, Offset, Partition, PartitionOptions, PartitionRef, Proposal,
    StreamId, TimestampMillis,
};
use tempfile::TempDir;

const ID: PartitionRef = PartitionRef::new(StreamId::FIRST_USER, 0);
const RECORD_BYTES: usize = 1024;
/// Appends under way together.
const GROUP: usize = 16;
/// What one measurement writes at most, so that a fast disk does not fill.
const WRITTEN_BYTES_MAX: u64 = 1 << 30;
/// What is written for measurements of reading.
const CONTENT_BYTES: usize = 64 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let measured = arguments.iter().any(|argument| argument == "--bench");
    let seconds = std::env::var("LOG_BENCH_SECONDS").ok().map_or(0.5, |text| text.parse().expect("a number of seconds"));
    let bench = Bench {
        time: if measured { Duration::from_secs_f64(seconds) } else { Duration::ZERO },
        wanted: arguments.into_iter().find(|argument| !argument.starts_with('-')),
    };
    println!("{:<34} {:>12} {:>14} {:>12}", "operation", "us each", "a second", "MB/s");
    batches(&bench);
    appends(&bench);
    reads(&bench);
    rotations(&bench);
    openings(&bench);
}

struct Bench {
    time: Duration,
    wanted: Option<String>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| name.contains(wanted))
    }

    /// Repeats `operation`, which does `count` things with `bytes` together, and prints what one of them took.
    fn measure(&self, name: &str, count: usize, bytes: usize, mut operation: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        let (begun, mut rounds) = (Instant::now(), 0_u32);
        while rounds == 0 || (begun.elapsed() < self.time && u64::from(rounds) * (bytes as u64) < WRITTEN_BYTES_MAX) {
            operation();
            rounds += 1;
        }
        print(name, begun.elapsed(), u64::from(rounds) * count as u64, u64::from(rounds) * bytes as u64);
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
fn print(name: &str, elapsed: Duration, count: u64, bytes: u64) {
    let (seconds, count) = (elapsed.as_secs_f64(), count as f64);
    let rate = if bytes == 0 { String::new() } else { format!("{:.1}", bytes as f64 / seconds / 1e6) };
    println!("{name:<34} {:>12.2} {:>14.0} {rate:>12}", seconds * 1e6 / count, count / seconds);
}

fn folder() -> TempDir {
    match std::env::var_os("LOG_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .unwrap()
}

fn open(dir: &Path, partition: PartitionOptions) -> (Log, Arc<Partition>) {
    let log = Log::open(dir, LogOptions { partition, ..LogOptions::default() }).unwrap();
    let partition = log.open_partition(ID).unwrap();
    (log, partition)
}

/// Values that don't repeat within a batch.
fn batch(bytes: usize, timestamp: i64) -> Vec<u8> {
    let mut value = vec![0; RECORD_BYTES];
    let mut builder = BatchBuilder::new();
    for n in 0..(bytes / RECORD_BYTES).max(1) {
        value[..8].copy_from_slice(&n.to_le_bytes());
        builder.push(&NewRecord { value: Some(&value), timestamp: TimestampMillis::new(timestamp), ..NewRecord::default() });
    }
    builder.finish(Compression::None)
}

fn append(partition: &Partition, batches: impl IntoIterator<Item = Vec<u8>>, ack: AckClass) {
    let submit = |batch| partition.try_append(Proposal::new(batch).unwrap().acknowledged(ack)).unwrap();
    let tickets: Vec<_> = batches.into_iter().map(submit).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

fn batches(bench: &Bench) {
    let bytes = 256 << 10;
    bench.measure("batch/build/256KiB", 1, bytes, || drop(black_box(batch(bytes, 0))));
    let built = batch(bytes, 0);
    bench.measure("batch/check/256KiB", 1, bytes, || drop(black_box(Proposal::new(built.clone()).unwrap())));
}

fn appends(bench: &Bench) {
    for ack in [AckClass::Memory, AckClass::Disk] {
        for kib in [1, 16, 256] {
            let name = format!("append/{ack}/{kib}KiB/{GROUP} in flight");
            if bench.wants(&name) {
                let dir = folder();
                let (_log, partition) = open(dir.path(), PartitionOptions { ack, ..PartitionOptions::default() });
                let batch = batch(kib << 10, 0);
                bench.measure(&name, GROUP, GROUP * (kib << 10), || append(&partition, vec![batch.clone(); GROUP], ack));
            }
        }
    }
    let name = "append/disk/1KiB/1 in flight";
    if bench.wants(name) {
        let dir = folder();
        let (_log, partition) = open(dir.path(), PartitionOptions::default());
        let batch = batch(1 << 10, 0);
        bench.measure(name, 1, 1 << 10, || append(&partition, [batch.clone()], AckClass::Disk));
    }
}

/// A log of [`CONTENT_BYTES`] in batches of 64 KiB, a millisecond apart.
fn fill(partition: &Partition) {
    let count = i64::try_from(CONTENT_BYTES / (64 << 10)).unwrap();
    for first in (0..count).step_by(GROUP) {
        let until = count.min(first + i64::try_from(GROUP).unwrap());
        append(partition, (first..until).map(|n| batch(64 << 10, n)), AckClass::Disk);
    }
}

/// Reads everything; frames are copied once into `buffer` if there is one, as a door does that sends them. From a file the log
/// itself looks at every byte.
fn read_all(partition: &Partition, mut buffer: Option<&mut Vec<u8>>) -> usize {
    let (mut from, mut bytes, end) = (Offset::ZERO, 0, partition.committed().get());
    while from < end {
        let frames = partition.read(from, 4 << 20).unwrap();
        bytes += frames.iter().map(|frame| frame.body.len()).sum::<usize>();
        if let Some(buffer) = &mut buffer {
            buffer.clear();
            frames.iter().for_each(|frame| buffer.extend_from_slice(&frame.body));
        }
        black_box((&frames, &buffer));
        from = frames.last().unwrap().end_offset();
    }
    bytes
}

fn reads(bench: &Bench) {
    let names = ["read/ram", "read/file", "find/offset/ram", "find/offset/file", "find/time"];
    if !names.iter().any(|name| bench.wants(name)) {
        return;
    }
    let dir = folder();
    let options = PartitionOptions { segment_bytes: 16 << 20, tail_chunks_max: 128, ..PartitionOptions::default() };
    let (log, partition) = open(dir.path(), options.clone());
    fill(&partition);
    let end = partition.committed().get();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut buffer = Vec::with_capacity(8 << 20);
    bench.measure("read/ram", CONTENT_BYTES >> 16, CONTENT_BYTES, || {
        assert!(read_all(&partition, Some(&mut buffer)) > CONTENT_BYTES);
    });
    let find = |partition: &Partition, offset: Offset| {
        assert!(partition.read(offset, 1).unwrap()[0].header.base_offset <= offset);
    };
    bench.measure("find/offset/ram", 1, 0, || find(&partition, Offset::new(random() % end.value())));
    drop(partition);
    log.close().unwrap();
    drop(log);

    // Nothing is in RAM after a start; what the system caches is another matter.
    let (log, partition) = open(dir.path(), options);
    assert_eq!(partition.committed().get(), end);
    bench.measure("read/file", CONTENT_BYTES >> 16, CONTENT_BYTES, || assert!(read_all(&partition, None) > CONTENT_BYTES));
    bench.measure("find/offset/file", 1, 0, || find(&partition, Offset::new(random() % end.value())));
    let times = CONTENT_BYTES as u64 >> 16;
    bench.measure("find/time", 1, 0, || {
        let wanted = i64::try_from(random() % times).unwrap();
        assert_eq!(partition.offset_at(TimestampMillis::new(wanted)).unwrap().value(), wanted.cast_unsigned() * 64);
    });
    drop(partition);
    log.close().unwrap();
}

/// Appends one after the other; those that needed a new segment are told apart from the rest.
fn rotations(bench: &Bench) {
    if !bench.wants("rotate/with") && !bench.wants("rotate/without") {
        return;
    }
    let dir = folder();
    let (_log, partition) = open(dir.path(), PartitionOptions { segment_bytes: 1 << 20, ..PartitionOptions::default() });
    let batch = batch(64 << 10, 0);
    let (begun, mut segments) = (Instant::now(), partition.status().segments);
    let (mut with, mut without) = ((Duration::ZERO, 0), (Duration::ZERO, 0));
    while with.1 == 0 || begun.elapsed() < bench.time {
        let started = Instant::now();
        append(&partition, [batch.clone()], AckClass::Disk);
        let took = started.elapsed();
        let now = partition.status().segments;
        let sum = if now > segments { &mut with } else { &mut without };
        *sum = (sum.0 + took, sum.1 + 1);
        segments = now;
    }
    print("rotate/with/64KiB", with.0, with.1, 0);
    print("rotate/without/64KiB", without.0, without.1, 0);
}

/// Opening a partition whose newest segment is nearly full: after a stop that left no mark, and after a clean one.
fn openings(bench: &Bench) {
    for clean in [false, true] {
        let name = if clean { "open/clean" } else { "open/unclean" };
        if !bench.wants(name) {
            continue;
        }
        let dir = folder();
        let options = PartitionOptions { segment_bytes: CONTENT_BYTES as u64 * 5 / 4, ..PartitionOptions::default() };
        let (log, partition) = open(dir.path(), options.clone());
        fill(&partition);
        let end = partition.committed().get();
        let mut held = Some((log, partition));
        let (begun, mut spent, mut rounds) = (Instant::now(), Duration::ZERO, 0);
        while rounds == 0 || begun.elapsed() < bench.time {
            let (log, partition) = held.take().unwrap();
            drop(partition);
            if clean {
                log.close().unwrap();
            }
            drop(log);
            let started = Instant::now();
            let (log, partition) = open(dir.path(), options.clone());
            spent += started.elapsed();
            assert_eq!(partition.committed().get(), end);
            held = Some((log, partition));
            rounds += 1;
        }
        print(name, spent, rounds, 0);
    }
}
