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
    /// Whether pins, drains, other weights and other shares may end with this process.
    #[serde(default)]
    force: bool,
}

/// `POST /api/upgrade`
pub(super) async fn upgrade(State(context): Shown, headers: HeaderMap, body: Bytes) -> Response {
    // A web page can post anything here but JSON without being asked whether it may.
    if !is_json(&headers) {
        let text = "send `Content-Type: application/json`, and {} or {\"within\": \"30s\"}\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
    }
    let asked = serde_json::from_slice::<Asked>(&body).map_err(|error| error.to_string());
    let asked = asked.and_then(|asked| {
        let within = asked.within.as_deref().map(config::duration).transpose();
        let within = within.map_err(|error| format!("within: {error}"))?;
        Ok((within.unwrap_or(WITHIN), asked.force))
    });
    let (within, is_forced) = match asked {
        Ok(asked) => asked,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match context.view.upgrade.upgrade(within, is_forced).await {
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
