//! Chunks of memory under one budget for the whole process.
//!
//! Called by `segment::active` when a partition needs its next chunk; asks the partitions' tails for durable chunks when the
//! budget is used up.
//!
//! # Invariants
//! - The bytes of all living chunks, free ones included, never exceed the budget.
//! - Bytes that a reader still holds stay counted until it lets go.
//! - A chunk given back is kept for the next one who needs it, so that a busy log touches no new pages; after quiet time free
//!   chunks go back to the system.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use crate::sys::append_buffer::{Appender, Block, HUGE_PAGE_BYTES, Home};
use crate::sys::clock;

/// The normal size of a chunk; a frame that is larger gets a chunk of its own.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Larger chunks are multiples of this.
const LARGE_STEP_BYTES: usize = 64 << 10;
/// Free chunks go back to the system when none was wanted for this long.
const QUIET: Duration = Duration::from_secs(5);
/// Free chunks that stay all the same.
const FREE_FLOOR: usize = 4;
/// Holders looked at before the best of them has to give a chunk.
const SAMPLE: usize = 64;

/// What a holder says of its oldest chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evictable {
    /// It is durable, and all cursors have passed it; the chunk's birth.
    Consumed(u64),
    /// It is durable, and a cursor still has to read it.
    Durable(u64),
    /// Its bytes are in RAM only.
    Pinned,
    /// There is none.
    Nothing,
}

/// A holder of chunks that can let durable ones go when others need the room.
pub trait Evict: Send + Sync {
    /// What could be had from it.
    fn oldest(&self) -> Evictable;

    /// Lets the oldest durable chunk go; `false` when there is none.
    fn evict_oldest(&self) -> bool;

    /// Whether the arena has it in its list; the arena's to change.
    fn listed(&self) -> &AtomicBool;
}

#[derive(Default)]
struct Free {
    blocks: Vec<Block>,
    last_take: Option<Instant>,
}

/// The part that chunks come back to; it lives as long as they do.
struct Store {
    budget_bytes: u64,
    /// Given out.
    used_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    free: Mutex<Free>,
}

/// See the module docs.
pub struct Arena {
    store: Arc<Store>,
    births: AtomicU64,
    /// Who holds chunks, each once.
    holders: Mutex<VecDeque<Weak<dyn Evict>>>,
}

impl Home for Store {
    fn give_back(&self, block: Block) {
        self.used_bytes.fetch_sub(block.capacity() as u64, Ordering::AcqRel);
        if block.capacity() == CHUNK_BYTES {
            self.free().blocks.push(block);
        }
    }
}

impl Store {
    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().expect("no code panics inside")
    }

    /// Charges `size` bytes if the budget has them, giving free chunks to the system where they stand in the way.
    fn claim(&self, size: usize) -> Option<Block> {
        let mut free = self.free();
        let used = self.used_bytes.load(Ordering::Acquire);
        if used + size as u64 > self.budget_bytes {
            return None;
        }
        let reused = if size == CHUNK_BYTES { free.blocks.pop() } else { None };
        let room = self.budget_bytes - used - size as u64;
        let keep = usize::try_from(room / CHUNK_BYTES as u64).unwrap_or(usize::MAX);
        free.blocks.truncate(keep);
        free.last_take = Some(clock::monotonic());
        let used = self.used_bytes.fetch_add(size as u64, Ordering::AcqRel) + size as u64;
        self.peak_bytes.fetch_max(used, Ordering::Relaxed);
        if reused.is_some() || size != CHUNK_BYTES || keep < HUGE_PAGE_BYTES / CHUNK_BYTES - 1 {
            drop(free);
            return Some(reused.unwrap_or_else(|| Block::new(size)));
        }
        free.blocks.append(&mut Block::sharing_huge_page(CHUNK_BYTES));
        free.blocks.pop()
    }
}

impl Arena {
    /// An arena that gives out at most `budget_bytes` at a time.
    #[must_use]
    pub fn new(budget_bytes: u64) -> Self {
        let (used_bytes, peak_bytes, free) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
        Self {
            store: Arc::new(Store { budget_bytes, used_bytes, peak_bytes, free }),
            births: AtomicU64::new(0),
            holders: Mutex::default(),
        }
    }

    /// The budget.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.store.budget_bytes
    }

    /// Bytes given out.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.store.used_bytes.load(Ordering::Relaxed)
    }

    /// The most that was ever given out.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.store.peak_bytes.load(Ordering::Relaxed)
    }

    /// Bytes kept for the next who needs a chunk.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        (self.store.free().blocks.len() * CHUNK_BYTES) as u64
    }

    /// Whether at least half of the budget is not given out: then a partition may take its next chunk ahead of need.
    #[must_use]
    pub fn is_roomy(&self) -> bool {
        self.used_bytes() * 2 <= self.budget_bytes()
    }

    /// A chunk for at least `bytes` and its birth, or `None` when the budget is used up by bytes that are not durable yet or that
    /// readers hold. `holder` is asked for it again when others need the room. The caller must not hold a lock of any holder.
    #[must_use]
    pub fn take(&self, bytes: usize, holder: &Weak<dyn Evict>) -> Option<(Appender, u64)> {
        let size = if bytes <= CHUNK_BYTES { CHUNK_BYTES } else { bytes.next_multiple_of(LARGE_STEP_BYTES) };
        let block = loop {
            match self.store.claim(size) {
                Some(block) => break block,
                None if !self.evict() => return None,
                None => {}
            }
        };
        if holder.upgrade().is_some_and(|holder| !holder.listed().swap(true, Ordering::AcqRel)) {
            self.holders.lock().expect("no code panics inside").push_back(Weak::clone(holder));
        }
        let birth = self.births.fetch_add(1, Ordering::Relaxed);
        Some((Appender::over(block, Some(Arc::clone(&self.store) as Arc<dyn Home>)), birth))
    }

    /// Takes one durable chunk from whoever has one: of a sample of holders the oldest that every cursor has passed, else the
    /// oldest. Holders are looked at in turn, so that none is spared.
    fn evict(&self) -> bool {
        let mut holders = self.holders.lock().expect("no code panics inside");
        let mut best: Option<(Evictable, Arc<dyn Evict>)> = None;
        for looked_at in 0..holders.len() {
            if looked_at >= SAMPLE && best.is_some() {
                break;
            }
            let Some(weak) = holders.pop_front() else { break };
            let Some(holder) = weak.upgrade() else { continue };
            let offer = holder.oldest();
            match offer {
                Evictable::Nothing => {
                    // It lists itself again with its next chunk.
                    holder.listed().store(false, Ordering::Release);
                    continue;
                }
                Evictable::Pinned => {}
                _ if best.as_ref().is_none_or(|(best, _)| offer < *best) => best = Some((offer, holder)),
                _ => {}
            }
            holders.push_back(weak);
        }
        drop(holders);
        best.is_some_and(|(_, holder)| holder.evict_oldest())
    }

    /// Gives free chunks back to the system after quiet time. Called about once a second.
    pub fn tidy(&self) {
        let mut free = self.store.free();
        if free.last_take.is_none_or(|last| last.elapsed() >= QUIET) {
            free.blocks.truncate(FREE_FLOOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Holder {
        chunks: Mutex<VecDeque<(Appender, u64)>>,
        consumed: bool,
        listed: AtomicBool,
    }

    impl Evict for Holder {
        fn oldest(&self) -> Evictable {
            match self.chunks.lock().unwrap().front() {
                None => Evictable::Nothing,
                Some((_, birth)) if self.consumed => Evictable::Consumed(*birth),
                Some((_, birth)) => Evictable::Durable(*birth),
            }
        }

        fn evict_oldest(&self) -> bool {
            self.chunks.lock().unwrap().pop_front().is_some()
        }

        fn listed(&self) -> &AtomicBool {
            &self.listed
        }
    }

    fn holder(consumed: bool) -> (Arc<Holder>, Weak<dyn Evict>) {
        let holder = Arc::new(Holder { chunks: Mutex::default(), consumed, listed: AtomicBool::new(false) });
        let evict: Arc<dyn Evict> = Arc::clone(&holder) as Arc<dyn Evict>;
        (holder, Arc::downgrade(&evict))
    }

    fn fill(arena: &Arena, holder: &(Arc<Holder>, Weak<dyn Evict>), chunks: usize) {
        for _ in 0..chunks {
            let chunk = arena.take(1, &holder.1).expect("room");
            holder.0.chunks.lock().unwrap().push_back(chunk);
        }
    }

    fn held(holder: &(Arc<Holder>, Weak<dyn Evict>)) -> usize {
        holder.0.chunks.lock().unwrap().len()
    }

    #[test]
    fn the_budget_holds_and_comes_back() {
        let arena = Arena::new(2 * CHUNK_BYTES as u64);
        let (_nobody, weak) = holder(false);
        let first = arena.take(10, &weak).expect("room");
        let second = arena.take(CHUNK_BYTES, &weak).expect("room");
        assert!(arena.take(1, &weak).is_none());
        drop(first);
        assert_eq!((arena.used_bytes(), arena.free_bytes()), (CHUNK_BYTES as u64, CHUNK_BYTES as u64));
        assert!(arena.take(1, &weak).is_some());
        drop(second);
        let large = arena.take(CHUNK_BYTES + 1, &weak).expect("room");
        assert!(arena.free_bytes() + arena.used_bytes() <= arena.budget_bytes(), "free chunks made way for the large one");
        drop(large);
        assert_eq!(arena.peak_bytes(), 2 * CHUNK_BYTES as u64);
        assert!(arena.take(3 * CHUNK_BYTES, &weak).is_none(), "a frame over the whole budget is refused");
    }

    #[test]
    fn consumed_chunks_go_before_older_ones_that_are_only_durable() {
        let arena = Arena::new(3 * CHUNK_BYTES as u64);
        let (unread, read) = (holder(false), holder(true));
        fill(&arena, &unread, 2);
        fill(&arena, &read, 1);
        let (_new, weak) = holder(false);
        let first = arena.take(1, &weak).expect("room is made");
        assert_eq!((held(&unread), held(&read)), (2, 0));
        let second = arena.take(1, &weak).expect("room is made");
        assert_eq!(held(&unread), 1);
        let third = arena.take(1, &weak).expect("room is made");
        assert!(arena.take(1, &weak).is_none(), "what is left is not theirs to give");
        drop((first, second, third));
    }
}
