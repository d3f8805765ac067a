//! The writing side of a series: applies records, and makes them durable as chunk files.
//!
//! The driver of `logcore` calls it. What is applied is visible at once; a checkpoint sorts, compresses and writes everything in
//! memory while readers go on with what they have.
//!
//! # Crash safety
//! A checkpoint is one file, written atomically; its footer says which offsets it covers. When it fails, memory still holds
//! everything and the next one tries again.
//!
//! # Not done
//! A checkpoint holds 24 bytes a point for the order and the finished file in memory, besides the points.

use std::sync::Arc;

use arrow::array::RecordBatch;
use logcore::materialize::{Materializer, Projection, Rejects, ViewError};
use logcore::{Batch, Offset};

use crate::chunk::open;
use crate::chunk::order;
use crate::chunk::sealed::ChunkWriter;
use crate::error::Error;
use crate::series::Shared;

/// Points, as a projection makes them of records.
#[derive(Clone, Debug)]
pub struct Points {
    /// The offset of the record that row i came from; they don't fall.
    pub offsets: Vec<Offset>,
    /// The columns of [`crate::SeriesTable::arrow_schema`]: the time as `Timestamp(Microsecond, "UTC")` and not null; tags as
    /// `Utf8`; fields as `Float64`, `Int64`, `Boolean` or `Utf8`.
    pub columns: RecordBatch,
}

/// Turns records into points.
pub type PointProjection = Box<dyn Projection<Points>>;

/// Feeds a series. See [`crate::SeriesTable::open`].
pub struct SeriesMaterializer {
    shared: Arc<Shared>,
    projection: PointProjection,
}

impl SeriesMaterializer {
    pub(crate) fn new(shared: Arc<Shared>, projection: PointProjection) -> Self {
        Self { shared, projection }
    }

    fn write_checkpoint(&self) -> Result<Offset, Error> {
        let Shared { layout, dir, options, .. } = &*self.shared;
        let state = self.shared.state();
        if state.offset == state.checkpoint {
            return Ok(state.checkpoint);
        }
        let small = state.sealed.last().filter(|chunk| chunk.points < options.merge_points);
        let mut blocks = small.map_or_else(|| Ok(Vec::new()), |chunk| chunk.read_all())?;
        blocks.extend(state.open.iter().cloned());
        let mut writer = ChunkWriter::new(layout, options.compression_level);
        order::write_pages(&blocks, layout, options, &mut writer)?;
        let from = small.map_or(state.checkpoint, |chunk| chunk.from);
        let chunk = writer.finish(dir, from, state.offset)?;
        let merged = usize::from(small.is_some());
        let to = state.offset;
        drop(state);
        self.shared.seal(chunk, merged);
        Ok(to)
    }
}

impl Materializer for SeriesMaterializer {
    fn next_offset(&self) -> Offset {
        self.shared.state().offset
    }

    fn apply(&mut self, batch: &Batch, rejects: &mut Rejects) -> Result<(), ViewError> {
        let next = self.next_offset();
        let end = batch.end_offset();
        if batch.base_offset() > next {
            return Err(Error::OutOfOrder { expected: next, found: batch.base_offset() }.into());
        }
        if end <= next {
            return Ok(());
        }
        let points = self.projection.project(batch, next, rejects)?;
        let blocks = open::cut(points, next, end, &self.shared.layout, self.shared.options.block_points)?;
        Ok(self.shared.append(blocks, end)?)
    }

    fn skip_to(&mut self, next: Offset) -> Result<(), ViewError> {
        if next > self.next_offset() {
            self.shared.append(Vec::new(), next)?;
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Offset, ViewError> {
        Ok(self.write_checkpoint()?)
    }

    fn unsaved_bytes(&self) -> u64 {
        self.shared.state().open.iter().map(|block| block.bytes).sum()
    }
}
