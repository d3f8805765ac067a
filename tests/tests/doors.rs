//! The other answers of the server: formats, metrics, readiness, configuration, the console, the demo.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::{Command, Stdio};

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use headwater_tests::{Server, VIEWS, binary, commit_lines, headwater};
use serde_json::json;

#[test]
fn results_come_in_every_format() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql(VIEWS);
    let position = server.append("commits", &commit_lines(0..100));
    let answer = server
        .sql_with(&json!({"sql": "SELECT repo, ts, added FROM commit_rows ORDER BY added LIMIT 1", "wait": position}))
        .json();
    assert_eq!(answer["columns"][1], json!({"name": "ts", "type": "timestamptz"}));
    assert_eq!(answer["rows"], json!([["redb", "2017-07-14T02:40:00Z", 0]]));
    assert_eq!((&answer["row_count"], &answer["cut"]), (&json!(1), &json!("commits/0@99")));
    assert!(answer["elapsed_ms"].is_number());
    let rows = "SELECT repo, added FROM commit_rows ORDER BY added LIMIT 2";
    let as_format = |accept: &str| server.sql_as(rows, accept);
    assert_eq!(as_format("text/csv"), b"repo,added\nredb,0\ntantivy,1\n");
    let lines = String::from_utf8(as_format("application/x-ndjson")).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [json!({"repo": "redb", "added": 0}), json!({"repo": "tantivy", "added": 1})]);
    let parquet = as_format("application/vnd.apache.parquet");
    assert!(parquet.starts_with(b"PAR1") && parquet.ends_with(b"PAR1"), "a whole Parquet file has its mark at both ends");
    let arrow = as_format("application/vnd.apache.arrow.stream");
    let end_of_stream = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert!(arrow.starts_with(&end_of_stream[..4]) && arrow.ends_with(&end_of_stream), "a whole Arrow stream says that it ends");
    let several = server.sql("SELECT 1 AS a; SELECT 2 AS b");
    assert_eq!(several["results"][1]["rows"], json!([[2]]));
    let written = server.sql("CREATE TABLE t (id BIGINT PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    let written = &written["results"][1];
    assert_eq!((&written["affected"], &written["position"]), (&json!(2), &json!("_tables/0@1")));
}

#[test]
fn operators_see_what_they_need() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql(VIEWS);
    let _ = server.append("commits", &commit_lines(0..10));
    let metrics = server.get("/metrics").body;
    for part in ["commits", "commit_docs", "lag"] {
        assert!(metrics.contains(part), "{part} in {metrics}");
    }
    assert_eq!((server.get("/healthz").status, server.get("/readyz").status), (200, 200));
    let page = server.get("/");
    assert!(page.status == 200 && page.body.contains("Headwater"));
    let openapi = server.get("/openapi.json").json();
    assert!(openapi["paths"]["/v1/sql"]["post"].is_object());
    let streams = server.get("/v1/streams").json();
    assert!(streams.to_string().contains("\"committed\":10"), "{streams}");
    let view = server.get("/v1/views/commit_rows").json();
    assert_eq!((&view["kind"], &view["stream"], &view["dead_letters"]), (&json!("row"), &json!("commits"), &json!(0)));
}

#[test]
fn configuration_comes_from_file_environment_and_flags() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("headwater.toml");
    std::fs::write(&file, "[log]\nmemory_bytes_max = \"64MiB\"\n").unwrap();
    let shown = Command::new(binary())
        .args(["config", "--config", file.to_str().unwrap(), "--http", "127.0.0.1:9999"])
        .env("HEADWATER_LOG_SEGMENT_BYTES", "32MiB")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    for part in ["127.0.0.1:9999", "64MiB", "32MiB"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    std::fs::write(&file, "[log]\nmemory_byte_max = \"64MiB\"\n").unwrap();
    let wrong = headwater(&["config", "--config", file.to_str().unwrap()]);
    assert_ne!(wrong.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("memory_bytes_max"), "{wrong:?}");
}

fn git(dir: &std::path::Path, arguments: &[&str]) {
    let identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "init.defaultBranch=main"];
    let status = Command::new("git").current_dir(dir).args(identity).args(arguments).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "git {arguments:?}");
}

#[test]
fn the_demo_runs_its_six_queries_on_a_repository() {
    let repository = tempfile::tempdir().unwrap();
    git(repository.path(), &["init", "-q"]);
    for n in 0..30 {
        std::fs::write(repository.path().join(format!("file{}.txt", n % 4)), "line\n".repeat(n + 1)).unwrap();
        git(repository.path(), &["add", "."]);
        git(repository.path(), &["commit", "-q", "-m", &format!("Fix test number {n}\n\nWith a body about fsync.")]);
    }
    let output = headwater(&["demo", "--repo", repository.path().to_str().unwrap(), "--http", "127.0.0.1:0", "--exit"]);
    let (text, talk) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{text}\n{talk}");
    for query in 1..=6 {
        assert!(text.lines().any(|line| line.starts_with(&format!("{query}. "))), "query {query} in {text}");
    }
    assert!(text.to_lowercase().contains("rebuild") && text.contains("30"), "{text}");
}

/// A body that means nothing is read all the same: the connection goes on with the next request.
#[test]
fn a_body_that_nobody_needs_does_not_end_the_connection() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql("CREATE TABLE t (id BIGINT PRIMARY KEY)");
    let address = server.url.strip_prefix("http://").unwrap();
    for path in ["/v1/sessions", "/v1/views/t/rebuild"].iter().cycle().take(30) {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(socket, "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n")
            .unwrap();
        socket.flush().unwrap();
        write!(socket, "{{}}GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answers = String::new();
        socket.read_to_string(&mut answers).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{path}: {answers}");
        assert!(answers.ends_with(r#"{"status":"ok"}"#), "{path}: {answers}");
    }
}
