//! A stream as a table: `partition, offset, timestamp, key, value, headers`. Conditions on partition, offset and timestamp are
//! seeks; counting reads no record.
//!
//! [`records_batch`] is also how `AS SELECT` projections see records.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{
    ArrayRef, Int32Builder, Int64Builder, RecordBatch, RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown};
use logcore::frame::batch::count_of;
use logcore::frame::{Frame, FrameKind};
use logcore::{Batch, Offset, Partition, Record, TimestampMillis};
use rowstore::schema::KIND_METADATA;

use super::filter::{comparison, micros};
use super::scan::{Bounds, Scan, Source};
use crate::error::{Error, Result};

/// Read from the log at once.
const READ_BYTES: usize = 1 << 20;

/// The columns of every stream.
pub static STREAM_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let json =
        |name: &str| Field::new(name, DataType::Utf8, true).with_metadata([(KIND_METADATA.to_owned(), "json".to_owned())].into());
    Arc::new(Schema::new(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("key", DataType::Utf8, true),
        json("value"),
        json("headers"),
    ]))
});

/// Bytes as text: themselves when they are UTF-8, else as PostgreSQL writes BYTEA.
#[must_use]
pub fn text_of(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().fold("\\x".to_owned(), |text, byte| text + &format!("{byte:02x}")).into(),
    }
}

fn headers_json(record: &Record<'_>) -> Option<String> {
    let headers = record.headers();
    if headers.is_empty() {
        return None;
    }
    let text = |value: Option<&[u8]>| value.map_or(serde_json::Value::Null, |value| text_of(value).into_owned().into());
    let object: serde_json::Map<String, serde_json::Value> =
        headers.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
    Some(serde_json::Value::Object(object).to_string())
}

/// Lays records out in columns of [`STREAM_SCHEMA`], those at the positions of `projection`.
///
/// # Errors
/// Never for positions of the schema.
pub fn records_batch(partition: u32, records: &[Record<'_>], projection: &[usize]) -> Result<RecordBatch> {
    let schema = Arc::new(STREAM_SCHEMA.project(projection).map_err(arrow)?);
    let column = |at: &usize| -> ArrayRef {
        match at {
            0 => {
                let mut builder = Int32Builder::with_capacity(records.len());
                builder.append_value_n(i32::try_from(partition).unwrap_or(i32::MAX), records.len());
                Arc::new(builder.finish())
            }
            1 => {
                let mut builder = Int64Builder::with_capacity(records.len());
                records.iter().for_each(|record| builder.append_value(record.offset.value().cast_signed()));
                Arc::new(builder.finish())
            }
            2 => {
                let mut builder = TimestampMicrosecondBuilder::with_capacity(records.len()).with_timezone("UTC");
                records.iter().for_each(|record| builder.append_value(record.timestamp.value().saturating_mul(1_000)));
                Arc::new(builder.finish())
            }
            at => {
                let mut builder = StringBuilder::new();
                for record in records {
                    match at {
                        3 => builder.append_option(record.key.map(text_of)),
                        4 => builder.append_option(record.value.map(text_of)),
                        _ => builder.append_option(headers_json(record)),
                    }
                }
                Arc::new(builder.finish())
            }
        }
    };
    let options = RecordBatchOptions::new().with_row_count(Some(records.len()));
    RecordBatch::try_new_with_options(schema, projection.iter().map(column).collect(), &options).map_err(arrow)
}

fn arrow(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::internal(error.to_string())
}

/// See the module docs.
pub struct StreamProvider {
    name: String,
    parts: Vec<(Arc<Partition>, Offset)>,
}

impl StreamProvider {
    /// The stream's partitions, each with the end it is read to.
    #[must_use]
    pub fn new(name: &str, parts: Vec<(Arc<Partition>, Offset)>) -> Self {
        Self { name: name.to_owned(), parts }
    }
}

impl std::fmt::Debug for StreamProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "records of {}", self.name)
    }
}

/// What part of a stream can hold what is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    partition: Option<i64>,
    from: Option<i64>,
    until: Option<i64>,
    since_micros: Option<i64>,
}

impl Window {
    /// Narrows the window by a condition; `false` when the condition is none of ours.
    pub(crate) fn narrow(&mut self, expr: &Expr) -> bool {
        let Some(found) = comparison(expr) else { return false };
        match (found.column, number(found.value), found.operator) {
            ("partition", Some(partition), Operator::Eq) => self.partition = Some(partition),
            ("offset", Some(at), Operator::Eq) => {
                self.from = self.from.max(Some(at));
                self.until = Some(self.until.map_or(at.saturating_add(1), |until| until.min(at.saturating_add(1))));
            }
            ("offset", Some(at), Operator::GtEq) => self.from = self.from.max(Some(at)),
            ("offset", Some(at), Operator::Gt) => self.from = self.from.max(Some(at.saturating_add(1))),
            ("offset", Some(at), Operator::Lt) => self.until = Some(self.until.map_or(at, |until| until.min(at))),
            ("offset", Some(at), Operator::LtEq) => {
                self.until = Some(self.until.map_or(at.saturating_add(1), |until| until.min(at.saturating_add(1))));
            }
            ("timestamp", _, Operator::Eq | Operator::GtEq | Operator::Gt) => match micros(found.value) {
                Some(at) => self.since_micros = self.since_micros.max(Some(at)),
                None => return false,
            },
            _ => return false,
        }
        true
    }

    /// The offsets of a partition that can hold what is asked for.
    pub(crate) fn bounds(&self, partition: &Partition, cut: Offset) -> Result<(Offset, Offset)> {
        let number = i64::from(partition.id().partition.value());
        if self.partition.is_some_and(|wanted| wanted != number) {
            return Ok((Offset::ZERO, Offset::ZERO));
        }
        let offset = |at: i64| Offset::new(at.max(0).unsigned_abs());
        let mut from = partition.log_start().max(self.from.map_or(Offset::ZERO, offset));
        if let Some(since) = self.since_micros {
            from = from.max(partition.offset_at(TimestampMillis::new(since.div_euclid(1_000)))?);
        }
        Ok((from, self.until.map_or(cut, |until| cut.min(offset(until)))))
    }
}

fn number(value: &ScalarValue) -> Option<i64> {
    match value.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(number) if value.data_type().is_integer() => number,
        _ => None,
    }
}

impl Source for StreamProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&STREAM_SCHEMA)
    }

    fn pushdown(&self, filter: &Expr) -> TableProviderFilterPushDown {
        // A seek goes to the right neighbourhood; the condition itself stays with DataFusion.
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
        Arc::new(StreamScan { name: self.name.clone(), parts: self.parts.clone(), projection, window })
    }
}

struct StreamScan {
    name: String,
    parts: Vec<(Arc<Partition>, Offset)>,
    projection: Vec<usize>,
    window: Window,
}

impl StreamScan {
    fn count(&self, frames: &[Frame], from: Offset, until: Offset) -> Result<RecordBatch> {
        let batches = frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch);
        let inside = batches.map(|frame| records_inside(frame, from, until)).sum::<Result<u64>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(usize::try_from(inside).unwrap_or(usize::MAX)));
        let schema = Arc::new(STREAM_SCHEMA.project(&self.projection).map_err(arrow)?);
        RecordBatch::try_new_with_options(schema, Vec::new(), &options).map_err(arrow)
    }
}

/// How many records of a batch lie in `from..until`. Opened only where compaction took some out and the range cuts it.
fn records_inside(frame: &Frame, from: Offset, until: Offset) -> Result<u64> {
    let (base, end) = (frame.header.base_offset, frame.end_offset());
    let offsets = base.max(from).records_until(end.min(until));
    match count_of(&frame.body).map(u64::from) {
        Some(count) if count == base.records_until(end) => Ok(offsets),
        Some(count) if from <= base && end <= until => Ok(count),
        _ => {
            let batch = Batch::open(&frame.body)?;
            let inside = batch
                .records()
                .filter(|record| record.as_ref().map_or(true, |record| record.offset >= from && record.offset < until));
            Ok(inside.collect::<Result<Vec<_>, _>>()?.len() as u64)
        }
    }
}

impl StreamScan {
    fn read(
        &self,
        partition: &Partition,
        cut: Offset,
        bounds: Bounds,
        emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>,
    ) -> Result<()> {
        let (mut next, until) = self.window.bounds(partition, cut)?;
        let mut left = bounds.limit.unwrap_or(usize::MAX);
        while next < until && left > 0 {
            let frames = partition.read(next, READ_BYTES)?;
            let Some(end) = frames.last().map(Frame::end_offset) else { break };
            if self.projection.is_empty() && bounds.limit.is_none() {
                if emit(self.count(&frames, next, until)?).is_break() {
                    return Ok(());
                }
                next = end;
                continue;
            }
            for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
                let batch = Batch::open(&frame.body)?;
                let mut records = batch.records().collect::<Result<Vec<_>, _>>()?;
                records.retain(|record| record.offset >= next && record.offset < until);
                records.truncate(left);
                left -= records.len();
                for part in records.chunks(bounds.batch_rows) {
                    if emit(records_batch(partition.id().partition.value(), part, &self.projection)?).is_break() {
                        return Ok(());
                    }
                }
            }
            next = end;
        }
        Ok(())
    }
}

impl Scan for StreamScan {
    fn run(&self, partition: usize, bounds: Bounds, emit: &mut dyn FnMut(RecordBatch) -> ControlFlow<()>) -> Result<()> {
        let Some((partition, cut)) = self.parts.get(partition) else { return Ok(()) };
        let named = |id: u32| (id == partition.id().stream.value()).then(|| self.name.clone());
        self.read(partition, *cut, bounds, emit).map_err(|error| error.with_names(named))
    }

    fn partitions(&self) -> usize {
        self.parts.len()
    }

    fn describe(&self) -> String {
        let Window { partition, from, until, since_micros } = self.window;
        let columns: Vec<&str> = self.projection.iter().map(|at| STREAM_SCHEMA.field(*at).name().as_str()).collect();
        format!(
            "StreamScan: {}, columns=[{}], partition={partition:?}, offset={from:?}..{until:?}, since={since_micros:?}",
            self.name,
            columns.join(", ")
        )
    }
}
