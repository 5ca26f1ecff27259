//! Frames of WebSocket, sound and broken (the cases are those of Autobahn's test suite), come back through the proxy
//! byte for byte and end for end as they do without it, by HTTP/1.1 and by HTTP/2, whole and in single bytes.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    accept_async,
    tungstenite::{Error, Message},
};

use super::*;
use crate::support::PATIENCE;

const CONTINUES: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The first bit of a frame: none follows that continues it.
const LAST: u8 = 0x80;

/// A server that says what it hears, and why it hears no more: with the code that RFC 6455 has for it.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            tokio::spawn(answer(socket));
        }
    });
    address
}

async fn answer(socket: TcpStream) {
    let Ok(mut client) = accept_async(socket).await else {
        return;
    };
    let code = loop {
        let said = match client.next().await {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                client.send(message).await
            }
            Some(Ok(_)) => client.flush().await,
            Some(Err(error)) => Err(error),
            None => break None,
        };
        match said {
            Ok(()) => {}
            Err(Error::Protocol(_)) => break Some(1002_u16),
            Err(Error::Utf8(_)) => break Some(1007),
            Err(Error::Capacity(_)) => break Some(1009),
            Err(_) => break None,
        }
    };
    let mut socket = client.into_inner();
    if let Some(code) = code {
        let [high, low] = code.to_be_bytes();
        let _ = socket.write_all(&[LAST | CLOSE, 2, high, low]).await;
    }
    let _ = socket.shutdown().await;
    // To close it with bytes unread would be a reset, which takes what was said.
    let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
}

/// A frame as clients send it, with this first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    mask(&mut frame, payload);
    frame
}

/// Puts the mask behind a header, and the payload by it.
fn mask(frame: &mut Vec<u8>, payload: &[u8]) {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    frame.extend(MASK);
    let masks = MASK.iter().cycle();
    frame.extend(payload.iter().zip(masks).map(|(byte, mask)| byte ^ mask));
}

/// A frame whose header says its length in more bytes than it needs.
fn spun_out(extended: &[u8], payload: &[u8]) -> Vec<u8> {
    let short = if extended.len() == 2 { 126 } else { 127 };
    let mut frame = vec![LAST | BINARY, 0x80 | short];
    frame.extend(extended);
    mask(&mut frame, payload);
    frame
}

fn closing(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(LAST | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// What a client sends, by what it is about.
fn cases() -> Vec<(String, Vec<u8>)> {
    let mut cases = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| cases.push((name.to_owned(), bytes));
    for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 70_000] {
        add("a text", frame(LAST | TEXT, &vec![b'*'; length]));
        add("a message", frame(LAST | BINARY, &vec![0xfe; length]));
    }
    for length in [0, 1, 125, 126] {
        let payload = vec![0xfe; length];
        add("a ping", frame(LAST | PING, &payload));
        add("a pong", frame(LAST | PONG, &payload));
        add("a long close", closing(1000, &vec![b'*'; length]));
    }
    for reserved in [0x10, 0x20, 0x40, 0x70] {
        for kind in [TEXT, PING, CLOSE] {
            add("a reserved bit", frame(LAST | reserved | kind, b""));
        }
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        let before = frame(LAST | TEXT, b"before");
        add(
            "a reserved opcode",
            [before, frame(LAST | opcode, b"x")].concat(),
        );
    }
    let fragments = [
        frame(TEXT, b"one "),
        frame(CONTINUES, b"two "),
        frame(LAST, b"three"),
    ];
    let [first, second, last] = fragments.each_ref().map(|frame| &frame[..]);
    let (ping, text) = (frame(LAST | PING, b"ping"), frame(LAST | TEXT, b"text"));
    for (name, frames) in [
        ("fragments", &[first, second, last][..]),
        (
            "fragments with a ping amid them",
            &[first, &ping, second, &ping, last],
        ),
        ("a fragment of a ping", &[&frame(PING, b"pi"), last]),
        ("a fragment that continues nothing", &[last, &text]),
        ("a text amid fragments", &[first, &text, last]),
        ("fragments without an end", &[first, second]),
        (
            "empty fragments",
            &[&frame(TEXT, b""), &frame(CONTINUES, b""), &frame(LAST, b"")],
        ),
        (
            "a close amid fragments",
            &[first, &closing(1000, b""), last],
        ),
        ("ten pings", &[&ping.repeat(10), &text]),
        ("no mask", &[&[LAST | TEXT, 2, b'n', b'o'], &text]),
        (
            "a length spun out to two bytes",
            &[&spun_out(&[0, 3], b"abc"), &text],
        ),
        (
            "a length spun out to eight bytes",
            &[&spun_out(&[0, 0, 0, 0, 0, 0, 0, 3], b"abc"), &text],
        ),
        (
            "a length beyond measure",
            &[&spun_out(&[0x7f, 0, 0, 0, 0, 0, 0, 0], b"abc"), &text],
        ),
        (
            "a length with its highest bit",
            &[&spun_out(&[0x80, 0, 0, 0, 0, 0, 0, 3], b"abc"), &text],
        ),
        (
            "a message that is too large",
            &[&spun_out(&[0, 0, 1, 0, 0, 0, 0, 0], b"abc"), &text],
        ),
        ("half a header", &[&text, &text[..1]]),
        ("half a mask", &[&text, &text[..4]]),
        ("half a payload", &[&text, &text[..8]]),
        ("nothing", &[]),
        (
            "a frame behind a close",
            &[&closing(1000, b"enough"), &text, &ping],
        ),
        (
            "two that close",
            &[&closing(1000, b""), &closing(1001, b"")],
        ),
        ("an empty close", &[&frame(LAST | CLOSE, b""), &text]),
        ("half a code", &[&frame(LAST | CLOSE, b"\x03"), &text]),
        (
            "a reason that is no text",
            &[&closing(1000, b"\xce\xba\xff"), &text],
        ),
    ] {
        add(name, frames.concat());
    }
    let codes = [
        0, 999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1011, 1012, 1015, 1016,
    ];
    for code in codes
        .into_iter()
        .chain([1100, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 65_535])
    {
        add(&format!("a close by {code}"), closing(code, b"reason"));
    }
    for text in [
        &b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"[..],
        b"\xce\xba\xed\xa0\x80edited",
        b"\xf4\x90\x80\x80",
        b"\xc0\xaf",
        b"\xff",
        b"\xce",
    ] {
        add("a text that may be none", frame(LAST | TEXT, text));
        let (half, rest) = text.split_at(1);
        let pieces = [frame(TEXT, half), frame(LAST, rest)].concat();
        add("the same in fragments", pieces);
    }
    cases
}

/// Frames drawn from the cases, of which some bytes are others.
fn drawn(seed: u64, cases: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..8) {
        bytes.extend(&random.choice(cases).unwrap().1);
    }
    for _ in 0..random.usize(..3) {
        let at = random.usize(..bytes.len().max(1));
        if let Some(byte) = bytes.get_mut(at) {
            *byte = random.u8(..);
        }
    }
    bytes
}

/// Sends these bytes in pieces, and the end, and returns what comes up to the other end.
async fn said<S: AsyncRead + AsyncWrite + Unpin>(
    client: S,
    bytes: &[u8],
    step: usize,
) -> std::io::Result<Vec<u8>> {
    let (mut reading, mut writing) = tokio::io::split(client);
    let sending = async {
        for piece in bytes.chunks(step) {
            writing.write_all(piece).await?;
            writing.flush().await?;
            tokio::task::yield_now().await;
        }
        writing.shutdown().await
    };
    let mut heard = Vec::new();
    let talking = async { tokio::try_join!(sending, reading.read_to_end(&mut heard)) };
    timeout(PATIENCE, talking).await.expect("it ends")?;
    Ok(heard)
}

/// A client by HTTP/1.1, whose connection has gone over.
async fn by_http1(address: SocketAddr) -> TcpStream {
    let mut wire = Wire::connect(address).await;
    wire.send(ASKS).await;
    let head = wire.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // The server speaks when it is spoken to.
    wire.stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_frames_are_sent_the_same_comes_back_as_without_the_proxy() {
    let server = server().await;
    let proxy = before(&[server], "").await;
    let mut http2 = super::connect::http2(&proxy).await;
    let mut cases = cases();
    let random = (0..100).map(|seed| (format!("seed {seed}"), drawn(seed, &cases)));
    let random: Vec<_> = random.collect();
    cases.extend(random);
    for (name, bytes) in &cases {
        let direct = said(by_http1(server).await, bytes, usize::MAX)
            .await
            .unwrap();
        // In single bytes where they are few.
        let steps: &[usize] = match bytes.len() {
            ..500 => &[usize::MAX, 1],
            _ => &[usize::MAX, 16_000],
        };
        for step in steps {
            let client = by_http1(proxy.address()).await;
            let by_http1 = said(client, bytes, *step).await.unwrap();
            let client = super::connect::stream(&mut http2).await;
            let by_http2 = said(client, bytes, *step).await.unwrap();
            let case = format!("{name}, in pieces of {step}: {bytes:02x?}");
            assert!(by_http1 == direct, "by HTTP/1.1, {case}");
            assert!(by_http2 == direct, "by HTTP/2, {case}");
        }
    }
    until_open(&proxy, 0).await;
    assert_eq!(ended(&proxy, "client_reset").await, 0);
    assert_eq!(ended(&proxy, "endpoint_reset").await, 0);
}
