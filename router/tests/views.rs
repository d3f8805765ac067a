//! Views of each kind over one stream: equal counts, joins, search, buckets, the past, positions, rebuilds, restarts.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::{Duration, Instant};

use common::{Fixture, commit};
use serde_json::{Value, json};

fn filled(count: u64) -> (Fixture, String) {
    let fixture = Fixture::new();
    fixture.with_views();
    let commits: Vec<Value> = (0..count).map(commit).collect();
    let mut position = String::new();
    for part in commits.chunks(100) {
        position = fixture.append("commits", part).to_string();
    }
    (fixture, position)
}

const TABLES: [&str; 4] = ["commits", "commit_rows", "commit_docs", "churn"];

#[test]
fn every_view_has_every_record_and_one_statement_reads_them_at_one_cut() {
    let (fixture, position) = filled(1_000);
    assert_eq!(position, "commits/0@999");
    for table in TABLES {
        assert_eq!(
            fixture.rows_with(&format!("SELECT count(*) FROM {table}"), vec![], &position).unwrap(),
            [json!([1_000])],
            "{table}"
        );
    }
    let joined = fixture.rows(
        "SELECT r.repo, count(*), sum(r.added) FROM commit_rows r JOIN commit_docs d ON d._id = r.commit
         WHERE CONTAINS(d.body, 'fsync') GROUP BY r.repo ORDER BY r.repo",
    );
    let expected = |remainder: u64| (0..1_000_u64).filter(move |n| n % 2 == 0 && n % 3 == remainder);
    let row = |repo: &str, remainder| json!([repo, expected(remainder).count(), expected(remainder).sum::<u64>()]);
    assert_eq!(joined, [row("openraft", 2), row("redb", 0), row("tantivy", 1)]);
}

#[test]
fn search_ranks_and_ordering_by_score_is_a_top_k() {
    let (fixture, position) = filled(200);
    let sql =
        "SELECT _id, score() FROM commit_docs WHERE CONTAINS(subject, '\"torn write\" OR 17') ORDER BY score() DESC LIMIT 3";
    let rows = fixture.rows_with(sql, vec![], &position).unwrap();
    assert_eq!(rows[0][0], "000000000011", "the one with 17 is the best");
    assert_eq!(rows.len(), 3);
    let plan: String = fixture.rows(&format!("EXPLAIN {sql}")).iter().map(|row| row[1].as_str().unwrap().to_owned()).collect();
    assert!(plan.contains("top by score, limit=3") && !plan.contains("SortExec"), "{plan}");
    assert_eq!(fixture.rows("SELECT count(*) FROM commit_docs WHERE MATCH(*, 'fsync') AND repo = 'redb'"), [json!([34])]);
    let error = fixture.error("SELECT * FROM commit_rows WHERE CONTAINS(subject, 'x')");
    assert!(error.message().contains("document table"), "{error}");
    let error = fixture.error("SELECT * FROM commit_docs WHERE CONTAINS(subject, '\"torn')");
    assert!(error.message().contains("column"), "{error}");
}

#[test]
fn time_is_bucketed_and_pruned() {
    let (fixture, position) = filled(400);
    let rows = fixture
        .rows_with("SELECT time_bucket('1 month', ts) AS month, repo, sum(added), last(added, ts) FROM churn GROUP BY 1, 2 ORDER BY 1, 2 LIMIT 3", vec![], &position)
        .unwrap();
    assert_eq!(rows[0][0], "2017-07-01T00:00:00Z");
    let count = fixture.rows("SELECT count(*) FROM churn WHERE ts >= TIMESTAMP '2017-08-01T00:00:00Z' AND ts < TIMESTAMP '2017-09-01T00:00:00Z' AND repo = 'redb'");
    let expected =
        (0..400_u64).filter(|n| n % 3 == 0 && (1_501_545_600..1_504_224_000).contains(&(1_500_000_000 + n * 86_400))).count();
    assert_eq!(count, [json!([expected])]);
    let weeks = fixture.rows("SELECT DISTINCT extract(dow FROM time_bucket('1 week', ts)) FROM churn");
    assert_eq!(weeks, [json!([1])], "weeks begin on Monday");
}

#[test]
fn the_past_is_read_by_offset_position_and_time() {
    let (fixture, position) = filled(300);
    fixture.append("commits", &[json!({"repo": "redb", "commit": "000000000000", "added": -1, "ts": 0, "subject": "again"})]);
    let _ = position;
    for as_of in ["OFFSET 299", "POSITION 'commits/0@299'"] {
        for (table, count) in [("commit_rows", 300), ("churn", 300), ("commits", 300)] {
            assert_eq!(
                fixture.rows(&format!("SELECT count(*) FROM {table} FOR SYSTEM_TIME AS OF {as_of}")),
                [json!([count])],
                "{table}"
            );
        }
    }
    let before_and_now = "SELECT p.added, n.added FROM commit_rows FOR SYSTEM_TIME AS OF OFFSET 10 AS p
        JOIN commit_rows n ON p.commit = n.commit WHERE p.commit = '000000000000'";
    assert_eq!(fixture.rows_with(before_and_now, vec![], "commits/0@300").unwrap(), [json!([0, -1])]);
    assert_eq!(fixture.rows("SELECT count(*) FROM commits FOR SYSTEM_TIME AS OF TIMESTAMP '2001-01-01T00:00:00Z'"), [json!([0])]);
    assert!(fixture.error("SELECT * FROM commit_rows FOR SYSTEM_TIME AS OF OFFSET 5000").message().contains("not there yet"));
    assert_eq!(fixture.error("SELECT * FROM commit_docs FOR SYSTEM_TIME AS OF OFFSET 5").code(), "0A000");
}

#[test]
fn a_write_is_seen_by_a_read_that_waits_for_it() {
    let (fixture, _) = filled(10);
    for n in 10..60_u64 {
        let position = fixture.append("commits", &[commit(n)]).to_string();
        for table in TABLES {
            let rows = fixture.rows_with(&format!("SELECT count(*) FROM {table}"), vec![], &position).unwrap();
            assert_eq!(rows, [json!([n + 1])], "{table} at {position}");
        }
    }
}

#[test]
fn bad_records_become_dead_letters_and_the_view_goes_on() {
    let (fixture, _) = filled(5);
    let position =
        fixture.append("commits", &[json!("text"), json!({"repo": "redb", "commit": "x", "added": "many"}), commit(5)]);
    for (table, count) in [("commit_rows", 6), ("commit_docs", 7), ("churn", 6)] {
        let rows = fixture.rows_with(&format!("SELECT count(*) FROM {table}"), vec![], &position.to_string()).unwrap();
        assert_eq!(rows, [json!([count])], "{table}");
    }
    let view = fixture.database.view("commit_rows").unwrap();
    assert_eq!((view.dead_letters, view.lag_records, view.state), (2, 0, "running"));
    assert_eq!(view.recent_dead_letters[1].position, "commits/0@6");
    assert!(view.recent_dead_letters[1].reason.contains("column \"added\": \"many\" is not a bigint"), "{view:?}");
}

fn content(fixture: &Fixture, table: &str) -> Vec<Value> {
    let order = if table == "commit_docs" { "_id" } else { "1, 2, 3" };
    fixture.rows(&format!("SELECT * FROM {table} ORDER BY {order}"))
}

#[test]
fn a_rebuild_serves_meanwhile_and_equals_what_was() {
    let (fixture, position) = filled(2_000);
    for table in ["commit_rows", "commit_docs", "churn"] {
        fixture.rows_with(&format!("SELECT count(*) FROM {table}"), vec![], &position).unwrap();
        let before = content(&fixture, table);
        let started = fixture.runtime.block_on(fixture.database.rebuild(table)).unwrap();
        assert_eq!(started.state, "rebuilding");
        while fixture.database.view(table).unwrap().generation == 1 {
            assert_eq!(fixture.rows(&format!("SELECT count(*) FROM {table}")), [json!([2_000])], "{table} answers meanwhile");
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let done = fixture.runtime.block_on(fixture.database.rebuilt(table, 2, deadline)).unwrap();
        assert_eq!((done.generation, done.state), (2, "running"));
        assert_eq!(content(&fixture, table), before, "{table}");
    }
    let fixture = fixture.reopen(true);
    assert_eq!(fixture.database.view("churn").unwrap().generation, 2);
    assert_eq!(fixture.rows("SELECT count(*) FROM churn"), [json!([2_000])]);
}

#[test]
fn everything_is_there_after_a_restart_clean_or_not() {
    for clean in [true, false] {
        let (fixture, position) = filled(500);
        fixture.run("CREATE TABLE accounts (id BIGINT PRIMARY KEY, owner TEXT NOT NULL)");
        fixture.run("INSERT INTO accounts VALUES (1, 'a'), (2, 'b')");
        let fixture = fixture.reopen(clean);
        for table in TABLES {
            assert_eq!(
                fixture.rows_with(&format!("SELECT count(*) FROM {table}"), vec![], &position).unwrap(),
                [json!([500])],
                "{table}"
            );
        }
        assert_eq!(
            fixture.rows_with("SELECT owner FROM accounts ORDER BY id", vec![], "_tables/0@1").unwrap(),
            [json!(["a"]), json!(["b"])]
        );
        fixture.run("DROP TABLE churn");
        assert!(fixture.error("SELECT * FROM churn").hint_text().is_none());
    }
}

#[test]
fn a_table_that_failed_leaves_nothing_for_the_next_one() {
    let (fixture, _) = filled(20);
    assert_eq!(fixture.error("CREATE TABLE d USING document WITH (search = '_bad') FROM STREAM commits").code(), "22023");
    assert!(
        fixture
            .error("CREATE TABLE r (a TEXT) USING row FROM STREAM commits AS SELECT value->>'repo', 1 FROM commits")
            .message()
            .contains("columns")
    );
    fixture.run("CREATE TABLE d USING document WITH (search = 'subject') FROM STREAM commits");
    assert_eq!(
        fixture.rows_with("SELECT count(*) FROM d WHERE CONTAINS(subject, 'torn')", vec![], "commits/0@19").unwrap(),
        [json!([20])]
    );
    // Dropped and created again under the same name: a new table, with other columns.
    fixture.run("DROP TABLE d; CREATE TABLE d (repo TEXT, n BIGINT) USING row FROM STREAM commits AS SELECT value->>'repo', (value->>'added')::bigint FROM commits WHERE value->>'repo' = 'redb'");
    assert_eq!(fixture.rows_with("SELECT count(*), max(n) FROM d", vec![], "commits/0@19").unwrap(), [json!([7, 18])]);
}

#[test]
fn a_view_whose_files_are_damaged_is_left_out_and_can_be_rebuilt() {
    let (fixture, position) = filled(200);
    fixture.rows_with("SELECT count(*) FROM commit_docs", vec![], &position).unwrap();
    let id = fixture.database.catalog().find_table("commit_docs").unwrap().id;
    let meta = fixture.dir.path().join(format!("views/{id}/1/0/meta.json"));
    let fixture = {
        let common::Fixture { database, dir, runtime } = fixture;
        database.close().unwrap();
        drop((database, runtime));
        std::fs::write(&meta, "{").unwrap();
        let database = router::Database::open(common::options(dir.path())).unwrap();
        common::Fixture { database, dir, runtime: tokio::runtime::Runtime::new().unwrap() }
    };
    assert_eq!(fixture.rows("SELECT count(*) FROM commit_rows"), [json!([200])], "the others serve");
    assert_eq!(fixture.error("SELECT count(*) FROM commit_docs").code(), "55006");
    assert!(!fixture.database.not_ready().is_empty());
    fixture.run("REBUILD VIEW commit_docs");
    assert_eq!(fixture.rows_with("SELECT count(*) FROM commit_docs", vec![], &position).unwrap(), [json!([200])]);
    assert!(fixture.database.not_ready().is_empty());
}

#[test]
fn streams_of_several_partitions_have_views_of_every_kind() {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE STREAM events WITH (partitions = 3, compression = 'zstd');
         CREATE TABLE event_rows (repo TEXT, commit TEXT, added BIGINT, PRIMARY KEY (commit)) USING row FROM STREAM events;
         CREATE TABLE event_docs USING document WITH (key = 'commit', search = 'subject', facets = 'repo') FROM STREAM events;
         CREATE TABLE event_series (ts TIMESTAMPTZ, repo TEXT, added BIGINT) USING series WITH (time = 'ts', tags = 'repo') FROM STREAM events",
    );
    let commits: Vec<Value> = (0..900).map(commit).collect();
    let position = fixture.append("events", &commits).to_string();
    assert_eq!(position.split(',').count(), 3, "{position}");
    for table in ["events", "event_rows", "event_docs", "event_series"] {
        assert_eq!(
            fixture.rows_with(&format!("SELECT count(*) FROM {table}"), vec![], &position).unwrap(),
            [json!([900])],
            "{table}"
        );
    }
    let best = fixture.rows("SELECT _id FROM event_docs WHERE CONTAINS(subject, 'number AND 899') ORDER BY score() DESC LIMIT 1");
    assert_eq!(best, [json!([format!("{:012x}", 899)])]);
    assert_eq!(
        fixture.rows("SELECT added FROM event_rows WHERE commit = '000000000005'"),
        [json!([5])],
        "a point read looks everywhere"
    );
    fixture.run("REBUILD VIEW event_docs");
    let deadline = Instant::now() + Duration::from_secs(60);
    fixture.runtime.block_on(fixture.database.rebuilt("event_docs", 2, deadline)).unwrap();
    let fixture = fixture.reopen(false);
    assert_eq!(
        fixture.rows_with("SELECT count(*), sum(added) FROM event_rows", vec![], &position).unwrap(),
        [json!([900, 899 * 450])]
    );
    let past = position.split(',').map(|part| format!("{}@9", part.split('@').next().unwrap())).collect::<Vec<_>>().join(",");
    let rows = fixture.rows(&format!("SELECT count(*) FROM event_series FOR SYSTEM_TIME AS OF POSITION '{past}'"));
    assert_eq!(rows, [json!([30])]);
}
