//! Everything of a service that follows events, as one state: what its registries say, the endpoints
//! that this makes, whom the guard holds, the pin and the journal. An event is applied at once, and
//! gives back what else must follow from it. Knows nothing of locks, tasks and requests.

pub(crate) mod combine;
pub(crate) mod drain;
pub(crate) mod endpoint_set;
pub(crate) mod history;
pub(crate) mod inquiry;
pub(crate) mod maintenance;
pub(crate) mod member;
pub(crate) mod other_weight;
pub(crate) mod pin;
pub(crate) mod restore;
pub(crate) mod shrink_guard;
pub(super) mod standing;
#[cfg(test)]
pub(super) mod testing;
pub(crate) mod weight;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    config::{self, Origin},
    instance::{Address, Instance, InstanceSet},
    registry::watch::Event,
    service::{
        Endpoint, EndpointId, View, balance::Loads, endpoint::Common, health::prober::Findings,
        log_lines::Line,
    },
    upstream::Tls,
};
use combine::{Combiner, Update};
use endpoint_set::EndpointSet;
use history::{Journal, ListedInstance, Pin, Why};
use inquiry::SecondAnswer;
use maintenance::Maintenance;
use other_weight::OtherWeight;
use standing::Held;

/// What a service's events have made of it so far.
#[derive(Debug)]
pub(crate) struct Members {
    service: Arc<str>,
    policy: Arc<config::Service>,
    combiner: Combiner,
    endpoints: EndpointSet,
    journal: Journal,
    /// Whether a task of the guard watches over the endpoints that are held.
    is_guard_running: bool,
    /// How many of our own checks of endpoints passed, and how many did not.
    checks: (u64, u64),
    /// Who reads what they are: the views of each policy that requests still go by.
    views: Vec<Weak<View>>,
    watch_round: WatchRound,
    /// Whether it was said that `send_proxy` overrules an instance.
    said_overruled: bool,
}

/// How often a service's registries have begun to be watched: tells the watchers of now from those
/// before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WatchRound(u64);

/// What happens to a service's members.
#[derive(Debug)]
pub(crate) enum MemberEvent {
    /// They stand in proxy.toml.
    Fixed(Vec<Arc<Instance>>),
    /// A registry, by its place in the list, says what it knows, or that it knows nothing any more.
    Registry(usize, Event<InstanceSet>),
    /// A registry said so before the start, at that time.
    Remembered(usize, InstanceSet, SystemTime),
    /// Our own checks of an endpoint have found something.
    Checked(Arc<Endpoint>, Findings),
    /// Those that the guard holds were asked, and have answered or not; and some of their registries
    /// were asked again.
    Asked(Vec<(EndpointId, Held, bool)>, HashMap<usize, SecondAnswer>),
    /// A person pins them to this set, for so long.
    Pinned(Box<Pin>, Arc<[ListedInstance]>),
    /// A person takes the pin off, or its time is over.
    Unpinned(Why),
    /// A person drains the endpoint at this address, for so long.
    Drained(Address, Box<Maintenance>),
    /// A person ends that, or its time is over.
    Undrained(Address, Why),
    /// A person has the endpoint at this address be picked by another weight, for so long.
    Reweighed(Address, Box<OtherWeight>),
    /// A person ends that, or its time is over.
    Unweighed(Address, Why),
}

/// What follows from an event; [`Members::carry_out`] does it in this order.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Effects {
    /// The views publish what there is now.
    publish: bool,
    /// Then those are retired that are in no view any more.
    retire: Vec<(Arc<Endpoint>, Instant)>,
    /// Then the journal notes what the set is, and why.
    note: Option<Why>,
    /// Then the log says these lines.
    log: Vec<Line>,
    /// What is kept on disk has changed.
    pub(crate) save: bool,
    /// Endpoints are held that no task of the guard watches over yet.
    pub(crate) starts_guard: bool,
}

impl Members {
    pub(in crate::service) fn new(
        service: &Arc<str>,
        policy: &Arc<config::Service>,
        common: Common,
        loads: Loads,
        views: Vec<Weak<View>>,
    ) -> Self {
        Self {
            service: Arc::clone(service),
            policy: Arc::clone(policy),
            combiner: Combiner::new(&policy.origin),
            endpoints: EndpointSet::new(Arc::new(common), loads),
            journal: Journal::default(),
            is_guard_running: false,
            checks: (0, 0),
            views,
            watch_round: WatchRound::default(),
            said_overruled: false,
        }
    }

    /// Has the views publish what there is now.
    pub(in crate::service) fn publish(&self) {
        let views = self.views();
        views.for_each(|view| view.publish(&self.endpoints));
    }

    /// The views that are read still.
    pub(in crate::service) fn views(&self) -> impl Iterator<Item = Arc<View>> {
        self.views.iter().filter_map(Weak::upgrade)
    }

    /// Another policy holds from now on, with these views. Of another origin nothing is known yet: the
    /// endpoints stay until one of its registries has said who they are. Where they are watched anew
    /// the watchers before are not heard any more.
    pub(in crate::service) fn follow_policy(
        &mut self,
        policy: &Arc<config::Service>,
        tls: &Arc<Tls>,
        (views, loads): (Vec<Weak<View>>, Loads),
        is_watched_anew: bool,
    ) -> Effects {
        let before = std::mem::replace(&mut self.policy, Arc::clone(policy));
        let is_of_others = is_of_other_instances(&before, policy);
        if is_of_others || is_watched_anew {
            self.watch_round.0 += 1;
        }
        if is_of_others {
            self.combiner = self.combiner.after_a_change(&policy.origin);
        }
        self.views.retain(|view| view.strong_count() > 0);
        self.views.extend(views);
        let secured_otherwise = before.tls != policy.tls;
        self.endpoints
            .follow_policy(policy, tls, secured_otherwise, loads);
        let listed = self.endpoints.standings().map(|(one, _)| Arc::clone(one));
        let listed: Vec<_> = listed.collect();
        Effects {
            publish: true,
            retire: self.endpoints.take_leaving(),
            save: true,
            log: self.overruled(&listed).into_iter().collect(),
            ..Effects::default()
        }
    }

    /// Lets an event change what it changes. What follows from it is to be carried out before the next.
    pub(crate) fn apply(&mut self, event: MemberEvent) -> Effects {
        match event {
            MemberEvent::Fixed(instances) => {
                self.follow(&Update::ours(instances), Why::ProxyToml, false)
            }
            MemberEvent::Registry(from, event) if from < self.combiner.registries() => {
                let registry = self.registry(from);
                let why = match &event {
                    Event::State(set) => Why::Registry {
                        registry,
                        revision: set.evidence.revision(),
                    },
                    Event::Failed | Event::Stale => Why::Away { registry },
                };
                let expects_new = self.combiner.has_answered(from);
                let update = self.combiner.hear(from, event, &self.policy);
                let follow = |update| self.follow(&update, why, expects_new);
                update.map(follow).unwrap_or_default()
            }
            MemberEvent::Remembered(from, set, confirmed) if from < self.combiner.registries() => {
                let registry = self.registry(from);
                let update = self.combiner.remember(from, set, confirmed, &self.policy);
                let follow = |update| self.follow(&update, Why::Snapshot { registry }, false);
                update.map(follow).unwrap_or_default()
            }
            // Of a registry that is no longer one of its own.
            MemberEvent::Registry(..) | MemberEvent::Remembered(..) => Effects::default(),
            MemberEvent::Checked(endpoint, findings) => self.check(&endpoint, findings),
            MemberEvent::Asked(held, again) => self.settle(held, &again),
            MemberEvent::Pinned(pin, set) => {
                let why = Why::Pinned { set: pin.of };
                let told = self.now(pin.term.time()).map(|update| update.instances);
                self.journal.pin(pin, &told.unwrap_or_default());
                // Our own decision, which the guard does not doubt.
                let set = Update::ours(set.iter().map(ListedInstance::instance).collect());
                self.take_over(&set, why, self.combiner.is_settled())
            }
            MemberEvent::Unpinned(why) => self.unpin(why),
            // What the registries say is what it was, be the set pinned or not.
            MemberEvent::Drained(address, maintenance) => {
                let endpoint = address.clone();
                self.endpoints.drain(address, *maintenance);
                self.change(Why::Drained { endpoint })
            }
            MemberEvent::Undrained(address, why) => match self.endpoints.undrain(&address) {
                true => self.change(why),
                false => Effects::default(),
            },
            MemberEvent::Reweighed(endpoint, other) => self.reweigh(endpoint, *other),
            MemberEvent::Unweighed(address, why) => match self.endpoints.unweigh(&address) {
                true => self.change(why),
                false => Effects::default(),
            },
        }
    }

    fn reweigh(&mut self, endpoint: Address, other: OtherWeight) -> Effects {
        let why = Why::Reweighed {
            endpoint: endpoint.clone(),
            weight: other.weight,
        };
        self.endpoints.reweigh(endpoint, other);
        self.change(why)
    }

    fn unpin(&mut self, why: Why) -> Effects {
        let Some(pin) = self.journal.pin.take() else {
            return Effects::default();
        };
        // A set that was given up meanwhile leaves no endpoint, as it would have without the pin;
        // another origin that has said nothing yet leaves those that there are.
        match self.now(pin.term.elapsed()) {
            Some(update) => self.take_over(&update, why, self.combiner.is_settled()),
            None => self.change(why),
        }
    }

    /// Carries out what follows from an event: a request that an endpoint turns away must find the
    /// others, and who reads of a change in the journal or the log finds it made.
    pub(crate) fn carry_out(&mut self, effects: &mut Effects, publish: impl FnOnce(&Self)) {
        if effects.publish {
            publish(self);
        }
        for (endpoint, cut_at) in effects.retire.drain(..) {
            endpoint.retire(cut_at);
        }
        if let Some(why) = effects.note.take() {
            self.journal
                .note(&self.service, why, self.endpoints.standings());
        }
        for line in effects.log.drain(..) {
            line.write(&self.service);
        }
    }

    /// What the set is by what the file or the registries say, whatever was said last; `None` where
    /// these have not said anything that counts.
    fn now(&self, span: Duration) -> Option<Update> {
        match &self.policy.origin {
            Origin::Inline(instances) => Some(Update::ours(instances.clone())),
            Origin::Registries { .. } => self.combiner.now(span),
        }
    }

    /// The name of a registry, by its place in the list.
    fn registry(&self, of: usize) -> Arc<str> {
        Arc::clone(&self.policy.origin.registries()[of])
    }

    /// Takes over a set, unless they are pinned to another: then it is only noted.
    fn follow(&mut self, update: &Update, why: Why, expects_new: bool) -> Effects {
        if !self.is_pinned() {
            return self.take_over(update, why, expects_new);
        }
        self.journal.note_told(why, &update.instances);
        Effects {
            save: true,
            ..Effects::default()
        }
    }

    fn take_over(&mut self, update: &Update, why: Why, expects_new: bool) -> Effects {
        let doubted = self.endpoints.take_over(update, expects_new);
        Effects {
            log: self.overruled(&update.instances).into_iter().collect(),
            starts_guard: doubted && !std::mem::replace(&mut self.is_guard_running, true),
            ..self.change(why)
        }
    }

    /// The line that says once of a service that `send_proxy` has an instance called in another way than it
    /// says.
    fn overruled(&mut self, instances: &[Arc<Instance>]) -> Option<Line> {
        if self.said_overruled || self.policy.pool.send_proxy.is_none() {
            return None;
        }
        let mut instances = instances.iter();
        let first = instances.find(|instance| self.policy.overrules(instance))?;
        self.said_overruled = true;
        Some(Line::Overruled(first.address.clone()))
    }

    /// What follows from another set.
    fn change(&mut self, why: Why) -> Effects {
        Effects {
            publish: true,
            retire: self.endpoints.take_leaving(),
            note: Some(why),
            save: true,
            ..Effects::default()
        }
    }

    fn check(&mut self, endpoint: &Arc<Endpoint>, findings: Findings) -> Effects {
        self.checks.0 += findings.passed;
        self.checks.1 += findings.failed;
        let Some(checkup) = findings.checkup else {
            return Effects::default();
        };
        let error = checkup.error.as_ref().map(ToString::to_string);
        let panicked = self.endpoints.panics();
        if !self.endpoints.check(endpoint, checkup) {
            return Effects::default();
        }
        let mut log = vec![Line::Checked(endpoint.id().address.clone(), error)];
        if self.endpoints.panics() && !panicked {
            log.push(Line::Panic);
        }
        Effects {
            publish: true,
            log,
            ..Effects::default()
        }
    }

    /// Lets go of those that need not be kept.
    fn settle(
        &mut self,
        held: Vec<(EndpointId, Held, bool)>,
        again: &HashMap<usize, SecondAnswer>,
    ) -> Effects {
        let now = Instant::now();
        let mut log = Vec::new();
        for (id, held, answers) in held {
            let again = again.get(&held.by).map(|again| again.of(&id));
            let verdict = match again {
                _ if !answers || now >= held.until => None,
                Some(again) => held.confirmed(again, now),
                None => Some(held),
            };
            if verdict == Some(held) || !self.endpoints.settle(&id, held, verdict) {
                continue;
            }
            log.push(Line::Settled(
                id.address,
                verdict.map(|held| held.reason.to_string()),
            ));
        }
        Effects {
            log,
            ..self.change(Why::Guard)
        }
    }

    /// The endpoints that the guard's task asks next: those that it holds. Where there are none, the
    /// task is over.
    pub(crate) fn next_to_ask(&mut self) -> Vec<(EndpointId, Held)> {
        let held = self.endpoints.held();
        self.is_guard_running = !held.is_empty();
        held
    }

    /// Which watchers are heard.
    pub(crate) fn watch_round(&self) -> WatchRound {
        self.watch_round
    }

    /// What the registries say.
    pub(crate) fn combiner(&self) -> &Combiner {
        &self.combiner
    }

    /// What that makes.
    pub(crate) fn endpoints(&self) -> &EndpointSet {
        &self.endpoints
    }

    /// What became of it.
    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Whether they stay what they are, whatever the registries say.
    pub(crate) fn is_pinned(&self) -> bool {
        self.journal.pin.is_some()
    }

    /// Forgets the endpoints that were removed and have finished.
    pub(crate) fn forget_the_gone(&mut self) {
        self.endpoints.forget_the_gone();
    }

    /// How many of the checks of endpoints passed, and how many did not.
    pub(crate) fn checks(&self) -> (u64, u64) {
        self.checks
    }
}

/// Whether two policies may lead to other instances.
pub(in crate::service) fn is_of_other_instances(a: &config::Service, b: &config::Service) -> bool {
    (&a.origin, &a.name, &a.tags, &a.meta) != (&b.origin, &b.name, &b.tags, &b.meta)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::{Config, EndpointTls},
        service::{Checkup, testing::instance},
        term::Term,
    };

    /// Those of a service that follows the registries `a` and `b`, of which `b` takes over.
    fn members() -> Members {
        let text = "[registry.a]\nkind = \"consul\"\n[registry.b]\nkind = \"consul\"\n\
            [service.cart]\nregistry = [\"a\", \"b\"]\ncombine = \"failover\"\n\
            [[route]]\nservice = \"cart\"\n";
        let config = Config::parse(text, Path::new(".")).unwrap();
        let tls = Arc::new(crate::upstream::Tls::open(&EndpointTls::default()).unwrap());
        let (name, policy) = ("cart".into(), &config.services["cart"]);
        let common = Common::new(Arc::clone(policy), tls, 1);
        Members::new(&name, policy, common, Loads::default(), Vec::new())
    }

    fn set(ports: &[u16]) -> Event<InstanceSet> {
        let instances = ports.iter().map(|port| Ok(instance(*port, true)));
        Event::State(InstanceSet::of(instances).into())
    }

    /// What follows from an event, and is carried out.
    fn apply(members: &mut Members, event: MemberEvent) -> Shown {
        let mut effects = members.apply(event);
        let shown = shown(&effects);
        members.carry_out(&mut effects, |_| {});
        shown
    }

    fn says(members: &mut Members, from: usize, ports: &[u16]) -> Shown {
        apply(members, MemberEvent::Registry(from, set(ports)))
    }

    fn ports(members: &Members) -> Vec<u16> {
        let set = members.endpoints.standings();
        set.map(|(one, _)| one.address.port()).collect()
    }

    /// What follows: a publication, so many that are retired, something to save, a task of the guard.
    fn shown(effects: &Effects) -> Shown {
        let Effects { publish, save, .. } = *effects;
        (publish, effects.retire.len(), save, effects.starts_guard)
    }

    type Shown = (bool, usize, bool, bool);

    const NOTHING: Shown = (false, 0, false, false);

    #[test]
    fn who_is_turned_away_finds_the_others_and_who_reads_of_a_change_finds_it_made() {
        let mut members = members();
        says(&mut members, 0, &[1, 2, 3, 4]);
        let leaves = Arc::clone(&members.endpoints.all().next().unwrap().endpoint);
        let is_retired = || leaves.pool(0).is_retired();
        let mut effects = members.apply(MemberEvent::Registry(0, set(&[2, 3, 4])));
        assert_eq!(shown(&effects), (true, 1, true, false));
        let mut published = false;
        members.carry_out(&mut effects, |members| {
            assert!(!is_retired(), "it may still be picked");
            assert_eq!(members.journal.entries().len(), 1, "nothing is noted yet");
            published = true;
        });
        assert!(published && is_retired());
        assert_eq!(members.journal.entries().len(), 2);
    }

    #[test]
    fn the_log_says_of_checks_and_of_the_guard_what_is_published() {
        let mut members = members();
        says(&mut members, 0, &[1, 2]);
        let endpoint = Arc::clone(&members.endpoints.all().next().unwrap().endpoint);
        let checkup = Checkup {
            passing: false,
            error: Some("refused".into()),
        };
        let findings = Findings {
            checkup: Some(checkup),
            ..Findings::default()
        };
        let effects = members.apply(MemberEvent::Checked(endpoint, findings));
        assert!(matches!(effects.log[..], [Line::Checked(..)]));
        says(&mut members, 0, &[]);
        let held = members.next_to_ask().into_iter();
        let held = held.map(|(id, held)| (id, held, false)).collect();
        let effects = members.apply(MemberEvent::Asked(held, HashMap::new()));
        assert!(matches!(
            effects.log[..],
            [Line::Settled(_, None), Line::Settled(..)]
        ));
    }

    #[test]
    fn the_log_says_once_that_a_header_has_an_instance_called_in_another_version() {
        let mut members = members();
        let policy = |text: &str| {
            let text = format!(
                "[service.cart]\nendpoints = [\"10.0.0.1:80\"]\n{text}\n\
                 [[route]]\nservice = \"cart\"\n"
            );
            Arc::clone(&Config::parse(&text, Path::new(".")).unwrap().services["cart"])
        };
        let tls = Arc::new(crate::upstream::Tls::open(&EndpointTls::default()).unwrap());
        let follow = |members: &mut Members, text: &str| {
            let views = (Vec::new(), Loads::default());
            let mut effects = members.follow_policy(&policy(text), &tls, views, false);
            let said = effects.log.len();
            members.carry_out(&mut effects, |_| {});
            said
        };
        let named = |port| {
            let meta = [("protocol".to_owned(), "h2c".to_owned())];
            Arc::new(Instance {
                meta: meta.into(),
                ..instance(port, true)
            })
        };
        let fixed = MemberEvent::Fixed(vec![Arc::new(instance(1, true)), named(2)]);
        assert!(members.apply(fixed).log.is_empty());
        assert_eq!(
            follow(&mut members, "send_proxy = \"v2\"\nprotocol = \"http1\""),
            0
        );
        assert_eq!(follow(&mut members, "send_proxy = \"v2\""), 1);
        assert_eq!(follow(&mut members, "send_proxy = \"v1\""), 0);
        let effects = members.apply(MemberEvent::Fixed(vec![named(3)]));
        assert!(effects.log.is_empty());
    }

    #[test]
    fn an_event_has_the_effects_that_it_must_have_and_no_others() {
        let mut all = members();
        let members = &mut all;
        for (what, event, effects, left) in [
            ("a failure", Event::Failed, NOTHING, &[][..]),
            ("a set", set(&[1, 2]), (true, 0, true, false), &[1, 2]),
            ("another failure", Event::Failed, NOTHING, &[1, 2]),
            ("a loss", set(&[]), (true, 0, true, true), &[1, 2]),
            (
                "it is watched over",
                set(&[]),
                (true, 0, true, false),
                &[1, 2],
            ),
            ("given up", Event::Stale, (true, 2, true, false), &[]),
        ] {
            let follows = apply(members, MemberEvent::Registry(0, event));
            assert_eq!(follows, effects, "{what}");
            assert_eq!(ports(members), left, "{what}");
        }
        assert_eq!(members.next_to_ask(), [], "its task is over");
        assert_eq!(says(members, 1, &[7]), (true, 0, true, false));
        assert_eq!(says(members, 1, &[]), (true, 0, true, true));
    }

    #[test]
    fn what_is_said_while_they_are_pinned_is_followed_once_they_are_not() {
        let mut members = members();
        says(&mut members, 0, &[1, 2]);
        let set = Arc::clone(&members.journal.entry(None).unwrap().set);
        let pin = Box::new(Pin::new(1, Term::endless()));
        let effects = apply(&mut members, MemberEvent::Pinned(pin, set));
        assert_eq!(effects, (true, 0, true, false));
        let effects = says(&mut members, 0, &[2, 3]);
        assert_eq!(effects, (false, 0, true, false));
        assert_eq!(ports(&members), [1, 2]);
        for effects in [(true, 1, true, false), NOTHING] {
            let unpinned = MemberEvent::Unpinned(Why::Unpinned);
            assert_eq!(apply(&mut members, unpinned), effects);
            assert_eq!(ports(&members), [2, 3]);
        }
    }

    #[test]
    fn the_guard_lets_go_of_those_that_do_not_answer_and_of_none_that_have_come_back() {
        let mut members = members();
        says(&mut members, 0, &[1, 2, 3]);
        says(&mut members, 0, &[]);
        let held = members.next_to_ask().into_iter();
        let held: Vec<_> = held
            .map(|(id, held)| {
                let answers = id.address.port() == 2;
                (id, held, answers)
            })
            .collect();
        says(&mut members, 0, &[3]);
        let effects = apply(&mut members, MemberEvent::Asked(held, HashMap::new()));
        assert_eq!(effects, (true, 1, true, false));
        assert_eq!(ports(&members), [2, 3]);
    }
}
