//! What was sent to partitions, and what of it must, may and must not be found after a stop.
//!
//! A [`Track`] is the model of one partition over one life of the log: what it held before, and the requests since with their
//! answers. [`Track::check`] judges what a later life finds.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by several test programs")]

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use logcore::frame::FrameKind;
use logcore::partition::{Health, PartitionOptions};
use logcore::{
    AckClass, Batch, BatchBuilder, Compression, NewRecord, Offset, Partition, PartitionRef, ProducerSequence, Proposal, Result,
    TimestampMillis,
};

/// Why a check failed.
pub type Verdict = std::result::Result<(), String>;

/// `ensure!(condition, "why {not}")` ends a function that gives a [`Verdict`].
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}

/// A record as it was sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Sent {
    pub key: Vec<u8>,
    /// `None` deletes the key.
    pub value: Option<Vec<u8>>,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(24)]).into_owned();
        write!(
            f,
            "{:?}: {:?}, {} bytes",
            start(&self.key),
            self.value.as_deref().map(start),
            self.value.as_ref().map_or(0, Vec::len)
        )
    }
}

/// Records with their offsets, in order.
pub type Records = Vec<(u64, Sent)>;

/// One append.
#[derive(Clone, Debug)]
pub struct Request {
    pub records: Vec<Sent>,
    pub producer: Option<ProducerSequence>,
    pub ack: AckClass,
    pub timestamp: i64,
    /// The offset that was answered.
    pub base: Option<u64>,
    /// The mark behind the answer; `u64::MAX` before.
    pub mark: u64,
}

impl Request {
    pub fn new(records: Vec<Sent>) -> Self {
        Self { records, producer: None, ack: AckClass::Memory, timestamp: 0, base: None, mark: u64::MAX }
    }

    pub fn proposal(&self) -> Proposal {
        let mut builder = BatchBuilder::new();
        if let Some(producer) = self.producer {
            builder = builder.produced_by(producer).unwrap();
        }
        for sent in &self.records {
            let timestamp = TimestampMillis::new(self.timestamp);
            builder.push(&NewRecord { key: Some(&sent.key), value: sent.value.as_deref(), headers: &[], timestamp });
        }
        Proposal::from_records(builder, Compression::None).unwrap().acknowledged(self.ack)
    }
}

/// A record that may be at an offset.
#[derive(Clone, Debug)]
struct Slot {
    offset: u64,
    sent: Sent,
    /// From this mark on the offset was known to someone.
    given: u64,
    /// From this mark on it must be there.
    durable: u64,
    /// The first offset of its batch.
    batch: u64,
}

/// See the module docs.
#[derive(Clone)]
pub struct Track {
    pub id: PartitionRef,
    pub options: PartitionOptions,
    /// Found when this life began; durable.
    pub before: Records,
    /// Where the log ended then; given out and lost offsets lie below as well.
    pub given_below: u64,
    pub requests: Vec<Request>,
    slots: Vec<Slot>,
}

impl Track {
    pub fn new(id: PartitionRef, options: PartitionOptions) -> Self {
        Self { id, options, before: Vec::new(), given_below: 0, requests: Vec::new(), slots: Vec::new() }
    }

    /// The options for a life in which nothing is dropped or rewritten.
    pub fn options_as_it_is(&self) -> PartitionOptions {
        PartitionOptions { retention: Default::default(), compaction: None, ..self.options.clone() }
    }

    /// Takes up the answers: called once, when the life that is checked for is over.
    pub fn settle(&mut self) -> Verdict {
        let mut slots: Vec<Slot> = Vec::new();
        for (offset, sent) in &self.before {
            slots.push(Slot { offset: *offset, sent: sent.clone(), given: 0, durable: 0, batch: *offset });
        }
        for request in &self.requests {
            let Some(base) = request.base else { continue };
            ensure!(base >= self.given_below, "offset {base} was given out although {} was reached before", self.given_below);
            let class = self.options.ack.max(request.ack);
            let durable = if class == AckClass::Disk { request.mark } else { u64::MAX };
            for (n, sent) in (0..).zip(&request.records) {
                slots.push(Slot { offset: base + n, sent: sent.clone(), given: request.mark, durable, batch: base });
            }
        }
        slots.sort_by_key(|slot| slot.offset);
        if let Some(pair) = slots.windows(2).find(|pair| pair[0].offset == pair[1].offset) {
            return Err(format!("offset {} was given out twice", pair[0].offset));
        }
        self.slots = slots;
        Ok(())
    }

    /// Judges what is found in a later life: `found` from `log_start` on up to `end`, after the last known mark `marked`.
    pub fn check(&self, found: &[(u64, Sent)], log_start: u64, end: u64, marked: u64) -> Verdict {
        let last = found.last().map(|(offset, _)| *offset);
        ensure!(last.is_none_or(|last| last < end), "offset {last:?} is found, but the log ends at {end}");
        let compacts = self.options.compaction.is_some();
        let mut newest: HashMap<&[u8], u64> = HashMap::new();
        if compacts {
            newest.extend(self.slots.iter().filter(|slot| slot.offset < end).map(|slot| (&slot.sent.key[..], slot.offset)));
        }
        let mut rest = found.iter().peekable();
        for slot in &self.slots {
            if let Some((offset, _)) = rest.next_if(|(offset, _)| *offset < slot.offset) {
                return Err(format!("nobody sent what is at offset {offset}"));
            }
            if let Some((offset, sent)) = rest.next_if(|(offset, _)| *offset == slot.offset) {
                ensure!(*sent == slot.sent, "offset {offset} holds another record than the one sent: {sent:?}");
                continue;
            }
            if slot.offset < log_start {
                continue;
            }
            let superseded =
                || slot.sent.value.is_none() || newest.get(&slot.sent.key[..]).is_some_and(|last| *last > slot.offset);
            if compacts && slot.offset < end && superseded() {
                continue;
            }
            ensure!(slot.durable > marked, "the acknowledged record at offset {} is lost", slot.offset);
            ensure!(last.is_none_or(|last| last < slot.offset), "offset {} is missing, {last:?} is there", slot.offset);
        }
        if let Some((offset, _)) = rest.next() {
            return Err(format!("nobody sent what is at offset {offset}"));
        }
        let dense = self.options.ack == AckClass::Disk && !compacts;
        ensure!(!dense || last.is_none_or(|last| last + 1 == end), "the log ends at {end}, its last record is at {last:?}");
        let torn = self.slots.iter().find(|slot| last.is_some_and(|last| slot.batch <= last && last < slot.offset));
        ensure!(compacts || torn.is_none(), "a part of a batch is there, without {:?}", torn.map(|slot| slot.offset));
        self.check_start(log_start, end)
    }

    /// Retention keeps at least what it promises.
    fn check_start(&self, log_start: u64, end: u64) -> Verdict {
        let first = self.slots.first().map_or(end, |slot| slot.offset);
        let retention = &self.options.retention;
        let other_bounds = retention.bytes.is_some() || retention.age.is_some() || retention.consumed;
        match retention.records {
            _ if log_start <= first || other_bounds => Ok(()),
            Some(kept) if end - log_start >= kept => Ok(()),
            bound => Err(format!("the log starts at offset {log_start} and ends at {end}, retention is {bound:?} records")),
        }
    }

    /// No offset that was given out before the mark `marked` may name what was appended at `base` later.
    pub fn check_next(&self, base: u64, end: u64, marked: u64) -> Verdict {
        let seen = self.slots.iter().rev().find(|slot| slot.given <= marked);
        let reached = seen.map_or(0, |slot| slot.offset + 1).max(end).max(self.given_below);
        ensure!(base >= reached, "offset {base} names another record although {reached} was reached before");
        ensure!(self.options.ack == AckClass::Memory || base == end, "offset {base} does not follow the end {end}");
        Ok(())
    }

    /// The same partition in a life that begins with `found`, when `marked` was known.
    pub fn go_on(&self, found: Records, end: u64, marked: u64) -> Self {
        let given = self.slots.iter().filter(|slot| slot.given <= marked).map(|slot| slot.offset + 1).max();
        let given_below = given.unwrap_or(0).max(end).max(self.given_below);
        Self { before: found, given_below, requests: Vec::new(), slots: Vec::new(), id: self.id, options: self.options.clone() }
    }

    /// A request that may have been answered by now, and what it then answered.
    pub fn answered(&self, marked: u64) -> impl DoubleEndedIterator<Item = (&Request, u64)> {
        self.requests.iter().filter(move |request| request.mark <= marked).filter_map(|request| Some((request, request.base?)))
    }
}

/// Everything that can be read from `from` on, by whatever path the reader takes.
pub fn read_from(partition: &Partition, from: u64) -> Result<Records> {
    let (mut next, mut out) = (Offset::new(from), Vec::new());
    loop {
        let frames = partition.read(next, 64 << 10)?;
        let Some(last) = frames.last() else { return Ok(out) };
        next = last.end_offset();
        for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
            for record in Batch::open(&frame.body)?.records() {
                let record = record?;
                if record.offset.value() >= from {
                    let sent = Sent { key: record.key.unwrap_or_default().to_vec(), value: record.value.map(<[u8]>::to_vec) };
                    out.push((record.offset.value(), sent));
                }
            }
        }
    }
}

/// Everything that is kept. A file may be dropped or rewritten under the reader: then it starts again.
pub fn read_kept(partition: &Partition) -> Result<(u64, Records)> {
    loop {
        let log_start = partition.log_start().value();
        match read_from(partition, log_start) {
            Err(_) if partition.log_start().value() != log_start => {}
            read => return Ok((log_start, read?)),
        }
    }
}

/// What a partition says of itself when nothing is wrong with it.
pub fn check_healthy(partition: &Arc<Partition>) -> Verdict {
    let health = partition.health();
    ensure!(health == Health::Healthy, "torn is not corrupt: {health:?}");
    let status = partition.status();
    let chain = [status.log_start, status.flushed, status.committed, status.appended];
    ensure!(chain.is_sorted() && status.flushed == status.appended, "{chain:?} after a start");
    Ok(())
}

/// The answers of one life in the order of their marks, which are their places in it, from 1 on.
pub fn take_answers(tracks: &mut [Track], answers: &[(usize, usize, u64)]) {
    for (mark, (track, request, base)) in (1..).zip(answers) {
        let request = &mut tracks[*track].requests[*request];
        (request.base, request.mark) = (Some(*base), mark);
    }
}

/// A table of what is where, for messages.
pub fn sketch(found: &[(u64, Sent)]) -> BTreeMap<u64, usize> {
    found.iter().map(|(offset, sent)| (*offset, sent.value.as_ref().map_or(0, Vec::len))).collect()
}
