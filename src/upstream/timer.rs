//! A deadline that costs nothing while nothing is late: the runtime's timer is armed once and
//! left alone; only when it fires is the true deadline looked at.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A waiting exchange looks around at least this often, so that a deadline set from outside
/// (an endpoint's drain) reaches it without anyone knowing its waker.
const TICK: Duration = Duration::from_secs(1);

/// Lives with a connection from request to request.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Sees to it that the task is woken at `deadline`, and within [`TICK`] in any case.
    /// Ready when the deadline has passed.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline.min(Instant::now() + TICK))));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline.min(now + TICK));
        }
        Poll::Pending
    }
}
