//! `ALTER TABLE`: the columns and constraints ([`constraint`]) of a table written by SQL, and the name of any table. Nothing that is stored is rewritten.
//!
//! A new schema is one record of the catalog. Rows keep the columns they were written with: any version of a schema reads any
//! row (`rowstore::schema`), and every statement reads with the columns that the catalog says when it begins.
//!
//! # Concurrency
//! A DML statement computes rows from one version of the schema and puts them into the log a little later. In between the table
//! must not change: a NULL could come behind the `SET NOT NULL` that looked for NULLs and found none. So there is a gate
//! ([`Database::gate`]): a statement holds it shared from before it looks at the schema until the log has answered, a transaction
//! when it commits, looking whether the schema is still the one its rows were judged by. `ALTER` takes it alone: by then
//! everything that was written under the old schema is committed, and it looks at rows only after the view shows all of it.

mod constraint;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use datafusion::sql::sqlparser::ast::{
    AlterColumnOperation, AlterTableOperation, ColumnDef, DropBehavior, Ident, ObjectName, RenameTableNameKind,
};
use logcore::{ErrorKind, Offset};
use rowstore::{Column, Constraint, IndexColumn, RowTable, Rule, ScanRequest, TableSchema, Value};

use super::{check_name, done, history, mapping, query, search_name, ttl};
use crate::answer::SqlAnswer;
use crate::append::blocking;
use crate::catalog::{CatalogRecord, Source, TableDef, TableKind};
use crate::database::Database;
use crate::dml;
use crate::error::{Error, Result, nearest, sqlstate};
use crate::query::Context;
use crate::sql::constraints::Definition;
use crate::sql::ddl::{AlterTable, name_of};
use crate::sql::rewrite::resolve;
use crate::view::rebuild;
use crate::view::running::{Store, View};

const TAG: &str = "ALTER TABLE";

/// Carries out an `ALTER TABLE`.
///
/// # Errors
/// What is wrong with it or stands against it.
pub async fn execute(database: &Database, statement: AlterTable, context: Context<'_>) -> Result<SqlAnswer> {
    let ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    let name = resolve(&statement.name, &catalog).unwrap_or_else(|| name_of(&statement.name));
    let Some(def) = catalog.find_table(&name).cloned() else {
        return match (statement.if_exists, catalog.find_stream(&name)) {
            (_, Some(_)) => Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, format!("\"{name}\" is a stream"))
                .hint(format!("ALTER STREAM {name} SET (...)"))),
            (true, None) => Ok(done(TAG, None)),
            (false, None) => Err(catalog.table(&name).map(drop).expect_err("it was not found a moment ago")),
        };
    };
    if def.is_hidden() {
        let message = format!("table \"{name}\" belongs to the database and can't be altered");
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message));
    }
    if let [AlterTableOperation::RenameTable { table_name }] = &statement.operations[..] {
        let (RenameTableNameKind::To(new) | RenameTableNameKind::As(new)) = table_name;
        query::drop_dependents(database, "table", &name, false).await?;
        return rename(database, &def, &name_of(new)).await;
    }
    if let [AlterTableOperation::SetOptionsParens { options }] = &statement.operations[..] {
        if ttl::is_meant(options) {
            return ttl::alter(database, &def, options).await;
        }
        let is_searched = catalog.search_side(def.id).is_some() || matches!(def.kind, TableKind::Document(_));
        if is_searched && !history::is_meant(options) {
            return mapping::alter(database, ddl, &def, options, context).await;
        }
        return history::alter(database, &def, options).await;
    }
    // A new column changes nothing for those who don't know it; the others a named query may speak of.
    let moves = |operation: &AlterTableOperation| {
        matches!(operation, AlterTableOperation::DropColumn { .. } | AlterTableOperation::RenameColumn { .. })
    };
    if statement.operations.iter().any(moves) {
        query::drop_dependents(database, "table", &name, false).await?;
    }
    Box::pin(alter_columns(database, &def, statement.operations, context)).await
}

async fn rename(database: &Database, def: &TableDef, new: &str) -> Result<SqlAnswer> {
    check_name(&database.catalog(), new)?;
    let catalog = database.catalog();
    let beside = catalog.search_side(def.id).map(|beside| (&**beside, search_name(new)));
    let renamed: Vec<(&TableDef, String)> = beside.into_iter().chain([(def, new.to_owned())]).collect();
    let record = |(def, name): &(&TableDef, String)| CatalogRecord::TableRenamed { id: def.id, name: name.clone() };
    let position = database.record_all(&renamed.iter().map(record).collect::<Vec<_>>()).await?;
    for (def, name) in renamed {
        if let Ok(view) = database.views().get(def) {
            view.rename(&name);
        }
    }
    Ok(done(TAG, Some(position)))
}

/// A table whose columns are being changed; nobody writes it meanwhile.
struct Altering<'a> {
    database: &'a Database,
    def: &'a TableDef,
    view: Arc<View>,
    schema: TableSchema,
    /// What becomes of other tables at the same moment.
    others: Vec<CatalogRecord>,
    context: Context<'a>,
}

async fn alter_columns(
    database: &Database,
    def: &TableDef,
    operations: Vec<AlterTableOperation>,
    context: Context<'_>,
) -> Result<SqlAnswer> {
    let (Source::Own, TableKind::Row(schema)) = (&def.source, &def.kind) else {
        let message =
            format!("table \"{}\" is a view of a stream: its columns are what its definition makes of the records", def.name);
        return Err(Error::unsupported(message).hint(
            "CREATE TABLE a second view with the columns wanted, DROP TABLE this one, and ALTER TABLE ... RENAME TO its name",
        ));
    };
    if database.catalog().search_side(def.id).is_some() {
        let message = format!("table \"{}\" is a document table: its columns are _id and doc", def.name);
        return Err(
            Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message).hint("put new members into the documents")
        );
    }
    let view = database.views().get(def)?;
    let locked = tokio::time::timeout_at(context.deadline.into(), database.gate().write()).await;
    let _alone = locked.map_err(|_| {
        let message = format!("statements that write table \"{}\" did not end in time", def.name);
        Error::new(sqlstate::QUERY_CANCELED, ErrorKind::Unavailable, message).hint("run the statement again")
    })?;
    let mut altering = Altering { database, def, view, schema: schema.clone(), others: Vec::new(), context };
    for operation in operations {
        Box::pin(altering.apply(operation)).await?;
    }
    if altering.schema == *schema {
        return Ok(done(TAG, None));
    }
    let Altering { view, schema: mut altered, others: mut records, .. } = altering;
    let (id, generation) = (def.id, def.newest + 1);
    let mut builds = false;
    for index in altered.indexes.iter_mut().filter(|index| index.id > schema.last_index) {
        index.generation = generation;
        builds = true;
    }
    records.push(CatalogRecord::ColumnsAltered { id, schema: altered });
    records.extend(builds.then_some(CatalogRecord::RebuildStarted { id, generation }));
    let position = database.record_all(&records).await?;
    if builds {
        rebuild::begin(database, view, generation).await?;
    }
    Ok(done(TAG, Some(position)))
}

impl Altering<'_> {
    async fn apply(&mut self, operation: AlterTableOperation) -> Result<()> {
        match operation {
            AlterTableOperation::AddColumn { if_not_exists, column_def, column_position: None, .. } => {
                self.add(if_not_exists, column_def).await
            }
            AlterTableOperation::DropColumn { column_names, if_exists, .. } => {
                column_names.iter().try_for_each(|name| self.remove(name, if_exists))
            }
            AlterTableOperation::RenameColumn { old_column_name, new_column_name } => {
                let (at, new) = (self.column(&old_column_name)?, ident_name(&new_column_name));
                self.is_new(&new)?;
                self.is_free(at)?;
                self.schema.columns[at].name = new;
                Ok(())
            }
            AlterTableOperation::AddConstraint { constraint, not_valid: false } => self.add_constraint(constraint).await,
            AlterTableOperation::DropConstraint { if_exists, name, drop_behavior } => {
                self.drop_constraint(&name, if_exists, drop_behavior == Some(DropBehavior::Cascade))
            }
            AlterTableOperation::AlterColumn { column_name, op } => {
                let at = self.column(&column_name)?;
                self.change(at, op).await
            }
            AlterTableOperation::RenameTable { .. } => {
                Err(Error::syntax("RENAME TO stands alone").hint("write a statement of its own for it"))
            }
            other => Err(Error::unsupported(format!("ALTER TABLE ... {other} is not supported yet"))
                .hint("ADD and DROP of COLUMN and CONSTRAINT, RENAME, and ALTER COLUMN SET or DROP of DEFAULT and NOT NULL are")),
        }
    }

    fn column(&self, name: &Ident) -> Result<usize> {
        let name = ident_name(name);
        self.schema.column(&name).ok_or_else(|| {
            let message = format!("column \"{name}\" of table \"{}\" does not exist", self.def.name);
            let error = Error::new(sqlstate::UNDEFINED_COLUMN, ErrorKind::Invalid, message);
            match nearest(&name, self.schema.columns.iter().map(|column| column.name.as_str())) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error,
            }
        })
    }

    /// Whether no index and no constraint speaks of a column, here or in a table that references this one.
    fn is_free(&self, at: usize) -> Result<()> {
        let name = &self.schema.columns[at].name;
        let catalog = self.database.catalog();
        let in_index = |column: &IndexColumn| match &column.expression {
            Some(expression) => mentions(&expression.text, name),
            None => column.name == *name,
        };
        let index = self.schema.indexes.iter().find(|index| {
            index.columns.iter().any(in_index) || index.predicate.as_ref().is_some_and(|predicate| mentions(predicate, name))
        });
        let speaks = |constraint: &&Constraint| match &constraint.rule {
            Rule::Check { expression } => mentions(expression, name),
            Rule::ForeignKey { columns, .. } => columns.contains(name),
            Rule::Unique { .. } => false,
        };
        let references = |other: &&Arc<TableDef>| {
            let TableKind::Row(schema) = &other.kind else { return false };
            schema.constraints.iter().any(|constraint| {
                matches!(&constraint.rule, Rule::ForeignKey { table, referenced, .. } if *table == self.def.id && referenced.contains(name))
            })
        };
        let what = match (index, self.schema.constraints.iter().find(speaks), catalog.tables().find(references)) {
            (Some(index), ..) => format!("index \"{}\"", index.name),
            (_, Some(constraint), _) => format!("constraint \"{}\"", constraint.name),
            (.., Some(other)) => format!("table \"{}\"", other.name),
            (None, None, None) => return Ok(()),
        };
        let message = format!("{what} depends on column \"{name}\" of table \"{}\"", self.def.name);
        Err(Error::new(sqlstate::DEPENDENT_OBJECTS, ErrorKind::Conflict, message).hint("drop that first"))
    }

    fn is_new(&self, name: &str) -> Result<()> {
        match self.schema.column(name) {
            None => Ok(()),
            Some(_) => {
                let message = format!("column \"{name}\" of table \"{}\" already exists", self.def.name);
                Err(Error::new(sqlstate::DUPLICATE_COLUMN, ErrorKind::Conflict, message).hint("choose another name"))
            }
        }
    }

    async fn add(&mut self, if_not_exists: bool, mut definition: ColumnDef) -> Result<()> {
        let name = ident_name(&definition.name);
        if if_not_exists && self.schema.column(&name).is_some() {
            return Ok(());
        }
        self.is_new(&name)?;
        let judging = constraint::take_constraints(&mut definition.options);
        let Definition { schema: parsed, sequences, .. } = Definition::of(&self.def.name, vec![definition], vec![])?;
        if !sequences.is_empty() {
            return Err(Error::unsupported(format!("SERIAL and IDENTITY on the added column \"{name}\" are not supported yet"))
                .hint("CREATE SEQUENCE, ADD COLUMN without a default, UPDATE it with nextval(), then ALTER COLUMN SET DEFAULT nextval(...)"));
        }
        if !parsed.primary_key.is_empty() {
            let message = format!("column \"{name}\" can't become the primary key of table \"{}\"", self.def.name);
            return Err(Error::new(sqlstate::INVALID_TABLE_DEFINITION, ErrorKind::Invalid, message)
                .hint("CREATE TABLE a new one and INSERT INTO it SELECT from this one"));
        }
        let column: Column = parsed.columns[0].clone();
        // Evaluated once: rows that are there keep this value whatever the default becomes later.
        let missing = match &column.default {
            Some(default) => dml::evaluate(self.database, default, &parsed, 0, self.context).await?,
            None => Value::Null,
        };
        if column.not_null && missing == Value::Null && !self.holds_only(None).await? {
            return Err(self.holds_null(&name).hint("give it a DEFAULT"));
        }
        self.schema.add_column(column, &missing)?;
        self.add_column_constraints(&name, judging).await
    }

    fn remove(&mut self, name: &Ident, if_exists: bool) -> Result<()> {
        if if_exists && self.schema.column(&ident_name(name)).is_none() {
            return Ok(());
        }
        let at = self.column(name)?;
        if self.schema.primary_key.contains(&at) {
            let message =
                format!("column \"{}\" belongs to the primary key of table \"{}\"", self.schema.columns[at].name, self.def.name);
            return Err(Error::new(sqlstate::INVALID_TABLE_DEFINITION, ErrorKind::Invalid, message)
                .hint("CREATE TABLE a new one with another key and INSERT INTO it SELECT from this one"));
        }
        self.is_free(at)?;
        self.schema.drop_column(at);
        Ok(())
    }

    async fn change(&mut self, at: usize, operation: AlterColumnOperation) -> Result<()> {
        let name = self.schema.columns[at].name.clone();
        match operation {
            AlterColumnOperation::SetDefault { value } => {
                let default = value.to_string();
                if self.schema.columns[at].identity.is_some() {
                    let message = format!("column \"{name}\" of table \"{}\" is an identity column", self.def.name);
                    return Err(Error::syntax(message));
                }
                dml::check_default(self.database, &default, &self.schema, at, self.context).await?;
                self.schema.columns[at].default = Some(default);
            }
            AlterColumnOperation::DropDefault if self.schema.columns[at].identity.is_some() => {
                let message = format!("column \"{name}\" of table \"{}\" is an identity column", self.def.name);
                return Err(Error::syntax(message));
            }
            AlterColumnOperation::DropDefault => self.schema.columns[at].default = None,
            AlterColumnOperation::SetNotNull => {
                if !self.schema.refuses_null(at) && !self.holds_only(Some(at)).await? {
                    return Err(self
                        .holds_null(&name)
                        .hint(format!("UPDATE {} SET {name} = ... WHERE {name} IS NULL", self.def.name)));
                }
                self.schema.columns[at].not_null = true;
            }
            AlterColumnOperation::DropNotNull if self.schema.primary_key.contains(&at) => {
                let message = format!("column \"{name}\" belongs to the primary key of table \"{}\"", self.def.name);
                return Err(Error::new(sqlstate::INVALID_TABLE_DEFINITION, ErrorKind::Invalid, message)
                    .hint("a primary key is never null"));
            }
            AlterColumnOperation::DropNotNull => self.schema.columns[at].not_null = false,
            other => {
                return Err(Error::unsupported(format!("ALTER COLUMN {name} {other} is not supported yet"))
                    .hint("ADD COLUMN with the new type, UPDATE it from the old one, DROP COLUMN, RENAME COLUMN"));
            }
        }
        Ok(())
    }

    fn holds_null(&self, column: &str) -> Error {
        let message = format!("column \"{column}\" of table \"{}\" contains null values", self.def.name);
        Error::new(sqlstate::NOT_NULL_VIOLATION, ErrorKind::Invalid, message)
    }

    /// Whether no row has NULL in a column; without one, whether there is no row.
    async fn holds_only(&self, column: Option<usize>) -> Result<bool> {
        let (rows, end) = self.settled(self.context.deadline).await?;
        let rows = rows.with_schema(Arc::new(self.schema.clone()));
        let request = ScanRequest {
            projection: column.into_iter().collect(),
            limit: if column.is_some() { None } else { Some(1) },
            cut: end,
            batch_rows: crate::session::BATCH_ROWS,
            ..ScanRequest::default()
        };
        blocking(move || {
            let mut clean = true;
            rows.scan(&request, &mut |batch| {
                clean = !batch.columns().is_empty() && batch.columns().iter().all(|column| column.null_count() == 0);
                if clean { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            Ok(clean)
        })
        .await
    }

    /// The rows with everything that was written before the lock was taken.
    async fn settled(&self, deadline: Instant) -> Result<(RowTable, Offset)> {
        let serving = self.view.serving();
        let end = serving.parts[0].task.partition().committed().get();
        self.view.visible_to(0, end, deadline).await?;
        match &self.view.serving().parts[0].store {
            Store::Row(rows) => Ok((rows.clone(), end)),
            _ => Err(Error::internal("a table written by SQL has rows")),
        }
    }
}

/// Whether an expression's text has a column's name among its words.
fn mentions(expression: &str, column: &str) -> bool {
    let word = |c: char| !(c.is_alphanumeric() || c == '_');
    expression.split(word).any(|word| word.eq_ignore_ascii_case(column)) || expression.contains(&format!("\"{column}\""))
}

fn ident_name(ident: &Ident) -> String {
    name_of(&ObjectName::from(ident.clone()))
}
