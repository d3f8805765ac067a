//! `headwater inspect` on the folder of a server that runs, that was killed, and on what is no part of one: exit codes 0, 1 and 2.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Output;

use headwater_tests::{Server, commit_lines, headwater};
use serde_json::Value;

fn inspect(words: &[&str], path: &Path) -> (Option<i32>, String, String) {
    let arguments: Vec<&str> = ["inspect"].iter().chain(words).copied().chain([path.to_str().unwrap()]).collect();
    let Output { status, stdout, stderr } = headwater(&arguments);
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The newest segment of the first user's stream.
fn segment(data: &Path) -> PathBuf {
    let folder = data.join("log/16/0");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).max().unwrap()
}

#[test]
fn a_log_is_shown_beside_its_server_and_after_it_was_killed() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let _ = server.sql("CREATE STREAM commits");
    for part in 0..3 {
        let lines = commit_lines(part * 100..(part + 1) * 100);
        assert_eq!(server.post("/v1/streams/commits/records", "application/x-ndjson", lines.as_bytes()).status, 200);
    }

    // The server holds the lock; looking takes none.
    let path = segment(data.path());
    let before = std::fs::read(&path).unwrap();
    let (code, records, talk) = inspect(&["segment", "--records"], &path);
    assert_eq!((code, records.lines().count()), (Some(0), 300), "{talk}");
    assert!(talk.contains("damage    none"), "{talk}");
    let first: Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    assert_eq!(first["offset"], 0);
    let (code, catalog, talk) = inspect(&["catalog"], data.path());
    assert_eq!(code, Some(0), "{talk}");
    assert!(catalog.lines().any(|line| line.contains("\"stream_created\"") && line.contains("\"commits\"")), "{catalog}");

    server.kill();
    let (code, table, talk) = inspect(&["segment"], &path);
    assert_eq!((code, talk.as_str()), (Some(0), ""), "{table}");
    assert!(table.contains("records   300, offsets 0..300 (end exclusive)"), "{table}");
    assert!(std::fs::read(&path).unwrap() == before, "nothing was written");
}

#[test]
fn the_exit_code_tells_whole_damaged_and_absent_apart() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let _ = server.sql("CREATE STREAM commits");
    assert_eq!(server.post("/v1/streams/commits/records", "application/x-ndjson", commit_lines(0..400).as_bytes()).status, 200);
    assert_eq!(server.terminate(), Some(0));

    let path = segment(data.path());
    let (code, index, talk) = inspect(&["index"], &path.with_extension("idx"));
    assert_eq!((code, talk.as_str()), (Some(0), ""), "{index}");
    assert!(index.contains("yes, and the segment beside it agrees"), "{index}");

    let mut content = std::fs::read(&path).unwrap();
    content[200] ^= 1;
    std::fs::write(&path, content).unwrap();
    let (code, table, talk) = inspect(&["segment"], &path);
    assert_eq!((code, talk.as_str()), (Some(1), ""), "{table}");
    assert!(table.contains("damage    1 place\n") && table.contains("byte 0: the body's checksum does not match"), "{table}");
    // The folder is not changed by looking: the index is still there, and is right about where frames are.
    assert!(path.with_extension("idx").exists());

    for (words, path, part) in [
        (&["segment"][..], data.path().join("none.seg"), "there is no file"),
        (&["segment", "--records"], data.path().join("log/16/0"), "is a folder; name a file in it, such as"),
        (&["index"], data.path().join("none.idx"), "there is no file"),
        (&["catalog"], data.path().join("log"), "is not a data folder"),
        (&["segment", "--output", "csv"], path, "use table, json or ndjson"),
    ] {
        let (code, out, talk) = inspect(words, &path);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{words:?}: {talk}");
        assert!(talk.starts_with("error: ") && talk.contains(part), "{words:?}: {talk}");
    }
    assert_eq!(inspect(&["segmnt"], data.path()).0, Some(2));
}
