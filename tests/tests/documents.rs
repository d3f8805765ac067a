//! Documents over HTTP: put, patched on a version, found by search as soon as a position is waited for, also after `kill -9`.
#![allow(clippy::unwrap_used, reason = "a test")]

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
    for n in 0..150 {
        let put = server
            .put(&format!("/v1/documents/books/d{}", n % 50), &format!("{{\"body\": \"word{n}\", \"lang\": \"en\"}}"))
            .json();
        let position = put["position"].as_str().unwrap();
        assert_eq!(search(&server, &format!("word{n}"), position), [json!(format!("d{}", n % 50))], "write {n}");
        if n == 70 {
            server.kill();
            server = server.start_again(data.path(), &[]);
        }
    }
    let last = server.delete("/v1/documents/books/d0").json();
    let position = last["position"].as_str().unwrap();
    for n in 0..150 {
        let expected: Vec<Value> = (n > 100).then(|| json!(format!("d{}", n % 50))).into_iter().collect();
        assert_eq!(search(&server, &format!("word{n}"), position), expected, "word {n}");
    }
}
