//! Rebuilding a view: a new generation grows from the first record that is kept, beside the serving one and takes its place when it has caught up.
//!
//! Begun by `REBUILD VIEW` and `POST /v1/views/{v}/rebuild`, and again at start for a generation that the catalog says is being
//! built: it goes on from its own checkpoint.
//!
//! # Crash safety
//! `rebuild_started` and `generation_swapped` are records of the catalog: before the second the old generation serves, after it
//! the new one, and the next start removes the other's files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use logcore::materialize::TaskOptions;

use super::running::{Generation, View};
use crate::catalog::CatalogRecord;
use crate::database::Database;
use crate::error::{Error, Result};

/// Waiting for the new generation goes on for ever, in steps of this.
const STEP: Duration = Duration::from_secs(60);
/// The last step holds up other definitions for this long at most.
const LOCKED_MAX: Duration = Duration::from_secs(5);

/// Opens the generation that is to be built and lets a background task finish it.
///
/// # Errors
/// When its files can't be opened.
pub async fn begin(database: &Database, view: Arc<View>, number: u64) -> Result<()> {
    let catalog = database.catalog();
    let dropped = || Error::internal(format!("the table of view \"{}\" is in the catalog", view.name()));
    let table = Arc::clone(catalog.table_by_id(view.id).ok_or_else(dropped)?);
    let options =
        TaskOptions { records_per_second_max: database.options().rebuild_records_per_second_max, ..TaskOptions::default() };
    let generation = Arc::new(database.views().open_generation(&table, &view.stream, number, options).await?);
    view.set_building(Some(Arc::clone(&generation)));
    let background = database.clone();
    database.spawn(async move {
        if let Err(error) = finish(&background, &view, &generation).await {
            tracing::error!(view = &*view.name(), generation = number, %error, "the rebuild stopped; the old generation goes on serving");
            view.set_building(None);
            if let Err(error) = background.views().retire(view.id, generation).await {
                tracing::warn!(view = &*view.name(), %error, "files of a failed rebuild stay until the next start");
            }
        }
    });
    Ok(())
}

async fn finish(database: &Database, view: &Arc<View>, generation: &Arc<Generation>) -> Result<()> {
    loop {
        catch_up(view, generation, None).await?;
        let ddl = database.ddl_lock().await;
        // The last step under the lock: nothing is created or dropped meanwhile, but records still come in.
        let dropped = database.catalog().table_by_id(view.id).is_none();
        if dropped {
            return Ok(());
        }
        if catch_up(view, generation, Some(Instant::now() + LOCKED_MAX)).await? {
            database.record(&CatalogRecord::GenerationSwapped { id: view.id, generation: generation.number }).await?;
            // The old one stands still from here on; the new one passes it.
            let old = view.serving();
            for part in &old.parts {
                database.views().driver.detach(&part.task);
            }
            drop(old);
            loop {
                if let Some(old) = view.swap(generation) {
                    drop(ddl);
                    return database.views().retire(view.id, old).await;
                }
                catch_up(view, generation, None).await?;
            }
        }
    }
}

/// Waits until readers of the new generation would see everything that is committed now; `false` at `deadline`.
async fn catch_up(view: &View, generation: &Generation, deadline: Option<Instant>) -> Result<bool> {
    for (new, old) in generation.parts.iter().zip(&view.serving().parts) {
        loop {
            let target = new.task.partition().committed().get().max(old.task.visible());
            match new.task.visible_to(target, deadline.unwrap_or_else(|| Instant::now() + STEP)).await {
                Ok(()) => break,
                Err(logcore::Error::Timeout { .. }) if deadline.is_none() => {}
                Err(logcore::Error::Timeout { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(true)
}
