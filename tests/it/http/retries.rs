//! What of a request is kept, so that another endpoint can be sent it again: a body that was read
//! up to 64 KiB, and one that nobody has read whatever its size; and for whom alone an attempt has a
//! time of its own.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::{IN_TURN, before_all, cart};
use crate::support::{
    backend::Backend,
    eventually,
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, ok},
    server::refusing,
};

/// A name may lead elsewhere by now: no connection is kept for longer than `pool.max_age`.
#[tokio::test]
async fn connections_to_a_name_are_opened_anew_in_time_and_no_request_is_lost_by_it() {
    for protocol in ["", "protocol = \"h2c\"\n"] {
        let backend = match protocol {
            "" => Backend::named("a"),
            _ => Backend::named("a").http2(100),
        };
        let backend = backend.start().await;
        let port = backend.address().port();
        let proxy = Proxy::start(&format!(
            "workers = 1\n[[route]]\nservice = \"cart\"\n[service.cart]\n{protocol}\
             endpoints = [\"localhost:{port}\"]\npool.max_age = \"1s\"\n"
        ))
        .await;
        proxy.until_served("/cart").await;
        let asked = async || {
            assert_eq!(proxy.get("/cart").await.status(), 200, "{protocol}");
            backend.connections()
        };
        eventually("it is connected to three times", asked, |count| *count >= 3).await;
    }
}

const KEPT: usize = 64 * 1024;

/// Bytes that differ from place to place.
fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Sends this body, and says what the answer's status is.
async fn send(proxy: &Proxy, method: &str, body: &[u8], chunked: bool) -> u16 {
    let mut client = Wire::connect(proxy.address()).await;
    let request = request(method, body, chunked);
    client.ask(request).await.status()
}

fn request(method: &str, body: &[u8], chunked: bool) -> Vec<u8> {
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
    request
}

#[tokio::test]
async fn only_the_methods_that_the_file_names_are_sent_again_where_they_may_have_been_processed() {
    for (methods, of_put) in [("", 200), ("retry.methods = [\"GET\"]", 502)] {
        let closes = RawBackend::saying("", Then::Close).await;
        let well = RawBackend::saying(ok("well"), Then::Keep).await;
        let proxy = before_all(
            &[closes.address(), well.address()],
            &format!("{methods}\n{IN_TURN}"),
        )
        .await;
        for (method, status) in [("GET", 200), ("PUT", of_put), ("POST", 502)] {
            let mut statuses = Vec::new();
            // One of two in turn begins with the one that closes.
            for _ in 0..2 {
                statuses.push(send(&proxy, method, b"", false).await);
            }
            statuses.sort_unstable();
            assert_eq!(statuses, [200, status], "{method}, {methods}");
        }
    }
}

#[tokio::test]
async fn a_body_of_64_kib_is_sent_again_as_it_was_and_one_byte_more_is_502() {
    for chunked in [false, true] {
        for (length, status) in [(KEPT, 200), (KEPT + 1, 502)] {
            let closes = RawBackend::saying("", Then::Close).await;
            let well = RawBackend::saying(ok("well"), Then::Keep).await;
            let proxy = before_all(&[closes.address(), well.address()], IN_TURN).await;
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
    let refuses = refusing();
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

/// Longer than a connection may be idle that a request takes which is not sent twice.
const OLD: Duration = Duration::from_millis(700);

#[tokio::test]
async fn what_is_not_sent_twice_takes_no_old_connection_whatever_its_method() {
    let more = "[service.cart]\nretry = { attempts = 1 }\n";
    for (method, length, chunked, config, connections) in [
        ("PUT", 1_000, false, "", 1),
        ("PUT", KEPT, false, "", 1),
        ("PUT", KEPT + 1, false, "", 2),
        ("DELETE", KEPT + 1, false, "", 2),
        ("GET", KEPT + 1, false, "", 2),
        ("PUT", 1_000, true, "", 2),
        ("PUT", 1_000, false, more, 2),
        ("POST", 1_000, false, "", 2),
    ] {
        let well = RawBackend::saying(ok("well"), Then::Keep).await;
        let proxy = before_all(&[well.address()], config).await;
        assert_eq!(send(&proxy, "GET", b"", false).await, 200);
        tokio::time::sleep(OLD).await;
        let status = send(&proxy, method, &body(length), chunked).await;
        let of = format!("{method} of {length}, chunked: {chunked}, {config}");
        assert_eq!((status, well.connections()), (200, connections), "{of}");
    }
}

/// The time of one attempt, and longer than that.
const TRY: Duration = Duration::from_millis(800);
const LONGER: Duration = Duration::from_millis(1_200);

/// Sends a PUT as one who needs more time for its body than an attempt has, twice: to each of two
/// endpoints at first. What came back, in the order of the alphabet.
async fn put_slowly(proxy: &Proxy, body: &[u8], chunked: bool) -> [String; 2] {
    let put = request("PUT", body, chunked);
    let (start, end) = put.split_at(put.len() - body.len() / 2);
    let ask = async || {
        let mut client = Wire::connect(proxy.address()).await;
        client.send(start).await;
        tokio::time::sleep(LONGER).await;
        let answer = client.ask(end).await;
        format!("{} {}", answer.status(), answer.text())
    };
    let (one, other) = tokio::join!(ask(), ask());
    let mut answers = [one, other];
    answers.sort();
    answers
}

fn try_timeout(response: &str) -> String {
    format!(
        "[service.cart]\nretry = {{ try_timeout = \"{}ms\" }}\n\
         timeout = {{ response = \"{response}\" }}\n",
        TRY.as_millis()
    )
}

/// It runs when the endpoint has all of the body, and not while the client is waited for.
#[tokio::test]
async fn a_put_whose_first_endpoint_hangs_is_sent_whole_to_the_other_in_its_attempts_time() {
    for length in [1_000, KEPT] {
        let hangs = RawBackend::saying("", Then::Keep).await;
        let well = RawBackend::saying(ok("well"), Then::Keep).await;
        let proxy = before_all(&[hangs.address(), well.address()], &try_timeout("20s")).await;
        let body = body(length);
        assert_eq!(put_slowly(&proxy, &body, false).await, ["200 well"; 2]);
        let (tried, served) = (hangs.requests(), well.requests());
        assert_eq!((tried.len(), served.len()), (1, 2), "{length}");
        for request in tried.iter().chain(&served) {
            assert!(request.body == body, "{length}: it came whole");
        }
        assert_eq!(cart(&proxy).await["retries"], 1, "{length}");
    }
}

#[tokio::test]
async fn a_put_that_cannot_be_sent_again_has_all_the_time_that_an_answer_may_take() {
    for (length, chunked) in [(KEPT + 1, false), (1_000, true)] {
        let late = RawBackend::serving(|mut wire: Wire| async move {
            while wire.message().await.is_some() {
                tokio::time::sleep(LONGER).await;
                // Who has gone is not waited for.
                let _ = wire.stream.write_all(&ok("late")).await;
            }
        });
        let late = late.await;
        let hangs = RawBackend::saying("", Then::Keep).await;
        for (first, response, answer_of_first) in [
            (late.address(), "20s", "200 late"),
            (hangs.address(), "2s", "504"),
        ] {
            let well = RawBackend::saying(ok("well"), Then::Keep).await;
            let proxy = before_all(&[first, well.address()], &try_timeout(response)).await;
            let body = body(length);
            let answers = put_slowly(&proxy, &body, chunked).await;
            let is = |answer: &&String| answer.starts_with(answer_of_first);
            assert_eq!(answers.iter().filter(is).count(), 1, "{answers:?}");
            assert!(answers.contains(&"200 well".to_owned()), "{answers:?}");
            assert_eq!(well.requests().len(), 1, "{length}, chunked: {chunked}");
            assert_eq!(cart(&proxy).await["retries"], 0);
        }
        assert!(hangs.requests()[0].body == body(length));
    }
}

/// What would be cut and not asked again is let run.
#[tokio::test]
async fn where_all_are_slow_and_the_budget_is_empty_an_answer_has_its_time() {
    let late = || {
        RawBackend::serving(|mut wire: Wire| async move {
            while wire.message().await.is_some() {
                tokio::time::sleep(Duration::from_millis(60)).await;
                // Who has gone is not waited for.
                let _ = wire.stream.write_all(&ok("late")).await;
            }
        })
    };
    let (one, other) = (late().await, late().await);
    let tables = "[service.cart]\neject = false\nretry = { try_timeout = \"20ms\", \
                  budget = { ratio = 0.0, per_second = 1 } }\n";
    let proxy = before_all(&[one.address(), other.address()], tables).await;
    for _ in 0..40 {
        assert_eq!(send(&proxy, "GET", b"", false).await, 200);
    }
    let retries = cart(&proxy).await["retries"].as_u64().unwrap();
    assert!((5..40).contains(&retries), "{retries}");
}

/// Where a client of HTTP/1.0 named no host, that is the endpoint.
#[tokio::test]
async fn each_attempt_at_a_request_without_a_host_bears_the_address_of_its_own_endpoint() {
    let closes = RawBackend::saying("", Then::Close).await;
    let well = RawBackend::saying(ok("well"), Then::Keep).await;
    let proxy = before_all(&[closes.address(), well.address()], IN_TURN).await;
    // One of two in turn begins with the one that closes.
    for _ in 0..2 {
        let mut client = Wire::connect(proxy.address()).await;
        assert_eq!(client.ask("GET /cart HTTP/1.0\r\n\r\n").await.status(), 200);
    }
    assert_eq!((closes.requests().len(), well.requests().len()), (1, 2));
    for backend in [closes, well] {
        let address = backend.address().to_string();
        for request in backend.requests() {
            assert_eq!(request.field("host"), Some(&*address));
        }
    }
}
