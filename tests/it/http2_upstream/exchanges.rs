//! What an endpoint of HTTP/2 gets of a request, and a client of its answer.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    before,
    frames::{
        ACK, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, INTERNAL_ERROR, NO_ERROR, OK, PING,
        RST_STREAM,
    },
};
use crate::support::{
    PATIENCE,
    backend::Backend,
    raw::{RawBackend, Wire},
};

/// Bytes that differ from place to place.
fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn a_request_is_said_anew_without_what_belongs_to_the_connection() {
    let backend = Backend::named("a")
        .http2(100)
        .answering(|request| async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap();
            let trailer = body.trailers().and_then(|all| all.get("x-sum").cloned());
            let mut said = format!("{} {} {:?}\n", head.method, head.uri, head.version);
            for (name, value) in &head.headers {
                said += &format!("{name}: {}\n", value.to_str().unwrap());
            }
            said += &format!("{} bytes, x-sum: {trailer:?}\n", body.to_bytes().len());
            said
        });
    let backend = backend.start().await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = Wire::connect(proxy.address()).await;
    let answer = client
        .ask(
            "POST /cart/x?y=1 HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive, X-Mine\r\n\
             X-Mine: 1\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\
             TE: trailers, gzip\r\nCookie: a=1\r\nX-Other: 2\r\nTransfer-Encoding: chunked\r\n\
             Trailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n",
        )
        .await;
    let said = answer.text();
    assert_eq!(answer.status(), 200, "{said}");
    let first = said.lines().next().unwrap();
    assert_eq!(first, "POST http://shop.example/cart/x?y=1 HTTP/2.0");
    for there in [
        "te: trailers",
        "cookie: a=1",
        "x-other: 2",
        "x-forwarded-host: shop.example",
        "5 bytes, x-sum: Some(\"7\")",
    ] {
        assert!(said.contains(there), "{there}: {said}");
    }
    for gone in [
        "x-mine",
        "connection",
        "keep-alive",
        "upgrade",
        "http2-settings",
        "transfer-encoding",
        "\nhost:",
        "content-length",
    ] {
        assert!(!said.contains(gone), "{gone}: {said}");
    }
    let answer = client
        .ask("PUT /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        .await;
    assert!(answer.text().contains("content-length: 3"));
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn bodies_of_any_size_come_through_both_ways() {
    let backend = Backend::named("a")
        .http2(100)
        .answering(
            |request| async move { request.into_body().collect().await.unwrap().to_bytes() },
        );
    let backend = backend.start().await;
    let proxy = before(&[backend.address()], "").await;
    for length in [0, 1, 16_384, 65_535, 65_536, 3_000_000] {
        let body = body(length);
        let request = proxy.http.post(proxy.url("/cart")).body(body.clone());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.unwrap() == body, "{length}");
        let pieces: Vec<_> = body
            .chunks(10_000)
            .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
            .collect();
        let streamed = reqwest::Body::wrap(StreamBody::new(
            stream::iter(pieces).map(|piece| piece.map(|piece| Frame::data(Bytes::from(piece)))),
        ));
        let request = proxy.http.post(proxy.url("/cart")).body(streamed);
        let answer = request.send().await.unwrap();
        assert!(answer.bytes().await.unwrap() == body, "{length}, chunked");
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn answers_without_a_body_are_whole_and_trailers_come_behind_one() {
    let backend = Backend::named("a")
        .http2(100)
        .answering(|request| async move {
            let status = match request.uri().path() {
                "/cart/204" => StatusCode::NO_CONTENT,
                "/cart/304" => StatusCode::NOT_MODIFIED,
                "/cart/trailers" => {
                    let trailers = HeaderMap::from_iter([(
                        http::HeaderName::from_static("x-sum"),
                        HeaderValue::from_static("7"),
                    )]);
                    let frames = [
                        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"hello"))),
                        Ok(Frame::trailers(trailers)),
                    ];
                    let mut answer =
                        Response::new(axum::body::Body::new(StreamBody::new(stream::iter(frames))));
                    let names = HeaderValue::from_static("x-sum");
                    answer.headers_mut().insert("trailer", names);
                    return answer;
                }
                _ => return "hello".into_response(),
            };
            status.into_response()
        });
    let backend = backend.start().await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = Wire::connect(proxy.address()).await;
    for (path, status) in [("/cart/204", 204), ("/cart/304", 304)] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(request).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    client.send("HEAD /cart HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert!(head.contains("content-length: 5\r\n"), "{head}");
    let request = "GET /cart/trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n";
    let answer = client.ask(request).await;
    assert_eq!(
        (answer.text(), &*answer.trailers),
        ("hello", "x-sum: 7\r\n")
    );
    assert_eq!(backend.connections(), 1);
}

/// Servers count what is reset.
#[tokio::test]
async fn an_answer_that_has_no_body_is_whole_though_its_stream_goes_on_and_is_not_reset() {
    for (method, status) in [("HEAD", &b"200"[..]), ("GET", b"204"), ("GET", b"304")] {
        let answered = Arc::new(Semaphore::new(0));
        let answers = Arc::clone(&answered);
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
        let endpoint = RawBackend::serving(move |wire| {
            let (answers, told) = (Arc::clone(&answers), told.clone());
            async move {
                let mut frames = Frames::accept(wire).await;
                let stream = frames.request().await;
                let block = [&[8, 3][..], status].concat();
                frames.send(HEADERS, END_HEADERS, stream, &block).await;
                answers.acquire().await.unwrap().forget();
                // What was sent before its answer is read before it.
                frames.send(PING, 0, 0, &[0; 8]).await;
                loop {
                    let frame = frames.next().await;
                    assert_ne!(frame.kind, RST_STREAM);
                    if frame.kind == PING && frame.flags & ACK != 0 {
                        break;
                    }
                }
                frames.send(DATA, END_STREAM, stream, b"").await;
                told.send(()).unwrap();
                let next = frames.request().await;
                frames.answer(next).await;
                frames.closed().await;
            }
        });
        let endpoint = endpoint.await;
        let proxy = before(&[endpoint.address()], "").await;
        let mut client = Wire::connect(proxy.address()).await;
        let request = format!("{method} /cart HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(request).await;
        let head = client.head().await.unwrap();
        let status = String::from_utf8_lossy(status);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        proxy
            .until_service("cart", "the answer is over", |cart| {
                cart["endpoints"][0]["in_flight"] == 0
            })
            .await;
        answered.add_permits(1);
        let ended = timeout(PATIENCE, tells.recv()).await;
        ended.unwrap_or_else(|_| panic!("{method} {status}: reset"));
        assert_eq!(proxy.get("/cart").await.status(), 200, "{method} {status}");
        assert_eq!(endpoint.connections(), 1);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_clean_end() {
    #[derive(Clone, Copy, Debug)]
    enum Breaks {
        Reset(u32),
        Connection,
    }
    for breaks in [
        Breaks::Reset(INTERNAL_ERROR),
        Breaks::Reset(NO_ERROR),
        Breaks::Connection,
    ] {
        let endpoint = RawBackend::serving(move |wire| async move {
            let mut frames = Frames::accept(wire).await;
            let stream = frames.request().await;
            frames.send(HEADERS, END_HEADERS, stream, OK).await;
            frames.send(DATA, 0, stream, b"half").await;
            if let Breaks::Reset(reason) = breaks {
                frames.reset(stream, reason).await;
                frames.closed().await;
            }
        });
        let endpoint = endpoint.await;
        let proxy = before(&[endpoint.address()], "").await;
        let answer = proxy.get("/cart").await;
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.is_err(), "{breaks:?}");
        let service = proxy.service("cart").await;
        assert_eq!(
            service["endpoints"][0]["failures"], 1,
            "{breaks:?}: {service}"
        );
    }
}

/// `:status: 200` and one field, as it is.
fn ok_with(name: &str, value: &str) -> Vec<u8> {
    let mut block = OK.to_vec();
    block.push(0);
    for text in [name, value] {
        block.push(text.len() as u8);
        block.extend(text.bytes());
    }
    block
}

#[tokio::test]
async fn an_answer_that_http2_does_not_allow_is_502() {
    for (what, block, data, status) in [
        ("fine", ok_with("a", "b"), &b""[..], 200),
        ("connection", ok_with("connection", "close"), b"", 502),
        (
            "transfer-encoding",
            ok_with("transfer-encoding", "chunked"),
            b"",
            502,
        ),
        ("upper case", ok_with("Server", "x"), b"", 502),
        ("no status", vec![], b"", 502),
        ("101", [&[8, 3][..], b"101"].concat(), b"", 502),
        (
            "longer than it says",
            ok_with("content-length", "1"),
            b"abc",
            502,
        ),
        (
            "two lengths",
            [
                ok_with("content-length", "1"),
                ok_with("content-length", "2")[1..].to_vec(),
            ]
            .concat(),
            b"",
            502,
        ),
    ] {
        let endpoint = RawBackend::serving(move |wire| {
            let block = block.clone();
            async move {
                let mut frames = Frames::accept(wire).await;
                let stream = frames.request().await;
                frames.send(HEADERS, END_HEADERS, stream, &block).await;
                frames.send(DATA, 1, stream, data).await;
                frames.closed().await;
            }
        });
        let endpoint = endpoint.await;
        let proxy = before(&[endpoint.address()], "").await;
        let answer = proxy.get("/cart").await;
        let came = answer.status().as_u16();
        let whole = answer.bytes().await.is_ok();
        // What is longer than it says may have begun already.
        let is_cut = what == "longer than it says" && !whole;
        assert!(came == status || is_cut, "{what}: {came}, whole: {whole}");
    }
}

/// So many fields of 4,000 bytes each, of which all but the first are a byte on the wire.
fn large_fields(count: usize) -> Vec<u8> {
    // A field that goes into the table, whose value has 4,000 bytes, and its place there.
    let mut block = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'v'; 4000]].concat();
    block.extend(vec![0x80 | 62; count - 1]);
    block
}

#[tokio::test]
async fn trailers_are_bounded_as_those_of_http1_are_and_take_no_endpoint_out() {
    for (count, is_fine) in [(4, true), (5, false)] {
        let mut cut = 0;
        let endpoint = RawBackend::serving(move |wire| async move {
            let mut frames = Frames::accept(wire).await;
            loop {
                let stream = frames.request().await;
                frames.send(HEADERS, END_HEADERS, stream, OK).await;
                frames.send(DATA, 0, stream, b"body").await;
                let trailers = large_fields(count);
                frames
                    .send(HEADERS, END_HEADERS | END_STREAM, stream, &trailers)
                    .await;
            }
        });
        let endpoint = endpoint.await;
        let well = Backend::named("well").http2(100).start().await;
        let proxy = before(&[endpoint.address(), well.address()], "").await;
        // Five failures in a row would eject it.
        for _ in 0..14 {
            let answer = proxy.get("/cart").await;
            assert_eq!(answer.status(), 200);
            let is_whole = answer.bytes().await.is_ok();
            assert!(is_whole || !is_fine, "{count}");
            cut += usize::from(!is_whole);
        }
        assert_eq!(cut, if is_fine { 0 } else { 7 });
    }
}

#[tokio::test]
async fn a_head_that_is_larger_than_the_service_allows_is_no_fault_of_the_protocol() {
    let endpoint = RawBackend::serving(|wire| async move {
        let mut frames = Frames::accept(wire).await;
        let stream = frames.request().await;
        let head = [OK, &large_fields(300)].concat();
        frames
            .send(HEADERS, END_HEADERS | END_STREAM, stream, &head)
            .await;
        frames.closed().await;
    });
    let endpoint = endpoint.await;
    let proxy = before(&[endpoint.address()], "").await;
    let answer = proxy.get("/cart").await;
    assert_eq!(answer.status(), 502);
    let text = answer.text().await.unwrap();
    assert!(text.contains("more headers than it may"), "{text}");
}

#[tokio::test]
async fn a_body_is_sent_when_the_endpoint_asks_for_it_or_is_silent() {
    for asks in [true, false] {
        let endpoint = RawBackend::serving(move |wire| async move {
            let mut frames = Frames::accept(wire).await;
            let stream = frames.request().await;
            if asks {
                // `:status: 100`
                let interim = [&[8, 3][..], b"100"].concat();
                frames.send(HEADERS, END_HEADERS, stream, &interim).await;
            }
            assert_eq!(frames.until(DATA).await.payload, b"abc");
            frames.answer(stream).await;
            frames.closed().await;
        });
        let endpoint = endpoint.await;
        let proxy = before(&[endpoint.address()], "").await;
        let mut client = Wire::connect(proxy.address()).await;
        let head =
            "POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
        client.send(head).await;
        let interim = client.head().await.unwrap();
        assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
        let answer = client.ask("abc").await;
        assert_eq!(answer.status(), 200, "asks: {asks}");
    }
}

#[tokio::test]
async fn an_answer_before_the_requests_end_is_passed_on() {
    let endpoint = RawBackend::serving(|wire| async move {
        let mut frames = Frames::accept(wire).await;
        let stream = frames.request().await;
        // `:status: 413`
        let block = [&[8, 3][..], b"413"].concat();
        frames.send(HEADERS, END_HEADERS | 1, stream, &block).await;
        frames.reset(stream, NO_ERROR).await;
        frames.closed().await;
    });
    let endpoint = endpoint.await;
    let proxy = before(&[endpoint.address()], "").await;
    let mut client = Wire::connect(proxy.address()).await;
    let answer = client
        .ask("POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
        .await;
    assert_eq!(answer.status(), 413);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_stream_with_it_and_no_other() {
    let asked = Arc::new(Semaphore::new(0));
    let asks = Arc::clone(&asked);
    let endpoint = RawBackend::serving(move |wire| {
        let asks = Arc::clone(&asks);
        async move {
            let mut frames = Frames::accept(wire).await;
            let first = frames.request().await;
            asks.add_permits(1);
            let reset = frames.until(super::frames::RST_STREAM).await;
            assert_eq!(reset.stream, first);
            let second = frames.request().await;
            frames.answer(second).await;
            frames.closed().await;
        }
    });
    let endpoint = endpoint.await;
    let proxy = before(&[endpoint.address()], "").await;
    let mut client = Wire::connect(proxy.address()).await;
    client.send("GET /cart HTTP/1.1\r\nHost: a\r\n\r\n").await;
    asked.acquire().await.unwrap().forget();
    drop(client);
    proxy
        .until_service("cart", "it is free", |cart| {
            cart["endpoints"][0]["in_flight"] == 0
        })
        .await;
    assert_eq!(proxy.get("/cart").await.status(), 200);
    assert_eq!(endpoint.connections(), 1);
}
