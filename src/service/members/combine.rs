//! What a service's registries say of it, made into the one set that it has: selected by tags and
//! metadata and, where there are several registries, combined. Knows nothing of endpoints.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    config::{self, Combine, Origin},
    evidence::{Evidence, Loss, Order},
    instance::{Address, Identity, Instance, InstanceSet},
    registry::watch::Event,
};

/// What each registry said last.
#[derive(Debug)]
pub(crate) struct Combiner {
    registries: Box<[RegistryState]>,
    combine: Combine,
    /// Whose set a failover has chosen.
    chosen: Option<usize>,
}

/// What is known of one registry.
#[derive(Debug)]
struct RegistryState {
    name: Arc<str>,
    /// What it said last.
    heard: Answer,
    /// Where its set is one that was remembered from before the start: when it said that.
    remembered: Option<SystemTime>,
    /// Its latest loss of data.
    lost: Option<Box<Lost>>,
    /// What it says first takes the place of the set before, whatever that was: it is asked for other
    /// instances.
    afresh: bool,
}

/// A registry's loss of data.
#[derive(Clone, Debug)]
struct Lost {
    loss: Loss,
    /// When it showed.
    at: Instant,
    /// Of the last answer before it.
    before: Evidence,
}

#[derive(Debug)]
enum Answer {
    Nothing,
    /// It cannot be read, and never said anything.
    Failed,
    /// What it said is too old to count.
    GivenUp,
    /// What its watcher keeps as well, where all of it is wanted.
    Set(Arc<InstanceSet>),
}

/// What the service's set is now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) instances: Vec<Arc<Instance>>,
    /// How it follows the set before: as one registry's word for a change, which may be its
    /// mistake; or as another set in its place, which is our own decision.
    pub(crate) order: Order,
    /// Whose word it is, by the registry's place in the list.
    pub(crate) by: usize,
    /// The instances that no registry dropped, although they are not in the set: they have not what
    /// is wanted, or are of a datacenter, a zone or a registry that does not serve.
    pub(crate) elsewhere: HashSet<Identity>,
}

impl Update {
    /// A set of our own choice, in the place of whatever was there.
    pub(crate) fn ours(instances: Vec<Arc<Instance>>) -> Self {
        Self {
            instances,
            order: Order::Replaced,
            by: 0,
            elsewhere: HashSet::new(),
        }
    }
}

/// How another registry's set differs from the one that serves, by address.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The other registry.
    pub registry: Arc<str>,
    /// What it lacks.
    pub missing: Vec<String>,
    /// What it has and the serving one has not.
    pub extra: Vec<String>,
    /// What both have, one of them healthy and the other not.
    pub unlike: Vec<String>,
}

impl Combiner {
    pub(crate) fn new(origin: &Origin) -> Self {
        let (names, combine) = match origin {
            Origin::Registries { names, combine } => (&**names, *combine),
            Origin::Inline(_) => (&[][..], Combine::Union),
        };
        let of_none = |name: &Arc<str>| RegistryState {
            name: Arc::clone(name),
            heard: Answer::Nothing,
            remembered: None,
            lost: None,
            afresh: false,
        };
        Self {
            registries: names.iter().map(of_none).collect(),
            combine,
            chosen: None,
        }
    }

    /// That of a service whose instances are asked for in another way. What a registry has said that
    /// it had before counts among others until it says something else.
    pub(crate) fn after_a_change(&mut self, origin: &Origin) -> Self {
        let mut before = std::mem::take(&mut self.registries).into_vec();
        let mut after = Self::new(origin);
        for registry in &mut after.registries {
            let same = before.iter().position(|one| one.name == registry.name);
            if let Some(same) = same {
                *registry = before.swap_remove(same);
            }
            registry.afresh = true;
        }
        after
    }

    /// How many registries there are.
    pub(crate) fn registries(&self) -> usize {
        self.registries.len()
    }

    /// Takes over what a registry, by its place in the list, has to say. Returns the service's
    /// set, if that may have changed it.
    pub(crate) fn hear(
        &mut self,
        from: usize,
        event: Event<InstanceSet>,
        policy: &config::Service,
    ) -> Option<Update> {
        if !matches!(event, Event::Failed) {
            self.registries[from].remembered = None;
        }
        let order = match event {
            Event::State(set) => {
                let order = self.order(from, &set);
                self.registries[from].heard = Answer::Set(selected(set, policy));
                order
            }
            Event::Failed if !matches!(self.registries[from].heard, Answer::Nothing) => {
                return None;
            }
            Event::Failed => {
                self.registries[from].heard = Answer::Failed;
                Order::Unknown
            }
            Event::Stale => {
                self.registries[from].heard = Answer::GivenUp;
                Order::Replaced
            }
        };
        let order = match self.combine {
            Combine::Failover if self.several() => self.fail_over(from, order)?,
            Combine::Union if self.several() => order,
            Combine::Failover | Combine::Union | Combine::Shadow if from == 0 => order,
            Combine::Failover | Combine::Union | Combine::Shadow => return None,
        };
        self.set_now(order).map(|update| Update {
            by: from,
            elsewhere: self.elsewhere(),
            ..update
        })
    }

    /// How a registry's answer follows the one before. The set of another datacenter or zone takes
    /// the place of the one before only if it has a healthy instance.
    fn order(&mut self, from: usize, set: &InstanceSet) -> Order {
        if std::mem::take(&mut self.registries[from].afresh) {
            return match has_healthy(set) {
                true => Order::Replaced,
                false => Order::Unknown,
            };
        }
        let order = set.evidence.order().unwrap_or_else(|| {
            let before = self.set(from).map(|before| &before.evidence);
            before.map_or(Order::Unknown, |before| set.evidence.after(before))
        });
        if let Order::Lost(loss) = order {
            let before = self.set(from).map(|set| set.evidence.clone());
            self.registries[from].lost = Some(Box::new(Lost {
                loss,
                at: Instant::now(),
                before: before.unwrap_or_default(),
            }));
        }
        match order {
            Order::Replaced if !has_healthy(set) => Order::Unknown,
            order => order,
        }
    }

    /// Those that some registry lists, be they in the service's set or not.
    fn elsewhere(&self) -> HashSet<Identity> {
        let sets = (0..self.registries.len()).filter_map(|of| self.set(of));
        let all = sets.flat_map(|set| {
            let others = set.elsewhere.iter().cloned();
            let unchosen = set.instances.iter().filter(|_| self.several());
            others.chain(unchosen.map(|one| one.identity()))
        });
        all.map(|one| self.known_as(one)).collect()
    }

    /// What an endpoint is known as that is this instance.
    pub(crate) fn known_as(&self, (id, address): Identity) -> Identity {
        match self.several() {
            true => (address.to_string().into(), address),
            false => (id, address),
        }
    }

    /// Whether several registries make the set, so that an instance is known by its address.
    fn several(&self) -> bool {
        self.registries.len() > 1 && self.combine != Combine::Shadow
    }

    /// Takes over what a registry said before the start, until it says something itself.
    pub(crate) fn remember(
        &mut self,
        from: usize,
        set: InstanceSet,
        confirmed: SystemTime,
        policy: &config::Service,
    ) -> Option<Update> {
        let update = self.hear(from, Event::State(set.into()), policy);
        self.registries[from].remembered = Some(confirmed);
        update
    }

    /// What a registry showed of its history before its latest loss of data.
    pub(crate) fn before_loss(&self, of: usize) -> Option<&Evidence> {
        Some(&self.registries.get(of)?.lost.as_ref()?.before)
    }

    /// What the set is, whatever was said last; `None` where nothing was ever said that counts.
    /// Whom it lacks was dropped some time in the last `span`.
    pub(crate) fn now(&self, span: Duration) -> Option<Update> {
        let mut losses = self.registries.iter().filter_map(|one| one.lost.as_ref());
        let lost = losses.find(|lost| lost.at.elapsed() < span);
        let order = lost.map_or(Order::Forward, |lost| Order::Lost(lost.loss));
        let update = self.set_now(order)?;
        Some(Update {
            by: self.serving(),
            ..update
        })
    }

    /// The set that they make together; `None` where nothing was ever said that counts.
    fn set_now(&self, order: Order) -> Option<Update> {
        let all = 0..self.registries.len();
        let which = match self.combine {
            Combine::Failover if self.several() => self.chosen.map_or(0..0, |one| one..one + 1),
            Combine::Union if self.several() => all,
            Combine::Failover | Combine::Union | Combine::Shadow => 0..1,
        };
        let mut sets = which.filter_map(|of| self.set(of)).peekable();
        if sets.peek().is_none() {
            let mut registries = self.registries.iter();
            let was_given_up = registries.any(|one| matches!(one.heard, Answer::GivenUp));
            return was_given_up.then(|| Update::ours(Vec::new()));
        }
        let instances = sets.flat_map(|set| &set.instances);
        let instances = match self.several() {
            true => by_address(instances),
            false => instances.cloned().collect(),
        };
        Some(Update {
            order,
            ..Update::ours(instances)
        })
    }

    /// Whether a registry has said who is there, and not before the start: whom it adds to that is
    /// new.
    pub(crate) fn has_answered(&self, of: usize) -> bool {
        self.set(of).is_some() && self.registries[of].remembered.is_none()
    }

    /// The same of all that count.
    pub(crate) fn is_settled(&self) -> bool {
        !self.is_awaited() && self.registries.iter().all(|one| one.remembered.is_none())
    }

    /// When a registry said what is remembered of it; `None` where it has said something since.
    pub(crate) fn remembered(&self, of: usize) -> Option<SystemTime> {
        self.registries.get(of)?.remembered
    }

    /// Whether a registry has neither answered nor failed yet.
    pub(crate) fn is_awaited(&self) -> bool {
        self.registries
            .iter()
            .any(|one| matches!(one.heard, Answer::Nothing))
    }

    /// Serves from the first registry that has a healthy instance; where none has, from the first
    /// that has any instance, else from the first that says something. Returns how the set follows the
    /// one before, if it may have changed.
    fn fail_over(&mut self, from: usize, order: Order) -> Option<Order> {
        let first = |wanted: fn(&InstanceSet) -> bool| {
            (0..self.registries.len()).find(|of| self.set(*of).is_some_and(wanted))
        };
        let chosen = first(has_healthy)
            .or_else(|| first(|set| !set.instances.is_empty()))
            .or_else(|| first(|_| true));
        let before = std::mem::replace(&mut self.chosen, chosen);
        if before == chosen && chosen != Some(from) {
            return None;
        }
        let set = chosen.and_then(|chosen| self.set(chosen));
        Some(match before == chosen || !set.is_some_and(has_healthy) {
            // No set took another's place: it is that registry's word.
            true => order,
            false => Order::Replaced,
        })
    }

    /// Whose instances they are that serve, as far as it is one registry.
    pub(crate) fn serving(&self) -> usize {
        self.chosen.unwrap_or_default()
    }

    /// What a registry said last that still counts.
    pub(crate) fn set(&self, of: usize) -> Option<&InstanceSet> {
        match &self.registries.get(of)?.heard {
            Answer::Set(set) => Some(set),
            Answer::Nothing | Answer::Failed | Answer::GivenUp => None,
        }
    }

    /// Which registries list each address.
    pub(crate) fn listed_by(&self) -> HashMap<&Address, Vec<Arc<str>>> {
        let mut listed = HashMap::<_, Vec<_>>::new();
        for (of, RegistryState { name, .. }) in self.registries.iter().enumerate() {
            for instance in self.set(of).iter().flat_map(|set| &set.instances) {
                let names = listed.entry(&instance.address).or_default();
                if !names.contains(name) {
                    names.push(Arc::clone(name));
                }
            }
        }
        listed
    }

    /// The registry that a failover has chosen.
    pub(crate) fn chosen(&self) -> Option<&Arc<str>> {
        self.chosen.map(|chosen| &self.registries[chosen].name)
    }

    /// How each shadow differs from the set that serves; nothing of one that was not read.
    pub(crate) fn differences(&self) -> Vec<Difference> {
        if self.combine != Combine::Shadow {
            return Vec::new();
        }
        let Some(serving) = self.registries.first().and_then(|_| self.set(0)) else {
            return Vec::new();
        };
        let serving = healths(serving);
        (1..self.registries.len())
            .filter_map(|of| Some((of, healths(self.set(of)?))))
            .map(|(of, other)| {
                let lacking = |one: &BTreeMap<_, _>, other: &BTreeMap<_, _>| {
                    let lacking = one.keys().filter(|address| !other.contains_key(*address));
                    lacking.map(ToString::to_string).collect()
                };
                Difference {
                    registry: Arc::clone(&self.registries[of].name),
                    missing: lacking(&serving, &other),
                    extra: lacking(&other, &serving),
                    unlike: serving
                        .iter()
                        .filter(|(address, healthy)| {
                            other.get(*address).is_some_and(|other| other != *healthy)
                        })
                        .map(|(address, _)| address.to_string())
                        .collect(),
                }
            })
            .collect()
    }
}

/// The instances of several registries as one set. Instances at one address are one, whatever id each
/// registry gives it, so that a move from one registry to another keeps the connections. It is as
/// the first registry describes it, except that it is ill where any registry says so.
fn by_address<'i>(instances: impl Iterator<Item = &'i Arc<Instance>>) -> Vec<Arc<Instance>> {
    let named = instances.map(|instance| {
        Ok(Instance {
            id: instance.address.to_string().into(),
            ..Instance::clone(instance)
        })
    });
    InstanceSet::of(named).instances
}

/// Of a set, what the policy wants; the others are elsewhere.
fn selected(mut set: Arc<InstanceSet>, policy: &config::Service) -> Arc<InstanceSet> {
    let is_unwanted = |one: &Arc<Instance>| !one.has(&policy.tags, &policy.meta);
    if set.instances.iter().any(is_unwanted) {
        let set = Arc::make_mut(&mut set);
        let others = set.instances.extract_if(.., |one| is_unwanted(one));
        set.elsewhere.extend(others.map(|one| one.identity()));
    }
    set
}

fn has_healthy(set: &InstanceSet) -> bool {
    set.instances.iter().any(|instance| instance.healthy)
}

fn healths(set: &InstanceSet) -> BTreeMap<&Address, bool> {
    let instances = set.instances.iter();
    instances.map(|one| (&one.address, one.healthy)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Mark;

    fn policy(text: &str) -> config::Service {
        let text = format!(
            "[registry.a]\nkind = \"consul\"\n[registry.b]\nkind = \"consul\"\n\
             [service.cart]\n{text}\n[[route]]\nservice = \"cart\"\n"
        );
        let config = config::Config::parse(&text, std::path::Path::new(".")).unwrap();
        config::Service::clone(&config.services["cart"])
    }

    fn two(combine: &str) -> (config::Service, Combiner) {
        let policy = policy(&format!(
            "registry = [\"a\", \"b\"]\ncombine = \"{combine}\""
        ));
        let combiner = Combiner::new(&policy.origin);
        (policy, combiner)
    }

    fn instance(id: &str, port: i64, healthy: bool) -> Instance {
        Instance {
            healthy,
            ..Instance::new(id, Address::new("10.0.0.1", port).unwrap())
        }
    }

    fn state(instances: &[(&str, i64, bool)]) -> Event<InstanceSet> {
        let instances = instances.iter();
        let instances = instances.map(|(id, port, healthy)| Ok(instance(id, *port, *healthy)));
        Event::State(InstanceSet::of(instances).into())
    }

    /// Ports, and whether each is healthy; and whether the update can be doubted.
    fn shown(update: Option<Update>) -> Option<(Vec<(u16, bool)>, bool)> {
        update.map(|update| {
            let instances = update.instances.iter();
            let shown = instances.map(|one| (one.address.port(), one.healthy));
            (shown.collect(), update.order != Order::Replaced)
        })
    }

    #[test]
    fn a_union_merges_by_address_and_hears_whoever_finds_fault() {
        let (policy, mut combiner) = two("union");
        let heard = combiner.hear(1, state(&[("x", 1, true), ("y", 2, true)]), &policy);
        assert_eq!(shown(heard), Some((vec![(1, true), (2, true)], true)));
        assert!(combiner.is_awaited());
        let heard = combiner.hear(0, state(&[("n/1", 2, false), ("n/2", 3, true)]), &policy);
        let update = heard.unwrap();
        let ids: Vec<_> = update.instances.iter().map(|one| &*one.id).collect();
        assert_eq!(ids, ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"]);
        let expected = vec![(1, true), (2, false), (3, true)];
        assert_eq!(shown(Some(update)), Some((expected, true)));
        assert!(!combiner.is_awaited());
        let address = Address::new("10.0.0.1", 2).unwrap();
        assert_eq!(combiner.listed_by()[&address], ["a".into(), "b".into()]);
    }

    #[test]
    fn a_registry_that_cannot_be_read_takes_nothing_from_a_union() {
        let (policy, mut combiner) = two("union");
        assert_eq!(combiner.hear(0, Event::Failed, &policy), None);
        let heard = combiner.hear(1, state(&[("x", 1, true)]), &policy);
        assert_eq!(shown(heard), Some((vec![(1, true)], true)));
        combiner.hear(0, state(&[("y", 2, true)]), &policy);
        assert_eq!(combiner.hear(0, Event::Failed, &policy), None);
        let heard = combiner.hear(0, Event::Stale, &policy);
        assert_eq!(shown(heard), Some((vec![(1, true)], false)));
    }

    #[test]
    fn a_failover_takes_the_first_with_somebody_healthy_and_goes_back() {
        let (policy, mut combiner) = two("failover");
        // The second is heard first, and serves until the first is.
        let heard = combiner.hear(1, state(&[("x", 9, true)]), &policy);
        assert_eq!(shown(heard), Some((vec![(9, true)], false)));
        let heard = combiner.hear(0, state(&[("y", 1, true), ("z", 2, true)]), &policy);
        assert_eq!(shown(heard), Some((vec![(1, true), (2, true)], false)));
        assert_eq!(combiner.hear(1, state(&[("x", 8, true)]), &policy), None);
        // A loss within the one that serves is that registry's word, and can be doubted.
        let heard = combiner.hear(0, state(&[("y", 1, true)]), &policy);
        assert_eq!(shown(heard), Some((vec![(1, true)], true)));
        let heard = combiner.hear(0, state(&[("y", 1, false)]), &policy);
        assert_eq!(shown(heard), Some((vec![(8, true)], false)));
        assert_eq!(combiner.chosen().map(|name| &**name), Some("b"));
        let heard = combiner.hear(0, state(&[("y", 1, true)]), &policy);
        assert_eq!(shown(heard), Some((vec![(1, true)], false)));
        // An error says nothing of the instances; what is too old does.
        assert_eq!(combiner.hear(0, Event::Failed, &policy), None);
        let heard = combiner.hear(0, Event::Stale, &policy);
        assert_eq!(shown(heard), Some((vec![(8, true)], false)));
    }

    /// A set with the index that a registry's part has for it.
    fn numbered(part: &str, revision: u64, instances: &[(&str, i64, bool)]) -> Event<InstanceSet> {
        let Event::State(set) = state(instances) else {
            unreachable!("it is one");
        };
        let mark = Mark {
            part: part.into(),
            revision: Some(revision),
            ..Mark::default()
        };
        Event::State(Arc::unwrap_or_clone(set).with(mark).into())
    }

    /// Each combination of several sets, against each way in which an instance may leave one of
    /// them: how the update follows the set before, and which address no registry dropped.
    #[test]
    fn whether_an_instance_was_dropped_follows_from_all_that_have_a_say() {
        use Order::{Forward, Replaced, Unknown};
        let back = Order::Lost(Loss::WentBack { from: 7, to: 2 });
        let (up, ill) = ([("x", 1, true)], [("x", 1, false)]);
        let other: [(&str, i64, bool); 1] = [("y", 2, true)];
        let alone = "registry = \"a\"";
        let failover = "registry = [\"a\", \"b\"]\ncombine = \"failover\"";
        let union = "registry = [\"a\", \"b\"]\ncombine = \"union\"";
        let shadow = "registry = [\"a\", \"b\"]\ncombine = \"shadow\"";
        let none: &[(&str, i64, bool)] = &[];
        let (one, well) = (Some(&other[..]), Some(&up[..]));
        let unwell: Option<&[_]> = Some(&[("y", 2, false)]);
        let at = |revision, set: &[_]| numbered("", revision, set);
        let far = |set: &[_]| numbered("far", 1, set);
        let (first, second) = (0, 1);
        for (what, origin, before, event, order, elsewhere) in [
            ("dropped", alone, None, at(8, none), Forward, None),
            ("lost", alone, None, at(2, none), back, None),
            ("ill", alone, None, at(8, &ill), Forward, None),
            ("given up", alone, None, Event::Stale, Replaced, None),
            ("moved", alone, None, far(&other), Replaced, None),
            ("not moved", alone, None, far(none), Unknown, None),
            ("lost", failover, Some(none), at(2, none), back, None),
            ("replaced", failover, one, at(2, none), Replaced, None),
            ("ill", failover, one, at(8, &ill), Replaced, Some(1)),
            ("all ill", failover, unwell, at(8, none), Forward, Some(2)),
            ("union", union, one, at(8, none), Forward, Some(2)),
            ("lost", union, one, at(2, none), back, Some(2)),
            ("in both", union, well, at(8, none), Forward, Some(1)),
            ("shadowed", shadow, well, at(8, none), Forward, None),
        ] {
            let policy = policy(origin);
            let mut combiner = Combiner::new(&policy.origin);
            if let Some(before) = before {
                combiner.hear(second, state(before), &policy);
            }
            combiner.hear(first, numbered("", 7, &up), &policy);
            let update = combiner.hear(first, event, &policy).expect(what);
            assert_eq!(update.order, order, "{what}, {origin}");
            let mut ports = update.elsewhere.iter().map(|(_, address)| address.port());
            let found = match elsewhere {
                Some(port) => ports.any(|one| one == port),
                None => ports.next().is_none() || combiner.several(),
            };
            assert!(found, "{what}, {origin}: {:?}", update.elsewhere);
        }
    }

    #[test]
    fn who_has_no_longer_what_is_wanted_was_dropped_by_nobody() {
        let policy = policy("registry = \"a\"\nmeta = { zone = \"a\" }");
        let mut combiner = Combiner::new(&policy.origin);
        let event = |zone: &str| {
            let mut one = instance("x", 1, true);
            one.meta = BTreeMap::from([("zone".into(), zone.into())]);
            Event::State(InstanceSet::of([Ok(one)]).into())
        };
        let update = combiner.hear(0, event("a"), &policy).unwrap();
        assert_eq!((update.instances.len(), update.elsewhere.len()), (1, 0));
        let update = combiner.hear(0, event("b"), &policy).unwrap();
        assert_eq!((update.instances.len(), update.elsewhere.len()), (0, 1));
    }

    #[test]
    fn where_nobody_is_healthy_a_failover_stays_with_the_first_that_has_anybody() {
        let (policy, mut combiner) = two("failover");
        combiner.hear(0, state(&[("y", 1, false)]), &policy);
        combiner.hear(1, state(&[("x", 9, false)]), &policy);
        assert_eq!(combiner.chosen().map(|name| &**name), Some("a"));
        combiner.hear(0, state(&[]), &policy);
        assert_eq!(combiner.chosen().map(|name| &**name), Some("b"));
        combiner.hear(1, state(&[]), &policy);
        assert_eq!(combiner.chosen().map(|name| &**name), Some("a"));
    }

    #[test]
    fn a_shadow_serves_nobody_and_is_compared() {
        let (policy, mut combiner) = two("shadow");
        assert_eq!(combiner.hear(1, state(&[("x", 9, true)]), &policy), None);
        assert_eq!(combiner.differences(), []);
        let first = state(&[("y", 1, true), ("z", 2, true)]);
        let heard = combiner.hear(0, first, &policy);
        assert_eq!(shown(heard), Some((vec![(1, true), (2, true)], true)));
        combiner.hear(1, state(&[("x", 9, true), ("q", 2, false)]), &policy);
        let expected = Difference {
            registry: "b".into(),
            missing: vec!["10.0.0.1:1".into()],
            extra: vec!["10.0.0.1:9".into()],
            unlike: vec!["10.0.0.1:2".into()],
        };
        assert_eq!(combiner.differences(), [expected]);
    }

    #[test]
    fn tags_and_metadata_select() {
        let policy = policy("registry = \"a\"\ntags = [\"V2\"]\nmeta = { zone = \"a\" }");
        let mut combiner = Combiner::new(&policy.origin);
        let mut instances: Vec<_> = (1..4).map(|port| instance("i", port, true)).collect();
        instances[1].tags = vec!["v2".into(), "x".into()];
        instances[2].tags = vec!["v2".into()];
        instances[2].meta = BTreeMap::from([("zone".into(), "a".into())]);
        let event = Event::State(InstanceSet::of(instances.into_iter().map(Ok)).into());
        let heard = combiner.hear(0, event, &policy);
        assert_eq!(shown(heard), Some((vec![(3, true)], true)));
    }

    #[test]
    fn one_registry_alone_is_taken_at_its_word() {
        let policy = policy("registry = \"a\"");
        let mut combiner = Combiner::new(&policy.origin);
        assert_eq!(combiner.hear(0, Event::Failed, &policy), None);
        let update = combiner.hear(0, state(&[("n/1", 1, true)]), &policy);
        assert_eq!(&*update.unwrap().instances[0].id, "n/1");
        let given_up = combiner.hear(0, Event::Stale, &policy);
        assert_eq!(shown(given_up), Some((vec![], false)));
    }
}
