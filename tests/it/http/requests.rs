//! What a client asks, and what the backend sees of it.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{before, cart};
use crate::support::{
    eventually,
    proxy::Proxy,
    raw::{Message, RawBackend, Then, Wire, ok},
};

const TRUSTED: &str =
    "[[listen]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n";

async fn well() -> RawBackend {
    RawBackend::saying(ok("well"), Then::Keep).await
}

/// What the backend sees of a request that a proxy with this configuration answers with 200.
async fn seen(config: &str, request: &str) -> Message {
    let backend = well().await;
    let proxy = before(backend.address(), config).await;
    let got = Wire::connect(proxy.address()).await.ask(request).await;
    assert_eq!((got.status(), got.text()), (200, "well"), "{request}");
    let mut requests = backend.requests();
    assert_eq!(requests.len(), 1, "{request}");
    requests.remove(0)
}

fn get(fields: &str) -> String {
    format!("GET /cart HTTP/1.1\r\n{fields}\r\n")
}

fn path(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// The connection ends after each: what follows need not be the next request.
#[tokio::test]
async fn what_is_malformed_or_could_be_read_in_two_ways_is_refused_and_goes_nowhere() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let post = |fields: &str, body: &str| {
        format!("POST /cart HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
    };
    let mut cases: Vec<(u16, String)> = vec![
        (400, get("")),
        (400, get("Host: a\r\nHost: a\r\n")),
        (400, get("Host: a\r\nHost: b\r\n")),
        (400, get("Host: \r\n")),
        (400, get("Host: a b\r\n")),
        (400, get("Host: a,b\r\n")),
        (400, get("Host: a/cart\r\n")),
        (400, get("Host: u@a\r\n")),
        (400, get("Host: a:http\r\n")),
        (400, get("Host: a\r\nB: c\r\n d\r\n")),
        (400, get("Host : a\r\n")),
        (400, get("Host: a\r\nB c: d\r\n")),
        (400, get("Host: a\r\n: d\r\n")),
        (400, get("Host: a\r\nB: c\0d\r\n")),
        (400, get("Host: a\r\nB: c\rd\r\n")),
        (
            400,
            "GET http://u@a/cart HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (400, "GET cart HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (
            400,
            "GET /cart HTTP/1.1\r\nHost: a\r\n nothing\r\n\r\n".to_owned(),
        ),
        (400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (400, "GET /cart HTTP/3.1\r\nHost: a\r\n\r\n".to_owned()),
        (400, "GET /cart\r\nHost: a\r\n\r\n".to_owned()),
        (400, "\u{17}\u{3}\u{1}\r\n\r\n".to_owned()),
        (405, "TRACE /cart HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (
            405,
            "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned(),
        ),
        (501, post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n")),
        (
            501,
            post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n"),
        ),
        (501, post("Transfer-Encoding: , chunked", "0\r\n\r\n")),
        (
            501,
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                "0\r\n\r\n",
            ),
        ),
        (400, post("Transfer-Encoding: identity", "body")),
        (400, post("Transfer-Encoding: chunked, gzip", "0\r\n\r\n")),
        (400, post("Content-Length: 4\r\nContent-Length: 5", "body!")),
        (400, post("Content-Length: 4, 5", "body!")),
        (400, post("Content-Length: +4", "body")),
        (400, post("Content-Length: -4", "body")),
        (400, post("Content-Length: 0x4", "body")),
        (400, post("Content-Length: 99999999999999999999", "body")),
        (400, post("Content-Length: 9223372036854775808", "body")),
        (
            400,
            post(
                "Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 4",
                "body",
            ),
        ),
        (
            400,
            post(
                "Upgrade: WebSocket\r\nConnection: upgrade\r\nTransfer-Encoding: chunked",
                "0\r\n\r\n",
            ),
        ),
        (400, get("Host: a:65536\r\n")),
        (400, get(&format!("Host: {}\r\n", "a".repeat(10_000)))),
        (
            400,
            get(&format!("Host: a\r\nConnection: {}\r\n", "a,".repeat(33))),
        ),
        (
            400,
            "GET ftp://a/cart HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (
            400,
            "GET http://a:99999/cart HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (
            501,
            format!("{} /cart HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(30_000)),
        ),
        (417, post("Content-Length: 4\r\nExpect: a-miracle", "body")),
        (414, path(&format!("/cart/{}", "a".repeat(9_000)))),
        (431, get(&format!("Host: a\r\n{}", "B: c\r\n".repeat(101)))),
        (
            431,
            get(&format!("Host: a\r\nB: {}\r\n", "c".repeat(200_000))),
        ),
        (
            400,
            "POST /cart HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
    ];
    for dubious in [
        "/cart/../secret",
        "/cart/..",
        "/cart/./x",
        "/../cart",
        "/cart/%2e%2e/secret",
        "/cart/.%2E/secret",
        "/cart/..;/secret",
        "/cart/%5Cx",
        "/cart\\x",
        "//cart",
        "/cart%2fx",
        "/cart/%00",
        "/cart/%",
        "/cart/%zz",
    ] {
        cases.push((400, path(dubious)));
    }
    for (status, request) in cases {
        let mut client = Wire::connect(proxy.address()).await;
        let shown: String = request.chars().take(200).collect();
        // It may be refused, and the connection closed, before all of it was read.
        let _ = AsyncWriteExt::write_all(&mut client.stream, request.as_bytes()).await;
        let got = client.message().await;
        assert_eq!(got.map(|got| got.status()), Some(status), "{shown:?}");
        if matches!(status, 400 | 501) {
            client.until_closed().await;
        }
        assert_eq!(backend.requests().len(), 0, "{shown:?}");
    }
    assert_eq!(cart(&proxy).await["endpoints"][0]["attempts"], 0);
}

#[tokio::test]
async fn what_is_legal_though_rare_is_passed_on() {
    let got = seen(
        "",
        "GET http://b.example/cart?q HTTP/1.1\r\nHost: a\r\n\r\n",
    )
    .await;
    assert_eq!(got.start(), "GET /cart?q HTTP/1.1");
    assert_eq!(got.field("host"), Some("b.example"));

    let got = seen(
        "",
        "GET /cart/.well-known/%20%C3%A9;a=b/...?/../%2f HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    )
    .await;
    assert_eq!(
        got.start(),
        "GET /cart/.well-known/%20%C3%A9;a=b/...?/../%2f HTTP/1.1"
    );
    assert_eq!(got.field("host"), Some("[::1]:80"));

    // A bare LF ends a line for hyper; what goes on has CRLF.
    let got = seen("", "GET /cart HTTP/1.1\nHost: a\nB: c\n\n").await;
    assert_eq!((got.field("host"), got.field("b")), (Some("a"), Some("c")));
    assert_eq!(
        got.head.matches('\n').count(),
        got.head.matches("\r\n").count()
    );

    let got = seen("", "PURGE /cart HTTP/1.0\r\n\r\n").await;
    assert_eq!(got.start(), "PURGE /cart HTTP/1.1");
    assert!(got.field("host").unwrap().starts_with("127.0.0.1:"));
    assert_eq!(got.field("x-forwarded-host"), None);
}

#[tokio::test]
async fn the_body_is_framed_anew_and_whole() {
    let head = "POST /cart HTTP/1.1\r\nHost: a\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let got = seen("", &format!("{head}{chunked}")).await;
    assert_eq!(
        (got.text(), got.field("transfer-encoding")),
        ("hello world", Some("chunked"))
    );

    let got = seen("", &format!("{head}Content-Length: 5\r\n\r\nhello")).await;
    assert_eq!(
        (got.text(), got.field("content-length")),
        ("hello", Some("5"))
    );

    let got = seen(
        "",
        &format!("{head}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    )
    .await;
    assert_eq!(
        (got.text(), got.field("content-length")),
        ("hello", Some("5"))
    );

    let got = seen("", &format!("{head}\r\n")).await;
    assert_eq!((got.text(), got.field("content-length")), ("", Some("0")));

    let got = seen(
        "",
        "GET /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    )
    .await;
    assert_eq!(
        (got.text(), got.field("content-length")),
        ("hello", Some("5"))
    );

    // Nobody takes the one for the other: the chunks count, and the connection ends.
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    let smuggles = "0\r\n\r\nGET /cart/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let both = format!("{head}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n{smuggles}");
    assert_eq!(client.ask(both).await.status(), 200);
    client.until_closed().await;
    let requests = backend.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].field("content-length"), None);
}

/// A backend that takes trailers for fields of the head must not be led by a stranger's.
#[tokio::test]
async fn trailers_are_passed_on_but_for_those_that_mean_something_to_others() {
    let request = "POST /cart HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                   5\r\nhello\r\n0\r\nX-Sum: 5\r\nX-Forwarded-For: 6.6.6.6\r\nHost: b\r\n\
                   Content-Length: 9\r\nTransfer-Encoding: chunked\r\nAuthorization: x\r\n\r\n";
    let got = seen("", request).await;
    assert_eq!(
        (got.text(), got.trailers.as_str()),
        ("hello", "x-sum: 5\r\n")
    );
}

/// The backend must never take a part for the whole.
#[tokio::test]
async fn a_request_whose_body_breaks_off_is_never_a_whole_one() {
    for (fields, body) in [
        ("Content-Length: 11", "hello"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\nx\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nhelloworld\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "5\nhello\n0\n\n"),
        // What the HTTP library takes.
        ("Transfer-Encoding: chunked", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0;\x7f\r\n\r\n"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\n\r\n"),
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\nX-Tail: a\n\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\nX-Tail: a\n\nX: b\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\nX-Tail: a\nX-Other: b\r\nX: c\r\n\r\n",
        ),
        // And what it does not.
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\nX-Tail : a\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\nX-Tail: a\r\n b\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\nno field\r\n\r\n",
        ),
    ] {
        let backend = well().await;
        let proxy = before(backend.address(), "").await;
        let mut client = Wire::connect(proxy.address()).await;
        let head = format!("POST /cart HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        client.send(&head).await;
        let sent = eventually(
            "sent on",
            async || backend.connections(),
            |count| *count == 1,
        );
        sent.await;
        client.send(body).await;
        AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
        if let Some(got) = client.message().await {
            assert_eq!(got.status(), 400, "{body:?}");
        }
        let over = eventually(
            "over",
            async || cart(&proxy).await["endpoints"][0].clone(),
            |endpoint| endpoint["in_flight"] == 0,
        );
        // It is the client's failure.
        assert_eq!(over.await["failures"], 0, "{body:?}");
        assert!(backend.requests().is_empty(), "{body:?}");
    }
}

#[tokio::test]
async fn what_belongs_to_the_clients_connection_and_what_a_stranger_says_of_others_stays_here() {
    let request = get(
        "Host: shop.example.com:80\r\nConnection: X-Hop, X-Forwarded-For, Authorization, Host\r\n\
         Connection: keep-alive, cookie, x-forwarded-port,X-FORWARDED-CLIENT-CERT, X-Real-IP\r\n\
         X-Forwarded-Port: 443\r\nX-Forwarded-Client-Cert: y\r\nX-Real-IP: 6.6.6.6\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\n\
         Proxy-Authorization: x\r\nTE: gzip, trailers\r\nUpgrade: h2c\r\nX_Under: 1\r\n\
         X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
         X-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6\r\nAuthorization: Bearer t\r\n\
         Cookie: a=1\r\nX-End: first\r\nX-End: second\r\n",
    );
    let got = seen("", &request).await;
    for gone in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "x_under",
        "forwarded",
        "x-forwarded-prefix",
        "x-forwarded-client-cert",
        "content-length",
        "transfer-encoding",
    ] {
        assert_eq!(got.field(gone), None, "{}", got.head);
    }
    for (kept, value) in [
        ("host", "shop.example.com:80"),
        ("te", "trailers"),
        ("authorization", "Bearer t"),
        ("cookie", "a=1"),
        ("x-forwarded-port", "443"),
        ("x-real-ip", "6.6.6.6"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.example.com:80"),
    ] {
        assert_eq!(got.field(kept), Some(value), "{}", got.head);
    }
    assert_eq!(got.fields("x-end"), ["first", "second"]);
    assert!(got.field("via").unwrap().starts_with("1.1 callboard-"));
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_kept_and_added_to() {
    let request = get(
        "Host: a\r\nConnection: X-Forwarded-For, X-Forwarded-Proto\r\nX-Forwarded-For: 6.6.6.6\r\n\
         X-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop\r\n\
         X-Forwarded-Prefix: /outer\r\nForwarded: for=6.6.6.6\r\nVia: 1.1 front\r\n",
    );
    let got = seen(&format!("strip_prefix = true\n{TRUSTED}"), &request).await;
    for (field, value) in [
        ("x-forwarded-for", "6.6.6.6, 7.7.7.7, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop"),
        ("x-forwarded-prefix", "/outer/cart"),
        ("forwarded", "for=6.6.6.6, for=127.0.0.1;proto=http"),
    ] {
        assert_eq!(got.field(field), Some(value), "{}", got.head);
    }
    assert_eq!(got.fields("via").len(), 2, "{}", got.head);
}

#[tokio::test]
async fn a_stripped_prefix_is_told_to_the_backend() {
    for (asked, sees) in [
        ("/cart", "/"),
        ("/cart/", "/"),
        ("/cart/a/b?c=/cart", "/a/b?c=/cart"),
        ("/cart?c", "/?c"),
    ] {
        let got = seen("strip_prefix = true\n", &path(asked)).await;
        assert_eq!(got.start(), format!("GET {sees} HTTP/1.1"), "{asked}");
        assert_eq!(got.field("x-forwarded-prefix"), Some("/cart"));
    }
}

#[tokio::test]
async fn the_backend_sees_the_host_that_the_route_says() {
    let request = get("Host: shop\r\n");
    let got = seen("host_header = \"name\"\n", &request).await;
    assert_eq!(got.field("host"), Some("cart"));
    assert_eq!(got.field("x-forwarded-host"), Some("shop"));
    let got = seen("host_header = \"endpoint\"\n", &request).await;
    assert!(got.field("host").unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn names_with_an_underscore_are_dropped_rejected_or_allowed() {
    let request = get("Host: a\r\nX_Under: 1\r\n");
    let listen = |how: &str| {
        format!("[[listen]]\naddress = \"127.0.0.1:0\"\nunderscore_headers = \"{how}\"\n")
    };
    assert_eq!(seen(&listen("drop"), &request).await.field("x_under"), None);
    assert_eq!(
        seen(&listen("allow"), &request).await.field("x_under"),
        Some("1")
    );
    let backend = well().await;
    let proxy = before(backend.address(), &listen("reject")).await;
    let got = Wire::connect(proxy.address()).await.ask(&request).await;
    assert_eq!(got.status(), 400);

    // A trailer comes too late to be rejected, and is dropped.
    let chunked = "POST /cart HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   0\r\nX_Under: 1\r\nX-Sum: 0\r\n\r\n";
    for (how, trailers) in [
        ("drop", "x-sum: 0\r\n"),
        ("reject", "x-sum: 0\r\n"),
        ("allow", "x_under: 1\r\nx-sum: 0\r\n"),
    ] {
        assert_eq!(
            seen(&listen(how), chunked).await.trailers,
            trailers,
            "{how}"
        );
    }
}

/// Many servers hand hyphens and underscores to programs as one letter.
#[tokio::test]
async fn what_the_proxy_says_itself_no_client_says_with_underscores() {
    let allow = "[[listen]]\naddress = \"127.0.0.1:0\"\nunderscore_headers = \"allow\"\n\
                 trusted_proxies = [\"127.0.0.1\"]\n";
    let names = [
        "X_Forwarded_Client_Cert",
        "X-Forwarded_Client_Cert",
        "x_forwarded_for",
        "X_Forwarded_Proto",
        "X_Forwarded_Host",
        "X_Forwarded-Prefix",
        "Content_Length",
        "Transfer_Encoding",
        "Keep_Alive",
        "Proxy_Connection",
        "Proxy_Authorization",
    ];
    for name in names {
        for listen in [allow, &allow.replace("127.0.0.1\"]", "127.0.0.2\"]")] {
            let field = format!("{name}: 7\r\n");
            let got = seen(listen, &get(&format!("Host: a\r\n{field}X_Under: 1\r\n"))).await;
            assert_eq!(got.field(&name.to_lowercase()), None, "{name}");
            assert_eq!(got.field("x_under"), Some("1"), "{name}");
            let chunked = format!(
                "POST /cart HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                 0\r\n{field}X_Under: 1\r\n\r\n"
            );
            assert_eq!(seen(listen, &chunked).await.trailers, "x_under: 1\r\n");
        }
    }
}

/// Each write of its own would cost a system call here, and another at the backend.
#[tokio::test]
async fn the_head_and_the_start_of_the_body_go_out_in_one_write() {
    let backend = RawBackend::serving(async |mut wire: Wire| {
        loop {
            // One read, which gets what one write has sent.
            let mut space = [0; 4096];
            let read = tokio::io::AsyncReadExt::read(&mut wire.stream, &mut space);
            let count = read.await.unwrap();
            if count == 0 {
                return;
            }
            wire.send(ok(&space[..count])).await;
            if !space[..count].ends_with(b"the body") {
                return;
            }
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    let post = "POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nthe body";
    // The first on a new connection to the backend, and then on a kept one.
    for _ in 0..20 {
        let got = client.ask(post).await;
        assert!(got.text().ends_with("\r\n\r\nthe body"), "{}", got.text());
    }
    assert_eq!(backend.connections(), 1);

    // One that comes a little later is not waited for.
    client.send(post.strip_suffix("the body").unwrap()).await;
    let got = client.message().await.unwrap();
    assert!(got.text().ends_with("\r\n\r\n"), "{}", got.text());
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let backend = RawBackend::serving(async |mut wire: Wire| {
        while let Some(request) = wire.message().await {
            let path = request.start().split(' ').nth(1).unwrap().to_owned();
            // The first takes longest.
            let wait = 30 / path.len() as u64;
            tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
            wire.send(ok(path + " " + request.text())).await;
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    let mut all = String::new();
    for number in 0..5 {
        all += &path(&format!("/cart/{}", "x".repeat(number)));
        all += "POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    }
    client.send(all).await;
    for number in 0..5 {
        let got = client.message().await.unwrap();
        assert_eq!(got.text(), format!("/cart/{} ", "x".repeat(number)));
        let got = client.message().await.unwrap();
        assert_eq!(got.text(), "/cart body");
    }
}

/// What a chunked body ends with, and what stands behind it, may come in the same read.
#[tokio::test]
async fn each_request_behind_a_chunked_body_is_its_own_however_the_bytes_come() {
    let backend = RawBackend::serving(async |mut wire: Wire| {
        while let Some(request) = wire.message().await {
            let (start, text) = (request.start(), request.text());
            let body = format!("{start} {text} {}", request.trailers.trim_end());
            wire.send(ok(body)).await;
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let chunked = "POST /cart HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let requests = [
        (
            format!("{chunked}5;a=\"b;c\"\r\nhello\r\n1  \r\n!\r\n0\r\nX-Sum: 6\r\n\r\n"),
            "POST /cart HTTP/1.1 hello! x-sum: 6",
        ),
        (format!("{chunked}0\r\n\r\n"), "POST /cart HTTP/1.1  "),
        (path("/cart/?<"), "GET /cart/?%3C HTTP/1.1  "),
        (
            "POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n\r\n".to_owned(),
            "POST /cart HTTP/1.1 \r\n ",
        ),
        (
            format!("{chunked}19\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n0\r\n\r\n"),
            "POST /cart HTTP/1.1 GET / HTTP/1.1\r\nHost: a\r\n ",
        ),
        (path("/cart/last"), "GET /cart/last HTTP/1.1  "),
    ];
    let all: String = requests.iter().map(|(wire, _)| wire.as_str()).collect();
    // What a query has raw is escaped in a line that comes in one read.
    let (raw, escaped) = (all.clone(), all.replace('<', "%3C"));
    for (step, all) in [
        (1, &escaped),
        (7, &escaped),
        (50, &escaped),
        (raw.len(), &raw),
    ] {
        let mut client = Wire::connect(proxy.address()).await;
        client.stream.set_nodelay(true).unwrap();
        for piece in all.as_bytes().chunks(step) {
            client.send(piece).await;
        }
        for (wire, expected) in &requests {
            let got = client.message().await.unwrap();
            assert_eq!(got.text(), *expected, "{wire:?} in pieces of {step}");
        }
    }
}

/// Where nothing was answered yet, it is told; where the answer is decided, its connection ends.
#[tokio::test]
async fn nothing_behind_a_chunked_body_that_is_not_sound_is_taken_for_a_request() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let evil = path("/cart/evil");
    for end in [
        "1;\0\r\na\r\n0\r\n\r\n",
        "0\r\nX-Tail: a\n\n",
        "0\r\nX-Tail: a\n\r\n",
        "0\r\n\n",
    ] {
        for (target, status) in [("/cart", 400), ("/nowhere", 404)] {
            let mut client = Wire::connect(proxy.address()).await;
            let fields = "Host: a\r\nTransfer-Encoding: chunked";
            let head = format!("POST {target} HTTP/1.1\r\n{fields}\r\n\r\n");
            client.send(format!("{head}{end}{evil}")).await;
            let got = client.message().await.unwrap();
            assert_eq!(got.status(), status, "{end:?}");
            assert_eq!(got.field("connection"), Some("close"), "{end:?}");
            client.until_closed().await;
        }
    }
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn who_waits_for_100_gets_it_and_nobody_asks_for_what_has_no_route() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    let post = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    client.send(post("/cart")).await;
    assert_eq!(
        client.head().await.unwrap(),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    assert_eq!(client.ask("body").await.text(), "well");
    let requests = backend.requests();
    assert_eq!(
        (requests[0].text(), requests[0].field("expect")),
        ("body", Some("100-continue"))
    );

    // A body that nobody will take is not asked for.
    let mut client = Wire::connect(proxy.address()).await;
    assert_eq!(client.ask(post("/nowhere")).await.status(), 404);
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_request_that_comes_round_again_is_508() {
    let proxy = Proxy::start("[[route]]\npath = \"/cart\"\nservice = \"cart\"\n").await;
    proxy.register("cart", proxy.address()).await;
    let known = eventually(
        "it knows itself",
        async || cart(&proxy).await["endpoints"].as_array().unwrap().len(),
        |known| *known == 1,
    );
    known.await;
    let got = Wire::connect(proxy.address())
        .await
        .ask(get("Host: a\r\n"))
        .await;
    assert_eq!(got.status(), 508);
    assert_eq!(cart(&proxy).await["requests"], 3);
}

/// What other proxies pass on.
#[tokio::test]
async fn what_is_raw_in_a_query_is_passed_on_escaped() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    for (query, expected) in [
        (&b"query=up{job=\"x\"}"[..], "query=up{job=%22x%22}"),
        (b"a=<b>&c=d", "a=%3Cb%3E&c=d"),
        (b"caf\xe9", "caf%E9"),
        ("café".as_bytes(), "café"),
    ] {
        let request = [
            b"POST /cart?",
            query,
            b" HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n\"<#>",
        ];
        let got = client.ask(request.concat()).await;
        assert_eq!(got.status(), 200, "{expected}");
        let seen = backend.requests().pop().unwrap();
        assert_eq!(seen.start(), format!("POST /cart?{expected} HTTP/1.1"));
        assert_eq!(seen.body, b"\"<#>");
    }
    // More than fits what the library reads at once.
    let long = format!("GET /cart?{}", "\"".repeat(2_500));
    let got = client
        .ask(format!("{long} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .await;
    assert_eq!(got.status(), 200);
    let seen = backend.requests().pop().unwrap();
    assert!(seen.start().contains(&"%22".repeat(2_500)));
    // Nothing is a query in a body, however it comes.
    client
        .send("POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 22\r\n\r\n")
        .await;
    let sent = eventually(
        "sent on",
        async || cart(&proxy).await["requests"].clone(),
        |n| *n == 6,
    );
    sent.await;
    let body = "GET /?\"\" HTTP/1.1\r\n\r\n.";
    assert_eq!(client.ask(body).await.status(), 200);
    assert_eq!(backend.requests().pop().unwrap().text(), body);
}

/// The library's own refusals, and what it would drop in silence.
#[tokio::test]
async fn a_head_that_is_not_understood_is_answered_and_counted_like_any_refusal() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let refused = async || {
        let status = proxy.status().await;
        status["workers"][0]["refused"].as_u64().unwrap()
    };
    let (mut client, mut count) = (Wire::connect(proxy.address()).await, refused().await);
    for (status, request) in [
        (400, "GET /cart HTTP/1.1\r\nHo st: a\r\n\r\n".to_owned()),
        (400, "GET /cart\"<> HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        (
            400,
            "GET /cart#there HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (
            400,
            "GET http://a/cart?b#c HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        ),
        (431, get(&format!("Host: a\r\n{}", "B: c\r\n".repeat(101)))),
        // Behind an answer on the same connection.
        (400, format!("{}GET\r\n\r\n", get("Host: a\r\n"))),
    ] {
        client.send(&request).await;
        let mut got = client.message().await.unwrap();
        if got.status() == 200 {
            got = client.message().await.unwrap();
        }
        let id = got.field("x-request-id").unwrap();
        assert_eq!(got.status(), status, "{request:?}");
        assert!(
            got.text().starts_with(&status.to_string()) && got.text().contains(id),
            "{}",
            got.text()
        );
        assert_eq!(got.field("connection"), Some("close"), "{request:?}");
        assert!(got.field("date").is_some());
        client.until_closed().await;
        count += 1;
        assert_eq!(refused().await, count, "{request:?}");
        client = Wire::connect(proxy.address()).await;
    }
}

/// Bytes behind such an answer would be the next one's.
#[tokio::test]
async fn a_head_request_that_is_not_understood_is_answered_with_a_head_alone() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let head = |fields: &str| format!("HEAD /cart HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let get = get("Host: a\r\n");
    let body = "POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    for (status, before, request) in [
        (400, "", head("Content-Length: 1\r\nContent-Length: 2\r\n")),
        (400, "", head("X-Space : a\r\n")),
        (400, "", head("X-Nul: a\0b\r\n")),
        (400, "\r\n", head("X-Space : a\r\n")),
        (431, "", head(&"B: c\r\n".repeat(101))),
        (431, "", head(&format!("B: {}\r\n", "c".repeat(200_000)))),
        (400, &get, head("X-Space : a\r\n")),
        (400, body, head("X-Space : a\r\n")),
        // hyper understands it, and the proxy does not take it.
        (400, "", head("Host: b\r\n")),
        (417, "", head("Expect: a-miracle\r\n")),
    ] {
        for apart in [false, true] {
            let mut client = Wire::connect(proxy.address()).await;
            client.stream.set_nodelay(true).unwrap();
            if apart {
                let (start, rest) = request.split_at(2);
                client.send(format!("{before}{start}")).await;
                // It may be closed before all of it was read.
                let _ = AsyncWriteExt::write_all(&mut client.stream, rest.as_bytes()).await;
            } else {
                let all = format!("{before}{request}");
                let _ = AsyncWriteExt::write_all(&mut client.stream, all.as_bytes()).await;
            }
            if !before.trim().is_empty() {
                assert_eq!(client.message().await.unwrap().status(), 200);
            }
            let got = client.head().await.unwrap();
            assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
            assert!(got.contains("content-length: "), "{got}");
            if status != 417 {
                client.until_closed().await;
            }
        }
    }
}

/// For programs that look for a name letter by letter.
#[tokio::test]
async fn names_are_written_in_title_case_where_that_is_asked_for() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nX-API-key: a\r\n\r\nwell";
    let backend = RawBackend::saying(answer, Then::Keep).await;
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\nheader_case = \"title\"\n";
    let proxy = before(backend.address(), listen).await;
    let mut client = Wire::connect(proxy.address()).await;
    let asked = "POST /cart HTTP/1.1\r\nhost: a\r\nx-a-b: c:d-e\r\ncontent-length: 1\r\n\r\nz";
    let got = client.ask(asked).await;
    assert!(
        got.head.contains("\r\nContent-Length: 4\r\n"),
        "{}",
        got.head
    );
    assert!(got.head.contains("\r\nX-Api-Key: a\r\n"), "{}", got.head);
    let seen = backend.requests().pop().unwrap();
    assert_eq!((seen.start(), seen.text()), ("POST /cart HTTP/1.1", "z"));
    for line in [
        "Host: a",
        "X-A-B: c:d-e",
        "Content-Length: 1",
        "X-Forwarded-For: 127.0.0.1",
    ] {
        assert!(
            seen.head.contains(&format!("\r\n{line}\r\n")),
            "{}",
            seen.head
        );
    }
    let got = client.ask("GET / HT\r\n\r\n").await;
    assert!(got.head.contains("\r\nX-Request-Id: ") || got.head.contains("\r\nx-request-id: "));
    assert!(got.text().starts_with("400 "), "{}", got.text());
}

/// A gateway that is itself behind the proxy, and asks it for what is behind it.
#[tokio::test]
async fn a_request_may_pass_through_the_proxy_more_than_once() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    assert_eq!(client.ask(get("Host: a\r\n")).await.status(), 200);
    let requests = backend.requests();
    let ours = requests[0].field("via").unwrap();
    let again = |times: usize| {
        let via = format!("Via: 1.1 gateway, {ours}\r\n").repeat(times);
        get(&format!("Host: a\r\n{via}"))
    };
    for (times, status) in [(1, 200), (2, 200), (3, 508), (9, 508)] {
        let got = Wire::connect(proxy.address()).await.ask(again(times)).await;
        assert_eq!(got.status(), status, "{times}");
    }
    // Its own list in one line counts as well.
    let list = format!("Host: a\r\nVia: {ours}, {ours}, {ours}\r\n");
    let got = Wire::connect(proxy.address()).await.ask(get(&list)).await;
    assert_eq!(got.status(), 508);
}

/// Each field of `Connection` is looked at once, and not once for each field of the request.
#[tokio::test]
async fn what_connection_names_is_bounded_and_still_stays_here() {
    let many: Vec<_> = (0..32).map(|n| format!("X-Hop-{n}")).collect();
    let fields: String = many.iter().map(|name| format!("{name}: 1\r\n")).collect();
    let connection = format!("Connection: {}, close, keep-alive\r\n", many.join(","));
    let got = seen(
        "",
        &get(&format!("Host: a\r\n{connection}{fields}X-Kept: 1\r\n")),
    )
    .await;
    assert!(
        !got.head.to_ascii_lowercase().contains("x-hop"),
        "{}",
        got.head
    );
    assert_eq!(got.field("x-kept"), Some("1"));
}

#[tokio::test]
async fn errors_are_short_and_json_to_those_who_want_it() {
    let proxy = Proxy::start(
        "[[route]]\npath = \"/cart\"\nservice = \"cart\"\n[[route]]\npath = \"/of/{service}\"\nservice = \"{service}\"\n",
    )
    .await;
    for (path, status, says, retry_after) in [
        ("/", 404, "no route takes this request", None),
        ("/of/nobody", 404, "no service `nobody` is registered", None),
        ("/cart", 503, "service `cart` is not registered", Some("1")),
    ] {
        let mut client = Wire::connect(proxy.address()).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let got = client.ask(&request).await;
        assert_eq!(
            (got.status(), got.field("retry-after")),
            (status, retry_after),
            "{path}"
        );
        assert_eq!(got.field("content-type"), Some("text/plain; charset=utf-8"));
        let id = got.field("x-request-id").unwrap();
        assert!(
            got.text().contains(says) && got.text().contains(id),
            "{}",
            got.text()
        );

        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n");
        let got = client.ask(&request).await;
        assert_eq!(
            (got.status(), got.field("retry-after")),
            (status, retry_after),
            "{path}"
        );
        assert_eq!(got.field("content-type"), Some("application/json"));
        let error: Value = serde_json::from_slice(&got.body).unwrap();
        let id = got.field("x-request-id").unwrap();
        assert_eq!(
            error,
            json!({"status": status, "error": says, "request_id": id})
        );
    }
}

/// A limit of one is one client at a time, and not none now and then: whoever waits to accept takes
/// nobody's place.
#[tokio::test]
async fn at_the_limit_of_connections_the_next_is_served_when_one_ends() {
    let backend = well().await;
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\nlimits = { connections = 1 }\n";
    let config = "workers = 2\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n";
    let proxy = Proxy::start(&format!("{config}{listen}")).await;
    proxy.register("cart", backend.address()).await;
    for _ in 0..12 {
        let mut client = Wire::connect(proxy.address()).await;
        client.send(get("Host: a\r\n")).await;
        assert!(client.head().await.is_some());
    }
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_its_share() {
    let backend = well().await;
    let limits = "limits = { connections_per_address = 2 }\n";
    let config = "workers = 2\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n";
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
    let proxy = Proxy::start(&format!("{config}{listen}{limits}")).await;
    proxy.register("cart", backend.address()).await;
    let mut first = Wire::connect(proxy.address()).await;
    let served = async || {
        first.send(get("Host: a\r\n")).await;
        first.message().await.unwrap().status()
    };
    eventually("it is known", served, |status| *status == 200).await;
    let mut second = Wire::connect(proxy.address()).await;
    assert_eq!(second.ask(get("Host: a\r\n")).await.status(), 200);
    let mut third = Wire::connect(proxy.address()).await;
    let told = third.message().await.unwrap();
    assert_eq!(
        (told.status(), told.field("connection")),
        (429, Some("close"))
    );
    assert!(told.text().ends_with("this address\n"), "{}", told.text());
    third.until_closed().await;
    let page = proxy.page("/metrics").await.text().await.unwrap();
    assert!(page.contains("callboard_connections_refused_total 1\n"));
    // Those that are there stay, and a place is free when one of them ends.
    assert_eq!(second.ask(get("Host: a\r\n")).await.status(), 200);
    drop(second);
    let again = async || {
        let mut client = Wire::connect(proxy.address()).await;
        // It may be turned away before it has asked.
        let asked = get("Host: a\r\n");
        let _ = AsyncWriteExt::write_all(&mut client.stream, asked.as_bytes()).await;
        client
            .try_message()
            .await
            .ok()
            .flatten()
            .map(|got| got.status())
    };
    eventually("a place is free", again, |status| *status == Some(200)).await;

    // The clients of a trusted proxy are many.
    let trusted = "trusted_proxies = [\"127.0.0.1\"]\n";
    let proxy = Proxy::start(&format!("{config}{listen}{trusted}{limits}")).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = Wire::connect(proxy.address()).await;
        assert_eq!(
            client
                .ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .status(),
            404
        );
        clients.push(client);
    }
}

#[tokio::test]
async fn a_host_is_looked_at_though_the_target_has_one_too() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    for fields in ["Host: b@c/ d\r\n", ""] {
        let asked = format!("GET http://a/cart HTTP/1.1\r\n{fields}\r\n");
        let got = Wire::connect(proxy.address()).await.ask(asked).await;
        assert_eq!(got.status(), 400, "{fields:?}");
    }
}
