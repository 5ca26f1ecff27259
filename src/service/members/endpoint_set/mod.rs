//! What a service's sets make of its endpoints: which serve, which are held although their registry
//! dropped them, which may not be picked, and which are on the way out. State is kept by identity;
//! requests never come here. What drains keep from them is in `drains`.

mod drains;
mod weights;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use tokio::time::Instant;

use super::{
    combine::Update,
    history,
    maintenance::{Drains, Others},
    member::{ById, Member},
    other_weight::OtherWeights,
    standing::{Held, Missing, Said, Shrink, Standing},
};
use crate::{
    config::{self, Balance, Subset},
    evidence::Order,
    instance::{Address, Instance},
    service::{
        Endpoint, EndpointId, EndpointState, Snapshot, balance::Loads, endpoint::Common,
        health::prober::Checkup,
    },
    upstream::{Tls, Transport},
};

/// What holds of some of a service's endpoints as a whole when one of them is picked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picking {
    /// Our own checks are not believed.
    panics: bool,
    /// What is left where drained ones are not picked.
    others: Others,
}

/// A service's endpoints and what became of them.
#[derive(Debug)]
pub(crate) struct EndpointSet {
    common: Arc<Common>,
    loads: Loads,
    members: ById,
    /// Those that a person works on.
    drains: Drains,
    /// Those that have another weight for a while.
    weights: OtherWeights,
    /// Removed, and not retired yet; and when their exchanges are cut.
    leaving: Vec<(Arc<Endpoint>, Instant)>,
    /// When the set of those that may be picked last changed.
    changed: Option<SystemTime>,
}

impl EndpointSet {
    pub(in crate::service) fn new(common: Arc<Common>, loads: Loads) -> Self {
        Self {
            common,
            loads,
            members: ById::default(),
            drains: Drains::new(),
            weights: OtherWeights::new(),
            leaving: Vec::new(),
            changed: None,
        }
    }

    /// Another policy holds from now on. Endpoints go on, but for those that are called in another way
    /// now: these drain, and others begin at their addresses.
    pub(in crate::service) fn follow_policy(
        &mut self,
        policy: &Arc<config::Service>,
        tls: &Arc<Tls>,
        secured_otherwise: bool,
        loads: Loads,
    ) {
        self.common.follow(policy, tls);
        self.loads.follow(loads);
        for member in self.members.iter() {
            match (member.endpoint.load(), self.loads.load()) {
                (Some(load), _) => self.loads.widen(&load),
                (None, Some(load)) => member.endpoint.keep_load(load),
                (None, None) => {}
            }
        }
        for place in 0..self.members.0.len() {
            let member = &mut self.members.0[place];
            if policy.health.is_none() {
                member.checkup = None;
            }
            if let Some(suspicion) = member.endpoint.health().suspicion() {
                suspicion.begin_anew();
            }
            let transport = Transport::of(&member.instance, policy.version_of_http());
            let is_called_otherwise = transport != member.endpoint.transport()
                || (secured_otherwise && member.instance.tls);
            if is_called_otherwise && !member.is_removed() {
                let (id, instance) = (member.id().clone(), Arc::clone(&member.instance));
                let standing = member.standing();
                let new = self.new_member(&id, &instance, standing, false);
                let replaced = std::mem::replace(&mut self.members.0[place], new);
                self.leaves(replaced.endpoint);
            }
        }
    }

    /// What holds of those that `wants` selects as a whole when one of them is picked.
    pub(crate) fn picking(&self, wants: impl Fn(&Instance) -> bool) -> Picking {
        Picking {
            panics: self.panics(),
            others: self.others(wants),
        }
    }

    /// Whether an endpoint is picked: here all that have a say in it meet. A drain that is not forced
    /// never takes the last one, nor the last one that passes its checks.
    fn is_picked(&self, member: &Member, picking: Picking) -> bool {
        member.may_be_picked(picking.panics) && !self.is_held_away(member, picking.others)
    }

    /// Who of those that `wants` selects may be picked and who may not, in the order of their
    /// identities.
    pub(crate) fn snapshot(
        &self,
        balance: &Balance,
        picking: Picking,
        wants: impl Fn(&Instance) -> bool,
    ) -> Snapshot {
        let (mut pickable, mut resting) = (Vec::new(), Vec::new());
        let members = self.members.iter();
        for member in members.filter(|member| wants(&member.instance)) {
            let endpoint = Arc::clone(&member.endpoint);
            if self.is_picked(member, picking) {
                pickable.push((endpoint, self.weight_of(member)));
            } else if !member.is_removed() {
                resting.push(endpoint);
            }
        }
        Snapshot::new(pickable.into_iter(), resting.into_iter(), balance)
    }

    /// Whether so few of those that the registry calls healthy pass our own checks that these are
    /// not believed: rather the checks are wrong, or all have too much to do, than that most are
    /// away at once.
    pub(crate) fn panics(&self) -> bool {
        let pickable = self.members.iter();
        let pickable = pickable.filter(|member| member.standing().is_pickable());
        // What is worked on says nothing of the others, but where it is called.
        let others = self.others(|_| true);
        let pickable = pickable.filter(|member| !self.is_held_away(member, others));
        let (mut all, mut failing) = (0u64, 0u64);
        for member in pickable {
            all += 1;
            failing += u64::from(member.fails_checks());
        }
        failing > 0 && (all - failing) * 100 < all * u64::from(self.common.policy().panic_percent)
    }

    /// Takes over a set. An endpoint that comes with it is new, and warms up where there are others; or
    /// it was there before, and is only heard of now. Returns whether the guard doubts the set.
    pub(crate) fn take_over(&mut self, update: &Update, expects_new: bool) -> bool {
        let before = self.picked_ids();
        self.forget_the_gone();
        let serves = |member: &&Member| member.standing() == Standing::Passing;
        let served = self.members.iter().filter(serves).count();
        let is_new = expects_new && served > 0;
        let (mut listed, mut came, mut new) = (HashSet::new(), Vec::new(), Vec::new());
        for instance in &update.instances {
            let id = EndpointId {
                instance: Arc::clone(&instance.id),
                address: instance.address.clone(),
            };
            let is_first = listed.insert(id.clone());
            if let Some(member) = self.list(&id, instance, update.order, is_new) {
                new.push(member);
                came.extend(is_first.then_some(id));
            }
        }
        self.members.add(new);
        let doubts = self.miss(&listed, &came, served, update);
        self.note_change(&before);
        doubts
    }

    /// What a set says of an instance that it lists. Returns it as a member where it was none.
    fn list(
        &mut self,
        id: &EndpointId,
        instance: &Arc<Instance>,
        order: Order,
        is_new: bool,
    ) -> Option<Member> {
        let said = match instance.healthy {
            true => Said::Healthy,
            false => Said::Ill {
                doubted: order != Order::Replaced,
            },
        };
        let transport = Transport::of(instance, self.common.policy().version_of_http());
        let known = self
            .members
            .get_mut(id)
            // Its connections are of no use to one that now speaks TLS or another version of HTTP, or
            // no longer does.
            .filter(|member| member.endpoint.transport() == transport);
        if let Some(member) = known {
            let before = member.standing();
            if before == Standing::Removed {
                // It works on something still, and is the same.
                member.endpoint.restore();
            }
            member.stand(said.after(Some(before)));
            if (before, member.standing()) == (Standing::Critical, Standing::Passing) {
                member.endpoint.health().recovered();
            }
            member.instance = Arc::clone(instance);
            return None;
        }
        let member = self.new_member(id, instance, said.after(None), is_new);
        let Some(known) = self.members.get_mut(id) else {
            return Some(member);
        };
        let replaced = std::mem::replace(known, member);
        self.leaves(replaced.endpoint);
        None
    }

    fn new_member(
        &self,
        id: &EndpointId,
        instance: &Arc<Instance>,
        standing: Standing,
        is_new: bool,
    ) -> Member {
        let load = self.loads.load();
        let transport = Transport::of(instance, self.common.policy().version_of_http());
        let endpoint = Endpoint::new(Arc::clone(&self.common), id.clone(), transport, load);
        if is_new {
            endpoint.health().warm_up(Instant::now());
        }
        Member::new(Arc::new(endpoint), Arc::clone(instance), standing)
    }

    /// Removes, or holds, what a set does not list. Returns whether it is doubted.
    fn miss(
        &mut self,
        listed: &HashSet<EndpointId>,
        came: &[EndpointId],
        served: usize,
        update: &Update,
    ) -> bool {
        // An endpoint whose address is listed under another id is not lost, once that id serves: a
        // new check fails until it has run.
        let serving: HashSet<_> = self
            .members
            .iter()
            .filter(|member| listed.contains(member.id()))
            .filter(|member| member.standing() == Standing::Passing)
            .map(|member| member.id().address.clone())
            .collect();
        let moved = self.moved(listed, came);
        let is_accounted_for = |id: &EndpointId| {
            let identity = (Arc::clone(&id.instance), id.address.clone());
            serving.contains(&id.address)
                || moved.contains(&id.instance)
                || update.elsewhere.contains(&identity)
        };
        let missing: Vec<_> = self
            .members
            .iter()
            .filter(|member| !listed.contains(member.id()))
            .map(|member| {
                let id = member.id();
                (id.clone(), member.standing(), is_accounted_for(id))
            })
            .collect();
        let lost = missing
            .iter()
            .filter(|(_, before, accounted_for)| *before == Standing::Passing && !accounted_for);
        let shrink = Shrink {
            order: update.order,
            served,
            lost: lost.count(),
            leaves_some: !serving.is_empty(),
        };
        let verdict = shrink.judge(self.common.policy().guard, update.by, Instant::now());
        for (id, before, accounted_for) in missing {
            let missing = if accounted_for {
                Missing::Replaced
            } else {
                verdict
            };
            let now = Said::Nothing(missing).after(Some(before));
            if now != before {
                self.stand(&id, now);
            }
        }
        matches!(verdict, Missing::Doubted(_))
    }

    /// The instances that come at another address at the moment at which they are missed at theirs, and
    /// serve there: a registry that had lost one would not know where it is. An id that several have, or
    /// an address at which several come, says nothing of where one of them went.
    fn moved<'i>(
        &self,
        listed: &HashSet<EndpointId>,
        came: &'i [EndpointId],
    ) -> HashSet<&'i Arc<str>> {
        let serves = |id: &&EndpointId| {
            let member = self.members.get(id);
            member.is_some_and(|member| member.standing() == Standing::Passing)
        };
        let mut at = HashMap::new();
        for id in came {
            *at.entry(&id.address).or_insert(0) += 1;
        }
        let mut missed = HashMap::new();
        let ids = self.members.iter().map(Member::id);
        for id in ids.filter(|id| !listed.contains(*id)) {
            *missed.entry(&id.instance).or_insert(0) += 1;
        }
        let moved = came.iter().filter(serves);
        let moved = moved.filter(|id| at[&id.address] == 1 && missed.get(&id.instance) == Some(&1));
        moved.map(|id| &id.instance).collect()
    }

    /// Holds an endpoint in another way or, for `None`, no longer: what the registry says of it now is
    /// believed. Returns whether it was still held so; in the meantime it may have been registered again.
    pub(crate) fn settle(&mut self, id: &EndpointId, held: Held, now: Option<Held>) -> bool {
        let member = self.members.get(id);
        let is_held_so = member.is_some_and(|member| member.standing() == Standing::Held(held));
        if is_held_so {
            self.stand(id, now.map_or_else(|| held.let_go(), Standing::Held));
            self.changed = now.map_or(Some(SystemTime::now()), |_| self.changed);
        }
        is_held_so
    }

    fn stand(&mut self, id: &EndpointId, standing: Standing) {
        if let Some(member) = self.members.get_mut(id) {
            member.stand(standing);
            if standing == Standing::Removed {
                let endpoint = Arc::clone(&member.endpoint);
                self.leaves(endpoint);
            }
        }
    }

    /// The endpoint is gone: it gets no new picks. Once no request can pick it any more, its idle
    /// connections are closed; the rest may finish.
    fn leaves(&mut self, endpoint: Arc<Endpoint>) {
        let cut_at = Instant::now() + self.common.policy().drain;
        self.leaving.push((endpoint, cut_at));
        self.changed = Some(SystemTime::now());
    }

    /// Those that were removed and are to be retired, and when their exchanges are cut.
    pub(crate) fn take_leaving(&mut self) -> Vec<(Arc<Endpoint>, Instant)> {
        std::mem::take(&mut self.leaving)
    }

    /// When the set of those that may be picked last changed.
    pub(crate) fn changed(&self) -> Option<SystemTime> {
        self.changed
    }

    /// Those that the guard holds.
    pub(crate) fn held(&self) -> Vec<(EndpointId, Held)> {
        self.members
            .iter()
            .filter_map(|member| match member.standing() {
                Standing::Held(held) => Some((member.id().clone(), held)),
                _ => None,
            })
            .collect()
    }

    /// Those that are held, or all that may be picked, as what they are to requests: healthy.
    pub(crate) fn healthy_instances(&self, all: bool) -> Vec<Arc<Instance>> {
        let wanted = |member: &&Member| match member.standing() {
            Standing::Held(_) => true,
            standing => all && standing.is_pickable(),
        };
        let members = self.members.iter().filter(wanted);
        members.map(|member| member.instance.called(true)).collect()
    }

    /// The set as it is, in the order of sets, for the journal.
    pub(crate) fn standings(&self) -> impl Iterator<Item = (&Arc<Instance>, history::Listed)> {
        self.members.iter().filter_map(|member| {
            let standing = match member.standing() {
                Standing::Removed => return None,
                Standing::Held(_) => history::Listed::Held,
                Standing::Passing => history::Listed::Healthy,
                Standing::Critical => history::Listed::Unhealthy,
            };
            Some((&member.instance, standing))
        })
    }

    /// Forgets those that were removed and have finished.
    pub(crate) fn forget_the_gone(&mut self) {
        self.members
            .retain(|member| !member.is_removed() || member.endpoint.in_flight() > 0);
    }

    fn picked_ids(&self) -> Vec<EndpointId> {
        let picking = self.picking(|_| true);
        let members = self.members.iter();
        let picked = members.filter(|member| self.is_picked(member, picking));
        picked.map(|member| member.id().clone()).collect()
    }

    /// All of them, and those that were removed and work on something still.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// What the admin API shows of each, where routes call these subsets besides the whole.
    pub(crate) fn states(
        &self,
        subsets: &[&Subset],
    ) -> impl Iterator<Item = (&Member, EndpointState)> {
        let now = Instant::now();
        let left = self.left(subsets);
        self.members.iter().map(move |member| {
            let health = member.endpoint.health();
            let drain = self.drain_of(member).filter(|_| !member.is_removed());
            let holds = drain.is_some_and(|drain| left.yields_for(member, drain).next().is_none());
            let state = match holds {
                true => EndpointState::Maintenance,
                false => EndpointState::of(member.standing(), member.fails_checks(), health, now),
            };
            (member, state)
        })
    }

    /// The address of an endpoint that is named by it, or by its id.
    pub(crate) fn address_of(&self, name: &str) -> Option<Address> {
        let members = || self.members.iter().filter(|member| !member.is_removed());
        let mut addresses = members().map(|member| &member.instance.address);
        let by_address = addresses.find(|address| address.to_string() == name);
        let by_id = || members().find(|member| &*member.instance.id == name);
        by_address
            .or_else(|| by_id().map(|member| &member.instance.address))
            .cloned()
    }

    fn note_change(&mut self, before: &[EndpointId]) {
        if *before != self.picked_ids() {
            self.changed = Some(SystemTime::now());
        }
    }

    /// Takes over what our own checks of an endpoint come to. Returns whether it passes now where
    /// it did not before, or the other way round.
    pub(crate) fn check(&mut self, endpoint: &Arc<Endpoint>, checkup: Checkup) -> bool {
        let member = self.members.get_mut(endpoint.id());
        let Some(member) = member.filter(|member| Arc::ptr_eq(&member.endpoint, endpoint)) else {
            return false;
        };
        let failed = member.fails_checks();
        member.checkup = Some(Box::new(checkup));
        if failed && !member.fails_checks() {
            endpoint.health().recovered();
        }
        let has_changed = failed != member.fails_checks();
        if has_changed {
            self.changed = Some(SystemTime::now());
        }
        has_changed
    }

    /// Those that the registry lists, or that are held.
    pub(crate) fn listed(&self) -> HashMap<EndpointId, Arc<Endpoint>> {
        let listed = self.members.iter();
        let listed = listed.filter(|member| !member.is_removed());
        let listed = listed.map(|member| (member.id().clone(), Arc::clone(&member.endpoint)));
        listed.collect()
    }
}

#[cfg(test)]
mod tests;
