//! Names the columns of every SELECT as PostgreSQL does: `count`, `lower`, `case`, the column's own name, `?column?`.
//!
//! DataFusion names a column after the whole expression and refuses two of one name. So every expression gets PostgreSQL's name as
//! an alias, and where that name is taken in its select list, a mark behind it tells it apart; [`shown`] takes the mark away from
//! what a client sees.
//!
//! Called by [`crate::query`] before a statement is planned.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, DataType, Expr, Ident, ObjectName, OrderByKind, Query, Select, SelectItem, SetExpr, Statement, TrimWhereField,
    Value, VisitMut, VisitorMut,
};

use super::ddl::name_of;

/// What stands between a name and the number that tells it apart; no name has it.
const MARK: char = '\u{1}';
/// The name of what has none.
const UNNAMED: &str = "?column?";

/// Gives every expression of a select list its name.
pub fn name_columns(statement: &mut Statement) {
    let _ = VisitMut::visit(statement, &mut Namer);
}

/// A column's name as clients see it.
#[must_use]
pub fn shown(name: &str) -> &str {
    name.split(MARK).next().unwrap_or(name)
}

/// Whether a column's name is not the one that clients see.
#[must_use]
pub fn is_marked(name: &str) -> bool {
    name.contains(MARK)
}

struct Namer;

impl VisitorMut for Namer {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let Some(order_by) = &mut query.order_by else { return ControlFlow::Continue(()) };
        let SetExpr::Select(select) = &*query.body else { return ControlFlow::Continue(()) };
        // ORDER BY a name means the column of that name in the answer, also where the name is the one given here.
        let given: Vec<(String, usize)> = select.projection.iter().enumerate().filter_map(|(at, item)| given(item, at)).collect();
        let has_wildcard = select.projection.iter().any(is_wildcard);
        if let OrderByKind::Expressions(orders) = &mut order_by.kind {
            for order in orders {
                let Expr::Identifier(ident) = &order.expr else { continue };
                let name = ident_name(ident);
                let mut found = given.iter().filter(|(given, _)| *given == name);
                if let (Some((_, at)), None, false) = (found.next(), found.next(), has_wildcard) {
                    order.expr = Expr::value(Value::Number((at + 1).to_string(), false));
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        // A name that a column of FROM may have must not take its place in HAVING.
        let always_mark = select.having.is_some();
        let mut taken = HashSet::new();
        let has_wildcard = select.projection.iter().any(is_wildcard);
        for item in &select.projection {
            match item {
                SelectItem::ExprWithAlias { alias, .. } if !has_wildcard => drop(taken.insert(ident_name(alias))),
                _ => {}
            }
        }
        let mut aliases = HashSet::new();
        for (at, item) in select.projection.iter_mut().enumerate() {
            let (expr, name, explicit) = match item {
                SelectItem::UnnamedExpr(expr) => (&*expr, column_name(expr), false),
                SelectItem::ExprWithAlias { expr, alias } => (&*expr, ident_name(alias), true),
                _ => continue,
            };
            let first = match explicit {
                true => aliases.insert(name.clone()),
                false => taken.insert(name.clone()),
            };
            let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
            let may_capture = matches!(
                expr,
                Expr::Cast { .. } | Expr::Case { .. } | Expr::Nested(_) | Expr::CompoundFieldAccess { .. } | Expr::Collate { .. }
            );
            let free = first && !has_wildcard && (explicit || !(always_mark && may_capture));
            if free && (explicit || is_column) {
                continue;
            }
            let alias = if free { name } else { format!("{name}{MARK}{at}") };
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', alias) };
        }
        ControlFlow::Continue(())
    }
}

fn is_wildcard(item: &SelectItem) -> bool {
    !matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. })
}

/// The name that an expression without one gets here, and its place.
fn given(item: &SelectItem, at: usize) -> Option<(String, usize)> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(_)) => None,
        SelectItem::UnnamedExpr(expr) => Some((column_name(expr), at)),
        _ => None,
    }
}

fn ident_name(ident: &Ident) -> String {
    name_of(&ObjectName::from(ident.clone()))
}

fn column_name(expr: &Expr) -> String {
    figure(expr).map_or_else(|| UNNAMED.to_owned(), |(name, _)| name)
}

/// PostgreSQL's rule: a name, and whether it is a good one rather than just the type of a cast or `case`.
fn figure(expr: &Expr) -> Option<(String, bool)> {
    let good = |name: &str| Some((name.to_owned(), true));
    match expr {
        Expr::Identifier(ident) => Some((ident_name(ident), true)),
        Expr::CompoundIdentifier(parts) => parts.last().map(|ident| (ident_name(ident), true)),
        Expr::CompoundFieldAccess { root, access_chain } => match access_chain.last() {
            Some(AccessExpr::Dot(Expr::Identifier(ident))) => Some((ident_name(ident), true)),
            _ => figure(root),
        },
        Expr::Nested(inner) => figure(inner),
        Expr::Collate { expr, .. } => figure(expr),
        Expr::Function(function) => {
            let name = name_of(&function.name);
            let last = name.rsplit('.').next().unwrap_or(&name).to_owned();
            Some((if last == "contains" { "match".into() } else { last }, true))
        }
        Expr::Cast { expr, data_type, .. } => match figure(expr) {
            Some((name, true)) => Some((name, true)),
            _ => Some((type_word(data_type), false)),
        },
        Expr::TypedString(typed) => Some((type_word(&typed.data_type), false)),
        Expr::Interval(_) => Some(("interval".into(), false)),
        Expr::Case { else_result, .. } => match else_result.as_deref().and_then(figure) {
            Some((name, true)) => Some((name, true)),
            _ => Some(("case".into(), false)),
        },
        Expr::Exists { negated: false, .. } => good("exists"),
        Expr::Subquery(query) => first_column(&query.body).map(|name| (name, true)),
        Expr::Array(_) => good("array"),
        Expr::Tuple(_) => good("row"),
        Expr::Extract { .. } => good("extract"),
        Expr::Ceil { .. } => good("ceil"),
        Expr::Floor { .. } => good("floor"),
        Expr::Position { .. } => good("position"),
        Expr::Substring { shorthand, .. } => good(if *shorthand { "substr" } else { "substring" }),
        Expr::Overlay { .. } => good("overlay"),
        Expr::AtTimeZone { .. } => good("timezone"),
        Expr::Trim { trim_where, .. } => good(match trim_where {
            Some(TrimWhereField::Leading) => "ltrim",
            Some(TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }),
        _ => None,
    }
}

fn first_column(body: &SetExpr) -> Option<String> {
    match body {
        SetExpr::Select(select) => match select.projection.first()? {
            SelectItem::ExprWithAlias { alias, .. } => Some(ident_name(alias)),
            SelectItem::UnnamedExpr(expr) => Some(column_name(expr)),
            _ => None,
        },
        SetExpr::Query(query) => first_column(&query.body),
        SetExpr::SetOperation { left, .. } => first_column(left),
        SetExpr::Values(_) => Some("column1".into()),
        _ => None,
    }
}

/// What PostgreSQL calls a type inside.
fn type_word(kind: &DataType) -> String {
    match kind {
        DataType::Boolean | DataType::Bool => "bool".into(),
        DataType::SmallInt(_) | DataType::Int2(_) => "int2".into(),
        DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => "int4".into(),
        DataType::BigInt(_) | DataType::Int8(_) => "int8".into(),
        DataType::Real | DataType::Float4 => "float4".into(),
        DataType::Float8 | DataType::DoublePrecision | DataType::Double(_) | DataType::Float(_) => "float8".into(),
        DataType::Numeric(_) | DataType::Decimal(_) | DataType::Dec(_) => "numeric".into(),
        DataType::Varchar(_) | DataType::CharacterVarying(_) | DataType::CharVarying(_) => "varchar".into(),
        DataType::Char(_) | DataType::Character(_) => "bpchar".into(),
        DataType::Timestamp(_, zone) => match zone {
            datafusion::sql::sqlparser::ast::TimezoneInfo::WithTimeZone | datafusion::sql::sqlparser::ast::TimezoneInfo::Tz => {
                "timestamptz".into()
            }
            _ => "timestamp".into(),
        },
        DataType::Time(..) => "time".into(),
        DataType::Interval { .. } => "interval".into(),
        DataType::Array(inner) => {
            use datafusion::sql::sqlparser::ast::ArrayElemTypeDef::{AngleBracket, Parenthesis, SquareBracket};
            match inner {
                SquareBracket(inner, _) | AngleBracket(inner) | Parenthesis(inner) => type_word(inner),
                _ => "array".into(),
            }
        }
        other => other.to_string().split('(').next().unwrap_or_default().trim().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse::{Statement as Parsed, parse};

    fn named(sql: &str) -> Vec<String> {
        let Some(Parsed::Sql(mut statement)) = parse(sql, 1).unwrap().pop() else { panic!("{sql}") };
        name_columns(&mut statement);
        let Statement::Query(query) = *statement else { panic!("{sql}") };
        let SetExpr::Select(select) = *query.body else { panic!("{sql}") };
        let name = |item: &SelectItem| match item {
            SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
            SelectItem::UnnamedExpr(expr) => column_name(expr),
            _ => "*".into(),
        };
        select.projection.iter().map(name).collect()
    }

    #[test]
    fn columns_are_named_as_postgresql_names_them() {
        assert_eq!(named("SELECT 1, a, t.b, lower(c), a::text, 1::text"), ["?column?", "a", "b", "lower", "a\u{1}4", "text"]);
        assert_eq!(named("SELECT count(*), count(*), 1 AS count"), ["count\u{1}0", "count\u{1}1", "count"]);
        assert_eq!(named("SELECT CASE WHEN a THEN 1 END, CASE WHEN a THEN 1 ELSE b END"), ["case", "b"]);
        assert_eq!(
            named("SELECT (SELECT max(x) FROM t), EXISTS (SELECT 1), ARRAY[1], true"),
            ["max", "exists", "array", "?column?"]
        );
        assert_eq!(named("SELECT *, a"), ["*", "a\u{1}1"]);
        assert_eq!(shown("count\u{1}1"), "count");
    }
}
