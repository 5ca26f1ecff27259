//! A service that has nobody left in one datacenter is served from the next, and from the first
//! again once it has: two real agents, joined over the WAN.

use callboard::{
    config,
    instance::InstanceSet,
    registry::{Catalog, Registry as _},
};
use serde_json::{Value, json};

use crate::support::{
    consul::Consul,
    watched::{Watched, registry, settings},
};

/// Two datacenters that know each other.
async fn two() -> Option<[Consul; 2]> {
    let near = Consul::start_in("dc1").await?;
    let far = Consul::start_in("dc2").await?;
    near.join_wan(&far).await;
    Some([near, far])
}

/// Both, asked at the near one's agent.
fn both(near: &Consul) -> config::Consul {
    config::Consul {
        datacenters: vec!["dc1".to_owned(), "dc2".to_owned()],
        ..settings(&near.url())
    }
}

/// A provider whose check is what the test says it is, and starts as passing.
fn checked(id: &str) -> Value {
    json!({
        "ID": id, "Name": "cart", "Address": "127.0.0.1", "Port": 8000, "Tags": [id],
        "Check": {"TTL": "1h", "Status": "passing"},
    })
}

/// Whether these are the instances, all from this datacenter.
fn are(ids: &[&str], datacenter: &str) -> impl Fn(&InstanceSet) -> bool {
    let ids: Vec<_> = ids.iter().map(|id| (*id).to_owned()).collect();
    let datacenter = datacenter.to_owned();
    move |set| {
        let own = |id: &str| id.split_once('/').unwrap().1.to_owned();
        let found: Vec<_> = set.instances.iter().map(|i| own(&i.id)).collect();
        let here = |meta: &std::collections::BTreeMap<_, _>| {
            meta.get("consul-datacenter") == Some(&datacenter)
        };
        found == ids && set.instances.iter().all(|i| here(&i.meta))
    }
}

#[tokio::test]
async fn the_next_datacenter_serves_while_the_one_before_has_nobody_healthy() {
    let Some([near, mut far]) = two().await else {
        return;
    };
    near.register(checked("n")).await;
    far.register(checked("f")).await;
    let cart = Watched::service(&both(&near), "cart");
    cart.until("the first", are(&["n"], "dc1")).await;

    for verdict in ["warn", "fail"] {
        let check = format!("/v1/agent/check/{verdict}/service:n");
        near.put(&check, json!({})).await;
        cart.until("the next", are(&["f"], "dc2")).await;
        near.put("/v1/agent/check/pass/service:n", json!({})).await;
        cart.until("the first again", are(&["n"], "dc1")).await;
    }
    near.deregister("n").await;
    cart.until("the next", are(&["f"], "dc2")).await;
    far.register(checked("g")).await;
    cart.until("it is watched", are(&["f", "g"], "dc2")).await;
    assert_eq!(cart.status().failures, 0);

    // It is gone without a word, of which the near agent says nothing to whoever waits.
    far.kill();
    near.register(checked("n")).await;
    cart.until("the first again", are(&["n"], "dc1")).await;
    near.deregister("n").await;
    cart.until("what the next said last", are(&["f", "g"], "dc2"))
        .await;
    let error = cart.error().await;
    assert!(error.contains("for service `cart` in dc2"), "{error}");
    near.register(checked("n")).await;
    cart.until("the first again", are(&["n"], "dc1")).await;
    cart.until_status("nothing is wrong with it", |status| status.healthy)
        .await;
}

#[tokio::test]
async fn a_datacenter_that_nobody_knows_leaves_the_others_and_is_named() {
    let Some(near) = Consul::start().await else {
        return;
    };
    near.register(checked("n")).await;
    let nowhere = config::Consul {
        datacenters: vec!["nowhere".to_owned(), "dc1".to_owned()],
        ..settings(&near.url())
    };
    let cart = Watched::service(&nowhere, "cart");
    let set = cart.until("the one there is", are(&["n"], "dc1")).await;
    let [skipped] = &set.skipped[..] else {
        panic!("{set:?}");
    };
    assert_eq!(skipped.id, "datacenter nowhere");
    let says =
        "for service `cart` in nowhere: No path to datacenter; check registry.main.datacenters";
    assert!(skipped.reason.ends_with(says), "{skipped:?}");
    near.register(checked("o")).await;
    cart.until("changes get through", are(&["n", "o"], "dc1"))
        .await;
}

#[tokio::test]
async fn the_catalog_is_what_all_datacenters_list() {
    let Some([near, far]) = two().await else {
        return;
    };
    near.register(checked("n")).await;
    let catalog = Watched::start(registry(&both(&near)).catalog().unwrap());
    let tags = |catalog: &Catalog, name: &str| catalog.get(name).cloned().unwrap_or_default();
    catalog
        .until("one", |catalog| tags(catalog, "cart") == ["n"])
        .await;
    far.register(checked("f")).await;
    far.register(json!({"Name": "shop", "Port": 80})).await;
    catalog
        .until("both", |catalog| {
            tags(catalog, "cart") == ["f", "n"] && catalog.contains_key("shop")
        })
        .await;
    near.deregister("n").await;
    catalog
        .until("the other's", |catalog| tags(catalog, "cart") == ["f"])
        .await;
}
