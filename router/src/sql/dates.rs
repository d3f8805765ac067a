//! Comparisons of a DATE with a constant moment become comparisons of dates, which keys, indexes and series understand.
//!
//! `l_shipdate < DATE '1995-01-01' + INTERVAL '1 year'` compares moments, as in PostgreSQL: a date plus an interval is a timestamp.
//! An optimizer rule: by then the right side is a constant.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator, lit};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

const SECONDS_PER_DAY: i64 = 86_400;

/// See the module docs.
#[derive(Debug)]
pub struct CompareDates;

impl OptimizerRule for CompareDates {
    fn name(&self) -> &'static str {
        "compare_dates"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let is_date: Box<dyn Fn(&Column) -> bool> = match &plan {
            LogicalPlan::Filter(filter) => {
                let schema = Arc::clone(filter.input.schema());
                Box::new(move |column| {
                    schema.qualified_field_from_column(column).is_ok_and(|(_, field)| *field.data_type() == DataType::Date32)
                })
            }
            LogicalPlan::TableScan(scan) => {
                let schema = scan.source.schema();
                Box::new(move |column| {
                    schema.field_with_name(&column.name).is_ok_and(|field| *field.data_type() == DataType::Date32)
                })
            }
            _ => return Ok(Transformed::no(plan)),
        };
        plan.map_expressions(|expr| expr.transform_up(|expr| compare_dates(expr, &is_date)))
    }
}

fn compare_dates(expr: Expr, is_date: &dyn Fn(&Column) -> bool) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = &expr else { return Ok(Transformed::no(expr)) };
    let narrowed = match (&**left, &**right) {
        (Expr::Cast(cast), Expr::Literal(moment, _)) => narrow(cast, *op, moment, is_date),
        (Expr::Literal(moment, _), Expr::Cast(cast)) => op.swap().and_then(|op| narrow(cast, op, moment, is_date)),
        _ => None,
    };
    Ok(narrowed.map_or_else(|| Transformed::no(expr), Transformed::yes))
}

/// `CAST(date AS TIMESTAMP) op moment` as a comparison of dates.
fn narrow(cast: &Cast, op: Operator, moment: &ScalarValue, is_date: &dyn Fn(&Column) -> bool) -> Option<Expr> {
    let Expr::Column(column) = &*cast.expr else { return None };
    if !is_date(column) || !matches!(cast.field.data_type(), DataType::Timestamp(_, None)) {
        return None;
    }
    let (at, per_day) = match moment {
        ScalarValue::TimestampSecond(Some(at), None) => (*at, SECONDS_PER_DAY),
        ScalarValue::TimestampMillisecond(Some(at), None) => (*at, SECONDS_PER_DAY * 1_000),
        ScalarValue::TimestampMicrosecond(Some(at), None) => (*at, SECONDS_PER_DAY * 1_000_000),
        ScalarValue::TimestampNanosecond(Some(at), None) => (*at, SECONDS_PER_DAY * 1_000_000_000),
        _ => return None,
    };
    let (day, is_midnight) = (i32::try_from(at.div_euclid(per_day)).ok()?, at.rem_euclid(per_day) == 0);
    // A date is the midnight it begins with: what lies behind a moment of a day is the next one.
    let op = match (op, is_midnight) {
        (op @ (Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq), true) => op,
        (Operator::Lt | Operator::LtEq, false) => Operator::LtEq,
        (Operator::Gt | Operator::GtEq, false) => Operator::Gt,
        _ => return None,
    };
    let date = lit(ScalarValue::Date32(Some(day)));
    Some(Expr::BinaryExpr(BinaryExpr { left: cast.expr.clone(), op, right: Box::new(date) }))
}
