//! File descriptors: as many as the system gives, and no more connections than they are enough for.

use std::mem;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use parking_lot::Mutex;

use crate::config::Listener;

/// Descriptors that are kept for all but clients' requests: the log, registries, the admin server,
/// runtimes. A quarter of them where there are few.
const KEPT: u64 = 512;

/// Raises the soft limit of descriptors to the hard one, and returns what holds then. The soft one
/// is low for programs that use `select`, which this is not; a process that it starts inherits it.
pub(super) fn raise() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return u64::MAX;
    };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        return soft;
    }
    hard
}

/// Lets listeners have no more connections than there are descriptors for.
#[derive(Default)]
pub(super) struct Fitting {
    /// What was allowed and how many there may be, as it was said last.
    said: Mutex<Option<(usize, usize)>>,
}

impl Fitting {
    /// Lets these listeners have no more connections than these descriptors are enough for, and says so where
    /// that is another number than before.
    pub(super) fn fit(&self, listeners: &mut [Listener], descriptors: u64) {
        let fitted = fit(listeners, descriptors);
        let before = mem::replace(&mut *self.said.lock(), fitted);
        if let Some((allowed, most)) = fitted.filter(|_| fitted != before) {
            warn(descriptors, allowed, most);
        }
    }
}

/// Lowers the limits of these listeners to what these descriptors are enough for. Returns what they allowed
/// and how many there may be, where that is fewer.
fn fit(listeners: &mut [Listener], descriptors: u64) -> Option<(usize, usize)> {
    let limits = || listeners.iter().map(|listener| listener.limits.connections);
    let allowed: usize = limits().sum();
    let most = fewer(allowed, descriptors)?;
    for listener in listeners {
        let share = |number: usize| {
            let share = number as u128 * most as u128 / allowed as u128;
            (share as usize).max(1)
        };
        let limits = &mut listener.limits;
        limits.connections = share(limits.connections);
        limits.connections_per_address = share(limits.connections_per_address);
    }
    Some((allowed, most))
}

fn warn(descriptors: u64, allowed: usize, most: usize) {
    tracing::warn!(
        descriptors,
        allowed,
        connections = most,
        "the hard limit of descriptors is below what the listeners allow: at most {most} clients \
         are connected at once, and others wait; raise it (`ulimit -Hn`, systemd's LimitNOFILE), \
         or lower `listen.limits.connections`"
    );
}

/// How many clients there may be where that is fewer than allowed: each has its own connection, and
/// one to an endpoint.
fn fewer(allowed: usize, descriptors: u64) -> Option<usize> {
    let kept = KEPT.min(descriptors / 4);
    let most = usize::try_from((descriptors - kept) / 2).unwrap_or(usize::MAX);
    (most < allowed).then_some(most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_needs_two_descriptors_and_some_are_kept() {
        for (allowed, descriptors, most) in [
            (20_000, 65_536, None),
            (20_000, 40_512, None),
            (20_000, 40_511, Some(19_999)),
            (20_000, 1024, Some(384)),
            (384, 1024, None),
            (1, 0, Some(1)),
            (20_000, u64::MAX, None),
        ] {
            assert_eq!(fewer(allowed, descriptors), most, "{descriptors}");
        }
    }

    #[test]
    fn listeners_share_what_there_is_as_they_are_allowed() {
        let with = |connections| {
            let mut listener = Listener::default();
            listener.limits.connections = connections;
            listener.limits.connections_per_address = connections / 2;
            listener
        };
        let mut listeners = [with(30_000), with(10_000), with(1)];
        assert_eq!(fit(&mut listeners, 1024), Some((40_001, 384)));
        let limits = listeners.map(|listener| listener.limits);
        assert_eq!(limits.map(|limits| limits.connections), [287, 95, 1]);
        // One address has half of them, as before.
        assert_eq!(limits[0].connections_per_address, 143);
    }
}
