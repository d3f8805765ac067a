//! Results as pictures: a line over time or a bar a row, in the characters of a terminal.
//!
//! `headwater sql --chart` and the demo draw with it. The first column is where, numbers are what; a text column beside them tells series
//! apart. Each series has a picture of its own, all on one scale, so that nothing depends on colours.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use super::output::Table;
use crate::http::json::rfc3339_millis;

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Chart {
    /// Lines from point to point, with gaps where there is none
    Line,
    /// A bar for each row
    Bar,
}

/// Rows of a line's picture.
const HEIGHT: usize = 12;
/// Pictures of one result.
const SERIES_MAX: usize = 24;
/// Bars of one series.
const BARS_MAX: usize = 500;
/// Dots of a character: two beside each other, four below.
const DOTS: (usize, usize) = (2, 4);
/// The bits of a braille character, by column and row of its dots.
const BITS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// One line or group of bars.
#[derive(Debug, PartialEq)]
struct Series {
    name: String,
    /// Where it is drawn, what stands there, and how much.
    points: Vec<(f64, String, Option<f64>)>,
}

/// Draws a result, at most `width` characters wide.
///
/// # Errors
/// When there is nothing that can be drawn.
pub fn draw(table: &Table, chart: Chart, width: usize) -> Result<String> {
    let series = series_of(table)?;
    let values = series.iter().flat_map(|series| &series.points).filter_map(|(_, _, value)| *value);
    let Some((low, high)) = values.fold(None, |range: Option<(f64, f64)>, value| {
        Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
    }) else {
        bail!("there is no number to draw");
    };
    let named = series.len() > 1;
    let mut out = String::new();
    for one in &series {
        if named {
            out += &format!("{}\n", one.name);
        }
        out += &match chart {
            Chart::Line => line(one, (low, high), width),
            Chart::Bar => bars(one, (low.min(0.0), high.max(0.0)), width),
        };
    }
    Ok(out)
}

fn series_of(table: &Table) -> Result<Vec<Series>> {
    let numbers: Vec<usize> = (1..table.columns.len()).filter(|at| table.columns[*at].number).collect();
    let texts: Vec<usize> = (1..table.columns.len()).filter(|at| !table.columns[*at].number).collect();
    if numbers.is_empty() {
        bail!(
            "a chart needs a column of numbers behind the first one, for example SELECT time_bucket('1 day', ts), count(*) ..."
        );
    }
    let mut series: Vec<Series> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (row, cells) in table.rows.iter().enumerate() {
        let label = text(&cells[0]);
        let at = place(&cells[0]).unwrap_or_else(|| precise(row));
        let group: Vec<String> = texts.iter().map(|column| text(&cells[*column])).collect();
        for column in &numbers {
            let mut name = group.clone();
            if numbers.len() > 1 || name.is_empty() {
                name.push(table.columns[*column].name.clone());
            }
            let name = name.join(" ");
            let number = *known.entry(name.clone()).or_insert_with(|| {
                series.push(Series { name, points: Vec::new() });
                series.len() - 1
            });
            if series.len() > SERIES_MAX {
                bail!("more than {SERIES_MAX} series: name fewer columns, or add a condition");
            }
            series[number].points.push((at, label.clone(), number_of(&cells[*column])));
        }
    }
    Ok(series)
}

fn text(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Numerics come as text, so that no digit is lost.
fn number_of(cell: &Value) -> Option<f64> {
    let number = cell.as_f64().or_else(|| cell.as_str()?.parse().ok());
    number.filter(|number| number.is_finite())
}

/// Times and numbers have a place of their own; others stand in the order of the rows.
fn place(cell: &Value) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "milliseconds of any year that a table has")]
    let moment = |text: &str| rfc3339_millis(text).map(|millis| millis as f64);
    number_of(cell).or_else(|| moment(cell.as_str()?))
}

fn precise(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// How far a value is between two others, as a place among so many.
fn scaled(value: f64, (low, high): (f64, f64), places: usize) -> usize {
    let part = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place below `places`")]
    let place = (part * precise(places.saturating_sub(1))).round() as usize;
    place
}

fn line(series: &Series, range: (f64, f64), width: usize) -> String {
    let labels = [short(range.1), short(range.0)];
    let margin = labels.iter().map(String::len).max().unwrap_or(0);
    let columns = width.saturating_sub(margin + 2).max(10);
    let (wide, high) = (columns * DOTS.0, HEIGHT * DOTS.1);
    let mut cells = vec![vec![0_u32; columns]; HEIGHT];
    let mut points: Vec<(f64, Option<f64>)> = series.points.iter().map(|(at, _, value)| (*at, *value)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let span = (points.first().map_or(0.0, |point| point.0), points.last().map_or(0.0, |point| point.0));
    let mut before: Option<(usize, usize)> = None;
    for (at, value) in points {
        let Some(value) = value else {
            before = None;
            continue;
        };
        let dot = (scaled(at, span, wide), high - 1 - scaled(value, range, high));
        stroke(before.unwrap_or(dot), dot, &mut |x, y| cells[y / DOTS.1][x / DOTS.0] |= BITS[x % DOTS.0][y % DOTS.1]);
        before = Some(dot);
    }
    let mut out = String::new();
    for (row, cells) in cells.iter().enumerate() {
        let label = match row {
            0 => labels[0].as_str(),
            last if last == HEIGHT - 1 => labels[1].as_str(),
            _ => "",
        };
        let drawn: String = cells.iter().map(|bits| char::from_u32(0x2800 + bits).unwrap_or(' ')).collect();
        out += &format!("{label:>margin$} ┤{drawn}\n");
    }
    let first = series.points.iter().min_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |point| point.1.as_str());
    let last = series.points.iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |point| point.1.as_str());
    let gap = columns.saturating_sub(first.chars().count() + last.chars().count()).max(1);
    out += &format!("{:margin$}  {first}{}{last}\n", "", " ".repeat(gap));
    out
}

/// The dots between two, both included.
fn stroke((mut x, mut y): (usize, usize), to: (usize, usize), dot: &mut dyn FnMut(usize, usize)) {
    let (wide, high) = (x.abs_diff(to.0), y.abs_diff(to.1));
    let steps = wide.max(high);
    let (from_x, from_y) = (x, y);
    for step in 0..=steps {
        let along = |from: usize, to: usize, distance: usize| {
            let moved = (distance * step + steps / 2).checked_div(steps).unwrap_or(0);
            if to >= from { from + moved } else { from - moved }
        };
        (x, y) = (along(from_x, to.0, wide), along(from_y, to.1, high));
        dot(x, y);
    }
}

fn bars(series: &Series, range: (f64, f64), width: usize) -> String {
    let labels = series.points.iter().map(|(_, label, _)| label.chars().count()).max().unwrap_or(0).min(width / 3);
    let values = series.points.iter().filter_map(|(_, _, value)| *value).map(|value| short(value).len()).max().unwrap_or(0);
    let room = width.saturating_sub(labels + values + 3).max(10);
    let zero = scaled(0.0, range, room * 8 + 1);
    let mut out = String::new();
    for (_, label, value) in series.points.iter().take(BARS_MAX) {
        let label: String = label.chars().take(labels).collect();
        let Some(value) = value else {
            out += &format!("{label:labels$} │\n");
            continue;
        };
        let end = scaled(*value, range, room * 8 + 1);
        let (from, until) = (zero.min(end), zero.max(end));
        // Left of zero a bar begins at a whole character.
        let blank = " ".repeat(from / 8);
        let eighths = until - from / 8 * 8;
        let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
        out += &format!("{label:labels$} │{blank}{}{rest} {}\n", "█".repeat(eighths / 8), short(*value));
    }
    if series.points.len() > BARS_MAX {
        out += &format!("... and {} more\n", series.points.len() - BARS_MAX);
    }
    out
}

/// A number in few characters.
fn short(value: f64) -> String {
    let size = value.abs();
    let (scaled, unit) = match size {
        size if size >= 1e12 => (value / 1e12, "T"),
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = if size != 0.0 && size < 0.01 { format!("{scaled:.1e}") } else { format!("{scaled:.2}") };
    let text = if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    text + unit
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table(names: &[&str], rows: Value) -> Table {
        let rows = rows.as_array().unwrap().iter().map(|row| row.as_array().unwrap().clone()).collect();
        Table { rows, ..Table::new(names) }
    }

    #[test]
    fn a_line_goes_from_corner_to_corner_and_has_gaps() {
        let rows = json!([
            ["2024-03-01T00:00:00Z", 0],
            ["2024-03-01T01:00:00Z", 5],
            ["2024-03-01T02:00:00Z", null],
            ["2024-03-01T04:00:00Z", "10"]
        ]);
        let drawn = draw(&table(&["ts", "v#"], rows), Chart::Line, 60).unwrap();
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines.len(), HEIGHT + 1);
        assert!(lines[0].starts_with("10 ┤") && lines[0].ends_with('⠈'), "{drawn}");
        assert!(
            lines[HEIGHT - 1].starts_with(" 0 ┤⣀")
                || lines[HEIGHT - 1].starts_with(" 0 ┤⡠")
                || lines[HEIGHT - 1].starts_with(" 0 ┤⡔"),
            "{drawn}"
        );
        assert!(lines[HEIGHT].contains("2024-03-01T00:00:00Z") && lines[HEIGHT].ends_with("2024-03-01T04:00:00Z"));
        // Between the second point and the last one there is nothing.
        assert!(lines[4].chars().skip(20).take(20).all(|char| char == '\u{2800}'), "{drawn}");
        assert!(lines.iter().all(|line| line.chars().count() <= 60));
    }

    #[test]
    fn bars_are_as_long_as_their_values_on_both_sides_of_zero() {
        let drawn =
            draw(&table(&["repo", "n#"], json!([["a", 40], ["longer", 20], ["c", -10], ["d", null]])), Chart::Bar, 80).unwrap();
        let full = |line: &str| line.chars().filter(|char| *char == '█').count();
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(full(lines[0]).abs_diff(2 * full(lines[1])) <= 1 && full(lines[1]).abs_diff(2 * full(lines[2])) <= 2, "{drawn}");
        assert!(lines[0].starts_with("a      │") && lines[0].ends_with(" 40") && lines[3] == "d      │", "{drawn}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn texts_and_columns_make_series_of_one_scale() {
        let rows = json!([[1, "a", 1, 2], [1, "b", 3, 4], [2, "a", 5, 6], [2, "b", 7, 8]]);
        let series = series_of(&table(&["x", "host", "v#", "w#"], rows)).unwrap();
        assert_eq!(series.iter().map(|series| series.name.as_str()).collect::<Vec<_>>(), ["a v", "a w", "b v", "b w"]);
        assert_eq!(series[0].points, [(1.0, "1".into(), Some(1.0)), (2.0, "2".into(), Some(5.0))]);
        assert!(draw(&table(&["x", "t"], json!([[1, "a"]])), Chart::Bar, 80).is_err());
        assert!(draw(&table(&["x", "v#"], json!([])), Chart::Bar, 80).is_err());
        let one = draw(&table(&["x", "v#"], json!([["only", 3]])), Chart::Line, 5).unwrap();
        assert_eq!(one.lines().count(), HEIGHT + 1);
        let many: Vec<Value> = (0..50).map(|n| json!([n, format!("s{n}"), 1])).collect();
        assert!(draw(&table(&["x", "s", "v#"], json!(many)), Chart::Line, 80).is_err());
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (1.5, "1.5"), (12_345.0, "12.35k"), (2e6, "2M"), (-3e9, "-3G"), (0.001, "1.0e-3"), (9_999.0, "9999")]
        {
            assert_eq!(short(value), text);
        }
    }
}
