//! Lookups in fields of a declared type: values and ranges, read as the documents' values were.
//!
//! [`super::Compiler`] comes here with the text or the bounds of a request; what can't be read as the type is an error that names
//! the field and an example.

use std::net::Ipv6Addr;
use std::ops::Bound;

use serde_json::Value;
use tantivy::query::{ConstScoreQuery, EmptyQuery, Occur, Query, RangeQuery, TermQuery};
use tantivy::schema::IndexRecordOption;
use tantivy::{DateTime, Term};

use super::boolean;
use crate::error::Error;
use crate::index::values::{self, Number};
use crate::index::{FacetFields, Typed};
use crate::request::RangeValue;

fn refuse(path: &str, kind: Typed, text: &str) -> Error {
    let example = match kind {
        Typed::Number { .. } => "a number such as `7` or `-0.5`",
        Typed::Date(_) => "a date such as `2024-03-01`, `2024-03-01T12:00:00Z`, or seconds or milliseconds since 1970",
        Typed::Boolean => "`true` or `false`",
        Typed::Ip(_) => "an address such as `10.0.0.7`, or a network such as `10.0.0.0/8`",
        Typed::Any { .. } | Typed::Keyword => "text",
    };
    Error::Request { at: format!("the value of `{path}`"), message: format!("`{text}` is not of its type; it needs {example}") }
}

/// Documents with this value.
pub(super) fn equals(path: &str, facet: FacetFields, text: &str) -> Result<Box<dyn Query>, Error> {
    let refused = || refuse(path, facet.typed, text);
    let same = |term: Term| range(Bound::Included(term.clone()), Bound::Included(term));
    Ok(match facet.typed {
        Typed::Number { integer, fraction, .. } => match Number::parse(text).ok_or_else(refused)? {
            Number::Integer(value) => same(Term::from_field_i64(integer, value)),
            Number::Fraction(value) => same(Term::from_field_f64(fraction, value)),
        },
        Typed::Date(date) => same(Term::from_field_date(date, values::date_text(text).ok_or_else(refused)?)),
        Typed::Boolean => {
            values::boolean(text).ok_or_else(refused)?;
            Box::new(TermQuery::new(Term::from_field_text(facet.keyword, text), IndexRecordOption::Basic))
        }
        Typed::Ip(field) => {
            let (first, last) = values::network(text).ok_or_else(refused)?;
            let term = |ip| Bound::Included(Term::from_field_ip_addr(field, ip));
            range(term(first), term(last))
        }
        Typed::Any { .. } | Typed::Keyword => same(Term::from_field_text(facet.keyword, text)),
    })
}

/// Documents with a value between two bounds; `None` where the type has no order of its own.
pub(super) fn between(
    path: &str,
    facet: FacetFields,
    lower: &Bound<RangeValue>,
    upper: &Bound<RangeValue>,
) -> Result<Option<Box<dyn Query>>, Error> {
    Ok(Some(match facet.typed {
        Typed::Any { .. } | Typed::Keyword => return Ok(None),
        Typed::Number { integer, fraction, .. } => {
            let number = |value: &RangeValue| match value {
                RangeValue::Integer(value) => Ok(Number::Integer(*value)),
                RangeValue::Number(value) => Ok(Number::from_float(*value)),
                RangeValue::Text(text) => Number::parse(text).ok_or_else(|| refuse(path, facet.typed, text)),
            };
            let (lower, upper) = (try_map(lower, number)?, try_map(upper, number)?);
            let mut clauses = Vec::new();
            if let Some((lower, upper)) = integers(&lower, &upper) {
                let term = |value| Bound::Included(Term::from_field_i64(integer, value));
                clauses.push((Occur::Should, range(term(lower), term(upper))));
            }
            if let Some((lower, upper)) = ordered(lower.map(Number::float), upper.map(Number::float)) {
                let term = |value| Term::from_field_f64(fraction, value);
                clauses.push((Occur::Should, range(lower.map(term), upper.map(term))));
            }
            boolean(clauses).map_or_else(|| Box::new(EmptyQuery) as Box<dyn Query>, without_own_score)
        }
        Typed::Date(field) => {
            let date = |value: &RangeValue| match value {
                RangeValue::Integer(millis) => values::typed_date(&Value::from(*millis)).ok_or_else(|| millis.to_string()),
                RangeValue::Number(number) => Err(number.to_string()),
                RangeValue::Text(text) => values::date_text(text).ok_or_else(|| text.clone()),
            };
            let date = |value: &RangeValue| date(value).map_err(|text| refuse(path, facet.typed, &text));
            let bounds: (Bound<DateTime>, Bound<DateTime>) = (try_map(lower, date)?, try_map(upper, date)?);
            between_terms(bounds, |value| Term::from_field_date(field, value))
        }
        Typed::Ip(field) => {
            let ip = |value: &RangeValue| match value {
                RangeValue::Text(text) => values::ip(text).ok_or_else(|| refuse(path, facet.typed, text)),
                RangeValue::Integer(number) => Err(refuse(path, facet.typed, &number.to_string())),
                RangeValue::Number(number) => Err(refuse(path, facet.typed, &number.to_string())),
            };
            let bounds: (Bound<Ipv6Addr>, Bound<Ipv6Addr>) = (try_map(lower, ip)?, try_map(upper, ip)?);
            between_terms(bounds, |value| Term::from_field_ip_addr(field, value))
        }
        Typed::Boolean => {
            let message = "booleans have no order; use `term` with true or false".to_owned();
            return Err(Error::Request { at: format!("the range of `{path}`"), message });
        }
    }))
}

/// The whole numbers between the bounds, both inclusive.
fn integers(lower: &Bound<Number>, upper: &Bound<Number>) -> Option<(i64, i64)> {
    let whole = |float: f64| match Number::from_float(float) {
        Number::Integer(integer) => integer,
        Number::Fraction(_) if float > 0.0 => i64::MAX,
        Number::Fraction(_) => i64::MIN,
    };
    let first = match lower {
        Bound::Unbounded => i64::MIN,
        Bound::Included(Number::Integer(value)) => *value,
        Bound::Excluded(Number::Integer(value)) => value.checked_add(1)?,
        Bound::Included(Number::Fraction(value)) | Bound::Excluded(Number::Fraction(value)) if *value >= 9.3e18 => return None,
        Bound::Included(Number::Fraction(value)) | Bound::Excluded(Number::Fraction(value)) => whole(value.ceil()),
    };
    let last = match upper {
        Bound::Unbounded => i64::MAX,
        Bound::Included(Number::Integer(value)) => *value,
        Bound::Excluded(Number::Integer(value)) => value.checked_sub(1)?,
        Bound::Included(Number::Fraction(value)) | Bound::Excluded(Number::Fraction(value)) if *value <= -9.3e18 => return None,
        Bound::Included(Number::Fraction(value)) | Bound::Excluded(Number::Fraction(value)) => whole(value.floor()),
    };
    (first <= last).then_some((first, last))
}

fn try_map<T>(bound: &Bound<RangeValue>, map: impl Fn(&RangeValue) -> Result<T, Error>) -> Result<Bound<T>, Error> {
    Ok(match bound {
        Bound::Included(value) => Bound::Included(map(value)?),
        Bound::Excluded(value) => Bound::Excluded(map(value)?),
        Bound::Unbounded => Bound::Unbounded,
    })
}

/// The bounds, unless nothing can lie between them.
fn ordered<T: PartialOrd>(lower: Bound<T>, upper: Bound<T>) -> Option<(Bound<T>, Bound<T>)> {
    let empty = match (&lower, &upper) {
        (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(lower) | Bound::Excluded(lower), Bound::Included(upper) | Bound::Excluded(upper)) => lower >= upper,
    };
    (!empty).then_some((lower, upper))
}

/// Values between two bounds, as terms.
pub(super) fn between_terms<T: PartialOrd>((lower, upper): (Bound<T>, Bound<T>), term: impl Fn(T) -> Term) -> Box<dyn Query> {
    match ordered(lower, upper) {
        Some((lower, upper)) => range(lower.map(&term), upper.map(&term)),
        None => Box::new(EmptyQuery),
    }
}

fn range(lower: Bound<Term>, upper: Bound<Term>) -> Box<dyn Query> {
    Box::new(RangeQuery::new(lower, upper))
}

/// One score, whichever of the clauses matches.
fn without_own_score(query: Box<dyn Query>) -> Box<dyn Query> {
    Box::new(ConstScoreQuery::new(query, 1.0))
}
