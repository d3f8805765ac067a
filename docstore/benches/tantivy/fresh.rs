//! How soon a document is found: what a visible commit costs, how old documents are when they show, and the whole way from an
//! append to the log until a reader finds it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use docstore::DocumentMaterializer;
use logcore::materialize::{Driver, DriverOptions, Materializer, Rejects, Task, TaskOptions};
use logcore::{BatchBuilder, Compression, Log, LogOptions, NewRecord, Offset, Partition, PartitionRef, Proposal, StreamId};

use crate::{Input, batch, folder, index, open, percentile};

const A_SECOND: u64 = 2_000;
const SECONDS: u64 = 10;
const REFRESH: Duration = Duration::from_millis(20);
/// Documents in one append.
const APPENDED: u64 = 10;
/// Often enough that several checkpoints fall into the time measured.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(3);

fn apply(materializer: &mut DocumentMaterializer, documents: &[(String, String)]) {
    let batch = batch(materializer.next_offset(), documents);
    materializer.apply(&batch, &mut Rejects::default()).unwrap();
}

fn fresh_document(input: &Input, n: u64) -> (String, String) {
    let (_, json) = &input.documents[n as usize % input.documents.len()];
    (format!("fresh-{n}"), json.clone())
}

fn row(what: &str, mut times: Vec<Duration>) {
    if times.is_empty() {
        return;
    }
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
        alone.push((table.snapshot().segments(), started.elapsed()));
    }
    let among = |from: usize, to: usize| {
        alone.iter().filter(move |(segments, _)| (from..to).contains(segments)).map(|(_, time)| *time).collect()
    };
    row("a visible commit of one document", among(0, usize::MAX));
    row("of these with less than 6 segments", among(0, 6));
    row("of these with 6 to 11 segments", among(6, 12));
    row("of these with 12 segments and more", among(12, usize::MAX));

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

fn append(partition: &Partition, documents: &[(String, String)]) -> Offset {
    let mut builder = BatchBuilder::new();
    for (id, json) in documents {
        builder.push(&NewRecord { key: Some(id.as_bytes()), value: Some(json.as_bytes()), ..NewRecord::default() });
    }
    let proposal = Proposal::from_records(builder, Compression::None).unwrap();
    partition.try_append(proposal).unwrap().wait().unwrap().end_offset()
}

/// Appends at a steady rate; what was appended, and when it was acknowledged.
fn produce(partition: &Partition, input: &Input, from: u64, mut appended: impl FnMut(Offset, Instant)) {
    let started = Instant::now();
    for n in 0..A_SECOND * SECONDS / APPENDED {
        let due = Duration::from_micros(n * APPENDED * 1_000_000 / A_SECOND);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        let documents: Vec<_> = (0..APPENDED).map(|at| fresh_document(input, from + n * APPENDED + at)).collect();
        let end = append(partition, &documents);
        appended(end, Instant::now());
    }
}

async fn found(task: &Task, end: Offset) {
    task.visible_to(end, Instant::now() + Duration::from_secs(60)).await.unwrap();
}

/// From the acknowledgement of an append until its documents are found, through the log and its driver.
pub(crate) fn through_the_log(input: &Input) {
    let dir = folder("headwater");
    let log = Log::open(&dir.path().join("log"), LogOptions::default()).unwrap();
    let partition = log.open_partition(PartitionRef::new(StreamId::FIRST_USER, 0)).unwrap();
    let driver = Driver::start(DriverOptions { checkpoint_interval: CHECKPOINT_INTERVAL, ..DriverOptions::default() }).unwrap();
    let view = dir.path().join("view");
    let (_table, materializer) = open(&view);
    let options = TaskOptions { refresh: Some(REFRESH), ..TaskOptions::default() };
    let task: Arc<Task> = driver.attach("documents", &partition, Box::new(materializer), &view, options).unwrap();
    let mut end = Offset::ZERO;
    for part in input.documents.chunks(500) {
        end = append(&partition, part);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(found(&task, end));
    println!(
        "| from append to found, ms, {A_SECOND} documents/s | times | p50 | p99 | max |\n| --- | ---: | ---: | ---: | ---: |"
    );
    let runs = [
        ("a reader waits for each append, merges of the load under way", true),
        ("shown by a refresh of 20 ms", false),
        ("a reader waits for each append", true),
    ];
    for (what, waits) in runs {
        let (send, appended) = std::sync::mpsc::channel::<(Offset, Instant)>();
        let times = std::thread::scope(|scope| {
            let (task, runtime) = (&task, &runtime);
            let watching = scope.spawn(move || {
                let mut times = Vec::new();
                let mut tasks = Vec::new();
                for (end, since) in appended {
                    let task = Arc::clone(task);
                    if waits {
                        tasks.push(runtime.spawn(async move {
                            found(&task, end).await;
                            since.elapsed()
                        }));
                        continue;
                    }
                    while task.visible() < end {
                        std::thread::sleep(Duration::from_micros(300));
                    }
                    times.push(since.elapsed());
                }
                times.extend(tasks.into_iter().map(|task| runtime.block_on(task).unwrap()));
                times
            });
            let from = task.applied().value();
            produce(&partition, input, from, |end, at| send.send((end, at)).unwrap());
            drop(send);
            watching.join().unwrap()
        });
        row(what, times);
    }
    println!();
    driver.stop();
}
