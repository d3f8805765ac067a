//! `headwater demo`: a server, a git history, one view of each kind, and six things that can be asked of them.
//!
//! It speaks to the server over HTTP, as any program would.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::client::Client;
use super::git::History;
use super::import::{Imported, import_git, style};
use super::output::{self, Format, Table};
use super::serve::{Server, start_log};
use super::{ConfigFlags, view};

/// What the demo creates.
const STREAMS: [&str; 2] = ["CREATE STREAM commits", "CREATE STREAM changes"];
const VIEWS: [(&str, &str); 4] = [
    (
        "commit_rows",
        "CREATE TABLE commit_rows (repo TEXT, commit TEXT, author TEXT, ts TIMESTAMPTZ, subject TEXT, files BIGINT, added BIGINT, \
         removed BIGINT, PRIMARY KEY (repo, commit)) USING row FROM STREAM commits",
    ),
    (
        "change_rows",
        "CREATE TABLE change_rows (repo TEXT, commit TEXT, path TEXT, added BIGINT, removed BIGINT, ts TIMESTAMPTZ, \
         PRIMARY KEY (repo, commit, path)) USING row FROM STREAM changes",
    ),
    (
        "commit_docs",
        "CREATE TABLE commit_docs USING document WITH (key = 'commit', search = 'subject, body', facets = 'repo, author') \
         FROM STREAM commits",
    ),
    (
        "churn",
        "CREATE TABLE churn (ts TIMESTAMPTZ, repo TEXT, added DOUBLE PRECISION, removed DOUBLE PRECISION) \
         USING series WITH (time = 'ts', tags = 'repo', chunk = '7 days') FROM STREAM commits \
         AS SELECT to_timestamp((value->>'ts')::bigint) AS ts, value->>'repo' AS repo, \
         (value->>'added')::double precision AS added, (value->>'removed')::double precision AS removed FROM commits",
    ),
];
const JOIN: &str = "SELECT f.path, count(*) AS commits, count(DISTINCT c.author) AS authors, sum(f.added + f.removed) AS lines \
    FROM change_rows f JOIN commit_rows c ON c.repo = f.repo AND c.commit = f.commit \
    GROUP BY f.path ORDER BY commits DESC, lines DESC, f.path LIMIT 10";
/// The first that hits is shown.
const SEARCHES: [&str; 3] = ["fix OR test", "add OR update OR remove OR support", "initial OR merge OR commit OR version"];
const BUCKETS: &str = "SELECT time_bucket('1 month', ts) AS month, count(*) AS commits, sum(added) AS added, sum(removed) AS removed \
    FROM churn GROUP BY 1 ORDER BY 1 DESC LIMIT 12";
const LOOK: Duration = Duration::from_millis(50);
const CATCH_UP_MAX: Duration = Duration::from_secs(600);

/// `headwater demo`.
#[derive(Args)]
pub struct DemoArgs {
    /// The repository; otherwise the one of the current folder
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// Stop after the queries
    #[arg(long)]
    exit: bool,
    #[command(flatten)]
    config: ConfigFlags,
}

/// A folder that is removed when it is dropped.
pub struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    /// Makes a fresh one.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn create(name: &str) -> Result<Self> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let path = std::env::temp_dir().join(format!("{name}-{}-{nanos}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("{} was not removed: {error}", self.path.display());
        }
    }
}

/// Shows everything, then stays up.
pub fn run(args: &DemoArgs) -> Result<()> {
    let history = History::open(args.repo.as_deref().unwrap_or(Path::new(".")))
        .context("the demo needs a git repository; name one with --repo, or run it inside one")?;
    let mut config = args.config.load()?;
    let temporary = if config.is_default("data") { Some(TemporaryFolder::create("headwater-demo")?) } else { None };
    if let Some(folder) = &temporary {
        config.values.data = folder.path().to_owned();
    }
    if config.is_default("logs.level") {
        // The demo talks itself; its requests need not be listed.
        config.values.logs_level = "warn".to_owned();
    }
    start_log(&config)?;
    let server = Server::start(&config)?;
    let shown = show(&server.url(), history);
    let outcome = match &shown {
        Ok(()) if !args.exit => {
            let url = server.url();
            output::print(&format!("\nThe console is at {url}/ ; a shell: headwater sql --url {url} ; Ctrl-C ends the demo.\n"))
                .and_then(|()| server.wait_for_signal())
        }
        _ => Ok(()),
    };
    let stopped = server.stop();
    drop(temporary);
    shown.and(outcome).and(stopped)
}

fn show(url: &str, history: History) -> Result<()> {
    let client = Client::new(url)?;
    output::print(&format!("listening on {url}\n"))?;
    let imported = import(&client, history)?;
    create_views(&client, &imported)?;
    most_changed_files(&client)?;
    search(&client)?;
    title("3. Time buckets: lines added and removed by month", BUCKETS)?;
    print_query(&client, BUCKETS)?;
    the_past(&client)?;
    replay(&client)?;
    rebuild(&client)
}

fn import(client: &Client, history: History) -> Result<Imported> {
    for statement in STREAMS {
        client.sql(statement, None).context("is the data folder fresh?")?;
    }
    let (repo, started) = (history.repo.clone(), Instant::now());
    let imported = import_git(client, history, "commits", Some("changes"), "commit", "ts")?;
    let seconds = started.elapsed().as_secs_f64();
    let records = output::count(imported.records, "record");
    output::print(&format!("imported {records} of {repo} in {seconds:.1} s, position {}\n", imported.position))?;
    Ok(imported)
}

fn create_views(client: &Client, imported: &Imported) -> Result<()> {
    let started = Instant::now();
    for (_, statement) in VIEWS {
        client.sql(statement, None)?;
    }
    let views_of = |stream: &str| VIEWS.iter().filter(|(_, sql)| sql.contains(&format!("FROM STREAM {stream}"))).count() as u64;
    let records: u64 = imported.position.ends().map(|(stream, _, end)| end.value() * views_of(stream)).sum();
    let bar = ProgressBar::new(records).with_style(style("{pos}/{len} records applied to views"));
    loop {
        let views = client.get("/v1/views")?;
        let views: Vec<&Value> = views["views"].as_array().into_iter().flatten().collect();
        let ours = || views.iter().filter(|view| VIEWS.iter().any(|(name, _)| view["name"] == *name));
        if let Some(stopped) = ours().find(|view| view["state"] == "stopped") {
            anyhow::bail!("the view {} stopped: {}", stopped["name"], stopped["reason"]);
        }
        let lag: u64 = ours().filter_map(|view| view["lag_records"].as_u64()).sum();
        bar.set_position(records.saturating_sub(lag));
        if lag == 0 && ours().count() == VIEWS.len() {
            break;
        }
        ensure!(started.elapsed() < CATCH_UP_MAX, "the views did not catch up within {} s", CATCH_UP_MAX.as_secs());
        std::thread::sleep(LOOK);
    }
    bar.finish_and_clear();
    // Applied is not yet visible; a query that waits for the position makes it so.
    let position = imported.position.to_string();
    for (name, _) in VIEWS {
        let answer = client.sql(&format!("SELECT count(*) AS n FROM {name}"), Some(&position))?;
        eprintln!("{name}: {} rows", single(&answer)?);
    }
    let names = VIEWS.map(|(name, _)| name).join(", ");
    output::print(&format!("built {names} from the log in {:.1} s\n", started.elapsed().as_secs_f64()))
}

fn title(text: &str, asked: &str) -> Result<()> {
    output::print(&format!("\n{text}\n  {}\n\n", asked.split_whitespace().collect::<Vec<_>>().join(" ")))
}

fn print_query(client: &Client, sql: &str) -> Result<()> {
    let answer = client.sql(sql, None)?;
    print_answer(&answer)
}

fn print_answer(answer: &Value) -> Result<()> {
    let table = Table::from_answer(answer).context("the answer has no rows")?;
    let milliseconds = answer["elapsed_ms"].as_f64().unwrap_or_default();
    let cut = answer["cut"].as_str().unwrap_or("nothing");
    let rows = output::count(table.rows.len() as u64, "row");
    output::print(&format!("{}({rows} in {milliseconds:.1} ms, at {cut})\n", table.render(Format::Table)))
}

fn single(answer: &Value) -> Result<u64> {
    let value = &answer["rows"][0][0];
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.with_context(|| format!("{value} is not a count"))
}

fn most_changed_files(client: &Client) -> Result<()> {
    title("1. A join of rows: the files that change most, and how many people change them", JOIN)?;
    print_query(client, JOIN)
}

fn search(client: &Client) -> Result<()> {
    for (at, text) in SEARCHES.iter().enumerate() {
        let sql = format!(
            "SELECT score() AS score, doc->>'commit' AS commit, doc->>'subject' AS subject FROM commit_docs \
             WHERE CONTAINS(subject, '{text}') ORDER BY score() DESC LIMIT 5"
        );
        let answer = client.sql(&sql, None)?;
        let hit = answer["rows"].as_array().is_some_and(|rows| !rows.is_empty());
        if hit || at + 1 == SEARCHES.len() {
            title("2. Search by score", &sql)?;
            return print_answer(&answer);
        }
    }
    Ok(())
}

fn the_past(client: &Client) -> Result<()> {
    let commits = client.get("/v1/streams/commits")?;
    let end = commits["partitions"][0]["committed"].as_u64().context("the stream has no end")?;
    let half = (end / 2).saturating_sub(u64::from(end > 1));
    let then = format!("SELECT count(*) AS n FROM commit_rows FOR SYSTEM_TIME AS OF OFFSET {half}");
    title("4. The past: how many commits there were half way, and now", &then)?;
    let mut table = Table::new(&["state", "commits#", "ms#"]);
    for (state, sql) in
        [(format!("as of offset {half}"), then.as_str()), ("now".to_owned(), "SELECT count(*) AS n FROM commit_rows")]
    {
        let answer = client.sql(sql, None)?;
        table.rows.push(vec![state.into(), single(&answer)?.into(), answer["elapsed_ms"].clone()]);
    }
    output::print(&table.render(Format::Table))
}

fn replay(client: &Client) -> Result<()> {
    let commits = client.get("/v1/streams/commits")?;
    let end = commits["partitions"][0]["committed"].as_u64().context("the stream has no end")?;
    let from = end.saturating_sub(3);
    let path = format!("/v1/streams/commits/partitions/0/records?offset={from}&limit=3");
    title("5. Replay: the records themselves, from any offset", &format!("GET {path}"))?;
    let started = Instant::now();
    let page = client.get(&path)?;
    let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
    let mut table = Table::new(&["offset#", "timestamp#", "key", "value"]);
    for record in page["records"].as_array().into_iter().flatten() {
        let value: String = record["value"].to_string().chars().take(80).collect();
        table.rows.push(vec![
            record["offset"].clone(),
            record["timestamp"].clone(),
            record["key"].clone(),
            format!("{value} ...").into(),
        ]);
    }
    output::print(&format!(
        "{}({} in {milliseconds:.1} ms)\n",
        table.render(Format::Table),
        output::count(table.rows.len() as u64, "record")
    ))
}

fn rebuild(client: &Client) -> Result<()> {
    const COUNT: &str = "SELECT count(*) AS n FROM commit_docs";
    title(
        "6. Rebuild: a new generation of commit_docs is built from the log while the old one answers",
        "POST /v1/views/commit_docs/rebuild",
    )?;
    let before = single(&client.sql(COUNT, None)?)?;
    let started = Instant::now();
    let begun = client.post("/v1/views/commit_docs/rebuild", &json!({}))?;
    let meanwhile = client.sql(COUNT, None)?;
    let rebuilt = view::wait_for_rebuild(client, "commit_docs", &begun)?;
    let seconds = started.elapsed().as_secs_f64();
    let after = single(&client.sql(COUNT, None)?)?;
    let mut table = Table::new(&["when", "documents#", "generation#"]);
    table.rows.push(vec!["before".into(), before.into(), begun["generation"].clone()]);
    table.rows.push(vec!["meanwhile".into(), single(&meanwhile)?.into(), Value::Null]);
    table.rows.push(vec![format!("after {seconds:.1} s").into(), after.into(), rebuilt["generation"].clone()]);
    output::print(&table.render(Format::Table))?;
    ensure!(before == after, "the rebuilt view has {after} documents, the one before had {before}");
    Ok(())
}
