//! What partitions cost that nobody uses: memory, and time to open them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use logcore::partition::APPEND_TIMEOUT;
use logcore::{Log, Partition, Proposal, TimestampMillis};
use serde::Serialize;

use super::args::{LogArgs, Plan};
use super::meter::process_bytes;
use super::open::{Folder, open_log, open_partitions};
use super::payload::Payload;

/// Idle partitions have given back what they could after this long at the latest.
const SETTLE_MAX: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
/// Appends that wait for their answers at a time.
const WINDOW: usize = 64;

/// What came out.
#[derive(Debug, Serialize)]
pub struct IdleReport {
    /// Partitions with a batch each.
    pub partitions: u32,
    /// The process before the first was opened.
    pub rss_bytes_before: Option<u64>,
    /// The process when they were idle.
    pub rss_bytes: Option<u64>,
    /// Bytes of the RAM tier then.
    pub ram_bytes: u64,
    /// Creating them.
    pub create_ms: f64,
    /// Opening all of them after an unclean stop.
    pub open_ms: f64,
    /// Opening all of them after a clean stop.
    pub open_clean_ms: f64,
}

/// Creates partitions, leaves them alone, and opens them again.
pub fn measure(folder: &Folder, args: &LogArgs, plan: &Plan) -> Result<IdleReport> {
    let payload = Payload::new(plan, true);
    let log = open_log(folder, args, plan)?;
    let rss_bytes_before = process_bytes("VmRSS");
    let begun = Instant::now();
    let partitions = open_partitions(&log, args, plan)?;
    let create_ms = milliseconds(begun);
    append_to_each(&partitions, &payload, plan)?;
    let settle = Instant::now();
    while log.memory_bytes().0 > 0 && settle.elapsed() < SETTLE_MAX {
        std::thread::sleep(LOOK);
    }
    let (rss_bytes, ram_bytes) = (process_bytes("VmRSS"), log.memory_bytes().0);
    drop(partitions);
    drop(log);

    let begun = Instant::now();
    let log = open_log(folder, args, plan)?;
    drop(open_partitions(&log, args, plan)?);
    let open_ms = milliseconds(begun);
    log.close().context("closing the log")?;
    drop(log);

    let begun = Instant::now();
    let log: Log = open_log(folder, args, plan)?;
    drop(open_partitions(&log, args, plan)?);
    let open_clean_ms = milliseconds(begun);
    log.close().context("closing the log")?;
    let partitions = args.partitions;
    Ok(IdleReport { partitions, rss_bytes_before, rss_bytes, ram_bytes, create_ms, open_ms, open_clean_ms })
}

fn append_to_each(partitions: &[Arc<Partition>], payload: &Payload, plan: &Plan) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let batch = payload.batch(&mut payload.value(0), 0, TimestampMillis::new(0));
    for group in partitions.chunks(WINDOW) {
        let mut tickets = Vec::with_capacity(group.len());
        for partition in group {
            let proposal = Proposal::new(batch.clone())?.acknowledged(plan.ack);
            tickets.push(runtime.block_on(partition.append(proposal, Instant::now() + APPEND_TIMEOUT))?);
        }
        for ticket in tickets {
            ticket.wait()?;
        }
    }
    Ok(())
}

/// Since `begun`.
pub fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}
