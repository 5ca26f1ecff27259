//! A split gives each service exactly its share, and a retry stays with the service that was chosen.

use futures_util::future::join_all;
use serde_json::json;

use super::sample;
use crate::support::{
    backend::Backend,
    eventually,
    load::{Ledger, Load},
    proxy::Proxy,
};

const SPLIT: &str = r#"
workers = 2
[[route]]
path = "/cart"
split = [{ service = "cart", weight = 95 }, { service = "cart-v2", weight = 5 }, { service = "off", weight = 0 }]
strip_prefix = true
"#;

/// So many requests over so many connections at once, all of which are answered well.
async fn ask(proxy: &Proxy, connections: usize, each: usize) {
    let clients = (0..connections).map(|_| async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for _ in 0..each {
            let answer = client.get(proxy.url("/cart/x")).send().await.unwrap();
            assert_eq!(answer.status(), 200);
        }
    });
    join_all(clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_requests_over_two_workers_each_service_gets_its_exact_share() {
    let [old, new] = [Backend::start("old").await, Backend::start("new").await];
    // Somebody whom connects do not reach: what was meant for it stays in its service.
    let gone = Backend::start("gone").await;
    let nowhere = gone.address();
    gone.close().await;
    let proxy = Proxy::start(&format!(
        "{SPLIT}\n[service.cart]\nendpoints = [\"{}\"]\n[service.cart-v2]\nendpoints = [\"{}\", \"{nowhere}\"]\n",
        old.address(),
        new.address()
    ))
    .await;
    ask(&proxy, 20, 50).await;
    assert_eq!((old.requests(), new.requests()), (950, 50));

    let shares = json!([
        { "service": "cart", "weight": 95, "requests": 950 },
        { "service": "cart-v2", "weight": 5, "requests": 50 },
        { "service": "off", "weight": 0, "requests": 0 },
    ]);
    let status = proxy.status().await;
    assert_eq!(status["routes"][0]["split"], shares);
    assert_eq!(status["routes"][0]["service"], json!(null));
    let name = "callboard_requests_split_total{route=\"/cart\",line=\"3\",service=\"cart-v2\"}";
    assert_eq!(sample(&proxy, name).await, Some(50));
    let retried = proxy.service("cart-v2").await["retries"].as_u64();
    assert!(retried > Some(0), "{retried:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_service_is_deployed_anew_and_no_request_is_lost() {
    let proxy = Proxy::start(&format!(
        "{}\n[service.cart]\nguard = false\n[service.cart-v2]\nguard = false\n",
        SPLIT.replace("95", "1").replace("weight = 5", "weight = 1")
    ))
    .await;
    let ledger = Ledger::default();
    let (old, new) = (
        ledger.backend("old").start().await,
        ledger.backend("new-1").start().await,
    );
    proxy.register("cart", old.address()).await;
    proxy.register("cart-v2", new.address()).await;
    proxy
        .until_states("cart", &[(old.address(), "serving")])
        .await;
    proxy
        .until_states("cart-v2", &[(new.address(), "serving")])
        .await;
    let load = Load::start(proxy.address(), "/cart", 200).await;
    let mut running = new;
    for n in 2..6 {
        let next = ledger.backend(&format!("new-{n}")).start().await;
        proxy.register("cart-v2", next.address()).await;
        let both = [(running.address(), "serving"), (next.address(), "serving")];
        proxy.until_states("cart-v2", &both).await;
        proxy.deregister("cart-v2", running.address()).await;
        running.close().await;
        running = next;
        eventually("it is asked", async || running.requests(), |n| *n > 15).await;
    }
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("a split with a deployment of one of its services");
    let status = proxy.status().await;
    let requests = |share: usize| status["routes"][0]["split"][share]["requests"].as_u64();
    assert!(requests(0).unwrap().abs_diff(requests(1).unwrap()) <= 1);
}
