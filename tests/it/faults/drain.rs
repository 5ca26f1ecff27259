//! The proxy's own exit under load.

use std::{sync::Arc, time::Duration};

use http::Method;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet, time::Instant};

use super::{ROUTE, SERVICE};
use crate::support::{
    backend::Backend,
    eventually,
    load::{Client, Ledger, Outcome, Report, process},
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, ok},
};

const NOTICE: Duration = Duration::from_millis(700);
const LANES: u64 = 30;

/// Asks again and again on a kept connection, until nobody listens any more. That last request
/// was never sent, and is not among the outcomes; when it was refused is.
async fn until_refused(client: Client) -> (Vec<Outcome>, Instant) {
    let mut outcomes = Vec::new();
    for number in 0.. {
        let method = if number % 5 == 0 {
            Method::POST
        } else {
            Method::GET
        };
        let outcome = client.call(method).await;
        let failure = outcome.failure.as_deref().unwrap_or_default();
        if failure.starts_with("connect: ") && failure.contains("refused") {
            return (outcomes, outcome.sent);
        }
        outcomes.push(outcome);
        tokio::time::sleep(Duration::from_millis(20 + fastrand::u64(..20))).await;
    }
    unreachable!("the numbers do not end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_ends_without_losing_a_request() {
    let config = format!("{ROUTE}\n[drain]\nnotice = \"700ms\"\ndeadline = \"10s\"\n");
    let proxy = Proxy::start(&config).await;
    let ledger = Ledger::default();
    let backend = ledger.backend("a").start().await;
    let slow = ledger.clone();
    let slow = Backend::named("slow").answering(move |request| {
        let ledger = slow.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            process(request, |id| ledger.note(id)).await
        }
    });
    let slow = slow.start().await;
    proxy.register(SERVICE, backend.address()).await;
    proxy.register("slow", slow.address()).await;
    proxy.until_served("/cart/x").await;
    let address = proxy.address();
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let client = Client::new(address, "/cart").numbered_from(lane * 10_000);
        lanes.spawn(until_refused(client));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Two that are under way through it all.
    let under_way = Arc::new(Client::new(address, "/slow").numbered_from(LANES * 10_000));
    let mut slow_ones = JoinSet::new();
    for method in [Method::GET, Method::POST] {
        let client = Arc::clone(&under_way);
        slow_ones.spawn(async move { client.call(method).await });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;

    let began = Instant::now();
    proxy.drain().await;
    let took = began.elapsed();
    let mut outcomes = slow_ones.join_all().await;
    for (of_lane, refused) in lanes.join_all().await {
        assert!(
            refused - began >= NOTICE,
            "refused {:?} early",
            NOTICE - (refused - began)
        );
        outcomes.extend(of_lane);
    }
    let report = Report::new(outcomes, &ledger).await;
    report.assert_flawless("the proxy drains");
    println!("the drain took {took:?}");
}

/// For the whole of the notice, and so that it may be believed.
#[tokio::test]
async fn while_the_proxy_drains_every_answer_ends_its_connection() {
    let config = format!("{ROUTE}\n[drain]\nnotice = \"2s\"\ndeadline = \"10s\"\n");
    let proxy = Proxy::start(&config).await;
    let backend = Ledger::default().backend("a").start().await;
    proxy.register(SERVICE, backend.address()).await;
    proxy.until_served("/cart/x").await;
    let address = proxy.address();
    let request = "GET /cart/x HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut kept = Wire::connect(address).await;
    assert_eq!(kept.ask(request).await.field("connection"), None);
    let draining = tokio::spawn(proxy.drain());
    // Those that it takes meanwhile are served, each once.
    let mut served = 0;
    while let Ok(stream) = TcpStream::connect(address).await {
        let mut client = Wire::new(stream);
        let got = client.ask(request).await;
        assert_eq!(got.status(), 200);
        if got.field("connection") == Some("close") {
            served += 1;
            client.until_closed().await;
        } else {
            // It had not begun to drain.
            assert_eq!(served, 0);
        }
        if served == 5 {
            let got = kept.ask(request).await;
            assert_eq!(
                (got.status(), got.field("connection")),
                (200, Some("close"))
            );
            kept.until_closed().await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(served > 5, "{served}");
    draining.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

/// The deadline is hard: whatever still runs then is cut, and does not look whole.
#[tokio::test]
async fn at_the_deadline_what_is_left_is_cut() {
    let config = format!("{ROUTE}\n[drain]\nnotice = \"0s\"\ndeadline = \"700ms\"\n");
    let proxy = Proxy::start(&config).await;
    let backend = RawBackend::serving(async |mut wire: Wire| {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        while wire.stream.write_all(b"4\r\nmore\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let backend = backend.await;
    // Another that never says a word.
    let mute = RawBackend::saying("", Then::Keep).await;
    proxy.register("stream", backend.address()).await;
    proxy.register("mute", mute.address()).await;
    let listed = async || proxy.status().await["registries"][0]["catalog"]["services"].clone();
    let both = serde_json::json!(["mute", "stream"]);
    eventually("both are listed", listed, |names| *names == both).await;
    let request = |name: &str| format!("GET /{name}/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut streams = Wire::connect(proxy.address()).await;
    streams.send(request("stream")).await;
    assert!(streams.head().await.unwrap().contains("chunked"));
    let mut waits = Wire::connect(proxy.address()).await;
    waits.send(request("mute")).await;
    let asked = async || mute.requests().len();
    eventually("it is asked", asked, |asked| *asked == 1).await;

    let began = Instant::now();
    proxy.drain().await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(700), "{took:?}");
    let rest = streams.rest().await.unwrap_or_default();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it looks whole");
    waits.until_closed().await;
}

/// At the limit of connections, more clients wait: one that was accepted, and those in the queue.
#[tokio::test]
async fn who_waits_for_a_place_when_the_proxy_ends_is_served_first() {
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\nlimits = { connections = 1 }\n";
    let drain = "[drain]\nnotice = \"0s\"\ndeadline = \"1m\"\n";
    let proxy = Proxy::start(&format!("workers = 2\n{ROUTE}{listen}{drain}")).await;
    let backend = RawBackend::saying(ok("well"), Then::Keep).await;
    proxy.register(SERVICE, backend.address()).await;
    let address = proxy.address();
    let request = "GET /cart/x HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut first = Wire::connect(address).await;
    let served = async || first.ask(request).await.status();
    eventually("it is served", served, |status| *status == 200).await;
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let mut client = Wire::connect(address).await;
        client.send(request).await;
        waiting.push(client);
    }
    let began = Instant::now();
    proxy.drain().await;
    for mut client in waiting {
        let got = client.message().await.expect("an answer");
        assert_eq!((got.status(), got.text()), (200, "well"));
        client.until_closed().await;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(20), "at no deadline: {took:?}");
}
