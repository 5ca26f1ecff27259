//! The client of the bench of WebSocket: connections on each of which a message goes to and fro.

use std::{
    error::Error,
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

/// How many bytes a message has, without its frame.
const PAYLOAD: usize = 128;
/// The head of a frame of so many bytes, whole and binary, from a server.
const HEAD: [u8; 4] = [0x82, 126, 0, PAYLOAD as u8];
/// A client's has a mask, here of zeros, so that what is masked is what was said.
const CLIENT_HEAD: [u8; 8] = [0x82, 0x80 | 126, 0, PAYLOAD as u8, 0, 0, 0, 0];

/// What a server sends.
pub(super) const FROM_SERVER: [u8; HEAD.len() + PAYLOAD] = frame(HEAD);
/// What a client sends.
pub(super) const FROM_CLIENT: [u8; CLIENT_HEAD.len() + PAYLOAD] = frame(CLIENT_HEAD);

const fn frame<const H: usize, const F: usize>(head: [u8; H]) -> [u8; F] {
    let mut frame = [b'm'; F];
    let mut at = 0;
    while at < H {
        frame[at] = head[at];
        at += 1;
    }
    frame
}

/// How many messages are on their way at any time.
const CONNECTIONS: usize = 64;

struct Client {
    stream: TcpStream,
    /// How many bytes are still to come of what is awaited.
    awaited: usize,
}

/// Sends messages for so long, and prints how many have come back.
pub(super) fn run(server: SocketAddr, host: &str, seconds: u64) -> Result<(), Box<dyn Error>> {
    let mut poll = Poll::new()?;
    let mut clients = Vec::new();
    for token in 0..CONNECTIONS {
        let mut stream = TcpStream::from_std(upgraded(server, host)?);
        let registry = poll.registry();
        registry.register(&mut stream, Token(token), Interest::READABLE)?;
        stream.write_all(&FROM_CLIENT)?;
        clients.push(Client {
            stream,
            awaited: FROM_SERVER.len(),
        });
    }
    let mut events = Events::with_capacity(CONNECTIONS);
    let (end, mut came) = (Instant::now() + Duration::from_secs(seconds), 0);
    while Instant::now() < end {
        poll.poll(&mut events, Some(Duration::from_secs(10)))?;
        if events.is_empty() {
            return Err("no message came for ten seconds".into());
        }
        for event in &events {
            came += clients[event.token().0].receive()?;
        }
    }
    println!("{came} messages");
    Ok(())
}

/// A connection that has gone over to WebSocket.
fn upgraded(server: SocketAddr, host: &str) -> Result<std::net::TcpStream, Box<dyn Error>> {
    let mut stream = std::net::TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /chat HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(format!("no upgrade: {}", String::from_utf8_lossy(&head)).into());
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

impl Client {
    /// Takes what has come, and answers each whole message; how many those were.
    fn receive(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 2 * FROM_SERVER.len()];
        let mut whole = 0;
        loop {
            let length = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(whole),
                Err(error) => return Err(error),
            };
            self.awaited -= length;
            if self.awaited == 0 {
                self.awaited = FROM_SERVER.len();
                self.stream.write_all(&FROM_CLIENT)?;
                whole += 1;
            }
        }
    }
}
