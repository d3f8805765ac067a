//! `CHANGES(table)` in FROM: the change feed of a row table as a table of its own.
//!
//! `CHANGES(table)` gives every change that is kept, `CHANGES(table, n)` those from the record at offset `n` on, and
//! `CHANGES(table, 'stream/partition@offset')` those behind a position, as writes answer with one. Recognised by
//! [`super::rewrite`], carried out by [`crate::feed`].

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, TableAlias, TableFactor, UnaryOperator, Value,
};

use super::ddl::name_of;
use super::rewrite::{ChangesFrom, TableUse, Uses, find_query, resolve};
use crate::catalog::CatalogState;
use crate::error::{Error, Result, sqlstate};

/// What it is called in FROM.
const NAME: &str = "changes";

fn wrong() -> Error {
    Error::syntax("CHANGES takes a table, and perhaps where to begin")
        .hint("CHANGES(accounts), CHANGES(accounts, 1234) or CHANGES(accounts, '_tables/0@1233')")
}

fn argument(argument: FunctionArg) -> Result<Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
        _ => Err(wrong()),
    }
}

fn table_name(expr: Expr) -> Option<ObjectName> {
    match expr {
        Expr::Identifier(ident) => Some(ObjectName::from(ident)),
        Expr::CompoundIdentifier(idents) => Some(ObjectName::from(idents)),
        _ => None,
    }
}

/// The table whose changes a call of `CHANGES` gives.
pub(crate) fn table_of(factor: &TableFactor) -> Option<ObjectName> {
    let TableFactor::Table { name, args: Some(call), .. } = factor else { return None };
    let first = call.args.first().filter(|_| name_of(name) == NAME)?;
    table_name(argument(first.clone()).ok()?)
}

fn begin(expr: Expr) -> Result<ChangesFrom> {
    match expr {
        Expr::Value(value) => match value.value {
            Value::Number(digits, _) => {
                let offset = digits.parse().map_err(|_| Error::invalid(format!("\"{digits}\" is not an offset")))?;
                Ok(ChangesFrom::Offset(offset))
            }
            Value::SingleQuotedString(text) => Ok(ChangesFrom::Behind(text.parse()?)),
            _ => Err(wrong()),
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Err(Error::invalid(format!("\"-{expr}\" is not an offset"))),
        _ => Err(wrong()),
    }
}

/// Puts a table of its own in the place of a call of `CHANGES`; `false` where there is none.
///
/// # Errors
/// A call that is not written as one, and tables that are not there.
pub(super) fn changes(factor: &mut TableFactor, catalog: &CatalogState, uses: &mut Uses) -> Result<bool> {
    let TableFactor::Table { name, alias, args, version, .. } = factor else { return Ok(false) };
    if name_of(name) != NAME {
        return Ok(false);
    }
    let Some(call) = args.take() else { return Ok(false) };
    if version.is_some() {
        return Err(Error::unsupported("CHANGES has no past of its own").hint("say WHERE \"offset\" <= n"));
    }
    let mut given = call.args.into_iter().map(argument);
    let table = given.next().transpose()?.and_then(table_name).ok_or_else(wrong)?;
    let from = given.next().transpose()?.map_or(Ok(ChangesFrom::Earliest), begin)?;
    if given.next().is_some() {
        return Err(wrong());
    }
    if let Some(query) = find_query(&table, catalog) {
        let message = format!("\"{}\" is a named query (CREATE VIEW): CHANGES reads a row table", query.name);
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, logcore::ErrorKind::Invalid, message).hint("name one of its tables"));
    }
    let Some(resolved) = resolve(&table, catalog) else {
        return Err(Error::unknown("table", &name_of(&table), catalog.tables().map(|def| def.name.as_str())));
    };
    let internal = format!("{NAME}({resolved})@{}", uses.tables.len());
    *name = ObjectName::from(vec![Ident::with_quote('"', &internal)]);
    alias.get_or_insert(TableAlias { explicit: true, name: Ident::new(NAME), columns: vec![], at: None });
    uses.tables.push(TableUse { internal, name: resolved, as_of: None, changes: Some(from) });
    Ok(true)
}
