//! When a durable entry counts as committed: the seam between one machine and a replicated group.
//!
//! Called by [`super::owner`] after every flush. Everything downstream of it, readers and views, sees committed frames only.

use crate::segment::SegmentEnd;
use crate::types::Offset;

/// Decides how far a partition is committed.
pub(crate) trait Commit: Send {
    /// Everything before `flushed` is durable here; answers the offset up to which it is committed, exclusive.
    fn flushed(&mut self, flushed: &SegmentEnd) -> Offset;
}

/// One machine: durable here is committed.
pub(crate) struct Standalone;

impl Commit for Standalone {
    fn flushed(&mut self, flushed: &SegmentEnd) -> Offset {
        flushed.offset
    }
}
