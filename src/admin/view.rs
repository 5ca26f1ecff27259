//! What the pages are made of.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use axum::extract::State;
use http::{HeaderMap, header};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    change_lock::ChangeLock, history::History, leaving::LeavingListener, live::Live,
    log_level::LogLevel, reloader::Reload, upgrader::Upgrade,
};
use crate::{
    acme::Board,
    config::ListenAddress,
    control::access::Access,
    proxy::{Shared, Worker},
    saved::Store,
    tls::Server,
};

/// What the admin server shows.
pub struct View {
    /// The generation, and whether the proxy is ready or draining.
    pub shared: Arc<Shared>,
    /// Has the file read again.
    pub reload: Box<dyn Reload>,
    /// Has a new binary take the process's place.
    pub upgrade: Box<dyn Upgrade>,
    /// Keeps changes for a while away from the last step of an upgrade.
    pub changes: Arc<ChangeLock>,
    /// What the log goes by.
    pub log: LogLevel,
    /// The workers' own counters.
    pub workers: Vec<Arc<Worker>>,
    /// Counts the open client connections.
    pub connections: Box<dyn Fn() -> usize + Send + Sync>,
    /// Where the proxy listens.
    pub listeners: Box<dyn Fn() -> Vec<ListenAddress> + Send + Sync>,
    /// Listeners that are out of the file, and have connections still.
    pub leaving: Box<dyn Fn() -> Vec<LeavingListener> + Send + Sync>,
    /// The certificates of the listeners that speak TLS, each by its first address; of those that drain, too.
    pub tls: Box<dyn Fn() -> Vec<(ListenAddress, Arc<Server>)> + Send + Sync>,
    /// How the certificates stand that the proxy orders itself.
    pub orders: Arc<Board>,
    /// Where the last good sets are kept, if they are.
    pub snapshot: Option<Arc<Store>>,
    /// A successor wants the addresses.
    pub handover: CancellationToken,
}

/// So many requests are explained at once. Each has a thread of those that the process has for work that
/// blocks, and keeps it though its client has left.
const MOST_EXPLAINED: usize = 4;

/// What every request needs.
pub(super) struct Context {
    pub(super) view: View,
    pub(super) gate: Arc<ArcSwap<Access>>,
    pub(super) started: Started,
    pub(super) history: Mutex<History>,
    pub(super) live: Arc<Live>,
    /// The places of requests that are explained.
    pub(super) explaining: Arc<Semaphore>,
}

impl Context {
    pub(super) fn new(
        view: View,
        gate: Arc<ArcSwap<Access>>,
        live: Arc<Live>,
        started: Started,
    ) -> Self {
        Self {
            view,
            gate,
            started,
            history: Mutex::default(),
            live,
            explaining: Arc::new(Semaphore::new(MOST_EXPLAINED)),
        }
    }
}

/// What a page is made of.
pub(super) type Shown = State<Arc<Context>>;

/// When the process began, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Started {
    pub(super) at: SystemTime,
    pub(super) since: Instant,
}

impl Started {
    /// Since 1970, in seconds.
    pub(super) fn unix_seconds(self) -> f64 {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0.0, |since| since.as_secs_f64())
    }
}

/// Whether the client's `Accept` has this in it.
pub(super) fn accepts(headers: &HeaderMap, part: &str) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| memchr::memmem::find(accept.as_bytes(), part.as_bytes()).is_some())
}

/// Whether the request's body says that it is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

#[cfg(test)]
pub(super) mod testing {
    use std::{collections::BTreeMap, path::Path};

    use super::*;
    use crate::{
        admin::{log_level::testing::file, reloader, upgrader},
        config::Config,
        discovery::Directory,
        proxy::Generation,
        saved::Contents,
    };

    /// Of a proxy of no services.
    pub(in crate::admin) fn context(gate: Access) -> Context {
        let route = "[[route]]\nservice = \"{service}\"\npath = \"/{service}\"\n";
        let mut config = Config::parse(route, Path::new(".")).unwrap();
        config.routes.clear();
        let directory = Directory::start(&config, BTreeMap::new(), &Contents::default()).unwrap();
        let generation = Generation::new(Arc::new(config), directory);
        let view = View {
            shared: Arc::new(Shared::new(generation, Arc::default())),
            reload: Box::new(reloader::testing::Never),
            upgrade: Box::new(upgrader::testing::Never),
            changes: Arc::default(),
            log: LogLevel::fixed(&file("info")),
            workers: Vec::new(),
            connections: Box::new(|| 0),
            listeners: Box::new(Vec::new),
            leaving: Box::new(Vec::new),
            tls: Box::new(Vec::new),
            orders: Arc::default(),
            snapshot: None,
            handover: CancellationToken::new(),
        };
        let started = Started {
            at: SystemTime::now(),
            since: Instant::now(),
        };
        let gate = Arc::new(ArcSwap::from_pointee(gate));
        Context::new(view, gate, Arc::default(), started)
    }
}
