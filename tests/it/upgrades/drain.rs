//! A tunnel goes on until the drain deadline of its endpoint, or of the proxy. Then both sides are told,
//! never amid a frame.

use std::time::{Duration, Instant};

use super::*;

/// A frame with this payload, as a client sends it.
fn masked(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | payload.len() as u8, 1, 2, 3, 4];
    let mask = [1, 2, 3, 4].iter().cycle();
    frame.extend(payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Whether this is the frame by which the proxy says to an endpoint that it goes away.
fn goes_away(frame: &[u8]) -> bool {
    frame.len() == 8
        && frame[..2] == [0x88, 0x82]
        && [frame[6] ^ frame[2], frame[7] ^ frame[3]] == [3, 0xe9]
}

/// A backend that says what it has heard when it has heard all.
async fn hearing() -> (RawBackend, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let (heard, hears) = tokio::sync::mpsc::unbounded_channel();
    let backend = switching(move |mut wire| {
        let heard = heard.clone();
        async move {
            heard.send(wire.rest().await.unwrap_or_default()).unwrap();
        }
    })
    .await;
    (backend, hears)
}

#[tokio::test]
async fn a_tunnel_outlives_its_endpoints_sign_out_up_to_the_drain_deadline() {
    let echo = echoing().await;
    let config = "[service.cart]\ndrain = \"3s\"\nguard = false\n";
    let proxy = before(&[echo.address()], config).await;
    let mut client = opened(&proxy).await;
    let since = Instant::now();
    proxy.deregister("cart", echo.address()).await;
    proxy
        .until_states("cart", &[(echo.address(), "draining")])
        .await;
    let (_, head) = asked(&proxy, ASKS).await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let service = until_open(&proxy, 1).await;
    assert_eq!(service["endpoints"][0]["state"], "draining", "{service}");
    client.send(masked(b"hello")).await;
    assert_eq!(client.bytes(11).await, masked(b"hello"));
    assert_eq!(client.rest().await.unwrap(), GOING_AWAY);
    assert!(
        since.elapsed() >= Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );
    until_ended(&proxy, "removed", 1).await;
    until_open(&proxy, 0).await;
}

#[tokio::test]
async fn an_endpoint_that_is_back_in_time_keeps_its_tunnels() {
    let echo = echoing().await;
    let config = "[service.cart]\ndrain = \"3s\"\nguard = false\n";
    let proxy = before(&[echo.address()], config).await;
    let mut client = opened(&proxy).await;
    proxy.deregister("cart", echo.address()).await;
    proxy
        .until_states("cart", &[(echo.address(), "draining")])
        .await;
    proxy.register("cart", echo.address()).await;
    proxy
        .until_states("cart", &[(echo.address(), "serving")])
        .await;
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    client.send(masked(b"hello")).await;
    assert_eq!(client.bytes(11).await, masked(b"hello"));
}

#[tokio::test]
async fn a_frame_that_has_begun_is_passed_on_to_its_end_before_the_word_of_the_end() {
    let (backend, mut hears) = hearing().await;
    let config = "[service.cart]\ndrain = \"1s\"\nguard = false\n";
    let proxy = before(&[backend.address()], config).await;
    let frame = masked(&[7; 100]);
    let mut client = opened(&proxy).await;
    client.send(&frame[..20]).await;
    proxy.deregister("cart", backend.address()).await;
    assert_eq!(client.bytes(4).await, GOING_AWAY);
    // What follows the frame is thrown away.
    client
        .send([&frame[20..], &masked(b"more")[..]].concat())
        .await;
    let heard = hears.recv().await.unwrap();
    let (first, last) = heard.split_at(frame.len());
    assert!(first == frame && goes_away(last), "{heard:?}");
    client.until_closed().await;

    proxy.register("cart", backend.address()).await;
    proxy
        .until_states("cart", &[(backend.address(), "serving")])
        .await;
    let mut client = opened(&proxy).await;
    client.send(&frame[..20]).await;
    proxy.deregister("cart", backend.address()).await;
    assert_eq!(client.bytes(4).await, GOING_AWAY);
    // One that never ends is no reason to wait, and has no word put inside it.
    assert_eq!(hears.recv().await.unwrap(), &frame[..20]);
    until_ended(&proxy, "removed", 2).await;
}

#[tokio::test]
async fn two_hundred_tunnels_are_all_told_when_the_proxy_ends_and_none_before_the_deadline() {
    const TUNNELS: usize = 200;
    let (backend, mut hears) = hearing().await;
    let config = "[drain]\nnotice = \"0s\"\ndeadline = \"2s\"\n";
    let proxy = before(&[backend.address()], config).await;
    let mut clients = Vec::new();
    for _ in 0..TUNNELS {
        clients.push(opened(&proxy).await);
    }
    until_open(&proxy, TUNNELS as u64).await;
    let began = Instant::now();
    let draining = tokio::spawn(proxy.drain());
    let mut ended = Vec::new();
    for (at, mut client) in clients.into_iter().enumerate() {
        ended.push(tokio::spawn(async move {
            // Some have a word to say meanwhile, and some say it all the time.
            let word = masked(b"hello");
            client.send(&word).await;
            let told = client.rest().await;
            (at, told, Instant::now())
        }));
    }
    for ended in ended {
        let (at, told, when) = ended.await.unwrap();
        assert_eq!(told.unwrap(), GOING_AWAY, "{at}");
        assert!(
            when - began >= Duration::from_secs(2),
            "{at}: {:?}",
            when - began
        );
    }
    for _ in 0..TUNNELS {
        let heard = hears.recv().await.unwrap();
        let (word, last) = heard.split_at(11);
        assert!(word == masked(b"hello") && goes_away(last), "{heard:?}");
    }
    draining.await.unwrap();
}

/// Clients take no `101` that says `close` besides.
#[tokio::test]
async fn a_handshake_that_is_under_way_when_the_proxy_begins_to_end_is_whole() {
    let ((asked, asks), (may_answer, gate)) = (gate(), gate());
    let backend = RawBackend::serving(move |mut wire| {
        let (asks, gate) = (Arc::clone(&asks), Arc::clone(&gate));
        async move {
            if wire.head().await.is_some() {
                asks.add_permits(1);
                gate.acquire().await.unwrap().forget();
                wire.send(SWITCHES).await;
                echo(wire).await;
            }
        }
    })
    .await;
    let config = "[drain]\nnotice = \"0s\"\ndeadline = \"20s\"\n";
    let proxy = before(&[backend.address()], config).await;
    let mut client = Wire::connect(proxy.address()).await;
    client.send(ASKS).await;
    asked.acquire().await.unwrap().forget();
    let mut idle = Wire::connect(proxy.address()).await;
    let got = idle.ask("GET /none HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(got.status(), 404);
    let draining = tokio::spawn(proxy.drain());
    // All connections are told in one go.
    idle.until_closed().await;
    may_answer.add_permits(1);
    let got = message(client.head().await.unwrap());
    assert_eq!(got.fields("connection"), ["upgrade"], "{}", got.head);
    client.send(masked(b"hello")).await;
    assert_eq!(client.bytes(11).await, masked(b"hello"));
    drop(client);
    draining.await.unwrap();
}

#[tokio::test]
async fn an_upgrade_that_is_refused_while_the_proxy_ends_ends_its_connection() {
    let ((asked, asks), (may_answer, gate)) = (gate(), gate());
    let backend = RawBackend::serving(move |mut wire| {
        let (asks, gate) = (Arc::clone(&asks), Arc::clone(&gate));
        async move {
            if wire.head().await.is_some() {
                asks.add_permits(1);
                gate.acquire().await.unwrap().forget();
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
                    .await;
                wire.until_closed().await;
            }
        }
    })
    .await;
    let config = "[drain]\nnotice = \"0s\"\ndeadline = \"20s\"\n";
    let proxy = before(&[backend.address()], config).await;
    let mut client = Wire::connect(proxy.address()).await;
    client.send(ASKS).await;
    asked.acquire().await.unwrap().forget();
    let draining = tokio::spawn(proxy.drain());
    may_answer.add_permits(1);
    let got = client.message().await.unwrap();
    assert_eq!((got.status(), got.text()), (200, "no"));
    client.until_closed().await;
    draining.await.unwrap();
}

#[tokio::test]
async fn a_client_that_sends_without_an_end_is_told_and_cut() {
    let (backend, mut hears) = hearing().await;
    let config = "[service.cart]\ndrain = \"1s\"\nguard = false\n";
    let proxy = before(&[backend.address()], config).await;
    let client = opened(&proxy).await;
    let (mut reading, mut writing) = client.stream.into_split();
    let sending = tokio::spawn(async move {
        let frames = masked(&[7; 100]).repeat(50);
        while tokio::io::AsyncWriteExt::write_all(&mut writing, &frames)
            .await
            .is_ok()
        {}
    });
    proxy.deregister("cart", backend.address()).await;
    let mut told = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut reading, &mut told)
        .await
        .unwrap();
    assert_eq!(told, GOING_AWAY);
    let heard = hears.recv().await.unwrap();
    let (frames, last) = heard.split_at(heard.len() - 8);
    assert!(
        frames.len().is_multiple_of(106) && goes_away(last),
        "{}",
        heard.len()
    );
    sending.await.unwrap();
    until_open(&proxy, 0).await;
}

#[tokio::test]
async fn another_protocol_than_websocket_ends_without_a_word() {
    let backend = RawBackend::serving(|mut wire| async move {
        if wire.head().await.is_some() {
            wire.send(SWITCHES.replace("websocket", "tcp")).await;
            echo(wire).await;
        }
    })
    .await;
    let config = "upgrades = \"tcp\"\n[service.cart]\ndrain = \"1s\"\nguard = false\n";
    let proxy = before(&[backend.address()], config).await;
    let (mut client, head) = asked(&proxy, &ASKS.replace("websocket", "tcp")).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    client.send("hello").await;
    assert_eq!(client.bytes(5).await, b"hello");
    proxy.deregister("cart", backend.address()).await;
    client.until_closed().await;
    until_ended(&proxy, "removed", 1).await;
}
