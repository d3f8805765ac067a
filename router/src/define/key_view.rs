//! Making and dropping the key view of a stream, which no statement names.

use std::sync::Arc;
use std::time::Instant;

use logcore::{ErrorKind, StreamId};

use super::{define_table, retire};
use crate::append::finishing::Finishing;
use crate::catalog::{CatalogRecord, StreamDef};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::view::keys;
use crate::view::running::View;

/// The key view of a stream, which is made if it is not there; from then on every append to the stream names its keys.
///
/// # Errors
/// A ring, a stream that was dropped meanwhile, no room on the disk, an append that does not end before `deadline`.
pub async fn of(database: &Database, stream: &StreamDef, deadline: Instant) -> Result<Arc<View>> {
    let id = StreamId::new(stream.id);
    if database.tracking().is_on(stream.id)
        && let Some(table) = database.catalog().key_view(id)
    {
        return database.views().get(table);
    }
    let (database, name) = (database.clone(), stream.name.clone());
    Finishing::new(database.runtime().clone(), async move { make(&database, &name, deadline).await }).await
}

async fn make(database: &Database, name: &str, deadline: Instant) -> Result<Arc<View>> {
    let late = |what: String| Error::new(sqlstate::QUERY_CANCELED, ErrorKind::Unavailable, what).hint("send the request again");
    let locked = tokio::time::timeout_at(deadline.into(), database.ddl_lock()).await;
    let _ddl = locked.map_err(|_| late("another change of definitions did not end in time".into()))?;
    let catalog = database.catalog();
    let stream = Arc::clone(catalog.stream(name)?);
    if stream.options.is_ring() {
        let message =
            format!("stream \"{}\" is a ring: nothing can be expected of keys whose records are overwritten", stream.name);
        return Err(Error::invalid(message).hint("leave out \"expect\", or give the stream another retention"));
    }
    let view = match catalog.key_view(StreamId::new(stream.id)) {
        Some(table) => database.views().get(table)?,
        None => {
            tracing::info!(stream = stream.name, "making the key view: a request expects something of a key");
            define_table(database, keys::definition(catalog.next_table(), &stream), Vec::new(), &stream).await?.0
        }
    };
    // A client that gives up leaves a view behind and no tracking; the next one goes on here.
    if !database.tracking().switch_on(stream.id, deadline).await {
        return Err(late(format!("an append to stream \"{name}\" that was begun before did not end in time")));
    }
    Ok(view)
}

/// Drops the key view of a stream, if it has one. Called under the lock of definitions.
///
/// # Errors
/// When the catalog takes no record.
pub async fn remove(database: &Database, stream: &StreamDef) -> Result<()> {
    let catalog = database.catalog();
    if let Some(table) = catalog.key_view(StreamId::new(stream.id)) {
        database.record(&CatalogRecord::TableDropped { id: table.id }).await?;
        retire(database, table.id);
    }
    database.tracking().forget(stream.id);
    Ok(())
}

/// What an append hears when the key view it needs has stopped.
#[must_use]
pub fn stopped(view: &str, reason: &str) -> Error {
    let message = format!("what is expected of keys can't be judged: the key view stopped: {reason}");
    Error::new(sqlstate::CANNOT_CONNECT_NOW, ErrorKind::Unavailable, message).hint(format!("REBUILD VIEW {view}"))
}
