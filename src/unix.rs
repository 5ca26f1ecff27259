//! Unix sockets as streams. On a connected stream socket the kernel has the same calls for every family,
//! and those of TCP's type are no others: so a unix socket goes by that type, and nothing that reads and
//! writes needs a second one. What is TCP's alone, such as its addresses and `TCP_NODELAY`, fails here.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
};

use tokio::net::TcpStream;

/// A connected socket, which is not to block.
///
/// # Errors
/// Where the runtime cannot watch it.
pub(crate) fn stream(socket: UnixStream) -> io::Result<TcpStream> {
    TcpStream::from_std(OwnedFd::from(socket).into())
}

/// Connects to the socket of this path.
///
/// # Errors
/// Where no process listens there, or this one may not.
pub(crate) async fn connect(path: &Path) -> io::Result<TcpStream> {
    let socket = tokio::net::UnixStream::connect(path).await?;
    stream(socket.into_std()?)
}
