//! Documents that go by themselves: the `ttl` option of document tables that SQL writes.
//!
//! A document goes some seconds after its newest version has become older than that, by a delete in the log like any other: so views,
//! the change feed and the past see it, and a rebuild gives the same. It is not deleted if somebody wrote it meanwhile.
//!
//! What is due is found in the log: versions are there in the order of their age, so each is looked at once. After a start the log is
//! read from its beginning, [`READS_MAX`] pieces each time.
//!
//! # Not done
//! Times that stand in the document itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use logcore::frame::{Frame, FrameKind};
use logcore::materialize::{Projection, Rejects};
use logcore::sys::clock;
use logcore::{Batch, Offset, Partition, TimestampMillis};

use crate::answer::Expect;
use crate::append::blocking;
use crate::catalog::TableDef;
use crate::database::Database;
use crate::dml::{DocumentChange, DocumentEdit};
use crate::error::{Error, Result, sqlstate};
use crate::view::written::WrittenDocuments;

/// Read from the log at once.
const READ_BYTES: usize = 1 << 20;
/// Pieces of the log that one look at one table reads.
const READS_MAX: usize = 64;
/// How long the deletes of one piece may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How far each table was looked through.
#[derive(Default)]
pub struct Expiry {
    looked: HashMap<u32, Offset>,
}

impl Expiry {
    /// Deletes what is due in all tables. What fails is tried again the next time.
    pub async fn look(&mut self, database: &Database) {
        let catalog = database.catalog();
        let tables: Vec<Arc<TableDef>> = catalog.tables().filter(|table| table.ttl_ms.is_some()).cloned().collect();
        self.looked.retain(|id, _| tables.iter().any(|table| table.id == *id));
        for table in tables {
            if let Err(error) = self.look_through(database, &table).await {
                tracing::warn!(table = table.name, %error, "documents that are due stay for now");
            }
        }
    }

    async fn look_through(&mut self, database: &Database, table: &Arc<TableDef>) -> Result<()> {
        let Some(ttl) = table.ttl_ms.and_then(|millis| i64::try_from(millis).ok()) else { return Ok(()) };
        let view = database.views().get(table)?;
        let log = Arc::clone(view.serving().parts[0].task.partition());
        let horizon = TimestampMillis::new(clock::now().value().saturating_sub(ttl));
        let end = {
            let log = Arc::clone(&log);
            blocking(move || Ok(log.offset_at(horizon)?.min(log.committed().get()))).await?
        };
        for _ in 0..READS_MAX {
            let from = self.looked.get(&table.id).copied().unwrap_or_default().max(log.log_start());
            if from >= end {
                return Ok(());
            }
            let (read, id) = (Arc::clone(&log), table.id);
            let (versions, next) = blocking(move || versions(&read, id, from, end)).await?;
            let delete = |(offset, id): (Offset, String)| DocumentChange {
                id,
                edit: DocumentEdit::Delete,
                expect: Some(Expect::Last(offset.value())),
            };
            let changes: Vec<DocumentChange> = versions.into_iter().map(delete).collect();
            for outcome in database.change_documents(&table.name, &changes, Instant::now() + TIMEOUT).await {
                match outcome {
                    Ok(_) => {}
                    // There is a newer version, or it is gone.
                    Err(error) if matches!(error.code(), sqlstate::SERIALIZATION_FAILURE | sqlstate::NO_DATA) => {}
                    Err(error) => return Err(error),
                }
            }
            self.looked.insert(table.id, next);
        }
        Ok(())
    }
}

/// The versions of a table's documents in a piece of the log, and where the next piece begins.
fn versions(log: &Partition, table: u32, from: Offset, end: Offset) -> Result<(Vec<(Offset, String)>, Offset)> {
    let frames = log.read(from, READ_BYTES)?;
    let next = frames.last().map_or(end, Frame::end_offset).min(end);
    let (mut projection, mut newest) = (WrittenDocuments::new(table), HashMap::new());
    for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
        let documents = projection.project(&Batch::open(&frame.body)?, from, &mut Rejects::default());
        let documents = documents.map_err(|error| Error::internal(format!("reading documents: {error}")))?;
        for document in documents.into_iter().filter(|document| (from..end).contains(&document.offset)) {
            match document.json {
                Some(_) => drop(newest.insert(document.id, document.offset)),
                None if document.truncates => newest.clear(),
                None => drop(newest.remove(&document.id)),
            }
        }
    }
    Ok((newest.into_iter().map(|(id, offset)| (offset, id)).collect(), next))
}
