//! A series table at a cut: times and tags prune chunks and pages.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown};
use logcore::Offset;
use tsstore::{ScanRequest, SeriesSchema, SeriesSnapshot};

use super::filter::{comparison, micros, text_choice};
use super::scan::{Bounds, Scan, Source};
use crate::error::{Error, Result};

/// See the module docs.
pub struct SeriesProvider {
    name: String,
    series: SeriesSchema,
    parts: Vec<(SeriesSnapshot, Offset)>,
    schema: SchemaRef,
}

impl SeriesProvider {
    /// The table's partitions, each with the cut it is read at; `schema` is the store's.
    #[must_use]
    pub fn new(name: &str, series: SeriesSchema, schema: SchemaRef, parts: Vec<(SeriesSnapshot, Offset)>) -> Self {
        Self { name: name.to_owned(), series, parts, schema }
    }

    /// Puts a condition into the request; `false` when it is none for the store.
    fn push(&self, expr: &Expr, request: &mut ScanRequest) -> bool {
        if let Some((column, values)) = text_choice(expr)
            && self.series.tags.iter().any(|tag| tag == column)
        {
            request.tags.push((column.to_owned(), values));
            return true;
        }
        let Some(found) = comparison(expr).filter(|found| found.column == self.series.time) else { return false };
        let Some(at) = micros(found.value) else { return false };
        let (from, until) = match found.operator {
            Operator::GtEq => (Some(at), None),
            Operator::Gt => (at.checked_add(1), None),
            Operator::Lt => (None, Some(at)),
            Operator::LtEq => (None, at.checked_add(1)),
            Operator::Eq => (Some(at), at.checked_add(1)),
            _ => return false,
        };
        if from.is_none() && until.is_none() {
            return false;
        }
        request.time_from = request.time_from.max(from);
        request.time_until = match (request.time_until, until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        true
    }
}

impl std::fmt::Debug for SeriesProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "points of {}", self.name)
    }
}

impl Source for SeriesProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn pushdown(&self, filter: &Expr) -> TableProviderFilterPushDown {
        match self.push(filter, &mut ScanRequest::default()) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Unsupported,
        }
    }

    fn scan(&self, projection: Vec<usize>, _schema: &SchemaRef, filters: &[Expr]) -> Arc<dyn Scan> {
        let mut request = ScanRequest { projection, ..ScanRequest::default() };
        for filter in filters {
            self.push(filter, &mut request);
        }
        Arc::new(SeriesScan { name: self.name.clone(), parts: self.parts.clone(), request })
    }
}

struct SeriesScan {
    name: String,
    parts: Vec<(SeriesSnapshot, Offset)>,
    request: ScanRequest,
}

impl Scan for SeriesScan {
    fn run(&self, partition: usize, bounds: Bounds, emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>) -> Result<()> {
        let Some((part, cut)) = self.parts.get(partition) else { return Ok(()) };
        let request =
            ScanRequest { limit: bounds.limit, batch_rows: bounds.batch_rows, until_offset: Some(*cut), ..self.request.clone() };
        part.scan(&request, emit).map(drop).map_err(Error::from)
    }

    fn partitions(&self) -> usize {
        self.parts.len()
    }

    fn describe(&self) -> String {
        let ScanRequest { time_from, time_until, tags, projection, .. } = &self.request;
        format!("SeriesScan: {}, columns={projection:?}, time={time_from:?}..{time_until:?}, tags={tags:?}", self.name)
    }
}
