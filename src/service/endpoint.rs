//! Whom a service calls: one instance's address with the state that lives as long as its
//! identity does.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::time::Instant;

use super::life::Life;
use crate::{
    instance::Address,
    upstream::{Handshake, Load, Pool, PoolSettings},
};

/// Who an endpoint is: the registry's id for the instance, and its address. (A service has one
/// registry, which is therefore not part of it.)
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    /// The instance's id.
    pub instance: Arc<str>,
    /// Where it is called.
    pub address: Address,
}

/// Somebody who can be called.
#[derive(Debug)]
pub struct Endpoint {
    id: EndpointId,
    life: Arc<Life>,
    /// Where a balancer asks for it.
    load: Option<Arc<Load>>,
    lines: Box<[Arc<Line>]>,
}

/// One worker's way to an endpoint. A request holds it, and not the endpoint, whose count of
/// references all workers would fight over.
#[derive(Debug)]
pub struct Line {
    pool: Arc<Pool>,
    life: Arc<Life>,
    is_near: AtomicBool,
}

impl Line {
    /// The worker's connections to the endpoint.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub(super) fn life(&self) -> &Life {
        &self.life
    }

    /// Whether the endpoint is in the proxy's own zone, where that comes first.
    pub(super) fn is_near(&self) -> bool {
        self.is_near.load(Relaxed)
    }

    /// Notes that the endpoint took a connection: it is not doubted any more.
    pub fn connected(&self) {
        self.life.connected();
    }

    /// The same where nothing more is to be heard of it than that, since somebody else speaks with
    /// it: of an attempt that began then.
    pub fn has_served(&self, began: Instant) {
        self.life.connected();
        self.life.answered(began);
    }
}

impl Endpoint {
    /// One that is called over TLS where there is a handshake for it.
    pub(super) fn new(
        id: EndpointId,
        handshake: Option<Handshake>,
        settings: PoolSettings,
        life: Life,
        load: Option<Arc<Load>>,
        workers: usize,
    ) -> Self {
        let handshake = handshake.map(Arc::new);
        let life = Arc::new(life);
        let pool = || {
            let address = id.address.clone();
            Pool::new(address, handshake.clone(), settings, load.clone())
        };
        let line = |_| Line {
            pool: Arc::new(pool()),
            life: Arc::clone(&life),
            is_near: AtomicBool::new(false),
        };
        Self {
            lines: (0..workers).map(line).map(Arc::new).collect(),
            life,
            load,
            id,
        }
    }

    /// Who it is.
    pub fn id(&self) -> &EndpointId {
        &self.id
    }

    pub(super) fn life(&self) -> &Arc<Life> {
        &self.life
    }

    pub(super) fn workers(&self) -> usize {
        self.lines.len()
    }

    /// One worker's way to it.
    pub fn line(&self, worker: usize) -> &Arc<Line> {
        &self.lines[worker]
    }

    /// One worker's connections to it.
    pub fn pool(&self, worker: usize) -> &Arc<Pool> {
        &self.lines[worker].pool
    }

    /// All workers' connections to it.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.lines.iter().map(|line| &*line.pool)
    }

    /// How busy it is, over all workers, where its balancer compares that.
    pub(super) fn load(&self) -> Option<&Arc<Load>> {
        self.load.as_ref()
    }

    /// Whether it is in the proxy's own zone; said where that comes first, with each set.
    pub(super) fn set_near(&self, is_near: bool) {
        let lines = self.lines.iter();
        lines.for_each(|line| line.is_near.store(is_near, Relaxed));
    }

    /// Requests that it works on now.
    pub fn in_flight(&self) -> u64 {
        self.pools().map(Pool::in_flight).sum()
    }

    /// It was removed: see [`Pool::retire`].
    pub(super) fn retire(&self, cut_at: Instant) {
        for pool in self.pools() {
            pool.retire(cut_at);
        }
    }

    /// It is back before it was gone: see [`Pool::restore`].
    pub(super) fn restore(&self) {
        self.pools().for_each(Pool::restore);
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::time::Duration;

    use super::*;

    /// One with this number, for one worker.
    pub(in crate::service) fn endpoint(number: usize, load: Option<Arc<Load>>) -> Arc<Endpoint> {
        with_life(number, Life::new(None), load)
    }

    /// The same, which is new and warms up for so long.
    pub(in crate::service) fn warming(number: usize, time: Duration) -> Arc<Endpoint> {
        let life = Life::new(Some(time));
        life.warm_up(tokio::time::Instant::now());
        with_life(number, life, None)
    }

    fn with_life(number: usize, life: Life, load: Option<Arc<Load>>) -> Arc<Endpoint> {
        let settings = PoolSettings {
            idle: Duration::from_secs(4),
            connections: 4,
        };
        let id = EndpointId {
            instance: number.to_string().into(),
            address: Address::new("10.0.0.1", number as i64 + 1).unwrap(),
        };
        Arc::new(Endpoint::new(id, None, settings, life, load, 1))
    }

    /// A way to one.
    pub(in crate::service) fn line() -> Arc<Line> {
        Arc::clone(endpoint(0, None).line(0))
    }
}
