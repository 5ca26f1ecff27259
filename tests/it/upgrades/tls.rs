//! With TLS in front, and behind, a tunnel is the same.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::support::{
    authority::Authority,
    raw::{Then, ok},
    tls::{End, TlsBackend, VERSIONS, server},
};

/// A proxy that speaks TLS on both sides, in front of this backend.
async fn secured(backend: SocketAddr, drain: &str) -> (Proxy, TlsBackend, TlsConnector) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let config = server(&authority.issue("cart"), &VERSIONS, None);
    let backend = TlsBackend::before(backend, config, End::Said).await;
    authority.issue("site");
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::pem_file_iter(authority.ca()).unwrap();
    roots.add_parsable_certificates(ca.map(Result::unwrap));
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = format!(
        "workers = 1\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificates = [{{ cert = \"site-certificate.pem\", key = \"site-key.pem\" }}] }}\n\
         [service.cart]\ntls = {{ ca = \"ca.pem\" }}\ntimeout.connect = \"10s\"\n\
         drain = \"{drain}\"\nguard = false\n"
    );
    let proxy = Proxy::start_in(folder, &config).await;
    let more = json!({"Meta": {"scheme": "https"}});
    proxy.register_with("cart", backend.address(), more).await;
    let known = |service: &Value| {
        service["endpoints"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
    };
    proxy.until_service("cart", "it is known", known).await;
    (proxy, backend, TlsConnector::from(Arc::new(client)))
}

async fn opened(proxy: &Proxy, connector: &TlsConnector) -> TlsStream<TcpStream> {
    let (client, head) = asked(proxy, connector, ASKS).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    client
}

/// A client, and the head that it has got for this request.
async fn asked(
    proxy: &Proxy,
    connector: &TlsConnector,
    request: &str,
) -> (TlsStream<TcpStream>, String) {
    let socket = TcpStream::connect(proxy.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = connector.connect(name, socket).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    (client, String::from_utf8(head).unwrap())
}

#[tokio::test]
async fn tls_says_the_end_behind_an_upgrade_that_was_refused() {
    let backend = RawBackend::saying(ok("plain"), Then::Keep).await;
    let (proxy, _backend, connector) = secured(backend.address(), "30s").await;
    let closes = ASKS.replace("keep-alive", "close");
    let (mut client, head) = asked(&proxy, &connector, &closes).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut body = Vec::new();
    // Fails where TLS has not said it.
    client.read_to_end(&mut body).await.unwrap();
    assert_eq!(body, b"plain");
}

#[tokio::test]
async fn bytes_go_both_ways_and_an_end_is_passed_on() {
    let echo = echoing().await;
    let (proxy, _backend, connector) = secured(echo.address(), "30s").await;
    let client = opened(&proxy, &connector).await;
    let bytes: Vec<u8> = (0..500_000_u32).map(|at| (at % 251) as u8).collect();
    let (mut reading, mut writing) = tokio::io::split(client);
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        writing.write_all(&sent).await.unwrap();
        writing.flush().await.unwrap();
        writing
    });
    let mut got = vec![0; bytes.len()];
    reading.read_exact(&mut got).await.unwrap();
    assert!(got == bytes);
    let mut writing = sending.await.unwrap();
    writing.shutdown().await.unwrap();
    assert_eq!(reading.read_to_end(&mut got).await.unwrap(), 0);
    until_ended(&proxy, "client", 1).await;
}

#[tokio::test]
async fn a_cut_without_a_word_of_tls_is_no_end() {
    let (heard, hears) = gate();
    let backend = switching(move |mut wire| {
        let hears = Arc::clone(&hears);
        async move {
            let _ = wire.rest().await;
            hears.add_permits(1);
        }
    })
    .await;
    let (proxy, _backend, connector) = secured(backend.address(), "30s").await;
    let client = opened(&proxy, &connector).await;
    // The socket is closed under the session.
    let (socket, _) = client.into_inner();
    drop(socket);
    heard.acquire().await.unwrap().forget();
    until_ended(&proxy, "client_reset", 1).await;
}

#[tokio::test]
async fn both_sides_are_told_of_the_end() {
    let (told, tells) = gate();
    let backend = switching(move |mut wire| {
        let tells = Arc::clone(&tells);
        async move {
            let frame = wire.rest().await.unwrap();
            assert_eq!((frame.len(), &frame[..2]), (8, &[0x88, 0x82][..]));
            tells.add_permits(1);
        }
    })
    .await;
    let (proxy, backend, connector) = secured(backend.address(), "1s").await;
    let mut client = opened(&proxy, &connector).await;
    proxy.deregister("cart", backend.address()).await;
    let mut frame = Vec::new();
    client.read_to_end(&mut frame).await.unwrap();
    assert_eq!(frame, GOING_AWAY);
    client.shutdown().await.unwrap();
    told.acquire().await.unwrap().forget();
}
