//! How everything stands, as one JSON object for people and programs.

use std::{net::SocketAddr, sync::Arc};

use axum::{Json, extract::State};
use serde::Serialize;

use super::{
    ready::Readiness,
    view::{Context, Shown},
};
use crate::{
    config::{self, Goal, HostPattern, PathPattern, RegistryKind, Segment},
    registry::{Watches, watch::WatchSnapshot},
    saved,
    service::{Directory, Lane, Quarantined, Service, ServiceStatus, TaggedRoute},
};

#[derive(Serialize)]
struct Status {
    version: &'static str,
    /// Unix time in seconds.
    started: f64,
    uptime_seconds: f64,
    #[serde(flatten)]
    readiness: Readiness,
    listeners: Vec<SocketAddr>,
    /// Open client connections.
    connections: usize,
    workers: Vec<WorkerStatus>,
    routes: Vec<RouteStatus>,
    /// Tags that make no route.
    quarantined: Vec<Quarantined>,
    services: Vec<ServiceTraffic>,
    /// Those that stay with a set, whatever their registries say.
    pinned: Vec<Arc<str>>,
    /// `None` where nothing is kept on disk.
    snapshot: Option<saved::Status>,
    registries: Vec<RegistryStatus>,
}

#[derive(Serialize)]
struct WorkerStatus {
    /// Requests that no route took.
    unrouted: u64,
    /// Requests that were refused for what they are.
    refused: u64,
}

/// A route, as the file or a tag has it.
#[derive(Serialize)]
struct RouteStatus {
    /// `None` for any.
    host: Option<String>,
    path: String,
    /// A service's name, or `{service}` where the request names it.
    service: Arc<str>,
    /// None where its endpoints stand in the file.
    registries: Vec<Arc<str>>,
    strip_prefix: bool,
    /// Its line in the file; none of a route that tags have made.
    line: Option<usize>,
    /// The services whose tags have made it.
    tagged_by: Vec<Arc<str>>,
}

/// A service and what it was asked.
#[derive(Serialize)]
pub(super) struct ServiceTraffic {
    #[serde(flatten)]
    status: ServiceStatus,
    requests: u64,
    retries: u64,
    /// Requests answered by the proxy itself.
    failed: u64,
    /// Requests whose client was gone before the answer.
    abandoned: u64,
}

#[derive(Serialize)]
struct RegistryStatus {
    name: Arc<str>,
    kind: &'static str,
    /// `None` where no template route needs it.
    catalog: Option<CatalogStatus>,
    /// `None` where any number of services can be watched at once.
    watches: Option<Watches>,
}

#[derive(Serialize)]
struct CatalogStatus {
    watch: WatchSnapshot,
    /// Since the registry listed them; `None` where that was not before the start.
    from_snapshot_age_seconds: Option<f64>,
    /// What it lists; `expose` may hide some of them from template routes.
    services: Vec<Arc<str>>,
}

pub(super) async fn status(State(context): Shown) -> Json<impl Serialize> {
    Json(Status::of(&context))
}

impl Status {
    fn of(context: &Context) -> Self {
        let view = &context.view;
        let directory = &view.shared.generation.load().directory;
        let tagged = directory.tagged();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started: context.started.unix_seconds(),
            uptime_seconds: context.started.since.elapsed().as_secs_f64(),
            readiness: Readiness::of(view),
            listeners: view.listeners.clone(),
            connections: (view.connections)(),
            workers: view
                .workers
                .iter()
                .map(|worker| WorkerStatus {
                    unrouted: worker.unrouted.value(),
                    refused: worker.refused.value(),
                })
                .collect(),
            routes: view
                .config
                .routes
                .iter()
                .map(|route| RouteStatus::of(route, &view.config))
                .chain(tagged.routes.iter().map(RouteStatus::of_tags))
                .collect(),
            quarantined: tagged.quarantined.clone(),
            services: directory
                .services()
                .iter()
                .map(|service| ServiceTraffic::of(service))
                .collect(),
            pinned: directory
                .services()
                .iter()
                .filter(|service| service.pinned().is_some())
                .map(|service| Arc::clone(service.name()))
                .collect(),
            snapshot: view.snapshot.as_ref().map(|store| store.status()),
            registries: view
                .config
                .registries
                .iter()
                .map(|(name, registry)| RegistryStatus::of(name, &registry.kind, directory))
                .collect(),
        }
    }
}

impl RouteStatus {
    fn of(route: &config::Route, config: &config::Config) -> Self {
        let (service, policy) = match &route.goal {
            Goal::Service(name) => {
                let service = config.services.get(name).unwrap_or(&config.defaults);
                (Arc::clone(name), service)
            }
            Goal::Template => ("{service}".into(), &config.defaults),
        };
        Self {
            host: host(&route.host),
            path: path(&route.path),
            service,
            registries: policy.origin.registries().to_vec(),
            strip_prefix: route.strip_prefix,
            line: Some(route.line),
            tagged_by: Vec::new(),
        }
    }

    fn of_tags(route: &TaggedRoute) -> Self {
        let policy = route.service.policy();
        Self {
            host: host(&route.host),
            path: path(&route.path),
            service: Arc::clone(route.service.name()),
            registries: policy.origin.registries().to_vec(),
            strip_prefix: route.strip > 0,
            line: None,
            tagged_by: route.tagged_by.clone(),
        }
    }
}

impl ServiceTraffic {
    pub(super) fn of(service: &Service) -> Self {
        let sum = |of: fn(&Lane) -> u64| service.lanes().map(of).sum();
        Self {
            status: service.status(),
            requests: sum(|lane| lane.requests.value()),
            retries: sum(|lane| lane.retries.value()),
            failed: sum(|lane| lane.failed.value()),
            abandoned: sum(|lane| lane.abandoned.value()),
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

/// As the file has it.
fn host(pattern: &HostPattern) -> Option<String> {
    match pattern {
        HostPattern::Any => None,
        HostPattern::Exact(host) => Some(host.clone()),
        HostPattern::Wildcard(parent) => Some(format!("*.{parent}")),
        HostPattern::Template(parent) => Some(format!("{{service}}.{parent}")),
    }
}

fn path(pattern: &PathPattern) -> String {
    let segments: Vec<_> = pattern
        .segments
        .iter()
        .map(|segment| match segment {
            Segment::Literal(literal) => literal,
            Segment::Service => "{service}",
        })
        .collect();
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_shown_as_they_were_written() {
        let parsed = |text: &str| {
            let text = format!("[[route]]\n{text}\nservice = \"{{service}}\"\n");
            let config = config::Config::parse(&text, std::path::Path::new(".")).unwrap();
            RouteStatus::of(&config.routes[0], &config)
        };
        let shown = parsed("path = \"/v1/{service}\"");
        assert_eq!((shown.host, &*shown.path), (None, "/v1/{service}"));
        let shown = parsed("host = \"{service}.internal\"");
        assert_eq!(shown.host.as_deref(), Some("{service}.internal"));
        assert_eq!(shown.path, "/");
        let shown = parsed("host = \"*.example.com\"\npath = \"/{service}\"");
        assert_eq!(shown.host.as_deref(), Some("*.example.com"));
    }
}
