//! The accept loop of one socket.

use std::{
    collections::VecDeque,
    io,
    mem::MaybeUninit,
    net::{IpAddr, Shutdown, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use super::{Addresses, addresses::Place};
use crate::{backoff::Repeated, config};

/// How long the loop rests when the process has run out of something.
const REST: Duration = Duration::from_millis(50);

/// What a client hears that has as many connections as it may.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 62\r\n\
    retry-after: 1\r\nconnection: close\r\n\r\n\
    429 Too Many Requests: too many connections from this address\n";

/// A listener's entrance, which its sockets share.
#[derive(Clone)]
pub struct Entrance {
    /// The listener's settings.
    pub settings: Arc<config::Listener>,
    /// One permit per connection that it may have.
    pub permits: Arc<Semaphore>,
    /// Who has how many of them.
    pub addresses: Arc<Addresses>,
    /// What keeps it from accepting.
    pub troubles: Arc<Repeated>,
}

impl Entrance {
    /// The place of a client among those of its address. A trusted proxy needs none: its clients are
    /// many. What is not let in is told so, and is gone.
    fn place(&self, stream: &TcpStream, peer: IpAddr) -> Result<Option<Place>, TooMany> {
        let mut trusted = self.settings.trusted_proxies.iter();
        if trusted.any(|network| network.contains(&peer)) {
            return Ok(None);
        }
        let place = self.addresses.take(peer);
        if place.is_none() {
            turn_away(stream);
        }
        place.map(Some).ok_or(TooMany)
    }
}

struct TooMany;

/// Tells a client, as well as can be done at once: to wait for it would be to let it in.
fn turn_away(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // The request that is there already is taken, for a close over unread bytes takes the answer back.
    let mut request = [MaybeUninit::uninit(); 4096];
    let _ = socket.recv(&mut request);
    let _ = socket.send(TOO_MANY);
    let _ = socket.shutdown(Shutdown::Write);
}

/// What is known of a connection that was accepted.
pub struct Arrival {
    /// Who is at its other end.
    pub peer: SocketAddr,
    /// The settings of the listener that took it.
    pub listener: Arc<config::Listener>,
    /// Given back when the connection ends.
    pub permit: OwnedSemaphorePermit,
    /// The same for its address, where that is counted.
    pub place: Option<Place>,
}

/// Accepts until `stop`, and then whoever is in the socket's queue still: what was queued on a
/// socket that closes is reset. Those that find no place wait for one until `cut`.
pub async fn accept(
    socket: TcpListener,
    entrance: Entrance,
    stop: CancellationToken,
    cut: CancellationToken,
    mut seat: impl FnMut(TcpStream, Arrival),
    turned_away: impl Fn(SocketAddr),
) {
    let enter = |stream: TcpStream, peer: SocketAddr| match entrance.place(&stream, peer.ip()) {
        Ok(place) => Some((stream, peer, place)),
        Err(TooMany) => {
            turned_away(peer);
            None
        }
    };
    let mut seat = |stream: TcpStream, peer, place, permit| {
        // Without it small answers wait for acknowledgements; it fails only on a connection that
        // is gone, which serving it will find out.
        let _ = stream.set_nodelay(true);
        let listener = Arc::clone(&entrance.settings);
        seat(
            stream,
            Arrival {
                peer,
                listener,
                permit,
                place,
            },
        );
    };
    let permit = async || {
        let permit = Arc::clone(&entrance.permits).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    };
    let mut waiting = VecDeque::new();
    let serving = async {
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    let Some(entered) = enter(stream, peer) else {
                        continue;
                    };
                    // At the limit whoever came waits, and those behind it in the queue.
                    waiting.push_back(entered);
                    let permit = permit().await;
                    if let Some((stream, peer, place)) = waiting.pop_front() {
                        seat(stream, peer, place, permit);
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if let Some(times) = entrance.troubles.note() {
                        let address = entrance.settings.address;
                        tracing::error!(%error, times, %address, "cannot accept");
                    }
                    tokio::time::sleep(REST).await;
                }
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = stop.cancelled() => {}
    }
    // The kernel is asked, and not the runtime, which may not have heard of the last ones.
    let Ok(socket) = socket.into_std() else {
        return;
    };
    while let Ok((stream, peer)) = socket.accept() {
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(stream));
        waiting.extend(stream.ok().and_then(|stream| enter(stream, peer)));
    }
    drop(socket);
    for (stream, peer, place) in waiting {
        let Some(permit) = cut.run_until_cancelled(permit()).await else {
            return;
        };
        seat(stream, peer, place, permit);
    }
}

/// Whether the error is of the connection that would have been accepted, not of the process.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
