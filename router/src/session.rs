//! The DataFusion session all statements start from: PostgreSQL's names and types, our functions, bounded memory.
//!
//! Built once by [`crate::Database`]; a statement clones it and adds the tables it reads, at its cut.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, SchemaProvider, TableProvider,
};
use datafusion::common::DataFusionError;
use datafusion::execution::config::SessionConfig;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};

use crate::catalog::CatalogState;
use crate::error::{Error, Result};
use crate::functions;
use crate::postgres;
use crate::provider::system::SystemSchema;
use crate::sql::compare::ReadConstants;
use crate::sql::dates::CompareDates;
use crate::sql::types::PostgresTypes;

/// Rows per batch.
pub const BATCH_ROWS: usize = 8_192;

/// Builds the session; `memory_bytes` bounds sorts, joins and aggregations of all statements together.
///
/// # Errors
/// When DataFusion refuses the settings: a bug.
pub fn base(threads: usize, memory_bytes: usize) -> Result<SessionState> {
    let mut config = SessionConfig::new()
        .with_target_partitions(threads.max(1))
        .with_batch_size(BATCH_ROWS)
        .with_information_schema(false)
        .with_default_catalog_and_schema("headwater", "public")
        .with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.parse_float_as_decimal = true;
    options.execution.time_zone = Some("UTC".into());
    options.execution.collect_statistics = false;
    options.optimizer.enable_leaf_expression_pushdown = false;
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes))).build_arc()?;
    let mut rules = postgres::rules();
    rules.insert(0, Arc::new(ReadConstants));
    let mut state = SessionStateBuilder::new_with_default_features()
        .with_analyzer_rules(rules)
        .with_optimizer_rule(Arc::new(CompareDates))
        .with_config(config)
        .with_runtime_env(runtime)
        .with_type_planner(Arc::new(PostgresTypes))
        .build();
    functions::register(&mut state)?;
    Ok(state)
}

/// A session that sees just these tables; `names` are all there are, for suggestions.
#[must_use]
pub fn with_tables(base: &SessionState, tables: HashMap<String, Arc<dyn TableProvider>>, names: Vec<String>) -> SessionState {
    with_catalog(base, tables, names, &Arc::default())
}

/// A session that sees these tables, and the definitions as `information_schema` and `pg_catalog`.
#[must_use]
pub fn with_catalog(
    base: &SessionState,
    tables: HashMap<String, Arc<dyn TableProvider>>,
    names: Vec<String>,
    definitions: &Arc<CatalogState>,
) -> SessionState {
    let mut state = base.clone();
    let catalog = MemoryCatalogProvider::new();
    let system = Arc::new(SystemSchema::new("pg_catalog", Arc::clone(definitions)));
    // A memory catalog takes every schema.
    let _ = catalog.register_schema("public", Arc::new(Tables { tables, names, system: Arc::clone(&system) }));
    let _ = catalog.register_schema("pg_catalog", system);
    let information = SystemSchema::new("information_schema", Arc::clone(definitions));
    let _ = catalog.register_schema("information_schema", Arc::new(information));
    let list = MemoryCatalogProviderList::new();
    list.register_catalog("headwater".into(), Arc::new(catalog));
    state.register_catalog_list(Arc::new(list));
    state.mark_start_execution();
    state
}

#[derive(Debug)]
struct Tables {
    tables: HashMap<String, Arc<dyn TableProvider>>,
    names: Vec<String>,
    /// What is found without naming its schema, as in PostgreSQL.
    system: Arc<SystemSchema>,
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        self.tables.keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        match self.tables.get(name) {
            Some(table) => Ok(Some(Arc::clone(table))),
            // Planning asks for every name in FROM, functions included.
            None if name == "generate_series" || name == "range" => Ok(None),
            None if self.system.table_exist(name) => self.system.table(name).await,
            None => {
                let error = Error::unknown("table or stream", name, self.names.iter().map(String::as_str));
                Err(DataFusionError::External(Box::new(error)))
            }
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.contains_key(name) || self.system.table_exist(name)
    }
}
