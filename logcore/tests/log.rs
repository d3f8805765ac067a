//! The log as its users see it: appending, reading by offset and time, rotation, restarts, refusals.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, on a real folder and clock")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{ID, append, open_sim, options, proposal, read_all, submit, value};
use logcore::io::sim::SimDisk;
use logcore::partition::{Conditions, Health};
use logcore::{Error, ErrorKind, Log, LogOptions, Offset, PartitionRef, Proposal, StreamId, TimestampMillis};
use proptest::prelude::*;

#[test]
fn what_is_appended_is_read_back_across_segments_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..3 {
        let log = Log::open(dir.path(), options()).unwrap();
        let partition = log.open_partition(ID).unwrap();
        let tickets: Vec<_> = (0..300_u64)
            .map(|n| {
                let n = round * 300 + n;
                let values: Vec<_> = (0..=n % 3).map(|k| value(n * 10 + k, usize::try_from(n * 7 % 2_000).unwrap())).collect();
                expected.extend(values.iter().cloned());
                submit(&partition, &values, 0)
            })
            .collect();
        let mut next = None;
        for ticket in tickets {
            let appended = ticket.wait().unwrap();
            assert!(next.is_none_or(|next| next == appended.base_offset), "offsets are dense and in order");
            next = Some(appended.end_offset());
        }
        assert!(partition.status().segments > 1, "the segments rotated");
        let all = read_all(&partition, Offset::ZERO).unwrap();
        assert_eq!(all.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (0..expected.len() as u64).collect::<Vec<_>>());
        assert!(all.into_iter().map(|(_, value)| value).eq(expected.iter().cloned()));
        for from in [1, 17, 299, expected.len() as u64 - 1] {
            assert_eq!(read_all(&partition, Offset::new(from)).unwrap()[0].0, from);
        }
        drop(partition);
        // Every other time the stop is clean.
        if round % 2 == 0 {
            log.close().unwrap();
            assert!(dir.path().join("clean").exists());
        }
    }
}

#[test]
fn a_batch_of_the_largest_size_fits_and_a_larger_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), LogOptions::default()).unwrap();
    let partition = log.open_partition(ID).unwrap();
    let large = value(1, (8 << 20) - 200);
    append(&partition, std::slice::from_ref(&large)).unwrap();
    append(&partition, &[b"small".to_vec()]).unwrap();
    let all = read_all(&partition, Offset::ZERO).unwrap();
    assert_eq!((&all[0].1, &all[1].1[..]), (&large, &b"small"[..]));
    let mut builder = logcore::BatchBuilder::new();
    builder.push(&logcore::NewRecord { value: Some(&value(1, 8 << 20)), ..Default::default() });
    let refused = Proposal::from_records(builder, logcore::Compression::None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooLarge);
}

#[test]
fn a_time_leads_to_the_first_record_at_or_after_it() {
    let disk = Arc::new(SimDisk::new());
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    // Times mostly grow, with late records among them.
    let times: Vec<i64> = (0..2_000_i64).map(|n| n * 10 - (n % 7) * 35).collect();
    for time in &times {
        submit(&partition, &[value(0, 200)], *time).wait().unwrap();
    }
    for wanted in [-1_000, 0, 5, 777, 5_003, 19_000, 19_990, 30_000] {
        let expected = times.iter().position(|time| *time >= wanted).unwrap_or(times.len()) as u64;
        assert_eq!(partition.offset_at(TimestampMillis::new(wanted)).unwrap().value(), expected, "time {wanted}");
    }
}

#[test]
fn reads_outside_the_log_say_what_there_is() {
    let disk = Arc::new(SimDisk::new());
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    append(&partition, &[b"x".to_vec()]).unwrap();
    assert!(partition.read(Offset::new(1), 1).unwrap().is_empty());
    let error = partition.read(Offset::new(2), 1).unwrap_err();
    assert!(error.to_string().contains("outside 0..1"), "{error}");
}

#[test]
fn a_waiting_reader_hears_of_a_commit() {
    let disk = Arc::new(SimDisk::new());
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    let waiting = Arc::clone(&partition);
    let deadline = Instant::now() + Duration::from_secs(20);
    let waiter = std::thread::spawn(move || waiting.committed().reached_blocking(Offset::new(3), deadline));
    append(&partition, &[b"1".to_vec(), b"2".to_vec()]).unwrap();
    append(&partition, &[b"3".to_vec()]).unwrap();
    assert!(waiter.join().unwrap());
    assert!(!partition.committed().reached_blocking(Offset::new(4), Instant::now()));
}

#[test]
fn a_change_is_refused_when_its_keys_changed_since_its_snapshot() {
    let disk = Arc::new(SimDisk::new());
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    let when = |snapshot, keys: &[u64]| Conditions { snapshot: Offset::new(snapshot), reads: vec![], writes: keys.to_vec() };
    let change = |conditions| partition.try_append(proposal(&[b"v".to_vec()], 0).when(conditions)).unwrap().wait();
    change(when(0, &[7])).unwrap();
    assert_eq!(change(when(0, &[7])).unwrap_err().kind(), ErrorKind::Conflict);
    change(when(0, &[8])).unwrap();
    change(when(1, &[7])).unwrap();
    assert_eq!(partition.committed().get().value(), 3, "a refused change leaves no record");
    drop(partition);
    drop(log);
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    let old = partition.try_append(proposal(&[b"v".to_vec()], 0).when(when(2, &[9]))).unwrap().wait();
    assert!(matches!(old, Err(Error::SnapshotTooOld { .. })), "what was written before the start is not known");
}

#[test]
fn a_failed_write_or_sync_poisons_the_partition_and_reads_go_on() {
    for fail_sync in [true, false] {
        let disk = Arc::new(SimDisk::new());
        let log = open_sim(&disk).unwrap();
        let partition = log.open_partition(ID).unwrap();
        append(&partition, &[b"kept".to_vec()]).unwrap();
        if fail_sync {
            disk.fail_next_sync()
        } else {
            disk.fail_write_after(0)
        }
        assert!(matches!(append(&partition, &[b"lost".to_vec()]), Err(Error::Poisoned { .. })));
        // The disk works again, but nobody knows what happened to the pages: no write is acknowledged any more.
        let error = append(&partition, &[b"later".to_vec()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("injected"), "{error}");
        assert!(matches!(partition.health(), Health::Poisoned(_)));
        assert_eq!(read_all(&partition, Offset::ZERO).unwrap(), [(0, b"kept".to_vec())]);
        // Another partition of the same log is not affected.
        append(&log.open_partition(PartitionRef::new(StreamId::new(21), 0)).unwrap(), &[b"y".to_vec()]).unwrap();
    }
}

#[test]
fn a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room() {
    let disk = Arc::new(SimDisk::new());
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    disk.set_free_bytes(Some(1_000));
    let mut refused = None;
    for n in 0..1_000 {
        if let Err(error) = append(&partition, &[value(n, 1_000)]) {
            refused = Some((n, error));
            break;
        }
    }
    let (kept, error) = refused.expect("the segment fills up");
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(read_all(&partition, Offset::ZERO).unwrap().len() as u64, kept);
    disk.set_free_bytes(None);
    assert_eq!(append(&partition, &[value(kept, 1_000)]).unwrap().base_offset.value(), kept);
}

#[test]
fn a_rotation_that_failed_leaves_the_log_whole() {
    let disk = Arc::new(SimDisk::new());
    let log = open_sim(&disk).unwrap();
    let partition = log.open_partition(ID).unwrap();
    let mut kept = 0;
    for n in 0..200 {
        // A large batch meets the end of the segment first, small ones still fit behind it.
        disk.set_free_bytes(if n % 3 == 0 { Some(0) } else { None });
        for len in [60_000, 500] {
            kept += u64::from(append(&partition, &[value(kept, len)]).is_ok());
        }
    }
    assert!(kept > 250 && kept < 400, "some were refused, most were not: {kept}");
    let check = |partition: &logcore::Partition| {
        let all = read_all(partition, Offset::ZERO).unwrap();
        assert_eq!(all.len() as u64, kept);
        assert!(all.iter().enumerate().all(|(n, (offset, found))| *offset == n as u64 && found[..9] == value(n as u64, 9)[..9]));
    };
    check(&partition);
    drop((partition, log));
    check(&open_sim(&disk).unwrap().open_partition(ID).unwrap());
}

#[test]
fn readers_of_the_file_never_meet_what_is_on_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), LogOptions::default()).unwrap();
    append(&log.open_partition(ID).unwrap(), &[value(0, 300)]).unwrap();
    drop(log);
    // After a start nothing is in RAM: reading from the beginning goes to the file, right up to what is being written.
    let log = Log::open(dir.path(), LogOptions::default()).unwrap();
    let partition = log.open_partition(ID).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..600).for_each(|n| assert!(append(&partition, &[value(n, 300)]).is_ok())));
        while !writer.is_finished() {
            partition.read(Offset::ZERO, 4 << 20).unwrap();
        }
    });
    assert_eq!(read_all(&partition, Offset::ZERO).unwrap().len(), 600);
}

#[test]
fn partitions_share_the_ram_tier() {
    let disk = Arc::new(SimDisk::new());
    let two_chunks = LogOptions { memory_bytes_max: 2 << 20, ..LogOptions::default() };
    let log = Log::open_on(disk, "/sim".as_ref(), two_chunks, None).unwrap();
    for round in 0..3 {
        for stream in 20..26 {
            let partition = log.open_partition(PartitionRef::new(StreamId::new(stream), 0)).unwrap();
            assert_eq!(append(&partition, &[value(round, 600_000)]).unwrap().base_offset.value(), round);
        }
    }
}

#[test]
fn a_full_queue_throttles_and_drops_nothing() {
    let disk = Arc::new(SimDisk::new());
    let small = LogOptions { queue_bytes_max: 1, ..options() };
    let log = Log::open_on(disk, "/sim".as_ref(), small, None).unwrap();
    let partition = log.open_partition(ID).unwrap();
    let (mut taken, mut throttled) = (Vec::new(), 0);
    // Built beforehand, so that they come faster than anything can take them.
    let proposals: Vec<_> = (0..400).map(|n| (n, proposal(&[value(n, 90_000)], 0))).collect();
    for (n, proposal) in proposals {
        match partition.try_append(proposal) {
            Ok(ticket) => taken.push((n, ticket)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Throttled);
                throttled += 1;
            }
        }
    }
    let count = taken.len();
    for (_, ticket) in taken {
        ticket.wait().unwrap();
    }
    assert_eq!(read_all(&partition, Offset::ZERO).unwrap().len(), count);
    assert!(throttled > 0, "400 batches of 90 kB don't fit a queue of one frame");
}

#[test]
fn a_data_folder_belongs_to_one_process_and_one_format() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options()).unwrap();
    assert!(matches!(Log::open(dir.path(), options()), Err(Error::Locked { .. })));
    log.open_partition(ID).unwrap();
    drop(log);
    let identity = dir.path().join("identity");
    let content = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, content.replace("\"format\": 1", "\"format\": 99")).unwrap();
    assert!(matches!(Log::open(dir.path(), options()), Err(Error::UnknownFormat { found: 99, .. })));
    std::fs::remove_file(&identity).unwrap();
    assert!(matches!(Log::open(dir.path(), options()), Err(Error::NoIdentity { .. })));
    std::fs::write(&identity, content).unwrap();
    Log::open(dir.path(), options()).unwrap();
}

#[test]
fn a_removed_stream_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options()).unwrap();
    append(&log.open_partition(ID).unwrap(), &[b"x".to_vec()]).unwrap();
    log.remove_stream(ID.stream).unwrap();
    assert!(!dir.path().join("log/20").exists());
    assert!(matches!(log.partition(ID), Err(Error::UnknownPartition { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The log against a `Vec`: random batches, with clean and unclean restarts between them.
    #[test]
    fn the_log_is_a_vec(steps in prop::collection::vec((1_usize..5, 0_usize..9_000, 0_u8..10), 1..40)) {
        let disk = Arc::new(SimDisk::new());
        let mut log = open_sim(&disk).unwrap();
        let mut model: Vec<Vec<u8>> = Vec::new();
        for (records, len, restart) in steps {
            let partition = log.open_partition(ID).unwrap();
            let values: Vec<Vec<u8>> = (0..records).map(|n| value((model.len() + n) as u64, len)).collect();
            let appended = append(&partition, &values).unwrap();
            prop_assert_eq!(appended.base_offset.value(), model.len() as u64);
            model.extend(values);
            drop(partition);
            if restart == 0 { log.close().unwrap() }
            if restart < 2 {
                drop(log);
                log = open_sim(&disk).unwrap();
            }
        }
        let partition = log.open_partition(ID).unwrap();
        let all: Vec<Vec<u8>> = read_all(&partition, Offset::ZERO).unwrap().into_iter().map(|(_, value)| value).collect();
        prop_assert_eq!(all, model);
    }
}
