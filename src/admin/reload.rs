//! Has the proxy read its file again, and shows what came of the last time.

use axum::{
    Json,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    reloader::{ReloadError, ReloadStatus},
    view::{Shown, is_json},
};
use crate::{config::Changes, service::unix_seconds};

/// What is posted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// Whether it is only to be said what would change.
    #[serde(default)]
    dry_run: bool,
}

/// Reloads, as `/api/status` shows them.
#[derive(Serialize)]
pub(super) struct ReloadShown {
    applied: u64,
    failed: u64,
    /// Of the latest; `None` before the first.
    last: Option<LastShown>,
}

#[derive(Serialize)]
struct LastShown {
    /// In seconds since 1970.
    at: f64,
    seconds: f64,
    /// Why what ran before goes on; `None` where the file runs.
    error: Option<String>,
    changes: Option<Changes>,
}

impl From<ReloadStatus> for ReloadShown {
    fn from(status: ReloadStatus) -> Self {
        Self {
            applied: status.applied,
            failed: status.failed,
            last: status.last.map(|last| LastShown {
                at: unix_seconds(last.at),
                seconds: last.took.as_secs_f64(),
                error: last.error,
                changes: last.changes,
            }),
        }
    }
}

/// `POST /api/reload`
pub(super) async fn reload(State(context): Shown, headers: HeaderMap, body: Bytes) -> Response {
    // A web page can post anything here but JSON without being asked whether it may.
    if !is_json(&headers) {
        let text = "send `Content-Type: application/json`, and {} or {\"dry_run\": true}\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
    }
    let asked = match serde_json::from_slice::<Asked>(&body) {
        Ok(asked) => asked,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match context.view.reload.reload(asked.dry_run).await {
        Ok(changes) => {
            let said = json!({ "ok": true, "dry_run": asked.dry_run, "changes": changes });
            Json(said).into_response()
        }
        Err(error) => {
            let status = match error {
                ReloadError::File(_) | ReloadError::Refused(_) | ReloadError::Failed(_) => {
                    StatusCode::UNPROCESSABLE_ENTITY
                }
                ReloadError::NoFile | ReloadError::Draining | ReloadError::Upgrading => {
                    StatusCode::CONFLICT
                }
            };
            let errors = match &error {
                ReloadError::File(report) => report.diagnostics(),
                _ => &[],
            };
            let said = json!({ "ok": false, "error": error.to_string(), "errors": errors });
            (status, Json(said)).into_response()
        }
    }
}
