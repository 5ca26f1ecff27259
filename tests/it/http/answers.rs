//! What a backend answers, and what the client gets of it.

use std::{sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt as _, sync::Semaphore, time::timeout};

use super::{IN_TURN, before, before_all, cart};
use crate::support::{
    eventually,
    raw::{RawBackend, Then, Wire, ok},
};

const GET: &str = "GET /cart HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD /cart HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

#[tokio::test]
async fn every_framing_is_passed_on_whole() {
    for (answer, then) in [
        ("Content-Length: 11\r\n\r\nhello world", Then::Keep),
        (
            "Content-Length: 11\r\nConnection: close\r\n\r\nhello world",
            Then::Close,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n6;x=y\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
            Then::Keep,
        ),
        ("\r\nhello world", Then::Close),
        ("Content-Length: 11\r\n\r\nhello world", Then::Close),
    ] {
        for version in ["1.1", "1.0"] {
            let text = format!("HTTP/1.1 200 OK\r\nX-Is: there\r\n{answer}");
            let backend = RawBackend::saying(text, then).await;
            let proxy = before(backend.address(), "").await;
            let mut client = Wire::connect(proxy.address()).await;
            let request = format!("GET /cart HTTP/{version}\r\nHost: a\r\n\r\n");
            for _ in 0..2 {
                let got = client.ask(&request).await;
                assert_eq!(
                    (got.status(), got.text()),
                    (200, "hello world"),
                    "{answer:?}"
                );
                assert_eq!(got.field("x-is"), Some("there"));
                if version == "1.0" {
                    client.until_closed().await;
                    client = Wire::connect(proxy.address()).await;
                }
            }
            let kept = backend.connections() == 1;
            assert_eq!(kept, then == Then::Keep, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn the_reason_phrase_is_passed_on() {
    for (line, expected) in [
        ("200 OK", "200 OK"),
        ("200 Alright", "200 Alright"),
        ("404 No such cart", "404 No such cart"),
        ("499 Client is gone", "499 Client is gone"),
        // What is empty is filled in where it is known.
        ("200 ", "200 OK"),
        ("200", "200 OK"),
        ("499 ", "499 "),
        ("499", "499 "),
    ] {
        let text = format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n");
        let backend = RawBackend::saying(text, Then::Keep).await;
        let proxy = before(backend.address(), "").await;
        let got = Wire::connect(proxy.address()).await.ask(GET).await;
        assert_eq!(got.start(), format!("HTTP/1.1 {expected}"), "{line:?}");
    }
}

/// As `ab -k` asks: who is told that its connection is kept asks again on it.
#[tokio::test]
async fn a_client_of_http_1_0_is_told_what_becomes_of_its_connection() {
    let request = "GET /cart HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    for (answer, then, is_kept) in [
        ("Content-Length: 4\r\n\r\nwell", Then::Keep, true),
        ("Content-Length: 0\r\n\r\n", Then::Keep, true),
        (
            "Transfer-Encoding: chunked\r\n\r\n4\r\nwell\r\n0\r\n\r\n",
            Then::Keep,
            false,
        ),
        ("\r\nwell", Then::Close, false),
    ] {
        let backend = RawBackend::saying(format!("HTTP/1.1 200 OK\r\n{answer}"), then).await;
        let proxy = before(backend.address(), "").await;
        let mut client = Wire::connect(proxy.address()).await;
        for path in ["/cart", "/nowhere"] {
            let got = client.ask(request.replace("/cart", path)).await;
            assert!(got.start().starts_with("HTTP/1.0 "), "{}", got.head);
            let is_kept = is_kept || path == "/nowhere";
            let says = if is_kept { "keep-alive" } else { "close" };
            assert_eq!(got.field("connection"), Some(says), "{answer:?}");
            if !is_kept {
                client.until_closed().await;
                client = Wire::connect(proxy.address()).await;
            }
        }
    }
}

/// HTTP/1.0 knows no chunks: a clean end of the connection would be a clean end of the answer.
#[tokio::test]
async fn what_is_cut_short_ends_in_a_reset_for_a_client_of_http_1_0() {
    let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let backend = RawBackend::saying(text, Then::Close).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    client.send("GET /cart HTTP/1.0\r\nHost: a\r\n\r\n").await;
    let rest = client.rest().await;
    assert!(rest.is_err(), "{rest:?}");
}

/// The client must be able to tell that it did not get all.
#[tokio::test]
async fn what_is_cut_short_upstream_is_cut_short_downstream() {
    for (answer, then) in [
        ("Content-Length: 11\r\n\r\nhello", Then::Close),
        ("Content-Length: 11\r\n\r\nhello", Then::Reset),
        ("Transfer-Encoding: chunked\r\n\r\nb\r\nhello", Then::Close),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            Then::Close,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            Then::Close,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n",
            Then::Keep,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n",
            Then::Keep,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            Then::Reset,
        ),
        ("\r\nhello", Then::Reset),
    ] {
        let text = format!("HTTP/1.1 200 OK\r\n{answer}");
        let backend = RawBackend::saying(text, then).await;
        let proxy = before(backend.address(), "").await;
        let mut client = Wire::connect(proxy.address()).await;
        client.send(GET).await;
        let head = client.head().await.unwrap_or_default();
        let body = client.rest().await.unwrap_or_default();
        // A reset takes away what was not read, here or there.
        assert!(then == Then::Reset || !head.is_empty(), "{answer:?}");
        let body = String::from_utf8(body).unwrap();
        let lacks = if head.contains("transfer-encoding: chunked") {
            !body.ends_with("0\r\n\r\n")
        } else {
            assert!(
                head.is_empty() || head.contains("content-length: 11"),
                "{head}"
            );
            body.len() < 11
        };
        assert!(lacks, "{answer:?} became {head}{body:?}");
        assert_eq!(
            cart(&proxy).await["endpoints"][0]["failures"],
            1,
            "{answer:?}"
        );
    }
}

/// The kernel tells of a reset once: here to the half that sends.
#[tokio::test]
async fn an_answer_without_length_that_a_reset_ends_is_not_whole_while_the_body_is_being_sent() {
    let may_reset = Arc::new(Semaphore::new(0));
    let told = Arc::clone(&may_reset);
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let told = Arc::clone(&told);
        async move {
            wire.head().await.unwrap();
            wire.send("HTTP/1.1 200 OK\r\n\r\nhalf of it").await;
            let _permit = told.acquire().await.unwrap();
            wire.stream.set_zero_linger().unwrap();
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    client
        .send("POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        .await;
    // Until nothing on the way takes any more: so the proxy is about to send.
    let piece = [b'x'; 64 * 1024];
    let a_while = Duration::from_millis(300);
    while let Ok(sent) = timeout(a_while, client.stream.write(&piece)).await {
        sent.unwrap();
    }
    let head = client.head().await.unwrap();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert_eq!(client.bytes(15).await, b"A\r\nhalf of it\r\n");
    may_reset.add_permits(1);
    let rest = client.rest().await.unwrap_or_default();
    assert_eq!(String::from_utf8(rest).unwrap(), "", "no last chunk");
    assert_eq!(cart(&proxy).await["endpoints"][0]["failures"], 1);
}

/// What a POST asked may have been done: nobody is asked twice, and nothing that could be read in
/// two ways is passed on.
#[tokio::test]
async fn an_answer_that_is_ambiguous_or_none_at_all_is_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nA: b\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ] {
        let backend = RawBackend::saying(answer, Then::Keep).await;
        let other = RawBackend::saying(ok("other"), Then::Keep).await;
        let proxy = before(backend.address(), "").await;
        let mut client = Wire::connect(proxy.address()).await;
        for request in [GET, POST] {
            let got = client.ask(request).await;
            assert_eq!(got.status(), 502, "{answer:?}");
            let says = "service `cart` gave an answer that is not sound HTTP";
            assert!(got.text().contains(says), "{answer:?}: {}", got.text());
        }
        // Each connection is out of step from then on.
        assert_eq!(backend.requests().len(), 2, "{answer:?}");
        assert_eq!(backend.connections(), 2, "{answer:?}");
        assert_eq!(cart(&proxy).await["endpoints"][0]["idle_connections"], 0);
        drop(other);
    }
}

#[tokio::test]
async fn a_post_without_an_answer_is_502_and_never_sent_again_but_a_get_is() {
    for then in [Then::Close, Then::Reset] {
        let mute = RawBackend::saying("", then).await;
        let well = RawBackend::saying(ok("well"), Then::Keep).await;
        let proxy = before_all(&[mute.address(), well.address()], IN_TURN).await;
        let mut client = Wire::connect(proxy.address()).await;
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(client.ask(POST).await.status());
        }
        answers.sort_unstable();
        assert_eq!(answers, [200, 200, 502, 502]);
        assert_eq!((mute.requests().len(), well.requests().len()), (2, 2));
        for _ in 0..4 {
            assert_eq!(client.ask(GET).await.text(), "well");
        }
        assert_eq!(well.requests().len(), 6);
        let retried = mute.requests().len() - 2;
        assert!(retried > 0);
        assert_eq!(cart(&proxy).await["retries"], retried);
    }
}

#[tokio::test]
async fn interim_answers_are_absorbed() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let answer = [interim.as_bytes(), &ok("final")].concat();
    let backend = RawBackend::saying(answer, Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    for request in [GET, POST, GET] {
        let got = client.ask(request).await;
        assert_eq!((got.status(), got.text()), (200, "final"));
        assert_eq!(got.field("link"), None);
    }
    assert_eq!(backend.connections(), 1);
}

/// Neither side may wait for a body that never comes, or take the next answer for it. (A 304 need
/// not say what length a 200 would have, and hyper's server does not.)
#[tokio::test]
async fn answers_without_a_body_keep_both_connections_in_step() {
    for (request, answer, length) in [
        (HEAD, "200 OK\r\nContent-Length: 11\r\n\r\n", Some("11")),
        (HEAD, "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        (HEAD, "404 Not Found\r\n\r\n", None),
        (
            GET,
            "304 Not Modified\r\nContent-Length: 11\r\nETag: \"x\"\r\n\r\n",
            None,
        ),
        (GET, "304 Not Modified\r\n\r\n", None),
        (GET, "204 No Content\r\n\r\n", None),
        (GET, "204 No Content\r\nContent-Length: 0\r\n\r\n", None),
        (
            GET,
            "204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            None,
        ),
    ] {
        let backend = RawBackend::saying(format!("HTTP/1.1 {answer}"), Then::Keep).await;
        let proxy = before(backend.address(), "").await;
        let mut client = Wire::connect(proxy.address()).await;
        for _ in 0..3 {
            client.send(request).await;
            let head = client.head().await.unwrap();
            let status = format!("HTTP/1.1 {}", &answer[..3]);
            assert!(head.starts_with(&status), "{answer:?}: {head}");
            let line = length.map(|length| format!("content-length: {length}\r\n"));
            let says = head.find("content-length").map(|at| &head[at..]);
            assert_eq!(says.is_some(), line.is_some(), "{answer:?}: {head}");
            assert!(
                line.is_none_or(|line| head.contains(&line)),
                "{answer:?}: {head}"
            );
            assert!(client.is_silent().await, "{answer:?}");
        }
        assert_eq!(backend.connections(), 1, "{answer:?}");
        assert_eq!(backend.requests().len(), 3, "{answer:?}");
    }
}

/// Its end may come a moment later, and is no part of the next answer.
#[tokio::test]
async fn a_204_that_says_chunked_without_more_is_passed_on_and_ends_its_connection() {
    let answer = "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n";
    let backend = RawBackend::saying(answer, Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    for _ in 0..3 {
        client.send(GET).await;
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 204"));
        assert!(client.is_silent().await);
    }
    assert_eq!(backend.connections(), 3);
}

fn with_fields(count: usize) -> Vec<u8> {
    let fields: String = (0..count).map(|n| format!("X-{n}: {n}\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn an_answer_with_many_fields_is_passed_on_and_its_limits_have_keys() {
    let few = "[service.cart]\nlimits = { answer_headers = 150, answer_header_bytes = 4096 }\n";
    let long = format!(
        "HTTP/1.1 200 OK\r\nA: {}\r\nContent-Length: 0\r\n\r\n",
        "a".repeat(5_000)
    );
    for (answer, config, status) in [
        (with_fields(149), "", 200),
        (with_fields(999), "", 200),
        (with_fields(1_000), "", 502),
        (with_fields(149), few, 200),
        (with_fields(150), few, 502),
        (long.clone().into_bytes(), "", 200),
        (long.into_bytes(), few, 502),
    ] {
        let of = answer.len();
        let backend = RawBackend::saying(answer, Then::Keep).await;
        let proxy = before(backend.address(), config).await;
        let mut client = Wire::connect(proxy.address()).await;
        let got = client.ask(GET).await;
        assert_eq!(got.status(), status, "{of} bytes, {config}");
        if status == 200 && of < 5_000 {
            assert_eq!(got.field("x-100"), Some("100"));
        } else if status == 502 {
            assert!(
                got.text().contains("more headers than it may"),
                "{}",
                got.text()
            );
        }
    }
}

/// It is a page that is at fault, and not who serves it.
#[tokio::test]
async fn an_answer_that_is_too_large_takes_no_endpoint_out() {
    let backends = [(); 2].map(|()| RawBackend::saying(with_fields(1_001), Then::Keep));
    let [one, other] = backends;
    let (one, other) = (one.await, other.await);
    let proxy = before_all(&[one.address(), other.address()], "").await;
    let mut client = Wire::connect(proxy.address()).await;
    for _ in 0..20 {
        assert_eq!(client.ask(GET).await.status(), 502);
    }
    let cart = cart(&proxy).await;
    for endpoint in cart["endpoints"].as_array().unwrap() {
        assert_eq!(endpoint["state"], "serving", "{cart}");
    }
}

#[tokio::test]
async fn trailers_that_are_too_large_take_no_endpoint_out() {
    let many: String = (0..1_001).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let long = format!("X: {}\r\n", "x".repeat(17_000));
    for (trailers, is_fine) in [
        ("X: y\r\n".repeat(1_000), true),
        (many, false),
        (long, false),
    ] {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailers}\r\n"
        );
        let backends = [
            RawBackend::saying(answer, Then::Keep).await,
            RawBackend::saying(ok("hello"), Then::Keep).await,
        ];
        let proxy = before_all(&[backends[0].address(), backends[1].address()], "").await;
        let mut cut = 0;
        for _ in 0..20 {
            let mut client = Wire::connect(proxy.address()).await;
            client.send(GET).await;
            let got = client.try_message().await;
            cut += usize::from(!matches!(got, Ok(Some(_))));
        }
        assert_eq!(cut, if is_fine { 0 } else { 10 });
        // Each was called in its turn, up to the end.
        let called = backends.iter().map(|backend| backend.requests().len());
        assert!(called.eq([10, 10]));
        let cart = cart(&proxy).await;
        for endpoint in cart["endpoints"].as_array().unwrap() {
            assert_eq!(endpoint["state"], "serving", "{cart}");
        }
    }
}

#[tokio::test]
async fn trailers_reach_a_client_that_wants_them() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                  5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n";
    let backend = RawBackend::saying(answer, Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    let wants = "GET /cart HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n";
    let got = client.ask(wants).await;
    assert_eq!(
        (got.text(), got.trailers.to_lowercase().as_str()),
        ("hello", "x-sum: 5\r\n")
    );
    assert_eq!(backend.requests()[0].field("te"), Some("trailers"));
    let got = client.ask(GET).await;
    assert_eq!((got.text(), got.trailers.as_str()), ("hello", ""));
    assert_eq!(backend.requests()[1].field("te"), None);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn what_belongs_to_the_backends_connection_stays_there() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n\
                  Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
                  Content-Length: 2\r\n\r\nok";
    let backend = RawBackend::saying(answer, Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let got = Wire::connect(proxy.address()).await.ask(GET).await;
    for gone in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "upgrade",
    ] {
        assert_eq!(got.field(gone), None, "{}", got.head);
    }
    assert_eq!(got.fields("set-cookie"), ["a=1", "b=2"]);
}

/// A second answer behind the first belongs to nobody.
#[tokio::test]
async fn bytes_beyond_an_answer_are_nobodys_answer() {
    let answer = [ok("first"), ok("smuggled")].concat();
    let backend = RawBackend::saying(answer, Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    for _ in 0..5 {
        assert_eq!(client.ask(GET).await.text(), "first");
    }
    assert_eq!(backend.connections(), 5);

    // The same where they come a moment later, on a connection that is idle by then.
    let (answered, smuggled) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (after, done) = (Arc::clone(&answered), Arc::clone(&smuggled));
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let (after, done) = (Arc::clone(&after), Arc::clone(&done));
        async move {
            while wire.message().await.is_some() {
                wire.send(ok("first")).await;
                after.acquire().await.unwrap().forget();
                wire.send(ok("smuggled")).await;
                done.add_permits(1);
            }
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    for _ in 0..5 {
        for request in [POST, GET] {
            assert_eq!(client.ask(request).await.text(), "first");
            answered.add_permits(1);
            smuggled.acquire().await.unwrap().forget();
        }
    }
}

/// It says so as soon as it knows; the client need not send the rest, and may.
#[tokio::test]
async fn an_early_answer_is_passed_on_while_the_body_is_still_being_sent() {
    let answer = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much";
    for closes in [false, true] {
        let backend = RawBackend::serving(move |mut wire: Wire| async move {
            wire.head().await.unwrap();
            wire.send(answer).await;
            if !closes {
                // It reads on, and says no more.
                let _ = wire.rest().await;
            }
        });
        let backend = backend.await;
        let proxy = before(backend.address(), "").await;
        let mut client = Wire::connect(proxy.address()).await;
        client
            .send("POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
            .await;
        client.send(vec![b'x'; 200_000]).await;
        let got = client.message().await.unwrap();
        assert_eq!((got.status(), got.text()), (413, "too much"));
        // Nobody waits for the rest of the body.
        let quiet = eventually(
            "nothing is in flight",
            async || cart(&proxy).await["endpoints"][0]["in_flight"].clone(),
            |in_flight| *in_flight == 0,
        );
        quiet.await;
        assert_eq!(cart(&proxy).await["retries"], 0);
    }
}
