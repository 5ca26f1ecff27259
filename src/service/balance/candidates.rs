//! Among whom a pick chooses: the endpoints of a snapshot that the request was not tried with. The
//! only place that asks whether one is passed over.

use tokio::time::Instant;

use super::loaded::Loaded;
use crate::service::{Endpoint, Snapshot};

/// Those who may be picked. There is at least one place, wanted or not.
pub(super) struct Candidates<'s, W> {
    pub(super) snapshot: &'s Snapshot,
    wanted: W,
    now: Instant,
}

impl<'s, W: Fn(&Endpoint) -> bool> Candidates<'s, W> {
    /// `None` for an empty snapshot.
    pub(super) fn new(snapshot: &'s Snapshot, wanted: W, now: Instant) -> Option<Self> {
        (!snapshot.endpoints.is_empty()).then_some(Self {
            snapshot,
            wanted,
            now,
        })
    }

    /// How many places there are.
    pub(super) fn count(&self) -> usize {
        self.snapshot.endpoints.len()
    }

    /// How busy they are, by their places.
    pub(super) fn loads(&self) -> &'s [Loaded] {
        &self.snapshot.tables.loads
    }

    /// Whether it may be picked where there is no other.
    pub(super) fn wants(&self, place: usize) -> bool {
        (self.wanted)(&self.snapshot.endpoints[place])
    }

    /// Whether it may be picked. One that was passed over for long enough is given to the first who
    /// asks: it is asked last, of one that would be picked.
    pub(super) fn takes(&self, place: usize) -> bool {
        self.wants(place) && self.is_trusted(place)
    }

    fn is_trusted(&self, place: usize) -> bool {
        !self.snapshot.healths[place].is_passed_over(self.now)
    }

    /// The same for one that the request asks for by a key or a cookie: how new it is is no matter.
    pub(super) fn takes_asked(&self, place: usize) -> bool {
        self.wants(place) && !self.snapshot.healths[place].is_avoided(self.now)
    }

    /// The first in a row of places that may be picked, else the first that is wanted. Each place is
    /// looked at once.
    pub(super) fn first(&self, mut places: impl Iterator<Item = usize>) -> Option<usize> {
        let first = places.find(|place| self.wants(*place))?;
        if self.is_trusted(first) {
            return Some(first);
        }
        places.find(|place| self.takes(*place)).or(Some(first))
    }

    /// The same for all places, in a row that begins anywhere and goes round once.
    pub(super) fn first_from(&self, start: usize) -> Option<usize> {
        let first = start % self.count();
        self.first((first..self.count()).chain(0..first))
    }
}
