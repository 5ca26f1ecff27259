//! The accept loop of one socket.

use std::{
    collections::VecDeque,
    mem::MaybeUninit,
    net::{IpAddr, Shutdown, SocketAddr},
    pin::pin,
    sync::Arc,
};

use arc_swap::ArcSwap;
use socket2::SockRef;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Addresses, Drain, Room, Tls,
    addresses::Counted,
    listening::{Listening, OpenSockets},
    permits::{Permit, Permits},
};
use crate::{
    backoff::Repeated,
    config::{self, ListenAddress},
    door::{self, Sharing},
};

/// What a client hears that has as many connections as it may.
pub(super) const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 62\r\n\
    retry-after: 1\r\nconnection: close\r\n\r\n\
    429 Too Many Requests: too many connections from this address\n";

/// A listener's entrance, which its sockets share.
pub(crate) struct Entrance {
    terms: ArcSwap<Terms>,
    /// One permit per connection that it may have.
    permits: Arc<Permits>,
    /// Who has how many of them.
    addresses: Arc<Addresses>,
    /// What keeps it from accepting.
    troubles: Repeated,
    /// Its way out.
    pub drain: Arc<Drain>,
    /// Whether another process goes on with its sockets.
    pub sharing: Sharing,
    /// Each of its sockets has a share of it until it is closed.
    pub open: OpenSockets,
}

/// What a connection is served by that comes now.
struct Terms {
    settings: Arc<config::Listener>,
    /// Where it speaks TLS.
    tls: Option<Arc<Tls>>,
}

impl Entrance {
    /// Of a listener that speaks no TLS, before [`Self::change`].
    pub(crate) fn new(settings: config::Listener, sharing: Sharing) -> Self {
        Self {
            sharing,
            permits: Arc::new(Permits::new(settings.limits.connections)),
            addresses: Arc::new(Addresses::new(settings.limits.connections_per_address)),
            troubles: Repeated::default(),
            drain: Arc::default(),
            open: OpenSockets::default(),
            terms: ArcSwap::from_pointee(Terms {
                settings: Arc::new(settings),
                tls: None,
            }),
        }
    }

    /// Its address in the configuration.
    pub(super) fn address(&self) -> ListenAddress {
        self.terms.load().settings.address.clone()
    }

    /// How many connections it has.
    pub(crate) fn connections(&self) -> usize {
        self.permits.given()
    }

    /// Has the connections that come from now on be served by this. The limits hold over all of them.
    pub(crate) fn change(&self, settings: config::Listener, tls: Option<Arc<Tls>>) {
        let limits = settings.limits;
        if let Some(tls) = &tls {
            tls.limit_to(limits.handshakes);
        }
        let settings = Arc::new(settings);
        self.terms.store(Arc::new(Terms { settings, tls }));
        self.addresses.limit_to(limits.connections_per_address);
        self.permits.limit_to(limits.connections);
    }

    /// The place of a client among those of its address. A trusted proxy needs none: its clients are
    /// many.
    fn place(&self, terms: &Terms, peer: IpAddr) -> Result<Option<Counted>, TooMany> {
        if terms.settings.trusts(peer) {
            return Ok(None);
        }
        self.addresses.take(peer).map(Some).ok_or(TooMany)
    }
}

struct TooMany;

/// Tells a client, as well as can be done at once: to wait for it would be to let it in. One that would
/// speak TLS is told by the end alone.
fn turn_away(stream: &TcpStream, speaks_tls: bool) {
    let socket = SockRef::from(stream);
    // The request that is there already is taken, for a close over unread bytes takes the answer back.
    let mut request = [MaybeUninit::uninit(); 4096];
    let _ = socket.recv(&mut request);
    if !speaks_tls {
        let _ = socket.send(TOO_MANY);
    }
    let _ = socket.shutdown(Shutdown::Write);
}

/// What is known of a connection that was accepted.
pub(crate) struct Accepted {
    /// Who is at its other end.
    pub peer: SocketAddr,
    /// The settings of the listener that took it.
    pub listener: Arc<config::Listener>,
    /// Where it speaks TLS.
    pub tls: Option<Arc<Tls>>,
    /// Where a proxy says first whose connection it is: the connections of clients, by their address.
    pub addresses: Option<Arc<Addresses>>,
    /// The way out of that listener.
    pub drain: Arc<Drain>,
    /// Where what counts as another connection is counted.
    pub room: Room,
    /// Given back when the connection ends.
    pub permit: Permit,
    /// The same for its address, where that is counted.
    pub place: Option<Counted>,
}

/// Accepts until `stop`, then the clients whose handshakes have begun, and then those in the socket's
/// queue: a socket that closes resets them all. One that another process goes on with does not close, and
/// these clients are that one's. Those that find no place wait for one until `cut`.
pub(crate) async fn accept(
    (socket, open): (Listening, OpenSockets),
    entrance: Arc<Entrance>,
    stop: CancellationToken,
    cut: CancellationToken,
    assign: impl FnMut(TcpStream, Accepted),
    turned_away: impl Fn(SocketAddr),
) {
    let sharing = entrance.sharing.clone();
    let mut acceptor = Acceptor {
        entrance,
        assign,
        turned_away,
        waiting: VecDeque::new(),
    };
    {
        let mut accepting = pin!(acceptor.accept_all(&socket));
        stop.run_until_cancelled(&mut accepting).await;
        if !sharing.is_shared() && socket.close_door() {
            let beginning = timeout(door::THRESHOLD, accepting);
            let _ = cut.run_until_cancelled(beginning).await;
        }
    }
    if sharing.is_shared() {
        drop(socket);
    } else {
        let queued = socket.take_queued(|(stream, peer)| acceptor.enter(stream, peer));
        cut.run_until_cancelled(queued).await;
    }
    // From here on the address may be another's, however long clients wait for their places.
    drop(open);
    while !acceptor.waiting.is_empty() {
        if cut
            .run_until_cancelled(acceptor.assign_next())
            .await
            .is_none()
        {
            return;
        }
    }
}

/// What the connections of one socket go through between the kernel and a worker.
struct Acceptor<S, T> {
    entrance: Arc<Entrance>,
    assign: S,
    turned_away: T,
    /// Accepted, and without a permit yet.
    waiting: VecDeque<(TcpStream, SocketAddr, Option<Counted>)>,
}

impl<S: FnMut(TcpStream, Accepted), T: Fn(SocketAddr)> Acceptor<S, T> {
    /// Accepts one connection after the other. At the limit one waits, and those behind it stay in
    /// the socket's queue.
    async fn accept_all(&mut self, socket: &Listening) {
        loop {
            match socket.accept().await {
                Ok((stream, peer)) => {
                    self.enter(stream, peer);
                    if !self.waiting.is_empty() {
                        self.assign_next().await;
                    }
                }
                Err(error) if door::is_of_one_connection(&error) => {}
                Err(error) => {
                    if let Some(times) = self.entrance.troubles.note() {
                        let address = &self.entrance.terms.load().settings.address;
                        tracing::error!(%error, times, %address, "cannot accept");
                    }
                    sleep(door::REST).await;
                }
            }
        }
    }

    /// Has a connection wait for a permit, or turns it away where its address has too many: it is counted,
    /// and then told.
    fn enter(&mut self, stream: TcpStream, peer: SocketAddr) {
        let terms = self.entrance.terms.load();
        match self.entrance.place(&terms, peer.ip()) {
            Ok(place) => self.waiting.push_back((stream, peer, place)),
            Err(TooMany) => {
                (self.turned_away)(peer);
                turn_away(&stream, terms.tls.is_some());
            }
        }
    }

    /// Assigns the first that waits to a worker, once there is a permit. It goes on waiting where this
    /// is dropped.
    async fn assign_next(&mut self) {
        let permit = self.entrance.permits.acquire().await;
        let Some((stream, peer, place)) = self.waiting.pop_front() else {
            return;
        };
        // Without it small answers wait for acknowledgements; it fails only on a connection that
        // is gone, which serving it will find out.
        let _ = stream.set_nodelay(true);
        let Entrance {
            addresses,
            permits,
            drain,
            ..
        } = &*self.entrance;
        let terms = self.entrance.terms.load();
        let Terms { settings, tls } = &**terms;
        let accepted = Accepted {
            peer,
            listener: Arc::clone(settings),
            tls: tls.clone(),
            addresses: settings.proxy_protocol.then(|| Arc::clone(addresses)),
            drain: Arc::clone(drain),
            room: Room::of(permits, addresses),
            permit,
            place,
        };
        (self.assign)(stream, accepted);
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

    #[tokio::test]
    async fn a_socket_counts_until_it_is_closed_and_no_longer_though_a_client_waits_for_a_place() {
        let mut settings = config::Listener {
            address: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            ..config::Listener::default()
        };
        settings.limits.connections = 0;
        let Bound {
            address,
            sockets,
            entrance,
        } = bind(settings, 1).unwrap();
        let socket = sockets.into_iter().next().unwrap().watch().unwrap();
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let (stopped, is_cut) = (stop.clone(), cut.clone());
        let (listening, shared) = ((socket, entrance.open.clone()), Arc::clone(&entrance));
        let assign = |_, _: Accepted| {};
        let accepting = accept(listening, shared, stopped, is_cut, assign, |_| {});
        let accepting = tokio::spawn(accepting);
        let _waits = TcpStream::connect(address.tcp().unwrap()).await.unwrap();
        assert!(entrance.open.any());
        stop.cancel();
        while entrance.open.any() {
            sleep(std::time::Duration::from_millis(5)).await;
        }
        assert!(!accepting.is_finished());
        cut.cancel();
        accepting.await.unwrap();
    }

    /// The clock stands still while something is done on a thread of its own.
    #[tokio::test(start_paused = true)]
    async fn a_socket_that_closes_accepts_whose_handshake_has_begun_and_begins_none() {
        let settings = config::Listener {
            address: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            ..config::Listener::default()
        };
        let Bound {
            address,
            sockets,
            entrance,
        } = bind(settings, 1).unwrap();
        let address = address.tcp().unwrap();
        let socket = sockets.into_iter().next().unwrap().watch().unwrap();
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let (assigned, counted) = (Arc::new(AtomicUsize::new(0)), stop.clone());
        let count = Arc::clone(&assigned);
        let assign = move |_, _: Accepted| {
            count.fetch_add(1, Relaxed);
        };
        let socket = (socket, entrance.open.clone());
        let accepting = tokio::spawn(accept(socket, entrance, counted, cut, assign, |_| {}));

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
        assert_eq!(assigned.load(Relaxed), 1);
        assert_eq!(began.elapsed().as_millis(), door::THRESHOLD.as_millis());
        assert!(clients[0].take_error().unwrap().is_none());
    }
}
