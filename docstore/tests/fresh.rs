//! Documents are searchable before their index is durable: what is visible, what is durable, and what a crash leaves.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/lossy.rs"]
mod lossy;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{batch, ids, mapping, options, plain};
use docstore::{Analyzer, DocumentMaterializer, DocumentOptions, DocumentSnapshot, DocumentTable, Error, Mapping};
use logcore::materialize::{FinishCheckpoint, Materializer, Rejects};
use logcore::sys::fs;
use logcore::{ErrorKind, Offset};
use lossy::{Lossy, Random};
use serde_json::json;

type Records = Vec<(String, Option<String>)>;

fn words() -> Mapping {
    mapping(&[("w", Analyzer::Standard)], &["n"])
}

struct Table {
    table: DocumentTable,
    view: DocumentMaterializer,
}

impl Table {
    fn open(disk: &Lossy, dir: &Path, options: DocumentOptions) -> Self {
        let (table, view) = DocumentTable::open_on(Arc::new(disk.clone()), dir, words(), plain(), options).unwrap();
        Self { table, view }
    }

    fn apply(&mut self, records: &Records) {
        let batch = batch(self.view.next_offset(), records);
        self.view.apply(&batch, &mut Rejects::default()).unwrap();
    }

    fn put(&mut self, id: &str, n: u64) {
        self.apply(&vec![(id.to_owned(), Some(format!("{{\"w\":\"word {n}\",\"n\":{n}}}")))]);
    }

    fn show(&mut self) -> DocumentSnapshot {
        self.view.make_visible().unwrap();
        assert_eq!(self.view.visible(), self.view.next_offset());
        self.table.snapshot()
    }
}

/// What a crash now would leave, opened.
fn crashed(disk: &Lossy, dir: &Path, seed: u64) -> (tempfile::TempDir, Table) {
    let image = tempfile::tempdir().unwrap();
    disk.crash_now(dir, seed, image.path());
    let table = Table::open(&Lossy::default(), image.path(), options());
    (image, table)
}

#[test]
fn documents_are_visible_before_they_are_durable() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Lossy::default());
    let mut table = Table::open(&disk, dir.path(), options());
    let meta = || fs::read(&dir.path().join("meta.json")).unwrap().unwrap();
    let empty = meta();
    table.put("a", 1);
    let snapshot = table.show();
    assert_eq!(ids(&snapshot, &json!({"match": {"w": "word"}})), ["a"]);
    assert_eq!(meta(), empty);
    let unsaved = table.view.unsaved_bytes();
    assert!(unsaved > 0);
    assert_eq!(crashed(&disk, dir.path(), 1).1.view.next_offset(), Offset::ZERO);

    assert_eq!(table.view.checkpoint().unwrap(), Offset::new(1));
    assert_eq!(table.view.unsaved_bytes(), 0);
    table.put("b", 2);
    assert_eq!(table.view.unsaved_bytes(), unsaved, "since the checkpoint, whatever is shown");
    table.show();
    assert_eq!(table.view.unsaved_bytes(), unsaved);
    let (_image, reopened) = crashed(&disk, dir.path(), 2);
    assert_eq!((reopened.view.next_offset(), reopened.view.visible()), (Offset::new(1), Offset::new(1)));
    assert_eq!(ids(&reopened.table.snapshot(), &json!({"match_all": {}})), ["a"]);
}

#[test]
fn a_checkpoint_is_of_the_moment_it_began_whatever_is_shown_and_merged_meanwhile() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Lossy::default());
    let mut table = Table::open(&disk, dir.path(), options());
    for n in 0..30 {
        table.put(&format!("k{n}"), n);
        table.show();
    }
    let finish = table.view.begin_checkpoint().unwrap();
    for n in 30..60 {
        table.put(&format!("k{}", n - 20), n);
        table.show();
    }
    assert_eq!(finish().unwrap(), Offset::new(30));
    assert!(table.view.unsaved_bytes() > 0);
    let (_image, reopened) = crashed(&disk, dir.path(), 3);
    assert_eq!((reopened.view.next_offset(), reopened.table.snapshot().count()), (Offset::new(30), 30));
    assert_eq!(table.table.snapshot().count(), 40);
    assert_eq!(table.view.checkpoint().unwrap(), Offset::new(60));
    let (_image, reopened) = crashed(&disk, dir.path(), 4);
    assert_eq!((reopened.view.next_offset(), reopened.table.snapshot().count()), (Offset::new(60), 40));
}

/// One life of a table: random changes, shows and checkpoints until a random moment, also in the middle of a checkpoint.
fn live(random: &mut Random, disk: &Lossy, table: &mut Table, log: &mut Vec<Records>, saved: &mut Vec<u64>) {
    let mut finish: Option<FinishCheckpoint> = None;
    for _ in 0..10 + random.below(25) {
        match random.below(10) {
            0..=4 => {
                let change = |random: &mut Random| {
                    let n = random.below(1_000);
                    (format!("k{}", random.below(30)), (n > 250).then(|| format!("{{\"w\":\"word {n}\",\"n\":{n}}}")))
                };
                let records: Records = (0..1 + random.below(4)).map(|_| change(random)).collect();
                table.apply(&records);
                log.push(records);
            }
            5..=7 => drop(table.show()),
            _ => match finish.take() {
                None => {
                    saved.push(table.view.next_offset().value());
                    finish = Some(table.view.begin_checkpoint().unwrap());
                }
                Some(finish) => {
                    let end = finish().unwrap().value();
                    if !disk.has_crashed() {
                        // Only this one may be found from now on, or a later one.
                        saved.retain(|offset| *offset >= end);
                    }
                }
            },
        }
    }
}

fn content(snapshot: &DocumentSnapshot) -> BTreeMap<String, String> {
    let found = ids(snapshot, &json!({"match_all": {}}));
    assert_eq!(found.len() as u64, snapshot.count(), "an id is there once");
    found.into_iter().map(|id| (id.clone(), String::from_utf8(snapshot.get(&id).unwrap().unwrap()).unwrap())).collect()
}

#[test]
fn a_crash_at_any_moment_leaves_a_checkpoint_and_the_log_brings_back_the_rest() {
    for seed in 1..=25_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let fresh_bytes = [0, 20_000, 16 << 20][usize::try_from(random.below(3)).unwrap()];
        let options = DocumentOptions { fresh_bytes, ..options() };
        let mut log: Vec<Records> = Vec::new();
        let mut saved = vec![0];
        let mut dir = tempfile::tempdir().unwrap();
        for life in 0..3 {
            let disk = Lossy::default();
            let mut table = Table::open(&disk, dir.path(), options);
            let resumed = table.view.next_offset().value();
            assert!(saved.contains(&resumed), "seed {seed}, life {life}: resumed at {resumed}, saved were {saved:?}");
            saved = vec![resumed];
            let mut offset = 0;
            for records in &log {
                if offset >= resumed {
                    table.apply(records);
                }
                offset += records.len() as u64;
            }
            assert_eq!(table.view.next_offset().value(), offset, "seed {seed}: checkpoints lie between batches");
            let mut model = BTreeMap::new();
            for (id, json) in log.iter().flatten() {
                match json {
                    Some(json) => model.insert(id.clone(), json.clone()),
                    None => model.remove(id),
                };
            }
            assert_eq!(content(&table.show()), model, "seed {seed}, life {life}");

            let image = tempfile::tempdir().unwrap();
            if random.below(3) > 0 {
                disk.crash_in(1 + random.below(250), random.below(u64::MAX >> 33), image.path());
            }
            live(&mut random, &disk, &mut table, &mut log, &mut saved);
            disk.crash_now(dir.path(), seed, image.path());
            drop(table);
            dir = image;
        }
    }
}

#[test]
fn what_a_crash_left_over_is_removed_and_nothing_else() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), Lossy::default());
    let mut table = Table::open(&disk, dir.path(), DocumentOptions { fresh_bytes: 0, ..options() });
    table.put("a", 1);
    table.view.checkpoint().unwrap();
    drop(table);
    let names = || fs::list(dir.path()).unwrap();
    let kept = names();
    let left = [
        "0123456789abcdef0123456789abcdef.idx",
        "0123456789abcdef0123456789abcdef.7.del",
        ".tmpAbC",
        "meta.tmp",
        ".managed.json",
    ];
    for name in left {
        fs::write_atomic(&dir.path().join(name), b"torn").unwrap();
    }
    let letters = dir.path().join("dead_letters.ndjson");
    fs::write_atomic(&letters, b"{}").unwrap();
    let mut table = Table::open(&disk, dir.path(), options());
    let mut wanted: Vec<String> = kept.into_iter().chain(["dead_letters.ndjson".to_owned()]).collect();
    wanted.sort();
    assert_eq!(names(), wanted);
    table.put("b", 2);
    assert_eq!(table.show().count(), 2);
}

#[test]
fn the_disk_holds_little_more_than_the_index_however_often_it_is_shown() {
    for fresh_bytes in [0, 200_000] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Lossy::default());
        let mut table = Table::open(&disk, dir.path(), DocumentOptions { fresh_bytes, segments_max: 12, ..options() });
        let mut most = 0;
        for n in 0..1_000 {
            table.put(&format!("k{}", n % 40), n);
            table.show();
            if n % 100 == 99 {
                table.view.checkpoint().unwrap();
            }
            most = most.max(fs::list(dir.path()).unwrap().len());
        }
        // Seven files for a segment: those shown, those of the last checkpoint, and those that merges write and replace.
        assert!(most < 7 * 12 * 4, "{most} files");
        table.view.checkpoint().unwrap();
        drop(table);
        let table = Table::open(&disk, dir.path(), options());
        assert_eq!(table.table.snapshot().count(), 40);
        let files = fs::list(dir.path()).unwrap().len();
        assert!(files <= 7 * table.table.snapshot().segments() + 4, "{files} files");
    }
}

#[test]
fn after_a_failed_sync_the_view_stops_and_nothing_is_tried_again() {
    for fresh_bytes in [0, 16 << 20] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), Lossy::default());
        let mut table = Table::open(&disk, dir.path(), DocumentOptions { fresh_bytes, ..options() });
        table.put("a", 1);
        table.view.checkpoint().unwrap();
        table.put("b", 2);
        table.show();
        disk.fail_syncs();
        let error = table.view.checkpoint().expect_err("the disk is broken");
        assert_eq!(error.downcast_ref::<Error>().unwrap().kind(), ErrorKind::Unavailable);
        let stopped = |error: logcore::materialize::ViewError| {
            assert!(matches!(error.downcast_ref::<Error>(), Some(Error::Stopped { .. })), "{error}");
        };
        stopped(table.view.checkpoint().expect_err("it is stopped"));
        let records = batch(table.view.next_offset(), &[("c".to_owned(), Some("{}".to_owned()))]);
        stopped(table.view.apply(&records, &mut Rejects::default()).expect_err("it is stopped"));
        stopped(table.view.make_visible().expect_err("it is stopped"));
        assert_eq!(disk.failures(), (1, 0));
        assert_eq!(ids(&table.table.snapshot(), &json!({"match_all": {}})), ["a", "b"], "what was shown stays readable");
        let (_image, reopened) = crashed(&disk, dir.path(), 5);
        assert_eq!(reopened.view.next_offset(), Offset::new(1));
    }
}
