//! Has an endpoint be picked by another weight for a while, and ends that.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{
    change::{self, refuse},
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
pub(super) fn begin(service: &Arc<Service>, headers: &HeaderMap, body: &[u8]) -> Response {
    let example = "{\"endpoint\": \"10.0.0.7:8080\", \"weight\": 1, \"for\": \"30m\"}";
    let wanted = match change::read::<Wanted>(headers, body, example, "") {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    let time = match change::time(wanted.time.as_deref()) {
        Ok(time) => time,
        Err(refusal) => return refusal,
    };
    match service::reweigh(service, &wanted.endpoint, wanted.weight, time) {
        Ok(status) => Json(status).into_response(),
        Err(error) => {
            let status = match error {
                WeightError::Time(_) | WeightError::Weight => StatusCode::BAD_REQUEST,
                WeightError::Unknown(_) => StatusCode::NOT_FOUND,
                WeightError::Ignored(_) => StatusCode::CONFLICT,
            };
            refuse(status, &format!("`{}`: {error}", service.name()))
        }
    }
}

/// `DELETE /api/services/{name}/weight?endpoint=…`.
pub(super) fn end(service: &Arc<Service>, named: &Named) -> Response {
    let Some(endpoint) = &named.endpoint else {
        let text = "say which endpoint has its own weight again: ?endpoint=10.0.0.7:8080";
        return refuse(StatusCode::BAD_REQUEST, text);
    };
    match service::unweigh(service, endpoint) {
        true => Json(json!({ "weight": null })).into_response(),
        false => {
            let text = format!("`{}`: `{endpoint}` has its own weight", service.name());
            refuse(StatusCode::NOT_FOUND, &text)
        }
    }
}
