//! A connection's bytes, counted: whether any came, and whether any went out. Knows nothing of frames.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::link::Link;
use crate::upstream::stream::Stream;

/// A stream of bytes that are counted.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) stream: Stream,
    pub(super) link: Arc<Link>,
}

impl Watched {
    fn note_written(&self, written: &Poll<io::Result<usize>>) {
        let is_secured = matches!(self.stream, Stream::Tls(_));
        let count = counted(written, is_secured);
        self.link.written.fetch_add(count, Relaxed);
    }
}

/// As how many bytes this counts. TLS takes the bytes before it writes: where it fails then, some of them
/// may be on their way.
fn counted(written: &Poll<io::Result<usize>>, is_secured: bool) -> u64 {
    match written {
        Poll::Ready(Ok(count)) => *count as u64,
        Poll::Ready(Err(_)) => u64::from(is_secured),
        Poll::Pending => 0,
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        if count > 0 {
            self.link.read.fetch_add(count as u64, Relaxed);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_written(&written);
        written
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_failed_over_tls_may_have_sent_something() {
        let failed = || Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(counted(&failed(), true), 1);
        assert_eq!(counted(&failed(), false), 0);
        for is_secured in [true, false] {
            assert_eq!(counted(&Poll::Ready(Ok(7)), is_secured), 7);
            assert_eq!(counted(&Poll::Pending, is_secured), 0);
        }
    }
}
