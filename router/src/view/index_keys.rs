//! What indexes with expressions or a predicate have of a row: planned once by DataFusion, then evaluated row by row.
//!
//! The plan is kept in the index itself (`rowstore::Computed`), so that whoever has the table's definition has it too: the view that
//! keeps the entries, changes that look for equal ones, and [`crate::provider::row`], which compares the expressions with the
//! conditions of a query. Both go through the same rules, so what is written alike is found.
//!
//! # Not done
//! Evaluating many rows at once: a row costs a few microseconds for each expression.

use std::any::Any;
use std::error::Error as StdError;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, DataFusionError};
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use futures::FutureExt;
use logcore::ErrorKind;
use rowstore::schema::KIND_METADATA;
use rowstore::value::build_column;
use rowstore::{ColumnType, Compute, Index, TableSchema, Value};

use super::select::simplified;
use crate::catalog::{CatalogRecord, CatalogState, StreamDef, StreamOptions};
use crate::error::{Error, Result, sqlstate};
use crate::session;
use crate::sql::names::name_columns;
use crate::sql::parse::{Statement, parse};
use crate::sql::rewrite::rewrite;

/// What the row is called while its expressions are planned.
const ROW: &str = "headwater_row";

/// A planned index.
pub struct IndexKeys {
    /// Of each column of the index: the expression, without the table's name; none: a plain column.
    pub expressions: Vec<Option<Expr>>,
    /// What must all be true of a row that is in the index.
    pub predicate: Vec<Expr>,
    parts: Vec<Part>,
    condition: Option<Arc<dyn PhysicalExpr>>,
    /// The columns that are needed: positions, and how they are laid out.
    used: Vec<(usize, ColumnType)>,
    schema: Arc<Schema>,
    /// A row of NULL: what stands in the other columns, since columns are found by position.
    blank: Vec<ArrayRef>,
}

enum Part {
    Column(usize),
    Computed(Arc<dyn PhysicalExpr>, ColumnType),
}

/// An expression without the names of tables, to be compared with another.
#[must_use]
pub fn unqualified(expr: &Expr) -> Expr {
    let bare = |expr: Expr| match expr {
        Expr::Column(column) if column.relation.is_some() => {
            Ok(Transformed::yes(Expr::Column(datafusion::common::Column::from_name(column.name))))
        }
        other => Ok::<_, DataFusionError>(Transformed::no(other)),
    };
    expr.clone().transform(bare).map(|done| done.data).unwrap_or_else(|_| expr.clone())
}

/// Plans the indexes of a table that need it and are not planned yet.
///
/// # Errors
/// When an expression does not plan any more.
pub fn prepare(base: &SessionState, schema: &TableSchema) -> Result<()> {
    for index in schema.indexes.iter().filter(|index| !index.is_plain() && index.computed.get().is_none()) {
        index.computed.set(Arc::new(plan(base, schema, index)?.0));
    }
    Ok(())
}

/// The plan of an index, if it has one.
#[must_use]
pub fn planned(index: &Index) -> Option<&IndexKeys> {
    index.computed.get()?.as_any().downcast_ref()
}

/// Plans a new index, and notes the types of its expressions.
///
/// # Errors
/// Expressions that do not plan, change with time, or are of a type that is not indexed; a predicate that is no condition.
pub fn define(base: &SessionState, schema: &TableSchema, index: &mut Index) -> Result<()> {
    let (_, kinds) = plan(base, schema, index)?;
    for (column, kind) in index.columns.iter_mut().zip(kinds) {
        if let (Some(expression), Some(kind)) = (&mut column.expression, kind) {
            expression.kind = kind;
        }
    }
    prepare_one(base, schema, index)
}

fn prepare_one(base: &SessionState, schema: &TableSchema, index: &Index) -> Result<()> {
    index.computed.set(Arc::new(plan(base, schema, index)?.0));
    Ok(())
}

fn plan(base: &SessionState, schema: &TableSchema, index: &Index) -> Result<(IndexKeys, Vec<Option<ColumnType>>)> {
    let table: Arc<dyn TableProvider> = Arc::new(MemTable::try_new(schema.arrow(), vec![vec![]])?);
    let state = session::with_tables(base, [(ROW.to_owned(), table)].into(), vec![ROW.to_owned()]);
    let mut catalog = CatalogState::initial();
    let options = StreamOptions::default();
    catalog.apply(CatalogRecord::StreamCreated(StreamDef { id: u32::MAX - 1, name: ROW.into(), partitions: 1, options }));
    let (mut expressions, mut kinds, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let mut input: Option<DFSchemaRef> = None;
    for column in &index.columns {
        let Some(expression) = &column.expression else {
            let at = schema.column(&column.name).ok_or_else(|| Error::internal("an index is of columns of its table"))?;
            parts.push(Part::Column(at));
            expressions.push(None);
            kinds.push(None);
            continue;
        };
        let (expr, of) = one(&state, &catalog, &expression.text)?;
        let kind = kind_of(&expr, &of, &expression.text)?;
        parts.push(Part::Computed(state.create_physical_expr(expr.clone(), &of)?, kind.clone()));
        expressions.push(Some(unqualified(&expr)));
        kinds.push(Some(kind));
        input = Some(of);
    }
    let (mut condition, mut predicate) = (None, Vec::new());
    if let Some(text) = &index.predicate {
        let (expr, of) = one(&state, &catalog, text)?;
        if expr.get_type(&of)? != DataType::Boolean {
            let message = format!("the predicate ({text}) of an index is not a condition");
            return Err(Error::new(sqlstate::DATATYPE_MISMATCH, ErrorKind::Invalid, message));
        }
        predicate = split_conjunction(&expr).into_iter().map(unqualified).collect();
        condition = Some(state.create_physical_expr(expr, &of)?);
        input = Some(of);
    }
    let input = input.ok_or_else(|| Error::internal("only an index that is not plain is planned"))?;
    let mut used: Vec<usize> = Vec::new();
    let computed = parts.iter().filter_map(|part| match part {
        Part::Computed(expr, _) => Some(expr),
        Part::Column(_) => None,
    });
    for expr in computed.chain(&condition) {
        used.extend(collect_columns(expr).iter().map(|column| column.index()));
    }
    used.sort_unstable();
    used.dedup();
    let used = used.into_iter().map(|at| (at, schema.columns[at].kind.clone())).collect();
    let nullable = |field: &Arc<datafusion::arrow::datatypes::Field>| field.as_ref().clone().with_nullable(true);
    let shape = Arc::new(Schema::new(input.fields().iter().map(nullable).collect::<Vec<_>>()));
    let blank = shape.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    Ok((IndexKeys { expressions, predicate, parts, condition, used, schema: shape, blank }, kinds))
}

/// One expression over the table's row, as the planner leaves it.
fn one(state: &SessionState, catalog: &CatalogState, text: &str) -> Result<(Expr, DFSchemaRef)> {
    let Some(Statement::Sql(mut statement)) = parse(&format!("SELECT ({text}) FROM {ROW}"), 1)?.pop() else {
        return Err(Error::syntax(format!("{text} is not an expression")));
    };
    name_columns(&mut statement);
    rewrite(&mut statement, catalog)?;
    let statement = datafusion::sql::parser::Statement::Statement(statement);
    // Nothing is waited for: the only table is in memory.
    let plan = state.statement_to_plan(statement).now_or_never().ok_or_else(|| Error::internal("planning does not wait"))??;
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
    let LogicalPlan::Projection(projection) = &plan else { return Err(no_expression(text)) };
    if !matches!(&*projection.input, LogicalPlan::TableScan(_)) {
        return Err(no_expression(text));
    }
    let [expr] = &projection.expr[..] else { return Err(no_expression(text)) };
    let input = Arc::clone(projection.input.schema());
    let expr = simplified(state, expr.clone().unalias(), &input)?;
    let mut changes = None;
    expr.apply(|expr| {
        if let Expr::ScalarFunction(function) = expr
            && function.func.signature().volatility != Volatility::Immutable
        {
            changes = Some(function.func.name().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match changes {
        None => Ok((expr, input)),
        Some(name) => {
            let message = format!("{name}() in an index must always give the same for the same row");
            Err(Error::new(sqlstate::INVALID_OBJECT_DEFINITION, ErrorKind::Invalid, message))
        }
    }
}

fn no_expression(text: &str) -> Error {
    Error::unsupported(format!("({text}) can't be in an index")).hint("use columns, operators and functions of one row")
}

fn kind_of(expr: &Expr, input: &DFSchemaRef, text: &str) -> Result<ColumnType> {
    let (_, field) = expr.to_field(input)?;
    if field.metadata().contains_key(KIND_METADATA) {
        // The bytes of such a text would be those of its type, which a condition does not have.
        return Err(Error::unsupported(format!(
            "an index on ({text}) is not supported yet: its values are of a type of their own"
        ))
        .hint("cast it to TEXT"));
    }
    Ok(match field.data_type() {
        DataType::Boolean => ColumnType::Boolean,
        DataType::Int16 => ColumnType::SmallInt,
        DataType::Int32 => ColumnType::Integer,
        DataType::Int64 => ColumnType::BigInt,
        DataType::Float32 => ColumnType::Real,
        DataType::Float64 => ColumnType::Double,
        DataType::Decimal128(precision, scale) => ColumnType::Numeric { precision: *precision, scale: *scale },
        DataType::Utf8 => ColumnType::Text,
        DataType::Date32 => ColumnType::Date,
        DataType::Timestamp(TimeUnit::Microsecond, None) => ColumnType::Timestamp,
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => ColumnType::TimestampTz,
        other => {
            return Err(Error::unsupported(format!("an index on ({text}), of type {other}, is not supported yet"))
                .hint("cast it to another type"));
        }
    })
}

impl IndexKeys {
    fn run(&self, values: &[Value]) -> Result<Option<Vec<Value>>, DataFusionError> {
        let external = |error: rowstore::Error| DataFusionError::External(Box::new(Error::from(error)));
        let mut columns = self.blank.clone();
        for (at, kind) in &self.used {
            columns[*at] = build_column(kind, [&values[*at]].into_iter()).map_err(external)?;
        }
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        if let Some(condition) = &self.condition {
            let answer = condition.evaluate(&row)?.into_array(1)?;
            if !answer.as_boolean_opt().is_some_and(|answer| answer.is_valid(0) && answer.value(0)) {
                return Ok(None);
            }
        }
        let value = |part: &Part| match part {
            Part::Column(at) => Ok(values[*at].clone()),
            Part::Computed(expr, kind) => Ok(Value::from_array(&expr.evaluate(&row)?.into_array(1)?, 0, kind)),
        };
        self.parts.iter().map(value).collect::<Result<_, DataFusionError>>().map(Some)
    }
}

impl Compute for IndexKeys {
    fn compute(&self, values: &[Value]) -> Result<Option<Vec<Value>>, Box<dyn StdError + Send + Sync>> {
        self.run(values).map_err(|error| Box::new(Error::from(error)) as Box<dyn StdError + Send + Sync>)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
