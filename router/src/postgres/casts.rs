//! Casts that round, trim, write and fail as PostgreSQL's do.
//!
//! Runs after types are coerced, so that the casts which nobody wrote are there too. A cast keeps its type, so that the plan
//! around it stays as it is.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, merge_schema, split_conjunction_owned};
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan, cast, lit, when};
use datafusion::optimizer::AnalyzerRule;

use super::{conversion, functions};

/// See the module docs.
#[derive(Debug)]
pub(super) struct Casts;

impl AnalyzerRule for Casts {
    fn name(&self) -> &str {
        "postgres_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(node)?.data)
    }
}

fn node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if matches!(plan, LogicalPlan::Limit(_)) {
        return Ok(Transformed::no(plan));
    }
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(expr.transform_up(|expr| rewrite(expr, &schema))?.update_data(|expr| name.restore(expr)))
    })?
    .map_data(LogicalPlan::recompute_schema)?
    .map_data(|plan| match plan {
        LogicalPlan::Filter(mut filter) => {
            filter.predicate = guarded(filter.predicate)?;
            Ok(LogicalPlan::Filter(filter))
        }
        other => Ok(other),
    })
}

/// `a <> 0 AND 10 / a > 1` must not divide by zero: what may fail is evaluated only where the conditions before it hold. These stay
/// as they are, so that they can still be seeks.
fn guarded(predicate: Expr) -> Result<Expr> {
    let conjuncts: Vec<Expr> = split_conjunction_owned(predicate);
    let mut safe: Vec<Expr> = Vec::new();
    let mut all = Vec::with_capacity(conjuncts.len());
    for condition in conjuncts {
        // What speaks of an outer row is left where the subquery can be made a join by it.
        if condition.contains_outer() {
            all.push(condition);
            continue;
        }
        if !may_fail(&condition)? {
            safe.push(condition.clone());
            all.push(condition);
            continue;
        }
        all.push(match conjunction(safe.iter().cloned()) {
            // By a number: a CASE of truth values would be made an AND again, which may evaluate both sides.
            Some(before) => when(before, cast(condition, DataType::Int32)).end()?.eq(lit(1_i32)),
            None => condition,
        });
    }
    conjunction(all).ok_or_else(|| DataFusionError::Internal("a filter has a condition".into()))
}

/// Whether a value of a row can make an expression fail.
fn may_fail(expr: &Expr) -> Result<bool> {
    let mut found = false;
    expr.apply(|expr| {
        if let Expr::ScalarFunction(function) = expr {
            let fails = match function.func.name() {
                "checked_divide" | "checked_modulo" => function.args.get(1).is_some_and(Expr::any_column_refs),
                conversion::NAME | functions::FINITE => expr.any_column_refs(),
                _ => false,
            };
            found |= fails;
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::Cast(Cast { expr, field }) = expr else { return Ok(Transformed::no(expr)) };
    // A number that fits is that number: conditions on it can still be seeks.
    if let Expr::Literal(ScalarValue::Int32(Some(value)), metadata) = &*expr {
        let scalar = match field.data_type() {
            DataType::Int64 => Some(ScalarValue::Int64(Some(i64::from(*value)))),
            DataType::Int16 => i16::try_from(*value).ok().map(|value| ScalarValue::Int16(Some(value))),
            _ => None,
        };
        if let Some(scalar) = scalar {
            return Ok(Transformed::yes(Expr::Literal(scalar, metadata.clone())));
        }
    }
    let Ok(from) = expr.get_type(schema) else { return Ok(Transformed::no(Expr::Cast(Cast { expr, field }))) };
    Ok(match conversion::converts(&from, &field) {
        true => Transformed::yes(conversion::call(*expr, field)),
        false => Transformed::no(Expr::Cast(Cast { expr, field })),
    })
}
