//! Made-up queries of every kind over the made-up documents, with what they mean in plain Rust and in tantivy's own terms.

use std::sync::LazyLock;

use serde_json::{Value, json};
use tantivy::query::{BooleanQuery, BoostQuery, ConstScoreQuery, DisjunctionMaxQuery, Occur, PhraseQuery, Query, TermQuery};
use tantivy::schema::IndexRecordOption;
use tantivy::{Searcher, Term};

use super::corpus::{CORPUS, Count, Doc, KINDS, Random, WORDS, has_phrase, has_word, tokens};

pub type Matches = Box<dyn Fn(&Doc) -> bool>;

/// A query, what it means, and where that is easy the same query in tantivy's own terms.
pub struct Generated {
    pub json: Value,
    pub matches: Matches,
    pub raw: Option<Box<dyn Query>>,
}

fn plain(json: Value, matches: impl Fn(&Doc) -> bool + 'static) -> Generated {
    Generated { json, matches: Box::new(matches), raw: None }
}

/// The same index, opened by tantivy alone.
pub static RAW: LazyLock<Searcher> =
    LazyLock::new(|| tantivy::Index::open_in_dir(CORPUS.dir.path()).unwrap().reader().unwrap().searcher());

fn body_field() -> tantivy::schema::Field {
    RAW.schema().get_field("t:body").unwrap()
}

fn raw_term(word: &str) -> Box<dyn Query> {
    Box::new(TermQuery::new(Term::from_field_text(body_field(), word), IndexRecordOption::WithFreqs))
}

fn text_field(random: &mut Random) -> &'static str {
    random.of(&["body", "body", "title", "code"])
}

/// The halves of a count: an exact order of whole numbers and fractions.
pub fn halves(count: Count) -> i128 {
    match count {
        Count::Whole(whole) => i128::from(whole) * 2,
        Count::Halves(halves) => i128::from(halves),
    }
}

fn in_range(value: i128, range: &[(&str, i128)]) -> bool {
    range.iter().all(|(name, bound)| match *name {
        "gt" => value > *bound,
        "gte" => value >= *bound,
        "lt" => value < *bound,
        _ => value <= *bound,
    })
}

/// Bounds by name, those of the documents' neighbourhood.
fn bounds(random: &mut Random, mut bound: impl FnMut(&mut Random) -> i128) -> Vec<(&'static str, i128)> {
    let (low, high) = (bound(random), bound(random));
    let mut range = Vec::new();
    let which = random.below(3);
    if which != 1 {
        range.push((random.of(&["gt", "gte"]), low.min(high)));
    }
    if which != 0 {
        range.push((random.of(&["lt", "lte"]), low.max(high)));
    }
    range
}

#[allow(clippy::too_many_lines, reason = "one arm a kind of query")]
fn leaf(random: &mut Random) -> Generated {
    let word = random.of(&WORDS).to_owned();
    match random.below(24) {
        0 => plain(json!({"match_all": {}}), |_| true),
        1 | 2 => {
            let (text, all) = (random.words(4), random.below(2) == 0);
            let words = tokens(&text);
            let occur = if all { Occur::Must } else { Occur::Should };
            let raw: Vec<_> = words.iter().map(|word| (occur, raw_term(word))).collect();
            let empty = words.is_empty();
            let operator = if all { "and" } else { "or" };
            let json = json!({"match": {"body": {"query": text, "operator": operator}}});
            let found = plain(json, move |doc| {
                let has = |word: &String| has_word(doc, "body", word);
                !words.is_empty() && if all { words.iter().all(has) } else { words.iter().any(has) }
            });
            Generated { raw: (!empty).then(|| Box::new(BooleanQuery::new(raw)) as Box<dyn Query>), ..found }
        }
        3 => {
            let field = text_field(random);
            plain(json!({"match": {field: word}}), move |doc| has_word(doc, field, &word))
        }
        4 => plain(json!({"match": {"body": {"query": word, "fuzziness": 1}}}), move |doc| {
            tokens(&doc.body).iter().any(|token| strsim::osa_distance(token, &word) <= 1)
        }),
        5 => {
            let words = vec![word.clone(), random.of(&WORDS).to_owned()];
            let raw = PhraseQuery::new(words.iter().map(|word| Term::from_field_text(body_field(), word)).collect());
            let found = plain(json!({"match_phrase": {"body": words.join(" ")}}), move |doc| has_phrase(doc, "body", &words));
            Generated { raw: Some(Box::new(raw)), ..found }
        }
        6 => {
            let (field, words) = (random.of(&["title", "code"]), vec![word, random.of(&WORDS).to_owned()]);
            plain(json!({"match_phrase": {field: words.join(" ")}}), move |doc| has_phrase(doc, field, &words))
        }
        7 => {
            let (first, start) = (word, random.of(&["p", "pag", "wr", "cra", "l", "x"]));
            plain(json!({"match_phrase_prefix": {"body": format!("{first} {start}")}}), move |doc| {
                tokens(&doc.body).windows(2).any(|pair| pair[0] == first && pair[1].starts_with(start))
            })
        }
        8 => {
            let kind = random.of(&["best_fields", "most_fields", "phrase"]);
            let json = json!({"multi_match": {"query": word, "fields": ["body^2", "title"], "type": kind, "tie_breaker": 0.3}});
            plain(json, move |doc| has_word(doc, "body", &word) || has_word(doc, "title", &word))
        }
        9 => {
            let raw = raw_term(&word);
            let found = plain(json!({"term": {"body": word.to_uppercase()}}), move |doc| has_word(doc, "body", &word));
            Generated { raw: Some(raw), ..found }
        }
        10 => {
            let tags = [format!("tag{}", random.below(5)), format!("tag{}", random.below(5))];
            plain(json!({"terms": {"tags": tags}}), move |doc| doc.tags.iter().any(|tag| tags.contains(tag)))
        }
        11 => {
            let ids: Vec<String> = (0..random.below(6)).map(|_| format!("d{:03}", random.below(400))).collect();
            plain(json!({"ids": {"values": ids}}), move |doc| ids.contains(&doc.id))
        }
        12 => {
            let start = random.of(&["p", "pag", "cr", "fsy", "zz"]);
            plain(json!({"prefix": {"body": start}}), move |doc| tokens(&doc.body).iter().any(|word| word.starts_with(start)))
        }
        13 => {
            let (pattern, matches): (&str, fn(&str) -> bool) = random.of(&[
                ("cr?sh", (|word| word.len() == 5 && word.starts_with("cr") && word.ends_with("sh")) as fn(&str) -> bool),
                ("*r*", |word| word.contains('r')),
                ("pag*s", |word| word.starts_with("pag") && word.ends_with('s')),
                ("??", |word| word.len() == 2),
                ("LOG*", |word| word.starts_with("log")),
            ]);
            plain(json!({"wildcard": {"body": pattern}}), move |doc| tokens(&doc.body).iter().any(|word| matches(word)))
        }
        14 => {
            let (pattern, matches): (&str, fn(&str) -> bool) = random.of(&[
                ("cr[au]sh", (|word| word == "crash" || word == "crush") as fn(&str) -> bool),
                ("pag.*", |word| word.starts_with("pag")),
                ("log|torn", |word| word == "log" || word == "torn"),
                ("logs?", |word| word == "log" || word == "logs"),
                ("[a-z]{2}", |word| word.len() == 2),
                ("cr", |_| false),
            ]);
            plain(json!({"regexp": {"body": pattern}}), move |doc| tokens(&doc.body).iter().any(|word| matches(word)))
        }
        15 => {
            let field = random.of(&["size", "kind", "at", "net.addr", "x.p", "x.u"]);
            plain(json!({"exists": {"field": field}}), move |doc| match field {
                "size" => doc.size.is_some(),
                "kind" => doc.kind.is_some(),
                "at" => doc.at_millis.is_some(),
                "net.addr" => doc.addr.is_some(),
                field => doc.loose(&field[2..]).is_some(),
            })
        }
        16 => {
            let range = bounds(random, |random| i128::try_from(random.below(60)).unwrap() - 20);
            let body: serde_json::Map<String, Value> =
                range.iter().map(|(name, bound)| ((*name).to_owned(), json!(i64::try_from(*bound).unwrap()))).collect();
            plain(json!({"range": {"size": body}}), move |doc| doc.size.is_some_and(|size| in_range(i128::from(size), &range)))
        }
        17 => {
            // In halves, written as whole numbers or fractions, near zero or near 2^53.
            let base = random.of(&[0, 1_i128 << 54]);
            let range =
                bounds(random, |random| base + i128::try_from(random.below(24)).unwrap() * (1 + i128::from(base > 0)) - 12);
            let number = |halves: i128| match halves % 2 {
                0 => json!(i64::try_from(halves / 2).unwrap()),
                _ => json!(f64::from(i32::try_from(halves).unwrap()) / 2.0),
            };
            let body: serde_json::Map<String, Value> =
                range.iter().map(|(name, bound)| ((*name).to_owned(), number(*bound))).collect();
            plain(json!({"range": {"count": body}}), move |doc| doc.count.is_some_and(|count| in_range(halves(count), &range)))
        }
        18 => {
            let count = random.of(&[Count::Whole((1 << 53) + 1), Count::Whole(3), Count::Halves(5)]);
            let value = if let Count::Whole(whole) = count { json!(whole) } else { json!(2.5) };
            plain(json!({"term": {"count": value}}), move |doc| doc.count == Some(count))
        }
        19 => {
            let range = bounds(random, |random| 1_700_000_000_000 + i128::try_from(random.below(30)).unwrap() * 1_001);
            let body: serde_json::Map<String, Value> =
                range.iter().map(|(name, bound)| ((*name).to_owned(), json!(i64::try_from(*bound).unwrap()))).collect();
            plain(json!({"range": {"at": body}}), move |doc| doc.at_millis.is_some_and(|at| in_range(i128::from(at), &range)))
        }
        20 => {
            let (ok, kind) = (random.below(2) == 0, random.of(&KINDS));
            match random.below(2) {
                0 => plain(json!({"term": {"ok": ok}}), move |doc| doc.ok == Some(ok)),
                _ => plain(json!({"term": {"kind": kind}}), move |doc| doc.kind == Some(kind)),
            }
        }
        21 => {
            let third = u8::try_from(random.below(4)).unwrap();
            match random.below(2) {
                0 => plain(json!({"term": {"net.addr": format!("10.0.{third}.0/24")}}), move |doc| {
                    doc.addr.is_some_and(|addr| addr[2] == third)
                }),
                _ => plain(json!({"range": {"net.addr": {"gte": format!("10.0.{third}.2")}}}), move |doc| {
                    doc.addr.is_some_and(|addr| (addr[2], addr[3]) >= (third, 2))
                }),
            }
        }
        22 => {
            let name = random.of(&["p", "q", "r", "s", "t", "u"]);
            let has = move |doc: &Doc, wanted: &Value| match doc.loose(name) {
                Some(Value::Array(items)) => items.contains(wanted),
                Some(value) => value == wanted,
                None => false,
            };
            let path = format!("x.{name}");
            let value = match random.below(3) {
                0 => json!(word),
                1 => json!(random.below(20)),
                _ => json!(random.below(2) == 0),
            };
            match random.below(2) {
                0 => plain(json!({"term": {path: value}}), move |doc| has(doc, &value)),
                _ => plain(json!({"match": {path: value}}), move |doc| has(doc, &value)),
            }
        }
        _ => {
            let (name, low) = (random.of(&["p", "q", "r"]), random.below(20));
            plain(json!({"range": {format!("x.{name}"): {"gte": low}}}), move |doc| {
                doc.loose(name).and_then(Value::as_u64).is_some_and(|value| value >= low as u64)
            })
        }
    }
}

pub fn generate(random: &mut Random, depth: usize) -> Generated {
    if depth == 0 || random.below(3) == 0 {
        return leaf(random);
    }
    let mut many = |max: usize| (0..random.below(max)).map(|_| generate(random, depth - 1)).collect::<Vec<_>>();
    let (must, should, must_not, filter) = (many(3), many(3), many(2), many(2));
    match random.below(6) {
        0 => {
            let Generated { json, matches, .. } = generate(random, depth - 1);
            Generated { json: json!({"constant_score": {"filter": json}}), matches, raw: None }
        }
        1 if !must.is_empty() => {
            let queries: Vec<Value> = must.iter().map(|query| query.json.clone()).collect();
            plain(json!({"dis_max": {"queries": queries}}), move |doc| must.iter().any(|query| (query.matches)(doc)))
        }
        _ => {
            let minimum = if should.is_empty() { None } else { Some(random.below(should.len() + 1)) };
            let list = |queries: &[Generated]| queries.iter().map(|query| query.json.clone()).collect::<Vec<_>>();
            let mut json =
                json!({"must": list(&must), "should": list(&should), "must_not": list(&must_not), "filter": list(&filter)});
            if let Some(minimum) = minimum {
                json["minimum_should_match"] = json!(minimum);
            }
            let minimum = minimum.unwrap_or(0);
            let matches = move |doc: &Doc| {
                must.iter().chain(&filter).all(|query| (query.matches)(doc))
                    && !must_not.iter().any(|query| (query.matches)(doc))
                    && should.iter().filter(|query| (query.matches)(doc)).count() >= minimum
            };
            plain(json!({ "bool": json }), matches)
        }
    }
}

/// A query of kinds that rank, with the same in tantivy's terms.
pub fn scored(random: &mut Random, depth: usize) -> Generated {
    let leaf_only = depth == 0 || random.below(3) == 0;
    loop {
        let found = if leaf_only { leaf(random) } else { combined(random, depth) };
        if found.raw.is_some() {
            return found;
        }
    }
}

fn combined(random: &mut Random, depth: usize) -> Generated {
    let mut many = |least: usize| (0..least + random.below(3)).map(|_| scored(random, depth - 1)).collect::<Vec<_>>();
    let (must, should, filter) = (many(1), many(0), many(0));
    let list = |queries: &[Generated]| queries.iter().map(|query| query.json.clone()).collect::<Vec<_>>();
    let raw = |query: &Generated| query.raw.as_ref().unwrap().box_clone();
    let (json, raw): (Value, Box<dyn Query>) = match random.below(4) {
        0 => {
            let raw = BoostQuery::new(Box::new(ConstScoreQuery::new(raw(&must[0]), 3.0)), 2.0);
            (json!({"bool": {"must": {"constant_score": {"filter": must[0].json, "boost": 3}}, "boost": 2}}), Box::new(raw))
        }
        1 => {
            let raw = DisjunctionMaxQuery::with_tie_breaker(must.iter().map(raw).collect(), 0.5);
            (json!({"dis_max": {"queries": list(&must), "tie_breaker": 0.5}}), Box::new(raw))
        }
        _ => {
            let with = |occur: Occur, queries: &[Generated]| queries.iter().map(|query| (occur, raw(query))).collect::<Vec<_>>();
            let mut clauses = with(Occur::Must, &must);
            let unscored = |query| Box::new(ConstScoreQuery::new(raw(query), 0.0)) as Box<dyn Query>;
            clauses.extend(filter.iter().map(|query| (Occur::Must, unscored(query))));
            clauses.extend(with(Occur::Should, &should));
            let raw = BooleanQuery::with_minimum_required_clauses(clauses, 0);
            (json!({"bool": {"must": list(&must), "should": list(&should), "filter": list(&filter)}}), Box::new(raw))
        }
    };
    Generated { raw: Some(raw), ..plain(json, |_| true) }
}
