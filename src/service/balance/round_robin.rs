//! Each in turn, and where the snapshot has an order, in that. One counter per service, which an update
//! does not touch: over an unchanged snapshot any N requests in a row, on whatever threads, go to
//! each of N endpoints once. A request has one turn, however often it is tried: were a retry a turn
//! of its own, the requests after it would fall in step with the endpoint that fails.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::candidates::Candidates;
use crate::{
    metrics::Padded,
    service::{Endpoint, Snapshot},
};

/// Whose turn it is. Made with the first: on cache lines of its own it is larger than all else that a
/// service which is never called has of balancing.
#[derive(Debug)]
pub struct Turns(OnceLock<Box<Padded<AtomicUsize>>>);

impl Turns {
    /// Proxies that start together should not all start with the same endpoint.
    pub(super) fn anywhere() -> Self {
        Self(OnceLock::new())
    }

    #[cfg(test)]
    pub(super) fn from(turn: usize) -> Self {
        Self(OnceLock::from(Box::new(Padded(AtomicUsize::new(turn)))))
    }

    pub(super) fn next(&self) -> usize {
        self.counter().fetch_add(1, Relaxed)
    }

    fn counter(&self) -> &AtomicUsize {
        self.0.get_or_init(|| {
            let start = fastrand::usize(..usize::MAX / 2);
            Box::new(Padded(AtomicUsize::new(start)))
        })
    }

    /// Skips turns at random: requests that come in the same order again and again are not in step
    /// with the endpoints then.
    #[cold]
    pub(super) fn break_step(&self) {
        self.counter()
            .fetch_add(fastrand::usize(..1 << 16), Relaxed);
    }
}

/// The one whose turn it is; where that one may not be picked, another, as for a request that it
/// has failed.
pub(super) fn pick(
    turn: usize,
    among: &Candidates<'_, impl Fn(&Endpoint) -> bool>,
) -> Option<usize> {
    let order = &among.snapshot.tables.order;
    let turns = turns(among.snapshot);
    let whose = |turn: usize| order.get(turn).map_or(turn, |place| *place as usize);
    let place = whose(turn % turns);
    if among.takes(place) {
        return Some(place);
    }
    let first = again(turn, among.snapshot) % turns;
    among.first((first..turns).chain(0..first).map(whose))
}

/// Where a request that was tried before begins. Those that one endpoint has failed are spread over
/// all the others: from round to round they begin with another, and not all with its neighbour.
pub(super) fn again(turn: usize, snapshot: &Snapshot) -> usize {
    let turns = turns(snapshot).max(2);
    turn.wrapping_add(1 + turn / turns % (turns - 1))
}

/// How many turns a round has.
pub(super) fn turns(snapshot: &Snapshot) -> usize {
    match snapshot.tables.order.len() {
        0 => snapshot.endpoints.len(),
        turns => turns,
    }
}
