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

use super::Framing;
use crate::upstream::{Request, Source, buffers, stream::Stream};

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
    /// The head, then small bits of framing.
    out: Vec<u8>,
    sent: usize,
    /// Goes out after `out`.
    data: Bytes,
    head_len: usize,
    body: B,
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
    /// Takes the head and the body of a request.
    pub(super) fn new(request: &mut Request<B>) -> Self {
        let state = match request.framing {
            Framing::None | Framing::Length(0) => State::Finished,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked { open: false },
        };
        let body = request.body.take();
        Self {
            head_len: request.head.len(),
            out: std::mem::take(&mut request.head),
            sent: 0,
            data: Bytes::new(),
            body: body.expect("no exchange sends it, and none has brought its answer"),
            withheld: request.expects_continue && state != State::Finished,
            state,
            starved: false,
            written: 0,
            flushed: true,
        }
    }

    /// Gives them back, for another exchange.
    pub(super) fn give_back(mut self, request: &mut Request<B>) {
        self.out.truncate(self.head_len);
        request.head = self.out;
        request.body = Some(self.body);
    }

    /// The buffer of the head, of which nothing is sent any more.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The request's body.
    pub(super) fn body(&self) -> &B {
        &self.body
    }

    /// A byte of the request was written.
    pub(super) fn begun(&mut self) {
        self.body.begun();
    }

    /// No other exchange sends this request: what was kept for one goes.
    pub(super) fn settled(&mut self) {
        self.body.settled();
        if self.sent == self.out.len() {
            buffers::give_write(std::mem::take(&mut self.out));
            (self.sent, self.head_len) = (0, 0);
        }
    }

    /// Whether all of the request went out.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Finished
            && self.sent == self.out.len()
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
        self.starved && !self.withheld && self.sent == self.out.len() && self.flushed
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
            if self.sent < self.out.len() || !self.data.is_empty() {
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
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
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
                let _ = write!(self.out, "{before}{:x}\r\n", data.len());
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
                let _ = write!(self.out, "{before}0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    self.out.extend_from_slice(name.as_str().as_bytes());
                    self.out.extend_from_slice(b": ");
                    self.out.extend_from_slice(value.as_bytes());
                    self.out.extend_from_slice(b"\r\n");
                }
                self.out.extend_from_slice(b"\r\n");
            }
            State::Finished => {}
        }
        self.state = State::Finished;
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        let head = &self.out[self.sent..];
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
        let of_head = written.min(self.out.len() - self.sent);
        self.sent += of_head;
        self.data.advance(written - of_head);
        if self.data.is_empty() {
            // It would hold the buffer that it is a slice of.
            self.data = Bytes::new();
        }
        // The head stays, for another attempt; the framing after it need not.
        if self.sent == self.out.len() && self.sent > self.head_len {
            self.out.truncate(self.head_len);
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
