//! One service by itself: how it stands, what became of its set, and the pin that holds the set
//! while an incident is looked at. Pins, drains and weights are all that the admin server changes of one.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, Query, State},
    response::IntoResponse as _,
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{
    change::{self, Answer, Refusal, not_allowed, refuse},
    drain, series,
    status::ServiceTraffic,
    view::{Context, Shown},
    weight,
};
use crate::service::{self, PinError, Service};

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
pub(super) async fn show(State(context): Shown, Path(name): Path<String>) -> Answer {
    // A route that tags make is a service with slashes in its name: the whole may be one.
    if let Some(service) = find(&context, &name) {
        return Ok(Json(ServiceTraffic::of(&service)).into_response());
    }
    let of_journal = name.strip_suffix("/journal");
    if let Some(service) = of_journal.and_then(|name| find(&context, name)) {
        return Ok(Json(service.changes()).into_response());
    }
    let of_history = name.strip_suffix("/history");
    if let Some(service) = of_history.and_then(|name| find(&context, name)) {
        return Ok(series::of_service(&context, service.name()).into_response());
    }
    let of_part = part_of(&name);
    let found = of_part.and_then(|(name, part)| Some((find(&context, name)?, part)));
    if let Some((service, part)) = found {
        let does = match part {
            Part::Pin => "POST pins the service",
            Part::Drain => "POST drains an endpoint of the service",
            Part::Weight => "POST has an endpoint of the service be picked by another weight",
        };
        let text = format!(
            "{does} and DELETE ends that; what is so is shown at /api/services/{}",
            service.name()
        );
        return Err(not_allowed(text, "POST,DELETE"));
    }
    let of_part = of_part.map(|(name, _)| name);
    let of_part = of_journal.or(of_history).or(of_part);
    Err(unknown(of_part.unwrap_or(&name)))
}

/// `POST /api/services/{name}/pin`, `/drain` and `/weight`.
pub(super) async fn begin(
    State(context): Shown,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let _changing = change::begin(&context)?;
    let (service, part) = changeable(&context, &path)?;
    match part {
        Part::Pin => pin(&service, &headers, &body),
        Part::Drain => drain::begin(&service, &headers, &body),
        Part::Weight => weight::begin(&service, &headers, &body),
    }
}

/// `DELETE /api/services/{name}/pin`, `/drain` and `/weight`.
pub(super) async fn end(
    State(context): Shown,
    Path(path): Path<String>,
    Query(named): Query<drain::Named>,
) -> Answer {
    let (service, part) = changeable(&context, &path)?;
    match part {
        Part::Pin => unpin(&service),
        Part::Drain => drain::end(&service, &named),
        Part::Weight => weight::end(&service, &named),
    }
}

fn pin(service: &Arc<Service>, headers: &HeaderMap, body: &[u8]) -> Answer {
    let example = "{\"set\": 17, \"for\": \"30m\"}";
    let and_more = ", or {} for the present set and 30 minutes";
    let wanted: Wanted = change::read(headers, body, example, and_more)?;
    let time = change::time(wanted.time.as_deref())?;
    let pin = service::pin(service, wanted.set, time).map_err(|error| {
        let status = match error {
            PinError::Time(_) => StatusCode::BAD_REQUEST,
            PinError::NoSuchSet(..) => StatusCode::NOT_FOUND,
            PinError::Fixed | PinError::Unread | PinError::Nobody(_) => StatusCode::CONFLICT,
        };
        refuse(status, format!("`{}`: {error}", service.name()))
    })?;
    Ok(Json(pin).into_response())
}

fn unpin(service: &Arc<Service>) -> Answer {
    if service::unpin(service) {
        return Ok(Json(json!({ "pin": null })).into_response());
    }
    let text = format!("`{}` is not pinned", service.name());
    Err(refuse(StatusCode::NOT_FOUND, text))
}

/// What of a service is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Pin,
    Drain,
    Weight,
}

/// The name of the service, and what of it a path is about.
fn part_of(path: &str) -> Option<(&str, Part)> {
    let pin = path.strip_suffix("/pin").map(|name| (name, Part::Pin));
    let drain = || Some((path.strip_suffix("/drain")?, Part::Drain));
    let weight = || Some((path.strip_suffix("/weight")?, Part::Weight));
    pin.or_else(drain).or_else(weight)
}

/// The service that a path names, and what of it; else how that is refused.
fn changeable(context: &Context, path: &str) -> Result<(Arc<Service>, Part), Refusal> {
    let named = part_of(path);
    let service = named.and_then(|(name, part)| Some((find(context, name)?, part)));
    if let Some(service) = service {
        return Ok(service);
    }
    // The whole may be a service, here too.
    let name = match (named, path.strip_suffix("/journal")) {
        _ if find(context, path).is_some() => path,
        (Some((name, _)), _) => return Err(unknown(name)),
        (None, Some(name)) => name,
        (None, None) => path,
    };
    let text = format!(
        "nothing is changed here but /api/services/{name}/drain, /api/services/{name}/weight and \
         /api/services/{name}/pin"
    );
    Err(not_allowed(text, "GET,HEAD"))
}

fn find(context: &Context, name: &str) -> Option<Arc<Service>> {
    let generation = context.view.shared.generation.load();
    generation.directory.service(name)
}

fn unknown(name: &str) -> Refusal {
    let text = format!("no route and no request has named a service `{name}`");
    refuse(StatusCode::NOT_FOUND, text)
}
