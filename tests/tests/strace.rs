//! The real binary with system calls that fail, and killed inside them: `strace` injects both.
//!
//! It runs with `--disk-io pool`, whose calls can be met: what io_uring is given passes no system call. A container may forbid
//! `ptrace`; then nothing can be injected, and the tests say so and end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::{Command, Stdio};

use headwater_tests::{Server, commit_line, commit_lines};
use serde_json::Value;

/// The calls by which the pool makes something durable.
const CALLS: &str = "fdatasync,pwritev2";
const SETTINGS: [(&str, &str); 2] = [("HEADWATER_DISK_IO", "pool"), ("HEADWATER_LOG_SEGMENT_BYTES", "16MiB")];
const BATCH: u64 = 5;
const RECORDS: &str = "/v1/streams/commits/records";

/// Whether a process can be traced here; says why not.
fn may_trace() -> bool {
    let tried = Command::new("strace").args(["-f", "-D", "-o", "/dev/null", "true"]).stdin(Stdio::null()).output();
    let tried = tried.unwrap_or_else(|error| panic!("strace can't be run ({error}): install it, as scripts/test does"));
    if !tried.status.success() {
        eprintln!("skipped: this place forbids ptrace, so no error can be injected: {}", String::from_utf8_lossy(&tried.stderr));
    }
    tried.status.success()
}

/// Starts the server with `injected` happening to each thread's `nth` call that makes something durable.
fn start(data: &Path, trace: &Path, injected: &str, nth: u64) -> Result<Server, String> {
    let inject = format!("inject={CALLS}:{injected}:when={nth}");
    let calls = format!("trace={CALLS}");
    // The tracer is the grandchild: the process that is killed later is the server.
    let runner = ["strace", "-f", "-D", "--quiet=all", "-o", trace.to_str().unwrap(), "-e", &calls, "-e", &inject];
    Server::start_under(&runner, data, &SETTINGS)
}

/// The position after a batch that was acknowledged.
fn end_of(body: &Value) -> u64 {
    body["position"].as_str().unwrap().rsplit('@').next().unwrap().parse::<u64>().unwrap() + 1
}

/// Reads the stream from its start: the commits from 0 on, each once, byte for byte. Gives how many there are.
fn read_all(server: &Server) -> u64 {
    let mut offset = 0;
    loop {
        let page = server.get(&format!("/v1/streams/commits/partitions/0/records?offset={offset}&limit=10000"));
        assert_eq!(page.status, 200, "{}", page.body);
        let records = page.json()["records"].as_array().unwrap().clone();
        if records.is_empty() {
            return offset;
        }
        for record in records {
            assert_eq!(record["offset"], offset);
            assert_eq!(record["value"], serde_json::from_str::<Value>(&commit_line(offset)).unwrap());
            offset += 1;
        }
    }
}

/// A start without faults finds what was acknowledged, and goes on.
fn check_restart(data: &Path, acknowledged: u64) {
    let server = Server::start_with(data, &SETTINGS);
    let found = read_all(&server);
    assert!(found >= acknowledged, "{acknowledged} records were acknowledged, {found} are there");
    assert!(
        found <= acknowledged + BATCH,
        "only the batch in flight may be there beyond the {acknowledged} acknowledged: {found}"
    );
    let position = server.append("commits", &commit_lines(found..found + BATCH));
    assert_eq!(position, format!("commits/0@{}", found + BATCH - 1));
    assert_eq!(read_all(&server), found + BATCH);
}

#[test]
fn an_error_of_a_write_or_a_sync_fences_the_partition_and_reads_go_on() {
    if !may_trace() {
        return;
    }
    for nth in [30, 55] {
        let (data, trace) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let mut server = start(data.path(), trace.path(), "error=EIO", nth).unwrap();
        let _ = server.sql("CREATE STREAM commits");
        let mut acknowledged = 0;
        let error = loop {
            let reply = server.post(RECORDS, "application/x-ndjson", commit_lines(acknowledged..acknowledged + BATCH).as_bytes());
            if reply.status != 200 {
                break reply.error();
            }
            assert_eq!(end_of(&reply.json()), acknowledged + BATCH);
            acknowledged += BATCH;
            assert!(acknowledged < 5_000, "the {nth}th call of a thread never came");
        };
        let (status, _, kind, message) = error;
        assert_eq!((status, kind.as_str()), (503, "unavailable"), "{message}");
        assert!(message.contains("takes no more writes") && message.contains("restart"), "{message}");
        // The disk works again by now, and nobody knows what became of the pages.
        for _ in 0..5 {
            let again = server.post(RECORDS, "application/x-ndjson", commit_lines(acknowledged..acknowledged + BATCH).as_bytes());
            assert_eq!(again.error().0, 503);
        }
        assert_eq!(read_all(&server), acknowledged, "reads go on, and show what was acknowledged");
        let seen = std::fs::read_to_string(trace.path()).unwrap();
        assert!(seen.contains("(INJECTED)"), "{seen}");
        server.kill();
        drop(server);
        check_restart(data.path(), acknowledged);
    }
}

#[test]
fn killed_inside_a_write_or_a_sync() {
    if !may_trace() {
        return;
    }
    for nth in [20, 27, 34, 48, 71] {
        let (data, trace) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let mut server = start(data.path(), trace.path(), "signal=KILL", nth).unwrap();
        let _ = server.sql("CREATE STREAM commits");
        let mut acknowledged = 0;
        loop {
            let lines = commit_lines(acknowledged..acknowledged + BATCH);
            let Some(reply) = server.try_post(RECORDS, "application/x-ndjson", lines.as_bytes()) else { break };
            assert_eq!(reply.status, 200, "{}", reply.body);
            acknowledged = end_of(&reply.json());
            assert!(acknowledged < 5_000, "the {nth}th call of a thread never came");
        }
        server.kill();
        drop(server);
        check_restart(data.path(), acknowledged);
    }
}
