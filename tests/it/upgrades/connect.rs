//! A stream of HTTP/2 goes over by an extended `CONNECT` (RFC 8441) as a connection of HTTP/1.1 does by its
//! `Upgrade`, and beside the other streams of its connection.

use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http2::{Builder, SendRequest},
    ext::Protocol,
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::*;
use crate::support::{
    frames::{
        self, CANCEL, DATA, END_STREAM, Frame, Frames, HEADERS, NO_ERROR, REFUSED_STREAM,
        RST_STREAM, SETTINGS, frame, head, reset,
    },
    raw::{Then, ok},
};

/// The answer that goes over to WebSocket, for the key of this request.
fn switches(request: &str) -> String {
    let asked = message(request.to_owned());
    let key = asked.field("sec-websocket-key").unwrap();
    let accept = derive_accept_key(key.as_bytes());
    SWITCHES.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &accept)
}

/// A backend that goes over to WebSocket, and serves each connection like this from then on.
pub(super) async fn accepting<F>(
    serve: impl Fn(Wire) -> F + Clone + Send + Sync + 'static,
) -> RawBackend
where
    F: Future<Output = ()> + Send + 'static,
{
    RawBackend::serving(move |mut wire| {
        let serve = serve.clone();
        async move {
            if let Some(request) = wire.head().await {
                wire.send(switches(&request)).await;
                serve(wire).await;
            }
        }
    })
    .await
}

/// The fields of a request to go over to this.
fn fields<'f>(
    protocol: &'f str,
    path: &'f str,
    more: &[(&'f str, &'f str)],
) -> Vec<(&'f str, &'f str)> {
    let all = [
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", path),
        ("sec-websocket-version", "13"),
    ];
    all.iter().chain(more).copied().collect()
}

/// A masked frame that closes.
const CLOSES: &[u8] = &[0x88, 0x80, 0, 0, 0, 0];

/// A client with streams that have gone over.
async fn gone_over(proxy: &Proxy, streams: &[u32]) -> Frames {
    let mut client = Frames::connect(proxy.address()).await;
    for stream in streams {
        client
            .send(head(*stream, 0, &fields("websocket", "/cart", &[])))
            .await;
        let answer = next_of(&mut client, *stream).await;
        assert_eq!((answer.kind, answer.flags & END_STREAM), (HEADERS, 0));
        assert_eq!(answer.status(), 200);
    }
    client
}

/// The next frame of a stream.
async fn next_of(client: &mut Frames, stream: u32) -> Frame {
    loop {
        let frame = client.next().await.expect("the connection goes on");
        if frame.stream == stream {
            return frame;
        }
    }
}

/// So many bytes of a stream, whatever they are.
async fn bytes_of(client: &mut Frames, stream: u32, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let frame = next_of(client, stream).await;
        assert_eq!(frame.kind, DATA, "{frame:?}");
        bytes.extend(frame.payload);
    }
    bytes
}

#[tokio::test]
async fn a_stream_goes_over_where_the_listener_has_said_so_and_its_ends_are_passed_on() {
    let (heard, hears) = gate();
    let backend = RawBackend::serving(move |mut wire| {
        let hears = Arc::clone(&hears);
        async move {
            let Some(request) = wire.head().await else {
                return;
            };
            let asked = message(request.clone());
            assert_eq!(asked.start(), "GET /cart?room=1 HTTP/1.1");
            assert_eq!(asked.field("connection"), Some("upgrade"), "{request}");
            assert_eq!(asked.field("upgrade"), Some("websocket"), "{request}");
            assert_eq!(asked.field("sec-websocket-version"), Some("13"));
            assert_eq!(asked.field("sec-websocket-protocol"), Some("chat"));
            assert_eq!(asked.field("sec-websocket-extensions"), Some("deflate"));
            assert_ne!(asked.field("sec-websocket-key"), Some("theirs"));
            assert!(wire.is_silent().await, "no byte comes before the answer");
            wire.send([switches(&request).as_bytes(), b"first"].concat())
                .await;
            assert_eq!(wire.bytes(11).await, b"early later");
            assert_eq!(wire.rest().await.unwrap(), b"");
            hears.add_permits(1);
            wire.send("last").await;
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = Frames::connect(proxy.address()).await;
    let set = client.any().await.unwrap();
    assert_eq!(set.kind, SETTINGS);
    let mut set = set.payload.chunks(6);
    assert!(
        set.any(|entry| *entry == [0, 8, 0, 0, 0, 1]),
        "SETTINGS_ENABLE_CONNECT_PROTOCOL"
    );
    let more = [
        ("sec-websocket-key", "theirs"),
        ("sec-websocket-protocol", "chat"),
        ("sec-websocket-extensions", "deflate"),
    ];
    let asks = fields("websocket", "/cart?room=1", &more);
    client.send(head(1, 0, &asks)).await;
    client.send(frame(DATA, 0, 1, b"early")).await;
    let answer = next_of(&mut client, 1).await;
    assert_eq!((answer.kind, answer.status()), (HEADERS, 200));
    assert_eq!(bytes_of(&mut client, 1, 5).await, b"first");
    client.send(frame(DATA, END_STREAM, 1, b" later")).await;
    heard.acquire().await.unwrap().forget();
    assert_eq!(bytes_of(&mut client, 1, 4).await, b"last");
    let end = next_of(&mut client, 1).await;
    assert!(end.ends() && end.payload.is_empty(), "{end:?}");
    until_ended(&proxy, "client", 1).await;
    let service = until_open(&proxy, 0).await;
    assert_eq!(service["endpoints"][0]["answers"]["1xx"], 1, "{service}");
    let from =
        |who: &str| format!("callboard_tunnel_bytes_total{{service=\"cart\",from=\"{who}\"}}");
    assert_eq!(metric(&proxy, &from("client")).await, 11);
    assert_eq!(metric(&proxy, &from("endpoint")).await, 9);
}

#[tokio::test]
async fn streams_of_one_connection_go_over_side_by_side_and_requests_go_beside_them() {
    let echo = accepting(echo).await;
    let proxy = before(&[echo.address()], "").await;
    let mut client = gone_over(&proxy, &[1, 3, 5]).await;
    until_open(&proxy, 3).await;
    client.send(frames::get(7, "/none")).await;
    assert_eq!(client.answer(7).await.0, 404);
    for round in 0..10 {
        for stream in [5, 1, 3] {
            let word = format!("{round} {stream}").repeat(100);
            client.send(frame(DATA, 0, stream, word.as_bytes())).await;
            let echoed = bytes_of(&mut client, stream, word.len()).await;
            assert_eq!(echoed, word.as_bytes());
        }
    }
    client.send(frame(DATA, END_STREAM, 3, b"")).await;
    until_open(&proxy, 2).await;
    client.send(reset(1)).await;
    until_open(&proxy, 1).await;
    client.send(frame(DATA, 0, 5, b"still")).await;
    assert_eq!(bytes_of(&mut client, 5, 5).await, b"still");
    drop(client);
    until_open(&proxy, 0).await;
}

/// By HTTP/2 a hundred share one connection, and each has one to its endpoint.
#[tokio::test]
async fn a_tunnel_beyond_its_connections_first_is_a_connection_in_the_listeners_limits() {
    let echo = accepting(echo).await;
    for limit in ["connections = 3", "connections_per_address = 3"] {
        let listener = format!("[[listen]]\naddress = \"127.0.0.1:0\"\nlimits = {{ {limit} }}\n");
        let proxy = before(&[echo.address()], &listener).await;
        let mut client = gone_over(&proxy, &[1, 3, 5]).await;
        let asks = |stream| head(stream, 0, &fields("websocket", "/cart", &[]));
        client.send(asks(7)).await;
        let refused = next_of(&mut client, 7).await;
        assert_eq!((refused.kind, refused.code()), (RST_STREAM, REFUSED_STREAM));
        assert_eq!(
            metric(&proxy, "callboard_connections_refused_total").await,
            1
        );
        // A request is none, and one that has ended gives its place back.
        client.send(frames::get(9, "/none")).await;
        assert_eq!(next_of(&mut client, 9).await.status(), 404);
        client.send(reset(3)).await;
        until_open(&proxy, 2).await;
        let mut stream = 11;
        // The stream of one that has ended lives a moment longer.
        while {
            client.send(asks(stream)).await;
            next_of(&mut client, stream).await.kind == RST_STREAM
        } {
            stream += 2;
        }
        until_open(&proxy, 3).await;
        drop(client);
        until_open(&proxy, 0).await;
    }
}

#[tokio::test]
async fn what_nothing_goes_over_to_is_501_and_never_a_success() {
    let config = "[[route]]\npath = \"/cart/plain\"\nservice = \"cart\"\nupgrades = []\n\
        [[listen]]\naddress = \"127.0.0.1:0\"\nhealth_path = \"/health\"\n";
    let backend = RawBackend::saying(ok("plain"), Then::Keep).await;
    let proxy = before(&[backend.address()], config).await;
    let mut client = Frames::connect(proxy.address()).await;
    let grpc = [("content-type", "application/grpc")];
    let mut stream = 1;
    for (fields, status) in [
        (fields("connect-udp", "/cart", &[]), 501),
        (fields("h2c", "/cart", &[]), 501),
        (fields("websocket", "/cart/plain", &[]), 501),
        (fields("connect-udp", "/cart", &grpc), 501),
        (fields("websocket", "/health", &[]), 501),
        (fields("websocket", "/none", &[]), 404),
        (fields("websocket, tcp", "/cart", &[]), 405),
        (vec![(":method", "CONNECT"), (":authority", "a:1")], 405),
        // To a plain one an answer of success says that the way is open.
        (fields("websocket, tcp", "/cart", &grpc), 405),
        (
            vec![
                (":method", "CONNECT"),
                (":authority", "a:1"),
                ("content-type", "application/grpc"),
            ],
            405,
        ),
    ] {
        client.send(head(stream, 0, &fields)).await;
        let answer = next_of(&mut client, stream).await;
        assert_eq!(
            (answer.kind, answer.status()),
            (HEADERS, status),
            "{fields:?}"
        );
        stream += 2;
    }
    assert_eq!(backend.requests().len(), 0);
    until_open(&proxy, 0).await;
}

/// Nothing can be said to such a client any more, and its endpoint may never say that it has heard.
#[tokio::test]
async fn a_client_that_leaves_behind_its_last_frame_leaves_no_tunnel_behind() {
    let (heard, hears) = gate();
    let backend = accepting(move |mut wire| {
        let hears = Arc::clone(&hears);
        async move {
            assert_eq!(wire.bytes(CLOSES.len()).await, CLOSES);
            hears.add_permits(1);
            // Silent for ever.
            std::future::pending::<()>().await;
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    for last in [
        frame(DATA, END_STREAM, 1, CLOSES),
        [frame(DATA, 0, 1, CLOSES), reset(1)].concat(),
    ] {
        let mut client = gone_over(&proxy, &[1]).await;
        until_open(&proxy, 1).await;
        client.send(last).await;
        heard.acquire().await.unwrap().forget();
        drop(client);
        until_open(&proxy, 0).await;
    }
}

#[tokio::test]
async fn protocols_that_are_allowed_besides_go_the_same_way_without_a_key() {
    let backend = RawBackend::serving(|mut wire| async move {
        let Some(request) = wire.head().await else {
            return;
        };
        let asked = message(request);
        assert_eq!(asked.field("upgrade"), Some("tcp"), "{}", asked.head);
        assert_eq!(asked.field("sec-websocket-key"), None, "{}", asked.head);
        wire.send("HTTP/1.1 101 Over\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n")
            .await;
        echo(wire).await;
    })
    .await;
    let proxy = before(&[backend.address()], "upgrades = \"tcp\"\n").await;
    let mut client = Frames::connect(proxy.address()).await;
    client.send(head(1, 0, &fields("tcp", "/cart", &[]))).await;
    assert_eq!(next_of(&mut client, 1).await.status(), 200);
    client.send(frame(DATA, END_STREAM, 1, b"hello")).await;
    assert_eq!(bytes_of(&mut client, 1, 5).await, b"hello");
    assert!(next_of(&mut client, 1).await.ends());
}

/// As by HTTP/1.1, where the fallback's own list holds.
#[tokio::test]
async fn a_fallback_that_is_called_says_itself_what_is_gone_over_to() {
    let echo = accepting(echo).await;
    for (own, other, status) in [("[]", "\"websocket\"", 200), ("\"websocket\"", "[]", 501)] {
        let config = format!(
            "fallback = \"spare\"\n[service.cart]\nupgrades = {own}\n\
             [service.spare]\nupgrades = {other}\nendpoints = [\"{}\"]\n",
            echo.address()
        );
        let proxy = before(&[], &config).await;
        let mut client = Frames::connect(proxy.address()).await;
        client
            .send(head(1, 0, &fields("websocket", "/cart", &[])))
            .await;
        assert_eq!(next_of(&mut client, 1).await.status(), status, "{own}");
    }
}

/// A success of the endpoint's would look to the client like a stream that has gone over.
#[tokio::test]
async fn an_answer_that_does_not_go_over_is_passed_on_and_a_success_is_502() {
    let no = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno");
    let wrong = SWITCHES.to_owned();
    let missing = SWITCHES.replace("Sec-WebSocket-Accept", "X-Accept");
    for (answer, status, says) in [
        (no("403 Forbidden"), 403, "no"),
        (no("500 Oh"), 500, "no"),
        (
            no("200 OK"),
            502,
            "service `cart` has answered, and did not go over",
        ),
        (wrong, 502, "gave an answer that is not sound HTTP"),
        (missing, 502, "gave an answer that is not sound HTTP"),
    ] {
        let backend = RawBackend::saying(answer.clone(), Then::Keep).await;
        let proxy = before(&[backend.address()], "").await;
        let mut client = Frames::connect(proxy.address()).await;
        for stream in [1, 3] {
            let asks = fields("websocket", "/cart", &[]);
            client.send(head(stream, 0, &asks)).await;
            let (got, body) = client.answer(stream).await;
            let body = String::from_utf8(body).unwrap();
            assert!(
                got == status && body.contains(says),
                "{answer}: {got} {body}"
            );
        }
        // The two never share what is out of step.
        let connections = if answer.contains(" 101 ") { 2 } else { 1 };
        assert!(backend.connections() >= connections, "{answer}");
        until_open(&proxy, 0).await;
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_both_ways_and_is_no_end() {
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let backend = accepting(move |mut wire| {
        let heard = heard.clone();
        async move {
            if wire.bytes(1).await == b"r" {
                wire.stream.set_zero_linger().unwrap();
            } else {
                heard.send(wire.rest().await.is_ok()).unwrap();
            }
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = gone_over(&proxy, &[1, 3, 5, 7]).await;
    client.send(frame(DATA, 0, 1, b"r")).await;
    let last = next_of(&mut client, 1).await;
    assert_eq!((last.kind, last.code()), (RST_STREAM, CANCEL));
    until_ended(&proxy, "endpoint_reset", 1).await;
    for (stream, code) in [(3, CANCEL), (5, NO_ERROR)] {
        let reset = frame(RST_STREAM, 0, stream, &code.to_be_bytes());
        client
            .send([frame(DATA, 0, stream, b"a"), reset].concat())
            .await;
        assert_eq!(hears.recv().await, Some(false), "{stream}");
    }
    // One that was ended before, while the endpoint says nothing.
    client.send(frame(DATA, END_STREAM, 7, b"a")).await;
    assert_eq!(hears.recv().await, Some(true));
    until_ended(&proxy, "client_reset", 2).await;
    until_open(&proxy, 0).await;
}

/// By then nothing is sent any more whose end would tell.
#[tokio::test]
async fn a_reset_is_no_end_where_the_endpoint_has_ended_before() {
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let backend = accepting(move |mut wire| {
        let heard = heard.clone();
        async move {
            tokio::io::AsyncWriteExt::shutdown(&mut wire.stream)
                .await
                .unwrap();
            heard.send(wire.rest().await.is_ok()).unwrap();
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    for code in [CANCEL, NO_ERROR] {
        let mut client = gone_over(&proxy, &[1]).await;
        assert!(next_of(&mut client, 1).await.ends());
        let reset = frame(RST_STREAM, 0, 1, &code.to_be_bytes());
        client.send([frame(DATA, 0, 1, b"a"), reset].concat()).await;
        assert_eq!(hears.recv().await, Some(false), "{code}");
    }
    until_ended(&proxy, "client_reset", 2).await;
    until_open(&proxy, 0).await;
}

#[tokio::test]
async fn a_reset_behind_an_end_is_heard_where_the_endpoint_is_silent() {
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let backend = accepting(move |mut wire| {
        let heard = heard.clone();
        async move {
            let word = wire.rest().await.unwrap();
            heard.send(word).unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = gone_over(&proxy, &[1]).await;
    client.send(frame(DATA, END_STREAM, 1, b"all")).await;
    assert_eq!(hears.recv().await.unwrap(), b"all");
    until_open(&proxy, 1).await;
    client.send(reset(1)).await;
    until_ended(&proxy, "client_reset", 1).await;
    until_open(&proxy, 0).await;
}

#[tokio::test]
async fn a_tunnel_that_is_to_end_is_told_and_its_connection_goes_on() {
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let backend = accepting(move |mut wire| {
        let heard = heard.clone();
        async move {
            let rest = wire.rest().await.unwrap_or_default();
            let goes_away = rest.len() == 8 && rest[..2] == [0x88, 0x82];
            heard.send(goes_away).unwrap();
        }
    })
    .await;
    let config = "timeout.tunnel = \"1s\"\n";
    let proxy = before(&[backend.address()], config).await;
    let mut client = gone_over(&proxy, &[1]).await;
    assert_eq!(bytes_of(&mut client, 1, 4).await, GOING_AWAY);
    assert!(next_of(&mut client, 1).await.ends());
    assert_eq!(hears.recv().await, Some(true));
    until_ended(&proxy, "idle", 1).await;
    client.send(frames::get(3, "/none")).await;
    assert_eq!(client.answer(3).await.0, 404);

    let config = "[service.cart]\ndrain = \"1s\"\nguard = false\n";
    let proxy = before(&[backend.address()], config).await;
    let mut client = gone_over(&proxy, &[1]).await;
    proxy.deregister("cart", backend.address()).await;
    assert_eq!(bytes_of(&mut client, 1, 4).await, GOING_AWAY);
    assert!(next_of(&mut client, 1).await.ends());
    assert_eq!(hears.recv().await, Some(true));
    until_ended(&proxy, "removed", 1).await;
}

#[tokio::test]
async fn all_tunnels_are_told_at_the_drain_deadline_and_none_before() {
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let backend = accepting(move |mut wire| {
        let heard = heard.clone();
        async move {
            heard.send(wire.rest().await.unwrap_or_default()).unwrap();
        }
    })
    .await;
    let config = "[drain]\nnotice = \"0s\"\ndeadline = \"2s\"\n";
    let proxy = before(&[backend.address()], config).await;
    let streams: Vec<u32> = (0..50).map(|number| 2 * number + 1).collect();
    let mut client = gone_over(&proxy, &streams).await;
    until_open(&proxy, 50).await;
    let began = std::time::Instant::now();
    let draining = tokio::spawn(proxy.drain());
    let (mut told, mut ended) = (0, 0);
    while ended < streams.len() {
        let frame = client.next().await.expect("the last words come first");
        if frame.kind == DATA && frame.payload == GOING_AWAY {
            told += 1;
            assert!(began.elapsed() >= Duration::from_secs(2), "{told}");
        }
        ended += usize::from(frame.ends());
    }
    assert_eq!(told, streams.len());
    for _ in &streams {
        let word = hears.recv().await.unwrap();
        assert!(word.len() == 8 && word[..2] == [0x88, 0x82], "{word:?}");
    }
    draining.await.unwrap();
}

/// A client on one connection of HTTP/2.
pub(super) type Http2 = SendRequest<Empty<Bytes>>;

/// A client of the field, on one connection, to which the listener has said what it can.
pub(super) async fn http2(proxy: &Proxy) -> Http2 {
    let stream = TcpStream::connect(proxy.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut client, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(async move {
        // How it ends is its tests' to assert.
        let _ = connection.await;
    });
    let first = Request::get("http://a/none").body(Empty::new()).unwrap();
    let first = client.send_request(first).await.unwrap();
    assert_eq!(first.status(), StatusCode::NOT_FOUND);
    client
}

async fn connect(client: &mut Http2) -> Response<Incoming> {
    let request = Request::connect("http://a/cart")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .extension(Protocol::from_static("websocket"));
    let request = request.body(Empty::new()).unwrap();
    client.send_request(request).await.unwrap()
}

/// The bytes of a stream that has gone over.
pub(super) async fn stream(client: &mut Http2) -> TokioIo<Upgraded> {
    let answer = connect(client).await;
    assert_eq!(answer.status(), StatusCode::OK);
    for name in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    TokioIo::new(hyper::upgrade::on(answer).await.unwrap())
}

#[tokio::test]
async fn a_side_that_takes_nothing_stops_the_other_and_no_other_stream() {
    const ALL: usize = 16 * 1024 * 1024;
    let ((may_read, gate), noise) = (gate(), super::tunnel::noise(1, ALL));
    let noise: Arc<[u8]> = noise.into();
    let said = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (says, speaks) = (Arc::clone(&said), Arc::clone(&noise));
    let backend = accepting(move |mut wire| {
        let (gate, says, speaks) = (Arc::clone(&gate), Arc::clone(&says), Arc::clone(&speaks));
        async move {
            match &wire.bytes(1).await[..] {
                // It speaks, and is not heard.
                b"s" => {
                    for piece in speaks.chunks(16 * 1024) {
                        wire.stream.write_all(piece).await.unwrap();
                        says.fetch_add(piece.len(), std::sync::atomic::Ordering::Relaxed);
                    }
                    wire.until_closed().await;
                }
                // It hears nothing for a while.
                b"h" => {
                    gate.acquire().await.unwrap().forget();
                    echo(wire).await;
                }
                _ => echo(wire).await,
            }
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = http2(&proxy).await;
    let mut other = stream(&mut client).await;
    other.write_all(b"e").await.unwrap();
    let mut goes_on = async || {
        other.write_all(b"hello").await.unwrap();
        let mut echoed = [0; 5];
        other.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"hello");
    };
    let mut unheard = stream(&mut client).await;
    unheard.write_all(b"s").await.unwrap();
    let mut sent = stream(&mut client).await;
    sent.write_all(b"h").await.unwrap();
    let mut count = 0;
    let a_while = Duration::from_millis(500);
    while let Ok(written) = timeout(a_while, sent.write(&noise[count..count + 16 * 1024])).await {
        count += written.unwrap();
        assert!(count < ALL / 2, "{count} bytes were taken");
    }
    goes_on().await;
    let said = said.load(std::sync::atomic::Ordering::Relaxed);
    assert!(said < ALL, "{said} bytes were taken");
    may_read.add_permits(1);
    let mut echoed = vec![0; count];
    sent.read_exact(&mut echoed).await.unwrap();
    assert!(echoed == noise[..count]);
    let mut heard = vec![0; ALL];
    unheard.read_exact(&mut heard).await.unwrap();
    assert!(heard == noise[..]);
    goes_on().await;
}

#[tokio::test]
async fn random_messages_come_back_as_they_do_without_the_proxy() {
    let (server, _closes) = super::websocket::server().await;
    let proxy = before(&[server], "").await;
    let mut client = http2(&proxy).await;
    for seed in 0..20 {
        let bytes = stream(&mut client).await;
        let through = WebSocketStream::from_raw_socket(bytes, Role::Client, None).await;
        let direct = super::websocket::client(server).await;
        let (through, direct) = (
            super::websocket::spoken(through, seed).await,
            super::websocket::spoken(direct, seed).await,
        );
        assert!(
            through == direct,
            "{seed}: {} {}",
            through.len(),
            direct.len()
        );
    }
    until_open(&proxy, 0).await;
}

#[tokio::test]
async fn the_access_log_has_it_as_a_request_that_has_gone_over() {
    let echo = accepting(echo).await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let config = format!(
        "workers = 1\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n\
         [access_log]\nto = \"file:{}\"\n\
         format = \"{{method}} {{path}} {{status}} {{protocol}} {{bytes}}\"\n",
        log.display()
    );
    let proxy = Proxy::start_in(folder, &config).await;
    know(&proxy, &[echo.address()]).await;
    let mut client = gone_over(&proxy, &[1]).await;
    client.send(frame(DATA, END_STREAM, 1, b"hello")).await;
    assert_eq!(bytes_of(&mut client, 1, 5).await, b"hello");
    assert!(next_of(&mut client, 1).await.ends());
    let read = async || std::fs::read_to_string(&log).unwrap_or_default();
    let line = eventually("it is logged", read, |text| text.ends_with('\n')).await;
    assert_eq!(line, "GET /cart 101 HTTP/2.0 5\n");
}
