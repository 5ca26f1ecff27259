//! A watcher as the proxy runs it, with all that it published kept for the test.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use callboard::{
    config,
    registry::{
        Registry, ServiceQuery, Source, State,
        consul::Consul,
        watch::{Event, Staleness, WatchSnapshot, WatchStatus, watch},
    },
};
use tokio::task::JoinHandle;

use super::eventually;

/// `[registry.main]` with nothing but an address.
pub(crate) fn settings(address: &str) -> config::Consul {
    config::Consul {
        addresses: vec![address.to_owned()],
        token: None,
        datacenters: Vec::new(),
        namespace: None,
        partition: None,
        tags: Vec::new(),
        near: None,
        filter: None,
        stale: false,
        warnings: config::Warnings::Critical,
        wait: Duration::from_secs(60),
        max_watches: 100,
        tls: config::ClientTls::default(),
    }
}

/// That registry.
pub(crate) fn registry(settings: &config::Consul) -> Consul {
    Consul::new("main", settings).unwrap()
}

/// All instances of a service.
pub(crate) fn named(name: &str) -> ServiceQuery {
    ServiceQuery {
        name: name.to_owned(),
        ..ServiceQuery::default()
    }
}

pub(crate) struct Watched<T> {
    status: Arc<WatchStatus>,
    published: Arc<Mutex<Vec<T>>>,
    task: JoinHandle<()>,
}

impl Watched<callboard::instance::InstanceSet> {
    pub(crate) fn service(settings: &config::Consul, name: &str) -> Self {
        Self::start(registry(settings).service(named(name)))
    }
}

impl<T: State + Clone + Debug> Watched<T> {
    pub(crate) fn start(source: Box<dyn Source<T>>) -> Self {
        let status = Arc::new(WatchStatus::new("main", None));
        let published = Arc::<Mutex<Vec<T>>>::default();
        let publish = {
            let published = published.clone();
            move |event| {
                if let Event::State(state) = event {
                    published.lock().unwrap().push(Arc::unwrap_or_clone(state));
                }
            }
        };
        let task = tokio::spawn(watch(source, status.clone(), Staleness::default(), publish));
        Self {
            status,
            published,
            task,
        }
    }

    /// Waits until the last published state is as it should be.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&T) -> bool) -> T {
        let last = eventually(
            what,
            async || self.published().pop(),
            |last| last.as_ref().is_some_and(&holds),
        );
        last.await.unwrap()
    }

    /// Waits until the watcher's own state is as it should be.
    pub(crate) async fn until_status(
        &self,
        what: &str,
        holds: impl Fn(&WatchSnapshot) -> bool,
    ) -> WatchSnapshot {
        eventually(what, async || self.status(), holds).await
    }

    /// Waits for a failure, and hands its message over.
    pub(crate) async fn error(&self) -> String {
        let status = self.until_status("an error", |status| status.error.is_some());
        status.await.error.unwrap()
    }

    pub(crate) fn status(&self) -> WatchSnapshot {
        self.status.snapshot()
    }

    pub(crate) fn published(&self) -> Vec<T> {
        self.published.lock().unwrap().clone()
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
