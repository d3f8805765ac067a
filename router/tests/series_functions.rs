//! Aggregates over values in time against a plain evaluation, in one group and in many.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Fixture;
use serde_json::{Value, json};

/// Points of three hosts, out of order: a counter that is reset now and then.
fn points() -> Vec<(i64, &'static str, f64)> {
    let (mut state, mut points) = (0x2545_F491_u64, Vec::new());
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for host in ["a", "b", "c"] {
        let (mut at, mut value) = (1_700_000_000_i64, 0.0);
        for _ in 0..200 {
            at += 1 + i64::try_from(next(50)).unwrap();
            value = if next(20) == 0 { 0.0 } else { value + f64::from(u32::try_from(next(9)).unwrap()) };
            points.push((at, host, value));
        }
    }
    // Every other one comes late.
    let (early, late): (Vec<_>, Vec<_>) = points.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    early.into_iter().chain(late).map(|(_, point)| point).collect()
}

fn increase(points: &[(i64, f64)]) -> f64 {
    points.windows(2).map(|pair| if pair[1].1 < pair[0].1 { pair[1].1 } else { pair[1].1 - pair[0].1 }).sum()
}

fn near(found: &Value, expected: f64) -> bool {
    found.as_f64().is_some_and(|found| (found - expected).abs() <= 1e-9 * expected.abs().max(1.0))
}

#[test]
fn changes_and_histograms_equal_a_plain_evaluation() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE m (ts TIMESTAMPTZ, host TEXT, v DOUBLE PRECISION, PRIMARY KEY (ts, host))");
    let points = points();
    for chunk in points.chunks(100) {
        let rows: Vec<String> =
            chunk.iter().map(|(at, host, value)| format!("(to_timestamp({at}), '{host}', {value})")).collect();
        fixture.run(&format!("INSERT INTO m SELECT * FROM (VALUES {}) AS t", rows.join(", ")));
    }
    let of = |host: &str| {
        let mut own: Vec<(i64, f64)> = points.iter().filter(|point| point.1 == host).map(|point| (point.0, point.2)).collect();
        own.sort_by_key(|point| point.0);
        own
    };
    let rows = fixture.rows("SELECT host, delta(v, ts), increase(v, ts), rate(v, ts) FROM m GROUP BY host ORDER BY host");
    assert_eq!(rows.len(), 3);
    for row in &rows {
        let own = of(row[0].as_str().unwrap());
        let (first, last) = (own[0], own[own.len() - 1]);
        assert!(near(&row[1], last.1 - first.1) && near(&row[2], increase(&own)), "{row}");
        let seconds = f64::from(u32::try_from(last.0 - first.0).unwrap());
        assert!(near(&row[3], increase(&own) / seconds), "{row}");
    }
    // In buckets, with a whole number as value and a condition.
    let bucketed = fixture.rows(
        "SELECT time_bucket('10 minutes', ts) AS b, increase(v::bigint, ts), count(*) FROM m WHERE host = 'b' GROUP BY b ORDER BY b",
    );
    let mut sum = 0;
    for row in &bucketed {
        let count = row[2].as_u64().unwrap();
        assert_eq!(row[1].is_null(), count < 2, "{row}");
        sum += count;
    }
    assert_eq!(sum, 200);
    let counts = fixture.rows("SELECT histogram(v, 10, 50, 4) FROM m");
    let within = |low: f64, high: f64| points.iter().filter(|point| point.2 >= low && point.2 < high).count();
    let expected = [
        within(-1.0, 10.0),
        within(10.0, 20.0),
        within(20.0, 30.0),
        within(30.0, 40.0),
        within(40.0, 50.0),
        within(50.0, f64::MAX),
    ];
    assert_eq!(counts, [json!([expected])]);
    // One point has no change, none has nothing; NULLs are no points.
    assert_eq!(fixture.rows("SELECT rate(v, ts), delta(v, ts) FROM m WHERE v < 0"), [json!([null, null])]);
    assert_eq!(fixture.rows("SELECT histogram(v, 0, 1, 2) FROM m WHERE v < 0"), [json!([[0, 0, 0, 0]])]);
    let nulls = "SELECT delta(v, ts) FROM (VALUES (1.0, TIMESTAMPTZ '2024-01-01'), (NULL, TIMESTAMPTZ '2024-01-02'), \
                 (4.0, TIMESTAMPTZ '2024-01-03')) AS t(v, ts)";
    assert_eq!(fixture.rows(nulls), [json!([3.0])]);
    for sql in [
        "SELECT rate(v) FROM m",
        "SELECT rate(host, ts) FROM m",
        "SELECT rate(v, v) FROM m",
        "SELECT histogram(v, 0, 10) FROM m",
        "SELECT histogram(v, 10, 0, 5) FROM m",
        "SELECT histogram(v, 0, 10, 0) FROM m",
        "SELECT histogram(v, 0, 10, 100000) FROM m",
        "SELECT histogram(v, v, 10, 5) FROM m",
    ] {
        let error = fixture.error(sql);
        assert_ne!(error.code(), "XX000", "{sql}: {error}");
    }
}
