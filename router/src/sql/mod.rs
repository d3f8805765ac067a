//! From SQL text to something that can be carried out.
//!
//! [`parse`] splits the text and recognises our own statements ([`ddl`]) on sqlparser's tokenizer; everything else is
//! PostgreSQL's and stays sqlparser's tree. [`assign`] casts what is written to a column. [`rewrite`] resolves names, past reads and `score()` before DataFusion plans it.

pub mod assign;
pub mod cast;
pub(crate) mod changes;
pub mod compare;
pub mod constraints;
pub mod dates;
pub mod ddl;
mod depth;
pub mod dialect;
pub mod forms;
pub mod gapfill;
pub mod input;
pub mod interval;
pub mod merge;
pub mod names;
pub mod parse;
pub mod patterns;
pub mod rewrite;
pub mod sequences;
pub mod statements;
pub mod types;
