//! How a request is tried: at which of a service's endpoints, how often and for how long. A route's
//! settings take precedence over its service's.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Service, View};
use crate::config::{Overrides, Retry, Subset, Timeouts};

/// A service's retries and time-outs as a route has them that says something of them itself.
#[derive(Debug)]
pub struct Overridden {
    retry: Retry,
    timeout: Timeouts,
}

impl Overridden {
    /// Those of a service, below these of a route.
    pub fn of(service: &Service, overrides: &Overrides) -> Self {
        let policy = service.policy();
        Self {
            retry: overrides.retry(policy.retry),
            timeout: overrides.timeout(policy.timeout),
        }
    }
}

/// How a request is tried.
#[derive(Clone, Copy, Debug)]
pub struct CallPolicy<'s> {
    /// The endpoints that may be picked.
    pub view: &'s View,
    /// How often. The budget is the service's, and all its routes share it.
    pub retry: &'s Retry,
    /// For how long.
    pub timeout: &'s Timeouts,
}

impl<'s> CallPolicy<'s> {
    /// That of a route to the service that wants this subset and goes before the service with these
    /// values, if it has some; `None` where the service was made without that subset, as none is that
    /// its own generation leads to.
    pub fn of(
        service: &'s Service,
        subset: Option<&Arc<Subset>>,
        overridden: Option<&'s Overridden>,
    ) -> Option<Self> {
        let policy = service.policy();
        let view = match subset {
            None => service.main(),
            Some(subset) => {
                let mut views = service.views().iter();
                views.find(|view| view.is_of(subset))?
            }
        };
        Some(Self {
            view,
            retry: overridden.map_or(&policy.retry, |own| &own.retry),
            timeout: overridden.map_or(&policy.timeout, |own| &own.timeout),
        })
    }
}

/// When a request is over that arrived then, and whose client waits no longer than `deadline`.
pub fn over_at(
    arrived: Instant,
    timeout: &Timeouts,
    deadline: Option<Duration>,
) -> Option<Instant> {
    let limits = [timeout.total, deadline];
    let limit = limits.into_iter().flatten().min();
    limit.map(|limit| arrived + limit)
}

/// A limit, but no more than what is left until a request is over at `total`.
pub fn within(limit: Duration, total: Option<Instant>, now: Instant) -> Duration {
    total.map_or(limit, |total| {
        limit.min(total.saturating_duration_since(now))
    })
}
