//! `CREATE STREAM`, `ALTER STREAM`, `DROP STREAM`.

use std::sync::Arc;

use logcore::{ErrorKind, PartitionRef, StreamId};

use super::{check_name, done, key_view, options};
use crate::answer::SqlAnswer;
use crate::append::blocking;
use crate::catalog::{CatalogRecord, CatalogState, StreamDef, StreamOptions};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::sql::ddl::Options;

/// Partitions of one stream.
const PARTITIONS_MAX: u32 = 1_024;

/// `CREATE STREAM name WITH (...)`
///
/// # Errors
/// A name that is taken or bad, bad options, no room on the disk.
pub async fn create(database: &Database, name: String, if_not_exists: bool, mut given: Options) -> Result<SqlAnswer> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    if if_not_exists && catalog.find_stream(&name).is_some() {
        return Ok(done("CREATE STREAM", None));
    }
    check_name(&catalog, &name)?;
    let partitions = match given.take("partitions") {
        None => 1,
        Some(text) => text
            .parse()
            .ok()
            .filter(|count| (1..=PARTITIONS_MAX).contains(count))
            .ok_or_else(|| Error::invalid(format!("partitions = {text} is out of range")).hint("1 to 1024"))?,
    };
    let options = options::read(given, &StreamOptions::default(), true)?;
    let def = StreamDef { id: catalog.next_stream(), name, partitions, options };
    // Opened before it is recorded: a disk without room leaves nothing behind.
    let stream = StreamId::new(def.id);
    let (log, opening, defaults) = (Arc::clone(database.log()), def.clone(), database.options().log.partition.clone());
    let opened = blocking(move || {
        (0..partitions).try_for_each(|partition| opening.open(&log, partition, &defaults).map(drop))?;
        Ok(())
    });
    let recorded = match opened.await {
        Ok(()) => database.record(&CatalogRecord::StreamCreated(def)).await,
        Err(error) => Err(error),
    };
    if recorded.is_err() {
        let log = Arc::clone(database.log());
        blocking(move || Ok(log.remove_stream(stream)?)).await?;
    }
    recorded.map(|position| done("CREATE STREAM", Some(position)))
}

/// `ALTER STREAM name SET (...)`: in force for what comes from here on.
///
/// # Errors
/// Unknown streams, bad options, a ring of a stream that has views.
pub async fn alter(database: &Database, name: &str, if_exists: bool, mut given: Options) -> Result<SqlAnswer> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    if if_exists && catalog.find_stream(name).is_none() {
        return Ok(done("ALTER STREAM", None));
    }
    let def = Arc::clone(catalog.stream(name)?);
    refuse_internal(&def)?;
    if given.take("partitions").is_some() {
        let message = format!("the partitions of stream \"{name}\" can't be changed: keys would move to other partitions");
        return Err(Error::invalid(message).hint("create a stream with as many as you need and append to it"));
    }
    let options = options::read(given, &def.options, false)?;
    let views = views_of(&catalog, &def);
    if options.is_ring() && !views.is_empty() {
        let message = format!(
            "stream \"{name}\" has views and can't become a ring, which overwrites records that a view may not have applied yet: {}",
            views.join(", ")
        );
        return Err(Error::new(sqlstate::DEPENDENT_OBJECTS, ErrorKind::Conflict, message).hint("DROP TABLE them first"));
    }
    if options.is_ring() {
        key_view::remove(database, &def).await?;
    }
    let kept = options.partition(&database.options().log.partition);
    let position = database.record(&CatalogRecord::StreamAltered { id: def.id, options }).await?;
    for partition in 0..def.partitions {
        // One that did not open at the start gets its options when it opens.
        if let Ok(log) = database.log().partition(PartitionRef::new(StreamId::new(def.id), partition)) {
            log.reconfigure(kept.clone());
        }
    }
    Ok(done("ALTER STREAM", Some(position)))
}

/// `DROP STREAM name`
///
/// # Errors
/// Unknown streams, streams that have views, files that stay.
pub async fn remove(database: &Database, name: &str, if_exists: bool) -> Result<SqlAnswer> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    if if_exists && catalog.find_stream(name).is_none() {
        return Ok(done("DROP STREAM", None));
    }
    let def = Arc::clone(catalog.stream(name)?);
    refuse_internal(&def)?;
    let views = views_of(&catalog, &def);
    if !views.is_empty() {
        let message = format!("stream \"{name}\" has views: {}", views.join(", "));
        return Err(Error::new(sqlstate::DEPENDENT_OBJECTS, ErrorKind::Conflict, message).hint("DROP TABLE them first"));
    }
    super::query::drop_dependents(database, "stream", name, false).await?;
    key_view::remove(database, &def).await?;
    let position = database.record(&CatalogRecord::StreamDropped { id: def.id }).await?;
    database.forget_cursors(StreamId::new(def.id)).await;
    let log = Arc::clone(database.log());
    blocking(move || Ok(log.remove_stream(StreamId::new(def.id))?)).await?;
    Ok(done("DROP STREAM", Some(position)))
}

fn refuse_internal(def: &StreamDef) -> Result<()> {
    match def.is_internal() {
        false => Ok(()),
        true => {
            let message = format!("stream \"{}\" belongs to the database", def.name);
            Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message))
        }
    }
}

fn views_of<'a>(catalog: &'a CatalogState, def: &StreamDef) -> Vec<&'a str> {
    catalog.tables().filter(|table| table.stream().value() == def.id).map(|table| table.name.as_str()).collect()
}
