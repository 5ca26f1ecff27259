//! One request and its answer on one stream, up to the answer's head.

use std::{
    error::Error as StdError,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::ResponseFuture};
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::{
    fault, head,
    link::Lease,
    send::{SendError, Sender},
};
use crate::upstream::{
    Failure, FailureKind, Head, InFlight, Limits, Pool, Processed, Request, Source,
    answer_head::AnswerHead, http1::Persistence, limits::SILENCE, opening::Opening, timer::Timer,
};

/// A request that is sent, and the answer to it that is read, on one stream.
#[derive(Debug)]
pub(crate) struct Exchange<B> {
    /// What becomes of the stream. It is reset where these are dropped before it is over, and so they
    /// stand before `lease`.
    pub(super) state: State,
    pub(super) sending: Option<SendStream<Bytes>>,
    pub(super) sender: Sender<B>,
    /// How much the connection had written when the request was handed to it.
    written: u64,
    /// How much had come over it then.
    read: u64,
    to_head_request: bool,
    pub(super) limits: Limits,
    pub(super) timer: Timer,
    /// When the endpoint last had room for a piece of the request.
    taken: Instant,
    pub(super) lease: Lease,
    pub(super) in_flight: InFlight,
}

/// How far a stream has come.
#[derive(Debug)]
pub(super) enum State {
    /// There is no stream.
    Failed(Option<Failure>),
    Waiting(ResponseFuture),
    Opened(RecvStream),
}

impl<B: Source> Exchange<B> {
    pub(in crate::upstream) fn boxed(
        mut lease: Lease,
        in_flight: InFlight,
        request: &mut Request<B>,
        head: &impl Head,
        limits: Limits,
        now: Instant,
    ) -> Box<Self> {
        let body = request.body.take();
        let body = body.expect("no exchange sends it, and none has brought its answer");
        let framing = request.framing;
        let (written, read) = (
            lease.link.written.load(Relaxed),
            lease.link.read.load(Relaxed),
        );
        let withheld = request.expects_continue && framing.has_body();
        let pool = in_flight.pool();
        let is_secured = pool.handshake().is_some();
        let written_anew = head::request(head, framing, withheld, pool.address(), is_secured);
        let opened = match written_anew {
            Ok(request) => lease
                .sender
                .send_request(request, !framing.has_body())
                // There is no stream that it could go out on.
                .map_err(|error| fault::failure(error, &lease.link, Processed::Never)),
            // The proxy has admitted what HTTP/2 cannot say, which is no fault of the endpoint's.
            Err(error) => Err(Failure {
                kind: FailureKind::Client(error.into()),
                processed: Processed::Never,
            }),
        };
        let (state, sending) = match opened {
            Ok((answer, sending)) => {
                lease.note_asked(now);
                (State::Waiting(answer), Some(sending))
            }
            Err(failure) => (State::Failed(Some(failure)), None),
        };
        Box::new(Self {
            state,
            sending,
            sender: Sender::new(body, framing, withheld),
            written,
            read,
            to_head_request: request.is_head,
            limits,
            timer: Timer::default(),
            taken: now,
            lease,
            in_flight,
        })
    }

    pub(in crate::upstream) fn poll_opening(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut AnswerHead,
    ) -> Poll<Result<Opening, Failure>> {
        if let Err(error) = self.drive_sending(cx) {
            return Poll::Ready(Err(self.failed(FailureKind::Client(error))));
        }
        loop {
            if self.sender.is_withheld() && ready!(self.poll_continue(cx)) {
                self.release_body(cx)?;
            }
            let answer = match &mut self.state {
                State::Waiting(answer) => answer,
                State::Failed(failure) => {
                    let failure = failure.take();
                    return Poll::Ready(Err(failure.unwrap_or_else(gone)));
                }
                State::Opened(_) => return Poll::Ready(Err(gone())),
            };
            match Pin::new(answer).poll(cx) {
                Poll::Ready(Ok(answer)) => return Poll::Ready(self.open(answer, head)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broken(error))),
                Poll::Pending => {}
            }
            let due = self.due();
            if self.sender.is_withheld() && self.poll_silence(cx, due).is_ready() {
                self.release_body(cx)?;
                continue;
            }
            let late = self.poll_late(cx, due);
            if late.is_pending() && self.sender.is_done() {
                self.in_flight.note_sent(self.taken);
            }
            return late.map(|kind| Err(self.late(kind)));
        }
    }

    /// Whether the endpoint has said that it wants the body. Never waits: what is pending is looked for
    /// again with the answer.
    fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let State::Waiting(answer) = &mut self.state else {
            return Poll::Ready(false);
        };
        loop {
            match answer.poll_informational(cx) {
                Poll::Ready(Some(Ok(interim))) if interim.status() == StatusCode::CONTINUE => {
                    return Poll::Ready(true);
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) | Poll::Pending => return Poll::Ready(false),
            }
        }
    }

    /// Takes the head of the answer over.
    fn open(
        &mut self,
        answer: Response<RecvStream>,
        head: &mut AnswerHead,
    ) -> Result<Opening, Failure> {
        self.lease.link.note_answered();
        let (parts, body) = answer.into_parts();
        let has_ended = body.is_end_stream();
        self.state = State::Opened(body);
        let answer = head::answer(
            parts.status,
            parts.headers,
            self.to_head_request,
            has_ended,
            self.limits.head,
        );
        let length;
        (*head, length) = answer.map_err(|kind| self.failed(kind))?;
        let at = Instant::now();
        self.in_flight.note_answer(head.status, at);
        Ok(Opening {
            at,
            length,
            persistence: Persistence {
                keep: false,
                timeout: None,
            },
        })
    }

    /// Sends what can be sent. An endpoint that wants no more has answered, or says why; a client that
    /// fails ends the exchange.
    pub(super) fn drive_sending(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let Some(stream) = &mut self.sending else {
            return Ok(());
        };
        let taken = &mut self.taken;
        let sent = self
            .sender
            .poll_send(cx, stream, || *taken = Instant::now());
        match sent {
            Poll::Ready(Err(SendError::Source(error))) => return Err(error),
            Poll::Ready(Err(SendError::Stopped)) => self.sending = None,
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Ok(())
    }

    /// Asks for the body, and sends what is there.
    #[cold]
    fn release_body(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.sender.release();
        let sent = self.drive_sending(cx);
        sent.map_err(|error| self.failed(FailureKind::Client(error)))
    }

    /// Ready when the endpoint has not said for long enough that it wants the body.
    #[cold]
    fn poll_silence(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let half = due.saturating_duration_since(self.taken) / 2;
        self.timer.poll_late(cx, self.taken + SILENCE.min(half))
    }

    /// When the answer's head is due.
    fn due(&self) -> Instant {
        self.limits.due(match self.sender.is_starved() {
            true => Instant::now(),
            false => self.taken,
        })
    }

    #[cold]
    fn late(&mut self, kind: FailureKind) -> Failure {
        match kind {
            FailureKind::Timeout => {
                self.lease.link.note_late(self.read);
                self.failed(self.limits.lateness())
            }
            kind => self.failed(kind),
        }
    }

    /// What ends the exchange at this moment, whatever there is still to read.
    pub(super) fn over(&self, now: Instant, deadline: Instant) -> Option<FailureKind> {
        if self.pool().is_cut() {
            Some(FailureKind::Drained)
        } else {
            (now >= self.limits.earliest(deadline)).then_some(FailureKind::Timeout)
        }
    }

    /// Ready when `deadline`, the exchange's total time or its endpoint's drain has passed.
    pub(super) fn poll_late(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Instant,
    ) -> Poll<FailureKind> {
        if self.pool().is_cut() {
            return Poll::Ready(FailureKind::Drained);
        }
        let deadline = self.limits.earliest(deadline);
        ready!(self.timer.poll_late(cx, deadline));
        Poll::Ready(FailureKind::Timeout)
    }

    /// The request's body.
    pub(in crate::upstream) fn body(&self) -> &B {
        self.sender.body()
    }

    /// Ends the exchange. The request has its body again, for another one.
    #[allow(
        clippy::boxed_local,
        reason = "an exchange is large, and leaves its box in parts"
    )]
    pub(in crate::upstream) fn give_up(mut self: Box<Self>, request: &mut Request<B>) {
        if let State::Opened(_) = self.state {
            self.lease.note_over();
        }
        request.body = Some(self.sender.into_body());
    }

    /// The stream of the answer's body.
    pub(super) fn received(&mut self) -> Option<&mut RecvStream> {
        match &mut self.state {
            State::Opened(body) => Some(body),
            State::Waiting(_) | State::Failed(_) => None,
        }
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        self.in_flight.pool()
    }

    /// The stream, or all of the connection, has failed where the answer was due.
    #[cold]
    fn broken(&mut self, error: h2::Error) -> Failure {
        self.lease.note_over();
        fault::failure(error, &self.lease.link, self.processed())
    }

    fn failed(&mut self, kind: FailureKind) -> Failure {
        if !matches!(kind, FailureKind::Client(_)) {
            self.lease.note_over();
        }
        let processed = self.processed();
        Failure { kind, processed }
    }

    /// What the endpoint may have done with the request, as far as the connection knows.
    fn processed(&self) -> Processed {
        if matches!(self.state, State::Opened(_)) {
            Processed::Begun
        } else if self.lease.link.has_kept_back_since(self.written) {
            Processed::Never
        } else {
            Processed::Perhaps
        }
    }
}

/// It is asked once too often.
fn gone() -> Failure {
    Failure {
        kind: FailureKind::Closed,
        processed: Processed::Begun,
    }
}
