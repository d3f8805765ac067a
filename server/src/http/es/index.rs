//! Indexes as a whole: made, described, refreshed, listed, dropped; and what the server is.

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::mapping::{self, Declared};
use super::{
    Answer, App, EsError, Params, SPOKEN_VERSION, answer, check_name, deadline, indexes, json_of, matching, not_found, one_index,
    quoted, run_sql,
};
use crate::http::body;

/// What the server is.
pub fn info() -> Response {
    answer(
        StatusCode::OK,
        &json!({
            "name": "headwater",
            "cluster_name": "headwater",
            "cluster_uuid": "headwater",
            "version": {
                "number": SPOKEN_VERSION,
                "build_flavor": "default",
                "build_type": "headwater",
                "headwater": env!("CARGO_PKG_VERSION"),
                "minimum_wire_compatibility_version": "7.17.0",
                "minimum_index_compatibility_version": "7.0.0"
            },
            "tagline": "You Know, for Search"
        }),
    )
}

/// `PUT /es/{index}`: makes an index with a mapping.
pub async fn create(State(app): State<App>, Path(index): Path<String>, params: Params, request: Request) -> Answer {
    let Value::Object(mut body) = json_of(&app, request).await? else { return Err(EsError::parsing("not an object")) };
    check_name(&index)?;
    let declared = mapping::read(body.remove("mappings").unwrap_or_default())?;
    mapping::check_settings(&body.remove("settings").unwrap_or_default())?;
    if body.remove("aliases").is_some_and(|aliases| aliases != json!({})) {
        return Err(EsError::unsupported("aliases"));
    }
    if let Some(unknown) = body.keys().next() {
        return Err(EsError::parsing(format!("unknown key [{unknown}] for create index")));
    }
    let sql = format!("CREATE TABLE {} USING document WITH ({})", quoted(&index), declared.options());
    run_sql(&app, sql, deadline(&app, &params)?.at).await.map_err(|error| error.of(&index))?;
    Ok(answer(StatusCode::OK, &json!({"acknowledged": true, "shards_acknowledged": true, "index": index})))
}

/// `DELETE /es/{index}`; one at a time, so that a pattern can't take what was not meant.
pub async fn delete(State(app): State<App>, Path(index): Path<String>, params: Params, request: Request) -> Answer {
    body::ignore(request).await?;
    if index.contains(['*', ',']) || index == "_all" {
        return Err(EsError::invalid(format!("[{index}]: wildcard expressions and lists are not allowed, name one index")));
    }
    if !indexes(&app).contains(&index) {
        return Err(not_found(&index));
    }
    run_sql(&app, format!("DROP TABLE {}", quoted(&index)), deadline(&app, &params)?.at).await?;
    Ok(answer(StatusCode::OK, &json!({"acknowledged": true})))
}

/// `GET /es/{index}`; with HEAD only whether it is there.
pub async fn show(State(app): State<App>, Path(index): Path<String>, params: Params) -> Answer {
    let described = describe(&app, &index, &params).await?;
    let settings = json!({"index": {"number_of_shards": "1", "number_of_replicas": "0"}});
    let shown = described.into_iter().map(|(index, mappings)| {
        let shown = json!({"aliases": {}, "mappings": mappings, "settings": settings});
        (index, shown)
    });
    Ok(answer(StatusCode::OK, &Value::Object(shown.collect())))
}

/// `GET /es/{index}/_mapping`.
pub async fn show_mapping(State(app): State<App>, Path(index): Path<String>, params: Params) -> Answer {
    let described = describe(&app, &index, &params).await?;
    let shown = described.into_iter().map(|(index, mappings)| (index, json!({"mappings": mappings})));
    Ok(answer(StatusCode::OK, &Value::Object(shown.collect())))
}

/// `GET /es/_mapping`.
pub async fn show_all_mappings(State(app): State<App>, params: Params) -> Answer {
    show_mapping(State(app), Path("*".to_owned()), params).await
}

async fn describe(app: &App, expression: &str, params: &Params) -> Result<Map<String, Value>, EsError> {
    let is_pattern = expression.contains('*') || expression == "_all";
    let names = matching(app, expression);
    if names.is_empty() && !is_pattern {
        return Err(not_found(expression));
    }
    let mut described = Map::new();
    for name in names {
        let searchable = app.database.searchable(&name, deadline(app, params)?.at).await?;
        described.insert(name, mapping::show(&searchable));
    }
    Ok(described)
}

/// `PUT /es/{index}/_mapping`: more fields.
pub async fn put_mapping(State(app): State<App>, Path(index): Path<String>, params: Params, request: Request) -> Answer {
    let body = json_of(&app, request).await?;
    let index = one_index(&app, &index)?;
    let at = deadline(&app, &params)?.at;
    let searchable = app.database.searchable(&index, at).await.map_err(|error| EsError::from(error).of(&index))?;
    let mut declared = Declared::of(&searchable.mapping);
    let added = mapping::read(body)?;
    if declared.add(&added)? {
        run_sql(&app, format!("ALTER TABLE {} SET ({})", quoted(&index), declared.options()), at).await?;
    }
    Ok(answer(StatusCode::OK, &json!({"acknowledged": true})))
}

/// `POST /es/{index}/_refresh`: waits until searches see what is written.
pub async fn refresh(State(app): State<App>, Path(index): Path<String>, params: Params, request: Request) -> Answer {
    body::ignore(request).await?;
    let names = matching(&app, &index);
    if names.is_empty() && !index.contains('*') {
        return Err(not_found(&index));
    }
    let at = deadline(&app, &params)?.at;
    for name in &names {
        app.database.refreshed(name, at).await?;
    }
    let shards = json!({"total": names.len(), "successful": names.len(), "failed": 0});
    Ok(answer(StatusCode::OK, &json!({"_shards": shards})))
}

/// `POST /es/_refresh`.
pub async fn refresh_all(state: State<App>, params: Params, request: Request) -> Answer {
    refresh(state, Path("*".to_owned()), params, request).await
}

/// `GET /es/_cat/indices`.
pub async fn list(state: State<App>, params: Params) -> Answer {
    list_some(state, Path("*".to_owned()), params).await
}

/// `GET /es/_cat/indices/{index}`: as a table, or as JSON with `format=json`.
pub async fn list_some(State(app): State<App>, Path(index): Path<String>, params: Params) -> Answer {
    const COLUMNS: [&str; 6] = ["health", "status", "index", "pri", "rep", "docs.count"];
    let names = matching(&app, &index);
    if names.is_empty() && !index.contains('*') {
        return Err(not_found(&index));
    }
    let mut rows = Vec::new();
    for name in names {
        // One that can't be read is still there, and says so.
        let searchable = app.database.searchable(&name, deadline(&app, &params)?.at).await;
        let health = if searchable.is_ok() { "green" } else { "red" };
        let documents = searchable.map_or(String::new(), |searchable| searchable.documents.to_string());
        rows.push([health.to_owned(), "open".to_owned(), name, "1".to_owned(), "0".to_owned(), documents]);
    }
    let wanted: Vec<&str> = params.get("h").map_or(COLUMNS.to_vec(), |names| names.split(',').map(str::trim).collect());
    let place = |name: &&str| COLUMNS.iter().position(|column| column == name);
    let places: Vec<usize> = wanted.iter().filter_map(place).collect();
    if params.get("format").is_some_and(|format| format == "json") {
        let row = |row: &[String; 6]| -> Map<String, Value> {
            places.iter().map(|at| (COLUMNS[*at].to_owned(), json!(row[*at]))).collect()
        };
        return Ok(answer(StatusCode::OK, &rows.iter().map(row).collect::<Vec<_>>()));
    }
    let mut lines: Vec<Vec<&str>> = Vec::new();
    if super::flag(&params, "v") {
        lines.push(places.iter().map(|at| COLUMNS[*at]).collect());
    }
    lines.extend(rows.iter().map(|row| places.iter().map(|at| row[*at].as_str()).collect()));
    let width = |at: usize| lines.iter().map(|line| line[at].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..places.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join(" ").trim_end());
        text.push('\n');
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=UTF-8")], text).into_response())
}

/// `GET /es/_cluster/health`: what `/readyz` knows, in Elasticsearch's words.
pub async fn health(State(app): State<App>) -> Response {
    let indexes = indexes(&app).len();
    let status = if app.database.not_ready().is_empty() { "green" } else { "red" };
    answer(
        StatusCode::OK,
        &json!({
            "cluster_name": "headwater", "status": status, "timed_out": false, "number_of_nodes": 1, "number_of_data_nodes": 1,
            "active_primary_shards": indexes, "active_shards": indexes, "relocating_shards": 0, "initializing_shards": 0,
            "unassigned_shards": 0, "delayed_unassigned_shards": 0, "number_of_pending_tasks": 0, "number_of_in_flight_fetch": 0,
            "task_max_waiting_in_queue_millis": 0, "active_shards_percent_as_number": 100.0
        }),
    )
}
