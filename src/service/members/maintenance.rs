//! That a person works on an endpoint: since when, and for how long. Knows nothing of what follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

use super::history::unix_seconds;
use crate::{config::Subset, instance::Address};

/// What is left to requests besides the endpoints that are drained, from the least on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Others {
    /// Nothing.
    None,
    /// Endpoints that fail our own checks: a panic calls them at the most.
    Failing,
    /// An endpoint that passes them, or that is not checked.
    Passing,
}

impl Others {
    /// Whether an endpoint can be done without.
    pub(super) fn replace(self, fails_checks: bool) -> bool {
        match self {
            Self::None => false,
            Self::Failing => fails_checks,
            Self::Passing => true,
        }
    }
}

/// The endpoints of a service that are drained, by their addresses.
pub(crate) type Drains = BTreeMap<Address, Maintenance>;

/// What an endpoint is in that is drained.
#[derive(Debug)]
pub(crate) struct Maintenance {
    since: SystemTime,
    /// How long it lasts.
    time: Duration,
    /// Whether it holds where no other endpoint could be picked, too.
    pub(crate) forced: bool,
    /// Tells it from a later one of the same address.
    pub(super) began: Instant,
    /// Ends it when its time is over; gone with it.
    pub(super) expiry: Option<AbortOnDropHandle<()>>,
}

/// A drain, as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct DrainStatus {
    /// The endpoint's address.
    pub endpoint: Address,
    /// When it began, in seconds since 1970.
    pub since: f64,
    /// When it ends by itself, in seconds since 1970.
    pub ends: f64,
    /// Until then.
    pub seconds_left: f64,
    /// Whether it takes the last endpoint, too.
    pub forced: bool,
    /// Whether it keeps all requests away: one that is not forced does not where no other endpoint
    /// could be picked, or where it passes its checks and no other does.
    pub holds: bool,
    /// Subsets that have no other endpoint: their requests still come. Empty where all do.
    pub yields_for: Vec<String>,
}

impl Maintenance {
    /// From now on.
    pub(super) fn new(time: Duration, forced: bool) -> Self {
        Self {
            since: SystemTime::now(),
            time,
            forced,
            began: Instant::now(),
            expiry: None,
        }
    }

    /// Whether it keeps requests from an endpoint where these others are.
    pub(super) fn holds(&self, fails_checks: bool, others: Others) -> bool {
        self.forced || others.replace(fails_checks)
    }
}

impl DrainStatus {
    /// It does not hold where it yields for any, of which `None` is all requests.
    pub(super) fn of<'s>(
        endpoint: &Address,
        maintenance: &Maintenance,
        yields_for: impl IntoIterator<Item = Option<&'s Subset>>,
    ) -> Self {
        let yields_for: Vec<_> = yields_for.into_iter().collect();
        let holds = yields_for.is_empty();
        let subsets: Option<BTreeSet<_>> = yields_for
            .into_iter()
            .map(|subset| subset.map(ToString::to_string))
            .collect();
        let ends = maintenance.since + maintenance.time;
        let left = ends.duration_since(SystemTime::now());
        Self {
            endpoint: endpoint.clone(),
            since: unix_seconds(maintenance.since),
            ends: unix_seconds(ends),
            seconds_left: left.unwrap_or_default().as_secs_f64(),
            forced: maintenance.forced,
            holds,
            yields_for: subsets.into_iter().flatten().collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Without an end of its own.
    pub(crate) fn maintenance(forced: bool) -> Maintenance {
        Maintenance::new(Duration::from_secs(60), forced)
    }
}
