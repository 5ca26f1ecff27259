//! Every layout is understood, every change is seen, what is wrong is named, and it costs the
//! server little.

use std::time::{Duration, Instant};

use callboard::{
    config::{self, Digest, Secret},
    registry::Registry,
};
use serde_json::{Value, json};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

use crate::support::{
    eventually,
    gokit::GoKit,
    server::refusing,
    watched::{Watched, named},
    zookeeper::{ZooKeeper, addresses, make, registry, settings, watch},
};

#[tokio::test]
async fn go_kits_registrar_is_found_and_is_gone_with_its_session() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let cart = watch(&settings(&[server.address()]), "cart");
    cart.until("nobody yet", |set| set.instances.is_empty())
        .await;
    let address = server.address().to_string();
    let sign_in = |value| GoKit::sign_in(&["zk", &address, "/services", "cart", value]);
    let Some(go_kit) = sign_in("10.0.2.10:80") else {
        return;
    };
    let set = cart
        .until("it is there", |set| addresses(set) == ["10.0.2.10:80"])
        .await;
    assert!(set.skipped.is_empty(), "{set:?}");
    assert_eq!(&*set.instances[0].id, "10.0.2.10:80");

    let second = sign_in("http://10.0.2.11:81");
    cart.until("both are there", |set| set.instances.len() == 2)
        .await;
    drop(go_kit);
    cart.until("one is left", |set| addresses(set) == ["10.0.2.11:81"])
        .await;
    drop(second);
    cart.until("none is left", |set| set.instances.is_empty())
        .await;
    assert_eq!(cart.status().failures, 0, "{:?}", cart.status());
}

#[tokio::test]
async fn instances_beside_their_services_empty_node_are_found() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    let cart = watch(&settings(&[server.address()]), "cart");
    // By its whole path the folder is one service, as go-kit's instancer has it.
    let whole = watch(&settings(&[server.address()]), "/services");
    make(&client, "/services/cart", b"").await;
    make(&client, "/services/carts", b"").await;
    let guid = "_c_0123456789abcdef0123456789abcdef";
    make(
        &client,
        &format!("/services/{guid}-carts0000000001"),
        b"10.0.0.2:80",
    )
    .await;
    make(
        &client,
        &format!("/services/{guid}-cart0000000000"),
        b"10.0.0.1:80",
    )
    .await;
    let set = cart
        .until("it is there", |set| !set.instances.is_empty())
        .await;
    assert_eq!(addresses(&set), ["10.0.0.1:80"], "and not those of others");
    let set = whole
        .until("all are there", |set| set.instances.len() == 2)
        .await;
    assert!(set.skipped.is_empty(), "an empty node is no entry: {set:?}");

    make(&client, "/services/cart/below", b"10.0.0.3:80").await;
    cart.until("below comes first", |set| addresses(set) == ["10.0.0.3:80"])
        .await;
    client.delete("/services/cart/below", None).await.unwrap();
    cart.until("beside again", |set| addresses(set) == ["10.0.0.1:80"])
        .await;
}

fn curator(id: &str, change: Value) -> Vec<u8> {
    let mut entry = json!({
        "name": "cart", "id": id, "address": "10.0.0.1", "port": 8080, "sslPort": null,
        "payload": {
            "@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
            "id": "application-1", "name": "cart", "metadata": {"zone": "west", "weight": "3"},
        },
        "registrationTimeUTC": 1_767_225_600_000_u64, "serviceType": "DYNAMIC", "uriSpec": null,
    });
    for (key, value) in change.as_object().unwrap() {
        entry[key] = value.clone();
    }
    entry.to_string().into_bytes()
}

#[tokio::test]
async fn curators_entries_of_every_shape_are_understood_and_followed() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    let cart = watch(&settings(&[server.address()]), "cart");
    let world = Acls::anyone_all();
    make(&client, "/services/cart", b"").await;
    for (node, mode, change) in [
        ("dynamic", CreateMode::Ephemeral, json!({"enabled": true})),
        ("disabled", CreateMode::Ephemeral, json!({"enabled": false})),
        (
            "tls",
            CreateMode::Ephemeral,
            json!({"port": null, "sslPort": 8443}),
        ),
        (
            "static",
            CreateMode::Persistent,
            json!({"serviceType": "STATIC"}),
        ),
        (
            "sequential",
            CreateMode::EphemeralSequential,
            json!({"serviceType": "DYNAMIC_SEQUENTIAL"}),
        ),
        ("bare", CreateMode::Ephemeral, json!({"payload": null})),
    ] {
        let path = format!("/services/cart/{node}");
        let data = curator(node, change);
        client
            .create(&path, &data, &mode.with_acls(world))
            .await
            .unwrap();
    }
    let set = cart
        .until("all are there", |set| set.instances.len() == 6)
        .await;
    assert!(set.skipped.is_empty(), "{set:?}");
    let read: Vec<_> = set
        .instances
        .iter()
        .map(|each| {
            (
                &*each.id,
                each.healthy,
                each.tls,
                each.address.port(),
                each.weight,
            )
        })
        .collect();
    assert_eq!(
        read,
        [
            ("bare", true, false, 8080, 1),
            ("disabled", false, false, 8080, 3),
            ("dynamic", true, false, 8080, 3),
            ("sequential", true, false, 8080, 3),
            ("static", true, false, 8080, 3),
            ("tls", true, true, 8443, 3),
        ]
    );
    assert_eq!(set.instances[1].meta["zone"], "west");

    // Curator changes an entry in its place.
    let data = curator("disabled", json!({"enabled": true}));
    client
        .set_data("/services/cart/disabled", &data, None)
        .await
        .unwrap();
    cart.until("all are healthy", |set| {
        set.instances.iter().all(|each| each.healthy)
    })
    .await;
    drop(client);
    let set = cart
        .until("the session's are gone", |set| set.instances.len() == 1)
        .await;
    assert_eq!(&*set.instances[0].id, "static");
    assert_eq!(cart.status().failures, 0, "{:?}", cart.status());
}

#[tokio::test]
async fn garbage_is_skipped_and_named_and_the_others_stay() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    for (node, data) in [
        ("good", &b"10.0.0.1:80"[..]),
        ("bytes", b"\xff\xfe\x00"),
        ("json", b"{\"address\":"),
        ("no-port", b"{\"address\":\"10.0.0.2\"}"),
        ("port", b"10.0.0.3:99999"),
        ("six", b"[::1]:80"),
        ("folder", b""),
        ("hidden", b"10.0.0.4:80"),
    ] {
        make(&client, &format!("/services/cart/{node}"), data).await;
    }
    let nobody = [Acl::new(Permission::READ, AuthId::new("digest", "x:y"))];
    client
        .set_acl("/services/cart/hidden", &nobody, None)
        .await
        .unwrap();
    let cart = watch(&settings(&[server.address()]), "cart");
    let set = cart.until("it is read", |_| true).await;
    assert_eq!(addresses(&set), ["10.0.0.1:80", "[::1]:80"]);
    let skipped: Vec<_> = set.skipped.iter().map(|skipped| &*skipped.id).collect();
    assert_eq!(skipped, ["bytes", "hidden", "json", "no-port", "port"]);

    client
        .set_data("/services/cart/port", b"10.0.0.3:99", None)
        .await
        .unwrap();
    cart.until("one was mended", |set| {
        set.instances.len() == 3 && set.skipped.len() == 4
    })
    .await;
}

#[tokio::test]
async fn a_path_that_is_missing_is_nobody_yet_and_is_watched() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    let settings = settings(&[server.address()]);
    let cart = watch(&settings, "cart");
    let catalog = Watched::start(registry(&settings).catalog().unwrap());
    cart.until("no instance", |set| set.instances.is_empty())
        .await;
    catalog.until("no service", |names| names.is_empty()).await;
    for round in 0..3 {
        make(&client, "/services/cart/a", b"10.0.0.1:80").await;
        cart.until("it is there", |set| set.instances.len() == 1)
            .await;
        let names = catalog
            .until("its name is", |names| !names.is_empty())
            .await;
        assert!(names.keys().map(|name| &**name).eq(["cart"]), "{round}");
        for node in ["/services/cart/a", "/services/cart", "/services"] {
            client.delete(node, None).await.unwrap();
        }
        cart.until("it is gone", |set| set.instances.is_empty())
            .await;
        catalog
            .until("its name is too", |names| names.is_empty())
            .await;
    }
    assert_eq!(cart.status().failures + catalog.status().failures, 0);
}

#[tokio::test]
async fn below_a_chroot_everything_is_as_it_is_below_the_root() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    let below = config::ZooKeeper {
        chroot: "/prod/eu".to_owned(),
        ..settings(&[server.address()])
    };
    let cart = watch(&below, "cart");
    let whole = watch(&below, "/other/place");
    let catalog = Watched::start(registry(&below).catalog().unwrap());
    make(&client, "/services/hat/a", b"10.0.0.9:80").await;
    make(&client, "/prod/eu/services/cart/a", b"10.0.0.1:80").await;
    make(&client, "/prod/eu/other/place/a", b"10.0.0.2:80").await;
    cart.until("by its name", |set| addresses(set) == ["10.0.0.1:80"])
        .await;
    whole
        .until("by its path", |set| addresses(set) == ["10.0.0.2:80"])
        .await;
    catalog
        .until("the catalog", |names| {
            names.keys().map(|name| &**name).eq(["cart"])
        })
        .await;
}

#[tokio::test]
async fn all_services_share_one_session_and_a_change_costs_what_changed() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    make(&client, "/services/s0", b"").await;
    let world = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for n in 0..500 {
        let path = format!("/services/s0/n{n:03}");
        let data = format!("10.0.0.1:{}", 1000 + n);
        client.create(&path, data.as_bytes(), &world).await.unwrap();
    }
    let connections = async || server.figure("zk_num_alive_connections").await;
    let before = connections().await;
    let main = registry(&settings(&[server.address()]));
    let watched: Vec<_> = (0..50)
        .map(|n| Watched::start(main.service(named(&format!("s{n}")))))
        .collect();
    watched[0]
        .until("500 are there", |set| set.instances.len() == 500)
        .await;
    for watched in &watched {
        watched.until("read", |_| true).await;
    }
    assert_eq!(
        connections().await - before,
        1,
        "one session for 50 services"
    );

    let packets = async || server.figure("zk_packets_received").await;
    let before = packets().await;
    make(&client, "/services/s0/new", b"10.0.0.2:80").await;
    watched[0]
        .until("501 are there", |set| set.instances.len() == 501)
        .await;
    let asked = packets().await - before;
    assert!(asked < 20, "{asked} packets for one new instance");
}

#[tokio::test]
async fn a_registration_is_seen_at_once() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    let cart = watch(&settings(&[server.address()]), "cart");
    cart.until("nobody yet", |set| set.instances.is_empty())
        .await;
    make(&client, "/services/cart", b"").await;
    let mut slowest = Duration::ZERO;
    for n in 1..=20 {
        let data = format!("10.0.0.1:{n}");
        make(&client, &format!("/services/cart/{n}"), data.as_bytes()).await;
        let made = Instant::now();
        cart.until("it is there", |set| set.instances.len() == n)
            .await;
        slowest = slowest.max(made.elapsed());
    }
    println!("seen at the latest after {slowest:?}");
}

/// A user, and the file of its password.
fn digest(folder: &tempfile::TempDir, password: &str) -> Digest {
    let path = folder.path().join("password");
    std::fs::write(&path, password).unwrap();
    Digest {
        user: "callboard".to_owned(),
        password: Secret::File(path),
    }
}

async fn client_of(server: &ZooKeeper, password: &str) -> Client {
    let both = format!("callboard:{password}");
    let connector = Client::connector().with_auth("digest", both.as_bytes());
    connector
        .connect(&server.address().to_string())
        .await
        .unwrap()
}

#[tokio::test]
async fn who_has_the_password_reads_and_who_has_not_is_told_so_and_asks_rarely() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let owner = client_of(&server, "secret").await;
    let own = CreateMode::Persistent.with_acls(Acls::creator_all());
    for (path, data) in [
        ("/services", &b""[..]),
        ("/services/cart", b""),
        ("/services/cart/a", b"10.0.0.1:80"),
    ] {
        owner.create(path, data, &own).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let of_stranger = config::ZooKeeper {
        // With few pings, of which there are packets too.
        session_timeout: Duration::from_secs(10),
        ..settings(&[server.address()])
    };
    let of_user = config::ZooKeeper {
        digest: Some(digest(&folder, "secret\n")),
        ..of_stranger.clone()
    };
    let cart = watch(&of_user, "cart");
    cart.until("it is read", |set| addresses(set) == ["10.0.0.1:80"])
        .await;

    let stranger = watch(&of_stranger, "cart");
    assert_eq!(
        stranger.error().await,
        format!(
            "main at {} cannot be asked for service `cart`: /services/cart is not for everyone, and no user is configured; check registry.main.user",
            server.address()
        )
    );

    digest(&folder, "wrong");
    let before = server.figure("zk_packets_received").await;
    let wrong = watch(&of_user, "cart");
    assert_eq!(
        wrong.error().await,
        format!(
            "main at {} cannot be asked for service `cart`: `callboard`, with this password, has no right to /services/cart; check registry.main.password",
            server.address()
        )
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(wrong.status().failures, 1, "it is not asked again at once");
    let packets = server.figure("zk_packets_received").await - before;
    assert!(packets < 40, "{packets} packets in 3 s");
    assert!(wrong.published().is_empty() && stranger.published().is_empty());

    digest(&folder, "secret");
    wrong
        .until("it was put right", |set| addresses(set) == ["10.0.0.1:80"])
        .await;
}

#[tokio::test]
async fn rights_that_are_lost_are_an_error_and_never_an_empty_set() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    make(&client, "/services/cart/a", b"10.0.0.1:80").await;
    make(&client, "/services/cart/b", b"10.0.0.2:80").await;
    let nobody = [Acl::new(Permission::READ, AuthId::new("digest", "x:y"))];
    for node in ["a", "b"] {
        let path = format!("/services/cart/{node}");
        client.set_acl(&path, &nobody, None).await.unwrap();
    }
    let cart = watch(&settings(&[server.address()]), "cart");
    let error = cart.error().await;
    assert!(
        error.contains("/services/cart/a is not for everyone"),
        "{error}"
    );
    assert!(cart.published().is_empty());
}

#[tokio::test]
async fn who_is_no_zookeeper_or_not_there_is_named_with_what_it_does() {
    let closed = refusing();
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = mute.local_addr().map(|address| (mute, address)).unwrap();
    let cart = watch(&settings(&[closed, mute.1]), "cart");
    assert_eq!(
        cart.error().await,
        format!(
            "main at {closed},{0} cannot be asked for service `cart`: no session ({closed}: Connection refused (os error 111), {0}: takes connections, and opens no session); check registry.main.address",
            mute.1
        )
    );
    let missing = config::ZooKeeper {
        digest: Some(Digest {
            user: "a".to_owned(),
            password: Secret::File("/nowhere/password".into()),
        }),
        ..settings(&[closed])
    };
    let error = watch(&missing, "cart").error().await;
    assert!(
        error.contains("cannot read /nowhere/password")
            && error.ends_with("registry.main.password"),
        "{error}"
    );
}

#[tokio::test]
async fn a_name_that_can_be_no_node_is_an_error_of_its_own() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let main = registry(&settings(&[server.address()]));
    let odd = Watched::start(main.service(named("a/../b")));
    let error = odd.error().await;
    assert!(
        error.contains("service `a/../b`: /services/a/../b can be no node: relative path"),
        "{error}"
    );
    let good = Watched::start(main.service(named("cart")));
    let read = eventually("it is read", async || good.status(), |status| status.read);
    assert_eq!(read.await.failures, 0, "the others' session is not touched");
}
