//! How soon a document is found: what a visible commit costs, and how old documents are when they show.

use std::time::{Duration, Instant};

use docstore::DocumentMaterializer;
use logcore::materialize::{Materializer, Rejects};

use crate::{Input, batch, folder, index, open, percentile};

const A_SECOND: u64 = 2_000;
const SECONDS: u64 = 10;
const REFRESH: Duration = Duration::from_millis(20);

fn apply(materializer: &mut DocumentMaterializer, documents: &[(String, String)]) {
    let batch = batch(materializer.next_offset(), documents);
    materializer.apply(&batch, &mut Rejects::default()).unwrap();
}

fn fresh_document(input: &Input, n: u64) -> (String, String) {
    let (_, json) = &input.documents[n as usize % input.documents.len()];
    (format!("fresh-{n}"), json.clone())
}

fn row(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |share: f64| percentile(&times, share).as_secs_f64() * 1e3;
    println!("| {what} | {} | {:.2} | {:.2} | {:.2} |", times.len(), ms(0.5), ms(0.99), ms(1.0));
}

pub(crate) fn measure(input: &Input) {
    let dir = folder("headwater");
    let (table, mut materializer) = open(dir.path());
    index(&mut materializer, input);
    println!("| fresh documents, ms | times | p50 | p99 | max |\n| --- | ---: | ---: | ---: | ---: |");
    let mut alone = Vec::new();
    let mut n = 0;
    for _ in 0..500 {
        apply(&mut materializer, &[fresh_document(input, n)]);
        n += 1;
        let started = Instant::now();
        materializer.make_visible().unwrap();
        alone.push(started.elapsed());
    }
    row("a visible commit of one document", alone);

    let (mut commits, mut ages, mut saves) = (Vec::new(), Vec::new(), Vec::new());
    let started = Instant::now();
    let (mut shown, mut next) = (0, REFRESH);
    let mut segments = 0;
    while shown < A_SECOND * SECONDS {
        std::thread::sleep(next.saturating_sub(started.elapsed()));
        let due = (started.elapsed().as_micros() as u64 * A_SECOND / 1_000_000).min(A_SECOND * SECONDS);
        let documents: Vec<_> = (shown..due).map(|at| fresh_document(input, n + at)).collect();
        apply(&mut materializer, &documents);
        let committed = Instant::now();
        materializer.make_visible().unwrap();
        commits.push(committed.elapsed());
        segments = segments.max(table.snapshot().segments());
        let now = started.elapsed();
        ages.extend((shown..due).map(|at| now.saturating_sub(Duration::from_micros(at * 1_000_000 / A_SECOND))));
        shown = due;
        next = now.max(next + REFRESH);
    }
    row(&format!("a visible commit each {} ms at {A_SECOND} documents/s", REFRESH.as_millis()), commits);
    row("age of a document when it is found", ages);
    for _ in 0..5 {
        let documents: Vec<_> = (0..200).map(|at| fresh_document(input, 1_000_000 + n + at)).collect();
        n += 200;
        for document in documents {
            apply(&mut materializer, &[document]);
            materializer.make_visible().unwrap();
        }
        let saving = Instant::now();
        materializer.checkpoint().unwrap();
        saves.push(saving.elapsed());
    }
    row("a checkpoint after 200 visible commits", saves);
    println!("\nSegments at most: {segments}\n");
}
