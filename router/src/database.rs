//! The facade: one [`Database`] over one data folder, for servers and for programs that embed it.
//!
//! It owns the log, the driver, the catalog and the query runtime, and wires them: at start the catalog is replayed first, then
//! every partition and view it names is opened.
//!
//! # Concurrency
//! Definitions change one at a time, under [`Database::ddl_lock`]; reads and writes never take it. Queries run on a runtime of
//! their own, so that a heavy one does not hold up the network.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::Statement as Ast;
use logcore::materialize::{Driver, DriverOptions, Task, TaskOptions};
use logcore::sys::{clock, fs};
use logcore::{BatchBuilder, Compression, ErrorKind, Log, LogOptions, NewRecord, Offset, PartitionRef, Proposal, StreamId};
use rowstore::RowOptions;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Mutex, MutexGuard, RwLock};

use crate::answer::{Rows, SqlAnswer, ViewInfo};
use crate::append::finishing::Finishing;
use crate::append::tracking::Tracking;
use crate::catalog::materializer::{Catalog, encode};
use crate::catalog::{CatalogRecord, CatalogState, Source};
use crate::cursors::CursorStore;
use crate::cut;
use crate::error::{Error, Result, sqlstate};
use crate::expiry::Expiry;
use crate::lines::Lines;
use crate::position::Cut;
use crate::query::{self, Context};
use crate::sequence::Sequences;
use crate::session;
use crate::sessions::Sessions;
use crate::sql::ddl::Ddl;
use crate::sql::parse::Statement;
use crate::sql::rewrite::{TableUse, Uses};
use crate::sql::statements::Statements;
use crate::view::rebuild;
use crate::view::running::Views;
use crate::view::vacuum::{self, Vacuums};
use crate::{copy, define, dml, fast_path};

/// The stack of a thread that plans statements: it works on trees by recursion. The planner's own limits keep far below it.
pub const PLANNING_STACK_BYTES: usize = 8 << 20;
/// How long a change of definitions may take to become durable and known.
const DEFINITION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the start waits for the catalog to be replayed.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(600);

/// Bounds of what one request may hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Key, value and headers of one record.
    pub record_bytes_max: usize,
    /// The text of one SQL request.
    pub sql_bytes_max: usize,
    /// Nesting of JSON.
    pub json_depth_max: usize,
    /// Statements of one SQL request.
    pub statements_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { record_bytes_max: 1 << 20, sql_bytes_max: 1 << 20, json_depth_max: 64, statements_max: 100 }
    }
}

/// How a database is run.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// The data folder.
    pub data: PathBuf,
    /// The folder that COPY reads and writes files in; none: it does not.
    pub copy_dir: Option<PathBuf>,
    /// The log.
    pub log: LogOptions,
    /// The views' driver.
    pub driver: DriverOptions,
    /// Bounds of requests.
    pub limits: Limits,
    /// Threads that run queries.
    pub query_threads: usize,
    /// Memory of all queries' sorts, joins and aggregations.
    pub sql_memory_bytes_max: usize,
    /// The cache that all row tables share.
    pub view_memory_bytes: usize,
    /// Speed limit of rebuilds; 0 for none.
    pub rebuild_records_per_second_max: u64,
    /// How often it is looked for tables with old versions to take out; 0 for never.
    pub vacuum_interval: Duration,
    /// How often documents are looked for that their table's `ttl` says are too old; zero for never.
    pub expiry_interval: Duration,
    /// Speed limit of copying a table that is vacuumed, in rows and index entries; 0 for none.
    pub vacuum_rows_per_second_max: u64,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self {
            data: "data".into(),
            copy_dir: None,
            log: LogOptions::default(),
            driver: DriverOptions::default(),
            limits: Limits::default(),
            query_threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            sql_memory_bytes_max: 256 << 20,
            view_memory_bytes: 64 << 20,
            rebuild_records_per_second_max: 0,
            vacuum_interval: Duration::from_secs(60),
            expiry_interval: Duration::from_secs(10),
            vacuum_rows_per_second_max: 200_000,
        }
    }
}

struct Inner {
    options: DatabaseOptions,
    log: Arc<Log>,
    driver: Arc<Driver>,
    catalog: Catalog,
    catalog_task: Arc<Task>,
    views: Views,
    tracking: Tracking,
    cursors: CursorStore,
    session: SessionState,
    sessions: Sessions,
    statements: Statements,
    vacuums: Vacuums,
    sequences: Sequences,
    truncated: AtomicU64,
    ddl: Mutex<()>,
    gate: RwLock<()>,
    lines: Lines,
    handle: Handle,
    runtime: std::sync::Mutex<Option<Runtime>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A runtime must not be waited for where another one may be running.
        if let Ok(mut runtime) = self.runtime.lock()
            && let Some(runtime) = runtime.take()
        {
            runtime.shutdown_background();
        }
    }
}

/// See the module docs. Clones share the database.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

impl Database {
    /// Opens or creates the data folder and begins to bring every view up to date. Blocks; call it outside async workers.
    ///
    /// # Errors
    /// What the log says of the folder, and a catalog that this release does not understand.
    pub fn open(options: DatabaseOptions) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.query_threads.max(1))
            .thread_name("query")
            .thread_stack_size(PLANNING_STACK_BYTES)
            .enable_time()
            .build()
            .map_err(|error| Error::internal(format!("starting the query runtime: {error}")))?;
        let log = Arc::new(Log::open(&options.data, options.log.clone())?);
        let driver = Arc::new(Driver::start(options.driver.clone())?);
        let session = session::base(options.query_threads, options.sql_memory_bytes_max)?;
        let rows = RowOptions::new(options.view_memory_bytes as u64)?;
        let definitions = log.open_partition(PartitionRef::new(StreamId::CATALOG, 0))?;
        let (catalog, materializer) = Catalog::new();
        let dir = options.data.join("tmp");
        fs::create_dir(&dir)?;
        let task = driver.attach("_catalog", &definitions, Box::new(materializer), &dir, TaskOptions::default())?;
        let partition = options.log.partition.clone();
        let views = Views::new(Arc::clone(&log), Arc::clone(&driver), session.clone(), rows, partition);
        let cursors = CursorStore::open(&log);
        let handle = runtime.handle().clone();
        let inner = Inner {
            options,
            log,
            driver,
            catalog,
            catalog_task: Arc::clone(&task),
            views,
            tracking: Tracking::default(),
            cursors,
            session,
            sessions: Sessions::default(),
            statements: Statements::default(),
            vacuums: Vacuums::default(),
            sequences: Sequences::default(),
            truncated: AtomicU64::new(0),
            ddl: Mutex::new(()),
            gate: RwLock::new(()),
            lines: Lines::default(),
            handle: handle.clone(),
            runtime: std::sync::Mutex::new(Some(runtime)),
        };
        let database = Self { inner: Arc::new(inner) };
        let end = definitions.committed().get();
        handle.block_on(async {
            task.visible_to(end, Instant::now() + CATALOG_TIMEOUT).await?;
            database.open_all().await
        })?;
        database.keep_histories();
        database.expire_documents();
        Ok(database)
    }

    /// Looks for old versions to take out from time to time, for as long as the database is there.
    fn keep_histories(&self) {
        let (inner, interval) = (Arc::downgrade(&self.inner), self.options().vacuum_interval);
        if interval.is_zero() {
            return;
        }
        self.spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                let Some(inner) = inner.upgrade() else { return };
                vacuum::keep_histories(&Self { inner }).await;
            }
        });
    }

    /// Deletes documents that are too old from time to time, for as long as the database is there.
    fn expire_documents(&self) {
        let (inner, interval) = (Arc::downgrade(&self.inner), self.options().expiry_interval);
        if interval.is_zero() {
            return;
        }
        self.spawn(async move {
            let mut expiry = Expiry::default();
            loop {
                tokio::time::sleep(interval).await;
                let Some(inner) = inner.upgrade() else { return };
                expiry.look(&Self { inner }).await;
            }
        });
    }

    /// Opens what the catalog names. A view that does not open is left out, loudly: the rest serves.
    async fn open_all(&self) -> Result<()> {
        let catalog = self.catalog();
        self.views().remove_orphans(&catalog)?;
        self.remove_orphan_streams(&catalog)?;
        for stream in catalog.streams() {
            for partition in 0..stream.partitions {
                if let Err(error) = stream.open(self.log(), partition, &self.options().log.partition) {
                    tracing::error!(stream = stream.name, partition, %error, "the partition does not open; the others serve");
                }
            }
        }
        self.settle_cursors().await;
        for table in catalog.all_tables() {
            if matches!(table.source, Source::Keys { .. }) {
                self.tracking().start_with(table.stream().value());
            }
            let Some(stream) = catalog.stream_by_id(table.stream()) else { continue };
            match self.views().open(table, stream).await {
                Ok(view) => {
                    if let Some(generation) = table.building
                        && let Err(error) = rebuild::begin(self, view, generation).await
                    {
                        tracing::error!(view = table.name, generation, %error, "the rebuild does not go on; the old generation serves");
                    }
                }
                Err(error) => tracing::error!(view = table.name, %error, "the view does not open; rebuild it"),
            }
        }
        Ok(())
    }

    fn remove_orphan_streams(&self, catalog: &CatalogState) -> Result<()> {
        for folder in fs::list(&self.log().dir().join("log"))? {
            if let Ok(id) = folder.parse().map(StreamId::new)
                && catalog.stream_by_id(id).is_none()
            {
                self.log().remove_stream(id)?;
            }
        }
        Ok(())
    }

    /// Stops everything in order: views are checkpointed, the log records a clean stop. Blocks.
    ///
    /// # Errors
    /// When the record of the clean stop can't be written; the next start then scans.
    pub fn close(&self) -> Result<()> {
        if let Ok(mut runtime) = self.inner.runtime.lock()
            && let Some(runtime) = runtime.take()
        {
            runtime.shutdown_background();
        }
        self.inner.driver.stop();
        Ok(self.log().close()?)
    }

    pub(crate) fn options(&self) -> &DatabaseOptions {
        &self.inner.options
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        &self.inner.log
    }

    pub(crate) fn views(&self) -> &Views {
        &self.inner.views
    }

    /// The sessions of clients.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.inner.sessions
    }

    /// The numbers that are reserved.
    pub(crate) fn sequences(&self) -> &Sequences {
        &self.inner.sequences
    }

    /// Behind the newest TRUNCATE since the start: no transaction that reads below commits.
    pub(crate) fn truncated(&self) -> Offset {
        Offset::new(self.inner.truncated.load(Ordering::Acquire))
    }

    /// Notes a TRUNCATE; the caller holds the gate alone.
    pub(crate) fn has_truncated(&self, end: Offset) {
        self.inner.truncated.fetch_max(end.value(), Ordering::AcqRel);
    }

    /// Held for reading by changes of rows until they are in the log, and for writing while what must hold of rows is defined.
    pub(crate) fn gate(&self) -> &RwLock<()> {
        &self.inner.gate
    }

    /// Where changes wait that lost against others.
    pub(crate) fn lines(&self) -> &Lines {
        &self.inner.lines
    }

    /// Texts that were parsed before.
    pub(crate) fn statements(&self) -> &Statements {
        &self.inner.statements
    }

    pub(crate) fn catalog_task(&self) -> &Task {
        &self.inner.catalog_task
    }

    pub(crate) fn vacuums(&self) -> &Vacuums {
        &self.inner.vacuums
    }

    pub(crate) fn tracking(&self) -> &Tracking {
        &self.inner.tracking
    }

    pub(crate) fn cursor_store(&self) -> &CursorStore {
        &self.inner.cursors
    }

    pub(crate) fn session(&self) -> &SessionState {
        &self.inner.session
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.inner.handle
    }

    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.inner.handle.spawn(work));
    }

    /// The definitions now.
    #[must_use]
    pub fn catalog(&self) -> Arc<CatalogState> {
        self.inner.catalog.state()
    }

    pub(crate) async fn ddl_lock(&self) -> MutexGuard<'_, ()> {
        self.inner.ddl.lock().await
    }

    /// Puts a definition into `_catalog` and waits until everyone sees it.
    pub(crate) async fn record(&self, record: &CatalogRecord) -> Result<Cut> {
        self.record_all(std::slice::from_ref(record)).await
    }

    /// Puts several definitions into `_catalog`, all or none of them.
    pub(crate) async fn record_all(&self, records: &[CatalogRecord]) -> Result<Cut> {
        let deadline = Instant::now() + DEFINITION_TIMEOUT;
        let mut batch = BatchBuilder::new();
        for record in records {
            batch.push(&NewRecord { key: None, value: Some(&encode(record)), headers: &[], timestamp: clock::now() });
        }
        let proposal = Proposal::from_records(batch, Compression::None)?;
        let task = &self.inner.catalog_task;
        let appended = task.partition().append(proposal, deadline).await?.committed().await?;
        task.visible_to(appended.end_offset(), deadline).await?;
        let mut position = Cut::new();
        position.raise("_catalog", 0, appended.end_offset());
        Ok(position)
    }

    pub(crate) async fn execute(&self, statement: &Statement, context: Context<'_>) -> Result<SqlAnswer> {
        let statement = match statement {
            Statement::Ddl(ddl) => return self.execute_ddl(Ddl::clone(ddl), context).await,
            Statement::Sql(statement) => statement,
        };
        if let Some(answer) = fast_path::execute(self, statement, context).await {
            return answer;
        }
        if let Some(answer) = fast_path::explain(self, statement, context).await {
            return answer;
        }
        if let Some(answer) = dml::execute(self, statement, context).await {
            return answer;
        }
        if let Some(answer) = copy::execute(self, statement, context).await {
            return answer;
        }
        match &**statement {
            Ast::Query(_) => {}
            Ast::Explain { statement, .. } if matches!(**statement, Ast::Query(_)) => {}
            other => {
                let text = other.to_string();
                let words: Vec<&str> = text.split_whitespace().take(2).collect();
                return Err(Error::unsupported(format!("{} is not supported yet", words.join(" "))));
            }
        }
        let planned = query::plan(self, Ast::clone(statement), context, None).await?;
        let (schema, cut) = (planned.schema(), planned.cut().clone());
        Ok(SqlAnswer::Rows(Rows { schema, stream: planned.run(self, context.deadline)?, cut, written: None }))
    }

    /// A change of definitions is finished also when the client vanishes: half of one would be found by the next.
    async fn execute_ddl(&self, ddl: Ddl, context: Context<'_>) -> Result<SqlAnswer> {
        let (database, params, wait, deadline) = (self.clone(), context.params.to_vec(), context.wait.clone(), context.deadline);
        let work = async move {
            let context = Context { params: &params, wait: &wait, deadline, transaction: None, numbers: None };
            Box::pin(define::execute(&database, ddl, context)).await
        };
        Finishing::new(self.runtime().clone(), work).await
    }

    /// Waits until `cut` is visible in every view of its streams that somebody made; what searches written documents is waited for
    /// by those who search.
    ///
    /// # Errors
    /// At `deadline`; unknown streams and partitions; views that stopped.
    pub async fn wait(&self, cut: &Cut, deadline: Instant) -> Result<()> {
        let catalog = self.catalog();
        let mut tables = Vec::new();
        for (stream, _, _) in cut.ends() {
            let id = catalog.stream(stream)?.id;
            let views = catalog.tables().filter(|table| table.stream().value() == id);
            tables.extend(views.map(|table| TableUse {
                internal: table.name.clone(),
                name: table.name.clone(),
                ..TableUse::default()
            }));
        }
        let context = Context { params: &[], wait: cut, deadline, transaction: None, numbers: None };
        cut::choose(self, &Uses { tables, ..Uses::default() }, context).await.map(drop).map_err(|error| self.named(error))
    }

    /// Starts a rebuild of a table's view, and says how it stands.
    ///
    /// # Errors
    /// Unknown tables; a rebuild that is running already.
    pub async fn rebuild(&self, name: &str) -> Result<ViewInfo> {
        let (database, of) = (self.clone(), name.to_owned());
        Finishing::new(self.runtime().clone(), async move { define::rebuild(&database, &of).await }).await?;
        self.view(name)
    }

    /// Waits until generation `generation` of a view, or a newer one, serves.
    ///
    /// # Errors
    /// At `deadline`; when the table is dropped.
    pub async fn rebuilt(&self, name: &str, generation: u64, deadline: Instant) -> Result<ViewInfo> {
        loop {
            let view = self.view(name)?;
            if view.generation >= generation {
                return Ok(view);
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    sqlstate::QUERY_CANCELED,
                    ErrorKind::Unavailable,
                    format!("the rebuild of \"{name}\" is not done yet"),
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
