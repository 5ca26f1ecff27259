//! What a connection is told from outside, and how its task hears of it.

use std::{
    sync::atomic::{AtomicU8, Ordering::Relaxed},
    task::Waker,
};

use futures_util::task::AtomicWaker;

/// What a connection is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stop {
    /// Go on.
    Serve = 0,
    /// End with the request that runs or has come; at once where there is none.
    Finish = 1,
    /// End now.
    Cut = 2,
}

/// The order that a connection has.
pub(super) struct StopSignal {
    order: AtomicU8,
    waker: AtomicWaker,
}

impl StopSignal {
    /// Of a connection that is to go on.
    pub(super) fn new() -> Self {
        Self {
            order: AtomicU8::new(Stop::Serve as u8),
            waker: AtomicWaker::new(),
        }
    }

    /// Gives the order, unless it or a stronger one was given already; returns whether it was not.
    pub(super) fn give(&self, order: Stop) -> bool {
        let is_new = self.order.fetch_max(order as u8, Relaxed) < order as u8;
        if is_new {
            self.waker.wake();
        }
        is_new
    }

    /// The order that stands.
    pub(super) fn standing(&self) -> Stop {
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
    signal: &'c StopSignal,
    named: Option<Waker>,
}

impl<'c> Orders<'c> {
    /// For the task of the connection with this signal.
    pub(super) fn to(signal: &'c StopSignal) -> Self {
        Self {
            signal,
            named: None,
        }
    }

    /// What the connection was told last; the waker is woken when it is told more.
    pub(super) fn last(&mut self, waker: &Waker) -> Stop {
        let is_named = |named: &Waker| named.will_wake(waker);
        let is_named = self.named.as_ref().is_some_and(is_named);
        if !is_named || self.signal.standing() != Stop::Serve {
            self.signal.waker.register(waker);
            self.named = Some(waker.clone());
        }
        self.signal.standing()
    }
}
