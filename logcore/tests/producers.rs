//! Idempotent producers: a batch that is sent again is stored once and answered with its first offset, whatever happened between.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::sync::Arc;

use kit::{ID, append, far, fill, in_memory, open, options, read_all, sent};
use logcore::io::sim::SimDisk;
use logcore::partition::PartitionOptions;
use logcore::{AckClass, Appended, Error, Log, Partition};

fn start(disk: &SimDisk, change: impl FnOnce(&mut PartitionOptions)) -> (Log, Arc<Partition>) {
    let log = open(disk, &options(change));
    let partition = log.open_partition(ID).unwrap();
    (log, partition)
}

/// Sends a batch of three records; `sequence` counts batches.
fn send(partition: &Partition, sequence: i32) -> Result<Appended, Error> {
    append(partition, sent(7, 0, sequence * 3, 3))
}

fn assert_again(partition: &Partition, sequence: i32, base_offset: u64) {
    let end = partition.committed().get();
    let again = send(partition, sequence).unwrap();
    assert_eq!((again.duplicate, again.base_offset.value(), again.count), (true, base_offset, 3));
    assert_eq!(partition.committed().get(), end, "nothing was stored");
}

fn expected(result: Result<Appended, Error>) -> i32 {
    match result {
        Err(Error::OutOfOrderSequence { producer: 7, expected, .. }) => expected,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_that_is_sent_again_is_answered_with_its_first_offset() {
    let (_log, partition) = start(&SimDisk::new(), |_| {});
    for sequence in 0..3 {
        assert!(!send(&partition, sequence).unwrap().duplicate);
    }
    assert_again(&partition, 1, 3);
    assert_again(&partition, 2, 6);
    assert_eq!(read_all(&partition).len(), 9);
}

/// The first one is still on its way to the disk: the second must not be answered before it is there.
#[test]
fn a_batch_sent_again_while_it_is_on_its_way_waits_for_the_disk() {
    let disk = SimDisk::new();
    let (_log, partition) = start(&disk, |_| {});
    send(&partition, 0).unwrap();
    disk.hold_completions(true);
    let first = partition.try_append(sent(7, 0, 3, 3)).unwrap();
    disk.wait_held(1);
    let again = partition.try_append(sent(7, 0, 3, 3)).unwrap();
    // One behind both, so that both were looked at when it is.
    let behind = partition.try_append(sent(8, 0, 0, 1)).unwrap();
    assert_eq!(partition.committed().get().value(), 3);
    disk.hold_completions(false);
    disk.release(0);
    let (first, again, behind) = (first.wait().unwrap(), again.wait().unwrap(), behind.wait().unwrap());
    assert_eq!((first.duplicate, again.duplicate), (false, true));
    assert_eq!((first.base_offset, again.ack), (again.base_offset, AckClass::Disk));
    assert_eq!(behind.base_offset.value(), 6);
}

/// The write of the first one fails: the second is not answered with an offset that nothing stands at.
#[test]
fn a_batch_sent_again_while_its_write_fails_is_refused_too() {
    let disk = SimDisk::new();
    let (_log, partition) = start(&disk, |_| {});
    send(&partition, 0).unwrap();
    disk.hold_completions(true);
    let first = partition.try_append(sent(7, 0, 3, 3)).unwrap();
    disk.wait_held(1);
    let again = partition.try_append(sent(7, 0, 3, 3)).unwrap();
    disk.fail_next_sync();
    disk.hold_completions(false);
    disk.release(0);
    assert!(matches!(first.wait(), Err(Error::Poisoned { .. })));
    assert!(matches!(again.wait(), Err(Error::Poisoned { .. })));
}

#[test]
fn the_last_five_batches_of_a_producer_are_known() {
    let (_log, partition) = start(&SimDisk::new(), |_| {});
    for sequence in 0..9 {
        send(&partition, sequence).unwrap();
    }
    for known in 4..9 {
        assert_again(&partition, known, u64::try_from(known * 3).unwrap());
    }
    assert_eq!(expected(send(&partition, 3)), 27, "the sixth is too old to be told from a mistake");
}

#[test]
fn a_batch_out_of_order_is_refused_and_the_answer_says_what_comes_next() {
    let (_log, partition) = start(&SimDisk::new(), |_| {});
    send(&partition, 0).unwrap();
    assert_eq!(expected(send(&partition, 2)), 3);
    // The same place with other records is not the same batch.
    assert_eq!(expected(append(&partition, sent(7, 0, 0, 2))), 3);
    send(&partition, 1).unwrap();
    send(&partition, 2).unwrap();
    assert_eq!(read_all(&partition).len(), 9);
}

#[test]
fn a_later_epoch_starts_anew_and_fences_the_earlier_one() {
    let (_log, partition) = start(&SimDisk::new(), |_| {});
    send(&partition, 0).unwrap();
    append(&partition, sent(7, 1, 0, 3)).unwrap();
    match send(&partition, 1) {
        Err(Error::FencedProducer { producer: 7, current: 1, found: 0, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(append(&partition, sent(7, 1, 0, 3)).unwrap().duplicate);
    assert_eq!(append(&partition, sent(7, 1, 3, 1)).unwrap().base_offset.value(), 6);
}

#[test]
fn sequences_wrap_around() {
    let (_log, partition) = start(&SimDisk::new(), |_| {});
    append(&partition, sent(7, 0, i32::MAX - 1, 2)).unwrap();
    append(&partition, sent(7, 0, 0, 4)).unwrap();
    append(&partition, sent(7, 0, 4, 1)).unwrap();
    assert!(append(&partition, sent(7, 0, i32::MAX - 1, 2)).unwrap().duplicate);
    // A batch that itself lies across the end.
    append(&partition, sent(8, 0, i32::MAX, 3)).unwrap();
    assert!(!append(&partition, sent(8, 0, 2, 1)).unwrap().duplicate);
}

#[test]
fn producers_do_not_disturb_each_other() {
    let (_log, partition) = start(&SimDisk::new(), |_| {});
    for sequence in 0..20 {
        for id in 0..10 {
            assert!(!append(&partition, sent(id, 0, sequence, 1)).unwrap().duplicate);
        }
    }
    for id in 0..10 {
        assert!(append(&partition, sent(id, 0, 19, 1)).unwrap().duplicate);
    }
}

/// Restarts of every kind, with the batches in the active segment, in the one before, or far behind.
#[test]
fn batches_are_known_after_any_restart_and_rotation() {
    for behind in [0, 5, 40, 300] {
        for clean in [true, false] {
            let disk = SimDisk::new();
            let (log, partition) = start(&disk, |_| {});
            for sequence in 0..7 {
                send(&partition, sequence).unwrap();
            }
            fill(&partition, 0..behind, 3_000);
            drop(partition);
            if clean {
                log.close().unwrap();
            }
            let mut disk = disk.crash(behind);
            for _ in 0..2 {
                let (log, partition) = start(&disk, |_| {});
                for known in 2..7 {
                    assert_again(&partition, known, u64::try_from(known * 3).unwrap());
                }
                assert_eq!(expected(send(&partition, 1)), 21);
                drop((log, partition));
                disk = disk.crash(1);
            }
            let (_log, partition) = start(&disk, |_| {});
            assert!(!send(&partition, 7).unwrap().duplicate);
        }
    }
}

/// What a crash took was never stored: its batch is not a duplicate when it comes again.
#[test]
fn a_batch_that_a_crash_took_is_stored_when_it_comes_again() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        let (_log, partition) = start(&disk, in_memory);
        send(&partition, 0).unwrap();
        partition.flush().unwrap();
        send(&partition, 1).unwrap();
        let disk = disk.crash(seed);
        let (_log, partition) = start(&disk, in_memory);
        let there = read_all(&partition).len();
        let again = send(&partition, 1).unwrap();
        assert_eq!(again.duplicate, there == 6);
        partition.flush().unwrap();
        assert_eq!(read_all(&partition).len(), 6, "once, either way");
    }
}

/// Batches that wait for room are judged when they are laid, not when they come.
#[test]
fn batches_that_wait_for_a_segment_are_stored_once() {
    let disk = SimDisk::new();
    let (_log, partition) = start(&disk, in_memory);
    send(&partition, 0).unwrap();
    disk.set_free_bytes(Some(0));
    let mut filler = 0;
    while partition.status().bytes < 80 << 10 {
        append(&partition, sent(9, 0, filler, 200)).unwrap();
        filler += 200;
    }
    let room = |n: i32| kit::block_on(partition.append(sent(7, 0, n * 3, 3), far())).unwrap();
    let large = kit::block_on(partition.append(sent(9, 0, filler, 2_000), far())).unwrap();
    let waiting = [room(1), room(1), room(2), room(1)];
    disk.set_free_bytes(None);
    large.wait().unwrap();
    let answers = waiting.map(|ticket| ticket.wait().unwrap());
    assert_eq!(answers.map(|answer| answer.duplicate), [false, true, false, true]);
    assert_eq!(answers[0].base_offset, answers[1].base_offset);
    assert_eq!(answers[0].base_offset, answers[3].base_offset);
}
