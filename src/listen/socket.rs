//! A client's socket, which tells while an answer is awaited whether the client is gone. To find that out
//! hyper would read ahead; this asks the readiness that the runtime has, and the kernel only where
//! something came.

use std::{
    future::Future as _,
    io::{self, IoSlice, Read as _},
    mem::MaybeUninit,
    net::Shutdown,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use super::records::Records;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// The most that one read takes where the runtime was made to forget what lies in the socket.
const READ: usize = 16 * 1024 - 1;

/// Reads at the most of what lies in a socket that is left: a client that sends on holds up no other.
const AHEAD: usize = 64;

/// A client's socket.
pub(super) struct Socket {
    stream: TcpStream,
    /// Bytes that are not read yet lie in the socket: a body that the endpoint does not take, or the
    /// next request. The runtime was made to forget them, so that it tells of what comes after.
    ahead: bool,
    /// Bytes that the kernel has taken to be sent.
    taken: u64,
    /// Where the client speaks TLS.
    records: Option<Records>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ahead: false,
            taken: 0,
            records: None,
        }
    }

    /// The first byte of what the client has sent; `None` where that is nothing, and it has closed its
    /// side.
    pub(super) fn poll_first_byte(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u8>>> {
        let mut space = [MaybeUninit::uninit()];
        let mut byte = ReadBuf::uninit(&mut space);
        let peeked = ready!(self.stream.poll_peek(cx, &mut byte));
        Poll::Ready(peeked.map(|_| byte.filled().first().copied()))
    }

    /// Looks at what the client has sent, and leaves it there; nothing, where it has closed its side.
    pub(super) fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.poll_peek(cx, buffer).map_ok(|_| ())
    }

    /// Whether something has come that is not read, by what the kernel knows now.
    pub(super) fn has_come(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        matches!(SockRef::from(&self.stream).peek(&mut byte), Ok(1))
    }

    /// The records of TLS are to be followed from here.
    pub(super) fn follow_records(&mut self) {
        self.records = Some(Records::default());
    }

    /// Whether some of a record of TLS was read, and not all.
    pub(super) fn is_amid_a_record(&self) -> bool {
        self.records.as_ref().is_some_and(Records::is_amid_one)
    }

    /// Writes as much of a short text as can be written at once.
    pub(super) fn say(&self, text: &[u8]) {
        // A client that takes nothing does not wait for a word of ours.
        let _ = self.stream.try_write(text);
    }

    /// Bytes that the kernel has taken to be sent.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.taken += bytes as u64;
        }
        written
    }

    /// Has the next read ask the kernel for what the runtime has not heard of.
    pub(super) fn look(&mut self) {
        self.ahead = true;
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

    /// Has the kernel look for a client that is gone, when nothing was heard for so long.
    pub(super) fn keep_alive(&self, silence: Duration) {
        let keepalive = TcpKeepalive::new().with_time(silence);
        // Fails only on a socket that is gone already.
        let _ = SockRef::from(&self.stream).set_tcp_keepalive(&keepalive);
    }

    /// Has the kernel end the connection of a client that has acknowledged nothing for so long of what it was sent.
    pub(super) fn give_up_unacknowledged(&self, after: Duration) {
        // A unix socket has no such client.
        let _ = SockRef::from(&self.stream).set_tcp_user_timeout(Some(after));
    }

    /// Has the socket's end be a reset.
    pub(super) fn reset(&self) {
        // Fails only on a socket that is gone already.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// Whether the client has closed its side.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
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
        let room = buffer.remaining().min(READ);
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
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match self.ahead.then(|| self.read_ahead(buffer)).flatten() {
            Some(read) => Poll::Ready(read),
            None => Pin::new(&mut self.stream).poll_read(cx, buffer),
        };
        if let Some(records) = &mut self.records {
            records.follow(&buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
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
