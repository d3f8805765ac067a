//! Readers that follow the producers and check everything, and the check of the whole afterwards.
//!
//! A reader holds back retention as a view does: what it has not passed stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use logcore::{Hold, Holder, Offset, Partition};

use super::meter::Meter;
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

/// One reader of all partitions.
pub struct Reader<'r> {
    partitions: &'r [Arc<Partition>],
    checkers: Vec<Checker<'r>>,
    standings: Vec<Arc<Standing>>,
    /// Records it stays behind in each partition.
    lag_records: u64,
    meter: &'r Meter,
}

impl<'r> Reader<'r> {
    /// A reader that begins where each partition does.
    pub fn new(
        partitions: &'r [Arc<Partition>],
        payload: &'r Payload,
        producers: u32,
        lag_records: u64,
        meter: &'r Meter,
    ) -> Self {
        let begin = |partition: &Arc<Partition>| {
            let from = partition.log_start();
            let standing = Arc::new(Standing(AtomicU64::new(from.value())));
            let holder: Arc<dyn Holder> = Arc::clone(&standing) as Arc<dyn Holder>;
            partition.hold(Hold::View, Arc::downgrade(&holder));
            (Checker::new(payload, partition.id(), from, producers), standing)
        };
        let (checkers, standings) = partitions.iter().map(begin).unzip();
        Self { partitions, checkers, standings, lag_records, meter }
    }

    /// Follows until `appended` is set, then reads what is left.
    ///
    /// # Errors
    /// What was read and is not what was appended; what can't be read.
    pub fn run(mut self, appended: &AtomicBool) -> Result<Seen> {
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
            if idle {
                let next = self.checkers[0].next().advance(lag_records + 1);
                self.partitions[0].committed().reached_blocking(next, Instant::now() + LOOK);
            }
        }
    }

    /// Reads one partition up to `lag_records` behind its end: a piece, or all of it.
    fn catch_up(&mut self, at: usize, lag_records: u64, all: bool) -> Result<bool> {
        let (partition, checker) = (&self.partitions[at], &mut self.checkers[at]);
        let mut moved = false;
        while checker.next().advance(lag_records) < partition.committed().get() {
            let bytes_before = checker.seen.bytes;
            read_piece(partition, checker)?;
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

fn read_piece(partition: &Partition, checker: &mut Checker<'_>) -> Result<()> {
    let frames = partition.read(checker.next(), READ_BYTES).with_context(|| format!("reading from offset {}", checker.next()))?;
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
        let (from, end) = (partition.log_start(), partition.committed().get());
        let mut checker = Checker::new(payload, partition.id(), from, producers);
        while checker.next() < end {
            read_piece(partition, &mut checker)?;
        }
        dropped += from.value();
        sum = sum.with(checker.seen);
    }
    Ok((sum, dropped))
}
