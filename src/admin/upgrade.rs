//! Has a new binary take the place of this one.

use axum::{
    Json,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{
    upgrader::WITHIN,
    view::{Shown, is_json},
};
use crate::config;

/// What is posted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// How long the new process may take to get ready.
    within: Option<String>,
}

/// `POST /api/upgrade`
pub(super) async fn upgrade(State(context): Shown, headers: HeaderMap, body: Bytes) -> Response {
    // A web page can post anything here but JSON without being asked whether it may.
    if !is_json(&headers) {
        let text = "send `Content-Type: application/json`, and {} or {\"within\": \"30s\"}\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
    }
    let asked = serde_json::from_slice::<Asked>(&body).map_err(|error| error.to_string());
    let within = asked.and_then(|asked| match asked.within {
        Some(text) => config::duration(&text).map_err(|error| format!("within: {error}")),
        None => Ok(WITHIN),
    });
    let within = match within {
        Ok(within) => within,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match context.view.upgrade.upgrade(within).await {
        Ok(done) => Json(json!({
            "ok": true,
            "pid": done.pid,
            "seconds": done.took.as_secs_f64(),
            "unpinned": done.unpinned,
            "undrained": done.undrained,
            "unweighed": done.unweighed,
            "shares_reset": done.shares_reset,
        }))
        .into_response(),
        Err(error) => {
            let status = match error.is_refusal() {
                true => StatusCode::CONFLICT,
                false => StatusCode::UNPROCESSABLE_ENTITY,
            };
            let said = json!({ "ok": false, "error": error.to_string() });
            (status, Json(said)).into_response()
        }
    }
}
