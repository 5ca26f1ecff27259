//! One request and its answer, in the wire format of the connection that it has. Knows nothing of
//! either format.

use std::future::{Future, poll_fn};

use http::HeaderMap;
use tokio::time::Instant;

use super::{
    AnswerBody, AnswerHead, Connection, Failure, Head, InFlight, Limits, Request, Source, http1,
    http2, opening::Opening,
};

/// A request that is sent, and the answer to it that is read.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are the large one, which has no box of its own"
)]
#[derive(Debug)]
pub(crate) enum Exchange<B> {
    /// On a connection of its own.
    Http1(http1::Exchange<B>),
    /// On a stream. Boxed, so that no request of HTTP/1.1 is larger for it.
    Http2(Box<http2::Exchange<B>>),
}

impl<B: Source> Exchange<B> {
    /// An exchange that sends this request, with this head. An endpoint that is to want the body first
    /// gets it when it has said so, or was silent for a second. Nothing of it is sent after a final
    /// answer.
    ///
    /// # Panics
    /// Where another exchange sends the request, or has brought its answer.
    pub(crate) fn new(
        connection: Connection,
        in_flight: InFlight,
        request: &mut Request<B>,
        head: &impl Head,
        limits: Limits,
        now: Instant,
    ) -> Self {
        match connection {
            Connection::Http1(connection) => Self::Http1(http1::Exchange::new(
                connection, in_flight, request, head, limits, now,
            )),
            Connection::Http2(lease) => Self::Http2(http2::Exchange::boxed(
                lease, in_flight, request, head, limits, now,
            )),
        }
    }

    /// Drives the exchange until the head of the final answer is there, while the request's body
    /// goes on being sent. That is put into `head`, and not returned: it is large, and each function
    /// on the way would copy it. The allocation of `spare`, if there is one, becomes that of its
    /// fields.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn opening(
        &mut self,
        head: &mut AnswerHead,
        mut spare: Option<&mut HeaderMap>,
    ) -> impl Future<Output = Result<Opening, Failure>> {
        poll_fn(move |cx| match self {
            Self::Http1(exchange) => exchange.poll_opening(cx, head, spare.as_deref_mut()),
            Self::Http2(exchange) => exchange.poll_opening(cx, head),
        })
    }

    /// The request's body.
    pub(crate) fn body(&self) -> &B {
        match self {
            Self::Http1(exchange) => exchange.body(),
            Self::Http2(exchange) => exchange.body(),
        }
    }

    /// Ends the exchange. The request has its body again, for another one.
    pub(crate) fn give_up(self, request: &mut Request<B>) {
        match self {
            Self::Http1(exchange) => exchange.give_up(request),
            Self::Http2(exchange) => exchange.give_up(request),
        }
    }

    /// The body of the answer that has opened like this just now. No other exchange follows.
    pub(crate) fn pass_on(self, opening: Opening) -> AnswerBody<B> {
        let Opening {
            at,
            length,
            persistence,
        } = opening;
        match self {
            Self::Http1(exchange) => AnswerBody::http1(exchange.pass_on(at, length, persistence)),
            Self::Http2(exchange) => AnswerBody::http2(exchange.pass_on(at, length)),
        }
    }
}
