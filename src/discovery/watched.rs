//! A service with the tasks that work for it. Knows nothing of what they do.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::service::Service;

/// A service, and the tasks that let it have what is said of it.
pub(super) struct Watched {
    pub(super) service: Arc<Service>,
    pub(super) watchers: Watchers,
}

/// The tasks of one service.
#[derive(Default)]
pub(super) struct Watchers {
    /// Those that follow its registries.
    pub(super) registries: Vec<JoinHandle<()>>,
    /// Its own checks of its endpoints.
    pub(super) checks: Option<JoinHandle<()>>,
}

impl Watchers {
    pub(super) fn all(self) -> impl Iterator<Item = JoinHandle<()>> {
        self.registries.into_iter().chain(self.checks)
    }

    pub(super) fn abort(&self) {
        let all = self.registries.iter().chain(&self.checks);
        all.for_each(JoinHandle::abort);
    }
}
