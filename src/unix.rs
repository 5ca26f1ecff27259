//! Unix sockets as streams. On a connected stream socket the kernel has the same calls for every family,
//! and those of TCP's type are no others: so a unix socket goes by that type, and nothing that reads and
//! writes needs a second one. What is TCP's alone, such as its addresses and `TCP_NODELAY`, fails here; and a
//! reset is none, without an error: the other side reads an end, as of a connection that is closed.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use tokio::{net::TcpStream, time::sleep};

/// A connected socket, which is not to block.
///
/// # Errors
/// Where the runtime cannot watch it.
pub(crate) fn stream(socket: UnixStream) -> io::Result<TcpStream> {
    TcpStream::from_std(OwnedFd::from(socket).into())
}

/// Connects to the socket of this path, and waits for room where its queue is full. At an address of IP the
/// kernel waits so itself; at a path it does in a call that blocks, and in no other.
///
/// # Errors
/// Where no process listens there, or this one may not.
pub(crate) async fn connect(path: &Path) -> io::Result<TcpStream> {
    let mut pause = FIRST_PAUSE;
    loop {
        match tokio::net::UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            connected => return stream(connected?.into_std()?),
        }
    }
}

/// Between two looks whether there is room.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use socket2::{Domain, SockAddr, Socket, Type};
    use tokio::{
        net::{UnixListener, UnixStream},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn a_connection_waits_for_room_in_the_queue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(1).unwrap();
        let listener = UnixListener::from_std(socket.into()).unwrap();
        // The kernel takes one more than it was told.
        let _queued = [connect(&path).await.unwrap(), connect(&path).await.unwrap()];
        let full = UnixStream::connect(&path).await.unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let waits = tokio::spawn(async move { connect(&path).await });
        tokio::task::yield_now().await;
        for _ in 0..3 {
            let accepted = timeout(Duration::from_secs(20), listener.accept()).await;
            assert!(accepted.unwrap().is_ok());
        }
        assert!(waits.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_path_without_a_listener_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let missing = connect(&path).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        drop(UnixListener::bind(&path).unwrap());
        let refused = connect(&path).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
