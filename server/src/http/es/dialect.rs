//! Elasticsearch's words where they are not ours: requests on the way in, documents and answers on the way out.
//!
//! The query language is the same as far as it goes; here is only what differs. What changes the meaning of a request and is not
//! known is refused by name.

use serde_json::{Map, Value, json};

use super::EsError;

/// Members of queries that say nothing about which documents match here.
const PASSED_OVER: [&str; 6] = ["_name", "lenient", "rewrite", "auto_generate_synonyms_phrase_query", "relation", "format"];
/// Members of a search request that say nothing about its answer here.
const REQUEST_PASSED_OVER: [&str; 5] = ["timeout", "track_scores", "profile", "terminate_after", "ext"];

/// Whether `name` is what `pattern` means, `*` standing for anything.
pub fn is_like(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(head) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let tail = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = name.find(piece) else { return false };
        name = &name[at + piece.len()..];
    }
    name.ends_with(tail)
}

/// A search request as it is understood: ours, and what is done with the answer.
pub struct Translated {
    /// The request for the database.
    pub request: Value,
    /// Which parts of the documents are shown.
    pub source: SourceFilter,
    /// Whether hits show their values of the sort.
    pub shows_sort: bool,
}

/// Turns a search request around.
///
/// # Errors
/// What is not supported, by name.
pub fn request(mut body: Map<String, Value>) -> Result<Translated, EsError> {
    let mut ours = Map::new();
    // Elasticsearch finds nothing where we would ask whether another field was meant.
    ours.insert("lenient".to_owned(), Value::Bool(true));
    let source = SourceFilter::read(body.remove("_source"))?;
    for name in REQUEST_PASSED_OVER {
        body.remove(name);
    }
    let mut shows_sort = false;
    for (name, value) in body {
        let (name, value) = match name.as_str() {
            "query" => ("query", query(value)),
            "sort" => {
                let sort = sort(value)?;
                shows_sort = !sort.as_array().is_some_and(Vec::is_empty);
                ("sort", sort)
            }
            "aggs" | "aggregations" => ("aggs", aggregations(value)),
            "highlight" => ("highlight", highlight(value)?),
            "suggest" => ("suggest", suggestions(value)?),
            "size" | "from" | "explain" | "search_after" => (name.as_str(), value),
            // Both are the offset of the record.
            "version" | "seq_no_primary_term" if value.is_boolean() => {
                let before = ours.get("version") == Some(&Value::Bool(true));
                ("version", Value::Bool(before || value == Value::Bool(true)))
            }
            // Totals are always exact.
            "track_total_hits" => continue,
            "stored_fields" if value == json!("_none_") || value == json!([]) => continue,
            other => return Err(EsError::unsupported(other)),
        };
        ours.insert(name.to_owned(), value);
    }
    if ours.get("sort").is_some_and(|sort| sort.as_array().is_some_and(Vec::is_empty)) {
        ours.remove("sort");
    }
    Ok(Translated { request: Value::Object(ours), source, shows_sort })
}

/// A query.
pub fn query(value: Value) -> Value {
    let Value::Object(members) = value else { return value };
    let one = |(kind, body): (String, Value)| match (kind.as_str(), body) {
        ("match_none", _) => ("ids".to_owned(), json!({"values": []})),
        ("bool" | "constant_score" | "dis_max", Value::Object(options)) => (kind, compound(options)),
        (
            "match" | "match_phrase" | "match_phrase_prefix" | "term" | "prefix" | "wildcard" | "regexp" | "fuzzy" | "range",
            body,
        ) => (kind, by_field(body)),
        (_, Value::Object(options)) => (kind, Value::Object(meaningful(options))),
        (_, body) => (kind, body),
    };
    Value::Object(members.into_iter().map(one).collect())
}

/// A query made of others.
fn compound(options: Map<String, Value>) -> Value {
    let one = |(name, value): (String, Value)| {
        let value = match (name.as_str(), value) {
            ("must" | "should" | "must_not" | "filter" | "queries", Value::Array(items)) => {
                items.into_iter().map(query).collect()
            }
            ("must" | "should" | "must_not" | "filter", one) => query(one),
            ("minimum_should_match", Value::String(text)) => text.parse::<u64>().map_or(Value::String(text), Value::from),
            (_, value) => value,
        };
        (name, value)
    };
    Value::Object(meaningful(options).into_iter().map(one).collect())
}

/// A query of the form `{field: options}`.
fn by_field(body: Value) -> Value {
    let Value::Object(fields) = body else { return body };
    let one = |(field, options)| match options {
        Value::Object(options) => (field, Value::Object(meaningful(options))),
        value => (field, value),
    };
    Value::Object(fields.into_iter().map(one).collect())
}

/// Without what says nothing here.
fn meaningful(options: Map<String, Value>) -> Map<String, Value> {
    let mut ours = Map::new();
    for (name, value) in options {
        match (name.as_str(), value) {
            (name, _) if PASSED_OVER.contains(&name) => {}
            ("case_insensitive", Value::Bool(false)) => {}
            ("default_field", Value::String(any)) if any == "*" => {}
            ("default_field", field) => {
                ours.insert("fields".to_owned(), json!([field]));
            }
            (_, value) => {
                ours.insert(name, value);
            }
        }
    }
    ours
}

fn sort(value: Value) -> Result<Value, EsError> {
    let keys = match value {
        Value::Array(keys) => keys,
        Value::Null => Vec::new(),
        key => vec![key],
    };
    let by = |field: &str| if matches!(field, "_doc" | "_shard_doc") { "_id".to_owned() } else { field.to_owned() };
    let keys = keys.into_iter().map(|key| match key {
        Value::String(text) => Ok(match text.split_once(':') {
            Some((field, order)) => json!({by(field): order}),
            None => json!(by(&text)),
        }),
        Value::Object(members) => {
            let mut ours = Map::new();
            for (field, mut options) in members {
                if let Value::Object(options) = &mut options {
                    for known in ["unmapped_type", "format", "numeric_type"] {
                        options.remove(known);
                    }
                    if let Some(unknown) = options.keys().find(|name| !matches!(name.as_str(), "order" | "missing")) {
                        return Err(EsError::unsupported(&format!("sort.{field}.{unknown}")));
                    }
                }
                ours.insert(by(&field), options);
            }
            Ok(Value::Object(ours))
        }
        other => Err(EsError::parsing(format!("sort: {other} is neither a field nor an object"))),
    });
    Ok(Value::Array(keys.collect::<Result<_, _>>()?))
}

/// Aggregations: the same, with intervals of the calendar where they are of a fixed length.
fn aggregations(value: Value) -> Value {
    let Value::Object(members) = value else { return value };
    let one = |(name, value): (String, Value)| {
        let value = match (name.as_str(), value) {
            ("date_histogram", Value::Object(options)) => date_histogram(options),
            (_, value) => aggregations(value),
        };
        (name, value)
    };
    Value::Object(members.into_iter().map(one).collect())
}

fn date_histogram(mut options: Map<String, Value>) -> Value {
    let fixed = match options.get("calendar_interval").and_then(Value::as_str) {
        Some("minute" | "1m") => Some("1m"),
        Some("hour" | "1h") => Some("1h"),
        Some("day" | "1d") => Some("1d"),
        _ => None,
    };
    if let Some(fixed) = fixed {
        options.remove("calendar_interval");
        options.insert("fixed_interval".to_owned(), json!(fixed));
    }
    for name in ["format", "time_zone"] {
        if matches!(options.get(name).and_then(Value::as_str), Some("UTC" | "Z" | "+00:00")) || name == "format" {
            options.remove(name);
        }
    }
    Value::Object(options)
}

fn highlight(value: Value) -> Result<Value, EsError> {
    let Value::Object(mut options) = value else { return Ok(value) };
    let fields = match options.remove("fields") {
        Some(Value::Object(fields)) => fields,
        Some(Value::Array(fields)) => fields
            .into_iter()
            .filter_map(|field| if let Value::Object(field) = field { Some(field) } else { None })
            .flatten()
            .collect(),
        _ => return Err(EsError::parsing("highlight: [fields] is missing")),
    };
    let sizes = fields.values().chain([&Value::Object(options.clone())]).find_map(|field| field["fragment_size"].as_u64());
    let tags = |name: &str, tag: &str| options.get(name).is_none_or(|tags| *tags == json!([tag]) || *tags == json!(tag));
    if !tags("pre_tags", "<em>") || !tags("post_tags", "</em>") {
        return Err(EsError::unsupported("highlight tags other than <em> and </em>"));
    }
    let names: Vec<&String> = fields.keys().collect();
    let mut ours = json!({"fields": names});
    if let Some(size) = sizes {
        ours["max_chars"] = json!(size);
    }
    Ok(ours)
}

/// `{"name": {"text": ..., "term": {"field": ...}}}`.
fn suggestions(value: Value) -> Result<Value, EsError> {
    let Value::Object(mut members) = value else { return Err(EsError::parsing("suggest: not an object")) };
    let common = members.remove("text");
    let mut ours = Map::new();
    for (name, one) in members {
        let text = one.get("text").or(common.as_ref()).cloned().unwrap_or_default();
        let term = one.get("term").ok_or_else(|| EsError::unsupported(&format!("suggest.{name}: other than [term]")))?;
        let mut our = json!({"text": text, "field": term["field"]});
        for (option, our_name) in [("size", "size"), ("max_edits", "max_edits")] {
            if let Some(value) = term.get(option) {
                our[our_name] = value.clone();
            }
        }
        if matches!(term["suggest_mode"].as_str(), Some("always" | "popular")) {
            our["mode"] = json!("always");
        }
        ours.insert(name, our);
    }
    Ok(Value::Object(ours))
}

/// Which parts of a document are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFilter {
    nothing: bool,
    includes: Vec<String>,
    excludes: Vec<String>,
}

impl SourceFilter {
    /// Reads `_source` of a body.
    ///
    /// # Errors
    /// When it is not one.
    pub fn read(value: Option<Value>) -> Result<Self, EsError> {
        let list = |value: Option<&Value>| match value {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(items)) => {
                let texts = items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
                texts.ok_or_else(|| EsError::parsing("_source: a path is not a string"))
            }
            Some(other) => Err(EsError::parsing(format!("_source: {other} is not a list of paths"))),
        };
        match value {
            None | Some(Value::Null | Value::Bool(true)) => Ok(Self::default()),
            Some(Value::Bool(false)) => Ok(Self { nothing: true, ..Self::default() }),
            Some(Value::Object(members)) => {
                let of = |long, short| list(members.get(long).or_else(|| members.get(short)));
                Ok(Self { nothing: false, includes: of("includes", "include")?, excludes: of("excludes", "exclude")? })
            }
            some => Ok(Self { nothing: false, includes: list(some.as_ref())?, excludes: Vec::new() }),
        }
    }

    /// Reads the parameters of a query string over what the body says.
    pub fn over(mut self, params: &super::Params) -> Self {
        let list = |text: &String| text.split(',').map(|path| path.trim().to_owned()).collect::<Vec<_>>();
        match params.get("_source").map(String::as_str) {
            None | Some("true" | "") => {}
            Some("false") => self.nothing = true,
            Some(paths) => self.includes = list(&paths.to_owned()),
        }
        if let Some(paths) = params.get("_source_includes") {
            self.includes = list(paths);
        }
        if let Some(paths) = params.get("_source_excludes") {
            self.excludes = list(paths);
        }
        self
    }

    /// Whether nothing is shown at all.
    pub const fn hides_all(&self) -> bool {
        self.nothing
    }

    /// Whether everything is shown.
    pub fn shows_all(&self) -> bool {
        *self == Self::default()
    }

    /// What is shown of a document.
    pub fn apply(&self, document: Value) -> Value {
        self.part(document, &mut String::new(), self.includes.is_empty()).unwrap_or_else(|| json!({}))
    }

    fn part(&self, value: Value, path: &mut String, included: bool) -> Option<Value> {
        match value {
            Value::Object(members) => {
                let mut kept = Map::new();
                for (name, member) in members {
                    let before = path.len();
                    if before > 0 {
                        path.push('.');
                    }
                    path.push_str(&name);
                    let excluded = self.excludes.iter().any(|pattern| is_like(pattern, path));
                    let included = included || self.includes.iter().any(|pattern| is_like(pattern, path));
                    if !excluded && let Some(member) = self.part(member, path, included) {
                        kept.insert(name, member);
                    }
                    path.truncate(before);
                }
                (included || !kept.is_empty()).then_some(Value::Object(kept))
            }
            Value::Array(items) if !included => {
                let items: Vec<Value> = items.into_iter().filter_map(|item| self.part(item, path, included)).collect();
                (!items.is_empty()).then_some(Value::Array(items))
            }
            Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(|item| self.part(item, path, true)).collect())),
            scalar => included.then_some(scalar),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_a_whole() {
        for (pattern, name, like) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*", "", true),
            ("*a*c", "bacbc", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(is_like(pattern, name), like, "{pattern} {name}");
        }
    }

    #[test]
    fn documents_are_cut_down_to_what_is_asked_for() {
        let document = json!({"a": {"b": 1, "c": [{"d": 2, "e": 3}]}, "f": 4});
        let show = |source: Value| SourceFilter::read(Some(source)).unwrap().apply(document.clone());
        assert_eq!(show(json!(true)), document);
        assert_eq!(show(json!(["a.b", "f"])), json!({"a": {"b": 1}, "f": 4}));
        assert_eq!(show(json!("a")), json!({"a": {"b": 1, "c": [{"d": 2, "e": 3}]}}));
        assert_eq!(show(json!({"includes": ["a.*"], "excludes": ["*.d"]})), json!({"a": {"b": 1, "c": [{"e": 3}]}}));
        assert_eq!(show(json!(["nothing"])), json!({}));
        assert!(SourceFilter::read(Some(json!(7))).is_err());
    }

    #[test]
    fn requests_are_turned_around_and_what_is_unknown_is_refused() {
        let of = |body: Value| request(body.as_object().unwrap().clone());
        let ours = of(json!({
            "query": {"bool": {"should": [{"match": {"a": {"query": "x", "lenient": true}}}], "minimum_should_match": "1"}},
            "sort": [{"n": {"order": "desc", "unmapped_type": "long"}}, "_doc", "_score"],
            "aggs": {"days": {"date_histogram": {"field": "at", "calendar_interval": "day"}}},
            "track_total_hits": true, "_source": ["a"]
        }))
        .unwrap();
        assert_eq!(
            ours.request,
            json!({
                "lenient": true,
                "query": {"bool": {"should": [{"match": {"a": {"query": "x"}}}], "minimum_should_match": 1}},
                "sort": [{"n": {"order": "desc"}}, "_id", "_score"],
                "aggs": {"days": {"date_histogram": {"field": "at", "fixed_interval": "1d"}}}
            })
        );
        assert!(ours.shows_sort);
        // Names of fields and values that look like words of the language stay.
        for kept in [json!({"term": {"format": "pdf"}}), json!({"bool": {"filter": {"range": {"format": {"gte": 1}}}}})] {
            assert_eq!(of(json!({"query": kept})).unwrap().request["query"], kept);
        }
        for body in [json!({"knn": {}}), json!({"collapse": {}}), json!({"sort": [{"a": {"mode": "min"}}]})] {
            assert!(of(body).is_err());
        }
    }
}
