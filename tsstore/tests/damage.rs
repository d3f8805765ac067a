//! Damaged chunk files: a typed error that names the file, and never a panic or a wrong value.

mod common;

use common::{Point, Source, chunk_files, everything, expected, feed, log, open, run, small, try_open};
use logcore::ErrorKind;
use logcore::materialize::Materializer;
use logcore::sys::fs;
use tsstore::{Error, ScanOrder, ScanRequest, SeriesOptions};

/// Twenty points in three pages, each with offsets below and above 10.
fn written(dir: &std::path::Path) -> Source {
    let note = |n: i64| ["same", "same", "other"][usize::try_from(n % 3).expect("small")].to_owned();
    let point = |n: i64| Point {
        rack: (n % 4 != 0).then(|| note(n)),
        count: (n % 5 != 0).then_some(n * n),
        up: (n % 3 != 0).then_some(n % 2 == 0),
        note: Some(format!("note {n}")),
        ..Point::at(n * 7 % 20 * 700, "host", 0.25)
    };
    let source = common::source((0..20).map(point));
    let (_, mut materializer) = open(dir, &source, SeriesOptions { page_points_min: 8, chunk_points_min: 1000, ..small() });
    feed(&mut materializer, &log(20, 20));
    materializer.checkpoint().expect("no fault");
    source
}

#[test]
fn every_damaged_byte_of_every_file_is_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = written(dir.path());
    // Half of every page is cut away, so that every block is read; two requests read what one alone leaves out.
    let cut = ScanRequest { until_offset: Some(logcore::Offset::new(10)), ..everything() };
    let ordered = ScanRequest { order: ScanOrder::SeriesTime, ..everything() };
    let scan = || {
        let (table, _) = try_open(dir.path(), &source, small())?;
        run(&table.snapshot(), &ordered)?;
        run(&table.snapshot(), &cut).map(|(rows, _)| rows)
    };
    let names = fs::list(dir.path()).expect("listable");
    assert_eq!(names.len(), 3, "{names:?}");
    for name in names {
        let path = dir.path().join(&name);
        let whole = fs::read(&path).expect("readable").expect("there");
        let expect_corrupt = |content: &[u8], what: &str| {
            put(&path, content);
            let error = scan().expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}, {what}: {error}");
            assert!(error.to_string().contains(&name) || name.ends_with("manifest"), "{name}, {what}: {error}");
        };
        for at in 0..whole.len() {
            for flip in [0x01, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                expect_corrupt(&damaged, &format!("byte {at} flipped by {flip}"));
            }
            expect_corrupt(&whole[..at], &format!("cut to {at} bytes"));
        }
        put(&path, &whole);
    }
    let mut rows = scan().expect("whole");
    rows.sort();
    assert_eq!(rows, expected(&source, 10));
}

/// Replaces a file without waiting for the disk.
fn put(path: &std::path::Path, content: &[u8]) {
    fs::AppendFile::open(path, 0).and_then(|mut file| file.append(content)).expect("writable");
}

#[test]
fn bytes_nobody_asks_for_are_not_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = written(dir.path());
    let path = dir.path().join(chunk_files(dir.path()).pop().expect("one file"));
    let mut damaged = fs::read(&path).expect("readable").expect("there");
    damaged[3] ^= 1;
    put(&path, &damaged);
    let (table, _) = open(dir.path(), &source, small());
    let column = |column: usize| run(&table.snapshot(), &ScanRequest { projection: vec![column], ..ScanRequest::default() });
    assert_eq!(column(common::LOAD).expect("its block is whole").0.len(), 20);
    let error = column(common::TIME).expect_err("the first block of the first page is not");
    assert!(matches!(&error, Error::Corrupt { position: 0, path: found, .. } if *found == path), "{error}");
}

#[test]
fn a_file_under_the_name_of_another_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = written(dir.path());
    let other = tempfile::tempdir().expect("a folder");
    let (_, mut materializer) = open(other.path(), &source, SeriesOptions { chunk_points_min: 1000, ..small() });
    // Files of names take the numbers of before.
    feed(&mut materializer, &log(10, 10));
    materializer.checkpoint().expect("no fault");
    feed(&mut materializer, &log(20, 10));
    materializer.checkpoint().expect("no fault");
    let name = chunk_files(dir.path()).pop().expect("one file");
    let second = chunk_files(other.path()).pop().expect("two files");
    assert_ne!(name, second);
    let content = fs::read(&dir.path().join(&name)).expect("readable").expect("there");
    put(&other.path().join(&second), &content);
    let error = try_open(other.path(), &source, small()).err().expect("refused");
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn a_newer_format_is_named_as_such() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = written(dir.path());
    let path = dir.path().join(chunk_files(dir.path()).pop().expect("one file"));
    let mut newer = fs::read(&path).expect("readable").expect("there");
    let trailer = newer.len() - 16;
    let footer_bytes = u32::from_le_bytes(newer[trailer..trailer + 4].try_into().expect("four bytes")) as usize;
    newer[trailer + 8] = 3;
    let covered = [&newer[trailer - footer_bytes..trailer + 4], &newer[trailer + 8..trailer + 12]].concat();
    let checksum = logcore::frame::checksum(&covered).to_le_bytes();
    newer[trailer + 4..trailer + 8].copy_from_slice(&checksum);
    fs::write_atomic(&path, &newer).expect("written");
    let error = try_open(dir.path(), &source, small()).err().expect("refused");
    assert!(matches!(error, Error::UnknownFormat { found: 3, supported: 2, .. }), "{error}");
}
