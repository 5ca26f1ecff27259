//! A connection that an endpoint has switched to another protocol. Knows nothing of what is said on it.

use std::{
    fmt, io,
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    pool::{InFlight, Pool},
    stream::Stream,
    witness::Witness,
};

/// A connection to an endpoint that has gone over to another protocol. It counts as a request of the
/// endpoint until it is dropped.
pub(crate) struct Switched {
    pub(super) stream: Stream,
    /// What the endpoint has sent right behind its answer.
    pub(super) early: Bytes,
    /// How long it may be silent.
    pub(super) idle: Option<Duration>,
    pub(super) in_flight: InFlight,
    /// Kept until the end.
    pub(super) witness: Option<Box<dyn Witness>>,
}

impl Switched {
    /// How long it may be silent; `None` is for ever.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.idle
    }

    /// Takes what the endpoint has sent right behind its answer, which comes before what is read.
    pub(crate) fn take_early(&mut self) -> Bytes {
        std::mem::take(&mut self.early)
    }

    /// The endpoint's connections, of which it is none any more.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        self.in_flight.pool()
    }

    /// Has the kernel look for an endpoint that is gone, when nothing was heard for so long.
    pub(crate) fn keep_alive(&self, silence: Duration) {
        self.stream.keep_alive(silence);
    }

    /// Has the connection's end be a reset.
    pub(crate) fn reset(&mut self) {
        self.stream.reset();
    }
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Switched")
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        self.pool().tunnels.sub_one();
    }
}

impl AsyncRead for Switched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Switched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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
