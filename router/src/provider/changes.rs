//! `CHANGES(table)`: the change feed as a table. Conditions on partition, offset and timestamp are seeks.
//!
//! Columns: `partition`, `offset`, `timestamp` and `change` (`insert`, `update` or `delete`), then every column of the table as
//! `old_...`, then every column as `new_...`. They can't meet: none of the first begins like the others.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use logcore::Offset;
use rowstore::TableSchema;

use super::scan::{Bounds, Scan, Source};
use super::stream::{STREAM_SCHEMA, Window};
use crate::error::{Error, Result};
use crate::feed::{Change, FeedPart};
use crate::position::Cut;
use crate::sql::rewrite::ChangesFrom;

/// Columns in front of the table's own.
const OWN: usize = 4;
/// Rows of a batch end here, whatever their number.
const BATCH_BYTES: usize = 1 << 20;

/// The columns of a table's feed.
pub(crate) fn schema_of(table: &TableSchema) -> SchemaRef {
    let columns = table.arrow();
    let versions = |prefix: &'static str| {
        columns
            .fields()
            .iter()
            .map(move |field| Field::clone(field).with_name(format!("{prefix}{}", field.name())).with_nullable(true))
    };
    let own = (0..3).map(|at| STREAM_SCHEMA.field(at).clone()).chain([Field::new("change", DataType::Utf8, false)]);
    Arc::new(Schema::new(own.chain(versions("old_")).chain(versions("new_")).collect::<Vec<_>>()))
}

/// Changes in columns of `schema`, those at the positions of `projection`.
///
/// # Errors
/// When a row does not decode.
pub(crate) fn batch_of(part: &FeedPart, changes: &[Change], schema: &SchemaRef, projection: &[usize]) -> Result<RecordBatch> {
    let columns = part.rows.schema().columns.len();
    let of = |from: usize| -> Vec<usize> {
        projection.iter().filter(|at| (from..from + columns).contains(*at)).map(|at| at - from).collect()
    };
    let old = part.rows.columns_of(changes.iter().map(|change| change.versions.old.as_deref()), &of(OWN))?;
    let new = part.rows.columns_of(changes.iter().map(|change| change.versions.new.as_deref()), &of(OWN + columns))?;
    let (mut old, mut new) = (old.into_iter(), new.into_iter());
    let array = |at: &usize| -> Option<ArrayRef> {
        Some(match at {
            0 => Arc::new(Int32Array::from(vec![i32::try_from(part.partition).unwrap_or(i32::MAX); changes.len()])),
            1 => Arc::new(Int64Array::from_iter_values(changes.iter().map(|change| change.offset.value().cast_signed()))),
            2 => {
                let micros = changes.iter().map(|change| change.timestamp.value().saturating_mul(1_000));
                Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
            }
            3 => Arc::new(StringArray::from_iter_values(changes.iter().map(Change::kind))),
            at if *at < OWN + columns => old.next()?,
            _ => new.next()?,
        })
    };
    let arrays = projection.iter().map(array).collect::<Option<Vec<_>>>();
    let arrays = arrays.ok_or_else(|| Error::internal("every column of a feed is built"))?;
    let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
    let schema = schema.project(projection).map_err(|error| Error::internal(error.to_string()))?;
    RecordBatch::try_new_with_options(Arc::new(schema), arrays, &options).map_err(|error| Error::internal(error.to_string()))
}

/// See the module docs.
pub(crate) struct ChangesProvider {
    name: String,
    schema: SchemaRef,
    /// Each with the offset that it begins at.
    parts: Vec<(FeedPart, Offset)>,
}

impl ChangesProvider {
    /// The feed of a table of `stream`, from where the statement says.
    ///
    /// # Errors
    /// When it can't begin there.
    pub fn new(table: (&str, &TableSchema), stream: &str, parts: Vec<FeedPart>, from: &ChangesFrom) -> Result<Self> {
        let (name, columns) = table;
        let several = parts.len() > 1;
        let begin = |part: FeedPart| {
            let from = match from {
                ChangesFrom::Earliest => return Ok((part.start(), part)),
                ChangesFrom::Offset(_) if several => {
                    let message =
                        format!("stream \"{stream}\" of table \"{name}\" has several partitions: one offset is no place in it");
                    return Err(Error::invalid(message).hint("write CHANGES(table, 'stream/0@offset,stream/1@offset')"));
                }
                ChangesFrom::Offset(offset) => Offset::new(*offset),
                ChangesFrom::Behind(cut) => behind(cut, stream, &part)?,
            };
            part.check(name, stream, from)?;
            Ok((from, part))
        };
        let parts = parts.into_iter().map(|part| begin(part).map(|(from, part)| (part, from))).collect::<Result<_>>()?;
        Ok(Self { name: name.to_owned(), schema: schema_of(columns), parts })
    }
}

/// Where the changes behind a position begin; a partition that it does not name had nothing when it was given.
fn behind(cut: &Cut, stream: &str, part: &FeedPart) -> Result<Offset> {
    if let Some((other, ..)) = cut.ends().find(|(named, ..)| *named != stream) {
        let message = format!("the position is of stream \"{other}\", the changes are of \"{stream}\"");
        return Err(Error::invalid(message).hint(format!("write {stream}/0@offset")));
    }
    Ok(cut.end(stream, part.partition).unwrap_or_default())
}

impl std::fmt::Debug for ChangesProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "changes of {}", self.name)
    }
}

impl Source for ChangesProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn pushdown(&self, filter: &Expr) -> TableProviderFilterPushDown {
        match Window::default().narrow(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        }
    }

    fn scan(&self, projection: Vec<usize>, _schema: &SchemaRef, filters: &[Expr]) -> Arc<dyn Scan> {
        let mut window = Window::default();
        for filter in filters {
            window.narrow(filter);
        }
        let (name, schema, parts) = (self.name.clone(), Arc::clone(&self.schema), self.parts.clone());
        Arc::new(ChangesScan { name, schema, parts, projection, window })
    }
}

struct ChangesScan {
    name: String,
    schema: SchemaRef,
    parts: Vec<(FeedPart, Offset)>,
    projection: Vec<usize>,
    window: Window,
}

impl Scan for ChangesScan {
    fn run(&self, partition: usize, bounds: Bounds, emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>) -> Result<()> {
        let Some((part, begin)) = self.parts.get(partition) else { return Ok(()) };
        let (from, until) = self.window.bounds(&part.log, part.end)?;
        let (mut gathered, mut bytes, mut failed) = (Vec::new(), 0, None);
        let mut left = bounds.limit.unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(());
        }
        let mut out = |gathered: &mut Vec<Change>| match batch_of(part, gathered, &self.schema, &self.projection) {
            Ok(batch) => {
                gathered.clear();
                emit(batch)
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        };
        part.each(from.max(*begin).max(part.start()), until, &mut |change| {
            bytes += change.bytes();
            left -= 1;
            gathered.push(change);
            if gathered.len() >= bounds.batch_rows || bytes >= BATCH_BYTES {
                bytes = 0;
                out(&mut gathered)?;
            }
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if !gathered.is_empty() {
            let _ = out(&mut gathered);
        }
        failed.map_or(Ok(()), Err)
    }

    fn partitions(&self) -> usize {
        self.parts.len()
    }

    fn describe(&self) -> String {
        let columns: Vec<&str> = self.projection.iter().map(|at| self.schema.field(*at).name().as_str()).collect();
        format!("ChangesScan: {}, columns=[{}], {:?}", self.name, columns.join(", "), self.window)
    }

    fn ascending_column(&self) -> Option<usize> {
        self.projection.iter().position(|at| *at == 1)
    }
}
