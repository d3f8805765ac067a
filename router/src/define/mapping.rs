//! What is searched in a document table: the options `search` and `facets`, and changing them.
//!
//! `ALTER TABLE d SET (search = '...', facets = '...')` builds a new generation with the new mapping beside the serving one, as a
//! rebuild does; until it serves, queries go by the old mapping.

use datafusion::sql::sqlparser::ast::SqlOption;
use docstore::{Analyzer, Mapping, SearchField};
use logcore::ErrorKind;
use tokio::sync::MutexGuard;

use super::{done, words};
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
    let field = |word: &str| {
        let (path, analyzer) = word.split_once(':').unwrap_or((word, "standard"));
        let analyzer = match analyzer.trim() {
            "standard" => Analyzer::Standard,
            "whitespace" => Analyzer::Whitespace,
            "keyword" => Analyzer::Keyword,
            "english" => Analyzer::English,
            other => {
                return Err(Error::invalid(format!("analyzer \"{other}\" is unknown"))
                    .hint("use standard, english, whitespace or keyword"));
            }
        };
        Ok(SearchField { path: path.trim().to_owned(), analyzer })
    };
    let mut mapping = before;
    if let Some(key) = options.take("key") {
        mapping.key = key;
    }
    if let Some(search) = options.take("search") {
        mapping.search = words(&search).map(field).collect::<Result<_>>()?;
    }
    if let Some(facets) = options.take("facets") {
        mapping.facets = words(&facets).map(str::to_owned).collect();
    }
    mapping.validate()?;
    Ok(mapping)
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
    options.finish(&["search", "facets"])?;
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
