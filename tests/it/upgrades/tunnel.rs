//! Bytes go through a tunnel as they are, each side's end and its time are heeded, and nothing piles up.

use std::time::Duration;

use tokio::{io::AsyncWriteExt as _, time::timeout};

use super::*;

pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..))
        .take(length)
        .collect()
}

#[tokio::test]
async fn bytes_come_back_as_they_were_sent_however_many_and_in_whatever_pieces() {
    let echo = echoing().await;
    let proxy = before(&[echo.address()], "").await;
    for seed in 0..8 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes = noise(seed, random.usize(1..2_000_000));
        let client = opened(&proxy).await;
        let (mut reading, mut writing) = client.stream.into_split();
        let sent = bytes.clone();
        let sending = async move {
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let piece = random.usize(1..=rest.len().min(100_000));
                writing.write_all(&rest[..piece]).await.unwrap();
                rest = &rest[piece..];
                if random.bool() {
                    tokio::task::yield_now().await;
                }
            }
            // It has no more to say, and hears on.
            writing.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let reading = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut got);
        let (_, read) = tokio::join!(sending, reading);
        read.unwrap();
        assert!(got == bytes, "{seed}: {} of {}", got.len(), bytes.len());
    }
    until_ended(&proxy, "client", 8).await;
}

#[tokio::test]
async fn an_end_of_one_direction_leaves_the_other_open() {
    let (may_end, gate) = gate();
    let backend = switching(move |mut wire| {
        let gate = Arc::clone(&gate);
        async move {
            // It says its last word first, and hears to the end.
            wire.send("word").await;
            wire.stream.shutdown().await.unwrap();
            assert_eq!(wire.rest().await.unwrap(), b"answer");
            gate.acquire().await.unwrap().forget();
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = opened(&proxy).await;
    assert_eq!(client.rest().await.unwrap(), b"word");
    until_open(&proxy, 1).await;
    client.send("answer").await;
    client.stream.shutdown().await.unwrap();
    until_open(&proxy, 0).await;
    until_ended(&proxy, "endpoint", 1).await;
    may_end.add_permits(1);
}

#[tokio::test]
async fn a_reset_of_one_side_is_a_reset_of_the_other() {
    let (heard, hears) = gate();
    let backend = switching(move |mut wire| {
        let hears = Arc::clone(&hears);
        async move {
            assert!(wire.rest().await.is_err(), "the end is a reset");
            hears.add_permits(1);
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    let client = opened(&proxy).await;
    client.stream.set_zero_linger().unwrap();
    drop(client);
    heard.acquire().await.unwrap().forget();
    until_ended(&proxy, "client_reset", 1).await;

    let backend = switching(|wire| async move { wire.stream.set_zero_linger().unwrap() }).await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = opened(&proxy).await;
    assert!(client.rest().await.is_err(), "the end is a reset");
    until_ended(&proxy, "endpoint_reset", 1).await;
    until_open(&proxy, 0).await;
}

#[tokio::test]
async fn what_a_side_has_said_to_its_end_is_not_lost_with_its_reset() {
    const CLOSES: [u8; 4] = [0x88, 2, 3, 0xe8];
    let backend = switching(|mut wire| async move {
        wire.send(CLOSES).await;
        wire.stream.set_zero_linger().unwrap();
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = opened(&proxy).await;
    assert_eq!(client.rest().await.unwrap(), CLOSES);
    until_ended(&proxy, "endpoint_reset", 1).await;
    drop(client);
    until_open(&proxy, 0).await;
}

/// What a side does not take is not read of the other.
#[tokio::test]
async fn a_side_that_takes_nothing_stops_the_other_and_loses_nothing() {
    let (may_read, gate) = gate();
    let backend = switching(move |mut wire| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            echo_all(&mut wire).await;
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = opened(&proxy).await;
    let bytes = noise(1, 64 * 1024 * 1024);
    let mut sent = 0;
    let a_while = Duration::from_millis(500);
    while let Ok(count) = timeout(a_while, client.stream.write(&bytes[sent..])).await {
        sent += count.unwrap();
    }
    assert!(sent < bytes.len() / 2, "{sent} bytes were taken");
    may_read.add_permits(1);
    let mut got = vec![0; sent];
    tokio::io::AsyncReadExt::read_exact(&mut client.stream, &mut got)
        .await
        .unwrap();
    assert!(got == bytes[..sent]);
}

async fn echo_all(wire: &mut Wire) {
    while let Ok(bytes) = wire.some().await {
        if wire.stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_silent_tunnel_ends_after_its_time_out_and_both_sides_are_told() {
    let (told, tells) = gate();
    let backend = switching(move |mut wire| {
        let tells = Arc::clone(&tells);
        async move {
            let frame = wire.rest().await.unwrap();
            assert_eq!(frame.len(), 8, "{frame:?}");
            let code = [frame[6] ^ frame[2], frame[7] ^ frame[3]];
            assert_eq!((&frame[..2], code), (&[0x88, 0x82][..], [3, 0xe9]));
            tells.add_permits(1);
        }
    })
    .await;
    let config = "timeout.tunnel = \"1s\"\n[service.cart]\ntimeout = { tunnel = false }\n";
    let proxy = before(&[backend.address()], config).await;
    let mut client = opened(&proxy).await;
    assert_eq!(client.rest().await.unwrap(), GOING_AWAY);
    told.acquire().await.unwrap().forget();
    until_ended(&proxy, "idle", 1).await;
}

/// Those of a client's head, body and idle connection, and those of an answer.
#[tokio::test]
async fn no_other_time_out_ends_a_tunnel() {
    let echo = echoing().await;
    let config = "[[listen]]\naddress = \"127.0.0.1:0\"\ntimeout = { header = \"600ms\", \
        body = \"600ms\", write = \"600ms\", idle = \"500ms\" }\n\
        [defaults]\ntimeout = { response = \"600ms\", idle = \"500ms\", total = \"700ms\" }\n";
    let proxy = before(&[echo.address()], config).await;
    let mut client = opened(&proxy).await;
    for _ in 0..2 {
        let silence = timeout(Duration::from_millis(1_500), client.some()).await;
        assert!(silence.is_err(), "{silence:?}");
        client.send("still there").await;
        assert_eq!(client.bytes(11).await, b"still there");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_opens_no_tunnel() {
    let (asked, asks) = gate();
    let backend = RawBackend::serving(move |mut wire| {
        let asks = Arc::clone(&asks);
        async move {
            if wire.head().await.is_some() {
                asks.add_permits(1);
                wire.until_closed().await;
            }
        }
    })
    .await;
    let proxy = before(&[backend.address()], "").await;
    let mut client = Wire::connect(proxy.address()).await;
    client.send(ASKS).await;
    asked.acquire().await.unwrap().forget();
    drop(client);
    // The request is counted as abandoned before what it held is given back.
    let abandoned =
        |service: &Value| service["abandoned"] == 1 && service["endpoints"][0]["in_flight"] == 0;
    let service = proxy
        .until_service("cart", "it is abandoned", abandoned)
        .await;
    assert_eq!(service["tunnels"], 0);
}
