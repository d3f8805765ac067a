//! This crate beside plain tantivy, on the same documents: indexing, searching, and how soon a document is found.
//!
//! `HEADWATER_DOCUMENTS=commits.ndjson cargo bench -p docstore` prints Markdown tables; the file has one JSON object a line, with
//! `commit`, `subject`, `body`, `repo`, `author` and `ts` (`-- FILE` does as well). tantivy gets the schema that this crate makes
//! of the mapping, one indexing thread and the same memory; it searches the very index that this crate wrote.
//! `HEADWATER_BENCH_DIR` is the folder to write into. `-- index`, `-- search` and `-- fresh` run a part.
//!
//! # What is compared
//! This crate replaces documents by id and answers with totals, ids and documents as text; plain tantivy only adds, and is measured
//! without and with the total. Both read the documents of their hits; tantivy keeps a hundred unpacked blocks of them for each
//! segment, this crate a third of that.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measurement on real files and clocks: it panics to fail, and prints"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use docstore::{Analyzer, DocumentMaterializer, DocumentOptions, DocumentTable, Mapping, SearchField, SourceDocument};
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::sys::fs::tree_bytes;
use logcore::{Batch, BatchBuilder, Compression, NewRecord, Offset, Term};
use serde_json::Value;

mod fresh;
mod raw;
mod search;

const BATCH: usize = 500;
const RUNS: usize = 3;

struct Plain;

impl Projection<Vec<SourceDocument>> for Plain {
    fn project(&mut self, batch: &Batch, from: Offset, _: &mut Rejects) -> Result<Vec<SourceDocument>, ViewError> {
        let mut documents = Vec::new();
        for record in batch.records() {
            let record = record?;
            if record.offset >= from {
                let id = String::from_utf8(record.key.unwrap_or_default().to_vec())?;
                documents.push(SourceDocument::new(record.offset, id, record.value.map(<[u8]>::to_vec)));
            }
        }
        Ok(documents)
    }
}

/// The documents, as id and JSON.
struct Input {
    documents: Vec<(String, String)>,
}

impl Input {
    fn read(path: &str) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let document = |line: &str| {
            let value: Value = serde_json::from_str(line).unwrap();
            (format!("{}/{}", value["repo"].as_str().unwrap(), value["commit"].as_str().unwrap()), line.to_owned())
        };
        Self { documents: text.lines().map(document).collect() }
    }
}

fn mapping() -> Mapping {
    let field = |path: &str| SearchField { path: path.to_owned(), analyzer: Analyzer::Standard };
    Mapping {
        key: "commit".to_owned(),
        search: vec![field("subject"), field("body")],
        facets: ["repo", "author", "ts"].map(str::to_owned).to_vec(),
        ..Mapping::default()
    }
}

fn batch(base: Offset, documents: &[(String, String)]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (id, json) in documents {
        builder.push(&NewRecord { key: Some(id.as_bytes()), value: Some(json.as_bytes()), ..NewRecord::default() });
    }
    let mut raw = builder.finish(Compression::None);
    logcore::frame::batch::set_place(&mut raw, base, Term::new(1));
    Batch::open(&raw.into()).unwrap()
}

fn open(dir: &std::path::Path) -> (DocumentTable, DocumentMaterializer) {
    DocumentTable::open(dir, mapping(), Box::new(Plain), DocumentOptions::default()).unwrap()
}

fn folder(name: &str) -> tempfile::TempDir {
    let parent = std::env::var_os("HEADWATER_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new().prefix(name).tempdir_in(parent).unwrap()
}

/// Indexes everything and makes it durable; how long it took.
fn index(materializer: &mut DocumentMaterializer, input: &Input) -> Duration {
    let mut base = Offset::ZERO;
    let mut batches = Vec::new();
    for part in input.documents.chunks(BATCH) {
        batches.push(batch(base, part));
        base = base.advance(part.len() as u64);
    }
    let started = Instant::now();
    for batch in &batches {
        materializer.apply(batch, &mut Rejects::default()).unwrap();
    }
    materializer.checkpoint().unwrap();
    started.elapsed()
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

fn indexing(input: &Input) {
    let count = input.documents.len() as f64;
    let best = |run: &dyn Fn() -> (Duration, u64)| (0..RUNS).map(|_| run()).min().unwrap();
    let (ours, our_bytes) = best(&|| {
        let dir = folder("headwater");
        let took = index(&mut open(dir.path()).1, input);
        (took, tree_bytes(dir.path()).unwrap())
    });
    let (plain, plain_bytes) = best(&|| raw::index(input));
    println!("| indexing {count} documents, best of {RUNS} | documents/s | MB on the disk |\n| --- | ---: | ---: |");
    let row = |who, took: Duration, bytes| println!("| {who} | {:.0} | {:.1} |", count / took.as_secs_f64(), bytes as f64 / 1e6);
    row("this crate", ours, our_bytes);
    row("tantivy", plain, plain_bytes);
    println!("\nShare of tantivy's rate: {:.0} %\n", 100.0 * plain.as_secs_f64() / ours.as_secs_f64());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let parts = ["index", "search", "fresh"];
    let file = arguments.iter().find(|argument| !parts.contains(&argument.as_str()));
    let Some(file) = file.cloned().or_else(|| std::env::var("HEADWATER_DOCUMENTS").ok()) else {
        println!("HEADWATER_DOCUMENTS names no file of documents, one JSON object a line: nothing to measure");
        return;
    };
    let input = Input::read(&file);
    let wanted = |part: &str| {
        arguments.iter().any(|argument| argument == part) || !arguments.iter().any(|argument| parts.contains(&argument.as_str()))
    };
    if wanted("index") {
        indexing(&input);
    }
    if wanted("search") {
        search::compare(&input);
    }
    if wanted("fresh") {
        fresh::measure(&input);
        fresh::through_the_log(&input);
    }
}
