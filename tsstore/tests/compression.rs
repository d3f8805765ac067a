//! How many bytes a point takes on disk.

mod common;

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::{Batch, Offset};
use tsstore::{FieldKind, Points, SeriesOptions, SeriesSchema, SeriesTable};

const POINTS: u32 = 120_000;
const INTERVAL_MICROS: i64 = 10_000_000;

/// Gauges of `sensors` devices, each read about every ten seconds, in turn: slow waves and noise of a few cents, rounded to
/// cents. Readings of a single device are punctual; those of many come late by up to a second, and one in fifty is missing.
struct Gauges {
    sensors: u32,
}

impl Gauges {
    fn value(&self, n: u32) -> f64 {
        let (sensor, tick) = (n % self.sensors, f64::from(n / self.sensors));
        let raw = 20.0 + f64::from(sensor) + 5.0 * (tick / 1_000.0).sin() + 0.5 * (tick / 70.0).sin() + 0.1 * random(n, 1);
        (raw * 100.0).round() / 100.0
    }

    fn time(&self, n: u32) -> i64 {
        let tick = 1_700_000_000_000_000 + i64::from(n / self.sensors) * INTERVAL_MICROS;
        if self.sensors == 1 { tick } else { tick + i64::from(random_bits(n, 2) % 1_000) * 1_000 }
    }

    fn is_missing(&self, n: u32) -> bool {
        self.sensors > 1 && random_bits(n, 3).is_multiple_of(50)
    }
}

/// SplitMix64's finish.
fn random_bits(n: u32, salt: u64) -> u32 {
    let mut bits = (u64::from(n) + (salt << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u32::try_from((bits ^ (bits >> 31)) >> 32).expect("32 bits are left")
}

/// From -0.5 to 0.5.
fn random(n: u32, salt: u64) -> f64 {
    f64::from(random_bits(n, salt)) / f64::from(u32::MAX) - 0.5
}

impl Projection<Points> for Gauges {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Points, ViewError> {
        let mut offsets = Vec::new();
        let mut numbers = Vec::new();
        for record in batch.records() {
            let offset = record?.offset;
            let number = u32::try_from(offset.value())?;
            if offset >= from && self.is_missing(number) {
                rejects.push(offset, "missing");
            } else if offset >= from {
                offsets.push(offset);
                numbers.push(number);
            }
        }
        let columns: [(&str, ArrayRef); 3] = [
            (
                "ts",
                Arc::new(TimestampMicrosecondArray::from_iter_values(numbers.iter().map(|n| self.time(*n))).with_timezone("UTC")),
            ),
            ("sensor", Arc::new(StringArray::from_iter_values(numbers.iter().map(|n| format!("sensor-{}", n % self.sensors))))),
            ("value", Arc::new(Float64Array::from_iter_values(numbers.iter().map(|n| self.value(*n))))),
        ];
        Ok(Points { offsets, columns: RecordBatch::try_from_iter(columns)? })
    }
}

fn bytes_per_point(sensors: u32) -> f64 {
    let dir = tempfile::tempdir().expect("a folder");
    let schema = SeriesSchema::new("ts", vec!["sensor".into()], vec![("value".into(), FieldKind::Float)], 86_400_000);
    let projection = Box::new(Gauges { sensors });
    let (table, mut materializer) = SeriesTable::open(dir.path(), schema, projection, SeriesOptions::default()).expect("opens");
    for batch in common::log(POINTS as usize, 1_000) {
        materializer.apply(&batch, &mut Rejects::default()).expect("no fault");
    }
    materializer.checkpoint().expect("no fault");
    let stats = table.stats();
    assert_eq!(stats.open_points, 0);
    let count = |count: u64| f64::from(u32::try_from(count).expect("a small file"));
    let per_point = count(stats.sealed_bytes) / count(stats.points);
    eprintln!("{sensors} sensors: {per_point:.3} bytes a point, offsets and footer included");
    per_point
}

#[test]
fn a_smooth_gauge_takes_few_bytes() {
    let found = bytes_per_point(1);
    assert!(found <= 2.0, "{found} bytes a point");
}

#[test]
fn gauges_of_many_unpunctual_sensors_take_few_bytes() {
    let found = bytes_per_point(50);
    assert!(found <= 6.0, "{found} bytes a point");
}
