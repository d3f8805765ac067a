//! What a series takes on disk and how fast it is: a fleet of sensors, and a million series.
//!
//! `cargo bench -p tsstore` prints Markdown. One thread, files in the page cache. A point is one value of one field. What is measured
//! as ingest is `apply` of ready columns with all checkpoints and merges, on the same thread.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::print_stdout, reason = "a benchmark says what it found")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::datatypes::Float64Type;
use logcore::materialize::suite::batches;
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::sys::{clock::monotonic, fs, thread};
use logcore::{Batch, Offset};
use pco::ChunkConfig;
use pco::standalone::{simple_compress, simple_decompress_into};
use tsstore::{
    AggregateRequest, Buckets, FieldKind, LastRequest, Points, ScanOrder, ScanRequest, SeriesMaterializer, SeriesOptions,
    SeriesSchema, SeriesTable,
};

const START: i64 = 1_700_000_000_000_000;
const SECOND: i64 = 1_000_000;
const DAY_MILLIS: i64 = 86_400_000;
const HOSTS: u32 = 100;
const FIELDS: u32 = 10;
/// Three days of a reading every ten seconds.
const TICKS: u32 = 3 * 8640;
const TICKS_PER_RECORD: u32 = 20;
const SERIES: u32 = 1_000_000;
const SERIES_PER_RECORD: u32 = 10_000;
const UNSAVED_BYTES_MAX: u64 = 64 << 20;
const ROUNDS: u32 = 5;

/// Hands out points that are ready.
#[derive(Clone, Default)]
struct Ready(Arc<Mutex<VecDeque<RecordBatch>>>);

impl Ready {
    fn put(&self, columns: RecordBatch) {
        self.0.lock().expect("one thread").push_back(columns);
    }
}

impl Projection<Points> for Ready {
    fn project(&mut self, batch: &Batch, _: Offset, _: &mut Rejects) -> Result<Points, ViewError> {
        let columns = self.0.lock().expect("one thread").pop_front().ok_or("nothing is ready")?;
        Ok(Points { offsets: vec![batch.base_offset(); columns.num_rows()], columns })
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let high = u32::try_from(self.0 >> 33).expect("31 bits");
        high % end
    }
}

/// The readings of all hosts: four random walks in hundredths, two gauges that mostly stay, two counters, a level, a switch.
struct Fleet {
    random: Random,
    walks: Vec<[i32; 4]>,
    gauges: Vec<[i32; 2]>,
    counters: Vec<[i64; 2]>,
    levels: Vec<i64>,
    up: Vec<bool>,
    tick: u32,
}

impl Fleet {
    fn new() -> Self {
        let hosts = HOSTS as usize;
        Self {
            random: Random(7),
            walks: vec![[5000; 4]; hosts],
            gauges: vec![[2100, 4500]; hosts],
            counters: vec![[0; 2]; hosts],
            levels: vec![3; hosts],
            up: vec![true; hosts],
            tick: 0,
        }
    }

    fn next(&mut self) -> RecordBatch {
        let mut times = Vec::new();
        let mut hosts = Vec::new();
        let mut floats = vec![Vec::new(); 6];
        let mut integers = vec![Vec::new(); 3];
        let mut switches = Vec::new();
        for _ in 0..TICKS_PER_RECORD {
            for host in 0..HOSTS {
                let at = host as usize;
                // A hundredth of a second of jitter in one reading of fifty.
                let late = if self.random.below(50) == 0 { i64::from(self.random.below(10)) * 1000 } else { 0 };
                times.push(START + i64::from(self.tick) * 10 * SECOND + late);
                hosts.push(host);
                for (walk, out) in self.walks[at].iter_mut().zip(&mut floats) {
                    *walk += i32::try_from(self.random.below(61)).expect("small") - 30;
                    out.push(f64::from(*walk) / 100.0);
                }
                for (gauge, out) in self.gauges[at].iter_mut().zip(&mut floats[4..]) {
                    if self.random.below(10) == 0 {
                        *gauge += i32::try_from(self.random.below(21)).expect("small") - 10;
                    }
                    out.push(f64::from(*gauge) / 100.0);
                }
                for (counter, out) in self.counters[at].iter_mut().zip(&mut integers) {
                    *counter += i64::from(self.random.below(500));
                    out.push(*counter);
                }
                if self.random.below(100) == 0 {
                    self.levels[at] = i64::from(self.random.below(8));
                }
                integers[2].push(self.levels[at]);
                if self.random.below(1000) == 0 {
                    self.up[at] = !self.up[at];
                }
                switches.push(self.up[at]);
            }
            self.tick += 1;
        }
        let names = StringArray::from_iter_values((0..HOSTS).map(|host| format!("host-{host}")));
        let mut columns: Vec<(String, ArrayRef)> = vec![
            ("ts".into(), Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))),
            ("host".into(), Arc::new(DictionaryArray::new(UInt32Array::from(hosts), Arc::new(names)))),
        ];
        columns
            .extend(floats.into_iter().enumerate().map(|(n, v)| (format!("f{n}"), Arc::new(Float64Array::from(v)) as ArrayRef)));
        columns
            .extend(integers.into_iter().enumerate().map(|(n, v)| (format!("i{n}"), Arc::new(Int64Array::from(v)) as ArrayRef)));
        columns.push(("up".into(), Arc::new(BooleanArray::from(switches))));
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }
}

fn fleet_schema() -> SeriesSchema {
    let floats = (0..6).map(|n| (format!("f{n}"), FieldKind::Float));
    let integers = (0..3).map(|n| (format!("i{n}"), FieldKind::Integer));
    let fields = floats.chain(integers).chain([("up".to_owned(), FieldKind::Boolean)]).collect();
    SeriesSchema::new("ts", vec!["host".into()], fields, 7 * DAY_MILLIS)
}

/// One record a batch, from offset 0.
fn log(records: u32) -> Vec<Batch> {
    batches(&vec![(None, None); records as usize], 1)
}

/// The best of some rounds: others use the machine too.
fn best(mut run: impl FnMut()) -> Duration {
    let timed = |run: &mut dyn FnMut()| {
        let start = monotonic();
        run();
        start.elapsed()
    };
    (0..ROUNDS).map(|_| timed(&mut run)).min().unwrap_or_default()
}

fn row(what: &str, figure: &str) {
    println!("| {what} | {figure} |");
}

fn rate(points: f64, took: Duration) -> String {
    format!("{:.1} M points/s", points / took.as_secs_f64() / 1e6)
}

fn status(field: &str) -> f64 {
    let status = fs::read(std::path::Path::new("/proc/self/status")).expect("Linux").expect("there");
    let text = String::from_utf8(status).expect("text");
    let line = text.lines().find(|line| line.starts_with(field)).expect("a field of the kernel's");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
}

/// For how long this thread has had a processor: others use the machine too, and keep it waiting.
fn on_processor() -> Duration {
    let stat = fs::read(std::path::Path::new("/proc/thread-self/schedstat")).expect("Linux").expect("there");
    let text = String::from_utf8(stat).expect("text");
    Duration::from_nanos(text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).expect("a number"))
}

fn scan(table: &SeriesTable, request: &ScanRequest) {
    let emit = &mut |batch: RecordBatch| {
        black_box(batch);
        ControlFlow::Continue(())
    };
    table.snapshot().scan(request, emit).expect("readable");
}

/// All records of the fleet, in the order of time.
fn in_order() -> impl Iterator<Item = RecordBatch> {
    let mut fleet = Fleet::new();
    (0..TICKS / TICKS_PER_RECORD).map(move |_| fleet.next())
}

/// One record of twenty comes an hour late, one of a hundred comes twice.
fn late(records: impl Iterator<Item = RecordBatch>) -> impl Iterator<Item = RecordBatch> {
    let (mut random, mut waiting, mut records, mut at) = (Random(11), VecDeque::<(u32, RecordBatch)>::new(), records, 0);
    std::iter::from_fn(move || {
        loop {
            if waiting.front().is_some_and(|(due, _)| *due <= at) {
                return waiting.pop_front().map(|(_, record)| record);
            }
            at += 1;
            let Some(record) = records.next() else { return waiting.pop_front().map(|(_, record)| record) };
            if random.below(20) > 0 {
                if random.below(100) == 0 {
                    waiting.push_back((at + 360 / TICKS_PER_RECORD, record.clone()));
                }
                return Some(record);
            }
            waiting.push_back((at + 360 / TICKS_PER_RECORD, record));
        }
    })
}

fn fleet(what: &str, records: impl Iterator<Item = RecordBatch>) {
    let dir = tempfile::tempdir().expect("a folder");
    let ready = Ready::default();
    let open = SeriesTable::open(dir.path(), fleet_schema(), Box::new(ready.clone()), SeriesOptions::default());
    let (table, mut materializer) = open.expect("opens");
    let (mut took, mut saving) = (Duration::ZERO, Duration::ZERO);
    let log = log(2 * TICKS / TICKS_PER_RECORD);
    for (record, batch) in records.zip(&log) {
        ready.put(record);
        let start = monotonic();
        materializer.apply(batch, &mut Rejects::default()).expect("no fault");
        if materializer.unsaved_bytes() >= UNSAVED_BYTES_MAX {
            let start = monotonic();
            materializer.checkpoint().expect("no fault");
            saving += start.elapsed();
        }
        took += start.elapsed();
    }
    let start = monotonic();
    materializer.checkpoint().expect("no fault");
    (took, saving) = (took + start.elapsed(), saving + start.elapsed());
    let rows = f64::from(TICKS * HOSTS);
    let points = rows * f64::from(FIELDS);
    let stats = table.stats();
    println!(
        "\n{HOSTS} hosts, {FIELDS} fields, every 10 s for 3 days{what}: {:.1} M points of {:.1} M rows\n",
        points / 1e6,
        rows / 1e6
    );
    println!("| | |\n| --- | --- |");
    row("on disk", &format!("{:.2} bytes/point in {} files", stats.sealed_bytes as f64 / points, stats.chunks));
    row("ingest, with checkpoints and merges", &rate(points, took));
    row("ingest, without them", &rate(points, took - saving));
    let values = |field: usize| {
        let mut pages = Vec::new();
        let request = ScanRequest { projection: vec![2 + field], ..ScanRequest::default() };
        let emit = &mut |batch: RecordBatch| {
            pages.push(batch.column(0).as_primitive::<Float64Type>().values().to_vec());
            ControlFlow::Continue(())
        };
        table.snapshot().scan(&request, emit).expect("readable");
        pages
    };
    for (field, what) in [(0, "a random walk"), (4, "a gauge that mostly stays")] {
        let pages = values(field);
        let config = ChunkConfig::default();
        let packed: Vec<_> = pages.iter().map(|page| simple_compress(page, &config).expect("compresses")).collect();
        let bare = best(|| {
            for (page, values) in packed.iter().zip(&pages) {
                let mut numbers = vec![0.0_f64; values.len()];
                black_box(simple_decompress_into(page, &mut numbers).expect("whole"));
                black_box(numbers);
            }
        });
        row(&format!("bare pco, {what}"), &rate(rows, bare));
        let one = ScanRequest { projection: vec![2 + field], ..ScanRequest::default() };
        row(&format!("scan of {what}"), &rate(rows, best(|| scan(&table, &one))));
    }
    let all: Vec<usize> = (2..2 + FIELDS as usize).collect();
    let all = ScanRequest { projection: all, ..ScanRequest::default() };
    row("scan of all fields", &rate(points, best(|| scan(&table, &all))));
    let full = ScanRequest { projection: (0..2 + FIELDS as usize).collect(), tags_as_dictionaries: true, ..all.clone() };
    row("scan of all columns", &rate(points, best(|| scan(&table, &full))));
    let ordered = ScanRequest { order: ScanOrder::SeriesTime, ..all };
    row("scan of all fields by series and time", &rate(points, best(|| scan(&table, &ordered))));
    let hour = Some(Buckets { width: 3600 * SECOND, origin: 0 });
    let day = Some(Buckets { width: 86_400 * SECOND, origin: 0 });
    let aggregate = |buckets, without_footers| {
        let request =
            AggregateRequest { columns: vec![2], group_by: vec![1], buckets, without_footers, ..AggregateRequest::default() };
        best(|| drop(black_box(table.snapshot().aggregate(&request).expect("readable"))))
    };
    row("hourly average, least and most of a field by host", &rate(rows, aggregate(hour, false)));
    row("daily", &rate(rows, aggregate(day, false)));
    row("over all time", &rate(rows, aggregate(None, false)));
    row("over all time, not by footers", &rate(rows, aggregate(None, true)));
    let last = LastRequest { projection: (0..2 + FIELDS as usize).collect(), ..LastRequest::default() };
    let emit = &mut |batch: RecordBatch| {
        black_box(batch);
        ControlFlow::Continue(())
    };
    let took = best(|| {
        black_box(table.snapshot().last_values(&last, emit).expect("readable"));
    });
    row("last values of all hosts", &format!("{:.1} ms", took.as_secs_f64() * 1e3));
}

fn million_batch(first: u32, time: i64) -> RecordBatch {
    let numbers = first..first + SERIES_PER_RECORD;
    let columns: [(&str, ArrayRef); 4] = [
        ("ts", Arc::new(TimestampMicrosecondArray::from(vec![time; SERIES_PER_RECORD as usize]).with_timezone("UTC"))),
        (
            "device",
            Arc::new(StringArray::from_iter_values(numbers.clone().map(|n| format!("device-{:07}", n ^ 0x55)))) as ArrayRef,
        ),
        ("region", Arc::new(StringArray::from_iter_values(numbers.clone().map(|n| format!("region-{}", n % 20))))),
        ("value", Arc::new(Float64Array::from_iter_values(numbers.map(|n| f64::from(n % 1000) / 10.0)))),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn million() {
    let dir = tempfile::tempdir().expect("a folder");
    let ready = Ready::default();
    let fields = vec![("value".into(), FieldKind::Float)];
    let schema = SeriesSchema::new("ts", vec!["device".into(), "region".into()], fields, DAY_MILLIS);
    let open = SeriesTable::open(dir.path(), schema, Box::new(ready.clone()), SeriesOptions::default());
    let (table, mut materializer) = open.expect("opens");
    let records = SERIES / SERIES_PER_RECORD;
    let rounds = 6;
    let log = log(records * rounds);
    let memory = status("VmRSS");
    let (mut longest, mut longest_later, mut took) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut longest_busy = Duration::ZERO;
    let mut saving: Option<std::thread::JoinHandle<()>> = None;
    let begin = |materializer: &mut SeriesMaterializer| {
        let finish = materializer.begin_checkpoint().expect("no fault");
        thread::spawn("save", move || {
            finish().expect("no fault");
        })
        .expect("a thread")
    };
    for round in 0..rounds {
        for record in 0..records {
            ready.put(million_batch(record * SERIES_PER_RECORD, START + i64::from(round) * 60 * SECOND));
            let (start, busy) = (monotonic(), on_processor());
            materializer.apply(&log[(round * records + record) as usize], &mut Rejects::default()).expect("no fault");
            if materializer.unsaved_bytes() >= UNSAVED_BYTES_MAX / 4 && saving.as_ref().is_none_or(|saving| saving.is_finished())
            {
                saving = Some(begin(&mut materializer));
            }
            let pause = start.elapsed();
            took += pause;
            longest_busy = longest_busy.max(on_processor() - busy);
            let longest = if round == 0 { &mut longest } else { &mut longest_later };
            *longest = pause.max(*longest);
        }
    }
    saving.map(std::thread::JoinHandle::join).transpose().expect("no panic");
    materializer.checkpoint().expect("no fault");
    let (peak, now) = (status("VmHWM"), status("VmRSS"));
    println!("\n{} M series, {rounds} points each\n\n| | |\n| --- | --- |", SERIES / 1_000_000);
    row("memory", &format!("{peak:.0} MiB at most, {now:.0} MiB at the end, {memory:.0} MiB before"));
    row("apply", &rate(f64::from(SERIES * rounds), took));
    let per = format!("{} K rows", SERIES_PER_RECORD / 1000);
    row(
        &format!("longest apply of {per}, all new series, checkpoints beside"),
        &format!("{:.1} ms", longest.as_secs_f64() * 1e3),
    );
    row(&format!("longest apply of {per}, known series"), &format!("{:.1} ms", longest_later.as_secs_f64() * 1e3));
    row("of which it had a processor, at most", &format!("{:.1} ms", longest_busy.as_secs_f64() * 1e3));
    let stats = table.stats();
    row(
        "on disk",
        &format!("{:.2} bytes/point in {} files", stats.sealed_bytes as f64 / f64::from(SERIES * rounds), stats.chunks),
    );
    let last = LastRequest { projection: vec![0, 1, 3], tags_as_dictionaries: true, ..LastRequest::default() };
    let mut rows = 0;
    let emit = &mut |batch: RecordBatch| {
        rows += batch.num_rows();
        ControlFlow::Continue(())
    };
    let took = best(|| {
        black_box(table.snapshot().last_values(&last, emit).expect("readable"));
    });
    assert_eq!(rows, (SERIES * ROUNDS) as usize);
    row("last value of each", &format!("{:.0} ms", took.as_secs_f64() * 1e3));
    let tags = vec![("device".to_owned(), vec!["device-0500000".to_owned()])];
    let one = ScanRequest { projection: vec![0, 3], tags, ..ScanRequest::default() };
    row("all points of one series", &format!("{:.1} ms", best(|| scan(&table, &one)).as_secs_f64() * 1e3));
    row("memory after queries", &format!("{:.0} MiB at most", status("VmHWM")));
}

fn main() {
    let only_fleet = std::env::args().any(|argument| argument == "fleet");
    if !only_fleet {
        // First, since memory is measured at its peak.
        million();
    }
    fleet("", in_order());
    fleet(", one record of twenty an hour late, one of a hundred twice", late(in_order()));
}
