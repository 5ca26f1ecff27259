//! What a service shows of itself: for the admin API and the metrics, never for a request.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use serde::Serialize;

use super::{BalanceStatus, Difference, EndpointState, Service};
use crate::{registry::watch::WatchSnapshot, upstream::Pool};

/// A service at one moment.
#[derive(Debug, Serialize)]
pub struct ServiceStatus {
    /// Its name, as routes have it.
    pub name: Arc<str>,
    /// Its name in that registry.
    pub registered_name: String,
    /// How its endpoints are picked.
    pub balance: BalanceStatus,
    /// Its endpoints, in the order of their identities.
    pub endpoints: Vec<EndpointStatus>,
    /// When the set of those that may be picked last changed, in seconds since 1970.
    pub last_change: Option<f64>,
    /// Its watchers, one for each of its registries, with the entries that cannot be called. None
    /// where its endpoints stand in the file.
    pub watches: Vec<WatchSnapshot>,
    /// Where several registries fail over: the one that serves.
    pub chosen: Option<Arc<str>>,
    /// How each registry that shadows the first differs from it.
    pub differences: Vec<Difference>,
}

/// An endpoint at one moment.
#[derive(Debug, Serialize)]
pub struct EndpointStatus {
    /// The registry's id for it.
    pub instance: Arc<str>,
    /// Where it is called.
    pub address: String,
    /// Which registries list that address now.
    pub registries: Vec<Arc<str>>,
    /// Whether it is called over TLS.
    pub tls: bool,
    /// What becomes of it.
    pub state: EndpointState,
    /// Requests that it works on now.
    pub in_flight: u64,
    /// Idle connections to it.
    pub idle_connections: usize,
    /// Attempts since it was first seen.
    pub attempts: u64,
    /// Those that failed.
    pub failures: u64,
    /// Connections opened since it was first seen.
    pub connections_opened: u64,
    /// The registry's weight.
    pub weight: u32,
    /// The registry's tags.
    pub tags: Vec<String>,
    /// The registry's metadata.
    pub meta: BTreeMap<String, String>,
}

impl Service {
    /// How it stands now.
    pub fn status(&self) -> ServiceStatus {
        let listing = self.listing();
        let mut board = self.board();
        let endpoints = board
            .states()
            .map(|(place, state)| {
                let sum = |of: fn(&Pool) -> u64| place.endpoint.pools().map(of).sum();
                EndpointStatus {
                    instance: Arc::clone(&place.instance.id),
                    address: place.instance.address.to_string(),
                    registries: listing.listed_by(&place.instance.address),
                    tls: place.instance.tls,
                    state,
                    in_flight: place.endpoint.in_flight(),
                    idle_connections: place.endpoint.pools().map(Pool::idle).sum(),
                    attempts: sum(|pool| pool.attempts.value()),
                    failures: sum(|pool| pool.failures.value()),
                    connections_opened: sum(|pool| pool.opened.value()),
                    weight: place.instance.weight,
                    tags: place.instance.tags.clone(),
                    meta: place.instance.meta.clone(),
                }
            })
            .collect();
        ServiceStatus {
            name: Arc::clone(self.name()),
            registered_name: self.registered_name().to_owned(),
            balance: self.balance(),
            endpoints,
            last_change: board.changed.map(seconds_since_1970),
            watches: self
                .watches()
                .iter()
                .map(|watch| watch.snapshot())
                .collect(),
            chosen: listing.chosen().cloned(),
            differences: listing.differences(),
        }
    }
}

fn seconds_since_1970(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
