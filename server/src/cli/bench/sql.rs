//! `headwater bench sql`: statements by key and small transactions, by clients that wait for each answer.
//!
//! The tables and the transaction are pgbench's, so that the figures can stand beside PostgreSQL's. Clients call the database in
//! this process, or a server over HTTP with `--url`. A transaction that meets a conflict is run again, and counted once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use futures::StreamExt;
use router::{Cut, Database, DatabaseOptions, SqlAnswer, SqlRequest};
use serde::Serialize;
use serde_json::{Value, json};

use super::random::Random;
use crate::cli::OutputFlags;
use crate::cli::client::{Client, ServerError};
use crate::cli::demo::TemporaryFolder;
use crate::cli::histogram::Histogram;
use crate::cli::output::{self, Format};

const ACCOUNTS_PER_BRANCH: u64 = 100_000;
const TELLERS_PER_BRANCH: u64 = 10;
/// Rows of an INSERT that fills a table.
const FILL_ROWS: u64 = 20_000;
/// Rows of an INSERT in batches.
const BATCH_ROWS: u64 = 100;
const TIMEOUT: Duration = Duration::from_secs(60);
/// SQLSTATE of a transaction that another one was faster than.
const CONFLICT: &str = "40001";

const ADD_TO_ACCOUNT: &str = "UPDATE accounts SET abalance = abalance + $2 WHERE aid = $1";
const READ_ACCOUNT: &str = "SELECT abalance FROM accounts WHERE aid = $1";
const ADD_TO_TELLER: &str = "UPDATE tellers SET tbalance = tbalance + $2 WHERE tid = $1";
const ADD_TO_BRANCH: &str = "UPDATE branches SET bbalance = bbalance + $2 WHERE bid = $1";
const ADD_HISTORY: &str =
    "INSERT INTO history (hid, tid, bid, aid, delta, mtime) VALUES ($1, $2, $3, $4, $5, '2024-01-01 00:00:00+00')";
const TRANSACTION: &str = "BEGIN; UPDATE accounts SET abalance = abalance + $5 WHERE aid = $4; SELECT abalance FROM accounts WHERE aid = $4; \
    UPDATE tellers SET tbalance = tbalance + $5 WHERE tid = $2; UPDATE branches SET bbalance = bbalance + $5 WHERE bid = $3; \
    INSERT INTO history (hid, tid, bid, aid, delta, mtime) VALUES ($1, $2, $3, $4, $5, '2024-01-01 00:00:00+00'); COMMIT";

/// `headwater bench sql`.
#[derive(Args, Clone, Debug)]
pub struct SqlArgs {
    /// What the clients do
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Workload::Read)]
    workload: Workload,
    /// Clients; each waits for an answer before it asks again
    #[arg(long, value_name = "N", default_value_t = 1)]
    clients: u32,
    /// Branches of 100,000 accounts
    #[arg(long, value_name = "N", default_value_t = 1)]
    scale: u32,
    /// How long
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    seconds: f64,
    /// A server; its tables `branches`, `tellers`, `accounts`, `history` and `items` are made if they are not there. Otherwise a database in this process
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    output: OutputFlags,
}

/// What is measured.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Workload {
    /// An account by its primary key
    Read,
    /// An account by a secondary index
    Index,
    /// One row in one INSERT
    Insert,
    /// 100 rows in one INSERT
    Batch,
    /// TPC-B-like transactions, each in one request
    Tpcb,
    /// TPC-B-like transactions, a request for each statement, in a session
    TpcbSession,
}

/// Figures of a run.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    workload: Workload,
    clients: u32,
    scale: u32,
    over: &'static str,
    seconds: f64,
    /// Answered: reads, rows of inserts, transactions.
    count: u64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    /// Transactions that were run again.
    conflicts: u64,
}

/// Who runs the statements.
enum Door {
    Process(Database, tokio::runtime::Handle),
    Http(Client),
}

/// What a statement came to.
enum Outcome {
    Done(Option<Value>),
    Conflict,
}

impl Door {
    fn run(&self, sql: &str, params: &[Value], session: Option<&str>) -> Result<Outcome> {
        match self {
            Self::Http(client) => match client.post("/v1/sql", &json!({ "sql": sql, "params": params, "session": session })) {
                Ok(answer) => Ok(Outcome::Done(answer["rows"].as_array().and_then(|rows| rows.first().cloned()))),
                Err(error) => match error.downcast_ref::<ServerError>() {
                    Some(refused) if refused.code == CONFLICT => Ok(Outcome::Conflict),
                    _ => Err(error),
                },
            },
            Self::Process(database, runtime) => {
                let deadline = Instant::now() + TIMEOUT;
                let session = session.map(str::to_owned);
                let request = SqlRequest { sql: sql.into(), params: params.to_vec(), wait: Cut::new(), deadline, session };
                runtime.block_on(async {
                    let answers = match database.sql(request).await {
                        Ok(answers) => answers,
                        Err(error) if error.code() == CONFLICT => return Ok(Outcome::Conflict),
                        Err(error) => return Err(error.into()),
                    };
                    let mut first = None;
                    for answer in answers {
                        let SqlAnswer::Rows(mut rows) = answer else { continue };
                        let mut out = Vec::new();
                        while let Some(batch) = rows.stream.next().await {
                            router::render::json_rows(&batch?, &mut out);
                        }
                        first = out.into_iter().next();
                    }
                    Ok(Outcome::Done(first))
                })
            }
        }
    }

    fn done(&self, sql: &str) -> Result<Option<Value>> {
        match self.run(sql, &[], None)? {
            Outcome::Done(row) => Ok(row),
            Outcome::Conflict => bail!("{sql}: others write the same rows; give the bench a server of its own"),
        }
    }

    fn session(&self) -> Result<String> {
        match self {
            Self::Process(database, _) => Ok(database.sessions().open()?),
            Self::Http(client) => {
                let opened = client.post("/v1/sessions", &json!({}))?;
                opened["session"].as_str().map(str::to_owned).context("the server gave no session")
            }
        }
    }
}

/// One of the clients.
struct Worker {
    door: Arc<Door>,
    workload: Workload,
    scale: u64,
    random: Random,
    session: Option<String>,
    next_id: u64,
    insert: String,
}

impl Worker {
    fn new(door: &Arc<Door>, args: &SqlArgs, number: u32) -> Result<Self> {
        let session = if args.workload == Workload::TpcbSession { Some(door.session()?) } else { None };
        let row = |n: u64| format!("(${}, ${})", 2 * n + 1, 2 * n + 2);
        let rows = if args.workload == Workload::Batch { BATCH_ROWS } else { 1 };
        let insert = format!("INSERT INTO items (id, payload) VALUES {}", (0..rows).map(row).collect::<Vec<_>>().join(", "));
        // Numbers of their own, also beside those of runs before.
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().context("the clock is before 1970")?.as_micros();
        let next_id = u64::try_from(since)? * 1_024 + u64::from(number) * 1_000_000_007;
        let random = Random(next_id);
        Ok(Self { door: Arc::clone(door), workload: args.workload, scale: args.scale.into(), random, session, next_id, insert })
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Asks once; gives what it counts for, or `None` at a conflict.
    fn step(&mut self) -> Result<Option<u64>> {
        let accounts = self.scale * ACCOUNTS_PER_BRANCH;
        let outcome = match self.workload {
            Workload::Read => {
                let aid = 1 + self.random.below(accounts);
                let found = self.door.run(READ_ACCOUNT, &[json!(aid)], None)?;
                ensure!(matches!(found, Outcome::Done(Some(_))), "account {aid} is not there");
                found
            }
            Workload::Index => {
                let code = format!("code-{}", 1 + self.random.below(accounts));
                let found = self.door.run("SELECT aid, abalance FROM accounts WHERE code = $1", &[json!(code)], None)?;
                ensure!(matches!(found, Outcome::Done(Some(_))), "the account of {code} is not there");
                found
            }
            Workload::Insert | Workload::Batch => {
                let rows = if self.workload == Workload::Batch { BATCH_ROWS } else { 1 };
                let params: Vec<Value> = (0..rows).flat_map(|_| [json!(self.id()), json!("x".repeat(100))]).collect();
                let outcome = self.door.run(&self.insert, &params, None)?;
                return Ok(matches!(outcome, Outcome::Done(_)).then_some(rows));
            }
            Workload::Tpcb | Workload::TpcbSession => self.transfer(accounts)?,
        };
        Ok(matches!(outcome, Outcome::Done(_)).then_some(1))
    }

    fn transfer(&mut self, accounts: u64) -> Result<Outcome> {
        let (aid, bid) = (1 + self.random.below(accounts), 1 + self.random.below(self.scale));
        let tid = 1 + self.random.below(self.scale * TELLERS_PER_BRANCH);
        let delta = i64::try_from(self.random.below(10_000))? - 5_000;
        let hid = self.id();
        let Some(session) = &self.session else {
            return self.door.run(TRANSACTION, &[json!(hid), json!(tid), json!(bid), json!(aid), json!(delta)], None);
        };
        let run = |sql: &str, params: &[Value]| self.door.run(sql, params, Some(session));
        run("BEGIN", &[])?;
        run(ADD_TO_ACCOUNT, &[json!(aid), json!(delta)])?;
        run(READ_ACCOUNT, &[json!(aid)])?;
        run(ADD_TO_TELLER, &[json!(tid), json!(delta)])?;
        run(ADD_TO_BRANCH, &[json!(bid), json!(delta)])?;
        run(ADD_HISTORY, &[json!(hid), json!(tid), json!(bid), json!(aid), json!(delta)])?;
        run("COMMIT", &[])
    }
}

/// Makes and fills the tables that are not there.
fn prepare(door: &Door, args: &SqlArgs) -> Result<()> {
    let scale = u64::from(args.scale);
    for sql in [
        "CREATE TABLE IF NOT EXISTS branches (bid INTEGER PRIMARY KEY, bbalance BIGINT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS tellers (tid INTEGER PRIMARY KEY, bid INTEGER NOT NULL, tbalance BIGINT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS accounts (aid INTEGER PRIMARY KEY, bid INTEGER NOT NULL, abalance BIGINT NOT NULL, \
         code TEXT NOT NULL, filler TEXT)",
        // Of the empty table: one of a full table is built while it is in use, and reads are scans until then.
        "CREATE INDEX IF NOT EXISTS accounts_code ON accounts (code)",
        "CREATE TABLE IF NOT EXISTS history (hid BIGINT PRIMARY KEY, tid INTEGER, bid INTEGER, aid INTEGER, delta BIGINT, mtime TIMESTAMPTZ)",
        "CREATE TABLE IF NOT EXISTS items (id BIGINT PRIMARY KEY, payload TEXT)",
    ] {
        door.done(sql)?;
    }
    let rows = door.done("SELECT count(*) FROM accounts")?.context("count(*) has a row")?;
    let there = rows[0].as_u64().context("count(*) is a number")?;
    if there > 0 {
        ensure!(
            there == scale * ACCOUNTS_PER_BRANCH,
            "the server's accounts are of another --scale: {}",
            there / ACCOUNTS_PER_BRANCH
        );
        return Ok(());
    }
    door.done(&format!("INSERT INTO branches SELECT n, 0 FROM generate_series(1, {scale}) AS g(n)"))?;
    let tellers = scale * TELLERS_PER_BRANCH;
    door.done(&format!(
        "INSERT INTO tellers SELECT n, (n - 1) / {TELLERS_PER_BRANCH} + 1, 0 FROM generate_series(1, {tellers}) AS g(n)"
    ))?;
    for from in (1..=scale * ACCOUNTS_PER_BRANCH).step_by(usize::try_from(FILL_ROWS)?) {
        let until = from + FILL_ROWS - 1;
        door.done(&format!(
            "INSERT INTO accounts SELECT n, (n - 1) / {ACCOUNTS_PER_BRANCH} + 1, 0, 'code-' || n, repeat(' ', 84) \
             FROM generate_series({from}, {until}) AS g(n)"
        ))?;
    }
    Ok(())
}

/// Runs the benchmark.
pub fn run(args: &SqlArgs) -> Result<()> {
    ensure!(args.clients > 0 && args.scale > 0, "--clients and --scale are at least 1");
    ensure!(args.seconds.is_finite() && args.seconds > 0.0, "--seconds is more than 0");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let folder = TemporaryFolder::create("headwater-bench")?;
    let door = Arc::new(match &args.url {
        Some(url) => Door::Http(Client::new(url)?),
        None => {
            let options = DatabaseOptions { data: folder.path().to_owned(), ..DatabaseOptions::default() };
            Door::Process(Database::open(options)?, runtime.handle().clone())
        }
    });
    prepare(&door, args)?;
    let report = measure(&door, args)?;
    if let Door::Process(database, _) = &*door {
        database.close()?;
    }
    match args.output.output {
        Format::Json => output::print(&format!("{:#}\n", serde_json::to_value(&report)?)),
        _ => output::print(&format!(
            "{:?}, {} clients over {}: {:.0} per s, p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us; {} in {:.1} s, {} run again after a conflict\n",
            report.workload,
            report.clients,
            report.over,
            report.per_second,
            report.p50_us,
            report.p99_us,
            report.p999_us,
            report.count,
            report.seconds,
            report.conflicts
        )),
    }
}

fn measure(door: &Arc<Door>, args: &SqlArgs) -> Result<Report> {
    let (stop, conflicts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let ready = Arc::new(Barrier::new(usize::try_from(args.clients)? + 1));
    let workers = (0..args.clients).map(|number| Worker::new(door, args, number)).collect::<Result<Vec<_>>>()?;
    let client = |mut worker: Worker| {
        let (stop, conflicts, ready) = (Arc::clone(&stop), Arc::clone(&conflicts), Arc::clone(&ready));
        std::thread::spawn(move || -> Result<(u64, Histogram)> {
            let (mut count, mut latencies) = (0, Histogram::default());
            ready.wait();
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                match worker.step()? {
                    Some(more) => {
                        count += more;
                        latencies.record(begun.elapsed());
                    }
                    None => {
                        conflicts.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            Ok((count, latencies))
        })
    };
    let clients: Vec<_> = workers.into_iter().map(client).collect();
    ready.wait();
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs_f64(args.seconds));
    stop.store(true, Ordering::Relaxed);
    let (mut count, mut latencies) = (0, Histogram::default());
    for client in clients {
        let (more, own) = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        count += more;
        latencies.merge(&own);
    }
    let seconds = begun.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let per_second = count as f64 / seconds;
    Ok(Report {
        bench: "sql",
        workload: args.workload,
        clients: args.clients,
        scale: args.scale,
        over: if args.url.is_some() { "HTTP" } else { "calls" },
        seconds,
        count,
        per_second,
        p50_us: latencies.micros(500),
        p99_us: latencies.micros(990),
        p999_us: latencies.micros(999),
        conflicts: conflicts.load(Ordering::Relaxed),
    })
}
