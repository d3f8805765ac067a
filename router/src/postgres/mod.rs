//! What DataFusion computes otherwise than PostgreSQL, put right while a plan is analysed.
//!
//! [`operators`] runs before types are coerced: integer literals are integers, arithmetic fails instead of wrapping around, sums
//! and averages of integers are numerics, dates and times are subtracted as in PostgreSQL. [`casts`] runs after it, when all casts,
//! also the implicit ones, are in the plan: they round, trim, write and fail as PostgreSQL's.
//!
//! Registered in [`crate::session`], so that it holds for every statement.

mod arithmetic;
mod bounds;
mod casts;
pub(crate) mod codes;
mod conversion;
pub(crate) mod functions;
mod operators;
pub(crate) mod text;

use std::sync::Arc;

use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::resolve_grouping_function::ResolveGroupingFunction;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;

/// The analyzer's rules, in order.
#[must_use]
pub fn rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    vec![
        Arc::new(ResolveGroupingFunction::new()),
        Arc::new(operators::Operators),
        Arc::new(TypeCoercion::new()),
        Arc::new(casts::Casts),
    ]
}
