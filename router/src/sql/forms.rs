//! PostgreSQL's forms that DataFusion does not plan, or plans to another meaning, as forms that it does.
//!
//! `EXISTS` in a select list becomes a count, `ANY` and `ALL` over a subquery an `EXISTS`, a subquery that stands for one value an
//! aggregate that refuses a second row, `generate_series` in FROM a derived table, `FETCH FIRST` a `LIMIT`. What would give a wrong
//! answer is refused.
//!
//! Called by [`crate::query`] after the columns have their names ([`super::names`]) and before a statement is planned.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, DateTimeField, Distinct, ExactNumberInfo, Expr, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArguments, GroupByExpr, Ident, LimitClause, ObjectName, OrderByKind, Query, Select,
    SelectItem, SetExpr, SetOperator, SetQuantifier, Statement, TableAlias, TableAliasColumnDef, TableFactor, UnaryOperator,
    Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::ddl::name_of;
use super::dialect::HeadwaterDialect;
use super::patterns;
use crate::error::{Error, Result};

/// The aggregate that is its only input, and refuses a second one.
pub const SINGLE_VALUE: &str = "single_value";
/// Digits of a number that is not a double.
const DIGITS_MAX: usize = 38;

const AGGREGATES: [&str; 28] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "string_agg",
    "array_agg",
    "bool_and",
    "bool_or",
    "every",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "variance",
    "var_pop",
    "var_samp",
    "first",
    "last",
    "first_value",
    "last_value",
    "corr",
    "delta",
    "increase",
    "rate",
    "histogram",
    "bit_and",
    "bit_or",
    SINGLE_VALUE,
];

/// Rewrites `statement` in place.
///
/// # Errors
/// For forms that can't be answered rightly.
pub fn plain_forms(statement: &mut Statement) -> Result<()> {
    match VisitMut::visit(statement, &mut Forms) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn expression(text: &str) -> Result<Expr> {
    let dialect = HeadwaterDialect::default();
    let mut parser = Parser::new(&dialect).try_with_sql(text).map_err(|error| Error::internal(error.to_string()))?;
    parser.parse_expr().map_err(|error| Error::internal(error.to_string()))
}

fn query(text: &str) -> Result<Box<Query>> {
    let dialect = HeadwaterDialect::default();
    let mut parser = Parser::new(&dialect).try_with_sql(text).map_err(|error| Error::internal(error.to_string()))?;
    parser.parse_query().map_err(|error| Error::internal(error.to_string()))
}

/// `name(args)`
fn call(name: &str, args: Vec<Expr>) -> Result<Expr> {
    let mut made = expression(&format!("{name}()"))?;
    if let Expr::Function(function) = &mut made
        && let FunctionArguments::List(list) = &mut function.args
    {
        list.args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    }
    Ok(made)
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

fn numeric(scale: i64) -> DataType {
    DataType::Numeric(ExactNumberInfo::PrecisionAndScale(38, scale))
}

fn text(value: impl Into<String>) -> Expr {
    Expr::value(Value::SingleQuotedString(value.into()))
}

fn literal_text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// A SELECT that gives a row for each row of its FROM: no groups, no DISTINCT, nothing behind it.
fn plain_select(query: &Query) -> Option<&Select> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(exprs, more) if exprs.is_empty() && more.is_empty());
    (query.with.is_none() && ungrouped && select.having.is_none() && select.distinct.is_none()).then_some(&**select)
}

/// Finds calls of aggregates, those in subqueries apart.
#[derive(Default)]
struct Calls {
    depth: usize,
    found: bool,
}

impl VisitorMut for Calls {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && self.depth == 0
        {
            let name = name_of(&function.name);
            self.found |= function.over.is_some() || !function.within_group.is_empty() || AGGREGATES.contains(&name.as_str());
            self.found |= matches!(name.as_str(), "unnest" | "generate_series");
        }
        ControlFlow::Continue(())
    }
}

fn calls_aggregate(select: &Select) -> bool {
    let mut calls = Calls::default();
    let mut items = select.projection.clone();
    let _ = VisitMut::visit(&mut items, &mut calls);
    calls.found
}

/// `SELECT 1 FROM (subquery) AS s(c) WHERE condition`
fn over(subquery: Box<Query>, condition: Expr) -> Result<Box<Query>> {
    let mut made = query("SELECT 1 FROM (SELECT 1) AS headwater_s(headwater_c) WHERE true")?;
    if let SetExpr::Select(select) = &mut *made.body {
        select.selection = Some(condition);
        if let Some(TableFactor::Derived { subquery: place, .. }) = select.from.first_mut().map(|from| &mut from.relation) {
            *place = subquery;
        }
    }
    Ok(made)
}

fn compared(left: Expr, op: BinaryOperator) -> Expr {
    let right = Box::new(Expr::Identifier(Ident::new("headwater_c")));
    Expr::Nested(Box::new(Expr::BinaryOp { left: Box::new(left), op, right }))
}

/// Where NULL is as good as false, `ANY` and `ALL` over a subquery are an `EXISTS`.
fn quantified(expr: &mut Expr) -> Result<()> {
    match expr {
        Expr::Nested(inner) => quantified(inner)?,
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            quantified(left)?;
            quantified(right)?;
        }
        Expr::AnyOp { left, compare_op, right, .. } => {
            if let Expr::Subquery(subquery) = &**right {
                let condition = compared((**left).clone(), compare_op.clone());
                *expr = Expr::Exists { subquery: over(subquery.clone(), condition)?, negated: false };
            }
        }
        Expr::AllOp { left, compare_op, right } => {
            if let Expr::Subquery(subquery) = &**right {
                let condition = Expr::IsNotTrue(Box::new(compared((**left).clone(), compare_op.clone())));
                *expr = Expr::Exists { subquery: over(subquery.clone(), condition)?, negated: true };
            }
        }
        _ => {}
    }
    Ok(())
}

/// Turns subquery conditions in a select list into values.
#[derive(Default)]
struct SelectList {
    depth: usize,
}

/// Whether a subquery has rows, as a value.
fn has_rows(subquery: Box<Query>, negated: bool) -> Result<Expr> {
    let test = if negated { "count(*) = 0" } else { "count(*) > 0" };
    let countable = plain_select(&subquery).is_some_and(|select| !calls_aggregate(select)) && subquery.limit_clause.is_none();
    let mut made = match countable {
        true => subquery,
        false => over(subquery, expression("true")?)?,
    };
    made.order_by = None;
    if let SetExpr::Select(select) = &mut *made.body {
        select.projection = vec![SelectItem::UnnamedExpr(expression(test)?)];
    }
    Ok(Expr::Subquery(made))
}

/// `x IN (subquery)` as a value: true, unknown or false.
fn contained(left: &Expr, subquery: &Query, negated: bool) -> Result<Expr> {
    let rows = |condition: Expr| has_rows(over(Box::new(subquery.clone()), condition)?, false);
    let mut made = expression("CASE WHEN a THEN true WHEN b OR (c AND d) THEN NULL ELSE false END")?;
    if let Expr::Case { conditions, .. } = &mut made {
        conditions[0].condition = rows(compared(left.clone(), BinaryOperator::Eq))?;
        conditions[0].result = Expr::value(Value::Boolean(!negated));
        let unknown = rows(Expr::IsNull(Box::new(Expr::Identifier(Ident::new("headwater_c")))))?;
        let without = Expr::IsNull(Box::new(left.clone()));
        let any = rows(expression("true")?)?;
        let both = Expr::BinaryOp { left: Box::new(without), op: BinaryOperator::And, right: Box::new(any) };
        conditions[1].condition =
            Expr::BinaryOp { left: Box::new(unknown), op: BinaryOperator::Or, right: Box::new(Expr::Nested(Box::new(both))) };
    }
    if let Expr::Case { else_result, .. } = &mut made {
        *else_result = Some(Box::new(Expr::value(Value::Boolean(negated))));
    }
    Ok(made)
}

impl VisitorMut for SelectList {
    type Break = Error;

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Error> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Error> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if self.depth > 0 {
            return ControlFlow::Continue(());
        }
        let made = match expr {
            Expr::Exists { subquery, negated } if !is_always_true(subquery) => has_rows(subquery.clone(), *negated),
            Expr::InSubquery { expr, subquery, negated } if !matches!(**expr, Expr::Tuple(_)) => {
                contained(expr, subquery, *negated)
            }
            _ => return ControlFlow::Continue(()),
        };
        match made {
            Ok(made) => {
                *expr = made;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// An aggregate without groups has one row, whatever it is of.
fn is_always_true(subquery: &Query) -> bool {
    subquery.limit_clause.is_none()
        && plain_select(subquery).is_some_and(|select| {
            let item = |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
            select.projection.iter().all(item) && only_aggregates(select)
        })
}

fn only_aggregates(select: &Select) -> bool {
    select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(Expr::Function(function)) | SelectItem::ExprWithAlias { expr: Expr::Function(function), .. } => {
            function.over.is_none() && AGGREGATES.contains(&name_of(&function.name).as_str())
        }
        _ => false,
    })
}

/// A subquery that stands for one value: an aggregate, which DataFusion can take out of the statement around it.
fn one_value(subquery: &mut Query) -> Result<()> {
    if matches!(&*subquery.body, SetExpr::Select(select) if select.projection.is_empty()) {
        return Err(Error::syntax("a subquery that stands for a value must have one column"));
    }
    let Some(select) = plain_select(subquery) else { return Ok(()) };
    let from_nothing = select.from.is_empty();
    let expr = match &select.projection[..] {
        [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] => expr.clone(),
        _ => return Ok(()),
    };
    if from_nothing || calls_aggregate(select) || subquery.fetch.is_some() {
        return Ok(());
    }
    let first_only = match &subquery.limit_clause {
        None => false,
        Some(LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by }) if limit_by.is_empty() => {
            if limit.to_string() != "1" {
                return Ok(());
            }
            true
        }
        Some(_) => return Ok(()),
    };
    let mut made = call(if first_only { "first_value" } else { SINGLE_VALUE }, vec![expr])?;
    if let (true, Some(order), Expr::Function(function)) = (first_only, &subquery.order_by, &mut made)
        && let (FunctionArguments::List(list), OrderByKind::Expressions(orders)) = (&mut function.args, &order.kind)
    {
        // A number would be a place in the select list.
        if orders.iter().any(|order| matches!(order.expr, Expr::Value(_))) {
            return Ok(());
        }
        list.clauses.push(FunctionArgumentClause::OrderBy(orders.clone()));
    }
    subquery.order_by = None;
    subquery.limit_clause = None;
    if let SetExpr::Select(select) = &mut *subquery.body
        && let Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = select.projection.first_mut()
    {
        *expr = made;
    }
    Ok(())
}

struct Forms;

impl Forms {
    fn select(select: &mut Select) -> Result<()> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
                && let Expr::Function(function) = expr
                && name_of(&function.name) == "generate_series"
            {
                *expr = call("unnest", vec![expr.clone()])?;
            }
        }
        if let ControlFlow::Break(error) = VisitMut::visit(&mut select.projection, &mut SelectList::default()) {
            return Err(error);
        }
        select.selection.as_mut().map(quantified).transpose()?;
        select.having.as_mut().map(quantified).transpose()?;
        Ok(())
    }

    fn query(query: &mut Query) -> Result<()> {
        if let SetExpr::SetOperation {
            op: op @ (SetOperator::Except | SetOperator::Intersect),
            set_quantifier: SetQuantifier::All,
            ..
        } = &*query.body
        {
            return Err(
                Error::unsupported(format!("{op} ALL is not supported yet")).hint(format!("use {op}, which drops repeated rows"))
            );
        }
        if let Some(fetch) = &query.fetch
            && !fetch.with_ties
            && !fetch.percent
        {
            let limit = Some(fetch.quantity.clone().unwrap_or(Expr::value(Value::Number("1".into(), false))));
            let offset = match query.limit_clause.take() {
                Some(LimitClause::LimitOffset { offset, .. }) => offset,
                _ => None,
            };
            query.limit_clause = Some(LimitClause::LimitOffset { limit, offset, limit_by: vec![] });
            query.fetch = None;
        }
        Ok(())
    }

    fn expr(expr: &mut Expr) -> Result<()> {
        let made = match expr {
            Expr::Subquery(subquery) => return one_value(subquery),
            Expr::Exists { subquery, negated } if is_always_true(subquery) => Some(Expr::value(Value::Boolean(!*negated))),
            Expr::Value(value) => match &value.value {
                Value::Number(digits, false) => exponent(digits),
                _ => None,
            },
            Expr::UnaryOp { op, expr } => match op {
                UnaryOperator::PGAbs => Some(call("abs", vec![(**expr).clone()])?),
                UnaryOperator::PGSquareRoot => Some(call("sqrt", vec![(**expr).clone()])?),
                UnaryOperator::PGCubeRoot => Some(call("cbrt", vec![(**expr).clone()])?),
                UnaryOperator::BitwiseNot => {
                    let minus = Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(Expr::Nested(expr.clone())) };
                    let one = Box::new(Expr::value(Value::Number("1".into(), false)));
                    let made = Expr::BinaryOp { left: Box::new(minus), op: BinaryOperator::Minus, right: one };
                    Some(Expr::Nested(Box::new(made)))
                }
                _ => None,
            },
            Expr::Collate { expr, collation } => {
                let name = name_of(collation);
                if !matches!(name.as_str(), "C" | "POSIX" | "ucs_basic" | "default") {
                    return Err(Error::unsupported(format!("collation \"{name}\" is not supported"))
                        .hint("text is compared as \"C\" does, by its bytes"));
                }
                Some((**expr).clone())
            }
            Expr::Extract { field, expr, .. } => extract(field, expr)?,
            Expr::SimilarTo { negated, expr, pattern, .. } => {
                let Some(pattern) = literal_text(pattern) else {
                    return Err(Error::unsupported("SIMILAR TO needs a literal pattern").hint("use LIKE or ~"));
                };
                let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
                let right = Box::new(text(patterns::similar(pattern)));
                Some(Expr::Nested(Box::new(Expr::BinaryOp { left: expr.clone(), op, right })))
            }
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                if let (Some(value), Some(literal)) = (&escape_char, literal_text(pattern))
                    && let Value::SingleQuotedString(escape) = &value.value
                {
                    **pattern = text(patterns::with_backslash(literal, escape.chars().next()));
                    *escape_char = None;
                }
                None
            }
            Expr::Function(_) => function(expr)?,
            _ => None,
        };
        if let Some(made) = made {
            *expr = made;
        }
        Ok(())
    }
}

/// A number with an exponent, or one that is no BIGINT: exact where it has few enough digits, else a double.
fn exponent(digits: &str) -> Option<Expr> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<i64>().is_err() && digits.len() <= DIGITS_MAX {
        return Some(cast(Expr::value(Value::Number(digits.to_owned(), false)), numeric(0)));
    }
    let (mantissa, exponent) = digits.split_once(['e', 'E'])?;
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let behind = i32::try_from(fraction.len()).ok()?.saturating_sub(exponent);
    let size = whole.len().saturating_add(usize::try_from(exponent.unsigned_abs()).ok()?).max(mantissa.len());
    if size > DIGITS_MAX {
        return Some(cast(text(digits), DataType::DoublePrecision));
    }
    if behind > 0 {
        return None;
    }
    let zeros = "0".repeat(usize::try_from(-behind).ok()?);
    let plain = Expr::value(Value::Number(format!("{whole}{fraction}{zeros}"), false));
    Some(cast(plain, numeric(0)))
}

fn date_part(field: &str, expr: &Expr) -> Result<Expr> {
    call("date_part", vec![text(field), expr.clone()])
}

/// `extract(field FROM expr)` is NUMERIC, and a second has its fraction.
fn extract(field: &DateTimeField, expr: &Expr) -> Result<Option<Expr>> {
    let name = field.to_string().to_lowercase();
    let by = |count: &str, scale: i64| -> Result<Expr> {
        let micros = cast(date_part("microsecond", expr)?, numeric(0));
        let right = Box::new(Expr::value(Value::Number(count.into(), false)));
        let quotient = Expr::BinaryOp { left: Box::new(micros), op: BinaryOperator::Divide, right };
        Ok(cast(Expr::Nested(Box::new(quotient)), numeric(scale)))
    };
    Ok(Some(match name.trim_end_matches('s') {
        "second" => by("1000000", 6)?,
        "millisecond" => by("1000", 3)?,
        "epoch" => cast(date_part("epoch", expr)?, numeric(6)),
        _ => cast(date_part(&name, expr)?, numeric(0)),
    }))
}

/// Functions under other names, and those whose patterns are others.
fn function(expr: &mut Expr) -> Result<Option<Expr>> {
    let Expr::Function(function) = expr else { return Ok(None) };
    let name = name_of(&function.name);
    let other = match name.as_str() {
        "ceiling" => "ceil",
        "every" => "bool_and",
        "variance" => "var_samp",
        "sign" => "signum",
        _ => "",
    };
    if !other.is_empty() {
        function.name = ObjectName::from(Ident::new(other));
        return Ok(None);
    }
    let args: Vec<Expr> = match &function.args {
        FunctionArguments::List(list) => list
            .args
            .iter()
            .filter_map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                _ => None,
            })
            .collect(),
        _ => return Ok(None),
    };
    Ok(match (name.as_str(), &args[..]) {
        ("mod", [left, right]) => {
            let nested = |expr: &Expr| Box::new(Expr::Nested(Box::new(expr.clone())));
            let made = Expr::BinaryOp { left: nested(left), op: BinaryOperator::Modulo, right: nested(right) };
            Some(Expr::Nested(Box::new(made)))
        }
        ("to_char" | "to_date" | "to_timestamp", [value, pattern]) => match literal_text(pattern) {
            Some(pattern) if !pattern.contains('%') => {
                let Some(translated) = patterns::time_format(pattern) else {
                    return Err(Error::unsupported(format!("the pattern '{pattern}' of {name} is not supported"))
                        .hint("of PostgreSQL's patterns there are YYYY, YY, MM, MON, MONTH, DD, DDD, DY, DAY, HH24, HH12, HH, MI, SS, MS, US, AM, PM"));
                };
                Some(call(&name, vec![value.clone(), text(translated)])?)
            }
            _ => None,
        },
        _ => None,
    })
}

fn alias_of(name: &str, column: &str) -> TableAlias {
    let column = TableAliasColumnDef { name: Ident::with_quote('"', column), data_type: None };
    TableAlias { explicit: true, name: Ident::with_quote('"', name), columns: vec![column], at: None }
}

/// A function in FROM: its one column has the name of its alias, or else its own.
fn table_function(factor: &mut TableFactor) -> Result<()> {
    match factor {
        TableFactor::Table { name, alias, args: Some(args), .. } if name_of(name) == "generate_series" => {
            let ident = |ident: &Ident| name_of(&ObjectName::from(ident.clone()));
            let shown = alias.as_ref().map_or("generate_series".to_owned(), |alias| ident(&alias.name));
            let column =
                alias.as_ref().and_then(|alias| alias.columns.first()).map_or(shown.clone(), |column| ident(&column.name));
            let given: Vec<String> = args.args.iter().map(ToString::to_string).collect();
            let small = given.iter().all(|arg| arg.trim().trim_start_matches('-').trim().parse::<i32>().is_ok());
            let value = if small { "CAST(value AS INTEGER)" } else { "value" };
            let subquery = query(&format!("SELECT {value} AS value FROM generate_series({})", given.join(", ")))?;
            *factor = TableFactor::Derived { lateral: false, subquery, alias: Some(alias_of(&shown, &column)), sample: None };
        }
        TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_ordinality: false, .. } if array_exprs.len() == 1 => {
            match alias {
                None => *alias = Some(alias_of("unnest", "unnest")),
                Some(given) if given.columns.is_empty() => {
                    let name = name_of(&ObjectName::from(given.name.clone()));
                    *given = alias_of(&name, &name);
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
    Ok(())
}

fn flow(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl VisitorMut for Forms {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        flow(Self::query(query))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        if matches!(select.distinct, Some(Distinct::All)) {
            select.distinct = None;
        }
        flow(Self::select(select))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } = expr
            && matches!(**right, Expr::Subquery(_))
        {
            let message =
                "ANY and ALL over a subquery are supported as conditions of WHERE and HAVING, not under NOT or as values";
            return ControlFlow::Break(Error::unsupported(message).hint("use EXISTS, or min() and max()"));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        flow(Self::expr(expr))
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        flow(table_function(factor))
    }
}
