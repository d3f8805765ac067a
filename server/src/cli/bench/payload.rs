//! What the producers append, and the check that what is read is that.
//!
//! A value begins with who appended it: the producer's number (u32) and the record's number among those this producer appended
//! to the same partition (u64), little-endian. The rest is a filler that reader and producer know.
//!
//! # Invariants
//! - Records of one producer come in their order; one is missing only where an append was refused.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use logcore::frame::{Frame, FrameKind};
use logcore::{Batch, BatchBuilder, Compression, NewRecord, Offset, PartitionRef, TimestampMillis};

use super::args::Plan;

/// Producer and number.
pub const HEADER_BYTES: usize = 12;
/// Fillers of packed batches begin at one of so many places, so that records don't repeat each other.
const SHIFTS: usize = 1021;

/// Makes the values of a run.
pub struct Payload {
    record_bytes: usize,
    records_per_batch: usize,
    compression: Compression,
    /// Longer than a value by [`SHIFTS`].
    filler: Vec<u8>,
    /// Every batch is the same one: numbers begin anew in each.
    prebuilt: bool,
}

impl Payload {
    /// The payload of one run.
    pub fn new(plan: &Plan, prebuilt: bool) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        // Random bytes don't pack; sixteen letters in random order pack to half.
        let letter = |byte: u8| if plan.compression == Compression::None { byte } else { b'a' + byte % 16 };
        let filler = std::iter::repeat_with(|| letter(random())).take(plan.record_bytes + SHIFTS).collect();
        let (record_bytes, records_per_batch) = (plan.record_bytes, plan.records_per_batch);
        Self { record_bytes, records_per_batch, compression: plan.compression, filler, prebuilt }
    }

    /// Records in a batch.
    pub fn records_per_batch(&self) -> usize {
        self.records_per_batch
    }

    fn filler(&self, number: u64) -> &[u8] {
        let shift = match self.compression {
            Compression::None => 0,
            _ => usize::try_from(number % SHIFTS as u64).expect("below the number of shifts"),
        };
        &self.filler[shift..shift + self.record_bytes - HEADER_BYTES]
    }

    /// A buffer for the values of one producer, to be used for all its batches.
    pub fn value(&self, producer: u32) -> Vec<u8> {
        let mut value = producer.to_le_bytes().to_vec();
        value.extend_from_slice(&0_u64.to_le_bytes());
        value.extend_from_slice(self.filler(0));
        value
    }

    /// The batch of the records from number `first` on. `value` came from [`Self::value`].
    pub fn batch(&self, value: &mut [u8], first: u64, timestamp: TimestampMillis) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        for number in first..first + self.records_per_batch as u64 {
            value[4..HEADER_BYTES].copy_from_slice(&number.to_le_bytes());
            if self.compression != Compression::None {
                value[HEADER_BYTES..].copy_from_slice(self.filler(number));
            }
            builder.push(&NewRecord { value: Some(value), timestamp, ..NewRecord::default() });
        }
        builder.finish(self.compression)
    }
}

/// Follows one partition and says where it is not what was appended.
pub struct Checker<'p> {
    payload: &'p Payload,
    partition: PartitionRef,
    /// The offset that comes next.
    next: Offset,
    /// The number that comes next from each producer, where one was seen.
    numbers: Vec<Option<u64>>,
    /// What was seen.
    pub seen: Seen,
}

/// Sums of a [`Checker`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Numbers that were left out: records of refused appends.
    pub missing: u64,
}

impl Seen {
    /// Both together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self { records: self.records + other.records, bytes: self.bytes + other.bytes, missing: self.missing + other.missing }
    }
}

impl<'p> Checker<'p> {
    /// Begins at `from`.
    pub fn new(payload: &'p Payload, partition: PartitionRef, from: Offset, producers: u32) -> Self {
        let producers = usize::try_from(producers).expect("64-bit machines only");
        // From the first offset on, the first record of every producer is known too.
        let first = (from == Offset::ZERO).then_some(0);
        Self { payload, partition, next: from, numbers: vec![first; producers], seen: Seen::default() }
    }

    /// The offset that comes next.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Looks at what was read from [`Self::next`] on.
    ///
    /// # Errors
    /// The first record that is not what it should be.
    pub fn take(&mut self, frames: &[Frame]) -> Result<()> {
        for frame in frames {
            let covered = frame.header.base_offset..frame.end_offset();
            self.take_frame(frame).with_context(|| {
                format!("{}, batch at offsets {}..{}", self.partition, covered.start.value(), covered.end.value())
            })?;
        }
        Ok(())
    }

    fn take_frame(&mut self, frame: &Frame) -> Result<()> {
        let Range { start, end } = frame.header.base_offset..frame.end_offset();
        if end <= self.next {
            bail!("offset {} was due, this was read before", self.next);
        }
        if frame.header.kind == FrameKind::Batch {
            let batch = Batch::open(&frame.body)?;
            for record in batch.records() {
                let record = record?;
                if record.offset < self.next {
                    // A read starts with the batch that covers the offset asked for.
                    ensure!(start < self.next && self.seen.records == 0, "offset {} came twice", record.offset);
                    continue;
                }
                ensure!(record.offset == self.next, "offset {} was due, {} came", self.next, record.offset);
                self.take_value(start.records_until(record.offset), record.value.unwrap_or_default())
                    .with_context(|| format!("the record at offset {}", record.offset))?;
                self.next = self.next.advance(1);
            }
        } else {
            // Offsets that were never given out.
            self.next = end;
        }
        ensure!(self.next == end, "it ends at offset {}, its records end at {}", end, self.next);
        Ok(())
    }

    fn take_value(&mut self, in_batch: u64, value: &[u8]) -> Result<()> {
        let (producer, rest) = value.split_first_chunk::<4>().context("the value is cut off")?;
        let (number, filler) = rest.split_first_chunk::<8>().context("the value is cut off")?;
        let (producer, number) = (u32::from_le_bytes(*producer), u64::from_le_bytes(*number));
        ensure!(filler == self.payload.filler(number), "the value is not what producer {producer} appended as number {number}");
        let at = usize::try_from(producer).expect("64-bit machines only");
        let Some(due) = self.numbers.get_mut(at) else { bail!("there is no producer {producer}") };
        if self.payload.prebuilt {
            ensure!(number == in_batch, "number {in_batch} of the batch was due, {number} came");
        } else {
            let expected = due.unwrap_or(number);
            ensure!(number >= expected, "number {expected} of producer {producer} was due, {number} came");
            self.seen.missing += number - expected;
            *due = Some(number + 1);
        }
        self.seen.records += 1;
        self.seen.bytes += value.len() as u64;
        Ok(())
    }
}
