//! Bad input over HTTP: each with the documented error, nothing half-applied.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};

use headwater_tests::{Server, VIEWS, binary, commit_line, commit_lines};
use serde_json::{Value, json};

const RECORDS: &str = "/v1/streams/commits/records";
const NDJSON: &str = "application/x-ndjson";

fn server() -> (Server, tempfile::TempDir) {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql(VIEWS);
    (server, data)
}

fn count(server: &Server) -> Value {
    server.rows("SELECT count(*) FROM commits")[0][0].clone()
}

#[test]
fn a_bad_line_is_named_and_everything_before_it_is_there() {
    let (server, _data) = server();
    let body = format!("{}{{\"broken\": \n{}", commit_lines(0..1_500), commit_lines(1_500..1_600));
    let reply = server.post(RECORDS, NDJSON, body.as_bytes());
    let (status, _, kind, message) = reply.error();
    assert_eq!((status, kind.as_str()), (400, "invalid"));
    assert!(message.contains("line 1501"), "{message}");
    assert_eq!((&reply.json()["appended"], &reply.json()["position"]), (&json!(1_500), &json!("commits/0@1499")));
    assert_eq!(count(&server), 1_500);
}

#[test]
fn requests_that_are_wrong_say_how() {
    let (server, _data) = server();
    let json = "application/json";
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let post = |path: &str, kind: &str, body: &str| server.post(path, kind, body.as_bytes());
    for (reply, status, kind, part) in [
        (post("/v1/streams/comits/records", NDJSON, "{}"), 404, "not_found", "\"comits\""),
        (post(RECORDS, json, "{\"records\": [{\"value\": 1}, {\"vale\": 2}]}"), 400, "invalid", "vale"),
        (post(RECORDS, json, "{\"records\": ["), 400, "invalid", ""),
        (post(RECORDS, json, "{\"records\": [{\"value\": 1}, {\"value\": 2, \"partition\": 7}]}"), 400, "invalid", "partition 7"),
        (post(RECORDS, "text/csv", "a,b"), 415, "invalid", "text/csv"),
        (post(RECORDS, NDJSON, &deep), 400, "invalid", "line 1"),
        (post(RECORDS, NDJSON, &format!("\"{}\"", "x".repeat(1 << 20))), 413, "too_large", "line 1"),
        (post("/v1/streams/_tables/records", NDJSON, "{}"), 400, "invalid", "belongs to the database"),
        (post("/v1/sql", json, &json!({"sql": "SELECT 1", "wiat": "x"}).to_string()), 400, "invalid", "wiat"),
        (post("/v1/sql", json, &json!({"sql": "SELECT 1", "wait": "x"}).to_string()), 400, "invalid", "not a position"),
        (post("/v1/sql", json, &json!({"sql": "SELECT 1", "wait": "commits/3@1"}).to_string()), 400, "invalid", "no partition 3"),
        (post("/v1/sql", "text/plain", "SELECT\n 1 +* 2"), 400, "invalid", "line 2, column"),
        (post("/v1/sql", "text/plain", "SELECT subjct FROM commit_docs"), 400, "invalid", "\"subjct\""),
        (post("/v1/sql", "text/plain", "SELECT * FROM commit_row"), 404, "not_found", "\"commit_row\""),
        (post("/v1/search/commit_rows", json, "{}"), 400, "invalid", "document table"),
        (post("/v1/search/commit_docs", json, "{\"query\": {\"mach\": {}}}"), 400, "invalid", "mach"),
        (server.get("/v1/streams/commits/partitions/0/records?offset=-1"), 400, "invalid", "offset"),
        (server.get("/v1/streams/commits/partitions/0/records?limit=0"), 400, "invalid", "limit"),
        (server.get("/v1/views/nope"), 404, "not_found", "nope"),
        (server.get("/v1/nope"), 404, "not_found", "/v1/nope"),
        (server.get("/v1/sql"), 405, "invalid", ""),
    ] {
        let found = reply.error();
        assert_eq!((found.0, found.2.as_str()), (status, kind), "{}", reply.body);
        assert!(found.3.contains(part), "{part:?} in {}", reply.body);
    }
    assert_eq!(count(&server), 0, "nothing half-applied");
    let suggestion = post("/v1/sql", "text/plain", "SELECT * FROM commit_row").json();
    assert!(suggestion["error"]["hint"].as_str().unwrap().contains("commit_rows"), "{suggestion}");
}

#[test]
fn an_oversize_body_is_refused_whole() {
    let (server, _data) = server();
    let records: Vec<Value> = (0..20).map(|_| json!({"value": "x".repeat(1_000_000)})).collect();
    let reply = server.try_post(RECORDS, "application/json", json!({"records": records}).to_string().as_bytes());
    // The server may answer and close before all of it was sent: the client then sees either the answer or a broken pipe.
    if let Some(reply) = reply {
        assert_eq!((reply.status, reply.error().2), (413, "too_large".into()));
    }
    assert_eq!(count(&server), 0);
}

#[test]
fn a_wait_for_what_never_comes_ends_in_time() {
    let (server, _data) = server();
    let _ = server.append("commits", &commit_line(0));
    let reply = server.sql_with(&json!({"sql": "SELECT count(*) FROM commit_rows", "wait": "commits/0@5", "timeout_ms": 200}));
    let (status, _, kind, message) = reply.error();
    assert_eq!((status, kind.as_str()), (504, "unavailable"), "{message}");
}

#[test]
fn a_body_that_is_cut_off_leaves_whole_lines_only() {
    let (server, _data) = server();
    let lines = commit_lines(0..200);
    let half = &lines[..lines.len() - 30];
    let address = server.url.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST {RECORDS} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {NDJSON}\r\nContent-Length: {}\r\n\r\n",
        lines.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    socket.write_all(half.as_bytes()).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    server.until("the whole lines", |server| count(server) == 199);
    assert_eq!(server.rows("SELECT count(*) FROM commits WHERE value->>'commit' = '0000000000c7'"), [json!([0])]);
}

#[test]
fn a_folder_serves_one_server_and_one_format() {
    let (mut first, data) = server();
    let second = |data: &std::path::Path| {
        let output =
            Command::new(binary()).args(["serve", "--http", "127.0.0.1:0", "--data"]).arg(data).stdin(Stdio::null()).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, message) = second(data.path());
    assert_eq!(code, Some(1));
    assert!(message.contains("in use by another process"), "{message}");
    assert_eq!(first.terminate(), Some(0));
    let identity = data.path().join("identity");
    let content = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, content.replace("\"format\": 1", "\"format\": 7")).unwrap();
    let (code, message) = second(data.path());
    assert_eq!(code, Some(1));
    assert!(message.contains("format version 7") && message.contains("version 1"), "{message}");
}

#[test]
fn a_full_queue_answers_throttled_and_loses_nothing() {
    let data = tempfile::tempdir().unwrap();
    // A queue that holds little more than one frame, and many writers at once with little patience.
    let server = Server::start_with(data.path(), &[("HEADWATER_LOG_QUEUE_BYTES_MAX", "8MiB")]);
    let _ = server.sql("CREATE STREAM commits");
    let line = format!("{{\"pad\": \"{}\"}}\n", "x".repeat(900_000));
    let body = line.repeat(8);
    let (mut appended, mut throttled) = (0, 0);
    std::thread::scope(|scope| {
        let send = || server.post(&format!("{RECORDS}?timeout_ms=1"), NDJSON, body.as_bytes());
        let senders: Vec<_> = (0..32).map(|_| scope.spawn(send)).collect();
        for sender in senders {
            let reply = sender.join().unwrap();
            match reply.status {
                200 => appended += reply.json()["appended"].as_u64().unwrap(),
                429 => {
                    assert_eq!(reply.error().2, "throttled");
                    appended += reply.json()["appended"].as_u64().unwrap();
                    throttled += 1;
                }
                other => panic!("{other}: {}", reply.body),
            }
        }
    });
    assert!(throttled > 0, "32 writers of 7 MB at once don't fit");
    assert_eq!(count(&server), appended, "what was acknowledged is there, nothing else");
}
