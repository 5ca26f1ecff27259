//! What all handles of a client hold, so that its services are watched for as long as one of them
//! lives.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Error;
use crate::{
    config::Config,
    discovery::Directory,
    registry::Registry,
    service::{Service, until_read},
};

/// What all handles share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) registries: BTreeMap<Arc<str>, Arc<dyn Registry>>,
    pub(super) directory: Arc<Directory>,
    pub(super) _sweeping: AbortOnDropHandle<()>,
}

/// A service, and what keeps it watched.
#[derive(Clone)]
pub(super) struct HeldService {
    pub(super) service: Arc<Service>,
    pub(super) shared: Arc<Shared>,
}

impl HeldService {
    /// This thread's share of the service: what a worker is in the proxy. A call stays with it,
    /// whichever threads go on with it.
    pub(super) fn slot(&self) -> usize {
        thread_number() % self.shared.config.workers
    }

    /// Waits for the service's first set, but not for longer than its `discovery_timeout`. Returns the
    /// moment at which it was there; `now` where it was before.
    pub(super) async fn until_read(&self, now: Instant) -> Result<Instant, Error> {
        let service = &self.service;
        service.usage().note(now);
        if service.is_read() {
            return Ok(now);
        }
        let at = until_read(service, now, None).await;
        match service.is_read() {
            true => Ok(at),
            false => Err(Error::not_read(service)),
        }
    }
}

impl fmt::Debug for HeldService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeldService")
            .field(self.service.name())
            .finish()
    }
}

/// Threads are numbered as they come.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.get().unwrap_or_else(|| {
        let number = NEXT.fetch_add(1, Relaxed);
        NUMBER.set(Some(number));
        number
    })
}
