//! Drains an endpoint of a service while a person works on it, and ends that.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::change::{self, refuse};
use crate::service::{self, DrainError, Service};

/// What a drain is asked for with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Its address, or its id.
    endpoint: String,
    /// As durations are written in proxy.toml.
    #[serde(rename = "for")]
    time: Option<String>,
    /// Whether it may be the last that can be picked.
    #[serde(default)]
    force: bool,
}

/// The endpoint of which a change ends.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) endpoint: Option<String>,
}

/// `POST /api/services/{name}/drain`.
pub(super) fn begin(service: &Arc<Service>, headers: &HeaderMap, body: &[u8]) -> Response {
    let example = "{\"endpoint\": \"10.0.0.7:8080\", \"for\": \"30m\"}";
    let wanted = match change::read::<Wanted>(headers, body, example, "") {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    let time = match change::time(wanted.time.as_deref()) {
        Ok(time) => time,
        Err(refusal) => return refusal,
    };
    match service::drain(service, &wanted.endpoint, time, wanted.force) {
        Ok(drained) => Json(drained).into_response(),
        Err(error) => {
            let status = match error {
                DrainError::Time(_) => StatusCode::BAD_REQUEST,
                DrainError::Unknown(_) => StatusCode::NOT_FOUND,
                DrainError::Last(..) => StatusCode::CONFLICT,
            };
            refuse(status, &format!("`{}`: {error}", service.name()))
        }
    }
}

/// `DELETE /api/services/{name}/drain?endpoint=…`.
pub(super) fn end(service: &Arc<Service>, named: &Named) -> Response {
    let Some(endpoint) = &named.endpoint else {
        let text = "say which endpoint is no longer drained: ?endpoint=10.0.0.7:8080";
        return refuse(StatusCode::BAD_REQUEST, text);
    };
    match service::undrain(service, endpoint) {
        true => Json(json!({ "drained": null })).into_response(),
        false => {
            let text = format!("`{}`: `{endpoint}` is not drained", service.name());
            refuse(StatusCode::NOT_FOUND, &text)
        }
    }
}
