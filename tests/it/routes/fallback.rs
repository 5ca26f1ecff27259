//! A service that has nobody is stood in for by its fallback, and no request is lost on the way
//! there and back. Attempts that fail are not what it is for.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore};

use super::sample;
use crate::support::{
    backend::{BACKEND, Backend},
    eventually,
    load::{Ledger, Load},
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, leaves_after, ok},
};

fn config(sorry: &Backend, more: &str) -> String {
    config_with(sorry.address(), more)
}

fn config_with(sorry: SocketAddr, more: &str) -> String {
    format!(
        r#"
        workers = 2
        [[route]]
        path = "/cart"
        service = "cart"
        strip_prefix = true
        [service.cart]
        guard = false
        fallback = "sorry"
        [service.sorry]
        endpoints = ["{}"]
        {more}
        "#,
        sorry
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_empties_and_fills_again_under_load_and_no_request_fails() {
    let ledger = Ledger::default();
    let sorry = ledger.backend("sorry").start().await;
    let proxy = Proxy::start(&config(&sorry, "")).await;
    let mut backend = ledger.backend("cart-0").start().await;
    proxy.register("cart", backend.address()).await;
    proxy
        .until_states("cart", &[(backend.address(), "serving")])
        .await;
    let load = Load::start(proxy.address(), "/cart", 200).await;
    for n in 1..5 {
        let asked = sorry.requests();
        eventually("it serves", async || backend.requests(), |n| *n > 10).await;
        // It signs out, goes on for a moment, and closes.
        proxy.deregister("cart", backend.address()).await;
        let more = |n: &usize| *n > asked + 10;
        eventually("the fallback serves", async || sorry.requests(), more).await;
        backend.close().await;
        backend = ledger.backend(&format!("cart-{n}")).start().await;
        proxy.register("cart", backend.address()).await;
    }
    eventually("it serves again", async || backend.requests(), |n| *n > 10).await;
    let report = load.stop(&ledger).await;
    report.assert_flawless_but_for_closes("a service that empties and fills again");

    let taken = sorry.requests() as u64;
    let cart = proxy.service("cart").await;
    assert_eq!(
        (cart["fallbacks"].as_u64(), cart["failed"].as_u64()),
        (Some(taken), Some(0))
    );
    assert_eq!(cart["fallback"], "sorry");
    assert_eq!(
        proxy.service("sorry").await["requests"].as_u64(),
        Some(taken)
    );
    let name = "callboard_requests_fallback_total{service=\"cart\"}";
    assert_eq!(sample(&proxy, name).await, Some(taken));
}

#[tokio::test]
async fn who_was_asked_leaves_as_the_last_and_what_may_be_repeated_goes_to_the_fallback() {
    let sorry = Backend::start("sorry").await;
    let proxy = Proxy::start(&config(&sorry, "")).await;
    let stuck = Backend::named("stuck").answering(|_| std::future::pending::<String>());
    let stuck = stuck.start().await;
    proxy.register("cart", stuck.address()).await;
    let states = [(stuck.address(), "serving")];
    proxy.until_states("cart", &states).await;
    let ask = |method: Method| {
        let request = proxy.http.request(method, proxy.url("/cart/x"));
        tokio::spawn(request.send())
    };
    let (get, post) = (ask(Method::GET), ask(Method::POST));
    eventually("both are asked", async || stuck.requests(), |n| *n == 2).await;
    let states = [(stuck.address(), "draining")];
    proxy.deregister("cart", stuck.address()).await;
    proxy.until_states("cart", &states).await;
    stuck.kill().await;
    let (get, post) = (get.await.unwrap().unwrap(), post.await.unwrap().unwrap());
    assert_eq!(get.headers()[BACKEND], "sorry");
    assert_eq!(post.status(), 502, "it may have been processed");
    assert_eq!(sorry.requests_with(&Method::POST), 0);
}

#[tokio::test]
async fn a_body_comes_to_the_fallback_whole_however_much_of_it_was_read() {
    const BODY: &str = "a body of which no byte may be lost on its way elsewhere";
    for (read, chunked) in [(BODY.len(), false), (20, false), (20, true)] {
        let sorry = RawBackend::saying(ok("sorry"), Then::Keep).await;
        let proxy = Proxy::start(&config_with(sorry.address(), "")).await;
        let may_leave = Arc::new(Semaphore::new(0));
        // The size of a chunk and the ends of its lines are read, too.
        let on_the_wire = read + if chunked { "14\r\n".len() } else { 0 };
        let (leaves, has_read) = leaves_after(on_the_wire, Arc::clone(&may_leave)).await;
        proxy.register("cart", leaves).await;
        proxy.until_states("cart", &[(leaves, "serving")]).await;
        let (first, rest) = BODY.split_at(read);
        let mut client = Wire::connect(proxy.address()).await;
        let (framing, first, rest) = if chunked {
            let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
            let last = chunk(rest) + "0\r\n\r\n";
            ("Transfer-Encoding: chunked".to_owned(), chunk(first), last)
        } else {
            let length = format!("Content-Length: {}", BODY.len());
            (length, first.to_owned(), rest.to_owned())
        };
        client
            .send(format!(
                "PUT /cart/x HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{first}"
            ))
            .await;
        drop(has_read.acquire().await.unwrap());
        proxy.deregister("cart", leaves).await;
        proxy.until_states("cart", &[(leaves, "draining")]).await;
        may_leave.add_permits(1);
        client.send(rest).await;
        assert_eq!(client.message().await.unwrap().text(), "sorry");
        let served = sorry.requests();
        assert_eq!(served.len(), 1, "{read}, chunked: {chunked}");
        let body = String::from_utf8(served[0].body.clone()).unwrap();
        assert_eq!(body, BODY, "{read}: {}", served[0].head);
    }
}

#[tokio::test]
async fn a_routes_fallback_stands_before_its_services_and_for_a_subset_that_is_empty() {
    let [cart, sorry, spare] = [
        Backend::start("cart").await,
        Backend::start("sorry").await,
        Backend::start("spare").await,
    ];
    let more = format!(
        r#"
        [service.spare]
        endpoints = ["{}"]
        [[route]]
        path = "/v2"
        service = "cart"
        tags = ["v2"]
        [[route]]
        path = "/spared"
        service = "cart"
        tags = ["v2"]
        fallback = "spare"
        [[route]]
        path = "/lost"
        service = "nobody"
        fallback = "none"
        "#,
        spare.address()
    );
    let proxy = Proxy::start(&config(&sorry, &more)).await;
    proxy.register("cart", cart.address()).await;
    proxy
        .until_states("cart", &[(cart.address(), "serving")])
        .await;
    for (path, backend) in [("/cart", "cart"), ("/v2", "sorry"), ("/spared", "spare")] {
        assert_eq!(proxy.get(path).await.headers()[BACKEND], backend, "{path}");
    }
    let answer = proxy.get("/lost").await;
    assert_eq!(answer.status(), 503);
    let text = answer.text().await.unwrap();
    let said =
        "service `nobody` is not registered, and its fallback `none` has no healthy instance";
    assert!(text.contains(said), "{text}");
    let status = proxy.status().await;
    assert_eq!(status["routes"][2]["fallback"], json!("spare"));
}

/// A registry that takes connections, and says nothing.
async fn silent() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

#[tokio::test]
async fn a_fallback_is_for_who_is_not_there_and_not_for_who_fails() {
    let sorry = Backend::start("sorry").await;
    let gone = Backend::start("gone").await;
    let nowhere = gone.address();
    gone.close().await;
    let silent = silent().await;
    let proxy = Proxy::start(&format!(
        r#"
        [registry.silent]
        kind = "consul"
        address = "http://{}"
        [[route]]
        path = "/failing"
        service = "failing"
        [[route]]
        path = "/unread"
        service = "unread"
        [defaults]
        discovery_timeout = "50ms"
        [service.failing]
        endpoints = ["{nowhere}"]
        fallback = "sorry"
        [service.unread]
        fallback = "sorry"
        [service.sorry]
        endpoints = ["{}"]
        "#,
        silent.local_addr().unwrap(),
        sorry.address()
    ))
    .await;
    assert_eq!(proxy.get("/failing").await.status(), 502);
    assert_eq!(sorry.requests(), 0);
    let answer = proxy.get("/unread").await;
    assert_eq!(answer.headers()[BACKEND], "sorry");
}

/// Nobody knows whether it has instances: that none is healthy would be made up.
#[tokio::test]
async fn a_service_whose_registry_was_never_read_is_said_to_be_unread() {
    let silent = silent().await;
    let proxy = Proxy::start(&format!(
        r#"
        [registry.silent]
        kind = "consul"
        address = "http://{}"
        [[route]]
        path = "/plain"
        service = "unread"
        [[route]]
        path = "/v2"
        service = "unread"
        tags = ["v2"]
        [[route]]
        path = "/empty-next"
        service = "unread"
        fallback = "empty"
        [[route]]
        path = "/unread-next"
        service = "unread"
        fallback = "other"
        [[route]]
        path = "/empty-first"
        service = "empty"
        fallback = "other"
        [[route]]
        path = "/of/{{service}}"
        service = "{{service}}"
        [defaults]
        discovery_timeout = "50ms"
        [service.empty]
        endpoints = []
        "#,
        silent.local_addr().unwrap(),
    ))
    .await;
    let unread = "the registry could not be read yet";
    for (path, says) in [
        ("/of/unread", format!("{unread} (")),
        ("/plain", format!("{unread} for service `unread` (")),
        ("/v2", format!("{unread} for service `unread` (")),
        (
            "/empty-next",
            format!(
                "{unread} for service `unread`, and its fallback `empty` has no healthy instance ("
            ),
        ),
        (
            "/unread-next",
            format!("{unread} for service `unread`, nor for its fallback `other` ("),
        ),
        (
            "/empty-first",
            format!(
                "service `empty` has no healthy instance, and {unread} for its fallback `other` ("
            ),
        ),
    ] {
        let answer = proxy.get(path).await;
        assert_eq!(answer.status(), 503, "{path}");
        assert_eq!(answer.headers()["retry-after"], "1", "{path}");
        let text = answer.text().await.unwrap();
        let says = format!("503 Service Unavailable: {says}");
        assert!(text.starts_with(&says), "{path}: {text}");
    }
}

/// The time that a request has is over all: the wait for a service that nobody has read, and the
/// attempts at the one that stands in for it.
#[tokio::test]
async fn a_fallback_whose_first_endpoint_hangs_answers_in_the_requests_own_time() {
    let silent = silent().await;
    let hangs = Backend::named("hangs").answering(|_| std::future::pending::<String>());
    let [hangs, sorry] = [hangs.start().await, Backend::start("sorry").await];
    let ask = async |discovery: &str, total: &str| {
        let proxy = Proxy::start(&format!(
            r#"
            workers = 1
            [registry.silent]
            kind = "consul"
            address = "http://{}"
            [[route]]
            path = "/unread"
            service = "unread"
            [defaults]
            discovery_timeout = "{discovery}"
            timeout = {{ total = "{total}" }}
            retry = {{ try_timeout = "2s" }}
            # Each has its turn, though one fails.
            eject = {{ answers = false }}
            [service.unread]
            fallback = "sorry"
            [service.sorry]
            endpoints = ["{}", "{}"]
            "#,
            silent.local_addr().unwrap(),
            hangs.address(),
            sorry.address()
        ))
        .await;
        let mut took = Vec::new();
        // One of them begins with the one that hangs.
        for _ in 0..2 {
            let began = Instant::now();
            let status = proxy.get("/unread").await.status().as_u16();
            took.push((status, began.elapsed()));
        }
        took.sort();
        took.try_into().unwrap()
    };
    let asked = hangs.requests();
    let millis = Duration::from_millis;
    let [(first, quick), (second, slow)]: [_; 2] = ask("200ms", "10s").await;
    assert_eq!((first, second), (200, 200));
    assert_eq!(hangs.requests(), asked + 1);
    assert!(
        quick >= millis(200) && slow >= millis(2_200),
        "{quick:?}, {slow:?}"
    );
    assert!(slow < millis(9_000), "{slow:?}");

    // Here it is over before the attempt that hangs is.
    let [(first, _), (second, over)]: [_; 2] = ask("200ms", "1700ms").await;
    assert_eq!((first, second), (200, 504));
    assert!(over >= millis(1_700) && over < millis(9_000), "{over:?}");
}
