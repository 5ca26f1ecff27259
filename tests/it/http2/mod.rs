//! Clients that speak HTTP/2 are served as all others are, over TLS and in the clear; endpoints see the same
//! of them; and what only HTTP/2 has can be used against no other client.

mod attacks;
mod clients;
mod ends;
mod requests;
mod spec;

use std::{net::SocketAddr, process::Stdio};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, process::Command};

use crate::support::{authority::Authority, eventually, proxy::Proxy};

/// A proxy with a listener in the clear and one that speaks TLS, both with these lines besides, which sends
/// `/cart` to a backend that it knows.
async fn before(backend: SocketAddr, listener: &str) -> Proxy {
    before_with(backend, listener, "").await
}

/// The same, with these tables besides.
async fn before_with(backend: SocketAddr, listener: &str, tables: &str) -> Proxy {
    let folder = tempfile::tempdir().unwrap();
    Authority::new(folder.path()).issue_for("site", &["localhost", "127.0.0.1"], |_| {});
    let config = format!(
        "workers = 1\n[[listen]]\naddress = \"127.0.0.1:0\"\n{listener}\n[[listen]]\n\
         address = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }}] }}\n\
         {listener}\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n{tables}"
    );
    let proxy = Proxy::start_in(folder, &config).await;
    proxy.register("cart", backend).await;
    proxy.until_states("cart", &[(backend, "serving")]).await;
    proxy.until_ready().await;
    proxy
}

/// What is counted under this name.
async fn count(proxy: &Proxy, metric: &str) -> u64 {
    let text = proxy.page("/metrics").await.text().await.unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let mut values = lines.filter(|(name, _)| *name == metric);
    let (_, value) = values
        .next()
        .unwrap_or_else(|| panic!("no {metric} in {text}"));
    value.parse::<f64>().unwrap() as u64
}

/// Waits until so much is counted under this name.
async fn until_count(proxy: &Proxy, metric: &str, expected: u64) {
    let ask = async || count(proxy, metric).await;
    eventually(metric, ask, |value| *value == expected).await;
}

/// A client of the field, on one connection.
type Client = SendRequest<Full<Bytes>>;

async fn client(address: SocketAddr) -> Client {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(async move {
        // How it ends is its tests' to assert.
        let _ = connection.await;
    });
    client
}

/// A request of a path to some host.
fn get(path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(format!("http://shop.example{path}"));
    request.body(Full::default()).unwrap()
}

async fn text(answer: Response<Incoming>) -> String {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// What curl says with these arguments, and the protocol that it spoke in the last line.
async fn curl(arguments: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args([
        "-sSk",
        "--max-time",
        "20",
        "-w",
        "\n%{http_code} %{http_version}",
    ]);
    let output = curl.args(arguments).stdin(Stdio::null()).output();
    let output = output.await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
