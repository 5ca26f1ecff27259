//! A connection's bytes, counted: whether any came, and whether any went out. It ends where there is nothing
//! more to read, whatever becomes of what is written. Knows nothing of frames.

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
    stream: Stream,
    link: Arc<Link>,
    /// Why nothing more can be written. An endpoint that closes before it has read all resets the connection: its
    /// last answers, and what it says of the requests that it leaves out, have come by then.
    failure: Option<io::Error>,
}

impl Watched {
    pub(super) fn new(stream: Stream, link: Arc<Link>) -> Self {
        Self {
            stream,
            link,
            failure: None,
        }
    }

    /// What a write of so many bytes comes to. They are dropped where none can be written any more.
    fn noted(
        &mut self,
        written: Poll<io::Result<usize>>,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        let is_secured = matches!(self.stream, Stream::Tls(_));
        let count = counted(&written, is_secured);
        self.link.written.fetch_add(count, Relaxed);
        match written {
            Poll::Ready(Err(failure)) => {
                self.failure = Some(failure);
                Poll::Ready(Ok(length))
            }
            written => written,
        }
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
        } else if matches!(read, Poll::Ready(Ok(())))
            && let Some(failure) = self.failure.take()
        {
            // The socket has told the cause to who wrote, and tells it once.
            return Poll::Ready(Err(failure));
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
        if self.failure.is_some() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.failure.is_some() {
            return Poll::Ready(Ok(length));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.noted(written, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failure.is_some() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        self.noted(flushed, 0).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::mpsc::unbounded_channel,
    };

    use super::*;

    #[tokio::test]
    async fn what_came_before_a_reset_is_read_though_a_write_was_the_first_to_hear_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap());
        let (socket, accepted) = tokio::join!(socket, listener.accept());
        let mut endpoint = accepted.unwrap().0;
        let link = Arc::new(Link::new(1, unbounded_channel().0));
        let mut watched = Watched::new(Stream::Plain(socket.unwrap()), link);
        watched.write_all(b"a question").await.unwrap();
        endpoint.readable().await.unwrap();
        endpoint.write_all(b"an answer").await.unwrap();
        // With a question unread, which makes it a reset.
        drop(endpoint);
        while watched.failure.is_none() {
            watched.write_all(b"more").await.unwrap();
            tokio::task::yield_now().await;
        }
        watched.write_all(b"and more").await.unwrap();
        watched.flush().await.unwrap();
        let mut came = Vec::new();
        let end = watched.read_to_end(&mut came).await;
        assert_eq!(came, b"an answer");
        assert!(end.is_err(), "{end:?}");
    }

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
