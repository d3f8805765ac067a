//! The time-series view of one partition: points in memory, then in compressed chunk files, read back as Arrow record batches.
//!
//! The log is the safety of everything here. New points live in memory only; a checkpoint moves them into one immutable file
//! whose footer says up to which offset it reaches, and after a crash the driver replays the log from there. The crate knows
//! nothing of SQL: the router gives it a [`PointProjection`] that turns records into points, and scans it with a
//! [`ScanRequest`].
//!
//! # The way of a point
//! `Driver` → [`SeriesMaterializer`] (projects, checks) → `names` (its tags become the number of a series) → `chunk::open` (blocks in
//! memory) → at a checkpoint `save` (sorted, cut into pages) → `chunk::column` (compressed) → `chunk::sealed` (the file). Queries
//! come the other way: [`SeriesTable::snapshot`] → [`SeriesSnapshot::scan`], [`SeriesSnapshot::aggregate`] or
//! [`SeriesSnapshot::last_values`] → `read`.
//!
//! # Invariants
//! - A point is its tags and its time. What several records say of it is one: of each field the value that came last; unless the schema
//!   says that each record is a point of its own ([`Duplicates`]).
//! - A snapshot holds exactly the points of the offsets below [`SeriesSnapshot::offset`] for as long as it lives.
//! - The manifest names the files that have all points of the offsets below the last checkpoint.
//! - Every byte read from a file is covered by a checksum that was verified before the byte was believed.
//! - Values come back bit for bit, NaN payloads included.
//!
//! # Not done
//! - Retention, downsampling, continuous aggregates.
//! - Names of series stay when all of their points were deleted; fields that left the schema stay in files that have them.
//! - Pages whose times overlap are merged when they are read, which takes four to five times as long, until the files are merged.
//! - A query looks at every series once for each tag it filters by, and for each delete by tags that is not applied yet.
//! - Footers of all chunk files stay in memory, about 100 bytes a field and page.

#![forbid(unsafe_code)]

pub mod aggregate;
pub mod block;
pub mod change;
mod chunk;
pub mod error;
mod manifest;
pub mod materializer;
mod names;
mod read;
mod save;
pub mod scan;
pub mod schema;
pub mod series;

pub use aggregate::{Aggregate, AggregateRequest, Buckets};
pub use change::{ChangeProjection, Delete, PointProjection, Points, SeriesChange};
pub use chunk::page::{ColumnSummary, NumberSummary, PageColumn, PageSummary};
pub use error::Error;
pub use materializer::SeriesMaterializer;
pub use scan::{FieldBound, LastRequest, ScanOrder, ScanRequest, ScanStats};
pub use schema::{Duplicates, FieldKind, SeriesSchema};
pub use series::{SeriesOptions, SeriesSnapshot, SeriesStats, SeriesTable};
