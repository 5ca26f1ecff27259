//! An answer's body: it is either there already or read as it is polled, and owns what it is read from
//! until both sides are cleanly at their end.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    Failure, FailureKind, InFlight, Processed, Source, Switched, http1, http2, piece::Piece,
    witness::Witness,
};

/// An answer's body.
pub struct AnswerBody<B> {
    state: State<B>,
    witness: Option<Box<dyn Witness>>,
}

enum State<B> {
    /// All of it came with the head.
    Whole(
        Bytes,
        #[allow(dead_code, reason = "counts until the body is dropped")] InFlight,
    ),
    Http1(Box<http1::Reading<B>>),
    Http2(Box<http2::Reading<B>>),
    /// The connection speaks another protocol from here on.
    Switched(Box<Switched>),
    Over,
}

impl<B> AnswerBody<B> {
    /// What is left of an answer that came in HTTP/1.1.
    pub(super) fn http1(left: http1::Left<B>) -> Self {
        Self::new(match left {
            http1::Left::Whole(bytes, in_flight) => State::Whole(bytes, in_flight),
            http1::Left::Reading(reading) => State::Http1(reading),
            http1::Left::Switched(switched) => State::Switched(switched),
        })
    }

    /// What is left of an answer that came in HTTP/2.
    pub(super) fn http2(left: http2::Left<B>) -> Self {
        Self::new(match left {
            http2::Left::Whole(in_flight) => State::Whole(Bytes::new(), in_flight),
            http2::Left::Reading(reading) => State::Http2(reading),
        })
    }

    fn new(state: State<B>) -> Self {
        Self {
            state,
            witness: None,
        }
    }

    /// Whether all of it came with the head; where there is none, too.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole(..) | State::Switched(_))
    }

    /// Whether the connection goes over to another protocol with it.
    pub(crate) fn is_switched(&self) -> bool {
        matches!(self.state, State::Switched(_))
    }

    /// The connection, where the answer was that it goes over to another protocol.
    pub(crate) fn switched(self) -> Result<Box<Switched>, Self> {
        match self.state {
            State::Switched(mut switched) => {
                switched.witness = self.witness;
                Ok(switched)
            }
            state => Err(Self { state, ..self }),
        }
    }

    /// Keeps a witness until the body is read to its end, or dropped.
    pub fn watch(&mut self, witness: Box<dyn Witness>) {
        self.witness = Some(witness);
    }
}

impl<B: Source> AnswerBody<B> {
    /// The body is over with this piece, or broke off.
    fn end(&mut self, piece: &Result<Piece, FailureKind>) {
        let state = std::mem::replace(&mut self.state, State::Over);
        let witness = self.witness.take();
        // An exchange that failed is dropped, and its connection or its stream with it.
        let whole = match piece {
            Ok(_) => {
                if let State::Http1(reading) = state {
                    reading.end();
                }
                Some(true)
            }
            Err(FailureKind::Client(_)) => None,
            Err(kind) => {
                match &state {
                    State::Http1(reading) => reading.exchange.pool().note_failure(kind),
                    State::Http2(reading) => reading.pool().note_failure(kind),
                    State::Whole(..) | State::Switched(_) | State::Over => {}
                }
                // It was removed; or it was silent, and may have waited for the client, or for news; or its
                // trailers are too large, as one page's may be.
                let says_nothing = matches!(
                    kind,
                    FailureKind::Drained | FailureKind::Timeout | FailureKind::TooLarge(_)
                );
                (!says_nothing).then_some(false)
            }
        };
        if let (Some(witness), Some(whole)) = (witness, whole) {
            witness.ended(whole);
        }
    }
}

impl<B: Source> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let (piece, over) = match &mut self.state {
            State::Over | State::Switched(_) => return Poll::Ready(None),
            State::Whole(bytes, _) => {
                let bytes = std::mem::take(bytes);
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            State::Http1(reading) => {
                let piece = ready!(reading.poll_piece(cx));
                (piece, reading.is_over())
            }
            State::Http2(reading) => {
                let piece = ready!(reading.poll_piece(cx));
                (piece, reading.is_over())
            }
        };
        if over || !matches!(piece, Ok(Piece::Data(_))) {
            self.end(&piece);
        }
        Poll::Ready(match piece {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::End(Some(trailers))) => Some(Ok(Frame::trailers(trailers))),
            Ok(Piece::End(None) | Piece::Partial) => None,
            Err(kind) => Some(Err(Failure {
                kind,
                processed: Processed::Begun,
            })),
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Over | State::Switched(_) => true,
            State::Whole(bytes, _) => bytes.is_empty(),
            State::Http1(_) | State::Http2(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let left = match &self.state {
            State::Over | State::Switched(_) => Some(0),
            State::Whole(bytes, _) => Some(bytes.len() as u64),
            State::Http1(reading) => reading.left(),
            State::Http2(reading) => reading.left(),
        };
        left.map_or(SizeHint::default(), SizeHint::with_exact)
    }
}

impl<B> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Whole(..) => "AnswerBody::Whole",
            State::Http1(_) | State::Http2(_) => "AnswerBody::Reading",
            State::Switched(_) => "AnswerBody::Switched",
            State::Over => "AnswerBody::Over",
        })
    }
}
