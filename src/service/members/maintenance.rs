//! That a person works on an endpoint: since when, and for how long. Knows nothing of what follows from it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

use super::history::unix_seconds;
use crate::instance::Address;

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
    /// Whether it keeps requests away: one that is not forced does not where no other endpoint could
    /// be picked.
    pub holds: bool,
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
}

impl DrainStatus {
    pub(crate) fn of(endpoint: &Address, maintenance: &Maintenance, holds: bool) -> Self {
        let ends = maintenance.since + maintenance.time;
        let left = ends.duration_since(SystemTime::now());
        Self {
            endpoint: endpoint.clone(),
            since: unix_seconds(maintenance.since),
            ends: unix_seconds(ends),
            seconds_left: left.unwrap_or_default().as_secs_f64(),
            forced: maintenance.forced,
            holds,
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
