//! `headwater view`: how far views are, and rebuilding them.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::import::style;
use super::output::{self, Format, Table};
use super::{OutputFlags, ServerFlags};

/// Between two looks at a rebuild.
const LOOK: Duration = Duration::from_millis(100);

/// `headwater view`.
#[derive(Args)]
pub struct ViewArgs {
    #[command(subcommand)]
    command: ViewCommand,
}

#[derive(Subcommand)]
enum ViewCommand {
    /// All views and their lag
    List {
        #[command(flatten)]
        server: ServerFlags,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// One view, its partitions and dead letters
    Show {
        /// The view
        name: String,
        #[command(flatten)]
        server: ServerFlags,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// Build a new generation from the log while the old one serves
    Rebuild {
        /// The view
        name: String,
        /// Wait until the new generation serves
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        server: ServerFlags,
        #[command(flatten)]
        output: OutputFlags,
    },
}

/// Runs the command.
pub fn run(args: &ViewArgs) -> Result<()> {
    match &args.command {
        ViewCommand::List { server, output } => {
            let answer = server.client()?.get("/v1/views")?;
            let views: Vec<&Value> = answer["views"].as_array().into_iter().flatten().collect();
            match output.output {
                Format::Json => output::print(&format!("{:#}\n", answer["views"])),
                format => output::print(&summary(&views).render(format)),
            }
        }
        ViewCommand::Show { name, server, output } => show(&server.client()?.get(&path(name))?, output.output),
        ViewCommand::Rebuild { name, wait, server, output } => {
            let client = server.client()?;
            let mut view = client.post(&format!("{}/rebuild", path(name)), &json!({}))?;
            if *wait {
                view = wait_for_rebuild(&client, name, &view)?;
            }
            show(&view, output.output)
        }
    }
}

fn path(view: &str) -> String {
    format!("/v1/views/{}", segment(view))
}

fn summary(views: &[&Value]) -> Table {
    let mut table =
        Table::new(&["view", "kind", "stream", "generation#", "state", "lag_records#", "lag_seconds#", "dead_letters#"]);
    let members = ["name", "kind", "stream", "generation", "state", "lag_records", "lag_seconds", "dead_letters"];
    table.rows = views.iter().map(|view| members.map(|member| view[member].clone()).to_vec()).collect();
    table
}

fn show(view: &Value, format: Format) -> Result<()> {
    if format == Format::Json {
        return output::print(&format!("{view:#}\n"));
    }
    output::print(&summary(&[view]).render(format))?;
    if format != Format::Table {
        return Ok(());
    }
    let mut partitions = Table::new(&["partition#", "checkpointed#", "applied#", "visible#", "committed#"]);
    let members = ["partition", "checkpointed", "applied", "visible", "committed"];
    for partition in view["partitions"].as_array().into_iter().flatten() {
        partitions.rows.push(members.map(|member| partition[member].clone()).to_vec());
    }
    output::print(&format!("\n{}", partitions.render(format)))?;
    for (name, member) in [("stopped", "reason"), ("rebuild", "rebuild")] {
        if let Some(value) = view.get(member).filter(|value| !value.is_null()) {
            output::print(&format!("\n{name}: {value}\n"))?;
        }
    }
    for letter in view["recent_dead_letters"].as_array().into_iter().flatten() {
        let text = |member: &str| letter[member].as_str().unwrap_or_default().to_owned();
        output::print(&format!("dead letter {}: {}\n", text("position"), text("reason")))?;
    }
    Ok(())
}

/// Watches a rebuild that `begun` describes until it serves; gives the view as it then is.
///
/// # Errors
/// When the rebuild ended without a new generation.
pub fn wait_for_rebuild(client: &Client, name: &str, begun: &Value) -> Result<Value> {
    let bar = ProgressBar::new(begun["rebuild"]["records_total"].as_u64().unwrap_or(0));
    bar.set_style(style("{pos}/{len} records, {per_sec}"));
    // The answer may come after a rebuild of little has ended.
    let before = begun["generation"].as_u64();
    let building = begun["rebuild"]["generation"].as_u64();
    loop {
        let view = client.get(&path(name))?;
        let rebuild = view.get("rebuild").filter(|rebuild| !rebuild.is_null());
        let Some(rebuild) = rebuild else {
            bar.finish_and_clear();
            let now = view["generation"].as_u64();
            if building.is_some() && now == before {
                let reason = view["reason"].as_str().unwrap_or("no reason was given");
                bail!("the rebuild of {name} ended without a new generation: {reason}");
            }
            return Ok(view);
        };
        bar.set_length(rebuild["records_total"].as_u64().unwrap_or(0));
        bar.set_position(rebuild["records"].as_u64().unwrap_or(0));
        std::thread::sleep(LOOK);
    }
}
