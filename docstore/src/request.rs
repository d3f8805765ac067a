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
    /// The order of the hits.
    pub sort: Sort,
    /// Only these paths of the documents; `None` for the documents as they came.
    pub fields: Option<Vec<String>>,
    /// Marked passages.
    pub highlight: Option<Highlight>,
    /// Counts of values.
    pub facets: Facets,
    /// Aggregations in Elasticsearch's words, by name.
    pub aggs: Map<String, Value>,
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
            sort: Sort::Score,
            fields: None,
            highlight: None,
            facets: Facets::default(),
            aggs: Map::new(),
            wait: None,
            timeout_ms: None,
        }
    }
}

/// The order of hits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub enum Sort {
    /// The best first.
    #[default]
    Score,
    /// By a facet: its numbers, then its texts; documents without a value last.
    Facet {
        /// The facet's path.
        path: String,
        /// Largest first.
        descending: bool,
    },
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
    Boost { query: Box<Query>, boost: f32 },
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
    /// Compares with the numbers of the facet.
    Number(f64),
    /// Compares with all its values as text.
    Text(String),
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
