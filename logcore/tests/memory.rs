//! `ack = memory`: answered from RAM, spilled by age, size and pressure, never a used offset twice; and what a full RAM tier or a
//! full disk does to memory and disk streams.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, on a real clock")]

mod kit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kit::{ID, append, block_on, far, fill, in_memory, number, numbers, of, one, open, options, read_all, read_from, until};
use logcore::io::sim::SimDisk;
use logcore::{AckClass, Error, ErrorKind, Log, LogOptions, Offset, Partition, PartitionRef, StreamId};

fn memory_log(disk: &SimDisk) -> (Log, Arc<Partition>) {
    let log = open(disk, &options(in_memory));
    let partition = log.open_partition(ID).unwrap();
    (log, partition)
}

/// One append makes the segment and the ceiling; what follows needs no disk.
fn warm(partition: &Partition) {
    assert_eq!(append(partition, one(0, 10)).unwrap().ack, AckClass::Memory);
    partition.flush().unwrap();
}

#[test]
fn an_append_is_answered_and_seen_before_anything_is_written() {
    let disk = SimDisk::new();
    let (_log, partition) = memory_log(&disk);
    warm(&partition);
    let before = disk.operations();
    for n in 1..50 {
        assert_eq!(append(&partition, one(n, 100)).unwrap().base_offset.value(), n);
        assert_eq!(partition.committed().get().value(), n + 1, "it is committed when it is answered");
    }
    assert_eq!(numbers(&partition), (0..50).collect::<Vec<_>>());
    assert_eq!(partition.flushed().value(), 1);
    assert_eq!(partition.status().unflushed_records, 49);
    assert_eq!(disk.operations(), before, "the disk was not asked for anything");
}

#[test]
fn what_is_only_in_ram_goes_to_the_disk_by_age() {
    let disk = SimDisk::new();
    let aged = options(|partition| {
        partition.ack = AckClass::Memory;
        partition.flush_interval = Duration::from_millis(1);
    });
    let log = open(&disk, &aged);
    let partition = log.open_partition(ID).unwrap();
    append(&partition, one(0, 10)).unwrap();
    until("the age flush", || partition.flushed() == partition.committed().get());
}

#[test]
fn what_is_only_in_ram_goes_to_the_disk_by_size() {
    let disk = SimDisk::new();
    let log = open(
        &disk,
        &options(|partition| {
            in_memory(partition);
            partition.segment_bytes = 16 << 20;
        }),
    );
    let partition = log.open_partition(ID).unwrap();
    // A mebibyte goes; what came last may stay.
    fill(&partition, 0..30, 100_000);
    until("the size flush", || partition.flushed().value() >= 10);
}

#[test]
fn what_is_only_in_ram_goes_to_the_disk_when_others_need_the_room() {
    let disk = SimDisk::new();
    let two_chunks = LogOptions { memory_bytes_max: 2 << 20, ..options(in_memory) };
    let log = open(&disk, &two_chunks);
    let holder = log.open_partition(ID).unwrap();
    warm(&holder);
    append(&holder, one(1, 50_000)).unwrap();
    assert_eq!(holder.flushed().value(), 1);
    for stream in 30..34 {
        let other = log.open_partition(PartitionRef::new(StreamId::new(stream), 0)).unwrap();
        append(&other, one(0, 50_000).acknowledged(AckClass::Disk)).unwrap();
    }
    assert_eq!(holder.flushed().value(), 2, "it was written to make room");
    assert_eq!(numbers(&holder), [0, 1]);
}

#[test]
fn a_flush_waits_until_everything_is_durable() {
    let disk = SimDisk::new();
    let (_log, partition) = memory_log(&disk);
    warm(&partition);
    append(&partition, one(1, 10)).unwrap();
    disk.hold_completions(true);
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| partition.flush());
        disk.wait_held(1);
        assert_eq!(partition.flushed().value(), 1);
        assert!(!flush.is_finished());
        disk.hold_completions(false);
        disk.release(0);
        flush.join().unwrap().unwrap();
    });
    assert_eq!(partition.flushed().value(), 2);
    let before = disk.operations();
    partition.flush().unwrap();
    assert_eq!(disk.operations(), before, "there was nothing to do");
}

#[test]
fn a_request_for_disk_on_a_memory_stream_waits_for_the_disk() {
    let disk = SimDisk::new();
    let (_log, partition) = memory_log(&disk);
    warm(&partition);
    disk.hold_completions(true);
    std::thread::scope(|scope| {
        let strong = scope.spawn(|| append(&partition, one(1, 10).acknowledged(AckClass::Disk)));
        disk.wait_held(1);
        let weak = append(&partition, one(2, 10)).unwrap();
        assert_eq!((weak.ack, weak.base_offset.value()), (AckClass::Memory, 2), "the others do not wait with it");
        assert!(!strong.is_finished());
        assert_eq!(partition.flushed().value(), 1);
        disk.hold_completions(false);
        disk.release(0);
        assert_eq!(strong.join().unwrap().unwrap().ack, AckClass::Disk);
    });
    assert!(partition.flushed().value() >= 2);
}

/// RAM is full and the disk does not answer: appends wait, are refused at their deadline, and go on by themselves.
#[test]
fn a_full_ram_tier_throttles_at_the_deadline_and_recovers_by_itself() {
    let disk = SimDisk::new();
    let two_chunks = LogOptions {
        memory_bytes_max: 2 << 20,
        ..options(|partition| {
            in_memory(partition);
            partition.segment_bytes = 16 << 20;
        })
    };
    let log = open(&disk, &two_chunks);
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..1, 10);
    partition.flush().unwrap();
    disk.hold_completions(true);
    // More than fits: some are answered from RAM, the rest waits.
    let patient: Vec<_> = (1..40).map(|n| block_on(partition.append(one(n, 100_000), far())).unwrap()).collect();
    disk.wait_held(1);
    let soon = Instant::now() + Duration::from_millis(30);
    let hasty = block_on(partition.append(one(1_000, 100_000), soon)).unwrap();
    let error = hasty.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled, "{error}");
    assert!(Instant::now() >= soon, "it waited until its deadline");
    let in_ram = partition.committed().get().value();
    assert!((2..40).contains(&in_ram), "{in_ram} fit");
    assert!(log.memory_bytes().0 <= 2 << 20);
    disk.hold_completions(false);
    disk.release(3);
    let offsets: Vec<u64> = patient.into_iter().map(|ticket| ticket.wait().unwrap().base_offset.value()).collect();
    assert_eq!(offsets, (1..40).collect::<Vec<_>>());
    assert_eq!(numbers(&partition), (0..40).collect::<Vec<_>>());
}

#[test]
fn a_full_disk_lets_memory_streams_wait_to_their_deadline_and_then_says_so() {
    let disk = SimDisk::new();
    let (_log, partition) = memory_log(&disk);
    warm(&partition);
    disk.set_free_bytes(Some(0));
    let mut next = 1;
    let error = loop {
        let soon = Instant::now() + Duration::from_millis(60);
        match block_on(partition.append(one(next, 10_000), soon)).unwrap().wait() {
            Ok(appended) => assert_eq!(appended.base_offset.value(), next),
            Err(error) => {
                assert!(Instant::now() >= soon, "it waited until its deadline");
                break error;
            }
        }
        next += 1;
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(numbers(&partition), (0..next).collect::<Vec<_>>(), "reads go on");
    // Those that wait now go on by themselves.
    let waiting: Vec<_> = (next..next + 3).map(|n| block_on(partition.append(one(n, 10_000), far())).unwrap()).collect();
    disk.set_free_bytes(None);
    for ticket in waiting {
        ticket.wait().unwrap();
    }
    assert_eq!(numbers(&partition), (0..next + 3).collect::<Vec<_>>());
}

#[test]
fn a_full_disk_is_told_to_disk_streams_at_once() {
    let disk = SimDisk::new();
    let log = open(&disk, &options(|_| {}));
    let partition = log.open_partition(ID).unwrap();
    disk.set_free_bytes(Some(0));
    for _ in 0..20 {
        // The deadline is far away: this would hang if they waited for it.
        let error = block_on(partition.append(one(0, 10), far())).unwrap().wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    }
    disk.set_free_bytes(None);
    assert_eq!(append(&partition, one(0, 10)).unwrap().base_offset, Offset::ZERO);
}

/// Offsets that were answered or seen name nothing else after a crash, whatever of them is still there.
#[test]
fn after_an_unclean_stop_no_offset_is_given_out_again() {
    for seed in 0..60_u64 {
        let disk = SimDisk::new();
        let (log, partition) = memory_log(&disk);
        let mut next = 0;
        for step in 0..=seed % 9 {
            for _ in 0..20 + seed {
                next = append(&partition, one(next, 300)).unwrap().end_offset().value();
            }
            if step % 3 == 1 {
                partition.flush().unwrap();
            }
        }
        let (seen_until, durable) = (partition.committed().get(), partition.flushed().value());
        let after = disk.crash(seed);
        let (_log, reopened) = memory_log(&after);
        let left = numbers(&reopened);
        assert!(left.len() as u64 >= durable, "seed {seed}: what was flushed is there");
        assert!(left.iter().enumerate().all(|(at, n)| at as u64 == *n), "seed {seed}: in order, whole");
        let again = append(&reopened, one(7, 10)).unwrap();
        assert!(again.base_offset >= seen_until, "seed {seed}: {} was given out before", again.base_offset);
        let all = read_all(&reopened);
        assert_eq!(all.len(), left.len() + 1, "seed {seed}: the gap holds no record");
        assert_eq!(read_from(&reopened, left.len() as u64, 100).unwrap().last().unwrap().offset, again.base_offset.value());
        drop((log, partition));
    }
}

#[test]
fn a_clean_stop_leaves_no_gap() {
    let disk = SimDisk::new();
    for round in 0..4_u64 {
        let (log, partition) = memory_log(&disk);
        for n in 0..50 {
            assert_eq!(append(&partition, one(round * 50 + n, 900)).unwrap().base_offset.value(), round * 50 + n);
        }
        drop(partition);
        log.close().unwrap();
    }
    let (_log, partition) = memory_log(&disk);
    assert_eq!(numbers(&partition), (0..200).collect::<Vec<_>>());
}

#[test]
fn two_crashes_in_a_row_give_out_no_offset_again() {
    for seed in 0..40_u64 {
        let disk = SimDisk::new();
        let (_first, partition) = memory_log(&disk);
        for n in 0..10 {
            append(&partition, one(n, 100)).unwrap();
        }
        let first_end = partition.committed().get();
        let disk = disk.crash(seed);
        let (_second, partition) = memory_log(&disk);
        let second = append(&partition, one(20, 100)).unwrap();
        assert!(second.base_offset >= first_end);
        // What fills the gap may be durable now, or not.
        if seed % 2 == 0 {
            partition.flush().unwrap();
        }
        let disk = disk.crash(seed + 1_000);
        let (_third, partition) = memory_log(&disk);
        let third = append(&partition, one(30, 100)).unwrap();
        assert!(third.base_offset >= second.end_offset(), "seed {seed}: {second:?} then {third:?}");
        assert_eq!(read_all(&partition).last().map(|last| last.offset), Some(third.base_offset.value()));
    }
}

#[test]
fn a_gap_may_open_a_new_segment() {
    let disk = SimDisk::new();
    let (_log, partition) = memory_log(&disk);
    fill(&partition, 0..10, 1_000);
    partition.flush().unwrap();
    append(&partition, one(10, 10)).unwrap();
    let seen_until = partition.committed().get();
    let disk = disk.crash(1);
    let (log, partition) = memory_log(&disk);
    let segments = partition.status().segments;
    let large = append(&partition, one(11, 110_000)).unwrap();
    assert!(large.base_offset >= seen_until);
    assert_eq!(partition.status().segments, segments + 1, "it did not fit behind the rest");
    partition.flush().unwrap();
    drop((partition, log));
    let (_log, partition) = memory_log(&disk.crash(2));
    let all = read_all(&partition);
    assert_eq!(all.last().map(|last| (last.offset, number(last.value.as_ref().unwrap()))), Some((large.base_offset.value(), 11)));
}

/// Frames at sizes around the length of a file: each fits the file that is made for it.
#[test]
fn a_batch_of_any_size_finds_a_segment_it_fits_into() {
    for ack in [AckClass::Disk, AckClass::Memory] {
        let log = open(
            &SimDisk::new(),
            &options(|partition| {
                partition.ack = ack;
                partition.segment_bytes = 16 << 10;
            }),
        );
        let partition = log.open_partition(ID).unwrap();
        for (n, len) in (1_100_000..1_100_000 + 4_200).step_by(7).enumerate().step_by(8) {
            assert_eq!(append(&partition, one(n as u64, len)).unwrap().count, 1);
        }
    }
}

#[test]
fn a_stream_that_becomes_memory_shows_nothing_above_its_ceiling() {
    let disk = SimDisk::new();
    let log = open(&disk, &options(|_| {}));
    let partition = log.open_partition(ID).unwrap();
    append(&partition, one(0, 10)).unwrap();
    disk.hold_completions(true);
    let strong = partition.try_append(of(&[1, 2, 3], 10)).unwrap();
    disk.wait_held(1);
    let mut altered = partition.options();
    in_memory(&mut altered);
    partition.reconfigure(altered);
    // This one is not answered before a flush has recorded a ceiling above it.
    let weak = partition.try_append(one(4, 10)).unwrap();
    let crashed = disk.crash(9);
    disk.hold_completions(false);
    disk.release(0);
    assert_eq!(strong.wait().unwrap().base_offset.value(), 1);
    let weak = weak.wait().unwrap();
    assert_eq!((weak.ack, weak.base_offset.value()), (AckClass::Memory, 4));
    let later = disk.crash(10);
    let (_log, after) = memory_log(&later);
    assert!(append(&after, one(9, 10)).unwrap().base_offset >= weak.end_offset());
    let (_log, before) = memory_log(&crashed);
    assert!(append(&before, one(9, 10)).unwrap().base_offset.value() >= 1);
}

#[test]
fn a_stream_that_becomes_disk_writes_out_what_it_kept_in_ram() {
    let disk = SimDisk::new();
    let (_log, partition) = memory_log(&disk);
    warm(&partition);
    fill(&partition, 1..5, 10);
    let mut altered = partition.options();
    altered.ack = AckClass::Disk;
    partition.reconfigure(altered);
    until("the flush", || partition.flushed().value() == 5);
    assert_eq!(append(&partition, one(5, 10)).unwrap().ack, AckClass::Disk);
}

/// The chunk that is being filled stays where readers find it, however little a partition may keep.
#[test]
fn answered_records_can_be_read_when_no_chunk_may_stay() {
    let disk = SimDisk::new();
    let log = open(
        &disk,
        &options(|partition| {
            in_memory(partition);
            partition.tail_chunks_max = 0;
        }),
    );
    let partition = log.open_partition(ID).unwrap();
    for n in 0..20 {
        append(&partition, one(n, 100)).unwrap();
        if n % 3 == 0 {
            partition.flush().unwrap();
        }
        assert_eq!(numbers(&partition).len() as u64, n + 1);
    }
}

/// Each needs a second chunk, and the budget has none left: neither waits for the other's last one.
#[test]
fn partitions_that_wait_for_each_others_memory_go_on() {
    let disk = SimDisk::new();
    let two_chunks = LogOptions { memory_bytes_max: 2 << 20, ..options(|partition| partition.segment_bytes = 16 << 20) };
    let log = open(&disk, &two_chunks);
    let partitions: Vec<_> =
        (30..32).map(|stream| log.open_partition(PartitionRef::new(StreamId::new(stream), 0)).unwrap()).collect();
    for partition in &partitions {
        append(partition, one(0, 700_000)).unwrap();
    }
    let tickets: Vec<_> =
        partitions.iter().map(|partition| block_on(partition.append(one(1, 700_000), far())).unwrap()).collect();
    for ticket in tickets {
        assert_eq!(ticket.wait().unwrap().base_offset.value(), 1);
    }
}

#[test]
fn a_poisoned_memory_stream_answers_nothing_more_and_keeps_what_it_can() {
    let disk = SimDisk::new();
    let (_log, partition) = memory_log(&disk);
    warm(&partition);
    append(&partition, one(1, 10)).unwrap();
    disk.fail_next_sync();
    assert!(matches!(partition.flush(), Err(Error::Poisoned { .. })));
    assert!(matches!(append(&partition, one(2, 10)), Err(Error::Poisoned { .. })));
    assert_eq!(numbers(&partition), [0, 1], "what is in RAM is still read");
}
