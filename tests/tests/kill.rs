//! `kill -9` at random moments of an import: nothing acknowledged is lost, doubled or reordered, and every view catches up by
//! itself and equals a rebuild.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater_tests::{Server, VIEWS, commit_line, commit_lines};
use serde_json::Value;

const KILLS: u64 = 20;
const BATCH: u64 = 40;

fn content(server: &Server, table: &str) -> Vec<Value> {
    let order = if table == "commit_docs" { "_id" } else { "1, 2, 3, 4" };
    server.rows(&format!("SELECT * FROM {table} ORDER BY {order}"))
}

#[test]
fn killed_at_twenty_moments_of_an_import() {
    let data = tempfile::tempdir().unwrap();
    let small = [("HEADWATER_LOG_SEGMENT_BYTES", "16MiB")];
    let mut server = Server::start_with(data.path(), &small);
    let _ = server.sql(VIEWS);
    // A commit's number is its offset, unless a batch was written whose acknowledgement the kill swallowed: it is sent again.
    let mut expected: Vec<u64> = Vec::new();
    for kill in 0..KILLS {
        let sent = AtomicU64::new(0);
        let pause = Duration::from_millis(40 + kill * 53 % 400);
        let from = expected.len() as u64;
        let mut next = from;
        std::thread::scope(|scope| {
            let (server, sent) = (&server, &sent);
            let sender = scope.spawn(move || {
                let mut acknowledged = Vec::new();
                loop {
                    let lines = commit_lines(next..next + BATCH);
                    let Some(reply) = server.try_post("/v1/streams/commits/records", "application/x-ndjson", lines.as_bytes())
                    else {
                        return acknowledged;
                    };
                    assert_eq!(reply.status, 200, "{}", reply.body);
                    let last: u64 = reply.json()["position"].as_str().unwrap().rsplit('@').next().unwrap().parse().unwrap();
                    acknowledged.push((last, next));
                    next += BATCH;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            let begun = Instant::now();
            while begun.elapsed() < pause || sent.load(Ordering::Relaxed) == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            // Sends the signal without waiting, so that the sender sees the connection break.
            let pid = server.pid().to_string();
            assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
            for (last, first) in sender.join().unwrap() {
                assert_eq!(last, expected.len() as u64 + BATCH - 1, "the acknowledged position is where the batch lies");
                expected.extend(first..first + BATCH);
            }
        });
        server.kill();
        server = Server::start_with(data.path(), &small);
        let stream = server.get("/v1/streams/commits").json();
        let committed = stream["partitions"][0]["committed"].as_u64().unwrap();
        assert!(committed >= expected.len() as u64, "{} acknowledged, {committed} there", expected.len());
        // The batch in flight may be there as a whole, or in the parts it was written in; never with a gap or out of order.
        let from = expected.len() as u64;
        expected.extend(from..committed);
        assert!(committed - from <= BATCH, "only the batch in flight may be there beyond what was acknowledged");
    }
    // Replay: every record once, in order, byte for byte.
    let mut offset = 0;
    while offset < expected.len() as u64 {
        let page =
            server.get(&format!("/v1/streams/commits/partitions/0/records?offset={offset}&limit=10000&max_bytes=4000000")).json();
        for record in page["records"].as_array().unwrap() {
            assert_eq!(record["offset"], offset);
            let n = expected[usize::try_from(offset).unwrap()];
            assert_eq!(record["value"], serde_json::from_str::<Value>(&commit_line(n)).unwrap());
            offset += 1;
        }
    }
    let position = format!("commits/0@{}", expected.len() - 1);
    for table in ["commit_rows", "commit_docs", "churn"] {
        let count = server.rows_at(&format!("SELECT count(*) FROM {table}"), &position);
        assert_eq!(count, [serde_json::json!([expected.len()])], "{table}");
        let grown = content(&server, table);
        let _ = server.sql(&format!("REBUILD VIEW {table}"));
        server.until("the rebuild", |server| server.get(&format!("/v1/views/{table}")).json()["generation"] == 2);
        assert!(content(&server, table) == grown, "{table} equals its rebuild");
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}
