//! What a service's sets make of its endpoints: which serve, which are held although their registry
//! dropped them, which may not be picked, and which are on the way out. State is kept by identity;
//! requests never come here.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use tokio::time::Instant;

use super::{
    combine::Update,
    history,
    maintenance::{DrainStatus, Drains, Maintenance, Others},
    member::{ById, Member},
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

/// What is left to requests besides drained endpoints, wherever routes look for them.
struct Left<'s> {
    panics: bool,
    /// For each subset; `None` is all.
    others: Vec<(Option<&'s Subset>, Others)>,
}

impl<'s> Left<'s> {
    /// For what an endpoint is called although it is drained.
    fn yields_for(
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

/// A service's endpoints and what became of them.
#[derive(Debug)]
pub(crate) struct EndpointSet {
    common: Arc<Common>,
    loads: Loads,
    members: ById,
    /// Those that a person works on.
    drains: Drains,
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

    fn is_held_away(&self, member: &Member, others: Others) -> bool {
        let drain = self.drain_of(member);
        drain.is_some_and(|drain| drain.holds(member.fails_checks(), others))
    }

    fn drain_of(&self, member: &Member) -> Option<&Maintenance> {
        match self.drains.is_empty() {
            true => None,
            false => self.drains.get(&member.instance.address),
        }
    }

    /// What is left of those that `wants` selects where drained ones are not picked. Is not asked about
    /// where there are none.
    fn others(&self, wants: impl Fn(&Instance) -> bool) -> Others {
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
                pickable.push((endpoint, member.instance.weight));
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

    /// What is left to requests for all, and for each of these subsets.
    fn left<'s>(&self, subsets: &[&'s Subset]) -> Left<'s> {
        let views = std::iter::once(None).chain(subsets.iter().copied().map(Some));
        Left {
            panics: self.panics(),
            others: views
                .map(|subset| (subset, self.others(|one| is_of(subset, one))))
                .collect(),
        }
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

    fn note_change(&mut self, before: &[EndpointId]) {
        if *before != self.picked_ids() {
            self.changed = Some(SystemTime::now());
        }
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        service::{members::maintenance::testing::maintenance, testing::instance},
        upstream::Tls,
    };

    fn policy(guard: Option<config::Guard>) -> config::Service {
        let text = "[[route]]\nservice = \"cart\"\n";
        let config = config::Config::parse(text, std::path::Path::new(".")).unwrap();
        config::Service {
            guard,
            ..config.defaults
        }
    }

    fn guard() -> Option<config::Guard> {
        Some(config::Guard {
            share: 0.5,
            hold: Duration::from_secs(60),
            settle: Duration::from_secs(5),
        })
    }

    fn empty(guard: Option<config::Guard>) -> EndpointSet {
        let tls = Tls::open(&config::EndpointTls::default()).unwrap();
        let common = Common::new(Arc::new(policy(guard)), Arc::new(tls), 1);
        EndpointSet::new(Arc::new(common), Loads::default())
    }

    /// A set that may be doubted, without evidence of anything; or one of our own choice.
    fn take(members: &mut EndpointSet, set: &[Instance], doubtable: bool) -> bool {
        let ours = Update::ours(set.iter().cloned().map(Arc::new).collect());
        let update = match doubtable {
            true => Update {
                order: Order::Unknown,
                ..ours
            },
            false => ours,
        };
        members.take_over(&update, false)
    }

    /// Healthy ones that the guard holds where many of them are lost.
    fn guarded(numbers: std::ops::Range<u16>) -> EndpointSet {
        let mut members = empty(guard());
        take(&mut members, &healthy(numbers), true);
        members
    }

    /// As after a publication.
    fn retire(members: &mut EndpointSet) {
        for (endpoint, cut_at) in members.take_leaving() {
            endpoint.retire(cut_at);
        }
    }

    fn snapshot(members: &EndpointSet) -> Snapshot {
        members.snapshot(&Balance::RoundRobin, members.picking(|_| true), |_| true)
    }

    fn healthy(numbers: std::ops::Range<u16>) -> Vec<Instance> {
        numbers.map(|number| instance(number, true)).collect()
    }

    fn states(members: &mut EndpointSet) -> Vec<EndpointState> {
        members.forget_the_gone();
        members.states(&[]).map(|(_, state)| state).collect()
    }

    #[tokio::test]
    async fn an_endpoint_that_stays_is_the_same_one_whatever_else_changes() {
        let mut members = guarded(1..4);
        let before = snapshot(&members);
        let mut heavier = healthy(1..5);
        heavier[0].weight = 7;
        take(&mut members, &heavier, true);
        let after = snapshot(&members);
        assert_eq!((before.endpoints.len(), after.endpoints.len()), (3, 4));
        assert!(
            std::iter::zip(&*before.endpoints, &*after.endpoints).all(|(a, b)| Arc::ptr_eq(a, b))
        );
    }

    #[tokio::test]
    async fn few_that_leave_are_removed_at_once() {
        let mut members = guarded(1..5);
        let leaves = Arc::clone(&snapshot(&members).endpoints[0]);
        assert!(!take(&mut members, &healthy(2..5), true));
        assert_eq!(snapshot(&members).endpoints.len(), 3);
        assert!(!leaves.pool(0).is_retired(), "it may still be picked");
        retire(&mut members);
        assert!(leaves.pool(0).is_retired());
    }

    #[tokio::test]
    async fn many_that_leave_at_once_are_held() {
        for left in [Vec::new(), healthy(4..5), healthy(11..15)] {
            let mut members = guarded(1..5);
            assert!(take(&mut members, &left, true), "{} left", left.len());
            let pickable = snapshot(&members).endpoints;
            assert!(pickable.len() >= 4);
            assert!(pickable.iter().all(|held| !held.pool(0).is_retired()));
        }
    }

    #[tokio::test]
    async fn without_the_guard_all_that_leave_are_removed() {
        let mut members = empty(None);
        take(&mut members, &healthy(1..5), true);
        assert!(!take(&mut members, &[], true));
        assert!(snapshot(&members).endpoints.is_empty());
    }

    #[tokio::test]
    async fn what_is_given_up_is_not_held() {
        let mut members = guarded(1..5);
        take(&mut members, &healthy(4..5), true);
        assert_eq!(members.held().len(), 3);
        take(&mut members, &[], false);
        assert!(snapshot(&members).endpoints.is_empty() && members.held().is_empty());
        take(&mut members, &healthy(1..5), true);
        assert_eq!(snapshot(&members).endpoints.len(), 4);
    }

    #[tokio::test]
    async fn who_is_listed_again_serves_again_as_the_same_one() {
        let mut members = guarded(1..4);
        let before = snapshot(&members);
        take(&mut members, &[], true);
        assert_eq!(states(&mut members), [EndpointState::Held; 3]);
        take(&mut members, &healthy(1..4), true);
        assert_eq!(states(&mut members), [EndpointState::Serving; 3]);
        assert!(Arc::ptr_eq(
            &before.endpoints[0],
            &snapshot(&members).endpoints[0]
        ));
    }

    fn unhealthy(numbers: std::ops::Range<u16>) -> Vec<Instance> {
        numbers.map(|number| instance(number, false)).collect()
    }

    #[tokio::test]
    async fn who_signs_in_again_stays_held_until_its_check_has_passed() {
        let mut members = guarded(1..4);
        let before = snapshot(&members);
        take(&mut members, &[], true);
        let until = |members: &EndpointSet| -> Vec<_> {
            let held = members.held().into_iter();
            held.map(|(id, held)| (id, held.until)).collect()
        };
        let held = until(&members);
        for signed_in in 2..5 {
            take(&mut members, &unhealthy(1..signed_in), true);
            assert_eq!(states(&mut members), [EndpointState::Held; 3]);
            assert_eq!(until(&members), held, "for no longer than before");
        }
        let mut set = unhealthy(1..4);
        set[1].healthy = true;
        take(&mut members, &set, true);
        let (held, serving) = (EndpointState::Held, EndpointState::Serving);
        assert_eq!(states(&mut members), [held, serving, held]);
        assert!(Arc::ptr_eq(
            &before.endpoints[1],
            &snapshot(&members).endpoints[1]
        ));
        // Its check has passed, and is believed from then on.
        take(&mut members, &unhealthy(1..4), true);
        assert_eq!(states(&mut members), [held, EndpointState::Unhealthy, held]);
    }

    #[tokio::test]
    async fn who_is_let_go_rests_if_it_has_signed_in_again_and_is_removed_if_not() {
        for doubtable in [true, false] {
            let mut members = guarded(1..4);
            take(&mut members, &[], true);
            take(&mut members, &unhealthy(1..4), true);
            // One that has signed out again is not listed any more.
            take(&mut members, &unhealthy(1..3), doubtable);
            for (id, held) in members.held() {
                assert!(doubtable, "not held any more");
                members.settle(&id, held, None);
            }
            let snapshot = snapshot(&members);
            assert_eq!((snapshot.endpoints.len(), snapshot.resting.len()), (0, 2));
            assert_eq!(states(&mut members), [EndpointState::Unhealthy; 2]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_endpoint_is_shown_for_as_long_as_it_works_on_something() {
        let mut members = empty(None);
        take(&mut members, &healthy(1..3), true);
        let works = snapshot(&members).endpoints[0].pool(0).enter();
        take(&mut members, &[], true);
        assert_eq!(states(&mut members), [EndpointState::Draining]);
        tokio::time::advance(policy(None).drain * 2).await;
        assert_eq!(states(&mut members), [EndpointState::Draining]);
        drop(works);
        assert_eq!(states(&mut members), []);
    }

    #[tokio::test]
    async fn whose_checks_fail_is_neither_picked_nor_held() {
        let mut members = guarded(1..3);
        let failing = [instance(1, false), instance(2, false)];
        assert!(!take(&mut members, &failing, true));
        let snapshot = snapshot(&members);
        assert_eq!((snapshot.endpoints.len(), snapshot.resting.len()), (0, 2));
        assert_eq!(states(&mut members), [EndpointState::Unhealthy; 2]);
    }

    #[tokio::test]
    async fn who_was_removed_and_comes_back_is_the_same_while_it_works_on_something() {
        let mut members = guarded(1..5);
        let first = |members: &EndpointSet| Arc::clone(&snapshot(members).endpoints[0]);
        for works in [true, false] {
            let before = first(&members);
            let work = works.then(|| before.pool(0).enter());
            take(&mut members, &healthy(2..5), true);
            retire(&mut members);
            assert!(before.pool(0).is_retired());
            take(&mut members, &healthy(1..5), true);
            retire(&mut members);
            let again = first(&members);
            assert_eq!(Arc::ptr_eq(&before, &again), works);
            assert!(before.id() == again.id() && !again.pool(0).is_retired());
            drop(work);
        }
    }

    #[tokio::test]
    async fn who_has_another_id_at_its_address_is_neither_held_nor_lost() {
        let mut members = guarded(1..5);
        let mut renamed = healthy(1..5);
        for instance in &mut renamed {
            instance.id = format!("new {}", instance.id).into();
        }
        assert!(!take(&mut members, &renamed, true));
        let all = snapshot(&members).endpoints;
        assert!(all.iter().all(|one| one.id().instance.starts_with("new")));
        assert_eq!(all.len(), 4);
        // The endpoints that are held until then are let go.
        assert!(take(&mut members, &healthy(5..6), true));
        assert_eq!(members.held().len(), 4);
        take(&mut members, &healthy(1..6), true);
        assert_eq!(members.held().len(), 0);
    }

    #[tokio::test]
    async fn who_has_another_id_at_its_address_is_held_until_the_check_of_that_one_has_passed() {
        let mut members = guarded(1..5);
        let mut renamed = unhealthy(1..5);
        for instance in &mut renamed {
            instance.id = format!("new {}", instance.id).into();
        }
        assert!(take(&mut members, &renamed, true));
        assert_eq!(snapshot(&members).endpoints.len(), 4);
        for passed in 0..4 {
            renamed[passed].healthy = true;
            take(&mut members, &renamed, true);
            assert_eq!(members.held().len(), 3 - passed);
            let addresses = snapshot(&members).endpoints;
            let addresses = addresses.iter().map(|one| one.id().address.clone());
            assert_eq!(addresses.collect::<HashSet<_>>().len(), 4, "each is called");
            assert_eq!(snapshot(&members).endpoints.len(), 4, "once");
        }
    }

    #[tokio::test]
    async fn who_has_moved_to_another_address_is_not_lost_once_it_serves_there() {
        let moved = |set: Vec<Instance>| -> Vec<_> {
            let moved = set.into_iter().map(|instance| Instance {
                address: Address::new("10.0.0.2", instance.address.port().into()).unwrap(),
                ..instance
            });
            moved.collect()
        };
        let after = |before: &[Instance], set: &[Instance]| {
            let mut members = empty(guard());
            take(&mut members, before, true);
            let doubted = take(&mut members, set, true);
            (
                doubted,
                members.held().len(),
                snapshot(&members).endpoints.len(),
            )
        };
        let before = healthy(1..5);
        assert_eq!(after(&before, &moved(healthy(1..5))), (false, 0, 4));
        // A new check fails until it has run.
        assert_eq!(after(&before, &moved(unhealthy(1..5))), (true, 4, 4));
        // Of several that have an id one has moved at the most, and where is not said.
        let named = |set: Vec<Instance>| -> Vec<_> {
            let named = set.into_iter().map(|instance| Instance {
                id: "web".into(),
                ..instance
            });
            named.collect()
        };
        let one = moved(healthy(1..2));
        assert!(after(&named(healthy(1..5)), &named(one)).0);
        // Several that come at one address are no evidence of a way there.
        let together = |set: Vec<Instance>| -> Vec<_> {
            let together = set.into_iter().map(|instance| Instance {
                address: Address::new("10.0.0.2", 8080).unwrap(),
                ..instance
            });
            together.collect()
        };
        assert!(after(&before, &together(healthy(1..5))).0);
        // What has been at the other address for long has not moved there.
        let both = [before, moved(healthy(1..5))].concat();
        assert_eq!(after(&both, &moved(healthy(1..3))), (true, 6, 8));
    }

    #[tokio::test]
    async fn who_changes_to_tls_or_back_is_a_new_one_and_the_guard_holds_nobody() {
        let mut members = empty(guard());
        let mut set = healthy(1..5);
        for tls in [false, true, false] {
            let before = snapshot(&members).endpoints;
            for instance in &mut set {
                instance.tls = tls;
            }
            assert!(!take(&mut members, &set, true));
            retire(&mut members);
            let after = snapshot(&members).endpoints;
            assert_eq!(states(&mut members), [EndpointState::Serving; 4]);
            assert!(std::iter::zip(&*before, &*after).all(|(a, b)| !Arc::ptr_eq(a, b)));
            assert!(before.iter().all(|gone| gone.pool(0).is_retired()));
            assert!(after.iter().all(|there| !there.pool(0).is_retired()));
        }
    }

    #[tokio::test]
    async fn one_that_is_drained_is_picked_only_where_no_other_can_be_and_it_is_not_forced() {
        let ports = |members: &EndpointSet| -> Vec<_> {
            let endpoints = snapshot(members).endpoints;
            endpoints
                .iter()
                .map(|one| one.id().address.port())
                .collect()
        };
        let drain = |members: &mut EndpointSet, forced| {
            let address = instance(1, true).address;
            members.drain(address, maintenance(forced));
        };
        let mut members = empty(None);
        take(&mut members, &healthy(1..4), true);
        drain(&mut members, false);
        assert_eq!(ports(&members), [2, 3]);
        assert_eq!(snapshot(&members).resting.len(), 1);
        let (serving, maintained) = (EndpointState::Serving, EndpointState::Maintenance);
        let ill = EndpointState::Unhealthy;
        assert_eq!(states(&mut members), [maintained, serving, serving]);
        // Gone, and back; others are ill, and gone.
        take(&mut members, &healthy(2..4), true);
        take(&mut members, &healthy(1..4), true);
        assert_eq!(ports(&members), [2, 3]);
        take(
            &mut members,
            &[healthy(1..2), unhealthy(2..4)].concat(),
            true,
        );
        assert_eq!(ports(&members), [1], "there is no other");
        assert!(!members.drain_statuses(&[])[0].holds);
        assert_eq!(states(&mut members), [serving, ill, ill], "and is shown so");
        drain(&mut members, true);
        assert!(ports(&members).is_empty());
        assert!(members.drain_statuses(&[])[0].holds);
        take(&mut members, &healthy(1..3), true);
        assert_eq!(ports(&members), [2]);
        assert!(members.undrain(&instance(1, true).address));
        assert!(!members.undrain(&instance(1, true).address));
        assert_eq!(ports(&members), [1, 2]);
    }

    #[tokio::test]
    async fn a_panic_neither_counts_nor_calls_one_that_is_drained() {
        let mut members = empty(None);
        take(&mut members, &healthy(1..4), true);
        let check = |members: &mut EndpointSet, of: std::ops::Range<usize>| {
            let all: Vec<_> = members.members.iter().collect();
            let all: Vec<_> = all[of]
                .iter()
                .map(|one| Arc::clone(&one.endpoint))
                .collect();
            for endpoint in all {
                let (passing, error) = (false, None);
                members.check(&endpoint, Checkup { passing, error });
            }
        };
        // Two of three fail, and are fewer than half without the one that is drained.
        check(&mut members, 0..2);
        assert!(members.panics());
        members.drain(instance(1, true).address, maintenance(false));
        assert!(!members.panics());
        check(&mut members, 2..3);
        assert!(members.panics());
        assert_eq!(snapshot(&members).endpoints.len(), 2);
    }

    #[tokio::test]
    async fn the_last_that_passes_its_checks_is_not_drained_for_those_that_fail_them() {
        let ports = |members: &EndpointSet| -> Vec<_> {
            let endpoints = snapshot(members).endpoints;
            let endpoints = endpoints.iter();
            endpoints.map(|one| one.id().address.port()).collect()
        };
        let at = |port| instance(port, true).address;
        let mut members = empty(None);
        take(&mut members, &healthy(1..3), true);
        members.drain(at(1), maintenance(false));
        assert_eq!(ports(&members), [2]);
        check_one(&mut members, 1, false);
        assert!(!members.panics(), "half of those that are called pass");
        assert_eq!(ports(&members), [1]);
        assert!(!members.drain_statuses(&[])[0].holds);
        let (serving, failing) = (EndpointState::Serving, EndpointState::Failing);
        assert_eq!(states(&mut members), [serving, failing]);
        // One that fails as the others do can be done without.
        check_one(&mut members, 0, false);
        assert!(members.panics());
        assert_eq!(ports(&members), [2]);
        assert!(members.drain_statuses(&[])[0].holds);
        check_one(&mut members, 0, true);
        members.drain(at(1), maintenance(true));
        assert_eq!(ports(&members), [2], "a panic calls what is left");
        // Of three in a panic the only one that passes is not taken.
        assert!(members.undrain(&at(1)));
        take(&mut members, &healthy(1..4), true);
        check_one(&mut members, 2, false);
        assert!(members.panics());
        assert!(members.is_last(&at(1), |_| true));
        assert!(!members.is_last(&at(2), |_| true));
    }

    fn check_one(members: &mut EndpointSet, place: usize, passing: bool) {
        let endpoint = members.members.iter().nth(place);
        let endpoint = Arc::clone(&endpoint.unwrap().endpoint);
        let error = None;
        members.check(&endpoint, Checkup { passing, error });
    }

    #[tokio::test]
    async fn the_last_that_can_be_picked_is_known() {
        let mut members = empty(None);
        take(
            &mut members,
            &[healthy(1..3), unhealthy(3..4)].concat(),
            true,
        );
        let at = |port| instance(port, true).address;
        assert!(!members.is_last(&at(1), |_| true));
        assert!(members.is_last(&at(1), |one| one.address.port() != 2));
        assert!(!members.is_last(&at(3), |_| true), "it is not picked");
        // One that takes no connection now could not stand in.
        let second = members.members.iter().nth(1).unwrap();
        let second = Arc::clone(&second.endpoint);
        let now = Instant::now();
        assert!(second.health().connect_failed(now, now));
        assert!(members.is_last(&at(1), |_| true));
        assert!(!members.is_last(&at(2), |_| true), "the other one can");
        second.health().recovered();
        assert!(!members.is_last(&at(1), |_| true));
        members.drain(at(2), maintenance(true));
        assert!(members.is_last(&at(1), |_| true));
        assert!(!members.is_last(&at(2), |_| true), "it is not picked");
        assert_eq!(members.address_of("10.0.0.1:1"), Some(at(1)));
        assert_eq!(members.address_of("none"), None);
    }

    fn checked(members: &mut EndpointSet, passing: bool) {
        let all: Vec<_> = members.members.iter().collect();
        let endpoints: Vec<_> = all.iter().map(|one| Arc::clone(&one.endpoint)).collect();
        for endpoint in endpoints {
            let error = None;
            members.check(&endpoint, Checkup { passing, error });
        }
    }

    #[tokio::test]
    async fn in_a_panic_all_are_picked_but_those_that_are_ill_or_gone() {
        let ports = |members: &EndpointSet| -> Vec<_> {
            let endpoints = snapshot(members);
            let endpoints = endpoints.endpoints.iter();
            endpoints.map(|one| one.id().address.port()).collect()
        };
        let mut members = guarded(1..8);
        let leaves = Arc::clone(&members.members.iter().next().unwrap().endpoint);
        let _works = leaves.pool(0).enter();
        // The first has left, and works on something; the second is ill; five are lost, and held.
        take(&mut members, &healthy(2..8), true);
        take(&mut members, &unhealthy(2..3), true);
        checked(&mut members, true);
        assert!(!members.panics());
        assert_eq!(ports(&members), [3, 4, 5, 6, 7], "held, and no others");
        checked(&mut members, false);
        assert!(members.panics());
        assert_eq!(ports(&members), [3, 4, 5, 6, 7], "be they held");
        // A pin's set is what it was, with whom our own checks find fault.
        take(&mut members, &healthy(3..5), false);
        assert_eq!(ports(&members), [3, 4]);
        checked(&mut members, true);
        assert_eq!(ports(&members), [3, 4]);
    }
}
