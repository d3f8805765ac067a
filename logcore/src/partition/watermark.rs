//! A number that only grows, and waiting for it: committed offsets, applied offsets.
//!
//! Owners and materializers advance it from their threads; doors await it, threads block on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use tokio::sync::Notify;

use crate::sys::clock;
use crate::types::Offset;

/// See the module docs. The value is an exclusive end: everything below it has happened.
#[derive(Debug, Default)]
pub struct Watermark {
    value: AtomicU64,
    notify: Notify,
    gate: Mutex<()>,
    blocked: Condvar,
}

impl Watermark {
    /// A watermark that starts at `at`.
    #[must_use]
    pub fn new(at: Offset) -> Self {
        Self { value: AtomicU64::new(at.value()), ..Self::default() }
    }

    /// Where it stands.
    #[must_use]
    pub fn get(&self) -> Offset {
        Offset::new(self.value.load(Ordering::Acquire))
    }

    /// Moves it up to `to` and wakes whoever waits; never down.
    pub fn advance(&self, to: Offset) {
        if self.value.fetch_max(to.value(), Ordering::AcqRel) < to.value() {
            self.wake();
        }
    }

    /// Wakes whoever waits, so that they look at other conditions again.
    pub fn wake(&self) {
        drop(self.gate.lock().expect("no code panics inside"));
        self.blocked.notify_all();
        self.notify.notify_waiters();
    }

    /// Waits until it reaches `at_least`; `false` when `deadline` came first.
    pub async fn reached(&self, at_least: Offset, deadline: Instant) -> bool {
        loop {
            let notified = self.notify.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.get() >= at_least {
                return true;
            }
            if tokio::time::timeout_at(deadline.into(), notified).await.is_err() {
                return self.get() >= at_least;
            }
        }
    }

    /// As [`Self::reached`], for threads.
    pub fn reached_blocking(&self, at_least: Offset, deadline: Instant) -> bool {
        let mut gate = self.gate.lock().expect("no code panics inside");
        while self.get() < at_least {
            let now = clock::monotonic();
            if now >= deadline {
                return false;
            }
            gate = self.blocked.wait_timeout(gate, deadline - now).expect("no code panics inside").0;
        }
        true
    }
}
