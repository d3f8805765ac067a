//! What came out of a run: one JSON object, or lines for people.
//!
//! The names of the figures are binding (`docs/operations.md`, "Bench"): scripts read them.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use logcore::Partition;
use serde::Serialize;

use super::args::{LogArgs, Plan};
use super::idle::IdleReport;
use super::meter::{Meter, approximate};
use super::payload::Seen;
use super::read_back::ReadReport;
use crate::cli::output::{self, Format};

/// A run and its figures. Parts that were not asked for are left out.
#[derive(Debug, Serialize)]
pub struct Report {
    bench: &'static str,
    ack: &'static str,
    /// The backend that was used.
    pub disk_io: String,
    record_bytes: usize,
    batch_bytes: usize,
    compression: String,
    prebuilt: bool,
    partitions: u32,
    producers: u32,
    in_flight: usize,
    rate: f64,
    memory_bytes_max: Option<u64>,
    /// Appending.
    #[serde(flatten)]
    pub append: Option<AppendReport>,
    /// The check afterwards.
    #[serde(flatten)]
    pub verify: Option<VerifyReport>,
    /// Reading.
    #[serde(flatten)]
    pub read: Option<ReadReport>,
    /// Idle partitions.
    #[serde(flatten)]
    pub idle: Option<IdleReport>,
    /// The most memory the process had, the bench's own included.
    pub rss_bytes_peak: Option<u64>,
}

/// Figures of appending.
#[derive(Debug, Serialize)]
pub struct AppendReport {
    /// From the first batch to the last answer.
    pub seconds: f64,
    /// Acknowledged.
    pub records: u64,
    batches: u64,
    records_per_second: f64,
    bytes_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    /// Until everything was durable: with `ack = memory` later than the last answer.
    durable_bytes_per_second: f64,
    throttled: u64,
    refused: u64,
    unsent: u64,
    /// What stays free of the RAM tier is its budget less this.
    ram_bytes_peak: u64,
    segments: usize,
    /// Segments that were sealed; unknown once retention dropped some.
    rotations: Option<usize>,
    /// What the log wrote for its partitions, without what is preallocated and what retention dropped.
    stored_bytes: u64,
    /// All readers together, until they had read everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    reader_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reader_records: Option<u64>,
}

/// How long things took, and what readers saw.
pub struct Figures {
    /// To the last answer.
    pub elapsed: Duration,
    /// Until all was durable.
    pub durable: Duration,
    /// Until the last reader was done.
    pub read_for: Duration,
    /// By all readers.
    pub seen: Seen,
}

/// Figures of the check.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    /// Read once, in order, with their content.
    pub verified_records: u64,
    /// Acknowledged, and dropped by retention since.
    pub dropped_records: u64,
    /// How long it took.
    pub verify_ms: f64,
}

impl AppendReport {
    /// Reads the meter.
    pub fn new(meter: &Meter, partitions: &[Arc<Partition>], plan: &Plan, figures: &Figures) -> Self {
        let (latencies, records) = (meter.latencies(), meter.sum(|producer| &producer.records));
        let bytes = approximate(records * plan.record_bytes as u64);
        let statuses: Vec<_> = partitions.iter().map(|partition| partition.status()).collect();
        let segments = statuses.iter().map(|status| status.segments).sum();
        let all_there = statuses.iter().all(|status| status.log_start == logcore::Offset::ZERO);
        let seconds = figures.elapsed.as_secs_f64();
        let read = figures.seen.records > 0;
        Self {
            seconds,
            records,
            batches: latencies.total(),
            records_per_second: approximate(records) / seconds,
            bytes_per_second: bytes / seconds,
            p50_us: latencies.micros(500),
            p99_us: latencies.micros(990),
            p999_us: latencies.micros(999),
            max_us: latencies.micros(1000),
            durable_bytes_per_second: bytes / figures.durable.as_secs_f64(),
            throttled: meter.sum(|producer| &producer.throttled),
            refused: meter.sum(|producer| &producer.refused),
            unsent: meter.sum(|producer| &producer.unsent),
            ram_bytes_peak: meter.ram_bytes_peak.load(std::sync::atomic::Ordering::Relaxed),
            segments,
            rotations: all_there.then(|| segments - partitions.len()),
            stored_bytes: statuses.iter().map(|status| status.bytes).sum(),
            reader_bytes_per_second: read.then(|| approximate(figures.seen.bytes) / figures.read_for.as_secs_f64()),
            reader_records: read.then_some(figures.seen.records),
        }
    }
}

impl Report {
    /// A run without figures yet.
    pub fn new(args: &LogArgs, plan: &Plan) -> Self {
        Self {
            bench: "log",
            ack: plan.ack.name(),
            disk_io: String::new(),
            record_bytes: plan.record_bytes,
            batch_bytes: plan.records_per_batch * plan.record_bytes,
            compression: args.compression.clone(),
            prebuilt: args.prebuilt,
            partitions: args.partitions,
            producers: args.producers,
            in_flight: args.in_flight,
            rate: args.rate,
            memory_bytes_max: args.memory.map(|size| size.0),
            append: None,
            verify: None,
            read: None,
            idle: None,
            rss_bytes_peak: None,
        }
    }

    /// Prints it: lines for people, one JSON object otherwise.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print(&self, format: Format) -> Result<()> {
        if format == Format::Table {
            return output::print(&self.lines());
        }
        output::print(&format!("{}\n", serde_json::to_string(self)?))
    }

    fn lines(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| writeln!(out, "{text}").expect("writing into memory does not fail");
        if let Some(append) = &self.append {
            line(format!(
                "{} of {} bytes in {:.1} s, ack {}, {} disk",
                output::count(append.records, "record"),
                self.record_bytes,
                append.seconds,
                self.ack,
                self.disk_io
            ));
            line(format!(
                "{:.0} records/s, {:.1} MB/s; until all was durable {:.1} MB/s",
                append.records_per_second,
                append.bytes_per_second / 1e6,
                append.durable_bytes_per_second / 1e6
            ));
            line(format!(
                "latency of {}: p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
                output::count(append.batches, "batch").replace("batchs", "batches"),
                append.p50_us,
                append.p99_us,
                append.p999_us,
                append.max_us
            ));
            line(format!(
                "throttled {}, refused {}, due and not sent {}; {}",
                append.throttled,
                append.refused,
                append.unsent,
                output::count(append.segments as u64, "segment")
            ));
            line(format!("RAM tier at most {:.0} MB", approximate(append.ram_bytes_peak) / 1e6));
            if let (Some(rate), Some(records)) = (append.reader_bytes_per_second, append.reader_records) {
                line(format!("readers checked {}, {:.1} MB/s", output::count(records, "record"), rate / 1e6));
            }
        }
        if let Some(verify) = &self.verify {
            line(format!(
                "read back once, in order and whole: {}; dropped by retention: {}",
                output::count(verify.verified_records, "record"),
                verify.dropped_records
            ));
        }
        if let Some(read) = &self.read {
            let ram = read.read_ram_bytes_per_second.map_or("nothing is there".into(), |rate| format!("{:.1} MB/s", rate / 1e6));
            line(format!("read from RAM: {ram}; from files: {:.1} MB/s", read.read_file_bytes_per_second / 1e6));
            line(format!(
                "offsets found: {:.0}/s; read by offset: {:.0}/s",
                read.find_offset_per_second, read.read_offset_per_second
            ));
            line(format!(
                "opened {:.1} MB in {} in {:.1} ms",
                approximate(read.log_bytes) / 1e6,
                output::count(read.segments as u64, "segment"),
                read.open_ms
            ));
        }
        if let Some(idle) = &self.idle {
            let grown = idle.rss_bytes.zip(idle.rss_bytes_before).map(|(now, before)| now.saturating_sub(before));
            let each = grown.map(|grown| format!(", {:.1} KiB each", approximate(grown) / 1024.0 / f64::from(idle.partitions)));
            line(format!(
                "{} created in {:.0} ms{}",
                output::count(u64::from(idle.partitions), "partition"),
                idle.create_ms,
                each.unwrap_or_default()
            ));
            line(format!(
                "opened in {:.0} ms after an unclean stop, {:.0} ms after a clean one",
                idle.open_ms, idle.open_clean_ms
            ));
        }
        if let Some(peak) = self.rss_bytes_peak {
            line(format!("memory of the process at most {:.1} MB", approximate(peak) / 1e6));
        }
        out
    }
}
