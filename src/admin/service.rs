//! One service by itself: how it stands, what became of its set, and the pin that holds the set
//! while an incident is looked at. The pin is all that the admin server changes.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;

use super::{
    series,
    status::ServiceTraffic,
    view::{Context, Shown, is_json},
};
use crate::{
    config,
    service::{self, PinError, Service},
};

/// How long a pin lasts for which nothing else is said.
const PIN: Duration = Duration::from_secs(30 * 60);

/// What a pin is asked for with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// A number of the journal; the present set where it is left out.
    set: Option<u64>,
    /// As durations are written in proxy.toml.
    #[serde(rename = "for")]
    time: Option<String>,
}

/// `GET /api/services/{name}`, and below it `/journal` and `/history`.
pub(super) async fn show(State(context): Shown, Path(name): Path<String>) -> Response {
    // A route that tags make is a service with slashes in its name: the whole may be one.
    if let Some(service) = find(&context, &name) {
        return Json(ServiceTraffic::of(&service)).into_response();
    }
    let of_journal = name.strip_suffix("/journal");
    if let Some(service) = of_journal.and_then(|name| find(&context, name)) {
        return Json(service.changes()).into_response();
    }
    let of_history = name.strip_suffix("/history");
    if let Some(service) = of_history.and_then(|name| find(&context, name)) {
        return series::of_service(&context, service.name()).into_response();
    }
    let of_pin = name.strip_suffix("/pin");
    if let Some(service) = of_pin.and_then(|name| find(&context, name)) {
        let text = format!(
            "POST pins the service and DELETE ends that; the pin itself is shown at \
             /api/services/{}",
            service.name()
        );
        return not_allowed(&text, "POST,DELETE");
    }
    let name = of_journal.or(of_history).or(of_pin).unwrap_or(&name);
    refuse(StatusCode::NOT_FOUND, &unknown(name))
}

/// `POST /api/services/{name}/pin`.
pub(super) async fn pin(
    State(context): Shown,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let service = match pinnable(&context, &name) {
        Ok(service) => service,
        Err(refusal) => return refusal,
    };
    // A web page can post anything here but this without being asked whether it may.
    if !is_json(&headers) {
        let text = "send `Content-Type: application/json`, with a body such as \
                    {\"set\": 17, \"for\": \"30m\"}, or {} for the present set and 30 minutes";
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    }
    let wanted = match serde_json::from_slice::<Wanted>(&body) {
        Ok(wanted) => wanted,
        Err(error) => {
            let text = format!("{error}; write it as {{\"set\": 17, \"for\": \"30m\"}}");
            return refuse(StatusCode::BAD_REQUEST, &text);
        }
    };
    let time = match wanted.time.as_deref().map(config::duration) {
        None => PIN,
        Some(Ok(time)) => time,
        Some(Err(error)) => {
            return refuse(StatusCode::BAD_REQUEST, &format!("`for`: {error}"));
        }
    };
    match service::pin(&service, wanted.set, time) {
        Ok(pin) => Json(pin).into_response(),
        Err(error) => {
            let status = match error {
                PinError::Time => StatusCode::BAD_REQUEST,
                PinError::NoSuchSet(..) => StatusCode::NOT_FOUND,
                PinError::Fixed | PinError::Unread | PinError::Nobody(_) => StatusCode::CONFLICT,
            };
            refuse(status, &format!("`{}`: {error}", service.name()))
        }
    }
}

/// `DELETE /api/services/{name}/pin`.
pub(super) async fn unpin(State(context): Shown, Path(name): Path<String>) -> Response {
    match pinnable(&context, &name) {
        Ok(service) if service::unpin(&service) => Json(json!({"pin": null})).into_response(),
        Ok(service) => {
            let text = format!("`{}` is not pinned", service.name());
            refuse(StatusCode::NOT_FOUND, &text)
        }
        Err(refusal) => refusal,
    }
}

/// The service whose pin a path names; else how that is refused.
#[expect(clippy::result_large_err, reason = "it is the answer")]
fn pinnable(context: &Context, path: &str) -> Result<Arc<Service>, Response> {
    let of_pin = path.strip_suffix("/pin");
    if let Some(service) = of_pin.and_then(|name| find(context, name)) {
        return Ok(service);
    }
    // The whole may be a service, here too.
    let name = match (of_pin, path.strip_suffix("/journal")) {
        _ if find(context, path).is_some() => path,
        (Some(name), _) => return Err(refuse(StatusCode::NOT_FOUND, &unknown(name))),
        (None, Some(name)) => name,
        (None, None) => path,
    };
    let text = format!("nothing is changed here but /api/services/{name}/pin");
    Err(not_allowed(&text, "GET,HEAD"))
}

fn find(context: &Context, name: &str) -> Option<Arc<Service>> {
    let generation = context.view.shared.generation.load();
    generation.directory.service(name)
}

fn unknown(name: &str) -> String {
    format!("no route and no request has named a service `{name}`")
}

fn refuse(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

fn not_allowed(error: &str, allowed: &'static str) -> Response {
    let mut refusal = refuse(StatusCode::METHOD_NOT_ALLOWED, error);
    let allowed = HeaderValue::from_static(allowed);
    refusal.headers_mut().insert(header::ALLOW, allowed);
    refusal
}
