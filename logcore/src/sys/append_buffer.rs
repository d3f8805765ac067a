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

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Chunks start on page boundaries, as O_DIRECT asks.
pub const PAGE_BYTES: usize = 4096;

/// A page-aligned piece of memory that nobody uses yet. What it holds is what its last user left there.
pub struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a block is a plain allocation with one owner.
unsafe impl Send for Block {}

impl Block {
    /// Allocates `capacity` bytes, rounded up to whole pages. Pages are touched only when they are written: nobody reads a byte
    /// of a block that was not written before.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let rounded = capacity.max(1).next_multiple_of(PAGE_BYTES);
        let layout =
            Layout::from_size_align(rounded, PAGE_BYTES).expect("a page-aligned size below isize::MAX is a valid layout");
        // SAFETY: the layout's size is at least one page, so not zero.
        let raw = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Self { start, layout }
    }

    /// Its bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `Block::new` with this very layout, and freed once, by its only owner.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
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
