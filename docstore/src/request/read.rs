//! Reads the parts of a search request out of JSON values, with errors that say where in the request they are.
//!
//! serde calls the `TryFrom` implementations here while it deserializes a [`super::SearchRequest`].

use std::cell::Cell;
use std::ops::Bound;

use serde_json::{Map, Value};

use super::{
    FACET_SIZE_MAX, Facets, Fuzziness, HIGHLIGHT_CHARS_MAX, Highlight, Like, MoreLikeThis, MultiMatch, MultiMatchKind,
    QUERIES_MAX, Query, RangeValue, Sort, SortKey, Suggest, VALUES_MAX,
};
use crate::error::nearest;
use crate::mapping::scalar_text;
use crate::text::{DEPTH_MAX, Operator};

const KINDS: [&str; 19] = [
    "match",
    "match_phrase",
    "match_phrase_prefix",
    "multi_match",
    "match_all",
    "term",
    "terms",
    "ids",
    "range",
    "bool",
    "constant_score",
    "dis_max",
    "prefix",
    "wildcard",
    "regexp",
    "fuzzy",
    "exists",
    "query_string",
    "more_like_this",
];

type Parsed<T> = Result<T, String>;

impl TryFrom<Value> for Query {
    type Error = String;

    fn try_from(value: Value) -> Parsed<Self> {
        Depth { depth: 0, queries: &Cell::new(0) }.parse(&value, "query")
    }
}

/// How deep a query is in the request, and how many there were before it.
#[derive(Clone, Copy)]
struct Depth<'a> {
    depth: usize,
    queries: &'a Cell<usize>,
}

impl Depth<'_> {
    /// Reads a query that is this deep.
    fn parse(self, value: &Value, at: &str) -> Parsed<Query> {
        self.queries.set(self.queries.get() + 1);
        if self.queries.get() > QUERIES_MAX {
            return Err(format!(
                "{at}: more than {QUERIES_MAX} queries in one request; look for many values with `terms` or `ids`"
            ));
        }
        if self.depth > DEPTH_MAX {
            return Err(format!("{at}: queries nest deeper than {DEPTH_MAX} levels"));
        }
        parse_query(value, at, Self { depth: self.depth + 1, ..self })
    }

    fn list(self, value: Option<Value>, at: &str) -> Parsed<Vec<Query>> {
        match value {
            None => Ok(Vec::new()),
            Some(Value::Array(queries)) => {
                let numbered = queries.iter().enumerate();
                numbered.map(|(i, query)| self.parse(query, &format!("{at}[{i}]"))).collect()
            }
            Some(query) => Ok(vec![self.parse(&query, at)?]),
        }
    }
}

fn parse_query(value: &Value, at: &str, inner: Depth<'_>) -> Parsed<Query> {
    let (kind, body) = single(value, at, "a query is an object with one kind, such as {\"match\": {\"body\": \"crash\"}}")?;
    let at = format!("{at}.{kind}");
    match kind {
        "match_all" => {
            let mut options = Options::of(body, &at)?;
            options.boosted(Query::MatchAll, &[])
        }
        "bool" => parse_bool(body, &at, inner),
        "exists" => {
            let mut options = Options::of(body, &at)?;
            let field = options.text("field")?;
            options.boosted(Query::Exists { field }, &["field"])
        }
        "query_string" => parse_query_string(body, &at),
        "multi_match" => parse_multi_match(body, &at),
        "more_like_this" => parse_more_like_this(body, &at),
        "ids" => {
            let mut options = Options::of(body, &at)?;
            let values = options.map.remove("values").ok_or_else(|| format!("{at}: `values` is missing"))?;
            let list = values.as_array().filter(|values| values.len() <= VALUES_MAX);
            let texts: Option<Vec<String>> =
                list.and_then(|values| values.iter().map(|value| value.as_str().map(str::to_owned)).collect());
            let values = texts.ok_or_else(|| format!("{at}.values: needs a list of texts, at most {VALUES_MAX}"))?;
            options.boosted(Query::Ids { values }, &["values"])
        }
        "constant_score" => {
            let mut options = Options::of(body, &at)?;
            let filter = options.map.remove("filter").ok_or_else(|| format!("{at}: `filter` is missing"))?;
            let filter = Box::new(inner.parse(&filter, &format!("{at}.filter"))?);
            let boost = options.boost()?.unwrap_or(1.0);
            options.end(&["filter", "boost"])?;
            Ok(Query::ConstantScore { filter, boost })
        }
        "dis_max" => {
            let mut options = Options::of(body, &at)?;
            let queries = inner.list(options.map.remove("queries"), &format!("{at}.queries"))?;
            let tie_breaker = options.share("tie_breaker")?.unwrap_or(0.0);
            options.boosted(Query::DisMax { queries, tie_breaker }, &["queries", "tie_breaker"])
        }
        "terms" => {
            let mut options = Options::of(body, &at)?;
            let boost = options.boost()?;
            let (field, values) = single(&Value::Object(options.rest()), &at, "needs one field: {\"field\": [\"a\", \"b\"]}")
                .map(|(field, values)| (field.to_owned(), values.clone()))?;
            let values = values.as_array().filter(|values| values.len() <= VALUES_MAX);
            let values = values.ok_or_else(|| format!("{at}.{field}: needs a list of at most {VALUES_MAX} values"))?;
            let values = values.iter().map(|value| text_of(value, &at)).collect::<Parsed<_>>()?;
            Ok(boosted(Query::Terms { field, values }, boost))
        }
        "match" | "match_phrase" | "match_phrase_prefix" | "term" | "range" | "prefix" | "wildcard" | "regexp" | "fuzzy" => {
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
        ("match" | "match_phrase" | "match_phrase_prefix", value) if !value.is_object() => Some(("query", value)),
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
        "match_phrase_prefix" => {
            let query = options.text("query")?;
            options.boosted(Query::MatchPhrasePrefix { field, query }, &["query"])
        }
        "wildcard" => {
            let value = options.text("value")?;
            options.boosted(Query::Wildcard { field, value }, &["value"])
        }
        "regexp" => {
            let value = options.text("value")?;
            options.boosted(Query::Regexp { field, value }, &["value"])
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

fn parse_bool(body: &Value, at: &str, inner: Depth<'_>) -> Parsed<Query> {
    let mut options = Options::of(body, at)?;
    let mut clauses = |name: &str| inner.list(options.map.remove(name), &format!("{at}.{name}"));
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

fn parse_multi_match(body: &Value, at: &str) -> Parsed<Query> {
    const TYPES: [(&str, MultiMatchKind); 4] = [
        ("best_fields", MultiMatchKind::BestFields),
        ("most_fields", MultiMatchKind::MostFields),
        ("phrase", MultiMatchKind::Phrase),
        ("phrase_prefix", MultiMatchKind::PhrasePrefix),
    ];
    let mut options = Options::of(body, at)?;
    let query = options.text("query")?;
    let weighed = |name: String| match name.split_once('^') {
        None => Ok((name, 1.0)),
        Some((field, boost)) => match boost.parse::<f32>() {
            Ok(boost) if boost.is_finite() && boost >= 0.0 => Ok((field.to_owned(), boost)),
            _ => Err(format!("{at}.fields: `{name}` needs a number behind `^`, as in `title^2`")),
        },
    };
    let fields = options.map.remove("fields").map(|value| texts(&value, &format!("{at}.fields"))).transpose()?;
    let fields = fields.map(|fields| fields.into_iter().map(weighed).collect::<Parsed<_>>()).transpose()?;
    let kind = match options.map.remove("type") {
        None => MultiMatchKind::default(),
        Some(value) => {
            let kind = TYPES.iter().find(|(name, _)| value.as_str() == Some(name)).map(|(_, kind)| *kind);
            let known = TYPES.map(|(name, _)| name).join(", ");
            kind.ok_or_else(|| format!("{at}.type: needs one of {known}, not {value}"))?
        }
    };
    let operator = options.operator("operator")?;
    let fuzziness = options.fuzziness(Fuzziness::Edits(0))?;
    let slop = options.number("slop", 100)?.unwrap_or(0);
    let tie_breaker = options.share("tie_breaker")?.unwrap_or(0.0);
    let multi = MultiMatch { query, fields, kind, operator, fuzziness, slop, tie_breaker };
    options.boosted(Query::MultiMatch(multi), &["query", "fields", "type", "operator", "fuzziness", "slop", "tie_breaker"])
}

fn parse_more_like_this(body: &Value, at: &str) -> Parsed<Query> {
    const LIKES_MAX: usize = 100;
    let mut options = Options::of(body, at)?;
    let fields = options.map.remove("fields").map(|value| texts(&value, &format!("{at}.fields"))).transpose()?;
    let like = options.map.remove("like").ok_or_else(|| format!("{at}: `like` is missing"))?;
    let likes = match &like {
        Value::Array(likes) => likes.as_slice(),
        one => std::slice::from_ref(one),
    };
    let one = |like: &Value| match like {
        Value::String(text) => Some(Like::Text(text.clone())),
        Value::Object(members) if members.len() == 1 => Some(Like::Id(members.get("_id")?.as_str()?.to_owned())),
        _ => None,
    };
    let likes: Option<Vec<Like>> = likes.iter().map(one).collect();
    let like = likes.filter(|likes| (1..=LIKES_MAX).contains(&likes.len())).ok_or_else(|| {
        format!("{at}.like: needs a text, {{\"_id\": \"...\"}}, or a list of at most {LIKES_MAX} of them, not {like}")
    })?;
    let min_term_freq = options.number("min_term_freq", 1_000_000)?.unwrap_or(2);
    let min_doc_freq = u64::from(options.number("min_doc_freq", u32::MAX)?.unwrap_or(5));
    let max_query_terms = options.number("max_query_terms", 1000)?.unwrap_or(25) as usize;
    let like = MoreLikeThis { fields, like, min_term_freq, min_doc_freq, max_query_terms };
    options.boosted(Query::MoreLikeThis(like), &["fields", "like", "min_term_freq", "min_doc_freq", "max_query_terms"])
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
            Some(Value::Number(number)) => {
                let integer = number.as_i64().map(RangeValue::Integer);
                Ok(integer.or_else(|| number.as_f64().map(RangeValue::Number)))
            }
            Some(Value::String(text)) => Ok(Some(RangeValue::Text(text))),
            Some(other) => Err(format!("{}.{name}: needs a number or a string, not {other}", self.at)),
        }
    }

    /// A number from 0 to 1.
    fn share(&mut self, name: &str) -> Parsed<Option<f32>> {
        let Some(value) = self.map.remove(name) else { return Ok(None) };
        let share = serde_json::from_value::<f32>(value.clone()).ok().filter(|share| (0.0..=1.0).contains(share));
        share.map(Some).ok_or_else(|| format!("{}.{name}: needs a number from 0 to 1, not {value}", self.at))
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
        const KEYS_MAX: usize = 8;
        match &value {
            Value::Array(keys) if keys.len() > KEYS_MAX => Err(format!("sort: more than {KEYS_MAX} keys")),
            Value::Array(keys) => {
                keys.iter().enumerate().map(|(i, key)| sort_key(key, &format!("sort[{i}]"))).collect::<Parsed<_>>().map(Self)
            }
            key => Ok(Self(vec![sort_key(key, "sort")?])),
        }
    }
}

fn sort_key(value: &Value, at: &str) -> Parsed<SortKey> {
    const WHAT: &str = "needs `_score`, `_id` or a facet, as {\"facet\": \"asc\"}, {\"facet\": \"desc\"} or \
                        {\"facet\": {\"order\": \"desc\", \"missing\": \"_first\"}}";
    let key = |field: &str, descending: Option<bool>, missing_first: bool| {
        let descending = descending.unwrap_or(field == "_score");
        SortKey { field: field.to_owned(), descending, missing_first }
    };
    if let Value::String(field) = value {
        return Ok(key(field, None, false));
    }
    let (field, body) = single(value, at, WHAT)?;
    let at = format!("{at}.{field}");
    let order = |order: &Value| match order.as_str() {
        Some("asc") => Ok(false),
        Some("desc") => Ok(true),
        _ => Err(format!("{at}: needs \"asc\" or \"desc\", not {order}")),
    };
    if !body.is_object() {
        return Ok(key(field, Some(order(body)?), false));
    }
    let mut options = Options::of(body, &at)?;
    let descending = options.map.remove("order").map(|value| order(&value)).transpose()?;
    let missing_first = match options.map.remove("missing") {
        None => false,
        Some(value) => match value.as_str() {
            Some("_first") => true,
            Some("_last") => false,
            _ => return Err(format!("{at}.missing: needs \"_first\" or \"_last\", not {value}")),
        },
    };
    options.end(&["order", "missing"])?;
    Ok(key(field, descending, missing_first))
}

impl TryFrom<Value> for Suggest {
    type Error = String;

    fn try_from(value: Value) -> Parsed<Self> {
        let mut options = Options::of(&value, "suggest")?;
        let (text, field) = (options.text("text")?, options.text("field")?);
        let size = options.number("size", 100)?.unwrap_or(5) as usize;
        let max_edits = match options.number("max_edits", 2)?.unwrap_or(2) {
            0 => return Err("suggest.max_edits: needs 1 or 2, not 0".to_owned()),
            1 => 1,
            _ => 2,
        };
        let always = match options.map.remove("mode") {
            None => false,
            Some(value) => match value.as_str() {
                Some("missing") => false,
                Some("always") => true,
                _ => return Err(format!("suggest.mode: needs \"missing\" or \"always\", not {value}")),
            },
        };
        options.end(&["text", "field", "size", "max_edits", "mode"])?;
        Ok(Self { text, field, size, max_edits, always })
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
