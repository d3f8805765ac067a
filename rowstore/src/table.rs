//! The reading side of a row table: one row by key, or many as Arrow, at any offset.
//!
//! Called by the router's fast path and its row provider.

use std::path::Path;
use std::sync::Arc;

use logcore::Offset;
use lsm_tree::Cache;

use crate::error::Result;
use crate::index::Index;
use crate::key::after_prefix;
use crate::lsm::{Compactor, ROW_PREFIX, Tree};
use crate::materializer::{RowMaterializer, RowProjection};
use crate::schema::TableSchema;

/// What all row tables of a process share.
#[derive(Clone)]
pub struct RowOptions {
    pub(crate) cache: Arc<Cache>,
    pub(crate) compactor: Compactor,
}

impl RowOptions {
    /// A block cache of `cache_bytes` and the compaction thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(cache_bytes: u64) -> Result<Self> {
        Ok(Self { cache: Arc::new(Cache::with_capacity_bytes(cache_bytes)), compactor: Compactor::start()? })
    }
}

/// See the module docs. Clones share the tree.
#[derive(Clone)]
pub struct RowTable {
    pub(crate) tree: Tree,
    pub(crate) schema: Arc<TableSchema>,
    /// The indexes that its files have.
    pub(crate) kept: Arc<[Index]>,
    /// Versions of rows below this offset may be gone; see [`crate::vacuum`].
    pub(crate) kept_from: Offset,
    /// Rows and entries that it was made with.
    pub(crate) began_with: u64,
}

impl RowTable {
    /// Opens the table in folder `dir`, creating it if it is not there, at its last checkpoint.
    ///
    /// # Errors
    /// When its files can't be read.
    pub fn open(
        dir: &Path,
        schema: Arc<TableSchema>,
        projection: RowProjection,
        options: &RowOptions,
    ) -> Result<(Self, RowMaterializer)> {
        let tree = Tree::open(&dir.join("rows"), &options.cache, &options.compactor)?;
        let next = tree.checkpoint()?;
        let materializer = RowMaterializer::new(tree.clone(), projection, next, Arc::clone(&schema));
        let kept = schema.indexes.clone().into();
        let (kept_from, began_with) = tree.kept()?;
        Ok((Self { tree, schema, kept, kept_from, began_with }, materializer))
    }

    /// The same table, read with another version of its schema: any version reads any row.
    #[must_use]
    pub fn with_schema(&self, schema: Arc<TableSchema>) -> Self {
        Self { schema, ..self.clone() }
    }

    /// Columns and primary key.
    #[must_use]
    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// The encoded row under an encoded primary key, as the records below `cut` left it.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn get(&self, key: &[u8], cut: Offset) -> Result<Option<Vec<u8>>> {
        let full = [&[ROW_PREFIX], key].concat();
        Ok(self.tree.get(&full, cut)?.map(|row| row.to_vec()))
    }

    /// As [`Self::get`], with the offset of the record that wrote the row; after a vacuum it may be that of a later one.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn get_version(&self, key: &[u8], cut: Offset) -> Result<Option<(Offset, Vec<u8>)>> {
        let full = [&[ROW_PREFIX], key].concat();
        Ok(self.tree.get_version(&full, cut)?.map(|(offset, row)| (offset, row.to_vec())))
    }

    /// All rows with their encoded primary keys, in key order, as the records below `cut` left them.
    pub fn all(&self, cut: Offset) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>)>> + '_ {
        let until = after_prefix(&[ROW_PREFIX]).expect("the prefix is not 0xff");
        self.tree.range(&[ROW_PREFIX], &until, cut).map(|item| item.map(|(key, row)| (key[1..].to_vec(), row.to_vec())))
    }

    /// How many rows there are, about; every version counts.
    #[must_use]
    pub fn rows_about(&self) -> u64 {
        self.tree.items() / (1 + self.kept.len() as u64)
    }

    /// Bytes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.tree.disk_bytes()
    }
}
