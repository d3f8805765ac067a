//! `headwater inspect`: what lies in files of a data folder, whole or damaged. Offline and read-only: it takes no lock and may be
//! used on a copy, on a part, or beside a running server.
//!
//! The walking is `logcore::segment::inspect`'s; here it is printed. Exit codes: 0 when everything is whole, 1 when something is
//! damaged, 2 when there is no such file.
//!
//! # Not done
//! `inspect view`: each store would have to open its files without a writer.

mod index;
mod records;
mod segment;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::OutputFlags;
use super::output::{Format, StdoutClosed};

/// `headwater inspect`.
#[derive(Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    command: InspectCommand,
}

#[derive(Subcommand)]
enum InspectCommand {
    /// The frames of a segment file, damage, and a summary
    Segment(SegmentArgs),
    /// The places of an index file, and whether they are right
    Index(IndexArgs),
    /// The definitions of a data folder, a JSON line each
    Catalog(CatalogArgs),
}

#[derive(Args)]
struct SegmentArgs {
    /// A .seg file
    path: PathBuf,
    /// Print the records instead of the frames, a JSON line each; the rest then goes to standard error
    #[arg(long, conflicts_with = "output")]
    records: bool,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Args)]
struct IndexArgs {
    /// An .idx file; it is compared with the .seg file beside it
    path: PathBuf,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Args)]
struct CatalogArgs {
    /// A data folder
    data: PathBuf,
}

/// Something is damaged, and was printed.
#[derive(Debug)]
pub struct Damaged;

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("damaged")
    }
}

impl std::error::Error for Damaged {}

/// There is nothing to look into.
#[derive(Debug)]
pub struct NotAFile(String);

impl fmt::Display for NotAFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotAFile {}

/// Prints what was asked for.
pub fn run(args: &InspectArgs) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let whole = show(args, &mut out).and_then(|whole| Ok(out.flush().map(|()| whole)?)).map_err(closed)?;
    if whole { Ok(()) } else { Err(Damaged.into()) }
}

/// Whoever read our output may have seen enough.
fn closed(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) if io.kind() == ErrorKind::BrokenPipe => StdoutClosed.into(),
        _ => error,
    }
}

/// Prints, and says whether everything is whole.
fn show(args: &InspectArgs, out: &mut dyn Write) -> Result<bool> {
    match &args.command {
        InspectCommand::Segment(args) => {
            check_file(&args.path, "seg")?;
            if args.records {
                let summary = records::print(&args.path, out)?;
                eprint!("{}", segment::summary_lines(&args.path, &summary.frames));
                return Ok(summary.is_whole());
            }
            segment::print(&args.path, form(args.output.output)?, out)
        }
        InspectCommand::Index(args) => {
            check_file(&args.path, "idx")?;
            index::print(&args.path, form(args.output.output)?, out)
        }
        InspectCommand::Catalog(args) => records::print_catalog(&args.data, out),
    }
}

/// Refuses a path that is no file, with what could be meant.
fn check_file(path: &Path, extension: &str) -> Result<()> {
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(NotAFile(format!("there is no file {}; name a .{extension} file of a data folder", path.display())))
        }
        other => other?,
    };
    if metadata.is_dir() {
        let inside = files_in(path, extension)?.into_iter().next();
        let hint = match inside {
            Some(file) => format!("name a file in it, such as {}", file.display()),
            None => format!("name a .{extension} file, such as DATA/log/16/0/00000000000000000000.{extension}"),
        };
        bail!(NotAFile(format!("{} is a folder; {hint}", path.display())));
    }
    Ok(())
}

/// The files of a folder with this extension, sorted.
fn files_in(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let mut files: Vec<PathBuf> =
        entries.into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    Ok(files)
}

fn form(format: Format) -> Result<Format> {
    if format == Format::Csv {
        bail!(NotAFile("--output csv has no place for frames beside damage; use table, json or ndjson".into()));
    }
    Ok(format)
}

/// The object of these members; those that say nothing are left out.
fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(
        members.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.to_owned(), value)).collect(),
    )
}
