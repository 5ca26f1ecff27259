//! A client's socket, watched: when a head began, since when an answer is stuck, and whether the
//! client is gone, is noted in passing, so that none of it needs a timer or a task.

use std::{
    future::Future as _,
    io::{self, IoSlice, Read as _},
    mem::MaybeUninit,
    net::Shutdown,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use socket2::SockRef;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::{Connection, Order, target::mended};
use crate::proxy::{Activity, refusal_of_head};

/// Up to so many bytes, copying pieces together costs less than what the kernel does for a list.
const FLATTENED: usize = 2048;

/// The most that one read takes. hyper doubles the buffer that a read has filled, to the size that a
/// head may have, and keeps it to the connection's end: after an upload each client would hold 128
/// KiB. A read of less than its 16 KiB fills none.
const READ: u64 = 16 * 1024 - 1;

/// Reads at the most of what lies in a socket that is left: a client that sends on holds up no other.
const AHEAD: usize = 64;

/// A client's socket.
pub(super) struct Wire {
    stream: TcpStream,
    connection: Arc<Connection>,
    /// Bytes that are not read yet lie in the socket: a body that the endpoint does not take, or the
    /// next request. The runtime was made to forget them, so that it tells of what comes after.
    ahead: bool,
    /// The kernel was asked, when the connection was to end, for what the runtime had not heard of.
    has_looked: bool,
    /// The last four bytes that were read.
    tail: u32,
    /// Read already, and not passed on.
    mended: Bytes,
    /// Written in the place of an answer of hyper's own.
    refusal: Option<Bytes>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            connection,
            ahead: false,
            has_looked: false,
            tail: 0,
            mended: Bytes::new(),
            refusal: None,
        }
    }

    /// The socket, when nothing more is written: its sending side is shut.
    pub(super) fn shut(&mut self) -> &mut TcpStream {
        // It is mostly shut already, or gone.
        let _ = SockRef::from(&self.stream).shutdown(Shutdown::Write);
        // The runtime does not tell again of what it was made to forget.
        let mut space = [MaybeUninit::uninit(); 8192];
        for _ in 0..AHEAD {
            let mut buffer = ReadBuf::uninit(&mut space);
            if !self.ahead || !matches!(self.read_ahead(&mut buffer), Some(Ok(()))) {
                break;
            }
        }
        &mut self.stream
    }

    /// Whether the client has closed its side while it waits for an answer. hyper would find out
    /// by reading ahead, for which it allocates a buffer with every request; this asks the
    /// readiness that the runtime has, and the kernel only where something came.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        let client = &self.connection.client;
        if client.listener.half_close || client.activity.requests.value() == 0 {
            return false;
        }
        if !self.ahead {
            let mut byte = [MaybeUninit::uninit()];
            match self.stream.poll_peek(cx, &mut ReadBuf::uninit(&mut byte)) {
                Poll::Pending => return false,
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Ready(Ok(_)) => self.ahead = true,
            }
        }
        self.poll_gone_behind(cx)
    }

    /// The same where bytes lie in the socket, behind which the end of the connection would be.
    #[cold]
    fn poll_gone_behind(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            match self.stream.poll_read_ready(cx) {
                Poll::Pending => return false,
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(())) if is_closed(&self.stream) => return true,
                Poll::Ready(Ok(())) => {
                    let forget = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _ = self.stream.try_io(Interest::READABLE, forget);
                }
            }
        }
    }

    /// Reads what the runtime was made to forget; `None` where all of it was read.
    #[cold]
    fn read_ahead(&mut self, buffer: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        let room = buffer.remaining().min(READ as usize);
        let unfilled = buffer.initialize_unfilled_to(room);
        match (&*SockRef::from(&self.stream)).read(unfilled) {
            Ok(count) => {
                // Less than there was room for is all that there was.
                self.ahead = count == room;
                buffer.advance(count);
                Some(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.ahead = false;
                None
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Notes when a head began, and whether one begins behind the request that these bytes end.
    fn note_read(&mut self, read: &[u8]) {
        self.tail = with(self.tail, read);
        let at_end = is_an_empty_line(self.tail);
        let connection = &*self.connection;
        let activity = &connection.client.activity;
        if activity.requests.value() > 0 || activity.rest.is_abandoned() {
            connection.beyond.fetch_add(read.len() as u64, Relaxed);
        } else {
            if connection.head_began.load(Relaxed) == 0 {
                let since = if connection.has_begun_another() {
                    activity.answered.load(Relaxed)
                } else {
                    connection.client.now()
                };
                connection.head_began.store(since, Relaxed);
            }
            // Most heads come alone and whole, and are not looked through.
            let beyond = if at_end { 0 } else { beyond_the_head(read) };
            connection.beyond.store(beyond as u64, Relaxed);
        }
        connection.at_end.store(at_end, Relaxed);
    }

    fn pass_on_mended(&mut self, buffer: &mut ReadBuf<'_>) {
        let fits = buffer.remaining().min(self.mended.len());
        buffer.put_slice(&self.mended.split_to(fits));
    }

    /// Whether the next bytes are the beginning of a head; not while any may be a body's, for what is
    /// mended grows, and would push the end of a body out of its length.
    fn is_at_a_head(&self) -> bool {
        let connection = &*self.connection;
        let activity = &connection.client.activity;
        activity.requests.value() == 0
            && !activity.rest.may_come()
            && connection.head_began.load(Relaxed) == 0
            && !connection.has_begun_another()
    }

    /// Writes an answer to a head that hyper does not understand, instead of hyper's own.
    #[cold]
    fn poll_refuse(&mut self, cx: &mut Context<'_>, answer: &[u8]) -> Poll<io::Result<usize>> {
        let client = &self.connection.client;
        client.activity.rest.disregard_what_follows();
        let refusal = self.refusal.get_or_insert_with(|| {
            let refusal = refusal_of_head(client, answer);
            refusal.map_or_else(|| Bytes::copy_from_slice(answer), Bytes::from)
        });
        while !refusal.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, refusal))?;
            refusal.advance(written);
        }
        Poll::Ready(Ok(answer.len()))
    }

    /// hyper answers by itself what it does not understand, and nothing else.
    fn is_hypers_own(&self) -> bool {
        !self.connection.client.activity.asked.load(Relaxed)
    }

    fn note_write<T>(&self, polled: Poll<T>) -> Poll<T> {
        let stuck = &self.connection.stuck;
        let since = stuck.load(Relaxed);
        if polled.is_ready() {
            if since != 0 {
                stuck.store(0, Relaxed);
            }
        } else if since == 0 {
            stuck.store(self.connection.client.now(), Relaxed);
        }
        polled
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.mended.is_empty() {
            self.pass_on_mended(buffer);
            return Poll::Ready(Ok(()));
        }
        if !self.has_looked && self.connection.standing_order() == Order::Finish {
            (self.has_looked, self.ahead) = (true, true);
        }
        let before = buffer.filled().len();
        let ahead = if self.ahead {
            self.read_ahead(buffer)
        } else {
            None
        };
        let polled = match ahead {
            Some(read) => Poll::Ready(read),
            None => Pin::new(&mut (&mut self.stream).take(READ)).poll_read(cx, buffer),
        };
        if let Some(read @ [_, ..]) = buffer.filled().get(before..) {
            let is_head = self.is_at_a_head();
            self.note_read(read);
            if is_head && let Some(mended) = mended(read) {
                self.mended = mended.into();
                buffer.set_filled(before);
                self.pass_on_mended(buffer);
            }
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = if self.is_hypers_own() {
            self.poll_refuse(cx, bytes)
        } else {
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        };
        self.note_write(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let polled = if self.is_hypers_own() {
            let answer: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            self.poll_refuse(cx, &answer)
        } else if length <= FLATTENED {
            let mut space = [MaybeUninit::uninit(); FLATTENED];
            let mut flat = ReadBuf::uninit(&mut space);
            for slice in slices {
                flat.put_slice(slice);
            }
            Pin::new(&mut self.stream).poll_write(cx, flat.filled())
        } else {
            Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
        };
        self.note_write(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper comes here whenever it has done what it can.
        if self.poll_gone(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // All that it had is written: an answer that was cut short may end.
        let Activity {
            asked,
            requests,
            unwritten,
            ..
        } = &self.connection.client.activity;
        if requests.value() == 0 && asked.load(Relaxed) {
            asked.store(false, Relaxed);
        }
        if unwritten.load(Relaxed) {
            unwritten.store(false, Relaxed);
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether the client has closed its side, as far as the runtime knows.
fn is_closed(stream: &TcpStream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let ready = pin!(stream.ready(Interest::READABLE)).poll(&mut cx);
    matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

/// The last four bytes when these are read too.
fn with(tail: u32, read: &[u8]) -> u32 {
    let last = &read[read.len().saturating_sub(4)..];
    last.iter()
        .fold(tail, |tail, byte| tail << 8 | u32::from(*byte))
}

/// Whether the end of a line is followed by an empty one.
fn is_an_empty_line(tail: u32) -> bool {
    let [_, third, second, first] = tail.to_be_bytes();
    first == b'\n' && (second == b'\n' || [third, second] == *b"\n\r")
}

/// How many bytes follow the empty line that ends a head; none where it does not end here.
fn beyond_the_head(bytes: &[u8]) -> usize {
    // Those before it are left over from what came earlier, and are passed over.
    let mut rest = bytes.trim_ascii_start();
    while let Some(end) = memchr::memchr(b'\n', rest) {
        rest = &rest[end + 1..];
        if let Some(beyond) = rest.strip_prefix(b"\r\n").or(rest.strip_prefix(b"\n")) {
            return beyond.len();
        }
    }
    0
}

impl Drop for Wire {
    fn drop(&mut self) {
        // A reset, so that an answer which ends with its connection is not taken for whole.
        let activity = &self.connection.client.activity;
        if activity.cut_short.load(Relaxed) && activity.http10.load(Relaxed) {
            // Fails only on a socket that is gone already.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::super::testing::connected;
    use super::*;

    #[tokio::test]
    async fn a_head_is_mended_and_what_may_be_of_a_body_is_not() {
        for (of_a_body, read) in [
            (false, "GET /?%3C HTTP/1.1\r\n"),
            (true, "GET /?< HTTP/1.1\r\n"),
        ] {
            let (mut client, connection, stream) = connected().await;
            if of_a_body {
                connection.client.activity.rest.disregard_what_follows();
            }
            let mut wire = Wire::new(stream, connection);
            client.write_all(b"GET /?< HTTP/1.1\r\n").await.unwrap();
            let mut bytes = vec![0; read.len()];
            wire.read_exact(&mut bytes).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), read);
        }
    }

    #[test]
    fn what_follows_a_head_is_counted() {
        for (bytes, beyond) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nbody", 4),
            ("GET / HTTP/1.1\nHost: a\n\nbody", 4),
            ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nG", 1),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\na\r\n\r\nb", 6),
            ("GET / HTTP/1.1\r\nHost: a\r\n", 0),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
            ("G", 0),
            ("\r\n\r\n", 0),
        ] {
            assert_eq!(beyond_the_head(bytes.as_bytes()), beyond, "{bytes:?}");
        }
    }

    #[test]
    fn an_empty_line_is_seen_however_it_comes() {
        for (pieces, is_end) in [
            (&["a\r\n\r\n"][..], true),
            (&["a\n\n"], true),
            (&["a\r\n", "\r\n"], true),
            (&["a\r\n\r", "\n"], true),
            (&["a", "\n", "\n"], true),
            (&["a\r\n"], false),
            (&["\r\n"], false),
            (&["a\r\n\r\n", "a"], false),
            (&["abcdefg"], false),
        ] {
            let read = |tail, piece: &&str| with(tail, piece.as_bytes());
            let tail = pieces.iter().fold(0, read);
            assert_eq!(is_an_empty_line(tail), is_end, "{pieces:?}");
        }
    }
}
