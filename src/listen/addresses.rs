//! How many connections each address has, over all workers. Counted when a connection comes and goes,
//! and never for a request; in parts with a lock of their own, so that workers seldom meet.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::{Mutex, MutexGuard};

/// Parts with a lock of their own.
const SHARDS: usize = 64;

/// The leading bits of an IPv6 address that are one client's network.
const IPV6_NETWORK: u32 = 64;

/// The connections of a listener, by their address; an IPv6 network counts as one.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// The most that one may have.
    most: AtomicUsize,
    shards: [Mutex<HashMap<u128, usize>>; SHARDS],
}

/// The place of one connection, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    addresses: Arc<Addresses>,
    network: u128,
}

impl Addresses {
    /// None has any yet, and each may have so many.
    pub(crate) fn new(most: usize) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self {
            most: AtomicUsize::new(most),
            shards,
        }
    }

    /// Has each have so many at the most from now on. An address that has more keeps them.
    pub(crate) fn limit_to(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    /// Takes a place for a connection; `None` where the address has as many as it may.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let network = match address.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits() >> IPV6_NETWORK << IPV6_NETWORK,
        };
        let mut shard = self.shard(network);
        let count = shard.entry(network).or_default();
        if *count >= self.most.load(Relaxed) {
            return None;
        }
        *count += 1;
        let addresses = Arc::clone(self);
        Some(Counted { addresses, network })
    }

    fn shard(&self, network: u128) -> MutexGuard<'_, HashMap<u128, usize>> {
        let folded = (network >> 64) as u64 ^ network as u64;
        let shard = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let shard = &self.shards[shard as usize % SHARDS];
        shard.lock()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.addresses.shard(self.network).entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_a_network_of_ipv6_is_one() {
        let addresses = Arc::new(Addresses::new(2));
        let take = |address: &str| addresses.take(address.parse().unwrap());
        let first = take("10.0.0.1").unwrap();
        let _second = take("::ffff:10.0.0.1").unwrap();
        assert!(take("10.0.0.1").is_none());
        assert!(take("10.0.0.2").is_some());
        drop(first);
        let _third = take("10.0.0.1").unwrap();
        let _six = [take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap()];
        assert!(take("2001:db8::3").is_none());
        assert!(take("2001:db8:0:1::3").is_some());
    }

    #[test]
    fn an_address_without_connections_is_forgotten() {
        let addresses = Arc::new(Addresses::new(1));
        for last in 0..100 {
            let place = addresses.take([10, 0, 0, last].into());
            assert!(place.is_some());
        }
        let left = |shard: &Mutex<HashMap<_, _>>| shard.lock().len();
        assert_eq!(addresses.shards.iter().map(left).sum::<usize>(), 0);
    }
}
