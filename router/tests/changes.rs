//! The change feed of row tables: `CHANGES(t)` and `Database::changes`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::Fixture;
use router::{ChangesPage, Error, ReadFrom, ReadLimits};
use serde_json::{Value, json};

fn limits(records: usize) -> ReadLimits {
    ReadLimits { records, bytes: 1 << 20, wait_until: None }
}

fn page(fixture: &Fixture, table: &str, from: u64, limits: ReadLimits) -> Result<ChangesPage, Error> {
    fixture.runtime.block_on(fixture.database.changes(table, None, ReadFrom::Offset(from), limits))
}

/// Rows of a page without the timestamp: partition, offset, change, old columns, new columns.
fn rows(page: &ChangesPage) -> Vec<Value> {
    let mut out = Vec::new();
    router::render::json_rows(&page.rows, &mut out);
    out.iter_mut().for_each(|row| drop(row.as_array_mut().unwrap().remove(2)));
    out
}

fn accounts() -> Fixture {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE TABLE other (id BIGINT PRIMARY KEY); CREATE TABLE accounts (id BIGINT PRIMARY KEY, owner TEXT, balance BIGINT)",
    );
    fixture
}

#[test]
fn a_truncation_is_one_change() {
    let fixture = accounts();
    fixture.run("INSERT INTO accounts VALUES (1, 'ann', 10), (2, 'bob', 20)");
    fixture.run("TRUNCATE accounts");
    fixture.run("INSERT INTO accounts VALUES (1, 'cid', 30)");
    let feed = page(&fixture, "accounts", 2, limits(100)).unwrap();
    let (gone, back) =
        (json!([0, 2, "truncate", null, null, null, null, null, null]), json!([0, 3, "insert", null, null, null, 1, "cid", 30]));
    assert_eq!(rows(&feed), [gone, back]);
}

#[test]
fn a_feed_tells_what_was_inserted_updated_and_deleted() {
    let fixture = accounts();
    fixture.run("INSERT INTO other VALUES (1)");
    fixture.run("INSERT INTO accounts VALUES (1, 'ann', 10), (2, 'bob', 20)");
    fixture.run("INSERT INTO other VALUES (2)");
    fixture.run("UPDATE accounts SET balance = 11 WHERE id = 1");
    fixture.run("UPDATE accounts SET id = 3 WHERE id = 2");
    fixture.run("BEGIN; UPDATE accounts SET owner = 'bea' WHERE id = 3; INSERT INTO accounts VALUES (4, 'dan', 4); COMMIT");
    fixture.run("BEGIN; INSERT INTO accounts VALUES (9, 'gone', 1); DELETE FROM accounts WHERE id = 9; DELETE FROM accounts WHERE id = 1; COMMIT");
    let expected = [
        json!([0, 1, "insert", null, null, null, 1, "ann", 10]),
        json!([0, 2, "insert", null, null, null, 2, "bob", 20]),
        json!([0, 4, "update", 1, "ann", 10, 1, "ann", 11]),
        json!([0, 5, "delete", 2, "bob", 20, null, null, null]),
        json!([0, 6, "insert", null, null, null, 3, "bob", 20]),
        json!([0, 7, "update", 3, "bob", 20, 3, "bea", 20]),
        json!([0, 8, "insert", null, null, null, 4, "dan", 4]),
        // The row that came and went in one transaction was never there for anybody.
        json!([0, 9, "delete", 1, "ann", 11, null, null, null]),
    ];
    let all = page(&fixture, "accounts", 0, limits(100)).unwrap();
    assert_eq!(rows(&all), expected);
    assert_eq!((all.stream.as_str(), all.next_offset, all.end_offset), ("_tables", 11, 11));
    // Page by page, whatever the size.
    let (mut next, mut paged) = (0, Vec::new());
    while next < 11 {
        let page = page(&fixture, "accounts", next, limits(3)).unwrap();
        assert!(page.next_offset > next && page.rows.num_rows() <= 3);
        paged.extend(rows(&page));
        next = page.next_offset;
    }
    assert_eq!(paged, expected);
    // The same in SQL, and with conditions.
    let sql = |sql: &str| fixture.rows(sql);
    let columns = r#"partition, "offset", change, old_id, old_owner, old_balance, new_id, new_owner, new_balance"#;
    assert_eq!(sql(&format!("SELECT {columns} FROM CHANGES(accounts)")), expected);
    assert_eq!(sql(&format!("SELECT {columns} FROM changes(public.accounts, 5) LIMIT 2")), expected[3..5]);
    assert_eq!(sql(&format!("SELECT {columns} FROM CHANGES(accounts, '_tables/0@5')")), expected[4..]);
    assert_eq!(sql(&format!(r#"SELECT {columns} FROM CHANGES(accounts) WHERE "offset" > 4 AND "offset" <= 7"#)), expected[3..6]);
    assert_eq!(
        sql("SELECT change, count(*) FROM CHANGES(accounts) GROUP BY change ORDER BY change"),
        [json!(["delete", 2]), json!(["insert", 4]), json!(["update", 2])]
    );
    assert_eq!(
        sql(
            "SELECT c.new_owner, a.owner FROM CHANGES(accounts) c JOIN accounts a ON a.id = c.new_id WHERE c.change = 'update' AND a.id = 3"
        ),
        [json!(["bea", "bea"])]
    );
    assert_eq!(
        sql("SELECT sum(coalesce(new_balance, 0) - coalesce(old_balance, 0)) FROM CHANGES(accounts)"),
        sql("SELECT sum(balance) FROM accounts")
    );
    assert_eq!(sql(r#"SELECT count(*) FROM CHANGES(accounts) WHERE timestamp > now() - INTERVAL '1 hour'"#), [json!([8])]);
    assert_eq!(sql("WITH c AS (SELECT * FROM CHANGES(accounts)) SELECT count(*), count(old_id) FROM c"), [json!([8, 4])]);
    // In the order of the log without a sort.
    let plan = sql(r#"EXPLAIN SELECT * FROM CHANGES(accounts) WHERE "offset" >= 3 ORDER BY "offset""#);
    let plan = serde_json::to_string(&plan).unwrap();
    assert!(plan.contains("ChangesScan: accounts") && plan.contains("from: Some(3)") && !plan.contains("SortExec"), "{plan}");
}

#[test]
fn a_feed_is_read_with_the_columns_of_now() {
    let fixture = accounts();
    fixture.run("INSERT INTO accounts VALUES (1, 'ann', 10)");
    fixture.run("ALTER TABLE accounts ADD COLUMN note TEXT DEFAULT 'none'");
    fixture.run("UPDATE accounts SET note = 'rich' WHERE id = 1");
    fixture.run("ALTER TABLE accounts DROP COLUMN owner; ALTER TABLE accounts RENAME COLUMN balance TO cents; ALTER TABLE accounts RENAME TO konten");
    fixture.run("UPDATE konten SET cents = 5 WHERE id = 1; CREATE INDEX ON konten (cents); DELETE FROM konten");
    let expected = [
        json!([0, 0, "insert", null, null, null, 1, 10, "none"]),
        json!([0, 1, "update", 1, 10, "none", 1, 10, "rich"]),
        json!([0, 2, "update", 1, 10, "rich", 1, 5, "rich"]),
        json!([0, 3, "delete", 1, 5, "rich", null, null, null]),
    ];
    assert_eq!(rows(&page(&fixture, "konten", 0, limits(100)).unwrap()), expected);
    let info = fixture.runtime.block_on(fixture.database.rebuilt("konten", 2, Instant::now() + Duration::from_secs(60))).unwrap();
    assert_eq!(info.generation, 2);
    let fixture = fixture.reopen(true);
    assert_eq!(rows(&page(&fixture, "konten", 0, limits(100)).unwrap()), expected, "a rebuilt view tells the same");
    let names: Vec<String> =
        page(&fixture, "konten", 0, limits(1)).unwrap().rows.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(
        names,
        ["partition", "offset", "timestamp", "change", "old_id", "old_cents", "old_note", "new_id", "new_cents", "new_note"]
    );
}

#[test]
fn views_of_a_stream_have_a_feed_too() {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE STREAM s WITH (partitions = 2);
         CREATE TABLE v (id BIGINT PRIMARY KEY, n BIGINT) USING row FROM STREAM s;
         CREATE TABLE w (id BIGINT PRIMARY KEY, n BIGINT) USING row FROM STREAM s
           AS SELECT (value->>'id')::bigint, (value->>'n')::bigint * 2 FROM s WHERE value->>'n' <> '3';
         CREATE TABLE d USING document FROM STREAM s",
    );
    let put = |partition: u32, value: Value| {
        let record =
            router::AppendRecord { partition: Some(partition), value: Some(value.to_string().into()), ..Default::default() };
        let deadline = Instant::now() + Duration::from_secs(60);
        fixture.runtime.block_on(fixture.database.append("s", vec![record], deadline)).unwrap()
    };
    for (partition, value) in [
        (0, json!({"id": 1, "n": 1})),
        (1, json!({"id": 1, "n": 2})),
        (0, json!({"id": "bad"})),
        (0, json!({"id": 1, "n": 3})),
        (1, json!({"id": 2, "n": 4})),
    ] {
        put(partition, value);
    }
    let wait = "s/0@2,s/1@1";
    let feed = |table: &str| {
        let sql = format!(
            r#"SELECT partition, "offset", change, old_id, old_n, new_id, new_n FROM CHANGES({table}) ORDER BY partition, "offset""#
        );
        fixture.rows_with(&sql, vec![], wait).unwrap()
    };
    let expected = [
        json!([0, 0, "insert", null, null, 1, 1]),
        json!([0, 2, "update", 1, 1, 1, 3]),
        json!([1, 0, "insert", null, null, 1, 2]),
        json!([1, 1, "insert", null, null, 2, 4]),
    ];
    assert_eq!(feed("v"), expected);
    assert_eq!(
        feed("w"),
        [
            json!([0, 0, "insert", null, null, 1, 2]),
            json!([1, 0, "insert", null, null, 1, 4]),
            json!([1, 1, "insert", null, null, 2, 8])
        ]
    );
    let one = fixture.runtime.block_on(fixture.database.changes("v", Some(1), ReadFrom::Earliest, limits(9))).unwrap();
    assert_eq!(rows(&one), expected[2..]);
    let after = r#"SELECT "offset" FROM CHANGES(v, 's/0@1') ORDER BY partition, "offset""#;
    assert_eq!(
        fixture.rows(after),
        [json!([2]), json!([0]), json!([1])],
        "a partition that the position does not name begins at its start"
    );
    let says = |error: Error, part: &str| assert!(error.message().contains(part), "{error}");
    says(page(&fixture, "v", 0, limits(1)).unwrap_err(), "has 2 partitions");
    says(fixture.error("SELECT * FROM CHANGES(v, 1)"), "several partitions");
    says(fixture.error("SELECT * FROM CHANGES(v, 'other/0@1')"), "stream \"other\"");
    says(fixture.error("SELECT * FROM CHANGES(d)"), "is a document table");
    says(fixture.error("SELECT * FROM CHANGES(s)"), "is a stream");
    says(page(&fixture, "s", 0, limits(1)).unwrap_err(), "is a stream");
    says(page(&fixture, "d", 0, limits(1)).unwrap_err(), "is a document table");
    let none = fixture.runtime.block_on(fixture.database.changes("v", Some(2), ReadFrom::Earliest, limits(9)));
    says(none.unwrap_err(), "has no partition 2");
}

#[test]
fn what_a_feed_can_not_give_is_refused_with_a_remedy() {
    let fixture = accounts();
    fixture.run("INSERT INTO accounts VALUES (1, 'ann', 10)");
    fixture.run("CREATE VIEW named AS SELECT * FROM CHANGES(accounts)");
    for (sql, code, says, hint) in [
        ("SELECT * FROM CHANGES(acounts)", "42P01", "\"acounts\"", "\"accounts\""),
        ("SELECT * FROM CHANGES()", "42601", "takes a table", "CHANGES(accounts"),
        ("SELECT * FROM CHANGES(accounts, 1, 2)", "42601", "takes a table", "CHANGES(accounts"),
        ("SELECT * FROM CHANGES(accounts, true)", "42601", "takes a table", "CHANGES(accounts"),
        ("SELECT * FROM CHANGES(accounts, -1)", "22023", "\"-1\" is not an offset", ""),
        ("SELECT * FROM CHANGES(accounts, 'x')", "22023", "\"x\" is not a position", "stream/partition@offset"),
        ("SELECT * FROM CHANGES(accounts, 2)", "22023", "offset 2 is beyond the end of _tables/0, which is 1", "begin at 1"),
        ("SELECT * FROM CHANGES(named)", "42809", "is a named query", "one of its tables"),
        ("DROP TABLE accounts", "2BP01", "named query \"named\"", "DROP VIEW named"),
    ] {
        let error = fixture.error(sql);
        assert_eq!(error.code(), code, "{sql}: {error}");
        assert!(error.message().contains(says), "{sql}: {error}");
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{sql}: {:?}", error.hint_text());
    }
    assert!(fixture.rows("SELECT * FROM CHANGES(accounts, 1)").is_empty());
    assert_eq!(page(&fixture, "acounts", 0, limits(1)).unwrap_err().code(), "42P01");
    assert!(page(&fixture, "accounts", 2, limits(1)).unwrap_err().message().contains("beyond the end"));
    assert_eq!(fixture.rows("SELECT new_owner FROM named"), [json!(["ann"])]);
}

#[test]
fn a_reader_that_waits_gets_the_next_change_of_its_table() {
    let fixture = accounts();
    let waiting = ReadLimits { wait_until: Some(Instant::now() + Duration::from_secs(60)), ..limits(10) };
    let reader = {
        let database = fixture.database.clone();
        fixture.runtime.spawn(async move { database.changes("accounts", None, ReadFrom::Latest, waiting).await })
    };
    // Changes of another table wake nobody.
    fixture.run("INSERT INTO other VALUES (1)");
    fixture.run("INSERT INTO accounts VALUES (1, 'ann', 10)");
    let page = fixture.runtime.block_on(reader).unwrap().unwrap();
    assert_eq!(rows(&page), [json!([0, 1, "insert", null, null, null, 1, "ann", 10])]);
    let passed = ReadLimits { wait_until: Some(Instant::now()), ..limits(10) };
    let none = fixture.runtime.block_on(fixture.database.changes("accounts", None, ReadFrom::Latest, passed)).unwrap();
    assert_eq!((none.rows.num_rows(), none.next_offset), (0, 2));
}

/// The rows of `accounts` at an offset, brought up to now by the feed from there, are the rows of now.
#[test]
fn the_feed_from_any_offset_leads_to_the_rows_of_now() {
    let seed = std::env::var("HEADWATER_TEST_SEED").map_or(7, |seed| seed.parse().unwrap());
    eprintln!("seed {seed}");
    let mut random: u64 = seed;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let fixture = accounts();
    for n in 0..150 {
        let id = next(12);
        let sql = match next(5) {
            0 => format!("INSERT INTO accounts VALUES ({id}, 'o{n}', {n}) ON CONFLICT DO NOTHING"),
            1 => format!("UPDATE accounts SET balance = balance + 1 WHERE id <= {id}"),
            2 => format!("DELETE FROM accounts WHERE id = {id}"),
            3 => format!(
                "INSERT INTO accounts SELECT id + 20, owner, balance FROM accounts WHERE id < {id} ON CONFLICT DO NOTHING"
            ),
            _ => format!("DELETE FROM accounts WHERE id % 7 = {}", id % 7),
        };
        fixture.run(&sql);
    }
    let now = fixture.rows("SELECT * FROM accounts ORDER BY id");
    let end = page(&fixture, "accounts", 0, limits(1)).unwrap().end_offset;
    for _ in 0..20 {
        let from = next(end);
        let mut state: BTreeMap<i64, Vec<Value>> = BTreeMap::new();
        // A past read shows whole batches: its position is the last record of one.
        let past = fixture.rows(&format!("SELECT * FROM accounts FOR SYSTEM_TIME AS OF OFFSET {from}"));
        state.extend(past.iter().map(|row| (row[0].as_i64().unwrap(), row.as_array().unwrap().clone())));
        let mut at = from + 1;
        while at < end {
            let page = page(&fixture, "accounts", at, limits(5)).unwrap();
            for row in rows(&page) {
                let row = row.as_array().unwrap();
                let (old, new) = (&row[3..6], &row[6..9]);
                match row[2].as_str().unwrap() {
                    "delete" => drop(state.remove(&old[0].as_i64().unwrap())),
                    _ => drop(state.insert(new[0].as_i64().unwrap(), new.to_vec())),
                }
            }
            at = page.next_offset;
        }
        let reached: Vec<Value> = state.into_values().map(Value::Array).collect();
        assert_eq!(reached, now, "seed {seed}, from {from}");
    }
}
