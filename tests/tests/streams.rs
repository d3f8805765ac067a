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
    let count = |server: &Server| server.rows("SELECT count(*) FROM latest")[0][0].as_u64().unwrap();
    server.until("compaction", |server| count(server) < 1_000);
    // One segment after the other is rewritten: what is compared was seen between two rewrites if the count stayed as it was.
    server.until("a look between two rewrites", |server| {
        let counted = count(server);
        let read = server.rows("SELECT \"offset\", key FROM latest ORDER BY \"offset\"");
        let cut = read[read.len() / 2][0].as_u64().unwrap();
        let above = server.rows(&format!("SELECT count(*) FROM latest WHERE \"offset\" >= {cut}"));
        let page = server.get("/v1/streams/latest/partitions/0/records?offset=0&limit=10000&max_bytes=16000000").json();
        if count(server) != counted {
            return false;
        }
        assert_eq!(counted, read.len() as u64, "counting looks into no record and agrees all the same");
        assert_eq!(above, [json!([read.len() - read.len() / 2])]);
        assert_eq!(page["records"].as_array().unwrap().len(), read.len());
        true
    });
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

#[test]
fn a_key_is_appended_to_only_where_its_last_record_is_the_expected_one() {
    let (server, data) = start();
    let _ = server.sql("CREATE STREAM orders WITH (partitions = 2)");
    let event = |key: &str, expect: i64| json!({"key": key, "value": {"expect": expect}, "expect": expect});
    let one = |server: &Server, key: &str, expect: i64| post(server, "orders", &json!({"records": [event(key, expect)]}));
    let taken = |reply: headwater_tests::Reply| -> u64 {
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()["position"].as_str().unwrap().rsplit_once('@').unwrap().1.parse().unwrap()
    };
    let refused = |reply: headwater_tests::Reply, part: &str| {
        let (status, code, kind, message) = reply.error();
        assert_eq!((status, code.as_str(), kind.as_str()), (409, "40001", "conflict"), "{}", reply.body);
        assert!(message.contains(part), "{message}");
    };
    let first = taken(one(&server, "a", -1));
    refused(one(&server, "a", -1), "key \"a\" of orders/");
    refused(one(&server, "a", -1), &format!("was expected to have no record, its last record is at offset {first}"));
    refused(one(&server, "a", 77), &format!("to have its last record at offset 77, its last record is at offset {first}"));
    refused(one(&server, "b", 3), "expected to have its last record at offset 3, it has no record");
    let second = taken(one(&server, "a", i64::try_from(first).unwrap()));
    // An append that expects nothing counts all the same, from either door.
    let _ = appended(&server, "orders", &json!({"records": [{"key": "a", "value": 1}]}));
    refused(one(&server, "a", i64::try_from(second).unwrap()), "its last record is at offset");
    let _ = server.post("/v1/streams/orders/records?key=k", "application/x-ndjson", b"{\"k\": \"a\"}\n");
    refused(one(&server, "a", i64::try_from(second + 1).unwrap()), &format!("offset {}", second + 2));
    let several = json!({"records": [event("a", i64::try_from(second).unwrap() + 2), {"key": "a", "value": 1}, {"value": "beside"},
        event("a", i64::try_from(second).unwrap() + 2)]});
    let last = taken(post(&server, "orders", &several));
    assert_eq!(last, second + 6, "one batch in one partition");
    assert_eq!((server.rows("SHOW VIEWS"), server.rows("SHOW TABLES")), (vec![], vec![]), "nobody sees the key view");
    assert_eq!(server.get("/readyz").status, 200);

    let server = restart(server, &data, true);
    refused(one(&server, "a", i64::try_from(second).unwrap()), &format!("offset {last}"));
    let last = taken(one(&server, "a", i64::try_from(last).unwrap()));
    let server = restart(server, &data, false);
    refused(one(&server, "a", -1), &format!("offset {last}"));
    let _ = server.sql("REBUILD VIEW _keys.orders");
    server.until("the rebuild", |server| server.get("/v1/views/_keys.orders").json()["generation"] == 2);
    let last = taken(one(&server, "a", i64::try_from(last).unwrap()));
    assert_eq!(server.sql_with(&json!({"sql": "DROP TABLE _keys.orders"})).status, 400);
    let _ = server.sql("DROP STREAM orders; CREATE STREAM orders");
    refused(one(&server, "a", i64::try_from(last).unwrap()), "it has no record");
    assert_eq!(taken(one(&server, "a", -1)), 0);
}

#[test]
fn expectations_that_make_no_sense_are_refused_and_append_nothing() {
    let (server, _data) = start();
    let _ = server
        .sql("CREATE STREAM s WITH (partitions = 4); CREATE STREAM ring WITH (retention = 'ring', retention_records = 1000)");
    let keyed = |key: &str, expect: Value| json!({"key": key, "value": 1, "expect": expect});
    let long = "k".repeat(5_000);
    for (stream, records, part) in [
        ("s", json!([{"value": 1, "expect": -1}]), "record 0: \"expect\" speaks of the record's key"),
        (
            "s",
            json!([keyed("a", json!(-1)), keyed("b", json!(-1)), keyed("c", json!(-1)), keyed("d", json!(-1))]),
            "go to one partition",
        ),
        (
            "s",
            json!([keyed("a", json!(-1)), {"key": "b", "value": 1}, {"key": "c", "value": 1}, {"key": "d", "value": 1}]),
            "go to one partition",
        ),
        ("s", json!([keyed("a", Value::Null)]), "\"expect\" is null"),
        ("s", json!([keyed("a", json!(-7))]), "\"expect\" is -7"),
        ("s", json!([keyed("a", json!(1)), keyed("a", json!(2))]), "records 0 and 1"),
        ("s", json!([{"key": "a", "value": 1}, keyed("a", json!(2))]), "record 1 expects"),
        ("s", json!([keyed(&long, json!(-1))]), "5000 bytes"),
        ("ring", json!([keyed("a", json!(-1))]), "is a ring"),
    ] {
        let reply = post(&server, stream, &json!({"records": records}));
        assert_eq!(reply.status, 400, "{records}: {}", reply.body);
        assert!(reply.error().3.contains(part), "{part} in {}", reply.body);
    }
    let both = json!({"records": [keyed("a", json!(-1))], "producer": {"id": 1, "epoch": 0, "sequence": 0}});
    assert!(post(&server, "s", &both).error().3.contains("can't be in one request"));
    assert_eq!(server.rows("SELECT count(*) FROM s"), [json!([0])]);
    // A ring again: the key view goes, and what is expected is refused until it is none.
    assert_eq!(post(&server, "s", &json!({"records": [keyed("a", json!(-1))]})).status, 200);
    let _ = server.sql("ALTER STREAM s SET (retention = 'ring', retention_bytes = '1 GiB')");
    assert_eq!(post(&server, "s", &json!({"records": [keyed("a", json!(0))]})).status, 400);
    let _ = server.sql("ALTER STREAM s SET (retention = 'none')");
    assert_eq!(post(&server, "s", &json!({"records": [keyed("a", json!(0))]})).status, 200);
}

/// Offset, key and value of every record of partition 0, in order.
fn log_of(server: &Server, stream: &str) -> Vec<(i64, String, Value)> {
    let (mut next, mut all) = (0, Vec::new());
    loop {
        let page =
            server.get(&format!("/v1/streams/{stream}/partitions/0/records?offset={next}&limit=10000&max_bytes=16777216")).json();
        for record in page["records"].as_array().unwrap() {
            all.push((
                record["offset"].as_i64().unwrap(),
                record["key"].as_str().unwrap_or_default().to_owned(),
                record["value"].clone(),
            ));
        }
        next = page["next_offset"].as_u64().unwrap();
        if page["end_offset"] == next {
            return all;
        }
    }
}

#[test]
fn of_clients_that_count_one_thing_together_none_is_lost_and_none_counted_twice() {
    const CLIENTS: usize = 8;
    const EACH: usize = 25;
    let (server, _data) = start();
    let _ = server.sql("CREATE STREAM counters");
    let count = |server: &Server| {
        for _ in 0..EACH {
            loop {
                let log = log_of(server, "counters");
                let last = log.iter().rev().find(|(_, key, _)| key == "c");
                let (expect, n) = last.map_or((-1, 0), |(offset, _, value)| (*offset, value["n"].as_u64().unwrap()));
                let event = json!({"records": [{"key": "c", "value": {"n": n + 1, "expect": expect}, "expect": expect}]});
                match post(server, "counters", &event).status {
                    200 => break,
                    409 => {}
                    other => panic!("{other}"),
                }
            }
        }
    };
    std::thread::scope(|scope| (0..CLIENTS).for_each(|_| drop(scope.spawn(|| count(&server)))));
    let counted: Vec<u64> = log_of(&server, "counters").iter().map(|(_, _, value)| value["n"].as_u64().unwrap()).collect();
    assert_eq!(counted, (1..=(CLIENTS * EACH) as u64).collect::<Vec<_>>());
}

#[test]
fn expectations_hold_against_writers_that_expect_nothing_also_while_the_first_one_comes() {
    const KEYS: usize = 3;
    let (server, _data) = start();
    for round in 0..5 {
        let stream = format!("mixed{round}");
        let _ = server.sql(&format!("CREATE STREAM {stream} WITH (ack = '{}')", if round % 2 == 0 { "disk" } else { "memory" }));
        let blind = |writer: usize| {
            for n in 0..150 {
                let record = json!({"records": [{"key": format!("k{}", (n + writer) % KEYS), "value": {"blind": writer}}]});
                let _ = appended(&server, &stream, &record);
            }
        };
        let expecting = |writer: usize| {
            let (mut tried, mut taken) = (0, 0);
            while tried < 60 || taken < 5 {
                tried += 1;
                let key = format!("k{}", (tried + writer) % KEYS);
                let log = log_of(&server, &stream);
                let expect = log.iter().rev().find(|(_, of, _)| *of == key).map_or(-1, |(offset, _, _)| *offset);
                let event = json!({"records": [{"key": key, "value": {"expect": expect}, "expect": expect}]});
                taken += usize::from(post(&server, &stream, &event).status == 200);
            }
        };
        std::thread::scope(|scope| {
            for writer in 0..3 {
                scope.spawn(move || blind(writer));
                scope.spawn(move || expecting(writer));
            }
        });
        let mut last = std::collections::HashMap::new();
        let (mut blind, mut expected) = (0, 0);
        for (offset, key, value) in log_of(&server, &stream) {
            let before = last.insert(key.clone(), offset).unwrap_or(-1);
            match value["expect"].as_i64() {
                None => blind += 1,
                Some(expect) => {
                    expected += 1;
                    assert_eq!(expect, before, "round {round}: {key} at {offset}");
                }
            }
        }
        assert_eq!(blind, 450);
        assert!(expected >= 15);
    }
}

#[test]
fn a_key_whose_records_are_gone_may_be_begun_again() {
    let data = tempfile::tempdir().unwrap();
    let server = start_quick(data.path());
    let _ = server.sql("CREATE STREAM s WITH (compact = true, tombstone_grace = '1 ms', segment_bytes = '1 MiB')");
    let event = |value: Value, expect: i64| json!({"records": [{"key": "gone", "value": value, "expect": expect}]});
    let _ = appended(&server, "s", &event(json!(1), -1));
    let _ = appended(&server, "s", &event(Value::Null, 0));
    assert_eq!(post(&server, "s", &event(json!(2), -1)).status, 409, "the tombstone is there: who read the log knows it");
    for lines in updates(20, 0..150) {
        let _ = append_keyed(&server, "s", &lines);
    }
    server.until("compaction", |server| server.rows("SELECT count(*) FROM s WHERE key = 'gone'") == [json!([0])]);
    let answer = appended(&server, "s", &event(json!(2), -1));
    let at = answer["position"].as_str().unwrap().rsplit_once('@').unwrap().1.parse::<i64>().unwrap();
    assert_eq!(post(&server, "s", &event(json!(3), -1)).status, 409);
    assert_eq!(post(&server, "s", &event(json!(3), at)).status, 200);
}

#[test]
fn what_a_producer_sends_again_is_known_and_what_it_leaves_out_is_missed() {
    let (server, data) = start();
    let _ = server.sql("CREATE STREAM p");
    let send = |server: &Server, epoch: i64, sequence: i64, count: i64| {
        let records: Vec<Value> = (sequence..sequence + count).map(|n| json!({"value": [epoch, n]})).collect();
        post(
            server,
            "p",
            &json!({"records": records, "producer": {"id": 8_213_064_251_i64, "epoch": epoch, "sequence": sequence}}),
        )
    };
    let first = json!({"appended": 3, "position": "p/0@2", "ack": "disk"});
    let again = json!({"appended": 3, "position": "p/0@2", "ack": "disk", "duplicate": true});
    assert_eq!(send(&server, 0, 0, 3).json(), first);
    assert_eq!(send(&server, 0, 0, 3).json(), again);
    assert_eq!(send(&server, 0, 3, 2).json()["position"], "p/0@4");
    assert_eq!(send(&server, 0, 0, 3).json(), again, "also when another one came behind it");
    let gap = send(&server, 0, 9, 1);
    assert_eq!((gap.status, gap.error().2.as_str()), (409, "conflict"));
    assert!(gap.error().3.contains("sequence 9") && gap.error().3.contains("to p/0, 5 comes next"), "{}", gap.body);
    let server = restart(server, &data, true);
    assert_eq!(send(&server, 0, 3, 2).json()["duplicate"], true, "after a kill");
    let server = restart(server, &data, false);
    assert_eq!(send(&server, 0, 0, 3).json(), again, "after an orderly stop");
    assert_eq!(send(&server, 1, 0, 1).json()["position"], "p/0@5", "a new epoch begins anew");
    let old = send(&server, 0, 5, 1);
    assert_eq!((old.status, old.error().2.as_str()), (409, "conflict"));
    assert!(old.error().3.contains("epoch 1"), "{}", old.body);
    assert_eq!(server.rows("SELECT count(*) FROM p"), [json!([6])]);
}

#[test]
fn producers_say_who_they_are_and_stay_in_one_partition() {
    let (server, _data) = start();
    let _ = server.sql("CREATE STREAM p WITH (partitions = 4)");
    let producer = json!({"id": 1, "epoch": 0, "sequence": 0});
    for (records, producer, part) in [
        (json!([{"value": 1}]), producer.clone(), "don't say which"),
        (json!([{"value": 1, "partition": 0}, {"value": 1, "partition": 2}]), producer.clone(), "these go to 0 and 2"),
        (json!([{"value": 1, "partition": 0}]), json!({"id": -1, "epoch": 0, "sequence": 0}), "negative"),
        (json!([{"value": 1, "partition": 0}]), json!({"id": 1, "epoch": 0}), "sequence"),
        (json!([{"value": 1, "partition": 0}]), json!({"id": 1, "epoch": 70_000, "sequence": 0}), "70000"),
        (json!([{"value": 1, "partition": 0}]), json!({"id": 1, "epoch": 0, "sequence": 0, "squence": 0}), "squence"),
    ] {
        let reply = post(&server, "p", &json!({"records": records, "producer": producer}));
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert!(reply.error().3.contains(part), "{part} in {}", reply.body);
    }
    assert_eq!(server.rows("SELECT count(*) FROM p"), [json!([0])]);
    let beside = json!({"records": [{"value": 1}, {"value": 2, "partition": 3}], "producer": producer});
    assert_eq!(appended(&server, "p", &beside)["position"], "p/3@1", "a record without a key goes with the others");
    let other = json!({"records": [{"value": 1, "partition": 1}], "producer": producer});
    assert_eq!(appended(&server, "p", &other)["position"], "p/1@0", "sequences count in each partition by themselves");
}

#[test]
fn messages_name_streams_and_say_what_a_thing_is() {
    let (server, _data) = start();
    let _ = server.sql("CREATE STREAM logs.web; CREATE STREAM bare; CREATE TABLE web_docs USING document WITH (search = 'a') FROM STREAM logs.web");
    let search = |table: &str| server.post(&format!("/v1/search/{table}"), "application/json", b"{}");
    for (reply, status, part, hint) in [
        (search("logs.web"), 400, "\"logs.web\" is a stream", "web_docs"),
        (search("bare"), 400, "\"bare\" is a stream", "CREATE TABLE"),
        (search("web_doc"), 404, "\"web_doc\" does not exist", "\"web_docs\""),
        (server.get("/v1/streams/logs.web/partitions/7/records"), 404, "no partition 7", "it has 1"),
        (server.get("/v1/streams/logs.web/partitions/0/records?offset=5"), 400, "logs.web/0", "wait_ms"),
    ] {
        assert_eq!(reply.status, status, "{}", reply.body);
        assert!(reply.error().3.contains(part), "{part} in {}", reply.body);
        assert!(reply.json()["error"]["hint"].as_str().unwrap_or_default().contains(hint), "{hint} in {}", reply.body);
    }
    let line = format!("\"{}\"\n", "x".repeat(1_000_000)).repeat(9);
    let batch: Vec<Value> = line.lines().map(|line| json!({"value": line})).collect();
    let big = post(&server, "logs.web", &json!({"records": batch}));
    assert_eq!(big.status, 413, "{}", big.body);
}
