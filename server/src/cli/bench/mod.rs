//! `headwater bench`: how fast this machine and this build are, in this process.
//!
//! `log` measures what the design promises of the log. The way of a run: [`args`] is what was asked for, [`open`] turns it into
//! an open log, [`mod@run`] starts the [`producer`]s and the [`reader`]s around a [`meter`], [`read_back`] and [`idle`] are what can
//! be asked for beside appending, and [`report`] says what came out. What is appended, and whether what is read is that, is
//! [`payload`]'s. `sql`, in [`mod@sql`], measures statements beside PostgreSQL's; `search`, in [`search`], documents.

mod args;
mod idle;
mod meter;
mod open;
mod payload;
mod producer;
mod random;
mod read_back;
mod reader;
mod report;
mod run;
mod search;
mod sql;
#[cfg(test)]
mod tests;

use anyhow::Result;
use clap::{Args, Subcommand};

use args::LogArgs;
use search::SearchArgs;
use sql::SqlArgs;

/// `headwater bench`.
#[derive(Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Appends to a log of its own, and reads it back
    Log(Box<LogArgs>),
    /// Runs statements by key and small transactions
    Sql(SqlArgs),
    /// Indexes documents, finds them while they come in, and searches them
    Search(SearchArgs),
}

/// Runs the benchmark.
pub fn run(args: &BenchArgs) -> Result<()> {
    match &args.command {
        BenchCommand::Log(args) => run::run(args),
        BenchCommand::Sql(args) => sql::run(args),
        BenchCommand::Search(args) => search::run(args),
    }
}
