//! How fast series are applied, sealed and scanned, each scan beside the bare pco decompression of the same numbers.
//!
//! `cargo bench -p tsstore`. One thread, files in the page cache.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Float64Type;
use logcore::materialize::suite::batches;
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::sys::clock::monotonic;
use logcore::{Batch, Offset};
use pco::ChunkConfig;
use pco::standalone::{simple_compress, simple_decompress_into};
use tsstore::{FieldKind, Points, ScanRequest, SeriesOptions, SeriesSchema, SeriesTable};

const POINTS: u32 = 4_000_000;
const BATCH: usize = 10_000;
const SENSORS: u32 = 10;
const START: i64 = 1_700_000_000_000_000;
const INTERVAL_MICROS: i64 = 10_000_000;
const PAGE_POINTS: usize = 8192;
const ROUNDS: u32 = 10;
const VALUE: usize = 2;

struct Gauges;

fn value(n: u32) -> f64 {
    let noise = f64::from(n.wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(2_246_822_519) >> 16) / 65_536.0;
    ((20.0 + 5.0 * f64::from(n / SENSORS / 1_000).sin() + 0.2 * noise) * 100.0).round() / 100.0
}

impl Projection<Points> for Gauges {
    fn project(&mut self, batch: &Batch, _: Offset, _: &mut Rejects) -> Result<Points, ViewError> {
        let until = batch.end_offset();
        let offsets: Vec<Offset> = (batch.base_offset().value()..until.value()).map(Offset::new).collect();
        let numbers: Vec<u32> = offsets.iter().map(|offset| u32::try_from(offset.value())).collect::<Result<_, _>>()?;
        let times = numbers.iter().map(|n| START + i64::from(n / SENSORS) * INTERVAL_MICROS);
        let columns: [(&str, ArrayRef); 3] = [
            ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))),
            ("sensor", Arc::new(StringArray::from_iter_values(numbers.iter().map(|n| format!("sensor-{}", n % SENSORS))))),
            ("value", Arc::new(Float64Array::from_iter_values(numbers.iter().map(|n| value(*n))))),
        ];
        Ok(Points { offsets, columns: RecordBatch::try_from_iter(columns)? })
    }
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

fn report(what: &str, points: u32, took: Duration, reference: Option<Duration>) {
    let rate = f64::from(points) / took.as_secs_f64() / 1e6;
    let ratio = reference.map_or_else(String::new, |reference| {
        format!(", {:.2}x the time of bare pco", took.as_secs_f64() / reference.as_secs_f64())
    });
    eprintln!("{what:<28} {rate:>9.1} M points/s{ratio}");
}

fn main() {
    let dir = tempfile::tempdir().expect("a folder");
    let schema = SeriesSchema::new("ts", vec!["sensor".into()], vec![("value".into(), FieldKind::Float)], 7 * 86_400_000);
    let (table, mut materializer) =
        SeriesTable::open(dir.path(), schema, Box::new(Gauges), SeriesOptions::default()).expect("opens");
    let log = batches(&vec![(None, None); POINTS as usize], BATCH);

    let start = monotonic();
    for batch in &log {
        materializer.apply(batch, &mut Rejects::default()).expect("no fault");
    }
    report("apply, projection included", POINTS, start.elapsed(), None);
    eprintln!("{:<28} {:>9.1} bytes/point", "in memory", materializer.unsaved_bytes() as f64 / f64::from(POINTS));
    let open = table.snapshot();
    let start = monotonic();
    materializer.checkpoint().expect("no fault");
    report("checkpoint", POINTS, start.elapsed(), None);
    let stats = table.stats();
    eprintln!("{:<28} {:>9.3} bytes/point", "on disk", stats.sealed_bytes as f64 / f64::from(POINTS));

    let values: Vec<f64> = (0..POINTS).map(value).collect();
    let pages = values.chunks(PAGE_POINTS).map(|page| simple_compress(page, &ChunkConfig::default()).expect("compresses"));
    let pages: Vec<Vec<u8>> = pages.collect();
    let bare = best(|| {
        for page in &pages {
            let mut numbers = vec![0.0_f64; PAGE_POINTS];
            black_box(simple_decompress_into(page, &mut numbers).expect("whole"));
            black_box(numbers);
        }
    });
    report("bare pco, one field", POINTS, bare, None);

    let sealed = table.snapshot();
    let all = ScanRequest { projection: vec![VALUE], ..ScanRequest::default() };
    let end = START + i64::from(POINTS / SENSORS) * INTERVAL_MICROS;
    let host = vec![("sensor".to_owned(), vec!["sensor-3".to_owned()])];
    let requests = [
        ("scan one field", all.clone()),
        ("scan time and field", ScanRequest { projection: vec![0, VALUE], ..all.clone() }),
        ("scan all columns", ScanRequest { projection: vec![0, 1, VALUE], ..all.clone() }),
        ("scan one field, one tag", ScanRequest { tags: host, ..all.clone() }),
        ("scan one field, half of time", ScanRequest { time_from: Some(START + (end - START) / 2), ..all.clone() }),
        ("count", ScanRequest::default()),
    ];
    for (what, request) in &requests {
        for (where_, snapshot) in [("", &sealed), (", in memory", &open)] {
            let took = best(|| {
                let mut sum = 0.0;
                snapshot
                    .scan(request, &mut |batch| {
                        if let Some(column) = batch.columns().last() {
                            sum += column.as_primitive::<Float64Type>().values()[0];
                        }
                        black_box(batch);
                        ControlFlow::Continue(())
                    })
                    .expect("readable");
                black_box(sum);
            });
            let reference = where_.is_empty().then_some(bare);
            report(&format!("{what}{where_}"), POINTS, took, reference);
        }
    }
}
