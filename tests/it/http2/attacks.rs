//! What HTTP/2 gives a client to do to a server, done to it: the attacker's connection ends, or its streams do,
//! and others are served meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use super::{before, client, count, get, text, until_count};
use crate::support::{
    backend::Backend,
    frames::{
        ACK, CANCEL, CONTINUATION, DATA, END_STREAM, ENHANCE_YOUR_CALM, Frames, GOAWAY, HEADERS,
        PING, PREFACE, REFUSED_STREAM, WINDOW_UPDATE, block, frame, get as get_frame, head,
        request, reset, settings,
    },
    proxy::Proxy,
    raw::{RawBackend, Then, Wire, ok},
};

/// Runs an attack while another client asks, which is answered each time.
async fn while_others_are_served(proxy: &Proxy, attack: impl Future<Output = ()>) {
    let over = AtomicBool::new(false);
    let mut other = client(proxy.address()).await;
    let asking = async {
        while !over.load(Relaxed) {
            let answer = other.send_request(get("/cart")).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(text(answer).await, "a");
        }
    };
    let attack = async {
        attack.await;
        over.store(true, Relaxed);
    };
    tokio::join!(asking, attack);
}

async fn backend() -> Backend {
    Backend::start("a").await
}

/// Sends the same again and again until the connection ends, and reads meanwhile. Returns why it ended.
async fn flood(client: Frames, bytes: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    client.flood(bytes).await
}

#[tokio::test]
async fn floods_of_frames_that_ask_for_nothing_end_their_connection() {
    let backend = backend().await;
    let proxy = before(backend.address(), "").await;
    let unknown = frame(77, 0, 0, b"");
    let priority = frame(2, 0, 1, &[0, 0, 0, 0, 16]);
    let update = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
    let ping = frame(PING, 0, 0, &[7; 8]);
    // To pings that were never sent.
    let acknowledgement = frame(PING, ACK, 0, &[7; 8]);
    let settings = settings(&[(3, 7)]);
    let floods = [ping, acknowledgement, settings, unknown, priority, update];
    for (number, bytes) in (1..).zip(floods) {
        let attack = async {
            let client = Frames::connect(proxy.address()).await;
            let many = bytes.repeat(50);
            let code = flood(client, |_| many.clone()).await;
            assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{number}");
        };
        while_others_are_served(&proxy, attack).await;
        assert_eq!(count(&proxy, "callboard_http2_floods_total").await, number);
    }
    until_count(&proxy, "callboard_http2_connections", 0).await;
}

#[tokio::test]
async fn a_client_that_reads_no_answers_to_its_pings_has_none_pile_up() {
    let backend = backend().await;
    let proxy = before(backend.address(), "timeout = { write = \"1s\" }").await;
    let attack = async {
        let mut client = Frames::connect(proxy.address()).await;
        let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
        while client.try_send(&pings).await {}
    };
    while_others_are_served(&proxy, attack).await;
    until_count(&proxy, "callboard_http2_connections", 0).await;
}

#[tokio::test]
async fn a_client_that_pings_for_each_message_that_it_reads_is_served_to_the_end() {
    const MESSAGES: usize = 20_000;
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for _ in 0..MESSAGES / 100 {
            wire.send("1\r\na\r\n").await;
            wire.send("1\r\na\r\n".repeat(99)).await;
        }
        wire.send("0\r\n\r\n").await;
        let _ = wire.rest().await;
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect(proxy.address()).await;
    client.send(get_frame(1, "/cart")).await;
    let mut read = 0;
    loop {
        let frame = client.next().await.expect("it goes on");
        assert_ne!(frame.kind, GOAWAY, "after {read}");
        if (frame.kind, frame.stream) != (DATA, 1) {
            continue;
        }
        read += frame.payload.len();
        if frame.ends() {
            break;
        }
        let size = u32::try_from(frame.payload.len()).unwrap().max(1);
        let update = self::frame(WINDOW_UPDATE, 0, 0, &size.to_be_bytes());
        let ping = self::frame(PING, 0, 0, &[7; 8]);
        client.send([update, ping].concat()).await;
    }
    assert_eq!(read, MESSAGES);
}

#[tokio::test]
async fn a_client_whose_window_is_one_byte_is_answered_to_the_end() {
    const BYTES: usize = 5_000;
    let backend = RawBackend::saying(ok("a".repeat(BYTES)), Then::Keep).await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect_with(proxy.address(), &[(4, 1)]).await;
    client.send(get_frame(1, "/cart")).await;
    let update = |stream| frame(WINDOW_UPDATE, 0, stream, &1_u32.to_be_bytes());
    let updates = [update(0), update(1)].concat();
    let mut read = 0;
    loop {
        let frame = client.next().await.expect("it goes on");
        assert_ne!(frame.kind, GOAWAY, "after {read}");
        read += if frame.kind == DATA {
            frame.payload.len()
        } else {
            0
        };
        if frame.ends() {
            break;
        }
        if frame.kind == DATA {
            client.send(&updates).await;
        }
    }
    assert_eq!(read, BYTES);
}

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_their_connection() {
    let backend = backend().await;
    let proxy = before(backend.address(), "").await;
    let attack = async {
        let client = Frames::connect(proxy.address()).await;
        let code = flood(client, |round| {
            let streams = (0..50).map(|place| 1 + 2 * (round * 50 + place));
            let requests = streams.map(|stream| [get_frame(stream, "/cart"), reset(stream)]);
            requests.flatten().flatten().collect()
        });
        code.await;
    };
    while_others_are_served(&proxy, attack).await;
    until_count(&proxy, "callboard_http2_connections", 0).await;
    until_count(&proxy, "callboard_http2_streams", 0).await;
}

#[tokio::test]
async fn a_download_pays_for_no_requests_that_are_taken_back() {
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        while let Some(head) = wire.head().await {
            if !head.starts_with("GET /cart/large") {
                continue;
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
            wire.send(answer).await;
            let piece = [b'a'; 65536];
            while tokio::io::AsyncWriteExt::write_all(&mut wire.stream, &piece)
                .await
                .is_ok()
            {}
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect_with(proxy.address(), &[(4, 16_384)]).await;
    client
        .send(frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes()))
        .await;
    client.send(get_frame(1, "/cart/large")).await;
    // With each piece that is read one more is taken back, which was looked at: a piece paid for 36 of them before.
    let update = frame(WINDOW_UPDATE, 0, 1, &16_384_u32.to_be_bytes());
    let ping = frame(PING, 0, 0, &[7; 8]);
    let mut code = None;
    for number in 1..4_000 {
        let stream = 1 + 2 * number;
        let asks = [&update[..], &get_frame(stream, "/cart"), &ping].concat();
        client.try_send(asks).await;
        let answered = loop {
            match client.any().await {
                Some(frame) if frame.kind == GOAWAY => code = Some(frame.code()),
                Some(frame) if (frame.kind, frame.flags) == (PING, ACK) => break true,
                Some(_) => {}
                None => break false,
            }
        };
        if !answered || !client.try_send(reset(stream)).await {
            break;
        }
    }
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    until_count(&proxy, "callboard_http2_floods_total", 1).await;
}

#[tokio::test]
async fn requests_that_are_taken_back_later_end_their_connection_too() {
    let backend = backend().await;
    let proxy = before(backend.address(), "").await;
    let mut client = Frames::connect_with(proxy.address(), &[(4, 0)]).await;
    // Each has begun, and its head was answered, before it is taken back.
    let mut requests = 0;
    loop {
        let stream = 1 + 2 * requests;
        if !client.try_send(get_frame(stream, "/cart")).await {
            break;
        }
        let Some(_) = client.next().await else { break };
        if !client.try_send(reset(stream)).await {
            break;
        }
        requests += 1;
        assert!(requests < 10_000, "it goes on");
    }
    assert!(requests >= 300, "{requests}");
    until_count(&proxy, "callboard_http2_floods_total", 1).await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_those_within_served() {
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        wire.head().await;
        let _ = wire.rest().await;
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "limits = { streams = 5 }").await;
    let mut client = Frames::connect(proxy.address()).await;
    let heads: Vec<_> = (0..8)
        .map(|place| get_frame(1 + 2 * place, "/cart"))
        .collect();
    client.send(heads.concat()).await;
    for stream in [11, 13, 15] {
        assert_eq!(client.reset_of(stream).await, REFUSED_STREAM);
    }
    until_count(&proxy, "callboard_http2_streams", 5).await;
}

#[tokio::test]
async fn streams_that_the_server_is_led_to_reset_end_the_connection() {
    let backend = backend().await;
    let proxy = before(backend.address(), "").await;
    let attack = async {
        let client = Frames::connect(proxy.address()).await;
        let code = flood(client, |round| {
            let stream = 1 + 2 * round;
            let nothing = frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes());
            [get_frame(stream, "/cart"), nothing].concat()
        });
        code.await;
    };
    while_others_are_served(&proxy, attack).await;
    until_count(&proxy, "callboard_http2_connections", 0).await;
    until_count(&proxy, "callboard_http2_streams", 0).await;
}

#[tokio::test]
async fn a_head_without_end_is_given_up() {
    let backend = backend().await;
    let proxy = before(backend.address(), "").await;
    let attack = async {
        let mut client = Frames::connect(proxy.address()).await;
        client
            .send(frame(HEADERS, 0, 1, &block(&request("GET", "/cart", &[]))))
            .await;
        let empty = frame(CONTINUATION, 0, 1, b"");
        assert_eq!(
            flood(client, |_| empty.clone()).await,
            Some(ENHANCE_YOUR_CALM)
        );
        let mut client = Frames::connect(proxy.address()).await;
        client
            .send(frame(HEADERS, 0, 1, &block(&request("GET", "/cart", &[]))))
            .await;
        let large = "a".repeat(16_000);
        let large = frame(CONTINUATION, 0, 1, &block(&[("x", &large)]));
        flood(client, |_| large.clone()).await;
    };
    while_others_are_served(&proxy, attack).await;
    until_count(&proxy, "callboard_http2_connections", 0).await;
}

#[tokio::test]
async fn a_small_head_that_unfolds_into_a_large_one_is_refused() {
    let backend = backend().await;
    let proxy = before(backend.address(), "").await;
    let attack = async {
        let mut client = Frames::connect(proxy.address()).await;
        for stream in (1..40).step_by(2) {
            // A field of 3,000 bytes goes into the table, and is then named by one byte each time. The last
            // one is larger than is worth reading to its end.
            let mut bomb = block(&request("GET", "/cart", &[]));
            bomb.extend([0x40, 1, b'x', 127, 0xb9, 0x16]);
            bomb.extend([b'a'; 3000]);
            let times = if stream < 39 { 50 } else { 10_000 };
            bomb.extend(vec![0xbe; times]);
            client
                .send(frame(HEADERS, 0x4 | END_STREAM, stream, &bomb))
                .await;
            if stream < 39 {
                assert_eq!(client.answer(stream).await.0, 431);
            }
        }
        assert!(client.goaway().await.is_some());
    };
    while_others_are_served(&proxy, attack).await;
    // Beside those of the other client there was none.
    until_count(&proxy, "callboard_http2_streams", 0).await;
}

#[tokio::test]
async fn a_preface_or_a_head_that_comes_slowly_is_cut() {
    let backend = backend().await;
    let proxy = before(
        backend.address(),
        "timeout = { header = \"1s\", idle = \"1h\" }",
    )
    .await;
    let whole = frame(HEADERS, 0x5, 1, &block(&request("GET", "/cart", &[])));
    let begun = [PREFACE, &settings(&[])].concat();
    let unended = frame(HEADERS, 0, 1, b"");
    for (sent, slowly) in [
        (PREFACE[..10].to_vec(), &PREFACE[10..20]),
        ([&begun[..], &whole[..12]].concat(), &whole[12..20]),
        ([&begun[..], &unended].concat(), &unended[..8]),
    ] {
        let mut client = Frames::silent(proxy.address()).await;
        client.send(&sent).await;
        for byte in slowly {
            if !client.try_send([*byte]).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let end = client.goaway().await;
        assert_eq!(end, None, "{sent:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_its_stream_alone() {
    let backend = backend().await;
    let proxy = before(backend.address(), "timeout = { body = \"1s\" }").await;
    let mut client = Frames::connect(proxy.address()).await;
    client
        .send(head(1, 0, &request("POST", "/cart", &[])))
        .await;
    client.send(frame(DATA, 0, 1, b"a")).await;
    assert_eq!(client.reset_of(1).await, CANCEL);
    client.send(get_frame(3, "/cart")).await;
    assert_eq!(client.answer(3).await.0, 200);
    assert_eq!(count(&proxy, "callboard_http2_streams_late_total").await, 1);
}

#[tokio::test]
async fn an_answer_of_one_piece_that_is_not_taken_ends_its_stream() {
    let answer = ok("a".repeat(6_000));
    let backend = RawBackend::saying(answer, Then::Keep).await;
    let proxy = before(backend.address(), "timeout = { write = \"1s\" }").await;
    let mut client = Frames::connect_with(proxy.address(), &[(4, 1_000)]).await;
    client.send(get_frame(1, "/cart")).await;
    let frames = client.all_of(1).await;
    let taken = frames.iter().filter(|frame| frame.kind == DATA);
    assert_eq!(taken.map(|frame| frame.payload.len()).sum::<usize>(), 1_000);
    assert_eq!(frames.last().unwrap().kind, 3, "{frames:?}");
    assert_eq!(count(&proxy, "callboard_http2_streams_late_total").await, 1);
    // A window that is as large as the answer is large enough, and so is one that opens in time.
    for window in [6_000, 1_000] {
        let mut client = Frames::connect_with(proxy.address(), &[(4, window)]).await;
        client.send(get_frame(1, "/cart")).await;
        let more = (6_000 - window).max(1).to_be_bytes();
        client.send(frame(WINDOW_UPDATE, 0, 1, &more)).await;
        assert_eq!(client.answer(1).await, (200, vec![b'a'; 6_000]));
    }
}

#[tokio::test]
async fn answers_that_are_not_taken_end_their_streams_and_hold_little_until_then() {
    let backend = RawBackend::serving(|mut wire: Wire| async move {
        while wire.head().await.is_some() {
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";
            wire.send(answer).await;
            let piece = [b'a'; 65536];
            while tokio::io::AsyncWriteExt::write_all(&mut wire.stream, &piece)
                .await
                .is_ok()
            {}
        }
    });
    let backend = backend.await;
    let proxy = before(backend.address(), "timeout = { write = \"1s\" }").await;
    // Windows of nothing, and of one byte.
    for window in [0, 1] {
        let mut client = Frames::connect_with(proxy.address(), &[(4, window)]).await;
        let heads: Vec<_> = (0..20)
            .map(|place| get_frame(1 + 2 * place, "/cart"))
            .collect();
        client.send(heads.concat()).await;
        let mut ended = 0;
        while ended < 20 {
            let frame = client.next().await.unwrap();
            ended += usize::from(frame.kind == 3);
        }
        client.send(get_frame(41, "/nothing")).await;
        let mut status = None;
        while status.is_none() {
            let frame = client.next().await.unwrap();
            status = (frame.stream == 41).then(|| frame.status());
        }
        assert_eq!(status, Some(404));
    }
    assert_eq!(
        count(&proxy, "callboard_http2_streams_late_total").await,
        40
    );
    // The socket takes nothing: the connection ends.
    let mut client = Frames::connect_with(proxy.address(), &[(4, 0x7fff_ffff)]).await;
    client
        .send(frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes()))
        .await;
    client.send(get_frame(1, "/cart")).await;
    // Its stream stands for a second only.
    until_count(&proxy, "callboard_http2_requests_total", 43).await;
    until_count(&proxy, "callboard_http2_streams", 0).await;
}
