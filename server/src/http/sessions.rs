//! Sessions: `/v1/sessions`, for transactions over several requests.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Serialize;

use super::App;
use super::body::ApiPath;
use super::error::ApiError;
use super::json_body;

#[derive(Serialize)]
struct Opened {
    session: String,
}

/// `POST /v1/sessions`.
pub async fn open(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let session = app.database.sessions().open()?;
    Ok((StatusCode::CREATED, json_body(&Opened { session })))
}

/// `DELETE /v1/sessions/{session}`.
pub async fn close(State(app): State<App>, ApiPath(session): ApiPath<String>) -> Result<impl IntoResponse, ApiError> {
    app.database.sessions().close(&session)?;
    Ok(json_body(&Opened { session }))
}
