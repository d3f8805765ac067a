//! How soon a view shows what it applied: when it is due, when somebody waits, and how much of its time that may take.
//!
//! # Invariants
//! Shown at just the offset that is waited for, so that several views can be read at one. While a view may not be shown again yet,
//! nothing more is applied than what is waited for.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{Task, Work};
use crate::materialize::ViewError;
use crate::sys::clock;

impl Task {
    pub(super) fn refresh_due(&self, work: &Work) -> bool {
        self.refresh_at(work).is_some_and(|at| at <= clock::monotonic())
    }

    /// When what is applied has to be shown; `None` when it is.
    fn refresh_at(&self, work: &Work) -> Option<Instant> {
        let (applied, visible) = (work.materializer.next_offset(), work.materializer.visible());
        let since = if visible < applied { work.unseen_since.unwrap_or_else(clock::monotonic) } else { return None };
        let is_wanted = visible.value() < self.wanted.load(Ordering::Acquire).min(applied.value());
        let at = if is_wanted { since } else { since + self.refresh };
        Some(work.quiet_until.map_or(at, |quiet| at.max(quiet)))
    }

    /// Whether what is waited for is applied and may not be shown yet: nothing more is applied until then.
    pub(super) fn is_held(&self, work: &Work) -> bool {
        let (applied, visible) = (work.materializer.next_offset(), work.materializer.visible());
        let is_quiet = || work.quiet_until.is_some_and(|quiet| quiet > clock::monotonic());
        visible < applied && applied.value() == self.wanted.load(Ordering::Acquire) && is_quiet()
    }

    /// Queues the task when it is time to show what it applied; says when, if that is later.
    pub(super) fn look(&self) -> Option<Instant> {
        let mut look_at = self.look_at.lock().expect("no code panics inside");
        match *look_at {
            Some(at) if at <= clock::monotonic() => {
                *look_at = None;
                drop(look_at);
                self.schedule();
                None
            }
            at => at,
        }
    }

    /// Whether the log is durable up to what is applied, after a flush if it takes one.
    pub(super) fn is_flushed(&self, work: &mut Work) -> bool {
        let next = work.materializer.next_offset();
        if self.partition.flushed() >= next {
            return true;
        }
        let flushed = self.partition.flush();
        if let (Err(error), false) = (&flushed, work.unflushed) {
            tracing::warn!(view = self.name, %error, "the log can't be made durable, and so the view can't");
        }
        work.unflushed = flushed.is_err();
        flushed.is_ok() && self.partition.flushed() >= next
    }

    /// Lets readers see what is applied. To some views that means durable, so the log must be durable first.
    pub(super) fn make_visible(&self, work: &mut Work) -> Result<(), ViewError> {
        if work.materializer.visible() < work.materializer.next_offset() && self.is_flushed(work) {
            let started = clock::monotonic();
            work.materializer.make_visible()?;
            let ended = clock::monotonic();
            work.quiet_until = Some(ended + (ended - started));
        }
        Ok(())
    }

    pub(super) fn publish(&self, work: &mut Work) {
        let (applied, visible) = (work.materializer.next_offset(), work.materializer.visible());
        work.unseen_since = match visible < applied {
            true => work.unseen_since.or_else(|| Some(clock::monotonic())),
            false => None,
        };
        self.applied.advance(applied);
        self.visible.advance(visible);
        // With a log that can't be made durable, ticks are often enough.
        let look_at = self.refresh_at(work).filter(|_| !work.unflushed);
        *self.look_at.lock().expect("no code panics inside") = look_at;
        if let (Some(at), Some(driver)) = (look_at, self.driver.upgrade()) {
            driver.looks.at(at);
        }
        let mut behind_since = self.behind_since.lock().expect("no code panics inside");
        if self.lag_records() == 0 {
            *behind_since = None;
        }
    }
}
