//! What a series takes in: points, and deletes of points.
//!
//! A projection makes them of records: [`PointProjection`] for views of a stream, [`ChangeProjection`] for tables that are written
//! to. Both are made by the router.

use arrow::array::RecordBatch;
use logcore::materialize::{Projection, Rejects, ViewError};
use logcore::{Batch, Offset};

use crate::error::Error;
use crate::schema::Layout;

/// Points, as a projection makes them of records.
#[derive(Clone, Debug)]
pub struct Points {
    /// The offset of the record that row i came from; they don't fall. Of two points of one record with the same tags and time
    /// the one further back is the later.
    pub offsets: Vec<Offset>,
    /// The columns of [`crate::SeriesTable::arrow_schema`]: the time as `Timestamp(Microsecond, "UTC")` and not null; tags as
    /// `Utf8` or `Dictionary(UInt32, Utf8)`; fields as `Float64`, `Int64`, `Boolean` or `Utf8`. A field that is null is one that
    /// the point does not have.
    pub columns: RecordBatch,
}

/// Takes away what earlier records wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// The offset of its record: points of records below it go.
    pub offset: Offset,
    /// The earliest time, in microseconds, inclusive.
    pub from: Option<i64>,
    /// The end of time, in microseconds, exclusive.
    pub until: Option<i64>,
    /// Tags that must have one of some values, `None` for having none; all of them must.
    pub tags: Vec<(String, Vec<Option<String>>)>,
}

/// One step of a series.
#[derive(Clone, Debug)]
pub enum SeriesChange {
    /// Points come, or add to and replace what points of the same tags and time have.
    Points(Points),
    /// Points go.
    Delete(Delete),
}

/// Turns records into points.
pub type PointProjection = Box<dyn Projection<Points>>;

/// Turns records into points and deletes. Changes are in the order of their records.
pub type ChangeProjection = Box<dyn Projection<Vec<SeriesChange>>>;

/// A projection that only makes points.
pub(crate) struct OnlyPoints(pub PointProjection);

impl Projection<Vec<SeriesChange>> for OnlyPoints {
    fn project(&mut self, batch: &Batch, from: Offset, rejects: &mut Rejects) -> Result<Vec<SeriesChange>, ViewError> {
        Ok(vec![SeriesChange::Points(self.0.project(batch, from, rejects)?)])
    }
}

/// A delete with its names resolved. Kept until no stored point can be one that it hides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    /// It hides points of lower offsets.
    pub offset: u64,
    /// The earliest time.
    pub from: i64,
    /// The latest time, inclusive.
    pub last: i64,
    /// Tags by number.
    pub tags: Vec<(usize, Vec<Option<String>>)>,
}

impl Tombstone {
    /// `None` when its range of time is empty.
    pub fn new(delete: Delete, layout: &Layout) -> Result<Option<Self>, Error> {
        let tags = delete.tags.into_iter().map(|(name, values)| Ok((layout.tag(&name)?, values)));
        let tags = tags.collect::<Result<_, Error>>()?;
        let Some((from, last)) = inclusive(delete.from, delete.until) else { return Ok(None) };
        Ok(Some(Self { offset: delete.offset.value(), from, last, tags }))
    }

    /// Whether points of these times and offsets may be among those that it hides.
    pub fn may_hide(&self, (time_min, time_max): (i64, i64), offset_min: u64) -> bool {
        self.from <= time_max && time_min <= self.last && offset_min < self.offset
    }
}

/// The first and last time of a range, `None` when it is empty.
pub(crate) fn inclusive(from: Option<i64>, until: Option<i64>) -> Option<(i64, i64)> {
    let from = from.unwrap_or(i64::MIN);
    let last = match until {
        None => i64::MAX,
        Some(until) => until.checked_sub(1)?,
    };
    (from <= last).then_some((from, last))
}
