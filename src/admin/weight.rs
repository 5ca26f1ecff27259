//! Has an endpoint be picked by another weight for a while, and ends that.

use std::sync::Arc;

use axum::{Json, response::IntoResponse as _};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{
    change::{self, Answer, refuse},
    drain::Named,
};
use crate::service::{self, Service, WeightError};

/// What another weight is asked for with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Its address, or its id.
    endpoint: String,
    weight: u32,
    /// As durations are written in proxy.toml.
    #[serde(rename = "for")]
    time: Option<String>,
}

/// `POST /api/services/{name}/weight`.
pub(super) fn begin(service: &Arc<Service>, headers: &HeaderMap, body: &[u8]) -> Answer {
    let example = "{\"endpoint\": \"10.0.0.7:8080\", \"weight\": 1, \"for\": \"30m\"}";
    let wanted: Wanted = change::read(headers, body, example, "")?;
    let time = change::time(wanted.time.as_deref())?;
    let status = service::reweigh(service, &wanted.endpoint, wanted.weight, time);
    let status = status.map_err(|error| {
        let status = match error {
            WeightError::Time(_) | WeightError::Weight => StatusCode::BAD_REQUEST,
            WeightError::Unknown(_) => StatusCode::NOT_FOUND,
            WeightError::Ignored(_) | WeightError::Elsewhere(_) => StatusCode::CONFLICT,
        };
        refuse(status, format!("`{}`: {error}", service.name()))
    })?;
    Ok(Json(status).into_response())
}

/// `DELETE /api/services/{name}/weight?endpoint=…`.
pub(super) fn end(service: &Arc<Service>, named: &Named) -> Answer {
    let asked = "say which endpoint has its own weight again: ?endpoint=10.0.0.7:8080";
    let endpoint = change::named(named.endpoint.as_deref(), asked)?;
    if service::unweigh(service, endpoint) {
        return Ok(Json(json!({ "weight": null })).into_response());
    }
    let text = format!("`{}`: `{endpoint}` has its own weight", service.name());
    Err(refuse(StatusCode::NOT_FOUND, text))
}
