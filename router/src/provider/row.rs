//! A row table at a cut: conditions on the primary key become a range of keys.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown};
use logcore::Offset;
use rowstore::key::{after_prefix, encode_part};
use rowstore::value::uuid_text;
use rowstore::{ColumnType, RowTable, ScanRequest, TableSchema, Value};

use super::filter::comparison;
use super::scan::{Bounds, Scan, Source};
use crate::error::{Error, Result};

/// See the module docs.
pub struct RowProvider {
    name: String,
    parts: Vec<(RowTable, Offset)>,
    table: Arc<TableSchema>,
    schema: SchemaRef,
}

impl RowProvider {
    /// The table's partitions, each with the cut it is read at.
    #[must_use]
    pub fn new(name: &str, table: Arc<TableSchema>, parts: Vec<(RowTable, Offset)>) -> Self {
        Self { name: name.to_owned(), parts, schema: table.arrow(), table }
    }
}

impl std::fmt::Debug for RowProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rows of {}", self.name)
    }
}

/// A range of encoded keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KeyRange {
    from: Vec<u8>,
    until: Option<Vec<u8>>,
    /// Conditions that went into it, for EXPLAIN.
    pushed: Vec<String>,
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

/// The range that holds every key for which all `filters` can be true.
fn key_range(table: &TableSchema, filters: &[Expr]) -> KeyRange {
    let mut range = KeyRange::default();
    let mut prefix = Vec::new();
    for at in &table.primary_key {
        let column = &table.columns[*at];
        let conditions: Vec<(Operator, Vec<u8>, &Expr)> = filters
            .iter()
            .filter_map(|filter| {
                let found = comparison(filter).filter(|found| found.column == column.name)?;
                if found.value.data_type() != column.kind.arrow() || !compares_as_keys(&column.kind) {
                    return None;
                }
                let constant = key_value(&column.kind, found.value)?;
                let mut part = Vec::new();
                encode_part(&mut part, &constant);
                Some((found.operator, part, filter))
            })
            .collect();
        if let Some((_, part, filter)) = conditions.iter().find(|(operator, ..)| *operator == Operator::Eq) {
            prefix.extend_from_slice(part);
            range.pushed.push(filter.to_string());
            continue;
        }
        let (mut from, mut until) = (prefix.clone(), after_prefix(&prefix));
        for (operator, part, filter) in &conditions {
            let bound = [&prefix[..], part].concat();
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
            range.pushed.push(filter.to_string());
        }
        (range.from, range.until) = (from, until);
        return range;
    }
    (range.until, range.from) = (after_prefix(&prefix), prefix);
    range
}

impl Source for RowProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn pushdown(&self, filter: &Expr) -> TableProviderFilterPushDown {
        let on_key = comparison(filter)
            .is_some_and(|found| self.table.primary_key.iter().any(|at| self.table.columns[*at].name == found.column));
        if on_key { TableProviderFilterPushDown::Inexact } else { TableProviderFilterPushDown::Unsupported }
    }

    fn scan(&self, projection: Vec<usize>, schema: &SchemaRef, filters: &[Expr]) -> Arc<dyn Scan> {
        Arc::new(RowScan {
            name: self.name.clone(),
            parts: self.parts.clone(),
            projection,
            range: key_range(&self.table, filters),
            columns: schema.fields().iter().map(|field| field.name().clone()).collect(),
        })
    }
}

struct RowScan {
    name: String,
    parts: Vec<(RowTable, Offset)>,
    projection: Vec<usize>,
    range: KeyRange,
    columns: Vec<String>,
}

impl Scan for RowScan {
    fn run(&self, partition: usize, bounds: Bounds, emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>) -> Result<()> {
        let Some((table, cut)) = self.parts.get(partition) else { return Ok(()) };
        let request = ScanRequest {
            projection: self.projection.clone(),
            from: self.range.from.clone(),
            until: self.range.until.clone(),
            limit: bounds.limit,
            cut: *cut,
            batch_rows: bounds.batch_rows,
        };
        table.scan(&request, emit).map_err(Error::from)
    }

    fn partitions(&self) -> usize {
        self.parts.len()
    }

    fn describe(&self) -> String {
        let key = if self.range.pushed.is_empty() { "all".to_owned() } else { self.range.pushed.join(" AND ") };
        format!("RowScan: {}, columns=[{}], key range: {key}", self.name, self.columns.join(", "))
    }
}
