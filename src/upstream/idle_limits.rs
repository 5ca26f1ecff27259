//! How many idle connections to an endpoint are kept, for how long and for whom, and how much is asked of
//! one that requests share: in atomics, for it may change while requests go on. Knows nothing of
//! connections.

use std::{
    sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use crate::{config, proxy_protocol::Version};

/// `pool`, for all endpoints of a service.
#[derive(Debug)]
pub struct IdleLimits {
    /// In nanoseconds.
    idle: AtomicU64,
    connections: AtomicUsize,
    /// In nanoseconds; [`NEVER`] is any age.
    max_age: AtomicU64,
    streams: AtomicUsize,
    /// In nanoseconds; [`NEVER`] is no question.
    ping: AtomicU64,
    /// The version, or 0.
    send_proxy: AtomicU8,
}

/// Longer than any process lives.
const NEVER: u64 = u64::MAX;

impl IdleLimits {
    /// Those of these settings.
    pub fn new(settings: &config::Pool) -> Self {
        let limits = Self {
            idle: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
            max_age: AtomicU64::new(NEVER),
            streams: AtomicUsize::new(1),
            ping: AtomicU64::new(NEVER),
            send_proxy: AtomicU8::new(0),
        };
        limits.set(settings);
        limits
    }

    /// Has these settings hold for connections that become idle from now on.
    pub fn set(&self, settings: &config::Pool) {
        self.idle.store(nanos(settings.idle), Relaxed);
        self.connections.store(settings.connections, Relaxed);
        let max_age = settings.max_age.map_or(NEVER, nanos);
        self.max_age.store(max_age, Relaxed);
        self.streams.store(settings.streams, Relaxed);
        let ping = settings.ping.map_or(NEVER, nanos);
        self.ping.store(ping, Relaxed);
        let version = match settings.send_proxy {
            None => 0,
            Some(Version::V1) => 1,
            Some(Version::V2) => 2,
        };
        self.send_proxy.store(version, Relaxed);
    }

    /// How long an idle connection is kept.
    pub(super) fn idle(&self) -> Duration {
        Duration::from_nanos(self.idle.load(Relaxed))
    }

    /// Idle connections kept per endpoint and worker.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// How old a connection to an endpoint that is called by a name may be used again.
    pub(super) fn max_age(&self) -> Option<Duration> {
        time(&self.max_age)
    }

    /// Streams at once on one connection of HTTP/2.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// After how much silence such a connection is asked for a sign of life; for one that is opened from
    /// now on.
    pub(super) fn ping(&self) -> Option<Duration> {
        time(&self.ping)
    }

    /// In which version an endpoint is told whose connection it has, where it is.
    pub(super) fn send_proxy(&self) -> Option<Version> {
        match self.send_proxy.load(Relaxed) {
            0 => None,
            1 => Some(Version::V1),
            _ => Some(Version::V2),
        }
    }
}

fn time(nanos: &AtomicU64) -> Option<Duration> {
    let nanos = nanos.load(Relaxed);
    (nanos != NEVER).then(|| Duration::from_nanos(nanos))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_was_set_last() {
        let first = config::Pool {
            idle: Duration::from_secs(4),
            connections: 8,
            max_age: Some(Duration::from_millis(1500)),
            streams: 100,
            ping: None,
            send_proxy: Some(Version::V2),
        };
        let limits = IdleLimits::new(&first);
        let then = config::Pool {
            idle: Duration::MAX,
            connections: 0,
            max_age: None,
            streams: 7,
            ping: Some(Duration::from_secs(10)),
            send_proxy: None,
        };
        let read = || (limits.idle(), limits.connections(), limits.max_age());
        assert_eq!(read(), (first.idle, 8, first.max_age));
        assert_eq!(limits.send_proxy(), first.send_proxy);
        limits.set(&then);
        assert_eq!(read(), (Duration::from_nanos(NEVER - 1), 0, None));
        assert_eq!((limits.streams(), limits.ping()), (7, then.ping));
        assert_eq!(limits.send_proxy(), None);
    }
}
