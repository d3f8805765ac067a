//! A document table at a cut: full-text conditions, ids and facets are answered by the index; ordering by score with a limit is
//! a top-k in it.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use docstore::{DocumentSnapshot, Mapping, ScanColumn, ScanFilter};

use super::filter::{literal_text, text_choice};
use super::scan::{Bounds, Scan, Source};
use crate::error::{Error, Result};
use crate::functions::CONTAINS;
use crate::sql::rewrite::SCORE_COLUMN;

/// See the module docs.
pub struct DocumentProvider {
    name: String,
    mapping: Mapping,
    parts: Vec<DocumentSnapshot>,
    schema: SchemaRef,
}

impl DocumentProvider {
    /// The table's partitions at their cut; `score` adds the column that `score()` stands for.
    #[must_use]
    pub fn new(name: &str, mapping: Mapping, parts: Vec<DocumentSnapshot>, score: bool) -> Self {
        let mut fields: Vec<Arc<Field>> = DocumentSnapshot::schema(&mapping).fields().iter().cloned().collect();
        if score {
            fields.push(Arc::new(Field::new(SCORE_COLUMN, DataType::Float32, true)));
        }
        Self { name: name.to_owned(), mapping, parts, schema: Arc::new(Schema::new(fields)) }
    }

    /// The index's condition that stands for `expr`, if there is one.
    fn filter(&self, expr: &Expr) -> Option<ScanFilter> {
        if let Expr::ScalarFunction(ScalarFunction { func, args }) = expr
            && func.name() == CONTAINS
            && let [field, query] = &args[..]
        {
            let fields = match field {
                Expr::Column(column) => Some(vec![column.name.clone()]),
                other if literal_text(other).as_deref() == Some("*") => None,
                _ => return None,
            };
            return Some(ScanFilter::Text { fields, query: literal_text(query)? });
        }
        let (column, mut values) = text_choice(expr)?;
        if column == "_id" {
            return Some(ScanFilter::Ids(values));
        }
        let facet = self.mapping.is_facet(column) && values.len() == 1;
        facet.then(|| ScanFilter::FacetEquals { path: column.to_owned(), value: values.remove(0) })
    }
}

impl std::fmt::Debug for DocumentProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "documents of {}", self.name)
    }
}

impl Source for DocumentProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn pushdown(&self, filter: &Expr) -> TableProviderFilterPushDown {
        match self.filter(filter) {
            Some(filter) if filter.is_exact() => TableProviderFilterPushDown::Exact,
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        }
    }

    fn scan(&self, _projection: Vec<usize>, schema: &SchemaRef, filters: &[Expr]) -> Arc<dyn Scan> {
        let column = |field: &Arc<Field>| match field.name().as_str() {
            "_id" => ScanColumn::Id,
            "doc" => ScanColumn::Doc,
            SCORE_COLUMN => ScanColumn::Score,
            path => ScanColumn::Path(path.to_owned()),
        };
        let columns: Vec<ScanColumn> = schema.fields().iter().map(column).collect();
        let mut pushed: Vec<ScanFilter> = filters.iter().filter_map(|filter| self.filter(filter)).collect();
        let filter = if pushed.len() < 2 { pushed.pop() } else { Some(ScanFilter::And(pushed)) };
        Arc::new(DocumentScan { name: self.name.clone(), parts: self.parts.clone(), columns, filter })
    }
}

struct DocumentScan {
    name: String,
    parts: Vec<DocumentSnapshot>,
    columns: Vec<ScanColumn>,
    filter: Option<ScanFilter>,
}

impl Scan for DocumentScan {
    fn run(&self, partition: usize, bounds: Bounds, emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>) -> Result<()> {
        let Some(part) = self.parts.get(partition) else { return Ok(()) };
        let Bounds { limit, by_score, batch_rows } = bounds;
        part.scan(self.filter.as_ref(), &self.columns, limit, by_score, batch_rows, emit).map_err(Error::from)
    }

    fn partitions(&self) -> usize {
        self.parts.len()
    }

    fn describe(&self) -> String {
        let filter = self.filter.as_ref().map_or("all".to_owned(), |filter| format!("{filter:?}"));
        format!("DocumentScan: {}, columns={:?}, index: {filter}", self.name, self.columns)
    }

    fn score_column(&self) -> Option<usize> {
        self.columns.iter().position(|column| *column == ScanColumn::Score)
    }
}
