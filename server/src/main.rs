//! `headwater`: the server and its command line in one binary; the only place where the crates are put together.
//!
//! `cli` says what a user types, `config` what the server is told, `http` what it answers.

#![forbid(unsafe_code)]

mod cli;
mod config;
mod http;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
