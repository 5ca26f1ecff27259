//! What a real Consul says is what a watcher publishes, and what it refuses is what the error says.

use std::{path::PathBuf, time::Duration};

use callboard::{
    config::{self, ClientTls, Secret},
    instance::{Instance, InstanceSet},
    registry::{Registry, ServiceQuery},
};
use serde_json::{Value, json};

use crate::support::{
    authority::Authority,
    consul::Consul,
    server::free_ports,
    watched::{Watched, named, registry, settings},
};

fn provider(id: &str, port: u16) -> Value {
    json!({"ID": id, "Name": "cart", "Address": "127.0.0.1", "Port": port})
}

/// A provider whose check is what the test says it is, and starts as passing.
fn checked(id: &str, port: u16) -> Value {
    let mut service = provider(id, port);
    service["Check"] = json!({"TTL": "1h", "Status": "passing"});
    service
}

/// The part of an instance's id that its provider chose; before it stands the node's name.
fn own_id(instance: &Instance) -> &str {
    instance.id.split_once('/').unwrap().1
}

fn ids(set: &InstanceSet) -> Vec<&str> {
    set.instances.iter().map(|one| own_id(one)).collect()
}

fn healthy(set: &InstanceSet) -> Vec<&str> {
    let healthy = set.instances.iter().filter(|instance| instance.healthy);
    healthy.map(|one| own_id(one)).collect()
}

#[tokio::test]
async fn a_set_follows_registrations_checks_and_deregistrations_by_itself() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let cart = Watched::service(&settings(&consul.url()), "cart");
    cart.until("nobody yet", |set| set.instances.is_empty())
        .await;

    consul.register(checked("a", 8001)).await;
    cart.until("a is there", |set| healthy(set) == ["a"]).await;
    let mut heavy = checked("b", 8002);
    heavy["Weights"] = json!({"Passing": 7, "Warning": 0});
    heavy["Tags"] = json!(["v2"]);
    heavy["Meta"] = json!({"zone": "west"});
    consul.register(heavy).await;
    let set = cart
        .until("b is there", |set| healthy(set) == ["a", "b"])
        .await;
    let b = &set.instances[1];
    assert_eq!(b.address.to_string(), "127.0.0.1:8002");
    assert_eq!((b.weight, b.tags.as_slice()), (7, &["v2".to_owned()][..]));
    assert_eq!(b.meta["zone"], "west");
    assert_eq!(b.meta["consul-datacenter"], "dc1");

    for verdict in ["warn", "fail"] {
        consul
            .put(&format!("/v1/agent/check/{verdict}/service:a"), json!({}))
            .await;
        let failing = format!("a is no longer healthy: {verdict}");
        let set = cart.until(&failing, |set| healthy(set) == ["b"]).await;
        assert_eq!(ids(&set), ["a", "b"], "and still known");
        consul
            .put("/v1/agent/check/pass/service:a", json!({}))
            .await;
        cart.until("a is back", |set| healthy(set) == ["a", "b"])
            .await;
    }
    consul
        .put("/v1/agent/service/maintenance/b?enable=true", json!({}))
        .await;
    cart.until("b is being mended", |set| healthy(set) == ["a"])
        .await;

    consul.deregister("b").await;
    cart.until("b is gone", |set| ids(set) == ["a"]).await;
    consul.deregister("a").await;
    cart.until("all are gone", |set| set.instances.is_empty())
        .await;
    let status = cart.status();
    assert!(status.healthy && status.failures == 0, "{status:?}");
}

#[tokio::test]
async fn strange_entries_are_skipped_and_named_and_the_others_stay() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let strange = [
        json!({"ID": "no-port"}),
        json!({"ID": "negative", "Port": -1}),
        json!({"ID": "too-large", "Port": 80810}),
        json!({"ID": "url", "Port": 80, "Address": "http://127.0.0.1"}),
        json!({"ID": "socket", "SocketPath": "/run/cart.sock"}),
        json!({"ID": "bare6", "Port": 80, "Address": "::1"}),
        json!({"ID": "bracketed6", "Port": 80, "Address": "[::1]"}),
        json!({"ID": "slash/ed id", "Port": 80, "Address": "my-address"}),
        json!({"ID": "of-the-node", "Port": 80, "Address": ""}),
    ];
    for mut service in strange {
        service["Name"] = json!("cart");
        consul.register(service).await;
    }
    let cart = Watched::service(&settings(&consul.url()), "cart");
    let set = cart
        .until("all are read", |set| set.skipped.len() == 5)
        .await;
    let addresses = set
        .instances
        .iter()
        .map(|i| (own_id(i), i.address.to_string()));
    assert_eq!(
        addresses.collect::<Vec<_>>(),
        [
            ("bare6", "[::1]:80".to_owned()),
            ("bracketed6", "[::1]:80".to_owned()),
            ("of-the-node", "127.0.0.1:80".to_owned()),
            ("slash/ed id", "my-address:80".to_owned()),
        ]
    );
    let skipped = set
        .skipped
        .iter()
        .map(|skipped| skipped.id.split_once('/').unwrap().1);
    assert_eq!(
        skipped.collect::<Vec<_>>(),
        ["negative", "no-port", "socket", "too-large", "url"]
    );
    consul.deregister("slash/ed id").await;
    cart.until("a change gets through", |set| set.instances.len() == 3)
        .await;
}

#[tokio::test]
async fn any_legal_name_is_found() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    consul
        .register(json!({"ID": "b", "Name": "admin", "Port": 80}))
        .await;
    for name in [
        "my cart",
        "cart/eu",
        "cart?tag=x#1",
        "Wägen+1&2",
        "..",
        "admin/.",
        "%61dmin",
    ] {
        consul
            .register(json!({"ID": "a", "Name": name, "Port": 80}))
            .await;
        let found = Watched::service(&settings(&consul.url()), name);
        found.until(name, |set| ids(set) == ["a"]).await;
    }
    // Consul lists such a name, and does not let itself be asked for it. A question for what is
    // left where a URL takes tabs and line ends out would have been for another service.
    for name in ["ad\tmin", "ad\nmin", "\radmin"] {
        consul
            .register(json!({"ID": "a", "Name": name, "Port": 80}))
            .await;
        let asked = Watched::service(&settings(&consul.url()), name);
        let error = asked.error().await;
        assert!(error.contains("answered 400"), "{error}");
        assert_eq!(asked.published(), []);
    }
}

#[tokio::test]
async fn tags_of_the_registry_and_of_the_query_must_all_be_there() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    for (id, tags) in [
        ("a", json!(["public"])),
        ("b", json!(["public", "v2"])),
        ("c", json!(["v2"])),
    ] {
        let mut service = provider(id, 80);
        service["Tags"] = tags;
        consul.register(service).await;
    }
    consul
        .register(json!({"Name": "inner", "Tags": ["private"], "Port": 80}))
        .await;
    let public = registry(&config::Consul {
        tags: vec!["public".to_owned()],
        ..settings(&consul.url())
    });
    let v2 = ServiceQuery {
        tags: vec!["v2".to_owned()],
        ..named("cart")
    };
    let cart = Watched::start(public.service(v2));
    cart.until("both tags", |set| ids(set) == ["b"]).await;
    let catalog = Watched::start(public.catalog().unwrap());
    catalog
        .until("only cart has public instances", |names| {
            names.keys().map(|name| &**name).eq(["cart"])
        })
        .await;
}

#[tokio::test]
async fn warnings_are_passing_where_that_is_wanted_with_their_own_weight() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let taken = config::Consul {
        warnings: config::Warnings::Passing,
        ..settings(&consul.url())
    };
    let [taken, left] = [taken, settings(&consul.url())].map(|it| Watched::service(&it, "cart"));
    let mut service = checked("a", 8001);
    service["Weights"] = json!({"Passing": 7, "Warning": 3});
    consul.register(service).await;
    consul
        .put("/v1/agent/check/warn/service:a", json!({}))
        .await;
    taken
        .until("it is taken in", |set| {
            healthy(set) == ["a"] && set.instances[0].weight == 3
        })
        .await;
    left.until("by default it is not", |set| {
        ids(set) == ["a"] && healthy(set).is_empty()
    })
    .await;
    consul
        .put("/v1/agent/check/fail/service:a", json!({}))
        .await;
    taken
        .until("what fails is not", |set| healthy(set).is_empty())
        .await;
}

#[tokio::test]
async fn what_springs_instances_say_of_tls_is_heard() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let mut by_meta = provider("a", 8001);
    by_meta["Meta"] = json!({"secure": "true"});
    let mut by_tag = provider("b", 8002);
    by_tag["Tags"] = json!(["secure=true"]);
    let mut plain = provider("c", 8003);
    plain["Meta"] = json!({"secure": "false"});
    plain["Tags"] = json!(["secure=false"]);
    for service in [by_meta, by_tag, plain] {
        consul.register(service).await;
    }
    let cart = Watched::service(&settings(&consul.url()), "cart");
    let set = cart.until("all", |set| set.instances.len() == 3).await;
    let tls: Vec<_> = set.instances.iter().map(|instance| instance.tls).collect();
    assert_eq!(tls, [true, true, false]);
}

#[tokio::test]
async fn where_no_token_is_needed_to_be_shown_nothing_that_is_said() {
    let acl = json!({
        "enabled": true, "default_policy": "deny", "tokens": {"initial_management": "root"},
    });
    let Some(consul) = Consul::start_with(json!({ "acl": acl })).await else {
        return;
    };
    let without = registry(&settings(&consul.url()));
    let error = Watched::start(without.catalog().unwrap()).error().await;
    assert!(
        error.contains("lists 0 services") && error.ends_with("check registry.main.token"),
        "{error}"
    );
    let cart = Watched::start(without.service(named("cart")));
    let set = cart.until("an empty set", |_| true).await;
    assert!(set.skipped[0].reason.contains("no token is set"), "{set:?}");

    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "root").unwrap();
    let with = registry(&config::Consul {
        token: Some(Secret::File(token)),
        ..settings(&consul.url())
    });
    let catalog = Watched::start(with.catalog().unwrap());
    catalog
        .until("an empty list", |names| names.is_empty())
        .await;
    let cart = Watched::start(with.service(named("cart")));
    let set = cart.until("an empty set", |_| true).await;
    assert_eq!(set, InstanceSet::default());
}

#[tokio::test]
async fn the_catalog_has_one_name_for_all_spellings_and_nothing_of_the_mesh() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    for (id, name, kind) in [
        ("a", "MyApp", ""),
        ("b", "billing", ""),
        ("c", "Billing", ""),
        ("d", "billing-sidecar-proxy", "connect-proxy"),
        ("e", "edge", "ingress-gateway"),
        ("f", "billing", "mesh-gateway"),
    ] {
        let mut service = json!({"ID": id, "Name": name, "Port": 80, "Kind": kind});
        if kind == "connect-proxy" {
            service["Proxy"] = json!({"DestinationServiceName": "billing"});
        }
        consul.register(service).await;
    }
    let catalog = Watched::start(registry(&settings(&consul.url())).catalog().unwrap());
    catalog
        .until("two services", |names| {
            names.keys().map(|name| &**name).eq(["billing", "myapp"])
        })
        .await;
    for (name, all) in [
        ("billing", &["b", "c"][..]),
        ("myapp", &["a"]),
        ("edge", &[]),
    ] {
        let found = Watched::service(&settings(&consul.url()), name);
        found.until(name, |set| ids(set) == all).await;
    }
}

#[tokio::test]
async fn the_catalog_follows_and_never_lists_consul() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let catalog = Watched::start(registry(&settings(&consul.url())).catalog().unwrap());
    let names = |names: &[&'static str]| {
        let names = names.to_vec();
        move |catalog: &callboard::registry::Catalog| {
            catalog.keys().map(|name| &**name).eq(names.iter().copied())
        }
    };
    catalog.until("nothing at first", names(&[])).await;
    let mut tagged = provider("a", 80);
    tagged["Tags"] = json!(["v2"]);
    consul.register(tagged).await;
    let cart = catalog.until("cart", names(&["cart"])).await;
    assert_eq!(cart["cart"], ["v2"]);
    consul.register(json!({"Name": "shop", "Port": 80})).await;
    catalog
        .until("cart and shop", names(&["cart", "shop"]))
        .await;
    consul.deregister("a").await;
    catalog.until("shop", names(&["shop"])).await;
}

#[tokio::test]
async fn an_error_names_its_cause_and_the_key_to_look_at() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let plain = settings(&consul.url());
    let text = |text: &str| Some(text.to_owned());
    for (wrong, says, key) in [
        (
            config::Consul {
                datacenters: vec!["nowhere".to_owned()],
                ..plain.clone()
            },
            "answered 500 for service `cart` in nowhere: No path to datacenter",
            "datacenters",
        ),
        (
            config::Consul {
                filter: text("Bogus == 1"),
                ..plain.clone()
            },
            "answered 500 for service `cart`: Failed to create boolean expression evaluator",
            "filter",
        ),
        (
            config::Consul {
                namespace: text("team"),
                ..plain.clone()
            },
            "answered 400 for service `cart`: Invalid query parameter: \"ns\"",
            "namespace",
        ),
        (
            config::Consul {
                addresses: vec![consul.url() + "/wrong"],
                ..plain.clone()
            },
            "answered 404 for service `cart`: ",
            "address",
        ),
    ] {
        let cart = Watched::service(&wrong, "cart");
        let error = cart.error().await;
        let starts = format!("main at {} {says}", wrong.addresses[0]);
        let ends = format!("; check registry.main.{key}");
        assert!(
            error.starts_with(&starts) && error.ends_with(&ends),
            "{error}"
        );
        assert_eq!(cart.published(), [], "an error is never an empty set");
    }
}

#[tokio::test]
async fn the_token_is_read_anew_for_each_query() {
    let acl = json!({"acl": {
        "enabled": true, "default_policy": "deny", "tokens": {"master": "the-right-one", "agent": "the-right-one"},
    }});
    let Some(consul) = Consul::start_with(acl).await else {
        return;
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let token = Secret::File(file.path().to_owned());
    let with_token = config::Consul {
        token: Some(token),
        ..settings(&consul.url())
    };
    std::fs::write(file.path(), "an-old-one\n").unwrap();
    let catalog = Watched::start(registry(&with_token).catalog().unwrap());
    assert_eq!(
        catalog.error().await,
        format!(
            "main at {} answered 403 for the catalog: ACL not found; check registry.main.token",
            consul.url()
        )
    );
    std::fs::remove_file(file.path()).unwrap();
    let unreadable = format!("cannot read {}", file.path().display());
    catalog
        .until_status("the missing file is named", |status| {
            status
                .error
                .as_ref()
                .is_some_and(|error| error.contains(&unreadable))
        })
        .await;
    std::fs::write(file.path(), "the-right-one\n").unwrap();
    let status = catalog
        .until_status("the new token is used", |status| status.healthy)
        .await;
    assert!(status.failures >= 2, "{status:?}");
}

#[tokio::test]
async fn an_agent_that_dies_leaves_the_last_set_and_is_found_again() {
    let Some(mut consul) = Consul::start().await else {
        return;
    };
    consul.register(provider("a", 80)).await;
    let cart = Watched::service(&settings(&consul.url()), "cart");
    cart.until("a is there", |set| ids(set) == ["a"]).await;
    consul.kill();
    let error = cart.error().await;
    assert!(
        error.contains("cannot be asked for service `cart`"),
        "{error}"
    );
    cart.until_status("it keeps trying", |status| status.failures > 3)
        .await;
    assert_eq!(cart.published().len(), 1, "the last set stays");

    consul.restart_empty().await;
    // Its index begins again below the old one, and that must not matter.
    cart.until("the agent remembers nothing", |set| ids(set).is_empty())
        .await;
    consul.register(provider("b", 80)).await;
    cart.until("b is there", |set| ids(set) == ["b"]).await;
    assert!(cart.status().healthy);
}

#[tokio::test]
async fn an_agent_that_stands_still_for_a_moment_loses_no_change() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    consul.register(provider("a", 80)).await;
    let cart = Watched::service(&settings(&consul.url()), "cart");
    cart.until("a is there", |set| ids(set) == ["a"]).await;
    consul.pause();
    let change = consul.register(provider("b", 80));
    let resume = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        consul.resume();
    };
    tokio::join!(change, resume);
    cart.until("b is there", |set| ids(set) == ["a", "b"]).await;
    assert_eq!(cart.status().failures, 0);
}

#[tokio::test]
async fn tls_proves_the_agent_to_us_and_us_to_the_agent() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let (ca, agent, ours) = (
        authority.ca(),
        authority.issue("agent"),
        authority.issue("ours"),
    );
    let [port] = free_ports();
    let tls = json!({
        "ports": {"https": port},
        "ca_file": ca, "cert_file": agent.0, "key_file": agent.1, "verify_incoming_https": true,
    });
    let Some(consul) = Consul::start_with(tls).await else {
        return;
    };
    consul.register(provider("a", 80)).await;
    let with = |ca: Option<PathBuf>, identity| config::Consul {
        tls: ClientTls {
            ca,
            identity,
            ..ClientTls::default()
        },
        ..settings(&format!("https://localhost:{port}"))
    };
    let both = Watched::service(&with(Some(ca.clone()), Some(ours.clone())), "cart");
    both.until("both sides are known", |set| ids(set) == ["a"])
        .await;
    for (missing, what) in [
        (with(Some(ca), None), "no certificate of ours"),
        (
            with(None, Some(ours)),
            "an authority that the system does not know",
        ),
    ] {
        let error = Watched::service(&missing, "cart").error().await;
        assert!(
            error.ends_with("; check registry.main.tls"),
            "{what}: {error}"
        );
    }
}
