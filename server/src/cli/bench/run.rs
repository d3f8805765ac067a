//! One run of `headwater bench log`: opens the log, lets producers, readers and the meter go, then reads back what was asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use logcore::{Log, Partition};

use super::args::{LogArgs, Plan};
use super::meter::{Meter, process_bytes, watch};
use super::open::{Folder, open_log, open_partitions};
use super::payload::{Payload, Seen};
use super::producer::Producer;
use super::reader::{Reader, verify};
use super::report::{AppendReport, Figures, Report, VerifyReport};
use super::{idle, read_back};

/// Runs and prints.
pub fn run(args: &LogArgs) -> Result<()> {
    let plan = args.plan()?;
    let folder = Folder::of(args)?;
    measure(args, &plan, &folder)?.print(args.output.output)
}

/// Runs.
pub fn measure(args: &LogArgs, plan: &Plan, folder: &Folder) -> Result<Report> {
    let mut report = Report::new(args, plan);
    if args.idle {
        report.idle = Some(idle::measure(folder, args, plan)?);
        report.rss_bytes_peak = process_bytes("VmHWM");
        return Ok(report);
    }
    let mut log = open_log(folder, args, plan)?;
    report.disk_io = log.disk_backend().to_owned();
    let partitions = open_partitions(&log, args, plan)?;
    let payload = Payload::new(plan, args.prebuilt);
    report.append = Some(append(&log, &partitions, &payload, args, plan)?);
    if args.verify {
        eprintln!("reading everything back");
        report.verify = Some(check(&partitions, &payload, args, report.append.as_ref())?);
    }
    if args.read {
        eprintln!("measuring reads");
        let read;
        (log, read) = read_back::measure(log, partitions, folder, args, plan)?;
        report.read = Some(read);
    }
    report.rss_bytes_peak = process_bytes("VmHWM");
    log.close().context("closing the log")?;
    Ok(report)
}

/// Appends until the time or the bytes are over, and waits for all answers and readers.
fn append(log: &Log, partitions: &[Arc<Partition>], payload: &Payload, args: &LogArgs, plan: &Plan) -> Result<AppendReport> {
    let meter = Meter::new(args.producers);
    // Only for timers: they bound how long an append waits for room.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build()?;
    let (appended, started) = (AtomicBool::new(false), Instant::now());
    let mut elapsed = Duration::ZERO;
    let seen = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&meter, log, partitions, plan.record_bytes));
        let lag_records = args.reader_lag_bytes.0 / plan.record_bytes as u64 / u64::from(args.partitions);
        let readers: Vec<_> = (0..args.readers)
            .map(|_| Reader::new(partitions, payload, args.producers, &meter))
            .map(|reader| reader.behind(lag_records, args.reader_rate.map(|rate| rate.0)))
            .map(|reader| scope.spawn(|| reader.run(&appended)))
            .collect();
        let producers: Vec<_> = (0..args.producers)
            .map(|number| Producer {
                number,
                partitions: share(partitions, number, args.producers),
                payload,
                prebuilt: args.prebuilt,
                ack: plan.ack,
                in_flight: args.in_flight,
                batches_max: plan.batches_max,
                interval: plan.interval,
                // Producers take turns, so that the whole has the rate and no bursts.
                first: started + plan.interval.unwrap_or_default() * number / args.producers,
                end: started + plan.seconds,
                meter: &meter,
            })
            .map(|producer| {
                let runtime = runtime.handle().clone();
                scope.spawn(move || {
                    let _timers = runtime.enter();
                    producer.run()
                })
            })
            .collect();
        let produced = producers.into_iter().map(|producer| joined(producer.join())).collect::<Vec<_>>();
        elapsed = started.elapsed();
        appended.store(true, Ordering::Release);
        let read = readers.into_iter().map(|reader| joined(reader.join())).collect::<Vec<_>>();
        meter.over.store(true, Ordering::Release);
        watcher.thread().unpark();
        produced.into_iter().collect::<Result<()>>()?;
        let sums = read.into_iter().collect::<Result<Vec<Seen>>>().context("a reader found what was not appended")?;
        anyhow::Ok(sums.into_iter().fold(Seen::default(), Seen::with))
    })?;
    let read_for = started.elapsed();
    for partition in partitions {
        partition.flush().context("making everything durable")?;
    }
    let durable = started.elapsed();
    // Readers checked what they saw; here, that they saw everything. With gaps of refused appends they saw as much as there was.
    let acknowledged = meter.sum(|producer| &producer.records);
    ensure!(
        seen.records == acknowledged * u64::from(args.readers),
        "{} readers read {} records together, {acknowledged} were acknowledged",
        args.readers,
        seen.records
    );
    let figures = Figures { elapsed, durable, read_for, seen };
    Ok(AppendReport::new(&meter, partitions, plan, &figures))
}

fn joined<T>(outcome: std::thread::Result<Result<T>>) -> Result<T> {
    outcome.unwrap_or_else(|_| bail!("a thread of the bench met a bug; its message is above"))
}

/// The partitions of one producer: with fewer producers than partitions each has several, otherwise some share one.
fn share(partitions: &[Arc<Partition>], number: u32, producers: u32) -> Vec<Arc<Partition>> {
    let (number, producers) = (index(number), index(producers));
    let first = number % partitions.len();
    partitions.iter().skip(first).step_by(producers).cloned().collect()
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("64-bit machines only")
}

/// Reads everything once. The log must hold what was acknowledged and nothing else.
fn check(
    partitions: &[Arc<Partition>],
    payload: &Payload,
    args: &LogArgs,
    append: Option<&AppendReport>,
) -> Result<VerifyReport> {
    let begun = Instant::now();
    let (seen, dropped_records) =
        verify(partitions, payload, args.producers).context("what was acknowledged is not what is there")?;
    let acknowledged = append.map_or(0, |append| append.records);
    ensure!(
        seen.records + dropped_records == acknowledged,
        "{acknowledged} records were acknowledged, {} are there and retention dropped {dropped_records}",
        seen.records
    );
    Ok(VerifyReport { verified_records: seen.records, dropped_records, verify_ms: idle::milliseconds(begun) })
}
