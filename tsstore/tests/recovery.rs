//! What is left after crashes, checkpoints and schema changes.

mod common;

use common::{Point, Source, chunk_files, everything, expected, feed, log, open, rows, small, source, try_open};
use logcore::materialize::suite::Opened;
use logcore::materialize::{Materializer, Rejects};
use logcore::sys::fs;
use logcore::{ErrorKind, Offset};
use tsstore::{Error, SeriesTable};

fn points(count: u32) -> Source {
    let point = |n: u32| Point {
        count: Some(i64::from(n)),
        ..Point::at(i64::from(n % 37) * 500, ["a", "b"][n as usize % 2], f64::from(n))
    };
    Source::new((0..count).map(|n| (n % 10 != 9).then(|| point(n))).collect())
}

logcore::materializer_suite!(
    suite,
    |dir: &std::path::Path| {
        let (table, materializer) = open(dir, &points(120), small());
        let content = move || rows(&table.snapshot(), &everything()).iter().map(|row| row.join(" ") + "\n").collect();
        Opened { materializer: Box::new(materializer), content: Box::new(content) }
    },
    log(120, 7)
);

#[test]
fn a_crash_between_checkpoints_goes_back_to_the_last_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, log) = (points(60), log(60, 10));
    let (table, mut materializer) = open(dir.path(), &source, small());
    feed(&mut materializer, &log[..3]);
    assert_eq!(materializer.checkpoint().expect("no fault"), Offset::new(30));
    feed(&mut materializer, &log[..5]);
    assert_eq!(table.snapshot().offset(), Offset::new(50));
    assert!(materializer.unsaved_bytes() > 0);
    drop((table, materializer));
    let (table, mut materializer) = open(dir.path(), &source, small());
    assert_eq!((materializer.next_offset(), materializer.unsaved_bytes()), (Offset::new(30), 0));
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 30));
    feed(&mut materializer, &log);
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 60));
}

#[test]
fn a_batch_applied_in_part_is_taken_from_where_the_view_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = points(60);
    let (table, mut materializer) = open(dir.path(), &source, small());
    feed(&mut materializer, &log(25, 25));
    feed(&mut materializer, &log(60, 20));
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 60));
    let late = log(100, 20).pop().expect("five batches");
    let error = materializer.apply(&late, &mut Rejects::default()).expect_err("80 comes after 60");
    assert!(error.to_string().contains("offset 80"), "{error}");
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, log) = (points(60), log(60, 10));
    let (_, mut materializer) = open(dir.path(), &source, small());
    let (mut saved, path) = (Vec::new(), |name: &str| dir.path().join(name));
    let small_file = small().merge_points;
    assert!(small_file < 9, "a batch is more than a small file");
    for batches in [3, 6] {
        feed(&mut materializer, &log[..batches]);
        materializer.checkpoint().expect("no fault");
        saved = chunk_files(dir.path());
    }
    assert_eq!(saved.len(), 2);
    drop(materializer);
    let whole = dir.path().join("whole");
    let (_, mut materializer) = open(&whole, &source, small());
    feed(&mut materializer, &log);
    materializer.checkpoint().expect("no fault");
    let union = chunk_files(&whole).pop().expect("one file");
    fs::write_atomic(&path(&union), &fs::read(&whole.join(&union)).expect("readable").expect("there")).expect("written");
    fs::write_atomic(&path("dead_letters.ndjson"), b"kept").expect("written");
    let unfinished = path(&union.replace("00.chunk", "01.chunk")).with_extension("tmp");
    fs::write_atomic(&unfinished.with_extension("x"), b"half").expect("written");
    fs::write_atomic(&path("other.tmp"), b"someone's").expect("written");
    std::iter::once(&unfinished).for_each(|path| {
        fs::AppendFile::open(path, 0).and_then(|mut file| file.append(b"half a chunk")).expect("written");
    });
    let (table, materializer) = open(dir.path(), &source, small());
    assert_eq!(chunk_files(dir.path()), [union]);
    assert_eq!(materializer.next_offset(), Offset::new(60));
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 60));
    assert_eq!(fs::len_bytes(&unfinished).expect("tellable"), 0, "an unfinished file is gone");
    assert_eq!(fs::len_bytes(&path("dead_letters.ndjson")).expect("tellable"), 4, "others' files are not touched");
}

#[test]
fn a_missing_file_is_a_gap() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, log) = (points(60), log(60, 10));
    let (_, mut materializer) = open(dir.path(), &source, small());
    for batches in [2, 4, 6] {
        feed(&mut materializer, &log[..batches]);
        materializer.checkpoint().expect("no fault");
    }
    let files = chunk_files(dir.path());
    assert_eq!(files.len(), 3);
    fs::remove_file(&dir.path().join(&files[1])).expect("removable");
    let error = try_open(dir.path(), &source, small()).err().expect("a gap");
    assert!(matches!(&error, Error::Gap { expected, found, .. } if (expected.value(), found.value()) == (20, 40)), "{error}");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn checkpoints_without_points_are_durable_and_do_not_pile_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = points(60);
    let (_, mut materializer) = open(dir.path(), &source, small());
    assert_eq!(materializer.checkpoint().expect("no fault"), Offset::ZERO);
    assert!(chunk_files(dir.path()).is_empty(), "nothing applied, nothing to save");
    feed(&mut materializer, &log(60, 10));
    materializer.checkpoint().expect("no fault");
    for next in 61..70 {
        materializer.skip_to(Offset::new(next)).expect("no fault");
        materializer.checkpoint().expect("no fault");
        assert_eq!(chunk_files(dir.path()).len(), 2, "the empty file is replaced, the full one stays");
    }
    let (table, materializer) = open(dir.path(), &source, small());
    assert_eq!(materializer.next_offset(), Offset::new(69));
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 60));
}

#[test]
fn small_files_are_merged_into_the_next_one_and_kept_for_their_readers() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = points(60);
    let (table, mut materializer) = open(dir.path(), &source, small());
    let mut readers = Vec::new();
    for batch in &log(60, 2) {
        feed(&mut materializer, std::slice::from_ref(batch));
        materializer.checkpoint().expect("no fault");
        readers.push(table.snapshot());
    }
    assert!(table.stats().chunks < 15, "{:?}", table.stats());
    assert!(chunk_files(dir.path()).len() > table.stats().chunks, "snapshots keep their files");
    for reader in &readers {
        assert_eq!(rows(reader, &everything()), expected(&source, logcore::types::index(reader.offset().value())));
    }
    drop(readers);
    assert_eq!(chunk_files(dir.path()).len(), table.stats().chunks, "and let go of them");
    let (table, _) = open(dir.path(), &source, small());
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 60));
}

#[test]
fn another_schema_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = source([Point::at(1, "a", 1.0)]);
    let (_, mut materializer) = open(dir.path(), &source, small());
    feed(&mut materializer, &log(1, 1));
    materializer.checkpoint().expect("no fault");
    let mut schema = common::schema();
    schema.columns.swap(0, 1);
    let projection = common::FromSource { source, arrow: common::arrow_schema() };
    let error = SeriesTable::open(dir.path(), schema, Box::new(projection), small()).err().expect("refused");
    assert!(matches!(error, Error::SchemaChanged { .. }), "{error}");
}
