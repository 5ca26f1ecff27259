//! Nobody may take as long as they like.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::{
    before, before_all, cart,
    removal::{endless, read_slowly},
};
use crate::support::{
    PATIENCE, eventually,
    raw::{RawBackend, Then, Wire, ok},
};

const GET: &str = "GET /cart HTTP/1.1\r\nHost: a\r\n\r\n";

/// A listener with one time-out at half a second; the others are at theirs.
fn listen(which: &str) -> String {
    format!("[[listen]]\naddress = \"127.0.0.1:0\"\ntimeout = {{ {which} = \"500ms\" }}\n")
}

fn service(which: &str) -> String {
    format!("[service.cart]\ntimeout = {{ {which} = \"500ms\" }}\n")
}

/// Time-outs of clients are looked for four times a second; the rest is for a busy machine.
#[track_caller]
fn assert_in_time(began: Instant) {
    let took = began.elapsed();
    let limits = Duration::from_millis(400)..Duration::from_secs(15);
    assert!(limits.contains(&took), "{took:?}");
}

async fn assert_closed_in_time(mut client: Wire, began: Instant) {
    client.until_closed().await;
    assert_in_time(began);
}

async fn well() -> RawBackend {
    RawBackend::saying(ok("well"), Then::Keep).await
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_head_is_closed() {
    let backend = well().await;
    let proxy = before(backend.address(), &listen("header")).await;
    let began = Instant::now();
    let client = Wire::connect(proxy.address()).await;
    assert_closed_in_time(client, began).await;

    let began = Instant::now();
    let mut client = Wire::connect(proxy.address()).await;
    client.send("GET /cart HTTP/1.1\r\n").await;
    assert_closed_in_time(client, began).await;

    // The second head on a connection has no more time than the first.
    let mut client = Wire::connect(proxy.address()).await;
    client.ask(GET).await;
    let began = Instant::now();
    client.send("GET /cart").await;
    assert_closed_in_time(client, began).await;

    // Idle is not slow.
    let mut client = Wire::connect(proxy.address()).await;
    for _ in 0..2 {
        assert_eq!(client.ask(GET).await.status(), 200);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
    assert_eq!(client.ask(GET).await.status(), 200);
}

/// Nor has one of which the start has come along with the request before it.
#[tokio::test]
async fn a_head_that_begins_behind_another_request_has_no_more_time_than_any() {
    let backend = well().await;
    let proxy = before(backend.address(), &listen("header")).await;
    let post = |fields: &str| format!("POST /cart HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let length = post("Content-Length: 4");
    let chunked = post("Transfer-Encoding: chunked");
    let pieces = |pieces: &[&str]| pieces.iter().map(|piece| (*piece).to_owned()).collect();
    let cases: [Vec<String>; 6] = [
        pieces(&[&(GET.to_owned() + "GET /cart")]),
        pieces(&[&(GET.to_owned() + GET + "G")]),
        pieces(&[&format!("{length}bodyGET /cart HTTP/1.1\r\n")]),
        pieces(&[&length, "bodyGET /cart"]),
        pieces(&[&format!("{length}bo"), "dyGET /cart"]),
        pieces(&[&chunked, "4\r\nbody\r\n", "0\r\n\r\nGET /cart"]),
    ];
    for pieces in cases {
        let mut client = Wire::connect(proxy.address()).await;
        let began = Instant::now();
        for piece in &pieces {
            client.send(piece).await;
            // So that it is read by itself.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let answers = pieces.concat().matches("Host").count();
        for _ in 0..answers {
            assert_eq!(client.message().await.unwrap().text(), "well", "{pieces:?}");
        }
        assert_closed_in_time(client, began).await;
    }

    // Whoever has sent a whole request is idle, and not slow.
    for pieces in [
        vec![format!("{length}body")],
        vec![format!("{length}\r\n\r\n")],
        vec![length.clone(), "body".to_owned()],
        vec![format!("{length}bo"), "dy".to_owned()],
        vec![format!("{chunked}4\r\nbody\r\n0\r\n\r\n")],
        vec![chunked.clone(), "4\r\nbody\r\n0\r\n\r\n".to_owned()],
        vec![GET.to_owned() + GET],
    ] {
        let mut client = Wire::connect(proxy.address()).await;
        for piece in &pieces {
            client.send(piece).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let answers = pieces.concat().matches("Host").count();
        for _ in 0..answers {
            assert_eq!(client.message().await.unwrap().text(), "well", "{pieces:?}");
        }
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        assert_eq!(client.ask(GET).await.status(), 200, "{pieces:?}");
    }
}

#[tokio::test]
async fn a_client_that_is_idle_is_closed() {
    let backend = well().await;
    let proxy = before(backend.address(), &listen("idle")).await;
    let mut client = Wire::connect(proxy.address()).await;
    let began = Instant::now();
    client.ask(GET).await;
    assert_closed_in_time(client, began).await;
}

#[tokio::test]
async fn a_client_that_stalls_with_its_body_is_closed_and_so_is_its_request() {
    let backend = well().await;
    let listen = listen("body").replace("500ms", "1s");
    let proxy = before(backend.address(), &listen).await;
    let mut client = Wire::connect(proxy.address()).await;
    let head = "POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    // Slow, and not stalling.
    client.send(head).await;
    for byte in ["a"; 10] {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send(byte).await;
    }
    assert_eq!(client.message().await.unwrap().status(), 200);
    let began = Instant::now();
    client.send(head).await;
    client.send("half ").await;
    assert_closed_in_time(client, began).await;
    // The connection's end is seen a little before that of its request.
    let endpoint = eventually(
        "its request ends too",
        async || cart(&proxy).await["endpoints"][0].clone(),
        |endpoint| endpoint["in_flight"] == 0,
    );
    assert_eq!(endpoint.await["failures"], 0);
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_closed() {
    let backend = RawBackend::saying(ok(vec![b'x'; 32 * 1024 * 1024]), Then::Keep).await;
    let proxy = before(backend.address(), &listen("write")).await;
    let mut client = Wire::connect_narrow(proxy.address()).await;
    let began = Instant::now();
    client.send(GET).await;
    client.head().await.unwrap();
    let closed = crate::support::eventually(
        "nothing is in flight",
        async || cart(&proxy).await["endpoints"][0]["in_flight"].clone(),
        |in_flight| *in_flight == 0,
    );
    closed.await;
    assert_in_time(began);
    assert!(client.rest().await.unwrap_or_default().len() < 32 * 1024 * 1024);
}

/// The kernel asks for more by the kilobyte: in between it takes nothing.
#[tokio::test]
async fn a_client_that_takes_a_byte_of_its_answer_now_and_then_is_closed_like_one_that_takes_none()
{
    let backend = RawBackend::saying(ok(vec![b'x'; 32 * 1024 * 1024]), Then::Keep).await;
    let proxy = before(backend.address(), &listen("write")).await;
    let mut client = Wire::connect_narrow(proxy.address()).await;
    client.send(GET).await;
    let sipping = async {
        let byte = &mut [0];
        while client.stream.read(byte).await.is_ok_and(|count| count > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::future::pending().await
    };
    let closed = eventually(
        "nothing is in flight",
        async || cart(&proxy).await["endpoints"][0].clone(),
        |endpoint| endpoint["attempts"] == 1 && endpoint["in_flight"] == 0,
    );
    tokio::select! {
        _ = closed => {}
        () = sipping => {}
    }
}

#[tokio::test]
async fn a_backend_that_does_not_answer_in_time_is_504_and_not_asked_again() {
    for which in ["response", "total"] {
        let mute = RawBackend::saying("", Then::Keep).await;
        let other = RawBackend::saying("", Then::Keep).await;
        let proxy = before_all(&[mute.address(), other.address()], &service(which)).await;
        let mut client = Wire::connect(proxy.address()).await;
        for times in 1..=2 {
            let began = Instant::now();
            let got = client.ask(GET).await;
            assert_eq!(got.status(), 504, "{which}");
            assert!(
                got.text().contains("did not answer in time"),
                "{}",
                got.text()
            );
            assert_in_time(began);
            assert_eq!(mute.requests().len() + other.requests().len(), times);
        }
        let cart = cart(&proxy).await;
        assert_eq!((&cart["failed"], &cart["retries"]), (&2.into(), &0.into()));
    }
}

/// The time that a client takes to send is its own, and not the backend's.
#[tokio::test]
async fn a_slow_body_does_not_use_up_the_backends_time() {
    let backend = well().await;
    let proxy = before(backend.address(), &service("response")).await;
    let mut client = Wire::connect(proxy.address()).await;
    client
        .send("POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
        .await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    client.send("b").await;
    assert_eq!(client.message().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_backend_that_stalls_in_its_answer_is_cut() {
    for which in ["idle", "total"] {
        let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ";
        let backend = RawBackend::saying(half, Then::Keep).await;
        let proxy = before(backend.address(), &service(which)).await;
        let mut client = Wire::connect(proxy.address()).await;
        let began = Instant::now();
        client.send(GET).await;
        client.head().await.unwrap();
        assert_eq!(client.rest().await.unwrap_or_default(), b"half ", "{which}");
        assert_in_time(began);
        assert_eq!(cart(&proxy).await["endpoints"][0]["failures"], 1);
    }
}

/// There is always something to read, and the client takes it slowly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_never_pauses_ends_at_its_total_time() {
    let (backend, mut ends) = endless().await;
    let proxy = before(backend.address(), &service("total")).await;
    let mut client = Wire::connect_narrow(proxy.address()).await;
    let began = Instant::now();
    client.send(GET).await;
    client.head().await.unwrap();
    let reading = tokio::spawn(read_slowly(client));
    let ended = tokio::time::timeout(PATIENCE, ends.recv()).await;
    ended.expect("it is cut").unwrap();
    assert_in_time(began);
    assert_eq!(cart(&proxy).await["endpoints"][0]["failures"], 1);
    reading.abort();
}

/// Interim answers are no answer, and do not put off the time for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_says_wait_for_ever_is_504() {
    for which in ["response", "total"] {
        let backend = RawBackend::serving(async |mut wire: Wire| {
            wire.head().await.unwrap();
            let waits = "HTTP/1.1 102 Processing\r\n\r\n".repeat(4_000);
            while wire.stream.write_all(waits.as_bytes()).await.is_ok() {}
        });
        let backend = backend.await;
        let proxy = before(backend.address(), &service(which)).await;
        let began = Instant::now();
        let got = Wire::connect(proxy.address()).await.ask(GET).await;
        assert_eq!(got.status(), 504, "{which}");
        assert_in_time(began);
    }
}
