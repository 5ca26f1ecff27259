//! What stands in a real etcd is what a watcher publishes, by API v3 and by API v2, whoever wrote
//! it; and a provider of ours stands there as go-kit's would, for as long as it is there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use callboard::{
    config::{self, ClientTls, RegistryKind, Secret},
    instance::{Address, InstanceSet},
    register::{self, Check, Layout, Provider, Registrar, SignedIn},
    registry::{self, Catalog, Registry},
};
use http::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{
    authority::Authority,
    etcd::Etcd,
    eventually,
    gokit::GoKit,
    watched::{Watched, named},
};

/// Both versions of the API, as `kind` has them.
const KINDS: [&str; 2] = ["etcd", "etcd2"];

fn settings(url: &str) -> config::Etcd {
    config::Etcd {
        addresses: vec![url.to_owned()],
        credentials: None,
        prefix: "/services/".to_owned(),
        tls: ClientTls::default(),
    }
}

fn kind(kind: &str, settings: config::Etcd) -> RegistryKind {
    match kind {
        "etcd" => RegistryKind::Etcd(settings),
        _ => RegistryKind::Etcd2(settings),
    }
}

fn opened(api: &str, settings: &config::Etcd) -> Arc<dyn Registry> {
    registry::open("main", &kind(api, settings.clone())).unwrap()
}

fn watched(api: &str, settings: &config::Etcd, name: &str) -> Watched<InstanceSet> {
    Watched::start(opened(api, settings).service(named(name)))
}

async fn put(api: &str, etcd: &Etcd, key: &str, value: &str) {
    match api {
        "etcd" => etcd.put(key, value).await,
        _ => etcd.put2(key, value).await,
    }
}

async fn delete(api: &str, etcd: &Etcd, key: &str) {
    match api {
        "etcd" => etcd.delete(key).await,
        _ => etcd.change2(Method::DELETE, key, &[]).await,
    }
}

fn addresses(set: &InstanceSet) -> Vec<String> {
    let addresses = set.instances.iter().map(|one| one.address.to_string());
    addresses.collect()
}

fn ids(set: &InstanceSet) -> Vec<&str> {
    set.instances.iter().map(|instance| &*instance.id).collect()
}

fn root(password: &str) -> (tempfile::NamedTempFile, Option<(String, Secret)>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), password).unwrap();
    let secret = Secret::File(file.path().to_owned());
    (file, Some(("root".to_owned(), secret)))
}

#[tokio::test]
async fn who_signs_in_with_go_kit_is_found_and_leaves() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    for api in KINDS {
        let sign_in = |number, value| {
            let key = format!("/services/cart/{number}");
            GoKit::sign_in(&[api, &etcd.url(), &key, value])
        };
        let cart = watched(api, &settings(&etcd.url()), "cart");
        cart.until("nobody yet", |set| set.instances.is_empty())
            .await;
        let Some(mut one) = sign_in(1, "http://10.0.0.1:8080") else {
            return;
        };
        let two = sign_in(2, "10.0.0.2:8080").unwrap();
        let set = cart.until("both", |set| ids(set) == ["1", "2"]).await;
        assert_eq!(addresses(&set), ["10.0.0.1:8080", "10.0.0.2:8080"]);
        one.leave();
        cart.until("one has left", |set| ids(set) == ["2"]).await;
        drop(two);
        cart.until("the other has run out", |set| set.instances.is_empty())
            .await;
        assert_eq!(cart.status().failures, 0);
    }
}

#[tokio::test]
async fn every_form_of_a_value_is_understood_and_garbage_costs_itself_only() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    let naming = r#"{"Op":0,"Addr":"10.0.0.3:80","Metadata":{"weight":7,"zone":"a"}}"#;
    for api in KINDS {
        for (key, value) in [
            ("/services/cart/a", "10.0.0.1:80"),
            ("/services/cart/b", "https://h.example"),
            ("/services/cart/c", naming),
            ("/services/cart/d/deeper", "[::1]:80"),
            ("/services/cart/garbage", "half a thing"),
            ("/services/cart/empty", ""),
            ("/services/carts/x", "10.0.0.9:80"),
            ("/services/lone", "10.0.0.9:80"),
            ("/other/cart/x", "10.0.0.8:80"),
        ] {
            put(api, &etcd, key, value).await;
        }
        let plain = settings(&etcd.url());
        let cart = watched(api, &plain, "cart");
        let set = cart
            .until("all are read", |set| set.skipped.len() == 2)
            .await;
        assert_eq!(ids(&set), ["a", "b", "c", "d/deeper"]);
        assert_eq!(
            addresses(&set),
            ["10.0.0.1:80", "h.example:443", "10.0.0.3:80", "[::1]:80"]
        );
        let c = &set.instances[2];
        assert_eq!((c.weight, c.meta["zone"].as_str()), (7, "a"));
        assert!(set.instances[1].tls && !c.tls);
        let skipped: Vec<_> = set.skipped.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(skipped, ["empty", "garbage"]);
        put(api, &etcd, "/services/cart/garbage", "10.0.0.4:80").await;
        cart.until("it was mended", |set| set.instances.len() == 5)
            .await;

        let lone = watched(api, &plain, "lone");
        lone.until("a key is not its own instance", |set| {
            set.instances.is_empty()
        })
        .await;
        let other = watched(api, &plain, "/other/cart");
        other
            .until("a name that is a prefix", |set| ids(set) == ["x"])
            .await;
        let catalog = Watched::start(opened(api, &plain).catalog().unwrap());
        catalog
            .until("what has something below it", |names| {
                lists(names, &["cart", "carts"])
            })
            .await;
        for key in ["a", "b", "c", "d/deeper", "garbage", "empty"] {
            delete(api, &etcd, &format!("/services/cart/{key}")).await;
        }
        cart.until("all are gone", |set| *set == InstanceSet::default())
            .await;
        catalog
            .until("and the service", |names| {
                // By API v2 an empty directory stays; nobody is in it.
                lists(names, &["carts"])
            })
            .await;
        put(api, &etcd, "/services/new/a", "10.0.0.1:80").await;
        catalog
            .until("a new one", |names| lists(names, &["carts", "new"]))
            .await;
        for key in [
            "/services/carts/x",
            "/services/lone",
            "/services/new/a",
            "/other/cart/x",
        ] {
            delete(api, &etcd, key).await;
        }
        catalog
            .until("nothing is left", |names| names.is_empty())
            .await;
    }
}

fn lists(names: &Catalog, wanted: &[&str]) -> bool {
    names.keys().map(|name| &**name).eq(wanted.iter().copied())
}

#[tokio::test]
async fn a_prefix_may_be_anything_or_nothing() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    for api in KINDS {
        for (prefix, key) in [
            ("/discovery/eu/", "/discovery/eu/cart/a"),
            ("/", "/cart/a"),
            ("", if api == "etcd" { "cart/a" } else { "/cart/a" }),
        ] {
            put(api, &etcd, key, "10.0.0.1:80").await;
            let with = config::Etcd {
                prefix: prefix.to_owned(),
                ..settings(&etcd.url())
            };
            let cart = watched(api, &with, "cart");
            cart.until(prefix, |set| ids(set) == ["a"]).await;
            let catalog = Watched::start(opened(api, &with).catalog().unwrap());
            catalog
                .until(prefix, |names| names.contains_key("cart"))
                .await;
            delete(api, &etcd, key).await;
            cart.until(prefix, |set| set.instances.is_empty()).await;
        }
    }
}

#[tokio::test]
async fn tags_are_refused_by_name_since_no_entry_has_any() {
    for api in KINDS {
        let query = callboard::registry::ServiceQuery {
            tags: vec!["v2".to_owned()],
            ..named("cart")
        };
        let none = settings("http://127.0.0.1:1");
        let error = Watched::start(opened(api, &none).service(query))
            .error()
            .await;
        assert!(
            error.contains("leave `tags` out for service `cart`"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn all_watches_of_a_registry_share_one_stream() {
    const SERVICES: usize = 200;
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    let registry = opened("etcd", &settings(&etcd.url()));
    let watch = |number| Watched::start(registry.service(named(&format!("s{number}"))));
    let mut all: Vec<_> = (0..SERVICES).map(watch).collect();
    for one in &all {
        one.until("read", |set| set.instances.is_empty()).await;
    }
    let figures = async || {
        (
            etcd.figure("etcd_debugging_mvcc_watch_stream_total").await,
            etcd.figure("etcd_debugging_mvcc_watcher_total").await,
        )
    };
    eventually("one stream", figures, |now| *now == (1.0, SERVICES as f64)).await;
    etcd.put("/services/s7/a", "10.0.0.1:80").await;
    all[7].until("a change", |set| ids(set) == ["a"]).await;
    all.truncate(5);
    eventually("the others ended", figures, |now| *now == (1.0, 5.0)).await;
}

#[tokio::test]
async fn history_that_is_gone_is_no_error_but_read_again() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    let mut cart = opened("etcd", &settings(&etcd.url())).service(named("cart"));
    assert_eq!(cart.next().await.unwrap(), InstanceSet::default());
    for id in ["a", "b"] {
        etcd.put(&format!("/services/cart/{id}"), "10.0.0.1:80")
            .await;
    }
    etcd.delete("/services/cart/b").await;
    etcd.compact().await;
    assert_eq!(ids(&cart.next().await.unwrap()), ["a"]);

    let mut cart = opened("etcd2", &settings(&etcd.url())).service(named("cart"));
    assert_eq!(cart.next().await.unwrap(), InstanceSet::default());
    etcd.put2("/services/cart/a", "10.0.0.1:80").await;
    // More than the thousand that are kept.
    for _ in 0..1_010 {
        etcd.put2("/other", "x").await;
    }
    assert_eq!(ids(&cart.next().await.unwrap()), ["a"]);
}

#[tokio::test]
async fn heartbeats_of_others_hold_up_no_change() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    for api in KINDS {
        put(api, &etcd, "/services/cart/a", "10.0.0.1:80").await;
        let cart = watched(api, &settings(&etcd.url()), "cart");
        cart.until("read", |set| ids(set) == ["a"]).await;
        for _ in 0..300 {
            put(api, &etcd, "/services/cart/a", "10.0.0.1:80").await;
        }
        let since = Instant::now();
        put(api, &etcd, "/services/cart/b", "10.0.0.2:80").await;
        cart.until("a change", |set| ids(set) == ["a", "b"]).await;
        // At the pace of a watcher the heartbeats alone would take twelve seconds.
        assert!(since.elapsed() < Duration::from_secs(10), "{api}");
        assert_eq!(cart.published().len(), 2, "{api}: nothing else has changed");
    }
}

#[tokio::test]
async fn what_becomes_of_whole_directories_of_v2_is_followed() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    let cart = watched("etcd2", &settings(&etcd.url()), "cart");
    cart.until("an absent directory", |set| set.instances.is_empty())
        .await;
    for id in ["a", "b", "deep/c"] {
        etcd.put2(&format!("/services/cart/{id}"), "10.0.0.1:80")
            .await;
    }
    cart.until("three", |set| ids(set) == ["a", "b", "deep/c"])
        .await;
    let remove = |key| etcd.change2(Method::DELETE, key, &[]);
    remove("/services/cart/deep?recursive=true").await;
    cart.until("one inside is gone", |set| ids(set) == ["a", "b"])
        .await;
    remove("/services?recursive=true").await;
    cart.until("one around is gone", |set| set.instances.is_empty())
        .await;
    let fleeting = [("dir", "true"), ("ttl", "2")];
    etcd.change2(Method::PUT, "/services/cart", &fleeting).await;
    etcd.put2("/services/cart/a", "10.0.0.1:80").await;
    cart.until("back", |set| ids(set) == ["a"]).await;
    cart.until("it has run out", |set| set.instances.is_empty())
        .await;
    assert_eq!(cart.status().failures, 0);
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_and_does_not_hammer() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    etcd.put("/services/cart/a", "10.0.0.1:80").await;
    etcd.lock().await;
    let (file, credentials) = root("wrong");
    let wrong = config::Etcd {
        credentials,
        ..settings(&etcd.url())
    };
    let since = Instant::now();
    let cart = watched("etcd", &wrong, "cart");
    let main = format!("main at {}", etcd.url());
    assert_eq!(
        cart.error().await,
        format!(
            "{main} answered InvalidArgument for service `cart`: etcdserver: authentication failed, invalid user ID or password; check registry.main.password"
        )
    );
    let nobody = watched("etcd", &settings(&etcd.url()), "cart");
    assert_eq!(
        nobody.error().await,
        format!(
            "{main} answered InvalidArgument for service `cart`: etcdserver: user name is empty; check registry.main.user"
        )
    );
    let reader = config::Etcd {
        credentials: Some(("reader".to_owned(), Secret::File(file.path().to_owned()))),
        ..settings(&etcd.url())
    };
    tokio::time::sleep(Duration::from_secs(4)).await;
    for status in [cart.status(), nobody.status()] {
        assert!(status.failures <= once_in_five(since), "{status:?}");
    }
    assert_eq!(cart.published(), [], "an error is never an empty set");

    std::fs::write(file.path(), "secret\n").unwrap();
    cart.until("the right one, read anew", |set| ids(set) == ["a"])
        .await;
    let allowed = watched("etcd", &reader, "cart");
    allowed
        .until("a reader reads", |set| ids(set) == ["a"])
        .await;
    let denied = watched("etcd", &reader, "/secrets").error().await;
    assert_eq!(
        denied,
        format!(
            "{main} answered PermissionDenied for service `/secrets`: etcdserver: permission denied; check registry.main.user"
        )
    );
}

/// How often one may have tried since then who is not to hammer. Everyone else tries five times in
/// four seconds.
fn once_in_five(since: Instant) -> u64 {
    1 + since.elapsed().as_secs() / 5
}

#[tokio::test]
async fn a_token_that_runs_out_is_renewed_without_a_word() {
    let Some(etcd) = Etcd::start_with("http", &["--auth-token-ttl", "1"]).await else {
        return;
    };
    etcd.put("/services/cart/a", "10.0.0.1:80").await;
    etcd.lock().await;
    let (_file, credentials) = root("secret");
    let registry = opened(
        "etcd",
        &config::Etcd {
            credentials,
            ..settings(&etcd.url())
        },
    );
    let cart = Watched::start(registry.service(named("cart")));
    cart.until("read", |set| ids(set) == ["a"]).await;
    // The token is good for a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let shop = Watched::start(registry.service(named("shop")));
    shop.until("a new watch", |set| set.instances.is_empty())
        .await;
    let provider = provider("shop", 8080, Layout::GoKit, 15);
    let (_file, credentials) = root("secret");
    let ours = config::Etcd {
        credentials,
        ..settings(&etcd.url())
    };
    let entry = register::entry("main", &kind("etcd", ours), provider).unwrap();
    let registrar = Registrar::start(entry);
    shop.until("a change", |set| ids(set) == ["127.0.0.1:8080"])
        .await;
    // Beyond the lease's time, kept by beats of which each needs another token.
    let mut standing = registrar.standing();
    let lost = standing.wait_for(|standing| *standing != SignedIn::In);
    let lost = tokio::time::timeout(Duration::from_secs(16), lost).await;
    assert!(lost.is_err(), "{:?}", registrar.standing());
    registrar.deregister().await.unwrap();
    shop.until("it left", |set| set.instances.is_empty()).await;
    for status in [cart.status(), shop.status()] {
        assert_eq!(status.failures, 0, "{status:?}");
    }
}

#[tokio::test]
async fn v2_asks_for_a_user_and_a_password_too() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    etcd.put2("/services/cart/a", "10.0.0.1:80").await;
    let http = reqwest::Client::new();
    let root_user = json!({"user": "root", "password": "secret", "roles": ["root"]});
    for (path, body) in [
        ("/v2/auth/users/root", root_user),
        ("/v2/auth/enable", json!({})),
    ] {
        let answer = http
            .put(etcd.url() + path)
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
    }
    // Whoever says nothing is a guest, who may do all by default.
    let guest = http.delete(etcd.url() + "/v2/auth/roles/guest");
    let guest = guest.basic_auth("root", Some("secret")).send().await;
    assert!(guest.unwrap().status().is_success());
    let (file, credentials) = root("wrong");
    let wrong = config::Etcd {
        credentials,
        ..settings(&etcd.url())
    };
    let since = Instant::now();
    let cart = watched("etcd2", &wrong, "cart");
    assert_eq!(
        cart.error().await,
        format!(
            "main at {} answered 401 for service `cart`: The request requires user authentication (Insufficient credentials); check registry.main.user",
            etcd.url()
        )
    );
    tokio::time::sleep(Duration::from_secs(4)).await;
    let failures = cart.status().failures;
    assert!(failures <= once_in_five(since), "{failures}");
    std::fs::write(file.path(), "secret").unwrap();
    cart.until("the right one", |set| ids(set) == ["a"]).await;
}

#[tokio::test]
async fn tls_proves_etcd_to_us_and_us_to_etcd() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (server, ours) = (authority.issue("etcd"), authority.issue("ours"));
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (chain, key, ca) = (path(&server.0), path(&server.1), path(&authority.ca()));
    let extra = [
        "--cert-file",
        &chain,
        "--key-file",
        &key,
        "--trusted-ca-file",
        &ca,
        "--client-cert-auth",
    ];
    let Some(etcd) = Etcd::start_with("https", &extra).await else {
        return;
    };
    let with = |ca, identity| config::Etcd {
        tls: ClientTls {
            ca,
            identity,
            ..ClientTls::default()
        },
        ..settings(&etcd.url())
    };
    let ca = Some(authority.ca());
    for api in KINDS {
        let both = with(ca.clone(), Some(ours.clone()));
        let cart = watched(api, &both, "cart");
        cart.until("both sides are known", |set| set.instances.is_empty())
            .await;
        let entry = register::entry(
            "main",
            &kind(api, both),
            provider("cart", 8080, Layout::GoKit, 10),
        );
        let registrar = Registrar::start(entry.unwrap());
        cart.until("a provider", |set| ids(set) == ["127.0.0.1:8080"])
            .await;
        registrar.deregister().await.unwrap();
        for (missing, what) in [
            (with(ca.clone(), None), "no certificate of ours"),
            (with(None, Some(ours.clone())), "an unknown authority"),
        ] {
            let error = watched(api, &missing, "cart").error().await;
            assert!(
                error.ends_with("; check registry.main.tls"),
                "{api}, {what}: {error}"
            );
        }
    }
    let bad = with(Some(ours.1), None);
    for api in KINDS {
        let error = registry::open("main", &kind(api, bad.clone()))
            .err()
            .unwrap();
        assert!(
            error.to_string().contains("holds no certificate"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn something_else_than_an_etcd_is_told_from_one() {
    let backend = crate::support::backend::Backend::start("no etcd").await;
    let url = format!("http://{}", backend.address());
    for api in KINDS {
        let error = watched(api, &settings(&url), "cart").error().await;
        assert!(error.ends_with("; check registry.main.address"), "{error}");
    }
    let Some(etcd) = Etcd::start_with("http", &["--enable-v2=false"]).await else {
        return;
    };
    let error = watched("etcd2", &settings(&etcd.url()), "cart")
        .error()
        .await;
    assert!(
        error.ends_with(
            "is it an etcd with --enable-v2? Else write kind = \"etcd\" in registry.main"
        ),
        "{error}"
    );
}

fn provider(service: &str, port: i64, layout: Layout, ttl: u64) -> Provider {
    Provider {
        service: service.to_owned(),
        id: "one".to_owned(),
        address: Address::new("127.0.0.1", port).unwrap(),
        tls: false,
        tags: Vec::new(),
        meta: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        weight: 7,
        check: Check::Ttl(Duration::from_secs(ttl)),
        layout,
    }
}

fn sign_in(api: &str, etcd: &Etcd, layout: Layout, ttl: u64) -> Registrar {
    let provider = provider("cart", 8080, layout, ttl);
    let entry = register::entry("main", &kind(api, settings(&etcd.url())), provider);
    Registrar::start(entry.unwrap())
}

const KEY: &str = "/services/cart/127.0.0.1:8080";

#[tokio::test]
async fn our_entry_is_go_kits_byte_for_byte_and_leaves_nothing_behind() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    for (layout, value) in [
        (Layout::GoKit, "127.0.0.1:8080"),
        (
            Layout::Grpc,
            r#"{"Op":0,"Addr":"127.0.0.1:8080","Metadata":{"weight":7,"zone":"a"}}"#,
        ),
    ] {
        let registrar = sign_in("etcd", &etcd, layout, 10);
        registrar.registered().await;
        assert_eq!(etcd.value(KEY).await.as_deref(), Some(value));
        assert_eq!(etcd.leases().await.len(), 1);
        registrar.deregister().await.unwrap();
        assert_eq!(etcd.value(KEY).await, None);
        assert_eq!(etcd.leases().await, [""; 0]);

        let registrar = sign_in("etcd2", &etcd, layout, 10);
        registrar.registered().await;
        let node = &etcd.node2(KEY).await["node"];
        assert_eq!(
            (node["value"].as_str(), node["ttl"].as_u64()),
            (Some(value), Some(10))
        );
        registrar.deregister().await.unwrap();
        assert_eq!(etcd.node2(KEY).await["errorCode"], 100);
    }
}

#[tokio::test]
async fn an_entry_that_is_taken_away_stands_again() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    let stands = async || etcd.value(KEY).await;
    let registrar = sign_in("etcd", &etcd, Layout::GoKit, 3);
    registrar.registered().await;
    let leases = async || etcd.leases().await;
    let before = leases().await;
    let [lease] = &before[..] else {
        panic!("one lease: {before:?}");
    };
    // The entry goes with it, and may stand again before that can be seen.
    etcd.call("/lease/revoke", json!({"ID": lease})).await;
    let is_new = |now: &Vec<String>| now.len() == 1 && *now != before;
    eventually("a new lease", leases, is_new).await;
    eventually("it stands again", stands, Option::is_some).await;
    etcd.delete(KEY).await;
    eventually("written again", stands, Option::is_some).await;
    assert_eq!(etcd.leases().await.len(), 1, "with the lease that it had");
    drop(registrar);

    let registrar = sign_in("etcd2", &etcd, Layout::GoKit, 3);
    registrar.registered().await;
    etcd.change2(Method::DELETE, KEY, &[]).await;
    let stands = async || etcd.node2(KEY).await["node"].is_object();
    eventually("written again", stands, |stands| *stands).await;
}

#[tokio::test]
async fn an_entry_outlives_its_time_and_not_its_provider() {
    let Some(etcd) = Etcd::start().await else {
        return;
    };
    for api in KINDS {
        let cart = watched(api, &settings(&etcd.url()), "cart");
        let registrar = sign_in(api, &etcd, Layout::GoKit, 5);
        cart.until("there", |set| !set.instances.is_empty()).await;
        tokio::time::sleep(Duration::from_secs(11)).await;
        let published = cart.published();
        assert!(
            published
                .iter()
                .skip(1)
                .all(|set| !set.instances.is_empty())
        );
        // As one that is killed: nothing keeps it, and nobody takes it away.
        drop(registrar);
        cart.until("it has run out", |set| set.instances.is_empty())
            .await;
    }
}
