//! The algorithms, as one.

use http::HeaderValue;
use tokio::time::Instant;

use super::{
    candidates::Candidates,
    hash::Hash,
    key::RequestInfo,
    least_request, p2c, peak_ewma, random,
    round_robin::{self, Turns},
    stats::BalanceStats,
    sticky::{self, Cookie},
};
use crate::{
    config::Balance,
    service::{Endpoint, Snapshot},
};

/// How an endpoint is picked, of a snapshot that was made for the same `balance`.
#[derive(Debug)]
pub enum Balancer {
    /// Each in turn; where the snapshot has an order, in that.
    RoundRobin(Turns),
    /// Anyone.
    Random,
    /// Of all the least busy.
    LeastRequest,
    /// Of two the less busy.
    P2c,
    /// Of two the faster.
    PeakEwma,
    /// The one that the key leads to.
    Hash(Box<Hash>),
    /// The one that the cookie names, else another balancer's.
    Sticky(Box<Cookie>, Box<Balancer>),
}

/// A request's place in the order, and its key where it has one.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickKey {
    pub(super) place: usize,
    pub(super) key: Option<u64>,
    /// Whether it is elsewhere than in the proxy's own zone, where that comes first.
    pub(super) is_far: bool,
    /// Whether the request was tried before.
    pub(super) is_again: bool,
}

impl PickKey {
    /// That of a request which was tried before, if it was.
    pub(in crate::service) fn tried(self, is_again: bool) -> Self {
        Self { is_again, ..self }
    }

    /// As it stands in a snapshot.
    pub(in crate::service) fn at(self, snapshot: &Snapshot) -> Self {
        match self.is_again {
            true => self.again(snapshot),
            false => self,
        }
    }

    /// The same request's, which was tried before.
    pub(in crate::service) fn again(self, snapshot: &Snapshot) -> Self {
        let place = round_robin::again(self.place, snapshot);
        Self { place, ..self }
    }
}

impl Balancer {
    /// That of a service with this name.
    pub(in crate::service) fn new(service: &str, balance: &Balance) -> Self {
        match balance {
            Balance::RoundRobin | Balance::Weighted => Self::RoundRobin(Turns::anywhere()),
            Balance::Random => Self::Random,
            Balance::LeastRequest => Self::LeastRequest,
            Balance::P2c => Self::P2c,
            Balance::PeakEwma { .. } => Self::PeakEwma,
            Balance::Hash(hash) => Self::Hash(Box::new(Hash::new(hash))),
            Balance::Sticky(settings) => {
                let fallback = Self::new(service, &settings.fallback);
                Self::Sticky(Box::new(Cookie::new(service, settings)), Box::new(fallback))
            }
        }
    }

    /// The next turn, of a request where there is one.
    pub(in crate::service) fn turn(
        &self,
        asked: Option<&dyn RequestInfo>,
        tally: &BalanceStats,
    ) -> PickKey {
        self.turn_by(asked, tally, Turns::next)
    }

    /// The turn with this number, of a request that is not made: the turns go on as if it had none.
    pub(in crate::service) fn turn_aside(
        &self,
        asked: &dyn RequestInfo,
        tally: &BalanceStats,
        number: usize,
    ) -> PickKey {
        self.turn_by(Some(asked), tally, |_| number)
    }

    fn turn_by(
        &self,
        asked: Option<&dyn RequestInfo>,
        tally: &BalanceStats,
        next: impl Fn(&Turns) -> usize,
    ) -> PickKey {
        match self {
            Self::RoundRobin(turns) => PickKey {
                place: next(turns),
                ..PickKey::default()
            },
            Self::Random | Self::LeastRequest | Self::P2c | Self::PeakEwma => PickKey::default(),
            Self::Hash(hash) => {
                let key = asked.and_then(|asked| hash.key(asked));
                if key.is_none() {
                    tally.keyless.add_one();
                }
                PickKey {
                    key,
                    ..PickKey::default()
                }
            }
            Self::Sticky(cookie, fallback) => match asked.and_then(|asked| cookie.token(asked)) {
                // A request with a cookie takes no turn of the fallback's: requests without one
                // would else be sent to every other endpoint only.
                Some(token) => PickKey {
                    place: fastrand::usize(..),
                    key: Some(token),
                    ..PickKey::default()
                },
                None => fallback.turn_by(asked, tally, next),
            },
        }
    }

    /// How many turns a round has; 0 where there are no turns.
    pub(in crate::service) fn round(&self, snapshot: &Snapshot) -> usize {
        match self {
            Self::RoundRobin(_) => round_robin::turns(snapshot),
            Self::Sticky(_, fallback) => fallback.round(snapshot),
            Self::Random | Self::LeastRequest | Self::P2c | Self::PeakEwma | Self::Hash(_) => 0,
        }
    }

    /// See [`Turns::break_step`].
    pub(in crate::service) fn break_step(&self) {
        match self {
            Self::RoundRobin(turns) => turns.break_step(),
            Self::Sticky(_, fallback) => fallback.break_step(),
            Self::Random | Self::LeastRequest | Self::P2c | Self::PeakEwma | Self::Hash(_) => {}
        }
    }

    /// The place of the endpoint whose turn it is of those that are wanted; one that is passed over
    /// only where there is no other.
    pub(in crate::service) fn pick(
        &self,
        snapshot: &Snapshot,
        turn: PickKey,
        wanted: impl Fn(&Endpoint) -> bool,
        tally: &BalanceStats,
        now: Instant,
    ) -> Option<usize> {
        let among = Candidates::new(snapshot, wanted, now)?;
        self.place(turn, &among, tally).or_else(|| {
            // The endpoints that were drawn cannot be picked, and so next to none can: take the first
            // that can.
            let start = turn.key.unwrap_or_else(|| fastrand::u64(..));
            among.first_from(start as usize)
        })
    }

    /// The place of the endpoint that the request's cookie names, where it is wanted and not passed
    /// over.
    pub(super) fn named(
        &self,
        snapshot: &Snapshot,
        turn: PickKey,
        wanted: impl Fn(&Endpoint) -> bool,
        now: Instant,
    ) -> Option<usize> {
        let Self::Sticky(..) = self else { return None };
        sticky::pick(turn.key, &Candidates::new(snapshot, wanted, now)?)
    }

    fn place(
        &self,
        turn: PickKey,
        among: &Candidates<'_, impl Fn(&Endpoint) -> bool>,
        tally: &BalanceStats,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(_) => round_robin::pick(turn.place, among),
            Self::Random => random::pick(among),
            Self::LeastRequest => least_request::pick(among),
            Self::P2c => p2c::pick(among),
            Self::PeakEwma => peak_ewma::pick(among),
            Self::Hash(hash) => hash.pick(turn.key, among, tally),
            Self::Sticky(_, fallback) => {
                sticky::pick(turn.key, among).or_else(|| fallback.place(turn, among, tally))
            }
        }
    }

    /// What sets the client's cookie to the endpoint that has answered, where it does not name that
    /// one already; `None` too where there are no cookies.
    pub(in crate::service) fn cookie(
        &self,
        snapshot: &Snapshot,
        turn: PickKey,
        answered: impl Fn(&Endpoint) -> bool,
        tally: &BalanceStats,
    ) -> Option<HeaderValue> {
        let Self::Sticky(cookie, _) = self else {
            return None;
        };
        let named = turn
            .key
            .and_then(|token| snapshot.tables.tokens.place(token));
        if named.is_some_and(|place| answered(&snapshot.endpoints[place])) {
            return None;
        }
        // One that has been removed since is not named any more.
        let mut endpoints = snapshot.endpoints.iter();
        let endpoint = endpoints.find(|endpoint| answered(endpoint))?;
        if turn.key.is_some() {
            tally.moved.add_one();
        }
        Some(cookie.set(endpoint.id()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, HashSet},
        time::Duration,
    };

    use super::{
        super::{key::testing::Request, loaded::Loads},
        *,
    };
    use crate::{
        config::{self, HashKey},
        service::endpoint::testing::endpoint,
        upstream::InFlight,
    };

    /// A balancer, a snapshot, and what it counts.
    struct Scene {
        balancer: Balancer,
        snapshot: Snapshot,
        tally: BalanceStats,
        now: Instant,
    }

    impl Scene {
        /// As many endpoints as there are weights; their ids are their places.
        fn new(balance: &Balance, weights: &[u32]) -> Self {
            let loads = Loads::of_all(std::iter::once(balance));
            let endpoints = (0..)
                .zip(weights)
                .map(|(n, weight)| (endpoint(n, loads.load()), *weight));
            Self {
                balancer: Balancer::new("cart", balance),
                snapshot: Snapshot::new(endpoints, std::iter::empty(), balance),
                tally: BalanceStats::default(),
                now: Instant::now(),
            }
        }

        fn turn(&self) -> PickKey {
            self.balancer.turn(None, &self.tally)
        }

        fn keyed(key: u64) -> PickKey {
            PickKey {
                key: Some(key),
                ..PickKey::default()
            }
        }

        fn pick_at(&self, turn: PickKey) -> Option<usize> {
            let (snapshot, tally) = (&self.snapshot, &self.tally);
            self.balancer
                .pick(snapshot, turn, |_| true, tally, self.now)
        }

        fn pick(&self) -> Option<usize> {
            self.pick_at(self.turn())
        }

        /// All that a request is sent to which every endpoint fails, in their order.
        fn walk_at(&self, turn: PickKey) -> Vec<usize> {
            let mut walked: Vec<usize> = self.pick_at(turn).into_iter().collect();
            while let Some(next) = self.balancer.pick(
                &self.snapshot,
                turn.again(&self.snapshot),
                |endpoint| !walked.contains(&place(endpoint)),
                &self.tally,
                self.now,
            ) {
                walked.push(next);
            }
            walked
        }

        fn walk(&self) -> Vec<usize> {
            self.walk_at(self.turn())
        }

        /// How often each is picked first, of so many times.
        fn counts(&self, times: usize) -> Vec<usize> {
            let mut counts = vec![0; self.snapshot.endpoints.len()];
            for _ in 0..times {
                counts[self.pick().unwrap()] += 1;
            }
            counts
        }

        fn doubt(&self, place: usize) {
            let endpoint = &self.snapshot.endpoints[place];
            endpoint.health().connect_failed(self.now, self.now);
        }

        fn enter(&self, place: usize) -> InFlight {
            self.snapshot.endpoints[place].pool(0).enter()
        }
    }

    fn place(endpoint: &Endpoint) -> usize {
        endpoint.id().instance.parse().unwrap()
    }

    fn hash(load: Option<f64>) -> Balance {
        let by = HashKey::Header(http::HeaderName::from_static("x-user"));
        Balance::Hash(Box::new(config::Hash { by, load }))
    }

    fn sticky(fallback: Balance) -> Balance {
        Balance::Sticky(Box::new(config::Sticky {
            cookie: Some("shop".into()),
            fallback: Box::new(fallback),
            ..config::Sticky::default()
        }))
    }

    fn peak_ewma() -> Balance {
        Balance::PeakEwma {
            decay: Duration::from_secs(10),
        }
    }

    /// One of each.
    fn every_balance() -> Vec<Balance> {
        vec![
            Balance::RoundRobin,
            Balance::Weighted,
            Balance::Random,
            Balance::LeastRequest,
            Balance::P2c,
            peak_ewma(),
            hash(None),
            hash(Some(1.25)),
            sticky(Balance::RoundRobin),
            sticky(Balance::P2c),
        ]
    }

    /// A turn of each kind that this balancer knows.
    fn turns(board: &Scene) -> [PickKey; 2] {
        [board.turn(), Scene::keyed(fastrand::u64(..))]
    }

    #[test]
    fn whatever_the_algorithm_a_request_goes_to_each_endpoint_once() {
        for balance in every_balance() {
            for count in 0..6 {
                let board = Scene::new(&balance, &vec![1; count]);
                for turn in (0..50).flat_map(|_| turns(&board)) {
                    let walked = board.walk_at(turn);
                    let distinct: HashSet<_> = walked.iter().collect();
                    let lengths = (walked.len(), distinct.len());
                    assert_eq!(lengths, (count, count), "{balance:?}");
                }
            }
        }
    }

    #[test]
    fn whatever_the_algorithm_who_is_doubted_is_picked_only_where_there_is_no_other() {
        for balance in every_balance() {
            let board = Scene::new(&balance, &[1, 5, 1, 1]);
            for doubted in [1, 0, 3] {
                board.doubt(doubted);
            }
            for turn in (0..100).flat_map(|_| turns(&board)) {
                assert_eq!(board.pick_at(turn), Some(2), "{balance:?}");
                assert_eq!(board.walk_at(turn).len(), 4, "{balance:?}");
            }
            board.doubt(2);
            for turn in turns(&board) {
                assert!(board.pick_at(turn).is_some(), "{balance:?}");
            }
        }
    }

    #[test]
    fn whatever_the_algorithm_a_pick_looks_at_an_endpoint_twice_at_most() {
        const COUNT: usize = 1000;
        // Draws come first.
        const MOST: usize = 2 * COUNT + 100;
        for balance in every_balance() {
            let board = Scene::new(&balance, &[1; COUNT]);
            for (turn, only) in turns(&board).into_iter().zip([None, Some(COUNT / 2)]) {
                let looks = std::cell::Cell::new(0);
                let is_wanted = |endpoint: &Endpoint| {
                    looks.set(looks.get() + 1);
                    only == Some(place(endpoint))
                };
                let (snapshot, tally, now) = (&board.snapshot, &board.tally, board.now);
                let picked = board.balancer.pick(snapshot, turn, is_wanted, tally, now);
                assert_eq!(picked, only, "{balance:?}");
                assert!(looks.get() <= MOST, "{balance:?}: {} looks", looks.get());
            }
        }
    }

    #[test]
    fn n_picks_by_any_number_of_threads_hit_each_of_n_endpoints_once() {
        let board = Scene::new(&Balance::RoundRobin, &[1; 1000]);
        for threads in [1, 2, 4] {
            let picked = std::thread::scope(|scope| {
                let pickers: Vec<_> = (0..threads)
                    .map(|_| {
                        scope.spawn(|| -> Vec<_> {
                            (0..1000 / threads).filter_map(|_| board.pick()).collect()
                        })
                    })
                    .collect();
                pickers
                    .into_iter()
                    .flat_map(|picker| picker.join().unwrap())
                    .fold(HashMap::new(), |mut counts, place| {
                        *counts.entry(place).or_insert(0) += 1;
                        counts
                    })
            });
            assert_eq!(picked.len(), 1000, "{threads} threads");
            assert!(picked.values().all(|count| *count == 1));
        }
    }

    #[test]
    fn an_update_does_not_start_from_the_first_again() {
        let mut board = Scene::new(&Balance::RoundRobin, &[1; 3]);
        board.balancer = Balancer::RoundRobin(Turns::from(0));
        let first = board.pick();
        board.snapshot = Scene::new(&Balance::RoundRobin, &[1; 3]).snapshot;
        assert_eq!((first, board.pick()), (Some(0), Some(1)));
    }

    #[test]
    fn a_request_that_is_repeated_takes_one_turn() {
        let board = Scene::new(&Balance::RoundRobin, &[1; 4]);
        let mut firsts = [0; 4];
        for _ in 0..40 {
            firsts[board.walk()[0]] += 1;
        }
        assert_eq!(firsts, [10; 4]);
    }

    #[test]
    fn where_weights_differ_each_has_its_share_of_turns() {
        let board = Scene::new(&Balance::Weighted, &[5, 3, 2]);
        let mut firsts = [0; 3];
        for _ in 0..1000 {
            let walked = board.walk();
            assert_eq!(walked.len(), 3);
            firsts[walked[0]] += 1;
        }
        assert_eq!(firsts, [500, 300, 200]);
    }

    #[test]
    fn what_one_endpoint_fails_is_spread_over_all_the_others() {
        let board = Scene::new(&Balance::RoundRobin, &[1; 4]);
        let mut seconds = [0; 4];
        for _ in 0..4 * 30 {
            let walked = board.walk();
            if walked[0] == 2 {
                seconds[walked[1]] += 1;
            }
        }
        assert_eq!(seconds, [10, 10, 0, 10]);
    }

    #[test]
    fn anyone_is_picked_as_often_as_any_other_and_so_is_who_is_left() {
        for balance in [
            Balance::Random,
            Balance::P2c,
            Balance::LeastRequest,
            hash(None),
        ] {
            let board = Scene::new(&balance, &[1; 10]);
            let counts = board.counts(20_000);
            assert!(
                counts.iter().all(|count| (1_750..2_250).contains(count)),
                "{balance:?}: {counts:?}"
            );
            board.doubt(4);
            let counts = board.counts(20_000);
            assert_eq!(counts[4], 0);
            let others = || counts.iter().filter(|count| **count > 0);
            assert_eq!(others().count(), 9);
            assert!(
                others().all(|count| (1_900..2_600).contains(count)),
                "{balance:?}: {counts:?}"
            );
        }
    }

    #[test]
    fn the_least_busy_of_all_is_picked_by_its_weight() {
        let board = Scene::new(&Balance::LeastRequest, &[1, 1, 3]);
        let _two = [board.enter(0), board.enter(1)];
        let mut third: Vec<InFlight> = Vec::new();
        // It may have three where they have one.
        for _ in 0..2 {
            assert_eq!(board.pick(), Some(2));
            third.push(board.enter(2));
        }
        assert_eq!(board.pick(), Some(2));
        drop(third);
        board.doubt(2);
        let _busier = board.enter(0);
        assert_eq!(board.pick(), Some(1));
    }

    /// How many each works on where requests come and never end.
    fn pile_up(balance: &Balance, weights: &[u32], requests: usize) -> Vec<u64> {
        let board = Scene::new(balance, weights);
        let _all: Vec<_> = (0..requests)
            .map(|_| board.enter(board.pick().unwrap()))
            .collect();
        let endpoints = board.snapshot.endpoints.iter();
        endpoints.map(|endpoint| endpoint.in_flight()).collect()
    }

    #[test]
    fn what_piles_up_is_even_and_as_the_weights_ask() {
        // Once in two hundred times chance leaves one with 5.
        fastrand::seed(7);
        assert_eq!(pile_up(&Balance::LeastRequest, &[1; 50], 500), [10; 50]);
        assert_eq!(
            pile_up(&Balance::LeastRequest, &[1, 2, 7], 1000),
            [100, 200, 700]
        );
        // Random picks would leave some with 20 or more; two choices are within a few of each other.
        let two = pile_up(&Balance::P2c, &[1; 50], 500);
        assert!(two.iter().all(|count| (6..=13).contains(count)), "{two:?}");
        let two = pile_up(&Balance::P2c, &[1, 2, 7], 1000);
        for (count, due) in std::iter::zip(&two, [100, 200, 700]) {
            assert!(count.abs_diff(due) <= 40, "{two:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_of_two_that_answers_sooner_is_picked_until_it_is_busier() {
        let mut board = Scene::new(&peak_ewma(), &[1; 2]);
        let began = Instant::now();
        tokio::time::advance(Duration::from_millis(10)).await;
        board.snapshot.endpoints[0].pool(0).took(began);
        tokio::time::advance(Duration::from_millis(30)).await;
        board.snapshot.endpoints[1].pool(0).took(began);
        board.now = Instant::now();
        let mut fast = Vec::new();
        for _ in 0..3 {
            assert_eq!(board.counts(20), [20, 0]);
            fast.push(board.enter(0));
        }
        // Five times 10 ms are worse than 40 ms.
        fast.push(board.enter(0));
        assert_eq!(board.counts(20), [0, 20]);
        drop(fast);
        // Who has not answered for long is tried again, and so is who is new.
        tokio::time::advance(Duration::from_secs(60)).await;
        let began = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        board.snapshot.endpoints[0].pool(0).took(began);
        board.now = Instant::now();
        assert_eq!(board.counts(20), [0, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_slow_one_of_many_gets_clearly_less() {
        let mut board = Scene::new(&peak_ewma(), &[1; 4]);
        for (endpoint, millis) in std::iter::zip(&board.snapshot.endpoints, [100, 10, 10, 10]) {
            let began = Instant::now();
            tokio::time::advance(Duration::from_millis(millis)).await;
            endpoint.pool(0).took(began);
        }
        board.now = Instant::now();
        assert_eq!(board.counts(1000)[0], 0);
    }

    #[test]
    fn a_key_stays_with_its_endpoint_and_those_who_have_none_go_to_anyone() {
        let board = Scene::new(&hash(None), &[1; 20]);
        for key in 0..100 {
            let first = board.walk_at(Scene::keyed(key * 7_919));
            assert_eq!(
                first,
                board.walk_at(Scene::keyed(key * 7_919)),
                "and its next choices"
            );
        }
        assert_eq!(board.tally.keyless.value(), 0);
        assert!(board.counts(2000).iter().all(|count| *count > 0));
        assert_eq!(board.tally.keyless.value(), 2000);
    }

    #[test]
    fn a_key_is_read_from_the_request() {
        let board = Scene::new(&hash(None), &[1; 20]);
        let ask = |user: &str| {
            let request = http::Request::get("/").header("x-user", user);
            let request = Request(request.body(()).unwrap(), None);
            board.pick_at(board.balancer.turn(Some(&request), &board.tally))
        };
        assert_eq!(ask("ann"), ask("ann"));
        let users: HashSet<_> = (0..50).map(|n| ask(&n.to_string())).collect();
        assert!(users.len() > 10);
        assert_eq!(board.tally.keyless.value(), 0);
    }

    #[test]
    fn a_bound_holds_whatever_the_keys_and_moves_no_key_that_is_within_it() {
        for (load, weights) in [(1.0, &[1; 7][..]), (1.25, &[1; 10]), (1.5, &[1, 2, 3, 4])] {
            let board = Scene::new(&hash(Some(load)), weights);
            let free = Scene::new(&hash(None), weights);
            let sum: u32 = weights.iter().sum();
            let mut random = fastrand::Rng::with_seed(11);
            let mut all = Vec::new();
            for n in 0..2000 {
                // One key of three is the same, which is more than anybody's share.
                let key = if n % 3 == 0 { 42 } else { random.u64(..) };
                let key = Scene::keyed(key);
                let before = board.tally.overflowed.value();
                let place = board.pick_at(key).unwrap();
                if board.tally.overflowed.value() == before {
                    assert_eq!(Some(place), free.pick_at(key), "it is its own");
                } else {
                    assert_ne!(Some(place), free.pick_at(key), "it had no room");
                }
                all.push(board.enter(place));
                if random.u8(..4) == 0 {
                    all.swap_remove(random.usize(..all.len()));
                }
                let share = f64::from(weights[place]) / f64::from(sum);
                // All that are in flight, and one that may have ended since.
                let bound = (load * (all.len() + 1) as f64 * share).ceil() as u64;
                let has = board.snapshot.endpoints[place].in_flight();
                assert!(has <= bound, "{has} > {bound} of {}", all.len());
            }
            assert!(board.tally.overflowed.value() > 100);
        }
    }

    #[test]
    fn a_cookie_leads_to_whom_it_names_and_else_to_whom_the_fallback_says() {
        let board = Scene::new(&sticky(Balance::RoundRobin), &[1; 4]);
        let set_by = |turn: PickKey, place: usize| {
            let answered = |endpoint: &Endpoint| self::place(endpoint) == place;
            board
                .balancer
                .cookie(&board.snapshot, turn, answered, &board.tally)
        };
        let turn_of = |cookie: &HeaderValue| {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let request = http::Request::get("/").header("cookie", pair);
            let request = Request(request.body(()).unwrap(), None);
            board.balancer.turn(Some(&request), &board.tally)
        };
        // Those who come first go round.
        let firsts: HashSet<_> = (0..4).map(|_| board.pick()).collect();
        assert_eq!(firsts.len(), 4);
        for place in 0..4 {
            let cookie = set_by(board.turn(), place).unwrap();
            let turn = turn_of(&cookie);
            assert_eq!(board.pick_at(turn), Some(place));
            assert_eq!(set_by(turn, place), None, "it has it already");
            assert_eq!(board.tally.moved.value(), place as u64);
            // It is doubted: another answers, and is named from then on.
            board.doubt(place);
            let other = board.pick_at(turn).unwrap();
            board.snapshot.endpoints[place].health().connected();
            assert_ne!(other, place);
            let next = set_by(turn, other).unwrap();
            assert_eq!(board.pick_at(turn_of(&next)), Some(other));
        }
        // Requests with a cookie take no turn of those without.
        let cookie = set_by(board.turn(), 0).unwrap();
        let first = board.pick().unwrap();
        assert_eq!(board.pick_at(turn_of(&cookie)), Some(0));
        assert_eq!(board.pick(), Some((first + 1) % 4));
        // A cookie that was made up names no endpoint: it is set to the endpoint that answers.
        let made_up = turn_of(&HeaderValue::from_static("shop=0123456789abcdef"));
        let answers = board.pick_at(made_up).unwrap();
        assert!(set_by(made_up, answers).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubted_endpoint_waits_and_is_then_tried_by_one_request() {
        for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::P2c] {
            let mut board = Scene::new(&balance, &[1; 2]);
            board.doubt(0);
            assert_eq!(board.counts(20), [0, 20]);
            tokio::time::advance(Duration::from_secs(1)).await;
            board.now = Instant::now();
            assert_eq!(board.counts(50), [1, 49], "{balance:?}");
            board.snapshot.endpoints[0].health().connected();
            assert!(board.counts(50)[0] > 10, "{balance:?}");
        }
    }

    #[test]
    fn the_turns_of_one_that_is_passed_over_are_spread_over_all_the_others() {
        for weights in [vec![1; 4], vec![2, 2, 2, 1]] {
            let board = Scene::new(&Balance::Weighted, &weights);
            board.doubt(3);
            let counts = board.counts(7 * 4 * 30);
            let rest = &counts[..3];
            assert_eq!(counts[3], 0);
            let (least, most) = (rest.iter().min().unwrap(), rest.iter().max().unwrap());
            assert!(most - least <= 20, "{counts:?}");
        }
    }
}
