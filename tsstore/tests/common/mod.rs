//! What the tests share: a series with a column of every kind, points by offset, and scans as plain rows.
#![allow(dead_code, reason = "each test file uses its part")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use logcore::materialize::suite::batches;
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::{Batch, Offset};
use tsstore::{
    FieldKind, Points, ScanRequest, ScanStats, SeriesMaterializer, SeriesOptions, SeriesSchema, SeriesSnapshot, SeriesTable,
};

/// Columns of [`schema`], by number.
pub const COLUMNS: usize = 7;
pub const LOAD: usize = 0;
pub const TIME: usize = 1;
pub const HOST: usize = 2;

/// One point; the record at its offset in a [`Source`].
#[derive(Clone, Debug, Default)]
pub struct Point {
    pub time: i64,
    pub host: Option<String>,
    pub rack: Option<String>,
    pub load: Option<f64>,
    pub count: Option<i64>,
    pub up: Option<bool>,
    pub note: Option<String>,
}

impl Point {
    pub fn at(time: i64, host: &str, load: f64) -> Self {
        Self { time, host: Some(host.to_owned()), load: Some(load), ..Self::default() }
    }

    /// A column as text; floats by their bits.
    pub fn column(&self, column: usize) -> String {
        match column {
            LOAD => format!("{:?}", self.load.map(f64::to_bits)),
            TIME => format!("{:?}", Some(self.time)),
            HOST => format!("{:?}", self.host),
            3 => format!("{:?}", self.rack),
            4 => format!("{:?}", self.count),
            5 => format!("{:?}", self.up),
            _ => format!("{:?}", self.note),
        }
    }

    pub fn row(&self, projection: &[usize]) -> Vec<String> {
        projection.iter().map(|&column| self.column(column)).collect()
    }
}

/// The points of a partition by offset; `None` is a record that doesn't fit the series.
pub type Source = Arc<Vec<Option<Point>>>;

pub fn schema() -> SeriesSchema {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    SeriesSchema {
        time: "ts".into(),
        tags: names(&["host", "rack"]),
        fields: vec![
            ("load".into(), FieldKind::Float),
            ("count".into(), FieldKind::Integer),
            ("up".into(), FieldKind::Boolean),
            ("note".into(), FieldKind::Text),
        ],
        columns: names(&["load", "ts", "host", "rack", "count", "up", "note"]),
        chunk_millis: 1,
    }
}

/// Small enough for a few points to make several pages and blocks.
pub fn small() -> SeriesOptions {
    SeriesOptions { page_points: 8, page_points_min: 3, block_points: 6, merge_points: 5, compression_level: 4 }
}

pub struct FromSource {
    pub source: Source,
    pub arrow: SchemaRef,
}

impl Projection<Points> for FromSource {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Points, ViewError> {
        let mut offsets = Vec::new();
        let mut points = Vec::new();
        for record in batch.records() {
            let offset = record?.offset;
            if offset < from {
                continue;
            }
            match &self.source[logcore::types::index(offset.value())] {
                Some(point) => {
                    offsets.push(offset);
                    points.push(point);
                }
                None => rejects.push(offset, "no point"),
            }
        }
        Ok(Points { offsets, columns: record_batch(&points, &self.arrow) })
    }
}

pub fn record_batch(points: &[&Point], arrow: &SchemaRef) -> RecordBatch {
    let text = |value: fn(&Point) -> &Option<String>| -> ArrayRef {
        Arc::new(points.iter().map(|point| value(point).as_deref()).collect::<StringArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(points.iter().map(|point| point.load).collect::<Float64Array>()),
        Arc::new(TimestampMicrosecondArray::from_iter_values(points.iter().map(|point| point.time)).with_timezone("UTC")),
        text(|point| &point.host),
        text(|point| &point.rack),
        Arc::new(points.iter().map(|point| point.count).collect::<Int64Array>()),
        Arc::new(points.iter().map(|point| point.up).collect::<BooleanArray>()),
        text(|point| &point.note),
    ];
    RecordBatch::try_new(arrow.clone(), columns).expect("columns as the schema has them")
}

pub fn arrow_schema() -> SchemaRef {
    let dir = tempfile::tempdir().expect("a folder");
    struct Never;
    impl Projection<Points> for Never {
        fn project(&mut self, _: &Batch, _: Offset, _: &mut Rejects) -> Result<Points, ViewError> {
            Err("not called".into())
        }
    }
    SeriesTable::open(dir.path(), schema(), Box::new(Never), SeriesOptions::default()).expect("opens").0.arrow_schema()
}

pub fn try_open(
    dir: &Path,
    source: &Source,
    options: SeriesOptions,
) -> Result<(SeriesTable, SeriesMaterializer), tsstore::Error> {
    let projection = FromSource { source: Arc::clone(source), arrow: arrow_schema() };
    SeriesTable::open(dir, schema(), Box::new(projection), options)
}

pub fn open(dir: &Path, source: &Source, options: SeriesOptions) -> (SeriesTable, SeriesMaterializer) {
    try_open(dir, source, options).expect("opens")
}

pub fn source(points: impl IntoIterator<Item = Point>) -> Source {
    Arc::new(points.into_iter().map(Some).collect())
}

/// Batches of as many records as the source has, from offset 0.
pub fn log(records: usize, records_per_batch: usize) -> Vec<Batch> {
    batches(&vec![(None, Some("{}".to_owned())); records], records_per_batch)
}

/// Applies what is not applied yet.
pub fn feed(materializer: &mut SeriesMaterializer, log: &[Batch]) {
    let mut rejects = Rejects::default();
    for batch in log {
        materializer.apply(batch, &mut rejects).expect("no local fault");
    }
}

pub fn run(snapshot: &SeriesSnapshot, request: &ScanRequest) -> Result<(Vec<Vec<String>>, ScanStats), tsstore::Error> {
    let mut rows = Vec::new();
    let stats = snapshot.scan(request, &mut |batch| {
        assert!(batch.num_rows() > 0 && batch.num_rows() <= request.batch_rows.max(1), "{} rows", batch.num_rows());
        assert_eq!(batch.num_columns(), request.projection.len());
        rows.extend((0..batch.num_rows()).map(|row| batch.columns().iter().map(|array| cell(array, row)).collect()));
        ControlFlow::Continue(())
    })?;
    assert_eq!(stats.points, rows.len() as u64);
    Ok((rows, stats))
}

/// The rows of a scan, sorted.
pub fn rows(snapshot: &SeriesSnapshot, request: &ScanRequest) -> Vec<Vec<String>> {
    let mut rows = run(snapshot, request).expect("readable").0;
    rows.sort();
    rows
}

pub fn everything() -> ScanRequest {
    ScanRequest { projection: (0..COLUMNS).collect(), ..ScanRequest::default() }
}

/// All points of the first `records` records as sorted rows.
pub fn expected(source: &Source, records: usize) -> Vec<Vec<String>> {
    let all: Vec<usize> = (0..COLUMNS).collect();
    let mut rows: Vec<_> = source[..records].iter().flatten().map(|point| point.row(&all)).collect();
    rows.sort();
    rows
}

fn cell(array: &ArrayRef, row: usize) -> String {
    fn some<T>(array: &ArrayRef, row: usize, value: impl FnOnce() -> T) -> Option<T> {
        array.is_valid(row).then(value)
    }
    match array.data_type() {
        DataType::Float64 => {
            format!("{:?}", some(array, row, || array.as_primitive::<Float64Type>().value(row).to_bits()))
        }
        DataType::Int64 => format!("{:?}", some(array, row, || array.as_primitive::<Int64Type>().value(row))),
        DataType::Boolean => format!("{:?}", some(array, row, || array.as_boolean().value(row))),
        DataType::Utf8 => format!("{:?}", some(array, row, || array.as_string::<i32>().value(row))),
        _ => format!("{:?}", some(array, row, || array.as_primitive::<TimestampMicrosecondType>().value(row))),
    }
}

/// Names of the chunk files in a folder.
pub fn chunk_files(dir: &Path) -> Vec<String> {
    let mut names = logcore::sys::fs::list(dir).expect("listable");
    names.retain(|name| name.ends_with(".chunk"));
    names
}
