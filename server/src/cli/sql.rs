//! `headwater sql`: one statement, a script on standard input, or a shell.

use std::io::{BufRead, BufReader, IsTerminal, Read};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use ureq::SendBody;

use super::chart::{self, Chart};
use super::client::{self, Client, ServerError};
use super::output::{self, Format, Table};
use super::{OutputFlags, ServerFlags, shell};

/// Characters that a picture is wide where nobody says otherwise.
const COLUMNS: usize = 100;

/// `headwater sql`.
#[derive(Args)]
pub struct SqlArgs {
    /// The statement; without it standard input, or a shell on a terminal
    #[arg(short = 'c', long = "command", value_name = "STATEMENT")]
    command: Option<String>,
    /// A position to wait for before answering
    #[arg(long, value_name = "POSITION")]
    wait: Option<String>,
    /// Give up after so many milliseconds
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// Draw the result: the first column is where, numbers are how much
    #[arg(long, value_enum, value_name = "KIND", num_args = 0..=1, default_missing_value = "line", conflicts_with = "output")]
    chart: Option<Chart>,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    output: OutputFlags,
}

/// Runs what was given.
pub fn run(args: &SqlArgs) -> Result<()> {
    let client = args.server.client()?;
    let sql = match &args.command {
        Some(command) => command.clone(),
        None if std::io::stdin().is_terminal() => return shell::run(&client),
        None => {
            let mut script = String::new();
            std::io::stdin().lock().read_to_string(&mut script).context("reading standard input")?;
            script
        }
    };
    let mut request = json!({ "sql": sql });
    if let Some(wait) = &args.wait {
        request["wait"] = Value::from(wait.as_str());
    }
    if let Some(timeout_ms) = args.timeout_ms {
        request["timeout_ms"] = Value::from(timeout_ms);
    }
    let outcome = match args.output.output {
        Format::Table if args.chart.is_some() => {
            client.post("/v1/sql", &request).and_then(|answer| output::print(&drawn(&answer, args.chart)?))
        }
        Format::Table => client.post("/v1/sql", &request).and_then(|answer| output::print(&show_answer(&answer))),
        Format::Json => print_raw(&client, &request, "application/json"),
        Format::Ndjson => print_raw(&client, &request, "application/x-ndjson"),
        Format::Csv => print_raw(&client, &request, "text/csv"),
    };
    outcome.inspect_err(|error| eprint!("{}", point_at(&sql, error)))
}

/// The last result of an answer as a picture.
fn drawn(answer: &Value, chart: Option<Chart>) -> Result<String> {
    let results = answer.get("results").and_then(Value::as_array);
    let last = results.and_then(|results| results.last()).unwrap_or(answer);
    let table = Table::from_answer(last).context("the statement gives no rows to draw")?;
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    chart::draw(&table, chart.unwrap_or(Chart::Line), columns.unwrap_or(COLUMNS))
}

/// An answer, or several, for people.
pub fn show_answer(answer: &Value) -> String {
    if let Some(results) = answer.get("results").and_then(Value::as_array) {
        return results.iter().map(show_answer).collect::<Vec<_>>().join("\n");
    }
    if let Some(table) = Table::from_answer(answer) {
        let rows = output::count(table.rows.len() as u64, "row");
        return format!("{}({rows})\n", table.render(Format::Table));
    }
    let position = answer.get("position").and_then(Value::as_str).map(|position| format!(", position {position}"));
    let done = match answer.get("tag").and_then(Value::as_str) {
        Some(tag) => tag.to_owned(),
        None => output::count(answer.get("affected").and_then(Value::as_u64).unwrap_or(0), "row") + " affected",
    };
    format!("{done}{}\n", position.unwrap_or_default())
}

/// Passes the server's own bytes on, as they come.
fn print_raw(client: &Client, request: &Value, accept: &str) -> Result<()> {
    let bytes = request.to_string().into_bytes();
    let response = client.post_raw("/v1/sql", "application/json", accept, SendBody::from_reader(&mut bytes.as_slice()))?;
    let lines = client::header(response.headers(), "content-type") == Some("application/x-ndjson");
    let mut reader = BufReader::with_capacity(256 << 10, response.into_body().into_reader());
    let mut ended_with_line = true;
    loop {
        let piece = if lines { next_line(&mut reader)? } else { next_piece(&mut reader)? };
        if piece.is_empty() {
            break;
        }
        if lines && let Some(error) = as_error(&piece) {
            return Err(error.into());
        }
        ended_with_line = piece.ends_with(b"\n");
        output::print_bytes(&piece)?;
    }
    if ended_with_line { Ok(()) } else { output::print("\n") }
}

fn next_line(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).context("the answer was cut off")?;
    Ok(line)
}

fn next_piece(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let piece = reader.fill_buf().context("the answer was cut off")?.to_vec();
    reader.consume(piece.len());
    Ok(piece)
}

/// The last line of a stream of rows that failed on its way.
fn as_error(line: &[u8]) -> Option<ServerError> {
    let error = line.starts_with(b"{\"error\":{").then(|| serde_json::from_slice(line).ok())?;
    ServerError::from_body(error?).filter(|error| error.body.as_ref().is_some_and(|body| body["error"]["kind"].is_string()))
}

/// The line of the statement that an error is about, with a caret below the place, if the error names one.
pub fn point_at(sql: &str, error: &anyhow::Error) -> String {
    let place = error.downcast_ref::<ServerError>().and_then(|error| place_in(&error.message));
    let Some((line, column)) = place else { return String::new() };
    let Some(text) = sql.lines().nth(line - 1).filter(|text| column <= text.chars().count() + 1) else { return String::new() };
    // Tabs stay tabs, so that the caret stands below its letter.
    let space: String = text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    format!("{text}\n{space}^\n")
}

/// Reads `line L, column C` out of a message.
fn place_in(message: &str) -> Option<(usize, usize)> {
    let lower = message.to_ascii_lowercase();
    let number = |text: &str| {
        let text = text.trim_start_matches([' ', ':']);
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        text[..digits].parse::<usize>().ok().filter(|number| *number > 0)
    };
    let (_, rest) = lower.rsplit_once("line")?;
    let (_, column) = rest.split_once("column")?;
    Some((number(rest)?, number(column)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(message: &str) -> anyhow::Error {
        ServerError { code: "42601".into(), message: message.into(), hint: None, body: None }.into()
    }

    #[test]
    fn errors_point_at_their_place() {
        let sql = "SELECT 1,\n\tx FRM t";
        assert_eq!(point_at(sql, &error("unexpected FRM at line 2, column 4")), "\tx FRM t\n\t  ^\n");
        assert_eq!(point_at(sql, &error("expected: FROM, found: EOF at Line: 1, Column: 2")), "SELECT 1,\n ^\n");
        for nowhere in ["nothing", "at line 9, column 1", "at line 1, column 99", "at line 0, column 0"] {
            assert_eq!(point_at(sql, &error(nowhere)), "", "{nowhere}");
        }
    }

    #[test]
    fn answers_are_shown_for_people() {
        let rows = json!({"columns": [{"name": "n", "type": "bigint"}], "rows": [[1]], "row_count": 1});
        assert_eq!(show_answer(&rows), " n\n---\n 1\n(1 row)\n");
        let both =
            json!({"results": [{"affected": 0, "tag": "CREATE TABLE", "position": null}, {"affected": 2, "position": "s/0@1"}]});
        assert_eq!(show_answer(&both), "CREATE TABLE\n\n2 rows affected, position s/0@1\n");
    }

    #[test]
    fn a_last_line_that_is_an_error_is_told_from_a_row() {
        assert!(as_error(br#"{"error":{"code":"57014","kind":"unavailable","message":"late"}}"#).is_some());
        assert!(as_error(br#"{"error":{"code":"57014"}}"#).is_none());
        assert!(as_error(br#"{"error":null}"#).is_none());
    }
}
