//! ANALYZE, and the ways to rows that are chosen by what it finds; and EXPLAIN, which shows them.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Fixture;
use serde_json::{Value, json};

fn plan(fixture: &Fixture, sql: &str) -> String {
    fixture.rows(&format!("EXPLAIN {sql}")).iter().map(|row| row[1].as_str().unwrap().to_owned()).collect()
}

/// 4,000 rows: `even` is spread from 0 to 3,999, `hot` is 1 in nine rows of ten, `day` has ten rows each.
fn filled() -> Fixture {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, even BIGINT, hot INTEGER, day DATE, name TEXT)");
    fixture.run("CREATE INDEX by_even ON t (even DESC)");
    fixture.run("CREATE INDEX by_hot ON t (hot)");
    fixture.run("CREATE INDEX by_day ON t (day)");
    fixture.run(
        "INSERT INTO t SELECT n, (n * 7919) % 4000, CASE WHEN n % 10 = 0 THEN n ELSE 1 END, DATE '2024-01-01' + (n / 10)::integer, 'n' || n
         FROM generate_series(0, 3999) AS g(n)",
    );
    fixture
}

#[test]
fn the_way_is_chosen_by_how_many_rows_it_leads_to() {
    let fixture = filled();
    // Where nothing is known, one side is too much for an index, and one value or a range is not.
    let check = |sql: &str, index: Option<&str>| {
        let plan = plan(&fixture, sql);
        assert_eq!(plan.contains("index by_"), index.is_some(), "{sql}: {plan}");
        assert!(index.is_none_or(|index| plan.contains(index)), "{sql}: {plan}");
    };
    check("SELECT name FROM t WHERE even > 3990 LIMIT 100", None);
    check("SELECT name || '' FROM t WHERE hot = 1", Some("by_hot"));
    fixture.run("ANALYZE t");
    let known = |fixture: &Fixture, times: &str| {
        let check = |sql: &str, index: Option<&str>| {
            let plan = plan(fixture, sql);
            assert_eq!(plan.contains("index by_"), index.is_some(), "{times}, {sql}: {plan}");
            assert!(index.is_none_or(|index| plan.contains(index)), "{times}, {sql}: {plan}");
        };
        check("SELECT name FROM t WHERE even > 3990 LIMIT 100", Some("by_even"));
        check("SELECT name FROM t WHERE even > 1000 LIMIT 100", None);
        check("SELECT name FROM t WHERE even BETWEEN 100 AND 150", Some("by_even"));
        check("SELECT name || '' FROM t WHERE hot = 1", None);
        check("SELECT name || '' FROM t WHERE hot = 20", Some("by_hot"));
        check(
            "SELECT name FROM t WHERE day >= DATE '2024-03-01' AND day < DATE '2024-03-01' + INTERVAL '3 days'",
            Some("by_day"),
        );
        check("SELECT name FROM t WHERE day >= DATE '2024-03-01' AND day < DATE '2024-03-01' + INTERVAL '1 year'", None);
        assert!(plan(fixture, "SELECT * FROM t").contains("about 4000 rows"));
    };
    known(&fixture, "at once");
    // It is a record of the catalog.
    let fixture = fixture.reopen(false);
    known(&fixture, "after a restart");
    fixture.run("ANALYZE");
    for (sql, code) in [("ANALYZE nothing", "42P01"), ("ANALYZE t x", "42601")] {
        assert_eq!(fixture.error(sql).code(), code, "{sql}");
    }
    fixture.run("CREATE STREAM s; CREATE TABLE d USING document FROM STREAM s");
    assert_eq!(fixture.error("ANALYZE d").code(), "42809");
}

#[test]
fn dates_beside_moments_are_compared_as_in_postgresql() {
    let fixture = filled();
    for (condition, rows) in [
        ("day < DATE '2024-01-01' + INTERVAL '2 days'", 20),
        ("day < TIMESTAMP '2024-01-03 00:00:01'", 30),
        ("day <= TIMESTAMP '2024-01-02 23:59:59'", 20),
        ("day > TIMESTAMP '2025-02-02 12:00:00'", 10),
        ("day >= TIMESTAMP '2025-02-02 00:00:00'", 20),
        ("day >= TIMESTAMP '2025-02-02 00:00:01'", 10),
        ("TIMESTAMP '2024-01-03' > day", 20),
        ("day = TIMESTAMP '2024-01-03'", 10),
        ("day = TIMESTAMP '2024-01-03 00:00:01'", 0),
        ("day <> TIMESTAMP '2024-01-03'", 3_990),
        ("day < TIMESTAMP '1969-12-31 12:00:00'", 0),
    ] {
        assert_eq!(fixture.rows(&format!("SELECT count(*) FROM t WHERE {condition}")), [json!([rows])], "{condition}");
        // A date that is computed is compared as it is.
        let computed = condition.replace("day ", "(day + 0) ").replace("> day", "> (day + 0)");
        assert_eq!(fixture.rows(&format!("SELECT count(*) FROM t WHERE {computed}")), [json!([rows])], "{computed}");
    }
}

#[test]
fn reads_by_an_index_need_no_planner_and_explain_says_so() {
    let fixture = filled();
    let direct = |sql: &str| plan(&fixture, sql).starts_with("DirectRead: t");
    for (sql, planned) in [
        ("SELECT id, name FROM t WHERE even = 77", "SELECT id, name FROM t WHERE even + 0 = 77"),
        ("SELECT * FROM t WHERE hot = 20", "SELECT * FROM t WHERE hot + 0 = 20"),
        ("SELECT id FROM t WHERE hot = -5", "SELECT id FROM t WHERE hot + 0 = -5"),
        ("SELECT name FROM t WHERE id = 17", "SELECT name FROM t WHERE id + 0 = 17"),
    ] {
        assert!(direct(sql), "{sql}: {}", plan(&fixture, sql));
        assert!(!direct(planned), "{planned}");
        assert_eq!(fixture.rows(sql), fixture.rows(planned), "{sql}");
    }
    for sql in ["SELECT id FROM t WHERE even = NULL", "SELECT id FROM t WHERE even = 1.5", "SELECT id FROM t WHERE name = 'n1'"] {
        assert!(!direct(sql), "{sql}");
    }
    // Many rows come through the planner all the same.
    assert_eq!(fixture.rows("SELECT id FROM t WHERE hot = 1").len(), 3_600);
    // Rows of the transaction itself are seen, and those it removed are not.
    let session = fixture.database.sessions().open().unwrap();
    let run = |sql: &str| fixture.within(&session, sql).unwrap();
    run("BEGIN");
    assert_eq!(run("SELECT count(*) FROM t WHERE even = 77"), [json!([1])]);
    run("DELETE FROM t WHERE even = 77");
    run("INSERT INTO t VALUES (10000, 78, 5, NULL, 'own')");
    assert_eq!(run("SELECT id FROM t WHERE even = 77"), [] as [Value; 0]);
    assert_eq!(run("SELECT id FROM t WHERE even = 78").len(), 2);
    run("ROLLBACK");
    let measured = plan(&fixture, "ANALYZE SELECT id FROM t WHERE even = 77");
    assert!(measured.starts_with("DirectRead: t, columns=[id], index by_even, metrics=[output_rows=1, elapsed="), "{measured}");
    let measured = plan(&fixture, "ANALYZE SELECT count(*) FROM t WHERE even BETWEEN 10 AND 19");
    assert!(measured.contains("RowScan: t") && measured.contains("output_rows=10"), "{measured}");
}
