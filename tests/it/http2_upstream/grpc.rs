//! Calls of gRPC: messages pass both ways as they come; the proxy's own answers have gRPC's status, and an
//! answer that failed by its status may be another endpoint's to give.

use http::StatusCode;
use tokio::sync::mpsc;

use super::{
    before,
    frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, OK, RST_STREAM},
};
use crate::support::{
    backend::Backend, frames as client, proxy::Proxy, raw::RawBackend, server::refusing,
};

const UNAVAILABLE: &str = "14";

/// An endpoint whose answers are a head alone, with this status of gRPC.
async fn saying(status: &'static str) -> RawBackend {
    RawBackend::serving(move |wire| async move {
        let mut frames = Frames::accept(wire).await;
        loop {
            let stream = frames.request().await;
            let mut block = OK.to_vec();
            for (name, value) in [
                ("content-type", "application/grpc"),
                ("grpc-status", status),
            ] {
                block.push(0);
                for text in [name, value] {
                    block.push(text.len() as u8);
                    block.extend(text.bytes());
                }
            }
            let flags = END_HEADERS | END_STREAM;
            frames.send(HEADERS, flags, stream, &block).await;
        }
    })
    .await
}

/// A call, with the status of HTTP and that of gRPC that came.
async fn call(proxy: &Proxy, path: &str, timeout: Option<&str>) -> (u16, String, String) {
    let request = proxy.http.post(proxy.url(path));
    let request = request.header("content-type", "application/grpc+proto");
    let request = match timeout {
        Some(timeout) => request.header("grpc-timeout", timeout),
        None => request,
    };
    let answer = request.body("a call").send().await.unwrap();
    let field = |name: &str| {
        let value = answer.headers().get(name);
        value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    };
    (
        answer.status().as_u16(),
        field("grpc-status"),
        field("grpc-message"),
    )
}

#[tokio::test]
async fn the_proxys_own_answers_have_the_status_of_grpc() {
    let silent = RawBackend::serving(|wire| async move {
        let mut frames = Frames::accept(wire).await;
        frames.request().await;
        frames.closed().await;
    });
    let silent = silent.await;
    let proxy = before(
        &[silent.address()],
        "limits = { concurrent = 1, pending = 0 }",
    )
    .await;
    let no_route = call(&proxy, "/other", None).await;
    assert_eq!((no_route.0, &*no_route.1), (200, "12"), "{no_route:?}");
    assert!(
        no_route.2.starts_with("no route takes this request"),
        "{no_route:?}"
    );

    let late = call(&proxy, "/cart", Some("200m")).await;
    assert_eq!((late.0, &*late.1), (200, "4"), "{late:?}");

    let url = proxy.url("/cart");
    let waiting = proxy.http.get(url).send();
    let waiting = tokio::spawn(waiting);
    proxy
        .until_service("cart", "it is full", |cart| {
            cart["endpoints"][0]["in_flight"] == 1
        })
        .await;
    let full = call(&proxy, "/cart", None).await;
    assert_eq!((full.0, &*full.1), (200, "8"), "{full:?}");
    waiting.abort();

    let proxy = before(&[refusing()], "").await;
    let refused = call(&proxy, "/cart", None).await;
    assert_eq!((refused.0, &*refused.1), (200, UNAVAILABLE), "{refused:?}");

    // Another client has what it always had, and so has one of gRPC-Web.
    assert_eq!(proxy.get("/other").await.status(), StatusCode::NOT_FOUND);
    let request = proxy.http.post(proxy.url("/other"));
    let request = request.header("content-type", "application/grpc-web");
    assert_eq!(
        request.send().await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_call_that_failed_by_a_status_that_the_file_names_goes_elsewhere() {
    for (on, statuses) in [
        ("retry.on = \"grpc-unavailable\"\n", ["", ""]),
        ("retry.on = \"grpc-internal\"\n", ["", UNAVAILABLE]),
        ("", ["", UNAVAILABLE]),
    ] {
        let fails = saying(UNAVAILABLE).await;
        let well = Backend::named("well").http2(100).start().await;
        let proxy = before(&[fails.address(), well.address()], on).await;
        let mut came = Vec::new();
        for _ in 0..2 {
            came.push(call(&proxy, "/cart", None).await.1);
        }
        came.sort();
        assert_eq!(came, statuses, "{on}");
    }
}

#[tokio::test]
async fn an_answer_that_failed_by_its_status_counts_against_its_endpoint() {
    let fails = saying(UNAVAILABLE).await;
    let well = Backend::named("well").http2(100).start().await;
    let more = "eject = { failures = 3, statuses = \"grpc-unavailable\" }\n";
    let proxy = before(&[fails.address(), well.address()], more.trim()).await;
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(call(&proxy, "/cart", None).await.1 == UNAVAILABLE);
    }
    assert_eq!(failed, 3);
    let states = [(fails.address(), "ejected"), (well.address(), "serving")];
    proxy.until_states("cart", &states).await;
}

#[tokio::test]
async fn messages_pass_both_ways_as_they_come_and_a_clients_reset_is_its_endpoints() {
    let (say, mut said) = mpsc::unbounded_channel();
    let endpoint = RawBackend::serving(move |wire| {
        let say = say.clone();
        async move {
            let mut frames = Frames::accept(wire).await;
            let stream = frames.request().await;
            for at in 0..3 {
                let message = frames.until(DATA).await;
                assert_eq!(message.stream, stream);
                if at == 0 {
                    frames.send(HEADERS, END_HEADERS, stream, OK).await;
                }
                frames.send(DATA, 0, stream, &message.payload).await;
            }
            let end = frames.until(RST_STREAM).await;
            let code = u32::from_be_bytes(end.payload.try_into().unwrap());
            let _ = say.send((end.stream == stream, code));
            frames.closed().await;
        }
    });
    let endpoint = endpoint.await;
    let proxy = before(&[endpoint.address()], "").await;
    let mut client = client::Frames::connect(proxy.address()).await;
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let fields = client::request("POST", "/cart", &fields);
    client.send(client::head(1, 0, &fields)).await;
    for at in 0..3 {
        let message = format!("message {at}");
        client
            .send(client::frame(DATA, 0, 1, message.as_bytes()))
            .await;
        if at == 0 {
            assert_eq!(client.next().await.unwrap().status(), 200);
        }
        let echo = client.next().await.unwrap();
        assert_eq!((echo.kind, echo.payload), (DATA, message.into_bytes()));
    }
    client.send(client::reset(1)).await;
    assert_eq!(said.recv().await, Some((true, client::CANCEL)));
    proxy
        .until_service("cart", "nothing runs", |cart| {
            cart["endpoints"][0]["in_flight"] == 0
        })
        .await;
}
