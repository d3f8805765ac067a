//! What the writing side owes the log: upserts and deletes against a model, crashes, replays, damaged folders.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{EVERYTHING, Fixture, mapping, options, plain};
use docstore::{Analyzer, DocumentOptions, DocumentSnapshot, DocumentTable, Error, Mapping, ScanColumn};
use logcore::materialize::suite::Opened;
use logcore::materialize::{Materializer, Rejects};
use logcore::sys::fs;
use logcore::{ErrorKind, Offset};
use proptest::prelude::*;
use std::ops::ControlFlow;

fn words() -> Mapping {
    mapping(&[("w", Analyzer::Standard)], &["n"])
}

/// Every document by id, read the way a table scan does.
fn content(snapshot: &DocumentSnapshot) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let columns = [ScanColumn::Id, ScanColumn::Doc];
    let mut rows = 0;
    snapshot
        .scan(None, &columns, None, false, 7, &mut |batch| {
            use arrow::array::AsArray;
            rows += batch.num_rows();
            let (ids, docs) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
            found.extend(ids.iter().zip(docs).map(|(id, doc)| (id.unwrap().to_owned(), doc.unwrap().to_owned())));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(rows, found.len(), "an id is there once");
    assert_eq!(rows as u64, snapshot.count());
    found
}

fn suite_records() -> Vec<(Option<String>, Option<String>)> {
    let record = |n: u64| match n % 7 {
        3 => (Some(format!("k{}", n % 5)), None),
        5 => (Some(format!("k{n}")), Some("not json".to_owned())),
        _ => (Some(format!("k{}", n % 11)), Some(format!("{{\"w\":\"word{n} same\",\"n\":{n}}}"))),
    };
    (0..40).map(record).collect()
}

logcore::materializer_suite!(
    suite,
    |dir: &std::path::Path| {
        let (table, materializer) = DocumentTable::open(dir, words(), plain(), options()).unwrap();
        Opened { materializer: Box::new(materializer), content: Box::new(move || format!("{:?}", content(&table.snapshot()))) }
    },
    logcore::materialize::suite::batches(&suite_records(), 4)
);

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<(u8, Option<u16>)>),
    Show,
    Save,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (prop_oneof![12 => 0..12_u8, 1 => Just(12)], prop_oneof![3 => (0..1000_u16).prop_map(Some), 1 => Just(None)]);
    let step = prop_oneof![
        6 => proptest::collection::vec(change, 1..6).prop_map(Step::Batch),
        2 => Just(Step::Show),
        1 => Just(Step::Save),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Reopening drops what was not saved, though it was shown; the log is then applied again from the offset the table resumes at.
    #[test]
    fn a_table_equals_a_map_of_the_last_versions(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut fixture = Fixture::open(dir.path(), words());
        let mut log: Vec<Vec<(String, Option<String>)>> = Vec::new();
        let mut saved = 0;
        for step in steps {
            match step {
                Step::Batch(changes) => {
                    let json = |n: u16| format!("{{ \"w\": \"word {n}\",\n \"n\": {n} }}");
                    let key = |k: u8| if k == 12 { EVERYTHING.to_owned() } else { format!("key-{k}") };
                    let records: Vec<_> = changes.into_iter().map(|(k, n)| (key(k), n.map(json))).collect();
                    fixture.apply(&records);
                    log.push(records);
                }
                Step::Show => drop(fixture.commit()),
                Step::Save => {
                    fixture.save();
                    saved = log.len();
                }
                Step::Reopen => {
                    drop(fixture);
                    fixture = Fixture::open(dir.path(), words());
                    let durable: usize = log[..saved].iter().map(Vec::len).sum();
                    prop_assert_eq!(fixture.materializer.next_offset(), Offset::new(durable as u64));
                    for records in &log[saved..] {
                        fixture.apply(records);
                    }
                }
            }
        }
        let snapshot = fixture.commit();
        let mut model = BTreeMap::new();
        for (key, value) in log.iter().flatten() {
            match value {
                _ if key == EVERYTHING => model.clear(),
                Some(value) => drop(model.insert(key.clone(), value.clone())),
                None => drop(model.remove(key)),
            }
        }
        prop_assert_eq!(&content(&snapshot), &model);
        for key in (0..12).map(|k| format!("key-{k}")) {
            let found = snapshot.get(&key).unwrap().map(|bytes| String::from_utf8(bytes).unwrap());
            prop_assert_eq!(found, model.get(&key).cloned());
        }
    }
}

#[test]
fn what_was_not_saved_is_applied_again_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let json = |n: u32| Some(format!("{{\"n\":{n}}}"));
    let mut fixture = Fixture::open(dir.path(), words());
    fixture.apply(&[("a".into(), json(1)), ("b".into(), json(1))]);
    fixture.save();
    fixture.apply(&[("a".into(), json(2)), ("c".into(), json(2))]);
    assert!(fixture.materializer.unsaved_bytes() > 0);
    assert_eq!((fixture.materializer.next_offset().value(), fixture.materializer.visible().value()), (4, 2));
    drop(fixture);

    let mut fixture = Fixture::open(dir.path(), words());
    assert_eq!((fixture.materializer.next_offset().value(), fixture.materializer.visible().value()), (2, 2));
    let snapshot = fixture.table.snapshot();
    assert_eq!((snapshot.offset().value(), snapshot.count()), (2, 2));
    assert_eq!(snapshot.get("a").unwrap().as_deref(), Some(&b"{\"n\":1}"[..]));
    // The batch comes again from its start, and a batch that was applied in part is applied from where it stopped.
    let again = common::batch(Offset::new(1), &[("b".into(), json(9)), ("a".into(), json(2)), ("c".into(), json(2))]);
    fixture.materializer.apply(&again, &mut Rejects::default()).unwrap();
    let snapshot = fixture.commit();
    assert_eq!(content(&snapshot).into_values().collect::<Vec<_>>(), ["{\"n\":2}", "{\"n\":1}", "{\"n\":2}"]);
}

#[test]
fn documents_that_are_no_objects_are_rejected_and_the_version_before_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path(), words());
    let long = "k".repeat(docstore::mapping::ID_BYTES_MAX + 1);
    let rejects = fixture.apply(&[
        ("a".into(), Some("{\"n\":1}".into())),
        ("a".into(), Some("[1]".into())),
        ("b".into(), Some("{\"n\"".into())),
        (long, Some("{}".into())),
        ("c".into(), Some("{\"n\":\"\\ud800\"}".into())),
    ]);
    assert_eq!(rejects.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(rejects[0].1, "the document is not a JSON object");
    let snapshot = fixture.commit();
    assert_eq!(content(&snapshot), BTreeMap::from([("a".to_owned(), "{\"n\":1}".to_owned())]));
    assert_eq!(snapshot.offset(), Offset::new(5));
}

#[test]
fn offsets_without_documents_are_checkpointed_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path(), words());
    fixture.apply(&[("a".into(), Some("no".into()))]);
    assert_eq!(fixture.materializer.checkpoint().unwrap(), Offset::new(1));
    fixture.materializer.skip_to(Offset::new(70)).unwrap();
    assert_eq!(fixture.materializer.checkpoint().unwrap(), Offset::new(70));
    let meta = fs::read(&dir.path().join("meta.json")).unwrap();
    assert_eq!(fixture.materializer.checkpoint().unwrap(), Offset::new(70));
    assert_eq!(fs::read(&dir.path().join("meta.json")).unwrap(), meta, "nothing new, nothing written");
    drop(fixture);
    assert_eq!(Fixture::open(dir.path(), words()).materializer.next_offset(), Offset::new(70));
}

#[test]
fn the_last_states_can_be_read_by_offset() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path(), words());
    for n in 1..=20_u64 {
        fixture.apply(&[(format!("k{n}"), Some("{}".into())), ("same".into(), Some(format!("{{\"n\":{n}}}")))]);
        fixture.commit();
    }
    let at = |cut: u64| fixture.table.snapshot_at(Offset::new(cut)).map(|snapshot| (snapshot.offset().value(), snapshot.count()));
    assert_eq!(at(100), Some((40, 21)));
    assert_eq!((at(40), at(39), at(38)), (Some((40, 21)), Some((38, 20)), Some((38, 20))));
    assert_eq!((at(26), at(25)), (Some((26, 14)), None), "eight states are kept");
    let old = fixture.table.snapshot_at(Offset::new(26)).unwrap();
    assert_eq!(old.get("same").unwrap().as_deref(), Some(&b"{\"n\":13}"[..]));
}

#[test]
fn a_small_queue_and_few_segments_slow_the_feeder_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let small = DocumentOptions { queue_bytes: 2_000, segments_max: 3, ..options() };
    let (table, mut materializer) = DocumentTable::open(dir.path(), words(), plain(), small).unwrap();
    for round in 0..12_u32 {
        let text = "x".repeat(if round == 5 { 10_000 } else { 300 });
        let records: Vec<_> = (0..40).map(|n| (format!("{round}-{n}"), Some(format!("{{\"w\":\"{text}\"}}")))).collect();
        let batch = common::batch(materializer.next_offset(), &records);
        materializer.apply(&batch, &mut Rejects::default()).unwrap();
        materializer.checkpoint().unwrap();
    }
    assert_eq!(content(&table.snapshot()).len(), 480);
}

#[test]
fn after_a_failed_write_nothing_more_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path(), words());
    fixture.apply(&[("a".into(), Some("{}".into()))]);
    fixture.commit();
    fs::remove_dir(dir.path()).unwrap();
    fixture.apply(&[("b".into(), Some("{}".into()))]);
    let error = fixture.materializer.checkpoint().expect_err("the folder is gone");
    assert_eq!(error.downcast_ref::<Error>().unwrap().kind(), ErrorKind::Unavailable);
    fs::create_dir(dir.path()).unwrap();
    let error = fixture.materializer.checkpoint().expect_err("tantivy's state is unknown");
    assert!(matches!(error.downcast_ref::<Error>(), Some(Error::Stopped { .. })), "{error}");
    let batch = common::batch(Offset::new(2), &[("c".into(), Some("{}".into()))]);
    assert!(fixture.materializer.apply(&batch, &mut Rejects::default()).is_err());
    assert_eq!(fixture.materializer.visible(), Offset::new(1));
    assert_eq!(fixture.table.snapshot().get("a").unwrap().as_deref(), Some(&b"{}"[..]), "what was read stays readable");
}

fn refusal(dir: &std::path::Path, mapping: Mapping) -> Error {
    DocumentTable::open(dir, mapping, plain(), options()).err().unwrap()
}

#[test]
fn doubtful_folders_are_refused_with_the_advice_to_rebuild() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path(), words());
    fixture.apply(&[("a".into(), Some("{}".into()))]);
    fixture.save();
    let error = refusal(dir.path(), words());
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    drop(fixture);

    let error = refusal(dir.path(), mapping(&[("w", Analyzer::English)], &["n"]));
    assert!(matches!(error, Error::MappingChanged { .. }), "{error}");
    let error = refusal(dir.path(), mapping(&[("w", Analyzer::Standard)], &["n", "m"]));
    assert!(error.to_string().contains("`k:m` is not in it"), "{error}");

    let meta = dir.path().join("meta.json");
    let good = fs::read(&meta).unwrap().unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let future = text.replace(r#"\"format\":1"#, r#"\"format\":2"#);
    assert_ne!(future, text);
    fs::write_atomic(&meta, future.as_bytes()).unwrap();
    assert!(matches!(refusal(dir.path(), words()), Error::UnknownFormat { found: 2, .. }));

    for damaged in [&good[..good.len() / 2], b"{}", b""] {
        fs::write_atomic(&meta, damaged).unwrap();
        let error = refusal(dir.path(), words());
        assert!(matches!(error, Error::Damaged { .. }) && error.kind() == ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().ends_with("rebuild the view"), "{error}");
    }
    fs::remove_file(&meta).unwrap();
    assert!(matches!(refusal(dir.path(), words()), Error::Damaged { .. }));

    fs::write_atomic(&meta, &good).unwrap();
    assert_eq!(Fixture::open(dir.path(), words()).table.snapshot().count(), 1);
    let segment = fs::list(dir.path()).unwrap().into_iter().find(|name| name.ends_with(".store")).unwrap();
    fs::remove_file(&dir.path().join(segment)).unwrap();
    assert!(matches!(refusal(dir.path(), words()), Error::Damaged { .. }));
}

#[test]
fn indexes_of_mappings_from_before_typed_fields_open_without_a_rebuild() {
    let dir = tempfile::tempdir().unwrap();
    let meta = include_str!("fixtures/meta-of-format-1.json");
    fs::write_atomic(&dir.path().join("meta.json"), meta.as_bytes()).unwrap();
    fs::write_atomic(&dir.path().join(".managed.json"), b"[\"meta.json\"]").unwrap();
    let mapping = r#"{"key":"","search":[{"path":"subject","analyzer":"standard"},{"path":"body","analyzer":"standard"},
        {"path":"author.name","analyzer":"standard"}],"facets":["author.name","tags","size","day"]}"#;
    let mapping: Mapping = serde_json::from_str(mapping).unwrap();
    let mut fixture = Fixture::open(dir.path(), mapping.clone());
    fixture.put("1", &serde_json::json!({"subject": "torn", "size": 3}));
    let snapshot = fixture.save();
    let found = common::search(&snapshot, serde_json::json!({"query": {"match": {"subject": "torn"}}})).unwrap();
    assert_eq!(found.hits[0].id, "1", "from its column: ids were not stored then");
    drop(fixture);
    assert_eq!(Fixture::open(dir.path(), mapping).materializer.next_offset(), Offset::new(1));
}
