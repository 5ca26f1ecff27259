//! Ejects a service's endpoints, and no more of them at once than its rule allows. Knows nothing of
//! what speaks against one.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    config::Eject,
    service::{View, WorkerEndpoint},
};

/// Lets the ejections of a service be one at a time, so that no two of them are the last that may be.
#[derive(Debug, Default)]
pub(crate) struct Ejections(Mutex<()>);

impl Ejections {
    /// Ejects an endpoint whose attempt began then, if enough others are left of all that there are.
    /// Returns for how long: for `pause`, or as the rule says.
    pub(crate) fn eject(
        &self,
        all: &View,
        line: &Arc<WorkerEndpoint>,
        rule: &Eject,
        began: Instant,
        pause: Option<Duration>,
    ) -> Option<Duration> {
        let health = line.health();
        if health.is_out_since(began) {
            return None;
        }
        let _turn = self.0.lock();
        let snapshot = all.snapshot();
        let endpoints = &snapshot.endpoints;
        if health.is_out_since(began) || !endpoints.iter().any(|one| one.is_of(line)) {
            return None;
        }
        let now = Instant::now();
        // Whose time is over waits for a request only, of which there may be none.
        let ejected = endpoints.iter().filter(|one| one.health().is_kept_out(now));
        let others = ejected.filter(|one| !one.is_of(line));
        let (with_it, all) = (others.count() + 1, endpoints.len());
        if with_it == all || with_it * 100 > all * rule.max_percent as usize {
            if pause.is_none() {
                health.spare();
            }
            return None;
        }
        Some(health.eject(rule, pause, now))
    }
}
