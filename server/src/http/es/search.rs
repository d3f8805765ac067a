//! `_search`, `_msearch`, `_count` and scrolling.
//!
//! A scroll is no state of the server: its id says the request and the hit that the next page follows. Each page sees the newest
//! state, so what is written meanwhile may be in it.

use std::time::Instant;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use router::{Cut, Hit, SearchResponse};
use serde_json::{Map, Value, json};

use super::dialect::{self, SourceFilter, Translated};
use super::{Answer, App, DEPTH_MAX, EsError, Params, answer, deadline, flag, json_of, one_index};
use crate::http::body;

/// Searches of one `_msearch`.
const SEARCHES_MAX: usize = 1_000;

/// `GET, POST /es/{index}/_search`.
pub async fn run(State(app): State<App>, Path(index): Path<String>, params: Params, request: Request) -> Answer {
    let Value::Object(mut body) = json_of(&app, request).await? else { return Err(EsError::parsing("not an object")) };
    over(&mut body, &params)?;
    if let Some(keep) = params.get("scroll") {
        super::milliseconds(keep)?;
        if body.get("sort").is_none_or(|sort| *sort == json!(["_doc"]) || *sort == json!("_doc")) {
            body.insert("sort".to_owned(), json!(["_id"]));
        }
        return page(&app, &index, body, &params).await;
    }
    Ok(answer(StatusCode::OK, &search(&app, &index, body, &params).await?))
}

/// What the query string says besides the body.
fn over(body: &mut Map<String, Value>, params: &Params) -> Result<(), EsError> {
    for name in ["size", "from"] {
        if let Some(text) = params.get(name) {
            let number: u64 = text.parse().map_err(|_| EsError::invalid(format!("[{name}] is not a number: [{text}]")))?;
            body.insert(name.to_owned(), json!(number));
        }
    }
    if let Some(sort) = params.get("sort") {
        body.insert("sort".to_owned(), sort.split(',').map(Value::from).collect());
    }
    if let Some(text) = params.get("q") {
        let mut query = json!({"query": text});
        if let Some(field) = params.get("df") {
            query["fields"] = json!([field]);
        }
        if let Some(operator) = params.get("default_operator") {
            query["default_operator"] = json!(operator.to_lowercase());
        }
        body.insert("query".to_owned(), json!({"query_string": query}));
    }
    if flag(params, "typed_keys") {
        return Err(EsError::unsupported("typed_keys"));
    }
    Ok(())
}

async fn search(app: &App, index: &str, body: Map<String, Value>, params: &Params) -> Result<Value, EsError> {
    let index = one_index(app, index)?;
    let started = Instant::now();
    let Translated { request, source, shows_sort } = dialect::request(body)?;
    let shown = Shown {
        index: index.clone(),
        source: source.over(params),
        shows_sort,
        total_as_number: flag(params, "rest_total_hits_as_int"),
        started,
    };
    let (deadline, now) = (deadline(app, params)?, Cut::new());
    let found = app.database.search(&index, request, &now, deadline.at, move |response| Ok(shown.answer(response)));
    Ok(found.await.map_err(|error| EsError::from(error).of(&index))?.0)
}

/// How hits are shown.
struct Shown {
    index: String,
    source: SourceFilter,
    shows_sort: bool,
    total_as_number: bool,
    started: Instant,
}

impl Shown {
    fn answer(&self, response: SearchResponse) -> Value {
        let total = if self.total_as_number { json!(response.total) } else { json!({"value": response.total, "relation": "eq"}) };
        let best = response.hits.iter().filter_map(|hit| hit.score).reduce(f32::max);
        let hits: Vec<Value> = response.hits.into_iter().map(|hit| self.hit(hit)).collect();
        let mut answer = json!({
            "took": u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "timed_out": false,
            "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
            "hits": {"total": total, "max_score": best, "hits": hits},
        });
        if response.aggs.as_object().is_some_and(|aggs| !aggs.is_empty()) {
            answer["aggregations"] = response.aggs;
        }
        if !response.suggest.is_empty() {
            let suggest = response.suggest.into_iter().map(|(name, words)| {
                let words: Vec<Value> = words
                    .into_iter()
                    .map(|word| {
                        let option = |option: router::Suggestion| {
                            // As Elasticsearch does: one less for each edit, as a share of the word.
                            let length = option.text.chars().count().max(1);
                            let edits = u32::try_from(option.edits).unwrap_or(u32::MAX);
                            let score = 1.0 - f64::from(edits) / f64::from(u32::try_from(length).unwrap_or(u32::MAX));
                            json!({"text": option.text, "score": score, "freq": option.freq})
                        };
                        let options: Vec<Value> = word.options.into_iter().map(option).collect();
                        json!({"text": word.text, "offset": word.offset, "length": word.text.len(), "options": options})
                    })
                    .collect();
                (name, json!(words))
            });
            answer["suggest"] = Value::Object(suggest.collect());
        }
        answer
    }

    fn hit(&self, hit: Hit) -> Value {
        let mut shown = json!({"_index": self.index, "_id": hit.id, "_score": hit.score});
        if !self.source.hides_all() {
            let document = serde_json::from_str(hit.doc.get()).unwrap_or_default();
            shown["_source"] = if self.source.shows_all() { document } else { self.source.apply(document) };
        }
        if let Some(version) = hit.version {
            shown["_version"] = json!(version);
            shown["_seq_no"] = json!(version);
            shown["_primary_term"] = json!(1);
        }
        if let Some(highlight) = hit.highlight {
            shown["highlight"] = json!(highlight);
        }
        if let Some(sort) = hit.sort.filter(|_| self.shows_sort) {
            shown["sort"] = json!(sort);
        }
        if let Some(explanation) = hit.explanation {
            shown["_explanation"] = explanation;
        }
        shown
    }
}

/// `GET, POST /es/_msearch`: a line that says where and one that says what, again and again.
pub async fn run_many(State(app): State<App>, index: Option<Path<String>>, params: Params, request: Request) -> Answer {
    let started = Instant::now();
    let (parts, content) = request.into_parts();
    body::media_type(&parts.headers)?;
    let bytes = body::read_whole(&parts.headers, content, app.limits.body_bytes_max).await?;
    let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let mut responses = Vec::new();
    while let Some(head) = lines.next() {
        let head: Value = body::parse_json(head, DEPTH_MAX)?;
        let body = lines.next().ok_or_else(|| EsError::parsing("a search is missing behind the last line"))?;
        let body: Map<String, Value> = body::parse_json(body, DEPTH_MAX)?;
        if responses.len() == SEARCHES_MAX {
            return Err(EsError::invalid(format!("more than {SEARCHES_MAX} searches in one request")));
        }
        let of = match &head["index"] {
            Value::String(index) => Some(index.clone()),
            Value::Array(names) => Some(names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
            _ => index.as_ref().map(|Path(index)| index.clone()),
        };
        let of = of.ok_or_else(|| EsError::parsing("[index] is missing"))?;
        responses.push(match search(&app, &of, body, &params).await {
            Ok(mut found) => {
                found["status"] = json!(200);
                found
            }
            Err(error) => error.to_json(),
        });
    }
    let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(answer(StatusCode::OK, &json!({"took": took, "responses": responses})))
}

/// `GET, POST /es/{index}/_count`.
pub async fn count(State(app): State<App>, Path(index): Path<String>, params: Params, request: Request) -> Answer {
    let Value::Object(mut body) = json_of(&app, request).await? else { return Err(EsError::parsing("not an object")) };
    let index = one_index(&app, &index)?;
    over(&mut body, &params)?;
    body.retain(|name, _| name != "size" && name != "from" && name != "sort");
    if let Some(unknown) = body.keys().find(|name| *name != "query") {
        return Err(EsError::unsupported(unknown));
    }
    let Translated { mut request, .. } = dialect::request(body)?;
    request["size"] = json!(0);
    let (deadline, now) = (deadline(&app, &params)?, Cut::new());
    let total = app.database.search(&index, request, &now, deadline.at, |response| Ok(response.total));
    let (total, _) = total.await.map_err(|error| EsError::from(error).of(&index))?;
    let shards = json!({"total": 1, "successful": 1, "skipped": 0, "failed": 0});
    Ok(answer(StatusCode::OK, &json!({"count": total, "_shards": shards})))
}

/// One page of a scroll, with the id of the next.
async fn page(app: &App, index: &str, body: Map<String, Value>, params: &Params) -> Answer {
    if body.get("from").is_some_and(|from| *from != json!(0)) {
        return Err(EsError::invalid("using [from] is not allowed in a scroll context"));
    }
    let mut found = search(app, index, body.clone(), params).await?;
    let last = found["hits"]["hits"].as_array().and_then(|hits| hits.last()).map(|hit| hit["sort"].clone());
    // Past the end there is nothing: the next page begins where this one did.
    let after = last.or_else(|| body.get("search_after").cloned());
    let mut next = body;
    if let Some(after) = after {
        next.insert("search_after".to_owned(), after);
    }
    let id = json!({"index": index, "body": next}).to_string();
    found["_scroll_id"] = json!(BASE64_URL_SAFE_NO_PAD.encode(id));
    Ok(answer(StatusCode::OK, &found))
}

/// `GET, POST /es/_search/scroll`: the next page.
pub async fn scroll(State(app): State<App>, params: Params, request: Request) -> Answer {
    let body = json_of(&app, request).await?;
    let id = body["scroll_id"].as_str().or_else(|| params.get("scroll_id").map(String::as_str)).unwrap_or_default();
    let read = || -> Option<(String, Map<String, Value>)> {
        let mut next: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(id).ok()?).ok()?;
        let index = next["index"].as_str()?.to_owned();
        let Value::Object(body) = next["body"].take() else { return None };
        Some((index, body))
    };
    let (index, body) = read().ok_or_else(|| EsError::invalid("[scroll_id] is none that this server gave"))?;
    page(&app, &index, body, &params).await
}

/// `DELETE /es/_search/scroll`: there is nothing to end.
pub async fn end_scroll(request: Request) -> Result<Response, EsError> {
    body::ignore(request).await?;
    Ok(answer(StatusCode::OK, &json!({"succeeded": true, "num_freed": 0})))
}
