//! Old versions of rows and how they go: the `history` option, VACUUM, and what is refused afterwards.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::{Duration, Instant};

use common::{Fixture, options};
use router::Database;
use serde_json::{Value, json};

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

fn kept_from(fixture: &Fixture, table: &str) -> u64 {
    fixture.database.view(table).unwrap().partitions[0].kept_from
}

fn end(fixture: &Fixture) -> u64 {
    fixture.database.stream("_tables").unwrap().partitions[0].status.committed.value()
}

const ALL: &str = "SELECT id, a, b FROM t";

/// What the table showed after each statement, by the last offset then.
type Moments = Vec<(u64, Vec<Value>)>;

fn past(offset: u64) -> String {
    format!("SELECT id, a, b FROM t FOR SYSTEM_TIME AS OF OFFSET {offset} ORDER BY id")
}

fn check(fixture: &Fixture, moments: &Moments, seed: u64) {
    let kept = kept_from(fixture, "t");
    for (offset, rows) in moments {
        if offset + 1 >= kept {
            assert_eq!(&fixture.rows(&past(*offset)), rows, "seed {seed}, offset {offset}, kept from {kept}");
            let by_index =
                fixture.rows(&format!("SELECT id FROM t FOR SYSTEM_TIME AS OF OFFSET {offset} WHERE a = 3 ORDER BY id"));
            let expected: Vec<Value> = rows.iter().filter(|row| row[1] == 3).map(|row| json!([row[0]])).collect();
            assert_eq!(by_index, expected, "seed {seed}, offset {offset}, kept from {kept}: by index");
        } else {
            let error = fixture.error(&past(*offset));
            assert_eq!(error.code(), "72000", "{error}");
            assert!(error.message().contains(&format!("table \"t\" can be read back to _tables/0@{}", kept - 1)), "{error}");
        }
    }
}

/// A table against what it showed at every moment, through random changes, vacuums, rebuilds, indexes, and stops.
#[test]
fn what_is_kept_is_what_there_was() {
    let seed = std::env::var("HEADWATER_SEED").map_or(11, |seed| seed.parse().unwrap());
    eprintln!("HEADWATER_SEED={seed}");
    let mut random = Random(seed);
    let mut fixture = Fixture::new();
    fixture.run("CREATE TABLE other (id BIGINT PRIMARY KEY); CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT) WITH (history = 1000)");
    fixture.run("CREATE INDEX ON t (a)");
    let mut moments: Moments = Vec::new();
    let (mut vacuums, mut refused) = (0, 0);
    for n in 0..160 {
        let id = random.below(20);
        match random.below(24) {
            0 | 1 => {
                let keep = random.below(40);
                fixture.run(&format!("ALTER TABLE t SET (history = {keep})"));
                let before = (kept_from(&fixture, "t"), end(&fixture));
                fixture.run("VACUUM t");
                let expected = before.1.saturating_sub(u64::try_from(keep).unwrap());
                assert_eq!(kept_from(&fixture, "t"), expected.max(before.0), "seed {seed}, step {n}");
                vacuums += 1;
                refused += moments.iter().filter(|(offset, _)| offset + 1 < kept_from(&fixture, "t")).count();
                check(&fixture, &moments, seed);
            }
            2 if random.below(3) == 0 => fixture = fixture.reopen(true),
            3 if random.below(3) == 0 => {
                fixture = fixture.reopen(false);
                // The views come up to date by themselves.
                let wait = format!("_tables/0@{}", end(&fixture) - 1);
                let _ = fixture.rows_with(ALL, vec![], &wait).unwrap();
            }
            4 if random.below(4) == 0 => {
                let generation = fixture.database.view("t").unwrap().generation;
                fixture.run("REBUILD VIEW t");
                let deadline = Instant::now() + Duration::from_secs(60);
                fixture.runtime.block_on(fixture.database.rebuilt("t", generation + 1, deadline)).unwrap();
                assert_eq!(kept_from(&fixture, "t"), 0, "a rebuild reads all of the log again");
                check(&fixture, &moments, seed);
            }
            5 => drop(fixture.run(&format!("INSERT INTO other VALUES ({n})"))),
            6..=8 => drop(fixture.run(&format!("DELETE FROM t WHERE id = {id}"))),
            9..=13 => drop(fixture.run(&format!("UPDATE t SET a = {}, b = 'u{n}' WHERE id >= {id}", random.below(5)))),
            _ => drop(fixture.run(&format!("INSERT INTO t VALUES ({id}, {}, 'i{n}') ON CONFLICT DO NOTHING", random.below(5)))),
        }
        if let Some(last) = end(&fixture).checked_sub(1) {
            moments.push((last, fixture.rows(&format!("{ALL} ORDER BY id"))));
        }
    }
    check(&fixture, &moments, seed);
    assert!(vacuums > 5 && refused > 20, "{vacuums} vacuums, {refused} reads below what is kept");
}

#[test]
fn an_open_transaction_keeps_what_it_reads() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT) WITH (history = 0); INSERT INTO t VALUES (1, 1, 'x')");
    let session = fixture.database.sessions().open().unwrap();
    fixture.within(&session, "BEGIN").unwrap();
    assert_eq!(fixture.within(&session, "SELECT a FROM t").unwrap(), [json!([1])]);
    let snapshot = end(&fixture);
    fixture.run("UPDATE t SET a = 2; UPDATE t SET a = 3; DELETE FROM t; INSERT INTO t VALUES (2, 2, 'y')");
    fixture.run("VACUUM t");
    assert_eq!(kept_from(&fixture, "t"), snapshot);
    assert_eq!(fixture.within(&session, "SELECT a FROM t").unwrap(), [json!([1])]);
    assert_eq!(fixture.within(&session, "UPDATE t SET a = 9 WHERE id = 1").unwrap(), [json!(1)]);
    assert_eq!(fixture.within(&session, "COMMIT").unwrap_err().code(), "40001");
    fixture.run("VACUUM t");
    assert_eq!(kept_from(&fixture, "t"), end(&fixture));
    assert_eq!(fixture.rows(ALL), [json!([2, 2, "y"])]);
    // What changes from here on has its versions before.
    fixture.run("UPDATE t SET a = 7 WHERE id = 2");
    let changes = fixture.rows(r#"SELECT "offset", change, old_a, new_a FROM CHANGES(t)"#);
    assert_eq!(changes, [json!([end(&fixture) - 1, "update", 2, 7])]);
    let error = fixture.error("SELECT * FROM CHANGES(t, 0)");
    assert!(error.message().contains("are kept from offset"), "{error}");
}

#[test]
fn histories_of_views_of_a_stream_go_too() {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE STREAM s; CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT) USING row WITH (history = 10) FROM STREAM s",
    );
    let record = |n: u64| if n == 7 { json!({"id": "bad"}) } else { json!({"id": n % 5, "a": n, "b": "x"}) };
    for n in 0..50 {
        fixture.append("s", &[record(n)]);
    }
    let now = fixture.rows_with("SELECT * FROM t ORDER BY id", vec![], "s/0@49").unwrap();
    fixture.run("VACUUM t");
    assert_eq!(kept_from(&fixture, "t"), 40);
    assert_eq!(fixture.rows("SELECT * FROM t ORDER BY id"), now);
    assert_eq!(fixture.database.view("t").unwrap().dead_letters, 1, "what was left out stays known");
    assert_eq!(
        fixture.rows("SELECT a FROM t FOR SYSTEM_TIME AS OF OFFSET 39 ORDER BY id"),
        [35, 36, 37, 38, 39].map(|a| json!([a]))
    );
    assert_eq!(fixture.error("SELECT a FROM t FOR SYSTEM_TIME AS OF OFFSET 38").code(), "72000");
    fixture.append("s", &[record(50)]);
    assert_eq!(fixture.rows_with("SELECT a FROM t WHERE id = 0", vec![], "s/0@50").unwrap(), [json!([50])]);
    let fixture = fixture.reopen(true);
    assert_eq!(kept_from(&fixture, "t"), 40);
    assert_eq!(fixture.rows("SELECT count(*) FROM t FOR SYSTEM_TIME AS OF OFFSET 45"), [json!([5])]);
}

#[test]
fn wrong_histories_are_refused_with_a_remedy() {
    let fixture = Fixture::new();
    fixture.run("CREATE STREAM s; CREATE TABLE d USING document FROM STREAM s; CREATE TABLE t (id BIGINT PRIMARY KEY)");
    for (sql, says, hint) in [
        ("CREATE TABLE u (id BIGINT PRIMARY KEY) WITH (history = 'soon')", "history = 'soon' is unknown", "'7 days'"),
        ("CREATE TABLE u (id BIGINT PRIMARY KEY) WITH (histroy = '7 days')", "unknown option \"histroy\"", "\"history\""),
        ("ALTER TABLE t SET (histroy = '7 days')", "unknown option \"histroy\"", "\"history\""),
        ("ALTER TABLE t SET (history = 'never')", "history = 'never' is unknown", "'all'"),
        ("ALTER TABLE d SET (history = '7 days')", "is a document table", ""),
        ("VACUUM t", "keeps all of its history", "ALTER TABLE t SET"),
        ("VACUUM d", "is a document table", ""),
        ("VACUUM u", "\"u\" does not exist", ""),
    ] {
        let error = fixture.error(sql);
        assert!(error.message().contains(says), "{sql}: {error}");
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{sql}: {:?}", error.hint_text());
    }
    fixture.run("ALTER TABLE t SET (history = '7 days'); INSERT INTO t VALUES (1); VACUUM t");
    assert_eq!(kept_from(&fixture, "t"), 0, "nothing is older than that");
    fixture.run("ALTER TABLE t SET (history = 0); VACUUM");
    assert_eq!(kept_from(&fixture, "t"), 1, "of all tables");
    fixture.run("ALTER TABLE t SET (history = 'all'); VACUUM");
    assert!(fixture.error("VACUUM t").message().contains("keeps all"));
}

/// What a stop leaves of a copy is removed and does no harm.
#[test]
fn what_a_stop_leaves_of_a_copy_is_removed() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT) WITH (history = 0); INSERT INTO t VALUES (1, 1, 'x')");
    let folder = fixture.dir.path().join("views/1");
    assert!(folder.join("1").exists());
    for left in ["vacuum/0/rows", "2/0/rows"] {
        std::fs::create_dir_all(folder.join(left)).unwrap();
        std::fs::write(folder.join(left).join("junk"), "junk").unwrap();
    }
    fixture.run("VACUUM t");
    assert_eq!(fixture.rows(ALL), [json!([1, 1, "x"])]);
    std::fs::create_dir_all(folder.join("vacuum/0")).unwrap();
    let fixture = fixture.reopen(true);
    assert_eq!(fixture.rows(ALL), [json!([1, 1, "x"])]);
    assert!(!folder.join("vacuum").exists() && !folder.join("1").exists() && folder.join("2").exists());
}

/// A table that has grown is vacuumed without being asked, and takes less room then.
#[test]
fn a_table_that_has_grown_is_vacuumed_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.vacuum_interval = Duration::from_millis(50);
    let fixture = Fixture { database: Database::open(options).unwrap(), dir, runtime: tokio::runtime::Runtime::new().unwrap() };
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b TEXT) WITH (history = 1)");
    fixture.run("INSERT INTO t SELECT n, 0, 'x' FROM generate_series(1, 11000) AS g(n)");
    for _ in 0..4 {
        assert_eq!(fixture.database.view("t").unwrap().generation, 1, "it has not grown enough yet");
        fixture.run("UPDATE t SET a = a + 1");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    fixture.runtime.block_on(fixture.database.rebuilt("t", 2, deadline)).unwrap();
    assert!(kept_from(&fixture, "t") > 40_000);
    assert_eq!(fixture.rows("SELECT count(*), min(a), max(a) FROM t"), [json!([11_000, 4, 4])]);
}
