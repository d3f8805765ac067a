//! Brings a row table up to date: applies row changes under their record's offset, flushes with the checkpoint inside.
//!
//! Run by `logcore::materialize::driver`.

use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::{Batch, Offset};

use crate::lsm::{ROW_PREFIX, Tree};

/// One row that a record puts or removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// The record's offset.
    pub offset: Offset,
    /// The encoded primary key; empty for a table without one, whose rows are keyed by offset.
    pub key: Vec<u8>,
    /// The encoded row; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// Turns records into row changes, in offset order, at most one per record and key.
pub type RowProjection = Box<dyn Projection<Vec<RowChange>>>;

/// See the module docs.
pub struct RowMaterializer {
    tree: Tree,
    projection: RowProjection,
    next: Offset,
    saved: Offset,
    key: Vec<u8>,
}

impl RowMaterializer {
    pub(crate) fn new(tree: Tree, projection: RowProjection, next: Offset) -> Self {
        Self { tree, projection, next, saved: next, key: Vec::new() }
    }
}

impl Materializer for RowMaterializer {
    fn next_offset(&self) -> Offset {
        self.next
    }

    fn apply(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<(), ViewError> {
        for change in self.projection.project(batch, self.next, rejects)? {
            self.key.clear();
            self.key.push(ROW_PREFIX);
            if change.key.is_empty() {
                self.key.extend_from_slice(&change.offset.value().to_be_bytes());
            } else {
                self.key.extend_from_slice(&change.key);
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

    fn unsaved_bytes(&self) -> u64 {
        self.tree.unflushed_bytes()
    }
}
