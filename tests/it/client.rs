//! Client-side discovery without a proxy in between: who is registered is called, who is gone is
//! not, and nothing that may have been processed is sent twice.

use std::{net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use callboard::{
    client::{AnsweredBy, Caller, Client, Error},
    config::Config,
};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty, Full};
use serde_json::json;
use tokio::sync::Semaphore;
use tower::{Service as _, ServiceExt};

use crate::support::{
    backend::Backend,
    consul::Consul,
    eventually,
    proxy::{Proxy, instance},
    raw::{RawBackend, Then, leaves_after, ok},
};

/// A client of the registry that a proxy brings along; nothing is sent through the proxy.
fn client(registry: &str) -> Client {
    let text = format!("[registry.main]\nkind = \"consul\"\naddress = \"{registry}\"\n");
    let config = Config::parse_for_client(&text, Path::new(".")).unwrap();
    Client::start(config).unwrap()
}

async fn get(caller: &Caller) -> Result<(String, AnsweredBy), Error> {
    let request = Request::get("/x").body(Empty::<Bytes>::new()).unwrap();
    let response = caller.send(request).await?;
    let by = response.extensions().get::<AnsweredBy>().cloned().unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok((String::from_utf8(body.to_vec()).unwrap(), by))
}

/// Waits until so many can be called.
async fn until_there_are(client: &Client, name: &str, count: usize) {
    let endpointer = client.endpointer(name).unwrap();
    let ask = async || endpointer.endpoints().await.map_or(0, |all| all.len());
    eventually("they can be called", ask, |now| *now == count).await;
}

#[tokio::test]
async fn who_has_nobody_is_stood_in_for_by_its_fallback() {
    let proxy = Proxy::start("").await;
    let [cart, sorry] = [Backend::start("cart").await, Backend::start("sorry").await];
    let text = format!(
        "[registry.main]\nkind = \"consul\"\naddress = \"{}\"\n\
         [service.cart]\nfallback = \"sorry\"\n\
         [service.sorry]\nendpoints = [\"{}\"]\n",
        proxy.registry(""),
        sorry.address()
    );
    let config = Config::parse_for_client(&text, Path::new(".")).unwrap();
    let client = Client::start(config).unwrap();
    let caller = client.service("cart").unwrap();
    let body = Full::from("a body that must arrive whole");
    let request = Request::post("/x").body(body).unwrap();
    let response = caller.send(request).await.unwrap();
    let by = response.extensions().get::<AnsweredBy>().unwrap();
    assert_eq!(by.endpoint.to_string(), sorry.address().to_string());
    proxy.register("cart", cart.address()).await;
    until_there_are(&client, "cart", 1).await;
    assert_eq!(get(&caller).await.unwrap().0, "cart");
    let stats = caller.service().all_stats();
    assert_eq!(stats.map(|stats| stats.fallbacks.value()).sum::<u64>(), 1);
}

#[tokio::test]
async fn who_was_asked_leaves_as_the_last_and_the_fallback_gets_the_body_whole() {
    const BODY: &str = "a body that must arrive whole";
    let proxy = Proxy::start("").await;
    let sorry = RawBackend::saying(ok("sorry"), Then::Keep).await;
    let may_leave = Arc::new(Semaphore::new(0));
    let (leaves, has_read) = leaves_after(BODY.len(), Arc::clone(&may_leave)).await;
    let text = format!(
        "[registry.main]\nkind = \"consul\"\naddress = \"{}\"\n\
         [service.cart]\nfallback = \"sorry\"\nguard = false\n\
         [service.sorry]\nendpoints = [\"{}\"]\n",
        proxy.registry(""),
        sorry.address()
    );
    let config = Config::parse_for_client(&text, Path::new(".")).unwrap();
    let client = Client::start(config).unwrap();
    proxy.register("cart", leaves).await;
    until_there_are(&client, "cart", 1).await;
    let caller = client.service("cart").unwrap();
    let request = Request::put("/x").body(Full::from(BODY)).unwrap();
    let asking = tokio::spawn(async move { caller.send(request).await.unwrap().status() });
    drop(has_read.acquire().await.unwrap());
    proxy.deregister("cart", leaves).await;
    until_there_are(&client, "cart", 0).await;
    may_leave.add_permits(1);
    assert_eq!(asking.await.unwrap(), 200);
    assert_eq!(sorry.requests()[0].text(), BODY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_threads_call_each_in_turn_and_what_they_count_is_right() {
    let proxy = Proxy::start("").await;
    let backends = [Backend::start("a").await, Backend::start("b").await];
    for backend in &backends {
        proxy.register("cart", backend.address()).await;
    }
    let client = client(&proxy.registry(""));
    until_there_are(&client, "cart", 2).await;
    let cart = client.service("cart").unwrap();
    let callers = (0..8).map(|_| {
        let cart = cart.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                get(&cart).await.unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    assert_eq!(backends.each_ref().map(Backend::requests), [200, 200]);
    let status = client.endpointer("cart").unwrap().status();
    let sum = |of: fn(&callboard::service::EndpointStatus) -> u64| {
        status.endpoints.iter().map(of).sum::<u64>()
    };
    assert_eq!(sum(|endpoint| endpoint.attempts), 400);
    assert_eq!(sum(|endpoint| endpoint.in_flight), 0);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_killed_or_deregistered_fails_nobody() {
    let proxy = Proxy::start("").await;
    let mut backends = Vec::new();
    for id in ["a", "b", "c"] {
        let backend = Backend::start(id).await;
        proxy.register("cart", backend.address()).await;
        backends.push(backend);
    }
    let client = client(&proxy.registry(""));
    until_there_are(&client, "cart", 3).await;
    let cart = client.service("cart").unwrap();
    let calling = {
        let cart = cart.clone();
        tokio::spawn(async move {
            for _ in 0..600 {
                get(&cart).await.unwrap();
            }
        })
    };
    backends.remove(0).kill().await;
    let leaves = backends.remove(0);
    proxy.deregister("cart", leaves.address()).await;
    leaves.close().await;
    calling.await.unwrap();
    assert!(backends[0].requests() > 0);
    assert_eq!(get(&cart).await.unwrap().0, "c");
}

#[tokio::test]
async fn a_post_that_may_have_been_processed_is_not_sent_again() {
    let proxy = Proxy::start("").await;
    // Takes the request, and closes without a word.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bad: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.readable().await.unwrap();
            let mut bytes = [0; 4096];
            let _ = stream.try_read(&mut bytes);
        }
    });
    let good = Backend::start("good").await;
    for address in [bad, good.address()] {
        proxy.register("cart", address).await;
    }
    let client = client(&proxy.registry(""));
    until_there_are(&client, "cart", 2).await;
    let mut cart = client.service("cart").unwrap();
    let (mut answered, mut failed) = (0, 0);
    for _ in 0..10 {
        let request = Request::post("/x")
            .body(Full::new(Bytes::from("once")))
            .unwrap();
        let ready = ServiceExt::<Request<Full<Bytes>>>::ready(&mut cart).await;
        match ready.unwrap().call(request).await {
            Ok(response) => answered += usize::from(response.status() == 200),
            Err(error @ Error::Failed { .. }) => {
                assert!(error.to_string().contains(&bad.to_string()), "{error}");
                failed += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((answered, failed), (5, 5));
    assert_eq!(good.requests_with(&Method::POST), 5);
    // A GET is sent elsewhere.
    for _ in 0..4 {
        assert_eq!(get(&cart).await.unwrap().0, "good");
    }
}

#[tokio::test]
async fn it_follows_a_real_consul_and_names_whom_to_call_for_other_protocols() {
    let Some(consul) = Consul::start().await else {
        return;
    };
    let client = client(&consul.url());
    let instancer = client.instancer("main", "cart").unwrap();
    let mut known = instancer.subscribe();
    let none = known.wait_for(|known| known.instances.is_some()).await;
    assert!(
        none.unwrap()
            .instances
            .as_ref()
            .unwrap()
            .instances
            .is_empty()
    );
    let address: SocketAddr = "127.0.0.1:7".parse().unwrap();
    consul
        .register(json!({
            "ID": instance("cart", address), "Name": "cart",
            "Address": address.ip(), "Port": address.port(),
        }))
        .await;
    let one = known.wait_for(|known| {
        let set = known.instances.as_ref();
        set.is_some_and(|set| set.instances.len() == 1)
    });
    drop(one.await.unwrap());
    until_there_are(&client, "cart", 1).await;
    let picked = client.balancer("cart").unwrap().endpoint().await.unwrap();
    assert_eq!(picked.address().to_string(), address.to_string());
}
