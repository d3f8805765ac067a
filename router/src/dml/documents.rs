//! Documents one by one, by their ids: read, put, patched and deleted without SQL.
//!
//! A change is read, computed and written on the condition that nobody wrote the document meanwhile; if somebody did it is computed
//! again, unless the client said which version it expects. Called by `/v1/documents` and by the door for Elasticsearch's clients.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use logcore::{ErrorKind, Offset};
use rowstore::Value as Cell;
use rowstore::key::encode_key;
use rowstore::value::decode_row;
use serde_json::{Map, Value};

use super::constraints::{LOOKUP_ROWS_MAX, Writer};
use super::direct::pin;
use super::target::{Change, Row, Target};
use super::{Refused, commit};
use crate::answer::Expect;
use crate::append::{blocking, lookup};
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
    /// Members put over the document's, objects into objects, null as a value.
    Fill {
        /// The members.
        members: Map<String, Value>,
        /// The document where there is none.
        otherwise: Option<String>,
    },
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
            Self::Fill { members, otherwise } => match (document, otherwise) {
                (None, Some(otherwise)) => Ok(Some(otherwise.clone())),
                _ => {
                    let mut document = parsed()?;
                    fill(&mut document, members);
                    Ok(Some(document.to_string()))
                }
            },
            Self::Delete => Ok(None),
        }
    }

    /// Whether it makes a document where there is none.
    fn can_make(&self) -> bool {
        matches!(self, Self::Put(_) | Self::Fill { otherwise: Some(_), .. })
    }
}

/// Puts members into an object; whatever else it is given becomes one.
fn fill(document: &mut Value, members: &Map<String, Value>) {
    let Value::Object(object) = document else {
        *document = Value::Object(members.clone());
        return;
    };
    for (name, member) in members {
        match (object.get_mut(name), member) {
            (Some(old @ Value::Object(_)), Value::Object(inner)) => fill(old, inner),
            _ => {
                object.insert(name.clone(), member.clone());
            }
        }
    }
}

/// One change among several.
#[derive(Clone, Debug)]
pub struct DocumentChange {
    /// The document's id.
    pub id: String,
    /// What becomes of it.
    pub edit: DocumentEdit,
    /// The state it must be in.
    pub expect: Option<Expect>,
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

    /// Changes a document; only a `Put`, or a `Fill` that says what otherwise, makes one.
    ///
    /// # Errors
    /// Unknown tables, those that can't be written, an id that is not there, a patch that does not apply, what is not a JSON object,
    /// another version than expected.
    pub async fn change_document(&self, table: &str, change: DocumentChange, deadline: Instant) -> Result<DocumentWritten> {
        let mut outcomes = self.change_documents(table, &[change], deadline).await;
        outcomes.pop().unwrap_or_else(|| Err(Error::internal("one change has one outcome")))
    }

    /// Changes documents of a table in the order given, each by itself as far as success goes, but in as few transactions as can be.
    /// The outcomes are in the same order, with the errors of [`Self::change_document`].
    pub async fn change_documents(
        &self,
        table: &str,
        changes: &[DocumentChange],
        deadline: Instant,
    ) -> Vec<Result<DocumentWritten>> {
        let outcomes = self.change_all(table, changes, deadline).await;
        outcomes.into_iter().map(|outcome| outcome.map_err(|error| self.named(error))).collect()
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

    /// All changes in one transaction; where something stands against one of them, each half by itself, down to the one.
    fn change_all<'a>(
        &'a self,
        table: &'a str,
        changes: &'a [DocumentChange],
        deadline: Instant,
    ) -> BoxFuture<'a, Vec<Result<DocumentWritten>>> {
        Box::pin(async move {
            match self.change_together(table, changes, deadline).await {
                Ok(outcomes) => outcomes,
                Err(error) if changes.len() <= 1 => changes.iter().map(|_| Err(error.clone())).collect(),
                // Refused before anything was written; whatever else went wrong goes wrong for all.
                Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::TooLarge) => {
                    let (first, second) = changes.split_at(changes.len() / 2);
                    let mut outcomes = self.change_all(table, first, deadline).await;
                    outcomes.extend(self.change_all(table, second, deadline).await);
                    outcomes
                }
                Err(error) => changes.iter().map(|_| Err(error.clone())).collect(),
            }
        })
    }

    async fn change_together(
        &self,
        table: &str,
        changes: &[DocumentChange],
        deadline: Instant,
    ) -> Result<Vec<Result<DocumentWritten>>> {
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
            let mut batch = Batch::read(&target, &transaction, changes).await?;
            let outcomes: Vec<Result<Option<usize>>> = changes.iter().map(|change| batch.take(&target, table, change)).collect();
            let rows = batch.changes();
            writer.apply(Arc::clone(&target), rows).await?;
            match commit(self, &transaction, deadline).await {
                Err(Refused::Lost(lost)) => {
                    drop(gate);
                    attempts.again(self, lost, deadline).await?;
                }
                Err(Refused::Error(error)) => return Err(error),
                Ok(position) => return Ok(batch.written(outcomes, position.as_ref())),
            }
        }
    }
}

/// One document through the changes of a batch.
struct Entry {
    key: Vec<u8>,
    /// The version that the table has.
    version: Option<Offset>,
    old: Option<Row>,
    new: Option<Row>,
    is_changed: bool,
}

/// The documents that the changes of one transaction are about.
struct Batch {
    places: HashMap<String, usize>,
    entries: Vec<Entry>,
    /// Whether the document of a change was there when its turn came.
    existed: Vec<bool>,
}

impl Batch {
    async fn read(target: &Arc<Target>, transaction: &Arc<Transaction>, changes: &[DocumentChange]) -> Result<Self> {
        let (mut places, mut keys) = (HashMap::new(), Vec::new());
        for change in changes {
            if !places.contains_key(&change.id) {
                places.insert(change.id.clone(), keys.len());
                keys.push(encode_key(&[Cell::Text(change.id.clone()), Cell::Null], &target.schema)?);
            }
        }
        let is_small = keys.len() <= LOOKUP_ROWS_MAX;
        let (within, of) = (Arc::clone(transaction), Arc::clone(target));
        let read = move || {
            let rows = of.rows(&within)?;
            let entry = |key: Vec<u8>| {
                let (version, old) = rows.version(&key)?.unzip();
                Ok(Entry { key, version, new: old.clone(), old, is_changed: false })
            };
            keys.into_iter().map(entry).collect::<Result<Vec<_>>>()
        };
        let entries = if is_small { lookup(read).await } else { blocking(read).await };
        Ok(Self { places, entries: entries?, existed: Vec::with_capacity(changes.len()) })
    }

    /// Makes one change over those before it; gives the place of its document if that is written.
    fn take(&mut self, target: &Target, table: &str, change: &DocumentChange) -> Result<Option<usize>> {
        let DocumentChange { id, edit, expect } = change;
        let place = self.places[id];
        let entry = &mut self.entries[place];
        let existed = entry.new.is_some();
        self.existed.push(existed);
        let expected = match expect {
            None => true,
            Some(Expect::NoRecord) => !existed,
            // What an earlier change of the batch leaves has no version yet that anybody could expect.
            Some(Expect::Last(offset)) => !entry.is_changed && entry.version == Some(Offset::new(*offset)),
        };
        if !expected {
            return Err(other_version(table, id, entry.version));
        }
        if !existed && !edit.can_make() {
            return Err(not_found(table, id));
        }
        let new = edit.apply(entry.new.as_ref().and_then(|row| document_of(&row.values)))?;
        let new = new.map(|json| target.row(vec![Cell::Text(id.clone()), Cell::Text(json)])).transpose()?;
        entry.new = new;
        entry.is_changed = true;
        Ok(Some(place))
    }

    fn is_written(entry: &Entry) -> bool {
        entry.is_changed && (entry.old.is_some() || entry.new.is_some())
    }

    fn changes(&self) -> Vec<Change> {
        let written = self.entries.iter().filter(|entry| Self::is_written(entry));
        written.map(|entry| Change { old: entry.old.clone(), new: entry.new.clone() }).collect()
    }

    /// What each change came to, now that the batch is in the log: a record for each document, in the order of their keys.
    fn written(&self, outcomes: Vec<Result<Option<usize>>>, position: Option<&Cut>) -> Vec<Result<DocumentWritten>> {
        let end = position.and_then(|position| position.end("_tables", 0));
        let mut keys: Vec<&[u8]> =
            self.entries.iter().filter(|entry| Self::is_written(entry)).map(|entry| &entry.key[..]).collect();
        keys.sort_unstable();
        let version = |place: usize| {
            let nth = keys.binary_search(&&self.entries[place].key[..]).ok()?;
            end?.value().checked_sub((keys.len() - nth) as u64)
        };
        let outcomes = outcomes.into_iter().zip(&self.existed);
        let written = |(outcome, existed): (Result<Option<usize>>, &bool)| {
            let version = outcome?.and_then(version);
            Ok(DocumentWritten { position: position.filter(|_| version.is_some()).cloned(), version, existed: *existed })
        };
        outcomes.map(written).collect()
    }
}

/// The document in a row of a document table.
fn document_of(values: &[Cell]) -> Option<&str> {
    match values {
        [_, Cell::Text(json)] => Some(json),
        _ => None,
    }
}
