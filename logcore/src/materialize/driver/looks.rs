//! When the ticker has to look at the tasks next: at each tick, and before when a view has something to show.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::sys::clock;

/// Looks at many views are taken together.
const APART: Duration = Duration::from_millis(1);

/// The next look, which can only come nearer until it has come.
#[derive(Default)]
pub(super) struct Looks {
    soonest: Mutex<Option<Instant>>,
    nearer: Condvar,
}

impl Looks {
    /// Asks for a look at `at`.
    pub(super) fn at(&self, at: Instant) {
        let mut soonest = self.soonest.lock().expect("no code panics inside");
        if soonest.is_none_or(|soonest| at < soonest) {
            *soonest = Some(at);
            self.nearer.notify_one();
        }
    }

    /// Ends the wait under way.
    pub(super) fn wake(&self) {
        let _soonest = self.soonest.lock().expect("no code panics inside");
        self.nearer.notify_all();
    }

    /// Waits for the next look; `true` at the tick. What is asked for from then on counts for the next one, [`APART`] later at
    /// the soonest.
    pub(super) fn wait_until(&self, tick: Instant, stopping: &AtomicBool) -> bool {
        let earliest = clock::monotonic() + APART;
        let mut soonest = self.soonest.lock().expect("no code panics inside");
        loop {
            let now = clock::monotonic();
            let next = soonest.map_or(tick, |soonest| soonest.min(tick)).max(earliest);
            if next <= now || stopping.load(Ordering::Acquire) {
                *soonest = None;
                return tick <= now;
            }
            soonest = self.nearer.wait_timeout(soonest, next - now).expect("no code panics inside").0;
        }
    }
}
