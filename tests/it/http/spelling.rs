//! With `header_case = "preserve"` names reach the other side letter by letter as they came.

use super::{before, before_all};
use crate::support::raw::{RawBackend, Then, Wire, ok};

const PRESERVE: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\nheader_case = \"preserve\"\n";

/// Whether each of these lines stands in a head, in this order.
#[track_caller]
fn assert_lines(head: &str, lines: &[&str]) {
    let mut rest = head;
    for line in lines {
        let at = rest.find(&format!("\r\n{line}\r\n"));
        let at = at.unwrap_or_else(|| panic!("no {line:?} in {head:?}"));
        rest = &rest[at + 2..];
    }
}

const GET: &str = "GET /cart HTTP/1.1\r\nHOST: a\r\nSOAPAction: b\r\nX-One: 1\r\nx-ONE: 2\r\n\
                   DNT: 1\r\nConnection: Keep-Alive\r\n\r\n";
const SEEN: [&str; 5] = ["HOST: a", "SOAPAction: b", "X-One: 1", "x-ONE: 2", "DNT: 1"];
const ANSWER: &str = "HTTP/1.1 200 Fine\r\nETag: \"a\"\r\nContent-LENGTH: 4\r\nWWW-Authenticate: b\r\n\
                      X-Two: 1\r\nx-TWO: 2\r\nX-two: 3\r\n\r\nwell";
const GOT: [&str; 6] = [
    "ETag: \"a\"",
    "Content-LENGTH: 4",
    "WWW-Authenticate: b",
    "X-Two: 1",
    "x-TWO: 2",
    "X-two: 3",
];

#[tokio::test]
async fn names_reach_both_sides_as_they_came_on_kept_and_pipelined_connections() {
    let backend = RawBackend::saying(ANSWER, Then::Keep).await;
    let proxy = before(backend.address(), PRESERVE).await;
    let mut client = Wire::connect(proxy.address()).await;
    client.stream.set_nodelay(true).unwrap();
    let post = "POST /cart HTTP/1.1\r\nhOST: a\r\nCONTENT-length: 4\r\nX-Post: 1\r\n\r\nbody";
    let chunked = "POST /cart HTTP/1.1\r\nHost: a\r\nTransfer-ENCODING: chunked\r\nX-CHUNKED: 1\r\n\r\n\
                   1\r\na\r\n0\r\nX-Tail: 1\r\n\r\n";
    // At once, behind each other, and in pieces that cut a request line and a name.
    let all = [GET, post, chunked, GET].concat();
    for step in [all.len(), GET.len() + 8, 11] {
        for piece in all.as_bytes().chunks(step) {
            client.send(piece).await;
        }
        for _ in 0..4 {
            let got = client.message().await.unwrap();
            assert!(
                got.head.starts_with("HTTP/1.1 200 Fine\r\n"),
                "{}",
                got.head
            );
            assert_lines(&got.head, &GOT);
            assert_eq!(got.text(), "well");
        }
        let seen = backend.requests().split_off(backend.requests().len() - 4);
        assert_lines(&seen[0].head, &SEEN);
        assert_lines(&seen[1].head, &["hOST: a", "X-Post: 1"]);
        assert_lines(&seen[1].head, &["CONTENT-length: 4"]);
        assert_lines(&seen[2].head, &["X-CHUNKED: 1"]);
        assert_lines(&seen[2].head, &["Transfer-ENCODING: chunked"]);
        // Trailers are not spelled.
        assert_eq!((seen[2].text(), &*seen[2].trailers), ("a", "x-tail: 1\r\n"));
        assert_lines(&seen[3].head, &SEEN);
        // What the proxy adds is its own.
        assert!(
            seen[3].head.contains("\r\nx-forwarded-for: "),
            "{}",
            seen[3].head
        );
    }
}

#[tokio::test]
async fn names_are_as_they_came_over_attempts_interim_answers_and_other_framings() {
    let ill = RawBackend::saying(
        "HTTP/1.1 503 Ill\r\nX-ILL: 1\r\nContent-Length: 0\r\n\r\n",
        Then::Keep,
    );
    let ill = ill.await;
    let answer = "HTTP/1.1 103 Early\r\nX-EARLY: 1\r\n\r\nHTTP/1.1 200 OK\r\nX-Well: 1\r\n\
                  TRAILER: X-Sum\r\nTransfer-encoding: chunked\r\n\r\n4\r\nwell\r\n0\r\nX-SUM: 1\r\n\r\n";
    let well = RawBackend::saying(answer, Then::Keep).await;
    let retry = "[service.cart]\nretry = { on = 503 }\n";
    let proxy = before_all(
        &[ill.address(), well.address()],
        &format!("{PRESERVE}{retry}"),
    )
    .await;
    let mut client = Wire::connect(proxy.address()).await;
    // Until one was sent to the ill one first.
    for _ in 0..100 {
        if !ill.requests().is_empty() {
            break;
        }
        let request = GET.replace("\r\n\r\n", "\r\nTE: trailers\r\n\r\n");
        let got = client.ask(&request).await;
        assert_lines(&got.head, &["X-Well: 1"]);
        assert_lines(&got.head, &["TRAILER: X-Sum"]);
        let is_others = got.head.contains("ILL") || got.head.contains("EARLY");
        assert!(!is_others, "{}", got.head);
        assert_eq!((got.text(), &*got.trailers), ("well", "x-sum: 1\r\n"));
    }
    let seen: Vec<_> = [ill.requests(), well.requests()].concat();
    assert!(!ill.requests().is_empty());
    for request in seen {
        assert_lines(&request.head, &SEEN);
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_and_one_that_gets_the_proxys_own_answer_are_served_like_any() {
    let backend = RawBackend::saying(ANSWER, Then::Keep).await;
    let proxy = before(backend.address(), PRESERVE).await;
    let mut client = Wire::connect(proxy.address()).await;
    let got = client.ask("GET /cart HTTP/1.0\r\nX-OLD: 1\r\n\r\n").await;
    assert_lines(&got.head, &GOT);
    assert_lines(&backend.requests()[0].head, &["X-OLD: 1"]);
    client.until_closed().await;

    let mut client = Wire::connect(proxy.address()).await;
    let own = client
        .ask("GET /nowhere HTTP/1.1\r\nHOST: a\r\nX-Request-ID: b\r\n\r\n")
        .await;
    assert_eq!(own.status(), 404);
    assert!(own.head.contains("\r\ncontent-type: "), "{}", own.head);
    assert!(own.head.contains("\r\nx-request-id: "), "{}", own.head);
    // The next has nothing of it.
    let got = client.ask(GET).await;
    assert_lines(&got.head, &GOT);
    assert_lines(&backend.requests()[1].head, &SEEN);
}

#[tokio::test]
async fn names_are_as_they_came_at_a_fallback() {
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    let fallback = "[[route]]\npath = \"/empty\"\nservice = \"empty\"\nfallback = \"cart\"\n";
    let proxy = before(backend.address(), &format!("{fallback}{PRESERVE}")).await;
    let mut client = Wire::connect(proxy.address()).await;
    let got = client.ask(GET.replace("/cart", "/empty")).await;
    assert_eq!(got.text(), "well");
    assert_lines(&backend.requests()[0].head, &SEEN);
}
