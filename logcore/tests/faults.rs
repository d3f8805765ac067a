//! Faults of the disk at every operation: EIO, a failed sync, a full disk. What is acknowledged stays, nothing is acknowledged that
//! failed, nothing that failed is tried again, reads go on, and who can take writes again does so without help.
//!
//! A workload over a stream, a ring and a compacted stream is run as often as it has operations, each time with another one
//! failing, then with another seed, until `HEADWATER_TORTURE_FAULTS` (default 2,000) operations have failed in each way. After
//! each run the log is opened three times: after a power failure that keeps only what the disk promised; by the next process, which
//! reads what the one before wrote whether it is on the medium or not; and after a power failure that hits that one.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::dice::{Dice, from_env, seed};
use common::history::{Request, Sent, Track, Verdict, check_healthy, read_kept, sketch};
use logcore::io::record::{Action, Operation, RecordDisk, crash_state};
use logcore::io::sim::SimDisk;
use logcore::partition::{Health, PartitionOptions};
use logcore::{Compaction, Error, ErrorKind, Log, LogOptions, Partition, PartitionRef, Retention, StreamId, Ticket};

const DIR: &str = "/sim";
const STEPS: usize = 40;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// One operation, with this error number.
    Once(u64, i32),
    /// The sync of the write at or after this operation: the pages are clean afterwards and not on the medium.
    Sync(u64),
    /// There is no space from this operation on, until a few appends have been refused.
    Full(u64),
}

impl Fault {
    fn at(self) -> u64 {
        match self {
            Self::Once(at, _) | Self::Sync(at) | Self::Full(at) => at,
        }
    }
}

/// How a run went.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// The operation was reached.
    reached: bool,
    /// Partitions that take no more writes.
    poisoned: usize,
    /// Appends that were refused for want of space.
    refused: usize,
}

fn options() -> LogOptions {
    LogOptions {
        reserve_bytes: 0,
        verify_bytes_per_second: 0,
        keeper_interval: Duration::from_millis(10),
        memory_bytes_max: 64 << 20,
        ..LogOptions::default()
    }
}

fn tracks() -> Vec<Track> {
    let user = |n| PartitionRef::new(StreamId::new(n), 0);
    let options = PartitionOptions { segment_bytes: 48 << 10, tail_chunks_max: 1, ..PartitionOptions::default() };
    let ring = Retention { records: Some(8), ring: true, ..Retention::default() };
    let compaction = Some(Compaction { tombstone_grace: Duration::ZERO });
    vec![
        Track::new(user(20), options.clone()),
        Track::new(user(21), PartitionOptions { retention: ring, ..options.clone() }),
        Track::new(user(22), PartitionOptions { compaction, ..options }),
    ]
}

struct Run {
    sim: SimDisk,
    disk: RecordDisk,
    log: Log,
    partitions: Vec<Arc<Partition>>,
    tracks: Vec<Track>,
    /// Where each partition's next record goes.
    next: Vec<u64>,
    fenced: BTreeSet<usize>,
    outcome: Outcome,
    dice: Dice,
}

impl Run {
    /// `None` when the fault kept the log from opening: then there is nothing to lose.
    fn begin(seed: u64, fault: Fault) -> Option<Self> {
        let sim = SimDisk::new();
        match fault {
            Fault::Once(at, errno) => sim.fail_operation(at, errno),
            Fault::Full(at) => sim.no_space_from(Some(at)),
            Fault::Sync(_) => {}
        }
        sim.set_writes_in_flight_max(usize::try_from(seed % 4).unwrap() + 1);
        let disk = RecordDisk::new(Arc::new(sim.clone()));
        let log = Log::open_on(Arc::new(disk.clone()), DIR.as_ref(), options(), None).ok()?;
        let tracks = tracks();
        let open = |track: &Track| log.open_partition_with(track.id, track.options.clone()).ok();
        let partitions = tracks.iter().map(open).collect::<Option<Vec<_>>>()?;
        let (next, dice, fenced) = (vec![0; tracks.len()], Dice::new(seed), BTreeSet::new());
        Some(Self { sim, disk, log, partitions, tracks, next, fenced, outcome: Outcome::default(), dice })
    }

    fn request(&mut self, at: usize, step: usize) -> Request {
        let key = if at == 2 { format!("key {}", self.dice.below(5)) } else { format!("key {step}") };
        let mut value = format!("{at} {step} ").into_bytes();
        value.resize(self.dice.between(20, 3_000), u8::try_from(step).unwrap());
        Request::new(vec![Sent { key: key.into_bytes(), value: Some(value) }; self.dice.between(1, 3)])
    }

    fn step(&mut self, step: usize) -> Verdict {
        let at = self.dice.index(self.tracks.len());
        let requests: Vec<Request> = (0..self.dice.between(1, 3)).map(|_| self.request(at, step)).collect();
        let partition = &self.partitions[at];
        let tickets: Vec<_> = requests.iter().map(|request| partition.try_append(request.proposal()).unwrap()).collect();
        let was_fenced = self.fenced.contains(&at);
        for (mut request, ticket) in requests.into_iter().zip(tickets) {
            match ticket.wait() {
                Ok(appended) => {
                    ensure!(!self.fenced.contains(&at), "{} is fenced and acknowledges", self.tracks[at].id);
                    ensure!(appended.base_offset.value() == self.next[at], "{appended:?} follows {}", self.next[at]);
                    (request.base, request.mark) = (Some(self.next[at]), 1);
                    self.next[at] += request.records.len() as u64;
                }
                Err(Error::Poisoned { .. }) => {
                    self.fenced.insert(at);
                    // What failed may be there later, whole, where it would have been; what came after it never.
                    request.base = Some(self.next[at]).filter(|_| !was_fenced);
                    self.next[at] += request.records.len() as u64;
                }
                Err(error) => {
                    ensure!(!self.fenced.contains(&at), "{} is fenced and says {error}", self.tracks[at].id);
                    let known = matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Unavailable);
                    ensure!(known, "{} refuses: {error}", self.tracks[at].id);
                    self.outcome.refused += 1;
                }
            }
            self.tracks[at].requests.push(request);
        }
        Ok(())
    }

    /// Everything acknowledged can be read, whatever happened.
    fn check_reads(&self) -> Verdict {
        for (track, partition) in self.tracks.iter().zip(&self.partitions) {
            // The operation that fails may be one of a read.
            let read = read_kept(partition).or_else(|_| read_kept(partition));
            let (log_start, found) = read.map_err(|error| format!("reads don't go on: {error}"))?;
            let end = partition.committed().get().value();
            let mut track = track.clone();
            track.settle()?;
            track.check(&found, log_start, end, 1).map_err(|why| format!("{}: {why}; found {:?}", track.id, sketch(&found)))?;
        }
        Ok(())
    }

    /// Nothing succeeds on a file after a write or a sync of it failed, and no sync is begun.
    fn check_list(&self) -> Verdict {
        let operations = self.disk.operations();
        let mut failed = BTreeSet::new();
        let mut under_way = std::collections::BTreeMap::new();
        for operation in &operations {
            match operation {
                Operation::Started { id, action } => {
                    let file = match action {
                        Action::Write { file, .. } | Action::ZeroFrom { file, .. } => *file,
                        Action::Sync { file } => {
                            ensure!(!failed.contains(file), "a sync of {file:?} is begun after one failed");
                            *file
                        }
                        _ => continue,
                    };
                    under_way.insert(*id, file);
                }
                Operation::Ended { id, succeeded } => {
                    let Some(file) = under_way.remove(id) else { continue };
                    ensure!(!(*succeeded && failed.contains(&file)), "a write to {file:?} succeeds after one failed");
                    if !succeeded {
                        failed.insert(file);
                    }
                }
                Operation::Mark(_) => {}
            }
        }
        Ok(())
    }

    /// Opens what is left in all three ways.
    fn check_restarts(&mut self, seed: u64) -> Verdict {
        self.tracks.iter_mut().try_for_each(Track::settle)?;
        let operations = self.disk.operations();
        let survived = crash_state(&operations, operations.len(), seed % 3);
        restart(&survived, &self.tracks, false).map_err(|why| format!("after a power failure: {why}"))?;
        restart_twice(&self.sim.killed(seed), &self.tracks, seed)
    }
}

/// A start after a kill, and one after the power failed in that life.
fn restart_twice(killed: &SimDisk, tracks: &[Track], seed: u64) -> Verdict {
    let found = restart(killed, tracks, true).map_err(|why| format!("in the next process: {why}"))?;
    let lost_power = killed.crash(seed);
    let again = restart(&lost_power, tracks, false).map_err(|why| format!("when the power fails in the next process: {why}"))?;
    ensure!(found == again, "the next process had {found:?} records, {again:?} survived it");
    Ok(())
}

/// A start on `disk`; gives how many records each partition then has.
fn restart(disk: &SimDisk, tracks: &[Track], append: bool) -> Result<Vec<usize>, String> {
    let text = |error: Error| error.to_string();
    let log = Log::open_on(Arc::new(disk.clone()), DIR.as_ref(), options(), None).map_err(text)?;
    let mut counts = Vec::new();
    for track in tracks {
        let partition = log.open_partition_with(track.id, track.options_as_it_is()).map_err(text)?;
        check_healthy(&partition)?;
        let (log_start, mut found) = read_kept(&partition).map_err(text)?;
        let end = partition.committed().get().value();
        // What an earlier check appended is not part of the history.
        found.retain(|(_, sent)| sent.key != b"next");
        let end = if append { end } else { found.last().map_or(end, |(offset, _)| offset + 1) };
        track.check(&found, log_start, end, 1).map_err(|why| format!("{}: {why}; {:?}", track.id, sketch(&found)))?;
        if append {
            for _ in 0..3 {
                let next = Request::new(vec![Sent { key: b"next".to_vec(), value: None }]);
                partition.try_append(next.proposal()).and_then(Ticket::wait).map_err(text)?;
            }
        }
        counts.push(read_kept(&partition).map_err(text)?.1.len());
    }
    Ok(counts)
}

fn run(seed: u64, fault: Fault) -> Result<Outcome, String> {
    let Some(mut run) = Run::begin(seed, fault) else { return Ok(Outcome { reached: true, ..Outcome::default() }) };
    let mut lifted = false;
    for step in 0..STEPS {
        if let Fault::Sync(at) = fault
            && !run.outcome.reached
            && run.sim.operations() >= at
        {
            run.sim.fail_next_sync();
        }
        run.outcome.reached |= run.sim.operations() >= fault.at();
        run.step(step)?;
        if matches!(fault, Fault::Full(_)) && run.outcome.refused >= 3 && !lifted {
            run.check_reads().map_err(|why| format!("while the disk is full: {why}"))?;
            run.sim.no_space_from(None);
            lifted = true;
            run.fenced.iter().for_each(|_| run.outcome.poisoned += 1);
            let healthy = run.partitions.iter().filter(|partition| partition.health() == Health::Healthy);
            for partition in healthy {
                let small = Request::new(vec![Sent { key: b"key 0".to_vec(), value: Some(vec![0; 5_000]) }]);
                let at = run.partitions.iter().position(|other| Arc::ptr_eq(other, partition)).unwrap();
                // The next segment is tried again a moment after it could not be made.
                let give_up = logcore::sys::clock::monotonic() + Duration::from_secs(60);
                let appended = loop {
                    match partition.try_append(small.proposal()).and_then(Ticket::wait) {
                        Ok(appended) => break appended,
                        Err(error) if logcore::sys::clock::monotonic() > give_up => {
                            return Err(format!("there is room again, and {} says {error}", partition.id()));
                        }
                        Err(_) => std::thread::yield_now(),
                    }
                };
                let answered = Request { base: Some(appended.base_offset.value()), mark: 1, ..small };
                run.next[at] += 1;
                run.tracks[at].requests.push(answered);
            }
        }
    }
    run.outcome.poisoned = run.fenced.len();
    run.check_reads()?;
    run.check_list()?;
    run.check_restarts(seed ^ fault.at())?;
    drop(run.log);
    Ok(run.outcome)
}

/// Runs workload after workload, with every operation of each failing, until enough have failed.
fn fail_each(name: &str, fault: impl Fn(u64) -> Fault) -> (u64, u64, u64) {
    let wanted = from_env("HEADWATER_TORTURE_FAULTS").unwrap_or(2_000);
    let (mut seed, mut at) = (seed(), 0);
    let (mut reached, mut poisoned, mut refused) = (0, 0, 0);
    while reached < wanted {
        at += 1;
        let outcome = run(seed, fault(at)).unwrap_or_else(|why| panic!("HEADWATER_SEED={seed}, {:?}: {why}", fault(at)));
        if !outcome.reached {
            (seed, at) = (seed + 1, 0);
            continue;
        }
        reached += 1;
        poisoned += u64::from(outcome.poisoned > 0);
        refused += u64::from(outcome.refused > 0);
    }
    eprintln!("{name}: {reached} operations failed, {poisoned} fenced a partition, {refused} had appends refused");
    (reached, poisoned, refused)
}

#[test]
fn an_error_at_any_operation_fences_or_is_harmless() {
    let (reached, poisoned, _) = fail_each("EIO", |at| Fault::Once(at, EIO));
    assert!(poisoned > 0 && poisoned < reached, "writes fence, other operations don't");
}

#[test]
fn a_failed_sync_fences_and_the_next_process_does_not_trust_what_it_reads() {
    let (_, poisoned, _) = fail_each("failed sync", Fault::Sync);
    assert!(poisoned > 0);
}

#[test]
fn a_full_disk_at_any_operation_refuses_and_resumes() {
    let (_, poisoned, refused) = fail_each("full disk", Fault::Full);
    assert_eq!(poisoned, 0, "space for what is appended was taken before");
    assert!(refused > 0);
}

#[test]
fn an_operation_that_finds_no_space_fences_only_if_it_wrote_to_a_segment() {
    let (reached, poisoned, _) = fail_each("ENOSPC once", |at| Fault::Once(at, ENOSPC));
    assert!(poisoned > 0 && poisoned < reached);
}

/// A process is killed with writes under way: some are in the page cache, as a whole or in part, and not on the medium. The next
/// process may serve them only if no power failure can take them back.
fn kill(seed: u64) -> Verdict {
    let (sim, mut dice) = (SimDisk::new(), Dice::new(seed));
    sim.set_writes_in_flight_max(dice.between(1, 5));
    let log = Log::open_on(Arc::new(sim.clone()), DIR.as_ref(), options(), None).unwrap();
    let mut track = tracks().remove(0);
    let partition = log.open_partition_with(track.id, track.options.clone()).unwrap();
    sim.hold_completions(true);
    let (mut next, mut open) = (0, Vec::new());
    for step in 0..dice.between(5, 60) {
        let value = vec![u8::try_from(step).unwrap(); dice.between(20, 3_000)];
        let mut request = Request::new(vec![Sent { key: format!("{step}").into_bytes(), value: Some(value) }]);
        open.push((step, partition.try_append(request.proposal()).unwrap()));
        (request.base, next) = (Some(next), next + 1);
        track.requests.push(request);
        if dice.one_in(3) {
            sim.hold_completions(false);
            sim.release(dice.roll());
            for (step, ticket) in open.drain(..) {
                ticket.wait().unwrap();
                track.requests[step].mark = 1;
            }
            sim.hold_completions(true);
        } else if dice.one_in(4) {
            sim.wait_held(1);
        } else {
            sim.release_one(dice.roll());
        }
    }
    track.settle()?;
    restart_twice(&sim.killed(seed), &[track], seed)
}

#[test]
fn what_a_killed_process_was_writing_is_made_durable_or_not_served() {
    let kills = from_env("HEADWATER_TORTURE_FAULTS").unwrap_or(2_000);
    for seed in seed()..seed() + kills {
        kill(seed).unwrap_or_else(|why| panic!("HEADWATER_SEED={seed}: {why}"));
    }
}
