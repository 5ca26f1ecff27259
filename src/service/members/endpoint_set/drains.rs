//! Which endpoints of a set are drained, what is left to requests without them, and where a drain that is not
//! forced yields. Knows nothing of for how long.

use tokio::time::Instant;

use super::EndpointSet;
use crate::{
    config::Subset,
    instance::{Address, Instance},
    service::members::{
        maintenance::{DrainStatus, Drains, Maintenance, Others},
        member::Member,
    },
};

/// What is left to requests besides drained endpoints, wherever routes look for them.
pub(super) struct Left<'s> {
    panics: bool,
    /// For each subset; `None` is all.
    others: Vec<(Option<&'s Subset>, Others)>,
}

impl<'s> Left<'s> {
    /// For what an endpoint is called although it is drained.
    pub(super) fn yields_for(
        &self,
        member: &Member,
        drain: &Maintenance,
    ) -> impl Iterator<Item = Option<&'s Subset>> {
        let views = self.others.iter().filter(|(subset, others)| {
            member.may_be_picked(self.panics)
                && is_of(*subset, &member.instance)
                && !drain.holds(member.fails_checks(), *others)
        });
        views.map(|(subset, _)| *subset)
    }
}

fn is_of(subset: Option<&Subset>, instance: &Instance) -> bool {
    subset.is_none_or(|Subset { tags, meta, .. }| instance.has(tags, meta))
}

impl EndpointSet {
    pub(super) fn is_held_away(&self, member: &Member, others: Others) -> bool {
        let drain = self.drain_of(member);
        drain.is_some_and(|drain| drain.holds(member.fails_checks(), others))
    }

    pub(super) fn drain_of(&self, member: &Member) -> Option<&Maintenance> {
        match self.drains.is_empty() {
            true => None,
            false => self.drains.get(&member.instance.address),
        }
    }

    /// What is left of those that `wants` selects where drained ones are not picked. Is not asked about
    /// where there are none.
    pub(super) fn others(&self, wants: impl Fn(&Instance) -> bool) -> Others {
        if self.drains.is_empty() {
            return Others::Passing;
        }
        self.undrained(wants, Member::fails_checks)
    }

    fn undrained(
        &self,
        wants: impl Fn(&Instance) -> bool,
        fails: impl Fn(&Member) -> bool,
    ) -> Others {
        let undrained = self.members.iter().filter(|one| {
            one.standing().is_pickable() && self.drain_of(one).is_none() && wants(&one.instance)
        });
        let others = undrained.map(|one| match fails(one) {
            true => Others::Failing,
            false => Others::Passing,
        });
        others.max().unwrap_or(Others::None)
    }

    /// What is left to requests for all, and for each of these subsets.
    pub(super) fn left<'s>(&self, subsets: &[&'s Subset]) -> Left<'s> {
        let views = std::iter::once(None).chain(subsets.iter().copied().map(Some));
        Left {
            panics: self.panics(),
            others: views
                .map(|subset| (subset, self.others(|one| is_of(subset, one))))
                .collect(),
        }
    }

    /// The address of a drained endpoint that is named by it, or by its id.
    pub(crate) fn drained(&self, name: &str) -> Option<Address> {
        let mut drained = self.drains.keys();
        let by_address = drained.find(|address| address.to_string() == name).cloned();
        let by_id = || {
            self.address_of(name)
                .filter(|it| self.drains.contains_key(it))
        };
        by_address.or_else(by_id)
    }

    /// Whether the endpoint at this address is picked of those that `wants` selects, and no other
    /// could be in its place: one that is ejected or doubted now could no more than one that fails its checks.
    pub(crate) fn is_last(&self, address: &Address, wants: impl Fn(&Instance) -> bool) -> bool {
        let (panics, now) = (self.panics(), Instant::now());
        let fails = |one: &Member| one.fails_checks() || one.endpoint.health().is_out(now);
        let others = self.undrained(|one| wants(one) && one.address != *address, fails);
        let mut there = self.members.iter().filter(|one| {
            one.instance.address == *address && wants(&one.instance) && one.may_be_picked(panics)
        });
        there.any(|one| self.drain_of(one).is_none() && !others.replace(fails(one)))
    }

    /// Drains the endpoint at this address.
    pub(crate) fn drain(&mut self, address: Address, maintenance: Maintenance) {
        let before = self.picked_ids();
        self.drains.insert(address, maintenance);
        self.note_change(&before);
    }

    /// No longer drains it: it is as if it were new. Returns whether it was drained.
    pub(crate) fn undrain(&mut self, address: &Address) -> bool {
        let before = self.picked_ids();
        let was_drained = self.drains.remove(address).is_some();
        let members = self.members.iter();
        for member in members.filter(|one| was_drained && one.instance.address == *address) {
            member.endpoint.health().recovered();
        }
        self.note_change(&before);
        was_drained
    }

    /// Those that are drained.
    pub(crate) fn drains(&self) -> &Drains {
        &self.drains
    }

    /// What the admin API shows of them, where routes call these subsets besides the whole.
    pub(crate) fn drain_statuses(&self, subsets: &[&Subset]) -> Vec<DrainStatus> {
        if self.drains.is_empty() {
            return Vec::new();
        }
        let left = self.left(subsets);
        let status = |(address, drain): (&Address, &Maintenance)| {
            let there = self.members.iter();
            let there = there.filter(|one| one.instance.address == *address);
            let yields_for = there.flat_map(|one| left.yields_for(one, drain));
            DrainStatus::of(address, drain, yields_for)
        };
        self.drains.iter().map(status).collect()
    }
}
