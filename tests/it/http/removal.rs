//! What becomes of the connections to an endpoint that is removed, as its backend sees it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Barrier, mpsc},
    time::Instant,
};

use super::{before, before_all};
use crate::support::{
    PATIENCE, eventually,
    proxy::endpoints,
    raw::{RawBackend, Then, Wire, ok},
};

const GET: &str = "GET /cart HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn its_idle_connections_are_closed_at_once() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let four = Arc::new(Barrier::new(4));
    let leaves = RawBackend::serving(move |mut wire: Wire| {
        let (ended, four) = (ended.clone(), Arc::clone(&four));
        async move {
            let mut is_first = true;
            while wire.message().await.is_some() {
                // So that each request of a burst has a connection of its own.
                if std::mem::take(&mut is_first) {
                    four.wait().await;
                }
                wire.send(ok("well")).await;
            }
            ended.send(()).unwrap();
        }
    });
    let leaves = leaves.await;
    let stays = RawBackend::saying(ok("well"), Then::Keep).await;
    // Nothing else would close them within the test.
    let pool = "[service.cart]\npool = { idle = \"1h\" }\n";
    let proxy = before_all(&[leaves.address(), stays.address()], pool).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = Wire::connect(proxy.address()).await;
        client.send(GET).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.message().await.unwrap().text(), "well");
    }
    assert_eq!(leaves.connections(), 4);
    assert!(ends.try_recv().is_err(), "they are kept");

    proxy.deregister("cart", leaves.address()).await;
    for _ in 0..4 {
        let ended = tokio::time::timeout(PATIENCE, ends.recv()).await;
        ended.expect("it is closed").unwrap();
    }
    // The clients' own connections are not touched.
    for client in &mut clients {
        assert_eq!(client.ask(GET).await.text(), "well");
    }
    assert_eq!(leaves.connections(), 4);
}

/// Also where there is always something to read, and the client takes it slowly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_drain_deadline_a_stream_is_cut_and_until_then_it_is_shown() {
    let (backend, mut ends) = endless().await;
    let settings = "[service.cart]\ndrain = \"2s\"\nguard = false\n";
    let proxy = before(backend.address(), settings).await;
    let mut client = Wire::connect_narrow(proxy.address()).await;
    client.send(GET).await;
    client.head().await.unwrap();
    let reading = tokio::spawn(read_slowly(client));
    tokio::time::sleep(Duration::from_millis(300)).await;

    let began = Instant::now();
    proxy.deregister("cart", backend.address()).await;
    let draining = proxy.until_service("cart", "it drains", |cart| {
        endpoints(cart).any(|endpoint| endpoint["state"] == "draining")
    });
    assert_eq!(draining.await["endpoints"][0]["in_flight"], 1);
    let ended = tokio::time::timeout(PATIENCE, ends.recv()).await;
    ended.expect("it is cut").unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1_900), "{took:?}");
    let gone = async || proxy.service("cart").await["endpoints"].clone();
    eventually("it is gone", gone, |left| *left == serde_json::json!([])).await;
    reading.abort();
}

/// A registry that forgets somebody for a moment cuts nobody off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_who_comes_back_runs_on_beyond_the_deadline() {
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        wire.head().await.unwrap();
        wire.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
            .await;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            // Who was cut off is not sent any more.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut wire.stream, b"x").await;
        }
    });
    let backend = backend.await;
    let settings = "[service.cart]\ndrain = \"1500ms\"\nguard = false\n";
    let proxy = before(backend.address(), settings).await;
    let mut client = Wire::connect(proxy.address()).await;
    client.send(GET).await;
    client.head().await.unwrap();
    let state = |state: &'static str| {
        proxy.until_service("cart", state, move |cart| {
            endpoints(cart).any(|endpoint| endpoint["state"] == state)
        })
    };
    proxy.deregister("cart", backend.address()).await;
    state("draining").await;
    proxy.register("cart", backend.address()).await;
    let shown = state("serving").await;
    assert_eq!(endpoints(&shown).count(), 1, "{shown}");
    assert_eq!(shown["endpoints"][0]["in_flight"], 1, "{shown}");
    assert_eq!(client.bytes(20).await, [b'x'; 20]);
}

/// Nor does it make anybody forget who is ejected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ejection_of_who_comes_back_while_it_drains_lasts() {
    let bad = RawBackend::serving(|mut wire: Wire| async move {
        while let Some(head) = wire.head().await {
            if !head.contains("/stream ") {
                wire.send("HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n")
                    .await;
                continue;
            }
            wire.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
                .await;
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                let _ = tokio::io::AsyncWriteExt::write_all(&mut wire.stream, b"x").await;
            }
        }
    })
    .await;
    let well = RawBackend::saying(ok("well"), Then::Keep).await;
    let settings = "[service.cart]\ndrain = \"1500ms\"\nguard = false\n\
                    eject = { statuses = [500], time = \"1m\" }\n";
    let proxy = before_all(&[bad.address(), well.address()], settings).await;
    let address = bad.address().to_string();
    let shown = async |what: &str, holds: &dyn Fn(&serde_json::Value) -> bool| {
        let of_bad = |cart: &serde_json::Value| {
            let mut all = endpoints(cart).filter(|one| one["address"] == *address);
            (all.next().cloned().unwrap_or_default(), all.count())
        };
        let holds = |cart: &serde_json::Value| holds(&of_bad(cart).0);
        let (bad, more) = of_bad(&proxy.until_service("cart", what, holds).await);
        assert_eq!(more, 0, "it stands there once");
        bad
    };
    let stream = GET.replace("/cart", "/cart/stream");
    let mut client = Wire::connect(proxy.address()).await;
    // One of two in turn.
    loop {
        client.send(&stream).await;
        let head = client.head().await.unwrap().to_lowercase();
        if head.contains("content-length: 20") {
            break;
        }
        assert_eq!(client.bytes(4).await, b"well");
    }
    let mut asks = Wire::connect(proxy.address()).await;
    for _ in 0..10 {
        asks.ask(GET).await;
    }
    shown("ejected", &|bad| bad["state"] == "ejected").await;
    proxy.deregister("cart", bad.address()).await;
    shown("draining", &|bad| bad["state"] == "draining").await;
    proxy.register("cart", bad.address()).await;
    let back = shown("back", &|bad| bad["state"] != "draining").await;
    assert_eq!(back["state"], "ejected", "{back}");
    assert_eq!(
        (&back["in_flight"], &back["ejection"]["times"]),
        (&1.into(), &1.into())
    );
    for _ in 0..10 {
        assert_eq!(asks.ask(GET).await.status(), 200, "nobody asks it");
    }
    assert_eq!(client.bytes(20).await, [b'x'; 20]);
}

/// A backend that always has more to say; the receiver is told when nobody listens any more.
pub(super) async fn endless() -> (RawBackend, mpsc::UnboundedReceiver<()>) {
    let (ended, ends) = mpsc::unbounded_channel();
    let backend = RawBackend::serving(move |mut wire: Wire| {
        let ended = ended.clone();
        async move {
            wire.head().await.unwrap();
            wire.send("HTTP/1.1 200 OK\r\n\r\n").await;
            let piece = [b'x'; 64 * 1024];
            while tokio::io::AsyncWriteExt::write_all(&mut wire.stream, &piece)
                .await
                .is_ok()
            {}
            ended.send(()).unwrap();
        }
    });
    (backend.await, ends)
}

/// Takes a little at a time, for as long as something comes.
pub(super) async fn read_slowly(mut client: Wire) {
    let mut some = [0; 16 * 1024];
    while tokio::io::AsyncReadExt::read(&mut client.stream, &mut some)
        .await
        .is_ok_and(|count| count > 0)
    {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
