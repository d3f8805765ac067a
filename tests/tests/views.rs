//! The main promises over HTTP, on the real binary: equal counts, positions, replay, live tail, rebuilds, a stop and a start.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write;

use headwater_tests::{Server, TABLES, VIEWS, commit_line, commit_lines, headwater};
use serde_json::{Value, json};

#[test]
fn every_view_counts_what_was_appended_and_answers_queries() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let _ = server.sql(VIEWS);
    let position = server.append("commits", &commit_lines(0..3_000));
    assert_eq!(position, "commits/0@2999");
    for table in TABLES {
        assert_eq!(server.rows_at(&format!("SELECT count(*) FROM {table}"), &position), [json!([3_000])], "{table}");
    }
    let search = json!({"query": {"bool": {"must": [{"match_phrase": {"subject": "torn write"}}, {"match": {"body": "fsync"}}],
        "filter": [{"term": {"repo": "redb"}}]}}, "size": 2, "facets": ["repo"], "highlight": ["subject"]});
    let found = server.post("/v1/search/commit_docs", "application/json", search.to_string().as_bytes()).json();
    assert_eq!((&found["total"], &found["facets"]["repo"][0]), (&json!(500), &json!({"value": "redb", "count": 500})));
    assert!(found["hits"][0]["highlight"]["subject"][0].as_str().unwrap().contains("<em>torn</em>"), "{found}");
    assert_eq!(found["cut"], "commits/0@2999");
    let ranked = server.rows(
        "SELECT _id, score() FROM commit_docs WHERE CONTAINS(body, '\"torn write\" OR fsync') ORDER BY score() DESC LIMIT 5",
    );
    assert_eq!(ranked.len(), 5);
    let buckets = server.rows("SELECT time_bucket('1 month', ts), repo, sum(added) FROM churn GROUP BY 1, 2 ORDER BY 1, 2");
    assert_eq!(buckets.iter().map(|row| row[2].as_f64().unwrap()).sum::<f64>(), f64::from(2_999 * 3_000 / 2));
    assert_eq!(server.terminate(), Some(0), "{}", server.log());
    let server = Server::start(data.path());
    assert!(!server.log().contains("trimmed"), "a clean stop leaves nothing to repair");
    assert_eq!(server.rows("SELECT count(*) FROM commit_docs"), [json!([3_000])]);
}

#[test]
fn a_thousand_writes_are_each_seen_by_the_read_that_waits_for_them() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql(VIEWS);
    let mut seen = [0; 3];
    for n in 0..1_000_u64 {
        let position = server.append("commits", &commit_line(n));
        let questions = [
            format!("SELECT count(*) FROM commit_rows WHERE commit = '{n:012x}'"),
            format!("SELECT count(*) FROM commit_docs WHERE _id = '{n:012x}'"),
            format!("SELECT count(*) FROM churn WHERE added = {n}"),
        ];
        for (seen, sql) in seen.iter_mut().zip(questions) {
            *seen += u64::from(server.rows_at(&sql, &position) == [json!([1])]);
        }
    }
    assert_eq!(seen, [1_000; 3], "rows, documents, series");
}

#[test]
fn a_replay_gives_the_bytes_that_were_sent() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql("CREATE STREAM odd");
    let values = ["{\"a\":  1.50, \"ü\" : \"\\u00fc\" }", "[1,2,  3]", "\"text\"", "1e400", "true", "null"];
    let _ = server.append("odd", &(values.join("\n") + "\n\n"));
    let replay = server.get("/v1/streams/odd/partitions/0/records?offset=0").body;
    for value in &values[..5] {
        assert!(replay.contains(&format!("\"value\":{value}")), "{value} in {replay}");
    }
    assert_eq!(server.get("/v1/streams/odd/partitions/0/records?offset=5").json()["records"][0]["value"], Value::Null);
    let lines = server.get_as("/v1/streams/odd/partitions/0/records?offset=2&limit=2", "application/x-ndjson").body;
    assert_eq!(lines.lines().count(), 2);
    let (status, _, kind, message) = server.get("/v1/streams/odd/partitions/0/records?offset=7").error();
    assert_eq!((status, kind.as_str()), (400, "invalid"));
    assert!(message.contains("0 to 6 (end exclusive)"), "{message}");
    assert_eq!(server.get("/v1/streams/odd/partitions/1/records").error().0, 404);
    let waited = server.get("/v1/streams/odd/partitions/0/records?offset=6&wait_ms=50").json();
    assert_eq!((&waited["records"], &waited["next_offset"]), (&json!([]), &json!(6)));
}

/// Reads events of `GET /v1/streams/{s}/tail`: ids and data.
fn events(server: &Server, query: &str, last_event_id: Option<&str>, count: usize) -> Vec<(String, Value)> {
    server.events(&format!("/v1/streams/commits/tail{query}"), last_event_id, count)
}

#[test]
fn the_tail_is_live_and_resumes_where_it_was() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql("CREATE STREAM commits");
    let _ = server.append("commits", &commit_lines(0..5));
    let first = events(&server, "?offset=earliest", None, 3);
    assert_eq!(first[2].1["offset"], 2);
    std::thread::scope(|scope| {
        let id = first[2].0.clone();
        let server = &server;
        let follower = scope.spawn(move || events(server, "?offset=latest", Some(&id), 5));
        for n in 5..8 {
            let _ = server.append("commits", &commit_line(n));
        }
        let offsets: Vec<Value> = follower.join().unwrap().into_iter().map(|(_, data)| data["offset"].clone()).collect();
        assert_eq!(offsets, [3, 4, 5, 6, 7].map(Value::from));
    });
}

#[test]
fn rebuilding_each_kind_serves_meanwhile_and_ends_equal() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql(VIEWS);
    let position = server.append("commits", &commit_lines(0..5_000));
    for (table, order) in [("commit_rows", "1, 2"), ("commit_docs", "_id"), ("churn", "1, 2, 3")] {
        let sql = format!("SELECT * FROM {table} ORDER BY {order}");
        let before = server.rows_at(&sql, &position);
        let reply = server.post(&format!("/v1/views/{table}/rebuild"), "application/json", b"");
        assert_eq!(reply.status, 202, "{}", reply.body);
        server.until("the rebuild", |server| {
            assert_eq!(server.rows(&format!("SELECT count(*) FROM {table}")), [json!([5_000])], "{table} serves meanwhile");
            server.get(&format!("/v1/views/{table}")).json()["generation"] == 2
        });
        assert!(server.rows(&sql) == before, "{table} equals what it was");
    }
}

#[test]
fn the_command_line_does_the_same() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let file = data.path().join("commits.ndjson.gz");
    let mut packed = flate2::write::GzEncoder::new(std::fs::File::create(&file).unwrap(), flate2::Compression::fast());
    packed.write_all(commit_lines(0..2_000).as_bytes()).unwrap();
    packed.finish().unwrap();
    let run = |arguments: &[&str]| {
        let output = headwater(&[arguments, &["--url", &server.url]].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    run(&["sql", "-c", VIEWS]);
    run(&["import", "ndjson", file.to_str().unwrap(), "--stream", "commits", "--key", "commit", "--timestamp", "ts"]);
    server.until("catching up", |server| server.rows("SELECT count(*) FROM commit_docs") == [json!([2_000])]);
    let (csv, _) = run(&["sql", "-c", "SELECT count(*) AS n FROM commit_rows", "--output", "csv"]);
    assert_eq!(csv, "n\n2000\n");
    let (consumed, _) = run(&["consume", "--stream", "commits", "--offset", "1990", "--limit", "5"]);
    assert_eq!(consumed.lines().count(), 5, "{consumed}");
    let (listed, _) = run(&["view", "list", "--output", "json"]);
    assert!(listed.contains("commit_docs"), "{listed}");
    let record = &server.get("/v1/streams/commits/partitions/0/records?offset=3&limit=1").json()["records"][0];
    assert_eq!((&record["key"], &record["timestamp"]), (&json!("000000000003"), &json!((1_500_000_000_u64 + 3 * 3_600) * 1_000)));
    let refused = headwater(&["sql", "-c", "SELECT 1", "--url", "http://127.0.0.1:1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("headwater serve"));
    assert_eq!(headwater(&["sqll"]).status.code(), Some(2));
}
