//! What one registry says of one service, for those who want to know it themselves.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    instance::InstanceSet,
    registry::{
        Registry, RegistryError, ServiceQuery, Source, Usage,
        watch::{Event, Staleness, WatchSnapshot, WatchStatus, watch},
    },
};

/// go-kit's `Instancer`: watches one service in one registry, until it is dropped.
#[derive(Debug)]
pub struct Instancer {
    known: watch::Receiver<Known>,
    status: Arc<WatchStatus>,
    usage: Arc<Usage>,
    _watching: AbortOnDropHandle<()>,
}

/// What is known of a service. An error is never an empty set: the last set stays beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// The complete set, as it was read last; `None` before, and where it was given up for its age
    /// (`max_staleness`).
    pub instances: Option<Arc<InstanceSet>>,
    /// What the registry fails with, until it can be read again.
    pub error: Option<String>,
}

impl Instancer {
    /// Watches the service in a registry, which is called `name` where something is to be said of
    /// it. `max_staleness` is how long after the first of a row of errors the last set is given up;
    /// `None` for never. Must be called in a tokio runtime.
    pub fn start(
        name: &str,
        registry: &dyn Registry,
        query: ServiceQuery,
        max_staleness: Option<Duration>,
    ) -> Self {
        let (tell, known) = watch::channel(Known::default());
        let status = Arc::new(WatchStatus::new(name, Some(query.name.as_str().into())));
        let usage = Arc::clone(&query.usage);
        let source = Box::new(Told {
            source: registry.service(query),
            tell: tell.clone(),
        });
        let heard = Arc::clone(&status);
        let staleness = Staleness {
            max: max_staleness,
            ..Staleness::default()
        };
        let watching = watch(source, Arc::clone(&status), staleness, move |event| {
            match event {
                // Told already; the same again after an error is no event.
                Event::State(set) => heard.note_state(set.instances.len(), set.skipped.clone()),
                Event::Failed => change(&tell, |known| known.error = heard.snapshot().error),
                Event::Stale => change(&tell, |known| known.instances = None),
            }
        });
        Self {
            known,
            _watching: AbortOnDropHandle::new(tokio::spawn(watching)),
            status,
            usage,
        }
    }

    /// What is known now, and whenever that changes. Who looks rarely sees the latest. A registry
    /// that holds a limited number of watches takes the service for one that is called now.
    pub fn subscribe(&self) -> watch::Receiver<Known> {
        self.usage.note(Instant::now());
        let mut known = self.known.clone();
        // The first look is always news.
        known.mark_changed();
        known
    }

    /// How the watcher stands, with the entries that cannot be called.
    pub fn status(&self) -> WatchSnapshot {
        self.status.snapshot()
    }
}

/// A source that tells what it has read before its watcher sees it.
struct Told {
    source: Box<dyn Source<InstanceSet>>,
    tell: watch::Sender<Known>,
}

impl Source<InstanceSet> for Told {
    fn next(&mut self) -> BoxFuture<'_, Result<InstanceSet, RegistryError>> {
        Box::pin(async {
            let set = self.source.next().await?;
            change(&self.tell, |known| {
                known.error = None;
                if known.instances.as_deref() != Some(&set) {
                    known.instances = Some(Arc::new(set.clone()));
                }
            });
            Ok(set)
        })
    }
}

/// Changes what is known. Those who wait for a change are woken only where something differs.
fn change(tell: &watch::Sender<Known>, change: impl FnOnce(&mut Known)) {
    tell.send_if_modified(|known| {
        let before = known.clone();
        change(known);
        *known != before
    });
}
