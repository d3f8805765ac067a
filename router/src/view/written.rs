//! Document tables that SQL writes: rows of an id and a document, and what searches them.
//!
//! `CREATE TABLE d USING document` without a stream makes a row table with the columns `_id` and `doc`, written like any other, and
//! beside it, hidden, a document table that is a view of the same records ([`Source::Documents`](crate::catalog::Source)). Statements
//! that search read the second at the cut of its newest state; all others read the rows ([`crate::cut`]).

use std::sync::Arc;

use docstore::SourceDocument;
use logcore::materialize::{Projection, Rejects, ViewError};
use logcore::{Batch, Offset};
use rowstore::key::text_of_part;
use rowstore::mutation::MutationProjection;
use rowstore::value::decode_row;
use rowstore::{Column, ColumnType, TableSchema, Value};

/// The column of the id.
pub const ID: &str = "_id";
/// The column of the document.
pub const DOC: &str = "doc";

/// The columns of every document table that SQL writes.
#[must_use]
pub fn schema() -> TableSchema {
    TableSchema::new(vec![Column::new(ID, ColumnType::Text).not_null(), Column::new(DOC, ColumnType::Json).not_null()], vec![0])
}

/// Documents out of the mutations of one table.
pub struct WrittenDocuments {
    mutations: MutationProjection,
    schema: Arc<TableSchema>,
}

impl WrittenDocuments {
    /// Of the row table with this id.
    #[must_use]
    pub fn new(table: u32) -> Self {
        Self { mutations: MutationProjection { table }, schema: Arc::new(schema()) }
    }
}

impl Projection<Vec<SourceDocument>> for WrittenDocuments {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Vec<SourceDocument>, ViewError> {
        let mut documents = Vec::new();
        for change in self.mutations.project(batch, from, rejects)? {
            let offset = change.offset;
            if change.truncates {
                documents.push(SourceDocument::truncation(offset));
                continue;
            }
            let Some(id) = text_of_part(&change.key) else {
                rejects.push(offset, "its key is not the id of a document");
                continue;
            };
            let json = match change.value.map(|row| decode_row(&row, &self.schema)).transpose() {
                Ok(None) => None,
                Ok(Some(mut values)) => match values.pop() {
                    Some(Value::Text(json)) => Some(json.into_bytes()),
                    _ => {
                        rejects.push(offset, "its row has no document");
                        continue;
                    }
                },
                Err(error) => {
                    rejects.push(offset, error.to_string());
                    continue;
                }
            };
            documents.push(SourceDocument::new(offset, id, json));
        }
        Ok(documents)
    }
}
