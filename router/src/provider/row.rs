//! A row table at a cut: conditions on the primary key or on an index become a range of keys or entries.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown};
use logcore::Offset;
use rowstore::index::encode_indexed;
use rowstore::key::{after_prefix, encode_part};
use rowstore::statistics::{Between, ColumnStatistics};
use rowstore::value::uuid_text;
use rowstore::{Column, ColumnType, Index, IndexColumn, Overlay, RowTable, ScanRequest, TableSchema, TableStatistics, Value};

use super::filter::{compared, comparison};
use super::scan::{Bounds, Estimate, Scan, Source};
use crate::error::{Error, Result};
use crate::txn::{Key, Transaction};
use crate::view::index_keys::{planned, unqualified};

/// See the module docs.
pub struct RowProvider {
    name: String,
    parts: Vec<(RowTable, Offset)>,
    table: Arc<TableSchema>,
    schema: SchemaRef,
    /// What ANALYZE found out about it.
    statistics: Option<Arc<TableStatistics>>,
    /// The table's id and who reads it, if it may have rows of its own over the table's.
    within: Option<(u32, Arc<Transaction>)>,
}

impl RowProvider {
    /// The table's partitions, each with the cut it is read at.
    #[must_use]
    pub fn new(name: &str, table: Arc<TableSchema>, parts: Vec<(RowTable, Offset)>) -> Self {
        Self { name: name.to_owned(), parts, schema: table.arrow(), table, statistics: None, within: None }
    }

    /// With what ANALYZE found out about it.
    #[must_use]
    pub fn known(self, statistics: Option<&Arc<TableStatistics>>) -> Self {
        Self { statistics: statistics.cloned(), ..self }
    }

    /// As a transaction sees it.
    #[must_use]
    pub fn within(self, id: u32, transaction: &Arc<Transaction>) -> Self {
        Self { within: Some((id, Arc::clone(transaction))), ..self }
    }

    /// The indexes that all partitions have.
    fn indexes(&self) -> impl Iterator<Item = &Index> {
        let built = |index: &&Index| self.parts.iter().all(|(rows, _)| rows.index(index.id).is_some());
        self.table.indexes.iter().filter(built)
    }
}

impl std::fmt::Debug for RowProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rows of {}", self.name)
    }
}

/// A row that is looked up by an entry of an index costs as much as this many rows that are read one after the other.
const LOOKUP_COST: f64 = 5.0;
/// The share of rows with one value, between two values, and on one side of a value, where nothing is known.
const EQUAL: f64 = 0.005;
const BETWEEN: f64 = 0.1;
const ONE_SIDED: f64 = 1.0 / 3.0;
/// The share of rows that an index of a part of them is taken to have.
const PARTIAL: f64 = 0.1;

/// How rows are found: a range of encoded keys, or of entries of an index.
#[derive(Clone, Debug, PartialEq)]
struct Path {
    /// The index, by name; none: the primary key.
    index: Option<String>,
    from: Vec<u8>,
    until: Option<Vec<u8>>,
    /// Columns that are compared for equality, in front.
    equal: usize,
    /// All columns are, and no two rows have the same.
    single: bool,
    /// The share of the table's rows that are in the range, 0 to 1, about.
    share: f64,
    /// Conditions that went into it, for EXPLAIN.
    pushed: Vec<String>,
}

impl Default for Path {
    fn default() -> Self {
        Self { index: None, from: Vec::new(), until: None, equal: 0, single: false, share: 1.0, pushed: Vec::new() }
    }
}

impl Path {
    /// What reading it costs, in rows read one after the other, as a share of the table.
    fn cost(&self) -> f64 {
        match (self.single, &self.index) {
            (true, _) => 0.0,
            (false, None) => self.share,
            (false, Some(_)) => self.share * LOOKUP_COST,
        }
    }
}

/// Whether DataFusion compares values of a type as their keys compare. It takes intervals part by part, and NULL in an array for
/// the smallest.
fn compares_as_keys(kind: &ColumnType) -> bool {
    !matches!(kind, ColumnType::Interval | ColumnType::Array(_))
}

/// A constant as a value of a key column; `None` where it is none: what is compared with a UUID is text, and may be any.
fn key_value(kind: &ColumnType, constant: &ScalarValue) -> Option<Value> {
    let value = Value::from_array(constant.to_array().ok()?.as_ref(), 0, kind);
    match &value {
        Value::Null => None,
        Value::Uuid(uuid) => (constant.try_as_str()?? == uuid_text(uuid)).then_some(value),
        _ => Some(value),
    }
}

type Encode<'a> = Box<dyn Fn(&Value) -> Vec<u8> + 'a>;

/// A column of a key or index, and how its values are encoded there.
struct Part<'a> {
    what: What<'a>,
    kind: &'a ColumnType,
    encode: Encode<'a>,
    descending: bool,
    statistics: Option<&'a ColumnStatistics>,
}

impl Part<'_> {
    /// The share of rows that have one value.
    fn equal(&self, value: &Value) -> f64 {
        self.statistics.map_or(EQUAL, |known| known.equal(&ascending(value)))
    }

    /// The share of rows between two values.
    fn between(&self, from: Option<Vec<u8>>, until: Option<Vec<u8>>) -> f64 {
        match (self.statistics, &from, &until) {
            (_, None, None) => 1.0,
            (Some(known), ..) => known.between(Between { from: from.as_deref(), until: until.as_deref() }),
            (None, Some(_), Some(_)) => BETWEEN,
            (None, ..) => ONE_SIDED,
        }
    }
}

/// A value as statistics have it.
fn ascending(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    encode_part(&mut out, value);
    out
}

/// What a condition must be about.
#[derive(Clone, Copy)]
enum What<'a> {
    Column(&'a str),
    Expression(&'a Expr),
}

impl What<'_> {
    fn is(self, expr: &Expr) -> bool {
        match self {
            Self::Column(name) => matches!(expr, Expr::Column(column) if column.name == name),
            Self::Expression(wanted) => !matches!(expr, Expr::Column(_)) && unqualified(expr) == *wanted,
        }
    }
}

/// The range that holds every entry for which all `filters` can be true; entries begin with `prefix`.
fn range(parts: &[Part<'_>], mut prefix: Vec<u8>, filters: &[Expr]) -> Path {
    let mut path = Path::default();
    for part in parts {
        let kind = part.kind;
        let (mut above, mut below) = (None, None);
        let conditions: Vec<(Operator, Value, &Expr)> = filters
            .iter()
            .filter_map(|filter| {
                let (what, operator, value) = compared(filter)?;
                if !part.what.is(what) || value.data_type() != kind.arrow() || !compares_as_keys(kind) {
                    return None;
                }
                Some((operator, key_value(kind, value)?, filter))
            })
            .collect();
        if let Some((_, value, filter)) = conditions.iter().find(|(operator, ..)| *operator == Operator::Eq) {
            prefix.extend((part.encode)(value));
            path.equal += 1;
            path.share *= part.equal(value);
            path.pushed.push(filter.to_string());
            continue;
        }
        let (mut from, mut until) = (prefix.clone(), after_prefix(&prefix));
        for (operator, value, filter) in conditions {
            let side = match operator {
                Operator::Gt | Operator::GtEq => &mut above,
                Operator::Lt | Operator::LtEq => &mut below,
                _ => continue,
            };
            *side = Some(ascending(&value));
            let bound = [&prefix[..], &(part.encode)(&value)].concat();
            let operator = match (part.descending, operator) {
                (true, Operator::Lt) => Operator::Gt,
                (true, Operator::LtEq) => Operator::GtEq,
                (true, Operator::Gt) => Operator::Lt,
                (true, Operator::GtEq) => Operator::LtEq,
                (_, operator) => operator,
            };
            match operator {
                Operator::GtEq => from = from.max(bound),
                Operator::Gt => from = after_prefix(&bound).map_or(from.clone(), |bound| bound.max(from)),
                Operator::Lt => until = Some(until.map_or(bound.clone(), |until| until.min(bound))),
                Operator::LtEq => {
                    until = match (until, after_prefix(&bound)) {
                        (Some(until), Some(bound)) => Some(until.min(bound)),
                        (until, bound) => until.or(bound),
                    }
                }
                _ => continue,
            }
            path.pushed.push(filter.to_string());
        }
        path.share *= part.between(above, below);
        (path.from, path.until) = (from, until);
        return path;
    }
    (path.until, path.from) = (after_prefix(&prefix), prefix);
    path
}

fn by_key(table: &TableSchema, statistics: Option<&TableStatistics>, filters: &[Expr]) -> Path {
    let part = |at: &usize| {
        let Column { id, name, kind, .. } = &table.columns[*at];
        let statistics = statistics.and_then(|known| known.column(*id));
        Part { what: What::Column(name), kind, encode: Box::new(ascending), descending: false, statistics }
    };
    let path = range(&table.primary_key.iter().map(part).collect::<Vec<_>>(), Vec::new(), filters);
    Path { single: !table.primary_key.is_empty() && path.equal == table.primary_key.len(), ..path }
}

fn by_index<'a>(
    table: &'a TableSchema,
    statistics: Option<&'a TableStatistics>,
    index: &'a Index,
    filters: &[Expr],
) -> Option<Path> {
    let keys = planned(index);
    // An index of a part of the rows is of use only to whom that part is enough.
    let predicate = keys.map(|keys| &keys.predicate[..]).unwrap_or_default();
    let filtered: Vec<Expr> = if predicate.is_empty() { Vec::new() } else { filters.iter().map(unqualified).collect() };
    if !index.is_plain() && (keys.is_none() || !predicate.iter().all(|wanted| filtered.contains(wanted))) {
        return None;
    }
    let part = |(n, column): (usize, &'a IndexColumn)| {
        let descending = column.descending;
        let (what, kind, statistics) = match (&column.expression, keys) {
            (None, _) => {
                let Column { id, kind, .. } = &table.columns[table.column(&column.name)?];
                (What::Column(&column.name), kind, statistics.and_then(|known| known.column(*id)))
            }
            (Some(expression), Some(keys)) => (What::Expression(keys.expressions.get(n)?.as_ref()?), &expression.kind, None),
            (Some(_), None) => return None,
        };
        let encode = move |value: &Value| {
            let mut out = Vec::new();
            encode_indexed(&mut out, value, descending);
            out
        };
        Some(Part { what, kind, encode: Box::new(encode), descending, statistics })
    };
    let parts = index.columns.iter().enumerate().map(part).collect::<Option<Vec<_>>>()?;
    let mut path = range(&parts, index.prefix(&[]), filters);
    path.pushed.extend(predicate.iter().map(ToString::to_string));
    if !predicate.is_empty() {
        path.share *= PARTIAL;
    }
    let single = index.unique && path.equal == index.columns.len();
    (!path.pushed.is_empty()).then(|| Path { index: Some(index.name.clone()), single, ..path })
}

impl RowProvider {
    /// The cheapest way to the rows, as far as conditions and statistics tell; of equally cheap ones the primary key.
    fn path(&self, filters: &[Expr]) -> Path {
        let statistics = self.statistics.as_deref();
        let mut best = by_key(&self.table, statistics, filters);
        for index in self.indexes() {
            if let Some(path) = by_index(&self.table, statistics, index, filters)
                && path.cost() < best.cost()
            {
                best = path;
            }
        }
        best
    }

    fn note_reads(&self, path: &Path) {
        if let Some((table, transaction)) = &self.within {
            match path.single && path.index.is_none() {
                true => transaction.has_read(Key::Row(*table, &path.from)),
                false => transaction.has_read(Key::Table(*table)),
            }
        }
    }
}

impl Source for RowProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn pushdown(&self, filter: &Expr) -> TableProviderFilterPushDown {
        let is_key = |name: &str| self.table.primary_key.iter().any(|at| self.table.columns[*at].name == name);
        let is_indexed = |name: &str| self.indexes().any(|index| index.columns.iter().any(|column| column.name == name));
        let used = comparison(filter).is_some_and(|found| is_key(found.column) || is_indexed(found.column))
            || self.indexes().filter_map(planned).any(|keys| {
                let of_expression = compared(filter).is_some_and(|(what, ..)| {
                    keys.expressions.iter().flatten().any(|expression| What::Expression(expression).is(what))
                });
                of_expression || keys.predicate.contains(&unqualified(filter))
            });
        if used { TableProviderFilterPushDown::Inexact } else { TableProviderFilterPushDown::Unsupported }
    }

    fn scan(&self, projection: Vec<usize>, schema: &SchemaRef, filters: &[Expr]) -> Arc<dyn Scan> {
        let path = self.path(filters);
        self.note_reads(&path);
        let counted = || self.parts.iter().map(|(rows, _)| rows.rows_about()).sum();
        let rows = self.statistics.as_ref().map_or_else(counted, |known| known.rows);
        let known = |at: &usize| {
            let known = self.statistics.as_ref()?.column(self.table.columns[*at].id)?;
            Some((known.distinct, known.nulls))
        };
        let estimate = Estimate::new(rows, path.share, projection.iter().map(known).collect());
        Arc::new(RowScan {
            name: self.name.clone(),
            parts: self.parts.clone(),
            projection,
            path,
            estimate,
            overlay: self.within.as_ref().and_then(|(table, transaction)| transaction.view(*table)),
            columns: schema.fields().iter().map(|field| field.name().clone()).collect(),
        })
    }
}

struct RowScan {
    name: String,
    parts: Vec<(RowTable, Offset)>,
    projection: Vec<usize>,
    path: Path,
    estimate: Estimate,
    overlay: Option<Arc<Overlay>>,
    columns: Vec<String>,
}

impl Scan for RowScan {
    fn run(&self, partition: usize, bounds: Bounds, emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>) -> Result<()> {
        let Some((table, cut)) = self.parts.get(partition) else { return Ok(()) };
        let request = ScanRequest {
            projection: self.projection.clone(),
            from: self.path.from.clone(),
            until: self.path.until.clone(),
            by_index: self.path.index.is_some(),
            overlay: self.overlay.clone(),
            limit: bounds.limit,
            cut: *cut,
            batch_rows: bounds.batch_rows,
        };
        table.scan(&request, emit).map_err(Error::from)
    }

    fn partitions(&self) -> usize {
        self.parts.len()
    }

    fn estimate(&self) -> Option<&Estimate> {
        Some(&self.estimate)
    }

    fn describe(&self) -> String {
        let range = if self.path.pushed.is_empty() { "all".to_owned() } else { self.path.pushed.join(" AND ") };
        let by = self.path.index.as_ref().map_or("key range".to_owned(), |index| format!("index {index}"));
        format!("RowScan: {}, columns=[{}], {by}: {range}", self.name, self.columns.join(", "))
    }
}
