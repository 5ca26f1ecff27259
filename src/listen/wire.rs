//! A client's socket, watched: when a head began and since when an answer is stuck is noted in
//! passing, so that time-outs need no timer per connection.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::Connection;

/// A client's socket.
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    pub(super) connection: Arc<Connection>,
}

impl Wire {
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
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_write(polled)
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
