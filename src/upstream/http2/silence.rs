//! Whether a connection is alive from which nothing comes: it is asked (PING), seldom enough for servers
//! that take many questions for an attack. Knows nothing of streams but how many there are.

use std::{
    future::{pending, poll_fn},
    sync::atomic::Ordering::Relaxed,
    task::Poll,
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, sleep, timeout};

use super::link::Link;

/// A silence that was explained by an answer is not asked about again for so long: servers of gRPC close a
/// connection that asks more often than every five minutes while they say nothing.
const PATIENCE: Duration = Duration::from_secs(310);

/// Returns when nothing has come for `interval` while requests are under way, and nothing came in answer
/// to a question either within as long again.
pub(super) async fn dead(link: &Link, pings: Option<PingPong>, interval: Option<Duration>) {
    let (Some(mut pings), Some(interval)) = (pings, interval) else {
        return pending().await;
    };
    let mut read = link.read.load(Relaxed);
    let mut explained: Option<Instant> = None;
    // The answer to the last question is still to come.
    let mut is_asked = false;
    loop {
        sleep(interval).await;
        let now = link.read.load(Relaxed);
        if now != read {
            (read, explained) = (now, None);
            continue;
        }
        let is_explained = explained.is_some_and(|since| since.elapsed() < PATIENCE);
        if link.streams() == 0 || is_explained {
            continue;
        }
        // An answer that came late is no answer to the next question. One question waits at a time.
        is_asked = is_asked && poll_fn(|cx| Poll::Ready(pings.poll_pong(cx).is_pending())).await;
        if !is_asked && pings.send_ping(Ping::opaque()).is_err() {
            // The connection is over.
            return pending().await;
        }
        let answered = timeout(interval, poll_fn(|cx| pings.poll_pong(cx))).await;
        is_asked = answered.is_err();
        if is_asked && link.read.load(Relaxed) == read {
            return;
        }
        read = link.read.load(Relaxed);
        explained = answered.is_ok().then(Instant::now);
    }
}
