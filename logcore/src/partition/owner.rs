//! The thread that owns partitions: it takes proposals from one bounded queue, completions from the disk from another, and lets
//! every partition that was touched do what has become possible.
//!
//! Proposals come from [`super::Partition::append`]. What arrives while writes are on their way to the disk gathers in RAM and
//! becomes the next write: there is no timer for appends that are acknowledged by the disk.
//!
//! # Concurrency
//! A partition belongs to one owner for its life. [`super::owned`] holds what an owner does for one partition.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::owned::Owned;
use super::{Appended, CleanState, Proposal};
use crate::error::Result;
use crate::frame::HEADER_BYTES;
use crate::io::DiskFile;
use crate::ram::arena::Arena;
use crate::sys::clock;
use crate::types::Offset;

/// Taken from the queue before the partitions move on.
const ROUND_BYTES_MAX: usize = 4 << 20;
/// How often partitions with something that ages are looked at.
const TICK: Duration = Duration::from_millis(20);
/// How long an owner with nothing that ages sleeps at most.
const SLEEP: Duration = Duration::from_secs(1);
/// The disk's load is measured over this time.
const MEASURE: Duration = Duration::from_millis(500);
/// From here on segments are not written with zeros ahead: that writes everything twice.
const BUSY_BYTES_PER_SECOND: u64 = 128 << 20;
/// With more partitions in use than this, an owner always leaves writing to others.
const CALM_PARTITIONS_MAX: usize = 16;

/// Where the owner tells how a proposal ended.
pub(crate) type Reply = oneshot::Sender<Result<Appended>>;

/// A proposal with who waits for it.
pub(crate) struct Offer {
    pub proposal: Proposal,
    pub reply: Reply,
    /// When it was queued.
    pub since: Instant,
    /// It is refused when it could not be taken up until then.
    pub deadline: Instant,
    pub permit: OwnedSemaphorePermit,
}

/// What reaches the owner.
pub(crate) enum Message {
    Attach(u64, Box<Owned>),
    Append(u64, Offer),
    /// Everything appended before must become durable.
    Flush(u64, oneshot::Sender<Result<()>>),
    Detach(u64, oneshot::Sender<Option<CleanState>>),
}

/// What the disk did.
pub(crate) enum Completion {
    Written {
        slot: u64,
        id: u64,
        result: Result<()>,
    },
    /// The next segment's file was made, this long.
    Prepared {
        slot: u64,
        result: Result<u64>,
    },
    /// The next segment's file got its name.
    Placed {
        slot: u64,
        base_offset: Offset,
        result: Result<Arc<dyn DiskFile>>,
    },
}

impl Completion {
    fn slot(&self) -> u64 {
        match self {
            Self::Written { slot, .. } | Self::Prepared { slot, .. } | Self::Placed { slot, .. } => *slot,
        }
    }
}

/// What a partition is told when it may move on.
pub(crate) struct Turn<'o> {
    /// The partition's, in completions.
    pub slot: u64,
    /// Where the disk says what it did.
    pub tell: &'o Sender<Completion>,
    pub now: Instant,
    /// The owner has nothing else to do.
    pub alone: bool,
    /// All partitions together write so much that every further byte is missed.
    pub disk_is_busy: bool,
    /// What was handed to the disk since the owner looked at it last.
    pub submitted_bytes: &'o Cell<u64>,
}

/// See the module docs.
pub(crate) struct Owner {
    partitions: HashMap<u64, Box<Owned>>,
    /// Partitions that heard something since they last moved on.
    touched: HashSet<u64>,
    /// Partitions with something that ages: bytes in RAM only, who waits, chunks.
    lively: HashSet<u64>,
    arena: Arc<Arena>,
    tell: Sender<Completion>,
    last_tick: Instant,
    submitted_bytes: Cell<u64>,
    /// When the disk's load was looked at.
    measured: Instant,
    disk_is_busy: bool,
}

impl Owner {
    pub fn new(arena: Arc<Arena>, tell: Sender<Completion>) -> Self {
        let now = clock::monotonic();
        Self {
            partitions: HashMap::new(),
            touched: HashSet::new(),
            lively: HashSet::new(),
            arena,
            tell,
            last_tick: now,
            submitted_bytes: Cell::new(0),
            measured: now,
            disk_is_busy: false,
        }
    }

    /// The body of an owner thread; ends when every partition handle is gone.
    pub fn run(mut self, queue: &Receiver<Message>, finished: &Receiver<Completion>) {
        loop {
            let patience = if self.lively.is_empty() { SLEEP } else { TICK };
            crossbeam_channel::select! {
                recv(queue) -> message => match message {
                    Ok(message) => self.receive(message),
                    Err(_) => return,
                },
                recv(finished) -> completion => self.complete(completion.expect("the owner holds a sender")),
                default(patience) => {}
            }
            // Whatever else has arrived joins the same writes.
            let mut budget = ROUND_BYTES_MAX;
            while budget > 0
                && let Ok(message) = queue.try_recv()
            {
                budget = budget.saturating_sub(message_bytes(&message));
                self.receive(message);
            }
            while let Ok(completion) = finished.try_recv() {
                self.complete(completion);
            }
            let now = clock::monotonic();
            if now.duration_since(self.last_tick) >= TICK {
                self.last_tick = now;
                self.touched.extend(&self.lively);
                self.arena.tidy();
                self.measure(now);
            }
            self.advance(now, queue.is_empty());
        }
    }

    fn receive(&mut self, message: Message) {
        let slot = match message {
            Message::Attach(slot, owned) => {
                self.partitions.insert(slot, owned);
                slot
            }
            Message::Append(slot, offer) => {
                // A partition that was closed while this waited in the queue: the dropped reply says so.
                if let Some(owned) = self.partitions.get_mut(&slot) {
                    owned.offer(offer);
                }
                slot
            }
            Message::Flush(slot, reply) => {
                if let Some(owned) = self.partitions.get_mut(&slot) {
                    owned.flush(reply);
                }
                slot
            }
            Message::Detach(slot, reply) => {
                match self.partitions.get_mut(&slot) {
                    Some(owned) => owned.detach(reply),
                    None => drop(reply.send(None)),
                }
                slot
            }
        };
        self.touched.insert(slot);
    }

    fn complete(&mut self, completion: Completion) {
        let slot = completion.slot();
        let Self { partitions, tell, submitted_bytes, disk_is_busy, .. } = self;
        if let Some(owned) = partitions.get_mut(&slot) {
            let (now, disk_is_busy) = (clock::monotonic(), *disk_is_busy);
            owned.complete(completion, &Turn { slot, tell, now, alone: false, disk_is_busy, submitted_bytes });
            self.touched.insert(slot);
        }
    }

    fn advance(&mut self, now: Instant, none_queued: bool) {
        let mut short_of_memory = false;
        let touched = std::mem::take(&mut self.touched);
        let alone = none_queued && touched.len() == 1 && self.is_calm();
        for slot in self.longest_waiting_first(touched) {
            short_of_memory |= self.advance_one(slot, now, alone);
        }
        if !short_of_memory {
            return;
        }
        // What is only in RAM goes to the disk and idle partitions keep nothing; then who waits for memory tries again.
        let lively = self.longest_waiting_first(self.lively.clone());
        for slot in &lively {
            let Self { partitions, tell, submitted_bytes, disk_is_busy, .. } = self;
            if let Some(owned) = partitions.get_mut(slot) {
                let (slot, disk_is_busy) = (*slot, *disk_is_busy);
                owned.relieve(&Turn { slot, tell, now, alone: false, disk_is_busy, submitted_bytes });
            }
        }
        for slot in lively {
            if self.partitions.get(&slot).is_some_and(|owned| owned.waits_for_memory()) {
                self.advance_one(slot, now, false);
            }
        }
    }

    /// Whether few partitions have anything to do, and none has a write under way whose end would have to be heard.
    fn is_calm(&self) -> bool {
        let is_writing = |slot| self.partitions.get(slot).is_some_and(|owned| owned.is_writing());
        self.lively.len() <= CALM_PARTITIONS_MAX && !self.lively.iter().any(is_writing)
    }

    fn measure(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.measured);
        if elapsed >= MEASURE {
            self.measured = now;
            let busy_bytes = u128::from(BUSY_BYTES_PER_SECOND) * elapsed.as_millis() / 1000;
            self.disk_is_busy = u128::from(self.submitted_bytes.take()) >= busy_bytes;
        }
    }

    /// Who waits for memory is served in the order of their waiting, and before those who don't.
    fn longest_waiting_first(&self, slots: HashSet<u64>) -> Vec<u64> {
        let mut slots: Vec<u64> = slots.into_iter().collect();
        let waits_since = |slot: &u64| self.partitions.get(slot).and_then(|owned| owned.waits_since());
        slots.sort_by_cached_key(|slot| waits_since(slot).map_or((true, None), |since| (false, Some(since))));
        slots
    }

    /// Lets one partition move on; whether it waits for memory.
    fn advance_one(&mut self, slot: u64, now: Instant, alone: bool) -> bool {
        let Self { partitions, tell, submitted_bytes, disk_is_busy, .. } = self;
        let Some(owned) = partitions.get_mut(&slot) else { return false };
        owned.advance(&Turn { slot, tell, now, alone, disk_is_busy: *disk_is_busy, submitted_bytes });
        let short_of_memory = owned.waits_for_memory();
        if owned.is_gone() {
            self.partitions.remove(&slot);
            self.lively.remove(&slot);
        } else if owned.is_lively() {
            self.lively.insert(slot);
        } else {
            self.lively.remove(&slot);
        }
        short_of_memory
    }
}

fn message_bytes(message: &Message) -> usize {
    match message {
        Message::Append(_, offer) => offer.proposal.batch.len(),
        _ => 1,
    }
}

/// The largest batch that fits a frame.
pub(crate) const BATCH_BYTES_MAX: usize = crate::frame::header::FRAME_BYTES_MAX - HEADER_BYTES;

/// Where everything below is durable: the base offset of a segment and a position in its file.
pub(crate) type DurablePlace = (Offset, u64);
