//! `headwater config`: the effective configuration as TOML, with the source of each value.

use anyhow::Result;
use clap::Args;

use super::{ConfigFlags, output};

/// `headwater config`.
#[derive(Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    config: ConfigFlags,
}

/// Prints it.
pub fn run(args: &ConfigArgs) -> Result<()> {
    output::print(&args.config.load()?.to_toml())
}
