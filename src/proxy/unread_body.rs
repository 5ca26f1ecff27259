//! What a client still sends of a request whose answer is decided. A small rest of a body is read and
//! thrown away, so that the connection can be kept; where there may be more, the answer says that the
//! connection ends, and it ends in good order. Knows nothing of why the rest is not wanted.

use std::{
    future::{Future as _, poll_fn},
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::Body;
use hyper::body::Incoming;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Sleep, sleep};

/// Bytes that are read and thrown away. A client with more to send would rather connect again.
const MOST: u64 = 64 * 1024;

/// How long a client may take to send them.
const TIME: Duration = Duration::from_secs(5);

/// That a body's length is not known.
const UNKNOWN: u64 = u64::MAX;

/// What is still to come of a request. A connection of HTTP/1.1 is at one at a time, and one of HTTP/2 at one
/// for each stream.
#[derive(Default)]
pub(crate) struct Rest {
    /// Bytes of the body that were not read, or [`UNKNOWN`].
    left: AtomicU64,
    /// The client sends its body only when it is asked to, and was not.
    unasked: AtomicBool,
    /// `body` has one.
    abandoned: AtomicBool,
    /// A body that is of no use to anybody any more.
    body: Mutex<Option<Abandoned>>,
}

struct Abandoned {
    incoming: Incoming,
    /// From when the answer was written.
    late: Option<Pin<Box<Sleep>>>,
}

impl Rest {
    /// A request has come, with this body.
    pub(super) fn begin(&self, body: &Incoming) {
        self.note(body);
        self.unasked.store(false, Relaxed);
    }

    /// The client waits for a `100 Continue`.
    pub(super) fn waits_to_be_asked(&self) {
        self.unasked.store(true, Relaxed);
    }

    /// The body is asked for.
    pub(super) fn ask(&self) {
        if self.unasked.load(Relaxed) {
            self.unasked.store(false, Relaxed);
        }
    }

    /// Something was read of the body.
    pub(super) fn note(&self, body: &Incoming) {
        let length = body.size_hint().exact();
        self.left.store(length.unwrap_or(UNKNOWN), Relaxed);
    }

    /// The body was read to its end.
    pub(super) fn end(&self) {
        self.left.store(0, Relaxed);
    }

    /// Nothing that follows on this connection is read as a request.
    pub(crate) fn disregard_what_follows(&self) {
        self.left.store(UNKNOWN, Relaxed);
    }

    /// This body is read no more.
    pub(super) fn abandon(&self, incoming: Incoming) {
        let late = None;
        *self.body() = Some(Abandoned { incoming, late });
        self.abandoned.store(true, Relaxed);
    }

    /// Whether the connection can be kept: the body is at its end, or what is left of it is small.
    pub(super) fn is_small(&self) -> bool {
        match self.left.load(Relaxed) {
            0 => true,
            left => left <= MOST && !self.unasked.load(Relaxed),
        }
    }

    /// Whether the client may be sending still.
    pub(crate) fn may_come(&self) -> bool {
        self.left.load(Relaxed) > 0
    }

    /// Whether there is a body to be read and thrown away.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Relaxed)
    }

    /// Takes what has come of an abandoned body whose length is not known: mostly its end is there,
    /// and the connection can be kept.
    pub(super) async fn settle(&self) {
        let is_unknown = self.left.load(Relaxed) == UNKNOWN && !self.unasked.load(Relaxed);
        if !is_unknown || !self.is_abandoned() {
            return;
        }
        let (mut taken, mut is_silent) = (0, false);
        poll_fn(|cx| {
            loop {
                match self.poll_taken(cx) {
                    Poll::Ready(Some(bytes)) if taken + bytes <= MOST => {
                        taken += bytes;
                        is_silent = false;
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending if is_silent => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            // hyper reads what the socket has before it comes back here.
            is_silent = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Throws away what comes of an abandoned body, once its answer is decided. The body goes at its
    /// end, when it takes too long, and at once where the connection is not kept.
    pub(crate) fn poll_away(&self, cx: &mut Context<'_>, is_kept: bool) {
        if !is_kept || !self.is_small() {
            return self.give_up(cx);
        }
        while let Poll::Ready(more) = self.poll_taken(cx) {
            if more.is_none() {
                return;
            }
        }
        let is_late = self.body().as_mut().is_some_and(|body| {
            let late = body.late.get_or_insert_with(|| Box::pin(sleep(TIME)));
            late.as_mut().poll(cx).is_ready()
        });
        if is_late {
            self.give_up(cx);
        }
    }

    /// The size of the next piece of an abandoned body; `None` when no more comes.
    fn poll_taken(&self, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        let mut slot = self.body();
        let Some(body) = slot.as_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut body.incoming).poll_frame(cx));
        match frame {
            Some(Ok(frame)) if frame.is_data() => {
                self.note(&body.incoming);
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                if self.may_come() {
                    return Poll::Ready(Some(bytes));
                }
            }
            // What broke off has not come to its end.
            Some(Err(_)) => {}
            Some(Ok(_)) | None => self.end(),
        }
        *slot = None;
        self.abandoned.store(false, Relaxed);
        Poll::Ready(None)
    }

    fn give_up(&self, cx: &mut Context<'_>) {
        *self.body() = None;
        self.abandoned.store(false, Relaxed);
        // hyper finds out, and ends the connection.
        cx.waker().wake_by_ref();
    }

    fn body(&self) -> MutexGuard<'_, Option<Abandoned>> {
        self.body.lock()
    }
}
