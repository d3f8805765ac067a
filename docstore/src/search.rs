//! Runs a search request: the hits with their documents and highlights, the total, facets and aggregations, in one pass.
//!
//! HTTP and SQL call [`DocumentSnapshot::search`]; the caller adds the cut and the time it took.
//!
//! # Invariants
//! - Hits are ordered as tantivy ranks them (BM25), ties by their place in the index; with a `sort`, as [`crate::sort`] says.
//! - Bounded: hits and their bytes, facet values, highlight characters, buckets and their memory have limits that answer with an error.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tantivy::aggregation::AggregationCollector;
use tantivy::collector::{Collector, Count, TopDocs};
use tantivy::columnar::StrColumn;
use tantivy::query::Query;
use tantivy::{DocAddress, Score};

use crate::aggregations;
use crate::error::Error;
use crate::highlight::Highlighter;
use crate::index::Stored;
use crate::mapping::{scalar_text, split_path, visit_values};
use crate::query::{Compiler, Marks};
use crate::request::{self, Fuzziness, HITS_MAX, Highlight, SearchRequest};
use crate::sort::{Keys, SortCollector, Sorted};
use crate::suggest::Suggestions;
use crate::table::{DocumentSnapshot, corrupt};
use crate::text::Operator;

/// Bytes of documents in one answer.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// The answer to a search request.
#[derive(Debug, Serialize)]
pub struct SearchResponse {
    /// Documents that match, not only those among the hits.
    pub total: u64,
    /// The hits asked for, in order.
    pub hits: Vec<Hit>,
    /// The most frequent values of each facet asked for.
    pub facets: BTreeMap<String, Vec<FacetCount>>,
    /// The aggregations asked for, as Elasticsearch answers them.
    pub aggs: Value,
    /// Words near those that were typed, where suggestions were asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub suggest: BTreeMap<String, Vec<Suggestions>>,
}

/// One document that matched.
#[derive(Debug, Serialize)]
pub struct Hit {
    /// Its id.
    #[serde(rename = "_id")]
    pub id: String,
    /// How well it matches; `None` when the hits are sorted, and not by the score.
    #[serde(rename = "_score")]
    pub score: Option<f32>,
    /// The document, as it came or with the paths asked for.
    pub doc: Box<RawValue>,
    /// Marked passages by field, where highlights were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highlight: Option<BTreeMap<String, Vec<String>>>,
    /// Its values of the sort and its id, for `search_after`; where a sort was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<Vec<Value>>,
    /// How its score came about, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Value>,
}

/// A value of a facet, and how many of the matching documents have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FacetCount {
    /// The value as text.
    pub value: String,
    /// Documents with it.
    pub count: u64,
}

/// What one pass over the index collected.
struct Found {
    hits: Vec<FoundHit>,
    total: u64,
    facets: BTreeMap<String, Vec<FacetCount>>,
    aggs: Value,
}

/// A hit before its document is read.
struct FoundHit {
    score: Option<Score>,
    sort: Option<Vec<Value>>,
    address: DocAddress,
}

type Aggregators = (Option<AggregationCollector>, Option<AggregationCollector>);

impl DocumentSnapshot {
    /// Runs a search request.
    ///
    /// # Errors
    /// What is wrong with the request, its query text or its fields; limits; a damaged index.
    pub fn search(&self, request: &SearchRequest) -> Result<SearchResponse, Error> {
        let reach = request.from.saturating_add(request.size);
        if reach > HITS_MAX {
            let hint = "narrow the query, or read the table with SQL";
            return Err(Error::TooLarge { what: format!("from + size = {reach}"), max: HITS_MAX, hint });
        }
        let mut compiler = Compiler::new(self).lenient(request.lenient);
        let query = compiler.request(&request.query)?;
        let mut highlighters = match &request.highlight {
            Some(highlight) => Some(self.highlighters(highlight, compiler.into_marks())?),
            None => None,
        };
        let facets = aggregations::facets(self, &request.facets)?;
        let aggs = aggregations::requested(self, &request.aggs)?;
        let found = self.collect(&*query, request, (facets, aggs))?;
        let paths: Option<Vec<Vec<String>>> =
            request.fields.as_ref().map(|paths| paths.iter().map(|path| split_path(path)).collect());
        let mut ids = Ids::new(self);
        let mut hits = Vec::with_capacity(found.hits.len());
        let mut bytes = 0;
        for FoundHit { score, sort, address } in found.hits {
            let mut stored = self.stored(address)?;
            let id = stored.id.take();
            let (doc, highlight) = show(stored, paths.as_deref(), highlighters.as_deref_mut())?;
            bytes += doc.get().len();
            if bytes > RESPONSE_BYTES_MAX {
                let hint = "ask for fewer hits, or only for some `fields`";
                return Err(Error::TooLarge {
                    what: "the bytes of the documents found".to_owned(),
                    max: RESPONSE_BYTES_MAX,
                    hint,
                });
            }
            let explanation = request.explain.then(|| self.explain(&*query, address)).transpose()?;
            let id = id.map_or_else(|| ids.of(address), Ok)?;
            hits.push(Hit { id, score, doc, highlight, sort, explanation });
        }
        let suggest = request.suggest.iter().map(|(name, suggest)| Ok((name.clone(), self.suggest(suggest)?)));
        let suggest = suggest.collect::<Result<_, Error>>()?;
        Ok(SearchResponse { total: found.total, hits, facets: found.facets, aggs: found.aggs, suggest })
    }

    /// How many documents match a query.
    ///
    /// # Errors
    /// What is wrong with the query or its fields; limits; a damaged index.
    pub fn count_matching(&self, query: &request::Query) -> Result<u64, Error> {
        let query = Compiler::new(self).request(query)?;
        Ok(self.searcher.search(&*query, &Count)? as u64)
    }

    fn explain(&self, query: &dyn Query, address: DocAddress) -> Result<Value, Error> {
        let explanation = query.explain(&self.searcher, address)?;
        serde_json::to_value(explanation).map_err(|error| Error::Request { at: "explain".to_owned(), message: error.to_string() })
    }

    fn highlighters(&self, highlight: &Highlight, mut marks: Marks) -> Result<Vec<(String, Vec<String>, Highlighter)>, Error> {
        let make = |path: &String| {
            let highlighter = self.highlighter_of(path, marks.remove(path).unwrap_or_default(), highlight.max_chars)?;
            Ok((path.clone(), split_path(path), highlighter))
        };
        highlight.fields.iter().map(make).collect()
    }

    fn collect(&self, query: &dyn Query, request: &SearchRequest, aggregators: Aggregators) -> Result<Found, Error> {
        if request.sort.0.is_empty() {
            if request.search_after.is_some() {
                let message = "needs a `sort`, for example [\"_score\"]; each hit then has a `sort` of its own to give back";
                return Err(Error::Request { at: "search_after".to_owned(), message: message.to_owned() });
            }
            let top = (request.size > 0).then(|| TopDocs::with_limit(request.size).and_offset(request.from).order_by_score());
            let by_score = |(score, address)| FoundHit { score: Some(score), sort: None, address };
            return self.run(query, top, aggregators, is_counted_apart(&request.query), by_score);
        }
        let keys = Keys::of(self, &request.sort.0)?;
        let after = request.search_after.as_ref().map(|after| keys.read(after)).transpose()?;
        if after.is_some() && request.from > 0 {
            let message = "goes without `from`: the page begins behind that hit";
            return Err(Error::Request { at: "search_after".to_owned(), message: message.to_owned() });
        }
        let limit = request.from + request.size;
        let top = (request.size > 0).then(|| SortCollector { keys: keys.clone(), after, limit });
        let mut found = self.run(query, top, aggregators, false, |(values, address)| FoundHit {
            score: keys.score_of(&values),
            sort: Some(values.iter().map(Sorted::to_json).collect()),
            address,
        })?;
        found.hits.drain(..request.from.min(found.hits.len()));
        Ok(found)
    }

    fn run<K: Send + 'static, C: Collector<Fruit = Vec<(K, DocAddress)>>>(
        &self,
        query: &dyn Query,
        top: Option<C>,
        (facets, aggs): Aggregators,
        counted_apart: bool,
        hit: impl Fn((K, DocAddress)) -> FoundHit,
    ) -> Result<Found, Error> {
        let (hits, total, facets, aggs) = match (top, facets, aggs) {
            // Without looking at every document, where the index knows the number.
            (None, None, None) => (None, self.searcher.search(query, &Count)?, None, None),
            (Some(top), None, None) if counted_apart => {
                (Some(self.searcher.search(query, &top)?), self.searcher.search(query, &Count)?, None, None)
            }
            (Some(top), None, None) => {
                let (hits, total) = self.searcher.search(query, &(top, Count))?;
                (Some(hits), total, None, None)
            }
            (top, facets, aggs) => self.searcher.search(query, &(top, Count, facets, aggs))?,
        };
        Ok(Found {
            hits: hits.unwrap_or_default().into_iter().map(hit).collect(),
            total: total as u64,
            facets: facets.as_ref().map(aggregations::facet_counts).transpose()?.unwrap_or_default(),
            aggs: aggs.as_ref().map(aggregations::to_value).transpose()?.unwrap_or_else(|| Value::Object(Map::new())),
        })
    }
}

/// Whether a query's best hits are found without scoring most documents, so that counting them in a second pass costs less: words
/// of which any will do. Others are looked at one by one anyway.
fn is_counted_apart(query: &request::Query) -> bool {
    matches!(
        query,
        request::Query::Match { operator: Operator::Or, fuzziness: Fuzziness::Edits(0), .. } | request::Query::Term { .. }
    )
}

/// The document of a hit as it is shown, with its highlights.
#[allow(clippy::type_complexity, reason = "a pair that goes into a hit at once")]
fn show(
    stored: Stored,
    paths: Option<&[Vec<String>]>,
    highlighters: Option<&mut [(String, Vec<String>, Highlighter)]>,
) -> Result<(Box<RawValue>, Option<BTreeMap<String, Vec<String>>>), Error> {
    let json = String::from_utf8(stored.source()?).map_err(|_| corrupt("a document that is not UTF-8"))?;
    let value = match (paths, &highlighters) {
        (None, None) => Value::Null,
        _ => serde_json::from_str(&json).map_err(|_| corrupt("a document that is not JSON"))?,
    };
    let highlight = highlighters.map(|highlighters| {
        let mut passages = BTreeMap::new();
        for (name, path, highlighter) in highlighters {
            let mut of_field = Vec::new();
            visit_values(&value, path, &mut |scalar| {
                of_field.extend(scalar_text(scalar).into_iter().flat_map(|text| highlighter.passages(&text)));
            });
            if !of_field.is_empty() {
                passages.insert(name.clone(), of_field);
            }
        }
        passages
    });
    let json = match paths {
        None => json,
        Some(paths) => {
            only(&value, &paths.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap_or_else(|| Map::new().into()).to_string()
        }
    };
    let doc = RawValue::from_string(json).map_err(|_| corrupt("a document that is not JSON"))?;
    Ok((doc, highlight))
}

/// The parts of a document under some paths, in their places; arrays are looked through.
fn only(value: &Value, paths: &[&[String]]) -> Option<Value> {
    if paths.iter().any(|path| path.is_empty()) {
        return Some(value.clone());
    }
    match value {
        Value::Array(items) => {
            let items: Vec<Value> = items.iter().filter_map(|item| only(item, paths)).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::Object(members) => {
            let mut kept = Map::new();
            for (name, member) in members {
                let inner: Vec<&[String]> = paths.iter().filter(|path| path[0] == *name).map(|path| &path[1..]).collect();
                if !inner.is_empty()
                    && let Some(member) = only(member, &inner)
                {
                    kept.insert(name.clone(), member);
                }
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        _ => None,
    }
}

/// Reads ids from their column, opened once per segment.
struct Ids<'a> {
    snapshot: &'a DocumentSnapshot,
    columns: BTreeMap<u32, StrColumn>,
}

impl<'a> Ids<'a> {
    fn new(snapshot: &'a DocumentSnapshot) -> Self {
        Self { snapshot, columns: BTreeMap::new() }
    }

    fn of(&mut self, address: DocAddress) -> Result<String, Error> {
        let missing = || corrupt("a document without an id");
        let column = match self.columns.entry(address.segment_ord) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let segment = self.snapshot.searcher.segment_reader(address.segment_ord);
                entry.insert(segment.fast_fields().str("_id")?.ok_or_else(missing)?)
            }
        };
        let ordinal = column.term_ords(address.doc_id).next().ok_or_else(missing)?;
        let mut id = String::new();
        if column.ord_to_str(ordinal, &mut id)? { Ok(id) } else { Err(missing()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keeps_the_paths_asked_for() {
        let doc = serde_json::json!({"a": {"b": 1, "c": 2}, "d": [{"e": 1, "f": 2}, {"f": 3}], "g": null});
        let pick = |paths: &[&str]| {
            let paths: Vec<Vec<String>> = paths.iter().map(|path| split_path(path)).collect();
            only(&doc, &paths.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        assert_eq!(pick(&["a.b", "d.e"]), Some(serde_json::json!({"a": {"b": 1}, "d": [{"e": 1}]})));
        assert_eq!(pick(&["a", "a.b", "g"]), Some(serde_json::json!({"a": {"b": 1, "c": 2}, "g": null})));
        assert_eq!(pick(&["x", "a.x"]), None);
    }
}
