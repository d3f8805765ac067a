//! The table that a statement writes, and its rows as the transaction sees them.
//!
//! Everything here reads the row store and may block: the callers run it away from the async workers.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::ObjectName;
use logcore::{ErrorKind, Offset};
use rowstore::key::encode_key;
use rowstore::value::{decode_row, encode_row};
use rowstore::{Index, RowTable, TableSchema, Value};

use crate::catalog::{CatalogState, TableDef, TableKind};
use crate::cut::writable;
use crate::database::Database;
use crate::error::{Error, Result, nearest, sqlstate};
use crate::sql::ddl::name_of;
use crate::sql::rewrite::resolve;
use crate::txn::{Transaction, entries};
use crate::view::index_keys;
use crate::view::running::{Store, View};
use crate::view::vacuum::refuse;

/// A row with its encoded primary key.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The encoded primary key.
    pub key: Vec<u8>,
    /// In column order.
    pub values: Vec<Value>,
}

/// A row's way from one version to the next.
#[derive(Clone, Debug)]
pub struct Change {
    /// `None`: it is inserted.
    pub old: Option<Row>,
    /// `None`: it is deleted.
    pub new: Option<Row>,
}

/// See the module docs.
pub struct Target {
    /// The definition that the statement goes by.
    pub def: Arc<TableDef>,
    /// Its columns, indexes and constraints.
    pub schema: Arc<TableSchema>,
    /// What shows it.
    pub view: Arc<View>,
}

impl Target {
    /// The table of that name, if SQL may write it.
    ///
    /// # Errors
    /// Why not.
    pub fn find(database: &Database, catalog: &CatalogState, name: &ObjectName) -> Result<Self> {
        let written = resolve(name, catalog).unwrap_or_else(|| name_of(name));
        let Some(def) = catalog.find_table(&written) else {
            return Err(match catalog.find_stream(&written) {
                Some(_) => Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, format!("\"{written}\" is a stream"))
                    .hint(format!("append to it: POST /v1/streams/{written}/records")),
                None => Error::unknown("table", &written, catalog.tables().map(|def| def.name.as_str())),
            });
        };
        Self::of(database, def)
    }

    /// A table of the catalog, if SQL may write it.
    ///
    /// # Errors
    /// Why not.
    pub fn of(database: &Database, def: &Arc<TableDef>) -> Result<Self> {
        let view = database.views().get(def)?;
        writable(def, &view.stream.name)?;
        let TableKind::Row(schema) = &def.kind else { return Err(Error::internal("writable tables have rows")) };
        index_keys::prepare(database.session(), schema)?;
        Ok(Self { def: Arc::clone(def), schema: Arc::new(schema.clone()), view })
    }

    /// The position of a column.
    ///
    /// # Errors
    /// When there is none of that name, with a suggestion.
    pub fn column(&self, name: &str) -> Result<usize> {
        self.schema.column(name).ok_or_else(|| {
            let message = format!("column \"{name}\" of table \"{}\" does not exist", self.def.name);
            let error = Error::new(sqlstate::UNDEFINED_COLUMN, ErrorKind::Invalid, message);
            match nearest(name, self.schema.columns.iter().map(|column| column.name.as_str())) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error,
            }
        })
    }

    /// A row of these values.
    ///
    /// # Errors
    /// When its key is NULL or too long.
    pub fn row(&self, values: Vec<Value>) -> Result<Row> {
        Ok(Row { key: encode_key(&values, &self.schema)?, values })
    }

    /// Where its rows are kept.
    fn store(&self) -> Result<RowTable> {
        match &self.view.serving().parts[0].store {
            Store::Row(rows) => Ok(rows.clone()),
            _ => Err(Error::internal("writable tables have rows")),
        }
    }

    /// Its rows as a transaction sees them.
    ///
    /// # Errors
    /// When it has no rows: a bug.
    pub fn rows<'t>(&'t self, transaction: &'t Transaction) -> Result<Rows<'t>> {
        let serving = self.view.serving();
        refuse(&self.def, &self.view.stream.name, &serving.parts[0], transaction.snapshot(), false)?;
        Ok(Rows { target: self, store: self.store()?, snapshot: transaction.snapshot(), transaction })
    }
}

/// A table's rows as a transaction sees them.
pub struct Rows<'t> {
    target: &'t Target,
    store: RowTable,
    snapshot: Offset,
    transaction: &'t Transaction,
}

impl Rows<'_> {
    fn decode(&self, key: &[u8], row: &[u8]) -> Result<Row> {
        Ok(Row { key: key.to_vec(), values: decode_row(row, &self.target.schema)? })
    }

    /// The row under a primary key.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Row>> {
        let own = self.transaction.view(self.target.def.id);
        let row = match own.as_ref().and_then(|own| own.get(key)) {
            Some(own) => own.clone(),
            None => self.store.get(key, self.snapshot)?,
        };
        row.map(|row| self.decode(key, &row)).transpose()
    }

    /// The row under a primary key as the table has it, with the offset of the record that wrote it.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn version(&self, key: &[u8]) -> Result<Option<(Offset, Row)>> {
        let found = self.store.get_version(key, self.snapshot)?;
        found.map(|(offset, row)| Ok((offset, self.decode(key, &row)?))).transpose()
    }

    /// The rows whose entries of an index begin with `prefix`, at most `max`.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn find(&self, index: &Index, prefix: &[u8], max: usize) -> Result<Vec<Row>> {
        let table = self.target.def.id;
        let own = self.transaction.view(table);
        let replaced = |key: &[u8]| own.as_ref().is_some_and(|own| own.contains_key(key));
        let mut found = Vec::new();
        for key in self.transaction.own_entries(table, prefix).into_iter().take(max) {
            found.extend(self.get(&key)?);
        }
        if self.store.index(index.id).is_some() {
            let until = rowstore::key::after_prefix(prefix);
            for entry in self.store.entries(prefix, until.as_deref(), self.snapshot) {
                let (_, key) = entry?;
                if found.len() >= max {
                    break;
                }
                if !replaced(&key) {
                    found.extend(self.get(&key)?);
                }
            }
            return Ok(found);
        }
        // The index is being built: what it will say is said by the rows.
        for item in self.store.all(self.snapshot) {
            let (key, row) = item?;
            if found.len() >= max {
                break;
            }
            if !replaced(&key) {
                let row = self.decode(&key, &row)?;
                let entry = index.prefix_of(&row.values, &self.target.schema)?;
                if entry.is_some_and(|entry| entry.starts_with(prefix)) {
                    found.push(row);
                }
            }
        }
        Ok(found)
    }

    /// Takes a row's new version, or its removal, into the transaction.
    ///
    /// # Errors
    /// When an index entry is too long, or the transaction becomes too large.
    pub fn put(&self, key: &[u8], new: Option<&Row>) -> Result<()> {
        let Target { def, schema, .. } = self.target;
        let of = |row: &Row| entries(&schema.indexes, schema, &row.values, key);
        let own = self.transaction.view(def.id).and_then(|own| own.get(key).cloned()).flatten();
        let gone = own.map(|row| self.decode(key, &row).and_then(|row| of(&row))).transpose()?.unwrap_or_default();
        let entries = new.map(of).transpose()?.unwrap_or_default();
        let encoded = new.map(|row| encode_row(&row.values, schema));
        self.transaction.put((def.id, schema), key, encoded, (gone, entries))
    }
}
