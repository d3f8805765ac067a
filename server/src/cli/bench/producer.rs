//! A producer: builds batches, appends them, keeps a window of them under way, and times the answers.
//!
//! # Concurrency
//! One thread each. It polls the answers itself and parks in between: a thread that only waits would take the log's share of a
//! small machine. An answer is noticed when the thread looks, between two batches at the latest.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use futures::Stream;
use futures::stream::FuturesUnordered;
use logcore::partition::APPEND_TIMEOUT;
use logcore::{AckClass, Appended, Error, ErrorKind, Partition, Proposal, Ticket, TimestampMillis};

use super::meter::{Meter, ProducerMeter};
use super::payload::Payload;

/// What a producer is given.
pub struct Producer<'r> {
    /// From 0.
    pub number: u32,
    /// Taken in turn.
    pub partitions: Vec<Arc<Partition>>,
    /// What to append.
    pub payload: &'r Payload,
    /// One batch for all appends, instead of building each.
    pub prebuilt: bool,
    /// The class asked for.
    pub ack: AckClass,
    /// Batches under way at most.
    pub in_flight: usize,
    /// Batches of all producers at most.
    pub batches_max: u64,
    /// Between two batches.
    pub interval: Option<Duration>,
    /// When the first batch is due.
    pub first: Instant,
    /// When no further batch is begun.
    pub end: Instant,
    /// Where to count.
    pub meter: &'r Meter,
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The answer to one batch, and when it was due.
type Answer = (Instant, Result<Appended, Error>);

async fn answer(due: Instant, ticket: Ticket) -> Answer {
    (due, ticket.committed().await)
}

impl Producer<'_> {
    /// Appends until the end, then waits for all answers. The thread must be in a runtime, whose timers bound the waiting for
    /// room in the queue.
    ///
    /// # Errors
    /// When the log takes no more appends. What is only refused for now is counted.
    pub fn run(&self) -> Result<()> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut under_way = pin!(FuturesUnordered::new());
        let mut value = self.payload.value(self.number);
        let prebuilt = self.prebuilt.then(|| self.payload.batch(&mut value, 0, now()));
        let mut numbers = vec![0_u64; self.partitions.len()];
        let mut due = self.first;
        for turn in (0..self.partitions.len()).cycle() {
            if !self.wait_for_turn(due, under_way.as_mut(), &mut context)? {
                break;
            }
            let begun = Instant::now();
            let number = &mut numbers[turn];
            let batch = prebuilt.clone().unwrap_or_else(|| self.payload.batch(&mut value, *number, now()));
            *number += self.payload.records_per_batch() as u64;
            let proposal = Proposal::new(batch)?.acknowledged(self.ack);
            let mut appending = pin!(self.partitions[turn].append(proposal, begun + APPEND_TIMEOUT));
            let ticket = loop {
                match appending.as_mut().poll(&mut context) {
                    Poll::Ready(ticket) => break ticket,
                    Poll::Pending => {
                        self.take_answers(under_way.as_mut(), &mut context)?;
                        std::thread::park();
                    }
                }
            };
            let counted_from = if self.interval.is_some() { due } else { begun };
            match ticket {
                Ok(ticket) => under_way.push(answer(counted_from, ticket)),
                Err(error) => self.refused(error)?,
            }
            due += self.interval.unwrap_or_default();
        }
        self.count_unsent(due);
        while !under_way.is_empty() {
            self.take_answers(under_way.as_mut(), &mut context)?;
            if !under_way.is_empty() {
                std::thread::park();
            }
        }
        Ok(())
    }

    fn meter(&self) -> &ProducerMeter {
        &self.meter.producers[usize::try_from(self.number).expect("64-bit machines only")]
    }

    /// Waits until a batch may be sent; `false` when there is none to send any more.
    fn wait_for_turn<F: Future<Output = Answer>>(
        &self,
        due: Instant,
        mut under_way: Pin<&mut FuturesUnordered<F>>,
        context: &mut Context<'_>,
    ) -> Result<bool> {
        loop {
            self.take_answers(under_way.as_mut(), context)?;
            let now = Instant::now();
            if now >= self.end {
                return Ok(false);
            }
            if under_way.len() >= self.in_flight {
                std::thread::park();
            } else if self.interval.is_some() && now < due {
                std::thread::park_timeout(due.min(self.end) - now);
            } else {
                return Ok(self.meter.batches.fetch_add(1, Ordering::Relaxed) < self.batches_max);
            }
        }
    }

    /// Counts what has been answered.
    fn take_answers<F: Future<Output = Answer>>(
        &self,
        mut under_way: Pin<&mut FuturesUnordered<F>>,
        context: &mut Context<'_>,
    ) -> Result<()> {
        while let Poll::Ready(Some((due, answer))) = under_way.as_mut().poll_next(context) {
            match answer {
                Ok(appended) => {
                    ensure!(appended.ack >= self.ack, "an append with ack {} was answered with {}", self.ack, appended.ack);
                    self.meter().acknowledged(u64::from(appended.count), due.elapsed());
                }
                Err(error) => self.refused(error)?,
            }
        }
        Ok(())
    }

    fn refused(&self, error: Error) -> Result<()> {
        let counter = match error.kind() {
            ErrorKind::Throttled => &self.meter().throttled,
            ErrorKind::NoSpace => &self.meter().refused,
            _ => return Err(error).context("the log takes no more appends"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Batches that were due before the end: what a stall kept from being sent must not vanish from the picture.
    fn count_unsent(&self, due: Instant) {
        if let Some(interval) = self.interval
            && self.meter.batches.load(Ordering::Relaxed) <= self.batches_max
        {
            let left = self.end.saturating_duration_since(due).as_nanos().div_ceil(interval.as_nanos().max(1));
            self.meter().unsent.fetch_add(u64::try_from(left).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

fn now() -> TimestampMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMillis::new(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
