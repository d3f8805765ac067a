//! COPY from and to CSV and Parquet files of the one folder that the server was given.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Fixture, options};
use router::{Database, SqlAnswer};
use serde_json::json;

/// A database that may copy, and its folder.
fn fixture() -> (Fixture, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("files");
    fs::create_dir(&copy).unwrap();
    let mut options = options(&dir.path().join("data"));
    options.copy_dir = Some(copy.clone());
    let database = Database::open(options).unwrap();
    (Fixture { database, dir, runtime: tokio::runtime::Runtime::new().unwrap() }, copy)
}

fn copied(fixture: &Fixture, sql: &str) -> u64 {
    match fixture.request(sql, vec![], "").unwrap_or_else(|error| panic!("{sql}: {error}")).pop() {
        Some(SqlAnswer::Written { affected, .. }) => affected,
        _ => panic!("{sql} writes"),
    }
}

const TYPES: &str =
    "(id BIGINT PRIMARY KEY, b BOOLEAN, s SMALLINT, i INTEGER, r REAL, d DOUBLE PRECISION, n NUMERIC(12,3), t TEXT,
    v VARCHAR(9), by BYTEA, dt DATE, tm TIME, ts TIMESTAMP, tz TIMESTAMPTZ, u UUID, j JSON, a INTEGER[])";

#[test]
fn all_types_go_out_and_come_back() {
    let (fixture, files) = fixture();
    fixture.run(&format!("CREATE TABLE t {TYPES}"));
    fixture.run(
        "INSERT INTO t VALUES
         (1, true, -3, 2147483647, 1.5, 0.1, 12.345, 'a,\"b\"\nc', '', '\\x00ff', '2024-02-29', '12:34:56.789', '2024-02-29 12:00:00.5',
          '2024-02-29 12:00:00Z', '6f1c2a3e-0000-4000-8000-123456789abc', '{\"k\": [1, null]}', '{1,NULL,3}'),
         (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
         (3, false, 0, -1, -0.25, 123456.75, -0.001, '', ' x ', '\\x', '1969-07-20', '00:00', '1969-07-20 20:17:40', '1969-07-20 20:17:40+02',
          '00000000-0000-0000-0000-000000000000', '\"s\"', '{}')",
    );
    let before = fixture.rows("SELECT * FROM t ORDER BY id");
    for file in ["t.csv", "t.parquet"] {
        let header = if file.ends_with("csv") { " WITH (HEADER)" } else { "" };
        assert_eq!(copied(&fixture, &format!("COPY t TO '{file}'{header}")), 3);
        fixture.run(&format!("CREATE TABLE copy {TYPES}"));
        assert_eq!(copied(&fixture, &format!("COPY copy FROM '{file}'{header}")), 3);
        assert_eq!(fixture.rows("SELECT * FROM copy ORDER BY id"), before, "{file}");
        fixture.run("DROP TABLE copy");
    }
    let text = fs::read_to_string(files.join("t.csv")).unwrap();
    assert!(text.starts_with("id,b,s,i,r,d,n,t,v,by,dt,tm,ts,tz,u,j,a\n1,t,-3,"), "{text}");
    assert!(text.contains("\n2,,,,,,,,,,,,,,,,\n"), "{text}");
    assert_eq!(fs::read_dir(&files).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn columns_options_defaults_and_queries() {
    let (fixture, files) = fixture();
    fixture.run("CREATE TABLE t (id BIGSERIAL PRIMARY KEY, n BIGINT DEFAULT 7, v TEXT)");
    fs::write(files.join("in.txt"), "v;n\nx;1\n'y;y';NIL\n;3\n").unwrap();
    let sql = "COPY t (v, n) FROM 'in.txt' WITH (FORMAT csv, HEADER true, DELIMITER ';', NULL 'NIL', QUOTE '''')";
    assert_eq!(copied(&fixture, sql), 3);
    let rows = [json!([1, 1, "x"]), json!([2, null, "y;y"]), json!([3, 3, ""])];
    assert_eq!(fixture.rows("SELECT * FROM t ORDER BY id"), rows);
    fs::write(files.join("names.csv"), "p\nq\n").unwrap();
    copied(&fixture, "COPY t (v) FROM 'names.csv'");
    assert_eq!(fixture.rows("SELECT n, v FROM t WHERE id > 3 ORDER BY id"), [json!([7, "p"]), json!([7, "q"])]);
    assert_eq!(
        copied(&fixture, "COPY (SELECT v, count(*) AS c FROM t GROUP BY v HAVING v > 'a' ORDER BY v) TO 'out.csv' (HEADER)"),
        4
    );
    assert_eq!(fs::read_to_string(files.join("out.csv")).unwrap(), "v,c\np,1\nq,1\nx,1\ny;y,1\n");
    assert_eq!(fixture.rows("COPY (SELECT 1 AS one) TO STDOUT"), [json!([1])]);
    // A file is replaced as a whole, and a query that fails leaves it as it was.
    let error = fixture.error("COPY (SELECT 1 / (n - 1) FROM t) TO 'out.csv'");
    assert_eq!(error.code(), "22012", "{error}");
    assert!(fs::read_to_string(files.join("out.csv")).unwrap().starts_with("v,c\n"));
}

#[test]
fn bad_files_say_where_and_what_is_in() {
    let (fixture, files) = fixture();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY, n INTEGER CHECK (n > 0))");
    for (text, code, part) in [
        ("1,1\n2,x\n", "22P02", "line 2"),
        ("1,1\n2\n", "22P04", "line 2: missing data for column \"n\""),
        ("1,1\n2,2,2\n", "22P04", "line 2: extra data"),
        ("1,1\n2,99999999999\n", "22003", "line 2"),
        ("1,1\n\"2,2\n", "22P04", "line 2"),
        ("1,1\n1,2\n", "23505", "(id) = (1)"),
        ("1,1\n2,0\n", "23514", "t_n_check"),
        ("1,1\n,2\n", "23502", "\"id\""),
    ] {
        fs::write(files.join("bad.csv"), text).unwrap();
        let error = fixture.error("COPY t FROM 'bad.csv'");
        assert_eq!(error.code(), code, "{text}: {error}");
        assert!(error.message().contains(part), "{text}: {error}");
        assert_eq!(fixture.rows("SELECT count(*) FROM t"), [json!([0])], "{text}");
    }
    fs::write(files.join("bad.parquet"), "PAR1 nonsense").unwrap();
    assert_eq!(fixture.error("COPY t FROM 'bad.parquet'").code(), "22P04");
    // Batches that went in before the bad one stay, and the error says so.
    let mut text: String = (1..=9_000).map(|n| format!("{n},{n}\n")).collect();
    text.push_str("9001,x\n");
    fs::write(files.join("long.csv"), text).unwrap();
    let error = fixture.error("COPY t FROM 'long.csv'");
    assert!(error.message().contains("line 9001"), "{error}");
    assert!(error.hint_text().unwrap().contains("the 8192 rows before"), "{:?}", error.hint_text());
    assert_eq!(fixture.rows("SELECT count(*) FROM t"), [json!([8192])]);
    // In a transaction all of it goes with the rollback.
    fixture.run("TRUNCATE t");
    let session = fixture.database.sessions().open().unwrap();
    fixture.within(&session, "BEGIN").unwrap();
    assert!(fixture.within(&session, "COPY t FROM 'long.csv'").is_err());
    fixture.within(&session, "ROLLBACK").unwrap();
    assert_eq!(fixture.rows("SELECT count(*) FROM t"), [json!([0])]);
}

#[test]
fn nothing_outside_the_folder_is_touched() {
    let (fixture, files) = fixture();
    fixture.run("CREATE TABLE t (id BIGINT PRIMARY KEY)");
    let outside = fixture.dir.path().join("secret.csv");
    fs::write(&outside, "1\n").unwrap();
    std::os::unix::fs::symlink(&outside, files.join("link.csv")).unwrap();
    std::os::unix::fs::symlink(fixture.dir.path(), files.join("up")).unwrap();
    for name in ["../secret.csv", "up/secret.csv", "a/../../secret.csv", outside.to_str().unwrap()] {
        for sql in [format!("COPY t FROM '{name}'"), format!("COPY t TO '{name}'")] {
            let error = fixture.error(&sql);
            assert!(["42501", "58P01"].contains(&error.code()), "{sql}: {error}");
        }
    }
    assert_eq!(fixture.error("COPY t FROM 'link.csv'").code(), "42501");
    // A link in the place of the file is replaced, not followed.
    fixture.run("COPY t TO 'link.csv'");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "1\n");
    assert_eq!(fixture.error("COPY t FROM 'nosuch.csv'").code(), "58P01");
    assert_eq!(fixture.error("COPY t FROM PROGRAM 'cat /etc/passwd'").code(), "0A000");
    assert_eq!(fixture.error("COPY t TO 'x.csv' WITH (FORMAT text)").code(), "0A000");
    assert_eq!(fixture.error("COPY nosuch TO 'x.csv'").code(), "42P01");
    let off = Fixture::new();
    off.run("CREATE TABLE t (id BIGINT PRIMARY KEY)");
    assert_eq!(off.error("COPY t TO 'x.csv'").code(), "42501");
}
