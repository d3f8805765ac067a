//! Reads the conditions that DataFusion offers a provider: which compare a column with a constant?
//!
//! Called by all providers. A condition that is not recognised stays with DataFusion, so missing one costs time, never truth.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// `column op constant`.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison<'a> {
    /// The column's name.
    pub column: &'a str,
    /// How it is compared; the column stands on the left.
    pub operator: Operator,
    /// Never null.
    pub value: &'a ScalarValue,
}

/// Takes a condition apart if it compares a column with a constant.
#[must_use]
pub fn comparison(expr: &Expr) -> Option<Comparison<'_>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    let (column, operator, value) = match (&**left, &**right) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
        _ => return None,
    };
    (!value.is_null()).then_some(Comparison { column: &column.name, operator, value })
}

/// Takes a condition apart if it compares anything with a constant, which is never null.
#[must_use]
pub fn compared(expr: &Expr) -> Option<(&Expr, Operator, &ScalarValue)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    let (what, operator, value) = match (&**left, &**right) {
        (what, Expr::Literal(value, _)) => (what, *op, value),
        (Expr::Literal(value, _), what) => (what, op.swap()?, value),
        _ => return None,
    };
    (!value.is_null()).then_some((what, operator, value))
}

/// `column = 'a'`, `column IN ('a', 'b')`, or such joined by OR: the column and the texts.
#[must_use]
pub fn text_choice(expr: &Expr) -> Option<(&str, Vec<String>)> {
    match expr {
        Expr::InList(InList { expr, list, negated: false }) => {
            let Expr::Column(column) = &**expr else { return None };
            Some((&column.name, list.iter().map(literal_text).collect::<Option<_>>()?))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let ((column, mut texts), (other, more)) = (text_choice(left)?, text_choice(right)?);
            texts.extend(more);
            (column == other).then_some((column, texts))
        }
        _ => {
            let found = comparison(expr).filter(|found| found.operator == Operator::Eq)?;
            Some((found.column, vec![scalar_text(found.value)?]))
        }
    }
}

/// The text of a constant.
#[must_use]
pub fn literal_text(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Literal(value, _) => scalar_text(value),
        _ => None,
    }
}

fn scalar_text(value: &ScalarValue) -> Option<String> {
    value.try_as_str().flatten().map(str::to_owned)
}

/// A constant point in time, in microseconds; `None` for anything else and for finer times.
#[must_use]
pub fn micros(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::TimestampSecond(Some(at), _) => at.checked_mul(1_000_000),
        ScalarValue::TimestampMillisecond(Some(at), _) => at.checked_mul(1_000),
        ScalarValue::TimestampMicrosecond(Some(at), _) => Some(*at),
        ScalarValue::TimestampNanosecond(Some(at), _) if at % 1_000 == 0 => Some(at / 1_000),
        _ => None,
    }
}
