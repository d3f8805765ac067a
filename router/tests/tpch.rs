//! TPC-H: the 22 queries of `tests/tpch` with their validation parameters, over the data of its generator, on PostgreSQL and on
//! Headwater. Names, types and rows must be the same, in the same order.
//!
//! Computed numerics are compared by their first 12 significant digits: an average has more digits behind the point in one system
//! than in the other. Everything else is compared as it is shown.
//!
//! The scale is 0.01, or what `HEADWATER_TPCH_SCALE` says; the times of both systems are printed. With `HEADWATER_TPCH_EXPLAIN=5,21`
//! the plans of those queries are printed too.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a test")]

mod common;
mod postgres;

use std::fmt::{Display, Write as _};
use std::time::{Duration, Instant};

use postgres::{Answer, Failure, Headwater, Postgres, Server};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator, RegionGenerator,
    SupplierGenerator,
};

/// Bytes of the data in one INSERT; a statement's text may have a MiB.
const INSERT_BYTES: usize = 700_000;

/// The tables as TPC-H has them, in an order in which their foreign keys exist: name, columns, constraints. A foreign key brings an
/// index of its columns with it here; [`POSTGRES_INDEXES`] are the same there.
const TABLES: [(&str, &str, &str); 8] = [
    ("region", "r_regionkey INTEGER, r_name CHAR(25), r_comment VARCHAR(152)", "PRIMARY KEY (r_regionkey)"),
    (
        "nation",
        "n_nationkey INTEGER, n_name CHAR(25), n_regionkey INTEGER, n_comment VARCHAR(152)",
        "PRIMARY KEY (n_nationkey), FOREIGN KEY (n_regionkey) REFERENCES region",
    ),
    (
        "part",
        "p_partkey INTEGER, p_name VARCHAR(55), p_mfgr CHAR(25), p_brand CHAR(10), p_type VARCHAR(25), p_size INTEGER, \
         p_container CHAR(10), p_retailprice DECIMAL(15,2), p_comment VARCHAR(23)",
        "PRIMARY KEY (p_partkey)",
    ),
    (
        "supplier",
        "s_suppkey INTEGER, s_name CHAR(25), s_address VARCHAR(40), s_nationkey INTEGER, s_phone CHAR(15), \
         s_acctbal DECIMAL(15,2), s_comment VARCHAR(101)",
        "PRIMARY KEY (s_suppkey), FOREIGN KEY (s_nationkey) REFERENCES nation",
    ),
    (
        "partsupp",
        "ps_partkey INTEGER, ps_suppkey INTEGER, ps_availqty INTEGER, ps_supplycost DECIMAL(15,2), ps_comment VARCHAR(199)",
        "PRIMARY KEY (ps_partkey, ps_suppkey), FOREIGN KEY (ps_partkey) REFERENCES part, FOREIGN KEY (ps_suppkey) REFERENCES supplier",
    ),
    (
        "customer",
        "c_custkey INTEGER, c_name VARCHAR(25), c_address VARCHAR(40), c_nationkey INTEGER, c_phone CHAR(15), \
         c_acctbal DECIMAL(15,2), c_mktsegment CHAR(10), c_comment VARCHAR(117)",
        "PRIMARY KEY (c_custkey), FOREIGN KEY (c_nationkey) REFERENCES nation",
    ),
    (
        "orders",
        "o_orderkey BIGINT, o_custkey INTEGER, o_orderstatus CHAR(1), o_totalprice DECIMAL(15,2), o_orderdate DATE, \
         o_orderpriority CHAR(15), o_clerk CHAR(15), o_shippriority INTEGER, o_comment VARCHAR(79)",
        "PRIMARY KEY (o_orderkey), FOREIGN KEY (o_custkey) REFERENCES customer",
    ),
    (
        "lineitem",
        "l_orderkey BIGINT, l_partkey INTEGER, l_suppkey INTEGER, l_linenumber INTEGER, l_quantity DECIMAL(15,2), \
         l_extendedprice DECIMAL(15,2), l_discount DECIMAL(15,2), l_tax DECIMAL(15,2), l_returnflag CHAR(1), l_linestatus CHAR(1), \
         l_shipdate DATE, l_commitdate DATE, l_receiptdate DATE, l_shipinstruct CHAR(25), l_shipmode CHAR(10), l_comment VARCHAR(44)",
        "PRIMARY KEY (l_orderkey, l_linenumber), FOREIGN KEY (l_orderkey) REFERENCES orders,
         FOREIGN KEY (l_partkey, l_suppkey) REFERENCES partsupp (ps_partkey, ps_suppkey)",
    ),
];

/// Of both, beyond those of keys.
const INDEXES: [&str; 3] = [
    "CREATE INDEX lineitem_shipdate ON lineitem (l_shipdate)",
    "CREATE INDEX lineitem_suppkey ON lineitem (l_suppkey)",
    "CREATE INDEX orders_orderdate ON orders (o_orderdate)",
];

const POSTGRES_INDEXES: [&str; 6] = [
    "CREATE INDEX ON nation (n_regionkey)",
    "CREATE INDEX ON supplier (s_nationkey)",
    "CREATE INDEX ON partsupp (ps_suppkey)",
    "CREATE INDEX ON customer (c_nationkey)",
    "CREATE INDEX ON orders (o_custkey)",
    "CREATE INDEX ON lineitem (l_partkey, l_suppkey)",
];

/// Both systems, and how long each took for what was run on both.
struct Both {
    there: Postgres,
    here: Headwater,
    times: (Duration, Duration),
}

impl Both {
    /// Runs a statement that must not fail.
    fn must(&mut self, sql: &str) {
        let (there, here) = self.run(sql);
        there.unwrap_or_else(|error| panic!("PostgreSQL: {error}: {sql:.200}"));
        here.unwrap_or_else(|error| panic!("Headwater: {error}: {sql:.200}"));
    }

    fn run(&mut self, sql: &str) -> (Result<Answer, Failure>, Result<Answer, Failure>) {
        let began = Instant::now();
        let there = self.there.run(sql);
        self.times.0 += began.elapsed();
        let began = Instant::now();
        let here = self.here.run(sql);
        self.times.1 += began.elapsed();
        (there, here)
    }

    /// The same, where Headwater may still be building an index of the table.
    fn must_define(&mut self, sql: &str) {
        self.there.run(sql).unwrap_or_else(|error| panic!("PostgreSQL: {error}: {sql}"));
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Err(error) = self.here.run(sql) {
            assert!(error.code == "55006" && Instant::now() < deadline, "Headwater: {error}: {sql}");
            std::thread::yield_now();
        }
    }

    /// The generator writes a row as `1|text|1.50|`, its own format, in which no value has a `|` or an end of line. Many of them are
    /// one text constant, which both systems take apart themselves: much sooner than they read as many constants.
    fn load<R: Display>(&mut self, (table, columns, _): (&str, &str, &str), rows: impl Iterator<Item = R>) -> usize {
        let columns = columns.split(", ").enumerate().map(|(at, column)| {
            let (name, kind) = column.trim().split_once(' ').unwrap();
            format!("split_part(line, '|', {})::{kind} AS {name}", at + 1)
        });
        let columns = columns.collect::<Vec<_>>().join(", ");
        let (mut rows, mut count) = (rows.peekable(), 0);
        while rows.peek().is_some() {
            let mut lines = String::new();
            while lines.len() < INSERT_BYTES
                && let Some(row) = rows.next()
            {
                count += 1;
                let _ = write!(lines, "{}{row}", if lines.is_empty() { "" } else { "\n" });
            }
            let lines = lines.replace('\'', "''");
            self.must(&format!(
                "INSERT INTO {table} SELECT {columns} FROM unnest(string_to_array('{lines}', E'\\n')) AS lines (line)"
            ));
        }
        count
    }
}

fn load(both: &mut Both, scale: f64) {
    for (name, columns, constraints) in TABLES {
        let columns = columns.replace(", ", " NOT NULL, ");
        both.must(&format!("CREATE TABLE {name} ({columns} NOT NULL, {constraints})"));
    }
    INDEXES.iter().for_each(|sql| both.must_define(sql));
    POSTGRES_INDEXES.iter().for_each(|sql| drop(both.there.run(sql).unwrap()));
    both.times = Default::default();
    let [region, nation, part, supplier, partsupp, customer, orders, lineitem] = TABLES;
    let count = both.load(region, RegionGenerator::new(scale, 1, 1).iter())
        + both.load(nation, NationGenerator::new(scale, 1, 1).iter())
        + both.load(part, PartGenerator::new(scale, 1, 1).iter())
        + both.load(supplier, SupplierGenerator::new(scale, 1, 1).iter())
        + both.load(partsupp, PartSuppGenerator::new(scale, 1, 1).iter())
        + both.load(customer, CustomerGenerator::new(scale, 1, 1).iter())
        + both.load(orders, OrderGenerator::new(scale, 1, 1).iter())
        + both.load(lineitem, LineItemGenerator::new(scale, 1, 1).iter());
    let loaded = both.times;
    both.must("ANALYZE");
    both.times = loaded;
    println!("{count} rows at scale {scale}: loaded by PostgreSQL in {:.1?}, by Headwater in {:.1?}", both.times.0, both.times.1);
}

/// The statements of a query's file.
fn query(number: usize, scale: f64) -> Vec<String> {
    let file = format!("{}/tests/tpch/q{number:02}.sql", std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let text = std::fs::read_to_string(file).unwrap();
    let text: String = text.lines().filter(|line| !line.starts_with("--")).flat_map(|line| [line, "\n"]).collect();
    let text = text.replace("/* per scale */", &format!("/ {scale}"));
    text.split(';').map(str::trim).filter(|sql| !sql.is_empty()).map(str::to_owned).collect()
}

fn is_select(sql: &str) -> bool {
    sql.starts_with("select")
}

fn difference(there: &Result<Answer, Failure>, here: &Result<Answer, Failure>) -> Option<String> {
    let there = there.as_ref().expect("PostgreSQL answers TPC-H");
    let here = match here {
        Ok(here) => here,
        Err(error) => return Some(error.to_string()),
    };
    if (&there.names, &there.types) != (&here.names, &here.types) {
        return Some(format!("columns {:?} {:?}, in PostgreSQL {:?} {:?}", here.names, here.types, there.names, there.types));
    }
    if there.rows.len() != here.rows.len() {
        return Some(format!("{} rows, in PostgreSQL {}", here.rows.len(), there.rows.len()));
    }
    let (at, (there, here)) = there.rows.iter().zip(&here.rows).enumerate().find(|(_, (there, here))| there != here)?;
    Some(format!("row {at} is {here:?}, in PostgreSQL {there:?}"))
}

#[test]
fn all_queries_answer_as_in_postgresql() {
    let scale: f64 = std::env::var("HEADWATER_TPCH_SCALE").map_or(0.01, |scale| scale.parse().unwrap());
    let explained = std::env::var("HEADWATER_TPCH_EXPLAIN").unwrap_or_default();
    let server = Server::start();
    let mut both = Both { there: server.database("tpch"), here: Headwater::new(), times: Default::default() };
    load(&mut both, scale);
    let mut failures = String::new();
    println!("query        rows  PostgreSQL   Headwater");
    for number in 1..=22 {
        let (mut rows, mut found) = (0, None);
        both.times = Default::default();
        for sql in query(number, scale) {
            if !is_select(&sql) {
                both.must(&sql);
                continue;
            }
            if explained.split(',').any(|one| one == number.to_string()) {
                let plan = both.here.run(&format!("EXPLAIN ANALYZE {sql}"));
                println!("{}", plan.map_or_else(|error| error.to_string(), |plan| plan.rows.concat().join("\n")));
            }
            let (there, here) = both.run(&sql);
            found = difference(&there, &here);
            rows = there.map_or(0, |answer| answer.rows.len());
        }
        let (there, here) = both.times;
        println!("{number:>5}  {rows:>10}  {there:>10.1?}  {here:>10.1?}");
        if let Some(found) = found {
            let _ = writeln!(failures, "-- Q{number}: {found}");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}
