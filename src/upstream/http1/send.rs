//! The sending half of an exchange: the head and whatever of the body is at hand in one write,
//! then the body as it comes. The body is polled only when the socket has room for more.

use std::{
    error::Error as StdError,
    io::{self, IoSlice, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::{Framing, Source};
use crate::upstream::{Request, buffers, stream::Stream};

/// Why sending stopped.
#[derive(Debug)]
pub(super) enum SendError {
    /// The body's source failed: the client's doing.
    Source(Box<dyn StdError + Send + Sync>),
    /// The socket failed: the endpoint's doing.
    Socket(io::Error),
}

/// A request on its way out.
#[derive(Debug)]
pub(super) struct Sender<B> {
    /// Behind its head stand small bits of framing, while they are sent.
    request: Request<B>,
    head_len: usize,
    /// Of the head, and what stands behind it.
    sent: usize,
    /// Goes out after these.
    data: Bytes,
    state: State,
    /// The body is not asked: the endpoint has not said yet that it wants it.
    withheld: bool,
    /// The body was asked last, and had nothing yet.
    starved: bool,
    written: u64,
    /// Nothing of what was written is held back by TLS.
    flushed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    /// `open`: a chunk's data went out, and its CRLF did not yet.
    Chunked {
        open: bool,
    },
    Finished,
}

impl<B: Source> Sender<B> {
    pub(super) fn new(request: Request<B>) -> Self {
        let state = match request.framing {
            Framing::None | Framing::Length(0) => State::Finished,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked { open: false },
        };
        Self {
            head_len: request.head.len(),
            withheld: request.expects_continue && state != State::Finished,
            request,
            sent: 0,
            data: Bytes::new(),
            state,
            starved: false,
            written: 0,
            flushed: true,
        }
    }

    /// The request, for another exchange.
    pub(super) fn into_request(mut self) -> Request<B> {
        self.request.head.truncate(self.head_len);
        self.request
    }

    /// Whether it is of the method whose answers have no body.
    pub(super) fn is_head_request(&self) -> bool {
        self.request.is_head
    }

    /// The request's body.
    pub(super) fn body(&self) -> &B {
        &self.request.body
    }

    /// A byte of the request was written.
    pub(super) fn begun(&mut self) {
        self.request.body.begun();
    }

    /// No other exchange sends this request: what was kept for one goes.
    pub(super) fn settled(&mut self) {
        self.request.body.settled();
        if self.sent == self.request.head.len() {
            buffers::give_write(std::mem::take(&mut self.request.head));
            (self.sent, self.head_len) = (0, 0);
        }
    }

    /// Whether all of the request went out.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Finished
            && self.sent == self.request.head.len()
            && self.data.is_empty()
            && self.flushed
    }

    /// The body may be asked, and sent.
    pub(super) fn release(&mut self) {
        self.withheld = false;
    }

    /// Whether a body waits to be released.
    pub(super) fn is_withheld(&self) -> bool {
        self.withheld
    }

    /// Whether all that the client sent so far went out, and more is to come.
    pub(super) fn is_starved(&self) -> bool {
        self.starved && !self.withheld && self.sent == self.request.head.len() && self.flushed
    }

    /// Bytes that were handed to the kernel, or to TLS.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Sends as much as is there and the socket takes. Ready when all is sent.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<Result<(), SendError>> {
        loop {
            // The body is asked before the first write, so that its start goes with the head.
            self.starved = self.data.is_empty()
                && self.state != State::Finished
                && self.poll_fill(cx).map_err(SendError::Source)?.is_pending();
            if self.sent < self.request.head.len() || !self.data.is_empty() {
                ready!(self.poll_write(cx, stream)).map_err(SendError::Socket)?;
            } else {
                ready!(self.poll_flush(cx, stream)).map_err(SendError::Socket)?;
                if self.state == State::Finished {
                    return Poll::Ready(Ok(()));
                } else if self.starved {
                    return Poll::Pending;
                }
            }
        }
    }

    /// Puts the body's next frame on the way out.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, Box<dyn StdError + Send + Sync>> {
        if self.withheld {
            return Ok(Poll::Pending);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.request.body).poll_frame(cx) else {
            return Ok(Poll::Pending);
        };
        match frame {
            None => self.finish(None)?,
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.queue(data)?,
                Err(frame) => self.finish(frame.into_trailers().ok().as_ref())?,
            },
        }
        Ok(Poll::Ready(()))
    }

    fn queue(&mut self, data: Bytes) -> Result<(), &'static str> {
        match &mut self.state {
            State::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or("the body is longer than its Content-Length")?;
                if *left == 0 {
                    self.state = State::Finished;
                }
            }
            // An empty chunk would end the body.
            State::Chunked { .. } if data.is_empty() => {}
            State::Chunked { open } => {
                let before = if *open { "\r\n" } else { "" };
                *open = true;
                // Writing to a Vec does not fail.
                let _ = write!(self.request.head, "{before}{:x}\r\n", data.len());
            }
            State::Finished => return Ok(()),
        }
        self.data = data;
        Ok(())
    }

    fn finish(&mut self, trailers: Option<&http::HeaderMap>) -> Result<(), &'static str> {
        match self.state {
            State::Length(_) => return Err("the body is shorter than its Content-Length"),
            State::Chunked { open } => {
                let before = if open { "\r\n" } else { "" };
                let _ = write!(self.request.head, "{before}0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    self.request
                        .head
                        .extend_from_slice(name.as_str().as_bytes());
                    self.request.head.extend_from_slice(b": ");
                    self.request.head.extend_from_slice(value.as_bytes());
                    self.request.head.extend_from_slice(b"\r\n");
                }
                self.request.head.extend_from_slice(b"\r\n");
            }
            State::Finished => {}
        }
        self.state = State::Finished;
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        let head = &self.request.head[self.sent..];
        let written = if self.data.is_empty() {
            ready!(Pin::new(stream).poll_write(cx, head))?
        } else {
            let slices = [IoSlice::new(head), IoSlice::new(&self.data)];
            ready!(Pin::new(stream).poll_write_vectored(cx, &slices))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.written += written as u64;
        self.flushed = false;
        let of_head = written.min(self.request.head.len() - self.sent);
        self.sent += of_head;
        self.data.advance(written - of_head);
        if self.data.is_empty() {
            // It would hold the buffer that it is a slice of.
            self.data = Bytes::new();
        }
        // The head stays, for another attempt; the framing after it need not.
        if self.sent == self.request.head.len() && self.sent > self.head_len {
            self.request.head.truncate(self.head_len);
            self.sent = self.head_len;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        if !self.flushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}
