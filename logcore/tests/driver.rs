//! What views and the log owe each other: nothing goes that a view needs, nothing is skipped unseen, nothing in a view outlives the
//! log it came from.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{append, options, value};
use logcore::materialize::{Driver, DriverOptions, Materializer, Rejects, Task, TaskOptions, TaskState, ViewError};
use logcore::partition::PartitionOptions;
use logcore::sys::clock;
use logcore::{AckClass, Batch, Log, Offset, Partition, PartitionRef, Retention, StreamId};

/// Counts records. Each batch takes a permit from the gate, if there is one.
struct Counter {
    next: Offset,
    records: Arc<AtomicU64>,
    gate: Option<mpsc::Receiver<()>>,
}

impl Materializer for Counter {
    fn next_offset(&self) -> Offset {
        self.next
    }

    fn apply(&mut self, batch: &Batch, _rejects: &mut Rejects) -> Result<(), ViewError> {
        if let Some(gate) = &self.gate {
            gate.recv()?;
        }
        self.records.fetch_add(u64::from(batch.count()), Ordering::Relaxed);
        self.next = batch.end_offset();
        Ok(())
    }

    fn skip_to(&mut self, next: Offset) -> Result<(), ViewError> {
        self.next = next;
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Offset, ViewError> {
        Ok(self.next)
    }

    fn unsaved_bytes(&self) -> u64 {
        0
    }
}

struct View {
    task: Arc<Task>,
    records: Arc<AtomicU64>,
    gate: Option<mpsc::Sender<()>>,
}

fn driver() -> Driver {
    let checkpoint_interval = Duration::from_millis(1);
    Driver::start(DriverOptions { checkpoint_interval, ..DriverOptions::default() }).unwrap()
}

fn attach(driver: &Driver, partition: &Arc<Partition>, dir: &Path, gated: bool) -> View {
    let records = Arc::new(AtomicU64::new(0));
    let (permits, gate) = mpsc::channel();
    let gate = gated.then_some(gate);
    let counter = Counter { next: Offset::ZERO, records: Arc::clone(&records), gate };
    let task = driver.attach("counts", partition, Box::new(counter), dir, TaskOptions::default()).unwrap();
    View { task, records, gate: gated.then_some(permits) }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let give_up = clock::monotonic() + Duration::from_secs(60);
    while !done() {
        assert!(clock::monotonic() < give_up, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn open(log: &Log, stream: u32, hold: u64) -> Arc<Partition> {
    let kept = PartitionOptions {
        retention: Retention { bytes: Some(256 << 10), ..Retention::default() },
        view_hold_bytes_max: hold,
        ..options().partition
    };
    log.open_partition_with(PartitionRef::new(StreamId::new(stream), 0), kept).unwrap()
}

/// Ten records in a batch of some 10 KiB.
fn fill(partition: &Partition, batches: u64) {
    for n in 0..batches {
        let values: Vec<Vec<u8>> = (0..10).map(|record| value(n * 10 + record, 1_000)).collect();
        append(partition, &values).unwrap();
    }
}

#[test]
fn what_a_view_has_not_saved_is_held_back_from_retention() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options()).unwrap();
    let driver = driver();
    let (held, free) = (open(&log, 20, u64::MAX), open(&log, 21, u64::MAX));
    let view = attach(&driver, &held, dir.path(), true);
    fill(&held, 200);
    for _ in 0..2 {
        // Both are looked at in one round: when the other one was shortened twice, this one was passed over in between.
        let before = free.log_start();
        fill(&free, 200);
        until("retention", || free.log_start() > before);
    }
    assert_eq!(held.log_start(), Offset::ZERO);
    let gate = view.gate.as_ref().unwrap();
    (0..200).for_each(|_| gate.send(()).unwrap());
    until("retention behind the view", || held.log_start() > Offset::ZERO);
    assert!(view.task.checkpointed() >= held.log_start());
    assert_eq!((view.task.state(), view.records.load(Ordering::Relaxed)), (TaskState::Running, 2_000));
    driver.stop();
}

#[test]
fn a_view_that_retention_overtook_stops_and_says_so_and_a_new_one_begins_at_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options()).unwrap();
    let driver = driver();
    let partition = open(&log, 20, 0);
    let overtaken = attach(&driver, &partition, dir.path(), true);
    let gate = overtaken.gate.as_ref().unwrap();
    gate.send(()).unwrap();
    fill(&partition, 1);
    until("the first batch", || overtaken.task.applied() == Offset::new(10));
    // It waits at the gate with this one in hand, and has read no further.
    fill(&partition, 1);
    until("a step", || partition.status().ram_hits + partition.status().ram_misses >= 2);
    fill(&partition, 200);
    until("retention", || partition.log_start() > Offset::new(20));
    gate.send(()).unwrap();
    until("the stop", || overtaken.task.state() != TaskState::Running);
    let TaskState::Stopped(reason) = overtaken.task.state() else { panic!("it stopped") };
    let last = partition.log_start().value() - 1;
    // Retention may have gone on since the view looked.
    let told = reason.strip_prefix("the records 20 to ").and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(told.is_some_and(|told| (21..=last).contains(&told)), "{reason}");
    assert!(reason.contains(" of stream 20 partition 0 are gone"), "{reason}");
    assert!(reason.contains("REBUILD VIEW counts"), "{reason}");
    assert_eq!(overtaken.records.load(Ordering::Relaxed), 20);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    // Retention waits for no view here, and what it began it finishes: until it rests, a new view may be overtaken as well.
    let fresh = std::iter::repeat_with(|| attach(&driver, &partition, dir.path(), false)).take(100).find(|fresh| {
        let give_up = clock::monotonic() + Duration::from_secs(60);
        match runtime.block_on(fresh.task.visible_to(partition.committed().get(), give_up)) {
            Ok(()) => true,
            Err(logcore::Error::ViewStopped { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    });
    let fresh = fresh.unwrap();
    let (start, end) = (partition.log_start(), partition.committed().get());
    let applied = fresh.records.load(Ordering::Relaxed);
    assert!(applied > 0 && applied >= start.records_until(end), "{applied} of {start}..{end}");
    assert_eq!(fresh.task.state(), TaskState::Running);
    driver.stop();
}

#[test]
fn a_checkpoint_flushes_a_log_that_is_only_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options()).unwrap();
    let driver = driver();
    let kept = PartitionOptions { ack: AckClass::Memory, flush_interval: Duration::from_hours(1), ..options().partition };
    let partition = log.open_partition_with(common::ID, kept).unwrap();
    let view = attach(&driver, &partition, dir.path(), false);
    for n in 0..20 {
        let appended = append(&partition, &[value(n, 100)]).unwrap();
        assert_eq!(appended.ack, AckClass::Memory);
        until("a checkpoint", || view.task.checkpointed() == appended.end_offset());
        assert!(partition.flushed() >= appended.end_offset());
    }
    driver.stop();
}
