//! Every column type through SQL: in and out, compared, sorted, as a key, as a default, and what is no such value.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::Fixture;
use serde_json::{Value, json};

/// A type, values in ascending order as they are written, and how they are shown.
fn types() -> Vec<(&'static str, Vec<(&'static str, Value)>)> {
    let same = |text: &'static str| (text, json!(text));
    vec![
        ("BOOLEAN", vec![("false", json!(false)), ("true", json!(true))]),
        ("SMALLINT", vec![("-32768", json!(-32768)), ("0", json!(0)), ("32767", json!(32767))]),
        ("INTEGER", vec![("-2147483648", json!(-2_147_483_648_i64)), ("7", json!(7))]),
        ("BIGINT", vec![("-9223372036854775807", json!("-9223372036854775807")), ("1", json!(1))]),
        ("REAL", vec![("-1.5", json!(-1.5)), ("0.1", json!(0.1))]),
        ("DOUBLE PRECISION", vec![("-1e300", json!(-1e300)), ("0.1", json!(0.1))]),
        ("NUMERIC(8,2)", vec![("-3.25", json!("-3.25")), ("10.5", json!("10.50"))]),
        ("NUMERIC", vec![("-0.0000000001", json!("-0.0000000001")), ("1.5", json!("1.5000000000"))]),
        ("TEXT", vec![same(""), same("a"), same("\u{e4}\u{f6}")]),
        ("VARCHAR(3)", vec![same("ab"), same("abc"), same("\u{e4}\u{f6}\u{fc}")]),
        ("CHAR(3)", vec![("ab", json!("ab ")), ("abc", json!("abc")), ("b", json!("b  "))]),
        ("BYTEA", vec![same("\\x"), same("\\x00ff"), same("\\x01")]),
        ("DATE", vec![same("1969-12-31"), same("2024-02-29")]),
        ("TIME", vec![same("00:00:00"), same("12:34:56.5"), same("23:59:59.999999")]),
        (
            "TIMESTAMP",
            vec![("1969-12-31 23:59:59", json!("1969-12-31T23:59:59")), ("2024-02-29 12:00:00", json!("2024-02-29T12:00:00"))],
        ),
        (
            "TIMESTAMPTZ",
            vec![
                ("2024-05-31T12:00:00+02:00", json!("2024-05-31T10:00:00Z")),
                ("2024-05-31T12:00:00Z", json!("2024-05-31T12:00:00Z")),
            ],
        ),
        (
            "INTERVAL",
            vec![
                ("-1 day", json!("-1 days")),
                ("1 day 02:03:04", json!("1 day 02:03:04")),
                ("14 months", json!("1 year 2 mons")),
            ],
        ),
        (
            "UUID",
            vec![
                same("00000000-0000-0000-0000-000000000001"),
                ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", json!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
            ],
        ),
        ("BIGINT[]", vec![("{}", json!([])), ("{1}", json!([1])), ("{1,2}", json!([1, 2]))]),
        ("TEXT[]", vec![("{a,\"b c\"}", json!(["a", "b c"])), ("{b}", json!(["b"]))]),
    ]
}

#[test]
fn every_type_is_stored_compared_sorted_and_a_key() {
    let fixture = Fixture::new();
    for (n, (kind, values)) in types().into_iter().enumerate() {
        let table = format!("t{n}");
        fixture.run(&format!(
            "CREATE TABLE {table} (k {kind} PRIMARY KEY, n INTEGER, v {kind}, d {kind} DEFAULT '{}')",
            values[0].0
        ));
        for (at, (text, _)) in values.iter().enumerate().rev() {
            fixture.run(&format!("INSERT INTO {table} (k, n, v) VALUES ('{text}', {at}, '{text}')"));
        }
        let shown: Vec<Value> =
            values.iter().enumerate().map(|(at, (_, shown))| json!([at, shown, shown, values[0].1])).collect();
        assert_eq!(fixture.rows(&format!("SELECT n, k, v, d FROM {table} ORDER BY k")), shown, "{kind}");
        for (at, (text, _)) in values.iter().enumerate() {
            for column in ["k", "v"] {
                let sql = format!("SELECT n FROM {table} WHERE {column} = CAST('{text}' AS {kind})");
                assert_eq!(fixture.rows(&sql), [json!([at])], "{kind}: {sql}");
                let sql = format!("SELECT n FROM {table} WHERE {column} = '{text}'");
                assert_eq!(fixture.rows(&sql), [json!([at])], "{kind}: {sql}");
            }
            let error = fixture.error(&format!("INSERT INTO {table} (k) VALUES ('{text}')"));
            assert_eq!(error.code(), "23505", "{kind} {text}: {error}");
        }
        fixture.run(&format!(
            "UPDATE {table} SET v = NULL, d = k WHERE n = 0; INSERT INTO {table} (k, n) SELECT k, 100 FROM {table} WHERE false"
        ));
        assert_eq!(fixture.rows(&format!("SELECT v, d FROM {table} WHERE n = 0")), [json!([null, values[0].1])], "{kind}");
        assert_eq!(fixture.run(&format!("DELETE FROM {table} WHERE k = CAST('{}' AS {kind})", values[0].0)).0, 1, "{kind}");
    }
    let fixture = fixture.reopen(true);
    for (n, (kind, values)) in types().into_iter().enumerate() {
        let shown: Vec<Value> = values[1..].iter().map(|(_, shown)| json!([shown, shown])).collect();
        assert_eq!(fixture.rows(&format!("SELECT k, v FROM t{n} ORDER BY k")), shown, "{kind} after a restart");
    }
}

#[test]
fn what_is_no_value_is_refused_with_its_code() {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, s SMALLINT, n NUMERIC(4,2), v VARCHAR(3), c CHAR(2), b BYTEA, d DATE, m TIME,
           z TIMESTAMPTZ, i INTERVAL, u UUID, a INTEGER[], x TEXT[], j JSON, f REAL, o BOOLEAN)",
    );
    for (column, value, code) in [
        ("s", "32768", "22003"),
        ("s", "'32768'", "22003"),
        ("s", "'x'", "22P02"),
        ("n", "100", "22003"),
        ("n", "'1e5'", "22003"),
        ("n", "'x'", "22P02"),
        ("v", "'abcd'", "22001"),
        ("v", "12345", "22001"),
        ("c", "'abc'", "22001"),
        ("b", "'\\xletters'", "22023"),
        ("b", "'\\letters'", "22P02"),
        ("d", "'2024-02-30'", "22008"),
        ("d", "'soon'", "22007"),
        ("m", "'25:00'", "22008"),
        ("m", "'noon'", "22007"),
        ("z", "'soon'", "22007"),
        ("i", "'1 fortnight'", "22007"),
        ("u", "'a0eebc99'", "22P02"),
        ("u", "5", "42804"),
        ("a", "'1,2'", "22P02"),
        ("a", "'{1,x}'", "22P02"),
        ("a", "'{3000000000}'", "22003"),
        ("a", "ARRAY[3000000000]", "22003"),
        ("a", "ARRAY['x']", "22P02"),
        ("a", "ARRAY[ARRAY[1]]", "0A000"),
        ("a", "5", "42804"),
        ("j", "'{bad'", "22P02"),
        ("f", "'1e300'::double precision", "22003"),
        ("f", "'1e300'", "22003"),
        ("o", "'maybe'", "22P02"),
        ("o", "5", "42804"),
    ] {
        let sql = format!("INSERT INTO t (id, {column}) VALUES (1, {value})");
        let error = fixture.error(&sql);
        assert_eq!(error.code(), code, "{sql}: {error}");
        assert!(error.message().contains(&format!("column \"{column}\"")), "{sql}: {error}");
    }
    assert_eq!(fixture.rows("SELECT count(*) FROM t"), [json!([0])]);
    for sql in ["CREATE TABLE x (id BIGINT PRIMARY KEY, a INTEGER[][])", "CREATE TABLE x (id BIGINT PRIMARY KEY, t TIMETZ)"] {
        assert_eq!(fixture.error(sql).code(), "0A000", "{sql}");
    }
    for sql in ["CREATE TABLE x (id VARCHAR(0) PRIMARY KEY)", "CREATE TABLE x (id CHAR(99999999) PRIMARY KEY)"] {
        assert_eq!(fixture.error(sql).code(), "22023", "{sql}");
    }
}

#[test]
fn values_are_assigned_as_postgresql_assigns_them() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, v VARCHAR(3), c CHAR(3), n INTEGER, a TEXT[], i INTERVAL, x BIGINT[])");
    fixture.run(
        "INSERT INTO t VALUES (1, 'ab   ', 'a', 2.5, ARRAY['a', NULL], INTERVAL '1 day 2 hours', ARRAY[1, 2]),
           (2, NULL, 'abc  ', NULL, ARRAY[]::text[], NULL, NULL)",
    );
    fixture.run("UPDATE t SET i = TIMESTAMP '2024-01-02 00:00:00' - TIMESTAMP '2024-01-01 00:00:00' WHERE id = 2");
    assert_eq!(
        fixture.rows("SELECT v, c, n, a, i, x FROM t ORDER BY id"),
        [json!(["ab ", "a  ", 3, ["a", null], "1 day 02:00:00", [1, 2]]), json!([null, "abc", null, [], "1 day", null])]
    );
    assert_eq!(fixture.rows("SELECT x[2], array_length(x), c = 'a' FROM t WHERE id = 1"), [json!([2, 2, true])]);
    assert_eq!(fixture.rows("SELECT id FROM t WHERE 2 = ANY(x)"), [json!([1])]);
}

#[test]
fn intervals_are_as_long_as_postgresql_takes_them_for() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (v INTERVAL PRIMARY KEY, id BIGINT)");
    fixture.run("INSERT INTO t VALUES ('40 days', 1), ('1 month', 2), ('25 hours', 3), ('1 day', 4), ('-1 month', 5)");
    assert_eq!(fixture.error("INSERT INTO t VALUES ('30 days', 6)").code(), "23505");
    for (sql, expected) in [
        ("SELECT id FROM t ORDER BY v", vec![5, 4, 3, 2, 1]),
        ("SELECT id FROM t ORDER BY v DESC LIMIT 2", vec![1, 2]),
        ("SELECT id FROM t WHERE v = '30 days'", vec![2]),
        ("SELECT id FROM t WHERE v > INTERVAL '1 month'", vec![1]),
        ("SELECT id FROM t WHERE v < '24:00:01' ORDER BY id", vec![4, 5]),
        ("SELECT id FROM t WHERE v BETWEEN '1 day' AND '26 hours' ORDER BY id", vec![3, 4]),
        ("SELECT a.id FROM t a JOIN t b ON a.v > b.v AND b.id = 2", vec![1]),
    ] {
        let expected: Vec<Value> = expected.into_iter().map(|id| json!([id])).collect();
        assert_eq!(fixture.rows(sql), expected, "{sql}");
    }
}

#[test]
fn answers_name_the_types() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE t (u UUID PRIMARY KEY, v VARCHAR(3), c CHAR(3), m TIME, i INTERVAL, a BIGINT[], w UUID[])");
    let answer = fixture.request("SELECT * FROM t", vec![], "").unwrap().pop().unwrap();
    let router::SqlAnswer::Rows(rows) = answer else { panic!("a SELECT has rows") };
    let names: Vec<String> = rows.schema.fields().iter().map(|field| router::render::type_name(field)).collect();
    assert_eq!(names, ["uuid", "character varying(3)", "character(3)", "time", "interval", "bigint[]", "uuid[]"]);
}

#[test]
fn fields_of_records_become_values_of_every_type() {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE STREAM s; CREATE TABLE r (u UUID PRIMARY KEY, v VARCHAR(3), m TIME, i INTERVAL, a BIGINT[]) USING row FROM STREAM s;
         CREATE TABLE p (u UUID PRIMARY KEY, v VARCHAR(3), a TEXT[]) USING row FROM STREAM s
           AS SELECT value->>'u', value->>'v', value->>'t' FROM s",
    );
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let position = fixture.append(
        "s",
        &[
            json!({"u": uuid.to_uppercase(), "v": "abc", "m": "08:30", "i": "90 minutes", "a": [1, null, "2"], "t": "{x,y}"}),
            json!({"u": "no", "v": "abc"}),
            json!({"u": uuid, "v": "too long"}),
        ],
    );
    let rows = fixture.rows_with("SELECT * FROM r", vec![], &position.to_string()).unwrap();
    assert_eq!(rows, [json!([uuid, "abc", "08:30:00", "01:30:00", [1, null, 2]])]);
    let rows = fixture.rows_with("SELECT * FROM p", vec![], &position.to_string()).unwrap();
    assert_eq!(rows, [json!([uuid, "abc", ["x", "y"]])]);
    assert_eq!(fixture.database.view("r").unwrap().dead_letters, 2);
    assert_eq!(fixture.database.view("p").unwrap().dead_letters, 2);
}
