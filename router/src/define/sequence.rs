//! CREATE SEQUENCE and DROP SEQUENCE, and the sequences of a new table's columns.

use logcore::ErrorKind;
use rowstore::{ColumnType, TableSchema};

use super::{check_name, done};
use crate::answer::SqlAnswer;
use crate::catalog::{CatalogRecord, CatalogState, SequenceDef, SequenceOwner, Source, TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::sql::sequences::{ColumnSequence, CreateSequence, SequenceOptions, nextval};

/// Makes a sequence.
///
/// # Errors
/// A name that is taken, bounds that contradict each other.
pub async fn create(database: &Database, wanted: CreateSequence) -> Result<SqlAnswer> {
    const TAG: &str = "CREATE SEQUENCE";
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    let name = bare(&wanted.name).to_owned();
    if wanted.if_not_exists && catalog.find_sequence(&name).is_some() {
        return Ok(done(TAG, None));
    }
    check_name(&catalog, &name)?;
    let owner = wanted.options.owner.as_ref().map(|(table, column)| owner(&catalog, table, column)).transpose()?;
    let def = define(&wanted.options, catalog.next_sequence(), name, owner)?;
    let position = database.record(&CatalogRecord::SequenceCreated(def)).await?;
    Ok(done(TAG, Some(position)))
}

fn bare(name: &str) -> &str {
    name.strip_prefix("public.").unwrap_or(name)
}

fn owner(catalog: &CatalogState, table: &str, column: &str) -> Result<SequenceOwner> {
    let def = catalog.table(bare(table))?;
    let (TableKind::Row(schema), Source::Own) = (&def.kind, &def.source) else {
        let message = format!("table \"{table}\" is a view of a stream and can't own a sequence");
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message));
    };
    let at = schema.column(column).ok_or_else(|| {
        let message = format!("column \"{column}\" of table \"{table}\" does not exist");
        Error::new(sqlstate::UNDEFINED_COLUMN, ErrorKind::Invalid, message)
    })?;
    Ok(SequenceOwner { table: def.id, column: schema.columns[at].id })
}

/// A sequence with all that its options leave open.
fn define(options: &SequenceOptions, id: u32, name: String, owner: Option<SequenceOwner>) -> Result<SequenceDef> {
    let kind = options.kind.clone().unwrap_or(ColumnType::BigInt);
    let (low, high) = match kind {
        ColumnType::SmallInt => (i64::from(i16::MIN), i64::from(i16::MAX)),
        ColumnType::Integer => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    let wrong = |message: String| Err(Error::invalid(message));
    let increment = options.increment.unwrap_or(1);
    if increment == 0 {
        return wrong("INCREMENT must not be zero".into());
    }
    let min = options.min.unwrap_or(if increment > 0 { 1 } else { low });
    let max = options.max.unwrap_or(if increment > 0 { high } else { -1 });
    if min < low || max > high {
        return wrong(format!("MINVALUE ({min}) or MAXVALUE ({max}) is out of range for type {kind}"));
    }
    if min >= max {
        return wrong(format!("MINVALUE ({min}) must be less than MAXVALUE ({max})"));
    }
    let start = options.start.unwrap_or(if increment > 0 { min } else { max });
    if !(min..=max).contains(&start) {
        return wrong(format!("START value ({start}) must be between MINVALUE ({min}) and MAXVALUE ({max})"));
    }
    Ok(SequenceDef { id, name, kind, increment, min, max, start, cycle: options.cycle, owner, next: Some(start) })
}

/// The sequences of a table's columns, which become the columns' defaults.
///
/// # Errors
/// Bounds that contradict each other.
pub fn of_columns(
    catalog: &CatalogState,
    (id, name): (u32, &str),
    schema: &mut TableSchema,
    wanted: &[ColumnSequence],
) -> Result<Vec<CatalogRecord>> {
    let mut made: Vec<SequenceDef> = Vec::new();
    for sequence in wanted {
        let at = schema.column(&sequence.column).ok_or_else(|| Error::internal("a sequence is of a column"))?;
        let column = &mut schema.columns[at];
        let base = format!("{}_{}_seq", bare(name), column.name);
        let taken = |name: &str| check_name(catalog, name).is_err() || made.iter().any(|other| other.name == name);
        let numbered = (1..).map(|n| format!("{base}{n}"));
        let name = [base.clone()].into_iter().chain(numbered).take(1_000).find(|name| !taken(name)).unwrap_or(base);
        column.default = Some(nextval(&name));
        let owner = SequenceOwner { table: id, column: column.id };
        let next = catalog.next_sequence() + u32::try_from(made.len()).unwrap_or_default();
        made.push(define(&sequence.options, next, name, Some(owner))?);
    }
    Ok(made.into_iter().map(CatalogRecord::SequenceCreated).collect())
}

/// Whether a default takes numbers of a sequence.
pub fn uses(default: &str, sequence: &str) -> bool {
    default.contains(&nextval(sequence)) || default.contains(&nextval(sequence).replace("nextval('", "nextval('public."))
}

/// Drops sequences.
///
/// # Errors
/// Unknown names, and those that columns take their numbers from.
pub async fn remove(database: &Database, names: &[String], if_exists: bool, cascade: bool) -> Result<SqlAnswer> {
    const TAG: &str = "DROP SEQUENCE";
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    let mut records = Vec::new();
    let mut altered: Vec<(std::sync::Arc<TableDef>, TableSchema)> = Vec::new();
    for name in names {
        let def = match catalog.sequence(name) {
            Ok(def) => def,
            Err(_) if if_exists => continue,
            Err(error) => return Err(error),
        };
        for table in catalog.tables() {
            let TableKind::Row(schema) = &table.kind else { continue };
            let of = |default: &Option<String>| default.as_ref().is_some_and(|default| uses(default, &def.name));
            let Some(column) = schema.columns.iter().find(|column| of(&column.default)) else { continue };
            if column.identity.is_some() || !cascade {
                let what = if column.identity.is_some() { "identity column" } else { "default value of column" };
                let message = format!("{what} \"{}\" of table \"{}\" depends on sequence \"{name}\"", column.name, table.name);
                let error = Error::new(sqlstate::DEPENDENT_OBJECTS, ErrorKind::Conflict, message);
                return Err(match column.identity {
                    Some(_) => error.hint("drop the column, or the table"),
                    None => error.hint("use DROP SEQUENCE ... CASCADE to drop the default too"),
                });
            }
            let known = altered.iter().position(|(other, _)| other.id == table.id);
            let at = known.unwrap_or_else(|| {
                altered.push((std::sync::Arc::clone(table), schema.clone()));
                altered.len() - 1
            });
            for column in altered[at].1.columns.iter_mut().filter(|column| of(&column.default)) {
                column.default = None;
            }
        }
        records.push(CatalogRecord::SequenceDropped { id: def.id });
    }
    if records.is_empty() {
        return Ok(done(TAG, None));
    }
    let _gate = database.gate().write().await;
    records.extend(altered.into_iter().map(|(table, schema)| CatalogRecord::ColumnsAltered { id: table.id, schema }));
    let position = database.record_all(&records).await?;
    let catalog = database.catalog();
    database.sequences().retain(|id| catalog.sequence_by_id(id).is_some());
    Ok(done(TAG, Some(position)))
}
