//! What the tests share: a series with a column of every kind, points by offset, and scans as plain rows.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimestampMicrosecondType, UInt32Type};
use logcore::materialize::suite::batches;
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::{Batch, Offset};
use tsstore::{
    Delete, Duplicates, FieldKind, Points, ScanRequest, ScanStats, SeriesChange, SeriesMaterializer, SeriesOptions, SeriesSchema,
    SeriesSnapshot, SeriesTable,
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

/// A record.
#[derive(Clone, Debug)]
pub enum Entry {
    Point(Point),
    Delete(Erase),
    /// It doesn't fit the series.
    Unfit,
}

/// A delete.
#[derive(Clone, Debug, Default)]
pub struct Erase {
    pub from: Option<i64>,
    pub until: Option<i64>,
    pub hosts: Option<Vec<Option<String>>>,
    pub racks: Option<Vec<Option<String>>>,
}

impl Erase {
    fn hides(&self, point: &Point) -> bool {
        let among = |values: &Option<Vec<Option<String>>>, value| values.as_ref().is_none_or(|values| values.contains(value));
        self.from.is_none_or(|from| point.time >= from)
            && self.until.is_none_or(|until| point.time < until)
            && among(&self.hosts, &point.host)
            && among(&self.racks, &point.rack)
    }
}

/// The records of a partition by offset.
pub type Source = Arc<Vec<Entry>>;

/// What a series should be: a plain map.
pub type Model = BTreeMap<(Option<String>, Option<String>, i64), Point>;

/// The series after the first `records` records.
pub fn model(source: &Source, records: usize) -> Model {
    let mut model = Model::new();
    for entry in &source[..records] {
        match entry {
            Entry::Unfit => {}
            Entry::Delete(erase) => model.retain(|_, point| !erase.hides(point)),
            Entry::Point(point) => {
                let known = model.entry((point.host.clone(), point.rack.clone(), point.time)).or_insert_with(|| point.clone());
                known.load = point.load.or(known.load);
                known.count = point.count.or(known.count);
                known.up = point.up.or(known.up);
                known.note = point.note.clone().or_else(|| known.note.clone());
            }
        }
    }
    model
}

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
        duplicates: Duplicates::Replace,
    }
}

/// Without a tag and a field that [`schema`] has.
pub fn small_schema() -> SeriesSchema {
    let mut schema = schema();
    schema.tags.truncate(1);
    schema.fields.truncate(3);
    schema.columns = ["count", "ts", "host", "load", "up"].map(str::to_owned).to_vec();
    schema
}

/// Small enough for a few points to make several pages, blocks and files.
pub fn small() -> SeriesOptions {
    SeriesOptions {
        page_points: 8,
        page_points_min: 3,
        block_points: 6,
        chunk_points_min: 5,
        merge_files: 3,
        merge_points_max: 60,
        merges_max: 2,
        deletes_max: 2,
        overlaps_max: 40,
        compression_level: 4,
    }
}

/// Gives the columns that the series had when the records came: points of before have no others.
pub struct FromSource {
    pub source: Source,
    pub arrow: SchemaRef,
}

impl Projection<Vec<SeriesChange>> for FromSource {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Vec<SeriesChange>, ViewError> {
        let (mut offsets, mut points, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        let take = |offsets: &mut Vec<Offset>, points: &mut Vec<&Point>| {
            let columns = record_batch(&std::mem::take(points), &self.arrow);
            SeriesChange::Points(Points { offsets: std::mem::take(offsets), columns })
        };
        for record in batch.records() {
            let offset = record?.offset;
            if offset < from {
                continue;
            }
            match &self.source[logcore::types::index(offset.value())] {
                Entry::Point(point) => {
                    offsets.push(offset);
                    points.push(point);
                }
                Entry::Delete(Erase { from, until, hosts, racks }) => {
                    changes.push(take(&mut offsets, &mut points));
                    let tags = [("host", hosts), ("rack", racks)];
                    let tags = tags.into_iter().filter_map(|(name, values)| Some((name.to_owned(), values.clone()?)));
                    let (from, until) = (*from, *until);
                    changes.push(SeriesChange::Delete(Delete { offset, from, until, tags: tags.collect() }));
                }
                Entry::Unfit => rejects.push(offset, "no point"),
            }
        }
        changes.push(take(&mut offsets, &mut points));
        Ok(changes)
    }
}

pub fn record_batch(points: &[&Point], arrow: &SchemaRef) -> RecordBatch {
    let text = |value: fn(&Point) -> &Option<String>| -> ArrayRef {
        Arc::new(points.iter().map(|point| value(point).as_deref()).collect::<StringArray>())
    };
    let column = |name: &str| -> ArrayRef {
        match name {
            "load" => Arc::new(points.iter().map(|point| point.load).collect::<Float64Array>()),
            "ts" => {
                let times = points.iter().map(|point| point.time);
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
            }
            "host" => text(|point| &point.host),
            "rack" => text(|point| &point.rack),
            "count" => Arc::new(points.iter().map(|point| point.count).collect::<Int64Array>()),
            "up" => Arc::new(points.iter().map(|point| point.up).collect::<BooleanArray>()),
            _ => text(|point| &point.note),
        }
    };
    let columns = arrow.fields().iter().map(|field| column(field.name())).collect();
    RecordBatch::try_new(arrow.clone(), columns).expect("columns as the schema has them")
}

pub fn arrow_of(schema: SeriesSchema) -> SchemaRef {
    struct Never;
    impl Projection<Vec<SeriesChange>> for Never {
        fn project(&mut self, _: &Batch, _: Offset, _: &mut Rejects) -> Result<Vec<SeriesChange>, ViewError> {
            Err("not called".into())
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    SeriesTable::open_written(dir.path(), schema, Box::new(Never), SeriesOptions::default()).expect("opens").0.arrow_schema()
}

pub fn open_as(
    dir: &Path,
    schema: SeriesSchema,
    source: &Source,
    options: SeriesOptions,
) -> Result<(SeriesTable, SeriesMaterializer), tsstore::Error> {
    static FULL: OnceLock<SchemaRef> = OnceLock::new();
    let is_full = schema == self::schema();
    let arrow = if is_full { FULL.get_or_init(|| arrow_of(self::schema())).clone() } else { arrow_of(schema.clone()) };
    let projection = FromSource { source: Arc::clone(source), arrow };
    SeriesTable::open_written(dir, schema, Box::new(projection), options)
}

pub fn try_open(
    dir: &Path,
    source: &Source,
    options: SeriesOptions,
) -> Result<(SeriesTable, SeriesMaterializer), tsstore::Error> {
    open_as(dir, schema(), source, options)
}

pub fn open(dir: &Path, source: &Source, options: SeriesOptions) -> (SeriesTable, SeriesMaterializer) {
    try_open(dir, source, options).expect("opens")
}

pub fn source(points: impl IntoIterator<Item = Point>) -> Source {
    Arc::new(points.into_iter().map(Entry::Point).collect())
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

/// The points after the first `records` records as sorted rows.
pub fn expected(source: &Source, records: usize) -> Vec<Vec<String>> {
    let all: Vec<usize> = (0..COLUMNS).collect();
    let mut rows: Vec<_> = model(source, records).values().map(|point| point.row(&all)).collect();
    rows.sort();
    rows
}

/// Random numbers of a seed: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        logcore::types::index(self.bits() % end as u64)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

pub fn cell(array: &ArrayRef, row: usize) -> String {
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
        DataType::Dictionary(..) => {
            let array = array.as_dictionary::<UInt32Type>();
            let values = array.values().as_string::<i32>();
            format!("{:?}", array.keys().is_valid(row).then(|| values.value(array.keys().value(row) as usize)))
        }
        _ => format!("{:?}", some(array, row, || array.as_primitive::<TimestampMicrosecondType>().value(row))),
    }
}

/// Names of the chunk files in a folder.
pub fn chunk_files(dir: &Path) -> Vec<String> {
    let mut names = logcore::sys::fs::list(dir).expect("listable");
    names.retain(|name| name.ends_with(".chunk"));
    names
}
