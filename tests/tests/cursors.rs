//! Cursors from outside: over HTTP, SQL and the command line, used wrongly, and across `kill -9`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicU64, Ordering};

use headwater_tests::{Reply, Server, commit_lines, headwater};
use serde_json::{Value, json};

/// Small files, so that streams of several partitions take little room.
const SMALL: [(&str, &str); 1] = [("HEADWATER_LOG_SEGMENT_BYTES", "16MiB")];

/// A server with the stream `commits` of two partitions, which have ten records each.
fn server() -> (Server, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), &SMALL);
    let _ = server.sql("CREATE STREAM commits WITH (partitions = 2)");
    fill(&server);
    (server, data)
}

/// Appends ten records to each partition.
fn fill(server: &Server) {
    let records: Vec<Value> = (0..20).map(|n| json!({"value": n, "partition": n % 2})).collect();
    let body = json!({ "records": records }).to_string();
    assert_eq!(server.post("/v1/streams/commits/records", "application/json", body.as_bytes()).status, 200);
}

fn path(name: &str, partition: u64) -> String {
    format!("/v1/cursors/{name}/commits/{partition}")
}

fn put(server: &Server, name: &str, partition: u64, body: &Value) -> Reply {
    server.put(&path(name, partition), &body.to_string())
}

#[test]
fn a_cursor_is_moved_read_listed_and_removed() {
    let (mut server, data) = server();
    let moved = put(&server, "reader", 1, &json!({"offset": 4, "expect": -1}));
    assert_eq!((moved.status, moved.json()), (200, json!({"name": "reader", "stream": "commits", "partition": 1, "offset": 4})));
    let cursor = server.get(&path("reader", 1)).json();
    let expected = json!({"name": "reader", "stream": "commits", "partition": 1, "offset": 4, "end_offset": 10, "log_start": 0,
                          "lag_records": 6});
    assert_eq!(cursor, expected);
    assert_eq!(put(&server, "reader", 1, &json!({"offset": 9, "expect": 4})).status, 200);
    assert_eq!(put(&server, "reader", 1, &json!({"offset": 9})).status, 200, "where it is already is fine");
    let back = put(&server, "reader", 1, &json!({"offset": 3})).error();
    assert_eq!((back.0, back.1.as_str(), back.2.as_str()), (409, "55000", "conflict"), "{}", back.3);
    assert_eq!(put(&server, "reader", 1, &json!({"offset": 3, "reset": true})).status, 200);
    for (name, partition, offset) in [("reader", 0, 10), ("another", 1, 0)] {
        assert_eq!(put(&server, name, partition, &json!({ "offset": offset })).status, 200);
    }
    let _ = server.sql("CREATE STREAM empty");
    assert_eq!(server.put("/v1/cursors/reader/empty/0", r#"{"offset":0}"#).status, 200);
    let places = |list: &Value| -> Vec<String> {
        let place = |cursor: &Value| {
            format!(
                "{} {}/{}@{}",
                cursor["name"].as_str().unwrap(),
                cursor["stream"].as_str().unwrap(),
                cursor["partition"],
                cursor["offset"]
            )
        };
        list["cursors"].as_array().unwrap().iter().map(place).collect()
    };
    let all = ["reader commits/0@10", "another commits/1@0", "reader commits/1@3", "reader empty/0@0"];
    let list = server.get("/v1/cursors").json();
    assert_eq!((places(&list), &list["total"]), (all.map(str::to_owned).to_vec(), &json!(4)));
    assert_eq!(places(&server.get("/v1/cursors?stream=empty").json()), ["reader empty/0@0"]);
    let cut = server.get("/v1/cursors?limit=2").json();
    assert_eq!((places(&cut).len(), &cut["total"]), (2, &json!(4)));
    let lag = server.rows("SHOW CURSORS");
    assert_eq!(lag[1], json!(["another", "commits", 1, 0, 10, 0, 10]));
    let gone = server.delete(&path("another", 1));
    assert_eq!((gone.status, &gone.json()["offset"]), (200, &json!(0)));
    assert_eq!((server.get(&path("another", 1)).status, server.delete(&path("another", 1)).status), (404, 404));
    // An orderly stop changes nothing.
    assert_eq!(server.terminate(), Some(0));
    let server = Server::start_with(data.path(), &SMALL);
    assert_eq!(places(&server.get("/v1/cursors").json()), [all[0], all[2], all[3]]);
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn the_cursors_of_a_dropped_stream_are_gone() {
    let (server, data) = server();
    let _ = server.sql("CREATE STREAM others");
    assert_eq!(put(&server, "c", 0, &json!({"offset": 5})).status, 200);
    assert_eq!(server.put("/v1/cursors/c/others/0", r#"{"offset":0}"#).status, 200);
    let _ = server.sql("DROP STREAM commits; CREATE STREAM commits WITH (partitions = 2)");
    fill(&server);
    assert_eq!(server.get(&path("c", 0)).status, 404, "the new stream of that name is another");
    drop(server);
    let server = Server::start_with(data.path(), &SMALL);
    assert_eq!(server.get("/v1/cursors").json()["total"], 1);
    assert_eq!(put(&server, "c", 0, &json!({"offset": 1, "expect": -1})).status, 200);
}

#[test]
fn requests_that_are_wrong_say_how() {
    let (server, _data) = server();
    assert_eq!(put(&server, "reader", 0, &json!({"offset": 4})).status, 200);
    let ok = json!({"offset": 1});
    let long = "x".repeat(201);
    let list = |query: &str| server.get(&format!("/v1/cursors{query}"));
    for (reply, status, code, part, hint) in [
        (put(&server, "a%20b", 0, &ok), 400, "22023", "\"a b\" can't be the name of a cursor", ""),
        (put(&server, "a%2Fb", 0, &ok), 400, "22023", "\"a/b\" can't be", ""),
        (put(&server, &long, 0, &ok), 400, "22023", "1 to 200", ""),
        (server.get(&path("%C3%A4", 0)), 400, "22023", "\"ä\" can't be", ""),
        (server.delete(&path("a%00", 0)), 400, "22023", "can't be", ""),
        (server.put("/v1/cursors/reader/comits/0", "{\"offset\":1}"), 404, "42P01", "\"comits\"", "\"commits\""),
        (server.get("/v1/cursors/reader/comits/0"), 404, "42P01", "\"comits\"", "\"commits\""),
        (put(&server, "reader", 2, &ok), 404, "42P01", "no partition 2", "it has 2"),
        (server.get(&path("reader", 7)), 404, "42P01", "no partition 7", "it has 2"),
        (server.get("/v1/cursors/reader/commits/x"), 400, "22023", "path", ""),
        (server.get(&path("raeder", 0)), 404, "34000", "\"raeder\" of commits/0", "\"reader\""),
        (server.get(&path("reader", 1)), 404, "34000", "\"reader\" of commits/1", "it exists for commits/0"),
        (server.delete(&path("raeder", 0)), 404, "34000", "\"raeder\"", "\"reader\""),
        (
            put(&server, "reader", 0, &json!({"offset": 11})),
            400,
            "22023",
            "offset 11 is beyond the end of commits/0, which is 10",
            "next_offset",
        ),
        (put(&server, "reader", 0, &json!({"offset": -1})), 400, "22023", "-1", "next offset"),
        (put(&server, "reader", 0, &json!({"offset": 5, "expect": -2})), 400, "22023", "-2", "no cursor"),
        (put(&server, "reader", 0, &json!({"offset": 5, "expect": 3})), 409, "40001", "is at 4, it was expected at 3", "its own"),
        (
            put(&server, "reader", 0, &json!({"offset": 5, "expect": -1})),
            409,
            "40001",
            "is at 4, it was expected not there",
            "its own",
        ),
        (
            put(&server, "fresh", 0, &json!({"offset": 5, "expect": 3})),
            409,
            "40001",
            "is not there, it was expected at 3",
            "its own",
        ),
        (put(&server, "reader", 0, &json!({"offset": 3})), 409, "55000", "is at 4 already", "reset"),
        (put(&server, "reader", 0, &json!({"offst": 3})), 400, "22023", "offst", ""),
        (put(&server, "reader", 0, &json!({})), 400, "22023", "offset", ""),
        (server.put(&path("reader", 0), "{\"offset\":"), 400, "22023", "JSON", ""),
        (server.post(&path("reader", 0), "application/json", b"{}"), 405, "08P01", "POST", "GET and PUT and DELETE"),
        (list("?limit=0"), 400, "22023", "limit", ""),
        (list("?limit=100001"), 400, "22023", "limit", ""),
        (list("?stream=comits"), 404, "42P01", "\"comits\"", "\"commits\""),
        (list("?strm=x"), 400, "22023", "strm", ""),
    ] {
        let found = reply.error();
        assert_eq!((found.0, found.1.as_str()), (status, code), "{}", reply.body);
        assert!(found.3.contains(part), "{part:?} in {}", reply.body);
        let said = reply.json()["error"]["hint"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains(hint), "{hint:?} in {}", reply.body);
    }
    assert_eq!(server.get("/v1/cursors").json()["total"], 1, "nothing half-applied");
    assert_eq!(server.get(&path("reader", 0)).json()["offset"], 4);
}

/// Runs a command; gives the exit code, stdout and stderr.
fn run(server: &Server, words: &str) -> (Option<i32>, String, String) {
    let words: Vec<&str> = words.split(' ').chain(["--url", &server.url]).collect();
    let output = headwater(&words);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// As [`run`], of a command that must succeed; gives stdout.
fn done(server: &Server, words: &str) -> String {
    let (code, out, talk) = run(server, words);
    assert_eq!(code, Some(0), "{words}: {talk}");
    out
}

#[test]
fn the_command_line_shows_and_sets_cursors() {
    let (server, _data) = server();
    let out = done(&server, "cursor set c --stream commits --offset latest --output ndjson");
    assert_eq!(out.lines().count(), 2, "one in each partition: {out}");
    let out = done(&server, "cursor set c --stream commits --partition 1 --offset 3 --reset --output json");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()[0]["offset"], 3);
    let out = done(&server, "cursor get c --stream commits --output csv");
    assert_eq!(
        out,
        "name,stream,partition,offset,end_offset,log_start,lag_records\nc,commits,0,10,10,0,0\nc,commits,1,3,10,0,7\n"
    );
    assert!(
        done(&server, "cursor list --stream commits").contains(" c    | commits |         1 |      3 |"),
        "a table for people"
    );
    assert_eq!(done(&server, "cursor delete c --stream commits --partition 0 --output csv").lines().count(), 2);
    assert_eq!(done(&server, "cursor get c --stream commits --output csv").lines().count(), 2, "those that are there");
    for (words, code, said) in [
        ("cursor get d --stream commits", 1, "did you mean \"c\"?"),
        ("cursor get c --stream comits", 1, "did you mean \"commits\"?"),
        ("cursor get c --stream commits --partition 5", 1, "commits has no partition 5, it has 2"),
        ("cursor get c --stream commits --partition 0", 1, "it exists for commits/1"),
        ("cursor set c --stream commits --offset 5", 1, "name one with --partition"),
        ("cursor set c --stream commits --partition 1 --offset 2", 1, "--reset"),
        ("cursor set c --stream commits --partition 1 --offset 99", 1, "beyond the end"),
        ("cursor set c --stream commits --partition 1 --offset soon", 1, "earliest or latest"),
        ("cursor set c d --stream commits --offset latest", 2, "unexpected"),
        ("cursor set c --stream commits", 2, "--offset"),
        ("cursor drop c --stream commits", 2, "drop"),
    ] {
        let (found, _, talk) = run(&server, words);
        assert_eq!(found, Some(code), "{words}: {talk}");
        assert!(talk.contains(said), "{said:?} in {talk}");
    }
}

#[test]
fn consuming_goes_on_where_it_ended() {
    let (server, _data) = server();
    let offsets = |words: &str| -> Vec<u64> {
        let out = done(&server, words);
        out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["offset"].as_u64().unwrap()).collect()
    };
    let consume = "consume --stream commits --partition 0 --cursor c";
    assert_eq!(offsets(&format!("{consume} --limit 3")), [0, 1, 2]);
    assert_eq!(offsets(&format!("{consume} --limit 4 --commit-every 2")), [3, 4, 5, 6]);
    assert_eq!(offsets(consume), [7, 8, 9]);
    assert_eq!(offsets(consume), [0; 0], "up to the end as it was");
    assert_eq!(server.get(&path("c", 0)).json()["offset"], 10);
    let (code, out, _) = run(&server, "consume --stream commits --cursor all --offset 8 --output csv");
    assert_eq!((code, out.lines().count()), (Some(0), 5), "two of each partition below their names");
    assert_eq!(server.get(&path("all", 1)).json()["offset"], 10, "also when it is printed at the end");
    fill(&server);
    assert_eq!(offsets("consume --stream commits --cursor all"), (10..20).chain(10..20).collect::<Vec<_>>());
    let (code, _, talk) = run(&server, "consume --stream commits --commit-every 5");
    assert_eq!(code, Some(2), "{talk}");
    let (code, _, talk) = run(&server, "consume --stream commits --cursor a/b");
    assert_eq!(code, Some(1));
    assert!(talk.contains("can't be the name of a cursor"), "{talk}");
}

const KILLS: u64 = 8;
const READERS: usize = 6;

/// Readers that each expect what they committed last: whatever was acknowledged is there after a kill, and at most the one commit
/// whose answer the kill swallowed beyond it.
#[test]
fn a_kill_loses_no_commit_that_was_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(data.path(), &SMALL);
    let _ = server.sql("CREATE STREAM commits");
    let _ = server.append("commits", &commit_lines(0..20_000));
    let mut at = [-1_i64; READERS];
    for kill in 0..KILLS {
        let commits = AtomicU64::new(0);
        let enough = 20 + kill * 37;
        let attempted = std::thread::scope(|scope| {
            let readers = at.iter().enumerate().map(|(reader, from)| {
                let (server, commits, mut expect) = (&server, &commits, *from);
                scope.spawn(move || {
                    loop {
                        let offset = expect + 1 + i64::try_from(reader).unwrap() % 3;
                        let body = json!({"offset": offset, "expect": expect}).to_string();
                        let Some(reply) = server.try_put(&path(&format!("r{reader}"), 0), &body) else {
                            return (expect, offset);
                        };
                        assert_eq!(reply.status, 200, "{}", reply.body);
                        expect = offset;
                        commits.fetch_add(1, Ordering::Relaxed);
                    }
                })
            });
            let readers: Vec<_> = readers.collect();
            server.until("so many commits", |_| commits.load(Ordering::Relaxed) >= enough);
            // Sends the signal without waiting, so that the readers see the connection break.
            let pid = server.pid().to_string();
            assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
        });
        server.kill();
        server = server.start_again(data.path(), &SMALL);
        for (reader, (acknowledged, tried)) in attempted.into_iter().enumerate() {
            let cursor = server.get(&path(&format!("r{reader}"), 0));
            let found = if cursor.status == 404 { -1 } else { cursor.json()["offset"].as_i64().unwrap() };
            assert!(found == acknowledged || found == tried, "r{reader}: {found}, acknowledged {acknowledged}, tried {tried}");
            at[reader] = found;
        }
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}
