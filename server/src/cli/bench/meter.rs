//! What a run counts while it goes on, and the view of it on a terminal.
//!
//! Producers and readers write, one thread of [`watch`] looks: often for peaks, once a second for the view. Everything has a
//! fixed size, however long the run.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use logcore::{Log, Partition};

use crate::cli::histogram::Histogram;

/// Between two looks at the RAM tier.
const LOOK: Duration = Duration::from_millis(20);
/// Between two lines of the view.
const LINE: Duration = Duration::from_secs(1);

/// Latencies since the start and since the last line.
#[derive(Default)]
struct Latencies {
    all: Histogram,
    recent: Histogram,
}

/// Counters of one producer.
#[derive(Default)]
pub struct ProducerMeter {
    latencies: Mutex<Latencies>,
    /// Records that were acknowledged.
    pub records: AtomicU64,
    /// Appends that found no room in time: the queue or the RAM tier stayed full.
    pub throttled: AtomicU64,
    /// Appends that were refused otherwise: the disk is full.
    pub refused: AtomicU64,
    /// Batches that were due and not sent before the end.
    pub unsent: AtomicU64,
}

impl ProducerMeter {
    /// Counts an acknowledged batch.
    pub fn acknowledged(&self, records: u64, latency: Duration) {
        self.records.fetch_add(records, Ordering::Relaxed);
        let mut latencies = self.latencies.lock().expect("no code panics inside");
        latencies.all.record(latency);
        latencies.recent.record(latency);
    }
}

/// What a run counts.
#[derive(Default)]
pub struct Meter {
    /// One for each producer.
    pub producers: Vec<ProducerMeter>,
    /// Batches that producers took upon themselves.
    pub batches: AtomicU64,
    /// Bytes of values that readers checked.
    pub bytes_read: AtomicU64,
    /// The most of the RAM tier that was seen in use.
    pub ram_bytes_peak: AtomicU64,
    /// Set when producers and readers are done.
    pub over: AtomicBool,
}

impl Meter {
    /// For so many producers.
    pub fn new(producers: u32) -> Self {
        Self { producers: (0..producers).map(|_| ProducerMeter::default()).collect(), ..Self::default() }
    }

    /// A counter over all producers.
    pub fn sum(&self, counter: impl Fn(&ProducerMeter) -> &AtomicU64) -> u64 {
        self.producers.iter().map(|producer| counter(producer).load(Ordering::Relaxed)).sum()
    }

    /// All latencies.
    pub fn latencies(&self) -> Histogram {
        let mut sum = Histogram::default();
        for producer in &self.producers {
            sum.merge(&producer.latencies.lock().expect("no code panics inside").all);
        }
        sum
    }

    fn take_recent(&self) -> Histogram {
        let mut sum = Histogram::default();
        for producer in &self.producers {
            let recent = std::mem::take(&mut producer.latencies.lock().expect("no code panics inside").recent);
            sum.merge(&recent);
        }
        sum
    }
}

/// Looks at the run until it is over. Shows it when standard error is a terminal.
pub fn watch(meter: &Meter, log: &Log, partitions: &[Arc<Partition>], record_bytes: usize) {
    let style = ProgressStyle::with_template("{elapsed:>4} {msg}").expect("the template is well-formed");
    let shown = std::io::stderr().is_terminal();
    let line = if shown { ProgressBar::new_spinner().with_style(style) } else { ProgressBar::hidden() };
    let (mut last, mut records_before) = (Instant::now(), 0);
    while !meter.over.load(Ordering::Acquire) {
        std::thread::park_timeout(LOOK);
        let (ram_bytes, ram_budget) = log.memory_bytes();
        meter.ram_bytes_peak.fetch_max(ram_bytes, Ordering::Relaxed);
        if shown && last.elapsed() >= LINE {
            let (records, seconds) = (meter.sum(|producer| &producer.records), last.elapsed().as_secs_f64());
            let backlog = backlog_records(partitions) * record_bytes as u64;
            let per_second = approximate(records - records_before) / seconds;
            let (recent, mega) = (meter.take_recent(), |bytes: u64| approximate(bytes) / 1e6);
            line.set_message(format!(
                "{per_second:.0} records/s, {:.1} MB/s, p50 {:.0} us, p99 {:.0} us, RAM tier {:.0} of {:.0} MB, not yet durable {:.1} MB",
                per_second * approximate(record_bytes as u64) / 1e6,
                recent.micros(500),
                recent.micros(990),
                mega(ram_bytes),
                mega(ram_budget),
                mega(backlog),
            ));
            (last, records_before) = (Instant::now(), records);
        }
    }
    line.finish_and_clear();
}

/// Records that have an offset and are not durable.
fn backlog_records(partitions: &[Arc<Partition>]) -> u64 {
    partitions.iter().map(|partition| partition.status()).map(|status| status.flushed.records_until(status.appended)).sum()
}

/// A count as a floating point number: rates need no more than 53 bits.
#[allow(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
pub fn approximate(count: u64) -> f64 {
    count as f64
}

/// A line of `/proc/self/status`, in bytes; `None` where the system has none.
pub fn process_bytes(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
