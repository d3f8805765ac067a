//! The command line: what a user types, and how every command ends.
//!
//! stdout is data, stderr is talk. Exit codes: 0, 1 when a command failed, 2 when it was not understood.

mod bench;
mod chart;
mod client;
mod config;
mod consume;
mod cursor;
mod demo;
mod forward;
mod git;
mod histogram;
mod import;
mod inspect;
mod output;
mod produce;
mod sender;
mod serve;
mod shell;
mod sql;
mod tail;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use client::{Client, ServerError};
use output::Format;

#[derive(Parser)]
#[command(name = "headwater", version, about = "A log-centric database: streams, and rows, documents and series built from them")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::ServeArgs),
    /// Show what it does with the git history of a repository
    Demo(demo::DemoArgs),
    /// Run a statement, or a shell
    Sql(sql::SqlArgs),
    /// Append JSON lines from standard input
    Produce(produce::ProduceArgs),
    /// Read records
    Consume(consume::ConsumeArgs),
    /// Show and set the durable places of readers
    Cursor(cursor::CursorArgs),
    /// Carry a stream to another server, without gaps
    Forward(forward::ForwardArgs),
    /// Follow a stream
    Tail(tail::TailArgs),
    /// Import a file or a git history
    Import(import::ImportArgs),
    /// Show and rebuild views
    View(view::ViewArgs),
    /// Look into files of a data folder, offline and without changing them
    Inspect(inspect::InspectArgs),
    /// Print the effective configuration
    Config(config::ConfigArgs),
    /// Measure
    Bench(bench::BenchArgs),
}

/// How a server is configured from the command line.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigFlags {
    /// The folder of all data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The address of the HTTP door; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// The budget of the RAM tier, as in 256MiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// The disk backend: auto or pool
    #[arg(long, value_name = "BACKEND")]
    disk_io: Option<String>,
    /// The folder that COPY reads and writes files in; without it COPY has no files
    #[arg(long, value_name = "DIR")]
    copy_dir: Option<PathBuf>,
    /// A configuration file in TOML
    #[arg(long, value_name = "FILE", env = "HEADWATER_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFlags {
    fn load(&self) -> Result<Config> {
        let data = self.data.as_ref().map(|path| path.to_string_lossy().into_owned());
        let given = [
            ("data", "--data", data),
            ("http.listen", "--http", self.http.clone()),
            ("log.memory_bytes_max", "--memory", self.memory.clone()),
            ("disk_io", "--disk-io", self.disk_io.clone()),
            ("copy_dir", "--copy-dir", self.copy_dir.as_ref().map(|path| path.to_string_lossy().into_owned())),
        ];
        let flags: Vec<_> = given.into_iter().filter_map(|(name, flag, value)| Some((name, flag, value?))).collect();
        // Variables that are not text are none of ours.
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Config::load(self.config.as_deref(), environment, &flags)
    }
}

/// Which server a command talks to.
#[derive(Args, Clone, Debug)]
pub struct ServerFlags {
    /// The server's address
    #[arg(long, value_name = "URL", env = "HEADWATER_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
}

impl ServerFlags {
    fn client(&self) -> Result<Client> {
        Client::new(&self.url)
    }
}

/// In which form data is printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct OutputFlags {
    /// The form of the output
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Format::Table)]
    output: Format,
}

/// Runs the command that was typed.
pub fn main() -> ExitCode {
    // Usage errors end here with exit code 2, --help and --version with 0.
    let command = CommandLine::parse().command;
    let outcome = match command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Sql(args) => sql::run(&args),
        Command::Produce(args) => produce::run(&args),
        Command::Consume(args) => consume::run(&args),
        Command::Cursor(args) => cursor::run(&args),
        Command::Forward(args) => forward::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Import(args) => import::run(&args),
        Command::View(args) => view::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        // What was found was printed.
        Err(error) if error.is::<inspect::Damaged>() => ExitCode::FAILURE,
        Err(error) if error.is::<inspect::NotAFile>() => {
            eprint!("{}", show_error(&error));
            ExitCode::from(2)
        }
        Err(error) => {
            eprint!("{}", show_error(&error));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<output::StdoutClosed>().is_some()
}

/// An error as the user sees it: with its code and what to do, when it came from the server.
fn show_error(error: &anyhow::Error) -> String {
    match error.chain().find_map(|cause| cause.downcast_ref::<ServerError>()) {
        Some(server) => {
            let hint = server.hint.as_ref().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            let code = if server.code.is_empty() { String::new() } else { format!(" ({})", server.code) };
            format!("error: {error:#}{code}\n{hint}")
        }
        None => format!("error: {error:#}\n"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn what_the_interface_names_is_understood() {
        for line in [
            "serve --data d --http 127.0.0.1:0 --memory 64MiB --disk-io auto --config f",
            "demo --repo . --exit",
            "sql -c SELECT --url http://h:1 --output csv",
            "sql -c SELECT --chart bar",
            "produce --stream s --key id",
            "consume --stream s --partition 1 --offset 5 --limit 3 --output ndjson",
            "consume --stream s --cursor c --commit-every 100",
            "cursor list --stream s --output json",
            "cursor get c --stream s",
            "cursor set c --stream s --partition 1 --offset earliest --reset --url http://h:1",
            "cursor delete c --stream s",
            "forward --stream s --cursor c --to http://h:1 --url http://g:1 --partition 0 --partition 2 --target-stream t --batch-bytes 64KiB --once",
            "tail --stream s",
            "import git . --stream commits --changes-stream changes --create",
            "import ndjson - --stream s --key a.b --timestamp ts",
            "view list",
            "view rebuild v --wait",
            "inspect segment --output json 0.seg",
            "inspect segment --records 0.seg",
            "inspect index 0.idx",
            "inspect catalog data",
            "config",
            "bench log --data d --ack disk --record-bytes 1024 --batch-bytes 65536 --partitions 1 --producers 1 --in-flight 4 --rate 0 --seconds 1 --output json",
            "bench log --ack memory --memory 64MiB --disk-io auto --segment-bytes 16MiB --retention-bytes 1GiB --compression zstd --bytes 1GiB",
            "bench log --readers 1 --reader-lag-bytes 10GiB --verify --read --read-seconds 5 --prebuilt",
            "bench log --idle --partitions 10000",
            "bench search --documents F --searches 100 --rate 500 --seconds 3 --output json",
            "bench sql --workload tpcb-session --clients 8 --scale 10 --seconds 5 --url http://h:1 --output json",
        ] {
            let words = std::iter::once("headwater").chain(line.split(' '));
            CommandLine::try_parse_from(words).map_err(|error| format!("{line}: {error}")).unwrap();
        }
        assert!(CommandLine::try_parse_from(["headwater", "serv"]).is_err());
    }

    #[test]
    fn errors_of_the_server_show_code_and_hint() {
        let server = ServerError { code: "42P01".into(), message: "no such thing".into(), hint: Some("look".into()), body: None };
        let error = anyhow::Error::from(server).context("line 3");
        assert_eq!(show_error(&error), "error: line 3: no such thing (42P01)\nhint: look\n");
        assert_eq!(show_error(&anyhow::anyhow!("x")), "error: x\n");
    }
}
