//! Listeners that a reload has taken out of the file, and that have connections still.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::{config::ListenAddress, service::unix_seconds};

/// A listener on its way out.
pub struct LeavingListener {
    /// Where it listened.
    pub address: ListenAddress,
    /// Its open connections.
    pub connections: usize,
    /// How long it is until they are cut.
    pub left: Duration,
}

/// The same as it is shown.
#[derive(Serialize)]
pub(super) struct LeavingStatus {
    pub(super) address: ListenAddress,
    pub(super) connections: usize,
    /// Unix time at which those that are left are cut.
    pub(super) ends: f64,
}

impl From<LeavingListener> for LeavingStatus {
    fn from(listener: LeavingListener) -> Self {
        let ends = unix_seconds(SystemTime::now()) + listener.left.as_secs_f64();
        Self {
            address: listener.address,
            connections: listener.connections,
            // To the second: it is the same each time.
            ends: ends.round(),
        }
    }
}
