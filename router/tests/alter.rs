//! ALTER TABLE: what each form does and refuses, a model of a table through many of them, and writers at the same time.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::Fixture;
use serde_json::{Value, json};

fn people() -> Fixture {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT NOT NULL, age INTEGER DEFAULT 7)");
    fixture.run("INSERT INTO people VALUES (1, 'ann', 30), (2, 'bob', NULL)");
    fixture
}

fn rebuilt(fixture: &Fixture, table: &str) {
    fixture.run(&format!("REBUILD VIEW {table}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while fixture.database.view(table).unwrap().rebuild.is_some() {
        assert!(Instant::now() < deadline, "the rebuild of {table} does not end");
        std::thread::yield_now();
    }
}

#[test]
fn columns_come_and_go_and_old_rows_keep_their_bytes() {
    let fixture = people();
    fixture.run("ALTER TABLE people ADD COLUMN city TEXT DEFAULT 'x' || 'y', ADD note JSON");
    let rows = [json!([1, "ann", 30, "xy", null]), json!([2, "bob", null, "xy", null])];
    assert_eq!(fixture.rows("SELECT * FROM people ORDER BY id"), rows);
    assert_eq!(fixture.rows("SELECT city FROM people WHERE id = 2"), [json!(["xy"])], "a point read too");
    fixture.run("ALTER TABLE people ALTER city SET DEFAULT 'z', DROP COLUMN age");
    fixture.run("INSERT INTO people (id, name) VALUES (3, 'cid')");
    let rows = [json!([1, "ann", "xy", null]), json!([2, "bob", "xy", null]), json!([3, "cid", "z", null])];
    assert_eq!(fixture.rows("SELECT * FROM people ORDER BY id"), rows, "old rows read the default of the day");
    // The same name is another column.
    fixture.run("ALTER TABLE people ADD age INTEGER; ALTER TABLE people RENAME note TO remark");
    assert_eq!(fixture.rows("SELECT id, age, remark FROM people ORDER BY id")[0], json!([1, null, null]));
    let (_, position) = fixture.run("UPDATE people SET age = id * 10");
    let before = fixture.rows("SELECT * FROM people ORDER BY id");
    assert_eq!(before[2], json!([3, "cid", "z", null, 30]));
    rebuilt(&fixture, "people");
    assert_eq!(fixture.rows("SELECT * FROM people ORDER BY id"), before);
    let fixture = fixture.reopen(false);
    assert_eq!(fixture.rows_with("SELECT * FROM people ORDER BY id", vec![], &position).unwrap(), before);
}

#[test]
fn not_null_and_defaults_are_set_and_dropped() {
    let fixture = people();
    let error = fixture.error("ALTER TABLE people ALTER COLUMN age SET NOT NULL");
    assert_eq!((error.code(), error.message()), ("23502", "column \"age\" of table \"people\" contains null values"));
    fixture.run("UPDATE people SET age = 5 WHERE age IS NULL; ALTER TABLE people ALTER COLUMN age SET NOT NULL");
    assert_eq!(fixture.error("INSERT INTO people VALUES (4, 'dan', NULL)").code(), "23502");
    fixture.run(
        "ALTER TABLE people ALTER age DROP NOT NULL, ALTER age DROP DEFAULT; INSERT INTO people (id, name) VALUES (4, 'dan')",
    );
    assert_eq!(fixture.rows("SELECT age FROM people WHERE id = 4"), [json!([null])]);
    assert_eq!(fixture.error("ALTER TABLE people ADD city TEXT NOT NULL").code(), "23502");
    fixture.run("ALTER TABLE people ADD city TEXT NOT NULL DEFAULT 'here'; ALTER TABLE people ALTER city DROP DEFAULT");
    assert_eq!(fixture.error("INSERT INTO people (id, name) VALUES (5, 'eve')").code(), "23502");
    assert_eq!(fixture.rows("SELECT DISTINCT city FROM people"), [json!(["here"])]);
    fixture.run("DELETE FROM people; ALTER TABLE people ADD zip TEXT NOT NULL");
    assert_eq!(fixture.error("INSERT INTO people (id, name, city) VALUES (5, 'eve', 'x')").code(), "23502");
}

#[test]
fn a_table_is_renamed_and_a_view_of_a_stream_too() {
    let fixture = people();
    fixture.with_views();
    fixture.append("commits", &[common::commit(1)]);
    fixture.run("ALTER TABLE people RENAME TO persons; ALTER TABLE commit_rows RENAME TO rows_of_commits");
    fixture.run("ALTER TABLE IF EXISTS people RENAME TO nobody");
    assert_eq!(fixture.error("SELECT * FROM people").code(), "42P01");
    fixture.run("INSERT INTO persons VALUES (3, 'cid', 1)");
    rebuilt(&fixture, "persons");
    rebuilt(&fixture, "rows_of_commits");
    fixture.run("CREATE TABLE people (id BIGINT PRIMARY KEY)");
    let fixture = fixture.reopen(true);
    assert_eq!(fixture.rows("SELECT count(*) FROM persons"), [json!([3])]);
    assert_eq!(fixture.rows("SELECT count(*) FROM rows_of_commits"), [json!([1])]);
    assert_eq!(fixture.rows("SELECT count(*) FROM people"), [json!([0])]);
}

#[test]
fn what_can_not_be_altered_says_why_and_leaves_all_as_it_was() {
    let fixture = people();
    fixture.with_views();
    let before = fixture.rows("SELECT * FROM people ORDER BY id");
    for (sql, code, hint) in [
        ("ALTER TABLE peple ADD x INTEGER", "42P01", "\"people\""),
        ("ALTER TABLE people ADD name TEXT", "42701", "another name"),
        ("ALTER TABLE people ADD x MONEY", "0A000", "NUMERIC"),
        ("ALTER TABLE people ADD x INTEGER PRIMARY KEY", "42P16", "CREATE TABLE"),
        ("ALTER TABLE people ADD x INTEGER DEFAULT 'abc'", "22P02", ""),
        ("ALTER TABLE people ADD ok INTEGER, DROP COLUMN nam", "42703", "\"name\""),
        ("ALTER TABLE people DROP COLUMN id", "42P16", "CREATE TABLE"),
        ("ALTER TABLE people RENAME COLUMN nam TO x", "42703", "\"name\""),
        ("ALTER TABLE people RENAME COLUMN age TO name", "42701", ""),
        ("ALTER TABLE people ALTER id DROP NOT NULL", "42P16", "never null"),
        ("ALTER TABLE people ALTER age SET DEFAULT 'abc'", "22P02", ""),
        ("ALTER TABLE people ALTER age TYPE BIGINT", "0A000", "ADD COLUMN"),
        ("ALTER TABLE people RENAME TO commits", "42P07", ""),
        ("ALTER TABLE people RENAME TO _x", "22023", ""),
        ("ALTER TABLE commits ADD x INTEGER", "42809", "ALTER STREAM"),
        ("ALTER TABLE commit_rows ADD x INTEGER", "0A000", "RENAME TO"),
        ("ALTER TABLE commit_docs DROP x", "0A000", "RENAME TO"),
        ("ALTER TABLE churn RENAME COLUMN added TO x", "0A000", "RENAME TO"),
    ] {
        let error = fixture.error(sql);
        assert_eq!(error.code(), code, "{sql}: {error}");
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{sql}: {:?}", error.hint_text());
    }
    fixture.run("ALTER TABLE people ADD IF NOT EXISTS name TEXT, DROP COLUMN IF EXISTS x");
    assert_eq!(fixture.rows("SELECT * FROM people ORDER BY id"), before);
}

/// What a table should hold: for each column its name and a number that no other column of it ever had, and its rows.
#[derive(Default)]
struct Model {
    columns: Vec<(String, usize)>,
    rows: BTreeMap<u64, BTreeMap<usize, Value>>,
    numbers: usize,
}

impl Model {
    fn shown(&self) -> Vec<Value> {
        let row = |(id, values): (&u64, &BTreeMap<usize, Value>)| {
            let values = self.columns.iter().map(|(_, number)| values.get(number).cloned().unwrap_or(Value::Null));
            Value::Array([json!(id)].into_iter().chain(values).collect())
        };
        self.rows.iter().map(row).collect()
    }
}

/// A generator of numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Gives the position to wait for, if the step wrote rows.
fn step(fixture: &Fixture, model: &mut Model, dice: &mut Dice, n: usize) -> String {
    let column = (!model.columns.is_empty()).then(|| dice.below(model.columns.len().max(1)));
    match (dice.below(9), column) {
        (0, _) if model.columns.len() < 12 => {
            let number = model.numbers;
            model.numbers += 1;
            let (name, default) = (format!("c{n}"), dice.below(2) == 0);
            let clause = if default { format!("DEFAULT {number} + 1") } else { String::new() };
            fixture.run(&format!("ALTER TABLE t ADD {name} BIGINT {clause}"));
            if default {
                model.rows.values_mut().for_each(|row| drop(row.insert(number, json!(number + 1))));
            }
            fixture.run(&format!("ALTER TABLE t ALTER {name} DROP DEFAULT"));
            model.columns.push((name, number));
        }
        (1, Some(at)) => {
            let (name, _) = model.columns.remove(at);
            fixture.run(&format!("ALTER TABLE t DROP {name}"));
        }
        (2, Some(at)) => {
            let name = format!("r{n}");
            fixture.run(&format!("ALTER TABLE t RENAME {} TO {name}", model.columns[at].0));
            model.columns[at].0 = name;
        }
        (3, Some(at)) => {
            let (name, number) = model.columns[at].clone();
            let id = dice.below(20) as u64;
            if let Some(row) = model.rows.get_mut(&id) {
                row.insert(number, json!(n));
            }
            return fixture.run(&format!("UPDATE t SET {name} = {n} WHERE id = {id}")).1;
        }
        (4, _) => {
            let id = dice.below(20) as u64;
            model.rows.remove(&id);
            return fixture.run(&format!("DELETE FROM t WHERE id = {id}")).1;
        }
        _ => {
            let id = dice.below(20) as u64;
            if model.rows.contains_key(&id) {
                return String::new();
            }
            let (mut names, mut values, mut row) = (vec!["id".to_owned()], vec![id.to_string()], BTreeMap::new());
            for (name, number) in &model.columns {
                if dice.below(3) > 0 {
                    names.push(name.clone());
                    values.push(n.to_string());
                    row.insert(*number, json!(n));
                }
            }
            model.rows.insert(id, row);
            return fixture.run(&format!("INSERT INTO t ({}) VALUES ({})", names.join(", "), values.join(", "))).1;
        }
    }
    String::new()
}

#[test]
fn a_table_is_what_the_model_says_through_any_changes_restarts_and_rebuilds() {
    for seed in 0..3 {
        let (mut fixture, mut model, mut dice) = (Fixture::new(), Model::default(), Dice(seed));
        fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY)");
        let mut position = String::new();
        for n in 0..80 {
            let wrote = step(&fixture, &mut model, &mut dice, n);
            position = if wrote.is_empty() { position } else { wrote };
            if n % 10 == 9 {
                assert_eq!(fixture.rows("SELECT * FROM t ORDER BY id"), model.shown(), "seed {seed}, step {n}");
            }
            if n % 40 == 19 {
                fixture = fixture.reopen(n % 80 == 19);
                let found = fixture.rows_with("SELECT * FROM t ORDER BY id", vec![], &position).unwrap();
                assert_eq!(found, model.shown(), "seed {seed}, reopened at {n}");
            }
        }
        rebuilt(&fixture, "t");
        assert_eq!(fixture.rows("SELECT * FROM t ORDER BY id"), model.shown(), "seed {seed}, rebuilt");
        for id in model.rows.keys() {
            let point = fixture.rows(&format!("SELECT * FROM t WHERE id = {id}"));
            assert_eq!(point, fixture.rows(&format!("SELECT * FROM t WHERE id = {id} LIMIT 1")), "seed {seed}");
        }
    }
}

#[test]
fn no_null_gets_past_a_not_null_that_is_being_set() {
    let fixture = Fixture::new();
    let deadline = Instant::now() + Duration::from_secs(120);
    let run = |sql: String| {
        let database = fixture.database.clone();
        async move {
            let request = router::SqlRequest { sql, params: vec![], wait: router::Cut::new(), deadline, session: None };
            database.sql(request).await.map(drop)
        }
    };
    for round in 0..12 {
        fixture.run(&format!("CREATE TABLE t{round} (id BIGINT PRIMARY KEY, v BIGINT)"));
        let (altered, inserted) = fixture.runtime.block_on(async {
            let inserts: Vec<_> =
                (0..6).map(|id| tokio::spawn(run(format!("INSERT INTO t{round} VALUES ({id}, NULL)")))).collect();
            let altered = tokio::spawn(run(format!("ALTER TABLE t{round} ALTER v SET NOT NULL"))).await.unwrap();
            let mut inserted = 0;
            for insert in inserts {
                match insert.await.unwrap() {
                    Ok(()) => inserted += 1,
                    Err(error) => assert_eq!(error.code(), "23502", "{error}"),
                }
            }
            (altered, inserted)
        });
        let nulls = fixture.rows(&format!("SELECT count(*) FROM t{round} WHERE id >= 0"));
        assert_eq!(nulls, [json!([inserted])], "round {round}");
        match altered {
            Ok(()) => assert_eq!(inserted, 0, "round {round}: a NULL came behind the check"),
            Err(error) => assert!(error.code() == "23502" && inserted == 6, "round {round}: {error}, {inserted}"),
        }
    }
}
