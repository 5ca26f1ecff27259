//! What the listener answers by itself, by the same rules as everything else.

use super::before;
use crate::support::{
    eventually,
    fake_consul::FakeConsul,
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, ok},
};

const LISTEN: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\nhealth_path = \"/healthz\"\n";

#[tokio::test]
async fn options_of_the_server_itself_are_answered_by_the_proxy() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    for asked in [
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\n\r\n",
    ] {
        let got = Wire::connect(proxy.address()).await.ask(asked).await;
        assert_eq!(got.status(), 204);
        assert!(
            got.field("allow").unwrap().contains("PATCH"),
            "{}",
            got.head
        );
    }
    assert!(backend.requests().is_empty());
}

/// Whoever is in front reads the same bytes, and must not read another request in them.
#[tokio::test]
async fn what_is_malformed_is_refused_though_the_proxy_would_answer_it_by_itself() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let proxy = before(backend.address(), LISTEN).await;
    for start in ["OPTIONS *", "GET /healthz", "OPTIONS /healthz"] {
        for (status, fields) in [
            (400, ""),
            (400, "Host: a\r\nHost: a\r\n"),
            (400, "Host: a b\r\n"),
            (501, "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n"),
            (417, "Host: a\r\nExpect: a-miracle\r\n"),
        ] {
            let asked = format!("{start} HTTP/1.1\r\n{fields}\r\n");
            let got = Wire::connect(proxy.address()).await.ask(&asked).await;
            assert_eq!(got.status(), status, "{asked:?}");
        }
    }
    for (status, start) in [
        (405, "TRACE /healthz"),
        (405, "CONNECT a:80"),
        (400, "GET *"),
        (400, "POST *"),
        (414, &format!("GET /healthz?{}", "a".repeat(9_000))),
    ] {
        let asked = format!("{start} HTTP/1.1\r\nHost: a\r\n\r\n");
        let got = Wire::connect(proxy.address()).await.ask(&asked).await;
        assert_eq!(got.status(), status, "{asked:.100?}");
    }
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn the_health_path_says_whether_the_proxy_may_be_sent_traffic() {
    let consul = FakeConsul::start([]).await;
    let registry = format!("[registry.consul]\naddress = \"{}\"\n", consul.url());
    let route = "[[route]]\npath = \"/\"\nservice = \"cart\"\n";
    let drain = "[drain]\nnotice = \"2s\"\ndeadline = \"5s\"\n";
    let proxy = Proxy::start(&format!("{route}{LISTEN}{registry}{drain}")).await;
    let address = proxy.address();
    let asked = "GET /healthz?from=balancer HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n";
    let health = async || {
        let got = Wire::connect(address).await.ask(asked).await;
        (got.status(), got.text().to_owned())
    };
    // Its registry has not answered yet.
    assert_eq!(health().await, (503, "not ready\n".to_owned()));
    consul.holds(7, "[]");
    let ready = eventually("it is ready", health, |(status, _)| *status == 200);
    assert_eq!(ready.await.1, "ready\n");
    // The path alone, and not what is below it, which the route takes.
    let below = "GET /healthz/x HTTP/1.1\r\nHost: a\r\n\r\n";
    let got = Wire::connect(address).await.ask(below).await;
    assert!(
        got.text().contains("`cart` is not registered"),
        "{}",
        got.text()
    );
    let old = "HEAD /healthz HTTP/1.0\r\n\r\n";
    let mut client = Wire::connect(address).await;
    client.send(old).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.0 200"));

    let draining = tokio::spawn(proxy.drain());
    let not_ready = eventually("it drains", health, |(status, _)| *status == 503);
    assert_eq!(not_ready.await.1, "not ready\n");
    draining.await.unwrap();
}
