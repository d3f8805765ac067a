//! What the log is made of: a [`header`] around one Kafka v2 record [`batch`], or around nothing.
//!
//! # Format
//! `docs/format.md`, "Frame" and "Batch". Both are encoded and decoded here and nowhere else.

pub mod batch;
pub mod crc;
pub mod header;
pub mod varint;

use bytes::Bytes;

pub use header::{FrameHeader, FrameKind, HEADER_BYTES};

use crate::types::Offset;

/// A whole frame that passed its checks: header and body, the very bytes that are stored.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The decoded header.
    pub header: FrameHeader,
    /// The body without padding; for a batch the Kafka v2 record batch.
    pub body: Bytes,
}

impl Frame {
    /// The offset after the last one this frame covers.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.header.end_offset()
    }
}

/// The checksum of every Headwater format: CRC-32C.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
