//! Runs of the bench on small logs, and the check against readings that are wrong.

use clap::Parser;
use logcore::frame::Frame;
use logcore::{Offset, TimestampMillis};
use serde_json::Value;

use super::args::LogArgs;
use super::open::{Folder, open_log, open_partitions};
use super::payload::{Checker, Payload};
use super::run::measure;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: LogArgs,
}

fn args(line: &str) -> LogArgs {
    let words = std::iter::once("log").chain(line.split_whitespace());
    Line::try_parse_from(words).unwrap().args
}

fn run(line: &str) -> Value {
    let args = args(line);
    let report = measure(&args, &args.plan().unwrap(), &Folder::of(&args).unwrap()).unwrap();
    serde_json::to_value(&report).unwrap()
}

#[test]
fn what_is_appended_is_counted_and_verified() {
    for line in [
        "--partitions 2 --producers 2 --rate 100",
        "--partitions 3 --producers 2 --in-flight 4 --readers 2 --reader-lag-bytes 1KiB",
        "--producers 3 --compression zstd --readers 1",
        "--prebuilt --in-flight 1 --memory 64MiB",
    ] {
        let report = run(&format!("--record-bytes 100 --batch-bytes 1000 --seconds 0.1 --verify {line}"));
        let records = report["records"].as_u64().unwrap();
        assert!(records > 0 && records.is_multiple_of(10), "{line}: {report}");
        assert_eq!(report["verified_records"], records, "{line}");
        assert_eq!(report["batches"].as_u64().unwrap() * 10, records, "{line}");
        for name in ["records_per_second", "bytes_per_second", "p50_us", "p99_us", "p999_us", "max_us"] {
            assert!(report[name].as_f64().unwrap() > 0.0, "{line}: {name} in {report}");
        }
        for name in ["throttled", "refused"] {
            assert_eq!(report[name], 0, "{line}: {name}");
        }
        let readers = args(line).readers;
        assert_eq!(report["reader_records"].as_u64().unwrap_or(0), records * u64::from(readers), "{line}");
    }
}

#[test]
fn a_run_ends_when_its_bytes_are_appended() {
    let report = run("--record-bytes 1024 --batch-bytes 4096 --bytes 64KiB --seconds 600 --producers 2 --segment-bytes 64KiB");
    assert_eq!(report["records"], 64);
    assert_eq!(report["rotations"], 1);
    assert!(report["unsent"] == 0 && report["stored_bytes"].as_u64().unwrap() > 64 << 10);
}

#[test]
fn reads_are_measured_in_ram_and_from_the_files_of_a_log_that_was_not_closed() {
    let report = run("--bytes 4MiB --segment-bytes 1MiB --read --read-seconds 0.2 --verify");
    for name in
        ["read_ram_bytes_per_second", "read_file_bytes_per_second", "find_offset_per_second", "read_offset_per_second", "open_ms"]
    {
        assert!(report[name].as_f64().unwrap() > 0.0, "{name} in {report}");
    }
    assert_eq!(report["read_file_bytes"].as_u64().unwrap() / (1 << 20), 4);
}

#[test]
fn idle_partitions_are_created_and_opened_again() {
    let report = run("--partitions 20 --segment-bytes 64KiB --record-bytes 64 --batch-bytes 64 --idle");
    assert!(report["rss_bytes"].as_u64() > Some(0) && report["open_ms"].as_f64() > Some(0.0), "{report}");
    assert_eq!(report["partitions"], 20);
}

#[test]
fn what_can_not_be_run_is_refused_with_the_flag_and_the_remedy() {
    for (line, part) in [
        ("--ack quorum", "--ack \"quorum\" is not an acknowledgement class of this build; use memory or disk"),
        ("--record-bytes 3", "--record-bytes is 3, the least is 12"),
        ("--producers 0", "--partitions and --producers are at least 1"),
        ("--in-flight 0", "--in-flight is 0"),
        ("--rate nan", "--rate is NaN"),
        ("--seconds 0", "--seconds is 0"),
        ("--compression rar", "use none or zstd"),
        ("--disk-io floppy", "--disk-io: \"floppy\" is not a disk backend"),
    ] {
        let error = args(line).plan().unwrap_err().to_string();
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn readings_that_are_not_what_was_appended_are_noticed() {
    let args = args("--record-bytes 64 --batch-bytes 128");
    let plan = args.plan().unwrap();
    let folder = Folder::of(&args).unwrap();
    let log = open_log(&folder, &args, &plan).unwrap();
    let partition = open_partitions(&log, &args, &plan).unwrap().remove(0);
    let payload = Payload::new(&plan, false);
    let mut value = payload.value(0);
    // The batch of numbers 4 and 5 comes again as the last.
    for first in [0, 2, 4, 4] {
        let proposal = logcore::Proposal::new(payload.batch(&mut value, first, TimestampMillis::new(0))).unwrap();
        partition.try_append(proposal).unwrap().wait().unwrap();
    }
    let frames = partition.read(Offset::ZERO, 1 << 20).unwrap();
    assert_eq!(frames.len(), 4);
    let checked = |frames: &[&Frame]| {
        let frames: Vec<Frame> = frames.iter().map(|frame| (*frame).clone()).collect();
        let mut checker = Checker::new(&payload, partition.id(), Offset::ZERO, 1);
        checker.take(&frames).map(|()| checker.seen.records).map_err(|error| format!("{error:#}"))
    };
    assert_eq!(checked(&[&frames[0], &frames[1], &frames[2]]), Ok(6));
    for (reading, part) in [
        (vec![&frames[0], &frames[2]], "offset 2 was due, 4 came"),
        (vec![&frames[0], &frames[0]], "offset 2 was due, this was read before"),
        (vec![&frames[1], &frames[0]], "offset 0 was due, 2 came"),
        (vec![&frames[0], &frames[1], &frames[2], &frames[3]], "number 6 of producer 0 was due, 4 came"),
    ] {
        let error = checked(&reading).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let mut damaged = frames[0].body.to_vec();
    // In front of the last byte, which says that there are no headers.
    let last_of_value = damaged.len() - 2;
    damaged[last_of_value] ^= 1;
    let damaged = Frame { header: frames[0].header, body: damaged.into() };
    let error = checked(&[&damaged]).unwrap_err();
    assert!(error.contains("the record at offset 1: the value is not what producer 0 appended as number 1"), "{error}");
    drop(partition);
    log.close().unwrap();
}
