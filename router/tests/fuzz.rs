//! SQL text of any shape: it is answered or refused with an SQLSTATE, soon, and the database goes on.
//!
//! The corpus is every statement of `tests/slt`, and some of our own words. A case takes one, or several, and damages it: characters
//! changed, tokens swapped, dropped, doubled, replaced, pieces of other statements put in, nesting, numbers at their limits. It is
//! run like a client's request, with a deadline; then what must still be there is looked at.
//!
//! A case's text follows from its number alone; what the tables hold, from the cases before it, back to a multiple of 125.
//! `HEADWATER_SEED` says which comes first, `HEADWATER_TORTURE_SQL` how many are run (default 1,500). `HEADWATER_FUZZ_TRACE=FILE`
//! keeps the case under way in a file, for those that end the process.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a test")]

mod common;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::Fixture;
use futures::StreamExt;
use router::database::PLANNING_STACK_BYTES;
use router::{Cut, Database, Error, SqlAnswer, SqlRequest};

/// Cases of one run.
const CASES: u64 = 1_500;
/// What a client gives a statement.
const DEADLINE: Duration = Duration::from_secs(2);
/// Behind its deadline a statement may be late by planning and by a batch; this is far beyond both, on a slow machine too.
const HANG: Duration = Duration::from_secs(120);
/// Rows of an answer that are read; a client may leave.
const ROWS_READ_MAX: usize = 10_000;
/// Cases after which the database is made anew, with the tables of the next file: statements drop and fill them.
const CASES_PER_DATABASE: u64 = 125;
/// Findings after which a run stops.
const FINDINGS_MAX: usize = 10;

const TABLES: &str =
    "CREATE TABLE numbers (id INTEGER PRIMARY KEY, a INTEGER, b BIGINT, s SMALLINT, f DOUBLE PRECISION, n NUMERIC(12,3));
    CREATE TABLE words (id INTEGER PRIMARY KEY, t TEXT, u VARCHAR(10), k INTEGER REFERENCES numbers ON DELETE CASCADE);
    CREATE INDEX ON words (t DESC, k);
    INSERT INTO numbers VALUES (1, 1, 10, 5, 1.5, 1.25), (2, -7, -3000000000, -2, -0.25, -99.999), (3, NULL, 0, NULL, 2.5, 0);
    INSERT INTO words VALUES (1, 'apple', 'Apple', 1), (2, '', 'x', 2), (3, NULL, 'null', 1), (4, 'Zoë', 'zoe', NULL);
    CREATE STREAM events;
    CREATE TABLE kept (id INTEGER PRIMARY KEY, v TEXT);
    INSERT INTO kept VALUES (1, 'kept')";

/// Statements that the files of `tests/slt` have none of.
const OWN: &[&str] = &[
    "CREATE STREAM s1 WITH (partitions = 2, ack = 'disk', retention = '7 days', compression = 'zstd')",
    "ALTER STREAM events SET (retention = '30 days', retention_bytes = '10 GB')",
    "DROP STREAM IF EXISTS s1",
    "SHOW STREAMS",
    "SHOW TABLES",
    "SHOW VIEWS",
    "CREATE TABLE rows_of (id INTEGER, v TEXT, PRIMARY KEY (id)) USING row FROM STREAM events",
    "CREATE TABLE docs USING document WITH (key = 'id', search = 'body:english', facets = 'kind') FROM STREAM events",
    "CREATE TABLE points (ts TIMESTAMPTZ, kind TEXT, v DOUBLE PRECISION) USING series WITH (time = 'ts', tags = 'kind', chunk = '1 day') FROM STREAM events",
    "SELECT _id, score() FROM docs WHERE CONTAINS(body, '\"torn write\"~2 OR crash~1 AND NOT revert') ORDER BY score() DESC LIMIT 3",
    "SELECT time_bucket('1 hour', ts), first(v, ts), last(v, ts) FROM points GROUP BY 1",
    "REBUILD VIEW rows_of",
    "SELECT * FROM numbers FOR SYSTEM_TIME AS OF OFFSET 3",
    "SELECT * FROM numbers FOR SYSTEM_TIME AS OF POSITION '_tables/0@2'",
    "SELECT partition, \"offset\", value->>'id' FROM events WHERE \"offset\" > 3 AND partition = 0",
    "INSERT INTO words (id, t) VALUES (9, 'x') ON CONFLICT (id) DO UPDATE SET t = excluded.t RETURNING *",
    "INSERT INTO numbers (id, a) SELECT id + 100, k FROM words ON CONFLICT DO NOTHING",
    "UPDATE numbers SET a = a + w.k FROM words w WHERE w.id = numbers.id RETURNING numbers.id",
    "DELETE FROM words USING numbers WHERE numbers.id = words.k AND numbers.a IS NULL",
    "ALTER TABLE words ADD COLUMN note TEXT DEFAULT 'none' NOT NULL, DROP COLUMN IF EXISTS u",
    "ALTER TABLE words RENAME COLUMN t TO text",
    "CREATE UNIQUE INDEX one ON numbers (b DESC, s)",
    "DROP INDEX one",
    "CREATE VIEW few (id, a) AS SELECT id, a FROM numbers WHERE a > 0",
    "DROP VIEW IF EXISTS few CASCADE",
    "BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE numbers SET a = 1; SAVEPOINT x; DELETE FROM words; ROLLBACK TO x; COMMIT",
    "EXPLAIN ANALYZE SELECT * FROM numbers JOIN words ON words.k = numbers.id",
    "CREATE TABLE t (id UUID PRIMARY KEY, x NUMERIC(10,2) CHECK (x > 0), y INTERVAL, z TIMESTAMPTZ DEFAULT now(), q INT[], j JSON)",
    "INSERT INTO t VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 1.5, '1 year 2 mons 3 days 04:05:06', '2024-02-29', '{1,NULL}', '{\"a\":1}')",
    "MERGE INTO numbers USING words ON words.id = numbers.id WHEN MATCHED THEN UPDATE SET a = 1 WHEN NOT MATCHED THEN INSERT (id) VALUES (words.id)",
    "COPY numbers FROM '/nowhere' WITH (FORMAT csv)",
    "PREPARE p AS SELECT $1::int; EXECUTE p(1)",
    "TRUNCATE words",
];

/// Words and signs that mean something somewhere.
const TOKENS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "NOT",
    "NULL",
    "IN",
    "EXISTS",
    "(",
    ")",
    ",",
    ";",
    "*",
    "+",
    "-",
    "/",
    "%",
    "=",
    "<>",
    "::",
    "->",
    "->>",
    "||",
    "~",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "OFFSET",
    "UNION ALL",
    "EXCEPT",
    "DISTINCT",
    "OVER ()",
    "PARTITION BY",
    "LATERAL",
    "WITH RECURSIVE x AS",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "BETWEEN",
    "AND",
    "OR",
    "LIKE",
    "ESCAPE",
    "ANY",
    "ALL",
    "ARRAY[",
    "]",
    "INTERVAL",
    "DATE",
    "TIMESTAMP",
    "CAST(",
    "AS",
    "::int",
    "::smallint",
    "::numeric(38,37)",
    "::date",
    "::interval",
    "::uuid",
    "::int[]",
    "::json",
    "::bytea",
    "$1",
    "$0",
    "$99999",
    "''",
    "'\\x'",
    "'''",
    "\"",
    "\"\"",
    "U&'\\0041'",
    "E'\\n'",
    "$$",
    "$a$x$a$",
    "--",
    "/*",
    "*/",
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999999999999999999999",
    "1e400",
    "1e-400",
    "0.1e38",
    "NaN",
    "'NaN'::float8",
    "'infinity'::timestamp",
    "'1 month'::interval",
    "'-178000000 years'::interval",
    "'294276-12-31'::timestamp",
    "'0001-01-01 BC'::date",
    "repeat('x', 1000000000)",
    "generate_series(1, 1000000000000)",
    "generate_series(1, 10, 0)",
    "lpad('x', 2147483647)",
    "numbers",
    "words",
    "kept",
    "events",
    "id",
    "a",
    "t",
    "sum(a)",
    "count(*)",
    "row_number() OVER (ORDER BY id)",
    "FOR SYSTEM_TIME AS OF OFFSET",
    "FOR SYSTEM_TIME AS OF TIMESTAMP",
    "POSITION",
    "score()",
    "MATCH(*, 'x')",
    "information_schema.columns",
    "pg_catalog.pg_class",
    "RETURNING *",
    "ON CONFLICT DO NOTHING",
    "DEFAULT",
    "VALUES",
    "SET",
    "\u{0}",
    "\u{feff}",
    "\u{1f4a5}",
    "ǅ",
    "ß",
    "İ",
    "\u{202e}",
    "é",
];

/// A small generator of numbers: what it gives follows from the seed alone.
struct Random(u64);

impl Random {
    fn of(case: u64) -> Self {
        Self(case.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

/// The statements of each file, those that are errors too.
fn corpus() -> Vec<Vec<String>> {
    let folder = std::path::Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/slt");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    let statements = |file| {
        let records = sqllogictest::parse_file::<sqllogictest::DefaultColumnType>(file).unwrap();
        let statements = records.into_iter().filter_map(|record| match record {
            sqllogictest::Record::Statement { sql, .. } | sqllogictest::Record::Query { sql, .. } => Some(sql),
            _ => None,
        });
        statements.collect::<Vec<_>>()
    };
    let corpus: Vec<Vec<String>> = files.into_iter().map(statements).collect();
    assert!(corpus.iter().map(Vec::len).sum::<usize>() > 700, "the corpus is there");
    corpus
}

/// One of a file's statements, of any file's, or of ours.
fn any_statement<'a>(random: &mut Random, corpus: &'a [Vec<String>], file: usize) -> &'a str {
    match random.below(8) {
        0 => OWN[random.below(OWN.len())],
        1 => {
            let other = &corpus[random.below(corpus.len())];
            &other[random.below(other.len())]
        }
        _ => &corpus[file][random.below(corpus[file].len())],
    }
}

/// Words, numbers, texts, runs of blanks, single signs: joined they are the text again.
fn tokens(sql: &str) -> Vec<String> {
    let kind = |c: char| match c {
        c if c.is_alphanumeric() || c == '_' => 0,
        c if c.is_whitespace() => 1,
        _ => 2,
    };
    let mut out: Vec<String> = Vec::new();
    let mut quoted = None;
    for c in sql.chars() {
        let joins = out.last().and_then(|last| last.chars().last()).is_some_and(|before| kind(before) == kind(c) && kind(c) != 2);
        match out.last_mut() {
            Some(last) if quoted.is_some() || joins => last.push(c),
            _ => out.push(c.into()),
        }
        match quoted {
            Some(quote) if quote == c => quoted = None,
            None if c == '\'' || c == '"' => quoted = Some(c),
            _ => {}
        }
    }
    out
}

fn damaged(random: &mut Random, corpus: &[Vec<String>], file: usize) -> String {
    let mut sql = any_statement(random, corpus, file).to_owned();
    for _ in 0..random.below(4) {
        sql = damage(random, &sql, corpus, file);
    }
    sql
}

fn damage(random: &mut Random, sql: &str, corpus: &[Vec<String>], file: usize) -> String {
    let mut parts = tokens(sql);
    if parts.is_empty() {
        return TOKENS[random.below(TOKENS.len())].to_owned();
    }
    let at = random.below(parts.len());
    match random.below(12) {
        0 => {
            // A flipped bit, which may leave the text no UTF-8; then it is what a door makes of it.
            let mut bytes = sql.as_bytes().to_vec();
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        1 => {
            let other = random.below(parts.len());
            parts.swap(at, other);
        }
        2 => drop(parts.remove(at)),
        3 => {
            let end = (at + 1 + random.below(6)).min(parts.len());
            parts.drain(at..end);
        }
        4 => {
            let copy = parts[at].clone();
            parts.insert(at, copy);
        }
        5 => parts.insert(at, format!(" {} ", TOKENS[random.below(TOKENS.len())])),
        6 | 7 => parts[at] = TOKENS[random.below(TOKENS.len())].to_owned(),
        8 => {
            // A piece of another statement in the place of one of this.
            let other = tokens(any_statement(random, corpus, file));
            let from = random.below(other.len());
            let until = (from + 1 + random.below(12)).min(other.len());
            let end = (at + random.below(8)).min(parts.len());
            parts.splice(at..end, other[from..until].iter().cloned());
        }
        9 => {
            // A whole statement in the place of a value, or behind this one.
            let other = any_statement(random, corpus, file);
            match random.below(3) {
                0 => parts.push(format!("; {other}")),
                _ => parts[at] = format!("({other})"),
            }
        }
        10 => {
            // Numbers become others.
            let number = |part: &&mut String| part.starts_with(|c: char| c.is_ascii_digit());
            let numbers =
                ["0", "-1", "2147483648", "9223372036854775808", "1e39", "0.00000000000000000000000000000000000001", "65536"];
            let chosen = numbers[random.below(numbers.len())].to_owned();
            if let Some(part) = parts.iter_mut().filter(number).last() {
                *part = chosen;
            }
        }
        _ => {
            // Nesting, up to far beyond what is taken.
            let depth = [3, 20, 60, 200, 950, 3_000][random.below(6)];
            let (open, close) =
                [("(", ")"), ("NOT (", ")"), ("-", ""), ("(SELECT ", ")"), ("ARRAY[", "]"), ("coalesce(", ", 1)"), ("1 + ", "")]
                    [random.below(7)];
            parts[at] = format!("{}{}{}", open.repeat(depth), parts[at], close.repeat(depth));
        }
    }
    parts.concat()
}

/// Runs a text as a client would, and reads the rows of every answer.
async fn run(database: Database, sql: String) -> Result<(), Error> {
    let request = SqlRequest { sql, params: vec![], wait: Cut::new(), deadline: Instant::now() + DEADLINE, session: None };
    for answer in database.sql(request).await? {
        let SqlAnswer::Rows(mut rows) = answer else { continue };
        let (mut count, mut out) = (0, Vec::new());
        while let Some(batch) = rows.stream.next().await {
            let batch = batch.map_err(Error::from)?;
            count += batch.num_rows();
            if count > ROWS_READ_MAX {
                break;
            }
            router::render::json_rows(&batch, &mut out);
        }
    }
    Ok(())
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Whether a text is answered; an error says why it is neither answered nor refused as it should be. It runs on a thread of its own, since planning may not give way to a deadline.
fn outcome(fixture: &Fixture, sql: &str) -> Result<bool, String> {
    let (done, answer) = mpsc::channel();
    let (database, handle, text) = (fixture.database.clone(), fixture.runtime.handle().clone(), sql.to_owned());
    let running = std::thread::spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| handle.block_on(run(database, text))));
        let _ = done.send(outcome);
    });
    let Ok(outcome) = answer.recv_timeout(HANG) else { return Err(format!("no answer within {} s", HANG.as_secs())) };
    running.join().unwrap();
    match outcome {
        Err(panic) => Err(format!("panic: {}", words(&*panic))),
        Ok(Ok(())) => Ok(true),
        Ok(Err(error)) => {
            let code = error.code();
            let typed = code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
            if !typed {
                return Err(format!("the code is \"{code}\": {error}"));
            }
            // XX000 is what we say of a bug of ours; a panic in a query's task comes out as one.
            match code == "XX000" || error.message().is_empty() {
                true => Err(format!("{code}: {error}")),
                false => Ok(false),
            }
        }
    }
}

/// A database with our tables and those of a file.
fn fixture(statements: &[String]) -> Fixture {
    let fixture = Fixture::new();
    fixture.run(TABLES);
    let defines = |sql: &&String| {
        let first = sql.split_whitespace().next().unwrap_or_default().to_lowercase();
        ["create", "insert"].contains(&first.as_str())
    };
    // Some of them are meant to fail.
    statements.iter().filter(defines).for_each(|sql| drop(fixture.request(sql, vec![], "")));
    fixture
}

#[test]
fn any_text_is_answered_or_refused() {
    // With the stack that the server's threads have.
    let run = std::thread::Builder::new().stack_size(PLANNING_STACK_BYTES).spawn(answer_or_refuse).unwrap().join();
    run.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn answer_or_refuse() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("HEADWATER_SEED").unwrap_or(1);
    let cases = number("HEADWATER_TORTURE_SQL").unwrap_or(CASES);
    let trace = std::env::var_os("HEADWATER_FUZZ_TRACE");
    let corpus = corpus();
    let file_of = |case: u64| usize::try_from(case / CASES_PER_DATABASE).unwrap() % corpus.len();
    let mut fixture = fixture(&corpus[file_of(first)]);
    let (mut findings, mut answered, mut slowest) = (Vec::new(), 0_u64, (Duration::ZERO, 0));
    for case in first..first + cases {
        let file = file_of(case);
        if case % CASES_PER_DATABASE == 0 {
            fixture = self::fixture(&corpus[file]);
        }
        let sql = damaged(&mut Random::of(case), &corpus, file);
        if let Some(file) = &trace {
            std::fs::write(file, format!("seed {case}\n{sql}\n")).unwrap();
        }
        let began = Instant::now();
        let outcome = outcome(&fixture, &sql);
        slowest = slowest.max((began.elapsed(), case));
        answered += u64::from(outcome == Ok(true));
        if let Err(how) = outcome {
            findings.push(format!("-- seed {case}: {how}\n{sql};"));
            println!("{}", findings[findings.len() - 1]);
            // What hangs or panicked may hold something; the next cases must not suffer from it.
            fixture = self::fixture(&corpus[file]);
        }
        if findings.len() == FINDINGS_MAX {
            break;
        }
    }
    println!("{cases} texts from seed {first}, {answered} answered, the slowest took {:.1?} (seed {})", slowest.0, slowest.1);
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    // Damage that leaves nothing to run, or nothing to refuse, tries little.
    assert!(cases < 100 || (cases / 10..cases * 9 / 10).contains(&answered), "{answered} of {cases} were answered");
    // The database goes on.
    fixture.run("CREATE TABLE after_all (id INTEGER PRIMARY KEY)");
    fixture.run("INSERT INTO after_all VALUES (1)");
    assert_eq!(fixture.rows("SELECT id FROM after_all"), [serde_json::json!([1])]);
}
