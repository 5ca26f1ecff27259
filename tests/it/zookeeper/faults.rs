//! A ZooKeeper that is killed, paused, emptied or replaced by another: no request fails, and soon
//! after it is back the set follows again. Counted as in `faults`.

use std::time::{Duration, Instant};

use callboard::{
    config,
    instance::InstanceSet,
    register::{Layout, Registrar},
};
use zookeeper_client::{Acls, CreateMode};

use crate::support::{
    backend::Backend,
    eventually,
    gokit::GoKit,
    load::{Ledger, Load},
    proxy::Proxy,
    relay::Relay,
    server::refusing,
    zookeeper::{SESSION, ZooKeeper, addresses, make, provider, settings, sign_in, watch},
};

/// Requests a second.
const RATE: u32 = 200;

/// A whole proxy before a ZooKeeper in which three backends keep themselves signed in.
struct Stage {
    server: ZooKeeper,
    proxy: Proxy,
    ledger: Ledger,
    backends: Vec<(Backend, Registrar)>,
}

impl Stage {
    async fn start() -> Option<Self> {
        let server = ZooKeeper::start().await?;
        let config = format!(
            "[registry.zookeeper]\naddress = \"{}\"\nsession_timeout = \"2s\"\n\
             [[route]]\npath = \"/cart\"\nservice = \"cart\"\nstrip_prefix = true\n",
            server.address()
        );
        let mut stage = Self {
            proxy: Proxy::start(&config).await,
            server,
            ledger: Ledger::default(),
            backends: Vec::new(),
        };
        for id in ["a", "b", "c"] {
            let backend = stage.ledger.backend(id).start().await;
            let registrar = stage.sign_in(id, &backend).await;
            stage.backends.push((backend, registrar));
        }
        stage.until_serving(&[]).await;
        Some(stage)
    }

    async fn sign_in(&self, id: &str, backend: &Backend) -> Registrar {
        let provider = provider(id, backend.address(), Layout::GoKit);
        sign_in(&settings(&[self.server.address()]), provider).await
    }

    /// Waits until all backends serve, with these, and nobody else.
    async fn until_serving(&self, more: &[&Backend]) {
        let all = self.backends.iter().map(|(backend, _)| backend);
        let states: Vec<_> = all
            .chain(more.iter().copied())
            .map(|backend| (backend.address(), "serving"))
            .collect();
        self.proxy.until_states("cart", &states).await;
    }

    /// Waits until the proxy says that it cannot read the registry, and returns why.
    async fn until_unread(&self) -> String {
        let failing = self.proxy.until_service("cart", "an error", |service| {
            service["watches"][0]["healthy"] == false
        });
        failing.await["watches"][0]["error"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The server has just come back: one that signs in now is soon called, and one that signs out
    /// and closes fails nobody.
    async fn follows_again(mut self, what: &str, load: Load) {
        let back = Instant::now();
        let new = self.ledger.backend("new").start().await;
        let client = self.server.client().await;
        make(
            &client,
            "/services/cart/new",
            new.address().to_string().as_bytes(),
        )
        .await;
        let written = back.elapsed();
        let called = eventually("it is called", async || new.requests(), |n| *n > 0);
        called.await;
        let took = back.elapsed();
        println!("{what}: followed again after {took:.0?}, and written after {written:.0?}");

        self.until_serving(&[&new]).await;
        let (old, registrar) = self.backends.remove(0);
        registrar.deregister().await.unwrap();
        self.until_gone(&old).await;
        old.close().await;
        let report = load.stop(&self.ledger).await;
        report.assert_flawless_but_for_closes(what);
    }

    async fn until_gone(&self, old: &Backend) {
        let old = old.address().to_string();
        self.proxy
            .until_service("cart", "it is gone", |service| {
                let mut all = service["endpoints"].as_array().into_iter().flatten();
                !all.any(|each| each["address"] == *old && each["state"] == "serving")
            })
            .await;
    }

    async fn load(&self) -> Load {
        Load::start(self.proxy.address(), "/cart", RATE).await
    }
}

/// A stretch of the scenario itself, during which the load runs; nothing is waited for.
async fn let_pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_killed_and_comes_back_with_its_data() {
    let Some(mut stage) = Stage::start().await else {
        return;
    };
    let load = stage.load().await;
    let_pass(300).await;
    stage.server.kill();
    let error = stage.until_unread().await;
    assert!(error.starts_with("zookeeper at 127.0.0.1:"), "{error}");
    let_pass(2_000).await;
    stage.server.run().await;
    stage
        .follows_again("killed, back with its data", load)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_killed_and_comes_back_empty() {
    let Some(mut stage) = Stage::start().await else {
        return;
    };
    let load = stage.load().await;
    let_pass(300).await;
    stage.server.kill();
    stage.server.wipe();
    stage.until_unread().await;
    stage.server.run().await;
    stage.follows_again("killed, back empty", load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_paused_until_every_session_is_over() {
    let Some(stage) = Stage::start().await else {
        return;
    };
    let load = stage.load().await;
    let_pass(300).await;
    let paused = Instant::now();
    stage.server.pause();
    stage.until_unread().await;
    let noticed = paused.elapsed();
    println!("paused: noticed after {noticed:.0?}");
    let_pass(4_000).await;
    stage.server.resume();
    stage.follows_again("paused for 4 s and more", load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watchers_session_expires() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let relay = Relay::start(server.address()).await;
    let client = server.client().await;
    let settings = config::ZooKeeper {
        session_timeout: SESSION,
        ..settings(&[relay.address()])
    };
    let cart = watch(&settings, "cart");
    make(&client, "/services/cart/a", b"10.0.0.1:80").await;
    cart.until("it is read", |set| set.instances.len() == 1)
        .await;
    relay.part();
    let error = cart.error().await;
    assert!(
        error.contains("the connection was lost") || error.contains("no session"),
        "{error}"
    );
    // More than the session, and all that happens meanwhile is unseen.
    tokio::time::sleep(SESSION * 2).await;
    make(&client, "/services/cart/b", b"10.0.0.2:80").await;
    client.delete("/services/cart/a", None).await.unwrap();
    let last = cart.published().pop().unwrap();
    assert_eq!(addresses(&last), ["10.0.0.1:80"], "the last set stays");
    relay.join();
    cart.until("it follows", |set| addresses(set) == ["10.0.0.2:80"])
        .await;
    make(&client, "/services/cart/c", b"10.0.0.3:80").await;
    cart.until("and goes on", |set| set.instances.len() == 2)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_loses_one_server_after_another() {
    let Some(mut servers) = ZooKeeper::ensemble().await else {
        return;
    };
    let all: Vec<_> = servers.iter().map(ZooKeeper::address).collect();
    let settings = settings(&all);
    let cart = watch(&settings, "cart");
    let registrar = sign_in(&settings, provider("own", all[0], Layout::GoKit)).await;
    cart.until("it is there", |set| set.instances.len() == 1)
        .await;
    let own = all[0].to_string();
    // One of three may be away, whichever the watcher and the provider are connected to.
    for away in 0..3 {
        servers[away].kill();
        let client = servers[(away + 1) % 3].client().await;
        let node = format!("/services/cart/{away}");
        let data = format!("10.0.0.1:{}", 1000 + away);
        let made = eventually(
            "the others have a leader",
            async || {
                let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
                client
                    .create(&node, data.as_bytes(), &options)
                    .await
                    .is_ok()
                    || client
                        .check_stat(&node)
                        .await
                        .is_ok_and(|stat| stat.is_some())
            },
            |made| *made,
        );
        made.await;
        let of_both = |set: &InstanceSet| {
            let set = addresses(set);
            set.len() == away + 2 && set.contains(&data) && set.contains(&own)
        };
        cart.until("the new one and the own", of_both).await;
        registrar.registered().await;
        servers[away].run().await;
    }
    registrar.deregister().await.unwrap();
    cart.until("it is gone", |set| !addresses(set).contains(&own))
        .await;
}

#[tokio::test]
async fn the_first_of_two_addresses_is_dead() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let closed = refusing();
    let client = server.client().await;
    make(&client, "/services/cart/a", b"10.0.0.1:80").await;
    for _ in 0..5 {
        let settings = settings(&[closed, server.address()]);
        let cart = watch(&settings, "cart");
        cart.until("it is read", |set| addresses(set) == ["10.0.0.1:80"])
            .await;
        assert_eq!(cart.status().failures, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_route_follows_the_catalog() {
    let Some(server) = ZooKeeper::start().await else {
        return;
    };
    let proxy = Proxy::start(&format!(
        "[registry.zookeeper]\naddress = \"{}\"\n",
        server.address()
    ))
    .await;
    let missing = eventually(
        "there is no such service",
        async || proxy.get("/cart/").await.status().as_u16(),
        |status| *status == 404,
    );
    missing.await;
    let backend = Backend::start("a").await;
    let value = backend.address().to_string();
    let address = server.address().to_string();
    let Some(go_kit) = GoKit::sign_in(&["zk", &address, "/services", "cart", &value]) else {
        return;
    };
    assert_eq!(proxy.until_served("/cart/").await, "a");
    drop(go_kit);
    backend.close().await;
    let gone = eventually(
        "nobody is left",
        async || proxy.get("/cart/").await.status().as_u16(),
        |status| *status == 503,
    );
    gone.await;
}
