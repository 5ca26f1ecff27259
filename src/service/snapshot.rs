//! A service's endpoints at one moment: what requests read, and events replace.

use std::sync::Arc;

use super::Endpoint;

/// A service's endpoints at one moment, in the order of their identities.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Those that may be picked.
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// The places of `endpoints` in the order of their turns, where they do not have one each.
    pub order: Box<[u32]>,
    /// Those that may not, and have not gone: their idle connections want looking after too.
    pub resting: Box<[Arc<Endpoint>]>,
}

impl Snapshot {
    /// How many turns there are in a round.
    pub(super) fn turns(&self) -> usize {
        if self.order.is_empty() {
            self.endpoints.len()
        } else {
            self.order.len()
        }
    }

    /// Whose turn it is at this place in a round.
    pub(super) fn at(&self, turn: usize) -> &Arc<Endpoint> {
        match self.order.get(turn) {
            Some(place) => &self.endpoints[*place as usize],
            None => &self.endpoints[turn],
        }
    }
}
