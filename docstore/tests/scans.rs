//! Scans as Arrow record batches: every projection shows what the documents say, whichever way it was read.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type};
use common::{Fixture, mapping};
use docstore::{Analyzer, DocumentSnapshot, Error, Mapping, ScanColumn, ScanFilter};
use serde_json::{Value, json};

fn table_mapping() -> Mapping {
    mapping(&[("text", Analyzer::Standard), ("both", Analyzer::Standard)], &["both", "a.b", "n"])
}

/// Documents whose facets are missing, null, plain, arrays, objects, under arrays, and too long.
fn documents() -> BTreeMap<String, Value> {
    let odd = [
        json!({}),
        json!({"both": null, "a": 7, "n": 1.50}),
        json!({"both": "plain", "a": {"b": "x"}, "n": -3, "text": "torn"}),
        json!({"both": ["one"], "a": {"b": ["x", "y"]}, "text": ["torn", "write"]}),
        json!({"both": {"deep": 1}, "a": [{"b": "x"}], "n": true}),
        json!({"both": "[\"one\"]", "a": {"b": {"b": "x"}}, "n": "12"}),
        json!({"both": "z".repeat(40_000), "a": {"b": ""}, "text": "torn page"}),
    ];
    let word = |n: usize| ["torn", "write", "page", "log"][n % 4];
    let plain = |n: usize| json!({"both": format!("v{}", n % 3), "n": n, "text": format!("{} {}", word(n), word(n / 4)).repeat(1 + n % 3)});
    odd.into_iter().chain((0..60).map(plain)).enumerate().map(|(i, doc)| (format!("d{i:02}"), doc)).collect()
}

fn fixture(dir: &std::path::Path) -> (Fixture, BTreeMap<String, Value>) {
    let mut fixture = Fixture::open(dir, table_mapping());
    let documents = documents();
    for (n, (id, doc)) in documents.iter().enumerate() {
        fixture.put(id, &json!({"text": "torn to be replaced"}));
        fixture.put(id, doc);
        if n % 20 == 19 {
            fixture.commit();
        }
    }
    fixture.put("gone", &json!({"both": "v1", "text": "torn"}));
    fixture.apply(&[("gone".to_owned(), None)]);
    fixture.commit();
    (fixture, documents)
}

fn path(name: &str) -> ScanColumn {
    ScanColumn::Path(name.to_owned())
}

fn text(query: &str) -> ScanFilter {
    ScanFilter::Text { fields: None, query: query.to_owned() }
}

fn equals(path: &str, value: &str) -> ScanFilter {
    ScanFilter::FacetEquals { path: path.to_owned(), value: value.to_owned() }
}

struct Scan<'a> {
    filter: Option<&'a ScanFilter>,
    columns: &'a [ScanColumn],
    limit: Option<usize>,
    by_score: bool,
    batch_rows: usize,
}

impl Default for Scan<'_> {
    fn default() -> Self {
        Self { filter: None, columns: &[], limit: None, by_score: false, batch_rows: 7 }
    }
}

fn batches(snapshot: &DocumentSnapshot, scan: &Scan<'_>) -> Result<Vec<RecordBatch>, Error> {
    let mut batches = Vec::new();
    let mut keep = |batch: RecordBatch| {
        assert!(batch.num_rows() > 0 && batch.num_rows() <= scan.batch_rows);
        batches.push(batch);
        ControlFlow::Continue(())
    };
    snapshot.scan(scan.filter, scan.columns, scan.limit, scan.by_score, scan.batch_rows, &mut keep)?;
    Ok(batches)
}

/// Rows as text.
fn rows(snapshot: &DocumentSnapshot, scan: &Scan<'_>) -> Vec<Vec<Option<String>>> {
    let mut rows = Vec::new();
    for batch in batches(snapshot, scan).unwrap() {
        for row in 0..batch.num_rows() {
            let cell = |column: &dyn Array| match column.data_type() {
                _ if column.is_null(row) => None,
                DataType::Float32 => Some(column.as_primitive::<Float32Type>().value(row).to_string()),
                _ => Some(column.as_string::<i32>().value(row).to_owned()),
            };
            rows.push(batch.columns().iter().map(|column| cell(column.as_ref())).collect());
        }
    }
    rows
}

fn ids(snapshot: &DocumentSnapshot, filter: &ScanFilter) -> Vec<String> {
    let scan = Scan { filter: Some(filter), columns: &[ScanColumn::Id], ..Scan::default() };
    let mut ids: Vec<String> = rows(snapshot, &scan).into_iter().map(|mut row| row.remove(0).unwrap()).collect();
    ids.sort();
    ids
}

/// PostgreSQL's `#>>`.
fn column(doc: &Value, path: &str) -> Option<String> {
    let found = path.split('.').try_fold(doc, |value, name| value.as_object()?.get(name))?;
    match found {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[test]
fn the_schema_names_every_field_once() {
    let schema = DocumentSnapshot::schema(&table_mapping());
    let shown: Vec<String> =
        schema.fields().iter().map(|f| format!("{} {} {}", f.name(), f.data_type(), f.is_nullable())).collect();
    assert_eq!(shown, ["_id Utf8 false", "doc Utf8 false", "text Utf8 true", "both Utf8 true", "a.b Utf8 true", "n Utf8 true"]);
    assert_eq!(schema.field(1).metadata()["headwater.type"], "json");
}

#[test]
fn every_projection_shows_what_the_documents_say() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, documents) = fixture(dir.path());
    let snapshot = fixture.table.snapshot();
    let all = [ScanColumn::Id, ScanColumn::Doc, path("text"), path("both"), path("a.b"), path("n"), ScanColumn::Score];
    let expected = |columns: &[ScanColumn]| {
        let cell = |id: &String, doc: &Value, wanted: &ScanColumn| match wanted {
            ScanColumn::Id => Some(id.clone()),
            ScanColumn::Doc => Some(doc.to_string()),
            ScanColumn::Path(path) => column(doc, path),
            ScanColumn::Score => None,
        };
        let row = |(id, doc): (&String, &Value)| columns.iter().map(|wanted| cell(id, doc, wanted)).collect::<Vec<_>>();
        let mut rows: Vec<_> = documents.iter().map(row).collect();
        rows.sort();
        rows
    };
    for mask in 1..1_usize << all.len() {
        let columns: Vec<ScanColumn> =
            all.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, c)| c.clone()).collect();
        let mut found = rows(&snapshot, &Scan { columns: &columns, ..Scan::default() });
        found.sort();
        assert!(found == expected(&columns), "{columns:?}");
    }
    let schema = DocumentSnapshot::schema(&table_mapping());
    let batch = batches(&snapshot, &Scan { columns: &all[..6], ..Scan::default() }).unwrap().remove(0);
    assert_eq!(batch.schema(), schema);
}

#[test]
fn an_empty_projection_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, documents) = fixture(dir.path());
    let snapshot = fixture.table.snapshot();
    let count = |filter: Option<&ScanFilter>, limit: Option<usize>| -> usize {
        let found = batches(&snapshot, &Scan { filter, limit, ..Scan::default() }).unwrap();
        assert!(found.iter().all(|batch| batch.num_columns() == 0));
        found.iter().map(RecordBatch::num_rows).sum()
    };
    assert_eq!(count(None, None), documents.len());
    assert_eq!((count(None, Some(10)), count(None, Some(0))), (10, 0));
    assert_eq!(count(Some(&equals("both", "v1")), None), 20);
    assert_eq!(count(Some(&text("torn")), None), ids(&snapshot, &text("torn")).len());
}

#[test]
fn filters_give_the_rows_whose_columns_are_equal() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, documents) = fixture(dir.path());
    let snapshot = fixture.table.snapshot();
    let long = "z".repeat(40_000);
    for (facet, value) in [
        ("both", "plain"),
        ("both", "one"),
        ("both", "[\"one\"]"),
        ("both", long.as_str()),
        ("both", "{\"deep\":1}"),
        ("both", "v2"),
        ("a.b", "x"),
        ("a.b", ""),
        ("a.b", "[\"x\",\"y\"]"),
        ("n", "1.5"),
        ("n", "12"),
        ("n", "-3"),
        ("n", "true"),
        ("n", "nothing"),
    ] {
        let filter = equals(facet, value);
        let expected: Vec<&String> =
            documents.iter().filter(|(_, doc)| column(doc, facet).as_deref() == Some(value)).map(|(id, _)| id).collect();
        let found = ids(&snapshot, &filter);
        assert!(expected.iter().all(|id| found.contains(id)), "{facet} = {value}: {found:?}");
        assert!(!filter.is_exact() || found.len() == expected.len(), "{facet} = {value}: {found:?}");
    }
    let some = |list: &[&str]| ScanFilter::Ids(list.iter().map(|id| (*id).to_owned()).collect());
    assert_eq!(ids(&snapshot, &some(&["d02", "d10", "gone", "?"])), ["d02", "d10"]);
    assert_eq!(ids(&snapshot, &some(&["d02"])), ["d02"]);
    assert!(ids(&snapshot, &some(&[])).is_empty());
    assert_eq!(ids(&snapshot, &ScanFilter::And(vec![])).len(), documents.len());
    let both = ScanFilter::And(vec![some(&["d02", "d03", "d04", "d06"]), text("torn")]);
    assert_eq!(ids(&snapshot, &both), ["d02", "d03", "d06"]);
}

#[test]
fn the_best_by_score_are_the_head_of_everything_sorted() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, _) = fixture(dir.path());
    let snapshot = fixture.table.snapshot();
    let columns = [ScanColumn::Score, ScanColumn::Id, path("both"), ScanColumn::Doc];
    for filter in [text("torn write"), text("page^2 OR log"), ScanFilter::And(vec![text("torn"), equals("both", "v1")])] {
        let scan = Scan { filter: Some(&filter), columns: &columns, ..Scan::default() };
        let mut everything = rows(&snapshot, &scan);
        let score = |row: &Vec<Option<String>>| row[0].as_ref().unwrap().parse::<f32>().unwrap();
        everything.sort_by(|a, b| score(b).total_cmp(&score(a)));
        for limit in [1, 5, 23, 1000] {
            let top = rows(&snapshot, &Scan { limit: Some(limit), by_score: true, ..scan });
            assert_eq!(top.len(), limit.min(everything.len()));
            for (found, expected) in top.iter().zip(&everything) {
                assert!((score(found) - score(expected)).abs() < 1e-5);
                assert!(everything.contains(found), "a row is the same either way");
            }
        }
        assert_eq!(rows(&snapshot, &Scan { limit: Some(5), ..scan }).len(), 5);
        assert_eq!(rows(&snapshot, &Scan { by_score: true, ..scan }).len(), everything.len());
    }
    let unscored = Scan { filter: Some(&equals("both", "v1")), columns: &columns, by_score: true, ..Scan::default() };
    assert!(rows(&snapshot, &unscored).iter().all(|row| row[0].is_none()));
}

#[test]
fn a_scan_ends_when_told_and_refuses_unknown_columns() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, _) = fixture(dir.path());
    let snapshot = fixture.table.snapshot();
    let mut seen = 0;
    let mut once = |batch: RecordBatch| {
        seen += batch.num_rows();
        ControlFlow::Break(())
    };
    snapshot.scan(None, &[ScanColumn::Doc], None, false, 3, &mut once).unwrap();
    assert_eq!(seen, 3);
    let unknown = [path("txet")];
    let error = batches(&snapshot, &Scan { columns: &unknown, ..Scan::default() }).expect_err("unknown");
    assert!(error.to_string().starts_with("unknown field `txet`; did you mean `text`?"), "{error}");
    let wrong = text("torn AND");
    let error = batches(&snapshot, &Scan { filter: Some(&wrong), ..Scan::default() }).expect_err("wrong");
    assert!(matches!(error, Error::QueryText { column: 6, .. }), "{error}");
}

#[test]
fn large_documents_make_small_batches() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path(), table_mapping());
    for n in 0..20 {
        fixture.put(&n.to_string(), &json!({"x": "y".repeat(900_000)}));
    }
    let snapshot = fixture.commit();
    let found = batches(&snapshot, &Scan { columns: &[ScanColumn::Doc], batch_rows: 1000, ..Scan::default() }).unwrap();
    assert_eq!(found.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [5, 5, 5, 5]);
}
