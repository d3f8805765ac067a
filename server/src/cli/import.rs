//! `headwater import`: files of JSON lines or CSV, compressed or not, and git histories, into streams.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use router::Cut;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::git::History;
use super::output::{self, Format};
use super::sender::{LineSender, ensure_stream};
use super::{OutputFlags, ServerFlags};

/// What is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The history of a git repository
    Git,
    /// A JSON value a line
    Ndjson,
    /// Comma-separated values below a line of names
    Csv,
    /// Not supported yet
    Parquet,
}

/// `headwater import`.
#[derive(Args)]
pub struct ImportArgs {
    /// What it is
    #[arg(value_enum)]
    kind: Kind,
    /// Where it is; - is standard input
    path: PathBuf,
    /// The stream
    #[arg(long, value_name = "STREAM")]
    stream: String,
    /// For git: the stream of the changed files
    #[arg(long, value_name = "STREAM")]
    changes_stream: Option<String>,
    /// The field whose value is the key
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,
    /// The field with the time of the record
    #[arg(long, value_name = "FIELD")]
    timestamp: Option<String>,
    /// Create the stream if it is not there
    #[arg(long)]
    create: bool,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    output: OutputFlags,
}

/// What an import came to.
#[derive(Default)]
pub struct Imported {
    /// Records, over all streams.
    pub records: u64,
    /// The last of them.
    pub position: Cut,
}

impl Imported {
    fn add(&mut self, sender: &LineSender<'_>) {
        self.records += sender.appended();
        sender.position().ends().for_each(|(stream, partition, end)| self.position.raise(stream, partition, end));
    }
}

/// Imports what was named.
pub fn run(args: &ImportArgs) -> Result<()> {
    if args.changes_stream.is_some() && args.kind != Kind::Git {
        bail!("--changes-stream is for git histories");
    }
    let client = args.server.client()?;
    let started = Instant::now();
    let imported = match args.kind {
        Kind::Parquet => bail!("importing Parquet is not supported yet; convert the file to NDJSON or CSV"),
        Kind::Git => {
            let history = History::open(&args.path)?;
            for stream in [Some(&args.stream), args.changes_stream.as_ref()].into_iter().flatten() {
                ensure_stream(&client, stream, args.create)?;
            }
            let key = args.key.as_deref().unwrap_or("commit");
            let timestamp = args.timestamp.as_deref().unwrap_or("ts");
            import_git(&client, history, &args.stream, args.changes_stream.as_deref(), key, timestamp)?
        }
        Kind::Ndjson | Kind::Csv => {
            let (input, bar) = open(&args.path)?;
            ensure_stream(&client, &args.stream, args.create)?;
            let mut sender = LineSender::new(&client, &args.stream, args.key.as_deref(), args.timestamp.as_deref());
            let name = args.path.display();
            match args.kind {
                Kind::Csv => send_csv(input, &mut sender).with_context(|| format!("importing {name}"))?,
                _ => send_lines(input, &mut sender).with_context(|| format!("importing {name}"))?,
            }
            bar.finish_and_clear();
            let mut imported = Imported::default();
            imported.add(&sender);
            imported
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    let position = imported.position.to_string();
    match args.output.output {
        Format::Table => {
            let records = output::count(imported.records, "record");
            output::print(&format!("imported {records} in {seconds:.1} s, position {position}\n"))
        }
        _ => output::print(&format!("{}\n", json!({ "imported": imported.records, "seconds": seconds, "position": position }))),
    }
}

/// Sends a git history to `commits` and, if named, the changed files to `changes`.
///
/// # Errors
/// What git or the server refuses.
pub fn import_git(
    client: &Client,
    mut history: History,
    commits: &str,
    changes: Option<&str>,
    key: &str,
    timestamp: &str,
) -> Result<Imported> {
    let repo = history.repo.clone();
    let bar = ProgressBar::new(history.commits).with_style(style("{pos}/{len} commits"));
    let mut commit_sender = LineSender::new(client, commits, Some(key), Some(timestamp));
    let mut change_sender = changes.map(|stream| LineSender::new(client, stream, Some(key), Some(timestamp)));
    while let Some(commit) = history.next()? {
        commit_sender.push(commit.to_line(&repo).as_bytes())?;
        if let Some(sender) = &mut change_sender {
            for line in commit.change_lines(&repo) {
                sender.push(line.as_bytes())?;
            }
        }
        bar.inc(1);
    }
    let mut imported = Imported::default();
    for mut sender in [Some(commit_sender), change_sender].into_iter().flatten() {
        sender.flush()?;
        imported.add(&sender);
    }
    bar.finish_and_clear();
    Ok(imported)
}

/// The style of all progress bars; they show themselves on terminals only.
pub fn style(what: &str) -> ProgressStyle {
    let template = format!("{{wide_bar}} {what}, {{eta}} to go");
    ProgressStyle::with_template(&template).expect("the template is well-formed").progress_chars("━╸ ")
}

/// Opens a file or standard input, unpacks what is packed, and shows how far reading is.
fn open(path: &std::path::Path) -> Result<(Box<dyn BufRead>, ProgressBar)> {
    let (raw, bar): (Box<dyn Read>, _) = if path.as_os_str() == "-" {
        (Box::new(std::io::stdin()), ProgressBar::hidden())
    } else {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let bytes = file.metadata().with_context(|| format!("opening {}", path.display()))?.len();
        (Box::new(file), ProgressBar::new(bytes).with_style(style("{bytes}/{total_bytes}, {bytes_per_sec}")))
    };
    let packed = BufReader::with_capacity(1 << 20, bar.wrap_read(raw));
    Ok((unpack(packed).with_context(|| format!("reading {}", path.display()))?, bar))
}

/// Recognises gzip and Zstandard by their first bytes.
fn unpack(mut packed: impl BufRead + 'static) -> Result<Box<dyn BufRead>> {
    const BUFFER_BYTES: usize = 1 << 20;
    let magic = packed.fill_buf()?;
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::bufread::MultiGzDecoder::new(packed))));
    }
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, zstd::Decoder::with_buffer(packed)?)));
    }
    Ok(Box::new(packed))
}

fn send_lines(mut input: impl BufRead, sender: &mut LineSender<'_>) -> Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return sender.flush();
        }
        sender.push(&line)?;
    }
}

fn send_csv(input: impl Read, sender: &mut LineSender<'_>) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new().from_reader(input);
    let names: Vec<String> = reader.headers()?.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                // What stood before the bad line is good.
                sender.flush()?;
                let appended = output::count(sender.appended(), "record");
                return Err(anyhow::Error::from(error).context(format!("stopped after appending {appended}")));
            }
        };
        let members = names.iter().cloned().zip(record.iter().map(csv_value));
        sender.push(Value::Object(members.collect::<Map<String, Value>>()).to_string().as_bytes())?;
    }
    sender.flush()
}

/// A cell as JSON: nothing is null; what JSON would write as a number or a boolean is one; the rest is text, so that `007`
/// keeps its zeros.
fn csv_value(cell: &str) -> Value {
    match cell {
        "" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ if cell.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => match serde_json::from_str::<serde_json::Number>(cell)
        {
            // A number that would come out with other digits stays text.
            Ok(number) if number.to_string() == cell => Value::Number(number),
            _ => Value::String(cell.to_owned()),
        },
        _ => Value::String(cell.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn cells_become_the_json_they_look_like() {
        for (cell, value) in [
            ("", json!(null)),
            ("true", json!(true)),
            ("1", json!(1)),
            ("-2.5", json!(-2.5)),
            ("007", json!("007")),
            ("1.50", json!("1.50")),
            ("12345678901234567890123", json!("12345678901234567890123")),
            ("2024-01-01", json!("2024-01-01")),
            ("a,b", json!("a,b")),
        ] {
            assert_eq!(csv_value(cell), value, "{cell}");
        }
    }

    #[test]
    fn packed_files_are_recognised_by_their_first_bytes() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"{}\n").unwrap();
        let packed = [gzip.finish().unwrap(), zstd::encode_all(&b"{}\n"[..], 1).unwrap(), b"{}\n".to_vec()];
        for packed in packed {
            let mut text = String::new();
            unpack(std::io::Cursor::new(packed)).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "{}\n");
        }
    }
}
