//! Views: what the records of a stream become in each store, and the running generations of every table.
//!
//! [`mapping`] reads JSON fields by the columns' names, [`select`] evaluates an `AS SELECT`, [`document`] takes whole documents, [`written`] those that SQL wrote,
//! [`keys`] the keys; [`index_keys`] computes what indexes have of a row.
//! [`running`] opens the stores and attaches them to the driver; [`rebuild`] swaps generations.

pub mod document;
pub mod index_keys;
pub mod json;
pub mod keys;
pub mod mapping;
pub mod rebuild;
pub mod running;
pub mod select;
pub mod vacuum;
pub mod written;
