//! Whom a service calls: one instance's address with the state that lives as long as its
//! identity does.

mod common;
pub(super) mod ejections;
pub(super) mod health;
pub(super) mod outlier;
pub(super) mod silence;
pub(super) mod state;

use std::{
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
    },
};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::{
    instance::Address,
    upstream::{Load, Pool, Target, Transport},
};
use health::EndpointHealth;

pub(crate) use common::Common;

/// An endpoint's identity: the registry's id for the instance, and its address. (A service has one
/// registry, which is therefore not part of it.)
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    /// The instance's id.
    pub instance: Arc<str>,
    /// Where it is called.
    pub address: Address,
}

/// An instance's address, which can be called.
#[derive(Debug)]
pub struct Endpoint {
    own: Arc<Own>,
    /// Most endpoints of a large registry are never called, and have none.
    called: OnceLock<Box<Called>>,
}

/// What is made of an endpoint from the first call on, and of each worker from its own: most workers
/// never call most endpoints of a large registry.
#[derive(Debug)]
struct Called {
    target: Arc<Target>,
    of_workers: Box<[OnceLock<Arc<WorkerEndpoint>>]>,
}

/// What all workers share of an endpoint.
#[derive(Debug)]
pub(super) struct Own {
    health: EndpointHealth,
    id: EndpointId,
    /// From when on a balancer asks for it.
    load: ArcSwapOption<Load>,
    transport: Transport,
    is_near: AtomicBool,
}

impl Deref for Own {
    type Target = EndpointHealth;

    fn deref(&self) -> &EndpointHealth {
        &self.health
    }
}

/// One worker's way to an endpoint. A request holds it, and not the endpoint, whose count of
/// references all workers would fight over.
#[derive(Debug)]
pub struct WorkerEndpoint {
    pool: Arc<Pool>,
    own: Arc<Own>,
}

impl WorkerEndpoint {
    /// The worker's connections to the endpoint.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub(super) fn health(&self) -> &EndpointHealth {
        &self.own.health
    }

    /// Whether the endpoint is in the proxy's own zone, where that comes first.
    pub(super) fn is_near(&self) -> bool {
        self.own.is_near.load(Relaxed)
    }

    /// Notes that the endpoint took a connection: it is not doubted any more.
    pub fn connected(&self) {
        self.health().connected();
    }

    /// Notes that the endpoint took a connection in an attempt that began then. Nothing more is heard
    /// of that attempt, as the program itself speaks with the endpoint.
    pub fn has_served(&self, began: Instant) {
        self.health().connected();
        self.health().answered(began);
    }
}

impl Endpoint {
    /// One of a service's, which is spoken to like this.
    pub(super) fn new(
        common: Arc<Common>,
        id: EndpointId,
        transport: Transport,
        load: Option<Arc<Load>>,
    ) -> Self {
        Self {
            own: Arc::new(Own {
                health: EndpointHealth::new(common),
                id,
                load: ArcSwapOption::new(load),
                transport,
                is_near: AtomicBool::new(false),
            }),
            called: OnceLock::new(),
        }
    }

    /// Who it is.
    pub fn id(&self) -> &EndpointId {
        &self.own.id
    }

    pub(super) fn health(&self) -> &EndpointHealth {
        &self.own.health
    }

    /// How it is spoken to.
    pub(super) fn transport(&self) -> Transport {
        self.own.transport
    }

    /// What a snapshot keeps of it.
    pub(super) fn own(&self) -> &Arc<Own> {
        &self.own
    }

    pub(super) fn workers(&self) -> usize {
        self.own.health.common().workers
    }

    /// One worker's way to it.
    pub fn of_worker(&self, worker: usize) -> &Arc<WorkerEndpoint> {
        let called = self.called();
        called.of_workers[worker].get_or_init(|| {
            let own = Arc::clone(&self.own);
            let pool = Arc::new(Pool::new(Arc::clone(&called.target)));
            Arc::new(WorkerEndpoint { pool, own })
        })
    }

    fn called(&self) -> &Called {
        if let Some(called) = self.called.get() {
            return called;
        }
        let Own { id, health, .. } = &*self.own;
        let called = self.called.get_or_init(|| {
            let common = health.common();
            let Transport { tls, protocol } = self.own.transport;
            let tls = tls.then(|| common.tls());
            let limits = Arc::clone(&common.idle_limits);
            let target = Target::new(id.address.clone(), tls, protocol, limits, None);
            Box::new(Called {
                target: Arc::new(target),
                of_workers: (0..common.workers).map(|_| OnceLock::new()).collect(),
            })
        });
        // Against `keep_load`: one of the two sees what the other has stored.
        fence(SeqCst);
        if let Some(load) = self.load() {
            called.target.keep_load(load);
        }
        called
    }

    /// Whether this is a worker's way to it.
    pub(super) fn is_of(&self, line: &WorkerEndpoint) -> bool {
        Arc::ptr_eq(&self.own, &line.own)
    }

    /// One worker's connections to it.
    pub fn pool(&self, worker: usize) -> &Arc<Pool> {
        &self.of_worker(worker).pool
    }

    /// The connections to it of the workers that have called it.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        let called = self.called.get().into_iter();
        let called = called.flat_map(|called| called.of_workers.iter().filter_map(OnceLock::get));
        called.map(|line| &*line.pool)
    }

    /// Closes one worker's idle connections that are too old or were closed by their endpoint.
    pub(super) fn sweep(&self, worker: usize, now: Instant) {
        let called = self.called.get();
        if let Some(line) = called.and_then(|called| called.of_workers[worker].get()) {
            line.pool.sweep(now);
        }
    }

    /// How busy it is, over all workers, where its balancer compares that.
    pub(super) fn load(&self) -> Option<Arc<Load>> {
        self.own.load.load_full()
    }

    /// A balancer asks for its load from now on, and none did before; under the lock of the service's
    /// members.
    pub(super) fn keep_load(&self, load: Arc<Load>) {
        self.own.load.store(Some(Arc::clone(&load)));
        fence(SeqCst);
        if let Some(called) = self.called.get() {
            called.target.keep_load(load);
        }
    }

    /// Whether it is in the proxy's own zone; said where that comes first, with each set.
    pub(super) fn set_near(&self, is_near: bool) {
        self.own.is_near.store(is_near, Relaxed);
    }

    /// Requests that it works on now.
    pub fn in_flight(&self) -> u64 {
        self.pools().map(Pool::in_flight).sum()
    }

    /// It was removed: its idle connections are closed now, those that come back are closed then,
    /// and exchanges that still run are cut at `cut_at`. What a call needs is made for that even
    /// where there was none: a request may have picked it, and must find this.
    pub(super) fn retire(&self, cut_at: Instant) {
        self.called().target.retire(cut_at);
        self.pools().for_each(Pool::close_idle);
    }

    /// It is back before it was gone: see [`Target::restore`].
    pub(super) fn restore(&self) {
        self.called().target.restore();
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::time::Duration;

    use super::{common::testing::common, *};

    /// One with this number, for one worker.
    pub(in crate::service) fn endpoint(number: usize, load: Option<Arc<Load>>) -> Arc<Endpoint> {
        of(number, None, load)
    }

    /// The same, which is new and warms up for so long.
    pub(in crate::service) fn warming(number: usize, time: Duration) -> Arc<Endpoint> {
        let endpoint = of(number, Some(time), None);
        endpoint.health().warm_up(Instant::now());
        endpoint
    }

    fn of(number: usize, slow_start: Option<Duration>, load: Option<Arc<Load>>) -> Arc<Endpoint> {
        let id = EndpointId {
            instance: number.to_string().into(),
            address: Address::new("10.0.0.1", number as i64 + 1).unwrap(),
        };
        Arc::new(Endpoint::new(
            common(slow_start),
            id,
            Transport::PLAIN,
            load,
        ))
    }

    /// A way to one.
    pub(in crate::service) fn line() -> Arc<WorkerEndpoint> {
        Arc::clone(endpoint(0, None).of_worker(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A large registry has 100,000 endpoints, most of which are never called. With the counts of its
    /// `Arc` and the allocator's own word each of these fills a whole number of 16 bytes.
    #[test]
    fn an_endpoint_that_was_never_called_is_small() {
        assert_eq!((size_of::<Endpoint>(), size_of::<Own>()), (24, 120));
    }
}
