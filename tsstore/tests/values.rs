//! Values come back bit for bit, however they are packed: rounded floats, any bits, the ends of integers, texts.

mod common;

use common::{Entry, Point, Source, everything, expected, feed, log, open, rows};
use logcore::materialize::Materializer;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tsstore::SeriesOptions;

fn any_float() -> impl Strategy<Value = f64> {
    let edges =
        [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN, f64::MIN_POSITIVE, f64::MAX, f64::from_bits(1)];
    prop_oneof![any::<u64>().prop_map(f64::from_bits), proptest::sample::select(edges.to_vec())]
}

/// A column of floats of one kind, as sensors give them, perhaps with one that is of another.
fn floats(rows: usize) -> impl Strategy<Value = Vec<Option<f64>>> {
    let decimal = |places: i32| {
        let scale = 10_f64.powi(places);
        (-2_000_000_000_000_i64..2_000_000_000_000).prop_map(move |integer| {
            #[allow(clippy::cast_precision_loss, reason = "it is below 2^53")]
            let float = integer as f64;
            float / scale
        })
    };
    let column = (0..9_i32).prop_flat_map(move |places| {
        let value = match places {
            7 => any_float().boxed(),
            8 => (9_007_199_254_740_000_i64..9_007_199_254_742_000)
                .prop_map(|integer| {
                    #[allow(clippy::cast_precision_loss, reason = "rounding is what is tried")]
                    let float = integer as f64;
                    float
                })
                .boxed(),
            places => decimal(places).boxed(),
        };
        vec(option::weighted(0.9, value), rows)
    });
    (column, option::of((0..rows, any_float()))).prop_map(|(mut column, odd)| {
        if let Some((at, odd)) = odd {
            column[at] = Some(odd);
        }
        column
    })
}

fn integers(rows: usize) -> impl Strategy<Value = Vec<Option<i64>>> {
    let value = prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), -5..5_i64];
    prop_oneof![vec(option::weighted(0.9, value), rows), vec((0..100_i64).prop_map(Some), rows)]
}

fn texts(rows: usize) -> impl Strategy<Value = Vec<Option<String>>> {
    prop_oneof![vec(option::of(any::<String>()), rows), vec(option::of("[a-c]{0,1}"), rows)]
}

fn columns() -> impl Strategy<Value = Vec<Point>> {
    (1..160_usize).prop_flat_map(|rows| {
        let times = prop_oneof![
            vec(any::<i64>(), rows),
            (0..1_000_i64).prop_map(move |step| (0..).map(|n| n * step).take(rows).collect())
        ];
        let bits = vec(option::weighted(0.9, any::<bool>()), rows);
        let hosts = vec(option::weighted(0.8, "[ab]"), rows);
        (times, floats(rows), integers(rows), bits, texts(rows), hosts).prop_map(|(times, loads, counts, ups, notes, hosts)| {
            let rows = times.into_iter().zip(loads).zip(counts).zip(ups).zip(notes).zip(hosts);
            rows.map(|(((((time, load), count), up), note), host)| Point { time, host, rack: None, load, count, up, note })
                .collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn values_come_back_bit_for_bit(points in columns(), level in 0..12_usize) {
        let dir = tempfile::tempdir().expect("a folder");
        let records = points.len();
        let source: Source = std::sync::Arc::new(points.into_iter().map(Entry::Point).collect());
        let options = SeriesOptions { compression_level: level, ..SeriesOptions::default() };
        let (table, mut materializer) = open(dir.path(), &source, options.clone());
        feed(&mut materializer, &log(records, 50));
        prop_assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, records));
        materializer.checkpoint().expect("no fault");
        prop_assert_eq!(table.stats().open_points, 0);
        prop_assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, records));
        drop((table, materializer));
        let (table, _) = open(dir.path(), &source, options);
        prop_assert_eq!(rows(&table.snapshot(), &everything()), expected(&source, records));
    }
}
