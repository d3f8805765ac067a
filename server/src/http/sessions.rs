//! Sessions: `/v1/sessions`, for transactions over several requests.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Serialize;

use super::App;
use super::body::{self, ApiPath};
use super::error::ApiError;
use super::json_body;

#[derive(Serialize)]
struct Opened {
    session: String,
}

/// `POST /v1/sessions`.
pub async fn open(State(app): State<App>, request: Request) -> Result<impl IntoResponse, ApiError> {
    body::ignore(request).await?;
    let session = app.database.sessions().open()?;
    Ok((StatusCode::CREATED, json_body(&Opened { session })))
}

/// `DELETE /v1/sessions/{session}`.
pub async fn close(State(app): State<App>, ApiPath(session): ApiPath<String>) -> Result<impl IntoResponse, ApiError> {
    app.database.sessions().close(&session)?;
    Ok(json_body(&Opened { session }))
}
