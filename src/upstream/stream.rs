//! A connection's bytes: in the clear, or over TLS. Knows what an idle connection may have to
//! say, and nothing of what is said on one.

use std::{
    io::{self, ErrorKind, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::tls;

/// What a connection is read from and written to.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    /// Boxed, so that a connection in the clear is no larger for it.
    Tls(Box<Secure>),
}

/// A connection over TLS.
#[derive(Debug)]
pub(super) struct Secure {
    stream: TlsStream<TcpStream>,
    /// Whether it ever brought an answer.
    answered: bool,
    /// Its end is to be a reset, before which nothing is said.
    is_reset: bool,
}

/// Who is asked whether something came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The readiness that the runtime already has: only where that says that something came is
    /// there a call.
    Runtime,
    /// The kernel itself, which knows of what the runtime has not seen yet.
    Kernel,
}

impl Stream {
    /// One over which the handshake is done.
    pub(super) fn secured(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(Secure {
            stream,
            answered: false,
            is_reset: false,
        }))
    }

    /// Whether nothing came on the idle connection that ends it or would be taken for an answer.
    pub(super) fn is_quiet(&mut self, ask: Ask) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(secure) => return secure.is_quiet(ask),
        };
        let came = match ask {
            Ask::Runtime => socket.try_read(&mut [0]),
            Ask::Kernel => SockRef::from(&*socket).peek(&mut [MaybeUninit::uninit()]),
        };
        matches!(came, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Whether the endpoint has chosen HTTP/2 in the handshake of TLS.
    pub(super) fn has_chosen_http2(&self) -> bool {
        self.chosen() == Some(tls::H2)
    }

    /// Whether it has chosen another protocol there, or none.
    pub(super) fn has_chosen_another(&self) -> bool {
        matches!(self, Self::Tls(_)) && !self.has_chosen_http2()
    }

    fn chosen(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(secure) => secure.stream.get_ref().1.alpn_protocol(),
        }
    }

    /// Has the kernel look for an endpoint that is gone, when nothing was heard for so long.
    pub(super) fn keep_alive(&self, silence: Duration) {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(secure) => secure.stream.get_ref().0,
        };
        let keepalive = TcpKeepalive::new().with_time(silence);
        // Fails only on a socket that is gone already.
        let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive);
    }

    /// Has the connection's end be a reset.
    pub(super) fn reset(&mut self) {
        let socket = match self {
            Self::Plain(socket) => &*socket,
            Self::Tls(secure) => {
                secure.is_reset = true;
                secure.stream.get_ref().0
            }
        };
        // Fails only on a socket that is gone already.
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }

    /// Whether the endpoint may yet say that it does not take us for who we are. In TLS 1.3 our
    /// side of the handshake is over before the endpoint has looked at our certificate, or missed
    /// it; until it has, it reads nothing of a request.
    pub(super) fn may_be_turned_away(&self) -> bool {
        matches!(self, Self::Tls(secure) if !secure.answered)
    }

    /// Whether this error of reading says that it does not.
    pub(super) fn is_turned_away(&self, error: &io::Error) -> bool {
        self.may_be_turned_away() && tls::is_of_our_certificate(error)
    }
}

/// Never inlined: in the midst of what a request in the clear runs through, it would cost that one.
impl Secure {
    #[inline(never)]
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.answered |= buffer.filled().len() > before;
        read
    }

    #[inline(never)]
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    #[inline(never)]
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Takes in what came. Session tickets, which servers of TLS 1.3 send when they like, are kept
    /// for the next handshake, and leave the connection quiet.
    #[inline(never)]
    fn is_quiet(&mut self, ask: Ask) -> bool {
        let (socket, session) = self.stream.get_mut();
        let socket = &*socket;
        loop {
            match session.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
                _ => return false,
            }
            let mut read = || session.read_tls(&mut &*SockRef::from(socket));
            let came = match ask {
                Ask::Runtime => socket.try_io(Interest::READABLE, read),
                Ask::Kernel => read(),
            };
            match came {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }
}

impl Drop for Secure {
    /// Says that this is the end, so that the endpoint need not take it for an attack. Whether
    /// there is still anybody to hear it is all the same.
    fn drop(&mut self) {
        if self.is_reset {
            return;
        }
        let (socket, session) = self.stream.get_mut();
        session.send_close_notify();
        let _ = session.write_tls(&mut &*SockRef::from(&*socket));
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(secure) => secure.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(secure) => secure.poll_write(cx, &[IoSlice::new(bytes)]),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(secure) => secure.poll_write(cx, slices),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Writes what TLS holds back; a socket holds nothing back.
    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(secure) => secure.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(secure) => Pin::new(&mut secure.stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, sync::Arc};

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{
        ClientConfig, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
        crypto::aws_lc_rs::default_provider,
        pki_types::{PrivateKeyDer, ServerName},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::TlsConnector;

    use super::*;

    const BOTH: [Ask; 2] = [Ask::Runtime, Ask::Kernel];

    /// Both sides of TLS for `localhost`.
    fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let provider = Arc::new(default_provider());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        (Arc::new(client), Arc::new(server))
    }

    /// A server's side that writes only when a test says so.
    struct Server {
        socket: TcpStream,
        session: ServerConnection,
    }

    impl Server {
        async fn say(&mut self, bytes: &[u8]) {
            self.session.writer().write_all(bytes).unwrap();
            self.write().await;
        }

        async fn write(&mut self) {
            let mut bytes = Vec::new();
            while self.session.wants_write() {
                self.session.write_tls(&mut bytes).unwrap();
            }
            self.socket.write_all(&bytes).await.unwrap();
        }

        async fn read(&mut self) {
            let mut bytes = [0; 4096];
            let count = self.socket.read(&mut bytes).await.unwrap();
            let mut bytes = &bytes[..count];
            while !bytes.is_empty() {
                self.session.read_tls(&mut bytes).unwrap();
                self.session.process_new_packets().unwrap();
            }
        }

        /// Reads until the client's part of the handshake is there. What it has to say after
        /// that, the tickets, waits.
        async fn finish_handshake(&mut self) {
            while self.session.is_handshaking() {
                self.read().await;
                if self.session.is_handshaking() {
                    self.write().await;
                }
            }
        }
    }

    /// An idle connection, its server, and what kind of handshake it was.
    async fn connect(
        client: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
    ) -> (Stream, Server, HandshakeKind) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap());
        let (socket, accepted) = tokio::join!(socket, listener.accept());
        let mut server = Server {
            socket: accepted.unwrap().0,
            session: ServerConnection::new(Arc::clone(server)).unwrap(),
        };
        let connector = TlsConnector::from(Arc::clone(client));
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = connector.connect(name, socket.unwrap());
        let (stream, ()) = tokio::join!(connecting, server.finish_handshake());
        let stream = stream.unwrap();
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        (Stream::secured(stream), server, kind)
    }

    /// Waits until something has come: until the runtime knows, or only until the kernel does.
    async fn until_it_came(stream: &Stream, ask: Ask) {
        let socket = match stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(secure) => secure.stream.get_ref().0,
        };
        match ask {
            Ask::Runtime => socket.readable().await.unwrap(),
            Ask::Kernel => {
                let byte = &mut [MaybeUninit::uninit()];
                while SockRef::from(socket).peek(byte).is_err() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    #[tokio::test]
    async fn tickets_that_come_late_disturb_nobody_and_are_kept() {
        for ask in BOTH {
            let (client, server) = configs();
            let (mut stream, mut peer, kind) = connect(&client, &server).await;
            assert_eq!(kind, HandshakeKind::Full);
            assert!(stream.is_quiet(ask));
            peer.write().await;
            until_it_came(&stream, ask).await;
            assert!(stream.is_quiet(ask) && stream.is_quiet(ask));

            stream.write_all(b"question").await.unwrap();
            peer.read().await;
            peer.say(b"answer").await;
            let mut answer = [0; 6];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"answer");
            assert!(stream.is_quiet(ask));

            let (_, _, kind) = connect(&client, &server).await;
            assert_eq!(kind, HandshakeKind::Resumed);
        }
    }

    #[tokio::test]
    async fn a_ticket_may_come_in_pieces() {
        for ask in BOTH {
            let (client, server) = configs();
            let (mut stream, mut peer, _) = connect(&client, &server).await;
            let mut bytes = Vec::new();
            while peer.session.wants_write() {
                peer.session.write_tls(&mut bytes).unwrap();
            }
            for piece in bytes.chunks(100) {
                peer.socket.write_all(piece).await.unwrap();
                until_it_came(&stream, ask).await;
                assert!(stream.is_quiet(ask));
            }
            let (_, _, kind) = connect(&client, &server).await;
            assert_eq!(kind, HandshakeKind::Resumed);
        }
    }

    #[tokio::test]
    async fn what_nobody_asked_for_and_an_end_are_not_quiet() {
        #[derive(Debug)]
        enum Came {
            Answer,
            EndSaid,
            NoTls,
            End,
        }
        for ask in BOTH {
            for came in [Came::Answer, Came::EndSaid, Came::NoTls, Came::End] {
                let (client, server) = configs();
                let (mut stream, mut peer, _) = connect(&client, &server).await;
                peer.write().await;
                until_it_came(&stream, ask).await;
                assert!(stream.is_quiet(ask));
                match came {
                    Came::Answer => peer.say(b"HTTP/1.1 408 Request Timeout\r\n").await,
                    Came::EndSaid => {
                        peer.session.send_close_notify();
                        peer.write().await;
                    }
                    Came::NoTls => peer.socket.write_all(b"HTTP/1.1 408\r\n").await.unwrap(),
                    Came::End => peer.socket.shutdown().await.unwrap(),
                }
                until_it_came(&stream, ask).await;
                assert!(!stream.is_quiet(ask), "{came:?}, {ask:?}");
            }
        }
    }

    #[tokio::test]
    async fn whoever_drops_it_says_that_it_is_over() {
        let (client, server) = configs();
        let (stream, mut peer, _) = connect(&client, &server).await;
        drop(stream);
        peer.read().await;
        let state = peer.session.process_new_packets().unwrap();
        assert!(state.peer_has_closed());
    }
}
