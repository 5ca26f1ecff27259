//! One request and its answer on one connection, up to the answer's head.

use std::{
    error::Error as StdError,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::{
    connection::Connection,
    head::{self, Asked, BodyLength, Parsed},
    send::{SendError, Sender},
};
use crate::upstream::{
    AnswerHead, Failure, FailureKind, Head, InFlight, Limits, Pool, Processed, Request, Source,
    buffers, limits::SILENCE, opening::Opening, tls,
};

/// A request that is sent, and the answer to it that is read, on one connection.
#[derive(Debug)]
pub(crate) struct Exchange<B> {
    pub(super) connection: Connection,
    pub(super) sender: Sender<B>,
    pub(super) read: BytesMut,
    /// Of `read`, what is known not to be a whole head.
    looked_at: usize,
    /// What the answer is read by.
    asked: Asked,
    pub(super) limits: Limits,
    pub(in crate::upstream) in_flight: InFlight,
    /// When the endpoint last took a byte of the request.
    pub(super) taken: Instant,
    /// The sending half failed; the answer, if it comes whole, is still passed on.
    pub(super) send_error: Option<SendError>,
}

impl<B: Source> Exchange<B> {
    /// An exchange that sends this request, with this head. An endpoint that is to want the body first
    /// gets it when it has said so, or was silent for a second. Nothing of it is sent after a final
    /// answer.
    ///
    /// # Panics
    /// Where another exchange sends the request, or has brought its answer.
    pub(in crate::upstream) fn new(
        connection: Connection,
        in_flight: InFlight,
        request: &mut Request<B>,
        head: &impl Head,
        limits: Limits,
        now: Instant,
    ) -> Self {
        request.write_head(head, in_flight.pool().address());
        Self {
            connection,
            sender: Sender::new(request),
            read: BytesMut::new(),
            looked_at: 0,
            asked: Asked {
                is_head: request.is_head,
                upgrade: request.upgrade.clone(),
            },
            limits,
            in_flight,
            taken: now,
            send_error: None,
        }
    }

    pub(in crate::upstream) fn poll_opening(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut AnswerHead,
        mut spare: Option<&mut HeaderMap>,
    ) -> Poll<Result<Opening, Failure>> {
        if let Err(error) = self.drive_sending(cx) {
            return Poll::Ready(Err(self.failed(FailureKind::Client(error))));
        }
        loop {
            let (limits, before) = (self.limits.head, self.read.len());
            if !self.read.is_empty() && head::may_have_ended(&self.read, self.looked_at, limits) {
                let spare = spare.as_deref_mut();
                match head::parse(&mut self.read, &self.asked, limits, head, spare) {
                    Ok(Parsed::Complete(length, persistence)) => {
                        if before - self.read.len() > buffers::LARGEST_KEPT {
                            // What follows is not kept in so large a buffer.
                            self.read = BytesMut::from(&self.read[..]);
                        }
                        let at = self.note_opening(head.status, length)?;
                        return Poll::Ready(Ok(Opening {
                            at,
                            length,
                            persistence,
                        }));
                    }
                    Ok(Parsed::Interim(status)) => {
                        self.looked_at = 0;
                        // An endpoint that sends interim answers for ever is late, too.
                        if let Some(kind) = self.over(Instant::now(), self.due()) {
                            return Poll::Ready(Err(self.late(kind)));
                        }
                        if status == StatusCode::CONTINUE && self.sender.is_withheld() {
                            self.release_body(cx)?;
                        }
                        continue;
                    }
                    Ok(Parsed::Partial) => self.looked_at = self.read.len(),
                    Err(refused) => return Poll::Ready(Err(self.failed(refused.into()))),
                }
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.ended())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broken(error))),
                Poll::Pending => {
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
        }
    }

    /// The head of the answer is there. Returns when it came.
    fn note_opening(&mut self, status: StatusCode, length: BodyLength) -> Result<Instant, Failure> {
        let at = Instant::now();
        self.in_flight.note_answer(status, at);
        if length == BodyLength::Switched && !self.sender.is_done() {
            let early = "101 before the request was whole";
            return Err(self.failed(FailureKind::BadAnswer(early)));
        }
        Ok(at)
    }

    /// Ready when the endpoint has not said for long enough that it wants the body. It has half of
    /// its time left then at the least.
    #[cold]
    fn poll_silence(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        let half = due.saturating_duration_since(self.taken) / 2;
        let until = self.taken + SILENCE.min(half);
        self.connection.timer.poll_late(cx, until)
    }

    /// Asks for the body, and sends what is there.
    #[cold]
    fn release_body(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.sender.release();
        let sent = self.drive_sending(cx);
        sent.map_err(|error| self.failed(FailureKind::Client(error)))
    }

    /// Sends what can be sent. A socket that fails is remembered, for the endpoint may have
    /// answered before it closed; a client that fails ends the exchange.
    pub(super) fn drive_sending(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Result<(), Box<dyn StdError + Send + Sync>> {
        if self.send_error.is_none() && !self.sender.is_done() {
            let before = self.sender.written();
            let polled = self.sender.poll_send(cx, &mut self.connection.stream);
            let written = self.sender.written();
            if before > 0 && written > before {
                self.taken = Instant::now();
            } else if written > before && !self.connection.stream.may_be_turned_away() {
                self.sender.begun();
            }
            match polled {
                Poll::Ready(Err(SendError::Source(error))) => return Err(error),
                Poll::Ready(Err(error)) => self.send_error = Some(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Reads once into `read`; 0 is the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < 1024 {
            if self.read.is_empty() && self.read.capacity() == 0 {
                self.read = buffers::take_read();
            } else {
                self.read.reserve(16 * 1024);
            }
        }
        poll_read_buf(Pin::new(&mut self.connection.stream), cx, &mut self.read)
    }

    /// When the answer's head is due.
    fn due(&self) -> Instant {
        let since = if self.sender.is_starved() {
            Instant::now()
        } else {
            self.taken
        };
        self.limits.due(since)
    }

    /// The head was not there in time: for this attempt, or at all.
    #[cold]
    fn late(&self, kind: FailureKind) -> Failure {
        match kind {
            FailureKind::Timeout => self.failed(self.limits.lateness()),
            kind => self.failed(kind),
        }
    }

    /// What ends the exchange at this moment, whatever there is still to read. An endpoint that
    /// always has more to read never lets [`Self::poll_late`] be reached.
    pub(super) fn over(&self, now: Instant, deadline: Instant) -> Option<FailureKind> {
        if self.pool().is_cut() {
            Some(FailureKind::Drained)
        } else if now >= self.limits.earliest(deadline) {
            Some(FailureKind::Timeout)
        } else {
            None
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
        ready!(self.connection.timer.poll_late(cx, deadline));
        Poll::Ready(FailureKind::Timeout)
    }

    pub(in crate::upstream) fn pool(&self) -> &Arc<Pool> {
        self.in_flight.pool()
    }

    /// The endpoint closed the connection where its answer was due.
    #[cold]
    fn ended(&mut self) -> Failure {
        let kind = self.broken_off().unwrap_or(FailureKind::Closed);
        self.failed(kind)
    }

    /// What broke the sending, which says more than the end that follows: the kernel tells of a
    /// reset once, and to a write that failed of it the next read is an end like any other.
    #[cold]
    pub(super) fn broken_off(&mut self) -> Option<FailureKind> {
        match self.send_error.take() {
            Some(SendError::Socket(error)) => Some(FailureKind::Io(error)),
            _ => None,
        }
    }

    /// Reading failed where the answer was due.
    #[cold]
    fn broken(&mut self, error: io::Error) -> Failure {
        if self.connection.stream.is_turned_away(&error) {
            return Failure {
                kind: FailureKind::Handshake(tls::with_hint(error)),
                processed: Processed::Never,
            };
        }
        match FailureKind::of_read(error) {
            FailureKind::Closed => self.ended(),
            kind => self.failed(kind),
        }
    }

    fn failed(&self, kind: FailureKind) -> Failure {
        let is_answer = matches!(kind, FailureKind::BadAnswer(_) | FailureKind::TooLarge(_));
        let processed = if is_answer || !self.read.is_empty() {
            Processed::Begun
        } else if self.sender.written() > 0 {
            Processed::Perhaps
        } else {
            Processed::Never
        };
        Failure { kind, processed }
    }
}
