//! A route's requests, parted among services by weight: exactly, over each round of turns, and as
//! evenly within one as can be. A retry stays with the service that was chosen. Knows nothing of
//! routes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{Service, balance::order};
use crate::metrics::{Counter, Padded};

/// Services and their shares.
#[derive(Debug)]
pub struct Split {
    shares: Box<[Share]>,
    /// The places of those shares that have turns, in the order of their turns in a round.
    turns: Box<[u32]>,
    next: Padded<AtomicUsize>,
}

/// One of them.
#[derive(Debug)]
pub struct Share {
    /// Who gets it.
    pub service: Arc<Service>,
    /// Its part of the sum of all weights.
    pub weight: u32,
    /// What each worker has sent there.
    requests: Box<[Padded<Counter>]>,
}

impl Split {
    /// Of services with their weights, of which at least one is more than 0.
    pub(crate) fn new(shares: impl Iterator<Item = (Arc<Service>, u32)>, workers: usize) -> Self {
        let shares: Box<[Share]> = shares
            .map(|(service, weight)| Share {
                service,
                weight,
                requests: (0..workers).map(|_| Padded::default()).collect(),
            })
            .collect();
        let active = std::iter::zip(0.., &shares).filter(|(_, share)| share.weight > 0);
        let (places, weights): (Vec<u32>, Vec<u32>) =
            active.map(|(place, share)| (place, share.weight)).unzip();
        let turns = match order(&weights) {
            // As many turns for each: one.
            order if order.is_empty() => places.into(),
            order => order.iter().map(|at| places[*at as usize]).collect(),
        };
        Self {
            shares,
            turns,
            // Proxies that start together should not all start with the same.
            next: Padded(AtomicUsize::new(fastrand::usize(..usize::MAX / 2))),
        }
    }

    /// The service whose turn it is; counted as this worker's request.
    pub fn next(&self, worker: usize) -> &Arc<Service> {
        let turn = self.next.fetch_add(1, Relaxed) % self.turns.len();
        let share = &self.shares[self.turns[turn] as usize];
        share.requests[worker].add_one();
        &share.service
    }

    /// All shares, in the file's order.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }
}

impl Share {
    /// Requests that were sent there.
    pub fn requests(&self) -> u64 {
        self.requests.iter().map(|counter| counter.value()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, upstream::Tls};

    fn split(weights: &[u32]) -> Split {
        let config = Config::parse("[[route]]\nservice = \"a\"\n", std::path::Path::new("."));
        let policy = config.unwrap().defaults;
        let tls = Arc::new(Tls::open(&policy.tls).unwrap());
        let service = |(weight, n): (&u32, usize)| {
            let (policy, tls) = (policy.clone(), Arc::clone(&tls));
            let service = Service::new(n.to_string().into(), policy, tls, 2, [], Arc::default());
            (Arc::new(service), *weight)
        };
        Split::new(std::iter::zip(weights, 0..).map(service), 2)
    }

    fn counts(split: &Split) -> Vec<u64> {
        split.shares().iter().map(Share::requests).collect()
    }

    #[test]
    fn shares_are_exact_whoever_asks() {
        for (weights, expected) in [
            (&[95, 5][..], &[950, 50][..]),
            (&[1, 1, 0, 2], &[250, 250, 0, 500]),
            (&[7], &[1000]),
            (&[0, 3, 3], &[0, 500, 500]),
        ] {
            let split = split(weights);
            std::thread::scope(|scope| {
                for worker in 0..2 {
                    let split = &split;
                    scope.spawn(move || {
                        for _ in 0..500 {
                            split.next(worker);
                        }
                    });
                }
            });
            assert_eq!(counts(&split), expected, "{weights:?}");
        }
    }

    #[test]
    fn a_small_share_is_spread_and_not_had_at_once() {
        let split = split(&[95, 5]);
        let small = |_| usize::from(&**split.next(0).name() == "1");
        for _ in 0..50 {
            let had: usize = (0..20).map(small).sum();
            assert_eq!(had, 1, "one of any twenty");
        }
    }
}
