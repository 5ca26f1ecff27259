//! When a service was last called: noted by its requests, and read by a registry that cannot
//! watch everything at once and would rather watch what is called. Knows nothing of either.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// When a service was last called, to the second.
#[derive(Debug)]
pub struct Usage {
    since: Instant,
    /// The second since `since` in which it was last called, from 1; 0 for never.
    last: AtomicU64,
    noted: Notify,
    is_kept: AtomicBool,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            last: AtomicU64::new(0),
            noted: Notify::new(),
            is_kept: AtomicBool::new(false),
        }
    }
}

impl Usage {
    /// Notes a request. Costs a load, and once a second a store. Between two stores the line is in
    /// every worker's cache, so that no worker waits for it.
    pub fn note(&self, now: Instant) {
        let second = self.second(now);
        if self.last.load(Relaxed) < second {
            self.last.store(second, Relaxed);
            self.noted.notify_waiters();
        }
    }

    /// From now on it is wanted however seldom it is called, since routes name it.
    pub fn keep(&self) {
        self.is_kept.store(true, Relaxed);
    }

    /// Whether routes name it.
    pub fn is_kept(&self) -> bool {
        self.is_kept.load(Relaxed)
    }

    /// How long ago it was last called; `None` for never.
    pub fn idle(&self) -> Option<Duration> {
        let last = self.last.load(Relaxed);
        let seconds = self.second(Instant::now()).saturating_sub(last);
        (last > 0).then(|| Duration::from_secs(seconds))
    }

    /// Whether it was called within this time.
    pub fn is_recent(&self, time: Duration) -> bool {
        self.idle().is_some_and(|idle| idle < time)
    }

    /// Waits until it is called, if it was not within this time.
    pub async fn becomes_recent(&self, time: Duration) {
        loop {
            let mut noted = pin!(self.noted.notified());
            // Before looking, so that what is noted in between is not missed.
            noted.as_mut().enable();
            if self.is_recent(time) {
                return;
            }
            noted.await;
        }
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_secs() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn it_is_recent_from_a_request_on_for_as_long_as_that() {
        let usage = Usage::default();
        assert!(usage.idle().is_none() && !usage.is_recent(MINUTE));
        usage.note(Instant::now());
        assert!(usage.is_recent(MINUTE));
        tokio::time::advance(MINUTE - Duration::from_secs(1)).await;
        assert!(usage.is_recent(MINUTE));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!usage.is_recent(MINUTE));
        usage.note(Instant::now());
        assert!(usage.is_recent(MINUTE));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_after_a_pause_wakes_whoever_waits_for_it() {
        let usage = Arc::new(Usage::default());
        usage.note(Instant::now());
        usage.becomes_recent(MINUTE).await;
        tokio::time::advance(MINUTE * 2).await;
        let woken = {
            let usage = usage.clone();
            tokio::spawn(async move { usage.becomes_recent(MINUTE).await })
        };
        tokio::time::sleep(MINUTE).await;
        assert!(!woken.is_finished());
        usage.note(Instant::now());
        tokio::time::timeout(Duration::from_millis(1), woken)
            .await
            .unwrap()
            .unwrap();
    }
}
