//! Views that are brought up to date by those who wait for them: nobody sleeps through his own record, everything is applied once,
//! and a checkpoint under way stops nobody.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, on a real folder and clock")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use common::{append, options, value};
use logcore::materialize::{Driver, DriverOptions, FinishCheckpoint, Materializer, Rejects, Task, TaskOptions, ViewError};
use logcore::sys::clock;
use logcore::{Batch, Log, Offset, Partition, PartitionRef, StreamId};

/// Counts records; the end of each checkpoint takes a permit, if there is a gate.
#[derive(Default)]
struct Counter {
    next: Offset,
    records: Arc<AtomicU64>,
    finishing: Arc<AtomicBool>,
    gate: Option<Arc<Mutex<mpsc::Receiver<()>>>>,
}

impl Materializer for Counter {
    fn next_offset(&self) -> Offset {
        self.next
    }

    fn apply(&mut self, batch: &Batch, _rejects: &mut Rejects) -> Result<(), ViewError> {
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

    fn begin_checkpoint(&mut self) -> Result<FinishCheckpoint, ViewError> {
        let (next, gate, finishing) = (self.next, self.gate.clone(), Arc::clone(&self.finishing));
        Ok(Box::new(move || {
            if let Some(gate) = gate {
                finishing.store(true, Ordering::Release);
                gate.lock().unwrap().recv()?;
                finishing.store(false, Ordering::Release);
            }
            Ok(next)
        }))
    }

    fn unsaved_bytes(&self) -> u64 {
        0
    }
}

fn attach(driver: &Driver, partition: &Arc<Partition>, counter: Counter, dir: &std::path::Path) -> Arc<Task> {
    let options = TaskOptions { pulled: true, ..TaskOptions::default() };
    driver.attach("counts", partition, Box::new(counter), dir, options).unwrap()
}

fn open(log: &Log) -> Arc<Partition> {
    log.open_partition(PartitionRef::new(StreamId::new(20), 0)).unwrap()
}

fn wait(task: &Task, end: Offset) {
    let waiting = task.visible_to(end, clock::monotonic() + Duration::from_secs(60));
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(waiting).unwrap();
}

#[test]
fn who_waits_sees_his_record_at_once_and_each_is_applied_once() {
    const WRITERS: u64 = 6;
    const WRITES: u64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options()).unwrap();
    let driver =
        Driver::start(DriverOptions { checkpoint_interval: Duration::from_millis(5), ..DriverOptions::default() }).unwrap();
    let (partition, records) = (open(&log), Arc::new(AtomicU64::new(0)));
    let task = attach(&driver, &partition, Counter { records: Arc::clone(&records), ..Counter::default() }, dir.path());
    // Some wait for what is not committed yet.
    let ahead = std::thread::spawn({
        let task = Arc::clone(&task);
        move || (1..=WRITERS * WRITES).step_by(97).for_each(|end| wait(&task, Offset::new(end)))
    });
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (task, partition) = (Arc::clone(&task), Arc::clone(&partition));
            std::thread::spawn(move || {
                let mut slow = 0;
                for n in 0..WRITES {
                    let end = append(&partition, &[value(writer * WRITES + n, 50)]).unwrap().end_offset();
                    let began = clock::monotonic();
                    wait(&task, end);
                    assert!(task.visible() >= end);
                    slow += u64::from(began.elapsed() >= Duration::from_millis(95));
                }
                slow
            })
        })
        .collect();
    let slow: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    ahead.join().unwrap();
    assert_eq!(records.load(Ordering::Relaxed), WRITERS * WRITES);
    assert!(slow <= WRITERS * WRITES / 10, "{slow} waits lasted until somebody happened to look");
    driver.stop();
}

#[test]
fn a_checkpoint_under_way_stops_nobody_and_detaching_waits_for_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path(), options()).unwrap();
    let driver =
        Driver::start(DriverOptions { checkpoint_interval: Duration::from_millis(1), ..DriverOptions::default() }).unwrap();
    let (permits, gate) = mpsc::channel();
    let (partition, finishing) = (open(&log), Arc::new(AtomicBool::new(false)));
    let gate = Some(Arc::new(Mutex::new(gate)));
    let task = attach(&driver, &partition, Counter { finishing: Arc::clone(&finishing), gate, ..Counter::default() }, dir.path());
    append(&partition, &[value(0, 50)]).unwrap();
    let give_up = clock::monotonic() + Duration::from_secs(60);
    while !finishing.load(Ordering::Acquire) {
        assert!(clock::monotonic() < give_up, "no checkpoint began");
        std::thread::sleep(Duration::from_millis(1));
    }
    for n in 1..50 {
        let end = append(&partition, &[value(n, 50)]).unwrap().end_offset();
        wait(&task, end);
    }
    assert!(finishing.load(Ordering::Acquire), "the checkpoint is still open");
    assert_eq!(task.checkpointed(), Offset::ZERO, "and nothing is taken for saved");
    let detaching = std::thread::spawn({
        let task = Arc::clone(&task);
        move || driver.detach(&task)
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!detaching.is_finished(), "its files may still be written to");
    permits.send(()).unwrap();
    drop(permits);
    detaching.join().unwrap();
    assert!(!finishing.load(Ordering::Acquire));
}
