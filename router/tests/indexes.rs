//! Indexes on expressions and on a part of the rows: found by plans, kept by views, unique where they are asked to be.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::{Duration, Instant};

use common::Fixture;
use serde_json::json;

/// Waits until the indexes of a table are built.
fn built(fixture: &Fixture, table: &str) {
    let view = fixture.database.view(table).unwrap();
    let generation = view.rebuild.map_or(view.generation, |rebuild| rebuild.generation);
    fixture.runtime.block_on(fixture.database.rebuilt(table, generation, Instant::now() + Duration::from_secs(60))).unwrap();
}

fn plan(fixture: &Fixture, sql: &str) -> String {
    format!("{:?}", fixture.rows(&format!("EXPLAIN {sql}")))
}

#[test]
fn an_expression_is_found_by_its_index() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE u (id BIGINT PRIMARY KEY, name TEXT, n BIGINT, m BIGINT)");
    fixture.run("INSERT INTO u SELECT g.n, 'Name' || g.n, g.n, g.n % 10 FROM generate_series(1, 300) AS g(n)");
    fixture.run("CREATE UNIQUE INDEX by_name ON u (lower(name), m DESC)");
    built(&fixture, "u");
    fixture.run("CREATE INDEX by_sum ON u ((n + m))");
    built(&fixture, "u");
    let check = |fixture: &Fixture| {
        for (sql, index, rows) in [
            ("SELECT id FROM u WHERE lower(name) = 'name17'", "index by_name", vec![json!([17])]),
            ("SELECT id FROM u WHERE lower(name) = 'name17' AND m = 7", "index by_name", vec![json!([17])]),
            ("SELECT id FROM u WHERE n + m = 24 ORDER BY id", "index by_sum", vec![json!([17]), json!([22])]),
            ("SELECT id FROM u WHERE n + m < 4 AND n + m > 0", "index by_sum", vec![json!([1])]),
        ] {
            assert!(plan(fixture, sql).contains(index), "{sql}: {}", plan(fixture, sql));
            assert_eq!(fixture.rows_with(sql, vec![], "_tables/0@299").unwrap(), rows, "{sql}");
        }
        assert!(!plan(fixture, "SELECT id FROM u WHERE upper(name) = 'NAME17'").contains("index by_name"));
    };
    check(&fixture);
    let fixture = fixture.reopen(false);
    check(&fixture);
    let error = fixture.error("INSERT INTO u VALUES (1000, 'NAME17', 0, 7)");
    assert_eq!(error.code(), "23505", "{error}");
    assert!(error.message().contains("(lower(name), m) = ('name17', 7)"), "{error}");
    // Dropped columns move the others: the expressions go by names.
    fixture.run("ALTER TABLE u ADD COLUMN extra TEXT DEFAULT 'e'");
    fixture.run("UPDATE u SET name = 'Other' WHERE id = 17");
    assert_eq!(fixture.rows("SELECT id, extra FROM u WHERE lower(name) = 'other'"), [json!([17, "e"])]);
    let error = fixture.error("ALTER TABLE u DROP COLUMN name");
    assert_eq!(error.code(), "2BP01", "{error}");
}

#[test]
fn a_partial_index_serves_those_it_is_enough_for() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE jobs (id BIGINT PRIMARY KEY, state TEXT, done BOOLEAN, prio BIGINT)");
    fixture.run("INSERT INTO jobs SELECT g.n, 's' || g.n % 3, g.n % 50 <> 0, g.n % 7 FROM generate_series(1, 500) AS g(n)");
    fixture.run("CREATE INDEX open_jobs ON jobs (prio DESC) WHERE NOT done");
    built(&fixture, "jobs");
    let yes = |sql: &str| assert!(plan(&fixture, sql).contains("index open_jobs"), "{}", plan(&fixture, sql));
    let no = |sql: &str| assert!(!plan(&fixture, sql).contains("index open_jobs"), "{}", plan(&fixture, sql));
    yes("SELECT id FROM jobs WHERE NOT done AND prio = 1");
    yes("SELECT id FROM jobs WHERE NOT done");
    yes("SELECT id FROM jobs WHERE prio > 5 AND NOT done AND state = 's1'");
    no("SELECT id FROM jobs WHERE prio = 1");
    no("SELECT id FROM jobs WHERE done AND prio = 1");
    assert_eq!(fixture.rows("SELECT count(*) FROM jobs WHERE NOT done"), [json!([10])]);
    assert_eq!(fixture.rows("SELECT id FROM jobs WHERE NOT done AND prio = 1"), [json!([50]), json!([400])]);
    // Rows come and go as the predicate turns; the past has its own.
    let end = fixture.database.stream("_tables").unwrap().partitions[0].status.committed.value();
    fixture.run(
        "UPDATE jobs SET done = true WHERE id = 50; UPDATE jobs SET done = false WHERE id = 8; DELETE FROM jobs WHERE id = 400",
    );
    assert_eq!(fixture.rows("SELECT id FROM jobs WHERE NOT done AND prio = 1"), [json!([8])]);
    let past = format!("SELECT id FROM jobs FOR SYSTEM_TIME AS OF OFFSET {} WHERE NOT done AND prio = 1 ORDER BY id", end - 1);
    assert_eq!(fixture.rows(&past), [json!([50]), json!([400])]);
    // In a transaction too, over rows of its own.
    let session = fixture.database.sessions().open().unwrap();
    fixture.within(&session, "BEGIN").unwrap();
    fixture.within(&session, "INSERT INTO jobs VALUES (1000, 's', false, 1)").unwrap();
    let own = fixture.within(&session, "SELECT id FROM jobs WHERE NOT done AND prio = 1 ORDER BY id").unwrap();
    assert_eq!(own, [json!([8]), json!([1000])]);
}

#[test]
fn a_view_of_a_stream_has_them_too() {
    let fixture = Fixture::new();
    fixture.run("CREATE STREAM s; CREATE TABLE v (id BIGINT PRIMARY KEY, name TEXT) USING row FROM STREAM s");
    let records: Vec<_> = (0..50).map(|n| json!({"id": n, "name": format!("N{n}")})).collect();
    fixture.append("s", &records);
    fixture.run("CREATE INDEX by_lower ON v (lower(name)) WHERE id > 9");
    built(&fixture, "v");
    let sql = "SELECT id FROM v WHERE lower(name) = 'n33' AND id > 9";
    assert!(plan(&fixture, sql).contains("index by_lower"), "{}", plan(&fixture, sql));
    assert_eq!(fixture.rows_with(sql, vec![], "s/0@49").unwrap(), [json!([33])]);
}
