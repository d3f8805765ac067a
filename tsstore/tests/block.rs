//! The records of written series: back bit for bit, and nothing but an error for any other bytes.

mod common;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, Float64Array, Int64Array, StringArray, UInt32Array};
use arrow::datatypes::{Float64Type, UInt32Type};
use common::Random;
use tsstore::block::{BlockColumn, BlockEntry, DeleteBlock, PointBlock, decode, encode_delete, encode_points};
use tsstore::{Error, FieldKind, SeriesOptions, SeriesSchema};

fn points(random: &mut Random) -> PointBlock {
    let sizes = [0, 1, 2, 23, 24, 300];
    let rows = random.pick(&sizes);
    let some = |random: &mut Random| random.chance(80);
    let text = |random: &mut Random| random.pick(&["", "a", "host-1", "日本\u{0}é🦀"]);
    let mut columns = Vec::new();
    for id in 0..random.below(6) {
        let id = 7 * u32::try_from(id).expect("small");
        let (is_tag, values): (bool, ArrayRef) = match random.below(6) {
            0 => (true, Arc::new((0..rows).map(|_| some(random).then(|| text(random))).collect::<StringArray>())),
            1 => {
                let keys: UInt32Array =
                    (0..rows).map(|_| some(random).then(|| u32::try_from(random.below(2)).expect("0 or 1"))).collect();
                (true, Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(vec!["x", "y"])))))
            }
            2 => (
                false,
                Arc::new((0..rows).map(|_| some(random).then(|| f64::from_bits(random.bits()))).collect::<Float64Array>()),
            ),
            3 => (false, Arc::new((0..rows).map(|_| some(random).then(|| random.bits().cast_signed())).collect::<Int64Array>())),
            4 => (false, Arc::new((0..rows).map(|_| some(random).then(|| random.chance(50))).collect::<BooleanArray>())),
            _ => (false, Arc::new((0..rows).map(|_| some(random).then(|| text(random))).collect::<StringArray>())),
        };
        columns.push(BlockColumn { id, is_tag, values });
    }
    PointBlock { times: (0..rows).map(|_| random.bits().cast_signed()).collect(), columns }
}

fn delete(random: &mut Random) -> DeleteBlock {
    let time = |random: &mut Random| random.chance(60).then(|| random.bits().cast_signed());
    let value = |random: &mut Random| random.chance(70).then(|| random.pick(&["", "a", "é"]).to_owned());
    DeleteBlock {
        from: time(random),
        until: time(random),
        tags: (0..3).map(|id| (id, (0..random.below(4)).map(|_| value(random)).collect())).collect(),
    }
}

fn same(before: &ArrayRef, after: &ArrayRef) -> bool {
    let plain = |array: &ArrayRef| match array.as_dictionary_opt::<UInt32Type>() {
        Some(array) => arrow::compute::take(array.values(), array.keys(), None).expect("strings"),
        None => Arc::clone(array),
    };
    let (before, after) = (plain(before), plain(after));
    match (before.as_primitive_opt::<Float64Type>(), after.as_primitive_opt::<Float64Type>()) {
        (Some(before), Some(after)) => {
            before.iter().map(|value| value.map(f64::to_bits)).eq(after.iter().map(|value| value.map(f64::to_bits)))
        }
        _ => *before == *after,
    }
}

#[test]
fn blocks_come_back_bit_for_bit() {
    for seed in 0..300 {
        let random = &mut Random(seed);
        let before = points(random);
        let BlockEntry::Points(after) = decode(&encode_points(&before).expect("fits")).expect("whole") else {
            panic!("seed {seed}: they were points")
        };
        assert_eq!((&before.times, before.columns.len()), (&after.times, after.columns.len()), "seed {seed}");
        for (before, after) in before.columns.iter().zip(&after.columns) {
            assert_eq!((before.id, before.is_tag), (after.id, after.is_tag), "seed {seed}");
            assert!(same(&before.values, &after.values), "seed {seed}: {:?} {:?}", before.values, after.values);
        }
        let before = delete(random);
        assert_eq!(decode(&encode_delete(&before)).expect("whole"), BlockEntry::Delete(before), "seed {seed}");
    }
}

#[test]
fn damaged_blocks_are_errors_or_what_they_were() {
    let mut refused = 0;
    for seed in 0..400 {
        let random = &mut Random(seed);
        let raw = if random.chance(70) { encode_points(&points(random)).expect("fits") } else { encode_delete(&delete(random)) };
        for _ in 0..60 {
            let mut damaged = raw.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(damaged.len());
                match random.below(4) {
                    0 => damaged.truncate(at.max(1)),
                    1 => damaged.insert(at, 0xff),
                    2 => damaged[at] = u8::try_from(random.below(256)).expect("a byte"),
                    _ => damaged[at] ^= 1 << random.below(8),
                }
            }
            repair(&mut damaged, random);
            match decode(&damaged) {
                Ok(entry) => drop(format!("{entry:?}").len()),
                Err(Error::InvalidBlock { .. }) => refused += 1,
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
    }
    assert!(refused > 10_000, "{refused}");
    for length in 0..64 {
        let mut random = Random(length);
        let noise: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).expect("a byte")).collect();
        assert!(decode(&noise).is_err());
    }
}

/// Puts right checksums behind what was damaged, sometimes, so that what lies behind them is tried, too.
fn repair(raw: &mut [u8], random: &mut Random) {
    if random.chance(50) || raw.len() < 20 {
        return;
    }
    let mut at = 10;
    if raw[1] == 2 {
        at = raw.len() - 4;
        let checksum = logcore::frame::checksum(&raw[2..at]);
        raw[at..].copy_from_slice(&checksum.to_le_bytes());
        return;
    }
    while let Some(length) = raw.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let Some(end) = at.checked_add(4 + length).filter(|&end| end <= raw.len() && length > 4) else { return };
        let checksum = logcore::frame::checksum(&raw[at + 4..end - 4]);
        raw[end - 4..end].copy_from_slice(&checksum.to_le_bytes());
        at = end + 5;
    }
}

#[test]
fn blocks_that_claim_too_much_are_refused() {
    let empty = PointBlock { times: vec![], columns: vec![] };
    let mut raw = encode_points(&empty).expect("fits");
    raw[2..6].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(decode(&raw), Err(Error::InvalidBlock { .. })));
    let column = |values: ArrayRef| PointBlock { times: vec![0; 3], columns: vec![BlockColumn { id: 1, is_tag: true, values }] };
    let short: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let number: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    assert!(matches!(encode_points(&column(short)), Err(Error::InvalidPoints { .. })), "of another length");
    assert!(matches!(encode_points(&column(number)), Err(Error::InvalidPoints { .. })), "a tag that is no text");
    let large = PointBlock { times: vec![0; (1 << 20) + 1], columns: vec![] };
    assert!(matches!(encode_points(&large), Err(Error::InvalidPoints { .. })));
}

#[test]
fn points_with_tags_as_dictionaries_are_taken_in() {
    use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
    struct Decoded(Vec<u8>);
    impl Projection<tsstore::Points> for Decoded {
        fn project(&mut self, batch: &logcore::Batch, _: logcore::Offset, _: &mut Rejects) -> Result<tsstore::Points, ViewError> {
            let BlockEntry::Points(block) = decode(&self.0)? else { return Err("points".into()) };
            let times = arrow::array::TimestampMicrosecondArray::from(block.times).with_timezone("UTC");
            let rows = Array::len(&times);
            let columns: [(&str, ArrayRef); 3] = [
                ("ts", Arc::new(times)),
                ("host", Arc::clone(&block.columns[0].values)),
                ("load", Arc::clone(&block.columns[1].values)),
            ];
            let columns = arrow::array::RecordBatch::try_from_iter(columns)?;
            Ok(tsstore::Points { offsets: vec![batch.base_offset(); rows], columns })
        }
    }
    let hosts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("a"), None, Some("a")]));
    let loads: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0, 4.0]));
    let columns = vec![BlockColumn { id: 0, is_tag: true, values: hosts }, BlockColumn { id: 1, is_tag: false, values: loads }];
    let raw = encode_points(&PointBlock { times: vec![10, 20, 10, 10], columns }).expect("fits");
    let dir = tempfile::tempdir().expect("a folder");
    let schema = SeriesSchema::new("ts", vec!["host".into()], vec![("load".into(), FieldKind::Float)], 1000);
    let (table, mut materializer) =
        tsstore::SeriesTable::open(dir.path(), schema, Box::new(Decoded(raw)), SeriesOptions::default()).expect("opens");
    materializer.apply(&common::log(1, 1)[0], &mut Rejects::default()).expect("no fault");
    for _ in 0..2 {
        let request = tsstore::ScanRequest { projection: vec![1, 0, 2], ..tsstore::ScanRequest::default() };
        let row = |host: Option<&str>, time: i64, load: f64| {
            vec![format!("{host:?}"), format!("{:?}", Some(time)), format!("{:?}", Some(load.to_bits()))]
        };
        let mut wanted = vec![row(None, 10, 3.0), row(Some("a"), 10, 4.0), row(Some("a"), 20, 2.0)];
        wanted.sort();
        assert_eq!(common::rows(&table.snapshot(), &request), wanted, "of one record the last point counts");
        materializer.checkpoint().expect("no fault");
    }
}
