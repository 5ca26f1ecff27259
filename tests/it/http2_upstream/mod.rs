//! Endpoints that speak HTTP/2: requests share connections, what was not processed is sent again, what
//! broke off is never a clean end, and all else is as with any endpoint.

mod connections;
mod exchanges;
mod frames;
mod grpc;
mod retries;

use std::net::SocketAddr;

use serde_json::json;

use crate::support::proxy::Proxy;

/// A proxy with one worker, so that it is known which connection a request takes. It sends `/cart` to
/// these endpoints by HTTP/2, and has long to connect on a busy machine; `config` is added.
async fn before(endpoints: &[SocketAddr], config: &str) -> Proxy {
    let in_turn = match config.contains("eject") {
        true => "",
        false => "eject.answers = false\n",
    };
    let text = format!(
        "workers = 1\n[defaults]\ntimeout.connect = \"20s\"\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [service.cart]\nprotocol = \"h2c\"\n{in_turn}{config}"
    );
    let proxy = Proxy::start(&text).await;
    for endpoint in endpoints {
        proxy.register_with("cart", *endpoint, json!({})).await;
    }
    let states: Vec<_> = endpoints.iter().map(|at| (*at, "serving")).collect();
    proxy.until_states("cart", &states).await;
    proxy.until_ready().await;
    proxy
}
