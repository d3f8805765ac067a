//! Chunks: where the points of a series are. Open ones in memory, sealed ones in files.
//!
//! - [`open`]: blocks of points in memory, shared with snapshots;
//! - [`directory`]: which series a chunk has points of, and where;
//! - [`mod@column`]: one column of one page, as bytes and back;
//! - [`page`]: what a footer says about a page;
//! - [`sealed`]: a chunk file, its writer and its reader;
//! - [`wire`]: the primitives the formats are made of.
//!
//! # Format
//! `docs/format.md`, "Chunk file".

pub(crate) mod column;
pub(crate) mod directory;
pub(crate) mod open;
pub(crate) mod page;
pub(crate) mod sealed;
pub(crate) mod wire;
