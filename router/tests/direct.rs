//! Changes by primary key need no planner; they must come out as the planner's do. And statements that are prepared.
//!
//! `HEADWATER_SEED` says which statements are generated; a failure prints the statement.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Fixture;
use serde_json::{Value, json};

/// A linear congruential generator: the same statements for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const COLUMNS: &str = "id INTEGER PRIMARY KEY, s SMALLINT, i INTEGER, b BIGINT, n NUMERIC(8,2), d DOUBLE PRECISION, t TEXT, \
                       v VARCHAR(3), o BOOLEAN, u UUID, w TIMESTAMPTZ, c INTEGER DEFAULT 7, CHECK (i < 1000000), j JSON";
const NAMES: [&str; 13] = ["id", "s", "i", "b", "n", "d", "t", "v", "o", "u", "w", "c", "j"];
const CONSTANTS: [&str; 28] = [
    "NULL",
    "0",
    "1",
    "-1",
    "- 1",
    "(5)",
    "32767",
    "32768",
    "2147483647",
    "2147483648",
    "-2147483649",
    "9223372036854775807",
    "99999999999999999999",
    "1.5",
    "1.005",
    "-0.005",
    "123456.78",
    "1000000",
    "1e3",
    "'5'",
    "''",
    "'abc'",
    "'abcd'",
    "true",
    "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
    "'2024-02-30'",
    "'2024-05-31 12:00:00+02'",
    "DEFAULT",
];

/// What became of a statement: rows touched or the SQLSTATE.
fn outcome(fixture: &Fixture, session: Option<&str>, sql: &str) -> Result<Value, &'static str> {
    match session {
        Some(session) => fixture.within(session, sql).map(|rows| rows[0].clone()).map_err(|error| error.code()),
        None => match fixture.request(sql, vec![], "") {
            Ok(_) => Ok(Value::from(fixture.rows("SELECT count(*) FROM direct"))),
            Err(error) => Err(error.code()),
        },
    }
}

#[test]
fn what_needs_no_planner_comes_out_as_the_planner_would_have_it() {
    let seed = std::env::var("HEADWATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let fixture = Fixture::new();
    fixture.run(&format!("CREATE TABLE direct ({COLUMNS}); CREATE TABLE planned ({COLUMNS})"));
    for table in ["direct", "planned"] {
        fixture.run(&format!(
            "INSERT INTO {table} (id, s, i, b, n, d, t) SELECT n, n, n, n, n, n, 'x' FROM generate_series(1, 8) AS g(n)"
        ));
    }
    let session = fixture.database.sessions().open().unwrap();
    let (mut inside, mut changed, mut refused) = (false, 0, 0);
    for step in 0..200 {
        if random.below(12) == 0 {
            let _ = fixture.within(&session, if inside { random.pick(&["COMMIT", "ROLLBACK"]) } else { "BEGIN" }).unwrap();
            inside = !inside;
        }
        let id = 1 + random.below(10);
        let statement = |random: &mut Random, table: &str, planned: bool, choice: usize, state: u64| {
            random.0 = state;
            let key = if planned { format!("id + 0 = {id}") } else { random_key(id) };
            match choice {
                0 => {
                    let values: Vec<String> = NAMES[1..].iter().map(|_| random.pick(&CONSTANTS).to_owned()).collect();
                    // One of them, so that most rows are not refused.
                    let at = random.below(values.len());
                    let (name, value) = (NAMES[1 + at], &values[at]);
                    match planned && value != "DEFAULT" {
                        true => format!("INSERT INTO {table} (id, {name}) SELECT * FROM (VALUES ({id}, {value})) AS v(a, b)"),
                        false => format!("INSERT INTO {table} (id, {name}) VALUES ({id}, {value})"),
                    }
                }
                1 => format!("DELETE FROM {table} WHERE {key}"),
                _ => {
                    let at = 1 + random.below(NAMES.len() - 1);
                    let value = match random.below(3) {
                        0 => random.pick(&CONSTANTS).to_owned(),
                        1 => format!("{} {} {}", NAMES[at], random.pick(&["+", "-"]), random.pick(&CONSTANTS[..18])),
                        _ => random.pick(&NAMES).to_owned(),
                    };
                    let guard = match random.below(3) {
                        0 => format!(
                            " AND {} {} {}",
                            random.pick(&["s", "i", "b", "n"]),
                            random.pick(&["<", ">=", "<>"]),
                            random.below(9)
                        ),
                        _ => String::new(),
                    };
                    format!("UPDATE {table} SET {} = {value} WHERE {key}{guard}", NAMES[at])
                }
            }
        };
        let choice = random.below(5);
        let state = random.0;
        let direct = statement(&mut random, "direct", false, choice, state);
        let planned = statement(&mut random, "planned", true, choice, state);
        let own = inside.then_some(session.as_str());
        if inside {
            fixture.within(&session, "SAVEPOINT s").unwrap();
        }
        let run = |sql: &str| {
            let outcome = outcome(&fixture, own, sql);
            if inside && outcome.is_err() {
                fixture.within(&session, "ROLLBACK TO s").unwrap();
            }
            outcome
        };
        let left = run(&direct);
        if inside {
            fixture.within(&session, "SAVEPOINT s").unwrap();
        }
        let right = run(&planned);
        match (&left, &right) {
            (Ok(_), Ok(_)) => changed += 1,
            (Err(left), Err(right)) if left == right => refused += 1,
            _ => panic!("seed {seed} step {step}: {direct}: {left:?}, by the planner: {planned}: {right:?}"),
        }
        let rows = |table: &str| {
            let sql = format!("SELECT * FROM {table} ORDER BY id");
            own.map_or_else(|| fixture.rows(&sql), |session| fixture.within(session, &sql).unwrap())
        };
        assert_eq!(rows("direct"), rows("planned"), "seed {seed} step {step}: {direct}");
    }
    assert!(changed > 50 && refused > 15, "{changed} changed, {refused} refused");
}

fn random_key(id: usize) -> String {
    match id % 3 {
        0 => format!("{id} = id"),
        1 => format!("(id = {id})"),
        _ => format!("id = {id}"),
    }
}

#[test]
fn a_point_read_in_a_transaction_sees_its_own_rows() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let session = fixture.database.sessions().open().unwrap();
    let run = |sql: &str| fixture.within(&session, sql).unwrap();
    run("BEGIN");
    run("UPDATE t SET v = 'own' WHERE id = 1");
    run("DELETE FROM t WHERE id = 2");
    fixture.run("INSERT INTO t VALUES (3, 'later')");
    assert_eq!(run("SELECT v FROM t WHERE id = 1"), [json!(["own"])]);
    assert_eq!(run("SELECT v FROM t WHERE id = 2"), [] as [Value; 0]);
    assert_eq!(run("SELECT v FROM t WHERE id = 3"), [] as [Value; 0], "it is younger than the snapshot");
    assert_eq!(fixture.rows("SELECT v FROM t WHERE id = 1"), [json!(["a"])]);
    run("COMMIT");
    assert_eq!(fixture.rows("SELECT id, v FROM t ORDER BY id"), [json!([1, "own"]), json!([3, "later"])]);
}

#[test]
fn statements_are_prepared_once_and_run_with_other_constants() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)");
    let session = fixture.database.sessions().open().unwrap();
    let run = |sql: &str| fixture.within(&session, sql);
    assert_eq!(run("PREPARE put (integer, text) AS INSERT INTO t VALUES ($1, $2)").unwrap(), [json!("PREPARE")]);
    run("PREPARE find AS SELECT v || '!' FROM t WHERE id > $1 ORDER BY id").unwrap();
    run("EXECUTE put(1, 'one')").unwrap();
    run("BEGIN").unwrap();
    run("EXECUTE put(-2, NULL)").unwrap();
    run("EXECUTE put(3, 'three')").unwrap();
    run("COMMIT").unwrap();
    assert_eq!(run("EXECUTE find(0)").unwrap(), [json!(["one!"]), json!(["three!"])]);
    assert_eq!(run("EXECUTE put(1, 'again')").unwrap_err().code(), "23505");
    assert_eq!(run("EXECUTE gone(1)").unwrap_err().code(), "26000");
    assert_eq!(run("PREPARE put AS SELECT 1").unwrap_err().code(), "42P05");
    assert_eq!(run("PREPARE ddl AS CREATE TABLE x (id INTEGER)").unwrap_err().code(), "42601");
    assert_eq!(run("EXECUTE put(1 + 1, 'x')").unwrap_err().code(), "0A000");
    assert_eq!(run("DEALLOCATE put").unwrap(), [json!("DEALLOCATE")]);
    assert_eq!(run("EXECUTE put(4, 'four')").unwrap_err().code(), "26000");
    // A request by itself may prepare and use a statement as well; nothing of it stays.
    assert_eq!(fixture.rows("PREPARE one AS SELECT $1 || 'x'; EXECUTE one('y')"), [json!(["yx"])]);
    assert_eq!(fixture.error("EXECUTE one('y')").code(), "26000");
}
