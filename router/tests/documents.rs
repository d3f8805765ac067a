//! Document tables that SQL and HTTP write: rows of an id and a document, and the search beside them, which never drifts.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::{Duration, Instant};

use common::Fixture;
use router::{Cut, DocumentChange, DocumentEdit, Expect};
use serde_json::{Value, json};

fn books() -> Fixture {
    let fixture = Fixture::new();
    fixture.run("CREATE TABLE books USING document WITH (search = 'title:english, body', facets = 'lang, author.name')");
    fixture
}

fn change(id: &str, edit: DocumentEdit) -> DocumentChange {
    DocumentChange { id: id.to_owned(), edit, expect: None }
}

fn put(id: &str, json: &str) -> DocumentChange {
    change(id, DocumentEdit::Put(json.to_owned()))
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// The ids that a search request finds, at least as of a position.
fn found(fixture: &Fixture, query: Value, wait: &str) -> Vec<String> {
    let wait: Cut = wait.parse().unwrap();
    let answer =
        fixture.runtime.block_on(fixture.database.search("books", json!({"query": query, "size": 100}), &wait, deadline(), Ok));
    let mut ids: Vec<String> = answer.unwrap().0.hits.into_iter().map(|hit| hit.id).collect();
    ids.sort();
    ids
}

#[test]
fn what_sql_writes_is_read_as_rows_and_found_by_search() {
    let fixture = books();
    fixture.run(
        r#"INSERT INTO books (_id, doc) VALUES
            ('a', '{"title": "Running databases", "body": "torn write", "lang": "en", "author": {"name": "Ann"}, "n": 1}'),
            ('b', '{"title": "Logs", "body": "a log is a database", "lang": "en", "author": {"name": "Bob"}, "n": 2}'),
            ('c', '{"title": "Protokolle", "body": "nichts", "lang": "de", "n": 3}')"#,
    );
    // At once, without any wait: rows are never behind.
    assert_eq!(fixture.rows("SELECT _id, title, lang FROM books WHERE _id = 'b'"), [json!(["b", "Logs", "en"])]);
    assert_eq!(fixture.rows("SELECT _id FROM books WHERE lang = 'en' ORDER BY 1"), [json!(["a"]), json!(["b"])]);
    assert_eq!(fixture.rows(r#"SELECT _id FROM books WHERE "author.name" = 'Bob'"#), [json!(["b"])]);
    assert_eq!(fixture.rows("SELECT doc->'author'->>'name' FROM books WHERE _id = 'a'"), [json!(["Ann"])]);
    let (_, position) =
        fixture.run("UPDATE books SET doc = json_set(doc, '$.body', 'torn log', '$.tags', '[1]'::json) WHERE _id = 'a'");
    let search = |sql: &str| fixture.rows_with(sql, vec![], &position).unwrap();
    assert_eq!(search("SELECT _id FROM books WHERE CONTAINS(title, 'run')"), [json!(["a"])]);
    assert_eq!(search("SELECT _id FROM books WHERE MATCH(*, 'log') AND lang = 'en' ORDER BY 1"), [json!(["a"]), json!(["b"])]);
    assert_eq!(search("SELECT doc->'tags' FROM books WHERE CONTAINS(body, 'torn')"), [json!(["[1]"])]);
    assert_eq!(found(&fixture, json!({"match": {"body": "write"}}), &position), [] as [String; 0]);
    // With rows of another table, at one cut.
    fixture.run("CREATE TABLE prices (book TEXT PRIMARY KEY, cents BIGINT)");
    let (_, position) = fixture.run("INSERT INTO prices VALUES ('a', 100), ('b', 200)");
    let sql = "SELECT b._id, p.cents FROM books b JOIN prices p ON p.book = b._id WHERE CONTAINS(b.body, 'log') ORDER BY score() DESC, 1";
    assert_eq!(fixture.rows_with(sql, vec![], &position).unwrap().len(), 2);
    let (_, position) = fixture.run("DELETE FROM books WHERE lang = 'de'");
    assert_eq!(fixture.rows("SELECT count(*) FROM books"), [json!([2])]);
    assert_eq!(found(&fixture, json!({"match_all": {}}), &position), ["a", "b"]);
    // The past of the rows, and the names in the catalog.
    assert_eq!(fixture.rows("SELECT body FROM books FOR SYSTEM_TIME AS OF OFFSET 2 WHERE _id = 'a'"), [json!(["torn write"])]);
    assert_eq!(
        fixture.rows("SELECT column_name FROM information_schema.columns WHERE table_name = 'books' ORDER BY ordinal_position"),
        ["_id", "doc", "title", "body", "lang", "author.name"].map(|name| json!([name]))
    );
    let shown: Vec<Value> =
        fixture.rows("SHOW TABLES").into_iter().filter(|row| row[0].as_str().unwrap().starts_with("books")).collect();
    assert_eq!(shown, [json!(["books", "document", null])]);
}

#[test]
fn documents_are_put_patched_and_deleted_by_id_on_the_version_that_is_expected() {
    let fixture = books();
    let runtime = &fixture.runtime;
    let put = |id: &str, json: &str, expect| {
        let database = fixture.database.clone();
        let (id, json) = (id.to_owned(), json.to_owned());
        fixture.runtime.block_on(async move {
            database.change_document("books", DocumentChange { id, edit: DocumentEdit::Put(json), expect }, deadline()).await
        })
    };
    let read = |id: &str| {
        let (database, id) = (fixture.database.clone(), id.to_owned());
        fixture.runtime.block_on(async move { database.document("books", &id, &Cut::new(), deadline()).await })
    };
    let text = |id: &str| String::from_utf8(read(id).unwrap().0.json).unwrap();
    let first = put("x/1 ä", r#"{ "title":"T",  "n":1 }"#, None).unwrap();
    assert!(!first.existed);
    assert_eq!(text("x/1 ä"), r#"{ "title":"T",  "n":1 }"#, "byte for byte");
    assert_eq!(read("x/1 ä").unwrap().0.version, first.version);
    let version = first.version.unwrap();
    assert_eq!(put("x/1 ä", "{}", Some(Expect::NoRecord)).unwrap_err().code(), "40001");
    assert_eq!(put("x/1 ä", "{}", Some(Expect::Last(version + 1))).unwrap_err().code(), "40001");
    let second = put("x/1 ä", r#"{"n":[1,2]}"#, Some(Expect::Last(version))).unwrap();
    assert!(second.existed && second.version > first.version);
    assert_eq!(put("x/1 ä", "{}", Some(Expect::Last(version))).unwrap_err().code(), "40001");
    assert_eq!(put("new", "{}", Some(Expect::Last(version))).unwrap_err().code(), "40001");
    let patch = |edit: DocumentEdit| {
        let database = fixture.database.clone();
        fixture.runtime.block_on(async move { database.change_document("books", change("x/1 ä", edit), deadline()).await })
    };
    patch(DocumentEdit::Merge(json!({"title": "new", "n": null}))).unwrap();
    assert_eq!(text("x/1 ä"), r#"{"title":"new"}"#);
    let operations = json!([{"op": "test", "path": "/title", "value": "new"}, {"op": "add", "path": "/l", "value": [1]}]);
    patch(DocumentEdit::patch(operations).unwrap()).unwrap();
    assert_eq!(text("x/1 ä"), r#"{"l":[1],"title":"new"}"#);
    let failing = json!([{"op": "remove", "path": "/l"}, {"op": "test", "path": "/title", "value": "old"}]);
    assert_eq!(patch(DocumentEdit::patch(failing).unwrap()).unwrap_err().code(), "22000");
    assert_eq!(text("x/1 ä"), r#"{"l":[1],"title":"new"}"#, "all or none");
    assert_eq!(patch(DocumentEdit::Merge(json!(5))).unwrap_err().code(), "23514");
    assert!(DocumentEdit::patch(json!({"op": "remove"})).is_err());
    assert_eq!(put("y", "[1]", None).unwrap_err().code(), "23514");
    assert_eq!(put(&"k".repeat(9_000), "{}", None).unwrap_err().code(), "23514");
    let database = &fixture.database;
    let deleted = runtime.block_on(database.change_document("books", change("x/1 ä", DocumentEdit::Delete), deadline())).unwrap();
    assert!(deleted.existed);
    assert_eq!(read("x/1 ä").unwrap_err().code(), "02000");
    assert_eq!(
        runtime
            .block_on(database.change_document("books", change("x/1 ä", DocumentEdit::Delete), deadline()))
            .unwrap_err()
            .code(),
        "02000"
    );
    assert_eq!(
        runtime.block_on(database.change_document("none", change("x", DocumentEdit::Delete), deadline())).unwrap_err().code(),
        "42P01"
    );
    fixture.run("CREATE TABLE r (id TEXT PRIMARY KEY); CREATE STREAM s; CREATE TABLE of_s USING document FROM STREAM s");
    assert_eq!(
        runtime.block_on(database.change_document("r", change("x", DocumentEdit::Delete), deadline())).unwrap_err().code(),
        "42809"
    );
    assert_eq!(
        runtime
            .block_on(database.change_document("of_s", change("x", DocumentEdit::Put("{}".into())), deadline()))
            .unwrap_err()
            .code(),
        "42809"
    );
}

#[test]
fn increments_from_many_sides_all_count() {
    let fixture = books();
    fixture.run(r#"INSERT INTO books (_id, doc) VALUES ('n', '{"by": {}}')"#);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let fixture = &fixture;
            scope.spawn(move || {
                for n in 0..20 {
                    match n % 2 {
                        0 => drop(
                            fixture.run(&format!("UPDATE books SET doc = json_inc(doc, '$.by.t{thread}', 1) WHERE _id = 'n'")),
                        ),
                        _ => {
                            let operations = json!([{"op": "add", "path": format!("/p{thread}_{n}"), "value": n}]);
                            let patch = DocumentEdit::patch(operations).unwrap();
                            let patched = fixture.database.change_document("books", change("n", patch), deadline());
                            fixture.runtime.block_on(patched).unwrap();
                        }
                    }
                }
            });
        }
    });
    let doc = fixture.rows("SELECT doc FROM books").remove(0)[0].clone();
    let counts: Vec<i64> = (0..8).map(|thread| doc["by"][format!("t{thread}")].as_i64().unwrap()).collect();
    assert_eq!(counts, [10; 8]);
    assert_eq!(doc.as_object().unwrap().len(), 1 + 8 * 10);
}

/// The index, the rows and a rebuild of both say the same, after random upserts, deletes and restarts.
#[test]
fn the_search_beside_holds_exactly_the_documents_there_are() {
    let mut fixture = books();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut model: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    let mut position = String::new();
    for round in 0..6 {
        for _ in 0..60 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (id, word) = (format!("id{}", (state >> 33) % 40), (state >> 41) % 7);
            if (state >> 50).is_multiple_of(61) {
                position = fixture.run("TRUNCATE books").1;
                model.clear();
            } else if (state >> 50).is_multiple_of(4) {
                position = fixture.run(&format!("DELETE FROM books WHERE _id = '{id}' OR _id = 'never'")).1;
                model.remove(&id);
            } else {
                position = fixture
                    .run(&format!(
                        "INSERT INTO books (_id, doc) VALUES ('{id}', '{{\"body\": \"word{word}\"}}')
                         ON CONFLICT (_id) DO UPDATE SET doc = excluded.doc"
                    ))
                    .1;
                model.insert(id, word);
            }
        }
        if position.is_empty() {
            continue;
        }
        match round {
            1 | 3 => fixture = fixture.reopen(round == 3),
            2 => {
                for view in ["books", "books/search"] {
                    let generation =
                        fixture.runtime.block_on(fixture.database.rebuild(view)).unwrap().rebuild.map_or(2, |r| r.generation);
                    fixture.runtime.block_on(fixture.database.rebuilt(view, generation, deadline())).unwrap();
                }
            }
            4 => drop(fixture.run("ALTER TABLE books RENAME TO tomes; ALTER TABLE tomes RENAME TO books")),
            _ => {}
        }
        for word in 0..7 {
            let expected: Vec<String> = model.iter().filter(|(_, of)| **of == word).map(|(id, _)| id.clone()).collect();
            let query = json!({"match": {"body": format!("word{word}")}});
            let last = fixture.database.stream("_tables").unwrap().partitions[0].status.committed.value() - 1;
            assert_eq!(found(&fixture, query, &format!("_tables/0@{last}")), expected, "round {round}, word {word}");
        }
        assert_eq!(fixture.rows("SELECT count(*) FROM books"), [json!([model.len()])]);
    }
    fixture.run("DROP TABLE books");
    assert_eq!(fixture.error("SELECT * FROM books").code(), "42P01");
    assert_eq!(fixture.rows("SHOW VIEWS"), [] as [Value; 0]);
    fixture.run("CREATE TABLE books USING document WITH (search = 'body')");
    assert_eq!(fixture.rows("SELECT count(*) FROM books"), [json!([0])]);
}

#[test]
fn transactions_constraints_and_bad_input() {
    let fixture = books();
    let session = fixture.database.sessions().open().unwrap();
    let run = |sql: &str| fixture.within(&session, sql);
    run("BEGIN").unwrap();
    run(r#"INSERT INTO books (_id, doc) VALUES ('t', '{"lang": "x"}')"#).unwrap();
    run("UPDATE books SET doc = json_append(doc, '$.tags', 'one') WHERE _id = 't'").unwrap();
    assert_eq!(run("SELECT lang, doc->'tags' FROM books WHERE _id = 't'").unwrap(), [json!(["x", r#"["one"]"#])]);
    assert_eq!(fixture.rows("SELECT count(*) FROM books"), [json!([0])]);
    run("COMMIT").unwrap();
    assert_eq!(fixture.rows("SELECT doc FROM books"), [json!([{"lang": "x", "tags": ["one"]}])]);
    fixture.run("CREATE INDEX ON books ((doc->>'lang'))");
    assert_eq!(fixture.rows("SELECT _id FROM books WHERE doc->>'lang' = 'x'"), [json!(["t"])]);
    for (sql, code) in [
        ("INSERT INTO books (_id, doc) VALUES ('t', '{}')", "23505"),
        ("INSERT INTO books (_id, doc) VALUES ('u', '[1]')", "23514"),
        ("INSERT INTO books (_id, doc) VALUES ('u', 'no json')", "22P02"),
        ("INSERT INTO books (_id, doc) VALUES (NULL, '{}')", "23502"),
        ("INSERT INTO books (_id, doc) VALUES ('u', NULL)", "23502"),
        ("UPDATE books SET doc = json_set(doc, 'lang', 1)", "22023"),
        ("UPDATE books SET doc = json_inc(doc, '$.lang', 1)", "42804"),
        ("UPDATE books SET doc = json_set(doc, '$.a')", "42883"),
        ("ALTER TABLE books ADD COLUMN x TEXT", "42809"),
        ("CREATE TABLE more USING document WITH (key = 'id', search = 'a')", "22023"),
        ("CREATE TABLE more USING document WITH (serach = 'a')", "22023"),
    ] {
        let error = fixture.error(sql);
        assert_eq!(error.code(), code, "{sql}: {error}");
    }
    // A value put far down must not make a document that nobody can read any more.
    let (path, value) = (".a".repeat(60), format!("{}1{}", "[".repeat(100), "]".repeat(100)));
    let error = fixture.error(&format!("UPDATE books SET doc = json_set(doc, '${path}', '{value}'::json)"));
    assert_eq!(error.code(), "23514", "{error}");
    assert_eq!(fixture.rows("SELECT doc FROM books"), [json!([{"lang": "x", "tags": ["one"]}])]);
}

/// A field is added to the search of a table that is full, written or a view of a stream, while it serves.
#[test]
fn the_mapping_is_altered_by_a_rebuild_beside() {
    let fixture = books();
    fixture.run(r#"INSERT INTO books (_id, doc) SELECT 'd' || n, ('{"note": "note' || n % 3 || '", "body": "b", "year": ' || n || '}')::json FROM generate_series(1, 30) AS g(n)"#);
    fixture.run("CREATE STREAM s; CREATE TABLE of_s USING document WITH (search = 'body') FROM STREAM s");
    fixture.append("s", &[json!({"body": "x", "note": "note1"}), json!({"note": "note2"})]);
    let missing = fixture.error("SELECT _id FROM books WHERE CONTAINS(note, 'note1')");
    assert_eq!(missing.code(), "42703", "{missing}");
    for table in ["books", "of_s"] {
        fixture.run(&format!("ALTER TABLE {table} SET (search = 'body, note', facets = 'year')"));
    }
    let last = fixture.database.stream("_tables").unwrap().partitions[0].status.committed.value() - 1;
    let check = |fixture: &Fixture| {
        let wait = format!("_tables/0@{last},s/0@1");
        let count = |table: &str| format!("SELECT count(*) FROM {table} WHERE CONTAINS(note, 'note1')");
        assert_eq!(fixture.rows_with(&count("books"), vec![], &wait).unwrap(), [json!([10])]);
        assert_eq!(fixture.rows_with(&count("of_s"), vec![], &wait).unwrap(), [json!([1])]);
        assert_eq!(fixture.rows("SELECT year FROM books WHERE _id = 'd7'"), [json!(["7"])]);
        assert!(fixture.error("SELECT title FROM books").message().contains("title"));
        let wait = wait.parse().unwrap();
        let answer = fixture.database.search("books", json!({"facets": ["year"]}), &wait, deadline(), Ok);
        assert_eq!(fixture.runtime.block_on(answer).unwrap().0.total, 30);
    };
    check(&fixture);
    let fixture = fixture.reopen(false);
    check(&fixture);
    for (sql, code) in [
        ("ALTER TABLE books SET (key = 'id')", "22023"),
        ("ALTER TABLE books SET (searhc = 'a')", "22023"),
        ("ALTER TABLE books SET (search = 'a:klingon')", "22023"),
        ("ALTER TABLE books SET (search = 'a', search = 'b')", "42601"),
    ] {
        let error = fixture.error(sql);
        assert_eq!(error.code(), code, "{sql}: {error}");
    }
    assert_eq!(fixture.run("ALTER TABLE books SET (facets = 'year')").1, "", "nothing is to be done");
}

/// What a change searches for is searched in all that is committed: no wait is needed, and nothing is passed over.
#[test]
fn updates_and_deletes_may_search() {
    let fixture = books();
    for n in 0..20 {
        fixture.run(&format!(r#"INSERT INTO books (_id, doc) VALUES ('d{n}', '{{"body": "word{}", "n": 0}}')"#, n % 2));
        let touched = fixture.run("UPDATE books SET doc = json_inc(doc, '$.n', 1) WHERE CONTAINS(body, 'word0')").0;
        assert_eq!(touched, n / 2 + 1, "after {n}");
    }
    assert_eq!(fixture.run("DELETE FROM books WHERE CONTAINS(body, 'word1')").0, 10);
    assert_eq!(fixture.rows("SELECT sum((doc->>'n')::bigint) FROM books"), [json!([(1..=10).map(|n| 2 * n).sum::<u64>()])]);
}

#[test]
fn changes_together_come_out_as_each_by_itself() {
    let fixture = books();
    let together = |changes: Vec<DocumentChange>| {
        let database = fixture.database.clone();
        let outcomes = fixture.runtime.block_on(async move { database.change_documents("books", &changes, deadline()).await });
        outcomes.into_iter().map(|outcome| outcome.map_err(|error| error.code())).collect::<Vec<_>>()
    };
    let expecting = |change: DocumentChange, expect| DocumentChange { expect: Some(expect), ..change };
    let fill = |members: Value, otherwise: Option<&str>| DocumentEdit::Fill {
        members: members.as_object().unwrap().clone(),
        otherwise: otherwise.map(str::to_owned),
    };
    let outcomes = together(vec![
        put("b", r#"{"n": 1}"#),
        put("a", r#"{"o": {"x": 1, "y": 2}, "z": 0}"#),
        put("bad", "[]"),
        expecting(put("b", "{}"), Expect::NoRecord),
        change("a", fill(json!({"o": {"x": null, "w": 3}, "z": {"deep": true}}), None)),
        change("none", DocumentEdit::Delete),
        change("made", fill(json!({"n": 1}), Some(r#"{"from": "nothing"}"#))),
        put("gone", "{}"),
        change("gone", DocumentEdit::Delete),
        change("gone", DocumentEdit::Delete),
        put(&"k".repeat(9_000), "{}"),
        put("last", r#"{"n": 2}"#),
    ]);
    let codes: Vec<Option<&str>> = outcomes.iter().map(|outcome| outcome.as_ref().err().copied()).collect();
    let none = None;
    assert_eq!(
        codes,
        [none, none, Some("23514"), Some("40001"), none, Some("02000"), none, none, none, Some("02000"), Some("23514"), none]
    );
    let existed: Vec<bool> = outcomes.iter().flatten().map(|written| written.existed).collect();
    assert_eq!(existed, [false, false, true, false, false, true, false]);
    assert_eq!(
        fixture.rows("SELECT _id, doc FROM books ORDER BY 1"),
        [
            json!(["a", {"o": {"w": 3, "x": null, "y": 2}, "z": {"deep": true}}]),
            json!(["b", {"n": 1}]),
            json!(["last", {"n": 2}]),
            json!(["made", {"from": "nothing"}]),
        ]
    );
    // The version that is told is the one the document has.
    for (place, id) in [(0, "b"), (4, "a"), (6, "made"), (11, "last")] {
        let (document, _) = fixture.runtime.block_on(fixture.database.document("books", id, &Cut::new(), deadline())).unwrap();
        assert_eq!(document.version, outcomes[place].as_ref().unwrap().version, "{id}");
    }
    let version = outcomes[0].as_ref().unwrap().version.unwrap();
    let outcomes =
        together(vec![expecting(put("b", "{}"), Expect::Last(version)), expecting(put("b", "{}"), Expect::Last(version))]);
    assert!(outcomes[0].is_ok());
    assert_eq!(outcomes[1], Err("40001"), "the change before it made another version");
    let many = together((0..5_000).map(|n| put(&format!("m{n}"), &format!("{{\"pad\": \"{}\"}}", "x".repeat(3_000)))).collect());
    assert!(many.iter().all(Result::is_ok), "more than one frame holds is written in several");
    assert_eq!(fixture.rows("SELECT count(*) FROM books"), [json!([5_004])]);
    assert_eq!(together(Vec::new()), []);
}

#[test]
fn documents_go_when_they_are_too_old_and_only_those() {
    let fixture = books();
    fixture.run("CREATE TABLE short USING document WITH (search = 'a', ttl = '1 s')");
    let write = |fixture: &Fixture, table: &str, id: &str, json: &str| {
        fixture.runtime.block_on(fixture.database.change_document(table, put(id, json), deadline())).unwrap();
    };
    let count = |fixture: &Fixture| fixture.rows("SELECT count(*) FROM short")[0][0].as_u64().unwrap();
    let until = |what: &str, done: &mut dyn FnMut() -> bool| {
        let deadline = deadline();
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for n in 0..700 {
        write(&fixture, if n % 7 == 0 { "books" } else { "short" }, &format!("d{n}"), r#"{"a": "torn"}"#);
    }
    // One is written again and again: it is never old.
    until("600 documents go", &mut || {
        write(&fixture, "short", "kept", r#"{"a": "whole"}"#);
        count(&fixture) == 1
    });
    assert_eq!(fixture.rows("SELECT _id FROM short"), [json!(["kept"])]);
    assert_eq!(fixture.rows("SELECT count(*) FROM books"), [json!([100])]);
    // The deletes are in the log: a rebuild has them, and the past has what there was.
    assert_eq!(fixture.rows("SELECT count(*) FROM CHANGES(short) WHERE change = 'delete'"), [json!([600])]);
    fixture.run("ALTER TABLE short SET (ttl = 'none')");
    let fixture = fixture.reopen(false);
    write(&fixture, "short", "stays", "{}");
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(count(&fixture), 2);
    // Set again it is about what is there, from the first record on.
    fixture.run("ALTER TABLE short SET (ttl = '200 ms')");
    until("the rest goes", &mut || count(&fixture) == 0);
    for (sql, code) in [
        ("ALTER TABLE short SET (ttl = 'soon')", "22023"),
        ("ALTER TABLE short SET (ttl = '0 s')", "22023"),
        ("CREATE TABLE r (id INT PRIMARY KEY) WITH (ttl = '1 s')", "22023"),
        ("CREATE STREAM s; CREATE TABLE of_s USING document FROM STREAM s; ALTER TABLE of_s SET (ttl = '1 s')", "42809"),
    ] {
        assert_eq!(fixture.error(sql).code(), code, "{sql}");
    }
}
