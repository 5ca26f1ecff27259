//! A listening socket's door, which is closed before the socket is. The kernel resets what a socket
//! that closes has in its queue, and answers with a reset whatever comes later for a handshake that was
//! begun with it, though a socket beside it, of another worker or a successor, goes on accepting:
//! on a network, all clients that began to connect within the last round trip. So the packets that
//! begin a handshake are dropped first, while those that end one are let in for a moment more. A client
//! whose first packet was dropped sends it again after a second, and finds another socket, or none.
//! Its second is the price, and so the moment is short.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    time::Duration,
};

use socket2::{SockFilter, SockRef};
use tokio::{net::TcpStream, time::sleep};
use tokio_util::sync::CancellationToken;

/// How long handshakes that have begun may take to end: a round trip, also of a client that is far.
pub(crate) const THRESHOLD: Duration = Duration::from_millis(100);

/// From here on no client begins to connect to this socket.
///
/// # Errors
/// Where the kernel knows no such filters.
pub(crate) fn close(socket: &impl AsFd) -> io::Result<()> {
    // A listening socket's filter sees packets from the TCP header on, whose byte 13 has the flags.
    const SYN: u32 = 0x02;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

/// Whether another process has a listening socket, too, and goes on with it. Then the door stays open, for
/// it is that process's door as well, and the clients in the queue are left to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sharing(CancellationToken);

impl Sharing {
    /// Another process goes on with the socket from now on.
    pub(crate) fn begin(&self) {
        self.0.cancel();
    }

    /// Whether one does.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until one does.
    pub(crate) async fn begun(&self) {
        self.0.cancelled().await;
    }
}

/// How long an accept loop rests when the process has run out of something.
pub(crate) const REST: Duration = Duration::from_millis(50);

/// So many rests, a second in all, until those in the queue of a socket that closes are given up:
/// connections end meanwhile, and leave what the process has run out of.
const RESTS: u32 = 20;

/// Takes what is in the queue of a socket, which ends with `accept`. The kernel is asked, and not the
/// runtime, which may not have heard of the last ones.
pub(crate) async fn queued<T>(accept: impl Fn() -> io::Result<T>, mut enter: impl FnMut(T)) {
    let mut rests = 0;
    while rests < RESTS {
        match accept() {
            Ok(client) => enter(client),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if is_of_one_connection(&error) => {}
            Err(_) => {
                rests += 1;
                sleep(REST).await;
            }
        }
    }
}

/// A client that such a socket has, to be watched by the runtime.
///
/// # Errors
/// Where the queue is empty, or the process has run out of something.
pub(crate) fn accept(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (client, peer) = socket.accept()?;
    client.set_nonblocking(true)?;
    Ok((TcpStream::from_std(client)?, peer))
}

/// Whether the error is of the connection that would have been accepted, not of the process.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// `BPF_LD | BPF_B | BPF_ABS`
const LOAD_BYTE: u16 = 0x30;
/// `BPF_JMP | BPF_JSET | BPF_K`
const JUMP_IF_SET: u16 = 0x45;
/// `BPF_RET | BPF_K`: how many of the packet's bytes are kept
const RETURN: u16 = 0x06;

#[cfg(test)]
pub(crate) mod testing {
    //! Clients that are on the threshold.

    use std::{fs, net::SocketAddr, thread, time::Duration};

    use socket2::{Domain, Socket, Type};

    use super::close;

    /// A client that hears nothing of its handshake until its own door is opened.
    pub(crate) fn begins_to_connect(address: SocketAddr) -> Socket {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        close(&client).unwrap();
        client.set_nonblocking(true).unwrap();
        assert!(client.connect(&address.into()).is_err());
        client
    }

    /// Whether a handshake with this port has begun (`SYN_RECV`) and has not ended.
    pub(crate) fn has_begun(port: u16) -> bool {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let local = format!(":{port:04X}");
        table.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1].ends_with(&local) && fields[3] == "03"
        })
    }

    pub(crate) fn until(holds: impl Fn() -> bool) {
        let since = std::time::Instant::now();
        while !holds() {
            assert!(since.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(5));
        }
    }
}
