//! Planning and running one SELECT: names resolved, cut chosen, planned by DataFusion, rows streamed from the query runtime.
//!
//! Called by [`crate::database`] for SELECT and EXPLAIN, and by [`crate::dml`] for the rows that a change is computed from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::sqlparser::ast::Statement;
use futures::StreamExt;
use serde_json::Value;

use crate::cut::{self, Chosen};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::position::Cut;
use crate::sequence::scope::{self, Scope, SessionNumbers};
use crate::session;
use crate::sql::forms::plain_forms;
use crate::sql::gapfill;
use crate::sql::names::{is_marked, name_columns, shown};
use crate::sql::rewrite::{TableUse, Uses, rewrite};
use crate::txn::Transaction;

/// Batches between the query and its reader.
const CHANNEL_BATCHES: usize = 2;

/// What a statement is run with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Values of `$1`, `$2`, ...
    pub params: &'a [Value],
    /// What must be visible.
    pub wait: &'a Cut,
    /// Give up then.
    pub deadline: Instant,
    /// What it is a part of; none: it is by itself.
    pub transaction: Option<&'a Arc<Transaction>>,
    /// What its session was given of sequences.
    pub numbers: Option<&'a Arc<SessionNumbers>>,
}

/// A statement that is planned at its cut.
pub struct Planned {
    state: SessionState,
    plan: Arc<dyn ExecutionPlan>,
    chosen: Chosen,
}

/// Plans a SELECT. `also` names a table whose position belongs to the cut though the statement may not read it.
///
/// # Errors
/// Everything that is wrong with the statement.
pub async fn plan(database: &Database, statement: Statement, context: Context<'_>, also: Option<&str>) -> Result<Planned> {
    let mut statement = statement;
    name_columns(&mut statement);
    let catalog = database.catalog();
    let mut uses: Uses = rewrite(&mut statement, &catalog)?;
    // Named queries are part of it by now.
    let sequences = scope::is_called(&mut statement);
    gapfill::fill(&mut statement)?;
    plain_forms(&mut statement)?;
    if let Some(name) = also {
        let table = TableUse { internal: name.to_owned(), name: name.to_owned(), ..TableUse::default() };
        if !uses.tables.contains(&table) {
            uses.tables.push(table);
        }
    }
    let mut chosen = cut::choose(database, &uses, context).await?;
    if let Some(transaction) = context.transaction {
        transaction.pin(&chosen.cut);
    }
    let names = catalog.names().map(str::to_owned).collect();
    let mut state = session::with_catalog(database.session(), std::mem::take(&mut chosen.providers), names, &catalog);
    prepare(&mut state, database, sequences, context);
    let plan = physical(&state, statement, context.params).await?;
    Ok(Planned { state, plan, chosen })
}

/// Runs a SELECT over tables that exist for it only, and gives its columns and rows.
///
/// # Errors
/// Everything that is wrong with the statement, and too many rows.
pub async fn over(
    database: &Database,
    statement: Statement,
    tables: HashMap<String, Arc<dyn TableProvider>>,
    context: Context<'_>,
    bytes_max: usize,
) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let mut statement = statement;
    let mut state = session::with_tables(database.session(), tables, Vec::new());
    prepare(&mut state, database, scope::is_called(&mut statement), context);
    let plan = physical(&state, statement, context.params).await?;
    let planned = Planned { state, plan, chosen: Chosen::nothing() };
    Ok((planned.schema(), planned.collect(database, context.deadline, bytes_max).await?))
}

/// Lets a statement call sequences, and know the time of its transaction.
fn prepare(state: &mut SessionState, database: &Database, sequences: bool, context: Context<'_>) {
    if sequences {
        let numbers = context.numbers.cloned().unwrap_or_default();
        scope::enter(state, Scope { database: database.clone(), numbers });
    }
    if let Some(transaction) = context.transaction {
        state.execution_props_mut().query_execution_start_time = Some(transaction.started().into());
    }
}

async fn physical(state: &SessionState, statement: Statement, params: &[Value]) -> Result<Arc<dyn ExecutionPlan>> {
    let logical = state.statement_to_plan(datafusion::sql::parser::Statement::Statement(Box::new(statement))).await?;
    let logical = match params {
        [] => logical,
        params => {
            let values: Vec<ScalarValue> = params.iter().map(param).collect();
            logical.with_param_values(ParamValues::from(values))?
        }
    };
    Ok(state.create_physical_plan(&without_unions(state, logical)?).await?)
}

fn param(value: &Value) -> ScalarValue {
    match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => ScalarValue::Int64(Some(whole)),
            (None, float) => ScalarValue::Float64(float),
        },
        Value::String(text) => ScalarValue::Utf8(Some(text.clone())),
        json => ScalarValue::Utf8(Some(json.to_string())),
    }
}

/// `->` gives a union of JSON's types, which no output format knows: shown as JSON text.
fn without_unions(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan> {
    if !matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_))
        && plan.schema().fields().iter().any(|field| matches!(field.data_type(), DataType::Union(..) | DataType::UInt64))
    {
        let functions = state.scalar_functions();
        let to_text = functions.get("json_union_to_text").ok_or_else(|| Error::internal("json_union_to_text is registered"))?;
        let shown =
            |(qualifier, field): (Option<&datafusion::common::TableReference>, &Arc<datafusion::arrow::datatypes::Field>)| {
                let column = Expr::from((qualifier, field));
                match field.data_type() {
                    DataType::Union(..) => to_text.call(vec![column]).alias(field.name()),
                    // Ranks and row numbers: PostgreSQL has no integers without a sign.
                    DataType::UInt64 => datafusion::logical_expr::cast(column, DataType::Int64).alias(field.name()),
                    _ => column,
                }
            };
        let columns: Vec<Expr> = plan.schema().iter().map(shown).collect();
        return Ok(LogicalPlanBuilder::from(plan).project(columns)?.build()?);
    }
    Ok(plan)
}

impl Planned {
    /// The state it sees.
    #[must_use]
    pub fn cut(&self) -> &Cut {
        &self.chosen.cut
    }

    /// Names and types of the result.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        let schema = self.plan.schema();
        if !schema.fields().iter().any(|field| is_marked(field.name())) {
            return schema;
        }
        let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_name(shown(field.name())));
        Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
    }

    /// Runs it on the query runtime; dropping the stream, or the deadline, ends it.
    ///
    /// # Errors
    /// When it can't begin.
    pub fn run(self, database: &Database, deadline: Instant) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&schema), CHANNEL_BATCHES);
        let batches = builder.tx();
        let Self { state, plan, chosen } = self;
        let running = async move {
            // The files of what is read stay until the last row is out.
            let _held = chosen.generations;
            let mut rows = execute_stream(plan, state.task_ctx())?;
            loop {
                match tokio::time::timeout_at(deadline.into(), rows.next()).await {
                    Ok(Some(batch)) => {
                        let batch = batch.and_then(|batch| renamed(batch, &schema));
                        if batches.send(batch).await.is_err() {
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return Err(datafusion::common::DataFusionError::External(Box::new(out_of_time()))),
                }
            }
            Ok(())
        };
        builder.spawn_on(running, database.runtime());
        Ok(builder.build())
    }

    /// All rows, if they are not more than `bytes_max`.
    ///
    /// # Errors
    /// What goes wrong while running, and too many rows.
    pub async fn collect(self, database: &Database, deadline: Instant, bytes_max: usize) -> Result<Vec<RecordBatch>> {
        let mut rows = self.run(database, deadline)?;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            bytes += batch.get_array_memory_size();
            if bytes > bytes_max {
                let message = format!("the statement touches more than {bytes_max} bytes of rows");
                return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, logcore::ErrorKind::TooLarge, message)
                    .hint("split it by a range of the primary key"));
            }
            batches.push(batch);
        }
        Ok(batches)
    }
}

/// The batch under the names that clients see.
fn renamed(batch: RecordBatch, schema: &SchemaRef) -> datafusion::common::Result<RecordBatch> {
    match batch.schema_ref() == schema {
        true => Ok(batch),
        false => {
            let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            Ok(RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &rows)?)
        }
    }
}

fn out_of_time() -> Error {
    Error::new(sqlstate::QUERY_CANCELED, logcore::ErrorKind::Unavailable, "the statement did not finish in time")
        .hint("narrow it, or raise timeout_ms")
}
