//! A rebuilt row view equals the live one, now and at every past offset: every column type, through random changes of rows and
//! definitions. The seed is printed; `HEADWATER_SEED` runs another.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::{Duration, Instant};

use common::Fixture;
use serde_json::{Value, json};

/// Every type, with values as they are written.
const TYPES: [(&str, &[&str]); 20] = [
    ("BOOLEAN", &["false", "true"]),
    ("SMALLINT", &["-32768", "0", "32767"]),
    ("INTEGER", &["-2147483648", "7"]),
    ("BIGINT", &["-9223372036854775807", "1", "9007199254740993"]),
    ("REAL", &["-1.5", "0.1", "NaN"]),
    ("DOUBLE PRECISION", &["-1e300", "0.1", "Infinity"]),
    ("NUMERIC(8,2)", &["-3.25", "10.5", "999999.99"]),
    ("NUMERIC(38,10)", &["-0.0000000001", "1.5"]),
    ("TEXT", &["", "a", "\u{e4}\u{f6}", "it''s"]),
    ("VARCHAR(3)", &["ab", "\u{e4}\u{f6}\u{fc}"]),
    ("CHAR(3)", &["ab", "abc"]),
    ("BYTEA", &["\\x", "\\x00ff"]),
    ("DATE", &["1969-12-31", "2024-02-29"]),
    ("TIME", &["00:00:00", "23:59:59.999999"]),
    ("TIMESTAMP", &["1969-12-31 23:59:59", "2024-02-29 12:00:00.25"]),
    ("TIMESTAMPTZ", &["2024-05-31T12:00:00+02:00", "1900-01-01T00:00:00Z"]),
    ("INTERVAL", &["-1 day", "1 day 02:03:04", "14 months"]),
    ("UUID", &["00000000-0000-0000-0000-000000000001", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"]),
    ("JSON", &["{\"a\": [1, null]}", "7"]),
    ("BIGINT[]", &["{}", "{1,NULL,3}"]),
];

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn literal(&mut self, kind: usize) -> String {
        let values = TYPES[kind].1;
        match self.below(values.len() + 1) {
            at if at < values.len() => format!("'{}'", values[at]),
            _ => "NULL".into(),
        }
    }
}

fn seed() -> u64 {
    let seed = std::env::var("HEADWATER_SEED").map_or(20_261_121, |seed| seed.parse().unwrap());
    eprintln!("HEADWATER_SEED={seed}");
    seed
}

/// A table that changes at random: its columns beside the key, by name and type.
struct Table {
    columns: Vec<(String, usize)>,
    named: usize,
}

impl Table {
    /// A statement that is right now, and whether it changes rows.
    fn statement(&mut self, random: &mut Random) -> String {
        let id = random.below(15);
        match random.below(16) {
            0 if self.columns.len() < 30 => {
                let (name, kind) = (format!("c{}", self.named), random.below(TYPES.len()));
                self.named += 1;
                self.columns.push((name.clone(), kind));
                let default = random.literal(kind);
                format!("ALTER TABLE t ADD COLUMN {name} {} DEFAULT {default}", TYPES[kind].0)
            }
            1 if self.columns.len() > 5 => {
                let (name, _) = self.columns.remove(random.below(self.columns.len()));
                format!("ALTER TABLE t DROP COLUMN {name}")
            }
            2 => {
                let (at, name) = (random.below(self.columns.len()), format!("c{}", self.named));
                self.named += 1;
                let old = std::mem::replace(&mut self.columns[at].0, name.clone());
                format!("ALTER TABLE t RENAME COLUMN {old} TO {name}")
            }
            3 => {
                let (name, kind) = self.columns[random.below(self.columns.len())].clone();
                format!("ALTER TABLE t ALTER COLUMN {name} SET DEFAULT {}", random.literal(kind))
            }
            4 | 5 => format!("DELETE FROM t WHERE id = {id}"),
            6..=9 => {
                let (name, kind) = self.columns[random.below(self.columns.len())].clone();
                format!("UPDATE t SET {name} = {} WHERE id >= {id}", random.literal(kind))
            }
            10 => format!("UPDATE t SET part = part || 'x' WHERE id = {id} AND length(part) < 9"),
            _ => {
                let given: Vec<(String, usize)> = self.columns.iter().filter(|_| random.below(3) > 0).cloned().collect();
                let names: String = given.iter().map(|(name, _)| format!(", {name}")).collect();
                let values: String = given.iter().map(|(_, kind)| format!(", {}", random.literal(*kind))).collect();
                format!("INSERT INTO t (id, part{names}) VALUES ({id}, 'p{}'{values}) ON CONFLICT DO NOTHING", random.below(3))
            }
        }
    }
}

fn rebuilt(fixture: &Fixture, table: &str) {
    let generation = fixture.database.view(table).unwrap().generation;
    fixture.run(&format!("REBUILD VIEW {table}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    fixture.runtime.block_on(fixture.database.rebuilt(table, generation + 1, deadline)).unwrap();
}

#[test]
fn a_rebuilt_table_of_every_type_equals_the_live_one() {
    let mut random = Random(seed());
    let mut fixture = Fixture::new();
    let columns: String = TYPES.iter().enumerate().map(|(n, (kind, _))| format!(", c{n} {kind}")).collect();
    fixture.run(&format!("CREATE TABLE t (id BIGINT, part TEXT{columns}, PRIMARY KEY (id, part))"));
    let mut table = Table { columns: (0..TYPES.len()).map(|n| (format!("c{n}"), n)).collect(), named: TYPES.len() };
    for round in 0..4 {
        for _ in 0..45 {
            let sql = table.statement(&mut random);
            fixture.run(&sql);
        }
        let end = fixture.database.stream("_tables").unwrap().partitions[0].status.committed.value();
        let mut moments: Vec<String> = vec!["t".into()];
        moments
            .extend((0..12).map(|_| format!("t FOR SYSTEM_TIME AS OF OFFSET {}", random.below(usize::try_from(end).unwrap()))));
        let all = |fixture: &Fixture| -> Vec<Vec<Value>> {
            moments.iter().map(|moment| fixture.rows(&format!("SELECT * FROM {moment} ORDER BY id, part"))).collect()
        };
        let live = all(&fixture);
        let feed = fixture.rows("SELECT * FROM CHANGES(t)");
        rebuilt(&fixture, "t");
        assert_eq!(all(&fixture), live, "round {round}");
        assert_eq!(fixture.rows("SELECT * FROM CHANGES(t)"), feed, "round {round}: the change feed");
        if round % 2 == 1 {
            fixture = fixture.reopen(true);
            assert_eq!(all(&fixture), live, "round {round}, opened again");
        }
    }
    assert!(fixture.rows("SELECT count(*) FROM t")[0][0].as_u64().unwrap() > 0, "there were rows to compare");
}

#[test]
fn a_rebuilt_view_of_a_stream_equals_the_live_one() {
    let mut random = Random(seed() ^ 1);
    let fixture = Fixture::new();
    let columns: String = TYPES.iter().enumerate().map(|(n, (kind, _))| format!(", c{n} {kind}")).collect();
    fixture.run(&format!(
        "CREATE STREAM s;
         CREATE TABLE t (id BIGINT PRIMARY KEY{columns}) USING row FROM STREAM s;
         CREATE TABLE every (id BIGINT, size BIGINT) USING row FROM STREAM s AS SELECT (value->>'id')::bigint, length(value::text) FROM s"
    ));
    for _ in 0..40 {
        let record = |random: &mut Random| {
            let mut record = json!({"id": random.below(30)});
            for (n, (_, values)) in TYPES.iter().enumerate() {
                if random.below(3) > 0 {
                    // What does not fit the column makes a dead letter of the record.
                    let values = if random.below(40) == 0 { TYPES[random.below(TYPES.len())].1 } else { values };
                    let text = values[random.below(values.len())];
                    record[format!("c{n}")] = serde_json::from_str(text).unwrap_or_else(|_| text.into());
                }
            }
            record
        };
        let records: Vec<Value> = (0..10).map(|_| record(&mut random)).collect();
        fixture.append("s", &records);
    }
    let all = || {
        let rows = |sql: &str| fixture.rows_with(sql, vec![], "s/0@399").unwrap();
        let now = rows("SELECT * FROM t ORDER BY id");
        let letters = fixture.database.view("t").unwrap().dead_letters;
        let past = rows("SELECT * FROM t FOR SYSTEM_TIME AS OF OFFSET 200 ORDER BY id");
        (now, past, rows("SELECT * FROM every ORDER BY id, size"), rows("SELECT * FROM CHANGES(t)"), letters)
    };
    let live = all();
    assert!(live.0.len() > 20 && live.2.len() == 400 && live.4 > 10, "{} rows, {} dead letters", live.0.len(), live.4);
    rebuilt(&fixture, "t");
    rebuilt(&fixture, "every");
    assert_eq!(all(), live);
}
