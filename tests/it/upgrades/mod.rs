//! A client's connection goes over to another protocol where the client, the file and the endpoint want
//! it, and no sooner; then bytes go both ways as they are, until an end that both sides are told of.

mod clients;
mod connect;
mod drain;
mod frames;
mod handshake;
mod limits;
mod registry;
mod tls;
mod tunnel;
mod websocket;

use std::{net::SocketAddr, sync::Arc};

use serde_json::Value;
use tokio::sync::Semaphore;

use crate::support::{
    eventually,
    proxy::Proxy,
    raw::{Message, RawBackend, Wire},
};

/// A request that asks for WebSocket, as browsers write it.
const ASKS: &str = "GET /cart HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The answer that goes over to it.
const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// The frame by which the proxy says to a client that it goes away.
const GOING_AWAY: [u8; 4] = [0x88, 2, 3, 0xe9];

/// A proxy with this configuration besides, which sends `/cart` to these backends.
async fn before(backends: &[SocketAddr], config: &str) -> Proxy {
    let route = "workers = 1\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n";
    let proxy = Proxy::start(&format!("{route}{config}")).await;
    know(&proxy, backends).await;
    proxy
}

/// Signs backends in, and waits until the proxy knows them.
async fn know(proxy: &Proxy, backends: &[SocketAddr]) {
    for backend in backends {
        proxy.register("cart", *backend).await;
    }
    let know = |service: &Value| {
        let endpoints = service["endpoints"].as_array();
        endpoints.is_some_and(|known| known.len() == backends.len())
    };
    proxy.until_service("cart", "it knows them", know).await;
    proxy.until_ready().await;
}

/// A backend that goes over to WebSocket, and serves each connection like this from then on.
async fn switching<F>(serve: impl Fn(Wire) -> F + Clone + Send + Sync + 'static) -> RawBackend
where
    F: Future<Output = ()> + Send + 'static,
{
    RawBackend::serving(move |mut wire| {
        let serve = serve.clone();
        async move {
            if wire.head().await.is_none() {
                return;
            }
            wire.send(SWITCHES).await;
            serve(wire).await;
        }
    })
    .await
}

/// One that says what it hears.
async fn echoing() -> RawBackend {
    switching(echo).await
}

async fn echo(mut wire: Wire) {
    while let Ok(bytes) = wire.some().await {
        if tokio::io::AsyncWriteExt::write_all(&mut wire.stream, &bytes)
            .await
            .is_err()
        {
            return;
        }
    }
}

/// A client whose connection has gone over.
async fn opened(proxy: &Proxy) -> Wire {
    let (wire, head) = asked(proxy, ASKS).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    wire
}

/// A client, and the head that it has got for this request.
async fn asked(proxy: &Proxy, request: &str) -> (Wire, String) {
    let mut wire = Wire::connect(proxy.address()).await;
    wire.send(request).await;
    let head = wire.head().await.expect("an answer");
    (wire, head)
}

/// The fields of a head.
fn message(head: String) -> Message {
    Message {
        head,
        body: Vec::new(),
        trailers: String::new(),
    }
}

/// Waits until so many tunnels are open, and returns what is said of the service.
async fn until_open(proxy: &Proxy, count: u64) -> Value {
    let of_endpoints = |service: &Value, key: &str| -> u64 {
        let endpoints = service["endpoints"].as_array().into_iter().flatten();
        endpoints
            .map(|endpoint| endpoint[key].as_u64().unwrap())
            .sum()
    };
    // What is said of the service and of its endpoints is of two moments; and an endpoint that is gone is
    // not in the list any more.
    let are = |service: &Value| {
        let of_endpoints = |key| of_endpoints(service, key);
        service["tunnels"] == count
            && of_endpoints("tunnels") <= count
            && of_endpoints("in_flight") == of_endpoints("tunnels")
    };
    let what = format!("{count} tunnels are open");
    proxy.until_service("cart", &what, are).await
}

/// How many tunnels have ended so.
async fn ended(proxy: &Proxy, end: &str) -> u64 {
    metric(
        proxy,
        &format!("callboard_tunnels_ended_total{{service=\"cart\",end=\"{end}\"}}"),
    )
    .await
}

/// A metric's value; 0 where there is none.
async fn metric(proxy: &Proxy, name: &str) -> u64 {
    let text = proxy.page("/metrics").await.text().await.unwrap();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    value.unwrap_or_default() as u64
}

/// Waits until so many tunnels have ended so.
async fn until_ended(proxy: &Proxy, end: &str, count: u64) {
    let what = format!("{count} tunnels have ended: {end}");
    eventually(
        &what,
        async || ended(proxy, end).await,
        |ended| *ended == count,
    )
    .await;
}

/// What a backend waits for.
fn gate() -> (Arc<Semaphore>, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    (Arc::clone(&gate), gate)
}
