//! A real client and a real server of WebSocket speak through the proxy as they do without it.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::*;

/// A server that says what it hears, and how its connections were closed.
pub(super) async fn server() -> (
    SocketAddr,
    tokio::sync::mpsc::UnboundedReceiver<Option<CloseCode>>,
) {
    let (closed, closes) = tokio::sync::mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let closed = closed.clone();
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(socket).await else {
                    return;
                };
                while let Some(Ok(message)) = socket.next().await {
                    match message {
                        Message::Text(_) | Message::Binary(_) => {
                            let said = socket.send(message).await;
                            said.unwrap();
                        }
                        Message::Close(frame) => {
                            // The client may be gone with the test.
                            let _ = closed.send(frame.map(|frame| frame.code));
                        }
                        _ => {}
                    }
                }
            });
        }
    });
    (address, closes)
}

pub(super) async fn client(address: SocketAddr) -> WebSocketStream<TcpStream> {
    let socket = TcpStream::connect(address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let opened = client_async("ws://localhost/cart", socket).await;
    opened.unwrap().0
}

fn drawn(random: &mut fastrand::Rng) -> Message {
    let length = match random.u8(..) {
        0..=99 => random.usize(..126),
        100..=199 => random.usize(..5_000),
        200..=249 => random.usize(65_000..66_000),
        _ => random.usize(..1_000_000),
    };
    match random.u8(..4) {
        0 => Message::Text("x".repeat(length).into()),
        1 => Message::Ping(vec![1; length.min(125)].into()),
        2 => Message::Pong(vec![2; length.min(125)].into()),
        _ => Message::Binary(vec![random.u8(..); length].into()),
    }
}

/// What comes back for messages that are drawn from this seed, up to the close.
pub(super) async fn spoken<S: AsyncRead + AsyncWrite + Unpin>(
    client: WebSocketStream<S>,
    seed: u64,
) -> Vec<Message> {
    let mut random = fastrand::Rng::with_seed(seed);
    let count = random.usize(1..60);
    let (mut saying, hearing) = client.split();
    let said = async move {
        for _ in 0..count {
            saying.feed(drawn(&mut random)).await.unwrap();
            if random.bool() {
                saying.flush().await.unwrap();
            }
        }
        let code = CloseCode::Library(3_000 + (seed % 1_000) as u16);
        let reason = "enough".into();
        let close = Message::Close(Some(CloseFrame { code, reason }));
        saying.send(close).await.unwrap();
        saying
    };
    let heard = hearing.map(Result::unwrap).collect::<Vec<_>>();
    let (_, heard) = tokio::join!(said, heard);
    // Pongs answer pings, of which a server may pass some over.
    let is_not_pong = |message: &Message| !message.is_pong();
    heard.into_iter().filter(is_not_pong).collect()
}

#[tokio::test]
async fn random_messages_come_back_as_they_do_without_the_proxy() {
    let (server, _closes) = server().await;
    let proxy = before(&[server], "").await;
    for seed in 0..40 {
        let (through, direct) = (
            spoken(client(proxy.address()).await, seed).await,
            spoken(client(server).await, seed).await,
        );
        assert!(
            through == direct,
            "{seed}: {} and {}",
            through.len(),
            direct.len()
        );
    }
    until_open(&proxy, 0).await;
}

#[tokio::test]
async fn both_sides_understand_that_the_proxy_goes_away() {
    let (server, mut closes) = server().await;
    let proxy = before(&[server], "").await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = client(proxy.address()).await;
        client.send("hello".into()).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), "hello".into());
        clients.push(client);
    }
    let draining = tokio::spawn(proxy.drain());
    for mut client in clients {
        let Some(Ok(Message::Close(Some(frame)))) = client.next().await else {
            panic!("it is not told");
        };
        assert_eq!(frame.code, CloseCode::Away);
        assert_eq!(closes.recv().await.unwrap(), Some(CloseCode::Away));
    }
    draining.await.unwrap();
}
