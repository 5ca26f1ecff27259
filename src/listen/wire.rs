//! A client's socket, watched: when a head began, since when an answer is stuck, and whether the
//! client is gone, is noted in passing, so that none of it needs a timer or a task.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::Connection;

/// Up to so many bytes, copying pieces together costs less than what the kernel does for a list.
const FLATTENED: usize = 2048;

/// A client's socket.
pub(super) struct Wire {
    stream: TcpStream,
    connection: Arc<Connection>,
    /// Bytes of the next request lie in the socket: the client is not gone.
    pipelined: bool,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            connection,
            pipelined: false,
        }
    }

    /// Whether the client has closed its side while it waits for an answer. hyper would find out
    /// by reading ahead, for which it allocates a buffer with every request; this asks the
    /// readiness that the runtime has, and the kernel only where something came.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        let client = &self.connection.client;
        if client.listener.half_close || self.pipelined || client.activity.requests.value() == 0 {
            return false;
        }
        let mut byte = [MaybeUninit::uninit()];
        match self.stream.poll_peek(cx, &mut ReadBuf::uninit(&mut byte)) {
            Poll::Pending => false,
            Poll::Ready(Ok(0) | Err(_)) => true,
            Poll::Ready(Ok(_)) => {
                self.pipelined = true;
                false
            }
        }
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
        self.pipelined = false;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let connection = &self.connection;
        if buffer.filled().len() > before
            && connection.client.activity.requests.value() == 0
            && connection.head_began.load(Relaxed) == 0
        {
            let now = connection.client.now();
            connection.head_began.store(now, Relaxed);
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
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let polled = if length <= FLATTENED {
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
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
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
