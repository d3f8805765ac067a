//! The writing side of a series: applies records, and makes them durable as chunk files.
//!
//! The driver of `logcore` calls it. What is applied is visible at once. A checkpoint sorts, compresses and writes what was in memory
//! when it began while more is applied and readers go on with what they have; see `save`.

use std::sync::Arc;

use logcore::materialize::{FinishCheckpoint, Materializer, Rejects, ViewError};
use logcore::{Batch, Offset};

use crate::change::{ChangeProjection, SeriesChange, Tombstone};
use crate::chunk::open;
use crate::error::Error;
use crate::names::Interner;
use crate::save;
use crate::series::Shared;

/// What a delete takes, about.
const DELETE_BYTES: u64 = 256;

/// Feeds a series. See [`crate::SeriesTable::open`].
pub struct SeriesMaterializer {
    shared: Arc<Shared>,
    projection: ChangeProjection,
    interner: Interner,
}

impl SeriesMaterializer {
    pub(crate) fn new(shared: Arc<Shared>, projection: ChangeProjection, interner: Interner) -> Self {
        Self { shared, projection, interner }
    }

    fn take_in(&mut self, changes: Vec<SeriesChange>, from: Offset, until: Offset) -> Result<(), Error> {
        let layout = Arc::clone(&self.shared.state().layout);
        let (mut blocks, mut deletes) = (Vec::new(), Vec::new());
        let mut last = from;
        for change in changes {
            match change {
                SeriesChange::Points(points) => {
                    let (first, end) = (points.offsets.first().copied(), points.offsets.last().copied());
                    if first.is_some_and(|first| first < last) {
                        return Err(Error::InvalidPoints { detail: "their offsets fall".to_owned() });
                    }
                    last = end.unwrap_or(last);
                    let rows_max = self.shared.options.block_points;
                    blocks.extend(open::cut(points, from, until, &layout, &mut self.interner, rows_max)?);
                }
                SeriesChange::Delete(delete) => {
                    if delete.offset < last || delete.offset >= until {
                        let detail = format!("offset {} of a delete lies outside {last}..{until} (end exclusive)", delete.offset);
                        return Err(Error::InvalidPoints { detail });
                    }
                    last = delete.offset;
                    deletes.extend(Tombstone::new(delete, &layout)?);
                }
            }
        }
        self.shared.append(blocks, deletes, self.interner.names(), until)
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
        let changes = self.projection.project(batch, next, rejects)?;
        Ok(self.take_in(changes, next, end)?)
    }

    fn skip_to(&mut self, next: Offset) -> Result<(), ViewError> {
        if next > self.next_offset() {
            self.shared.append(Vec::new(), Vec::new(), self.interner.names(), next)?;
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Offset, ViewError> {
        self.begin_checkpoint()?()
    }

    fn begin_checkpoint(&mut self) -> Result<FinishCheckpoint, ViewError> {
        let shared = Arc::clone(&self.shared);
        let state = shared.change(|state| {
            state.frozen = state.open.len();
            state.clone()
        });
        Ok(Box::new(move || Ok(save::finish_checkpoint(&shared, state)?)))
    }

    fn unsaved_bytes(&self) -> u64 {
        let state = self.shared.state();
        let deletes = state.tombstones.iter().filter(|tombstone| tombstone.offset >= state.checkpoint.value()).count() as u64;
        state.open.iter().map(|block| block.bytes).sum::<u64>() + deletes * DELETE_BYTES
    }
}
