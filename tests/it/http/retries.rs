//! What of a request is kept, so that another endpoint can be sent it again: a body that was read
//! up to 64 KiB, and one that nobody has read whatever its size.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{before_all, cart};
use crate::support::{
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, ok},
};

const KEPT: usize = 64 * 1024;

/// Bytes that differ from place to place.
fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Sends this body, and says what the answer's status is.
async fn send(proxy: &Proxy, method: &str, body: &[u8], chunked: bool) -> u16 {
    let mut client = Wire::connect(proxy.address()).await;
    let framing = if chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {}", body.len())
    };
    let mut request =
        format!("{method} /cart HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").into_bytes();
    if chunked {
        for piece in body.chunks(10_000) {
            request.extend(format!("{:x}\r\n", piece.len()).into_bytes());
            request.extend(piece);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
    } else {
        request.extend(body);
    }
    client.ask(request).await.status()
}

#[tokio::test]
async fn a_body_of_64_kib_is_sent_again_as_it_was_and_one_byte_more_is_502() {
    for chunked in [false, true] {
        for (length, status) in [(KEPT, 200), (KEPT + 1, 502)] {
            let closes = RawBackend::saying("", Then::Close).await;
            let well = RawBackend::saying(ok("well"), Then::Keep).await;
            let proxy = before_all(&[closes.address(), well.address()], "").await;
            let body = body(length);
            let mut statuses = Vec::new();
            // One of two in turn begins with the one that closes.
            for _ in 0..2 {
                statuses.push(send(&proxy, "PUT", &body, chunked).await);
            }
            statuses.sort_unstable();
            assert_eq!(statuses, [200, status], "{length}, chunked: {chunked}");
            let asked = closes.requests();
            assert_eq!(asked.len(), 1, "{length}, chunked: {chunked}");
            assert!(asked[0].body == body, "it has read all before it closed");
            let served = well.requests();
            assert_eq!(served.len(), if status == 200 { 2 } else { 1 });
            for request in served {
                assert_eq!(request.body.len(), length, "chunked: {chunked}");
                assert!(request.body == body, "{length}, chunked: {chunked}");
                assert_eq!(
                    request.field("transfer-encoding").is_some(),
                    chunked,
                    "{}",
                    request.head
                );
            }
        }
    }
}

/// Nobody was sent any of it, and so any method may go elsewhere.
#[tokio::test]
async fn a_body_that_nobody_has_read_is_sent_elsewhere_whatever_its_size() {
    let well = RawBackend::saying(ok("well"), Then::Keep).await;
    let refuses = nobody().await;
    let proxy = before_all(&[refuses, well.address()], "").await;
    let body = body(3 * 1024 * 1024);
    for chunked in [false, true] {
        for _ in 0..2 {
            assert_eq!(send(&proxy, "POST", &body, chunked).await, 200);
        }
    }
    let cart = cart(&proxy).await;
    let endpoints = cart["endpoints"].as_array().unwrap();
    let refused = endpoints
        .iter()
        .find(|endpoint| endpoint["address"] == refuses.to_string())
        .unwrap();
    assert!(refused["failures"].as_u64().unwrap() >= 1, "{cart}");
    assert_eq!(cart["retries"], refused["failures"]);
    let served = well.requests();
    assert_eq!(served.len(), 4);
    assert!(served.iter().all(|request| request.body == body));
}

/// Where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
