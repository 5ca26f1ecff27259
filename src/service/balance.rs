//! Who is next on the board. One counter per service, which an update does not touch: over an
//! unchanged snapshot any N requests in a row, on whatever threads, go to each of N endpoints once.
//! A request has one turn, however often it is tried: were a retry a turn of its own, the requests
//! after it would fall in step with the endpoint that fails.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::time::Instant;

use super::{Endpoint, Snapshot};
use crate::{config::Balance, metrics::Padded};

/// How an endpoint is picked.
#[derive(Debug)]
pub enum Balancer {
    /// Each in turn; where the snapshot has an order, in that.
    RoundRobin(Padded<AtomicUsize>),
}

/// A request's place in the order.
#[derive(Clone, Copy, Debug)]
pub struct Turn(usize);

impl Balancer {
    pub(super) fn new(balance: Balance) -> Self {
        match balance {
            // Proxies that start together should not all start with the same endpoint.
            Balance::RoundRobin | Balance::Weighted => {
                Self::RoundRobin(Padded(AtomicUsize::new(fastrand::usize(..usize::MAX / 2))))
            }
        }
    }

    /// The next turn.
    pub(super) fn turn(&self) -> Turn {
        let Self::RoundRobin(next) = self;
        Turn(next.0.fetch_add(1, Relaxed))
    }

    /// The endpoint whose turn it is; one that is doubted only where there is no other.
    pub(super) fn pick<'s>(
        &self,
        snapshot: &'s Snapshot,
        turn: Turn,
        now: Instant,
    ) -> Option<&'s Arc<Endpoint>> {
        first_trusted(snapshot, turn.0, |_| true, now)
    }

    /// The same for a request that was tried before, among those that were not.
    pub(super) fn pick_other<'s>(
        &self,
        snapshot: &'s Snapshot,
        turn: Turn,
        tried: impl Fn(&Endpoint) -> bool,
        now: Instant,
    ) -> Option<&'s Arc<Endpoint>> {
        // Those that one endpoint has failed are spread over all the others: from round to round
        // they begin with another, and not all with its neighbour.
        let count = snapshot.turns().max(2);
        let start = turn.0.wrapping_add(1 + turn.0 / count % (count - 1));
        first_trusted(snapshot, start, |endpoint| !tried(endpoint), now)
    }
}

/// The first in a row, which begins at `start` and goes round once, that is wanted and not
/// doubted; where all are doubted the first that is wanted.
fn first_trusted(
    snapshot: &Snapshot,
    start: usize,
    wanted: impl Fn(&Endpoint) -> bool,
    now: Instant,
) -> Option<&Arc<Endpoint>> {
    let turns = snapshot.turns();
    let first = start.checked_rem(turns)?;
    let in_turn = || {
        (first..turns)
            .chain(0..first)
            .map(|turn| snapshot.at(turn))
            .filter(|endpoint| wanted(endpoint))
    };
    in_turn()
        .find(|endpoint| !endpoint.life().is_passed_over(now))
        .or_else(|| in_turn().next())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::service::{EndpointId, endpoint::testing::endpoint};

    fn snapshot(count: usize) -> Snapshot {
        Snapshot {
            endpoints: (0..count).map(endpoint).collect(),
            order: Box::default(),
            resting: Box::default(),
        }
    }

    fn pick(balancer: &Balancer, snapshot: &Snapshot) -> Option<EndpointId> {
        let picked = balancer.pick(snapshot, balancer.turn(), Instant::now());
        picked.map(|endpoint| endpoint.id().clone())
    }

    /// All that a request is sent to which every endpoint fails, in their order.
    fn walk(balancer: &Balancer, snapshot: &Snapshot) -> Vec<EndpointId> {
        let (turn, now) = (balancer.turn(), Instant::now());
        let mut walked: Vec<EndpointId> = Vec::new();
        let first = balancer.pick(snapshot, turn, now);
        walked.extend(first.map(|endpoint| endpoint.id().clone()));
        while let Some(next) = balancer.pick_other(
            snapshot,
            turn,
            |endpoint| walked.contains(endpoint.id()),
            now,
        ) {
            walked.push(next.id().clone());
        }
        walked
    }

    #[test]
    fn n_picks_by_any_number_of_threads_hit_each_of_n_endpoints_once() {
        let (snapshot, balancer) = (snapshot(1000), Balancer::new(Balance::RoundRobin));
        for threads in [1, 2, 4] {
            let picked = std::thread::scope(|scope| {
                let pickers: Vec<_> = (0..threads)
                    .map(|_| {
                        scope.spawn(|| -> Vec<_> {
                            (0..1000 / threads)
                                .filter_map(|_| pick(&balancer, &snapshot))
                                .collect()
                        })
                    })
                    .collect();
                pickers
                    .into_iter()
                    .flat_map(|picker| picker.join().unwrap())
                    .fold(HashMap::new(), |mut counts, id| {
                        *counts.entry(id).or_insert(0) += 1;
                        counts
                    })
            });
            assert_eq!(picked.len(), 1000, "{threads} threads");
            assert!(picked.values().all(|count| *count == 1));
        }
    }

    #[test]
    fn an_update_does_not_start_from_the_first_again() {
        let balancer = Balancer::new(Balance::RoundRobin);
        let Balancer::RoundRobin(turn) = &balancer;
        turn.0.store(0, Relaxed);
        let first = pick(&balancer, &snapshot(3)).unwrap();
        let second = pick(&balancer, &snapshot(3)).unwrap();
        assert_eq!((&*first.instance, &*second.instance), ("0", "1"));
    }

    #[test]
    fn a_request_goes_to_each_endpoint_once_and_takes_one_turn() {
        for count in 0..5 {
            let (snapshot, balancer) = (snapshot(count), Balancer::new(Balance::RoundRobin));
            let mut firsts = HashMap::new();
            for _ in 0..count * 10 {
                let walked = walk(&balancer, &snapshot);
                let distinct: std::collections::HashSet<_> = walked.iter().collect();
                assert_eq!((walked.len(), distinct.len()), (count, count));
                *firsts.entry(walked[0].clone()).or_insert(0) += 1;
            }
            assert_eq!(firsts.len(), count);
            assert!(firsts.values().all(|first| *first == 10), "{firsts:?}");
            assert_eq!(walk(&balancer, &snapshot).len(), count);
        }
    }

    #[test]
    fn where_weights_differ_each_has_its_share_and_a_request_goes_to_each_once() {
        let mut snapshot = snapshot(3);
        snapshot.order = crate::service::order::order(&[5, 3, 2]);
        let balancer = Balancer::new(Balance::Weighted);
        let mut firsts = HashMap::new();
        for _ in 0..1000 {
            let walked = walk(&balancer, &snapshot);
            assert_eq!(walked.len(), 3);
            *firsts.entry(walked[0].instance.to_string()).or_insert(0) += 1;
        }
        let shares = ["0", "1", "2"].map(|id| firsts[id]);
        assert_eq!(shares, [500, 300, 200]);
    }

    #[test]
    fn what_one_endpoint_fails_is_spread_over_all_the_others() {
        let (snapshot, balancer) = (snapshot(4), Balancer::new(Balance::RoundRobin));
        let bad = snapshot.endpoints[2].id();
        let mut seconds = HashMap::new();
        for _ in 0..4 * 30 {
            let walked = walk(&balancer, &snapshot);
            if walked[0] == *bad {
                *seconds.entry(walked[1].clone()).or_insert(0) += 1;
            }
        }
        assert_eq!(seconds.len(), 3);
        assert!(seconds.values().all(|second| *second == 10), "{seconds:?}");
    }

    #[test]
    fn where_all_are_doubted_one_is_picked_all_the_same() {
        let (snapshot, balancer) = (snapshot(2), Balancer::new(Balance::RoundRobin));
        for endpoint in &snapshot.endpoints {
            endpoint
                .life()
                .connect_failed(Instant::now(), Instant::now());
        }
        assert!(pick(&balancer, &snapshot).is_some());
    }
}
