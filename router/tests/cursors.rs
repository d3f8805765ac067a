//! Cursors through the facade, over what a crash or a newer release may leave in `_cursors`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::options;
use logcore::cursor::{Commit, Cursors};
use logcore::{BatchBuilder, Compression, ErrorKind, Log, NewRecord, Offset, PartitionRef, Proposal, StreamId};
use router::Database;

/// Opens the log of a folder that no database serves, and stops it in order.
fn with_log<T>(dir: &Path, work: impl FnOnce(&Log) -> T) -> T {
    let log = Log::open(dir, options(dir).log).unwrap();
    let done = work(&log);
    log.close().unwrap();
    done
}

fn cursors(log: &Log) -> Cursors {
    Cursors::open(log.open_partition(PartitionRef::new(StreamId::CURSORS, 0)).unwrap()).unwrap()
}

#[test]
fn cursors_of_streams_that_are_gone_are_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    Database::open(options(dir.path())).unwrap().close().unwrap();
    // As a stop between dropping a stream and removing its cursors leaves it.
    with_log(dir.path(), |log| {
        let of = log.open_partition(PartitionRef::new(StreamId::new(40), 3)).unwrap();
        let cursors = cursors(log);
        let queue = |proposal| cursors.log().try_append(proposal);
        let deadline = Instant::now() + Duration::from_secs(60);
        cursors.commit(&of, "left", Commit::to(Offset::ZERO), queue, deadline).unwrap();
    });
    let database = Database::open(options(dir.path())).unwrap();
    assert_eq!(database.cursors(None).unwrap(), []);
    assert!(database.not_ready().is_empty());
    database.close().unwrap();
    drop(database);
    assert!(with_log(dir.path(), |log| cursors(log).list()).is_empty(), "not only hidden");
}

#[test]
fn cursors_that_do_not_open_leave_the_rest_serving() {
    let dir = tempfile::tempdir().unwrap();
    Database::open(options(dir.path())).unwrap().close().unwrap();
    with_log(dir.path(), |log| {
        let mut batch = BatchBuilder::new();
        batch.push(&NewRecord { key: Some(b"c/16/0"), value: Some(br#"{"epoch":1}"#), ..NewRecord::default() });
        let partition = log.open_partition(PartitionRef::new(StreamId::CURSORS, 0)).unwrap();
        partition.try_append(Proposal::from_records(batch, Compression::None).unwrap()).unwrap().wait().unwrap();
    });
    let database = Database::open(options(dir.path())).unwrap();
    assert!(database.not_ready().iter().any(|wait| wait.contains("the cursors did not open")), "{:?}", database.not_ready());
    let error = database.cursors(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("use the release that wrote it"), "{error}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let commit = database.commit_cursor("c", "_catalog", 0, Commit::to(Offset::ZERO), deadline);
    assert_eq!(runtime.block_on(commit).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(database.stream("_catalog").unwrap().partitions.len(), 1, "the rest serves");
    database.close().unwrap();
}
