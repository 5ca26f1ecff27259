//! `prefer = "zone"`: those in the proxy's own zone come first, and what they have not the health
//! for spills over to all others. The rule is Envoy's of priority levels, with its overprovisioning
//! factor of 1.4; its other one, zone aware routing, asks how many proxies each zone has, and this
//! one knows no other. How one of a side is picked is the balancer's.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    balancer::{Balancer, PickKey},
    digest::mix,
    round_robin::Turns,
    stats::BalanceStats,
};
use crate::{
    instance::Instance,
    service::{Endpoint, Snapshot},
};

/// In what metadata an instance's zone stands, in every registry.
const ZONE: &str = "zone";
/// For as long as the share is believed: who was ejected or doubted since, and who is back, counts
/// from then on.
const BELIEVED_MILLIS: u64 = 100;

/// The proxy's own zone, and who is in it.
#[derive(Debug)]
pub(in crate::service) struct Zone {
    own: Arc<str>,
    sides: ArcSwap<Sides>,
    turns: Turns,
    epoch: Instant,
}

/// The endpoints of the own zone, and those of all others.
#[derive(Debug, Default)]
struct Sides {
    near: Snapshot,
    far: Snapshot,
    /// Of a hundred requests, how many go to the own zone.
    percent: AtomicU32,
    /// When that was worked out, in milliseconds after the zone's epoch.
    weighed: AtomicU64,
}

/// A zone that comes first, at one moment.
#[derive(Debug, Serialize)]
pub struct ZoneStatus {
    /// The proxy's own.
    pub own: Arc<str>,
    /// Of a hundred requests, how many go there.
    pub local_percent: u32,
    /// How many of its endpoints may be picked.
    pub local_endpoints: usize,
    /// How many of all other zones may.
    pub other_endpoints: usize,
}

impl Zone {
    /// The proxy's own zone, before any endpoint is known.
    pub(in crate::service) fn new(own: Arc<str>) -> Self {
        Self {
            own,
            sides: ArcSwap::default(),
            turns: Turns::anywhere(),
            epoch: Instant::now(),
        }
    }

    /// Takes over which endpoints are in the own zone; `snapshot` makes one of the instances that are
    /// wanted.
    pub(in crate::service) fn publish(
        &self,
        snapshot: impl Fn(&dyn Fn(&Instance) -> bool) -> Snapshot,
    ) {
        let is_near = |one: &Instance| one.meta.get(ZONE).is_some_and(|zone| **zone == *self.own);
        let sides = Sides {
            near: snapshot(&is_near),
            far: snapshot(&|instance| !is_near(instance)),
            ..Sides::default()
        };
        for (side, is_near) in [(&sides.near, true), (&sides.far, false)] {
            let listed = side.endpoints.iter().chain(&side.resting);
            listed.for_each(|endpoint| endpoint.set_near(is_near));
        }
        let before = self.sides.load();
        if !(before.near.is_like(&sides.near) && before.far.is_like(&sides.far)) {
            sides.weigh(Instant::now(), self.epoch);
            self.sides.store(Arc::new(sides));
        }
    }

    /// The turn of a request that has this one of the balancer: in the own zone or elsewhere, of any
    /// hundred in a row exactly so many, evenly spread. A key stays on its side while the share does.
    pub(in crate::service) fn turn(&self, turn: PickKey, now: Instant) -> PickKey {
        self.turn_by(turn, || self.turns.next(), now)
    }

    /// The same of a request that is not made, with the turn of this number.
    pub(in crate::service) fn turn_aside(
        &self,
        turn: PickKey,
        number: usize,
        now: Instant,
    ) -> PickKey {
        self.turn_by(turn, || number, now)
    }

    fn turn_by(&self, turn: PickKey, next: impl FnOnce() -> usize, now: Instant) -> PickKey {
        let percent = self.sides.load().percent(now, self.epoch);
        if let Some(key) = turn.key {
            // Mixed, since the key's own bits say where on the ring it is.
            let part = (u128::from(mix(key)) * 100) >> 64;
            return PickKey {
                is_far: part as u32 >= percent,
                ..turn
            };
        }
        let (is_near, place) = side_of(next(), percent as usize);
        PickKey {
            is_far: !is_near,
            place,
            ..PickKey::default()
        }
    }

    /// See [`Turns::break_step`].
    pub(in crate::service) fn break_step(&self) {
        self.turns.break_step();
    }

    /// The endpoint whose turn it is. It is one of the other side where none on its own can be picked,
    /// and `None` where both sides have only endpoints that are passed over, or none.
    pub(in crate::service) fn pick<T>(
        &self,
        balancer: &Balancer,
        turn: PickKey,
        wanted: impl Fn(&Endpoint) -> bool,
        tally: &BalanceStats,
        now: Instant,
        way: impl Fn(&Snapshot, usize) -> T,
    ) -> Option<T> {
        let all = self.sides.load();
        let mut sides = [&all.near, &all.far];
        if turn.is_far {
            sides.reverse();
        }
        let is_wanted = |one: &Endpoint| wanted(one) && !one.health().is_out(now);
        // An endpoint that a cookie names is taken from either side.
        let named = sides.iter().find_map(|side| {
            let place = balancer.named(side, turn, is_wanted, now)?;
            Some(way(side, place))
        });
        named.or_else(|| {
            sides.iter().find_map(|side| {
                let place = balancer.pick(side, turn.at(side), is_wanted, tally, now)?;
                Some(way(side, place))
            })
        })
    }

    pub(in crate::service) fn status(&self, now: Instant) -> ZoneStatus {
        let sides = self.sides.load();
        ZoneStatus {
            own: Arc::clone(&self.own),
            local_percent: sides.percent(now, self.epoch),
            local_endpoints: sides.near.endpoints.len(),
            other_endpoints: sides.far.endpoints.len(),
        }
    }
}

impl Sides {
    /// Worked out anew now and then, since an ejection, and its end, are not announced here.
    fn percent(&self, now: Instant, epoch: Instant) -> u32 {
        let since = millis(now, epoch).saturating_sub(self.weighed.load(Relaxed));
        if since >= BELIEVED_MILLIS {
            self.weigh(now, epoch);
        }
        self.percent.load(Relaxed)
    }

    #[cold]
    fn weigh(&self, now: Instant, epoch: Instant) {
        self.weighed.store(millis(now, epoch), Relaxed);
        let [near, far] = [&self.near, &self.far].map(|side| {
            let healthy = side
                .endpoints
                .iter()
                .filter(|one| !one.health().is_out(now));
            // Who warms up is healthy to that part.
            let health = healthy.map(|one| one.health().warmth(now).unwrap_or(1.0));
            (health.sum(), side.endpoints.len() + side.resting.len())
        });
        self.percent.store(share(near, far), Relaxed);
    }
}

fn millis(now: Instant, epoch: Instant) -> u64 {
    now.saturating_duration_since(epoch).as_millis() as u64
}

/// Of a hundred requests, how many go to the own zone, by how many of its endpoints and of those of
/// all others are healthy, and are listed at all. Each side can take 1.4 times its healthy share;
/// where both together cannot take all, each has its part of what they can.
fn share(near: (f64, usize), far: (f64, usize)) -> u32 {
    let health = |(healthy, listed): (f64, usize)| match listed {
        0 => 0,
        _ => (healthy * 140.0 / listed as f64).min(100.0) as u32,
    };
    match (health(near) + health(far)).min(100) {
        // No zone is better than the other, and the own zone's endpoints are nearer.
        0 => 100,
        total => health(near) * 100 / total,
    }
}

/// Whether a turn is the own zone's, which has so many of any hundred, and its number among those of
/// its side.
fn side_of(turn: usize, percent: usize) -> (bool, usize) {
    let before = |turn: usize| turn / 100 * percent + turn % 100 * percent / 100;
    let near = before(turn);
    match before(turn + 1) > near {
        true => (true, near),
        false => (false, turn - near),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, HashMap},
        time::Duration,
    };

    use http::HeaderValue;

    use super::{super::key::testing::Request, *};
    use crate::{
        config::{self, Balance, HashKey},
        instance::Address,
        service::endpoint::testing::{endpoint, warming},
    };

    /// A service's endpoints, of which the first few are in the proxy's own zone.
    struct Stage {
        zone: Zone,
        balancer: Balancer,
        endpoints: Vec<Arc<Endpoint>>,
        near: usize,
        tally: BalanceStats,
    }

    impl Stage {
        fn new(balance: &Balance, near: usize, far: usize) -> Self {
            let stage = Self {
                zone: Zone::new("a".into()),
                balancer: Balancer::new("cart", balance),
                endpoints: (0..near + far).map(|n| endpoint(n, None)).collect(),
                near,
                tally: BalanceStats::default(),
            };
            stage.publish(balance);
            stage
        }

        fn publish(&self, balance: &Balance) {
            self.zone.publish(|is_there| {
                let there = |n: &usize| is_there(&self.instance(*n));
                let endpoints = (0..self.endpoints.len()).filter(there);
                let endpoints = endpoints.map(|n| (Arc::clone(&self.endpoints[n]), 1));
                Snapshot::new(endpoints, std::iter::empty(), balance)
            });
        }

        /// Another one takes its place, and is new.
        fn warm_up_the_first(&mut self, time: Duration) {
            self.endpoints[0] = warming(0, time);
            self.publish(&Balance::RoundRobin);
        }

        fn instance(&self, n: usize) -> Instance {
            let zone = if n < self.near { "a" } else { "b" };
            Instance {
                id: n.to_string().into(),
                address: Address::new("10.0.0.1", n as i64 + 1).unwrap(),
                tls: false,
                healthy: true,
                weight: 1,
                tags: Vec::new(),
                meta: BTreeMap::from([(ZONE.to_owned(), zone.to_owned())]),
            }
        }

        fn doubt(&self, n: usize) {
            let now = Instant::now();
            self.endpoints[n].health().connect_failed(now, now);
        }

        fn pick(
            &self,
            asked: Option<&dyn super::super::RequestInfo>,
            tried: &[usize],
        ) -> Option<usize> {
            let now = Instant::now();
            let turn = self.zone.turn(self.balancer.turn(asked, &self.tally), now);
            let number = |one: &Endpoint| one.id().instance.parse::<usize>().unwrap();
            self.zone.pick(
                &self.balancer,
                turn.tried(!tried.is_empty()),
                |one| !tried.contains(&number(one)),
                &self.tally,
                now,
                |side, place| number(&side.endpoints[place]),
            )
        }

        /// How many of so many requests go to each.
        fn counts(&self, requests: usize) -> Vec<usize> {
            let mut counts = vec![0; self.endpoints.len()];
            for _ in 0..requests {
                counts[self.pick(None, &[]).unwrap()] += 1;
            }
            counts
        }
    }

    /// A request with this header.
    fn asks(name: &str, value: &str) -> Request {
        let request = http::Request::get("/").header(name, value);
        Request(request.body(()).unwrap(), None)
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_doubted_counts_soon_and_the_own_zone_has_all_again_after() {
        let stage = Stage::new(&Balance::RoundRobin, 2, 2);
        assert_eq!(stage.counts(100), [50, 50, 0, 0]);
        stage.doubt(0);
        // Not yet heard of, and yet not picked.
        assert_eq!(stage.counts(100), [0, 100, 0, 0]);
        tokio::time::advance(Duration::from_millis(BELIEVED_MILLIS)).await;
        assert_eq!(stage.counts(100), [0, 70, 15, 15]);
        stage.doubt(1);
        tokio::time::advance(Duration::from_millis(BELIEVED_MILLIS)).await;
        assert_eq!(stage.counts(100), [0, 0, 50, 50]);
        // When its time is over one request tries it.
        tokio::time::advance(Duration::from_secs(1)).await;
        let counts = stage.counts(100);
        assert_eq!((counts[0], counts[1]), (1, 1));
        stage.endpoints[0].health().connected();
        stage.endpoints[1].health().connected();
        tokio::time::advance(Duration::from_millis(BELIEVED_MILLIS)).await;
        assert_eq!(stage.counts(100), [50, 50, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_warms_up_has_a_growing_share_though_it_is_alone_in_its_zone() {
        let mut stage = Stage::new(&Balance::RoundRobin, 1, 3);
        stage.warm_up_the_first(Duration::from_secs(10));
        assert_eq!(stage.counts(100)[0], 14);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(stage.counts(100)[0], 70);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(stage.counts(100)[0], 100);
    }

    #[test]
    fn a_request_that_was_tried_stays_in_its_zone_while_there_is_somebody() {
        for balance in [Balance::RoundRobin, Balance::P2c, Balance::LeastRequest] {
            let stage = Stage::new(&balance, 3, 3);
            assert_eq!(stage.pick(None, &[0, 2]), Some(1));
            assert!(stage.pick(None, &[0, 1, 2]).is_some_and(|n| n > 2));
            assert_eq!(stage.pick(None, &[0, 1, 2, 3, 4, 5]), None);
            stage.doubt(1);
            assert!(stage.pick(None, &[0, 2]).is_some_and(|n| n > 2));
        }
    }

    #[test]
    fn where_all_are_passed_over_it_names_nobody() {
        let stage = Stage::new(&Balance::RoundRobin, 1, 1);
        stage.doubt(0);
        stage.doubt(1);
        assert_eq!(stage.pick(None, &[]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_stay_where_they_are_but_for_as_many_as_the_zone_can_take_no_more() {
        let by = HashKey::Header(http::HeaderName::from_static("x-user"));
        let stage = Stage::new(
            &Balance::Hash(Box::new(config::Hash { by, load: None })),
            4,
            4,
        );
        let picks = || -> HashMap<usize, usize> {
            let pick = |n: usize| {
                stage
                    .pick(Some(&asks("x-user", &n.to_string())), &[])
                    .unwrap()
            };
            (0..1000).map(|user| (user, pick(user))).collect()
        };
        let before = picks();
        assert!(before.values().all(|n| *n < 4));
        assert_eq!(before, picks());
        stage.doubt(0);
        stage.doubt(1);
        tokio::time::advance(Duration::from_millis(BELIEVED_MILLIS)).await;
        let after = picks();
        // 70 % of the users stay near, and of these none moves whose endpoint is still there.
        let near = after.values().filter(|n| **n < 4).count();
        assert!((650..750).contains(&near), "{near}");
        for (user, n) in &after {
            let moved = before[user] != *n;
            assert!(!moved || *n > 3 || before[user] < 2, "{user}: {n}");
        }
    }

    #[test]
    fn a_cookie_leads_to_another_zone_and_who_has_none_does_not() {
        let settings = config::Sticky {
            cookie: Some("shop".into()),
            ..config::Sticky::default()
        };
        let balance = Balance::Sticky(Box::new(settings));
        let stage = Stage::new(&balance, 2, 2);
        let all = stage.endpoints.iter().map(|one| (Arc::clone(one), 1));
        let all = Snapshot::new(all, std::iter::empty(), &balance);
        let cookie = |n: usize| -> HeaderValue {
            let answered = |one: &Endpoint| std::ptr::eq(one, &*stage.endpoints[n]);
            let set = stage
                .balancer
                .cookie(&all, PickKey::default(), answered, &stage.tally);
            let set = set.unwrap();
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            HeaderValue::from_str(pair).unwrap()
        };
        for n in 0..4 {
            let pair = cookie(n);
            let asked = asks("cookie", pair.to_str().unwrap());
            assert_eq!(stage.pick(Some(&asked), &[]), Some(n));
        }
        assert_eq!(stage.counts(10), [5, 5, 0, 0]);
        // The endpoint that the cookie names is doubted: a near one is picked.
        stage.doubt(3);
        let asked = asks("cookie", cookie(3).to_str().unwrap());
        assert!(stage.pick(Some(&asked), &[]).is_some_and(|n| n < 2));
    }

    #[test]
    fn the_share_is_envoys_by_priority() {
        // The table of its documentation, for two priorities, among others.
        for (near, far, expected) in [
            ((100, 100), (100, 100), 100),
            ((72, 100), (100, 100), 100),
            ((71, 100), (71, 100), 99),
            ((50, 100), (50, 100), 70),
            ((25, 100), (100, 100), 35),
            ((0, 100), (100, 100), 0),
            ((25, 100), (25, 100), 50),
            ((1, 2), (2, 2), 70),
            ((1, 2), (0, 2), 100),
            ((1, 2), (0, 0), 100),
            ((0, 0), (2, 2), 0),
            ((0, 2), (0, 2), 100),
            ((0, 0), (0, 0), 100),
        ] {
            let of = |(healthy, listed): (u32, usize)| (f64::from(healthy), listed);
            assert_eq!(share(of(near), of(far)), expected, "{near:?} {far:?}");
        }
    }

    #[test]
    fn of_any_hundred_turns_each_side_has_its_share_and_counts_its_own() {
        for percent in [0, 1, 35, 50, 70, 99, 100] {
            for start in [0, 7, 99, 1_000_000_007] {
                let turns: Vec<_> = (start..start + 100).map(|n| side_of(n, percent)).collect();
                for side in [true, false] {
                    let own = turns.iter().filter(|(near, _)| *near == side);
                    let own: Vec<_> = own.map(|(_, place)| *place).collect();
                    let count = if side { percent } else { 100 - percent };
                    assert_eq!(own.len(), count, "{percent} from {start}");
                    assert!(own.windows(2).all(|two| two[0] + 1 == two[1]));
                }
            }
        }
    }
}
