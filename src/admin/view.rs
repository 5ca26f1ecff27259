//! What the pages are made of.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::extract::State;
use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;

use super::reloader::Reload;
use crate::{
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
    /// The workers' own counters.
    pub workers: Vec<Arc<Worker>>,
    /// Counts the open client connections.
    pub connections: Box<dyn Fn() -> usize + Send + Sync>,
    /// Where the proxy listens.
    pub listeners: Vec<ListenAddress>,
    /// The certificates of the listeners that speak TLS, each by its first address.
    pub tls: Vec<(ListenAddress, Arc<Server>)>,
    /// Where the last good sets are kept, if they are.
    pub snapshot: Option<Arc<Store>>,
    /// A successor wants the addresses.
    pub handover: CancellationToken,
}

/// What every request needs.
pub(super) struct Context {
    pub(super) view: View,
    pub(super) gate: Access,
    pub(super) started: Started,
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
