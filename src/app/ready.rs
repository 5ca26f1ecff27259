//! When a proxy may be sent traffic: what it needs to know, and for how long it waits to learn it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::proxy::Shared;

/// What is known from before the start serves at once, but is ready only when its registry has
/// answered, or failed, or after so long: one that refuses our token is seen by then.
const CONFIRMED: Duration = Duration::from_secs(1);

/// Ready when everything declared was read once; after this time-out all the same, with the
/// missing ones named, so that one dead registry does not hold the others' traffic.
pub(super) async fn become_ready(
    shared: Arc<Shared>,
    timeout: Duration,
    ending: CancellationToken,
) {
    let began = Instant::now();
    let late = began + timeout;
    let confirmed = began + CONFIRMED;
    let mut directory = shared.directory();
    let mut heard = directory.heard();
    let mut awaited = directory.awaited();
    loop {
        let now = Instant::now();
        let current = shared.directory();
        if !Arc::ptr_eq(&current, &directory) {
            (awaited, directory) = (current.awaited(), current);
        }
        // What was read once stays so: one that was not is enough to know.
        while awaited.last().is_some_and(|service| service.is_settled()) {
            awaited.pop();
        }
        let is_late = now >= late;
        let unread = match awaited.is_empty() || is_late {
            true => directory.unread(),
            false => Vec::new(),
        };
        let is_read = awaited.is_empty() && unread.is_empty();
        let waits = || now < confirmed && directory.is_unconfirmed();
        if is_late || (is_read && !waits()) {
            if unread.is_empty() {
                tracing::info!("ready");
            } else {
                tracing::warn!(missing = %unread.join(", "), "ready, though not everything could be read");
            }
            if !shared.draining.load(Relaxed) {
                shared.ready.store(true, Relaxed);
            }
            return;
        }
        let next = match now < confirmed {
            true => confirmed.min(late),
            false => late,
        };
        tokio::select! {
            () = ending.cancelled() => return,
            Ok(()) = heard.changed() => {}
            () = sleep_until(next) => {}
        }
    }
}
