//! Sequences, SERIAL, identity columns and defaults that are new for each row: numbers that are never handed out twice.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::HashSet;

use common::Fixture;
use serde_json::{Value, json};

fn number(fixture: &Fixture, sql: &str) -> i64 {
    fixture.rows(sql)[0][0].as_i64().unwrap()
}

#[test]
fn no_number_is_handed_out_twice_over_crashes() {
    let mut fixture = Fixture::new();
    fixture.run("CREATE SEQUENCE s; CREATE TABLE t (id BIGSERIAL PRIMARY KEY, round BIGINT)");
    let mut seen = HashSet::new();
    for round in 0..6 {
        for _ in 0..7 {
            let next = number(&fixture, "SELECT nextval('s')");
            assert!(seen.insert(next), "{next} was handed out twice");
        }
        fixture.run(&format!("INSERT INTO t (round) SELECT {round} FROM generate_series(1, 50)"));
        fixture = fixture.reopen(round % 2 == 0);
    }
    let largest = *seen.iter().max().unwrap();
    // After a start at most a block is a gap: 32 numbers, doubled while they are used up.
    assert!(largest < 42 + 6 * 64, "{largest}");
    assert_eq!(
        fixture.rows_with("SELECT count(*), count(DISTINCT id) FROM t", vec![], "_tables/0@299").unwrap(),
        [json!([300, 300])]
    );
    let now = number(&fixture, "SELECT setval('s', 5000, false)");
    let fixture = fixture.reopen(false);
    assert_eq!(now, number(&fixture, "SELECT nextval('s')"));
}

#[test]
fn numbers_are_reserved_in_blocks() {
    let fixture = Fixture::new();
    fixture.run("CREATE SEQUENCE s");
    let end = || fixture.database.stream("_catalog").unwrap().partitions[0].status.committed.value();
    let before = end();
    for _ in 0..1_000 {
        number(&fixture, "SELECT nextval('s')");
    }
    // 32 + 64 + 128 + 256 + 512 are 992.
    assert_eq!(end() - before, 6);
    assert_eq!(
        number(&fixture, "SELECT max(n) FROM (SELECT nextval('s') AS n FROM generate_series(1, 100000)) AS numbers"),
        101_000
    );
    assert!(end() - before < 40, "{}", end() - before);
}

#[test]
fn concurrent_writers_share_a_sequence() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, writer BIGINT)");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let fixture = &fixture;
            scope.spawn(move || {
                for _ in 0..25 {
                    fixture.run(&format!("INSERT INTO t (writer) VALUES ({writer}), ({writer})"));
                }
            });
        }
    });
    assert_eq!(fixture.rows("SELECT count(*), count(DISTINCT id), max(id) FROM t"), [json!([200, 200, 200])]);
}

#[test]
fn a_session_sees_its_own_numbers_only() {
    let fixture = Fixture::new();
    fixture.run("CREATE SEQUENCE s; CREATE TABLE t (id SERIAL PRIMARY KEY, v TEXT)");
    let (one, two) = (fixture.database.sessions().open().unwrap(), fixture.database.sessions().open().unwrap());
    assert_eq!(fixture.within(&one, "SELECT nextval('s')").unwrap(), [json!([1])]);
    assert_eq!(fixture.within(&two, "SELECT nextval('s')").unwrap(), [json!([2])]);
    assert_eq!(fixture.within(&one, "SELECT currval('s'), lastval()").unwrap(), [json!([1, 1])]);
    fixture.within(&one, "INSERT INTO t (v) VALUES ('a'), ('b')").unwrap();
    assert_eq!(fixture.within(&one, "SELECT lastval(), currval('t_id_seq'), currval('s')").unwrap(), [json!([2, 2, 1])]);
    assert_eq!(fixture.within(&two, "SELECT lastval()").unwrap(), [json!([2])]);
    let error = fixture.within(&two, "SELECT currval('t_id_seq')").unwrap_err();
    assert_eq!(error.code(), "55000", "{error}");
    // A named query asks for numbers too.
    fixture.run("CREATE VIEW fresh AS SELECT nextval('s') AS n");
    assert_eq!(fixture.within(&two, "SELECT n FROM fresh").unwrap(), [json!([3])]);
    // A number that was rolled back is a gap.
    fixture.within(&one, "BEGIN").unwrap();
    fixture.within(&one, "INSERT INTO t (v) VALUES ('c')").unwrap();
    fixture.within(&one, "ROLLBACK").unwrap();
    assert_eq!(fixture.rows("INSERT INTO t (v) VALUES ('d') RETURNING id"), [json!([4])]);
}

#[test]
fn now_is_the_time_of_the_transaction() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id SERIAL PRIMARY KEY, a TIMESTAMPTZ DEFAULT now(), b TIMESTAMPTZ)");
    fixture.run("INSERT INTO t (b) VALUES (now()), (now())");
    let session = fixture.database.sessions().open().unwrap();
    fixture.within(&session, "BEGIN").unwrap();
    fixture.within(&session, "INSERT INTO t (b) SELECT now()").unwrap();
    fixture.within(&session, "INSERT INTO t (b) SELECT now()").unwrap();
    fixture.within(&session, "COMMIT").unwrap();
    assert_eq!(fixture.rows("SELECT count(*), count(DISTINCT a), bool_and(a = b) FROM t"), [json!([4, 2, true])]);
}

#[test]
fn a_view_of_a_stream_has_no_sequences() {
    let fixture = Fixture::new();
    fixture.run("CREATE STREAM s");
    let error = fixture.error("CREATE TABLE v (id SERIAL PRIMARY KEY) USING row FROM STREAM s");
    assert_eq!(error.code(), "0A000", "{error}");
    let error = fixture.error("ALTER TABLE nosuch ADD COLUMN n SERIAL");
    assert_eq!(error.code(), "42P01", "{error}");
    let names: Vec<Value> = fixture.rows("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'v%'");
    assert!(names.is_empty());
}
