//! The same searches through this crate and through tantivy's own parser and collectors, on one index.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use docstore::{DocumentSnapshot, SearchRequest};
use serde_json::{Value, json};
use tantivy::aggregation::AggregationCollector;
use tantivy::aggregation::agg_req::Aggregations;
use tantivy::collector::{Count, TopDocs};
use tantivy::query::{BooleanQuery, Occur, Query, QueryParser, RangeQuery, RegexQuery, TermQuery};
use tantivy::schema::{IndexRecordOption, Value as _};
use tantivy::{DocAddress, Index, Searcher, TantivyDocument, Term};

use crate::{Input, folder, index, open, percentile, raw};

const WORDS: usize = 100;
const ROUNDS: usize = 30;

/// How plain tantivy answers.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    Top,
    Count,
    Facet,
}

struct Case {
    name: &'static str,
    ours: Vec<SearchRequest>,
    plain: Vec<Box<dyn Query>>,
    answer: Answer,
}

struct Plain {
    searcher: Searcher,
    source: tantivy::schema::Field,
}

impl Plain {
    fn run(&self, query: &dyn Query, answer: Answer, with_total: bool) -> usize {
        let top = TopDocs::with_limit(10).order_by_score();
        let hits: Vec<(f32, DocAddress)> = match (answer, with_total) {
            (Answer::Count, _) => return self.searcher.search(query, &Count).unwrap(),
            (Answer::Facet, _) => {
                let aggs: Aggregations =
                    serde_json::from_value(json!({"repo": {"terms": {"field": "k:repo", "size": 10}}})).unwrap();
                let collector = AggregationCollector::from_aggs(aggs, Default::default());
                let (hits, count, _) = self.searcher.search(query, &(top, Count, collector)).unwrap();
                std::hint::black_box(count);
                hits
            }
            (Answer::Top, false) => self.searcher.search(query, &top).unwrap(),
            (Answer::Top, true) => self.searcher.search(query, &(top, Count)).unwrap().0,
        };
        let mut bytes = 0;
        for (_, address) in hits {
            let document: TantivyDocument = self.searcher.doc(address).unwrap();
            bytes += document.get_first(self.source).unwrap().as_bytes().unwrap().to_vec().len();
        }
        bytes
    }
}

/// Every query several times; the median and the 99th percentile.
fn measure<T>(queries: &[T], mut run: impl FnMut(&T) -> usize) -> (Duration, Duration) {
    let mut times = Vec::new();
    for round in 0..=ROUNDS {
        for query in queries {
            let started = Instant::now();
            std::hint::black_box(run(query));
            if round > 0 {
                times.push(started.elapsed());
            }
        }
    }
    times.sort();
    (percentile(&times, 0.5), percentile(&times, 0.99))
}

/// Words of the documents' subjects, from frequent ones to rare ones.
fn words(input: &Input) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (_, json) in &input.documents {
        let value: Value = serde_json::from_str(json).unwrap();
        for word in value["subject"].as_str().unwrap().split(|c: char| !c.is_ascii_alphabetic()).filter(|word| word.len() > 2) {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    let mut words: Vec<(usize, String)> =
        counts.into_iter().map(|(word, count)| (count, word)).filter(|(count, _)| *count >= 5).collect();
    words.sort_by(|one, other| other.cmp(one));
    // Evenly over the order by frequency, the frequent ones twice as dense.
    let rank = |at: usize| (at * at * (words.len() - 1)) / ((WORDS - 1) * (WORDS - 1));
    (0..WORDS).map(|at| words[rank(at)].1.clone()).collect()
}

fn cases(words: &[String], parser: &QueryParser, index: &Index) -> Vec<Case> {
    let schema = index.schema();
    let field = |name: &str| schema.get_field(name).unwrap();
    let pairs: Vec<(&String, &String)> = words.iter().zip(words.iter().cycle().skip(37)).collect();
    let parse = |text: String| parser.parse_query(&text).unwrap();
    let request = |value: Value| serde_json::from_value::<SearchRequest>(value).unwrap();
    let subject = |text: &str| json!({"match": {"subject": {"query": text}}});
    let both = |text: &str, operator: &str| json!({"match": {"subject": {"query": text, "operator": operator}}});
    let phrases =
        ["add support", "fix bug", "merge pull request", "pull request", "unit test", "memory leak", "data race", "clean up"];
    let range = |low: f64| -> Box<dyn Query> {
        let bound = |value: f64| Term::from_field_f64(field("n:ts"), value);
        Box::new(RangeQuery::new(std::ops::Bound::Included(bound(low)), std::ops::Bound::Excluded(bound(low + 3e7))))
    };
    let ts = |n: usize| 1.2e9 + 4e6 * n as f64;
    let prefix = |word: &String| word[..3].to_owned();
    vec![
        Case {
            name: "one word, top 10",
            ours: words.iter().map(|word| request(json!({"query": subject(word)}))).collect(),
            plain: words.iter().map(|word| parse(format!("t\\:subject:{word}"))).collect(),
            answer: Answer::Top,
        },
        Case {
            name: "two words, either, top 10",
            ours: pairs.iter().map(|(a, b)| request(json!({"query": both(&format!("{a} {b}"), "or")}))).collect(),
            plain: pairs.iter().map(|(a, b)| parse(format!("t\\:subject:{a} OR t\\:subject:{b}"))).collect(),
            answer: Answer::Top,
        },
        Case {
            name: "two words, both, top 10",
            ours: pairs.iter().map(|(a, b)| request(json!({"query": both(&format!("{a} {b}"), "and")}))).collect(),
            plain: pairs.iter().map(|(a, b)| parse(format!("t\\:subject:{a} AND t\\:subject:{b}"))).collect(),
            answer: Answer::Top,
        },
        Case {
            name: "phrase, top 10",
            ours: phrases.iter().map(|text| request(json!({"query": {"match_phrase": {"subject": text}}}))).collect(),
            plain: phrases.iter().map(|text| parse(format!("t\\:subject:\"{text}\""))).collect(),
            answer: Answer::Top,
        },
        Case {
            name: "prefix, top 10",
            ours: words.iter().map(|word| request(json!({"query": {"prefix": {"subject": prefix(word)}}}))).collect(),
            plain: words
                .iter()
                .map(|word| {
                    Box::new(RegexQuery::from_pattern(&format!("{}.*", prefix(word)), field("t:subject")).unwrap())
                        as Box<dyn Query>
                })
                .collect(),
            answer: Answer::Top,
        },
        Case {
            name: "one word, count",
            ours: words.iter().map(|word| request(json!({"query": subject(word), "size": 0}))).collect(),
            plain: words.iter().map(|word| parse(format!("t\\:subject:{word}"))).collect(),
            answer: Answer::Count,
        },
        Case {
            name: "two words, either, count",
            ours: pairs.iter().map(|(a, b)| request(json!({"query": both(&format!("{a} {b}"), "or"), "size": 0}))).collect(),
            plain: pairs.iter().map(|(a, b)| parse(format!("t\\:subject:{a} OR t\\:subject:{b}"))).collect(),
            answer: Answer::Count,
        },
        Case {
            name: "one word in a range of numbers, top 10",
            ours: words
                .iter()
                .enumerate()
                .map(|(n, word)| {
                    let range = json!({"range": {"ts": {"gte": ts(n), "lt": ts(n) + 3e7}}});
                    request(json!({"query": {"bool": {"must": [subject(word)], "filter": [range]}}}))
                })
                .collect(),
            plain: words
                .iter()
                .enumerate()
                .map(|(n, word)| {
                    let word = Term::from_field_text(field("t:subject"), word);
                    let word: Box<dyn Query> = Box::new(TermQuery::new(word, IndexRecordOption::WithFreqs));
                    Box::new(BooleanQuery::new(vec![(Occur::Must, word), (Occur::Must, range(ts(n)))])) as Box<dyn Query>
                })
                .collect(),
            answer: Answer::Top,
        },
        Case {
            name: "a range of numbers, top 10",
            ours: (0..WORDS).map(|n| request(json!({"query": {"range": {"ts": {"gte": ts(n), "lt": ts(n) + 3e7}}}}))).collect(),
            plain: (0..WORDS).map(|n| range(ts(n))).collect(),
            answer: Answer::Top,
        },
        Case {
            name: "one word, top 10 and counts of `repo`",
            ours: words.iter().map(|word| request(json!({"query": subject(word), "facets": ["repo"]}))).collect(),
            plain: words.iter().map(|word| parse(format!("t\\:subject:{word}"))).collect(),
            answer: Answer::Facet,
        },
    ]
}

/// Both find as much.
fn check(case: &Case, snapshot: &DocumentSnapshot, plain: &Plain) {
    for (ours, query) in case.ours.iter().zip(&case.plain) {
        let total = snapshot.search(ours).unwrap().total;
        let count = plain.searcher.search(query, &Count).unwrap() as u64;
        assert_eq!(total, count, "{}: {:?}", case.name, ours.query);
    }
}

pub(crate) fn compare(input: &Input) {
    let dir = folder("headwater");
    let (_, mut materializer) = open(dir.path());
    index(&mut materializer, input);
    drop(materializer);
    let (table, _materializer) = open(dir.path());
    let snapshot = table.snapshot();
    let index = Index::open_in_dir(dir.path()).unwrap();
    raw::register_analyzer(&index);
    let schema = index.schema();
    let searcher = index.reader().unwrap().searcher();
    let segments = searcher.segment_readers().len();
    let plain = Plain { searcher, source: schema.get_field("_source").unwrap() };
    let parser = QueryParser::for_index(&index, vec![schema.get_field("t:subject").unwrap()]);
    println!(
        "| searching {} documents in {segments} segments, us | tantivy p50 | p99 | with total p50 | p99 | this crate p50 | p99 | ratio | to with total |",
        snapshot.count()
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for case in cases(&words(input), &parser, &index) {
        check(&case, &snapshot, &plain);
        let (top, top99) = measure(&case.plain, |query| plain.run(&**query, case.answer, false));
        let (total, total99) = measure(&case.plain, |query| plain.run(&**query, case.answer, true));
        let (ours, ours99) = measure(&case.ours, |request| snapshot.search(request).unwrap().hits.len());
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} |",
            case.name,
            us(top),
            us(top99),
            us(total),
            us(total99),
            us(ours),
            us(ours99),
            us(ours) / us(top),
            us(ours) / us(total)
        );
    }
    println!();
}
