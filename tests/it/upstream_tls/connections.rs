//! Connections over TLS are kept, closed, cut and filled as all others are.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, StatusCode, header::HOST};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Barrier,
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::server::TlsStream;

use super::{CA, DEFAULTS, authority, proxy, register, serve};
use crate::support::{
    backend::Backend,
    eventually,
    load::{Client, Ledger, Load, Report},
    proxy::Proxy,
    raw::{RawBackend, Then, ok},
    tls::{End, TlsBackend, VERSIONS, server},
};

#[tokio::test]
async fn requests_share_a_connection_and_the_next_one_resumes_its_session() {
    for version in VERSIONS {
        let (folder, authority) = authority();
        let both = Arc::new(Barrier::new(2));
        let backend = Backend::named("tls").answering(move |request| {
            let both = Arc::clone(&both);
            async move {
                if request.uri().path() == "/both" {
                    both.wait().await;
                }
                "done"
            }
        });
        let backend = backend.start().await;
        let config = server(&authority.issue("cart"), &[version], None);
        let tls = TlsBackend::before(backend.address(), config, End::Said).await;
        let proxy = proxy(folder, CA).await;
        serve(&proxy, &tls).await;
        for _ in 0..10 {
            assert_eq!(proxy.get("/cart/x").await.status(), StatusCode::OK);
            // No POST: a connection that has been idle for half a second is not for it.
            let put = proxy.http.put(proxy.url("/cart")).body("text").send();
            assert_eq!(put.await.unwrap().status(), StatusCode::OK);
        }
        assert_eq!(tls.handshakes().len(), 1, "{:?}", tls.handshakes());

        let (a, b) = tokio::join!(proxy.get("/cart/both"), proxy.get("/cart/both"));
        assert_eq!((a.status(), b.status()), (StatusCode::OK, StatusCode::OK));
        let handshakes = tls.handshakes();
        let resumed: Vec<_> = handshakes.iter().map(|each| each.resumed).collect();
        assert_eq!(resumed, [false, true], "{handshakes:?}");
    }
}

#[tokio::test]
async fn what_tls_says_on_an_idle_connection_does_not_end_it() {
    let (folder, authority) = authority();
    let changes = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&changes);
    let config = server(&authority.issue("cart"), &VERSIONS[1..], None);
    let tls = TlsBackend::serving(config, move |stream| {
        changes_keys(stream, Arc::clone(&count))
    });
    let tls = tls.await;
    let proxy = proxy(folder, CA).await;
    serve(&proxy, &tls).await;
    for (asked, method) in [Method::GET, Method::DELETE]
        .iter()
        .cycle()
        .take(8)
        .enumerate()
    {
        let changed = async || changes.load(Relaxed);
        eventually("the keys are new", changed, |changes| *changes > asked).await;
        let answer = proxy
            .http
            .request(method.clone(), proxy.url("/cart"))
            .send();
        assert_eq!(answer.await.unwrap().text().await.unwrap(), "well");
    }
    assert_eq!(tls.handshakes().len(), 1, "{:?}", tls.handshakes());
}

/// Answers requests without a body; after each, when the answer has been taken, come new keys,
/// which like a late ticket are no part of any answer.
async fn changes_keys(mut stream: TlsStream<TcpStream>, changes: Arc<AtomicUsize>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                return;
            }
        }
        stream.write_all(&ok("well")).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.get_mut().1.refresh_traffic_keys().unwrap();
        stream.flush().await.unwrap();
        changes.fetch_add(1, Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_closes_idle_connections_fails_nobody_with_and_without_a_word() {
    const LANES: u64 = 40;
    let (folder, authority) = authority();
    let config = server(&authority.issue("cart"), &VERSIONS, None);
    let proxy = Proxy::start_in(folder, &format!("{DEFAULTS}tls = {{ {CA} }}\n")).await;
    let ledger = Ledger::default();
    let mut backends = Vec::new();
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let name = format!("lane-{lane}");
        let idle = Duration::from_secs(1);
        let backend = ledger.backend(&name).closing_idle_after(idle).start().await;
        let end = [End::Said, End::Cut][(lane / 2 % 2) as usize];
        let tls = TlsBackend::before(backend.address(), config.clone(), end).await;
        register(&proxy, &name, tls.address()).await;
        proxy.until_served(&format!("/{name}/x")).await;
        backends.push((backend, tls));
        let client = Client::new(proxy.address(), &format!("/{name}")).numbered_from(lane * 1_000);
        // Where a request and the end may cross on the way.
        let gap = Duration::from_micros(996_000 + 10_000 * lane / LANES);
        let method = [Method::GET, Method::POST][(lane % 2) as usize].clone();
        lanes.spawn(async move {
            let mut outcomes = Vec::new();
            for _ in 0..6 {
                outcomes.push(client.call(method.clone()).await);
                sleep_exactly(gap).await;
            }
            outcomes
        });
    }
    let report = Report::new(lanes.join_all().await.concat(), &ledger).await;
    report.assert_flawless_but_for_closes("idle TLS connections closed at 1 s");
    // Otherwise the gaps would be nowhere near the limit.
    let handshakes: usize = backends.iter().map(|(_, tls)| tls.handshakes().len()).sum();
    assert!(handshakes > 2 * LANES as usize, "{handshakes} connections");
}

/// The runtime's own sleep is exact to a millisecond.
async fn sleep_exactly(gap: Duration) {
    let end = Instant::now() + gap;
    tokio::time::sleep(gap - Duration::from_millis(2)).await;
    while Instant::now() < end {
        tokio::task::yield_now().await;
    }
}

/// A proxy before a backend that says this and closes, with or without a word.
async fn says_and_ends(answer: &str, end: End) -> (RawBackend, TlsBackend, Proxy) {
    let (folder, authority) = authority();
    let backend = RawBackend::saying(answer, Then::Close).await;
    let config = server(&authority.issue("cart"), &VERSIONS, None);
    let tls = TlsBackend::before(backend.address(), config, end).await;
    // Named outright, so that it is known before the one request.
    let route = "[[route]]\npath = \"/cart\"\nservice = \"cart\"\n";
    let config = format!("{DEFAULTS}tls = {{ {CA} }}\n{route}");
    let proxy = Proxy::start_in(folder, &config).await;
    register(&proxy, "cart", tls.address()).await;
    let states = [(tls.address(), "serving")];
    proxy.until_states("cart", &states).await;
    (backend, tls, proxy)
}

/// All that a client gets for a request, to the end of its connection; and whether that is whole.
async fn whole(proxy: &Proxy, method: &str) -> (String, bool) {
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    let head = "/cart/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let request = format!("{method} {head}");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    // A reset is an end too.
    while let Ok(1..) = client.read_buf(&mut got).await {}
    let got = String::from_utf8(got).unwrap();
    let ended = got.ends_with("\r\n0\r\n\r\n");
    (got, ended)
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole_only_where_the_end_was_said() {
    let answer = "HTTP/1.1 200 OK\r\n\r\nhalf";
    for (end, is_whole) in [(End::Said, true), (End::Cut, false)] {
        let (_backend, _tls, proxy) = says_and_ends(answer, end).await;
        let (got, ended) = whole(&proxy, "GET").await;
        // What comes with its own end may not be passed on at all.
        assert!(got.contains("half") || !is_whole, "{got}");
        assert_eq!(ended, is_whole, "{end:?}: {got}");
        let failures = &proxy.service("cart").await["endpoints"][0]["failures"];
        assert_eq!(*failures, u64::from(!is_whole), "{end:?}");
    }
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        for end in [End::Said, End::Cut] {
            let (_backend, _tls, proxy) = says_and_ends(answer, end).await;
            let (got, ended) = whole(&proxy, "GET").await;
            assert!(!ended, "{end:?}: {got}");
        }
    }
}

#[tokio::test]
async fn a_post_whose_connection_ends_without_an_answer_is_not_sent_again() {
    for end in [End::Said, End::Cut] {
        let (backend, tls, proxy) = says_and_ends("", end).await;
        let (got, _) = whole(&proxy, "POST").await;
        assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
        assert_eq!((backend.requests().len(), tls.handshakes().len()), (1, 1));
    }
}

const LARGE: usize = 64 * 1024 * 1024;
const PIECE: usize = 64 * 1024;

/// Bytes that differ from place to place.
fn piece(number: usize) -> Bytes {
    (0..PIECE)
        .map(|at| (number * 31 + at % 251) as u8)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_both_ways_as_fast_as_they_are_taken() {
    let (folder, authority) = authority();
    let echo = Backend::named("echo").answering(async |request| Body::new(request.into_body()));
    let echo = echo.start().await;
    let config = server(&authority.issue("cart"), &VERSIONS, None);
    let tls = TlsBackend::before(echo.address(), config, End::Said).await;
    let proxy = proxy(folder, CA).await;
    serve(&proxy, &tls).await;

    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    let pieces = (0..LARGE / PIECE).map(move |number| {
        count.fetch_add(PIECE, Relaxed);
        Ok::<_, Infallible>(Frame::data(piece(number)))
    });
    let request = Request::post("/cart")
        .header(HOST, "a")
        .body(StreamBody::new(stream::iter(pieces)))
        .unwrap();
    let socket = TcpStream::connect(proxy.address()).await.unwrap();
    let (mut client, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let answer = client.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    // Nobody reads the answer, and so in the end nobody takes the request either.
    let twice = async || {
        let before = asked.load(Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
        (before, asked.load(Relaxed))
    };
    let stuck = |(before, after): &(usize, usize)| *before > 0 && before == after;
    let (_, stuck) = eventually("the client is held up", twice, stuck).await;
    println!("the client was held up after {stuck} bytes of {LARGE}");
    assert!(stuck < LARGE, "{stuck}");

    let mut body = answer.into_body();
    let mut got = Vec::with_capacity(LARGE);
    while let Some(frame) = body.frame().await {
        got.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    assert_eq!(got.len(), LARGE);
    let mut pieces = got.chunks(PIECE).enumerate();
    assert!(pieces.all(|(number, got)| got == piece(number)));
    assert_eq!(tls.handshakes().len(), 1);
}

#[tokio::test]
async fn a_service_may_have_instances_with_tls_and_without() {
    let (folder, authority) = authority();
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let config = server(&authority.issue("cart"), &VERSIONS, None);
    let tls = TlsBackend::before(b.address(), config, End::Said).await;
    let proxy = proxy(folder, CA).await;
    proxy.register("cart", a.address()).await;
    serve(&proxy, &tls).await;
    let states = [(a.address(), "serving"), (tls.address(), "serving")];
    proxy.until_states("cart", &states).await;
    let before = (a.requests(), b.requests());
    for _ in 0..10 {
        assert_eq!(proxy.get("/cart").await.status(), StatusCode::OK);
    }
    let (a, b) = (a.requests() - before.0, b.requests() - before.1);
    assert_eq!((a, b), (5, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_changes_to_tls_and_back_fails_nobody() {
    let (folder, authority) = authority();
    let ledger = Ledger::default();
    let plain = ledger.backend("plain").start().await;
    let secret = ledger.backend("secret").start().await;
    let config = server(&authority.issue("cart"), &VERSIONS, None);
    let tls = TlsBackend::before(secret.address(), config, End::Said).await;
    let address = both_on_one_port(plain.address(), tls.address()).await;
    let proxy = proxy(folder, CA).await;
    proxy.register("cart", address).await;
    proxy.until_served("/cart/x").await;
    let load = Load::start(proxy.address(), "/cart", 200).await;
    for scheme in ["https", "http", "https"] {
        let is_tls = scheme == "https";
        let more = json!({"Meta": {"scheme": scheme}});
        proxy.register_with("cart", address, more).await;
        let changed = |cart: &Value| cart["endpoints"][0]["tls"] == is_tls;
        proxy.until_service("cart", "it is known", changed).await;
        // At 60 requests in that time, whoever is not asked is not asked any more.
        let (asked, unasked) = if is_tls {
            (&secret, &plain)
        } else {
            (&plain, &secret)
        };
        let counts = async || {
            let before = (asked.requests(), unasked.requests());
            tokio::time::sleep(Duration::from_millis(300)).await;
            (asked.requests() - before.0, unasked.requests() - before.1)
        };
        let only_one = |(asked, unasked): &(usize, usize)| *asked > 0 && *unasked == 0;
        eventually("only one way is taken", counts, only_one).await;
        proxy.until_states("cart", &[(address, "serving")]).await;
    }
    let report = load.stop(&ledger).await;
    report.assert_flawless("from plain to TLS, back and again");
}

/// A port that takes both: a handshake of TLS begins with the byte 22.
async fn both_on_one_port(plain: SocketAddr, tls: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut first = [0];
                if !matches!(socket.peek(&mut first).await, Ok(1)) {
                    return;
                }
                let to = if first == [22] { tls } else { plain };
                let mut onward = TcpStream::connect(to).await.unwrap();
                drop(copy_bidirectional(&mut socket, &mut onward).await);
            });
        }
    });
    address
}
