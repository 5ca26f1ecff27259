//! Calls that stay open for long outlive the endpoint's sign-out, and the proxy waits for them when it ends.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Frame as BodyFrame;
use http_body_util::StreamBody;
use tokio::sync::Semaphore;

use super::before;
use crate::support::{
    backend::Backend,
    frames::{DATA, Frames, GOAWAY, RST_STREAM, head, request},
};

/// The head of a call, after which its client has more to say.
fn call(stream: u32) -> Vec<u8> {
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    head(stream, 0, &request("POST", "/cart.Cart/Watch", &fields))
}

/// Opens so many calls on a connection, and reads the first message of each.
async fn open(client: &mut Frames, calls: u32) {
    let streams = (0..calls).map(|at| 2 * at + 1);
    let heads: Vec<_> = streams.flat_map(call).collect();
    client.send(heads).await;
    let mut begun = 0;
    while begun < calls {
        let frame = client.next().await.unwrap();
        assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
        begun += u32::from(frame.kind == DATA);
    }
}

/// Reads to the connection's end, and returns the streams whose answers came to their own.
async fn whole(mut client: Frames, calls: usize) -> BTreeSet<u32> {
    let mut whole = BTreeSet::new();
    while whole.len() < calls {
        let frame = client.next().await.expect("calls are open");
        // That no more of the request is needed is said behind the answer's end.
        let is_cut = frame.kind == RST_STREAM && !whole.contains(&frame.stream);
        assert!(!is_cut, "{frame:?} after {} ends", whole.len());
        if frame.ends() {
            whole.insert(frame.stream);
        }
    }
    whole
}

#[tokio::test]
async fn two_hundred_open_calls_outlive_a_sign_out_and_a_drain_and_come_to_their_ends() {
    const CALLS: u32 = 100;
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let backend = Backend::named("a").http2(1000).answering(move |request| {
        let waits = Arc::clone(&waits);
        async move {
            // Its client has more to say, and so it is held.
            let body = request.into_body();
            let first = BodyFrame::data(Bytes::from_static(b"first"));
            let last = async move {
                waits.acquire().await.unwrap().forget();
                drop(body);
                let status = HeaderName::from_static("grpc-status");
                let trailers = HeaderMap::from_iter([(status, HeaderValue::from_static("0"))]);
                Ok::<_, std::io::Error>(BodyFrame::trailers(trailers))
            };
            let frames = stream::once(async { Ok(first) }).chain(stream::once(last));
            Response::new(axum::body::Body::new(StreamBody::new(frames)))
        }
    });
    let backend = backend.start().await;
    let drain = "[drain]\nnotice = \"0s\"\ndeadline = \"60s\"\n";
    let proxy = before(backend.address(), drain).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Frames::connect(proxy.address()).await;
        open(&mut client, CALLS).await;
        clients.push(client);
    }
    proxy.deregister("calls", backend.address()).await;
    let states = [(backend.address(), "draining")];
    proxy.until_states("calls", &states).await;
    let draining = tokio::spawn(proxy.drain());
    for client in &mut clients {
        // The proxy has begun to end.
        let first = client.next().await.unwrap();
        assert_eq!(first.kind, GOAWAY, "{first:?}");
    }
    assert!(!draining.is_finished());
    gate.add_permits(2 * CALLS as usize);
    for client in clients {
        assert_eq!(whole(client, CALLS as usize).await.len(), CALLS as usize);
    }
    draining.await.unwrap();
}
