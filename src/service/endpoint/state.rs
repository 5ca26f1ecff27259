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
use crate::{metrics::counted_apart, service::members::standing::Standing};

counted_apart! {
    /// What becomes of an endpoint.
    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    pub enum EndpointState {
        /// It is picked.
        Serving = "serving",
        /// It is new, or back, and has a growing part of its share (`slow_start`).
        Warming = "warming",
        /// Its last connect failed, or it is silent while others answer: it is picked only where there is
        /// no other, and tried now and then.
        Doubted = "doubted",
        /// Too many attempts in a row have failed: as if doubted, and for longer.
        Ejected = "ejected",
        /// The registry dropped it with many others; it answers, and is picked for a while.
        Held = "held",
        /// The registry's checks of it do not pass: it is not picked.
        Unhealthy = "unhealthy",
        /// Our own checks of it do not pass: it is picked only in a panic.
        Failing = "failing",
        /// A person drains it: it gets no new requests, and finishes what is in flight.
        Maintenance = "maintenance",
        /// It was removed, and finishes what is in flight.
        Draining = "draining",
    }
}

impl EndpointState {
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
