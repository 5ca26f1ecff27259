//! What of the requests that an endpoint of HTTP/2 does not answer is sent to another: all that it has
//! said it did not process, whatever the method; and what may be repeated.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Method;
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{
    before,
    frames::{DATA, Frames, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, SETTINGS, WINDOW_UPDATE},
};
use crate::support::{
    backend::Backend,
    eventually,
    proxy::{Proxy, are, endpoints},
    raw::{RawBackend, Then, Wire},
};

/// What an endpoint does with each request instead of answering it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Refuse,
    GoAway,
    /// It says that it goes on with the request, and does not.
    GoAwayLater,
    Reset,
    Close,
}

async fn doing(does: Does) -> RawBackend {
    RawBackend::serving(move |wire| async move {
        let mut frames = Frames::accept(wire).await;
        loop {
            let stream = frames.request().await;
            match does {
                Does::Refuse => frames.reset(stream, REFUSED_STREAM).await,
                Does::Reset => frames.reset(stream, INTERNAL_ERROR).await,
                Does::GoAway => {
                    frames.go_away(0, NO_ERROR).await;
                    return frames.closed().await;
                }
                Does::GoAwayLater => frames.go_away(stream, NO_ERROR).await,
                Does::Close => {}
            }
            if !matches!(does, Does::Refuse | Does::Reset) {
                // What was said has to arrive before the end does.
                return sleep(Duration::from_millis(20)).await;
            }
        }
    })
    .await
}

/// The statuses of two requests, of which one begins with each endpoint.
async fn statuses(proxy: &Proxy, method: &Method, body: &'static str) -> [u16; 2] {
    let mut statuses = [0; 2];
    for status in &mut statuses {
        let request = proxy.http.request(method.clone(), proxy.url("/cart"));
        let answer = request.body(body).send().await.unwrap();
        *status = answer.status().as_u16();
    }
    statuses.sort_unstable();
    statuses
}

#[tokio::test]
async fn what_was_not_processed_goes_elsewhere_and_what_may_be_repeated() {
    for (does, of_post, of_get) in [
        (Does::Refuse, 200, 200),
        (Does::GoAway, 200, 200),
        (Does::GoAwayLater, 502, 200),
        (Does::Reset, 502, 200),
        (Does::Close, 502, 200),
    ] {
        for (method, status) in [(Method::POST, of_post), (Method::GET, of_get)] {
            let broken = doing(does).await;
            let well = Backend::named("well").http2(100).start().await;
            let proxy = before(&[broken.address(), well.address()], "").await;
            for body in ["", "a body"] {
                let came = statuses(&proxy, &method, body).await;
                assert_eq!(came, [200, status], "{does:?}, {method}, {body:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_was_sent_in_part_goes_elsewhere_whole_where_it_was_refused() {
    let refuses = RawBackend::serving(|wire| async move {
        let mut frames = Frames::accept(wire).await;
        loop {
            let stream = frames.request().await;
            frames.until(DATA).await;
            frames.reset(stream, REFUSED_STREAM).await;
        }
    });
    let refuses = refuses.await;
    let well = Backend::named("well")
        .http2(100)
        .answering(|request| async move {
            use http_body_util::BodyExt as _;
            request.into_body().collect().await.unwrap().to_bytes()
        });
    let well = well.start().await;
    let proxy = before(&[refuses.address(), well.address()], "").await;
    for _ in 0..2 {
        let mut client = Wire::connect(proxy.address()).await;
        client
            .send("POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
            .await;
        let answer = client.ask("def").await;
        assert_eq!((answer.status(), answer.text()), (200, "abcdef"));
    }
}

/// Some libraries lose count of streams that were reset, and take none any more from then on.
#[tokio::test]
async fn a_connection_on_which_the_only_request_is_refused_is_not_used_again() {
    let (endpoint, connections) = refusing_behind_the_first(false).await;
    let proxy = before(&[endpoint.address()], "").await;
    for _ in 0..4 {
        let posted = proxy.http.post(proxy.url("/cart")).send().await.unwrap();
        assert_eq!(posted.status(), 200);
    }
    assert_eq!(connections.load(Relaxed), 2);
}

#[tokio::test]
async fn a_connection_on_which_many_are_refused_and_none_is_answered_is_not_used_again() {
    let (endpoint, connections) = refusing_behind_the_first(true).await;
    let proxy = before(&[endpoint.address()], "").await;
    // It is not answered, and so the others are not alone.
    let (http, url) = (proxy.http.clone(), proxy.url("/cart"));
    let open = tokio::spawn(async move { http.get(url).send().await });
    eventually(
        "it is there",
        async || connections.load(Relaxed),
        |count| *count == 1,
    )
    .await;
    let asked = async || {
        let posted = proxy.http.post(proxy.url("/cart")).send().await.unwrap();
        posted.status().as_u16()
    };
    eventually("another connection is used", asked, |status| *status == 200).await;
    assert_eq!(connections.load(Relaxed), 2);
    open.abort();
}

/// An endpoint that takes one request on its first connection, with an answer or without one, and refuses those
/// behind it; on others it answers all. And how many connections there were.
async fn refusing_behind_the_first(is_silent: bool) -> (RawBackend, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let endpoint = RawBackend::serving(move |wire| {
        let is_first = counted.fetch_add(1, Relaxed) == 0;
        async move {
            let mut frames = Frames::accept(wire).await;
            for number in 0.. {
                let stream = frames.request().await;
                match (is_first, number) {
                    (true, 0) if is_silent => {}
                    (true, 1..) => frames.reset(stream, REFUSED_STREAM).await,
                    _ => frames.answer(stream).await,
                }
            }
        }
    });
    (endpoint.await, connections)
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_fails_no_request() {
    for method in [Method::POST, Method::GET] {
        let backend = Backend::named("a").http2(100).start().await;
        let address = backend.address();
        let proxy = before(&[address], "").await;
        assert_eq!(statuses(&proxy, &method, "").await, [200; 2]);
        assert_eq!(backend.connections(), 1);
        backend.kill().await;
        let again = Backend::named("a").http2(100).at(address).start().await;
        assert_eq!(statuses(&proxy, &method, "").await, [200; 2], "{method}");
        assert_eq!(again.connections(), 1);
    }
}

/// The endpoint's other connections may be as dead. A stream that was reset says nothing of them.
#[tokio::test]
async fn a_request_whose_connection_died_takes_none_that_was_there_before() {
    for (does, connections) in [(Does::Close, 2), (Does::Reset, 1)] {
        let well = Backend::named("well").http2(100).start().await;
        let proxy = before(&[well.address()], "pool = { idle = \"60s\" }").await;
        assert_eq!(proxy.get("/cart").await.status(), 200);
        // Connections of requests that fail together are shared for half a second.
        sleep(Duration::from_millis(600)).await;
        let broken = doing(does).await;
        proxy.register("cart", broken.address()).await;
        let both = [broken.address(), well.address()].map(|address| (address, "serving"));
        proxy.until_states("cart", &both).await;
        assert_eq!(
            statuses(&proxy, &Method::GET, "").await,
            [200; 2],
            "{does:?}"
        );
        assert_eq!(broken.connections(), 1, "{does:?}");
        assert_eq!(well.connections(), connections, "{does:?}");
    }
}

/// An endpoint that sends data on no stream at all, which is an error of the connection, when as many requests
/// as this are on it and it may.
async fn breaking(requests: usize, may_break: &Arc<Semaphore>) -> RawBackend {
    let may_break = Arc::clone(may_break);
    RawBackend::serving(move |wire| {
        let may_break = Arc::clone(&may_break);
        async move {
            let mut frames = Frames::accept(wire).await;
            for _ in 0..requests {
                frames.request().await;
            }
            let _permit = may_break.acquire().await.unwrap();
            frames.send(DATA, 0, 0, b"of no stream").await;
            frames.closed().await;
        }
    })
    .await
}

/// Nothing tells to whose request the wrong answer was; and the endpoint has done one thing.
#[tokio::test]
async fn requests_whose_shared_connection_an_answer_ends_are_as_those_of_one_that_died() {
    for (method, status) in [(Method::GET, 200), (Method::POST, 502)] {
        let may_break = Arc::new(Semaphore::new(0));
        let broken = breaking(3, &may_break).await;
        let well = Backend::named("well").http2(100).start().await;
        let more = "eject = { failures = 2, answers = false }";
        let proxy = before(&[broken.address()], more).await;
        let asking = [(); 3].map(|()| {
            let request = proxy.http.request(method.clone(), proxy.url("/cart"));
            tokio::spawn(request.send())
        });
        let wait = |cart: &Value| cart["endpoints"][0]["in_flight"] == 3;
        proxy.until_service("cart", "all of them wait", wait).await;
        proxy.register("cart", well.address()).await;
        let both = [broken.address(), well.address()].map(|address| (address, "serving"));
        proxy.until_states("cart", &both).await;
        may_break.add_permits(1);
        for asking in asking {
            let answer = asking.await.unwrap().unwrap();
            assert_eq!(answer.status(), status, "{method}");
        }
        let is_blamed_once = |cart: &Value| {
            let of_broken = |endpoint: &Value| {
                let causes = &endpoint["failures_by_cause"];
                causes["bad_answer"] == 1 && causes["closed"] == 2
            };
            endpoints(cart).any(of_broken) && are(endpoints(cart), &both)
        };
        proxy
            .until_service("cart", "it is blamed once", is_blamed_once)
            .await;
        assert_eq!(broken.connections(), 1);
    }
}

#[tokio::test]
async fn an_answer_that_ends_a_connection_without_others_is_not_sound_and_is_not_asked_for_again() {
    let broken = breaking(1, &Arc::new(Semaphore::new(1))).await;
    let proxy = before(&[broken.address()], "").await;
    let answer = proxy.get("/cart").await;
    assert_eq!(answer.status(), 502);
    let text = answer.text().await.unwrap();
    assert!(text.contains("not sound HTTP"), "{text}");
    assert_eq!(broken.connections(), 1);
}

/// It waits in the connection, and goes out as soon as the endpoint reads again.
#[tokio::test]
async fn a_request_that_waits_behind_a_full_socket_may_have_been_sent() {
    let full = RawBackend::serving(|wire| async move {
        let mut frames = Frames::begin(wire).await;
        let window = i32::MAX as u32;
        let initial_window = [&[0, 4], &window.to_be_bytes()[..]].concat();
        frames.send(SETTINGS, 0, 0, &initial_window).await;
        let more = (window - 65_535).to_be_bytes();
        frames.send(WINDOW_UPDATE, 0, 0, &more).await;
        std::future::pending::<()>().await;
    });
    let full = full.await;
    let well = Backend::named("well").http2(100).start().await;
    let more = "balance = \"round_robin\"\ntimeout = { response = \"1s\" }";
    let proxy = before(&[full.address()], more).await;
    let mut client = Wire::connect(proxy.address()).await;
    client
        .send("POST /cart HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        .await;
    let piece = vec![b'a'; 1024 * 1024];
    while timeout(Duration::from_millis(200), client.send(&piece))
        .await
        .is_ok()
    {}
    proxy.register("cart", well.address()).await;
    let both = [&full.address(), &well.address()].map(|address| (*address, "serving"));
    proxy.until_states("cart", &both).await;
    assert_eq!(statuses(&proxy, &Method::POST, "").await, [200, 504]);
}

#[tokio::test]
async fn an_endpoint_that_speaks_no_http2_was_asked_nothing() {
    let http1 = RawBackend::saying("HTTP/1.1 400 Bad Request\r\n\r\n", Then::Close).await;
    let well = Backend::named("well").http2(100).start().await;
    let proxy = before(&[http1.address(), well.address()], "").await;
    assert_eq!(statuses(&proxy, &Method::POST, "a body").await, [200; 2]);

    let proxy = before(&[http1.address()], "").await;
    let answer = proxy.get("/cart").await;
    assert_eq!(answer.status(), 502);
}
