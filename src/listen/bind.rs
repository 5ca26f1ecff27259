//! Binding: one socket per worker on one address, and never beside another process.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Semaphore;

use crate::{backoff::Repeated, config};

/// Connections that the kernel keeps for us before they are accepted.
const BACKLOG: i32 = 4096;

/// A listener's sockets.
pub struct Bound {
    /// Where it listens, with the port that was taken for 0.
    pub address: SocketAddr,
    /// One per worker.
    pub sockets: Vec<TcpListener>,
    /// Its settings.
    pub settings: Arc<config::Listener>,
    /// One permit per connection that it may have.
    pub permits: Arc<Semaphore>,
    /// What keeps it from accepting.
    pub troubles: Arc<Repeated>,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// Binds a listener for so many workers.
///
/// # Errors
/// Also where another process listens on the address and would share it.
pub fn bind(settings: config::Listener, workers: usize) -> Result<Bound, BindError> {
    let wanted = settings.address;
    let failed = |source| BindError {
        address: wanted,
        source,
    };
    // With SO_REUSEPORT a second proxy would be let in without a word, and take half of the
    // connections; a socket without it is let in only where there is nobody.
    let address = socket(wanted, false)
        .and_then(|socket| socket.local_addr())
        .map_err(failed)?;
    let sockets = (0..workers)
        .map(|_| socket(address, workers > 1))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    Ok(Bound {
        address,
        sockets,
        permits: Arc::new(Semaphore::new(settings.limits.connections)),
        troubles: Arc::default(),
        settings: Arc::new(settings),
    })
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
            address,
            ..config::Listener::default()
        }
    }

    #[test]
    fn a_second_proxy_on_the_same_port_is_refused() {
        let free = "127.0.0.1:0".parse().unwrap();
        let first = bind(settings(free), 2).unwrap();
        assert_eq!(first.sockets.len(), 2);
        let second = bind(settings(first.address), 2);
        assert_eq!(
            second.err().map(|error| error.source.kind()),
            Some(io::ErrorKind::AddrInUse)
        );
    }
}
