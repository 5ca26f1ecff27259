//! What a service shows of itself: for the admin API and the metrics, never for a request.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use tokio::time::Instant;

use super::{
    BalanceStatus, Checkup, Difference, Doubt, DrainStatus, Ejection, Endpoint, EndpointId,
    EndpointState, LimitsStatus, PinStatus, Service, StatusClass, View, WeightStatus, ZoneStatus,
    members::{history::unix_seconds, member::Member, standing::Standing},
};
use crate::{
    registry::watch::WatchSnapshot,
    upstream::{Cause, Pool, Recorded},
};

/// A service at one moment.
#[derive(Debug, Serialize)]
pub struct ServiceStatus {
    /// Its name, as routes have it.
    pub name: Arc<str>,
    /// Its name in that registry.
    pub registered_name: String,
    /// How its endpoints are picked.
    pub balance: BalanceStatus,
    /// The proxy's own zone, where it comes first.
    pub zone: Option<ZoneStatus>,
    /// Its endpoints, in the order of their identities.
    pub endpoints: Vec<EndpointStatus>,
    /// How many requests it works on at once, and may; `None` where there is no limit.
    pub limits: Option<LimitsStatus>,
    /// Whether so few endpoints pass our own checks that these are not believed.
    pub panic: bool,
    /// The subsets of them that routes want.
    pub views: Vec<ViewStatus>,
    /// The service that is called where no endpoint can be picked.
    pub fallback: Option<Arc<str>>,
    /// When the set of those that may be picked last changed, in seconds since 1970.
    pub last_change: Option<f64>,
    /// Its watchers, one for each of its registries, with the entries that cannot be called. None
    /// where its endpoints stand in the file.
    pub watches: Vec<WatchSnapshot>,
    /// What a person could do about endpoints that cannot be reached; `None` where nothing is known.
    pub hint: Option<Arc<str>>,
    /// Whether it stays with a set, whatever its registries say.
    pub pin: Option<PinStatus>,
    /// Its endpoints that a person drains, be they listed or not.
    pub drains: Vec<DrainStatus>,
    /// Its endpoints that are picked by another weight for a while, be they listed or not.
    pub weights: Vec<WeightStatus>,
    /// Those of its registries of which the set still counts that was kept from before the start.
    pub from_snapshot: Vec<Remembered>,
    /// Where several registries fail over: the one that serves.
    pub chosen: Option<Arc<str>>,
    /// How each registry that shadows the first differs from it.
    pub differences: Vec<Difference>,
}

/// A registry of which a set counts that was kept on disk.
#[derive(Debug, Serialize)]
pub struct Remembered {
    /// The registry's name.
    pub registry: Arc<str>,
    /// Since it said so.
    pub age_seconds: f64,
}

/// Those of a service's endpoints that some route wants.
#[derive(Debug, Serialize)]
pub struct ViewStatus {
    /// What they have, in words.
    pub subset: String,
    /// The tags that they have.
    pub tags: Vec<String>,
    /// The metadata that they have.
    pub meta: BTreeMap<String, String>,
    /// How one of them is picked.
    pub balance: &'static str,
    /// The proxy's own zone, where it comes first.
    pub zone: Option<ZoneStatus>,
    /// How many may be picked.
    pub endpoints: usize,
}

/// An endpoint at one moment.
#[derive(Debug, Serialize)]
pub struct EndpointStatus {
    /// Who it is: what the next two come to.
    #[serde(skip)]
    pub id: EndpointId,
    /// The registry's id for it.
    pub instance: Arc<str>,
    /// Where it is called.
    pub address: String,
    /// Which registries list that address now.
    pub registries: Vec<Arc<str>>,
    /// Whether it is called over TLS.
    pub tls: bool,
    /// What becomes of it: what the next three come to.
    pub state: EndpointState,
    /// What the registry says of it: `passing`, `critical`, `dropped` (and doubted) or `removed`.
    pub registry: &'static str,
    /// Why the guard holds it, although its registry dropped it.
    pub held: Option<HeldStatus>,
    /// What our own checks of it come to; `None` where there are none, or none has run yet.
    pub check: Option<Checkup>,
    /// The ejection that it is in.
    pub ejection: Option<Ejection>,
    /// The doubt that it is in, where it is not ejected.
    pub doubt: Option<Doubt>,
    /// Requests that it works on now.
    pub in_flight: u64,
    /// Of these the clients' connections that have gone over to another protocol.
    pub tunnels: u64,
    /// Idle connections to it.
    pub idle_connections: usize,
    /// Attempts since it was first seen.
    pub attempts: u64,
    /// Those that failed.
    pub failures: u64,
    /// The same by their cause; causes that there were none of are left out, here and below.
    pub failures_by_cause: BTreeMap<&'static str, u64>,
    /// Its answers by the class of their status: heads, passed on or not.
    pub answers: BTreeMap<&'static str, u64>,
    /// How long it took to the heads of its answers lately; `None` where there were none.
    pub latency: Option<Latency>,
    /// Connections opened since it was first seen.
    pub connections_opened: u64,
    /// The registry's weight.
    pub weight: u32,
    /// The registry's tags.
    pub tags: Vec<String>,
    /// The registry's metadata.
    pub meta: BTreeMap<String, String>,
}

/// Why the guard holds an endpoint.
#[derive(Debug, Serialize)]
pub struct HeldStatus {
    /// What its registry showed, in words.
    pub why: String,
    /// For how long at most.
    pub seconds_left: f64,
}

impl HeldStatus {
    fn of(standing: Standing, now: Instant) -> Option<Self> {
        let Standing::Held(held) = standing else {
            return None;
        };
        Some(Self {
            why: held.reason.to_string(),
            seconds_left: held.until.saturating_duration_since(now).as_secs_f64(),
        })
    }
}

/// How long an endpoint takes to the head of its answer, once it has all of the request: over the last
/// minute or two, or the last answers where there are few.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Of half of the answers, at most.
    pub p50_seconds: f64,
    /// Of nine answers of ten, at most.
    pub p90_seconds: f64,
    /// Of 99 of 100 answers, at most.
    pub p99_seconds: f64,
}

impl Latency {
    fn of(recorded: &Recorded) -> Option<Self> {
        let part = |part| Some(recorded.latencies.quantile(part)?.as_secs_f64());
        Some(Self {
            p50_seconds: part(0.5)?,
            p90_seconds: part(0.9)?,
            p99_seconds: part(0.99)?,
        })
    }
}

/// What an endpoint was asked since it was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointTotals {
    /// Attempts.
    pub attempts: u64,
    /// Its answers of the class 5xx, passed on or not.
    pub errors: u64,
    /// Attempts that brought no answer, by no fault of the client's or of the registry's.
    pub failures: u64,
    /// Requests that it works on now.
    pub in_flight: u64,
}

impl EndpointTotals {
    /// `None` where it was never called.
    fn of(endpoint: &Endpoint) -> Option<Self> {
        endpoint.pools().next()?;
        let mut recorded = Recorded::default();
        endpoint
            .pools()
            .for_each(|pool| pool.add_record(&mut recorded));
        let no_fault = [Cause::Removed, Cause::Unwanted, Cause::Client];
        let failures = std::iter::zip(Cause::ALL, recorded.failures);
        let failures = failures.filter(|(cause, _)| !no_fault.contains(cause));
        Some(Self {
            attempts: endpoint.pools().map(|pool| pool.attempts.value()).sum(),
            errors: recorded.answers[StatusClass::COUNT - 1],
            failures: failures.map(|(_, count)| count).sum(),
            in_flight: endpoint.in_flight(),
        })
    }
}

/// What those of a service's endpoints were asked that were ever called.
pub fn endpoint_totals(service: &Service) -> Vec<(EndpointId, EndpointTotals)> {
    let members = service.members();
    let all = members.endpoints().all();
    all.filter_map(|member| Some((member.id().clone(), EndpointTotals::of(&member.endpoint)?)))
        .collect()
}

/// What there were some of, under their names.
fn named<const N: usize>(
    names: impl Iterator<Item = &'static str>,
    counts: [u64; N],
) -> BTreeMap<&'static str, u64> {
    names.zip(counts).filter(|(_, count)| *count > 0).collect()
}

impl ServiceStatus {
    /// How a service stands now.
    pub fn of(service: &Service) -> Self {
        let mut members = service.members();
        members.forget_the_gone();
        let now = Instant::now();
        let combiner = members.combiner();
        let listed = combiner.listed_by();
        let subsets = service.subsets();
        let states = members.endpoints().states(&subsets);
        let endpoints = states.map(|(member, state)| {
            let registries = listed.get(&member.instance.address).cloned();
            let weight = members.endpoints().weight_of(member);
            EndpointStatus {
                weight,
                ..EndpointStatus::of(member, state, registries.unwrap_or_default(), now)
            }
        });
        let endpoints = endpoints.collect();
        Self {
            name: Arc::clone(service.name()),
            registered_name: service.registered_name().to_owned(),
            balance: service.balance(),
            zone: service.main().zone(now),
            endpoints,
            limits: service.limits().map(|limits| limits.status()),
            panic: members.endpoints().panics(),
            views: service
                .views()
                .iter()
                .filter_map(|view| ViewStatus::of(view, now))
                .collect(),
            fallback: service.policy().fallback.clone(),
            last_change: members.endpoints().changed().map(unix_seconds),
            watches: service
                .watches()
                .iter()
                .map(|watch| watch.snapshot())
                .collect(),
            hint: service.hint(),
            pin: members.journal().pin.as_deref().map(PinStatus::of),
            drains: members.endpoints().drain_statuses(&subsets),
            weights: members
                .endpoints()
                .weight_statuses(|instance| service.heeds_weights_of(instance)),
            from_snapshot: std::iter::zip(service.policy().origin.registries(), 0..)
                .filter_map(|(registry, of)| {
                    let age = combiner.remembered(of)?.elapsed().unwrap_or_default();
                    Some(Remembered {
                        registry: Arc::clone(registry),
                        age_seconds: age.as_secs_f64(),
                    })
                })
                .collect(),
            chosen: combiner.chosen().cloned(),
            differences: combiner.differences(),
        }
    }
}

impl EndpointStatus {
    fn of(member: &Member, state: EndpointState, registries: Vec<Arc<str>>, now: Instant) -> Self {
        let Member {
            instance, endpoint, ..
        } = member;
        let sum = |of: fn(&Pool) -> u64| endpoint.pools().map(of).sum();
        let mut recorded = Recorded::default();
        let pools = endpoint.pools();
        pools.for_each(|pool| pool.add_record(&mut recorded));
        let causes = Cause::ALL.into_iter().map(Cause::as_str);
        Self {
            id: member.id().clone(),
            instance: Arc::clone(&instance.id),
            address: instance.address.to_string(),
            registries,
            tls: instance.tls,
            state,
            registry: member.standing().as_str(),
            held: HeldStatus::of(member.standing(), now),
            check: member.checkup.as_deref().cloned(),
            ejection: endpoint.health().ejection(now),
            doubt: endpoint.health().doubted(now),
            in_flight: endpoint.in_flight(),
            tunnels: sum(|pool| pool.tunnels.value()),
            idle_connections: endpoint.pools().map(Pool::idle).sum(),
            attempts: sum(|pool| pool.attempts.value()),
            failures: sum(|pool| pool.failures.value()),
            failures_by_cause: named(causes, recorded.failures),
            answers: named(StatusClass::NAMES.into_iter(), recorded.answers),
            latency: Latency::of(&recorded),
            connections_opened: sum(|pool| pool.opened.value()),
            weight: instance.weight,
            tags: instance.tags.clone(),
            meta: instance.meta.clone(),
        }
    }
}

impl ViewStatus {
    fn of(view: &View, now: Instant) -> Option<Self> {
        view.subset().map(|subset| Self {
            subset: subset.to_string(),
            tags: subset.tags.clone(),
            meta: subset.meta.clone(),
            balance: view.balance().as_str(),
            zone: view.zone(now),
            endpoints: view.snapshot().endpoints.len(),
        })
    }
}
