//! Where the workers of a forwarder meet: stopping, waiting between attempts, failing, counting.
//!
//! # Concurrency
//! A batch begins at the gate ([`Gate::begin`]) and ends there. After a stop none begins, and the main thread ends the process as soon
//! as none is under way: workers that wait for new records are not waited for.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::ProgressBar;

use super::http::Fault;
use crate::cli::output::count;

/// The pause after the first failure; it doubles with each further one, up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(10);
/// What a `Retry-After` may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Why something did not go on.
#[derive(Debug)]
pub enum Ended {
    /// The user said stop.
    Stopped,
    /// It can't go on.
    Failed(anyhow::Error),
    /// There is nothing more to do.
    Done,
}

impl Ended {
    /// What the command ends with: a stop is fine, unless everything was to be forwarded.
    pub fn into_result(self, once: bool) -> Result<()> {
        match self {
            Self::Failed(error) => Err(error),
            Self::Stopped if once => anyhow::bail!("stopped before everything was forwarded"),
            Self::Stopped | Self::Done => Ok(()),
        }
    }
}

#[derive(Default)]
struct State {
    stopping: bool,
    /// Workers that run.
    running: usize,
    /// Batches under way.
    busy: usize,
    failure: Option<anyhow::Error>,
}

/// See the module docs.
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    bar: ProgressBar,
    /// What was done.
    pub counters: Counters,
}

/// A batch under way, until it is dropped.
pub struct Busy<'g>(&'g Gate);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.busy -= 1);
    }
}

impl Gate {
    /// A gate whose messages go around `bar`.
    pub fn new(bar: ProgressBar) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), bar, counters: Counters::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics inside")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Lets nothing begin any more.
    pub fn stop(&self) {
        self.change(|state| state.stopping = true);
    }

    /// Whether nothing may begin any more.
    pub fn is_stopping(&self) -> bool {
        self.state().stopping
    }

    /// A worker runs from here on, until [`Self::ended`].
    pub fn started(&self) {
        self.change(|state| state.running += 1);
    }

    /// A worker has ended; a failure ends all of them, the first one is told.
    pub fn ended(&self, ended: Ended) {
        self.change(|state| {
            state.running -= 1;
            if let Ended::Failed(error) = ended {
                state.stopping = true;
                state.failure.get_or_insert(error);
            }
        });
    }

    /// Begins a batch; `None` after a stop.
    pub fn begin(&self) -> Option<Busy<'_>> {
        let mut state = self.state();
        if state.stopping {
            return None;
        }
        state.busy += 1;
        Some(Busy(self))
    }

    /// Waits so long for the end of everything; how it ended, if it did.
    pub fn wait_for_end(&self, patience: Duration) -> Option<Ended> {
        let over = |state: &State| state.running == 0 || (state.stopping && state.busy == 0);
        let waited = self.changed.wait_timeout_while(self.state(), patience, |state| !over(state));
        let mut state = waited.expect("no code panics inside").0;
        if !over(&state) {
            return None;
        }
        Some(match state.failure.take() {
            Some(error) => Ended::Failed(error),
            None if state.stopping => Ended::Stopped,
            None => Ended::Done,
        })
    }

    /// Waits; `false` when a stop came first.
    fn pause(&self, pause: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), pause, |state| !state.stopping);
        !waited.expect("no code panics inside").0.stopping
    }

    /// Says something on stderr.
    pub fn talk(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Tries until it works, fails for good, or a stop comes; `who` is named in messages.
    ///
    /// # Errors
    /// How it ended otherwise. After a stop nothing is tried again.
    pub fn retry<T>(&self, who: &str, mut attempt: impl FnMut() -> Result<T, Fault>) -> Result<T, Ended> {
        let mut failures = 0_u32;
        loop {
            match attempt() {
                Ok(done) => {
                    if failures > 0 {
                        self.talk(&format!("{who}: goes on after {}", count(failures.into(), "failed attempt")));
                    }
                    return Ok(done);
                }
                Err(Fault::Refused(error)) => return Err(Ended::Failed(error.into())),
                Err(Fault::Passing { reason, retry_after }) => {
                    if failures == 0 {
                        self.talk(&format!("{who}: {reason}; trying again"));
                    }
                    let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
                    if !self.pause(backoff(failures, jitter()).max(asked)) {
                        return Err(Ended::Stopped);
                    }
                    failures = failures.saturating_add(1);
                }
            }
        }
    }
}

/// The pause after so many failures before this one; `jitter` is any number, and takes up to half of the pause off.
fn backoff(failures: u32, jitter: u32) -> Duration {
    let whole = PAUSE_FIRST.saturating_mul(1 << failures.min(16)).min(PAUSE_LONGEST);
    whole - whole * (jitter % 512) / 1_024
}

/// So that many forwarders of one target don't come again all at once.
fn jitter() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// What was forwarded since the start.
pub struct Counters {
    begun: Instant,
    records: AtomicU64,
    bytes: AtomicU64,
    /// Records behind the end of each partition, added up.
    lag: Mutex<std::collections::BTreeMap<u32, u64>>,
}

impl Default for Counters {
    fn default() -> Self {
        Self { begun: Instant::now(), records: AtomicU64::new(0), bytes: AtomicU64::new(0), lag: Mutex::default() }
    }
}

impl Counters {
    /// Counts a batch.
    pub fn add(&self, records: usize, bytes: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A partition is so many records behind.
    pub fn set_lag(&self, partition: u32, records: u64) {
        self.lag.lock().expect("no code panics inside").insert(partition, records);
    }

    /// Records so far.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.begun.elapsed().as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "rates for people")]
        let (records, bytes) = (self.records() as f64, self.bytes.load(Ordering::Relaxed) as f64);
        let lag: u64 = self.lag.lock().expect("no code panics inside").values().sum();
        let (per_second, mib) = (records / seconds, bytes / f64::from(1 << 20));
        write!(f, "{}, {mib:.1} MiB, {per_second:.0}/s, {lag} behind", count(self.records(), "record"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        assert_eq!(backoff(0, 0), PAUSE_FIRST);
        assert_eq!(backoff(3, 0), PAUSE_FIRST * 8);
        assert_eq!(backoff(u32::MAX, 0), PAUSE_LONGEST);
        for jitter in 0..2_000 {
            let pause = backoff(3, jitter);
            assert!((PAUSE_FIRST * 4..=PAUSE_FIRST * 8).contains(&pause), "{pause:?}");
        }
    }

    #[test]
    fn after_a_stop_what_is_under_way_ends_and_nothing_begins() {
        let gate = Gate::new(ProgressBar::hidden());
        gate.started();
        let busy = gate.begin().unwrap();
        gate.stop();
        assert!(gate.begin().is_none());
        assert!(gate.wait_for_end(Duration::ZERO).is_none(), "a batch is under way");
        drop(busy);
        assert!(matches!(gate.wait_for_end(Duration::ZERO), Some(Ended::Stopped)));
        let mut attempts = 0;
        let tried = gate.retry("s/0", || {
            attempts += 1;
            Err::<(), _>(Fault::Passing { reason: "busy".into(), retry_after: None })
        });
        assert!(matches!(tried, Err(Ended::Stopped)) && attempts == 1);
    }

    #[test]
    fn the_first_failure_is_told() {
        let gate = Gate::new(ProgressBar::hidden());
        gate.started();
        gate.started();
        gate.ended(Ended::Failed(anyhow::anyhow!("first")));
        gate.ended(Ended::Failed(anyhow::anyhow!("second")));
        let Some(Ended::Failed(error)) = gate.wait_for_end(Duration::ZERO) else { panic!("it failed") };
        assert_eq!(error.to_string(), "first");
        assert!(Ended::Stopped.into_result(false).is_ok() && Ended::Stopped.into_result(true).is_err());
    }
}
