//! Columns and constraints of CREATE TABLE, with the names that PostgreSQL would give.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, ConstraintReferenceMatchKind, DataType as SqlType, Expr, ForeignKeyConstraint, GeneratedAs, Ident,
    IndexColumn as SqlIndexColumn, ObjectName, ReferentialAction, TableConstraint, visit_expressions,
};
use rowstore::schema::Identity;
use rowstore::{Action, Column, ColumnType, Computed, Constraint, Index, IndexColumn, IndexExpression, Rule, TableSchema};

use super::ddl::name_of;
use super::sequences::{self, ColumnSequence, SequenceOptions};
use super::types::column_type;
use crate::error::{Error, Result, sqlstate};

/// A foreign key as it was written: the table it names is looked up when it is defined.
#[derive(Clone, Debug)]
pub struct ForeignKey {
    /// Its name.
    pub name: String,
    /// The columns here.
    pub columns: Vec<String>,
    /// The referenced table's name.
    pub table: String,
    /// Its columns; none: its primary key.
    pub referenced: Vec<String>,
    /// When the referenced row is deleted.
    pub on_delete: Action,
    /// When its key changes.
    pub on_update: Action,
    /// The index of the columns here.
    pub index: u32,
}

/// What the parentheses of CREATE TABLE say.
#[derive(Default)]
pub struct Definition {
    table: String,
    /// Columns, keys, UNIQUE and CHECK.
    pub schema: TableSchema,
    /// References to other tables.
    pub foreign_keys: Vec<ForeignKey>,
    /// Sequences of its columns.
    pub sequences: Vec<ColumnSequence>,
}

fn ident_name(ident: &Ident) -> String {
    name_of(&ObjectName::from(ident.clone()))
}

fn descending(column: &SqlIndexColumn) -> Result<bool> {
    let descending = column.column.options.asc == Some(false);
    if column.column.options.nulls_first.is_some_and(|first| first != descending) {
        return Err(Error::unsupported("NULLS FIRST and NULLS LAST other than PostgreSQL's default are not supported yet")
            .hint("NULL sorts as the largest value"));
    }
    Ok(descending)
}

/// The columns of an index.
///
/// # Errors
/// When something else is indexed.
pub fn index_columns(columns: &[SqlIndexColumn]) -> Result<Vec<IndexColumn>> {
    let column = |column: &SqlIndexColumn| match &column.column.expr {
        Expr::Identifier(ident) => {
            let descending = descending(column)?;
            Ok(IndexColumn::new(ident_name(ident), descending))
        }
        other => {
            let inner = match other {
                Expr::Nested(inner) => inner,
                other => other,
            };
            // The type is known once it is planned.
            let expression = IndexExpression { text: inner.to_string(), kind: ColumnType::Text };
            Ok(IndexColumn { name: inner.to_string(), descending: descending(column)?, expression: Some(expression) })
        }
    };
    columns.iter().map(column).collect()
}

impl Definition {
    /// Reads columns and constraints of a table.
    ///
    /// # Errors
    /// What contradicts itself or is not supported.
    pub fn of(table: &str, columns: Vec<ColumnDef>, constraints: Vec<TableConstraint>) -> Result<Self> {
        let mut definition = Self { table: table.to_owned(), ..Self::default() };
        let mut later: Vec<(String, ColumnOption, Option<Ident>)> = Vec::new();
        for column in columns {
            let name = ident_name(&column.name);
            if definition.schema.column(&name).is_some() {
                return Err(Error::invalid(format!("column \"{name}\" is defined twice")));
            }
            let numbered = match &column.data_type {
                SqlType::Custom(word, arguments) if arguments.is_empty() => sequences::serial(&name_of(word)),
                _ => None,
            };
            let mut kept = Column::new(name.clone(), numbered.clone().map_or_else(|| column_type(&column.data_type), Ok)?);
            if numbered.is_some() {
                kept.not_null = true;
                definition.numbered(&kept, SequenceOptions::default(), None)?;
            }
            for option in column.options {
                match option.option {
                    ColumnOption::Null => {}
                    ColumnOption::NotNull => kept.not_null = true,
                    ColumnOption::Default(default) => {
                        if kept.default.is_some() {
                            return Err(Error::syntax(format!("column \"{name}\" has more than one default")));
                        }
                        kept.default = Some(default.to_string());
                    }
                    ColumnOption::Generated { generated_as, generation_expr: None, sequence_options, .. } => {
                        kept.not_null = true;
                        let identity = match generated_as {
                            GeneratedAs::Always => Identity::Always,
                            _ => Identity::ByDefault,
                        };
                        kept.identity = Some(identity);
                        let options = sequences::of_identity(sequence_options.as_deref().unwrap_or_default())?;
                        definition.numbered(&kept, options, Some(identity))?;
                    }
                    other => later.push((name.clone(), other, option.name)),
                }
            }
            if kept.default.is_some() && definition.sequences.iter().any(|sequence| sequence.column == name) {
                let message = format!("column \"{name}\" is numbered by a sequence and can't have another default");
                return Err(Error::syntax(message));
            }
            definition.schema.define(kept);
        }
        for (column, option, name) in later {
            definition.column_option(&column, option, name)?;
        }
        for constraint in constraints {
            definition.constraint(constraint)?;
        }
        Ok(definition)
    }

    /// A table that exists, to which something is added.
    #[must_use]
    pub fn on(table: &str, schema: TableSchema) -> Self {
        Self { table: table.to_owned(), schema, ..Self::default() }
    }

    fn numbered(&mut self, column: &Column, options: SequenceOptions, identity: Option<Identity>) -> Result<()> {
        if !matches!(column.kind, ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt) {
            let message = format!("identity column \"{}\" must be SMALLINT, INTEGER or BIGINT", column.name);
            return Err(Error::invalid(message));
        }
        let options = SequenceOptions { kind: Some(column.kind.clone()), ..options };
        self.sequences.push(ColumnSequence { column: column.name.clone(), options, identity });
        Ok(())
    }

    /// Takes in what an option of a column says of its values.
    ///
    /// # Errors
    /// What contradicts itself or is not supported.
    pub fn column_option(&mut self, column: &str, option: ColumnOption, name: Option<Ident>) -> Result<()> {
        let columns = vec![column.to_owned()];
        match option {
            ColumnOption::PrimaryKey(_) => self.primary_key(&columns),
            ColumnOption::Unique(unique) => self.unique(columns, name.or(unique.name)),
            ColumnOption::Check(check) => self.check(&check.expr, name.or(check.name), Some(column)),
            ColumnOption::ForeignKey(key) => self.foreign_key(columns, key, name),
            other => Err(Error::unsupported(format!("{other} on column \"{column}\" is not supported yet"))
                .hint("PRIMARY KEY, NOT NULL, DEFAULT, UNIQUE, CHECK and REFERENCES are")),
        }
    }

    /// Takes a constraint in.
    ///
    /// # Errors
    /// What contradicts itself or is not supported.
    pub fn constraint(&mut self, constraint: TableConstraint) -> Result<()> {
        let named = |columns: &[SqlIndexColumn]| -> Result<Vec<String>> {
            let columns = index_columns(columns)?;
            if let Some(column) = columns.iter().find(|column| column.expression.is_some()) {
                return Err(Error::syntax(format!("a constraint is of columns, and ({}) is none", column.name))
                    .hint("CREATE UNIQUE INDEX takes expressions"));
            }
            Ok(columns.into_iter().map(|column| column.name).collect())
        };
        match constraint {
            TableConstraint::PrimaryKey(key) => self.primary_key(&named(&key.columns)?),
            TableConstraint::Unique(unique) => self.unique(named(&unique.columns)?, unique.name),
            TableConstraint::Check(check) => self.check(&check.expr, check.name, None),
            TableConstraint::ForeignKey(key) => {
                let columns = key.columns.iter().map(ident_name).collect();
                let name = key.name.clone();
                self.foreign_key(columns, key, name)
            }
            other => Err(Error::unsupported(format!("the constraint {other} is not supported yet"))
                .hint("PRIMARY KEY, UNIQUE, CHECK and FOREIGN KEY are")),
        }
    }

    fn known(&self, columns: &[String], of: &str) -> Result<()> {
        for (n, name) in columns.iter().enumerate() {
            if self.schema.column(name).is_none() {
                let message = format!("column \"{name}\" of {of} is not defined");
                return Err(Error::new(sqlstate::UNDEFINED_COLUMN, logcore::ErrorKind::Invalid, message));
            }
            if columns[..n].contains(name) {
                return Err(Error::invalid(format!("column \"{name}\" is twice in {of}")));
            }
        }
        Ok(())
    }

    fn primary_key(&mut self, columns: &[String]) -> Result<()> {
        if !self.schema.primary_key.is_empty() {
            let message = format!("multiple primary keys for table \"{}\" are not allowed", self.table);
            return Err(Error::new(sqlstate::INVALID_TABLE_DEFINITION, logcore::ErrorKind::Invalid, message)
                .hint("a second key is UNIQUE"));
        }
        self.known(columns, "the primary key")?;
        self.schema.primary_key = columns.iter().filter_map(|name| self.schema.column(name)).collect();
        Ok(())
    }

    /// A name that no other constraint or index of the table has.
    fn name(&self, given: Option<Ident>, columns: &[String], suffix: &str) -> Result<String> {
        let taken = |name: &str| {
            self.schema.constraints.iter().any(|other| other.name == name)
                || self.schema.indexes.iter().any(|other| other.name == name)
                || self.foreign_keys.iter().any(|other| other.name == name)
        };
        match given.as_ref().map(ident_name) {
            Some(name) if taken(&name) => {
                let message = format!("the name \"{name}\" is given to two constraints");
                Err(Error::new(sqlstate::DUPLICATE_OBJECT, logcore::ErrorKind::Invalid, message))
            }
            Some(name) => Ok(name),
            None => {
                let parts: Vec<&str> = [self.table.as_str()].into_iter().chain(columns.iter().map(String::as_str)).collect();
                let base = format!("{}_{suffix}", parts.join("_"));
                let numbered = (1..).map(|n| format!("{base}{n}"));
                Ok([base.clone()].into_iter().chain(numbered).find(|name| !taken(name)).unwrap_or(base))
            }
        }
    }

    fn index(&mut self, name: String, columns: &[String], unique: bool) -> u32 {
        let id = self.schema.last_index + 1;
        self.schema.last_index = id;
        let columns = columns.iter().map(|name| IndexColumn::new(name.clone(), false)).collect();
        let computed = Computed::default();
        self.schema.indexes.push(Index { id, name, columns, unique, generation: 0, predicate: None, computed });
        id
    }

    fn unique(&mut self, columns: Vec<String>, name: Option<Ident>) -> Result<()> {
        self.known(&columns, "UNIQUE")?;
        let name = self.name(name, &columns, "key")?;
        let index = self.index(name.clone(), &columns, true);
        self.schema.constraints.push(Constraint { name, rule: Rule::Unique { index } });
        Ok(())
    }

    fn check(&mut self, expression: &Expr, name: Option<Ident>, column: Option<&str>) -> Result<()> {
        let columns: Vec<String> = match column {
            Some(column) => vec![column.to_owned()],
            None => self.only_column(expression).into_iter().collect(),
        };
        let name = self.name(name, &columns, "check")?;
        self.schema.constraints.push(Constraint { name, rule: Rule::Check { expression: expression.to_string() } });
        Ok(())
    }

    /// The column that an expression speaks of, if it is one.
    fn only_column(&self, expression: &Expr) -> Option<String> {
        let mut names = BTreeSet::new();
        let _ = visit_expressions(expression, |expr| {
            if let Expr::Identifier(ident) = expr {
                names.insert(ident_name(ident));
            }
            ControlFlow::<()>::Continue(())
        });
        names.retain(|name| self.schema.column(name).is_some());
        (names.len() == 1).then(|| names.pop_first()).flatten()
    }

    fn foreign_key(&mut self, columns: Vec<String>, key: ForeignKeyConstraint, name: Option<Ident>) -> Result<()> {
        self.known(&columns, "FOREIGN KEY")?;
        if key.match_kind.is_some_and(|kind| kind != ConstraintReferenceMatchKind::Simple) {
            return Err(
                Error::unsupported("MATCH FULL and MATCH PARTIAL are not supported yet").hint("MATCH SIMPLE is the default")
            );
        }
        if key.characteristics.is_some() {
            return Err(Error::unsupported("DEFERRABLE constraints are not supported yet")
                .hint("foreign keys are judged at the end of each statement"));
        }
        let name = self.name(name, &columns, "fkey")?;
        // Whoever deletes a referenced row looks for those that name it.
        let leads = |index: &&Index| {
            index.is_plain()
                && index.columns.len() >= columns.len()
                && index.columns.iter().zip(&columns).all(|(own, name)| own.name == *name)
        };
        let index = match self.schema.indexes.iter().find(leads) {
            Some(index) => index.id,
            None => {
                let index = self.name(None, &columns, "fkey_idx")?;
                self.index(index, &columns, false)
            }
        };
        let action = |action: Option<ReferentialAction>| match action {
            None | Some(ReferentialAction::NoAction | ReferentialAction::Restrict) => Ok(Action::Restrict),
            Some(ReferentialAction::Cascade) => Ok(Action::Cascade),
            Some(ReferentialAction::SetNull) => Ok(Action::SetNull),
            Some(ReferentialAction::SetDefault) => {
                Err(Error::unsupported("SET DEFAULT is not supported yet").hint("use SET NULL, CASCADE or RESTRICT"))
            }
        };
        self.foreign_keys.push(ForeignKey {
            name,
            columns,
            table: name_of(&key.foreign_table),
            referenced: key.referred_columns.iter().map(ident_name).collect(),
            on_delete: action(key.on_delete)?,
            on_update: action(key.on_update)?,
            index,
        });
        Ok(())
    }
}
