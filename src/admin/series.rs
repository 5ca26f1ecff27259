//! The history, as JSON: of all services together and of those that are named, or of one with its
//! endpoints.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Json, extract::State};
use serde::Serialize;

use super::{
    history::{EVERY, EndpointSeriesShown, SeriesShown},
    selection::Selection,
    view::{Context, Shown},
};

/// Of as many services one answer has the series.
const SERVICES: usize = 100;

/// Series end now.
#[derive(Serialize)]
struct Series {
    /// From one sample to the next.
    seconds: u64,
    /// When the last sample was taken, to some seconds: since 1970.
    now: f64,
    all: SeriesShown,
    /// Those that were named and called.
    services: BTreeMap<String, SeriesShown>,
}

#[derive(Serialize)]
struct ServiceSeries {
    seconds: u64,
    now: f64,
    /// `None` where it was never called.
    service: Option<SeriesShown>,
    /// Those of its endpoints that were called.
    endpoints: Vec<EndpointSeriesShown>,
}

fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}

/// `GET /api/history`
pub(super) async fn history(State(context): Shown, selection: Selection) -> Json<impl Serialize> {
    let history = context.history.lock();
    let named = selection.named().iter().take(SERVICES);
    let services = named.filter_map(|name| Some((name.clone(), history.of(name)?)));
    Json(Series {
        seconds: EVERY.as_secs(),
        now: now(),
        all: history.whole(),
        services: services.collect(),
    })
}

/// What `GET /api/services/{name}/history` answers.
pub(super) fn of_service(context: &Context, name: &str) -> Json<impl Serialize> {
    let history = context.history.lock();
    Json(ServiceSeries {
        seconds: EVERY.as_secs(),
        now: now(),
        service: history.of(name),
        endpoints: history.of_endpoints(name),
    })
}
