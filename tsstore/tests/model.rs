//! Series against a plain map of points: every value bit for bit, every filter and order, open and sealed, before and after merges
//! and reopening, now and at offsets of the past.

mod common;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use common::{
    COLUMNS, Entry, Erase, HOST, LOAD, Point, Random, Source, TIME, cell, everything, expected, feed, log, model, open_as, rows,
    run, schema, small, small_schema,
};
use logcore::Offset;
use logcore::materialize::Materializer;
use logcore::types::index;
use tsstore::{
    Aggregate, AggregateRequest, Buckets, ColumnSummary, Error, LastRequest, ScanOrder, ScanRequest, SeriesOptions,
    SeriesSnapshot,
};

const RECORDS: usize = 260;
const COUNT: usize = 4;

fn hosts() -> [Option<String>; 4] {
    [None, Some("a".into()), Some("b".into()), Some("c\u{0}é🦀".into())]
}

fn time(random: &mut Random, at: usize) -> i64 {
    let at = i64::try_from(at).expect("small");
    match random.below(40) {
        0 => random.pick(&[i64::MIN, i64::MAX, i64::MIN + 1, -1]),
        1..10 => i64::try_from(random.below(2_000)).expect("small") - 300,
        10..16 => 100,
        _ => at * 9,
    }
}

fn float(random: &mut Random) -> f64 {
    let edges = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN, f64::MIN_POSITIVE, f64::MAX];
    match random.below(6) {
        0 => f64::from_bits(random.bits()),
        1 => f64::from_bits(0x7ff8_0000_0000_0000 | random.bits() >> 14),
        2 => random.pick(&edges),
        _ => (f64::from(i32::try_from(random.below(20_000)).expect("small")) - 10_000.0) / 100.0,
    }
}

/// Records: before `grown` without the tag and the field that the series gets then.
fn records(random: &mut Random, grown: usize) -> Source {
    let mut entries = Vec::new();
    for at in 0..RECORDS {
        let racks = [None, Some(String::new()), Some("r1".to_owned())];
        if random.chance(4) {
            let a = time(random, at);
            let b = time(random, at);
            let sets = |random: &mut Random, from: &[Option<String>]| {
                random.chance(60).then(|| (0..1 + random.below(2)).map(|_| random.pick(from)).collect())
            };
            entries.push(Entry::Delete(Erase {
                from: random.chance(70).then_some(a.min(b)),
                until: random.chance(80).then_some(a.max(b)),
                hosts: sets(random, &hosts()),
                racks: if at < grown { None } else { sets(random, &racks) },
            }));
        } else if random.chance(4) {
            entries.push(Entry::Unfit);
        } else {
            let counts = [i64::MIN, i64::MAX, 0, i64::try_from(at).expect("small")];
            let notes = ["", "same", "日本\u{0}é🦀"];
            entries.push(Entry::Point(Point {
                time: time(random, at),
                host: random.pick(&hosts()),
                rack: if at < grown { None } else { random.pick(&racks) },
                load: random.chance(70).then(|| float(random)),
                count: random.chance(60).then(|| random.pick(&counts)),
                up: random.chance(30).then(|| random.chance(50)),
                note: (at >= grown && random.chance(40)).then(|| random.pick(&notes).to_owned()),
            }));
        }
    }
    Arc::new(entries)
}

fn request(random: &mut Random) -> ScanRequest {
    let tag = |random: &mut Random| {
        let name = random.pick(&["host", "rack"]).to_owned();
        (name, (0..random.below(3)).map(|_| random.pick(&["a", "b", "", "r1", "none"]).to_owned()).collect())
    };
    ScanRequest {
        projection: (0..random.below(5)).map(|_| random.below(COLUMNS)).collect(),
        time_from: random.chance(40).then(|| time(random, 100)),
        time_until: random.chance(40).then(|| time(random, 200)),
        tags: (0..random.below(3).saturating_sub(1)).map(|_| tag(random)).collect(),
        limit: random.chance(20).then(|| random.below(40)),
        order: random.pick(&[ScanOrder::None, ScanOrder::SeriesTime, ScanOrder::SeriesNewest]),
        tags_as_dictionaries: random.chance(30),
        batch_rows: random.below(12),
        ..ScanRequest::default()
    }
}

fn wanted(point: &Point, request: &ScanRequest) -> bool {
    let tag = |name: &str| if name == "host" { &point.host } else { &point.rack };
    request.time_from.is_none_or(|from| point.time >= from)
        && request.time_until.is_none_or(|until| point.time < until)
        && request.tags.iter().all(|(name, values)| tag(name).as_ref().is_some_and(|value| values.contains(value)))
}

fn check_scan(snapshot: &SeriesSnapshot, points: &common::Model, request: &ScanRequest, what: &str) {
    let mut wanted: Vec<&Point> = points.values().filter(|point| wanted(point, request)).collect();
    if request.order == ScanOrder::SeriesNewest {
        wanted.sort_by(|a, b| (&a.host, &a.rack, b.time).cmp(&(&b.host, &b.rack, a.time)));
    }
    let mut wanted: Vec<_> = wanted.iter().map(|point| point.row(&request.projection)).collect();
    let mut found = run(snapshot, request).expect(what).0;
    match (request.order, request.limit) {
        (ScanOrder::None, None) => {
            wanted.sort();
            found.sort();
            assert_eq!(found, wanted, "{what} {request:?}");
        }
        (ScanOrder::None, Some(limit)) => {
            assert_eq!(found.len(), limit.min(wanted.len()), "{what} {request:?}");
            for row in found {
                let at = wanted.iter().position(|one| *one == row).unwrap_or_else(|| panic!("{what} {request:?}: {row:?}"));
                wanted.swap_remove(at);
            }
        }
        (_, limit) => {
            wanted.truncate(limit.unwrap_or(usize::MAX));
            assert_eq!(found, wanted, "{what} {request:?}");
        }
    }
}

/// The newest point of each series.
fn check_last(snapshot: &SeriesSnapshot, points: &common::Model, until: Option<Offset>, time_until: Option<i64>, what: &str) {
    let mut newest: BTreeMap<_, &Point> = BTreeMap::new();
    for ((host, rack, time), point) in points {
        if time_until.is_none_or(|until| *time < until) {
            newest.insert((host, rack), point);
        }
    }
    let projection: Vec<usize> = (0..COLUMNS).collect();
    let wanted: Vec<_> = newest.values().map(|point| point.row(&projection)).collect();
    let request = LastRequest { projection, until_offset: until, time_until, ..LastRequest::default() };
    let mut found = Vec::new();
    let emit = &mut |batch: arrow::array::RecordBatch| {
        found.extend((0..batch.num_rows()).map(|row| batch.columns().iter().map(|array| cell(array, row)).collect::<Vec<_>>()));
        ControlFlow::Continue(())
    };
    snapshot.last_values(&request, emit).expect(what);
    assert_eq!(found, wanted, "{what}: last values");
}

fn total(a: &f64, b: &f64) -> Ordering {
    a.total_cmp(b)
}

fn check_aggregates(snapshot: &SeriesSnapshot, points: &common::Model, random: &mut Random, until: Option<Offset>, what: &str) {
    let buckets = random.chance(60).then(|| Buckets { width: 1 + i64::try_from(random.below(900)).expect("small"), origin: 7 });
    let by_host = random.chance(50);
    let request = AggregateRequest {
        columns: vec![LOAD, COUNT, 6],
        group_by: if by_host { vec![HOST] } else { vec![] },
        buckets,
        first_and_last: random.chance(50),
        until_offset: until,
        time_from: random.chance(30).then(|| time(random, 90)),
        without_footers: random.chance(20),
        ..AggregateRequest::default()
    };
    let clamp = |start: i128| i64::try_from(start).unwrap_or(i64::MIN);
    let bucket = |time: i64, buckets: Buckets| {
        let (origin, width) = (i128::from(buckets.origin), i128::from(buckets.width));
        clamp((i128::from(time) - origin).div_euclid(width) * width + origin)
    };
    type Group<'a> = Vec<&'a Point>;
    let mut groups: HashMap<(Vec<Option<String>>, Option<i64>), Group<'_>> = HashMap::new();
    for point in points.values().filter(|point| request.time_from.is_none_or(|from| point.time >= from)) {
        let key = if by_host { vec![point.host.clone()] } else { vec![] };
        groups.entry((key, buckets.map(|buckets| bucket(point.time, buckets)))).or_default().push(point);
    }
    let found = snapshot.aggregate(&request).expect(what);
    assert_eq!(found.len(), groups.len(), "{what} {request:?}");
    for Aggregate { tags, bucket, rows, columns } in found {
        let mut group = groups.remove(&(tags.clone(), bucket)).unwrap_or_else(|| panic!("{what}: {tags:?} {bucket:?}"));
        assert_eq!(rows, group.len() as u64, "{what} {request:?}");
        group.sort_by(|a, b| (a.time, &a.host, &a.rack).cmp(&(b.time, &b.host, &b.rack)));
        let loads: Vec<(i64, f64)> = group.iter().filter_map(|point| Some((point.time, point.load?))).collect();
        match &columns[0] {
            None => assert!(loads.is_empty(), "{what} {request:?}"),
            Some(ColumnSummary::Float(load)) => {
                let values = || loads.iter().map(|(_, value)| value);
                assert_eq!(load.count, loads.len() as u64);
                assert_eq!(load.min.to_bits(), values().copied().min_by(total).expect("some").to_bits(), "{what} {request:?}");
                assert_eq!(load.max.to_bits(), values().copied().max_by(total).expect("some").to_bits(), "{what} {request:?}");
                if values().all(|value| value.abs() < 1e6) {
                    let sum: f64 = values().sum();
                    assert!((load.sum - sum).abs() <= 1e-6, "{what}: {} and {sum}", load.sum);
                }
                if request.first_and_last {
                    let bits = |(time, value): (i64, f64)| (time, value.to_bits());
                    let ends = (loads.first().copied().map(bits), loads.last().copied().map(bits));
                    assert_eq!((Some(bits(load.first)), Some(bits(load.last))), ends, "{what} {request:?}");
                }
            }
            other => panic!("{what}: {other:?}"),
        }
        let counts: Vec<i64> = group.iter().filter_map(|point| point.count).collect();
        match &columns[1] {
            None => assert!(counts.is_empty()),
            Some(ColumnSummary::Integer(count)) => {
                let sum: i128 = counts.iter().map(|&count| i128::from(count)).sum();
                let (min, max) = (counts.iter().min().copied(), counts.iter().max().copied());
                assert_eq!((count.count, count.sum), (counts.len() as u64, sum), "{what} {request:?}");
                assert_eq!((Some(count.min), Some(count.max)), (min, max), "{what} {request:?}");
            }
            other => panic!("{what}: {other:?}"),
        }
        let notes = group.iter().filter(|point| point.note.is_some()).count() as u64;
        assert_eq!(columns[2].map_or(0, |notes| notes.count()), notes);
    }
}

fn check(snapshot: &SeriesSnapshot, source: &Source, random: &mut Random, what: &str) {
    let applied = index(snapshot.offset().value());
    assert_eq!(rows(snapshot, &everything()), expected(source, applied), "{what}");
    let kept_from = index(snapshot.kept_from().value());
    assert!(kept_from <= applied, "{what}");
    for _ in 0..3 {
        let at = if random.chance(40) { applied } else { kept_from + random.below(applied - kept_from + 1) };
        let until_offset = (at < applied || random.chance(50)).then(|| Offset::new(at as u64));
        let what = format!("{what}, at {at}");
        let points = model(source, at);
        check_scan(snapshot, &points, &ScanRequest { until_offset, ..request(random) }, &what);
        check_last(snapshot, &points, until_offset, random.chance(30).then(|| time(random, 150)), &what);
        check_aggregates(snapshot, &points, random, until_offset, &what);
    }
    if kept_from > 0 {
        let until_offset = Some(Offset::new(random.below(kept_from) as u64));
        let error = run(snapshot, &ScanRequest { until_offset, ..everything() }).expect_err("the past is not kept");
        assert!(matches!(error, Error::PastNotKept { .. }), "{what}: {error}");
    }
}

/// Points out of order, overwrites, deletes, a schema that grows, checkpoints beside further applying, merges and crashes.
fn follow(seed: u64, options: &SeriesOptions) {
    let random = &mut Random(seed);
    let grown = 1 + random.below(RECORDS);
    let source = records(random, grown);
    let dir = tempfile::tempdir().expect("a folder");
    let is_full = |applied: usize| applied >= grown;
    let open = |full: bool| {
        let (small, large) = (small_schema(), schema());
        open_as(dir.path(), if full { large } else { small }, &source, options.clone()).expect("opens")
    };
    let (mut table, mut materializer) = open(false);
    let (mut full, mut applied) = (false, 0);
    let mut held: Vec<SeriesSnapshot> = Vec::new();
    let mut keep_from = u64::MAX;
    while applied < RECORDS || !full {
        let what = format!("seed {seed}, {applied} applied");
        if is_full(applied) && !full {
            if random.chance(50) {
                materializer.checkpoint().expect("no fault");
            }
            held.clear();
            drop((table, materializer));
            full = true;
            (table, materializer) = open(full);
            table.keep_superseded_from(Offset::new(keep_from));
        }
        match random.below(12) {
            0..6 => {
                let end = (applied + 1 + random.below(25)).min(if full { RECORDS } else { grown });
                // The whole log again: what is applied is skipped.
                feed(&mut materializer, &log(end, 1 + random.below(end)));
                applied = end;
            }
            6..8 => {
                let begun = materializer.next_offset();
                let finish = materializer.begin_checkpoint().expect("no fault");
                let end = (applied + random.below(9)).min(if full { RECORDS } else { grown });
                if end > 0 {
                    feed(&mut materializer, &log(end, 1 + random.below(end)));
                }
                let saved = finish().expect("no fault");
                assert_eq!(saved, begun, "{what}");
                applied = end.max(applied);
            }
            8 => {
                // A crash, which ends readers, too.
                held.clear();
                drop((table, materializer));
                (table, materializer) = open(full);
                table.keep_superseded_from(Offset::new(keep_from));
            }
            9 => {
                keep_from = random.pick(&[u64::MAX, 0, applied as u64]);
                table.keep_superseded_from(Offset::new(keep_from));
            }
            10 => held.push(table.snapshot()),
            _ => {
                materializer.checkpoint().expect("no fault");
            }
        }
        feed(&mut materializer, &log(applied.max(1), 50)[..usize::from(applied > 0) * applied.div_ceil(50)]);
        assert_eq!(table.snapshot().offset().value(), applied as u64, "{what}");
        if full && random.chance(60) {
            check(&table.snapshot(), &source, random, &what);
        }
        if full && random.chance(20) && !held.is_empty() {
            let snapshot = held.swap_remove(random.below(held.len()));
            if snapshot.arrow_schema().fields().len() == COLUMNS {
                check(&snapshot, &source, random, &format!("{what}, held"));
            }
        }
    }
    materializer.checkpoint().expect("no fault");
    check(&table.snapshot(), &source, random, &format!("seed {seed}, at the end"));
    let live = (rows(&table.snapshot(), &everything()), table.snapshot().time_range());
    let rebuilt_dir = tempfile::tempdir().expect("a folder");
    let (rebuilt, mut materializer) = open_as(rebuilt_dir.path(), schema(), &source, small()).expect("opens");
    feed(&mut materializer, &log(RECORDS, 40));
    assert_eq!(rows(&rebuilt.snapshot(), &everything()), live.0, "seed {seed}: rebuilt is live");
    assert_eq!(TIME, 1, "the model's columns");
}

#[test]
fn series_are_plain_maps_at_every_offset_that_is_kept() {
    for seed in 0..40 {
        follow(seed, &small());
    }
}

#[test]
fn so_they_are_when_nothing_is_ever_merged() {
    for seed in 100..110 {
        follow(seed, &SeriesOptions { merges_max: 0, ..small() });
    }
}

#[test]
fn so_they_are_with_pages_of_many_series() {
    for seed in 200..215 {
        let options = SeriesOptions { page_points: 64, page_points_min: 40, block_points: 100, chunk_points_min: 30, ..small() };
        follow(seed, &options);
    }
}

/// Files of one stretch of time are merged although one that several stretches share lies between them and has a version of a
/// point of theirs: what they say of it must not become one.
#[test]
fn a_merge_joins_no_versions_around_those_of_another_file() {
    let at = |time: i64, load: Option<f64>, count: Option<i64>| Entry::Point(Point { load, count, ..Point::at(time, "a", 0.0) });
    let others = |from: i64| (0..6).map(move |n| at(from + n, Some(1.0), None));
    let mut entries = vec![at(10, Some(1.0), Some(1))];
    let mut ends = Vec::new();
    entries.extend(others(20));
    ends.push(entries.len());
    entries.extend([at(10, Some(2.0), None), at(5_000, Some(2.0), None)]);
    ends.push(entries.len());
    entries.push(at(10, None, Some(3)));
    entries.extend(others(30));
    ends.push(entries.len());
    entries.extend(others(40));
    ends.push(entries.len());
    let source: Source = Arc::new(entries);
    let dir = tempfile::tempdir().expect("a folder");
    let (table, mut materializer) = open_as(dir.path(), schema(), &source, small()).expect("opens");
    for &end in &ends {
        feed(&mut materializer, &log(end, end));
        materializer.checkpoint().expect("no fault");
    }
    assert_eq!(table.stats().chunks, 2, "three of four files were merged: {:?}", table.stats());
    for end in ends {
        let until_offset = Some(Offset::new(end as u64));
        assert_eq!(rows(&table.snapshot(), &ScanRequest { until_offset, ..everything() }), expected(&source, end), "at {end}");
    }
}
