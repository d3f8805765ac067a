//! Row tables: rows by primary key, every version by offset, kept in one LSM tree per view, generation and partition.
//!
//! The router projects records into [`RowChange`]s (or SQL writes them as mutations, [`mutation`]); the materializer applies them;
//! readers get rows or Arrow batches at any offset. This crate knows nothing of SQL.
//!
//! # The way of a change
//! `materialize::driver` → [`RowMaterializer`] → [`lsm`] (sequence number = offset) → [`RowTable`] reads at a cut.
//!
//! # Invariants
//! - A table read at offset S holds exactly the rows that the records below S left.
//! - The checkpoint is a key of the tree, written before each flush: data and offset become durable in one step.

#![forbid(unsafe_code)]

pub mod constraint;
pub mod error;
pub mod feed;
pub mod index;
pub mod key;
pub mod lsm;
pub mod materializer;
pub mod mutation;
pub mod scan;
pub mod schema;
pub mod statistics;
pub mod table;
pub mod types;
pub mod vacuum;
pub mod value;

pub use constraint::{Action, Constraint, Rule};
pub use error::{Error, Result};
pub use feed::Versions;
pub use index::{Compute, Computed, Index, IndexColumn, IndexExpression};
pub use materializer::{RowChange, RowMaterializer, RowProjection};
pub use scan::{Overlay, ScanRequest};
pub use schema::{Column, TableSchema};
pub use statistics::{Analysis, TableStatistics};
pub use table::{RowOptions, RowTable};
pub use types::ColumnType;
pub use value::{Interval, Value};
