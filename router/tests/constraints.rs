//! UNIQUE, CHECK and foreign keys, RETURNING and ON CONFLICT, indexes: of tables that SQL writes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::{Duration, Instant};

use common::Fixture;
use serde_json::{Value, json};

fn refused(fixture: &Fixture, sql: &str, code: &str, parts: &[&str]) {
    let error = fixture.error(sql);
    assert_eq!(error.code(), code, "{sql}: {error}");
    for part in parts {
        assert!(error.message().contains(part), "{sql}: {error} does not name {part}");
    }
}

#[test]
fn unique_columns_refuse_equal_values_and_take_nulls() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE users (id BIGINT PRIMARY KEY, mail TEXT UNIQUE, a BIGINT, b TEXT, CONSTRAINT pair UNIQUE (a, b))");
    fixture.run("INSERT INTO users VALUES (1, 'x@y', 1, 'b'), (2, NULL, 1, NULL), (3, NULL, 1, NULL)");
    refused(&fixture, "INSERT INTO users VALUES (4, 'x@y', 2, 'c')", "23505", &["users", "users_mail_key", "(mail) = ('x@y')"]);
    refused(&fixture, "INSERT INTO users VALUES (4, 'z', 2, 'c'), (5, 'z', 3, 'c')", "23505", &["users_mail_key"]);
    refused(&fixture, "UPDATE users SET a = 1, b = 'b' WHERE id = 2", "23505", &["pair", "(a, b) = (1, 'b')"]);
    fixture.run("UPDATE users SET mail = 'new' WHERE id = 1; INSERT INTO users VALUES (4, 'x@y', 2, 'c')");
    fixture.run("DELETE FROM users WHERE id = 4; INSERT INTO users VALUES (5, 'x@y', 2, 'c')");
    let fixture = fixture.reopen(false);
    refused(&fixture, "INSERT INTO users VALUES (6, 'new', 9, 'c')", "23505", &["users_mail_key"]);
    assert_eq!(fixture.rows("SELECT id FROM users ORDER BY id"), [json!([1]), json!([2]), json!([3]), json!([5])]);
    // Values that change places meet each other on the way only.
    fixture.run("UPDATE users SET mail = CASE id WHEN 1 THEN 'x@y' ELSE 'new' END WHERE id IN (1, 5)");
    assert_eq!(fixture.rows("SELECT id FROM users WHERE mail = 'new'"), [json!([5])]);
}

#[test]
fn checks_name_themselves_and_the_row() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT CHECK (n >= 0), m BIGINT, CONSTRAINT ordered CHECK (n <= m))");
    fixture.run("INSERT INTO t VALUES (1, 0, 5), (2, NULL, NULL), (3, 1, NULL)");
    refused(&fixture, "INSERT INTO t VALUES (4, 1, 5), (5, -1, 5)", "23514", &["t_n_check", "(5, -1, 5)"]);
    refused(&fixture, "UPDATE t SET n = 9 WHERE id = 1", "23514", &["ordered"]);
    refused(&fixture, "CREATE TABLE u (id BIGINT PRIMARY KEY, CHECK (nope > 0))", "42703", &["nope"]);
    refused(&fixture, "CREATE TABLE u (id BIGINT PRIMARY KEY, CHECK (id + 1))", "42804", &["id + 1"]);
    assert_eq!(fixture.rows("SELECT count(*) FROM t"), [json!([3])]);
}

#[test]
fn foreign_keys_hold_from_both_sides() {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE TABLE parents (id BIGINT PRIMARY KEY, code TEXT UNIQUE);
         CREATE TABLE strict (id BIGINT PRIMARY KEY, parent BIGINT REFERENCES parents);
         CREATE TABLE follow (id BIGINT PRIMARY KEY, parent BIGINT REFERENCES parents (id) ON DELETE CASCADE ON UPDATE CASCADE);
         CREATE TABLE forget (id BIGINT PRIMARY KEY, code TEXT REFERENCES parents (code) ON DELETE SET NULL ON UPDATE SET NULL);
         CREATE TABLE tree (id BIGINT PRIMARY KEY, up BIGINT REFERENCES tree ON DELETE CASCADE);
         INSERT INTO parents VALUES (1, 'a'), (2, 'b'), (3, 'c');
         INSERT INTO strict VALUES (1, 1), (2, NULL);
         INSERT INTO follow VALUES (1, 2), (2, 2), (3, 3);
         INSERT INTO forget VALUES (1, 'b'), (2, 'c')",
    );
    refused(&fixture, "INSERT INTO strict VALUES (3, 9)", "23503", &["strict_parent_fkey", "(parent) = (9)", "parents"]);
    refused(&fixture, "INSERT INTO forget VALUES (3, 'zz')", "23503", &["forget_code_fkey", "'zz'"]);
    refused(&fixture, "DELETE FROM parents WHERE id = 1", "23503", &["strict_parent_fkey", "(id) = (1)", "strict"]);
    refused(&fixture, "UPDATE parents SET id = 10 WHERE id = 1", "23503", &["still referenced"]);
    refused(&fixture, "DROP TABLE parents", "2BP01", &["references"]);
    fixture.run("UPDATE parents SET id = 20 WHERE id = 2");
    assert_eq!(fixture.rows("SELECT id, parent FROM follow ORDER BY id"), [json!([1, 20]), json!([2, 20]), json!([3, 3])]);
    fixture.run("DELETE FROM parents WHERE id IN (20, 3)");
    assert_eq!(fixture.rows("SELECT count(*) FROM follow"), [json!([0])]);
    assert_eq!(fixture.rows("SELECT id, code FROM forget ORDER BY id"), [json!([1, null]), json!([2, null])]);
    // A statement may refer to rows that it brings itself, and may take a whole tree down.
    fixture.run("INSERT INTO tree VALUES (3, 2), (2, 1), (1, NULL), (4, 1)");
    fixture.run("DELETE FROM tree WHERE id = 1");
    assert_eq!(fixture.rows("SELECT count(*) FROM tree"), [json!([0])]);
    refused(&fixture, "CREATE TABLE bad (id BIGINT PRIMARY KEY, x BIGINT REFERENCES forget (id, code))", "42830", &["forget"]);
    refused(&fixture, "CREATE TABLE bad (id BIGINT PRIMARY KEY, x TEXT REFERENCES parents)", "42830", &["different types"]);
}

#[test]
fn returning_gives_the_rows_as_they_became() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT DEFAULT 7, s TEXT)");
    assert_eq!(
        fixture.rows("INSERT INTO t (id, s) VALUES (1, 'a'), (2, 'b') RETURNING id, n + 1 AS more"),
        [json!([1, 8]), json!([2, 8])]
    );
    assert_eq!(fixture.rows("UPDATE t AS x SET n = x.n * 10 WHERE x.id = 2 RETURNING *"), [json!([2, 70, "b"])]);
    assert_eq!(fixture.rows("DELETE FROM t WHERE id = 1 RETURNING s, n"), [json!(["a", 7])]);
    assert_eq!(fixture.rows("DELETE FROM t WHERE id = 99 RETURNING s"), Vec::<Value>::new());
    refused(&fixture, "INSERT INTO t DEFAULT VALUES RETURNING id", "23502", &["id"]);
}

#[test]
fn on_conflict_updates_what_is_there() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE c (id BIGINT PRIMARY KEY, name TEXT UNIQUE, hits BIGINT DEFAULT 1)");
    let upsert =
        "INSERT INTO c (id, name) VALUES (1, 'a'), (2, 'b') ON CONFLICT (id) DO UPDATE SET hits = c.hits + excluded.hits";
    assert_eq!(fixture.run(upsert).0, 2);
    assert_eq!(fixture.run(upsert).0, 2);
    assert_eq!(fixture.rows("SELECT id, hits FROM c ORDER BY id"), [json!([1, 2]), json!([2, 2])]);
    let by_name = "INSERT INTO c VALUES (9, 'a', 100) ON CONFLICT (name) DO UPDATE SET hits = excluded.hits WHERE c.hits < 50 RETURNING id, hits";
    assert_eq!(fixture.rows(by_name), [json!([1, 100])]);
    assert_eq!(fixture.rows(by_name), Vec::<Value>::new(), "the condition keeps it from changing");
    assert_eq!(fixture.run("INSERT INTO c VALUES (9, 'a', 1), (10, 'z', 1) ON CONFLICT DO NOTHING").0, 1);
    assert_eq!(fixture.run("INSERT INTO c VALUES (11, 'b', 1) ON CONFLICT ON CONSTRAINT c_name_key DO NOTHING").0, 0);
    refused(
        &fixture,
        "INSERT INTO c VALUES (1, 'q', 1), (1, 'r', 1) ON CONFLICT (id) DO UPDATE SET hits = 0",
        "21000",
        &["second time"],
    );
    refused(&fixture, "INSERT INTO c VALUES (1, 'q', 1) ON CONFLICT (hits) DO NOTHING", "42P10", &["c"]);
    refused(&fixture, "INSERT INTO c VALUES (9, 'a', 1) ON CONFLICT (id) DO NOTHING", "23505", &["c_name_key"]);
}

#[test]
fn updates_and_deletes_join_other_tables() {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT); CREATE TABLE d (id BIGINT PRIMARY KEY, t BIGINT, delta BIGINT);
         INSERT INTO t VALUES (1, 1), (2, 2), (3, 3); INSERT INTO d VALUES (1, 1, 10), (2, 3, 30)",
    );
    assert_eq!(fixture.run("UPDATE t SET n = t.n + d.delta FROM d WHERE d.t = t.id").0, 2);
    assert_eq!(fixture.rows("SELECT n FROM t ORDER BY id"), [json!([11]), json!([2]), json!([33])]);
    assert_eq!(fixture.run("DELETE FROM t USING d WHERE d.t = t.id AND d.delta > 20").0, 1);
    assert_eq!(fixture.run("UPDATE t SET (n, id) = (0, id + 5) WHERE id = 1").0, 1);
    assert_eq!(fixture.run("UPDATE t SET n = DEFAULT WHERE id = 6").0, 1);
    assert_eq!(fixture.rows("SELECT id, n FROM t ORDER BY id"), [json!([2, 2]), json!([6, null])]);
}

#[test]
fn an_index_is_built_beside_and_then_used() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT)");
    let values: Vec<String> = (0..500).map(|n| format!("({n}, {}, 'b{}')", n % 7, n % 10)).collect();
    fixture.run(&format!("INSERT INTO t VALUES {}", values.join(", ")));
    refused(&fixture, "CREATE UNIQUE INDEX same ON t (a)", "23505", &["same", "t"]);
    fixture.run("CREATE INDEX ON t (a, b DESC)");
    let plan =
        || fixture.rows("EXPLAIN SELECT id FROM t WHERE a = 3 AND b > 'b5'").iter().map(Value::to_string).collect::<String>();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !plan().contains("index t_a_b_idx") {
        assert!(Instant::now() < deadline, "never used: {}", plan());
        std::thread::yield_now();
    }
    let with_index = fixture.rows("SELECT id FROM t WHERE a = 3 AND b > 'b5' ORDER BY id");
    let without = fixture.rows("SELECT id FROM t WHERE a + 0 = 3 AND b || '' > 'b5' ORDER BY id");
    assert_eq!(with_index, without);
    assert!(with_index.len() > 10);
    fixture.run("UPDATE t SET a = 3 WHERE id = 0; DELETE FROM t WHERE id = 3");
    assert_eq!(fixture.rows("SELECT count(*) FROM t WHERE a = 3"), fixture.rows("SELECT count(*) FROM t WHERE a + 0 = 3"));
    fixture.run("CREATE UNIQUE INDEX IF NOT EXISTS ids ON t (b, id)");
    refused(&fixture, "CREATE INDEX ids ON t (a)", "42P07", &["ids"]);
    fixture.run("DROP INDEX t_a_b_idx; DROP INDEX IF EXISTS t_a_b_idx");
    assert!(!plan().contains("t_a_b_idx"));
}
