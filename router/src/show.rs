//! `SHOW STREAMS`, `SHOW TABLES`, `SHOW VIEWS`, `SHOW CURSORS`: the pictures of streams, views and cursors as rows.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;

use crate::answer::{Rows, SqlAnswer};
use crate::catalog::Source;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::position::Cut;
use crate::units::show_size;

fn text(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn number(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(values.map(|value| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))).collect::<Int64Array>())
}

fn answer(columns: Vec<(&str, ArrayRef)>) -> Result<SqlAnswer> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let batch = batch.map_err(|error| Error::internal(error.to_string()))?;
    let schema = batch.schema();
    let stream = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), stream::iter([Ok(batch)])));
    Ok(SqlAnswer::Rows(Rows { schema, stream, cut: Cut::new(), written: None }))
}

/// `SHOW STREAMS`
///
/// # Errors
/// Never for what the database knows itself.
pub fn streams(database: &Database) -> Result<SqlAnswer> {
    let streams: Vec<_> = database.streams().into_iter().filter(|stream| !stream.name.starts_with('_')).collect();
    answer(vec![
        ("name", text(streams.iter().map(|stream| Some(stream.name.clone())))),
        ("partitions", number(streams.iter().map(|stream| Some(stream.partitions.len() as u64)))),
        ("records", number(streams.iter().map(|stream| Some(stream.totals.records)))),
        ("bytes", number(streams.iter().map(|stream| Some(stream.totals.bytes)))),
        ("ack", text(streams.iter().map(|stream| Some(stream.ack.to_string())))),
        ("compression", text(streams.iter().map(|stream| Some(stream.compression.clone())))),
        ("retention", text(streams.iter().map(|stream| Some(stream.retention.clone())))),
        ("retention_bytes", text(streams.iter().map(|stream| stream.retention_bytes.map(show_size)))),
        ("retention_records", number(streams.iter().map(|stream| stream.retention_records))),
        ("compact", text(streams.iter().map(|stream| Some(stream.compact.to_string())))),
        ("tombstone_grace", text(streams.iter().map(|stream| Some(stream.tombstone_grace.clone())))),
        ("segment_bytes", text(streams.iter().map(|stream| Some(show_size(stream.segment_bytes))))),
        ("flush_interval", text(streams.iter().map(|stream| Some(stream.flush_interval.clone())))),
    ])
}

/// `SHOW TABLES`
///
/// # Errors
/// Never for what the database knows itself.
pub fn tables(database: &Database) -> Result<SqlAnswer> {
    let catalog = database.catalog();
    let tables: Vec<_> = catalog.tables().collect();
    let source = |source: &Source| match source {
        Source::Own | Source::Documents { .. } => None,
        Source::Stream { stream, .. } | Source::Keys { stream } => {
            catalog.stream_by_id(logcore::StreamId::new(*stream)).map(|stream| stream.name.clone())
        }
    };
    answer(vec![
        ("name", text(tables.iter().map(|table| Some(table.name.clone())))),
        ("kind", text(tables.iter().map(|table| Some(catalog.kind_of(table).to_owned())))),
        ("stream", text(tables.iter().map(|table| source(&table.source)))),
    ])
}

/// `SHOW VIEWS`
///
/// # Errors
/// Never for what the database knows itself.
pub fn views(database: &Database) -> Result<SqlAnswer> {
    let views = database.view_infos();
    let rebuild = |view: &crate::ViewInfo| {
        let rebuild = view.rebuild.as_ref()?;
        let to_go = rebuild.seconds_to_go.map_or("?".into(), |seconds| format!("{seconds:.0}"));
        Some(format!(
            "generation {}: {} of {} records, {:.0}/s, {to_go} s to go",
            rebuild.generation, rebuild.records, rebuild.records_total, rebuild.records_per_second
        ))
    };
    answer(vec![
        ("name", text(views.iter().map(|view| Some(view.name.clone())))),
        ("kind", text(views.iter().map(|view| Some(view.kind.to_owned())))),
        ("stream", text(views.iter().map(|view| Some(view.stream.clone())))),
        ("generation", number(views.iter().map(|view| Some(view.generation)))),
        ("state", text(views.iter().map(|view| Some(view.state.to_owned())))),
        ("applied", number(views.iter().map(|view| Some(view.partitions.iter().map(|part| part.applied).sum())))),
        ("lag_records", number(views.iter().map(|view| Some(view.lag_records)))),
        ("dead_letters", number(views.iter().map(|view| Some(view.dead_letters)))),
        ("rebuild", text(views.iter().map(rebuild))),
        ("reason", text(views.iter().map(|view| view.reason.clone()))),
    ])
}

/// `SHOW CURSORS`
///
/// # Errors
/// When the cursors did not open.
pub fn cursors(database: &Database) -> Result<SqlAnswer> {
    let cursors = database.cursors(None)?;
    let numbers = |of: fn(&crate::CursorInfo) -> u64| number(cursors.iter().map(|cursor| Some(of(cursor))));
    answer(vec![
        ("name", text(cursors.iter().map(|cursor| Some(cursor.name.clone())))),
        ("stream", text(cursors.iter().map(|cursor| Some(cursor.stream.clone())))),
        ("partition", numbers(|cursor| u64::from(cursor.partition))),
        ("offset", numbers(|cursor| cursor.offset)),
        ("end_offset", numbers(|cursor| cursor.end_offset)),
        ("log_start", numbers(|cursor| cursor.log_start)),
        ("lag_records", numbers(|cursor| cursor.lag_records)),
    ])
}
