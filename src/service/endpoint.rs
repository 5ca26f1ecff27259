//! Whom a service calls: one instance's address with the state that lives as long as its
//! identity does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

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
    pools: Box<[Arc<Pool>]>,
    /// Where the balancer asks for it.
    load: Option<Arc<Load>>,
    doubt: Doubt,
}

/// After a failed connect an endpoint is passed over while there are others: for a second, and
/// twice as long with each failure, up to 30 s. When the time is over, one request tries it.
#[derive(Debug)]
struct Doubt {
    /// Counted from here, so that a moment fits an atomic.
    epoch: Instant,
    /// Milliseconds after `epoch` until which it is passed over; 0 when it is trusted.
    until: AtomicU64,
    failures: AtomicU32,
    /// When the last failure was counted.
    counted: AtomicU64,
}

const DOUBT_FIRST: Duration = Duration::from_secs(1);
const DOUBT_LONGEST: Duration = Duration::from_secs(30);

/// What becomes of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// It is picked.
    Serving,
    /// Its last connect failed: it is picked only where there is no other, and tried now and then.
    Doubted,
    /// The registry dropped it with many others; it answers, and is picked for a while.
    Held,
    /// The registry's checks of it do not pass: it is not picked.
    Unhealthy,
    /// It was removed, and finishes what is in flight.
    Draining,
}

impl EndpointState {
    /// As the API and the metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Doubted => "doubted",
            Self::Held => "held",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Serving,
        Self::Doubted,
        Self::Held,
        Self::Unhealthy,
        Self::Draining,
    ];
}

impl Endpoint {
    /// One that is called over TLS where there is a handshake for it.
    pub(super) fn new(
        id: EndpointId,
        handshake: Option<Handshake>,
        settings: PoolSettings,
        load: Option<Arc<Load>>,
        workers: usize,
    ) -> Self {
        let handshake = handshake.map(Arc::new);
        let pool = |_| {
            let address = id.address.clone();
            Pool::new(address, handshake.clone(), settings, load.clone())
        };
        Self {
            pools: (0..workers).map(pool).map(Arc::new).collect(),
            load,
            id,
            doubt: Doubt {
                epoch: Instant::now(),
                until: AtomicU64::new(0),
                failures: AtomicU32::new(0),
                counted: AtomicU64::new(0),
            },
        }
    }

    /// Who it is.
    pub fn id(&self) -> &EndpointId {
        &self.id
    }

    /// One worker's connections to it.
    pub fn pool(&self, worker: usize) -> &Arc<Pool> {
        &self.pools[worker]
    }

    /// All workers' connections to it.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().map(|pool| &**pool)
    }

    /// How busy it is, over all workers, where its balancer compares that.
    pub(super) fn load(&self) -> Option<&Arc<Load>> {
        self.load.as_ref()
    }

    /// Requests that it works on now.
    pub fn in_flight(&self) -> u64 {
        self.pools().map(Pool::in_flight).sum()
    }

    /// Whether a pick should pass it over. Of all who ask when its time is over, one is told no,
    /// and so tries it.
    pub(super) fn is_doubted(&self, now: Instant) -> bool {
        let until = self.doubt.until.load(Relaxed);
        if until == 0 {
            return false;
        }
        let now = self.doubt.millis(now);
        if now < until {
            return true;
        }
        let next = now + self.doubt.span().as_millis() as u64;
        self.doubt
            .until
            .compare_exchange(until, next, Relaxed, Relaxed)
            .is_err()
    }

    /// Whether its last connect failed; asking changes nothing.
    pub fn is_passed_over(&self) -> bool {
        self.doubt.until.load(Relaxed) != 0
    }

    /// A connect failed that began then. Those that were under way when one failed say nothing
    /// new, however many they are.
    pub(super) fn connect_failed(&self, began: Instant, now: Instant) {
        if self.doubt.millis(began) > self.doubt.counted.load(Relaxed) {
            self.doubt.counted.store(self.doubt.millis(now), Relaxed);
            self.doubt.failures.fetch_add(1, Relaxed);
        }
        let until = self.doubt.millis(now) + self.doubt.span().as_millis() as u64;
        self.doubt.until.store(until, Relaxed);
    }

    /// A connection stands: it is trusted again. Costs one load while it is trusted.
    pub(super) fn connected(&self) {
        if self.doubt.until.load(Relaxed) != 0 {
            self.doubt.failures.store(0, Relaxed);
            self.doubt.until.store(0, Relaxed);
        }
    }

    /// It was removed: see [`Pool::retire`].
    pub(super) fn retire(&self, cut_at: Instant) {
        for pool in &self.pools {
            pool.retire(cut_at);
        }
    }
}

impl Doubt {
    fn millis(&self, now: Instant) -> u64 {
        // At least 1: 0 says that it is trusted.
        1 + now.saturating_duration_since(self.epoch).as_millis() as u64
    }

    fn span(&self) -> Duration {
        let failures = self.failures.load(Relaxed).clamp(1, 16);
        (DOUBT_FIRST * 2u32.pow(failures - 1)).min(DOUBT_LONGEST)
    }
}
