//! A service with the tasks that work for it. Knows nothing of what they do.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::service::Service;

/// A service, and the tasks that let it have what is said of it.
pub(super) struct Watched {
    pub(super) service: Arc<Service>,
    pub(super) watchers: Watchers,
}

/// The tasks of one service. Dropped, they end.
#[derive(Default)]
pub(super) struct Watchers {
    /// Those that follow its registries.
    pub(super) registries: Vec<AbortOnDropHandle<()>>,
    /// Its own checks of its endpoints.
    pub(super) checks: Option<AbortOnDropHandle<()>>,
}

impl Watchers {
    pub(super) fn new(registries: Vec<JoinHandle<()>>, checks: Option<JoinHandle<()>>) -> Self {
        let registries = registries.into_iter().map(AbortOnDropHandle::new);
        Self {
            registries: registries.collect(),
            checks: checks.map(AbortOnDropHandle::new),
        }
    }

    /// Has other tasks follow the registries. Those before end first.
    pub(super) fn follow(&mut self, begin: impl FnOnce() -> Vec<JoinHandle<()>>) {
        self.registries.clear();
        let begun = begin().into_iter().map(AbortOnDropHandle::new);
        self.registries.extend(begun);
    }

    /// Has another task check the endpoints. The one before ends first.
    pub(super) fn check(&mut self, begin: impl FnOnce() -> Option<JoinHandle<()>>) {
        self.checks = None;
        self.checks = begin().map(AbortOnDropHandle::new);
    }

    pub(super) fn all(self) -> impl Iterator<Item = JoinHandle<()>> {
        let all = self.registries.into_iter().chain(self.checks);
        all.map(AbortOnDropHandle::detach)
    }
}
