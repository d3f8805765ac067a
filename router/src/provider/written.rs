//! A document table that SQL writes, read as rows: its searched paths and facets are columns, computed from the documents.
//!
//! The columns are those that [`super::document`] has, so a statement means the same whether it searches or not.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::TableReference;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, ident, lit};
use datafusion_functions_json::udfs::json_as_text_udf;
use docstore::Mapping;
use docstore::mapping::split_path;

use crate::error::Result;
use crate::view::written::{DOC, ID};

/// The rows with a column for each path.
///
/// # Errors
/// When DataFusion refuses the plan: a bug.
pub fn provider(name: &str, rows: Arc<dyn TableProvider>, mapping: &Mapping) -> Result<Arc<dyn TableProvider>> {
    let path = |path: &str| {
        let steps = split_path(path).into_iter().map(lit);
        let arguments: Vec<Expr> = std::iter::once(ident(DOC)).chain(steps).collect();
        json_as_text_udf().call(arguments).alias(path)
    };
    let columns: Vec<Expr> = [ident(ID), ident(DOC)].into_iter().chain(mapping.paths().into_iter().map(path)).collect();
    let plan = LogicalPlanBuilder::scan(TableReference::bare(name), provider_as_source(rows), None)?.project(columns)?.build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}
