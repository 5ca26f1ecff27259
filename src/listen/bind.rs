//! Binding: one socket for each worker on an address, or one for all of them at a path; and never beside
//! another process.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Semaphore;

use super::{Addresses, Entrance, Unwatched, socket_file::SocketFile};
use crate::config::{self, ListenAddress};

/// Connections that the kernel keeps for us before they are accepted.
const BACKLOG: i32 = 4096;

/// A listener's sockets.
pub(crate) struct Bound {
    /// Where it listens, with the port that was taken for 0.
    pub address: ListenAddress,
    /// One per worker.
    pub sockets: Vec<Unwatched>,
    /// Who comes in.
    pub entrance: Entrance,
}

impl Bound {
    /// Takes the path that a predecessor has until now. Before it is told that we are here, for it closes
    /// its sockets then, and clients are to find ours; and no sooner, for it goes on serving where our start
    /// comes to nothing.
    ///
    /// # Errors
    /// Where the path cannot be had.
    pub(crate) fn take_path(&self) -> Result<(), BindError> {
        let mut files = self.sockets.iter().filter_map(Unwatched::file);
        files.try_for_each(SocketFile::take_path).map_err(|source| {
            let address = self.address.clone();
            BindError { address, source }
        })
    }
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address.
    pub address: ListenAddress,
    /// Why, and what to do where that is known.
    pub source: io::Error,
}

/// Binds a listener for so many workers.
///
/// # Errors
/// Also where another process listens on the address and would share it.
pub(crate) fn bind(settings: config::Listener, workers: usize) -> Result<Bound, BindError> {
    open(settings, workers, true)
}

/// The same beside a process of this user's that listens there and is about to end: each gets a part
/// of the connections until that one closes its sockets. A path is that one's until [`Bound::take_path`].
///
/// # Errors
/// Also where the other process does not share.
pub(crate) fn bind_beside(settings: config::Listener, workers: usize) -> Result<Bound, BindError> {
    open(settings, workers, false)
}

fn open(settings: config::Listener, workers: usize, alone: bool) -> Result<Bound, BindError> {
    let bound = match &settings.address {
        ListenAddress::Tcp(wanted) => each_its_own(*wanted, workers, alone),
        ListenAddress::Unix(path) => {
            let file = SocketFile::listen(path, settings.mode, BACKLOG, alone);
            file.and_then(|(file, socket)| shared(file, &socket, workers))
                .map(|sockets| (settings.address.clone(), sockets))
        }
    };
    let (address, sockets) = bound.map_err(|source| BindError {
        source: with_hint(source, &settings.address),
        address: settings.address.clone(),
    })?;
    Ok(Bound {
        address,
        sockets,
        entrance: Entrance {
            permits: Arc::new(Semaphore::new(settings.limits.connections)),
            addresses: Arc::new(Addresses::new(settings.limits.connections_per_address)),
            troubles: Arc::default(),
            tls: None,
            settings: Arc::new(settings),
        },
    })
}

/// A socket for each worker at an address, among which the kernel shares the clients out.
fn each_its_own(
    wanted: SocketAddr,
    workers: usize,
    alone: bool,
) -> io::Result<(ListenAddress, Vec<Unwatched>)> {
    // With SO_REUSEPORT a second proxy would share the address without a word, and take half of the
    // connections. A socket without it can bind only where no other process listens.
    let address = match alone {
        false => wanted,
        true => socket(wanted, false).and_then(|socket| socket.local_addr())?,
    };
    // A single one, too, so that a successor can bind before it is closed.
    let sockets = (0..workers)
        .map(|_| socket(address, true).map(Unwatched::Tcp))
        .collect::<Result<_, _>>()?;
    Ok((address.into(), sockets))
}

/// The socket of a path, by a descriptor for each worker.
fn shared(file: SocketFile, socket: &UnixListener, workers: usize) -> io::Result<Vec<Unwatched>> {
    let file = Arc::new(file);
    let each = (0..workers).map(|_| Ok(Unwatched::Unix(socket.try_clone()?, Arc::clone(&file))));
    each.collect()
}

/// The same error, and what to do about it.
fn with_hint(error: io::Error, address: &ListenAddress) -> io::Error {
    let port = address.tcp().map(|address| address.port());
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied if port.is_some_and(|port| port < 1024) => {
            "a port below 1024 needs the capability CAP_NET_BIND_SERVICE (systemd's \
             AmbientCapabilities, or `setcap cap_net_bind_service=+ep` on the binary), or a lower \
             net.ipv4.ip_unprivileged_port_start"
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has the address; 0.0.0.0 or [::] is all of them"
        }
        io::ErrorKind::NotFound => "the folder of the socket must be there",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners.
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: SocketAddr) -> config::Listener {
        config::Listener {
            address: address.into(),
            ..config::Listener::default()
        }
    }

    #[test]
    fn a_second_proxy_on_the_same_port_is_refused() {
        let free = "127.0.0.1:0".parse().unwrap();
        let first = bind(settings(free), 2).unwrap();
        assert_eq!(first.sockets.len(), 2);
        let second = bind(settings(first.address.tcp().unwrap()), 2);
        assert_eq!(
            second.err().map(|error| error.source.kind()),
            Some(io::ErrorKind::AddrInUse)
        );
    }

    #[test]
    fn who_may_not_listen_is_told_what_is_needed() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let hint = with_hint(denied, &SocketAddr::from(([0; 4], 80)).into());
        assert_eq!(hint.kind(), io::ErrorKind::PermissionDenied);
        assert!(hint.to_string().contains("CAP_NET_BIND_SERVICE"), "{hint}");
        // TEST-NET-1: no machine has it.
        let error = bind(settings("192.0.2.1:8080".parse().unwrap()), 1);
        let error = error.err().unwrap().source.to_string();
        assert!(error.contains("no interface of this machine"), "{error}");
    }

    #[test]
    fn a_successor_may_bind_beside_one_that_goes_whatever_its_number_of_workers() {
        let free = "127.0.0.1:0".parse().unwrap();
        for workers in [1, 2] {
            let first = bind(settings(free), workers).unwrap();
            let second = bind_beside(settings(first.address.tcp().unwrap()), 1).unwrap();
            assert_eq!(second.address, first.address);
        }
    }
}
