//! Who signs out in good order is called no longer, be it the last of its service, although its
//! process still runs; and who is ill, or of a datacenter that does not serve, is never held.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    consul::Consul,
    etcd::Etcd,
    eventually,
    proxy::{Proxy, endpoints, instance},
    zookeeper::{ZooKeeper, make},
};

/// For so long it is watched whether one that has signed out is called again.
const STRETCH: Duration = Duration::from_secs(2);

/// A proxy that reads this registry, where `cart` has one instance and another service has one,
/// too: `tell` signs one in, or out again.
async fn the_last_one_is_gone(registry: &str, tell: impl AsyncFn(&Proxy, &str, &Backend, bool)) {
    let proxy = Proxy::start(registry).await;
    let [cart, other] = [Backend::start("cart").await, Backend::start("other").await];
    tell(&proxy, "other", &other, true).await;
    // Whoever is back is called again, and may go again.
    for _ in 0..2 {
        tell(&proxy, "cart", &cart, true).await;
        proxy.until_served("/cart/x").await;
        tell(&proxy, "cart", &cart, false).await;
        let status = async || proxy.get("/cart/x").await.status();
        eventually("it is gone", status, |status| {
            *status == 503 || *status == 404
        })
        .await;
        // A stretch of the scenario: it stays gone.
        tokio::time::sleep(STRETCH).await;
        let asked = cart.requests();
        for _ in 0..20 {
            let status = proxy.get("/cart/x").await.status();
            let service = proxy.service("cart").await;
            assert!(
                status == 503 || status == 404,
                "{registry}: {status}, {service:#}"
            );
        }
        assert_eq!(cart.requests(), asked, "{registry}: called, and it is gone");
    }
    assert_eq!(proxy.until_served("/other/x").await, "other");
}

#[tokio::test]
async fn the_last_that_signs_out_of_consul_is_called_no_more() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let registry = format!("[registry.consul]\naddress = \"{}\"\n", consul.url());
    the_last_one_is_gone(&registry, async |_, name, backend, signs_in| {
        let address = backend.address();
        let id = instance(name, address);
        if !signs_in {
            return consul.deregister(&id).await;
        }
        let service = json!({
            "ID": id, "Name": name, "Address": address.ip(), "Port": address.port(),
        });
        consul.register(service).await;
    })
    .await;
}

#[tokio::test]
async fn the_last_that_signs_out_of_the_embedded_registry_is_called_no_more() {
    let registry = "[registry.embedded]\naddress = \"127.0.0.1:0\"\n";
    the_last_one_is_gone(
        registry,
        async |proxy, name, backend, signs_in| match signs_in {
            true => proxy.register(name, backend.address()).await,
            false => proxy.deregister(name, backend.address()).await,
        },
    )
    .await;
}

/// What its own API was told is an order, be it the last of all that it lists.
#[tokio::test]
async fn all_that_sign_out_of_the_embedded_registry_are_called_no_more_and_may_come_back() {
    let proxy = Proxy::start("[registry.embedded]\naddress = \"127.0.0.1:0\"\n").await;
    let [a, b, c] = ["a", "b", "c"].map(Backend::start);
    let (a, b, c) = (a.await, b.await, c.await);
    for all in [&[&a][..], &[&a, &b, &c]] {
        for backend in all {
            proxy.register("cart", backend.address()).await;
        }
        proxy.until_served("/cart/x").await;
        let serving: Vec<_> = all.iter().map(|one| (one.address(), "serving")).collect();
        proxy.until_states("cart", &serving).await;
        for backend in all {
            proxy.deregister("cart", backend.address()).await;
        }
        let are_gone = |service: &Value| endpoints(service).all(|one| one["state"] == "draining");
        proxy.until_service("cart", "they are gone", are_gone).await;
        let asked = || [&a, &b, &c].map(|one| one.requests());
        let before = asked();
        for _ in 0..20 {
            let status = proxy.get("/cart/x").await.status();
            assert!(status == 503 || status == 404, "{status}");
        }
        assert_eq!(asked(), before, "called, and they are gone");
    }
}

#[tokio::test]
async fn the_last_that_signs_out_of_etcd_is_called_no_more() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    for api in ["etcd", "etcd2"] {
        let registry = format!("[registry.{api}]\naddress = \"{}\"\n", etcd.url());
        the_last_one_is_gone(&registry, async |_, name, backend, signs_in| {
            let address = backend.address().to_string();
            let key = format!("/services/{name}/a");
            match (api, signs_in) {
                ("etcd", true) => etcd.put(&key, &address).await,
                ("etcd", false) => etcd.delete(&key).await,
                (_, true) => etcd.put2(&key, &address).await,
                (_, false) => etcd.change2(Method::DELETE, &key, &[]).await,
            }
        })
        .await;
    }
}

#[tokio::test]
async fn the_last_that_signs_out_of_zookeeper_is_called_no_more() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    let registry = format!("[registry.zookeeper]\naddress = \"{}\"\n", server.address());
    the_last_one_is_gone(&registry, async |_, name, backend, signs_in| {
        let node = format!("/services/{name}/a");
        match signs_in {
            true => make(&client, &node, backend.address().to_string().as_bytes()).await,
            false => client.delete(&node, None).await.unwrap(),
        }
    })
    .await;
}

/// An instance in a datacenter, with a check that the test turns.
async fn sign_in(consul: &Consul, backend: &Backend) {
    let address = backend.address();
    consul
        .register(json!({
            "ID": backend.id(), "Name": "cart", "Address": address.ip(), "Port": address.port(),
            "Check": {"TTL": "1h", "Status": "passing"},
        }))
        .await;
}

async fn turn(consul: &Consul, backend: &Backend, verdict: &str) {
    let path = format!("/v1/agent/check/{verdict}/service:{}", backend.id());
    consul.put(&path, json!({})).await;
}

async fn maintain(consul: &Consul, backend: &Backend, enable: bool) {
    let id = backend.id();
    let path = format!("/v1/agent/service/maintenance/{id}?enable={enable}");
    consul.put(&path, json!({})).await;
}

/// Waits until just these serve, and nobody is held; then nobody else is called.
async fn serve_alone(proxy: &Proxy, serving: &[&Backend], others: &[&Backend]) {
    let what = format!(
        "{:?} serve",
        serving.iter().map(|one| one.id()).collect::<Vec<_>>()
    );
    let serves = |service: &Value| {
        let states = endpoints(service).filter(|one| one["state"] == "serving");
        states.count() == serving.len()
            && serving.iter().all(|backend| {
                endpoints(service).any(|one| {
                    one["address"] == backend.address().to_string() && one["state"] == "serving"
                })
            })
    };
    let service = proxy.until_service("cart", &what, serves).await;
    assert!(
        endpoints(&service).all(|one| one["state"] != "held"),
        "{what}: {service:#}"
    );
    let asked: Vec<_> = others.iter().map(|one| one.requests()).collect();
    for _ in 0..30 {
        assert_eq!(proxy.get("/cart").await.status(), 200, "{what}");
    }
    let now: Vec<_> = others.iter().map(|one| one.requests()).collect();
    assert_eq!(now, asked, "{what}");
}

#[tokio::test]
async fn who_is_ill_in_a_datacenter_is_not_held_when_the_next_serves() {
    let (Some(near), Some(far)) = (Consul::start_in("dc1").await, Consul::start_in("dc2").await)
    else {
        return;
    };
    near.join_wan(&far).await;
    let [a, b, c] = [
        Backend::start("a").await,
        Backend::start("b").await,
        Backend::start("c").await,
    ];
    sign_in(&near, &a).await;
    sign_in(&far, &c).await;
    let proxy = Proxy::start(&format!(
        "[[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n\
         [registry.consul]\naddress = \"{}\"\ndatacenters = [\"dc1\", \"dc2\"]\n",
        near.url()
    ))
    .await;
    serve_alone(&proxy, &[&a], &[&c]).await;
    // The only one, into maintenance and back.
    maintain(&near, &a, true).await;
    serve_alone(&proxy, &[&c], &[&a]).await;
    maintain(&near, &a, false).await;
    serve_alone(&proxy, &[&a], &[&c]).await;
    // Two, whose checks fail one after the other.
    sign_in(&near, &b).await;
    serve_alone(&proxy, &[&a, &b], &[&c]).await;
    for backend in [&a, &b] {
        turn(&near, backend, "fail").await;
    }
    serve_alone(&proxy, &[&c], &[&a, &b]).await;
    // Nobody is well anywhere: then nobody is called.
    turn(&far, &c, "fail").await;
    let none = |service: &Value| {
        endpoints(service).all(|one| one["state"] == "unhealthy" || one["state"] == "draining")
    };
    proxy.until_service("cart", "nobody is well", none).await;
    turn(&near, &a, "pass").await;
    serve_alone(&proxy, &[&a], &[&b, &c]).await;
    // The only one that is well signs out.
    turn(&far, &c, "pass").await;
    near.deregister("a").await;
    serve_alone(&proxy, &[&c], &[&a, &b]).await;
}
