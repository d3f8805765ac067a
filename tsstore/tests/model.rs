//! Series against a plain list of points: every value bit for bit, every filter, open and sealed, before and after reopening.

mod common;

use common::{COLUMNS, Point, Source, everything, expected, feed, log, open, rows, run, small};
use logcore::Offset;
use logcore::materialize::Materializer;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tsstore::ScanRequest;

fn float() -> impl Strategy<Value = f64> {
    let edges = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE, f64::MAX, f64::from_bits(1)];
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        (0..1_u64 << 51).prop_map(|payload| f64::from_bits(0x7ff8_0000_0000_0000 | payload)),
        (1..1_u64 << 51).prop_map(|payload| f64::from_bits(0xfff0_0000_0000_0000 | payload)),
        (-10_000..10_000_i32).prop_map(|cents| f64::from(cents) / 100.0),
        proptest::sample::select(edges.to_vec()),
    ]
}

fn integer() -> impl Strategy<Value = i64> {
    prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), -5..5_i64]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{0,1}", any::<String>(), Just("日本\u{0}é🦀".to_owned())]
}

/// Times are mostly close together, so that filters cut through pages.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![20 => -3_000..9_000_i64, 1 => Just(i64::MIN), 1 => Just(i64::MAX)]
}

prop_compose! {
    fn point()(
        time in time(),
        host in option::weighted(0.9, "[a-c]"),
        rack in option::of(text()),
        load in option::weighted(0.8, float()),
        count in option::weighted(0.8, integer()),
        up in option::of(any::<bool>()),
        note in option::of(text()),
    ) -> Point {
        Point { time, host, rack, load, count, up, note }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Apply,
    Checkpoint,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(prop_oneof![5 => Just(Step::Apply), 2 => Just(Step::Checkpoint), 1 => Just(Step::Reopen)], 1..16)
}

prop_compose! {
    fn request()(
        projection in vec(0..COLUMNS, 0..5),
        time_from in option::of(time()),
        time_until in option::of(time()),
        tags in vec((prop_oneof![Just("host".to_owned()), Just("rack".to_owned())], vec("[a-c]{0,1}", 0..3)), 0..3),
        limit in option::weighted(0.3, 0..30_usize),
        until_offset in option::of(0..80_u64),
        batch_rows in 0..12_usize,
    ) -> ScanRequest {
        ScanRequest { projection, time_from, time_until, tags, limit, until_offset: until_offset.map(Offset::new), batch_rows }
    }
}

fn wanted(point: &Point, offset: usize, request: &ScanRequest) -> bool {
    let tag = |name: &str| if name == "host" { &point.host } else { &point.rack };
    request.time_from.is_none_or(|from| point.time >= from)
        && request.time_until.is_none_or(|until| point.time < until)
        && request.until_offset.is_none_or(|until| (offset as u64) < until.value())
        && request.tags.iter().all(|(name, values)| tag(name).as_ref().is_some_and(|value| values.contains(value)))
}

fn check(snapshot: &tsstore::SeriesSnapshot, source: &Source, request: &ScanRequest) -> Result<(), TestCaseError> {
    let applied = logcore::types::index(snapshot.offset().value());
    let points = source[..applied].iter().enumerate().filter_map(|(offset, point)| point.as_ref().map(|point| (offset, point)));
    let mut expected: Vec<_> = points
        .filter(|(offset, point)| wanted(point, *offset, request))
        .map(|(_, point)| point.row(&request.projection))
        .collect();
    let found = run(snapshot, request).expect("readable").0;
    let Some(limit) = request.limit else {
        let mut found = found;
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected);
        return Ok(());
    };
    prop_assert_eq!(found.len(), limit.min(expected.len()));
    for row in found {
        let at = expected.iter().position(|one| *one == row);
        prop_assert!(at.is_some(), "{:?} is not wanted, or not so often", row);
        expected.swap_remove(at.unwrap_or_default());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_series_equals_the_list_of_its_points(
        points in vec(option::weighted(0.9, point()), 1..80),
        records_per_batch in 1..12_usize,
        steps in steps(),
        requests in vec(request(), 1..12),
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let source = Source::new(points);
        let log = log(source.len(), records_per_batch);
        let (mut table, mut materializer) = open(dir.path(), &source, small());
        let mut batches = 0;
        for step in steps {
            match step {
                Step::Apply => {
                    batches = (batches + 1).min(log.len());
                    feed(&mut materializer, &log[..batches]);
                }
                Step::Checkpoint => prop_assert_eq!(materializer.checkpoint().expect("no fault"), materializer.next_offset()),
                Step::Reopen => {
                    (table, materializer) = open(dir.path(), &source, small());
                    let (next, records) = (materializer.next_offset(), log.iter().map(|batch| u64::from(batch.count())));
                    batches = records.scan(0, |end, records| { *end += records; Some(*end) }).filter(|end| *end <= next.value()).count();
                }
            }
            let snapshot = table.snapshot();
            let applied = logcore::types::index(snapshot.offset().value());
            prop_assert_eq!(rows(&snapshot, &everything()), expected(&source, applied));
            prop_assert_eq!(table.stats().points, snapshot.stats().points);
            prop_assert_eq!(snapshot.stats().points, source[..applied].iter().flatten().count() as u64);
            for request in &requests {
                check(&snapshot, &source, request)?;
            }
        }
    }
}
