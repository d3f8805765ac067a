//! The batch codec against itself: round trips, damage, and what compaction takes out. Against Kafka's own clients:
//! `logcore/tests/batches.rs`.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use proptest::prelude::*;

use super::header::Header;
use super::rewrite::rewrite_within;
use super::*;
use crate::error::{Error, Result};
use crate::types::{Offset, Term, TimestampMillis};

const PRODUCER: ProducerSequence = ProducerSequence { id: 4711, epoch: 3, sequence: 42 };

/// A record that owns what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    offset: u64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn owned(record: &Record<'_>) -> Owned {
    let headers = record.headers().into_iter().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)));
    Owned {
        offset: record.offset.value(),
        timestamp: record.timestamp.value(),
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: headers.collect(),
    }
}

fn push(builder: &mut BatchBuilder, record: &Owned) {
    let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    let timestamp = TimestampMillis::new(record.timestamp);
    builder.push(&NewRecord { key: record.key.as_deref(), value: record.value.as_deref(), headers: &headers, timestamp });
}

fn build(records: &[Owned], compression: Compression) -> (Vec<u8>, Summary) {
    let mut builder = BatchBuilder::new().produced_by(PRODUCER).unwrap();
    records.iter().for_each(|record| push(&mut builder, record));
    assert_eq!(builder.count() as usize, records.len());
    builder.finish_with_summary(compression)
}

fn read(batch: &Bytes) -> Result<Vec<Owned>> {
    Batch::open(batch)?.records().map(|record| Ok(owned(&record?))).collect()
}

/// Reads everything there is to read, whatever it says.
fn read_anyhow(batch: Bytes) {
    let _ = Summary::check(&batch);
    let _ = rewrite(&batch, |record| record.offset.value().is_multiple_of(2));
    let _ = read(&batch);
}

fn bytes_up_to(len: usize) -> impl Strategy<Value = Vec<u8>> {
    // Runs of one byte, so that there is something to compress.
    prop::collection::vec((any::<u8>(), 1..40_usize), 0..=len / 20)
        .prop_map(|runs| runs.into_iter().flat_map(|(byte, times)| std::iter::repeat_n(byte, times)).collect())
}

fn any_timestamp() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 1_600_000_000_000..1_800_000_000_000_i64, 1 => any::<i64>(), 1 => Just(i64::MIN), 1 => Just(i64::MAX)]
}

fn any_record() -> impl Strategy<Value = Owned> {
    let headers = prop::collection::vec((".{0,12}", prop::option::of(bytes_up_to(40))), 0..4);
    let key = prop::option::of(bytes_up_to(40));
    let value = prop::option::of(bytes_up_to(400));
    (any_timestamp(), key, value, headers).prop_map(|(timestamp, key, value, headers)| Owned {
        offset: 0,
        timestamp,
        key,
        value,
        headers,
    })
}

/// Records with offsets from 0.
fn any_records() -> impl Strategy<Value = Vec<Owned>> {
    prop::collection::vec(any_record(), 1..40).prop_map(|mut records| {
        for (offset, record) in (0..).zip(&mut records) {
            record.offset = offset;
        }
        records
    })
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(Compression::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_come_back_as_they_were_given(records in any_records(), compression in any_compression(), base in 0..1_u64 << 62) {
        let (mut raw, summary) = build(&records, compression);
        prop_assert_eq!(Summary::check(&raw).unwrap(), summary);
        let max = records.iter().map(|record| record.timestamp).max().unwrap();
        prop_assert_eq!((summary.count as usize, summary.max_timestamp.value()), (records.len(), max));
        prop_assert_eq!(summary.producer, Some(PRODUCER));
        set_place(&mut raw, Offset::new(base), Term::new(3));
        prop_assert_eq!(Summary::check(&raw).unwrap(), summary, "the place lies outside the checksum");
        prop_assert_eq!(body_crc(&raw, summary.batch_crc), crc32c::crc32c(&raw));
        let mut expected = records;
        expected.iter_mut().for_each(|record| record.offset += base);
        prop_assert_eq!(read(&raw.into()).unwrap(), expected);
    }

    #[test]
    fn damage_never_panics(
        records in any_records(),
        compression in any_compression(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut raw, _) = build(&records, compression);
        // A batch that says how long it is gets past the first check.
        let mut short = raw[..cut.index(raw.len())].to_vec();
        if let Some(length) = short.get_mut(8..12) {
            length.copy_from_slice(&u32::try_from(raw.len().min(cut.index(raw.len())).saturating_sub(12)).unwrap().to_be_bytes());
        }
        prop_assert!(Summary::check(&short).is_err(), "a batch without its end");
        read_anyhow(short.into());
        for (at, bit) in flips {
            let at = at.index(raw.len());
            raw[at] ^= 1 << bit;
        }
        read_anyhow(raw.into());
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300), compression in any_compression()) {
        let mut raw = build(&[plain(0, b"k")], Compression::None).0;
        let mut header = Header::read(&raw).unwrap();
        header.compression = compression;
        raw.truncate(header::BATCH_HEADER_BYTES);
        raw.extend_from_slice(&noise);
        header.write(&mut raw);
        Summary::check(&raw).expect("the records are not looked at");
        read_anyhow(raw.into());
    }

    #[test]
    fn what_is_kept_stays_as_it_was(records in any_records(), compression in any_compression(), picked in any::<u64>()) {
        let (mut raw, summary) = build(&records, compression);
        set_place(&mut raw, Offset::new(1_000), Term::new(9));
        let whole = Bytes::from(raw);
        let stays = |record: &Record<'_>| picked >> (record.offset.value() % 64) & 1 == 1;
        let mut expected = read(&whole).unwrap();
        expected.retain(|record| picked >> (record.offset % 64) & 1 == 1);
        match rewrite(&whole, stays).unwrap() {
            Rewritten::Unchanged => prop_assert_eq!(expected.len(), records.len()),
            Rewritten::Empty => prop_assert!(expected.is_empty()),
            Rewritten::Batch(raw) => {
                let smaller = Bytes::from(raw);
                prop_assert_eq!(read(&smaller).unwrap(), expected);
                let (before, after) = (Header::read(&whole).unwrap(), Header::read(&smaller).unwrap());
                prop_assert_eq!((after.base_offset, after.span()), (before.base_offset, before.span()));
                prop_assert_eq!(after.epoch, before.epoch);
                prop_assert_eq!((after.base_timestamp, after.max_timestamp), (before.base_timestamp, before.max_timestamp));
                prop_assert_eq!((after.producer, after.compression), (before.producer, before.compression));
                prop_assert_eq!(crc32c::crc32c(&smaller[21..]), after.crc);
                prop_assert!(after.crc != summary.batch_crc);
                prop_assert_eq!(rewrite(&smaller, stays).unwrap(), Rewritten::Unchanged, "twice is once");
                let refused = Summary::check(&smaller).unwrap_err().to_string();
                prop_assert!(refused.contains("last offset delta"), "a producer sends every record: {}", refused);
            }
        }
    }
}

fn plain(offset: u64, value: &[u8]) -> Owned {
    Owned { offset, timestamp: 5, key: Some(b"k".to_vec()), value: Some(value.to_vec()), headers: Vec::new() }
}

#[test]
fn any_flipped_bit_is_refused() {
    let raw = build(&[plain(0, b"one"), plain(1, b"two")], Compression::None).0;
    for bit in 0..raw.len() * 8 {
        let in_place = bit < 8 * 8 || (12 * 8..16 * 8).contains(&bit);
        let mut damaged = raw.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Summary::check(&damaged).is_ok(), in_place, "bit {bit}: base offset and epoch are the owner's");
        read_anyhow(damaged.into());
    }
}

#[test]
fn the_checksum_of_the_body_needs_no_second_pass() {
    for len in (0..600).chain([4_000, 4_034, 4_035, 4_036, 65_536, 1_000_000]) {
        let (mut raw, summary) = build(&[plain(0, &vec![7; len])], Compression::None);
        set_place(&mut raw, Offset::new(0x0102_0304_0506), Term::new(77));
        assert_eq!(body_crc(&raw, summary.batch_crc), crc32c::crc32c(&raw), "{len}");
    }
}

/// Writes `change` into the header of a good batch and lets the CRC follow.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut raw = build(&[plain(0, b"one"), plain(1, b"two")], Compression::None).0;
    change(&mut raw);
    let crc = crc32c::crc32c(&raw[21..]);
    raw[17..21].copy_from_slice(&crc.to_be_bytes());
    raw.into()
}

#[test]
fn what_is_not_done_here_is_refused_by_name() {
    let attributes = |bits: u8| changed(move |raw| raw[22] = bits);
    for (batch, words) in [
        (attributes(1 << 4), "part of a transaction"),
        (attributes(1 << 5 | 1 << 4), "control batch"),
        (attributes(1 << 3), "send the time of creation"),
        (attributes(1 << 6), "attributes 0x0040"),
        (attributes(5), "compression 5 is not known"),
        (changed(|raw| raw[51] = 0xff), "producer 4711 has epoch -253 and sequence 42"),
        (changed(|raw| raw[53] = 0xff), "none may be negative"),
        (changed(|raw| raw[26] = 2), "2 records with a last offset delta of 2"),
        (changed(|raw| raw[60] = 0), "0 records"),
        (changed(|raw| raw[16] = 1), "magic is 1"),
    ] {
        let refused = Summary::check(&batch).unwrap_err();
        assert!(matches!(&refused, Error::InvalidBatch { detail } if detail.contains(words)), "{refused} says {words}");
    }
    let nobody = changed(|raw| raw[43..57].fill(0xff));
    assert_eq!(Summary::check(&nobody).unwrap().producer, None);
    let negative = BatchBuilder::new().produced_by(ProducerSequence { id: 1, epoch: -1, sequence: 0 });
    assert!(matches!(negative.err(), Some(Error::InvalidBatch { .. })));
}

#[test]
fn no_record_claims_the_place_of_another() {
    // The first record's delta is the byte at 64; a record has 11 bytes.
    let claims = |first: u8, second: u8| changed(move |raw| (raw[64], raw[64 + 11]) = (first * 2, second * 2));
    assert_eq!(read(&claims(0, 1)).unwrap().len(), 2);
    for (first, second) in [(0, 0), (1, 0), (1, 1), (0, 2), (3, 4)] {
        assert!(read(&claims(first, second)).is_err(), "offsets {first} and {second} of two");
    }
    let far = changed(|raw| raw[0..8].fill(0xff));
    assert!(read(&far).is_err(), "an offset beyond all numbers");
}

#[test]
fn records_of_append_time_bear_it() {
    let batch = changed(|raw| {
        raw[22] = 1 << 3;
        raw[35..43].copy_from_slice(&99_i64.to_be_bytes());
    });
    assert!(read(&batch).unwrap().iter().all(|record| record.timestamp == 99));
}

#[test]
fn a_small_batch_that_unfolds_over_the_limit_is_refused() {
    let zeros = vec![0; RECORDS_BYTES_MAX + 1];
    let raw = build(&[plain(0, b"one")], Compression::None).0;
    for compression in &Compression::ALL[1..] {
        let mut header = Header::read(&raw).unwrap();
        header.compression = *compression;
        let mut bomb = builder::pack(*compression, &zeros);
        header.write(&mut bomb);
        let refused = read(&bomb.into()).unwrap_err().to_string();
        assert!(refused.contains("unpack"), "{compression:?}: {refused}");
    }
}

#[test]
fn a_claimed_length_takes_no_memory() {
    let mut raw = build(&[plain(0, b"one")], Compression::None).0;
    let mut header = Header::read(&raw).unwrap();
    header.compression = Compression::Snappy;
    raw.truncate(header::BATCH_HEADER_BYTES);
    raw.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
    header.write(&mut raw);
    let refused = read(&raw.into()).unwrap_err().to_string();
    assert!(refused.contains("more than"), "{refused}");
}

#[test]
fn a_batch_that_its_producer_packed_better_still_fits() {
    // Pseudo-random letters: gzip and zstd halve them, lz4 does not.
    let noise = |from: u32| -> Vec<u8> {
        (from..from + 20_000).map(|n| b"abcdefghijklmnop"[(n.wrapping_mul(2_654_435_761) >> 27) as usize & 15]).collect()
    };
    let records: Vec<Owned> = (0..3).map(|n| plain(n, &noise(u32::try_from(n).unwrap() << 20))).collect();
    let (lz4, _) = build(&records, Compression::Lz4);
    let lz4 = Bytes::from(lz4);
    let keep = |record: &Record<'_>| record.offset.value() != 1;
    let Rewritten::Batch(usual) = rewrite(&lz4, keep).unwrap() else { panic!("a record went") };
    let Rewritten::Batch(tight) = rewrite_within(usual.len() - 1, &lz4, keep).unwrap() else { panic!("a record went") };
    let tight = Bytes::from(tight);
    assert!(tight.len() < usual.len());
    assert_eq!(Header::read(&tight).unwrap().compression, Compression::Zstd);
    assert_eq!(read(&tight).unwrap(), read(&usual.into()).unwrap());
    let refused = rewrite_within(100, &lz4, keep).unwrap_err();
    assert!(matches!(refused, Error::BatchTooLarge { max: 100, .. }), "{refused}");
}

#[test]
fn names_lead_to_compressions() {
    for compression in Compression::ALL {
        assert_eq!(compression.name().parse(), Ok(compression));
    }
    let unknown = "brotli".parse::<Compression>().unwrap_err().to_string();
    assert_eq!(unknown, "compression `brotli` is not known; use none, gzip, snappy, lz4 or zstd");
}

#[test]
fn a_batch_is_finished_where_it_was_built() {
    let mut builder = BatchBuilder::with_capacity(1_000);
    push(&mut builder, &plain(0, &[1; 900]));
    let bytes = builder.len_bytes();
    let (raw, summary) = builder.finish_with_summary(Compression::None);
    assert_eq!((raw.len(), summary.producer), (bytes, None));
    assert!(raw.capacity() < 1_100, "it did not grow: {}", raw.capacity());
}
