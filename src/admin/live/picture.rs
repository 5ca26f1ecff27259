//! What the picture shows. Bounded: of services beyond so many endpoints only counts are in it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::frame::{Picture, ServicePicture};
use crate::{
    admin::{
        findings::reason,
        history::{History, Recent, RecentOfEndpoint},
        selection::Selection,
        status::{RegistryStatus, ServiceTraffic, Status},
        view::Context,
    },
    discovery::Directory,
    instance::Address,
    registry::watch::WatchSnapshot,
    service::{
        DrainStatus, EndpointState, EndpointStatus, LimitsStatus, PinStatus, WeightStatus,
        unix_seconds,
    },
};

/// As many endpoints are in it, and as many services.
const ENDPOINTS: usize = 10_000;
const SERVICES: usize = 5_000;
/// As many names are in it that catalogs list and no request has named.
const LISTED: usize = 1_000;
/// What of the status is told otherwise, or changes all the time.
const LEFT_OUT: [&str; 4] = ["services", "next", "uptime_seconds", "registries"];

/// A service, but for its endpoints.
#[derive(Serialize)]
struct ServiceShown<'s> {
    registered_name: &'s str,
    balance: &'static str,
    zone: Option<&'s str>,
    limits: Option<LimitsStatus>,
    panic: bool,
    fallback: Option<&'s str>,
    last_change: Option<f64>,
    hint: Option<&'s str>,
    pin: Option<PinShown>,
    drains: Vec<DrainShown<'s>>,
    weights: Vec<WeightShown<'s>>,
    from_snapshot: Vec<&'s str>,
    chosen: Option<&'s str>,
    subsets: Vec<&'s str>,
    watches: Vec<WatchShown<'s>>,
    /// How many endpoints are in each state.
    states: BTreeMap<&'static str, usize>,
    in_flight: u64,
    requests: u64,
    retries: u64,
    retries_refused: u64,
    retries_left: u64,
    failed: u64,
    fallbacks: u64,
    abandoned: u64,
    tunnels: u64,
    #[serde(flatten)]
    recent: Recent,
}

#[derive(Serialize)]
struct PinShown {
    set: u64,
    ends: f64,
}

#[derive(Serialize)]
struct DrainShown<'s> {
    endpoint: &'s Address,
    ends: f64,
}

#[derive(Serialize)]
struct WeightShown<'s> {
    endpoint: &'s Address,
    weight: u32,
    ends: f64,
}

/// A watcher. The moments are of full seconds, so that they change only when it has heard something.
#[derive(Serialize)]
struct WatchShown<'s> {
    registry: &'s str,
    read: bool,
    healthy: bool,
    /// When it last had an answer.
    heard: Option<u64>,
    error: Option<&'s str>,
    failures: u64,
    entries: usize,
    skipped: usize,
    given_up: bool,
}

#[derive(Serialize)]
struct EndpointShown<'s> {
    key: &'s str,
    instance: &'s str,
    address: &'s str,
    state: EndpointState,
    registry: &'static str,
    why: Option<String>,
    tls: bool,
    weight: u32,
    tags: &'s [String],
    in_flight: u64,
    tunnels: u64,
    attempts: u64,
    failures: u64,
    #[serde(flatten)]
    recent: RecentOfEndpoint,
    p50_seconds: Option<f64>,
    p90_seconds: Option<f64>,
    p99_seconds: Option<f64>,
}

/// Everything, now.
pub(super) fn of(context: &Context) -> Picture {
    let mut status = Status::of(context, &Selection::default());
    let all = std::mem::take(&mut status.services);
    let kinds = std::mem::take(&mut status.registries);
    let directory = context.view.shared.directory();
    let history = context.history.lock();
    let mut room = ENDPOINTS;
    let services = all.iter().take(SERVICES);
    let services = services.map(|service| {
        let name = Arc::clone(&service.status.name);
        (name, of_service(service, &history, &mut room))
    });
    let services = services.collect();
    let mut parts = parts(&status);
    let more = [
        ("registries", registries(&directory, &kinds)),
        ("listed", json!(listed(&directory, &all))),
        ("recent", json!(history.recent())),
    ];
    parts.extend(more.map(|(name, value)| (name.to_owned(), raw(&value))));
    Picture { parts, services }
}

/// `room` is how many endpoints may still be in the picture.
fn of_service(service: &ServiceTraffic, history: &History, room: &mut usize) -> ServicePicture {
    let name = &service.status.name;
    let mut endpoints = BTreeMap::new();
    if let Some(left) = room.checked_sub(service.status.endpoints.len()) {
        *room = left;
        for endpoint in &service.status.endpoints {
            let key = format!("{} {}", endpoint.instance, endpoint.address);
            let recent = history.recent_of_endpoint(name, &endpoint.id);
            let shown = raw(&EndpointShown::of(&key, endpoint, recent));
            endpoints.insert(key, shown);
        }
    }
    ServicePicture {
        own: raw(&ServiceShown::of(service, history.recent_of(name))),
        endpoints,
    }
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).expect("what is shown is JSON")
}

impl<'s> ServiceShown<'s> {
    fn of(service: &'s ServiceTraffic, recent: Recent) -> Self {
        let status = &service.status;
        let mut states = BTreeMap::new();
        for endpoint in &status.endpoints {
            *states.entry(endpoint.state.as_str()).or_default() += 1;
        }
        Self {
            registered_name: &status.registered_name,
            balance: status.balance.kind,
            zone: status.zone.as_ref().map(|zone| &*zone.own),
            limits: status.limits,
            panic: status.panic,
            fallback: status.fallback.as_deref(),
            last_change: status.last_change,
            hint: status.hint.as_deref(),
            pin: status.pin.as_ref().map(PinShown::of),
            drains: status.drains.iter().map(DrainShown::of).collect(),
            weights: status.weights.iter().map(WeightShown::of).collect(),
            from_snapshot: status
                .from_snapshot
                .iter()
                .map(|one| &*one.registry)
                .collect(),
            chosen: status.chosen.as_deref(),
            subsets: status.views.iter().map(|view| &*view.subset).collect(),
            watches: status.watches.iter().map(WatchShown::of).collect(),
            states,
            in_flight: status.endpoints.iter().map(|one| one.in_flight).sum(),
            requests: service.requests,
            retries: service.retries,
            retries_refused: service.retries_refused,
            retries_left: service.retries_left,
            failed: service.failed,
            fallbacks: service.fallbacks,
            abandoned: service.abandoned,
            tunnels: service.tunnels,
            recent,
        }
    }
}

impl<'s> DrainShown<'s> {
    fn of(drain: &'s DrainStatus) -> Self {
        Self {
            endpoint: &drain.endpoint,
            ends: drain.term.ends,
        }
    }
}

impl<'s> WeightShown<'s> {
    fn of(other: &'s WeightStatus) -> Self {
        Self {
            endpoint: &other.endpoint,
            weight: other.weight,
            ends: other.term.ends,
        }
    }
}

impl PinShown {
    fn of(pin: &PinStatus) -> Self {
        Self {
            set: pin.set,
            ends: pin.term.ends,
        }
    }
}

impl<'s> WatchShown<'s> {
    fn of(watch: &'s WatchSnapshot) -> Self {
        Self {
            registry: &watch.registry,
            read: watch.read,
            healthy: watch.healthy,
            heard: watch.age.and_then(heard),
            error: watch.error.as_deref(),
            failures: watch.failures,
            entries: watch.entries,
            skipped: watch.skipped.len(),
            given_up: watch.given_up,
        }
    }
}

/// The moment that is so old.
fn heard(age: Duration) -> Option<u64> {
    Some(unix_seconds(SystemTime::now().checked_sub(age)?) as u64)
}

impl<'s> EndpointShown<'s> {
    fn of(key: &'s str, endpoint: &'s EndpointStatus, recent: RecentOfEndpoint) -> Self {
        let latency = endpoint.latency;
        Self {
            key,
            instance: &endpoint.instance,
            address: &endpoint.address,
            state: endpoint.state,
            registry: endpoint.registry,
            why: reason(endpoint),
            tls: endpoint.tls,
            weight: endpoint.weight,
            tags: &endpoint.tags,
            in_flight: endpoint.in_flight,
            tunnels: endpoint.tunnels,
            attempts: endpoint.attempts,
            failures: endpoint.failures,
            recent,
            p50_seconds: latency.map(|latency| latency.p50_seconds),
            p90_seconds: latency.map(|latency| latency.p90_seconds),
            p99_seconds: latency.map(|latency| latency.p99_seconds),
        }
    }
}

/// The parts of the status, but for the services.
fn parts(status: &Status) -> BTreeMap<String, Box<RawValue>> {
    let Ok(Value::Object(parts)) = serde_json::to_value(status) else {
        return BTreeMap::new();
    };
    let parts = parts.into_iter();
    let parts = parts.filter(|(name, _)| !LEFT_OUT.contains(&&**name));
    parts.map(|(name, part)| (name, raw(&part))).collect()
}

/// The registries, with how many services each lists, and not which.
fn registries(directory: &Directory, registries: &[RegistryStatus]) -> Value {
    let registries = registries.iter().map(|registry| {
        let catalog = directory
            .catalogs()
            .find(|(name, ..)| **name == registry.name);
        let catalog = catalog.map(|(_, watch, services)| {
            let watch = watch.snapshot();
            json!({ "watch": WatchShown::of(&watch), "services": services.len() })
        });
        json!({
            "name": registry.name,
            "kind": registry.kind,
            "catalog": catalog,
            "watches": registry.watches,
        })
    });
    registries.collect()
}

/// The services that catalogs list and that are none yet, since no request has named them.
fn listed(directory: &Directory, services: &[ServiceTraffic]) -> Vec<Arc<str>> {
    let services = services.iter();
    let known: HashSet<&str> = services.map(|service| &*service.status.name).collect();
    let mut listed: Vec<_> = directory
        .catalogs()
        .flat_map(|(_, _, services)| services.keys().cloned().collect::<Vec<_>>())
        .filter(|name| !known.contains(&**name))
        .collect();
    listed.sort();
    listed.dedup();
    listed.truncate(LISTED);
    listed
}
