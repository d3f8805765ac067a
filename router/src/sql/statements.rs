//! The statements that were parsed lately, by their text: a client that sends parameters sends the same text again and again.
//!
//! Called by [`crate::database`]. Parsing depends on nothing but the text, so nothing ever has to be thrown away but for space.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::parse::{Statement, parse};
use crate::error::Result;

/// Texts that are kept.
const TEXTS_MAX: usize = 1_024;
/// A longer text is parsed each time.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// See the module docs.
pub struct Statements {
    parsed: Cache<Box<str>, Arc<[Statement]>>,
}

impl Default for Statements {
    fn default() -> Self {
        Self { parsed: Cache::new(TEXTS_MAX) }
    }
}

impl Statements {
    /// As [`parse()`].
    ///
    /// # Errors
    /// As [`parse()`].
    pub fn parse(&self, sql: &str, statements_max: usize) -> Result<Arc<[Statement]>> {
        if sql.len() > TEXT_BYTES_MAX {
            return Ok(parse(sql, statements_max)?.into());
        }
        if let Some(known) = self.parsed.get(sql) {
            return Ok(known);
        }
        let statements: Arc<[Statement]> = parse(sql, statements_max)?.into();
        self.parsed.insert(sql.into(), Arc::clone(&statements));
        Ok(statements)
    }
}
