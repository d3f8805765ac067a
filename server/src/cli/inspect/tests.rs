//! What `inspect` prints, word for word: the texts are in `golden/`. `UPDATE_GOLDEN=1` writes them anew; read the difference.

use std::path::{Path, PathBuf};

use clap::Parser;
use logcore::{
    BatchBuilder, Compression, Log, LogOptions, NewRecord, PartitionOptions, PartitionRef, Proposal, StreamId, TimestampMillis,
};
use serde_json::Value;

use super::{InspectArgs, NotAFile, show};
use crate::cli::demo::TemporaryFolder;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: InspectArgs,
}

/// What is printed, and whether everything is whole.
fn inspect(words: &[&str]) -> anyhow::Result<(String, bool)> {
    let args = Line::try_parse_from(["inspect"].iter().chain(words)).unwrap().args;
    let mut out = Vec::new();
    let whole = show(&args, &mut out)?;
    Ok((String::from_utf8(out).unwrap(), whole))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn golden(name: &str, printed: &str) {
    let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src/cli/inspect/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, printed).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(printed, expected, "golden/{name} is something else");
}

/// A partition with one segment or two, the same at every run, after a clean stop.
struct Written {
    folder: TemporaryFolder,
}

impl Written {
    fn new() -> Self {
        Self::with_batches(6)
    }

    fn with_batches(batches: u32) -> Self {
        let folder = TemporaryFolder::create("headwater-inspect-test").unwrap();
        let options = LogOptions {
            reserve_bytes: 0,
            partition: PartitionOptions { segment_bytes: 32 << 10, ..PartitionOptions::default() },
            ..LogOptions::default()
        };
        let log = Log::open(folder.path(), options).unwrap();
        let partition = log.open_partition(PartitionRef::new(StreamId::FIRST_USER, 0)).unwrap();
        for n in 0..batches {
            let mut builder = BatchBuilder::new();
            let values = [format!("{{\"n\": {n}}}\n").into_bytes(), vec![u8::try_from(n).unwrap(); 1_500]];
            for (at, value) in values.iter().enumerate() {
                let timestamp = TimestampMillis::new(i64::from(n) * 1_000 + i64::try_from(at).unwrap());
                let key = Some(&b"k"[..]).filter(|_| at == 0);
                let headers = [("from", Some(&b"a test"[..]))];
                builder.push(&NewRecord { key, value: Some(value), headers: &headers[..at], timestamp });
            }
            let proposal = Proposal::from_records(builder, Compression::None).unwrap();
            // One after the other, so that every batch is a write of its own.
            partition.try_append(proposal).unwrap().wait().unwrap();
        }
        drop(partition);
        log.close().unwrap();
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("log/16/0").join(name)
    }

    /// The first segment's twin, changed, under a segment's name.
    fn twin(&self, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut content = std::fs::read(self.file("00000000000000000000.seg")).unwrap();
        change(&mut content);
        let path = self.folder.path().join("00000000000000000000.seg");
        std::fs::write(&path, content).unwrap();
        path
    }
}

#[test]
fn a_whole_segment_is_printed_in_every_form() {
    let written = Written::new();
    let path = written.file("00000000000000000000.seg");
    for (form, name) in [("table", "whole.txt"), ("json", "whole.json"), ("ndjson", "whole.ndjson")] {
        let (printed, whole) = inspect(&["segment", text(&path), "--output", form]).unwrap();
        assert!(whole);
        golden(name, &printed);
        if form == "json" {
            let document: Value = serde_json::from_str(&printed).unwrap();
            assert_eq!(document["summary"]["records"], 12);
        }
        if form == "ndjson" {
            printed.lines().for_each(|line| assert!(serde_json::from_str::<Value>(line).unwrap().is_object()));
        }
    }
    let (printed, whole) = inspect(&["segment", "--records", text(&path)]).unwrap();
    assert!(whole);
    golden("records.ndjson", &printed);
    let identity = std::fs::read_to_string(written.folder.path().join("identity")).unwrap();
    let identity: Value = serde_json::from_str(&identity).unwrap();
    assert!(!printed.contains(identity["cluster"].as_str().unwrap()));
}

#[test]
fn a_sealed_segment_is_printed_with_its_footer() {
    let written = Written::with_batches(12);
    let (printed, whole) = inspect(&["segment", text(&written.file("00000000000000000000.seg"))]).unwrap();
    assert!(whole && printed.contains("sealed    yes"), "{printed}");
    golden("sealed.txt", &printed);
}

#[test]
fn damage_is_printed_with_its_place_and_what_it_means() {
    let written = Written::new();
    // A byte of the second batch's body, the header of the fourth flush frame, and something behind the end.
    let path = written.twin(|content| {
        content[4_096 + 200] ^= 1;
        content[3 * 4_096 + 1_664 + 20] ^= 0xff;
        content[30_000] = 1;
    });
    for (form, name) in [("table", "damaged.txt"), ("ndjson", "damaged.ndjson")] {
        let (printed, whole) = inspect(&["segment", text(&path), "--output", form]).unwrap();
        assert!(!whole);
        golden(name, &printed);
    }
    let (document, _) = inspect(&["segment", text(&path), "--output", "json"]).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["summary"]["damage"][0]["promised"], true);
    let (records, whole) = inspect(&["segment", "--records", text(&path)]).unwrap();
    assert!(!whole && records.lines().count() == 10 && !records.contains("\"n\": 1"), "{records}");

    // Cut off within the third batch.
    let path = written.twin(|content| content.truncate(2 * 4_096 + 100));
    let (printed, whole) = inspect(&["segment", text(&path)]).unwrap();
    assert!(!whole);
    golden("cut.txt", &printed);
}

#[test]
fn files_without_frames_are_told_apart() {
    let written = Written::new();
    let path = written.twin(|content| content.fill(0));
    let (printed, whole) = inspect(&["segment", text(&path)]).unwrap();
    assert!(whole);
    golden("empty.txt", &printed);
    let path =
        written.twin(|content| content.iter_mut().enumerate().for_each(|(at, byte)| *byte = u8::try_from(at % 251).unwrap()));
    let (printed, whole) = inspect(&["segment", text(&path)]).unwrap();
    assert!(!whole);
    golden("noise.txt", &printed);
    for (words, part) in [
        (["segment", text(&written.file(""))], "is a folder; name a file in it, such as"),
        (["segment", text(&written.folder.path().join("log"))], "is a folder; name a .seg file"),
        (["segment", "absent.seg"], "there is no file absent.seg; name a .seg file"),
        (["index", "absent.idx"], "there is no file absent.idx; name a .idx file"),
        (["catalog", text(&written.file(""))], "is not a data folder: there is no"),
    ] {
        let error = inspect(&words).unwrap_err();
        assert!(error.is::<NotAFile>() && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn an_index_is_printed_with_what_is_wrong() {
    let written = Written::new();
    let path = written.file("00000000000000000000.idx");
    let (printed, whole) = inspect(&["index", text(&path)]).unwrap();
    assert!(whole);
    golden("index.txt", &printed);
    let mut content = std::fs::read(&path).unwrap();
    content[72] ^= 1;
    std::fs::write(&path, content).unwrap();
    for (form, name) in [("table", "index-damaged.txt"), ("json", "index-damaged.json"), ("ndjson", "index-damaged.ndjson")] {
        let (printed, whole) = inspect(&["index", text(&path), "--output", form]).unwrap();
        assert!(!whole);
        golden(name, &printed);
    }
}
