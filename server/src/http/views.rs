//! Views and the health of the whole: `/v1/views`, `/healthz`, `/readyz`.
//!
//! Called by operators, the console, the command line and whatever restarts processes.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use logcore::ErrorKind;
use router::{ViewInfo, sqlstate};
use serde::Serialize;
use serde_json::{Value, json};

use super::body::{self, ApiPath};
use super::error::ApiError;
use super::{App, json_body};

#[derive(Serialize)]
struct Views {
    views: Vec<ViewInfo>,
}

/// `GET /v1/views`.
pub async fn list(State(app): State<App>) -> impl IntoResponse {
    json_body(&Views { views: app.database.view_infos() })
}

/// `GET /v1/views/{view}`.
pub async fn show(State(app): State<App>, ApiPath(view): ApiPath<String>) -> Result<impl IntoResponse, ApiError> {
    Ok(json_body(&app.database.view(&view)?))
}

/// `POST /v1/views/{view}/rebuild`: starts it and answers at once.
pub async fn rebuild(
    State(app): State<App>,
    ApiPath(view): ApiPath<String>,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    body::ignore(request).await?;
    let info = app.database.rebuild(&view).await?;
    Ok((StatusCode::ACCEPTED, json_body(&info)))
}

/// `GET /healthz`: the process answers.
pub async fn healthy() -> impl IntoResponse {
    json_body(&json!({ "status": "ok" }))
}

/// `GET /readyz`: whether requests should come here, and what is waited for if not.
pub async fn ready(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let waiting_for = app.database.not_ready();
    if waiting_for.is_empty() {
        return Ok(json_body(&json!({ "status": "ready" })));
    }
    let message = format!("waiting for {}", waiting_for.join(", "));
    let error = ApiError::new(ErrorKind::Unavailable, sqlstate::CANNOT_CONNECT_NOW, message);
    Err(error.with("waiting_for", Value::from(waiting_for)))
}
