//! One totally ordered part of a stream: appended to by its [`owner`], read by anyone.
//!
//! [`Partition`] is the handle that doors, materializers and tests hold. It queues proposals for the owner thread and reads
//! committed frames, from RAM where they still are, from the segment files otherwise.
//!
//! # Invariants
//! `log_start <= committed <= flushed <= appended`; readers see nothing at or above `committed`.

pub mod admission;
pub(crate) mod commit;
mod compaction;
pub(crate) mod open;
mod options;
pub(crate) mod owned;
pub(crate) mod owner;
mod pipeline;
mod reader;
mod retention;
pub mod watermark;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::error::{Error, Result};
use crate::frame::batch::{BatchBuilder, Compression, Summary};
use crate::io::DiskIo;
use crate::keeper::Bell;
use crate::partition::watermark::Watermark;
use crate::ram::arena::{Arena, Evict, Evictable};
use crate::ram::tail::Tail;
use crate::segment::active::Ram;
use crate::segment::{Segment, SegmentsOf};
use crate::types::{Offset, PartitionRef, RaftIndex, TimestampMillis};

pub use admission::Conditions;
pub use options::{AckClass, Compaction, PartitionOptions, Retention};
use owner::{BATCH_BYTES_MAX, DurablePlace, Message, Offer};
pub use reader::LogReader;

/// A batch on its way into the log.
#[derive(Debug)]
pub struct Proposal {
    pub(crate) batch: Vec<u8>,
    pub(crate) summary: Summary,
    pub(crate) conditions: Option<Conditions>,
    pub(crate) ack: AckClass,
    pub(crate) keys: Vec<u64>,
}

impl Proposal {
    /// Takes a whole Kafka v2 record batch.
    ///
    /// # Errors
    /// [`Error::InvalidBatch`] when it is not one, [`Error::BatchTooLarge`] when no frame holds it.
    pub fn new(batch: Vec<u8>) -> Result<Self> {
        if batch.len() > BATCH_BYTES_MAX {
            return Err(Error::BatchTooLarge { bytes: batch.len(), max: BATCH_BYTES_MAX });
        }
        let summary = Summary::check(&batch)?;
        Ok(Self { batch, summary, conditions: None, ack: AckClass::Memory, keys: Vec::new() })
    }

    /// Takes the records of a builder, which must not be empty.
    ///
    /// # Errors
    /// [`Error::BatchTooLarge`].
    pub fn from_records(records: BatchBuilder, compression: Compression) -> Result<Self> {
        let (batch, summary) = records.finish_with_summary(compression);
        if batch.len() > BATCH_BYTES_MAX {
            return Err(Error::BatchTooLarge { bytes: batch.len(), max: BATCH_BYTES_MAX });
        }
        Ok(Self { batch, summary, conditions: None, ack: AckClass::Memory, keys: Vec::new() })
    }

    /// Lets the batch in only if the keys it touches did not change since the state it was computed from.
    #[must_use]
    pub fn when(mut self, conditions: Conditions) -> Self {
        self.conditions = Some(conditions);
        self
    }

    /// Asks for at least this class; the partition's own still applies if it is stronger.
    #[must_use]
    pub fn acknowledged(mut self, at_least: AckClass) -> Self {
        self.ack = at_least;
        self
    }

    /// Says which keys it writes, as hashes, so that later conditions see them. Needed where any proposal has conditions.
    #[must_use]
    pub fn writing(mut self, keys: Vec<u64>) -> Self {
        self.keys = keys;
        self
    }
}

/// Where a batch landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record.
    pub base_offset: Offset,
    /// Its records.
    pub count: u32,
    /// The class that was met.
    pub ack: AckClass,
    /// It was in the log already: its producer sent it again.
    pub duplicate: bool,
}

impl Appended {
    /// The offset of its last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.advance(u64::from(self.count.saturating_sub(1)))
    }

    /// The offset after its last record.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.base_offset.advance(u64::from(self.count))
    }
}

/// A proposal that was queued: resolves when it is committed or refused.
pub struct Ticket {
    partition: PartitionRef,
    reply: oneshot::Receiver<Result<Appended>>,
}

impl Ticket {
    /// Waits until the batch is committed.
    ///
    /// # Errors
    /// Why it was refused, or that the partition closed.
    pub async fn committed(self) -> Result<Appended> {
        self.reply.await.unwrap_or(Err(Error::Closed { partition: self.partition }))
    }

    /// As [`Self::committed`], for threads outside a runtime.
    ///
    /// # Errors
    /// As [`Self::committed`].
    pub fn wait(self) -> Result<Appended> {
        self.reply.blocking_recv().unwrap_or(Err(Error::Closed { partition: self.partition }))
    }
}

/// What an orderly stop knows about a partition, so that the next start need not scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanState {
    /// Which partition.
    pub partition: PartitionRef,
    /// The base offset of its newest segment.
    pub segment: Offset,
    /// Where that segment's content ends.
    pub position: u64,
    /// The offset after the last record.
    pub end_offset: Offset,
    /// The last entry, durable like all before it.
    pub raft_index: RaftIndex,
}

impl CleanState {
    /// Up to here it is quicker to read the segment than to keep its index over a stop.
    pub(crate) const SCANNED_BYTES_MAX: u64 = 16 << 10;
}

/// Whether a partition takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Reads and writes.
    Healthy,
    /// A write failed; reads only, until a restart verifies the files again.
    Poisoned(String),
    /// Records that were acknowledged can't be read back; reads of the rest only.
    Corrupt(String),
}

/// Told, without blocking, when a partition's committed offset moved.
pub trait CommitListener: Send + Sync {
    /// Something new is committed.
    fn committed(&self);
}

/// Someone who still needs old records: a view's checkpoint, a cursor. Asked before anything is dropped or rewritten, and by owner
/// threads that need memory: the answer must not wait for anything, least of all for an append.
pub trait Holder: Send + Sync {
    /// The first offset that is still needed; `None` for nothing.
    fn needed_from(&self) -> Option<Offset>;
}

/// Who holds records, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Holds back retention up to [`PartitionOptions::view_hold_bytes_max`].
    View,
    /// Holds back `consumed` retention.
    Cursor,
}

/// What the owner and the readers of a partition share.
pub(crate) struct Shared {
    pub id: PartitionRef,
    pub of: Arc<SegmentsOf>,
    pub arena: Arc<Arena>,
    options: RwLock<PartitionOptions>,
    /// How often they were changed.
    option_changes: AtomicU64,
    pub reserve_bytes: u64,
    segments: RwLock<Vec<Arc<Segment>>>,
    pub tail: Arc<RwLock<Tail>>,
    pub appended: Watermark,
    pub flushed: Watermark,
    pub committed: Watermark,
    pub reads: Reads,
    health: RwLock<Health>,
    durable_place: Mutex<DurablePlace>,
    listeners: Mutex<Vec<Weak<dyn CommitListener>>>,
    holders: Mutex<Vec<(Hold, Weak<dyn Holder>)>>,
    /// Held while the file of a sealed segment is replaced or removed.
    changing: Mutex<()>,
    /// Held while the partition is compacted; how far that is.
    compacting: Mutex<compaction::Progress>,
    /// No sealed segment is replaced or removed any more.
    closing: AtomicBool,
    listed: AtomicBool,
    bell: Arc<Bell>,
    this: Weak<Shared>,
}

/// Where reads found what they wanted.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub ram: AtomicU64,
    pub file: AtomicU64,
}

impl Shared {
    pub fn io(&self) -> &Arc<dyn DiskIo> {
        &self.of.io
    }

    pub fn options(&self) -> PartitionOptions {
        self.options.read().expect("no code panics inside").clone()
    }

    pub fn set_options(&self, options: PartitionOptions) {
        *self.options.write().expect("no code panics inside") = options;
        self.option_changes.fetch_add(1, Ordering::Release);
    }

    pub fn option_changes(&self) -> u64 {
        self.option_changes.load(Ordering::Acquire)
    }

    pub fn write_error(&self) -> Option<Error> {
        match &*self.health.read().expect("no code panics inside") {
            Health::Healthy => None,
            Health::Poisoned(reason) => Some(Error::Poisoned { partition: self.id, reason: reason.clone() }),
            Health::Corrupt(reason) => Some(Error::Damaged { partition: self.id, reason: reason.clone() }),
        }
    }

    pub fn set_health(&self, health: Health) {
        *self.health.write().expect("no code panics inside") = health;
    }

    pub fn durable_place(&self) -> DurablePlace {
        *self.durable_place.lock().expect("no code panics inside")
    }

    pub fn set_durable_place(&self, place: DurablePlace) {
        *self.durable_place.lock().expect("no code panics inside") = place;
    }

    pub fn committed(&self, to: Offset) {
        self.committed.advance(to);
        self.listeners
            .lock()
            .expect("no code panics inside")
            .retain(|listener| listener.upgrade().inspect(|listener| listener.committed()).is_some());
    }

    /// The first offset that holders of this kind need; `None` when there is no holder, or none that needs anything.
    pub fn held_from(&self, kind: Hold) -> Option<Offset> {
        let mut holders = self.holders.lock().expect("no code panics inside");
        holders.retain(|(_, holder)| holder.strong_count() > 0);
        let needed = holders.iter().filter(|(of, _)| *of == kind).filter_map(|(_, holder)| holder.upgrade()?.needed_from());
        needed.min()
    }

    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().expect("no code panics inside").clone()
    }

    pub fn log_start(&self) -> Offset {
        let segments = self.segments.read().expect("no code panics inside");
        segments.first().map_or_else(|| self.committed.get(), |first| first.base_offset)
    }

    pub fn add_segment(&self, segment: Arc<Segment>) {
        self.segments.write().expect("no code panics inside").push(segment);
        if self.options().retention.ring {
            self.bell.ring();
        }
    }

    /// Puts a segment where the one with the same base offset is.
    fn replace_segment(&self, segment: Arc<Segment>) {
        let mut segments = self.segments.write().expect("no code panics inside");
        if let Some(old) = segments.iter_mut().find(|old| old.base_offset == segment.base_offset) {
            *old = segment;
        }
    }

    /// The segment at `base_offset`, if it is still in the list.
    fn segment_at(&self, base_offset: Offset) -> Option<Arc<Segment>> {
        let segments = self.segments.read().expect("no code panics inside");
        segments.iter().find(|segment| segment.base_offset == base_offset).cloned()
    }

    /// Whoever met a retired segment waits here until the list tells of what came in its place.
    fn changed(&self) {
        drop(self.changing.lock().expect("no code panics inside"));
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Sees to it that no sealed segment is replaced or removed from here on.
    fn stop_keeping(&self) {
        self.closing.store(true, Ordering::SeqCst);
        drop(self.compacting.lock().expect("no code panics inside"));
        self.changed();
    }

    /// Takes the segment at `base_offset` out of the list.
    pub fn remove_segment(&self, base_offset: Offset) {
        self.segments.write().expect("no code panics inside").retain(|segment| segment.base_offset != base_offset);
    }

    pub fn spare_path(&self) -> PathBuf {
        self.of.dir.join("next.tmp")
    }

    /// Whether a file of `bytes` leaves the reserve free.
    pub fn check_space(&self, bytes: u64) -> Result<()> {
        let free_bytes = self.io().free_bytes(&self.of.dir)?;
        let reserve_bytes = self.reserve_bytes.saturating_add(bytes);
        if free_bytes < reserve_bytes {
            return Err(Error::NoSpace { path: self.of.dir.clone(), free_bytes, reserve_bytes });
        }
        Ok(())
    }

    pub fn ram(&self) -> Ram {
        let holder: Weak<dyn Evict> = self.this.clone();
        Ram { partition: self.id, arena: Arc::clone(&self.arena), tail: Arc::clone(&self.tail), holder }
    }
}

impl Evict for Shared {
    fn oldest(&self) -> Evictable {
        let durable = self.durable_place();
        let (birth, end) = {
            let tail = self.tail.read().expect("no code panics inside");
            match tail.oldest_birth() {
                None => return Evictable::Nothing,
                // The only chunk may be the one that is being filled: its owner gives that back.
                Some(_) if tail.len() == 1 || !tail.oldest_is_below(durable) => return Evictable::Pinned,
                Some(birth) => (birth, tail.oldest_end().unwrap_or_else(|| self.committed.get())),
            }
        };
        match self.held_from(Hold::Cursor) {
            Some(cursor) if cursor < end => Evictable::Durable(birth),
            _ => Evictable::Consumed(birth),
        }
    }

    fn evict_oldest(&self) -> bool {
        let durable = self.durable_place();
        let mut tail = self.tail.write().expect("no code panics inside");
        // Since it was asked, its owner may have let go of all but the one that is being filled.
        tail.len() > 1 && tail.drop_oldest(durable)
    }

    fn listed(&self) -> &AtomicBool {
        &self.listed
    }
}

/// The queue of an owner thread, shared by its partitions.
#[derive(Clone)]
pub(crate) struct Mailbox {
    pub queue: Sender<Message>,
    /// One permit per [`PERMIT_BYTES`] of queued batches: the bound of the queue.
    pub permits: Arc<Semaphore>,
}

/// What one permit of the queue stands for.
pub(crate) const PERMIT_BYTES: usize = 1 << 10;

/// A point-in-time picture of a partition, for people and dashboards.
#[derive(Clone, Debug, Serialize)]
pub struct PartitionStatus {
    /// First offset that is kept.
    pub log_start: Offset,
    /// Exclusive: readers see everything below.
    pub committed: Offset,
    /// Exclusive: durable here.
    pub flushed: Offset,
    /// Exclusive: offsets given out.
    pub appended: Offset,
    /// Segment files.
    pub segments: usize,
    /// Bytes of records and frames on disk; sealed segments nobody read since the start count with their whole length.
    pub bytes: u64,
    /// Segments of which at least a part is in RAM.
    pub ram_segments: usize,
    /// Chunks in RAM.
    pub ram_chunks: usize,
    /// Their bytes.
    pub ram_bytes: u64,
    /// Reads that found what they wanted in RAM.
    pub ram_hits: u64,
    /// Reads that went to a file.
    pub ram_misses: u64,
    /// Records that are committed and not durable yet; only with `ack = memory`.
    pub unflushed_records: u64,
    /// Sealed segments in which damage was found, and what.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damage: Vec<String>,
    /// Why it takes no writes, if so.
    pub read_only: Option<String>,
}

/// A handle on a partition. See the module docs.
pub struct Partition {
    shared: Arc<Shared>,
    mailbox: Mailbox,
    slot: u64,
}

impl Partition {
    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> PartitionRef {
        self.shared.id
    }

    /// Queues a batch; waits for room in the queue until `deadline`.
    ///
    /// # Errors
    /// [`Error::Throttled`] when the queue stays full, [`Error::Closed`].
    pub async fn append(&self, proposal: Proposal, deadline: Instant) -> Result<Ticket> {
        let started = crate::sys::clock::monotonic();
        let permits = Arc::clone(&self.mailbox.permits).acquire_many_owned(permits_for(&proposal));
        match tokio::time::timeout_at(deadline.into(), permits).await {
            Ok(permit) => {
                let permit = permit.map_err(|_| Error::Closed { partition: self.id() })?;
                self.enqueue(proposal, permit, started, deadline)
            }
            Err(_) => Err(Error::Throttled { partition: self.id(), waited_ms: started.elapsed().as_millis() }),
        }
    }

    /// Queues a batch if there is room right now.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn try_append(&self, proposal: Proposal) -> Result<Ticket> {
        match Arc::clone(&self.mailbox.permits).try_acquire_many_owned(permits_for(&proposal)) {
            Ok(permit) => {
                let now = crate::sys::clock::monotonic();
                self.enqueue(proposal, permit, now, now + APPEND_TIMEOUT)
            }
            Err(_) => Err(Error::Throttled { partition: self.id(), waited_ms: 0 }),
        }
    }

    fn enqueue(&self, proposal: Proposal, permit: OwnedSemaphorePermit, since: Instant, deadline: Instant) -> Result<Ticket> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Append(self.slot, Offer { proposal, reply, since, deadline, permit });
        // Permits bound the queue, so this does not block.
        self.mailbox.queue.send(message).map_err(|_| Error::Closed { partition: self.id() })?;
        Ok(Ticket { partition: self.id(), reply: answer })
    }

    /// The first offset that is kept.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.shared.log_start()
    }

    /// How far it is committed, exclusive; wait on it for new records.
    #[must_use]
    pub fn committed(&self) -> &Watermark {
        &self.shared.committed
    }

    /// How far it is durable here, exclusive.
    #[must_use]
    pub fn flushed(&self) -> Offset {
        self.shared.flushed.get()
    }

    /// Whether it takes writes.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health.read().expect("no code panics inside").clone()
    }

    /// Lets `listener` hear of commits for as long as it lives.
    pub fn listen(&self, listener: Weak<dyn CommitListener>) {
        self.shared.listeners.lock().expect("no code panics inside").push(listener);
    }

    /// Registers someone who needs old records, for as long as it lives.
    pub fn hold(&self, kind: Hold, holder: Weak<dyn Holder>) {
        self.shared.holders.lock().expect("no code panics inside").push((kind, holder));
    }

    /// How it is kept.
    #[must_use]
    pub fn options(&self) -> PartitionOptions {
        self.shared.options()
    }

    /// Changes how it is kept; the segment length counts from the next segment on.
    pub fn reconfigure(&self, options: PartitionOptions) {
        self.shared.set_options(options);
    }

    /// Waits until everything committed now is durable: with `ack = memory` it may not be yet.
    ///
    /// # Errors
    /// Why it can't become durable.
    pub fn flush(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let closed = || Error::Closed { partition: self.id() };
        self.mailbox.queue.send(Message::Flush(self.slot, reply)).map_err(|_| closed())?;
        answer.blocking_recv().unwrap_or_else(|_| Err(closed()))
    }

    /// A picture of its state.
    #[must_use]
    pub fn status(&self) -> PartitionStatus {
        let (ram_chunks, ram_bytes, ram_start) = {
            let tail = self.shared.tail.read().expect("no code panics inside");
            (tail.len(), tail.len_bytes(), tail.start())
        };
        let segments = self.shared.segments();
        let in_ram = |segment: &&Arc<Segment>| ram_start.is_some_and(|start| segment.next_base().is_none_or(|end| end > start));
        let segment_bytes = self.shared.options().segment_bytes;
        // What was not looked into since the start is full, but for the little its seal left free.
        let bytes = segments.iter().map(|segment| segment.known_bytes().unwrap_or(segment_bytes)).sum();
        PartitionStatus {
            log_start: self.log_start(),
            committed: self.shared.committed.get(),
            flushed: self.shared.flushed.get(),
            appended: self.shared.appended.get(),
            segments: segments.len(),
            bytes,
            ram_segments: segments.iter().filter(in_ram).count(),
            ram_chunks,
            ram_bytes,
            ram_hits: self.shared.reads.ram.load(Ordering::Relaxed),
            ram_misses: self.shared.reads.file.load(Ordering::Relaxed),
            unflushed_records: self.shared.flushed.get().records_until(self.shared.committed.get()),
            damage: segments.iter().filter_map(|segment| segment.damage().map(str::to_owned)).collect(),
            read_only: self.shared.write_error().map(|error| error.to_string()),
        }
    }

    /// What the keeper looks after.
    pub(crate) fn shared(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    /// Does what the keeper does by itself from time to time: drops what retention lets go at the time `now`. Gives the number of
    /// segments that went.
    ///
    /// # Errors
    /// When a footer can't be read or a file can't be removed; the next call goes on.
    pub fn retain(&self, now: TimestampMillis) -> Result<usize> {
        self.shared.retain(now)
    }

    /// Does what the keeper does by itself from time to time: compacts if the stream asks for it and enough is new. Says whether it
    /// did.
    ///
    /// # Errors
    /// When a segment can't be read or written; it and those behind it stay as they are.
    pub fn compact(&self, now: TimestampMillis) -> Result<bool> {
        Ok(self.shared.compact(now, || true)?.is_some())
    }

    /// Writes out what is queued and lets go of the partition.
    pub(crate) fn close(&self) -> Closing {
        self.shared.stop_keeping();
        let (reply, answer) = oneshot::channel();
        let sent = self.mailbox.queue.send(Message::Detach(self.slot, reply));
        Closing { answer: sent.ok().map(|()| answer) }
    }
}

/// A partition that is being closed.
pub(crate) struct Closing {
    answer: Option<oneshot::Receiver<Option<CleanState>>>,
}

impl Closing {
    /// Waits until everything is written; `None` when the next start must verify it.
    pub fn wait(self) -> Option<CleanState> {
        self.answer?.blocking_recv().ok().flatten()
    }
}

fn permits_for(proposal: &Proposal) -> u32 {
    u32::try_from(proposal.batch.len().div_ceil(PERMIT_BYTES)).expect("a batch is smaller than a frame")
}

/// How long a caller waits for room when it has no deadline of its own.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(10);
