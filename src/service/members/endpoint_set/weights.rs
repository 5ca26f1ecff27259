//! Which endpoints of a set are picked by another weight than their own. Knows nothing of for how long.

use super::EndpointSet;
use crate::{
    instance::Address,
    service::members::{
        member::Member,
        other_weight::{OtherWeight, OtherWeights, WeightStatus},
    },
};

impl EndpointSet {
    /// The weight by which an endpoint is picked.
    pub(crate) fn weight_of(&self, member: &Member) -> u32 {
        let other = match self.weights.is_empty() {
            true => None,
            false => self.weights.get(&member.instance.address),
        };
        other.map_or(member.instance.weight, |other| other.weight)
    }

    /// Has the endpoint at this address be picked by another weight.
    pub(crate) fn reweigh(&mut self, address: Address, other: OtherWeight) {
        self.weights.insert(address, other);
    }

    /// Has it be picked by its own. Returns whether it had another.
    pub(crate) fn unweigh(&mut self, address: &Address) -> bool {
        self.weights.remove(address).is_some()
    }

    /// Those that have another.
    pub(crate) fn other_weights(&self) -> &OtherWeights {
        &self.weights
    }

    /// The address of an endpoint that has another weight, and is named by it or by its id.
    pub(crate) fn reweighed(&self, name: &str) -> Option<Address> {
        let mut addresses = self.weights.keys();
        let by_address = addresses.find(|one| one.to_string() == name).cloned();
        by_address.or_else(|| {
            self.address_of(name)
                .filter(|it| self.weights.contains_key(it))
        })
    }

    /// What the admin API shows of them.
    pub(crate) fn weight_statuses(&self) -> Vec<WeightStatus> {
        let weights = self.weights.iter();
        weights.map(|(address, one)| one.status(address)).collect()
    }
}
