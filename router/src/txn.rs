//! A transaction: what it has read, and the rows it leaves, until they enter the log as one batch.
//!
//! Every statement that changes rows works on one of these: a statement by itself on one of its own, those between BEGIN and
//! COMMIT on the session's. Reads of the transaction see its rows over the tables at its snapshot ([`Transaction::view`]).
//!
//! # Invariants
//! - All tables that SQL writes share the partition `_tables/0`, so a transaction is one batch: all of it or nothing.
//! - It enters the log only if nobody wrote a key it writes, or one it relied on, since its snapshot; the owner decides that.
//! - With SERIALIZABLE it relies on everything it read.
//!
//! # Concurrency
//! A session runs one statement at a time; the lock inside only lets a statement be a shared borrow.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use logcore::partition::Conditions;
use logcore::{BatchBuilder, Compression, NewRecord, Offset, Proposal, sys::clock};
use rowstore::mutation::record_key;
use rowstore::{Index, Overlay, TableSchema, Value};

use crate::error::{Error, Result, sqlstate};
use crate::key_hash::key_hash;
use crate::position::Cut;

/// Rows and index entries that one transaction may hold in memory.
const BYTES_MAX: usize = 64 << 20;

/// How much a transaction relies on what it read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// On the rows it writes, and on what its constraints rest on.
    #[default]
    Snapshot,
    /// On everything.
    Serializable,
}

/// The rows that a transaction puts over one table.
#[derive(Clone, Default)]
struct Changes {
    /// What its rows were judged by.
    schema: Option<Arc<TableSchema>>,
    rows: Arc<Overlay>,
    /// Entries of its rows in the table's indexes, with their primary keys.
    entries: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// What ROLLBACK TO goes back to.
#[derive(Clone, Default)]
struct State {
    tables: BTreeMap<u32, Changes>,
    /// Keys of unique indexes that are written.
    unique: HashSet<u64>,
    /// What others may rely on not being written, and is: referenced keys, whole tables.
    marks: HashSet<u64>,
    bytes: usize,
}

#[derive(Default)]
struct Inner {
    state: State,
    reads: HashSet<u64>,
    cut: Cut,
    savepoints: Vec<(String, State)>,
    failed: bool,
}

/// See the module docs.
pub struct Transaction {
    isolation: Isolation,
    started: SystemTime,
    inner: Mutex<Inner>,
}

/// A key that somebody may rely on.
#[derive(Clone, Copy)]
pub enum Key<'a> {
    /// A row, by table and primary key.
    Row(u32, &'a [u8]),
    /// Values of a unique index, by table and entry without primary key.
    Unique(u32, &'a [u8]),
    /// Rows of a table that reference a key, by table, index and entry prefix.
    References(u32, &'a [u8]),
    /// Any row of a table.
    Table(u32),
}

impl Key<'_> {
    /// What the owner of the partition knows it by.
    pub(crate) fn hash(self) -> u64 {
        let tagged = |tag: u8, table: u32, rest: &[u8]| key_hash(&[&[tag], &table.to_be_bytes()[..], rest].concat());
        match self {
            // The same as of the record that carries the row.
            Self::Row(table, key) => key_hash(&record_key(table, key)),
            Self::Unique(table, entry) => tagged(b'u', table, entry),
            Self::References(table, entry) => tagged(b'r', table, entry),
            Self::Table(table) => tagged(b't', table, b""),
        }
    }
}

/// What a transaction comes to.
pub struct Commit {
    /// The batch, with its conditions.
    pub proposal: Proposal,
    /// Tables that are written, and what their rows were judged by.
    pub tables: Vec<(u32, Option<Arc<TableSchema>>)>,
}

impl Transaction {
    /// A transaction that has read and written nothing.
    #[must_use]
    pub fn new(isolation: Isolation) -> Self {
        Self { isolation, started: SystemTime::now(), inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics inside")
    }

    /// How much it relies on what it read.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// When it began: what `now()` is in all of its statements.
    #[must_use]
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// Where it reads; partitions that it has not read yet are not in it.
    #[must_use]
    pub fn cut(&self) -> Cut {
        self.inner().cut.clone()
    }

    /// Notes where a statement read, for those after it.
    pub fn pin(&self, cut: &Cut) {
        let mut inner = self.inner();
        for (stream, partition, end) in cut.ends() {
            if inner.cut.end(stream, partition).is_none() {
                inner.cut.raise(stream, partition, end);
            }
        }
    }

    /// Where it reads the tables that SQL writes.
    #[must_use]
    pub fn snapshot(&self) -> Offset {
        self.inner().cut.end("_tables", 0).unwrap_or_default()
    }

    /// Its rows over a table, if there are any.
    #[must_use]
    pub fn view(&self, table: u32) -> Option<Arc<Overlay>> {
        self.inner().state.tables.get(&table).map(|changes| Arc::clone(&changes.rows))
    }

    /// The primary keys of its own rows whose index entries begin with `prefix`.
    #[must_use]
    pub fn own_entries(&self, table: u32, prefix: &[u8]) -> Vec<Vec<u8>> {
        let inner = self.inner();
        let Some(changes) = inner.state.tables.get(&table) else { return Vec::new() };
        let from = changes.entries.range::<[u8], _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(|(entry, _)| entry.starts_with(prefix)).map(|(_, key)| key.clone()).collect()
    }

    /// Puts a row, or removes it, of a table with its definition; `entries` are those of the version before, if that was this transaction's, and of the new one.
    ///
    /// # Errors
    /// When the transaction becomes too large.
    pub fn put(
        &self,
        (table, schema): (u32, &Arc<TableSchema>),
        key: &[u8],
        row: Option<Vec<u8>>,
        (gone, new): (Vec<Vec<u8>>, Vec<Vec<u8>>),
    ) -> Result<()> {
        let mut inner = self.inner();
        let state = &mut inner.state;
        state.bytes += key.len() + row.as_ref().map_or(0, Vec::len) + new.iter().map(Vec::len).sum::<usize>() + 64;
        if state.bytes > BYTES_MAX {
            let message = format!("the transaction changes more than {BYTES_MAX} bytes of rows");
            return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, logcore::ErrorKind::TooLarge, message)
                .hint("split it by a range of the primary key"));
        }
        state.marks.insert(Key::Table(table).hash());
        let changes = state.tables.entry(table).or_default();
        changes.schema = Some(Arc::clone(schema));
        let entries = Arc::make_mut(&mut changes.entries);
        for entry in gone {
            entries.remove(&entry);
        }
        for entry in new {
            entries.insert(entry, key.to_vec());
        }
        Arc::make_mut(&mut changes.rows).insert(key.to_vec(), row);
        Ok(())
    }

    /// Notes that what it does is right only as long as nobody writes `key`.
    pub fn relies_on(&self, key: Key<'_>) {
        self.inner().reads.insert(key.hash());
    }

    /// Notes a read, which matters to SERIALIZABLE only.
    pub fn has_read(&self, key: Key<'_>) {
        if self.isolation == Isolation::Serializable {
            self.relies_on(key);
        }
    }

    /// Notes that it writes the values of a unique index: nobody else may at the same time.
    pub fn writes_unique(&self, table: u32, entry: &[u8]) {
        self.inner().state.unique.insert(Key::Unique(table, entry).hash());
    }

    /// Notes that it writes something others may rely on; several may write it at the same time.
    pub fn marks(&self, key: Key<'_>) {
        self.inner().state.marks.insert(key.hash());
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner().state.tables.is_empty()
    }

    /// Notes that a statement of it failed: only ROLLBACK goes on.
    pub fn fail(&self) {
        self.inner().failed = true;
    }

    /// Notes that the statement that began has ended well.
    pub fn recover(&self) {
        self.inner().failed = false;
    }

    /// Whether a statement of it failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.inner().failed
    }

    /// SAVEPOINT.
    pub fn savepoint(&self, name: &str) {
        let mut inner = self.inner();
        let state = inner.state.clone();
        inner.savepoints.push((name.to_owned(), state));
    }

    fn savepoint_at(inner: &Inner, name: &str) -> Result<usize> {
        inner.savepoints.iter().rposition(|(known, _)| known == name).ok_or_else(|| {
            let message = format!("savepoint \"{name}\" does not exist");
            Error::new(sqlstate::INVALID_SAVEPOINT, logcore::ErrorKind::Invalid, message)
        })
    }

    /// ROLLBACK TO SAVEPOINT.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn rollback_to(&self, name: &str) -> Result<()> {
        let mut inner = self.inner();
        let at = Self::savepoint_at(&inner, name)?;
        inner.savepoints.truncate(at + 1);
        inner.state = inner.savepoints[at].1.clone();
        inner.failed = false;
        Ok(())
    }

    /// RELEASE SAVEPOINT.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn release(&self, name: &str) -> Result<()> {
        let mut inner = self.inner();
        let at = Self::savepoint_at(&inner, name)?;
        inner.savepoints.truncate(at);
        Ok(())
    }

    /// The batch that makes it so; `None` when it changes nothing.
    ///
    /// # Errors
    /// When it does not fit a frame.
    pub fn commit(&self) -> Result<Option<Commit>> {
        let inner = self.inner();
        let mut batch = BatchBuilder::new();
        let timestamp = clock::now();
        let mut writes: Vec<u64> = Vec::new();
        for (table, changes) in &inner.state.tables {
            for (key, row) in &*changes.rows {
                let key = record_key(*table, key);
                batch.push(&NewRecord { key: Some(&key), value: row.as_deref(), headers: &[], timestamp });
                writes.push(key_hash(&key));
            }
        }
        if writes.is_empty() {
            return Ok(None);
        }
        writes.extend(&inner.state.unique);
        let snapshot = inner.cut.end("_tables", 0).unwrap_or_default();
        let conditions = Conditions { snapshot, reads: inner.reads.iter().copied().collect(), writes };
        let proposal = Proposal::from_records(batch, Compression::None)?.when(conditions);
        let proposal = proposal.writing(inner.state.marks.iter().copied().collect());
        Ok(Some(Commit {
            proposal,
            tables: inner.state.tables.iter().map(|(id, changes)| (*id, changes.schema.clone())).collect(),
        }))
    }
}

/// The entries of a row in a table's indexes.
///
/// # Errors
/// When one is too long.
pub fn entries(indexes: &[Index], schema: &TableSchema, values: &[Value], key: &[u8]) -> Result<Vec<Vec<u8>>> {
    let entries = indexes.iter().filter_map(|index| index.entry(values, schema, key).transpose());
    Ok(entries.collect::<Result<_, _>>()?)
}
