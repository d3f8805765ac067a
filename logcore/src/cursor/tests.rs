//! What cursors promise: forward only, one winner of a race, durable before shown, bounded.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::io::DiskIo;
use crate::io::sim::SimDisk;
use crate::{AckClass, Log, LogOptions, TimestampMillis};

const STREAM: StreamId = StreamId::new(20);
const OF: PartitionRef = PartitionRef::new(STREAM, 0);
const THREADS: u64 = 8;

/// A log with `_cursors` and partitions of two streams that have 1,000 records each.
struct Fixture {
    log: Log,
    cursors: Cursors,
    of: Arc<Partition>,
}

fn open_log(disk: &Arc<SimDisk>) -> Log {
    let io: Arc<dyn DiskIo> = Arc::clone(disk) as Arc<dyn DiskIo>;
    let partition = PartitionOptions { segment_bytes: 1 << 20, ..PartitionOptions::default() };
    Log::open_on(io, Path::new("/sim"), LogOptions { reserve_bytes: 0, partition, ..LogOptions::default() }, None).unwrap()
}

fn cursors_of(log: &Log) -> Arc<Partition> {
    log.open_partition(PartitionRef::new(StreamId::CURSORS, 0)).unwrap()
}

fn fill(partition: &Partition) {
    let mut batch = BatchBuilder::new();
    for _ in 0..1_000 {
        batch.push(&NewRecord { value: Some(b"v"), timestamp: TimestampMillis::new(0), ..NewRecord::default() });
    }
    partition.try_append(Proposal::from_records(batch, Compression::None).unwrap()).unwrap().wait().unwrap();
}

impl Fixture {
    fn new(disk: &Arc<SimDisk>) -> Self {
        Self::with_max(disk, CURSORS_MAX)
    }

    fn with_max(disk: &Arc<SimDisk>, cursors_max: usize) -> Self {
        let log = open_log(disk);
        let cursors = Cursors::open_with(cursors_of(&log), cursors_max).unwrap();
        let of = log.open_partition(OF).unwrap();
        if of.committed().get() == Offset::ZERO {
            fill(&of);
        }
        cursors.hold(&of);
        Self { log, cursors, of }
    }

    fn commit(&self, name: &str, commit: Commit) -> Result<Offset> {
        self.commit_of(&self.of, name, commit)
    }

    fn commit_of(&self, of: &Partition, name: &str, commit: Commit) -> Result<Offset> {
        self.cursors.commit(of, name, commit, |proposal| self.cursors.log.try_append(proposal), deadline())
    }

    fn to(&self, name: &str, offset: u64) -> Result<Offset> {
        self.commit(name, Commit::to(Offset::new(offset)))
    }

    fn get(&self, name: &str) -> Option<u64> {
        self.cursors.get(&CursorId::new(name, OF).unwrap()).map(Offset::value)
    }

    fn delete(&self, name: &str) -> Option<u64> {
        let id = CursorId::new(name, OF).unwrap();
        self.cursors.delete(&id, |proposal| self.cursors.log.try_append(proposal), deadline()).unwrap().map(Offset::value)
    }

    fn forget(&self, stream: StreamId) -> usize {
        self.cursors.forget(stream, |proposal| self.cursors.log.try_append(proposal), deadline()).unwrap()
    }

    fn needed_from(&self) -> Option<u64> {
        let passed = Passed { known: Arc::clone(&self.cursors.known), of: OF };
        passed.needed_from().map(Offset::value)
    }

    /// What `_cursors` says of one cursor, oldest first; `None` for a tombstone.
    fn history(&self, name: &str) -> Vec<Option<u64>> {
        let (mut next, mut history) = (Offset::ZERO, Vec::new());
        loop {
            let frames = self.cursors.log.read(next, READ_BYTES).unwrap();
            let Some(last) = frames.last() else { return history };
            for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
                for record in Batch::open(&frame.body).unwrap().records() {
                    let record = record.unwrap();
                    let (id, offset) = record::decode(&record).unwrap();
                    if record.offset >= next && id == CursorId::new(name, OF).unwrap() {
                        history.push(offset.map(Offset::value));
                    }
                }
            }
            next = last.end_offset();
        }
    }
}

fn deadline() -> Instant {
    clock::monotonic() + Duration::from_secs(60)
}

fn at(offset: u64, expected: Expected) -> Commit {
    Commit { offset: Offset::new(offset), expected, reset: false }
}

#[test]
fn a_cursor_moves_forward_and_back_only_by_a_reset() {
    let fixture = Fixture::new(&Arc::new(SimDisk::new()));
    assert_eq!(fixture.get("c"), None);
    fixture.to("c", 10).unwrap();
    fixture.to("c", 20).unwrap();
    let error = fixture.to("c", 5).unwrap_err();
    assert!(matches!(error, Error::CursorAhead { found, offset, .. } if (found.value(), offset.value()) == (20, 5)), "{error}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(fixture.get("c"), Some(20));
    fixture.to("c", 20).unwrap();
    fixture.commit("c", Commit { reset: true, ..Commit::to(Offset::new(5)) }).unwrap();
    assert_eq!(fixture.get("c"), Some(5));
    assert_eq!(fixture.history("c"), [Some(10), Some(20), Some(5)], "what changes nothing leaves no record");
}

#[test]
fn a_commit_that_expects_something_else_is_refused() {
    let fixture = Fixture::new(&Arc::new(SimDisk::new()));
    let expect = |expected| fixture.commit("c", at(7, expected));
    let error = expect(Expected::At(Offset::new(3))).unwrap_err();
    assert!(error.to_string().contains("is not there, it was expected at 3"), "{error}");
    expect(Expected::Nothing).unwrap();
    let error = expect(Expected::Nothing).unwrap_err();
    assert!(error.to_string().contains("is at 7, it was expected not there"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    fixture.commit("c", at(8, Expected::At(Offset::new(7)))).unwrap();
    assert!(fixture.commit("c", at(9, Expected::At(Offset::new(7)))).is_err());
    let back = Commit { offset: Offset::new(1), expected: Expected::At(Offset::new(9)), reset: true };
    assert!(fixture.commit("c", back).is_err(), "a reset may expect, too");
    assert_eq!(fixture.get("c"), Some(8));
}

#[test]
fn a_cursor_is_never_beyond_the_committed_end() {
    let fixture = Fixture::new(&Arc::new(SimDisk::new()));
    fixture.to("c", 1_000).unwrap();
    let error = fixture.to("c", 1_001).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("offset 1001") && error.to_string().contains("0..1000"), "{error}");
    assert_eq!(fixture.get("c"), Some(1_000));
}

#[test]
fn names_are_plain_and_short() {
    let fixture = Fixture::new(&Arc::new(SimDisk::new()));
    for name in ["a", "A-Z.0_9", ".", &"x".repeat(200)] {
        fixture.to(name, 1).unwrap();
        assert_eq!(fixture.get(name), Some(1));
    }
    for name in ["", "a b", "a/b", "ä", "a\0", &"x".repeat(201)] {
        let error = fixture.to(name, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
        assert!(error.to_string().len() < 200, "{error}");
    }
    assert_eq!(fixture.cursors.list().len(), 4);
}

#[test]
fn what_was_committed_survives_any_stop() {
    let mut disk = Arc::new(SimDisk::new());
    for round in 0..6_u64 {
        let fixture = Fixture::new(&disk);
        if round > 0 {
            assert_eq!(fixture.get("c"), Some(round * 10), "round {round}");
            assert_eq!(fixture.get("gone"), None);
            assert_eq!(fixture.needed_from(), Some(7));
        }
        fixture.to("low", 7).unwrap();
        fixture.to("gone", round + 20).unwrap();
        for offset in round * 10..=(round + 1) * 10 {
            fixture.to("c", offset).unwrap();
        }
        assert_eq!(fixture.delete("gone"), Some(round + 20));
        if round % 2 == 0 {
            fixture.log.close().unwrap();
        } else {
            disk = Arc::new(disk.crash(round));
        }
    }
}

#[test]
fn racing_commits_never_go_backwards() {
    let fixture = Fixture::new(&Arc::new(SimDisk::new()));
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (fixture, refused) = (&fixture, &refused);
            scope.spawn(move || {
                for n in 0..40 {
                    // Each thread goes forward by itself; between them the order is anyone's.
                    let offset = n * 8 + thread * 13 % 8;
                    match fixture.to("c", offset) {
                        Ok(_) => assert!(fixture.get("c").unwrap() >= offset, "a commit that was answered is seen"),
                        Err(Error::CursorAhead { found, .. }) => {
                            assert!(found.value() > offset);
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let history = fixture.history("c");
    assert!(history.is_sorted_by(|a, b| a < b), "{history:?}");
    assert_eq!((fixture.get("c"), *history.last().unwrap()), (Some(39 * 8 + 7), Some(39 * 8 + 7)));
    assert!(history.len() as u64 + refused.into_inner() <= THREADS * 40, "nothing is written twice");
}

#[test]
fn of_commits_that_expect_the_same_one_wins() {
    let fixture = Fixture::new(&Arc::new(SimDisk::new()));
    fixture.to("c", 0).unwrap();
    let won = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let (fixture, won) = (&fixture, &won);
            scope.spawn(move || {
                for _ in 0..50 {
                    let seen = fixture.get("c").unwrap();
                    match fixture.commit("c", at(seen + 1, Expected::At(Offset::new(seen)))) {
                        Ok(offset) => {
                            assert_eq!(offset.value(), seen + 1);
                            won.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(Error::CursorMoved { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let won = won.into_inner();
    assert!(won >= 50, "in every round somebody wins");
    assert_eq!(fixture.get("c"), Some(won), "every win moved it by one");
    assert_eq!(fixture.history("c"), (0..=won).map(Some).collect::<Vec<_>>());
}

#[test]
fn commits_of_different_cursors_share_flushes() {
    let fixture = Fixture::new(&Arc::new(SimDisk::new()));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let fixture = &fixture;
            scope.spawn(move || (1..=50).for_each(|offset| assert!(fixture.to(&format!("c{thread}"), offset).is_ok())));
        }
    });
    for thread in 0..THREADS {
        let name = format!("c{thread}");
        assert_eq!(fixture.get(&name), Some(50));
        assert_eq!(fixture.history(&name), (1..=50).map(Some).collect::<Vec<_>>());
    }
}

#[test]
fn a_deleted_cursor_is_gone_and_may_begin_anew() {
    let fixture = Fixture::new(&Arc::new(SimDisk::new()));
    assert_eq!(fixture.delete("c"), None);
    assert_eq!(fixture.history("c"), [], "nothing was there to delete");
    fixture.to("c", 10).unwrap();
    fixture.to("d", 30).unwrap();
    assert_eq!(fixture.needed_from(), Some(10));
    assert_eq!(fixture.delete("c"), Some(10));
    assert_eq!((fixture.get("c"), fixture.needed_from()), (None, Some(30)));
    fixture.commit("c", at(2, Expected::Nothing)).unwrap();
    assert_eq!((fixture.get("c"), fixture.needed_from()), (Some(2), Some(2)));
    assert_eq!(fixture.history("c"), [Some(10), None, Some(2)]);
}

#[test]
fn retention_is_held_by_the_slowest_cursor_and_by_none_when_there_is_none() {
    let fixture = Fixture::new(&Arc::new(SimDisk::new()));
    let held = || fixture.cursors.holds.lock().unwrap().contains_key(&OF);
    assert!(!held(), "nobody has said what is consumed");
    fixture.to("a", 10).unwrap();
    fixture.to("b", 20).unwrap();
    let other = fixture.log.open_partition(PartitionRef::new(STREAM, 1)).unwrap();
    fill(&other);
    fixture.commit_of(&other, "a", Commit::to(Offset::new(3))).unwrap();
    assert_eq!((held(), fixture.needed_from()), (true, Some(10)));
    fixture.to("a", 30).unwrap();
    assert_eq!(fixture.needed_from(), Some(20), "other partitions don't count");
    fixture.delete("a");
    fixture.delete("b");
    assert_eq!((held(), fixture.needed_from()), (false, None));
    assert_eq!(fixture.cursors.list().len(), 1);
}

#[test]
fn the_cursors_of_a_dropped_stream_go_with_it() {
    let disk = Arc::new(SimDisk::new());
    let fixture = Fixture::new(&disk);
    let neighbours = [19, 20, 21].map(|stream| fixture.log.open_partition(PartitionRef::new(StreamId::new(stream), 3)).unwrap());
    for of in &neighbours {
        fixture.commit_of(of, "c", Commit::to(Offset::ZERO)).unwrap();
    }
    // More than one batch of tombstones.
    let names: Vec<String> = (0..FORGET_RECORDS + 200).map(|n| format!("c{n}")).collect();
    std::thread::scope(|scope| {
        for part in names.chunks(200) {
            let fixture = &fixture;
            scope.spawn(move || part.iter().for_each(|name| assert!(fixture.to(name, 1).is_ok())));
        }
    });
    assert_eq!(fixture.forget(STREAM), names.len() + 1);
    assert_eq!(fixture.forget(STREAM), 0);
    let left = |cursors: &Cursors| cursors.list().iter().map(|(id, _)| id.of.stream.value()).collect::<Vec<_>>();
    assert_eq!(left(&fixture.cursors), [19, 21]);
    let log = open_log(&Arc::new(disk.crash(1)));
    assert_eq!(left(&Cursors::open(cursors_of(&log)).unwrap()), [19, 21]);
}

#[test]
fn there_is_a_limit_also_for_those_that_race() {
    let fixture = Fixture::with_max(&Arc::new(SimDisk::new()), 20);
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (fixture, refused) = (&fixture, &refused);
            scope.spawn(move || {
                for n in 0..5 {
                    if let Err(error) = fixture.to(&format!("c{thread}.{n}"), 1) {
                        assert!(matches!(error, Error::TooManyCursors { max: 20 }), "{error}");
                        assert_eq!(error.kind(), ErrorKind::TooLarge);
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!((fixture.cursors.list().len(), refused.into_inner()), (20, 20));
    let (id, _) = fixture.cursors.list()[7].clone();
    fixture.to(id.name(), 2).unwrap();
    fixture.delete(id.name());
    fixture.to("new", 1).unwrap();
    assert!(fixture.to("newer", 1).is_err());
}

#[test]
fn a_failed_flush_moves_nothing() {
    let disk = Arc::new(SimDisk::new());
    let fixture = Fixture::new(&disk);
    fixture.to("c", 1).unwrap();
    disk.fail_next_sync();
    assert_eq!(fixture.to("c", 2).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(fixture.get("c"), Some(1));
    assert!(fixture.to("c", 3).is_err(), "and nothing is promised afterwards");
    assert_eq!(fixture.get("c"), Some(1));
}

/// What a cursor has passed is durable before the cursor is: a reader that was told so never meets those offsets again with
/// other records, or none.
#[test]
fn a_cursor_is_never_ahead_of_its_data() {
    for seed in 0..20 {
        let disk = Arc::new(SimDisk::new());
        let log = open_log(&disk);
        let never = Duration::from_secs(3_600);
        let kept = PartitionOptions { ack: AckClass::Memory, flush_interval: never, ..PartitionOptions::default() };
        let of = log.open_partition_with(OF, kept).unwrap();
        fill(&of);
        let cursors = Cursors::open(cursors_of(&log)).unwrap();
        assert!(of.flushed() < Offset::new(1_000), "the records are in RAM only");
        cursors.commit(&of, "c", Commit::to(Offset::new(700)), |proposal| cursors.log.try_append(proposal), deadline()).unwrap();
        let after = Arc::new(disk.crash(seed));
        drop((cursors, of, log));
        let log = open_log(&after);
        let cursors = Cursors::open(cursors_of(&log)).unwrap();
        assert_eq!(cursors.get(&CursorId::new("c", OF).unwrap()), Some(Offset::new(700)));
        let of = log.open_partition(OF).unwrap();
        assert!(
            of.committed().get() >= Offset::new(700),
            "seed {seed}: the cursor is at 700, the log ends at {}",
            of.committed().get()
        );
        let frames = of.read(Offset::new(699), READ_BYTES).unwrap();
        assert!(frames.iter().any(|frame| frame.header.kind == FrameKind::Batch && frame.end_offset() > Offset::new(699)));
    }
}

#[test]
fn a_record_of_a_newer_release_is_not_passed_over() {
    let disk = Arc::new(SimDisk::new());
    let log = open_log(&disk);
    let mut batch = BatchBuilder::new();
    batch.push(&NewRecord { key: Some(b"c/20/0"), value: Some(br#"{"offset":5}"#), ..NewRecord::default() });
    batch.push(&NewRecord { key: Some(b"c/20/0"), value: Some(br#"{"epoch":5}"#), ..NewRecord::default() });
    cursors_of(&log).try_append(Proposal::from_records(batch, Compression::None).unwrap()).unwrap().wait().unwrap();
    let error = Cursors::open(cursors_of(&log)).err().unwrap();
    assert!(error.to_string().contains("_cursors at offset 1"), "{error}");
}
