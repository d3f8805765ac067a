//! Saved searches over HTTP: saved, listed, forgotten; what they find comes as events, each version once, through kills.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test; a writer of its own meets the kills")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use headwater_tests::Server;
use serde_json::{Value, json};

const TABLE: &str = "CREATE TABLE notes USING document WITH (search = 'title', fields = 'n:number')";

fn save(server: &Server, name: &str, query: &Value) {
    let saved = server.put(&format!("/v1/searches/notes/{name}"), &json!({"query": query}).to_string());
    assert_eq!(saved.status, 200, "{}", saved.body);
}

#[test]
fn searches_are_saved_listed_and_forgotten() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql(TABLE);
    save(&server, "torn", &json!({"match": {"title": "lost"}}));
    save(&server, "torn", &json!({"match": {"title": "torn"}}));
    save(&server, "large", &json!({"range": {"n": {"gte": 10}}}));
    let torn = json!({"name": "torn", "query": {"match": {"title": "torn"}}});
    assert_eq!(server.get("/v1/searches/notes/torn").json(), torn);
    let all = server.get("/v1/searches/notes").json();
    assert_eq!((all["searches"][0]["name"].clone(), all["searches"][1].clone()), (json!("large"), torn));
    for (id, document) in
        [("a", json!({"title": "A torn write", "n": 12})), ("b", json!({"title": "b", "n": 1})), ("c", json!({"n": 10}))]
    {
        assert_eq!(server.put(&format!("/v1/documents/notes/{id}"), &document.to_string()).status, 201);
    }
    // Also what was there before anybody listened.
    let found: Vec<Value> =
        server.events("/v1/matches/notes?offset=earliest", None, 2).into_iter().map(|event| event.1).collect();
    assert_eq!(
        found,
        [
            json!({"_id": "a", "searches": ["large", "torn"], "position": "_tables/0@0", "doc": {"title": "A torn write", "n": 12}}),
            json!({"_id": "c", "searches": ["large"], "position": "_tables/0@2", "doc": {"n": 10}}),
        ]
    );
    assert_eq!(server.events("/v1/matches/notes?offset=earliest&search=torn", None, 1)[0].1["searches"], json!(["torn"]));
    // A document with line breaks is one event.
    assert_eq!(server.put("/v1/documents/notes/d", "{\n\"n\":\r\n 99}").status, 201);
    assert_eq!(server.events("/v1/matches/notes?offset=3", None, 1)[0].1["doc"], json!({"n": 99}));
    assert_eq!(server.delete("/v1/searches/notes/large").status, 200);
    assert_eq!(
        server.get("/v1/searches/notes").json(),
        json!({"searches": [{"name": "torn", "query": {"match": {"title": "torn"}}}]})
    );

    for (reply, status, says) in [
        (server.put("/v1/searches/notes/x", r#"{"query": {"match": {"titel": "a"}}}"#), 400, "did you mean `title`?"),
        (server.put("/v1/searches/notes/x", r#"{"query": {"mtch": {"title": "a"}}}"#), 400, "match"),
        (server.put("/v1/searches/notes/x", r#"{"qery": {}}"#), 400, "query"),
        (server.put("/v1/searches/note/x", r#"{"query": {"match_all": {}}}"#), 404, "note"),
        (
            server.put("/v1/searches/notes/x", &json!({"query": {"terms": {"title": vec!["abc"; 20_000]}}}).to_string()),
            413,
            "limit",
        ),
        (server.delete("/v1/searches/notes/large"), 404, "large"),
        (server.get_as("/v1/matches/notes?search=large", "text/event-stream"), 404, "large"),
        (server.get_as("/v1/matches/notes?offset=1000", "application/json"), 406, "text/event-stream"),
        (server.get_as("/v1/matches/notes?partition=1", "text/event-stream"), 400, "partition"),
    ] {
        assert_eq!(reply.status, status, "{}", reply.body);
        assert!(reply.body.contains(says), "{}", reply.body);
    }
}

#[test]
fn each_match_comes_once_through_kills() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let _ = server.sql(TABLE);
    save(&server, "third", &json!({"match": {"title": "third"}}));
    save(&server, "even", &json!({"match": {"title": "even"}}));
    let (mut seen, mut last, mut acknowledged) = (Vec::new(), None::<String>, Vec::new());
    for round in 0..6 {
        let stop = AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            let (server, stop) = (&server, &stop);
            let writer = scope.spawn(move || {
                let mut written = Vec::new();
                for n in 0.. {
                    let title = format!("{} {}", if n % 3 == 0 { "third" } else { "" }, if n % 2 == 0 { "even" } else { "" });
                    let id = format!("r{round}-{n}");
                    let put = server.try_put(&format!("/v1/documents/notes/{id}"), &json!({"title": title}).to_string());
                    // The one under way at the kill may or may not be there.
                    if stop.load(Ordering::Acquire) || put.is_none_or(|put| put.status != 201) {
                        break;
                    }
                    written.push(id);
                }
                written
            });
            // Some of what is found is read before the kill, the rest after it.
            let events = server.events("/v1/matches/notes?offset=earliest", last.as_deref(), 20 + round * 7);
            last = events.last().map(|event| event.0.clone()).or(last.take());
            seen.extend(events);
            stop.store(true, Ordering::Release);
            writer.join().unwrap()
        });
        acknowledged.extend(written);
        server.kill();
        server = server.start_again(data.path(), &[]);
    }
    let there = server.rows("SELECT _id, title FROM notes");
    let expected: BTreeMap<String, Vec<&str>> = there
        .iter()
        .map(|row| {
            let title = row[1].as_str().unwrap();
            let names = ["even", "third"].into_iter().filter(|name| title.contains(name)).collect::<Vec<_>>();
            (row[0].as_str().unwrap().to_owned(), names)
        })
        .filter(|(_, names)| !names.is_empty())
        .collect();
    assert!(acknowledged.iter().all(|id| there.iter().any(|row| row[0] == *id)), "what was acknowledged is there");
    seen.extend(server.events("/v1/matches/notes?offset=earliest", last.as_deref(), expected.len() - seen.len()));
    let mut found = BTreeMap::new();
    for (_, event) in &seen {
        let names: Vec<&str> = event["searches"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let before = found.insert(event["_id"].as_str().unwrap().to_owned(), names);
        assert!(before.is_none(), "{event} came twice");
    }
    assert_eq!(found, expected);
    // Nothing more comes: the next event is of the next document.
    let _ = server.put("/v1/documents/notes/last", r#"{"title": "third"}"#);
    let after = seen.last().unwrap().0.clone();
    assert_eq!(server.events("/v1/matches/notes", Some(&after), 1)[0].1["_id"], "last");
}
