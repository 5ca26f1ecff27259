//! Whom of a service a route calls, and how one of them is picked: all of its endpoints, or those
//! with tags and metadata, with turns of their own. All views of a service share its endpoints, so
//! that connections, doubts, counts and drains are an endpoint's, whichever route calls it. Knows
//! nothing of routes.

use std::{
    collections::HashMap,
    ptr,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::time::Instant;

use super::{
    BalanceStats, BalanceStatus, Balancer, Endpoint, EndpointId, PickKey, RequestInfo, Shed,
    Snapshot, WorkerEndpoint, ZoneStatus,
    balance::{Cookie, Zone},
    call::{queue::Room, tried::Tried},
    endpoint::outlier::{Count, Heard},
    members::endpoint_set::EndpointSet,
};
use crate::{
    config::{self, Balance, Subset},
    instance::Instance,
    metrics::Padded,
};

/// So many picks tell an endpoint's chance to a hundredth or two.
const PICKS: usize = 1_000;
/// And no more than so many, where each turn of a round should be among them.
const MOST_PICKS: usize = 20_000;

/// Some of a service's endpoints, or all.
#[derive(Debug)]
pub struct View {
    /// Its place among the service's views.
    number: usize,
    /// `None` is all of them.
    subset: Option<Arc<Subset>>,
    balance: Balance,
    snapshot: ArcSwap<Snapshot>,
    balancer: Balancer,
    /// Where the proxy's own zone comes first.
    zone: Option<Box<Zone>>,
    workers: usize,
    /// What each worker has heard of its endpoints; from the first on that hears anything.
    heard: OnceLock<Box<[Padded<Heard>]>>,
}

impl View {
    /// A view of this service, before any endpoint is known.
    pub(super) fn new(
        service: &str,
        number: usize,
        subset: Option<Arc<Subset>>,
        policy: &config::Service,
        workers: usize,
    ) -> Self {
        let own = subset.as_ref().and_then(|subset| subset.balance.as_ref());
        let mut balance = own.unwrap_or(&policy.balance).clone();
        if let (Some(_), Balance::Hash(hash)) = (&subset, &mut balance) {
            // What is in flight is known of the whole service, and of no part of it.
            hash.load = None;
        }
        // Routes that select others set cookies of their own.
        let whose = match &subset {
            Some(subset) => &format!("{service} {subset}"),
            None => service,
        };
        if let (Some(_), None, Balance::Sticky(sticky)) = (&subset, own, &mut balance) {
            let of_all = sticky.cookie.take();
            sticky.cookie = of_all.map(|name| Cookie::name_for(&name, whose));
        }
        Self {
            number,
            subset,
            snapshot: ArcSwap::default(),
            balancer: Balancer::new(whose, &balance),
            balance,
            zone: policy.zone.clone().map(|own| Box::new(Zone::new(own))),
            workers,
            heard: OnceLock::new(),
        }
    }

    /// Whether it picks of the same endpoints in the same way as another, where the proxy's own zone
    /// is the same: it can stand for it, then.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.subset == other.subset && self.balance == other.balance
    }

    /// What one worker has heard of its endpoints.
    pub(super) fn heard(&self, worker: usize) -> &Heard {
        let none = || (0..self.workers).map(|_| Padded::default()).collect();
        &self.heard.get_or_init(none)[worker]
    }

    /// What all of its endpoints have answered, over all workers.
    pub(super) fn answers(&self) -> Count {
        let heard = self.heard.get().into_iter().flatten();
        Count::of(heard.map(|heard| &**heard))
    }

    /// Its place among the service's views, which no other one has while it lives.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Whether it is of this one, which the config has once.
    pub(super) fn is_of(&self, subset: &Arc<Subset>) -> bool {
        self.subset
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, subset))
    }

    /// What it is a view of; `None` is all.
    pub fn subset(&self) -> Option<&Arc<Subset>> {
        self.subset.as_ref()
    }

    /// How it picks.
    pub fn balance(&self) -> &Balance {
        &self.balance
    }

    /// Its endpoints now.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Whether no endpoint can be picked.
    pub fn is_empty(&self) -> bool {
        self.snapshot.load().endpoints.is_empty()
    }

    /// Takes a turn: that of a request, if it is one. What is unusual is counted on the worker's
    /// tally.
    pub fn turn(
        &self,
        asked: Option<&dyn RequestInfo>,
        tally: &BalanceStats,
        now: Instant,
    ) -> PickKey {
        let turn = self.balancer.turn(asked, tally);
        match &self.zone {
            None => turn,
            Some(zone) => zone.turn(turn, now),
        }
    }

    /// Skips turns, so that requests which come in the same order again and again are no longer in
    /// step with the endpoints: each of these has its even share of every kind of request.
    pub(super) fn break_step(&self) {
        self.balancer.break_step();
        if let Some(zone) = &self.zone {
            zone.break_step();
        }
    }

    /// Picks the endpoint whose turn it is, without a lock, and returns this worker's way to it.
    pub fn pick(
        &self,
        worker: usize,
        turn: PickKey,
        tally: &BalanceStats,
        now: Instant,
    ) -> Option<Arc<WorkerEndpoint>> {
        self.choose(turn, |_| true, tally, now, way(worker))
    }

    /// How probably each endpoint has a request at this moment that is like `asked`: what comes of many
    /// picks, which change nothing. An endpoint that never has it is left out, and so is one that has
    /// the next request as its trial while there are others.
    ///
    /// # Errors
    /// Where none of them has room.
    pub(super) fn chances(
        &self,
        asked: &dyn RequestInfo,
        room: Room<'_>,
        now: Instant,
    ) -> Result<HashMap<EndpointId, f64>, Shed> {
        let tally = BalanceStats::default();
        let untried = Tried::default();
        let round = self.balancer.round(&self.snapshot.load());
        // All rounds are whole, so that of two endpoints in a row neither has a turn less.
        let picks = round * PICKS.div_ceil(round.max(1));
        let picks = picks.clamp(PICKS, MOST_PICKS);
        let step = (round / picks).max(1);
        let mut counts = HashMap::new();
        for number in (0..picks).map(|number| number * step) {
            let turn = self.balancer.turn_aside(asked, &tally, number);
            let turn = match &self.zone {
                None => turn,
                Some(zone) => zone.turn_aside(turn, number, now),
            };
            let picked = self.with_room(&untried, room, now, |wanted| {
                self.choose_aside(turn, wanted, &tally, now, number)
            });
            if let Some(id) = picked? {
                *counts.entry(id).or_insert(0_u32) += 1;
            }
        }
        let chance = |count| f64::from(count) / picks as f64;
        let chances = counts.into_iter();
        Ok(chances.map(|(id, count)| (id, chance(count))).collect())
    }

    /// Like [`Self::choose`], and claims no trial: a pick that looks at an endpoint whose time of doubt is
    /// over makes it one.
    fn choose_aside(
        &self,
        turn: PickKey,
        wanted: &dyn Fn(&Endpoint) -> bool,
        tally: &BalanceStats,
        now: Instant,
        number: usize,
    ) -> Option<EndpointId> {
        let id = |snapshot: &Snapshot, place: usize| snapshot.endpoints[place].id().clone();
        let is_trusted = |one: &Endpoint| wanted(one) && !one.health().is_avoided_already();
        let trusted = self.choose(turn, is_trusted, tally, now, id);
        if trusted.is_some() {
            return trusted;
        }
        // Where all are avoided, one whose time is over has the next request.
        let snapshot = self.snapshot.load();
        let is_due = |one: &&Arc<Endpoint>| wanted(one) && !one.health().is_out(now);
        let due: Vec<_> = snapshot.endpoints.iter().filter(is_due).collect();
        match due.len() {
            0 => self.choose(turn, wanted, tally, now, id),
            count => Some(due[number % count].id().clone()),
        }
    }

    /// Like [`Self::pick`], of the endpoints that have room, for a request that was tried with `tried`
    /// already. A request that the others have no room for never goes to an endpoint that is doubted
    /// or ejected, unless all are. `None` where every endpoint was tried.
    ///
    /// # Errors
    /// Where none of them has room.
    pub(super) fn pick_with_room(
        &self,
        worker: usize,
        turn: PickKey,
        tried: &Tried,
        room: Room<'_>,
        tally: &BalanceStats,
        now: Instant,
    ) -> Result<Option<Arc<WorkerEndpoint>>, Shed> {
        let turn = turn.tried(!tried.is_empty());
        self.with_room(tried, room, now, |wanted| {
            self.choose(turn, wanted, tally, now, way(worker))
        })
    }

    /// What `choose` takes of the endpoints that were not tried and have room.
    fn with_room<T>(
        &self,
        tried: &Tried,
        room: Room<'_>,
        now: Instant,
        choose: impl Fn(&dyn Fn(&Endpoint) -> bool) -> Option<T>,
    ) -> Result<Option<T>, Shed> {
        let was_tried = |one: &Endpoint| tried.has(one.health());
        if !room.is_limited() {
            return Ok(choose(&|one| !was_tried(one)));
        }
        let has_room = |one: &Endpoint| !was_tried(one) && room.is_at(one.health());
        let trusted = choose(&|one| has_room(one) && !one.health().is_out(now));
        if trusted.is_some() {
            return Ok(trusted);
        }
        let is_there = |wanted: &dyn Fn(&Endpoint) -> bool| {
            let snapshot = self.snapshot.load();
            snapshot.endpoints.iter().any(|one| wanted(one))
        };
        if is_there(&|one| !was_tried(one) && !one.health().is_out(now)) {
            return Err(Shed::PerEndpoint);
        }
        match choose(&has_room) {
            None if is_there(&|one| !was_tried(one)) => Err(Shed::PerEndpoint),
            picked => Ok(picked),
        }
    }

    /// Of those that are wanted, the one whose turn it is; `way` leads from its place to it.
    fn choose<T>(
        &self,
        turn: PickKey,
        wanted: impl Fn(&Endpoint) -> bool,
        tally: &BalanceStats,
        now: Instant,
        way: impl Fn(&Snapshot, usize) -> T,
    ) -> Option<T> {
        if let Some(zone) = &self.zone {
            let picked = zone.pick(&self.balancer, turn, &wanted, tally, now, &way);
            if picked.is_some() {
                return picked;
            }
        }
        let snapshot = self.snapshot.load();
        let turn = turn.at(&snapshot);
        let picked = self.balancer.pick(&snapshot, turn, wanted, tally, now);
        picked.map(|place| way(&snapshot, place))
    }

    /// What the answer to a request sets its cookie to, where that must change. Costs nothing where
    /// there are none.
    pub fn cookie(
        &self,
        worker: usize,
        turn: PickKey,
        answered: &Arc<WorkerEndpoint>,
        tally: &BalanceStats,
    ) -> Option<HeaderValue> {
        if !matches!(self.balancer, Balancer::Sticky(..)) {
            return None;
        }
        let has_answered = |endpoint: &Endpoint| Arc::ptr_eq(endpoint.of_worker(worker), answered);
        self.balancer
            .cookie(&self.snapshot.load(), turn, has_answered, tally)
    }

    /// Counts an answer by the zone of who gave it, where the proxy's own comes first.
    pub(super) fn note_zone(&self, answered: &WorkerEndpoint, tally: &BalanceStats) {
        if self.zone.is_some() {
            let counter = match answered.is_near() {
                true => &tally.local,
                false => &tally.other,
            };
            counter.add_one();
        }
    }

    /// The proxy's own zone, where it comes first.
    pub(super) fn zone(&self, now: Instant) -> Option<ZoneStatus> {
        self.zone.as_ref().map(|zone| zone.status(now))
    }

    /// How it picks, and what was unusual of it.
    pub(super) fn balance_status<'t>(
        &self,
        tallies: impl Iterator<Item = &'t BalanceStats> + Clone,
    ) -> BalanceStatus {
        BalanceStatus::of(&self.balance, &self.balancer, tallies)
    }

    /// Whether there is another endpoint to pick than those that were tried, and this one.
    pub(super) fn has_other(&self, tried: &Tried, this: Option<&Arc<WorkerEndpoint>>) -> bool {
        let is_this =
            |one: &Endpoint| this.is_some_and(|this| ptr::eq(this.health(), one.health()));
        let snapshot = self.snapshot.load();
        let mut endpoints = snapshot.endpoints.iter();
        endpoints.any(|one| !is_this(one) && !tried.has(one.health()))
    }

    /// Whether this endpoint can be picked now.
    pub(super) fn has(&self, endpoint: &WorkerEndpoint) -> bool {
        let snapshot = self.snapshot.load();
        let mut endpoints = snapshot.endpoints.iter();
        endpoints.any(|one| ptr::eq(one.health(), endpoint.health()))
    }

    /// Whether an instance is one of its endpoints.
    pub(super) fn wants(&self, instance: &Instance) -> bool {
        let subset = self.subset.as_deref();
        subset.is_none_or(|Subset { tags, meta, .. }| instance.has(tags, meta))
    }

    /// Publishes what there is now, if it differs.
    pub(super) fn publish(&self, endpoints: &EndpointSet) {
        let is_of = |instance: &Instance| self.wants(instance);
        let picking = endpoints.picking(is_of);
        if let Some(zone) = &self.zone {
            zone.publish(|is_there| {
                let wanted = |instance: &Instance| is_of(instance) && is_there(instance);
                endpoints.snapshot(&self.balance, picking, wanted)
            });
        }
        let snapshot = endpoints.snapshot(&self.balance, picking, is_of);
        if !self.snapshot.load().is_like(&snapshot) {
            self.snapshot.store(Arc::new(snapshot));
        }
    }
}

/// This worker's ways to endpoints.
fn way(worker: usize) -> impl Fn(&Snapshot, usize) -> Arc<WorkerEndpoint> {
    move |snapshot, place| Arc::clone(snapshot.of_worker(worker, place))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Acquire, Release},
    };

    use super::super::{
        CallPolicy, Service,
        members::MemberEvent,
        testing::{self, ports},
    };
    use super::*;
    use crate::{config::Config, upstream::Tls};

    /// A service with the subsets of these routes.
    fn service(routes: &str) -> (Service, Config) {
        let config = Config::parse(routes, std::path::Path::new(".")).unwrap();
        let policy = config.services["cart"].clone();
        let tls = Arc::new(Tls::open(&policy.tls).unwrap());
        let subsets = config
            .routes
            .iter()
            .filter_map(|route| route.subset.clone());
        (
            Service::new("cart".into(), policy, tls, 1, subsets, Arc::default()),
            config,
        )
    }

    fn update(service: &Service, instances: Vec<Instance>) {
        let instances = instances.into_iter().map(Arc::new).collect();
        service.apply(MemberEvent::Fixed(instances));
    }

    fn instance(port: u16, healthy: bool, tag: &str) -> Instance {
        Instance {
            weight: u32::from(port),
            tags: vec![tag.to_owned()],
            ..testing::instance(port, healthy)
        }
    }

    const TWO: &str = "[service.cart]\nguard = false\n\
        [[route]]\nservice = \"cart\"\n\
        [[route]]\npath = \"/v2\"\ntags = [\"V2\"]\nservice = \"cart\"\n\
        [[route]]\npath = \"/w\"\nbalance = \"weighted\"\nservice = \"cart\"\n";

    #[tokio::test]
    async fn a_view_has_the_services_own_endpoints_and_follows_its_updates() {
        let (service, config) = service(TWO);
        let view = |route: usize| {
            let subset = config.routes[route].subset.as_ref();
            CallPolicy::of(&service, subset, None).unwrap().view
        };
        update(
            &service,
            vec![
                instance(1, true, "v1"),
                instance(2, true, "v2"),
                instance(3, false, "v2"),
            ],
        );
        assert_eq!((ports(view(0)), ports(view(1))), (vec![1, 2], vec![2]));
        let [all, some] = [view(0).snapshot(), view(1).snapshot()];
        assert!(Arc::ptr_eq(&all.endpoints[1], &some.endpoints[0]));
        // One that gets another tag is the same endpoint all the same.
        update(
            &service,
            vec![instance(1, true, "v2"), instance(2, true, "v1")],
        );
        assert_eq!((ports(view(0)), ports(view(1))), (vec![1, 2], vec![1]));
        assert!(Arc::ptr_eq(
            &view(1).snapshot().endpoints[0],
            &all.endpoints[0]
        ));
        assert!(!all.endpoints[1].pool(0).is_retired());
        // And one that leaves is retired when no view has it any more.
        update(&service, vec![instance(2, true, "v1")]);
        assert!(ports(view(1)).is_empty() && all.endpoints[0].pool(0).is_retired());
    }

    #[tokio::test]
    async fn a_view_balances_as_its_route_says() {
        let (service, config) = service(TWO);
        update(&service, vec![instance(1, true, ""), instance(3, true, "")]);
        let subset = config.routes[2].subset.as_ref();
        let weighted = CallPolicy::of(&service, subset, None);
        let weighted = weighted.unwrap().view;
        let tally = &service.stats(0).tally;
        let picks_of_the_first = |view: &View| {
            let pick = |_: &i32| {
                let picked = view.pick(
                    0,
                    view.turn(None, tally, Instant::now()),
                    tally,
                    Instant::now(),
                );
                picked.unwrap().pool().address().port() == 1
            };
            (0..40).filter(pick).count()
        };
        let shares = (
            picks_of_the_first(service.main()),
            picks_of_the_first(weighted),
        );
        assert_eq!(shares, (20, 10));
    }

    #[tokio::test]
    async fn each_subset_has_a_cookie_of_its_own_unless_its_route_names_one() {
        let (service, config) = service(
            "[service.cart]\nbalance = { kind = \"sticky\", cookie = \"shop\" }\n\
             [[route]]\nservice = \"cart\"\n\
             [[route]]\npath = \"/a\"\ntags = [\"a\"]\nservice = \"cart\"\n\
             [[route]]\npath = \"/b\"\ntags = [\"b\"]\nservice = \"cart\"\n\
             [[route]]\npath = \"/c\"\nservice = \"cart\"\n\
             balance = { kind = \"sticky\", cookie = \"mine\" }\n",
        );
        let names: Vec<_> = config
            .routes
            .iter()
            .map(|route| {
                let policy = CallPolicy::of(&service, route.subset.as_ref(), None);
                match policy.unwrap().view.balance() {
                    Balance::Sticky(sticky) => sticky.cookie.clone().unwrap(),
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        assert_eq!((&*names[0], &*names[3]), ("shop", "mine"));
        assert!(names[1].starts_with("shop-") && names[2].starts_with("shop-"));
        assert_ne!(names[1], names[2]);
    }

    /// A service that picks like this, for two workers.
    fn balanced(balance: &str) -> Service {
        let text = format!(
            "zone = \"a\"\n[defaults]\nbalance = {balance}\nguard = false\n[[route]]\nservice = \"a\"\n"
        );
        let config = Config::parse(&text, std::path::Path::new(".")).unwrap();
        let tls = Arc::new(Tls::open(&config.defaults.tls).unwrap());
        Service::new("cart".into(), config.defaults, tls, 2, [], Arc::default())
    }

    /// Instances with these ports.
    fn set(ports: std::ops::Range<usize>) -> Vec<Instance> {
        let instance = |port: usize| Instance {
            weight: 1 + port as u32 % 3,
            meta: [(
                "zone".into(),
                if port.is_multiple_of(2) { "a" } else { "b" }.into(),
            )]
            .into(),
            ..instance(port as u16, true, "")
        };
        ports.map(instance).collect()
    }

    #[test]
    fn what_is_picked_while_the_set_is_swapped_is_of_this_set_or_the_one_before() {
        for balance in [
            "\"round_robin\"",
            "\"weighted\"",
            "\"random\"",
            "\"least_request\"",
            "\"p2c\"",
            "\"peak_ewma\"",
            "{ kind = \"hash\", by = \"path\", load = 1.1 }",
            "{ kind = \"sticky\", fallback = \"p2c\" }",
            "\"round_robin\"\nprefer = \"zone\"",
            "\"weighted\"\nprefer = \"zone\"",
        ] {
            let service = &balanced(balance);
            // Each set is ten ports above the one before, of which it has half.
            let ports = |n: usize| 1 + n * 10..21 + n * 10;
            update(service, set(ports(0)));
            let current = &AtomicUsize::new(0);
            let (over, picked) = (&AtomicBool::new(false), &AtomicUsize::new(0));
            std::thread::scope(|scope| {
                let mut pickers = Vec::new();
                for worker in 0..2 {
                    let picker = scope.spawn(move || {
                        let mut in_flight = Vec::new();
                        while !over.load(Acquire) {
                            let before = current.load(Acquire);
                            let (view, tally) = (service.main(), &service.stats(worker).tally);
                            let turn = view.turn(None, tally, Instant::now());
                            let line = view.pick(worker, turn, tally, Instant::now());
                            let after = current.load(Acquire);
                            // The next set may be there before its number is.
                            let may_be = ports(before).start..ports(after + 1).end;
                            picked.fetch_add(1, Release);
                            let Some(line) = line else { return Err(None) };
                            let port = usize::from(line.pool().address().port());
                            if !may_be.contains(&port) {
                                return Err(Some((port, may_be)));
                            }
                            in_flight.push(line.pool().enter());
                            if in_flight.len() > 50 {
                                in_flight.clear();
                            }
                        }
                        Ok(())
                    });
                    pickers.push(picker);
                }
                for n in 1..100 {
                    let seen = picked.load(Acquire);
                    update(service, set(ports(n)));
                    current.store(n, Release);
                    while picked.load(Acquire) < seen + 10
                        && pickers.iter().any(|picker| !picker.is_finished())
                    {
                        std::thread::yield_now();
                    }
                }
                over.store(true, Release);
                for picker in pickers {
                    assert_eq!(picker.join().unwrap(), Ok(()), "{balance}");
                }
            });
            let endpoints = &service.main().snapshot().endpoints;
            assert_eq!(endpoints.len(), 20);
            assert!(endpoints.iter().all(|endpoint| endpoint.in_flight() == 0));
        }
    }

    #[test]
    fn an_update_that_changes_nothing_leaves_the_snapshot_and_one_of_weights_does_where_none_count()
    {
        for (balance, stays) in [("\"round_robin\"", true), ("\"p2c\"", false)] {
            let service = balanced(balance);
            update(&service, set(1..4));
            let first = service.main().snapshot.load_full();
            update(&service, set(1..4));
            assert!(Arc::ptr_eq(&first, &service.main().snapshot()));
            let mut heavier = set(1..4);
            heavier[0].weight = 9;
            update(&service, heavier);
            let second = service.main().snapshot.load_full();
            assert_eq!(Arc::ptr_eq(&first, &second), stays, "{balance}");
            assert!(Arc::ptr_eq(&first.endpoints[0], &second.endpoints[0]));
        }
    }
}
