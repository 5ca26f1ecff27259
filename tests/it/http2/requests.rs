//! A request of HTTP/2 is to an endpoint what the same request of HTTP/1.1 is; one that could be read in two
//! ways is refused, and one that is not whole never looks so.

use std::{sync::Arc, time::Duration};

use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};

use super::{before, before_with, client, count, get, text, until_count};
use crate::support::{
    backend::Backend,
    eventually,
    frames::{
        CANCEL, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, NO_ERROR, PROTOCOL_ERROR,
        RST_STREAM, block, frame, head, request, reset,
    },
    raw::{RawBackend, Then, Wire, ok},
};

#[tokio::test]
async fn an_endpoint_sees_the_request_as_one_of_http_1_1() {
    let backend = RawBackend::saying(ok("ok"), Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect(proxy.address()).await;
    let fields = request(
        "POST",
        "/cart/a%2Fb?q=1",
        &[
            ("cookie", "a=1"),
            ("te", "trailers"),
            ("cookie", "b=2"),
            ("x-mine", "yes"),
            ("cookie", "c=3"),
        ],
    );
    client.send(head(1, 0, &fields)).await;
    client.send(frame(DATA, 0, 1, b"hel")).await;
    client.send(frame(DATA, 0, 1, b"lo")).await;
    let trailers = block(&[("x-sum", "5"), ("host", "evil.example")]);
    client
        .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers))
        .await;
    assert_eq!(client.answer(1).await, (200, b"ok".to_vec()));
    let [request] = &backend.requests()[..] else {
        panic!("{:?}", backend.requests());
    };
    assert_eq!(request.start(), "POST /cart/a%2Fb?q=1 HTTP/1.1");
    assert_eq!(request.field("host"), Some("shop.example"));
    assert_eq!(request.field("cookie"), Some("a=1; b=2; c=3"));
    assert_eq!(request.field("x-forwarded-host"), Some("shop.example"));
    assert_eq!(request.field("x-forwarded-proto"), Some("http"));
    assert!(request.field("via").unwrap().starts_with("2.0 callboard-"));
    assert_eq!(request.field("x-mine"), Some("yes"));
    assert_eq!(
        (request.text(), &*request.trailers),
        ("hello", "x-sum: 5\r\n")
    );
}

#[tokio::test]
async fn a_host_beside_another_authority_is_refused_and_the_same_one_is_not() {
    let backend = RawBackend::saying(ok("ok"), Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect(proxy.address()).await;
    let mut stream = 1;
    for (more, status) in [
        (&[("host", "shop.example")][..], 200),
        (&[("host", "SHOP.example")], 200),
        (&[("host", "other.example")], 400),
        (&[("host", "shop.example"), ("host", "shop.example")], 400),
    ] {
        let fields = request("GET", "/cart", more);
        client.send(head(stream, END_STREAM, &fields)).await;
        assert_eq!(client.answer(stream).await.0, status, "{more:?}");
        stream += 2;
    }
    for (authority, host, status) in [
        (Some("user@shop.example"), None, 400),
        (None, Some("shop.example"), 200),
        (None, None, 400),
    ] {
        let mut fields = vec![(":method", "GET"), (":scheme", "https"), (":path", "/cart")];
        fields.extend(authority.map(|authority| (":authority", authority)));
        fields.extend(host.map(|host| ("host", host)));
        client.send(head(stream, END_STREAM, &fields)).await;
        assert_eq!(
            client.answer(stream).await.0,
            status,
            "{authority:?} {host:?}"
        );
        stream += 2;
    }
    assert_eq!(backend.requests().len(), 3);
    assert_eq!(count(&proxy, "callboard_requests_refused_total").await, 4);
}

#[tokio::test]
async fn what_the_rules_of_http_1_1_refuse_is_refused_in_the_same_words() {
    let backend = RawBackend::saying(ok("ok"), Then::Keep).await;
    let proxy = before(
        backend.address(),
        "limits = { headers = 20, header_bytes = 8192 }",
    )
    .await;
    let many: Vec<_> = (0..20).map(|number| (format!("x-{number}"), "a")).collect();
    let many: Vec<_> = many.iter().map(|(name, value)| (&**name, *value)).collect();
    let crumbs = vec![("cookie", "a=b"); 60];
    let large = "a".repeat(9000);
    let long = format!("/cart?{}", "a".repeat(8200));
    let mut client = Frames::connect(proxy.address()).await;
    let mut stream = 1;
    for (fields, status) in [
        (request("GET", "/cart/../x", &[]), 400),
        (request("TRACE", "/cart", &[]), 405),
        (request("GET", "/cart", &many), 431),
        (request("GET", "/cart", &crumbs), 200),
        (request("GET", "/cart", &[("x", &large)]), 431),
        (request("GET", &long, &[]), 431),
        (request("GET", "/cart", &[("expect", "tea")]), 417),
        (request("GET", "/nothing", &[]), 404),
        (
            vec![(":method", "CONNECT"), (":authority", "a.example:443")],
            405,
        ),
    ] {
        client.send(head(stream, END_STREAM, &fields)).await;
        let status_of = client.answer(stream).await.0;
        assert_eq!(status_of, status, "{:?}", &fields[..2]);
        stream += 2;
    }
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn fields_of_a_connection_and_broken_heads_reset_their_stream_alone() {
    let backend = RawBackend::saying(ok("ok"), Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect(proxy.address()).await;
    let mut stream = 1;
    let cart = |more| request("GET", "/cart", more);
    for fields in [
        cart(&[("connection", "close")]),
        cart(&[("keep-alive", "1")]),
        cart(&[("proxy-connection", "close")]),
        cart(&[("transfer-encoding", "chunked")]),
        cart(&[("upgrade", "websocket")]),
        cart(&[("te", "gzip")]),
        cart(&[(":path", "/again")]),
        vec![(":method", "GET"), (":scheme", "http"), (":authority", "a")],
        vec![(":method", "GET"), (":path", "/cart"), (":authority", "a")],
        [cart(&[]), cart(&[])].concat(),
        request("GET", "", &[]),
    ] {
        client.send(head(stream, END_STREAM, &fields)).await;
        assert_eq!(client.reset_of(stream).await, PROTOCOL_ERROR, "{fields:?}");
        stream += 2;
    }
    client.send(head(stream, END_STREAM, &cart(&[]))).await;
    assert_eq!(client.answer(stream).await.0, 200);
    // What is no field at all ends the connection.
    for more in [("Upper", "case"), ("x", "a\nb: c"), (":late", "a")] {
        let mut client = Frames::connect(proxy.address()).await;
        client
            .send(head(1, END_STREAM, &request("GET", "/cart", &[more])))
            .await;
        assert_eq!(client.goaway().await, Some(PROTOCOL_ERROR), "{more:?}");
    }
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_is_never_a_whole_request() {
    let backend = RawBackend::saying(ok("ok"), Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect(proxy.address()).await;
    for (stream, sent) in [(1, &b"hell"[..]), (3, b"hello!")] {
        let fields = request("POST", "/cart", &[("content-length", "5")]);
        client.send(head(stream, 0, &fields)).await;
        client.send(frame(DATA, END_STREAM, stream, sent)).await;
        assert_eq!(client.reset_of(stream).await, PROTOCOL_ERROR);
    }
    // A head that ends the request, and says that it does not.
    let fields = request("POST", "/cart", &[("content-length", "5")]);
    client.send(head(5, END_STREAM, &fields)).await;
    assert_eq!(client.reset_of(5).await, PROTOCOL_ERROR);
    // One that breaks off.
    client.send(head(7, 0, &fields)).await;
    client
        .send([frame(DATA, 0, 7, b"hell"), reset(7)].concat())
        .await;
    client
        .send(head(9, END_STREAM, &request("GET", "/cart", &[])))
        .await;
    assert_eq!(client.answer(9).await.0, 200);
    let seen = backend.requests();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].start().starts_with("GET "), "{seen:?}");
}

#[tokio::test]
async fn a_body_without_a_length_that_breaks_off_is_never_a_whole_request() {
    let (seen, mut requests) = mpsc::unbounded_channel();
    let asked = Arc::new(Semaphore::new(0));
    let asks = Arc::clone(&asked);
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let (seen, asks) = (seen.clone(), Arc::clone(&asks));
        async move {
            if wire.head().await.is_none() {
                return;
            }
            asks.add_permits(1);
            let mut body = Vec::new();
            while let Ok(more) = wire.some().await {
                body.extend(more);
            }
            seen.send(body.ends_with(b"0\r\n\r\n")).unwrap();
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let body = [
        head(1, 0, &request("POST", "/cart", &[])),
        frame(DATA, 0, 1, b"hell"),
    ]
    .concat();
    for code in [NO_ERROR, CANCEL] {
        let mut client = Frames::connect(proxy.address()).await;
        client.send(&body).await;
        asked.acquire().await.unwrap().forget();
        let reset = frame(RST_STREAM, 0, 1, &code.to_be_bytes());
        client.send(reset).await;
        assert_eq!(requests.recv().await, Some(false), "{code}");
        until_count(&proxy, "callboard_http2_streams", 0).await;
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_goes_on_while_the_request_is_silent() {
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for _ in 0..10 {
            wire.send("1\r\na\r\n").await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        wire.send("0\r\n\r\n").await;
        let _ = wire.rest().await;
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "timeout = { body = \"1s\" }").await;
    let mut client = Frames::connect(proxy.address()).await;
    let fields = request("POST", "/cart", &[]);
    client.send(head(1, 0, &fields)).await;
    client.send(frame(DATA, 0, 1, b"a")).await;
    assert_eq!(client.answer(1).await, (200, b"a".repeat(10)));
}

#[tokio::test]
async fn an_answer_loses_what_belongs_to_its_connection_and_keeps_its_trailers() {
    let answer = "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\n\
        Connection: x-mine\r\nX-Mine: a\r\nX-Yours: b\r\nTrailer: x-sum\r\n\r\n\
        5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n";
    let backend = RawBackend::saying(answer, Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = client(proxy.address()).await;
    let answer = client.send_request(get("/cart")).await.unwrap();
    let headers = answer.headers();
    for gone in ["transfer-encoding", "keep-alive", "connection", "x-mine"] {
        assert!(!headers.contains_key(gone), "{headers:?}");
    }
    assert_eq!(headers["x-yours"], "b");
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "5");
    assert_eq!(body.to_bytes(), "hello");
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    for (answer, method, status) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", "GET", 204),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            "GET",
            304,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 200),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", 200),
    ] {
        let backend = RawBackend::saying(answer, Then::Keep).await;
        let proxy = before(backend.address(), "").await;
        let mut client = Frames::connect(proxy.address()).await;
        let fields = request(method, "/cart", &[]);
        client.send(head(1, END_STREAM, &fields)).await;
        let frames = client.all_of(1).await;
        assert_eq!(frames.len(), 1, "{answer}: {frames:?}");
        assert_eq!(frames[0].status(), status);
    }
}

#[tokio::test]
async fn the_proxys_own_answers_to_head_have_no_body() {
    let backend = RawBackend::saying("no answer", Then::Close).await;
    let tables =
        "[service.nobody]\nendpoints = []\n[[route]]\npath = \"/nobody\"\nservice = \"nobody\"";
    let proxy = before_with(backend.address(), "", tables).await;
    let mut client = client(proxy.address()).await;
    for (path, status) in [("/nothing", 404), ("/nobody", 503), ("/cart", 502)] {
        let request = Request::head(format!("http://shop.example{path}"));
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_ne!(answer.headers()[header::CONTENT_LENGTH], "0", "{path}");
        // A library of the field takes any byte of a body for an error.
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "", "{path}");
    }
    let mut frames = Frames::connect(proxy.address()).await;
    frames
        .send(head(1, END_STREAM, &request("HEAD", "/nothing", &[])))
        .await;
    assert_eq!(frames.all_of(1).await.len(), 1);
}

/// Bodies that their endpoint does not take, of which more is on its way than all buffers hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_stand_still_hold_up_no_other_request_of_their_connection() {
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        while let Some(head) = wire.head().await {
            if head.contains("/cart/stands") {
                std::future::pending::<()>().await;
            }
            if head.contains("/cart/upload") {
                wire.bytes(1 << 20).await;
            }
            wire.send(ok("taken")).await;
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = client(proxy.address()).await;
    let post = |path: &str, length: usize| {
        let request = Request::post(format!("http://shop.example/cart/{path}"));
        request.body(Full::from(vec![b'a'; length])).unwrap()
    };
    let standing: Vec<_> = (0..4)
        .map(|_| tokio::spawn(client.send_request(post("stands", 32 << 20))))
        .collect();
    let connections = async || backend.connections();
    eventually("all four have begun", connections, |count| *count == 4).await;
    for _ in 0..3 {
        let answer = client.send_request(post("upload", 1 << 20)).await.unwrap();
        assert_eq!(text(answer).await, "taken");
        let answer = client.send_request(get("/cart/small")).await.unwrap();
        assert_eq!(text(answer).await, "taken");
    }
    assert!(standing.iter().all(|upload| !upload.is_finished()));
}

#[tokio::test]
async fn an_early_answer_stops_the_request_and_leaves_the_connection() {
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .await;
        let _ = wire.rest().await;
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect(proxy.address()).await;
    for stream in [1, 3] {
        let fields = request("POST", "/cart", &[]);
        client.send(head(stream, 0, &fields)).await;
        client.send(frame(DATA, 0, stream, &[b'a'; 1000])).await;
        let frames = client.all_of(stream).await;
        assert!(frames.last().unwrap().ends(), "{frames:?}");
        let last = client.next().await.unwrap();
        assert_eq!((last.kind, last.stream), (RST_STREAM, stream));
        assert_eq!(last.code(), NO_ERROR);
    }
}

#[tokio::test]
async fn a_client_that_resets_its_stream_ends_the_attempt() {
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        wire.head().await;
        // The end of the connection, and no answer.
        let _ = wire.rest().await;
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect(proxy.address()).await;
    client
        .send(head(1, END_STREAM, &request("GET", "/cart", &[])))
        .await;
    until_count(&proxy, "callboard_http2_streams", 1).await;
    client.send(reset(1)).await;
    until_count(&proxy, "callboard_http2_streams", 0).await;
    until_count(
        &proxy,
        "callboard_requests_abandoned_total{service=\"cart\"}",
        1,
    )
    .await;
    let is_free = |cart: &Value| cart["endpoints"][0]["in_flight"] == 0;
    proxy
        .until_service("cart", "its endpoint is free", is_free)
        .await;
}

#[tokio::test]
async fn limits_of_requests_hold_for_streams() {
    let backend = Backend::start("a").await;
    let route = "rate = { requests = 3, per = \"1h\" }\n";
    let proxy = before_with(backend.address(), "", route).await;
    let mut client = client(proxy.address()).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let answer = client.send_request(get("/cart")).await.unwrap();
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
}

#[tokio::test]
async fn the_access_log_and_the_status_say_what_was_spoken() {
    let backend = Backend::start("a").await;
    let proxy = before(backend.address(), "").await;
    let mut client = client(proxy.address()).await;
    let request = Request::post("http://shop.example/cart");
    let request = request.header(header::ACCEPT, "application/json");
    let request = request.body(Full::new(Bytes::from("abc"))).unwrap();
    assert_eq!(client.send_request(request).await.unwrap().status(), 200);
    let status: Value = proxy.status().await;
    assert_eq!(status["http2"]["connections"], 1, "{status}");
    assert_eq!(count(&proxy, "callboard_http2_requests_total").await, 1);
}
