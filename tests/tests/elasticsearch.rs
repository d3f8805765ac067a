//! The door for Elasticsearch's clients: the official Python client does its work unchanged, and what it would not send is refused.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test; a writer of its own")]

use std::path::PathBuf;
use std::process::Command;

use headwater_tests::Server;
use serde_json::json;

fn repository() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).parent().unwrap().to_owned()
}

#[test]
fn the_official_client_indexes_and_searches() {
    let installed = Command::new(repository().join("scripts/python-clients")).output().unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let python = String::from_utf8(installed.stdout).unwrap();
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let script = repository().join("tests/python/elasticsearch_client.py");
    let run = Command::new(python.trim()).arg(script).arg(format!("{}/es", server.url)).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out.contains("all of it"), "{out}{err}");
    // What came in by that door is a table like any other.
    assert_eq!(server.rows("SELECT title, pages FROM books WHERE _id = '2'"), [json!(["Protokolle", "80"])]);
}

#[test]
fn what_is_wrong_is_answered_in_elasticsearchs_shape() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let error = |status: u16, kind: &str, says: &str, reply: headwater_tests::Reply| {
        let json = reply.json();
        assert_eq!((reply.status, json["error"]["type"].as_str()), (status, Some(kind)), "{}", reply.body);
        assert!(json["error"]["reason"].as_str().unwrap().contains(says), "{}", reply.body);
        assert_eq!(json["status"], status);
    };
    let post = |path: &str, body: &str| server.post(path, "application/json", body.as_bytes());
    let bulk = |body: &str| server.post("/es/_bulk", "application/x-ndjson", body.as_bytes());
    error(404, "index_not_found_exception", "none", post("/es/none/_search", "{}"));
    error(400, "illegal_argument_exception", "no handler found", post("/es/none/_forcemerge", "{}"));
    error(400, "invalid_index_name_exception", "lowercase", server.put("/es/Books", "{}"));
    error(400, "invalid_index_name_exception", "must not start", server.put("/es/_books", "{}"));
    error(
        400,
        "mapper_parsing_exception",
        "[a]",
        server.put("/es/books", r#"{"mappings": {"properties": {"a": {"type": "x"}}}}"#),
    );
    error(
        400,
        "illegal_argument_exception",
        "klingon",
        server.put("/es/books", r#"{"mappings": {"properties": {"a": {"type": "text", "analyzer": "klingon"}}}}"#),
    );
    error(
        400,
        "parsing_exception",
        "nested more than 64",
        server.put("/es/books/_doc/1", &format!("{}1{}", "{\"a\":".repeat(65), "}".repeat(65))),
    );
    error(400, "document_parsing_exception", "not a JSON object", server.put("/es/books/_doc/1", "[1]"));
    assert_eq!(server.put("/es/books/_doc/1", r#"{"a": {"b": "torn"}}"#).status, 201);
    error(400, "illegal_argument_exception", "[knn] is not supported", post("/es/books/_search", r#"{"knn": {}}"#));
    error(
        400,
        "illegal_argument_exception",
        "unknown kind of query",
        post("/es/books/_search", r#"{"query": {"mathc": {"a.b": "torn"}}}"#),
    );
    error(400, "illegal_argument_exception", "scroll_id", post("/es/_search/scroll", r#"{"scroll_id": "AAAA"}"#));
    error(400, "illegal_argument_exception", "name one index", server.delete("/es/*"));
    error(400, "illegal_argument_exception", "Malformed action/metadata line [1]", bulk("{\"indx\": {}}\n{}\n"));
    // What stood before a line that makes no sense is done, and the answer says so.
    let broken = "{\"index\": {\"_index\": \"books\", \"_id\": \"2\"}}\n{\"a\": 2}\nnonsense\n";
    error(400, "illegal_argument_exception", "line [3]", bulk(broken));
    error(400, "illegal_argument_exception", "the 1 actions before it are done", bulk(broken));
    assert_eq!(server.get("/es/books/_doc/2").json()["_source"], json!({"a": 2}));
    error(400, "illegal_argument_exception", "the document of the last action", bulk("{\"index\": {\"_index\": \"books\"}}\n"));
    let one_bad =
        "{\"index\": {\"_index\": \"books\", \"_id\": \"3\"}}\n{\"a\": \n{\"delete\": {\"_index\": \"books\", \"_id\": \"2\"}}\n";
    let answer = bulk(one_bad).json();
    assert_eq!((&answer["errors"], &answer["items"][0]["index"]["status"]), (&json!(true), &json!(400)), "{answer}");
    assert_eq!(answer["items"][1]["delete"]["result"], "deleted");
    // A view of a stream is searched, not written.
    let _ = server.sql("CREATE STREAM s; CREATE TABLE of_s USING document WITH (search = 'a') FROM STREAM s");
    assert_eq!(server.put("/es/of_s/_doc/1", "{}").status, 400);
    assert_eq!(post("/es/of_s/_search", "{}").json()["hits"]["total"]["value"], 0);
    // A table that is none of documents is no index.
    let _ = server.sql("CREATE TABLE r (id INT PRIMARY KEY)");
    assert_eq!(post("/es/r/_search", "{}").status, 400);
    assert_eq!(server.delete("/es/r").status, 404);
}

#[test]
fn a_hundred_thousand_field_names_are_bounded_and_all_are_found() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    for document in 0..200 {
        let fields: serde_json::Map<String, serde_json::Value> =
            (0..500).map(|n| (format!("f{}", document * 500 + n), json!(format!("w{n}")))).collect();
        let put = server.put(&format!("/es/wide/_doc/d{document}"), &json!(fields).to_string());
        assert_eq!(put.status, 201, "{}", put.body);
    }
    assert_eq!(server.get("/es/wide/_refresh").status, 200);
    let find = |field: &str, word: &str| {
        let body = json!({"query": {"match": {field: word}}}).to_string();
        let answer = server.post("/es/wide/_search", "application/json", body.as_bytes()).json();
        answer["hits"]["hits"].as_array().unwrap().iter().map(|hit| hit["_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(find("f7", "w7"), [json!("d0")]);
    assert_eq!(find("f99999", "w499"), [json!("d199")]);
    assert_eq!(find("f99999", "w498"), [] as [serde_json::Value; 0], "fields that share their place are told apart");
    let mapping = server.get("/es/wide/_mapping").json();
    assert_eq!(mapping["wide"]["mappings"]["properties"].as_object().unwrap().len(), 1_000);
    // Everything at once is more than one record holds.
    let all: serde_json::Map<String, serde_json::Value> = (0..100_000).map(|n| (format!("f{n}"), json!(n))).collect();
    assert_eq!(server.put("/es/wide/_doc/all", &json!(all).to_string()).status, 413);
    // Those that fit are kept, and as many as there is room for are indexed.
    let many: serde_json::Map<String, serde_json::Value> = (0..50_000).map(|n| (format!("g{n}"), json!(n))).collect();
    assert_eq!(server.put("/es/wide/_doc/many", &json!(many).to_string()).status, 201);
    assert_eq!(server.get("/es/wide/_source/many").json()["g49999"], 49_999);
}

#[test]
fn an_index_that_does_not_open_is_red_and_a_delete_by_query_spares_what_is_written_meanwhile() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    for n in 0..300 {
        assert_eq!(server.put(&format!("/es/books/_doc/d{n}"), r#"{"state": "old"}"#).status, 201);
    }
    assert_eq!(server.get("/es/_cluster/health").json()["status"], "green");
    // A writer turns documents into what the query does not mean while it deletes what it means.
    let query = json!({"query": {"term": {"state": "old"}}}).to_string();
    let (deleted, kept) = std::thread::scope(|scope| {
        let server = &server;
        let writer = scope.spawn(move || {
            let put = |n: &usize| server.put(&format!("/v1/documents/books/d{n}"), r#"{"state": "new"}"#).status;
            (0..300).rev().filter(|n| put(n) == 200).collect::<Vec<_>>()
        });
        let mut deleted = 0;
        loop {
            let answer = server.post("/es/books/_delete_by_query?conflicts=proceed", "application/json", query.as_bytes());
            assert_eq!(answer.status, 200, "{}", answer.body);
            deleted += answer.json()["deleted"].as_u64().unwrap();
            if answer.json()["total"] == 0 {
                break (deleted, writer.join().unwrap());
            }
        }
    });
    // Each was replaced while it was there, or deleted and written anew: what is new stays, whichever came first.
    let there = server.rows("SELECT doc->>'state', count(*) FROM books GROUP BY 1");
    assert_eq!(there, [json!(["new", 300])]);
    assert_eq!(deleted, 300 - u64::try_from(kept.len()).unwrap());

    assert_eq!(server.terminate(), Some(0));
    for view in std::fs::read_dir(data.path().join("views")).unwrap().map(|entry| entry.unwrap().path()) {
        let meta = view.join("1/0/meta.json");
        if meta.exists() {
            std::fs::write(meta, "damaged").unwrap();
        }
    }
    let server = server.start_again(data.path(), &[]);
    let listed = server.get("/es/_cat/indices?format=json").json();
    assert_eq!((&listed[0]["index"], &listed[0]["health"]), (&json!("books"), &json!("red")));
    assert_eq!(server.get("/es/_cluster/health").json()["status"], "red");
}
