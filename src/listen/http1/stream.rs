//! A client's bytes, watched: when a head began, since when an answer is stuck, and whether the client is
//! gone, is noted in passing, so that none of it needs a timer or a task.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    super::{
        Connection, Stop,
        preface::{self, Begun, Preface},
        stall::Stall,
        stop::{Orders, StopSignal},
        transport::Transport,
    },
    framing::{Framing, Passed},
    progress::Progress,
    target::{self, Looked},
};
use crate::{
    config::ListenProtocol,
    proxy::{RequestStream, refusal_of_head},
};

/// Up to so many bytes, copying pieces together costs less than what the kernel does for a list.
const FLATTENED: usize = 2048;

/// The most that one read takes. hyper doubles the buffer that a read has filled, to the size that a
/// head may have, and keeps it to the connection's end: after an upload each client would hold 128
/// KiB. A read of less than its 16 KiB fills none.
const READ: u64 = 16 * 1024 - 1;

/// How a TLS client begins: with a record of a handshake.
const TLS_RECORD: &[u8] = &[22, 3];

/// What it understands, where no TLS is spoken: a fatal alert, `protocol_version` (RFC 8446 6).
const TLS_ALERT: &[u8] = &[21, 3, 1, 0, 2, 2, 70];

/// A client's bytes, as hyper reads and writes them.
pub(super) struct ClientStream {
    transport: Transport,
    connection: Arc<Connection>,
    progress: Arc<Progress>,
    /// The kernel was asked, when the connection was to end, for what the runtime had not heard of.
    has_looked: bool,
    /// The head that has begun is a record of TLS of which some has come, and perhaps none.
    in_record: bool,
    stall: Stall,
    /// What was read of what may be the start of HTTP/2; `None` once it is known that it is not.
    preface: Option<Vec<u8>>,
    speaks_http2: bool,
    /// Where in the client's requests the bytes stand that are handed to hyper.
    framing: Framing,
    /// Read already, and not handed over.
    held: Bytes,
    /// Written in the place of an answer of hyper's own.
    refusal: Option<Bytes>,
    /// What hyper has written of the answer by which the connection goes over, and the socket has not taken yet.
    /// hyper is done with the connection then, and gives up what it holds.
    unsent: BytesMut,
}

impl ClientStream {
    pub(super) fn new(
        transport: Transport,
        connection: Arc<Connection>,
        progress: Arc<Progress>,
    ) -> Self {
        // Over TLS the handshake has said what is spoken.
        let may_be_http2 = connection.listener.protocol == ListenProtocol::Auto
            && matches!(transport, Transport::Clear(_));
        Self {
            transport,
            connection,
            progress,
            has_looked: false,
            in_record: false,
            stall: Stall::default(),
            preface: may_be_http2.then(Vec::new),
            speaks_http2: false,
            framing: Framing::default(),
            held: Bytes::new(),
            refusal: None,
            unsent: BytesMut::new(),
        }
    }

    /// Writes what there still is of the answer by which the connection goes over. Returns whether the client can
    /// have it all: it may be gone, or take nothing until the connection is cut.
    pub(super) async fn send_rest(&mut self, signal: &StopSignal) -> bool {
        let mut orders = Orders::to(signal);
        poll_fn(|cx| match orders.last(cx.waker()) {
            Stop::Cut => Poll::Ready(false),
            Stop::Serve | Stop::Finish => self.poll_rest(cx).map(|sent| sent.is_ok()),
        })
        .await
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = Pin::new(&mut self.transport).poll_write(cx, &self.unsent);
            match ready!(self.note_write(written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.unsent.advance(count),
            }
        }
        let flushed = Pin::new(&mut self.transport).poll_flush(cx);
        self.note_write(flushed)
    }

    /// Keeps what hyper writes, and the socket does not take, where the connection goes over with it.
    fn keep_unsent(
        &mut self,
        written: Poll<io::Result<usize>>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() || !self.progress.requests.has_switched.load(Relaxed) {
            return written;
        }
        let before = self.unsent.len();
        for slice in slices {
            self.unsent.extend_from_slice(slice);
        }
        Poll::Ready(Ok(self.unsent.len() - before))
    }

    /// Says by TLS that nothing more is written. hyper leaves that out behind a request that has asked for
    /// another protocol, and was answered in this one.
    pub(super) async fn say_end(&mut self, signal: &StopSignal) {
        if let Transport::Tls(stream) = &mut self.transport {
            let mut orders = Orders::to(signal);
            poll_fn(|cx| match orders.last(cx.waker()) {
                Stop::Cut => Poll::Ready(()),
                // A client that is gone is told nothing.
                _ => Pin::new(&mut *stream).poll_shutdown(cx).map(drop),
            })
            .await;
        }
    }

    /// The socket, when nothing more is written: its sending side is shut.
    pub(super) fn shut(&mut self) -> &mut TcpStream {
        self.transport.socket().shut()
    }

    /// What was read, and not handed over.
    pub(super) fn take_held(&mut self) -> Bytes {
        std::mem::take(&mut self.held)
    }

    /// What is below, for bytes that are of no request.
    pub(super) fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// Whether the client has begun with HTTP/2, so that nothing was handed over.
    pub(super) fn speaks_http2(&self) -> bool {
        self.speaks_http2
    }

    /// The connection, to be served by HTTP/2.
    pub(super) fn into_http2(self) -> Begun {
        Begun {
            transport: self.transport,
            read: self.preface.unwrap_or_default().into(),
        }
    }

    /// Has the connection's end be a reset, so that an answer which ends with its connection is not taken for
    /// whole.
    pub(super) fn reset(&mut self) {
        self.transport.socket().reset();
    }

    /// Whether the client has closed its side while it waits for an answer. hyper would find out
    /// by reading ahead, for which it allocates a buffer with every request.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        let requests = &self.progress.requests;
        let client = &requests.client;
        if client.listener.half_close || client.activity.requests.value() == 0 {
            return false;
        }
        // One that has seen its connection go over may have said all that it has to say.
        !requests.has_switched.load(Relaxed) && self.transport.socket().poll_gone(cx)
    }

    /// What was read where a head begins, if its target must be mended.
    fn mended(&mut self, read: &[u8]) -> Option<Vec<u8>> {
        if !self.framing.is_at_a_head() {
            return None;
        }
        match target::look(read) {
            Looked::Partial => None,
            Looked::Fit => {
                self.framing.note_line();
                None
            }
            Looked::Mended(mended) => Some(mended),
        }
    }

    /// How many of these bytes, which were read, are handed to hyper now, and with which of them a fragment
    /// begins. Notes when a head began, and whether one begins behind the request that they end.
    fn pass(&mut self, read: &[u8]) -> io::Result<Passed> {
        let is_of_a_head = self.framing.is_in_a_head();
        let passed = self.framing.pass(read);
        self.in_record = false;
        if is_of_a_head {
            let progress = &*self.progress;
            progress.begin_head();
            let beyond = self.framing.beyond();
            progress.beyond.store(beyond, Relaxed);
            if let Ok(Passed { count, .. }) = passed {
                progress.keep_text(&read[..count - beyond as usize]);
            }
        }
        passed.map_err(|unsound| io::Error::new(io::ErrorKind::InvalidData, unsound))
    }

    /// Hands over what was read and held back.
    fn hand_over(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        let held = self.held.clone();
        if let Some(mended) = self.mended(&held) {
            self.held = mended.into();
        }
        let before = buffer.filled().len();
        let piece = self.held.slice(..buffer.remaining().min(self.held.len()));
        let passed = self.pass(&piece)?;
        buffer.put_slice(&piece[..passed.count]);
        spoil(buffer, before, &passed);
        self.held.advance(passed.count);
        if self.held.is_empty() {
            // It would keep its memory.
            self.held = Bytes::new();
        }
        Ok(())
    }

    /// Reads what has come.
    fn poll_transport(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.has_looked && self.connection.signal.standing() == Stop::Finish {
            self.has_looked = true;
            self.transport.socket().look();
        }
        let read = if buffer.remaining() as u64 <= READ {
            Pin::new(&mut self.transport).poll_read(cx, buffer)
        } else {
            Pin::new(&mut (&mut self.transport).take(READ)).poll_read(cx, buffer)
        };
        if read.is_pending() {
            self.note_record();
        }
        read
    }

    /// Takes a record of TLS of which some has come for a head that has begun, and for none when that is
    /// whole, and had nothing in it.
    fn note_record(&mut self) {
        let is_amid = self.transport.socket().is_amid_a_record();
        if is_amid == self.in_record || !self.framing.is_at_a_head() {
            return;
        }
        let began = &self.progress.head_began;
        if is_amid && began.load(Relaxed) == 0 {
            self.in_record = true;
            self.progress.begin_head();
        } else if self.in_record {
            self.in_record = false;
            began.store(0, Relaxed);
        }
    }

    /// The same, of bytes that may be the first of the connection: the start of HTTP/2 is not handed over.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            ready!(self.poll_transport(cx, buffer))?;
            let Some(begun) = &mut self.preface else {
                return Poll::Ready(Ok(()));
            };
            let read = &buffer.filled()[before..];
            let preface = preface::of(begun, read);
            if preface == Preface::Other {
                if !begun.is_empty() {
                    begun.extend_from_slice(read);
                    self.held = std::mem::take(begun).into();
                    buffer.set_filled(before);
                }
                self.preface = None;
                return Poll::Ready(Ok(()));
            }
            begun.extend_from_slice(read);
            buffer.set_filled(before);
            if preface == Preface::Whole {
                self.speaks_http2 = true;
                // hyper ends, and writes nothing.
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            let began = &self.progress.head_began;
            if began.load(Relaxed) == 0 {
                began.store(self.progress.client().now(), Relaxed);
            }
        }
    }

    /// Writes an answer to a head that hyper does not understand, instead of hyper's own.
    #[cold]
    fn poll_refuse(&mut self, cx: &mut Context<'_>, answer: &[u8]) -> Poll<io::Result<usize>> {
        let requests = &self.progress.requests;
        requests.rest.disregard_what_follows();
        let bodyless = self.framing.is_of_head_method();
        let speaks_tls = self.framing.begins_with(TLS_RECORD);
        let refusal = self.refusal.get_or_insert_with(|| {
            if speaks_tls {
                let client = &requests.client;
                client.worker.refused.add_one();
                tracing::debug!(client = %client.peer.ip, "speaks TLS where none is spoken");
                return Bytes::from_static(TLS_ALERT);
            }
            let refusal = refusal_of_head(&requests.client, answer, bodyless);
            refusal.map_or_else(|| Bytes::copy_from_slice(answer), Bytes::from)
        });
        while !refusal.is_empty() {
            let written = ready!(Pin::new(&mut self.transport).poll_write(cx, refusal))?;
            refusal.advance(written);
        }
        Poll::Ready(Ok(answer.len()))
    }

    /// hyper answers by itself what it does not understand, and nothing else.
    fn is_hypers_own(&self) -> bool {
        !self.progress.requests.asked.load(Relaxed)
    }

    /// Notes since when the client has taken nothing of what waits for it.
    fn note_write<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        let (taken, progress) = (self.transport.socket().taken(), &*self.progress);
        let now = || progress.client().now();
        self.stall.note(&polled, taken, &progress.stuck, now);
        polled
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(body) = self.progress.take_body() {
            self.framing.begin_body(body);
        }
        let before = buffer.filled().len();
        if self.held.is_empty() {
            ready!(self.poll_more(cx, buffer))?;
        }
        if self.held.is_empty() {
            let read = &buffer.filled()[before..];
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Some(mended) = self.mended(read) {
                self.held = mended.into();
            } else {
                let passed = self.pass(read)?;
                if passed.count < read.len() {
                    self.held = Bytes::copy_from_slice(&read[passed.count..]);
                    buffer.set_filled(before + passed.count);
                }
                spoil(buffer, before, &passed);
                return Poll::Ready(Ok(()));
            }
            buffer.set_filled(before);
        }
        Poll::Ready(self.hand_over(buffer))
    }
}

/// Has hyper refuse a head whose target has a fragment. It is in bytes that were handed over, from `before`.
fn spoil(buffer: &mut ReadBuf<'_>, before: usize, passed: &Passed) {
    if let Some(at) = passed.fragment {
        buffer.filled_mut()[before + at] = target::WRONG;
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = if !self.unsent.is_empty() {
            Poll::Pending
        } else if self.is_hypers_own() {
            self.poll_refuse(cx, bytes)
        } else {
            Pin::new(&mut self.transport).poll_write(cx, bytes)
        };
        let polled = self.note_write(polled);
        self.keep_unsent(polled, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let polled = if !self.unsent.is_empty() {
            Poll::Pending
        } else if self.is_hypers_own() {
            let answer: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            self.poll_refuse(cx, &answer)
        } else if length <= FLATTENED {
            let mut space = [MaybeUninit::uninit(); FLATTENED];
            let mut flat = ReadBuf::uninit(&mut space);
            for slice in slices {
                flat.put_slice(slice);
            }
            Pin::new(&mut self.transport).poll_write(cx, flat.filled())
        } else {
            Pin::new(&mut self.transport).poll_write_vectored(cx, slices)
        };
        let polled = self.note_write(polled);
        self.keep_unsent(polled, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper comes here whenever it has done what it can.
        if self.poll_gone(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        ready!(self.poll_rest(cx))?;
        // All that it had is written: an answer that was cut short may end.
        let RequestStream {
            client,
            asked,
            unwritten,
            ..
        } = &*self.progress.requests;
        if client.activity.requests.value() == 0 && asked.load(Relaxed) {
            asked.store(false, Relaxed);
        }
        if unwritten.load(Relaxed) {
            unwritten.store(false, Relaxed);
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.speaks_http2 {
            return Poll::Ready(Ok(()));
        }
        let shut = Pin::new(&mut self.transport).poll_shutdown(cx);
        self.note_write(shut)
    }
}

#[cfg(test)]
mod tests {
    use std::{task::Waker, time::Duration};

    use socket2::SockRef;
    use tokio::io::AsyncWriteExt as _;

    use super::super::{
        super::{
            socket::Socket,
            testing::{Secured, client_of, connected, secured},
        },
        framing::Body,
    };
    use super::*;
    use crate::proxy::Scheme;

    /// TLS has it all by then, and the kernel has not.
    #[tokio::test]
    async fn a_client_that_leaves_the_end_of_an_answer_to_tls_is_noted_to_take_nothing() {
        let Secured {
            client: _client,
            connection,
            stream,
            socket: _,
        } = secured().await;
        let of = client_of(&connection, Scheme::Https);
        let progress = Arc::new(Progress::new(of));
        progress.requests.asked.store(true, Relaxed);
        progress.client().activity.requests.add_one();
        let transport = Transport::Tls(Box::new(stream));
        let mut wire = ClientStream::new(transport, connection, Arc::clone(&progress));
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            // Of the last of it TLS took all, and could not write it.
            wire.write_all(&[7; 1024]).await.unwrap();
            if Pin::new(&mut wire).poll_flush(&mut cx).is_pending() {
                break;
            }
        }
        assert_ne!(progress.stuck.load(Relaxed), 0);
        assert_eq!(progress.late(1, u64::MAX), Some(Stop::Cut));
    }

    /// A socket that takes nothing, and how much it took before.
    async fn full(client: &TcpStream, stream: &TcpStream) -> usize {
        SockRef::from(client).set_recv_buffer_size(4096).unwrap();
        SockRef::from(stream).set_send_buffer_size(4096).unwrap();
        let mut taken = 0;
        // What was written is where it can be after a while, and there is room for more.
        for _ in 0..100 {
            while let Ok(count) = stream.try_write(&[0; 4096]) {
                taken += count;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        taken
    }

    #[tokio::test]
    async fn an_answer_that_goes_over_is_sent_whole_though_the_socket_is_full_when_hyper_is_done() {
        for is_one in [true, false] {
            let (mut client, connection, stream) = connected().await;
            let before = full(&client, &stream).await;
            let progress = Arc::new(Progress::new(client_of(&connection, Scheme::Http)));
            progress.requests.asked.store(true, Relaxed);
            let transport = Transport::Clear(Socket::new(stream));
            let mut wire = ClientStream::new(transport, Arc::clone(&connection), progress);
            let mut cx = Context::from_waker(Waker::noop());
            let slices = [b"HTTP/1.1 101 ", &[b'a'; 3000][..], b"\r\n\r\n"];
            let all = slices.concat();
            let write = |wire: &mut ClientStream, cx: &mut Context<'_>| match is_one {
                true => Pin::new(wire).poll_write(cx, &all),
                false => Pin::new(wire).poll_write_vectored(cx, &slices.map(IoSlice::new)),
            };
            // Another answer waits as long as it has to.
            assert!(write(&mut wire, &mut cx).is_pending());
            wire.progress.requests.has_switched.store(true, Relaxed);
            let written = write(&mut wire, &mut cx).map(Result::unwrap);
            assert_eq!(written, Poll::Ready(all.len()));
            assert!(Pin::new(&mut wire).poll_flush(&mut cx).is_pending());
            let sending = wire.send_rest(&connection.signal);
            let mut read = vec![0; before + all.len()];
            let (is_sent, came) = tokio::join!(sending, client.read_exact(&mut read));
            came.unwrap();
            assert!(is_sent && read[before..] == all);
        }
    }

    #[tokio::test]
    async fn a_client_that_closes_its_side_is_gone_unless_its_connection_has_gone_over() {
        let (mut client, connection, stream) = connected().await;
        let progress = Arc::new(Progress::new(client_of(&connection, Scheme::Http)));
        let requests = Arc::clone(&progress.requests);
        requests.client.activity.requests.add_one();
        let transport = Transport::Clear(Socket::new(stream));
        let mut wire = ClientStream::new(transport, connection, progress);
        client.write_all(b"all that it says").await.unwrap();
        client.shutdown().await.unwrap();
        let gone = poll_fn(|cx| match Pin::new(&mut wire).poll_flush(cx) {
            Poll::Ready(Ok(())) => Poll::Pending,
            gone => gone,
        });
        assert!(gone.await.is_err());
        requests.has_switched.store(true, Relaxed);
        wire.flush().await.unwrap();
        let mut said = Vec::new();
        wire.transport().read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"all that it says");
    }

    #[tokio::test]
    async fn half_a_record_of_tls_is_a_head_that_has_begun_until_it_is_none() {
        let Secured {
            client,
            connection,
            stream,
            ..
        } = secured().await;
        let of = client_of(&connection, Scheme::Https);
        let progress = Arc::new(Progress::new(of));
        let transport = Transport::Tls(Box::new(stream));
        let mut wire = ClientStream::new(transport, connection, Arc::clone(&progress));
        let (mut socket, mut session) = client.into_inner();
        let mut read_until = async |began: bool| {
            let mut space = [0; 64];
            poll_fn(|cx| {
                let mut buffer = ReadBuf::new(&mut space);
                let read = Pin::new(&mut wire).poll_read(cx, &mut buffer);
                let is_so = (progress.head_began.load(Relaxed) != 0) == began;
                assert!(read.is_pending() || !buffer.filled().is_empty());
                if read.is_ready() || is_so {
                    Poll::Ready(buffer.filled().to_vec())
                } else {
                    Poll::Pending
                }
            })
            .await
        };
        let record = |session: &mut rustls::ClientConnection| {
            let mut record = Vec::new();
            while session.wants_write() {
                session.write_tls(&mut record).unwrap();
            }
            record
        };
        // A record that says nothing to the request.
        session.refresh_traffic_keys().unwrap();
        let empty = record(&mut session);
        assert_eq!(read_until(false).await, b"");
        socket.write_all(&empty[..9]).await.unwrap();
        assert_eq!(read_until(true).await, b"");
        socket.write_all(&empty[9..]).await.unwrap();
        assert_eq!(read_until(false).await, b"");
        std::io::Write::write_all(&mut session.writer(), b"GET").unwrap();
        let request = record(&mut session);
        socket.write_all(&request[..3]).await.unwrap();
        assert_eq!(read_until(true).await, b"");
        socket.write_all(&request[3..]).await.unwrap();
        assert_eq!(read_until(false).await, b"GET");
        assert_ne!(progress.head_began.load(Relaxed), 0);
    }

    #[tokio::test]
    async fn a_head_is_mended_and_what_may_be_of_a_body_is_not() {
        let line = "GET /?< HTTP/1.1\r\n";
        for length in [0, line.len()] {
            let (mut client, connection, stream) = connected().await;
            let of = client_of(&connection, Scheme::Http);
            let progress = Arc::new(Progress::new(of));
            progress.begin_request(Body::Length(length as u64));
            let transport = Transport::Clear(Socket::new(stream));
            let mut wire = ClientStream::new(transport, connection, progress);
            client.write_all(line.repeat(2).as_bytes()).await.unwrap();
            let mended = "GET /?%3C HTTP/1.1\r\n";
            let expected = if length == 0 {
                [mended, line].concat()
            } else {
                [line, mended].concat()
            };
            let mut bytes = vec![0; expected.len()];
            wire.read_exact(&mut bytes).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), expected);
        }
    }
}
