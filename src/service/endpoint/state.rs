//! The life of an endpoint, as it is shown, from the first time that it is listed until it is gone: one state
//! machine, of which the registry and the health checks turn one half, and requests the other.
//!
//! ```text
//!             .---> unhealthy, failing
//!             v           |                 held
//! listed ---> +-------> warming ---.       ^    |
//!             |                    v       |    v
//!             '----------------> serving --+--> draining ---> gone
//!                                 ^   |
//!                    doubted, ejected <
//! ```
//!
//! One that a person drains is in maintenance, whatever it was before.
//!
//! What the registry makes of it ([`Standing`]) is kept under the members' lock. What requests find out
//! ([`EndpointHealth`]) is kept in atomics.

use serde::Serialize;
use tokio::time::Instant;

use super::health::EndpointHealth;
use crate::service::members::standing::Standing;

/// What becomes of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    /// It is picked.
    Serving,
    /// It is new, or back, and has a growing part of its share (`slow_start`).
    Warming,
    /// Its last connect failed, or it is silent while others answer: it is picked only where there is
    /// no other, and tried now and then.
    Doubted,
    /// Too many attempts in a row have failed: as if doubted, and for longer.
    Ejected,
    /// The registry dropped it with many others; it answers, and is picked for a while.
    Held,
    /// The registry's checks of it do not pass: it is not picked.
    Unhealthy,
    /// Our own checks of it do not pass: it is picked only in a panic.
    Failing,
    /// A person drains it: it gets no new requests, and finishes what is in flight.
    Maintenance,
    /// It was removed, and finishes what is in flight.
    Draining,
}

impl EndpointState {
    /// As the API and the metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Warming => "warming",
            Self::Doubted => "doubted",
            Self::Ejected => "ejected",
            Self::Held => "held",
            Self::Unhealthy => "unhealthy",
            Self::Failing => "failing",
            Self::Maintenance => "maintenance",
            Self::Draining => "draining",
        }
    }

    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Serving,
        Self::Warming,
        Self::Doubted,
        Self::Ejected,
        Self::Held,
        Self::Unhealthy,
        Self::Failing,
        Self::Maintenance,
        Self::Draining,
    ];

    /// What all who have a say in it come to: the registry, our own checks, and the requests.
    pub(crate) fn of(
        standing: Standing,
        fails_checks: bool,
        health: &EndpointHealth,
        now: Instant,
    ) -> Self {
        match standing {
            Standing::Removed => Self::Draining,
            Standing::Critical => Self::Unhealthy,
            _ if fails_checks => Self::Failing,
            _ if health.is_ejected() => Self::Ejected,
            _ if health.is_doubted() => Self::Doubted,
            Standing::Held(_) => Self::Held,
            Standing::Passing if health.is_warming(now) => Self::Warming,
            Standing::Passing => Self::Serving,
        }
    }
}
