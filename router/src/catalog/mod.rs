//! The catalog: which streams and tables there are, built from the stream `_catalog` like any other view.
//!
//! DDL appends a [`CatalogRecord`]; the [`materializer`] applies it; everyone reads an immutable [`CatalogState`]. The state is
//! small and lives in memory; it is replayed from offset 0 at each start, so it has no files of its own.

pub mod materializer;
mod options;
mod record;
mod sequence;
mod state;

pub use options::{History, RetentionPolicy, StreamOptions};
pub use record::CatalogRecord;
pub use sequence::{NumberBlock, SequenceDef, SequenceOwner};
pub use state::{CatalogState, QueryColumn, QueryDef, SavedSearch, SeriesDef, Source, StreamDef, TableDef, TableKind};
