//! A search request as it comes in JSON: Elasticsearch's words, strictly read.
//!
//! HTTP and SQL's `search()` deserialize a [`SearchRequest`]; [`crate::query`] compiles its [`Query`], [`crate::search`] runs it.
//! Whatever is unknown, misspelt or of the wrong type is refused with its place in the request and the words that exist.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::text::Operator;

mod read;

/// Hits that can be reached with `from` and `size`.
pub const HITS_MAX: usize = 10_000;
/// Queries in one request, inside one another and side by side.
pub const QUERIES_MAX: usize = 1024;
/// Values of one `terms` or `ids`.
pub const VALUES_MAX: usize = 65_536;
/// Entries of one facet.
pub const FACET_SIZE_MAX: usize = 10_000;
/// Characters of one highlight.
pub const HIGHLIGHT_CHARS_MAX: usize = 10_000;

/// A search request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchRequest {
    /// What to look for; everything by default.
    pub query: Query,
    /// Hits in the answer, at most [`HITS_MAX`] together with `from`; 10 by default, 0 for facets and aggregations alone.
    pub size: usize,
    /// Hits to leave out in front.
    pub from: usize,
    /// The order of the hits; none for the best first.
    pub sort: Sort,
    /// The `sort` of the hit that the page follows; needs `sort`, goes without `from`.
    pub search_after: Option<Vec<Value>>,
    /// Say how each score came about.
    pub explain: bool,
    /// Words of the index near words that are not in it, by name.
    pub suggest: BTreeMap<String, Suggest>,
    /// Only these paths of the documents; `None` for the documents as they came.
    pub fields: Option<Vec<String>>,
    /// Marked passages.
    pub highlight: Option<Highlight>,
    /// Counts of values.
    pub facets: Facets,
    /// Aggregations in Elasticsearch's words, by name.
    pub aggs: Map<String, Value>,
    /// Say with each hit the offset of the record that wrote it.
    pub version: bool,
    /// Queries of fields that nobody knows match nothing, instead of being refused.
    pub lenient: bool,
    /// A position to wait for: the caller's business, nothing here looks at it.
    pub wait: Option<String>,
    /// How long to wait: the caller's business.
    pub timeout_ms: Option<u64>,
}

impl Default for SearchRequest {
    fn default() -> Self {
        Self {
            query: Query::MatchAll,
            size: 10,
            from: 0,
            sort: Sort::default(),
            search_after: None,
            explain: false,
            suggest: BTreeMap::new(),
            fields: None,
            highlight: None,
            facets: Facets::default(),
            aggs: Map::new(),
            version: false,
            lenient: false,
            wait: None,
            timeout_ms: None,
        }
    }
}

/// The order of hits: by the first key, those that are equal by the next, at last by `_id`. With no keys the best come first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub struct Sort(pub Vec<SortKey>);

/// One key of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKey {
    /// A facet or typed field, `_score` or `_id`.
    pub field: String,
    /// Largest first.
    pub descending: bool,
    /// Documents without a value come first instead of last.
    pub missing_first: bool,
}

/// What to suggest words for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub struct Suggest {
    /// What was typed.
    pub text: String,
    /// The search field whose words are suggested.
    pub field: String,
    /// Words suggested for one that was typed.
    pub size: usize,
    /// How far they may be from it, 1 or 2.
    pub max_edits: u8,
    /// Suggest for words that are in the index too, what is more frequent there.
    pub always: bool,
}

/// Which fields to mark, and how long a passage may be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub struct Highlight {
    /// Search fields.
    pub fields: Vec<String>,
    /// Characters of one passage, at most [`HIGHLIGHT_CHARS_MAX`].
    pub max_chars: usize,
}

/// Which facets to count, and how many values of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub struct Facets(pub BTreeMap<String, usize>);

/// A query.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
#[allow(missing_docs, reason = "Elasticsearch's words; the fields are theirs too")]
pub enum Query {
    MatchAll,
    Match { field: String, query: String, operator: Operator, fuzziness: Fuzziness },
    MatchPhrase { field: String, query: String, slop: u32 },
    Term { field: String, value: String },
    Terms { field: String, values: Vec<String> },
    Range { field: String, lower: Bound<RangeValue>, upper: Bound<RangeValue> },
    Bool { must: Vec<Query>, should: Vec<Query>, must_not: Vec<Query>, filter: Vec<Query>, minimum_should_match: Option<usize> },
    Prefix { field: String, value: String },
    Fuzzy { field: String, value: String, fuzziness: Fuzziness },
    Exists { field: String },
    QueryString { query: String, fields: Option<Vec<String>>, default_operator: Operator },
    MultiMatch(MultiMatch),
    MatchPhrasePrefix { field: String, query: String },
    Wildcard { field: String, value: String },
    Regexp { field: String, value: String },
    Ids { values: Vec<String> },
    ConstantScore { filter: Box<Query>, boost: f32 },
    DisMax { queries: Vec<Query>, tie_breaker: f32 },
    MoreLikeThis(MoreLikeThis),
    Boost { query: Box<Query>, boost: f32 },
}

/// One text in several fields.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiMatch {
    /// The text.
    pub query: String,
    /// The fields and their weights; all search fields by default.
    pub fields: Option<Vec<(String, f32)>>,
    /// How the fields work together.
    pub kind: MultiMatchKind,
    /// Between the words of one field.
    pub operator: Operator,
    /// Edits a word may be away.
    pub fuzziness: Fuzziness,
    /// Of phrases.
    pub slop: u32,
    /// The share that fields besides the best add to a score.
    pub tie_breaker: f32,
}

/// How the fields of a [`MultiMatch`] work together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MultiMatchKind {
    /// The best field gives the score.
    #[default]
    BestFields,
    /// The scores of all fields add up.
    MostFields,
    /// As the best field, with phrases.
    Phrase,
    /// As the best field, with phrases whose last word is the beginning of one.
    PhrasePrefix,
}

/// Documents with the words that tell others apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoreLikeThis {
    /// Search fields; all of them by default.
    pub fields: Option<Vec<String>>,
    /// What to be like.
    pub like: Vec<Like>,
    /// Words that are rarer in `like` are left out.
    pub min_term_freq: u32,
    /// Words in fewer documents are left out.
    pub min_doc_freq: u64,
    /// Words to look up.
    pub max_query_terms: usize,
}

/// A text, or a document of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Like {
    Text(String),
    Id(String),
}

/// Edits a word may be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fuzziness {
    /// So many, 0 to 2.
    Edits(u8),
    /// None below three characters, one below six, otherwise two.
    Auto,
}

impl Fuzziness {
    /// The edits allowed for this word.
    #[must_use]
    pub fn edits(self, word: &str) -> u8 {
        match (self, word.chars().count()) {
            (Self::Edits(edits), _) => edits,
            (Self::Auto, 0..=2) => 0,
            (Self::Auto, 3..=5) => 1,
            (Self::Auto, _) => 2,
        }
    }
}

/// A bound of a range: numbers compare as numbers, text by its bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum RangeValue {
    /// Compares with the numbers of the field; whole ones of typed fields exactly.
    Integer(i64),
    /// Compares with the numbers of the field.
    Number(f64),
    /// Compares with all its values as text.
    Text(String),
}

impl RangeValue {
    /// The number, as a float.
    #[must_use]
    pub fn float(&self) -> Option<f64> {
        match self {
            Self::Integer(integer) => Value::from(*integer).as_f64(),
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(value: Value) -> Result<SearchRequest, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn query(value: Value) -> Result<Query, String> {
        request(json!({ "query": value })).map(|request| request.query)
    }

    #[test]
    fn short_and_long_forms_are_the_same() {
        assert_eq!(query(json!({"match": {"a": "x"}})), query(json!({"match": {"a": {"query": "x", "operator": "OR"}}})));
        assert_eq!(query(json!({"term": {"a": 1}})), query(json!({"term": {"a": {"value": "1"}}})));
        assert_eq!(query(json!({"bool": {"must": {"match_all": {}}}})), query(json!({"bool": {"must": [{"match_all": {}}]}})));
        assert_eq!(request(json!({})), Ok(SearchRequest::default()));
        assert_eq!(request(json!({"sort": [{"a": {"order": "desc"}}]})), request(json!({"sort": {"a": "desc"}})));
        assert_eq!(request(json!({"highlight": ["a"]})), request(json!({"highlight": {"fields": {"a": {}}, "max_chars": 160}})));
        assert_eq!(request(json!({"facets": ["a"]})), request(json!({"facets": {"a": 10}})));
        let boosted = query(json!({"terms": {"a": ["x"], "boost": 2}}));
        assert!(matches!(boosted, Ok(Query::Boost { boost, .. }) if (boost - 2.0).abs() < f32::EPSILON), "{boosted:?}");
    }

    #[test]
    fn refusals_name_the_place_and_what_there_is() {
        for (value, wanted) in [
            (json!({"query": {"mtach": {"a": "x"}}}), "query.mtach: unknown kind of query; did you mean `match`?"),
            (json!({"query": {"bool": {"must": [{"match_all": {}}, {"term": {}}]}}}), "query.bool.must[1].term: needs one field"),
            (
                json!({"query": {"match": {"a": {"query": "x", "operater": "and"}}}}),
                "unknown option `operater`; did you mean `operator`?",
            ),
            (json!({"query": {"match": {"a": {"query": "x", "fuzziness": 3}}}}), "fuzziness: needs 0, 1, 2 or \"AUTO\", not 3"),
            (json!({"query": {"range": {"a": {"gt": 1, "gte": 2}}}}), "query.range.a: give only one of gt and gte"),
            (json!({"query": {"term": {"a": [1]}}}), "query.term.a.value: needs a string, a number or a boolean"),
            (json!({"query": {}}), "query: a query is an object with one kind"),
            (json!({"sort": {"a": "up"}}), "sort.a: needs \"asc\" or \"desc\""),
            (
                json!({"sort": ["a", {"b": {"order": "asc", "mising": "_first"}}]}),
                "sort[1].b: unknown option `mising`; did you mean `missing`?",
            ),
            (json!({"sort": [{"b": {"missing": "0"}}]}), "sort[0].b.missing: needs \"_first\" or \"_last\""),
            (
                json!({"query": {"multi_match": {"query": "x", "type": "best"}}}),
                "query.multi_match.type: needs one of best_fields",
            ),
            (
                json!({"query": {"multi_match": {"query": "x", "fields": ["a^b"]}}}),
                "query.multi_match.fields: `a^b` needs a number",
            ),
            (
                json!({"query": {"dis_max": {"queries": [{"trem": {}}]}}}),
                "query.dis_max.queries[0].trem: unknown kind of query; did you mean `term`?",
            ),
            (json!({"query": {"constant_score": {}}}), "query.constant_score: `filter` is missing"),
            (json!({"query": {"ids": {"values": [1]}}}), "query.ids.values: needs a list of texts"),
            (json!({"query": {"more_like_this": {"like": [{"id": "a"}]}}}), "query.more_like_this.like: needs a text"),
            (json!({"suggest": {"a": {"field": "b"}}}), "suggest: `text` is missing"),
            (
                json!({"query": {"bool": {"should": vec![json!({"match_all": {}}); 10_000]}}}),
                "query.bool.should[1023]: more than 1024 queries",
            ),
            (json!({"facets": {"a": 0}}), "facets.a: needs a number of values"),
            (json!({"highlight": {"field": "a"}}), "highlight: `fields` is missing"),
            (json!({"siez": 3}), "unknown field `siez`, expected one of `query`, `size`"),
        ] {
            let error = request(value.clone()).expect_err("wrong");
            assert!(error.contains(wanted), "{value} gave: {error}");
        }
        let nested = (0..80).fold(json!({"match_all": {}}), |inner, _| json!({"bool": {"must": inner}}));
        assert!(query(nested).expect_err("too deep").contains("deeper than 64"));
    }
}
