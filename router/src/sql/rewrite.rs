//! Prepares PostgreSQL's tree for DataFusion: resolves the names in FROM to tables and streams, takes `FOR SYSTEM_TIME` out of
//! them, and turns `score()` and `MATCH(*, ...)` into what the document provider knows.
//!
//! DataFusion ignores a table's version without a word; so every past read gets a table name of its own here.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, Select, SelectItem, Statement, TableAlias,
    TableFactor, TableVersion, Value, VisitMut, VisitorMut,
};

use super::cast;
use super::changes::changes;
use super::ddl::name_of;
use super::names::name_columns;
use super::parse::{AS_OF_OFFSET, AS_OF_POSITION, Statement as Parsed, parse};
use crate::catalog::{CatalogState, QueryDef};
use crate::error::{Error, Result};
use crate::position::Cut;

/// The column that a document table shows in statements that use `score()`.
pub const SCORE_COLUMN: &str = "_score";

/// A moment of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// After the record at this offset.
    Offset(u64),
    /// After these records.
    Position(Cut),
    /// After all records up to this time, in milliseconds since 1970.
    Timestamp(i64),
}

/// Where the changes of a table begin that `CHANGES(...)` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangesFrom {
    /// At the first that is kept.
    Earliest,
    /// At this offset, inclusive.
    Offset(u64),
    /// Behind these positions.
    Behind(Cut),
}

/// A table or stream that a statement reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableUse {
    /// Its name in the plan.
    pub internal: String,
    /// Its name in the catalog.
    pub name: String,
    /// The moment it is read at, if not now.
    pub as_of: Option<AsOf>,
    /// Its changes are read instead of its rows, from here on.
    pub changes: Option<ChangesFrom>,
}

/// What a statement uses.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// Tables and streams, each once.
    pub tables: Vec<TableUse>,
    /// Whether `score()` occurs.
    pub score: bool,
    /// Whether text is searched: document tables that SQL writes are then read as documents.
    pub search: bool,
}

/// Rewrites `statement` in place.
///
/// # Errors
/// When a past read is not written as one.
pub fn rewrite(statement: &mut Statement, catalog: &CatalogState) -> Result<Uses> {
    let mut rewriter = Rewriter { catalog, uses: Uses::default(), ctes: Vec::new() };
    match VisitMut::visit(statement, &mut rewriter) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(rewriter.uses),
    }
}

/// The name in the catalog that a name in FROM stands for.
#[must_use]
pub fn resolve(name: &ObjectName, catalog: &CatalogState) -> Option<String> {
    let written = name_of(name);
    let known = |name: &str| catalog.find_table(name).is_some() || catalog.find_stream(name).is_some();
    let bare = written.strip_prefix("public.").map(str::to_owned);
    [Some(written), bare].into_iter().flatten().find(|name| known(name))
}

/// The named query (`CREATE VIEW`) that a name in FROM stands for.
pub(crate) fn find_query<'a>(name: &ObjectName, catalog: &'a CatalogState) -> Option<&'a Arc<QueryDef>> {
    let written = name_of(name);
    catalog.find_query(&written).or_else(|| catalog.find_query(written.strip_prefix("public.")?))
}

/// A named query as a subquery: its own columns, under the names they have for others.
fn derived(query: &QueryDef, alias: Option<TableAlias>) -> Result<TableFactor> {
    let quoted = |name: &str| Ident::with_quote('"', name);
    let columns: Vec<String> =
        query.columns.iter().map(|column| format!("{} AS {}", quoted(&column.source), quoted(&column.name))).collect();
    let text = format!("SELECT {} FROM ({}) AS {}", columns.join(", "), query.query, quoted(&query.name));
    let Some(Parsed::Sql(mut statement)) = parse(&text, 1)?.pop() else {
        return Err(Error::internal("a named query is a SELECT"));
    };
    name_columns(&mut statement);
    let Statement::Query(subquery) = *statement else { return Err(Error::internal("a named query is a SELECT")) };
    let own = TableAlias { explicit: true, name: quoted(&query.name), columns: vec![], at: None };
    Ok(TableFactor::Derived { lateral: false, subquery, alias: Some(alias.unwrap_or(own)), sample: None })
}

struct Rewriter<'a> {
    catalog: &'a CatalogState,
    uses: Uses,
    /// Names of the CTEs around what is visited.
    ctes: Vec<Vec<String>>,
}

impl Rewriter<'_> {
    /// Whether a CTE has this name.
    fn is_shadowed(&self, name: &ObjectName) -> bool {
        let name = name_of(name);
        self.ctes.iter().flatten().any(|cte| *cte == name)
    }
}

impl VisitorMut for Rewriter<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        self.ctes.push(ctes.map(|cte| name_of(&ObjectName::from(cte.alias.name.clone()))).collect());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Error> {
        self.ctes.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match changes(factor, self.catalog, &mut self.uses) {
            Ok(false) => {}
            Ok(true) => return ControlFlow::Continue(()),
            Err(error) => return ControlFlow::Break(error),
        }
        let TableFactor::Table { name, alias, version, args: None, .. } = factor else { return ControlFlow::Continue(()) };
        let as_of = match version.take().map(as_of).transpose() {
            Ok(as_of) => as_of,
            Err(error) => return ControlFlow::Break(error),
        };
        if !self.is_shadowed(name)
            && let Some(query) = find_query(name, self.catalog)
        {
            if as_of.is_some() {
                let message = format!("\"{}\" is a named query (CREATE VIEW): it has no past of its own", query.name);
                return ControlFlow::Break(
                    Error::unsupported(message).hint("put FOR SYSTEM_TIME behind the tables in its SELECT"),
                );
            }
            return match derived(query, alias.take()) {
                Ok(derived) => {
                    *factor = derived;
                    ControlFlow::Continue(())
                }
                Err(error) => ControlFlow::Break(error),
            };
        }
        let Some(resolved) = resolve(name, self.catalog) else {
            return match as_of {
                Some(_) => ControlFlow::Break(Error::unknown("table", &name_of(name), self.catalog.names())),
                None => ControlFlow::Continue(()),
            };
        };
        let mut internal = resolved.clone();
        if as_of.is_some() {
            internal = format!("{resolved}@{}", self.uses.tables.len());
            let ident = Ident::with_quote('"', &resolved);
            alias.get_or_insert(TableAlias { explicit: true, name: ident, columns: vec![], at: None });
        }
        *name = ObjectName::from(vec![Ident::with_quote('"', &internal)]);
        let table = TableUse { internal, name: resolved, as_of, changes: None };
        if !self.uses.tables.contains(&table) {
            self.uses.tables.push(table);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && let Some(alias) = if is_call(expr, "score") { Some("score".into()) } else { cast::name(expr) }
            {
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', alias) };
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        cast::rewrite(expr);
        if is_call(expr, "score") {
            (self.uses.score, self.uses.search) = (true, true);
            *expr = Expr::Identifier(Ident::new(SCORE_COLUMN));
        } else if is_call(expr, "contains") {
            self.uses.search = true;
        } else if is_call(expr, "match")
            && let Expr::Function(function) = expr
        {
            self.uses.search = true;
            function.name = ObjectName::from(Ident::new("contains"));
            if let FunctionArguments::List(list) = &mut function.args
                && let Some(FunctionArg::Unnamed(first)) = list.args.first_mut()
                && matches!(first, FunctionArgExpr::Wildcard)
            {
                *first = FunctionArgExpr::Expr(Expr::value(Value::SingleQuotedString("*".into())));
            }
        }
        ControlFlow::Continue(())
    }
}

fn is_call(expr: &Expr, name: &str) -> bool {
    matches!(expr, Expr::Function(function) if function.over.is_none() && name_of(&function.name) == name)
}

fn as_of(version: TableVersion) -> Result<AsOf> {
    let wrong = || {
        Error::syntax(
            "a past read is written FOR SYSTEM_TIME AS OF OFFSET n, AS OF POSITION 'stream/partition@offset' or AS OF TIMESTAMP '...'",
        )
    };
    let TableVersion::ForSystemTimeAsOf(expr) = version else { return Err(wrong()) };
    match expr {
        Expr::Function(function) => {
            let name = name_of(&function.name);
            let argument = match &function.args {
                FunctionArguments::List(list) => match list.args.first() {
                    Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))) => value.value.clone(),
                    _ => return Err(wrong()),
                },
                _ => return Err(wrong()),
            };
            match (name.as_str(), argument) {
                (AS_OF_OFFSET, Value::Number(digits, _)) => {
                    let offset = digits.parse().map_err(|_| Error::invalid(format!("\"{digits}\" is not an offset")))?;
                    Ok(AsOf::Offset(offset))
                }
                (AS_OF_POSITION, Value::SingleQuotedString(text)) => Ok(AsOf::Position(text.parse()?)),
                _ => Err(wrong()),
            }
        }
        Expr::TypedString(typed) => match &typed.value.value {
            Value::SingleQuotedString(text) => {
                let nanos = string_to_timestamp_nanos(text)
                    .map_err(|_| Error::invalid(format!("\"{text}\" is not a timestamp")).hint("write 2024-05-31T12:00:00Z"))?;
                Ok(AsOf::Timestamp(nanos.div_euclid(1_000_000)))
            }
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}
