//! What the registry's events make of a service's endpoints: who serves, who is held although
//! the registry dropped it, who may not be picked, and who is on the way out. State is kept by
//! identity; requests never come here.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use tokio::time::Instant;

use super::{Endpoint, EndpointId, EndpointState, Snapshot};
use crate::{config, instance::Instance, upstream::PoolSettings};

/// A service's endpoints and what became of them.
#[derive(Debug)]
pub(super) struct Board {
    workers: usize,
    pub(super) places: BTreeMap<EndpointId, Place>,
    /// When the set of those that may be picked last changed.
    pub(super) changed: Option<SystemTime>,
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) instance: Instance,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Registered and healthy.
    Serving,
    /// Registered; its checks do not pass.
    Unhealthy,
    /// No longer registered, and doubted to be gone: picked until the guard lets go of it.
    Held { until: Instant },
    /// Removed; what is in flight finishes, at the latest at `cut_at`.
    Draining { cut_at: Instant },
}

impl State {
    fn is_pickable(self) -> bool {
        matches!(self, Self::Serving | Self::Held { .. })
    }
}

impl Board {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            places: BTreeMap::new(),
            changed: None,
        }
    }

    /// Who may be picked and who may not, in the order of their identities.
    pub(super) fn snapshot(&self) -> Snapshot {
        let those = |wanted: fn(State) -> bool| {
            self.places
                .values()
                .filter(|place| wanted(place.state))
                .map(|place| Arc::clone(&place.endpoint))
                .collect()
        };
        Snapshot {
            endpoints: those(State::is_pickable),
            resting: those(|state| state == State::Unhealthy),
        }
    }

    /// Takes over a set. Returns whether the guard doubts it: those that it holds must be
    /// checked.
    pub(super) fn take_over(&mut self, set: &[Instance], policy: &config::Service) -> bool {
        let before = self.picked_ids();
        self.forget_the_gone();
        let serves = |place: &&Place| place.state == State::Serving;
        let served_before = self.places.values().filter(serves).count();
        let mut listed = HashSet::new();
        for instance in set {
            let id = EndpointId {
                instance: Arc::clone(&instance.id),
                address: instance.address.clone(),
            };
            listed.insert(id.clone());
            self.list(id, instance, policy);
        }
        let doubted = self.drop_unlisted(&listed, served_before, policy);
        if before != self.picked_ids() {
            self.changed = Some(SystemTime::now());
        }
        doubted
    }

    fn list(&mut self, id: EndpointId, instance: &Instance, policy: &config::Service) {
        let state = if instance.healthy {
            State::Serving
        } else {
            State::Unhealthy
        };
        let known = self
            .places
            .get_mut(&id)
            // One that was removed has closed its pools for good; it comes back as a new one.
            .filter(|place| !matches!(place.state, State::Draining { .. }));
        if let Some(place) = known {
            place.state = state;
            place.instance = instance.clone();
            return;
        }
        let settings = PoolSettings {
            idle: policy.pool.idle,
            connections: policy.pool.connections,
        };
        let place = Place {
            endpoint: Arc::new(Endpoint::new(id.clone(), settings, self.workers)),
            instance: instance.clone(),
            state,
        };
        self.places.insert(id, place);
    }

    /// Removes, or holds, what the registry no longer lists.
    fn drop_unlisted(
        &mut self,
        listed: &HashSet<EndpointId>,
        served_before: usize,
        policy: &config::Service,
    ) -> bool {
        let missing: Vec<_> = self
            .places
            .iter()
            .filter(|(id, place)| {
                !listed.contains(*id) && matches!(place.state, State::Serving | State::Unhealthy)
            })
            .map(|(id, place)| (id.clone(), place.state == State::Serving))
            .collect();
        let lost = missing.iter().filter(|(_, served)| *served).count();
        let nobody_left = !self
            .places
            .iter()
            .any(|(id, place)| listed.contains(id) && place.state == State::Serving);
        let now = Instant::now();
        let hold = policy.guard.filter(|guard| {
            lost > 0 && (nobody_left || lost as f64 > guard.share * served_before as f64)
        });
        for (id, served) in missing {
            match hold {
                Some(guard) if served => {
                    let until = now + guard.hold;
                    if let Some(place) = self.places.get_mut(&id) {
                        place.state = State::Held { until };
                    }
                }
                _ => self.remove(&id, policy),
            }
        }
        hold.is_some()
    }

    /// The endpoint is gone: no new picks, idle connections closed, the rest may finish.
    pub(super) fn remove(&mut self, id: &EndpointId, policy: &config::Service) {
        if let Some(place) = self.places.get_mut(id) {
            let cut_at = Instant::now() + policy.drain;
            place.state = State::Draining { cut_at };
            place.endpoint.retire(cut_at);
            self.changed = Some(SystemTime::now());
        }
    }

    /// Those that the guard holds, and until when.
    pub(super) fn held(&self) -> Vec<(EndpointId, Instant)> {
        self.places
            .iter()
            .filter_map(|(id, place)| match place.state {
                State::Held { until } => Some((id.clone(), until)),
                _ => None,
            })
            .collect()
    }

    fn forget_the_gone(&mut self) {
        let now = Instant::now();
        self.places.retain(|_, place| match place.state {
            State::Draining { cut_at } => now < cut_at && place.endpoint.in_flight() > 0,
            _ => true,
        });
    }

    fn picked_ids(&self) -> Vec<EndpointId> {
        self.places
            .iter()
            .filter(|(_, place)| place.state.is_pickable())
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// What the admin API shows of each.
    pub(super) fn states(&mut self) -> impl Iterator<Item = (&Place, EndpointState)> {
        self.forget_the_gone();
        self.places.values().map(|place| {
            let state = match place.state {
                State::Serving if place.endpoint.is_passed_over() => EndpointState::Doubted,
                State::Serving => EndpointState::Serving,
                State::Unhealthy => EndpointState::Unhealthy,
                State::Held { .. } => EndpointState::Held,
                State::Draining { .. } => EndpointState::Draining,
            };
            (place, state)
        })
    }
}
