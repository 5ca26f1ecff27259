//! Who is next on the board. One counter per service, which an update does not touch: over an
//! unchanged snapshot any N picks in a row, by whatever threads, hit each of N endpoints once.

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
    /// Each in turn.
    RoundRobin(Padded<AtomicUsize>),
}

impl Balancer {
    pub(super) fn new(balance: Balance) -> Self {
        match balance {
            // Proxies that start together should not all start with the same endpoint.
            Balance::RoundRobin => {
                Self::RoundRobin(Padded(AtomicUsize::new(fastrand::usize(..usize::MAX / 2))))
            }
        }
    }

    /// An endpoint of the snapshot that was not tried; one that is doubted only where there is no
    /// other.
    pub(super) fn pick<'s>(
        &self,
        snapshot: &'s Snapshot,
        tried: impl Fn(&Endpoint) -> bool,
        now: Instant,
    ) -> Option<&'s Arc<Endpoint>> {
        let endpoints = &*snapshot.endpoints;
        let Self::RoundRobin(turn) = self;
        if endpoints.is_empty() {
            return None;
        }
        let first = turn.0.fetch_add(1, Relaxed) % endpoints.len();
        let in_turn = || {
            let (before, from) = endpoints.split_at(first);
            from.iter()
                .chain(before)
                .filter(|endpoint| !tried(endpoint))
        };
        in_turn()
            .find(|endpoint| !endpoint.is_doubted(now))
            .or_else(|| in_turn().next())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{instance::Address, service::EndpointId, upstream::PoolSettings};

    fn snapshot(count: usize) -> Snapshot {
        let settings = PoolSettings {
            idle: std::time::Duration::from_secs(4),
            connections: 4,
        };
        let endpoint = |n: usize| {
            let id = EndpointId {
                instance: n.to_string().into(),
                address: Address::new("10.0.0.1", n as i64 + 1).unwrap(),
            };
            Arc::new(Endpoint::new(id, None, settings, 1))
        };
        Snapshot {
            endpoints: (0..count).map(endpoint).collect(),
            resting: Box::default(),
        }
    }

    fn pick(balancer: &Balancer, snapshot: &Snapshot, tried: &[EndpointId]) -> Option<EndpointId> {
        balancer
            .pick(
                snapshot,
                |endpoint| tried.contains(endpoint.id()),
                Instant::now(),
            )
            .map(|endpoint| endpoint.id().clone())
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
                                .filter_map(|_| pick(&balancer, &snapshot, &[]))
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
        let first = pick(&balancer, &snapshot(3), &[]).unwrap();
        let second = pick(&balancer, &snapshot(3), &[]).unwrap();
        assert_eq!((&*first.instance, &*second.instance), ("0", "1"));
    }

    #[test]
    fn whoever_was_tried_is_not_picked_again() {
        let (snapshot, balancer) = (snapshot(3), Balancer::new(Balance::RoundRobin));
        let mut tried = Vec::new();
        for _ in 0..3 {
            tried.push(pick(&balancer, &snapshot, &tried).unwrap());
        }
        assert_eq!(pick(&balancer, &snapshot, &tried), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubted_endpoint_waits_and_is_then_tried_by_one_request() {
        let (snapshot, balancer) = (snapshot(2), Balancer::new(Balance::RoundRobin));
        let doubted = &snapshot.endpoints[0];
        let times = || {
            (0..20)
                .filter_map(|_| pick(&balancer, &snapshot, &[]))
                .filter(|id| id == doubted.id())
                .count()
        };
        doubted.connect_failed(Instant::now(), Instant::now());
        assert_eq!(times(), 0);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        assert_eq!(times(), 1);
        doubted.connected();
        assert_eq!(times(), 10);
    }

    #[test]
    fn where_all_are_doubted_one_is_picked_all_the_same() {
        let (snapshot, balancer) = (snapshot(2), Balancer::new(Balance::RoundRobin));
        for endpoint in &snapshot.endpoints {
            endpoint.connect_failed(Instant::now(), Instant::now());
        }
        assert!(pick(&balancer, &snapshot, &[]).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn connects_that_fail_together_count_once() {
        let snapshot = snapshot(2);
        let endpoint = &snapshot.endpoints[0];
        let began = Instant::now();
        tokio::time::advance(std::time::Duration::from_millis(500)).await;
        for _ in 0..20 {
            endpoint.connect_failed(began, Instant::now());
        }
        assert!(endpoint.is_doubted(Instant::now()));
        tokio::time::advance(std::time::Duration::from_millis(1_001)).await;
        assert!(!endpoint.is_doubted(Instant::now()), "tried after a second");
    }
}
