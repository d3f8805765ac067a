//! Cursors: durable, named reader positions, one per name and partition.
//!
//! They are a view of the internal stream `_cursors`: a change is a record there, and [`Cursors`] is the map that its records come
//! to. The `Database` facade opens it at start and takes commits from the doors; retention asks it, through [`Holder`], what
//! readers have not passed yet.
//!
//! # Format
//! `docs/format.md`, "Cursors". One record per change; the stream is compacted, so that what a start reads stays in proportion to the
//! number of cursors and not to the number of commits.
//!
//! # Invariants
//! - A cursor moves forward only, unless a commit says reset; in `_cursors` too, whatever races.
//! - The map shows what is durable: it moves after the record is, never before.
//! - A cursor is never ahead of durable data: what it passed is flushed first, and an offset beyond the committed end is refused.
//! - Memory is bounded by [`CURSORS_MAX`] cursors with names of at most [`NAME_BYTES_MAX`] bytes.
//!
//! # Concurrency
//! A change is judged by the map as of an offset of `_cursors`, and enters the log only if nobody wrote the same cursor since
//! ([`Conditions`]): of two that race one is judged again. Changes of different cursors share a flush. [`Cursors::commit`] and its
//! like block; they run to their end whatever becomes of whoever asked, so the map can't miss a record that was written.
//! [`Cursors::get`] and [`Cursors::list`] look at memory only.

mod id;
mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::frame::FrameKind;
use crate::frame::batch::{Batch, BatchBuilder, Compression, NewRecord};
use crate::partition::{AckClass, Compaction, Conditions, Hold, Holder, Partition, PartitionOptions, Proposal, Ticket};
use crate::sys::clock;
use crate::types::{Offset, PartitionRef, StreamId};

pub use id::{CursorId, NAME_BYTES_MAX};

/// Cursors of one log. At 100 bytes a name that is about 20 MB of memory.
pub const CURSORS_MAX: usize = 100_000;

/// Read at once while the map is brought up to date.
const READ_BYTES: usize = 1 << 20;
/// Tombstones of one batch.
const FORGET_RECORDS: usize = 1_000;

/// Where a commit believes the cursor to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// It does not matter.
    #[default]
    Anything,
    /// There is no such cursor.
    Nothing,
    /// At this offset.
    At(Offset),
}

/// A change of one cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The next offset to read.
    pub offset: Offset,
    /// Refused when the cursor is elsewhere.
    pub expected: Expected,
    /// Whether it may move back.
    pub reset: bool,
}

impl Commit {
    /// Moves a cursor forward to `offset`, wherever it is.
    #[must_use]
    pub const fn to(offset: Offset) -> Self {
        Self { offset, expected: Expected::Anything, reset: false }
    }
}

type Known = BTreeMap<CursorId, Offset>;

/// See the module docs.
pub struct Cursors {
    log: Arc<Partition>,
    /// Up to which offset of `_cursors` the map is; held by whoever brings it further.
    next: Mutex<Offset>,
    /// Never locked while anything is read or waited for.
    known: Arc<RwLock<Known>>,
    /// New cursors on their way, so that the limit holds for those that race, too.
    creating: AtomicUsize,
    cursors_max: usize,
    holds: Mutex<BTreeMap<PartitionRef, Arc<Passed>>>,
}

impl Cursors {
    /// Reads all cursors from `log`, the partition of `_cursors`, and has it compacted from now on.
    ///
    /// # Errors
    /// As [`Partition::read`]; [`Error::UnknownCursorRecord`] for what a newer release wrote.
    pub fn open(log: Arc<Partition>) -> Result<Self> {
        Self::open_with(log, CURSORS_MAX)
    }

    fn open_with(log: Arc<Partition>, cursors_max: usize) -> Result<Self> {
        let options = log.options();
        if options.compaction.is_none() {
            log.reconfigure(PartitionOptions { compaction: Some(Compaction::default()), ..options });
        }
        let cursors = Self {
            next: Mutex::new(log.log_start()),
            log,
            known: Arc::default(),
            creating: AtomicUsize::new(0),
            cursors_max,
            holds: Mutex::default(),
        };
        cursors.up_to_date(|_| Ok(()))?;
        Ok(cursors)
    }

    /// The partition of `_cursors`, for whoever queues changes.
    #[must_use]
    pub fn log(&self) -> &Arc<Partition> {
        &self.log
    }

    /// Where a cursor is: the next offset to read.
    #[must_use]
    pub fn get(&self, id: &CursorId) -> Option<Offset> {
        self.known.read().expect("no code panics inside").get(id).copied()
    }

    /// All cursors, by partition and name.
    #[must_use]
    pub fn list(&self) -> Vec<(CursorId, Offset)> {
        self.known.read().expect("no code panics inside").iter().map(|(id, offset)| (id.clone(), *offset)).collect()
    }

    /// Lets the cursors of `of` hold back its `consumed` retention from now on, if it has any. Commits do so by themselves; at
    /// start it must be called for every partition that is opened.
    pub fn hold(&self, of: &Partition) {
        let passed = Passed { known: Arc::clone(&self.known), of: of.id() };
        // A partition without cursors has no holder: nothing of it counts as consumed.
        if passed.needed_from().is_none() {
            return;
        }
        let mut holds = self.holds.lock().expect("no code panics inside");
        holds.entry(of.id()).or_insert_with(|| {
            let passed = Arc::new(passed);
            of.hold(Hold::Cursor, Arc::downgrade(&passed) as Weak<dyn Holder>);
            passed
        });
    }

    /// Moves or creates a cursor in `of` and waits until that is durable; gives where it is. `queue` puts a batch into the queue of
    /// `_cursors` and waits there for room as long as the caller wants.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`] beyond the committed end, [`Error::CursorMoved`] when it is not where it was expected,
    /// [`Error::CursorAhead`] when it would move back, [`Error::TooManyCursors`], [`Error::Timeout`] when others kept it busy until
    /// `deadline`; why `of` can't be flushed; what `queue` says.
    pub fn commit(
        &self,
        of: &Partition,
        name: &str,
        commit: Commit,
        queue: impl Fn(Proposal) -> Result<Ticket>,
        deadline: Instant,
    ) -> Result<Offset> {
        let id = CursorId::new(name, of.id())?;
        let committed = of.committed().get();
        if commit.offset > committed {
            let log_start = of.log_start();
            return Err(Error::OffsetOutOfRange { partition: of.id(), offset: commit.offset, log_start, end_offset: committed });
        }
        if commit.offset > of.flushed() {
            of.flush()?;
        }
        self.change(&queue, deadline, |known| {
            let found = known.get(&id).copied();
            judge(&id, found, commit)?;
            if found == Some(commit.offset) {
                return Ok(None);
            }
            let creating = match found {
                None => Some(Creating::begin(&self.creating, known.len(), self.cursors_max)?),
                Some(_) => None,
            };
            Ok(Some((vec![(id.clone(), Some(commit.offset))], creating)))
        })?;
        self.hold(of);
        Ok(commit.offset)
    }

    /// Removes a cursor and waits until that is durable; gives where it was, `None` when there was none.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn delete(&self, id: &CursorId, queue: impl Fn(Proposal) -> Result<Ticket>, deadline: Instant) -> Result<Option<Offset>> {
        let mut was = None;
        self.change(&queue, deadline, |known| {
            was = known.get(id).copied();
            Ok(was.map(|_| (vec![(id.clone(), None)], None)))
        })?;
        self.let_go(id.of);
        Ok(was)
    }

    /// Removes every cursor of a stream, which is gone; gives how many there were.
    ///
    /// # Errors
    /// As [`Self::commit`]; calling again continues.
    pub fn forget(&self, stream: StreamId, queue: impl Fn(Proposal) -> Result<Ticket>, deadline: Instant) -> Result<usize> {
        let mut forgotten = 0;
        loop {
            let mut gone = 0;
            self.change(&queue, deadline, |known| {
                let of_stream = known.range(CursorId::first_of(stream)..).take_while(|(id, _)| id.of.stream == stream);
                let tombstones: Vec<_> = of_stream.take(FORGET_RECORDS).map(|(id, _)| (id.clone(), None)).collect();
                gone = tombstones.len();
                Ok((gone > 0).then_some((tombstones, None)))
            })?;
            forgotten += gone;
            if gone < FORGET_RECORDS {
                break;
            }
        }
        self.holds.lock().expect("no code panics inside").retain(|of, _| of.stream != stream);
        Ok(forgotten)
    }

    /// Records what `decide` comes to: asked again, of a newer map, until nobody was faster. Nothing to write is fine, too.
    fn change<'a>(
        &'a self,
        queue: &impl Fn(Proposal) -> Result<Ticket>,
        deadline: Instant,
        mut decide: impl FnMut(&Known) -> Result<Option<(Changes, Option<Creating<'a>>)>>,
    ) -> Result<()> {
        let started = clock::monotonic();
        loop {
            let (snapshot, decided) = self.up_to_date(&mut decide)?;
            let Some((changes, creating)) = decided else { return Ok(()) };
            let error = match queue(proposal(&changes, snapshot)?).and_then(Ticket::wait) {
                Ok(_) => {
                    // From one to the other in one step: counted once, whoever looks.
                    self.up_to_date(|_| {
                        drop(creating);
                        Ok(())
                    })?;
                    return Ok(());
                }
                Err(error) => error,
            };
            let wait_for = match error {
                Error::Conflict { last_writer, .. } => last_writer.advance(1),
                Error::SnapshotTooOld { window_start, .. } => window_start,
                other => return Err(other),
            };
            // The faster one is on its way to the disk; once it is there, the map has it.
            if !self.log.committed().reached_blocking(wait_for, deadline) || clock::monotonic() >= deadline {
                let what = format!("a change of cursor {}, which others change,", changes[0].0);
                return Err(Error::Timeout { what, waited_ms: started.elapsed().as_millis() });
            }
        }
    }

    /// Takes in what is committed, then looks at the map; also gives the offset of `_cursors` that it stands for.
    fn up_to_date<T>(&self, look: impl FnOnce(&Known) -> Result<T>) -> Result<(Offset, T)> {
        let mut next = self.next.lock().expect("no code panics inside");
        let end = self.log.committed().get();
        while *next < end {
            let frames = self.log.read(*next, READ_BYTES)?;
            let Some(last) = frames.last() else { break };
            let mut changes = Vec::new();
            for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
                for record in Batch::open(&frame.body)?.records() {
                    let record = record?;
                    if record.offset >= *next {
                        changes.push(record::decode(&record)?);
                    }
                }
            }
            let mut known = self.known.write().expect("no code panics inside");
            for (id, offset) in changes {
                match offset {
                    Some(offset) => drop(known.insert(id, offset)),
                    None => drop(known.remove(&id)),
                }
            }
            *next = last.end_offset();
        }
        let looked = look(&self.known.read().expect("no code panics inside"))?;
        Ok((*next, looked))
    }

    /// Stops holding a partition that has no cursor left.
    fn let_go(&self, of: PartitionRef) {
        let mut holds = self.holds.lock().expect("no code panics inside");
        if holds.get(&of).is_some_and(|passed| passed.needed_from().is_none()) {
            holds.remove(&of);
        }
    }
}

type Changes = Vec<(CursorId, Option<Offset>)>;

/// Whether a cursor that is at `found` may take `commit`.
fn judge(id: &CursorId, found: Option<Offset>, commit: Commit) -> Result<()> {
    let expected = match commit.expected {
        Expected::Anything => found,
        Expected::Nothing => None,
        Expected::At(offset) => Some(offset),
    };
    if expected != found {
        return Err(Error::CursorMoved { cursor: id.name().to_owned(), partition: id.of, expected, found });
    }
    match found {
        Some(found) if found > commit.offset && !commit.reset => {
            Err(Error::CursorAhead { cursor: id.name().to_owned(), partition: id.of, found, offset: commit.offset })
        }
        _ => Ok(()),
    }
}

fn proposal(changes: &Changes, snapshot: Offset) -> Result<Proposal> {
    let mut batch = BatchBuilder::new();
    let mut writes = Vec::with_capacity(changes.len());
    let timestamp = clock::now();
    for (id, offset) in changes {
        let (key, value) = record::encode(id, *offset);
        writes.push(xxhash_rust::xxh3::xxh3_64(key.as_bytes()));
        batch.push(&NewRecord { key: Some(key.as_bytes()), value: value.as_deref(), headers: &[], timestamp });
    }
    let conditions = Conditions { snapshot, reads: Vec::new(), writes };
    Ok(Proposal::from_records(batch, Compression::None)?.when(conditions).acknowledged(AckClass::Disk))
}

/// A place among the cursors, until the map has the new one or it was refused.
struct Creating<'a>(&'a AtomicUsize);

impl<'a> Creating<'a> {
    fn begin(creating: &'a AtomicUsize, known: usize, max: usize) -> Result<Self> {
        // Counted before the look at the sum: two that race both see the other.
        let others = creating.fetch_add(1, Ordering::AcqRel);
        let place = Self(creating);
        if known + others >= max { Err(Error::TooManyCursors { max }) } else { Ok(place) }
    }
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What all cursors of one partition have passed.
struct Passed {
    known: Arc<RwLock<Known>>,
    of: PartitionRef,
}

impl Holder for Passed {
    fn needed_from(&self) -> Option<Offset> {
        let known = self.known.read().expect("no code panics inside");
        known.range(CursorId::first(self.of)..).take_while(|(id, _)| id.of == self.of).map(|(_, offset)| *offset).min()
    }
}
