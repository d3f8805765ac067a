//! Readers that follow the producers and check everything, and the check of the whole afterwards.
//!
//! A reader holds back retention as a view does: what it has not passed stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use logcore::{Hold, Holder, LogReader, Offset, Partition};

use super::meter::{Meter, approximate};
use super::payload::{Checker, Payload, Seen};

/// Asked for at once.
const READ_BYTES: usize = 1 << 20;
/// A reader that has nothing to do looks again after this long.
const LOOK: Duration = Duration::from_millis(10);

/// Where a reader stands in one partition.
struct Standing(AtomicU64);

impl Holder for Standing {
    fn needed_from(&self) -> Option<Offset> {
        Some(Offset::new(self.0.load(Ordering::Acquire)))
    }
}

/// Stands at the first record that a partition has, and holds it there.
fn stand(partition: &Partition) -> (Offset, Arc<Standing>) {
    let standing = Arc::new(Standing(AtomicU64::new(0)));
    let holder: Arc<dyn Holder> = Arc::clone(&standing) as Arc<dyn Holder>;
    partition.hold(Hold::View, Arc::downgrade(&holder));
    // From here on nothing goes.
    let from = partition.log_start();
    standing.0.store(from.value(), Ordering::Release);
    (from, standing)
}

/// One reader of all partitions.
pub struct Reader<'r> {
    partitions: &'r [Arc<Partition>],
    logs: Vec<LogReader>,
    checkers: Vec<Checker<'r>>,
    standings: Vec<Arc<Standing>>,
    /// Records it stays behind in each partition.
    lag_records: u64,
    bytes_per_second: Option<u64>,
    meter: &'r Meter,
}

impl<'r> Reader<'r> {
    /// A reader that begins where each partition does.
    pub fn new(partitions: &'r [Arc<Partition>], payload: &'r Payload, producers: u32, meter: &'r Meter) -> Self {
        let begin = |partition: &Arc<Partition>| {
            let (from, standing) = stand(partition);
            (Checker::new(payload, partition.id(), from, producers), standing)
        };
        let (checkers, standings) = partitions.iter().map(begin).unzip();
        let logs = partitions.iter().map(|partition| partition.reader(partition.log_start())).collect();
        Self { partitions, logs, checkers, standings, lag_records: 0, bytes_per_second: None, meter }
    }

    /// While producers append it stays so many records behind in each partition, and reads so many bytes a second at most.
    pub fn behind(self, lag_records: u64, bytes_per_second: Option<u64>) -> Self {
        Self { lag_records, bytes_per_second, ..self }
    }

    /// Follows until `appended` is set, then reads what is left.
    ///
    /// # Errors
    /// What was read and is not what was appended; what can't be read.
    pub fn run(mut self, appended: &AtomicBool) -> Result<Seen> {
        let begun = Instant::now();
        loop {
            // Looked at first: what was appended before it was set is then read below.
            let last_round = appended.load(Ordering::Acquire);
            let lag_records = if last_round { 0 } else { self.lag_records };
            let mut idle = true;
            for at in 0..self.partitions.len() {
                idle &= !self.catch_up(at, lag_records, last_round)?;
            }
            if last_round {
                return Ok(self.checkers.iter().fold(Seen::default(), |sum, checker| sum.with(checker.seen)));
            }
            while let Some(rest) = self.ahead_of_its_rate(begun)
                && !appended.load(Ordering::Acquire)
            {
                std::thread::sleep(rest.min(LOOK));
            }
            if idle {
                let next = self.checkers[0].next().advance(lag_records + 1);
                self.partitions[0].committed().reached_blocking(next, Instant::now() + LOOK);
            }
        }
    }

    /// How long it has to pause so as not to be faster than it may be.
    fn ahead_of_its_rate(&self, begun: Instant) -> Option<Duration> {
        let read: u64 = self.checkers.iter().map(|checker| checker.seen.bytes).sum();
        let due = Duration::from_secs_f64(approximate(read) / approximate(self.bytes_per_second?.max(1)));
        due.checked_sub(begun.elapsed()).filter(|rest| !rest.is_zero())
    }

    /// Reads one partition up to `lag_records` behind its end: a piece, or all of it.
    fn catch_up(&mut self, at: usize, lag_records: u64, all: bool) -> Result<bool> {
        let (partition, checker) = (&self.partitions[at], &mut self.checkers[at]);
        let mut moved = false;
        while checker.next().advance(lag_records) < partition.committed().get() {
            let bytes_before = checker.seen.bytes;
            read_piece(&mut self.logs[at], partition, checker)?;
            self.standings[at].0.store(checker.next().value(), Ordering::Release);
            self.meter.bytes_read.fetch_add(checker.seen.bytes - bytes_before, Ordering::Relaxed);
            moved = true;
            if !all {
                break;
            }
        }
        Ok(moved)
    }
}

fn read_piece(log: &mut LogReader, partition: &Partition, checker: &mut Checker<'_>) -> Result<()> {
    let frames = log.read(READ_BYTES).with_context(|| format!("reading from offset {}", checker.next()))?;
    ensure!(!frames.is_empty(), "{} gives nothing at offset {}, which is committed", partition.id(), checker.next());
    checker.take(&frames)
}

/// Reads everything that the partitions hold and checks it. Gives what was seen, and how many records retention dropped.
///
/// # Errors
/// As [`Reader::run`].
pub fn verify(partitions: &[Arc<Partition>], payload: &Payload, producers: u32) -> Result<(Seen, u64)> {
    let (mut sum, mut dropped) = (Seen::default(), 0);
    for partition in partitions {
        let (from, _standing) = stand(partition);
        let end = partition.committed().get();
        let (mut log, mut checker) = (partition.reader(from), Checker::new(payload, partition.id(), from, producers));
        while checker.next() < end {
            read_piece(&mut log, partition, &mut checker)?;
        }
        dropped += from.value();
        sum = sum.with(checker.seen);
    }
    Ok((sum, dropped))
}
