//! Secondary indexes: entries beside the rows in the same tree, kept by the materializer, read at any offset.
//!
//! An entry's key is the index's id, the indexed values and the primary key; its value is the primary key. Entries carry the
//! offset of the record that made them, as rows do, so an index is as old as what is read through it.
//!
//! # Format
//! `docs/format.md`, "Index entry". Each value begins with a byte that says whether it is NULL, which sorts last as PostgreSQL
//! sorts it; the bytes of a descending column are turned.
//!
//! # Invariants
//! - At every offset the entries of an index are exactly those of the rows at that offset.

use logcore::Offset;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::key::{KEY_BYTES_MAX, after_prefix, encode_part};
use crate::lsm::INDEX_PREFIX;
use crate::schema::TableSchema;
use crate::table::RowTable;
use crate::value::Value;

const NOT_NULL: u8 = 1;
const NULL: u8 = 2;

/// A column of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexColumn {
    /// The column's name.
    pub name: String,
    /// Largest first.
    #[serde(default)]
    pub descending: bool,
}

/// An index of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Names its entries; never used again in its table.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// In the order of their weight.
    pub columns: Vec<IndexColumn>,
    /// Whether two rows may not have the same values, NULL aside.
    #[serde(default)]
    pub unique: bool,
    /// The first generation of the table's view that has it.
    #[serde(default)]
    pub generation: u64,
}

impl Index {
    /// Whether any indexed value of a row is NULL: such rows are equal to none.
    #[must_use]
    pub fn has_null(&self, values: &[Value], schema: &TableSchema) -> bool {
        self.positions(schema).any(|at| values[at] == Value::Null)
    }

    /// The positions of its columns in the schema.
    pub fn positions<'a>(&'a self, schema: &'a TableSchema) -> impl Iterator<Item = usize> + 'a {
        self.columns.iter().filter_map(|column| schema.column(&column.name))
    }

    /// What entries begin with that have these first values.
    #[must_use]
    pub fn prefix(&self, values: &[Value]) -> Vec<u8> {
        let mut out = self.id.to_be_bytes().to_vec();
        for (value, column) in values.iter().zip(&self.columns) {
            encode_indexed(&mut out, value, column.descending);
        }
        out
    }

    /// The key of a row's entry without the primary key.
    #[must_use]
    pub fn prefix_of(&self, values: &[Value], schema: &TableSchema) -> Vec<u8> {
        let mut out = self.id.to_be_bytes().to_vec();
        for column in &self.columns {
            let value = schema.column(&column.name).map_or(&Value::Null, |at| &values[at]);
            encode_indexed(&mut out, value, column.descending);
        }
        out
    }

    /// The key of a row's entry.
    ///
    /// # Errors
    /// [`Error::KeyTooLarge`].
    pub fn entry(&self, values: &[Value], schema: &TableSchema, key: &[u8]) -> Result<Vec<u8>> {
        let mut out = self.prefix_of(values, schema);
        out.extend_from_slice(key);
        match out.len() > KEY_BYTES_MAX {
            true => Err(Error::KeyTooLarge { bytes: out.len(), max: KEY_BYTES_MAX }),
            false => Ok(out),
        }
    }
}

/// Appends one value of an index entry.
pub fn encode_indexed(out: &mut Vec<u8>, value: &Value, descending: bool) {
    let from = out.len();
    if *value == Value::Null {
        out.push(NULL);
    } else {
        out.push(NOT_NULL);
        encode_part(out, value);
    }
    if descending {
        out[from..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

impl RowTable {
    /// The index with this id, if this table's files have it.
    #[must_use]
    pub fn index(&self, id: u32) -> Option<&Index> {
        self.kept.iter().find(|index| index.id == id)
    }

    /// Entries of an index in `from..until`, in order: each with its key and the primary key of its row, as the records below
    /// `cut` left them. `from` and `until` begin with what [`Index::prefix`] gives.
    pub fn entries<'t>(
        &'t self,
        from: &[u8],
        until: Option<&[u8]>,
        cut: Offset,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>)>> + use<'t> {
        let from = [&[INDEX_PREFIX], from].concat();
        let until = match until {
            Some(until) => [&[INDEX_PREFIX], until].concat(),
            None => after_prefix(&[INDEX_PREFIX]).expect("the prefix is not 0xff"),
        };
        self.tree.range(&from, &until, cut).map(|item| item.map(|(entry, key)| (entry[1..].to_vec(), key.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(value: Option<i64>, text: &str, descending: bool) -> Vec<u8> {
        let mut out = Vec::new();
        encode_indexed(&mut out, &value.map_or(Value::Null, Value::Int), descending);
        encode_indexed(&mut out, &Value::Text(text.into()), false);
        out
    }

    proptest! {
        #[test]
        fn entries_sort_as_their_values(a: Option<i64>, b: Option<i64>, x in "[\0a\u{ff}]{0,3}", y in "[\0a\u{ff}]{0,3}", descending: bool) {
            // NULL is the largest.
            let rank = |value: Option<i64>| (value.is_none(), value);
            let by_value = if descending { rank(b).cmp(&rank(a)) } else { rank(a).cmp(&rank(b)) };
            let expected = by_value.then(x.as_bytes().cmp(y.as_bytes()));
            prop_assert_eq!(encoded(a, &x, descending).cmp(&encoded(b, &y, descending)), expected);
        }
    }
}
