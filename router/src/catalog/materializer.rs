//! Applies `_catalog` to the state in memory. Run by `logcore::materialize::driver`.

use std::sync::{Arc, RwLock};

use logcore::materialize::{Materializer, Rejects, ViewError};
use logcore::{Batch, Offset};

use super::{CatalogRecord, CatalogState};

/// The state that everyone reads; replaced as a whole by each record.
#[derive(Clone)]
pub struct Catalog {
    state: Arc<RwLock<Arc<CatalogState>>>,
}

impl Catalog {
    /// The state of an empty `_catalog`, and the materializer that brings it up to date.
    #[must_use]
    pub fn new() -> (Self, CatalogMaterializer) {
        let catalog = Self { state: Arc::new(RwLock::new(Arc::new(CatalogState::initial()))) };
        (catalog.clone(), CatalogMaterializer { catalog, next: Offset::ZERO })
    }

    /// The definitions now.
    #[must_use]
    pub fn state(&self) -> Arc<CatalogState> {
        Arc::clone(&self.state.read().expect("no code panics inside"))
    }
}

/// See the module docs.
pub struct CatalogMaterializer {
    catalog: Catalog,
    next: Offset,
}

impl Materializer for CatalogMaterializer {
    fn next_offset(&self) -> Offset {
        self.next
    }

    fn apply(&mut self, batch: &Batch, _rejects: &mut Rejects) -> Result<(), ViewError> {
        let mut state = CatalogState::clone(&self.catalog.state());
        for record in batch.records() {
            let record = record?;
            if record.offset >= self.next {
                state.apply(serde_json::from_slice(record.value.unwrap_or_default()).map_err(|error| {
                    format!(
                        "the catalog record at offset {} is not understood ({error}); use the release that wrote it",
                        record.offset
                    )
                })?);
            }
        }
        *self.catalog.state.write().expect("no code panics inside") = Arc::new(state);
        self.next = batch.end_offset();
        Ok(())
    }

    fn skip_to(&mut self, next: Offset) -> Result<(), ViewError> {
        self.next = next;
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<Offset, ViewError> {
        Ok(self.next)
    }

    fn unsaved_bytes(&self) -> u64 {
        0
    }
}

/// A catalog record's bytes.
///
/// # Panics
/// Never: definitions are plain data.
#[must_use]
pub fn encode(record: &CatalogRecord) -> Vec<u8> {
    serde_json::to_vec(record).expect("definitions are plain data")
}
