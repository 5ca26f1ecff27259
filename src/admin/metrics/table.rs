//! The table of all metrics: its lines are what is sent, in this order.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::time::Instant;

use super::{
    process,
    scrape::{
        Kind, Metric, Samples, Scrape, Value, over_workers, per_endpoint, per_endpoint_and_name,
        per_service, per_shadow, per_watch,
    },
    tls,
};
use crate::{
    config::Balance,
    metrics::{self, HistogramSum},
    saved::{Found, Status},
    service::{BalanceStats, EndpointState, Service, ServiceStatus, Shed, StatusClass},
};

use Kind::{Counter, Gauge, Histogram};

const SERVICE: &[&str] = &["service"];
const ENDPOINT: &[&str] = &["service", "endpoint"];
const WATCH: &[&str] = &["registry", "service"];

/// All metrics. Numbers of a service, an endpoint or a watcher go with it; counters begin at 0
/// with the process. A watcher without a service is that of its registry's catalog.
pub const METRICS: &[Metric] = &[
    line(
        "callboard_requests_total",
        Counter,
        SERVICE,
        "Requests routed to the service.",
        |scrape, samples| {
            scrape.services.iter().try_for_each(|(service, _)| {
                let requests = service.lanes().map(|lane| lane.requests.value());
                samples.add(&[service.name()], requests.sum::<u64>())
            })
        },
    ),
    line(
        "callboard_answers_total",
        Counter,
        &["service", "status"],
        "Answers, an endpoint's or the proxy's own, by the class of their status.",
        answers,
    ),
    line(
        "callboard_request_duration_seconds",
        Histogram,
        SERVICE,
        "From a request's arrival to the head of its answer.",
        durations,
    ),
    line(
        "callboard_retries_total",
        Counter,
        SERVICE,
        "Attempts beyond a request's first.",
        |scrape, samples| per_service(scrape, samples, |lane| &lane.retries),
    ),
    line(
        "callboard_retries_refused_total",
        Counter,
        SERVICE,
        "Retries that the retry budget refused.",
        |scrape, samples| per_service(scrape, samples, |lane| &lane.budget_refused),
    ),
    line(
        "callboard_retries_left",
        Gauge,
        SERVICE,
        "Retries that the retry budget would grant now.",
        |scrape, samples| {
            let now = Instant::now();
            scrape.called().try_for_each(|(service, _)| {
                samples.add(&[service.name()], service.retries_left(now))
            })
        },
    ),
    line(
        "callboard_ejections_total",
        Counter,
        SERVICE,
        "Endpoints that were ejected for failures in a row, for their answers, or by Retry-After.",
        |scrape, samples| per_service(scrape, samples, |lane| &lane.ejections),
    ),
    line(
        "callboard_silences_total",
        Counter,
        SERVICE,
        "Endpoints that were doubted, since they answered nothing while their peers did.",
        |scrape, samples| per_service(scrape, samples, |lane| &lane.silences),
    ),
    line(
        "callboard_requests_limited_total",
        Counter,
        &["route", "line"],
        "Requests of a route with a rate whose client had none left.",
        rates,
    ),
    line(
        "callboard_requests_shed_total",
        Counter,
        &["service", "reason"],
        "Requests that there was no room for, by the limit that was reached.",
        shed,
    ),
    line(
        "callboard_requests_pending",
        Gauge,
        SERVICE,
        "Requests that wait for room.",
        |scrape, samples| {
            scrape.services.iter().try_for_each(|(service, status)| {
                status.limits.map_or(Ok(()), |limits| {
                    samples.add(&[service.name()], u64::from(limits.waiting))
                })
            })
        },
    ),
    line(
        "callboard_requests_failed_total",
        Counter,
        SERVICE,
        "Requests answered by the proxy itself, since no endpoint answered.",
        |scrape, samples| per_service(scrape, samples, |lane| &lane.failed),
    ),
    line(
        "callboard_requests_fallback_total",
        Counter,
        SERVICE,
        "Requests that the service's fallback took over, since the service had nobody.",
        |scrape, samples| per_service(scrape, samples, |lane| &lane.fallbacks),
    ),
    line(
        "callboard_requests_split_total",
        Counter,
        &["route", "line", "service"],
        "Requests of a route that is split, by the service that got them.",
        splits,
    ),
    line(
        "callboard_requests_abandoned_total",
        Counter,
        SERVICE,
        "Requests whose client was gone before its answer.",
        |scrape, samples| per_service(scrape, samples, |lane| &lane.abandoned),
    ),
    line(
        "callboard_requests_unrouted_total",
        Counter,
        &[],
        "Requests that no route takes, or that name no known service.",
        |scrape, samples| samples.add(&[], over_workers(scrape, |worker| &worker.unrouted)),
    ),
    line(
        "callboard_requests_refused_total",
        Counter,
        &[],
        "Requests refused for what they are.",
        |scrape, samples| samples.add(&[], over_workers(scrape, |worker| &worker.refused)),
    ),
    line(
        "callboard_connections_refused_total",
        Counter,
        &[],
        "Client connections refused, since their address had too many.",
        |scrape, samples| samples.add(&[], over_workers(scrape, |worker| &worker.turned_away)),
    ),
    line(
        "callboard_tls_certificate_expiry_timestamp_seconds",
        Gauge,
        &["listener", "certificate"],
        "When a certificate that a listener shows holds no more.",
        tls::expiries,
    ),
    line(
        "callboard_tls_certificate_unusable",
        Gauge,
        &["listener", "certificate"],
        "Whether a certificate's file has changed and cannot be used, so that the one before stays.",
        tls::unusable,
    ),
    line(
        "callboard_tls_reloads_total",
        Counter,
        &["listener", "result"],
        "Changed files of certificates, authorities and ticket keys, taken over or not.",
        tls::reloads,
    ),
    line(
        "callboard_tls_handshakes_total",
        Counter,
        &["listener", "result"],
        "TLS handshakes with clients, by what became of them.",
        tls::handshakes,
    ),
    line(
        "callboard_tls_handshakes_pending",
        Gauge,
        &["listener"],
        "TLS handshakes with clients that are under way.",
        tls::pending,
    ),
    line(
        "callboard_balance_keyless_total",
        Counter,
        SERVICE,
        "Requests without the key that the service's hash asks for.",
        |scrape, samples| tallied(scrape, samples, is_hash, |tally| &tally.keyless),
    ),
    line(
        "callboard_balance_overflowed_total",
        Counter,
        SERVICE,
        "Picks whose key's endpoint had as much in flight as the hash's bound allows.",
        |scrape, samples| tallied(scrape, samples, is_hash, |tally| &tally.overflowed),
    ),
    line(
        "callboard_balance_moved_total",
        Counter,
        SERVICE,
        "Clients whose cookie names another endpoint than it did.",
        |scrape, samples| {
            tallied(
                scrape,
                samples,
                |balance| !is_hash(balance),
                |tally| &tally.moved,
            )
        },
    ),
    line(
        "callboard_zone_requests_total",
        Counter,
        &["service", "zone"],
        "Answers of a service that prefers the proxy's own zone, by whether one of it gave them.",
        zones,
    ),
    line(
        "callboard_zone_local_percent",
        Gauge,
        SERVICE,
        "Of a hundred requests, how many go to the proxy's own zone, where that is preferred.",
        |scrape, samples| {
            scrape.services.iter().try_for_each(|(service, status)| {
                let zone = status.zone.as_ref();
                zone.map_or(Ok(()), |zone| {
                    samples.add(&[service.name()], u64::from(zone.local_percent))
                })
            })
        },
    ),
    line(
        "callboard_endpoints",
        Gauge,
        &["service", "state"],
        "Endpoints, by what becomes of them.",
        endpoints,
    ),
    line(
        "callboard_health_checks_total",
        Counter,
        &["service", "result"],
        "The proxy's own checks of the service's endpoints, by whether they passed.",
        |scrape, samples| {
            checked(scrape).try_for_each(|(service, _)| {
                let (passed, failed) = service.checks_run();
                samples.add(&[service.name(), "passed"], passed)?;
                samples.add(&[service.name(), "failed"], failed)
            })
        },
    ),
    line(
        "callboard_service_pinned",
        Gauge,
        SERVICE,
        "Whether the service stays with a set, whatever its registries say.",
        |scrape, samples| {
            let mut services = scrape.services.iter();
            services.try_for_each(|(service, status)| match status.pin.is_some() {
                true => samples.add(&[service.name()], true),
                false => Ok(()),
            })
        },
    ),
    line(
        "callboard_panic",
        Gauge,
        SERVICE,
        "Whether so few endpoints pass the proxy's own checks that these are not believed.",
        |scrape, samples| {
            checked(scrape)
                .try_for_each(|(service, status)| samples.add(&[service.name()], status.panic))
        },
    ),
    line(
        "callboard_subset_endpoints",
        Gauge,
        &["service", "subset", "balance"],
        "Endpoints that may be picked of those that a route wants.",
        subsets,
    ),
    line(
        "callboard_endpoint_requests_in_flight",
        Gauge,
        ENDPOINT,
        "Requests that the endpoint works on now.",
        |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.in_flight),
    ),
    line(
        "callboard_endpoint_attempts_total",
        Counter,
        ENDPOINT,
        "Attempts to have a request answered by the endpoint.",
        |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.attempts),
    ),
    line(
        "callboard_endpoint_failures_total",
        Counter,
        ENDPOINT,
        "Attempts that failed.",
        |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.failures),
    ),
    line(
        "callboard_endpoint_failures_by_cause_total",
        Counter,
        &["service", "endpoint", "cause"],
        "Attempts that failed, by why, and answers that broke off.",
        |scrape, samples| {
            per_endpoint_and_name(scrape, samples, |endpoint| &endpoint.failures_by_cause)
        },
    ),
    line(
        "callboard_endpoint_answers_total",
        Counter,
        &["service", "endpoint", "status"],
        "Answers of the endpoint, passed on or not, by the class of their status.",
        |scrape, samples| per_endpoint_and_name(scrape, samples, |endpoint| &endpoint.answers),
    ),
    line(
        "callboard_endpoint_latency_seconds",
        Gauge,
        &["service", "endpoint", "quantile"],
        "How long the endpoint took to the head of its answer in the last minutes.",
        latencies,
    ),
    line(
        "callboard_endpoint_connections_opened_total",
        Counter,
        ENDPOINT,
        "Connections opened to the endpoint.",
        |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.connections_opened),
    ),
    line(
        "callboard_endpoint_connections_idle",
        Gauge,
        ENDPOINT,
        "Idle connections to the endpoint.",
        |scrape, samples| {
            per_endpoint(scrape, samples, |endpoint| endpoint.idle_connections as u64)
        },
    ),
    line(
        "callboard_watch_healthy",
        Gauge,
        WATCH,
        "Whether the registry was read, and the last attempt did not fail.",
        |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.healthy)),
    ),
    line(
        "callboard_watch_age_seconds",
        Gauge,
        WATCH,
        "Since the registry's last answer. Grows while nothing changes.",
        |scrape, samples| {
            let age =
                |watch: &crate::registry::watch::WatchSnapshot| Some(watch.age?.as_secs_f64());
            per_watch(scrape, samples, age)
        },
    ),
    line(
        "callboard_watch_failures_total",
        Counter,
        WATCH,
        "Attempts to read the registry that failed.",
        |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.failures)),
    ),
    line(
        "callboard_watch_updates_total",
        Counter,
        WATCH,
        "States that the registry gave and that differed from the last.",
        |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.updates)),
    ),
    line(
        "callboard_watch_skipped_entries",
        Gauge,
        WATCH,
        "Entries of the last state that cannot be called.",
        |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.skipped.len())),
    ),
    line(
        "callboard_shadow_missing_endpoints",
        Gauge,
        WATCH,
        "Endpoints of the registry that serves which the registry that shadows it lacks.",
        |scrape, samples| per_shadow(scrape, samples, |shadow| &shadow.missing),
    ),
    line(
        "callboard_shadow_extra_endpoints",
        Gauge,
        WATCH,
        "Endpoints that only the registry that shadows has.",
        |scrape, samples| per_shadow(scrape, samples, |shadow| &shadow.extra),
    ),
    line(
        "callboard_shadow_unlike_endpoints",
        Gauge,
        WATCH,
        "Endpoints of both whose health the two see differently.",
        |scrape, samples| per_shadow(scrape, samples, |shadow| &shadow.unlike),
    ),
    line(
        "callboard_registry_watches",
        Gauge,
        &["registry", "state"],
        "Watches of a registry that holds a limited number at once: held, or read in turn.",
        |scrape, samples| {
            scrape.watches.iter().try_for_each(|(registry, watches)| {
                samples.add(&[registry, "held"], watches.held)?;
                samples.add(&[registry, "in_turn"], watches.in_turn)
            })
        },
    ),
    line(
        "callboard_catalog_services",
        Gauge,
        &["registry"],
        "Services that the registry lists.",
        |scrape, samples| {
            let mut catalogs = scrape.catalogs.iter();
            catalogs.try_for_each(|(watch, listed)| samples.add(&[&watch.registry], *listed))
        },
    ),
    line(
        "callboard_set_from_snapshot_age_seconds",
        Gauge,
        WATCH,
        "Where a set counts that was kept from before the start: since its registry said so.",
        |scrape, samples| {
            scrape.services.iter().try_for_each(|(service, status)| {
                status.from_snapshot.iter().try_for_each(|set| {
                    samples.add(&[&set.registry, service.name()], set.age_seconds)
                })
            })
        },
    ),
    line(
        "callboard_snapshot_unusable",
        Gauge,
        &[],
        "Whether the snapshot on disk could not be read at the start.",
        |scrape, samples| {
            let unusable = |status: &Status| matches!(status.found, Found::Unusable(_));
            known(samples, scrape.snapshot.as_ref().map(unusable))
        },
    ),
    line(
        "callboard_snapshot_writes_total",
        Counter,
        &[],
        "How often the snapshot was written to disk.",
        |scrape, samples| known(samples, scrape.snapshot.as_ref().map(|kept| kept.writes)),
    ),
    line(
        "callboard_snapshot_failures_total",
        Counter,
        &[],
        "How often the snapshot could not be written to disk.",
        |scrape, samples| known(samples, scrape.snapshot.as_ref().map(|kept| kept.failures)),
    ),
    line(
        "callboard_snapshot_written_timestamp_seconds",
        Gauge,
        &[],
        "When the snapshot was last written, in Unix time.",
        |scrape, samples| {
            known(
                samples,
                scrape.snapshot.as_ref().and_then(|kept| kept.written),
            )
        },
    ),
    line(
        "callboard_connections",
        Gauge,
        &[],
        "Open client connections.",
        |scrape, samples| samples.add(&[], (scrape.context.view.connections)()),
    ),
    line(
        "callboard_workers",
        Gauge,
        &[],
        "Worker threads.",
        |scrape, samples| samples.add(&[], scrape.context.view.workers.len()),
    ),
    line(
        "callboard_ready",
        Gauge,
        &[],
        "Whether the proxy may be sent traffic.",
        |scrape, samples| samples.add(&[], scrape.readiness.ready),
    ),
    line(
        "callboard_draining",
        Gauge,
        &[],
        "Whether the proxy is on its way out.",
        |scrape, samples| samples.add(&[], scrape.readiness.draining),
    ),
    line(
        "callboard_unread",
        Gauge,
        &[],
        "Services and catalogs that were never read.",
        |scrape, samples| samples.add(&[], scrape.readiness.missing.len()),
    ),
    line(
        "callboard_build_info",
        Gauge,
        &["version"],
        "Always 1.",
        |_, samples| samples.add(&[env!("CARGO_PKG_VERSION")], true),
    ),
    // What every Prometheus client calls these.
    line(
        "process_start_time_seconds",
        Gauge,
        &[],
        "When the process began, in Unix time.",
        |scrape, samples| samples.add(&[], scrape.context.started.unix_seconds()),
    ),
    line(
        "process_resident_memory_bytes",
        Gauge,
        &[],
        "Memory in use.",
        |_, samples| known(samples, process::resident_bytes()),
    ),
    line(
        "process_open_fds",
        Gauge,
        &[],
        "Open file descriptors.",
        |_, samples| known(samples, process::open_fds()),
    ),
    line(
        "process_max_fds",
        Gauge,
        &[],
        "File descriptors that it may open.",
        |_, samples| known(samples, process::max_fds()),
    ),
];

const fn line(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    collect: fn(&Scrape<'_>, &mut Samples<'_>) -> fmt::Result,
) -> Metric {
    Metric {
        name,
        kind,
        labels,
        help,
        collect,
    }
}

fn is_hash(balance: &Balance) -> bool {
    matches!(balance, Balance::Hash(_))
}

/// What is counted of the services that have keys of one kind, be it in one view alone.
fn tallied(
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
            .lanes()
            .map(|lane| counter(&lane.tally).value())
            .sum();
        samples.add(&[service.name()], sum)
    })
}

/// Services whose endpoints the proxy itself checks.
fn checked<'s>(scrape: &'s Scrape<'_>) -> impl Iterator<Item = &'s (Arc<Service>, ServiceStatus)> {
    let services = scrape.services.iter();
    services.filter(|(service, _)| service.policy().health.is_some())
}

/// Of an address that several instances have, the slowest one's.
fn latencies(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
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

fn answers(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    for (service, _) in scrape.called() {
        for (class, name) in StatusClass::NAMES.iter().enumerate() {
            let lanes = service.lanes();
            let sum: u64 = lanes.map(|lane| lane.answers[class].value()).sum();
            samples.add(&[service.name(), name], sum)?;
        }
    }
    Ok(())
}

fn shed(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let services = scrape.services.iter();
    for (service, _) in services.filter(|(_, status)| status.limits.is_some()) {
        for (place, reason) in Shed::ALL.iter().enumerate() {
            let lanes = service.lanes();
            let sum: u64 = lanes.map(|lane| lane.shed[place].value()).sum();
            samples.add(&[service.name(), reason.as_str()], sum)?;
        }
    }
    Ok(())
}

fn zones(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let services = scrape.services.iter();
    for (service, _) in services.filter(|(_, status)| status.zone.is_some()) {
        let sum =
            |of: fn(&BalanceStats) -> u64| service.lanes().map(|lane| of(&lane.tally)).sum::<u64>();
        samples.add(&[service.name(), "local"], sum(|tally| tally.local.value()))?;
        samples.add(&[service.name(), "other"], sum(|tally| tally.other.value()))?;
    }
    Ok(())
}

fn durations(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    scrape.called().try_for_each(|(service, _)| {
        let mut sum = HistogramSum::default();
        for lane in service.lanes() {
            lane.duration.add_to(&mut sum);
        }
        samples.add_histogram(&[service.name()], &sum)
    })
}

fn rates(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
    let mut sums = BTreeMap::<_, u64>::new();
    for (labels, rate) in &scrape.rates {
        *sums.entry(labels).or_default() += rate.limited();
    }
    sums.into_iter()
        .try_for_each(|((route, line), sum)| samples.add(&[route, line], sum))
}

fn splits(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
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

fn subsets(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
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

fn endpoints(scrape: &Scrape<'_>, samples: &mut Samples<'_>) -> fmt::Result {
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

fn known(samples: &mut Samples<'_>, value: Option<impl Into<Value>>) -> fmt::Result {
    value.map_or(Ok(()), |value| samples.add(&[], value))
}
