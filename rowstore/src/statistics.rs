//! What ANALYZE finds out about a table: how many rows there are, and how the values of each column are spread.
//!
//! Values are their encodings as parts of a key, whose bytes sort as the values do, so one code serves all types. The estimates are
//! for choosing plans; nothing that is answered rests on them.

use logcore::Offset;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::key::encode_part;
use crate::schema::TableSchema;
use crate::table::RowTable;
use crate::value::{Value, decode_row};

/// Rows that are looked at closely, and values of them: fewer rows of many columns.
const SAMPLE_ROWS: usize = 30_000;
const SAMPLE_VALUES: usize = 1 << 20;
/// Shares of equal size that the values of a column are divided into.
const SHARES: usize = 100;
/// Values that are kept with their own share, at most.
const COMMON_MAX: usize = 25;
/// Bytes of a value that count.
const VALUE_BYTES: usize = 32;

/// Of a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableStatistics {
    /// How many there are.
    pub rows: u64,
    /// Of its columns, in their order then.
    pub columns: Vec<ColumnStatistics>,
}

impl TableStatistics {
    /// Of the column with this id, if it was there.
    #[must_use]
    pub fn column(&self, id: u32) -> Option<&ColumnStatistics> {
        self.columns.iter().find(|column| column.id == id)
    }
}

/// Of a column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnStatistics {
    /// The column's id.
    pub id: u32,
    /// The share of rows that have no value, 0 to 1.
    pub nulls: f64,
    /// How many different values there are, about.
    pub distinct: f64,
    /// The most frequent values with their shares of all rows, 0 to 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub common: Vec<(Hex, f64)>,
    /// Between two of these are equally many of the other values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<Hex>,
}

/// Bytes that are written as hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex(pub Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |at: usize| text.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
        bytes.map(Hex).ok_or_else(|| serde::de::Error::custom("an odd or other digit than a hexadecimal one"))
    }
}

/// Where the values of a condition lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Between<'a> {
    /// At or above this one.
    pub from: Option<&'a [u8]>,
    /// Below this one.
    pub until: Option<&'a [u8]>,
}

#[allow(clippy::cast_precision_loss, reason = "a share")]
fn share(part: usize, of: usize) -> f64 {
    part as f64 / of.max(1) as f64
}

impl ColumnStatistics {
    /// Of a sample of `values` with `nulls` rows beside, out of a table of `rows`.
    fn of(id: u32, mut values: Vec<Vec<u8>>, nulls: usize, rows: u64) -> Self {
        values.sort_unstable();
        let sampled = values.len() + nulls;
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for at in 0..values.len() {
            match runs.last_mut() {
                Some((first, count)) if values[*first] == values[at] => *count += 1,
                _ => runs.push((at, 1)),
            }
        }
        let distinct = estimate_distinct(&runs, values.len(), rows, nulls);
        // More frequent than the average by far, or everything there is.
        let usual = share(values.len(), runs.len());
        let mut frequent: Vec<(usize, usize)> = runs
            .iter()
            .copied()
            .filter(|(_, count)| *count > 1 && (runs.len() <= COMMON_MAX || *count as f64 > usual * 1.25))
            .collect();
        frequent.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        frequent.truncate(COMMON_MAX);
        let common: Vec<(Hex, f64)> =
            frequent.iter().map(|(at, count)| (Hex(values[*at].clone()), share(*count, sampled))).collect();
        let others: Vec<&Vec<u8>> =
            values.iter().filter(|value| common.iter().all(|(frequent, _)| frequent.0 != **value)).collect();
        let at = |n: usize| Hex(others[n * (others.len() - 1) / SHARES.min(others.len().max(2) - 1)].clone());
        let bounds = if others.is_empty() { Vec::new() } else { (0..=SHARES.min(others.len().max(2) - 1)).map(at).collect() };
        Self { id, nulls: share(nulls, sampled), distinct, common, bounds }
    }

    /// The share of all rows whose value is one of `bounds`.
    fn others(&self) -> f64 {
        (1.0 - self.nulls - self.common.iter().map(|(_, share)| share).sum::<f64>()).max(0.0)
    }

    /// The share of rows that have a value, 0 to 1.
    #[must_use]
    pub fn equal(&self, value: &[u8]) -> f64 {
        let value = &value[..value.len().min(VALUE_BYTES)];
        if let Some((_, share)) = self.common.iter().find(|(common, _)| common.0 == value) {
            return *share;
        }
        let distinct = self.distinct - share(self.common.len(), 1);
        self.others() / distinct.max(1.0)
    }

    /// The share of rows whose value lies in a range, 0 to 1.
    #[must_use]
    pub fn between(&self, range: Between<'_>) -> f64 {
        let below = |end: Option<&[u8]>, none: f64| end.map_or(none, |end| self.below(end));
        (below(range.until, 1.0 - self.nulls) - below(range.from, 0.0)).max(0.0)
    }

    /// The share of rows whose value is below `end`.
    fn below(&self, end: &[u8]) -> f64 {
        let common: f64 = self.common.iter().filter(|(value, _)| &value.0[..] < end).map(|(_, share)| share).sum();
        let Some(shares) = self.bounds.len().checked_sub(1).filter(|shares| *shares > 0) else {
            let all = self.bounds.first().is_some_and(|bound| &bound.0[..] < end);
            return common + if all { self.others() } else { 0.0 };
        };
        let after = self.bounds.partition_point(|bound| &bound.0[..] < end);
        let position = match after {
            0 => 0.0,
            after if after > shares => share(shares, 1),
            after => share(after - 1, 1) + way(&self.bounds[after - 1].0, &self.bounds[after].0, end),
        };
        common + self.others() * position / share(shares, 1)
    }
}

/// How far `at` is on the way from one value to another, 0 to 1, by the bytes behind what the two have in common.
fn way(from: &[u8], to: &[u8], at: &[u8]) -> f64 {
    let same = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    let number = |bytes: &[u8]| {
        let mut eight = [0; 8];
        for (to, from) in eight.iter_mut().zip(bytes.get(same..).unwrap_or_default()) {
            *to = *from;
        }
        u64::from_be_bytes(eight) as f64
    };
    let (from, to, at) = (number(from), number(to), number(at));
    if to > from { ((at - from) / (to - from)).clamp(0.0, 1.0) } else { 0.5 }
}

/// How many different values a table has, from those of a sample: Haas and Stokes' Duj1, as PostgreSQL estimates it.
#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn estimate_distinct(runs: &[(usize, usize)], sampled: usize, rows: u64, nulls: usize) -> f64 {
    let total = rows as f64 * share(sampled, sampled + nulls);
    let (n, d) = (sampled as f64, runs.len() as f64);
    let once = runs.iter().filter(|(_, count)| *count == 1).count() as f64;
    if total <= n || n == 0.0 {
        return d;
    }
    let estimate = n * d / (n - once + once * n / total);
    estimate.clamp(d, total)
}

/// The beginnings of a row's values, encoded; none: NULL.
type Sampled = Vec<Option<Vec<u8>>>;

/// Looks at the rows of a table, one partition after the other.
pub struct Analysis<'s> {
    schema: &'s TableSchema,
    rows: u64,
    sample: Vec<Sampled>,
    sample_rows: usize,
    random: u64,
}

impl<'s> Analysis<'s> {
    /// Of a table with these columns, of which nothing is seen yet.
    #[must_use]
    pub fn new(schema: &'s TableSchema) -> Self {
        let sample_rows = SAMPLE_ROWS.min(SAMPLE_VALUES / schema.columns.len().max(1));
        Self { schema, rows: 0, sample: Vec::new(), sample_rows, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Takes in the rows that the records below `cut` left.
    ///
    /// # Errors
    /// When the files can't be read, or a row does not decode.
    pub fn add(&mut self, table: &RowTable, cut: Offset) -> Result<()> {
        for item in table.all(cut) {
            let (_, row) = item?;
            self.rows += 1;
            if self.sample.len() < self.sample_rows {
                self.sample.push(sampled(&row, self.schema)?);
                continue;
            }
            // Each row is as likely as any other to be among those that are kept.
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from((self.random >> 33) % self.rows).unwrap_or(usize::MAX);
            if let Some(kept) = self.sample.get_mut(at) {
                *kept = sampled(&row, self.schema)?;
            }
        }
        Ok(())
    }

    /// What was found.
    #[must_use]
    pub fn finish(self) -> TableStatistics {
        let mut columns: Vec<(Vec<Vec<u8>>, usize)> = vec![Default::default(); self.schema.columns.len()];
        for row in self.sample {
            for (value, (values, nulls)) in row.into_iter().zip(&mut columns) {
                match value {
                    Some(value) => values.push(value),
                    None => *nulls += 1,
                }
            }
        }
        let columns = self.schema.columns.iter().zip(columns);
        let columns = columns.map(|(column, (values, nulls))| ColumnStatistics::of(column.id, values, nulls, self.rows));
        TableStatistics { rows: self.rows, columns: columns.collect() }
    }
}

fn sampled(row: &[u8], schema: &TableSchema) -> Result<Sampled> {
    let beginning = |value: &Value| {
        let mut encoded = Vec::new();
        encode_part(&mut encoded, value);
        encoded.truncate(VALUE_BYTES);
        encoded.shrink_to_fit();
        (*value != Value::Null).then_some(encoded)
    };
    Ok(decode_row(row, schema)?.iter().map(beginning).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        encode_part(&mut out, &Value::Int(value));
        out
    }

    fn close(left: f64, right: f64, by: f64) {
        assert!((left - right).abs() <= by, "{left} is not {right}");
    }

    #[test]
    fn shares_of_evenly_spread_numbers_are_as_they_are() {
        let found = ColumnStatistics::of(1, (0..10_000).map(part).collect(), 0, 10_000);
        close(found.distinct, 10_000.0, 0.1);
        close(found.equal(&part(77)), 0.000_1, 0.000_01);
        for (from, until) in [(0, 10_000), (2_500, 5_000), (9_990, 20_000), (-5, 0), (4_000, 4_050)] {
            let (low, high) = (part(from), part(until));
            let expected = (until.clamp(0, 10_000) - from.clamp(0, 10_000)) as f64 / 10_000.0;
            close(found.between(Between { from: Some(&low), until: Some(&high) }), expected, 0.005);
        }
        close(found.between(Between { from: None, until: Some(&part(1_000)) }), 0.1, 0.005);
        close(found.between(Between::default()), 1.0, 0.001);
        assert_eq!(found.between(Between { from: Some(&part(9)), until: Some(&part(3)) }), 0.0);
    }

    #[test]
    fn frequent_values_have_shares_of_their_own() {
        let values = (0..8_000).map(|n| part(if n % 2 == 0 { 42 } else { 1_000 + n })).collect();
        let found = ColumnStatistics::of(1, values, 2_000, 1_000_000);
        close(found.nulls, 0.2, 0.001);
        close(found.equal(&part(42)), 0.4, 0.001);
        assert!(found.equal(&part(1_001)) < 0.001);
        close(found.between(Between { from: None, until: Some(&part(1_000)) }), 0.4, 0.01);
        close(found.between(Between { from: Some(&part(1_000)), until: None }), 0.4, 0.01);
        assert!(found.distinct > 4_000.0, "most of the others were seen once: {}", found.distinct);
    }

    #[test]
    fn few_values_and_none_are_no_trouble() {
        let none = ColumnStatistics::of(1, vec![], 5, 5);
        assert_eq!((none.equal(&part(1)), none.between(Between::default())), (0.0, 0.0));
        let one = ColumnStatistics::of(1, vec![part(1)], 0, 1);
        close(one.equal(&part(1)), 1.0, 0.001);
        close(one.between(Between { from: None, until: Some(&part(2)) }), 1.0, 0.001);
        let two = ColumnStatistics::of(1, vec![part(1), part(2)], 0, 2);
        close(two.between(Between { from: Some(&part(1)), until: None }), 1.0, 0.51);
        let booleans = ColumnStatistics::of(1, (0..100).map(|n| part(i64::from(n < 10))).collect(), 0, 100);
        close(booleans.equal(&part(1)), 0.1, 0.001);
        close(booleans.equal(&part(0)), 0.9, 0.001);
    }

    #[test]
    fn they_are_written_and_read() {
        let found = ColumnStatistics::of(1, (0..256).map(|n| part(n % 128)).collect(), 256, 512);
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<ColumnStatistics>(&text).unwrap(), found);
        assert!(serde_json::from_str::<Hex>("\"0g\"").is_err());
        assert!(serde_json::from_str::<Hex>("\"012\"").is_err());
    }
}
