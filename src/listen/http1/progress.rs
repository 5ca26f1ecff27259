//! How far an HTTP/1.1 connection has come, noted in passing by its stream and its requests, and read by
//! its worker's tick.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{super::stop::Stop, framing::Body};
use crate::{
    config::HeaderCase,
    proxy::{Client, HeadText, RequestStream, TunnelWatch},
};
use parking_lot::Mutex;

/// A body's length that is not known beforehand. HTTP knows none so large.
const CHUNKED: u64 = u64::MAX;

/// How far a connection has come. Times are of the worker's clock, plus 1; 0 is "not".
pub(in super::super) struct Progress {
    /// What its requests know of it. They come one after the other, so that one is enough.
    pub(in super::super) requests: Arc<RequestStream>,
    /// When the head that is being read began.
    pub(super) head_began: AtomicU64,
    /// What was handed over behind the end of the head that was read last: of its request's body, and
    /// perhaps the start of the next head.
    pub(super) beyond: AtomicU64,
    /// How long the body of the last request is; [`CHUNKED`] where its coding says so.
    body: AtomicU64,
    /// `body` is of a request whose body is not followed yet.
    body_is_new: AtomicBool,
    /// The text of the head that is being read, where names are passed on as they came.
    text: Option<Mutex<Vec<u8>>>,
    /// Since when the client takes none of an answer.
    pub(super) stuck: AtomicU64,
    /// Of what it has gone over to.
    tunnel: OnceLock<Arc<TunnelWatch>>,
}

impl Progress {
    /// Of a connection without a request yet.
    pub(in super::super) fn new(client: Client) -> Self {
        Self {
            text: (client.listener.header_case == HeaderCase::Preserve).then(Mutex::default),
            requests: Arc::new(RequestStream::new(Arc::new(client))),
            head_began: AtomicU64::new(0),
            beyond: AtomicU64::new(0),
            body: AtomicU64::new(0),
            body_is_new: AtomicBool::new(false),
            stuck: AtomicU64::new(0),
            tunnel: OnceLock::new(),
        }
    }

    /// The client whose connection it is.
    pub(super) fn client(&self) -> &Client {
        &self.requests.client
    }

    /// Whether there was never a request.
    pub(in super::super) fn is_new(&self) -> bool {
        let activity = &self.client().activity;
        activity.requests.value() == 0 && activity.answered.load(Relaxed) == 0
    }

    /// From now on another protocol is spoken, and these time-outs are those of its tunnel.
    pub(super) fn goes_over(&self, tunnel: &Arc<TunnelWatch>) {
        // No connection goes over twice.
        let _ = self.tunnel.set(Arc::clone(tunnel));
    }

    /// What a client is told whose connection is open since then, and that has taken longer than the
    /// listener allows.
    pub(in super::super) fn late(&self, open: u64, now: u64) -> Option<Stop> {
        if let Some(tunnel) = self.tunnel.get() {
            return tunnel.is_late(now).then_some(Stop::Cut);
        }
        let limits = &self.client().listener.timeout;
        let activity = &self.client().activity;
        let passed = |since: u64, limit: Duration| {
            since != 0 && u128::from(now.saturating_sub(since)) > limit.as_millis()
        };
        if passed(self.stuck.load(Relaxed), limits.write) {
            return Some(Stop::Cut);
        }
        if activity.requests.value() > 0 {
            let awaited = self.requests.body_awaited.load(Relaxed);
            return passed(awaited, limits.body).then_some(Stop::Cut);
        }
        let answered = activity.answered.load(Relaxed);
        let (since, limit, order) = match self.head_began.load(Relaxed) {
            0 if answered == 0 => (open, limits.header, Stop::Finish),
            0 if self.has_begun_another() => (answered, limits.header, Stop::Cut),
            0 => (answered, limits.idle, Stop::Finish),
            began => (began, limits.header, Stop::Cut),
        };
        passed(since, limit).then_some(order)
    }

    /// A head has begun, unless that is known.
    pub(super) fn begin_head(&self) {
        if self.head_began.load(Relaxed) != 0 {
            return;
        }
        let client = self.client();
        let since = if self.has_begun_another() {
            client.activity.answered.load(Relaxed)
        } else {
            client.now()
        };
        self.head_began.store(since, Relaxed);
    }

    /// Whether no request is being answered.
    pub(super) fn is_at_rest(&self) -> bool {
        self.client().activity.requests.value() == 0
    }

    /// Whether each answer is over, and written to its end.
    pub(super) fn is_all_written(&self) -> bool {
        self.is_at_rest() && !self.requests.asked.load(Relaxed)
    }

    /// Whether a request's head has begun, and is not whole.
    pub(super) fn is_amid_a_head(&self) -> bool {
        self.is_at_rest()
            && !self.requests.rest.may_come()
            && (self.head_began.load(Relaxed) != 0 || self.has_begun_another())
    }

    /// Whether the request that is being answered may have its connection go over to another protocol.
    pub(super) fn may_go_over(&self) -> bool {
        self.requests.may_go_over.load(Relaxed) && !self.is_at_rest()
    }

    /// hyper has understood a head, and this is how its request ends.
    pub(super) fn begin_request(&self, body: Body) {
        let length = match body {
            Body::Length(length) => length,
            Body::Chunked => CHUNKED,
        };
        self.head_began.store(0, Relaxed);
        self.body.store(length, Relaxed);
        self.body_is_new.store(true, Relaxed);
    }

    /// These bytes are of a head.
    pub(super) fn keep_text(&self, bytes: &[u8]) {
        if let Some(text) = &self.text {
            let mut text = text.lock();
            text.extend_from_slice(bytes);
        }
    }

    /// The text of the head that was read last, where it is kept.
    pub(super) fn take_text(&self) -> Option<HeadText> {
        let text = self.text.as_ref()?;
        let mut text = text.lock();
        Some(HeadText::new(std::mem::take(&mut *text)))
    }

    /// How a request ends that has begun since this was asked last.
    pub(super) fn take_body(&self) -> Option<Body> {
        if !self.body_is_new.load(Relaxed) {
            return None;
        }
        self.body_is_new.store(false, Relaxed);
        Some(match self.body.load(Relaxed) {
            CHUNKED => Body::Chunked,
            length => Body::Length(length),
        })
    }

    /// Whether the start of a head was read along with the request before it, which is over.
    pub(super) fn has_begun_another(&self) -> bool {
        self.beyond.load(Relaxed) > self.body.load(Relaxed)
    }
}
