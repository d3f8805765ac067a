//! Crash-state replay: the power fails after every operation of recorded workloads, and whatever the disk may then hold is opened.
//!
//! A workload runs on a [`RecordDisk`] and marks each answer it gets. [`CrashStates`] makes the disks that a power failure at each
//! place of the list may leave; every one that differs from those before is opened, judged by the model in `common::history`, used
//! again, stopped, and opened once more. One of them is where the next life of the workload begins, so that recovery itself is in
//! the list too.
//!
//! `HEADWATER_TORTURE_STATES` says how many states at least (default 20,000), `HEADWATER_SEED` which workload comes first. The
//! threads are real ones, so a seed gives the same requests and the same coins, not the same list to the byte; a failure prints
//! the list's end.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::dice::{Dice, from_env, seed};
use common::history::{Records, Request, Sent, Track, Verdict, check_healthy, read_from, read_kept, sketch, take_answers};
use logcore::io::DiskIo;
use logcore::io::record::{Action, CrashState, CrashStates, Operation, RecordDisk};
use logcore::io::sim::SimDisk;
use logcore::partition::PartitionOptions;
use logcore::{AckClass, Compaction, Log, LogOptions, Partition, PartitionRef, ProducerSequence, Retention, StreamId, Ticket};

const DIR: &str = "/sim";
/// Lives of a workload, each from a crash of the one before.
const LIVES: usize = 3;

/// What a workload does.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    ack: AckClass,
    segment_bytes: u64,
    value_bytes: usize,
    requests: usize,
    /// Writes are held back and end in any order.
    held: bool,
    producers: bool,
    /// A ring and a compacted stream beside the data.
    upkeep: bool,
    /// Disks for each place of a list: none of what may be there or not, all of it, and coins. Large ones are dear.
    coins: u64,
}

const DISK: Kind = Kind {
    name: "disk",
    ack: AckClass::Disk,
    segment_bytes: 48 << 10,
    value_bytes: 1_200,
    requests: 60,
    held: false,
    producers: false,
    upkeep: false,
    coins: 12,
};

fn options() -> LogOptions {
    LogOptions {
        reserve_bytes: 0,
        verify_bytes_per_second: 0,
        memory_bytes_max: 64 << 20,
        keeper_interval: Duration::from_millis(20),
        ..LogOptions::default()
    }
}

const CURSORS: PartitionRef = PartitionRef::new(StreamId::CURSORS, 0);

fn tracks(kind: Kind) -> Vec<Track> {
    let options = PartitionOptions {
        segment_bytes: kind.segment_bytes,
        tail_chunks_max: 1,
        ack: kind.ack,
        flush_interval: Duration::from_millis(1),
        ..PartitionOptions::default()
    };
    let user = |n| PartitionRef::new(StreamId::new(n), 0);
    let mut tracks = vec![Track::new(user(20), options.clone())];
    if kind.producers {
        tracks.push(Track::new(CURSORS, PartitionOptions { ack: AckClass::Disk, ..options.clone() }));
    }
    if kind.upkeep {
        let ring = Retention { records: Some(20), ring: true, ..Retention::default() };
        let kept = Retention { records: Some(30), ..Retention::default() };
        let compaction = Some(Compaction { tombstone_grace: Duration::ZERO });
        tracks.push(Track::new(user(21), PartitionOptions { retention: ring, ..options.clone() }));
        tracks.push(Track::new(user(22), PartitionOptions { retention: kept, ..options.clone() }));
        tracks.push(Track::new(user(23), PartitionOptions { compaction, ..options }));
    }
    tracks
}

/// One life of a workload.
struct Life {
    sim: SimDisk,
    disk: RecordDisk,
    log: Log,
    partitions: Vec<Arc<Partition>>,
    kind: Kind,
    dice: Dice,
    /// The producer's next sequence in the first track.
    sequence: i32,
}

impl Life {
    fn begin(kind: Kind, mut dice: Dice, sim: SimDisk, tracks: &[Track], sequence: i32) -> Self {
        sim.set_writes_in_flight_max(dice.between(1, 5));
        let disk = RecordDisk::over(Arc::new(sim.clone()), DIR.as_ref()).unwrap();
        let log = Log::open_on(Arc::new(disk.clone()), DIR.as_ref(), options(), None).unwrap();
        let open = |track: &Track| log.open_partition_with(track.id, track.options.clone()).unwrap();
        let partitions = tracks.iter().map(open).collect();
        sim.hold_completions(kind.held);
        Self { sim, disk, log, partitions, kind, dice, sequence }
    }

    fn request(&mut self, track: &Track, number: usize, committed: u64) -> Request {
        let compacts = track.options.compaction.is_some();
        let mut records = Vec::new();
        for n in 0..self.dice.between(1, 4) {
            let key =
                if compacts { format!("key {}", self.dice.below(9)) } else { format!("{} {number} {n}", track.given_below) };
            let mut value =
                if track.id == CURSORS { format!("{committed} ") } else { format!("{key} {number} {n} ") }.into_bytes();
            let bytes = self.dice.between(20, self.kind.value_bytes);
            value.resize(value.len() + if track.id == CURSORS { 0 } else { bytes }, u8::try_from(number % 251).unwrap());
            let value = if compacts && self.dice.one_in(6) { None } else { Some(value) };
            records.push(Sent { key: key.into_bytes(), value });
        }
        let mut request = Request::new(records);
        if self.kind.ack == AckClass::Memory && self.dice.one_in(5) {
            request.ack = AckClass::Disk;
        }
        request
    }

    /// Sends the requests and waits for all the answers.
    fn run(&mut self, tracks: &mut [Track]) {
        let (tickets, coming) = crossbeam_channel::unbounded::<(usize, usize, Ticket)>();
        let answered = AtomicUsize::new(0);
        let mut asked = 0;
        let disk = self.disk.clone();
        let answers = std::thread::scope(|scope| {
            let answered = &answered;
            let waiter = scope.spawn(move || {
                let mut answers = Vec::new();
                for (track, request, ticket) in coming {
                    answers.push((track, request, ticket.wait().unwrap().base_offset.value()));
                    disk.mark(answers.len() as u64);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                answers
            });
            for number in 0..self.kind.requests {
                let at = self.dice.index(tracks.len());
                let committed = self.partitions[0].committed().get().value();
                let mut request = self.request(&tracks[at], number, committed);
                if self.kind.producers && at == 0 && self.dice.one_in(6) {
                    request.producer = Some(ProducerSequence { id: 7, epoch: 0, sequence: self.sequence });
                    self.sequence += i32::try_from(request.records.len()).unwrap();
                }
                let ticket = self.partitions[at].try_append(request.proposal()).unwrap();
                tracks[at].requests.push(request);
                tickets.send((at, tracks[at].requests.len() - 1, ticket)).unwrap();
                asked += 1;
                let patience = self.dice.below(6);
                self.wait_until(answered, asked, if patience == 0 { 0 } else { usize::try_from(patience).unwrap() - 1 });
                if !self.kind.held && self.dice.one_in(12) {
                    self.partitions[at].flush().unwrap();
                }
            }
            self.wait_until(answered, asked, 0);
            drop(tickets);
            waiter.join().unwrap()
        });
        take_answers(tracks, &answers);
        if self.kind.upkeep {
            self.await_upkeep(tracks);
        }
    }

    /// Lets held writes end, in any order, until at most `open` requests are without an answer.
    fn wait_until(&mut self, answered: &AtomicUsize, asked: usize, open: usize) {
        while asked - answered.load(Ordering::SeqCst) > open {
            if !self.sim.release_one(self.dice.roll()) {
                std::thread::yield_now();
            }
        }
    }

    /// Sees the keeper at work: the ring that grew by a segment has woken it.
    fn await_upkeep(&self, tracks: &[Track]) {
        let ring = &self.partitions[1];
        while ring.status().segments > 4 || (ring.status().segments > 1 && ring.log_start().value() == 0) {
            std::thread::yield_now();
        }
        let (compacted, sent) = (&self.partitions[3], &tracks[3]);
        let all = sent.before.len() + sent.requests.iter().map(|request| request.records.len()).sum::<usize>();
        while compacted.status().segments > 2 && read_kept(compacted).unwrap().1.len() == all {
            std::thread::yield_now();
        }
    }

    /// Ends this life, one way or the other, and gives its list.
    fn end(mut self) -> Vec<Operation> {
        if !self.dice.one_in(3) {
            return self.disk.operations();
        }
        // A clean stop, and what a start after it does.
        self.sim.hold_completions(false);
        self.sim.release(0);
        self.partitions.clear();
        self.log.close().unwrap();
        let again = Log::open_on(Arc::new(self.disk.clone()), DIR.as_ref(), options(), None).unwrap();
        let data = again.open_partition_with(tracks(self.kind)[0].id, tracks(self.kind)[0].options.clone()).unwrap();
        assert_eq!(data.health(), logcore::partition::Health::Healthy);
        self.disk.operations()
    }
}

/// Opens what a crash left, judges it, goes on with it, and opens it again.
fn check_state(disk: &SimDisk, tracks: &[Track], marked: u64, clean: bool) -> Verdict {
    let open = || Log::open_on(Arc::new(disk.clone()), DIR.as_ref(), options(), None).map_err(|error| error.to_string());
    let text = |error: logcore::Error| error.to_string();
    let log = open()?;
    let mut ends = Vec::new();
    for track in tracks {
        let partition = log.open_partition_with(track.id, track.options_as_it_is()).map_err(text)?;
        check_healthy(&partition)?;
        let (log_start, mut found) = read_kept(&partition).map_err(text)?;
        let end = partition.committed().get().value();
        let what = |why: String| format!("{}: {why}; found {:?}", track.id, sketch(&found));
        track.check(&found, log_start, end, marked).map_err(what)?;
        check_resent(track, &partition, &found, marked)?;
        let next = Request { ack: AckClass::Disk, ..Request::new(vec![Sent { key: b"next".to_vec(), value: None }]) };
        let base = partition.try_append(next.proposal()).and_then(Ticket::wait).map_err(text)?.base_offset.value();
        // What was sent again has come behind the end.
        let end = read_from(&partition, end).map_err(text)?.iter().rev().nth(1).map_or(end, |(offset, _)| offset + 1);
        track.check_next(base, end, marked)?;
        found = read_from(&partition, log_start).map_err(text)?;
        ends.push((track, log_start, found));
    }
    check_cursors(&ends)?;
    if clean {
        log.close().map_err(text)?;
    }
    drop(log);
    let survived;
    let disk = if clean {
        disk
    } else {
        survived = disk.crash(marked);
        &survived
    };
    let log = Log::open_on(Arc::new(disk.clone()), DIR.as_ref(), options(), None).map_err(text)?;
    for (track, log_start, found) in ends {
        let partition = log.open_partition_with(track.id, track.options_as_it_is()).map_err(text)?;
        check_healthy(&partition)?;
        let again = read_kept(&partition).map_err(text)?;
        ensure!(again == (log_start, found), "{}: another start finds {:?}", track.id, sketch(&again.1));
    }
    Ok(())
}

/// A batch that was answered is known when it is sent again; one that may or may not be there is there once afterwards.
fn check_resent(track: &Track, partition: &Partition, found: &[(u64, Sent)], marked: u64) -> Verdict {
    let sent =
        |request: &Request| partition.try_append(request.proposal()).and_then(Ticket::wait).map_err(|error| error.to_string());
    let known = track.answered(marked).filter(|(request, _)| request.producer.is_some());
    if let Some((request, base)) = known.max_by_key(|(request, _)| request.mark) {
        let again = sent(request)?;
        let answer = (again.base_offset.value(), again.duplicate);
        ensure!(answer == (base, true), "a batch acknowledged at {base} is appended again: {again:?}");
    }
    let open = track.requests.iter().find(|request| request.mark > marked && request.producer.is_some());
    if let Some(request) = open {
        let there = request.base.filter(|base| found.iter().any(|(offset, _)| offset == base));
        let again = sent(request)?;
        ensure!(again.duplicate == there.is_some(), "a batch at {there:?} sent again: {again:?}");
        ensure!(there.is_none_or(|there| there == again.base_offset.value()), "a batch at {there:?} sent again: {again:?}");
    }
    Ok(())
}

/// No cursor stands ahead of its data.
fn check_cursors(found: &[(&Track, u64, Records)]) -> Verdict {
    let Some((_, _, cursors)) = found.iter().find(|(track, ..)| track.id == CURSORS) else { return Ok(()) };
    let end = found[0].2.last().map_or(0, |(offset, _)| offset + 1);
    for value in cursors.iter().filter_map(|(_, sent)| sent.value.as_ref()) {
        let cursor: u64 = String::from_utf8_lossy(value).trim().parse().unwrap();
        ensure!(cursor <= end, "a cursor stands at {cursor}, the data ends at {end}");
    }
    Ok(())
}

/// What makes two states the same for a check.
fn fingerprint(disk: &SimDisk, marked: u64) -> (u64, u32, u32) {
    let (mut names, mut content) = (Vec::new(), 0);
    for path in disk.paths() {
        let raw = disk.read_small(&path).unwrap().unwrap();
        names.extend_from_slice(path.as_os_str().as_encoded_bytes());
        names.extend_from_slice(&raw.len().to_le_bytes());
        content = crc32c::crc32c_append(content, &raw);
    }
    (marked, crc32c::crc32c(&names), content)
}

/// The list's end in front of a crash, as far as a person wants to read it.
fn list_end(operations: &[Operation], upto: usize) -> String {
    let mut lines = String::new();
    for operation in &operations[upto.saturating_sub(24)..upto] {
        let line = match operation {
            Operation::Started { id, action: Action::Write { file, at, content, durability } } => {
                format!("{id} starts: write {file:?} at {at}, {} bytes, {durability:?}", content.len())
            }
            Operation::Started { id, action: Action::Found { path, .. } } => format!("{id}: found {}", path.display()),
            Operation::Started { id, action } => format!("{id} starts: {action:?}"),
            Operation::Ended { id, succeeded } => format!("{id} ends, succeeded: {succeeded}"),
            Operation::Mark(mark) => format!("answer {mark}"),
        };
        lines.push_str(&line);
        lines.push('\n');
    }
    lines
}

/// Runs one workload through its lives; gives how many different states were checked.
fn workload(kind: Kind, seed: u64) -> u64 {
    let mut dice = Dice::new(seed);
    let (mut sim, mut tracks, mut states) = (SimDisk::new(), tracks(kind), 0);
    let mut sequence = 0;
    for life in 0..LIVES {
        let mut living = Life::begin(kind, dice.other(), sim, &tracks, sequence);
        living.run(&mut tracks);
        sequence = living.sequence;
        let operations = living.end();
        let whole = tracks.iter_mut().try_for_each(Track::settle);
        whole.unwrap_or_else(|why| panic!("HEADWATER_SEED={seed}, {}, life {life}: {why}", kind.name));
        // What this life began with is there from the start.
        let is_found = |operation: &Operation| matches!(operation, Operation::Started { action: Action::Found { .. }, .. });
        let first = operations.iter().rposition(is_found).map_or(0, |last| last + 2);
        // A place in the middle, from which the next life goes on.
        let next_upto = dice.between((operations.len() / 3).max(first), operations.len());
        let next_coin = dice.below(kind.coins);
        let mut seen = HashSet::new();
        let mut next = None;
        for CrashState { upto, seed: coin, marked, disk } in CrashStates::new(&operations, kind.coins) {
            let marked = marked.unwrap_or(0);
            if upto == next_upto && coin <= next_coin {
                next = Some((disk.crash(0), marked));
            }
            if upto < first || !seen.insert(fingerprint(&disk, marked)) {
                continue;
            }
            states += 1;
            let clean = states % 2 == 0;
            if let Err(why) = check_state(&disk, &tracks, marked, clean) {
                let list = list_end(&operations, upto);
                panic!(
                    "HEADWATER_SEED={seed}, {}, life {life}, after {upto} operations, coin {coin}, {marked} answers:\n{why}\n{list}",
                    kind.name
                );
            }
        }
        let (disk, marked) = next.unwrap();
        let log = Log::open_on(Arc::new(disk.crash(0)), DIR.as_ref(), options(), None).unwrap();
        for track in &mut tracks {
            let partition = log.open_partition_with(track.id, track.options_as_it_is()).unwrap();
            let (_, found) = read_kept(&partition).unwrap();
            *track = track.go_on(found, partition.committed().get().value(), marked);
        }
        // Who produced goes on behind what is there.
        sequence = sequence_behind(&log, sequence);
        sim = disk;
    }
    states
}

/// The sequence that the producer sends next, after a crash may have lost its last batches.
fn sequence_behind(log: &Log, sequence: i32) -> i32 {
    use logcore::Error;
    let Ok(partition) = log.partition(PartitionRef::new(StreamId::new(20), 0)) else { return 0 };
    let producer = Some(ProducerSequence { id: 7, epoch: 0, sequence: sequence + 1_000 });
    let probe = Request { producer, ..Request::new(vec![Sent { key: b"probe".to_vec(), value: None }]) };
    match partition.try_append(probe.proposal()).and_then(Ticket::wait) {
        Err(Error::OutOfOrderSequence { expected, .. }) => expected,
        _ => 0,
    }
}

/// Runs these workloads with seed after seed, for at least this part of all states.
fn replay(kinds: &[Kind], percent: u64) {
    let wanted = from_env("HEADWATER_TORTURE_STATES").unwrap_or(20_000) * percent / 100;
    let (mut states, mut seed) = (0, seed());
    while states < wanted {
        for kind in kinds {
            states += workload(*kind, seed);
        }
        seed += 1;
    }
    let names: Vec<_> = kinds.iter().map(|kind| kind.name).collect();
    eprintln!("{states} crash states of {names:?}, none of which lost or invented a record; the next seed is {seed}");
}

#[test]
fn every_state_of_a_stream_on_disk_is_recovered() {
    replay(
        &[
            DISK,
            Kind { name: "producers and cursors", producers: true, ..DISK },
            Kind { name: "held", held: true, producers: true, ..DISK },
        ],
        60,
    );
}

#[test]
fn no_state_of_a_stream_in_memory_gives_an_offset_twice() {
    let memory = Kind { name: "memory", ack: AckClass::Memory, ..DISK };
    replay(&[memory, Kind { name: "memory held", held: true, ..memory }], 20);
}

#[test]
fn every_state_is_recovered_while_segments_are_dropped_and_rewritten() {
    replay(&[Kind { name: "upkeep", upkeep: true, requests: 130, coins: 4, ..DISK }], 19);
}

#[test]
fn every_state_of_writes_under_way_at_once_is_recovered() {
    replay(
        &[Kind { name: "large", held: true, segment_bytes: 2 << 20, value_bytes: 250_000, requests: 12, coins: 3, ..DISK }],
        1,
    );
}
