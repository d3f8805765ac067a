//! The real binary with system calls that fail, and killed inside them: `strace` injects both.
//!
//! It runs with `--disk-io pool`, whose calls can be met: what io_uring is given passes no system call. A container may forbid
//! `ptrace`; then nothing can be injected, and the tests say so and end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
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

/// A system call that ended well: its name, the paths in it, and the numbers of the lines where it begins and ends.
struct Call {
    name: String,
    paths: Vec<String>,
    begins: usize,
    ends: usize,
}

/// The calls of a trace with threads, in which one that is interrupted by another thread's is shown in two parts.
fn calls_of(trace: &str) -> Vec<Call> {
    let (mut under_way, mut calls) = (HashMap::<&str, (String, usize)>::new(), Vec::new());
    for (line, text) in trace.lines().enumerate() {
        let (thread, call) = text.trim().split_once(' ').unwrap();
        let call = call.trim();
        let (whole, begins) = if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            under_way.insert(thread, (begun.to_owned(), line));
            continue;
        } else if call.starts_with("<...") {
            let Some((begun, begins)) = under_way.remove(thread) else { continue };
            (begun + call.split_once("resumed>").unwrap().1, begins)
        } else {
            (call.to_owned(), line)
        };
        let Some((name, rest)) = whole.split_once('(') else { continue };
        if rest.contains(") = -1") {
            continue;
        }
        // As arguments in quotes, or behind a descriptor.
        let paths = rest.split(['"', '<', '>']).filter(|part| part.starts_with('/')).map(str::to_owned).collect();
        calls.push(Call { name: name.to_owned(), paths, begins, ends: line });
    }
    calls
}

/// The classic miss: the first commit after a rotation, into a file that was never synced, or whose folder was not.
#[test]
fn a_new_segment_and_its_folder_are_synced_before_it_is_written_to() {
    if !may_trace() {
        return;
    }
    let (data, trace) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let calls = "trace=rename,renameat,renameat2,fsync,fdatasync,pwritev2,pwritev,pwrite64";
    let runner = ["strace", "-f", "-D", "-y", "--quiet=all", "-s", "0", "-o", trace.path().to_str().unwrap(), "-e", calls];
    let mut server = Server::start_under(&runner, data.path(), &SETTINGS).unwrap();
    let _ = server.sql("CREATE STREAM commits");
    let mut next = 0;
    let segments = || {
        let folder = data.path().join("log/16/0");
        std::fs::read_dir(folder)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "seg"))
            .count()
    };
    while next == 0 || segments() < 2 {
        let _ = server.append("commits", &commit_lines(next..next + 500));
        next += 500;
        assert!(next < 1_000_000, "the first segment never filled up");
    }
    let _ = server.append("commits", &commit_lines(next..next + 1));
    assert_eq!(server.terminate(), Some(0));
    let raw = std::fs::read_to_string(trace.path()).unwrap();
    let calls = calls_of(&raw);
    let is_made = |call: &&Call| call.name.starts_with("rename") && call.paths.iter().any(|path| path.ends_with(".seg"));
    let made: Vec<_> = calls.iter().filter(is_made).collect();
    assert!(made.len() > 2, "{raw}");
    for rename in made {
        let [from, to] = [&rename.paths[rename.paths.len() - 2], &rename.paths[rename.paths.len() - 1]];
        let folder = Path::new(to).parent().unwrap().to_str().unwrap();
        let first_write = calls.iter().filter(|call| call.name.starts_with("pwrite") && call.paths.iter().any(|path| path == to));
        let first_write = first_write.map(|call| call.begins).min().unwrap_or(usize::MAX);
        let synced = |path: &str, from: usize, until: usize| {
            calls.iter().any(|call| {
                call.name.ends_with("sync") && call.paths.iter().any(|of| of == path) && call.begins >= from && call.ends <= until
            })
        };
        assert!(synced(from, 0, rename.begins), "{from} was not synced before it became {to}: {raw}");
        assert!(
            synced(folder, rename.ends, first_write),
            "{folder} was not synced between the making of {to} and its first write: {raw}"
        );
    }
}
