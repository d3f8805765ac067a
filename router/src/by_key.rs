//! Statements that name one row by its primary key, and constants as values, recognised in the parsed tree without the planner.
//!
//! Everything here is sure or `None`: what is not recognised goes to the planner, which also finds the words for what is wrong.
//! Called by [`crate::fast_path`] for reads and by `crate::dml::direct` for changes.

use std::borrow::Cow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident, ObjectName, UnaryOperator, Value as Literal};
use rowstore::key::encode_key;
use rowstore::value::parse_uuid;
use rowstore::{ColumnType, Index, TableSchema, Value};

use crate::sql::ddl::name_of;
use crate::sql::input::{self, Conversion};
use crate::view::json;

type Params<'a> = &'a [serde_json::Value];

/// A column's name as the catalog has it.
#[must_use]
pub fn ident_name(ident: &Ident) -> String {
    name_of(&ObjectName::from(ident.clone()))
}

/// The encoded primary key of the only row that `selection` can be true for, which is a conjunction of `column = constant`;
/// other comparisons of columns with constants go to `rest`, and without one they are not recognised.
#[must_use]
pub fn key_of(selection: &Expr, schema: &TableSchema, params: Params<'_>, rest: Option<&mut Vec<Comparison>>) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    comparisons(selection, &mut found)?;
    let mut values = vec![Value::Null; schema.columns.len()];
    let mut others = Vec::new();
    for (column, operator, constant) in found {
        let at = schema.column(&ident_name(column))?;
        let is_key = schema.primary_key.contains(&at) && operator == BinaryOperator::Eq && values[at] == Value::Null;
        match is_key {
            true => values[at] = key_constant(constant, &schema.columns[at].kind, params)?,
            false => others.push(Comparison::of(at, operator, constant, schema, params)?),
        }
    }
    if schema.primary_key.is_empty() || schema.primary_key.iter().any(|at| values[*at] == Value::Null) {
        return None;
    }
    match (rest, others.is_empty()) {
        (Some(rest), _) => rest.extend(others),
        (None, true) => {}
        (None, false) => return None,
    }
    encode_key(&values, schema).ok()
}

/// The index, and what its entries begin with, of the rows that `selection` is true for, which is a conjunction of
/// `column = constant` over the first columns of the index, each once.
#[must_use]
pub fn entries_of<'s>(selection: &Expr, schema: &'s TableSchema, params: Params<'_>) -> Option<(&'s Index, Vec<u8>)> {
    let mut found = Vec::new();
    comparisons(selection, &mut found)?;
    let mut wanted = Vec::with_capacity(found.len());
    for (column, operator, constant) in found {
        let column = &schema.columns[schema.column(&ident_name(column))?];
        let is_known = wanted.iter().any(|(name, _)| *name == column.name);
        if operator != BinaryOperator::Eq || is_known {
            return None;
        }
        wanted.push((column.name.as_str(), key_constant(constant, &column.kind, params)?));
    }
    let value_of = |name: &str| wanted.iter().find(|(column, _)| *column == name).map(|(_, value)| value.clone());
    let fits = |index: &&Index| {
        index.is_plain() && index.columns.iter().take(wanted.len()).all(|column| value_of(&column.name).is_some())
    };
    let long_enough = |index: &&Index| index.columns.len() >= wanted.len();
    let index =
        schema.indexes.iter().filter(long_enough).filter(fits).min_by_key(|index| (!index.unique, index.columns.len()))?;
    let values: Vec<Value> = index.columns.iter().filter_map(|column| value_of(&column.name)).collect();
    Some((index, index.prefix(&values)))
}

/// `column operator constant` of numbers.
#[derive(Debug)]
pub struct Comparison {
    column: usize,
    operator: BinaryOperator,
    with: Value,
}

impl Comparison {
    fn of(column: usize, operator: BinaryOperator, constant: &Expr, schema: &TableSchema, params: Params<'_>) -> Option<Self> {
        let kind = &schema.columns[column].kind;
        let with = exact(constant, kind, params).filter(|_| is_exact(kind))?;
        Some(Self { column, operator, with })
    }

    /// Whether it is true of a row.
    #[must_use]
    pub fn holds(&self, row: &[Value]) -> bool {
        use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        let order = match (&row[self.column], &self.with) {
            (Value::Int(left), Value::Int(right)) => left.cmp(right),
            (Value::Numeric(left), Value::Numeric(right)) => left.cmp(right),
            _ => return false,
        };
        match self.operator {
            Eq => order.is_eq(),
            NotEq => order.is_ne(),
            Lt => order.is_lt(),
            LtEq => order.is_le(),
            Gt => order.is_gt(),
            GtEq => order.is_ge(),
            _ => false,
        }
    }
}

/// Takes a conjunction of comparisons of columns with constants apart; `None` when something else is in it.
fn comparisons<'e>(expr: &'e Expr, found: &mut Vec<(&'e Ident, BinaryOperator, &'e Expr)>) -> Option<()> {
    use BinaryOperator::{And, Eq, Gt, GtEq, Lt, LtEq, NotEq};
    match expr {
        Expr::Nested(inner) => comparisons(inner, found),
        Expr::BinaryOp { left, op: And, right } => {
            comparisons(left, found)?;
            comparisons(right, found)
        }
        Expr::BinaryOp { left, op: op @ (Eq | NotEq | Lt | LtEq | Gt | GtEq), right } => match (&**left, &**right) {
            (Expr::Identifier(column), constant) => {
                found.push((column, op.clone(), constant));
                Some(())
            }
            (constant, Expr::Identifier(column)) => {
                let turned = match op {
                    Lt => Gt,
                    LtEq => GtEq,
                    Gt => Lt,
                    GtEq => LtEq,
                    same => same.clone(),
                };
                found.push((column, turned, constant));
                Some(())
            }
            _ => None,
        },
        _ => None,
    }
}

/// A constant of the statement, or a parameter.
enum Constant<'a> {
    Null,
    Boolean(bool),
    /// As it was written.
    Number(Cow<'a, str>),
    Text(&'a str),
}

fn constant<'a>(expr: &'a Expr, params: Params<'a>) -> Option<Constant<'a>> {
    use serde_json::Value as Json;
    let Expr::Value(value) = expr else {
        return match expr {
            Expr::Nested(inner) => constant(inner, params),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match constant(expr, params)? {
                Constant::Number(digits) if !digits.starts_with('-') => Some(Constant::Number(format!("-{digits}").into())),
                _ => None,
            },
            _ => None,
        };
    };
    Some(match &value.value {
        Literal::Number(digits, false) => Constant::Number(digits.as_str().into()),
        Literal::SingleQuotedString(text) => Constant::Text(text),
        Literal::Boolean(value) => Constant::Boolean(*value),
        Literal::Null => Constant::Null,
        Literal::Placeholder(name) => match params.get(name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)?)? {
            Json::Null => Constant::Null,
            Json::Bool(value) => Constant::Boolean(*value),
            Json::Number(number) => Constant::Number(number.to_string().into()),
            Json::String(text) => Constant::Text(text),
            Json::Array(_) | Json::Object(_) => return None,
        },
        _ => return None,
    })
}

/// A constant as a parameter; `None` for what is none, and for a number that JSON would round.
#[must_use]
pub fn parameter(expr: &Expr, params: Params<'_>) -> Option<serde_json::Value> {
    Some(match constant(expr, params)? {
        Constant::Null => serde_json::Value::Null,
        Constant::Boolean(value) => value.into(),
        Constant::Text(text) => text.into(),
        Constant::Number(digits) => match digits.parse::<i64>() {
            Ok(value) => value.into(),
            Err(_) => serde_json::Number::from_f64(digits.parse().ok()?).filter(|number| number.to_string() == *digits)?.into(),
        },
    })
}

/// What a key column is compared with, if it is of the column's own type: other types compare in their own ways.
fn key_constant(expr: &Expr, kind: &ColumnType, params: Params<'_>) -> Option<Value> {
    match (kind, constant(expr, params)?) {
        (ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt, Constant::Number(digits)) => {
            digits.parse().ok().map(Value::Int)
        }
        (ColumnType::Text | ColumnType::Varchar { .. }, Constant::Text(text)) => Some(Value::Text(text.to_owned())),
        (ColumnType::Uuid, Constant::Text(text)) => parse_uuid(text).map(Value::Uuid),
        _ => None,
    }
}

/// The value that a column gets when a constant is assigned to it.
#[must_use]
pub fn assigned(expr: &Expr, kind: &ColumnType, params: Params<'_>) -> Option<Value> {
    match (kind, constant(expr, params)?) {
        (_, Constant::Null) => Some(Value::Null),
        (ColumnType::Boolean, Constant::Boolean(value)) => Some(Value::Boolean(value)),
        (_, Constant::Text(text)) => input::parse(text, kind, Conversion::Assignment).ok(),
        (ColumnType::Numeric { precision, scale }, Constant::Number(digits)) => {
            json::decimal(&digits, *precision, *scale).map(Value::Numeric)
        }
        (ColumnType::Double, Constant::Number(digits)) => {
            digits.parse().ok().filter(|value: &f64| value.is_finite()).map(Value::Double)
        }
        (ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt, Constant::Number(digits)) => {
            integer(digits.parse().ok()?, kind)
        }
        _ => None,
    }
}

fn integer(value: i64, kind: &ColumnType) -> Option<Value> {
    let fits = match kind {
        ColumnType::SmallInt => i16::try_from(value).is_ok(),
        ColumnType::Integer => i32::try_from(value).is_ok(),
        _ => true,
    };
    fits.then_some(Value::Int(value))
}

/// Whether a type's numbers are what they are written as.
fn is_exact(kind: &ColumnType) -> bool {
    matches!(kind, ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt | ColumnType::Numeric { .. })
}

/// A number that loses no digit in the column's type.
fn exact(expr: &Expr, kind: &ColumnType, params: Params<'_>) -> Option<Value> {
    let Constant::Number(digits) = constant(expr, params)? else { return None };
    if let ColumnType::Numeric { scale, .. } = kind {
        let fraction = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        if digits.contains(['e', 'E']) || fraction > usize::try_from(*scale).ok()? {
            return None;
        }
    }
    assigned(expr, kind, params)
}

/// What `SET column = expr` gives: a constant, another column, or a number plus or minus one.
#[must_use]
pub fn computed(expr: &Expr, at: usize, schema: &TableSchema, row: &[Value], params: Params<'_>) -> Option<Value> {
    let kind = &schema.columns[at].kind;
    let own = |expr: &Expr| match expr {
        Expr::Identifier(ident) => {
            let from = schema.column(&ident_name(ident))?;
            (schema.columns[from].kind == *kind).then(|| row[from].clone())
        }
        _ => None,
    };
    match expr {
        Expr::Nested(inner) => computed(inner, at, schema, row, params),
        Expr::Identifier(_) => own(expr),
        Expr::BinaryOp { left, op: op @ (BinaryOperator::Plus | BinaryOperator::Minus), right } if is_exact(kind) => {
            let side = |expr: &Expr| own(expr).or_else(|| exact(expr, kind, params));
            let plus = *op == BinaryOperator::Plus;
            match (side(left)?, side(right)?) {
                (Value::Int(left), Value::Int(right)) => {
                    let sum = if plus { left.checked_add(right) } else { left.checked_sub(right) };
                    integer(sum?, kind)
                }
                (Value::Numeric(left), Value::Numeric(right)) => {
                    let ColumnType::Numeric { precision, .. } = kind else { return None };
                    let sum = if plus { left.checked_add(right) } else { left.checked_sub(right) }?;
                    let limit = 10_u128.checked_pow(u32::from(*precision))?;
                    (sum.unsigned_abs() < limit).then_some(Value::Numeric(sum))
                }
                (Value::Null, _) | (_, Value::Null) => Some(Value::Null),
                _ => None,
            }
        }
        constant => assigned(constant, kind, params),
    }
}
