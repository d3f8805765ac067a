//! Reading: how points come out of blocks and chunk files again.
//!
//! - [`run`]: one sorted block or file, and its pages, decoded as they are asked for;
//! - [`filter`]: which points of a page are wanted;
//! - [`overlap`]: which points have to be looked at together, since they may be of the same series and time;
//! - [`walk`]: points in the order of series and time, those of the same series and time merged;
//! - [`gather`]: rows of many pages as Arrow arrays.
//!
//! Scans, aggregates, checkpoints and merges are made of these.

pub(crate) mod filter;
pub(crate) mod gather;
pub(crate) mod overlap;
pub(crate) mod run;
pub(crate) mod walk;
