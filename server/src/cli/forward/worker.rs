//! A thread that forwards some partitions in turn, each in order and one batch at a time; usually it has one.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::batch::{Batch, Page};
use super::gate::{Ended, Gate};
use super::http::Fault;
use super::source::{Found, Source};
use super::target::Target;

/// How long a read of the only partition waits for records.
const WAIT: Duration = Duration::from_secs(10);
/// With several partitions: how long one is waited for when none had any.
const WAIT_SHORT: Duration = Duration::from_millis(200);

/// See the module docs.
pub struct Worker {
    source: Source,
    target: Target,
    gate: Arc<Gate>,
    parts: VecDeque<Part>,
}

struct Part {
    partition: u32,
    /// Where its cursor is; unknown until the first read.
    next: Option<u64>,
    /// Where it is done, if ever.
    until: Option<u64>,
    /// Whether this process has the cursor for itself, as far as it can know: it moved it, or gave way once.
    own: bool,
}

/// What a look at a partition came to.
enum Step {
    Forwarded,
    NothingThere,
    Done,
}

impl Worker {
    /// A worker without partitions.
    pub fn new(source: Source, target: Target, gate: Arc<Gate>) -> Self {
        Self { source, target, gate, parts: VecDeque::new() }
    }

    /// Gives it a partition, to be forwarded up to that offset or for ever.
    pub fn take(&mut self, partition: u32, until: Option<u64>) {
        self.parts.push_back(Part { partition, next: None, until, own: false });
    }

    /// Forwards until it is stopped, fails or is done.
    pub fn run(mut self) {
        // Without this a bug in one thread would leave the others running as if nothing were missing.
        let ended = catch_unwind(AssertUnwindSafe(|| self.forward()));
        self.gate.ended(ended.unwrap_or_else(|_| Ended::Failed(anyhow::anyhow!("a thread of the forwarder met a bug"))));
    }

    fn forward(&mut self) -> Ended {
        // How many looks in a row found nothing.
        let mut quiet = 0;
        while let Some(mut part) = self.parts.pop_front() {
            let wait = match self.parts.len() {
                others if quiet <= others || part.until.is_some() => Duration::ZERO,
                0 => WAIT,
                _ => WAIT_SHORT,
            };
            match self.step(&mut part, wait) {
                Ok(Step::Forwarded) => quiet = 0,
                Ok(Step::NothingThere) => quiet += 1,
                Ok(Step::Done) => continue,
                Err(ended) => return ended,
            }
            self.parts.push_back(part);
        }
        Ended::Done
    }

    /// Forwards a page of a partition.
    fn step(&self, part: &mut Part, wait: Duration) -> Result<Step, Ended> {
        let partition = part.partition;
        let place = self.source.place(partition);
        let next = match part.next {
            Some(next) => next,
            None => self.gate.retry(&place, || self.source.begin(partition))?,
        };
        part.next = Some(next);
        if part.until.is_some_and(|until| next >= until) {
            return Ok(Step::Done);
        }
        if self.gate.is_stopping() {
            return Err(Ended::Stopped);
        }
        let text = self.gate.retry(&place, || self.read(partition, next, wait))?;
        let page = Page::parse(&text).with_context(|| format!("reading {place} at {next}")).map_err(Ended::Failed)?;
        let mut at = next;
        for batch in page.batches(self.source.batch_bytes()) {
            at = self.carry(&place, part, at, &batch)?;
            part.next = Some(at);
            self.gate.counters.set_lag(partition, page.end_offset.saturating_sub(at));
            if at != batch.next_offset {
                return Ok(Step::Forwarded);
            }
        }
        if at < page.next_offset {
            // Nothing but what compaction took out.
            let _busy = self.gate.begin().ok_or(Ended::Stopped)?;
            part.next = Some(self.advance(&place, part, at, page.next_offset)?);
        }
        Ok(if part.next == Some(next) { Step::NothingThere } else { Step::Forwarded })
    }

    fn read(&self, partition: u32, next: u64, wait: Duration) -> Result<Vec<u8>, Fault> {
        match self.source.read(partition, next, wait) {
            Err(Fault::Refused(refusal)) if refusal.status == 400 => {
                Err(Fault::Refused(self.source.explain_read(partition, next, refusal)?))
            }
            read => read,
        }
    }

    /// Sends a batch until it is confirmed, then moves the cursor behind it; gives where the cursor is.
    fn carry(&self, place: &str, part: &mut Part, from: u64, batch: &Batch<'_>) -> Result<u64, Ended> {
        let _busy = self.gate.begin().ok_or(Ended::Stopped)?;
        let (first, last) = batch.range();
        let delivered = self.gate.retry(place, || self.target.deliver(part.partition, batch));
        delivered.map_err(|ended| match ended {
            Ended::Failed(error) => {
                Ended::Failed(error.context(format!("the target refused the records {first} to {last} of {place}")))
            }
            Ended::Stopped => {
                self.gate.talk(&format!("{place}: the records {first} to {last} are not confirmed and are sent again next time"));
                Ended::Stopped
            }
            Ended::Done => Ended::Done,
        })?;
        self.gate.counters.add(batch.records.len(), batch.bytes());
        self.advance(place, part, from, batch.next_offset).inspect_err(|_| {
            self.gate.talk(&format!(
                "{place}: the records {first} to {last} are forwarded, but this forwarder did not move the cursor behind them"
            ));
        })
    }

    /// Moves the cursor; gives where it is.
    ///
    /// A request of a forwarder that was killed may be carried out after this one has read the cursor. So the first time that the
    /// cursor is found further on this one goes on from there; from then on whoever moves it is another one that runs.
    fn advance(&self, place: &str, part: &mut Part, from: u64, to: u64) -> Result<u64, Ended> {
        let mut unsure = false;
        let found = self.gate.retry(place, || {
            let moved = self.source.advance(part.partition, from, to, unsure);
            unsure = true;
            moved
        })?;
        let first = !std::mem::replace(&mut part.own, true);
        match found {
            None => Ok(to),
            Some(Found::At(found)) if first && found > from => {
                self.gate
                    .talk(&format!("{place}: the cursor was moved to {found} by a forwarder before this one, going on there"));
                Ok(found)
            }
            Some(found) => Err(Ended::Failed(self.source.taken(part.partition, from, found).into())),
        }
    }
}
