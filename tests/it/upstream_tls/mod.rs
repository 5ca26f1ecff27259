//! Endpoints that speak TLS are called over it, are proven to be who they should be before they
//! are sent anything, and otherwise behave as all others do.

mod connections;
mod protocols;
mod trust;

use std::net::SocketAddr;

use serde_json::json;
use tempfile::TempDir;

use crate::support::{authority::Authority, proxy::Proxy, tls::TlsBackend};

/// A service's `tls` that knows the test's authority.
const CA: &str = "ca = \"ca.pem\"";

/// A handshake of a debug build on a busy machine takes its time.
const DEFAULTS: &str = "[defaults]\ntimeout = { connect = \"10s\" }\n";

/// A folder with an authority's certificate in it.
fn authority() -> (TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    (folder, authority)
}

/// A proxy in that folder with one worker, so that it is known which pool a connection goes back
/// to; `tls` is that of the service `cart`.
async fn proxy(folder: TempDir, tls: &str) -> Proxy {
    let config = format!("workers = 1\n{DEFAULTS}[service.cart]\ntls = {{ {tls} }}\n");
    Proxy::start_in(folder, &config).await
}

/// Signs a backend in as one that speaks TLS.
async fn register(proxy: &Proxy, name: &str, backend: SocketAddr) {
    let more = json!({"Meta": {"scheme": "https"}});
    proxy.register_with(name, backend, more).await;
}

/// The same, and waits until it is served.
async fn serve(proxy: &Proxy, backend: &TlsBackend) {
    register(proxy, "cart", backend.address()).await;
    proxy.until_served("/cart/first").await;
}
