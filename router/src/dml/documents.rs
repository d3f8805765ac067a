//! Documents one by one, by their ids: read, put, patched and deleted without SQL.
//!
//! A change is read, computed and written on the condition that nobody wrote the document meanwhile; if somebody did it is computed
//! again, unless the client said which version it expects. Called by `/v1/documents` and by the door for Elasticsearch's clients.

use std::sync::Arc;
use std::time::Instant;

use logcore::{ErrorKind, Offset};
use rowstore::Value as Cell;
use rowstore::key::encode_key;
use rowstore::value::decode_row;
use serde_json::Value;

use super::constraints::Writer;
use super::direct::pin;
use super::target::{Change, Target};
use super::{Refused, commit};
use crate::answer::Expect;
use crate::append::lookup;
use crate::catalog::{TableDef, TableKind};
use crate::cut;
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::functions::json_update;
use crate::lines::Attempts;
use crate::position::Cut;
use crate::query::Context;
use crate::sql::rewrite::{TableUse, Uses};
use crate::txn::{Isolation, Transaction};
use crate::view::running::Store;
use crate::view::written;

/// A document that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDocument {
    /// The JSON object, byte for byte.
    pub json: Vec<u8>,
    /// The offset of the record that wrote it; none: the table is a view of a stream, whose records say it themselves.
    pub version: Option<u64>,
}

/// What a change came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentWritten {
    /// Where it is in the log; none: there was nothing to change.
    pub position: Option<Cut>,
    /// The offset of its record.
    pub version: Option<u64>,
    /// Whether the document was there before.
    pub existed: bool,
}

/// What becomes of a document.
#[derive(Clone, Debug)]
pub enum DocumentEdit {
    /// This, a JSON object, takes the place of whatever has its id.
    Put(String),
    /// RFC 7396: members put over the document's, null removes.
    Merge(Value),
    /// RFC 6902: operations one after the other, all or none.
    Patch(json_patch::Patch),
    /// It goes.
    Delete,
}

impl DocumentEdit {
    /// Reads a JSON Patch.
    ///
    /// # Errors
    /// When it is not one.
    pub fn patch(json: Value) -> Result<Self> {
        serde_json::from_value(json).map(Self::Patch).map_err(|error| {
            Error::invalid(format!("it is not a JSON Patch: {error}"))
                .hint("an array of operations: [{\"op\": \"replace\", \"path\": \"/a/b\", \"value\": 1}]")
        })
    }

    /// The document that comes of one, which all but [`Self::Put`] need; none: it goes.
    fn apply(&self, document: Option<&str>) -> Result<Option<String>> {
        let parsed = || {
            let parsed = serde_json::from_str::<Value>(document.unwrap_or_default());
            parsed.map_err(|error| Error::internal(format!("a stored document is not JSON: {error}")))
        };
        match self {
            Self::Put(json) => Ok(Some(json.clone())),
            Self::Merge(patch) => {
                let mut document = parsed()?;
                json_update::merge(&mut document, patch.clone());
                Ok(Some(document.to_string()))
            }
            Self::Patch(patch) => {
                let mut document = parsed()?;
                json_patch::patch(&mut document, patch).map_err(|error| {
                    Error::new(sqlstate::DATA_EXCEPTION, ErrorKind::Invalid, format!("the JSON Patch does not apply: {error}"))
                })?;
                Ok(Some(document.to_string()))
            }
            Self::Delete => Ok(None),
        }
    }
}

fn not_found(table: &str, id: &str) -> Error {
    Error::new(sqlstate::NO_DATA, ErrorKind::NotFound, format!("there is no document \"{id}\" in table \"{table}\""))
}

fn other_version(table: &str, id: &str, found: Option<Offset>) -> Error {
    let found = found.map_or("it is not there".to_owned(), |version| format!("it has version {version}"));
    let message = format!("document \"{id}\" of table \"{table}\" is not in the version that was expected: {found}");
    Error::new(sqlstate::SERIALIZATION_FAILURE, ErrorKind::Conflict, message).hint("read it again")
}

impl Database {
    /// A document by its id.
    ///
    /// # Errors
    /// Unknown tables, those that are no document tables, an id that is not there.
    pub async fn document(&self, table: &str, id: &str, wait: &Cut, deadline: Instant) -> Result<(StoredDocument, Cut)> {
        let found = Box::pin(self.find_document(table, id, wait, deadline)).await.map_err(|error| self.named(error))?;
        match found {
            (Some(document), cut) => Ok((document, cut)),
            (None, _) => Err(not_found(table, id)),
        }
    }

    async fn find_document(&self, table: &str, id: &str, wait: &Cut, deadline: Instant) -> Result<(Option<StoredDocument>, Cut)> {
        let def = self.document_table(table)?;
        let uses = TableUse { internal: def.name.clone(), name: def.name.clone(), ..TableUse::default() };
        let context = Context { params: &[], wait, deadline, transaction: None, numbers: None };
        let chosen = cut::choose(self, &Uses { tables: vec![uses], ..Uses::default() }, context).await?;
        let generation = Arc::clone(&chosen.generations[0]);
        let cut = chosen.cut.clone();
        let id = id.to_owned();
        let found = lookup(move || {
            for part in &generation.parts {
                let found = match &part.store {
                    Store::Row(rows) => {
                        let schema = written::schema();
                        let key = encode_key(&[Cell::Text(id.clone()), Cell::Null], &schema)?;
                        let end = chosen.cut.end("_tables", part.partition).unwrap_or_default();
                        let row = rows.get_version(&key, end)?;
                        let decode = |(version, row): (Offset, Vec<u8>)| {
                            let json = document_of(&decode_row(&row, &schema)?).unwrap_or_default().as_bytes().to_vec();
                            Ok::<_, Error>(StoredDocument { json, version: Some(version.value()) })
                        };
                        row.map(decode).transpose()?
                    }
                    Store::Document(_) => match chosen.documents.get(&(def.id, part.partition)) {
                        Some(snapshot) => snapshot.get(&id)?.map(|json| StoredDocument { json, version: None }),
                        None => None,
                    },
                    Store::Series(_) => None,
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        });
        Ok((found.await?, cut))
    }

    /// Changes a document; nothing but a `Put` makes one.
    ///
    /// # Errors
    /// Unknown tables, those that can't be written, an id that is not there, a patch that does not apply, what is not a JSON object,
    /// another version than expected.
    pub async fn change_document(
        &self,
        table: &str,
        id: &str,
        edit: DocumentEdit,
        expect: Option<Expect>,
        deadline: Instant,
    ) -> Result<DocumentWritten> {
        let changed = Box::pin(self.try_change(table, id, edit, expect, deadline)).await;
        changed.map_err(|error| self.named(error))
    }

    fn document_table(&self, table: &str) -> Result<Arc<TableDef>> {
        let catalog = self.catalog();
        let def = catalog.table(table)?;
        let is_document = matches!(def.kind, TableKind::Document(_)) || catalog.search_side(def.id).is_some();
        if def.is_hidden() || !is_document {
            let message = format!("table \"{table}\" is a {} table: it has no documents", def.kind.name());
            return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message)
                .hint("CREATE TABLE ... USING document makes one that has"));
        }
        Ok(Arc::clone(def))
    }

    async fn try_change(
        &self,
        table: &str,
        id: &str,
        edit: DocumentEdit,
        expect: Option<Expect>,
        deadline: Instant,
    ) -> Result<DocumentWritten> {
        let mut attempts = Attempts::default();
        loop {
            let gate = self.gate().read().await;
            let def = self.document_table(table)?;
            let target = Arc::new(Target::of(self, &def)?);
            let transaction = Arc::new(Transaction::new(Isolation::Snapshot));
            let writer =
                Writer { database: self.clone(), catalog: self.catalog(), transaction: Arc::clone(&transaction), deadline };
            let wait = Cut::new();
            pin(&writer, &target, Context { params: &[], wait: &wait, deadline, transaction: Some(&transaction), numbers: None })
                .await?;
            let key = encode_key(&[Cell::Text(id.to_owned()), Cell::Null], &target.schema)?;
            let (within, of) = (Arc::clone(&transaction), Arc::clone(&target));
            let found = lookup(move || of.rows(&within)?.version(&key)).await?;
            let version = found.as_ref().map(|(version, _)| *version);
            let expected = match expect {
                None => true,
                Some(Expect::NoRecord) => version.is_none(),
                Some(Expect::Last(offset)) => version == Some(Offset::new(offset)),
            };
            if !expected {
                return Err(other_version(table, id, version));
            }
            let old = found.map(|(_, row)| row);
            let existed = old.is_some();
            if !existed && !matches!(edit, DocumentEdit::Put(_)) {
                return Err(not_found(table, id));
            }
            let new = edit.apply(old.as_ref().and_then(|old| document_of(&old.values)))?;
            let new = new.map(|json| target.row(vec![Cell::Text(id.to_owned()), Cell::Text(json)])).transpose()?;
            writer.apply(target, vec![Change { old, new }]).await?;
            match commit(self, &transaction, deadline).await {
                Err(Refused::Lost(lost)) => {
                    drop(gate);
                    attempts.again(self, lost, deadline).await?;
                }
                Err(Refused::Error(error)) => return Err(error),
                Ok(position) => {
                    let end = position.as_ref().and_then(|position| position.end("_tables", 0));
                    let version = end.and_then(Offset::before).map(Offset::value);
                    return Ok(DocumentWritten { position, version, existed });
                }
            }
        }
    }
}

/// The document in a row of a document table.
fn document_of(values: &[Cell]) -> Option<&str> {
    match values {
        [_, Cell::Text(json)] => Some(json),
        _ => None,
    }
}
