//! Calls of gRPC-Web, as browsers make them by HTTP/1.1 and HTTP/2, go to endpoints as gRPC, and their answers come
//! back as gRPC-Web.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use super::register;
use crate::support::{
    backend::Backend,
    frames::{DATA, END_STREAM, Frames, frame, head, request},
    grpc::GrpcServer,
    proxy::Proxy,
    raw::{Message, Wire},
};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc+proto");

/// A proxy that takes calls of gRPC-Web for the endpoints of one service.
async fn before(endpoint: std::net::SocketAddr, listener: &str) -> Proxy {
    let text = format!(
        "[[listen]]\naddress = \"127.0.0.1:0\"\n{listener}\n[[route]]\npath = \"/\"\n\
         service = \"calls\"\n[[route]]\npath = \"/none\"\nservice = \"none\"\n"
    );
    let proxy = Proxy::start(&text).await;
    register(&proxy, endpoint).await;
    proxy.until_states("calls", &[(endpoint, "serving")]).await;
    proxy.until_ready().await;
    proxy
}

/// Says what it has heard in two messages, and status 5; below `/head` nothing but that. Below `/long` it says 5,000
/// bytes, with the status in its head, and below `/trailers` as many in a trailer.
async fn echoing() -> Backend {
    let backend = Backend::named("a")
        .http2(1000)
        .answering(|request| async move {
            let is_head = request.uri().path().starts_with("/head");
            let fields = request.headers();
            assert_eq!(fields["content-type"], GRPC);
            assert_eq!(fields["te"], "trailers");
            let is_long = request.uri().path().starts_with("/long");
            let has_long_trailers = request.uri().path().starts_with("/trailers");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let status = (STATUS, HeaderValue::from_static("5"));
            let mut answer = if is_long {
                let mut answer = Response::new(axum::body::Body::from(long()));
                answer.headers_mut().insert(STATUS, status.1);
                answer
            } else if has_long_trailers {
                let long = HeaderValue::from_bytes(&long()).unwrap();
                let trailers = [status, (HeaderName::from_static("x-long"), long)];
                let trailers = Frame::trailers(HeaderMap::from_iter(trailers));
                let frames = stream::iter([Ok::<_, std::io::Error>(trailers)]);
                Response::new(axum::body::Body::new(StreamBody::new(frames)))
            } else if is_head {
                let mut answer = Response::new(axum::body::Body::empty());
                answer.headers_mut().insert(STATUS, status.1);
                answer
            } else {
                let pieces = [Bytes::from_static(b"heard "), body].map(Frame::data);
                let trailers = Frame::trailers(HeaderMap::from_iter([status]));
                let frames = pieces.into_iter().chain([trailers]);
                let frames = stream::iter(frames.map(Ok::<_, std::io::Error>));
                Response::new(axum::body::Body::new(StreamBody::new(frames)))
            };
            answer.headers_mut().insert("content-type", GRPC);
            answer
        });
    backend.start().await
}

/// More than HTTP/2 has in one piece at the end of an answer.
fn long() -> Vec<u8> {
    (0..5_000u32).map(|n| b'a' + (n % 23) as u8).collect()
}

/// A call by HTTP/1.1.
async fn called(proxy: &Proxy, path: &str, content_type: &str, body: &[u8]) -> Message {
    let mut client = Wire::connect(proxy.address()).await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    client.ask([head.as_bytes(), body].concat()).await
}

/// What stands in a text, part by part.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'=');
        let end = end.map_or(rest.len(), |at| at - at % 4 + 4);
        let (part, more) = rest.split_at(end);
        bytes.extend(STANDARD.decode(part).unwrap());
        rest = more;
    }
    bytes
}

/// The message that the trailers are.
fn last(lines: &[u8]) -> Vec<u8> {
    [&[0x80, 0, 0, 0, lines.len() as u8][..], lines].concat()
}

#[tokio::test]
async fn a_call_is_grpc_to_its_endpoint_and_its_answer_has_the_trailers_in_its_body() {
    let backend = echoing().await;
    let proxy = before(backend.address(), "grpc_web = true").await;
    let expected = [
        b"heard \0\0\0\0\x02hi".to_vec(),
        last(b"grpc-status: 5\r\n"),
    ]
    .concat();
    let said = b"\0\0\0\0\x02hi";
    let got = called(&proxy, "/a/b", "application/grpc-web+proto", said).await;
    let of = |got: &Message| got.field("content-type").unwrap().to_owned();
    assert_eq!(
        (got.status(), of(&got)),
        (200, "application/grpc-web+proto".to_owned())
    );
    assert_eq!(got.body, expected);
    // Each part with its padding.
    let text: String = said.chunks(2).map(|part| STANDARD.encode(part)).collect();
    let got = called(
        &proxy,
        "/a/b",
        "application/grpc-web-text+proto",
        text.as_bytes(),
    )
    .await;
    assert_eq!(of(&got), "application/grpc-web-text+proto");
    assert_eq!(decoded(&got.body), expected);
    let got = called(&proxy, "/head", "application/grpc-web+proto", said).await;
    assert_eq!(
        (got.field("grpc-status"), &*got.body),
        (Some("5"), &b""[..])
    );
    assert_eq!(of(&got), "application/grpc-web+proto");

    let mut client = Frames::connect(proxy.address()).await;
    let fields = [("content-type", "application/grpc-web-text+proto")];
    client
        .send(head(1, 0, &request("POST", "/a/b", &fields)))
        .await;
    // In single letters.
    for letter in text.as_bytes() {
        client.send(frame(DATA, 0, 1, &[*letter])).await;
    }
    client.send(frame(DATA, END_STREAM, 1, b"")).await;
    let (status, body) = client.answer(1).await;
    assert_eq!((status, decoded(&body)), (200, expected));

    let metrics = proxy.page("/metrics").await.text().await.unwrap();
    let counted = "callboard_grpc_answers_total{service=\"calls\",grpc_status=\"not-found\"} ";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn the_end_of_a_long_answer_is_of_its_format_whether_it_is_a_piece_or_the_trailers() {
    let backend = echoing().await;
    let proxy = before(backend.address(), "grpc_web = true").await;
    let lines = [b"grpc-status: 5\r\nx-long: ", &long()[..], b"\r\n"].concat();
    let length = u32::try_from(lines.len()).unwrap().to_be_bytes();
    let trailers = [&[0x80][..], &length, &lines].concat();
    let mut client = Frames::connect(proxy.address()).await;
    for (stream, path, is_text) in [
        (1, "/long", false),
        (3, "/long", true),
        (5, "/trailers", false),
        (7, "/trailers", true),
    ] {
        let content_type = match is_text {
            true => "application/grpc-web-text+proto",
            false => "application/grpc-web+proto",
        };
        let fields = [("content-type", content_type)];
        let call = head(stream, END_STREAM, &request("POST", path, &fields));
        client.send(call).await;
        let (status, body) = client.answer(stream).await;
        let body = if is_text { decoded(&body) } else { body };
        let expected = match path {
            "/long" => long(),
            _ => trailers.clone(),
        };
        assert_eq!((status, body.len()), (200, expected.len()), "{path}");
        assert_eq!(body, expected, "{path}");
    }
}

/// The routes of docs/grpc.md.
#[tokio::test]
async fn another_service_answers_the_preflights_of_a_page_of_another_origin() {
    let calls = echoing().await;
    let preflight = Backend::named("p").answering(|request| async move {
        assert_eq!(request.method(), "OPTIONS");
        let mut answer = Response::new(axum::body::Body::empty());
        *answer.status_mut() = http::StatusCode::NO_CONTENT;
        let origin = HeaderValue::from_static("https://app.example");
        answer
            .headers_mut()
            .insert("access-control-allow-origin", origin);
        answer
    });
    let preflight = preflight.start().await;
    let text = "[[listen]]\naddress = \"127.0.0.1:0\"\ngrpc_web = true\n\
         [[route]]\nservice = \"calls\"\n[[route]]\nmethod = \"OPTIONS\"\nservice = \"preflight\"\n";
    let proxy = Proxy::start(text).await;
    register(&proxy, calls.address()).await;
    proxy.register("preflight", preflight.address()).await;
    for (service, endpoint) in [("calls", &calls), ("preflight", &preflight)] {
        let states = [(endpoint.address(), "serving")];
        proxy.until_states(service, &states).await;
    }
    let mut page = Wire::connect(proxy.address()).await;
    let asks = "OPTIONS /a/b HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example\r\n\
         Access-Control-Request-Method: POST\r\n\
         Access-Control-Request-Headers: content-type,x-grpc-web\r\nConnection: close\r\n\r\n";
    let allowed = page.ask(asks).await;
    let origin = allowed.field("access-control-allow-origin");
    assert_eq!(
        (allowed.status(), origin),
        (204, Some("https://app.example"))
    );
    let got = called(&proxy, "/a/b", "application/grpc-web+proto", b"").await;
    assert_eq!(got.status(), 200);
}

#[tokio::test]
async fn routes_see_a_call_as_it_goes_on_and_it_is_explained_so() {
    let backend = echoing().await;
    let text = "[[listen]]\naddress = \"127.0.0.1:0\"\ngrpc_web = true\n\
         [[route]]\npath = \"/\"\nservice = \"none\"\n[[route]]\npath = \"/\"\nservice = \"calls\"\n\
         header = { content-type = \"application/grpc+proto\", te = \"trailers\" }\n";
    let proxy = Proxy::start(text).await;
    register(&proxy, backend.address()).await;
    let states = [(backend.address(), "serving")];
    proxy.until_states("calls", &states).await;
    let got = called(&proxy, "/a/b", "application/grpc-web+proto", b"").await;
    assert!(got.body.starts_with(b"heard "), "{}", got.head);
    let query = "method=POST&url=/a/b&header=content-type:application/grpc-web%2Bproto";
    let said = proxy.page(&format!("/api/explain?{query}")).await;
    let said: serde_json::Value = said.json().await.unwrap();
    assert_eq!(said["destinations"][0]["service"], "calls", "{said}");
}

/// A field that the proxy adds is none of the client's.
#[tokio::test]
async fn as_many_fields_as_the_limit_allows_are_not_too_many() {
    let backend = echoing().await;
    let proxy = before(
        backend.address(),
        "grpc_web = true\nlimits = { headers = 3 }",
    )
    .await;
    let got = called(&proxy, "/a/b", "application/grpc-web+proto", b"").await;
    assert_eq!(got.field("grpc-status"), None, "{}", got.head);
    assert_eq!(
        got.body,
        [b"heard ".to_vec(), last(b"grpc-status: 5\r\n")].concat()
    );
}

#[tokio::test]
async fn what_the_proxy_says_itself_is_grpc_web_too_and_without_the_key_nothing_is() {
    let backend = echoing().await;
    let proxy = before(backend.address(), "grpc_web = true").await;
    let unavailable = called(&proxy, "/none", "application/grpc-web-text", b"").await;
    assert_eq!(unavailable.status(), 200, "{}", unavailable.head);
    assert_eq!(unavailable.field("grpc-status"), Some("14"));
    let of = unavailable.field("content-type");
    assert_eq!(of, Some("application/grpc-web-text"));
    for wrong in [&b"YW!j"[..], b"YWJjY"] {
        let broken = called(&proxy, "/a/b", "application/grpc-web-text+proto", wrong).await;
        assert_eq!(broken.field("grpc-status"), Some("1"), "{}", broken.head);
    }

    let seen = crate::support::raw::RawBackend::saying(
        crate::support::raw::ok("plain"),
        crate::support::raw::Then::Keep,
    )
    .await;
    let proxy = before_plain(seen.address()).await;
    let got = called(&proxy, "/a/b", "application/grpc-web-text", b"YWJj").await;
    assert_eq!((got.status(), got.text()), (200, "plain"));
    let request = &seen.requests()[0];
    assert_eq!(
        request.field("content-type"),
        Some("application/grpc-web-text")
    );
    assert_eq!(request.text(), "YWJj");
}

/// A proxy without the key, in front of an endpoint of HTTP/1.1.
async fn before_plain(endpoint: std::net::SocketAddr) -> Proxy {
    let proxy = Proxy::start("[[route]]\npath = \"/\"\nservice = \"calls\"\n").await;
    proxy.register("calls", endpoint).await;
    proxy.until_states("calls", &[(endpoint, "serving")]).await;
    proxy
}

/// A page of a server that is none of gRPC's.
#[tokio::test]
async fn an_answer_that_is_not_grpcs_is_passed_on_as_it_is() {
    let backend = Backend::named("a")
        .http2(1000)
        .answering(|_| async { "a page" });
    let backend = backend.start().await;
    let proxy = before(backend.address(), "grpc_web = true").await;
    let got = called(&proxy, "/a/b", "application/grpc-web-text", b"YWJj").await;
    assert_eq!((got.status(), got.text()), (200, "a page"));
}

#[tokio::test]
async fn a_real_server_answers_calls_of_both_formats() {
    let Some(server) = GrpcServer::start() else {
        return;
    };
    let proxy = before(server.address(), "grpc_web = true").await;
    let call = |method: &str| format!("/grpc.testing.TestService/{method}");
    // Of the messages that it is to answer with one has ten bytes, and one three.
    let asks = [0x12, 2, 8, 10, 0x12, 2, 8, 3];
    let asks = [&[0, 0, 0, 0, asks.len() as u8][..], &asks].concat();
    for (method, message, answers) in [
        ("EmptyCall", &b"\0\0\0\0\0"[..], vec![0]),
        ("StreamingOutputCall", &asks, vec![14, 7]),
        ("UnimplementedCall", b"\0\0\0\0\0", vec![]),
    ] {
        for is_text in [false, true] {
            let format = if is_text { "-text" } else { "" };
            let content_type = format!("application/grpc-web{format}+proto");
            let sent = match is_text {
                true => STANDARD.encode(message).into_bytes(),
                false => message.to_vec(),
            };
            let got = called(&proxy, &call(method), &content_type, &sent).await;
            assert_eq!(got.status(), 200, "{}", got.head);
            if answers.is_empty() {
                assert_eq!(got.field("grpc-status"), Some("12"), "{}", got.head);
                continue;
            }
            let body = if is_text {
                decoded(&got.body)
            } else {
                got.body
            };
            let (mut rest, mut lengths) = (&body[..], Vec::new());
            let trailers = loop {
                let [flag, length @ ..]: [u8; 5] = rest[..5].try_into().unwrap();
                let length = u32::from_be_bytes(length) as usize;
                let (message, more) = rest[5..].split_at(length);
                if flag == 0x80 {
                    assert!(more.is_empty());
                    break message;
                }
                lengths.push(length);
                rest = more;
            };
            assert_eq!(lengths, answers, "{method}");
            let trailers = String::from_utf8_lossy(trailers);
            assert!(trailers.contains("grpc-status: 0\r\n"), "{trailers}");
        }
    }
}
