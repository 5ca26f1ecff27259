//! Binding: one socket for each worker on an address, or one for all of them at a path; and never beside
//! another process. Sockets that another process has bound are taken as they are.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{
    Entrance, Unwatched,
    listening::BACKLOG,
    socket_file::{Id, SocketFile},
};
use crate::{
    config::{self, ListenAddress},
    door::Sharing,
};

/// A listener's sockets.
pub(crate) struct Bound {
    /// Where it listens, with the port that was taken for 0.
    pub address: ListenAddress,
    /// One per worker.
    pub sockets: Vec<Unwatched>,
    /// Who comes in.
    pub entrance: Arc<Entrance>,
}

/// A listener's sockets that another process has bound: the one before this, or a supervisor.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The address in that process's configuration; a supervisor's sockets have the one that they listen at.
    pub wanted: ListenAddress,
    /// Where they listen.
    pub address: ListenAddress,
    /// At least one.
    pub sockets: Vec<OwnedFd>,
    /// Which file a unix socket has, by that process's word.
    pub file: Option<Id>,
    /// Whether that process goes on holding them: a supervisor.
    pub is_kept: bool,
}

/// A listener's sockets by descriptors of their own, for a successor. While they are open a socket listens
/// though its worker has closed it, and so they are closed before a drain begins.
#[derive(Debug)]
pub(crate) struct Duplicate {
    /// The address in the configuration.
    pub wanted: ListenAddress,
    /// Where they listen.
    pub address: ListenAddress,
    /// One per worker.
    pub sockets: Vec<OwnedFd>,
    sharing: Sharing,
    file: Option<Arc<SocketFile>>,
}

impl Duplicate {
    /// Which file a unix socket has.
    pub(crate) fn file(&self) -> Option<Id> {
        self.file.as_ref().map(|file| file.id())
    }

    /// Whether a supervisor holds them, too.
    pub(crate) fn is_kept(&self) -> bool {
        self.sharing.is_shared()
    }

    /// A successor goes on with them.
    pub(crate) fn leave(&self) {
        self.sharing.begin();
        if let Some(file) = &self.file {
            file.leave();
        }
    }
}

impl Bound {
    /// The same sockets by other descriptors.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub(crate) fn duplicate(&self) -> io::Result<Duplicate> {
        let sockets = self.sockets.iter().map(Unwatched::duplicate);
        Ok(Duplicate {
            wanted: self.entrance.address(),
            address: self.address.clone(),
            sockets: sockets.collect::<Result<_, _>>()?,
            sharing: self.entrance.sharing.clone(),
            file: self.file().cloned(),
        })
    }

    /// Takes the path that a predecessor has until now. Before it is told that we are here, for it closes
    /// its sockets then, and clients are to find ours; and no sooner, for it goes on serving where our start
    /// comes to nothing.
    ///
    /// # Errors
    /// Where the path cannot be had.
    pub(crate) fn take_path(&self) -> Result<(), BindError> {
        let taken = self.file().map_or(Ok(()), |file| file.take_path());
        taken.map_err(|source| {
            let address = self.address.clone();
            BindError { address, source }
        })
    }

    /// The file of a unix socket, whose path may be taken later than its sockets are in use.
    pub(crate) fn file(&self) -> Option<&Arc<SocketFile>> {
        self.sockets.iter().find_map(Unwatched::file)
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

/// Takes a listener's sockets over for so many workers. A path is the other process's until
/// [`Bound::take_path`].
///
/// # Errors
/// Where they cannot be used.
pub(crate) fn inherit(
    settings: config::Listener,
    inherited: Inherited,
    workers: usize,
) -> Result<Bound, BindError> {
    let Inherited {
        address,
        sockets,
        file,
        is_kept,
        ..
    } = inherited;
    let sharing = Sharing::default();
    let mode = (!is_kept).then_some(settings.mode);
    if is_kept {
        sharing.begin();
    }
    let taken = match &settings.address {
        ListenAddress::Tcp(_) => among(sockets, workers, is_kept),
        ListenAddress::Unix(path) => SocketFile::inherited(path, mode, file).and_then(|file| {
            let socket = sockets.into_iter().next().map(UnixListener::from);
            let socket = socket.ok_or(io::ErrorKind::NotFound)?;
            socket.set_nonblocking(true)?;
            shared(file, &socket, workers)
        }),
    };
    with_entrance(settings, taken.map(|sockets| (address, sockets)), sharing)
}

/// At least a socket for each worker, and none left out: a socket that is not accepted from would keep the
/// clients whom the kernel gives it. Those that are missing are bound beside them; a supervisor's has one queue,
/// which workers share.
fn among(sockets: Vec<OwnedFd>, workers: usize, is_kept: bool) -> io::Result<Vec<Unwatched>> {
    let sockets: Vec<_> = sockets.into_iter().map(TcpListener::from).collect();
    let missing = workers.saturating_sub(sockets.len());
    let again = sockets.iter().cycle().take(missing);
    let beside = |socket: &TcpListener| match is_kept {
        true => socket.try_clone(),
        // It takes clients once its worker watches it. An older version's may not be shared.
        false => unheard(socket.local_addr()?, true).map_or_else(
            |_| socket.try_clone(),
            |socket| Ok(TcpListener::from(socket)),
        ),
    };
    let again: Vec<_> = again.map(beside).collect::<Result<_, _>>()?;
    let all = sockets.into_iter().chain(again).map(|socket| {
        socket.set_nonblocking(true)?;
        Ok(Unwatched::Tcp(socket))
    });
    all.collect()
}

/// Whether it could be bound, which takes nothing.
///
/// # Errors
/// Where it could not.
pub(crate) fn try_to_bind(settings: &config::Listener) -> Result<(), BindError> {
    let tried = match &settings.address {
        ListenAddress::Tcp(wanted) => unheard(*wanted, false).map(drop),
        ListenAddress::Unix(path) => SocketFile::try_to_listen(path),
    };
    tried.map_err(|source| BindError {
        source: with_hint(source, &settings.address),
        address: settings.address.clone(),
    })
}

/// The same as by [`bind_beside`].
///
/// # Errors
/// Where it could not.
pub(crate) fn try_to_bind_beside(settings: &config::Listener) -> Result<(), BindError> {
    let tried = match &settings.address {
        ListenAddress::Tcp(wanted) => unheard(*wanted, true).map(drop),
        ListenAddress::Unix(path) => SocketFile::try_to_listen_beside(path),
    };
    tried.map_err(|source| BindError {
        source: with_hint(source, &settings.address),
        address: settings.address.clone(),
    })
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
    with_entrance(settings, bound, Sharing::default())
}

fn with_entrance(
    settings: config::Listener,
    bound: io::Result<(ListenAddress, Vec<Unwatched>)>,
    sharing: Sharing,
) -> Result<Bound, BindError> {
    let (address, sockets) = bound.map_err(|source| BindError {
        source: with_hint(source, &settings.address),
        address: settings.address.clone(),
    })?;
    Ok(Bound {
        address,
        sockets,
        entrance: Arc::new(Entrance::new(settings, sharing)),
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
    let socket = unheard(address, shared)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One that is bound, and takes no connections yet.
fn unheard(address: SocketAddr, shared: bool) -> io::Result<Socket> {
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
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs::File, os::unix::fs::MetadataExt as _};

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
    fn every_inherited_socket_is_accepted_from_and_every_worker_has_one() {
        let queue = |socket: &Unwatched| {
            let socket = File::from(socket.duplicate().unwrap());
            socket.metadata().unwrap().ino()
        };
        let cases = [(1, 3, false), (3, 1, false), (2, 2, false), (1, 3, true)];
        for (before, after, is_kept) in cases {
            let first = bind(settings("127.0.0.1:0".parse().unwrap()), before).unwrap();
            let Duplicate {
                wanted,
                address,
                sockets,
                ..
            } = first.duplicate().unwrap();
            let inherited = Inherited {
                wanted: wanted.clone(),
                address: address.clone(),
                sockets,
                file: None,
                is_kept,
            };
            let settings = settings(wanted.tcp().unwrap());
            let second = inherit(settings, inherited, after).unwrap();
            // A supervisor's are one queue each.
            let queues: BTreeSet<_> = second.sockets.iter().map(queue).collect();
            let expected = if is_kept { before } else { before.max(after) };
            assert_eq!(queues.len(), expected);
            assert_eq!(second.address, first.address);
            assert_eq!(second.sockets.len(), before.max(after));
            drop(first);
            TcpListener::bind(address.tcp().unwrap()).unwrap_err();
        }
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
