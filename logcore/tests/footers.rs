//! Sealed segments: opened from their footers, read as a whole where those are damaged or not true, verified in the background,
//! and kept open in bounded numbers.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod kit;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kit::watched::Watched;
use kit::{ID, append, fill, in_memory, numbers, one, open, open_on, options, read_from, segment_files, until};
use logcore::io::DiskIo;
use logcore::io::sim::SimDisk;
use logcore::partition::Health;
use logcore::{Compaction, Error, LogOptions, Offset, PartitionRef, Retention, StreamId, TimestampMillis};

const COUNT: u64 = 400;

/// A disk with some ten sealed segments.
fn sealed() -> SimDisk {
    let disk = SimDisk::new();
    let log = open(&disk, &options(|_| {}));
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..COUNT, 3_000);
    assert!(partition.status().segments > 8);
    disk.crash(0)
}

fn verifying() -> LogOptions {
    LogOptions { keeper_interval: Duration::from_millis(1), verify_bytes_per_second: u64::MAX, ..options(|_| {}) }
}

fn file_bytes(disk: &SimDisk, path: &Path) -> u64 {
    disk.open(path).unwrap().len_bytes().unwrap()
}

/// Where the seal frame of a segment stands, and where its trailer does.
fn seal_and_trailer(disk: &SimDisk, path: &Path) -> (u64, u64) {
    let file = disk.open(path).unwrap();
    let trailer_at = file.len_bytes().unwrap() - 4096;
    let trailer = file.read(trailer_at, 36).unwrap();
    assert_eq!(&trailer[..4], b"HwT1");
    (u64::from_le_bytes(trailer[24..32].try_into().unwrap()), trailer_at)
}

#[test]
fn opening_reads_nothing_of_sealed_segments_but_the_last_footer() {
    let disk = sealed();
    let files = segment_files(&disk);
    let watched = Watched::new(disk);
    let log = open_on(Arc::new(watched.clone()), &options(|_| {}));
    let partition = log.open_partition(ID).unwrap();
    let (_newest, older) = files.split_last().unwrap();
    let (last, older) = older.split_last().unwrap();
    for file in older {
        assert_eq!(watched.bytes_read(file), 0, "{}", file.display());
    }
    assert!(watched.bytes_read(last) <= 4096 + 8192, "trailer and footer: {}", watched.bytes_read(last));
    assert_eq!(partition.committed().get().value(), COUNT);
}

#[test]
fn what_retention_asks_for_is_read_from_the_footers() {
    let disk = sealed();
    let files = segment_files(&disk);
    let watched = Watched::new(disk);
    let by_age = options(|partition| {
        partition.retention = Retention { age: Some(Duration::from_hours(1)), ..Retention::default() };
    });
    let log = open_on(Arc::new(watched.clone()), &by_age);
    let partition = log.open_partition(ID).unwrap();
    assert_eq!(partition.retain(TimestampMillis::new(0)).unwrap(), 0);
    for file in &files[..files.len() - 1] {
        let read = watched.bytes_read(file);
        assert!(read > 0 && read <= 4096 + 8192, "{read} bytes of {}", file.display());
    }
    let before: u64 = files.iter().map(|file| watched.bytes_read(file)).sum();
    partition.retain(TimestampMillis::new(0)).unwrap();
    assert_eq!(files.iter().map(|file| watched.bytes_read(file)).sum::<u64>(), before, "asked again, it is known");
}

#[test]
fn a_cold_read_reads_the_footer_and_the_place_only() {
    let disk = sealed();
    let files = segment_files(&disk);
    let watched = Watched::new(disk);
    let log = open_on(Arc::new(watched.clone()), &options(|_| {}));
    let partition = log.open_partition(ID).unwrap();
    let (segment, _) = partition.locate(Offset::new(100)).unwrap().unwrap();
    let file = files.iter().find(|file| file.to_string_lossy().contains(&format!("{:020}.seg", segment.value()))).unwrap();
    let before = watched.bytes_read(file);
    let frames = partition.read(Offset::new(100), 1).unwrap();
    assert_eq!(frames[0].header.base_offset.value(), 100);
    let read = watched.bytes_read(file) - before;
    assert!(read <= 64 << 10, "{read} of {} bytes", file_bytes(&watched.disk, file));
}

#[test]
fn a_segment_with_a_damaged_trailer_or_footer_is_read_as_a_whole() {
    let damages: [fn((u64, u64)) -> u64; 4] =
        [|(_, trailer)| trailer, |(_, trailer)| trailer + 20, |(seal, _)| seal + 3, |(seal, _)| seal + 90];
    for damage in damages {
        let disk = sealed();
        let files = segment_files(&disk);
        for file in &files[..files.len() - 1] {
            disk.flip_bit(file, damage(seal_and_trailer(&disk, file)));
        }
        let log = open(&disk, &options(|_| {}));
        let partition = log.open_partition(ID).unwrap();
        assert_eq!(partition.health(), Health::Healthy);
        assert_eq!(numbers(&partition), (0..COUNT).collect::<Vec<_>>());
        assert_eq!(partition.offset_at(TimestampMillis::new(123)).unwrap().value(), 123);
        assert_eq!(append(&partition, one(COUNT, 10)).unwrap().base_offset.value(), COUNT);
    }
}

/// The newest segment is sealed and its trailer damaged: the log goes on behind it all the same.
#[test]
fn a_newest_segment_that_is_sealed_takes_nothing_more() {
    for flip in [false, true] {
        let disk = sealed();
        let files = segment_files(&disk);
        let newest = files.last().unwrap();
        disk.remove(newest).unwrap();
        let last = &files[files.len() - 2];
        if flip {
            disk.flip_bit(last, file_bytes(&disk, last) - 4096);
        }
        let log = open(&disk, &options(|_| {}));
        let partition = log.open_partition(ID).unwrap();
        let end = partition.committed().get().value();
        assert_eq!(newest.file_stem().unwrap().to_string_lossy().parse::<u64>().unwrap(), end);
        assert_eq!(append(&partition, one(end, 10)).unwrap().base_offset.value(), end);
        assert_eq!(segment_files(&disk), files, "in a new file of the name that follows");
        assert_eq!(numbers(&partition), (0..=end).collect::<Vec<_>>());
    }
}

/// A file from another log, whole and sealed, that ends before the next segment begins.
#[test]
fn a_footer_that_ends_elsewhere_than_the_next_segment_begins_is_not_believed() {
    let disk = sealed();
    let first = segment_files(&disk)[0].clone();
    let other = SimDisk::new();
    let log = open(&other, &options(|partition| partition.segment_bytes = 64 << 10));
    fill(&log.open_partition(ID).unwrap(), 0..COUNT, 3_000);
    let shorter = other.read_small(&first).unwrap().unwrap();
    disk.write_atomic(&first, &shorter).unwrap();
    let log = open(&disk, &options(|_| {}));
    let partition = log.open_partition(ID).unwrap();
    let ends = segment_files(&other)[1].file_stem().unwrap().to_string_lossy().parse::<u64>().unwrap();
    let next = segment_files(&disk)[1].file_stem().unwrap().to_string_lossy().parse::<u64>().unwrap();
    assert!(ends < next);
    assert_eq!(read_from(&partition, next, 10_000).unwrap().len() as u64, COUNT - next);
    assert_eq!(partition.read(Offset::ZERO, 1).unwrap()[0].header.base_offset, Offset::ZERO);
    assert!(partition.read(Offset::new(ends), 1).is_err() || partition.read(Offset::new(ends), 1).unwrap().is_empty());
    // What stands before the gap is served, and whoever reads on hears of the gap rather than skipping it.
    let mut reader = partition.reader(Offset::ZERO);
    while reader.next_offset().value() < ends {
        assert!(!reader.read(10_000).unwrap().is_empty());
    }
    match reader.read(10_000) {
        Err(Error::Corrupt { offset, .. }) => assert_eq!(offset.value(), ends),
        other => panic!("{other:?}"),
    }
}

#[test]
fn verification_finds_a_flipped_bit_and_says_where() {
    let disk = sealed();
    let files = segment_files(&disk);
    disk.flip_bit(&files[3], 4096 * 5 + 200);
    let log = open(&disk, &verifying());
    let partition = log.open_partition(ID).unwrap();
    until("the damage is found", || !partition.status().damage.is_empty());
    let damage = partition.status().damage;
    assert_eq!(damage.len(), 1);
    assert!(damage[0].contains(&*files[3].to_string_lossy()), "{damage:?}");
    assert_eq!(partition.health(), Health::Healthy, "sealed segments don't keep a log from growing");
    append(&partition, one(COUNT, 10)).unwrap();
}

#[test]
fn verification_reads_every_sealed_segment_and_finds_nothing_wrong_with_intact_ones() {
    let disk = sealed();
    // Some of them compacted, some of them with a damaged trailer, which is no damage to the records.
    let compacting = options(|partition| partition.compaction = Some(Compaction::default()));
    let log = open(&disk, &compacting);
    assert!(log.open_partition(ID).unwrap().compact(TimestampMillis::new(0)).unwrap());
    fill(&log.open_partition(ID).unwrap(), COUNT..2 * COUNT, 3_000);
    let disk = disk.crash(0);
    let files = segment_files(&disk);
    let sealed = &files[..files.len() - 1];
    disk.flip_bit(&sealed[1], file_bytes(&disk, &sealed[1]) - 4096);
    let content: Vec<u64> =
        sealed.iter().map(|file| if file == &sealed[1] { 1 } else { seal_and_trailer(&disk, file).0 }).collect();
    let watched = Watched::new(disk);
    let log = open_on(Arc::new(watched.clone()), &verifying());
    let partition = log.open_partition(ID).unwrap();
    until("all are read", || sealed.iter().zip(&content).all(|(file, content)| watched.bytes_read(file) >= *content));
    // Closing waits for the verifier.
    log.close().unwrap();
    assert_eq!(partition.status().damage, Vec::<String>::new());
}

#[test]
fn few_sealed_segments_stay_open_however_many_are_read() {
    let watched = Watched::new(SimDisk::new());
    let tiny = options(|partition| partition.segment_bytes = 16 << 10);
    let log = open_on(Arc::new(watched.clone()), &tiny);
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..330, 60_000);
    let segments = partition.status().segments;
    assert!(segments > 300, "{segments}");
    for _ in 0..2 {
        assert_eq!(numbers(&partition), (0..330).collect::<Vec<_>>());
        assert!(watched.open_files() <= 256 + 8, "{} files are open", watched.open_files());
    }
}

/// More partitions are opened than segments may stay open: what an active segment holds in RAM only is never let go.
#[test]
fn what_an_active_segment_knows_of_itself_is_never_let_go() {
    let disk = SimDisk::new();
    let others = || (21..340).map(|stream| PartitionRef::new(StreamId::new(stream), 0));
    let log = open(&disk, &options(|_| {}));
    for id in others().chain([ID]) {
        fill(&log.open_partition(id).unwrap(), 0..3, 1_000);
    }
    let disk = disk.crash(0);
    let watched = Watched::new(disk);
    let kept = LogOptions { partition: options(in_memory).partition, ..verifying() };
    let log = open_on(Arc::new(watched.clone()), &kept);
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 3..10, 3_000);
    assert_eq!(partition.flushed().value(), 3, "they are in RAM only");
    let others: Vec<_> = others().map(|id| log.open_partition(id).unwrap()).collect();
    assert_eq!(numbers(&partition), (0..10).collect::<Vec<_>>());
    fill(&partition, 10..200, 3_000);
    partition.flush().unwrap();
    let mine = |path: &std::path::PathBuf| path.starts_with("/sim/log/20");
    let sealed: Vec<_> = segment_files(&watched.disk).into_iter().filter(mine).take(2).collect();
    until("they are verified", || sealed.iter().all(|file| watched.bytes_read(file) >= seal_and_trailer(&watched.disk, file).0));
    log.close().unwrap();
    assert_eq!(partition.status().damage, Vec::<String>::new());
    drop(others);
    let log = open(&watched.disk, &options(|_| {}));
    assert_eq!(numbers(&log.open_partition(ID).unwrap()), (0..200).collect::<Vec<_>>());
}

/// A reader that is always a little behind what is in RAM goes through the file of the active segment while that grows and is
/// sealed.
#[test]
fn a_reader_that_follows_the_active_segment_through_its_file_meets_every_record() {
    for step in [1, 3, 10] {
        let one_chunk = LogOptions { memory_bytes_max: 1 << 20, ..options(|_| {}) };
        let log = open(&SimDisk::new(), &one_chunk);
        let partition = log.open_partition(ID).unwrap();
        let other = log.open_partition(PartitionRef::new(StreamId::new(30), 0)).unwrap();
        let (mut reader, mut next) = (partition.reader(Offset::ZERO), 0);
        for start in (0..200).step_by(step) {
            let end = start + step as u64;
            fill(&partition, start..end, 3_000);
            // It takes the only chunk.
            fill(&other, start..start + 1, 10);
            // One frame at a time, but not all.
            while next + 2 < end {
                let frames = reader.read(1).unwrap();
                assert_eq!(frames[0].header.base_offset.value(), next);
                next += frames.len() as u64;
            }
        }
        assert!(partition.status().segments > 3);
    }
}

/// A file that somebody cut short: what is left of the log is kept, and what is appended goes where nothing is overwritten.
#[test]
fn a_newest_segment_that_was_cut_short_loses_nothing_more() {
    for blocks in 0..12 {
        let disk = SimDisk::new();
        let log = open(&disk, &options(|_| {}));
        let partition = log.open_partition(ID).unwrap();
        for n in 0..10 {
            append(&partition, one(n, 100)).unwrap();
        }
        let disk = disk.crash(0);
        let file = segment_files(&disk)[0].clone();
        let content = disk.read_small(&file).unwrap().unwrap();
        disk.write_atomic(&file, &content[..blocks * 4096]).unwrap();
        let log = open(&disk, &options(|_| {}));
        let partition = log.open_partition(ID).unwrap();
        let left = partition.committed().get().value();
        assert_eq!(left, (blocks as u64).min(10));
        fill(&partition, left..left + 100, 3_000);
        drop(partition);
        let log = open(&disk.crash(1), &options(|_| {}));
        assert_eq!(numbers(&log.open_partition(ID).unwrap()), (0..left + 100).collect::<Vec<_>>());
    }
}
