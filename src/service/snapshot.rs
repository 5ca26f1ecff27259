//! A service's endpoints at one moment: what requests read, and events replace.

use std::sync::{Arc, OnceLock};

use super::{Endpoint, WorkerEndpoint, balance::Tables, endpoint::Own};
use crate::config::Balance;

/// A service's endpoints at one moment, in the order of their identities.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Those that may be picked.
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// Those that may not, and have not gone: their idle connections want looking after too.
    pub resting: Box<[Arc<Endpoint>]>,
    /// The weights of `endpoints`; none where they count for nothing.
    weights: Box<[u32]>,
    pub(super) tables: Tables,
    /// What a pick asks of each of `endpoints`, and each worker's ways to all of them, by their
    /// places: a pick waits for memory, and for less of it here than by way of the endpoint.
    pub(super) healths: Box<[Arc<Own>]>,
    of_workers: Box<[WorkerEndpoints]>,
}

/// One worker's ways, from its first pick on, and of each from its own.
type WorkerEndpoints = OnceLock<Box<[OnceLock<Arc<WorkerEndpoint>>]>>;

impl Snapshot {
    /// Of those that may be picked, with their weights, and those that may not; with what this way
    /// of balancing looks up.
    pub(super) fn new(
        pickable: impl Iterator<Item = (Arc<Endpoint>, u32)>,
        resting: impl Iterator<Item = Arc<Endpoint>>,
        balance: &Balance,
    ) -> Self {
        let heeded = |weight| if balance.heeds_weights() { weight } else { 1 };
        let (endpoints, weights): (Vec<_>, Vec<_>) = pickable
            .map(|(endpoint, weight)| (endpoint, heeded(weight)))
            .unzip();
        let workers = endpoints.first().map_or(0, |one| one.workers());
        Self {
            healths: endpoints.iter().map(|one| Arc::clone(one.own())).collect(),
            of_workers: (0..workers).map(|_| OnceLock::new()).collect(),
            tables: Tables::new(balance, &endpoints, &weights),
            endpoints: endpoints.into(),
            weights: if balance.heeds_weights() {
                weights.into()
            } else {
                Box::default()
            },
            resting: resting.collect(),
        }
    }

    /// One worker's way to the endpoint at this place.
    pub(super) fn of_worker(&self, worker: usize, place: usize) -> &Arc<WorkerEndpoint> {
        let none = || self.endpoints.iter().map(|_| OnceLock::new()).collect();
        let line = || Arc::clone(self.endpoints[place].of_worker(worker));
        self.of_workers[worker].get_or_init(none)[place].get_or_init(line)
    }

    /// Whether requests fare alike with either, balanced in the same way.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let same = |a: &[Arc<Endpoint>], b: &[Arc<Endpoint>]| {
            a.len() == b.len() && std::iter::zip(a, b).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        same(&self.endpoints, &other.endpoints)
            && same(&self.resting, &other.resting)
            && self.weights == other.weights
    }
}
