//! How everything stands, as one JSON object for people and programs.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Json, extract::State};
use serde::Serialize;
use tokio::time::Instant;

use super::{
    findings::{ChangedShares, Finding, ProcessFacts, ServiceFacts, findings},
    history::History,
    leaving::LeavingStatus,
    log_level::LogLevelStatus,
    ready::Readiness,
    reload::ReloadShown,
    routes::RouteStatus,
    selection::Selection,
    view::{Context, Shown},
};
use crate::{
    acme::NameStatus,
    config::{ListenAddress, RegistryKind},
    discovery::{Directory, Quarantined},
    metrics::Counter,
    proxy::{Generation, Http2Counts, Worker},
    registry::{Watches, watch::WatchSnapshot},
    saved,
    service::{EndpointStatus, Service, ServiceStats, ServiceStatus},
    tls::{CertificateStatus, Server, TicketStatus},
};

#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    /// Unix time in seconds.
    started: f64,
    uptime_seconds: f64,
    #[serde(flatten)]
    readiness: Readiness,
    listeners: Vec<ListenAddress>,
    /// Those that are out of the file, and have connections still.
    leaving: Vec<LeavingStatus>,
    /// Of the listeners that speak TLS.
    tls: Vec<TlsStatus>,
    /// Names that certificates are ordered for.
    acme: Vec<NameStatus>,
    /// Open client connections.
    connections: usize,
    /// Those of them that speak HTTP/2.
    http2: Http2Status,
    workers: Vec<WorkerStatus>,
    routes: Vec<RouteStatus>,
    /// Tags that make no route.
    quarantined: Vec<Quarantined>,
    pub(super) services: Vec<ServiceTraffic>,
    /// After which service the next page begins; `None` where this is the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Arc<str>>,
    /// Those that stay with a set, whatever their registries say.
    pinned: Vec<Arc<str>>,
    /// Those of which a person drains endpoints.
    drained: Vec<Arc<str>>,
    /// What is unusual of the proxy and of these services.
    findings: Vec<Finding>,
    reload: ReloadShown,
    /// What the log goes by.
    log: LogLevelStatus,
    /// `None` where nothing is kept on disk.
    snapshot: Option<saved::Status>,
    pub(super) registries: Vec<RegistryStatus>,
}

/// What is open of HTTP/2.
#[derive(Serialize)]
struct Http2Status {
    connections: u64,
    /// Requests whose streams are open.
    streams: u64,
}

#[derive(Serialize)]
struct TlsStatus {
    /// The first address of its table.
    listener: ListenAddress,
    certificates: Vec<CertificateStatus>,
    /// Why new authorities of clients are not used, where they are not.
    client_error: Option<String>,
    /// The file that the keys of its session tickets are from, where they are from one.
    tickets: Option<TicketStatus>,
    handshakes: HandshakeStatus,
}

/// Handshakes by what became of them.
#[derive(Serialize)]
struct HandshakeStatus {
    pending: u64,
    full: u64,
    resumed: u64,
    failed: u64,
    late: u64,
    evicted: u64,
    not_tls: u64,
}

#[derive(Serialize)]
struct WorkerStatus {
    /// Requests that no route took.
    unrouted: u64,
    /// Requests that were refused for what they are.
    refused: u64,
}

/// A service and what it was asked.
#[derive(Serialize)]
pub(super) struct ServiceTraffic {
    #[serde(flatten)]
    pub(super) status: ServiceStatus,
    pub(super) requests: u64,
    pub(super) retries: u64,
    /// Retries that the budget refused, and how many it would grant now.
    pub(super) retries_refused: u64,
    pub(super) retries_left: u64,
    /// Requests answered by the proxy itself.
    pub(super) failed: u64,
    /// Requests that its fallback took over.
    pub(super) fallbacks: u64,
    /// Requests whose client was gone before the answer.
    pub(super) abandoned: u64,
    /// Clients' connections that have gone over to another protocol, and go on.
    pub(super) tunnels: u64,
}

#[derive(Serialize)]
pub(super) struct RegistryStatus {
    pub(super) name: Arc<str>,
    pub(super) kind: &'static str,
    /// `None` where no template route needs it.
    catalog: Option<CatalogStatus>,
    /// `None` where any number of services can be watched at once.
    pub(super) watches: Option<Watches>,
}

#[derive(Serialize)]
struct CatalogStatus {
    watch: WatchSnapshot,
    /// Since the registry listed them; `None` where that was not before the start.
    from_snapshot_age_seconds: Option<f64>,
    /// What it lists; `expose` may hide some of them from template routes.
    services: Vec<Arc<str>>,
}

pub(super) async fn status(State(context): Shown, selection: Selection) -> Json<impl Serialize> {
    Json(Status::of(&context, &selection))
}

impl Status {
    pub(super) fn of(context: &Context, selection: &Selection) -> Self {
        let view = &context.view;
        let generation = view.shared.generation.load();
        let directory = &generation.directory;
        let page = selection.of(directory);
        let services = page.services.iter();
        let services: Vec<_> = services
            .map(|service| ServiceTraffic::of(service))
            .collect();
        let mut status = Self {
            version: env!("CARGO_PKG_VERSION"),
            started: context.started.unix_seconds(),
            uptime_seconds: context.started.since.elapsed().as_secs_f64(),
            readiness: Readiness::of(view),
            listeners: (view.listeners)(),
            leaving: (view.leaving)()
                .into_iter()
                .map(LeavingStatus::from)
                .collect(),
            tls: (view.tls)().iter().map(TlsStatus::of).collect(),
            acme: view.orders.names(),
            connections: (view.connections)(),
            http2: Http2Status::of(&view.workers),
            workers: view.workers.iter().map(WorkerStatus::of).collect(),
            routes: routes(&generation, selection),
            quarantined: directory.tagged().quarantined.clone(),
            pinned: services
                .iter()
                .filter(|service| service.status.pin.is_some())
                .map(|service| Arc::clone(&service.status.name))
                .collect(),
            drained: services
                .iter()
                .filter(|service| !service.status.drains.is_empty())
                .map(|service| Arc::clone(&service.status.name))
                .collect(),
            services,
            next: page.next,
            findings: Vec::new(),
            reload: view.reload.status().into(),
            log: view.log.status(),
            snapshot: view.snapshot.as_ref().map(|store| store.status()),
            registries: generation
                .config
                .registries
                .iter()
                .map(|(name, registry)| RegistryStatus::of(name, &registry.kind, directory))
                .collect(),
        };
        status.findings = status.findings(context, &context.history.lock());
        status
    }

    fn findings(&self, context: &Context, history: &History) -> Vec<Finding> {
        let certificates: Vec<_> = self
            .tls
            .iter()
            .flat_map(|tls| tls.certificates.iter().cloned())
            .collect();
        let catalogs = self.registries.iter();
        let catalogs = catalogs.filter_map(|one| Some(one.catalog.as_ref()?.watch.clone()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let process = ProcessFacts {
            readiness: &self.readiness,
            reload: &context.view.reload.status(),
            log: &self.log,
            shares: &changed_shares(context),
            leaving: &self.leaving,
            quarantined: &self.quarantined,
            certificates: &certificates,
            tls_errors: &self
                .tls
                .iter()
                .flat_map(TlsStatus::errors)
                .collect::<Vec<_>>(),
            orders: &self.acme,
            snapshot: self.snapshot.as_ref(),
            catalogs: &catalogs.collect::<Vec<_>>(),
            now: now.map_or(0, |now| now.as_secs() as i64),
        };
        let services = self.services.iter();
        findings(&process, services.map(|service| service.facts(history)))
    }
}

fn changed_shares(context: &Context) -> Vec<ChangedShares> {
    let directory = context.view.shared.directory();
    let splits = directory.splits().values();
    splits
        .filter_map(|split| ChangedShares::of(split))
        .collect()
}

/// The routes of the file and of tags that a page shows.
fn routes(generation: &Generation, selection: &Selection) -> Vec<RouteStatus> {
    if !selection.begins() {
        return Vec::new();
    }
    let directory = &generation.directory;
    let written = std::iter::zip(0.., &generation.config.routes)
        .filter(|(_, route)| selection.names_one_of(&route.goal))
        .map(|(place, route)| {
            let split = directory.splits().get(&place);
            let rate = generation.targets[place].rate.as_deref();
            RouteStatus::of(route, split.map(AsRef::as_ref), rate, &generation.config)
        });
    let tagged = directory.tagged();
    let tagged = tagged.routes.iter();
    let tagged = tagged.filter(|route| selection.names(route.service.name()));
    written.chain(tagged.map(RouteStatus::of_tags)).collect()
}

impl WorkerStatus {
    fn of(worker: &Arc<Worker>) -> Self {
        Self {
            unrouted: worker.unrouted.value(),
            refused: worker.refused.value(),
        }
    }
}

impl Http2Status {
    fn of(workers: &[Arc<Worker>]) -> Self {
        let sum = |of: fn(&Http2Counts) -> &Counter| {
            let counts = workers.iter().map(|worker| of(&worker.http2).value());
            counts.sum()
        };
        Self {
            connections: sum(|counts| &counts.connections),
            streams: sum(|counts| &counts.streams),
        }
    }
}

impl TlsStatus {
    fn of((listener, server): &(ListenAddress, Arc<Server>)) -> Self {
        let counts = &server.handshakes;
        Self {
            listener: listener.clone(),
            certificates: server.certificates(),
            client_error: server.error_of_clients(),
            tickets: server.tickets(),
            handshakes: HandshakeStatus {
                pending: counts.pending.value(),
                full: counts.full.value(),
                resumed: counts.resumed.value(),
                failed: counts.failed.value(),
                late: counts.late.value(),
                evicted: counts.evicted.value(),
                not_tls: counts.not_tls.value(),
            },
        }
    }
}

impl TlsStatus {
    /// Why files beside the certificates are not used.
    fn errors(&self) -> impl Iterator<Item = String> {
        let tickets = self.tickets.as_ref();
        let tickets = tickets.and_then(|tickets| tickets.error.as_ref());
        let errors = self.client_error.iter().chain(tickets);
        errors.map(|error| format!("TLS of {}: {error}", self.listener))
    }
}

impl ServiceTraffic {
    /// What its findings are made of.
    fn facts<'s>(&'s self, history: &History) -> ServiceFacts<'s> {
        let name = &self.status.name;
        let endpoints = self.status.endpoints.iter();
        let recent = |one: &EndpointStatus| history.recent_of_endpoint(name, &one.id);
        ServiceFacts {
            status: &self.status,
            retries_left: self.retries_left,
            recent: history.recent_of(name),
            endpoints: endpoints.map(recent).collect(),
        }
    }

    pub(super) fn of(service: &Service) -> Self {
        let sum = |of: fn(&ServiceStats) -> u64| service.all_stats().map(of).sum();
        let now = Instant::now();
        Self {
            status: ServiceStatus::of(service),
            requests: sum(|stats| stats.requests.value()),
            retries: sum(|stats| stats.retries.value()),
            retries_refused: sum(|stats| stats.budget_refused.value()),
            retries_left: service.retries_left(now),
            failed: sum(|stats| stats.failed.value()),
            fallbacks: sum(|stats| stats.fallbacks.value()),
            abandoned: sum(|stats| stats.abandoned.value()),
            tunnels: sum(|stats| stats.tunnels.open.value()),
        }
    }
}

impl RegistryStatus {
    fn of(name: &Arc<str>, kind: &RegistryKind, directory: &Directory) -> Self {
        Self {
            name: Arc::clone(name),
            kind: kind.as_str(),
            catalog: directory
                .catalogs()
                .find(|(registry, ..)| *registry == name)
                .map(|(_, watch, services)| CatalogStatus {
                    watch: watch.snapshot(),
                    from_snapshot_age_seconds: directory
                        .remembered_catalog(name)
                        .map(|at| at.elapsed().unwrap_or_default().as_secs_f64()),
                    services: services.keys().cloned().collect(),
                }),
            watches: directory
                .watches()
                .find(|(registry, _)| *registry == name)
                .map(|(_, watches)| watches),
        }
    }
}
