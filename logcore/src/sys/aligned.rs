//! Page-aligned memory with one owner, which reads and writes it: what O_DIRECT reads into, and zeros to write.
//!
//! Used by the disk backends ([`crate::io`]). Memory that a writer and readers share is [`super::append_buffer`].
#![allow(unsafe_code, reason = "the standard collections don't align to pages")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use super::append_buffer::PAGE_BYTES;

/// Whole pages of memory; every byte is initialised from the start.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the buffer is the only owner of its allocation, and gives it out by the rules of `&` and `&mut`.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// Allocates `len` zeroed bytes, rounded up to whole pages.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let rounded = len.max(1).next_multiple_of(PAGE_BYTES);
        let layout =
            Layout::from_size_align(rounded, PAGE_BYTES).expect("a page-aligned size below isize::MAX is a valid layout");
        // SAFETY: the layout's size is at least one page, so not zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Self { start, layout }
    }

    /// All of it.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the allocation has this size, its bytes were zeroed, and `&self` keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    /// All of it, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` keeps everyone else away.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_whole_zeroed_pages() {
        let mut buffer = AlignedBuffer::new(5_000);
        assert_eq!(buffer.as_slice().len(), 2 * PAGE_BYTES);
        assert_eq!(buffer.as_slice().as_ptr().align_offset(PAGE_BYTES), 0);
        assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
        buffer.as_mut_slice()[4_999] = 7;
        assert_eq!(buffer.as_ref()[4_999], 7);
    }
}
