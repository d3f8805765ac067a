//! Series whose every record is a point of its own, whatever others have the same tags and time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::ops::ControlFlow;

use common::{Entry, Erase, Point, Source, everything, feed, log, open_as, rows, schema, small};
use logcore::materialize::Materializer;
use tsstore::{AggregateRequest, Duplicates, LastRequest, ScanOrder, ScanRequest, SeriesSchema};

fn keeping() -> SeriesSchema {
    SeriesSchema { duplicates: Duplicates::Keep, ..schema() }
}

/// Few times and hosts, so that most points have others of their kind, also in one record's neighbourhood.
fn entries(count: u32, seed: u64) -> Source {
    let mut state = seed;
    let mut below = |limit: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((state >> 33) % u64::from(limit)).unwrap()
    };
    let entry = |n: u32| match below(40) {
        0 => Entry::Delete(Erase { from: Some(1_000), until: Some(2_000 + i64::from(below(4)) * 500), ..Erase::default() }),
        1 => Entry::Unfit,
        _ => {
            let host = ["a", "b", "c"][below(3) as usize];
            Entry::Point(Point {
                count: (below(3) > 0).then_some(i64::from(n)),
                ..Point::at(i64::from(below(12)) * 500, host, f64::from(n))
            })
        }
    };
    Source::new((0..count).map(entry).collect())
}

/// The rows that there should be, sorted.
fn expected(source: &Source, records: usize) -> Vec<Vec<String>> {
    let mut kept: Vec<&Point> = Vec::new();
    for entry in &source[..records] {
        match entry {
            Entry::Point(point) => kept.push(point),
            Entry::Delete(Erase { from, until, .. }) => {
                kept.retain(|point| {
                    !(from.is_none_or(|from| point.time >= from) && until.is_none_or(|until| point.time < until))
                });
            }
            Entry::Unfit => {}
        }
    }
    let mut rows: Vec<_> = kept.into_iter().map(|point| point.row(&(0..common::COLUMNS).collect::<Vec<_>>())).collect();
    rows.sort();
    rows
}

#[test]
fn every_record_stays_through_checkpoints_merges_and_restarts() {
    for seed in 1..=12_u64 {
        let source = entries(400, seed);
        let log = log(400, 11);
        let dir = tempfile::tempdir().unwrap();
        let (mut table, mut materializer) = open_as(dir.path(), keeping(), &source, small()).unwrap();
        for (n, _) in log.iter().enumerate() {
            feed(&mut materializer, &log[..=n]);
            let records = usize::try_from(table.snapshot().offset().value()).unwrap();
            let mut found = rows(&table.snapshot(), &everything());
            found.sort();
            assert_eq!(found, expected(&source, records), "seed {seed}, {records} records");
            if (u64::try_from(n).unwrap() * 7 + seed).is_multiple_of(3) {
                materializer.checkpoint().unwrap();
            }
            if (u64::try_from(n).unwrap() + seed).is_multiple_of(13) {
                drop((table, materializer));
                (table, materializer) = open_as(dir.path(), keeping(), &source, small()).unwrap();
                feed(&mut materializer, &log[..=n]);
            }
        }
        let snapshot = table.snapshot();
        let all = expected(&source, 400);
        // Ordered both ways, each is there once; of one time those of later records come later.
        for order in [ScanOrder::SeriesTime, ScanOrder::SeriesNewest] {
            let mut found = rows(&snapshot, &ScanRequest { order, ..everything() });
            assert_eq!(found.len(), all.len(), "seed {seed}");
            found.sort();
            assert_eq!(found, all, "seed {seed}");
        }
        for without_footers in [false, true] {
            let request =
                AggregateRequest { columns: vec![0], group_by: vec![2], without_footers, ..AggregateRequest::default() };
            let counted: u64 = snapshot.aggregate(&request).unwrap().iter().map(|group| group.rows).sum();
            assert_eq!(counted, all.len() as u64, "seed {seed}");
        }
        // The last of a series is that of the latest record among those of the latest time.
        let mut last = Vec::new();
        let request = LastRequest { projection: vec![2, 1, 0], ..LastRequest::default() };
        snapshot
            .last_values(&request, &mut |batch| {
                use arrow::array::AsArray;
                let (hosts, times) = (
                    batch.column(0).as_string::<i32>(),
                    batch.column(1).as_primitive::<arrow::datatypes::TimestampMicrosecondType>(),
                );
                let loads = batch.column(2).as_primitive::<arrow::datatypes::Float64Type>();
                last.extend(
                    (0..batch.num_rows()).map(|row| (hosts.value(row).to_owned(), times.value(row), loads.value(row).to_bits())),
                );
                ControlFlow::Continue(())
            })
            .unwrap();
        for (host, time, load) in last {
            let rows = all.iter().filter(|row| row[2] == format!("{:?}", Some(&host)));
            let latest = rows.clone().map(|row| row[1].clone()).filter(|at| *at == format!("{:?}", Some(time))).count();
            assert!(latest > 0, "seed {seed}");
            let newest = source.iter().rev().find_map(|entry| match entry {
                Entry::Point(point) if point.host.as_deref() == Some(&host) && point.time == time => point.load.map(f64::to_bits),
                _ => None,
            });
            assert_eq!(newest, Some(load), "seed {seed}, {host}");
        }
    }
}
