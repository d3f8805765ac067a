//! Documents over HTTP: put, patched on a version, found by search as soon as a position is waited for, also after `kill -9`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use headwater_tests::Server;
use serde_json::{Value, json};

const TABLE: &str = "CREATE TABLE books USING document WITH (search = 'title, body', facets = 'lang')";
const MERGE: &str = "application/merge-patch+json";

fn search(server: &Server, word: &str, wait: &str) -> Vec<Value> {
    let request = json!({"query": {"match": {"body": word}}, "wait": wait}).to_string();
    let answer = server.post("/v1/search/books", "application/json", request.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["hits"].as_array().unwrap().iter().map(|hit| hit["_id"].clone()).collect()
}

#[test]
fn documents_are_put_patched_read_and_deleted() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let _ = server.sql(TABLE);
    let put = server.put("/v1/documents/books/a%2F1", r#"{"title": "Logs",  "n": 1}"#);
    assert_eq!(put.status, 201);
    let version = put.json()["version"].as_u64().unwrap();
    assert_eq!(
        put.json(),
        json!({"_id": "a/1", "version": version, "created": true, "position": format!("_tables/0@{version}")})
    );
    assert_eq!(server.get("/v1/documents/books/a%2F1").body, r#"{"title": "Logs",  "n": 1}"#);
    let tag = format!("\"{version}\"");
    let patched = server.patch("/v1/documents/books/a%2F1", MERGE, Some(&tag), r#"{"n": 2}"#);
    assert_eq!((patched.status, patched.json()["created"].clone()), (200, json!(false)));
    let late = server.patch("/v1/documents/books/a%2F1", MERGE, Some(&tag), r#"{"n": 3}"#).error();
    assert_eq!((late.0, late.1.as_str(), late.2.as_str()), (409, "40001", "conflict"));
    let operations = r#"[{"op": "add", "path": "/tags", "value": ["x"]}]"#;
    assert_eq!(server.patch("/v1/documents/books/a%2F1", "application/json-patch+json", None, operations).status, 200);
    assert_eq!(server.rows("SELECT doc FROM books"), [json!([{"n": 2, "tags": ["x"], "title": "Logs"}])]);
    for (path, content_type, body, status, code) in [
        ("/v1/documents/books/a%2F1", "application/json", "{}", 415, ""),
        ("/v1/documents/books/a%2F1", MERGE, "{", 400, "22023"),
        ("/v1/documents/books/a%2F1", MERGE, "7", 400, "23514"),
        ("/v1/documents/books/none", MERGE, "{}", 404, "02000"),
        ("/v1/documents/nobooks/none", MERGE, "{}", 404, "42P01"),
    ] {
        let error = server.patch(path, content_type, None, body).error();
        assert_eq!(error.0, status, "{path} {body}: {error:?}");
        assert!(code.is_empty() || error.1 == code, "{path} {body}: {error:?}");
    }
    assert_eq!(server.patch("/v1/documents/books/a%2F1", MERGE, Some("x"), "{}").status, 400);
    assert_eq!(server.put("/v1/documents/books/b", "[]").error().1, "23514");
    let deep = format!("{}1{}", "{\"a\":".repeat(65), "}".repeat(65));
    assert_eq!(server.put("/v1/documents/books/b", &deep).status, 400);
    assert_eq!(server.put("/v1/documents/books/b", &format!("{{\"a\": \"{}\"}}", "x".repeat(2 << 20))).status, 413);
    assert_eq!(server.delete("/v1/documents/books/a%2F1").status, 200);
    assert_eq!(server.delete("/v1/documents/books/a%2F1").status, 404);
    assert_eq!(server.get("/v1/documents/books/a%2F1").error().0, 404);
}

#[test]
fn each_write_is_found_by_the_search_that_waits_for_it_and_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let _ = server.sql(TABLE);
    for n in 0..1_000 {
        let put = server
            .put(&format!("/v1/documents/books/d{}", n % 50), &format!("{{\"body\": \"word{n}\", \"lang\": \"en\"}}"))
            .json();
        let position = put["position"].as_str().unwrap();
        assert_eq!(search(&server, &format!("word{n}"), position), [json!(format!("d{}", n % 50))], "write {n}");
        if n == 700 {
            server.kill();
            server = server.start_again(data.path(), &[]);
        }
    }
    let last = server.delete("/v1/documents/books/d0").json();
    let position = last["position"].as_str().unwrap();
    for n in 900..1_000 {
        let expected: Vec<Value> = (n > 950).then(|| json!(format!("d{}", n % 50))).into_iter().collect();
        assert_eq!(search(&server, &format!("word{n}"), position), expected, "word {n}");
    }
}

/// Xorshift: a failure is its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// Bytes of the files below a folder.
fn bytes_below(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| if entry.path().is_dir() { bytes_below(&entry.path()) } else { entry.metadata().map_or(0, |of| of.len()) })
        .sum()
}

/// Every hit of a search for everything, page by page: ids and documents.
fn found(server: &Server, wait: &str) -> BTreeMap<String, Value> {
    let (mut found, mut after) = (BTreeMap::new(), None::<Value>);
    loop {
        let mut request = json!({"size": 2_000, "sort": ["_id"], "wait": wait});
        if let Some(after) = &after {
            request["search_after"] = after.clone();
        }
        let answer = server.post("/v1/search/books", "application/json", request.to_string().as_bytes()).json();
        let hits = answer["hits"].as_array().unwrap();
        let Some(last) = hits.last() else { return found };
        after = Some(last["sort"].clone());
        for hit in hits {
            let before = found.insert(hit["_id"].as_str().unwrap().to_owned(), hit["doc"].clone());
            assert!(before.is_none(), "{hit} is there twice");
        }
    }
}

/// `HEADWATER_TORTURE_DOCUMENTS` changes instead of a few thousand, over a tenth of as many ids; `HEADWATER_SEED`.
#[test]
fn the_index_holds_what_survives_of_many_changes_and_kills() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (changes, seed) =
        (number("HEADWATER_TORTURE_DOCUMENTS").unwrap_or(6_000), number("HEADWATER_SEED").unwrap_or(0x9E37_79B9));
    let (mut random, ids, kills) = (Random(seed), changes / 10, 8);
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let _ = server.sql(TABLE);
    let mut model: BTreeMap<String, Value> = BTreeMap::new();
    let (mut done, mut last) = (0, 0);
    for round in 0..kills {
        while done < changes * (round + 1) / kills {
            let mut lines = String::new();
            let count = 1 + random.below(400);
            for n in done..done + count {
                let id = format!("d{}", random.below(ids));
                if random.below(4) == 0 {
                    model.remove(&id);
                    lines += &format!("{{\"delete\": {{\"_id\": \"{id}\"}}}}\n");
                } else {
                    let words: Vec<String> = (0..random.below(30)).map(|_| format!("w{}", random.below(500))).collect();
                    let document =
                        json!({"title": format!("n{n}"), "body": words.join(" "), "lang": format!("l{}", random.below(9))});
                    lines += &format!("{{\"index\": {{\"_id\": \"{id}\"}}}}\n{document}\n");
                    model.insert(id, document);
                }
            }
            done += count;
            let answer = server.post("/es/books/_bulk", "application/x-ndjson", lines.as_bytes());
            assert_eq!(answer.status, 200, "{}", answer.body);
            let answer = answer.json();
            assert_eq!(answer["errors"], false, "{answer}");
            let versions = answer["items"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|item| item.as_object()?.values().next()?["_seq_no"].as_u64());
            last = versions.max().unwrap().max(last);
        }
        if round % 2 == 0 {
            server.kill();
        } else {
            assert_eq!(server.terminate(), Some(0));
        }
        server = server.start_again(data.path(), &[]);
        assert_eq!(found(&server, &format!("_tables/0@{last}")), model, "seed {seed}, after {done} changes");
    }
    let rows = server.rows("SELECT _id, doc FROM books");
    assert_eq!(
        rows.into_iter().map(|row| (row[0].as_str().unwrap().to_owned(), row[1].clone())).collect::<BTreeMap<_, _>>(),
        model
    );
    // Of the two folders of views that of the index has a `meta.json`.
    let size = || {
        let views: Vec<_> = std::fs::read_dir(data.path().join("views")).unwrap().map(|entry| entry.unwrap().path()).collect();
        let generations = views.iter().flat_map(|view| std::fs::read_dir(view).unwrap().map(|entry| entry.unwrap().path()));
        generations
            .filter(|generation| generation.join("0/meta.json").exists())
            .map(|generation| bytes_below(&generation))
            .sum::<u64>()
    };
    assert_eq!(server.terminate(), Some(0));
    let grown = size();
    server = server.start_again(data.path(), &[]);
    let _ = server.sql("REBUILD VIEW \"books/search\"");
    server.until("the rebuilt index serves", |server| {
        let view = server.get("/v1/views/books%2Fsearch").json();
        view["generation"] == 2 && view["rebuild"].is_null()
    });
    assert_eq!(found(&server, &format!("_tables/0@{last}")), model, "rebuilt");
    assert_eq!(server.terminate(), Some(0));
    let fresh = size();
    eprintln!("{done} changes of {ids} ids, {} left; the index has {grown} bytes, built anew {fresh}", model.len());
    // Few documents are as much overhead as content.
    assert!(changes < 50_000 || grown <= 2 * fresh, "{grown} bytes, built anew {fresh}");
}
