//! How a client's connection ends: no next request dies of an answer that came early, and no answer
//! is lost for what the client was still sending.

use tokio::io::AsyncWriteExt as _;

use super::{before, cart};
use crate::support::{
    eventually,
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, ok},
};

const GET: &str = "GET /cart HTTP/1.1\r\nHost: a\r\n\r\n";

/// Routes and a listener that answer in all the ways that the proxy has of its own.
const OWN: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\nhealth_path = \"/healthz\"\nlimits = { headers = 50 }\n\
    [[route]]\npath = \"/nobody\"\nservice = \"nobody\"\n\
    [[route]]\npath = \"/refused\"\nservice = \"refused\"\n\
    [service.refused]\nendpoints = [\"127.0.0.1:1\"]\n\
    [[route]]\npath = \"/limited\"\nservice = \"cart\"\nrate = { requests = 1, per = \"24h\" }\n";

async fn well() -> RawBackend {
    RawBackend::saying(ok("well"), Then::Keep).await
}

async fn use_up_the_rate(proxy: &Proxy) {
    let taken = "GET /limited HTTP/1.1\r\nHost: a\r\n\r\n";
    let got = Wire::connect(proxy.address()).await.ask(taken).await;
    assert_eq!(got.status(), 200);
}

/// Starts and statuses of requests that the proxy answers itself.
fn own() -> Vec<(u16, &'static str, String)> {
    let many = "B: c\r\n".repeat(60);
    vec![
        (404, "POST /nowhere", String::new()),
        (503, "POST /nobody", String::new()),
        (502, "POST /refused", String::new()),
        (429, "POST /limited", String::new()),
        (405, "TRACE /cart", String::new()),
        (417, "POST /cart", "Expect: a-miracle\r\n".to_owned()),
        (431, "POST /cart", many),
        (200, "POST /healthz", String::new()),
    ]
}

#[tokio::test]
async fn an_answer_before_the_body_costs_no_client_its_next_request() {
    let backend = well().await;
    let proxy = before(backend.address(), OWN).await;
    use_up_the_rate(&proxy).await;
    for (status, start, fields) in own() {
        let mut client = Wire::connect(proxy.address()).await;
        let head = format!("{start} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: 10\r\n\r\n");
        let got = client.ask(&head).await;
        assert_eq!(
            (got.status(), got.field("connection")),
            (status, None),
            "{start}"
        );
        client.send("0123456789").await;
        assert_eq!(client.ask(GET).await.text(), "well", "{start}");
        // The rest in two pieces, the second of which comes with the next request.
        assert_eq!(client.ask(&head).await.status(), status, "{start}");
        client.send("01234").await;
        assert_eq!(client.ask(format!("56789{GET}")).await.text(), "well");
    }
}

#[tokio::test]
async fn a_chunked_body_that_is_there_costs_no_client_its_connection() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\n\r\n",
    ] {
        let head = "POST /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let got = client.ask(format!("{head}{body}")).await;
        assert_eq!(
            (got.status(), got.field("connection")),
            (404, None),
            "{body:?}"
        );
        assert_eq!(client.ask(GET).await.text(), "well");
    }
}

/// What a client has to send it may send, and it gets its answer and a clean end.
#[tokio::test]
async fn where_much_may_follow_the_answer_says_that_the_connection_ends_and_it_ends_cleanly() {
    let backend = well().await;
    let proxy = before(backend.address(), OWN).await;
    use_up_the_rate(&proxy).await;
    let much = vec![b'x'; 8 << 20];
    let length = format!("Content-Length: {}\r\n", much.len());
    let chunked = "Transfer-Encoding: chunked\r\n";
    let expects = "Expect: 100-continue\r\nContent-Length: 4\r\n";
    for (status, start, fields) in own() {
        for (framing, body) in [
            (length.as_str(), much.clone()),
            (
                chunked,
                [b"800000\r\n", &much[..], b"\r\n0\r\n\r\n"].concat(),
            ),
            (expects, b"body".to_vec()),
        ] {
            if fields.starts_with("Expect") && framing == expects {
                continue;
            }
            let mut client = Wire::connect(proxy.address()).await;
            let head = format!("{start} HTTP/1.1\r\nHost: a\r\n{fields}{framing}\r\n");
            let got = client.ask(&head).await;
            assert_eq!(
                (got.status(), got.field("connection")),
                (status, Some("close")),
                "{start} {framing}"
            );
            client.send(&body).await;
            client.send(GET).await;
            assert_eq!(client.rest().await.unwrap(), b"", "{start} {framing}");
        }
    }
    assert_eq!(backend.requests().len(), 1);
}

/// A client that writes all of its request before it reads.
#[tokio::test]
async fn an_answer_is_not_lost_for_what_was_sent_behind_it() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let much = "x".repeat(4 << 20);
    for head in [
        // The head is refused by the proxy, or by its HTTP library.
        "GET /cart HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /cart HTTP/1.1\r\nHo st: a\r\n\r\n",
        "GET /cart HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnothing\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    ] {
        let mut client = Wire::connect(proxy.address()).await;
        // The answer to the first is still on its way.
        client.send(GET).await;
        client.send(head).await;
        client.send(&much).await;
        assert_eq!(client.message().await.unwrap().text(), "well");
        let got = client.message().await.unwrap();
        assert!(matches!(got.status(), 400 | 405), "{}", got.head);
        assert_eq!(got.field("connection"), Some("close"), "{head:?}");
        assert_eq!(client.rest().await.unwrap(), b"", "{head:?}");
    }
}

/// What follows belongs to a tunnel.
#[tokio::test]
async fn nothing_behind_a_refused_connect_is_taken_for_a_request() {
    let backend = well().await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect(proxy.address()).await;
    let connect = "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n";
    let got = client.ask(format!("{connect}{GET}")).await;
    assert_eq!(
        (got.status(), got.field("connection")),
        (405, Some("close"))
    );
    client.send(GET).await;
    assert_eq!(client.rest().await.unwrap(), b"");
    assert!(backend.requests().is_empty());
}

/// Answers as soon as it has a request's head, and reads no further until it is sent something else.
async fn hasty(answer: &'static str) -> RawBackend {
    RawBackend::serving(move |mut wire| async move {
        while let Some(head) = wire.head().await {
            wire.send(answer).await;
            if !head.starts_with("GET") {
                // It reads on, so that it does not break the connection off.
                let _ = wire.rest().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_early_answer_of_an_endpoint_costs_no_client_its_next_request() {
    let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let backend = hasty(answer).await;
    let proxy = before(backend.address(), "").await;
    let post = |framing: &str| format!("POST /cart HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
    let mut client = Wire::connect(proxy.address()).await;
    for _ in 0..3 {
        let got = client.ask(post("Content-Length: 10")).await;
        assert_eq!((got.status(), got.field("connection")), (403, None));
        client.send("0123456789").await;
        assert_eq!(client.ask(GET).await.status(), 403);
    }
    let much = vec![b'x'; 8 << 20];
    for framing in ["Content-Length: 8388608", "Transfer-Encoding: chunked"] {
        let mut client = Wire::connect(proxy.address()).await;
        let got = client.ask(post(framing)).await;
        assert_eq!(
            (got.status(), got.field("connection")),
            (403, Some("close")),
            "{framing}"
        );
        if framing.starts_with('T') {
            client.send("800000\r\n").await;
        }
        client.send(&much).await;
        assert_eq!(client.rest().await.unwrap(), b"", "{framing}");
    }
}

/// A client that never sends the rest does not keep its place.
#[tokio::test]
async fn the_rest_of_a_body_is_waited_for_for_a_while_only() {
    let proxy = Proxy::start("workers = 1\n").await;
    let mut client = Wire::connect(proxy.address()).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    assert_eq!(client.ask(head).await.status(), 404);
    client.send("01234").await;
    assert_eq!(client.rest().await.unwrap(), b"");
    let left = async || proxy.status().await["connections"].clone();
    eventually("its place is free", left, |left| left == 0).await;
}

#[tokio::test]
async fn a_proxy_that_drains_says_so_to_a_client_in_the_middle_of_its_body() {
    let backend = well().await;
    let drain = "[drain]\nnotice = \"10s\"\ndeadline = \"20s\"\n";
    let proxy = before(backend.address(), drain).await;
    let head = "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    let mut before = Wire::connect(proxy.address()).await;
    assert_eq!(before.ask(head).await.field("connection"), None);
    let mut client = Wire::connect(proxy.address()).await;
    assert_eq!(client.ask(GET).await.field("connection"), None);
    let draining = tokio::spawn(proxy.drain());
    let says = async || {
        let got = client.ask(head).await;
        client.send("0123456789").await;
        got.field("connection").map(str::to_owned)
    };
    eventually("it says close", says, Option::is_some).await;
    // Those who were told end.
    assert_eq!(client.rest().await.unwrap(), b"");
    let _ = before.stream.shutdown().await;
    draining.await.unwrap();
}

/// A client that pipelines gets what was answered before the refusal, however slowly it reads.
#[tokio::test]
async fn a_refusal_takes_nothing_from_the_answer_before_it() {
    let body = "x".repeat(2 << 20);
    let backend = RawBackend::saying(ok(&body), Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect_narrow(proxy.address()).await;
    let bad = "GET /cart HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    client.send(format!("{GET}{bad}")).await;
    let sent = eventually(
        "the first is on its way",
        async || cart(&proxy).await["requests"].clone(),
        |requests| *requests == 1,
    );
    sent.await;
    client.send("y".repeat(10_000)).await;
    assert_eq!(client.message().await.unwrap().body.len(), body.len());
    assert_eq!(client.message().await.unwrap().status(), 400);
    assert_eq!(client.rest().await.unwrap(), b"");
}

/// The second answer breaks off while the first is on its way, and the client sends a third request.
#[tokio::test]
async fn an_answer_that_breaks_off_takes_nothing_of_the_answers_before_from_a_slow_client() {
    const LENGTH: usize = 60_000;
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        while let Some(request) = wire.message().await {
            if request.start().starts_with("GET /cart/old ") {
                wire.send(ok("old")).await;
            } else if request.start().starts_with("GET /cart/first ") {
                wire.send(ok(vec![b'x'; LENGTH])).await;
            } else {
                wire.send(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nno size\r\n",
                )
                .await;
            }
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Wire::connect_narrow(proxy.address()).await;
    let get = |path: &str| format!("GET /cart/{path} HTTP/1.1\r\nHost: a\r\n\r\n");
    // What it asked by HTTP/1.0 before, whose answers break off in a reset, does not count.
    let old = "GET /cart/old HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(client.ask(old).await.text(), "old");
    client.send(get("first") + &get("second")).await;
    let failures = async || cart(&proxy).await["endpoints"][0]["failures"].clone();
    eventually("the second has broken off", failures, |failures| {
        *failures == 1
    })
    .await;
    // It does not know yet.
    client.send(get("third")).await;
    let first = client.message().await.unwrap();
    assert_eq!(first.body.len(), LENGTH);
    let second = client.head().await.unwrap();
    assert!(second.contains("transfer-encoding: chunked"), "{second}");
    let rest = String::from_utf8(client.rest().await.unwrap()).unwrap();
    assert!(!rest.contains("0\r\n\r\n"), "{rest}");
}
