//! The change feed over HTTP: pages, lines, and events that resume where they were, also after `kill -9`.
#![allow(clippy::unwrap_used, reason = "a test")]

use headwater_tests::Server;
use serde_json::{Value, json};

const TABLE: &str = "CREATE TABLE other (id BIGINT PRIMARY KEY); CREATE TABLE accounts (id BIGINT PRIMARY KEY, owner TEXT, balance NUMERIC(8,2), tags JSON)";

/// Reads events of the feed: ids and data.
fn events(server: &Server, query: &str, last_event_id: Option<&str>, count: usize) -> Vec<(String, Value)> {
    server.events(&format!("/v1/tables/accounts/changes{query}"), last_event_id, count)
}

#[test]
fn changes_come_in_pages_and_lines() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql(TABLE);
    let _ = server.sql(r#"INSERT INTO accounts VALUES (1, 'ann', 1.5, '{"a": [1,  2]}'); INSERT INTO other VALUES (1)"#);
    let _ = server.sql("UPDATE accounts SET balance = 2 WHERE id = 1; DELETE FROM accounts WHERE id = 1");
    let page = server.get("/v1/tables/accounts/changes").json();
    let changes = page["changes"].as_array().unwrap();
    let mut shown = changes.clone();
    shown.iter_mut().for_each(|change| assert!(change.as_object_mut().unwrap().remove("timestamp").unwrap().is_u64()));
    let row = |balance: &str| json!({"id": 1, "owner": "ann", "balance": balance, "tags": {"a": [1, 2]}});
    assert_eq!(
        shown,
        [
            json!({"position": "_tables/0@0", "offset": 0, "change": "insert", "old": null, "new": row("1.50")}),
            json!({"position": "_tables/0@2", "offset": 2, "change": "update", "old": row("1.50"), "new": row("2.00")}),
            json!({"position": "_tables/0@3", "offset": 3, "change": "delete", "old": row("2.00"), "new": null}),
        ]
    );
    assert_eq!((&page["next_offset"], &page["end_offset"]), (&json!(4), &json!(4)));
    assert!(server.get("/v1/tables/accounts/changes").body.contains(r#""tags":{"a": [1,  2]}"#), "JSON comes as it was written");
    let second = server.get("/v1/tables/accounts/changes?from=1&limit=1").json();
    assert_eq!((&second["changes"][0], &second["next_offset"]), (&changes[1], &json!(3)));
    let lines = server.get_as("/v1/tables/accounts/changes?from=2", "application/x-ndjson");
    let lines: Vec<Value> = lines.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, changes[1..]);
    let waited = server.get("/v1/tables/accounts/changes?from=latest&wait_ms=50").json();
    assert_eq!((&waited["changes"], &waited["next_offset"]), (&json!([]), &json!(4)));
    for (path, status, part) in [
        ("/v1/tables/acounts/changes", 404, "\"acounts\" does not exist"),
        ("/v1/tables/_tables/changes", 400, "is a stream"),
        ("/v1/tables/accounts/changes?from=5", 400, "beyond the end of _tables/0"),
        ("/v1/tables/accounts/changes?from=x", 400, "\"x\" is not an offset"),
        ("/v1/tables/accounts/changes?partition=1", 404, "no partition 1"),
        ("/v1/tables/accounts/changes?limit=0", 400, "limit is 0"),
        ("/v1/tables/accounts/changes?offset=0", 400, "offset"),
    ] {
        let reply = server.get(path);
        assert_eq!(reply.status, status, "{path}: {}", reply.body);
        assert!(reply.error().3.contains(part), "{path}: {}", reply.body);
    }
    assert_eq!(server.get_as("/v1/tables/accounts/changes", "text/csv").status, 406);
    assert_eq!(server.get_as("/v1/tables/accounts/changes?limit=1", "text/event-stream").status, 400);
    assert_eq!(server.get_as("/v1/tables/none/changes", "text/event-stream").status, 404);
}

#[test]
fn a_feed_is_live_and_resumes_where_it_was_also_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql(TABLE);
    let insert = |server: &Server, n: u64| {
        let _ = server.sql(&format!("INSERT INTO other VALUES ({n}); INSERT INTO accounts (id, owner) VALUES ({n}, 'o{n}')"));
    };
    (0..3).for_each(|n| insert(&server, n));
    let first = events(&server, "?from=earliest", None, 2);
    assert_eq!((first[1].0.as_str(), &first[1].1["new"]["id"]), ("_tables/0@3", &json!(1)));
    let follow = |server: &Server, id: &str, range: std::ops::Range<u64>, write: std::ops::Range<u64>| {
        let id = id.to_owned();
        let expected: Vec<Value> = range.map(Value::from).collect();
        let found = std::thread::scope(|scope| {
            let count = expected.len();
            let follower = scope.spawn(move || events(server, "", Some(&id), count));
            write.for_each(|n| insert(server, n));
            follower.join().unwrap()
        });
        assert_eq!(found.iter().map(|(_, data)| data["new"]["id"].clone()).collect::<Vec<_>>(), expected);
        found.last().unwrap().0.clone()
    };
    let id = follow(&server, &first[1].0, 2..6, 3..6);
    assert_eq!(id, "_tables/0@11");
    let server = server.start_again(data.path(), &[]);
    let _ = follow(&server, &id, 6..8, 6..8);
    let ahead = events(&server, "", Some("other/0@1"), 1);
    assert!(ahead.is_empty(), "an id of another stream is refused");
}
