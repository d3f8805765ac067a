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

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::sys::append_buffer::Appender;

/// The normal size of a chunk; a frame that is larger gets a chunk of its own.
pub const CHUNK_BYTES: usize = 1 << 20;

/// A holder of chunks that can let durable ones go when others need the room.
pub trait Evict: Send + Sync {
    /// Lets the oldest durable chunk go; `false` when there is none.
    fn evict_oldest(&self) -> bool;
}

/// See the module docs.
pub struct Arena {
    budget_bytes: u64,
    used_bytes: Arc<AtomicU64>,
    holders: Mutex<Vec<Weak<dyn Evict>>>,
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
        Self { budget_bytes, used_bytes: Arc::default(), holders: Mutex::default() }
    }

    /// Lets the arena ask `holder` for room, for as long as it lives.
    pub fn register(&self, holder: Weak<dyn Evict>) {
        self.holders.lock().expect("no code panics inside").push(holder);
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

    /// A chunk for at least `bytes`, or `None` when the budget is used up by bytes that are not durable yet or that readers
    /// hold. The caller must not hold a lock of a registered holder.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<(Appender, Claim)> {
        let size = bytes.max(CHUNK_BYTES).next_multiple_of(CHUNK_BYTES);
        while !self.claim(size as u64) {
            if !self.evict() {
                return None;
            }
        }
        let claim = Claim { bytes: size as u64, used_bytes: Arc::clone(&self.used_bytes) };
        Some((Appender::new(size), claim))
    }

    fn claim(&self, size: u64) -> bool {
        let wanted = |used| Some(used + size).filter(|wanted| *wanted <= self.budget_bytes);
        self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, wanted).is_ok()
    }

    /// Takes one durable chunk from whoever has one; each holder is asked in turn.
    fn evict(&self) -> bool {
        let mut holders = self.holders.lock().expect("no code panics inside");
        holders.retain(|holder| holder.strong_count() > 0);
        let found = holders.iter().position(|holder| holder.upgrade().is_some_and(|holder| holder.evict_oldest()));
        if let Some(at) = found {
            holders.rotate_left(at + 1);
        }
        found.is_some()
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

    struct Holder(Mutex<Vec<(Appender, Claim)>>);

    impl Evict for Holder {
        fn evict_oldest(&self) -> bool {
            self.0.lock().unwrap().pop().is_some()
        }
    }

    #[test]
    fn a_full_arena_takes_durable_chunks_from_their_holders() {
        let arena = Arena::new(2 * CHUNK_BYTES as u64);
        let chunks = vec![arena.take(1).expect("room"), arena.take(1).expect("room")];
        let holder: Arc<dyn Evict> = Arc::new(Holder(Mutex::new(chunks)));
        arena.register(Arc::downgrade(&holder));
        let first = arena.take(1);
        let second = arena.take(1);
        assert!(first.is_some() && second.is_some());
        assert!(arena.take(1).is_none());
    }
}
