//! Hundreds of made-up queries of every kind against a straightforward evaluation in plain Rust and against queries of tantivy built
//! by hand; pages after a hit against one large page; damaged requests, texts and mappings, which are answered or refused.
//!
//! Everything is seeded; a failure prints the query and its seed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/corpus.rs"]
mod corpus;
#[path = "common/generate.rs"]
mod generate;

use std::cmp::Ordering;
use std::sync::{LazyLock, Mutex};

use common::{Fixture, ids, search};
use corpus::{CORPUS, Doc, Random, tokens};
use docstore::mapping::MappingOptions;
use docstore::text::Operator;
use docstore::{DocumentSnapshot, Mapping, Percolator, SearchRequest};
use generate::{Generated, RAW, generate, halves, scored};
use serde_json::{Value, json};
use tantivy::query::Query;

#[test]
fn scores_and_ranks_are_those_of_the_same_query_built_by_hand() {
    for seed in 1..=200_u64 {
        let mut random = Random(seed.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let Generated { json, raw, .. } = scored(&mut random, 3);
        compare_scores(seed, &json, &*raw.unwrap());
    }
}

#[test]
fn queries_of_every_kind_find_what_evaluating_them_finds() {
    let mut found = 0;
    for seed in 1..=600_u64 {
        let mut random = Random(seed.wrapping_mul(0xA076_1D64_78BD_642F));
        let Generated { json, matches, .. } = generate(&mut random, 3);
        let expected: Vec<&str> = CORPUS.docs.iter().filter(|doc| matches(doc)).map(|doc| doc.id.as_str()).collect();
        assert_eq!(ids(&CORPUS.snapshot, &json), expected, "seed {seed}: {json}");
        let request: SearchRequest = serde_json::from_value(json!({ "query": json })).unwrap();
        assert_eq!(CORPUS.snapshot.count_matching(&request.query).unwrap(), expected.len() as u64, "seed {seed}");
        found += usize::from(!expected.is_empty() && expected.len() < 300);
    }
    assert!(found > 300, "the queries are worth running: {found} find some documents, not all");
}

/// The scores of the best hits are those of tantivy for the same query, in the same order.
fn compare_scores(seed: u64, json: &Value, raw: &dyn Query) {
    let top = tantivy::collector::TopDocs::with_limit(400).order_by_score();
    let theirs: Vec<f32> = RAW.search(raw, &top).unwrap().into_iter().map(|(score, _)| score).collect();
    let request = json!({"query": json, "size": 400, "explain": true});
    let ours = search(&CORPUS.snapshot, request).unwrap().hits;
    let scores: Vec<f32> = ours.iter().map(|hit| hit.score.unwrap()).collect();
    assert_eq!(scores.len(), theirs.len(), "seed {seed}: {json}");
    for (hit, (ours, theirs)) in ours.iter().zip(scores.iter().zip(&theirs)) {
        assert!((ours - theirs).abs() <= 1e-4 * theirs.abs().max(1.0), "seed {seed}: {json}: {ours} {theirs}");
        let explained = hit.explanation.as_ref().unwrap()["value"].as_f64().unwrap();
        assert!((explained - f64::from(*ours)).abs() < 1e-3, "seed {seed}: {json}: {ours}: {:?}", hit.explanation);
    }
}

/// One key of an order, in plain Rust.
fn compare(one: &Doc, other: &Doc, field: &str) -> (bool, bool, Ordering) {
    let numbers = |one: Option<i128>, other: Option<i128>| (one.is_none(), other.is_none(), one.cmp(&other));
    match field {
        "size" => numbers(one.size.map(i128::from), other.size.map(i128::from)),
        "count" => numbers(one.count.map(halves), other.count.map(halves)),
        "at" => numbers(one.at_millis.map(i128::from), other.at_millis.map(i128::from)),
        "net.addr" => (one.addr.is_none(), other.addr.is_none(), one.addr.cmp(&other.addr)),
        "kind" => (one.kind.is_none(), other.kind.is_none(), one.kind.cmp(&other.kind)),
        "ok" => (one.ok.is_none(), other.ok.is_none(), one.ok.cmp(&other.ok)),
        _ => (false, false, one.id.cmp(&other.id)),
    }
}

#[test]
fn orders_are_exact_and_pages_after_a_hit_are_one_large_page() {
    for seed in 1..=60_u64 {
        let mut random = Random(seed.wrapping_mul(0xE703_7ED1_A0B4_28DB));
        let fields = ["size", "count", "at", "net.addr", "kind", "ok", "_id"];
        let keys: Vec<(&str, bool, bool)> =
            (0..=random.below(3)).map(|_| (random.of(&fields), random.below(2) == 0, random.below(2) == 0)).collect();
        let sort: Vec<Value> = keys
            .iter()
            .map(|(field, descending, first)| {
                let (order, missing) = (if *descending { "desc" } else { "asc" }, if *first { "_first" } else { "_last" });
                json!({*field: {"order": order, "missing": missing}})
            })
            .collect();
        let mut expected: Vec<&Doc> = CORPUS.docs.iter().collect();
        expected.sort_by(|one, other| {
            let orders = keys.iter().map(|(field, descending, first)| match compare(one, other, field) {
                (true, true, _) => Ordering::Equal,
                (true, false, _) => {
                    if *first {
                        Ordering::Less
                    } else {
                        Ordering::Greater
                    }
                }
                (false, true, _) => {
                    if *first {
                        Ordering::Greater
                    } else {
                        Ordering::Less
                    }
                }
                (false, false, order) => {
                    if *descending {
                        order.reverse()
                    } else {
                        order
                    }
                }
            });
            orders.fold(Ordering::Equal, Ordering::then).then_with(|| one.id.cmp(&other.id))
        });
        let expected: Vec<&str> = expected.iter().map(|doc| doc.id.as_str()).collect();
        let all = search(&CORPUS.snapshot, json!({"sort": sort, "size": 1000, "fields": []})).unwrap();
        assert_eq!(all.hits.iter().map(|hit| hit.id.as_str()).collect::<Vec<_>>(), expected, "seed {seed}: {sort:?}");
        assert_eq!(pages(&json!({"match_all": {}}), &json!(sort), 1 + random.below(40)), expected, "seed {seed}: {sort:?}");
    }
}

/// All hits, page by page.
fn pages(query: &Value, sort: &Value, size: usize) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), Value::Null);
    loop {
        let request = json!({"query": query, "sort": sort, "size": size, "search_after": after, "fields": []});
        let page = search(&CORPUS.snapshot, request).unwrap();
        let Some(last) = page.hits.last() else { return found };
        // As a client sends it: the text of the answer read and written again.
        let text = serde_json::to_string(&last.sort).unwrap();
        after = serde_json::from_str(&text).unwrap();
        found.extend(page.hits.into_iter().map(|hit| hit.id));
    }
}

#[test]
fn pages_by_score_and_within_a_query_leave_nothing_out() {
    for text in ["torn", "torn write page", "log*", "crash~1 OR page"] {
        let query = json!({ "query_string": text });
        for sort in [json!("_score"), json!(["_score", {"count": "desc"}]), json!([{"size": "asc"}, "_score"])] {
            let all = search(&CORPUS.snapshot, json!({"query": query, "sort": sort, "size": 1000})).unwrap();
            assert!(all.hits.len() > 20);
            assert!(
                sort != "_score"
                    || all.hits.windows(2).all(|pair| {
                        (pair[1].score, &pair[0].id).partial_cmp(&(pair[0].score, &pair[1].id)) == Some(Ordering::Less)
                    })
            );
            let all: Vec<String> = all.hits.into_iter().map(|hit| hit.id).collect();
            for size in [1, 7, 50] {
                assert_eq!(pages(&query, &sort, size), all, "{text} {sort} {size}");
            }
        }
    }
}

/// What the snapshots' files belong to.
type Held = Mutex<Vec<(Fixture, tempfile::TempDir)>>;

/// The corpus again, in three partitions.
static PARTS: LazyLock<(Vec<DocumentSnapshot>, Held)> = LazyLock::new(|| {
    let mut parts = Vec::new();
    for part in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        // Values of all paths that have columns of their own come first, as in the whole.
        let mut fixture = Fixture::open(dir.path(), corpus::mapping());
        fixture.put("first", &json!({"x": {"p": 1, "q": 1, "r": 1}}));
        for (n, doc) in CORPUS.docs.iter().enumerate().filter(|(n, _)| n % 3 == part) {
            fixture.put(&doc.id, &doc.json());
            if n % 50 == 49 {
                fixture.commit();
            }
        }
        fixture.apply(&[("first".to_owned(), None)]);
        let snapshot = fixture.commit();
        parts.push((snapshot, (fixture, dir)));
    }
    let (snapshots, held) = parts.into_iter().unzip();
    (snapshots, Mutex::new(held))
});

#[test]
fn partitions_make_no_difference() {
    let of = |parts: &[DocumentSnapshot], request: &Value| {
        docstore::search::search(parts, &serde_json::from_value(request.clone()).unwrap())
    };
    let mut answered = 0;
    for seed in 1..=200_u64 {
        let mut random = Random(seed.wrapping_mul(0xD134_2543_DE82_EF95));
        let query = generate(&mut random, 2).json;
        let sort = random.of(&["_id", "size", "count", "at", "x.p", "net.addr"]);
        let request = json!({
            "query": query, "size": 20, "from": random.below(10), "sort": {sort: random.of(&["asc", "desc"])},
            "facets": {"tags": 100, "kind": 100, "x.p": 100}, "highlight": ["body"], "fields": ["body"],
            "aggs": {
                "kinds": {"terms": {"field": "kind"}, "aggs": {"mean": {"avg": {"field": "size"}}}},
                "counts": {"stats": {"field": "count"}}, "all": {"cardinality": {"field": "tags"}}
            },
            "suggest": {"s": {"text": "crsah tron", "field": "body"}}
        });
        let (whole, parts) = (of(std::slice::from_ref(&CORPUS.snapshot), &request).unwrap(), of(&PARTS.0, &request).unwrap());
        let hits = |response: &docstore::SearchResponse| {
            response
                .hits
                .iter()
                .map(|hit| (hit.id.clone(), hit.doc.get().to_owned(), format!("{:?}", hit.highlight)))
                .collect::<Vec<_>>()
        };
        assert_eq!((parts.total, hits(&parts)), (whole.total, hits(&whole)), "seed {seed}: {request}");
        assert_eq!(parts.facets, whole.facets, "seed {seed}: {request}");
        assert_eq!(parts.suggest.len(), whole.suggest.len());
        // Sums of floats may differ in their last digits.
        let (a, b) = (parts.aggs["counts"]["sum"].as_f64(), whole.aggs["counts"]["sum"].as_f64());
        assert!(a.zip(b).is_none_or(|(a, b)| (a - b).abs() <= 1e-9 * b.abs().max(1.0)), "seed {seed}: {a:?} {b:?}");
        assert_eq!(parts.aggs["all"], whole.aggs["all"]);
        let buckets = |aggs: &Value| {
            aggs["kinds"]["buckets"]
                .as_array()
                .unwrap()
                .iter()
                .map(|b| (b["key"].clone(), b["doc_count"].clone()))
                .collect::<Vec<_>>()
        };
        let sorted = |aggs: &Value| {
            let mut buckets = buckets(aggs);
            buckets.sort_by_key(|bucket| bucket.0.to_string());
            buckets
        };
        assert_eq!(sorted(&parts.aggs), sorted(&whole.aggs), "seed {seed}: {request}");
        answered += usize::from(whole.total > 0);
    }
    assert!(answered > 100, "{answered}");
    // Scores rest on all of it: the best have the same, whatever the order among equals. Deleted documents count until they are merged away.
    let request = json!({"query": {"match": {"body": "torn"}}, "size": 300, "explain": true});
    let parts = of(&PARTS.0, &request).unwrap();
    assert!(parts.hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
    for hit in &parts.hits {
        let explained = hit.explanation.as_ref().unwrap()["value"].as_f64().unwrap();
        assert!((explained - f64::from(hit.score.unwrap())).abs() < 1e-3, "{hit:?}");
    }
    let same = |one: &Value, other: &Value| one["body"] == other["body"];
    let docs: Vec<(Value, f32)> =
        parts.hits.iter().map(|hit| (serde_json::from_str(hit.doc.get()).unwrap(), hit.score.unwrap())).collect();
    for (doc, score) in &docs {
        assert!(docs.iter().filter(|(other, _)| same(doc, other)).all(|(_, other)| (other - score).abs() < 1e-6));
    }
    // What only one of them knows is known.
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut one, mut two) = (Fixture::open(dir.path(), corpus::mapping()), Fixture::open(other.path(), corpus::mapping()));
    one.put("a", &json!({"only": "here", "n": 3}));
    two.put("b", &json!({"other": "there"}));
    let both = [one.commit(), two.commit()];
    let found = of(&both, &json!({"query": {"match": {"only": "here"}}, "sort": [{"n": "desc"}], "facets": ["only"]})).unwrap();
    assert_eq!((found.total, found.hits[0].id.as_str(), found.facets["only"][0].count), (1, "a", 1));
    let all = of(&both, &json!({"sort": [{"n": {"order": "desc", "missing": "_first"}}]})).unwrap();
    assert_eq!(all.hits.iter().map(|hit| hit.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert!(of(&both, &json!({"query": {"match": {"nobody": "x"}}})).is_err());
}

#[test]
fn unnamed_paths_order_by_numbers_then_texts_and_have_whole_values() {
    // Of several values the first counts; truths have no order.
    let first = |doc: &Doc| match doc.loose("p") {
        Some(Value::Array(items)) => Some(items[0].clone()),
        Some(Value::Bool(_)) | None => None,
        value => value.cloned(),
    };
    let rank = |value: &Option<Value>| match value {
        Some(Value::Number(_)) => 0,
        Some(_) => 1,
        None => 2,
    };
    for descending in [false, true] {
        let mut expected: Vec<&Doc> = CORPUS.docs.iter().collect();
        expected.sort_by(|one, other| {
            let (a, b) = (first(one), first(other));
            let order = match (&a, &b) {
                (Some(Value::Number(a)), Some(Value::Number(b))) => a.as_i64().cmp(&b.as_i64()),
                (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
                _ => Ordering::Equal,
            };
            let order = if descending { order.reverse() } else { order };
            rank(&a).cmp(&rank(&b)).then(order).then_with(|| one.id.cmp(&other.id))
        });
        let expected: Vec<&str> = expected.iter().map(|doc| doc.id.as_str()).collect();
        let sort = json!([{"x.p": if descending { "desc" } else { "asc" }}]);
        assert_eq!(pages(&json!({"match_all": {}}), &sort, 17), expected, "{sort}");
    }
    let whole = |doc: &Doc, wanted: &str| match doc.loose("p") {
        Some(Value::Array(items)) => items.contains(&json!(wanted)),
        value => value == Some(&json!(wanted)),
    };
    let having = |wanted: &[&str]| {
        let mut ids: Vec<String> =
            CORPUS.docs.iter().filter(|doc| wanted.iter().any(|wanted| whole(doc, wanted))).map(|doc| doc.id.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&CORPUS.snapshot, &json!({"term": {"x.p.keyword": "torn"}})), having(&["torn"]));
    assert_eq!(ids(&CORPUS.snapshot, &json!({"terms": {"x.p.keyword": ["torn", "page"]}})), having(&["torn", "page"]));
    assert_eq!(ids(&CORPUS.snapshot, &json!({"term": {"x.p.keyword": "Torn"}})), [] as [String; 0]);
    assert_eq!(
        ids(&CORPUS.snapshot, &json!({"match": {"kind.keyword": "bug"}})).len(),
        CORPUS.docs.iter().filter(|doc| doc.kind == Some("bug")).count()
    );
    let counted = search(&CORPUS.snapshot, json!({"size": 0, "facets": {"x.p.keyword": 100}})).unwrap();
    let torn = counted.facets["x.p.keyword"].iter().find(|facet| facet.value == "torn").unwrap();
    assert_eq!(torn.count, having(&["torn"]).len() as u64);
    let refused = search(&CORPUS.snapshot, json!({"query": {"wildcard": {"x.p.keyword": "t*"}}})).unwrap_err().to_string();
    assert!(refused.contains("must be declared in `fields`"), "{refused}");
    // With `lenient`, what nobody knows is found nowhere; the rest goes on.
    let dir = tempfile::tempdir().unwrap();
    let options = MappingOptions { search: Some("a"), ..MappingOptions::default() };
    let mut fixture = Fixture::open(dir.path(), Mapping::from_options(&options).unwrap());
    fixture.put("1", &json!({"a": "torn"}));
    let snapshot = fixture.commit();
    for query in [
        json!({"bool": {"should": [{"term": {"nothing": 1}}, {"match": {"a": "torn"}}]}}),
        json!({"multi_match": {"query": "torn", "fields": ["nothing", "a"]}}),
    ] {
        let request = |lenient: bool| search(&snapshot, json!({"query": query, "size": 0, "lenient": lenient}));
        assert!(request(false).unwrap_err().to_string().contains("unknown field `nothing`"));
        assert_eq!(request(true).unwrap().total, 1);
    }
}

#[test]
fn wrong_orders_and_values_are_told_so() {
    let refusal = |request: Value| search(&CORPUS.snapshot, request).expect_err("wrong").to_string();
    for (request, says) in [
        (json!({"search_after": ["x"]}), "search_after: needs a `sort`"),
        (json!({"sort": "size", "search_after": [1]}), "has 1 values, the sort and `_id` are 2"),
        (json!({"sort": "size", "search_after": [true, "d"]}), "true can't be a value of `size`"),
        (json!({"sort": "size", "from": 3, "search_after": [1, "d"]}), "goes without `from`"),
        (json!({"sort": "x.s"}), "unknown field `x.s`"),
        (json!({"query": {"terms": {"count": (0..2000).collect::<Vec<_>>()}}}), "terms to look up, reached at `count`, is over"),
        (json!({"sort": "body"}), "unknown field `body` among the facets"),
        (json!({"query": {"term": {"count": "many"}}}), "the value of `count`: `many` is not of its type; it needs a number"),
        (json!({"query": {"term": {"at": "soon"}}}), "it needs a date such as `2024-03-01`"),
        (json!({"query": {"range": {"net.addr": {"gt": 3}}}}), "it needs an address"),
        (json!({"query": {"range": {"ok": {"gt": "false"}}}}), "booleans have no order"),
        (json!({"query": {"range": {"kind": {"gt": 3}}}}), "needs text as bounds"),
        (json!({"query": {"range": {"x.s": {"gt": 3}}}}), "beyond the table's limit of dynamic fields"),
        (json!({"query": {"regexp": {"body": "cr(ash"}}}), "the regexp of `body`: can't be read: unclosed group"),
        (json!({"query": {"more_like_this": {"like": {"_id": "nobody"}}}}), "there is no document `nobody`"),
        (json!({"aggs": {"a": {"stats": {"field": "kind"}}}}), "`kind` is a keyword field; this aggregation needs numbers"),
        (json!({"suggest": {"a": {"text": "x", "field": "kind"}}}), "unknown field `kind`"),
    ] {
        let error = refusal(request.clone());
        assert!(error.contains(says), "{request}: {error}");
    }
}

#[test]
fn typed_and_unnamed_fields_are_counted() {
    let request = json!({"size": 0, "facets": ["kind", "ok", "x.p"], "aggs": {
        "counts": {"stats": {"field": "count"}}, "days": {"date_histogram": {"field": "at", "fixed_interval": "1d"}},
        "p": {"max": {"field": "x.p"}}
    }});
    let response = search(&CORPUS.snapshot, request).unwrap();
    let count = |matches: &dyn Fn(&Doc) -> bool| CORPUS.docs.iter().filter(|doc| matches(doc)).count() as u64;
    for facet in &response.facets["kind"] {
        assert_eq!(facet.count, count(&|doc| doc.kind == Some(facet.value.as_str())), "{facet:?}");
    }
    assert_eq!(response.facets["ok"].iter().map(|facet| facet.count).sum::<u64>(), count(&|doc| doc.ok.is_some()));
    let torn = response.facets["x.p"].iter().find(|facet| facet.value == "torn").map_or(0, |facet| facet.count);
    let has = |doc: &Doc| match doc.loose("p") {
        Some(Value::Array(items)) => items.contains(&json!("torn")),
        value => value == Some(&json!("torn")),
    };
    assert_eq!(torn, count(&has));
    assert_eq!(response.aggs["counts"]["count"], count(&|doc| doc.count.is_some()));
    let largest = CORPUS.docs.iter().filter_map(|doc| doc.loose("p")?.as_u64()).max().unwrap();
    assert_eq!(response.aggs["p"]["value"].as_f64(), json!(largest).as_f64());
}

#[test]
fn suggestions_are_near_and_frequent_and_likeness_leaves_out_itself() {
    let request = json!({"size": 0, "suggest": {
        "typo": {"text": "tron crsah page", "field": "body", "size": 2}, "all": {"text": "page", "field": "body", "mode": "always"}
    }});
    let response = search(&CORPUS.snapshot, request).unwrap();
    let words: Vec<Vec<&str>> =
        response.suggest["typo"].iter().map(|word| word.options.iter().map(|option| option.text.as_str()).collect()).collect();
    assert_eq!(words[0], ["torn"]);
    assert_eq!(words[1][0], "crash");
    assert!(words[2].is_empty(), "it is there: nothing to suggest");
    assert_eq!((response.suggest["typo"][1].text.as_str(), response.suggest["typo"][1].offset), ("crsah", 5));
    for option in &response.suggest["all"][0].options {
        assert!(option.edits <= 2 && option.text != "page");
    }
    let doc = CORPUS.docs.iter().find(|doc| tokens(&doc.body).len() > 6).unwrap();
    let like = |like: Value| {
        let query = json!({"more_like_this": {"fields": ["body"], "like": like, "min_term_freq": 1, "min_doc_freq": 1, "max_query_terms": 3}});
        ids(&CORPUS.snapshot, &query)
    };
    let (by_id, by_text) = (like(json!({"_id": doc.id})), like(json!(doc.body)));
    assert!(!by_id.contains(&doc.id) && by_text.contains(&doc.id));
    assert_eq!(by_id.len() + 1, by_text.len());
}

#[test]
fn bombs_are_refused_or_answered_and_the_place_is_named() {
    let parse = |query: Value| serde_json::from_value::<SearchRequest>(json!({ "query": query }));
    let many: Vec<Value> = (0..10_000).map(|n| json!({"term": {"body": n}})).collect();
    let error = parse(json!({"bool": {"should": many}})).unwrap_err().to_string();
    assert!(error.contains("query.bool.should[1023]: more than 1024 queries in one request"), "{error}");
    let deep = (0..66).fold(json!({"match_all": {}}), |inner, _| json!({"bool": {"must_not": inner}}));
    assert!(parse(deep).unwrap_err().to_string().contains("nest deeper than 64"));
    let text = "(".repeat(70) + "x" + &")".repeat(70);
    let refused = |query: Value| search(&CORPUS.snapshot, json!({ "query": query })).expect_err("too much").to_string();
    let error = refused(json!({ "query_string": text }));
    assert!(error.contains("column 66: nested deeper than 64"), "{error}");
    for bomb in ["((a{100}){100}){100}", "(\\w{200}){200}", "[\\p{L}]{1000}"] {
        let error = refused(json!({"regexp": {"body": bomb}}));
        assert!(error.contains("the regexp of `body`: can't be read") && error.contains("limit"), "{error}");
    }
    for fine in ["(a*)*b", "(a|aa)+$", "(.*)*x", &"a?".repeat(100)] {
        search(&CORPUS.snapshot, json!({"query": {"regexp": {"body": fine}}})).unwrap();
    }
    search(&CORPUS.snapshot, json!({"query": {"wildcard": {"body": "*a".repeat(120)}}})).unwrap();
    let long = refused(json!({"wildcard": {"body": "*a".repeat(200)}}));
    assert!(long.contains("the wildcard of `body` with 400 bytes is over the limit of 256"), "{long}");
}

/// A tree of JSON with one part of it replaced, left out or doubled.
fn damage(value: &mut Value, random: &mut Random) {
    let size = match value {
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        _ => 0,
    };
    if size == 0 || random.below(4) == 0 {
        *value = match random.below(9) {
            0 => Value::Null,
            1 => json!(random.below(1_000_000)),
            2 => json!(-1.5),
            3 => json!(random.words(4)),
            4 => json!([]),
            5 => json!({}),
            6 => json!({"query": {"match_all": {}}}),
            7 => json!(true),
            _ => json!([[[random.of(&["*", "~", "\u{0}", "^", "("])]]]),
        };
        return;
    }
    let at = random.below(size);
    match value {
        Value::Array(items) if random.below(4) == 0 => items.push(items[at].clone()),
        Value::Array(items) => damage(&mut items[at], random),
        Value::Object(members) => {
            let name = members.keys().nth(at).unwrap().clone();
            match random.below(6) {
                0 => drop(members.remove(&name)),
                1 => {
                    let member = members.remove(&name).unwrap();
                    members.insert(random.of(&["field", "body", "size", "at", "bool", "x.p", "boost", ""]).to_owned(), member);
                }
                _ => damage(&mut members[&name], random),
            }
        }
        _ => {}
    }
}

#[test]
fn damaged_requests_are_answered_or_refused() {
    let (mut answered, mut refused) = (0, 0);
    for seed in 1..=1500_u64 {
        let mut random = Random(seed.wrapping_mul(0x8EBC_6AF0_9C88_C6E3));
        let mut request = json!({
            "query": generate(&mut random, 2).json, "size": 5, "from": 1, "sort": [{"count": {"order": "desc"}}, "_score"],
            "highlight": ["body"], "facets": {"tags": 3}, "explain": true, "fields": ["body", "x.p"],
            "aggs": {"a": {"terms": {"field": "kind"}, "aggs": {"b": {"avg": {"field": "count"}}}}},
            "suggest": {"s": {"text": "crsah", "field": "body"}}
        });
        for _ in 0..=random.below(3) {
            damage(&mut request, &mut random);
        }
        let answer = serde_json::from_value::<SearchRequest>(request.clone()).map_err(|error| error.to_string());
        let answer = answer.and_then(|request| CORPUS.snapshot.search(&request).map_err(|error| error.to_string()));
        match answer {
            Ok(_) => answered += 1,
            Err(error) => {
                assert!(
                    !error.contains("SchemaError") && !error.contains("reading the document index"),
                    "seed {seed}: {request}: {error}"
                );
                refused += 1;
            }
        }
    }
    assert!(answered > 100 && refused > 100, "{answered} {refused}");
}

#[test]
fn any_text_and_any_options_are_read_or_refused() {
    const PIECES: [&str; 40] = [
        "(",
        ")",
        "\"",
        "*",
        "~",
        "^",
        ":",
        "[",
        "]",
        "{",
        "}",
        " TO ",
        "AND ",
        "OR ",
        "NOT ",
        "+",
        "-",
        "\\",
        "<",
        ">=",
        "body",
        "size",
        "7",
        "ä",
        "\u{0}",
        "\u{1F600}",
        ",",
        ", ",
        "a",
        "ngram(2,3)",
        "edge_ngram(",
        "stem(german)",
        "+lowercase",
        "date",
        "number",
        "words",
        "100",
        "x.p",
        "_id",
        " ",
    ];
    for seed in 1..=4000_u64 {
        let mut random = Random(seed.wrapping_mul(0x5896_5CC7_5374_CC3B));
        let text: String = match random.below(3) {
            0 => (0..random.below(40))
                .map(|_| char::from_u32(u32::try_from(random.below(0x3000)).unwrap()).unwrap_or('?'))
                .collect(),
            _ => (0..random.below(24)).map(|_| random.of(&PIECES)).collect(),
        };
        let _ = docstore::text::parse(&text, Operator::Or);
        let _ = search(&CORPUS.snapshot, json!({"query": {"query_string": text}, "size": 1, "highlight": ["body", "code"]}));
        for kind in ["wildcard", "regexp", "match_phrase_prefix", "prefix", "fuzzy"] {
            let field = random.of(&["body", "title", "code", "kind", "count", "x.p", "x.u", "_id"]);
            let _ = search(&CORPUS.snapshot, json!({"query": {kind: {field: text}}, "size": 1}));
        }
        let text = Some(text.as_str());
        let all = MappingOptions { key: text, search: text, facets: text, fields: text, dynamic: text };
        let _ = Mapping::from_options(&all);
        for options in [
            MappingOptions { search: text, ..MappingOptions::default() },
            MappingOptions { fields: text, ..MappingOptions::default() },
            MappingOptions { dynamic: text, ..MappingOptions::default() },
        ] {
            if let Ok(mapping) = Mapping::from_options(&options) {
                let json = serde_json::to_string(&mapping).unwrap();
                assert_eq!(serde_json::from_str::<Mapping>(&json).unwrap(), mapping, "seed {seed}");
            }
        }
    }
}

#[test]
fn saved_searches_find_new_documents_as_searches_find_old_ones() {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let generated: Vec<Generated> = (0..150).map(|_| generate(&mut random, 2)).collect();
    let read = |json: &Value| serde_json::from_value::<SearchRequest>(json!({ "query": json })).unwrap().query;
    let named = generated.iter().enumerate().map(|(n, query)| (n.to_string(), read(&query.json)));
    let percolator = Percolator::new(corpus::mapping(), named).unwrap();
    let docs: Vec<Doc> = (0..60).map(|n| corpus::doc(n, &mut random)).collect();
    let json: Vec<String> = docs.iter().map(|doc| doc.json().to_string()).collect();
    let batch: Vec<(&str, &[u8])> = docs.iter().zip(&json).map(|(doc, json)| (doc.id.as_str(), json.as_bytes())).collect();
    let found = percolator.matches(&batch).unwrap();
    for (doc, found) in docs.iter().zip(&found) {
        let expected: Vec<String> =
            (0..generated.len()).filter(|n| (generated[*n].matches)(doc)).map(|n| n.to_string()).collect();
        assert_eq!(*found, expected, "{doc:?}");
    }
    assert_eq!(percolator.matches(&batch[3..4]).unwrap(), found[3..4], "one document alone");
    let wrong = Percolator::new(Mapping::default(), [("mine".to_owned(), read(&json!({"match": {"bdy": "x"}})))]);
    assert!(wrong.unwrap_err().to_string().contains("(in the saved search `mine`)"));
    assert_eq!(percolator.matches(&[("d", b"[]"), ("e", b"{"), ("f", b"")]).unwrap(), [[] as [&str; 0]; 3], "no documents");
    let mixed = [("x", b"[]".as_slice()), batch[3]];
    assert_eq!(percolator.matches(&mixed).unwrap(), [Vec::new(), found[3].clone()]);
}

#[test]
fn unnamed_paths_are_the_same_after_reopening_and_damaged_values_are_only_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path(), corpus::mapping());
    fixture.put(
        "1",
        &json!({"z": {"a": 1, "b": "2024-01-02T03:04:05Z", "c": [1.5, {"d": true}]}, "count": {"x": 1}, "at": "never", "ok": 7}),
    );
    fixture.put("2", &json!({"z": {"a": "one", "e": "two"}, "": 1, "_x": 2, "a..b": 3}));
    fixture.save();
    drop(fixture);
    let mut fixture = Fixture::open(dir.path(), corpus::mapping());
    fixture.put("3", &json!({"z": {"e": "three"}, "new": 1}));
    let snapshot = fixture.commit();
    for (query, found) in [
        (json!({"term": {"count.x": 1}}), vec!["1"]),
        (json!({"match": {"z.a": "ONE"}}), vec!["2"]),
        (json!({"range": {"z.a": {"gte": 1, "lt": 1.5}}}), vec!["1"]),
        (json!({"range": {"z.b": {"gt": "2024-01", "lt": "2025"}}}), vec!["1"]),
        (json!({"term": {"z.c.d": true}}), vec!["1"]),
        (json!({"prefix": {"z.e": "t"}}), vec!["2", "3"]),
        (json!({"fuzzy": {"z.e": "thre"}}), vec!["3"]),
        (json!({"wildcard": {"z.e": "t?o"}}), vec!["2"]),
        (json!({"regexp": {"z.e": "th.*"}}), vec!["3"]),
        (json!({"exists": {"field": "new"}}), vec!["3"]),
        (json!({"query_string": "z.e:(two OR three)"}), vec!["2", "3"]),
        (json!({"exists": {"field": "at"}}), vec!["1"]),
        (json!({"range": {"at": {"gte": "1700"}}}), vec![]),
    ] {
        assert_eq!(ids(&snapshot, &query), found, "{query}");
    }
    let json = json!({"query": {"match": {"z.a": "one"}}, "facets": ["z.a"]});
    assert_eq!(search(&snapshot, json).unwrap().facets["z.a"][0].count, 1);
}
