//! Judging changes: types are right already; here NOT NULL, CHECK, keys, UNIQUE and foreign keys are, and what follows from a
//! foreign key's actions is carried out.
//!
//! A statement's changes are taken into the transaction first and judged then, all together, as PostgreSQL judges foreign keys:
//! rows may pass through states that would be refused as an end.
//!
//! # Invariants
//! - Whatever a judgement rests on is noted in the transaction, so that it holds when the transaction enters the log.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::common::DFSchema;
use docstore::mapping::ID_BYTES_MAX;
use logcore::ErrorKind;
use rowstore::key::encode_key;
use rowstore::value::build_column;
use rowstore::{Action, Constraint, Index, Rule, TableSchema, Value};

use super::target::{Change, Row, Target};
use crate::append::{blocking, lookup};
use crate::catalog::{CatalogState, TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::txn::{Key, Transaction};

/// Rows that one change may touch through foreign keys.
const CASCADE_ROWS_MAX: usize = 1 << 20;
/// Changes that are judged where they are asked for.
pub(super) const LOOKUP_ROWS_MAX: usize = 128;

/// Takes changes into transactions.
#[derive(Clone)]
pub struct Writer {
    /// The database.
    pub database: Database,
    /// The definitions that the statement goes by.
    pub catalog: Arc<CatalogState>,
    /// Where the changes go.
    pub transaction: Arc<Transaction>,
    /// Give up then.
    pub deadline: Instant,
}

impl Writer {
    /// Takes the changes of one statement in, with all that follows from them.
    ///
    /// # Errors
    /// The first constraint that does not hold.
    pub async fn apply(&self, target: Arc<Target>, changes: Vec<Change>) -> Result<()> {
        let mut work = VecDeque::from([(target, changes)]);
        let mut rows = 0;
        while let Some((target, changes)) = work.pop_front() {
            rows += changes.len();
            if rows > CASCADE_ROWS_MAX {
                let message = format!("the change touches more than {CASCADE_ROWS_MAX} rows through foreign keys");
                return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, ErrorKind::TooLarge, message));
            }
            let new: Vec<&Row> = changes.iter().filter_map(|change| change.new.as_ref()).collect();
            check_rows(&self.database, &target, &new)?;
            self.check_documents(&target, &new)?;
            self.see_related(&target).await?;
            let writer = self.clone();
            let is_small = changes.len() <= LOOKUP_ROWS_MAX;
            let stage = move || writer.stage(&target, &changes);
            let follows = if is_small { lookup(stage).await } else { blocking(stage).await };
            work.extend(follows?);
        }
        Ok(())
    }

    fn check_documents(&self, target: &Target, rows: &[&Row]) -> Result<()> {
        if self.catalog.search_side(target.def.id).is_none() {
            return Ok(());
        }
        rows.iter().try_for_each(|row| check_document(&target.def.name, row))
    }

    /// Waits until the tables that foreign keys lead to, in either direction, show the snapshot: what they don't show yet would be
    /// taken for what is not there.
    async fn see_related(&self, target: &Target) -> Result<()> {
        let snapshot = self.transaction.snapshot();
        let leads = |from: &TableDef, to: u32| match &from.kind {
            TableKind::Row(schema) => {
                schema.constraints.iter().any(|own| matches!(&own.rule, Rule::ForeignKey { table, .. } if *table == to))
            }
            _ => false,
        };
        for def in self.catalog.all_tables().filter(|def| leads(def, target.def.id) || leads(&target.def, def.id)) {
            self.database.views().get(def)?.visible_to(0, snapshot, self.deadline).await?;
        }
        Ok(())
    }

    /// Takes in the changes of one table, and gives those that follow for others.
    fn stage(&self, target: &Target, changes: &[Change]) -> Result<Vec<(Arc<Target>, Vec<Change>)>> {
        self.stage_rows(target, changes)?;
        self.unique(target, changes)?;
        self.references(target, changes)?;
        self.referencing(target, changes)
    }

    fn stage_rows(&self, target: &Target, changes: &[Change]) -> Result<()> {
        let rows = target.rows(&self.transaction)?;
        let gone: HashSet<&[u8]> = changes.iter().filter_map(|change| Some(&change.old.as_ref()?.key[..])).collect();
        let mut put: HashSet<&[u8]> = HashSet::new();
        for new in changes.iter().filter_map(|change| change.new.as_ref()) {
            let taken = !put.insert(&new.key) || (!gone.contains(&new.key[..]) && rows.get(&new.key)?.is_some());
            if taken {
                return Err(duplicate_key(target, &new.values));
            }
        }
        for old in changes.iter().filter_map(|change| change.old.as_ref()).filter(|old| !put.contains(&old.key[..])) {
            rows.put(&old.key, None)?;
        }
        for new in changes.iter().filter_map(|change| change.new.as_ref()) {
            rows.put(&new.key, Some(new))?;
        }
        Ok(())
    }

    fn unique(&self, target: &Target, changes: &[Change]) -> Result<()> {
        let schema = &target.schema;
        let rows = target.rows(&self.transaction)?;
        for index in schema.indexes.iter().filter(|index| index.unique) {
            for change in changes {
                let entry = |row: &Option<Row>| -> Result<Option<Vec<u8>>> {
                    let entry = row.as_ref().map(|row| index.unique_prefix(&row.values, schema)).transpose()?;
                    Ok(entry.flatten())
                };
                let (old, new) = (entry(&change.old)?, entry(&change.new)?);
                if old == new {
                    continue;
                }
                if let Some(old) = &old {
                    self.transaction.marks(Key::Unique(target.def.id, old));
                }
                if let (Some(entry), Some(row)) = (&new, &change.new) {
                    self.transaction.writes_unique(target.def.id, entry);
                    if rows.find(index, entry, 2)?.iter().any(|other| other.key != row.key) {
                        return Err(duplicate_entry(target, index, &row.values));
                    }
                }
            }
        }
        Ok(())
    }

    /// Foreign keys of the table itself: what they name must be there.
    fn references(&self, target: &Target, changes: &[Change]) -> Result<()> {
        for constraint in &target.schema.constraints {
            let Rule::ForeignKey { columns, table, referenced, index, .. } = &constraint.rule else { continue };
            let Some(parent) = self.catalog.all_tables().find(|def| def.id == *table) else {
                return Err(Error::internal(format!("constraint \"{}\" references a table that is gone", constraint.name)));
            };
            let parent = Target::of(&self.database, parent)?;
            let rows = parent.rows(&self.transaction)?;
            for change in changes {
                let Some(new) = &change.new else { continue };
                let Some(values) = picked(&new.values, columns, &target.schema) else { continue };
                if change.old.as_ref().and_then(|old| picked(&old.values, columns, &target.schema)).as_ref() == Some(&values) {
                    continue;
                }
                let found = match key_of(&parent.schema, referenced, &values)? {
                    ParentKey::Primary(key) => {
                        self.transaction.relies_on(Key::Row(parent.def.id, &key));
                        rows.get(&key)?.is_some()
                    }
                    ParentKey::Unique(index, entry) => {
                        self.transaction.relies_on(Key::Unique(parent.def.id, &entry));
                        !rows.find(index, &entry, 1)?.is_empty()
                    }
                };
                if !found {
                    return Err(no_such_parent(target, constraint, columns, &values, &parent.def.name));
                }
                if let Some(index) = target.schema.indexes.iter().find(|own| own.id == *index) {
                    self.transaction.marks(Key::References(target.def.id, &index.prefix(&values)));
                }
            }
        }
        Ok(())
    }

    /// Foreign keys of other tables that name rows which go or change their keys.
    fn referencing(&self, target: &Target, changes: &[Change]) -> Result<Vec<(Arc<Target>, Vec<Change>)>> {
        let mut follows = Vec::new();
        for def in self.catalog.all_tables() {
            let TableKind::Row(schema) = &def.kind else { continue };
            for constraint in &schema.constraints {
                let Rule::ForeignKey { table, .. } = &constraint.rule else { continue };
                if *table == target.def.id {
                    let child = self.child_changes(target, changes, def, constraint)?;
                    follows.extend(child);
                }
            }
        }
        Ok(follows)
    }

    fn child_changes(
        &self,
        target: &Target,
        changes: &[Change],
        def: &Arc<TableDef>,
        constraint: &Constraint,
    ) -> Result<Option<(Arc<Target>, Vec<Change>)>> {
        let Rule::ForeignKey { columns, referenced, on_delete, on_update, index, .. } = &constraint.rule else { return Ok(None) };
        let child = Target::of(&self.database, def)?;
        let Some(index) = child.schema.indexes.iter().find(|own| own.id == *index) else {
            return Err(Error::internal(format!("constraint \"{}\" has lost its index", constraint.name)));
        };
        let mut follow = Vec::new();
        let rows = child.rows(&self.transaction)?;
        for change in changes {
            let Some(old) = change.old.as_ref().and_then(|old| picked(&old.values, referenced, &target.schema)) else { continue };
            let new = change.new.as_ref().map(|new| picked(&new.values, referenced, &target.schema));
            if new.as_ref() == Some(&Some(old.clone())) {
                continue;
            }
            // Another row may have taken the key over in the same statement.
            let parents = target.rows(&self.transaction)?;
            let still = match key_of(&target.schema, referenced, &old)? {
                ParentKey::Primary(key) => parents.get(&key)?.is_some(),
                ParentKey::Unique(index, entry) => !parents.find(index, &entry, 1)?.is_empty(),
            };
            if still {
                continue;
            }
            let prefix = index.prefix(&old);
            self.transaction.relies_on(Key::References(def.id, &prefix));
            let action = if change.new.is_some() { *on_update } else { *on_delete };
            for row in rows.find(index, &prefix, usize::MAX)? {
                let positions = columns.iter().filter_map(|name| child.schema.column(name));
                let mut values = row.values.clone();
                match (action, &new) {
                    (Action::Restrict, _) => return Err(still_referenced(target, referenced, &old, def, constraint)),
                    (Action::SetDefault, _) => {
                        return Err(Error::unsupported("ON DELETE and ON UPDATE SET DEFAULT are not supported yet"));
                    }
                    (Action::SetNull, _) => positions.for_each(|at| values[at] = Value::Null),
                    (Action::Cascade, Some(Some(new))) => positions.zip(new).for_each(|(at, new)| values[at] = new.clone()),
                    (Action::Cascade, _) => {
                        follow.push(Change { old: Some(row), new: None });
                        continue;
                    }
                }
                follow.push(Change { new: Some(child.row(values)?), old: Some(row) });
            }
        }
        Ok((!follow.is_empty()).then(|| (Arc::new(child), follow)))
    }
}

/// How a referenced row is found.
enum ParentKey<'s> {
    Primary(Vec<u8>),
    Unique(&'s Index, Vec<u8>),
}

/// The values of the named columns; `None` when one is NULL.
fn picked(values: &[Value], columns: &[String], schema: &TableSchema) -> Option<Vec<Value>> {
    let at = columns.iter().map(|name| schema.column(name).map(|at| values[at].clone()));
    at.collect::<Option<Vec<_>>>().filter(|values| !values.contains(&Value::Null))
}

/// The key of the row whose `columns` have these values.
fn key_of<'s>(schema: &'s TableSchema, columns: &[String], values: &[Value]) -> Result<ParentKey<'s>> {
    let value_of = |name: &str| columns.iter().position(|column| column == name).map(|at| values[at].clone());
    let names = schema.primary_key.iter().map(|at| &schema.columns[*at].name);
    if schema.primary_key.len() == columns.len() && names.clone().all(|name| columns.contains(name)) {
        let mut row = vec![Value::Null; schema.columns.len()];
        for at in &schema.primary_key {
            row[*at] = value_of(&schema.columns[*at].name).unwrap_or(Value::Null);
        }
        return Ok(ParentKey::Primary(encode_key(&row, schema)?));
    }
    let fits = |index: &&Index| {
        index.unique
            && index.is_plain()
            && index.columns.len() == columns.len()
            && index.columns.iter().all(|column| columns.contains(&column.name))
    };
    let Some(index) = schema.indexes.iter().find(fits) else {
        return Err(Error::internal("a foreign key names a primary key or a unique index"));
    };
    let ordered: Vec<Value> = index.columns.iter().filter_map(|column| value_of(&column.name)).collect();
    Ok(ParentKey::Unique(index, index.prefix(&ordered)))
}

/// A document is a JSON object, and its id is short enough for whatever searches it.
fn check_document(table: &str, row: &Row) -> Result<()> {
    let [Value::Text(id), Value::Text(doc)] = &row.values[..] else { return Ok(()) };
    // Whatever is taken must be read back by updates and by the search, which read JSON up to the same depth.
    let is_object = serde_json::from_str::<serde_json::Value>(doc).is_ok_and(|doc| doc.is_object());
    let what = match (is_object, id.len()) {
        (false, _) => "its document is not a JSON object, or is nested more than 127 deep".to_owned(),
        (true, bytes) if bytes > ID_BYTES_MAX => format!("its id has {bytes} bytes, the limit is {ID_BYTES_MAX}"),
        (true, _) => return Ok(()),
    };
    let id: String = id.chars().take(64).collect();
    let message = format!("document \"{id}\" of table \"{table}\": {what}");
    Err(Error::new(sqlstate::CHECK_VIOLATION, ErrorKind::Invalid, message))
}

/// NOT NULL and CHECK.
fn check_rows(database: &Database, target: &Target, rows: &[&Row]) -> Result<()> {
    let schema = &target.schema;
    for row in rows {
        if let Some(at) = (0..row.values.len()).find(|at| row.values[*at] == Value::Null && schema.refuses_null(*at)) {
            return Err(null_value(target, at));
        }
    }
    let checks = schema.constraints.iter().filter_map(|constraint| match &constraint.rule {
        Rule::Check { expression } => Some((constraint, expression)),
        _ => None,
    });
    let mut batch = None;
    for (constraint, expression) in checks {
        if rows.is_empty() {
            return Ok(());
        }
        let batch = match &batch {
            Some(batch) => batch,
            None => batch.insert(batch_of(schema, rows)?),
        };
        let failed = failing(database, &target.def.name, expression, batch)?;
        if let Some(row) = failed.map(|at| rows[at]) {
            let message = format!(
                "new row of table \"{}\" violates check constraint \"{}\" ({expression}): ({})",
                target.def.name,
                constraint.name,
                row.values.iter().map(show).collect::<Vec<_>>().join(", ")
            );
            return Err(Error::new(sqlstate::CHECK_VIOLATION, ErrorKind::Invalid, message).hint("change the values"));
        }
    }
    Ok(())
}

/// A NULL in the primary key is refused as one in any column that must not be NULL.
///
/// # Errors
/// Naming the column.
pub fn refuse_null_key(target: &Target, values: &[Value]) -> Result<()> {
    match target.schema.primary_key.iter().find(|at| values[**at] == Value::Null) {
        Some(at) => Err(null_value(target, *at)),
        None => Ok(()),
    }
}

/// A batch of rows.
///
/// # Errors
/// When a value is not of its column's type: a bug.
pub fn batch_of(schema: &TableSchema, rows: &[&Row]) -> Result<RecordBatch> {
    let columns = schema.columns.iter().enumerate();
    let columns = columns.map(|(at, column)| build_column(&column.kind, rows.iter().map(|row| &row.values[at])));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    // Rows are judged here: their shape must not refuse a NULL first.
    let fields = schema.arrow().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    let shape = Arc::new(datafusion::arrow::datatypes::Schema::new(fields));
    Ok(RecordBatch::try_new(shape, columns).map_err(datafusion::common::DataFusionError::from)?)
}

/// The first row for which an expression is false.
///
/// # Errors
/// When it does not evaluate.
pub fn failing(database: &Database, table: &str, expression: &str, batch: &RecordBatch) -> Result<Option<usize>> {
    let schema = DFSchema::try_from_qualified_schema(datafusion::common::TableReference::bare(table), &batch.schema())?;
    let state = database.session();
    let logical = state.create_logical_expr(expression, &schema)?;
    let physical = state.create_physical_expr(logical, &schema)?;
    let answers = physical.evaluate(batch)?.into_array(batch.num_rows())?;
    let Some(answers) = answers.as_boolean_opt() else {
        let message = format!("the check ({expression}) is not a condition");
        return Err(Error::new(sqlstate::DATATYPE_MISMATCH, ErrorKind::Invalid, message));
    };
    Ok(answers.iter().position(|answer| answer == Some(false)))
}

/// A value as messages show it.
#[must_use]
pub fn show(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Text(text) => format!("'{text}'"),
        Value::Int(value) | Value::Timestamp(value) => value.to_string(),
        Value::Boolean(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Real(value) => value.to_string(),
        other => format!("{other:?}"),
    }
}

/// Columns and their values as messages show them.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a String>, values: &[Value]) -> String {
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    format!("({}) = ({})", names.join(", "), values.iter().map(show).collect::<Vec<_>>().join(", "))
}

fn null_value(target: &Target, at: usize) -> Error {
    let message = format!("null value in column \"{}\" of table \"{}\"", target.schema.columns[at].name, target.def.name);
    Error::new(sqlstate::NOT_NULL_VIOLATION, ErrorKind::Invalid, message).hint("give it a value")
}

fn duplicate_key(target: &Target, values: &[Value]) -> Error {
    let schema = &target.schema;
    let key: Vec<Value> = schema.primary_key.iter().map(|at| values[*at].clone()).collect();
    let shown = listed(schema.primary_key.iter().map(|at| &schema.columns[*at].name), &key);
    let table = &target.def.name;
    let message = format!("duplicate key in table \"{table}\" violates \"{table}_pkey\": {shown} already exists");
    Error::new(sqlstate::UNIQUE_VIOLATION, ErrorKind::Conflict, message).hint("UPDATE the row, or INSERT ... ON CONFLICT")
}

fn duplicate_entry(target: &Target, index: &Index, values: &[Value]) -> Error {
    let key = index.values_of(values, &target.schema).ok().flatten().unwrap_or_default();
    let shown = listed(index.columns.iter().map(|column| &column.name), &key);
    let message = format!("duplicate key in table \"{}\" violates \"{}\": {shown} already exists", target.def.name, index.name);
    Error::new(sqlstate::UNIQUE_VIOLATION, ErrorKind::Conflict, message).hint("UPDATE the row, or INSERT ... ON CONFLICT")
}

fn no_such_parent(target: &Target, constraint: &Constraint, columns: &[String], values: &[Value], parent: &str) -> Error {
    let shown = listed(columns, values);
    let message = format!(
        "table \"{}\" violates foreign key \"{}\": {shown} is not present in table \"{parent}\"",
        target.def.name, constraint.name
    );
    Error::new(sqlstate::FOREIGN_KEY_VIOLATION, ErrorKind::Conflict, message)
        .hint(format!("insert the row into \"{parent}\" first"))
}

fn still_referenced(target: &Target, columns: &[String], values: &[Value], child: &TableDef, constraint: &Constraint) -> Error {
    let shown = listed(columns, values);
    let message = format!(
        "table \"{}\" violates foreign key \"{}\" of table \"{}\": {shown} is still referenced",
        target.def.name, constraint.name, child.name
    );
    Error::new(sqlstate::FOREIGN_KEY_VIOLATION, ErrorKind::Conflict, message)
        .hint(format!("change the rows of \"{}\" first", child.name))
}
