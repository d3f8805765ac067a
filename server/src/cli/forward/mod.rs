//! `headwater forward`: carries a stream to another Headwater or to an HTTP endpoint, in order, without gaps, across any crash.
//!
//! The stream is the spool: nothing is kept here but the cursor, and that moves only when the other side has confirmed. With
//! `retention = 'consumed'` the source drops what was forwarded and nothing else.
//!
//! # The way of a record
//! [`source`] reads a page → [`batch`] cuts it → [`target`] lays it out and sends it → [`source`] moves the cursor. One thread, the
//! [`worker`], does this for a partition, one batch at a time, which keeps the order; [`http`] says which failures pass, and
//! [`gate`] is where all of them wait, stop and count.
//!
//! # Invariants
//! - The cursor of a partition never passes a record that the target did not confirm.
//! - Batches of a partition go out in order; the next one only after the one before is confirmed and the cursor has moved.
//! - At least once: a batch is sent again when its confirmation, or the move of the cursor behind it, was lost. That is at most one
//!   batch per partition for each crash or broken connection.
//!
//! # Not done
//! Batches carry no producer sequence yet, so a target can't tell one that is sent again; [`target`] is the place for it.

mod batch;
mod gate;
mod http;
mod source;
mod target;
mod worker;

use std::io::IsTerminal;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::ServerFlags;
use super::output::count;
use crate::config::Size;
use gate::{Ended, Gate};
use source::Source;
use target::Target;
use worker::Worker;

/// Threads at most; each holds a connection to both sides.
const WORKERS_MAX: usize = 16;
/// How often the line on a terminal is drawn anew, and how often a line is printed elsewhere.
const DRAW: Duration = Duration::from_millis(500);
const REPORT: Duration = Duration::from_secs(10);
/// A batch of this much JSON fits into one frame of the log and one body, whatever is in it.
const BATCH_BYTES_MAX: u64 = 8 << 20;
const BATCH_BYTES_MIN: u64 = 1 << 10;

/// `headwater forward`.
#[derive(Args)]
pub struct ForwardArgs {
    /// The stream to forward
    #[arg(long, value_name = "STREAM")]
    stream: String,
    /// The cursor that remembers what was forwarded; begun at the first record that is kept
    #[arg(long, value_name = "NAME")]
    cursor: String,
    /// Where to: another Headwater, http://HOST:PORT or .../v1/streams/STREAM, or an endpoint that takes NDJSON
    #[arg(long, value_name = "URL")]
    to: String,
    /// The stream there; otherwise of the same name
    #[arg(long, value_name = "STREAM")]
    target_stream: Option<String>,
    /// Only this partition; may be given several times
    #[arg(long = "partition", value_name = "N")]
    partitions: Vec<u32>,
    /// How much is sent at once
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = batch_bytes)]
    batch_bytes: usize,
    /// End when everything that is there now is forwarded
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    server: ServerFlags,
}

fn batch_bytes(text: &str) -> Result<usize, String> {
    let size: Size = text.parse()?;
    if (BATCH_BYTES_MIN..=BATCH_BYTES_MAX).contains(&size.0) {
        Ok(size.len())
    } else {
        Err("a batch has 1KiB to 8MiB".to_owned())
    }
}

/// Forwards until it is told to stop, or to the end.
pub fn run(args: &ForwardArgs) -> Result<()> {
    let source = Source::new(args.server.client()?.base(), &args.stream, &args.cursor, args.batch_bytes);
    let target = Target::parse(&args.to, args.target_stream.as_deref().unwrap_or(&args.stream), args.target_stream.is_some())?;
    if target.is_stream_at(source.base(), &args.stream) {
        bail!("{} at {} would be forwarded to itself", args.stream, source.base());
    }
    let bar = progress_bar();
    let gate = Arc::new(Gate::new(bar.clone()));
    stop_on_signals(&gate)?;
    let begun = Instant::now();
    let outcome = match start(args, &source, &target, &gate) {
        Ok(()) => watch(args, &gate, &bar, &target),
        // Nothing was forwarded yet that a line could report.
        Err(ended) => return ended.into_result(args.once),
    };
    bar.finish_and_clear();
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("forwarded {} of {} to {target} in {seconds:.1} s", count(gate.counters.records(), "record"), args.stream);
    outcome
}

/// Looks at both sides and starts the workers.
fn start(args: &ForwardArgs, source: &Source, target: &Target, gate: &Arc<Gate>) -> Result<(), Ended> {
    let ends = gate.retry(&args.stream, || source.partitions())?;
    let chosen = chosen(args, &ends).map_err(Ended::Failed)?;
    let needed = chosen.iter().map(|(partition, _)| *partition).max().map_or(0, |highest| u64::from(highest) + 1);
    gate.retry(&args.stream, || target.check(needed))?;
    let mut workers: Vec<Worker> = Vec::new();
    for (at, (partition, end)) in chosen.into_iter().enumerate() {
        if at < WORKERS_MAX {
            workers.push(Worker::new(source.clone(), target.clone(), Arc::clone(gate)));
        }
        workers[at % WORKERS_MAX].take(partition, args.once.then_some(end));
    }
    for worker in workers {
        gate.started();
        let spawned = thread::Builder::new().name("forward".to_owned()).spawn(move || worker.run());
        spawned.context("starting a thread").map_err(Ended::Failed)?;
    }
    Ok(())
}

/// The partitions that are meant, each with its end.
fn chosen(args: &ForwardArgs, ends: &[(u32, u64)]) -> Result<Vec<(u32, u64)>> {
    if let Some(unknown) = args.partitions.iter().find(|wanted| ends.iter().all(|(partition, _)| partition != *wanted)) {
        bail!("{} has no partition {unknown}, it has {}, counted from 0", args.stream, ends.len());
    }
    let all = args.partitions.is_empty();
    Ok(ends.iter().filter(|(partition, _)| all || args.partitions.contains(partition)).copied().collect())
}

/// Shows how it goes until it ends.
fn watch(args: &ForwardArgs, gate: &Gate, bar: &ProgressBar, target: &Target) -> Result<()> {
    let (mut reported, mut records_before) = (Instant::now(), 0);
    loop {
        let ended = gate.wait_for_end(DRAW);
        let counters = &gate.counters;
        bar.set_message(format!("{} → {target}: {counters}", args.stream));
        if bar.is_hidden() && reported.elapsed() >= REPORT && counters.records() != records_before {
            gate.talk(&format!("{} → {target}: {counters}", args.stream));
            (reported, records_before) = (Instant::now(), counters.records());
        }
        if let Some(ended) = ended {
            return ended.into_result(args.once);
        }
    }
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is whole");
    ProgressBar::new_spinner().with_style(style)
}

/// SIGTERM and SIGINT end it when the batches in flight are done; a second one ends it at once.
fn stop_on_signals(gate: &Arc<Gate>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let gate = Arc::clone(gate);
    let listen = move || {
        runtime.block_on(async {
            let mut either = async || {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            either().await;
            gate.stop();
            either().await;
            std::process::exit(1);
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_have_bounds() {
        assert_eq!((batch_bytes("1KiB"), batch_bytes("8MiB")), (Ok(1 << 10), Ok(8 << 20)));
        for bad in ["1", "9MiB", "much"] {
            assert!(batch_bytes(bad).is_err(), "{bad}");
        }
    }
}
