//! Samples of services, their routes and their endpoints that take more than a line.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::scrape::{Samples, Scrape};
use crate::{
    config::Balance,
    metrics::{self, HistogramSum},
    service::{BalanceStats, EndpointState, Service, ServiceStatus, Shed, StatusClass},
};

pub(super) fn is_hash(balance: &Balance) -> bool {
    matches!(balance, Balance::Hash(_))
}

/// What is counted of the services that have keys of one kind, be it in one view alone.
pub(super) fn tallied(
    scrape: &Scrape<'_>,
    samples: &mut Samples<'_>,
    wants: fn(&Balance) -> bool,
    counter: fn(&BalanceStats) -> &metrics::Counter,
) -> fmt::Result {
    scrape.services.iter().try_for_each(|(service, _)| {
        let others = service.views().iter().map(AsRef::as_ref);
        let mut views = std::iter::once(service.main()).chain(others);
        let is_counted = views.any(|view| view.balance().is_keyed() && wants(view.balance()));
        if !is_counted {
            return Ok(());
        }
        let sum: u64 = service
            .all_stats()
            .map(|stats| counter(&stats.tally).value())
            .sum();
        samples.add(&[service.name()], sum)
    })
}

/// Services whose endpoints the proxy itself checks.
pub(super) fn checked<'s>(
    scrape: &'s Scrape<'_>,
) -> impl Iterator<Item = &'s (Arc<Service>, ServiceStatus)> {
    let services = scrape.services.iter();
    services.filter(|(service, _)| service.policy().health.is_some())
}

/// Of an address that several instances have, the slowest one's.
pub(super) fn latencies(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    for (service, status) in &scrape.services {
        let mut all = BTreeMap::<_, (f64, f64)>::new();
        for endpoint in &status.endpoints {
            if let Some(latency) = endpoint.latency {
                let (half, most) = all.entry(&endpoint.address).or_default();
                *half = half.max(latency.p50_seconds);
                *most = most.max(latency.p99_seconds);
            }
        }
        for (address, (half, most)) in all {
            samples.add(&[service.name(), address, "0.5"], half)?;
            samples.add(&[service.name(), address, "0.99"], most)?;
        }
    }
    Ok(())
}

pub(super) fn answers(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    for (service, _) in scrape.called() {
        for (class, name) in StatusClass::NAMES.iter().enumerate() {
            let stats = service.all_stats();
            let sum: u64 = stats.map(|stats| stats.answers[class].value()).sum();
            samples.add(&[service.name(), name], sum)?;
        }
    }
    Ok(())
}

pub(super) fn shed(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let services = scrape.services.iter();
    for (service, _) in services.filter(|(_, status)| status.limits.is_some()) {
        for (place, reason) in Shed::ALL.iter().enumerate() {
            let stats = service.all_stats();
            let sum: u64 = stats.map(|stats| stats.shed[place].value()).sum();
            samples.add(&[service.name(), reason.as_str()], sum)?;
        }
    }
    Ok(())
}

pub(super) fn zones(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let services = scrape.services.iter();
    for (service, _) in services.filter(|(_, status)| status.zone.is_some()) {
        let sum = |of: fn(&BalanceStats) -> u64| {
            service
                .all_stats()
                .map(|stats| of(&stats.tally))
                .sum::<u64>()
        };
        samples.add(&[service.name(), "local"], sum(|tally| tally.local.value()))?;
        samples.add(&[service.name(), "other"], sum(|tally| tally.other.value()))?;
    }
    Ok(())
}

pub(super) fn durations(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    scrape.called().try_for_each(|(service, _)| {
        let mut sum = HistogramSum::default();
        for stats in service.all_stats() {
            stats.duration.add_to(&mut sum);
        }
        samples.add_histogram(&[service.name()], &sum)
    })
}

pub(super) fn rates(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let mut sums = BTreeMap::<_, u64>::new();
    for (labels, rate) in &scrape.rates {
        *sums.entry(labels).or_default() += rate.limited();
    }
    sums.into_iter()
        .try_for_each(|((route, line), sum)| samples.add(&[route, line], sum))
}

pub(super) fn splits(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    // Routes that differ in their conditions alone may stand on one line.
    let mut sums = BTreeMap::<_, u64>::new();
    for ((route, line), split) in &scrape.splits {
        for share in split.shares() {
            let labels = (route, line, share.service.name());
            *sums.entry(labels).or_default() += share.requests();
        }
    }
    sums.into_iter()
        .try_for_each(|((route, line, service), sum)| samples.add(&[route, line, service], sum))
}

pub(super) fn changed_splits(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    // Routes that differ in their conditions alone may stand on one line.
    let mut all = BTreeMap::<_, bool>::new();
    for ((route, line), split) in &scrape.splits {
        *all.entry((route, line)).or_default() |= split.changed().is_some();
    }
    all.into_iter()
        .try_for_each(|((route, line), changed)| samples.add(&[route, line], changed))
}

pub(super) fn subsets(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    scrape.services.iter().try_for_each(|(service, status)| {
        // One that says how it balances may look like one that leaves it to the service.
        let views = status.views.iter();
        let views: BTreeMap<_, _> = views
            .map(|view| ((&view.subset, view.balance), view.endpoints))
            .collect();
        views
            .into_iter()
            .try_for_each(|((subset, balance), endpoints)| {
                samples.add(&[service.name(), subset, balance], endpoints)
            })
    })
}

pub(super) fn endpoints(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    for (service, status) in &scrape.services {
        for state in EndpointState::ALL {
            let endpoints = status.endpoints.iter();
            let count = endpoints.filter(|endpoint| endpoint.state == state).count();
            // A service without an endpoint that serves is news; one without any that drains is not.
            if count > 0 || state == EndpointState::Serving {
                samples.add(&[service.name(), state.as_str()], count)?;
            }
        }
    }
    Ok(())
}
