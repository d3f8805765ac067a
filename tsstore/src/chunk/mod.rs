//! Chunks: where the points of a series are. Open ones in memory, sealed ones in files.
//!
//! - [`open`]: blocks of points in memory, shared with snapshots;
//! - [`order`]: what a checkpoint does to them: sort by time, cut into pages;
//! - [`mod@column`]: one column of one page, as bytes and back;
//! - [`page`]: what a footer says about a page;
//! - [`sealed`]: a chunk file, its writer and its reader;
//! - [`folder`]: the files of one view: their names, and what a crash left among them;
//! - [`wire`]: the primitives the formats are made of.
//!
//! # Format
//! `docs/format.md`, "Chunk file".

pub(crate) mod column;
pub(crate) mod folder;
pub(crate) mod open;
pub(crate) mod order;
pub(crate) mod page;
pub(crate) mod sealed;
pub(crate) mod wire;
