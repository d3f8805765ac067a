//! Retention: whole sealed segments go, oldest first, when a bound lets them and nobody who may hold them does.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, on a real folder")]

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kit::{ID, append, batch, fill, in_memory, numbers, one, open, options, read_from, segment_files};
use logcore::io::DiskIo;
use logcore::io::sim::SimDisk;
use logcore::partition::{Health, PartitionOptions};
use logcore::{Error, Hold, Holder, Log, LogOptions, Offset, Partition, Retention, TimestampMillis};

const NOW: TimestampMillis = TimestampMillis::new(1_000_000);

/// A view's checkpoint or a cursor that a test moves; `u64::MAX` needs nothing.
struct Position(AtomicU64);

impl Position {
    fn at(offset: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(offset)))
    }

    fn hold(self: &Arc<Self>, partition: &Partition, kind: Hold) {
        let holder: Arc<dyn Holder> = Arc::clone(self) as Arc<dyn Holder>;
        partition.hold(kind, Arc::downgrade(&holder));
    }

    fn move_to(&self, offset: u64) {
        self.0.store(offset, Ordering::SeqCst);
    }
}

impl Holder for Position {
    fn needed_from(&self) -> Option<Offset> {
        Some(self.0.load(Ordering::SeqCst)).filter(|offset| *offset != u64::MAX).map(Offset::new)
    }
}

fn keeping(retention: Retention) -> LogOptions {
    options(|partition| partition.retention = retention)
}

/// A log with 400 records of 3 kB: some ten segments. Record n is from the time n.
fn filled(disk: &SimDisk, options: &LogOptions) -> (Log, Arc<Partition>) {
    let log = open(disk, options);
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..400, 3_000);
    assert!(partition.status().segments > 6);
    (log, partition)
}

fn check_rest(partition: &Partition) {
    let start = partition.log_start().value();
    assert_eq!(numbers(partition), (start..400).collect::<Vec<_>>());
    if start > 0 {
        assert!(matches!(partition.read(Offset::new(start - 1), 1), Err(Error::OffsetOutOfRange { .. })));
    }
}

#[test]
fn without_a_bound_nothing_goes() {
    let (_log, partition) = filled(&SimDisk::new(), &keeping(Retention::default()));
    assert_eq!(partition.retain(NOW).unwrap(), 0);
    assert_eq!(partition.log_start(), Offset::ZERO);
}

#[test]
fn records_older_than_the_age_go() {
    let disk = SimDisk::new();
    let aged = Retention { age: Some(Duration::from_millis(1_000)), ..Retention::default() };
    let (_log, partition) = filled(&disk, &keeping(aged));
    assert_eq!(partition.retain(TimestampMillis::new(1_000)).unwrap(), 0, "the oldest is exactly that old");
    partition.retain(TimestampMillis::new(1_200)).unwrap();
    let start = partition.log_start().value();
    assert!((100..=200).contains(&start), "what is from before 200 goes, as far as whole segments reach: {start}");
    check_rest(&partition);
    assert_eq!(segment_files(&disk).len(), partition.status().segments, "the files went too");
}

#[test]
fn the_oldest_go_while_enough_bytes_stay() {
    let bytes = Retention { bytes: Some(500_000), ..Retention::default() };
    let (_log, partition) = filled(&SimDisk::new(), &keeping(bytes));
    assert!(partition.retain(NOW).unwrap() > 0);
    let left = partition.status().bytes;
    assert!((500_000..500_000 + (128 << 10)).contains(&left), "{left}");
    assert_eq!(partition.retain(NOW).unwrap(), 0);
    check_rest(&partition);
}

#[test]
fn the_oldest_go_while_enough_records_stay() {
    let records = Retention { records: Some(150), ..Retention::default() };
    let (_log, partition) = filled(&SimDisk::new(), &keeping(records));
    partition.retain(NOW).unwrap();
    assert!((200..=250).contains(&partition.log_start().value()));
    check_rest(&partition);
}

#[test]
fn consumed_waits_for_every_cursor_and_for_the_first() {
    let consumed = Retention { consumed: true, ..Retention::default() };
    let (_log, partition) = filled(&SimDisk::new(), &keeping(consumed));
    assert_eq!(partition.retain(NOW).unwrap(), 0, "without a cursor nothing is consumed");
    let (slow, fast) = (Position::at(0), Position::at(400));
    slow.hold(&partition, Hold::Cursor);
    fast.hold(&partition, Hold::Cursor);
    assert_eq!(partition.retain(NOW).unwrap(), 0);
    slow.move_to(170);
    partition.retain(NOW).unwrap();
    let start = partition.log_start().value();
    assert!((100..=170).contains(&start), "{start}");
    drop(slow);
    partition.retain(NOW).unwrap();
    assert_eq!(partition.status().segments, 1, "the slow cursor is gone; the newest segment stays");
    check_rest(&partition);
}

#[test]
fn a_view_holds_back_what_it_has_not_applied() {
    let none = Retention { bytes: Some(0), ..Retention::default() };
    let (_log, partition) = filled(&SimDisk::new(), &keeping(none));
    let view = Position::at(0);
    view.hold(&partition, Hold::View);
    assert_eq!(partition.retain(NOW).unwrap(), 0);
    view.move_to(200);
    partition.retain(NOW).unwrap();
    let start = partition.log_start().value();
    assert!((100..=200).contains(&start), "{start}");
    check_rest(&partition);
}

#[test]
fn a_view_holds_back_no_more_than_its_bound() {
    let bounded = options(|partition| {
        partition.retention = Retention { bytes: Some(0), ..Retention::default() };
        partition.view_hold_bytes_max = 400_000;
    });
    let (_log, partition) = filled(&SimDisk::new(), &bounded);
    let view = Position::at(10);
    view.hold(&partition, Hold::View);
    partition.retain(NOW).unwrap();
    let held = partition.status().bytes;
    assert!((250_000..=400_000 + (128 << 10)).contains(&held), "{held}");
    check_rest(&partition);
}

#[test]
fn the_newest_segment_never_goes() {
    let everything = Retention { age: Some(Duration::ZERO), bytes: Some(0), records: Some(0), ..Retention::default() };
    let (_log, partition) = filled(&SimDisk::new(), &keeping(everything));
    partition.retain(TimestampMillis::new(i64::MAX)).unwrap();
    assert_eq!(partition.status().segments, 1);
    assert!(partition.log_start().value() > 0);
    check_rest(&partition);
    assert_eq!(append(&partition, one(400, 10)).unwrap().base_offset.value(), 400);
}

/// With its front gone, what is left of a log is as good as ever, after any stop.
#[test]
fn a_log_without_its_front_opens_after_any_stop() {
    let everything = keeping(Retention { bytes: Some(0), ..Retention::default() });
    for (clean, extra, len) in
        [(false, 0, 10), (false, 20, 10), (true, 0, 10), (true, 20, 10), (false, 60, 3_000), (true, 60, 3_000)]
    {
        let disk = SimDisk::new();
        let (log, partition) = filled(&disk, &everything);
        partition.retain(NOW).unwrap();
        assert_eq!(partition.status().segments, 1);
        let start = partition.log_start();
        fill(&partition, 400..400 + extra, len);
        drop(partition);
        if clean {
            log.close().unwrap();
        }
        let disk = disk.crash(extra);
        for round in 0..3 {
            let log = open(&disk, &everything);
            let partition = log.open_partition(ID).unwrap();
            assert_eq!((partition.health(), partition.log_start()), (Health::Healthy, start));
            assert_eq!(numbers(&partition), (start.value()..400 + extra + round).collect::<Vec<_>>());
            append(&partition, one(400 + extra + round, 10)).unwrap();
        }
    }
}

/// The last segment that tells how far offsets were seen goes only when the next one tells it too.
#[test]
fn offsets_that_were_seen_stay_used_when_all_but_the_newest_segment_went() {
    let kept = options(|partition| {
        in_memory(partition);
        partition.retention = Retention { bytes: Some(0), ..Retention::default() };
    });
    for seed in 0..20 {
        let disk = SimDisk::new();
        let log = open(&disk, &kept);
        let partition = log.open_partition(ID).unwrap();
        fill(&partition, 0..100, 3_000);
        disk.hold_completions(true);
        fill(&partition, 100..104 + seed * 3, 3_000);
        partition.retain(NOW).unwrap();
        let seen_until = partition.committed().get();
        let after = disk.crash(seed);
        disk.hold_completions(false);
        disk.release(seed);
        let log = open(&after, &kept);
        let reopened = log.open_partition(ID).unwrap();
        assert_eq!(reopened.health(), Health::Healthy);
        assert!(append(&reopened, one(0, 10)).unwrap().base_offset >= seen_until, "seed {seed}");
    }
}

#[test]
fn a_reader_of_a_dropped_segment_finishes_it_or_hears_that_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), keeping(Retention { bytes: Some(0), ..Retention::default() })).unwrap();
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..400, 3_000);
    let mut reader = partition.reader(Offset::ZERO);
    let first = reader.read(10_000).unwrap();
    assert!(!first.is_empty());
    partition.retain(NOW).unwrap();
    let start = partition.log_start();
    let mut read = first.len();
    let error = loop {
        match reader.read(10_000) {
            Ok(frames) if frames.is_empty() => panic!("it ended at {}", reader.next_offset()),
            Ok(frames) => read += frames.len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::OffsetOutOfRange { log_start, .. } if log_start == start), "{error}");
    assert_eq!(read as u64, reader.next_offset().value(), "what it got was complete");
}

#[test]
fn a_crash_between_two_drops_leaves_no_hole() {
    let everything = keeping(Retention { bytes: Some(0), ..Retention::default() });
    let operations = {
        let disk = SimDisk::new();
        let (_log, partition) = filled(&disk, &everything);
        let before = disk.operations();
        partition.retain(NOW).unwrap();
        disk.operations() - before
    };
    assert!(operations > 8);
    for nth in 1..=operations {
        let disk = SimDisk::new();
        let (_log, partition) = filled(&disk, &everything);
        disk.fail_operation(disk.operations() + nth, 5);
        let failed = partition.retain(NOW).is_err();
        let after = disk.crash(nth);
        let log = open(&after, &everything);
        let reopened = log.open_partition(ID).unwrap();
        assert_eq!(reopened.health(), Health::Healthy);
        check_rest(&reopened);
        // The process that met the error serves on, and the next round finishes.
        check_rest(&partition);
        let went = partition.retain(NOW).unwrap();
        assert_eq!(went > 0, failed, "operation {nth}");
        assert_eq!(partition.status().segments, 1);
        check_rest(&partition);
        assert_eq!(segment_files(&disk).len(), 1);
    }
}

#[test]
fn times_lead_into_what_is_left() {
    let records = Retention { records: Some(150), ..Retention::default() };
    let (_log, partition) = filled(&SimDisk::new(), &keeping(records));
    partition.retain(NOW).unwrap();
    let start = partition.log_start().value();
    for wanted in [0, start, 333, 399] {
        let found = partition.offset_at(TimestampMillis::new(i64::try_from(wanted).unwrap())).unwrap();
        assert_eq!(found.value(), wanted.max(start));
    }
}

#[test]
fn a_removed_stream_stays_removed_while_the_keeper_works_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let busy = LogOptions {
        keeper_interval: Duration::from_millis(1),
        verify_bytes_per_second: u64::MAX,
        ..options(|partition: &mut PartitionOptions| {
            partition.retention = Retention { bytes: Some(300_000), ..Retention::default() };
            partition.compaction = Some(logcore::Compaction::default());
        })
    };
    let log = Log::open(dir.path(), busy).unwrap();
    for round in 0..5 {
        let partition = log.open_partition(ID).unwrap();
        fill(&partition, 0..200 + round * 17, 3_000);
        log.remove_stream(ID.stream).unwrap();
        assert!(!dir.path().join("log/20").exists());
        assert!(matches!(append(&partition, one(0, 10)), Err(Error::Closed { .. })));
    }
    assert!(!dir.path().join("log/20").exists());
    log.close().unwrap();
}

#[test]
fn index_files_go_with_their_segments() {
    let disk = SimDisk::new();
    let kept = keeping(Retention { bytes: Some(0), ..Retention::default() });
    for round in 0..4 {
        let log = open(&disk, &kept);
        let partition = log.open_partition(ID).unwrap();
        fill(&partition, round * 100..round * 100 + 100, 3_000);
        append(&partition, batch(&[("k", Some("v"), 0)])).unwrap();
        drop(partition);
        log.close().unwrap();
    }
    let log = open(&disk, &kept);
    let partition = log.open_partition(ID).unwrap();
    fill(&partition, 0..100, 3_000);
    partition.retain(NOW).unwrap();
    let index_files = disk.paths().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "idx"));
    assert_eq!(index_files.count(), 0, "{:?}", disk.list("/sim/log/20/0".as_ref()));
    assert_eq!(
        read_from(&partition, partition.log_start().value(), 1 << 20).unwrap().len() as u64,
        partition.log_start().records_until(partition.committed().get())
    );
}
