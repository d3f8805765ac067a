//! Reads the parts of a search request out of JSON values, with errors that say where in the request they are.
//!
//! serde calls the `TryFrom` implementations here while it deserializes a [`super::SearchRequest`].

use std::ops::Bound;

use serde_json::{Map, Value};

use super::{FACET_SIZE_MAX, Facets, Fuzziness, HIGHLIGHT_CHARS_MAX, Highlight, Query, RangeValue, Sort};
use crate::error::nearest;
use crate::mapping::scalar_text;
use crate::text::{DEPTH_MAX, Operator};

const KINDS: [&str; 11] =
    ["match", "match_phrase", "match_all", "term", "terms", "range", "bool", "prefix", "fuzzy", "exists", "query_string"];

type Parsed<T> = Result<T, String>;

impl TryFrom<Value> for Query {
    type Error = String;

    fn try_from(value: Value) -> Parsed<Self> {
        parse_query(&value, "query", 0)
    }
}

fn parse_query(value: &Value, at: &str, depth: usize) -> Parsed<Query> {
    if depth > DEPTH_MAX {
        return Err(format!("{at}: queries nest deeper than {DEPTH_MAX} levels"));
    }
    let (kind, body) = single(value, at, "a query is an object with one kind, such as {\"match\": {\"body\": \"crash\"}}")?;
    let at = format!("{at}.{kind}");
    match kind {
        "match_all" => {
            let mut options = Options::of(body, &at)?;
            options.boosted(Query::MatchAll, &[])
        }
        "bool" => parse_bool(body, &at, depth),
        "exists" => {
            let mut options = Options::of(body, &at)?;
            let field = options.text("field")?;
            options.boosted(Query::Exists { field }, &["field"])
        }
        "query_string" => parse_query_string(body, &at),
        "terms" => {
            let mut options = Options::of(body, &at)?;
            let boost = options.boost()?;
            let (field, values) = single(&Value::Object(options.rest()), &at, "needs one field: {\"field\": [\"a\", \"b\"]}")
                .map(|(field, values)| (field.to_owned(), values.clone()))?;
            let values = values.as_array().ok_or_else(|| format!("{at}.{field}: needs a list of values"))?;
            let values = values.iter().map(|value| text_of(value, &at)).collect::<Parsed<_>>()?;
            Ok(boosted(Query::Terms { field, values }, boost))
        }
        "match" | "match_phrase" | "term" | "range" | "prefix" | "fuzzy" => {
            let (field, body) = single(body, &at, "needs one field: {\"field\": ...}")?;
            parse_field_query(kind, field, body, &format!("{at}.{field}"))
        }
        unknown => {
            let hint = nearest(unknown, &KINDS).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            Err(format!("{at}: unknown kind of query; {hint}Known: {}", KINDS.join(", ")))
        }
    }
}

fn parse_field_query(kind: &str, field: &str, body: &Value, at: &str) -> Parsed<Query> {
    let field = field.to_owned();
    let short = match (kind, body) {
        ("range", _) => None,
        ("match" | "match_phrase", value) if !value.is_object() => Some(("query", value)),
        (_, value) if !value.is_object() => Some(("value", value)),
        _ => None,
    };
    let mut options = match short {
        Some((name, value)) => Options { map: Map::from_iter([(name.to_owned(), value.clone())]), at: at.to_owned() },
        None => Options::of(body, at)?,
    };
    match kind {
        "match" => {
            let query = options.text("query")?;
            let operator = options.operator("operator")?;
            let fuzziness = options.fuzziness(Fuzziness::Edits(0))?;
            options.boosted(Query::Match { field, query, operator, fuzziness }, &["query", "operator", "fuzziness"])
        }
        "match_phrase" => {
            let query = options.text("query")?;
            let slop = options.number("slop", 100)?.unwrap_or(0);
            options.boosted(Query::MatchPhrase { field, query, slop }, &["query", "slop"])
        }
        "term" => {
            let value = options.text("value")?;
            options.boosted(Query::Term { field, value }, &["value"])
        }
        "prefix" => {
            let value = options.text("value")?;
            options.boosted(Query::Prefix { field, value }, &["value"])
        }
        "fuzzy" => {
            let value = options.text("value")?;
            let fuzziness = options.fuzziness(Fuzziness::Auto)?;
            options.boosted(Query::Fuzzy { field, value, fuzziness }, &["value", "fuzziness"])
        }
        _ => {
            let (gt, gte) = (options.range_value("gt")?, options.range_value("gte")?);
            let (lt, lte) = (options.range_value("lt")?, options.range_value("lte")?);
            let bound = |exclusive: Option<RangeValue>, inclusive: Option<RangeValue>, names: &str| match (exclusive, inclusive) {
                (Some(_), Some(_)) => Err(format!("{at}: give only one of {names}")),
                (Some(value), None) => Ok(Bound::Excluded(value)),
                (None, Some(value)) => Ok(Bound::Included(value)),
                (None, None) => Ok(Bound::Unbounded),
            };
            let (lower, upper) = (bound(gt, gte, "gt and gte")?, bound(lt, lte, "lt and lte")?);
            options.boosted(Query::Range { field, lower, upper }, &["gt", "gte", "lt", "lte"])
        }
    }
}

fn parse_bool(body: &Value, at: &str, depth: usize) -> Parsed<Query> {
    let mut options = Options::of(body, at)?;
    let mut clauses = |name: &str| -> Parsed<Vec<Query>> {
        let at = format!("{at}.{name}");
        match options.map.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(queries)) => {
                let numbered = queries.iter().enumerate();
                numbered.map(|(i, query)| parse_query(query, &format!("{at}[{i}]"), depth + 1)).collect()
            }
            Some(query) => Ok(vec![parse_query(&query, &at, depth + 1)?]),
        }
    };
    let (must, should) = (clauses("must")?, clauses("should")?);
    let (must_not, filter) = (clauses("must_not")?, clauses("filter")?);
    let minimum_should_match = options.number("minimum_should_match", 1024)?;
    let minimum_should_match = minimum_should_match.map(|count| count as usize);
    let query = Query::Bool { must, should, must_not, filter, minimum_should_match };
    options.boosted(query, &["must", "should", "must_not", "filter", "minimum_should_match"])
}

fn parse_query_string(body: &Value, at: &str) -> Parsed<Query> {
    if let Value::String(query) = body {
        return Ok(Query::QueryString { query: query.clone(), fields: None, default_operator: Operator::Or });
    }
    let mut options = Options::of(body, at)?;
    let query = options.text("query")?;
    let fields = options.map.remove("fields").map(|value| texts(&value, &format!("{at}.fields"))).transpose()?;
    let default_operator = options.operator("default_operator")?;
    options.boosted(Query::QueryString { query, fields, default_operator }, &["query", "fields", "default_operator"])
}

fn boosted(query: Query, boost: Option<f32>) -> Query {
    match boost {
        Some(boost) => Query::Boost { query: Box::new(query), boost },
        None => query,
    }
}

/// The members of an object, taken one by one; whatever is left at the end is unknown.
struct Options {
    map: Map<String, Value>,
    at: String,
}

impl Options {
    fn of(value: &Value, at: &str) -> Parsed<Self> {
        let map = value.as_object().cloned().ok_or_else(|| format!("{at}: needs an object, not {value}"))?;
        Ok(Self { map, at: at.to_owned() })
    }

    fn rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.map)
    }

    fn text(&mut self, name: &str) -> Parsed<String> {
        let value = self.map.remove(name).ok_or_else(|| format!("{}: `{name}` is missing", self.at))?;
        text_of(&value, &format!("{}.{name}", self.at))
    }

    fn number(&mut self, name: &str, max: u32) -> Parsed<Option<u32>> {
        let Some(value) = self.map.remove(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= max);
        number.map(Some).ok_or_else(|| format!("{}.{name}: needs a whole number from 0 to {max}, not {value}", self.at))
    }

    fn operator(&mut self, name: &str) -> Parsed<Operator> {
        let Some(value) = self.map.remove(name) else { return Ok(Operator::Or) };
        match value.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("or") => Ok(Operator::Or),
            Some("and") => Ok(Operator::And),
            _ => Err(format!("{}.{name}: needs \"or\" or \"and\", not {value}", self.at)),
        }
    }

    fn fuzziness(&mut self, default: Fuzziness) -> Parsed<Fuzziness> {
        let Some(value) = self.map.remove("fuzziness") else { return Ok(default) };
        match scalar_text(&value).as_deref() {
            Some("0") => Ok(Fuzziness::Edits(0)),
            Some("1") => Ok(Fuzziness::Edits(1)),
            Some("2") => Ok(Fuzziness::Edits(2)),
            Some("AUTO" | "auto") => Ok(Fuzziness::Auto),
            _ => Err(format!("{}.fuzziness: needs 0, 1, 2 or \"AUTO\", not {value}", self.at)),
        }
    }

    fn range_value(&mut self, name: &str) -> Parsed<Option<RangeValue>> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => Ok(number.as_f64().map(RangeValue::Number)),
            Some(Value::String(text)) => Ok(Some(RangeValue::Text(text))),
            Some(other) => Err(format!("{}.{name}: needs a number or a string, not {other}", self.at)),
        }
    }

    fn boost(&mut self) -> Parsed<Option<f32>> {
        let Some(value) = self.map.remove("boost") else { return Ok(None) };
        let boost = serde_json::from_value::<f32>(value.clone()).ok().filter(|boost| boost.is_finite() && *boost >= 0.0);
        boost.map(Some).ok_or_else(|| format!("{}.boost: needs a number of at least 0, not {value}", self.at))
    }

    /// Takes `boost`, and refuses what is left.
    fn boosted(&mut self, query: Query, known: &[&str]) -> Parsed<Query> {
        let boost = self.boost()?;
        self.end(known)?;
        Ok(boosted(query, boost))
    }

    fn end(&self, known: &[&str]) -> Parsed<()> {
        let Some(unknown) = self.map.keys().next() else { return Ok(()) };
        let hint = nearest(unknown, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        Err(format!("{}: unknown option `{unknown}`{hint} Known: {}", self.at, known.join(", ")))
    }
}

fn single<'a>(value: &'a Value, at: &str, what: &str) -> Parsed<(&'a str, &'a Value)> {
    let mut members = value.as_object().into_iter().flatten();
    match (members.next(), members.next()) {
        (Some((name, body)), None) => Ok((name, body)),
        _ => Err(format!("{at}: {what}")),
    }
}

fn text_of(value: &Value, at: &str) -> Parsed<String> {
    let text = scalar_text(value).map(std::borrow::Cow::into_owned);
    text.ok_or_else(|| format!("{at}: needs a string, a number or a boolean, not {value}"))
}

fn texts(value: &Value, at: &str) -> Parsed<Vec<String>> {
    let list = value.as_array().and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    list.ok_or_else(|| format!("{at}: needs a list of field names, not {value}"))
}

impl TryFrom<Value> for Sort {
    type Error = String;

    fn try_from(value: Value) -> Parsed<Self> {
        const WHAT: &str = "needs \"_score\" or one facet, as {\"facet\": \"asc\"} or {\"facet\": \"desc\"}";
        let item = match &value {
            Value::Array(items) if items.len() == 1 => &items[0],
            other => other,
        };
        if let Value::String(name) = item {
            let facet = || Self::Facet { path: name.clone(), descending: false };
            return Ok(if name == "_score" { Self::Score } else { facet() });
        }
        let (path, order) = single(item, "sort", WHAT)?;
        let order = order.get("order").unwrap_or(order);
        let descending = match order.as_str() {
            Some("asc") => false,
            Some("desc") => true,
            _ => return Err(format!("sort.{path}: needs \"asc\" or \"desc\", not {order}")),
        };
        match (path, descending) {
            ("_score", true) => Ok(Self::Score),
            ("_score", false) => Err("sort._score: only \"desc\" is supported, the best first".to_owned()),
            _ => Ok(Self::Facet { path: path.to_owned(), descending }),
        }
    }
}

impl TryFrom<Value> for Highlight {
    type Error = String;

    fn try_from(value: Value) -> Parsed<Self> {
        const CHARS_DEFAULT: u32 = 160;
        let chars_max = u32::try_from(HIGHLIGHT_CHARS_MAX).expect("a small constant");
        let (fields, max_chars) = match &value {
            Value::Object(_) => {
                let mut options = Options::of(&value, "highlight")?;
                let fields = options.map.remove("fields").ok_or("highlight: `fields` is missing")?;
                let max_chars = options.number("max_chars", chars_max)?.unwrap_or(CHARS_DEFAULT);
                options.end(&["fields", "max_chars"])?;
                let fields = match fields {
                    Value::Object(fields) => fields.keys().cloned().collect(),
                    list => texts(&list, "highlight.fields")?,
                };
                (fields, max_chars)
            }
            list => (texts(list, "highlight")?, CHARS_DEFAULT),
        };
        Ok(Self { fields, max_chars: max_chars.max(1) as usize })
    }
}

impl TryFrom<Value> for Facets {
    type Error = String;

    fn try_from(value: Value) -> Parsed<Self> {
        const SIZE_DEFAULT: usize = 10;
        if let Value::Object(sizes) = &value {
            let size = |size: &Value| {
                size.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| (1..=FACET_SIZE_MAX).contains(size))
            };
            let sizes = sizes.iter().map(|(path, value)| match size(value) {
                Some(size) => Ok((path.clone(), size)),
                None => Err(format!("facets.{path}: needs a number of values from 1 to {FACET_SIZE_MAX}, not {value}")),
            });
            return sizes.collect::<Parsed<_>>().map(Self);
        }
        Ok(Self(texts(&value, "facets")?.into_iter().map(|path| (path, SIZE_DEFAULT)).collect()))
    }
}
