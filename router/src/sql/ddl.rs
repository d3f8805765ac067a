//! Our own statements: streams, tables and views.
//!
//! Parsed by hand on sqlparser's parser, whose column and query rules are used as they are.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::ast::{
    AlterTableOperation, CascadeOption, Expr, ObjectName, SqlOption, Statement, TruncateIdentityOption, Value,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;
use rowstore::{IndexColumn, TableSchema};

use super::constraints::{Definition, ForeignKey, index_columns};
use super::sequences::{self, ColumnSequence, CreateSequence};
use crate::error::{Error, Result, nearest};

/// A statement that changes or shows definitions.
#[derive(Clone, Debug)]
pub enum Ddl {
    /// `CREATE STREAM name WITH (...)`
    CreateStream {
        /// Its name.
        name: String,
        /// Whether an existing one is fine.
        if_not_exists: bool,
        /// By name.
        options: Options,
    },
    /// `ALTER STREAM name SET (...)`
    AlterStream {
        /// Its name.
        name: String,
        /// Whether a missing one is fine.
        if_exists: bool,
        /// By name.
        options: Options,
    },
    /// `DROP STREAM name`
    DropStream {
        /// Its name.
        name: String,
        /// Whether a missing one is fine.
        if_exists: bool,
    },
    /// `CREATE TABLE ...`
    CreateTable(CreateTable),
    /// `ALTER TABLE name operation, ...`
    AlterTable(AlterTable),
    /// `DROP TABLE name`
    DropTable {
        /// Its name.
        name: String,
        /// Whether a missing one is fine.
        if_exists: bool,
        /// Whether named queries that use it go too.
        cascade: bool,
    },
    /// `CREATE VIEW name AS SELECT ...`: a named query, nothing that is built from the log.
    CreateView(CreateView),
    /// `DROP VIEW name, ...`
    DropView {
        /// Their names.
        names: Vec<String>,
        /// Whether missing ones are fine.
        if_exists: bool,
        /// Whether named queries that use them go too.
        cascade: bool,
    },
    /// `CREATE [UNIQUE] INDEX [name] ON table (columns)`
    CreateIndex(CreateIndex),
    /// `DROP INDEX name`
    DropIndex {
        /// Its name.
        name: String,
        /// Whether a missing one is fine.
        if_exists: bool,
    },
    /// `TRUNCATE name, ...`
    Truncate(Truncate),
    /// `CREATE SEQUENCE name ...`
    CreateSequence(CreateSequence),
    /// `DROP SEQUENCE name, ...`
    DropSequence {
        /// Their names.
        names: Vec<String>,
        /// Whether missing ones are fine.
        if_exists: bool,
        /// Whether defaults that use them go too.
        cascade: bool,
    },
    /// `SHOW STREAMS`
    ShowStreams,
    /// `SHOW VIEWS`
    ShowViews,
    /// `SHOW TABLES`
    ShowTables,
    /// `SHOW CURSORS`
    ShowCursors,
    /// `VACUUM [name]`
    Vacuum {
        /// The table's name; none: all that have a history.
        name: Option<String>,
    },
    /// `ANALYZE [name]`
    Analyze {
        /// The table's name; none: all row tables.
        name: Option<String>,
    },
    /// `REBUILD VIEW name`
    RebuildView {
        /// The table's name.
        name: String,
    },
}

impl Ddl {
    /// Whether it changes nothing.
    #[must_use]
    pub fn only_shows(&self) -> bool {
        matches!(self, Self::ShowStreams | Self::ShowViews | Self::ShowTables | Self::ShowCursors)
    }
}

/// `CREATE [UNIQUE] INDEX [IF NOT EXISTS] [name] ON table (column [DESC], ...)`
#[derive(Clone, Debug)]
pub struct CreateIndex {
    /// Its name; made from the columns if none was given.
    pub name: Option<String>,
    /// The table's.
    pub table: String,
    /// In the order of their weight.
    pub columns: Vec<IndexColumn>,
    /// Whether it refuses equal rows.
    pub unique: bool,
    /// Only rows for which this is true are in it.
    pub predicate: Option<String>,
    /// Whether an existing one is fine.
    pub if_not_exists: bool,
}

/// `CREATE TABLE name (columns) USING kind WITH (options) FROM STREAM stream AS SELECT ...`
#[derive(Clone, Debug)]
pub struct CreateTable {
    /// Its name.
    pub name: String,
    /// Whether an existing one is fine.
    pub if_not_exists: bool,
    /// Columns, primary key, UNIQUE and CHECK, if they were given.
    pub schema: Option<TableSchema>,
    /// References to other tables.
    pub foreign_keys: Vec<ForeignKey>,
    /// Sequences of its columns.
    pub sequences: Vec<ColumnSequence>,
    /// `row`, `document` or `series`.
    pub kind: String,
    /// By name.
    pub options: Options,
    /// The stream it is a view of.
    pub stream: Option<String>,
    /// The projection's text.
    pub select: Option<String>,
}

/// `CREATE [OR REPLACE] VIEW name [(columns)] AS SELECT ...`
#[derive(Clone, Debug)]
pub struct CreateView {
    /// Its name.
    pub name: String,
    /// Whether it takes the place of one of that name.
    pub or_replace: bool,
    /// Names of its columns, if they were given.
    pub columns: Vec<String>,
    /// The SELECT's text.
    pub query: String,
}

/// `ALTER TABLE [IF EXISTS] name operation, ...`
#[derive(Clone, Debug)]
pub struct AlterTable {
    /// As it was written.
    pub name: ObjectName,
    /// Whether a missing one is fine.
    pub if_exists: bool,
    /// In their order.
    pub operations: Vec<AlterTableOperation>,
}

/// `TRUNCATE [TABLE] name, ... [RESTART IDENTITY | CONTINUE IDENTITY] [CASCADE | RESTRICT]`
#[derive(Clone, Debug)]
pub struct Truncate {
    /// The tables' names.
    pub names: Vec<String>,
    /// Whether their sequences begin again.
    pub restart: bool,
    /// Whether tables that reference them go along.
    pub cascade: bool,
}

/// `WITH (name = value, ...)`
#[derive(Clone, Debug, Default)]
pub struct Options(BTreeMap<String, String>);

impl Options {
    /// Those of `ALTER TABLE ... SET (name = value, ...)`.
    ///
    /// # Errors
    /// What is not written so, names that are given twice.
    pub fn of_set(options: &[SqlOption]) -> Result<Self> {
        let mut found = BTreeMap::new();
        for option in options {
            let SqlOption::KeyValue { key, value } = option else {
                return Err(Error::syntax(format!("{option} is not an option")).hint("ALTER TABLE t SET (name = 'value')"));
            };
            let text = match value {
                Expr::Value(value) => match &value.value {
                    Value::SingleQuotedString(text) => text.clone(),
                    other => other.to_string(),
                },
                other => other.to_string(),
            };
            if found.insert(key.value.to_lowercase(), text).is_some() {
                return Err(Error::syntax(format!("option \"{}\" is given twice", key.value)));
            }
        }
        Ok(Self(found))
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With all values in lower case, as words are where nothing but words and numbers can stand.
    #[must_use]
    pub fn lowercase(self) -> Self {
        Self(self.0.into_iter().map(|(name, value)| (name, value.trim().to_lowercase())).collect())
    }

    /// Takes an option out.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Fails if an option is left that nobody took.
    ///
    /// # Errors
    /// Naming the first, with those that are `known`.
    pub fn finish(self, known: &[&str]) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let options = format!("the options are {}", known.join(", "));
                let hint = match nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean \"{near}\"? {options}"),
                    None => options,
                };
                Err(Error::invalid(format!("unknown option \"{name}\"")).hint(hint))
            }
        }
    }
}

/// A name as PostgreSQL reads it: unquoted parts in lower case, joined by dots.
#[must_use]
pub fn name_of(name: &ObjectName) -> String {
    let part = |part: &datafusion::sql::sqlparser::ast::ObjectNamePart| match part.as_ident() {
        Some(ident) if ident.quote_style.is_none() => ident.value.to_lowercase(),
        Some(ident) => ident.value.clone(),
        None => part.to_string(),
    };
    name.0.iter().map(part).collect::<Vec<_>>().join(".")
}

fn is_word(parser: &Parser<'_>, nth: usize, word: &str) -> bool {
    matches!(&parser.peek_nth_token_ref(nth).token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

fn take_word(parser: &mut Parser<'_>, word: &str) -> bool {
    let found = is_word(parser, 0, word);
    if found {
        parser.advance_token();
    }
    found
}

fn take_name(parser: &mut Parser<'_>) -> Result<String, ParserError> {
    Ok(name_of(&parser.parse_object_name(false)?))
}

/// Parses the statement if it is one of ours; `None` leaves the parser where it was.
///
/// # Errors
/// When it begins like one of ours and goes on differently.
pub fn parse(parser: &mut Parser<'_>) -> Result<Option<Ddl>> {
    let first = |word| is_word(parser, 0, word);
    let second = |word| is_word(parser, 1, word);
    let ddl = if first("show") && second("streams") {
        skip(parser, 2, Ddl::ShowStreams)
    } else if first("show") && second("views") {
        skip(parser, 2, Ddl::ShowViews)
    } else if first("show") && second("tables") {
        skip(parser, 2, Ddl::ShowTables)
    } else if first("show") && second("cursors") {
        skip(parser, 2, Ddl::ShowCursors)
    } else if first("rebuild") {
        parser.advance_token();
        if !take_word(parser, "view") {
            return Err(syntax(&parser.expected::<()>("VIEW after REBUILD", parser.peek_token())));
        }
        Ddl::RebuildView { name: take_name(parser).map_err(parse_error)? }
    } else if first("vacuum") {
        Ddl::Vacuum { name: take_last_name(parser)? }
    } else if first("analyze") || first("analyse") {
        Ddl::Analyze { name: take_last_name(parser)? }
    } else if first("verify") && second("view") {
        return Err(Error::unsupported("VERIFY VIEW is not supported yet"));
    } else if first("alter") && second("stream") {
        alter_stream(parser)?
    } else if first("alter") && second("table") {
        match parser.parse_statement().map_err(parse_error)? {
            Statement::AlterTable(statement) => {
                let datafusion::sql::sqlparser::ast::AlterTable { name, if_exists, operations, .. } = statement;
                Ddl::AlterTable(AlterTable { name, if_exists, operations })
            }
            other => return Err(Error::unsupported(format!("{other} is not supported yet"))),
        }
    } else if first("create") && second("stream") {
        create_stream(parser).map_err(parse_error)?
    } else if first("drop") && second("stream") {
        let (if_exists, name) = drop_target(parser).map_err(parse_error)?;
        Ddl::DropStream { name, if_exists }
    } else if first("drop") && second("table") {
        let (if_exists, name) = drop_target(parser).map_err(parse_error)?;
        Ddl::DropTable { name, if_exists, cascade: cascade(parser) }
    } else if first("drop") && second("view") {
        drop_several(parser, |names, if_exists, cascade| Ddl::DropView { names, if_exists, cascade }).map_err(parse_error)?
    } else if first("create") && (second("view") || (second("or") && is_word(parser, 3, "view"))) {
        create_view(parser).map_err(parse_error)?
    } else if first("create") && second("materialized") {
        return Err(Error::unsupported("materialized views are made from streams here")
            .hint("CREATE TABLE ... USING row FROM STREAM ..."));
    } else if first("create") && second("table") {
        create_table(parser)?
    } else if first("truncate") {
        truncate(parser)?
    } else if first("create") && second("sequence") {
        skip(parser, 2, Ddl::ShowStreams);
        Ddl::CreateSequence(sequences::create(parser)?)
    } else if first("drop") && second("sequence") {
        drop_several(parser, |names, if_exists, cascade| Ddl::DropSequence { names, if_exists, cascade }).map_err(parse_error)?
    } else if first("create") && (second("index") || (second("unique") && is_word(parser, 2, "index"))) {
        create_index(parser)?
    } else if first("drop") && second("index") {
        let (if_exists, name) = drop_target(parser).map_err(parse_error)?;
        Ddl::DropIndex { name, if_exists }
    } else {
        return Ok(None);
    };
    Ok(Some(ddl))
}

fn parse_error(error: ParserError) -> Error {
    super::parse::syntax_error(&error)
}

fn syntax(result: &Result<(), ParserError>) -> Error {
    match result {
        Err(error) => super::parse::syntax_error(error),
        Ok(()) => Error::syntax("unexpected end of statement"),
    }
}

fn skip(parser: &mut Parser<'_>, tokens: usize, ddl: Ddl) -> Ddl {
    (0..tokens).for_each(|_| parser.advance_token());
    ddl
}

fn create_stream(parser: &mut Parser<'_>) -> Result<Ddl, ParserError> {
    skip(parser, 2, Ddl::ShowStreams);
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = take_name(parser)?;
    Ok(Ddl::CreateStream { name, if_not_exists, options: options(parser)? })
}

/// The name that may follow a statement's word.
fn take_last_name(parser: &mut Parser<'_>) -> Result<Option<String>> {
    parser.advance_token();
    let is_over = matches!(parser.peek_token_ref().token, Token::EOF | Token::SemiColon);
    if is_over { Ok(None) } else { take_name(parser).map(Some).map_err(parse_error) }
}

fn alter_stream(parser: &mut Parser<'_>) -> Result<Ddl> {
    let (if_exists, name) = drop_target(parser).map_err(parse_error)?;
    if !parser.parse_keyword(Keyword::SET) {
        return Err(syntax(&parser.expected::<()>("SET (option = value, ...)", parser.peek_token())));
    }
    Ok(Ddl::AlterStream { name, if_exists, options: option_list(parser).map_err(parse_error)? })
}

/// The name behind two words, `DROP STREAM` and the like, and whether it may be missing.
fn drop_target(parser: &mut Parser<'_>) -> Result<(bool, String), ParserError> {
    skip(parser, 2, Ddl::ShowStreams);
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    Ok((if_exists, take_name(parser)?))
}

/// `CASCADE`, or `RESTRICT`, which goes without saying.
fn cascade(parser: &mut Parser<'_>) -> bool {
    let cascade = parser.parse_keyword(Keyword::CASCADE);
    if !cascade {
        let _ = parser.parse_keyword(Keyword::RESTRICT);
    }
    cascade
}

fn drop_several(parser: &mut Parser<'_>, made: impl FnOnce(Vec<String>, bool, bool) -> Ddl) -> Result<Ddl, ParserError> {
    skip(parser, 2, Ddl::ShowStreams);
    let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let names = parser.parse_comma_separated(take_name)?;
    Ok(made(names, if_exists, cascade(parser)))
}

fn create_view(parser: &mut Parser<'_>) -> Result<Ddl, ParserError> {
    parser.advance_token();
    let or_replace = parser.parse_keywords(&[Keyword::OR, Keyword::REPLACE]);
    parser.expect_keyword(Keyword::VIEW)?;
    let name = take_name(parser)?;
    let mut columns = Vec::new();
    if parser.consume_token(&Token::LParen) {
        columns = parser.parse_comma_separated(|parser| Ok(name_of(&ObjectName::from(parser.parse_identifier()?))))?;
        parser.expect_token(&Token::RParen)?;
    }
    parser.expect_keyword(Keyword::AS)?;
    let query = parser.parse_query()?.to_string();
    Ok(Ddl::CreateView(CreateView { name, or_replace, columns, query }))
}

fn options(parser: &mut Parser<'_>) -> Result<Options, ParserError> {
    match parser.parse_keyword(Keyword::WITH) {
        true => option_list(parser),
        false => Ok(Options::default()),
    }
}

fn option_list(parser: &mut Parser<'_>) -> Result<Options, ParserError> {
    parser.expect_token(&Token::LParen)?;
    let mut options = BTreeMap::new();
    let pairs = parser.parse_comma_separated(|parser| {
        let name = parser.parse_identifier()?.value.to_lowercase();
        parser.expect_token(&Token::Eq)?;
        let token = parser.next_token();
        let value = match token.token {
            Token::SingleQuotedString(text) => text,
            Token::Number(digits, _) => digits,
            Token::Word(word) => word.value,
            _ => return parser.expected("a string, a number or a word", token),
        };
        Ok((name, value))
    })?;
    parser.expect_token(&Token::RParen)?;
    for (name, value) in pairs {
        if options.contains_key(&name) {
            return Err(ParserError::ParserError(format!("the option \"{name}\" is given twice")));
        }
        options.insert(name, value);
    }
    Ok(Options(options))
}

fn create_table(parser: &mut Parser<'_>) -> Result<Ddl> {
    skip(parser, 2, Ddl::ShowStreams);
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = take_name(parser).map_err(parse_error)?;
    let (columns, constraints) = match parser.peek_token_ref().token {
        Token::LParen => parser.parse_columns().map_err(parse_error)?,
        _ => Default::default(),
    };
    let bare = name.rsplit('.').next().unwrap_or(&name);
    let (schema, foreign_keys, sequences) = match columns.is_empty() {
        true => Default::default(),
        false => {
            let Definition { schema, foreign_keys, sequences, .. } = Definition::of(bare, columns, constraints)?;
            (Some(schema), foreign_keys, sequences)
        }
    };
    let kind = match parser.parse_keyword(Keyword::USING) {
        true => parser.parse_identifier().map_err(parse_error)?.value.to_lowercase(),
        false => "row".into(),
    };
    let mut taken = options(parser).map_err(parse_error)?;
    let mut stream = None;
    if parser.parse_keyword(Keyword::FROM) {
        if !take_word(parser, "stream") {
            return Err(syntax(&parser.expected::<()>("STREAM after FROM", parser.peek_token())));
        }
        stream = Some(take_name(parser).map_err(parse_error)?);
    }
    if taken.is_empty() {
        taken = options(parser).map_err(parse_error)?;
    }
    let select = match parser.parse_keyword(Keyword::AS) {
        true => Some(parser.parse_query().map_err(parse_error)?.to_string()),
        false => None,
    };
    Ok(Ddl::CreateTable(CreateTable {
        name,
        if_not_exists,
        schema,
        foreign_keys,
        sequences,
        kind,
        options: taken,
        stream,
        select,
    }))
}

fn truncate(parser: &mut Parser<'_>) -> Result<Ddl> {
    let Statement::Truncate(statement) = parser.parse_statement().map_err(parse_error)? else {
        return Err(Error::syntax("TRUNCATE table, ... [RESTART IDENTITY] [CASCADE]"));
    };
    Ok(Ddl::Truncate(Truncate {
        names: statement.table_names.iter().map(|table| name_of(&table.name)).collect(),
        restart: matches!(statement.identity, Some(TruncateIdentityOption::Restart)),
        cascade: matches!(statement.cascade, Some(CascadeOption::Cascade)),
    }))
}

fn create_index(parser: &mut Parser<'_>) -> Result<Ddl> {
    let Statement::CreateIndex(index) = parser.parse_statement().map_err(parse_error)? else {
        return Err(Error::syntax("CREATE INDEX name ON table (columns)"));
    };
    if !index.include.is_empty() || index.nulls_distinct == Some(false) {
        return Err(Error::unsupported("an index with INCLUDE or NULLS NOT DISTINCT is not supported yet"));
    }
    Ok(Ddl::CreateIndex(CreateIndex {
        name: index.name.as_ref().map(name_of),
        table: name_of(&index.table_name),
        columns: index_columns(&index.columns)?,
        unique: index.unique,
        predicate: index.predicate.as_ref().map(ToString::to_string),
        if_not_exists: index.if_not_exists,
    }))
}
