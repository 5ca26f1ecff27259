//! HTTP from a client through the proxy to a backend and back, byte by byte where that matters:
//! what is passed on, what is refused, and that neither side can be led to read a message in
//! another way than the other.

mod answers;
mod bodies;
mod corpus;
mod ends;
mod expect;
mod own;
mod removal;
mod requests;
mod retries;
mod spelling;
mod timeouts;

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{eventually, proxy::Proxy};

/// A proxy with this configuration besides, which sends `/cart` to a backend that it knows.
async fn before(backend: SocketAddr, config: &str) -> Proxy {
    before_all(&[backend], config).await
}

/// Endpoints have their turns one after the other, though one of them fails.
const IN_TURN: &str = "[service.cart]\neject.answers = false\n";

/// The same with several backends.
async fn before_all(backends: &[SocketAddr], config: &str) -> Proxy {
    // One worker, so that it is known which pool a connection goes back to.
    let route = "workers = 1\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n";
    let proxy = Proxy::start(&format!("{route}{config}")).await;
    for backend in backends {
        proxy.register("cart", *backend).await;
    }
    let known = eventually(
        "the proxy knows them",
        async || cart(&proxy).await["endpoints"].as_array().unwrap().len(),
        |known| *known == backends.len(),
    );
    known.await;
    proxy.until_ready().await;
    proxy
}

/// What the proxy says of the service.
async fn cart(proxy: &Proxy) -> Value {
    let status = proxy.http.get(proxy.admin("/api/status"));
    let mut status: Value = status.send().await.unwrap().json().await.unwrap();
    status["services"][0].take()
}
