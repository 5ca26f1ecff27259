//! Calls of gRPC go through from end to end, HTTP/2 in front and behind: messages flow both ways, who gives up
//! is heard, and no call is lost where endpoints are replaced or the proxy ends.

mod interop;
mod statuses;
mod streams;
mod web;

use std::net::SocketAddr;

use serde_json::json;

use crate::support::{authority::Authority, proxy::Proxy};

/// A proxy that sends all calls to the endpoints of one service by HTTP/2, with a listener in the clear and one
/// that speaks TLS, whose authority is in `ca.pem` of its folder. `config` is added.
async fn before(endpoint: SocketAddr, config: &str) -> Proxy {
    let folder = tempfile::tempdir().unwrap();
    Authority::new(folder.path()).issue("site");
    let text = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n[[listen]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }}] }}\n\
         [[route]]\npath = \"/\"\nservice = \"calls\"\n{config}"
    );
    let proxy = Proxy::start_in(folder, &text).await;
    register(&proxy, endpoint).await;
    proxy.until_states("calls", &[(endpoint, "serving")]).await;
    proxy.until_ready().await;
    proxy
}

/// Signs an endpoint in that says itself what it speaks.
async fn register(proxy: &Proxy, endpoint: SocketAddr) {
    let says = json!({ "Meta": { "protocol": "h2c" } });
    proxy.register_with("calls", endpoint, says).await;
}
