//! Cursors as users meet them: streams by name, hints, and the waiting of doors around `logcore::cursor`.
//!
//! Doors and `SHOW CURSORS` ask here. A commit runs on a thread that may block and goes on to its end when the door's client is
//! gone, so that the cursors in memory never miss what was written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use logcore::cursor::{Commit, CursorId, Cursors};
use logcore::{ErrorKind, Log, Offset, Partition, PartitionRef, Proposal, StreamId, Ticket};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::append::blocking;
use crate::catalog::StreamDef;
use crate::database::Database;
use crate::error::{Error, Result, nearest, sqlstate};

/// Changes of cursors at a time, a thread each; they share flushes. More wait their turn.
const CHANGES_MAX: usize = 64;
/// How long removing the cursors of a dropped stream may take.
const FORGET_TIMEOUT: Duration = Duration::from_secs(30);

/// A cursor and what lies before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CursorInfo {
    /// Its name.
    pub name: String,
    /// What it reads.
    pub stream: String,
    /// Which partition of it.
    pub partition: u32,
    /// The next offset to read.
    pub offset: u64,
    /// Exclusive: the partition's committed end.
    pub end_offset: u64,
    /// The first offset that is kept; above `offset` when retention was faster than the reader.
    pub log_start: u64,
    /// Records it has still to read.
    pub lag_records: u64,
}

/// The cursors of a database.
pub(crate) struct CursorStore {
    /// Why they did not open, if so: the rest serves, and nothing counts as consumed.
    cursors: Result<Arc<Cursors>>,
    turns: Arc<Semaphore>,
}

impl CursorStore {
    /// Reads `_cursors`.
    pub(crate) fn open(log: &Log) -> Self {
        let opened = log.open_partition(PartitionRef::new(StreamId::CURSORS, 0)).and_then(Cursors::open);
        let cursors = opened.map(Arc::new).map_err(|error| {
            tracing::error!(%error, "the cursors do not open; the rest serves, and nothing counts as consumed");
            Error::new(sqlstate::CANNOT_CONNECT_NOW, ErrorKind::Unavailable, format!("the cursors did not open: {error}"))
        });
        Self { cursors, turns: Arc::new(Semaphore::new(CHANGES_MAX)) }
    }

    /// Why they did not open, if so.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.cursors.as_ref().err().map(Error::message)
    }

    fn opened(&self) -> Result<&Arc<Cursors>> {
        self.cursors.as_ref().map_err(Error::clone)
    }

    /// Runs a change on a thread that may block; `work` gets the cursors and a way into their queue.
    async fn change<T, W>(&self, deadline: Instant, work: W) -> Result<logcore::Result<T>>
    where
        T: Send + 'static,
        W: FnOnce(&Cursors, &dyn Fn(Proposal) -> logcore::Result<Ticket>) -> logcore::Result<T> + Send + 'static,
    {
        let cursors = Arc::clone(self.opened()?);
        let Ok(turn) = tokio::time::timeout_at(deadline.into(), Arc::clone(&self.turns).acquire_owned()).await else {
            let message = format!("{CHANGES_MAX} changes of cursors wait for the disk already");
            return Err(Error::new(sqlstate::CONFIGURATION_LIMIT, ErrorKind::Throttled, message));
        };
        let handle = Handle::current();
        blocking(move || {
            let _turn = turn;
            let queue = |proposal| handle.block_on(cursors.log().append(proposal, deadline));
            Ok(work(&cursors, &queue))
        })
        .await
    }
}

/// One cursor as a user names it.
#[derive(Clone, Copy)]
struct Place<'a> {
    name: &'a str,
    def: &'a StreamDef,
    partition: u32,
}

impl Place<'_> {
    fn of(&self) -> PartitionRef {
        PartitionRef::new(StreamId::new(self.def.id), self.partition)
    }

    fn text(&self) -> String {
        format!("cursor \"{}\" of {}/{}", self.name, self.def.name, self.partition)
    }

    fn unknown(&self, cursors: &Cursors) -> Error {
        let error = Error::new(sqlstate::INVALID_CURSOR_NAME, ErrorKind::NotFound, format!("{} does not exist", self.text()));
        let all = cursors.list();
        let same_stream = || all.iter().map(|(id, _)| id).filter(|id| id.of.stream.value() == self.def.id);
        if let Some(other) = same_stream().find(|id| id.name() == self.name) {
            return error.hint(format!("it exists for {}/{}", self.def.name, other.of.partition));
        }
        let near = nearest(self.name, same_stream().map(CursorId::name));
        match near.or_else(|| nearest(self.name, all.iter().map(|(id, _)| id.name()))) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error,
        }
    }

    /// What the log says, in the user's words.
    fn explain(&self, error: logcore::Error) -> Error {
        let at = |offset: Option<Offset>| offset.map_or("not there".to_owned(), |offset| format!("at {offset}"));
        match error {
            logcore::Error::CursorMoved { expected, found, .. } => {
                let message = format!("{} is {}, it was expected {}", self.text(), at(found), at(expected));
                Error::new(sqlstate::SERIALIZATION_FAILURE, ErrorKind::Conflict, message)
                    .hint("another reader commits to it; give each its own cursor, or read this one again")
            }
            logcore::Error::CursorAhead { found, offset, .. } => {
                let message = format!("{} is at {found} already, {offset} would move it back", self.text());
                Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, ErrorKind::Conflict, message)
                    .hint("a commit moves forward only; a reset moves it anywhere: \"reset\": true, or --reset")
            }
            logcore::Error::OffsetOutOfRange { offset, end_offset, .. } => {
                let place = format!("{}/{}", self.def.name, self.partition);
                let message = format!("offset {offset} is beyond the end of {place}, which is {end_offset}");
                Error::invalid(message).hint("commit the next_offset of a page that was read")
            }
            error @ logcore::Error::TooManyCursors { .. } => {
                Error::from(error).hint("delete those that nobody uses; GET /v1/cursors lists them")
            }
            other => other.into(),
        }
    }
}

impl Database {
    /// Where a cursor is.
    ///
    /// # Errors
    /// Unknown cursors, streams and partitions; names that can't be one.
    pub fn cursor(&self, name: &str, stream: &str, partition: u32) -> Result<CursorInfo> {
        let catalog = self.catalog();
        let place = Place { name, def: catalog.stream(stream)?, partition };
        let log = self.partition(place.def, partition)?;
        let cursors = self.cursor_store().opened()?;
        let offset = cursors.get(&CursorId::new(name, place.of())?).ok_or_else(|| place.unknown(cursors))?;
        Ok(info(name, place.def, offset, &log))
    }

    /// All cursors, of one stream if it is named, by stream, partition and name.
    ///
    /// # Errors
    /// Unknown streams.
    pub fn cursors(&self, stream: Option<&str>) -> Result<Vec<CursorInfo>> {
        let catalog = self.catalog();
        let only = stream.map(|stream| catalog.stream(stream)).transpose()?;
        let all = self.cursor_store().opened()?.list();
        let infos = all.into_iter().filter(|(id, _)| only.is_none_or(|only| only.id == id.of.stream.value()));
        // A partition that did not open is in nobody's way here: `/readyz` names it.
        let infos = infos.filter_map(|(id, offset)| {
            Some(info(id.name(), catalog.stream_by_id(id.of.stream)?, offset, self.log().partition(id.of).ok()?.as_ref()))
        });
        Ok(infos.collect())
    }

    /// Moves or creates a cursor, durably; gives where it is.
    ///
    /// # Errors
    /// Unknown streams and partitions, names that can't be one, offsets beyond the end; a cursor that is not where it was expected
    /// or would move back; too many cursors; what the log says.
    pub async fn commit_cursor(
        &self,
        name: &str,
        stream: &str,
        partition: u32,
        commit: Commit,
        deadline: Instant,
    ) -> Result<u64> {
        let catalog = self.catalog();
        let place = Place { name, def: catalog.stream(stream)?, partition };
        let of = self.partition(place.def, partition)?;
        let name = name.to_owned();
        let committed = self
            .cursor_store()
            .change(deadline, move |cursors, queue| cursors.commit(&of, &name, commit, queue, deadline))
            .await?;
        committed.map(Offset::value).map_err(|error| place.explain(error))
    }

    /// Removes a cursor, durably; gives where it was.
    ///
    /// # Errors
    /// Unknown cursors, streams and partitions; what the log says.
    pub async fn delete_cursor(&self, name: &str, stream: &str, partition: u32, deadline: Instant) -> Result<u64> {
        let catalog = self.catalog();
        let place = Place { name, def: catalog.stream(stream)?, partition };
        self.partition(place.def, partition)?;
        let id = CursorId::new(name, place.of())?;
        let deleted = self.cursor_store().change(deadline, move |cursors, queue| cursors.delete(&id, queue, deadline)).await?;
        let was = deleted.map_err(|error| place.explain(error))?;
        match was {
            Some(was) => Ok(was.value()),
            None => Err(place.unknown(self.cursor_store().opened()?)),
        }
    }

    /// Removes the cursors of a stream that was dropped. What fails is made up for at the next start.
    pub(crate) async fn forget_cursors(&self, stream: StreamId) {
        let deadline = Instant::now() + FORGET_TIMEOUT;
        let forgotten = self.cursor_store().change(deadline, move |cursors, queue| cursors.forget(stream, queue, deadline)).await;
        if let Err(error) = forgotten.and_then(|forgotten| Ok(forgotten?)) {
            tracing::warn!(%stream, %error, "the cursors of a dropped stream stay until the next start");
        }
    }

    /// At start: lets cursors hold back retention, and removes those of streams that are gone.
    pub(crate) async fn settle_cursors(&self) {
        let Ok(cursors) = self.cursor_store().opened() else { return };
        let catalog = self.catalog();
        let of: BTreeSet<PartitionRef> = cursors.list().into_iter().map(|(id, _)| id.of).collect();
        for partition in of.iter().filter_map(|of| self.log().partition(*of).ok()) {
            cursors.hold(&partition);
        }
        let streams: BTreeSet<StreamId> = of.into_iter().map(|of| of.stream).collect();
        for gone in streams.into_iter().filter(|stream| catalog.stream_by_id(*stream).is_none()) {
            self.forget_cursors(gone).await;
        }
    }
}

fn info(name: &str, def: &StreamDef, offset: Offset, log: &Partition) -> CursorInfo {
    let (log_start, end) = (log.log_start(), log.committed().get());
    CursorInfo {
        name: name.to_owned(),
        stream: def.name.clone(),
        partition: log.id().partition.value(),
        offset: offset.value(),
        end_offset: end.value(),
        log_start: log_start.value(),
        lag_records: offset.max(log_start).records_until(end),
    }
}
