//! An entry is written as go-kit's registrar or Curator writes it, stands whatever becomes of
//! servers and sessions, is never there twice, and is gone once it was signed out.

use std::{net::SocketAddr, time::Duration};

use callboard::{
    config::{self, Digest, RegistryKind, Secret},
    register::{Check, Layout, SignedIn, entry},
};
use serde_json::{Value, json};
use zookeeper_client::{Client, Error, Stat};

use crate::support::{
    eventually,
    relay::Relay,
    zookeeper::{
        SESSION, ZooKeeper, addresses, entry_of, make, provider, settings, sign_in, watch,
    },
};

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// The nodes of `cart`, each with its data.
async fn nodes(client: &Client) -> Vec<(String, String, Stat)> {
    let names = match client.list_children("/services/cart").await {
        Err(Error::NoNode) => Vec::new(),
        names => names.unwrap(),
    };
    let mut nodes = Vec::new();
    for name in names {
        let path = format!("/services/cart/{name}");
        if let Ok((data, stat)) = client.get_data(&path).await {
            nodes.push((name, String::from_utf8(data).unwrap(), stat));
        }
    }
    nodes
}

async fn until_nodes(client: &Client, what: &str, count: usize) -> Vec<(String, String, Stat)> {
    let nodes = eventually(
        what,
        async || nodes(client).await,
        |nodes| nodes.len() == count,
    );
    nodes.await
}

#[tokio::test]
async fn an_entry_is_go_kits_byte_for_byte_and_gone_when_it_is_signed_out() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    let settings = settings(&[server.address()]);
    let cart = watch(&settings, "cart");
    let registrar = sign_in(&settings, provider("c1", at(8080), Layout::GoKit)).await;
    let found = nodes(&client).await;
    let [(name, data, stat)] = &found[..] else {
        panic!("{found:?}");
    };
    let rest = name.strip_prefix("_c_").unwrap();
    let (guid, number) = rest.split_once('-').unwrap();
    assert!(guid.len() == 32 && guid.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(number, "0000000000");
    assert_eq!(data, "127.0.0.1:8080");
    assert_ne!(stat.ephemeral_owner, 0);
    for path in ["/services", "/services/cart"] {
        let (data, stat) = client.get_data(path).await.unwrap();
        assert!(data.is_empty() && stat.ephemeral_owner == 0, "{path} stays");
    }
    cart.until("it is found", |set| addresses(set) == ["127.0.0.1:8080"])
        .await;
    registrar.deregister().await.unwrap();
    assert!(nodes(&client).await.is_empty(), "as soon as it has said so");
    cart.until("it is gone", |set| set.instances.is_empty())
        .await;
}

#[tokio::test]
async fn an_entry_in_curators_layout_is_what_spring_cloud_reads() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    let settings = settings(&[server.address()]);
    let cart = watch(&settings, "cart");
    let mut secure = provider("c1", at(8443), Layout::Curator);
    (secure.tls, secure.weight) = (true, 7);
    let secure = sign_in(&settings, secure).await;
    let plain = sign_in(&settings, provider("c2", at(8080), Layout::Curator)).await;
    let read = async |id: &str| {
        let path = format!("/services/cart/{id}");
        let (data, stat) = client.get_data(&path).await.unwrap();
        assert_ne!(stat.ephemeral_owner, 0);
        serde_json::from_slice::<Value>(&data).unwrap()
    };
    let entry = read("c1").await;
    assert_eq!(entry["name"], "cart");
    assert_eq!(
        (&entry["port"], &entry["sslPort"]),
        (&Value::Null, &json!(8443))
    );
    assert_eq!(
        entry["payload"],
        json!({
            "@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
            "id": "c1", "name": "cart", "metadata": {"weight": "7", "zone": "west"},
        })
    );
    assert_eq!(entry["serviceType"], "DYNAMIC");
    assert!(entry["registrationTimeUTC"].as_u64().unwrap() > 1_700_000_000_000);
    let entry = read("c2").await;
    assert_eq!(
        (&entry["port"], &entry["sslPort"]),
        (&json!(8080), &Value::Null)
    );

    let set = cart
        .until("both are found", |set| set.instances.len() == 2)
        .await;
    let [first, second] = &set.instances[..] else {
        panic!("{set:?}");
    };
    assert_eq!((&*first.id, first.tls, first.weight), ("c1", true, 7));
    assert_eq!(
        (&*second.id, second.tls, &*second.meta["zone"]),
        ("c2", false, "west")
    );
    secure.deregister().await.unwrap();
    plain.deregister().await.unwrap();
    assert!(nodes(&client).await.is_empty());
}

#[tokio::test]
async fn after_a_loss_of_all_data_it_is_soon_back() {
    let Some(mut server) = ZooKeeper::start().await else {
        return;
    };
    let settings = settings(&[server.address()]);
    let go_kit = sign_in(&settings, provider("c1", at(8080), Layout::GoKit)).await;
    let curator = sign_in(&settings, provider("c2", at(8081), Layout::Curator)).await;
    // So that the old sessions have seen more than the new server will have.
    let client = server.client().await;
    make(&client, "/more", b"").await;
    drop(client);
    server.kill();
    server.wipe();
    server.run().await;
    let client = server.client().await;
    until_nodes(&client, "both are back", 2).await;
    go_kit.registered().await;
    curator.registered().await;
    go_kit.deregister().await.unwrap();
    curator.deregister().await.unwrap();
    assert!(nodes(&client).await.is_empty());
}

#[tokio::test]
async fn a_session_that_expired_is_followed_by_another_and_leaves_nothing() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    for layout in [Layout::GoKit, Layout::Curator] {
        let relay = Relay::start(server.address()).await;
        let settings = settings(&[relay.address()]);
        let registrar = sign_in(&settings, provider("c1", at(8080), layout)).await;
        let (_, _, before) = nodes(&client).await.remove(0);
        relay.part();
        until_nodes(&client, "it expired", 0).await;
        let mut standing = registrar.standing();
        let said = standing.wait_for(|standing| *standing != SignedIn::In);
        let said = said.await.unwrap().clone();
        let SignedIn::Out(Some(why)) = &said else {
            panic!("{said:?}");
        };
        assert!(why.contains("the entry `c1`"), "{why}");
        relay.join();
        let (_, _, after) = until_nodes(&client, "it is back", 1).await.remove(0);
        assert_ne!(before.ephemeral_owner, after.ephemeral_owner);
        registrar.deregister().await.unwrap();
        assert!(nodes(&client).await.is_empty(), "{layout:?}");
    }
}

#[tokio::test]
async fn a_connection_that_comes_back_in_time_keeps_its_node() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    let relay = Relay::start(server.address()).await;
    let settings = settings(&[relay.address()]);
    let mut patient = provider("c1", at(8080), Layout::GoKit);
    patient.check = Check::Ttl(Duration::from_secs(10));
    let registrar = sign_in(&settings, patient).await;
    let before = nodes(&client).await;
    let received = server.figure("zk_num_alive_connections").await;
    relay.part();
    let parted = eventually(
        "it is parted",
        async || server.figure("zk_num_alive_connections").await,
        |connections| *connections < received,
    );
    parted.await;
    relay.join();
    let joined = eventually(
        "it is joined",
        async || server.figure("zk_num_alive_connections").await,
        |connections| *connections >= received,
    );
    joined.await;
    assert_eq!(nodes(&client).await, before);
    registrar.registered().await;
    registrar.deregister().await.unwrap();
}

#[tokio::test]
async fn a_node_that_somebody_takes_away_is_written_again() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    let settings = settings(&[server.address()]);
    for layout in [Layout::GoKit, Layout::Curator] {
        let registrar = sign_in(&settings, provider("c1", at(8080), layout)).await;
        let (name, _, before) = nodes(&client).await.remove(0);
        let path = format!("/services/cart/{name}");
        client.delete(&path, None).await.unwrap();
        let again = eventually(
            "it is there again",
            async || nodes(&client).await,
            |nodes| nodes.len() == 1 && nodes[0].2.czxid > before.czxid,
        );
        again.await;
        registrar.deregister().await.unwrap();
        assert!(nodes(&client).await.is_empty(), "{layout:?}");
    }
}

#[tokio::test]
async fn who_is_killed_and_started_again_takes_away_what_it_has_left() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    for layout in [Layout::GoKit, Layout::Curator] {
        let relay = Relay::start(server.address()).await;
        let mut long = provider("c1", at(8080), layout);
        long.check = Check::Ttl(Duration::from_secs(10));
        let mut killed = entry_of(&settings(&[relay.address()]), long);
        killed.sign_in().await.unwrap();
        // Whoever is killed can close no session.
        relay.part();
        drop(killed);
        let (_, _, left) = nodes(&client).await.remove(0);

        let again = provider("c1", at(8081), layout);
        let registrar = sign_in(&settings(&[server.address()]), again).await;
        let found = nodes(&client).await;
        assert_eq!(found.len(), 1, "{layout:?}: {found:?}");
        assert!(found[0].1.contains("8081"), "{found:?}");
        assert_ne!(found[0].2.ephemeral_owner, left.ephemeral_owner);

        let other = sign_in(
            &settings(&[server.address()]),
            provider("c2", at(8082), layout),
        )
        .await;
        assert_eq!(nodes(&client).await.len(), 2, "others are left alone");
        registrar.deregister().await.unwrap();
        other.deregister().await.unwrap();
        assert!(nodes(&client).await.is_empty());
    }
}

#[tokio::test]
async fn it_signs_out_by_a_new_session_where_its_own_is_lost() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let client = server.client().await;
    for layout in [Layout::GoKit, Layout::Curator] {
        let relay = Relay::start(server.address()).await;
        let mut long = provider("c1", at(8080), layout);
        long.check = Check::Ttl(Duration::from_secs(10));
        let mut entry = entry_of(&settings(&[relay.address()]), long);
        entry.sign_in().await.unwrap();
        relay.part();
        let lost = entry.keep().await.message;
        assert!(
            lost.contains("has lost the entry `c1`: the connection was lost"),
            "{lost}"
        );
        let error = entry.sign_out().await.unwrap_err().message;
        assert!(
            error.contains("does not give up the entry `c1`: no session"),
            "{error}"
        );
        assert_eq!(nodes(&client).await.len(), 1, "{layout:?}");
        relay.join();
        entry.sign_out().await.unwrap();
        assert!(nodes(&client).await.is_empty(), "{layout:?}");
        entry.sign_out().await.unwrap();
    }
}

#[tokio::test]
async fn a_user_keeps_its_nodes_for_itself_and_lets_all_read_them() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "secret").unwrap();
    let of_user = config::ZooKeeper {
        digest: Some(Digest {
            user: "callboard".to_owned(),
            password: Secret::File(path.clone()),
        }),
        ..settings(&[server.address()])
    };
    let registrar = sign_in(&of_user, provider("c1", at(8080), Layout::GoKit)).await;
    let stranger = server.client().await;
    let (name, ..) = nodes(&stranger).await.remove(0);
    let node = format!("/services/cart/{name}");
    assert_eq!(stranger.delete(&node, None).await, Err(Error::NoAuth));
    assert_eq!(
        stranger.set_data(&node, b"6.6.6.6:80", None).await,
        Err(Error::NoAuth)
    );

    let mut refused = entry_of(
        &settings(&[server.address()]),
        provider("c2", at(8081), Layout::GoKit),
    );
    let error = refused.sign_in().await.unwrap_err();
    assert_eq!(
        error.message,
        format!(
            "main at {} does not take the entry `c2`: /services/cart is not for everyone, and no user is configured; check registry.main.user",
            server.address()
        )
    );
    assert!(error.retry_after.is_some(), "it is not tried again at once");
    std::fs::write(&path, "wrong").unwrap();
    let mut wrong = entry_of(&of_user, provider("c3", at(8082), Layout::GoKit));
    let error = wrong.sign_in().await.unwrap_err().message;
    assert!(error.contains("`callboard`, with this password, has no right to /services/cart; check registry.main.password"), "{error}");
    registrar.deregister().await.unwrap();
    assert!(nodes(&stranger).await.is_empty());
}

#[test]
fn what_zookeeper_does_not_have_is_refused_by_its_name() {
    let interval = Duration::from_secs(1);
    let url = "http://127.0.0.1/".to_owned();
    let kind = RegistryKind::ZooKeeper(settings(&[at(2181)]));
    for (check, layout, id, says) in [
        (
            Check::Http { url, interval },
            Layout::GoKit,
            "c",
            "runs no HTTP checks; take `ttl`",
        ),
        (
            Check::Tcp { interval },
            Layout::GoKit,
            "c",
            "runs no TCP checks; take `ttl`",
        ),
        (
            Check::Ttl(SESSION),
            Layout::Grpc,
            "c",
            "a layout of etcd; take `go-kit` or `curator`",
        ),
        (Check::Ttl(SESSION), Layout::Curator, "a/b", "has no slash"),
    ] {
        let mut provider = provider(id, at(8080), layout);
        provider.check = check;
        let error = entry("main", &kind, provider).err().unwrap().to_string();
        assert!(
            error.starts_with("registry.main: ") && error.contains(says),
            "{error}"
        );
    }
}
