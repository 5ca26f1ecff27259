//! A connection of HTTP/2 ends so that its client loses no request, and an answer that is not whole does not
//! look so.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{before, before_with, client, get, text, until_count};
use crate::support::{
    backend::Backend,
    eventually,
    frames::{
        Frames, GOAWAY, INTERNAL_ERROR, NO_ERROR, PING, REFUSED_STREAM, RST_STREAM, frame,
        get as get_frame,
    },
    raw::{RawBackend, Then},
};

#[tokio::test]
async fn an_answer_that_breaks_off_is_reset_and_the_connection_goes_on() {
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nonly this";
    for then in [Then::Close, Then::Reset] {
        let backend = RawBackend::saying(broken, then).await;
        let proxy = before(backend.address(), "").await;
        let mut client = Frames::connect(proxy.address()).await;
        for stream in [1, 3] {
            client.send(get_frame(stream, "/cart")).await;
            let frames = client.all_of(stream).await;
            assert_eq!(frames[0].status(), 200);
            assert_eq!(frames.last().unwrap().code(), INTERNAL_ERROR, "{frames:?}");
        }
    }
}

#[tokio::test]
async fn a_drain_lets_requests_finish_that_run_or_are_on_their_way() {
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let backend = Backend::named("gate").answering(move |request| {
        let waits = Arc::clone(&waits);
        async move {
            waits.acquire().await.unwrap().forget();
            request.uri().path().to_owned()
        }
    });
    let backend = backend.start().await;
    let proxy = before_with(
        backend.address(),
        "",
        "[drain]
notice = \"0s\"
deadline = \"20s\"",
    )
    .await;
    let mut client = Frames::connect(proxy.address()).await;
    client.send(get_frame(1, "/cart/1")).await;
    eventually("it runs", async || backend.requests(), |count| *count == 1).await;
    let draining = tokio::spawn(proxy.drain());
    // The first word, and a ping that is not answered yet: a request that crosses it is served.
    let mut ping = None;
    while ping.is_none() {
        let frame = client.any().await.unwrap();
        ping = (frame.kind == PING).then_some(frame);
    }
    client.send(get_frame(3, "/cart/3")).await;
    eventually("both run", async || backend.requests(), |count| *count == 2).await;
    client.send(frame(PING, 1, 0, &ping.unwrap().payload)).await;
    let last = client.next().await.unwrap();
    assert_eq!((last.kind, last.code()), (GOAWAY, NO_ERROR));
    assert_eq!(last.payload[..4], 3_u32.to_be_bytes());
    gate.add_permits(2);
    let mut whole = Vec::new();
    while let Some(frame) = client.next().await {
        if frame.ends() {
            whole.push(frame.stream);
        }
    }
    whole.sort_unstable();
    assert_eq!(whole, [1, 3]);
    drop(client);
    draining.await.unwrap();
}

#[tokio::test]
async fn clients_of_the_field_lose_nothing_when_their_connection_has_had_its_requests() {
    let backend = Backend::start("a").await;
    let proxy = before(
        backend.address(),
        "limits = { requests_per_connection = 5 }",
    )
    .await;
    let mut served = 0;
    for _ in 0..4 {
        let mut client = client(proxy.address()).await;
        let first = served;
        while client.ready().await.is_ok() {
            let Ok(answer) = client.send_request(get("/cart")).await else {
                break;
            };
            assert_eq!(text(answer).await, "a");
            served += 1;
        }
        assert!(served - first >= 5, "{served}");
    }
    assert_eq!(backend.requests(), served);
    until_count(&proxy, "callboard_http2_connections", 0).await;
}

/// The library would take its requests for ever.
#[tokio::test]
async fn a_client_that_is_to_leave_and_does_not_answer_the_ping_has_few_requests_more() {
    let backend = Backend::start("a").await;
    let limits = "limits = { requests_per_connection = 2, streams = 1 }";
    let proxy = before(backend.address(), limits).await;
    let mut client = Frames::connect(proxy.address()).await;
    for stream in [1, 3, 5, 7, 9] {
        client.send(get_frame(stream, "/cart")).await;
        let last = loop {
            let frame = client.any().await.expect("the connection goes on");
            if frame.stream == stream && (frame.ends() || frame.kind == RST_STREAM) {
                break frame;
            }
        };
        let code = (last.kind == RST_STREAM).then(|| last.code());
        assert_eq!(code, (stream > 7).then_some(REFUSED_STREAM), "{stream}");
    }
    assert_eq!(backend.requests(), 4);
}

#[tokio::test]
async fn an_idle_client_is_told_to_leave_and_pings_keep_none() {
    let backend = Backend::start("a").await;
    let proxy = before(backend.address(), "timeout = { idle = \"1s\" }").await;
    let mut client = Frames::connect(proxy.address()).await;
    client.send(get_frame(1, "/cart")).await;
    assert_eq!(client.answer(1).await.0, 200);
    let (mut code, mut pings) = (None, 0_u64);
    while let Some(frame) = client.next().await {
        match frame.kind {
            GOAWAY => code = Some(frame.code()),
            _ => {
                pings += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let ping = self::frame(PING, 0, 0, &pings.to_be_bytes());
        client.try_send(ping).await;
    }
    assert_eq!(code, Some(NO_ERROR));
}

#[tokio::test]
async fn a_client_that_does_not_answer_a_ping_is_gone() {
    let backend = Backend::start("a").await;
    let proxy = before(backend.address(), "timeout = { ping = \"1s\" }").await;
    let mut client = Frames::connect(proxy.address()).await;
    // It is asked, and says so.
    for _ in 0..3 {
        let frame = loop {
            let frame = client.any().await.unwrap();
            if frame.kind == PING {
                break frame;
            }
        };
        client.send(self::frame(PING, 1, 0, &frame.payload)).await;
    }
    client.send(get_frame(1, "/cart")).await;
    assert_eq!(client.answer(1).await.0, 200);
    // It says nothing any more.
    while client.any().await.is_some() {}
    until_count(&proxy, "callboard_http2_connections", 0).await;
}
