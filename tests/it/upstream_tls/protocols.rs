//! Which version of HTTP is spoken over TLS: the one that the service says, or that the endpoint chooses.

use futures_util::future::join_all;

use super::{CA, DEFAULTS, authority, register};
use crate::support::{
    backend::Backend,
    proxy::Proxy,
    tls::{End, TlsBackend, VERSIONS, server},
};

/// How three requests at once were answered, and what each handshake has chosen, of an endpoint that knows
/// these protocols and then speaks HTTP/2 or 1.1.
async fn answers(
    protocol: &str,
    known: &[&str],
    is_http2: bool,
) -> (Vec<String>, Vec<Option<String>>) {
    let (folder, authority) = authority();
    let backend = Backend::named("tls")
        .answering(|request| async move { format!("{:?}", request.version()) });
    let backend = match is_http2 {
        true => backend.http2(100).start().await,
        false => backend.start().await,
    };
    let mut config = server(&authority.issue("cart"), &VERSIONS, None);
    config.alpn_protocols = known.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tls = TlsBackend::before(backend.address(), config, End::Said).await;
    let text = format!(
        "workers = 1\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         {DEFAULTS}[service.cart]\nprotocol = {protocol}\ntls = {{ {CA} }}\n"
    );
    let proxy = Proxy::start_in(folder, &text).await;
    register(&proxy, "cart", tls.address()).await;
    proxy
        .until_states("cart", &[(tls.address(), "serving")])
        .await;
    let answers = join_all((0..3).map(async |_| {
        let answer = proxy.get("/cart/x").await;
        match answer.status().as_u16() {
            200 => answer.text().await.unwrap(),
            status => status.to_string(),
        }
    }));
    let answers = answers.await;
    let handshakes = tls.handshakes().into_iter();
    (answers, handshakes.map(|one| one.protocol).collect())
}

#[tokio::test]
async fn the_version_is_the_services_or_the_endpoints_choice() {
    for (protocol, known, is_http2, answer, chosen) in [
        (
            "\"auto\"",
            &["h2", "http/1.1"][..],
            true,
            "HTTP/2.0",
            Some("h2"),
        ),
        (
            "\"auto\"",
            &["http/1.1"],
            false,
            "HTTP/1.1",
            Some("http/1.1"),
        ),
        ("\"auto\"", &[], false, "HTTP/1.1", None),
        ("\"h2\"", &["http/1.1", "h2"], true, "HTTP/2.0", Some("h2")),
        ("\"h2\"", &[], false, "502", None),
        (
            "\"http1\"",
            &["h2", "http/1.1"],
            false,
            "HTTP/1.1",
            Some("http/1.1"),
        ),
        (
            "false",
            &["h2", "http/1.1"],
            false,
            "HTTP/1.1",
            Some("http/1.1"),
        ),
    ] {
        let (answers, handshakes) = answers(protocol, known, is_http2).await;
        assert_eq!(answers, [answer; 3], "{protocol}, {known:?}");
        for handshake in &handshakes {
            assert_eq!(handshake.as_deref(), chosen, "{protocol}, {known:?}");
        }
        assert!(
            !is_http2 || handshakes.len() == 1,
            "{protocol}, {known:?}: {handshakes:?}"
        );
    }
}
