//! Aggregations and facet counts: the request's words with our field names, handed to tantivy with bounds on memory and buckets.
//!
//! [`crate::search`] runs them beside the hits. A facet is kept as text, numbers and dates at once; the kind of an aggregation says
//! which of them it reads.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tantivy::aggregation::agg_req::Aggregations;
use tantivy::aggregation::agg_result::AggregationResults;
use tantivy::aggregation::intermediate_agg_result::IntermediateAggregationResults;
use tantivy::aggregation::{AggContextParams, AggregationLimitsGuard, DistributedAggregationCollector};

use crate::error::{Error, nearest};
use crate::index::Typed;
use crate::request::{FACET_SIZE_MAX, Facets};
use crate::search::FacetCount;
use crate::table::DocumentSnapshot;

/// Memory of one request's aggregations.
pub(crate) const MEMORY_BYTES_MAX: usize = 64 << 20;
/// Buckets in one answer.
const BUCKETS_MAX: u32 = 65_000;
/// Distinct values a segment hands on: counts are exact up to here.
const SEGMENT_VALUES: usize = 65_000;
/// How deep aggregations may nest.
const DEPTH_MAX: usize = 8;

/// A kind of aggregation: its name, the form of a facet it reads (`k` text, `n` numbers, `d` dates), and its options besides
/// `field`. tantivy would pass over others without a word.
type Kind = (&'static str, char, &'static [&'static str]);

const GRID: &[&str] = &["interval", "offset", "min_doc_count", "hard_bounds", "extended_bounds", "keyed"];
const DATE_GRID: &[&str] = &["fixed_interval", "offset", "min_doc_count", "hard_bounds", "extended_bounds", "keyed"];

const KINDS: [Kind; 13] = [
    ("terms", 'k', &["size", "min_doc_count", "order", "missing", "include", "exclude"]),
    ("cardinality", 'k', &["missing"]),
    ("value_count", 'k', &["missing"]),
    ("histogram", 'n', GRID),
    ("range", 'n', &["ranges", "keyed"]),
    ("stats", 'n', &["missing"]),
    ("extended_stats", 'n', &["missing", "sigma"]),
    ("percentiles", 'n', &["percents", "keyed", "missing"]),
    ("avg", 'n', &["missing"]),
    ("min", 'n', &["missing"]),
    ("max", 'n', &["missing"]),
    ("sum", 'n', &["missing"]),
    ("date_histogram", 'd', DATE_GRID),
];

/// Aggregations of one part of what is searched.
pub(crate) struct Aggregator {
    request: Aggregations,
    context: AggContextParams,
}

impl Aggregator {
    fn new(snapshot: &DocumentSnapshot, request: Value) -> Result<Self, Error> {
        let request = serde_json::from_value(request).map_err(|error| Error::Aggregation { detail: error.to_string() })?;
        let limits = AggregationLimitsGuard::new(Some(MEMORY_BYTES_MAX as u64), Some(BUCKETS_MAX));
        Ok(Self { request, context: AggContextParams::new(limits, snapshot.shared.index.tokenizers().clone()) })
    }

    pub(crate) fn collector(&self) -> DistributedAggregationCollector {
        DistributedAggregationCollector::from_aggs(self.request.clone(), self.context.clone())
    }

    /// What the parts together come to.
    pub(crate) fn result(&self, found: IntermediateAggregationResults) -> Result<AggregationResults, Error> {
        Ok(found.into_final_result(self.request.clone(), self.context.limits.clone())?)
    }
}

/// Adds what another part found.
pub(crate) fn unite(
    all: &mut Option<IntermediateAggregationResults>,
    other: Option<IntermediateAggregationResults>,
) -> Result<(), Error> {
    match (all.as_mut(), other) {
        (Some(all), Some(other)) => all.merge_fruits(other)?,
        (None, Some(other)) => *all = Some(other),
        (_, None) => {}
    }
    Ok(())
}

/// A request's aggregations, `None` when there are none.
pub(crate) fn requested(snapshot: &DocumentSnapshot, aggregations: &Map<String, Value>) -> Result<Option<Aggregator>, Error> {
    if aggregations.is_empty() {
        return Ok(None);
    }
    Aggregator::new(snapshot, Value::Object(rewrite(snapshot, aggregations, "aggs", 0)?)).map(Some)
}

/// A request's facets, `None` when there are none.
pub(crate) fn facets(snapshot: &DocumentSnapshot, facets: &Facets) -> Result<Option<Aggregator>, Error> {
    if facets.0.is_empty() {
        return Ok(None);
    }
    let mut request = Map::new();
    for (path, size) in &facets.0 {
        let terms = json!({ "field": form_of(snapshot, path, 'k', "facets")?, "size": size, "segment_size": SEGMENT_VALUES });
        request.insert(path.clone(), json!({ "terms": terms }));
    }
    Aggregator::new(snapshot, Value::Object(request)).map(Some)
}

/// The counts of the facets, the most frequent value first.
pub(crate) fn facet_counts(results: &AggregationResults) -> Result<BTreeMap<String, Vec<FacetCount>>, Error> {
    let Value::Object(results) = to_value(results)? else { return Ok(BTreeMap::new()) };
    let mut facets = BTreeMap::new();
    for (path, result) in results {
        let buckets = result["buckets"].as_array().cloned().unwrap_or_default();
        let count = |bucket: &Value| FacetCount {
            value: match bucket.get("key_as_string").unwrap_or(&bucket["key"]) {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            },
            count: bucket["doc_count"].as_u64().unwrap_or_default(),
        };
        let mut counts: Vec<FacetCount> = buckets.iter().map(count).collect();
        counts.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        facets.insert(path, counts);
    }
    Ok(facets)
}

/// Results as JSON.
pub(crate) fn to_value(results: &AggregationResults) -> Result<Value, Error> {
    serde_json::to_value(results).map_err(|error| Error::Aggregation { detail: error.to_string() })
}

fn rewrite(
    snapshot: &DocumentSnapshot,
    aggregations: &Map<String, Value>,
    at: &str,
    depth: usize,
) -> Result<Map<String, Value>, Error> {
    let refuse = |at: String, message: String| Err(Error::Request { at, message });
    if depth == DEPTH_MAX {
        return refuse(at.to_owned(), format!("aggregations nest deeper than {DEPTH_MAX} levels"));
    }
    let mut rewritten = Map::new();
    for (name, body) in aggregations {
        let at = format!("{at}.{name}");
        let Some(body) = body.as_object() else {
            return refuse(at, format!("needs an object such as {{\"terms\": {{\"field\": ...}}}}, not {body}"));
        };
        let mut aggregation = Map::new();
        for (word, options) in body {
            if matches!(word.as_str(), "aggs" | "aggregations") {
                let Some(inner) = options.as_object() else { return refuse(at, format!("`{word}` needs an object")) };
                aggregation
                    .insert("aggs".to_owned(), Value::Object(rewrite(snapshot, inner, &format!("{at}.{word}"), depth + 1)?));
                continue;
            }
            let Some(kind) = KINDS.iter().find(|(kind, ..)| kind == word) else {
                let kinds: Vec<&str> = KINDS.iter().map(|(kind, ..)| *kind).collect();
                let hint = nearest(word, &kinds).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
                return refuse(at, format!("unknown kind of aggregation `{word}`; {hint}Known: {}", kinds.join(", ")));
            };
            aggregation.insert(word.clone(), rewrite_options(snapshot, *kind, options, &format!("{at}.{word}"))?);
        }
        if aggregation.keys().filter(|word| *word != "aggs").count() != 1 {
            return refuse(at, "needs exactly one kind of aggregation".to_owned());
        }
        rewritten.insert(name.clone(), Value::Object(aggregation));
    }
    Ok(rewritten)
}

/// The index field with the values of a path as text, numbers or dates.
fn form_of(snapshot: &DocumentSnapshot, path: &str, form: char, at: &str) -> Result<String, Error> {
    let fields = &snapshot.shared.fields;
    let path = snapshot.whole_values_of(path).unwrap_or(path);
    if fields.path(path).is_none() && snapshot.dynamic.paths.contains(path) {
        return Ok(format!("_dynamic.{path}"));
    }
    let facet = fields.facet(path)?;
    let there = match form {
        'n' => matches!(facet.typed, Typed::Any { .. } | Typed::Number { .. }),
        'd' => matches!(facet.typed, Typed::Any { .. } | Typed::Date(_)),
        _ => true,
    };
    if !there {
        let wanted = if form == 'n' { "numbers" } else { "dates" };
        let message = format!("`{path}` is a {} field; this aggregation needs {wanted}", facet.typed.name());
        return Err(Error::Request { at: at.to_owned(), message });
    }
    Ok(format!("{form}:{path}"))
}

fn rewrite_options(snapshot: &DocumentSnapshot, (kind, form, known): Kind, options: &Value, at: &str) -> Result<Value, Error> {
    let refuse = |message: String| Err(Error::Request { at: at.to_owned(), message });
    let Some(path) = options["field"].as_str() else {
        return refuse("`field` is missing; name a facet".to_owned());
    };
    let form = form_of(snapshot, path, form, at)?;
    let mut names = options.as_object().into_iter().flat_map(Map::keys);
    if let Some(unknown) = names.find(|name| *name != "field" && !known.contains(&name.as_str())) {
        let hint = nearest(unknown, known).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
        return refuse(format!("unknown option `{unknown}`; {hint}Known: field, {}", known.join(", ")));
    }
    let mut options = options.clone();
    options["field"] = Value::String(form);
    if kind == "terms" {
        match options.get("size").map(Value::as_u64) {
            None => {}
            Some(Some(size)) if (1..=FACET_SIZE_MAX as u64).contains(&size) => {}
            Some(_) => return refuse(format!("`size` needs a number from 1 to {FACET_SIZE_MAX}")),
        }
        options["segment_size"] = Value::from(SEGMENT_VALUES);
    }
    Ok(options)
}
