//! Views: the trait every store implements, and the one driver that runs it.
//!
//! [`driver::Driver`] reads committed frames and hands their batches to a [`Materializer`], in order, from exactly its
//! [`Materializer::next_offset`]. The catalog, rows, documents and series all come to be this way, and so does a rebuild: a
//! fresh generation that starts at offset 0.
//!
//! # Invariants
//! - A view equals a fresh rebuild from the log at the same offset.
//! - A checkpoint is part of the same atomic write as the data it covers, and never runs ahead of what is committed and flushed.
//! - A record that can't be applied is data: it goes to the dead letters, is counted, and the view goes on.
//! - A local fault stops that view only, visibly; the log keeps serving.

pub mod dead_letters;
pub mod driver;
pub mod suite;

pub use dead_letters::{DeadLetter, DeadLetters};
pub use driver::{Driver, DriverOptions, Task, TaskOptions, TaskState};

use crate::frame::batch::Batch;
use crate::types::Offset;

/// A local fault that stops a view: a disk error, damaged view files. Never a record's content.
pub type ViewError = Box<dyn std::error::Error + Send + Sync>;

/// What one view does with the records of one partition.
///
/// Implementations MUST be deterministic (the same records give the same content) and idempotent (applying a record again
/// after a restart changes nothing). One worker at a time calls it.
pub trait Materializer: Send {
    /// The first offset that is not applied yet. After opening: the offset of the last checkpoint.
    fn next_offset(&self) -> Offset;

    /// Readers see the view up to this offset, exclusive. Most views show what they applied at once.
    fn visible(&self) -> Offset {
        self.next_offset()
    }

    /// Applies a batch. Its first offset is [`Self::next_offset`], or lies below it when a batch was applied in part before a
    /// restart: records below are skipped. Afterwards `next_offset` is [`Batch::end_offset`], which after compaction lies behind
    /// more offsets than there are records.
    ///
    /// # Errors
    /// Local faults only. Records that can't be applied go to `rejects`.
    fn apply(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<(), ViewError>;

    /// Moves on to `next` where the log has offsets without records.
    ///
    /// # Errors
    /// Local faults only.
    fn skip_to(&mut self, next: Offset) -> Result<(), ViewError>;

    /// Lets readers see everything applied so far, so that `visible` equals `next_offset`. May make it durable too: it is called
    /// only when the log is durable up to `next_offset`, unless everything is visible already.
    ///
    /// # Errors
    /// Local faults only.
    fn make_visible(&mut self) -> Result<(), ViewError> {
        Ok(())
    }

    /// Makes everything applied durable together with `next_offset`, and gives that offset.
    ///
    /// # Errors
    /// Local faults only; what was durable before still is.
    fn checkpoint(&mut self) -> Result<Offset, ViewError>;

    /// Begins a checkpoint of everything applied so far; what is returned finishes it, perhaps on another thread while more is applied.
    ///
    /// # Errors
    /// As [`Self::checkpoint`].
    fn begin_checkpoint(&mut self) -> Result<FinishCheckpoint, ViewError> {
        let saved = self.checkpoint()?;
        Ok(Box::new(move || Ok(saved)))
    }

    /// Bytes of memory that the next checkpoint would free: the driver checkpoints when they grow.
    fn unsaved_bytes(&self) -> u64;
}

/// Makes durable what was applied when the checkpoint began, and gives the offset it goes up to.
pub type FinishCheckpoint = Box<dyn FnOnce() -> Result<Offset, ViewError> + Send>;

/// Turns the records of a batch into what a store takes in: documents, rows, points. The catalog's owner implements it, so
/// that stores know nothing of SQL.
pub trait Projection<T>: Send {
    /// Projects the records of `batch` at or above `from`; those that don't fit the view go to `rejects`.
    ///
    /// # Errors
    /// Local faults only.
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<T, ViewError>;
}

/// Collects the records of a batch that can't be applied.
#[derive(Debug, Default)]
pub struct Rejects {
    letters: Vec<DeadLetter>,
}

impl Rejects {
    /// Notes that the record at `offset` was left out. A second reason for the same record is dropped.
    pub fn push(&mut self, offset: Offset, reason: impl Into<String>) {
        if self.letters.iter().rev().take_while(|letter| letter.offset >= offset).all(|letter| letter.offset != offset) {
            self.letters.push(DeadLetter { offset, reason: reason.into() });
        }
    }

    /// What was noted, oldest first.
    #[must_use]
    pub fn take(&mut self) -> Vec<DeadLetter> {
        let mut letters = std::mem::take(&mut self.letters);
        letters.sort_by_key(|letter| letter.offset);
        letters
    }

    /// Whether nothing was noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }
}
