//! Rings: streams of a fixed size that overwrite their oldest segments, whoever still wants them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, on a real clock")]

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::{ID, append, fill, number, numbers, one, open, options, read_from, records, until};
use logcore::io::sim::SimDisk;
use logcore::partition::PartitionOptions;
use logcore::{Error, Hold, Holder, LogOptions, Offset, Partition, Retention, TimestampMillis};

const RING_BYTES: u64 = 512 << 10;
const SEGMENT_BYTES: u64 = 128 << 10;
const NOW: TimestampMillis = TimestampMillis::new(0);

fn ring(partition: &mut PartitionOptions) {
    partition.retention = Retention { bytes: Some(RING_BYTES), ring: true, ..Retention::default() };
}

/// Every record that is left, by its offset alone.
fn check_each_by_offset(partition: &Partition) {
    let (start, end) = (partition.log_start().value(), partition.committed().get().value());
    for step in 0..300 {
        let offset = start + (step * 7_919) % (end - start);
        let frames = partition.read(Offset::new(offset), 1).unwrap();
        let found = records(&frames[0].body).unwrap();
        let record = found.iter().find(|record| record.offset == offset).unwrap();
        assert_eq!(number(record.value.as_ref().unwrap()), offset);
    }
}

#[test]
fn it_stays_within_its_size_and_one_segment() {
    let disk = SimDisk::new();
    let log = open(&disk, &options(ring));
    let partition = log.open_partition(ID).unwrap();
    for round in 0..40 {
        fill(&partition, round * 30..(round + 1) * 30, 3_000);
        partition.retain(NOW).unwrap();
        let bytes = partition.status().bytes;
        assert!(bytes <= RING_BYTES + SEGMENT_BYTES, "{bytes} bytes after round {round}");
    }
    assert!(partition.status().bytes > RING_BYTES - 2 * SEGMENT_BYTES, "it holds what it was declared to hold");
    let start = partition.log_start().value();
    assert!(start > 0);
    assert_eq!(numbers(&partition), (start..1_200).collect::<Vec<_>>());
    check_each_by_offset(&partition);
}

#[test]
fn a_ring_by_records_keeps_about_so_many() {
    let disk = SimDisk::new();
    let by_records = |partition: &mut PartitionOptions| {
        partition.retention = Retention { records: Some(200), ring: true, ..Retention::default() };
    };
    let log = open(&disk, &options(by_records));
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..1_000, 3_000);
    partition.retain(NOW).unwrap();
    let left = partition.log_start().records_until(partition.committed().get());
    assert!((200..260).contains(&left), "{left} records");
}

#[test]
fn the_oldest_records_are_gone_and_the_answer_says_where_the_log_starts() {
    let disk = SimDisk::new();
    let log = open(&disk, &options(ring));
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..600, 3_000);
    partition.retain(NOW).unwrap();
    let start = partition.log_start();
    for gone in [0, start.value() - 1] {
        match partition.read(Offset::new(gone), 1) {
            Err(Error::OffsetOutOfRange { offset, log_start, .. }) => assert_eq!((offset.value(), log_start), (gone, start)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        partition.offset_at(TimestampMillis::new(i64::MIN)).unwrap(),
        start,
        "the earliest time is that of the log's start"
    );
}

/// Nobody is waited for: a view that lags and a cursor lose what they have not read.
#[test]
fn it_waits_for_nobody() {
    struct Everything;
    impl Holder for Everything {
        fn needed_from(&self) -> Option<Offset> {
            Some(Offset::ZERO)
        }
    }
    let disk = SimDisk::new();
    let log = open(&disk, &options(ring));
    let partition = log.open_partition(ID).unwrap();
    let holder: Arc<dyn Holder> = Arc::new(Everything);
    partition.hold(Hold::View, Arc::downgrade(&holder));
    partition.hold(Hold::Cursor, Arc::downgrade(&holder));
    fill(&partition, 0..600, 3_000);
    partition.retain(NOW).unwrap();
    assert!(partition.log_start() > Offset::ZERO);
}

/// The keeper hears of every new segment, also while it has a slow verification to do.
#[test]
fn it_is_kept_within_its_size_while_sealed_segments_are_verified() {
    let disk = SimDisk::new();
    let verified_slowly = LogOptions { keeper_interval: Duration::from_millis(1), verify_bytes_per_second: 1, ..options(ring) };
    let log = open(&disk, &verified_slowly);
    let partition = log.open_partition(ID).unwrap();
    for round in 0..10 {
        fill(&partition, round * 100..(round + 1) * 100, 3_000);
        until("the oldest segments go", || partition.status().bytes <= RING_BYTES + SEGMENT_BYTES);
    }
    drop(partition);
    log.close().unwrap();
}

/// Readers at the oldest end, while it is overwritten: intact records in order, or the answer that they are gone.
#[test]
fn readers_that_are_overwritten_get_records_or_a_clean_answer() {
    let dir = tempfile::tempdir().unwrap();
    let rung = LogOptions {
        keeper_interval: Duration::from_secs(1),
        ..options(|partition| {
            ring(partition);
            partition.tail_chunks_max = 0;
        })
    };
    let log = logcore::Log::open(dir.path(), rung).unwrap();
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..300, 3_000);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for follow in [true, false] {
            let (partition, done) = (&partition, &done);
            scope.spawn(move || {
                let (mut read, mut overwritten) = (0_u64, 0_u64);
                while !done.load(Ordering::Relaxed) || read == 0 {
                    let mut next = partition.log_start();
                    let mut reader = partition.reader(next);
                    loop {
                        let frames = match if follow { reader.read(20_000) } else { partition.read(next, 20_000) } {
                            Ok(frames) => frames,
                            Err(Error::OffsetOutOfRange { offset, log_start, .. }) => {
                                assert!(offset < log_start);
                                overwritten += 1;
                                break;
                            }
                            Err(error) => panic!("{error}"),
                        };
                        let Some(last) = frames.last() else { break };
                        for frame in &frames {
                            for record in records(&frame.body).unwrap() {
                                assert_eq!(record.offset, next.value(), "in order, without a hole");
                                assert_eq!(number(record.value.as_ref().unwrap()), record.offset);
                                next = next.advance(1);
                                read += 1;
                            }
                        }
                        assert_eq!(next, last.end_offset());
                    }
                }
                (read, overwritten)
            });
        }
        let writer = scope.spawn(|| (3..20).for_each(|round| fill(&partition, round * 100..(round + 1) * 100, 3_000)));
        let written = writer.join();
        done.store(true, Ordering::Relaxed);
        written.unwrap();
    });
}

#[test]
fn reads_from_ram_and_from_files_are_counted() {
    let disk = SimDisk::new();
    let log = open(
        &disk,
        &options(|partition| {
            ring(partition);
            partition.segment_bytes = 4 << 20;
            partition.retention.bytes = Some(64 << 20);
        }),
    );
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..40, 100_000);
    let before = partition.status();
    for _ in 0..5 {
        read_from(&partition, 39, 1).unwrap();
    }
    let newest = partition.status();
    assert_eq!((newest.ram_hits - before.ram_hits, newest.ram_misses - before.ram_misses), (5, 0));
    for _ in 0..3 {
        partition.read(Offset::ZERO, 1).unwrap();
    }
    let oldest = partition.status();
    assert_eq!((oldest.ram_hits - newest.ram_hits, oldest.ram_misses - newest.ram_misses), (0, 3));
}

#[test]
fn it_goes_on_after_a_crash_and_starts_where_it_started() {
    let disk = SimDisk::new();
    let log = open(&disk, &options(ring));
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..600, 3_000);
    partition.retain(NOW).unwrap();
    let start = partition.log_start();
    let after = disk.crash(3);
    let log = open(&after, &options(ring));
    let reopened = log.open_partition(ID).unwrap();
    assert_eq!(reopened.log_start(), start);
    assert_eq!(numbers(&reopened), (start.value()..600).collect::<Vec<_>>());
    assert_eq!(append(&reopened, one(600, 10)).unwrap().base_offset.value(), 600);
}
