//! Tables written by SQL, and everything a statement can get wrong.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Fixture;
use serde_json::json;

fn accounts() -> Fixture {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE TABLE accounts (id BIGINT PRIMARY KEY, owner TEXT NOT NULL, balance NUMERIC(18,2) DEFAULT 0, note JSON, opened DATE);
         INSERT INTO accounts (id, owner, balance) VALUES (1, 'ann', 10.50), (2, 'bob', 3), (3, 'cid', 7.25)",
    );
    fixture
}

#[test]
fn rows_are_inserted_updated_and_deleted() {
    let fixture = accounts();
    assert_eq!(
        fixture.rows("SELECT id, balance FROM accounts WHERE id >= 2 ORDER BY id"),
        [json!([2, "3.00"]), json!([3, "7.25"])]
    );
    assert_eq!(fixture.run("UPDATE accounts SET balance = balance * 2, note = '{\"a\": 1}' WHERE owner LIKE '%b'").0, 1);
    assert_eq!(fixture.rows("SELECT balance, note FROM accounts WHERE id = 2"), [json!(["6.00", {"a": 1}])]);
    assert_eq!(fixture.run("UPDATE accounts a SET id = a.id + 10 WHERE id IN (SELECT max(id) FROM accounts)").0, 1);
    assert_eq!(fixture.rows("SELECT id FROM accounts ORDER BY 1"), [json!([1]), json!([2]), json!([13])]);
    assert_eq!(fixture.run("UPDATE accounts SET id = id + 1").0, 3, "keys that move over each other");
    assert_eq!(fixture.run("DELETE FROM accounts WHERE id = (SELECT min(id) FROM accounts)").0, 1);
    assert_eq!(fixture.run("INSERT INTO accounts (id, owner) SELECT id + 100, upper(owner) FROM accounts").0, 2);
    assert_eq!(
        fixture.rows("SELECT owner, balance FROM accounts WHERE id > 100 ORDER BY 1"),
        [json!(["BOB", "0.00"]), json!(["CID", "0.00"])]
    );
    assert_eq!(fixture.run("INSERT INTO accounts (id, owner) VALUES (103, 'x'), (200, 'y') ON CONFLICT DO NOTHING").0, 1);
    assert_eq!(fixture.run("DELETE FROM accounts WHERE false"), (0, String::new()));
    assert_eq!(fixture.run("DELETE FROM accounts").0, 5);
    assert_eq!(fixture.rows("SELECT count(*) FROM accounts"), [json!([0])]);
}

#[test]
fn a_statement_is_all_or_nothing() {
    let fixture = accounts();
    let before = fixture.rows("SELECT * FROM accounts ORDER BY id");
    for (sql, code) in [
        ("INSERT INTO accounts (id, owner) VALUES (9, 'x'), (1, 'again')", "23505"),
        ("INSERT INTO accounts (id, owner) VALUES (9, 'x'), (9, 'y')", "23505"),
        ("INSERT INTO accounts (id, owner) VALUES (9, 'x'), (10, NULL)", "23502"),
        ("INSERT INTO accounts (owner) VALUES ('x')", "23502"),
        ("INSERT INTO accounts (id, owner) VALUES (9, 'x'), ('ten', 'y')", "22P02"),
        ("INSERT INTO accounts (id, owner, opened) VALUES (9, 'x', 5)", "42804"),
        ("INSERT INTO accounts (id, owner, note) VALUES (9, 'x', '{bad')", "22P02"),
        ("INSERT INTO accounts (id, owner) VALUES (9)", "42601"),
        ("INSERT INTO accounts (id, ownr) VALUES (9, 'x')", "42703"),
        ("UPDATE accounts SET id = 1", "23505"),
        ("UPDATE accounts SET owner = NULL WHERE id = 2", "23502"),
        ("UPDATE accounts SET balance = 1e30", "22003"),
        ("INSERT INTO acounts VALUES (9)", "42P01"),
        ("INSERT INTO _tables VALUES (9)", "42809"),
    ] {
        let error = fixture.error(sql);
        assert_eq!(error.code(), code, "{sql}: {error} {:?}", error.hint_text());
        assert_eq!(fixture.rows("SELECT * FROM accounts ORDER BY id"), before, "{sql}");
    }
}

#[test]
fn errors_name_the_thing_the_place_and_the_remedy() {
    let fixture = accounts();
    fixture.run("CREATE STREAM events WITH (partitions = 2, compression = 'zstd')");
    for (sql, code, message, hint) in [
        ("SELECT ownr FROM accounts", "42703", "column \"ownr\" does not exist at line 1, column 8", "did you mean \"owner\"?"),
        ("SELECT * FROM acounts", "42P01", "\"acounts\" does not exist", "did you mean \"accounts\"?"),
        ("SELECT\n  1 +", "42601", "line 2, column", ""),
        ("SELECT lenght(owner) FROM accounts", "42883", "lenght", "did you mean"),
        ("DROP STREAM evnts", "42P01", "stream \"evnts\" does not exist", "did you mean \"events\"?"),
        ("CREATE STREAM events", "42P07", "already exists", "IF NOT EXISTS"),
        ("CREATE STREAM x WITH (partition = 2)", "22023", "unknown option \"partition\"", "partitions"),
        ("CREATE STREAM x WITH (partitions = 0)", "22023", "partitions = 0", "1 to 1024"),
        ("CREATE STREAM x WITH (ack = 'quorum')", "0A000", "needs a cluster", "'disk'"),
        ("CREATE TABLE x (id BIGINT)", "0A000", "primary key", "PRIMARY KEY"),
        ("CREATE TABLE x (id MONEY PRIMARY KEY)", "0A000", "MONEY", "BIGINT"),
        ("CREATE TABLE x (id BIGINT PRIMARY KEY DEFAULT 'abc')", "22P02", "\"id\"", ""),
        ("CREATE TABLE x USING document FROM STREAM event", "42P01", "\"event\"", "\"events\""),
        ("CREATE TABLE x (a TEXT) USING series WITH (time = 'a') FROM STREAM events", "22023", "TIMESTAMPTZ", ""),
        ("CREATE TABLE x (a TEXT) USING row FROM STREAM events AS SELECT now()::text FROM events", "0A000", "now()", "timestamp"),
        ("CREATE TABLE x (a TEXT) USING row FROM STREAM events AS SELECT count(*) FROM events", "0A000", "WHERE", ""),
        ("GRANT SELECT ON accounts TO ann", "0A000", "not supported yet", ""),
        ("", "42601", "no statement", ""),
        ("SELECT 1; SELECT nope", "42703", "statement 2:", ""),
        ("SELECT * FROM events FOR SYSTEM_TIME AS OF OFFSET 1", "22023", "2 partitions", "POSITION"),
        ("SELECT 1 / 0", "22012", "division by zero", ""),
    ] {
        let error = fixture.error(sql);
        let shown = format!("{sql}: {} {error} {:?}", error.code(), error.hint_text());
        assert_eq!(error.code(), code, "{shown}");
        assert!(error.message().contains(message), "{shown}");
        assert!(error.hint_text().unwrap_or_default().contains(hint), "{shown}");
    }
    assert!(fixture.database.catalog().find_table("x").is_none(), "nothing half made");
}

#[test]
fn parameters_are_values_and_nothing_else() {
    let fixture = accounts();
    let rows =
        fixture.rows_with("SELECT owner FROM accounts WHERE id = $1 OR owner = $2", vec![json!(1), json!("' OR true --")], "");
    assert_eq!(rows.unwrap(), [json!(["ann"])]);
    fixture
        .request(
            "INSERT INTO accounts (id, owner, opened) VALUES ($1, $2, $3)",
            vec![json!(7), json!("gil"), json!("2024-02-29")],
            "",
        )
        .unwrap();
    assert_eq!(fixture.rows("SELECT opened FROM accounts WHERE id = 7"), [json!(["2024-02-29"])]);
}

#[test]
fn a_point_read_answers_as_the_planner_does() {
    let fixture = accounts();
    fixture.run("CREATE TABLE pairs (a TEXT, b INTEGER, c BOOLEAN, PRIMARY KEY (b, a)); INSERT INTO pairs VALUES ('x', 1, true), ('y', 1, NULL)");
    // The same question in a form that is recognised and in one that is not.
    for (fast, slow) in [
        ("SELECT * FROM accounts WHERE id = 2", "SELECT * FROM accounts WHERE id = 2 LIMIT 5"),
        ("SELECT owner, id FROM accounts WHERE (2 = id)", "SELECT owner, id FROM accounts WHERE id + 0 = 2"),
        ("SELECT id FROM accounts WHERE id = 99", "SELECT id FROM accounts WHERE id = 99 LIMIT 5"),
        ("SELECT c, a FROM public.pairs WHERE a = 'y' AND b = 1", "SELECT c, a FROM pairs WHERE a = 'y' AND b = 1 LIMIT 5"),
    ] {
        assert_eq!(fixture.rows(fast), fixture.rows(slow), "{fast}");
    }
    let params = vec![json!("x"), json!(1)];
    assert_eq!(fixture.rows_with("SELECT c FROM pairs WHERE a = $1 AND b = $2", params, "").unwrap(), [json!([true])]);
    assert_eq!(fixture.rows("SELECT count(*) FROM pairs WHERE a = 'x' AND b = 1"), [json!([1])], "not a point read");
    assert_eq!(fixture.rows("SELECT a FROM pairs WHERE b = 1 ORDER BY a"), [json!(["x"]), json!(["y"])], "half a key");
    assert_eq!(fixture.error("SELECT ownr FROM accounts WHERE id = 1").code(), "42703");
}

#[test]
fn bytes_are_written_and_shown_in_hexadecimal() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE blobs (id BIGINT PRIMARY KEY, content BYTEA); INSERT INTO blobs VALUES (1, '\\x00ff'), (2, NULL)");
    assert_eq!(fixture.rows("SELECT content FROM blobs ORDER BY id"), [json!(["\\x00ff"]), json!([null])]);
    assert_eq!(fixture.error("INSERT INTO blobs VALUES (3, '\\xletters')").code(), "22023");
    assert_eq!(fixture.rows("SELECT '\\x00FF'::bytea"), [json!(["\\x00ff"])]);
    assert_eq!(fixture.error("SELECT '\\xletters'::bytea").code(), "22023");
}

#[test]
fn concurrent_changes_of_one_row_all_count() {
    let fixture = accounts();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    fixture.runtime.block_on(async {
        let adds = (0..40).map(|_| {
            let database = fixture.database.clone();
            tokio::spawn(async move {
                let sql = "UPDATE accounts SET balance = balance + 1 WHERE id = 1".to_owned();
                database
                    .sql(router::SqlRequest { sql, params: vec![], wait: router::Cut::new(), deadline, session: None })
                    .await
                    .map(drop)
            })
        });
        for add in adds.collect::<Vec<_>>() {
            add.await.unwrap().unwrap();
        }
    });
    assert_eq!(fixture.rows("SELECT balance FROM accounts WHERE id = 1"), [json!(["50.50"])]);
}

#[test]
fn a_stream_is_a_table_and_its_conditions_are_seeks() {
    let fixture = Fixture::new();
    fixture.run("CREATE STREAM \"tenant.sales.Orders\" WITH (partitions = 3)");
    let values: Vec<_> = (0..3_000).map(|n| json!({"n": n})).collect();
    fixture.append("tenant.sales.Orders", &values);
    let table = "\"tenant.sales.Orders\"";
    assert_eq!(fixture.rows(&format!("SELECT count(*) FROM {table}")), [json!([3_000])]);
    let sql = format!(
        "SELECT partition, \"offset\", value->>'n', value->'n' FROM {table} WHERE partition = 1 AND \"offset\" BETWEEN 10 AND 12 ORDER BY 2"
    );
    let rows = fixture.rows(&sql);
    assert_eq!(rows.len(), 3);
    assert_eq!((&rows[0][0], &rows[0][1]), (&json!(1), &json!(10)));
    let plan: String = fixture.rows(&format!("EXPLAIN {sql}")).iter().map(|row| row[1].as_str().unwrap().to_owned()).collect();
    assert!(plan.contains("partition=Some(1), offset=Some(10)..Some(13)"), "{plan}");
    assert_eq!(fixture.rows(&format!("SELECT count(*) FROM {table} WHERE (value->>'n')::bigint >= 2990")), [json!([10])]);
    assert_eq!(
        fixture.rows(&format!("SELECT count(*) FROM {table} WHERE timestamp > now() - interval '1 hour'")),
        [json!([3_000])]
    );
    assert_eq!(fixture.rows("SHOW STREAMS")[0][2], json!(3_000));
}

#[test]
fn sql_that_people_write() {
    let fixture = accounts();
    for (sql, expected) in [
        ("SELECT 1 + 1, 'a' || 'b', NULL, true, 1.5, 1e3", json!([2, "ab", null, true, "1.5", 1000])),
        ("WITH t AS (SELECT * FROM accounts) SELECT count(*) FROM t WHERE balance > 5", json!([2])),
        ("SELECT string_agg(owner, ',' ORDER BY id DESC) FROM accounts", json!(["cid,bob,ann"])),
        ("SELECT sum(balance), avg(balance)::numeric(10,3), max(owner) FROM accounts", json!(["20.75", "6.917", "cid"])),
        ("SELECT row_number() OVER (ORDER BY balance DESC) FROM accounts WHERE id = 1", json!([1])),
        ("SELECT a.id FROM accounts a JOIN public.accounts b ON a.id = b.id AND b.owner = 'bob'", json!([2])),
        (
            "SELECT extract(year FROM TIMESTAMP '2024-05-31 12:00:00'), date_trunc('month', DATE '2024-05-31')::date",
            json!([2024, "2024-05-01"]),
        ),
        ("SELECT count(*) FROM accounts a WHERE EXISTS (SELECT 1 FROM accounts b WHERE b.id = a.id + 1)", json!([2])),
        ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT sum(n) FROM r", json!([15])),
        ("SELECT DISTINCT ON (id > 1) id FROM accounts ORDER BY id > 1, id DESC LIMIT 1", json!([1])),
        ("SELECT '2024-05-31T12:00:00+02:00'::timestamptz", json!(["2024-05-31T10:00:00Z"])),
    ] {
        assert_eq!(fixture.rows(sql), [expected], "{sql}");
    }
}
