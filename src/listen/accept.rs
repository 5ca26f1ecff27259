//! The accept loop of one socket.

use std::{
    collections::VecDeque,
    mem::MaybeUninit,
    net::{IpAddr, Shutdown, SocketAddr},
    pin::pin,
    sync::Arc,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Addresses, addresses::Counted};
use crate::{backoff::Repeated, config, door};

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
    fn place(&self, stream: &TcpStream, peer: IpAddr) -> Result<Option<Counted>, TooMany> {
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
pub struct Accepted {
    /// Who is at its other end.
    pub peer: SocketAddr,
    /// The settings of the listener that took it.
    pub listener: Arc<config::Listener>,
    /// Given back when the connection ends.
    pub permit: OwnedSemaphorePermit,
    /// The same for its address, where that is counted.
    pub place: Option<Counted>,
}

/// Accepts until `stop`, then the clients whose handshakes have begun, and then those in the socket's
/// queue: a socket that closes resets them all. Those that find no place wait for one until `cut`.
pub async fn accept(
    socket: TcpListener,
    entrance: Entrance,
    stop: CancellationToken,
    cut: CancellationToken,
    mut seat: impl FnMut(TcpStream, Accepted),
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
            Accepted {
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
                    // At the limit this connection waits, and those behind it stay in the queue.
                    waiting.push_back(entered);
                    let permit = permit().await;
                    if let Some((stream, peer, place)) = waiting.pop_front() {
                        seat(stream, peer, place, permit);
                    }
                }
                Err(error) if door::is_of_one_connection(&error) => {}
                Err(error) => {
                    if let Some(times) = entrance.troubles.note() {
                        let address = entrance.settings.address;
                        tracing::error!(%error, times, %address, "cannot accept");
                    }
                    sleep(door::REST).await;
                }
            }
        }
    };
    {
        let mut serving = pin!(serving);
        stop.run_until_cancelled(&mut serving).await;
        if door::close(&socket).is_ok() {
            let beginning = timeout(door::THRESHOLD, serving);
            let _ = cut.run_until_cancelled(beginning).await;
        }
    }
    let Ok(socket) = socket.into_std() else {
        return;
    };
    let queued = door::queued(socket, |stream, peer| waiting.extend(enter(stream, peer)));
    cut.run_until_cancelled(queued).await;
    for (stream, peer, place) in waiting {
        let Some(permit) = cut.run_until_cancelled(permit()).await else {
            return;
        };
        seat(stream, peer, place, permit);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use socket2::{Domain, Socket, Type};
    use tokio::{task::spawn_blocking, time::Instant};

    use super::super::{Bound, bind};
    use super::*;
    use crate::door::testing::{begins_to_connect, has_begun, until};

    /// The clock stands still while something is done on a thread of its own.
    #[tokio::test(start_paused = true)]
    async fn a_socket_that_closes_accepts_whose_handshake_has_begun_and_begins_none() {
        let settings = config::Listener {
            address: "127.0.0.1:0".parse().unwrap(),
            ..config::Listener::default()
        };
        let Bound {
            address,
            sockets,
            entrance,
        } = bind(settings, 1).unwrap();
        let socket = sockets.into_iter().next().unwrap();
        let socket = TcpListener::from_std(socket).unwrap();
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let (seated, counted) = (Arc::new(AtomicUsize::new(0)), stop.clone());
        let count = Arc::clone(&seated);
        let seat = move |_, _: Accepted| {
            count.fetch_add(1, Relaxed);
        };
        let accepting = tokio::spawn(accept(socket, entrance, counted, cut, seat, |_| {}));

        let first = begins_to_connect(address);
        let begun = move || until(|| has_begun(address.port()));
        spawn_blocking(begun).await.unwrap();
        let began = Instant::now();
        stop.cancel();
        tokio::task::yield_now().await;
        let clients = spawn_blocking(move || {
            let late = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            late.set_nonblocking(true).unwrap();
            assert!(late.connect(&address.into()).is_err());
            first.detach_filter().unwrap();
            // Its first answer was lost; another one comes after a second.
            until(|| first.peer_addr().is_ok());
            assert!(late.peer_addr().is_err() && late.take_error().unwrap().is_none());
            [first, late]
        });
        let clients = clients.await.unwrap();
        accepting.await.unwrap();
        assert_eq!(seated.load(Relaxed), 1);
        assert_eq!(began.elapsed().as_millis(), door::THRESHOLD.as_millis());
        assert!(clients[0].take_error().unwrap().is_none());
    }
}
