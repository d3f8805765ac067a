//! Constants beside columns, read as PostgreSQL reads them: in `id = 'A0EE...'` the text becomes the column's type first.
//!
//! DataFusion knows columns of UUID and CHAR as text, compares booleans and arrays with nothing but their like, and makes text of a
//! number that is compared with text. So texts that stand beside a value of another type in a comparison, IN or BETWEEN are
//! converted before it looks at types.
//!
//! Intervals are compared and sorted by their length here; see [`super::interval`].
//!
//! Registered in [`crate::session`], as a rule that sees parameters too, and as a planner for what otherwise does not plan.

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::BinaryOperator;
use rowstore::ColumnType;
use rowstore::schema::KIND_METADATA;
use rowstore::value::build_column;

use super::input::{self, Conversion};
use super::interval::{self, ordered};

/// The type that a constant beside values of `field` is read as; `None` where DataFusion does it.
fn constant_type(field: &Field) -> Option<ColumnType> {
    let named = field.metadata().get(KIND_METADATA).map(String::as_str);
    match (field.data_type(), named) {
        (DataType::Utf8, Some("uuid")) => Some(ColumnType::Uuid),
        // Of any length: only the blanks at the end go.
        (DataType::Utf8, Some(named)) if named.starts_with("character(") => Some(ColumnType::Char { length: u32::MAX }),
        (DataType::List(_), Some("uuid[]")) => Some(ColumnType::Array(Box::new(ColumnType::Uuid))),
        (DataType::List(item), _) => scalar_type(item.data_type()).map(|element| ColumnType::Array(Box::new(element))),
        (other, _) => scalar_type(other),
    }
}

fn scalar_type(kind: &DataType) -> Option<ColumnType> {
    [
        ColumnType::Boolean,
        ColumnType::SmallInt,
        ColumnType::Integer,
        ColumnType::BigInt,
        ColumnType::Real,
        ColumnType::Double,
        ColumnType::Text,
        ColumnType::Bytea,
        ColumnType::Date,
        ColumnType::Time,
        ColumnType::Timestamp,
        ColumnType::TimestampTz,
        ColumnType::Interval,
    ]
    .into_iter()
    .find(|element| element.arrow() == *kind)
    .or(match kind {
        DataType::Decimal128(precision, scale) => Some(ColumnType::Numeric { precision: *precision, scale: *scale }),
        _ => None,
    })
}

/// A text constant becomes one of the type it is compared with.
fn read_constant(constant: &mut Expr, beside: &FieldRef) -> Result<bool> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = constant else { return Ok(false) };
    let Some(kind) = constant_type(beside) else { return Ok(false) };
    let external = |error: crate::Error| DataFusionError::External(Box::new(error));
    let value = input::parse(text, &kind, Conversion::Explicit).map_err(external)?;
    let array = build_column(&kind, [value].iter()).map_err(|error| external(error.into()))?;
    let scalar = ScalarValue::try_from_array(&array, 0)?;
    let changed = !matches!(constant, Expr::Literal(was, _) if *was == scalar);
    *constant = Expr::Literal(scalar, None);
    Ok(changed)
}

fn field_of(expr: &Expr, schema: &DFSchema) -> Option<FieldRef> {
    match expr {
        Expr::Literal(..) | Expr::Placeholder(_) => None,
        expr => expr.to_field(schema).ok().map(|(_, field)| field),
    }
}

fn compares(operator: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn is_interval(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|kind| interval::is_interval(&kind))
}

fn read_constants(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let mut expr = expr;
    let mut changed = false;
    match &mut expr {
        Expr::BinaryExpr(binary) if compares(binary.op) => {
            if let Some(field) = field_of(&binary.left, schema) {
                changed |= read_constant(&mut binary.right, &field)?;
            }
            if let Some(field) = field_of(&binary.right, schema) {
                changed |= read_constant(&mut binary.left, &field)?;
            }
            if is_interval(&binary.left, schema) && is_interval(&binary.right, schema) {
                for side in [&mut binary.left, &mut binary.right] {
                    **side = ordered(std::mem::take(&mut **side));
                }
                changed = true;
            }
        }
        Expr::InList(list) => {
            if let Some(field) = field_of(&list.expr, schema) {
                for item in &mut list.list {
                    changed |= read_constant(item, &field)?;
                }
            }
        }
        Expr::Between(between) => {
            if let Some(field) = field_of(&between.expr, schema) {
                changed |= read_constant(&mut between.low, &field)? | read_constant(&mut between.high, &field)?;
            }
            if [&between.expr, &between.low, &between.high].into_iter().all(|part| is_interval(part, schema)) {
                for part in [&mut between.expr, &mut between.low, &mut between.high] {
                    **part = ordered(std::mem::take(&mut **part));
                }
                changed = true;
            }
        }
        _ => {}
    }
    Ok(if changed { Transformed::yes(expr) } else { Transformed::no(expr) })
}

/// See the module docs.
#[derive(Debug)]
pub struct ReadConstants;

impl AnalyzerRule for ReadConstants {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let each = |plan: LogicalPlan| {
            let mut schema = merge_schema(&plan.inputs());
            if let LogicalPlan::TableScan(scan) = &plan {
                schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
            }
            let names = NamePreserver::new(&plan);
            let sorts = matches!(plan, LogicalPlan::Sort(_));
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let read = expr.transform_up(|expr| read_constants(expr, &schema))?;
                if sorts && is_interval(&read.data, &schema) {
                    return Ok(Transformed::yes(ordered(read.data)));
                }
                Ok(read.update_data(|expr| name.restore(expr)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        };
        Ok(plan.transform_up_with_subqueries(each)?.data)
    }

    fn name(&self) -> &'static str {
        "read_constants"
    }
}

impl ExprPlanner for ReadConstants {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        let mut expr = expr;
        if matches!(expr.op, Eq | NotEq | Lt | LtEq | Gt | GtEq) {
            if let Some(field) = field_of(&expr.left, schema) {
                read_constant(&mut expr.right, &field)?;
            } else if let Some(field) = field_of(&expr.right, schema) {
                read_constant(&mut expr.left, &field)?;
            }
        }
        Ok(PlannerResult::Original(expr))
    }
}
