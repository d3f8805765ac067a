//! The shell of `headwater sql`: history, completion, statements over several lines, and commands that begin with `\`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use serde_json::Value;

use super::client::{Client, identifier};
use super::{output, show_error, sql};

const KEYWORDS: &str = "SELECT FROM WHERE GROUP BY ORDER LIMIT OFFSET HAVING DISTINCT JOIN LEFT RIGHT FULL INNER CROSS ON USING AS AND OR \
    NOT IN IS NULL LIKE ILIKE BETWEEN CASE WHEN THEN ELSE END UNION ALL EXCEPT INTERSECT WITH RECURSIVE INSERT INTO VALUES UPDATE SET \
    DELETE RETURNING CONFLICT DO NOTHING CREATE TABLE STREAM VIEW INDEX DROP ALTER ADD COLUMN SHOW STREAMS VIEWS TABLES REBUILD \
    EXPLAIN ANALYZE BEGIN COMMIT ROLLBACK PRIMARY KEY UNIQUE REFERENCES DEFAULT CHECK row document series SYSTEM_TIME FOR OF \
    POSITION TIMESTAMP CONTAINS MATCH score highlight time_bucket first last count sum avg min max to_timestamp date_trunc BIGINT \
    INTEGER TEXT BOOLEAN NUMERIC DOUBLE PRECISION TIMESTAMPTZ DATE JSON";
/// Tables whose columns are asked for at the start.
const TABLES_MAX: usize = 50;
const HELP: &str = "Statements end with a semicolon and may go over several lines.
  \\d          streams and tables
  \\d NAME     the columns of a stream or table
  \\timing     show how long statements take, or stop it
  \\?          this help
  \\q          leave
";

struct Shell {
    words: Vec<String>,
}

impl Completer for Shell {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let start = word_start(&line[..at]);
        let typed = line[start..at].to_lowercase();
        if typed.is_empty() {
            return Ok((at, Vec::new()));
        }
        let found = self.words.iter().filter(|word| word.to_lowercase().starts_with(&typed));
        let found = found.map(|word| Pair { display: word.clone(), replacement: word.clone() });
        Ok((start, found.collect()))
    }
}

fn word_start(line: &str) -> usize {
    line.rfind(|c: char| !c.is_alphanumeric() && c != '_')
        .map_or(0, |at| at + line[at..].chars().next().map_or(1, char::len_utf8))
}

impl Validator for Shell {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(context.input()) { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

/// Whether a line is a command, nothing, or ends a statement outside of quotes and comments.
fn is_complete(input: &str) -> bool {
    let trimmed = input.trim();
    if trimmed.is_empty() || trimmed.starts_with('\\') {
        return true;
    }
    let mut chars = input.chars().peekable();
    let mut ended = false;
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                ended = false;
                if !chars.any(|other| other == c) {
                    return false;
                }
            }
            '-' if chars.peek() == Some(&'-') => while chars.next_if(|c| *c != '\n').is_some() {},
            ';' => ended = true,
            c if c.is_whitespace() => {}
            _ => ended = false,
        }
    }
    ended
}

impl Highlighter for Shell {}

impl Hinter for Shell {
    type Hint = String;
}

impl Helper for Shell {}

/// Reads and runs statements until the user leaves.
pub fn run(client: &Client) -> Result<()> {
    let config = Config::builder().completion_type(CompletionType::List).auto_add_history(true).build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Shell { words: words(client)? }));
    let history = history_path();
    if let Some(history) = &history {
        // There is none yet at the first start.
        let _ = editor.load_history(history);
    }
    eprintln!("headwater {} at {}; \\? for help", env!("CARGO_PKG_VERSION"), client.base());
    let mut timing = false;
    loop {
        match editor.readline("headwater> ") {
            Ok(line) => match line.trim() {
                "" => {}
                "\\q" | "quit" | "exit" => break,
                "\\?" => eprint!("{HELP}"),
                "\\timing" => {
                    timing = !timing;
                    eprintln!("timing is {}", if timing { "on" } else { "off" });
                }
                "\\d" => report(describe_all(client), "")?,
                command if command.starts_with("\\d ") => report(describe(client, command[3..].trim()), "")?,
                command if command.starts_with('\\') => eprintln!("{command} is not a command; \\? for help"),
                statement => {
                    let started = Instant::now();
                    report(client.sql(statement, None).map(|answer| sql::show_answer(&answer)), statement)?;
                    if timing {
                        eprintln!("{:.1} ms", started.elapsed().as_secs_f64() * 1000.0);
                    }
                    let begins = |word: &str| statement.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
                    if (begins("create") || begins("drop") || begins("alter"))
                        && let (Some(shell), Ok(words)) = (editor.helper_mut(), words(client))
                    {
                        shell.words = words;
                    }
                }
            },
            // Ctrl-C gives the line up, Ctrl-D the shell.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(history) = &history
        && let Err(error) = editor.save_history(history)
    {
        eprintln!("the history was not saved to {}: {error}", history.display());
    }
    Ok(())
}

/// Prints what came, or what went wrong; only a closed stdout ends the shell.
fn report(outcome: Result<String>, statement: &str) -> Result<()> {
    match outcome {
        Ok(text) => output::print(&text),
        Err(error) => {
            eprint!("{}{}", sql::point_at(statement, &error), show_error(&error));
            Ok(())
        }
    }
}

fn history_path() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let folder = state.join("headwater");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

fn names(client: &Client) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (path, list) in [("/v1/streams", "streams"), ("/v1/views", "views")] {
        let answer = client.get(path)?;
        let found = answer[list].as_array().into_iter().flatten().filter_map(|item| item["name"].as_str());
        names.extend(found.map(str::to_owned));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// What completion knows: keywords, names of streams and tables, names of their columns.
fn words(client: &Client) -> Result<Vec<String>> {
    let names = names(client)?;
    let mut words: Vec<String> = KEYWORDS.split_whitespace().map(str::to_owned).collect();
    for name in names.iter().take(TABLES_MAX) {
        let columns = columns(client, name).unwrap_or_default();
        words.extend(columns.into_iter().map(|(column, _)| column));
    }
    words.extend(names);
    words.sort();
    words.dedup();
    Ok(words)
}

fn columns(client: &Client, name: &str) -> Result<Vec<(String, String)>> {
    let answer = client.sql(&format!("SELECT * FROM {} LIMIT 0", identifier(name)), None)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let columns = answer["columns"].as_array().into_iter().flatten();
    Ok(columns.map(|column| (text(&column["name"]), text(&column["type"]))).collect())
}

fn describe_all(client: &Client) -> Result<String> {
    let mut table = output::Table::new(&["name", "kind", "from"]);
    for stream in client.get("/v1/streams")?["streams"].as_array().into_iter().flatten() {
        table.rows.push(vec![stream["name"].clone(), "stream".into(), Value::Null]);
    }
    for view in client.get("/v1/views")?["views"].as_array().into_iter().flatten() {
        table.rows.push(vec![view["name"].clone(), view["kind"].clone(), view["stream"].clone()]);
    }
    Ok(table.render(output::Format::Table))
}

fn describe(client: &Client, name: &str) -> Result<String> {
    let mut table = output::Table::new(&["column", "type"]);
    table.rows =
        columns(client, name.trim_end_matches(';'))?.into_iter().map(|(name, kind)| vec![name.into(), kind.into()]).collect();
    Ok(table.render(output::Format::Table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_go_on_until_their_semicolon() {
        for complete in ["", "  ", "\\d x", "SELECT 1;", "SELECT ';' ;\n", "SELECT 1; -- done", "SELECT 'it''s';"] {
            assert!(is_complete(complete), "{complete}");
        }
        for open in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT", "SELECT 1 -- ;", "SELECT \";\""] {
            assert!(!is_complete(open), "{open}");
        }
    }

    #[test]
    fn words_begin_behind_what_is_no_letter() {
        assert_eq!(word_start("SELECT cou"), 7);
        assert_eq!(word_start("cou"), 0);
        assert_eq!(word_start("é(a_b"), 3);
    }
}
