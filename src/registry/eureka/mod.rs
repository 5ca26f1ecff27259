//! Eureka, as a [`Registry`]: one question at a time over its REST API, whose answer serves every
//! service. Owns when it is asked; what is asked is in `poll`, the exchange in `client`, its
//! errors in `fault`, the answers in `wire`, `entry` and `applications`. Knows nothing of retrying,
//! which [`watch`](super::watch) does for every registry.

mod applications;
mod client;
mod entry;
mod fault;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod poll;
mod wire;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep_until},
};

use super::{BuildError, Catalog, OtherHost, Registry, RegistryError, ServiceQuery, Source};
use crate::{
    config::{self, CalledAt},
    instance::InstanceSet,
};
use applications::Services;
use entry::HOST_NAME;
use poll::Poller;

pub(crate) use client::{Client, Failures, Question};
pub(crate) use entry::TAGS;

/// Between a failure and the next question, where the interval is not shorter: each service's
/// watcher backs off by itself, and all of them together ask no more than this.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// A source that must not be given an answer that is known already has the servers asked before it
/// is time, for all that wait; no sooner than this after their last answer.
const EARLY: Duration = Duration::from_secs(1);

/// A registry of Eureka's.
#[derive(Debug)]
pub struct Eureka {
    shared: Arc<Shared>,
    zones: Arc<[String]>,
    called_at: CalledAt,
}

/// What all sources of a registry have in common. There is no task: the source that waits first asks
/// for all that wait, and while none waits, no server is asked.
#[derive(Debug)]
struct Shared {
    interval: Duration,
    poller: Mutex<Poller>,
    latest: watch::Sender<Latest>,
    /// The answer with this number is asked for early.
    early: watch::Sender<u64>,
}

/// The last answer.
#[derive(Clone, Debug)]
struct Latest {
    /// Counts the answers, from 1; 0 before the first.
    number: u64,
    /// When the next is asked for.
    due: Instant,
    /// When it is where that is waited for; never before the servers would have it.
    early: Instant,
    answer: Result<Arc<Services>, RegistryError>,
}

impl Eureka {
    /// Prepares a client for `[registry.NAME]`; reads the TLS files, and connects to nothing yet.
    ///
    /// # Errors
    /// Where an address is no URL, or a TLS file cannot be read or used.
    pub fn new(name: &str, settings: &config::Eureka) -> Result<Self, BuildError> {
        let now = Instant::now();
        let before = Latest {
            number: 0,
            due: now,
            early: now,
            answer: Err(RegistryError::new(format!("{name} was not asked yet"))),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                interval: settings.poll,
                poller: Mutex::new(Poller::new(name, settings)?),
                latest: watch::Sender::new(before),
                early: watch::Sender::new(0),
            }),
            zones: settings.zones.clone().into(),
            called_at: settings.host,
        })
    }
}

impl Registry for Eureka {
    fn service(&self, query: ServiceQuery) -> Box<dyn Source<InstanceSet>> {
        let zones = Arc::clone(&self.zones);
        Box::new(Cursor {
            shared: Arc::clone(&self.shared),
            seen: 0,
            anew: query.consistent,
            read: move |services: &Services| services.instances(&query.name, &query.tags, &zones),
        })
    }

    fn catalog(&self) -> Option<Box<dyn Source<Catalog>>> {
        let zones = Arc::clone(&self.zones);
        Some(Box::new(Cursor {
            shared: Arc::clone(&self.shared),
            seen: 0,
            anew: false,
            read: move |services: &Services| services.catalog(&zones),
        }))
    }

    fn other_host(&self) -> Option<OtherHost> {
        (self.called_at == CalledAt::Address).then_some(OtherHost {
            meta: HOST_NAME,
            setting: "host = \"name\"",
        })
    }
}

impl Shared {
    /// The next answer after the one of this number, or the present one for a source that has seen
    /// none.
    async fn after(&self, seen: &mut u64) -> Result<Arc<Services>, RegistryError> {
        let last = self.latest.borrow().clone();
        // A source that comes back after an error is not given an older one.
        if last.number > *seen && last.answer.is_ok() && Instant::now() < last.due {
            *seen = last.number;
            return last.answer;
        }
        self.next(&last, seen).await
    }

    /// An answer that no source was given before.
    async fn anew(&self, seen: &mut u64) -> Result<Arc<Services>, RegistryError> {
        let last = self.latest.borrow().clone();
        self.early.send_if_modified(|early| {
            let is_later = last.number + 1 > *early;
            *early = (*early).max(last.number + 1);
            is_later
        });
        self.next(&last, seen).await
    }

    async fn next(&self, last: &Latest, seen: &mut u64) -> Result<Arc<Services>, RegistryError> {
        let mut latest = self.latest.subscribe();
        let answered = async {
            // It cannot end before the registry does, which this borrows.
            let _ = latest.wait_for(|latest| latest.number > last.number).await;
        };
        tokio::select! {
            biased;
            () = answered => {}
            mut poller = self.poller.lock() => self.poll(&mut poller, last).await,
        }
        let latest = self.latest.borrow();
        *seen = latest.number;
        latest.answer.clone()
    }

    /// Asks when it is time, unless another source has asked since.
    async fn poll(&self, poller: &mut Poller, last: &Latest) {
        if self.latest.borrow().number > last.number {
            return;
        }
        let mut early = self.early.subscribe();
        let is_early = async {
            // It cannot end before the registry does, which this borrows.
            let _ = early.wait_for(|number| *number > last.number).await;
        };
        tokio::select! {
            () = sleep_until(last.due) => {}
            () = is_early => sleep_until(last.early).await,
        }
        let answer = poller.poll().await;
        let (early, pause) = match &answer {
            Ok(_) => (self.interval.min(EARLY), self.interval),
            Err(error) => {
                let away = error.retry_after.unwrap_or_default();
                let pause = self.interval.min(AFTER_FAILURE).max(away);
                (pause, pause)
            }
        };
        let now = Instant::now();
        self.latest.send_replace(Latest {
            number: last.number + 1,
            due: now + pause,
            early: now + early,
            answer,
        });
    }
}

/// What each answer says of one thing.
struct Cursor<R> {
    shared: Arc<Shared>,
    /// The number of the last answer.
    seen: u64,
    /// The first answer must be one that is asked for.
    anew: bool,
    read: R,
}

impl<T, R> Source<T> for Cursor<R>
where
    R: Fn(&Services) -> T + Send + Sync + 'static,
{
    fn next(&mut self) -> BoxFuture<'_, Result<T, RegistryError>> {
        Box::pin(async move {
            let services = if self.anew && self.seen == 0 {
                self.shared.anew(&mut self.seen).await?
            } else {
                self.shared.after(&mut self.seen).await?
            };
            Ok((self.read)(&services))
        })
    }
}
