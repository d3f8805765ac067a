//! Commits of software projects: five hundred made-up queries of every kind against a straightforward evaluation over the documents,
//! and the best hits against tantivy's own over the same index.
//!
//! `HEADWATER_COMMITS=FILE`, lines of JSON, takes real ones instead of a thousand made-up ones; `HEADWATER_SEED` other queries.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/corpus.rs"]
#[allow(dead_code, reason = "the random numbers are those of the other tests")]
mod corpus;

use std::collections::BTreeMap;

use common::{Fixture, search};
use corpus::{Random, tokens};
use docstore::mapping::MappingOptions;
use docstore::{DocumentSnapshot, Mapping};
use serde_json::{Value, json};
use tantivy::collector::{Count, TopDocs};
use tantivy::query::{BooleanQuery, Occur, PhraseQuery, Query, TermQuery};
use tantivy::schema::IndexRecordOption;
use tantivy::{DocAddress, Searcher, Term};

const QUERIES: usize = 500;
const DAY: i64 = 86_400;

/// A document as the plain evaluation sees it.
struct Commit {
    id: String,
    json: Value,
    subject: Vec<String>,
    body: Vec<String>,
}

impl Commit {
    fn of(json: Value) -> Self {
        let words = |name: &str| tokens(json[name].as_str().unwrap_or_default());
        // The same commit may be in several projects.
        let id = format!("{}:{}", json["repo"].as_str().unwrap(), json["commit"].as_str().unwrap());
        Self { id, subject: words("subject"), body: words("body"), json }
    }

    fn words(&self, field: &str) -> &[String] {
        if field == "subject" { &self.subject } else { &self.body }
    }

    fn has(&self, field: &str, word: &str) -> bool {
        self.words(field).iter().any(|own| own == word)
    }

    fn has_phrase(&self, field: &str, phrase: &[String]) -> bool {
        !phrase.is_empty() && self.words(field).windows(phrase.len()).any(|run| run == phrase)
    }
}

fn commits() -> Vec<Commit> {
    if let Some(file) = std::env::var_os("HEADWATER_COMMITS") {
        let text = std::fs::read_to_string(file).unwrap();
        return text.lines().map(|line| Commit::of(serde_json::from_str(line).unwrap())).collect();
    }
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    (0..1_000).map(|n| Commit::of(made_up(n, &mut random))).collect()
}

fn made_up(n: usize, random: &mut Random) -> Value {
    json!({
        "repo": format!("repo{}", random.below(5)), "commit": format!("{n:012x}"), "author": format!("a{}", random.below(40)),
        "ts": 1_537_000_000 + i64::try_from(random.below(300)).unwrap() * DAY, "subject": random.words(9), "body": random.words(40),
        "files": random.below(20), "added": random.below(500), "removed": random.below(300),
        "parents": (0..random.below(3)).map(|_| format!("{:012x}", random.below(1_000))).collect::<Vec<_>>(),
    })
}

fn mapping() -> Mapping {
    let options = MappingOptions {
        search: Some("subject, body"),
        facets: Some("repo, author, files"),
        fields: Some("ts:date, added:number, parents:keyword"),
        ..MappingOptions::default()
    };
    Mapping::from_options(&options).unwrap()
}

type Matches = Box<dyn Fn(&Commit) -> bool>;

/// A query, what it means, and where that is easy the same in tantivy's own terms.
struct Generated {
    json: Value,
    matches: Matches,
    raw: Option<Box<dyn Query>>,
}

fn plain(json: Value, matches: impl Fn(&Commit) -> bool + 'static) -> Generated {
    Generated { json, matches: Box::new(matches), raw: None }
}

struct Generator<'a> {
    random: Random,
    commits: &'a [Commit],
    raw: &'a Searcher,
}

impl Generator<'_> {
    fn commit(&mut self) -> &Commit {
        &self.commits[self.random.below(self.commits.len())]
    }

    fn field(&mut self) -> &'static str {
        self.random.of(&["subject", "body"])
    }

    /// A few words in a row of some document.
    fn run(&mut self, field: &str, most: usize) -> Vec<String> {
        loop {
            let (at, len) = (self.random.below(10_000), 1 + self.random.below(most));
            let words = self.commit().words(field);
            if !words.is_empty() {
                let start = at % words.len();
                return words[start..words.len().min(start + len)].to_vec();
            }
        }
    }

    fn word(&mut self, field: &str) -> String {
        self.run(field, 1).remove(0)
    }

    fn term(&self, field: &str, word: &str) -> Box<dyn Query> {
        Box::new(TermQuery::new(self.raw_term(field, word), IndexRecordOption::WithFreqs))
    }

    fn raw_term(&self, field: &str, word: &str) -> Term {
        Term::from_field_text(self.raw.schema().get_field(&format!("t:{field}")).unwrap(), word)
    }

    fn value(&mut self, name: &str) -> Value {
        self.commit().json[name].clone()
    }

    fn number(&mut self, name: &str) -> i64 {
        self.value(name).as_i64().unwrap()
    }

    /// Two bounds of some documents, at least one of them asked for.
    fn range(&mut self, name: &'static str) -> (Value, impl Fn(i64) -> bool + use<>) {
        let (one, other) = (self.number(name), self.number(name));
        let (low, high) = (one.min(other), one.max(other));
        let (has_low, has_high) = self.random.of(&[(true, true), (true, false), (false, true)]);
        let (low_word, high_word) = (self.random.of(&["gt", "gte"]), self.random.of(&["lt", "lte"]));
        let mut bounds = json!({});
        if has_low {
            bounds[low_word] = json!(low);
        }
        if has_high {
            bounds[high_word] = json!(high);
        }
        let inside = move |value: i64| {
            let above = if low_word == "gt" { value > low } else { value >= low };
            let below = if high_word == "lt" { value < high } else { value <= high };
            (!has_low || above) && (!has_high || below)
        };
        (bounds, inside)
    }

    #[allow(clippy::too_many_lines, reason = "one arm a kind of query")]
    fn leaf(&mut self) -> Generated {
        let field = self.field();
        match self.random.below(18) {
            0 | 1 => {
                let (words, all) = (self.run(field, 4), self.random.below(2) == 0);
                let occur = if all { Occur::Must } else { Occur::Should };
                let raw = BooleanQuery::new(words.iter().map(|word| (occur, self.term(field, word))).collect());
                let json = json!({"match": {field: {"query": words.join(" "), "operator": if all { "and" } else { "or" }}}});
                let found = plain(json, move |commit| {
                    let has = |word: &String| commit.has(field, word);
                    if all { words.iter().all(has) } else { words.iter().any(has) }
                });
                Generated { raw: Some(Box::new(raw)), ..found }
            }
            2 => {
                let word = self.word(field);
                let raw = self.term(field, &word);
                let found = plain(json!({"match": {field: word}}), move |commit| commit.has(field, &word));
                Generated { raw: Some(raw), ..found }
            }
            3 | 4 => {
                let phrase = self.run(field, 4);
                let terms: Vec<Term> = phrase.iter().map(|word| self.raw_term(field, word)).collect();
                let raw = (terms.len() > 1).then(|| Box::new(PhraseQuery::new(terms)) as Box<dyn Query>);
                let json = json!({"match_phrase": {field: phrase.join(" ")}});
                Generated { raw, ..plain(json, move |commit| commit.has_phrase(field, &phrase)) }
            }
            5 => {
                let mut phrase = self.run(field, 3);
                let last = phrase.pop().unwrap();
                let start: String = last.chars().take(3).collect();
                let query = format!("{} {start}", phrase.join(" "));
                plain(json!({"match_phrase_prefix": {field: query}}), move |commit| {
                    commit
                        .words(field)
                        .windows(phrase.len() + 1)
                        .any(|run| run[..phrase.len()] == phrase[..] && run[phrase.len()].starts_with(&start))
                })
            }
            6 => {
                let name = self.random.of(&["repo", "author"]);
                let value = self.value(name);
                plain(json!({"term": {name: value}}), move |commit| commit.json[name] == value)
            }
            7 => {
                let values: Vec<Value> = (0..=self.random.below(3)).map(|_| self.value("author")).collect();
                plain(json!({"terms": {"author": values}}), move |commit| values.contains(&commit.json["author"]))
            }
            8 => {
                let value = self.value("files");
                plain(json!({"term": {"files": value}}), move |commit| commit.json["files"] == value)
            }
            9 | 10 => {
                let name = self.random.of(&["ts", "added", "files"]);
                let (bounds, inside) = self.range(name);
                plain(json!({"range": {name: bounds}}), move |commit| commit.json[name].as_i64().is_some_and(&inside))
            }
            11 => {
                let start: String = self.word(field).chars().take(3).collect();
                plain(json!({"prefix": {field: start}}), move |commit| {
                    commit.words(field).iter().any(|word| word.starts_with(&start))
                })
            }
            12 => {
                let word: Vec<char> = self.word(field).chars().collect();
                // `?` for the second character, anything behind the third.
                let (first, third) = (word[0], word.get(2).copied());
                let pattern = format!("{first}?{}*", third.map(String::from).unwrap_or_default());
                plain(json!({"wildcard": {field: pattern}}), move |commit| {
                    commit.words(field).iter().any(|word| {
                        let mut chars = word.chars();
                        chars.next() == Some(first)
                            && chars.next().is_some()
                            && third.is_none_or(|third| chars.next() == Some(third))
                    })
                })
            }
            13 => {
                let word = self.word(field);
                let json = json!({"fuzzy": {field: {"value": word, "fuzziness": 1}}});
                plain(json, move |commit| commit.words(field).iter().any(|own| strsim::osa_distance(own, &word) <= 1))
            }
            14 => {
                let ids: Vec<String> = (0..=self.random.below(4)).map(|_| self.commit().id.clone()).collect();
                plain(json!({"ids": {"values": ids}}), move |commit| ids.contains(&commit.id))
            }
            15 => {
                let name = self.random.of(&["parents", "repo"]);
                plain(json!({"exists": {"field": name}}), move |commit| match &commit.json[name] {
                    Value::Array(items) => !items.is_empty(),
                    value => !value.is_null(),
                })
            }
            16 => {
                let words = self.run(field, 3);
                let json = json!({"multi_match": {"query": words.join(" "), "fields": ["subject^2", "body"], "operator": "and"}});
                plain(json, move |commit| {
                    ["subject", "body"].iter().any(|field| words.iter().all(|word| commit.has(field, word)))
                })
            }
            _ => {
                let (must, without) = (self.word("subject"), self.word("body"));
                let text = format!("subject:\"{must}\" -body:\"{without}\"");
                plain(json!({"query_string": text}), move |commit| commit.has("subject", &must) && !commit.has("body", &without))
            }
        }
    }

    fn query(&mut self, depth: usize) -> Generated {
        if depth == 0 || self.random.below(3) > 0 {
            return self.leaf();
        }
        match self.random.below(4) {
            0 => {
                let inner = self.query(depth - 1);
                plain(json!({"constant_score": {"filter": inner.json}}), inner.matches)
            }
            1 => {
                let (one, other) = (self.query(depth - 1), self.query(depth - 1));
                plain(json!({"dis_max": {"queries": [one.json, other.json]}}), move |commit| {
                    (one.matches)(commit) || (other.matches)(commit)
                })
            }
            _ => {
                let mut some = |most: usize| {
                    let count = self.random.below(most);
                    (0..count).map(|_| self.query(depth - 1)).collect::<Vec<_>>()
                };
                let (must, filter, without, should) = (some(3), some(2), some(2), some(3));
                let json = |queries: &[Generated]| queries.iter().map(|query| query.json.clone()).collect::<Vec<_>>();
                let minimum = usize::from(must.is_empty() && filter.is_empty() && !should.is_empty());
                let query = json!({"bool": {
                    "must": json(&must), "filter": json(&filter), "must_not": json(&without), "should": json(&should)
                }});
                plain(query, move |commit| {
                    let all = |queries: &[Generated]| queries.iter().all(|query| (query.matches)(commit));
                    let met = should.iter().filter(|query| (query.matches)(commit)).count();
                    all(&must) && all(&filter) && !without.iter().any(|query| (query.matches)(commit)) && met >= minimum
                })
            }
        }
    }
}

/// The ids of every hit, in pages.
fn every_hit(snapshot: &DocumentSnapshot, query: &Value) -> Vec<String> {
    let (mut ids, mut after) = (Vec::new(), None::<Value>);
    loop {
        let mut request = json!({"query": query, "size": 10_000, "sort": ["_id"], "fields": []});
        if let Some(after) = &after {
            request["search_after"] = json!([after]);
        }
        let response = search(snapshot, request).unwrap();
        let Some(last) = response.hits.last() else { return ids };
        after = Some(json!(last.id));
        ids.extend(response.hits.into_iter().map(|hit| hit.id));
    }
}

#[test]
fn every_query_finds_what_a_straightforward_evaluation_finds() {
    let commits = commits();
    let dir = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::open(dir.path(), mapping());
    for chunk in commits.chunks(commits.len().div_ceil(7)) {
        for batch in chunk.chunks(500) {
            let records: Vec<_> = batch.iter().map(|commit| (commit.id.clone(), Some(commit.json.to_string()))).collect();
            assert_eq!(fixture.apply(&records), []);
        }
        fixture.commit();
    }
    let snapshot = fixture.save();
    assert_eq!(snapshot.count(), commits.len() as u64);
    let raw = tantivy::Index::open_in_dir(dir.path()).unwrap().reader().unwrap().searcher();

    let seed = std::env::var("HEADWATER_SEED").map_or(0x2545_F491_4F6C_DD1D, |seed| seed.parse().unwrap());
    let mut generator = Generator { random: Random(seed), commits: &commits, raw: &raw };
    let (mut found, mut ranked) = (0, BTreeMap::new());
    for n in 0..QUERIES {
        let Generated { json, matches, raw: own } = generator.query(2);
        let mut expected: Vec<&str> = commits.iter().filter(|commit| matches(commit)).map(|commit| commit.id.as_str()).collect();
        expected.sort_unstable();
        assert_eq!(every_hit(&snapshot, &json), expected, "query {n} of seed {seed}: {json}");
        found += usize::from(!expected.is_empty());
        let Some(own) = own else { continue };
        let best = search(&snapshot, json!({"query": json, "size": 10})).unwrap();
        let (top, total) = raw.search(&own, &(TopDocs::with_limit(10).order_by_score(), Count)).unwrap();
        let id_of = |DocAddress { segment_ord, doc_id }| {
            let column = raw.segment_reader(segment_ord).fast_fields().str("_id").unwrap().unwrap();
            let (ordinal, mut text) = (column.term_ords(doc_id).next().unwrap(), String::new());
            assert!(column.ord_to_str(ordinal, &mut text).unwrap());
            text
        };
        let theirs: Vec<(String, f32)> = top.into_iter().map(|(score, address)| (id_of(address), score)).collect();
        let ours: Vec<(String, f32)> = best.hits.into_iter().map(|hit| (hit.id, hit.score.unwrap())).collect();
        assert_eq!((best.total, ours.len()), (total as u64, theirs.len()), "query {n} of seed {seed}: {json}");
        // The sum of a document's scores may differ in its last bits, as it depends on the order in which they are added.
        let same = |one: f32, other: f32| (one - other).abs() <= 1e-5 * other;
        let worst = theirs.last().map_or(0.0, |(_, score)| *score);
        for ((id, score), (_, at_same_place)) in ours.iter().zip(&theirs) {
            let known = theirs.iter().find(|(their, _)| their == id).map_or(worst, |(_, score)| *score);
            assert!(
                same(*score, known) && same(*score, *at_same_place),
                "{id} of query {n} of seed {seed}: {json}: {ours:?} {theirs:?}"
            );
        }
        *ranked.entry(json.as_object().unwrap().keys().next().unwrap().clone()).or_insert(0) += 1;
    }
    assert!(found > QUERIES / 2, "{found} queries found anything");
    eprintln!("{} commits, {QUERIES} queries, {found} of which find any; ranked as tantivy does: {ranked:?}", commits.len());
    assert!(ranked.values().sum::<i32>() > 40, "{ranked:?}");
}
