//! One client's connection as its worker sees it: whether it is late, and what it is told.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use futures_util::task::AtomicWaker;

use super::http1::framing::Body;
use crate::{
    config::HeaderCase,
    proxy::{Client, HeadText},
};

/// A client's connection, as its worker sees it.
pub struct Connection {
    /// What its requests know of it.
    pub client: Arc<Client>,
    /// When it was accepted, by the worker's clock.
    accepted: u64,
    /// When the head that is being read began; 0 when none is.
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
    /// Since when the client takes none of an answer; 0 when it does.
    pub(super) stuck: AtomicU64,
    order: AtomicU8,
    waker: AtomicWaker,
}

/// A body's length that is not known beforehand. HTTP knows none so large.
const CHUNKED: u64 = u64::MAX;

/// What a connection is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    /// Go on.
    Serve = 0,
    /// End with the request that runs or has come; at once where there is none.
    Finish = 1,
    /// End now.
    Cut = 2,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(client: Client) -> Self {
        Self {
            accepted: client.now(),
            text: (client.listener.header_case == HeaderCase::Preserve).then(Mutex::default),
            client: Arc::new(client),
            head_began: AtomicU64::new(0),
            beyond: AtomicU64::new(0),
            body: AtomicU64::new(0),
            body_is_new: AtomicBool::new(false),
            stuck: AtomicU64::new(0),
            order: AtomicU8::new(Stop::Serve as u8),
            waker: AtomicWaker::new(),
        }
    }

    /// Tells it so, unless it was told more already.
    pub fn order(&self, order: Stop) {
        if self.order.fetch_max(order as u8, Relaxed) < order as u8 {
            self.waker.wake();
        }
    }

    /// Whether it has never had a request: one may be on its way.
    pub fn is_new(&self) -> bool {
        let activity = &self.client.activity;
        activity.requests.value() == 0 && activity.answered.load(Relaxed) == 0
    }

    /// Whether it was accepted less than `age` ago, at this moment of the worker's clock.
    pub fn is_younger(&self, age: Duration, now: u64) -> bool {
        u128::from(now.saturating_sub(self.accepted)) < age.as_millis()
    }

    /// What a client is told that has taken longer than the listener allows, at this moment of the
    /// worker's clock. A request of an idle client may have come just now, and is answered.
    pub fn late(&self, now: u64) -> Option<Stop> {
        let limits = &self.client.listener.timeout;
        let activity = &self.client.activity;
        let passed = |since: u64, limit: Duration| {
            since != 0 && u128::from(now.saturating_sub(since)) > limit.as_millis()
        };
        if passed(self.stuck.load(Relaxed), limits.write) {
            return Some(Stop::Cut);
        }
        if activity.requests.value() > 0 {
            return passed(activity.body_awaited.load(Relaxed), limits.body).then_some(Stop::Cut);
        }
        let answered = activity.answered.load(Relaxed);
        let (since, limit, order) = match self.head_began.load(Relaxed) {
            0 if answered == 0 => (self.accepted, limits.header, Stop::Finish),
            0 if self.has_begun_another() => (answered, limits.header, Stop::Cut),
            0 => (answered, limits.idle, Stop::Finish),
            began => (began, limits.header, Stop::Cut),
        };
        passed(since, limit).then_some(order)
    }

    /// Whether no request is being answered.
    pub(super) fn is_at_rest(&self) -> bool {
        self.client.activity.requests.value() == 0
    }

    /// Whether a request's head has begun, and is not whole.
    pub(super) fn is_amid_a_head(&self) -> bool {
        self.is_at_rest()
            && !self.client.activity.rest.may_come()
            && (self.head_began.load(Relaxed) != 0 || self.has_begun_another())
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
            let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
            text.extend_from_slice(bytes);
        }
    }

    /// The text of the head that was read last, where it is kept.
    pub(super) fn take_text(&self) -> Option<HeadText> {
        let text = self.text.as_ref()?;
        let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// What it was told last.
    pub(super) fn standing_order(&self) -> Stop {
        match self.order.load(Relaxed) {
            0 => Stop::Serve,
            1 => Stop::Finish,
            _ => Stop::Cut,
        }
    }
}

/// What a connection is told, as its task hears of it. The task is named once as the one to be woken,
/// and not with each poll: an order is what takes its name off again.
pub(super) struct Orders<'c> {
    connection: &'c Connection,
    named: Option<Waker>,
}

impl<'c> Orders<'c> {
    /// For the task of this connection.
    pub(super) fn to(connection: &'c Connection) -> Self {
        Self {
            connection,
            named: None,
        }
    }

    /// What the connection was told last; the waker is woken when it is told more.
    pub(super) fn last(&mut self, waker: &Waker) -> Stop {
        let is_named = |named: &Waker| named.will_wake(waker);
        let is_named = self.named.as_ref().is_some_and(is_named);
        if !is_named || self.connection.standing_order() != Stop::Serve {
            self.connection.waker.register(waker);
            self.named = Some(waker.clone());
        }
        self.connection.standing_order()
    }
}
