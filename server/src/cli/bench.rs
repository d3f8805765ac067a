//! `headwater bench log`: how fast the log takes records, in this process.
//!
//! With a rate, latency counts from the moment an append was due, not from when its turn came: a stall is charged to everything
//! that had to wait for it (coordinated omission).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use logcore::partition::APPEND_TIMEOUT;
use logcore::{
    BatchBuilder, Compression, Log, LogOptions, NewRecord, Partition, PartitionRef, Proposal, StreamId, Ticket, TimestampMillis,
};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::OutputFlags;
use super::demo::TemporaryFolder;
use super::histogram::Histogram;
use super::output::{self, Format};

/// `headwater bench`.
#[derive(Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Appends to the log
    Log(LogArgs),
}

#[derive(Args, Clone)]
struct LogArgs {
    /// An empty folder; otherwise a temporary one, removed at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The acknowledgement class
    #[arg(long, value_name = "CLASS", default_value = "disk")]
    ack: String,
    /// Bytes of a record's value
    #[arg(long, value_name = "N", default_value_t = 1024)]
    record_bytes: usize,
    /// Bytes of values in a batch, at least one record
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    batch_bytes: usize,
    /// Partitions, taken in turn by the producers
    #[arg(long, value_name = "N", default_value_t = 1)]
    partitions: u32,
    /// Producers
    #[arg(long, value_name = "N", default_value_t = 1)]
    producers: u32,
    /// Batches each producer has under way
    #[arg(long, value_name = "N", default_value_t = 16)]
    in_flight: usize,
    /// Batches per second over all producers; 0 for as fast as possible
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    rate: f64,
    /// How long
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    seconds: f64,
    #[command(flatten)]
    output: OutputFlags,
}

/// Runs the benchmark.
pub fn run(args: &BenchArgs) -> Result<()> {
    let BenchCommand::Log(args) = &args.command;
    if args.ack != "disk" {
        bail!("ack {} is not available in this build; use disk", args.ack);
    }
    for (flag, value) in [("--record-bytes", args.record_bytes), ("--in-flight", args.in_flight)] {
        if value == 0 {
            bail!("{flag} is 0, the least is 1");
        }
    }
    if args.partitions == 0 || args.producers == 0 {
        bail!("--partitions and --producers are at least 1");
    }
    if !(args.rate.is_finite() && args.rate >= 0.0 && args.seconds.is_finite() && args.seconds > 0.0 && args.seconds < 1e6) {
        bail!("--rate is at least 0 and --seconds above 0");
    }
    let temporary = if args.data.is_none() { Some(TemporaryFolder::create("headwater-bench")?) } else { None };
    let data = match (&args.data, &temporary) {
        (Some(data), _) => data.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => bail!("there is no folder to write to"),
    };
    if std::fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty; name an empty folder, the bench must not write into data that someone needs", data.display());
    }
    let log = Log::open(&data, LogOptions::default())?;
    let report = measure(&log, args)?;
    log.close()?;
    print_report(args, log.disk_backend(), &report)
}

#[derive(Default)]
struct Report {
    histogram: Histogram,
    records: u64,
    elapsed: Duration,
}

fn measure(log: &Log, args: &LogArgs) -> Result<Report> {
    let partitions: Vec<Arc<Partition>> = (0..args.partitions)
        .map(|number| log.open_partition(PartitionRef::new(StreamId::FIRST_USER, number)))
        .collect::<logcore::Result<_>>()?;
    let records = (args.batch_bytes / args.record_bytes).max(1);
    let batch = build_batch(records, args.record_bytes);
    // Only for timers: appends are awaited from plain threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build()?;
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(args.seconds);
    let mut report = Report::default();
    let outcomes: Vec<Result<Histogram>> = std::thread::scope(|scope| {
        let producers: Vec<_> = (0..args.producers)
            .map(|number| {
                let index = usize::try_from(number % args.partitions).expect("numbers of partitions are small");
                let producer = Producer {
                    partition: Arc::clone(&partitions[index]),
                    batch: &batch,
                    in_flight: args.in_flight,
                    interval: (args.rate > 0.0).then(|| Duration::from_secs_f64(f64::from(args.producers) / args.rate)),
                    // Producers take turns, so that the whole has the rate and no bursts.
                    first: started
                        + if args.rate > 0.0 { Duration::from_secs_f64(f64::from(number) / args.rate) } else { Duration::ZERO },
                    end,
                };
                let handle = runtime.handle().clone();
                scope.spawn(move || producer.run(&handle))
            })
            .collect();
        producers.into_iter().map(|producer| producer.join().unwrap_or_else(|_| bail!("a producer met a bug"))).collect()
    });
    report.elapsed = started.elapsed();
    for outcome in outcomes {
        report.histogram.merge(&outcome?);
    }
    report.records = report.histogram.total() * records as u64;
    Ok(report)
}

fn build_batch(records: usize, record_bytes: usize) -> Vec<u8> {
    // Digits of a simple generator: neither constant nor worth compressing for what is measured here.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let value: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(record_bytes)
    .collect();
    let mut builder = BatchBuilder::new();
    for _ in 0..records {
        builder.push(&NewRecord { value: Some(&value), timestamp: TimestampMillis::new(0), ..NewRecord::default() });
    }
    builder.finish(Compression::None)
}

struct Producer<'b> {
    partition: Arc<Partition>,
    batch: &'b [u8],
    in_flight: usize,
    interval: Option<Duration>,
    first: Instant,
    end: Instant,
}

type UnderWay = (Instant, Ticket, OwnedSemaphorePermit);

impl Producer<'_> {
    fn run(&self, runtime: &Handle) -> Result<Histogram> {
        let permits = Arc::new(Semaphore::new(self.in_flight));
        let (tell, under_way) = sync_channel::<UnderWay>(self.in_flight);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(move || wait_for_all(&under_way));
            let produced = self.produce(runtime, &permits, |item| tell.send(item).is_ok());
            drop(tell);
            let histogram = waiter.join().unwrap_or_else(|_| bail!("waiting for appends met a bug"));
            produced.and(histogram)
        })
    }

    fn produce(&self, runtime: &Handle, permits: &Arc<Semaphore>, mut tell: impl FnMut(UnderWay) -> bool) -> Result<()> {
        let mut due = self.first;
        loop {
            if self.interval.is_some() {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let permit = runtime.block_on(Arc::clone(permits).acquire_owned()).context("the window is closed")?;
            let now = Instant::now();
            if now >= self.end {
                return Ok(());
            }
            let intended = if self.interval.is_some() { due } else { now };
            let proposal = Proposal::new(self.batch.to_vec())?;
            let ticket = runtime.block_on(self.partition.append(proposal, now + APPEND_TIMEOUT))?;
            if !tell((intended, ticket, permit)) {
                return Ok(());
            }
            due += self.interval.unwrap_or_default();
        }
    }
}

fn wait_for_all(under_way: &Receiver<UnderWay>) -> Result<Histogram> {
    let mut histogram = Histogram::default();
    while let Ok((intended, ticket, permit)) = under_way.recv() {
        ticket.wait()?;
        histogram.record(intended.elapsed());
        drop(permit);
    }
    Ok(histogram)
}

fn print_report(args: &LogArgs, backend: &str, report: &Report) -> Result<()> {
    let seconds = report.elapsed.as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
    let (records, bytes) = (report.records as f64, report.records as f64 * args.record_bytes as f64);
    let [p50, p99, p999] = [500, 990, 999].map(|per_mille| report.histogram.micros(per_mille));
    let batches = report.histogram.total();
    if args.output.output != Format::Table {
        let object = json!({
            "bench": "log", "ack": args.ack, "disk_io": backend, "record_bytes": args.record_bytes, "batch_bytes": args.batch_bytes,
            "partitions": args.partitions, "producers": args.producers, "in_flight": args.in_flight, "rate": args.rate,
            "seconds": seconds, "records": report.records, "batches": batches,
            "records_per_second": records / seconds, "bytes_per_second": bytes / seconds,
            "p50_us": p50, "p99_us": p99, "p999_us": p999,
        });
        return output::print(&format!("{object}\n"));
    }
    output::print(&format!(
        "{} of {} bytes in {seconds:.1} s, ack {}, {backend} disk\n{:.0} records/s, {:.1} MB/s\n\
         latency of {}: p50 {p50:.0} us, p99 {p99:.0} us, p99.9 {p999:.0} us\n",
        output::count(report.records, "record"),
        args.record_bytes,
        args.ack,
        records / seconds,
        bytes / seconds / 1e6,
        output::count(batches, "batch").replace("batchs", "batches"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_counts_what_it_appended() {
        let folder = TemporaryFolder::create("headwater-bench-test").unwrap();
        let log = Log::open(folder.path(), LogOptions::default()).unwrap();
        let args = LogArgs {
            data: None,
            ack: "disk".into(),
            record_bytes: 100,
            batch_bytes: 1000,
            partitions: 2,
            producers: 2,
            in_flight: 2,
            rate: 100.0,
            seconds: 0.1,
            output: OutputFlags { output: Format::Json },
        };
        let report = measure(&log, &args).unwrap();
        assert!(report.records > 0 && report.records.is_multiple_of(10));
        let stored: u64 = (0..2)
            .map(|number| log.partition(PartitionRef::new(StreamId::FIRST_USER, number)).unwrap().committed().get().value())
            .sum();
        assert_eq!(stored, report.records);
        log.close().unwrap();
    }
}
