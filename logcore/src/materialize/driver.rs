//! The one driver of all views: worker threads that bring materializers up to what is committed.
//!
//! The catalog's owner attaches a [`Task`] for every (view, generation, partition). A commit wakes the task; a worker reads
//! frames, applies them for a slice of work, publishes how far readers see, and checkpoints by size and age.
//!
//! # Retention and compaction
//! A task holds what its checkpoint has not (see [`Holder`]). A new view begins at the first record that is kept; one that
//! retention overtook stops and says so, since what it would leave out nobody would see.
//!
//! # Invariants
//! A view is made durable only up to what the log has made durable: the log is flushed first where that is not so.
//!
//! # How soon a view shows what it applied
//! At the latest after its refresh, or as soon as somebody waits; at just the offset that is waited for. To some views showing costs
//! much, so after it took a while the next time is at least as long away: a view spends no more than half of its time on it, however
//! many readers wait. Until then what is waited for stays the last that is applied.
//!
//! # Concurrency
//! A task is run by one worker at a time. Its state says whether it is idle, queued or running, so the queue never holds it
//! twice and is bounded by the number of tasks. Its checkpoint is finished by the worker that began it while another may run it;
//! meanwhile memory grows by no more than what begins a checkpoint.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{DeadLetter, DeadLetters, FinishCheckpoint, Materializer, Rejects, ViewError};
use crate::error::{Error, Result};
use crate::frame::batch::Batch;
use crate::frame::{Frame, FrameKind};
use crate::partition::watermark::Watermark;
use crate::partition::{CommitListener, Hold, Holder, LogReader, Partition};
use crate::sys::{clock, thread};
use crate::types::Offset;

mod looks;
mod showing;
#[cfg(test)]
mod tests;

use looks::Looks;

/// Read from the log in one step of a task.
const STEP_BYTES: usize = 1 << 20;
/// A task goes to the back of the queue after this long.
const SLICE: Duration = Duration::from_millis(50);
/// How often ages are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Records that a waiter applies to a pulled view by itself; more is for the workers.
const PULLED_RECORDS_MAX: u64 = 1_000;
/// Times that a waiter applies for others who came meanwhile.
const PULLED_ROUNDS_MAX: usize = 4;

/// How the driver works.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// Threads that apply.
    pub workers: usize,
    /// A view shows what it applied at the latest after this long; a waiting reader makes it at once.
    pub refresh: Duration,
    /// A view is checkpointed at the latest after this long.
    pub checkpoint_interval: Duration,
    /// A view is checkpointed when its unsaved memory reaches this.
    pub unsaved_bytes_max: u64,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            refresh: Duration::from_secs(1),
            checkpoint_interval: Duration::from_secs(30),
            unsaved_bytes_max: 64 << 20,
        }
    }
}

/// How one task works.
#[derive(Clone, Debug, Default)]
pub struct TaskOptions {
    /// Records per second it may apply; 0 for no limit. For rebuilds beside a serving view.
    pub records_per_second_max: u64,
    /// Whoever waits for the view applies what is missing, if it is little: no worker is woken by a commit, only from time to time.
    /// For views that show what they applied at once, and whose writers wait for them.
    pub pulled: bool,
    /// It shows what it applied at the latest after this long; `None` for the driver's [`DriverOptions::refresh`].
    pub refresh: Option<Duration>,
}

/// Whether a view advances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It follows the log.
    Running,
    /// A local fault stopped it; the reason. A restart or a rebuild starts it again.
    Stopped(String),
}

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const RUNNING_AGAIN: u8 = 3;

struct Work {
    /// Where it reads on.
    reader: Option<LogReader>,
    materializer: Box<dyn Materializer>,
    dead_letters: DeadLetters,
    rejects: Rejects,
    last_checkpoint: Instant,
    checkpointed: Offset,
    unseen_since: Option<Instant>,
    /// Nothing is shown before, so that showing takes no more than half of the time.
    quiet_until: Option<Instant>,
    /// While a checkpoint is finished: the memory at which nothing more is applied.
    unsaved_bytes_held: Option<u64>,
    /// The log could not be made durable the last time that it had to be.
    unflushed: bool,
    not_before: Option<Instant>,
}

impl Work {
    /// Whether nothing more may be applied before the checkpoint under way has ended.
    fn is_too_much(&self) -> bool {
        self.unsaved_bytes_held.is_some_and(|held| self.materializer.unsaved_bytes() >= held)
    }
}

/// A checkpoint to finish, and the claim to do so.
type Saving<'a> = (MutexGuard<'a, ()>, FinishCheckpoint);

/// One view of one partition in the driver's care.
pub struct Task {
    name: String,
    partition: Arc<Partition>,
    options: TaskOptions,
    /// What the driver takes for too much.
    unsaved_bytes_max: u64,
    refresh: Duration,
    /// When it has to be looked at, to show what it applied.
    look_at: Mutex<Option<Instant>>,
    driver: Weak<Inner>,
    this: Weak<Task>,
    work: Mutex<Option<Work>>,
    /// Held while a checkpoint is finished beside the work.
    saving: Mutex<()>,
    schedule: AtomicU8,
    detached: AtomicBool,
    applied: Watermark,
    visible: Watermark,
    checkpointed: AtomicU64,
    wanted: AtomicU64,
    applied_records: AtomicU64,
    started: Instant,
    behind_since: Mutex<Option<Instant>>,
    state: Mutex<TaskState>,
    dead: Mutex<(u64, Vec<DeadLetter>)>,
}

struct Inner {
    options: DriverOptions,
    queue: Mutex<VecDeque<Arc<Task>>>,
    ready: Condvar,
    tasks: Mutex<Vec<Arc<Task>>>,
    looks: Looks,
    stopping: AtomicBool,
}

/// See the module docs.
pub struct Driver {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Driver {
    /// Starts the workers.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(options: DriverOptions) -> Result<Self> {
        let workers = options.workers.max(1);
        let inner = Arc::new(Inner {
            options,
            queue: Mutex::default(),
            ready: Condvar::new(),
            tasks: Mutex::default(),
            looks: Looks::default(),
            stopping: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for n in 0..workers {
            let inner = Arc::clone(&inner);
            let body = move || inner.run_worker();
            threads.push(thread::spawn(&format!("view-{n}"), body).map_err(Error::io("starting thread", "view"))?);
        }
        let ticking = Arc::clone(&inner);
        threads.push(thread::spawn("view-tick", move || ticking.run_ticker()).map_err(Error::io("starting thread", "view"))?);
        Ok(Self { inner, threads: Mutex::new(threads) })
    }

    /// Begins to apply `partition` to a view whose files of this generation and partition are in `dir`.
    ///
    /// # Errors
    /// When the dead letters in `dir` can't be read.
    pub fn attach(
        &self,
        name: &str,
        partition: &Arc<Partition>,
        materializer: Box<dyn Materializer>,
        dir: &Path,
        options: TaskOptions,
    ) -> Result<Arc<Task>> {
        let dead_letters = DeadLetters::open(dir)?;
        let (next, visible) = (materializer.next_offset(), materializer.visible());
        let now = clock::monotonic();
        let task = Arc::new_cyclic(|this| Task {
            name: name.to_owned(),
            partition: Arc::clone(partition),
            refresh: options.refresh.unwrap_or(self.inner.options.refresh),
            options,
            unsaved_bytes_max: self.inner.options.unsaved_bytes_max,
            look_at: Mutex::default(),
            driver: Arc::downgrade(&self.inner),
            this: this.clone(),
            schedule: AtomicU8::new(IDLE),
            detached: AtomicBool::new(false),
            applied: Watermark::new(next),
            visible: Watermark::new(visible),
            checkpointed: AtomicU64::new(next.value()),
            wanted: AtomicU64::new(0),
            applied_records: AtomicU64::new(0),
            started: now,
            behind_since: Mutex::new((next < partition.committed().get()).then_some(now)),
            state: Mutex::new(TaskState::Running),
            saving: Mutex::new(()),
            dead: Mutex::new((dead_letters.count(), dead_letters.recent())),
            work: Mutex::new(Some(Work {
                reader: None,
                materializer,
                dead_letters,
                rejects: Rejects::default(),
                last_checkpoint: now,
                checkpointed: next,
                unseen_since: None,
                quiet_until: None,
                unsaved_bytes_held: None,
                unflushed: false,
                not_before: None,
            })),
        });
        let listener: Arc<dyn CommitListener> = Arc::clone(&task) as Arc<dyn CommitListener>;
        partition.listen(Arc::downgrade(&listener));
        // Before the first look at where the log starts: from here on nothing that the view needs goes.
        let holder: Arc<dyn Holder> = Arc::clone(&task) as Arc<dyn Holder>;
        partition.hold(Hold::View, Arc::downgrade(&holder));
        self.inner.tasks.lock().expect("no code panics inside").push(Arc::clone(&task));
        task.schedule();
        Ok(task)
    }

    /// Stops applying and lets go of the materializer, without a checkpoint; the files may then be removed.
    pub fn detach(&self, task: &Arc<Task>) {
        task.detached.store(true, Ordering::Release);
        self.inner.tasks.lock().expect("no code panics inside").retain(|other| !Arc::ptr_eq(other, task));
        drop(task.work().take());
        // A checkpoint that is under way still writes files.
        drop(task.saving.lock());
        task.visible.wake();
    }

    /// Stops the workers and checkpoints every view, so that the next start replays nothing.
    pub fn stop(&self) {
        self.inner.stop();
        for thread in self.threads.lock().expect("no code panics inside").drain(..) {
            let _ = thread.join();
        }
        let tasks = std::mem::take(&mut *self.inner.tasks.lock().expect("no code panics inside"));
        for task in tasks {
            let mut guard = task.work();
            if let Some(work) = guard.as_mut()
                && task.state() == TaskState::Running
                && let Err(error) = task.checkpoint(work)
            {
                tracing::warn!(view = task.name, %error, "the last checkpoint failed; the next start replays from the one before");
            }
            *guard = None;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.inner.stop();
        for thread in self.threads.lock().expect("no code panics inside").drain(..) {
            let _ = thread.join();
        }
    }
}

impl Inner {
    /// Tells the workers to end. Under the queue's lock, so that none goes to sleep between looking and waiting.
    fn stop(&self) {
        let _queue = self.queue.lock().expect("no code panics inside");
        self.stopping.store(true, Ordering::Release);
        self.ready.notify_all();
        self.looks.wake();
    }

    fn push(&self, task: Arc<Task>) {
        self.queue.lock().expect("no code panics inside").push_back(task);
        self.ready.notify_one();
    }

    fn run_worker(&self) {
        loop {
            let mut queue = self.queue.lock().expect("no code panics inside");
            let task = loop {
                if self.stopping.load(Ordering::Acquire) {
                    return;
                }
                match queue.pop_front() {
                    Some(task) => break task,
                    None => queue = self.ready.wait(queue).expect("no code panics inside"),
                }
            };
            drop(queue);
            task.schedule.store(RUNNING, Ordering::Release);
            let (more, saving) = task.run(&self.options);
            let again = task.schedule.swap(if more { QUEUED } else { IDLE }, Ordering::AcqRel) == RUNNING_AGAIN;
            if more {
                self.push(Arc::clone(&task));
            } else if again {
                task.schedule();
            }
            if let Some(saving) = saving {
                // Others run it meanwhile.
                task.finish_checkpoint(saving);
            }
        }
    }

    fn run_ticker(&self) {
        let mut tick = clock::monotonic() + TICK;
        while !self.stopping.load(Ordering::Acquire) {
            let is_tick = self.looks.wait_until(tick, &self.stopping);
            let tasks: Vec<Arc<Task>> = self.tasks.lock().expect("no code panics inside").clone();
            let soonest = tasks.iter().filter_map(|task| task.look()).min();
            if let Some(soonest) = soonest {
                self.looks.at(soonest);
            }
            if is_tick {
                tick = clock::monotonic() + TICK;
                for task in tasks.iter().filter(|task| task.is_due(&self.options)) {
                    task.schedule();
                }
            }
        }
    }
}

impl CommitListener for Task {
    fn committed(&self) {
        self.behind_since.lock().expect("no code panics inside").get_or_insert_with(clock::monotonic);
        if !self.options.pulled {
            self.schedule();
        }
    }
}

impl Holder for Task {
    fn needed_from(&self) -> Option<Offset> {
        if self.detached.load(Ordering::Acquire) { None } else { Some(self.checkpointed()) }
    }
}

impl Task {
    /// The view, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The partition it follows.
    #[must_use]
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Applied up to here, exclusive.
    #[must_use]
    pub fn applied(&self) -> Offset {
        self.applied.get()
    }

    /// Readers see everything below this offset.
    #[must_use]
    pub fn visible(&self) -> Offset {
        self.visible.get()
    }

    /// Durable by itself up to here, exclusive.
    #[must_use]
    pub fn checkpointed(&self) -> Offset {
        Offset::new(self.checkpointed.load(Ordering::Acquire))
    }

    /// Records between what is committed and what is applied.
    #[must_use]
    pub fn lag_records(&self) -> u64 {
        self.applied.get().records_until(self.partition.committed().get())
    }

    /// For how long it has been behind without a break; 0 when it has applied everything. Record timestamps
    /// don't count: old records that are imported now make no lag of years.
    #[must_use]
    pub fn lag_seconds(&self) -> f64 {
        let since = *self.behind_since.lock().expect("no code panics inside");
        since.filter(|_| self.lag_records() > 0).map_or(0.0, |since| since.elapsed().as_secs_f64())
    }

    /// Records applied since it was attached, and for how long it has run: the rate of a rebuild.
    #[must_use]
    pub fn progress(&self) -> (u64, Duration) {
        (self.applied_records.load(Ordering::Relaxed), self.started.elapsed())
    }

    /// Whether it advances.
    #[must_use]
    pub fn state(&self) -> TaskState {
        self.state.lock().expect("no code panics inside").clone()
    }

    /// Records left out, and the newest of them.
    #[must_use]
    pub fn dead_letters(&self) -> (u64, Vec<DeadLetter>) {
        self.dead.lock().expect("no code panics inside").clone()
    }

    /// Waits until readers see everything below `end`.
    ///
    /// # Errors
    /// [`Error::Timeout`] at `deadline`, [`Error::ViewStopped`].
    pub async fn visible_to(&self, end: Offset, deadline: Instant) -> Result<()> {
        let started = clock::monotonic();
        while self.visible.get() < end {
            // Woken by progress, by a fault and by detaching; the short wait covers the gap between check and wait.
            let soon = deadline.min(clock::monotonic() + TICK);
            let is_committed = !self.options.pulled || self.partition.committed().reached(end, soon).await;
            // Only what is there can be shown: a wish for the far future must not make every step a commit.
            self.wanted.fetch_max(end.min(self.partition.committed().get()).value(), Ordering::AcqRel);
            if self.options.pulled {
                self.pull();
            } else {
                self.schedule();
            }
            if let TaskState::Stopped(reason) = self.state() {
                return Err(Error::ViewStopped { reason });
            }
            if self.detached.load(Ordering::Acquire) {
                return Err(Error::ViewStopped { reason: format!("{} was dropped or rebuilt meanwhile", self.name) });
            }
            if !(is_committed && self.visible.reached(end, soon).await) && clock::monotonic() >= deadline {
                let what = format!("showing offset {} in {}", end.before().unwrap_or_default(), self.name);
                return Err(Error::Timeout { what, waited_ms: started.elapsed().as_millis() });
            }
        }
        Ok(())
    }

    /// Applies what is wanted here and now, if it is little and nobody else is at it.
    fn pull(&self) {
        for _ in 0..PULLED_ROUNDS_MAX {
            // Whoever is at it looks at what is wanted once more when it is done.
            fence(Ordering::SeqCst);
            let missing = self.applied.get().records_until(Offset::new(self.wanted.load(Ordering::Acquire)));
            if missing == 0 {
                return;
            }
            if missing > PULLED_RECORDS_MAX {
                break;
            }
            let Ok(mut guard) = self.work.try_lock() else { return };
            // While a checkpoint is finished, memory grows by no more than once again what begins one.
            let unsaved_bytes = guard.as_ref().map_or(0, |work| work.materializer.unsaved_bytes());
            if unsaved_bytes >= self.unsaved_bytes_max {
                break;
            }
            self.guarded(&mut guard, |work| {
                self.step(work)?;
                self.publish(work);
                Ok(false)
            });
        }
        self.schedule();
    }

    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().expect("a materializer that panicked is not used again")
    }

    /// Queues the task, unless it is queued already; a running one runs again.
    fn schedule(&self) {
        let next = |now| match now {
            IDLE => Some(QUEUED),
            RUNNING => Some(RUNNING_AGAIN),
            _ => None,
        };
        let before = self.schedule.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        if before == Ok(IDLE)
            && let (Some(driver), Some(this)) = (self.driver.upgrade(), self.this.upgrade())
        {
            driver.push(this);
        }
    }

    fn is_due(&self, options: &DriverOptions) -> bool {
        if self.applied.get() < self.partition.committed().get() {
            return true;
        }
        let Ok(guard) = self.work.try_lock() else { return false };
        guard.as_ref().is_some_and(|work| self.refresh_due(work) || self.checkpoint_due(work, options))
    }

    fn checkpoint_due(&self, work: &Work, options: &DriverOptions) -> bool {
        if work.unsaved_bytes_held.is_some() {
            return false;
        }
        let aged = work.checkpointed < self.applied.get() && work.last_checkpoint.elapsed() >= options.checkpoint_interval;
        aged || work.materializer.unsaved_bytes() >= options.unsaved_bytes_max
    }

    /// One slice of work; `true` when there is more to do at once. With it the end of a checkpoint that began, for
    /// [`Self::finish_checkpoint`].
    fn run(&self, options: &DriverOptions) -> (bool, Option<Saving<'_>>) {
        let (mut guard, mut saving, mut is_too_much) = (self.work(), None, false);
        let more = self.guarded(&mut guard, |work| {
            let more = self.run_slice(work, options)?;
            is_too_much = work.is_too_much();
            if self.checkpoint_due(work, options) {
                saving = self.begin_saving(work)?;
            }
            Ok(more)
        });
        drop(guard);
        (more || (!is_too_much && self.is_awaited()), saving)
    }

    fn begin_saving(&self, work: &mut Work) -> Result<Option<Saving<'_>>, ViewError> {
        // Held from here on, so that detaching waits for the end.
        let saving = match self.saving.try_lock() {
            Ok(saving) => saving,
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Poisoned(_)) => return Err("its last checkpoint panicked: see the server's log".into()),
        };
        let Some(finish) = self.begin_checkpoint(work)? else { return Ok(None) };
        work.unsaved_bytes_held = Some(work.materializer.unsaved_bytes().saturating_add(self.unsaved_bytes_max));
        Ok(Some((saving, finish)))
    }

    fn finish_checkpoint(&self, (saving, finish): Saving<'_>) {
        let saved = guarded(finish);
        let mut guard = self.work();
        drop(saving);
        self.guarded(&mut guard, |work| {
            work.unsaved_bytes_held = None;
            self.has_saved(work, saved?);
            Ok(false)
        });
        drop(guard);
        self.schedule();
    }

    /// Whether somebody who found a worker at a pulled view went to sleep for what the worker had not seen.
    fn is_awaited(&self) -> bool {
        let TaskOptions { pulled, records_per_second_max, .. } = self.options;
        fence(Ordering::SeqCst);
        pulled
            && records_per_second_max == 0
            && self.applied.get().value() < self.wanted.load(Ordering::Acquire)
            && !self.detached.load(Ordering::Acquire)
            && self.state() == TaskState::Running
    }

    /// Works for the view; a fault stops it. `true` when there is more to do at once.
    fn guarded(&self, work: &mut Option<Work>, run: impl FnOnce(&mut Work) -> Result<bool, ViewError>) -> bool {
        let Some(work) = work.as_mut() else { return false };
        if self.state() != TaskState::Running {
            return false;
        }
        match guarded(|| run(work)) {
            Ok(more) => more,
            Err(error) => {
                tracing::error!(view = self.name, %error, "the view stopped; the log goes on");
                *self.state.lock().expect("no code panics inside") = TaskState::Stopped(error.to_string());
                self.visible.wake();
                false
            }
        }
    }

    fn run_slice(&self, work: &mut Work, options: &DriverOptions) -> Result<bool, ViewError> {
        let started = clock::monotonic();
        if work.not_before.is_some_and(|at| at > started) {
            return Ok(false);
        }
        let mut more = true;
        while more && started.elapsed() < SLICE && !self.detached.load(Ordering::Acquire) {
            // Goes on when the checkpoint under way has ended.
            more = !work.is_too_much() && self.step(work)?;
            let is_full = work.unsaved_bytes_held.is_none() && work.materializer.unsaved_bytes() >= options.unsaved_bytes_max;
            if self.refresh_due(work) {
                self.make_visible(work)?;
            }
            self.publish(work);
            let (records, ran) = self.progress();
            let earliest = records.checked_div(self.options.records_per_second_max).map_or(ran, Duration::from_secs);
            if earliest > ran {
                work.not_before = Some(clock::monotonic() + (earliest - ran).min(Duration::from_secs(1)));
                return Ok(false);
            }
            if is_full {
                break;
            }
        }
        Ok(more)
    }

    /// Applies what one read gives; `false` at the committed end, and while what is waited for may not be shown.
    fn step(&self, work: &mut Work) -> Result<bool, ViewError> {
        let next = work.materializer.next_offset();
        if next.value() == self.wanted.load(Ordering::Acquire) {
            if self.is_held(work) {
                return Ok(false);
            }
            self.make_visible(work)?;
        }
        let reader = match work.reader.take().filter(|reader| reader.next_offset() == next) {
            Some(reader) => work.reader.insert(reader),
            None => work.reader.insert(self.partition.reader(next)),
        };
        let frames = match reader.read(STEP_BYTES) {
            Err(Error::OffsetOutOfRange { log_start, .. }) if next < log_start => {
                return self.begin_at(work, log_start).map(|()| true);
            }
            other => other?,
        };
        if frames.is_empty() {
            // What it read ahead is not kept by a view that has nothing to do.
            work.reader = None;
        }
        for frame in &frames {
            self.apply(work, frame)?;
            // Shown at just the offset that is waited for, so that several views can be read at one.
            if frame.end_offset().value() == self.wanted.load(Ordering::Acquire) {
                if self.is_held(work) {
                    return Ok(false);
                }
                self.make_visible(work)?;
            }
        }
        Ok(!frames.is_empty())
    }

    /// The records before `log_start` are gone. A view that has none yet begins there; for others that is a hole.
    fn begin_at(&self, work: &mut Work, log_start: Offset) -> Result<(), ViewError> {
        let next = work.materializer.next_offset();
        if next == Offset::ZERO {
            return work.materializer.skip_to(log_start);
        }
        let last = log_start.before().unwrap_or_default();
        Err(format!(
            "the records {next} to {last} of {} are gone: retention dropped them before this view had applied them; REBUILD VIEW {} \
             starts it again from what is left",
            self.partition.id(),
            self.name
        )
        .into())
    }

    fn apply(&self, work: &mut Work, frame: &Frame) -> Result<(), ViewError> {
        let before = work.materializer.next_offset();
        if frame.header.kind == FrameKind::Batch {
            match Batch::open(&frame.body) {
                Ok(batch) => work.materializer.apply(&batch, &mut work.rejects)?,
                // The frame is whole but its records don't unpack: data, as far as the view is concerned.
                Err(error) => {
                    work.rejects.push(frame.header.base_offset, error.to_string());
                    work.materializer.skip_to(frame.end_offset())?;
                }
            }
        } else {
            work.materializer.skip_to(frame.end_offset())?;
        }
        if work.materializer.next_offset() < frame.end_offset() {
            work.materializer.skip_to(frame.end_offset())?;
        }
        let after = work.materializer.next_offset();
        assert_eq!(after, frame.end_offset(), "a materializer advances by exactly the frame it was given");
        self.applied_records.fetch_add(before.records_until(after), Ordering::Relaxed);
        if !work.rejects.is_empty() {
            work.dead_letters.add(work.rejects.take())?;
            *self.dead.lock().expect("no code panics inside") = (work.dead_letters.count(), work.dead_letters.recent());
        }
        Ok(())
    }

    fn checkpoint(&self, work: &mut Work) -> Result<(), ViewError> {
        if let Some(finish) = self.begin_checkpoint(work)? {
            self.has_saved(work, finish()?);
        }
        Ok(())
    }

    /// `None` when the log can't be made durable just now.
    fn begin_checkpoint(&self, work: &mut Work) -> Result<Option<FinishCheckpoint>, ViewError> {
        if !self.is_flushed(work) {
            // Tried again after the usual time; nothing comes in meanwhile.
            work.last_checkpoint = clock::monotonic();
            return Ok(None);
        }
        let (next, flushed) = (work.materializer.next_offset(), self.partition.flushed());
        assert!(next <= flushed, "a checkpoint at {next} would run ahead of what is flushed, {flushed}");
        work.dead_letters.sync()?;
        work.last_checkpoint = clock::monotonic();
        work.materializer.begin_checkpoint().map(Some)
    }

    fn has_saved(&self, work: &mut Work, saved: Offset) {
        work.checkpointed = saved;
        work.last_checkpoint = clock::monotonic();
        self.checkpointed.store(saved.value(), Ordering::Release);
    }
}

/// A store may panic on damaged files of its own; that must not take the other views' worker with it.
fn guarded<T>(run: impl FnOnce() -> Result<T, ViewError>) -> Result<T, ViewError> {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    done.unwrap_or_else(|_| Err("its store panicked: see the server's log".into()))
}
