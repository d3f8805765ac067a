//! How soon views show what they applied, and what goes on beside a checkpoint.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use super::*;
use crate::frame::batch::{BatchBuilder, Compression, NewRecord};
use crate::partition::Proposal;
use crate::types::{PartitionRef, StreamId};
use crate::{Log, LogOptions};

/// When something was shown: from, to, and the offset.
type Shown = Arc<Mutex<Vec<(Instant, Instant, Offset)>>>;

/// Shows what it applied only when it is asked to, which takes a while; the end of a checkpoint takes a permit.
struct Slow {
    next: Offset,
    visible: Offset,
    takes: Duration,
    shown: Shown,
    finishing: Arc<AtomicBool>,
    permits: Option<Arc<Mutex<mpsc::Receiver<()>>>>,
    /// Each batch takes one too, if this is there.
    gate: Option<mpsc::Receiver<()>>,
}

impl Slow {
    fn new(takes: Duration) -> Self {
        let (next, visible) = (Offset::ZERO, Offset::ZERO);
        Self { next, visible, takes, shown: Arc::default(), finishing: Arc::default(), permits: None, gate: None }
    }
}

impl Materializer for Slow {
    fn next_offset(&self) -> Offset {
        self.next
    }

    fn visible(&self) -> Offset {
        self.visible
    }

    fn apply(&mut self, batch: &Batch, _: &mut Rejects) -> Result<(), ViewError> {
        if let Some(gate) = &self.gate {
            gate.recv()?;
        }
        self.next = batch.end_offset();
        Ok(())
    }

    fn skip_to(&mut self, next: Offset) -> Result<(), ViewError> {
        self.next = next;
        Ok(())
    }

    fn make_visible(&mut self) -> Result<(), ViewError> {
        let started = clock::monotonic();
        while started.elapsed() < self.takes {
            std::hint::spin_loop();
        }
        self.visible = self.next;
        self.shown.lock().expect("no test panics inside").push((started, clock::monotonic(), self.next));
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Offset, ViewError> {
        Ok(self.next)
    }

    fn begin_checkpoint(&mut self) -> Result<FinishCheckpoint, ViewError> {
        let (next, permits, finishing) = (self.next, self.permits.clone(), Arc::clone(&self.finishing));
        Ok(Box::new(move || {
            if let Some(permits) = permits {
                finishing.store(true, Ordering::Release);
                permits.lock().expect("no test panics inside").recv()?;
                finishing.store(false, Ordering::Release);
            }
            Ok(next)
        }))
    }

    fn unsaved_bytes(&self) -> u64 {
        0
    }
}

fn open(dir: &Path) -> (Log, Arc<Partition>) {
    let log = Log::open(dir, LogOptions { reserve_bytes: 0, ..LogOptions::default() }).expect("a log opens");
    let partition = log.open_partition(PartitionRef::new(StreamId::FIRST_USER, 0)).expect("a partition opens");
    (log, partition)
}

fn append(partition: &Partition) -> Offset {
    let mut builder = BatchBuilder::new();
    builder.push(&NewRecord { value: Some(b"value"), ..NewRecord::default() });
    let proposal = Proposal::from_records(builder, Compression::None).expect("a proposal");
    partition.try_append(proposal).expect("room").wait().expect("appends").end_offset()
}

fn attach(driver: &Driver, partition: &Arc<Partition>, view: Slow, dir: &Path, options: TaskOptions) -> Arc<Task> {
    driver.attach("slow", partition, Box::new(view), dir, options).expect("attaches")
}

fn wait(task: &Task, end: Offset) {
    let waiting = task.visible_to(end, clock::monotonic() + Duration::from_mins(1));
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(waiting).expect("is shown");
}

fn until(what: &str, done: impl Fn() -> bool) {
    let give_up = clock::monotonic() + Duration::from_mins(1);
    while !done() {
        assert!(clock::monotonic() < give_up, "{what} did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn a_view_shows_what_it_applied_after_its_own_refresh() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_log, partition) = open(dir.path());
    let driver = Driver::start(DriverOptions { refresh: Duration::from_hours(1), ..DriverOptions::default() }).expect("starts");
    let options = TaskOptions { refresh: Some(Duration::from_millis(5)), ..TaskOptions::default() };
    let soon = attach(&driver, &partition, Slow::new(Duration::ZERO), dir.path(), options);
    let late = attach(&driver, &partition, Slow::new(Duration::ZERO), dir.path(), TaskOptions::default());
    for _ in 0..3 {
        let end = append(&partition);
        until("showing", || soon.visible() == end);
    }
    until("applying", || late.applied() == soon.applied());
    assert_eq!(late.visible(), Offset::ZERO, "nobody waited for it");
}

#[test]
fn showing_takes_half_of_the_time_at_most_however_many_wait() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_log, partition) = open(dir.path());
    let driver = Driver::start(DriverOptions::default()).expect("starts");
    let view = Slow::new(Duration::from_millis(4));
    let shown = Arc::clone(&view.shown);
    let options = TaskOptions { refresh: Some(Duration::ZERO), ..TaskOptions::default() };
    let task = attach(&driver, &partition, view, dir.path(), options);
    let is_done = Arc::new(AtomicBool::new(false));
    let produce = {
        let (partition, is_done) = (Arc::clone(&partition), Arc::clone(&is_done));
        move || {
            while !is_done.load(Ordering::Acquire) {
                append(&partition);
            }
        }
    };
    let producer = thread::spawn("producer", produce).expect("a thread");
    for _ in 0..30 {
        wait(&task, append(&partition));
    }
    is_done.store(true, Ordering::Release);
    producer.join().expect("appends");
    let shown = shown.lock().expect("no test panics inside");
    for pair in shown.windows(2) {
        let ((began, ended, _), (next, _, _)) = (pair[0], pair[1]);
        assert!(next - ended >= ended - began, "shown again too soon: {pair:?}");
    }
}

#[test]
fn what_is_waited_for_is_shown_exactly_also_by_a_view_that_has_just_shown_something() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_log, partition) = open(dir.path());
    let driver = Driver::start(DriverOptions::default()).expect("starts");
    let (permit, gate) = mpsc::channel();
    let view = Slow { gate: Some(gate), ..Slow::new(Duration::from_millis(4)) };
    let shown = Arc::clone(&view.shown);
    let options = TaskOptions { refresh: Some(Duration::ZERO), ..TaskOptions::default() };
    let task = attach(&driver, &partition, view, dir.path(), options);
    for _ in 0..20 {
        let ends = [append(&partition), append(&partition), append(&partition)];
        let waiting = Arc::clone(&task);
        let waiter = thread::spawn("waiter", move || wait(&waiting, ends[1])).expect("a thread");
        until("waiting", || task.wanted.load(Ordering::Acquire) == ends[1].value());
        (0..ends.len()).for_each(|_| permit.send(()).expect("the view takes it"));
        waiter.join().expect("it is shown");
        wait(&task, ends[2]);
        let shown = shown.lock().expect("no test panics inside");
        assert!(shown.iter().any(|(_, _, offset)| *offset == ends[1]), "not shown at {}: {shown:?}", ends[1]);
    }
}

#[test]
fn a_view_goes_on_while_its_checkpoint_is_finished() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_log, partition) = open(dir.path());
    let options = DriverOptions { checkpoint_interval: Duration::from_millis(1), ..DriverOptions::default() };
    let driver = Driver::start(options).expect("starts");
    let (permit, permits) = mpsc::channel();
    let view = Slow { permits: Some(Arc::new(Mutex::new(permits))), ..Slow::new(Duration::ZERO) };
    let finishing = Arc::clone(&view.finishing);
    let task = attach(&driver, &partition, view, dir.path(), TaskOptions::default());
    append(&partition);
    until("a checkpoint", || finishing.load(Ordering::Acquire));
    for _ in 0..20 {
        let end = append(&partition);
        wait(&task, end);
    }
    assert!(finishing.load(Ordering::Acquire) && task.checkpointed() == Offset::ZERO, "the checkpoint is still open");
    permit.send(()).expect("the checkpoint takes it");
    until("the end of the checkpoint", || task.checkpointed() > Offset::ZERO);
    drop(permit);
}
