//! Drains an endpoint of a service while a person works on it, and ends that.

use std::sync::Arc;

use axum::{Json, response::IntoResponse as _};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::change::{self, Answer, refuse};
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
pub(super) fn begin(service: &Arc<Service>, headers: &HeaderMap, body: &[u8]) -> Answer {
    let example = "{\"endpoint\": \"10.0.0.7:8080\", \"for\": \"30m\"}";
    let wanted: Wanted = change::read(headers, body, example, "")?;
    let time = change::time(wanted.time.as_deref())?;
    let drained = service::drain(service, &wanted.endpoint, time, wanted.force);
    let drained = drained.map_err(|error| {
        let status = match error {
            DrainError::Time(_) => StatusCode::BAD_REQUEST,
            DrainError::Unknown(_) => StatusCode::NOT_FOUND,
            DrainError::Last(..) => StatusCode::CONFLICT,
        };
        refuse(status, format!("`{}`: {error}", service.name()))
    })?;
    Ok(Json(drained).into_response())
}

/// `DELETE /api/services/{name}/drain?endpoint=…`.
pub(super) fn end(service: &Arc<Service>, named: &Named) -> Answer {
    let asked = "say which endpoint is no longer drained: ?endpoint=10.0.0.7:8080";
    let endpoint = change::named(named.endpoint.as_deref(), asked)?;
    if service::undrain(service, endpoint) {
        return Ok(Json(json!({ "drained": null })).into_response());
    }
    let text = format!("`{}`: `{endpoint}` is not drained", service.name());
    Err(refuse(StatusCode::NOT_FOUND, text))
}
