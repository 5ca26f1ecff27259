//! A socket that is listened on: one of an IP address, of which each worker has its own, or one of a path,
//! which they share.

use std::{
    io,
    net::{self, Ipv4Addr, SocketAddr, SocketAddrV4},
    os::{fd::OwnedFd, unix},
    sync::Arc,
};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::socket_file::SocketFile;
use crate::{door, unix::stream};

/// Connections that the kernel keeps for us before they are accepted.
pub(super) const BACKLOG: i32 = 4096;

/// A client of a unix socket has no address: it is on this machine, as one of loopback is.
const LOCAL: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// A socket on its way to its worker.
pub(crate) enum Unwatched {
    Tcp(net::TcpListener),
    Unix(unix::net::UnixListener, Arc<SocketFile>),
}

/// A socket that a worker listens on.
pub(crate) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, Door),
}

/// One worker's share of a path's file, which is there until the last of them is gone: a worker has fewer
/// connections to wait for than another, and leaves before it.
pub(crate) struct Door(Mutex<Option<Arc<SocketFile>>>);

impl Door {
    fn close(&self) {
        self.0.lock().take();
    }
}

/// Counts the sockets of a listener that are open, or on their way to a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenSockets(Arc<()>);

impl OpenSockets {
    /// Whether there is any beside the listener's own count.
    pub(crate) fn any(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Unwatched {
    /// The file of one that has a path.
    pub(super) fn file(&self) -> Option<&Arc<SocketFile>> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(_, file) => Some(file),
        }
    }

    /// The same socket by another descriptor.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(OwnedFd::from),
            Self::Unix(socket, _) => socket.try_clone().map(OwnedFd::from),
        }
    }

    /// Has this thread's runtime watch it; clients come from here on at the latest.
    ///
    /// # Errors
    /// Where the runtime cannot.
    pub(crate) fn watch(self) -> io::Result<Listening> {
        Ok(match self {
            Self::Tcp(socket) => {
                let own = SockRef::from(&socket);
                if !own.is_listener()? {
                    own.listen(BACKLOG)?;
                }
                Listening::Tcp(TcpListener::from_std(socket)?)
            }
            Self::Unix(socket, file) => {
                let door = Door(Mutex::new(Some(file)));
                Listening::Unix(UnixListener::from_std(socket)?, door)
            }
        })
    }
}

impl Listening {
    /// The next client, and its address.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Tcp(socket) => socket.accept().await,
            Self::Unix(socket, _) => {
                let (client, _) = socket.accept().await?;
                Ok((stream(client.into_std()?)?, LOCAL))
            }
        }
    }

    /// From here on no client begins to connect to it; at a path, once all workers say so. Whether the
    /// handshakes of some may have begun.
    pub(super) fn close_door(&self) -> bool {
        match self {
            Self::Tcp(socket) => door::close(socket).is_ok(),
            Self::Unix(_, door) => {
                door.close();
                false
            }
        }
    }

    /// Takes what is in its queue, and closes it.
    pub(super) async fn take_queued(self, enter: impl FnMut((TcpStream, SocketAddr))) {
        match self {
            Self::Tcp(socket) => {
                if let Ok(socket) = socket.into_std() {
                    door::queued(|| door::accept(&socket), enter).await;
                }
            }
            Self::Unix(socket, _) => {
                if let Ok(socket) = socket.into_std() {
                    let accept = || {
                        let (client, _) = socket.accept()?;
                        client.set_nonblocking(true)?;
                        Ok((stream(client)?, LOCAL))
                    };
                    door::queued(accept, enter).await;
                }
            }
        }
    }
}
