//! Documents by their ids: `_doc`, `_create`, `_update`, `_source`, `_mget`.

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::alphabet::Alphabet;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::NO_PAD;
use logcore::sys::clock;
use router::{Cut, DocumentChange, DocumentEdit, DocumentWritten, Expect, StoredDocument, sqlstate};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::dialect::SourceFilter;
use super::{Answer, App, DEPTH_MAX, EsError, Params, answer, deadline, ensure, json_of, one_index, refreshed};
use crate::http::body;

/// Documents of one `_mget`.
const DOCUMENTS_MAX: usize = 10_000;

type OneDocument = Path<(String, String)>;

/// `GET /es/{index}/_doc/{id}`; with HEAD only whether it is there.
pub async fn show(State(app): State<App>, Path((index, id)): OneDocument, params: Params) -> Answer {
    let index = one_index(&app, &index)?;
    let source = SourceFilter::default().over(&params);
    match find(&app, &index, &id, &params).await? {
        Some(document) => Ok(answer(StatusCode::OK, &shown(&index, &id, &document, &source)?)),
        None => Ok(answer(StatusCode::NOT_FOUND, &json!({"_index": index, "_id": id, "found": false}))),
    }
}

/// `GET /es/{index}/_source/{id}`: the document alone.
pub async fn source(State(app): State<App>, Path((index, id)): OneDocument, params: Params) -> Answer {
    let index = one_index(&app, &index)?;
    let source = SourceFilter::default().over(&params);
    let found = find(&app, &index, &id, &params).await?;
    let document = found.ok_or_else(|| {
        EsError::new(StatusCode::NOT_FOUND, "resource_not_found_exception", format!("Document not found [{index}]/[{id}]"))
    })?;
    Ok(answer(StatusCode::OK, &source.apply(parsed(&document)?)))
}

/// `GET, POST /es/_mget` and `/es/{index}/_mget`.
pub async fn show_many(State(app): State<App>, index: Option<Path<String>>, params: Params, request: Request) -> Answer {
    let body = json_of(&app, request).await?;
    let wanted: Vec<Value> = match (&body["docs"], &body["ids"]) {
        (Value::Array(documents), _) => documents.clone(),
        (_, Value::Array(ids)) => ids.iter().map(|id| json!({"_id": id})).collect(),
        _ => return Err(EsError::parsing("one of [docs] and [ids] is needed, a list")),
    };
    if wanted.len() > DOCUMENTS_MAX {
        return Err(EsError::invalid(format!("{} documents in one request, the limit is {DOCUMENTS_MAX}", wanted.len())));
    }
    let mut found = Vec::new();
    for document in wanted {
        let of = document["_index"].as_str().map(str::to_owned).or_else(|| index.as_ref().map(|Path(index)| index.clone()));
        let of = of.ok_or_else(|| EsError::parsing("docs: [_index] is missing"))?;
        let id = match &document["_id"] {
            Value::String(id) => id.clone(),
            Value::Number(id) => id.to_string(),
            _ => return Err(EsError::parsing("docs: [_id] is missing")),
        };
        let source = SourceFilter::read(document.get("_source").cloned())?.over(&params);
        found.push(match find(&app, &of, &id, &params).await {
            Ok(Some(document)) => shown(&of, &id, &document, &source)?,
            Ok(None) => json!({"_index": of, "_id": id, "found": false}),
            Err(error) => {
                let error = error.of(&of).to_json();
                json!({"_index": of, "_id": id, "error": error["error"]})
            }
        });
    }
    Ok(answer(StatusCode::OK, &json!({"docs": found})))
}

async fn find(app: &App, index: &str, id: &str, params: &Params) -> Result<Option<StoredDocument>, EsError> {
    let deadline = deadline(app, params)?;
    match app.database.document(index, id, &Cut::new(), deadline.at).await {
        Ok((document, _)) => Ok(Some(document)),
        Err(error) if error.code() == sqlstate::NO_DATA => Ok(None),
        Err(error) => Err(EsError::from(error).of(index)),
    }
}

fn parsed(document: &StoredDocument) -> Result<Value, EsError> {
    serde_json::from_slice(&document.json)
        .map_err(|error| EsError::new(StatusCode::INTERNAL_SERVER_ERROR, "exception", format!("a stored document: {error}")))
}

fn shown(index: &str, id: &str, document: &StoredDocument, source: &SourceFilter) -> Result<Value, EsError> {
    let mut shown = json!({"_index": index, "_id": id, "found": true});
    if let Some(version) = document.version {
        shown["_version"] = json!(version);
        shown["_seq_no"] = json!(version);
        shown["_primary_term"] = json!(1);
    }
    if !source.hides_all() {
        shown["_source"] = source.apply(parsed(document)?);
    }
    Ok(shown)
}

/// `POST /es/{index}/_doc`: a document with an id of its own.
pub async fn add(State(app): State<App>, Path(index): Path<String>, params: Params, request: Request) -> Answer {
    write(&app, index, new_id()?, &params, request).await
}

/// `PUT, POST /es/{index}/_doc/{id}`.
pub async fn put(State(app): State<App>, Path((index, id)): OneDocument, params: Params, request: Request) -> Answer {
    write(&app, index, id, &params, request).await
}

/// `PUT, POST /es/{index}/_create/{id}`: only where there is none.
pub async fn create(
    State(app): State<App>,
    Path((index, id)): OneDocument,
    Query(mut params): Params,
    request: Request,
) -> Answer {
    params.insert("op_type".to_owned(), "create".to_owned());
    write(&app, index, id, &Query(params), request).await
}

async fn write(app: &App, index: String, id: String, params: &Params, request: Request) -> Answer {
    let (parts, content) = request.into_parts();
    body::media_type(&parts.headers)?;
    let bytes = body::read_whole(&parts.headers, content, app.limits.record_bytes_max).await?;
    let json = body::parse_json::<&RawValue>(&bytes, DEPTH_MAX)?.get().to_owned();
    let expect =
        expected(|name| params.get(name).map(String::as_str), params.get("op_type").is_some_and(|kind| kind == "create"))?;
    change(app, index, DocumentChange { id, edit: DocumentEdit::Put(json), expect }, params).await
}

/// `DELETE /es/{index}/_doc/{id}`.
pub async fn delete(State(app): State<App>, Path((index, id)): OneDocument, params: Params, request: Request) -> Answer {
    body::ignore(request).await?;
    let expect = expected(|name| params.get(name).map(String::as_str), false)?;
    change(&app, index, DocumentChange { id, edit: DocumentEdit::Delete, expect }, &params).await
}

/// `POST /es/{index}/_update/{id}`: members put over the document's.
pub async fn update(State(app): State<App>, Path((index, id)): OneDocument, params: Params, request: Request) -> Answer {
    let body = json_of(&app, request).await?;
    let edit = update_of(body)?;
    let expect = expected(|name| params.get(name).map(String::as_str), false)?;
    change(&app, index, DocumentChange { id, edit, expect }, &params).await
}

/// What the body of an update says.
///
/// # Errors
/// Scripts; no document.
pub fn update_of(body: Value) -> Result<DocumentEdit, EsError> {
    let Value::Object(mut body) = body else { return Err(EsError::parsing("an update is an object")) };
    let members = body.remove("doc").unwrap_or_default();
    let upsert = body.remove("upsert");
    let as_upsert = body.remove("doc_as_upsert").is_some_and(|flag| flag == Value::Bool(true));
    for known in ["detect_noop", "_source"] {
        body.remove(known);
    }
    if let Some(unknown) = body.keys().next() {
        return Err(EsError::unsupported(unknown));
    }
    let Value::Object(members) = members else { return Err(EsError::parsing("[doc] is missing, an object")) };
    let otherwise = match upsert {
        Some(document) => Some(document.to_string()),
        None => as_upsert.then(|| Value::Object(members.clone()).to_string()),
    };
    Ok(DocumentEdit::Fill { members, otherwise })
}

/// The state of the document that a write asks for; `value` gives its parameters.
///
/// # Errors
/// When it is not one.
pub fn expected<'a>(value: impl Fn(&str) -> Option<&'a str>, create: bool) -> Result<Option<Expect>, EsError> {
    if value("version_type").is_some_and(|kind| kind != "internal") {
        return Err(EsError::unsupported("version_type"));
    }
    let number = |name: &str| {
        let parsed = value(name).map(str::parse::<u64>).transpose();
        parsed.map_err(|_| EsError::invalid(format!("[{name}] is not a whole number")))
    };
    number("if_primary_term")?;
    match (number("if_seq_no")?, create) {
        (Some(_), true) => Err(EsError::invalid("[if_seq_no] can't be given when a document is created")),
        (Some(offset), false) => Ok(Some(Expect::Last(offset))),
        (None, create) => Ok(create.then_some(Expect::NoRecord)),
    }
}

async fn change(app: &App, index: String, change: DocumentChange, params: &Params) -> Answer {
    let deadline = deadline(app, params)?;
    let (id, is_delete) = (change.id.clone(), matches!(change.edit, DocumentEdit::Delete));
    if !is_delete {
        ensure(app, &index, deadline.at).await?;
    }
    let written = match app.database.change_document(&index, change, deadline.at).await {
        Ok(written) => written,
        Err(error) if is_delete && error.code() == sqlstate::NO_DATA => {
            return Ok(answer(StatusCode::NOT_FOUND, &Value::Object(missing(&index, &id))));
        }
        Err(error) => return Err(EsError::from(error).of(&index)),
    };
    refreshed(app, params, &index, deadline.at).await?;
    let (status, result) = result_of(&written, is_delete);
    Ok(answer(status, &Value::Object(told(&index, &id, &written, result))))
}

/// The status and the word for what a change came to.
pub const fn result_of(written: &DocumentWritten, is_delete: bool) -> (StatusCode, &'static str) {
    match (is_delete, written.existed) {
        (true, _) => (StatusCode::OK, "deleted"),
        (false, true) => (StatusCode::OK, "updated"),
        (false, false) => (StatusCode::CREATED, "created"),
    }
}

/// What is told of a change.
pub fn told(index: &str, id: &str, written: &DocumentWritten, result: &str) -> Map<String, Value> {
    let version = written.version.unwrap_or_default();
    let shards = json!({"total": 1, "successful": 1, "failed": 0});
    let told = json!({
        "_index": index, "_id": id, "_version": version, "result": result, "_shards": shards, "_seq_no": version, "_primary_term": 1
    });
    if let Value::Object(told) = told { told } else { Map::new() }
}

/// What is told of a delete of nothing.
pub fn missing(index: &str, id: &str) -> Map<String, Value> {
    told(index, id, &DocumentWritten { position: None, version: None, existed: false }, "not_found")
}

/// Base 64 whose texts are in the order of the bytes.
const ORDERED: GeneralPurpose = {
    let digits = match Alphabet::new("-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz") {
        Ok(digits) => digits,
        Err(_) => panic!("64 different characters"),
    };
    GeneralPurpose::new(&digits, NO_PAD)
};

/// A new id: later ones sort behind earlier ones, so that they stay together in the table.
///
/// # Errors
/// When the system gives no random bytes: without them two documents might get the same.
pub fn new_id() -> Result<String, EsError> {
    let mut random = [0; 9];
    getrandom::fill(&mut random).map_err(|error| {
        EsError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "exception",
            format!("no id can be made ({error}); send one with the document"),
        )
    })?;
    Ok(id_of(clock::now().value(), random))
}

fn id_of(millis: i64, random: [u8; 9]) -> String {
    let mut bytes = [0; 15];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&random);
    ORDERED.encode(bytes)
}

/// What a response says besides.
pub fn with_status(mut told: Map<String, Value>, status: StatusCode) -> Value {
    told.insert("status".to_owned(), json!(status.as_u16()));
    Value::Object(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_differ_and_are_in_order_of_time() {
        let ids: std::collections::BTreeSet<String> = (0..1_000).map(|_| new_id().unwrap()).collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| id.len() == 20));
        let later: Vec<String> =
            (0..5_000).map(|n| id_of(1_700_000_000_000 + n * 7, [255 - u8::try_from(n % 256).unwrap(); 9])).collect();
        assert!(later.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn updates_say_what_they_do_where_there_is_nothing() {
        let edit = |body| update_of(body).map(|edit| format!("{edit:?}"));
        assert!(edit(json!({"doc": {"a": 1}})).unwrap().contains("otherwise: None"));
        assert!(edit(json!({"doc": {"a": 1}, "doc_as_upsert": true})).unwrap().contains(r#"{\"a\":1}"#));
        assert!(edit(json!({"doc": {}, "upsert": {"b": 2}})).unwrap().contains(r#"{\"b\":2}"#));
        assert!(edit(json!({"script": "x"})).is_err() && edit(json!({})).is_err());
    }
}
