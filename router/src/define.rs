//! Carrying out DDL: checked, recorded in `_catalog`, then made real.
//!
//! # Crash safety
//! The catalog's record is the definition. A stop between it and the folders leaves either folders that nothing names, removed
//! at the next start, or a definition without folders, which are then made.

mod alter;
mod analyze;
mod history;
pub(crate) mod index;
pub(crate) mod key_view;
mod mapping;
mod options;
pub(crate) mod query;
pub(crate) mod sequence;
mod stream;
mod truncate;
mod ttl;

use std::sync::Arc;

use docstore::Mapping;
use logcore::ErrorKind;
use rowstore::{ColumnType, TableSchema};
use tsstore::{Duplicates, FieldKind, SeriesSchema};

use crate::answer::SqlAnswer;
use crate::catalog::{CatalogRecord, CatalogState, SeriesDef, Source, StreamDef, TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::position::Cut;
use crate::query::Context;
use crate::sql::ddl::{CreateTable, Ddl, Options};
use crate::units::{SPAN_HINT, parse_span};
use crate::view::rebuild;
use crate::view::running::View;
use crate::view::written;
use crate::{dml, show};

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 255;

/// Carries out a statement of ours.
///
/// # Errors
/// What is wrong with it or stands against it.
pub async fn execute(database: &Database, ddl: Ddl, context: Context<'_>) -> Result<SqlAnswer> {
    match ddl {
        Ddl::ShowStreams => show::streams(database),
        Ddl::ShowViews => show::views(database),
        Ddl::ShowTables => show::tables(database),
        Ddl::ShowCursors => show::cursors(database),
        Ddl::CreateStream { name, if_not_exists, options } => stream::create(database, name, if_not_exists, options).await,
        Ddl::AlterStream { name, if_exists, options } => stream::alter(database, &name, if_exists, options).await,
        Ddl::DropStream { name, if_exists } => stream::remove(database, &name, if_exists).await,
        Ddl::CreateTable(table) => create_table(database, table, context).await,
        Ddl::DropTable { name, if_exists, cascade } => drop_table(database, &name, if_exists, cascade).await,
        Ddl::CreateView(view) => query::create(database, view, context).await,
        Ddl::DropView { names, if_exists, cascade } => query::remove(database, &names, if_exists, cascade).await,
        Ddl::AlterTable(statement) => Box::pin(alter::execute(database, statement, context)).await,
        Ddl::CreateIndex(wanted) => index::create(database, wanted, context).await,
        Ddl::Truncate(statement) => truncate::execute(database, statement, context).await,
        Ddl::CreateSequence(wanted) => sequence::create(database, wanted).await,
        Ddl::DropSequence { names, if_exists, cascade } => sequence::remove(database, &names, if_exists, cascade).await,
        Ddl::DropIndex { name, if_exists } => index::remove(database, &name, if_exists).await,
        Ddl::Vacuum { name } => history::vacuum(database, name.as_deref(), context).await,
        Ddl::Analyze { name } => analyze::execute(database, name.as_deref()).await,
        Ddl::RebuildView { name } => {
            database.rebuild(&name).await?;
            Ok(done("REBUILD VIEW", None))
        }
    }
}

fn done(tag: &'static str, position: Option<Cut>) -> SqlAnswer {
    SqlAnswer::Done { tag, position }
}

/// Whether a name can be given to something new.
fn check_name(catalog: &CatalogState, name: &str) -> Result<()> {
    let fine = |part: &str| !part.is_empty() && !part.contains(['/', '@', ',', '"', '\0']) && part.trim() == part;
    if !name.split('.').all(fine) || name.len() > NAME_BYTES_MAX || name.starts_with('_') {
        return Err(Error::invalid(format!("\"{name}\" can't be a name"))
            .hint("use letters, digits, underscores and dots, not an underscore first, at most 255 bytes"));
    }
    let taken = match (catalog.find_stream(name), catalog.find_table(name)) {
        (Some(_), _) => "stream",
        (_, Some(_)) => "table",
        _ if catalog.find_query(name).is_some() => "named query (CREATE VIEW)",
        _ if catalog.find_sequence(name).is_some() => "sequence",
        _ => return Ok(()),
    };
    let message = format!("a {taken} named \"{name}\" already exists");
    Err(Error::new(sqlstate::DUPLICATE_TABLE, ErrorKind::Conflict, message).hint("choose another name, or say IF NOT EXISTS"))
}

async fn create_table(database: &Database, table: CreateTable, context: Context<'_>) -> Result<SqlAnswer> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    if table.if_not_exists && catalog.find_table(&table.name).is_some() {
        return Ok(done("CREATE TABLE", None));
    }
    check_name(&catalog, &table.name)?;
    let stream = match &table.stream {
        Some(name) => Arc::clone(catalog.stream(name)?),
        None => Arc::clone(catalog.stream("_tables")?),
    };
    let (mut options, mut history, mut ttl_ms) = (table.options, None, None);
    let (mut sequences, mut search) = (Vec::new(), None);
    let kind = match table.kind.as_str() {
        "row" => {
            history = history::of_new(std::mem::take(&mut options))?;
            let mut schema = row_schema(table.schema, table.stream.is_some())?;
            if table.stream.is_some() && !table.sequences.is_empty() {
                return Err(Error::unsupported(
                    "a view of a stream has no SERIAL and no identity columns: its rows come from records",
                )
                .hint("make a table of its own"));
            }
            let constrained = !schema.constraints.is_empty() || !table.foreign_keys.is_empty();
            if constrained && table.stream.is_some() {
                return Err(Error::unsupported("a view of a stream has no UNIQUE, CHECK or REFERENCES: it can refuse nothing")
                    .hint("filter with AS SELECT ... WHERE, or make a table of its own"));
            }
            let own = (catalog.next_table(), table.name.as_str());
            index::resolve_references(&catalog, own, &mut schema, table.foreign_keys)?;
            sequences = sequence::of_columns(&catalog, own, &mut schema, &table.sequences)?;
            TableKind::Row(schema)
        }
        "document" if table.schema.is_some() => {
            return Err(
                Error::invalid("a document table has no column list").hint("name paths in WITH (search = '...', facets = '...')")
            );
        }
        "document" if table.stream.is_none() => {
            search = Some(mapping::of_written(&mut options)?);
            ttl_ms = ttl::of_new(&mut options)?;
            history = history::of_new(options)?;
            TableKind::Row(written::schema())
        }
        "document" => TableKind::Document(mapping::read(&mut options, Mapping::default()).and_then(|mapping| {
            options.finish(&Mapping::OPTIONS)?;
            Ok(mapping)
        })?),
        "series" if table.stream.is_none() => {
            return Err(Error::unsupported("series tables without a stream are not supported yet").hint("add FROM STREAM name"));
        }
        "series" => TableKind::Series(series(table.schema, &mut options).and_then(|series| {
            options.finish(&["time", "tags", "chunk", "duplicates"])?;
            Ok(series)
        })?),
        other => return Err(Error::invalid(format!("USING {other} is unknown")).hint("use row, document or series")),
    };
    if table.stream.is_some() && stream.options.is_ring() {
        let message = format!("stream \"{}\" is a ring: it overwrites records that a view may not have applied yet", stream.name);
        return Err(Error::invalid(message).hint(format!("ALTER STREAM {} SET (retention = '7 days') first", stream.name)));
    }
    let source = match table.stream {
        None if table.select.is_some() => {
            return Err(Error::unsupported("CREATE TABLE ... AS SELECT without FROM STREAM is not supported yet"));
        }
        None => Source::Own,
        Some(_) => Source::Stream { stream: stream.id, select: table.select },
    };
    let def = TableDef {
        id: catalog.next_table(),
        name: table.name,
        source,
        kind,
        generation: 1,
        building: None,
        next_mapping: None,
        newest: 1,
        history,
        ttl_ms,
    };
    if let TableKind::Row(schema) = &def.kind {
        let own = |name: &str| table.sequences.iter().any(|sequence| sequence.column == name);
        for (at, column) in schema.columns.iter().enumerate().filter(|(_, column)| !own(&column.name)) {
            if let Some(default) = &column.default {
                dml::check_default(database, default, schema, at, context).await?;
            }
        }
        dml::check_expressions(database, &def.name, schema)?;
    }
    let _gate = database.gate().write().await;
    let beside = search.map(|mapping| search_side(&def, mapping));
    if let Some(beside) = &beside {
        database.views().open(beside, &stream).await.inspect_err(|_| discard(database, beside))?;
        sequences.push(CatalogRecord::TableCreated(Box::new(beside.clone())));
    }
    let defined = define_table(database, def, sequences, &stream).await;
    let (_, position) = defined.inspect_err(|_| beside.iter().for_each(|beside| discard(database, beside)))?;
    Ok(done("CREATE TABLE", Some(position)))
}

/// What searches the documents of a table that SQL writes.
fn search_side(def: &TableDef, mapping: Mapping) -> TableDef {
    let (id, name) = (def.id + 1, search_name(&def.name));
    let (source, kind) = (Source::Documents { table: def.id }, TableKind::Document(mapping));
    TableDef { id, name, source, kind, generation: 1, building: None, next_mapping: None, newest: 1, history: None, ttl_ms: None }
}

/// The name of what searches a table, which nobody can give to anything.
fn search_name(table: &str) -> String {
    format!("{table}/search")
}

/// Removes the files of a table that was not created.
fn discard(database: &Database, def: &TableDef) {
    if let Err(error) = database.views().discard(def.id) {
        tracing::warn!(table = def.name, %error, "the files of a table that was not created stay until the next start");
    }
}

/// Opens a table and records it. In this order: a SELECT that does not plan or a mapping that does not fit leaves nothing behind.
async fn define_table(
    database: &Database,
    def: TableDef,
    sequences: Vec<CatalogRecord>,
    stream: &Arc<StreamDef>,
) -> Result<(Arc<View>, Cut)> {
    let recorded = match database.views().open(&def, stream).await {
        Ok(view) => {
            let records: Vec<CatalogRecord> =
                sequences.into_iter().chain([CatalogRecord::TableCreated(Box::new(def.clone()))]).collect();
            database.record_all(&records).await.map(|position| (view, position))
        }
        Err(error) => Err(error),
    };
    if recorded.is_err() {
        discard(database, &def);
    }
    recorded
}

/// Lets go of a table's generations in the background, once their last readers are gone.
fn retire(database: &Database, table: u32) {
    for generation in database.views().take(table) {
        let background = database.clone();
        database.spawn(async move {
            if let Err(error) = background.views().retire(table, generation).await {
                tracing::warn!(table, %error, "files of a dropped table stay until the next start");
            }
        });
    }
}

fn row_schema(schema: Option<TableSchema>, of_stream: bool) -> Result<TableSchema> {
    let schema = schema.ok_or_else(|| Error::syntax("a row table needs columns: CREATE TABLE t (id BIGINT PRIMARY KEY, ...)"))?;
    if schema.primary_key.is_empty() && !of_stream {
        return Err(Error::unsupported("a table without a primary key is not supported yet").hint("add PRIMARY KEY to a column"));
    }
    if of_stream && let Some(column) = schema.columns.iter().find(|column| column.default.is_some()) {
        return Err(Error::invalid(format!("column \"{}\" of a view can't have a DEFAULT", column.name)));
    }
    Ok(schema)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn series(schema: Option<TableSchema>, options: &mut Options) -> Result<SeriesDef> {
    let mut schema = schema.ok_or_else(|| Error::syntax("a series table needs columns: CREATE TABLE s (ts TIMESTAMPTZ, ...)"))?;
    if !schema.primary_key.is_empty() {
        return Err(Error::invalid("a series table has no primary key: its points are told apart by time and tags"));
    }
    let time = options.take("time").ok_or_else(|| Error::invalid("a series table needs WITH (time = 'column')"))?;
    let tags: Vec<String> = words(&options.take("tags").unwrap_or_default()).map(str::to_owned).collect();
    for name in tags.iter().chain([&time]) {
        let column = schema.column(name).ok_or_else(|| Error::invalid(format!("\"{name}\" is not a column of the table")))?;
        let (wanted, fits) = match *name == time {
            true => ("TIMESTAMPTZ", matches!(schema.columns[column].kind, ColumnType::TimestampTz | ColumnType::Timestamp)),
            false => ("TEXT", schema.columns[column].kind == ColumnType::Text),
        };
        if !fits {
            return Err(Error::invalid(format!("column \"{name}\" must be {wanted}")));
        }
    }
    let chunk = options.take("chunk").unwrap_or_else(|| "7 days".into());
    let chunk_millis = parse_span(&chunk)
        .and_then(|span| i64::try_from(span.as_millis()).ok())
        .ok_or_else(|| Error::invalid(format!("chunk = '{chunk}' is not a time span")).hint(SPAN_HINT))?;
    let duplicates = match options.take("duplicates").as_deref() {
        None | Some("keep") => Duplicates::Keep,
        Some("replace") => Duplicates::Replace,
        Some(other) => {
            return Err(Error::invalid(format!("duplicates = '{other}' is unknown"))
                .hint("'keep': each record is a point; 'replace': of equal tags and time each field has its last value"));
        }
    };
    let mut fields = Vec::new();
    for column in &mut schema.columns {
        if column.name == time {
            (column.kind, column.not_null) = (ColumnType::TimestampTz, true);
            continue;
        }
        if tags.contains(&column.name) {
            continue;
        }
        let (kind, field) = match column.kind {
            ColumnType::Real | ColumnType::Double => (ColumnType::Double, FieldKind::Float),
            ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt => (ColumnType::BigInt, FieldKind::Integer),
            ColumnType::Boolean => (ColumnType::Boolean, FieldKind::Boolean),
            ColumnType::Text => (ColumnType::Text, FieldKind::Text),
            _ => {
                return Err(Error::unsupported(format!("column \"{}\" has a type that a series does not keep", column.name))
                    .hint("use DOUBLE PRECISION, BIGINT, BOOLEAN or TEXT"));
            }
        };
        column.kind = kind;
        if std::mem::take(&mut column.not_null) {
            return Err(Error::unsupported(format!("NOT NULL on field \"{}\" of a series is not supported yet", column.name)));
        }
        fields.push((column.name.clone(), field));
    }
    let columns = schema.columns.iter().map(|column| column.name.clone()).collect();
    let series = SeriesSchema { columns, duplicates, ..SeriesSchema::new(time, tags, fields, chunk_millis) };
    Ok(SeriesDef { columns: schema, series })
}

async fn drop_table(database: &Database, name: &str, if_exists: bool, cascade: bool) -> Result<SqlAnswer> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    if if_exists && catalog.find_table(name).is_none() {
        return Ok(done("DROP TABLE", None));
    }
    if catalog.find_query(name).is_some() {
        let message = format!("\"{name}\" is a named query (CREATE VIEW), not a table");
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message).hint("use DROP VIEW"));
    }
    let def = Arc::clone(catalog.table(name)?);
    if def.is_hidden() {
        let message = format!("table \"{name}\" belongs to the database and goes with its stream");
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message));
    }
    if let Some(other) = catalog.tables().find(|other| other.id != def.id && index::references(other, def.id, None)) {
        let message = format!("table \"{}\" references table \"{name}\"", other.name);
        return Err(
            Error::new(sqlstate::DEPENDENT_OBJECTS, ErrorKind::Conflict, message).hint(format!("drop \"{}\" first", other.name))
        );
    }
    query::drop_dependents(database, "table", name, cascade).await?;
    let _gate = database.gate().write().await;
    let ids: Vec<u32> = catalog.search_side(def.id).map(|beside| beside.id).into_iter().chain([def.id]).collect();
    let records: Vec<CatalogRecord> = ids.iter().map(|id| CatalogRecord::TableDropped { id: *id }).collect();
    let position = database.record_all(&records).await?;
    ids.into_iter().for_each(|id| retire(database, id));
    Ok(done("DROP TABLE", Some(position)))
}

/// Starts a rebuild.
///
/// # Errors
/// When one is running or its files can't be made.
pub async fn rebuild(database: &Database, name: &str) -> Result<()> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    let table = catalog.table(name)?;
    let generation = table.newest + 1;
    let Ok(view) = database.views().get(table) else { return replace(database, table, generation).await };
    if let Some(building) = view.building() {
        let message = format!("view \"{name}\" is being rebuilt already, as generation {}", building.number);
        return Err(Error::new(sqlstate::OBJECT_IN_USE, ErrorKind::Conflict, message).hint("see SHOW VIEWS for its progress"));
    }
    database.record(&CatalogRecord::RebuildStarted { id: table.id, generation }).await?;
    rebuild::begin(database, view, generation).await
}

/// A view whose files did not open has nothing to serve meanwhile: the new generation takes its place at once, empty at first.
async fn replace(database: &Database, table: &TableDef, generation: u64) -> Result<()> {
    let stream = Arc::clone(
        database.catalog().stream_by_id(table.stream()).ok_or_else(|| Error::internal("a table's stream is in the catalog"))?,
    );
    database.record(&CatalogRecord::RebuildStarted { id: table.id, generation }).await?;
    database.record(&CatalogRecord::GenerationSwapped { id: table.id, generation }).await?;
    let catalog = database.catalog();
    let fresh = catalog.table_by_id(table.id).ok_or_else(|| Error::internal("a table that is defined is in the catalog"))?;
    database.views().open(fresh, &stream).await.map(drop)
}
