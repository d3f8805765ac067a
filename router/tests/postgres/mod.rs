//! A real PostgreSQL in a temporary folder, and both databases behind one small interface, so that their answers can be compared.
//!
//! PostgreSQL is needed: without it these tests fail and say how to get it.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods, reason = "shared by several test programs")]

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt;
use postgres::{Client, Config, NoTls, SimpleQueryMessage};
use router::arrow::array::Array;
use router::{SqlAnswer, render};

use crate::common::Fixture;

/// What a statement answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Names of the columns.
    pub names: Vec<String>,
    /// Their types by PostgreSQL's long names, without lengths and precisions.
    pub types: Vec<String>,
    /// The rows as PostgreSQL's text.
    pub rows: Vec<Vec<String>>,
}

/// Why it does not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The SQLSTATE.
    pub code: String,
    /// In words.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}

/// PostgreSQL, running until this is dropped.
pub struct Server {
    child: Child,
    dir: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // PostgreSQL does not run as root.
        let user = (std::fs::metadata(dir.path()).unwrap().uid() == 0).then(unprivileged);
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let command = |name: &str| {
            let mut command = Command::new(binary(name));
            command.current_dir(dir.path()).stdin(Stdio::null()).env("LC_ALL", "C").env("TZ", "UTC");
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command
        };
        let data = dir.path().join("data");
        let mut init = command("initdb");
        init.args(["--no-sync", "--locale=C", "--lc-ctype=C.UTF-8", "--encoding=UTF8", "--auth=trust", "--username=postgres"]);
        let made = init.arg("--pgdata").arg(&data).output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut server = command("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(dir.path());
        for setting in ["listen_addresses=", "fsync=off", "timezone=UTC", "max_connections=20", "shared_buffers=16MB", "jit=off"]
        {
            server.args(["-c", setting]);
        }
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = server.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut server = Self { child, dir };
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.config().dbname("postgres").connect(NoTls).is_err() {
            let log = || std::fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL does not start: {}", log());
            if let Ok(Some(status)) = server.child.try_wait() {
                panic!("PostgreSQL stopped with {status}: {}", log());
            }
            std::thread::yield_now();
        }
        server
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.user("postgres").host_path(self.dir.path());
        config
    }

    /// A connection to a database of this name, made empty.
    pub fn database(&self, name: &str) -> Postgres {
        let mut client = self.config().dbname("postgres").connect(NoTls).unwrap();
        client.batch_execute(&format!("CREATE DATABASE \"{name}\" TEMPLATE template0")).unwrap();
        Postgres { client: self.config().dbname(name).connect(NoTls).unwrap() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The numbers of a user without rights.
fn unprivileged() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let user = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut parts = line.split(':').skip(2).map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    user("postgres").or_else(|| user("nobody")).expect("there is a user without rights")
}

/// A program of PostgreSQL's: in the path, or where Debian puts those that are not for users.
fn binary(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    let found = folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("these tests compare with PostgreSQL, and {name} is not here: apt-get install postgresql"))
}

/// A connection to PostgreSQL.
pub struct Postgres {
    client: Client,
}

impl Postgres {
    pub fn run(&mut self, sql: &str) -> Result<Answer, Failure> {
        let failure = |error: postgres::Error| match error.as_db_error() {
            Some(error) => Failure { code: error.code().code().to_owned(), message: error.message().to_owned() },
            None => panic!("{sql}: PostgreSQL went away: {error}"),
        };
        // Whatever is asked for twice would be done twice.
        let first = sql.split_whitespace().next().unwrap_or_default().to_lowercase();
        let types = match ["select", "with", "values", "("].iter().any(|word| first.starts_with(word)) {
            true => {
                let statement = self.client.prepare(sql).map_err(failure)?;
                statement.columns().iter().map(|column| long_name(column.type_().name())).collect()
            }
            false => Vec::new(),
        };
        let mut answer = Answer { types, ..Answer::default() };
        for message in self.client.simple_query(sql).map_err(failure)? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    let cells = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL").to_owned());
                    answer.rows.push(cells.collect());
                }
                SimpleQueryMessage::RowDescription(columns) => {
                    answer.names = columns.iter().map(|column| column.name().to_owned()).collect();
                }
                _ => {}
            }
        }
        normalize(&mut answer);
        Ok(answer)
    }
}

/// The name of a type in the standard's words, without length and precision.
fn long_name(name: &str) -> String {
    if let Some(item) = name.strip_prefix('_') {
        return format!("{}[]", long_name(item));
    }
    match name {
        "int2" => "smallint",
        "int4" => "integer",
        "int8" => "bigint",
        "float4" => "real",
        "float8" => "double precision",
        "bool" => "boolean",
        "varchar" | "bpchar" | "name" => "text",
        "jsonb" => "json",
        other => other,
    }
    .to_owned()
}

/// Headwater in a temporary folder.
pub struct Headwater {
    pub fixture: Fixture,
    session: String,
}

impl Headwater {
    pub fn new() -> Self {
        let fixture = Fixture::new();
        let session = fixture.database.sessions().open().unwrap();
        Self { fixture, session }
    }

    pub fn run(&mut self, sql: &str) -> Result<Answer, Failure> {
        let failure = |error: router::Error| Failure { code: error.code().to_owned(), message: error.message().to_owned() };
        let Some(answer) = self.fixture.request_in(Some(&self.session), sql, vec![], "").map_err(failure)?.pop() else {
            return Ok(Answer::default());
        };
        let SqlAnswer::Rows(mut rows) = answer else { return Ok(Answer::default()) };
        let mut answer = Answer {
            names: rows.schema.fields().iter().map(|field| field.name().clone()).collect(),
            types: rows.schema.fields().iter().map(|field| plain_type(&render::type_name(field))).collect(),
            rows: Vec::new(),
        };
        let schema = std::sync::Arc::clone(&rows.schema);
        self.fixture.runtime.block_on(async {
            while let Some(batch) = rows.stream.next().await {
                let batch = batch.map_err(|error| failure(error.into()))?;
                for row in 0..batch.num_rows() {
                    let cell = |(field, column): (&std::sync::Arc<_>, &std::sync::Arc<dyn Array>)| text(field, column, row);
                    answer.rows.push(schema.fields().iter().zip(batch.columns()).map(cell).collect());
                }
            }
            Ok(())
        })?;
        normalize(&mut answer);
        Ok(answer)
    }
}

/// `numeric(18,2)` is a `numeric`.
fn plain_type(name: &str) -> String {
    let (head, tail) = name.split_once('(').unwrap_or((name, ""));
    let head = if head.starts_with("character") { "text" } else { head };
    format!("{head}{}", if tail.ends_with("[]") { "[]" } else { "" })
}

/// A value as PostgreSQL writes it, from what a client of Headwater gets to see.
fn text(field: &router::arrow::datatypes::Field, column: &dyn Array, row: usize) -> String {
    use router::arrow::datatypes::DataType;
    let value = render::json_value(field, column, row);
    let raw = match &value {
        serde_json::Value::Null => return "NULL".into(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Bool(value) => return if *value { "t".into() } else { "f".into() },
        serde_json::Value::Array(items) if matches!(column.data_type(), DataType::List(_) | DataType::LargeList(_)) => {
            return array_text(items);
        }
        other => other.to_string(),
    };
    match column.data_type() {
        DataType::Timestamp(_, zone) => {
            let zone = if zone.is_some() { "+00" } else { "" };
            let (whole, fraction) = raw.trim_end_matches('Z').split_once('.').unwrap_or((raw.trim_end_matches('Z'), ""));
            let fraction = fraction.trim_end_matches('0');
            let dot = if fraction.is_empty() { "" } else { "." };
            format!("{}{dot}{fraction}{zone}", whole.replace('T', " "))
        }
        _ => raw,
    }
}

fn array_text(items: &[serde_json::Value]) -> String {
    let item = |item: &serde_json::Value| match item {
        serde_json::Value::Null => "NULL".to_owned(),
        serde_json::Value::Bool(value) => if *value { "t" } else { "f" }.to_owned(),
        serde_json::Value::Array(items) => array_text(items),
        serde_json::Value::String(text) => {
            let plain = !text.is_empty() && !text.contains([',', '{', '}', '"', '\\', ' ']) && !text.eq_ignore_ascii_case("null");
            if plain { text.clone() } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) }
        }
        other => other.to_string(),
    };
    format!("{{{}}}", items.iter().map(item).collect::<Vec<_>>().join(","))
}

/// What may differ: the digits behind the point of computed numerics and doubles, of which the first 12 significant ones are kept,
/// the sign of zero, and the spaces of JSON.
fn normalize(answer: &mut Answer) {
    for row in &mut answer.rows {
        for (at, cell) in row.iter_mut().enumerate() {
            let kind = answer.types.get(at).map_or("", String::as_str);
            match kind {
                "numeric" | "double precision" | "real" if cell != "NULL" => *cell = short_number(cell),
                "json" => {
                    if let Ok(value) = serde_json::from_str::<serde_json::Value>(cell) {
                        *cell = value.to_string();
                    }
                }
                _ => {}
            }
        }
    }
}

fn short_number(text: &str) -> String {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => {
            if value == 0.0 {
                return "0".into();
            }
            let integral = !text.contains(['.', 'e', 'E']);
            if integral {
                return text.to_owned();
            }
            let short = format!("{value:.11e}").parse::<f64>().unwrap();
            short.to_string()
        }
        _ => text.to_owned(),
    }
}

/// The folder of the files.
pub fn folder() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/slt")
}
