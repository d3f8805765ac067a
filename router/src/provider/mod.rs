//! Tables and streams as DataFusion reads them, each at the cut of its statement.
//!
//! [`scan::ScanExec`] is the one plan node for all of them: a store says how to run a partition, the node streams its batches
//! through a small channel from a blocking thread.

pub(crate) mod changes;
pub mod document;
pub mod filter;
pub mod row;
pub mod scan;
pub mod series;
pub mod stream;
pub mod system;
pub mod written;
