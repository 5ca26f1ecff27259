//! `callboard register` with each registry's URL: whoever reads that registry reaches the provider,
//! and no longer when it has ended.

use nix::sys::signal::Signal;

use crate::support::{
    etcd::Etcd, eureka::Eureka, load::Ledger, proxy::Proxy, registered::Registered,
    zookeeper::ZooKeeper,
};

/// Registers a provider at `url` and reaches it through a proxy that has `[registry.main]` so.
async fn is_reached(url: &str, registry: &str) {
    let proxy = Proxy::start(&format!(
        "[[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n\
         [registry.main]\n{registry}\n[service.cart]\nguard = false\n"
    ))
    .await;
    let ledger = Ledger::default();
    let mut cart = Registered::serving(&["cart", "--registry", url, "--ttl", "3s"], &ledger);
    assert_eq!(proxy.until_served("/cart/7").await, "/7", "{}", cart.said());
    cart.send(Signal::SIGTERM);
    assert_eq!(cart.gone().await.code(), Some(128 + 15), "{}", cart.said());
    assert!(cart.said().contains("signed out"), "{}", cart.said());
    proxy.until_states("cart", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_etcd_by_either_api() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    let address = etcd.url();
    let bare = address.strip_prefix("http://").unwrap();
    for kind in ["etcd", "etcd2"] {
        let registry = format!("kind = \"{kind}\"\naddress = \"{address}\"");
        is_reached(&format!("{kind}://{bare}"), &registry).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_zookeeper() {
    let Some(zookeeper) = ZooKeeper::start().await else {
        return;
    };
    let address = zookeeper.address();
    let registry = format!("kind = \"zookeeper\"\naddress = \"{address}\"");
    is_reached(&format!("zookeeper://{address}"), &registry).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_eureka() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    let address = eureka.url();
    let bare = address.strip_prefix("http://").unwrap();
    let registry = format!("kind = \"eureka\"\naddress = \"{address}\"\npoll = \"300ms\"");
    is_reached(&format!("eureka://{bare}"), &registry).await;
}
