//! A partition in its owner's hands: admits proposals, gives out offsets, lays frames and sends them to the disk.
//!
//! Driven by [`super::owner`]: messages and completions change the state, [`Owned::advance`] does what has become possible.
//!
//! # Invariants
//! - Offsets are given out in the order of the queue, and replies in the same order.
//! - Nothing is acknowledged before its class's promise is met: in RAM for `memory`, durable for `disk`.
//! - With `memory`, no offset is given out at or above the ceiling that the last durable flush recorded.
//! - An error from a write poisons the partition: no retry, no further acknowledgement, reads go on.
//! - Frames are laid for a segment only when its file is made: a full disk refuses before anything is laid.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::admission::Admission;
use super::commit::{Commit, Progress};
use super::owner::{Completion, Offer, Reply, Turn};
use super::pipeline::{Pipeline, Submission};
use super::{AckClass, Appended, CleanState, Health, PartitionOptions, Shared};
use crate::error::{Error, Result};
use crate::frame::FrameKind;
use crate::frame::batch::{body_crc, set_place};
use crate::io::{DiskIo, Durability, Fill, Write};
use crate::segment::active::{Active, NewEntry};
use crate::segment::{Producers, Segment, SegmentEnd, SegmentMeta, Sent, Verdict};
use crate::sys::clock;
use crate::types::{Offset, Term};

/// The most that one write takes.
const WRITE_BYTES_MAX: usize = 4 << 20;
/// A second write is begun beside the first when this much has gathered, a third at twice as much, and so on: few appends share
/// one flush, many fill the disk.
const NEXT_WRITE_BYTES: usize = 256 << 10;
/// A write up to this long is done by the owner itself when nothing else waits for it.
const ALONE_BYTES_MAX: usize = 16 << 10;
/// `memory`: what is only in RAM goes to the disk when it is this much.
const SPILL_BYTES: usize = WRITE_BYTES_MAX;
/// `memory`: offsets that may be given out before the next flush has raised the ceiling.
const CEILING_AHEAD: u64 = 1 << 20;
/// A partition without appends gives its chunks back after this long.
const QUIET: Duration = Duration::from_secs(5);
/// The next segment file is made when the current one is this full.
const PREPARE_PERCENT: u64 = 50;
/// A segment that was filled in less than this, by writes as large as [`LARGE_WRITE_BYTES`]: then reserving the next is better than zeroing it.
const FAST_FILL: Duration = Duration::from_secs(2);
/// Writing this many zeros takes as long as the metadata of a write to reserved space.
const LARGE_WRITE_BYTES: u64 = 128 << 10;
/// The first segment of a partition; each next one is four times as long, up to the stream's segment length.
const FIRST_SEGMENT_BYTES: u64 = 1 << 20;
/// The next attempt after a segment file could not be made.
const RETRY: Duration = Duration::from_millis(200);

enum WaitsFor {
    Append(Reply, Appended),
    Flush(oneshot::Sender<Result<()>>),
}

/// Someone who hears when everything below `end` is durable.
struct Waiting {
    end: Offset,
    who: WaitsFor,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Waiting {
    fn answer(self, result: Result<()>) {
        match self.who {
            WaitsFor::Append(reply, appended) => drop(reply.send(result.map(|()| appended))),
            WaitsFor::Flush(reply) => drop(reply.send(result)),
        }
    }
}

/// Why the front of the stash can't be taken up.
enum Blocked {
    No,
    /// It needs a segment file of at least this length.
    Segment(u64),
    Memory,
    Ceiling,
}

enum Spare {
    None,
    Preparing,
    /// Made, this long.
    Ready(u64),
    /// It could not be made, when.
    Failed(Instant),
}

/// A partition in its owner's hands.
pub(crate) struct Owned {
    shared: Arc<Shared>,
    options: PartitionOptions,
    /// The changes that they include.
    options_seen: u64,
    active: Option<Active>,
    /// Where the log ends while no segment is active.
    end: SegmentEnd,
    /// The hash of the segment before the active one.
    previous_hash: u128,
    segment_capacity: u64,
    segment_since: Instant,
    /// Writes to the active segment's file, and their bytes.
    segment_writes: Cell<(u64, u64)>,
    term: Term,
    producers: Producers,
    admission: Admission,
    commit: Box<dyn Commit>,
    /// In the order of their ends.
    waiting: VecDeque<Waiting>,
    pipeline: Pipeline,
    stash: VecDeque<Offer>,
    blocked: Blocked,
    spare: Spare,
    /// Why the last attempt to make a segment file failed, until one succeeds.
    no_segment: Option<Error>,
    durable_ceiling: Offset,
    /// Offsets behind the end that an earlier process may have given out.
    gap: u64,
    /// Someone waits for what is only in RAM.
    flush_wanted: bool,
    /// When the oldest of what is only in RAM must go to the disk.
    flush_due: Option<Instant>,
    last_append: Instant,
    detach: Option<oneshot::Sender<Option<CleanState>>>,
    gone: bool,
}

/// How an opened partition stands.
pub(crate) struct Opened {
    /// The newest segment if it takes frames, with its capacity.
    pub active: Option<(Arc<Segment>, u64)>,
    /// Where the log ends; `position` counts in the active segment.
    pub end: SegmentEnd,
    pub previous_hash: u128,
    pub producers: Producers,
    /// The length of the newest segment, 0 when there is none.
    pub newest_bytes: u64,
}

impl Owned {
    pub fn new(shared: Arc<Shared>, opened: Opened, commit: Box<dyn Commit>) -> Self {
        let Opened { active, end, previous_hash, producers, newest_bytes } = opened;
        let (now, changes, term) = (clock::monotonic(), shared.option_changes(), end.term.next());
        let options = shared.options();
        let active = active.map(|(segment, capacity)| Active::new(segment, capacity, shared.ram(), end, term));
        Self {
            active,
            end,
            previous_hash,
            segment_capacity: newest_bytes,
            segment_since: now,
            segment_writes: Cell::default(),
            term,
            producers,
            admission: Admission::new(end.offset),
            commit,
            waiting: VecDeque::new(),
            pipeline: Pipeline::default(),
            stash: VecDeque::new(),
            blocked: Blocked::No,
            spare: Spare::None,
            no_segment: None,
            // What an earlier process promised may have been used up by it.
            durable_ceiling: end.offset,
            gap: end.offset.records_until(end.ceiling),
            flush_wanted: false,
            flush_due: None,
            last_append: now,
            detach: None,
            gone: false,
            options_seen: changes,
            options,
            shared,
        }
    }

    pub fn is_gone(&self) -> bool {
        self.gone
    }

    pub fn waits_for_memory(&self) -> bool {
        matches!(self.blocked, Blocked::Memory)
    }

    /// Since when it waits for memory.
    pub fn waits_since(&self) -> Option<Instant> {
        self.stash.front().filter(|_| self.waits_for_memory()).map(|offer| offer.since)
    }

    /// Whether time alone may change something.
    pub fn is_lively(&self) -> bool {
        let has_tail = || !self.shared.tail.read().expect("no code panics inside").is_empty();
        let has_chunk = self.active.as_ref().is_some_and(Active::has_chunk);
        !self.stash.is_empty() || self.detach.is_some() || self.flush_due.is_some() || has_chunk || has_tail()
    }

    /// Where the log ends in RAM.
    fn end(&self) -> SegmentEnd {
        self.active.as_ref().map_or(self.end, Active::end)
    }

    fn unsubmitted_bytes(&self) -> usize {
        self.active.as_ref().map_or(0, Active::unsubmitted_bytes)
    }

    /// Takes up options that were changed: an append that comes after a change is answered by it.
    fn heed_options(&mut self) {
        let changes = self.shared.option_changes();
        if changes != self.options_seen {
            (self.options, self.options_seen) = (self.shared.options(), changes);
            if self.options.ack == AckClass::Disk {
                // What was answered in RAM before is not kept there longer than any other.
                self.flush_due = None;
            }
        }
    }

    pub fn offer(&mut self, offer: Offer) {
        self.heed_options();
        if self.stash.is_empty() && matches!(self.blocked, Blocked::No) {
            self.admit(offer);
        } else {
            self.stash.push_back(offer);
        }
    }

    pub fn flush(&mut self, reply: oneshot::Sender<Result<()>>) {
        let waiting = Waiting { end: self.end().offset, who: WaitsFor::Flush(reply), _permit: None };
        if let Some(error) = self.shared.write_error() {
            waiting.answer(Err(error));
        } else if waiting.end <= self.shared.flushed.get() {
            waiting.answer(Ok(()));
        } else {
            self.wait(waiting);
        }
    }

    fn wait(&mut self, waiting: Waiting) {
        self.flush_wanted = true;
        // A batch that is sent again waits for an earlier end than the last one in line.
        let at = self.waiting.partition_point(|other| other.end <= waiting.end);
        self.waiting.insert(at, waiting);
    }

    pub fn detach(&mut self, reply: oneshot::Sender<Option<CleanState>>) {
        self.detach = Some(reply);
        self.flush_wanted = true;
    }

    /// Judges one proposal and lays it into RAM, or puts it at the front of the stash and says why in `blocked`.
    fn admit(&mut self, offer: Offer) {
        if let Some(error) = self.shared.write_error() {
            drop(offer.reply.send(Err(error)));
            return;
        }
        if let Some(conditions) = &offer.proposal.conditions
            && let Err(error) = self.admission.check(conditions)
        {
            drop(offer.reply.send(Err(error)));
            return;
        }
        let ack = self.options.ack.max(offer.proposal.ack);
        let count = offer.proposal.summary.count;
        let sent = offer.proposal.summary.producer.map(|producer| Sent::new(producer, count));
        if let Some(sent) = &sent {
            match self.producers.judge(sent) {
                Verdict::New => {}
                Verdict::Duplicate(base_offset) => {
                    let appended = Appended { base_offset, count, ack, duplicate: true };
                    return self.acknowledge(offer.reply, appended, offer.permit);
                }
                Verdict::OutOfOrder { expected } => {
                    let (partition, producer, found) = (self.shared.id, sent.id, sent.sequence);
                    drop(offer.reply.send(Err(Error::OutOfOrderSequence { partition, producer, expected, found })));
                    return;
                }
                Verdict::Fenced { epoch } => {
                    let (partition, producer) = (self.shared.id, sent.id);
                    let error = Error::FencedProducer { partition, producer, current: epoch, found: sent.epoch };
                    drop(offer.reply.send(Err(error)));
                    return;
                }
            }
        }
        match self.lay(offer, ack, sent) {
            Ok(()) => {}
            Err((offer, blocked)) => {
                self.stash.push_front(offer);
                self.blocked = blocked;
            }
        }
    }

    #[allow(clippy::result_large_err, reason = "the offer goes back where it came from")]
    fn lay(&mut self, mut offer: Offer, ack: AckClass, sent: Option<Sent>) -> Result<(), (Offer, Blocked)> {
        let bytes = offer.proposal.batch.len();
        let Some(active) = self.active.as_mut().filter(|active| active.fits(bytes, &self.producers)) else {
            let needed = Active::capacity_for(bytes, &self.producers);
            return Err((offer, Blocked::Segment(needed)));
        };
        // After an unclean stop, offsets up to the ceiling may have been seen: blank entries span them.
        while self.gap > 0 {
            let offset_span = u32::try_from(self.gap).unwrap_or(u32::MAX);
            if active.append(&NewEntry::blank(offset_span)).is_err() {
                return Err((offer, Blocked::Memory));
            }
            self.gap -= u64::from(offset_span);
        }
        let count = offer.proposal.summary.count;
        let base_offset = active.end().offset;
        let in_ram_first = self.options.ack == AckClass::Memory;
        if in_ram_first && base_offset.advance(u64::from(count)) > self.durable_ceiling {
            self.flush_wanted = true;
            active.ceiling_ahead = CEILING_AHEAD.max(u64::from(count));
            if active.unsubmitted_bytes() == 0 && self.pipeline.is_idle() && active.mark().is_err() {
                return Err((offer, Blocked::Memory));
            }
            return Err((offer, Blocked::Ceiling));
        }
        set_place(&mut offer.proposal.batch, base_offset, active.term());
        let entry = NewEntry {
            kind: FrameKind::Batch,
            offset_span: count,
            max_timestamp: offer.proposal.summary.max_timestamp,
            body: &offer.proposal.batch,
            body_crc: body_crc(&offer.proposal.batch, offer.proposal.summary.batch_crc),
        };
        if active.append(&entry).is_err() {
            return Err((offer, Blocked::Memory));
        }
        let appended = Appended { base_offset, count, ack, duplicate: false };
        if let Some(conditions) = &offer.proposal.conditions {
            self.admission.record(&conditions.writes, appended.last_offset());
        }
        self.admission.record(&offer.proposal.keys, appended.last_offset());
        if let Some(sent) = sent {
            self.producers.note(&sent, base_offset);
        }
        self.shared.appended.advance(appended.end_offset());
        self.last_append = clock::monotonic();
        if in_ram_first && self.flush_due.is_none() {
            self.flush_due = Some(self.last_append + self.options.flush_interval);
        }
        self.acknowledge(offer.reply, appended, offer.permit);
        Ok(())
    }

    /// Answers now or when the class's promise is met.
    fn acknowledge(&mut self, reply: Reply, appended: Appended, permit: OwnedSemaphorePermit) {
        let waiting = Waiting { end: appended.end_offset(), who: WaitsFor::Append(reply, appended), _permit: Some(permit) };
        if waiting.end <= self.shared.flushed.get() {
            waiting.answer(Ok(()));
        } else if appended.ack == AckClass::Memory && waiting.end <= self.durable_ceiling {
            self.publish();
            waiting.answer(Ok(()));
        } else {
            self.wait(waiting);
        }
    }

    /// Lets readers see what is committed. Nobody sees an offset at or above the ceiling before it is durable: after `disk` became
    /// `memory`, appends of before may still be on their way.
    fn publish(&mut self) {
        let flushed = self.shared.flushed.get();
        let appended = self.end().offset.min(self.durable_ceiling.max(flushed));
        let progress = Progress { appended, flushed, ack: self.options.ack };
        let committed = self.commit.committed(&progress);
        if committed > self.shared.committed.get() {
            self.shared.committed(committed);
        }
    }

    pub fn complete(&mut self, completion: Completion, turn: &Turn<'_>) {
        match completion {
            Completion::Written { id, result: Ok(()), .. } => self.written(id, turn),
            Completion::Written { result: Err(error), .. } | Completion::Placed { result: Err(error), .. } => self.poison(&error),
            Completion::Placed { base_offset, result: Ok(file), .. } => {
                if let Some(active) = self.active.as_ref().filter(|active| active.segment.base_offset == base_offset) {
                    active.segment.set_file(file);
                }
                self.pipeline.set_unplaced(None);
            }
            Completion::Prepared { result: Ok(bytes), .. } => {
                self.spare = Spare::Ready(bytes);
                self.no_segment = None;
            }
            Completion::Prepared { result: Err(error), .. } => {
                if self.no_segment.is_none() {
                    tracing::warn!(
                        partition = %self.shared.id, %error,
                        "no new segment could be made: appends that need one wait or are refused until one can be"
                    );
                }
                self.spare = Spare::Failed(clock::monotonic());
                self.no_segment = Some(error);
            }
        }
    }

    fn written(&mut self, id: u64, turn: &Turn<'_>) {
        if self.shared.write_error().is_some() {
            return;
        }
        for durable in self.pipeline.done(id) {
            // In this order: who does not find a chunk in RAM any more finds that its bytes are durable.
            self.shared.flushed.advance(durable.end.offset);
            self.shared.set_durable_place((durable.segment.base_offset, durable.end.position));
            self.durable_ceiling = self.durable_ceiling.max(durable.end.ceiling);
            if let Some(active) = &mut self.active {
                active.durable = durable.end.raft_index;
            }
            if let Some(trailer) = durable.trailer {
                let submission = self.pipeline.submit_trailer(&durable.segment, trailer);
                self.submit(submission, turn);
            }
        }
        self.publish();
        let flushed = self.shared.flushed.get();
        while self.waiting.front().is_some_and(|waiting| waiting.end <= flushed) {
            self.waiting.pop_front().into_iter().for_each(|waiting| waiting.answer(Ok(())));
        }
        self.flush_wanted = !self.waiting.is_empty() || self.detach.is_some();
        if matches!(self.blocked, Blocked::Memory | Blocked::Ceiling) {
            self.blocked = Blocked::No;
        }
        self.spill();
    }

    fn poison(&mut self, error: &Error) {
        if self.shared.write_error().is_none() {
            tracing::error!(partition = %self.shared.id, %error, "a write to the log failed: the partition takes no more writes");
            self.shared.set_health(Health::Poisoned(error.to_string()));
        }
        self.pipeline.abandon();
        if let Some(active) = &mut self.active {
            active.abandon();
        }
        // What was not durable and is not committed will never be seen; the others need the room.
        if self.shared.committed.get() <= self.shared.flushed.get() {
            self.shared.tail.write().expect("no code panics inside").clear();
        }
        self.let_go();
        self.refuse_all();
    }

    /// Lets durable chunks leave RAM beyond what the partition may keep behind the one that is being filled.
    fn spill(&self) {
        let mut tail = self.shared.tail.write().expect("no code panics inside");
        while tail.len() > self.options.tail_chunks_max.saturating_add(1) && tail.drop_oldest(self.shared.durable_place()) {}
    }

    /// Whether a write is on its way to the disk.
    pub fn is_writing(&self) -> bool {
        self.pipeline.under_way() > 0
    }

    /// Does what has become possible: take up what waited, begin the next segment, start writes, go idle.
    pub fn advance(&mut self, turn: &Turn<'_>) {
        let now = turn.now;
        self.heed_options();
        if let Some(active) = &mut self.active {
            active.ceiling_ahead = if self.options.ack == AckClass::Memory { CEILING_AHEAD } else { 0 };
        }
        if self.shared.write_error().is_some() {
            self.refuse_all();
        }
        loop {
            if let Blocked::Segment(needed) = self.blocked {
                self.begin_segment(needed, turn);
            } else if matches!(self.blocked, Blocked::Memory) {
                self.blocked = Blocked::No;
            }
            while matches!(self.blocked, Blocked::No)
                && let Some(offer) = self.stash.pop_front()
            {
                self.admit(offer);
            }
            // A segment is begun at once when its file is there.
            let ready =
                matches!((&self.spare, &self.blocked), (Spare::Ready(bytes), Blocked::Segment(needed)) if needed <= bytes);
            if !ready || self.pipeline.is_placing() {
                break;
            }
        }
        self.expire(now);
        self.write(turn);
        self.prepare_spare(turn);
        if self.shared.write_error().is_none() && now.duration_since(self.last_append) > QUIET {
            self.let_go();
            self.close_file();
        } else if self.shared.io().is_short_of_files() {
            self.close_file();
        }
        // Nothing of it may still work in the folder, which may be removed next.
        let at_rest = self.pipeline.is_idle() && !self.pipeline.is_placing() && !matches!(self.spare, Spare::Preparing);
        let settled = at_rest && self.unsubmitted_bytes() == 0 && self.stash.is_empty();
        if (settled || self.shared.write_error().is_some())
            && let Some(reply) = self.detach.take()
        {
            let _ = reply.send(self.clean_state());
            self.gone = true;
        }
    }

    /// Hands to the disk what should go now.
    fn write(&mut self, turn: &Turn<'_>) {
        if self.shared.write_error().is_some() {
            return;
        }
        let max = self.shared.io().writes_in_flight_max();
        loop {
            while let Some(submission) = self.pipeline.submit(max) {
                self.submit(submission, turn);
            }
            if self.pipeline.has_queued() || self.pipeline.under_way() >= max || !self.is_due(turn.now) {
                return;
            }
            let Some(active) = &mut self.active else { return };
            let Some(gathered) = active.gather(WRITE_BYTES_MAX) else { return };
            self.pipeline.push(&active.segment, gathered, None);
            if active.unsubmitted_bytes() == 0 {
                self.flush_due = None;
            }
        }
    }

    /// Whether what is only in RAM should go to the disk beside what is under way.
    fn is_due(&self, now: Instant) -> bool {
        let (bytes, under_way) = (self.unsubmitted_bytes(), self.pipeline.under_way());
        if bytes == 0 {
            return false;
        }
        if under_way > 0 {
            // Who was answered already gains nothing by small writes.
            let enough = if self.flush_wanted { NEXT_WRITE_BYTES << under_way.min(4) } else { SPILL_BYTES };
            return bytes >= enough;
        }
        self.flush_wanted || bytes >= SPILL_BYTES || self.flush_due.is_none_or(|due| due <= now)
    }

    fn submit(&self, submission: Submission, turn: &Turn<'_>) {
        let Submission { id, segment, at, buffers } = submission;
        let bytes: usize = buffers.iter().map(Bytes::len).sum();
        turn.submitted_bytes.set(turn.submitted_bytes.get() + bytes as u64);
        let (writes, written_bytes) = self.segment_writes.get();
        self.segment_writes.set((writes + 1, written_bytes + bytes as u64));
        let alone = turn.alone && bytes <= ALONE_BYTES_MAX && self.pipeline.under_way() == 1;
        let (slot, tell) = (turn.slot, turn.tell.clone());
        let done = move |result| drop(tell.send(Completion::Written { slot, id, result }));
        match segment.file() {
            Ok(file) => {
                let write = Write { file, at, buffers, durability: Durability::Data };
                let submit = if alone { DiskIo::submit_alone } else { DiskIo::submit };
                submit(self.shared.io().as_ref(), write, Box::new(done));
            }
            Err(error) => done(Err(error)),
        }
    }

    /// Has the next segment's file made when this one is half full, or when one is needed now.
    fn prepare_spare(&mut self, turn: &Turn<'_>) {
        let now = turn.now;
        let needed = if let Blocked::Segment(needed) = self.blocked { needed } else { 0 };
        let due = needed > 0 || self.active.as_ref().is_some_and(|active| active.used_percent() >= PREPARE_PERCENT);
        let free = match &self.spare {
            Spare::None => true,
            Spare::Preparing => false,
            Spare::Ready(bytes) => *bytes < needed,
            Spare::Failed(at) => now.duration_since(*at) >= RETRY,
        };
        // Until the last one has its name, the next would be made in the very file that becomes the active segment.
        if !due || !free || self.pipeline.is_placing() || self.shared.write_error().is_some() {
            return;
        }
        let usual = (self.segment_capacity * 4).max(FIRST_SEGMENT_BYTES).min(self.options.segment_bytes);
        let bytes = usual.max(needed).next_multiple_of(4096);
        let fast = now.duration_since(self.segment_since) < FAST_FILL && self.segment_capacity > FIRST_SEGMENT_BYTES;
        let (writes, written_bytes) = self.segment_writes.get();
        let large = written_bytes.checked_div(writes).is_some_and(|bytes| bytes >= LARGE_WRITE_BYTES);
        let fill = if fast && large || turn.disk_is_busy { Fill::Reserved } else { Fill::Zeros };
        self.spare = Spare::Preparing;
        let (shared, slot, tell) = (Arc::clone(&self.shared), turn.slot, turn.tell.clone());
        self.shared.io().run(Box::new(move || {
            let made = shared.check_space(bytes).and_then(|()| shared.io().create(&shared.spare_path(), bytes, fill));
            drop(tell.send(Completion::Prepared { slot, result: made.map(|_| bytes) }));
        }));
    }

    /// Seals the active segment, if there is one, and goes on in the file that was made ready.
    fn begin_segment(&mut self, needed: u64, turn: &Turn<'_>) {
        let now = turn.now;
        match &self.spare {
            Spare::Ready(bytes) if *bytes >= needed && !self.pipeline.is_placing() => {}
            Spare::Failed(at)
                if now.duration_since(*at) < RETRY && (self.options.ack == AckClass::Disk || self.detach.is_some()) =>
            {
                self.spare = Spare::None;
                return self.refuse_stash();
            }
            _ => return self.prepare_spare(turn),
        }
        let Spare::Ready(capacity) = self.spare else { return };
        if self.seal().is_err() {
            self.blocked = Blocked::Memory;
            return;
        }
        let base_offset = self.end.offset;
        let segment = Segment::at(&self.shared.of, base_offset);
        segment.pin();
        segment.set_meta(SegmentMeta { previous_hash: self.previous_hash, ..SegmentMeta::empty(self.end) });
        self.shared.add_segment(Arc::clone(&segment));
        let mut active = Active::new(Arc::clone(&segment), capacity, self.shared.ram(), self.end, self.term);
        active.ceiling_ahead = if self.options.ack == AckClass::Memory { CEILING_AHEAD } else { 0 };
        self.active = Some(active);
        (self.segment_capacity, self.segment_since) = (capacity, now);
        self.segment_writes.take();
        (self.spare, self.blocked) = (Spare::None, Blocked::No);
        self.pipeline.set_unplaced(Some(base_offset));
        let (shared, slot, tell) = (Arc::clone(&self.shared), turn.slot, turn.tell.clone());
        self.shared.io().run(Box::new(move || {
            let placed = shared.io().rename(&shared.spare_path(), segment.path());
            let result = placed.and_then(|()| shared.io().open(segment.path()));
            drop(tell.send(Completion::Placed { slot, base_offset, result }));
        }));
    }

    /// Ends the active segment. Without records it just makes way: the next one has the same name.
    fn seal(&mut self) -> Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if active.end().offset == active.segment.base_offset {
            if self.pipeline.is_idle() && active.unsubmitted_bytes() == 0 {
                active.segment.retire();
                self.shared.remove_segment(active.segment.base_offset);
                self.end = active.next_start();
                // Its marks go with it, and what lay at their places is not what will lie there.
                self.durable_ceiling = self.shared.flushed.get();
                self.shared.set_durable_place((active.segment.base_offset, 0));
                self.active = None;
                return Ok(());
            }
            return Err(Error::NoSegment { reason: "marks of the empty one are still on their way to the disk".into() });
        }
        let trailer = active.seal(&self.producers)?;
        self.previous_hash = active.segment.with_meta(|meta| meta.tally.hash)?;
        self.end = active.next_start();
        active.segment.followed_by(self.end.offset);
        let mut trailer = Some(trailer);
        while let Some(gathered) = active.gather(WRITE_BYTES_MAX) {
            let last = active.unsubmitted_bytes() == 0;
            self.pipeline.push(&active.segment, gathered, if last { trailer.take() } else { None });
        }
        self.active = None;
        self.flush_due = None;
        Ok(())
    }

    /// Gives all chunks back if nothing of the partition is under way.
    fn let_go(&mut self) {
        if !self.pipeline.is_idle() || self.unsubmitted_bytes() > 0 {
            return;
        }
        if let Some(active) = &mut self.active {
            active.release_chunks();
        }
        let mut tail = self.shared.tail.write().expect("no code panics inside");
        while tail.drop_oldest(self.shared.durable_place()) {}
    }

    /// Closes the active segment's file if nothing of the partition is under way; the next write opens it again.
    fn close_file(&self) {
        let at_rest = self.pipeline.is_idle() && !self.pipeline.is_placing() && self.shared.write_error().is_none();
        if let Some(active) = self.active.as_ref().filter(|_| at_rest) {
            active.segment.close_file();
        }
    }

    /// Makes what room it can for others, and for itself: a chunk that is nearly full may stand in the way of the next.
    pub fn relieve(&mut self, turn: &Turn<'_>) {
        if self.unsubmitted_bytes() > 0 && self.pipeline.under_way() == 0 {
            let wanted = std::mem::replace(&mut self.flush_wanted, true);
            self.write(turn);
            self.flush_wanted = wanted;
        } else {
            self.let_go();
        }
    }

    /// Who waited in vain until their deadline hears so.
    fn expire(&mut self, now: Instant) {
        if self.stash.iter().all(|offer| offer.deadline > now) {
            return;
        }
        let (late, stay): (VecDeque<_>, VecDeque<_>) = self.stash.drain(..).partition(|offer| offer.deadline <= now);
        self.stash = stay;
        for offer in late {
            drop(offer.reply.send(Err(self.why_late(now.duration_since(offer.since)))));
        }
        if self.stash.is_empty() {
            self.blocked = Blocked::No;
        }
    }

    fn why_late(&self, waited: Duration) -> Error {
        match (&self.blocked, &self.no_segment) {
            (Blocked::Segment(_), Some(error)) => repeat(error),
            (Blocked::Memory, _) => {
                Error::MemoryFull { partition: self.shared.id, budget_bytes: self.shared.ram().arena.budget_bytes() }
            }
            _ => Error::Throttled { partition: self.shared.id, waited_ms: waited.as_millis() },
        }
    }

    fn refuse_all(&mut self) {
        let error = || self.shared.write_error().expect("called when writes are refused");
        for waiting in self.waiting.drain(..) {
            waiting.answer(Err(error()));
        }
        for offer in self.stash.drain(..) {
            drop(offer.reply.send(Err(error())));
        }
        self.blocked = Blocked::No;
        (self.flush_wanted, self.flush_due) = (false, None);
    }

    /// Who waits for a segment file hears why there is none.
    fn refuse_stash(&mut self) {
        for offer in self.stash.drain(..) {
            let error = self.no_segment.as_ref().map_or_else(|| Error::NoSegment { reason: "it failed".into() }, repeat);
            drop(offer.reply.send(Err(error)));
        }
        self.blocked = Blocked::No;
    }

    /// What a clean stop records, unless the partition's state must be verified at the next start.
    fn clean_state(&self) -> Option<CleanState> {
        let active = self.active.as_ref().filter(|_| self.shared.write_error().is_none())?;
        let end = active.end();
        if end.position > CleanState::SCANNED_BYTES_MAX && active.segment.save_index(&self.producers).is_err() {
            return None;
        }
        Some(CleanState {
            partition: self.shared.id,
            segment: active.segment.base_offset,
            position: end.position,
            end_offset: end.offset,
            raft_index: end.raft_index,
        })
    }
}

/// The same refusal once more, for the next who waits.
fn repeat(error: &Error) -> Error {
    match error {
        Error::NoSpace { path, free_bytes, reserve_bytes } => {
            Error::NoSpace { path: path.clone(), free_bytes: *free_bytes, reserve_bytes: *reserve_bytes }
        }
        Error::Io { operation, path, source } => {
            Error::Io { operation, path: path.clone(), source: std::io::Error::new(source.kind(), source.to_string()) }
        }
        other => Error::NoSegment { reason: other.to_string() },
    }
}
