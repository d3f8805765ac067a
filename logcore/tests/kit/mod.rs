//! What the tests of the engine's behaviour share: logs on the simulated disk with options of their own, keyed records, crashes,
//! and waiting until something that other threads do has happened.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods, reason = "shared by several test programs")]

pub mod watched;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use logcore::frame::FrameKind;
use logcore::io::DiskIo;
use logcore::io::sim::SimDisk;
use logcore::{
    AckClass, Appended, Batch, BatchBuilder, Compression, Log, LogOptions, NewRecord, Offset, Partition, PartitionOptions,
    PartitionRef, ProducerSequence, Proposal, Result, StreamId, TimestampMillis,
};

pub const ID: PartitionRef = PartitionRef::new(StreamId::new(20), 0);
/// Longer than any test runs.
pub const NEVER: Duration = Duration::from_hours(10);

/// Small segments, a keeper that does nothing by itself.
pub fn options(change: impl FnOnce(&mut PartitionOptions)) -> LogOptions {
    let mut partition = PartitionOptions { segment_bytes: 128 << 10, tail_chunks_max: 1, ..PartitionOptions::default() };
    change(&mut partition);
    LogOptions { partition, reserve_bytes: 0, keeper_interval: NEVER, verify_bytes_per_second: 0, ..LogOptions::default() }
}

/// Acknowledged in RAM, and flushed by nothing but size and need.
pub fn in_memory(partition: &mut PartitionOptions) {
    partition.ack = AckClass::Memory;
    partition.flush_interval = NEVER;
}

pub fn open(disk: &SimDisk, options: &LogOptions) -> Log {
    open_on(Arc::new(disk.clone()), options)
}

pub fn open_on(io: Arc<dyn DiskIo>, options: &LogOptions) -> Log {
    Log::open_on(io, "/sim".as_ref(), options.clone(), None).unwrap()
}

/// A batch of records with keys, values (or not) and times.
pub fn batch(records: &[(&str, Option<&str>, i64)]) -> Proposal {
    let mut builder = BatchBuilder::new();
    for (key, value, timestamp) in records {
        let (key, value) = (Some(key.as_bytes()), value.map(str::as_bytes));
        builder.push(&NewRecord { key, value, headers: &[], timestamp: TimestampMillis::new(*timestamp) });
    }
    Proposal::from_records(builder, Compression::None).unwrap()
}

/// A batch of one record of `len` bytes that says `n`.
pub fn one(n: u64, len: usize) -> Proposal {
    of(&[n], len)
}

/// A batch of a record for each number.
pub fn of(numbers: &[u64], len: usize) -> Proposal {
    Proposal::from_records(build(numbers, len), Compression::None).unwrap()
}

fn build(numbers: &[u64], len: usize) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for n in numbers {
        let timestamp = TimestampMillis::new(i64::try_from(*n).unwrap());
        builder.push(&NewRecord { key: Some(b"k"), value: Some(&value(*n, len)), headers: &[], timestamp });
    }
    builder
}

/// A batch of `count` records as a producer sends it.
pub fn sent(id: i64, epoch: i16, sequence: i32, count: usize) -> Proposal {
    let builder = build(&vec![u64::try_from(sequence).unwrap(); count], 40);
    let builder = builder.produced_by(ProducerSequence { id, epoch, sequence }).unwrap();
    Proposal::from_records(builder, Compression::None).unwrap()
}

pub fn append(partition: &Partition, proposal: Proposal) -> Result<Appended> {
    partition.try_append(proposal)?.wait()
}

/// Appends records of `len` bytes that say the numbers.
pub fn fill(partition: &Partition, numbers: std::ops::Range<u64>, len: usize) {
    let tickets: Vec<_> = numbers.map(|n| block_on(partition.append(one(n, len), far())).unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
}

pub fn value(n: u64, len: usize) -> Vec<u8> {
    let mut value = format!("value {n} ").into_bytes();
    value.resize(len.max(value.len()), u8::try_from(n % 251).unwrap());
    value
}

/// The number that a record of [`value`] says.
pub fn number(value: &[u8]) -> u64 {
    let text = value.strip_prefix(b"value ").unwrap();
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).map(|digit| u64::from(digit - b'0'));
    digits.fold(0, |number, digit| number * 10 + digit)
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub offset: u64,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
    pub timestamp: i64,
}

/// Everything from `from` to the committed end, in reads of `max_bytes`.
pub fn read_from(partition: &Partition, from: u64, max_bytes: usize) -> Result<Vec<Seen>> {
    let (mut next, mut seen) = (Offset::new(from), Vec::new());
    while next < partition.committed().get() {
        let frames = partition.read(next, max_bytes)?;
        next = frames.last().expect("what is committed can be read").end_offset();
        for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
            seen.extend(records(&frame.body)?.into_iter().filter(|record| record.offset >= from));
        }
    }
    Ok(seen)
}

pub fn records(body: &Bytes) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for record in Batch::open(body)?.records() {
        let record = record?;
        seen.push(Seen {
            offset: record.offset.value(),
            key: record.key.unwrap_or_default().to_vec(),
            value: record.value.map(<[u8]>::to_vec),
            timestamp: record.timestamp.value(),
        });
    }
    Ok(seen)
}

pub fn read_all(partition: &Partition) -> Vec<Seen> {
    read_from(partition, partition.log_start().value(), 10_000).unwrap()
}

/// The numbers that the records of [`value`] say, in order.
pub fn numbers(partition: &Partition) -> Vec<u64> {
    read_all(partition).iter().map(|record| number(record.value.as_ref().unwrap())).collect()
}

/// Waits until what another thread does has happened; a test that would wait for ever says for what.
pub fn until(what: &str, happened: impl Fn() -> bool) {
    let deadline = far();
    while !happened() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
    }
}

/// A deadline that nothing but a hang meets.
pub fn far() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// The segment files there are, in order.
pub fn segment_files(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    let segments = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "seg");
    disk.paths().into_iter().filter(segments).collect()
}
