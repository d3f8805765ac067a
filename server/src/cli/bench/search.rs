//! `headwater bench search`: how fast documents are indexed, found while they come in, and searched, in this process.
//!
//! Documents are lines of JSON with the texts `subject` and `body`, the facet `repo` and the time `ts`, from a file or made up. The
//! words that are looked for are words of the documents, so each search finds something.
//!
//! What is measured: documents a second until the last one is found; then, while documents come in at a rate, the time from the
//! append of one until a search that waits for it has found it; then searches one after the other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use router::{AppendRecord, Cut, Database, DatabaseOptions, SqlRequest};
use serde::Serialize;
use serde_json::{Value, json};

use super::random::Random;
use crate::cli::OutputFlags;
use crate::cli::demo::TemporaryFolder;
use crate::cli::histogram::Histogram;
use crate::cli::output::{self, Format};

const TIMEOUT: Duration = Duration::from_secs(120);
const BATCH: usize = 1_000;
/// Appends a second while documents come in.
const APPENDS_PER_SECOND: u32 = 50;
const TABLE: &str = "CREATE STREAM bench; CREATE TABLE documents USING document \
    WITH (search = 'subject, body', facets = 'repo, author', fields = 'ts:date') FROM STREAM bench";

/// `headwater bench search`.
#[derive(Args, Clone, Debug)]
pub struct SearchArgs {
    /// Lines of JSON with `subject`, `body`, `repo` and `ts`; made up if none is named
    #[arg(long, value_name = "FILE")]
    documents: Option<PathBuf>,
    /// Documents to make up
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    count: u64,
    /// Searches of each kind
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    searches: u32,
    /// Documents a second that come in while one after the other is looked for
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    rate: u32,
    /// How long they come in
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    seconds: f64,
    #[command(flatten)]
    output: OutputFlags,
}

/// Figures of one kind of search.
#[derive(Debug, Serialize)]
struct Figures {
    what: &'static str,
    count: u64,
    p50_us: f64,
    p99_us: f64,
}

/// Figures of a run.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    documents: usize,
    documents_per_second: f64,
    rate: u32,
    /// From the append of a document until it is found.
    found_p50_ms: f64,
    found_p99_ms: f64,
    searches: Vec<Figures>,
}

struct Bench {
    database: Database,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn append(&self, documents: &[String]) -> Result<Cut> {
        let record = |json: &String| AppendRecord { value: Some(json.clone().into()), ..AppendRecord::default() };
        let records = documents.iter().map(record).collect();
        let appended = self.runtime.block_on(self.database.append("bench", records, Instant::now() + TIMEOUT));
        Ok(appended.map_err(|failed| failed.error)?)
    }

    fn search(&self, request: Value, wait: &Cut) -> Result<u64> {
        let search = self.database.search("documents", request, wait, Instant::now() + TIMEOUT, |answer| Ok(answer.total));
        Ok(self.runtime.block_on(search)?.0)
    }
}

/// Runs the benchmark.
pub fn run(args: &SearchArgs) -> Result<()> {
    ensure!(
        args.searches > 0 && args.rate >= APPENDS_PER_SECOND,
        "--searches is at least 1, --rate at least {APPENDS_PER_SECOND}"
    );
    ensure!(args.seconds.is_finite() && args.seconds > 0.0, "--seconds is more than 0");
    let documents = match &args.documents {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            text.lines().map(str::to_owned).collect()
        }
        None => made_up(args.count),
    };
    ensure!(!documents.is_empty(), "there are no documents");
    let folder = TemporaryFolder::create("headwater-bench")?;
    let options = DatabaseOptions { data: folder.path().to_owned(), ..DatabaseOptions::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bench = Bench { database: Database::open(options)?, runtime };
    let request =
        SqlRequest { sql: TABLE.into(), params: Vec::new(), wait: Cut::new(), deadline: Instant::now() + TIMEOUT, session: None };
    bench.runtime.block_on(bench.database.sql(request))?;

    let begun = Instant::now();
    let mut last = Cut::new();
    for batch in documents.chunks(BATCH) {
        last = bench.append(batch)?;
    }
    ensure!(bench.search(json!({"size": 0}), &last)? == documents.len() as u64, "the index does not have all documents");
    let seconds = begun.elapsed().as_secs_f64();
    let found = fresh(&bench, args, &documents)?;
    let searches = searches(&bench, args, &documents)?;
    bench.database.close()?;
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let documents_per_second = documents.len() as f64 / seconds;
    let report = Report {
        bench: "search",
        documents: documents.len(),
        documents_per_second,
        rate: args.rate,
        found_p50_ms: found.micros(500) / 1e3,
        found_p99_ms: found.micros(990) / 1e3,
        searches,
    };
    match args.output.output {
        Format::Json => output::print(&format!("{:#}\n", serde_json::to_value(&report)?)),
        _ => output::print(&text(&report)),
    }
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{} documents at {:.0} per s; found {:.1} ms after the append (p99 {:.1} ms) while {} per s come in\n",
        report.documents, report.documents_per_second, report.found_p50_ms, report.found_p99_ms, report.rate
    );
    for Figures { what, count, p50_us, p99_us } in &report.searches {
        text += &format!("{what}: p50 {p50_us:.0} us, p99 {p99_us:.0} us ({count})\n");
    }
    text
}

/// Documents come in at a rate, and one of each append is waited for.
fn fresh(bench: &Bench, args: &SearchArgs, documents: &[String]) -> Result<Histogram> {
    let per_append = usize::try_from(args.rate / APPENDS_PER_SECOND)?;
    let pause = Duration::from_secs(1) / APPENDS_PER_SECOND;
    let (begun, mut found) = (Instant::now(), Histogram::default());
    let mut at = 0;
    for n in 0.. {
        let due = begun + pause * n;
        if due.duration_since(begun).as_secs_f64() >= args.seconds {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut batch: Vec<String> = (0..per_append).map(|n| documents[(at + n) % documents.len()].clone()).collect();
        at += per_append;
        let marked = format!("marked{n}");
        batch[0] = json!({"subject": marked, "body": "", "repo": "bench", "ts": 0}).to_string();
        let appended = Instant::now();
        let position = bench.append(&batch)?;
        let total = bench.search(json!({"query": {"match": {"subject": marked}}}), &position)?;
        ensure!(total == 1, "a search that waited for {position} did not find its document");
        found.record(appended.elapsed());
    }
    Ok(found)
}

/// Searches of each kind, one after the other.
fn searches(bench: &Bench, args: &SearchArgs, documents: &[String]) -> Result<Vec<Figures>> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut runs = Vec::new();
    // Two words in a row of some document, the same for each kind of search.
    while runs.len() < 200 {
        let place = usize::try_from(random.below(documents.len() as u64))?;
        let document: Value = serde_json::from_str(&documents[place])?;
        let words: Vec<String> = document["body"]
            .as_str()
            .unwrap_or_default()
            .split(|char: char| !char.is_alphanumeric())
            .filter(|word| word.len() > 2)
            .map(str::to_lowercase)
            .collect();
        if words.len() >= 2 {
            let start = usize::try_from(random.below(words.len() as u64 - 1))?;
            runs.push((words[start].clone(), words[start + 1].clone()));
        } else if documents.len() < 10 {
            bail!("the documents have no words in `body`");
        }
    }
    type Request = fn(&str, &str) -> Value;
    let kinds: [(&str, Request); 8] = [
        ("one word, top 10", |a, _| json!({"query": {"match": {"body": a}}})),
        ("either of two words, top 10", |a, b| json!({"query": {"match": {"body": format!("{a} {b}")}}})),
        ("both words, top 10", |a, b| json!({"query": {"match": {"body": {"query": format!("{a} {b}"), "operator": "and"}}}})),
        ("phrase, top 10", |a, b| json!({"query": {"match_phrase": {"body": format!("{a} {b}")}}})),
        ("prefix, top 10", |a, _| json!({"query": {"prefix": {"body": &a[..a.floor_char_boundary(3)]}}})),
        ("count of one word", |a, _| json!({"query": {"match": {"body": a}}, "size": 0})),
        ("newest 10 with a word", |a, _| json!({"query": {"match": {"body": a}}, "sort": [{"ts": "desc"}]})),
        ("one word, counts by repo", |a, _| json!({"query": {"match": {"body": a}}, "facets": ["repo"]})),
    ];
    let mut figures = Vec::new();
    for (what, request) in kinds {
        let mut latencies = Histogram::default();
        for n in 0..args.searches as usize {
            let (one, other) = &runs[n % runs.len()];
            let request = request(one, other);
            let begun = Instant::now();
            bench.search(request, &Cut::new())?;
            latencies.record(begun.elapsed());
        }
        figures.push(Figures { what, count: latencies.total(), p50_us: latencies.micros(500), p99_us: latencies.micros(990) });
    }
    Ok(figures)
}

/// Documents of words that are as unequal as those of a language.
fn made_up(count: u64) -> Vec<String> {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let mut words = |count: u64| -> String {
        let word = |_| {
            // The n-th word comes about as often as one n-th of the first.
            let range = 1 << (1 + random.below(14));
            format!("word{}", random.below(range))
        };
        (0..count).map(word).collect::<Vec<_>>().join(" ")
    };
    let mut document = |n: u64| {
        let (subject, body) = (words(7), words(20 + n % 60));
        json!({"subject": subject, "body": body, "repo": format!("repo{}", n % 12), "author": format!("a{}", n % 500), "ts": n * 60})
    };
    (0..count).map(|n| document(n).to_string()).collect()
}
