//! What a client's connection counts as beside itself: a tunnel is a connection in its listener's limits, and by
//! HTTP/2 many tunnels have one. Knows nothing of what they are.

use std::{net::IpAddr, sync::Arc};

use super::{
    Addresses,
    addresses::Counted,
    permits::{Permit, Permits},
};

/// Where connections of one listener are counted.
pub(crate) struct Room {
    permits: Arc<Permits>,
    addresses: Arc<Addresses>,
}

/// The place of what counts as a connection, given back when it is dropped.
pub(super) struct Extra {
    _permit: Permit,
    _place: Option<Counted>,
}

impl Room {
    /// Of the listener that gives these.
    pub(crate) fn of(permits: &Arc<Permits>, addresses: &Arc<Addresses>) -> Self {
        Self {
            permits: Arc::clone(permits),
            addresses: Arc::clone(addresses),
        }
    }

    /// A place, and one among those of this address, where it is counted; `None` where there is none at this
    /// moment.
    pub(super) fn take(&self, counted: Option<IpAddr>) -> Option<Extra> {
        let place = match counted {
            Some(address) => Some(self.addresses.take(address)?),
            None => None,
        };
        Some(Extra {
            _permit: self.permits.try_acquire()?,
            _place: place,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_of_the_listeners_and_of_its_addresses() {
        let (permits, addresses) = (Arc::new(Permits::new(3)), Arc::new(Addresses::new(1)));
        let room = Room::of(&permits, &addresses);
        let one = Some(IpAddr::from([10, 0, 0, 1]));
        let first = room.take(one);
        assert!(first.is_some() && room.take(one).is_none());
        let others = [room.take(None), room.take(None)];
        assert!(others.iter().all(Option::is_some) && room.take(None).is_none());
        // What finds no permit keeps no place.
        let other = Some(IpAddr::from([10, 0, 0, 2]));
        assert!(room.take(other).is_none());
        drop(others);
        assert!(room.take(other).is_some());
        drop(first);
        assert!(room.take(one).is_some());
    }
}
