//! The time-series view of one partition: points in memory, then in compressed chunk files, read back as Arrow record batches.
//!
//! The log is the safety of everything here. New points live in memory only; a checkpoint moves them into one immutable file
//! whose footer says up to which offset it reaches, and after a crash the driver replays the log from there. The crate knows
//! nothing of SQL: the router gives it a [`PointProjection`] that turns records into points, and scans it with a
//! [`ScanRequest`].
//!
//! # The way of a point
//! `Driver` → [`SeriesMaterializer`] (projects, checks) → `chunk::open` (blocks in memory) → at a checkpoint `chunk::order`
//! (sorted, cut into pages) → `chunk::column` (compressed) → `chunk::sealed` (the file). Queries come the other way:
//! [`SeriesTable::snapshot`] → [`SeriesSnapshot::scan`] → [`scan`].
//!
//! # Invariants
//! - A snapshot holds exactly the points of the offsets below [`SeriesSnapshot::offset`], each once, for as long as it lives.
//! - The chunk files of a folder cover the offsets from 0 to the last checkpoint without a gap and without an overlap.
//! - Every byte read from a file is covered by a checksum that was verified before the byte was believed.
//! - Values come back bit for bit, NaN payloads included.
//!
//! # Not done
//! - A later point with the same tags and time does not replace an earlier one: both are kept. Overwriting comes later.
//! - Retention, downsampling, continuous aggregates; merging chunk files beyond the last small one.
//! - Tags leave as plain strings, not as dictionaries; batches are not joined across pages.
//! - Footers of all chunk files stay in memory, about 100 bytes a column and page.

#![forbid(unsafe_code)]

mod chunk;
pub mod error;
pub mod materializer;
pub mod scan;
pub mod schema;
pub mod series;

pub use chunk::page::{ColumnSummary, NumberSummary, PageSummary, TagValues};
pub use error::Error;
pub use materializer::{PointProjection, Points, SeriesMaterializer};
pub use scan::{ScanRequest, ScanStats};
pub use schema::{FieldKind, SeriesSchema};
pub use series::{SeriesOptions, SeriesSnapshot, SeriesStats, SeriesTable};
