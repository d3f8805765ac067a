//! What the log remembers of idempotent producers, so that a batch that is sent twice is stored once.
//!
//! The owner of a partition asks it before a batch gets offsets. It is derived: rebuilt from the batches of the active segment on
//! top of the table in the footer of the segment before.
//!
//! # Format
//! `docs/format.md`, "Producer table".
//!
//! # Invariants
//! - The last [`BATCHES_KEPT`] batches of each producer are known; sequences within an epoch are dense.
//! - At most [`PRODUCERS_MAX`] producers are known; the one that was silent longest is forgotten first.

use std::collections::{HashMap, VecDeque};

use crate::frame::batch::ProducerSequence;
use crate::types::{Offset, len_u32};

/// Batches of a producer that can be recognised when they come again, as in Kafka.
const BATCHES_KEPT: usize = 5;
/// Producers known to one partition.
const PRODUCERS_MAX: usize = 4_096;

/// Who sends a batch, and which of theirs it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub id: i64,
    pub epoch: i16,
    /// The number of its first record among all that the producer sent to this partition in this epoch.
    pub sequence: i32,
    /// Its records.
    pub count: u32,
}

impl Sent {
    /// A batch of `count` records.
    pub fn new(producer: ProducerSequence, count: u32) -> Self {
        let ProducerSequence { id, epoch, sequence } = producer;
        Self { id, epoch, sequence, count }
    }
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the next one.
    New,
    /// It is in the log since before, from this offset on.
    Duplicate(Offset),
    /// Batches are missing in front of it, or it is older than what is remembered.
    OutOfOrder { expected: i32 },
    /// A younger instance of the producer took over.
    Fenced { epoch: i16 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    sequence: i32,
    count: u32,
    base_offset: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    kept: VecDeque<Kept>,
}

impl Producer {
    fn next_sequence(&self) -> Option<i32> {
        self.kept.back().map(|last| following(last.sequence, last.count))
    }

    fn last_offset(&self) -> Offset {
        self.kept.back().map_or(Offset::ZERO, |last| last.base_offset)
    }
}

/// Sequences wrap to 0 behind `i32::MAX`, as in Kafka.
fn following(sequence: i32, count: u32) -> i32 {
    let next = (i64::from(sequence) + i64::from(count)) % (i64::from(i32::MAX) + 1);
    i32::try_from(next).expect("reduced to 31 bits")
}

/// See the module docs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    known: HashMap<i64, Producer>,
}

impl Producers {
    /// Judges a batch before it gets offsets. A producer that is not known, or starts a new epoch, may begin anywhere.
    pub fn judge(&self, sent: &Sent) -> Verdict {
        let Some(producer) = self.known.get(&sent.id) else { return Verdict::New };
        if sent.epoch < producer.epoch {
            return Verdict::Fenced { epoch: producer.epoch };
        }
        if sent.epoch > producer.epoch {
            return Verdict::New;
        }
        let same = |kept: &&Kept| kept.sequence == sent.sequence && kept.count == sent.count;
        if let Some(kept) = producer.kept.iter().find(same) {
            return Verdict::Duplicate(kept.base_offset);
        }
        match producer.next_sequence() {
            Some(expected) if expected != sent.sequence => Verdict::OutOfOrder { expected },
            _ => Verdict::New,
        }
    }

    /// Remembers a batch that is in the log.
    pub fn note(&mut self, sent: &Sent, base_offset: Offset) {
        if !self.known.contains_key(&sent.id) && self.known.len() >= PRODUCERS_MAX {
            let silent = self.known.iter().min_by_key(|(_, producer)| producer.last_offset()).map(|(id, _)| *id);
            silent.and_then(|id| self.known.remove(&id));
        }
        let fresh = || Producer { epoch: sent.epoch, kept: VecDeque::new() };
        let producer = self.known.entry(sent.id).or_insert_with(fresh);
        if producer.epoch != sent.epoch {
            *producer = fresh();
        }
        if producer.kept.len() == BATCHES_KEPT {
            producer.kept.pop_front();
        }
        producer.kept.push_back(Kept { sequence: sent.sequence, count: sent.count, base_offset });
    }

    /// An upper bound of what [`Self::encode`] adds.
    pub fn len_bytes(&self) -> usize {
        4 + self.known.len() * (11 + BATCHES_KEPT * 16)
    }

    /// Appends the table, ordered by id so that equal tables have equal bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&len_u32(self.known.len()).to_le_bytes());
        let mut ids: Vec<&i64> = self.known.keys().collect();
        ids.sort_unstable();
        for id in ids {
            let producer = &self.known[id];
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&producer.epoch.to_le_bytes());
            out.push(u8::try_from(producer.kept.len()).expect("five at most"));
            for kept in &producer.kept {
                out.extend_from_slice(&kept.sequence.to_le_bytes());
                out.extend_from_slice(&kept.count.to_le_bytes());
                out.extend_from_slice(&kept.base_offset.value().to_le_bytes());
            }
        }
    }

    /// Reads a table off the front of `raw`; `None` when it is not whole.
    pub fn decode(raw: &mut &[u8]) -> Option<Self> {
        let mut known = HashMap::new();
        let producers = u32::from_le_bytes(take(raw)?) as usize;
        if producers > PRODUCERS_MAX {
            return None;
        }
        for _ in 0..producers {
            let id = i64::from_le_bytes(take(raw)?);
            let epoch = i16::from_le_bytes(take(raw)?);
            let count = usize::from(take::<1>(raw)?[0]);
            if count > BATCHES_KEPT {
                return None;
            }
            let mut kept = VecDeque::with_capacity(BATCHES_KEPT);
            for _ in 0..count {
                let (sequence, count) = (i32::from_le_bytes(take(raw)?), u32::from_le_bytes(take(raw)?));
                kept.push_back(Kept { sequence, count, base_offset: Offset::new(u64::from_le_bytes(take(raw)?)) });
            }
            known.insert(id, Producer { epoch, kept });
        }
        Some(Self { known })
    }
}

/// The next `N` bytes of `raw`.
pub(crate) fn take<const N: usize>(raw: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = raw.split_first_chunk::<N>()?;
    *raw = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(epoch: i16, sequence: i32, count: u32) -> Sent {
        Sent { id: 7, epoch, sequence, count }
    }

    #[test]
    fn a_batch_sent_again_is_found_among_the_last_five() {
        let mut producers = Producers::default();
        for n in 0..8_u32 {
            let batch = sent(0, i32::try_from(n * 3).unwrap(), 3);
            assert_eq!(producers.judge(&batch), Verdict::New);
            producers.note(&batch, Offset::new(u64::from(n) * 10));
        }
        assert_eq!(producers.judge(&sent(0, 21, 3)), Verdict::Duplicate(Offset::new(70)));
        assert_eq!(producers.judge(&sent(0, 9, 3)), Verdict::Duplicate(Offset::new(30)));
        assert_eq!(producers.judge(&sent(0, 6, 3)), Verdict::OutOfOrder { expected: 24 }, "too old to be known");
        assert_eq!(producers.judge(&sent(0, 27, 1)), Verdict::OutOfOrder { expected: 24 }, "a gap");
        assert_eq!(producers.judge(&sent(1, 0, 1)), Verdict::New, "a new epoch starts anew");
        producers.note(&sent(1, 0, 1), Offset::new(90));
        assert_eq!(producers.judge(&sent(0, 24, 1)), Verdict::Fenced { epoch: 1 });
    }

    #[test]
    fn sequences_wrap_and_tables_come_back() {
        let mut producers = Producers::default();
        producers.note(&sent(3, i32::MAX, 2), Offset::new(5));
        assert_eq!(producers.judge(&sent(3, 1, 4)), Verdict::New);
        producers.note(&Sent { id: -1 >> 1, ..sent(0, 0, 1) }, Offset::new(6));
        let mut raw = Vec::new();
        producers.encode(&mut raw);
        assert!(raw.len() <= producers.len_bytes());
        assert_eq!(Producers::decode(&mut &raw[..]), Some(producers));
        assert_eq!(Producers::decode(&mut &raw[..raw.len() - 1]), None);
    }

    #[test]
    fn the_producer_that_was_silent_longest_is_forgotten() {
        let mut producers = Producers::default();
        for n in 0..=PRODUCERS_MAX as u64 {
            let id = i64::try_from(n).unwrap();
            producers.note(&Sent { id, epoch: 0, sequence: 0, count: 1 }, Offset::new(n));
        }
        assert_eq!(producers.known.len(), PRODUCERS_MAX);
        assert!(!producers.known.contains_key(&0));
    }
}
