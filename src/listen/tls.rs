//! The handshake of a listener that speaks TLS, and how many may be under way: a client that is slow with
//! its own, or says nothing, gives its place up to a newer one.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
};

use http::Version;
use parking_lot::{Mutex, MutexGuard};
use rustls::{HandshakeKind, server::Acceptor};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};

use super::{
    connection::Connection,
    linger::leave,
    socket::Socket,
    stop::{Orders, Stop},
};
use crate::{
    acme::{ACME_TLS, Challenges},
    tls::{HTTP2, Server, Session},
};

/// What a client hears that speaks HTTP where TLS is spoken.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 60\r\nconnection: close\r\n\r\n\
    400 Bad Request: this port speaks TLS; ask it with https://\n";

/// What a client begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// A record of TLS in which a handshake begins (RFC 8446 5.1).
    Tls,
    /// A letter, as of HTTP.
    Text,
    /// Neither.
    Other,
}

impl First {
    /// What begins with this byte.
    pub(super) fn of(byte: u8) -> Self {
        match byte {
            22 => Self::Tls,
            byte if byte.is_ascii_alphabetic() => Self::Text,
            _ => Self::Other,
        }
    }

    /// What a client begins with; `None` where that is nothing.
    async fn awaited(socket: &Socket, orders: &mut Orders<'_>) -> Option<Self> {
        let first = poll_fn(|cx| match socket.poll_first_byte(cx) {
            Poll::Ready(first) => Poll::Ready(first.ok().flatten()),
            Poll::Pending => match orders.last(cx.waker()) {
                Stop::Serve => Poll::Pending,
                // The runtime has yet to hear of what is there.
                Stop::Finish if socket.has_come() => Poll::Pending,
                Stop::Finish | Stop::Cut => Poll::Ready(None),
            },
        });
        first.await.map(Self::of)
    }
}

/// TLS of a listener, with the handshakes that are under way.
pub(crate) struct Tls {
    server: Arc<Server>,
    challenges: Arc<Challenges>,
    most: AtomicUsize,
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Default)]
struct UnderWay {
    next: u64,
    /// In the order in which they began.
    connections: BTreeMap<u64, Arc<Connection>>,
}

/// A handshake that is done.
pub(super) struct Secured {
    pub(super) stream: TlsStream<Socket>,
    /// What is spoken within.
    pub(super) version: Version,
    /// What was agreed upon.
    pub(super) session: Session,
}

impl Tls {
    /// None is under way, and there may be so many. An authority of certificates is answered by
    /// `challenges`.
    pub(crate) fn new(server: Arc<Server>, challenges: Arc<Challenges>, most: usize) -> Self {
        Self {
            server,
            challenges,
            most: AtomicUsize::new(most),
            under_way: Arc::default(),
        }
    }

    /// Counts those that are under way by another one with its own.
    pub(crate) fn in_place_of(self, before: &Self) -> Self {
        Self {
            under_way: Arc::clone(&before.under_way),
            ..self
        }
    }

    /// Has so many be under way at the most from now on.
    pub(crate) fn limit_to(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    /// Does the handshake; `None` where it comes to nothing.
    pub(super) async fn secure(
        &self,
        connection: &Arc<Connection>,
        mut socket: Socket,
    ) -> Option<Secured> {
        let place = self.begin(connection);
        let counts = &self.server.handshakes;
        let mut orders = Orders::to(&connection.signal);
        match First::awaited(&socket, &mut orders).await {
            Some(First::Tls) => {}
            Some(First::Text) => {
                counts.not_tls.add_one();
                connection.worker.refused.add_one();
                drop(place);
                socket.say(NOT_TLS);
                leave(&connection.signal, socket.shut(), true).await;
                return None;
            }
            other => {
                self.count_end(connection, &place, other.is_none());
                return None;
            }
        }
        connection.begin_handshake();
        socket.follow_records();
        let mut accepting = pin!(self.accept(socket));
        let accepted = poll_fn(|cx| match orders.last(cx.waker()) {
            Stop::Cut => Poll::Ready(None),
            Stop::Serve | Stop::Finish => accepting.as_mut().poll(cx).map(Some),
        });
        match accepted.await {
            // One that was given up for a newer one in this very moment is given up.
            Some(Ok(stream)) => place.end().then(|| self.done(connection, stream))?,
            Some(Err((error, mut socket))) => {
                if place.end() {
                    counts.failed.add_one();
                }
                self.say(connection, &error);
                // The client may be sending still, and a reset would take the alert from it.
                if error.kind() == io::ErrorKind::InvalidData {
                    leave(&connection.signal, socket.shut(), true).await;
                }
                None
            }
            None => {
                self.count_end(connection, &place, false);
                None
            }
        }
    }

    async fn accept(&self, socket: Socket) -> Result<TlsStream<Socket>, (io::Error, Socket)> {
        if self.challenges.are_there() {
            // Boxed, since it is seldom.
            return Box::pin(self.accept_amid_an_order(socket)).await;
        }
        let acceptor = TlsAcceptor::from(self.server.current());
        acceptor.accept(socket).into_fallible().await
    }

    /// Does a handshake that may be an authority's, which is known by what it says first.
    async fn accept_amid_an_order(
        &self,
        socket: Socket,
    ) -> Result<TlsStream<Socket>, (io::Error, Socket)> {
        let mut accepting = LazyConfigAcceptor::new(Acceptor::default(), socket);
        let begun = match (&mut accepting).await {
            Ok(begun) => begun,
            Err(error) => {
                let socket = accepting.take_io();
                return Err((error, socket.expect("only one that has begun takes it")));
            }
        };
        let config = self.challenges.config_for(&begun.client_hello());
        let config = config.unwrap_or_else(|| self.server.current());
        begun.into_stream(config).into_fallible().await
    }

    fn done(&self, connection: &Connection, stream: TlsStream<Socket>) -> Option<Secured> {
        let counts = &self.server.handshakes;
        let agreed = stream.get_ref().1;
        let session = match Session::of(agreed) {
            Ok(session) => session,
            Err(error) => {
                counts.failed.add_one();
                self.say(connection, &io::Error::other(error));
                return None;
            }
        };
        let version = match agreed.alpn_protocol() {
            Some(HTTP2) => Version::HTTP_2,
            _ => Version::HTTP_11,
        };
        match agreed.handshake_kind() {
            Some(HandshakeKind::Resumed) => counts.resumed.add_one(),
            _ => counts.full.add_one(),
        }
        if agreed.alpn_protocol() == Some(ACME_TLS) {
            // It has seen the certificate, and speaks nothing within.
            return None;
        }
        Some(Secured {
            stream,
            version,
            session,
        })
    }

    /// Takes a place, where need be that of the handshake that began first.
    fn begin(&self, connection: &Arc<Connection>) -> Handshake<'_> {
        self.server.handshakes.pending.add_one();
        let mut under_way = self.under_way();
        let id = under_way.next;
        under_way.next += 1;
        let connections = &mut under_way.connections;
        connections.insert(id, Arc::clone(connection));
        let evicted = match connections.len() > self.most.load(Relaxed) {
            true => connections.pop_first(),
            false => None,
        };
        drop(under_way);
        if let Some((_, evicted)) = evicted {
            self.server.handshakes.evicted.add_one();
            evicted.order(Stop::Cut);
        }
        Handshake { tls: self, id }
    }

    /// Counts a handshake that was broken off: by the client, or since it was late. That the process ends
    /// in the midst of one is no fault of its client.
    fn count_end(&self, connection: &Connection, place: &Handshake<'_>, may_be_gone: bool) {
        let counts = &self.server.handshakes;
        let is_told = connection.signal.standing() == Stop::Cut;
        let is_evicted = !self.under_way().connections.contains_key(&place.id);
        match (is_evicted, is_told) {
            // It was counted then.
            (true, _) => {}
            (false, true) if connection.is_late() => counts.late.add_one(),
            (false, true) => {}
            // A client that comes and goes without a word only looks whether the port is open.
            (false, false) if may_be_gone => {}
            (false, false) => counts.failed.add_one(),
        }
    }

    fn say(&self, connection: &Connection, error: &io::Error) {
        let client = connection.client();
        tracing::debug!(%client, %error, "a TLS handshake failed");
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock()
    }
}

/// A handshake's place among those that are under way.
struct Handshake<'t> {
    tls: &'t Tls,
    id: u64,
}

impl Handshake<'_> {
    /// Gives the place back; whether it was not a newer one's already.
    fn end(self) -> bool {
        let own = self.tls.under_way().connections.remove(&self.id);
        own.is_some()
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        let gone = self.tls.under_way().connections.remove(&self.id);
        drop(gone);
        self.tls.server.handshakes.pending.sub_one();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{connected, server},
        *,
    };

    #[tokio::test]
    async fn a_handshake_that_is_over_gives_its_place_back_and_is_not_given_up_after() {
        let tls = Tls::new(server(), Arc::default(), 1);
        let mut connections = Vec::new();
        for _ in 0..3 {
            connections.push(connected().await.1);
        }
        let [first, second, third] = &connections[..] else {
            panic!();
        };
        let (given_up, over) = (tls.begin(first), tls.begin(second));
        assert!(!given_up.end());
        assert_eq!(first.signal.standing(), Stop::Cut);
        assert!(over.end());
        let last = tls.begin(third);
        assert_eq!(second.signal.standing(), Stop::Serve);
        assert!(last.end());
        let counts = &tls.server.handshakes;
        assert_eq!((counts.evicted.value(), counts.pending.value()), (1, 0));
    }

    #[tokio::test]
    async fn a_handshake_that_is_cut_before_its_time_is_over_is_not_late() {
        let tls = Tls::new(server(), Arc::default(), 2);
        let connection = connected().await.1;
        connection.order(Stop::Cut);
        let place = tls.begin(&connection);
        let counts = || {
            let counts = &tls.server.handshakes;
            (counts.late.value(), counts.failed.value())
        };
        tls.count_end(&connection, &place, false);
        assert_eq!(counts(), (0, 0));
        connection.worker.clock.store(3_600_000, Relaxed);
        tls.count_end(&connection, &place, false);
        assert_eq!(counts(), (1, 0));
    }

    #[test]
    fn what_a_client_without_tls_hears_has_the_length_that_it_says() {
        let text = std::str::from_utf8(NOT_TLS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())));
    }
}
