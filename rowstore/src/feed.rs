//! What a record did to a row: its versions before and after, for the change feed.
//!
//! Called by the router's change feed with the row changes that the table's own projection makes of a record. The versions are
//! read from the table itself, just before and at the record's offset.
//!
//! # Invariants
//! What is given is what readers of the table saw at those two offsets; a change that the table left out, as a dead letter, is
//! none.

use arrow::array::ArrayRef;

use crate::error::Result;
use crate::lsm::ROW_PREFIX;
use crate::materializer::RowChange;
use crate::table::RowTable;
use crate::value::{ColumnBuilder, ValueRef};

/// A row on both sides of a record; at least one is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The encoded row that the records before it left.
    pub old: Option<Vec<u8>>,
    /// The encoded row that it left.
    pub new: Option<Vec<u8>>,
}

impl RowTable {
    /// What a change did to its row; `None` where there was no row before nor after. The table must have applied the record, and
    /// still have its versions from the record's offset on.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn versions(&self, change: &RowChange) -> Result<Option<Versions>> {
        let offset = change.offset.value().to_be_bytes();
        let key = if change.key.is_empty() { &offset[..] } else { &change.key[..] };
        let key = [&[ROW_PREFIX], key].concat();
        let version = |cut| self.tree.get(&key, cut).map(|row| row.map(|row| row.to_vec()));
        let (old, new) = (version(change.offset)?, version(change.offset.advance(1))?);
        Ok((old.is_some() || new.is_some()).then_some(Versions { old, new }))
    }

    /// Rows as Arrow columns, those at the positions of `projection`; a row that is not there is NULL in all of them.
    ///
    /// # Errors
    /// When a row does not decode.
    pub fn columns_of<'a>(&self, rows: impl Iterator<Item = Option<&'a [u8]>>, projection: &[usize]) -> Result<Vec<ArrayRef>> {
        let kinds = projection.iter().map(|at| &self.schema.columns[*at].kind);
        let mut columns: Vec<ColumnBuilder> = kinds.map(ColumnBuilder::new).collect();
        let wanted = self.wanted(projection);
        for row in rows {
            match row {
                Some(row) => self.push_row(row, &wanted, &mut columns)?,
                None => columns.iter_mut().try_for_each(|column| column.push(ValueRef::Null))?,
            }
        }
        Ok(columns.iter_mut().map(ColumnBuilder::finish).collect())
    }
}
