//! What can go wrong in the log, with the facts a person or a caller needs to act.
//!
//! [`Error::kind`] says what the caller should do; the server maps kinds to protocols in one table.

use std::path::PathBuf;

use thiserror::Error;

use crate::types::{Offset, PartitionRef, RaftIndex};

/// The result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do about an [`enum@Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong and stays wrong; change it.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// Someone else was faster; read again and retry.
    Conflict,
    /// Over a configured limit; make it smaller.
    TooLarge,
    /// A queue is full; retry later.
    Throttled,
    /// Not now, perhaps after an operator acted or the process restarted.
    Unavailable,
    /// The disk is under its reserve.
    NoSpace,
    /// Stored bytes fail their checks.
    Corrupt,
    /// A bug, or an environment that broke its promises.
    Internal,
}

/// Everything the log refuses or fails at.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages document the variants and their fields")]
pub enum Error {
    #[error("{operation} {} failed: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },

    #[error("the data folder {} is in use by another process (it holds the lock {})", path.display(), path.join("LOCK").display())]
    Locked { path: PathBuf },

    #[error(
        "the data folder {} has format version {found}, this program knows version {supported}; use the release that wrote it",
        path.display()
    )]
    UnknownFormat { path: PathBuf, found: u32, supported: u32 },

    #[error(
        "the data folder {} has data but no readable `identity` file ({detail}); restore the file from a backup, or choose an empty folder",
        path.display()
    )]
    NoIdentity { path: PathBuf, detail: String },

    #[error("the disk backend {backend} can't be used in {}: {reason}; use `--disk-io auto` or another backend", folder.display())]
    NoDiskBackend { backend: &'static str, folder: PathBuf, reason: String },

    #[error("{partition} does not exist")]
    UnknownPartition { partition: PartitionRef },

    #[error("offset {offset} of {partition} is outside {log_start}..{end_offset} (end exclusive)")]
    OffsetOutOfRange { partition: PartitionRef, offset: Offset, log_start: Offset, end_offset: Offset },

    #[error("{partition} is corrupt from offset {offset} in {} at byte {position}: {detail}", file.display())]
    Corrupt { partition: PartitionRef, offset: Offset, file: PathBuf, position: u64, detail: String },

    #[error("{partition} takes no more writes since {reason}; what is durable can be read, restart to verify it again")]
    Poisoned { partition: PartitionRef, reason: String },

    #[error("{partition} takes no writes: {reason}; what is intact can be read, restore the file from a backup and restart")]
    Damaged { partition: PartitionRef, reason: String },

    #[error("a batch of {bytes} bytes is over the limit of {max} bytes for one frame")]
    BatchTooLarge { bytes: usize, max: usize },

    #[error("invalid record batch: {detail}")]
    InvalidBatch { detail: String },

    #[error("the append queue of {partition} stayed full for {waited_ms} ms")]
    Throttled { partition: PartitionRef, waited_ms: u128 },

    #[error("the RAM tier has no free chunk for {partition}; its budget is {budget_bytes} bytes")]
    MemoryFull { partition: PartitionRef, budget_bytes: u64 },

    #[error("the disk under {} has {free_bytes} bytes free, less than the {reserve_bytes} of the reserve and one more segment", path.display())]
    NoSpace { path: PathBuf, free_bytes: u64, reserve_bytes: u64 },

    #[error("a key of this change was written at offset {last_writer} after the state at {snapshot} it was computed from")]
    Conflict { snapshot: Offset, last_writer: Offset, key: u64 },

    #[error(
        "the state at {snapshot} this change was computed from is older than the admission window, which starts at {window_start}"
    )]
    SnapshotTooOld { snapshot: Offset, window_start: Offset },

    #[error("{} of {partition} was replaced or dropped while it was read; read again", file.display())]
    Retired { partition: PartitionRef, file: PathBuf },

    #[error(
        "producer {producer} sent sequence {found} to {partition}, {expected} comes next; send what is missing, or raise the epoch"
    )]
    OutOfOrderSequence { partition: PartitionRef, producer: i64, expected: i32, found: i32 },

    #[error("producer {producer} has epoch {current} on {partition}, {found} is an older instance of it; stop this one")]
    FencedProducer { partition: PartitionRef, producer: i64, current: i16, found: i16 },

    #[error("no new segment could be made: {reason}; try again")]
    NoSegment { reason: String },

    #[error("\"{}\" can't be the name of a cursor; use 1 to {bytes_max} of the characters A-Z a-z 0-9 . _ -", shorten(name))]
    InvalidCursorName { name: String, bytes_max: usize },

    #[error("cursor \"{cursor}\" of {partition} is {}, it was expected {}", place(*found), place(*expected))]
    CursorMoved { cursor: String, partition: PartitionRef, expected: Option<Offset>, found: Option<Offset> },

    #[error("cursor \"{cursor}\" of {partition} is at {found} already, and moves back to {offset} only by a reset")]
    CursorAhead { cursor: String, partition: PartitionRef, found: Offset, offset: Offset },

    #[error("there are {max} cursors, the limit")]
    TooManyCursors { max: usize },

    #[error("the record of _cursors at offset {offset} is not understood ({detail}); use the release that wrote it")]
    UnknownCursorRecord { offset: Offset, detail: String },

    #[error("{partition} is closed")]
    Closed { partition: PartitionRef },

    #[error("{what} did not happen within {waited_ms} ms")]
    Timeout { what: String, waited_ms: u128 },

    #[error("entry {found} follows entry {expected} in {}", file.display())]
    BrokenChain { file: PathBuf, expected: RaftIndex, found: RaftIndex },

    #[error("the view stopped: {reason}")]
    ViewStopped { reason: String },
}

impl Error {
    /// What the caller should do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownPartition { .. } => ErrorKind::NotFound,
            Self::OffsetOutOfRange { .. } | Self::InvalidBatch { .. } | Self::InvalidCursorName { .. } => ErrorKind::Invalid,
            Self::Corrupt { .. } | Self::BrokenChain { .. } => ErrorKind::Corrupt,
            Self::BatchTooLarge { .. } | Self::TooManyCursors { .. } => ErrorKind::TooLarge,
            Self::Throttled { .. } | Self::MemoryFull { .. } => ErrorKind::Throttled,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Conflict { .. }
            | Self::SnapshotTooOld { .. }
            | Self::OutOfOrderSequence { .. }
            | Self::CursorMoved { .. }
            | Self::CursorAhead { .. }
            | Self::FencedProducer { .. } => ErrorKind::Conflict,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            Self::Io { .. }
            | Self::Damaged { .. }
            | Self::Locked { .. }
            | Self::UnknownFormat { .. }
            | Self::NoIdentity { .. }
            | Self::NoDiskBackend { .. }
            | Self::Poisoned { .. }
            | Self::Closed { .. }
            | Self::Retired { .. }
            | Self::NoSegment { .. }
            | Self::UnknownCursorRecord { .. }
            | Self::Timeout { .. }
            | Self::ViewStopped { .. } => ErrorKind::Unavailable,
        }
    }

    /// Wraps an operating system error with what was attempted and where.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}

/// Where a cursor is.
fn place(offset: Option<Offset>) -> String {
    offset.map_or_else(|| "not there".to_owned(), |offset| format!("at {offset}"))
}

/// The beginning of a name that may be anything.
fn shorten(name: &str) -> String {
    const CHARS: usize = 40;
    match name.char_indices().nth(CHARS) {
        None => name.to_owned(),
        Some((at, _)) => format!("{}...", &name[..at]),
    }
}
