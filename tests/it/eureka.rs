//! What a real Eureka says is what a watcher publishes, what our own entries say it says again,
//! and whatever becomes of it no request fails.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use callboard::{
    config::{self, CalledAt, ClientTls, NamedBy, RegistryKind},
    instance::{Address, Instance, InstanceSet},
    register::{self, Check, Layout, Provider, Registrar, SignedIn},
    registry::{BuildError, Catalog, Registry, ServiceQuery, eureka},
};
use http::Method;
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    eureka::Eureka,
    eventually,
    gokit::GoKit,
    load::{Ledger, Load},
    proxy::Proxy,
    watched::{Watched, named},
};

/// A registry with nothing but an address and a short interval.
pub(crate) fn settings(address: &str) -> config::Eureka {
    config::Eureka {
        addresses: vec![address.to_owned()],
        poll: Duration::from_millis(200),
        by: NamedBy::Application,
        host: CalledAt::Address,
        zones: Vec::new(),
        login: None,
        delta: true,
        tls: ClientTls::default(),
    }
}

pub(crate) fn registry(settings: &config::Eureka) -> eureka::Eureka {
    eureka::Eureka::new("main", settings).unwrap()
}

pub(crate) fn provider(service: &str, id: &str, address: SocketAddr) -> Provider {
    Provider {
        service: service.to_owned(),
        id: id.to_owned(),
        address: Address::new(&address.ip().to_string(), address.port().into()).unwrap(),
        tls: false,
        tags: Vec::new(),
        meta: BTreeMap::new(),
        weight: 1,
        check: Check::Ttl(Duration::from_secs(3)),
        layout: Layout::GoKit,
    }
}

pub(crate) fn ids(set: &InstanceSet) -> Vec<&str> {
    set.instances.iter().map(|instance| &*instance.id).collect()
}

fn healthy(set: &InstanceSet) -> Vec<&str> {
    let healthy = set.instances.iter().filter(|instance| instance.healthy);
    healthy.map(|instance| &*instance.id).collect()
}

fn service(settings: &config::Eureka, name: &str) -> Watched<InstanceSet> {
    Watched::start(registry(settings).service(named(name)))
}

#[tokio::test]
async fn go_kits_registrar_is_discovered_and_leaves() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    let found = service(&settings(&eureka.url()), "gokit-cart");
    found
        .until("nobody yet", |set| set.instances.is_empty())
        .await;
    let Some(mut gokit) =
        GoKit::sign_in(&["eureka", &eureka.url(), "gokit-cart", "127.0.0.1", "8001"])
    else {
        return;
    };
    let set = found
        .until("it is there", |set| set.instances.len() == 1)
        .await;
    let Instance {
        id,
        address,
        healthy,
        tls,
        ..
    } = &*set.instances[0];
    assert_eq!((&**id, *healthy, *tls), ("127.0.0.1", true, false));
    assert_eq!(address.to_string(), "127.0.0.1:8001");
    gokit.leave();
    found
        .until("it is gone", |set| set.instances.is_empty())
        .await;
    let status = found.status();
    assert!(status.healthy && status.failures == 0, "{status:?}");
}

#[tokio::test]
async fn a_set_follows_registrations_statuses_and_deregistrations() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    let cart = service(&settings(&eureka.url()), "Follow-Cart");
    eureka.register("follow-cart", "a:1", 8001, json!({})).await;
    cart.until("a is there", |set| healthy(set) == ["a:1"])
        .await;
    let more = json!({
        "metadata": {"zone": "west", "weight": "7", "tags": "v2,blue", "my_key": "v"},
        "securePort": {"$": 8443, "@enabled": "true"},
        "port": {"$": 8002, "@enabled": "false"},
        "vipAddress": "follow-vip",
    });
    eureka.register("follow-cart", "b", 8002, more).await;
    let set = cart
        .until("b is there", |set| healthy(set) == ["a:1", "b"])
        .await;
    let b = &set.instances[1];
    assert_eq!(
        (b.address.to_string().as_str(), b.tls),
        ("127.0.0.1:8443", true)
    );
    assert_eq!((b.weight, b.tags.join(" ")), (7, "v2 blue".to_owned()));
    for (key, value) in [
        ("zone", "west"),
        ("my_key", "v"),
        ("eureka-vip-address", "follow-vip"),
        ("eureka-host-name", "localhost"),
        ("eureka-data-center", "MyOwn"),
    ] {
        assert_eq!(b.meta[key], value);
    }
    assert!(!set.instances[0].meta.contains_key("@class"));

    let status = "/apps/follow-cart/a:1/status";
    for value in ["OUT_OF_SERVICE", "DOWN"] {
        let path = format!("{status}?value={value}");
        eureka.tell(Method::PUT, &path, Value::Null).await;
        let set = cart.until(value, |set| healthy(set) == ["b"]).await;
        assert_eq!(ids(&set), ["a:1", "b"], "and still known");
        let path = format!("{status}?value=UP");
        eureka.tell(Method::DELETE, &path, Value::Null).await;
        cart.until("a is back", |set| healthy(set) == ["a:1", "b"])
            .await;
    }
    for (id, left) in [("a:1", vec!["b"]), ("b", vec![])] {
        let path = format!("/apps/FOLLOW-CART/{id}");
        eureka.tell(Method::DELETE, &path, Value::Null).await;
        cart.until("it is gone", |set| ids(set) == left).await;
    }
    let status = cart.status();
    assert!(status.healthy && status.failures == 0, "{status:?}");
}

#[tokio::test]
async fn what_cannot_be_called_is_skipped_and_named_and_the_others_stay() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    let port = |port: i64| json!({"port": {"$": port, "@enabled": "true"}});
    for (id, more) in [
        ("good", json!({})),
        ("no-port", port(0)),
        ("too-large", port(80810)),
        ("url", json!({"ipAddr": "http://h", "hostName": "http://h"})),
        (
            "name",
            json!({"ipAddr": "a.example", "hostName": "b.example"}),
        ),
        ("six", json!({"ipAddr": "::1"})),
        ("odd %?#;", json!({})),
    ] {
        eureka.register("skip-cart", id, 8001, more).await;
    }
    let cart = service(&settings(&eureka.url()), "skip-cart");
    let set = cart
        .until("all are read", |set| {
            set.skipped.len() == 3 && set.instances.len() == 4
        })
        .await;
    let addresses = set
        .instances
        .iter()
        .map(|i| (&*i.id, i.address.to_string()));
    assert_eq!(
        addresses.collect::<Vec<_>>(),
        [
            ("good", "127.0.0.1:8001".to_owned()),
            ("name", "b.example:8001".to_owned()),
            ("odd %?#;", "127.0.0.1:8001".to_owned()),
            ("six", "[::1]:8001".to_owned()),
        ]
    );
    let skipped = set.skipped.iter().map(|skipped| &*skipped.id);
    assert_eq!(skipped.collect::<Vec<_>>(), ["no-port", "too-large", "url"]);
}

#[tokio::test]
async fn names_are_applications_or_vip_addresses_and_zones_and_tags_choose() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    for (app, id, vips, zone) in [
        ("choose-a", "1", "choose-vip,choose-other", "east"),
        ("choose-b", "1", "Choose-VIP", "west"),
    ] {
        let metadata = json!({"zone": zone, "tags": zone});
        let more = json!({"vipAddress": vips, "metadata": metadata});
        eureka.register(app, id, 8001, more).await;
    }
    let by_vip = config::Eureka {
        by: NamedBy::Vip,
        ..settings(&eureka.url())
    };
    let both = |set: &InstanceSet| ids(set) == ["choose-a/1", "choose-b/1"];
    let vip = service(&by_vip, "choose-vip");
    vip.until("both applications", both).await;
    let other = service(&by_vip, "choose-other");
    other
        .until("the one", |set| ids(set) == ["choose-a/1"])
        .await;
    let tagged = ServiceQuery {
        tags: vec!["WEST".to_owned()],
        ..named("choose-vip")
    };
    let tagged = Watched::start(registry(&by_vip).service(tagged));
    tagged
        .until("the tagged one", |set| ids(set) == ["choose-b/1"])
        .await;

    let west_first = config::Eureka {
        zones: vec!["west".to_owned(), "east".to_owned()],
        ..by_vip.clone()
    };
    let vip = service(&west_first, "choose-vip");
    vip.until("the west", |set| ids(set) == ["choose-b/1"])
        .await;
    let path = "/apps/choose-b/1/status?value=DOWN";
    eureka.tell(Method::PUT, path, Value::Null).await;
    vip.until("the east", |set| ids(set) == ["choose-a/1"])
        .await;
    let path = "/apps/choose-b/1/status?value=UP";
    eureka.tell(Method::DELETE, path, Value::Null).await;
    vip.until("the west again", |set| ids(set) == ["choose-b/1"])
        .await;

    let own = |catalog: &Catalog| -> Vec<String> {
        let names = catalog.keys().map(ToString::to_string);
        names.filter(|name| name.starts_with("choose")).collect()
    };
    let catalog = Watched::start(registry(&by_vip).catalog().unwrap());
    let vips = catalog
        .until("VIP addresses", |names| own(names).len() == 2)
        .await;
    assert_eq!(own(&vips), ["choose-other", "choose-vip"]);
    assert_eq!(vips["choose-vip"], ["east", "west"]);
    let catalog = Watched::start(registry(&settings(&eureka.url())).catalog().unwrap());
    let apps = catalog
        .until("applications", |names| own(names).len() == 2)
        .await;
    assert_eq!(own(&apps), ["choose-a", "choose-b"]);
}

#[tokio::test]
async fn a_change_is_published_within_the_interval_of_the_servers_own_answer() {
    const SAMPLES: usize = 7;
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    let poll = Duration::from_millis(300);
    let settings = config::Eureka {
        poll,
        ..settings(&eureka.url())
    };
    let cart = service(&settings, "fast-cart");
    cart.until("nobody yet", |set| set.instances.is_empty())
        .await;
    let mut late = Vec::new();
    for sample in 1..=SAMPLES {
        let id = format!("i{sample}");
        eureka.register("fast-cart", &id, 8001, json!({})).await;
        let bare = async {
            let lists = |apps: &Value| apps.to_string().contains(&format!("\"{id}\""));
            eventually(
                "the server says so",
                async || eureka.get("/apps").await,
                lists,
            )
            .await;
            Instant::now()
        };
        let ours = async {
            cart.until("published", |set| set.instances.len() == sample)
                .await;
            Instant::now()
        };
        let (bare, ours) = tokio::join!(bare, ours);
        late.push(ours.saturating_duration_since(bare));
    }
    late.sort();
    println!("later than the server's own answer, of a poll each {poll:?}: {late:?}");
    assert!(late[SAMPLES / 2] <= poll * 3, "{late:?}");
}

#[tokio::test]
async fn our_own_entry_is_kept_and_found_and_taken_away() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    let own = settings(&eureka.url());
    let provider = Provider {
        tags: vec!["v2".to_owned(), "blue".to_owned()],
        meta: BTreeMap::from([("zone".to_owned(), "east".to_owned())]),
        weight: 9,
        tls: true,
        ..provider("own-cart", "own 1;x", ([127, 0, 0, 1], 8001).into())
    };
    let kind = RegistryKind::Eureka(own.clone());
    let registrar = Registrar::start(register::entry("main", &kind, provider).unwrap());
    registrar.registered().await;
    let cart = service(&own, "own-cart");
    let set = cart
        .until("it is there", |set| healthy(set) == ["own 1;x"])
        .await;
    let instance = &set.instances[0];
    assert_eq!(instance.address.to_string(), "127.0.0.1:8001");
    assert_eq!((instance.tls, instance.weight), (true, 9));
    assert_eq!(instance.tags, ["v2", "blue"]);
    assert_eq!(instance.meta["zone"], "east");

    let path = "/apps/own-cart/own%201%3Bx";
    let lease = async || eureka.get(path).await["instance"]["leaseInfo"].clone();
    let first = lease().await;
    assert_eq!(first["durationInSecs"], 3);
    assert_eq!(first["renewalIntervalInSecs"], 1);
    let renewed = |lease: &Value| lease["lastRenewalTimestamp"] != first["lastRenewalTimestamp"];
    eventually("a heartbeat came", lease, renewed).await;

    registrar.deregister().await.unwrap();
    assert_eq!(eureka.get(path).await, Value::Null);
    cart.until("it is gone", |set| set.instances.is_empty())
        .await;
}

#[tokio::test]
async fn an_entry_that_the_server_has_lost_is_written_again() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    let kind = RegistryKind::Eureka(settings(&eureka.url()));
    let provider = provider("lost-cart", "a", ([127, 0, 0, 1], 8001).into());
    let registrar = Registrar::start(register::entry("main", &kind, provider).unwrap());
    registrar.registered().await;
    let path = "/apps/lost-cart/a";
    eureka.tell(Method::DELETE, path, Value::Null).await;
    let mut standing = registrar.standing();
    let lost = SignedIn::Out(Some(format!(
        "main at {} no longer knows `a` in `lost-cart`",
        eureka.url()
    )));
    standing
        .wait_for(|standing| *standing == lost)
        .await
        .unwrap();
    registrar.registered().await;
    assert_eq!(eureka.get(path).await["instance"]["status"], "UP");
    // Somebody else may take it away first.
    eureka.tell(Method::DELETE, path, Value::Null).await;
    registrar.deregister().await.unwrap();
}

#[test]
fn what_eureka_cannot_do_for_a_provider_is_refused_by_name() {
    let kind = RegistryKind::Eureka(settings("http://127.0.0.1:1/eureka"));
    let good = provider("cart", "a", ([127, 0, 0, 1], 8001).into());
    let interval = Duration::from_secs(1);
    let url = "http://127.0.0.1:8001/".to_owned();
    for (wrong, says) in [
        (
            Provider {
                check: Check::Http { url, interval },
                ..good.clone()
            },
            "no HTTP check; take a TTL",
        ),
        (
            Provider {
                check: Check::Tcp { interval },
                ..good.clone()
            },
            "no TCP check; take a TTL",
        ),
        (
            Provider {
                layout: Layout::Curator,
                ..good.clone()
            },
            "no layout `curator`",
        ),
        (
            Provider {
                id: "a/b".to_owned(),
                ..good.clone()
            },
            "cannot find the id `a/b` again",
        ),
        (
            Provider {
                service: String::new(),
                ..good.clone()
            },
            "cannot find the service `` again",
        ),
        (
            Provider {
                meta: BTreeMap::from([("a:b".to_owned(), String::new())]),
                ..good.clone()
            },
            "cannot hold the metadata's key `a:b`",
        ),
        (
            Provider {
                tags: vec!["a,b".to_owned()],
                ..good.clone()
            },
            "the tag `a,b` has a comma",
        ),
    ] {
        match register::entry("main", &kind, wrong).err() {
            Some(error @ BuildError::Unsuited { .. }) => {
                let error = error.to_string();
                assert!(
                    error.starts_with("registry.main: ") && error.contains(says),
                    "{error}"
                );
            }
            other => panic!("{says}: {other:?}"),
        }
    }
    assert!(register::entry("main", &kind, good).is_ok());
}

/// A backend that keeps itself signed in.
struct Signed {
    backend: Backend,
    registrar: Registrar,
}

/// A proxy, its Eureka, and the backends' common ledger.
struct Stage {
    eureka: Eureka,
    proxy: Proxy,
    ledger: Ledger,
}

impl Stage {
    async fn start() -> Option<Self> {
        let eureka = Eureka::start().await?;
        let config = format!(
            "[[route]]\npath = \"/{{service}}\"\nservice = \"{{service}}\"\nstrip_prefix = true\n\
             [registry.eureka]\naddress = \"{}\"\npoll = \"500ms\"\n",
            eureka.url()
        );
        Some(Self {
            proxy: Proxy::start(&config).await,
            eureka,
            ledger: Ledger::default(),
        })
    }

    async fn open(&self, id: &str) -> Signed {
        let backend = self.ledger.backend(id).start().await;
        let kind = RegistryKind::Eureka(settings(&self.eureka.url()));
        let provider = provider("cart", id, backend.address());
        let registrar = Registrar::start(register::entry("eureka", &kind, provider).unwrap());
        Signed { backend, registrar }
    }

    /// Waits until as many are listed, and says how long that took.
    async fn until_listed(&self, instances: usize) -> Duration {
        let began = Instant::now();
        let listed = async || {
            let app = self.eureka.get("/apps/cart").await;
            app["application"]["instance"]
                .as_array()
                .map_or(0, Vec::len)
        };
        eventually("all are listed", listed, |listed| *listed == instances).await;
        began.elapsed()
    }

    /// One that signs in serves soon, and one that signs out and closes fails nobody.
    async fn follows_again(&self, leaves: Signed) -> Signed {
        let new = self.open("new").await;
        let serves = async || new.backend.requests();
        eventually("the new one serves", serves, |requests| *requests > 0).await;
        leaves.registrar.deregister().await.unwrap();
        let left = leaves.backend.address().to_string();
        self.proxy
            .until_service("cart", "it is no longer called", |service| {
                !serving(service).contains(&left)
            })
            .await;
        leaves.backend.close().await;
        new
    }
}

fn serving(service: &Value) -> Vec<String> {
    let endpoints = service["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter(|endpoint| endpoint["state"] == "serving")
        .map(|endpoint| endpoint["address"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test]
async fn an_instance_that_only_its_name_leads_to_is_called_by_it_and_the_key_is_named() {
    let Some(eureka) = Eureka::shared().await else {
        return;
    };
    let backend = Backend::start("behind-a-port").await;
    let port = backend.address().port();
    // The backend listens at 127.0.0.1 only: this one is an address of an inner network.
    let inner = json!({"ipAddr": "127.0.0.77", "hostName": "localhost"});
    eureka.register("INNER", "inner", port, inner).await;
    let proxy = async |host: &str| {
        Proxy::start(&format!(
            "[registry.eureka]\naddress = \"{}\"\npoll = \"200ms\"\n{host}\n\
             [[route]]\nservice = \"inner\"\n",
            eureka.url()
        ))
        .await
    };
    let by_name = proxy("host = \"name\"").await;
    by_name.until_served("/").await;

    let by_address = proxy("").await;
    let status = async || by_address.get("/").await.status().as_u16();
    eventually("it is called by its address", status, |status| {
        *status == 502
    })
    .await;
    let hint = format!(
        "127.0.0.77:{port} takes no connection, and localhost:{port} does; if that is the same \
         instance, write registry.eureka: host = \"name\""
    );
    by_address
        .until_service("inner", "the key is named", |service| {
            service["hint"] == hint.as_str()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_paused_killed_and_back_empty_fails_no_request() {
    let Some(mut stage) = Stage::start().await else {
        return;
    };
    let mut signed = Vec::new();
    for id in ["a", "b", "c"] {
        signed.push(stage.open(id).await);
    }
    stage.proxy.until_served("/cart/x").await;
    let load = Load::start(stage.proxy.address(), "/cart", 100).await;

    stage.eureka.pause();
    tokio::time::sleep(Duration::from_secs(3)).await;
    stage.eureka.resume();
    let new = stage.follows_again(signed.remove(0)).await;
    signed.push(new);

    stage.eureka.kill();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(stage.eureka.run().await, "Eureka does not restart");
    let away = stage.until_listed(3).await;
    println!("signed in again {away:.1?} after the server's return");
    let new = stage.follows_again(signed.remove(0)).await;
    signed.push(new);

    let report = load.stop(&stage.ledger).await;
    report.assert_flawless_but_for_closes("Eureka paused, killed, and back empty");
}
