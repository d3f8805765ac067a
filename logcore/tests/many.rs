//! Many partitions in one log: what idle ones cost, and how busy ones share owners, memory and the disk.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, on a real folder and clock")]

mod kit;

use std::sync::Arc;

use kit::watched::Watched;
use kit::{append, block_on, far, fill, in_memory, number, numbers, one, open, open_on, options, read_all, until};
use logcore::io::sim::SimDisk;
use logcore::{
    AckClass, BatchBuilder, Compression, Log, LogOptions, NewRecord, Partition, PartitionRef, ProducerSequence, Proposal,
    StreamId, TimestampMillis,
};

fn id(n: u32) -> PartitionRef {
    PartitionRef::new(StreamId::new(20 + n / 100), n % 100)
}

#[test]
fn partitions_without_records_have_no_files_and_no_memory() {
    let disk = SimDisk::new();
    let log = open(&disk, &options(|_| {}));
    let partitions: Vec<_> = (0..2_000).map(|n| log.open_partition(id(n)).unwrap()).collect();
    assert_eq!(disk.paths(), [std::path::PathBuf::from("/sim/identity")]);
    assert_eq!(log.memory_bytes().0, 0);
    drop(partitions);
    log.close().unwrap();
    let log = open(&disk, &options(|_| {}));
    let late = log.open_partition(id(1_999)).unwrap();
    assert_eq!(append(&late, one(0, 10)).unwrap().base_offset.value(), 0);
}

/// Each holds a chunk while it is written to, and none when it has been quiet for a while, whatever its class.
#[test]
fn idle_partitions_give_their_memory_back_and_open_again() {
    let disk = SimDisk::new();
    let roomy = LogOptions { memory_bytes_max: 256 << 20, ..options(|_| {}) };
    let log = open(&disk, &roomy);
    let partitions: Vec<_> = (0..200)
        .map(|n| {
            let mut kept = roomy.partition.clone();
            if n % 2 == 0 {
                in_memory(&mut kept);
                kept.flush_interval = std::time::Duration::from_millis(1);
            }
            log.open_partition_with(id(n), kept).unwrap()
        })
        .collect();
    for partition in &partitions {
        fill(partition, 0..3, 100);
    }
    assert!(log.memory_bytes().0 >= 200 << 20);
    until("the chunks come back", || log.memory_bytes().0 == 0);
    for (n, partition) in partitions.iter().enumerate() {
        assert_eq!((partition.flushed().value(), partition.status().ram_chunks), (3, 0), "partition {n}");
        assert_eq!(numbers(partition), [0, 1, 2]);
        append(partition, one(3, 10)).unwrap();
    }
    drop(partitions);
    log.close().unwrap();
    let log = open(&disk, &roomy);
    for n in 0..200 {
        assert_eq!(numbers(&log.open_partition(id(n)).unwrap()), [0, 1, 2, 3]);
    }
}

fn produced(producer: i64, sequence: i32, len: usize) -> Proposal {
    let mut builder = BatchBuilder::new();
    let value = kit::value(u64::try_from(sequence).unwrap(), len);
    let key = producer.to_be_bytes();
    builder.push(&NewRecord { key: Some(&key), value: Some(&value), headers: &[], timestamp: TimestampMillis::new(0) });
    let builder = builder.produced_by(ProducerSequence { id: producer, epoch: 0, sequence }).unwrap();
    Proposal::from_records(builder, Compression::None).unwrap()
}

/// Every record of every producer is there once, in its order.
fn check_produced(partition: &Partition, producers: i64, batches: i32) {
    let all = read_all(partition);
    assert_eq!(all.len(), usize::try_from(producers).unwrap() * usize::try_from(batches).unwrap());
    for producer in 0..producers {
        let theirs = all.iter().filter(|record| record.key == producer.to_be_bytes());
        let sequences: Vec<u64> = theirs.map(|record| number(record.value.as_ref().unwrap())).collect();
        assert_eq!(sequences, (0..u64::try_from(batches).unwrap()).collect::<Vec<_>>(), "producer {producer}");
    }
}

fn produce_all(log: &Log, classes: &[AckClass], len: usize, batches: i32) -> Vec<Arc<Partition>> {
    const PRODUCERS: i64 = 4;
    let partitions: Vec<_> = (0..50)
        .map(|n| {
            let mut kept = options(|_| {}).partition;
            kept.ack = classes[n as usize % classes.len()];
            log.open_partition_with(id(n), kept).unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let partitions = &partitions;
            scope.spawn(move || {
                for sequence in 0..batches {
                    // To all partitions at once, then each answer.
                    let sent = partitions.iter().map(|partition| {
                        (partition, block_on(partition.append(produced(producer, sequence, len), far())).unwrap())
                    });
                    let mut last = None;
                    for (partition, ticket) in sent.collect::<Vec<_>>() {
                        let appended = ticket.wait().unwrap();
                        assert!(!appended.duplicate);
                        assert!(partition.committed().get() >= appended.end_offset());
                        last = Some((partition, appended));
                    }
                    // Sent again, it is known.
                    let (partition, first) = last.unwrap();
                    let again = append(partition, produced(producer, sequence, len)).unwrap();
                    assert_eq!((again.duplicate, again.base_offset), (true, first.base_offset));
                }
            });
        }
    });
    for partition in &partitions {
        check_produced(partition, PRODUCERS, batches);
    }
    partitions
}

/// Fifty partitions share four chunks, whatever their classes and the size of their batches.
#[test]
fn fifty_partitions_share_four_chunks() {
    for (classes, len, batches) in [
        (&[AckClass::Disk][..], 20_000, 6),
        (&[AckClass::Memory][..], 20_000, 6),
        (&[AckClass::Disk, AckClass::Memory][..], 300_000, 2),
    ] {
        let disk = SimDisk::new();
        disk.set_writes_in_flight_max(4);
        let tight = LogOptions { memory_bytes_max: 4 << 20, ..options(|_| {}) };
        let log = open(&disk, &tight);
        let partitions = produce_all(&log, classes, len, batches);
        assert!(log.memory_bytes().0 <= 4 << 20);
        drop(partitions);
        log.close().unwrap();
        let log = open(&disk, &tight);
        for n in 0..50 {
            check_produced(&log.open_partition(id(n)).unwrap(), 4, batches);
        }
    }
}

#[test]
fn several_owners_share_partitions_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let shared = LogOptions { memory_bytes_max: 16 << 20, owners: 3, ..options(|_| {}) };
    let log = Log::open(dir.path(), shared.clone()).unwrap();
    produce_all(&log, &[AckClass::Disk, AckClass::Memory], 2_000, 5);
    log.close().unwrap();
    drop(log);
    let log = Log::open(dir.path(), shared).unwrap();
    for n in 0..50 {
        check_produced(&log.open_partition(id(n)).unwrap(), 4, 5);
    }
}

/// Files of this process that lie in `folder`.
fn open_files(folder: &std::path::Path) -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| target.starts_with(folder) && target.extension().is_some_and(|extension| extension == "seg")).count()
}

/// The system allows a process so many open files only.
#[test]
fn partitions_that_nobody_writes_to_keep_no_file_open() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options(|_| {})).unwrap();
    let partitions: Vec<_> = (0..20).map(|n| log.open_partition(id(n)).unwrap()).collect();
    partitions.iter().for_each(|partition| fill(partition, 0..3, 100));
    assert!(open_files(dir.path()) >= 20, "files in use are kept open");
    until("quiet partitions close theirs", || open_files(dir.path()) == 0);
    fill(&partitions[7], 3..5, 100);
    assert_eq!(numbers(&partitions[7]), [0, 1, 2, 3, 4]);
    drop((partitions, log));
    let log = Log::open(dir.path(), options(|_| {})).unwrap();
    let partitions: Vec<_> = (0..20).map(|n| log.open_partition(id(n)).unwrap()).collect();
    assert_eq!(open_files(dir.path()), 0, "opening leaves nothing open");
    fill(&partitions[7], 5..6, 100);
    assert_eq!(numbers(&partitions[7]), [0, 1, 2, 3, 4, 5]);
}

/// Segments that are half full again before the last one's file has its name.
#[test]
fn segments_that_fill_faster_than_their_files_are_made_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = options(|partition| partition.segment_bytes = 64 << 10);
    let log = Log::open(dir.path(), tiny.clone()).unwrap();
    let partition = log.open_partition(id(0)).unwrap();
    for round in 0..5 {
        fill(&partition, round * 400..(round + 1) * 400, 3_000);
    }
    assert_eq!(numbers(&partition), (0..2_000).collect::<Vec<_>>());
    assert!(partition.status().segments > 60);
    drop((partition, log));
    let log = Log::open(dir.path(), tiny).unwrap();
    assert_eq!(numbers(&log.open_partition(id(0)).unwrap()), (0..2_000).collect::<Vec<_>>());
}

/// The next file is not made while the last one waits for its name: both are made under one.
#[test]
fn the_next_segment_is_not_made_in_the_place_of_one_that_waits_for_its_name() {
    let disk = Watched::new(SimDisk::new());
    let log = open_on(Arc::new(disk.clone()), &options(|_| {}));
    let partition = log.open_partition(id(0)).unwrap();
    disk.hold_jobs();
    let mut tickets = vec![partition.try_append(one(0, 3_000)).unwrap()];
    until("a file is wanted", || disk.held_jobs() == 1);
    disk.do_job();
    until("its name is wanted", || disk.held_jobs() == 1);
    // More than half of it, before it has its name.
    tickets.extend((1..30).map(|n| partition.try_append(one(n, 3_000)).unwrap()));
    until("they are laid", || partition.status().appended.value() == 30);
    // A round of the owner later: it has answered somebody else.
    let other = log.open_partition(id(1)).unwrap();
    other.flush().unwrap();
    other.flush().unwrap();
    assert_eq!(disk.held_jobs(), 1);
    while partition.committed().get().value() < 30 {
        disk.do_job();
    }
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    let fill = std::thread::scope(|scope| {
        let fill = scope.spawn(|| fill(&partition, 30..200, 3_000));
        while !fill.is_finished() {
            disk.do_job();
        }
        fill.join()
    });
    fill.unwrap();
    assert_eq!(numbers(&partition), (0..200).collect::<Vec<_>>());
}
