//! Since when a client takes nothing of what waits for it. TLS takes some for it, which the client has not:
//! so what the kernel takes is what counts.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::Poll,
};

/// What the kernel had taken when that was looked at last.
#[derive(Default)]
pub(super) struct Stall {
    taken: u64,
}

impl Stall {
    /// Notes what has come of a write, when so much was taken in all: `since` is the moment from which
    /// nothing was, or 0. Whether something was taken.
    pub(super) fn note<T>(
        &mut self,
        polled: &Poll<T>,
        taken: u64,
        since: &AtomicU64,
        now: impl FnOnce() -> u64,
    ) -> bool {
        let has_taken = std::mem::replace(&mut self.taken, taken) != taken;
        let stuck = since.load(Relaxed);
        if polled.is_pending() && (stuck == 0 || has_taken) {
            since.store(now(), Relaxed);
        } else if polled.is_ready() && stuck != 0 && has_taken {
            since.store(0, Relaxed);
        }
        has_taken
    }
}
