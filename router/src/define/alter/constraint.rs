//! Constraints of a table that exists: adding one looks at every row first, under the lock that lets nobody write meanwhile.
//!
//! UNIQUE, and FOREIGN KEY where no index begins with its columns, define an index, which is built with a new generation of the
//! table's view; until it serves, changes look at the rows (`dml::target`).

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::sql::sqlparser::ast::{ColumnOption, ColumnOptionDef, Ident, TableConstraint};
use logcore::ErrorKind;
use rowstore::{Constraint, Rule, TableSchema, Value};

use super::{Altering, ident_name};
use crate::catalog::{CatalogRecord, TableDef, TableKind};
use crate::define::index::{references, resolve_references};
use crate::dml;
use crate::error::{Error, Result, nearest, sqlstate};
use crate::provider::row::RowProvider;
use crate::provider::scan::SourceTable;
use crate::query;
use crate::sql::constraints::Definition;
use crate::sql::forms::plain_forms;
use crate::sql::names::name_columns;
use crate::sql::parse::{Statement as Parsed, parse};
use crate::sql::rewrite::rewrite;
use crate::view::running::{Store, View};

/// Rows in memory while a constraint is checked; one row is looked for.
const ROWS_BYTES_MAX: usize = 64 << 20;

/// The options of an added column that are constraints on the rows, apart from those that say what the column is.
pub(super) fn take_constraints(options: &mut Vec<ColumnOptionDef>) -> Vec<ColumnOptionDef> {
    let judges = |option: &ColumnOptionDef| {
        matches!(option.option, ColumnOption::Unique(_) | ColumnOption::Check(_) | ColumnOption::ForeignKey(_))
    };
    let (judging, kept) = std::mem::take(options).into_iter().partition(judges);
    *options = kept;
    judging
}

impl Altering<'_> {
    /// `ADD [CONSTRAINT name] ...`
    pub(super) async fn add_constraint(&mut self, constraint: TableConstraint) -> Result<()> {
        let mut definition = Definition::on(&self.def.name, self.schema.clone());
        definition.constraint(constraint)?;
        self.take(definition).await
    }

    /// The constraints of an added column.
    pub(super) async fn add_column_constraints(&mut self, column: &str, options: Vec<ColumnOptionDef>) -> Result<()> {
        for ColumnOptionDef { name, option } in options {
            let mut definition = Definition::on(&self.def.name, self.schema.clone());
            definition.column_option(column, option, name)?;
            self.take(definition).await?;
        }
        Ok(())
    }

    async fn take(&mut self, definition: Definition) -> Result<()> {
        let Definition { mut schema, foreign_keys, .. } = definition;
        let catalog = self.database.catalog();
        resolve_references(&catalog, (self.def.id, &self.def.name), &mut schema, foreign_keys)?;
        if schema.last_index > self.schema.last_index
            && let Some(building) = self.view.building()
        {
            let message = format!("table \"{}\" is being rebuilt, as generation {}", self.def.name, building.number);
            return Err(Error::new(sqlstate::OBJECT_IN_USE, ErrorKind::Conflict, message).hint("see SHOW VIEWS for its progress"));
        }
        let added: Vec<Constraint> = schema.constraints[self.schema.constraints.len()..].to_vec();
        for constraint in &added {
            if self.schema.constraints.iter().any(|other| other.name == constraint.name) {
                let message = format!("constraint \"{}\" of table \"{}\" exists already", constraint.name, self.def.name);
                return Err(Error::new(sqlstate::DUPLICATE_OBJECT, ErrorKind::Conflict, message));
            }
            self.validate(&schema, constraint).await?;
        }
        if added.iter().any(|constraint| matches!(constraint.rule, Rule::Check { .. })) {
            dml::check_expressions(self.database, &self.def.name, &schema)?;
        }
        self.schema = schema;
        Ok(())
    }

    /// Whether every row is as a new constraint wants it.
    async fn validate(&self, schema: &TableSchema, constraint: &Constraint) -> Result<()> {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let table = quoted(&self.def.name);
        let (name, of) = (&constraint.name, &self.def.name);
        let listed = |columns: &[String], of: &str| {
            let column = |column: &String| format!("{of}.{}", quoted(column));
            columns.iter().map(column).collect::<Vec<_>>()
        };
        let present =
            |columns: &[String]| columns.iter().map(|column| format!("{column} IS NOT NULL")).collect::<Vec<_>>().join(" AND ");
        match &constraint.rule {
            Rule::Check { expression } => {
                let text = format!("SELECT * FROM {table} WHERE NOT ({expression}) LIMIT 1");
                let all: Vec<String> = schema.columns.iter().map(|column| column.name.clone()).collect();
                if let Some(row) = self.first(schema, &text, &all, None).await? {
                    let shown = dml::listed(&all, &row);
                    let message = format!("check constraint \"{name}\" ({expression}) of table \"{of}\" is violated by {shown}");
                    return Err(Error::new(sqlstate::CHECK_VIOLATION, ErrorKind::Invalid, message).hint("change such rows first"));
                }
            }
            Rule::Unique { index } => {
                let index = schema.indexes.iter().find(|own| own.id == *index);
                let index = index.ok_or_else(|| Error::internal("a UNIQUE rests on an index"))?;
                let columns: Vec<String> = index.columns.iter().map(|column| column.name.clone()).collect();
                let own = listed(&columns, &table);
                let (some, group) = (present(&own), own.join(", "));
                let text = format!("SELECT {group} FROM {table} WHERE {some} GROUP BY {group} HAVING count(*) > 1 LIMIT 1");
                if let Some(row) = self.first(schema, &text, &columns, None).await? {
                    let shown = dml::listed(&columns, &row);
                    let message =
                        format!("unique constraint \"{name}\" of table \"{of}\" can't hold: {shown} is there more than once");
                    return Err(Error::new(sqlstate::UNIQUE_VIOLATION, ErrorKind::Conflict, message)
                        .hint("make such rows different first"));
                }
            }
            Rule::ForeignKey { columns, table: parent, referenced, .. } => {
                let catalog = self.database.catalog();
                let parent = catalog.table_by_id(*parent).ok_or_else(|| Error::internal("a foreign key names a table"))?;
                let (own, other) = (listed(columns, "headwater_child"), listed(referenced, "headwater_parent"));
                let equal: Vec<String> = own.iter().zip(&other).map(|(own, other)| format!("{own} = {other}")).collect();
                let text = format!(
                    "SELECT {} FROM {table} AS headwater_child WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS headwater_parent WHERE {}) LIMIT 1",
                    own.join(", "),
                    present(&own),
                    quoted(&parent.name),
                    equal.join(" AND ")
                );
                if let Some(row) = self.first(schema, &text, columns, Some(parent)).await? {
                    let shown = dml::listed(columns, &row);
                    let message = format!(
                        "table \"{of}\" violates foreign key \"{name}\": {shown} is not present in table \"{}\"",
                        parent.name
                    );
                    return Err(Error::new(sqlstate::FOREIGN_KEY_VIOLATION, ErrorKind::Conflict, message)
                        .hint(format!("insert such rows into \"{}\" first", parent.name)));
                }
            }
        }
        Ok(())
    }

    /// The first row of a SELECT over the table as it will be, and over the one it references: these columns of it.
    async fn first(
        &self,
        schema: &TableSchema,
        text: &str,
        columns: &[String],
        parent: Option<&Arc<TableDef>>,
    ) -> Result<Option<Vec<Value>>> {
        let mut tables: HashMap<String, Arc<dyn TableProvider>> = HashMap::new();
        if let Some(parent) = parent.filter(|parent| parent.id != self.def.id)
            && let TableKind::Row(schema) = &parent.kind
        {
            let view = self.database.views().get(parent)?;
            tables.insert(parent.name.clone(), self.settled_table(parent, &view, schema).await?);
        }
        tables.insert(self.def.name.clone(), self.settled_table(self.def, &self.view, schema).await?);
        let Some(Parsed::Sql(mut statement)) = parse(text, 1)?.pop() else {
            return Err(Error::internal("a SELECT was expected"));
        };
        name_columns(&mut statement);
        rewrite(&mut statement, &self.database.catalog())?;
        plain_forms(&mut statement)?;
        let context = query::Context { params: &[], ..self.context };
        let (_, batches) = query::over(self.database, *statement, tables, context, ROWS_BYTES_MAX).await?;
        let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
        let kind = |name: &str| schema.column(name).map(|at| &schema.columns[at].kind);
        let values = columns.iter().zip(batch.columns());
        Ok(Some(values.filter_map(|(name, array)| Some(Value::from_array(array, 0, kind(name)?))).collect()))
    }

    /// A table with everything that was written before the lock was taken, read with a schema.
    async fn settled_table(&self, def: &TableDef, view: &View, schema: &TableSchema) -> Result<Arc<dyn TableProvider>> {
        let serving = view.serving();
        let end = serving.parts[0].task.partition().committed().get();
        view.visible_to(0, end, self.context.deadline).await?;
        let Store::Row(rows) = &view.serving().parts[0].store else {
            return Err(Error::internal("a table written by SQL has rows"));
        };
        // Without its indexes: not all of them are built.
        let mut schema = schema.clone();
        schema.indexes.clear();
        let schema = Arc::new(schema);
        let rows = rows.with_schema(Arc::clone(&schema));
        Ok(Arc::new(SourceTable(RowProvider::new(&def.name, schema, vec![(rows, end)]))))
    }

    /// `DROP CONSTRAINT [IF EXISTS] name [CASCADE]`
    pub(super) fn drop_constraint(&mut self, name: &Ident, if_exists: bool, cascade: bool) -> Result<()> {
        let (name, table) = (ident_name(name), &self.def.name);
        if name == format!("{table}_pkey") {
            return Err(Error::unsupported(format!(
                "the primary key of table \"{table}\" can't be dropped: its rows are kept by it"
            ))
            .hint("CREATE TABLE a new one with another key and INSERT INTO it SELECT from this one"));
        }
        let Some(at) = self.schema.constraints.iter().position(|constraint| constraint.name == name) else {
            if if_exists {
                return Ok(());
            }
            let message = format!("constraint \"{name}\" of table \"{table}\" does not exist");
            let error = Error::new(sqlstate::UNDEFINED_OBJECT, ErrorKind::NotFound, message);
            let known = self.schema.constraints.iter().map(|constraint| constraint.name.as_str());
            return Err(match nearest(&name, known) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error,
            });
        };
        match self.schema.constraints[at].rule.clone() {
            Rule::Unique { index } => {
                self.release(index, &name, cascade)?;
                self.schema.indexes.retain(|own| own.id != index);
            }
            Rule::ForeignKey { index, .. } => self.forget_helper(index, at),
            Rule::Check { .. } => {}
        }
        self.schema.constraints.retain(|constraint| constraint.name != name);
        Ok(())
    }

    /// The foreign keys that rest on a unique index go with it, or forbid it.
    fn release(&mut self, index: u32, name: &str, cascade: bool) -> Result<()> {
        let Some(index) = self.schema.indexes.iter().find(|own| own.id == index).cloned() else { return Ok(()) };
        let catalog = self.database.catalog();
        for other in catalog.tables().filter(|other| references(other, self.def.id, Some(&index))) {
            if !cascade {
                let message = format!("a foreign key of table \"{}\" depends on constraint \"{name}\"", other.name);
                return Err(Error::new(sqlstate::DEPENDENT_OBJECTS, ErrorKind::Conflict, message)
                    .hint("drop that first, or use DROP CONSTRAINT ... CASCADE"));
            }
            let own = other.id == self.def.id;
            let TableKind::Row(schema) = &other.kind else { continue };
            let mut schema = if own { self.schema.clone() } else { schema.clone() };
            let rests = |constraint: &Constraint| match &constraint.rule {
                Rule::ForeignKey { table, referenced, .. } => {
                    *table == self.def.id
                        && referenced.len() == index.columns.len()
                        && index.columns.iter().all(|column| referenced.contains(&column.name))
                }
                _ => false,
            };
            schema.constraints.retain(|constraint| !rests(constraint));
            match own {
                true => self.schema = schema,
                false => self.others.push(CatalogRecord::ColumnsAltered { id: other.id, schema }),
            }
        }
        Ok(())
    }

    /// The index that was made with a foreign key goes with it, unless another one rests on it.
    fn forget_helper(&mut self, index: u32, at: usize) {
        let rests = |(n, constraint): (usize, &Constraint)| match &constraint.rule {
            Rule::Unique { index: other } | Rule::ForeignKey { index: other, .. } => n != at && *other == index,
            Rule::Check { .. } => false,
        };
        if !self.schema.constraints.iter().enumerate().any(rests) {
            self.schema.indexes.retain(|own| own.id != index || own.unique || !own.name.contains("_fkey_idx"));
        }
    }
}
