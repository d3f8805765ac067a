//! What the log's tests share: small segments, quick appends, reading everything back.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by several test programs")]

pub mod dice;
pub mod history;

use std::sync::Arc;

use logcore::frame::FrameKind;
use logcore::io::DiskIo;
use logcore::partition::PartitionOptions;
use logcore::{
    Appended, Batch, BatchBuilder, Compression, Log, LogOptions, NewRecord, Offset, Partition, PartitionRef, Proposal, Result,
    StreamId, Ticket, TimestampMillis,
};

pub const ID: PartitionRef = PartitionRef::new(StreamId::new(20), 0);

pub fn options() -> LogOptions {
    LogOptions {
        partition: PartitionOptions { segment_bytes: 128 << 10, tail_chunks_max: 1, ..PartitionOptions::default() },
        reserve_bytes: 0,
        ..LogOptions::default()
    }
}

pub fn open_sim(disk: &Arc<impl DiskIo + 'static>) -> Result<Log> {
    let io: Arc<dyn DiskIo> = Arc::clone(disk) as Arc<dyn DiskIo>;
    Log::open_on(io, "/sim".as_ref(), options(), None)
}

pub fn proposal(values: &[Vec<u8>], timestamp: i64) -> Proposal {
    let mut builder = BatchBuilder::new();
    for (n, value) in values.iter().enumerate() {
        let timestamp = TimestampMillis::new(timestamp + i64::try_from(n).unwrap());
        builder.push(&NewRecord { key: Some(b"k"), value: Some(value), headers: &[], timestamp });
    }
    Proposal::from_records(builder, Compression::None).unwrap()
}

pub fn submit(partition: &Partition, values: &[Vec<u8>], timestamp: i64) -> Ticket {
    partition.try_append(proposal(values, timestamp)).unwrap()
}

pub fn append(partition: &Partition, values: &[Vec<u8>]) -> Result<Appended> {
    submit(partition, values, 0).wait()
}

/// Offsets and values from `from` to the committed end, in small reads so that every path of the reader is taken.
pub fn read_all(partition: &Partition, from: Offset) -> Result<Vec<(u64, Vec<u8>)>> {
    let (mut next, mut out) = (from, Vec::new());
    loop {
        let frames = partition.read(next, 10_000)?;
        let Some(last) = frames.last() else { return Ok(out) };
        next = last.end_offset();
        for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
            for record in Batch::open(&frame.body)?.records() {
                let record = record?;
                if record.offset >= from {
                    out.push((record.offset.value(), record.value.unwrap().to_vec()));
                }
            }
        }
    }
}

pub fn value(n: u64, len: usize) -> Vec<u8> {
    let mut value = format!("value {n} ").into_bytes();
    value.resize(len.max(value.len()), u8::try_from(n % 251).unwrap());
    value
}
