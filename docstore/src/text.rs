//! The language people type into a search box or `CONTAINS(body, '...')`, parsed by hand into a small tree.
//!
//! [`crate::query`] turns the tree into an index query; SQL and HTTP show its errors, which name the column and what to do.
//!
//! # Grammar
//! ```text
//! list   = item { ["OR"] item }                 juxtaposed items: the default operator
//! item   = and
//! and    = ["+" | "-"] not { "AND" ["+" | "-"] not }
//! not    = "NOT" not | boosted
//! boosted= primary ["^" number]
//! primary= "(" list ")" | "*" | [field ":"] leaf | field ":" "(" list ")"
//! leaf   = word | word "*" | word "~" [0-2] | '"' phrase '"' ["~" slop] | "*"
//!        | ("[" | "{") bound "TO" bound ("]" | "}") | (">" | ">=" | "<" | "<=") bound
//! ```
//! `AND` binds tighter than `OR`. `+a` and `-a` bind to the whole list they stand in, as does `NOT a` beside a juxtaposed item;
//! directly beside an `OR` (or an `AND`) `NOT a` means every document without `a`. A backslash takes the next character as it is.
//!
//! # Invariants
//! - Never panics, and needs stack for [`DEPTH_MAX`] levels only, whatever the text.

use std::ops::Bound;

use serde::Deserialize;

mod parser;

pub use parser::parse;

/// How deep parentheses and `NOT` may nest.
pub const DEPTH_MAX: usize = 64;
/// How many terms, phrases and ranges one query may have, counted once per field they are searched in.
pub const CLAUSES_MAX: usize = 1024;

/// What stands between two items without a word in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Operator {
    /// Either may match.
    #[default]
    #[serde(rename = "or", alias = "OR")]
    Or,
    /// Both must match.
    #[serde(rename = "and", alias = "AND")]
    And,
}

/// What a clause does to the query it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Has to match.
    Must,
    /// May match, and one of them has to when there is no `Must`.
    Should,
    /// Must not match.
    MustNot,
}

/// A parsed query.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// Every document.
    All,
    /// Clauses together; with none at all nothing matches.
    Clauses(Vec<(Role, Tree)>),
    /// Scores multiplied by a factor.
    Boost(Box<Tree>, f32),
    /// Something to look up; without a field, in the default fields.
    Leaf {
        /// The field, and the column it was written in, from 1.
        field: Option<(String, usize)>,
        /// What to look up.
        leaf: Leaf,
    },
}

/// Something to look up in one field.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    /// A word; the analyzer may make a phrase of it.
    Word(String),
    /// Words in order, at most `slop` moves apart.
    Phrase(String, u32),
    /// Words that start so.
    Prefix(String),
    /// Words within so many edits.
    Fuzzy(String, u8),
    /// Values between two bounds.
    Range(Bound<String>, Bound<String>),
    /// Any value.
    Exists,
}

#[cfg(test)]
mod tests;
