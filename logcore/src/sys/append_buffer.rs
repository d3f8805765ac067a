//! A fixed, page-aligned piece of memory that one writer appends to while readers hold parts of it.
//!
//! The bytes of a RAM chunk live here (`ram::arena`). They never move, so a reader keeps a reference instead of a copy.
//!
//! # Invariants
//! - Bytes below the published length never change again.
//! - Only the [`Appender`] writes, and only at or above the published length; there is one per buffer.
//!
//! # Concurrency
//! The writer publishes with `Release` after it has written, readers load with `Acquire`: what a reader can see is whole.
#![allow(unsafe_code, reason = "the one structure whose writer and readers share memory without a lock")]

use std::alloc::{Layout, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Chunks start on page boundaries, as O_DIRECT asks.
pub const PAGE_BYTES: usize = 4096;
/// What the system can map at once: touching it as one costs a fraction of touching it page by page.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A page-aligned piece of memory that nobody uses yet. What it holds is what its last user left there.
pub struct Block {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: a block is a mapping, or a part of one, that nobody else uses.
unsafe impl Send for Block {}

impl Block {
    /// Maps `capacity` bytes, rounded up to whole pages. Pages are touched only when they are written: nobody reads a byte of a
    /// block that was not written before.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1).next_multiple_of(PAGE_BYTES);
        // SAFETY: the address is the system's choice, so no other mapping is touched.
        let mapped =
            unsafe { mmap_anonymous(std::ptr::null_mut(), capacity, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let start = mapped.ok().and_then(|start| NonNull::new(start.cast()));
        let out_of_memory = || {
            let layout = Layout::from_size_align(capacity, PAGE_BYTES);
            handle_alloc_error(layout.expect("a page-aligned size below isize::MAX is a valid layout"))
        };
        Self { start: start.unwrap_or_else(out_of_memory), capacity }
    }

    /// Blocks of `capacity` bytes that fill one huge page, which the system is asked to map as such. Each goes back by itself.
    ///
    /// # Panics
    /// When `capacity` is not a whole part of [`HUGE_PAGE_BYTES`].
    #[must_use]
    pub fn sharing_huge_page(capacity: usize) -> Vec<Self> {
        assert!(
            HUGE_PAGE_BYTES.is_multiple_of(capacity) && capacity.is_multiple_of(PAGE_BYTES),
            "{capacity} bytes don't fill it"
        );
        let around = Self::new(2 * HUGE_PAGE_BYTES - PAGE_BYTES);
        let before = around.start.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let (_before, rest) = around.split(before);
        let (page, _behind) = rest.split(HUGE_PAGE_BYTES);
        // It is only faster with them.
        // SAFETY: the advice changes no content, and the range is the block's.
        let _ = unsafe { madvise(page.start.as_ptr().cast(), HUGE_PAGE_BYTES, Advice::LinuxHugepage) };
        let mut blocks = Vec::with_capacity(HUGE_PAGE_BYTES / capacity);
        let mut rest = page;
        while rest.capacity > capacity {
            let (block, behind) = rest.split(capacity);
            blocks.push(block);
            rest = behind;
        }
        blocks.push(rest);
        blocks
    }

    /// Two blocks of what was one: the first `at` bytes, whole pages, and the rest. Either may be empty.
    fn split(self, at: usize) -> (Self, Self) {
        let whole = std::mem::ManuallyDrop::new(self);
        assert!(at <= whole.capacity && at.is_multiple_of(PAGE_BYTES), "{at} is no place to split at");
        // SAFETY: `at` lies in the mapping or just behind it.
        let behind = unsafe { whole.start.add(at) };
        (Self { start: whole.start, capacity: at }, Self { start: behind, capacity: whole.capacity - at })
    }

    /// Its bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // A system that has no room to note a hole in a mapping keeps the memory; nobody uses it.
            // SAFETY: the range was mapped for this block, whose only owner lets it go once.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.capacity) };
        }
    }
}

/// Where blocks go when nobody holds them any more.
pub trait Home: Send + Sync {
    /// Takes a block back.
    fn give_back(&self, block: Block);
}

struct Memory {
    /// `None` only while it is dropped.
    block: Option<Block>,
    start: NonNull<u8>,
    capacity: usize,
    published: AtomicUsize,
    home: Option<Arc<dyn Home>>,
}

// SAFETY: `Memory` owns its block. The single `Appender` writes only above `published`, readers read only below it, and
// `published` is an atomic that orders the two.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        if let (Some(block), Some(home)) = (self.block.take(), &self.home) {
            home.give_back(block);
        }
    }
}

/// The writing end of a buffer. There is exactly one; it is not `Clone`.
pub struct Appender {
    memory: Arc<Memory>,
}

/// A reading end of a buffer.
#[derive(Clone)]
pub struct Reader {
    memory: Arc<Memory>,
}

impl Appender {
    /// An empty buffer of at least `capacity` bytes with memory of its own.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::over(Block::new(capacity), None)
    }

    /// An empty buffer over `block`, which goes to `home` when the last of writer and readers is gone.
    #[must_use]
    pub fn over(block: Block, home: Option<Arc<dyn Home>>) -> Self {
        let (start, capacity) = (block.start, block.capacity());
        Self { memory: Arc::new(Memory { block: Some(block), start, capacity, published: AtomicUsize::new(0), home }) }
    }

    /// The bytes this buffer can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.capacity
    }

    /// The bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.published.load(Ordering::Relaxed)
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the pieces one after the other, then publishes them together.
    ///
    /// # Panics
    /// When they don't fit: the caller asks [`Self::capacity`] first.
    pub fn append(&mut self, pieces: &[&[u8]]) -> Range<usize> {
        let from = self.len();
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        assert!(from + total <= self.capacity(), "{total} bytes don't fit behind {from} of {}", self.capacity());
        let mut at = from;
        for piece in pieces {
            // SAFETY: `at + piece.len() <= capacity` by the assertion, the target lies above `published`, where no reader
            // looks and no other writer exists, and can't overlap `piece`, which is borrowed elsewhere or lies below
            // `published`.
            unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), self.memory.start.as_ptr().add(at), piece.len()) };
            at += piece.len();
        }
        self.memory.published.store(at, Ordering::Release);
        from..at
    }

    /// The bytes written so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.memory.as_slice()
    }

    /// Another reading end.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { memory: Arc::clone(&self.memory) }
    }
}

impl Reader {
    /// The bytes that are published.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.memory.as_slice()
    }
}

impl Memory {
    fn as_slice(&self) -> &[u8] {
        let len = self.published.load(Ordering::Acquire);
        // SAFETY: `len` bytes from `start` were written before they were published, lie inside the block, which lives as long as
        // `self`, and are never written again.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_share_a_huge_page_come_and_go_by_themselves() {
        let mut blocks = Block::sharing_huge_page(1 << 20);
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0].start.as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
        let second = blocks.pop().unwrap();
        let mut writers: Vec<Appender> = blocks.into_iter().map(|block| Appender::over(block, None)).collect();
        writers[0].append(&[&[7; 1 << 20]]);
        drop(second);
        assert!(writers[0].as_slice().iter().all(|byte| *byte == 7));
        drop(writers);
        assert_eq!(Block::sharing_huge_page(PAGE_BYTES).len(), 512);
    }

    #[test]
    fn a_reader_keeps_what_it_saw_while_the_writer_goes_on() {
        let mut writer = Appender::new(10_000);
        assert_eq!(writer.capacity(), 12_288);
        writer.append(&[b"one", b"two"]);
        let reader = writer.reader();
        let seen = reader.as_slice();
        writer.append(&[b"three"]);
        assert_eq!(seen, b"onetwo");
        assert_eq!(reader.as_slice(), b"onetwothree");
        drop(writer);
        assert_eq!(reader.as_slice().len(), 11, "readers keep the memory alive");
    }
}
