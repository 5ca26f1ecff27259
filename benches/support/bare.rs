//! The bare epoll programs of the benches, one thread each, four system calls a request at most and
//! nothing else: what a proxy's figures are measured against.
//!
//! `bare relay LISTEN UPSTREAM…` joins each client's connection to one of its own upstream, in
//! turn, and copies bytes both ways without reading them.
//! `bare backend LISTEN…` answers every request that has no body with 117 bytes; one for `/chat` goes
//! over to WebSocket, in which each message is answered with one of the same size.
//! `bare messages SERVER HOST SECONDS` has messages go to and fro at `/chat`.
//!
//! What is not taken by a socket at once ends the connection: the benches' messages are small.

mod messages;

use std::{
    env,
    error::Error,
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: bare\r\n\
    Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
    Content-Type: text/plain\r\n\
    Content-Length: 117\r\n\
    \r\n\
    One hundred and seventeen bytes: enough to be an answer, and too few for their copying to \
    weigh in what is measured.\n";
const GOES_OVER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\
    Connection: Upgrade\r\n\
    Upgrade: websocket\r\n\
    Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\
    \r\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

const USAGE: &str =
    "usage: bare relay LISTEN UPSTREAM… | bare backend LISTEN… | bare messages SERVER HOST SECONDS";

struct Connection {
    stream: TcpStream,
    /// The connection that gets what this one receives; `None` where we answer ourselves.
    peer: Option<usize>,
    /// How much of the end of a request's head the last bytes were.
    matched: usize,
    /// Of a connection that has gone over: how many bytes of a message have come.
    message: Option<usize>,
}

struct Program {
    poll: Poll,
    listeners: Vec<TcpListener>,
    /// Where each new client is joined to, in turn; empty in a backend.
    upstreams: Vec<SocketAddr>,
    accepted: usize,
    /// A connection's token is its place here, after the listeners' tokens.
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let addresses = |texts: &[String]| {
        let parsed = texts.iter().map(|text| text.parse());
        parsed.collect::<Result<Vec<SocketAddr>, _>>()
    };
    let (listen, upstreams) = match arguments.split_first() {
        Some((mode, [listen, upstreams @ ..])) if mode == "relay" && !upstreams.is_empty() => {
            (vec![listen.parse()?], addresses(upstreams)?)
        }
        Some((mode, listen)) if mode == "backend" && !listen.is_empty() => {
            (addresses(listen)?, Vec::new())
        }
        Some((mode, [server, host, seconds])) if mode == "messages" => {
            return messages::run(server.parse()?, host, seconds.parse()?);
        }
        _ => return Err(USAGE.into()),
    };
    Ok(Program::new(&listen, upstreams)?.run()?)
}

impl Program {
    fn new(listen: &[SocketAddr], upstreams: Vec<SocketAddr>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for (token, address) in listen.iter().enumerate() {
            let mut listener = TcpListener::bind(*address)?;
            let registry = poll.registry();
            registry.register(&mut listener, Token(token), Interest::READABLE)?;
            listeners.push(listener);
        }
        Ok(Self {
            poll,
            listeners,
            upstreams,
            accepted: 0,
            connections: Vec::new(),
            free: Vec::new(),
            buffer: vec![0; 64 * 1024],
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                let Token(token) = event.token();
                match token.checked_sub(self.listeners.len()) {
                    None => self.accept(token)?,
                    Some(slot) => {
                        if !matches!(self.receive(slot, event.is_read_closed()), Ok(true)) {
                            self.close(slot);
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        loop {
            let client = match self.listeners[listener].accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let client = self.insert(client)?;
            if !self.upstreams.is_empty() {
                let upstream = self.upstreams[self.accepted % self.upstreams.len()];
                let stream = std::net::TcpStream::connect(upstream)?;
                stream.set_nonblocking(true)?;
                let upstream = self.insert(TcpStream::from_std(stream))?;
                self.join(client, upstream);
                self.join(upstream, client);
            }
            self.accepted += 1;
        }
    }

    fn insert(&mut self, mut stream: TcpStream) -> io::Result<usize> {
        stream.set_nodelay(true)?;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let token = Token(self.listeners.len() + slot);
        let registry = self.poll.registry();
        registry.register(&mut stream, token, Interest::READABLE)?;
        self.connections[slot] = Some(Connection {
            stream,
            peer: None,
            matched: 0,
            message: None,
        });
        Ok(slot)
    }

    fn join(&mut self, from: usize, to: usize) {
        if let Some(connection) = &mut self.connections[from] {
            connection.peer = Some(to);
        }
    }

    /// Takes what has arrived and passes it on or answers it; `false` at the connection's end.
    fn receive(&mut self, slot: usize, closing: bool) -> io::Result<bool> {
        loop {
            let Some(connection) = &mut self.connections[slot] else {
                return Ok(true);
            };
            let length = match connection.stream.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let received = &self.buffer[..length];
            match connection.peer {
                None => connection.answer(received)?,
                Some(peer) => match &mut self.connections[peer] {
                    Some(peer) => peer.stream.write_all(received)?,
                    None => return Ok(false),
                },
            }
            // Readiness is edge-triggered: a read that did not fill the buffer took all there
            // was, unless the end came with it.
            if length < self.buffer.len() && !closing {
                return Ok(true);
            }
        }
    }

    fn close(&mut self, slot: usize) {
        let Some(connection) = self.connections[slot].take() else {
            return;
        };
        self.free.push(slot);
        if let Some(peer) = connection.peer {
            self.close(peer);
        }
    }
}

impl Connection {
    fn answer(&mut self, received: &[u8]) -> io::Result<()> {
        if let Some(come) = &mut self.message {
            *come += received.len();
            while *come >= messages::FROM_CLIENT.len() {
                *come -= messages::FROM_CLIENT.len();
                self.stream.write_all(&messages::FROM_SERVER)?;
            }
            return Ok(());
        }
        if received.starts_with(b"GET /chat ") && received.ends_with(END_OF_HEAD) {
            self.message = Some(0);
            return self.stream.write_all(GOES_OVER);
        }
        for &byte in received {
            self.matched = match self.matched {
                at if byte == END_OF_HEAD[at] => at + 1,
                _ => usize::from(byte == END_OF_HEAD[0]),
            };
            if self.matched == END_OF_HEAD.len() {
                self.matched = 0;
                self.stream.write_all(ANSWER)?;
            }
        }
        Ok(())
    }
}
