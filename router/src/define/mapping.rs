//! What is searched in a document table: the options `search`, `facets`, `fields` and `dynamic`, and changing them.
//!
//! `ALTER TABLE d SET (search = '...', facets = '...')` builds a new generation with the new mapping beside the serving one, as a
//! rebuild does; until it serves, queries go by the old mapping.

use datafusion::sql::sqlparser::ast::SqlOption;
use docstore::{Mapping, MappingOptions};
use logcore::ErrorKind;
use tokio::sync::MutexGuard;

use super::done;
use crate::answer::SqlAnswer;
use crate::catalog::{CatalogRecord, TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::query::Context;
use crate::sql::ddl::Options;
use crate::view::rebuild;

/// Takes the mapping's options out of those given and puts them over `before`.
///
/// # Errors
/// Unknown analyzers, names that can't be fields.
pub fn read(options: &mut Options, before: Mapping) -> Result<Mapping> {
    let texts = Mapping::OPTIONS.map(|name| options.take(name));
    let [key, search, facets, fields, dynamic] = texts.each_ref().map(Option::as_deref);
    let given = Mapping::from_options(&MappingOptions { key, search, facets, fields, dynamic })?;
    let mapping = Mapping {
        key: if key.is_some() { given.key } else { before.key },
        search: if search.is_some() { given.search } else { before.search },
        facets: if facets.is_some() { given.facets } else { before.facets },
        fields: if fields.is_some() { given.fields } else { before.fields },
        dynamic: if dynamic.is_some() { given.dynamic } else { before.dynamic },
    };
    mapping.validate()?;
    Ok(mapping)
}

/// The mapping of a new table that SQL writes.
///
/// # Errors
/// As [`read`], and a key.
pub fn of_written(options: &mut Options) -> Result<Mapping> {
    let mapping = read(options, Mapping::default())?;
    if mapping.key.is_empty() {
        return Ok(mapping);
    }
    Err(Error::invalid("key says where the id of a record's document is, and this table has no stream")
        .hint("leave it out: documents are written with their ids"))
}

/// `ALTER TABLE name SET (search = ..., facets = ...)` of a document table: begins to build what it will be, and waits until that
/// serves or the deadline comes.
///
/// # Errors
/// Unknown options, bad values, a table that is being rebuilt.
pub async fn alter(
    database: &Database,
    ddl: MutexGuard<'_, ()>,
    def: &TableDef,
    options: &[SqlOption],
    context: Context<'_>,
) -> Result<SqlAnswer> {
    let catalog = database.catalog();
    let searched = catalog.search_side(def.id).map_or(def, |beside| &**beside);
    let TableKind::Document(before) = &searched.kind else { return Err(Error::internal("what is searched has a mapping")) };
    let mut options = Options::of_set(options)?;
    if options.take("key").is_some() {
        return Err(Error::invalid("the key of a document table can't be changed: it says which documents are the same")
            .hint("make another table"));
    }
    let mapping = read(&mut options, before.clone())?;
    options.finish(&["search", "facets", "fields", "dynamic"])?;
    let view = database.views().get(searched)?;
    if let Some(building) = view.building() {
        let message = format!("table \"{}\" is being rebuilt, as generation {}", def.name, building.number);
        return Err(Error::new(sqlstate::OBJECT_IN_USE, ErrorKind::Conflict, message).hint("see SHOW VIEWS for its progress"));
    }
    if mapping == *before {
        return Ok(done("ALTER TABLE", None));
    }
    let (id, generation) = (searched.id, searched.newest + 1);
    let records = [CatalogRecord::MappingAltered { id, mapping }, CatalogRecord::RebuildStarted { id, generation }];
    let position = database.record_all(&records).await?;
    rebuild::begin(database, view, generation).await?;
    drop(ddl);
    if let Err(error) = database.rebuilt(&searched.name, generation, context.deadline).await {
        tracing::info!(table = def.name, generation, %error, "the new mapping is still being built");
    }
    Ok(done("ALTER TABLE", Some(position)))
}
