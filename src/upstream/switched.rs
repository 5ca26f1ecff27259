//! A connection that an endpoint has switched to another protocol. Knows nothing of what is said on it.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    pool::{InFlight, Pool},
    stream::Stream,
    witness::Witness,
};
use crate::io::{reads_by, writes_by};

/// A connection to an endpoint that has gone over to another protocol. It counts as a request of the
/// endpoint until it is dropped.
pub(crate) struct Switched {
    pub(super) stream: Stream,
    /// What the endpoint has sent right behind its answer.
    pub(super) early: Bytes,
    /// How long it may be silent.
    pub(super) idle: Option<Duration>,
    pub(super) in_flight: InFlight,
    /// Kept until the end.
    pub(super) witness: Option<Box<dyn Witness>>,
}

impl Switched {
    /// How long it may be silent; `None` is for ever.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.idle
    }

    /// Takes what the endpoint has sent right behind its answer, which comes before what is read.
    pub(crate) fn take_early(&mut self) -> Bytes {
        std::mem::take(&mut self.early)
    }

    /// The endpoint's connections, of which it is none any more.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        self.in_flight.pool()
    }

    /// Has the kernel look for an endpoint that is gone, when nothing was heard for so long.
    pub(crate) fn keep_alive(&self, silence: Duration) {
        self.stream.keep_alive(silence);
    }

    /// Has the connection's end be a reset.
    pub(crate) fn reset(&mut self) {
        self.stream.reset();
    }
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Switched")
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        self.pool().tunnels.sub_one();
    }
}

reads_by!(Switched: stream of Self { stream, .. });
writes_by!(Switched: stream of Self { stream, .. });
