//! A view with `AS SELECT`: expressions over a record's columns and a condition, evaluated by DataFusion's physical expressions.
//!
//! Planned once when the view is opened; then run over each batch as a whole. Where a batch fails, its halves are tried, so that
//! just the records at fault become dead letters.
//!
//! # Not done
//! Joins, aggregates, several rows per record, and functions that are not deterministic: refused when the table is created.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{CastOptions, cast_with_options, filter_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, DataFusionError};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use docstore::SourceDocument;
use logcore::materialize::{Projection, Rejects, ViewError};
use logcore::{Batch, Offset, Record};
use rowstore::key::encode_key;
use rowstore::value::encode_row;
use rowstore::{Column, ColumnType, RowChange, TableSchema, Value};
use tsstore::Points;

use super::mapping::records_from;
use crate::error::{Error, Result};
use crate::provider::scan::SourceTable;
use crate::provider::stream::{STREAM_SCHEMA, StreamProvider, records_batch};
use crate::render;
use crate::session;
use crate::sql::assign::convert;
use crate::sql::input::Conversion;
use crate::sql::parse::{Statement, parse};

/// A planned projection.
#[derive(Clone)]
pub struct SelectProjection {
    partition: u32,
    columns: Vec<(Arc<dyn PhysicalExpr>, String)>,
    condition: Option<Arc<dyn PhysicalExpr>>,
    /// What the table wants; none: whatever the expressions give.
    target: Option<Arc<TableSchema>>,
    /// The columns of the stream that are used.
    used: Vec<usize>,
}

/// Rows with the offset that each came from.
struct Projected {
    offsets: Vec<Offset>,
    columns: RecordBatch,
}

impl SelectProjection {
    /// Plans `select` over the stream named `stream`, for a table with the columns of `target`.
    ///
    /// # Errors
    /// What is wrong with the query, and that it is more than a projection.
    pub async fn plan(base: &SessionState, select: &str, stream: &str, target: Option<Arc<TableSchema>>) -> Result<Self> {
        let Some(Statement::Sql(statement)) = parse(select, 1)?.pop() else { return Err(Error::syntax("AS needs a SELECT")) };
        let mut statement = *statement;
        let mut catalog = crate::catalog::CatalogState::initial();
        catalog.apply(crate::catalog::CatalogRecord::StreamCreated(crate::catalog::StreamDef {
            id: u32::MAX - 1,
            name: stream.to_owned(),
            partitions: 1,
            options: crate::catalog::StreamOptions::default(),
        }));
        let uses = crate::sql::rewrite::rewrite(&mut statement, &catalog)?;
        if uses.tables.iter().any(|table| table.name != stream || table.as_of.is_some() || table.changes.is_some()) {
            return Err(Error::unsupported(format!("the SELECT of a view reads its stream \"{stream}\" and nothing else")));
        }
        let provider: Arc<dyn datafusion::catalog::TableProvider> =
            Arc::new(SourceTable(StreamProvider::new(stream, Vec::new())));
        let state = session::with_tables(base, [(stream.to_owned(), provider)].into(), vec![stream.to_owned()]);
        let plan = state.statement_to_plan(datafusion::sql::parser::Statement::Statement(Box::new(statement))).await?;
        let (columns, condition, input) = take_apart(&plan)?;
        if let Some(target) = &target
            && target.columns.len() != columns.len()
        {
            let (wanted, found) = (target.columns.len(), columns.len());
            return Err(Error::invalid(format!("the table has {wanted} columns, the SELECT gives {found}")));
        }
        let physical = |expr: &Expr| -> Result<Arc<dyn PhysicalExpr>> {
            only_deterministic(expr)?;
            Ok(state.create_physical_expr(simplified(&state, expr.clone().unalias(), &input)?, &input)?)
        };
        let named = |expr: &Expr| Ok((physical(expr)?, expr.schema_name().to_string()));
        let used = (0..STREAM_SCHEMA.fields().len()).collect();
        Ok(Self {
            partition: 0,
            columns: columns.iter().map(named).collect::<Result<_>>()?,
            condition: condition.as_ref().map(physical).transpose()?,
            target,
            used,
        })
    }

    /// The projection for one partition.
    #[must_use]
    pub fn for_partition(&self, partition: u32) -> Self {
        Self { partition, ..self.clone() }
    }

    fn run(&self, records: &[Record<'_>], rejects: &mut Rejects) -> Result<Vec<Projected>, ViewError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        match self.evaluate(records) {
            Ok(projected) => Ok(vec![projected]),
            Err(error) => match records {
                [only] => {
                    rejects.push(only.offset, Error::from(error).message());
                    Ok(Vec::new())
                }
                _ => {
                    let (front, back) = records.split_at(records.len() / 2);
                    let mut projected = self.run(front, rejects)?;
                    projected.extend(self.run(back, rejects)?);
                    Ok(projected)
                }
            },
        }
    }

    fn evaluate(&self, records: &[Record<'_>]) -> Result<Projected, DataFusionError> {
        let external = |error: Error| DataFusionError::External(Box::new(error));
        let mut input = records_batch(self.partition, records, &self.used).map_err(external)?;
        let mut offsets: Vec<Offset> = records.iter().map(|record| record.offset).collect();
        if let Some(condition) = &self.condition {
            let mask = condition.evaluate(&input)?.into_array(input.num_rows())?;
            let mask = datafusion::common::cast::as_boolean_array(&mask)?;
            offsets = kept(&offsets, mask);
            input = filter_record_batch(&input, mask)?;
        }
        let array = |(expr, _): &(Arc<dyn PhysicalExpr>, String)| expr.evaluate(&input)?.into_array(input.num_rows());
        let arrays = self.columns.iter().map(array).collect::<Result<Vec<_>, _>>()?;
        let columns = match &self.target {
            Some(target) => fit(arrays, target)?,
            None => RecordBatch::try_from_iter_with_nullable(
                self.columns.iter().map(|(_, name)| name.clone()).zip(arrays).map(|(name, array)| (name, array, true)),
            )?,
        };
        Ok(Projected { offsets, columns })
    }
}

fn kept(offsets: &[Offset], mask: &BooleanArray) -> Vec<Offset> {
    offsets.iter().enumerate().filter(|(at, _)| mask.is_valid(*at) && mask.value(*at)).map(|(_, offset)| *offset).collect()
}

fn fit(arrays: Vec<ArrayRef>, target: &TableSchema) -> Result<RecordBatch, DataFusionError> {
    let schema: SchemaRef = target.arrow();
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let cast = |((array, field), column): ((ArrayRef, &Arc<datafusion::arrow::datatypes::Field>), &Column)| {
        // What Arrow's type says of a column is not all: lengths, UUIDs, arrays written as text.
        let array = match column.kind.metadata().is_some() || matches!(column.kind, ColumnType::Array(_)) {
            true => convert(&array, &column.kind, Conversion::Assignment)
                .map_err(|error| DataFusionError::External(Box::new(error)))?,
            false => cast_with_options(&array, field.data_type(), &strict)?,
        };
        if !field.is_nullable() && array.null_count() > 0 {
            let error = Error::invalid(format!("column \"{}\" may not be null", field.name()));
            return Err(DataFusionError::External(Box::new(error)));
        }
        Ok(array)
    };
    let columns = arrays.into_iter().zip(schema.fields()).zip(&target.columns).map(cast).collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// Expressions and condition of a plan that is a projection over, perhaps, a filter over the stream.
fn take_apart(plan: &LogicalPlan) -> Result<(Vec<Expr>, Option<Expr>, DFSchemaRef)> {
    let more = || {
        Error::unsupported("the SELECT of a view may have expressions and WHERE, nothing else yet")
            .hint("joins, aggregates, DISTINCT, ORDER BY, LIMIT and unnest are not supported in a view")
    };
    let LogicalPlan::Projection(projection) = plan else { return Err(more()) };
    let (input, condition) = match &*projection.input {
        LogicalPlan::Filter(filter) => (&filter.input, Some(filter.predicate.clone())),
        _ => (&projection.input, None),
    };
    match &**input {
        LogicalPlan::TableScan(_) => {}
        LogicalPlan::SubqueryAlias(alias) if matches!(&*alias.input, LogicalPlan::TableScan(_)) => {}
        _ => return Err(more()),
    }
    Ok((projection.expr.clone(), condition, Arc::clone(input.schema())))
}

fn only_deterministic(expr: &Expr) -> Result<()> {
    let mut wrong = None;
    expr.apply(|expr| {
        if let Expr::ScalarFunction(function) = expr
            && function.func.signature().volatility != Volatility::Immutable
        {
            wrong = Some(function.func.name().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match wrong {
        None => Ok(()),
        Some(name) => Err(Error::unsupported(format!("{name}() gives another result at a rebuild and can't be in a view"))
            .hint("use the record's own columns, such as timestamp")),
    }
}

/// An expression as DataFusion's simplifier leaves it.
pub(super) fn simplified(state: &SessionState, expr: Expr, schema: &DFSchemaRef) -> Result<Expr> {
    use datafusion::logical_expr::simplify::SimplifyContext;
    use datafusion::optimizer::simplify_expressions::ExprSimplifier;
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(schema))
        .with_config_options(Arc::clone(state.config_options()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    Ok(simplifier.simplify(simplifier.coerce(expr, schema)?)?)
}

impl Projection<Vec<RowChange>> for SelectProjection {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Vec<RowChange>, ViewError> {
        let records = records_from(batch, from, rejects);
        let schema = Arc::clone(self.target.as_ref().expect("row tables have columns"));
        let mut changes = Vec::new();
        for Projected { offsets, columns } in self.run(&records, rejects)? {
            for (row, offset) in offsets.into_iter().enumerate() {
                let values = columns.columns().iter().zip(&schema.columns);
                let values: Vec<Value> = values.map(|(array, column)| Value::from_array(array, row, &column.kind)).collect();
                match encode_key(&values, &schema) {
                    Ok(key) => {
                        changes.push(RowChange { offset, key, value: Some(encode_row(&values, &schema)), truncates: false })
                    }
                    Err(error) => rejects.push(offset, error.to_string()),
                }
            }
        }
        Ok(changes)
    }
}

impl Projection<Points> for SelectProjection {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Points, ViewError> {
        let records = records_from(batch, from, rejects);
        let schema = self.target.as_ref().expect("series tables have columns").arrow();
        let parts = self.run(&records, rejects)?;
        let columns = datafusion::arrow::compute::concat_batches(&schema, parts.iter().map(|part| &part.columns))?;
        Ok(Points { offsets: parts.into_iter().flat_map(|part| part.offsets).collect(), columns })
    }
}

/// A document made of the columns of a projection; its id is one of them or the record's key.
pub struct SelectDocuments {
    /// The projection.
    pub select: SelectProjection,
    /// The column that is the id; none: the record's key.
    pub key: Option<String>,
}

impl Projection<Vec<SourceDocument>> for SelectDocuments {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Vec<SourceDocument>, ViewError> {
        let records = records_from(batch, from, rejects);
        let mut documents = Vec::new();
        for Projected { offsets, columns } in self.select.run(&records, rejects)? {
            let schema = columns.schema();
            for (row, offset) in offsets.into_iter().enumerate() {
                let mut object = serde_json::Map::new();
                for (field, column) in schema.fields().iter().zip(columns.columns()) {
                    object.insert(field.name().clone(), render::json_value(field, column, row));
                }
                let id = match &self.key {
                    Some(key) => {
                        object.get(key).filter(|id| !id.is_null()).map(|id| id.as_str().map_or(id.to_string(), str::to_owned))
                    }
                    None => {
                        let record = records.iter().find(|record| record.offset == offset);
                        record.and_then(|record| record.key).map(|key| String::from_utf8_lossy(key).into_owned())
                    }
                };
                match id {
                    Some(id) => {
                        let json = Some(serde_json::Value::Object(object).to_string().into_bytes());
                        documents.push(SourceDocument::new(offset, id, json));
                    }
                    None => rejects.push(offset, "the document has no id"),
                }
            }
        }
        Ok(documents)
    }
}
