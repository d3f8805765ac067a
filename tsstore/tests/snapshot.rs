//! Readers beside the writer: a snapshot never changes, and no moment shows a point twice or not at all.

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Point, TIME, everything, expected, feed, log, open, rows, small, source};
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::sys::thread;
use logcore::{Batch, Offset};
use tsstore::{
    AggregateRequest, ColumnSummary, Error, FieldBound, Points, ScanOrder, ScanRequest, SeriesChange, SeriesOptions, SeriesTable,
};

#[test]
fn a_snapshot_stays_what_it_was_while_checkpoints_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = source((0..90_i64).map(|n| Point::at(n * 100, "a", 1.5)));
    let log = log(90, 30);
    let (table, mut materializer) = open(dir.path(), &source, small());
    feed(&mut materializer, &log[..1]);
    let open_only = table.snapshot();
    materializer.checkpoint().expect("no fault");
    feed(&mut materializer, &log[..2]);
    let mixed = table.snapshot();
    let mut scanned = 0;
    let request = ScanRequest { projection: vec![TIME], batch_rows: 7, ..ScanRequest::default() };
    let stats = mixed.scan(&request, &mut |batch| {
        scanned += batch.num_rows();
        feed(&mut materializer, &log);
        materializer.checkpoint().expect("no fault");
        ControlFlow::Continue(())
    });
    assert_eq!((scanned, stats.expect("readable").points), (60, 60));
    assert_eq!(
        (open_only.offset(), mixed.offset(), table.snapshot().offset()),
        (Offset::new(30), Offset::new(60), Offset::new(90))
    );
    for snapshot in [&open_only, &mixed, &table.snapshot()] {
        assert_eq!(rows(snapshot, &everything()), expected(&source, logcore::types::index(snapshot.offset().value())));
    }
}

#[test]
fn readers_beside_the_writer_see_every_point_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = source((0..3_000_i64).map(|n| Point::at(n * 10, "a", 0.0)));
    let (table, mut materializer) = open(dir.path(), &source, small());
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (table, done) = (table.clone(), Arc::clone(&done));
        thread::spawn("reader", move || {
            let mut last = Offset::ZERO;
            while !done.load(Ordering::Acquire) {
                let snapshot = table.snapshot();
                assert!(snapshot.offset() >= last, "snapshots go forward");
                last = snapshot.offset();
                let counted = snapshot.scan(&ScanRequest::default(), &mut |_| ControlFlow::Continue(())).expect("readable");
                assert_eq!(counted.points, last.value(), "one point a record");
                let cut = ScanRequest { until_offset: Some(Offset::new(last.value() / 2)), ..ScanRequest::default() };
                let counted = snapshot.scan(&cut, &mut |_| ControlFlow::Continue(())).expect("readable");
                assert_eq!(counted.points, last.value() / 2);
            }
        })
        .expect("a thread")
    };
    let mut saving: Option<std::thread::JoinHandle<()>> = None;
    for (number, batch) in log(3_000, 5).iter().enumerate() {
        feed(&mut materializer, std::slice::from_ref(batch));
        if number % 4 == 0 {
            saving.take().map(std::thread::JoinHandle::join).transpose().expect("no panic");
            let finish = materializer.begin_checkpoint().expect("no fault");
            let finish = move || assert!(finish().expect("no fault") > Offset::ZERO);
            saving = Some(thread::spawn("save", finish).expect("a thread"));
        }
    }
    saving.map(std::thread::JoinHandle::join).transpose().expect("no panic");
    done.store(true, Ordering::Release);
    reader.join().expect("the reader saw nothing wrong");
    assert_eq!(table.stats().points, 3_000);
}

#[test]
fn footers_spare_the_pages() {
    let dir = tempfile::tempdir().expect("a folder");
    let source =
        source((0..64_i64).map(|n| Point::at(n, if n < 32 { "a" } else { "b" }, f64::from(i32::try_from(n).expect("small")))));
    let (table, mut materializer) = open(dir.path(), &source, SeriesOptions { chunk_points_min: 1000, ..small() });
    feed(&mut materializer, &log(64, 64));
    materializer.checkpoint().expect("no fault");
    let snapshot = table.snapshot();
    let stats = |request: ScanRequest| {
        let stats = common::run(&snapshot, &request).expect("readable").1;
        (stats.pages_read, stats.pages_pruned, stats.points)
    };
    assert_eq!(snapshot.pages().count(), 8);
    assert_eq!(snapshot.time_range(), Some((0, 63)));
    assert_eq!(stats(ScanRequest::default()), (0, 0, 64), "counting reads nothing");
    let hosts = |names: &[&str]| vec![("host".to_owned(), names.iter().map(|name| (*name).to_owned()).collect())];
    assert_eq!(stats(ScanRequest { tags: hosts(&["b", "c"]), ..ScanRequest::default() }), (0, 4, 32));
    assert_eq!(stats(ScanRequest { time_from: Some(8), time_until: Some(20), ..ScanRequest::default() }), (1, 6, 12));
    assert_eq!(stats(ScanRequest { until_offset: Some(Offset::new(33)), ..ScanRequest::default() }), (1, 3, 33));
    assert_eq!(stats(ScanRequest { projection: vec![0], limit: Some(3), ..ScanRequest::default() }), (1, 0, 3));
    let bound = |column, at_least, at_most| {
        stats(ScanRequest {
            bounds: vec![FieldBound { column, at_least, at_most }],
            projection: vec![0],
            ..ScanRequest::default()
        })
    };
    assert_eq!(bound(common::LOAD, Some(60.0), None), (1, 7, 8), "whole pages: the caller filters their points");
    assert_eq!(bound(common::LOAD, Some(8.0), Some(15.0)), (1, 7, 8));
    assert_eq!(bound(4, None, Some(0.0)), (0, 8, 0), "no point has a count");
    let first = snapshot.pages().next().expect("eight pages");
    assert_eq!((first.rows, first.series, first.columns.len()), (8, 1, 1));
    let ColumnSummary::Float(load) = &first.columns[0].summary else { panic!("a float: {first:?}") };
    assert_eq!((load.count, load.min, load.max, load.sum, load.first, load.last), (8, 0.0, 7.0, 28.0, (0, 0.0), (7, 7.0)));
}

#[test]
fn bounds_never_bring_back_what_was_replaced() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = source((0..20_i64).map(|n| Point::at(n % 10, "a", if n < 10 { 100.0 } else { 1.0 })));
    let (table, mut materializer) = open(dir.path(), &source, SeriesOptions { merges_max: 0, ..small() });
    for end in [10, 20] {
        feed(&mut materializer, &log(end, 10));
        materializer.checkpoint().expect("no fault");
    }
    assert!(table.stats().chunks > 1);
    let bounds = vec![FieldBound { column: common::LOAD, at_least: Some(50.0), at_most: None }];
    let request = ScanRequest { projection: vec![common::LOAD], bounds, ..ScanRequest::default() };
    for row in rows(&table.snapshot(), &request) {
        assert_eq!(row, [format!("{:?}", Some(1.0_f64.to_bits()))], "the old value is gone");
    }
}

#[test]
fn pages_are_sorted_by_series_and_time_and_say_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let times = [900, 100, 500, 100, 300, 901, 100];
    let hosts = ["b", "b", "b", "a", "b", "b", "b"];
    let loads = [Some(1.0), Some(f64::NAN), Some(-3.0), Some(2.0), Some(0.5), Some(7.0), None];
    let points = times.iter().zip(hosts).zip(loads).enumerate().map(|(n, ((&time, host), load))| Point {
        count: (n != 1 && n != 5).then_some(i64::MAX),
        load,
        ..Point::at(time, host, 0.0)
    });
    let (table, mut materializer) = open(dir.path(), &source(points), SeriesOptions { chunk_points_min: 1000, ..small() });
    feed(&mut materializer, &log(7, 3));
    materializer.checkpoint().expect("no fault");
    let snapshot = table.snapshot();
    let request = ScanRequest { projection: vec![TIME, common::LOAD, 4], order: ScanOrder::SeriesTime, ..ScanRequest::default() };
    let found = common::run(&snapshot, &request).expect("readable").0;
    let point = |time, load: f64, count| Point { count, ..Point::at(time, "", load) }.row(&request.projection);
    let max = Some(i64::MAX);
    let sorted = [
        point(100, 2.0, max),
        point(100, f64::NAN, max),
        point(300, 0.5, max),
        point(500, -3.0, max),
        point(900, 1.0, max),
        point(901, 7.0, None),
    ];
    assert_eq!(found, sorted, "the later record adds its count to the one before");
    let pages: Vec<_> = snapshot.pages().collect();
    let [page] = pages[..] else { panic!("{pages:?}") };
    // Both versions are kept: they came after the checkpoint before.
    assert_eq!((page.rows, page.series, page.time_min, page.time_max), (7, 2, 100, 901));
    assert_eq!((page.offset_min, page.offset_max), (Offset::new(0), Offset::new(6)));
    let ColumnSummary::Float(load) = page.columns[0].summary else { panic!("{page:?}") };
    assert_eq!((load.count, load.min, load.first, load.last), (6, -3.0, (100, 2.0), (901, 7.0)));
    assert!(load.max.is_nan() && load.sum.is_nan(), "{load:?}");
    let ColumnSummary::Integer(count) = page.columns[1].summary else { panic!("{page:?}") };
    assert_eq!((count.count, count.sum), (5, 5 * i128::from(i64::MAX)));
    assert_eq!(page.columns.len(), 2, "fields without values take nothing");
    let (reopened, _) = open(dir.path(), &source([]), small());
    let (before, after) = (format!("{pages:?}"), format!("{:?}", reopened.snapshot().pages().collect::<Vec<_>>()));
    assert_eq!(before, after, "the footer keeps all of it");
}

#[test]
fn aggregates_take_whole_pages_from_footers() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = source((0..64_i64).map(|n| Point::at(n, if n < 32 { "a" } else { "b" }, 2.0)));
    let (table, mut materializer) = open(dir.path(), &source, SeriesOptions { chunk_points_min: 1000, ..small() });
    feed(&mut materializer, &log(64, 64));
    materializer.checkpoint().expect("no fault");
    // Every block of values is damaged: only footers can answer.
    let path = dir.path().join(common::chunk_files(dir.path()).pop().expect("one file"));
    let mut content = logcore::sys::fs::read(&path).expect("readable").expect("there");
    let pages: usize = table.snapshot().pages().map(|page| page.rows as usize).sum();
    content[..pages].iter_mut().for_each(|byte| *byte ^= 0x55);
    logcore::sys::fs::AppendFile::open(&path, 0).and_then(|mut file| file.append(&content)).expect("writable");
    let (table, _) = open(dir.path(), &source, small());
    let request = AggregateRequest { columns: vec![common::LOAD], group_by: vec![common::HOST], ..AggregateRequest::default() };
    let found = table.snapshot().aggregate(&request).expect("footers are whole");
    for (aggregate, host) in found.iter().zip(["a", "b"]) {
        assert_eq!((&aggregate.tags[0], aggregate.rows), (&Some(host.to_owned()), 32));
        let Some(ColumnSummary::Float(load)) = aggregate.columns[0] else { panic!("{aggregate:?}") };
        assert_eq!((load.count, load.sum), (32, 64.0));
    }
    assert_eq!(found.len(), 2);
    let rows = AggregateRequest { without_footers: true, ..request };
    let error = table.snapshot().aggregate(&rows).expect_err("the rows are damaged");
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn requests_that_name_nothing_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (table, _) = open(dir.path(), &source([]), small());
    let scan = |request: ScanRequest| common::run(&table.snapshot(), &request).expect_err("refused");
    let error = scan(ScanRequest { projection: vec![7], ..ScanRequest::default() });
    assert!(matches!(error, Error::UnknownColumn { index: 7, columns: 7 }), "{error}");
    let error = scan(ScanRequest { tags: vec![("load".into(), vec![])], ..ScanRequest::default() });
    assert!(matches!(error, Error::UnknownTag { .. }), "{error}");
}

#[test]
fn a_projection_that_breaks_its_promise_stops_the_view_and_changes_nothing() {
    struct Wrong(fn(Points) -> Points, common::FromSource);
    impl Projection<Points> for Wrong {
        fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Points, ViewError> {
            let Some(SeriesChange::Points(points)) = self.1.project(batch, from, rejects)?.pop() else {
                return Err("no points".into());
            };
            Ok((self.0)(points))
        }
    }
    let shuffled = |points: Points| Points { offsets: points.offsets.into_iter().rev().collect(), ..points };
    let missing = |points: Points| Points { offsets: points.offsets[1..].to_vec(), ..points };
    let outside = |points: Points| Points { offsets: points.offsets.iter().map(|offset| offset.advance(1)).collect(), ..points };
    let retyped = |points: Points| Points { columns: points.columns.project(&[1, 0, 2, 3, 4, 5, 6]).expect("columns"), ..points };
    for wrong in [shuffled, missing, outside, retyped] {
        let dir = tempfile::tempdir().expect("a folder");
        let source = source((0..5_i64).map(|n| Point::at(n, "a", 0.0)));
        let projection = Wrong(wrong, common::FromSource { source, arrow: common::arrow_of(common::schema()) });
        let (table, mut materializer) =
            SeriesTable::open(dir.path(), common::schema(), Box::new(projection), small()).expect("opens");
        let error = materializer.apply(&log(5, 5)[0], &mut Rejects::default()).expect_err("checked");
        assert!(error.to_string().starts_with("the projection gave points that don't fit"), "{error}");
        assert_eq!((table.snapshot().offset(), table.stats().points), (Offset::ZERO, 0));
    }
}
