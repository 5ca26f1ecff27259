//! Routes choose among requests, services and endpoints as they say, under updates, drains and
//! retries too.

mod conditions;
mod fallback;
mod policy;
mod split;
mod subsets;

use crate::support::proxy::Proxy;

/// The value of one sample of `/metrics`.
async fn sample(proxy: &Proxy, name: &str) -> Option<u64> {
    let text = proxy.page("/metrics").await.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}
