//! Brings a row table up to date: applies row changes under their record's offset, flushes with the checkpoint inside.
//!
//! Run by `logcore::materialize::driver`.

use std::sync::Arc;

use logcore::materialize::{FinishCheckpoint, Materializer, Projection, Rejects, ViewError};
use logcore::{Batch, Offset};

use crate::error::Error;
use crate::index::Index;
use crate::key::after_prefix;
use crate::lsm::{INDEX_PREFIX, ROW_PREFIX, Tree};
use crate::schema::TableSchema;
use crate::value::{Value, decode_row};

/// Bytes in memory that a TRUNCATE flushes at.
const TRUNCATE_BYTES_MAX: u64 = 16 << 20;

/// One row that a record puts or removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// The record's offset.
    pub offset: Offset,
    /// The encoded primary key; empty for a table without one, whose rows are keyed by offset.
    pub key: Vec<u8>,
    /// The encoded row; `None` removes it.
    pub value: Option<Vec<u8>>,
    /// All rows that are there go; key and value say nothing then.
    pub truncates: bool,
}

/// Turns records into row changes, in offset order, at most one per record and key.
pub type RowProjection = Box<dyn Projection<Vec<RowChange>>>;

/// See the module docs.
pub struct RowMaterializer {
    tree: Tree,
    projection: RowProjection,
    next: Offset,
    saved: Offset,
    schema: Arc<TableSchema>,
    key: Vec<u8>,
}

impl RowMaterializer {
    pub(crate) fn new(tree: Tree, projection: RowProjection, next: Offset, schema: Arc<TableSchema>) -> Self {
        Self { tree, projection, next, saved: next, schema, key: Vec::new() }
    }

    /// Brings the indexes from a row's last version to its next one; `self.key` is the row's.
    fn apply_to_indexes(&self, row: Option<&[u8]>, offset: Offset) -> Result<(), Error> {
        let old = self.tree.get(&self.key, offset)?.map(|old| decode_row(&old, &self.schema)).transpose()?;
        let new = row.map(|row| decode_row(row, &self.schema)).transpose()?;
        let key = &self.key[1..];
        let entry = |index: &Index, values: &Option<Vec<Value>>| -> Result<Option<Vec<u8>>, Error> {
            let entry = match values.as_ref().map(|values| index.entry(values, &self.schema, key)).transpose() {
                Err(Error::Computing { .. }) => None,
                entry => entry?.flatten(),
            };
            Ok(entry.map(|entry| [&[INDEX_PREFIX], &entry[..]].concat()))
        };
        let changes = self.schema.indexes.iter().map(|index| Ok((entry(index, &old)?, entry(index, &new)?)));
        // All of them or none.
        for (old, new) in changes.collect::<Result<Vec<_>, Error>>()?.into_iter().filter(|(old, new)| old != new) {
            if let Some(old) = old {
                self.tree.apply(&old, None, offset);
            }
            if let Some(new) = new {
                self.tree.apply(&new, Some(key), offset);
            }
        }
        Ok(())
    }
}

impl RowMaterializer {
    /// Removes all rows and index entries as of the record at `offset`.
    ///
    /// Removing takes memory too, so it is flushed in between, with the checkpoint that is there: after a stop the record is
    /// applied again from the start, and what it left is invisible until then.
    fn truncate(&self, offset: Offset) -> Result<(), Error> {
        for prefix in [ROW_PREFIX, INDEX_PREFIX] {
            let until = after_prefix(&[prefix]).expect("the prefix is not 0xff");
            for item in self.tree.range(&[prefix], &until, offset) {
                self.tree.apply(&item?.0, None, offset);
                if self.tree.unflushed_bytes() > TRUNCATE_BYTES_MAX {
                    self.tree.flush(self.saved)?;
                }
            }
        }
        Ok(())
    }
}

impl Materializer for RowMaterializer {
    fn next_offset(&self) -> Offset {
        self.next
    }

    fn apply(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<(), ViewError> {
        for change in self.projection.project(batch, self.next, rejects)? {
            if change.truncates {
                self.truncate(change.offset)?;
                continue;
            }
            self.key.clear();
            self.key.push(ROW_PREFIX);
            if change.key.is_empty() {
                self.key.extend_from_slice(&change.offset.value().to_be_bytes());
            } else {
                self.key.extend_from_slice(&change.key);
            }
            if !self.schema.indexes.is_empty() {
                match self.apply_to_indexes(change.value.as_deref(), change.offset) {
                    Err(error @ (Error::KeyTooLarge { .. } | Error::CorruptRow { .. })) => {
                        rejects.push(change.offset, error.to_string());
                        continue;
                    }
                    applied => applied?,
                }
            }
            self.tree.apply(&self.key, change.value.as_deref(), change.offset);
        }
        self.next = batch.end_offset();
        Ok(())
    }

    fn skip_to(&mut self, next: Offset) -> Result<(), ViewError> {
        self.next = next;
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Offset, ViewError> {
        if self.saved < self.next {
            self.tree.flush(self.next)?;
            self.saved = self.next;
        }
        Ok(self.next)
    }

    fn begin_checkpoint(&mut self) -> Result<FinishCheckpoint, ViewError> {
        let (tree, next) = (self.tree.clone(), self.next);
        if self.saved < next {
            tree.seal(next);
            self.saved = next;
        }
        Ok(Box::new(move || {
            tree.flush_sealed()?;
            Ok(next)
        }))
    }

    fn unsaved_bytes(&self) -> u64 {
        self.tree.unflushed_bytes()
    }
}
