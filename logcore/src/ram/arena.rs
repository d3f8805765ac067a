//! Chunks of memory under one budget for the whole process.
//!
//! Called by `segment::active` when a partition needs its next chunk, and by `partition::owner` when one may leave RAM.
//!
//! # Invariants
//! - The bytes of all living chunks never exceed the budget.
//! - Bytes that a reader still holds stay counted until it lets go.
//!
//! # Not done
//! Chunks come from the system's allocator one by one, which touches their pages only when they are written; a preallocated
//! arena and its return of idle memory come with the LogCore engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::append_buffer::Appender;

/// The normal size of a chunk; a frame that is larger gets a chunk of its own.
pub const CHUNK_BYTES: usize = 1 << 20;

/// See the module docs.
pub struct Arena {
    budget_bytes: u64,
    used_bytes: Arc<AtomicU64>,
}

/// A chunk's claim on the budget, given back when it is dropped.
pub struct Claim {
    bytes: u64,
    used_bytes: Arc<AtomicU64>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Arena {
    /// An arena that gives out at most `budget_bytes` at a time.
    #[must_use]
    pub fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, used_bytes: Arc::default() }
    }

    /// The budget.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Bytes given out.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// A chunk for at least `bytes`, or `None` when the budget is used up.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<(Appender, Claim)> {
        let size = bytes.max(CHUNK_BYTES).next_multiple_of(CHUNK_BYTES);
        let claimed = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let wanted = used + size as u64;
            (wanted <= self.budget_bytes).then_some(wanted)
        });
        claimed.ok()?;
        let claim = Claim { bytes: size as u64, used_bytes: Arc::clone(&self.used_bytes) };
        Some((Appender::new(size), claim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_holds_and_comes_back() {
        let arena = Arena::new(2 * CHUNK_BYTES as u64);
        let first = arena.take(10).expect("room");
        let second = arena.take(CHUNK_BYTES).expect("room");
        assert!(arena.take(1).is_none());
        drop(first);
        assert!(arena.take(1).is_some());
        drop(second);
        assert!(arena.take(3 * CHUNK_BYTES).is_none(), "a frame over the whole budget is refused");
    }
}
