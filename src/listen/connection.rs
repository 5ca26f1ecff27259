//! One client's connection as its worker sees it: whether it is late, and what it is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use futures_util::task::AtomicWaker;

use crate::proxy::Client;

/// A client's connection, as its worker sees it.
pub struct Connection {
    /// What its requests know of it.
    pub client: Arc<Client>,
    /// When it was accepted, by the worker's clock.
    accepted: u64,
    /// When the head that is being read began; 0 when none is.
    pub(super) head_began: AtomicU64,
    /// What was read behind the end of the head that was read last: its request's body, and
    /// perhaps the start of the next head.
    pub(super) beyond: AtomicU64,
    /// What was read last ends with an empty line, as whole requests without a body do, and
    /// chunked ones.
    pub(super) at_end: AtomicBool,
    /// Since when the client takes none of an answer; 0 when it does.
    pub(super) stuck: AtomicU64,
    order: AtomicU8,
    waker: AtomicWaker,
}

/// What a connection is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
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
            client: Arc::new(client),
            head_began: AtomicU64::new(0),
            beyond: AtomicU64::new(0),
            at_end: AtomicBool::new(true),
            stuck: AtomicU64::new(0),
            order: AtomicU8::new(Order::Serve as u8),
            waker: AtomicWaker::new(),
        }
    }

    /// Tells it so, unless it was told more already.
    pub fn order(&self, order: Order) {
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
    pub fn late(&self, now: u64) -> Option<Order> {
        let limits = &self.client.listener.timeout;
        let activity = &self.client.activity;
        let passed = |since: u64, limit: Duration| {
            since != 0 && u128::from(now.saturating_sub(since)) > limit.as_millis()
        };
        if passed(self.stuck.load(Relaxed), limits.write) {
            return Some(Order::Cut);
        }
        if activity.requests.value() > 0 {
            return passed(activity.body_awaited.load(Relaxed), limits.body).then_some(Order::Cut);
        }
        let answered = activity.answered.load(Relaxed);
        let (since, limit, order) = match self.head_began.load(Relaxed) {
            0 if answered == 0 => (self.accepted, limits.header, Order::Finish),
            0 if self.has_begun_another() => (answered, limits.header, Order::Cut),
            0 => (answered, limits.idle, Order::Finish),
            began => (began, limits.header, Order::Cut),
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

    /// Whether the start of a head was read along with the request before it, which is over. Of
    /// several requests that were read at once only the first is known in length: should the last
    /// of them have a body, the next is taken to have begun.
    pub(super) fn has_begun_another(&self) -> bool {
        let body = self.client.activity.body_length.load(Relaxed);
        !self.at_end.load(Relaxed) && self.beyond.load(Relaxed) > body
    }

    /// What it was told last, and by whom it is woken when it is told more.
    pub(super) fn ordered(&self, waker: &Waker) -> Order {
        self.waker.register(waker);
        self.standing_order()
    }

    /// What it was told last.
    pub(super) fn standing_order(&self) -> Order {
        match self.order.load(Relaxed) {
            0 => Order::Serve,
            1 => Order::Finish,
            _ => Order::Cut,
        }
    }
}
