//! Shows what the log goes by, and has it go by another level for a while.

use axum::{
    Json,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::{
    change::{self, Answer, refuse},
    log_level::LogLevelError,
    view::Shown,
};

/// What another level is asked for with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// As `log.level` has it.
    level: String,
    /// As durations are written in proxy.toml.
    #[serde(rename = "for")]
    time: Option<String>,
}

/// `GET /api/log-level`
pub(super) async fn show(State(context): Shown) -> Response {
    Json(context.view.log.status()).into_response()
}

/// `POST /api/log-level`
pub(super) async fn set(State(context): Shown, headers: HeaderMap, body: Bytes) -> Answer {
    let example = "{\"level\": \"debug\", \"for\": \"10m\"}";
    let wanted: Wanted = change::read(&headers, &body, example, "")?;
    let time = change::time(wanted.time.as_deref())?;
    let status = context.view.log.change(&wanted.level, time);
    let status = status.map_err(|error| {
        let status = match error {
            LogLevelError::Time(_) | LogLevelError::Level(_) => StatusCode::BAD_REQUEST,
            LogLevelError::Fixed => StatusCode::CONFLICT,
        };
        refuse(status, error.to_string())
    })?;
    Ok(Json(status).into_response())
}

/// `DELETE /api/log-level`
pub(super) async fn restore(State(context): Shown) -> Answer {
    if context.view.log.restore() {
        return Ok(Json(context.view.log.status()).into_response());
    }
    Err(refuse(StatusCode::NOT_FOUND, "the log goes by `log.level`"))
}
