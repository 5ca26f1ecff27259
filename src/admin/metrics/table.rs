//! The table of all metrics: its lines are what is sent, in this order.

use std::fmt;

use tokio::time::Instant;

use super::{
    access_log, acme, calls, process, proxy_headers,
    scrape::{
        Kind, Metric, Samples, Value, over_workers, per_endpoint, per_endpoint_and_name,
        per_service, per_shadow, per_status, per_watch,
    },
    services, tls, tunnels,
};
use crate::{
    registry::watch::WatchSnapshot,
    saved::{Found, Status},
};

/// A metric is its kind, its name and its labels; what it counts; and what collects its samples.
macro_rules! metrics {
    ($($kind:ident $name:literal $labels:tt $help:literal => $collect:expr;)+) => {
        /// All metrics. Numbers of a service, an endpoint or a watcher go with it; counters begin at 0
        /// with the process. A watcher without a service is that of its registry's catalog.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &$labels,
            help: $help,
            collect: $collect,
        }),+];
    };
}

metrics! {
    Counter "callboard_requests_total" ["service"]
        "Requests routed to the service."
        => |scrape, samples| {
            scrape.services.iter().try_for_each(|(service, _)| {
                let requests = service.all_stats().map(|stats| stats.requests.value());
                samples.add(&[service.name()], requests.sum::<u64>())
            })
        };
    Counter "callboard_answers_total" ["service", "status"]
        "Answers, an endpoint's or the proxy's own, by the class of their status."
        => services::answers;
    Histogram "callboard_request_duration_seconds" ["service"]
        "From a request's arrival to the head of its answer."
        => services::durations;
    Counter "callboard_retries_total" ["service"]
        "Attempts beyond a request's first."
        => |scrape, samples| per_service(scrape, samples, |stats| &stats.retries);
    Counter "callboard_retries_refused_total" ["service"]
        "Retries that the retry budget refused."
        => |scrape, samples| per_service(scrape, samples, |stats| &stats.budget_refused);
    Gauge "callboard_retries_left" ["service"]
        "Retries that the retry budget would grant now."
        => |scrape, samples| {
            let now = Instant::now();
            scrape.called().try_for_each(|(service, _)| {
                samples.add(&[service.name()], service.retries_left(now))
            })
        };
    Counter "callboard_ejections_total" ["service"]
        "Endpoints that were ejected for failures in a row, for their answers, or by Retry-After."
        => |scrape, samples| per_service(scrape, samples, |stats| &stats.ejections);
    Counter "callboard_silences_total" ["service"]
        "Endpoints that were doubted, since they answered nothing while their peers did."
        => |scrape, samples| per_service(scrape, samples, |stats| &stats.silences);
    Counter "callboard_requests_limited_total" ["route", "line"]
        "Requests of a route with a rate whose client had none left."
        => services::rates;
    Counter "callboard_requests_shed_total" ["service", "reason"]
        "Requests that there was no room for, by the limit that was reached."
        => services::shed;
    Gauge "callboard_requests_pending" ["service"]
        "Requests that wait for room."
        => |scrape, samples| per_status(scrape, samples, |status| Some(status.limits?.waiting));
    Counter "callboard_requests_failed_total" ["service"]
        "Requests answered by the proxy itself, since no endpoint answered."
        => |scrape, samples| per_service(scrape, samples, |stats| &stats.failed);
    Counter "callboard_requests_fallback_total" ["service"]
        "Requests that the service's fallback took over, since the service had nobody."
        => |scrape, samples| per_service(scrape, samples, |stats| &stats.fallbacks);
    Counter "callboard_requests_split_total" ["route", "line", "service"]
        "Requests of a route that is split, by the service that got them."
        => services::splits;
    Gauge "callboard_split_changed" ["route", "line"]
        "Whether a route that is split has other shares than the file's, for a while."
        => services::changed_splits;
    Counter "callboard_requests_abandoned_total" ["service"]
        "Requests whose client was gone before its answer."
        => |scrape, samples| per_service(scrape, samples, |stats| &stats.abandoned);
    Counter "callboard_grpc_answers_total" ["service", "grpc_status"]
        "Answers to calls of gRPC, by their status; those that had none are not counted."
        => calls::answers;
    Gauge "callboard_tunnels_open" ["service"]
        "Client connections that have gone over to another protocol, such as WebSocket."
        => |scrape, samples| per_service(scrape, samples, |stats| &stats.tunnels.open);
    Counter "callboard_tunnels_total" ["service"]
        "Client connections that went over to another protocol."
        => |scrape, samples| per_service(scrape, samples, |stats| &stats.tunnels.opened);
    Counter "callboard_tunnels_ended_total" ["service", "end"]
        "Tunnels that have ended, by what has ended them."
        => tunnels::ends;
    Counter "callboard_tunnel_bytes_total" ["service", "from"]
        "Bytes that went through tunnels, by who has sent them."
        => tunnels::bytes;
    Counter "callboard_requests_unrouted_total" []
        "Requests that no route takes, or that name no known service."
        => |scrape, samples| over_workers(scrape, samples, |worker| &worker.unrouted);
    Counter "callboard_requests_refused_total" []
        "Requests refused for what they are."
        => |scrape, samples| over_workers(scrape, samples, |worker| &worker.refused);
    Counter "callboard_connections_refused_total" []
        "Client connections and tunnels of HTTP/2 that were refused, since there were too many."
        => |scrape, samples| over_workers(scrape, samples, |worker| &worker.turned_away);
    Gauge "callboard_http2_connections" []
        "Client connections that speak HTTP/2."
        => |scrape, samples| over_workers(scrape, samples, |worker| &worker.http2.connections);
    Gauge "callboard_http2_streams" []
        "Requests of HTTP/2 whose streams are open."
        => |scrape, samples| over_workers(scrape, samples, |worker| &worker.http2.streams);
    Counter "callboard_http2_requests_total" []
        "Requests that came by HTTP/2."
        => |scrape, samples| over_workers(scrape, samples, |worker| &worker.http2.requests);
    Counter "callboard_http2_streams_late_total" []
        "Streams that were reset, since a request's body did not come or an answer was not taken."
        => |scrape, samples| over_workers(scrape, samples, |worker| &worker.http2.late);
    Counter "callboard_http2_floods_total" []
        "Client connections that were ended for a flood of frames that ask for nothing."
        => |scrape, samples| over_workers(scrape, samples, |worker| &worker.http2.floods);
    Counter "callboard_proxy_headers_total" ["result"]
        "PROXY headers that were waited for, by what became of them."
        => proxy_headers::results;
    Counter "callboard_access_log_lines_total" []
        "Lines of the access log that were made."
        => access_log::made;
    Counter "callboard_access_log_lost_lines_total" ["reason"]
        "Lines of the access log that were written nowhere."
        => access_log::lost;
    Gauge "callboard_tls_certificate_expiry_timestamp_seconds" ["listener", "certificate"]
        "When a certificate that a listener shows holds no more."
        => tls::expiries;
    Gauge "callboard_tls_certificate_unusable" ["listener", "certificate"]
        "Whether a certificate's file has changed and cannot be used, so that the one before stays."
        => tls::unusable;
    Counter "callboard_tls_reloads_total" ["listener", "result"]
        "Changed files of certificates, authorities and ticket keys, taken over or not."
        => tls::reloads;
    Counter "callboard_tls_handshakes_total" ["listener", "result"]
        "TLS handshakes with clients, by what became of them."
        => tls::handshakes;
    Gauge "callboard_tls_handshakes_pending" ["listener"]
        "TLS handshakes with clients that are under way."
        => tls::pending;
    Counter "callboard_acme_orders_total" ["result"]
        "Orders of certificates, by what came of them."
        => acme::orders;
    Gauge "callboard_acme_failures" ["name"]
        "Orders of a certificate that have failed in a row."
        => acme::failures;
    Counter "callboard_balance_keyless_total" ["service"]
        "Requests without the key that the service's hash asks for."
        => |scrape, samples| {
            services::tallied(scrape, samples, services::is_hash, |tally| &tally.keyless)
        };
    Counter "callboard_balance_overflowed_total" ["service"]
        "Picks whose key's endpoint had as much in flight as the hash's bound allows."
        => |scrape, samples| {
            services::tallied(scrape, samples, services::is_hash, |tally| &tally.overflowed)
        };
    Counter "callboard_balance_moved_total" ["service"]
        "Clients whose cookie names another endpoint than it did."
        => |scrape, samples| {
            services::tallied(scrape, samples, |one| !services::is_hash(one), |tally| &tally.moved)
        };
    Counter "callboard_zone_requests_total" ["service", "zone"]
        "Answers of a service that prefers the proxy's own zone, by whether one of it gave them."
        => services::zones;
    Gauge "callboard_zone_local_percent" ["service"]
        "Of a hundred requests, how many go to the proxy's own zone, where that is preferred."
        => |scrape, samples| {
            per_status(scrape, samples, |status| Some(status.zone.as_ref()?.local_percent))
        };
    Gauge "callboard_endpoints" ["service", "state"]
        "Endpoints, by what becomes of them."
        => services::endpoints;
    Counter "callboard_health_checks_total" ["service", "result"]
        "The proxy's own checks of the service's endpoints, by whether they passed."
        => |scrape, samples| {
            services::checked(scrape).try_for_each(|(service, _)| {
                let (passed, failed) = service.checks_run();
                samples.add(&[service.name(), "passed"], passed)?;
                samples.add(&[service.name(), "failed"], failed)
            })
        };
    Gauge "callboard_service_reweighed" ["service"]
        "Endpoints of the service that are picked by another weight for a while."
        => |scrape, samples| per_status(scrape, samples, |status| some(status.weights.len()));
    Gauge "callboard_service_drained" ["service"]
        "Endpoints of the service that a person drains."
        => |scrape, samples| per_status(scrape, samples, |status| some(status.drains.len()));
    Gauge "callboard_service_pinned" ["service"]
        "Whether the service stays with a set, whatever its registries say."
        => |scrape, samples| per_status(scrape, samples, |status| some(status.pin.iter().len()));
    Gauge "callboard_panic" ["service"]
        "Whether so few endpoints pass the proxy's own checks that these are not believed."
        => |scrape, samples| {
            services::checked(scrape)
                .try_for_each(|(service, status)| samples.add(&[service.name()], status.panic))
        };
    Gauge "callboard_subset_endpoints" ["service", "subset", "balance"]
        "Endpoints that may be picked of those that a route wants."
        => services::subsets;
    Gauge "callboard_endpoint_requests_in_flight" ["service", "endpoint"]
        "Requests that the endpoint works on now."
        => |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.in_flight);
    Counter "callboard_endpoint_attempts_total" ["service", "endpoint"]
        "Attempts to have a request answered by the endpoint."
        => |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.attempts);
    Counter "callboard_endpoint_failures_total" ["service", "endpoint"]
        "Attempts that failed."
        => |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.failures);
    Counter "callboard_endpoint_failures_by_cause_total" ["service", "endpoint", "cause"]
        "Attempts that failed, by why, and answers that broke off."
        => |scrape, samples| {
            per_endpoint_and_name(scrape, samples, |endpoint| &endpoint.failures_by_cause)
        };
    Counter "callboard_endpoint_answers_total" ["service", "endpoint", "status"]
        "Answers of the endpoint, passed on or not, by the class of their status."
        => |scrape, samples| per_endpoint_and_name(scrape, samples, |endpoint| &endpoint.answers);
    Gauge "callboard_endpoint_latency_seconds" ["service", "endpoint", "quantile"]
        "How long the endpoint took to the head of its answer in the last minutes."
        => services::latencies;
    Counter "callboard_endpoint_connections_opened_total" ["service", "endpoint"]
        "Connections opened to the endpoint."
        => |scrape, samples| per_endpoint(scrape, samples, |endpoint| endpoint.connections_opened);
    Gauge "callboard_endpoint_connections_idle" ["service", "endpoint"]
        "Idle connections to the endpoint."
        => |scrape, samples| {
            per_endpoint(scrape, samples, |endpoint| endpoint.idle_connections as u64)
        };
    Gauge "callboard_watch_healthy" ["registry", "service"]
        "Whether the registry was read, and the last attempt did not fail."
        => |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.healthy));
    Gauge "callboard_watch_age_seconds" ["registry", "service"]
        "Since the registry's last answer. Grows while nothing changes."
        => |scrape, samples| {
            let age = |watch: &WatchSnapshot| Some(watch.age?.as_secs_f64());
            per_watch(scrape, samples, age)
        };
    Counter "callboard_watch_failures_total" ["registry", "service"]
        "Attempts to read the registry that failed."
        => |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.failures));
    Counter "callboard_watch_updates_total" ["registry", "service"]
        "States that the registry gave and that differed from the last."
        => |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.updates));
    Gauge "callboard_watch_skipped_entries" ["registry", "service"]
        "Entries of the last state that cannot be called."
        => |scrape, samples| per_watch(scrape, samples, |watch| Some(watch.skipped.len()));
    Gauge "callboard_shadow_missing_endpoints" ["registry", "service"]
        "Endpoints of the registry that serves which the registry that shadows it lacks."
        => |scrape, samples| per_shadow(scrape, samples, |shadow| &shadow.missing);
    Gauge "callboard_shadow_extra_endpoints" ["registry", "service"]
        "Endpoints that only the registry that shadows has."
        => |scrape, samples| per_shadow(scrape, samples, |shadow| &shadow.extra);
    Gauge "callboard_shadow_unlike_endpoints" ["registry", "service"]
        "Endpoints of both whose health the two see differently."
        => |scrape, samples| per_shadow(scrape, samples, |shadow| &shadow.unlike);
    Gauge "callboard_registry_watches" ["registry", "state"]
        "Watches of a registry that holds a limited number at once: held, or read in turn."
        => |scrape, samples| {
            scrape.watches.iter().try_for_each(|(registry, watches)| {
                samples.add(&[registry, "held"], watches.held)?;
                samples.add(&[registry, "in_turn"], watches.in_turn)
            })
        };
    Gauge "callboard_catalog_services" ["registry"]
        "Services that the registry lists."
        => |scrape, samples| {
            let mut catalogs = scrape.catalogs.iter();
            catalogs.try_for_each(|(watch, listed)| samples.add(&[&watch.registry], *listed))
        };
    Gauge "callboard_set_from_snapshot_age_seconds" ["registry", "service"]
        "Where a set counts that was kept from before the start: since its registry said so."
        => |scrape, samples| {
            scrape.services.iter().try_for_each(|(service, status)| {
                status.from_snapshot.iter().try_for_each(|set| {
                    samples.add(&[&set.registry, service.name()], set.age_seconds)
                })
            })
        };
    Gauge "callboard_snapshot_unusable" []
        "Whether the snapshot on disk could not be read at the start."
        => |scrape, samples| {
            let unusable = |status: &Status| matches!(status.found, Found::Unusable(_));
            known(samples, scrape.snapshot.as_ref().map(unusable))
        };
    Counter "callboard_snapshot_writes_total" []
        "How often the snapshot was written to disk."
        => |scrape, samples| known(samples, scrape.snapshot.as_ref().map(|kept| kept.writes));
    Counter "callboard_snapshot_failures_total" []
        "How often the snapshot could not be written to disk."
        => |scrape, samples| known(samples, scrape.snapshot.as_ref().map(|kept| kept.failures));
    Gauge "callboard_snapshot_written_timestamp_seconds" []
        "When the snapshot was last written, in Unix time."
        => |scrape, samples| known(samples, scrape.snapshot.as_ref().and_then(|kept| kept.written));
    Gauge "callboard_connections" []
        "Open client connections."
        => |scrape, samples| samples.add(&[], (scrape.context.view.connections)());
    Gauge "callboard_workers" []
        "Worker threads."
        => |scrape, samples| samples.add(&[], scrape.context.view.workers.len());
    Gauge "callboard_ready" []
        "Whether the proxy may be sent traffic."
        => |scrape, samples| samples.add(&[], scrape.readiness.ready);
    Gauge "callboard_draining" []
        "Whether the proxy is on its way out."
        => |scrape, samples| samples.add(&[], scrape.readiness.draining);
    Counter "callboard_reloads_total" ["result"]
        "Times that proxy.toml was read again."
        => |scrape, samples| {
            samples.add(&["applied"], scrape.reload.applied)?;
            samples.add(&["failed"], scrape.reload.failed)
        };
    Gauge "callboard_last_reload_successful" []
        "Whether what proxy.toml says runs, as far as the last reload tells."
        => |scrape, samples| {
            let last = scrape.reload.last.as_ref();
            samples.add(&[], last.is_none_or(|last| last.error.is_none()))
        };
    Counter "callboard_upgrades_failed_total" []
        "Upgrades of the binary that came to nothing."
        => |scrape, samples| samples.add(&[], scrape.context.view.upgrade.failed());
    Gauge "callboard_log_level_changed" []
        "Whether the log goes by another level than the file's."
        => |scrape, samples| samples.add(&[], scrape.context.view.log.status().ends.is_some());
    Gauge "callboard_unread" []
        "Services and catalogs that were never read."
        => |scrape, samples| samples.add(&[], scrape.readiness.missing.len());
    Gauge "callboard_build_info" ["version"]
        "Always 1."
        => |_, samples| samples.add(&[env!("CARGO_PKG_VERSION")], true);
    // What every Prometheus client calls these.
    Gauge "process_start_time_seconds" []
        "When the process began, in Unix time."
        => |scrape, samples| samples.add(&[], scrape.context.started.unix_seconds());
    Gauge "process_resident_memory_bytes" []
        "Memory in use."
        => |_, samples| known(samples, process::resident_bytes());
    Gauge "process_open_fds" []
        "Open file descriptors."
        => |_, samples| known(samples, process::open_fds());
    Gauge "process_max_fds" []
        "File descriptors that it may open."
        => |_, samples| known(samples, process::max_fds());
}

fn known(samples: &mut Samples<'_>, value: Option<impl Into<Value>>) -> fmt::Result {
    value.map_or(Ok(()), |value| samples.add(&[], value))
}

/// Of a count of which nothing is told where it is 0.
fn some(count: usize) -> Option<usize> {
    (count > 0).then_some(count)
}
