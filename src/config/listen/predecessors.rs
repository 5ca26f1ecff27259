//! Which listener of a config goes on as which of the next one.

use crate::config::Listener;

/// For each of `next` the place of the one in `before` that has its address. Addresses that may be there
/// several times, as with port 0, go by their order.
pub(crate) fn predecessors(before: &[Listener], next: &[Listener]) -> Vec<Option<usize>> {
    let mut left: Vec<_> = before.iter().map(Some).collect();
    let place = |listener: &Listener| {
        let is_it =
            |one: &Option<&Listener>| one.is_some_and(|one| one.address == listener.address);
        let place = left.iter().position(is_it)?;
        left[place] = None;
        Some(place)
    };
    next.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Listener {
        Listener {
            address: address.parse::<std::net::SocketAddr>().unwrap().into(),
            ..Listener::default()
        }
    }

    #[test]
    fn a_listener_is_known_by_its_address_and_those_of_port_0_by_their_order() {
        let free = "127.0.0.1:0";
        let before = [at("127.0.0.1:1"), at(free), at("127.0.0.1:2"), at(free)];
        let next = [
            at(free),
            at("127.0.0.1:3"),
            at("127.0.0.1:1"),
            at(free),
            at(free),
        ];
        let places = predecessors(&before, &next);
        assert_eq!(places, [Some(1), None, Some(0), Some(3), None]);
    }
}
