//! What the tests start and wait with.

pub(crate) mod authority;
pub(crate) mod backend;
pub(crate) mod browser;
pub(crate) mod callboard;
pub(crate) mod consul;
pub(crate) mod dns;
pub(crate) mod etcd;
pub(crate) mod eureka;
pub(crate) mod fake_consul;
pub(crate) mod frames;
pub(crate) mod gokit;
pub(crate) mod grpc;
pub(crate) mod haproxy;
pub(crate) mod load;
pub(crate) mod nginx;
pub(crate) mod pebble;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod registered;
pub(crate) mod relay;
pub(crate) mod server;
pub(crate) mod source;
pub(crate) mod strict;
pub(crate) mod tls;
pub(crate) mod wall_clock;
pub(crate) mod watched;
pub(crate) mod zookeeper;

use std::{fmt::Debug, time::Duration};

/// Long enough for a busy machine; nothing waits this long where all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again and again until `holds` says yes of an answer, which is then handed over.
pub(crate) async fn eventually<T: Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> T,
    holds: impl Fn(&T) -> bool,
) -> T {
    let mut last = ask().await;
    let ask_on = async {
        while !holds(&last) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            last = ask().await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, ask_on).await.is_ok();
    assert!(
        in_time,
        "{what}: not within {PATIENCE:?}; at last: {last:?}"
    );
    last
}
