//! CREATE INDEX and DROP INDEX, and the references of a new table.
//!
//! A new index is built with a new generation of the table's view, while the old one serves. A unique one holds from the moment
//! it is defined: until it is built, changes look at the rows.

use std::sync::Arc;

use logcore::ErrorKind;
use rowstore::{Computed, Constraint, Index, IndexColumn, Rule, TableSchema};

use crate::answer::SqlAnswer;
use crate::catalog::{CatalogRecord, CatalogState, Source, TableDef, TableKind};
use crate::database::Database;
use crate::dml;
use crate::error::{Error, Result, sqlstate};
use crate::query::Context;
use crate::sql::constraints::ForeignKey;
use crate::sql::ddl::{CreateIndex, name_of};
use crate::sql::rewrite::resolve;
use crate::view::{index_keys, rebuild};

fn done(tag: &'static str, position: Option<crate::position::Cut>) -> SqlAnswer {
    SqlAnswer::Done { tag, position }
}

fn find<'c>(catalog: &'c CatalogState, name: &str) -> Option<(&'c Arc<TableDef>, &'c TableSchema, &'c Index)> {
    catalog.tables().find_map(|def| match &def.kind {
        TableKind::Row(schema) => Some((def, schema, schema.indexes.iter().find(|index| index.name == name)?)),
        _ => None,
    })
}

/// Defines an index, once no other is being built for the table, and waits until it is built or the deadline comes: then it is
/// built all the same, and not used before.
///
/// # Errors
/// What is wrong with it; rows that are equal already, when it is unique.
pub async fn create(database: &Database, wanted: CreateIndex, context: Context<'_>) -> Result<SqlAnswer> {
    loop {
        match begin(database, &wanted, context).await? {
            Begun::Already => return Ok(done("CREATE INDEX", None)),
            Begun::Building { table, generation, position } => {
                if let Err(error) = database.rebuilt(&table, generation, context.deadline).await {
                    tracing::info!(table, generation, %error, "an index is still being built");
                }
                return Ok(done("CREATE INDEX", Some(position)));
            }
            Begun::After { table, generation } => drop(database.rebuilt(&table, generation, context.deadline).await?),
        }
    }
}

/// What became of the first step.
enum Begun {
    /// There is one of that name, and that is fine.
    Already,
    /// It is defined, and built with a generation of the table's view.
    Building { table: String, generation: u64, position: crate::position::Cut },
    /// Another generation must be built first.
    After { table: String, generation: u64 },
}

async fn begin(database: &Database, wanted: &CreateIndex, context: Context<'_>) -> Result<Begun> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    let table = resolve(&datafusion::sql::sqlparser::ast::Ident::with_quote('"', &wanted.table).into(), &catalog);
    let def = catalog.table(table.as_deref().unwrap_or(&wanted.table))?;
    let TableKind::Row(schema) = &def.kind else {
        let message = format!("\"{}\" is a {} table: only row tables have indexes of columns", def.name, def.kind.name());
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message));
    };
    if wanted.unique && def.source != Source::Own {
        let message = format!("table \"{}\" is a view of a stream: nothing can be refused there", def.name);
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message).hint("make an index that is not unique"));
    }
    for column in wanted.columns.iter().filter(|column| column.expression.is_none()) {
        if schema.column(&column.name).is_none() {
            let message = format!("column \"{}\" of table \"{}\" does not exist", column.name, def.name);
            return Err(Error::new(sqlstate::UNDEFINED_COLUMN, ErrorKind::Invalid, message));
        }
    }
    let name = wanted.name.clone().unwrap_or_else(|| {
        let columns: Vec<&str> = wanted.columns.iter().map(short_name).collect();
        let base = format!("{}_{}_idx", def.name, columns.join("_"));
        let numbered = (1..).map(|n| format!("{base}{n}"));
        [base.clone()].into_iter().chain(numbered).find(|name| find(&catalog, name).is_none()).unwrap_or(base)
    });
    if find(&catalog, &name).is_some() {
        return match wanted.if_not_exists {
            true => Ok(Begun::Already),
            false => Err(Error::new(sqlstate::DUPLICATE_TABLE, ErrorKind::Conflict, format!("index \"{name}\" exists already"))
                .hint("choose another name, or say IF NOT EXISTS")),
        };
    }
    let view = database.views().get(def)?;
    if let Some(building) = view.building() {
        return Ok(Begun::After { table: def.name.clone(), generation: building.number });
    }
    let (id, generation) = (def.id, def.newest + 1);
    let mut index = Index {
        id: schema.last_index + 1,
        name,
        columns: wanted.columns.clone(),
        unique: wanted.unique,
        generation,
        predicate: wanted.predicate.clone(),
        computed: Computed::default(),
    };
    if !index.is_plain() {
        index_keys::define(database.session(), schema, &mut index)?;
    }
    {
        let _gate = database.gate().write().await;
        database.record(&CatalogRecord::IndexCreated { id, index: index.clone() }).await?;
    }
    let judged = match (index.unique, index.is_plain()) {
        (true, _) => refuse_equal_rows(database, &def.name, &index, context).await,
        (false, false) => evaluate_all(database, &def.name, &index, context).await,
        (false, true) => Ok(()),
    };
    if let Err(error) = judged {
        database.record(&CatalogRecord::IndexDropped { id, index: index.id }).await?;
        return Err(error);
    }
    let position = database.record(&CatalogRecord::RebuildStarted { id, generation }).await?;
    rebuild::begin(database, view, generation).await?;
    Ok(Begun::Building { table: def.name.clone(), generation, position })
}

/// What an index is of, as it may stand in a SELECT.
fn texts(index: &Index) -> Vec<String> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let text = |column: &IndexColumn| match &column.expression {
        Some(expression) => format!("({})", expression.text),
        None => quoted(&column.name),
    };
    index.columns.iter().map(text).collect()
}

/// What PostgreSQL calls a column of an index in the index's name: its name, that of the function called, or `expr`.
fn short_name(column: &IndexColumn) -> &str {
    match (&column.expression, column.name.split_once('(')) {
        (None, _) => &column.name,
        (Some(_), Some((function, _))) if function.chars().all(|c| c.is_alphanumeric() || c == '_') && !function.is_empty() => {
            function
        }
        (Some(_), _) => "expr",
    }
}

/// Whether the expressions of a new index evaluate for every row.
async fn evaluate_all(database: &Database, table: &str, index: &Index, context: Context<'_>) -> Result<()> {
    let counted: Vec<String> = texts(index).iter().map(|text| format!("count({text})")).collect();
    let condition = index.predicate.as_ref().map(|predicate| format!(" WHERE {predicate}")).unwrap_or_default();
    let text = format!("SELECT {} FROM \"{}\"{condition}", counted.join(", "), table.replace('"', "\"\""));
    dml::has_rows(database, &text, context).await.map(drop)
}

/// Whether there are rows that a new unique index would not allow.
async fn refuse_equal_rows(database: &Database, table: &str, index: &Index, context: Context<'_>) -> Result<()> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let columns = texts(index);
    let present = columns.iter().map(|column| format!("{column} IS NOT NULL"));
    let present: Vec<String> = present.chain(index.predicate.iter().map(|predicate| format!("({predicate})"))).collect();
    let (columns, present) = (columns.join(", "), present.join(" AND "));
    let text = format!("SELECT 1 FROM {} WHERE {present} GROUP BY {columns} HAVING count(*) > 1 LIMIT 1", quoted(table));
    if dml::has_rows(database, &text, context).await? {
        let message = format!("index \"{}\" can't be unique: rows of table \"{table}\" have equal ({columns})", index.name);
        return Err(Error::new(sqlstate::UNIQUE_VIOLATION, ErrorKind::Conflict, message).hint("make them different first"));
    }
    Ok(())
}

/// Forgets an index.
///
/// # Errors
/// When a constraint rests on it.
pub async fn remove(database: &Database, name: &str, if_exists: bool) -> Result<SqlAnswer> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    let Some((def, schema, index)) = find(&catalog, name) else {
        let message = format!("index \"{name}\" does not exist");
        return match if_exists {
            true => Ok(done("DROP INDEX", None)),
            false => Err(Error::new(sqlstate::UNDEFINED_OBJECT, ErrorKind::NotFound, message)),
        };
    };
    let rests = |constraint: &&Constraint| match &constraint.rule {
        Rule::Unique { index: needed } | Rule::ForeignKey { index: needed, .. } => *needed == index.id,
        Rule::Check { .. } => false,
    };
    if let Some(constraint) = schema.constraints.iter().find(rests) {
        let message = format!("constraint \"{}\" of table \"{}\" rests on index \"{name}\"", constraint.name, def.name);
        return Err(Error::new(sqlstate::DEPENDENT_OBJECTS, ErrorKind::Conflict, message));
    }
    let referenced = catalog.tables().find(|other| references(other, def.id, Some(index)));
    if let Some(other) = referenced.filter(|_| index.unique) {
        let message = format!("a foreign key of table \"{}\" rests on index \"{name}\"", other.name);
        return Err(Error::new(sqlstate::DEPENDENT_OBJECTS, ErrorKind::Conflict, message));
    }
    let _gate = database.gate().write().await;
    let position = database.record(&CatalogRecord::IndexDropped { id: def.id, index: index.id }).await?;
    Ok(done("DROP INDEX", Some(position)))
}

/// Whether a table references another, by the columns of an index if one is named.
#[must_use]
pub fn references(def: &TableDef, parent: u32, by: Option<&Index>) -> bool {
    let TableKind::Row(schema) = &def.kind else { return false };
    schema.constraints.iter().any(|constraint| match &constraint.rule {
        Rule::ForeignKey { table, referenced, .. } if *table == parent => by.is_none_or(|index| {
            index.is_plain()
                && index.columns.len() == referenced.len()
                && index.columns.iter().all(|column| referenced.contains(&column.name))
        }),
        _ => false,
    })
}

/// Puts the references of a new table, whose id is `own`, into its schema.
///
/// # Errors
/// When the referenced table or its key is not there, or of other types.
pub fn resolve_references(
    catalog: &CatalogState,
    own: (u32, &str),
    schema: &mut TableSchema,
    keys: Vec<ForeignKey>,
) -> Result<()> {
    for key in keys {
        let wrong = |message: String| Error::new(sqlstate::INVALID_FOREIGN_KEY, ErrorKind::Invalid, message);
        let parsed = datafusion::sql::sqlparser::ast::Ident::with_quote('"', &key.table).into();
        let name = resolve(&parsed, catalog).unwrap_or_else(|| name_of(&parsed));
        let (table, parent) = if name == own.1 {
            (own.0, schema.clone())
        } else {
            let def = catalog.table(&name)?;
            match (&def.kind, &def.source) {
                (TableKind::Row(parent), Source::Own) => (def.id, parent.clone()),
                _ => return Err(wrong(format!("\"{name}\" is a view of a stream: it can't be referenced"))),
            }
        };
        let primary: Vec<String> = parent.primary_key.iter().map(|at| parent.columns[*at].name.clone()).collect();
        let referenced = if key.referenced.is_empty() { primary.clone() } else { key.referenced };
        let same = |columns: &[String]| columns.len() == referenced.len() && columns.iter().all(|name| referenced.contains(name));
        let unique = parent.indexes.iter().filter(|index| index.unique && index.is_plain());
        let mut unique = unique.map(|index| index.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>());
        if !same(&primary) && !unique.any(|columns| same(&columns)) {
            let message = format!("there is no unique constraint on ({}) of table \"{name}\"", referenced.join(", "));
            return Err(wrong(message).hint("reference its primary key, or columns that are UNIQUE"));
        }
        if referenced.len() != key.columns.len() {
            return Err(wrong(format!(
                "foreign key \"{}\" has {} columns and references {}",
                key.name,
                key.columns.len(),
                referenced.len()
            )));
        }
        for (column, other) in key.columns.iter().zip(&referenced) {
            let kind = |schema: &TableSchema, name: &str| schema.column(name).map(|at| schema.columns[at].kind.arrow());
            if kind(schema, column) != kind(&parent, other) {
                return Err(wrong(format!("foreign key \"{}\": \"{column}\" and \"{other}\" are of different types", key.name)));
            }
        }
        let ForeignKey { name, columns, on_delete, on_update, index, .. } = key;
        let rule = Rule::ForeignKey { columns, table, referenced, on_delete, on_update, index };
        schema.constraints.push(Constraint { name, rule });
    }
    Ok(())
}
