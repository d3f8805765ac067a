//! What the facade's tests share: a database in a temporary folder, SQL in one line, rows as JSON.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by several test programs")]

use std::time::{Duration, Instant};

use futures::StreamExt;
use router::{AppendRecord, Cut, Database, DatabaseOptions, Error, SqlAnswer, SqlRequest};
use serde_json::{Value, json};

pub struct Fixture {
    pub database: Database,
    pub dir: tempfile::TempDir,
    pub runtime: tokio::runtime::Runtime,
}

pub fn options(dir: &std::path::Path) -> DatabaseOptions {
    let mut options = DatabaseOptions { data: dir.to_owned(), ..DatabaseOptions::default() };
    options.log.partition.segment_bytes = 1 << 20;
    options.log.reserve_bytes = 0;
    options.driver.refresh = Duration::from_millis(50);
    options.expiry_interval = Duration::from_millis(50);
    options
}

impl Fixture {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(options(dir.path())).unwrap();
        Self { database, dir, runtime: tokio::runtime::Runtime::new().unwrap() }
    }

    /// Stops, cleanly or not, and opens the same folder again.
    pub fn reopen(self, clean: bool) -> Self {
        let Self { database, dir, runtime } = self;
        if clean {
            database.close().unwrap();
        }
        drop(runtime);
        drop(database);
        // Without a close, background work of the dropped one may hold the folder for another moment.
        let deadline = Instant::now() + Duration::from_secs(30);
        let database = loop {
            match Database::open(options(dir.path())) {
                Err(error) if error.message().contains("is in use") && Instant::now() < deadline => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        Self { database, dir, runtime: tokio::runtime::Runtime::new().unwrap() }
    }

    pub fn request(&self, sql: &str, params: Vec<Value>, wait: &str) -> Result<Vec<SqlAnswer>, Error> {
        self.request_in(None, sql, params, wait)
    }

    pub fn request_in(&self, session: Option<&str>, sql: &str, params: Vec<Value>, wait: &str) -> Result<Vec<SqlAnswer>, Error> {
        let (deadline, session) = (Instant::now() + Duration::from_secs(60), session.map(str::to_owned));
        let request = SqlRequest { sql: sql.into(), params, wait: wait.parse().unwrap(), deadline, session };
        self.runtime.block_on(self.database.sql(request))
    }

    /// The rows of one statement in a session; of a change without RETURNING how many it touched.
    pub fn within(&self, session: &str, sql: &str) -> Result<Vec<Value>, Error> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let session = Some(session.to_owned());
        let request = SqlRequest { sql: sql.into(), params: vec![], wait: Cut::new(), deadline, session };
        let answer = self.runtime.block_on(self.database.sql(request))?.pop().unwrap();
        match answer {
            SqlAnswer::Rows(mut rows) => self.runtime.block_on(async {
                let mut out = Vec::new();
                while let Some(batch) = rows.stream.next().await {
                    router::render::json_rows(&batch?, &mut out);
                }
                Ok(out)
            }),
            SqlAnswer::Written { affected, .. } => Ok(vec![json!(affected)]),
            SqlAnswer::Done { tag, .. } => Ok(vec![json!(tag)]),
        }
    }

    /// The rows of one SELECT.
    pub fn rows_with(&self, sql: &str, params: Vec<Value>, wait: &str) -> Result<Vec<Value>, Error> {
        let answer = self.request(sql, params, wait)?.pop().unwrap();
        let SqlAnswer::Rows(mut rows) = answer else { panic!("{sql} has no rows") };
        self.runtime.block_on(async {
            let mut out = Vec::new();
            while let Some(batch) = rows.stream.next().await {
                router::render::json_rows(&batch?, &mut out);
            }
            Ok(out)
        })
    }

    pub fn rows(&self, sql: &str) -> Vec<Value> {
        self.rows_with(sql, vec![], "").unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub fn error(&self, sql: &str) -> Error {
        match self.request(sql, vec![], "") {
            Err(error) => error,
            Ok(mut answers) => match answers.pop() {
                Some(SqlAnswer::Rows(_)) => self.rows_with(sql, vec![], "").expect_err(sql),
                _ => panic!("{sql} succeeds"),
            },
        }
    }

    /// Runs statements that change something; gives the last position and how many rows it touched.
    pub fn run(&self, sql: &str) -> (u64, String) {
        let answers = self.request(sql, vec![], "").unwrap_or_else(|error| panic!("{sql}: {error}"));
        match answers.into_iter().next_back().unwrap() {
            SqlAnswer::Written { affected, position } => (affected, position.map(|cut| cut.to_string()).unwrap_or_default()),
            SqlAnswer::Done { position, .. } => (0, position.map(|cut| cut.to_string()).unwrap_or_default()),
            SqlAnswer::Rows(_) => panic!("{sql} has rows"),
        }
    }

    pub fn append(&self, stream: &str, values: &[Value]) -> Cut {
        let record = |value: &Value| AppendRecord { value: Some(value.to_string().into()), ..AppendRecord::default() };
        let deadline = Instant::now() + Duration::from_secs(60);
        self.runtime.block_on(self.database.append(stream, values.iter().map(record).collect(), deadline)).unwrap()
    }

    /// The stream `commits` with views of each kind.
    pub fn with_views(&self) {
        self.run(
            "CREATE STREAM commits;
             CREATE TABLE commit_rows (repo TEXT, commit TEXT, ts TIMESTAMPTZ, added BIGINT, subject TEXT, PRIMARY KEY (repo, commit))
               USING row FROM STREAM commits;
             CREATE TABLE commit_docs USING document WITH (key = 'commit', search = 'subject, body', facets = 'repo') FROM STREAM commits;
             CREATE TABLE churn (ts TIMESTAMPTZ, repo TEXT, added DOUBLE PRECISION)
               USING series WITH (time = 'ts', tags = 'repo', chunk = '7 days') FROM STREAM commits
               AS SELECT to_timestamp((value->>'ts')::bigint) AS ts, value->>'repo' AS repo, (value->>'added')::double precision AS added
                  FROM commits",
        );
    }
}

pub fn commit(n: u64) -> Value {
    let repo = ["redb", "tantivy", "openraft"][usize::try_from(n % 3).unwrap()];
    json!({
        "repo": repo,
        "commit": format!("{n:012x}"),
        "ts": 1_500_000_000 + n * 86_400,
        "added": n,
        "subject": format!("Fix torn write number {n}"),
        "body": if n.is_multiple_of(2) { "call fsync" } else { "nothing" },
    })
}
