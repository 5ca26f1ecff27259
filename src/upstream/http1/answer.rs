//! What is left of an answer when its head is there: it came with the head, or is read from the socket
//! as it is polled. The reading owns the connection until both sides are cleanly at their end.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    chunked::Decoder,
    exchange::Exchange,
    head::{BodyLength, Persistence},
};
use crate::upstream::{FailureKind, InFlight, Request, Source, Switched, buffers, piece::Piece};

/// What is left of an answer.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are the large one, which has no box of its own"
)]
pub(in crate::upstream) enum Left<B> {
    /// All of it came with the head; the connection is back already.
    Whole(Bytes, InFlight),
    Reading(Box<Reading<B>>),
    /// The connection speaks another protocol from here on.
    Switched(Box<Switched>),
}

/// An answer's body on its way.
pub(in crate::upstream) struct Reading<B> {
    pub(in crate::upstream) exchange: Exchange<B>,
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
    /// The request's body.
    pub(in crate::upstream) fn body(&self) -> &B {
        self.sender.body()
    }

    /// Ends the exchange. The request has its body again, for another one.
    pub(in crate::upstream) fn give_up(self, request: &mut Request<B>) {
        buffers::give_read(self.read);
        self.sender.give_back(request);
    }

    /// What is left of the answer that has opened like this just now. No other exchange follows.
    pub(in crate::upstream) fn pass_on(
        mut self,
        at: Instant,
        length: BodyLength,
        persistence: Persistence,
    ) -> Left<B> {
        self.sender.settled();
        match length {
            BodyLength::Switched => Left::Switched(self.switch()),
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
                Left::Whole(bytes, in_flight)
            }
            _ => Left::Reading(Box::new(Reading {
                late: at + self.limits.idle,
                exchange: self,
                length: match length {
                    BodyLength::Known(length) => Length::Known(length),
                    BodyLength::Chunked => Length::Chunked(Decoder::Size),
                    BodyLength::UntilClose | BodyLength::Switched => Length::UntilClose,
                },
                persistence,
            })),
        }
    }

    /// Gives the connection up to another protocol.
    #[cold]
    fn switch(mut self) -> Box<Switched> {
        let early = self.read.split().freeze();
        buffers::give_read(self.read);
        buffers::give_write(self.sender.take_buffer());
        self.in_flight.pool().tunnels.add_one();
        Box::new(Switched {
            stream: self.connection.stream,
            early,
            idle: self.limits.tunnel,
            in_flight: self.in_flight,
            witness: None,
        })
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
    fn decode(&mut self) -> Result<Option<Piece>, FailureKind> {
        let most_fields = self.exchange.limits.head.fields;
        let read = &mut self.exchange.read;
        Ok(match &mut self.length {
            Length::Known(0) => Some(Piece::End(None)),
            _ if read.is_empty() => None,
            Length::Known(left) => {
                let take = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
                *left -= take as u64;
                Some(Piece::Data(read.split_to(take).freeze()))
            }
            Length::Chunked(decoder) => match decoder.decode(read, most_fields)? {
                Piece::Partial => None,
                decoded => Some(decoded),
            },
            Length::UntilClose => Some(Piece::Data(read.split().freeze())),
        })
    }

    pub(in crate::upstream) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Piece, FailureKind>> {
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
                        (Length::UntilClose, None) => Ok(Piece::End(None)),
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
    pub(in crate::upstream) fn end(mut self: Box<Self>) {
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
    pub(in crate::upstream) fn is_over(&self) -> bool {
        matches!(self.length, Length::Known(0))
    }

    /// How many bytes are still to come, where that is known.
    pub(in crate::upstream) fn left(&self) -> Option<u64> {
        match self.length {
            Length::Known(left) => Some(left),
            Length::Chunked(_) | Length::UntilClose => None,
        }
    }
}
