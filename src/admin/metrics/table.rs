//! The table of all metrics: its lines are what is sent, in this order.

use std::fmt;

use tokio::time::Instant;

use super::{
    access_log, acme, calls, process, proxy_headers,
    scrape::{
        Kind, Metric, Samples, Scrape, Value, over_workers, per_endpoint, per_endpoint_and_name,
        per_service, per_shadow, per_watch,
    },
    services, tls, tunnels,
};
use crate::{
    registry::watch::WatchSnapshot,
    saved::{Found, Status},
};

use Kind::{Counter, Gauge, Histogram};

const SERVICE: &[&str] = &["service"];
const ENDPOINT: &[&str] = &["service", "endpoint"];
const WATCH: &[&str] = &["registry", "service"];

/// All metrics. Numbers of a service, an endpoint or a watcher go with it; counters begin at 0
/// with the process. A watcher without a service is that of its registry's catalog.
pub const METRICS: &[Metric] = &[
    metric(
        "callboard_requests_total",
        Counter,
        SERVICE,
        "Requests routed to the service.",
        |scrape, samples| {
            scrape.services.iter().try_for_each(|(service, _)| {
                let requests = service.all_stats().map(|stats| stats.requests.value());
                samples.add(&[service.name()], requests.sum::<u64>())
            })
        },
    ),
    metric(
        "callboard_answers_total",
        Counter,
        &["service", "status"],
        "Answers, an endpoint's or the proxy's own, by the class of their status.",
        services::answers,
    ),
    metric(
        "callboard_request_duration_seconds",
        Histogram,
        SERVICE,
        "From a request's arrival to the head of its answer.",
        services::durations,
    ),
    metric(
        "callboard_retries_total",
        Counter,
        SERVICE,
        "Attempts beyond a request's first.",
        |scrape, samples| per_service(scrape, samples, |stats| &stats.retries),
    ),
    metric(
        "callboard_retries_refused_total",
        Counter,
        SERVICE,
        "Retries that the retry budget refused.",
        |scrape, samples| per_service(scrape, samples, |stats| &stats.budget_refused),
    ),
    metric(
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
    metric(
        "callboard_ejections_total",
        Counter,
        SERVICE,
        "Endpoints that were ejected for failures in a row, for their answers, or by Retry-After.",
        |scrape, samples| per_service(scrape, samples, |stats| &stats.ejections),
    ),
    metric(
        "callboard_silences_total",
        Counter,
        SERVICE,
        "Endpoints that were doubted, since they answered nothing while their peers did.",
        |scrape, samples| per_service(scrape, samples, |stats| &stats.silences),
    ),
    metric(
        "callboard_requests_limited_total",
        Counter,
        &["route", "line"],
        "Requests of a route with a rate whose client had none left.",
        services::rates,
    ),
    metric(
        "callboard_requests_shed_total",
        Counter,
        &["service", "reason"],
        "Requests that there was no room for, by the limit that was reached.",
        services::shed,
    ),
    metric(
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
    metric(
        "callboard_requests_failed_total",
        Counter,
        SERVICE,
        "Requests answered by the proxy itself, since no endpoint answered.",
        |scrape, samples| per_service(scrape, samples, |stats| &stats.failed),
    ),
    metric(
        "callboard_requests_fallback_total",
        Counter,
        SERVICE,
        "Requests that the service's fallback took over, since the service had nobody.",
        |scrape, samples| per_service(scrape, samples, |stats| &stats.fallbacks),
    ),
    metric(
        "callboard_requests_split_total",
        Counter,
        &["route", "line", "service"],
        "Requests of a route that is split, by the service that got them.",
        services::splits,
    ),
    metric(
        "callboard_split_changed",
        Gauge,
        &["route", "line"],
        "Whether a route that is split has other shares than the file's, for a while.",
        services::changed_splits,
    ),
    metric(
        "callboard_requests_abandoned_total",
        Counter,
        SERVICE,
        "Requests whose client was gone before its answer.",
        |scrape, samples| per_service(scrape, samples, |stats| &stats.abandoned),
    ),
    metric(
        "callboard_grpc_answers_total",
        Counter,
        &["service", "grpc_status"],
        "Answers to calls of gRPC, by their status; those that had none are not counted.",
        calls::answers,
    ),
    metric(
        "callboard_tunnels_open",
        Gauge,
        SERVICE,
        "Client connections that have gone over to another protocol, such as WebSocket.",
        |scrape, samples| per_service(scrape, samples, |stats| &stats.tunnels.open),
    ),
    metric(
        "callboard_tunnels_total",
        Counter,
        SERVICE,
        "Client connections that went over to another protocol.",
        |scrape, samples| per_service(scrape, samples, |stats| &stats.tunnels.opened),
    ),
    metric(
        "callboard_tunnels_ended_total",
        Counter,
        &["service", "end"],
        "Tunnels that have ended, by what has ended them.",
        tunnels::ends,
    ),
    metric(
        "callboard_tunnel_bytes_total",
        Counter,
        &["service", "from"],
        "Bytes that went through tunnels, by who has sent them.",
        tunnels::bytes,
    ),
    metric(
        "callboard_requests_unrouted_total",
        Counter,
        &[],
        "Requests that no route takes, or that name no known service.",
        |scrape, samples| samples.add(&[], over_workers(scrape, |worker| &worker.unrouted)),
    ),
    metric(
        "callboard_requests_refused_total",
        Counter,
        &[],
        "Requests refused for what they are.",
        |scrape, samples| samples.add(&[], over_workers(scrape, |worker| &worker.refused)),
    ),
    metric(
        "callboard_connections_refused_total",
        Counter,
        &[],
        "Client connections refused, since their address had too many.",
        |scrape, samples| samples.add(&[], over_workers(scrape, |worker| &worker.turned_away)),
    ),
    metric(
        "callboard_http2_connections",
        Gauge,
        &[],
        "Client connections that speak HTTP/2.",
        |scrape, samples| {
            samples.add(
                &[],
                over_workers(scrape, |worker| &worker.http2.connections),
            )
        },
    ),
    metric(
        "callboard_http2_streams",
        Gauge,
        &[],
        "Requests of HTTP/2 whose streams are open.",
        |scrape, samples| samples.add(&[], over_workers(scrape, |worker| &worker.http2.streams)),
    ),
    metric(
        "callboard_http2_requests_total",
        Counter,
        &[],
        "Requests that came by HTTP/2.",
        |scrape, samples| samples.add(&[], over_workers(scrape, |worker| &worker.http2.requests)),
    ),
    metric(
        "callboard_http2_streams_late_total",
        Counter,
        &[],
        "Streams that were reset, since a request's body did not come or an answer was not taken.",
        |scrape, samples| samples.add(&[], over_workers(scrape, |worker| &worker.http2.late)),
    ),
    metric(
        "callboard_http2_floods_total",
        Counter,
        &[],
        "Client connections that were ended for a flood of frames that ask for nothing.",
        |scrape, samples| samples.add(&[], over_workers(scrape, |worker| &worker.http2.floods)),
    ),
    metric(
        "callboard_proxy_headers_total",
        Counter,
        &["result"],
        "PROXY headers that were waited for, by what became of them.",
        proxy_headers::results,
    ),
    metric(
        "callboard_access_log_lines_total",
        Counter,
        &[],
        "Lines of the access log that were made.",
        access_log::made,
    ),
    metric(
        "callboard_access_log_lost_lines_total",
        Counter,
        &["reason"],
        "Lines of the access log that were written nowhere.",
        access_log::lost,
    ),
    metric(
        "callboard_tls_certificate_expiry_timestamp_seconds",
        Gauge,
        &["listener", "certificate"],
        "When a certificate that a listener shows holds no more.",
        tls::expiries,
    ),
    metric(
        "callboard_tls_certificate_unusable",
        Gauge,
        &["listener", "certificate"],
        "Whether a certificate's file has changed and cannot be used, so that the one before stays.",
        tls::unusable,
    ),
    metric(
        "callboard_tls_reloads_total",
        Counter,
        &["listener", "result"],
        "Changed files of certificates, authorities and ticket keys, taken over or not.",
        tls::reloads,
    ),
    metric(
        "callboard_tls_handshakes_total",
        Counter,
        &["listener", "result"],
        "TLS handshakes with clients, by what became of them.",
        tls::handshakes,
    ),
    metric(
        "callboard_tls_handshakes_pending",
        Gauge,
        &["listener"],
        "TLS handshakes with clients that are under way.",
        tls::pending,
    ),
    metric(
        "callboard_acme_orders_total",
        Counter,
        &["result"],
        "Orders of certificates, by what came of them.",
        acme::orders,
    ),
    metric(
        "callboard_acme_failures",
        Gauge,
        &["name"],
        "Orders of a certificate that have failed in a row.",
        acme::failures,
    ),
    metric(
        "callboard_balance_keyless_total",
        Counter,
        SERVICE,
        "Requests without the key that the service's hash asks for.",
        |scrape, samples| {
            services::tallied(scrape, samples, services::is_hash, |tally| &tally.keyless)
        },
    ),
    metric(
        "callboard_balance_overflowed_total",
        Counter,
        SERVICE,
        "Picks whose key's endpoint had as much in flight as the hash's bound allows.",
        |scrape, samples| {
            services::tallied(scrape, samples, services::is_hash, |tally| {
                &tally.overflowed
            })
        },
    ),
    metric(
        "callboard_balance_moved_total",
        Counter,
        SERVICE,
        "Clients whose cookie names another endpoint than it did.",
        |scrape, samples| {
            services::tallied(
                scrape,
                samples,
                |balance| !services::is_hash(balance),
                |tally| &tally.moved,
            )
        },
    ),
    metric(
        "callboard_zone_requests_total",
        Counter,
        &["service", "zone"],
        "Answers of a service that prefers the proxy's own zone, by whether one of it gave them.",
        services::zones,
    ),
    metric(
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
    metric(
        "callboard_endpoints",
        Gauge,
        &["service", "state"],
        "Endpoints, by what becomes of them.",
        services::endpoints,
    ),
    metric(
        "callboard_health_checks_total",
        Counter,
        &["service", "result"],
        "The proxy's own checks of the service's endpoints, by whether they passed.",
        |scrape, samples| {
            services::checked(scrape).try_for_each(|(service, _)| {
                let (passed, failed) = service.checks_run();
                samples.add(&[service.name(), "passed"], passed)?;
                samples.add(&[service.name(), "failed"], failed)
            })
        },
    ),
    metric(
        "callboard_service_reweighed",
        Gauge,
        SERVICE,
        "Endpoints of the service that are picked by another weight for a while.",
        |scrape, samples| {
            let services = scrape.services.iter();
            let mut services = services.filter(|(_, status)| !status.weights.is_empty());
            services.try_for_each(|(service, status)| {
                samples.add(&[service.name()], status.weights.len())
            })
        },
    ),
    metric(
        "callboard_service_drained",
        Gauge,
        SERVICE,
        "Endpoints of the service that a person drains.",
        |scrape, samples| {
            let services = scrape.services.iter();
            let mut services = services.filter(|(_, status)| !status.drains.is_empty());
            services.try_for_each(|(service, status)| {
                samples.add(&[service.name()], status.drains.len())
            })
        },
    ),
    metric(
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
    metric(
        "callboard_panic",
        Gauge,
        SERVICE,
        "Whether so few endpoints pass the proxy's own checks that these are not believed.",
        |scrape, samples| {
            services::checked(scrape)
                .try_for_each(|(service, status)| samples.add(&[service.name()], status.panic))
        },
    ),
    metric(
        "callboard_subset_endpoints",
        Gauge,
        &["service", "subset", "balance"],
        "Endpoints that may be picked of those that a route wants.",
        services::subsets,
    ),
    metric(
        "callboard_endpoint_requests_in_flight",
        Gauge,
        ENDPOINT,
        "Requests that the endpoint works on now.",
        |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.in_flight),
    ),
    metric(
        "callboard_endpoint_attempts_total",
        Counter,
        ENDPOINT,
        "Attempts to have a request answered by the endpoint.",
        |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.attempts),
    ),
    metric(
        "callboard_endpoint_failures_total",
        Counter,
        ENDPOINT,
        "Attempts that failed.",
        |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.failures),
    ),
    metric(
        "callboard_endpoint_failures_by_cause_total",
        Counter,
        &["service", "endpoint", "cause"],
        "Attempts that failed, by why, and answers that broke off.",
        |scrape, samples| {
            per_endpoint_and_name(scrape, samples, |endpoint| &endpoint.failures_by_cause)
        },
    ),
    metric(
        "callboard_endpoint_answers_total",
        Counter,
        &["service", "endpoint", "status"],
        "Answers of the endpoint, passed on or not, by the class of their status.",
        |scrape, samples| per_endpoint_and_name(scrape, samples, |endpoint| &endpoint.answers),
    ),
    metric(
        "callboard_endpoint_latency_seconds",
        Gauge,
        &["service", "endpoint", "quantile"],
        "How long the endpoint took to the head of its answer in the last minutes.",
        services::latencies,
    ),
    metric(
        "callboard_endpoint_connections_opened_total",
        Counter,
        ENDPOINT,
        "Connections opened to the endpoint.",
        |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.connections_opened),
    ),
    metric(
        "callboard_endpoint_connections_idle",
        Gauge,
        ENDPOINT,
        "Idle connections to the endpoint.",
        |scrape, samples| {
            per_endpoint(scrape, samples, |endpoint| endpoint.idle_connections as u64)
        },
    ),
    metric(
        "callboard_watch_healthy",
        Gauge,
        WATCH,
        "Whether the registry was read, and the last attempt did not fail.",
        |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.healthy)),
    ),
    metric(
        "callboard_watch_age_seconds",
        Gauge,
        WATCH,
        "Since the registry's last answer. Grows while nothing changes.",
        |scrape, samples| {
            let age = |watch: &WatchSnapshot| Some(watch.age?.as_secs_f64());
            per_watch(scrape, samples, age)
        },
    ),
    metric(
        "callboard_watch_failures_total",
        Counter,
        WATCH,
        "Attempts to read the registry that failed.",
        |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.failures)),
    ),
    metric(
        "callboard_watch_updates_total",
        Counter,
        WATCH,
        "States that the registry gave and that differed from the last.",
        |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.updates)),
    ),
    metric(
        "callboard_watch_skipped_entries",
        Gauge,
        WATCH,
        "Entries of the last state that cannot be called.",
        |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.skipped.len())),
    ),
    metric(
        "callboard_shadow_missing_endpoints",
        Gauge,
        WATCH,
        "Endpoints of the registry that serves which the registry that shadows it lacks.",
        |scrape, samples| per_shadow(scrape, samples, |shadow| &shadow.missing),
    ),
    metric(
        "callboard_shadow_extra_endpoints",
        Gauge,
        WATCH,
        "Endpoints that only the registry that shadows has.",
        |scrape, samples| per_shadow(scrape, samples, |shadow| &shadow.extra),
    ),
    metric(
        "callboard_shadow_unlike_endpoints",
        Gauge,
        WATCH,
        "Endpoints of both whose health the two see differently.",
        |scrape, samples| per_shadow(scrape, samples, |shadow| &shadow.unlike),
    ),
    metric(
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
    metric(
        "callboard_catalog_services",
        Gauge,
        &["registry"],
        "Services that the registry lists.",
        |scrape, samples| {
            let mut catalogs = scrape.catalogs.iter();
            catalogs.try_for_each(|(watch, listed)| samples.add(&[&watch.registry], *listed))
        },
    ),
    metric(
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
    metric(
        "callboard_snapshot_unusable",
        Gauge,
        &[],
        "Whether the snapshot on disk could not be read at the start.",
        |scrape, samples| {
            let unusable = |status: &Status| matches!(status.found, Found::Unusable(_));
            known(samples, scrape.snapshot.as_ref().map(unusable))
        },
    ),
    metric(
        "callboard_snapshot_writes_total",
        Counter,
        &[],
        "How often the snapshot was written to disk.",
        |scrape, samples| known(samples, scrape.snapshot.as_ref().map(|kept| kept.writes)),
    ),
    metric(
        "callboard_snapshot_failures_total",
        Counter,
        &[],
        "How often the snapshot could not be written to disk.",
        |scrape, samples| known(samples, scrape.snapshot.as_ref().map(|kept| kept.failures)),
    ),
    metric(
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
    metric(
        "callboard_connections",
        Gauge,
        &[],
        "Open client connections.",
        |scrape, samples| samples.add(&[], (scrape.context.view.connections)()),
    ),
    metric(
        "callboard_workers",
        Gauge,
        &[],
        "Worker threads.",
        |scrape, samples| samples.add(&[], scrape.context.view.workers.len()),
    ),
    metric(
        "callboard_ready",
        Gauge,
        &[],
        "Whether the proxy may be sent traffic.",
        |scrape, samples| samples.add(&[], scrape.readiness.ready),
    ),
    metric(
        "callboard_draining",
        Gauge,
        &[],
        "Whether the proxy is on its way out.",
        |scrape, samples| samples.add(&[], scrape.readiness.draining),
    ),
    metric(
        "callboard_reloads_total",
        Counter,
        &["result"],
        "Times that proxy.toml was read again.",
        |scrape, samples| {
            samples.add(&["applied"], scrape.reload.applied)?;
            samples.add(&["failed"], scrape.reload.failed)
        },
    ),
    metric(
        "callboard_last_reload_successful",
        Gauge,
        &[],
        "Whether what proxy.toml says runs, as far as the last reload tells.",
        |scrape, samples| {
            let last = scrape.reload.last.as_ref();
            samples.add(&[], last.is_none_or(|last| last.error.is_none()))
        },
    ),
    metric(
        "callboard_upgrades_failed_total",
        Counter,
        &[],
        "Upgrades of the binary that came to nothing.",
        |scrape, samples| samples.add(&[], scrape.context.view.upgrade.failed()),
    ),
    metric(
        "callboard_log_level_changed",
        Gauge,
        &[],
        "Whether the log goes by another level than the file's.",
        |scrape, samples| samples.add(&[], scrape.context.view.log.status().ends.is_some()),
    ),
    metric(
        "callboard_unread",
        Gauge,
        &[],
        "Services and catalogs that were never read.",
        |scrape, samples| samples.add(&[], scrape.readiness.missing.len()),
    ),
    metric(
        "callboard_build_info",
        Gauge,
        &["version"],
        "Always 1.",
        |_, samples| samples.add(&[env!("CARGO_PKG_VERSION")], true),
    ),
    // What every Prometheus client calls these.
    metric(
        "process_start_time_seconds",
        Gauge,
        &[],
        "When the process began, in Unix time.",
        |scrape, samples| samples.add(&[], scrape.context.started.unix_seconds()),
    ),
    metric(
        "process_resident_memory_bytes",
        Gauge,
        &[],
        "Memory in use.",
        |_, samples| known(samples, process::resident_bytes()),
    ),
    metric(
        "process_open_fds",
        Gauge,
        &[],
        "Open file descriptors.",
        |_, samples| known(samples, process::open_fds()),
    ),
    metric(
        "process_max_fds",
        Gauge,
        &[],
        "File descriptors that it may open.",
        |_, samples| known(samples, process::max_fds()),
    ),
];

const fn metric(
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

fn known(samples: &mut Samples<'_>, value: Option<impl Into<Value>>) -> fmt::Result {
    value.map_or(Ok(()), |value| samples.add(&[], value))
}
