//! A simulation against a model: producers, readers, retention, rings, compaction, little memory, faults, crashes and restarts,
//! all chosen by a seed.
//!
//! The seed drives what is sent, read, held back, dropped and broken, and when the life of the log ends and how. The log's threads
//! are real ones, and so is the clock, so a seed repeats the story, not every interleaving; a failing seed is run a few times.
//!
//! `HEADWATER_TORTURE_SEEDS` says how many seeds are run (default 120), `HEADWATER_SEED` which comes first.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use common::dice::{Dice, from_env, seed};
use common::history::{Request, Sent, Track, Verdict, check_healthy, read_kept, sketch};
use logcore::frame::{Frame, FrameKind};
use logcore::io::sim::SimDisk;
use logcore::partition::{Conditions, PartitionOptions};
use logcore::sys::clock;
use logcore::{
    AckClass, Batch, Compaction, Error, Hold, Holder, Log, LogOptions, Offset, Partition, PartitionRef, ProducerSequence,
    Retention, StreamId, Ticket,
};

const DIR: &str = "/sim";
const LIVES: u64 = 4;
const AGE: Duration = Duration::from_hours(1);

/// A reader's place, held against retention.
struct Place(AtomicU64);

impl Holder for Place {
    fn needed_from(&self) -> Option<Offset> {
        Some(Offset::new(self.0.load(Ordering::SeqCst)))
    }
}

/// What is simulated of one partition.
struct Model {
    track: Track,
    place: Arc<Place>,
    /// Whether the place is a view's or a cursor's.
    hold: Hold,
    /// The last writer of each key that conditions are about, and where this life's window starts.
    writers: HashMap<u64, u64>,
    window: u64,
    sequence: i32,
    /// Nothing it refuses now ever appears.
    refused: Vec<usize>,
}

/// What producers, readers and the waiter share.
struct World {
    models: Vec<Model>,
    answers: u64,
}

fn options(dice: &mut Dice) -> PartitionOptions {
    let mut options = PartitionOptions {
        segment_bytes: [48 << 10, 64 << 10, 256 << 10][dice.index(3)],
        tail_chunks_max: dice.index(3),
        flush_interval: Duration::from_millis(dice.below(30)),
        ..PartitionOptions::default()
    };
    let bound = Some(20 + dice.below(60));
    match dice.below(9) {
        0 | 1 => options.ack = AckClass::Memory,
        2 => options.retention = Retention { records: bound, ..Retention::default() },
        3 => options.retention = Retention { records: bound, ring: true, ..Retention::default() },
        4 => options.retention = Retention { bytes: Some(100_000), ..Retention::default() },
        5 => options.retention = Retention { age: Some(AGE), ..Retention::default() },
        6 => options.retention = Retention { consumed: true, ..Retention::default() },
        7 => options.compaction = Some(Compaction { tombstone_grace: Duration::ZERO }),
        _ => {}
    }
    options
}

fn worlds(dice: &mut Dice) -> World {
    let model = |n: u32| {
        let options = options(dice);
        let hold = if options.retention.consumed { Hold::Cursor } else { Hold::View };
        let track = Track::new(PartitionRef::new(StreamId::new(20 + n / 2), n % 2), options);
        let place = Arc::new(Place(AtomicU64::new(0)));
        Model { track, place, hold, writers: HashMap::new(), window: 0, sequence: 0, refused: Vec::new() }
    };
    World { models: (0..4).map(model).collect(), answers: 0 }
}

/// Which request a record belongs to, and which of its records it is.
fn named(sent: &Sent) -> Option<(usize, u64)> {
    // The key of a compacted stream says nothing of the request, so both say it: a tombstone's in its key.
    let text = String::from_utf8_lossy(sent.value.as_deref().unwrap_or(&sent.key)).into_owned();
    let mut words = text.split(' ').skip(1);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

impl Model {
    /// A record was read in this life: it is one that was sent, at the one offset that its request has.
    fn meet(&mut self, offset: u64, sent: &Sent) -> Verdict {
        let before = self.track.before.binary_search_by_key(&offset, |(offset, _)| *offset);
        if let Ok(at) = before {
            ensure!(self.track.before[at].1 == *sent, "offset {offset} named another record before the restart");
            return Ok(());
        }
        let Some((number, n)) = named(sent) else { return Err(format!("offset {offset} holds {sent:?}")) };
        let refused = self.refused.contains(&number);
        let Some(request) = self.track.requests.get_mut(number) else { return Err(format!("offset {offset} holds {sent:?}")) };
        ensure!(!refused, "offset {offset} holds a record of request {number}, which was refused");
        ensure!(request.records.get(usize::try_from(n).unwrap()) == Some(sent), "offset {offset} holds a damaged record");
        let base = offset - n;
        ensure!(request.base.is_none_or(|known| known == base), "request {number} is at {:?} and at {base}", request.base);
        request.base = Some(base);
        Ok(())
    }

    fn request(&mut self, dice: &mut Dice, life: u64) -> Request {
        let number = self.track.requests.len();
        let compacts = self.track.options.compaction.is_some();
        let large = if dice.one_in(12) { 20_000 } else { 1_500 };
        let records = (0..dice.between(1, 5)).map(|n| {
            let tombstone = compacts && dice.one_in(8);
            let key = match (compacts, tombstone) {
                (true, false) => format!("key{}", dice.below(12)),
                _ => format!("life{life} {number} {n}"),
            };
            let mut value = format!("life{life} {number} {n} ").into_bytes();
            value.resize(value.len() + dice.between(0, large), b'.');
            Sent { key: key.into_bytes(), value: Some(value).filter(|_| !tombstone) }
        });
        let mut request = Request::new(records.collect());
        if dice.one_in(4) {
            request.ack = AckClass::Disk;
        }
        let old = self.track.options.retention.age.is_some() && dice.one_in(2);
        request.timestamp = clock::now().value() - if old { 2 * 3_600_000 } else { 0 };
        if dice.one_in(3) {
            let id = i64::try_from(life * 10).unwrap();
            request.producer = Some(ProducerSequence { id, epoch: 0, sequence: self.sequence });
            self.sequence += i32::try_from(request.records.len()).unwrap();
        }
        request
    }
}

/// One life of the log.
struct Life<'a> {
    number: u64,
    sim: SimDisk,
    log: Log,
    partitions: Vec<Arc<Partition>>,
    world: &'a Mutex<World>,
    dice: Dice,
    /// An operation was made to fail: errors may be told.
    broken: &'a AtomicBool,
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().expect("a thread that panicked ends the test")
}

/// What the waiter is given: the partition, the request, whether it was sent a second time, and its ticket.
type Waiting = (usize, usize, bool, Ticket);

impl Life<'_> {
    fn check_start(&mut self, marked: u64) -> Verdict {
        let mut world = lock(self.world);
        for (model, partition) in world.models.iter_mut().zip(&self.partitions) {
            check_healthy(partition)?;
            let (log_start, found) = read_kept(partition).map_err(|error| error.to_string())?;
            let end = partition.committed().get().value();
            let options = model.track.options.clone();
            let what = |why: String| format!("{}: {why}; {options:?} found {:?}", partition.id(), sketch(&found));
            found.iter().try_for_each(|(offset, sent)| model.meet(*offset, sent)).map_err(what)?;
            model.track.settle().map_err(what)?;
            model.track.check(&found, log_start, end, marked).map_err(what)?;
            model.check_dropped(log_start)?;
            model.check_resent(partition, marked)?;
            // What was sent again may be new, and then belongs to what is there now.
            let (_, found) = read_kept(partition).map_err(|error| error.to_string())?;
            let end = partition.committed().get().value();
            model.track = model.track.go_on(found, end, marked);
            (model.window, model.sequence) = (end, 0);
            model.writers.clear();
            model.refused.clear();
        }
        Ok(())
    }

    fn step(&mut self, tickets: &crossbeam_channel::Sender<Waiting>) -> Verdict {
        let at = self.dice.index(self.partitions.len());
        let partition = Arc::clone(&self.partitions[at]);
        match self.dice.below(24) {
            0..=11 => {
                let mut world = lock(self.world);
                let model = &mut world.models[at];
                let request = model.request(&mut self.dice, self.number);
                let proposal = request.proposal();
                model.track.requests.push(request);
                let number = model.track.requests.len() - 1;
                // Under the lock, so that the order of the list is that of the queue.
                match partition.try_append(proposal) {
                    Ok(ticket) => tickets.send((at, number, false, ticket)).unwrap(),
                    Err(_) => model.refused.push(number),
                }
            }
            12 => self.send_again(at, &partition, tickets)?,
            13 => self.conditional(at, &partition)?,
            14 | 15 => self.read(at, &partition)?,
            16 => {
                let model = &lock(self.world).models[at];
                let place = partition.committed().get().value();
                model.place.0.fetch_max(self.dice.below(place + 1), Ordering::SeqCst);
            }
            17 => self.sim.hold_completions(true),
            18 => {
                self.sim.hold_completions(false);
                self.sim.release(self.dice.roll());
            }
            19 | 20 => drop(self.sim.release_one(self.dice.roll())),
            21 if self.dice.one_in(3) => {
                self.sim.no_space_from(Some(0));
                self.broken.store(true, Ordering::SeqCst);
            }
            22 => self.sim.no_space_from(None),
            23 if self.dice.one_in(12) => {
                self.broken.store(true, Ordering::SeqCst);
                match self.dice.below(3) {
                    0 => self.sim.fail_next_sync(),
                    1 => self.sim.fail_write_after(self.dice.below(4)),
                    _ => self.sim.fail_operation(self.sim.operations() + 1 + self.dice.below(30), 5),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The last batch that a producer got an answer for, sent again.
    fn send_again(&self, at: usize, partition: &Partition, tickets: &crossbeam_channel::Sender<Waiting>) -> Verdict {
        let world = lock(self.world);
        let requests = &world.models[at].track.requests;
        let sent: Vec<_> = requests.iter().enumerate().filter(|(_, request)| request.producer.is_some()).collect();
        // Only the last five of a producer are known.
        let known = sent.iter().rev().take(5).find(|(_, request)| request.mark != u64::MAX);
        if let Some((number, request)) = known
            && let Ok(ticket) = partition.try_append(request.proposal())
        {
            tickets.send((at, *number, true, ticket)).unwrap();
        }
        Ok(())
    }

    /// An append that is refused exactly when its key was written since its snapshot.
    fn conditional(&mut self, at: usize, partition: &Partition) -> Verdict {
        self.sim.hold_completions(false);
        self.sim.release(self.dice.roll());
        self.sim.no_space_from(None);
        let (key, snapshot, number, conflict, proposal) = {
            let mut world = lock(self.world);
            let model = &mut world.models[at];
            if model.window == u64::MAX {
                return Ok(());
            }
            let mut request = model.request(&mut self.dice, self.number);
            if let Some(producer) = request.producer.take() {
                model.sequence = producer.sequence;
            }
            let key = self.dice.below(4);
            let end = partition.committed().get().value();
            let snapshot = end - self.dice.below(20).min(end);
            let too_old = snapshot < model.window;
            let conflict = too_old || model.writers.get(&key).is_some_and(|last| *last >= snapshot);
            let proposal = request.proposal();
            model.track.requests.push(request);
            (key, snapshot, model.track.requests.len() - 1, conflict, proposal)
        };
        let conditions = Conditions { snapshot: Offset::new(snapshot), reads: Vec::new(), writes: vec![key] };
        let answer = partition.try_append(proposal.when(conditions)).and_then(Ticket::wait);
        let mut world = lock(self.world);
        world.answers += 1;
        let mark = world.answers;
        let model = &mut world.models[at];
        match answer {
            Ok(appended) => {
                ensure!(!conflict, "a change of key {key} at snapshot {snapshot} was let in: {:?}", model.writers);
                let request = &mut model.track.requests[number];
                let base = appended.base_offset.value();
                ensure!(request.base.is_none_or(|seen| seen == base), "read at {:?}, answered {base}", request.base);
                (request.base, request.mark) = (Some(base), mark);
                model.writers.insert(key, appended.last_offset().value());
            }
            Err(Error::Conflict { .. } | Error::SnapshotTooOld { .. }) => {
                ensure!(conflict, "a change of key {key} at snapshot {snapshot} was refused: {:?}", model.writers);
                model.refused.push(number);
            }
            // Whether its key was written is known no more.
            Err(_) => model.window = u64::MAX,
        }
        Ok(())
    }

    fn read(&mut self, at: usize, partition: &Arc<Partition>) -> Verdict {
        let (start, end) = (partition.log_start().value(), partition.committed().get().value());
        if start >= end {
            return Ok(());
        }
        let from = start + self.dice.below(end - start);
        let frames = if self.dice.one_in(2) {
            partition.read(Offset::new(from), self.dice.between(1, 100_000))
        } else {
            partition.reader(Offset::new(from)).read(self.dice.between(1, 100_000))
        };
        self.judge(at, partition, from, frames)
    }

    fn judge(&self, at: usize, partition: &Partition, from: u64, frames: logcore::Result<Vec<Frame>>) -> Verdict {
        judge(&mut lock(self.world).models[at], partition, from, frames, self.broken.load(Ordering::SeqCst))
    }
}

/// What a reader got from `from` on.
fn judge(model: &mut Model, partition: &Partition, from: u64, frames: logcore::Result<Vec<Frame>>, broken: bool) -> Verdict {
    let frames = match frames {
        Ok(frames) => frames,
        Err(Error::OffsetOutOfRange { .. }) if from < partition.log_start().value() => return Ok(()),
        // Dropped or replaced again and again.
        Err(Error::Retired { .. }) => return Ok(()),
        Err(Error::Io { .. }) if broken => return Ok(()),
        Err(error) => return Err(format!("{}: reading from {from}: {error}", partition.id())),
    };
    let mut next = None;
    for frame in &frames {
        ensure!(
            next.is_none_or(|next| next == frame.header.base_offset),
            "{}: {next:?} is followed by {:?}",
            partition.id(),
            frame.header
        );
        next = Some(frame.end_offset());
        if frame.header.kind == FrameKind::Batch {
            let batch = Batch::open(&frame.body).map_err(|error| error.to_string())?;
            for record in batch.records() {
                let record = record.map_err(|error| error.to_string())?;
                let sent = Sent { key: record.key.unwrap_or_default().to_vec(), value: record.value.map(<[u8]>::to_vec) };
                model.meet(record.offset.value(), &sent)?;
            }
        }
    }
    Ok(())
}

impl Model {
    /// Nothing went that a holder needed, nor what was too young.
    fn check_dropped(&self, log_start: u64) -> Verdict {
        let retention = &self.track.options.retention;
        let place = self.place.0.load(Ordering::SeqCst);
        let held = !retention.ring && *retention != Retention::default();
        ensure!(!held || log_start <= place, "{}: {place} is needed, the log starts at {log_start}", self.track.id);
        let limit = clock::now().value() - i64::try_from(AGE.as_millis()).unwrap();
        let young = self.track.requests.iter().find(|request| {
            retention.age.is_some() && request.timestamp >= limit && request.base.is_some_and(|base| base < log_start)
        });
        ensure!(young.is_none(), "{}: the log starts at {log_start}, {young:?} is gone too early", self.track.id);
        Ok(())
    }

    /// In the next life the last batch of a producer that was acknowledged by the disk is still known.
    fn check_resent(&self, partition: &Partition, marked: u64) -> Verdict {
        let sent: Vec<_> = self.track.requests.iter().filter(|request| request.producer.is_some()).collect();
        let safe = |request: &&&Request| {
            request.mark <= marked && self.track.options.ack.max(request.ack) == AckClass::Disk && request.base.is_some()
        };
        let Some(request) = sent.iter().rev().take(5).find(safe) else { return Ok(()) };
        let again = partition.try_append(request.proposal()).and_then(Ticket::wait);
        let known = again.as_ref().is_ok_and(|again| again.duplicate && Some(again.base_offset.value()) == request.base);
        let list = || sent.iter().map(|sent| (sent.producer.unwrap().sequence, sent.base, sent.mark)).collect::<Vec<_>>();
        ensure!(
            known,
            "{}: of {:?} (sequence, offset, mark) {:?} is sent again: {again:?}",
            self.track.id,
            list(),
            request.producer
        );
        Ok(())
    }
}

/// Takes the answers in the order they come, and counts them.
fn wait(world: &Mutex<World>, coming: crossbeam_channel::Receiver<Waiting>) -> Verdict {
    for (at, number, again, ticket) in coming {
        let answer = ticket.wait();
        let mut world = lock(world);
        world.answers += 1;
        let mark = world.answers;
        let model = &mut world.models[at];
        let request = &mut model.track.requests[number];
        match answer {
            Ok(appended) => {
                let base = appended.base_offset.value();
                ensure!(request.base.is_none_or(|known| known == base), "{:?} is answered as {appended:?}", request.base);
                ensure!(appended.duplicate == again, "sent again: {again}, but {appended:?}");
                request.base = Some(base);
                request.mark = request.mark.min(mark);
            }
            Err(_) if again => {}
            // It may be there all the same.
            Err(Error::Poisoned { .. } | Error::Closed { .. }) => {}
            Err(error) => {
                ensure!(request.base.is_none(), "a record that was read at {:?} is refused: {error}", request.base);
                // Its producer's next batch does not follow any more.
                model.refused.push(number);
            }
        }
    }
    Ok(())
}

/// Reads here and there until told to stop.
fn read_on(
    world: &Mutex<World>,
    partitions: &[Arc<Partition>],
    mut dice: Dice,
    stop: &AtomicBool,
    broken: &AtomicBool,
) -> Verdict {
    let mut readers: Vec<_> = partitions.iter().map(|partition| partition.reader(partition.log_start())).collect();
    while !stop.load(Ordering::SeqCst) {
        let at = dice.index(readers.len());
        let from = readers[at].next_offset().value();
        let frames = readers[at].read(dice.between(1, 60_000));
        if frames.is_err() || dice.one_in(20) {
            readers[at] = partitions[at].reader(partitions[at].log_start());
        }
        judge(&mut lock(world).models[at], &partitions[at], from, frames, broken.load(Ordering::SeqCst))?;
        std::thread::yield_now();
    }
    Ok(())
}

/// How a life ended, and what is left of its disk.
fn live(number: u64, sim: SimDisk, world: &Mutex<World>, dice: &mut Dice, marked: u64) -> Result<(SimDisk, u64), String> {
    sim.set_writes_in_flight_max(dice.between(1, 5));
    sim.short_writes(Some(dice.roll()).filter(|seed| seed % 3 == 0));
    let options = LogOptions {
        memory_bytes_max: [3 << 20, 6 << 20, 64 << 20][dice.index(3)],
        owners: dice.between(1, 3),
        reserve_bytes: 0,
        keeper_interval: Duration::from_millis(5),
        verify_bytes_per_second: 64 << 20,
        ..LogOptions::default()
    };
    let log = Log::open_on(Arc::new(sim.clone()), DIR.as_ref(), options, None).map_err(|error| error.to_string())?;
    let mut partitions = Vec::new();
    for model in &lock(world).models {
        // Who holds records says so before anything may be dropped.
        let partition =
            log.open_partition_with(model.track.id, model.track.options_as_it_is()).map_err(|error| error.to_string())?;
        let place: Weak<dyn Holder> = Arc::downgrade(&model.place) as Weak<dyn Holder>;
        partition.hold(model.hold, place);
        partitions.push(partition);
    }
    let broken = AtomicBool::new(false);
    let mut life = Life { number, sim: sim.clone(), log, partitions, world, dice: dice.other(), broken: &broken };
    life.check_start(marked)?;
    for (model, partition) in lock(world).models.iter().zip(&life.partitions) {
        partition.reconfigure(model.track.options.clone());
    }
    let (tickets, coming) = crossbeam_channel::unbounded();
    let stop = AtomicBool::new(false);
    let reading = life.partitions.clone();
    let reader_dice = dice.other();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(world, coming));
        let reader = scope.spawn(|| read_on(world, &reading, reader_dice, &stop, &broken));
        let steps = 50 + dice.below(350);
        let stepped = (0..steps).try_for_each(|_| life.step(&tickets));
        // The answers so far were given before the power failed; what is answered from here on is not counted.
        let ended = {
            let world = lock(world);
            let clean = !broken.load(Ordering::SeqCst) && dice.one_in(4);
            match dice.below(2) {
                _ if clean => None,
                0 => Some((sim.crash(dice.roll()), world.answers)),
                _ => Some((sim.killed(dice.roll()), world.answers)),
            }
        };
        stop.store(true, Ordering::SeqCst);
        let read = reader.join().unwrap();
        sim.no_space_from(None);
        sim.hold_completions(false);
        sim.release(dice.roll());
        drop(tickets);
        if ended.is_none() {
            let waited = waiter.join().unwrap();
            stepped.and(read).and(waited)?;
            life.partitions.clear();
            life.log.close().map_err(|error| error.to_string())?;
            let mut world = lock(world);
            // An orderly stop loses nothing that was answered.
            let requests = world.models.iter_mut().flat_map(|model| &mut model.track.requests);
            requests.for_each(|request| request.ack = AckClass::Disk);
            return Ok((sim.crash(0), world.answers));
        }
        drop(life);
        waiter.join().unwrap().and(stepped).and(read)?;
        Ok(ended.expect("it was looked at above"))
    })
}

fn simulate(seed: u64) -> Verdict {
    let mut dice = Dice::new(seed);
    let world = Mutex::new(worlds(&mut dice));
    let (mut sim, mut marked) = (SimDisk::new(), 0);
    for number in 1..=LIVES {
        (sim, marked) = live(number, sim, &world, &mut dice, marked).map_err(|why| format!("in life {number}: {why}"))?;
    }
    // The last life is judged by one more.
    live(LIVES + 1, sim, &world, &mut dice, marked).map(drop)
}

#[test]
fn the_log_keeps_its_promises_whatever_happens() {
    let (first, seeds) = (seed(), from_env("HEADWATER_TORTURE_SEEDS").unwrap_or(120));
    for seed in first..first + seeds {
        simulate(seed).unwrap_or_else(|why| panic!("HEADWATER_SEED={seed}: {why}"));
    }
    eprintln!("{seeds} seeds from {first} on, {} lives each", LIVES + 1);
}
