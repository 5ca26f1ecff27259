//! Which endpoints of a set are picked by another weight than their own. Knows nothing of for how long.

use super::EndpointSet;
use crate::{
    instance::{Address, Instance},
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

    /// What the admin API shows of them, by whether a balance heeds the weight of an instance; of one that is not
    /// there, where none is said.
    pub(crate) fn weight_statuses(
        &self,
        heeds: impl Fn(Option<&Instance>) -> bool,
    ) -> Vec<WeightStatus> {
        let status = |(address, one): (&Address, &OtherWeight)| {
            let mut instances = self.instances_at(address).peekable();
            let heeded = match instances.peek() {
                Some(_) => instances.any(|instance| heeds(Some(instance))),
                None => heeds(None),
            };
            one.status(address, heeded)
        };
        self.weights.iter().map(status).collect()
    }

    /// Whether a person drains an endpoint of it, or has one be picked by another weight.
    pub(crate) fn is_changed_for_a_while(&self) -> bool {
        !self.weights.is_empty() || !self.drains().is_empty()
    }

    /// The instances at an address.
    pub(crate) fn instances_at<'a>(
        &'a self,
        address: &'a Address,
    ) -> impl Iterator<Item = &'a Instance> {
        let members = self.members.iter();
        let members = members.filter(move |one| one.instance.address == *address);
        members
            .filter(|one| !one.is_removed())
            .map(|one| &*one.instance)
    }
}
