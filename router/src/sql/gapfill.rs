//! `time_bucket_gapfill`, `locf` and `interpolate`: a bucket for every moment of a range, whether there is a point in it or not.
//!
//! ```sql
//! SELECT time_bucket_gapfill('1 hour', ts) AS hour, host, avg(v), locf(last(v, ts)), interpolate(avg(v))
//! FROM m WHERE ts >= '2024-03-01' AND ts < '2024-03-02' GROUP BY hour, host ORDER BY host, hour
//! ```
//! is planned as a join: the buckets of the range, for every group that has any point in it, and the groups that there are. What fills a
//! gap is a window over the buckets of a group. The range is what the condition says of the time, or the third and fourth argument.
//!
//! Called by [`crate::query`] when names and tables are settled.
//!
//! # Not done
//! Values from outside of the range for `locf` and `interpolate`; both inside of other expressions.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, OrderByKind, Query, Select,
    SelectItem, SetExpr, Statement, Value, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::dialect::HeadwaterDialect;
use crate::error::{Error, Result};

const BUCKET: &str = "time_bucket_gapfill";
const FILLS: [&str; 2] = ["locf", "interpolate"];

/// Rewrites every SELECT that fills gaps.
///
/// # Errors
/// A range that nobody said, forms that are not supported.
pub fn fill(statement: &mut Statement) -> Result<()> {
    if !calls(statement, |name| name == BUCKET || FILLS.contains(&name)) {
        return Ok(());
    }
    match VisitMut::visit(statement, &mut Filler) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Filler;

impl VisitorMut for Filler {
    type Break = Error;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        match filled(query) {
            Ok(Some(new)) => {
                *query = new;
                ControlFlow::Continue(())
            }
            Ok(None) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

/// Whether a part of a statement calls a function.
fn calls<V: Visit>(part: &V, wanted: fn(&str) -> bool) -> bool {
    struct Finder(fn(&str) -> bool);
    impl Visitor for Finder {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match called(expr) {
                Some((name, _)) if (self.0)(&name) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    part.visit(&mut Finder(wanted)).is_break()
}

/// The name and the arguments of a plain call.
fn called(expr: &Expr) -> Option<(String, Vec<&Expr>)> {
    let Expr::Function(function) = expr else { return None };
    let name = function.name.to_string().to_lowercase();
    let FunctionArguments::List(list) = &function.args else { return Some((name, Vec::new())) };
    let argument = |argument| match argument {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref expr)) => Some(expr),
        _ => None,
    };
    Some((name, list.args.iter().map(argument).collect::<Option<Vec<_>>>().unwrap_or_default()))
}

/// What a column of the answer is.
enum Column {
    Bucket,
    Group(usize),
    Value(usize),
    Carried(usize),
    Interpolated(usize),
}

/// A SELECT that fills gaps, taken apart.
struct Parts<'a> {
    select: &'a Select,
    width: &'a Expr,
    time: &'a Expr,
    start: String,
    /// Inclusive.
    stop: String,
    groups: Vec<Expr>,
    values: Vec<Expr>,
    columns: Vec<(Column, Ident)>,
}

fn filled(query: &Query) -> Result<Option<Query>> {
    let SetExpr::Select(select) = &*query.body else { return Ok(None) };
    let items = select.projection.iter().filter_map(item).collect::<Vec<_>>();
    let Some(bucket) = items.iter().map(|(expr, _)| *expr).find(|expr| called(expr).is_some_and(|(name, _)| name == BUCKET))
    else {
        if calls(&select.projection, |name| FILLS.contains(&name) || name == BUCKET) {
            return Err(Error::syntax(
                "locf and interpolate fill the gaps of time_bucket_gapfill, which must be a column of the same SELECT",
            ));
        }
        return Ok(None);
    };
    if items.len() != select.projection.len() || select.distinct.is_some() {
        return Err(Error::unsupported("* and DISTINCT do not go with time_bucket_gapfill"));
    }
    let parts = Parts::of(select, bucket, &items)?;
    let with = query.with.as_ref().map(|with| format!("{with}, ")).unwrap_or_else(|| "WITH ".to_owned());
    let mut new = parse(&format!("{with}{}", parts.sql()))?;
    new.order_by = query.order_by.clone();
    if let Some(OrderByKind::Expressions(orders)) = new.order_by.as_mut().map(|order_by| &mut order_by.kind) {
        for order in orders {
            // What is a column of the answer is ordered by as that.
            if let Some(at) = items.iter().position(|(expr, _)| *expr == &order.expr) {
                order.expr = Expr::value(Value::Number((at + 1).to_string(), false));
            }
        }
    }
    new.limit_clause = query.limit_clause.clone();
    new.fetch = query.fetch.clone();
    Ok(Some(new))
}

fn item(item: &SelectItem) -> Option<(&Expr, Ident)> {
    match item {
        SelectItem::ExprWithAlias { expr, alias } => Some((expr, alias.clone())),
        SelectItem::UnnamedExpr(expr @ Expr::Identifier(name)) => Some((expr, name.clone())),
        SelectItem::UnnamedExpr(expr @ Expr::CompoundIdentifier(names)) => Some((expr, names.last()?.clone())),
        _ => None,
    }
}

fn parse(sql: &str) -> Result<Query> {
    let dialect = HeadwaterDialect::default();
    let mut parser = Parser::new(&dialect).try_with_sql(sql).map_err(|error| Error::internal(error.to_string()))?;
    Ok(*parser.parse_query().map_err(|error| Error::internal(format!("{error}: {sql}")))?)
}

impl<'a> Parts<'a> {
    fn of(select: &'a Select, bucket: &'a Expr, items: &[(&'a Expr, Ident)]) -> Result<Self> {
        let arguments = called(bucket).map(|(_, arguments)| arguments).unwrap_or_default();
        let (width, time, range) = match arguments[..] {
            [width, time] => (width, time, None),
            [width, time, start, finish] => (width, time, Some((start, finish))),
            _ => {
                return Err(Error::syntax("time_bucket_gapfill takes a width and a time, and perhaps where to begin and to end"));
            }
        };
        let (start, stop) = match range {
            Some((start, finish)) => (format!("({start})"), before(finish)),
            None => range_of(select.selection.as_ref(), time)?,
        };
        let groups = groups(select, bucket, items)?;
        let mut parts = Self { select, width, time, start, stop, groups, values: Vec::new(), columns: Vec::new() };
        for (expr, name) in items {
            let column = parts.column(expr, bucket)?;
            parts.columns.push((column, name.clone()));
        }
        Ok(parts)
    }

    fn column(&mut self, expr: &Expr, bucket: &Expr) -> Result<Column> {
        if expr == bucket {
            return Ok(Column::Bucket);
        }
        if let Some(at) = self.groups.iter().position(|group| group == expr) {
            return Ok(Column::Group(at));
        }
        let filling = called(expr).filter(|(name, _)| FILLS.contains(&name.as_str()));
        let value = match &filling {
            Some((name, arguments)) => match arguments[..] {
                [value] => value,
                _ => return Err(Error::syntax(format!("{name} takes one value"))),
            },
            None => expr,
        };
        if calls(value, |name| FILLS.contains(&name) || name == BUCKET) {
            return Err(Error::unsupported("locf, interpolate and time_bucket_gapfill inside of another expression")
                .hint("make each a column of its own, and compute with them in an outer SELECT"));
        }
        self.values.push(value.clone());
        let at = self.values.len() - 1;
        Ok(match filling.as_ref().map(|(name, _)| name.as_str()) {
            Some("locf") => Column::Carried(at),
            Some(_) => Column::Interpolated(at),
            None => Column::Value(at),
        })
    }

    /// Everything behind WITH.
    fn sql(&self) -> String {
        let (width, time) = (self.width, self.time);
        let mut rows = self.select.clone();
        let group = |at: usize| format!("\"gapfill g{at}\"");
        let mut inner = vec![format!("time_bucket({width}, {time}) AS \"gapfill b\"")];
        inner.extend(self.groups.iter().enumerate().map(|(at, expr)| format!("{expr} AS {}", group(at))));
        let grouped = (1..=inner.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        inner.extend(self.values.iter().enumerate().map(|(at, expr)| format!("{expr} AS \"gapfill v{at}\"")));
        rows.projection = Vec::new();
        rows.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new());
        let having = rows.having.take().map(|having| format!(" HAVING {having}")).unwrap_or_default();
        let selection = rows.selection.take().map(|selection| format!(" WHERE {selection}")).unwrap_or_default();
        let from = rows.from.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let rows = format!("SELECT {} FROM {from}{selection} GROUP BY {grouped}{having}", inner.join(", "));

        let names: Vec<String> = (0..self.groups.len()).map(group).collect();
        let others = match names.is_empty() {
            true => String::new(),
            false => format!(" CROSS JOIN (SELECT DISTINCT {} FROM \"gapfill rows\") AS g", names.join(", ")),
        };
        let kept: String = names.iter().map(|name| format!(", g.{name}")).collect();
        let same: String = names.iter().map(|name| format!(" AND f.{name} IS NOT DISTINCT FROM s.{name}")).collect();
        let buckets = format!("gapfill_buckets({width}::interval, time_bucket({width}, {}), {})", self.start, self.stop);
        let spine = format!("SELECT b.b AS \"gapfill b\"{kept} FROM (SELECT unnest({buckets}) AS b) AS b{others}");
        let columns: Vec<String> =
            self.columns.iter().map(|(column, name)| format!("{} AS {name}", self.outer(column, &names))).collect();
        format!(
            "\"gapfill rows\" AS ({rows}) SELECT {} FROM ({spine}) AS s LEFT JOIN \"gapfill rows\" AS f \
             ON f.\"gapfill b\" = s.\"gapfill b\"{same}",
            columns.join(", ")
        )
    }

    /// A column of the answer.
    fn outer(&self, column: &Column, groups: &[String]) -> String {
        let group_names: Vec<String> = groups.iter().map(|name| format!("s.{name}")).collect();
        let by = if groups.is_empty() { String::new() } else { format!("PARTITION BY {} ", group_names.join(", ")) };
        let until = format!("OVER ({by}ORDER BY s.\"gapfill b\" ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)");
        let from = format!("OVER ({by}ORDER BY s.\"gapfill b\" ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)");
        match column {
            Column::Bucket => "s.\"gapfill b\"".to_owned(),
            Column::Group(at) => group_names[*at].clone(),
            Column::Value(at) => format!("f.\"gapfill v{at}\""),
            Column::Carried(at) => format!("last_value(f.\"gapfill v{at}\") IGNORE NULLS {until}"),
            Column::Interpolated(at) => {
                let value = format!("f.\"gapfill v{at}\"::double precision");
                let moment = "extract(epoch FROM s.\"gapfill b\")::double precision";
                let there = format!("CASE WHEN f.\"gapfill v{at}\" IS NOT NULL THEN {moment} END");
                let (old, new) =
                    (format!("last_value({value}) IGNORE NULLS {until}"), format!("first_value({value}) IGNORE NULLS {from}"));
                let (then, next) =
                    (format!("last_value({there}) IGNORE NULLS {until}"), format!("first_value({there}) IGNORE NULLS {from}"));
                format!("coalesce({value}, {old} + ({new} - {old}) * ({moment} - {then}) / ({next} - {then}))")
            }
        }
    }
}

/// The last moment before one.
fn before(moment: &Expr) -> String {
    format!("({moment})::timestamptz - INTERVAL '1 microsecond'")
}

/// What a condition says of the time: from the first moment to the last, both inclusive.
fn range_of(selection: Option<&Expr>, time: &Expr) -> Result<(String, String)> {
    let (mut start, mut stop) = (None, None);
    let mut open: Vec<&Expr> = selection.into_iter().collect();
    while let Some(expr) = open.pop() {
        match expr {
            Expr::Nested(inner) => open.push(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => open.extend([&**left, &**right]),
            Expr::Between { expr, negated: false, low, high } if &**expr == time => {
                (start, stop) = (Some(format!("({low})::timestamptz")), Some(format!("({high})::timestamptz")));
            }
            Expr::BinaryOp { left, op, right } => {
                let (op, bound) = if &**left == time {
                    (op.clone(), right)
                } else if &**right == time {
                    (turned(op), left)
                } else {
                    continue;
                };
                match op {
                    BinaryOperator::Gt | BinaryOperator::GtEq => start = Some(format!("({bound})::timestamptz")),
                    BinaryOperator::Lt => stop = Some(before(bound)),
                    BinaryOperator::LtEq => stop = Some(format!("({bound})::timestamptz")),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    start.zip(stop).ok_or_else(|| {
        Error::invalid(format!("time_bucket_gapfill does not know the range of {time}")).hint(format!(
            "add WHERE {time} >= ... AND {time} < ..., or say it: time_bucket_gapfill(width, {time}, start, finish)"
        ))
    })
}

fn turned(op: &BinaryOperator) -> BinaryOperator {
    match op {
        BinaryOperator::Gt => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::LtEq,
        BinaryOperator::Lt => BinaryOperator::Gt,
        BinaryOperator::LtEq => BinaryOperator::GtEq,
        other => other.clone(),
    }
}

/// What it is grouped by besides the bucket.
fn groups(select: &Select, bucket: &Expr, items: &[(&Expr, Ident)]) -> Result<Vec<Expr>> {
    let GroupByExpr::Expressions(exprs, more) = &select.group_by else {
        return Err(Error::unsupported("GROUP BY ALL does not go with time_bucket_gapfill"));
    };
    if !more.is_empty() {
        return Err(Error::unsupported("grouping sets do not go with time_bucket_gapfill"));
    }
    let meant = |expr: &Expr| -> Expr {
        let by_number = match expr {
            Expr::Value(value) => match &value.value {
                Value::Number(number, _) => number.parse::<usize>().ok().and_then(|n| items.get(n.checked_sub(1)?)),
                _ => None,
            },
            Expr::Identifier(name) => items.iter().find(|(_, alias)| alias.value == name.value),
            _ => None,
        };
        by_number.map_or_else(|| expr.clone(), |(expr, _)| (*expr).clone())
    };
    let all: Vec<Expr> = exprs.iter().map(meant).collect();
    if !all.contains(bucket) {
        return Err(Error::syntax("time_bucket_gapfill must be in GROUP BY, by its name or its place"));
    }
    Ok(all.into_iter().filter(|expr| expr != bucket).collect())
}
