//! How fast batches are built, checked, read and framed on one thread: `cargo run --release -p logcore --example batch_speed`.
//!
//! Each line is the best of several rounds, so that what else runs on the machine counts little.
#![allow(clippy::print_stdout, reason = "it reports to a person")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use logcore::frame::batch::{Batch, BatchBuilder, Compression, NewRecord, Summary, body_crc};
use logcore::sys::clock;
use logcore::{Record, TimestampMillis};

const ROUNDS: usize = 40;
const ROUND_BYTES: usize = 64 << 20;

/// The best time of one call, its result dropped within it.
fn best<T>(calls: usize, mut call: impl FnMut() -> T) -> Duration {
    let rounds = (0..ROUNDS).map(|_| {
        let start = clock::monotonic();
        for _ in 0..calls {
            black_box(call());
        }
        start.elapsed()
    });
    rounds.min().unwrap_or_default() / u32::try_from(calls).unwrap_or(u32::MAX)
}

fn report(what: &str, bytes: usize, took: Duration) {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let speed = bytes as f64 / took.as_nanos().max(1) as f64;
    println!("{what:<44} {:>10} ns {speed:>7.2} GB/s", took.as_nanos());
}

fn build(count: usize, value: &[u8], room: usize, compression: Compression) -> (Vec<u8>, Summary) {
    let mut builder = BatchBuilder::with_capacity(room);
    for n in 0..count {
        let timestamp = TimestampMillis::new(1_700_000_000_000 + i64::try_from(n).unwrap_or(0));
        builder.push(&NewRecord { key: Some(&value[..8]), value: Some(value), headers: &[], timestamp });
    }
    builder.finish_with_summary(compression)
}

fn main() {
    let value: Vec<u8> = (0..1_024_u32).map(|n| b"abcdefghijklmnop"[(n.wrapping_mul(2_654_435_761) >> 28) as usize]).collect();
    for (record_bytes, count) in [(1_024, 16), (1_024, 64), (1_024, 1_000), (1_024, 4_000), (100, 1_000), (100, 10_000)] {
        let value = &value[..record_bytes];
        let (raw, summary) = build(count, value, 0, Compression::None);
        let (raw, bytes) = (Bytes::from(raw), count * record_bytes);
        let calls = (ROUND_BYTES / bytes / ROUNDS).max(1);
        println!("{count} records of {record_bytes} bytes, {} in all", raw.len());
        let room = count * (record_bytes + 32);
        report("  build", bytes, best(calls, || build(count, value, room, Compression::None)));
        report("  build without with_capacity", bytes, best(calls, || build(count, value, 0, Compression::None)));
        report("  Summary::check", bytes, best(calls, || Summary::check(black_box(&raw))));
        report("  body_crc", bytes, best(calls, || body_crc(black_box(&raw), summary.batch_crc)));
        report("  body's checksum by reading it", bytes, best(calls, || crc32c(black_box(&raw))));
        report("  open and read", bytes, best(calls, || read(&raw)));
    }
    for compression in &Compression::ALL[1..] {
        let (packed, _) = build(1_000, &value, 0, *compression);
        let (packed, bytes) = (Bytes::from(packed), 1_000 * value.len());
        println!("{}: 1000 records of {} bytes in {}", compression.name(), value.len(), packed.len());
        report("  build", bytes, best(2, || build(1_000, &value, 1_100_000, *compression)));
        report("  open and read", bytes, best(2, || read(&packed)));
    }
    for len in [1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000, 16_000, 64_000] {
        let (raw, summary) = build(1, &vec![7; len], 0, Compression::None);
        report(&format!("body_crc of {len}"), raw.len(), best(10_000, || body_crc(black_box(&raw), summary.batch_crc)));
        report("  by reading", raw.len(), best(10_000, || crc32c(black_box(&raw))));
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    logcore::frame::checksum(bytes)
}

fn read(raw: &Bytes) -> usize {
    let Ok(batch) = Batch::open(raw) else { return 0 };
    batch.records().filter_map(|record| record.ok().and_then(|record: Record<'_>| record.value).map(<[u8]>::len)).sum()
}
