//! Who registers is served, and who is gone is not asked.

use std::time::Duration;

use http::Method;

use super::support::{
    backend::{BACKEND, Backend},
    eventually,
    proxy::Proxy,
};

#[tokio::test]
async fn what_registers_is_served_until_it_is_gone() {
    let proxy = Proxy::start("").await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    proxy.register("hello", a.address()).await;
    assert_eq!(proxy.until_served("/hello/x").await, "a");
    let posted = proxy.http.post(proxy.url("/hello")).body("text");
    let posted = posted.send().await.unwrap();
    assert_eq!(posted.headers()[BACKEND], a.id());
    assert_eq!(a.requests_with(&Method::POST), 1);
    assert!(a.requests() >= 2);
    assert!(a.connections() >= 1);

    proxy.register("hello", b.address()).await;
    proxy.deregister("hello", a.address()).await;
    a.close().await;
    let served = eventually(
        "the other serves",
        async || proxy.until_served("/hello").await,
        |id| id == "b",
    );
    served.await;
    let address = b.address();
    b.kill().await;
    assert_eq!(proxy.get("/hello").await.status(), 502);
    let again = Backend::named("again")
        .at(address)
        .closing_idle_after(Duration::from_secs(1))
        .answering(async |request| request.uri().to_string())
        .start();
    let _again = again.await;
    assert_eq!(proxy.until_served("/hello/path?q").await, "/path?q");
    assert_eq!(proxy.url("/"), format!("http://{}/", proxy.address()));
    proxy.drain().await;
}
