//! Constraints of tables that exist: added only where every row keeps them, dropped with what rests on them.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Fixture;
use serde_json::json;

fn refused(fixture: &Fixture, sql: &str, code: &str, parts: &[&str]) {
    let error = fixture.error(sql);
    assert_eq!(error.code(), code, "{sql}: {error}");
    for part in parts {
        assert!(error.message().contains(part), "{sql}: {error} does not name {part}");
    }
}

#[test]
fn existing_rows_are_judged_and_named() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE p (id BIGINT PRIMARY KEY); CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT, s TEXT)");
    fixture.run("INSERT INTO p VALUES (1); INSERT INTO t VALUES (1, 1, 'a'), (2, -2, 'b'), (3, 9, 'b')");
    refused(&fixture, "ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0)", "23514", &["\"c\"", "\"t\"", "(2, -2, 'b')"]);
    refused(&fixture, "ALTER TABLE t ADD CONSTRAINT u UNIQUE (s)", "23505", &["\"u\"", "\"t\"", "(s) = ('b')"]);
    refused(
        &fixture,
        "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES p",
        "23503",
        &["\"f\"", "\"t\"", "(n) = (", "\"p\""],
    );
    refused(&fixture, "ALTER TABLE t ADD PRIMARY KEY (n)", "42P16", &["\"t\""]);
    refused(&fixture, "ALTER TABLE t DROP CONSTRAINT t_pkey", "0A000", &["\"t\""]);
    refused(&fixture, "ALTER TABLE t ADD CONSTRAINT c CHECK (n > 0) NOT VALID", "0A000", &[]);
    // All of a statement or nothing of it.
    refused(&fixture, "ALTER TABLE t ADD CONSTRAINT fine CHECK (n < 10), ADD CONSTRAINT c CHECK (n > 0)", "23514", &["\"c\""]);
    fixture.run("INSERT INTO t VALUES (4, 100, 'd')");
}

#[test]
fn they_hold_from_the_start_and_after_a_restart() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE p (id BIGINT PRIMARY KEY); CREATE TABLE t (id BIGINT PRIMARY KEY, p BIGINT, s TEXT)");
    fixture.run("INSERT INTO p VALUES (1), (2); INSERT INTO t SELECT g.n, 1, 's' || g.n FROM generate_series(1, 500) AS g(n)");
    fixture.run("ALTER TABLE t ADD CONSTRAINT u UNIQUE (s), ADD CONSTRAINT f FOREIGN KEY (p) REFERENCES p ON DELETE CASCADE");
    // Its index is being built, or is built: it makes no difference.
    refused(&fixture, "INSERT INTO t VALUES (501, 1, 's77')", "23505", &["\"u\"", "(s) = ('s77')"]);
    refused(&fixture, "INSERT INTO t VALUES (501, 3, 's501')", "23503", &["\"f\"", "(p) = (3)"]);
    let view = fixture.database.view("t").unwrap();
    let generation = view.rebuild.map_or(view.generation, |rebuild| rebuild.generation);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    fixture.runtime.block_on(fixture.database.rebuilt("t", generation, deadline)).unwrap();
    let plan = format!("{:?}", fixture.rows("EXPLAIN SELECT id FROM t WHERE s = 's9'"));
    assert!(plan.contains("index u"), "{plan}");
    let fixture = fixture.reopen(false);
    fixture.rows_with("SELECT count(*) FROM t", vec![], "_tables/0@501").unwrap();
    fixture.rows_with("SELECT count(*) FROM p", vec![], "_tables/0@501").unwrap();
    refused(&fixture, "INSERT INTO t VALUES (501, 1, 's77')", "23505", &["\"u\""]);
    fixture.run("INSERT INTO t VALUES (501, 2, 's501'); DELETE FROM p WHERE id = 1");
    assert_eq!(fixture.rows("SELECT id FROM t"), [json!([501])]);
    fixture.run("ALTER TABLE t DROP CONSTRAINT u, DROP CONSTRAINT f");
    fixture.run("INSERT INTO t VALUES (502, 99, 's501')");
    let names = fixture.rows("SELECT count(*) FROM t WHERE s = 's501'");
    assert_eq!(names, [json!([2])]);
}

#[test]
fn an_added_column_may_bring_constraints() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    refused(&fixture, "ALTER TABLE t ADD COLUMN n BIGINT DEFAULT 0 CHECK (n > 0)", "23514", &["t_n_check"]);
    refused(&fixture, "ALTER TABLE t ADD COLUMN n BIGINT DEFAULT 0 UNIQUE", "23505", &["t_n_key"]);
    refused(&fixture, "ALTER TABLE t ADD COLUMN n BIGINT DEFAULT 7 REFERENCES t", "23503", &["t_n_fkey", "(n) = (7)"]);
    fixture.run("ALTER TABLE t ADD COLUMN n BIGINT DEFAULT 1 CHECK (n > 0) REFERENCES t");
    refused(&fixture, "INSERT INTO t VALUES (3, 0)", "23514", &["t_n_check"]);
    refused(&fixture, "DELETE FROM t WHERE id = 1", "23503", &["t_n_fkey"]);
    fixture.run("INSERT INTO t VALUES (3, 3)");
}
