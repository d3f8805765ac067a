//! How streams are kept and appended to, on the real binary: options, acknowledgement classes, producers, expectations.
#![allow(clippy::unwrap_used, reason = "a test")]

use headwater_tests::{Server, commit_lines};
use serde_json::{Value, json};

fn start() -> (Server, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    (Server::start(data.path()), data)
}

fn restart(mut server: Server, data: &tempfile::TempDir, kill: bool) -> Server {
    if kill {
        server.kill();
    } else {
        assert_eq!(server.terminate(), Some(0));
    }
    Server::start(data.path())
}

fn stream(server: &Server, name: &str) -> Value {
    let reply = server.get(&format!("/v1/streams/{name}"));
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()
}

/// The row of a stream in `SHOW STREAMS`, by column.
fn shown(server: &Server, name: &str) -> Value {
    let answer = server.sql("SHOW STREAMS");
    let columns = answer["columns"].as_array().unwrap();
    let row = answer["rows"].as_array().unwrap().iter().find(|row| row[0] == name).unwrap();
    columns
        .iter()
        .zip(row.as_array().unwrap())
        .map(|(column, value)| (column["name"].as_str().unwrap().to_owned(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[test]
fn the_documented_statements_work_word_for_word() {
    let (server, _data) = start();
    let _ = server.sql(
        "CREATE STREAM commits WITH (partitions = 2, ack = 'disk', retention = '7 days', compact = false, compression = 'zstd');",
    );
    let before = stream(&server, "commits");
    assert_eq!(
        (&before["retention"], &before["compact"], &before["compression"]),
        (&json!("7 days"), &json!(false), &json!("zstd"))
    );
    let answer = server.sql("ALTER STREAM commits SET (retention = '30 days');  DROP STREAM commits;  SHOW STREAMS;");
    assert_eq!(answer["results"][0]["tag"], "ALTER STREAM");
    assert_eq!(answer["results"][2]["rows"], json!([]));
}

#[test]
fn options_are_shown_changed_and_kept_over_restarts() {
    let (server, data) = start();
    let _ = server.sql("CREATE STREAM plain; CREATE STREAM kept WITH (partitions = 2, ack = 'memory', retention = '12 hours', \
        retention_bytes = '10 GB', retention_records = 1_000_000, compression = 'zstd', segment_bytes = '16 MiB', flush_interval = '250 ms')");
    let plain = stream(&server, "plain");
    assert_eq!((&plain["ack"], &plain["retention"], &plain["segment_bytes"]), (&json!("disk"), &json!("none"), &json!(64 << 20)));
    let _ = server.append("kept", &commit_lines(0..100));
    let _ = server.sql(
        "ALTER STREAM kept SET (retention = '36 hours', retention_records = 'none', flush_interval = '2 seconds'); \
        ALTER STREAM plain SET (compact = true, tombstone_grace = '2 hours', ack = 'memory')",
    );
    let expect = |server: &Server| {
        let kept = stream(server, "kept");
        for (name, value) in [
            ("ack", json!("memory")),
            ("retention", json!("36 hours")),
            ("retention_bytes", json!(10_000_000_000_u64)),
            ("retention_records", Value::Null),
            ("compact", json!(false)),
            ("compression", json!("zstd")),
            ("segment_bytes", json!(16 << 20)),
            ("flush_interval", json!("2 seconds")),
        ] {
            assert_eq!(kept[name], value, "{name} in {kept}");
        }
        let row = shown(server, "plain");
        for (name, value) in [
            ("ack", "memory"),
            ("compact", "true"),
            ("tombstone_grace", "2 hours"),
            ("retention", "none"),
            ("segment_bytes", "64 MiB"),
        ] {
            assert_eq!(row[name], value, "{name} in {row}");
        }
        assert_eq!(shown(server, "kept")["retention_bytes"], "10 GB");
        assert_eq!(server.rows("SELECT count(*) FROM kept"), [json!([100])]);
    };
    expect(&server);
    let server = restart(server, &data, false);
    expect(&server);
    let server = restart(server, &data, true);
    expect(&server);
}

#[test]
fn options_that_are_wrong_are_refused_and_change_nothing() {
    let (server, _data) = start();
    let _ = server.sql(
        "CREATE STREAM s; CREATE STREAM ring WITH (retention = 'ring', retention_records = 1000); \
        CREATE TABLE rows_of_s (id BIGINT PRIMARY KEY) USING row FROM STREAM s",
    );
    for (sql, status, part, hint) in [
        ("CREATE STREAM x WITH (retentoin = '7 days')", 400, "\"retentoin\"", "\"retention\""),
        ("CREATE STREAM x WITH (retention = 'ring')", 400, "needs a size", "retention_bytes"),
        (
            "CREATE STREAM x WITH (compact = true, retention = 'ring', retention_records = 9)",
            400,
            "compact = true",
            "one of the two",
        ),
        ("CREATE STREAM x WITH (partitions = 2, partitions = 3)", 400, "given twice", ""),
        ("CREATE STREAM x WITH (segment_bytes = '4 KiB')", 400, "out of range", "1 MiB to 1 GiB"),
        ("CREATE STREAM x WITH (ack = 'quorum')", 400, "cluster", "disk"),
        ("ALTER STREAM s SET (partitions = 4)", 400, "can't be changed", "create a stream"),
        ("ALTER STREAM s SET (compact = true, retention_records = 4)", 400, "retention_records", "one of the two"),
        ("ALTER STREAM s SET (retention = 'ring', retention_records = 4)", 409, "rows_of_s", "DROP TABLE"),
        ("ALTER STREAM z SET (compact = true)", 404, "\"z\"", ""),
        ("ALTER STREAM _tables SET (compact = true)", 400, "belongs to the database", ""),
        ("ALTER STREAM s", 400, "expected", ""),
        ("CREATE TABLE t (id BIGINT PRIMARY KEY) USING row FROM STREAM ring", 400, "is a ring", "ALTER STREAM ring"),
        ("CREATE TABLE t USING document WITH (search = 'a') FROM STREAM ring", 400, "is a ring", "ALTER STREAM ring"),
    ] {
        let reply = server.sql_with(&json!({ "sql": sql }));
        assert_eq!(reply.status, status, "{sql}: {}", reply.body);
        assert!(reply.error().3.to_lowercase().contains(&part.to_lowercase()), "{sql}: {}", reply.body);
        assert!(reply.json()["error"]["hint"].as_str().unwrap_or_default().contains(hint), "{sql}: {}", reply.body);
    }
    let s = stream(&server, "s");
    assert_eq!((&s["compact"], &s["retention"], &s["retention_records"]), (&json!(false), &json!("none"), &Value::Null));
    let _ = server.sql(
        "ALTER STREAM ring SET (retention = '7 days'); CREATE TABLE t (id BIGINT PRIMARY KEY) USING row FROM STREAM ring; \
        ALTER STREAM IF EXISTS z SET (compact = true)",
    );
    assert_eq!(stream(&server, "ring")["retention_records"], 1000, "the bound stays, as a bound");
}

fn post(server: &Server, stream: &str, body: &Value) -> headwater_tests::Reply {
    server.post(&format!("/v1/streams/{stream}/records"), "application/json", body.to_string().as_bytes())
}

/// Appends what must be taken; gives the answer.
fn appended(server: &Server, stream: &str, body: &Value) -> Value {
    let reply = post(server, stream, body);
    assert_eq!(reply.status, 200, "{body}: {}", reply.body);
    reply.json()
}

#[test]
fn a_request_may_ask_for_a_stronger_class_but_not_for_a_weaker_one() {
    let (server, data) = start();
    let _ = server.sql("CREATE STREAM strict WITH (partitions = 3); CREATE STREAM loose WITH (ack = 'memory')");
    let records = json!([{"value": 1}, {"value": 2}, {"value": 3}]);
    assert_eq!(appended(&server, "strict", &json!({"records": records, "ack": "memory"}))["ack"], "disk");
    assert_eq!(appended(&server, "strict", &json!({"records": records}))["ack"], "disk");
    assert_eq!(appended(&server, "loose", &json!({"records": records, "ack": "disk"}))["ack"], "disk");
    assert_eq!(appended(&server, "strict", &json!({"records": []}))["ack"], "disk");
    let lines = |ack: &str| server.post(&format!("/v1/streams/loose/records?ack={ack}"), "application/x-ndjson", b"4\n5\n");
    assert_eq!(lines("disk").json(), json!({"appended": 2, "position": "loose/0@4", "ack": "disk"}));
    for (reply, status, part) in [
        (post(&server, "loose", &json!({"records": records, "ack": "quorum"})), 503, "no cluster"),
        (post(&server, "loose", &json!({"records": records, "ack": "all"})), 400, "\"all\""),
        (lines("quorum"), 503, "no cluster"),
        (lines("some"), 400, "\"some\""),
    ] {
        assert_eq!(reply.status, status, "{}", reply.body);
        assert!(reply.error().3.contains(part), "{}", reply.body);
    }
    let server = restart(server, &data, true);
    assert_eq!(
        server.rows("SELECT count(*) FROM loose"),
        [json!([5])],
        "what was acknowledged as on the disk is there after a kill"
    );
}

#[test]
fn a_memory_stream_answers_from_memory_and_keeps_everything_over_an_orderly_stop() {
    let (server, data) = start();
    let _ = server.sql("CREATE STREAM loose WITH (ack = 'memory', flush_interval = '1 hour')");
    let answer = appended(&server, "loose", &json!({"records": [{"key": "a", "value": 1}]}));
    assert_eq!(answer, json!({"appended": 1, "position": "loose/0@0", "ack": "memory"}));
    let lines = server.post("/v1/streams/loose/records", "application/x-ndjson", commit_lines(0..2_500).as_bytes());
    assert_eq!(lines.json(), json!({"appended": 2_500, "position": "loose/0@2500", "ack": "memory"}));
    assert_eq!(server.rows("SELECT count(*) FROM loose"), [json!([2_501])], "readers see what is only in memory");
    let server = restart(server, &data, false);
    assert_eq!(server.rows("SELECT count(*) FROM loose"), [json!([2_501])]);
    let _ = server.sql("ALTER STREAM loose SET (ack = 'disk')");
    assert_eq!(appended(&server, "loose", &json!({"records": [{"value": 1}]}))["ack"], "disk");
}

/// A server whose views save themselves all the time, so that retention and compaction are held up by nothing.
fn start_quick(data: &std::path::Path) -> Server {
    Server::start_with(data, &[("HEADWATER_VIEWS_CHECKPOINT_INTERVAL_MS", "100")])
}

/// Some 30 KiB a batch: `batches` times ten lines with ids that go round after `ids`.
fn updates(ids: u64, batches: std::ops::Range<u64>) -> Vec<String> {
    let line = |n: u64| format!("{{\"id\": {}, \"n\": {n}, \"pad\": \"{}\"}}\n", n % ids, "x".repeat(3_000));
    batches.map(|batch| (batch * 10..batch * 10 + 10).map(line).collect()).collect()
}

fn append_keyed(server: &Server, stream: &str, lines: &str) -> String {
    let reply = server.post(&format!("/v1/streams/{stream}/records?key=id"), "application/x-ndjson", lines.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.json()["position"].as_str().unwrap().to_owned()
}

#[test]
fn compaction_keeps_the_last_record_of_each_key_and_views_equal_their_rebuild() {
    let data = tempfile::tempdir().unwrap();
    let server = start_quick(data.path());
    let _ = server.sql("CREATE STREAM latest WITH (compact = true, segment_bytes = '1 MiB', compression = 'lz4'); \
        CREATE TABLE latest_rows (id BIGINT PRIMARY KEY, n BIGINT) USING row FROM STREAM latest; \
        CREATE TABLE latest_docs USING document WITH (key = 'id', facets = 'n') FROM STREAM latest; ALTER STREAM latest SET (compression = 'none')");
    let mut position = String::new();
    for lines in updates(50, 0..200) {
        position = append_keyed(&server, "latest", &lines);
    }
    let content =
        |server: &Server, table: &str, order: &str| server.rows_at(&format!("SELECT * FROM {table} ORDER BY {order}"), &position);
    let (rows, docs) = (content(&server, "latest_rows", "id"), content(&server, "latest_docs", "_id"));
    assert_eq!((rows.len(), docs.len()), (50, 50));
    server.until("compaction", |server| server.rows("SELECT count(*) FROM latest")[0][0].as_u64().unwrap() < 1_000);
    let counted = server.rows("SELECT count(*) FROM latest")[0][0].clone();
    let read = server.rows("SELECT \"offset\", key FROM latest ORDER BY \"offset\"");
    assert_eq!(counted, read.len(), "counting looks into no record and agrees all the same");
    let cut = read[read.len() / 2][0].as_u64().unwrap();
    let above = server.rows(&format!("SELECT count(*) FROM latest WHERE \"offset\" >= {cut}"));
    assert_eq!(above, [json!([read.len() - read.len() / 2])]);
    let page = server.get("/v1/streams/latest/partitions/0/records?offset=0&limit=10000&max_bytes=16000000").json();
    assert_eq!(page["records"].as_array().unwrap().len(), read.len());
    let _ = server.sql("REBUILD VIEW latest_rows; REBUILD VIEW latest_docs");
    for view in ["latest_rows", "latest_docs"] {
        server.until("the rebuild", |server| server.get(&format!("/v1/views/{view}")).json()["generation"] == 2);
    }
    assert_eq!((content(&server, "latest_rows", "id"), content(&server, "latest_docs", "_id")), (rows.clone(), docs.clone()));
    let server = restart(server, &data, true);
    assert_eq!((content(&server, "latest_rows", "id"), content(&server, "latest_docs", "_id")), (rows, docs));
}

#[test]
fn retention_drops_the_oldest_and_what_begins_later_begins_at_what_is_left() {
    let data = tempfile::tempdir().unwrap();
    let server = start_quick(data.path());
    let _ = server.sql(
        "CREATE STREAM recent WITH (retention_bytes = '2 MiB', segment_bytes = '1 MiB'); \
        CREATE STREAM ring WITH (retention = 'ring', retention_bytes = '2 MiB', segment_bytes = '1 MiB'); \
        CREATE TABLE recent_rows (id BIGINT PRIMARY KEY, n BIGINT) USING row FROM STREAM recent",
    );
    let mut position = String::new();
    for lines in updates(1_000_000, 0..200) {
        position = append_keyed(&server, "recent", &lines);
        let _ = append_keyed(&server, "ring", &lines);
    }
    let start = |server: &Server, name: &str| stream(server, name)["partitions"][0]["log_start"].as_u64().unwrap();
    server.until("retention", |server| start(server, "recent") > 0 && start(server, "ring") > 0);
    assert_eq!(server.rows_at("SELECT count(*) FROM recent_rows", &position), [json!([2_000])], "a view keeps what it has");
    let gone = server.get("/v1/streams/recent/partitions/0/records?offset=0");
    assert_eq!(gone.status, 400);
    assert!(gone.error().3.contains("recent/0"), "{}", gone.body);
    let _ =
        server.sql("REBUILD VIEW recent_rows; CREATE TABLE later (id BIGINT PRIMARY KEY, n BIGINT) USING row FROM STREAM recent");
    server.until("the rebuild", |server| server.get("/v1/views/recent_rows").json()["generation"] == 2);
    let server = restart(server, &data, true);
    for table in ["recent_rows", "later"] {
        let row = server.rows_at(&format!("SELECT min(n), max(n), count(*) FROM {table}"), &position)[0].clone();
        let (first, last, count) = (row[0].as_u64().unwrap(), row[1].as_u64().unwrap(), row[2].as_u64().unwrap());
        assert!(first > 0 && first <= start(&server, "recent"), "{table} begins at {first}");
        assert_eq!((last, count), (1_999, 2_000 - first), "{table}");
    }
    assert!(server.get("/readyz").status == 200, "{}", server.get("/readyz").body);
}

/// The value of a metric of partition 0 of a stream.
fn metric(text: &str, name: &str, stream: &str) -> u64 {
    let start = format!("headwater_{name}{{stream=\"{stream}\",partition=\"0\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{start} in {text}"));
    line.parse().unwrap()
}

#[test]
fn what_is_kept_where_is_shown_by_partition_by_stream_and_as_a_whole() {
    let (server, _data) = start();
    let _ = server.sql("CREATE STREAM a WITH (partitions = 2); CREATE STREAM b");
    let _ = server.append("b", &commit_lines(0..500));
    for partition in 0..2 {
        let _ = appended(&server, "a", &json!({"records": [{"value": 1, "partition": partition}]}));
    }
    let _ = server.get("/v1/streams/b/partitions/0/records");
    let text = server.get("/metrics").body;
    for (name, value) in [
        ("partition_log_start_offset", 0),
        ("partition_committed_offset", 500),
        ("partition_flushed_offset", 500),
        ("partition_appended_offset", 500),
        ("partition_segments", 1),
        ("partition_ram_segments", 1),
        ("partition_unflushed_records", 0),
        ("partition_damaged_segments", 0),
        ("partition_writable", 1),
    ] {
        assert_eq!(metric(&text, name, "b"), value, "{name}");
    }
    assert!(metric(&text, "partition_ram_hits_total", "b") > 0 && metric(&text, "partition_ram_chunks", "b") > 0);
    for name in
        ["ram_tier_used_bytes", "ram_tier_budget_bytes", "ram_tier_chunks", "ram_tier_hits_total", "ram_tier_misses_total"]
    {
        assert!(text.contains(&format!("\nheadwater_{name} ")), "{name} in {text}");
    }
    let a = stream(&server, "a");
    assert_eq!(
        (&a["totals"]["records"], &a["totals"]["segments"], &a["totals"]["ram_segments"]),
        (&json!(2), &json!(2), &json!(2))
    );
    let all = server.get("/v1/streams").json();
    let of = |streams: &Value, name: &str| -> u64 {
        streams.as_array().unwrap().iter().map(|s| s["totals"][name].as_u64().unwrap()).sum()
    };
    assert_eq!(all["ram"]["chunks"], of(&all["streams"], "ram_chunks"));
    assert_eq!(all["ram"]["hits"], of(&all["streams"], "ram_hits"));
    assert!(all["ram"]["used_bytes"].as_u64().unwrap() <= all["ram"]["budget_bytes"].as_u64().unwrap());
}
