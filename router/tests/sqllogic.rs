//! The statements of `tests/slt`, run by PostgreSQL and by Headwater: both must answer as it is written there, with the same names
//! and types of columns.
//!
//! The answers in the files are PostgreSQL's. Where Headwater's is another one, the statement is marked `skipif headwater` under a
//! comment `# differs: name`; `docs/sql.md` explains each such name. A marked statement must really differ, and every name must be
//! in the files and in the docs.
//!
//! With `HEADWATER_SLT_ONLY=joins` only that file is run; with `HEADWATER_SLT_WRITE=1` the files are written anew from PostgreSQL's answers.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a test")]

mod common;
mod postgres;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use postgres::{Answer, Failure, Headwater, Postgres, Server, folder};
use sqllogictest::{
    Condition, DB, DBOutput, DefaultColumnType, ExpectedError, QueryExpect, Record, Runner, SortMode, StatementExpect, parse_file,
};

type Line = Record<DefaultColumnType>;

/// Statements that the files have at least.
const STATEMENTS_MIN: usize = 700;

/// A database as the runner uses it; what it answered last can be looked at.
struct Engine<R> {
    name: &'static str,
    run: R,
    last: Arc<Mutex<Option<Answer>>>,
}

impl<R: FnMut(&str) -> Result<Answer, Failure>> DB for Engine<R> {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        let answer = (self.run)(sql)?;
        let output = match answer.names.is_empty() && answer.rows.is_empty() {
            true => DBOutput::StatementComplete(0),
            false => DBOutput::Rows { types: vec![DefaultColumnType::Text; answer.names.len()], rows: shown(&answer) },
        };
        *self.last.lock().unwrap() = Some(answer);
        Ok(output)
    }

    fn engine_name(&self) -> &str {
        self.name
    }

    fn error_sql_state(error: &Failure) -> Option<String> {
        Some(error.code.clone())
    }
}

fn shown(answer: &Answer) -> Vec<Vec<String>> {
    let cell = |cell: &String| if cell.is_empty() { "(empty)".to_owned() } else { cell.replace(['\n', '\r', '\t'], "~") };
    answer.rows.iter().map(|row| row.iter().map(cell).collect()).collect()
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    files
}

fn statement(record: &Line) -> Option<(&str, &[Condition])> {
    match record {
        Record::Statement { sql, conditions, .. } | Record::Query { sql, conditions, .. } => Some((sql, conditions)),
        _ => None,
    }
}

fn is_marked(conditions: &[Condition]) -> bool {
    conditions.contains(&Condition::SkipIf { label: "headwater".into() })
}

fn place(record: &Line) -> String {
    match record {
        Record::Statement { loc, .. } | Record::Query { loc, .. } => loc.to_string(),
        _ => String::new(),
    }
}

/// The names of the differences that a record's comment gives.
fn differences(comment: &[String]) -> impl Iterator<Item = String> {
    comment.iter().filter_map(|line| line.trim().strip_prefix("differs:")).map(|name| name.trim().to_owned())
}

fn run_file(server: &Server, file: &Path, failures: &mut String, named: &mut BTreeSet<String>) -> usize {
    let name = file.file_stem().unwrap().to_string_lossy().into_owned();
    let there = Arc::new(Mutex::new(server.database(&name)));
    let here = Arc::new(Mutex::new(Headwater::new()));
    let (of_there, of_here) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let mut postgres = Runner::new(|| async {
        let there = Arc::clone(&there);
        let run = move |sql: &str| there.lock().unwrap().run(sql);
        Ok(Engine { name: "postgresql", run, last: Arc::clone(&of_there) })
    });
    let mut headwater = Runner::new(|| async {
        let here = Arc::clone(&here);
        let run = move |sql: &str| here.lock().unwrap().run(sql);
        Ok(Engine { name: "headwater", run, last: Arc::clone(&of_here) })
    });
    let mut comment = Vec::new();
    let mut count = 0;
    for record in parse_file::<DefaultColumnType>(file).unwrap() {
        if let Record::Comment(lines) = &record {
            comment.clone_from(lines);
            continue;
        }
        let Some((sql, conditions)) = statement(&record) else { continue };
        count += 1;
        *of_there.lock().unwrap() = None;
        *of_here.lock().unwrap() = None;
        if let Err(error) = postgres.run(record.clone()) {
            let _ = writeln!(failures, "-- PostgreSQL does not answer as written: {error}");
        }
        let began = std::time::Instant::now();
        if is_marked(conditions) {
            let found: Vec<String> = differences(&comment).collect();
            if found.is_empty() {
                let _ =
                    writeln!(failures, "-- {}: a marked statement needs a comment `# differs: name` before it", place(&record));
            }
            named.extend(found);
            let (wanted, given) = (there.lock().unwrap().run(sql), here.lock().unwrap().run(sql));
            if same(&wanted, &given) {
                let _ = writeln!(failures, "-- {}: does not differ any more: {sql}", place(&record));
            }
        } else {
            match headwater.run(record.clone()) {
                Err(error) => {
                    let _ = writeln!(failures, "-- Headwater: {error}");
                }
                Ok(_) => {
                    let (wanted, given) = (of_there.lock().unwrap().take(), of_here.lock().unwrap().take());
                    if let (Some(wanted), Some(given)) = (wanted, given)
                        && !wanted.types.is_empty()
                        && (wanted.names != given.names || wanted.types != given.types)
                    {
                        let _ = writeln!(
                            failures,
                            "-- {}: columns {:?} {:?}, in PostgreSQL {:?} {:?}: {sql}",
                            place(&record),
                            given.names,
                            given.types,
                            wanted.names,
                            wanted.types
                        );
                    }
                }
            }
        }
        if began.elapsed().as_secs() > 20 {
            println!("{}: {} s: {sql}", place(&record), began.elapsed().as_secs());
        }
        comment.clear();
    }
    count
}

/// Whether two answers are the same but for the order of rows.
fn same(wanted: &Result<Answer, Failure>, given: &Result<Answer, Failure>) -> bool {
    match (wanted, given) {
        (Ok(wanted), Ok(given)) => {
            let sorted = |answer: &Answer| {
                let mut rows = answer.rows.clone();
                rows.sort();
                rows
            };
            let names = wanted.types.is_empty() || (wanted.names == given.names && wanted.types == given.types);
            names && sorted(wanted) == sorted(given)
        }
        (Err(wanted), Err(given)) => wanted.code == given.code,
        _ => false,
    }
}

/// Puts PostgreSQL's answers into a file.
fn write_file(server: &Server, file: &Path) {
    let name = file.file_stem().unwrap().to_string_lossy().into_owned();
    let mut there: Postgres = server.database(&name);
    let mut text = String::new();
    for record in parse_file::<DefaultColumnType>(file).unwrap() {
        let record = match record {
            Record::Query { loc, conditions, connection, sql, retry, .. } => match there.run(&sql) {
                Ok(answer) => {
                    let ordered = sql.to_lowercase().rsplit(')').next().is_some_and(|end| end.contains("order by"));
                    let sort = if ordered { SortMode::NoSort } else { SortMode::RowSort };
                    let mut rows = shown(&answer);
                    if sort == SortMode::RowSort {
                        rows.sort_unstable();
                    }
                    let expected = QueryExpect::Results {
                        types: vec![DefaultColumnType::Text; answer.names.len()],
                        sort_mode: Some(sort),
                        result_mode: None,
                        label: None,
                        results: rows.iter().map(|row| row.join(" ")).collect(),
                    };
                    Record::Query { loc, conditions, connection, sql, expected, retry }
                }
                Err(error) => {
                    let expected = StatementExpect::Error(ExpectedError::SqlState(error.code));
                    Record::Statement { loc, conditions, connection, sql, expected, retry }
                }
            },
            Record::Statement { loc, conditions, connection, sql, retry, .. } => {
                let expected = match there.run(&sql) {
                    Ok(_) => StatementExpect::Ok,
                    Err(error) => StatementExpect::Error(ExpectedError::SqlState(error.code)),
                };
                Record::Statement { loc, conditions, connection, sql, expected, retry }
            }
            other => other,
        };
        let _ = writeln!(text, "{record}");
    }
    std::fs::write(file, text).unwrap();
}

#[test]
fn both_answer_as_it_is_written() {
    let server = Server::start();
    let only = std::env::var("HEADWATER_SLT_ONLY").ok();
    let chosen = |file: &PathBuf| only.as_ref().is_none_or(|only| file.file_stem().is_some_and(|stem| stem == only.as_str()));
    if std::env::var_os("HEADWATER_SLT_WRITE").is_some() {
        files().iter().filter(|file| chosen(file)).for_each(|file| write_file(&server, file));
        return;
    }
    let (mut failures, mut named, mut count) = (String::new(), BTreeSet::new(), 0);
    for file in files().into_iter().filter(chosen) {
        count += run_file(&server, &file, &mut failures, &mut named);
    }
    if only.is_some() {
        assert!(failures.is_empty(), "{failures}");
        return;
    }
    println!("{count} statements on both systems");
    let docs = std::fs::read_to_string(folder().join("../../../docs/sql.md")).unwrap();
    let listed = docs.split("<!-- differences -->").nth(1).unwrap_or_default();
    let listed: BTreeSet<String> =
        listed.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect();
    for name in named.symmetric_difference(&listed) {
        let _ = writeln!(failures, "-- the difference `{name}` must be in a file of tests/slt and in the table of docs/sql.md");
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(count >= STATEMENTS_MIN, "{count} statements");
}
