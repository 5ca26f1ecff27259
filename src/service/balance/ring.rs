//! Who serves a key: consistent hashing on a ring (Karger et al., 1997), on which every endpoint has
//! many points and a key goes to the next. The ring is read at a fixed number of slots when it is
//! built, so that a look-up is one read, as in Google's Maglev. Maglev's own table is more even (to
//! a hundredth, where this is to a tenth), but moves keys of endpoints that stay: here a slot
//! changes hands only from one that leaves, or to one that comes.

use super::digest::{digest, mix};
use crate::service::EndpointId;

/// As a power of two; with 1,000 endpoints each has some 65 of them.
const SLOTS: u32 = 16;

/// Points of an endpoint whose weight is 1.
const POINTS: u64 = 512;

/// Beyond this many on the whole ring each has half as many, and so on.
const MOST_POINTS: u64 = 1 << 20;

/// The places of the endpoints, by slots; empty where there are none.
#[derive(Debug, Default)]
pub(super) struct Ring(Box<[u32]>);

impl Ring {
    /// Each has points by its weight.
    pub(super) fn new<'e>(endpoints: impl Iterator<Item = (&'e EndpointId, u32)> + Clone) -> Self {
        let wanted: u64 = endpoints.clone().map(|(_, weight)| points(weight)).sum();
        let halvings = (0..64).find(|halvings| wanted >> halvings <= MOST_POINTS);
        let halvings = halvings.unwrap_or_default();
        // The first point of each slot: it is the next to all keys of the slots between it and the
        // point before.
        let mut firsts = vec![(u64::MAX, 0); 1 << SLOTS];
        for (place, (id, weight)) in (0..).zip(endpoints) {
            let identity = identity(id);
            for n in 0..(points(weight) >> halvings).max(1) {
                let point = mix(identity.wrapping_add(n));
                let first = &mut firsts[slot(point)];
                if point < first.0 {
                    *first = (point, place);
                }
            }
        }
        let is_set = |first: &&(u64, u32)| first.0 != u64::MAX;
        let Some(&(_, mut next)) = firsts.iter().find(is_set) else {
            return Self::default();
        };
        for first in firsts.iter_mut().rev() {
            if first.0 == u64::MAX {
                first.1 = next;
            }
            next = first.1;
        }
        Self(firsts.into_iter().map(|(_, place)| place).collect())
    }

    /// The place that a key leads to.
    pub(super) fn at(&self, key: u64) -> usize {
        self.0[slot(key)] as usize
    }
}

fn points(weight: u32) -> u64 {
    POINTS * u64::from(weight.max(1))
}

fn slot(point: u64) -> usize {
    (point >> (64 - SLOTS)) as usize
}

/// The same in every proxy.
fn identity(id: &EndpointId) -> u64 {
    let host = digest(
        digest(0, id.instance.as_bytes()),
        id.address.host().as_bytes(),
    );
    digest(host, &id.address.port().to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Address;

    fn id(n: usize) -> EndpointId {
        EndpointId {
            instance: format!("cart-{n}").into(),
            address: Address::new("10.0.0.1", n as i64 + 1).unwrap(),
        }
    }

    fn ids(numbers: impl Iterator<Item = usize>) -> Vec<(EndpointId, u32)> {
        numbers.map(|n| (id(n), 1)).collect()
    }

    fn ring(endpoints: &[(EndpointId, u32)]) -> Ring {
        Ring::new(endpoints.iter().map(|(id, weight)| (id, *weight)))
    }

    /// Whom each of many keys leads to.
    fn owners(endpoints: &[(EndpointId, u32)]) -> Vec<&EndpointId> {
        let ring = ring(endpoints);
        let keys = (0..100_000u64).map(mix);
        keys.map(|key| &endpoints[ring.at(key)].0).collect()
    }

    fn shares(endpoints: &[(EndpointId, u32)]) -> Vec<f64> {
        let owners = owners(endpoints);
        let share = |id| owners.iter().filter(|owner| **owner == id).count() as f64 / 1e5;
        endpoints.iter().map(|(id, _)| share(id)).collect()
    }

    #[test]
    fn each_has_about_its_share_of_the_keys() {
        for count in [1, 2, 3, 10, 100] {
            let shares = shares(&ids(0..count));
            for share in shares {
                let part = share * count as f64;
                assert!((0.6..1.4).contains(&part), "{count}: {part}");
            }
        }
    }

    #[test]
    fn each_has_keys_as_its_weight_asks() {
        let mut endpoints = ids(0..3);
        endpoints[0].1 = 3;
        endpoints[1].1 = 2;
        let shares = shares(&endpoints);
        for (share, due) in std::iter::zip(shares, [3.0, 2.0, 1.0]) {
            assert!((0.85..1.15).contains(&(share / due * 6.0)), "{share} {due}");
        }
    }

    #[test]
    fn who_leaves_moves_its_own_keys_and_no_other_and_who_comes_takes_only_to_itself() {
        for count in [2, 5, 20] {
            let all = ids(0..count);
            let before = owners(&all);
            for gone in 0..count {
                let rest = ids((0..count).filter(|n| *n != gone));
                let after = owners(&rest);
                let mut moved = 0;
                for (before, after) in std::iter::zip(&before, &after) {
                    if *before == &id(gone) {
                        moved += 1;
                    } else {
                        assert_eq!(before, after, "{gone} of {count} left");
                    }
                }
                let part = moved as f64 / 1e5 * count as f64;
                assert!((0.7..1.3).contains(&part), "{gone} of {count}: {part}");
            }
        }
    }

    #[test]
    fn a_weight_that_grows_takes_keys_to_its_own_endpoint_only() {
        let light = ids(0..5);
        let mut heavy = light.clone();
        heavy[2].1 = 4;
        for (before, after) in std::iter::zip(owners(&light), owners(&heavy)) {
            assert!(before == after || *after == id(2));
        }
    }

    #[test]
    fn the_keys_of_who_leaves_are_spread_over_the_others() {
        let (all, rest) = (ids(0..10), ids(1..10));
        let mut taken = vec![0; 10];
        for (before, after) in std::iter::zip(owners(&all), owners(&rest)) {
            if *before == id(0) {
                taken[after.address.port() as usize - 1] += 1;
            }
        }
        assert_eq!(taken[0], 0);
        assert!(
            taken[1..].iter().all(|keys| (600..2000).contains(keys)),
            "{taken:?}"
        );
    }

    #[test]
    fn heavy_weights_and_many_endpoints_leave_nobody_out() {
        let endpoints: Vec<_> = (0..2000).map(|n| (id(n), 60_000)).collect();
        let ring = ring(&endpoints);
        let owners: std::collections::HashSet<_> = ring.0.iter().collect();
        assert_eq!(owners.len(), 2000);
    }
}
