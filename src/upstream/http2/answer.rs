//! What is left of an answer when its head is there: read from its stream as it is polled. What is read
//! is made room for anew, so that the endpoint sends as fast as the client reads.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::{
    exchange::{Exchange, State},
    fault, head,
    link::{Lease, Link, Rest},
};
use crate::upstream::{FailureKind, InFlight, Pool, Source, http1::BodyLength, piece::Piece};

/// What is left of an answer.
pub(in crate::upstream) enum Left<B> {
    /// Its head was all of it.
    Whole(InFlight),
    Reading(Box<Reading<B>>),
}

/// An answer's body on its way.
pub(in crate::upstream) struct Reading<B> {
    exchange: Box<Exchange<B>>,
    /// What is still to come, where its head has said so.
    left: Option<u64>,
    late: Instant,
    is_over: bool,
}

impl<B: Source> Exchange<B> {
    /// What is left of the answer that has opened like this just now. No other exchange follows.
    #[allow(
        clippy::boxed_local,
        reason = "an exchange is large, and stays where it is"
    )]
    pub(in crate::upstream) fn pass_on(
        mut self: Box<Self>,
        at: Instant,
        length: BodyLength,
    ) -> Left<B> {
        self.sender.settled();
        let left = match length {
            BodyLength::Known(0) => {
                let Self {
                    state,
                    sending,
                    sender,
                    lease,
                    in_flight,
                    ..
                } = *self;
                drop(sending);
                leave(state, lease, sender.is_done());
                return Left::Whole(in_flight);
            }
            BodyLength::Known(left) => Some(left),
            // A stream goes over to nothing.
            BodyLength::Chunked | BodyLength::UntilClose | BodyLength::Switched => None,
        };
        Left::Reading(Box::new(Reading {
            late: at + self.limits.idle,
            exchange: self,
            left,
            is_over: false,
        }))
    }
}

/// Leaves a stream whose answer is whole. A request of which there is more is given up with it.
fn leave(state: State, mut lease: Lease, is_sent: bool) {
    lease.note_over();
    match state {
        State::Opened(stream) if is_sent && !stream.is_end_stream() => {
            Link::read_rest(Rest { stream, lease });
        }
        // In this order: the reset goes out before another request takes the place.
        state => {
            drop(state);
            drop(lease);
        }
    }
}

impl<B: Source> Reading<B> {
    pub(in crate::upstream) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Piece, FailureKind>> {
        let piece = self.read_piece(cx);
        let has_ended = match &piece {
            Poll::Ready(Ok(Piece::End(_))) => true,
            Poll::Ready(Err(kind)) => !matches!(kind, FailureKind::Client(_)),
            Poll::Ready(Ok(_)) | Poll::Pending => self.is_over,
        };
        if has_ended {
            self.exchange.lease.note_over();
        }
        piece
    }

    fn read_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, FailureKind>> {
        let exchange = &mut *self.exchange;
        exchange.drive_sending(cx).map_err(FailureKind::Client)?;
        loop {
            let Some(body) = exchange.received() else {
                return Poll::Ready(Err(FailureKind::Closed));
            };
            let error = match body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // It fails only where more is given back than came.
                    let _ = body.flow_control().release_capacity(data.len());
                    self.is_over = body.is_end_stream();
                    let now = Instant::now();
                    self.late = now + exchange.limits.idle;
                    if let Some(kind) = exchange.over(now, self.late) {
                        return Poll::Ready(Err(kind));
                    }
                    if data.is_empty() && !self.is_over {
                        continue;
                    }
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Ok(Piece::Data(data)));
                }
                Poll::Ready(Some(Err(error))) => error,
                Poll::Ready(None) => match body.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        let most = exchange.limits.head.fields;
                        let checked = trailers
                            .as_ref()
                            .map_or(Ok(()), |fields| head::check_trailers(fields, most));
                        return Poll::Ready(checked.map(|()| Piece::End(trailers)));
                    }
                    Poll::Ready(Err(error)) => error,
                    Poll::Pending => {
                        return Poll::Ready(Err(ready!(exchange.poll_late(cx, self.late))));
                    }
                },
                Poll::Pending => {
                    return Poll::Ready(Err(ready!(exchange.poll_late(cx, self.late))));
                }
            };
            return Poll::Ready(Err(fault::kind(error, &exchange.lease.link)));
        }
    }

    /// Whether nothing more will come of the answer.
    pub(in crate::upstream) fn is_over(&self) -> bool {
        self.is_over
    }

    /// How many bytes are still to come, where that is known.
    pub(in crate::upstream) fn left(&self) -> Option<u64> {
        self.left
    }

    /// The pool that counts it.
    pub(in crate::upstream) fn pool(&self) -> &Pool {
        self.exchange.pool()
    }
}
