//! Batches that Kafka's own clients built, opened by ours, and ours laid out as theirs.
//!
//! `fixtures/batches/README.md` says how they were made.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use logcore::frame::batch::{Batch, BatchBuilder, Compression, NewRecord, ProducerSequence, Record, Summary};
use logcore::{Error, TimestampMillis};

const PRODUCER: ProducerSequence = ProducerSequence { id: 4711, epoch: 3, sequence: 42 };
const MAX_TIMESTAMP: i64 = 1_700_000_000_250;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
        .join("tests/fixtures/batches")
        .join(name)
        .with_extension("hex");
    let text = std::fs::read_to_string(path).unwrap();
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn check_records(name: &str, records: &[Record<'_>]) {
    let offsets: Vec<u64> = records.iter().map(|record| record.offset.value()).collect();
    assert!(offsets.iter().copied().eq(0..records.len() as u64), "{name}: {offsets:?}");
    let first = &records[0];
    assert_eq!((first.timestamp.value(), first.key, first.value), (1_700_000_000_000, Some(&b"k0"[..]), Some(&b"{\"n\":0}"[..])));
    assert_eq!(first.headers(), [("op", Some(&b"put"[..]))], "{name}");
    assert_eq!((records[1].timestamp.value(), records[1].key), (MAX_TIMESTAMP, None), "{name}");
    assert_eq!(records[1].value, Some(&b"no key"[..]), "{name}");
    let gone = &records[2];
    assert_eq!((gone.timestamp.value(), gone.key, gone.value), (1_600_000_000_000, Some(&b"gone"[..]), None), "{name}");
    assert_eq!(gone.headers(), [("none", None)], "{name}");
    if let Some(big) = records.get(3) {
        let expected: Vec<u8> = (0..=250).cycle().take(70_000).collect();
        assert!(big.key == Some(b"big") && big.value == Some(&expected), "{name}: 70,000 bytes, in several blocks");
    }
}

#[test]
fn batches_of_kafka_clients_open() {
    for (name, compression, count) in [
        ("java-none", Compression::None, 3),
        ("java-gzip", Compression::Gzip, 4),
        ("java-snappy", Compression::Snappy, 4),
        ("java-lz4", Compression::Lz4, 4),
        ("java-zstd", Compression::Zstd, 4),
        ("python-gzip", Compression::Gzip, 4),
        ("python-snappy", Compression::Snappy, 4),
        ("python-snappy-raw", Compression::Snappy, 4),
        ("python-lz4", Compression::Lz4, 4),
        ("python-zstd", Compression::Zstd, 4),
    ] {
        let raw = fixture(name);
        let summary = Summary::check(&raw).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((summary.count, summary.max_timestamp.value()), (count, MAX_TIMESTAMP), "{name}");
        assert_eq!(summary.producer, Some(PRODUCER), "{name}");
        assert_eq!(Compression::ALL[usize::from(raw[22])], compression, "{name} is what it says");
        let batch = Batch::open(&raw.into()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let records: Vec<Record<'_>> = batch.records().collect::<logcore::Result<_>>().unwrap();
        assert_eq!(records.len(), count as usize, "{name}");
        check_records(name, &records);
    }
}

#[test]
fn what_we_build_is_what_kafka_builds() {
    let mut builder = BatchBuilder::new().produced_by(PRODUCER).unwrap();
    let at = TimestampMillis::new;
    let headers = [("op", Some(&b"put"[..]))];
    builder.push(&NewRecord { key: Some(b"k0"), value: Some(b"{\"n\":0}"), headers: &headers, timestamp: at(1_700_000_000_000) });
    builder.push(&NewRecord { value: Some(b"no key"), timestamp: at(MAX_TIMESTAMP), ..NewRecord::default() });
    let headers = [("none", None)];
    builder.push(&NewRecord { key: Some(b"gone"), value: None, headers: &headers, timestamp: at(1_600_000_000_000) });
    let (ours, theirs) = (builder.finish(Compression::None), fixture("java-none"));
    assert_eq!(ours[..12], theirs[..12]);
    assert_eq!(ours[16..], theirs[16..], "all but the leader's epoch, which it sets itself");
}

#[test]
fn transactions_are_refused_by_name() {
    for (name, words) in [("java-transactional", "part of a transaction"), ("java-control", "control batch")] {
        let refused = Summary::check(&fixture(name)).unwrap_err();
        assert!(matches!(&refused, Error::InvalidBatch { detail } if detail.contains(words)), "{name}: {refused}");
    }
}

#[test]
fn damaged_batches_of_kafka_clients_never_panic() {
    let names = ["gzip", "snappy", "lz4", "zstd"].map(|codec| ["java", "python"].map(|client| format!("{client}-{codec}")));
    for name in names.into_iter().flatten().chain(["python-snappy-raw".to_owned()]) {
        let raw = fixture(&name);
        // Every byte of the packed records' own headers, some of the rest; and the same places as ends.
        for at in (61..raw.len()).filter(|at| *at < 160 || at % 41 == 0) {
            for bit in [0, 3, 7] {
                let mut flipped = raw.clone();
                flipped[at] ^= 1 << bit;
                assert!(Summary::check(&flipped).is_err(), "{name}: bit {bit} of byte {at}");
                read_anyhow(flipped);
            }
            let mut cut = raw[..at].to_vec();
            cut[8..12].copy_from_slice(&u32::try_from(at - 12).unwrap().to_be_bytes());
            assert!(Summary::check(&cut).is_err(), "{name}: cut at {at}");
            read_anyhow(cut);
        }
    }
}

/// Opens what a check would refuse, as if the frame around it were whole.
fn read_anyhow(raw: Vec<u8>) {
    if let Ok(batch) = Batch::open(&raw.into()) {
        let lengths =
            batch.records().map(|record| record.map(|record| record.headers().len() + record.value.map_or(0, <[u8]>::len)));
        let sum: usize = lengths.filter_map(logcore::Result::ok).sum();
        assert!(sum <= 64 << 20, "{sum}");
    }
}
