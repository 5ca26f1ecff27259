//! How many connections there are to an endpoint of HTTP/2, and how long.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::body::Body;
use http::StatusCode;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    before,
    frames::{Frames, GOAWAY, HEADERS, PING, PRIORITY, SETTINGS},
};
use crate::support::{
    backend::Backend,
    eventually,
    proxy::{Proxy, are, endpoints},
    raw::{RawBackend, Wire},
};

/// A backend that holds its answers back until there are permits.
async fn holding(streams: u32) -> (Backend, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (may_answer, waiting) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let shared = (Arc::clone(&may_answer), Arc::clone(&waiting));
    let backend = Backend::named("a").http2(streams).answering(move |_| {
        let (may_answer, waiting) = shared.clone();
        async move {
            waiting.fetch_add(1, SeqCst);
            may_answer.acquire().await.unwrap().forget();
            "well"
        }
    });
    (backend.start().await, may_answer, waiting)
}

#[tokio::test]
async fn requests_share_as_few_connections_as_the_limits_of_streams_allow() {
    for (theirs, ours, requests, connections) in [
        (100, "", 20, 1),
        (5, "", 12, 3),
        (100, "pool = { streams = 4 }", 12, 3),
    ] {
        let (backend, may_answer, waiting) = holding(theirs).await;
        let proxy = before(&[backend.address()], ours).await;
        let asking: Vec<_> = (0..requests)
            .map(|_| tokio::spawn(proxy.http.get(proxy.url("/cart")).send()))
            .collect();
        eventually(
            "all are there",
            async || waiting.load(SeqCst),
            |n| *n == requests,
        )
        .await;
        assert_eq!(backend.connections(), connections, "{theirs} {ours}");
        may_answer.add_permits(requests);
        for asking in asking {
            assert_eq!(asking.await.unwrap().unwrap().status(), StatusCode::OK);
        }
        let service = proxy.service("cart").await;
        assert_eq!(service["endpoints"][0]["failures"], 0, "{service}");
        assert_eq!(service["retries"], 0, "{service}");
    }
}

#[tokio::test]
async fn no_more_idle_connections_are_kept_than_may_be() {
    const REQUESTS: usize = 6;
    let (backend, may_answer, waiting) = holding(1).await;
    let more = "pool = { connections = 2, idle = \"1h\" }";
    let proxy = before(&[backend.address()], more).await;
    let asking: Vec<_> = (0..REQUESTS)
        .map(|_| tokio::spawn(proxy.http.get(proxy.url("/cart")).send()))
        .collect();
    let all = async || waiting.load(SeqCst);
    eventually("all are there", all, |n| *n == REQUESTS).await;
    assert_eq!(backend.connections(), REQUESTS);
    may_answer.add_permits(REQUESTS);
    for asking in asking {
        assert_eq!(asking.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    proxy
        .until_service("cart", "two are kept", |cart| {
            cart["endpoints"][0]["idle_connections"] == 2
        })
        .await;
}

/// What one connection holds is bounded for each stream, and there is room for all.
#[tokio::test]
async fn a_client_that_does_not_read_stops_no_other() {
    let backend = Backend::named("a")
        .http2(100)
        .answering(|request| async move {
            match request.uri().path() {
                "/cart/large" => vec![b'a'; 8 * 1024 * 1024],
                _ => b"small".to_vec(),
            }
        });
    let backend = backend.start().await;
    let proxy = before(&[backend.address()], "").await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut client = Wire::connect_narrow(proxy.address()).await;
        client
            .send("GET /cart/large HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        assert!(client.head().await.is_some());
        slow.push(client);
    }
    for _ in 0..20 {
        assert_eq!(proxy.get("/cart").await.text().await.unwrap(), "small");
    }
    assert_eq!(backend.connections(), 1);
    let mut one = slow.pop().unwrap();
    assert_eq!(one.bytes(8 * 1024 * 1024).await.len(), 8 * 1024 * 1024);
}

/// Beside its bytes each piece costs something, and a window holds thousands of small ones.
#[tokio::test]
async fn clients_that_do_not_read_small_messages_stop_no_other() {
    const MESSAGES: usize = 20_000;
    let backend = Backend::named("a")
        .http2(100)
        .answering(|request| async move {
            match request.uri().path() {
                "/cart/messages" => {
                    let messages = (0..MESSAGES).map(|_| Ok::<_, Infallible>("five!"));
                    Body::from_stream(futures_util::stream::iter(messages))
                }
                _ => Body::from("small"),
            }
        });
    let backend = backend.start().await;
    let proxy = before(&[backend.address()], "").await;
    let mut slow = Vec::new();
    for _ in 0..5 {
        let mut client = Wire::connect_narrow(proxy.address()).await;
        client
            .send("GET /cart/messages HTTP/1.0\r\nHost: a\r\n\r\n")
            .await;
        assert!(client.head().await.is_some());
        slow.push(client);
    }
    for _ in 0..200 {
        assert_eq!(proxy.get("/cart").await.text().await.unwrap(), "small");
    }
    assert_eq!(backend.connections(), 1);
    for mut one in slow {
        assert_eq!(one.bytes(5 * MESSAGES).await.len(), 5 * MESSAGES);
    }
}

/// Of those that have it, one tells of the endpoint.
#[tokio::test]
async fn an_endpoint_that_kills_connections_in_use_is_ejected() {
    let broken = RawBackend::serving(|wire| async move {
        let mut frames = Frames::accept(wire).await;
        let first = frames.request().await;
        frames.answer(first).await;
        // All others on it end with the second.
        frames.request().await;
        frames.request().await;
    });
    let broken = broken.await;
    let well = Backend::named("well").http2(100).start().await;
    // Good answers come between, and so there are never as many in a row.
    let more = "eject = { failures = 100 }";
    let proxy = before(&[broken.address(), well.address()], more).await;
    let failures = async || {
        let asking = [(); 8].map(|()| tokio::spawn(proxy.http.get(proxy.url("/cart")).send()));
        for asked in asking {
            asked.await.unwrap().unwrap();
        }
        let service = proxy.service("cart").await;
        let mut all = endpoints(&service);
        all.any(|one| one["state"] == "ejected")
    };
    eventually("it is ejected", failures, |ejected| *ejected).await;
}

/// The one that has opened it alone tells of the endpoint.
#[tokio::test]
async fn a_new_connection_that_requests_share_fails_once() {
    let may_begin = Arc::new(Semaphore::new(0));
    let begins = Arc::clone(&may_begin);
    let broken = RawBackend::serving(move |wire| {
        let begins = Arc::clone(&begins);
        async move {
            let _permit = begins.acquire().await.unwrap();
            let mut frames = Frames::accept(wire).await;
            frames.request().await;
            frames.request().await;
        }
    });
    let broken = broken.await;
    let well = Backend::named("well").http2(100).start().await;
    let more = "eject = { failures = 2, answers = false }";
    let proxy = before(&[broken.address()], more).await;
    let asking = [(); 2].map(|()| tokio::spawn(proxy.http.get(proxy.url("/cart")).send()));
    proxy
        .until_service("cart", "both wait", |cart| {
            cart["endpoints"][0]["in_flight"] == 2
        })
        .await;
    proxy.register("cart", well.address()).await;
    let both = [broken.address(), well.address()].map(|address| (address, "serving"));
    proxy.until_states("cart", &both).await;
    may_begin.add_permits(1);
    for asking in asking {
        assert_eq!(asking.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    assert_eq!(broken.connections(), 1);
    let service = proxy.service("cart").await;
    assert!(are(endpoints(&service), &both), "{service}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_good_order() {
    let endpoint = RawBackend::serving(|wire| async move {
        let mut frames = Frames::accept(wire).await;
        let stream = frames.request().await;
        frames.answer(stream).await;
        frames.until(GOAWAY).await;
        frames.closed().await;
    });
    let endpoint = endpoint.await;
    let proxy = before(&[endpoint.address()], "pool = { idle = \"100ms\" }").await;
    assert_eq!(proxy.get("/cart").await.status(), 200);
    let idle = |idle: u64| {
        move |cart: &serde_json::Value| cart["endpoints"][0]["idle_connections"] == idle
    };
    proxy.until_service("cart", "it is gone", idle(0)).await;
    assert_eq!(proxy.get("/cart").await.status(), 200);
    assert_eq!(endpoint.connections(), 2);
}

/// Servers end the connection of all for what one client does.
#[tokio::test]
async fn requests_that_are_given_up_at_once_leave_their_connection_to_no_others() {
    const GIVEN_UP: usize = 20;
    let asked = Arc::new(AtomicUsize::new(0));
    let (notes, number) = (Arc::clone(&asked), AtomicUsize::new(0));
    let endpoint = RawBackend::serving(move |wire| {
        let (notes, is_first) = (Arc::clone(&notes), number.fetch_add(1, SeqCst) == 0);
        async move {
            let mut frames = Frames::accept(wire).await;
            loop {
                let stream = frames.request().await;
                notes.fetch_add(1, SeqCst);
                if !is_first {
                    frames.answer(stream).await;
                }
            }
        }
    });
    let endpoint = endpoint.await;
    let proxy = before(&[endpoint.address()], "").await;
    // A round that a busy machine draws out is none, and another one follows.
    let round = async || {
        let before = asked.load(SeqCst);
        let mut clients = Vec::new();
        for _ in 0..GIVEN_UP {
            let mut client = Wire::connect(proxy.address()).await;
            client.send("GET /cart HTTP/1.1\r\nHost: a\r\n\r\n").await;
            clients.push(client);
        }
        let all = async || asked.load(SeqCst) - before;
        eventually("all are asked", all, |n| *n == GIVEN_UP).await;
        drop(clients);
        proxy
            .until_service("cart", "all are given up", |cart| {
                cart["endpoints"][0]["in_flight"] == 0
            })
            .await;
        endpoint.connections()
    };
    eventually("there is another connection", round, |n| *n == 2).await;
    assert_eq!(proxy.get("/cart").await.status(), 200);
    assert_eq!(endpoint.connections(), 2);
}

/// The kernel of a machine that is gone says nothing.
#[tokio::test]
async fn a_connection_from_which_nothing_comes_is_found_and_replaced() {
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let number = AtomicUsize::new(0);
    let endpoint = RawBackend::serving(move |wire| {
        let (told, is_first) = (told.clone(), number.fetch_add(1, SeqCst) == 0);
        async move {
            let mut frames = Frames::accept(wire).await;
            let stream = frames.request().await;
            if is_first {
                frames.until(PING).await;
                told.send(()).unwrap();
            } else {
                frames.answer(stream).await;
            }
            frames.closed().await;
        }
    });
    let endpoint = endpoint.await;
    let more = "pool = { ping = \"500ms\" }\nretry = { attempts = 1 }";
    let proxy = before(&[endpoint.address()], more).await;
    let answer = proxy.get("/cart").await;
    assert_eq!(answer.status(), 502, "{}", answer.text().await.unwrap());
    tells.recv().await.unwrap();
    assert_eq!(proxy.get("/cart").await.status(), 200);
    assert_eq!(endpoint.connections(), 2);
}

/// Its endpoint may be gone, and a PING is not sent so soon.
#[tokio::test]
async fn a_connection_from_which_nothing_came_in_time_takes_no_more_requests() {
    let number = AtomicUsize::new(0);
    let endpoint = RawBackend::serving(move |wire| {
        let is_first = number.fetch_add(1, SeqCst) == 0;
        async move {
            let mut frames = Frames::begin(wire).await;
            // Before the endpoint's own settings, for which the first request waits.
            frames.until(SETTINGS).await;
            frames.send(SETTINGS, super::frames::ACK, 0, &[]).await;
            frames.send(SETTINGS, 0, 0, &[]).await;
            loop {
                let stream = frames.until(HEADERS).await.stream;
                if !is_first {
                    frames.answer(stream).await;
                }
            }
        }
    });
    let endpoint = endpoint.await;
    let more = "timeout = { response = \"3s\" }\nretry = { attempts = 1 }";
    let proxy = before(&[endpoint.address()], more).await;
    assert_eq!(proxy.get("/cart").await.status(), 504);
    assert_eq!(proxy.get("/cart").await.status(), 200);
    assert_eq!(endpoint.connections(), 2);
}

/// Something else comes meanwhile, and then nothing.
#[tokio::test]
async fn a_late_answer_to_a_ping_does_not_end_the_watch() {
    let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = RawBackend::serving(move |wire| {
        let told = told.clone();
        async move {
            let mut frames = Frames::accept(wire).await;
            frames.request().await;
            let ping = frames.until(PING).await;
            // More often than the silence is long: alive, but this is no answer.
            for _ in 0..30 {
                frames.send(PRIORITY, 0, 1, &[0, 0, 0, 0, 0]).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            frames
                .send(PING, super::frames::ACK, 0, &ping.payload)
                .await;
            frames.until(PING).await;
            told.send(()).unwrap();
            frames.closed().await;
        }
    });
    let endpoint = endpoint.await;
    let more = "pool = { ping = \"1s\" }\nretry = { attempts = 1 }";
    let proxy = before(&[endpoint.address()], more).await;
    assert_eq!(proxy.get("/cart").await.status(), 502);
    tells.recv().await.unwrap();
}

/// Servers of gRPC take it for an attack.
#[tokio::test]
async fn a_silence_is_asked_about_once() {
    let endpoint = RawBackend::serving(|wire| async move {
        let mut frames = Frames::accept(wire).await;
        let stream = frames.request().await;
        let ping = frames.until(PING).await;
        frames
            .send(PING, super::frames::ACK, 0, &ping.payload)
            .await;
        let next = tokio::time::timeout(Duration::from_secs(2), frames.until(PING)).await;
        assert!(next.is_err(), "{next:?}");
        frames.answer(stream).await;
        frames.closed().await;
    });
    let endpoint = endpoint.await;
    let proxy = before(&[endpoint.address()], "pool = { ping = \"400ms\" }").await;
    assert_eq!(proxy.get("/cart").await.status(), 200);
}

#[tokio::test]
async fn each_instance_may_say_that_it_speaks_http2() {
    let text = "workers = 1\n[[route]]\npath = \"/cart\"\nservice = \"cart\"\n";
    let proxy = Proxy::start(text).await;
    let version = |backend: crate::support::backend::Setup| {
        backend.answering(|request| async move { format!("{:?}", request.version()) })
    };
    let one = version(Backend::named("one")).start().await;
    let by_meta = version(Backend::named("meta").http2(10)).start().await;
    let by_tag = version(Backend::named("tag").http2(10)).start().await;
    proxy.register("cart", one.address()).await;
    let meta = json!({"Meta": {"protocol": "h2c"}});
    proxy.register_with("cart", by_meta.address(), meta).await;
    proxy
        .register_with("cart", by_tag.address(), json!({"Tags": ["grpc"]}))
        .await;
    let all = [&one, &by_meta, &by_tag].map(|backend| (backend.address(), "serving"));
    proxy.until_states("cart", &all).await;
    let mut versions = Vec::new();
    for _ in 0..3 {
        versions.push(proxy.get("/cart").await.text().await.unwrap());
    }
    versions.sort();
    assert_eq!(versions, ["HTTP/1.1", "HTTP/2.0", "HTTP/2.0"]);

    // It is another endpoint from then on.
    let meta = json!({"Meta": {"protocol": "http1"}});
    let address = by_tag.address();
    by_tag.kill().await;
    let again = Backend::named("again")
        .at(address)
        .answering(|request| async move { format!("again {:?}", request.version()) });
    let _again = again.start().await;
    proxy.register_with("cart", address, meta).await;
    proxy.deregister("cart", by_meta.address()).await;
    proxy.deregister("cart", one.address()).await;
    eventually(
        "it is called by its new protocol",
        async || proxy.get("/cart").await.text().await.unwrap(),
        |answer| answer == "again HTTP/1.1",
    )
    .await;
}

#[tokio::test]
async fn a_check_speaks_the_protocol_of_its_endpoint() {
    let backend = Backend::named("a")
        .http2(10)
        .answering(|request| async move {
            match request.uri().path() {
                "/up" => StatusCode::OK,
                _ => StatusCode::NOT_FOUND,
            }
        });
    let backend = backend.start().await;
    let more = "health = { path = \"/up\", interval = \"100ms\", rise = 1 }";
    let proxy = before(&[backend.address()], more).await;
    proxy
        .until_service("cart", "it passes", |cart| {
            cart["endpoints"][0]["check"]["passing"] == true
        })
        .await;
    assert_eq!(
        backend.requests_with(&http::Method::GET),
        backend.requests()
    );
}
