//! The thread that owns partitions: it admits proposals, gives out offsets, gathers frames and commits them in groups.
//!
//! Proposals come from [`super::Partition::append`] over one bounded queue, completions from the disk over another. While a
//! write is on its way to the disk, what arrives gathers in the chunk and becomes the next write: there is no timer.
//!
//! # Invariants
//! - Offsets are given out in the order of the queue; replies go out in the same order, after the flush.
//! - One write per partition is in flight; nothing is acknowledged before its `fdatasync` returned.
//! - An error from a write poisons the partition: no retry, no further acknowledgement, reads go on.
//! - A file takes frames only after it and its folder entry are durable.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::admission::Admission;
use super::commit::Commit;
use super::{Appended, CleanState, Health, Proposal, Shared};
use crate::error::{Error, Result};
use crate::frame::batch::set_place;
use crate::frame::{FrameKind, HEADER_BYTES};
use crate::io::{Durability, Fill, Write};
use crate::segment::active::{Active, NewEntry};
use crate::segment::{Segment, SegmentEnd, SegmentMeta};
use crate::types::Offset;

/// Gathered for one write at most; the rest of the queue waits for the next.
const WRITE_BYTES_MAX: usize = 4 << 20;
/// A partition without appends gives its chunks back after this long.
const QUIET: Duration = Duration::from_secs(5);
/// The next segment file is prepared when the current one is this full.
const PREPARE_PERCENT: u64 = 70;

/// Where the owner tells how a proposal ended.
pub(crate) type Reply = oneshot::Sender<Result<Appended>>;

/// What reaches the owner.
pub(crate) enum Message {
    Attach(u64, Box<Owned>),
    Append { slot: u64, proposal: Proposal, reply: Reply, permit: OwnedSemaphorePermit },
    Detach(u64, oneshot::Sender<Option<CleanState>>),
}

pub(crate) enum Completion {
    Written { slot: u64, end: SegmentEnd, result: Result<()> },
    Prepared { slot: u64, result: Result<()> },
}

struct Waiting {
    appended: Appended,
    reply: Reply,
    _permit: OwnedSemaphorePermit,
}

enum Spare {
    None,
    Preparing,
    Ready,
}

/// A partition in its owner's hands.
pub(crate) struct Owned {
    shared: Arc<Shared>,
    active: Active,
    admission: Admission,
    commit: Box<dyn Commit>,
    /// Appended, not yet handed to the disk.
    gathered: Vec<Waiting>,
    gathered_bytes: usize,
    /// Handed to the disk.
    in_flight: Option<Vec<Waiting>>,
    /// Waiting for a flush to make room: for the next segment, or for the next write.
    stash: VecDeque<(Proposal, Reply, OwnedSemaphorePermit)>,
    sealing: bool,
    /// No chunk could be had for the first of the stash, and nothing of this partition is under way that would free one.
    starved: Option<Error>,
    spare: Spare,
    last_append: std::time::Instant,
    detach: Option<oneshot::Sender<Option<CleanState>>>,
    gone: bool,
}

impl Owned {
    pub fn new(shared: Arc<Shared>, active: Active, commit: Box<dyn Commit>) -> Self {
        let admission = Admission::new(active.end().offset);
        Self {
            shared,
            active,
            admission,
            commit,
            gathered: Vec::new(),
            gathered_bytes: 0,
            in_flight: None,
            stash: VecDeque::new(),
            sealing: false,
            starved: None,
            spare: Spare::None,
            last_append: crate::sys::clock::monotonic(),
            detach: None,
            gone: false,
        }
    }
}

/// The body of an owner thread; ends when every partition handle is gone.
pub(crate) fn run(queue: &Receiver<Message>, finished: &Receiver<Completion>, tell: &Sender<Completion>) {
    let mut partitions: HashMap<u64, Box<Owned>> = HashMap::new();
    loop {
        crossbeam_channel::select! {
            recv(queue) -> message => match message {
                Ok(message) => receive(&mut partitions, message),
                Err(_) => return,
            },
            recv(finished) -> completion => complete(&mut partitions, completion.expect("the owner holds a sender")),
            default(Duration::from_secs(1)) => {}
        }
        // Whatever else has arrived joins the same writes.
        let mut budget = WRITE_BYTES_MAX;
        while let Ok(message) = queue.try_recv() {
            budget = budget.saturating_sub(message_bytes(&message));
            receive(&mut partitions, message);
            if budget == 0 {
                break;
            }
        }
        while let Ok(completion) = finished.try_recv() {
            complete(&mut partitions, completion);
        }
        partitions.retain(|slot, owned| {
            owned.advance(*slot, tell);
            !owned.gone
        });
        let starved: Vec<u64> = partitions.iter().filter(|(_, owned)| owned.starved.is_some()).map(|(slot, _)| *slot).collect();
        if !starved.is_empty() {
            partitions.values_mut().for_each(|owned| owned.let_go());
            for slot in starved {
                if let Some(owned) = partitions.get_mut(&slot) {
                    owned.feed(slot, tell);
                }
            }
        }
    }
}

fn message_bytes(message: &Message) -> usize {
    match message {
        Message::Append { proposal, .. } => proposal.batch.len(),
        _ => 0,
    }
}

fn receive(partitions: &mut HashMap<u64, Box<Owned>>, message: Message) {
    match message {
        Message::Attach(slot, owned) => {
            partitions.insert(slot, owned);
        }
        Message::Append { slot, proposal, reply, permit } => match partitions.get_mut(&slot) {
            Some(owned) => owned.offer(proposal, reply, permit),
            // The partition was closed while this waited in the queue: the dropped reply says so.
            None => drop(reply),
        },
        Message::Detach(slot, reply) => match partitions.get_mut(&slot) {
            Some(owned) => owned.detach = Some(reply),
            None => drop(reply.send(None)),
        },
    }
}

fn complete(partitions: &mut HashMap<u64, Box<Owned>>, completion: Completion) {
    match completion {
        Completion::Written { slot, end, result } => {
            if let Some(owned) = partitions.get_mut(&slot) {
                owned.written(&end, result);
            }
        }
        Completion::Prepared { slot, result } => {
            if let Some(owned) = partitions.get_mut(&slot) {
                // A failure shows again, with a caller to tell, when the file is needed.
                owned.spare = result.map_or(Spare::None, |()| Spare::Ready);
            }
        }
    }
}

impl Owned {
    fn offer(&mut self, proposal: Proposal, reply: Reply, permit: OwnedSemaphorePermit) {
        let waits = self.sealing || self.starved.is_some() || !self.stash.is_empty() || self.gathered_bytes >= WRITE_BYTES_MAX;
        if waits {
            self.stash.push_back((proposal, reply, permit));
        } else {
            self.admit(proposal, reply, permit);
        }
    }

    /// Judges one proposal and lays it into the chunk.
    fn admit(&mut self, mut proposal: Proposal, reply: Reply, permit: OwnedSemaphorePermit) {
        if let Some(error) = self.shared.write_error() {
            drop(reply.send(Err(error)));
            return;
        }
        if let Some(conditions) = &proposal.conditions
            && let Err(error) = self.admission.check(conditions)
        {
            drop(reply.send(Err(error)));
            return;
        }
        if !self.active.fits(proposal.batch.len()) {
            if self.active.end().position == 0 {
                let max = crate::types::index(self.shared.segment_bytes());
                drop(reply.send(Err(Error::BatchTooLarge { bytes: proposal.batch.len(), max })));
                return;
            }
            self.sealing = true;
            self.stash.push_front((proposal, reply, permit));
            return;
        }
        let base_offset = self.active.end().offset;
        set_place(&mut proposal.batch, base_offset, self.active.term());
        let entry = NewEntry {
            kind: FrameKind::Batch,
            offset_span: proposal.summary.count,
            max_timestamp: proposal.summary.max_timestamp,
            body: &proposal.batch,
        };
        if let Err(error) = self.active.append(&entry) {
            // A full RAM tier: what is on its way to the disk makes room when it is there, idle partitions when they are asked.
            self.stash.push_front((proposal, reply, permit));
            if self.in_flight.is_none() && self.gathered.is_empty() {
                self.starved = Some(error);
            }
            return;
        }
        let appended = Appended { base_offset, count: proposal.summary.count, ack: super::AckClass::Disk };
        if let Some(conditions) = &proposal.conditions {
            self.admission.record(&conditions.writes, appended.last_offset());
        }
        self.shared.appended.advance(appended.end_offset());
        self.last_append = crate::sys::clock::monotonic();
        self.gathered_bytes += proposal.batch.len();
        self.gathered.push(Waiting { appended, reply, _permit: permit });
    }

    /// Does what has become possible: start a write, finish a seal, take up what waited, go idle.
    fn advance(&mut self, slot: u64, tell: &Sender<Completion>) {
        self.prepare_spare(slot, tell);
        loop {
            if self.in_flight.is_some() {
                return;
            }
            if self.shared.write_error().is_some() {
                self.refuse_all();
            } else if !self.gathered.is_empty() {
                self.start_write(slot, tell);
                return;
            } else if self.sealing
                && let Err(error) = self.rotate()
            {
                self.refuse_stash(&error);
            }
            let Some((proposal, reply, permit)) = self.stash.pop_front() else { break };
            self.admit(proposal, reply, permit);
            while !self.sealing && self.starved.is_none() && self.gathered_bytes < WRITE_BYTES_MAX {
                let waiting = self.stash.len();
                let Some((proposal, reply, permit)) = self.stash.pop_front() else { break };
                self.admit(proposal, reply, permit);
                // Put back: there is no room before the next flush.
                if self.stash.len() == waiting {
                    break;
                }
            }
            if self.starved.is_some() {
                return;
            }
        }
        if self.last_append.elapsed() > QUIET {
            self.let_go();
        }
        if let Some(reply) = self.detach.take() {
            let _ = reply.send(self.clean_state());
            self.gone = true;
        }
    }

    /// Gives all chunks back if nothing of the partition is under way.
    fn let_go(&mut self) {
        let busy = self.in_flight.is_some() || !self.gathered.is_empty() || self.sealing;
        if busy || self.shared.write_error().is_some() {
            return;
        }
        self.active.release_chunk();
        let mut tail = self.shared.tail.write().expect("no code panics inside");
        while tail.drop_oldest(self.shared.durable_place()) {}
    }

    /// Tries again after idle partitions gave their chunks back; then there is no room, and who waits hears so.
    fn feed(&mut self, slot: u64, tell: &Sender<Completion>) {
        self.starved = None;
        self.advance(slot, tell);
        if let Some(error) = self.starved.take() {
            self.refuse_stash(&error);
        }
    }

    fn start_write(&mut self, slot: u64, tell: &Sender<Completion>) {
        let Some(gathered) = self.active.gather() else { return };
        self.in_flight = Some(std::mem::take(&mut self.gathered));
        self.gathered_bytes = 0;
        let file = match self.active.segment.file() {
            Ok(file) => file,
            Err(error) => return self.written(&gathered.end, Err(error)),
        };
        let write = Write { file, at: gathered.at, buffers: gathered.buffers, durability: Durability::Data };
        let (tell, end) = (tell.clone(), gathered.end);
        let done = Box::new(move |result| drop(tell.send(Completion::Written { slot, end, result })));
        self.shared.io.submit(write, done);
    }

    fn written(&mut self, end: &SegmentEnd, result: Result<()>) {
        let waiting = self.in_flight.take().unwrap_or_default();
        if let Err(error) = result {
            tracing::error!(partition = %self.shared.id, %error, "a write to the log failed: the partition takes no more writes");
            self.shared.set_health(Health::Poisoned(error.to_string()));
            self.active.abandon();
            for waiting in waiting.into_iter().chain(std::mem::take(&mut self.gathered)) {
                drop(waiting.reply.send(Err(self.shared.write_error().expect("just poisoned"))));
            }
            return self.refuse_all();
        }
        self.active.durable = end.raft_index;
        self.shared.set_durable_place((self.active.segment.base_offset, end.position));
        self.shared.flushed.advance(end.offset);
        let committed = self.commit.flushed(end);
        self.shared.committed(committed);
        for waiting in waiting {
            drop(waiting.reply.send(Ok(waiting.appended)));
        }
        self.spill();
    }

    /// Lets durable chunks leave RAM beyond what the partition may keep.
    fn spill(&self) {
        let mut tail = self.shared.tail.write().expect("no code panics inside");
        while tail.len() > self.shared.options().tail_chunks_max && tail.drop_oldest(self.shared.durable_place()) {}
    }

    fn refuse_all(&mut self) {
        let error = || self.shared.write_error().expect("called when writes are refused");
        for waiting in self.gathered.drain(..) {
            drop(waiting.reply.send(Err(error())));
        }
        for (_, reply, _) in self.stash.drain(..) {
            drop(reply.send(Err(error())));
        }
        (self.gathered_bytes, self.sealing) = (0, false);
    }

    /// The next segment could not be made: who waits for it hears why, and the next append tries again.
    fn refuse_stash(&mut self, error: &Error) {
        tracing::warn!(partition = %self.shared.id, %error, "what waits for a segment or for memory is refused");
        let again = |error: &Error| match error {
            Error::NoSpace { path, free_bytes, reserve_bytes } => {
                Error::NoSpace { path: path.clone(), free_bytes: *free_bytes, reserve_bytes: *reserve_bytes }
            }
            Error::MemoryFull { partition, budget_bytes } => {
                Error::MemoryFull { partition: *partition, budget_bytes: *budget_bytes }
            }
            other => Error::Poisoned { partition: self.shared.id, reason: other.to_string() },
        };
        for (_, reply, _) in self.stash.drain(..) {
            drop(reply.send(Err(again(error))));
        }
        self.sealing = false;
    }

    /// Seals the full segment and goes on in a new one. Nothing is in flight.
    fn rotate(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let base_offset = self.active.end().offset;
        self.active.make_room_for_seal()?;
        let path = shared.dir.join(Segment::file_name(base_offset));
        let made = match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::Ready => shared.io.rename(&shared.spare_path(), &path).and_then(|()| shared.io.open(&path)),
            // A spare that is still being made is left to finish and taken the next time.
            other => {
                self.spare = other;
                shared.check_space().and_then(|()| shared.io.create(&path, shared.segment_bytes(), Fill::Reserved))
            }
        };
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                // Nothing may stay under the next segment's name while the old one still takes frames.
                if let Err(stays) = shared.io.remove(&path) {
                    shared.set_health(Health::Poisoned(stays.to_string()));
                    self.active.abandon();
                }
                return Err(error);
            }
        };
        self.active.seal();
        if let Some(gathered) = self.active.gather() {
            let written = self.active.segment.file().and_then(|old| old.write(gathered.at, &gathered.buffers, Durability::Data));
            if let Err(error) = written {
                shared.set_health(Health::Poisoned(error.to_string()));
                return Err(error);
            }
        }
        self.active.segment.followed_by(base_offset);
        if let Err(error) = self.active.segment.save_meta() {
            tracing::warn!(%error, "the index file of a sealed segment was not kept; it is rebuilt when it is needed");
        }
        let segment = Segment::at(Arc::clone(&shared.io), &shared.dir, shared.id, base_offset).with_file(file);
        let end = SegmentEnd { position: 0, ..self.active.end() }.without_timestamps();
        segment.set_meta(SegmentMeta { index: crate::segment::SparseIndex::default(), end });
        let segment = Arc::new(segment);
        shared.segments.write().expect("no code panics inside").push(Arc::clone(&segment));
        let mut active = shared.active(segment, end, self.active.term());
        active.durable = end.raft_index;
        shared.set_durable_place((base_offset, 0));
        self.active = active;
        self.sealing = false;
        Ok(())
    }

    fn prepare_spare(&mut self, slot: u64, tell: &Sender<Completion>) {
        let due = self.active.used_percent() >= PREPARE_PERCENT && matches!(self.spare, Spare::None);
        if !due || self.shared.write_error().is_some() || self.shared.check_space().is_err() {
            return;
        }
        self.spare = Spare::Preparing;
        let (shared, tell) = (Arc::clone(&self.shared), tell.clone());
        self.shared.io.run(Box::new(move || {
            let result = shared.io.create(&shared.spare_path(), shared.segment_bytes(), Fill::Reserved).map(drop);
            drop(tell.send(Completion::Prepared { slot, result }));
        }));
    }

    /// What a clean stop records, unless the partition's state must be verified at the next start.
    fn clean_state(&self) -> Option<CleanState> {
        if self.shared.write_error().is_some() || self.active.segment.save_meta().is_err() {
            return None;
        }
        let end = self.active.end();
        Some(CleanState {
            partition: self.shared.id,
            segment: self.active.segment.base_offset,
            position: end.position,
            end_offset: end.offset,
            raft_index: end.raft_index,
        })
    }
}

/// The largest batch that fits a frame.
pub(crate) const BATCH_BYTES_MAX: usize = crate::frame::header::FRAME_BYTES_MAX - HEADER_BYTES;

/// Where everything below is durable: the base offset of a segment and a position in its file.
pub(crate) type DurablePlace = (Offset, u64);
