//! Readers beside the writer: a snapshot never changes, and no moment shows a point twice or not at all.

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Point, TIME, everything, expected, feed, log, open, rows, small, source};
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::sys::thread;
use logcore::{Batch, Offset};
use tsstore::{ColumnSummary, Error, Points, ScanRequest, SeriesTable};

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
    for (number, batch) in log(3_000, 5).iter().enumerate() {
        feed(&mut materializer, std::slice::from_ref(batch));
        if number % 4 == 0 {
            materializer.checkpoint().expect("no fault");
        }
    }
    done.store(true, Ordering::Release);
    reader.join().expect("the reader saw nothing wrong");
    assert_eq!(table.stats().points, 3_000);
}

#[test]
fn footers_spare_the_pages() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = source((0..64_i64).map(|n| Point::at(n, if n < 32 { "a" } else { "b" }, 2.0)));
    let (table, mut materializer) = open(dir.path(), &source, small());
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
    let first = snapshot.pages().next().expect("eight pages");
    let ColumnSummary::Float(Some(load)) = &first.columns[common::LOAD] else { panic!("a float: {first:?}") };
    assert_eq!((load.count, load.min, load.max, load.sum, load.first, load.last), (8, 2.0, 2.0, 16.0, (0, 2.0), (7, 2.0)));
}

#[test]
fn pages_are_sorted_by_time_and_offset_and_say_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let times = [900, 100, 500, 100, 300, 900, 100];
    let loads = [1.0, f64::NAN, -3.0, 2.0, 0.5, 7.0, 4.0];
    let points = times.iter().zip(loads).enumerate().map(|(n, (&time, load))| Point {
        count: (n != 1 && n != 5).then_some(i64::MAX),
        load: Some(load),
        ..Point::at(time, "a", 0.0)
    });
    let (table, mut materializer) = open(dir.path(), &source(points), small());
    feed(&mut materializer, &log(7, 3));
    materializer.checkpoint().expect("no fault");
    let snapshot = table.snapshot();
    let request = ScanRequest { projection: vec![TIME, common::LOAD], ..ScanRequest::default() };
    let found = common::run(&snapshot, &request).expect("readable").0;
    let sorted = [(100, f64::NAN), (100, 2.0), (100, 4.0), (300, 0.5), (500, -3.0), (900, 1.0), (900, 7.0)];
    let sorted = sorted.map(|(time, load)| Point::at(time, "a", load).row(&request.projection));
    assert_eq!(found, sorted, "of one time the lower offset is first");
    let pages: Vec<_> = snapshot.pages().collect();
    let [page] = pages[..] else { panic!("{pages:?}") };
    assert_eq!((page.rows, page.time_min, page.time_max), (7, 100, 900));
    assert_eq!((page.offset_min, page.offset_max), (Offset::new(0), Offset::new(6)));
    let ColumnSummary::Float(Some(load)) = page.columns[common::LOAD] else { panic!("{page:?}") };
    assert_eq!((load.count, load.min, load.first.0, load.last), (7, -3.0, 100, (900, 7.0)));
    assert!(load.max.is_nan() && load.sum.is_nan() && load.first.1.is_nan(), "{load:?}");
    let ColumnSummary::Integer(Some(count)) = page.columns[4] else { panic!("{page:?}") };
    assert_eq!((count.count, count.sum), (5, 5 * i128::from(i64::MAX)));
    assert_eq!((count.first.0, count.last.0), (100, 900));
    let ColumnSummary::Tag(Some(host)) = &page.columns[common::HOST] else { panic!("{page:?}") };
    assert_eq!((host.values.as_slice(), host.nulls), (&["a".to_owned()][..], false));
    assert_eq!(page.columns[6], ColumnSummary::Other { count: 0 });
    let (reopened, _) = open(dir.path(), &source([]), small());
    let (before, after) = (format!("{pages:?}"), format!("{:?}", reopened.snapshot().pages().collect::<Vec<_>>()));
    assert_eq!(before, after, "the footer keeps all of it");
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
            self.1.project(batch, from, rejects).map(self.0)
        }
    }
    let shuffled = |points: Points| Points { offsets: points.offsets.into_iter().rev().collect(), ..points };
    let missing = |points: Points| Points { offsets: points.offsets[1..].to_vec(), ..points };
    let outside = |points: Points| Points { offsets: points.offsets.iter().map(|offset| offset.advance(1)).collect(), ..points };
    let retyped = |points: Points| Points { columns: points.columns.project(&[1, 0, 2, 3, 4, 5, 6]).expect("columns"), ..points };
    for wrong in [shuffled, missing, outside, retyped] {
        let dir = tempfile::tempdir().expect("a folder");
        let source = source((0..5_i64).map(|n| Point::at(n, "a", 0.0)));
        let projection = Wrong(wrong, common::FromSource { source, arrow: common::arrow_schema() });
        let (table, mut materializer) =
            SeriesTable::open(dir.path(), common::schema(), Box::new(projection), small()).expect("opens");
        let error = materializer.apply(&log(5, 5)[0], &mut Rejects::default()).expect_err("checked");
        assert!(error.to_string().starts_with("the projection gave points that don't fit"), "{error}");
        assert_eq!((table.snapshot().offset(), table.stats().points), (Offset::ZERO, 0));
    }
}
