//! Every kind of query against a straightforward evaluation over 200 documents in several segments, some of them deleted.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::LazyLock;

use common::{Fixture, ids, mapping, search};
use docstore::{Analyzer, DocumentSnapshot, Error};
use proptest::prelude::*;
use serde_json::{Value, json};

const WORDS: [&str; 12] =
    ["torn", "write", "crash", "crush", "clash", "page", "pages", "log", "don't", "Ärger", "fsync", "writer"];
const AUTHORS: [&str; 4] = ["ada lovelace", "Bob", "carol", "dan"];

struct Doc {
    id: String,
    subject: String,
    body: String,
    author: Option<String>,
    tags: Vec<String>,
    size: i64,
    day: u32,
}

impl Doc {
    fn json(&self) -> Value {
        let day = format!("2024-01-{:02}", self.day);
        let author = json!({ "name": self.author });
        json!({"subject": self.subject, "body": self.body, "author": author, "tags": self.tags, "size": self.size, "day": day})
    }

    fn tokens(text: &str) -> Vec<String> {
        text.split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
    }

    fn any(&self, field: &str, matches: impl Fn(&str) -> bool) -> bool {
        Self::tokens(if field == "subject" { &self.subject } else { &self.body }).iter().any(|token| matches(token))
    }

    fn either(&self, matches: impl Fn(&str) -> bool) -> bool {
        self.any("subject", &matches) || self.any("body", &matches)
    }

    fn phrase(&self, field: &str, words: &[&str]) -> bool {
        let tokens = Self::tokens(if field == "subject" { &self.subject } else { &self.body });
        tokens.windows(words.len()).any(|window| window == words)
    }
}

struct Corpus {
    docs: Vec<Doc>,
    snapshot: DocumentSnapshot,
    dir: tempfile::TempDir,
    _fixture: std::sync::Mutex<Fixture>,
}

static CORPUS: LazyLock<Corpus> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let search = [("subject", Analyzer::Standard), ("body", Analyzer::Standard), ("author.name", Analyzer::Standard)];
    let mut fixture = Fixture::open(dir.path(), mapping(&search, &["author.name", "tags", "size", "day"]));
    let mut random = 88_172_645_463_325_252_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let mut docs = Vec::new();
    for n in 0..240 {
        let mut words = |max: usize| (0..next(max)).map(|_| WORDS[next(WORDS.len())]).collect::<Vec<_>>().join(" ");
        let (subject, body) = (words(5), words(12));
        let author = Some(AUTHORS[next(4)].to_owned()).filter(|_| next(5) > 0);
        let tags = (0..next(3)).map(|_| format!("tag{}", next(4))).collect();
        let (size, day) = (i64::try_from(next(100)).unwrap() - 20, u32::try_from(next(28) + 1).unwrap());
        let doc = Doc { id: format!("d{n:03}"), subject, body, author, tags, size, day };
        fixture.put(&doc.id, &doc.json());
        docs.push(doc);
        if n % 50 == 49 {
            fixture.commit();
        }
    }
    let dead: Vec<_> = docs.iter().step_by(6).map(|doc| (doc.id.clone(), None)).collect();
    fixture.apply(&dead);
    docs.retain(|doc| !dead.iter().any(|(id, _)| *id == doc.id));
    let snapshot = fixture.save();
    assert_eq!((snapshot.count(), docs.len()), (200, 200));
    Corpus { docs, snapshot, dir, _fixture: std::sync::Mutex::new(fixture) }
});

#[track_caller]
fn check(query: Value, matches: impl Fn(&Doc) -> bool) {
    let expected: Vec<&str> = CORPUS.docs.iter().filter(|doc| matches(doc)).map(|doc| doc.id.as_str()).collect();
    assert_eq!(ids(&CORPUS.snapshot, &query), expected, "{query}");
}

#[track_caller]
fn check_text(text: &str, matches: impl Fn(&Doc) -> bool) {
    check(json!({"query_string": {"query": text, "fields": ["subject", "body"]}}), matches);
}

fn author_is(doc: &Doc, name: &str) -> bool {
    doc.author.as_deref() == Some(name)
}

#[test]
fn matches_and_phrases() {
    check(json!({"match_all": {}}), |_| true);
    check(json!({"match": {"body": "Torn WRITE"}}), |doc| doc.any("body", |token| token == "torn" || token == "write"));
    check(json!({"match": {"body": {"query": "torn write", "operator": "and"}}}), |doc| {
        doc.any("body", |token| token == "torn") && doc.any("body", |token| token == "write")
    });
    check(json!({"match": {"body": {"query": "crash", "fuzziness": 1}}}), |doc| {
        doc.any("body", |token| ["crash", "crush", "clash"].contains(&token))
    });
    check(json!({"match": {"body": "..."}}), |_| false);
    check(json!({"match_phrase": {"body": "torn write"}}), |doc| doc.phrase("body", &["torn", "write"]));
    check(json!({"match_phrase": {"body": {"query": "torn write", "slop": 1}}}), |doc| {
        let tokens = Doc::tokens(&doc.body);
        let at = |i: usize| tokens.get(i).map(String::as_str);
        (0..tokens.len()).any(|i| at(i) == Some("torn") && (at(i + 1) == Some("write") || at(i + 2) == Some("write")))
    });
    check(json!({"match": {"author.name": "ADA"}}), |doc| author_is(doc, "ada lovelace"));
    check(json!({"match": {"tags": "tag1"}}), |doc| doc.tags.iter().any(|tag| tag == "tag1"));
}

#[test]
fn terms_ranges_prefixes_and_the_rest() {
    check(json!({"term": {"author.name": "ada lovelace"}}), |doc| author_is(doc, "ada lovelace"));
    check(json!({"term": {"author.name": "ada"}}), |_| false);
    check(json!({"term": {"body": "Torn"}}), |doc| doc.any("body", |token| token == "torn"));
    check(json!({"term": {"size": 7}}), |doc| doc.size == 7);
    check(json!({"term": {"_id": "d001"}}), |doc| doc.id == "d001");
    check(json!({"terms": {"tags": ["tag1", "tag3"]}}), |doc| doc.tags.iter().any(|tag| tag == "tag1" || tag == "tag3"));
    check(json!({"terms": {"tags": []}}), |_| false);
    check(json!({"range": {"size": {"gte": -5, "lt": 40}}}), |doc| (-5..40).contains(&doc.size));
    check(json!({"range": {"size": {"gt": 9.5}}}), |doc| doc.size > 9);
    check(json!({"range": {"size": {"gt": 9, "lt": 3}}}), |_| false);
    check(json!({"range": {"day": {"gt": "2024-01-10", "lte": "2024-01-20"}}}), |doc| (11..=20).contains(&doc.day));
    check(json!({"range": {"_id": {"lt": "d010"}}}), |doc| doc.id.as_str() < "d010");
    check(json!({"prefix": {"body": "Pag"}}), |doc| doc.any("body", |token| token.starts_with("pag")));
    check(json!({"prefix": {"tags": "tag"}}), |doc| !doc.tags.is_empty());
    check(json!({"fuzzy": {"body": {"value": "crsah", "fuzziness": 1}}}), |doc| doc.any("body", |token| token == "crash"));
    check(json!({"fuzzy": {"body": "crash"}}), |doc| doc.any("body", |token| ["crash", "crush", "clash"].contains(&token)));
    check(json!({"exists": {"field": "author.name"}}), |doc| doc.author.is_some());
    check(json!({"exists": {"field": "subject"}}), |_| true);
    check(json!({"exists": {"field": "tags"}}), |doc| !doc.tags.is_empty());
}

#[test]
fn bool_queries() {
    let torn = || json!({"match": {"body": "torn"}});
    let page = || json!({"match": {"body": "page"}});
    let big = || json!({"range": {"size": {"gte": 30}}});
    let has = |doc: &Doc, word: &str| doc.any("body", |token| token == word);
    check(json!({"bool": {}}), |_| true);
    check(json!({"bool": {"must": torn(), "must_not": [page()], "filter": big()}}), |doc| {
        has(doc, "torn") && !has(doc, "page") && doc.size >= 30
    });
    check(json!({"bool": {"should": [torn(), page()]}}), |doc| has(doc, "torn") || has(doc, "page"));
    check(json!({"bool": {"should": [torn(), page()], "must_not": big()}}), |doc| {
        (has(doc, "torn") || has(doc, "page")) && doc.size < 30
    });
    check(json!({"bool": {"should": [torn(), page()], "filter": big()}}), |doc| doc.size >= 30);
    check(json!({"bool": {"should": [torn(), page(), big()], "minimum_should_match": 2}}), |doc| {
        usize::from(has(doc, "torn")) + usize::from(has(doc, "page")) + usize::from(doc.size >= 30) >= 2
    });
    check(json!({"bool": {"should": [torn()], "minimum_should_match": 0}}), |_| true);
    check(json!({"bool": {"should": [torn()], "minimum_should_match": 2}}), |_| false);
    check(json!({"bool": {"must_not": torn()}}), |doc| !has(doc, "torn"));
}

#[test]
fn query_text() {
    let has = |doc: &Doc, word: &str| doc.either(|token| token == word);
    check_text("\"torn write\" OR crash~1", |doc| {
        doc.phrase("subject", &["torn", "write"])
            || doc.phrase("body", &["torn", "write"])
            || doc.either(|token| ["crash", "crush", "clash"].contains(&token))
    });
    check_text("torn AND page OR log", |doc| (has(doc, "torn") && has(doc, "page")) || has(doc, "log"));
    check_text("torn -page", |doc| has(doc, "torn") && !has(doc, "page"));
    check_text("torn OR NOT page", |doc| has(doc, "torn") || !has(doc, "page"));
    check_text("+torn page", |doc| has(doc, "torn"));
    check_text("-torn -page", |doc| !has(doc, "torn") && !has(doc, "page"));
    check_text("don't", |doc| doc.phrase("subject", &["don", "t"]) || doc.phrase("body", &["don", "t"]));
    check_text("ärger AND pag*", |doc| has(doc, "ärger") && doc.either(|token| token.starts_with("pag")));
    check_text("*", |_| true);
    check_text("* -torn", |doc| !has(doc, "torn"));
    check_text("", |_| false);
    check_text("- +", |_| false);
    check_text("body:(torn page) AND NOT subject:log", |doc| {
        doc.any("body", |token| token == "torn" || token == "page") && !doc.any("subject", |token| token == "log")
    });
    check_text("size:[10 TO 20}", |doc| (10..20).contains(&doc.size));
    check_text("size:>=9 AND size:<100", |doc| doc.size >= 9);
    check_text("day:[2024-01-05 TO *]", |doc| doc.day >= 5);
    check_text("author.name:*", |doc| doc.author.is_some());
    check_text("tags:tag1 _id:d001", |doc| doc.id == "d001" || doc.tags.iter().any(|tag| tag == "tag1"));
    check(json!({"query_string": {"query": "torn page", "default_operator": "and", "fields": ["body"]}}), |doc| {
        doc.any("body", |token| token == "torn") && doc.any("body", |token| token == "page")
    });
}

/// A boolean expression, written as query text and evaluated directly.
#[derive(Clone, Debug)]
enum Expression {
    Word(usize),
    Prefix(usize),
    Fuzzy(usize),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
}

/// Without umlauts and apostrophes, which are several characters or tokens.
const PLAIN: [&str; 9] = ["torn", "write", "crash", "crush", "clash", "page", "pages", "log", "fsync"];

impl Expression {
    fn text(&self) -> String {
        match self {
            Self::Word(i) => PLAIN[*i].to_owned(),
            Self::Prefix(i) => format!("{}*", &PLAIN[*i][..3]),
            Self::Fuzzy(i) => format!("{}~1", PLAIN[*i]),
            Self::Not(inner) => format!("NOT ({})", inner.text()),
            Self::And(a, b) => format!("({}) AND ({})", a.text(), b.text()),
            Self::Or(a, b) => format!("({}) OR ({})", a.text(), b.text()),
        }
    }

    fn matches(&self, doc: &Doc) -> bool {
        match self {
            Self::Word(i) => doc.either(|token| token == PLAIN[*i]),
            Self::Prefix(i) => doc.either(|token| token.starts_with(&PLAIN[*i][..3])),
            Self::Fuzzy(i) => doc.either(|token| strsim::osa_distance(token, PLAIN[*i]) <= 1),
            Self::Not(inner) => !inner.matches(doc),
            Self::And(a, b) => a.matches(doc) && b.matches(doc),
            Self::Or(a, b) => a.matches(doc) || b.matches(doc),
        }
    }
}

fn expression() -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![
        3 => (0..PLAIN.len()).prop_map(Expression::Word),
        1 => (0..PLAIN.len()).prop_map(Expression::Prefix),
        1 => (0..PLAIN.len()).prop_map(Expression::Fuzzy),
    ];
    leaf.prop_recursive(5, 24, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| Expression::Not(Box::new(a))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Expression::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| Expression::Or(Box::new(a), Box::new(b))),
        ]
    })
}

proptest! {
    #[test]
    fn any_boolean_expression_finds_what_evaluating_it_finds(expression in expression()) {
        check_text(&expression.text(), |doc| expression.matches(doc));
    }
}

#[test]
fn ranks_and_scores_are_those_of_tantivy() {
    use tantivy::collector::TopDocs;
    use tantivy::tokenizer::{LowerCaser, SimpleTokenizer, TextAnalyzer};
    let index = tantivy::Index::open_in_dir(CORPUS.dir.path()).unwrap();
    index.tokenizers().register("standard", TextAnalyzer::builder(SimpleTokenizer::default()).filter(LowerCaser).build());
    let searcher = index.reader().unwrap().searcher();
    let field = |name: &str| index.schema().get_field(name).unwrap();
    let parser = tantivy::query::QueryParser::for_index(&index, vec![field("t:subject"), field("t:body")]);
    for text in ["torn", "torn write", "\"torn write\" page", "+torn page -log", "torn AND (page OR log)", "torn^3 page"] {
        let theirs = searcher.search(&parser.parse_query(text).unwrap(), &TopDocs::with_limit(50).order_by_score()).unwrap();
        let query = json!({"query_string": {"query": text, "fields": ["subject", "body"]}});
        let ours = search(&CORPUS.snapshot, json!({"query": query, "size": 50})).unwrap();
        let ours: Vec<f32> = ours.hits.iter().map(|hit| hit.score.unwrap()).collect();
        let theirs: Vec<f32> = theirs.iter().map(|(score, _)| *score).collect();
        assert!(!ours.is_empty() && ours.len() == theirs.len(), "{text}");
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4), "{text}: {ours:?} {theirs:?}");
    }
}

fn refusal(request: Value) -> String {
    search(&CORPUS.snapshot, request).expect_err("wrong").to_string()
}

#[test]
fn wrong_requests_are_told_what_there_is() {
    let text = |query: &str| refusal(json!({"query": {"query_string": query}}));
    assert_eq!(
        text("torn boby:crash"),
        "query text, column 6: unknown field `boby`; did you mean `body`? Known: subject, body, author.name, tags, size, day; \
         write `\\:` for a colon in a word"
    );
    assert!(text("body:[a TO b]").contains("column 1: unknown field `body`; among the facets, only among the search fields"));
    assert!(refusal(json!({"query": {"match": {"bdoy": "x"}}})).starts_with("unknown field `bdoy`; did you mean `body`?"));
    assert!(refusal(json!({"query": {"range": {"size": {"gt": 1, "lt": "b"}}}})).contains("one bound is a number"));
    assert!(refusal(json!({"sort": {"body": "asc"}})).contains("unknown field `body` among the facets"));
    assert!(refusal(json!({"facets": ["tag"]})).contains("did you mean `tags`?"));
    assert!(refusal(json!({"highlight": ["tags"]})).contains("unknown field `tags`"));
    assert!(refusal(json!({"from": 9_000, "size": 2_000})).contains("from + size = 11000 is over the limit of 10000"));
    assert!(refusal(json!({"aggs": {"a": {"tems": {"field": "tags"}}}})).contains("aggs.a: unknown kind of aggregation `tems`"));
    assert!(refusal(json!({"aggs": {"a": {"terms": {"field": "body"}}}})).contains("unknown field `body`"));
    assert!(
        refusal(json!({"aggs": {"a": {"terms": {"field": "tags", "siez": 3}}}}))
            .contains("unknown option `siez`; did you mean `size`?")
    );
    assert!(
        refusal(json!({"aggs": {"a": {"date_histogram": {"field": "day", "calendar_interval": "month"}}}}))
            .contains("unknown option `calendar_interval`")
    );
    let many = json!({"query": {"match": {"body": "x ".repeat(1025)}}});
    let error = search(&CORPUS.snapshot, many).expect_err("too many");
    assert!(matches!(error, Error::TooLarge { max: 1024, .. }), "{error}");
    let long = json!({"query": {"prefix": {"body": "x".repeat(300)}}});
    assert!(refusal(long).contains("a prefix or fuzzy word of 300 bytes is over the limit of 256"));
}

#[test]
fn hits_are_sorted_paged_and_cut_to_fields() {
    let all = |request: Value| {
        let response = search(&CORPUS.snapshot, request).unwrap();
        response.hits.into_iter().map(|hit| (hit.id, hit.score, hit.doc.get().to_owned())).collect::<Vec<_>>()
    };
    let sizes = all(json!({"sort": {"size": "asc"}, "size": 1000, "fields": ["size"]}));
    let mut expected: Vec<i64> = CORPUS.docs.iter().map(|doc| doc.size).collect();
    expected.sort_unstable();
    let shown: Vec<String> = expected.iter().map(|size| format!("{{\"size\":{size}}}")).collect();
    assert_eq!(sizes.iter().map(|(_, _, doc)| doc.clone()).collect::<Vec<_>>(), shown, "numbers sort as numbers");
    assert!(sizes.iter().all(|(_, score, _)| score.is_none()));
    let page = all(json!({"sort": {"size": "asc"}, "from": 20, "size": 5, "fields": ["size"]}));
    assert_eq!(page, sizes[20..25]);
    for order in ["asc", "desc"] {
        let authors = all(json!({"sort": {"author.name": order}, "size": 1000, "fields": ["author.name"]}));
        let without = CORPUS.docs.iter().filter(|doc| doc.author.is_none()).count();
        assert!(authors[200 - without..].iter().all(|(_, _, doc)| doc.contains("null")), "those without come last: {order}");
        assert!(authors[0].2.contains(if order == "asc" { "Bob" } else { "dan" }));
    }
    let none = search(&CORPUS.snapshot, json!({"size": 0})).unwrap();
    assert_eq!((none.total, none.hits.len()), (200, 0));
    let whole = search(&CORPUS.snapshot, json!({"query": {"term": {"_id": "d001"}}})).unwrap();
    let doc = CORPUS.docs.iter().find(|doc| doc.id == "d001").unwrap();
    assert_eq!(whole.hits[0].doc.get(), doc.json().to_string());
    let shown = serde_json::to_value(&whole).unwrap();
    assert_eq!(shown["hits"][0]["_id"], "d001");
    assert_eq!(shown["hits"][0]["doc"]["size"], doc.size);
    assert!(shown["hits"][0].get("highlight").is_none());
}

#[test]
fn facets_and_aggregations_count_what_matches() {
    let request = json!({
        "query": {"range": {"size": {"gte": 0}}}, "size": 0, "facets": {"tags": 2, "author.name": 10},
        "aggs": {
            "by author": {"terms": {"field": "author.name"}, "aggs": {"mean": {"avg": {"field": "size"}}}},
            "sizes": {"stats": {"field": "size"}},
            "weeks": {"date_histogram": {"field": "day", "fixed_interval": "7d"}},
            "kinds": {"cardinality": {"field": "author.name"}},
            "steps": {"histogram": {"field": "size", "interval": 10}},
            "parts": {"range": {"field": "size", "ranges": [{"to": 10}, {"from": 10}]}},
            "half": {"percentiles": {"field": "size"}}
        }
    });
    let response = search(&CORPUS.snapshot, request).unwrap();
    let matching: Vec<&Doc> = CORPUS.docs.iter().filter(|doc| doc.size >= 0).collect();
    let count = |matches: &dyn Fn(&Doc) -> bool| matching.iter().filter(|doc| matches(doc)).count() as u64;
    assert_eq!(response.total, matching.len() as u64);
    let mut expected: Vec<(u64, String)> =
        AUTHORS.iter().map(|name| (count(&|doc| author_is(doc, name)), (*name).to_owned())).collect();
    expected.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let found: Vec<(u64, String)> =
        response.facets["author.name"].iter().map(|facet| (facet.count, facet.value.clone())).collect();
    assert_eq!(found, expected);
    assert_eq!(response.facets["tags"].len(), 2);
    for facet in &response.facets["tags"] {
        assert_eq!(facet.count, count(&|doc| doc.tags.contains(&facet.value)), "{facet:?}, each document once");
    }
    let aggs = &response.aggs;
    assert_eq!(aggs["by author"]["buckets"][0]["doc_count"], expected[0].0);
    let of_first: Vec<i64> = matching.iter().filter(|doc| author_is(doc, &expected[0].1)).map(|doc| doc.size).collect();
    let sum = |sizes: &[i64]| f64::from(i32::try_from(sizes.iter().sum::<i64>()).unwrap());
    let mean = sum(&of_first) / f64::from(u32::try_from(of_first.len()).unwrap());
    assert!((aggs["by author"]["buckets"][0]["mean"]["value"].as_f64().unwrap() - mean).abs() < 1e-9);
    assert_eq!(aggs["sizes"]["sum"], sum(&matching.iter().map(|doc| doc.size).collect::<Vec<_>>()));
    assert_eq!(aggs["kinds"]["value"], 4.0);
    let total =
        |name: &str| aggs[name]["buckets"].as_array().unwrap().iter().map(|b| b["doc_count"].as_u64().unwrap()).sum::<u64>();
    assert_eq!((total("weeks"), total("steps"), total("parts")), (response.total, response.total, response.total));
    assert_eq!(aggs["parts"]["buckets"][0]["doc_count"], count(&|doc| doc.size < 10));
    assert!(aggs["half"]["values"]["50.0"].is_number(), "{aggs}");
}

#[test]
fn arrays_count_once_as_text_and_add_up_as_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path(), mapping(&[], &["n"]));
    fixture.put("1", &json!({"n": [2, 2, 3]}));
    fixture.put("2", &json!({"n": [{"deep": 1}, 2]}));
    let snapshot = fixture.commit();
    let response = search(&snapshot, json!({"facets": ["n"], "aggs": {"s": {"stats": {"field": "n"}}}})).unwrap();
    let counts: Vec<(&str, u64)> = response.facets["n"].iter().map(|facet| (facet.value.as_str(), facet.count)).collect();
    assert_eq!(counts, [("2", 2), ("3", 1)]);
    assert_eq!(response.aggs["s"]["sum"], 9.0);
}

#[test]
fn highlights_mark_what_the_query_matched_in_the_fields_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let fields = [("subject", Analyzer::English), ("body", Analyzer::Standard)];
    let mut fixture = Fixture::open(dir.path(), mapping(&fields, &["kind"]));
    let body = ["First, a torn page", "crashes & <crash> logs"];
    fixture.put("1", &json!({"subject": "The torn writes of a log", "body": body, "kind": "a"}));
    let snapshot = fixture.commit();
    let highlight = |query: Value| {
        let request = json!({"query": query, "highlight": {"fields": ["subject", "body"], "max_chars": 60}});
        serde_json::to_value(search(&snapshot, request).unwrap()).unwrap()["hits"][0]["highlight"].clone()
    };
    let text = |query: &str| highlight(json!({ "query_string": query }));
    assert_eq!(
        text("torn WRITING"),
        json!({"subject": ["The <em>torn</em> <em>writes</em> of a log"], "body": ["First, a <em>torn</em> page"]})
    );
    assert_eq!(text("crash* -subject:missing"), json!({"body": ["<em>crashes</em> &amp; &lt;<em>crash</em>&gt; logs"]}));
    assert_eq!(text("crush~ OR kind:a"), json!({"body": ["crashes &amp; &lt;<em>crash</em>&gt; logs"]}));
    assert_eq!(text("kind:a AND NOT body:absent"), json!({}));
    assert_eq!(
        highlight(json!({"bool": {"filter": {"term": {"body": "page"}}}})),
        json!({"body": ["First, a torn <em>page</em>"]})
    );
    let mut highlighter = snapshot.highlighter("body", None, "torn", 100).unwrap();
    assert_eq!(highlighter.passages("so torn"), ["so <em>torn</em>"]);
}

#[test]
fn english_text_is_stemmed_and_stop_words_ask_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fields = [("e", Analyzer::English), ("w", Analyzer::Whitespace), ("k", Analyzer::Keyword), ("s", Analyzer::Standard)];
    let mut fixture = Fixture::open(dir.path(), mapping(&fields, &[]));
    let hash = "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3";
    fixture.put("1", &json!({"e": "The crash of the database", "w": "Some-Thing here", "k": "Whole Value", "s": hash}));
    let snapshot = fixture.commit();
    let count = |query: &str| search(&snapshot, json!({"query": {"query_string": query}})).unwrap().total;
    for (query, found) in [
        ("e:crashes", 1),
        ("e:databases", 1),
        ("e:\"crash of the database\"", 1),
        ("e:\"crash database\"", 0),
        ("e:the", 0),
        ("e:(the AND crash)", 1),
        ("e:(the OR missing)", 0),
        ("-e:the", 1),
        ("e:the -e:missing", 0),
        ("w:Some-Thing", 1),
        ("w:some-thing", 0),
        ("k:\"Whole Value\"", 1),
        ("k:Whole", 0),
        ("k:Whole*", 1),
        ("s:a94a8fe5ccb19ba61c4c0873d391e987982fbbd3", 1),
        ("s:A94A8FE5*", 1),
        ("the crash", 1),
    ] {
        assert_eq!(count(query), found, "{query}");
    }
}
