//! What is left after crashes, checkpoints and schema changes.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{
    Entry, Erase, Point, Source, chunk_files, everything, expected, feed, log, open, open_as, rows, small, source, try_open,
};
use logcore::materialize::suite::Opened;
use logcore::materialize::{Materializer, Rejects};
use logcore::sys::fs;
use logcore::{ErrorKind, Offset};
use tsstore::Error;

fn points(count: u32) -> Source {
    let point = |n: u32| Point {
        count: Some(i64::from(n)),
        ..Point::at(i64::from(n % 37) * 500, ["a", "b"][n as usize % 2], f64::from(n))
    };
    let erase = Erase { until: Some(4_000), hosts: Some(vec![Some("a".into())]), ..Erase::default() };
    let entry = |n: u32| match n % 10 {
        9 => Entry::Unfit,
        7 if n.is_multiple_of(3) => Entry::Delete(erase.clone()),
        _ => Entry::Point(point(n)),
    };
    Source::new((0..count).map(entry).collect())
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

/// The names and contents of a folder.
type Image = BTreeMap<String, Vec<u8>>;

fn image(dir: &Path) -> Image {
    let content = |name: &String| fs::read(&dir.join(name)).expect("readable").expect("there");
    fs::list(dir).expect("listable").into_iter().map(|name| (name.clone(), content(&name))).collect()
}

fn put(path: &Path, content: &[u8]) {
    fs::AppendFile::open(path, 0).and_then(|mut file| file.append(content)).expect("writable");
}

/// The folders that a crash may leave between `before` and `after`: files are written, all of them or a part, then the manifest is
/// replaced, then others are removed.
fn crashes(before: &Image, after: &Image) -> Vec<Image> {
    let manifest = "series.manifest";
    let mut states = Vec::new();
    let mut so_far = before.clone();
    for (name, content) in after.iter().filter(|(name, _)| *name != manifest && !before.contains_key(*name)) {
        for part in [0, content.len() / 2, content.len() - 1, content.len()] {
            so_far.insert(name.clone(), content[..part].to_vec());
            states.push(so_far.clone());
        }
    }
    let whole = &after[manifest];
    for part in [0, whole.len() / 2, whole.len()] {
        so_far.insert("series.tmp".to_owned(), whole[..part].to_vec());
        states.push(so_far.clone());
    }
    so_far.remove("series.tmp");
    so_far.insert(manifest.to_owned(), whole.clone());
    states.push(so_far.clone());
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        so_far.remove(name);
        states.push(so_far.clone());
    }
    assert_eq!(&so_far, after);
    states
}

#[test]
fn a_crash_at_any_step_of_a_checkpoint_leaves_the_one_before_or_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, log) = (points(240), log(240, 12));
    let (table, mut materializer) = open(dir.path(), &source, small());
    let (mut merged, mut tried) = (0, 0);
    for batches in 1..=log.len() {
        let (before, chunks) = (image(dir.path()), table.stats().chunks);
        feed(&mut materializer, &log[..batches]);
        materializer.checkpoint().expect("no fault");
        merged += usize::from(table.stats().chunks <= chunks);
        for state in crashes(&before, &image(dir.path())) {
            let crashed = tempfile::tempdir().expect("a folder");
            state.iter().for_each(|(name, content)| put(&crashed.path().join(name), content));
            put(&crashed.path().join("dead_letters.ndjson"), b"kept");
            let (table, mut materializer) = open(crashed.path(), &source, small());
            let applied = logcore::types::index(materializer.next_offset().value());
            assert!([batches * 12, (batches - 1) * 12].contains(&applied), "{applied} after batch {batches}");
            assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, applied), "batch {batches}");
            feed(&mut materializer, &log[..batches]);
            materializer.checkpoint().expect("no fault");
            assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, batches * 12), "batch {batches}");
            let files = image(crashed.path());
            assert_eq!(chunk_files(crashed.path()).len(), table.stats().chunks, "leftovers are gone: {:?}", files.keys());
            assert_eq!(files["dead_letters.ndjson"], b"kept", "others' files are not touched");
            tried += 1;
        }
    }
    assert!(merged > 0 && tried > 100, "{merged} merges, {tried} crashes");
}

#[test]
fn a_missing_file_is_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, log) = (points(60), log(60, 10));
    let (_, mut materializer) = open(dir.path(), &source, small());
    feed(&mut materializer, &log);
    materializer.checkpoint().expect("no fault");
    for name in fs::list(dir.path()).expect("listable").iter().filter(|name| !name.ends_with("manifest")) {
        let content = fs::read(&dir.path().join(name)).expect("readable").expect("there");
        fs::remove_file(&dir.path().join(name)).expect("removable");
        let error = try_open(dir.path(), &source, small()).err().expect("a file is missing");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(name.as_str()), "{error}");
        put(&dir.path().join(name), &content);
    }
    let (table, _) = open(dir.path(), &source, small());
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 60));
}

#[test]
fn checkpoints_without_points_are_durable_and_do_not_pile_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = points(60);
    let (_, mut materializer) = open(dir.path(), &source, small());
    assert_eq!(materializer.checkpoint().expect("no fault"), Offset::ZERO);
    assert!(fs::list(dir.path()).expect("listable").is_empty(), "nothing applied, nothing to save");
    feed(&mut materializer, &log(60, 10));
    materializer.checkpoint().expect("no fault");
    let files = fs::list(dir.path()).expect("listable").len();
    for next in 61..70 {
        materializer.skip_to(Offset::new(next)).expect("no fault");
        materializer.checkpoint().expect("no fault");
        assert!(fs::list(dir.path()).expect("listable").len() <= files, "an empty checkpoint adds no file");
    }
    let (table, materializer) = open(dir.path(), &source, small());
    assert_eq!(materializer.next_offset(), Offset::new(69));
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 60));
}

#[test]
fn merged_files_are_kept_for_their_readers() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = points(240);
    let (table, mut materializer) = open(dir.path(), &source, small());
    let mut readers = Vec::new();
    for batch in &log(240, 4) {
        feed(&mut materializer, std::slice::from_ref(batch));
        materializer.checkpoint().expect("no fault");
        readers.push(table.snapshot());
    }
    assert!(table.stats().chunks < 30, "{:?}", table.stats());
    assert!(chunk_files(dir.path()).len() > table.stats().chunks, "snapshots keep their files");
    for reader in &readers {
        assert_eq!(rows(reader, &everything()), expected(&source, logcore::types::index(reader.offset().value())));
    }
    drop(readers);
    assert_eq!(chunk_files(dir.path()).len(), table.stats().chunks, "and let go of them");
    let (table, _) = open(dir.path(), &source, small());
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 240));
}

#[test]
fn deletes_go_when_they_are_applied() {
    let dir = tempfile::tempdir().expect("a folder");
    let point = |n: i64| Entry::Point(Point::at(n * 10, "a", 1.0));
    let erase = |n: i64| Entry::Delete(Erase { from: Some(n * 10), until: Some(n * 10 + 1), ..Erase::default() });
    let mut entries: Vec<Entry> = (0..40).map(point).collect();
    entries.extend((0..10).map(erase));
    entries.extend((40..60).map(point));
    let source = Source::new(entries);
    let (table, mut materializer) = open(dir.path(), &source, small());
    let log = log(70, 10);
    for batches in 1..=7 {
        feed(&mut materializer, &log[..batches]);
        materializer.checkpoint().expect("no fault");
        assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, batches * 10));
    }
    for next in 71..80 {
        materializer.skip_to(Offset::new(next)).expect("no fault");
        materializer.checkpoint().expect("no fault");
    }
    assert!(table.stats().deletes <= small().deletes_max, "{:?}", table.stats());
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 70));
    assert!(table.snapshot().kept_from() > Offset::ZERO);
}

#[test]
fn chunk_files_of_the_first_version_ask_for_a_rebuild() {
    let dir = tempfile::tempdir().expect("a folder");
    let name = format!("{:020}-{:020}.chunk", 0, 10);
    put(&dir.path().join(&name), b"whatever");
    let error = try_open(dir.path(), &points(1), small()).err().expect("refused");
    assert!(matches!(error, Error::UnknownFormat { found: 1, supported: 2, .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(chunk_files(dir.path()), [name], "and are not touched");
}

#[test]
fn a_schema_that_would_mix_up_points_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = source([Point::at(1, "a", 1.0)]);
    let (table, mut materializer) = open(dir.path(), &source, small());
    feed(&mut materializer, &log(1, 1));
    materializer.checkpoint().expect("no fault");
    let error = open_as(dir.path(), common::small_schema(), &source, small()).err().expect("refused");
    assert!(matches!(error, Error::SchemaChanged { .. }), "{error}");
    assert!(matches!(table.set_schema(&common::small_schema()), Err(Error::SchemaChanged { .. })));
}

#[test]
fn a_schema_grows_while_the_table_is_open() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = source((0..20).map(|n| Point::at(n, "a", 1.0)));
    let (table, mut materializer) = open_as(dir.path(), common::small_schema(), &source, small()).expect("opens");
    feed(&mut materializer, &log(10, 10));
    let before = table.snapshot();
    table.set_schema(&common::schema()).expect("it grows");
    // Points that come with fewer columns than the table has are taken by name.
    feed(&mut materializer, &log(20, 10));
    assert_eq!(before.arrow_schema().fields().len(), 5);
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 20));
    materializer.checkpoint().expect("no fault");
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 20));
    let (table, _) = open(dir.path(), &source, small());
    assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, 20));
}
