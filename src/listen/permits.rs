//! How many connections a listener may have, over all workers. The limit may change while it has some: a
//! semaphore could not take back what it has given.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::sync::Notify;

/// The permits of a listener's connections.
#[derive(Debug)]
pub(crate) struct Permits {
    most: AtomicUsize,
    given: AtomicUsize,
    /// There may be one for a connection that waits.
    changed: Notify,
}

/// The permit of one connection, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Permits>);

impl Permits {
    /// So many, of which none is given.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most: AtomicUsize::new(most),
            given: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    /// Has so many be there from now on. Where more are given, all stay so, and none is given before enough
    /// of them are back.
    pub(crate) fn limit_to(&self, most: usize) {
        self.most.store(most, SeqCst);
        self.changed.notify_waiters();
    }

    /// How many are given.
    pub(crate) fn given(&self) -> usize {
        self.given.load(SeqCst)
    }

    /// Waits for one.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Permit {
        loop {
            if let Some(permit) = self.try_acquire() {
                return permit;
            }
            let mut changed = pin!(self.changed.notified());
            // What is given back from here on is heard of.
            changed.as_mut().enable();
            if let Some(permit) = self.try_acquire() {
                return permit;
            }
            changed.await;
        }
    }

    /// One that is there now.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let one_more = |given| (given < self.most.load(SeqCst)).then_some(given + 1);
        let given = self.given.fetch_update(SeqCst, SeqCst, one_more);
        given.is_ok().then(|| Permit(Arc::clone(self)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.given.fetch_sub(1, SeqCst);
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn a_connection_waits_for_a_permit_that_is_given_back() {
        let permits = Arc::new(Permits::new(2));
        let (first, _second) = (permits.acquire().await, permits.acquire().await);
        let mut third = pin!(permits.acquire());
        assert!(poll!(&mut third).is_pending());
        drop(first);
        let _third = third.await;
        assert!(permits.acquire().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_higher_limit_lets_all_go_on_that_wait_and_a_lower_one_takes_nothing_back() {
        let permits = Arc::new(Permits::new(1));
        let first = permits.acquire().await;
        let (mut second, mut third) = (pin!(permits.acquire()), pin!(permits.acquire()));
        assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
        permits.limit_to(3);
        let (second, third) = (second.await, third.await);
        permits.limit_to(1);
        let mut fourth = pin!(permits.acquire());
        for one in [first, second] {
            drop(one);
            assert!(poll!(&mut fourth).is_pending());
        }
        drop(third);
        fourth.await;
    }
}
