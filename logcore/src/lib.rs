//! The log: streams of partitions, made durable, read by offset and time, and turned into views.
//!
//! Everything Headwater knows is a record in a partition of this crate; rows, documents and series are derived from it and can
//! be built again. The crate is synchronous. Doors that are asynchronous await a [`Ticket`] or a [`Watermark`] and nothing else.
//!
//! # The way of a record
//! `Partition::append` → [`partition::owner`] (admission, offsets) → [`segment::active`] (the frame is laid into a RAM chunk) →
//! [`io`] (one write and one `fdatasync` for all that gathered) → committed → [`materialize`] applies it to every view.
//!
//! # Invariants
//! - An acknowledged record is never lost, changed or reordered; an offset that anyone has seen never names another record.
//! - The bytes of an entry are the same in RAM, on disk and in a fetch reply.
//! - An index, a cache or a checkpoint is derived, and is never evidence about the log.
//! - Memory is bounded: the mailbox by bytes, the RAM tier by the arena's budget, every read by its byte limit.

#![deny(unsafe_code)]

pub mod cursor;
pub mod error;
pub mod frame;
pub mod io;
pub(crate) mod keeper;
pub mod log;
pub mod materialize;
pub mod partition;
pub mod ram;
pub mod segment;
pub mod sys;
pub mod types;

pub use cursor::{Commit, CursorId, Cursors, Expected};
pub use error::{Error, ErrorKind, Result};
pub use frame::batch::ProducerSequence;
pub use frame::batch::{Batch, BatchBuilder, Compression, NewRecord, Record};
pub use log::{Log, LogOptions};
pub use partition::watermark::Watermark;
pub use partition::{
    AckClass, Appended, Compaction, Hold, Holder, LogReader, Partition, PartitionOptions, Proposal, Retention, Ticket,
};
pub use types::{Offset, PartitionId, PartitionRef, RaftIndex, StreamId, Term, TimestampMillis};
