//! Runs a search request: the hits with their documents and highlights, the total, facets and aggregations, in one pass.
//!
//! The catalog's owner calls [`search`] with the partitions of a table; it adds the cut and the time it took.
//!
//! # Invariants
//! - Hits are ordered as tantivy ranks them (BM25), ties by their place in the index; with a `sort`, as [`crate::sort`] says.
//! - Partitions make no difference: scores rest on the statistics of all of them, counts and aggregations are sums.
//! - Bounded: hits and their bytes, facet values, highlight characters, buckets and their memory have limits that answer with an error.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tantivy::aggregation::intermediate_agg_result::IntermediateAggregationResults;
use tantivy::collector::{Collector, Count, TopDocs};
use tantivy::columnar::StrColumn;
use tantivy::query::{Bm25StatisticsProvider, EnableScoring, Query};
use tantivy::schema::Field;
use tantivy::{DocAddress, Score, Searcher, Term};

use crate::aggregations::{self, Aggregator};
use crate::error::Error;
use crate::highlight::Highlighter;
use crate::index::Stored;
use crate::mapping::{scalar_text, split_path, visit_values};
use crate::query::{Compiler, Marks};
use crate::request::{self, Fuzziness, HITS_MAX, Highlight, SearchRequest};
use crate::sort::{Keys, SortCollector, Sorted, SortedHit};
use crate::suggest::{self, Suggestions};
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
    /// The offset of the record that wrote it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
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

/// What one pass over a part collected.
struct Found {
    hits: Vec<FoundHit>,
    total: u64,
    facets: Option<IntermediateAggregationResults>,
    aggs: Option<IntermediateAggregationResults>,
}

/// A hit before its document is read.
struct FoundHit {
    part: usize,
    score: Option<Score>,
    /// Its values of the order, where one was asked for.
    values: Vec<Sorted>,
    address: DocAddress,
}

/// One part of what is searched, and the request as it understands it.
struct Part<'a> {
    snapshot: &'a DocumentSnapshot,
    query: Box<dyn Query>,
    marks: Marks,
    facets: Option<Aggregator>,
    aggs: Option<Aggregator>,
    keys: Option<Keys>,
}

impl<'a> Part<'a> {
    /// Where `lenient`, what nobody knows matches nothing, is counted nowhere, and has no order.
    fn new(snapshot: &'a DocumentSnapshot, request: &SearchRequest, lenient: bool) -> Result<Self, Error> {
        let forgiving = |found: Result<Option<Aggregator>, Error>| match found {
            Err(Error::UnknownField { .. }) if lenient => Ok(None),
            found => found,
        };
        let mut compiler = Compiler::new(snapshot).lenient(lenient || request.lenient);
        let query = compiler.request(&request.query)?;
        let keys = (!request.sort.0.is_empty()).then(|| Keys::of(snapshot, &request.sort.0, lenient)).transpose()?;
        Ok(Self {
            snapshot,
            query,
            marks: compiler.into_marks(),
            facets: forgiving(aggregations::facets(snapshot, &request.facets))?,
            aggs: forgiving(aggregations::requested(snapshot, &request.aggs))?,
            keys,
        })
    }

    /// The parts, all of them. A path that was found in the documents of one of them is known to the others.
    fn all(snapshots: &'a [DocumentSnapshot], request: &SearchRequest) -> Result<Vec<Self>, Error> {
        let strict: Vec<_> = snapshots.iter().map(|snapshot| Self::new(snapshot, request, false)).collect();
        let is_known = strict.iter().any(Result::is_ok);
        let parts = strict.into_iter().zip(snapshots).map(|(part, snapshot)| match part {
            Err(Error::UnknownField { .. }) if is_known => Self::new(snapshot, request, true),
            part => part,
        });
        parts.collect()
    }

    fn collect(&self, number: usize, request: &SearchRequest, statistics: &dyn Bm25StatisticsProvider) -> Result<Found, Error> {
        let reach = request.from + request.size;
        let Some(keys) = &self.keys else {
            let top = (reach > 0).then(|| TopDocs::with_limit(reach).order_by_score());
            let hit = |(score, address)| FoundHit { part: number, score: Some(score), values: Vec::new(), address };
            return self.run(top, statistics, is_counted_apart(&request.query), hit);
        };
        let after = request.search_after.as_ref().map(|after| keys.read(after)).transpose()?;
        let top = (reach > 0).then(|| SortCollector { keys: keys.clone(), after, limit: reach });
        let hit = |(values, address): SortedHit| FoundHit { part: number, score: keys.score_of(&values), values, address };
        self.run(top, statistics, false, hit)
    }

    fn run<K: Send + 'static, C: Collector<Fruit = Vec<(K, DocAddress)>>>(
        &self,
        top: Option<C>,
        statistics: &dyn Bm25StatisticsProvider,
        counted_apart: bool,
        hit: impl Fn((K, DocAddress)) -> FoundHit,
    ) -> Result<Found, Error> {
        let (searcher, query) = (&self.snapshot.searcher, &*self.query);
        let facets = self.facets.as_ref().map(Aggregator::collector);
        let aggs = self.aggs.as_ref().map(Aggregator::collector);
        let (hits, total, facets, aggs) = match (top, facets, aggs) {
            // Without looking at every document, where the index knows the number.
            (None, None, None) => (None, searcher.search(query, &Count)?, None, None),
            (Some(top), None, None) if counted_apart => {
                let hits = searcher.search_with_statistics_provider(query, &top, statistics)?;
                (Some(hits), searcher.search(query, &Count)?, None, None)
            }
            (Some(top), None, None) => {
                let (hits, total) = searcher.search_with_statistics_provider(query, &(top, Count), statistics)?;
                (Some(hits), total, None, None)
            }
            (top, facets, aggs) => searcher.search_with_statistics_provider(query, &(top, Count, facets, aggs), statistics)?,
        };
        let hits = hits.unwrap_or_default().into_iter().map(hit).collect();
        Ok(Found { hits, total: total as u64, facets, aggs })
    }

    fn explain(&self, address: DocAddress, statistics: &dyn Bm25StatisticsProvider) -> Result<Value, Error> {
        let searcher = &self.snapshot.searcher;
        let weight = self.query.weight(EnableScoring::enabled_from_statistics_provider(statistics, searcher))?;
        let explanation = weight.explain(searcher.segment_reader(address.segment_ord), address.doc_id)?;
        serde_json::to_value(explanation).map_err(|error| Error::Request { at: "explain".to_owned(), message: error.to_string() })
    }

    fn highlighters(&mut self, highlight: &Highlight) -> Result<Vec<(String, Vec<String>, Highlighter)>, Error> {
        let make = |path: &String| {
            let marks = self.marks.remove(path).unwrap_or_default();
            let highlighter = self.snapshot.highlighter_of(path, marks, highlight.max_chars)?;
            Ok((path.clone(), split_path(path), highlighter))
        };
        highlight.fields.iter().map(make).collect()
    }
}

/// What scores rest on: the same for a document wherever it is.
struct Statistics<'a>(&'a [DocumentSnapshot]);

impl Statistics<'_> {
    fn sum(&self, of: impl Fn(&Searcher) -> tantivy::Result<u64>) -> tantivy::Result<u64> {
        self.0.iter().map(|snapshot| of(&snapshot.searcher)).sum()
    }
}

impl Bm25StatisticsProvider for Statistics<'_> {
    fn total_num_tokens(&self, field: Field) -> tantivy::Result<u64> {
        self.sum(|searcher| searcher.total_num_tokens(field))
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        self.sum(Bm25StatisticsProvider::total_num_docs)
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        self.sum(|searcher| Bm25StatisticsProvider::doc_freq(searcher, term))
    }
}

/// Runs a search request over the partitions of a table, as if they were one.
///
/// # Errors
/// What is wrong with the request, its query text or its fields; limits; a damaged index.
pub fn search(snapshots: &[DocumentSnapshot], request: &SearchRequest) -> Result<SearchResponse, Error> {
    check(request)?;
    let mut parts = Part::all(snapshots, request)?;
    let statistics = Statistics(snapshots);
    let (mut hits, mut total, mut facets, mut aggs) = (Vec::new(), 0, None, None);
    for (number, part) in parts.iter().enumerate() {
        let found = part.collect(number, request, &statistics)?;
        hits.extend(found.hits);
        total += found.total;
        aggregations::unite(&mut facets, found.facets)?;
        aggregations::unite(&mut aggs, found.aggs)?;
    }
    if parts.len() > 1 {
        // Equal ones stay in the order of their parts.
        hits.sort_by(|one, other| match &parts[one.part].keys {
            Some(keys) => keys.order(&one.values, &other.values),
            None => other.score.unwrap_or_default().total_cmp(&one.score.unwrap_or_default()),
        });
        hits.truncate(request.from + request.size);
    }
    hits.drain(..request.from.min(hits.len()));
    let hits = read(&mut parts, hits, request, &statistics)?;
    let result = |asked: Option<&Aggregator>, found: Option<IntermediateAggregationResults>| {
        asked.zip(found).map(|(aggregator, found)| aggregator.result(found)).transpose()
    };
    let facets = result(parts.iter().find_map(|part| part.facets.as_ref()), facets)?;
    let aggs = result(parts.iter().find_map(|part| part.aggs.as_ref()), aggs)?;
    Ok(SearchResponse {
        total,
        hits,
        facets: facets.as_ref().map(aggregations::facet_counts).transpose()?.unwrap_or_default(),
        aggs: aggs.as_ref().map(aggregations::to_value).transpose()?.unwrap_or_else(|| Value::Object(Map::new())),
        suggest: request
            .suggest
            .iter()
            .map(|(name, asked)| Ok((name.clone(), suggest::near(snapshots, asked)?)))
            .collect::<Result<_, Error>>()?,
    })
}

/// What no part has to look at to see that it is wrong.
fn check(request: &SearchRequest) -> Result<(), Error> {
    let reach = request.from.saturating_add(request.size);
    if reach > HITS_MAX {
        let hint = "narrow the query, or read the table with SQL";
        return Err(Error::TooLarge { what: format!("from + size = {reach}"), max: HITS_MAX, hint });
    }
    let message = match &request.search_after {
        Some(_) if request.sort.0.is_empty() => {
            "needs a `sort`, for example [\"_score\"]; each hit then has a `sort` of its own to give back"
        }
        Some(_) if request.from > 0 => "goes without `from`: the page begins behind that hit",
        _ => return Ok(()),
    };
    Err(Error::Request { at: "search_after".to_owned(), message: message.to_owned() })
}

/// Reads the documents of hits.
fn read(
    parts: &mut [Part<'_>],
    found: Vec<FoundHit>,
    request: &SearchRequest,
    statistics: &Statistics<'_>,
) -> Result<Vec<Hit>, Error> {
    let paths: Option<Vec<Vec<String>>> =
        request.fields.as_ref().map(|paths| paths.iter().map(|path| split_path(path)).collect());
    let mut highlighters = Vec::new();
    for part in parts.iter_mut() {
        highlighters.push(request.highlight.as_ref().map(|highlight| part.highlighters(highlight)).transpose()?);
    }
    let mut ids: Vec<Ids<'_>> = parts.iter().map(|part| Ids::new(part.snapshot)).collect();
    let (mut hits, mut bytes) = (Vec::with_capacity(found.len()), 0);
    for FoundHit { part: number, score, values, address } in found {
        let part = &parts[number];
        let mut stored = part.snapshot.stored(address)?;
        let id = stored.id.take();
        let (doc, highlight) = show(stored, paths.as_deref(), highlighters[number].as_deref_mut())?;
        bytes += doc.get().len();
        if bytes > RESPONSE_BYTES_MAX {
            let hint = "ask for fewer hits, or only for some `fields`";
            return Err(Error::TooLarge { what: "the bytes of the documents found".to_owned(), max: RESPONSE_BYTES_MAX, hint });
        }
        let explanation = request.explain.then(|| part.explain(address, statistics)).transpose()?;
        let id = id.map_or_else(|| ids[number].of(address), Ok)?;
        let sort = part.keys.is_some().then(|| values.iter().map(Sorted::to_json).collect());
        let version = request.version.then(|| part.snapshot.version(address)).transpose()?;
        hits.push(Hit { id, score, doc, highlight, version, sort, explanation });
    }
    Ok(hits)
}

impl DocumentSnapshot {
    /// Runs a search request over this one alone.
    ///
    /// # Errors
    /// As [`search`].
    pub fn search(&self, request: &SearchRequest) -> Result<SearchResponse, Error> {
        search(std::slice::from_ref(self), request)
    }

    /// How many documents match a query.
    ///
    /// # Errors
    /// What is wrong with the query or its fields; limits; a damaged index.
    pub fn count_matching(&self, query: &request::Query) -> Result<u64, Error> {
        let query = Compiler::new(self).request(query)?;
        Ok(self.searcher.search(&*query, &Count)? as u64)
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
