//! The files of series and the records of written ones, as version 2 and version 1 of them were first written: they must open forever.
//!
//! `UPDATE_FIXTURES=1` writes them anew, which is right only when a version is added.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use common::{Entry, Erase, Point, Source, everything, expected, feed, log, open, rows, try_open};
use logcore::materialize::Materializer;
use logcore::sys::fs;
use logcore::{ErrorKind, Offset};
use tsstore::SeriesOptions;
use tsstore::block::{BlockColumn, BlockEntry, DeleteBlock, PointBlock, decode, encode_delete, encode_points};

const RECORDS: usize = 400;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/series-2")
}

fn options() -> SeriesOptions {
    SeriesOptions { page_points: 64, page_points_min: 30, chunk_points_min: 100, merges_max: 0, ..SeriesOptions::default() }
}

/// Every encoding of a block, two series a host, versions of points, and a delete that is not applied.
fn source() -> Source {
    let entry = |n: i64| {
        let point = Point {
            time: n / 4 * 10 - if n % 50 == 0 { 300 } else { 0 },
            host: [Some("a"), Some("b"), None][usize::try_from(n % 3).expect("small")].map(str::to_owned),
            rack: (n % 2 == 0).then(|| "r\u{e9}".to_owned()),
            load: Some(if n < 300 { f64::from(i32::try_from(n * 7 % 100).expect("small")) / 100.0 } else { f64::NAN }),
            count: (n % 5 != 0).then_some(i64::MAX - n * n),
            up: (n % 7 != 0).then_some(n % 2 == 0),
            note: (n % 3 != 1).then(|| if n < 200 { "same".to_owned() } else { format!("note {n}") }),
        };
        match n {
            350 => {
                Entry::Delete(Erase { from: Some(100), until: Some(200), hosts: Some(vec![Some("a".into()), None]), racks: None })
            }
            _ => Entry::Point(point),
        }
    };
    let records = i64::try_from(RECORDS).expect("small");
    Arc::new((0..records).map(entry).collect())
}

fn write_fixture() {
    fs::remove_dir(&folder()).expect("removable");
    let (_, mut materializer) = open(&folder(), &source(), options());
    for until in [200, RECORDS] {
        feed(&mut materializer, &log(until, 100));
        materializer.checkpoint().expect("no fault");
    }
}

/// Opening may remove files, so a copy is opened.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for name in fs::list(&folder()).expect("the fixture is there") {
        let content = fs::read(&folder().join(&name)).expect("readable").expect("there");
        fs::write_atomic(&dir.path().join(name), &content).expect("written");
    }
    dir
}

#[test]
fn files_of_version_2_open() {
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        write_fixture();
    }
    let dir = copy();
    let source = source();
    let (table, materializer) = open(dir.path(), &source, options());
    assert_eq!(materializer.next_offset(), Offset::new(RECORDS as u64));
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, RECORDS));
    assert_eq!((table.stats().deletes, table.stats().series), (1, 6));
    let past = tsstore::ScanRequest { until_offset: Some(Offset::new(350)), ..everything() };
    assert_eq!(rows(&table.snapshot(), &past), expected(&source, 350));
}

#[test]
fn a_damaged_twin_is_refused() {
    let dir = copy();
    for name in fs::list(dir.path()).expect("listable") {
        let path = dir.path().join(&name);
        let whole = fs::read(&path).expect("readable").expect("there");
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 4;
        fs::write_atomic(&path, &damaged).expect("written");
        let read = || common::run(&try_open(dir.path(), &source(), options())?.0.snapshot(), &everything());
        assert_eq!(read().expect_err("damaged").kind(), ErrorKind::Corrupt, "{name}");
        fs::write_atomic(&path, &whole).expect("written");
    }
}

fn points() -> PointBlock {
    let array = |id: u32, is_tag: bool, values: ArrayRef| BlockColumn { id, is_tag, values };
    PointBlock {
        times: vec![1_700_000_000_000_000, 1_700_000_010_000_000, -1],
        columns: vec![
            array(1, true, Arc::new(StringArray::from(vec![Some("a"), None, Some("a")]))),
            array(2, false, Arc::new(Float64Array::from(vec![Some(1.25), None, Some(-0.0)]))),
            array(3, false, Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(1), None]))),
            array(4, false, Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
            array(9, false, Arc::new(StringArray::from(vec![Some("x"), Some("é"), None]))),
        ],
    }
}

fn delete() -> DeleteBlock {
    DeleteBlock { from: None, until: Some(7), tags: vec![(1, vec![None, Some("a".to_owned())])] }
}

fn hex(raw: &[u8]) -> String {
    raw.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.trim().as_bytes().as_chunks::<2>().0;
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    digits.iter().map(byte).collect()
}

#[test]
fn records_of_version_1_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/records-1.hex");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        let lines = [hex(&encode_points(&points()).expect("fits")), hex(&encode_delete(&delete()))];
        fs::write_atomic(&path, (lines.join("\n") + "\n").as_bytes()).expect("written");
    }
    let text = String::from_utf8(fs::read(&path).expect("readable").expect("there")).expect("text");
    let records: Vec<Vec<u8>> = text.lines().map(bytes).collect();
    let BlockEntry::Points(found) = decode(&records[0]).expect("whole") else { panic!("points") };
    assert_eq!(found.times, points().times);
    for (found, wanted) in found.columns.iter().zip(points().columns) {
        assert_eq!((found.id, found.is_tag), (wanted.id, wanted.is_tag));
        let (found, wanted) = (&found.values, &wanted.values);
        let cells = |array: &ArrayRef| (0..3).map(|row| common::cell(array, row)).collect::<Vec<_>>();
        assert_eq!(cells(found), cells(wanted));
    }
    assert_eq!(found.columns.len(), 5);
    assert_eq!(decode(&records[1]).expect("whole"), BlockEntry::Delete(delete()));
}
