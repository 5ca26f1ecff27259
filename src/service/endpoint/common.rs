//! What the endpoints of a service have in common: in memory once, however many they are. Knows nothing
//! of any of them.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::time::Instant;

use crate::{
    config,
    upstream::{IdleLimits, Tls},
};

/// What the endpoints of a service have in common.
#[derive(Debug)]
pub(crate) struct Common {
    /// From when on their moments are counted.
    pub(super) epoch: Instant,
    policy: ArcSwap<config::Service>,
    /// With what those are called that speak TLS.
    tls: ArcSwap<Tls>,
    pub(super) idle_limits: Arc<IdleLimits>,
    pub(super) workers: usize,
}

impl Common {
    /// Of a service with this policy, for so many workers.
    pub(in crate::service) fn new(
        policy: Arc<config::Service>,
        tls: Arc<Tls>,
        workers: usize,
    ) -> Self {
        Self {
            epoch: Instant::now(),
            idle_limits: Arc::new(IdleLimits::new(&policy.pool)),
            policy: ArcSwap::new(policy),
            tls: ArcSwap::new(tls),
            workers,
        }
    }

    /// Their service has another policy from now on.
    pub(in crate::service) fn follow(&self, policy: &Arc<config::Service>, tls: &Arc<Tls>) {
        self.idle_limits.set(&policy.pool);
        self.policy.store(Arc::clone(policy));
        self.tls.store(Arc::clone(tls));
    }

    /// What their service does with its requests.
    pub(in crate::service) fn policy(&self) -> Guard<Arc<config::Service>> {
        self.policy.load()
    }

    /// With what those are called that speak TLS.
    pub(super) fn tls(&self) -> Arc<Tls> {
        self.tls.load_full()
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::{path::Path, time::Duration};

    use super::*;

    /// Of a service's endpoints that warm up for so long, for one worker.
    pub(in crate::service::endpoint) fn common(slow_start: Option<Duration>) -> Arc<Common> {
        let text = "[defaults]\npool = { idle = \"4s\", connections = 4 }\n\
            [[route]]\nservice = \"cart\"\n";
        let config = config::Config::parse(text, Path::new(".")).unwrap();
        let policy = config::Service {
            slow_start,
            ..config.defaults
        };
        let tls = Tls::open(&policy.tls).unwrap();
        Arc::new(Common::new(Arc::new(policy), Arc::new(tls), 1))
    }
}
