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
    /// What tells it from others: which requests are parted.
    of: String,
    shares: Box<[Share]>,
    /// The places of those shares that have turns, in the order of their turns in a round.
    turns: Box<[u32]>,
    next: Arc<Padded<AtomicUsize>>,
}

/// One of them.
#[derive(Debug)]
pub struct Share {
    /// Who gets it.
    pub service: Arc<Service>,
    /// Its part of the sum of all weights.
    pub weight: u32,
    /// What each worker has sent there.
    requests: Arc<[Padded<Counter>]>,
}

impl Split {
    /// Of services with their weights, of which at least one is more than 0; with the counts, and the
    /// turns where the weights are the same, of the one before.
    pub(crate) fn after(
        of: String,
        shares: impl Iterator<Item = (Arc<Service>, u32)>,
        workers: usize,
        before: Option<&Self>,
    ) -> Self {
        let known = |name: &str| {
            let mut shares = before?.shares.iter();
            shares.find(|share| **share.service.name() == *name)
        };
        let shares: Box<[Share]> = shares
            .map(|(service, weight)| Share {
                requests: match known(service.name()) {
                    Some(share) => Arc::clone(&share.requests),
                    None => (0..workers).map(|_| Padded::default()).collect(),
                },
                service,
                weight,
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
        let same = before.filter(|before| before.turns == turns);
        let next = match same {
            Some(same) => Arc::clone(&same.next),
            // Proxies that start together should not all start with the same.
            None => Arc::new(Padded(AtomicUsize::new(fastrand::usize(..usize::MAX / 2)))),
        };
        Self {
            of,
            shares,
            turns,
            next,
        }
    }

    /// What tells it from others.
    pub fn of(&self) -> &str {
        &self.of
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
        let shares = std::iter::zip(weights, 0..).map(service);
        Split::after(String::new(), shares, 2, None)
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

    #[test]
    fn counts_go_on_after_a_change_and_turns_where_the_weights_are_the_same() {
        let before = split(&[2, 1]);
        (0..5).for_each(|_| drop(Arc::clone(before.next(0))));
        let sent = counts(&before);
        let shares = |weights: [u32; 2]| {
            let services = before
                .shares()
                .iter()
                .map(|share| Arc::clone(&share.service));
            services.zip(weights).collect::<Vec<_>>()
        };
        let same = Split::after(String::new(), shares([2, 1]).into_iter(), 2, Some(&before));
        assert!(Arc::ptr_eq(&same.next, &before.next));
        assert_eq!(counts(&same), sent);
        let other = Split::after(String::new(), shares([0, 1]).into_iter(), 2, Some(&same));
        other.next(1);
        assert_eq!(counts(&other), [sent[0], sent[1] + 1]);
    }
}
