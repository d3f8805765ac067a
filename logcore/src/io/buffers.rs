//! Page-aligned memory for large reads, used again and again: a fresh megabyte costs as many page faults as it has pages.
//!
//! A backend keeps one [`ReadBuffers`]; [`crate::io::pool`] reads into what it gives and hands it on as [`Bytes`]. The memory
//! comes back when the last part of those is dropped.
//!
//! # Invariants
//! - At most [`FREE_BYTES_MAX`] wait to be used again; what is beyond that goes back to the system.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::sys::aligned::AlignedBuffer;

/// Memory that may wait to be used again: eight reads of 1 MiB under way at once.
pub(crate) const FREE_BYTES_MAX: usize = 8 << 20;
/// What all of them together usually come to: what waits, and what a few readers hold.
pub(crate) const USUAL_BYTES: u64 = 2 * FREE_BYTES_MAX as u64;
/// Buffers come in multiples of this, so that reads of about the same length share them.
const STEP_BYTES: usize = 64 << 10;

/// See the module docs.
#[derive(Default)]
pub(crate) struct ReadBuffers {
    free: Mutex<Vec<AlignedBuffer>>,
}

/// Memory that is on loan.
pub(crate) struct Lent {
    /// Present until drop.
    buffer: Option<AlignedBuffer>,
    home: Arc<ReadBuffers>,
}

impl ReadBuffers {
    /// Memory of at least `len` bytes, with whatever was in it before.
    pub fn lend(self: &Arc<Self>, len: usize) -> Lent {
        let fits = |buffer: &AlignedBuffer| (len..=len.saturating_mul(2)).contains(&buffer.as_slice().len());
        let mut free = self.free.lock().expect("no code panics inside");
        let found = free.iter().position(fits).map(|at| free.swap_remove(at));
        drop(free);
        let buffer = found.unwrap_or_else(|| AlignedBuffer::new(len.next_multiple_of(STEP_BYTES)));
        Lent { buffer: Some(buffer), home: Arc::clone(self) }
    }

    fn take_back(&self, buffer: AlignedBuffer) {
        let mut free = self.free.lock().expect("no code panics inside");
        let waiting: usize = free.iter().map(|buffer| buffer.as_slice().len()).sum();
        if waiting + buffer.as_slice().len() <= FREE_BYTES_MAX {
            free.push(buffer);
        }
    }
}

impl Lent {
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.buffer.as_mut().expect("present until drop").as_mut_slice()
    }

    /// Hands it on to readers.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().expect("present until drop").as_slice()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.home.take_back(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_with_the_last_reader_and_is_bounded() {
        let buffers = Arc::new(ReadBuffers::default());
        let mut lent = buffers.lend(1 << 20);
        lent.as_mut_slice()[0] = 9;
        let bytes = lent.into_bytes();
        let (part, address) = (bytes.slice(..10), bytes.as_ptr());
        drop(bytes);
        assert_ne!(buffers.lend(1 << 20).as_ref().as_ptr(), address, "a reader still holds it");
        drop(part);
        let free = |buffers: &ReadBuffers| buffers.free.lock().unwrap().iter().map(|b| b.as_slice().len()).sum::<usize>();
        assert_eq!(free(&buffers), 2 << 20);
        let again: Vec<Lent> = (0..20).map(|_| buffers.lend((1 << 20) - 4_096)).collect();
        assert!(again.iter().any(|lent| lent.as_ref().as_ptr() == address), "it is used again");
        drop(again);
        assert_eq!(free(&buffers), FREE_BYTES_MAX);
    }
}
