//! Data on stdout: tables for people, JSON, NDJSON and CSV for programs.
//!
//! Every command prints through here, so that a closed pipe is noticed in one place.

use std::fmt;
use std::io::Write;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::http::results::csv_text;

/// In which form data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns
    Table,
    /// One JSON document
    Json,
    /// A JSON object a line
    Ndjson,
    /// Comma-separated values below their names
    Csv,
}

/// Whoever read our output has gone.
#[derive(Debug)]
pub struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Writes to stdout at once.
///
/// # Errors
/// [`StdoutClosed`] and others.
pub fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

/// As [`print()`].
///
/// # Errors
/// As [`print()`].
pub fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        written => Ok(written?),
    }
}

/// A column of a [`Table`].
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Whether it is set to the right.
    pub number: bool,
}

/// Rows with names.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Names.
    pub columns: Vec<Column>,
    /// As many cells a row as there are columns.
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    /// A table without rows; names that end in `#` are of numbers.
    pub fn new(names: &[&str]) -> Self {
        let column = |name: &&str| Column { name: name.trim_end_matches('#').to_owned(), number: name.ends_with('#') };
        Self { columns: names.iter().map(column).collect(), rows: Vec::new() }
    }

    /// The rows of an answer to SQL.
    pub fn from_answer(answer: &Value) -> Option<Self> {
        let is_number = |kind: &str| {
            ["smallint", "integer", "bigint", "real", "double", "numeric"].iter().any(|number| kind.starts_with(number))
        };
        let columns = answer.get("columns")?.as_array()?.iter().map(|column| Column {
            name: column["name"].as_str().unwrap_or_default().to_owned(),
            number: is_number(column["type"].as_str().unwrap_or_default()),
        });
        let rows = answer.get("rows")?.as_array()?.iter().map(|row| row.as_array().cloned().unwrap_or_default());
        Some(Self { columns: columns.collect(), rows: rows.collect() })
    }

    fn objects(&self) -> impl Iterator<Item = Value> {
        let names = self.columns.iter().map(|column| &column.name);
        self.rows.iter().map(move |row| {
            let members = names.clone().cloned().zip(row.iter().cloned());
            Value::Object(members.collect::<Map<String, Value>>())
        })
    }

    /// In the form that was asked for.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Table => self.aligned(),
            Format::Json => format!("{:#}\n", Value::Array(self.objects().collect())),
            Format::Ndjson => self.objects().fold(String::new(), |text, object| text + &object.to_string() + "\n"),
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(Vec::new());
                let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
                let rows = self.rows.iter().map(|row| row.iter().cloned().map(csv_text).collect::<Vec<_>>());
                let written = writer.write_record(&names).and_then(|()| {
                    for row in rows {
                        writer.write_record(&row)?;
                    }
                    Ok(())
                });
                written.expect("writing into memory does not fail, and rows are as long as the names");
                let bytes = writer.into_inner().expect("writing into memory does not fail");
                String::from_utf8(bytes).expect("texts are UTF-8")
            }
        }
    }

    /// Columns as wide as their widest cell, as psql sets them.
    fn aligned(&self) -> String {
        let cells: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(cell_text).collect()).collect();
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.name.chars().count()).collect();
        for row in &cells {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &[&str]| {
            let padded = cells.iter().zip(&widths).zip(&self.columns).map(|((cell, width), column)| {
                let space = " ".repeat(width - cell.chars().count());
                if column.number { format!(" {space}{cell} ") } else { format!(" {cell}{space} ") }
            });
            padded.collect::<Vec<_>>().join("|").trim_end().to_owned() + "\n"
        };
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        let mut out = line(&names) + &rule.join("+") + "\n";
        for row in &cells {
            out.push_str(&line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
        }
        out
    }
}

/// A cell of a table: on one line, empty for NULL.
fn cell_text(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '⏎' } else { c }).collect()
}

/// A count with its noun: `1 row`, `2 rows`.
pub fn count(number: u64, noun: &str) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{grouped} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> Table {
        let answer = json!({
            "columns": [{"name": "a", "type": "text"}, {"name": "n", "type": "bigint"}],
            "rows": [["x\ny", 1], [null, 1000], ["é, \"q\"", null]],
        });
        Table::from_answer(&answer).unwrap()
    }

    #[test]
    fn tables_are_aligned_and_stay_on_their_lines() {
        let expected = " a      |    n\n--------+------\n x⏎y    |    1\n        | 1000\n é, \"q\" |\n";
        assert_eq!(table().render(Format::Table), expected);
    }

    #[test]
    fn programs_get_what_they_can_parse() {
        assert_eq!(table().render(Format::Csv), "a,n\n\"x\ny\",1\n,1000\n\"é, \"\"q\"\"\",\n");
        let lines = table().render(Format::Ndjson);
        assert_eq!(lines.lines().next().unwrap(), r#"{"a":"x\ny","n":1}"#);
        let whole: Value = serde_json::from_str(&table().render(Format::Json)).unwrap();
        assert_eq!(whole[1], json!({"a": null, "n": 1000}));
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(1, "row"), "1 row");
        assert_eq!(count(1_234_567, "record"), "1,234,567 records");
        assert_eq!(count(100, "row"), "100 rows");
    }
}
