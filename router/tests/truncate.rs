//! TRUNCATE: all rows go at once, in one batch of the log; the past keeps them.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Fixture;
use router::SqlAnswer;
use serde_json::json;

/// The offset behind what is in `_tables`.
fn end(fixture: &Fixture) -> u64 {
    fixture.database.stream("_tables").unwrap().partitions[0].status.committed.value()
}

#[test]
fn one_record_for_a_table_and_the_past_stays() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT); CREATE INDEX by_n ON t (n)");
    fixture.run("CREATE TABLE other (id BIGINT PRIMARY KEY)");
    fixture.run("INSERT INTO t SELECT value, value % 7 FROM generate_series(1, 5000) AS g(value); INSERT INTO other VALUES (1)");
    let before = end(&fixture);
    fixture.run("TRUNCATE t");
    assert_eq!(end(&fixture), before + 1);
    let past = format!("FOR SYSTEM_TIME AS OF OFFSET {}", before - 1);
    let check = |fixture: &Fixture| {
        // A view may lag behind the log after a start.
        let wait = format!("_tables/0@{before}");
        assert_eq!(fixture.rows_with("SELECT count(*) FROM t", vec![], &wait).unwrap(), [json!([0])]);
        fixture.rows_with("SELECT count(*) FROM other", vec![], &wait).unwrap();
        assert_eq!(fixture.rows("SELECT count(*) FROM t WHERE n = 3"), [json!([0])]);
        assert_eq!(fixture.rows("SELECT id FROM t WHERE id = 17"), Vec::<serde_json::Value>::new());
        assert_eq!(fixture.rows("SELECT count(*) FROM other"), [json!([1])]);
        assert_eq!(fixture.rows(&format!("SELECT count(*) FROM t {past}")), [json!([5000])]);
        assert_eq!(fixture.rows(&format!("SELECT count(*) FROM t {past} WHERE n = 3")), [json!([714])]);
    };
    check(&fixture);
    let fixture = fixture.reopen(false);
    check(&fixture);
    let fixture = fixture.reopen(true);
    check(&fixture);
    fixture.run("INSERT INTO t VALUES (17, 3)");
    assert_eq!(fixture.rows("SELECT id FROM t WHERE n = 3"), [json!([17])]);
    // A view that is built anew sees the same.
    let view = fixture.runtime.block_on(fixture.database.rebuild("t")).unwrap();
    let generation = view.rebuild.map_or(view.generation, |rebuild| rebuild.generation);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    fixture.runtime.block_on(fixture.database.rebuilt("t", generation, deadline)).unwrap();
    assert_eq!(fixture.rows("SELECT id FROM t"), [json!([17])]);
    assert_eq!(fixture.rows(&format!("SELECT count(*) FROM t {past} WHERE n = 3")), [json!([714])]);
}

#[test]
fn several_tables_go_in_one_batch() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE a (id BIGINT PRIMARY KEY); CREATE TABLE b (id BIGINT PRIMARY KEY)");
    fixture.run("INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1)");
    let before = end(&fixture);
    let Some(SqlAnswer::Done { tag, position: Some(position) }) = fixture.request("TRUNCATE a, b", vec![], "").unwrap().pop()
    else {
        panic!("TRUNCATE is done")
    };
    assert_eq!((tag, position.to_string()), ("TRUNCATE TABLE", format!("_tables/0@{}", before + 1)));
    // Nobody sees a part of it, not even in the past.
    let rows = fixture.rows(&format!(
        "SELECT (SELECT count(*) FROM a FOR SYSTEM_TIME AS OF OFFSET {before}), (SELECT count(*) FROM b FOR SYSTEM_TIME AS OF OFFSET {before})"
    ));
    assert_eq!(rows, [json!([0, 0])]);
}

#[test]
fn a_transaction_from_before_is_refused() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT); INSERT INTO t VALUES (1, 1)");
    let session = fixture.database.sessions().open().unwrap();
    fixture.within(&session, "BEGIN").unwrap();
    fixture.within(&session, "UPDATE t SET n = 2 WHERE id = 1").unwrap();
    fixture.run("TRUNCATE t");
    let error = fixture.within(&session, "COMMIT").unwrap_err();
    assert_eq!(error.code(), "40001", "{error}");
    assert_eq!(fixture.rows("SELECT * FROM t"), Vec::<serde_json::Value>::new());
    fixture.within(&session, "BEGIN").unwrap();
    let error = fixture.within(&session, "TRUNCATE t").unwrap_err();
    assert_eq!(error.code(), "25001", "{error}");
    fixture.within(&session, "ROLLBACK").unwrap();
    fixture.within(&session, "INSERT INTO t VALUES (1, 3)").unwrap();
    assert_eq!(fixture.rows("SELECT * FROM t"), [json!([1, 3])]);
}

#[test]
fn writers_and_truncates_at_the_same_time_leave_whole_statements() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY, pair BIGINT); CREATE INDEX ON t (pair)");
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let fixture = &fixture;
            scope.spawn(move || {
                for n in 0..20 {
                    fixture.run(&format!("INSERT INTO t (pair) VALUES ({0}), ({0})", writer * 100 + n));
                    fixture.run("UPDATE t SET pair = pair + 1000 WHERE pair < 1000");
                }
            });
        }
        scope.spawn(|| (0..10).for_each(|_| drop(fixture.run("TRUNCATE t"))));
    });
    let halves = fixture.rows("SELECT pair FROM t GROUP BY pair HAVING count(*) <> 2");
    assert!(halves.is_empty(), "{halves:?}");
}

#[test]
fn what_is_not_written_by_sql_is_not_truncated() {
    let fixture = Fixture::new();
    fixture.run("CREATE STREAM s; CREATE TABLE v (id BIGINT PRIMARY KEY) USING row FROM STREAM s");
    for name in ["v", "s"] {
        let error = fixture.error(&format!("TRUNCATE {name}"));
        assert!(["42809", "42P01"].contains(&error.code()), "{error}");
    }
}
