//! Changes of tables that SQL writes, as records of the stream `_tables`.
//!
//! Built by the router's DML, projected back into [`RowChange`]s by every such table's materializer: the row's bytes in the
//! record are the row's bytes in the tree.
//!
//! # Format
//! `docs/format.md`, "Mutation". Key: the table's id, then the primary key. Value: the row, or null when it was deleted. A key
//! without a primary key and a value: the table was truncated.

use logcore::materialize::{Projection, Rejects, ViewError};
use logcore::{Batch, Offset};

use crate::materializer::RowChange;

/// The record key of a row of table `table`.
#[must_use]
pub fn record_key(table: u32, key: &[u8]) -> Vec<u8> {
    [&table.to_be_bytes(), key].concat()
}

/// The record key of the end of all rows of table `table`. No row has it: every encoded primary key has a byte at least.
#[must_use]
pub fn truncation_key(table: u32) -> Vec<u8> {
    record_key(table, &[])
}

/// Takes the changes of one table out of the stream that all tables share.
pub struct MutationProjection {
    /// The table's id.
    pub table: u32,
}

impl Projection<Vec<RowChange>> for MutationProjection {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Vec<RowChange>, ViewError> {
        let mut changes = Vec::new();
        for record in batch.records() {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    rejects.push(batch.base_offset(), error.to_string());
                    break;
                }
            };
            let key = record.key.and_then(|key| key.strip_prefix(&self.table.to_be_bytes()));
            if let Some(key) = key.filter(|_| record.offset >= from) {
                let value = record.value.map(<[u8]>::to_owned);
                let truncates = key.is_empty() && value.is_none();
                changes.push(RowChange { offset: record.offset, key: key.to_owned(), value, truncates });
            }
        }
        Ok(changes)
    }
}
