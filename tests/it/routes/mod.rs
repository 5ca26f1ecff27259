//! Routes choose among requests, services and endpoints as they say, under updates, drains and
//! retries too.

mod conditions;
mod fallback;
mod paths;
mod policy;
mod split;
mod sticky;
mod subsets;

use serde_json::json;

use crate::support::proxy::Proxy;

/// The value of one sample of `/metrics`.
async fn sample(proxy: &Proxy, name: &str) -> Option<u64> {
    let text = proxy.page("/metrics").await.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// Waits until so many of `cart` may be picked in the subset of this tag.
async fn until_selected(proxy: &Proxy, tag: &str, count: usize) {
    proxy
        .until_service("cart", "the subset has so many", |service| {
            let mut views = service["views"].as_array().unwrap().iter();
            views.any(|view| view["tags"] == json!([tag]) && view["endpoints"] == json!(count))
        })
        .await;
}
