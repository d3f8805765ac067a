//! `CREATE VIEW` and `DROP VIEW`: names for SELECTs, which [`crate::sql::rewrite`] puts in their place when a statement is planned.
//!
//! They keep nothing and are no views of the log, of which `SHOW VIEWS` and `REBUILD VIEW` speak; so messages say "named query".

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{ObjectName, TableFactor, Visit, Visitor};
use logcore::ErrorKind;

use super::{check_name, done};
use crate::answer::SqlAnswer;
use crate::catalog::{CatalogRecord, CatalogState, QueryColumn, QueryDef};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::position::Cut;
use crate::query::{self, Context};
use crate::render;
use crate::sql::ddl::{CreateView, name_of};
use crate::sql::parse::{Statement, parse};
use crate::sql::rewrite::resolve;

/// `CREATE [OR REPLACE] VIEW name [(columns)] AS SELECT ...`
///
/// # Errors
/// A name that is taken, a SELECT that does not plan, columns without names of their own, a query that would use itself.
pub async fn create(database: &Database, view: CreateView, context: Context<'_>) -> Result<SqlAnswer> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    let name = view.name.strip_prefix("public.").map_or(view.name.clone(), str::to_owned);
    let before = catalog.find_query(&name);
    if before.is_none() || !view.or_replace {
        check_name(&catalog, &name).map_err(|error| match error.code() {
            sqlstate::DUPLICATE_TABLE if before.is_some() => error.hint("say CREATE OR REPLACE VIEW"),
            _ => error,
        })?;
    }
    let Some(Statement::Sql(statement)) = parse(&view.query, 1)?.pop() else { return Err(Error::syntax("AS needs a SELECT")) };
    if uses(&catalog, &view.query)?.contains(&name) {
        let message = format!("named query \"{name}\" would use itself");
        return Err(Error::new(sqlstate::INVALID_OBJECT_DEFINITION, ErrorKind::Invalid, message));
    }
    let schema = query::plan(database, *statement, context, None).await?.schema();
    if view.columns.len() > schema.fields().len() {
        let message = format!("CREATE VIEW names {} columns, the SELECT has {}", view.columns.len(), schema.fields().len());
        return Err(Error::syntax(message));
    }
    let mut columns: Vec<QueryColumn> = Vec::with_capacity(schema.fields().len());
    for (at, field) in schema.fields().iter().enumerate() {
        let column = view.columns.get(at).unwrap_or(field.name()).clone();
        if columns.iter().any(|other| other.name == column || other.source == *field.name()) {
            let message = format!("column \"{column}\" is specified more than once");
            return Err(Error::new(sqlstate::DUPLICATE_COLUMN, ErrorKind::Invalid, message)
                .hint("give each column of the SELECT a name with AS"));
        }
        columns.push(QueryColumn { name: column, source: field.name().clone(), kind: render::type_name(field) });
    }
    if let Some(before) = before {
        let kept = before.columns.len() <= columns.len()
            && before.columns.iter().zip(&columns).all(|(old, new)| old.name == new.name && old.kind == new.kind);
        if !kept {
            let message = format!("the columns of named query \"{name}\" can't be renamed, retyped or dropped");
            return Err(Error::new(sqlstate::INVALID_TABLE_DEFINITION, ErrorKind::Invalid, message)
                .hint("add new columns at the end, or DROP VIEW first"));
        }
    }
    let position = database.record(&CatalogRecord::QueryNamed(QueryDef { name, columns, query: view.query })).await?;
    Ok(done("CREATE VIEW", Some(position)))
}

/// `DROP VIEW [IF EXISTS] name, ... [CASCADE]`
///
/// # Errors
/// Unknown names, names of something else, and queries that use them, without CASCADE.
pub async fn remove(database: &Database, names: &[String], if_exists: bool, cascade: bool) -> Result<SqlAnswer> {
    let _ddl = database.ddl_lock().await;
    let mut position = None;
    for written in names {
        let catalog = database.catalog();
        let name = written.strip_prefix("public.").unwrap_or(written);
        if catalog.find_query(name).is_none() {
            if catalog.find_table(name).is_some() || catalog.find_stream(name).is_some() {
                let message = format!("\"{name}\" is not a named query (CREATE VIEW)");
                return Err(
                    Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message).hint("use DROP TABLE or DROP STREAM")
                );
            }
            if if_exists {
                continue;
            }
            return Err(Error::unknown("named query (CREATE VIEW)", name, catalog.queries().map(|query| query.name.as_str())));
        }
        let others: Vec<Arc<QueryDef>> = dependents(&catalog, name)?;
        let unnamed = others.iter().find(|query| !names.contains(&query.name));
        if let (Some(query), false) = (unnamed, cascade) {
            return Err(in_use("named query", name, query));
        }
        position = Some(forget(database, &others, Some(name)).await?);
    }
    Ok(done("DROP VIEW", position))
}

fn in_use(what: &str, name: &str, by: &QueryDef) -> Error {
    let message = format!("{what} \"{name}\" is used by the named query \"{}\" (CREATE VIEW)", by.name);
    Error::new(sqlstate::DEPENDENT_OBJECTS, ErrorKind::Conflict, message)
        .hint(format!("DROP VIEW {} first, or DROP ... CASCADE", by.name))
}

async fn forget(database: &Database, queries: &[Arc<QueryDef>], also: Option<&str>) -> Result<Cut> {
    let mut position = Cut::new();
    for name in queries.iter().map(|query| query.name.as_str()).chain(also) {
        position = database.record(&CatalogRecord::QueryDropped { name: name.to_owned() }).await?;
    }
    Ok(position)
}

/// Drops the named queries that use a table or stream before it goes itself; called with the lock on definitions.
///
/// # Errors
/// When there are some and `cascade` is not said.
pub(crate) async fn drop_dependents(database: &Database, what: &str, name: &str, cascade: bool) -> Result<()> {
    let others = dependents(&database.catalog(), name)?;
    match others.first() {
        None => Ok(()),
        Some(query) if !cascade => Err(in_use(what, name, query)),
        Some(_) => forget(database, &others, None).await.map(drop),
    }
}

/// The named queries that use a table, stream or named query, directly or through others.
///
/// # Errors
/// When a stored SELECT does not parse: it was written by another release.
pub(crate) fn dependents(catalog: &CatalogState, name: &str) -> Result<Vec<Arc<QueryDef>>> {
    let mut found = Vec::new();
    for query in catalog.queries().filter(|query| query.name != name) {
        if uses(catalog, &query.query)?.contains(name) {
            found.push(Arc::clone(query));
        }
    }
    Ok(found)
}

/// Everything that a SELECT uses, also through named queries.
fn uses(catalog: &CatalogState, query: &str) -> Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    let mut texts = vec![query.to_owned()];
    while let Some(text) = texts.pop() {
        let Some(Statement::Sql(statement)) = parse(&text, 1)?.pop() else { continue };
        let mut collector = Collector { catalog, used: Vec::new() };
        let _ = Visit::visit(&*statement, &mut collector);
        for name in collector.used {
            if let Some(query) = catalog.find_query(&name)
                && !used.contains(&name)
            {
                texts.push(query.query.clone());
            }
            used.insert(name);
        }
    }
    Ok(used)
}

struct Collector<'a> {
    catalog: &'a CatalogState,
    used: Vec<String>,
}

impl Visitor for Collector<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let named = match factor {
            TableFactor::Table { name, args: None, .. } => Some(name.clone()),
            factor => crate::sql::changes::table_of(factor),
        };
        if let Some(name) = named {
            self.used.push(resolve(&name, self.catalog).unwrap_or_else(|| bare(&name)));
        }
        ControlFlow::Continue(())
    }
}

fn bare(name: &ObjectName) -> String {
    let written = name_of(name);
    written.strip_prefix("public.").map_or(written.clone(), str::to_owned)
}
