//! Has the shares of a route be others for a while, and ends that.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{Query, State},
    response::IntoResponse as _,
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{
    change::{self, Answer, Refusal, refuse},
    view::Shown,
};
use crate::{
    proxy::{Generation, Goal},
    service::{ShareError, Split},
};

/// What other shares are asked for with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// The route's host and path, or a service that has a share of it alone.
    route: String,
    /// By services; those that are not named have the file's.
    weights: BTreeMap<String, u32>,
    /// As durations are written in proxy.toml.
    #[serde(rename = "for")]
    time: Option<String>,
}

/// Whose other shares end.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    route: Option<String>,
}

/// `POST /api/share`
pub(super) async fn begin(State(context): Shown, headers: HeaderMap, body: Bytes) -> Answer {
    let example = "{\"route\": \"/cart\", \"weights\": {\"cart-v2\": 50}, \"for\": \"30m\"}";
    let wanted: Wanted = change::read(&headers, &body, example, "")?;
    let time = change::time(wanted.time.as_deref())?;
    let _changing = change::begin(&context)?;
    let generation = context.view.shared.generation.load();
    let (name, split) = find(&generation, &wanted.route)?;
    let term = split.change(&wanted.weights, time).map_err(|error| {
        let status = match error {
            ShareError::Unknown(..) => StatusCode::NOT_FOUND,
            ShareError::Past => StatusCode::CONFLICT,
            _ => StatusCode::BAD_REQUEST,
        };
        refuse(status, format!("route {name}: {error}"))
    })?;
    Ok(Json(json!({
        "route": name,
        "weights": weights(split),
        "since": term.since,
        "ends": term.ends,
        "seconds_left": term.seconds_left,
    }))
    .into_response())
}

/// `DELETE /api/share?route=…`
pub(super) async fn end(State(context): Shown, Query(named): Query<Named>) -> Answer {
    let asked = "say the shares of which route end: ?route=/cart";
    let route = change::named(named.route.as_deref(), asked)?;
    let generation = context.view.shared.generation.load();
    let (name, split) = find(&generation, route)?;
    if split.restore() {
        return Ok(Json(json!({ "route": name, "weights": weights(split) })).into_response());
    }
    let text = format!("route {name}: its shares are those of the file");
    Err(refuse(StatusCode::NOT_FOUND, text))
}

fn weights(split: &Split) -> BTreeMap<&str, u32> {
    let names = split.shares().iter().map(|share| &**share.service.name());
    names.zip(split.weights()).collect()
}

/// The route that is split and is named by its host and path, with its conditions where others have the same;
/// or by a service that has a share of it and of no other.
fn find<'g>(
    generation: &'g Generation,
    wanted: &str,
) -> Result<(&'g Arc<str>, &'g Arc<Split>), Refusal> {
    let splits = || {
        let targets = generation.targets.iter();
        targets.filter_map(|target| match &target.goal {
            Goal::Split(split) => Some((&target.name, split)),
            Goal::Service(_) | Goal::Template { .. } => None,
        })
    };
    // One without conditions is named by what those with conditions have in common with it.
    let by_whole = |(_, split): &(&Arc<str>, &Arc<Split>)| split.of() == wanted;
    let by_route = |(name, _): &(&Arc<str>, &Arc<Split>)| &***name == wanted;
    let by_service = |(_, split): &(&Arc<str>, &Arc<Split>)| {
        let mut shares = split.shares().iter();
        shares.any(|share| **share.service.name() == *wanted)
    };
    let mut found: Vec<_> = splits().filter(by_whole).collect();
    if found.is_empty() {
        found = splits().filter(by_route).collect();
    }
    if found.is_empty() {
        found = splits().filter(by_service).collect();
    }
    match found[..] {
        [one] => Ok(one),
        [] => {
            let names = splits().map(|(name, _)| format!("`{name}`"));
            let names = names.collect::<Vec<_>>().join(", ");
            let has = match names.is_empty() {
                true => "no route of the file has shares".to_owned(),
                false => format!("those that have shares are {names}"),
            };
            let text = format!(
                "no route `{wanted}` has shares, and no service of that name has one; {has}"
            );
            Err(refuse(StatusCode::NOT_FOUND, text))
        }
        _ => {
            let names = found.iter().map(|(_, split)| format!("`{}`", split.of()));
            let names = names.collect::<Vec<_>>().join(", ");
            let text = format!("`{wanted}` names several routes: say one of {names}");
            Err(refuse(StatusCode::CONFLICT, text))
        }
    }
}
