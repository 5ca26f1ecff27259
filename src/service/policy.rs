//! How a request is tried: at which of a service's endpoints, how often and for how long. A route's
//! settings take precedence over its service's.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Service, View};
use crate::config::{Overrides, Retry, Subset, Timeouts};

/// How a request is tried.
#[derive(Clone, Copy, Debug)]
pub struct CallPolicy<'s> {
    /// The endpoints that may be picked.
    pub view: &'s View,
    /// How often. The budget is the service's, and all its routes share it.
    pub retry: Retry,
    /// For how long.
    pub timeout: Timeouts,
}

impl Service {
    /// The terms of a route that wants this subset and has these values of its own.
    ///
    /// # Panics
    /// Where the service was made without that subset.
    pub fn terms(&self, subset: Option<&Arc<Subset>>, overrides: &Overrides) -> CallPolicy<'_> {
        let policy = self.policy();
        let view = subset.map_or(self.main(), |subset| {
            let mut views = self.views().iter();
            let view = views.find(|view| view.is_of(subset));
            view.expect("a service is made with the subsets of all routes that lead to it")
        });
        CallPolicy {
            view,
            retry: overrides.retry(policy.retry),
            timeout: overrides.timeout(policy.timeout),
        }
    }

    /// The terms of a caller that has no subset and no values of its own.
    pub fn own_terms(&self) -> CallPolicy<'_> {
        self.terms(None, &Overrides::default())
    }
}

/// A limit, but no more than what is left until a request is over at `total`.
pub fn within(limit: Duration, total: Option<Instant>, now: Instant) -> Duration {
    total.map_or(limit, |total| {
        limit.min(total.saturating_duration_since(now))
    })
}
