//! Shared bytes in the form that tokio-uring takes.
//!
//! Used by [`crate::io::tokio_uring`].
#![allow(unsafe_code, reason = "the kernel reads memory that it is told about by address")]

use bytes::Bytes;
use tokio_uring::buf::IoBuf;

/// Bytes that are written by tokio-uring, which keeps them until it is done.
pub struct UringBuffer(Bytes);

impl UringBuffer {
    /// Takes the bytes.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

// SAFETY: the bytes of a `Bytes` stay where they are while it lives, wherever the handle itself moves; they are all initialised,
// and nobody changes them.
unsafe impl IoBuf for UringBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len()
    }

    fn bytes_total(&self) -> usize {
        self.0.len()
    }
}
