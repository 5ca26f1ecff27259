//! Whatever becomes of an etcd, nobody who asks the proxy notices; once it is back it is followed
//! again within two seconds, and providers of ours stand there again within five.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use callboard::{
    config::{self, ClientTls, RegistryKind},
    instance::{Address, InstanceSet},
    register::{self, Check, Layout, Provider, Registrar},
    registry::{self, Registry},
};
use serde_json::Value;

use crate::support::{
    backend::Backend,
    etcd::Etcd,
    eventually,
    load::{Ledger, Load},
    proxy::{Proxy, endpoints},
    server::refusing,
    watched::{Watched, named},
};

/// Requests a second.
const RATE: u32 = 300;

fn kind(api: &str, addresses: Vec<String>) -> RegistryKind {
    let settings = config::Etcd {
        addresses,
        credentials: None,
        prefix: "/services/".to_owned(),
        tls: ClientTls::default(),
    };
    match api {
        "etcd" => RegistryKind::Etcd(settings),
        _ => RegistryKind::Etcd2(settings),
    }
}

fn opened(api: &str, addresses: Vec<String>) -> Arc<dyn Registry> {
    registry::open("main", &kind(api, addresses)).unwrap()
}

fn sign_in(api: &str, etcd: &Etcd, address: SocketAddr) -> Registrar {
    let provider = Provider {
        service: "cart".to_owned(),
        id: address.to_string(),
        address: Address::new(&address.ip().to_string(), address.port().into()).unwrap(),
        tls: false,
        tags: Vec::new(),
        meta: Default::default(),
        weight: 1,
        check: Check::Ttl(Duration::from_secs(10)),
        layout: Layout::GoKit,
    };
    let entry = register::entry("main", &kind(api, vec![etcd.url()]), provider);
    Registrar::start(entry.unwrap())
}

fn ids(set: &InstanceSet) -> Vec<&str> {
    set.instances.iter().map(|instance| &*instance.id).collect()
}

/// A proxy with a template route to an etcd, and providers that are signed in there.
struct Stage {
    api: &'static str,
    etcd: Etcd,
    proxy: Proxy,
    ledger: Ledger,
    providers: Vec<(Backend, Registrar)>,
    /// Whose entries were written by hand.
    others: Vec<Backend>,
}

impl Stage {
    async fn start(api: &'static str) -> Option<Self> {
        let etcd = Etcd::start().await?;
        let config = format!("[registry.{api}]\naddress = \"{}\"\n", etcd.url());
        let mut stage = Self {
            api,
            proxy: Proxy::start(&config).await,
            etcd,
            ledger: Ledger::default(),
            providers: Vec::new(),
            others: Vec::new(),
        };
        for id in ["a", "b", "c"] {
            let backend = stage.ledger.backend(id).start().await;
            let registrar = sign_in(api, &stage.etcd, backend.address());
            registrar.registered().await;
            stage.providers.push((backend, registrar));
        }
        stage.proxy.until_served("/cart/x").await;
        Some(stage)
    }

    /// How long it takes, once etcd has taken an entry, until who stands there is called; and
    /// until all providers stand there.
    async fn recovers(&mut self) -> (Duration, Duration) {
        let new = self.ledger.backend("new").start().await;
        let address = new.address().to_string();
        let key = format!("/services/cart/{address}");
        match self.api {
            "etcd" => self.etcd.put(&key, &address).await,
            _ => self.etcd.put2(&key, &address).await,
        }
        let back = Instant::now();
        let asked = async || new.requests();
        eventually("the new one serves", asked, |asked| *asked > 0).await;
        let followed = back.elapsed();
        self.others.push(new);
        let bare = opened(self.api, vec![self.etcd.url()]);
        let cart = Watched::start(bare.service(named("cart")));
        let addresses = self.providers.iter().map(|(backend, _)| backend.address());
        let addresses: Vec<_> = addresses.map(|address| address.to_string()).collect();
        cart.until("all are signed in", |set| {
            addresses
                .iter()
                .all(|address| ids(set).contains(&address.as_str()))
        })
        .await;
        (followed, back.elapsed())
    }

    /// One that leaves is not called any longer, and so fails nobody.
    async fn one_leaves(&mut self) {
        let (backend, registrar) = self.providers.remove(0);
        registrar.deregister().await.unwrap();
        let gone = backend.address().to_string();
        let serves = |service: &Value| {
            endpoints(service).any(|one| one["address"] == *gone && one["state"] == "serving")
        };
        let what = "one that has left is no longer picked";
        self.proxy
            .until_service("cart", what, |service| !serves(service))
            .await;
        backend.close().await;
    }
}

/// Whatever becomes of etcd under load, no request fails, and soon all is as it should be.
async fn comes_through(api: &'static str, what: &str, trouble: impl AsyncFn(&mut Etcd)) {
    let Some(mut stage) = Stage::start(api).await else {
        return;
    };
    let load = Load::start(stage.proxy.address(), "/cart", RATE).await;
    trouble(&mut stage.etcd).await;
    let (followed, signed_in) = stage.recovers().await;
    println!("{api}: {what}: followed after {followed:.0?}, signed in after {signed_in:.0?}");
    stage.one_leaves().await;
    let report = load.stop(&stage.ledger).await;
    report.assert_flawless_but_for_closes(&format!("{api}: {what}"));
}

async fn killed_and_back_with_its_data(api: &'static str) {
    comes_through(api, "killed, back with its data", async |etcd| {
        etcd.kill();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        etcd.restart().await;
    })
    .await;
}

async fn killed_and_back_empty(api: &'static str) {
    comes_through(api, "killed, back empty", async |etcd| {
        etcd.kill();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        etcd.restart_empty().await;
    })
    .await;
}

async fn stands_still(api: &'static str) {
    comes_through(api, "stood still", async |etcd| {
        etcd.pause();
        // Longer than a watch goes without a sign of life, and than a lease.
        tokio::time::sleep(Duration::from_secs(14)).await;
        etcd.resume();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_killed_and_comes_back_with_its_data() {
    killed_and_back_with_its_data("etcd").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_killed_and_comes_back_empty() {
    killed_and_back_empty("etcd").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_stands_still() {
    stands_still("etcd").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_comes_back_from_an_old_copy_of_its_folder() {
    let Some(mut stage) = Stage::start("etcd").await else {
        return;
    };
    stage.etcd.keep_copy().await;
    let load = Load::start(stage.proxy.address(), "/cart", RATE).await;
    let later = stage.ledger.backend("later").start().await;
    let address = later.address().to_string();
    let key = format!("/services/cart/{address}");
    stage.etcd.put(&key, &address).await;
    let asked = async || later.requests();
    eventually("it serves", asked, |asked| *asked > 0).await;
    stage.etcd.restart_from_copy().await;
    let is_held = |service: &Value| {
        endpoints(service).any(|one| one["address"] == *address && one["state"] == "held")
    };
    let what = "one that the copy does not have is held";
    stage.proxy.until_service("cart", what, is_held).await;
    let (followed, signed_in) = stage.recovers().await;
    println!("an old copy: followed after {followed:.0?}, signed in after {signed_in:.0?}");
    stage.one_leaves().await;
    let report = load.stop(&stage.ledger).await;
    report.assert_flawless_but_for_closes("etcd from an old copy of its folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_v2_is_killed_and_comes_back_with_its_data() {
    killed_and_back_with_its_data("etcd2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_v2_is_killed_and_comes_back_empty() {
    killed_and_back_empty("etcd2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_v2_stands_still() {
    stands_still("etcd2").await;
}

#[tokio::test]
async fn a_server_that_lost_its_data_between_a_read_and_a_watch_is_noticed() {
    let Some(mut etcd) = Etcd::start().await else {
        return;
    };
    for api in ["etcd", "etcd2"] {
        for number in 0..20 {
            match api {
                "etcd" => etcd.put("/other", "x").await,
                _ => etcd.put2(&format!("/other/{number}"), "x").await,
            }
        }
        let mut cart = opened(api, vec![etcd.url()]).service(named("cart"));
        cart.next().await.unwrap();
        etcd.restart_empty().await;
        match api {
            "etcd" => etcd.put("/services/cart/a", "10.0.0.1:80").await,
            _ => etcd.put2("/services/cart/a", "10.0.0.1:80").await,
        }
        // Whoever waits for what comes after the old read waits for ever.
        let told = eventually(
            "the new history",
            async || cart.next().await,
            |told| told.as_ref().is_ok_and(|set| ids(set) == ["a"]),
        );
        told.await.unwrap();
    }
}

#[tokio::test]
async fn one_member_is_enough_whichever_it_is() {
    let (Some(mut one), Some(other)) = (Etcd::start().await, Etcd::start().await) else {
        return;
    };
    // Two that hold the same stand for two members of one cluster.
    for etcd in [&one, &other] {
        etcd.put("/services/cart/a", "10.0.0.1:80").await;
        etcd.put2("/services/cart/a", "10.0.0.1:80").await;
    }
    let refuses = format!("http://{}", refusing());
    let mut all = Vec::new();
    for api in ["etcd", "etcd2"] {
        let members = vec![refuses.clone(), one.url(), other.url()];
        let cart = Watched::start(opened(api, members).service(named("cart")));
        cart.until("the first is dead", |set| ids(set) == ["a"])
            .await;
        assert_eq!(cart.status().failures, 0, "that is no failure");
        all.push((api, cart));
    }
    one.kill();
    for (api, cart) in &all {
        match *api {
            "etcd" => other.put("/services/cart/b", "10.0.0.1:80").await,
            _ => other.put2("/services/cart/b", "10.0.0.1:80").await,
        }
        cart.until("the last is followed", |set| ids(set) == ["a", "b"])
            .await;
    }
    let dead = vec![refuses.clone(), one.url()];
    for api in ["etcd", "etcd2"] {
        let error = Watched::start(opened(api, dead.clone()).service(named("cart")));
        let error = error.error().await;
        assert!(
            error.contains(&refuses) && error.contains(&one.url()),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_member_that_stands_still_is_left_for_another() {
    let (Some(one), Some(other)) = (Etcd::start().await, Etcd::start().await) else {
        return;
    };
    for etcd in [&one, &other] {
        etcd.put("/services/cart/a", "10.0.0.1:80").await;
    }
    let members = vec![one.url(), other.url()];
    let cart = Watched::start(opened("etcd", members).service(named("cart")));
    cart.until("the first", |set| ids(set) == ["a"]).await;
    one.pause();
    let since = Instant::now();
    other.put("/services/cart/b", "10.0.0.1:80").await;
    cart.until("the second", |set| ids(set) == ["a", "b"]).await;
    println!("left after {:.1?}", since.elapsed());
}
