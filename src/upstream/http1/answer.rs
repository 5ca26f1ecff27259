//! An answer: its head, and a body that is either there already or read from the socket as it is
//! polled. The body owns the connection until both sides are cleanly at their end.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{
    Source,
    chunked::{Decoded, Decoder},
    exchange::{Exchange, Opening},
    head::{AnswerHead, BodyLength, Persistence},
};
use crate::upstream::{Failure, FailureKind, InFlight, Processed, Request, buffers};

/// A final answer.
#[derive(Debug)]
pub struct Answer<B> {
    /// Its head.
    pub head: AnswerHead,
    /// When that was there.
    pub at: Instant,
    /// Its body.
    pub body: AnswerBody<B>,
}

/// An answer's body.
pub struct AnswerBody<B> {
    state: State<B>,
    witness: Option<Box<dyn Witness>>,
}

/// Kept for as long as an exchange lasts, and called with how it ends.
pub trait Witness: Send + Sync {
    /// The answer was not whole with its head, and now is; or it broke off by the endpoint's doing.
    /// Not called where it broke off for another cause.
    fn ended(&self, whole: bool);
}

impl<B> AnswerBody<B> {
    /// Whether all of it came with the head.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole(..))
    }

    /// Keeps a witness until the body is read to its end, or dropped.
    pub fn watch(&mut self, witness: Box<dyn Witness>) {
        self.witness = Some(witness);
    }
}

enum State<B> {
    /// All of it came with the head; the connection is back already.
    Whole(
        Bytes,
        #[allow(dead_code, reason = "counts until the body is dropped")] InFlight,
    ),
    Reading(Box<Reading<B>>),
    Over,
}

struct Reading<B> {
    exchange: Exchange<B>,
    length: Length,
    persistence: Persistence,
    late: Instant,
}

enum Length {
    Known(u64),
    Chunked(Decoder),
    UntilClose,
}

impl<B: Source> Exchange<B> {
    /// Drives the exchange until the head of the final answer is there, while the request's body
    /// goes on being sent. The allocation of `spare`, if there is one, becomes that of the answer's
    /// fields.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) async fn opening(
        &mut self,
        mut spare: Option<&mut HeaderMap>,
    ) -> Result<Opening, Failure> {
        poll_fn(|cx| {
            let mut fresh;
            let spare = match &mut spare {
                Some(spare) => spare,
                None => {
                    fresh = HeaderMap::new();
                    &mut fresh
                }
            };
            self.poll_opening(cx, spare)
        })
        .await
    }

    /// The request's body.
    pub(crate) fn body(&self) -> &B {
        self.sender.body()
    }

    /// Ends the exchange. The request has its body again, for another one.
    pub(crate) fn give_up(self, request: &mut Request<B>) {
        buffers::give_read(self.read);
        self.sender.give_back(request);
    }

    /// The answer that has opened like this just now. No other exchange follows.
    pub(crate) fn pass_on(mut self, opening: Opening) -> Answer<B> {
        self.sender.settled();
        let Opening {
            head,
            at,
            length,
            persistence,
        } = opening;
        let state = match length {
            BodyLength::Known(length)
                if self.read.len() as u64 >= length && self.sender.is_done() =>
            {
                // Cannot be cut short: the length was just compared with the buffer's.
                let bytes = self.read.split_to(length as usize).freeze();
                let clean = self.leaves_nothing(persistence);
                // Taken apart, and not moved as a whole: it is large.
                let Self {
                    connection,
                    in_flight,
                    ..
                } = self;
                if clean {
                    in_flight
                        .pool()
                        .give_back(connection, persistence.timeout, at);
                }
                State::Whole(bytes, in_flight)
            }
            _ => State::Reading(Box::new(Reading {
                late: at + self.limits.idle,
                exchange: self,
                length: match length {
                    BodyLength::Known(length) => Length::Known(length),
                    BodyLength::Chunked => Length::Chunked(Decoder::Size),
                    BodyLength::UntilClose => Length::UntilClose,
                },
                persistence,
            })),
        };
        Answer {
            head,
            at,
            body: AnswerBody {
                state,
                witness: None,
            },
        }
    }

    /// The answer is over: its buffers go back. Whether nothing is left on either side, and the
    /// connection may go back, too.
    fn leaves_nothing(&mut self, persistence: Persistence) -> bool {
        let clean = persistence.keep
            && self.read.is_empty()
            && self.sender.is_done()
            && self.send_error.is_none();
        buffers::give_read(std::mem::take(&mut self.read));
        buffers::give_write(self.sender.take_buffer());
        clean
    }
}

impl<B: Source> Reading<B> {
    /// The next piece that the buffer holds; `None` where it must be read first.
    fn decode(&mut self) -> Result<Option<Decoded>, FailureKind> {
        let read = &mut self.exchange.read;
        Ok(match &mut self.length {
            Length::Known(0) => Some(Decoded::End(None)),
            _ if read.is_empty() => None,
            Length::Known(left) => {
                let take = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
                *left -= take as u64;
                Some(Decoded::Data(read.split_to(take).freeze()))
            }
            Length::Chunked(decoder) => match decoder.decode(read) {
                Ok(Decoded::Partial) => None,
                Ok(decoded) => Some(decoded),
                Err(reason) => return Err(FailureKind::BadAnswer(reason)),
            },
            Length::UntilClose => Some(Decoded::Data(read.split().freeze())),
        })
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Decoded, FailureKind>> {
        self.exchange
            .drive_sending(cx)
            .map_err(FailureKind::Client)?;
        loop {
            if let Some(piece) = self.decode()? {
                return Poll::Ready(Ok(piece));
            }
            let Poll::Ready(read) = self.exchange.poll_read(cx) else {
                let late = self.late;
                return Poll::Ready(Err(ready!(self.exchange.poll_late(cx, late))));
            };
            match read {
                Ok(0) => {
                    return Poll::Ready(match (&self.length, self.exchange.broken_off()) {
                        (_, Some(kind)) => Err(kind),
                        (Length::UntilClose, None) => Ok(Decoded::End(None)),
                        (_, None) => Err(FailureKind::Closed),
                    });
                }
                Ok(_) => {
                    let now = Instant::now();
                    self.late = now + self.exchange.limits.idle;
                    if let Some(kind) = self.exchange.over(now, self.late) {
                        return Poll::Ready(Err(kind));
                    }
                }
                Err(error) => return Poll::Ready(Err(FailureKind::of_read(error))),
            }
        }
    }

    /// The answer is over.
    #[allow(
        clippy::boxed_local,
        reason = "an exchange is large, and leaves its box in parts"
    )]
    fn end(mut self: Box<Self>) {
        let clean = self.exchange.leaves_nothing(self.persistence);
        let Exchange {
            connection,
            in_flight,
            ..
        } = self.exchange;
        if clean {
            let timeout = self.persistence.timeout;
            in_flight
                .pool()
                .give_back(connection, timeout, Instant::now());
        }
    }

    /// Whether nothing more will come of the answer.
    fn is_over(&self) -> bool {
        matches!(self.length, Length::Known(0))
    }
}

impl<B: Source> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let reading = match &mut self.state {
            State::Over => return Poll::Ready(None),
            State::Whole(bytes, _) => {
                let bytes = std::mem::take(bytes);
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            State::Reading(reading) => reading,
        };
        let piece = ready!(reading.poll_piece(cx));
        let over = !matches!(piece, Ok(Decoded::Data(_))) || reading.is_over();
        if over && let State::Reading(reading) = std::mem::replace(&mut self.state, State::Over) {
            let witness = self.witness.take();
            // An exchange that failed is dropped, and its connection with it.
            let whole = match &piece {
                Ok(_) => {
                    reading.end();
                    Some(true)
                }
                Err(FailureKind::Client(_)) => None,
                Err(kind) => {
                    reading.exchange.pool().note_failure(kind);
                    // It was removed; or it was silent, and may have waited for the client, or for news.
                    let says_nothing = matches!(kind, FailureKind::Drained | FailureKind::Timeout);
                    (!says_nothing).then_some(false)
                }
            };
            if let (Some(witness), Some(whole)) = (witness, whole) {
                witness.ended(whole);
            }
        }
        Poll::Ready(match piece {
            Ok(Decoded::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Decoded::End(Some(trailers))) => Some(Ok(Frame::trailers(trailers))),
            Ok(Decoded::End(None) | Decoded::Partial) => None,
            Err(kind) => Some(Err(Failure {
                kind,
                processed: Processed::Begun,
            })),
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Over => true,
            State::Whole(bytes, _) => bytes.is_empty(),
            State::Reading(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Over => SizeHint::with_exact(0),
            State::Whole(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            State::Reading(reading) => match reading.length {
                Length::Known(left) => SizeHint::with_exact(left),
                Length::Chunked(_) | Length::UntilClose => SizeHint::default(),
            },
        }
    }
}

impl<B> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Whole(..) => "AnswerBody::Whole",
            State::Reading(_) => "AnswerBody::Reading",
            State::Over => "AnswerBody::Over",
        })
    }
}
