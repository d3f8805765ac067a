//! The table and the plan node over a store: one execution partition per log partition, limits and top-k pushed into it.
//!
//! Each kind of table says what is its own in a [`Source`] and a [`Scan`]; what DataFusion wants to hear is said once, here.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result, Statistics};
use datafusion::datasource::TableType;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SortOrderPushdownResult,
};
use logcore::sys::clock;

/// Batches between the thread that reads and the query.
const CHANNEL_BATCHES: usize = 2;

/// How much of a partition to read.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Rows at most.
    pub limit: Option<usize>,
    /// Best first, by score.
    pub by_score: bool,
    /// Rows per batch at most.
    pub batch_rows: usize,
}

/// A store's side of a scan.
pub trait Scan: Send + Sync {
    /// Hands the rows of one partition to `emit` until it breaks. Runs on a blocking thread.
    ///
    /// # Errors
    /// What the store says.
    fn run(
        &self,
        partition: usize,
        bounds: Bounds,
        emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>,
    ) -> Result<(), crate::Error>;

    /// Log partitions.
    fn partitions(&self) -> usize;

    /// What is read and what was pushed into it, for EXPLAIN.
    fn describe(&self) -> String;

    /// What is known of the rows before they are read.
    fn estimate(&self) -> Option<&Estimate> {
        None
    }

    /// The column by which the rows of each partition ascend, among those that are read.
    fn ascending_column(&self) -> Option<usize> {
        None
    }

    /// The column whose descending order the store can give, best first.
    fn score_column(&self) -> Option<usize> {
        None
    }
}

/// How many rows a scan gives, about, and how the values of its columns are spread.
#[derive(Clone, Debug)]
pub struct Estimate {
    rows: usize,
    columns: Vec<ColumnStatistics>,
}

impl Estimate {
    /// Of a `share` of a table with `rows`; of each column that is read, if it is known, how many different values there are in the
    /// table and the share of rows without one.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "estimates")]
    pub fn new(rows: u64, share: f64, columns: Vec<Option<(f64, f64)>>) -> Self {
        let rows = (rows as f64 * share).ceil();
        let column = |known: Option<(f64, f64)>| {
            let mut column = ColumnStatistics::new_unknown();
            if let Some((distinct, nulls)) = known {
                column.distinct_count = Precision::Inexact(distinct.min(rows) as usize);
                column.null_count = Precision::Inexact((nulls * rows) as usize);
            }
            column
        };
        Self { rows: rows as usize, columns: columns.into_iter().map(column).collect() }
    }
}

/// A table over a store: what it looks like, which conditions it takes over, and how it is read.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// Its columns.
    fn schema(&self) -> SchemaRef;

    /// Whether the store answers a condition, and how well.
    fn pushdown(&self, filter: &Expr) -> TableProviderFilterPushDown;

    /// A scan of the columns at `projection`, whose batches have `schema`, under the conditions it takes over.
    fn scan(&self, projection: Vec<usize>, schema: &SchemaRef, filters: &[Expr]) -> Arc<dyn Scan>;
}

/// A [`Source`] as DataFusion's table.
#[derive(Debug)]
pub struct SourceTable<S>(pub S);

#[async_trait]
impl<S: Source> TableProvider for SourceTable<S> {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters.iter().map(|filter| self.0.pushdown(filter)).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let whole = self.0.schema();
        let projection = projection.cloned().unwrap_or_else(|| (0..whole.fields().len()).collect());
        let schema = Arc::new(whole.project(&projection)?);
        Ok(Arc::new(ScanExec::new(self.0.scan(projection, &schema, filters), schema, limit)))
    }
}

/// See the module docs.
#[derive(Clone)]
pub struct ScanExec {
    scan: Arc<dyn Scan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    fetch: Option<usize>,
    by_score: bool,
    metrics: ExecutionPlanMetricsSet,
}

impl ScanExec {
    /// A node that reads `scan`, whose batches have `schema`.
    #[must_use]
    pub fn new(scan: Arc<dyn Scan>, schema: SchemaRef, limit: Option<usize>) -> Self {
        let ascending = scan.ascending_column().map(|at| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(schema.field(at).name(), at));
            vec![PhysicalSortExpr::new_default(column)]
        });
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(Arc::clone(&schema), ascending),
            Partitioning::UnknownPartitioning(scan.partitions().max(1)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Self {
            scan,
            schema,
            properties: Arc::new(properties),
            fetch: limit,
            by_score: false,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl fmt::Debug for ScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scan.describe())
    }
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scan.describe())?;
        if self.by_score {
            f.write_str(", top by score")?;
        }
        if let Some(fetch) = self.fetch {
            write!(f, ", limit={fetch}")?;
        }
        match self.scan.estimate() {
            Some(estimate) => write!(f, ", about {} rows", estimate.rows),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &'static str {
        "ScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let unknown = || Statistics::new_unknown(&self.schema);
        let Some(estimate) = self.scan.estimate() else { return Ok(Arc::new(unknown())) };
        let parts = partition.map_or(1, |_| self.scan.partitions().max(1));
        let rows = self.fetch.map_or(estimate.rows, |fetch| estimate.rows.min(fetch)) / parts;
        let statistics =
            Statistics { num_rows: Precision::Inexact(rows), column_statistics: estimate.columns.clone(), ..unknown() };
        Ok(Arc::new(statistics))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn with_fetch(&self, fetch: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        // Several partitions would each stop at the limit.
        let single = self.scan.partitions() <= 1;
        single.then(|| Arc::new(Self { fetch, ..self.clone() }) as Arc<dyn ExecutionPlan>)
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        let by_score = match (order, self.scan.score_column()) {
            ([only], Some(score)) if only.options.descending && self.scan.partitions() <= 1 => {
                only.expr.downcast_ref::<Column>().is_some_and(|column| column.index() == score)
            }
            _ => false,
        };
        if by_score && self.fetch.is_none() {
            let inner = Arc::new(Self { by_score, ..self.clone() });
            return Ok(SortOrderPushdownResult::Exact { inner });
        }
        Ok(SortOrderPushdownResult::Unsupported)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let bounds = Bounds { limit: self.fetch, by_score: self.by_score, batch_rows: context.session_config().batch_size() };
        let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.schema), CHANNEL_BATCHES);
        let (scan, batches) = (Arc::clone(&self.scan), builder.tx());
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        builder.spawn_blocking(move || {
            let mut since = clock::monotonic();
            let mut emit = |batch: RecordBatch| {
                baseline.record_output(batch.num_rows());
                baseline.elapsed_compute().add_elapsed(since);
                let sent = batches.blocking_send(Ok(batch));
                since = clock::monotonic();
                // The query is gone or has enough.
                if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            scan.run(partition, bounds, &mut emit).map_err(|error| datafusion::common::DataFusionError::External(Box::new(error)))
        });
        Ok(builder.build())
    }
}
