//! Saved searches find in the log what the same searches find in the table, wherever pages are cut; definitions survive restarts.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::Fixture;
use router::{Cut, DocumentChange, DocumentEdit, ReadFrom, ReadLimits};
use serde_json::{Value, json};

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn queries() -> Vec<(&'static str, Value)> {
    vec![
        ("all", json!({"match_all": {}})),
        ("word", json!({"match": {"title": "w3"}})),
        ("stem", json!({"match": {"title": "logged"}})),
        ("phrase", json!({"match_phrase": {"body": "w1 w2"}})),
        ("number", json!({"range": {"n": {"gte": 40, "lt": 60}}})),
        ("keyword", json!({"term": {"lang": "de"}})),
        ("found", json!({"term": {"extra.kind.keyword": "K2"}})),
        ("both", json!({"bool": {"must": [{"match": {"body": "w2"}}], "must_not": [{"term": {"lang": "en"}}]}})),
        ("none", json!({"ids": {"values": ["nobody"]}})),
    ]
}

fn document(n: u64) -> String {
    let word = |by: u64| format!("w{}", n / by % 5);
    json!({
        "title": format!("{} {}", word(1), if n.is_multiple_of(4) { "logging" } else { "" }),
        "body": format!("{} {} {}", word(1), word(2), word(7)),
        "n": n,
        "lang": if n.is_multiple_of(3) { "de" } else { "en" },
        "extra": {"kind": format!("K{}", n % 6)},
    })
    .to_string()
}

/// Every match of one partition, read in pages of `records`: the searches by version, in order.
fn read(fixture: &Fixture, table: &str, partition: u32, only: Option<&str>, records: usize) -> Vec<(u64, String, Vec<String>)> {
    let limits = ReadLimits { records, bytes: 1 << 20, wait_until: None };
    let (mut from, mut all) = (ReadFrom::Earliest, Vec::new());
    loop {
        let page = fixture.runtime.block_on(fixture.database.matches(table, partition, from, only, limits)).unwrap();
        all.extend(page.matches.iter().map(|found| (found.offset, found.id.clone(), found.searches.clone())));
        if page.matches.is_empty() && from == ReadFrom::Offset(page.next_offset) {
            return all;
        }
        from = ReadFrom::Offset(page.next_offset);
    }
}

#[test]
fn the_log_gives_what_the_table_gives() {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE TABLE d USING document WITH (search = 'title:english, body', fields = 'n:number, lang:keyword', dynamic = '10')",
    );
    let runtime = &fixture.runtime;
    let mut last = Cut::new();
    for chunk in (0..120_u64).collect::<Vec<_>>().chunks(7) {
        let put = |n: &u64| DocumentChange { id: format!("d{n}"), edit: DocumentEdit::Put(document(*n)), expect: None };
        let changes: Vec<DocumentChange> = chunk.iter().map(put).collect();
        let written = runtime.block_on(fixture.database.change_documents("d", &changes, deadline()));
        last = written.into_iter().next_back().unwrap().unwrap().position.unwrap();
    }
    for (name, query) in queries() {
        runtime.block_on(fixture.database.save_search("d", name, query)).unwrap();
    }
    let mut expected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, query) in queries() {
        let search = json!({"query": query, "size": 1000, "fields": []});
        let found = runtime.block_on(fixture.database.search("d", search, &last, deadline(), Ok)).unwrap().0;
        assert_eq!(found.hits.is_empty(), name == "none", "{name}");
        for hit in found.hits {
            expected.entry(hit.id).or_default().insert(name.to_owned());
        }
    }
    for records in [1, 7, 1_000] {
        let matches = read(&fixture, "d", 0, None, records);
        assert!(matches.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order, each once");
        let found: BTreeMap<String, BTreeSet<String>> =
            matches.into_iter().map(|(_, id, searches)| (id, searches.into_iter().collect())).collect();
        assert_eq!(found, expected, "pages of {records}");
    }
    let only = read(&fixture, "d", 0, Some("phrase"), 3);
    assert_eq!(only.len(), expected.values().filter(|names| names.contains("phrase")).count());
    assert!(only.iter().all(|(_, _, searches)| searches == &["phrase"]));

    // A field that is gone is found by nothing; the others go on. All of it survives a restart, and a drop ends it.
    fixture.run("ALTER TABLE d SET (search = 'body')");
    let fixture = fixture.reopen(false);
    assert_eq!(fixture.database.saved_searches("d").unwrap().len(), queries().len());
    assert_eq!(read(&fixture, "d", 0, Some("all"), 1_000).len(), 120);
    fixture.runtime.block_on(fixture.database.drop_search("d", "all")).unwrap();
    assert_eq!(fixture.runtime.block_on(fixture.database.drop_search("d", "all")).unwrap_err().code(), "42704");
    fixture.run("DROP TABLE d; CREATE TABLE d USING document WITH (search = 'body')");
    assert!(fixture.database.saved_searches("d").unwrap().is_empty());
    fixture.run("CREATE TABLE r (id INT PRIMARY KEY)");
    assert_eq!(fixture.database.saved_searches("r").unwrap_err().code(), "42809");
}

#[test]
fn views_of_streams_are_matched_partition_by_partition() {
    let fixture = Fixture::new();
    fixture.run(
        "CREATE STREAM s WITH (partitions = 2);
         CREATE TABLE d USING document WITH (key = 'id', search = 'title') FROM STREAM s",
    );
    fixture.runtime.block_on(fixture.database.save_search("d", "odd", json!({"match": {"title": "odd"}}))).unwrap();
    let of = |n: usize| json!({"id": format!("k{n}"), "title": if n % 2 == 1 { "odd" } else { "even" }});
    fixture.append("s", &(0..40).map(of).chain([json!(["no document"])]).collect::<Vec<_>>());
    fixture.append("s", &(40..80).map(of).collect::<Vec<_>>());
    let (first, second) = (read(&fixture, "d", 0, None, 3), read(&fixture, "d", 1, None, 100));
    assert!(!first.is_empty() && !second.is_empty());
    let found: BTreeSet<String> = first.into_iter().chain(second).map(|(_, id, _)| id).collect();
    assert_eq!(found, (0..80).filter(|n| n % 2 == 1).map(|n| format!("k{n}")).collect());
    // A search request over both partitions gives the same.
    let search = json!({"query": {"match": {"title": "odd"}}, "size": 100, "facets": {}, "sort": ["_id"]});
    let wait: Cut = fixture.append("s", &[of(80)]);
    let answer = fixture.runtime.block_on(fixture.database.search("d", search, &wait, deadline(), Ok)).unwrap().0;
    assert_eq!((answer.total, answer.hits.len()), (40, 40));
    assert_eq!(
        answer.hits.into_iter().map(|hit| hit.id).collect::<BTreeSet<_>>(),
        (0..80).filter(|n| n % 2 == 1).map(|n| format!("k{n}")).collect()
    );
    let limits = ReadLimits { records: 1, bytes: 1, wait_until: None };
    for (partition, from) in [(2, ReadFrom::Earliest), (0, ReadFrom::Offset(1_000))] {
        assert!(fixture.runtime.block_on(fixture.database.matches("d", partition, from, None, limits)).is_err());
    }
}

#[test]
fn a_page_waits_for_the_next_match() {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE d USING document WITH (search = 'title')");
    fixture.runtime.block_on(fixture.database.save_search("d", "torn", json!({"match": {"title": "torn"}}))).unwrap();
    let database = fixture.database.clone();
    let page = fixture.runtime.spawn(async move {
        let limits = ReadLimits { records: 10, bytes: 1 << 20, wait_until: Some(deadline()) };
        database.matches("d", 0, ReadFrom::Earliest, None, limits).await
    });
    for (id, title) in [("a", "whole"), ("b", "torn")] {
        let edit = DocumentEdit::Put(json!({"title": title}).to_string());
        let change = DocumentChange { id: id.to_owned(), edit, expect: None };
        fixture.runtime.block_on(fixture.database.change_document("d", change, deadline())).unwrap();
    }
    let page = fixture.runtime.block_on(page).unwrap().unwrap();
    assert_eq!((page.matches.len(), page.matches[0].id.as_str(), page.next_offset), (1, "b", 2));
}
