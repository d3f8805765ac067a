//! When an entry counts as committed: the seam between one machine and a replicated group.
//!
//! Called by [`super::owned`] after appends and after flushes. Everything downstream of it, readers and views, sees committed
//! frames only.

use super::AckClass;
use crate::types::Offset;

/// How far a partition is, exclusive ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Laid into RAM.
    pub appended: Offset,
    /// Durable here.
    pub flushed: Offset,
    /// What the stream promises.
    pub ack: AckClass,
}

/// Decides how far a partition is committed.
pub(crate) trait Commit: Send {
    /// The offset up to which it is committed, exclusive.
    fn committed(&mut self, progress: &Progress) -> Offset;
}

/// One machine: what has met the stream's class is committed.
pub(crate) struct Standalone;

impl Commit for Standalone {
    fn committed(&mut self, progress: &Progress) -> Offset {
        match progress.ack {
            AckClass::Memory => progress.appended,
            AckClass::Disk => progress.flushed,
        }
    }
}
