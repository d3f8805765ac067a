//! Types and operators as PostgreSQL reads them, before DataFusion coerces types.
//!
//! # Not done
//! Inside a recursive CTE whole numbers stay BIGINT: the type of its working table is fixed before this runs.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator, Union, Values};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::{arithmetic, functions};

/// Functions whose result has the type of their arguments: there a literal is an integer too.
const SAME_TYPE: [&str; 7] = ["coalesce", "greatest", "least", "nullif", "abs", "make_array", "mod"];
/// Digits behind the point of an average of integers.
const AVERAGE_SCALE: i8 = 12;

/// See the module docs.
#[derive(Debug)]
pub(super) struct Operators;

impl AnalyzerRule for Operators {
    fn name(&self) -> &str {
        "postgres_operators"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let recursion = std::cell::Cell::new(0_usize);
        let down = |plan: LogicalPlan| {
            if matches!(plan, LogicalPlan::RecursiveQuery(_)) {
                recursion.set(recursion.get() + 1);
            }
            Ok(Transformed::no(plan))
        };
        let up = |plan: LogicalPlan| {
            if matches!(plan, LogicalPlan::RecursiveQuery(_)) {
                recursion.set(recursion.get() - 1);
                return Ok(Transformed::no(plan));
            }
            node(plan, recursion.get() == 0)
        };
        let plan = plan.transform_down_up_with_subqueries(down, up)?.data;
        Ok(plan.transform_up_with_subqueries(outer_types)?.data)
    }
}

fn scope(plan: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    Ok(schema)
}

fn node(plan: LogicalPlan, literals: bool) -> Result<Transformed<LogicalPlan>> {
    let plan = match plan {
        LogicalPlan::Union(union) => LogicalPlan::Union(Union::try_new_with_loose_types(union.inputs)?),
        other => other,
    };
    match plan {
        LogicalPlan::Limit(_) => return Ok(Transformed::no(plan)),
        LogicalPlan::Values(values) if literals => return Ok(Transformed::yes(LogicalPlan::Values(narrow_values(values)?))),
        _ => {}
    }
    let schema = scope(&plan)?;
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(expr.transform_up(|expr| rewrite(expr, &schema, literals))?.update_data(|expr| name.restore(expr)))
    })?
    .map_data(LogicalPlan::recompute_schema)
}

fn rewrite(expr: Expr, schema: &DFSchema, literals: bool) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::Literal(ScalarValue::Int64(Some(value)), metadata) if literals => match i32::try_from(value) {
            Ok(value) => Transformed::yes(Expr::Literal(ScalarValue::Int32(Some(value)), metadata)),
            Err(_) => Transformed::no(Expr::Literal(ScalarValue::Int64(Some(value)), metadata)),
        },
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let types = (left.get_type(schema), right.get_type(schema));
            match types {
                (Ok(left_kind), Ok(right_kind)) if arithmetic::computes(&left_kind, op, &right_kind) => {
                    Transformed::yes(arithmetic::call(*left, op, *right))
                }
                // A date moves through midnight: PostgreSQL makes it a timestamp.
                (Ok(DataType::Date32), Ok(DataType::Interval(_))) if matches!(op, Operator::Plus | Operator::Minus) => {
                    let left = Box::new(midnight(*left));
                    Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
                }
                (Ok(DataType::Interval(_)), Ok(DataType::Date32)) if op == Operator::Plus => {
                    let right = Box::new(midnight(*right));
                    Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
                }
                _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            }
        }
        Expr::Negative(inner) => match inner.get_type(schema) {
            Ok(kind @ (DataType::Int16 | DataType::Int32 | DataType::Int64)) if !matches!(*inner, Expr::Literal(..)) => {
                let zero = Expr::Literal(ScalarValue::new_zero(&kind)?, None);
                Transformed::yes(arithmetic::call(zero, Operator::Minus, *inner))
            }
            _ => Transformed::no(Expr::Negative(inner)),
        },
        Expr::ScalarFunction(mut function) if function.func.name() == "round" && function.args.len() == 1 => {
            widen(&mut function.args);
            match function.args[0].get_type(schema) {
                Ok(DataType::Float64 | DataType::Float32) => Transformed::yes(functions::round_even(function.args.remove(0))),
                _ => Transformed::yes(Expr::ScalarFunction(function)),
            }
        }
        // 0.5 has no digit before its point, and 1 has one.
        Expr::ScalarFunction(mut function)
            if matches!(function.func.name(), "ceil" | "floor" | "round" | "trunc")
                && matches!(function.args[0].get_type(schema), Ok(DataType::Decimal128(..))) =>
        {
            // `round` wants its digits as an integer, and its type depends on seeing them at once.
            if function.func.name() != "round" {
                widen(&mut function.args);
            }
            if let Ok(DataType::Decimal128(precision @ ..38, scale)) = function.args[0].get_type(schema) {
                let wider = DataType::Decimal128(precision + 1, scale);
                function.args[0] = datafusion::logical_expr::cast(function.args[0].clone(), wider);
            }
            Transformed::yes(Expr::ScalarFunction(function))
        }
        Expr::ScalarFunction(mut function) if functions::must_be_finite(function.func.name()) => {
            widen(&mut function.args);
            let (name, args) = (function.func.name().to_owned(), function.args.clone());
            Transformed::yes(functions::finite(Expr::ScalarFunction(function), &name, &args))
        }
        // `AT TIME ZONE` of a moment is a time of the clock there; DataFusion makes it a cast, in nanoseconds.
        Expr::Cast(Cast { expr, field })
            if matches!(field.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, Some(_)))
                && matches!(expr.get_type(schema), Ok(DataType::Timestamp(_, Some(_)))) =>
        {
            let local = datafusion::functions::datetime::to_local_time();
            Transformed::yes(local.call(vec![Expr::Cast(Cast { expr, field })]))
        }
        Expr::ScalarFunction(mut function) if !SAME_TYPE.contains(&function.func.name()) => {
            widen(&mut function.args);
            Transformed::yes(Expr::ScalarFunction(function))
        }
        Expr::WindowFunction(mut function) => {
            widen(&mut function.params.args);
            if function.fun.name() == "sum" || function.fun.name() == "avg" {
                exact(function.fun.name() == "avg", &mut function.params.args, schema);
            }
            Transformed::yes(Expr::WindowFunction(function))
        }
        Expr::AggregateFunction(AggregateFunction { func, mut params }) => {
            match func.name() {
                "sum" => exact(false, &mut params.args, schema),
                "avg" => exact(true, &mut params.args, schema),
                "min" | "max" | "array_agg" | "count" => {}
                _ => widen(&mut params.args),
            }
            Transformed::yes(Expr::AggregateFunction(AggregateFunction { func, params }))
        }
        other => Transformed::no(other),
    })
}

/// A text literal beside a number or a truth value is one of its kind: `'5' + 1`, `active = 'yes'`.
#[derive(Debug)]
pub(super) struct UntypedLiterals;

impl ExprPlanner for UntypedLiterals {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, mut left, mut right } = expr;
        typed(&mut left, &op, &right, schema);
        typed(&mut right, &op, &left, schema);
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }
}

fn typed(literal: &mut Expr, op: &BinaryOperator, beside: &Expr, schema: &DFSchema) {
    use BinaryOperator::{Divide, Eq, Gt, GtEq, Lt, LtEq, Minus, Modulo, Multiply, NotEq, Plus};
    if !matches!(literal, Expr::Literal(ScalarValue::Utf8(Some(_)), _)) {
        return;
    }
    let kind = match (op, beside.get_type(schema)) {
        (Plus | Minus | Multiply | Divide | Modulo, Ok(kind)) if kind.is_numeric() => match beside {
            // It will be an integer too.
            Expr::Literal(ScalarValue::Int64(Some(value)), _) if i32::try_from(*value).is_ok() => DataType::Int32,
            _ => kind,
        },
        (Eq | NotEq | Lt | LtEq | Gt | GtEq, Ok(DataType::Boolean)) => DataType::Boolean,
        _ => return,
    };
    let taken = std::mem::replace(literal, Expr::Literal(ScalarValue::Null, None));
    *literal = datafusion::logical_expr::cast(taken, kind);
}

fn midnight(date: Expr) -> Expr {
    datafusion::logical_expr::cast(date, DataType::Timestamp(datafusion::arrow::datatypes::TimeUnit::Microsecond, None))
}

/// Functions look at their literal arguments while they are planned and want what DataFusion makes of them.
fn widen(args: &mut [Expr]) {
    for arg in args {
        if let Expr::Literal(ScalarValue::Int32(Some(value)), metadata) = arg {
            *arg = Expr::Literal(ScalarValue::Int64(Some(i64::from(*value))), metadata.take());
        }
    }
}

/// Sums of BIGINT and averages of integers are NUMERIC.
fn exact(average: bool, args: &mut [Expr], schema: &DFSchema) {
    for arg in args {
        let scale = match arg.get_type(schema) {
            Ok(kind) if average && kind.is_integer() => AVERAGE_SCALE,
            Ok(DataType::Int64) if !average => 0,
            Ok(DataType::Decimal128(_, scale)) if average && scale < AVERAGE_SCALE => AVERAGE_SCALE,
            _ => continue,
        };
        *arg = datafusion::logical_expr::cast(arg.clone(), DataType::Decimal128(38, scale));
    }
}

/// VALUES lists whose columns are small integers.
fn narrow_values(values: Values) -> Result<Values> {
    let mut fields: Vec<_> = values.schema.iter().map(|(relation, field)| (relation.cloned(), Arc::clone(field))).collect();
    let mut rows = values.values;
    for (at, (_, field)) in fields.iter_mut().enumerate() {
        let small = |expr: &Expr| match expr {
            Expr::Literal(ScalarValue::Int64(Some(value)), _) => i32::try_from(*value).is_ok(),
            Expr::Literal(scalar, _) => scalar.is_null(),
            Expr::Negative(inner) => {
                matches!(&**inner, Expr::Literal(ScalarValue::Int64(Some(value)), _) if i32::try_from(*value).is_ok())
            }
            Expr::Cast(cast) => matches!(&*cast.expr, Expr::Literal(scalar, _) if scalar.is_null()),
            _ => false,
        };
        if *field.data_type() != DataType::Int64 || !rows.iter().all(|row| small(&row[at])) {
            continue;
        }
        for row in &mut rows {
            let value = match &row[at] {
                Expr::Literal(ScalarValue::Int64(Some(value)), _) => i32::try_from(*value).ok(),
                Expr::Negative(inner) => match &**inner {
                    Expr::Literal(ScalarValue::Int64(Some(value)), _) => i32::try_from(-*value).ok(),
                    _ => None,
                },
                _ => None,
            };
            row[at] = Expr::Literal(ScalarValue::Int32(value), None);
        }
        *field = Arc::new(field.as_ref().clone().with_data_type(DataType::Int32));
    }
    let schema = DFSchema::new_with_metadata(fields, values.schema.metadata().clone())?;
    Ok(Values { schema: Arc::new(schema), values: rows })
}

/// A correlated subquery remembers the types of the outer columns it uses: as they are now.
fn outer_types(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = scope(&plan)?;
    plan.map_subqueries(|subquery| {
        subquery.transform_up_with_subqueries(|inner| {
            inner.map_expressions(|expr| {
                expr.transform_up(|expr| {
                    Ok(match expr {
                        Expr::OuterReferenceColumn(field, column) => {
                            match schema.qualified_field_from_column(&column).map(|(_, field)| field) {
                                Ok(now) if now.data_type() != field.data_type() => {
                                    let now = field.as_ref().clone().with_data_type(now.data_type().clone());
                                    Transformed::yes(Expr::OuterReferenceColumn(Arc::new(now), column))
                                }
                                _ => Transformed::no(Expr::OuterReferenceColumn(field, column)),
                            }
                        }
                        other => Transformed::no(other),
                    })
                })
            })
        })
    })?
    .map_data(LogicalPlan::recompute_schema)
}
