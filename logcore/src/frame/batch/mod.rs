//! The Kafka v2 record batch: the body of a batch frame.
//!
//! Built by whoever appends ([`builder`]: HTTP, SQL) or sent by a Kafka producer, kept byte for byte, opened by readers and
//! materializers ([`reader`]), made smaller by compaction ([`rewrite()`]). [`header`] says what the owner must know of a batch
//! without looking into it; base offset and leader epoch are patched in place by the owner: they lie outside the batch's own CRC.
//!
//! # Format
//! `docs/format.md`, "Batch"; big-endian, as Kafka has it. Compression: none, gzip, snappy, lz4, zstd ([`compression`]).
//!
//! # Invariants
//! - What a producer sends is dense: its records have the offset deltas 0, 1, 2... Only compaction takes records out, and never
//!   the last one left; offsets of the others stay.
//! - No bytes make the decoder panic or take more memory than [`RECORDS_BYTES_MAX`] and the decompressor's own window.
//!
//! # Not done
//! Transactions and control batches are refused.

pub mod builder;
pub mod compression;
pub mod header;
pub mod reader;
pub mod rewrite;
#[cfg(test)]
mod tests;

pub use builder::{BatchBuilder, NewRecord};
pub use compression::{Compression, RECORDS_BYTES_MAX, UnknownCompression};
pub use header::{ProducerSequence, Summary, body_crc, count_of, producer_of, set_place};
pub use reader::{Batch, Record, Records};
pub use rewrite::{Rewritten, rewrite};

use crate::error::Error;

fn invalid(detail: impl Into<String>) -> Error {
    Error::InvalidBatch { detail: detail.into() }
}
