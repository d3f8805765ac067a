//! Gaps in time: every bucket of a range is there, filled or not, against a plain evaluation.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use common::Fixture;
use serde_json::{Value, json};

/// 2024-03-01T00:00:00Z.
const START: i64 = 1_709_251_200;
const HOUR: i64 = 3_600;

fn hour(n: i64) -> String {
    format!("2024-03-{:02}T{:02}:00:00Z", 1 + n / 24, n % 24)
}

/// Hours since [`START`], hosts, values.
fn points() -> Vec<(i64, Option<&'static str>, f64)> {
    vec![
        (1, Some("a"), 10.0),
        (1, Some("a"), 20.0),
        (4, Some("a"), 30.0),
        (5, Some("b"), 1.0),
        (9, Some("a"), 0.0),
        (9, None, 7.0),
        (30, Some("a"), 99.0),
    ]
}

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE m (id BIGINT PRIMARY KEY, ts TIMESTAMPTZ, host TEXT, v DOUBLE PRECISION)");
    for (n, (at, host, value)) in points().into_iter().enumerate() {
        let host = host.map_or("NULL".to_owned(), |host| format!("'{host}'"));
        let at = START + at * HOUR + i64::try_from(n).unwrap();
        fixture.run(&format!("INSERT INTO m VALUES ({n}, to_timestamp({at}), {host}, {value})"));
    }
    fixture
}

#[test]
fn every_bucket_of_a_range_is_there_for_every_group() {
    let fixture = fixture();
    let rows = fixture.rows(
        "SELECT time_bucket_gapfill('1 hour', ts) AS hour, host, avg(v), locf(avg(v)), interpolate(avg(v)), count(*)
         FROM m WHERE ts >= '2024-03-01' AND ts < '2024-03-01T12:00:00Z' GROUP BY hour, host ORDER BY host NULLS FIRST, hour",
    );
    let mut expected = Vec::new();
    for host in [None, Some("a"), Some("b")] {
        let mut means: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
        points()
            .into_iter()
            .filter(|point| point.1 == host && point.0 < 12)
            .for_each(|point| means.entry(point.0).or_default().push(point.2));
        let mean =
            |at: i64| means.get(&at).map(|values| values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap()));
        for at in 0..12 {
            let old = (0..=at).rev().find_map(|at| mean(at).map(|mean| (at, mean)));
            let new = (at..12).find_map(|at| mean(at).map(|mean| (at, mean)));
            let between = match (old, new) {
                (Some(old), Some(new)) if old.0 == new.0 => Some(old.1),
                (Some(old), Some(new)) => {
                    let part = |n: i64| f64::from(i32::try_from(n).unwrap());
                    Some(old.1 + (new.1 - old.1) * part(at - old.0) / part(new.0 - old.0))
                }
                _ => None,
            };
            let count = means.get(&at).map(Vec::len);
            expected.push(json!([hour(at), host, mean(at), old.map(|old| old.1), between, count]));
        }
    }
    assert_eq!(rows, expected);
}

#[test]
fn ranges_are_taken_from_the_condition_or_said() {
    let fixture = fixture();
    let hours = |rows: Vec<Value>| rows.into_iter().map(|row| row[0].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let expected = |range: std::ops::Range<i64>| range.map(hour).collect::<Vec<_>>();
    for (condition, range) in [
        ("ts >= '2024-03-01' AND ts < '2024-03-01T03:00:00Z'", 0..3),
        ("ts > '2024-03-01T01:30:00Z' AND ts <= '2024-03-01T03:00:00Z'", 1..4),
        ("'2024-03-01T01:00:00Z' <= ts AND '2024-03-01T03:00:00Z' > ts AND v > 5", 1..3),
        ("(ts BETWEEN '2024-03-01T01:00:00Z' AND '2024-03-01T03:00:00Z') AND host = 'a'", 1..4),
        // Nothing is there, and no group asks for it.
        ("ts >= '2024-03-10' AND ts < '2024-03-10T02:00:00Z'", 216..218),
    ] {
        let sql =
            format!("SELECT time_bucket_gapfill('1 hour', ts) AS b, count(*) FROM m WHERE {condition} GROUP BY 1 ORDER BY 1");
        assert_eq!(hours(fixture.rows(&sql)), expected(range), "{condition}");
    }
    let said =
        "SELECT time_bucket_gapfill('1 hour', ts, '2024-03-01'::timestamptz, '2024-03-01T02:30:00Z'::timestamptz), sum(v) FROM m
                GROUP BY 1 ORDER BY 1 DESC LIMIT 2";
    assert_eq!(hours(fixture.rows(said)), [hour(2), hour(1)]);
    let grouped = "SELECT time_bucket_gapfill('1 hour', ts) AS b, host FROM m WHERE ts >= '2024-03-10' AND ts < '2024-03-11' GROUP BY b, host";
    assert_eq!(fixture.rows(grouped), [] as [Value; 0], "there is no group");
    // In a subquery, with HAVING, by months, and computed with outside.
    let nested = "SELECT max(filled) FROM (SELECT time_bucket_gapfill('1 hour', ts) AS b, locf(sum(v)) AS filled FROM m
                  WHERE ts >= '2024-03-01' AND ts < '2024-03-02' GROUP BY b HAVING sum(v) < 40) AS t";
    assert_eq!(fixture.rows(nested), [json!([30.0])]);
    let months = "SELECT time_bucket_gapfill('1 month', ts) AS m, count(*) FROM m WHERE ts >= '2024-01-15' AND ts < '2024-04-02' GROUP BY m ORDER BY m";
    assert_eq!(fixture.rows(months).len(), 4);
    for (sql, says) in [
        ("SELECT time_bucket_gapfill('1 hour', ts) AS b, sum(v) FROM m GROUP BY b", "does not know the range of ts"),
        (
            "SELECT time_bucket_gapfill('1 hour', ts) AS b, sum(v) FROM m WHERE ts > '2024-03-01' GROUP BY b",
            "does not know the range",
        ),
        (
            "SELECT time_bucket_gapfill('1 hour', ts, '2024-03-01'::timestamptz, '2024-03-02'::timestamptz) AS b, sum(v) FROM m",
            "must be in GROUP BY",
        ),
        ("SELECT locf(sum(v)) FROM m", "fill the gaps of time_bucket_gapfill"),
        (
            "SELECT time_bucket_gapfill('1 hour', ts) AS b, 1 + locf(sum(v)) FROM m WHERE ts >= '2024-03-01' AND ts < '2024-03-02' GROUP BY b",
            "inside of another expression",
        ),
        ("SELECT time_bucket_gapfill('1 hour') FROM m GROUP BY 1", "takes a width and a time"),
        (
            "SELECT time_bucket_gapfill('1 us', ts, '2000-01-01'::timestamptz, '2024-03-02'::timestamptz) AS b, sum(v) FROM m GROUP BY b",
            "buckets",
        ),
    ] {
        let error = fixture.error(sql).to_string();
        assert!(error.contains(says), "{sql}: {error}");
    }
}
