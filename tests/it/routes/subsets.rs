//! A route with tags and metadata calls those endpoints of its service alone, which it shares with
//! all other routes.

use serde_json::json;

use super::{sample, until_selected};
use crate::support::{
    backend::{BACKEND, Backend},
    eventually,
    load::{Ledger, Load},
    proxy::{Proxy, endpoints},
};

const ROUTES: &str = r#"
[[route]]
path = "/all"
service = "cart"
strip_prefix = true
[[route]]
path = "/v2"
service = "cart"
tags = ["v2"]
strip_prefix = true
[[route]]
path = "/a/{service}"
service = "{service}"
meta = { zone = "a" }
"#;

async fn sign_in(proxy: &Proxy, backend: &Backend, tag: &str, zone: &str) {
    let more = json!({ "Tags": [tag], "Meta": { "zone": zone } });
    proxy.register_with("cart", backend.address(), more).await;
}

#[tokio::test]
async fn a_route_calls_those_with_its_tags_or_metadata_and_says_whom_it_misses() {
    let proxy = Proxy::start(ROUTES).await;
    let [old, new] = [Backend::start("old").await, Backend::start("new").await];
    sign_in(&proxy, &old, "v1", "a").await;
    proxy.until_served("/all/x").await;
    let answer = proxy.get("/v2/x").await;
    assert_eq!(answer.status(), 503);
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("service `cart` has no healthy instance with tag `v2` (request"),
        "{text}"
    );

    sign_in(&proxy, &new, "v2", "b").await;
    until_selected(&proxy, "v2", 1).await;
    for _ in 0..10 {
        assert_eq!(proxy.get("/v2/x").await.headers()[BACKEND], "new");
        assert_eq!(proxy.get("/a/cart").await.headers()[BACKEND], "old");
    }
    let both = [proxy.get("/all/x").await, proxy.get("/all/x").await];
    assert_ne!(both[0].headers()[BACKEND], both[1].headers()[BACKEND]);

    // It gets another tag in place: the routes follow, and its connection is the same.
    let connections = new.connections();
    sign_in(&proxy, &old, "v2", "a").await;
    until_selected(&proxy, "v2", 2).await;
    sign_in(&proxy, &new, "v1", "b").await;
    until_selected(&proxy, "v2", 1).await;
    eventually(
        "the other has the tag",
        async || proxy.get("/v2/x").await.headers()[BACKEND].clone(),
        |backend| backend == "old",
    )
    .await;
    for _ in 0..2 {
        assert_eq!(proxy.get("/all/x").await.status(), 200);
    }
    assert_eq!(new.connections(), connections);

    let name =
        "callboard_subset_endpoints{service=\"cart\",subset=\"tag `v2`\",balance=\"round_robin\"}";
    assert_eq!(sample(&proxy, name).await, Some(1));
    let routes = proxy.status().await;
    assert_eq!(routes["routes"][1]["tags"], json!(["v2"]));
    assert_eq!(routes["routes"][2]["meta"], json!({ "zone": "a" }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subset_is_updated_and_drained_under_load_and_a_retry_stays_in_it() {
    let proxy = Proxy::start(&format!(
        "workers = 2\n{ROUTES}\n[service.cart]\nguard = false\n"
    ))
    .await;
    let ledger = Ledger::default();
    let other = ledger.backend("v1").start().await;
    sign_in(&proxy, &other, "v1", "b").await;
    let mut running = Vec::new();
    for n in 0..3 {
        let backend = ledger.backend(&format!("v2-{n}")).start().await;
        sign_in(&proxy, &backend, "v2", "b").await;
        running.push(backend);
    }
    until_selected(&proxy, "v2", 3).await;
    let load = Load::start(proxy.address(), "/v2", 200).await;
    for n in 3..7 {
        let next = ledger.backend(&format!("v2-{n}")).start().await;
        sign_in(&proxy, &next, "v2", "b").await;
        until_selected(&proxy, "v2", 4).await;
        eventually("it is asked", async || next.requests(), |n| *n > 10).await;
        let leaves = running.remove(0);
        if n % 2 == 0 {
            // Signed out, and closed at once.
            proxy.deregister("cart", leaves.address()).await;
            leaves.close().await;
        } else {
            // Closed first: until it is signed out, requests that it refuses go elsewhere.
            let address = leaves.address();
            leaves.close().await;
            proxy
                .until_service("cart", "it was tried", |service| {
                    endpoints(service).any(|endpoint| endpoint["state"] == "doubted")
                })
                .await;
            proxy.deregister("cart", address).await;
        }
        until_selected(&proxy, "v2", 3).await;
        running.push(next);
    }
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("a subset under updates, drains and retries");
    assert_eq!(other.requests(), 0, "nobody without the tag was asked");
    assert!(proxy.service("cart").await["retries"].as_u64() > Some(0));
}
