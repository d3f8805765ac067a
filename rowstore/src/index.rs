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
//! - At every offset the entries of an index are exactly those of the rows at that offset; of a partial one, those of the rows for
//!   which its predicate is true. A row for which an expression fails has none: whoever writes rows refuses such a row, so only rows
//!   from before the index can be such.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use logcore::Offset;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::key::{KEY_BYTES_MAX, after_prefix, encode_part};
use crate::lsm::INDEX_PREFIX;
use crate::schema::TableSchema;
use crate::table::RowTable;
use crate::types::ColumnType;
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
    /// What is indexed if it is no column: SQL, and the type of its values. The name is then the text of the expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<IndexExpression>,
}

impl IndexColumn {
    /// A column.
    #[must_use]
    pub fn new(name: impl Into<String>, descending: bool) -> Self {
        Self { name: name.into(), descending, expression: None }
    }
}

/// An expression of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexExpression {
    /// Its SQL text.
    pub text: String,
    /// The type of its values.
    pub kind: ColumnType,
}

/// Computes what an index has of a row, where that is more than its columns. Deterministic.
pub trait Compute: Send + Sync {
    /// The indexed values of a row of the table's columns; `None`: the row is not in the index.
    ///
    /// # Errors
    /// Whatever evaluating an expression says.
    fn compute(&self, values: &[Value]) -> Result<Option<Vec<Value>>, Box<dyn std::error::Error + Send + Sync>>;

    /// For whoever made it.
    fn as_any(&self) -> &dyn Any;
}

/// Where an index with expressions or a condition keeps what computes them; shared by its clones, made by whoever knows SQL
/// before the index is used. It does not count when indexes are compared.
#[derive(Clone, Default)]
pub struct Computed(Arc<OnceLock<Arc<dyn Compute>>>);

impl Computed {
    /// What computes.
    #[must_use]
    pub fn get(&self) -> Option<&Arc<dyn Compute>> {
        self.0.get()
    }

    /// Puts it there; the first one stays.
    pub fn set(&self, compute: Arc<dyn Compute>) {
        let _ = self.0.set(compute);
    }
}

impl fmt::Debug for Computed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "computed" } else { "not computed" })
    }
}

impl PartialEq for Computed {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Computed {}

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
    /// Only rows for which this SQL is true are in it; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// What computes expressions and predicate.
    #[serde(skip)]
    pub computed: Computed,
}

impl Index {
    /// Whether it is of all rows and of columns alone.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.predicate.is_none() && self.columns.iter().all(|column| column.expression.is_none())
    }

    /// The indexed values of a row; `None`: the row is not in the index.
    ///
    /// # Errors
    /// [`Error::Computing`].
    pub fn values_of(&self, values: &[Value], schema: &TableSchema) -> Result<Option<Vec<Value>>> {
        if self.is_plain() {
            let value = |column: &IndexColumn| schema.column(&column.name).map_or(Value::Null, |at| values[at].clone());
            return Ok(Some(self.columns.iter().map(value).collect()));
        }
        let failed = |source| Error::Computing { index: self.name.clone(), source };
        let compute = self.computed.get().ok_or_else(|| failed("nothing computes its expressions".into()))?;
        compute.compute(values).map_err(failed)
    }

    /// The key of a row's entry without the primary key, if no other row may have it: there is one, and no value is NULL.
    ///
    /// # Errors
    /// [`Error::Computing`].
    pub fn unique_prefix(&self, values: &[Value], schema: &TableSchema) -> Result<Option<Vec<u8>>> {
        let values = self.values_of(values, schema)?.filter(|values| !values.contains(&Value::Null));
        Ok(values.map(|values| self.prefix(&values)))
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

    /// The key of a row's entry without the primary key; `None`: the row is not in the index.
    ///
    /// # Errors
    /// [`Error::Computing`].
    pub fn prefix_of(&self, values: &[Value], schema: &TableSchema) -> Result<Option<Vec<u8>>> {
        if !self.is_plain() {
            return Ok(self.values_of(values, schema)?.map(|values| self.prefix(&values)));
        }
        let mut out = self.id.to_be_bytes().to_vec();
        for column in &self.columns {
            let value = schema.column(&column.name).map_or(&Value::Null, |at| &values[at]);
            encode_indexed(&mut out, value, column.descending);
        }
        Ok(Some(out))
    }

    /// The key of a row's entry; `None`: the row is not in the index.
    ///
    /// # Errors
    /// [`Error::KeyTooLarge`], [`Error::Computing`].
    pub fn entry(&self, values: &[Value], schema: &TableSchema, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(mut out) = self.prefix_of(values, schema)? else { return Ok(None) };
        out.extend_from_slice(key);
        match out.len() > KEY_BYTES_MAX {
            true => Err(Error::KeyTooLarge { bytes: out.len(), max: KEY_BYTES_MAX }),
            false => Ok(Some(out)),
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
