//! Sockets that a supervisor has bound, and hands over as systemd does (`sd_listen_fds(3)`). They are its own
//! as well: they outlive this process, and clients wait in their queues until the next one is there.

use std::{env, os::fd::OwnedFd};

use listenfd::ListenFd;
use socket2::SockRef;

use crate::{config::ListenAddress, listen::Inherited};

/// A socket that a supervisor has bound.
#[derive(Debug)]
pub(super) struct Supervised {
    /// What the supervisor calls it; empty where it has no name.
    name: String,
    socket: Inherited,
}

/// Those of this process. To be asked once, and at its start. What is no listening socket of a stream stays
/// where it is.
pub(super) fn of_environment() -> Vec<Supervised> {
    // The environment of another process may have come down to this one.
    if env::var_os("LISTEN_PID").is_none() {
        return Vec::new();
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut handed = ListenFd::from_env();
    let each = (0..handed.len()).filter_map(|place| {
        let name = names.next().unwrap_or_default().to_owned();
        let tcp = handed.take_tcp_listener(place).ok().flatten();
        let socket = tcp.map(OwnedFd::from).or_else(|| {
            let unix = handed.take_unix_listener(place).ok().flatten();
            unix.map(OwnedFd::from)
        });
        let socket = inherited(socket?)?;
        Some(Supervised { name, socket })
    });
    each.collect()
}

fn inherited(socket: OwnedFd) -> Option<Inherited> {
    let address = {
        let socket = SockRef::from(&socket);
        if !socket.is_listener().ok()? {
            return None;
        }
        let address = socket.local_addr().ok()?;
        let path = || address.as_pathname().map(|path| path.to_owned());
        let tcp = address.as_socket().map(ListenAddress::Tcp);
        tcp.or_else(|| path().map(ListenAddress::Unix))?
    };
    Some(Inherited {
        wanted: address.clone(),
        address,
        sockets: vec![socket],
        file: None,
        is_kept: true,
    })
}

/// Takes the socket that listens at this address.
pub(super) fn take(all: &mut Vec<Supervised>, wanted: &ListenAddress) -> Option<Inherited> {
    let place = all.iter().position(|one| one.socket.address == *wanted)?;
    Some(all.swap_remove(place).socket)
}

/// Says which of them have no listener, and lets go of them.
pub(super) fn leave(all: &mut Vec<Supervised>) {
    for Supervised { name, socket } in all.drain(..) {
        let address = socket.address;
        tracing::warn!(%address, name, "the supervisor has handed over a socket that no listener has");
    }
}
