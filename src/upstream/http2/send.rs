//! The sending half of an exchange: a piece of the body at a time, as much of it as the endpoint has room
//! for. The body is polled only when the last piece is out.

use std::{
    error::Error as StdError,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;

use crate::upstream::{Source, http1::Framing};

/// Why sending stopped.
#[derive(Debug)]
pub(super) enum SendError {
    /// The body's source failed: the client's doing.
    Source(Box<dyn StdError + Send + Sync>),
    /// The endpoint wants no more; what it has to say of that is the answer's.
    Stopped,
}

/// A request's body on its way out.
#[derive(Debug)]
pub(super) struct Sender<B> {
    body: B,
    state: State,
    /// Read of the body, and not sent yet.
    data: Bytes,
    /// The body is not asked: the endpoint has not said yet that it wants it.
    withheld: bool,
    /// The body was asked last, and had nothing yet.
    starved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So much is to come, of a length that was said.
    Length(u64),
    /// The body's end says where it is.
    Open,
    /// The last of it is in `data`.
    Last,
    Finished,
}

impl<B: Source> Sender<B> {
    pub(super) fn new(body: B, framing: Framing, withheld: bool) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Finished,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Open,
        };
        Self {
            withheld: withheld && state != State::Finished,
            body,
            state,
            data: Bytes::new(),
            starved: false,
        }
    }

    /// The request's body.
    pub(super) fn body(&self) -> &B {
        &self.body
    }

    /// Gives it back, for another exchange.
    pub(super) fn into_body(self) -> B {
        self.body
    }

    /// No other exchange sends this request: what was kept for one goes.
    pub(super) fn settled(&mut self) {
        self.body.settled();
    }

    /// Whether all of the request went out.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Finished
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
        self.starved && !self.withheld
    }

    /// Sends as much as is there and the endpoint takes; `sent` hears of each piece. Ready when all is
    /// sent.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut SendStream<Bytes>,
        mut sent: impl FnMut(),
    ) -> Poll<Result<(), SendError>> {
        loop {
            if !self.data.is_empty() {
                ready!(self.poll_data(cx, stream))?;
                sent();
            } else if self.state == State::Finished {
                return Poll::Ready(Ok(()));
            } else if self.withheld {
                return Poll::Pending;
            } else {
                let filled = self.poll_fill(cx, stream);
                self.starved = filled.is_pending();
                ready!(filled)?;
            }
        }
    }

    /// Asks the body for its next frame.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), SendError>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => return Poll::Ready(self.finish(None, stream)),
            Some(frame) => frame.map_err(|error| SendError::Source(error.into()))?,
        };
        Poll::Ready(match frame.into_data() {
            Ok(data) => self.queue(data),
            Err(frame) => self.finish(frame.into_trailers().ok(), stream),
        })
    }

    fn queue(&mut self, data: Bytes) -> Result<(), SendError> {
        let is_last = self.body.is_end_stream();
        match &mut self.state {
            State::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or_else(|| too("the body is longer than its Content-Length"))?;
                if *left == 0 {
                    self.state = State::Last;
                }
            }
            State::Open if is_last && !data.is_empty() => self.state = State::Last,
            State::Open => {}
            State::Last | State::Finished => return Ok(()),
        }
        self.data = data;
        Ok(())
    }

    fn finish(
        &mut self,
        trailers: Option<HeaderMap>,
        stream: &mut SendStream<Bytes>,
    ) -> Result<(), SendError> {
        if let State::Length(_) = self.state {
            return Err(too("the body is shorter than its Content-Length"));
        }
        let ended = match trailers.filter(|trailers| !trailers.is_empty()) {
            Some(trailers) => stream.send_trailers(trailers),
            None => stream.send_data(Bytes::new(), true),
        };
        self.state = State::Finished;
        ended.map_err(|_| SendError::Stopped)
    }

    /// Sends as much of the piece as there is room for.
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), SendError>> {
        stream.reserve_capacity(self.data.len());
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(SendError::Stopped)),
            }
        }
        let piece = self.data.split_to(stream.capacity().min(self.data.len()));
        let is_last = self.state == State::Last && self.data.is_empty();
        if is_last {
            self.state = State::Finished;
        }
        if self.data.is_empty() {
            // It would hold the buffer that it is a slice of.
            self.data = Bytes::new();
        }
        let sent = stream.send_data(piece, is_last);
        Poll::Ready(sent.map_err(|_| SendError::Stopped))
    }
}

fn too(what: &'static str) -> SendError {
    SendError::Source(what.into())
}
