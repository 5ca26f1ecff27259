//! Consul's blocking queries: an answer that waits for a topic to pass an index.
//! Knows nothing of what the answer will be.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{
    state::{State, Topic},
    store::Store,
};

const DEFAULT_WAIT: Duration = Duration::from_secs(300);
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// A sixteenth of the wait is added at random, so that clients do not come back all at once.
const JITTER: f64 = 1.0 / 16.0;

/// Returns when `passed` holds, which is looked at whenever the topic changes; after `wait` (0 means
/// 5 minutes, and 10 are the most) with its jitter; or when the registry goes down.
pub(super) async fn until(
    store: &Store,
    topic: &Topic,
    wait: Duration,
    passed: impl Fn(&State) -> bool,
) {
    let wait = if wait.is_zero() {
        DEFAULT_WAIT
    } else {
        wait.min(LONGEST_WAIT)
    };
    let end = Instant::now() + wait + wait.mul_f64(fastrand::f64() * JITTER);
    let closing = store.closing();
    // Watched before it is looked at: no change falls between the two.
    let mut watch = store.watch(topic);
    let waited = async {
        while !store.read(&passed) {
            watch.changed().await;
        }
    };
    tokio::select! {
        () = waited => {}
        () = sleep_until(end) => {}
        () = closing.cancelled() => {}
    }
}
