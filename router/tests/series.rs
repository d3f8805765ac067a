//! Series over the facade: every record a point or one for each tags and time, the past of both, and files of older releases.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Fixture;
use serde_json::json;

const COLUMNS: &str = "(ts TIMESTAMPTZ, host TEXT, load DOUBLE PRECISION, count BIGINT)";

fn two_tables() -> Fixture {
    let fixture = Fixture::new();
    fixture.run(&format!(
        "CREATE STREAM m;
         CREATE TABLE events {COLUMNS} USING series WITH (time = 'ts', tags = 'host') FROM STREAM m;
         CREATE TABLE points {COLUMNS} USING series WITH (time = 'ts', tags = 'host', duplicates = 'replace') FROM STREAM m"
    ));
    let at = |minute: u32| format!("2024-03-01T00:{minute:02}:00Z");
    fixture.append(
        "m",
        &[
            json!({"ts": at(1), "host": "a", "load": 1.5, "count": 1}),
            json!({"ts": at(1), "host": "b", "load": 2.5, "count": 2}),
            json!({"ts": at(1), "host": "a", "load": 3.5}),
            json!({"ts": at(0), "host": "a", "load": 0.5, "count": 0}),
            json!({"ts": at(1), "host": "a", "count": 9}),
        ],
    );
    fixture
}

fn check(fixture: &Fixture) {
    let wait = "m/0@4";
    let count = |table: &str| fixture.rows_with(&format!("SELECT count(*) FROM {table}"), vec![], wait).unwrap();
    assert_eq!((count("events"), count("points")), (vec![json!([5])], vec![json!([3])]));
    let rows = |sql: &str| fixture.rows_with(sql, vec![], wait).unwrap();
    assert_eq!(
        rows("SELECT host, load, count FROM points ORDER BY host, ts"),
        [json!(["a", 0.5, 0]), json!(["a", 3.5, 9]), json!(["b", 2.5, 2])],
        "of each field the value that came last"
    );
    assert_eq!(
        rows("SELECT load, count FROM events WHERE host = 'a' ORDER BY ts, load NULLS LAST"),
        [json!([0.5, 0]), json!([1.5, 1]), json!([3.5, null]), json!([null, 9])]
    );
    // The past, before points were replaced.
    for (offset, load, count) in [(0, json!(1.5), 1), (2, json!(3.5), 1), (4, json!(3.5), 9)] {
        let sql = format!(
            "SELECT load, count FROM points FOR SYSTEM_TIME AS OF OFFSET {offset} WHERE host = 'a' AND ts >= '2024-03-01T00:01:00Z'"
        );
        assert_eq!(rows(&sql), [json!([load, count])], "as of {offset}");
    }
}

#[test]
fn records_are_points_or_replace_each_other() {
    let fixture = two_tables();
    check(&fixture);
    let fixture = fixture.reopen(true);
    check(&fixture);
    for table in ["events", "points"] {
        let rebuilt = fixture.runtime.block_on(fixture.database.rebuild(table)).unwrap();
        let generation = rebuilt.rebuild.map_or(2, |rebuild| rebuild.generation);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        fixture.runtime.block_on(fixture.database.rebuilt(table, generation, deadline)).unwrap();
    }
    check(&fixture);
    let error =
        fixture.error(&format!("CREATE TABLE x {COLUMNS} USING series WITH (time = 'ts', duplicates = 'drop') FROM STREAM m"));
    assert!(error.code() == "22023" && error.to_string().contains("'drop' is unknown"), "{error}");
}

#[test]
fn files_of_an_older_release_are_built_anew_from_the_log() {
    let fixture = two_tables();
    check(&fixture);
    fixture.database.close().unwrap();
    let mut planted = 0;
    for view in std::fs::read_dir(fixture.dir.path().join("views")).unwrap().map(|entry| entry.unwrap().path()) {
        let part = view.join("1/0");
        if part.join("series.manifest").exists() {
            std::fs::remove_dir_all(&part).unwrap();
            std::fs::create_dir_all(&part).unwrap();
            std::fs::write(part.join("00000000000000000000-00000000000000000005.chunk"), b"HWTSCHK1 of a release before")
                .unwrap();
            planted += 1;
        }
    }
    assert_eq!(planted, 2);
    check(&fixture.reopen(true));
}
